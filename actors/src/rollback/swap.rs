//! How things change places: names are renamed inside one directory, never copied, never written over.
//!
//! Crash rule: the journal says which way things are going before the first of them goes. Whoever comes after a crash moves
//! what is left in the same direction; what lies in `old` and `new` tells how far it was. A name that a program has made
//! anew meanwhile stands in the way of one that is to go there: it goes to `late`, and nothing is lost.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, chmod, mkdirat, open, openat, renameat, renameat_with, statat,
};
use rustix::io::Errno;
use zoneward_sectors::fsx::{self, Call, gate};
use zoneward_sectors::place::Place;

use super::RollbackError;
use super::journal::{Ajar, Bytes, Dress, Journal, Phase, Side, Step, Swap};

pub(super) const OLD: &str = "old";
pub(super) const NEW: &str = "new";
pub(super) const LATE: &str = "late";
/// Opens a directory to list it, and no link.
pub(super) const LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How often one name may stand in the way.
const LATE_MAX: u32 = 10_000;
/// The bit that lets the owner write.
const OWNER_WRITES: u32 = 0o200;

/// What the steps need of the world.
pub(super) struct Hand<'a> {
    /// Makes the journal durable.
    pub save: &'a mut dyn FnMut(&Journal) -> Result<(), RollbackError>,
    /// Called at each moment after which a crash leaves something else than before.
    pub pass: &'a mut dyn FnMut(&'static str) -> Result<(), RollbackError>,
    /// What a person should know, in words.
    pub told: Vec<String>,
}

impl Hand<'_> {
    fn save(&mut self, journal: &Journal) -> Result<(), RollbackError> {
        (self.pass)("rollback-journal:before")?;
        (self.save)(journal)?;
        (self.pass)("rollback-journal:after")
    }
}

pub(super) fn failed<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> RollbackError {
    move |e| RollbackError::Move { what, path: path.to_owned(), source: e.into() }
}

/// The directories between which names go.
struct Sides {
    dir: PathBuf,
    place: OwnedFd,
    folder: OwnedFd,
    old: OwnedFd,
    new: OwnedFd,
}

impl Sides {
    fn open(swap: &Swap) -> Result<Self, RollbackError> {
        let (dir, kept) = (swap.dir.path(), swap.kept());
        let place = open(&dir, LIST, Mode::empty()).map_err(failed("open", &dir))?;
        let folder = match openat(&place, swap.folder.as_str(), LIST, Mode::empty()) {
            Err(Errno::NOENT) => return Err(RollbackError::Gone { folder: kept }),
            r => r.map_err(failed("open", &kept))?,
        };
        let side = |name: &str| openat(&folder, name, LIST, Mode::empty()).map_err(failed("open", &kept.join(name)));
        let (old, new) = (side(OLD)?, side(NEW)?);
        Ok(Self { dir, place, folder, old, new })
    }

    fn fd(&self, side: Side) -> BorrowedFd<'_> {
        match side {
            Side::Place => self.place.as_fd(),
            Side::Old => self.old.as_fd(),
            Side::New => self.new.as_fd(),
        }
    }

    /// Moves what a program has made anew under a name out of its way.
    fn set_late(&self, name: &CStr) -> io::Result<()> {
        make_dir(self.folder.as_fd(), LATE)?;
        let late = openat(&self.folder, LATE, LIST, Mode::empty())?;
        for n in 0..LATE_MAX {
            make_dir(late.as_fd(), &n.to_string())?;
            let free = openat(&late, n.to_string(), LIST, Mode::empty())?;
            match rename_to_free(self.place.as_fd(), name, free.as_fd()) {
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                r => return Ok(r?),
            }
        }
        Err(Errno::EXIST.into())
    }
}

pub(super) fn make_dir(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    gate(Call::Mkdir)?;
    match mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Renames to a name that nothing has.
fn rename_to_free(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    match renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        // Some file systems cannot promise it: then it is looked for first.
        Err(Errno::INVAL | Errno::NOSYS) => match statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => renameat(from, name, to, name),
            Ok(_) => Err(Errno::EXIST),
            Err(e) => Err(e),
        },
        r => r,
    }
}

/// Names in a directory, in order.
pub(super) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    gate(Call::List)?;
    let mut all = Vec::new();
    for e in Dir::read_from(dir)? {
        let e = e?;
        if !matches!(e.file_name().to_bytes(), b"." | b"..") {
            all.push(e.file_name().to_owned());
        }
    }
    all.sort();
    Ok(all)
}

/// Sets the mode of what is held by a path-only descriptor.
pub(super) fn set_mode(fd: &OwnedFd, mode: u32) -> io::Result<()> {
    gate(Call::SetMeta)?;
    Ok(chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str(), Mode::from_raw_mode(mode))?)
}

