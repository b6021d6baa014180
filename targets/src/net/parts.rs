//! Stores that take a sector in pieces and show it when all are there: multipart uploads, or runs of part files.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::ids::{CopyId, Digest, ZoneAlias};

use crate::errors::{Op, TargetError};
use crate::limits::PART_LEN;

/// A sector of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Which {
    pub alias: ZoneAlias,
    pub copy: CopyId,
}

impl Which {
    /// What an operation was about, for messages.
    pub fn sector(self) -> String {
        format!("sector {}", self.copy)
    }

    /// The same, while it is on its way.
    pub fn incoming(self) -> String {
        format!("incoming sector {}", self.copy)
    }
}

/// A part that the store holds.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// From 0; the part begins at this many times [`PART_LEN`].
    pub index: u64,
    pub len: u64,
    /// What the store calls it.
    pub tag: String,
}

/// A store of parts. Each call has its own limits of time and tries.
#[async_trait]
pub(crate) trait PartStore: Send + Sync + 'static {
    /// The target's URL.
    fn url(&self) -> &str;

    /// Bytes of a sealed sector; `None` if there is none.
    async fn sealed_len(&self, op: Op, which: Which) -> Result<Option<u64>, TargetError>;

    /// The note of a sector on its way, at most `limit` bytes; `None` if there is none.
    async fn get_note(&self, op: Op, which: Which, limit: u64) -> Result<Option<Bytes>, TargetError>;

    /// Replaces the note.
    async fn put_note(&self, op: Op, which: Which, bytes: Bytes) -> Result<(), TargetError>;

    /// Removes the note; nothing there is fine.
    async fn remove_note(&self, op: Op, which: Which) -> Result<(), TargetError>;

    /// Begins to take parts; answers what the store calls that.
    async fn begin(&self, which: Which) -> Result<String, TargetError>;

    /// The parts that are held, in any order; `None` if what was begun is no more.
    async fn held(&self, op: Op, which: Which, upload: &str) -> Result<Option<Vec<Part>>, TargetError>;

    /// Takes a part, over one that is there.
    async fn put_part(&self, which: Which, upload: &str, index: u64, bytes: Bytes) -> Result<Part, TargetError>;

    /// Makes all parts, in order, the sealed sector of `len` bytes.
    async fn finish(&self, which: Which, upload: &str, parts: Vec<Part>, len: u64) -> Result<(), TargetError>;

    /// Makes these bytes the sealed sector: one that is no longer than a part.
    async fn put_whole(&self, which: Which, bytes: Bytes) -> Result<(), TargetError>;

    /// Throws away what was begun; nothing there is fine.
    async fn throw_away(&self, op: Op, which: Which, upload: &str) -> Result<(), TargetError>;
}

/// Bytes of a note's first line.
const LINE_LEN_MAX: u64 = 4096;

/// What is known of a sector on its way: a line of JSON, and behind it the bytes that fill no part yet.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub format: u32,
    /// What the store calls what was begun, if parts were sent.
    pub upload: Option<String>,
    /// Where the bytes behind the line belong.
    #[serde(default)]
    pub tail_at: u64,
    /// SHA-256 of those bytes: a note that is half there has no tail.
    #[serde(default)]
    tail_hash: Option<Digest>,
    #[serde(skip)]
    pub tail: Vec<u8>,
}

impl Note {
    /// Bytes of the longest note.
    pub const LEN_MAX: u64 = LINE_LEN_MAX + PART_LEN;

    pub fn new(upload: Option<String>) -> Note {
        Note { format: 1, upload, ..Note::default() }
    }

    pub fn with_tail(self, tail_at: u64, tail: Vec<u8>) -> Note {
        Note { tail_at, tail_hash: Some(sha256(&[&tail])), tail, ..self }
    }

    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.tail.len() + 256);
        // Plain values always become JSON; a vector takes every byte.
        let _ = serde_json::to_writer(&mut out, self);
        out.push(b'\n');
        out.extend_from_slice(&self.tail);
        out.into()
    }

    /// Reads a note. One that makes no sense tells nothing: what was begun is begun again.
    fn from_bytes(bytes: &[u8]) -> Note {
        let end = bytes.iter().take(LINE_LEN_MAX as usize).position(|b| *b == b'\n').unwrap_or(0);
        let (line, rest) = bytes.split_at(end);
        match serde_json::from_slice::<Note>(line) {
            Ok(note) if note.format == 1 => {
                let tail = rest.get(1..).filter(|t| note.tail_hash == Some(sha256(&[t]))).unwrap_or_default();
                Note { tail: tail.to_vec(), ..note }
            }
            _ => Note::new(None),
        }
    }

    pub async fn read(store: &dyn PartStore, op: Op, which: Which) -> Result<Option<Note>, TargetError> {
        let bytes = store.get_note(op, which, Note::LEN_MAX).await?;
        Ok(bytes.map(|b| Note::from_bytes(&b)))
    }

    pub async fn write(&self, store: &dyn PartStore, op: Op, which: Which) -> Result<(), TargetError> {
        store.put_note(op, which, self.to_bytes()).await
    }
}

/// Throws away what was begun of a sector and not sealed; nothing there is fine.
pub(crate) async fn discard(store: Arc<dyn PartStore>, op: Op, which: Which) -> Result<(), TargetError> {
    let Some(note) = Note::read(&*store, op, which).await? else { return Ok(()) };
    if let Some(upload) = &note.upload {
        store.throw_away(op, which, upload).await?;
    }
    // Last: while parts are there, something must tell of them.
    store.remove_note(op, which).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_and_nonsense_is_an_empty_note() {
        let note = Note::new(Some("u\n\"1".into())).with_tail(3 * PART_LEN, b"x\n\0y".to_vec());
        assert_eq!(Note::from_bytes(&note.to_bytes()), note);
        let half = Note::from_bytes(&note.to_bytes().slice(..note.to_bytes().len() - 1));
        assert_eq!((half.tail.len(), half.upload), (0, note.upload));
        let empty = Note::new(None);
        assert_eq!(Note::from_bytes(&empty.to_bytes()), empty);
        for bad in [&b""[..], b"\n", b"{}", b"{\"format\":2,\"upload\":null}\n", b"no end of line", &[0; 9000]] {
            assert_eq!(Note::from_bytes(bad), empty);
        }
    }
}
