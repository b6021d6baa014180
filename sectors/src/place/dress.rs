//! Giving things their owner, attributes, mode and times, in the one order that works:
//!
//! 1. the owner: setting it clears setuid bits and capabilities;
//! 2. attributes, while the file is still open to its owner: `user.*` cannot be set on a read-only file, and before its
//!    ACL is there the file must not be open to the group that the ACL keeps out;
//! 3. the mode;
//! 4. the time of modification, which says that the entry is complete.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, StatxFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmod, chownat,
    fchmod, fchown, fremovexattr, fsetxattr, futimens, openat, removexattr, setxattr, statx, utimensat,
};
use rustix::io::Errno;

use super::dirs::Dir;
use super::{PlaceError, Placed, Warning};
use crate::attrs;
use crate::entry::{Kind, Meta, Stamp, Xattrs};
use crate::fsx::{Call, gate};

/// Mode of a file before it is complete.
pub(super) const NEW_FILE: u32 = 0o600;
/// The attribute that changes a mode.
const ACL: &[u8] = b"system.posix_acl_access";

/// What something has already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    /// `None` for what was just made.
    pub mtime: Option<Stamp>,
    /// It may have an access list from its directory.
    pub inherits: bool,
}

impl Now {
    pub fn of(meta: &Meta) -> Self {
        Self { uid: meta.uid, gid: meta.gid, mode: meta.mode, mtime: Some(meta.mtime), inherits: false }
    }
}

fn times(mtime: Stamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}

fn warn(out: &mut Vec<Warning>, what: impl Into<String>, call: impl FnOnce() -> rustix::io::Result<()>) {
    let set = gate(Call::SetMeta).and_then(|()| Ok(call()?));
    if let Err(source) = set {
        out.push(Warning { what: what.into(), source });
    }
}

fn attribute(name: &[u8]) -> String {
    format!("attribute {}", name.escape_ascii())
}

/// What is not there need not be removed.
fn without(removed: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match removed {
        Err(Errno::NODATA) => Ok(()),
        r => r,
    }
}

/// Without its owner, a file must not run with the rights of another.
fn mode_without_owner(mode: u32) -> u32 {
    mode & 0o1777
}

