//! Reading one backup sector: any range of its raw bytes or of its tar stream, each segment opened and verified alone.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::crypto::Secret32;
use crate::frames::{FrameError, FrameReader, SeekTable};
use crate::header::{Header, HeaderError};
use crate::ids::{Digest, SectorId};
use crate::limits::{HEADER_LEN, INDEX_LEN_MAX, SEGMENT_LEN};
use crate::stream::{Layout, Leaf, RecordKeys, Trailer, TrailerError, raw_id};
use crate::stripes::Stripes;

/// Where a sector's bytes come from.
pub trait SectorIn: Send + Sync {
    /// Bytes of the whole backup sector.
    fn len(&self) -> io::Result<u64>;
    /// Fills `buf` from `offset`; a shorter file is an error.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// True if it holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Why a sector, or a part of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SectorReadError {
    #[error("reading from the target failed")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Trailer(#[from] TrailerError),
    #[error("the file's length ({0} bytes) is not that of a sector: it was cut or extended")]
    Length(u64),
    #[error("segment {0} is damaged: it does not authenticate")]
    Segment(u64),
    #[error("segment {0} does not match its leaf hash")]
    Leaf(u64),
    #[error("the leaf table is damaged")]
    LeafTable,
    #[error("its key cannot be opened with the zone's secret")]
    Key,
    #[error("the zone forgot its key, as its source is write-only: only the owner's opens it (--with-owner-key)")]
    OwnerOnly,
    #[error("piece {0} of its stored bytes is not what was sealed")]
    Piece(u64),
    #[error("its stored bytes are not those that were sealed")]
    Stored,
    #[error("this is another sector than the one asked for: {0}")]
    Other(&'static str),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the stored content does not match its fingerprint")]
    Fingerprint,
    #[error("a range lies outside the sector")]
    Range,
}

impl SectorReadError {
    /// True if the target's bytes are wrong or gone, not merely out of reach.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Io(e) => matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound),
            Self::OwnerOnly => false,
            _ => true,
        }
    }
}

/// What a reader must find, as the state or a request knows it.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub sector: Option<SectorId>,
    pub raw_id: Option<Digest>,
    pub header_hash: Option<Digest>,
}

/// Reads the header of a sector; nothing of it is verified yet.
pub fn read_header(input: &dyn SectorIn) -> Result<Header, SectorReadError> {
    let mut bytes = vec![0u8; HEADER_LEN];
    input.read_at(&mut bytes, 0)?;
    Ok(Header::parse(&bytes)?)
}

/// An opened backup sector.
pub struct SectorReader {
    input: Arc<dyn SectorIn>,
    keys: RecordKeys,
    layout: Layout,
    trailer: Trailer,
    table: SeekTable,
}

impl std::fmt::Debug for SectorReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SectorReader({})", self.trailer.sector)
    }
}

impl SectorReader {
    /// Opens a sector whose header was read and whose data key is known: signature and chain, commitment, trailer, seek table.
    pub fn open(
        input: Arc<dyn SectorIn>,
        header: &Header,
        owner_sign_public: &[u8; 32],
        dek: &Secret32,
        expected: &Expected,
    ) -> Result<Self, SectorReadError> {
        header.verify(owner_sign_public)?;
        if expected.header_hash.is_some_and(|h| h != header.hash()) {
            return Err(SectorReadError::Other("its header is not the one that was minted"));
        }
        header.check_commitment(dek)?;
        let keys = RecordKeys::derive(dek, header);
        let len = input.len()?;
        let layout = Layout::of_file(len).ok_or(SectorReadError::Length(len))?;
        if layout.raw_len() > 1 << header.core().class_log2 {
            return Err(SectorReadError::Length(len));
        }
        let mut sealed = vec![0u8; HEADER_LEN];
        input.read_at(&mut sealed, layout.trailer_at())?;
        let trailer = keys.open_trailer(&sealed)?;
        if trailer.raw_len != layout.raw_len() {
            return Err(SectorReadError::Length(len));
        }
        if expected.sector.is_some_and(|s| s != trailer.sector) {
            return Err(SectorReadError::Other("its trailer names another sector"));
        }
        if expected.raw_id.is_some_and(|r| r != trailer.raw_id) {
            return Err(SectorReadError::Other("its trailer names another raw id"));
        }
        let mut reader = Self { input, keys, layout, trailer, table: SeekTable::new() };
        let (at, n) = reader.trailer.seek_table;
        if n > SeekTable::encoded_len(crate::limits::FRAMES_MAX as usize) {
            return Err(SectorReadError::Range);
        }
        let bytes = reader.read_raw(at..at + n)?;
        reader.table = SeekTable::parse(&bytes, at)?;
        if reader.table.end().1 != reader.trailer.tar_len {
            return Err(FrameError::SeekTable("its end is not the tar's").into());
        }
        Ok(reader)
    }

