//! Calls between nodes besides raft's own: commands on their way to the leader, and addresses.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use zoneward_consensus::command::Entry;
use zoneward_consensus::raft::{Peer, ProposeError, Reply};
use zoneward_sectors::ids::NodeId;
use zoneward_transport::wire::Retry;
use zoneward_transport::{Boxed, Handler, Refusal, Services, kind};

use super::{CommandError, LEADER_WAIT_MS, LOOK_MS, Parts, pause};
use crate::serve::alive;

/// Longest text of an address: a DNS name and a port.
const ADDRESS_LEN_MAX: usize = 300;

/// How long one node is given to take an address, ms: there are others to tell.
const ANNOUNCE_MS: u64 = 2_000;

/// What became of a command that was sent on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(Reply),
    /// Nothing was done.
    NotLeader(Option<NodeId>),
    /// Nothing was done.
    Busy,
    Unknown,
    /// Nothing was done, and trying again does not help.
    Failed(String),
}

/// Serves other nodes.
pub(super) fn serve(services: &Services, parts: &Arc<Parts>) {
    services.serve(kind::RAFT, Arc::new(Raft(Arc::downgrade(parts))));
    services.serve(kind::PROPOSE, Arc::new(Propose(Arc::downgrade(parts))));
    services.serve(kind::ANNOUNCE, Arc::new(Announce(Arc::downgrade(parts))));
}

struct Raft(Weak<Parts>);

impl Handler for Raft {
    fn handle(&self, from: NodeId, body: Vec<u8>) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move { Ok(alive(&self.0)?.consensus.serve(from, &body).await) })
    }
}

struct Propose(Weak<Parts>);

impl Handler for Propose {
    fn handle(&self, from: NodeId, body: Vec<u8>) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            let parts = alive(&self.0)?;
            let never = |text: String| Refusal::new(Retry::Never, text);
            let entry: Entry =
                serde_json::from_slice(&body).map_err(|e| never(format!("the command cannot be read: {e}")))?;
            if entry.node != from {
                return Err(never(format!("a command of node {} came from node {from}", entry.node)));
            }
            let answer = match parts.consensus.propose_entry(entry).await {
                Ok(reply) => Answer::Done(reply),
                Err(ProposeError::NotLeader { leader }) => Answer::NotLeader(leader),
                Err(ProposeError::Busy) => Answer::Busy,
                Err(ProposeError::Unknown) => Answer::Unknown,
                Err(e) => Answer::Failed(e.to_string()),
            };
            serde_json::to_vec(&answer).map_err(|e| never(e.to_string()))
        })
    }
}

/// Brings an entry to the leader. Only what surely was not done is tried again.
pub(super) async fn propose(parts: &Parts, entry: Entry) -> Result<Reply, CommandError> {
    let until = Instant::now() + parts.wait;
    let bytes = serde_json::to_vec(&entry).map_err(|e| CommandError::Stopped(e.to_string()))?;
    loop {
        let leader = match parts.consensus.propose_entry(entry.clone()).await {
            Ok(reply) => return Ok(reply),
            Err(ProposeError::NotLeader { leader }) => leader,
            Err(e) => return Err(e.into()),
        };
        let left = until.saturating_duration_since(Instant::now());
        if let Some(leader) = leader.filter(|id| *id != parts.me && !left.is_zero()) {
            let call = parts.endpoint.call(leader, kind::PROPOSE, &bytes, left);
            let answer = tokio::select! {
                answer = call => answer,
                // It may have been logged before the leader fell.
                () = falls(parts, leader) => return Err(CommandError::Unknown),
            };
            match answer {
                Ok(answer) => match serde_json::from_slice(&answer) {
                    Ok(Answer::Done(reply)) => return Ok(reply),
                    Ok(Answer::NotLeader(_)) => {}
                    Ok(Answer::Busy) => return Err(CommandError::Busy),
                    Ok(Answer::Failed(text)) => return Err(CommandError::Refused { code: "failed".into(), text }),
                    // An answer that this release cannot read says nothing of what was done.
                    Ok(Answer::Unknown) | Err(_) => return Err(CommandError::Unknown),
                },
                Err(e) if e.outcome_unknown() => return Err(CommandError::Unknown),
                Err(_) => {}
            }
        }
        if !pause(until).await {
            return Err(CommandError::NoLeader);
        }
    }
}

/// Waits until a node is no longer taken for the leader: one that died does not answer, and its links take long to end.
async fn falls(parts: &Parts, leader: NodeId) {
    while parts.consensus.leader() == Some(leader) {
        sleep(Duration::from_millis(LEADER_WAIT_MS)).await;
    }
}

struct Announce(Weak<Parts>);

impl Handler for Announce {
    fn handle(&self, from: NodeId, body: Vec<u8>) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            let parts = alive(&self.0)?;
            let address = String::from_utf8(body).ok().filter(|a| is_address(a));
            let address = address.ok_or_else(|| Refusal::new(Retry::Never, "this is no address: host:port is one"))?;
            let known = parts.consensus.known().remove(&from);
            let peer = known.ok_or_else(|| Refusal::new(Retry::Later, "this node does not know you yet"))?;
            if peer.address != address {
                // The key stays: a link proved it, and only joining brings a new one.
                let peer = Peer { address, ..peer };
                let set = parts.consensus.set_peer(from, peer).await;
                set.map_err(|e| Refusal::new(Retry::Later, e.to_string()))?;
            }
            Ok(Vec::new())
        })
    }
}

fn is_address(text: &str) -> bool {
    let port = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    text.len() <= ADDRESS_LEN_MAX
        && text.chars().all(|c| c.is_ascii_graphic())
        && port.is_some_and(|(host, port)| !host.is_empty() && port != 0)
}

/// Sees to it that the membership has this node's address and key, until the node stops.
pub(super) async fn announce(parts: Weak<Parts>) {
    loop {
        let Some(p) = parts.upgrade() else { return };
        let mut known = p.consensus.known();
        if known.is_empty() {
            // It has joined, and the zone does not know yet where it is.
            tell(&p, &p.introduced).await;
        }
        let mine = known.remove(&p.me);
        if let Some(mine) = mine.filter(|m| m.address != p.address || m.public_key != p.key) {
            match p.consensus.leader() {
                Some(id) if id == p.me => {
                    let peer = Peer { address: p.address.clone(), public_key: p.key.clone() };
                    // Whatever keeps it from being done now, it is tried again.
                    let _ = p.consensus.set_peer(p.me, peer).await;
                }
                _ if mine.public_key != p.key => {}
                _ => {
                    // The leader may be one that this node has not heard of, because it looks for this node in the wrong
                    // place; and whom this node takes for the leader may be long gone. So all are told, and the one that
                    // leads acts on it.
                    tell(&p, &known.into_keys().collect::<Vec<_>>()).await;
                }
            }
        }
        drop(p);
        sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

/// Tells nodes where this one is.
async fn tell(p: &Parts, nodes: &[NodeId]) {
    for id in nodes {
        let wait = Duration::from_millis(ANNOUNCE_MS);
        // Who does not take it is asked again.
        let _ = p.endpoint.call(*id, kind::ANNOUNCE, p.address.as_bytes(), wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::is_address;

    #[test]
    fn addresses_are_told_from_nonsense() {
        for good in ["127.0.0.1:7441", "[::1]:1", "nas.home:65535"] {
            assert!(is_address(good), "{good}");
        }
        for bad in
            ["", ":1", "nas", "nas:0", "nas:70000", "a b:1", "n\u{e4}s:1", "nas:1\n", &format!("{}:1", "x".repeat(300))]
        {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
