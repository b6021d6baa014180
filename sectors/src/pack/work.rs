//! The middle stage, on several threads: reads small files, fingerprints, finds duplicates, compresses; and seals
//! segments that the last stage hands back.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, select_biased};

use super::moving::Unmoved;
use super::{PackError, READ_BUFFERS_MAX, Shared, Task};
use crate::attrs;
use crate::catalog::Line;
use crate::diff::Change;
use crate::entry::{Entry, Extent, Kind, Meta, Xattrs};
use crate::frames::FrameWriter;
use crate::fsx;
use crate::pax;
use crate::sector_writer::SealJob;
use crate::walk::{Fallback, Seen};

/// Stands in an extent for the sector that `place` is about to choose; offsets then count from the unit's start.
pub(super) const HERE: u32 = u32::MAX;
/// Tar bytes in one frame of a large file, about: at least one chunk.
const FRAME_LEN: usize = 1 << 20;
/// How often a small file is read again when it changed meanwhile.
const SMALL_RETRIES: u32 = 3;

/// A piece of work.
pub(super) struct Piece {
    pub seq: u64,
    /// Tar bytes it makes at most.
    pub tar_bound: u64,
    pub body: PieceBody,
}

pub(super) enum PieceBody {
    /// Small entries and news of what is gone, in path order.
    Batch(Vec<Change>),
    /// A stretch of a large file.
    Large {
        large: Arc<Large>,
        mode: Mode,
        /// The member's header, in the first piece of a whole member.
        head: Vec<u8>,
        buf: Vec<u8>,
        parts: Vec<Part>,
        /// Zeros after the last piece of a whole member.
        pad: usize,
        end: Option<LargeEnd>,
    },
    /// Lines that are written anew, with what they name.
    Lines(Vec<Line>),
    /// A stretch of a large file's content that is moved; with the entry, the last.
    Extents { path: Vec<u8>, extents: Vec<Extent>, end: Option<Box<Entry>> },
    /// A large file that could not be opened.
    Failed { path: Vec<u8>, error: io::Error, fallback: Fallback },
}

/// A large file on its way.
pub(super) struct Large {
    pub path: Vec<u8>,
    pub meta: Meta,
    pub xattrs: Xattrs,
    pub prefix: Vec<u8>,
    pub fallback: Fallback,
}

/// How a large file is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// One ordinary member.
    Whole,
    /// Only chunks not stored before, as members under `.zoneward/extents/`.
    Extents,
}

pub(super) enum Part {
    Data(usize),
    Hole(u64),
}

/// How reading a large file ended.
pub(super) struct LargeEnd {
    pub unsteady: bool,
    /// It is read again: forget this time.
    pub again: bool,
    pub error: Option<io::Error>,
}

/// What the last stage places, in order of `seq`.
pub(super) struct Done {
    pub seq: u64,
    pub tar_bound: u64,
    pub result: Result<Vec<Unit>, PackError>,
}

/// Frames that belong together in one sector, and what they bring.
#[derive(Default)]
pub(super) struct Unit {
    /// Compressed frames, one after another, with (compressed, tar) length of each.
    pub raw: Vec<u8>,
    pub frames: Vec<(usize, usize)>,
    /// A large member runs on into the next unit: nothing may come between.
    pub open_end: bool,
    pub news: Vec<News>,
}

pub(super) enum News {
    Entry(Entry),
    /// A further name; it cannot be had without the first.
    Link(Entry, Fallback),
    Gone(Vec<u8>),
    /// As the base has it.
    Kept(Entry),
    /// As it was, with its content elsewhere; and what of that could not be moved.
    Moved(Entry, Option<Unmoved>),
    /// What could not be moved of the large file under way.
    Unmoved(Unmoved),
    /// The same, after its extents.
    MovedLarge(Entry, Option<Unmoved>),
    /// More extents of the large file under way.
    Extents(Vec<Extent>),
    /// The large file is complete.
    LargeEnd(Arc<Large>, LargeEnd),
    Failed {
        path: Vec<u8>,
        error: io::Error,
        fallback: Fallback,
    },
    Unsteady(Vec<u8>),
}

impl Unit {
    /// Tar bytes so far.
    fn tar_len(&self) -> usize {
        self.frames.iter().map(|f| f.1).sum()
    }

    pub(super) fn add_frame(&mut self, writer: &mut FrameWriter, tar: &[u8]) -> Result<(), PackError> {
        let before = self.raw.len();
        writer.append(tar, &mut self.raw).map_err(PackError::Compress)?;
        self.frames.push((self.raw.len() - before, tar.len()));
        Ok(())
    }

