//! Opening paths that must not lead outside a directory, whatever links someone plants on the way.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};

/// Longest path that one call resolves; longer ones are walked in steps.
const ONE_CALL_MAX: usize = 3500;

fn steps(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    let mut parts = path.split(|b| *b == b'/').peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() || part == b"." || part == b".." {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let dir = at.as_ref().map_or(root, |f| f.as_fd());
        let next = if parts.peek().is_some() {
            openat(dir, part, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?
        } else {
            openat(dir, part, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)?
        };
        at = Some(next);
    }
    at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Opens `path` (relative, no `.` or `..`) below `root`, following no link anywhere. An empty path is the root itself.
pub fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    if path.is_empty() {
        return Ok(openat(root, c".", flags | OFlags::CLOEXEC, mode)?);
    }
    if path.len() > ONE_CALL_MAX {
        return steps(root, path, flags, mode);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode, resolve) {
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => steps(root, path, flags, mode),
        r => Ok(r?),
    }
}

/// Splits a path into its directory and its last name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (b"", path),
    }
}
