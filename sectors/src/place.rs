//! Making restored entries below one directory, and never outside it: whatever the catalog says, and whatever someone
//! else does to the tree meanwhile. Every path is resolved by the kernel beneath the directory, following no link.
//!
//! A file gets its time of modification last. So a file that was being written when the power went is known by its time,
//! and a later run compares content before it believes any.

mod file;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, mkdirat, mknodat, openat, symlinkat, unlinkat};

use crate::attrs;
use crate::beneath::{open_beneath, split};
use crate::catalog::path_is_inside;
use crate::entry::{Kind, Meta, Xattrs};
use crate::fsx::{Call, gate};
use crate::limits::PATH_LEN_MAX;

pub use file::PlacedFile;
use file::dress;

/// Why an entry cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("the catalog names a path that leads outside: refused")]
    Outside,
    #[error("something that is not a file stands in the way")]
    InTheWay,
    #[error("making it needs more rights than this user has")]
    NotPermitted,
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
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

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> PlaceError {
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => PlaceError::NotPermitted,
        _ => PlaceError::Io { what, source },
    }
}

/// The directory that nothing leaves.
#[derive(Debug)]
pub struct Place {
    root: OwnedFd,
    uid: u32,
    gid: u32,
}

impl Place {
    /// Opens a directory, making it (0700) with those above it if it is missing.
    pub fn open(dest: &Path) -> Result<Self, PlaceError> {
        crate::fsx::create_dir_all(dest, 0o700).map_err(io_error("make the directory to restore to"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dest, flags, Mode::empty())
            .map_err(|e| io_error("open the directory to restore to")(e.into()))?;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(Self { root, uid, gid })
    }

    /// A worker's own hand: not shared between threads.
    pub fn worker(&self) -> Placer<'_> {
        Placer { place: self, dirs: HashMap::new() }
    }

    /// Makes everything placed so far durable.
    pub fn sync(&self) -> Result<(), PlaceError> {
        gate(Call::Sync).map_err(io_error("sync"))?;
        rustix::fs::syncfs(&self.root).map_err(|e| io_error("sync")(e.into()))
    }
}

/// Directories kept open by one worker.
const DIRS_MAX: usize = 32;

/// Makes entries.
#[derive(Debug)]
pub struct Placer<'a> {
    place: &'a Place,
    dirs: HashMap<Vec<u8>, Rc<OwnedFd>>,
}

fn checked(path: &[u8]) -> Result<(), PlaceError> {
    if path.is_empty() || path.len() > PATH_LEN_MAX || !path_is_inside(path) {
        Err(PlaceError::Outside)
    } else {
        Ok(())
    }
}

