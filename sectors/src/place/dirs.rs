//! Directories that a worker keeps open, so that a file costs no walk from the top.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, fstat};
use rustix::io::Errno;

use super::dress::held;
use super::{Place, PlaceError};
use crate::beneath::open_beneath;
use crate::fsx::{Call, gate};

/// Directories that one worker keeps open.
const DIRS_MAX: usize = 32;
/// A new entry takes its directory's group where this bit is set.
const SET_GID: u32 = 0o2000;

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir {
    pub fd: OwnedFd,
    /// The group that a new entry in it gets.
    pub gid: u32,
    /// What is made in it gets an access list that nobody asked for.
    pub inherits: bool,
}

/// The most recently used directories, the latest first.
#[derive(Debug, Default)]
pub(super) struct Dirs {
    recent: Vec<(Vec<u8>, Rc<Dir>)>,
}

impl Dirs {
    /// The directory at `path`, which was checked.
    pub fn open(&mut self, place: &Place, path: &[u8]) -> Result<Rc<Dir>, PlaceError> {
        if let Some(i) = self.recent.iter().position(|(p, _)| p == path)
            && let Some(used) = self.recent.get_mut(..=i)
        {
            used.rotate_right(1);
            if let Some((_, dir)) = used.first() {
                return Ok(dir.clone());
            }
        }
        let dir = Rc::new(open(place, path).map_err(not_followed)?);
        self.recent.truncate(DIRS_MAX - 1);
        self.recent.insert(0, (path.to_vec(), dir.clone()));
        Ok(dir)
    }

    /// Closes a directory and those below it.
    pub fn forget(&mut self, path: &[u8]) {
        let below = |p: &[u8]| p.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        self.recent.retain(|(p, _)| !below(p) && !path.is_empty());
    }
}

fn open(place: &Place, path: &[u8]) -> io::Result<Dir> {
    gate(Call::Open)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let fd = open_beneath(place.root.as_fd(), path, flags, Mode::empty())?;
    let s = fstat(&fd)?;
    let gid = if s.st_mode & SET_GID != 0 { s.st_gid } else { place.gid };
    let inherits = has_default_acl(&fd);
    Ok(Dir { fd, gid, inherits })
}

/// Whether a directory hands an access list on. Where there are no such lists, it does not.
fn has_default_acl(fd: &OwnedFd) -> bool {
    let none: &mut [u8] = &mut [];
    rustix::fs::getxattr(held(fd).as_str(), c"system.posix_acl_default", none).is_ok()
}

fn not_followed(e: io::Error) -> PlaceError {
    match Errno::from_io_error(&e) {
        Some(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => PlaceError::NotADirectory,
        _ => PlaceError::of("open the directory above")(e),
    }
}
