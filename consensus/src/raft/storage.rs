//! openraft's storage over the store. Each call is one transaction; what fails stops the node.

mod progress;

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    AnyError, LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder, Snapshot, StorageError, StorageIOError,
};
use redb::{Database, Durability, ReadableDatabase};
use zoneward_sectors::ids::NodeId;

use self::progress::Board;
use super::snapshot_file::SnapshotFile;
use super::types::{LogEntry, LogId, Membership, Peer, Reply, SnapshotMeta, Types, Vote};
use crate::limits::APPEND_LEN_MAX;
use crate::model::State;
use crate::store::ledger::{self, Ledger};
use crate::store::snapshot::Snapshots;
use crate::store::{Store, StoreError, tables, unreadable};

type Failed = StorageError<NodeId>;

/// The store of a node that runs raft. All clones are one store.
#[derive(Clone)]
pub struct Storage(Arc<Inner>);

struct Inner {
    ledger: Mutex<Ledger>,
    /// The newest state. Whoever looks takes a clone of the `Arc`; it is copied only if someone still looks at the old
    /// one when the next entry is applied.
    state: Mutex<Arc<State>>,
    /// Who belongs to the zone as of the last entry applied.
    members: Mutex<Arc<Membership>>,
    db: Arc<Database>,
    snapshots: Snapshots,
    progress: Board,
    repaired: Option<String>,
    inline: bool,
}

impl Inner {
    /// Tells the others what was applied.
    fn applied(&self, ledger: &Ledger) {
        {
            let mut members = lock(&self.members);
            if **members != ledger.head.membership {
                *members = Arc::new(ledger.head.membership.clone());
            }
        }
        // Whoever is woken by this sees the members of that entry.
        self.progress.change(|p| p.applied = ledger.head.applied.map(|id| id.index));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left half done in the ledger is marked by the ledger itself; the state is only ever replaced or
    // changed by pure code.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All of an error's text: openraft keeps no more.
fn text(e: &StoreError) -> AnyError {
    let mut text = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(e) = source {
        text = format!("{text}: {e}");
        source = e.source();
    }
    AnyError::error(text)
}

fn read_failed(e: StoreError) -> Failed {
    StorageIOError::read(text(&e)).into()
}

fn write_failed(e: StoreError) -> Failed {
    StorageIOError::write(text(&e)).into()
}

impl Storage {
    /// Takes over a store. `inline` runs every call in place, for simulations; otherwise calls run on tokio's threads,
    /// so that a slow disk does not hold up heartbeats.
    pub(crate) fn new(store: Store, node: NodeId, snapshots: &Path, inline: bool) -> Result<Self, StoreError> {
        let Store { mut ledger, state } = store;
        ledger.claim(node)?;
        let snapshots = Snapshots::open(snapshots, ledger.head.snapshot.as_ref())?;
        let repaired = snapshots.repair(&mut ledger)?;
        let db = Arc::clone(&ledger.db);
        let members = Mutex::new(Arc::new(ledger.head.membership.clone()));
        let state = Mutex::new(Arc::new(state));
        let applied = ledger.head.applied.map(|id| id.index);
        let progress = Board::new(applied);
        let inner = Inner { ledger: Mutex::new(ledger), state, members, db, snapshots, progress, repaired, inline };
        Ok(Self(Arc::new(inner)))
    }

    /// The newest state that this node has applied.
    pub(crate) fn view(&self) -> Arc<State> {
        Arc::clone(&lock(&self.0.state))
    }

    /// Waits for an entry after `applied`.
    pub(crate) async fn applied_beyond(&self, applied: Option<u64>) -> Option<u64> {
        self.0.progress.until(|p| p.applied > applied).await?.applied
    }

    /// Waits until an entry is applied; `false` if there is no more progress.
    pub(crate) async fn applied_up_to(&self, index: Option<u64>) -> bool {
        self.0.progress.until(|p| p.applied >= index).await.is_some()
    }

    /// There is no more progress: the node stops.
    pub(crate) fn ends(&self) {
        self.0.progress.change(|p| p.over = true);
    }

    /// What was found damaged at the start, and made anew.
    pub(crate) fn repaired(&self) -> Option<String> {
        self.0.repaired.clone()
    }

    /// Who belongs to the zone as of the last entry applied.
    pub(crate) fn members(&self) -> Arc<Membership> {
        Arc::clone(&lock(&self.0.members))
    }

    /// The vote and the end of the log.
    pub(crate) fn last(&self) -> (Option<Vote>, Option<LogId>) {
        let ledger = lock(&self.0.ledger);
        (ledger.head.vote, ledger.head.last)
    }

    /// For tests: what the store knows.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.0.ledger)
    }

    /// Runs a call that may wait for the disk.
    async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = if self.0.inline {
            call(&self.0)
        } else {
            let inner = Arc::clone(&self.0);
            let done = tokio::task::spawn_blocking(move || call(&inner)).await;
            done.unwrap_or_else(|e| Err(StoreError::Damaged(format!("a call to the store did not end: {e}"))))
        };
        if done.is_err() {
            self.ends();
        }
        done
    }

    /// Waits until what is to be purged is applied. openraft 0.9 orders the installation of a snapshot and the purge of
    /// the entries before it at once, and the purge may come first: a crash in between would leave a state that the log
    /// no longer continues.
    async fn until_applied(&self, upto: u64) -> Result<(), Failed> {
        let reached = self.0.progress.until(|p| !p.receiving || p.applied >= Some(upto)).await;
        reached.map(drop).ok_or_else(|| write_failed(StoreError::Poisoned))
    }

