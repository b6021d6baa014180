//! Restoring: a catalog and opened sectors go in, a tree comes out.
//!
//! Entries are taken in windows of bounded size. Within a window the wanted stretches of content are sorted by where they
//! lie, so every frame is read, opened and decompressed once, by several threads; each stretch is checked against its
//! fingerprint before it is written. Directories get their modes and times when nothing below them is open any more.
//!
//! Crash rule: a file gets its time of modification last, and a file that is already there counts as right only if its
//! content's fingerprints match. So a restore that was cut goes on where it ended when it is run again.

mod window;

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use crate::catalog::CatalogError;
use crate::current::Current;
use crate::entry::{Entry, Kind};
use crate::place::{Place, PlaceError};
use crate::sector_reader::{SectorReadError, SectorReader};

use window::Window;
pub(crate) use window::open_frames;

/// Entries in one window.
const WINDOW_ENTRIES: usize = 48 << 10;
/// Extents in one window.
const WINDOW_EXTENTS: usize = 192 << 10;

/// Gives opened sectors by their process-wide number.
pub trait OpenSectors: Sync {
    /// A healthy copy of the sector.
    fn open(&self, sector: u32) -> Result<Arc<SectorReader>, NoCopy>;
    /// The copy behind `failed` could not be read: another one, if there is any left. Several threads may have failed with
    /// the same copy: what was taken in its place meanwhile must not be blamed for it.
    fn after_failure(
        &self,
        sector: u32,
        failed: &Arc<SectorReader>,
        why: &SectorReadError,
    ) -> Result<Arc<SectorReader>, NoCopy>;
}

/// No copy of a sector can be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NoCopy {
    /// What is wrong with each copy.
    pub why: String,
    /// A copy's bytes are wrong or gone, rather than out of reach for now.
    pub damage: bool,
}

/// How to restore.
#[derive(Clone, Debug)]
pub struct Settings {
    pub threads: usize,
    /// Read everything back and compare it once more.
    pub verify: bool,
    /// Nothing was there before, so nothing needs to be compared first.
    pub fresh: bool,
    pub fingerprint_key: [u8; 32],
}

/// Live figures of a running restore.
#[derive(Debug, Default)]
pub struct Progress {
    pub bytes: AtomicU64,
    pub entries: AtomicU64,
    /// The file that is written, as a path below the place that is restored to.
    pub current: Current,
    /// Set it to stop.
    pub stop: Arc<AtomicBool>,
}

/// Names kept in a report at most; all are counted.
const REPORT_MAX: usize = 1000;

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The place that is restored to.
    Place,
    /// Stored bytes are wrong or gone.
    Damage,
    /// Stored bytes are out of reach.
    Unreachable,
}

impl Cause {
    fn of_stored(damage: bool) -> Self {
        if damage { Self::Damage } else { Self::Unreachable }
    }
}

/// What a restore came to.
#[derive(Debug, Default)]
pub struct RestoreReport {
    pub files: u64,
    pub dirs: u64,
    pub others: u64,
    /// Content of the files that were made; what failed half way is not in it.
    pub bytes: u64,
    /// Files that were already right.
    pub kept: u64,
    /// Paths that could not be restored, with the reason.
    pub failed: Vec<(Vec<u8>, String)>,
    pub failed_count: u64,
    /// Failures because stored bytes are damaged or gone.
    pub damage_count: u64,
    /// Failures because stored bytes could not be read for now: the target is out of reach, or its disk fails.
    pub unreachable_count: u64,
    /// Things restored with something missing (an owner, an attribute).
    pub warnings: Vec<(Vec<u8>, String)>,
    pub warnings_count: u64,
    /// Copies that could not be read, in words: where nothing failed, others were read instead.
    pub bad_copies: Vec<String>,
}

impl RestoreReport {
    /// Adds another part of the same restore.
    pub fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.dirs += other.dirs;
        self.others += other.others;
        self.bytes += other.bytes;
        self.kept += other.kept;
        self.failed_count += other.failed_count;
        self.damage_count += other.damage_count;
        self.unreachable_count += other.unreachable_count;
        self.warnings_count += other.warnings_count;
        self.failed.extend(other.failed.iter().cloned());
        self.warnings.extend(other.warnings.iter().cloned());
        self.bad_copies.extend(other.bad_copies.iter().cloned());
    }

    /// Notes what was left as it is, though nothing is wrong with what is stored or with the place.
    pub fn leave_out(&mut self, path: &[u8], why: String) {
        self.fail(path, why, Cause::Place);
    }

    fn fail(&mut self, path: &[u8], why: String, cause: Cause) {
        self.failed_count += 1;
        self.damage_count += u64::from(cause == Cause::Damage);
        self.unreachable_count += u64::from(cause == Cause::Unreachable);
        if self.failed.len() < REPORT_MAX {
            self.failed.push((path.to_vec(), why));
        }
    }

    fn warn(&mut self, path: &[u8], why: String) {
        self.warnings_count += 1;
        if self.warnings.len() < REPORT_MAX {
            self.warnings.push((path.to_vec(), why));
        }
    }
}

