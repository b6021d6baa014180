//! One worker's operations.
//!
//! What a small file costs: `openat`, `pwrite`, `fchown` only for another owner than a new file gets, `fsetxattr` for
//! each attribute, `fchmod` unless 0600 is right, `utimensat`, `close`; and `openat2` and `fstat` when the directory
//! changes.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, StatxFlags, linkat, mkdirat, mknodat, openat, readlinkat, statat, statx,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::dirs::{Dir, Dirs};
use super::dress::{NEW_FILE, Now, adjust, dress, dress_made, open_up, set_time};
use super::{Overwrite, Place, PlaceError, Placed, PlacedFile};
use crate::attrs;
use crate::beneath::split;
use crate::catalog::path_is_inside;
use crate::entry::{Kind, Meta, Stamp, Xattrs};
use crate::fsx::{self, Call, gate};
use crate::limits::PATH_LEN_MAX;

/// How often something in the way is removed before it is left there: someone may be making it again.
const CLEAR_MAX: usize = 2;
/// Opens a name itself, whatever it is.
const HOLD: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Makes entries below a [`Place`]. Paths are relative, their components joined by `/`; one that is empty, absolute,
/// too long, or has an empty component, `.`, `..` or NUL is [`PlaceError::Outside`]. The directory above must be there.
#[derive(Debug)]
pub struct Placer<'a> {
    place: &'a Place,
    dirs: Dirs,
}

fn checked(path: &[u8]) -> Result<(), PlaceError> {
    let fine = !path.is_empty() && path.len() <= PATH_LEN_MAX && path_is_inside(path);
    if fine { Ok(()) } else { Err(PlaceError::Outside) }
}

/// Removes what could not be completed. Best effort: its time shows anyway that it is not complete.
fn unmake(dir: &Dir, path: &[u8]) {
    let _ = unlinkat(&dir.fd, split(path).1, AtFlags::empty());
}

impl<'a> Placer<'a> {
    pub(super) fn new(place: &'a Place) -> Self {
        Self { place, dirs: Dirs::default() }
    }

    /// Makes a directory, open to this user only until it is finished. One that is there already is opened to its
    /// owner. The empty path is the place itself.
    pub fn make_dir(&mut self, path: &[u8]) -> Result<(), PlaceError> {
        if path.is_empty() {
            return Ok(());
        }
        let what = "make the directory";
        let make = |d: &Dir, n: &[u8]| mkdirat(&d.fd, n, Mode::RWXU);
        let (dir, made) = self.attempt(path, Call::Mkdir, what, make)?;
        match made {
            Err(Errno::EXIST) => match self.hold_dir(&dir, path)? {
                Some(fd) => open_up(&fd, self.place.uid).map_err(PlaceError::of("open the directory to its owner")),
                None => {
                    self.clear(&dir, path)?;
                    make(&dir, split(path).1).map_err(PlaceError::of(what))
                }
            },
            r => r.map_err(PlaceError::of(what)),
        }
    }

    /// Makes a directory above what is restored: one that is there is left exactly as it is, and anything else that is
    /// there is neither followed nor removed.
    pub fn make_parent(&mut self, path: &[u8]) -> Result<(), PlaceError> {
        if path.is_empty() {
            return Ok(());
        }
        let what = "make the directory above";
        let (dir, made) = self.attempt(path, Call::Mkdir, what, |d, n| mkdirat(&d.fd, n, Mode::RWXU))?;
        match made {
            Err(Errno::EXIST) => self.hold_dir(&dir, path)?.map(|_| ()).ok_or(PlaceError::NotADirectory),
            r => r.map_err(PlaceError::of(what)),
        }
    }

    /// Makes a file whose whole content is at hand.
    pub fn write_small(&mut self, path: &[u8], content: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
        let (dir, file) = self.create(path)?;
        if !content.is_empty()
            && let Err(e) = fsx::write_all_at(&file, content, 0)
        {
            unmake(&dir, path);
            return Err(PlaceError::of("write the file")(e));
        }
        Ok(dress(&file, &self.new_file(&dir), meta, xattrs))
    }

    /// Begins a file of `size` bytes; what is not written stays a hole.
    pub fn create_file(&mut self, path: &[u8], size: u64) -> Result<PlacedFile, PlaceError> {
        let (dir, file) = self.create(path)?;
        if let Err(e) = gate(Call::Resize).and_then(|()| file.set_len(size)) {
            unmake(&dir, path);
            return Err(PlaceError::of("set the file's size")(e));
        }
        Ok(PlacedFile::new(file, self.new_file(&dir)))
    }

