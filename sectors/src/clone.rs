//! Clones of files that share their blocks with the original (`FICLONE`, on xfs, btrfs and others): the file as it was at
//! one moment, for as long as it is read. A clone has no name and goes when it is closed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ioctl_ficlone, openat};

use crate::fsx::{self, Call, gate};

/// A clone of an open file, made in the directory `dir`, which lies on the same file system.
pub fn clone_in(dir: impl AsFd, file: &File) -> io::Result<File> {
    gate(Call::Open)?;
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let clone = File::from(openat(dir, ".", flags, Mode::RUSR | Mode::WUSR)?);
    gate(Call::Write)?;
    ioctl_ficlone(&clone, file)?;
    Ok(clone)
}

/// Whether files can be cloned in a directory, or beside a file.
pub fn probe(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match openat(CWD, path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOTDIR) => openat(CWD, path.parent().unwrap_or(path), flags, Mode::empty())?,
        dir => dir?,
    };
    let tmp = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = File::from(openat(&dir, ".", tmp, Mode::RUSR | Mode::WUSR)?);
    // More than what small files keep in their inode.
    fsx::write_all_at(&file, &[1; 8192], 0)?;
    clone_in(&dir, &file).map(|_| ())
}