    async fn write(
        &self,
        call: impl FnOnce(&mut Ledger) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), Failed> {
        self.run(move |inner| call(&mut lock(&inner.ledger))).await.map_err(write_failed)
    }

    async fn head<T: Send + 'static>(
        &self,
        get: impl FnOnce(&tables::Head) -> T + Send + 'static,
    ) -> Result<T, Failed> {
        self.run(move |inner| Ok(get(&lock(&inner.ledger).head))).await.map_err(read_failed)
    }

    async fn read(&self, range: (Bound<u64>, Bound<u64>), len_max: usize) -> Result<Vec<LogEntry>, Failed> {
        let entries = self.run(move |inner| {
            let read = inner.db.begin_read().map_err(unreadable)?;
            tables::entries(&read, range, len_max)
        });
        entries.await.map_err(read_failed)
    }
}

/// A range that holds nothing is asked for at times; redb refuses it.
fn is_empty(range: &impl RangeBounds<u64>) -> bool {
    let from = match range.start_bound() {
        Bound::Included(n) => *n,
        Bound::Excluded(n) => n.saturating_add(1),
        Bound::Unbounded => 0,
    };
    match range.end_bound() {
        Bound::Included(n) => *n < from,
        Bound::Excluded(n) => *n <= from,
        Bound::Unbounded => false,
    }
}

impl RaftLogReader<Types> for Storage {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<LogEntry>, Failed> {
        if is_empty(&range) {
            return Ok(Vec::new());
        }
        self.read((range.start_bound().cloned(), range.end_bound().cloned()), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, Failed> {
        if start >= end {
            return Ok(Vec::new());
        }
        self.read((Bound::Included(start), Bound::Excluded(end)), APPEND_LEN_MAX).await
    }
}

impl RaftLogStorage<Types> for Storage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, Failed> {
        self.head(|h| LogState { last_purged_log_id: h.purged, last_log_id: h.last }).await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), Failed> {
        let vote = *vote;
        self.write(move |l| l.save_vote(vote)).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, Failed> {
        self.head(|h| h.vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), Failed> {
        self.write(move |l| l.save_committed(committed)).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, Failed> {
        self.head(|h| h.committed).await
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), Failed>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        self.write(move |l| l.append(&entries)).await?;
        // Only now: what is acknowledged is durable.
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), Failed> {
        self.write(move |l| l.truncate(from)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), Failed> {
        self.until_applied(upto.index).await?;
        self.write(move |l| l.purge(upto)).await
    }
}

impl RaftStateMachine<Types> for Storage {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, openraft::StoredMembership<NodeId, Peer>), Failed> {
        self.head(|h| (h.applied, h.membership.clone())).await
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Reply>, Failed>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let applied = self.run(move |inner| {
            let mut ledger = lock(&inner.ledger);
            let (replies, changes) = ledger::run(ledger.head.node, Arc::make_mut(&mut lock(&inner.state)), &entries)?;
            // Log and state share one file, and the log is durable: after a crash this is done again.
            ledger.write(Durability::None, |batch| changes.put(batch))?;
            inner.applied(&ledger);
            Ok(replies)
        });
        applied.await.map_err(write_failed)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, Failed> {
        self.0.progress.change(|p| p.receiving = true);
        let file = self.run(|inner| inner.snapshots.incoming(lock(&inner.ledger).head.snapshots)).await;
        Ok(Box::new(SnapshotFile::new(file.map_err(write_failed)?, self.0.inline)))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Box<SnapshotFile>) -> Result<(), Failed> {
        let file = snapshot.into_std().await.map_err(|e| StorageIOError::write(AnyError::new(&e)))?;
        let meta = meta.clone();
        let installed = self.run(move |inner| {
            let mut ledger = lock(&inner.ledger);
            let state = inner.snapshots.install(&mut ledger, &meta, file)?;
            crate::watch::installed(ledger.head.node, &state);
            *lock(&inner.state) = Arc::new(state);
            inner.applied(&ledger);
            Ok(())
        });
        installed.await.map_err(write_failed)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, Failed> {
        let found = self.run(|inner| {
            let Some(meta) = lock(&inner.ledger).head.snapshot.clone() else { return Ok(None) };
            Ok(Some((inner.snapshots.read(&meta)?, meta)))
        });
        let found = found.await.map_err(read_failed)?;
        Ok(found.map(|(file, meta)| Snapshot { meta, snapshot: Box::new(SnapshotFile::new(file, self.0.inline)) }))
    }
}

impl RaftSnapshotBuilder<Types> for Storage {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, Failed> {
        let built = self.run(|inner| {
            // The number is taken first: a build that fails leaves a name that is never used again.
            let mut ledger = lock(&inner.ledger);
            let n = ledger.head.snapshots;
            ledger.write(Durability::Immediate, |batch| {
                batch.head.snapshots = n + 1;
                Ok(())
            })?;
            drop(ledger);
            let meta = inner.snapshots.build(&inner.db, n)?;
            let mut ledger = lock(&inner.ledger);
            let old = ledger.head.snapshot.clone();
            ledger.publish(meta.clone())?;
            inner.snapshots.remove(old.as_ref())?;
            drop(ledger);
            Ok((inner.snapshots.read(&meta)?, meta))
        });
        let (file, meta) = built.await.map_err(write_failed)?;
        Ok(Snapshot { meta, snapshot: Box::new(SnapshotFile::new(file, self.0.inline)) })
    }
}

#[cfg(test)]
mod tests;
