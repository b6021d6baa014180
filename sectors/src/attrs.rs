//! Reading what an entry is made of: metadata, extended attributes, link targets, content.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Statx, StatxFlags, statx};

use crate::entry::{Kind, Meta, Stamp, Xattrs};
use crate::fsx::{Call, gate};
use crate::limits::XATTRS_LEN_MAX;

/// What a `statx` says; `None` for a socket or something unknown.
pub fn meta_from(s: &Statx) -> Option<Meta> {
    let kind = match u32::from(s.stx_mode) & 0o170_000 {
        0o100_000 => Kind::File,
        0o040_000 => Kind::Dir,
        0o120_000 => Kind::Symlink,
        0o010_000 => Kind::Fifo,
        0o020_000 => Kind::CharDevice,
        0o060_000 => Kind::BlockDevice,
        _ => return None,
    };
    let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    Some(Meta {
        kind,
        mode: u32::from(s.stx_mode) & 0o7777,
        uid: s.stx_uid,
        gid: s.stx_gid,
        mtime: Stamp { secs: s.stx_mtime.tv_sec, nanos: s.stx_mtime.tv_nsec },
        ctime: Stamp { secs: s.stx_ctime.tv_sec, nanos: s.stx_ctime.tv_nsec },
        ino: s.stx_ino,
        nlink: s.stx_nlink,
        size: if kind == Kind::File { s.stx_size } else { 0 },
        rdev: if device { (s.stx_rdev_major, s.stx_rdev_minor) } else { (0, 0) },
    })
}

/// Metadata of an open file.
pub fn meta_of(fd: impl AsFd) -> io::Result<Meta> {
    gate(Call::Stat)?;
    let s = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    meta_from(&s).ok_or_else(|| io::Error::other("it is a socket now"))
}

/// Reads all attributes through `list` and `get`, which fill a buffer and answer a length.
fn collect(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Xattrs> {
    use rustix::io::Errno;
    let mut small = [0u8; 1024];
    let mut names = match list(&mut small) {
        Ok(0) | Err(Errno::NOTSUP | Errno::NOSYS | Errno::BADF) => return Ok(Vec::new()),
        Ok(n) => small[..n].to_vec(),
        Err(Errno::RANGE) => Vec::new(),
        Err(e) => return Err(e.into()),
    };
    if names.is_empty() {
        // The kernel's own limits on a list and on a value are 64 KiB each.
        let mut big = vec![0u8; 1 << 16];
        let n = list(&mut big)?;
        big.truncate(n);
        names = big;
    }
    let mut out = Xattrs::new();
    let mut total = 0;
    let mut value = vec![0u8; 1 << 16];
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        match get(name, &mut value) {
            Ok(n) => {
                total += name.len() + n;
                out.push((name.to_vec(), value[..n].to_vec()));
            }
            // Gone since it was listed, or hidden from this user.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    if total > XATTRS_LEN_MAX {
        return Err(io::Error::other("its extended attributes are longer than 1 MiB"));
    }
    out.sort();
    Ok(out)
}

fn with_nul(name: &[u8]) -> Vec<u8> {
    let mut v = name.to_vec();
    v.push(0);
    v
}

/// Extended attributes of an open file or directory, ACLs among them, sorted by name.
pub fn read_xattrs(file: impl AsFd) -> io::Result<Xattrs> {
    use rustix::fs::{fgetxattr, flistxattr};
    gate(Call::Stat)?;
    let fd = file.as_fd();
    collect(
        |buf| flistxattr(fd, buf),
        |name, buf| {
            let name = with_nul(name);
            let name = std::ffi::CStr::from_bytes_with_nul(&name).map_err(|_| rustix::io::Errno::INVAL)?;
            fgetxattr(fd, name, buf)
        },
    )
}

/// Extended attributes of something that cannot be opened for reading, through an `O_PATH` descriptor.
pub fn read_xattrs_of_path(file: impl AsFd) -> io::Result<Xattrs> {
    use rustix::fs::{getxattr, listxattr};
    use std::os::fd::AsRawFd;
    gate(Call::Stat)?;
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    collect(
        |buf| listxattr(path.as_str(), buf),
        |name, buf| {
            let name = with_nul(name);
            let name = std::ffi::CStr::from_bytes_with_nul(&name).map_err(|_| rustix::io::Errno::INVAL)?;
            getxattr(path.as_str(), name, buf)
        },
    )
}
