//! C1, order: purged ≤ snapshot, purged ≤ applied ≤ last; and term, vote, purged never go back, over crashes too; applied
//! does not while the node lives.

use std::collections::BTreeMap;

use zoneward_sectors::ids::NodeId;

use super::Seen;
use crate::raft::LogId;
use crate::store::tables::Head;

#[derive(Default)]
pub struct Order(BTreeMap<NodeId, (u64, Head)>);

fn index(id: Option<LogId>) -> Option<u64> {
    id.map(|id| id.index)
}

impl Order {
    pub fn look(&mut self, seen: &Seen) {
        let (who, h) = (seen.node, &seen.head);
        assert!(h.purged <= h.applied, "{who}: purged {:?} beyond applied {:?}", h.purged, h.applied);
        assert!(index(h.applied) <= index(h.last), "{who}: applied {:?} beyond the log's end {:?}", h.applied, h.last);
        if let Some(snapshot) = &h.snapshot {
            assert!(snapshot.last_log_id <= h.applied, "{who}: a snapshot of what was not applied");
            assert!(h.purged <= snapshot.last_log_id, "{who}: entries are gone that no snapshot has");
        } else {
            assert!(h.purged.is_none(), "{who}: entries are gone and there is no snapshot");
        }
        if let Some((life, old)) = self.0.insert(who, (seen.life, h.clone())) {
            assert!(old.vote <= h.vote, "{who}: the vote went back from {:?} to {:?}", old.vote, h.vote);
            assert!(old.purged <= h.purged, "{who}: purged entries are back");
            if life == seen.life {
                assert!(old.applied <= h.applied, "{who}: applied went back");
                assert!(old.committed <= h.committed, "{who}: committed went back");
            }
        }
    }
}
