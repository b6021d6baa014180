//! Writing one backup sector in one pass: frames come in, sealed segments go out; no plaintext is ever spooled.
//!
//! Segments are independent, so sealing them can be spread over worker threads: the writer fills 1 MiB buffers in order
//! and hands them over; whoever takes a [`SealJob`] hashes, seals and writes it at its place.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::header::Header;
use crate::ids::{CheckpointId, Digest, NodeId, SectorId, ZoneId};
use crate::limits::{HEADER_LEN, SEGMENT_LEN, SEGMENTS_MAX};
use crate::stream::{Layout, Leaf, Piece, RecordKeys, Trailer, raw_id};
use crate::{frames::SeekTable, pax};

/// Where a sector's bytes go: a file that takes writes at any offset from many threads.
pub trait SectorOut: Send + Sync {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// What a sector is, decided before its first byte.
#[derive(Clone, Copy, Debug)]
pub struct SectorFacts {
    pub zone: ZoneId,
    pub sector: SectorId,
    pub checkpoint: CheckpointId,
    pub packer: NodeId,
    pub epoch: u32,
    pub system: bool,
    pub created_ms: u64,
}

/// Why a sector could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SectorWriteError {
    #[error("writing a sector failed")]
    Io(#[from] io::Error),
    #[error("the sector would grow beyond its class")]
    TooLarge,
    #[error("a thread that seals segments ended unexpectedly")]
    Workers,
}

/// One segment on its way out.
pub struct SealJob {
    keys: Arc<RecordKeys>,
    out: Arc<dyn SectorOut>,
    index: u32,
    last: bool,
    buf: Vec<u8>,
    done: Sender<Sealed>,
}

struct Sealed {
    index: u32,
    leaf: Leaf,
    piece: Piece,
    buf: Vec<u8>,
    result: io::Result<()>,
}

impl SealJob {
    /// Hashes, seals and writes the segment, and reports to its writer.
    pub fn run(mut self) {
        let leaf = *blake3::hash(&self.buf).as_bytes();
        self.keys.seal_segment(self.index, self.last, &mut self.buf);
        let piece = *blake3::hash(&self.buf).as_bytes();
        let result = self.out.write_at(Layout::segment_at(u64::from(self.index)), &self.buf);
        // The writer is gone only when it failed already; then nobody needs the report.
        let _ = self.done.send(Sealed { index: self.index, leaf, piece, buf: self.buf, result });
    }
}

/// Segment buffers in flight at most: 1 MiB each.
const IN_FLIGHT_MAX: usize = 8;

/// What is known of a sector when it is complete.
#[derive(Clone, Debug)]
pub struct Finished {
    pub raw_id: Digest,
    pub raw_len: u64,
    pub tar_len: u64,
    pub index: (u64, u64),
    pub seek_table: (u64, u64),
    pub leaves: Vec<Leaf>,
    /// Bytes of the whole backup sector.
    pub file_len: u64,
    /// Hashes of the pieces of its stored bytes.
    pub pieces: Vec<Piece>,
}

/// Writes one sector.
pub struct SectorWriter {
    facts: SectorFacts,
    keys: Arc<RecordKeys>,
    out: Arc<dyn SectorOut>,
    jobs: Option<Sender<SealJob>>,
    done: (Sender<Sealed>, Receiver<Sealed>),
    in_flight: usize,
    spare: Vec<Vec<u8>>,
    current: Vec<u8>,
    next_index: u32,
    leaves: Vec<Leaf>,
    /// Of the header and the segments so far.
    pieces: Vec<Piece>,
    raw_len: u64,
    class_len: u64,
    table: SeekTable,
}

impl std::fmt::Debug for SectorWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SectorWriter({}, {} bytes)", self.facts.sector, self.raw_len)
    }
}

impl SectorWriter {
    /// Begins a sector: its header is written first. With `jobs`, segments are sealed by whoever takes them there.
    pub fn begin(
        facts: SectorFacts,
        header: &Header,
        keys: RecordKeys,
        out: Arc<dyn SectorOut>,
        jobs: Option<Sender<SealJob>>,
    ) -> Result<Self, SectorWriteError> {
        out.write_at(0, header.bytes())?;
        Ok(Self {
            facts,
            keys: Arc::new(keys),
            out,
            jobs,
            done: unbounded(),
            in_flight: 0,
            spare: Vec::new(),
            current: Vec::with_capacity(SEGMENT_LEN + 16),
            next_index: 0,
            leaves: Vec::new(),
            pieces: vec![*blake3::hash(header.bytes()).as_bytes()],
            raw_len: 0,
            class_len: 1 << header.core().class_log2,
            table: SeekTable::new(),
        })
    }

    /// Changes who seals segments: other threads, or this one.
    pub fn set_jobs(&mut self, jobs: Option<Sender<SealJob>>) {
        self.jobs = jobs;
    }

    pub fn sector(&self) -> SectorId {
        self.facts.sector
    }

    /// Length of the tar stream so far: where the next frame begins.
    pub fn tar_len(&self) -> u64 {
        self.table.end().1
    }

    /// Bytes of compressed frames that still fit when `reserve` bytes must stay free for what follows them.
    pub fn room(&self, reserve: u64) -> u64 {
        let table = SeekTable::encoded_len(self.table.frames() + 64);
        self.class_len.saturating_sub(self.raw_len + table + 8 + reserve)
    }

