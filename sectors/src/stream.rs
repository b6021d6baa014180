//! The records after the header: segments, leaf table, trailer (`docs/format.md` §3.2 and §3.3).

use serde::{Deserialize, Serialize};

use crate::crypto::{GcmKey, NotAuthentic, Secret32, TAG_LEN, hkdf32, sha256};
use crate::header::Header;
use crate::ids::{CheckpointId, Digest, NodeId, SectorId, ZoneId};
use crate::limits::{HEADER_LEN, SEGMENT_LEN, SEGMENTS_MAX};
use crate::stripes::audit_root;

/// BLAKE3 of one segment's plaintext.
pub type Leaf = [u8; 32];

const TRAILER_PLAIN: usize = HEADER_LEN - TAG_LEN;

/// The keys of one backup sector's records.
#[derive(Debug)]
pub struct RecordKeys {
    segments: GcmKey,
    leaves: GcmKey,
    trailer: GcmKey,
    aad: [u8; 32],
    audit_root: Secret32,
}

fn segment_nonce(index: u32, last: bool) -> [u8; 12] {
    let mut n = [0u8; 12];
    n[7..11].copy_from_slice(&index.to_be_bytes());
    n[11] = u8::from(last);
    n
}

impl RecordKeys {
    pub fn derive(dek: &Secret32, header: &Header) -> Self {
        let h = header.hash();
        let key = |label: &[u8]| GcmKey::new(&hkdf32(&dek.0, &h.0, &[label]));
        Self {
            segments: key(b"zoneward/1 segments"),
            leaves: key(b"zoneward/1 leaves"),
            trailer: key(b"zoneward/1 trailer"),
            aad: h.0,
            audit_root: audit_root(dek, header),
        }
    }

    /// What the keys of the sector's stripes come from.
    pub fn audit_root(&self) -> &Secret32 {
        &self.audit_root
    }

    /// Seals segment `index` in place and appends its tag.
    pub fn seal_segment(&self, index: u32, last: bool, buf: &mut Vec<u8>) {
        assert!(!buf.is_empty() && buf.len() <= SEGMENT_LEN && (last || buf.len() == SEGMENT_LEN));
        let tag = self.segments.seal(segment_nonce(index, last), &self.aad, buf);
        buf.extend_from_slice(&tag);
    }

    /// Opens segment `index` into `out`, which is 16 bytes shorter than `sealed`.
    pub fn open_segment(&self, index: u32, last: bool, sealed: &[u8], out: &mut [u8]) -> Result<(), NotAuthentic> {
        self.segments.open_into(segment_nonce(index, last), &self.aad, sealed, out)
    }

    pub fn seal_leaves(&self, leaves: &[Leaf]) -> Vec<u8> {
        self.leaves.seal_vec([0; 12], &self.aad, leaves.as_flattened())
    }

    pub fn open_leaves(&self, sealed: &[u8]) -> Result<Vec<Leaf>, NotAuthentic> {
        let plain = self.leaves.open([0; 12], &self.aad, sealed)?;
        let (leaves, rest) = plain.as_chunks::<32>();
        if rest.is_empty() { Ok(leaves.to_vec()) } else { Err(NotAuthentic) }
    }

    /// Seals the trailer into its 4,096 bytes.
    pub fn seal_trailer(&self, trailer: &Trailer) -> Result<Vec<u8>, TrailerError> {
        let json = serde_json::to_vec(trailer).map_err(|_| TrailerError::Damaged("cannot be written as JSON"))?;
        if json.len() + 4 > TRAILER_PLAIN {
            return Err(TrailerError::Damaged("too long"));
        }
        let mut plain = vec![0u8; TRAILER_PLAIN];
        plain[..4].copy_from_slice(&(json.len() as u32).to_le_bytes());
        plain[4..4 + json.len()].copy_from_slice(&json);
        Ok(self.trailer.seal_vec([0; 12], &self.aad, &plain))
    }

    pub fn open_trailer(&self, sealed: &[u8]) -> Result<Trailer, TrailerError> {
        let plain = self.trailer.open([0; 12], &self.aad, sealed).map_err(|_| TrailerError::NotAuthentic)?;
        Trailer::decode(&plain)
    }
}

/// Why a trailer is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TrailerError {
    #[error("the trailer does not authenticate: the sector is damaged or was cut")]
    NotAuthentic,
    #[error("the trailer is damaged: {0}")]
    Damaged(&'static str),
}

/// The sealed last record: what the sector is and where to start reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trailer {
    pub format: u32,
    pub raw_id: Digest,
    pub raw_len: u64,
    pub segments: u64,
    pub sector: SectorId,
    pub zone: ZoneId,
    pub checkpoint: CheckpointId,
    pub packer: NodeId,
    pub epoch: u32,
    /// Length of the tar stream.
    pub tar_len: u64,
    /// Range of the raw sector: (offset, length).
    pub seek_table: (u64, u64),
    /// Range of the tar stream: the index member's content.
    pub index: (u64, u64),
    pub system: bool,
    pub created_ms: u64,
}

impl Trailer {
    /// Reads the plaintext of a trailer.
    pub fn decode(plain: &[u8]) -> Result<Self, TrailerError> {
        let (len, rest) = plain.split_first_chunk::<4>().ok_or(TrailerError::Damaged("too short"))?;
        let len = u32::from_le_bytes(*len) as usize;
        if len > rest.len() {
            return Err(TrailerError::Damaged("length"));
        }
        let (json, zeros) = rest.split_at(len);
        if zeros.iter().any(|b| *b != 0) {
            return Err(TrailerError::Damaged("reserved bytes"));
        }
        let t: Trailer = serde_json::from_slice(json).map_err(|_| TrailerError::Damaged("JSON"))?;
        t.check()?;
        Ok(t)
    }

