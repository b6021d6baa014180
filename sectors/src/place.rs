//! Making restored entries below one directory, and never outside it: whatever the catalog says, and whatever someone
//! else does to the tree meanwhile.
//!
//! Paths are checked first (no `..`, nothing absolute), then every one is resolved by the kernel beneath the directory,
//! following no link ([`crate::beneath`]). Owner, mode and times are set on what is open, never on a name that could
//! mean something else by now. One thing stays: a directory that someone moves away while a worker has it open is
//! followed, so whoever may rename directories inside the tree may move what is restored with them.
//!
//! Nothing that is there is written over in place: it is unlinked and made anew, so its other names keep their content.
//!
//! Crash rule: a file is written under its final name and gets its time of modification last. So a file that was being
//! written when the power went is known by its time, and a later run compares content before it believes any.

mod dirs;
mod dress;
mod file;
mod placer;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::fsx::{Call, gate};

pub use file::PlacedFile;
pub use placer::Placer;

/// Why an entry cannot be made. None of these is helped by trying again as things are.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("the catalog names a path that leads outside: refused")]
    Outside,
    #[error("a link or a file stands where a directory above it should be: it is not followed")]
    NotADirectory,
    #[error("something that is not a file stands in the way")]
    InTheWay,
    #[error("something is there already, and it is to be kept")]
    Exists,
    #[error("cannot {what}: this user may not ({source})")]
    NotPermitted { what: &'static str, source: io::Error },
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

impl PlaceError {
    /// Says what was tried when this error came.
    fn of<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |e| {
            let source = e.into();
            match source.kind() {
                io::ErrorKind::PermissionDenied => Self::NotPermitted { what, source },
                _ => Self::Io { what, source },
            }
        }
    }
}

/// Something that could not be restored of an entry that is otherwise there.
#[derive(Debug, thiserror::Error)]
#[error("cannot set its {what}: {source}")]
pub struct Warning {
    pub what: String,
    pub source: io::Error,
}

/// What making an entry comes to: what it lacks.
pub type Placed = Result<Vec<Warning>, PlaceError>;

/// What happens to something that stands where an entry is to be made. A directory where a directory belongs is always
/// used as it is; a directory that holds something is never removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// It stays, and the entry is not made.
    Never,
    /// It is replaced, unless it is the same already: links are compared here, the content of files by the caller
    /// ([`Placer::existing`]).
    #[default]
    IfDifferent,
    /// It is replaced.
    Always,
}

/// The directory that nothing leaves.
#[derive(Debug)]
pub struct Place {
    root: OwnedFd,
    /// Owner and group of what this process makes.
    uid: u32,
    gid: u32,
    overwrite: Overwrite,
}

impl Place {
    /// Opens a directory, making it (0700) with those above it if it is missing. Here links are followed: the person
    /// who asks for the restore named it.
    pub fn open(dest: &Path) -> Result<Self, PlaceError> {
        crate::fsx::create_dir_all(dest, 0o700).map_err(PlaceError::of("make the directory to restore to"))?;
        gate(Call::Open).map_err(PlaceError::of("open the directory to restore to"))?;
        // A path-only descriptor would do for everything but the sync.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(dest, flags, Mode::empty()).map_err(PlaceError::of("open the directory to restore to"))?;
        Ok(Self::at(root))
    }

    /// A directory that is open for reading already.
    pub fn at(root: OwnedFd) -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { root, uid, gid, overwrite: Overwrite::default() }
    }

    /// With another rule for what is there already.
    pub fn with_overwrite(self, overwrite: Overwrite) -> Self {
        Self { overwrite, ..self }
    }

    /// The rule for what is there already.
    pub fn overwrite(&self) -> Overwrite {
        self.overwrite
    }

    /// A worker's own hand: not shared between threads.
    pub fn worker(&self) -> Placer<'_> {
        Placer::new(self)
    }

    /// Makes everything placed so far durable.
    pub fn sync(&self) -> Result<(), PlaceError> {
        gate(Call::Sync).map_err(PlaceError::of("sync"))?;
        rustix::fs::syncfs(&self.root).map_err(PlaceError::of("sync"))
    }
}

#[cfg(test)]
mod tests;
