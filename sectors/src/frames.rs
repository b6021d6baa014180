//! zstd frames, the seek table of the seekable format, and Padmé lengths (`docs/format.md` §4).

use std::io;

use crate::limits::{FRAME_RAW_MAX, FRAME_TAR_MAX, FRAMES_MAX};

const SKIPPABLE_PADDING: u32 = 0x184D_2A5D;
const SKIPPABLE_SEEK_TABLE: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const BLOCK_MAX: usize = 128 << 10;
/// Bytes of each sample that is tried before a frame is compressed as a whole.
const TRIAL_LEN: usize = 8 << 10;
/// Samples, spread over the data.
const TRIALS: usize = 4;

/// The Padmé length for `len`: never smaller, at most 12 % larger, and one of few.
pub fn padme(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let e = 63 - len.leading_zeros();
    let s = 32 - e.leading_zeros();
    let mask = (1u64 << e.saturating_sub(s)) - 1;
    (len + mask) & !mask
}

/// Compresses frames, one after another, with one context.
pub struct FrameWriter {
    level: i32,
    full: zstd::bulk::Compressor<'static>,
    trial: zstd::bulk::Compressor<'static>,
    scratch: Vec<u8>,
    packed: Vec<u8>,
}

impl std::fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrameWriter(level {})", self.level)
    }
}

impl FrameWriter {
    pub fn new(level: i32) -> io::Result<Self> {
        let full = zstd::bulk::Compressor::new(level)?;
        let trial = zstd::bulk::Compressor::new(1)?;
        Ok(Self {
            level,
            full,
            trial,
            scratch: vec![0; zstd::zstd_safe::compress_bound(TRIAL_LEN)],
            packed: Vec::new(),
        })
    }

    /// Whether any of a few samples shrinks by at least 3 %.
    fn worth_compressing(&mut self, data: &[u8]) -> io::Result<bool> {
        if data.len() < 4 * TRIALS * TRIAL_LEN {
            return Ok(true);
        }
        for i in 0..TRIALS {
            let at = (data.len() - TRIAL_LEN) / (TRIALS - 1) * i;
            let n = self.trial.compress_to_buffer(&data[at..at + TRIAL_LEN], &mut self.scratch[..])?;
            if n < TRIAL_LEN - TRIAL_LEN / 32 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Appends one frame holding part of one large file, after a look at samples: data that does not shrink is stored.
    pub fn append_uniform(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        assert!(data.len() <= FRAME_TAR_MAX, "a frame holds at most 8 MiB");
        if !self.worth_compressing(data)? {
            store(data, out);
            return Ok(());
        }
        self.append(data, out)
    }

    /// Appends one frame holding `data` to `out`; what does not shrink at all is stored as it is.
    pub fn append(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        assert!(data.len() <= FRAME_TAR_MAX, "a frame holds at most 8 MiB");
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(data.len()));
        let n = self.full.compress_to_buffer(data, &mut self.packed)?;
        if n > stored_len(data.len()) {
            store(data, out);
        } else {
            out.extend_from_slice(&self.packed);
        }
        Ok(())
    }
}

/// Bytes of a frame that stores `len` bytes in raw blocks.
pub fn stored_len(len: usize) -> usize {
    9 + len + 3 * len.div_ceil(BLOCK_MAX).max(1)
}

/// Appends a frame of raw blocks: readable by any zstd, at the speed of copying.
pub fn store(data: &[u8], out: &mut Vec<u8>) {
    out.reserve(stored_len(data.len()));
    out.extend_from_slice(&0xFD2F_B528u32.to_le_bytes());
    out.push(0xA0); // single segment, 4-byte content size
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    if data.is_empty() {
        out.extend_from_slice(&[1, 0, 0]);
    }
    let mut rest = data;
    while !rest.is_empty() {
        let (block, after) = rest.split_at(rest.len().min(BLOCK_MAX));
        let head = (block.len() as u32) << 3 | u32::from(after.is_empty());
        out.extend_from_slice(&head.to_le_bytes()[..3]);
        out.extend_from_slice(block);
        rest = after;
    }
}

/// Why a frame or a seek table is refused.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the seek table is damaged: {0}")]
    SeekTable(&'static str),
    #[error("a compressed frame is damaged or longer than the seek table says")]
    Frame(#[source] io::Error),
    #[error("a compressed frame is shorter than the seek table says")]
    Short,
}

/// Opens frames, one after another, with one context.
pub struct FrameReader(zstd::bulk::Decompressor<'static>);

impl std::fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameReader")
    }
}

impl FrameReader {
    pub fn new() -> io::Result<Self> {
        Ok(Self(zstd::bulk::Decompressor::new()?))
    }

