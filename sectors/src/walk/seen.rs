//! One entry that the scan saw, and how to open it later.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, readlinkat, statx};

use super::Root;
use crate::attrs;
use crate::beneath::{open_beneath, split};
use crate::entry::{Entry, Kind, Meta, Xattrs};
use crate::fsx::{Call, gate};

/// An entry, as the scan saw it.
pub struct Seen {
    /// Path inside the source.
    pub path: Vec<u8>,
    pub meta: Meta,
    /// Bytes of its content that are probably no holes.
    pub data: u64,
    /// The base holds something under this path.
    pub had_base: bool,
    /// What it holds there, if the new catalog needs no base: that stays where the entry cannot be read.
    pub line: Option<Arc<Entry>>,
    dev: u64,
    root: Arc<Root>,
}

/// What a checkpoint has of an entry that could not be read.
#[derive(Clone, Debug, Default)]
pub struct Fallback {
    /// Bytes of a file that the base does not have either: the checkpoint will hold nothing of it.
    pub lost: Option<u64>,
    /// The base's line, which is to be written again.
    pub line: Option<Arc<Entry>>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seen({:?}, {:?})", String::from_utf8_lossy(&self.path), self.meta.kind)
    }
}

/// How often a file is cloned again when it changed at that very moment.
const IMAGE_TRIES: u32 = 3;

static ROOTS: AtomicU64 = AtomicU64::new(1);

/// Opens the root of a scan: a directory, or the directory of a single file.
pub(super) fn open_root(path: &Path) -> io::Result<(Root, Meta, u64)> {
    gate(Call::Open)?;
    let s = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)?;
    let meta = attrs::meta_from(&s).ok_or_else(|| io::Error::other("it is a socket"))?;
    let (dev, data) = (rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor), super::data_of(&s, &meta));
    let refuse_made_up = |fd: OwnedFd| match super::kernel::is_made_up(&fd) {
        Ok(true) => Err(io::Error::other("it lies on a file system that the kernel makes up: nothing is kept there")),
        _ => Ok(fd),
    };
    let dir_flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let id = ROOTS.fetch_add(1, Ordering::Relaxed);
    if meta.kind == Kind::Dir {
        let fd = refuse_made_up(openat(CWD, path, dir_flags, Mode::empty())?)?;
        return Ok((Root { fd, file: None, dev, id }, meta, data));
    }
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fd = refuse_made_up(openat(CWD, parent, dir_flags, Mode::empty())?)?;
    let file = Some(std::os::unix::ffi::OsStrExt::as_bytes(name).to_vec());
    Ok((Root { fd, file, dev, id }, meta, data))
}

/// The directory that was used last: most entries lie beside the one before.
struct LastDir {
    root: u64,
    path: Vec<u8>,
    fd: OwnedFd,
}

thread_local! {
    static LAST_DIR: RefCell<Option<LastDir>> = const { RefCell::new(None) };
}

impl Seen {
    pub(super) fn new(root: &Arc<Root>, path: Vec<u8>, meta: Meta, dev: u64, data: u64) -> Self {
        Self { path, meta, data, had_base: false, line: None, dev, root: root.clone() }
    }

    /// What tells that two names are one file.
    pub fn file_key(&self) -> (u64, u64) {
        (self.dev, self.meta.ino)
    }

    /// Runs `f` with the directory that holds the entry, and its name there.
    fn with_dir<T>(&self, f: impl FnOnce(&OwnedFd, &[u8]) -> io::Result<T>) -> io::Result<T> {
        if let Some(name) = &self.root.file {
            return f(&self.root.fd, name);
        }
        if self.path.is_empty() {
            return f(&self.root.fd, b".");
        }
        let (dir, name) = split(&self.path);
        LAST_DIR.with_borrow_mut(|last| {
            if last.as_ref().is_none_or(|l| l.root != self.root.id || l.path != dir) {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let fd = open_beneath(self.root.fd.as_fd(), dir, flags, Mode::empty())?;
                *last = Some(LastDir { root: self.root.id, path: dir.to_vec(), fd });
            }
            match last {
                Some(l) => f(&l.fd, name),
                None => Err(io::Error::from(io::ErrorKind::NotFound)),
            }
        })
    }

    /// Opens a regular file for reading, if it is still the one that was seen.
    pub fn open(&self) -> io::Result<File> {
        gate(Call::Open)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = self.with_dir(|dir, name| {
            // Reading for a backup should leave no trace; only the owner of a file may ask for that.
            match openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
                Err(rustix::io::Errno::PERM) => Ok(openat(dir, name, flags, Mode::empty())?),
                r => Ok(r?),
            }
        })?;
        Ok(File::from(fd))
    }

    /// A clone of an opened file, and the metadata that go with its content; `None` where that cannot be had.
    pub fn image(&self, file: &File) -> Option<(File, Meta)> {
        for _ in 0..IMAGE_TRIES {
            let before = attrs::meta_of(file).ok()?;
            let clone = self.with_dir(|dir, _| crate::clone::clone_in(dir, file)).ok()?;
            let after = attrs::meta_of(file).ok()?;
            if (before.size, before.mtime, before.ctime) == (after.size, after.mtime, after.ctime) {
                return Some((clone, after));
            }
        }
        None
    }

    /// True if an opened file can be stored for what was seen: it is the same one, or another that took its place as
    /// editors do, and neither has further names, which are told apart by the file they belong to.
    pub fn is_still(&self, now: &Meta) -> bool {
        now.kind == self.meta.kind && (now.ino == self.meta.ino || (now.nlink == 1 && self.meta.nlink == 1))
    }

    /// What a checkpoint has of this entry if it cannot be read.
    pub fn fallback(&self) -> Fallback {
        let lost = (!self.had_base && self.meta.kind == Kind::File).then_some(self.meta.size);
        Fallback { lost, line: self.line.clone() }
    }

    /// Target of a symbolic link.
    pub fn read_link(&self) -> io::Result<Vec<u8>> {
        gate(Call::Read)?;
        self.with_dir(|dir, name| Ok(readlinkat(dir, name, Vec::new())?.into_bytes()))
    }

    /// Extended attributes of something that is not a regular file.
    pub fn xattrs(&self) -> io::Result<Xattrs> {
        gate(Call::Open)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.with_dir(|dir, name| Ok(openat(dir, name, flags, Mode::empty())?))?;
        attrs::read_xattrs_of_path(fd)
    }
}
