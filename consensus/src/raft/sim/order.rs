//! C1, order: purged ≤ snapshot, purged ≤ applied ≤ last; and term, vote, purged never go back, over crashes too; applied
//! and committed do not while the node lives.

use std::collections::BTreeMap;

use zoneward_sectors::ids::NodeId;

use super::Seen;
use super::eyes::Found;
use crate::raft::LogId;
use crate::store::tables::Head;

#[derive(Default)]
pub struct Order(BTreeMap<NodeId, (u64, Head)>);

fn index(id: Option<LogId>) -> Option<u64> {
    id.map(|id| id.index)
}

impl Order {
    pub fn look(&mut self, seen: &Seen, found: &mut Found) {
        let (who, h) = (seen.node, &seen.head);
        let mut demand = |so, what: &str| found.demand(so, "C1", || format!("{who}: {what}: {h:?}"));
        demand(h.purged <= h.applied, "entries are gone that were not applied");
        demand(index(h.applied) <= index(h.last), "applied beyond the log's end");
        if let Some(snapshot) = &h.snapshot {
            demand(snapshot.last_log_id <= h.applied, "a snapshot of what was not applied");
            demand(h.purged <= snapshot.last_log_id, "entries are gone that no snapshot has");
        } else {
            demand(h.purged.is_none(), "entries are gone and there is no snapshot");
        }
        if let Some((life, old)) = self.0.insert(who, (seen.life, h.clone())) {
            demand(old.vote <= h.vote, "the vote went back");
            demand(old.purged <= h.purged, "purged entries are back");
            if life == seen.life {
                demand(old.applied <= h.applied, "applied went back");
                demand(old.committed <= h.committed, "committed went back");
            }
        }
    }
}
