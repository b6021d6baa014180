//! The types that openraft is used with.

use serde::{Deserialize, Serialize};
use zoneward_sectors::ids::NodeId;

use super::runtime::Runtime;
use super::snapshot_file::SnapshotFile;
use crate::apply::{Outcome, Refusal};
use crate::command;

openraft::declare_raft_types!(
    /// Zoneward's raft: entries are opaque until they are applied, snapshots are files.
    pub Types:
        D = command::Entry,
        R = Reply,
        NodeId = NodeId,
        Node = Peer,
        Entry = openraft::Entry<Types>,
        SnapshotData = SnapshotFile,
        AsyncRuntime = Runtime,
);

/// Where an entry stands in the log.
pub type LogId = openraft::LogId<NodeId>;
/// A vote, promised or given.
pub type Vote = openraft::Vote<NodeId>;
/// One entry of the log.
pub type LogEntry = openraft::Entry<Types>;
/// Who belongs to the zone, and since which entry.
pub type Membership = openraft::StoredMembership<NodeId, Peer>;
/// What a snapshot is of.
pub type SnapshotMeta = openraft::SnapshotMeta<NodeId, Peer>;

/// How a node is reached, and by which key it is known. Kept in the membership, so that all agree on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Host and port; empty while the node has never been on a network.
    pub address: String,
    /// Base64 of its Ed25519 public key.
    pub public_key: String,
}

/// What an entry came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Number of the entry: the state's revision just after it.
    pub revision: u64,
    /// Why the command was refused; `None` if it was done.
    pub refused: Option<Refused>,
}

/// A refusal as it travels between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the zone refuses: {text}")]
pub struct Refused {
    /// Which kind: [`Refusal::code`].
    pub code: String,
    pub text: String,
}

impl From<&Refusal> for Refused {
    fn from(r: &Refusal) -> Self {
        Self { code: r.code().to_owned(), text: r.to_string() }
    }
}

impl Reply {
    pub(crate) fn new(revision: u64, outcome: &Outcome) -> Self {
        let refused = match outcome {
            Outcome::Done => None,
            Outcome::Refused(r) => Some(r.into()),
        };
        Self { revision, refused }
    }
}