    /// What is there: for a regular file open for reading, for all else only as a handle. `None` if nothing is there,
    /// or a socket, or a file that this user cannot read and so cannot compare.
    pub fn existing(&mut self, path: &[u8]) -> Result<Option<(Meta, File)>, PlaceError> {
        let what = "look at what is there";
        let (dir, name) = match self.dir_of(path) {
            Err(PlaceError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            r => r?,
        };
        gate(Call::Open).map_err(PlaceError::of(what))?;
        // A device must not be opened for a mere look: for some that does something.
        let is_file = match statx(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
            Ok(s) => FileType::from_raw_mode(s.stx_mode.into()).is_file(),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(PlaceError::of(what)(e)),
        };
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match openat(&dir.fd, name, if is_file { read } else { HOLD }, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::ACCESS | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(e) => return Err(PlaceError::of(what)(e)),
        };
        let s = statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(PlaceError::of(what))?;
        Ok(attrs::meta_from(&s).map(|meta| (meta, File::from(fd))))
    }

    /// Gives a file whose content is right already its owner, mode, attributes and times. [`PlaceError::InTheWay`] if
    /// it has other names that the entry does not have: they would change with it.
    pub fn touch_up(&mut self, path: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
        match self.existing(path)? {
            Some((now, file)) if now.kind == Kind::File && (now.nlink == 1 || meta.nlink > 1) => {
                Ok(adjust(&file, &now, meta, xattrs))
            }
            _ => Err(PlaceError::InTheWay),
        }
    }

    /// Makes a symbolic link.
    pub fn symlink(&mut self, path: &[u8], target: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
        let may_keep = self.place.overwrite == Overwrite::IfDifferent;
        let same = |d: &Dir, n: &[u8]| {
            readlinkat(&d.fd, n, Vec::new()).is_ok_and(|t| t.as_bytes() == target)
                && statat(&d.fd, n, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| s.st_nlink == 1 || meta.nlink > 1)
        };
        let link = |d: &Dir, n: &[u8]| match symlinkat(target, &d.fd, n) {
            Err(Errno::EXIST) if may_keep && same(d, n) => Ok(()),
            r => r,
        };
        let (dir, ()) = self.make(path, "make the link", link)?;
        dress_made(&dir, split(path).1, &Meta { kind: Kind::Symlink, ..*meta }, xattrs)
    }

    /// Sets the time of modification of a symbolic link (or of anything else that is there).
    pub fn set_symlink_times(&mut self, path: &[u8], mtime: Stamp) -> Result<(), PlaceError> {
        let what = "set the link's time";
        let (dir, name) = self.dir_of(path)?;
        gate(Call::SetMeta).map_err(PlaceError::of(what))?;
        let fd = openat(&dir.fd, name, HOLD, Mode::empty()).map_err(PlaceError::of(what))?;
        set_time(rustix::fd::AsFd::as_fd(&fd), mtime).map_err(PlaceError::of(what))
    }

    /// Makes a further name of a file that is there. A name that it has already stays.
    pub fn hard_link(&mut self, path: &[u8], holder: &[u8]) -> Result<(), PlaceError> {
        let what = "make the hard link";
        let (from, from_name) = self.dir_of(holder)?;
        let same = |d: &Dir, n: &[u8]| {
            let of = |d: &Dir, n: &[u8]| statat(&d.fd, n, AtFlags::SYMLINK_NOFOLLOW).map(|s| (s.st_dev, s.st_ino));
            matches!((of(d, n), of(&from, from_name)), (Ok(a), Ok(b)) if a == b)
        };
        let link = |d: &Dir, n: &[u8]| match linkat(&from.fd, from_name, &d.fd, n, AtFlags::empty()) {
            Err(Errno::EXIST) if same(d, n) => Ok(()),
            r => r,
        };
        let made = self.make(path, what, link).map(|_| ());
        if made.is_err() {
            // Perhaps the holder's directory is another one by now: the next try looks again.
            self.dirs.forget(split(holder).0);
        }
        made
    }

    /// Makes a fifo.
    pub fn fifo(&mut self, path: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
        let mode = Mode::from_raw_mode(NEW_FILE);
        let (dir, ()) = self.make(path, "make the fifo", |d, n| mknodat(&d.fd, n, FileType::Fifo, mode, 0))?;
        dress_made(&dir, split(path).1, &Meta { kind: Kind::Fifo, ..*meta }, xattrs)
    }

    /// Makes a device (block unless the entry is a character device). [`PlaceError::NotPermitted`] for all but root.
    pub fn device(&mut self, path: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
        let (kind, file_type) = match meta.kind {
            Kind::CharDevice => (Kind::CharDevice, FileType::CharacterDevice),
            _ => (Kind::BlockDevice, FileType::BlockDevice),
        };
        let dev = rustix::fs::makedev(meta.rdev.0, meta.rdev.1);
        let mode = Mode::from_raw_mode(NEW_FILE);
        let (dir, ()) = self.make(path, "make the device", |d, n| mknodat(&d.fd, n, file_type, mode, dev))?;
        dress_made(&dir, split(path).1, &Meta { kind, ..*meta }, xattrs)
    }

    /// Gives a directory its owner, mode, attributes and times: after its content, the deepest first. The empty path is
    /// the place itself.
    pub fn finish_dir(&mut self, path: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
        let what = "open the directory to finish it";
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = if path.is_empty() {
            gate(Call::Open).map_err(PlaceError::of(what))?;
            openat(&self.place.root, c".", flags, Mode::empty())
        } else {
            self.dirs.forget(path);
            self.attempt(path, Call::Open, what, |d, n| openat(&d.fd, n, flags, Mode::empty()))?.1
        };
        let fd = opened.map_err(|e| match e {
            Errno::LOOP | Errno::NOTDIR => PlaceError::NotADirectory,
            e => PlaceError::of(what)(e),
        })?;
        let now = attrs::meta_of(&fd).map_err(PlaceError::of(what))?;
        Ok(adjust(&fd, &now, meta, xattrs))
    }

    /// Removes a file that must not stay, for example because its content was lost on the way. A directory is never
    /// removed ([`PlaceError::InTheWay`]); nothing there is fine.
    pub fn remove(&mut self, path: &[u8]) -> Result<(), PlaceError> {
        let what = "remove the file";
        let (dir, name) = self.dir_of(path)?;
        gate(Call::Remove).map_err(PlaceError::of(what))?;
        match unlinkat(&dir.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => Err(PlaceError::InTheWay),
            Err(e) => Err(PlaceError::of(what)(e)),
        }
    }

    /// What a file has that was just made in `dir`.
    fn new_file(&self, dir: &Dir) -> Now {
        Now { uid: self.place.uid, gid: dir.gid, mode: NEW_FILE, mtime: None, inherits: dir.inherits }
    }

    /// The directory that holds `path`, and the name in it.
    fn dir_of<'p>(&mut self, path: &'p [u8]) -> Result<(Rc<Dir>, &'p [u8]), PlaceError> {
        checked(path)?;
        let (above, name) = split(path);
        Ok((self.dirs.open(self.place, above)?, name))
    }

