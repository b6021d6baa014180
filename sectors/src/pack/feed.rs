//! The first stage: takes changes in path order, groups small ones, reads and cuts large files.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::outlet::{Behind, Outlet};
use super::work::{Large, LargeEnd, Mode, Part, PieceBody};
use super::{PackError, Shared, Task};
use crate::attrs;
use crate::catalog::CatalogError;
use crate::diff::Change;
use crate::entry::Kind;
use crate::fsx;
use crate::limits::{CHUNK_MAX, SMALL_FILE_MAX};
use crate::pax::{self, SparseMap};
use crate::walk::Seen;

/// Bytes of small files in one batch: one frame's worth.
const BATCH_BYTES: u64 = 1 << 20;
/// Entries in one batch.
const BATCH_ENTRIES: usize = 2048;
/// Bytes read of a large file at a time.
const READ_LEN: usize = 2 << 20;
/// Stretches of data in a sparse file that fit the tar's own map; more go as extents.
const SPARSE_MAP_MAX: usize = 10_000;
/// Chunks at its start that tell whether a large file is known already.
const LOOK_AHEAD: usize = 2;
/// How often a large file is read again when it changed meanwhile.
const LARGE_RETRIES: u32 = 1;

struct Feed<'a> {
    shared: &'a Shared<'a>,
    task: &'a Task,
    out: Outlet<'a>,
    batch: Vec<Change>,
    batch_bytes: u64,
}

/// Runs until the changes end or the stages behind are gone.
pub(super) fn run<I>(shared: &Shared<'_>, task: &Task, changes: I, out: Outlet<'_>) -> Result<(), PackError>
where
    I: Iterator<Item = Result<Change, CatalogError>>,
{
    let mut feed = Feed { shared, task, out, batch: Vec::new(), batch_bytes: 0 };
    for change in changes {
        if feed.out.is_stopped() {
            return Err(PackError::Interrupted);
        }
        let sent = match change? {
            Change::Put(seen) if seen.meta.kind == Kind::File && seen.meta.size >= SMALL_FILE_MAX => feed.large(seen),
            change => feed.small(change),
        };
        if sent.is_err() {
            return feed.out.ended();
        }
    }
    match feed.flush() {
        Ok(()) => Ok(()),
        Err(Behind) => feed.out.ended(),
    }
}

