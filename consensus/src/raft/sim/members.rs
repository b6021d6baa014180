//! C7: there are never two disjoint majorities; who was removed, or is an earlier start of itself, claims nothing.

use std::collections::{BTreeMap, BTreeSet};

use openraft::Membership;
use zoneward_sectors::ids::NodeId;

use super::eyes::{First, Found};
use crate::command::Command;
use crate::raft::Peer;

#[derive(Default)]
pub struct Members {
    voters: Vec<BTreeSet<NodeId>>,
    /// Each node's newest start.
    starts: BTreeMap<NodeId, u64>,
    removed: BTreeSet<NodeId>,
}

impl Members {
    /// A membership is applied. One that follows another shares a set of voters with it, or differs by one voter from one
    /// of its sets: else a majority of the one need not meet a majority of the other.
    pub fn changed(&mut self, m: &Membership<NodeId, Peer>, found: &mut Found) {
        let next = m.get_joint_config().clone();
        let meets = |a: &BTreeSet<NodeId>, b: &BTreeSet<NodeId>| a.symmetric_difference(b).count() <= 1;
        let met = self.voters.is_empty() || self.voters.iter().any(|a| next.iter().any(|b| meets(a, b)));
        found.demand(met && !next.is_empty(), "C7", || format!("voters go from {:?} to {next:?}", self.voters));
        self.voters = next;
    }

    pub fn entry(&mut self, e: &First<'_>, found: &mut Found) {
        match e.command {
            Command::StartNode { incarnation, .. } => {
                let before = self.starts.insert(e.by, *incarnation);
                found.demand(before < Some(*incarnation), "C7", || {
                    format!("{} started as {incarnation} after {before:?}", e.by)
                });
            }
            Command::RemoveNode { node } => drop(self.removed.insert(*node)),
            Command::Claim { incarnation, .. } => {
                let newest = self.starts.get(&e.by);
                found.demand(newest == Some(incarnation), "C7", || {
                    format!("start {incarnation} of {} claims, and its newest is {newest:?}", e.by)
                });
                found.demand(!self.removed.contains(&e.by), "C7", || format!("{} claims and was removed", e.by));
            }
            _ => {}
        }
    }
}
