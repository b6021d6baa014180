//! What is mounted where, as the kernel says (`proc_pid_mountinfo(5)`).

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use zoneward_sectors::fsx;

/// Bytes of the kernel's list.
const LIST_LEN_MAX: u64 = 8 << 20;

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The directory of the file system that is shown.
    pub root: PathBuf,
    /// Where it is shown.
    pub point: PathBuf,
    pub fs_type: String,
    /// What it lies on, as the file system says it.
    pub device: PathBuf,
}

/// All mounts, in the order in which they were made.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let mut text = Vec::new();
    // Such a file does not say how long it is.
    fsx::open_read(Path::new("/proc/self/mountinfo"))?.take(LIST_LEN_MAX).read_to_end(&mut text)?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// The mount that shows a path: of those above it the nearest, and of several there the last.
pub fn mount_of(all: &[Mount], path: &Path) -> Option<Mount> {
    let above = all.iter().filter(|m| path.starts_with(&m.point));
    above.max_by_key(|m| m.point.components().count()).cloned()
}

/// What is mounted below a path.
pub fn first_below(all: &[Mount], path: &Path) -> Option<PathBuf> {
    all.iter().map(|m| &m.point).find(|p| p.starts_with(path) && *p != path).cloned()
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let root = unescape(fields.nth(3)?);
    let point = unescape(fields.next()?);
    let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mount { root, point, fs_type, device: unescape(fields.next()?) })
}

/// Blanks and the like are written as `\040`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|d| *first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match octal.map(|d| d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0'))).and_then(|n| u8::try_from(n).ok())
        {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// A path inside the file system of a mount that shows it.
pub fn inside(mount: &Mount, path: &Path) -> PathBuf {
    let below = path.strip_prefix(&mount.point).unwrap_or(Path::new(""));
    let root = mount.root.strip_prefix("/").unwrap_or(&mount.root);
    if below.as_os_str().as_bytes().is_empty() { root.to_owned() } else { root.join(below) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_understood() {
        let line = br"36 35 98:0 /mnt1 /my\040mount\134x rw,noatime master:1 shared:7 - ext4 /dev/mapper/vg-lv rw,errors=continue";
        let m = parse(line).unwrap();
        assert_eq!((m.root.to_str(), m.point.to_str()), (Some("/mnt1"), Some(r"/my mount\x")));
        assert_eq!((m.fs_type.as_str(), m.device.to_str()), ("ext4", Some("/dev/mapper/vg-lv")));
        assert_eq!(inside(&m, Path::new(r"/my mount\x/a/b")), Path::new("mnt1/a/b"));
        assert_eq!(inside(&m, Path::new(r"/my mount\x")), Path::new("mnt1"));
        for bad in [&b""[..], b"36 35 98:0 /", b"36 35 98:0 / /x rw - ext4"] {
            assert_eq!(parse(bad), None);
        }
        assert!(mounts().unwrap().iter().any(|m| m.point == Path::new("/proc")));
    }

    #[test]
    fn the_nearest_mount_shows_a_path() {
        let at =
            |p: &str, d: &str| Mount { root: "/".into(), point: p.into(), fs_type: "ext4".into(), device: d.into() };
        let all = [at("/", "a"), at("/srv", "b"), at("/srv/x", "c"), at("/srv", "d"), at("/srv2", "e")];
        let device = |p: &str| mount_of(&all, Path::new(p)).unwrap().device;
        assert_eq!(device("/etc"), Path::new("a"));
        assert_eq!(device("/srv/y"), Path::new("d"), "the last mount hides what was there");
        assert_eq!(device("/srv/x/z"), Path::new("c"));
        assert_eq!(first_below(&all, Path::new("/srv")), Some("/srv/x".into()));
        assert_eq!(first_below(&all, Path::new("/srv/x")), None);
    }
}
