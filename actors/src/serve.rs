//! What a node answers other nodes besides raft: how it does, and changes of members on their way to the leader.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zoneward_consensus::raft::Peer;
use zoneward_sectors::ids::{CopyId, NodeId};
use zoneward_transport::wire::Retry;
use zoneward_transport::{Boxed, Handler, Refusal, kind};

use crate::cluster::CommandError;
use crate::errors::ZoneError;
use crate::node::Node;

/// A change of who belongs to the zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum MemberChange {
    /// It gets the log and no vote.
    Add {
        node: NodeId,
        public_key: String,
    },
    Promote {
        node: NodeId,
    },
    /// It keeps the log and loses its vote.
    Demote {
        node: NodeId,
    },
    /// Nobody listens to it any more.
    Remove {
        node: NodeId,
    },
}

/// How long a change may take: two sets of voters have to agree.
const CHANGE_MS: u64 = 15_000;

/// Serves other nodes.
pub fn serve(node: &Arc<Node>) {
    let services = node.cluster.services();
    services.serve(kind::REPORT, Arc::new(Report(Arc::downgrade(node))));
    services.serve(kind::MEMBERS, Arc::new(Members(Arc::downgrade(node))));
    services.serve(kind::READ, Arc::new(Read(Arc::downgrade(node))));
    services.serve(kind::OWNER_KEY, Arc::new(crate::keyfile::Hand(Arc::downgrade(node))));
    services.serve(kind::HEAD, Arc::new(crate::cosign::Hand(Arc::downgrade(node))));
    services.serve(kind::SECRET, Arc::new(crate::secrets::Hand(Arc::downgrade(node))));
}

/// A range of a copy's stored bytes, as it lies on its target.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadCopy {
    pub copy: CopyId,
    pub offset: u64,
    pub len: u32,
}

/// Bytes of one answer.
pub const READ_LEN_MAX: u32 = 1 << 20;

struct Read(Weak<Node>);

impl Handler for Read {
    fn handle(&self, _: NodeId, body: Vec<u8>) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            let node = alive(&self.0)?;
            let range: ReadCopy = question(&body, "the range")?;
            if range.len > READ_LEN_MAX {
                return Err(Refusal::new(Retry::Never, format!("at most {READ_LEN_MAX} bytes are sent at once")));
            }
            // A disk may take its time: consensus and links do not wait for it.
            let read = tokio::task::spawn_blocking(move || node.read_copy(range));
            let read = read.await.map_err(|e| Refusal::new(Retry::Later, e.to_string()))?;
            read.map_err(|e| Refusal::new(Retry::Later, crate::open::chain(&e)))
        })
    }
}

/// What answers, as long as it is there.
pub(crate) fn alive<T>(it: &Weak<T>) -> Result<Arc<T>, Refusal> {
    it.upgrade().ok_or_else(|| Refusal::new(Retry::Later, "this node is stopping"))
}

/// What another node asks for.
pub(crate) fn question<T: DeserializeOwned>(body: &[u8], what: &str) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|e| Refusal::new(Retry::Never, format!("{what} cannot be read: {e}")))
}

struct Report(Weak<Node>);

impl Handler for Report {
    fn handle(&self, _: NodeId, _: Vec<u8>) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            let report = alive(&self.0)?.report();
            serde_json::to_vec(&report).map_err(|e| Refusal::new(Retry::Never, e.to_string()))
        })
    }
}

struct Members(Weak<Node>);

impl Handler for Members {
    fn handle(&self, _: NodeId, body: Vec<u8>) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            let node = alive(&self.0)?;
            let change: MemberChange = question(&body, "the change of members")?;
            let done = node.cluster.change(&change).await;
            done.map(|()| Vec::new()).map_err(|e| match e {
                CommandError::NoLeader | CommandError::Busy => Refusal::new(Retry::Later, e.to_string()),
                e => Refusal::new(Retry::Operator, e.to_string()),
            })
        })
    }
}

/// Brings a change of members about, on whichever node leads.
pub fn change_members(node: &Arc<Node>, change: &MemberChange) -> Result<(), ZoneError> {
    let me = node.id();
    let until = std::time::Instant::now() + Duration::from_millis(CHANGE_MS);
    let body = serde_json::to_vec(change).map_err(|_| ZoneError::State { what: "a change of members" })?;
    loop {
        let failed = match node.cluster.metrics().leader {
            Some(leader) if leader == me => match node.cluster.change_here(change) {
                Ok(()) => return Ok(()),
                Err(e) => ZoneError::from(e),
            },
            Some(leader) => match node.cluster.ask(leader, kind::MEMBERS, &body, Duration::from_millis(CHANGE_MS)) {
                Ok(_) => return Ok(()),
                Err(e) => CommandError::Refused { code: "members".into(), text: crate::open::chain(&e) }.into(),
            },
            None => CommandError::NoLeader.into(),
        };
        if std::time::Instant::now() > until || node.stopping() {
            return Err(failed);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl MemberChange {
    /// The peer that a node is until it says where it is.
    pub(crate) fn peer(public_key: &str) -> Peer {
        Peer { address: String::new(), public_key: public_key.to_owned() }
    }
}
