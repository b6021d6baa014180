//! C6: what a node's disk holds after its power went is what it promised before: its vote, and all of its log.

use super::eyes;
use crate::raft::{LogEntry, Vote};
use crate::store::Store;
use crate::store::ledger::Ledger;

pub struct Promised {
    vote: Option<Vote>,
    log: Vec<LogEntry>,
    /// A call was under way, and failed: the newest vote or entries may be there or not.
    pub stopped: bool,
}

impl Promised {
    pub fn of(ledger: &Ledger) -> Self {
        // A disk that has failed may not be read either: then only the vote is known.
        let log = ledger.entries(.., usize::MAX).unwrap_or_default();
        Self { vote: ledger.head.vote, log, stopped: ledger.poisoned }
    }

    pub fn check(&self, store: &Store) {
        let head = &store.ledger.head;
        let broke = |what: String| eyes::broke("C6", what);
        if head.vote < self.vote {
            broke(format!("{:?}: the vote {:?} is lost, its disk has {:?}", head.node, self.vote, head.vote));
        }
        if !self.stopped && head.vote > self.vote {
            broke(format!("{:?}: a vote from nowhere: {:?}", head.node, head.vote));
        }
        let found = store.ledger.entries(.., usize::MAX).unwrap();
        let purged = head.purged.map_or(0, |id| id.index + 1);
        // A truncation that was under way may count, too: it takes the end off, and raft gave that up.
        let kept = |e: &&LogEntry| e.log_id.index >= purged && (!self.stopped || Some(e.log_id) <= head.last);
        for entry in self.log.iter().filter(kept) {
            if !found.iter().any(|f| f.log_id == entry.log_id) {
                broke(format!("{:?}: the entry {} is lost", head.node, entry.log_id));
            }
        }
    }
}