    pub fn trailer(&self) -> &Trailer {
        &self.trailer
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn table(&self) -> &SeekTable {
        &self.table
    }

    /// Opens segment `i` into `out`, which must be exactly as long as the segment's plaintext. `scratch` is reused room.
    pub fn read_segment(&self, i: u64, scratch: &mut Vec<u8>, out: &mut [u8]) -> Result<(), SectorReadError> {
        if i >= self.layout.segments() || out.len() != self.layout.segment_len(i) {
            return Err(SectorReadError::Range);
        }
        scratch.resize(out.len() + crate::crypto::TAG_LEN, 0);
        self.input.read_at(scratch, Layout::segment_at(i))?;
        self.keys.open_segment(i as u32, self.layout.is_last(i), scratch, out).map_err(|_| SectorReadError::Segment(i))
    }

    /// What the keys of its stripes come from.
    pub fn audit_root(&self) -> &Secret32 {
        self.keys.audit_root()
    }

    /// Hands what lies before the segments to `stripes`.
    pub fn pass_header(&self, stripes: &Stripes) -> Result<(), SectorReadError> {
        self.pass(stripes, 0, HEADER_LEN)
    }

    /// Hands what lies behind the segments to `stripes`: with each of them, as it was read, all has passed.
    pub fn pass_tables(&self, stripes: &Stripes) -> Result<(), SectorReadError> {
        self.pass(stripes, self.layout.leaves_at(), self.layout.leaves_len())?;
        self.pass(stripes, self.layout.trailer_at(), HEADER_LEN)
    }

    fn pass(&self, stripes: &Stripes, at: u64, len: usize) -> Result<(), SectorReadError> {
        let mut sealed = vec![0; len];
        self.input.read_at(&mut sealed, at)?;
        stripes.pass(at, &sealed);
        Ok(())
    }

    /// Any range of the raw sector.
    pub fn read_raw(&self, range: Range<u64>) -> Result<Vec<u8>, SectorReadError> {
        let mut out = Vec::new();
        self.read_raw_into(range, &mut Vec::new(), &mut out)?;
        Ok(out)
    }

    /// Any range of the raw sector, into `out` (replaced). Whole segments are read, as an outsider may see.
    pub fn read_raw_into(
        &self,
        range: Range<u64>,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), SectorReadError> {
        out.clear();
        if range.start > range.end || range.end > self.layout.raw_len() {
            return Err(SectorReadError::Range);
        }
        if range.is_empty() {
            return Ok(());
        }
        let seg = SEGMENT_LEN as u64;
        let (first, last) = (range.start / seg, (range.end - 1) / seg);
        let begin = (range.start - first * seg) as usize;
        let mut at = 0;
        for i in first..=last {
            let n = self.layout.segment_len(i);
            out.resize(at + n, 0);
            self.read_segment(i, scratch, &mut out[at..])?;
            at += n;
        }
        out.truncate(begin + (range.end - range.start) as usize);
        if begin > 0 {
            out.drain(..begin);
        }
        Ok(())
    }

    /// Frame `i` of the tar stream, decompressed.
    pub fn read_frame(&self, i: usize, frames: &mut FrameReader) -> Result<Vec<u8>, SectorReadError> {
        let (raw, tar) = self.table.frame(i).ok_or(SectorReadError::Range)?;
        let bytes = self.read_raw(raw)?;
        let mut out = vec![0u8; (tar.end - tar.start) as usize];
        frames.read(&bytes, &mut out)?;
        Ok(out)
    }

    /// A range of the tar stream, at most `limit` bytes.
    pub fn read_tar(&self, offset: u64, len: u64, limit: u64) -> Result<Vec<u8>, SectorReadError> {
        let end = offset.checked_add(len).filter(|e| *e <= self.trailer.tar_len).ok_or(SectorReadError::Range)?;
        if len > limit {
            return Err(SectorReadError::Range);
        }
        let mut out = Vec::with_capacity(len as usize);
        let mut frames = FrameReader::new()?;
        let mut at = offset;
        while at < end {
            let i = self.table.find(at).ok_or(SectorReadError::Range)?;
            let (_, tar) = self.table.frame(i).ok_or(SectorReadError::Range)?;
            let frame = self.read_frame(i, &mut frames)?;
            let stop = end.min(tar.end);
            out.extend_from_slice(&frame[(at - tar.start) as usize..(stop - tar.start) as usize]);
            at = stop;
        }
        Ok(out)
    }

    /// The index member.
    pub fn index_json(&self) -> Result<Vec<u8>, SectorReadError> {
        let (offset, len) = self.trailer.index;
        self.read_tar(offset, len, INDEX_LEN_MAX)
    }

    /// The leaf hashes, checked against the raw id.
    pub fn leaves(&self) -> Result<Vec<Leaf>, SectorReadError> {
        let mut sealed = vec![0u8; self.layout.leaves_len()];
        self.input.read_at(&mut sealed, self.layout.leaves_at())?;
        let leaves = self.keys.open_leaves(&sealed).map_err(|_| SectorReadError::LeafTable)?;
        if leaves.len() as u64 != self.layout.segments() || raw_id(&leaves) != self.trailer.raw_id {
            return Err(SectorReadError::LeafTable);
        }
        Ok(leaves)
    }
}
