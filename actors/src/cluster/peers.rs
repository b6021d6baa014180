//! Raft's way to the other nodes over the links, and the links' view of the membership.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Weak;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::timeout;
use zoneward_consensus::limits::{CHUNK_WAIT_MS, FRAME_LEN_MAX};
use zoneward_consensus::model::State;
use zoneward_consensus::raft::{Answer, Peer, Peers, SendError};
use zoneward_sectors::ids::{NodeId, ZoneId};
use zoneward_transport::limits::{DEADLINE_MS_MAX, RPC_BODY_MAX};
use zoneward_transport::{CallError, Endpoint, Member, MemberView, Members, MembersError, kind};

use super::{LOOK_MS, Parts};

// Every message of the consensus must fit a call, and the longest it waits for a call's deadline.
const _: () = assert!(FRAME_LEN_MAX <= RPC_BODY_MAX && CHUNK_WAIT_MS <= DEADLINE_MS_MAX as u64);

/// The links, as raft sees them.
pub(super) struct Links(pub Endpoint);

impl Peers for Links {
    fn send<'a>(&'a self, to: NodeId, _: &'a Peer, request: Vec<u8>) -> Answer<'a> {
        Box::pin(async move {
            // raft drops the call when its own, shorter time is over.
            let wait = Duration::from_millis(CHUNK_WAIT_MS);
            self.0.call(to, kind::RAFT, &request, wait).await.map_err(|e| match e {
                CallError::Deadline { .. } => SendError::Timeout(to),
                CallError::Refused { source, .. } => SendError::Refused(to, source.text),
                e => SendError::Unreachable(to, io::Error::other(e)),
            })
        })
    }
}

/// The numbers of the nodes' last starts that the zone knows of: what shows less runs on an old copy of its disk.
fn starts(state: &State) -> BTreeMap<NodeId, u64> {
    state.nodes.values().map(|n| (n.id, n.incarnation)).collect()
}

/// The membership for the links. A node without a key was never on a network: nobody can be it.
pub(super) fn members(
    zone: ZoneId,
    revision: u64,
    nodes: &BTreeMap<NodeId, Peer>,
    starts: &BTreeMap<NodeId, u64>,
    (me, key): (NodeId, &str),
) -> Result<Members, MembersError> {
    let keys = nodes.iter().map(|(id, peer)| (*id, if *id == me { key } else { &peer.public_key[..] }));
    let known = keys.filter_map(|(id, key)| {
        let key: [u8; 32] = STANDARD.decode(key).ok()?.try_into().ok()?;
        Some((id, Member { key, incarnation_min: starts.get(&id).copied().unwrap_or(0) }))
    });
    Members::new(zone, revision, known)
}

/// Tells the links where the others are. A name that does not resolve now is tried again when the members change.
pub(super) async fn set_addresses(endpoint: &Endpoint, me: NodeId, nodes: &BTreeMap<NodeId, Peer>) {
    for (id, peer) in nodes.iter().filter(|(id, p)| **id != me && !p.address.is_empty()) {
        let found: Vec<SocketAddr> = match peer.address.parse() {
            Ok(address) => vec![address],
            Err(_) => tokio::net::lookup_host(&peer.address).await.map(Iterator::collect).unwrap_or_default(),
        };
        if !found.is_empty() {
            // It fails only for a node that was removed meanwhile.
            let _ = endpoint.set_addresses(*id, &found);
        }
    }
}

/// Keeps the links' membership that of the zone, until the node stops.
pub(super) async fn follow(parts: Weak<Parts>, view: MemberView, shown: BTreeMap<NodeId, Peer>) {
    let mut applied = None;
    let mut shown = (shown, BTreeMap::new());
    loop {
        let Some(p) = parts.upgrade() else { return };
        let now = (p.consensus.known(), starts(&p.consensus.view()));
        // A node that has joined and has no log yet goes on with those it was introduced to.
        if now != shown && !now.0.is_empty() {
            let snapshot = view.snapshot();
            // A membership with two nodes of one key is refused and the one before it stays in force.
            let next = members(snapshot.zone(), snapshot.revision() + 1, &now.0, &now.1, (p.me, &p.key));
            if next.and_then(|next| view.update(next)).is_ok() && now.0 != shown.0 {
                set_addresses(&p.endpoint, p.me, &now.0).await;
            }
            shown = now;
        }
        let consensus = p.consensus.clone();
        drop(p);
        match timeout(Duration::from_millis(LOOK_MS), consensus.applied_beyond(applied)).await {
            Ok(Some(index)) => applied = Some(index),
            Ok(None) => return,
            Err(_) => {}
        }
    }
}
