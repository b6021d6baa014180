//! What a source lies on: the file system of its root, and those that are mounted inside it.
//!
//! A disk that is not mounted leaves an empty folder, or an older state of it, where its files were; a backup would then
//! take them for deleted. So each backup compares what it sees with what the last one saw, and a person decides.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statvfs, statx};
use zoneward_consensus::limits::MOUNTS_MAX;
use zoneward_consensus::model::Ground;

use crate::errors::ZoneError;

/// Where Linux lists the mounts of this process.
const MOUNTS: &str = "/proc/self/mountinfo";
/// Names of block devices by the UUID of the file system on them.
const BY_UUID: &str = "/dev/disk/by-uuid";
/// Longest list of mounts that is read, in bytes.
const MOUNTS_LEN_MAX: usize = 4 << 20;

/// A line of the list of mounts.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    point: PathBuf,
    kind: String,
    /// A device, `server:/export`, `//server/share`, or a word of the file system's own.
    from: String,
}

impl Mount {
    /// Its content outlives a restart: not `tmpfs`, `proc` and their like, whose mounts come and go.
    fn lasts(&self) -> bool {
        self.from.starts_with('/') || self.from.contains(':') || matches!(&*self.kind, "zfs" | "9p" | "virtiofs")
    }

    /// It is named by where it comes from, not by a device that may have another name tomorrow.
    fn remote(&self) -> bool {
        self.lasts() && !self.from.starts_with("/dev/")
    }
}

/// What a source that lies at `path` lies on now.
pub fn ground_of(path: &Path, one_file_system: bool) -> Result<Ground, ZoneError> {
    let mounts = mounts();
    let mount = mount_of(path, &mounts)?;
    let below = if one_file_system { Vec::new() } else { below(path, &mounts) };
    Ok(Ground { mount, below })
}

fn mounts() -> Vec<Mount> {
    // Without such a list (another system, a jail), file systems have no identity, and only their edges are compared.
    let text = std::fs::read(MOUNTS).unwrap_or_default();
    parse(text.get(..MOUNTS_LEN_MAX).unwrap_or(&text))
}

/// Where something is mounted inside a directory, or on it if that is asked for.
pub(crate) fn mounts_in(dir: &Path, and_on: bool) -> std::io::Result<Vec<PathBuf>> {
    let text = std::fs::read(MOUNTS)?;
    let points = parse(&text).into_iter().map(|m| m.point);
    Ok(points.filter(|p| p.starts_with(dir) && (and_on || p != dir)).collect())
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

/// `id parent major:minor root point options … - kind from …`
fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = PathBuf::from(OsString::from_vec(unescape(fields.nth(3)?)));
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let text = |f: &[u8]| String::from_utf8_lossy(&unescape(f)).into_owned();
    Some(Mount { id, point, kind: text(rest.next()?), from: text(rest.next()?) })
}

/// Blanks, line ends and backslashes are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(&b) = field.get(at) {
        let octal = field.get(at + 1..at + 4).filter(|_| b == b'\\').and_then(|d| str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(b);
                at += 1;
            }
        }
    }
    out
}

fn mount_of(path: &Path, mounts: &[Mount]) -> Result<String, ZoneError> {
    let mount_id = |p: &Path| {
        let s = statx(CWD, p, AtFlags::empty(), StatxFlags::MNT_ID);
        s.map(|s| s.stx_mnt_id).map_err(|e| ZoneError::Source { path: path.to_owned(), source: e.into() })
    };
    let here = mount_id(path)?;
    let is_mount = match path.parent() {
        Some(parent) => mount_id(parent)? != here,
        None => true,
    };
    let kind = if is_mount { "a mounted file system" } else { "a plain directory" };
    Ok(match mounts.iter().find(|m| m.id == here).and_then(|m| identity(path, m)) {
        Some(identity) => format!("{kind} ({identity})"),
        None => kind.into(),
    })
}

/// Tells a file system from any other that may be mounted in its place, and stays the same across restarts.
fn identity(path: &Path, mount: &Mount) -> Option<String> {
    if mount.remote() {
        return Some(format!("{} {}", mount.kind, mount.from));
    }
    if let Some(uuid) = uuid_of_device(path) {
        return Some(format!("{} {uuid}", mount.kind));
    }
    // These make their id from their UUID; others from the number of the device, which may change.
    let own = matches!(&*mount.kind, "ext2" | "ext3" | "ext4" | "btrfs");
    own.then(|| statvfs(path).ok()).flatten().map(|s| format!("{} {:016x}", mount.kind, s.f_fsid))
}

fn uuid_of_device(path: &Path) -> Option<String> {
    let device = std::fs::metadata(path).ok()?.dev();
    let names = std::fs::read_dir(BY_UUID).ok()?;
    let of = |e: &std::fs::DirEntry| std::fs::metadata(e.path()).is_ok_and(|m| m.rdev() == device);
    names.flatten().find(of).map(|e| e.file_name().to_string_lossy().into_owned())
}