impl Feed<'_> {
    fn send(&mut self, body: PieceBody, tar_bound: u64) -> Result<(), Behind> {
        self.out.send(body, tar_bound)
    }

    fn flush(&mut self) -> Result<(), Behind> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        let bound = self.batch_bytes + 4096 * batch.len() as u64;
        self.batch_bytes = 0;
        self.send(PieceBody::Batch(batch), bound)
    }

    fn small(&mut self, change: Change) -> Result<(), Behind> {
        if let Change::Put(s) = &change {
            self.batch_bytes += s.meta.size;
        }
        self.batch.push(change);
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_ENTRIES {
            self.flush()?;
        }
        Ok(())
    }

    /// Whether a whole member of this many bytes surely fits the sector that is open now.
    fn fits(&self, bytes: u64) -> bool {
        let waiting = self.shared.fed.load(Ordering::SeqCst).saturating_sub(self.shared.placed.load(Ordering::SeqCst));
        let need = waiting.saturating_add(bytes);
        // Stored frames grow by 3 bytes in 128 KiB; the catalog of what waits is bounded by 1 %.
        let need = need.saturating_add(need / 64).saturating_add(256 << 10);
        need <= self.shared.free.load(Ordering::SeqCst)
    }

    fn large(&mut self, seen: Seen) -> Result<(), Behind> {
        self.flush()?;
        let mut tries = 0;
        loop {
            match self.large_once(&seen, tries >= LARGE_RETRIES)? {
                true => return Ok(()),
                false => tries += 1,
            }
        }
    }

    /// Reads a large file once. False if it changed meanwhile and should be read again.
    fn large_once(&mut self, seen: &Seen, last_try: bool) -> Result<bool, Behind> {
        let opened = seen.open().and_then(|f| {
            let meta = attrs::meta_of(&f)?;
            if !seen.is_still(&meta) {
                return Err(io::Error::other("another file took its place while it was scanned"));
            }
            let xattrs = attrs::read_xattrs(&f)?;
            let (f, meta, still) = match self.task.clones.then(|| seen.image(&f)).flatten() {
                Some((image, meta)) => (image, meta, true),
                None => (f, meta, false),
            };
            let spans = data_spans(&f, meta.size)?;
            Ok((f, meta, still, xattrs, spans))
        });
        let (file, meta, still, xattrs, spans) = match opened {
            Ok(all) => all,
            Err(e) => {
                self.send(PieceBody::Failed { path: seen.path.clone(), error: e, fallback: seen.fallback() }, 0)?;
                return Ok(true);
            }
        };
        self.shared.progress.current.tell(&seen.path);
        let data_len: u64 = spans.iter().map(|(a, b)| b - a).sum();
        let holes = data_len < meta.size;
        let sparse = holes.then(|| SparseMap { real_size: meta.size, spans: spans.clone() });
        let stored = data_len + sparse.as_ref().map_or(0, pax::sparse_map_len);
        let whole = !seen.had_base && spans.len() <= SPARSE_MAP_MAX && self.fits(stored + 8192);
        let (path, prefix, fallback) = (seen.path.clone(), self.task.prefix.clone(), seen.fallback());
        let large = Arc::new(Large { path, meta, xattrs, prefix, fallback });
        let mode = if whole { Mode::Whole } else { Mode::Extents };
        let mut cutter = Cutter { feed: self, file: &file, large, mode, first: true, stored, sparse };
        let cut = cutter.run(&spans)?;
        let now = attrs::meta_of(&file);
        let same = |n: &crate::entry::Meta| (n.size, n.mtime, n.ctime) == (meta.size, meta.mtime, meta.ctime);
        // A clone has times of its own, and does not change.
        let steady = !cut.short && (still || now.as_ref().is_ok_and(same));
        let again = !steady && !last_try && cut.error.is_none();
        let end = LargeEnd { unsteady: !steady, again, error: cut.error };
        cutter.send(cut.buf, cut.used, cut.parts, Some(end))?;
        Ok(!again)
    }
}

/// The stretches of a file that hold data: (start, end), ascending.
fn data_spans(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    let mut spans: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(s) => s.min(size),
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that knows no holes: all of it is data.
            Err(_) => return Ok(vec![(0, size)]),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        // GNU tar looks for every stretch at a new block: all but the last must be whole blocks, so they are rounded
        // outwards, into the zeros around them, and joined where they then touch.
        let (start, end) = (start / 512 * 512, end.next_multiple_of(512).min(size));
        match spans.last_mut() {
            Some((_, last)) if *last >= start => *last = end.max(*last),
            _ if end > start => spans.push((start, end)),
            _ => {}
        }
        at = end.max(start + 1);
    }
    Ok(spans)
}

/// What is read and not yet sent.
struct Cut {
    buf: Vec<u8>,
    /// Bytes of the buffer in use.
    used: usize,
    parts: Vec<Part>,
    /// The file was shorter than it said: the rest is zeros.
    short: bool,
    /// Reading failed: the rest is zeros, and the entry will not count.
    error: Option<io::Error>,
}

struct Cutter<'f, 'a, 'b> {
    feed: &'f mut Feed<'a>,
    file: &'b File,
    large: Arc<Large>,
    mode: Mode,
    first: bool,
    stored: u64,
    sparse: Option<SparseMap>,
}

