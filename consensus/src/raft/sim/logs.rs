//! C1, state-machine safety: what one node applied at an index, no node applies another thing there (Raft, figure 3).

use std::collections::BTreeMap;

use super::Seen;
use crate::raft::LogId;

#[derive(Default)]
pub struct Logs(BTreeMap<u64, LogId>);

impl Logs {
    pub fn look(&mut self, seen: &Seen) {
        for id in &seen.applied {
            let first = *self.0.entry(id.index).or_insert(*id);
            assert_eq!(first, *id, "{} applied another entry {} than was applied before", seen.node, id.index);
        }
        if let Some(id) = seen.head.applied {
            let first = *self.0.entry(id.index).or_insert(id);
            assert_eq!(first, id, "{} is at another entry {}", seen.node, id.index);
        }
    }
}
