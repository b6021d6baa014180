//! What changed: the scan of a source against its catalog, path by path, in one pass over both.

use std::collections::{BTreeSet, HashMap};
use std::iter::Peekable;
use std::sync::Arc;

use crate::catalog::CatalogError;
use crate::entry::{Entry, Extent, Kind, Meta, path_cmp};
use crate::walk::{Found, Seen, Why};

/// One difference, in path order.
#[derive(Debug)]
pub enum Change {
    /// A new or changed entry.
    Put(Seen),
    /// A further name of a file whose content is held by the entry `holder`.
    Link { seen: Seen, holder: Vec<u8> },
    /// Unchanged, but the catalog is to be whole.
    Keep(Entry),
    /// A path of the base that is no longer there.
    Gone(Vec<u8>),
}

/// What was counted on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub files: u64,
    pub dirs: u64,
    /// Links, devices and fifos.
    pub others: u64,
    /// Bytes of all files, hard-linked content once.
    pub bytes: u64,
    pub new: u64,
    pub changed: u64,
    /// Files that seem not to have changed and are put again: what was stored of them is gone, or they were stored so soon
    /// after a change that another one may hide.
    pub again: u64,
    pub gone: u64,
    /// Bytes of new and changed files: what has to be read.
    pub changed_bytes: u64,
    /// Of these, bytes that are probably no holes: what has to be stored at most.
    pub changed_data: u64,
    pub sockets: u64,
    pub excluded: u64,
    pub other_file_systems: u64,
    pub kernel: u64,
    pub caches: u64,
    /// Paths that could not be read, and so keep what the base says of them.
    pub unread: u64,
    pub vanished: u64,
}

/// A path that could not be read, for the report.
#[derive(Debug)]
pub struct Trouble {
    pub path: Vec<u8>,
    pub what: &'static str,
    pub error: std::io::Error,
    pub vanished: bool,
}

/// Compares a scan with a base; both in path order.
pub struct Differ<W: Iterator<Item = Found>, B: Iterator<Item = Result<Entry, CatalogError>>> {
    walk: Peekable<W>,
    base: Peekable<B>,
    /// First name of each file that has several: (device, inode) to path.
    holders: HashMap<(u64, u64), Vec<u8>>,
    /// Below this path nothing is gone: it could not be looked at.
    unseen: Option<Vec<u8>>,
    /// Everything counts as changed.
    all: bool,
    /// What did not change is named too, so that the catalog needs no base.
    whole: bool,
    /// Numbers of sectors that nothing is left of: what lies there counts as changed.
    gone: Arc<BTreeSet<u32>>,
    pub counts: Counts,
    pub troubles: Vec<Trouble>,
}

impl<W: Iterator<Item = Found>, B: Iterator<Item = Result<Entry, CatalogError>>> std::fmt::Debug for Differ<W, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Differ({:?})", self.counts)
    }
}

/// Troubles kept for the report; all are counted.
const TROUBLES_MAX: usize = 1000;

fn is_below(path: &[u8], top: &[u8]) -> bool {
    top.is_empty() || path == top || (path.starts_with(top) && path.get(top.len()) == Some(&b'/'))
}

/// Whether an entry needs no new look: same kind, size, times and inode.
fn unchanged(now: &Meta, then: &Meta, kind: Kind) -> bool {
    now.ctime == then.ctime
        && now.mtime == then.mtime
        && now.ino == then.ino
        && kind == then.kind
        && (now.size == then.size || kind == Kind::Dir)
        && (now.mode, now.uid, now.gid) == (then.mode, then.uid, then.gid)
        && (now.nlink == then.nlink || kind == Kind::Dir)
}

impl<W: Iterator<Item = Found>, B: Iterator<Item = Result<Entry, CatalogError>>> Differ<W, B> {
    /// With `all`, every entry is put again, as for a full backup; with `whole`, unchanged ones are named too.
    pub fn new(walk: W, base: B, all: bool, whole: bool) -> Self {
        Self {
            walk: walk.peekable(),
            base: base.peekable(),
            holders: HashMap::new(),
            unseen: None,
            all,
            whole,
            gone: Arc::default(),
            counts: Counts::default(),
            troubles: Vec::new(),
        }
    }

    /// Files of the base that lie in these sectors, by number, are put again.
    pub fn without(mut self, gone: Arc<BTreeSet<u32>>) -> Self {
        self.gone = gone;
        self
    }

    fn is_gone(&self, base: &Entry) -> bool {
        let gone = |x: &Extent| matches!(x, Extent::Data { sector, .. } if self.gone.contains(sector));
        !self.gone.is_empty() && base.extents.iter().any(gone)
    }

    fn trouble(&mut self, t: Trouble) {
        if t.vanished {
            self.counts.vanished += 1;
        } else {
            self.counts.unread += 1;
            self.unseen = Some(t.path.clone());
        }
        if self.troubles.len() < TROUBLES_MAX {
            self.troubles.push(t);
        }
    }