impl Placer<'_> {
    /// The directory that holds `path`, and the name in it.
    fn dir_of<'p>(&mut self, path: &'p [u8]) -> Result<(Rc<OwnedFd>, &'p [u8]), PlaceError> {
        checked(path)?;
        let (dir, name) = split(path);
        if let Some(fd) = self.dirs.get(dir) {
            return Ok((fd.clone(), name));
        }
        gate(Call::Open).map_err(io_error("open the directory above"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = open_beneath(self.place.root.as_fd(), dir, flags, Mode::empty())
            .map_err(io_error("open the directory above"))?;
        if self.dirs.len() >= DIRS_MAX {
            self.dirs.clear();
        }
        let fd = Rc::new(fd);
        self.dirs.insert(dir.to_vec(), fd.clone());
        Ok((fd, name))
    }

    /// Removes a file, link, fifo or device that stands where something else is to be made.
    fn clear(&self, dir: &OwnedFd, name: &[u8]) -> Result<(), PlaceError> {
        gate(Call::Remove).map_err(io_error("remove what stood there"))?;
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
                Err(_) => Err(PlaceError::InTheWay),
            },
            Err(e) => Err(io_error("remove what stood there")(e.into())),
        }
    }

    /// Makes something at `path`; what stands in the way is removed, once.
    fn make<T>(
        &mut self,
        path: &[u8],
        call: Call,
        what: &'static str,
        make: impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<(Rc<OwnedFd>, T), PlaceError> {
        let (dir, name) = self.dir_of(path)?;
        gate(call).map_err(io_error(what))?;
        match make(&dir, name) {
            Err(rustix::io::Errno::EXIST) => {
                self.clear(&dir, name)?;
                let made = make(&dir, name).map_err(|e| io_error(what)(e.into()))?;
                Ok((dir, made))
            }
            Ok(made) => Ok((dir, made)),
            Err(e) => Err(io_error(what)(e.into())),
        }
    }

    /// Makes a directory, open to this user only until it is finished. One that is there already is fine.
    pub fn make_dir(&mut self, path: &[u8]) -> Result<(), PlaceError> {
        let (dir, name) = self.dir_of(path)?;
        gate(Call::Mkdir).map_err(io_error("make the directory"))?;
        match mkdirat(&*dir, name, Mode::RWXU) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                if openat(&*dir, name, flags, Mode::empty()).is_ok() {
                    // It may be closed even to its owner; it is finished again with its own mode.
                    return self.open_up(&dir, name);
                }
                self.clear(&dir, name)?;
                mkdirat(&*dir, name, Mode::RWXU).map_err(|e| io_error("make the directory")(e.into()))
            }
            Err(e) => Err(io_error("make the directory")(e.into())),
        }
    }

    fn open_up(&self, dir: &OwnedFd, name: &[u8]) -> Result<(), PlaceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if openat(dir, name, flags, Mode::empty()).is_err() {
            let set = rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty());
            set.map_err(|e| io_error("open the directory")(e.into()))?;
        }
        Ok(())
    }

    fn create(&mut self, path: &[u8]) -> Result<File, PlaceError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let (_, fd) = self.make(path, Call::Create, "create the file", |d, n| openat(d, n, flags, mode))?;
        Ok(File::from(fd))
    }

    /// Makes a file whose whole content is at hand.
    pub fn write_small(&mut self, path: &[u8], content: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
        let file = self.create(path)?;
        if !content.is_empty() {
            crate::fsx::write_all_at(&file, content, 0).map_err(io_error("write the file"))?;
        }
        dress(&file, meta, xattrs, self.place.uid, self.place.gid)
    }

    /// Begins a file of `size` bytes; what is not written stays a hole.
    pub fn create_file(&mut self, path: &[u8], size: u64) -> Result<PlacedFile, PlaceError> {
        let file = self.create(path)?;
        gate(Call::Resize).map_err(io_error("set the file's size"))?;
        file.set_len(size).map_err(io_error("set the file's size"))?;
        Ok(PlacedFile::new(file, self.place.uid, self.place.gid))
    }

    /// Opens what is there, if it is a regular file or something else that has metadata.
    pub fn existing(&mut self, path: &[u8]) -> Result<Option<(Meta, File)>, PlaceError> {
        let (dir, name) = match self.dir_of(path) {
            Ok(d) => d,
            Err(PlaceError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        gate(Call::Open).map_err(io_error("open what is there"))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&*dir, name, flags, Mode::empty()) {
            Ok(fd) => {
                let file = File::from(fd);
                let meta = attrs::meta_of(&file).map_err(io_error("look at what is there"))?;
                Ok(Some((meta, file)))
            }
            Err(_) => Ok(None),
        }
    }

    /// Gives a file that is right already its owner, mode, attributes and times.
    pub fn touch_up(&mut self, path: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
        match self.existing(path)? {
            // Another name that it has elsewhere would change with it, unless it is meant to have several.
            Some((now, file)) if now.kind == Kind::File && (now.nlink == 1 || meta.nlink > 1) => {
                dress(&file, meta, xattrs, self.place.uid, self.place.gid)
            }
            _ => Err(PlaceError::InTheWay),
        }
    }

    /// Makes a symbolic link.
    pub fn symlink(&mut self, path: &[u8], target: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
        let (dir, ()) = self.make(path, Call::Create, "make the link", |d, n| symlinkat(target, d, n))?;
        file::dress_by_name(&dir, split(path).1, meta, xattrs, self.place.uid, self.place.gid)
    }

    /// Makes a fifo.
    pub fn fifo(&mut self, path: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
        let mode = Mode::RUSR | Mode::WUSR;
        let make = |d: &OwnedFd, n: &[u8]| mknodat(d, n, FileType::Fifo, mode, 0);
        let (dir, ()) = self.make(path, Call::Create, "make the fifo", make)?;
        file::dress_by_name(&dir, split(path).1, meta, xattrs, self.place.uid, self.place.gid)
    }

    /// Makes a device; only root may.
    pub fn device(&mut self, path: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
        let kind = if meta.kind == Kind::CharDevice { FileType::CharacterDevice } else { FileType::BlockDevice };
        let dev = rustix::fs::makedev(meta.rdev.0, meta.rdev.1);
        let make = |d: &OwnedFd, n: &[u8]| mknodat(d, n, kind, Mode::RUSR | Mode::WUSR, dev);
        let (dir, ()) = self.make(path, Call::Create, "make the device", make)?;
        file::dress_by_name(&dir, split(path).1, meta, xattrs, self.place.uid, self.place.gid)
    }

    /// Makes a further name of a file that is there. A name that it has already stays.
    pub fn hard_link(&mut self, path: &[u8], holder: &[u8]) -> Result<(), PlaceError> {
        if let (Some((a, _)), Some((b, _))) = (self.existing(path)?, self.existing(holder)?)
            && a.ino == b.ino
            && a.kind == Kind::File
        {
            return Ok(());
        }
        let (from, from_name) = self.dir_of(holder)?;
        let link = |d: &OwnedFd, n: &[u8]| linkat(&*from, from_name, d, n, AtFlags::empty());
        self.make(path, Call::Create, "make the hard link", link).map(|_| ())
    }

    /// Gives a directory its owner, mode, attributes and times: after its content.
    pub fn finish_dir(&mut self, path: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
        self.dirs.remove(path);
        let (dir, name) = self.dir_of(path)?;
        gate(Call::Open).map_err(io_error("open the directory"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&*dir, name, flags, Mode::empty()).map_err(|e| io_error("open the directory")(e.into()))?;
        dress(&fd, meta, xattrs, u32::MAX, u32::MAX)
    }

    /// Removes a file that must not stay.
    pub fn remove(&mut self, path: &[u8]) -> Result<(), PlaceError> {
        let (dir, name) = self.dir_of(path)?;
        self.clear(&dir, name)
    }
}

#[cfg(test)]
mod tests;
