//! Log and state in one file: every change of either goes through here, and nothing after a change that failed.

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft::EntryPayload;
use redb::{Database, Durability, ReadableDatabase};
use zoneward_sectors::ids::NodeId;

use super::tables::{self, Batch, Head, Loaded};
use super::{StoreError, rows, unreadable};
use crate::apply::{Row, apply};
use crate::model::State;
use crate::planted::{Bug, planted};
use crate::raft::{LogEntry, LogId, Membership, Reply, SnapshotMeta, Vote};
use crate::watch;

/// The file, and what is known of it without reading.
pub struct Ledger {
    pub db: Arc<Database>,
    pub head: Head,
    pub poisoned: bool,
}

/// What applying some entries changes on disk.
pub struct Changes {
    rows: Vec<(String, Option<Vec<u8>>)>,
    last: Option<LogId>,
    membership: Option<Membership>,
    next_seq: u64,
    last_time_ms: u64,
}

impl Changes {
    /// Puts them into a transaction.
    pub fn put(self, batch: &mut Batch) -> Result<(), StoreError> {
        batch.put_rows(self.rows)?;
        batch.head.applied = self.last.or(batch.head.applied);
        if let Some(m) = self.membership {
            batch.head.membership = m;
        }
        batch.head.next_seq = self.next_seq;
        batch.head.last_time_ms = self.last_time_ms;
        Ok(())
    }
}

/// Applies committed entries to a state, in memory. An entry that this release cannot read is an error and ends it: the
/// node must stop there, for a skipped entry would make it differ from all others.
pub fn run(node: Option<NodeId>, state: &mut State, entries: &[LogEntry]) -> Result<(Vec<Reply>, Changes), StoreError> {
    let mut touched: BTreeSet<Row> = BTreeSet::new();
    let mut replies = Vec::with_capacity(entries.len());
    let (mut last, mut membership) = (None, None);
    for entry in entries {
        let id = entry.log_id;
        let reply = match &entry.payload {
            EntryPayload::Blank => Reply::new(id.index, &crate::Outcome::Done),
            EntryPayload::Membership(m) => {
                membership = Some(Membership::new(Some(id), m.clone()));
                Reply::new(id.index, &crate::Outcome::Done)
            }
            EntryPayload::Normal(e) if planted(Bug::UnknownSkipped) && e.command().is_err() => {
                Reply::new(id.index, &crate::Outcome::Done)
            }
            EntryPayload::Normal(e) => {
                let time_ms = if planted(Bug::LocalClock) { clock_of(node, e.time_ms) } else { e.time_ms };
                let (outcome, rows) = apply(state, id.index, time_ms, e.node, &e.command()?);
                touched.extend(rows);
                Reply::new(id.index, &outcome)
            }
        };
        state.revision = id.index;
        last = Some(id);
        replies.push(reply);
    }
    let rows = rows::changed(state, &touched).map_err(super::write_error)?;
    watch::applied(node, entries, &replies, state);
    Ok((replies, Changes { rows, last, membership, next_seq: state.next_seq, last_time_ms: state.last_time_ms }))
}

/// A clock that differs from the others', for a planted mistake.
fn clock_of(node: Option<NodeId>, time_ms: u64) -> u64 {
    time_ms + node.map_or(0, |n| u64::from(n.0[15]))
}

impl Ledger {
    /// Reads a file that is open. Entries that only this node could have committed are applied.
    pub fn load(db: Database) -> Result<(Self, State), StoreError> {
        let Loaded { head, mut state, effective } = tables::load(&db)?.unwrap_or_default();
        let mut ledger = Self { db: Arc::new(db), head, poisoned: false };
        if planted(Bug::AppliedTwice) {
            ledger.forget_applied(20)?;
        }
        let alone = ledger.head.node.is_some_and(|node| effective.voter_ids().eq([node]));
        let committed = if alone { ledger.head.last } else { ledger.head.committed };
        ledger.replay(&mut state, committed)?;
        Ok((ledger, state))
    }

    /// Applies what is logged and committed but not yet applied: the state is not synced with each entry.
    pub fn replay(&mut self, state: &mut State, committed: Option<LogId>) -> Result<(), StoreError> {
        while self.head.applied < committed && self.head.last > self.head.applied {
            let from = self.head.applied.map_or(0, |id| id.index + 1);
            let to = committed.map_or(0, |id| id.index);
            let entries = self.entries(from..=to, crate::limits::BATCH_LEN_MAX)?;
            if entries.is_empty() {
                return Ok(());
            }
            let (_, changes) = run(self.head.node, state, &entries)?;
            self.write(Durability::Immediate, |batch| changes.put(batch))?;
        }
        Ok(())
    }

