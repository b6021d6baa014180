//! File calls relative to an open directory, which never follow a symbolic link.
//!
//! An open directory stays the one it was: when its disk is unmounted in between, nothing lands in the mount point.
//! Names here are single components that the adapter made itself.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use zoneward_sectors::fsx::{self, Call};

use crate::limits::{LOCK_TRIES, NAMES_MAX};

/// Everything here is for the owner's eyes only, even though it is encrypted: names and sizes tell something too.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIR_MODE: Mode = Mode::RWXU;
/// Opening a planted pipe must not wait for its other end.
const FILE_FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// What may stand where one of our files belongs.
pub(super) const LINK: &str = "a symbolic link";
pub(super) const DIRECTORY: &str = "a directory";
const SECOND_NAME: &str = "a file with a second name";
const SPECIAL: &str = "a device, pipe or socket";

/// An open directory.
pub(super) struct Dir(File);

/// What stands under a name.
pub(super) enum Found {
    File(File, Stat),
    /// The name is free.
    Nothing,
    /// Something else than a file of ours.
    Foreign(&'static str),
}

/// The outcome of taking a file for writing.
pub(super) enum Taken {
    /// Ours alone until it is closed.
    Held(File, Stat),
    /// Another writer has it.
    Busy,
    Foreign(&'static str),
}

fn foreign(st: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(st.st_mode) {
        FileType::RegularFile if st.st_nlink > 1 => Some(SECOND_NAME),
        FileType::RegularFile => None,
        FileType::Directory => Some(DIRECTORY),
        FileType::Symlink => Some(LINK),
        _ => Some(SPECIAL),
    }
}

fn same(a: &Stat, b: &Stat) -> bool {
    a.st_dev == b.st_dev && a.st_ino == b.st_ino
}

/// What an open file is now.
pub(super) fn file_stat(file: &File) -> io::Result<Stat> {
    fsx::gate(Call::Stat)?;
    Ok(fs::fstat(file)?)
}

impl Dir {
    /// Opens a directory by its whole path. Links in it are followed: the path is the operator's own.
    pub fn open_path(path: &Path) -> io::Result<Dir> {
        fsx::gate(Call::Open)?;
        let fd = fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Dir(File::from(fd)))
    }

    /// Opens a directory in this one.
    pub fn open(&self, name: &str) -> io::Result<Dir> {
        fsx::gate(Call::Open)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Dir(File::from(fs::openat(&self.0, name, flags, Mode::empty())?)))
    }

