//! One window of a restore: what is wanted is sorted by where it lies, and written by several threads.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::{Cause, OpenSectors, Progress, RestoreError, RestoreReport, Settings, SharedReport, join};
use crate::entry::{Entry, Extent, Kind};
use crate::frames::FrameReader;
use crate::fsx;
use crate::limits::FRAME_TAR_MAX;
use crate::place::{Place, PlacedFile, Placer};
use crate::sector_reader::{SectorReadError, SectorReader};

/// Bytes of tar that one task opens, about.
const TASK_TAR: u64 = 4 << 20;
/// Small entries that one task makes.
const TASK_SIMPLE: usize = 512;

/// A file to be written.
struct Wanted {
    entry: Entry,
    at: Vec<u8>,
    /// Stretches not written yet.
    left: AtomicU32,
    failed: AtomicBool,
    /// It is already right.
    kept: AtomicBool,
    open: Mutex<Option<Arc<PlacedFile>>>,
}

/// A stretch of content and where it goes.
#[derive(Clone, Copy)]
struct Stretch {
    sector: u32,
    offset: u64,
    len: u64,
    fingerprint: [u8; 32],
    file: u32,
    file_offset: u64,
}

#[derive(Default)]
pub(super) struct Window {
    files: Vec<Wanted>,
    simple: Vec<(Entry, Vec<u8>)>,
    links: Vec<(Entry, Vec<u8>, Vec<u8>)>,
    extents: usize,
    /// By place: what has further names and could not be made. It outlives the window, since its names may lie in others.
    unmade: HashMap<Vec<u8>, Unmade>,
}

/// Something with several names that could not be made under its first.
enum Unmade {
    /// The place did not take it: the next name may have it.
    Free(Box<Entry>),
    /// It lies under another of its names now.
    Under(Vec<u8>),
    /// Its content cannot be had, whatever the name.
    Lost(String, Cause),
}

/// What could not be made and is remembered for its further names, at most.
const UNMADE_MAX: usize = 10_000;

/// Stretches of neighbouring frames of one sector.
struct Task {
    sector: u32,
    stretches: std::ops::Range<usize>,
}

impl Window {
    pub fn entries(&self) -> usize {
        self.files.len() + self.simple.len() + self.links.len()
    }

    pub fn extents(&self) -> usize {
        self.extents
    }

    pub fn add(&mut self, entry: Entry, at: Vec<u8>, top: &[u8]) {
        match entry.meta.kind {
            Kind::File if !entry.extents.is_empty() => {
                self.extents += entry.extents.len();
                let data = entry.extents.iter().filter(|x| matches!(x, Extent::Data { .. })).count();
                self.files.push(Wanted {
                    entry,
                    at,
                    left: AtomicU32::new(data as u32),
                    failed: AtomicBool::new(false),
                    kept: AtomicBool::new(false),
                    open: Mutex::new(None),
                });
            }
            Kind::HardLink => {
                let holder = join(top, &entry.link);
                self.links.push((entry, at, holder));
            }
            _ => self.simple.push((entry, at)),
        }
    }

    /// Restores everything in the window and empties it.
    pub fn run(
        &mut self,
        place: &Place,
        sectors: &dyn OpenSectors,
        settings: &Settings,
        progress: &Progress,
        report: &mut RestoreReport,
    ) -> Result<(), RestoreError> {
        loop {
            self.run_once(place, sectors, settings, progress, report)?;
            // Names that inherit what could not be made are left: each round uses up at least one.
            if self.entries() == 0 {
                return Ok(());
            }
        }
    }