    /// For a stretch of one file: a look at samples tells whether compressing is worth it.
    pub(super) fn add_uniform(&mut self, writer: &mut FrameWriter, tar: &[u8]) -> Result<(), PackError> {
        let before = self.raw.len();
        writer.append_uniform(tar, &mut self.raw).map_err(PackError::Compress)?;
        self.frames.push((self.raw.len() - before, tar.len()));
        Ok(())
    }
}

/// A member's name: the source's path, then the path inside.
pub(super) fn member_name(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    let mut name = prefix.to_vec();
    if !path.is_empty() {
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(path);
    }
    if name.is_empty() {
        name.push(b'.');
    }
    name
}

/// Runs until both queues are gone. Segments go first: they free memory.
pub(super) fn run(
    shared: &Shared<'_>,
    task: &Task,
    work: &Receiver<Piece>,
    seal: &Receiver<SealJob>,
    done: Sender<Done>,
) {
    let mut worker = match FrameWriter::new(shared.settings.zstd_level) {
        Ok(writer) => Worker { shared, task, writer, tar: Vec::new() },
        // Without a compressor this thread can still seal; the others pack. All fail the same way.
        Err(e) => {
            let failed = Done { seq: 0, tar_bound: 0, result: Err(PackError::Compress(e)) };
            let _ = done.send(failed);
            return;
        }
    };
    // The last stage ends when all of these are gone, while segments are still to be sealed.
    let mut done = Some(done);
    let (mut more_work, mut more_seal) = (true, true);
    let never_work = crossbeam_channel::never();
    let never_seal = crossbeam_channel::never();
    while more_work || more_seal {
        select_biased! {
            recv(if more_seal { seal } else { &never_seal }) -> job => match job {
                Ok(job) => SealJob::run(job),
                Err(_) => more_seal = false,
            },
            recv(if more_work { work } else { &never_work }) -> piece => match piece {
                Ok(piece) => {
                    let (seq, tar_bound) = (piece.seq, piece.tar_bound);
                    let result = worker.piece(piece);
                    let sent = done.as_ref().is_some_and(|d| d.send(Done { seq, tar_bound, result }).is_ok());
                    if !sent {
                        (more_work, done) = (false, None);
                    }
                }
                Err(_) => (more_work, done) = (false, None),
            },
        }
    }
}

pub(super) struct Worker<'a> {
    pub(super) shared: &'a Shared<'a>,
    pub(super) task: &'a Task,
    pub(super) writer: FrameWriter,
    pub(super) tar: Vec<u8>,
}

