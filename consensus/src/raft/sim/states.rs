//! C5: equal revision, equal state, on all nodes and at all times.
//!
//! The tally of the records, which the store keeps anyway, is compared at each look; the whole state in memory at each
//! K-th revision, after each snapshot and at the end.

use std::collections::BTreeMap;

use zoneward_sectors::crypto::sha256;
use zoneward_sectors::ids::{Digest, NodeId};

use super::Seen;
use super::eyes::Found;
use crate::model::State;
use crate::store::tables::Head;

/// The whole state is hashed at each such revision.
const EVERY: u64 = 64;

#[derive(Default)]
pub struct States {
    whole: BTreeMap<u64, Digest>,
    tallies: BTreeMap<u64, Tallied>,
}

/// The records of one revision, without what each node counts for itself.
type Tallied = (crate::store::seal::Tally, u64, u64);

fn tallied(head: &Head) -> Tallied {
    (head.rows, head.next_seq, head.last_time_ms)
}

pub fn hash(state: &State) -> Digest {
    sha256(&[&serde_json::to_vec(state).unwrap()])
}

impl States {
    /// A node's records, as the store knows them.
    pub fn look(&mut self, seen: &Seen, found: &mut Found) {
        let (at, is) = (seen.head.revision(), tallied(&seen.head));
        let first = *self.tallies.entry(at).or_insert(is);
        found.demand(first == is, "C5", || format!("{} has other records at revision {at}", seen.node));
    }

    /// A node's state in memory, now and then.
    pub fn hashed(&mut self, node: NodeId, state: &State, found: &mut Found) {
        if state.revision.is_multiple_of(EVERY) {
            self.whole(node, state, found);
        }
    }

    /// A node's state in memory.
    pub fn whole(&mut self, node: NodeId, state: &State, found: &mut Found) {
        let is = hash(state);
        let first = *self.whole.entry(state.revision).or_insert(is);
        found.demand(first == is, "C5", || format!("{node} has another state at revision {}", state.revision));
    }
}
