//! One entry of a tree: what the scan finds, the catalog remembers and the restore makes again.

use std::cmp::Ordering;

/// A moment as the file system keeps it: seconds since 1970 (negative before) and 0…999,999,999 nanoseconds after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    pub secs: i64,
    pub nanos: u32,
}

/// What kind of thing an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    /// A further name of a file, link, fifo or device that another entry holds.
    HardLink,
    Fifo,
    CharDevice,
    BlockDevice,
}

/// The fixed-size part of an entry: what one `statx` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub kind: Kind,
    /// Lower 12 bits of the mode.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Stamp,
    pub ctime: Stamp,
    pub ino: u64,
    pub nlink: u32,
    /// Bytes of content, for files and hard links; 0 for all else.
    pub size: u64,
    /// Device numbers (major, minor), for devices.
    pub rdev: (u32, u32),
}

/// Where a stretch of a file's content lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Nothing is stored: the file has a hole of this many bytes here.
    Hole(u64),
    /// `len` bytes at `offset` of the tar stream of a sector.
    Data {
        /// Index into the table of sectors that the catalog's reader or writer keeps.
        sector: u32,
        offset: u64,
        len: u64,
        fingerprint: [u8; 32],
    },
}

impl Extent {
    /// Bytes of the file it covers.
    pub fn len(&self) -> u64 {
        match *self {
            Extent::Hole(n) => n,
            Extent::Data { len, .. } => len,
        }
    }

    /// True if it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Names and values of extended attributes, sorted by name. ACLs are among them (`system.posix_acl_*`).
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// One entry, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path inside the source, components joined by `/`; empty for the root.
    pub path: Vec<u8>,
    pub meta: Meta,
    pub xattrs: Xattrs,
    /// Target of a symbolic link, or for a hard link the path of the entry that holds the rest.
    pub link: Vec<u8>,
    pub extents: Vec<Extent>,
    /// The file changed while it was read, so its content may mix two moments.
    pub unsteady: bool,
}

impl Entry {
    /// A further name becomes what it is a name of: `holder` is not there to be linked to.
    pub fn take_over(&mut self, holder: Entry) {
        // All of it: a catalog keeps no device numbers with a further name, and the size must be that of the content.
        *self = Entry { path: std::mem::take(&mut self.path), ..holder };
    }
}

/// The order of catalogs and scans: bytes, with `/` below every other byte, so a directory is followed by what it holds.
pub fn path_cmp(a: &[u8], b: &[u8]) -> Ordering {
    let n = a.len().min(b.len());
    match a[..n].iter().zip(&b[..n]).position(|(x, y)| x != y) {
        None => a.len().cmp(&b.len()),
        Some(i) => {
            let key = |c: u8| if c == b'/' { 0u16 } else { u16::from(c) + 1 };
            key(a[i]).cmp(&key(b[i]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_name_becomes_the_very_thing() {
        let meta = |kind, rdev, size| Meta {
            kind,
            mode: 0o600,
            uid: 1,
            gid: 2,
            mtime: Stamp::default(),
            ctime: Stamp::default(),
            ino: 7,
            nlink: 2,
            size,
            rdev,
        };
        let entry = |path: &[u8], meta| Entry {
            path: path.to_vec(),
            meta,
            xattrs: Vec::new(),
            link: Vec::new(),
            extents: Vec::new(),
            unsteady: false,
        };
        let device = entry(b"a", meta(Kind::CharDevice, (1, 3), 0));
        let mut name = Entry { link: b"a".to_vec(), ..entry(b"b", meta(Kind::HardLink, (0, 0), 9)) };
        name.take_over(device.clone());
        assert_eq!(name, Entry { path: b"b".to_vec(), ..device });
    }

    #[test]
    fn a_directory_is_followed_by_its_content() {
        let mut v: Vec<&[u8]> = vec![b"a.txt", b"a/z", b"a", b"", b"a\x01", b"a/b/c", b"a/b", b"b"];
        v.sort_by(|x, y| path_cmp(x, y));
        assert_eq!(v, vec![&b""[..], b"a", b"a/b", b"a/b/c", b"a/z", b"a\x01", b"a.txt", b"b"]);
    }
}
