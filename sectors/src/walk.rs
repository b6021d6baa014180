//! The scan of a source: parallel, in path order, in bounded memory, following no link.
//!
//! Threads list directories and stat their names in batches, ahead of the consumer; the consumer takes results in order
//! and does itself what is not started yet, so it never waits for a thread that waits for it.

mod jobs;
mod kernel;
mod seen;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::entry::{Kind, Meta};
use crate::limits::PATH_LEN_MAX;

use jobs::{Batch, DirJob, Pool};
pub use kernel::OWN_MOUNTS;
pub use seen::{Fallback, Seen};

/// Which entries are left out: path inside the source, and whether it is a directory.
pub type Filter = Arc<dyn Fn(&[u8], bool) -> bool + Send + Sync>;

/// How to scan.
#[derive(Clone)]
pub struct WalkOptions {
    /// Threads besides the consumer's own.
    pub threads: usize,
    pub one_file_system: bool,
    pub excludes: Option<Filter>,
    /// Directories marked by `CACHEDIR.TAG` keep only that file.
    pub skip_caches: bool,
}

impl std::fmt::Debug for WalkOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalkOptions").field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// Why something was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Excluded,
    Socket,
    OtherFileSystem,
    /// The kernel makes it up: `/proc`, `/sys` and the like.
    Kernel,
    Cache,
}

/// What the scan finds, in path order.
#[derive(Debug)]
pub enum Found {
    Entry(Seen),
    /// It, or what lies below it, could not be looked at.
    Problem {
        path: Vec<u8>,
        what: &'static str,
        error: io::Error,
        vanished: bool,
    },
    Skipped {
        path: Vec<u8>,
        why: Why,
    },
}

/// Why a scan cannot begin.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}")]
pub struct WalkError {
    pub what: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// The root of a scan.
pub(crate) struct Root {
    /// The root itself, or for a single file the directory it lies in.
    pub fd: OwnedFd,
    /// A single file's name.
    pub file: Option<Vec<u8>>,
    pub dev: u64,
    pub id: u64,
}

/// A directory that is being gone through.
struct Level {
    dir: Arc<DirJob>,
    next_batch: usize,
    batch: std::vec::IntoIter<(Vec<u8>, Stat)>,
    path: Vec<u8>,
    id: (u64, u64),
}

/// Bytes of content that are probably there: a file of which less than a quarter is allocated is mostly holes. Less of a
/// difference may come from a file system that compresses.
pub(crate) fn data_of(s: &rustix::fs::Statx, meta: &Meta) -> u64 {
    let allocated = s.stx_blocks.saturating_mul(512);
    if allocated < meta.size / 4 { allocated } else { meta.size }
}

/// What became of one name.
pub(crate) enum Stat {
    Known {
        meta: Meta,
        dev: u64,
        child: Option<Arc<DirJob>>,
        data: u64,
    },
    /// A directory where the kernel's own file system begins.
    Kernel {
        meta: Meta,
        dev: u64,
    },
    Socket,
    Failed(io::Error),
}

/// A running scan.
pub struct Walk {
    root: Arc<Root>,
    options: WalkOptions,
    pool: Arc<Pool>,
    threads: Vec<JoinHandle<()>>,
    levels: Vec<Level>,
    first: Option<(Meta, u64, u64)>,
    /// Said right after the entry it belongs to.
    pending: Option<Found>,
}

impl std::fmt::Debug for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Walk(depth {})", self.levels.len())
    }
}

impl Walk {
    /// Begins to scan a directory, or a single file.
    pub fn start(root: &Path, options: WalkOptions) -> Result<Self, WalkError> {
        let fail = |what| {
            let path = root.to_owned();
            move |source| WalkError { what, path, source }
        };
        let (root_handle, meta, data) = seen::open_root(root).map_err(fail("open"))?;
        let dev = root_handle.dev;
        let root_handle = Arc::new(root_handle);
        let pool = Arc::new(Pool::new(root_handle.clone(), options.clone()));
        let mut threads = Vec::new();
        if meta.kind == Kind::Dir {
            for i in 0..options.threads {
                let pool = pool.clone();
                let t = std::thread::Builder::new().name(format!("scan-{i}"));
                threads.push(t.spawn(move || pool.work()).map_err(fail("start a thread for"))?);
            }
        }
        let first = Some((meta, dev, data));
        Ok(Self { root: root_handle, options, pool, threads, levels: Vec::new(), first, pending: None })
    }

