//! The trees of a mount, and their indexes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};

use zoneward_consensus::names;
use zoneward_sectors::entry::{Extent, Kind, Xattrs};
use zoneward_sectors::shown::show_path;

use super::build::{Side, build};
use super::table::Table;
use super::{Node, Tell, Trouble};
use crate::open::chain;
use crate::restore::Held;
use crate::still::Still;

/// Bytes that indexes may take on the disk of the home, all together. One is always kept.
const INDEXES_MAX: u64 = 1 << 30;
/// Sources of one checkpoint that lie in each other, and where the outermost lies.
pub(super) struct Tree {
    pub checkpoint: Vec<u8>,
    pub top: Vec<u8>,
    sources: Vec<Held>,
    index: Mutex<Index>,
    changed: Condvar,
    /// Its root, from the first line of its catalog, for those who only pass by.
    root: OnceLock<(Node, Xattrs)>,
}

#[derive(Default)]
enum Index {
    #[default]
    None,
    Building,
    Ready(Arc<Table>),
}

impl Tree {
    /// True if its root is known without waiting.
    pub fn is_known(&self) -> bool {
        self.is_ready() || self.root.get().is_some()
    }

    pub fn is_ready(&self) -> bool {
        matches!(*lock(&self.index), Index::Ready(_))
    }
}

/// All trees of a mount.
pub(super) struct Trees {
    still: Arc<Still>,
    all: Vec<Tree>,
    /// Indexes that are ready, those used longest ago first, with their sizes.
    ready: Mutex<Vec<(usize, u64)>>,
    /// Whose directories are that no catalog tells of.
    owner: (u32, u32),
    tell: Tell,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

fn inside(path: &[u8], top: &[u8]) -> bool {
    top.is_empty() || path == top || (path.starts_with(top) && path.get(top.len()) == Some(&b'/'))
}

/// The sources of a checkpoint by where they are shown, those that lie in each other together.
pub(super) fn tops(sources: Vec<Held>) -> Vec<(Vec<u8>, Vec<Held>)> {
    let mut all: Vec<(Vec<u8>, Held)> = sources.into_iter().map(|h| (names::inside(&h.path), h)).collect();
    // Stable: where two are shown at one place, they stay in the order in which a restore takes them.
    all.sort_by(|a, b| zoneward_sectors::entry::path_cmp(&a.0, &b.0));
    let mut out: Vec<(Vec<u8>, Vec<Held>)> = Vec::new();
    for (path, held) in all {
        match out.last_mut().filter(|(top, _)| inside(&path, top)) {
            Some((_, group)) => group.push(held),
            None => out.push((path, vec![held])),
        }
    }
    // Later ones count where both hold a path, as when they are restored one after another.
    out.iter_mut().for_each(|(_, group)| group.sort_by_key(|h| std::cmp::Reverse(h.priority)));
    out
}

impl Trees {
    pub fn new(still: Arc<Still>, owner: (u32, u32), tell: Tell) -> Self {
        Self { still, all: Vec::new(), ready: Mutex::default(), owner, tell }
    }

    /// Adds a tree; answers its number.
    pub fn add(&mut self, checkpoint: &[u8], top: &[u8], sources: Vec<Held>) -> usize {
        let (checkpoint, top) = (checkpoint.to_vec(), top.to_vec());
        let (index, changed, root) = (Mutex::default(), Condvar::new(), OnceLock::new());
        self.all.push(Tree { checkpoint, top, sources, index, changed, root });
        self.all.len() - 1
    }

