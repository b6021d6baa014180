//! Files under way, and giving things their owner, mode, attributes and times.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    fsetxattr, futimens, openat, setxattr, utimensat,
};

use super::{PlaceError, Placed, Warning, io_error};
use crate::entry::{Kind, Meta, Stamp, Xattrs};
use crate::fsx::{self, Call, gate};

/// A file that is being written, by any thread.
#[derive(Debug)]
pub struct PlacedFile {
    file: File,
    /// The kernel lets one writer into a file at a time and has the others spin: here they sleep.
    turn: std::sync::Mutex<()>,
    uid: u32,
    gid: u32,
}

impl PlacedFile {
    pub(super) fn new(file: File, uid: u32, gid: u32) -> Self {
        Self { file, turn: std::sync::Mutex::default(), uid, gid }
    }

    /// Writes at an offset.
    pub fn write_at(&self, content: &[u8], offset: u64) -> Result<(), PlaceError> {
        let _turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        fsx::write_all_at(&self.file, content, offset).map_err(io_error("write the file"))
    }

    /// Gives the file its owner, mode, attributes and times: after its content.
    pub fn finish(&self, meta: &Meta, xattrs: &Xattrs) -> Placed {
        dress(&self.file, meta, xattrs, self.uid, self.gid)
    }
}

fn times(mtime: Stamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}

fn warn(out: &mut Vec<Warning>, what: &str, r: io::Result<()>) {
    if let Err(source) = r {
        out.push(Warning { what: what.to_owned(), source });
    }
}

fn gated(f: impl FnOnce() -> rustix::io::Result<()>) -> io::Result<()> {
    gate(Call::SetMeta)?;
    Ok(f()?)
}

/// Owner first (it clears setuid bits and capabilities), then mode, attributes, and times last. `uid` and `gid` are what
/// a new file has already.
pub(super) fn dress(fd: impl AsFd, meta: &Meta, xattrs: &Xattrs, uid: u32, gid: u32) -> Placed {
    let fd = fd.as_fd();
    let mut lacks = Vec::new();
    if (meta.uid, meta.gid) != (uid, gid) {
        let owner = || fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
        warn(&mut lacks, "owner", gated(owner));
    }
    if meta.kind == Kind::Dir || meta.mode != 0o600 || !lacks.is_empty() || (meta.uid, meta.gid) != (uid, gid) {
        // Without its owner, a file must not run with the rights of another.
        let mode = if lacks.is_empty() { meta.mode } else { meta.mode & 0o1777 };
        warn(&mut lacks, "mode", gated(|| fchmod(fd, Mode::from_raw_mode(mode))));
    }
    for (name, value) in xattrs {
        let set = || fsetxattr(fd, &name[..], value, XattrFlags::empty());
        warn(&mut lacks, &format!("attribute {}", String::from_utf8_lossy(name)), gated(set));
    }
    warn(&mut lacks, "time", gated(|| futimens(fd, &times(meta.mtime))));
    Ok(lacks)
}

/// The same for what cannot be opened: links, fifos, devices.
pub(super) fn dress_by_name(dir: &OwnedFd, name: &[u8], meta: &Meta, xattrs: &Xattrs, uid: u32, gid: u32) -> Placed {
    let mut lacks = Vec::new();
    if (meta.uid, meta.gid) != (uid, gid) {
        let (u, g) = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
        warn(&mut lacks, "owner", gated(|| chownat(dir, name, u, g, AtFlags::SYMLINK_NOFOLLOW)));
    }
    if meta.kind != Kind::Symlink {
        warn(&mut lacks, "mode", gated(|| chmodat(dir, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())));
    }
    if !xattrs.is_empty() {
        warn(&mut lacks, "attributes", set_by_name(dir, name, xattrs));
    }
    warn(&mut lacks, "time", gated(|| utimensat(dir, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)));
    Ok(lacks)
}

fn set_by_name(dir: &OwnedFd, name: &[u8], xattrs: &Xattrs) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let fd = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    xattrs.iter().try_for_each(|(n, v)| gated(|| setxattr(path.as_str(), &n[..], v, XattrFlags::empty())))
}