    /// Decompresses one frame into `out`, which is as long as the seek table says the frame is.
    pub fn read(&mut self, frame: &[u8], out: &mut [u8]) -> Result<(), FrameError> {
        let n = self.0.decompress_to_buffer(frame, out).map_err(FrameError::Frame)?;
        if n == out.len() { Ok(()) } else { Err(FrameError::Short) }
    }
}

/// Where each frame begins, in the raw sector and in the tar stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeekTable {
    /// (raw offset, tar offset) of each frame, and one more pair: the ends.
    starts: Vec<(u64, u64)>,
}

impl SeekTable {
    pub fn new() -> Self {
        Self { starts: vec![(0, 0)] }
    }

    /// Adds a frame.
    pub fn push(&mut self, raw: u32, tar: u32) {
        let (r, t) = self.end();
        self.starts.push((r + u64::from(raw), t + u64::from(tar)));
    }

    /// Ends of the last frame: (raw, tar).
    pub fn end(&self) -> (u64, u64) {
        self.starts.last().copied().unwrap_or_default()
    }

    pub fn frames(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Frame `i`: its raw range and its tar range.
    pub fn frame(&self, i: usize) -> Option<(std::ops::Range<u64>, std::ops::Range<u64>)> {
        let (a, b) = (self.starts.get(i)?, self.starts.get(i + 1)?);
        Some((a.0..b.0, a.1..b.1))
    }

    /// The frame that holds byte `tar` of the tar stream.
    pub fn find(&self, tar: u64) -> Option<usize> {
        if tar >= self.end().1 {
            return None;
        }
        Some(self.starts.partition_point(|s| s.1 <= tar) - 1)
    }

    /// Bytes of the table once written, with the padding frame's entry.
    pub fn encoded_len(frames: usize) -> u64 {
        8 + 8 * (frames as u64 + 1) + 9
    }

    /// Ends a raw sector: appends padding up to its Padmé length and the table. Returns the table's range of the raw sector.
    pub fn finish(&self, out: &mut Vec<u8>, raw_used: u64) -> (u64, u64) {
        let table_len = Self::encoded_len(self.frames());
        let pad = padme(raw_used + 8 + table_len) - (raw_used + 8 + table_len);
        out.extend_from_slice(&SKIPPABLE_PADDING.to_le_bytes());
        out.extend_from_slice(&(pad as u32).to_le_bytes());
        out.resize(out.len() + pad as usize, 0);
        let at = raw_used + 8 + pad;
        out.extend_from_slice(&SKIPPABLE_SEEK_TABLE.to_le_bytes());
        out.extend_from_slice(&((table_len - 8) as u32).to_le_bytes());
        for i in 0..self.frames() {
            if let Some((r, t)) = self.frame(i) {
                out.extend_from_slice(&((r.end - r.start) as u32).to_le_bytes());
                out.extend_from_slice(&((t.end - t.start) as u32).to_le_bytes());
            }
        }
        out.extend_from_slice(&((8 + pad) as u32).to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&(self.frames() as u32 + 1).to_le_bytes());
        out.push(0);
        out.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
        (at, table_len)
    }

    /// Reads a seek table (the whole skippable frame) that lies at `at` of a raw sector.
    pub fn parse(bytes: &[u8], at: u64) -> Result<Self, FrameError> {
        let bad = FrameError::SeekTable;
        let body = bytes.len().checked_sub(17).ok_or(bad("too short"))?;
        let u32_at =
            |i: usize| -> u32 { bytes.get(i..i + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes) };
        if u32_at(0) != SKIPPABLE_SEEK_TABLE || u64::from(u32_at(4)) != bytes.len() as u64 - 8 {
            return Err(bad("not a seek table frame"));
        }
        let entries = u64::from(u32_at(bytes.len() - 9));
        if u32_at(bytes.len() - 4) != SEEKABLE_MAGIC || bytes.get(bytes.len() - 5) != Some(&0) {
            return Err(bad("footer"));
        }
        if entries == 0 || entries > FRAMES_MAX + 1 || entries * 8 != body as u64 {
            return Err(bad("number of entries"));
        }
        let mut table = Self::new();
        table.starts.reserve(entries as usize);
        for i in 0..entries as usize {
            let (raw, tar) = (u32_at(8 + 8 * i), u32_at(12 + 8 * i));
            let padding = i as u64 + 1 == entries;
            if padding {
                if tar != 0 || table.end().0 + u64::from(raw) != at {
                    return Err(bad("the frames do not fill the sector"));
                }
            } else if tar == 0 || tar as usize > FRAME_TAR_MAX || raw == 0 || raw as usize > FRAME_RAW_MAX {
                return Err(bad("size of a frame"));
            } else {
                table.push(raw, tar);
            }
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padme_is_close_and_never_smaller() {
        assert_eq!((padme(0), padme(1), padme(2), padme(9), padme(1025)), (0, 1, 2, 10, 1088));
        for e in 1..37 {
            for d in [0u64, 1, 3] {
                let l = (1u64 << e) + d;
                assert!(padme(l) >= l && padme(l) as f64 <= l as f64 * 1.12 + 1.0, "{l} {}", padme(l));
                assert_eq!(padme(padme(l)), padme(l));
            }
            assert_eq!(padme(1 << e), 1 << e);
        }
    }

    #[test]
    fn frames_come_back_stored_or_compressed() {
        let mut w = FrameWriter::new(3).unwrap();
        let mut random = vec![0u8; 700_000];
        crate::crypto::fill_random(&mut random);
        let text = b"the same line again\n".repeat(30_000);
        for data in [&b""[..], b"x", &random, &text] {
            let mut out = Vec::new();
            w.append_uniform(data, &mut out).unwrap();
            assert!(out.len() <= stored_len(data.len()));
            assert_eq!(zstd::decode_all(&out[..]).unwrap(), data);
            let mut back = vec![0u8; data.len()];
            FrameReader::new().unwrap().read(&out, &mut back).unwrap();
            assert_eq!(back, data);
        }
        let mut out = Vec::new();
        store(b"", &mut out);
        assert_eq!(zstd::decode_all(&out[..]).unwrap(), b"");
    }

    #[test]
    fn a_raw_sector_is_padded_and_its_table_found_again() {
        let mut w = FrameWriter::new(3).unwrap();
        let (mut raw, mut table) = (Vec::new(), SeekTable::new());
        for i in 0..50u32 {
            let data = format!("frame {i} ").repeat(2000).into_bytes();
            let before = raw.len();
            w.append(&data, &mut raw).unwrap();
            table.push((raw.len() - before) as u32, data.len() as u32);
        }
        let used = raw.len() as u64;
        let (at, len) = table.finish(&mut raw, used);
        assert_eq!(raw.len() as u64, at + len);
        assert_eq!(padme(raw.len() as u64), raw.len() as u64);
        let again = SeekTable::parse(&raw[at as usize..], at).unwrap();
        assert_eq!(again, table);
        assert_eq!(again.find(again.end().1), None);
        assert_eq!(again.find(0), Some(0));
        assert_eq!(again.find(again.frame(7).unwrap().1.start), Some(7));
        assert_eq!(zstd::decode_all(&raw[..]).unwrap().len() as u64, table.end().1);
        for i in 0..len as usize {
            let mut bad = raw[at as usize..].to_vec();
            bad[i] ^= 0x40;
            let parsed = SeekTable::parse(&bad, at);
            assert!(parsed.is_err() || parsed.unwrap() != table, "byte {i}");
        }
        for cut in 0..len as usize {
            assert!(SeekTable::parse(&raw[at as usize..at as usize + cut], at).is_err());
        }
    }
}
