//! Raft over the store: how the nodes of a zone agree on its log.
//!
//! [`Consensus`] is the handle of one node. It needs a [`Store`](crate::store::Store), a way to the other nodes
//! ([`Peers`]), and someone who calls [`Consensus::serve`] with what they send. openraft is seen in this module only.

mod contacts;
mod members;
#[cfg(any(test, feature = "sim"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub(crate) mod net;
mod network;
mod node;
mod runtime;
#[cfg(any(test, feature = "sim"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod sim;
mod snapshot_file;
mod storage;
mod types;
mod wire;

pub use network::{Answer, Peers, SendError};
pub use node::{Consensus, Metrics, ProposeError, Role, Settings, StartError};
pub use runtime::{Dice, Runtime, load_dice};
pub use snapshot_file::SnapshotFile;
pub use types::{LogEntry, LogId, Membership, Peer, Refused, Reply, SnapshotMeta, Types, Vote};
pub use wire::WireError;
