//! Signing heads together: the node that publishes asks the other voters over their links, and each signs what its own copy of
//! the zone's state says too.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zoneward_consensus::heads::{head_message, is_majority};
use zoneward_consensus::model::{Head, State};
use zoneward_consensus::secrets::keepers;
use zoneward_sectors::crypto::Signer as _;
use zoneward_sectors::ids::{Digest, NodeId};
use zoneward_transport::wire::Retry;
use zoneward_transport::{Boxed, Handler, Refusal, kind};

use crate::headchain::HeadPayload;
use crate::node::Node;
use crate::serve::{alive, question};

/// How long another node may take to sign, and how long those are asked again that have not heard of the head yet.
const ASK: Duration = Duration::from_secs(2);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Which head is to be signed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    n: u64,
    payload_hash: Digest,
}

/// Signs the zone's newest head for nodes that keep its data.
pub struct Hand(pub Weak<Node>);

impl Handler for Hand {
    fn handle(&self, from: NodeId, body: Vec<u8>) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            let (node, which) = (alive(&self.0)?, question::<Which>(&body, "the question for a signature")?);
            let state = node.cluster.view();
            if !keepers(&state).contains(&from) {
                return Err(Refusal::new(Retry::Operator, "only a node that keeps the zone's data publishes heads"));
            }
            let head = state.head.as_ref().filter(|h| (h.n, h.payload_hash) == (which.n, which.payload_hash));
            let head = head.ok_or_else(|| Refusal::new(Retry::Later, "this node does not know that head"))?;
            if !is_true(&state, head, &node.cluster.electorate().0) {
                return Err(Refusal::new(Retry::Later, "that head says something else than this node knows"));
            }
            Ok(node.cluster.identity().sign(&head_message(&head.payload)).to_vec())
        })
    }
}

/// Whether a head says what the state says, in the name of those who vote.
fn is_true(state: &State, head: &Head, voters: &BTreeSet<NodeId>) -> bool {
    let Ok(said) = serde_json::from_str::<HeadPayload>(&head.payload) else { return false };
    let sector = state.sectors.get(&said.sector).filter(|s| s.system && s.is_sealed());
    let copy = |c: &crate::headchain::HeadCopy| {
        let known = state.copies.get(&c.copy);
        known.is_some_and(|k| (k.sector, k.target, k.header_hash) == (said.sector, c.target, c.header_hash))
    };
    said.n == head.n
        && said.sector == head.sector
        && said.checkpoint == head.checkpoint
        && sector.is_some_and(|s| s.raw_id == Some(said.raw_id) && s.checkpoint == said.checkpoint)
        && state.zone.as_ref().is_some_and(|z| z.generation == said.generation)
        && said.voters == *voters
        && said.copies.iter().all(copy)
}

/// Asks these nodes for their signatures of the newest head, until each has answered, or a majority has and the others take
/// their time.
pub(crate) fn ask(node: &Node, nodes: &[NodeId], head: &Head) -> Vec<(NodeId, String)> {
    let Ok(body) = serde_json::to_vec(&Which { n: head.n, payload_hash: head.payload_hash }) else { return Vec::new() };
    let (mut left, mut signed) = (nodes.to_vec(), Vec::new());
    let (begun, all) = (Instant::now(), nodes.iter().copied().chain([node.id()]).collect());
    loop {
        for (id, answer) in node.cluster.ask_all(&left, kind::HEAD, &body, ASK) {
            if let Ok(signature) = answer {
                left.retain(|n| *n != id);
                signed.push((id, STANDARD.encode(signature)));
            }
        }
        let by: BTreeSet<NodeId> = signed.iter().map(|(id, _)| *id).chain([node.id()]).collect();
        // Who answers nothing has had its time; who is behind gets some more, while it is needed.
        if left.is_empty() || is_majority(&all, &by) || begun.elapsed() > ASK || node.stopping() {
            return signed;
        }
        std::thread::sleep(PAUSE);
    }
}