impl Worker<'_> {
    fn piece(&mut self, piece: Piece) -> Result<Vec<Unit>, PackError> {
        match piece.body {
            PieceBody::Batch(changes) => Ok(vec![self.batch(changes)?]),
            PieceBody::Large { large, mode, head, buf, parts, pad, end } => {
                let units = match mode {
                    Mode::Whole => vec![self.whole(&head, &buf, &parts, pad, end.is_none())?],
                    Mode::Extents => self.extents(piece.seq, &buf, &parts)?,
                };
                self.shared.buffers.give(buf, READ_BUFFERS_MAX);
                let mut units = units;
                if let Some(end) = end {
                    units.push(Unit { news: vec![News::LargeEnd(large, end)], ..Unit::default() });
                }
                Ok(units)
            }
            PieceBody::Lines(lines) => Ok(vec![self.moved_lines(lines)?]),
            PieceBody::Extents { path, extents, end } => self.moved_extents(piece.seq, &path, extents, end),
            PieceBody::Failed { path, error, fallback } => {
                Ok(vec![Unit { news: vec![News::Failed { path, error, fallback }], ..Unit::default() }])
            }
        }
    }

    pub(super) fn fingerprint(&self, data: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.shared.fingerprint_key, data).as_bytes()
    }

    fn known(&self, fingerprint: &[u8; 32], len: usize) -> Option<Extent> {
        let p = self.shared.index.lookup(fingerprint, len as u64)?;
        if self.shared.settings.meagre.contains(&p.sector) {
            return None;
        }
        let len = u64::from(p.len);
        Some(Extent::Data { sector: p.sector, offset: p.offset, len, fingerprint: *fingerprint })
    }

    fn whole(&mut self, head: &[u8], buf: &[u8], parts: &[Part], pad: usize, open: bool) -> Result<Unit, PackError> {
        let mut unit = Unit { open_end: open, raw: self.shared.raws.take(), ..Unit::default() };
        if !head.is_empty() {
            unit.add_frame(&mut self.writer, head)?;
        }
        let mut extents = Vec::with_capacity(parts.len());
        let (mut at, mut frame_from) = (0, 0);
        let base = unit.tar_len();
        for part in parts {
            match *part {
                Part::Hole(n) => extents.push(Extent::Hole(n)),
                Part::Data(n) => {
                    let fingerprint = self.fingerprint(&buf[at..at + n]);
                    extents.push(Extent::Data { sector: HERE, offset: (base + at) as u64, len: n as u64, fingerprint });
                    at += n;
                    if at - frame_from >= FRAME_LEN {
                        unit.add_uniform(&mut self.writer, &buf[frame_from..at])?;
                        frame_from = at;
                    }
                }
            }
        }
        if at > frame_from {
            unit.add_uniform(&mut self.writer, &buf[frame_from..at])?;
        }
        if pad > 0 {
            unit.add_frame(&mut self.writer, &[0; 512][..pad])?;
        }
        unit.news.push(News::Extents(extents));
        Ok(unit)
    }

    /// New chunks become members, about 1 MiB each, so that a sector can end between them.
    fn extents(&mut self, seq: u64, buf: &[u8], parts: &[Part]) -> Result<Vec<Unit>, PackError> {
        let mut units = vec![Unit::default()];
        let (mut at, mut extents) = (0, Vec::new());
        self.tar.clear();
        for part in parts {
            match *part {
                Part::Hole(n) => extents.push(Extent::Hole(n)),
                Part::Data(n) => {
                    let data = &buf[at..at + n];
                    at += n;
                    let fingerprint = self.fingerprint(data);
                    if let Some(known) = self.known(&fingerprint, n) {
                        extents.push(known);
                        continue;
                    }
                    let mut head = Vec::new();
                    let name =
                        format!(".zoneward/extents/{:.8}-{seq:08}-{:04}", self.task.layer.to_string(), units.len());
                    pax::append_simple(&mut head, &name, n as u64);
                    let offset = head.len() as u64;
                    extents.push(Extent::Data { sector: HERE, offset, len: n as u64, fingerprint });
                    let mut unit = Unit::default();
                    unit.add_frame(&mut self.writer, &head)?;
                    unit.add_uniform(&mut self.writer, data)?;
                    let pad = pax::padding(n as u64);
                    if pad > 0 {
                        unit.add_frame(&mut self.writer, &[0; 512][..pad])?;
                    }
                    unit.news.push(News::Extents(std::mem::take(&mut extents)));
                    units.push(unit);
                }
            }
        }
        units.push(Unit { news: vec![News::Extents(extents)], ..Unit::default() });
        Ok(units)
    }

    fn batch(&mut self, changes: Vec<Change>) -> Result<Unit, PackError> {
        let news = Vec::with_capacity(changes.len());
        let mut unit = Unit { news, raw: self.shared.raws.take(), ..Unit::default() };
        let mut tar = std::mem::take(&mut self.tar);
        tar.clear();
        for change in changes {
            let news = match change {
                Change::Gone(path) => News::Gone(path),
                Change::Keep(entry) => News::Kept(entry),
                Change::Link { seen, holder } => self.link(&mut tar, &seen, holder),
                Change::Put(seen) if seen.meta.kind == Kind::File => self.small(&mut tar, &seen, &mut unit.news),
                Change::Put(seen) => self.other(&mut tar, &seen),
            };
            unit.news.push(news);
        }
        // One frame as a rule; a batch is cut only where many headers make it longer than a frame may be.
        for piece in tar.chunks(crate::limits::FRAME_TAR_MAX) {
            unit.add_frame(&mut self.writer, piece)?;
        }
        self.tar = tar;
        Ok(unit)
    }

    fn entry(&self, seen: &Seen, meta: Meta, xattrs: Xattrs) -> Entry {
        Entry { path: seen.path.clone(), meta, xattrs, link: Vec::new(), extents: Vec::new(), unsteady: false }
    }

    fn link(&self, tar: &mut Vec<u8>, seen: &Seen, holder: Vec<u8>) -> News {
        let prefix = &self.task.prefix;
        let meta = Meta { kind: Kind::HardLink, ..seen.meta };
        let (name, target) = (member_name(prefix, &seen.path), member_name(prefix, &holder));
        pax::append_header(tar, &name, &meta, &target, &[], 0, None);
        let mut entry = self.entry(seen, meta, Vec::new());
        entry.link = holder;
        // Its bytes count with the first name.
        let Fallback { lost, line } = seen.fallback();
        News::Link(entry, Fallback { lost: lost.map(|_| 0), line })
    }

    /// Directories, symbolic links, fifos and devices.
    fn other(&self, tar: &mut Vec<u8>, seen: &Seen) -> News {
        let read = || -> io::Result<(Xattrs, Vec<u8>)> {
            let link = if seen.meta.kind == Kind::Symlink { seen.read_link()? } else { Vec::new() };
            Ok((seen.xattrs()?, link))
        };
        match read() {
            Ok((xattrs, link)) => {
                let name = member_name(&self.task.prefix, &seen.path);
                pax::append_header(tar, &name, &seen.meta, &link, &xattrs, 0, None);
                let mut entry = self.entry(seen, seen.meta, xattrs);
                entry.link = link;
                News::Entry(entry)
            }
            Err(error) => failed(seen, error),
        }
    }

    fn small(&self, tar: &mut Vec<u8>, seen: &Seen, news: &mut Vec<News>) -> News {
        let start = tar.len();
        self.shared.progress.current.tell(&seen.path);
        for left in (0..SMALL_RETRIES).rev() {
            tar.truncate(start);
            match self.small_once(tar, seen) {
                Ok((entry, true)) => return News::Entry(entry),
                Ok((entry, false)) if left == 0 => {
                    news.push(News::Unsteady(entry.path.clone()));
                    return News::Entry(entry);
                }
                Ok(_) => {}
                Err(error) => {
                    tar.truncate(start);
                    return failed(seen, error);
                }
            }
        }
        failed(seen, io::Error::other("it kept changing"))
    }

    /// Reads a small file into the tar; true if it stood still meanwhile.
    fn small_once(&self, tar: &mut Vec<u8>, seen: &Seen) -> io::Result<(Entry, bool)> {
        let start = tar.len();
        let file = seen.open()?;
        let meta = attrs::meta_of(&file)?;
        if !seen.is_still(&meta) {
            return Err(io::Error::other("another file took its place while it was scanned"));
        }
        if meta.size > 8 * crate::limits::SMALL_FILE_MAX {
            return Err(io::Error::other("it grew while it was scanned; the next backup takes it"));
        }
        let xattrs = attrs::read_xattrs(&file)?;
        let (image, mut meta) = match self.task.clones.then(|| seen.image(&file)).flatten() {
            Some((image, meta)) if meta.size <= 8 * crate::limits::SMALL_FILE_MAX => (Some(image), meta),
            _ => (None, meta),
        };
        let (told, from) = (meta.size, image.as_ref().unwrap_or(&file));
        let untold = if told == 0 { content_without_a_size(from)? } else { Vec::new() };
        meta.size = told.max(untold.len() as u64);
        pax::append_header(tar, &member_name(&self.task.prefix, &seen.path), &meta, b"", &xattrs, meta.size, None);
        let body = tar.len();
        let size = meta.size as usize;
        tar.extend_from_slice(&untold);
        tar.resize(body + size, 0);
        let got = if told == 0 { size } else { fsx::read_full_at(from, &mut tar[body..], 0)? };
        self.shared.progress.read.fetch_add(meta.size, Ordering::Relaxed);
        let after = attrs::meta_of(&file)?;
        let same = (after.size, after.mtime, after.ctime) == (told, meta.mtime, meta.ctime);
        let steady = got == size && (image.is_some() || same);
        let mut entry = self.entry(seen, meta, xattrs);
        entry.unsteady = !steady;
        if size > 0 {
            let fingerprint = self.fingerprint(&tar[body..]);
            let known = self.known(&fingerprint, size);
            match known {
                Some(extent) => {
                    tar.truncate(start);
                    entry.extents.push(extent);
                }
                None => {
                    let (offset, len) = (body as u64, meta.size);
                    entry.extents.push(Extent::Data { sector: HERE, offset, len, fingerprint });
                    tar.resize(tar.len() + pax::padding(meta.size), 0);
                }
            }
        }
        Ok((entry, steady))
    }
}

fn failed(seen: &Seen, error: io::Error) -> News {
    News::Failed { path: seen.path.clone(), error, fallback: seen.fallback() }
}

/// What a file holds whose size is told as 0: some file systems in user space tell none of what they make as it is read.
fn content_without_a_size(file: &File) -> io::Result<Vec<u8>> {
    let mut first = [0u8; 1];
    if fsx::read_full_at(file, &mut first, 0)? == 0 {
        return Ok(Vec::new());
    }
    let mut content = vec![0; 8 * crate::limits::SMALL_FILE_MAX as usize + 1];
    let len = fsx::read_full_at(file, &mut content, 0)?;
    if len == content.len() {
        return Err(io::Error::other("its file system tells no size of it, and it is large"));
    }
    content.truncate(len);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_no_size_is_read_up_to_a_limit() {
        let version = File::open("/proc/version").unwrap();
        assert_eq!(version.metadata().unwrap().len(), 0);
        assert_eq!(content_without_a_size(&version).unwrap(), std::fs::read("/proc/version").unwrap());
        assert!(content_without_a_size(&File::open("/dev/zero").unwrap()).is_err(), "it never ends");
        assert!(content_without_a_size(&File::open("/dev/null").unwrap()).unwrap().is_empty());
    }
}
