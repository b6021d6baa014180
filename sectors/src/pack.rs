//! Packing: changes of a source go in, sealed sectors come out, in one pass over the data.
//!
//! ```text
//! feed ──► work (n threads) ──► place
//! reads large files, cuts chunks;   read small files, fingerprint,   in order: positions, catalog, index,
//! groups small entries              find duplicates, compress        hand segments back to be sealed
//! ```
//!
//! Every queue is bounded; the pieces under way are bounded by permits, so memory does not depend on the data.
//! Pieces carry a number; `place` puts them in that order, so the tar stream is in path order.

mod feed;
mod moving;
mod outlet;
mod place;
mod work;

pub use place::{IndexJson, IndexPart, IndexSystem};

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crossbeam_channel::{bounded, unbounded};

use crate::catalog::{CatalogError, Line, SectorTable};
use crate::chunk::Chunker;
use crate::current::Current;
use crate::diff::Change;
use crate::entry::Stamp;
use crate::header::Header;
use crate::ids::{LayerId, SectorId, SourceId};
use crate::index::ChunkIndex;
use crate::restore::{NoCopy, OpenSectors};
use crate::sector_writer::{Finished, SectorFacts, SectorOut, SectorWriteError};
use crate::stream::RecordKeys;

/// Why packing stopped. Sealed sectors stay; the open one is to be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("the base catalog cannot be read")]
    Catalog(#[from] CatalogError),
    #[error("writing a sector failed")]
    Sector(#[from] SectorWriteError),
    #[error("compressing failed")]
    Compress(#[source] io::Error),
    #[error("the chunk index cannot be written")]
    Index(#[source] io::Error),
    #[error("{0}")]
    Provider(String, #[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// Nothing of what cannot be read may be left where it is.
    #[error("the content of {path} cannot be read")]
    Content { path: String, source: NoCopy },
    #[error("a packing thread ended unexpectedly")]
    Threads,
    #[error("interrupted")]
    Interrupted,
}

/// A sector opened for packing.
pub struct OpenedSector {
    pub facts: SectorFacts,
    pub header: Header,
    pub keys: RecordKeys,
    pub out: Arc<dyn SectorOut>,
}

/// A part of a layer that now lies in a sector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedPart {
    pub source: SourceId,
    pub layer: LayerId,
    pub part: u32,
    /// Range of the tar stream.
    pub offset: u64,
    pub length: u64,
    pub entries: u64,
    /// The other sectors that its entries have content in.
    pub refs: Vec<SectorId>,
}

/// Opens and seals sectors: the control plane's side of packing.
pub trait Sectors {
    /// Opens a sector. About `estimate` bytes are still to come; it must take at least `at_least`.
    fn open(&mut self, estimate: u64, at_least: u64) -> Result<OpenedSector, PackError>;
    /// A complete sector: make it durable, then acknowledge it. `parts` come with their zstd frames, for the local copy.
    fn seal(&mut self, sector: SectorId, done: Finished, parts: Vec<(PlacedPart, Vec<u8>)>) -> Result<(), PackError>;
}

/// One source to pack.
#[derive(Clone, Debug)]
pub struct Task {
    pub source: SourceId,
    pub layer: LayerId,
    /// Absolute path of the source, without the first `/`: the prefix of member names.
    pub prefix: Vec<u8>,
    pub root: PathBuf,
    /// Each file is read through a clone of it, where its file system makes any.
    pub clones: bool,
    /// Bytes that the survey expects to read.
    pub estimate: u64,
}

/// How to pack.
#[derive(Clone, Debug)]
pub struct Settings {
    pub threads: usize,
    pub zstd_level: i32,
    /// Entries whose ctime is not older than this are read again next time: they may change within one clock tick.
    pub racy_after: Stamp,
    /// Sectors, by their number, that have too few copies for what is packed: nothing new relies on them.
    pub meagre: HashSet<u32>,
}

/// Live figures of a running pack.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of files read.
    pub read: AtomicU64,
    /// Entries placed.
    pub entries: AtomicU64,
    /// Bytes of new chunks.
    pub new_bytes: AtomicU64,
    /// Bytes of raw sectors written.
    pub stored: AtomicU64,
    /// The file that is read, as a path in its source.
    pub current: Current,
    /// Set it to stop at the next piece.
    pub stop: Arc<AtomicBool>,
}

/// What packing one task came to.
#[derive(Debug, Default)]
pub struct PackReport {
    pub entries: u64,
    pub new_bytes: u64,
    /// Files that changed while they were read.
    pub unsteady: Vec<Vec<u8>>,
    /// Paths that could not be read: they keep what the base says of them.
    pub unread: Vec<(Vec<u8>, String)>,
    pub unread_count: u64,
    pub unsteady_count: u64,
    /// Paths that vanished between scan and reading.
    pub vanished: u64,
    /// Files that were scanned and are not in the checkpoint, neither as they are nor as they were; and their bytes.
    pub absent: u64,
    pub absent_bytes: u64,
    /// Content that was to be moved and stays where it is, because it cannot be read; and why, for the first.
    pub unmoved_bytes: u64,
    pub unmoved_why: Option<String>,
}

/// Paths named in a report at most; all are counted.
const REPORT_MAX: usize = 1000;

/// Buffers that go round: fresh pages cost as much as the copying they are for.
#[derive(Default)]
struct Buffers(std::sync::Mutex<Vec<Vec<u8>>>);

/// Read buffers and output buffers kept for reuse.
const READ_BUFFERS_MAX: usize = 6;
const RAW_BUFFERS_MAX: usize = 6;

impl Buffers {
    fn pop(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).pop()
    }

    /// A buffer of exactly `len` bytes, of any content. All of one pool are of one length.
    fn take_full(&self, len: usize) -> Vec<u8> {
        self.pop().filter(|b| b.len() == len).unwrap_or_else(|| vec![0; len])
    }

    /// An empty buffer.
    fn take(&self) -> Vec<u8> {
        let mut b = self.pop().unwrap_or_default();
        b.clear();
        b
    }

    /// Gives a buffer back.
    fn give(&self, buf: Vec<u8>, most: usize) {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if all.len() < most {
            all.push(buf);
        }
    }
}

/// What every packing thread shares.
struct Shared<'a> {
    settings: &'a Settings,
    index: &'a ChunkIndex,
    chunker: Chunker,
    fingerprint_key: [u8; 32],
    progress: &'a Progress,
    buffers: Buffers,
    raws: Buffers,
    /// Tar bytes handed to `place` so far, and raw bytes still free in its sector: for "does this file fit?".
    fed: AtomicU64,
    placed: AtomicU64,
    free: AtomicU64,
    moving: Option<Moving<'a>>,
}