    /// Opens a directory in this one, and makes it first if there is none.
    pub fn make(&self, name: &str) -> io::Result<Dir> {
        match self.open(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            r => return r,
        }
        fsx::gate(Call::Mkdir)?;
        match fs::mkdirat(&self.0, name, DIR_MODE) {
            Ok(()) | Err(Errno::EXIST) => self.open(name),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether both are the same directory of the same file system.
    pub fn is(&self, other: &Dir) -> io::Result<bool> {
        Ok(same(&file_stat(&self.0)?, &file_stat(&other.0)?))
    }

    /// What stands under a name, without opening it.
    pub fn stat(&self, name: &str) -> io::Result<Option<Stat>> {
        fsx::gate(Call::Stat)?;
        match fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(st) => Ok(Some(st)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Length of the file under a name; `Err` inside says what else stands there.
    pub fn file_len(&self, name: &str) -> io::Result<Option<Result<u64, &'static str>>> {
        Ok(self.stat(name)?.map(|st| match foreign(&st) {
            Some(reason) => Err(reason),
            None => Ok(u64::try_from(st.st_size).unwrap_or(0)),
        }))
    }

    /// Opens a file for reading.
    pub fn read(&self, name: &str) -> io::Result<Found> {
        fsx::gate(Call::Open)?;
        let file = match fs::openat(&self.0, name, OFlags::RDONLY | FILE_FLAGS, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(Errno::LOOP) => return Ok(Found::Foreign(LINK)),
            Err(Errno::NXIO) => return Ok(Found::Foreign(SPECIAL)),
            Err(e) => return Err(e.into()),
        };
        let st = file_stat(&file)?;
        Ok(match foreign(&st) {
            Some(reason) => Found::Foreign(reason),
            None => Found::File(file, st),
        })
    }

    /// Opens or makes a file for one writer alone (`flock`: it ends with the file handle, so a dead process holds
    /// nothing).
    pub fn take(&self, name: &str) -> io::Result<Taken> {
        for _ in 0..LOCK_TRIES {
            fsx::gate(Call::Create)?;
            let file = match fs::openat(&self.0, name, OFlags::RDWR | OFlags::CREATE | FILE_FLAGS, FILE_MODE) {
                Ok(fd) => File::from(fd),
                Err(Errno::LOOP) => return Ok(Taken::Foreign(LINK)),
                Err(Errno::ISDIR) => return Ok(Taken::Foreign(DIRECTORY)),
                Err(Errno::NXIO) => return Ok(Taken::Foreign(SPECIAL)),
                Err(e) => return Err(e.into()),
            };
            if let Some(reason) = foreign(&file_stat(&file)?) {
                return Ok(Taken::Foreign(reason));
            }
            fsx::gate(Call::Open)?;
            match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(Taken::Busy),
                Err(e) => return Err(e.into()),
            }
            // Its last holder may have sealed or discarded it while we waited for the open: then this is no longer
            // the file of that name, and writing to it would change a sealed sector.
            let st = file_stat(&file)?;
            if self.stat(name)?.is_some_and(|now| same(&now, &st)) {
                return Ok(Taken::Held(file, st));
            }
        }
        Ok(Taken::Busy)
    }

    /// Whether the name still stands for this open file.
    pub fn holds(&self, name: &str, file: &File) -> io::Result<bool> {
        let st = file_stat(file)?;
        Ok(self.stat(name)?.is_some_and(|now| same(&now, &st)))
    }

    /// Renames into another directory, replacing what is there.
    pub fn rename(&self, name: &str, to: &Dir, to_name: &str) -> io::Result<()> {
        fsx::gate(Call::Rename)?;
        Ok(fs::renameat(&self.0, name, &to.0, to_name)?)
    }

    /// Renames into another directory, where the name must be free (`AlreadyExists` if it is not). A file system that
    /// cannot do both in one step checks first.
    pub fn rename_new(&self, name: &str, to: &Dir, to_name: &str) -> io::Result<()> {
        fsx::gate(Call::Rename)?;
        match fs::renameat_with(&self.0, name, &to.0, to_name, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                if to.stat(to_name)?.is_some() {
                    return Err(Errno::EXIST.into());
                }
                self.rename(name, to, to_name)
            }
            r => Ok(r?),
        }
    }

    /// Removes a file or a link; nothing there is fine.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        fsx::gate(Call::Remove)?;
        match fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes the names in it durable.
    pub fn sync(&self) -> io::Result<()> {
        fsx::sync(&self.0)
    }

    /// The names in it, unsorted; at most [`NAMES_MAX`] (`None` if there are more).
    pub fn names(&self) -> io::Result<Option<Vec<OsString>>> {
        fsx::gate(Call::List)?;
        let mut out = Vec::new();
        for entry in fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if out.len() == NAMES_MAX {
                return Ok(None);
            }
            out.push(OsString::from_vec(name.to_vec()));
        }
        Ok(Some(out))
    }

    /// Free bytes for this user, and whether the file system is FAT, whose files end below 4 GiB.
    pub fn room(&self) -> io::Result<(u64, bool)> {
        const MSDOS_SUPER_MAGIC: u64 = 0x4d44;
        fsx::gate(Call::Stat)?;
        let vfs = fs::fstatvfs(&self.0)?;
        let kind = fs::fstatfs(&self.0)?.f_type as u64 & 0xffff_ffff;
        Ok((vfs.f_bavail.saturating_mul(vfs.f_frsize), kind == MSDOS_SUPER_MAGIC))
    }
}