/// Dresses an open file or directory.
pub(super) fn dress(fd: impl AsFd, now: &Now, meta: &Meta, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Vec<Warning> {
    let fd = fd.as_fd();
    let mut lacks = Vec::new();
    let chown = (meta.uid, meta.gid) != (now.uid, now.gid);
    if chown {
        let set = || fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
        warn(&mut lacks, "owner", set);
    }
    let wanted = if lacks.is_empty() { meta.mode } else { mode_without_owner(meta.mode) };
    let mut mode = now.mode;
    if !xattrs.is_empty() && mode & 0o200 == 0 && fchmod(fd, Mode::from_raw_mode(mode | 0o200)).is_ok() {
        mode |= 0o200;
    }
    for (name, value) in xattrs {
        warn(&mut lacks, attribute(name), || fsetxattr(fd, &name[..], value, XattrFlags::empty()));
    }
    let inherited = now.inherits && xattrs.iter().all(|(name, _)| name != ACL);
    if inherited {
        warn(&mut lacks, attribute(ACL), || without(fremovexattr(fd, ACL)));
    }
    if wanted != mode || chown || inherited || xattrs.iter().any(|(name, _)| name == ACL) {
        warn(&mut lacks, "mode", || fchmod(fd, Mode::from_raw_mode(wanted)));
    }
    if now.mtime != Some(meta.mtime) {
        warn(&mut lacks, "time", || futimens(fd, &times(meta.mtime)));
    }
    lacks
}

/// Dresses something that was there before: what is right already is left alone, and attributes that it should not have
/// are removed.
pub(super) fn adjust(fd: impl AsFd, now: &Meta, meta: &Meta, xattrs: &Xattrs) -> Vec<Warning> {
    let fd = fd.as_fd();
    let has = attrs::read_xattrs(fd).unwrap_or_default();
    let mut lacks = Vec::new();
    for (name, _) in &has {
        // Labels of the system's own (security modules, overlays) are not for a backup to take away.
        let ours =
            name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") || name == b"security.capability";
        if ours && xattrs.iter().all(|(n, _)| n != name) {
            warn(&mut lacks, attribute(name), || fremovexattr(fd, &name[..]));
        }
    }
    let different: Xattrs = xattrs.iter().filter(|x| !has.contains(x)).cloned().collect();
    lacks.extend(dress(fd, &Now::of(now), meta, &different));
    lacks
}

/// Dresses what was just made and cannot be opened: a link, fifo or device.
pub(super) fn dress_made(dir: &Dir, name: &[u8], meta: &Meta, xattrs: &Xattrs) -> Placed {
    let (fd, now) = hold_made(dir, name, meta)?;
    let mut lacks = Vec::new();
    // A link has no access list.
    if dir.inherits && meta.kind != Kind::Symlink {
        warn(&mut lacks, attribute(ACL), || without(removexattr(held(&fd).as_str(), ACL)));
    }
    lacks.extend(dress_held(&fd, &now, meta, xattrs));
    Ok(lacks)
}

/// Takes hold of what was just made. Someone may have put something else under its name, which must not get this owner
/// and mode: so it is looked at once it is held.
pub(super) fn hold_made(dir: &Dir, name: &[u8], meta: &Meta) -> Result<(OwnedFd, Meta), PlaceError> {
    let what = "look at what was made";
    gate(Call::Open).map_err(PlaceError::of(what))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(&dir.fd, name, flags, Mode::empty()).map_err(PlaceError::of(what))?;
    let s = statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(PlaceError::of(what))?;
    let device = matches!(meta.kind, Kind::CharDevice | Kind::BlockDevice);
    let alone = |n: &Meta| n.nlink == 1 || meta.nlink > 1;
    let made = |n: &Meta| n.kind == meta.kind && alone(n) && (!device || n.rdev == meta.rdev);
    match attrs::meta_from(&s).filter(made) {
        Some(now) => Ok((fd, now)),
        None => Err(PlaceError::InTheWay),
    }
}

/// Dresses what is held by a path-only descriptor, whatever its name means by now.
pub(super) fn dress_held(fd: &OwnedFd, now: &Meta, meta: &Meta, xattrs: &Xattrs) -> Vec<Warning> {
    let mut lacks = Vec::new();
    let chown = (meta.uid, meta.gid) != (now.uid, now.gid);
    if chown {
        let (u, g) = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
        warn(&mut lacks, "owner", || chownat(fd, c"", u, g, AtFlags::EMPTY_PATH));
    }
    let wanted = if lacks.is_empty() { meta.mode } else { mode_without_owner(meta.mode) };
    for (name, value) in xattrs {
        warn(&mut lacks, attribute(name), || setxattr(held(fd).as_str(), &name[..], value, XattrFlags::empty()));
    }
    if meta.kind != Kind::Symlink && (wanted != now.mode || chown || !xattrs.is_empty()) {
        warn(&mut lacks, "mode", || chmod(held(fd).as_str(), Mode::from_raw_mode(wanted)));
    }
    warn(&mut lacks, "time", || set_time(fd.as_fd(), meta.mtime));
    lacks
}

/// The time of something held by a path-only descriptor.
pub(super) fn set_time(fd: BorrowedFd<'_>, mtime: Stamp) -> rustix::io::Result<()> {
    match utimensat(fd, c"", &times(mtime), AtFlags::EMPTY_PATH) {
        // Linux before 5.8.
        Err(Errno::INVAL) => utimensat(CWD, held(fd).as_str(), &times(mtime), AtFlags::empty()),
        r => r,
    }
}

/// Opens a directory to its owner, so that it can be filled; it gets its own mode when it is finished.
pub(super) fn open_up(fd: &OwnedFd, uid: u32) -> io::Result<()> {
    let s = rustix::fs::fstat(fd)?;
    // Root needs no bits.
    if uid == 0 || s.st_uid != uid || s.st_mode & 0o700 == 0o700 {
        return Ok(());
    }
    gate(Call::SetMeta)?;
    Ok(chmod(held(fd).as_str(), Mode::from_raw_mode(s.st_mode & 0o7777 | 0o700))?)
}

/// A name for what a path-only descriptor holds, for calls that take no such descriptor. The kernel goes straight to
/// the thing itself, also if it is a link.
pub(super) fn held(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}