    /// A further name: of what is there, or instead of what could not be made.
    fn inherit(&mut self, mut entry: Entry, at: Vec<u8>, mut holder: Vec<u8>) -> Heir {
        while let Some(Unmade::Under(next)) = self.unmade.get(&holder) {
            holder.clone_from(next);
        }
        // A place that failed before is no heir, whatever a catalog says: no chain comes back to itself.
        let again = self.unmade.contains_key(&at);
        match self.unmade.get_mut(&holder).filter(|_| !again) {
            None => Heir::Link(entry, at, holder),
            Some(Unmade::Lost(why, cause)) => Heir::Lost(at, why.clone(), *cause),
            Some(first) => {
                if let Unmade::Free(it) = std::mem::replace(first, Unmade::Under(at.clone())) {
                    entry.take_over(*it);
                }
                Heir::Takes(entry, at)
            }
        }
    }

    fn run_once(
        &mut self,
        place: &Place,
        sectors: &dyn OpenSectors,
        settings: &Settings,
        progress: &Progress,
        report: &mut RestoreReport,
    ) -> Result<(), RestoreError> {
        let mut window = std::mem::take(self);
        let links = std::mem::take(&mut window.links);
        let unmade = Mutex::new(std::mem::take(&mut window.unmade));
        let shared = Mutex::new(report);
        let run = Run { window: &window, place, sectors, settings, progress, report: &shared, unmade: &unmade };
        if !settings.fresh {
            run.parallel(window.files.len().div_ceil(64), |placer, i| {
                for w in window.files.iter().skip(i * 64).take(64) {
                    run.compare_existing(placer, w);
                }
            })?;
        }
        run.parallel(window.simple.len().div_ceil(TASK_SIMPLE), |placer, i| {
            for (e, at) in window.simple.iter().skip(i * TASK_SIMPLE).take(TASK_SIMPLE) {
                run.simple(placer, e, at);
            }
        })?;
        let stretches = run.stretches();
        let (tasks, readers) = run.tasks(&stretches);
        run.parallel(tasks.len(), |placer, i| run.task(placer, &tasks[i], &readers, &stretches))?;
        // Files of holes alone have no stretch that would complete them.
        let mut placer = place.worker();
        for w in window.files.iter().filter(|w| w.left.load(Ordering::SeqCst) == 0 && run.untouched(w)) {
            run.complete(&mut placer, w);
        }
        self.unmade = std::mem::take(&mut *unmade.lock().unwrap_or_else(|e| e.into_inner()));
        let mut heirs = HashSet::new();
        for (e, at, holder) in links {
            match self.inherit(e, at, holder) {
                Heir::Link(e, at, holder) if heirs.contains(&holder) => self.links.push((e, at, holder)),
                Heir::Link(e, at, holder) => match placer.hard_link(&at, &holder) {
                    Ok(()) => run.count(&e),
                    Err(e) => run.fail(&at, e.to_string(), Cause::Place),
                },
                Heir::Lost(at, why, cause) => run.fail(&at, why, cause),
                Heir::Takes(e, at) => {
                    heirs.insert(at.clone());
                    self.add(e, at, b"");
                }
            }
        }
        if settings.verify {
            run.parallel(window.files.len().div_ceil(16), |placer, i| {
                for w in window.files.iter().skip(i * 16).take(16) {
                    run.verify(placer, w);
                }
            })?;
        }
        Ok(())
    }
}

/// What becomes of a further name.
enum Heir {
    Link(Entry, Vec<u8>, Vec<u8>),
    Lost(Vec<u8>, String, Cause),
    /// It is made in the next round, as what it is a name of.
    Takes(Entry, Vec<u8>),
}

struct Run<'a, 'r> {
    window: &'a Window,
    place: &'a Place,
    sectors: &'a dyn OpenSectors,
    settings: &'a Settings,
    progress: &'a Progress,
    report: &'a SharedReport<'r>,
    unmade: &'a Mutex<HashMap<Vec<u8>, Unmade>>,
}

impl Run<'_, '_> {
    fn with_report(&self, f: impl FnOnce(&mut RestoreReport)) {
        f(&mut self.report.lock().unwrap_or_else(|e| e.into_inner()));
    }

    fn fail(&self, path: &[u8], why: String, cause: Cause) {
        self.with_report(|r| r.fail(path, why, cause));
    }