/// Why a restore stopped.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the catalog cannot be read")]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("{path}: {source}")]
    Parent { path: String, source: PlaceError },
    #[error("a restoring thread ended unexpectedly")]
    Threads,
    #[error("a thread or a buffer could not be made")]
    Resources(#[source] std::io::Error),
    #[error("interrupted")]
    Interrupted,
}

/// A directory whose mode and times wait until its content is complete.
struct OpenDir {
    entry: Entry,
    at: Vec<u8>,
}

/// Joins the source's place and a path inside it.
fn join(top: &[u8], path: &[u8]) -> Vec<u8> {
    match (top.is_empty(), path.is_empty()) {
        (true, _) => path.to_vec(),
        (false, true) => top.to_vec(),
        (false, false) => [top, b"/", path].concat(),
    }
}

/// Restores one source below `place`, its root at `top` (relative; its parents are made when missing).
///
/// `entries` must hold what is wanted, in path order, with the directories above it.
pub fn restore<I>(
    entries: I,
    top: &[u8],
    place: &Place,
    sectors: &dyn OpenSectors,
    settings: &Settings,
    progress: &Progress,
) -> Result<RestoreReport, RestoreError>
where
    I: Iterator<Item = Result<Entry, CatalogError>>,
{
    let mut report = RestoreReport::default();
    let mut placer = place.worker();
    make_parents(&mut placer, top)?;
    let mut dirs: Vec<OpenDir> = Vec::new();
    let mut window = Window::default();
    for entry in entries {
        let entry = entry?;
        if progress.stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(RestoreError::Interrupted);
        }
        if window.entries() >= WINDOW_ENTRIES || window.extents() >= WINDOW_EXTENTS {
            window.run(place, sectors, settings, progress, &mut report)?;
            finish_dirs(&mut placer, &mut dirs, &mut report, |d| !below(&entry.path, &d.entry.path));
        }
        let at = join(top, &entry.path);
        if entry.meta.kind == Kind::Dir {
            match placer.make_dir(&at) {
                Ok(()) => {
                    report.dirs += 1;
                    dirs.push(OpenDir { entry, at });
                }
                Err(e) => report.fail(&at, e.to_string(), Cause::Place),
            }
            continue;
        }
        window.add(entry, at, top);
    }
    window.run(place, sectors, settings, progress, &mut report)?;
    finish_dirs(&mut placer, &mut dirs, &mut report, |_| true);
    place.sync()?;
    Ok(report)
}

fn make_parents(placer: &mut crate::place::Placer<'_>, top: &[u8]) -> Result<(), RestoreError> {
    for (i, _) in top.iter().enumerate().filter(|(_, b)| **b == b'/') {
        let path = || crate::shown::show_path(&top[..i]);
        placer.make_parent(&top[..i]).map_err(|source| RestoreError::Parent { path: path(), source })?;
    }
    Ok(())
}

fn below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || (path.starts_with(dir) && path.get(dir.len()) == Some(&b'/'))
}

/// Finishes the directories that nothing will be added to, deepest first.
fn finish_dirs(
    placer: &mut crate::place::Placer<'_>,
    dirs: &mut Vec<OpenDir>,
    report: &mut RestoreReport,
    done: impl Fn(&OpenDir) -> bool,
) {
    let (finished, open): (Vec<_>, Vec<_>) = std::mem::take(dirs).into_iter().partition(done);
    *dirs = open;
    for d in finished.into_iter().rev() {
        match placer.finish_dir(&d.at, &d.entry.meta, &d.entry.xattrs) {
            Ok(warnings) => warnings.into_iter().for_each(|w| report.warn(&d.at, w.to_string())),
            Err(e) => report.fail(&d.at, e.to_string(), Cause::Place),
        }
    }
}

/// A report shared by threads.
type SharedReport<'a> = Mutex<&'a mut RestoreReport>;
