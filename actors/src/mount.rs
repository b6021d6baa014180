//! Checkpoints as a tree to look around in: what a mount shows (decision 0031).
//!
//! Above the sources are directories that this makes up. Each source is a tree with an index of its own, which is made when
//! somebody first enters it; sources that lie in each other are one tree, laid over each other as a restore would. All calls
//! answer at once but for the first one into a tree and for [`View::read`]: those may wait for a target.

mod build;
mod content;
mod table;
#[cfg(test)]
mod tests;
mod trees;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use zoneward_sectors::entry::{Extent, Kind, Stamp, Xattrs};
use zoneward_sectors::ids::CheckpointId;
use zoneward_sectors::shown::show_path;

use crate::open::chain;
use crate::restore::held_by;
use crate::still::Still;

use content::Content;
use table::{ROOT, Record, Table};
use trees::{Tree, Trees, tops};

/// Inode numbers of one tree: the place of a record in its index.
const TREE_BITS: u32 = 40;
/// The inode number of the mount's root.
pub const ROOT_INO: u64 = 1;

/// Why something cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("there is no such thing")]
    Missing,
    #[error("it is no directory")]
    NotDir,
    /// Stored bytes are wrong or cannot be had, and whose.
    #[error("{0}")]
    Unreadable(String),
}

/// What is known of one entry without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    pub ino: u64,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: u64,
    /// Bytes of content without holes.
    pub stored: u64,
    pub mtime: Stamp,
    pub ctime: Stamp,
    pub rdev: (u32, u32),
}

/// One name in a directory.
#[derive(Debug)]
pub struct Name {
    pub name: Vec<u8>,
    pub node: Node,
    /// False where more may be known soon, or where it could not be read and whoever asks again is told why.
    pub sure: bool,
}

/// A checkpoint, and what its folder is called.
#[derive(Clone, Debug)]
pub struct Shown {
    pub checkpoint: CheckpointId,
    pub name: Vec<u8>,
    /// When it was made.
    pub made: Stamp,
}

/// What lies under a name that no catalog tells of.
#[derive(Clone, Copy, Debug)]
enum Ref {
    Made(usize),
    Tree(usize),
}

#[derive(Debug)]
enum What {
    Dir(BTreeMap<Vec<u8>, Ref>),
    Link(Vec<u8>),
}

#[derive(Debug)]
struct Made {
    what: What,
    when: Stamp,
}

/// Where an inode number leads.
enum Place {
    Made(usize),
    In(usize, Arc<Table>, u64),
}

/// Told what somebody should know who sees only an error number.
pub type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// Checkpoints as a tree.
pub struct View {
    still: Arc<Still>,
    made: Vec<Made>,
    root: Ref,
    trees: Trees,
    content: Content,
    owner: (u32, u32),
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View({} trees)", self.trees.len())
    }
}

impl View {
    /// Shows these checkpoints, oldest first, each in its folder; or the only one as it is, with `alone`. Directories that
    /// no catalog tells of belong to `owner`.
    pub fn new(still: Still, shown: &[Shown], alone: bool, owner: (u32, u32), tell: Tell) -> Self {
        let still = Arc::new(still);
        let content = Content::new(still.clone());
        let (made, trees) = (Vec::new(), Trees::new(still.clone(), owner, tell));
        let mut view = Self { still, made, root: Ref::Made(0), trees, content, owner };
        let when = shown.last().map(|s| s.made).unwrap_or_default();
        view.made.push(Made { what: What::Dir(BTreeMap::new()), when });
        let mut folders = BTreeMap::new();
        for s in shown {
            // With one alone, its folder is the mount's root.
            let folder = if alone { Some(0) } else { None };
            let at = view.add_checkpoint(s, folder);
            folders.insert(s.name.clone(), at);
            view.root = if alone { at } else { Ref::Made(0) };
        }
        if let (false, Some(newest)) = (alone, shown.last()) {
            let latest = view.make(What::Link(newest.name.clone()), newest.made);
            folders.insert(b"latest".to_vec(), Ref::Made(latest));
        }
        if !alone && let Some(Made { what: What::Dir(all), .. }) = view.made.first_mut() {
            *all = folders;
        }
        view
    }

    fn make(&mut self, what: What, when: Stamp) -> usize {
        self.made.push(Made { what, when });
        self.made.len() - 1
    }