/// Folders inside a path that lasting file systems are mounted on.
fn below(path: &Path, mounts: &[Mount]) -> Vec<String> {
    // The same file system, mounted twice over itself, is one; a file may be mounted too.
    let inside = |m: &&Mount| m.lasts() && m.point != path && m.point.is_dir();
    let relative = |m: &Mount| m.point.strip_prefix(path).ok().map(text);
    let mut below: Vec<String> = mounts.iter().filter(inside).filter_map(relative).collect();
    below.sort_unstable();
    below.dedup();
    below.truncate(MOUNTS_MAX);
    below
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}

/// Whether the file system is another one. One that has no identity is taken for the same.
pub(crate) fn on_other(was: &Ground, now: &Ground) -> bool {
    let identity = |g: &Ground| g.mount.split_once(" (").map(|(_, i)| i.to_owned());
    matches!((identity(was), identity(now)), (Some(a), Some(b)) if a != b)
}

/// What is not as it was, in words: before, and now. A file system that has no identity is taken for the same.
pub fn moved(path: &Path, was: &Ground, now: &Ground) -> Option<(PathBuf, String, String)> {
    let parts =
        |mount: &str| mount.split_once(" (").map_or((mount.to_owned(), None), |(k, i)| (k.into(), Some(i.to_owned())));
    let ((kind, identity), (kind_now, identity_now)) = (parts(&was.mount), parts(&now.mount));
    let other = identity.is_some() && identity_now.is_some() && identity != identity_now;
    if kind != kind_now || other {
        return Some((path.to_owned(), was.mount.clone(), now.mount.clone()));
    }
    // A mount point that has gone too was made for the mount alone, as for a stick that is pulled out.
    let empty = |p: &Path| std::fs::read_dir(p).is_ok_and(|mut d| d.next().is_none());
    let lost = was.below.iter().filter(|b| now.below.binary_search(b).is_err());
    let place = lost.map(|b| path.join(b)).find(|p| empty(p))?;
    Some((place, "a mounted file system".into(), "an empty directory".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw
40 27 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
41 40 8:17 / /home/a\\040b/disk rw master:3 shared:9 - xfs /dev/sdb1 rw
42 40 0:50 / /home/a\\040b/net rw - nfs4 server:/export rw
43 40 0:51 / /home/a\\040b/tmp rw - tmpfs tmpfs rw
broken line
44 40 0:52
";

    #[test]
    fn the_list_of_mounts_is_read_with_its_escapes() {
        let mounts = parse(LIST.as_bytes());
        assert_eq!(mounts.iter().map(|m| m.id).collect::<Vec<_>>(), [22, 40, 41, 42, 43]);
        assert_eq!(mounts[2].point, Path::new("/home/a b/disk"));
        assert_eq!((&*mounts[3].kind, &*mounts[3].from), ("nfs4", "server:/export"));
        let lasts: Vec<bool> = mounts.iter().map(Mount::lasts).collect();
        assert_eq!(lasts, [false, true, true, true, false]);
        assert!(mounts[3].remote() && !mounts[2].remote());
        assert_eq!(unescape(b"a\\134040\\9z\\04"), b"a\\040\\9z\\04");
    }

    fn ground(mount: &str, below: &[&str]) -> Ground {
        Ground { mount: mount.into(), below: below.iter().map(|b| (*b).into()).collect() }
    }

    #[test]
    fn another_file_system_in_the_same_place_is_seen() {
        let at = Path::new("/nowhere");
        let cases = [
            ("a plain directory", "a plain directory", false),
            ("a mounted file system", "a plain directory", true),
            ("a plain directory", "a mounted file system", true),
            ("a mounted file system (ext4 1)", "a mounted file system (ext4 1)", false),
            ("a mounted file system (ext4 1)", "a mounted file system (ext4 2)", true),
            ("a plain directory (ext4 1)", "a plain directory (btrfs 1)", true),
            // Seen without an identity, by an older release or without a list of mounts.
            ("a plain directory", "a plain directory (ext4 1)", false),
            ("a plain directory (ext4 1)", "a plain directory", false),
        ];
        for (was, now, is_moved) in cases {
            assert_eq!(moved(at, &ground(was, &[]), &ground(now, &[])).is_some(), is_moved, "{was} → {now}");
        }
    }

    #[test]
    fn a_mount_point_that_is_left_empty_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        for d in ["empty", "full/x"] {
            std::fs::create_dir_all(dir.path().join(d)).unwrap();
        }
        let now = ground("a plain directory", &["there"]);
        let lost = |below: &[&str]| moved(dir.path(), &ground("a plain directory", below), &now);
        assert_eq!(lost(&["there"]), None);
        assert_eq!(lost(&["full", "gone", "there"]), None, "its files are in it now, or it was made for the mount");
        let (place, was, is) = lost(&["empty", "there"]).unwrap();
        assert_eq!((place, &*was, &*is), (dir.path().join("empty"), "a mounted file system", "an empty directory"));
    }
}
