//! The source tree, in two states, and the complete comparison of what came back with what was there.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, llistxattr, mknodat, setxattr};

const LARGE_LEN: usize = 20 << 20;
/// Part of the large file that the first state holds already: the second must find its chunks again.
const LARGE_FIRST_LEN: usize = 3 << 20;

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

fn set_mtime(path: &Path, secs: i64, nanos: u32) -> Result<()> {
    let whole = Duration::from_secs(secs.unsigned_abs());
    let at = if secs < 0 { SystemTime::UNIX_EPOCH - whole } else { SystemTime::UNIX_EPOCH + whole };
    let times = FileTimes::new().set_modified(at + Duration::from_nanos(nanos.into()));
    File::open(path)?.set_times(times).with_context(|| format!("setting the time of {}", path.display()))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
}

/// Makes the first state: a tenth of the whole.
pub fn make_first(dir: &Path) -> Result<()> {
    for sub in ["docs/deep/deeper", "media", "many", "empty"] {
        fs::create_dir_all(dir.join(sub))?;
    }
    for i in 0..40u64 {
        write(&dir.join(format!("many/{i:03}")), &noise(i, (i * 997 % 20_000) as usize))?;
    }
    write(&dir.join("media/large"), &noise(1000, LARGE_FIRST_LEN))?;
    write(&dir.join("docs/text"), &b"a line that comes again and again\n".repeat(10_000))?;
    write(&dir.join("docs/goes"), b"only the first state holds this")?;
    fs::hard_link(dir.join("docs/text"), dir.join("docs/deep/same-text"))?;
    symlink("../text", dir.join("docs/deep/link"))?;
    Ok(())
}

/// Turns the first state into the second: about 32 MiB and 150 entries.
pub fn make_second(dir: &Path) -> Result<()> {
    write(&dir.join("media/large"), &noise(1000, LARGE_LEN))?;
    for i in 0..8u64 {
        write(&dir.join(format!("media/medium-{i}")), &noise(2000 + i, 1_100_000 + i as usize * 4099))?;
    }
    for i in 20..115u64 {
        write(&dir.join(format!("many/{i:03}")), &noise(3000 + i, (i * 1931 % 30_000) as usize))?;
    }
    fs::remove_file(dir.join("docs/goes"))?;
    fs::rename(dir.join("many/000"), dir.join("docs/moved"))?;
    for i in 0..4 {
        fs::hard_link(dir.join("media/medium-0"), dir.join(format!("docs/hard-{i}")))?;
        symlink(format!("../many/{i:03}"), dir.join(format!("docs/link-{i}")))?;
    }
    fs::hard_link(dir.join("media/large"), dir.join("docs/deep/deeper/large-too"))?;
    symlink("/nowhere/at all", dir.join("docs/broken"))?;
    write(&dir.join(std::ffi::OsString::from_vec(b"odd \xff\n name".to_vec())), b"odd")?;
    mknodat(CWD, dir.join("docs/fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?;
    let holes = File::create(dir.join("media/holes"))?;
    holes.set_len(3 << 20)?;
    holes.write_all_at(b"an island", 2 << 20)?;
    for (path, name) in [("docs/text", "user.note"), ("many/021", "user.empty"), ("docs/deep", "user.on-a-directory")] {
        let value = if name == "user.empty" { &b""[..] } else { b"a value \0 with zero" };
        setxattr(dir.join(path), name, value, XattrFlags::empty()).context("setting an extended attribute")?;
    }
    set_mode(&dir.join("many/022"), 0o400)?;
    set_mode(&dir.join("many/023"), 0o4755)?;
    set_mtime(&dir.join("many/024"), -86_400, 123_456_789)?;
    set_mtime(&dir.join("many/025"), 1_000_000_000, 1)?;
    set_mode(&dir.join("many/026"), 0o604)?;
    set_mtime(&dir.join("empty"), 1_234_567_890, 987_654_321)?;
    set_mode(&dir.join("empty"), 0o1777)?;
    set_mode(&dir.join("media"), 0o710)
}

/// One entry, with all that a restore must bring back.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    /// Bytes of a file, target of a link.
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// First path of the same file.
    same_as: Option<PathBuf>,
}

/// A tree as it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, Node>);

fn xattrs_of(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0u8; 4096];
    let n = llistxattr(path, &mut names[..])?;
    let mut out = BTreeMap::new();
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0u8; 4096];
        let len = lgetxattr(path, name, &mut value[..])?;
        value.truncate(len);
        out.insert(name.to_vec(), value);
    }
    Ok(out)
}