/// A directory by its name, whatever may be done with it.
pub(super) fn hold_dir(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// A directory that was opened for its move gets its mode back, wherever the move was cut.
fn close_again(sides: &Sides, ajar: &Ajar) -> io::Result<()> {
    for side in [ajar.to, ajar.from] {
        match hold_dir(sides.fd(side), &ajar.name.0) {
            Ok(fd) if rustix::fs::fstat(&fd)?.st_ino == ajar.ino => return set_mode(&fd, ajar.mode),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn swap_mut(journal: &mut Journal, i: usize) -> Result<&mut Swap, RollbackError> {
    journal.swaps.get_mut(i).ok_or(RollbackError::Turn)
}

fn step_of(journal: &Journal, i: usize) -> Result<Step, RollbackError> {
    journal.swaps.get(i).map(|s| s.step).ok_or(RollbackError::Turn)
}

fn set_step(journal: &mut Journal, i: usize, step: Step, hand: &mut Hand<'_>) -> Result<(), RollbackError> {
    swap_mut(journal, i)?.step = step;
    hand.save(journal)
}

fn set_phase(journal: &mut Journal, phase: Phase, hand: &mut Hand<'_>) -> Result<(), RollbackError> {
    journal.phase = phase;
    hand.save(journal)
}

/// Puts what was staged into place, from wherever an earlier run was cut.
pub(super) fn forward(journal: &mut Journal, hand: &mut Hand<'_>) -> Result<(), RollbackError> {
    match journal.phase {
        Phase::Staging => set_phase(journal, Phase::Swapping, hand)?,
        Phase::Swapping => {}
        _ => return Err(RollbackError::Turn),
    }
    for i in 0..journal.swaps.len() {
        loop {
            match step_of(journal, i)? {
                Step::Waiting => set_step(journal, i, Step::Aside, hand)?,
                Step::Aside => {
                    carry(journal, i, Side::Place, Side::Old, hand)?;
                    set_step(journal, i, Step::In, hand)?;
                }
                Step::In => {
                    carry(journal, i, Side::New, Side::Place, hand)?;
                    dress(journal, i, |s| s.after.as_ref(), hand)?;
                    set_step(journal, i, Step::Swapped, hand)?;
                }
                Step::Swapped => break,
                Step::Out | Step::Back | Step::Undone => return Err(RollbackError::Turn),
            }
        }
    }
    set_phase(journal, Phase::Swapped, hand)
}

/// Brings back what was replaced, the last first, from wherever an earlier run was cut.
pub(super) fn back(journal: &mut Journal, hand: &mut Hand<'_>) -> Result<(), RollbackError> {
    match journal.phase {
        Phase::Swapping | Phase::Swapped => {
            for s in &mut journal.swaps {
                s.step = match s.step {
                    // In the place there is nothing yet that the rollback brought; but its own folder changed the directory's time.
                    Step::Waiting | Step::Aside => Step::Back,
                    Step::In | Step::Swapped => Step::Out,
                    step @ (Step::Out | Step::Back | Step::Undone) => step,
                };
            }
            set_phase(journal, Phase::Undoing, hand)?;
        }
        Phase::Undoing => {}
        _ => return Err(RollbackError::Turn),
    }
    for i in (0..journal.swaps.len()).rev() {
        loop {
            match step_of(journal, i)? {
                Step::Out => {
                    carry(journal, i, Side::Place, Side::New, hand)?;
                    set_step(journal, i, Step::Back, hand)?;
                }
                Step::Back => {
                    carry(journal, i, Side::Old, Side::Place, hand)?;
                    dress(journal, i, |s| s.before.as_ref(), hand)?;
                    set_step(journal, i, Step::Undone, hand)?;
                }
                Step::Undone => break,
                Step::Waiting | Step::Aside | Step::In | Step::Swapped => return Err(RollbackError::Turn),
            }
        }
    }
    set_phase(journal, Phase::Undone, hand)
}

/// Moves all that changes places from one side to the other, durably.
fn carry(journal: &mut Journal, i: usize, from: Side, to: Side, hand: &mut Hand<'_>) -> Result<(), RollbackError> {
    let swap = swap_mut(journal, i)?;
    let sides = Sides::open(swap)?;
    if let Some(ajar) = &swap.ajar {
        close_again(&sides, ajar).map_err(failed("close", &sides.dir.join(ajar.name.path())))?;
    }
    let mut all = names(sides.fd(from)).map_err(failed("list", &sides.dir))?;
    all.retain(|n| from != Side::Place || swap.moves(n.to_bytes()));
    for name in &all {
        (hand.pass)("rollback-move:before")?;
        carry_one(journal, i, &sides, name, (from, to), hand)?;
        (hand.pass)("rollback-move:after")?;
    }
    for side in [to, from] {
        gate(Call::Sync)
            .and_then(|()| Ok(rustix::fs::fsync(sides.fd(side))?))
            .map_err(failed("make durable", &sides.dir))?;
    }
    Ok(())
}

fn carry_one(
    journal: &mut Journal,
    i: usize,
    sides: &Sides,
    name: &CStr,
    (from, to): (Side, Side),
    hand: &mut Hand<'_>,
) -> Result<(), RollbackError> {
    let at = || sides.dir.join(Bytes(name.to_bytes().to_vec()).path());
    let rename = || {
        gate(Call::Rename)?;
        Ok(rename_to_free(sides.fd(from), name, sides.fd(to))?)
    };
    // Each round deals with one thing that is in the way.
    for _ in 0..LATE_MAX {
        let e: io::Error = match rename() {
            Ok(()) => return Ok(()),
            Err(e) => e,
        };
        match Errno::from_io_error(&e) {
            // A program removed it meanwhile.
            Some(Errno::NOENT) if from == Side::Place => return Ok(()),
            Some(Errno::EXIST | Errno::NOTEMPTY) => {
                sides.set_late(name).map_err(failed("move aside", &at()))?;
                hand.told.push(format!(
                    "{} was made anew meanwhile: it lies in {}",
                    at().display(),
                    sides.dir.join(&swap_mut(journal, i)?.folder).join(LATE).display()
                ));
                if from == Side::Place {
                    return Ok(());
                }
            }
            Some(Errno::ACCESS) if is_closed(sides.fd(from), name) => {
                return carry_closed(journal, i, sides, name, (from, to), hand);
            }
            _ => return Err(failed("move", &at())(e)),
        }
    }
    Err(failed("move", &at())(Errno::EXIST))
}

/// Whether it is a directory that its owner may not write to: only who may write to it can move it elsewhere.
fn is_closed(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    let is = |s: rustix::fs::Stat| FileType::from_raw_mode(s.st_mode).is_dir() && s.st_mode & OWNER_WRITES == 0;
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is)
}

/// Moves a directory that has to be opened for it.
fn carry_closed(
    journal: &mut Journal,
    i: usize,
    sides: &Sides,
    name: &CStr,
    (from, to): (Side, Side),
    hand: &mut Hand<'_>,
) -> Result<(), RollbackError> {
    let at = sides.dir.join(Bytes(name.to_bytes().to_vec()).path());
    let fd = hold_dir(sides.fd(from), name.to_bytes()).map_err(failed("open", &at))?;
    let s = rustix::fs::fstat(&fd).map_err(failed("look at", &at))?;
    let mode = s.st_mode & 0o7777;
    let name_bytes = Bytes(name.to_bytes().to_vec());
    swap_mut(journal, i)?.ajar = Some(Ajar { name: name_bytes, ino: s.st_ino, mode, from, to });
    hand.save(journal)?;
    set_mode(&fd, mode | OWNER_WRITES).map_err(failed("open for its move", &at))?;
    (hand.pass)("rollback-ajar")?;
    let moved = rename_to_free(sides.fd(from), name, sides.fd(to));
    set_mode(&fd, mode).map_err(failed("close after its move", &at))?;
    moved.map_err(failed("move", &at))?;
    swap_mut(journal, i)?.ajar = None;
    Ok(())
}

/// Gives the directory itself its attributes, once all that changes its time is done.
fn dress(
    journal: &Journal,
    i: usize,
    which: impl Fn(&Swap) -> Option<&Dress>,
    hand: &mut Hand<'_>,
) -> Result<(), RollbackError> {
    let swap = journal.swaps.get(i).ok_or(RollbackError::Turn)?;
    let Some(dress) = which(swap) else { return Ok(()) };
    let dir = swap.dir.path();
    let place = Place::at(open(&dir, LIST, Mode::empty()).map_err(failed("open", &dir))?);
    let (meta, xattrs) = dress.parts();
    let lacks = place.worker().finish_dir(b"", &meta, &xattrs);
    let lacks = lacks.map_err(|e| failed("set the attributes of", &dir)(io::Error::other(e)))?;
    hand.told.extend(lacks.into_iter().map(|w| format!("{}: {w}", dir.display())));
    fsx::sync_dir(&dir).map_err(failed("make durable", &dir))
}

/// What programs made anew while things changed places.
pub(super) fn has_late(swap: &Swap) -> bool {
    swap.kept().join(LATE).exists()
}

#[cfg(test)]
mod tests;