    /// An entry that could not be made: reported, and remembered if it has further names.
    fn fail_entry(&self, e: &Entry, at: &[u8], why: String, cause: Cause) {
        if e.meta.nlink > 1 {
            let mut unmade = self.unmade.lock().unwrap_or_else(|e| e.into_inner());
            if unmade.len() < UNMADE_MAX {
                let what = match cause {
                    Cause::Place => Unmade::Free(Box::new(e.clone())),
                    _ => Unmade::Lost(why.clone(), cause),
                };
                unmade.insert(at.to_vec(), what);
            }
        }
        self.fail(at, why, cause);
    }

    fn count(&self, e: &Entry) {
        self.progress.entries.fetch_add(1, Ordering::Relaxed);
        self.with_report(|r| match e.meta.kind {
            Kind::File | Kind::HardLink => r.files += 1,
            _ => r.others += 1,
        });
    }

    /// Runs `n` numbered jobs on the threads of the settings, each with its own placer. Every thread begins in a stretch
    /// of its own and helps the others when that is done: neighbouring jobs write to one file or directory, and two
    /// threads there would wait for each other.
    fn parallel(&self, n: usize, job: impl Fn(&mut Placer<'_>, usize) + Sync) -> Result<(), RestoreError> {
        let threads = self.settings.threads.clamp(1, n.max(1));
        let bound = |t: usize| n * t / threads;
        let next: Vec<AtomicUsize> = (0..threads).map(|t| AtomicUsize::new(bound(t))).collect();
        let work = |me: usize| {
            let mut placer = self.place.worker();
            for t in (0..threads).map(|k| (me + k) % threads) {
                loop {
                    let i = next[t].fetch_add(1, Ordering::SeqCst);
                    if i >= bound(t + 1) || self.progress.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    job(&mut placer, i);
                }
            }
        };
        if threads == 1 {
            work(0);
            return self.not_stopped();
        }
        std::thread::scope(|scope| {
            let mut handles = Vec::new();
            for i in 0..threads {
                let (t, work) = (std::thread::Builder::new().name(format!("restore-{i}")), &work);
                handles.push(t.spawn_scoped(scope, move || work(i)).map_err(RestoreError::Resources)?);
            }
            handles.into_iter().try_for_each(|h| h.join().map_err(|_| RestoreError::Threads))
        })?;
        self.not_stopped()
    }

    /// What was stopped half way is never taken for done.
    fn not_stopped(&self) -> Result<(), RestoreError> {
        if self.progress.stop.load(Ordering::Relaxed) { Err(RestoreError::Interrupted) } else { Ok(()) }
    }

    fn simple(&self, placer: &mut Placer<'_>, e: &Entry, at: &[u8]) {
        let done = match e.meta.kind {
            Kind::File => placer.write_small(at, b"", &e.meta, &e.xattrs),
            Kind::Symlink => placer.symlink(at, &e.link, &e.meta, &e.xattrs),
            Kind::Fifo => placer.fifo(at, &e.meta, &e.xattrs),
            _ => placer.device(at, &e.meta, &e.xattrs),
        };
        self.placed(e, at, done);
    }

    fn placed(&self, e: &Entry, at: &[u8], done: Result<Vec<crate::place::Warning>, crate::place::PlaceError>) {
        match done {
            Ok(warnings) => {
                self.count(e);
                let bytes = e.extents.iter().filter(|x| matches!(x, Extent::Data { .. })).map(Extent::len).sum::<u64>();
                self.with_report(|r| r.bytes += bytes);
                if !warnings.is_empty() {
                    self.with_report(|r| warnings.into_iter().for_each(|w| r.warn(at, w.to_string())));
                }
            }
            Err(err) => self.fail_entry(e, at, err.to_string(), Cause::Place),
        }
    }

    fn stretches(&self) -> Vec<Stretch> {
        let mut all = Vec::with_capacity(self.window.extents);
        for (i, w) in self.window.files.iter().enumerate() {
            if w.kept.load(Ordering::SeqCst) {
                continue;
            }
            let mut file_offset = 0;
            for x in &w.entry.extents {
                if let Extent::Data { sector, offset, len, fingerprint } = *x {
                    all.push(Stretch { sector, offset, len, fingerprint, file: i as u32, file_offset });
                }
                file_offset += x.len();
            }
        }
        all.sort_unstable_by_key(|s| (s.sector, s.offset));
        all
    }

    /// Opens the sectors and groups stretches by neighbouring frames.
    fn tasks(&self, stretches: &[Stretch]) -> (Vec<Task>, HashMap<u32, Arc<SectorReader>>) {
        let (mut tasks, mut readers): (Vec<Task>, HashMap<u32, Arc<SectorReader>>) = Default::default();
        let mut at = 0;
        while at < stretches.len() {
            let sector = stretches[at].sector;
            let end = at + stretches[at..].partition_point(|s| s.sector == sector);
            match self.sectors.open(sector) {
                Ok(reader) => {
                    split(&reader, sector, stretches, at..end, &mut tasks);
                    readers.insert(sector, reader);
                }
                Err(no) => {
                    let mut placer = self.place.worker();
                    self.lose(&mut placer, &stretches[at..end], &no.why, Cause::of_stored(no.damage));
                }
            }
            at = end;
        }
        (tasks, readers)
    }

    /// None of these stretches can be had.
    fn lose(&self, placer: &mut Placer<'_>, stretches: &[Stretch], why: &str, cause: Cause) {
        for s in stretches {
            self.lost(placer, s, why, cause);
        }
    }

    fn lost(&self, placer: &mut Placer<'_>, s: &Stretch, why: &str, cause: Cause) {
        let Some(w) = self.window.files.get(s.file as usize) else { return };
        if !w.failed.swap(true, Ordering::SeqCst) {
            self.fail_entry(&w.entry, &w.at, why.to_owned(), cause);
        }
        self.one_less(placer, w);
    }

    fn task(
        &self,
        placer: &mut Placer<'_>,
        task: &Task,
        readers: &HashMap<u32, Arc<SectorReader>>,
        stretches: &[Stretch],
    ) {
        let mine = &stretches[task.stretches.clone()];
        let Some(reader) = readers.get(&task.sector) else { return };
        let start = mine.first().map_or(0, |s| s.offset);
        let end = mine.iter().map(|s| s.offset.saturating_add(s.len)).max().unwrap_or(0);
        let mut reader = reader.clone();
        let mut opened = open_frames(&reader, start, end).map_err(read_failure);
        // Each failure takes a copy out: there is an end.
        while let Err((_, e)) = &opened {
            reader = match self.sectors.after_failure(task.sector, &reader, e) {
                Ok(other) => other,
                Err(no) => return self.lose(placer, mine, &no.why, Cause::of_stored(no.damage)),
            };
            opened = open_frames(&reader, start, end).map_err(read_failure);
        }
        match opened {
            Ok((tar, start)) => {
                for s in mine {
                    let from = (s.offset - start) as usize;
                    self.write(placer, s, &tar[from..from + s.len as usize]);
                }
                TAR_BUFFER.with(|b| *b.borrow_mut() = tar);
            }
            Err((cause, e)) => self.lose(placer, mine, &e.to_string(), cause),
        }
    }

    fn write(&self, placer: &mut Placer<'_>, s: &Stretch, data: &[u8]) {
        let Some(w) = self.window.files.get(s.file as usize) else { return };
        if w.failed.load(Ordering::SeqCst) {
            return self.one_less(placer, w);
        }
        if *blake3::keyed_hash(&self.settings.fingerprint_key, data).as_bytes() != s.fingerprint {
            return self.lost(placer, s, "the stored content does not match its fingerprint", Cause::Damage);
        }
        self.progress.bytes.fetch_add(s.len, Ordering::Relaxed);
        self.progress.current.tell(&w.at);
        if let [Extent::Data { .. }] = w.entry.extents[..] {
            w.left.store(0, Ordering::SeqCst);
            let done = placer.write_small(&w.at, data, &w.entry.meta, &w.entry.xattrs);
            w.failed.store(done.is_err(), Ordering::SeqCst);
            return self.placed(&w.entry, &w.at, done);
        }
        let written = self.file(placer, w).and_then(|f| f.write_at(data, s.file_offset));
        if let Err(e) = written
            && !w.failed.swap(true, Ordering::SeqCst)
        {
            self.fail_entry(&w.entry, &w.at, e.to_string(), Cause::Place);
        }
        self.one_less(placer, w);
    }

    /// The file under way, created at the first stretch.
    fn file(&self, placer: &mut Placer<'_>, w: &Wanted) -> Result<Arc<PlacedFile>, crate::place::PlaceError> {
        let mut open = w.open.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(f) = &*open {
            return Ok(f.clone());
        }
        let f = Arc::new(placer.create_file(&w.at, w.entry.meta.size)?);
        *open = Some(f.clone());
        Ok(f)
    }

    fn untouched(&self, w: &Wanted) -> bool {
        let holes_only = w.entry.extents.iter().all(|x| matches!(x, Extent::Hole(_)));
        holes_only && !w.kept.load(Ordering::SeqCst)
    }

    /// A stretch is dealt with; the last one completes the file.
    fn one_less(&self, placer: &mut Placer<'_>, w: &Wanted) {
        if w.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.complete(placer, w);
        }
    }

