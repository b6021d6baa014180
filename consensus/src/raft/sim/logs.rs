//! C1, state-machine safety: what one node applied at an index, no node applies another thing there (Raft, figure 3).

use std::collections::BTreeMap;

use zoneward_sectors::ids::NodeId;

use super::eyes::Found;
use crate::raft::LogId;

#[derive(Default)]
pub struct Logs(BTreeMap<u64, LogId>);

impl Logs {
    pub fn applied(&mut self, node: NodeId, id: LogId, found: &mut Found) {
        let first = *self.0.entry(id.index).or_insert(id);
        found.demand(first == id, "C1", || format!("{node} applied {id} where {first} was applied before"));
    }
}
