//! C6: what a node's disk holds after its power went is what it promised before: its vote, and all of its log.

use crate::raft::{LogEntry, Vote};
use crate::store::Store;
use crate::store::ledger::Ledger;
use crate::store::trial::Trial;

pub struct Promised {
    vote: Option<Vote>,
    log: Vec<LogEntry>,
    /// A call was under way, and failed: the newest vote or entries may be there or not.
    pub stopped: bool,
}

impl Promised {
    pub fn of(ledger: &Ledger) -> Self {
        let log = ledger.entries(.., usize::MAX).unwrap();
        Self { vote: ledger.head.vote, log, stopped: ledger.poisoned }
    }

    pub fn check(&self, disk: &Trial) {
        let image = Trial::of(disk.disk().live.clone());
        let store = Store::open_on(image).unwrap();
        let head = &store.ledger.head;
        assert!(head.vote >= self.vote, "a vote is lost");
        assert!(self.stopped || head.vote == self.vote, "a vote from nowhere");
        let found = store.ledger.entries(.., usize::MAX).unwrap();
        let purged = head.purged.map_or(0, |id| id.index + 1);
        // A truncation that was under way may count, too: it takes the end off, and raft gave that up.
        let kept = |e: &&LogEntry| e.log_id.index >= purged && (!self.stopped || Some(e.log_id) <= head.last);
        for entry in self.log.iter().filter(kept) {
            assert!(found.iter().any(|f| f.log_id == entry.log_id), "the entry {} is lost", entry.log_id);
        }
    }
}