    /// Goes back by so many entries, but leaves the records as they are: for a planted mistake.
    fn forget_applied(&mut self, by: u64) -> Result<(), StoreError> {
        let first = self.head.purged.map_or(1, |id| id.index + 1);
        let Some(index) = self.head.applied.map(|id| id.index.saturating_sub(by).max(first)) else { return Ok(()) };
        self.head.applied = self.id_at(index)?.or(self.head.applied);
        Ok(())
    }

    /// One transaction. After one that failed, there is no other.
    pub fn write(
        &mut self,
        durability: Durability,
        change: impl FnOnce(&mut Batch) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        self.poisoned = true;
        let mut batch = Batch::begin(&self.db, &self.head, durability)?;
        change(&mut batch)?;
        self.head = batch.commit()?;
        self.poisoned = false;
        Ok(())
    }

    /// Entries of the log, as [`tables::entries`].
    pub fn entries(&self, range: impl std::ops::RangeBounds<u64>, len_max: usize) -> Result<Vec<LogEntry>, StoreError> {
        tables::entries(&self.db.begin_read().map_err(unreadable)?, range, len_max)
    }

    /// Where an entry stands, if it is known.
    pub fn id_at(&self, index: u64) -> Result<Option<LogId>, StoreError> {
        if let Some(id) = self.head.purged.filter(|id| id.index == index) {
            return Ok(Some(id));
        }
        Ok(self.entries(index..=index, 0)?.first().map(|e| e.log_id))
    }

    /// Puts entries at the end of the log; they are durable when this returns.
    pub fn append(&mut self, entries: &[LogEntry]) -> Result<(), StoreError> {
        let durability = if planted(Bug::AckBeforeSync) { Durability::None } else { Durability::Immediate };
        self.write(durability, |batch| batch.append(entries))
    }

    /// Remembers a vote, durably. A vote is never taken back.
    pub fn save_vote(&mut self, vote: Vote) -> Result<(), StoreError> {
        if self.head.vote.is_some_and(|old| vote < old || vote.partial_cmp(&old).is_none()) {
            return Err(StoreError::Disorder(format!("the vote {vote} after {:?}", self.head.vote)));
        }
        let durability = if planted(Bug::VoteForgotten) { Durability::None } else { Durability::Immediate };
        self.write(durability, |batch| {
            batch.head.vote = Some(vote);
            Ok(())
        })
    }

    /// Remembers what is committed. It goes to the disk with the next change: it need not be durable, for it is learned again.
    pub fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        self.head.committed = committed;
        Ok(())
    }

    /// Gives up the end of the log, from `from` on.
    pub fn truncate(&mut self, from: LogId) -> Result<(), StoreError> {
        if self.head.applied.is_some_and(|applied| from.index <= applied.index) {
            return Err(StoreError::Disorder(format!("the removal of entry {from}, which is applied")));
        }
        let last = match from.index.checked_sub(1) {
            Some(index) => self.id_at(index)?,
            None => None,
        };
        self.write(Durability::Immediate, |batch| {
            batch.cut(from.index..=u64::MAX)?;
            batch.head.last = last;
            Ok(())
        })
    }

    /// Takes the beginning of the log out, up to and with `upto`.
    pub fn purge(&mut self, upto: LogId) -> Result<(), StoreError> {
        self.write(Durability::Immediate, |batch| {
            purge(batch, upto)?;
            Ok(())
        })
    }

    /// Remembers whose store this is. A store never changes hands.
    pub fn claim(&mut self, node: NodeId) -> Result<(), StoreError> {
        match self.head.node {
            Some(owner) if owner == node => Ok(()),
            Some(owner) => Err(StoreError::Foreign { owner, node }),
            None => self.write(Durability::Immediate, |batch| {
                batch.head.node = Some(node);
                Ok(())
            }),
        }
    }

    /// Names the snapshot that counts from now on. Its file is durable already.
    pub fn publish(&mut self, meta: SnapshotMeta) -> Result<(), StoreError> {
        self.write(Durability::Immediate, |batch| {
            batch.head.snapshot = Some(meta);
            Ok(())
        })
    }
}

/// Takes the beginning of the log out. A snapshot that ends before the log begins is of no use and is forgotten.
pub fn purge(batch: &mut Batch, upto: LogId) -> Result<(), StoreError> {
    batch.cut(0..=upto.index)?;
    batch.head.purged = batch.head.purged.max(Some(upto));
    if batch.head.last.map(|id| id.index) <= batch.head.purged.map(|id| id.index) {
        batch.head.last = batch.head.purged;
    }
    if batch.head.snapshot.as_ref().is_some_and(|s| s.last_log_id < batch.head.purged) {
        batch.head.snapshot = None;
    }
    Ok(())
}