/// Content that leaves its sectors.
#[derive(Clone, Copy)]
pub struct Moving<'a> {
    /// From where it is read.
    pub sectors: &'a dyn OpenSectors,
    /// The sectors that it leaves, by their number.
    pub leaves: &'a HashSet<u32>,
    /// The key of the fingerprints in the lines, where they are those of another zone: then all content leaves, is
    /// fingerprinted anew, and what cannot be read ends the packing.
    pub foreign: Option<&'a [u8; 32]>,
}

impl std::fmt::Debug for Moving<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Moving({} sectors)", self.leaves.len())
    }
}

/// Packs sectors for several tasks, one after another; small tasks share sectors.
pub struct Packer<'a, S: Sectors> {
    settings: &'a Settings,
    index: &'a ChunkIndex,
    gear: &'a [u64; 256],
    fingerprint_key: [u8; 32],
    place: place::Placing<'a, S>,
}

impl<S: Sectors> std::fmt::Debug for Packer<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

impl<'a, S: Sectors> Packer<'a, S> {
    pub fn new(
        settings: &'a Settings,
        index: &'a ChunkIndex,
        table: &SectorTable,
        gear: &'a [u64; 256],
        fingerprint_key: [u8; 32],
        sectors: &'a mut S,
    ) -> Result<Self, PackError> {
        let place = place::Placing::new(sectors, table, settings.zstd_level)?;
        Ok(Self { settings, index, gear, fingerprint_key, place })
    }