    fn complete(&self, placer: &mut Placer<'_>, w: &Wanted) {
        if w.failed.load(Ordering::SeqCst) {
            let was_open = w.open.lock().unwrap_or_else(|e| e.into_inner()).take().is_some();
            if was_open && let Err(e) = placer.remove(&w.at) {
                self.with_report(|r| r.warn(&w.at, format!("its incomplete file is still there: {e}")));
            }
            return;
        }
        let done = self.file(placer, w).and_then(|f| f.finish(&w.entry.meta, &w.entry.xattrs));
        w.failed.store(done.is_err(), Ordering::SeqCst);
        w.open.lock().unwrap_or_else(|e| e.into_inner()).take();
        self.placed(&w.entry, &w.at, done);
    }

    /// Marks a file that is there already and right.
    fn compare_existing(&self, placer: &mut Placer<'_>, w: &Wanted) {
        // Further names, perhaps outside of this place, would get its mode and owner too: such a file is made anew.
        let shared = match placer.existing(&w.at) {
            Ok(Some((meta, _))) => meta.nlink > w.entry.meta.nlink.max(1),
            _ => return,
        };
        if shared || !self.is_right(placer, w) {
            return;
        }
        // If this fails it is written anew, which says what is wrong if that fails too.
        if let Ok(warnings) = placer.touch_up(&w.at, &w.entry.meta, &w.entry.xattrs) {
            w.kept.store(true, Ordering::SeqCst);
            self.count(&w.entry);
            self.with_report(|r| {
                r.kept += 1;
                warnings.into_iter().for_each(|x| r.warn(&w.at, x.to_string()));
            });
        }
    }