    fn check(&self) -> Result<(), TrailerError> {
        let inside = |(o, l): (u64, u64), end: u64| o.checked_add(l).is_some_and(|e| e <= end);
        if self.format != 1 {
            return Err(TrailerError::Damaged("unknown format number"));
        }
        if Layout::of_raw(self.raw_len).map(|l| l.segments()) != Some(self.segments) {
            return Err(TrailerError::Damaged("number of segments"));
        }
        if !inside(self.seek_table, self.raw_len) || !inside(self.index, self.tar_len) {
            return Err(TrailerError::Damaged("a range lies outside the sector"));
        }
        if self.seek_table.0 + self.seek_table.1 != self.raw_len {
            return Err(TrailerError::Damaged("the seek table does not end the sector"));
        }
        Ok(())
    }
}

/// SHA-256 over the leaves: the identity of a raw sector.
pub fn raw_id(leaves: &[Leaf]) -> Digest {
    sha256(&[leaves.as_flattened()])
}

/// BLAKE3 of one piece of a backup sector's stored bytes.
pub type Piece = [u8; 32];

/// SHA-256 over the pieces: the identity of the stored bytes of one copy, for whoever has no key to it.
pub fn stored_id(pieces: &[Piece]) -> Digest {
    sha256(&[pieces.as_flattened()])
}

/// Where everything lies in a backup sector; its raw length decides all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    raw_len: u64,
}

impl Layout {
    /// For a raw sector of this length; `None` for 0 or more than 64 GiB.
    pub fn of_raw(raw_len: u64) -> Option<Self> {
        (raw_len > 0 && raw_len <= SEGMENTS_MAX * SEGMENT_LEN as u64).then_some(Self { raw_len })
    }

    /// From the length of the whole file; `None` if no sector has this length.
    pub fn of_file(file_len: u64) -> Option<Self> {
        let body = file_len.checked_sub((2 * HEADER_LEN + TAG_LEN) as u64)?;
        let n = body.div_ceil(SEGMENT_LEN as u64 + 48);
        let layout = Self::of_raw(body.checked_sub(48 * n)?)?;
        (layout.segments() == n).then_some(layout)
    }

    pub fn raw_len(&self) -> u64 {
        self.raw_len
    }

    pub fn segments(&self) -> u64 {
        self.raw_len.div_ceil(SEGMENT_LEN as u64)
    }

    /// Bytes of plaintext in segment `i` (which must exist).
    pub fn segment_len(&self, i: u64) -> usize {
        (self.raw_len - i * SEGMENT_LEN as u64).min(SEGMENT_LEN as u64) as usize
    }

    pub fn is_last(&self, i: u64) -> bool {
        i + 1 == self.segments()
    }

    /// Where segment `i` begins in the file.
    pub fn segment_at(i: u64) -> u64 {
        HEADER_LEN as u64 + i * (SEGMENT_LEN + TAG_LEN) as u64
    }

    pub fn leaves_at(&self) -> u64 {
        HEADER_LEN as u64 + self.raw_len + TAG_LEN as u64 * self.segments()
    }

    pub fn leaves_len(&self) -> usize {
        32 * self.segments() as usize + TAG_LEN
    }

    pub fn trailer_at(&self) -> u64 {
        self.leaves_at() + self.leaves_len() as u64
    }

    pub fn file_len(&self) -> u64 {
        self.trailer_at() + HEADER_LEN as u64
    }

    /// Pieces of the file: the header, each sealed segment, and what comes after them.
    pub fn pieces(&self) -> u64 {
        self.segments() + 2
    }

    /// Where piece `k` lies in the file; nowhere, if there is none.
    pub fn piece(&self, k: u64) -> std::ops::Range<u64> {
        match k.checked_sub(1) {
            None => 0..HEADER_LEN as u64,
            Some(i) if i < self.segments() => Self::segment_at(i)..Self::segment_at(i + 1).min(self.leaves_at()),
            Some(i) if i == self.segments() => self.leaves_at()..self.file_len(),
            Some(_) => self.file_len()..self.file_len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_found_again_from_the_file_length() {
        let s = SEGMENT_LEN as u64;
        for raw in [1, 2, 100, s - 1, s, s + 1, 2 * s - 1, 2 * s, 3 * s + 5, 1 << 36] {
            let l = Layout::of_raw(raw).unwrap();
            assert_eq!(Layout::of_file(l.file_len()), Some(l), "{raw}");
            // The pieces cover the file, without a gap.
            let end = (0..l.pieces().min(9)).fold(0, |at, k| {
                assert_eq!(l.piece(k).start, at, "{raw} {k}");
                l.piece(k).end
            });
            assert!(l.pieces() > 9 || end == l.file_len(), "{raw}");
            assert_eq!(l.piece(l.pieces() - 2).end, l.piece(l.pieces() - 1).start);
            assert!(l.piece(l.pieces()).is_empty());
        }
        for bad in [0, 100, 8208, 8208 + 48, u64::MAX, (1 << 37)] {
            assert_eq!(Layout::of_file(bad), None, "{bad}");
        }
        assert_eq!(Layout::of_raw((1 << 36) + 1), None);
    }

    #[test]
    fn segment_nonces_equal_the_stream_construction() {
        assert_eq!(segment_nonce(0, false), [0; 12]);
        assert_eq!(segment_nonce(0x0102_0304, true), [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 1]);
    }
}