impl Tree {
    /// Reads a whole tree.
    pub fn read(dir: &Path) -> Result<Self> {
        let (mut paths, mut todo) = (BTreeMap::new(), vec![dir.to_owned()]);
        while let Some(path) = todo.pop() {
            let meta = fs::symlink_metadata(&path).with_context(|| format!("looking at {}", path.display()))?;
            if meta.is_dir() {
                for e in fs::read_dir(&path)? {
                    todo.push(e?.path());
                }
            }
            paths.insert(path.strip_prefix(dir)?.to_owned(), (path, meta));
        }
        let (mut nodes, mut seen) = (BTreeMap::new(), BTreeMap::new());
        for (inside, (path, meta)) in paths {
            let first = seen.get(&meta.ino()).cloned();
            let content = match meta.file_type() {
                t if t.is_file() && first.is_none() => {
                    fs::read(&path).with_context(|| format!("reading {}", path.display()))?
                }
                t if t.is_symlink() => fs::read_link(&path)?.into_os_string().into_vec(),
                _ => Vec::new(),
            };
            if !meta.is_dir() && first.is_none() {
                seen.insert(meta.ino(), inside.clone());
            }
            let node = Node {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                mtime: (meta.mtime(), meta.mtime_nsec()),
                content,
                xattrs: xattrs_of(&path)?,
                same_as: first,
            };
            nodes.insert(inside, node);
        }
        Ok(Self(nodes))
    }

    pub fn entries(&self) -> usize {
        self.0.len()
    }

    pub fn bytes(&self) -> usize {
        self.0.values().map(|n| n.content.len()).sum()
    }

    /// What is different in `other`, in words; empty if nothing is.
    pub fn differences(&self, other: &Tree) -> Vec<String> {
        let mut out = Vec::new();
        for (path, want) in &self.0 {
            let Some(got) = other.0.get(path) else {
                out.push(format!("{path:?} is missing"));
                continue;
            };
            let parts = [
                ("mode", want.mode == got.mode),
                ("owner", want.owner == got.owner),
                ("time", want.mtime == got.mtime),
                ("content", want.content == got.content),
                ("attributes", want.xattrs == got.xattrs),
                ("hard link", want.same_as == got.same_as),
            ];
            let wrong: Vec<&str> = parts.iter().filter(|(_, same)| !same).map(|(what, _)| *what).collect();
            if !wrong.is_empty() {
                out.push(format!("{path:?} has another {}", wrong.join(", ")));
            }
        }
        out.extend(other.0.keys().filter(|p| !self.0.contains_key(*p)).map(|p| format!("{p:?} is one too many")));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        make_first(dir.path()).unwrap();
        make_second(dir.path()).unwrap();
        let tree = Tree::read(dir.path()).unwrap();
        (dir, tree)
    }

    #[test]
    fn the_tree_has_the_size_it_is_said_to_have() {
        let (_dir, tree) = made();
        assert!((140..180).contains(&tree.entries()), "{}", tree.entries());
        assert!((30 << 20..36 << 20).contains(&tree.bytes()), "{}", tree.bytes());
    }

    /// A comparison that sees nothing proves nothing: each planted difference must be named.
    #[test]
    fn every_planted_difference_is_seen() {
        type Plant = fn(&Path) -> Result<()>;
        let plants: [(&str, Plant); 8] = [
            ("content", |d| {
                Ok(File::options().write(true).open(d.join("media/large"))?.write_all_at(b"x", 9_999_999)?)
            }),
            ("mode", |d| set_mode(&d.join("docs/text"), 0o640)),
            ("time", |d| set_mtime(&d.join("many/025"), 1_000_000_000, 2)),
            ("attributes", |d| Ok(setxattr(d.join("docs/deep"), "user.more", b"1", XattrFlags::empty())?)),
            ("hard link", |d| {
                let bytes = fs::read(d.join("docs/hard-1"))?;
                fs::remove_file(d.join("docs/hard-1"))?;
                write(&d.join("docs/hard-1"), &bytes)
            }),
            ("missing", |d| Ok(fs::remove_file(d.join("docs/broken"))?)),
            ("one too many", |d| write(&d.join("many/new"), b"")),
            ("content", |d| {
                fs::remove_file(d.join("docs/link-1"))?;
                Ok(symlink("elsewhere", d.join("docs/link-1"))?)
            }),
        ];
        let (dir, mut before) = made();
        for (name, plant) in plants {
            plant(dir.path()).unwrap();
            let after = Tree::read(dir.path()).unwrap();
            let seen = before.differences(&after);
            assert!(seen.iter().any(|d| d.contains(name)), "{name}: {seen:?}");
            before = after;
        }
        assert_eq!(before.differences(&Tree::read(dir.path()).unwrap()), Vec::<String>::new());
    }
}