    fn verify(&self, placer: &mut Placer<'_>, w: &Wanted) {
        if !w.failed.load(Ordering::SeqCst) && !self.is_right(placer, w) {
            let why = "what was written does not read back as it should: is the disk failing?";
            self.fail(&w.at, why.into(), Cause::Place);
        }
    }

    /// Whether the file at its place holds exactly the wanted content.
    fn is_right(&self, placer: &mut Placer<'_>, w: &Wanted) -> bool {
        let Ok(Some((meta, file))) = placer.existing(&w.at) else { return false };
        if meta.kind != Kind::File || meta.size != w.entry.meta.size {
            return false;
        }
        let (mut at, mut buf) = (0, Vec::new());
        for x in &w.entry.extents {
            let right = match x {
                Extent::Hole(n) => is_hole(&file, at, *n),
                Extent::Data { len, fingerprint, .. } => {
                    buf.resize(*len as usize, 0);
                    fsx::read_exact_at(&file, &mut buf, at).is_ok()
                        && blake3::keyed_hash(&self.settings.fingerprint_key, &buf).as_bytes() == fingerprint
                }
            };
            if !right {
                return false;
            }
            at += x.len();
        }
        true
    }
}

fn read_failure(e: SectorReadError) -> (Cause, SectorReadError) {
    (Cause::of_stored(e.is_damage()), e)
}

