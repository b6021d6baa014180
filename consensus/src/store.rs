//! The state on disk: one redb file holds the log and the records. A command is durable before it is acknowledged.

mod backend;
mod rows;
mod seal;
mod tables;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use redb::{Database, Durability, StorageBackend};
use zoneward_sectors::ids::NodeId;

use crate::apply::{Outcome, Refusal, Row, apply};
use crate::command::{Command, DecodeError, Entry, LEVEL};
use crate::limits::LOG_KEPT;
use crate::model::State;

use tables::{Batch, Head, SCHEMA};

pub use backend::FileBackend;

/// Bytes of page cache: the file is small.
const CACHE_LEN: usize = 8 << 20;

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the zone's state {path} cannot be opened")]
    Open { path: PathBuf, source: std::io::Error },
    #[error("the zone's state is in use by another process")]
    Busy,
    #[error("the zone's state has version {0}, this program knows {SCHEMA}: use a newer zoneward")]
    Newer(u64),
    #[error(
        "the zone's state has version {0}, which was never released and is not read: make the zone anew, or use the \
         program that wrote it"
    )]
    Older(u64),
    #[error("the zone's state is damaged: {0}")]
    Damaged(String),
    #[error("reading the zone's state failed: see that its disk works, then try again")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The change may or may not be there once the store is opened again: a failed sync tells nothing.
    #[error("writing the zone's state failed: free room or mend its disk, then run the command again")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the zone's state failed before; open it again")]
    Poisoned,
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the zone refuses: {0}")]
    Refused(Refusal),
}

/// The store of one zone on one node.
pub struct Store {
    db: Database,
    head: Head,
    state: State,
    poisoned: bool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store(revision {})", self.state.revision)
    }
}

fn write_error(e: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Write(Box::new(e))
}

/// A disk that fails is not a damaged state: only bytes that were read and make no sense are.
fn unreadable(e: impl Into<redb::Error>) -> StoreError {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match e.into() {
        redb::Error::DatabaseAlreadyOpen => StoreError::Busy,
        redb::Error::Io(e) if !matches!(e.kind(), InvalidData | UnexpectedEof) => StoreError::Read(Box::new(e)),
        e @ redb::Error::PreviousIo => StoreError::Read(Box::new(e)),
        e => StoreError::Damaged(e.to_string()),
    }
}

impl Store {
    /// Opens the store of an existing zone.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_on(FileBackend::open(path)?)
    }

    /// Makes a store; a file that is there already is an error.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        Self::open_on(FileBackend::create(path)?)
    }

    /// Opens, or begins, a store on any storage.
    pub fn open_on(backend: impl StorageBackend) -> Result<Self, StoreError> {
        // redb asserts on some damaged pages. Nothing of what unwinds is used again.
        let loaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Self::load(backend)));
        loaded.unwrap_or_else(|_| Err(StoreError::Damaged("its pages contradict each other".into())))
    }

    fn load(backend: impl StorageBackend) -> Result<Self, StoreError> {
        let opened = Database::builder().set_cache_size(CACHE_LEN).create_with_backend(backend);
        let db = opened.map_err(unreadable)?;
        let (head, state) = tables::load(&db)?.unwrap_or_default();
        // A zone that speaks more than this release would be changed by rules that this release does not know.
        match state.zone.as_ref().map(|z| z.feature_level) {
            Some(level) if level > LEVEL => return Err(StoreError::Newer(level.into())),
            _ => {}
        }
        Ok(Self { db, head, state, poisoned: false })
    }

    /// The zone as it is. After a failed [`propose`](Self::propose) this may be ahead of the disk: open the store again.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Applies a command. When this returns `Ok`, it is durable; a refusal is an error and changes nothing.
    pub fn propose(&mut self, time_ms: u64, node: NodeId, command: Command) -> Result<Outcome, StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        let entry = Entry::new(time_ms, node, &command)?;
        let index = self.state.revision + 1;
        let before = (self.state.revision, self.state.last_time_ms);
        // What is applied is what any other node would decode.
        let (outcome, rows) = apply(&mut self.state, index, time_ms, node, &entry.command()?);
        if let Outcome::Refused(refusal) = outcome {
            (self.state.revision, self.state.last_time_ms) = before;
            return Err(StoreError::Refused(refusal));
        }
        // Until this succeeds the state in memory is ahead of the disk; if it fails, nothing more is done with it.
        self.poisoned = true;
        self.commit(index, &entry, &rows)?;
        self.poisoned = false;
        Ok(outcome)
    }

    fn commit(&mut self, index: u64, entry: &Entry, rows: &BTreeSet<Row>) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(entry).map_err(write_error)?;
        let mut batch = Batch::begin(&self.db, &self.head, Durability::Immediate)?;
        batch.append([(index, bytes)])?;
        if index > LOG_KEPT {
            batch.cut(0..=index - LOG_KEPT)?;
        }
        batch.put_rows(rows::changed(&self.state, rows).map_err(write_error)?)?;
        batch.head.revision = self.state.revision;
        batch.head.next_seq = self.state.next_seq;
        batch.head.last_time_ms = self.state.last_time_ms;
        self.head = batch.commit()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod trial;