    /// Packs the changes of one source. `estimate_after` is what later tasks will bring, for the choice of classes.
    pub fn run<I>(
        &mut self,
        task: &Task,
        changes: I,
        estimate_after: u64,
        progress: &Progress,
    ) -> Result<PackReport, PackError>
    where
        I: Iterator<Item = Result<Change, CatalogError>> + Send,
    {
        self.run_with(task, estimate_after, progress, None, |shared, out| feed::run(shared, task, changes, out))
    }

    /// Writes the lines of a layer, with what they name moved out of the sectors that it leaves. Sectors and chunks that
    /// moved before are known by the index.
    pub fn run_moving<I>(
        &mut self,
        task: &Task,
        lines: I,
        moving: Moving<'a>,
        estimate_after: u64,
        progress: &Progress,
    ) -> Result<PackReport, PackError>
    where
        I: Iterator<Item = Result<Line, CatalogError>> + Send,
    {
        self.run_with(task, estimate_after, progress, Some(moving), |shared, out| moving::feed(shared, lines, out))
    }

    fn run_with(
        &mut self,
        task: &Task,
        estimate_after: u64,
        progress: &Progress,
        moving: Option<Moving<'_>>,
        feed: impl FnOnce(&Shared<'_>, outlet::Outlet<'_>) -> Result<(), PackError> + Send,
    ) -> Result<PackReport, PackError> {
        let shared = Shared {
            moving,
            settings: self.settings,
            index: self.index,
            chunker: Chunker::new(self.gear),
            fingerprint_key: self.fingerprint_key,
            progress,
            buffers: Buffers::default(),
            raws: Buffers::default(),
            fed: AtomicU64::new(0),
            placed: AtomicU64::new(0),
            free: AtomicU64::new(0),
        };
        let threads = self.settings.threads.max(1);
        let permits = threads * 2 + 1;
        let (work_tx, work_rx) = bounded::<work::Piece>(permits);
        let (done_tx, done_rx) = bounded::<work::Done>(permits);
        let (permit_tx, permit_rx) = bounded::<()>(permits);
        let (seal_tx, seal_rx) = unbounded();
        for _ in 0..permits {
            permit_tx.send(()).map_err(|_| PackError::Threads)?;
        }
        let shared = &shared;
        self.place.begin_task(task, estimate_after, shared, &seal_tx)?;
        std::thread::scope(|scope| {
            for i in 0..threads {
                let (work_rx, seal_rx, done_tx) = (work_rx.clone(), seal_rx.clone(), done_tx.clone());
                std::thread::Builder::new()
                    .name(format!("pack-{i}"))
                    .spawn_scoped(scope, move || work::run(shared, task, &work_rx, &seal_rx, done_tx))
                    .map_err(|_| PackError::Threads)?;
            }
            drop((work_rx, seal_rx, done_tx));
            let feed_done = std::thread::Builder::new()
                .name("feed".into())
                .spawn_scoped(scope, move || feed(shared, outlet::Outlet::new(shared, &permit_rx, &work_tx)))
                .map_err(|_| PackError::Threads)?;
            let placed = self.place.run(task, shared, &done_rx, &permit_tx);
            // Whatever happened, the other threads end once their queues are gone.
            drop((done_rx, permit_tx));
            self.place.end_task_threads();
            drop(seal_tx);
            let fed = feed_done.join().map_err(|_| PackError::Threads)?;
            let report = placed?;
            fed?;
            Ok(report)
        })
    }

    /// Seals the sector that is still open.
    pub fn finish(mut self) -> Result<(), PackError> {
        self.place.finish()
    }
}

#[cfg(test)]
mod tests;