impl Cutter<'_, '_, '_> {
    /// Reads all spans, cuts chunks and sends pieces; the last piece stays with the caller.
    fn run(&mut self, spans: &[(u64, u64)]) -> Result<Cut, Behind> {
        let buf = self.feed.shared.buffers.take_full(READ_LEN + CHUNK_MAX);
        let mut cut = Cut { buf, used: 0, parts: Vec::new(), short: false, error: None };
        let mut at = 0;
        // Bytes at the end of the buffer that are not cut yet: always fewer than the largest chunk.
        let mut tail = 0;
        for (start, end) in spans {
            if *start > at {
                cut.parts.push(Part::Hole(start - at));
            }
            at = *start;
            while at < *end {
                if cut.used >= CHUNK_MAX {
                    self.send_full(&mut cut, tail)?;
                }
                let want = ((end - at) as usize).min(READ_LEN);
                self.read(&mut cut, at, want);
                at += want as u64;
                tail += want;
                while let Some(n) = self.feed.shared.chunker.cut(&cut.buf[cut.used - tail..cut.used], at == *end) {
                    cut.parts.push(Part::Data(n));
                    tail -= n;
                }
            }
        }
        if self.large.meta.size > at {
            cut.parts.push(Part::Hole(self.large.meta.size - at));
        }
        Ok(cut)
    }

    /// Fills the next `want` bytes of the buffer: from the file, or with zeros once the file has failed or ended.
    fn read(&mut self, cut: &mut Cut, at: u64, want: usize) {
        let room = &mut cut.buf[cut.used..cut.used + want];
        let got = match &cut.error {
            Some(_) => 0,
            None => fsx::read_full_at(self.file, room, at).unwrap_or_else(|e| {
                cut.error = Some(e);
                0
            }),
        };
        cut.short |= got < want;
        room[got..].fill(0);
        cut.used += want;
        self.feed.shared.progress.read.fetch_add(want as u64, Ordering::Relaxed);
    }

    /// Sends what is cut and keeps the tail for the next piece.
    fn send_full(&mut self, cut: &mut Cut, tail: usize) -> Result<(), Behind> {
        if cut.parts.is_empty() {
            return Ok(());
        }
        let mut next = self.feed.shared.buffers.take_full(READ_LEN + CHUNK_MAX);
        next[..tail].copy_from_slice(&cut.buf[cut.used - tail..cut.used]);
        let full = std::mem::replace(&mut cut.buf, next);
        let parts = std::mem::take(&mut cut.parts);
        let len = cut.used - tail;
        cut.used = tail;
        self.send(full, len, parts, None)
    }

    fn send(&mut self, buf: Vec<u8>, len: usize, parts: Vec<Part>, end: Option<LargeEnd>) -> Result<(), Behind> {
        if self.first && self.mode == Mode::Whole && self.starts_with_known(&buf, &parts) {
            self.mode = Mode::Extents;
        }
        let whole = self.mode == Mode::Whole;
        let mut head = Vec::new();
        if self.first && whole {
            let l = &self.large;
            let name = super::work::member_name(&l.prefix, &l.path);
            pax::append_header(&mut head, &name, &l.meta, b"", &l.xattrs, self.stored, self.sparse.as_ref());
            if let Some(map) = &self.sparse {
                pax::append_sparse_map(&mut head, map);
            }
        }
        let pad = if end.is_some() && whole { pax::padding(self.stored) } else { 0 };
        let bound = (len + head.len() + pad) as u64 + 4096;
        let (mode, large) = (self.mode, self.large.clone());
        self.first = false;
        self.feed.send(PieceBody::Large { large, mode, head, buf, parts, pad, end }, bound)
    }

    /// True if one of the first chunks is already stored: then only what is new will be.
    fn starts_with_known(&self, buf: &[u8], parts: &[Part]) -> bool {
        let shared = self.feed.shared;
        let mut at = 0;
        parts.iter().take(LOOK_AHEAD).any(|p| match p {
            Part::Hole(_) => false,
            Part::Data(n) => {
                let fp = blake3::keyed_hash(&shared.fingerprint_key, &buf[at..at + n]);
                at += n;
                shared.index.lookup(fp.as_bytes(), *n as u64).is_some()
            }
        })
    }
}
