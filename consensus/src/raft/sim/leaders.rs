//! C1, leader completeness: a leader's log has everything that was applied anywhere under an earlier one (Raft, figure 3).
//! One leader for each term is given by openraft's votes: they are pairs of a number and the node itself.

use std::collections::BTreeSet;

use zoneward_sectors::ids::NodeId;

use super::Seen;
use super::eyes::Found;
use crate::raft::{LogId, Role};

#[derive(Default)]
pub struct Leaders {
    known: BTreeSet<(u64, NodeId)>,
    newest: Option<LogId>,
}

impl Leaders {
    pub fn look(&mut self, seen: &Seen, found: &mut Found) {
        self.newest = self.newest.max(seen.head.applied);
        let Some(vote) = seen.head.vote.filter(|v| v.is_committed()) else { return };
        let (term, node) = (vote.leader_id().term, vote.leader_id().node_id);
        if seen.role != Role::Leader || node != seen.node || !self.known.insert((term, node)) {
            return;
        }
        let earlier = self.newest.filter(|id| (id.leader_id.term, id.leader_id.node_id) < (term, node));
        found.demand(seen.head.last >= earlier, "C1", || {
            format!("{node} leads in {term} and its log ends before {earlier:?}")
        });
    }

    /// How many leaders there were.
    pub fn count(&self) -> u64 {
        self.known.len() as u64
    }
}