    fn take_buffer(&mut self) -> Result<Vec<u8>, SectorWriteError> {
        if let Some(b) = self.spare.pop() {
            return Ok(b);
        }
        if self.in_flight < IN_FLIGHT_MAX {
            return Ok(Vec::with_capacity(SEGMENT_LEN + 16));
        }
        self.collect()?;
        Ok(self.spare.pop().unwrap_or_default())
    }

    /// Waits for one sealed segment.
    fn collect(&mut self) -> Result<(), SectorWriteError> {
        let mut sealed = self.done.1.recv().map_err(|_| SectorWriteError::Workers)?;
        self.in_flight -= 1;
        sealed.result?;
        let i = sealed.index as usize;
        if self.leaves.len() <= i {
            self.leaves.resize(i + 1, [0; 32]);
            self.pieces.resize(i + 2, [0; 32]);
        }
        self.leaves[i] = sealed.leaf;
        self.pieces[i + 1] = sealed.piece;
        sealed.buf.clear();
        self.spare.push(sealed.buf);
        Ok(())
    }

    fn hand_over(&mut self, last: bool) -> Result<(), SectorWriteError> {
        if u64::from(self.next_index) >= SEGMENTS_MAX {
            return Err(SectorWriteError::TooLarge);
        }
        let next = if last { Vec::new() } else { self.take_buffer()? };
        let buf = std::mem::replace(&mut self.current, next);
        let job = SealJob {
            keys: self.keys.clone(),
            out: self.out.clone(),
            index: self.next_index,
            last,
            buf,
            done: self.done.0.clone(),
        };
        self.next_index += 1;
        self.in_flight += 1;
        match &self.jobs {
            Some(jobs) => jobs.send(job).map_err(|_| SectorWriteError::Workers)?,
            None => job.run(),
        }
        Ok(())
    }

    fn push_raw(&mut self, mut bytes: &[u8]) -> Result<(), SectorWriteError> {
        self.raw_len += bytes.len() as u64;
        if self.raw_len > self.class_len {
            return Err(SectorWriteError::TooLarge);
        }
        while !bytes.is_empty() {
            // A full segment waits until there is a next byte: only then is it known not to be the last.
            if self.current.len() == SEGMENT_LEN {
                self.hand_over(false)?;
            }
            let n = bytes.len().min(SEGMENT_LEN - self.current.len());
            self.current.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Adds one zstd frame that holds `tar_len` bytes of the tar stream.
    pub fn add_frame(&mut self, frame: &[u8], tar_len: usize) -> Result<(), SectorWriteError> {
        self.push_raw(frame)?;
        self.table.push(frame.len() as u32, tar_len as u32);
        Ok(())
    }

    /// Compresses and adds tar bytes as frames of their own.
    pub fn add_tar(&mut self, writer: &mut crate::frames::FrameWriter, tar: &[u8]) -> Result<(), SectorWriteError> {
        let mut frame = Vec::new();
        for piece in tar.chunks(SEGMENT_LEN) {
            frame.clear();
            writer.append(piece, &mut frame)?;
            self.add_frame(&frame, piece.len())?;
        }
        Ok(())
    }

    /// Ends the sector: index member, end of tar, padding, seek table, leaf table, trailer.
    pub fn finish(
        mut self,
        writer: &mut crate::frames::FrameWriter,
        index_json: &[u8],
    ) -> Result<Finished, SectorWriteError> {
        let mut tar = Vec::with_capacity(index_json.len() + 4096);
        pax::append_simple(&mut tar, ".zoneward/index.json", index_json.len() as u64);
        let index = (self.tar_len() + tar.len() as u64, index_json.len() as u64);
        tar.extend_from_slice(index_json);
        tar.resize(tar.len() + pax::padding(index_json.len() as u64), 0);
        pax::finish(&mut tar);
        self.add_tar(writer, &tar)?;
        let tar_len = self.tar_len();
        let mut end = Vec::new();
        let seek_table = self.table.finish(&mut end, self.raw_len);
        self.push_raw(&end)?;
        self.hand_over(true)?;
        while self.in_flight > 0 {
            self.collect()?;
        }
        let layout = Layout::of_raw(self.raw_len).ok_or(SectorWriteError::TooLarge)?;
        let trailer = Trailer {
            format: 1,
            raw_id: raw_id(&self.leaves),
            raw_len: self.raw_len,
            segments: layout.segments(),
            sector: self.facts.sector,
            zone: self.facts.zone,
            checkpoint: self.facts.checkpoint,
            packer: self.facts.packer,
            epoch: self.facts.epoch,
            tar_len,
            seek_table,
            index,
            system: self.facts.system,
            created_ms: self.facts.created_ms,
        };
        let leaves = self.keys.seal_leaves(&self.leaves);
        self.out.write_at(layout.leaves_at(), &leaves)?;
        let sealed = self.keys.seal_trailer(&trailer).map_err(|e| io::Error::other(e.to_string()))?;
        self.out.write_at(layout.trailer_at(), &sealed)?;
        self.pieces.push(last_piece(&leaves, &sealed));
        Ok(Finished {
            raw_id: trailer.raw_id,
            raw_len: self.raw_len,
            tar_len,
            index,
            seek_table,
            leaves: self.leaves,
            file_len: layout.file_len(),
            pieces: self.pieces,
        })
    }
}

/// The hash of a sector's last piece: its sealed leaf table and its trailer.
pub fn last_piece(leaves: &[u8], trailer: &[u8]) -> Piece {
    *blake3::Hasher::new().update(leaves).update(trailer).finalize().as_bytes()
}

const _: () = assert!(HEADER_LEN == 4096);
