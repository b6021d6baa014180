//! What nodes say to each other: JSON in one bounded frame each way. Which node speaks is the transport's to prove.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openraft::error::SnapshotMismatch;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest, VoteResponse};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, de::Error as _};
use zoneward_sectors::ids::NodeId;

use super::types::{LogId, Peer, SnapshotMeta, Types, Vote};
use crate::limits::FRAME_LEN_MAX;

/// A question to another node.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<NodeId>),
    Chunk(Chunk),
    /// Do you hear a leader? Asked before an election, because a node that was cut off must not unseat a good leader.
    Hear,
    /// Up to which entry must a reader have applied to see everything acknowledged so far? For the leader.
    ReadIndex,
}

/// A piece of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct Chunk {
    pub vote: Vote,
    pub meta: SnapshotMeta,
    pub offset: u64,
    pub data: Base64,
    pub done: bool,
}

/// Bytes as base64: JSON would spend four bytes on each.
#[derive(Debug)]
pub struct Base64(pub Vec<u8>);

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Response {
    Append(AppendEntriesResponse<NodeId>),
    Vote(VoteResponse<NodeId>),
    Chunk(Vote),
    /// The snapshot must be sent from its beginning.
    Mismatch(SnapshotMismatch),
    Heard(Heard),
    ReadIndex(Option<LogId>),
    /// The asking node does not belong to the zone, or said what makes no sense.
    Refused(String),
    /// The asked node cannot answer.
    Failed(String),
}

/// What a node hears.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// A leader that has the majority.
    pub leader: bool,
    /// Who belongs to the zone, as far as this node knows.
    pub members: BTreeMap<NodeId, Peer>,
    /// The entry that made them members.
    pub since: Option<u64>,
    /// The end of its log.
    #[serde(default)]
    pub last: Option<u64>,
}

/// Why a frame cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("a message of {0} bytes is longer than the limit of {FRAME_LEN_MAX}")]
    TooLong(usize),
    #[error("a message cannot be understood: {0}: do both nodes run the same release?")]
    Body(String),
}

/// A message as bytes.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let bytes = serde_json::to_vec(message).map_err(|e| WireError::Body(e.to_string()))?;
    if bytes.len() > FRAME_LEN_MAX { Err(WireError::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// A message from bytes that anyone may have sent.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > FRAME_LEN_MAX {
        return Err(WireError::TooLong(bytes.len()));
    }
    serde_json::from_slice(bytes).map_err(|e| WireError::Body(e.to_string()))
}

impl From<InstallSnapshotRequest<Types>> for Chunk {
    fn from(r: InstallSnapshotRequest<Types>) -> Self {
        Self { vote: r.vote, meta: r.meta, offset: r.offset, data: Base64(r.data), done: r.done }
    }
}

impl From<Chunk> for InstallSnapshotRequest<Types> {
    fn from(c: Chunk) -> Self {
        Self { vote: c.vote, meta: c.meta, offset: c.offset, data: c.data.0, done: c.done }
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(D::Error::custom)
    }
}