    /// Tries something at `path`. A directory that was kept open may be gone and another in its place: then it is
    /// looked up anew, once.
    fn attempt<T>(
        &mut self,
        path: &[u8],
        call: Call,
        what: &'static str,
        op: impl Fn(&Dir, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<(Rc<Dir>, rustix::io::Result<T>), PlaceError> {
        let (dir, name) = self.dir_of(path)?;
        gate(call).map_err(PlaceError::of(what))?;
        match op(&dir, name) {
            Err(Errno::NOENT) => {
                self.dirs.forget(split(path).0);
                let (dir, name) = self.dir_of(path)?;
                let done = op(&dir, name);
                Ok((dir, done))
            }
            done => Ok((dir, done)),
        }
    }

    /// Makes something at `path`; what stands in the way is removed as the rule says.
    fn make<T>(
        &mut self,
        path: &[u8],
        what: &'static str,
        op: impl Fn(&Dir, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<(Rc<Dir>, T), PlaceError> {
        let (dir, mut made) = self.attempt(path, Call::Create, what, &op)?;
        for _ in 0..CLEAR_MAX {
            if !matches!(made, Err(Errno::EXIST)) {
                break;
            }
            self.clear(&dir, path)?;
            made = op(&dir, split(path).1);
        }
        made.map(|made| (dir, made)).map_err(PlaceError::of(what))
    }

    fn create(&mut self, path: &[u8]) -> Result<(Rc<Dir>, File), PlaceError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(NEW_FILE);
        let (dir, fd) = self.make(path, "create the file", |d, n| openat(&d.fd, n, flags, mode))?;
        Ok((dir, File::from(fd)))
    }

    /// The directory that is there, or `None` if it is something else.
    fn hold_dir(&self, dir: &Dir, path: &[u8]) -> Result<Option<OwnedFd>, PlaceError> {
        match openat(&dir.fd, split(path).1, HOLD | OFlags::DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(PlaceError::of("look at what is there")(e)),
        }
    }

    /// Removes what stands where something else is to be made, if the rule allows it: anything but a directory that
    /// holds something.
    fn clear(&mut self, dir: &Dir, path: &[u8]) -> Result<(), PlaceError> {
        if self.place.overwrite == Overwrite::Never {
            return Err(PlaceError::Exists);
        }
        let (what, name) = ("remove what stood there", split(path).1);
        gate(Call::Remove).map_err(PlaceError::of(what))?;
        match unlinkat(&dir.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => match unlinkat(&dir.fd, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {
                    self.dirs.forget(path);
                    Ok(())
                }
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => Err(PlaceError::InTheWay),
                Err(e) => Err(PlaceError::of(what)(e)),
            },
            Err(e) => Err(PlaceError::of(what)(e)),
        }
    }
}