/// Whether nothing but a hole lies there.
fn is_hole(file: &std::fs::File, at: u64, len: u64) -> bool {
    use rustix::fs::{SeekFrom, seek};
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => data >= at + len,
        Err(rustix::io::Errno::NXIO) => true,
        Err(_) => false,
    }
}

/// Cuts one sector's stretches into tasks of neighbouring frames.
fn split(reader: &SectorReader, sector: u32, all: &[Stretch], range: std::ops::Range<usize>, tasks: &mut Vec<Task>) {
    let table = reader.table();
    let mut start = range.start;
    let (mut first_tar, mut last_frame) = (0, None);
    for i in range.clone() {
        let s = &all[i];
        let frame = table.find(s.offset);
        let end_frame = table.find(s.offset + s.len - 1);
        // What lies outside the tar is a task of its own, so that it takes nothing else with it. And however stretches
        // overlap, a task stays bounded: all that lies in one frame is less than a frame away from the first.
        let far = s.offset - first_tar;
        let near = match (last_frame, frame, end_frame) {
            (Some(l), Some(f), Some(_)) => (f == l && far < FRAME_TAR_MAX as u64) || (f == l + 1 && far < TASK_TAR),
            _ => false,
        };
        if i > start && !near {
            tasks.push(Task { sector, stretches: start..i });
            start = i;
        }
        if i == start {
            first_tar = s.offset;
            last_frame = None;
        }
        last_frame = last_frame.max(end_frame);
    }
    if start < range.end {
        tasks.push(Task { sector, stretches: start..range.end });
    }
}

thread_local! {
    /// Room that goes from task to task, so that pages are not made anew each time.
    static TAR_BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    static RAW_BUFFERS: std::cell::RefCell<(Vec<u8>, Vec<u8>)> = const { std::cell::RefCell::new((Vec::new(), Vec::new())) };
}

/// Opens the frames that hold this range of the tar stream: their bytes and where they begin.
pub(crate) fn open_frames(reader: &SectorReader, start: u64, end: u64) -> Result<(Vec<u8>, u64), SectorReadError> {
    let table = reader.table();
    let first = table.find(start).ok_or(SectorReadError::Range)?;
    let last = table.find(end.saturating_sub(1)).ok_or(SectorReadError::Range)?;
    let (first_raw, first_tar) = table.frame(first).ok_or(SectorReadError::Range)?;
    let (last_raw, last_tar) = table.frame(last).ok_or(SectorReadError::Range)?;
    let mut frames = FrameReader::new()?;
    let mut tar = TAR_BUFFER.with(|b| std::mem::take(&mut *b.borrow_mut()));
    tar.resize((last_tar.end - first_tar.start) as usize, 0);
    RAW_BUFFERS.with(|b| {
        let (scratch, raw) = &mut *b.borrow_mut();
        reader.read_raw_into(first_raw.start..last_raw.end, scratch, raw)?;
        for i in first..=last {
            let (r, t) = table.frame(i).ok_or(SectorReadError::Range)?;
            let from = (r.start - first_raw.start) as usize..(r.end - first_raw.start) as usize;
            let to = (t.start - first_tar.start) as usize..(t.end - first_tar.start) as usize;
            frames.read(&raw[from], &mut tar[to])?;
        }
        Ok((tar, first_tar.start))
    })
}