    /// Adds a checkpoint's trees, and the directories above them.
    fn add_checkpoint(&mut self, s: &Shown, folder: Option<usize>) -> Ref {
        let groups = tops(held_by(self.still.state(), s.checkpoint));
        let folder = match folder {
            Some(folder) => folder,
            None if groups.iter().any(|(top, _)| top.is_empty()) => 0,
            None => self.make(What::Dir(BTreeMap::new()), s.made),
        };
        for (top, sources) in groups {
            let tree = self.trees.add(&s.name, &top, sources);
            // A source that is the whole file system is the folder itself, and there is no other beside it.
            let Some(last) = top.rsplit(|b| *b == b'/').next().filter(|n| !n.is_empty()) else {
                return Ref::Tree(tree);
            };
            let above = top.get(..top.len() - last.len()).unwrap_or_default();
            let mut here = folder;
            for name in above.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
                here = self.dir_in(here, name, s.made);
            }
            if let Some(Made { what: What::Dir(all), .. }) = self.made.get_mut(here) {
                all.insert(last.to_vec(), Ref::Tree(tree));
            }
        }
        Ref::Made(folder)
    }

    /// The directory of this name in a directory, made if it is not there.
    fn dir_in(&mut self, parent: usize, name: &[u8], when: Stamp) -> usize {
        if let Some(Made { what: What::Dir(all), .. }) = self.made.get(parent)
            && let Some(Ref::Made(known)) = all.get(name)
        {
            return *known;
        }
        let new = self.make(What::Dir(BTreeMap::new()), when);
        if let Some(Made { what: What::Dir(all), .. }) = self.made.get_mut(parent) {
            all.insert(name.to_vec(), Ref::Made(new));
        }
        new
    }

    /// The tree of an inode number, and the place in its index.
    fn split(&self, ino: u64) -> Spot {
        match ((ino >> TREE_BITS).checked_sub(1), self.root) {
            (None, Ref::Tree(root)) if ino == ROOT_INO => Spot::In(root, ROOT),
            (None, _) => Spot::Made(ino.saturating_sub(1) as usize),
            (Some(tree), _) => Spot::In(tree as usize, ino & ((1 << TREE_BITS) - 1)),
        }
    }

    fn ino(&self, tree: usize, at: u64) -> u64 {
        match self.root {
            Ref::Tree(root) if root == tree && at == ROOT => ROOT_INO,
            _ => ((tree as u64 + 1) << TREE_BITS) | at,
        }
    }

    fn place(&self, ino: u64) -> Result<Place, Trouble> {
        match self.split(ino) {
            Spot::Made(i) => Ok(Place::Made(i)),
            Spot::In(tree, at) => Ok(Place::In(tree, self.trees.table(tree)?, at)),
        }
    }

    /// True if a look at this answers without waiting: the trees that it needs have their indexes.
    pub fn is_quick(&self, ino: u64, name: Option<&[u8]>) -> bool {
        let quick = |r: &Ref| match r {
            Ref::Tree(t) => self.trees.get(*t).is_none_or(Tree::is_known),
            Ref::Made(_) => true,
        };
        match self.split(ino) {
            Spot::In(tree, _) => self.trees.get(tree).is_none_or(Tree::is_ready),
            Spot::Made(i) => match self.made.get(i).map(|m| &m.what) {
                Some(What::Dir(all)) => match name {
                    Some(name) => all.get(name).is_none_or(quick),
                    None => all.values().all(quick),
                },
                _ => true,
            },
        }
    }

    /// A path as a person types it below the mount's root.
    fn path(&self, tree: usize, table: &Table, at: u64) -> String {
        let Some(t) = self.trees.get(tree) else { return "?".into() };
        let inner = table.path(at).unwrap_or_default();
        let parts = [&t.checkpoint[..], &t.top, &inner];
        show_path(&parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(&b'/'))
    }

    fn unreadable(&self, tree: usize, table: &Table, at: u64, e: &io::Error) -> Trouble {
        Trouble::Unreadable(format!("{}: {}", self.path(tree, table, at), chain(e)))
    }

    fn made_node(&self, i: usize) -> Result<Node, Trouble> {
        let made = self.made.get(i).ok_or(Trouble::Missing)?;
        let (kind, mode, nlink, size) = match &made.what {
            What::Dir(all) => (Kind::Dir, 0o555, all.len() as u32 + 2, 0),
            What::Link(to) => (Kind::Symlink, 0o777, 1, to.len() as u64),
        };
        let (ino, uid, gid) = (i as u64 + 1, self.owner.0, self.owner.1);
        let (mtime, ctime, stored, rdev) = (made.when, made.when, 0, (0, 0));
        Ok(Node { ino, kind, mode, uid, gid, nlink, size, stored, mtime, ctime, rdev })
    }

    fn node_of(&self, tree: usize, at: u64, r: &Record) -> Node {
        let m = &r.meta;
        Node {
            ino: self.ino(tree, at),
            kind: m.kind,
            mode: m.mode,
            uid: m.uid,
            gid: m.gid,
            nlink: r.nlink,
            size: if m.kind == Kind::Symlink { r.link.len() as u64 } else { m.size },
            stored: r.stored,
            mtime: m.mtime,
            ctime: m.ctime,
            rdev: m.rdev,
        }
    }

    /// What is known of an entry, and whether that is all.
    pub fn node(&self, ino: u64) -> Result<(Node, bool), Trouble> {
        if let Spot::In(tree, ROOT) = self.split(ino) {
            return self.root_of(tree);
        }
        match self.place(ino)? {
            Place::Made(i) => Ok((self.made_node(i)?, true)),
            Place::In(tree, table, at) => {
                let record = table.record(at).and_then(|r| table.holder(at, r));
                let (at, record) = record.map_err(|e| self.unreadable(tree, &table, at, &e))?;
                Ok((self.node_of(tree, at, &record), true))
            }
        }
    }

    /// The root of a tree, and whether that is all that is known of it.
    fn root_of(&self, number: usize) -> Result<(Node, bool), Trouble> {
        if self.trees.get(number).is_some_and(Tree::is_ready) {
            let table = self.trees.table(number)?;
            let root = table.record(ROOT).map_err(|e| self.unreadable(number, &table, ROOT, &e))?;
            return Ok((self.node_of(number, ROOT, &root), true));
        }
        Ok((self.trees.root(number, self.ino(number, ROOT))?.0, false))
    }

    fn of_ref(&self, r: Ref) -> Result<(Node, bool), Trouble> {
        match r {
            Ref::Made(i) => Ok((self.made_node(i)?, true)),
            Ref::Tree(t) => self.root_of(t),
        }
    }

    /// What a name leads to, and whether that is all that is known of it.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<(Node, bool), Trouble> {
        match self.place(parent)? {
            Place::Made(i) => match self.made.get(i).map(|m| &m.what) {
                Some(What::Dir(all)) => self.of_ref(*all.get(name).ok_or(Trouble::Missing)?),
                _ => Err(Trouble::NotDir),
            },
            Place::In(tree, table, at) => {
                let dir = table.record(at).map_err(|e| self.unreadable(tree, &table, at, &e))?;
                if dir.meta.kind != Kind::Dir {
                    return Err(Trouble::NotDir);
                }
                let found = table.child(&dir, name).map_err(|e| self.unreadable(tree, &table, at, &e))?;
                let (here, record) = found.ok_or(Trouble::Missing)?;
                let held = table.holder(here, record).map_err(|e| self.unreadable(tree, &table, here, &e))?;
                Ok((self.node_of(tree, held.0, &held.1), true))
            }
        }
    }

    /// What a directory holds, from its `from`th name on; `take` answers false when it takes no more.
    pub fn list(&self, ino: u64, from: u64, take: &mut dyn FnMut(u64, &Name) -> bool) -> Result<(), Trouble> {
        let (tree, table, at) = match self.place(ino)? {
            Place::In(tree, table, at) => (tree, table, at),
            Place::Made(i) => {
                let Some(What::Dir(all)) = self.made.get(i).map(|m| &m.what) else { return Err(Trouble::NotDir) };
                for (n, (name, r)) in all.iter().enumerate().skip(from as usize) {
                    if !take(n as u64, &self.made_name(name, *r)?) {
                        break;
                    }
                }
                return Ok(());
            }
        };
        let failed = |e: io::Error| self.unreadable(tree, &table, at, &e);
        let dir = table.record(at).map_err(failed)?;
        if dir.meta.kind != Kind::Dir {
            return Err(Trouble::NotDir);
        }
        let (mut looker, mut n) = (table.listing(), from);
        loop {
            // As many as a listing of usual names takes at once.
            let places = table.children(&dir, n, 512).map_err(failed)?;
            if places.is_empty() {
                return Ok(());
            }
            for place in places {
                let record = looker.record(place).map_err(failed)?;
                let name = record.name.clone();
                let own = self.node_of(tree, place, &record);
                let name = match table.holder(place, record) {
                    Ok((held, record)) => Name { name, node: self.node_of(tree, held, &record), sure: true },
                    Err(_) => Name { name, node: Node { kind: Kind::File, ..own }, sure: false },
                };
                if !take(n, &name) {
                    return Ok(());
                }
                n += 1;
            }
        }
    }

    fn made_name(&self, name: &[u8], r: Ref) -> Result<Name, Trouble> {
        let name = name.to_vec();
        let guess = |t| Ok(Node { ino: self.ino(t, ROOT), ..self.made_node(0)? });
        match r {
            // The whole file system is a directory: a look at the list of checkpoints reads no catalogs.
            Ref::Tree(t) if self.trees.get(t).is_some_and(|t| t.top.is_empty()) => {
                Ok(Name { name, node: guess(t)?, sure: false })
            }
            Ref::Tree(t) => match self.root_of(t) {
                Ok((node, sure)) => Ok(Name { name, node, sure }),
                // It is there, and as a rule it is a directory; who enters it is told what is wrong.
                Err(_) => Ok(Name { name, node: guess(t)?, sure: false }),
            },
            Ref::Made(i) => Ok(Name { name, node: self.made_node(i)?, sure: true }),
        }
    }

    /// Where a symbolic link leads.
    pub fn link(&self, ino: u64) -> Result<Vec<u8>, Trouble> {
        match self.place(ino)? {
            Place::Made(i) => match self.made.get(i).map(|m| &m.what) {
                Some(What::Link(to)) => Ok(to.clone()),
                _ => Err(Trouble::Missing),
            },
            Place::In(tree, table, at) => {
                let record = table.record(at).map_err(|e| self.unreadable(tree, &table, at, &e))?;
                Ok(record.link)
            }
        }
    }

    pub fn xattrs(&self, ino: u64) -> Result<Xattrs, Trouble> {
        if let Spot::In(tree, ROOT) = self.split(ino)
            && self.trees.get(tree).is_some_and(|t| !t.is_ready())
        {
            return Ok(self.trees.root(tree, ino)?.1.clone());
        }
        match self.place(ino)? {
            Place::Made(_) => Ok(Xattrs::new()),
            Place::In(tree, table, at) => {
                let found = table.record(at).and_then(|r| table.xattrs(&r));
                found.map_err(|e| self.unreadable(tree, &table, at, &e))
            }
        }
    }

    /// Bytes of a file, checked: fewer than asked for only at its end.
    pub fn read(&self, ino: u64, offset: u64, len: u64) -> Result<Vec<u8>, Trouble> {
        let Place::In(tree, table, at) = self.place(ino)? else { return Err(Trouble::Missing) };
        let read = table.record(at).and_then(|r| self.content.read(&table, &r, offset, len));
        read.map_err(|e| self.unreadable(tree, &table, at, &e))
    }

    /// Where the next data or the next hole begins, from `offset` on; `None` behind the end.
    pub fn seek(&self, ino: u64, offset: u64, data: bool) -> Result<Option<u64>, Trouble> {
        let Place::In(tree, table, at) = self.place(ino)? else { return Err(Trouble::Missing) };
        let failed = |e: io::Error| self.unreadable(tree, &table, at, &e);
        let file = table.record(at).map_err(failed)?;
        if offset >= file.meta.size {
            return Ok(None);
        }
        for s in table.stretches(&file, offset).map_err(failed)? {
            let s = s.map_err(failed)?;
            if matches!(s.extent, Extent::Data { .. }) == data {
                return Ok(Some(offset.max(s.start)));
            }
        }
        // The end of a file counts as a hole.
        Ok((!data).then_some(file.meta.size))
    }
}

/// Where an inode number leads, before its tree has an index.
enum Spot {
    Made(usize),
    In(usize, u64),
}
