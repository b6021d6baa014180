//! Makes the index of a tree: one pass over the merged catalogs, in path order, with what is open above in memory.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use zoneward_sectors::catalog::{CatalogError, Merge};
use zoneward_sectors::entry::{Entry, Kind, Meta, Stamp, path_cmp};
use zoneward_sectors::fsx;
use zoneward_sectors::limits::PATH_LEN_MAX;

use super::table::{ROOT, Table, patch, record};
use crate::home::Home;

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("the index of the checkpoint cannot be written in the home's folder catalogs")]
    Io(#[from] io::Error),
}

/// One source's entries, and where they lie below the top of the tree.
pub(super) struct Side {
    pub prefix: Vec<u8>,
    pub entries: Merge,
}

/// A file without a name: it is gone with this process, however that ends.
fn nameless(home: &Home) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!(".index-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = home.catalogs().join(name);
    fsx::create_dir_all(&home.catalogs(), 0o700)?;
    // Of a process that had the same number and was killed in between.
    fsx::remove_file(&path)?;
    let file = fsx::create_new(&path, 0o600)?;
    fsx::remove_file(&path)?;
    Ok(file)
}

fn join(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    match (prefix.is_empty(), path.is_empty()) {
        (true, _) => path.to_vec(),
        (false, true) => prefix.to_vec(),
        (false, false) => [prefix, b"/", path].concat(),
    }
}

fn below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || (path.starts_with(dir) && path.get(dir.len()) == Some(&b'/'))
}

/// A directory that is not complete yet.
struct Open {
    at: u64,
    path: Vec<u8>,
    children: Vec<u64>,
    subdirs: u32,
    /// What was added last.
    last: Vec<u8>,
}

struct Builder {
    file: File,
    /// Where the buffer begins.
    written: u64,
    buffer: Vec<u8>,
    open: Vec<Open>,
    /// Whose directories are that no catalog tells of.
    owner: (u32, u32),
    skipped: u64,
}

impl Builder {
    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        fsx::write_all_at(&self.file, &self.buffer, self.written)?;
        self.written = self.end();
        self.buffer.clear();
        Ok(())
    }

    /// Writes over what was appended. A record is never cut by the buffer's beginning.
    fn patch(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let inside = at.checked_sub(self.written).and_then(|from| usize::try_from(from).ok());
        match inside.and_then(|from| self.buffer.get_mut(from..from + bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Ok(())
            }
            None => fsx::write_all_at(&self.file, bytes, at),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        let Some(dir) = self.open.pop() else { return Ok(()) };
        let at = self.end();
        let places: Vec<u8> = dir.children.iter().flat_map(|c| c.to_le_bytes()).collect();
        self.append(&places)?;
        self.patch(dir.at, &patch(at, dir.children.len() as u64, dir.subdirs.saturating_add(2)))
    }

    /// Appends an entry to the directory that is open.
    fn append_entry(&mut self, name: &[u8], path: &[u8], link: &[u8], e: &Entry) -> io::Result<()> {
        let at = self.end();
        let parent = self.open.last().map_or(at, |d| d.at);
        self.append(&record(at, parent, name, link, e))?;
        let is_dir = e.meta.kind == Kind::Dir;
        if let Some(dir) = self.open.last_mut() {
            dir.children.push(at);
            dir.subdirs += u32::from(is_dir);
            dir.last = name.to_vec();
        }
        if is_dir {
            let path = path.to_vec();
            self.open.push(Open { at, path, children: Vec::new(), subdirs: 0, last: Vec::new() });
        }
        Ok(())
    }

    /// A directory that no catalog tells of.
    fn plain_dir(&self) -> Entry {
        let meta = Meta {
            kind: Kind::Dir,
            mode: 0o755,
            uid: self.owner.0,
            gid: self.owner.1,
            mtime: Stamp::default(),
            ctime: Stamp::default(),
            ino: 0,
            nlink: 2,
            size: 0,
            rdev: (0, 0),
        };
        let (path, xattrs, link, extents) = Default::default();
        Entry { path, meta, xattrs, link, extents, unsteady: false }
    }

    /// Adds the next entry in path order.
    fn add(&mut self, path: &[u8], link: &[u8], e: &Entry) -> Result<(), BuildError> {
        if path.len() > PATH_LEN_MAX || link.len() > PATH_LEN_MAX {
            return Err(CatalogError::Damaged { line: 0, what: "a path is too long" }.into());
        }
        while self.open.last().is_some_and(|d| !below(path, &d.path)) {
            self.close()?;
        }
        if self.end() == ROOT {
            if path.is_empty() {
                return Ok(self.append_entry(b"", b"", link, e)?);
            }
            self.append_entry(b"", b"", b"", &self.plain_dir())?;
        }
        let mut upper = self.open.last().map_or(0, |d| d.path.len());
        let rest = path.get(upper..).unwrap_or_default();
        let mut names = rest.split(|b| *b == b'/').filter(|n| !n.is_empty()).peekable();
        while let Some(name) = names.next() {
            // Below what is no directory there is no place: where one source lies in another, one of them may say so.
            if self.open.last().is_none_or(|d| d.last == name) {
                self.skipped += 1;
                return Ok(());
            }
            upper += name.len() + usize::from(upper > 0);
            let here = path.get(..upper).unwrap_or_default();
            if names.peek().is_some() {
                self.append_entry(name, here, b"", &self.plain_dir())?;
            } else {
                self.append_entry(name, here, link, e)?;
            }
        }
        Ok(())
    }
}

/// Makes the index of what these sources hold together. Where two hold the same path, the later one counts. Answers how
/// many entries have no place in the tree, too.
pub(super) fn build(home: &Home, sides: Vec<Side>, owner: (u32, u32)) -> Result<(Table, u64), BuildError> {
    let (file, buffer) = (nameless(home)?, Vec::with_capacity(BUFFER * 2));
    let mut b = Builder { file, written: 0, buffer, open: Vec::new(), owner, skipped: 0 };
    b.append(&[0; ROOT as usize])?;
    let mut heads = Vec::with_capacity(sides.len());
    for mut s in sides {
        let head = next(&mut s)?;
        heads.push((s, head));
    }
    loop {
        let smallest = heads.iter().filter_map(|(_, h)| h.as_ref().map(|(path, _)| path));
        let Some(path) = smallest.min_by(|a, b| path_cmp(a, b)).cloned() else { break };
        let mut taken = None;
        for (side, head) in &mut heads {
            if head.as_ref().is_some_and(|(p, _)| *p == path) {
                let ahead = next(side)?;
                let link = |e: &Entry| match e.meta.kind {
                    Kind::HardLink => join(&side.prefix, &e.link),
                    _ => e.link.clone(),
                };
                taken = std::mem::replace(head, ahead).map(|(_, e)| (link(&e), e));
            }
        }
        if let Some((link, e)) = taken {
            b.add(&path, &link, &e)?;
        }
    }
    while !b.open.is_empty() {
        b.close()?;
    }
    b.flush()?;
    let len = b.end();
    Ok((Table::new(b.file, len), b.skipped))
}

fn next(side: &mut Side) -> Result<Option<(Vec<u8>, Entry)>, CatalogError> {
    let entry = side.entries.next().transpose()?;
    Ok(entry.map(|e| (join(&side.prefix, &e.path), e)))
}
