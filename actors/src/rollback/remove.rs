//! Deleting what a rollback kept or staged: nothing outside its folder, and nothing on another file system.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, Timespec, Timestamps, UTIME_OMIT, fstat, futimens, open, openat, unlinkat};
use rustix::io::Errno;
use zoneward_sectors::fsx::{Call, gate};
use zoneward_sectors::place::Place;

use super::RollbackError;
use super::journal::Swap;
use super::swap::{LIST, failed, hold_dir, names, set_mode};

/// Deletes the folder of a swap. The directory it lies in keeps its time.
pub(super) fn kept(swap: &Swap) -> Result<(), RollbackError> {
    let dir = swap.dir.path();
    let place = open(&dir, LIST, Mode::empty()).map_err(failed("open", &dir))?;
    let was = fstat(&place).map_err(failed("look at", &dir))?;
    folder(swap, &dir, &place)?;
    if swap.only.is_none() {
        let mtime = Timespec { tv_sec: was.st_mtime, tv_nsec: was.st_mtime_nsec as _ };
        let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: mtime };
        futimens(&place, &times).map_err(failed("set the time of", &dir))?;
    }
    Ok(())
}

/// Deletes the folder of a swap that has moved nothing: the directory is as it was before.
pub(super) fn staged(swap: &Swap) -> Result<(), RollbackError> {
    let dir = swap.dir.path();
    let place = open(&dir, LIST, Mode::empty()).map_err(failed("open", &dir))?;
    folder(swap, &dir, &place)?;
    if let Some(before) = &swap.before {
        let (meta, xattrs) = before.parts();
        let lacks = Place::at(place).worker().finish_dir(b"", &meta, &xattrs);
        lacks.map_err(|e| failed("set the attributes of", &dir)(io::Error::other(e)))?;
    }
    Ok(())
}

fn folder(swap: &Swap, dir: &Path, place: &OwnedFd) -> Result<(), RollbackError> {
    let device = fstat(place).map_err(failed("look at", dir))?.st_dev;
    let at = swap.kept();
    let name = CString::new(swap.folder.as_str()).map_err(|e| failed("delete", &at)(io::Error::from(e)))?;
    tree(place.as_fd(), &name, device, &at)?;
    gate(Call::Sync).and_then(|()| Ok(rustix::fs::fsync(place)?)).map_err(failed("make durable", dir))
}

/// Deletes a name and all below it.
fn tree(dir: BorrowedFd<'_>, name: &CStr, device: u64, at: &Path) -> Result<(), RollbackError> {
    let delete = |flags| -> io::Result<()> {
        gate(Call::Remove)?;
        Ok(unlinkat(dir, name, flags)?)
    };
    match delete(AtFlags::empty()) {
        Ok(()) => return Ok(()),
        Err(e) => match Errno::from_io_error(&e) {
            Some(Errno::NOENT) => return Ok(()),
            Some(Errno::ISDIR | Errno::PERM) => {}
            _ => return Err(failed("delete", at)(e)),
        },
    }
    let fd = open_up(dir, name, device).map_err(failed("delete", at))?;
    for n in names(fd.as_fd()).map_err(failed("list", at))? {
        let below: PathBuf = at.join(super::journal::Bytes(n.to_bytes().to_vec()).path());
        tree(fd.as_fd(), &n, device, &below)?;
    }
    drop(fd);
    delete(AtFlags::REMOVEDIR).map_err(failed("delete", at))
}

/// Opens a directory to list it and to delete in it, whatever its owner may do with it by now.
fn open_up(dir: BorrowedFd<'_>, name: &CStr, device: u64) -> io::Result<OwnedFd> {
    let held = hold_dir(dir, name.to_bytes())?;
    let s = fstat(&held)?;
    if s.st_dev != device {
        return Err(io::Error::other("another file system is mounted there"));
    }
    if s.st_mode & 0o700 != 0o700 {
        // Who may not is told so by what cannot be deleted in it.
        let _ = set_mode(&held, 0o700);
    }
    gate(Call::Open)?;
    Ok(openat(&held, c".", LIST, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn links_are_deleted_and_not_followed_and_closed_directories_opened() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("deep")).unwrap();
        fs::write(outside.join("file"), "stays").unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir_all(kept.join("a/b")).unwrap();
        fs::write(kept.join("a/b/file"), "goes").unwrap();
        symlink(&outside, kept.join("a/link")).unwrap();
        fs::hard_link(outside.join("file"), kept.join("name")).unwrap();
        fs::set_permissions(kept.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        let place = open(dir.path(), LIST, Mode::empty()).unwrap();
        let device = fstat(&place).unwrap().st_dev;
        let no = tree(place.as_fd(), c"kept", device + 1, &kept);
        assert!(matches!(no, Err(RollbackError::Move { .. })), "not on another file system");
        assert!(kept.join("a/b").exists());
        tree(place.as_fd(), c"kept", device, &kept).unwrap();
        assert!(!kept.exists());
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"stays");
        assert!(outside.join("deep").exists());
        tree(place.as_fd(), c"kept", device, &kept).unwrap();
    }
}
