//! Raft over the store: how the nodes of a zone agree on its log.

mod runtime;
mod snapshot_file;
mod storage;
mod types;

pub use runtime::{Dice, Runtime, load_dice};
pub use snapshot_file::SnapshotFile;
pub use storage::Storage;
pub use types::{LogEntry, LogId, Membership, Peer, Refused, Reply, SnapshotMeta, Types, Vote};
