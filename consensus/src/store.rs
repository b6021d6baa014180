//! The state on disk: one redb file holds the log and the records. A command is durable before it is acknowledged.

mod backend;
pub(crate) mod ledger;
mod rows;
pub(crate) mod seal;
mod seed;
pub(crate) mod snapshot;
pub(crate) mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use openraft::{CommittedLeaderId, EntryPayload};
use redb::{Database, Durability, StorageBackend};
use zoneward_sectors::ids::NodeId;

use crate::apply::{Outcome, Refusal, Row, apply};
use crate::command::{Command, DecodeError, Entry, LEVEL};
use crate::limits::LOG_KEPT;
use crate::model::State;
use crate::raft::{LogEntry, LogId, Membership, Peer, Vote};

use ledger::Ledger;
use tables::SCHEMA;

pub use backend::FileBackend;
pub use seed::taken_over;

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
    #[error(
        "this state belongs to the node {owner}, and the node {node} tried to use it: use the state of its own home"
    )]
    Foreign { owner: NodeId, node: NodeId },
    #[error("this zone has {0} nodes, which decide together: run `zoneward up`, then run the command again")]
    Clustered(usize),
    #[error("raft asked for {0}, which must never happen: the node has stopped; report this")]
    Disorder(String),
    #[error("the snapshot {path} cannot be {what}: free room or mend the disk, then start the node again")]
    Snapshot { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the snapshot {path} is damaged: {what}")]
    SnapshotDamaged { path: PathBuf, what: String },
    #[error("the snapshot has format {0}, this program knows 1: use a newer zoneward")]
    SnapshotNewer(u64),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the zone refuses: {0}")]
    Refused(Refusal),
}

/// The store of one zone on one node.
pub struct Store {
    pub(crate) ledger: Ledger,
    pub(crate) state: State,
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
pub(crate) fn unreadable(e: impl Into<redb::Error>) -> StoreError {
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
        let (ledger, state) = Ledger::load(opened.map_err(unreadable)?)?;
        // A zone that speaks more than this release would be changed by rules that this release does not know.
        match state.zone.as_ref().map(|z| z.feature_level) {
            Some(level) if level > LEVEL => return Err(StoreError::Newer(level.into())),
            _ => {}
        }
        Ok(Self { ledger, state })
    }

    /// The zone as it is; with several voters, as this node last knew it. After a failed [`propose`](Self::propose) this
    /// may be ahead of the disk: open the store again.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whose store this is; `None` before its first command.
    pub fn node(&self) -> Option<NodeId> {
        self.ledger.head.node
    }

    /// Who belongs to the zone.
    pub fn membership(&self) -> &Membership {
        &self.ledger.head.membership
    }

    /// Applies a command of a zone that has this node alone. When this returns `Ok`, it is durable; a refusal is an error
    /// and changes nothing. What is written is what raft would have written: the first command makes this node the
    /// zone's only voter and its leader.
    pub fn propose(&mut self, time_ms: u64, node: NodeId, command: Command) -> Result<Outcome, StoreError> {
        if self.ledger.poisoned {
            return Err(StoreError::Poisoned);
        }
        let mut lead = self.lead(node)?;
        let entry = Entry::new(time_ms, node, &command)?;
        let index = lead.last.map_or(0, |id| id.index + 1);
        let before = (self.state.revision, self.state.last_time_ms);
        // What is applied is what any other node would decode.
        let (outcome, rows) = apply(&mut self.state, index, time_ms, node, &entry.command()?);
        if let Outcome::Refused(refusal) = outcome {
            (self.state.revision, self.state.last_time_ms) = before;
            return Err(StoreError::Refused(refusal));
        }
        let id = LogId::new(CommittedLeaderId::new(lead.vote.leader_id().term, node), index);
        lead.entries.push(LogEntry { log_id: id, payload: EntryPayload::Normal(entry) });
        // Until this succeeds the state in memory is ahead of the disk; if it fails, nothing more is done with it.
        self.commit(lead, id, &rows)?;
        Ok(outcome)
    }

    /// Applies everything that is logged, whether it is known to be committed or not.
    pub(crate) fn apply_all(&mut self) -> Result<(), StoreError> {
        let last = self.ledger.head.last;
        self.ledger.replay(&mut self.state, last)
    }

    /// Logs and applies a membership that was decided without the others.
    pub(crate) fn install(&mut self, vote: Vote, entry: &LogEntry, membership: Membership) -> Result<(), StoreError> {
        let id = entry.log_id;
        self.ledger.write(Durability::Immediate, |batch| {
            batch.append([entry])?;
            let head = &mut batch.head;
            head.vote = Some(vote);
            (head.committed, head.applied) = (Some(id), Some(id));
            head.membership = membership;
            Ok(())
        })?;
        self.state.revision = id.index;
        Ok(())
    }

    /// What makes this node the leader that it is when it is alone.
    fn lead(&self, node: NodeId) -> Result<Lead, StoreError> {
        let head = &self.ledger.head;
        if let Some(owner) = head.node.filter(|owner| *owner != node) {
            return Err(StoreError::Foreign { owner, node });
        }
        if head.last.is_none() && head.vote.is_none() {
            let alone =
                openraft::Membership::new(vec![BTreeSet::from([node])], BTreeMap::from([(node, Peer::default())]));
            let first = LogEntry { log_id: LogId::default(), payload: EntryPayload::Membership(alone.clone()) };
            let (last, membership) = (Some(first.log_id), Some(Membership::new(Some(first.log_id), alone)));
            return Ok(Lead { vote: Vote::new_committed(1, node), last, membership, entries: vec![first] });
        }
        if !head.membership.voter_ids().eq([node]) || head.applied != head.last {
            return Err(StoreError::Clustered(head.membership.nodes().count()));
        }
        // With one voter, an election is won by being written down.
        let vote = match head.vote {
            Some(vote) if vote.is_committed() && vote.leader_id().node_id == node => vote,
            Some(vote) => Vote::new_committed(vote.leader_id().term + 1, node),
            None => Vote::new_committed(1, node),
        };
        Ok(Lead { vote, last: head.last, membership: None, entries: Vec::new() })
    }

    fn commit(&mut self, lead: Lead, id: LogId, rows: &BTreeSet<Row>) -> Result<(), StoreError> {
        let rows = rows::changed(&self.state, rows).map_err(write_error)?;
        let purged = match id.index.checked_sub(LOG_KEPT) {
            Some(index) => self.ledger.id_at(index)?,
            None => None,
        };
        let state = &self.state;
        self.ledger.write(Durability::Immediate, |batch| {
            batch.append(&lead.entries)?;
            batch.put_rows(rows)?;
            let head = &mut batch.head;
            (head.node, head.vote) = (Some(id.leader_id.node_id), Some(lead.vote));
            (head.committed, head.applied) = (Some(id), Some(id));
            (head.next_seq, head.last_time_ms) = (state.next_seq, state.last_time_ms);
            if let Some(membership) = lead.membership {
                head.membership = membership;
            }
            purged.map_or(Ok(()), |upto| ledger::purge(batch, upto))
        })
    }
}

/// What a command is written with.
struct Lead {
    vote: Vote,
    last: Option<LogId>,
    membership: Option<Membership>,
    entries: Vec<LogEntry>,
}

#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "sim"))]
#[allow(clippy::unwrap_used)]
pub(crate) mod trial;