    pub fn get(&self, number: usize) -> Option<&Tree> {
        self.all.get(number)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The index of a tree, made if it is not there.
    pub fn table(&self, number: usize) -> Result<Arc<Table>, Trouble> {
        let tree = self.all.get(number).ok_or(Trouble::Missing)?;
        let mut index = lock(&tree.index);
        loop {
            match &*index {
                Index::Ready(table) => {
                    let table = table.clone();
                    drop(index);
                    self.touch(number);
                    return Ok(table);
                }
                Index::Building => index = tree.changed.wait(index).unwrap_or_else(|e| e.into_inner()),
                Index::None => {
                    *index = Index::Building;
                    drop(index);
                    let built = self.build(tree);
                    let mut index = lock(&tree.index);
                    *index = match &built {
                        Ok(table) => Index::Ready(table.clone()),
                        Err(_) => Index::None,
                    };
                    drop(index);
                    tree.changed.notify_all();
                    let table = built?;
                    self.keep(number, table.len());
                    return Ok(table);
                }
            }
        }
    }

    fn build(&self, tree: &Tree) -> Result<Arc<Table>, Trouble> {
        let name = || format!("{}/{}", show_path(&tree.checkpoint), show_path(&tree.top));
        let failed = |e: &dyn std::error::Error| Trouble::Unreadable(format!("{}: {}", name(), chain(e)));
        let mut sides = Vec::with_capacity(tree.sources.len());
        for held in &tree.sources {
            let path = names::inside(&held.path);
            let prefix = path.get(tree.top.len()..).unwrap_or_default();
            let prefix = prefix.strip_prefix(b"/").unwrap_or(prefix).to_vec();
            let entries = self.still.entries(&held.layers).map_err(|e| failed(&e))?;
            sides.push(Side { prefix, entries });
        }
        let (table, skipped) = build(self.still.home(), sides, self.owner).map_err(|e| failed(&e))?;
        if skipped > 0 {
            (self.tell)(&format!("{}: {skipped} entries lie below what is no directory and are not shown", name()));
        }
        Ok(Arc::new(table))
    }

    /// It was used just now.
    fn touch(&self, number: usize) {
        let mut ready = lock(&self.ready);
        if ready.last().is_some_and(|(n, _)| *n == number) {
            return;
        }
        if let Some(i) = ready.iter().position(|(n, _)| *n == number) {
            let it = ready.remove(i);
            ready.push(it);
        }
    }

    /// A new index: those that were used longest ago make room. They are made again when somebody comes back.
    fn keep(&self, number: usize, len: u64) {
        let mut gone = Vec::new();
        {
            let mut ready = lock(&self.ready);
            ready.push((number, len));
            while ready.len() > 1 && ready.iter().map(|(_, n)| n).sum::<u64>() > INDEXES_MAX {
                gone.push(ready.remove(0).0);
            }
        }
        for tree in gone.into_iter().filter_map(|n| self.all.get(n)) {
            let mut index = lock(&tree.index);
            if matches!(*index, Index::Ready(_)) {
                *index = Index::None;
            }
        }
    }

    /// The root of a tree as the first line of its catalog tells it, without how many directories lie in it: for those who
    /// only pass by, so that no index is made.
    pub fn root(&self, number: usize, ino: u64) -> Result<&(Node, Xattrs), Trouble> {
        let tree = self.all.get(number).ok_or(Trouble::Missing)?;
        if let Some(known) = tree.root.get() {
            return Ok(known);
        }
        let failed = |why: String| {
            Trouble::Unreadable(format!("{}/{}: {why}", show_path(&tree.checkpoint), show_path(&tree.top)))
        };
        let outermost = tree.sources.iter().rfind(|h| names::inside(&h.path) == tree.top).ok_or(Trouble::Missing)?;
        let mut entries = self.still.entries(&outermost.layers).map_err(|e| failed(chain(&e)))?;
        let first = entries.next().transpose().map_err(|e| failed(chain(&e)))?;
        let e =
            first.filter(|e| e.path.is_empty()).ok_or_else(|| failed("its catalog does not name its root".into()))?;
        let (m, data) = (&e.meta, e.extents.iter().filter(|x| matches!(x, Extent::Data { .. })));
        let node = Node {
            ino,
            kind: m.kind,
            mode: m.mode,
            uid: m.uid,
            gid: m.gid,
            nlink: m.nlink,
            size: if m.kind == Kind::Symlink { e.link.len() as u64 } else { m.size },
            stored: data.map(Extent::len).sum(),
            mtime: m.mtime,
            ctime: m.ctime,
            rdev: m.rdev,
        };
        Ok(tree.root.get_or_init(|| (node, e.xattrs)))
    }
}