    fn count(&mut self, m: &Meta, linked: bool) {
        match m.kind {
            Kind::Dir => self.counts.dirs += 1,
            Kind::File | Kind::HardLink => {
                self.counts.files += 1;
                if !linked {
                    self.counts.bytes += m.size;
                }
            }
            _ => self.counts.others += 1,
        }
    }

    /// Compares what the scan saw with what the base says of the same path.
    fn judge(&mut self, mut seen: Seen, base: Option<Entry>) -> Option<Change> {
        let mut holder = None;
        if seen.meta.kind != Kind::Dir && seen.meta.nlink > 1 {
            match self.holders.get(&seen.file_key()) {
                Some(h) => holder = Some(h.clone()),
                None => {
                    self.holders.insert(seen.file_key(), seen.path.clone());
                }
            }
        }
        self.count(&seen.meta, holder.is_some());
        let kind = if holder.is_some() { Kind::HardLink } else { seen.meta.kind };
        seen.had_base = base.is_some();
        let mut again = false;
        if let Some(b) = base {
            // Without an inode it is to be looked at again: it was stored within a tick of the clock of its last change.
            let racy = b.meta.ino == 0;
            let then = if racy { Meta { ino: seen.meta.ino, ..b.meta } } else { b.meta };
            let named = holder.as_deref().is_none_or(|h| h == b.link);
            let same = !self.all && named && unchanged(&seen.meta, &then, kind);
            again = same && (racy || self.is_gone(&b));
            if same && !again {
                return self.whole.then_some(Change::Keep(b));
            }
            seen.line = self.whole.then(|| Arc::new(b));
        }
        // The file itself is as it was, as far as its metadata tell.
        match (again, seen.had_base) {
            (true, _) => self.counts.again += 1,
            (false, true) => self.counts.changed += 1,
            (false, false) => self.counts.new += 1,
        }
        match holder {
            Some(holder) => Some(Change::Link { seen, holder }),
            None => {
                if kind == Kind::File {
                    self.counts.changed_bytes += seen.meta.size;
                    self.counts.changed_data += seen.data;
                }
                Some(Change::Put(seen))
            }
        }
    }

    fn base_only(&mut self, e: Entry) -> Option<Change> {
        if self.unseen.as_ref().is_some_and(|top| is_below(&e.path, top)) {
            return self.whole.then_some(Change::Keep(e));
        }
        self.counts.gone += 1;
        (!self.whole).then_some(Change::Gone(e.path))
    }

    fn step(&mut self) -> Result<Option<Option<Change>>, CatalogError> {
        match self.walk.peek() {
            Some(Found::Entry(seen)) => match self.base.peek() {
                Some(Ok(b)) => match path_cmp(&b.path, &seen.path) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => {
                        let base = self.base.next().transpose()?;
                        return Ok(Some(self.next_seen().and_then(|s| self.judge(s, base))));
                    }
                    std::cmp::Ordering::Greater => {
                        return Ok(Some(self.next_seen().and_then(|s| self.judge(s, None))));
                    }
                },
                Some(Err(_)) => {}
                None => return Ok(Some(self.next_seen().and_then(|s| self.judge(s, None)))),
            },
            // What the base holds before this path is judged first: the problem must not shield it.
            Some(Found::Problem { path, .. }) if !matches!(self.base.peek(), Some(Ok(b)) if path_cmp(&b.path, path).is_lt()) =>
            {
                if let Some(Found::Problem { path, what, error, vanished }) = self.walk.next() {
                    self.trouble(Trouble { path, what, error, vanished });
                }
                return Ok(Some(None));
            }
            Some(Found::Skipped { .. }) => {
                if let Some(Found::Skipped { why, .. }) = self.walk.next() {
                    match why {
                        Why::Excluded => self.counts.excluded += 1,
                        Why::Socket => self.counts.sockets += 1,
                        Why::OtherFileSystem => self.counts.other_file_systems += 1,
                        Why::Kernel => self.counts.kernel += 1,
                        Why::Cache => self.counts.caches += 1,
                    }
                }
                return Ok(Some(None));
            }
            None if self.base.peek().is_none() => return Ok(None),
            Some(Found::Problem { .. }) | None => {}
        }
        match self.base.next().transpose()? {
            Some(e) => Ok(Some(self.base_only(e))),
            None => Ok(Some(None)),
        }
    }

    fn next_seen(&mut self) -> Option<Seen> {
        match self.walk.next() {
            Some(Found::Entry(s)) => Some(s),
            _ => None,
        }
    }
}

impl<W: Iterator<Item = Found>, B: Iterator<Item = Result<Entry, CatalogError>>> Iterator for Differ<W, B> {
    type Item = Result<Change, CatalogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step() {
                Ok(None) => return None,
                Ok(Some(Some(change))) => return Some(Ok(change)),
                Ok(Some(None)) => {}
                Err(e) => return Some(Err(e)),
            }
        }
    }
}