    fn seen(&self, path: Vec<u8>, meta: Meta, dev: u64, data: u64) -> Found {
        Found::Entry(Seen::new(&self.root, path, meta, dev, data))
    }

    /// Goes down into a directory, unless there is a reason not to.
    fn descend(&mut self, path: &[u8], meta: &Meta, dev: u64, child: Arc<DirJob>) {
        if self.options.one_file_system && dev != self.root.dev {
            self.pending = Some(Found::Skipped { path: path.to_vec(), why: Why::OtherFileSystem });
            return;
        }
        let id = (dev, meta.ino);
        let problem = |what, text: &str| {
            Some(Found::Problem {
                path: path.to_vec(),
                what,
                error: io::Error::other(text.to_owned()),
                vanished: false,
            })
        };
        if self.levels.iter().any(|l| l.id == id) {
            self.pending = problem("enter", "it contains itself: a directory loop");
            return;
        }
        if path.len() + 256 > PATH_LEN_MAX {
            self.pending = problem("enter", "its path is too long");
            return;
        }
        if let Err(error) = self.pool.list(&child) {
            let vanished = error.kind() == io::ErrorKind::NotFound;
            self.pending = Some(Found::Problem { path: path.to_vec(), what: "list", error, vanished });
            return;
        }
        if child.is_cache() {
            self.pending = Some(Found::Skipped { path: path.to_vec(), why: Why::Cache });
        }
        self.levels.push(Level { dir: child, next_batch: 0, batch: Vec::new().into_iter(), path: path.to_vec(), id });
    }

    fn begin(&mut self) -> Option<Found> {
        let (meta, dev, data) = self.first.take()?;
        if meta.kind == Kind::Dir {
            let job = DirJob::new(Vec::new());
            self.descend(b"", &meta, dev, job);
        }
        Some(self.seen(Vec::new(), meta, dev, data))
    }

    /// The next name of the innermost directory; `None` if that is done.
    fn next_name(&mut self) -> Option<(Vec<u8>, Stat)> {
        let level = self.levels.last_mut()?;
        loop {
            if let Some(x) = level.batch.next() {
                return Some(x);
            }
            let Batch(names) = self.pool.batch(&level.dir, level.next_batch)?;
            level.next_batch += 1;
            level.batch = names.into_iter();
        }
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Some(f) = self.pending.take() {
            return Some(f);
        }
        if self.first.is_some() {
            return self.begin();
        }
        loop {
            let Some((name, stat)) = self.next_name() else {
                self.levels.pop()?;
                continue;
            };
            let top = &self.levels.last()?.path;
            let path = if top.is_empty() { name } else { [top, &b"/"[..], &name].concat() };
            match stat {
                Stat::Failed(error) => {
                    let vanished = error.kind() == io::ErrorKind::NotFound;
                    return Some(Found::Problem { path, what: "look at", error, vanished });
                }
                stat => {
                    let kernel = matches!(stat, Stat::Kernel { .. });
                    let (is_dir, meta, dev, child, data) = match stat {
                        Stat::Known { meta, dev, child, data } => {
                            (meta.kind == Kind::Dir, Some(meta), dev, child, data)
                        }
                        Stat::Kernel { meta, dev } => (true, Some(meta), dev, None, 0),
                        _ => (false, None, 0, None, 0),
                    };
                    if self.options.excludes.as_ref().is_some_and(|x| x(&path, is_dir)) {
                        return Some(Found::Skipped { path, why: Why::Excluded });
                    }
                    let Some(meta) = meta else {
                        return Some(Found::Skipped { path, why: Why::Socket });
                    };
                    if let Some(child) = child {
                        self.descend(&path, &meta, dev, child);
                    } else if kernel {
                        self.pending = Some(Found::Skipped { path: path.clone(), why: Why::Kernel });
                    }
                    return Some(self.seen(path, meta, dev, data));
                }
            }
        }
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.pool.stop();
        for t in self.threads.drain(..) {
            // A scanning thread that panicked left its jobs to the consumer.
            let _ = t.join();
        }
    }
}

#[cfg(test)]
mod tests;
