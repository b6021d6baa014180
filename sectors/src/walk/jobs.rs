//! What the scanning threads do: listing directories and stat'ing names in batches.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, StatxFlags, statx};

use super::{Root, Stat, WalkOptions, data_of, kernel};
use crate::attrs::meta_from;
use crate::beneath::open_beneath;
use crate::entry::Kind;
use crate::fsx::{Call, gate};

/// Names in one batch.
const BATCH: usize = 1024;
/// Names looked at ahead of the consumer, at most (about 200 bytes each).
const AHEAD_MAX: usize = 64 << 10;

/// Looked-at names of a directory.
pub(super) struct Batch(pub Vec<(Vec<u8>, Stat)>);

enum BatchState {
    Todo,
    Busy,
    Done(Vec<(Vec<u8>, Stat)>),
    Taken,
}

enum ListState {
    Todo,
    Busy,
    Done,
    Failed(Option<io::Error>),
}

struct Inner {
    list: ListState,
    /// All names, one after another, and where each begins and ends, sorted by name.
    arena: Vec<u8>,
    names: Vec<(u32, u32)>,
    batches: Vec<BatchState>,
}

/// A directory to be listed and looked at.
pub(crate) struct DirJob {
    path: Vec<u8>,
    inner: Mutex<Inner>,
    changed: Condvar,
    cache: AtomicBool,
}

impl DirJob {
    pub fn new(path: Vec<u8>) -> Arc<Self> {
        let inner = Inner { list: ListState::Todo, arena: Vec::new(), names: Vec::new(), batches: Vec::new() };
        Arc::new(Self { path, inner: Mutex::new(inner), changed: Condvar::new(), cache: AtomicBool::new(false) })
    }

    /// True if it is marked as a cache, and so holds only its mark.
    pub fn is_cache(&self) -> bool {
        self.cache.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        self.changed.wait(guard).unwrap_or_else(|e| e.into_inner())
    }
}

enum Job {
    List(Arc<DirJob>),
    Stat(Arc<DirJob>, usize),
}

/// The jobs, the newest first, and the threads' common knowledge.
pub(super) struct Pool {
    root: Arc<Root>,
    options: WalkOptions,
    kernel: kernel::Known,
    jobs: Mutex<VecDeque<Job>>,
    more: Condvar,
    ahead: AtomicUsize,
    stopped: AtomicBool,
}

impl Pool {
    pub fn new(root: Arc<Root>, options: WalkOptions) -> Self {
        Self {
            root,
            options,
            kernel: kernel::Known::default(),
            jobs: Mutex::default(),
            more: Condvar::new(),
            ahead: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    pub fn stop(&self) {
        let guard = self.jobs.lock().unwrap_or_else(|e| e.into_inner());
        self.stopped.store(true, Ordering::SeqCst);
        drop(guard);
        self.more.notify_all();
    }

    /// A scanning thread's life.
    pub fn work(&self) {
        loop {
            let mut jobs = self.jobs.lock().unwrap_or_else(|e| e.into_inner());
            let job = loop {
                if self.stopped.load(Ordering::SeqCst) {
                    return;
                }
                if self.ahead.load(Ordering::SeqCst) < AHEAD_MAX
                    && let Some(job) = jobs.pop_front()
                {
                    break job;
                }
                jobs = self.more.wait(jobs).unwrap_or_else(|e| e.into_inner());
            };
            drop(jobs);
            match job {
                Job::List(dir) => self.list_and_begin(&dir),
                Job::Stat(dir, i) => {
                    self.stat(&dir, i, None, false);
                }
            }
        }
    }

    fn push(&self, new: Vec<Job>) {
        if new.is_empty() || self.options.threads == 0 {
            return;
        }
        let mut jobs = self.jobs.lock().unwrap_or_else(|e| e.into_inner());
        for job in new.into_iter().rev() {
            jobs.push_front(job);
        }
        drop(jobs);
        self.more.notify_all();
    }

    fn list_and_begin(&self, dir: &Arc<DirJob>) {
        if let Some(fd) = self.list_if_todo(dir)
            && !dir.lock().batches.is_empty()
        {
            self.stat(dir, 0, Some(fd), false);
        }
    }

    /// Lists a directory, or waits for the thread that does.
    pub fn list(&self, dir: &Arc<DirJob>) -> io::Result<()> {
        self.list_if_todo(dir);
        let mut inner = dir.lock();
        loop {
            match &mut inner.list {
                ListState::Done => return Ok(()),
                ListState::Failed(e) => {
                    return Err(e.take().unwrap_or_else(|| io::Error::other("it could not be listed before")));
                }
                ListState::Todo | ListState::Busy => inner = dir.wait(inner),
            }
        }
    }

    /// Lists a directory if nobody has begun to. Answers the open directory if it was listed now.
    fn list_if_todo(&self, dir: &Arc<DirJob>) -> Option<OwnedFd> {
        let mut inner = dir.lock();
        if !matches!(inner.list, ListState::Todo) {
            return None;
        }
        inner.list = ListState::Busy;
        drop(inner);
        let listed = self.read_names(&dir.path);
        let mut inner = dir.lock();
        let fd = match listed {
            Ok((fd, arena, names, cache)) => {
                dir.cache.store(cache, Ordering::SeqCst);
                inner.batches = (0..names.len().div_ceil(BATCH)).map(|_| BatchState::Todo).collect();
                inner.arena = arena;
                inner.names = names;
                inner.list = ListState::Done;
                Some(fd)
            }
            Err(e) => {
                inner.list = ListState::Failed(Some(e));
                None
            }
        };
        drop(inner);
        dir.changed.notify_all();
        fd
    }

    fn open(&self, path: &[u8]) -> io::Result<OwnedFd> {
        gate(Call::Open)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        open_beneath(self.root.fd.as_fd(), path, flags, Mode::empty())
    }

    #[allow(clippy::type_complexity)] // A private tuple, taken apart at once.
    fn read_names(&self, path: &[u8]) -> io::Result<(OwnedFd, Vec<u8>, Vec<(u32, u32)>, bool)> {
        let fd = self.open(path)?;
        gate(Call::List)?;
        let (mut arena, mut names) = (Vec::new(), Vec::new());
        let mut buf = Vec::with_capacity(64 << 10);
        let mut raw = RawDir::new(&fd, buf.spare_capacity_mut());
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let start = arena.len();
            arena.extend_from_slice(name);
            let at = |n: usize| u32::try_from(n).map_err(|_| io::Error::other("it holds more than 4 GiB of names"));
            names.push((at(start)?, at(arena.len())?));
        }
        let name = |n: &(u32, u32)| &arena[n.0 as usize..n.1 as usize];
        names.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        let mut cache = false;
        if self.options.skip_caches && names.binary_search_by(|n| name(n).cmp(b"CACHEDIR.TAG")).is_ok() && has_tag(&fd)
        {
            names.retain(|n| name(n) == b"CACHEDIR.TAG");
            cache = true;
        }
        Ok((fd, arena, names, cache))
    }

    /// Batch `i` of a listed directory, looked at; `None` past the last.
    pub fn batch(&self, dir: &Arc<DirJob>, i: usize) -> Option<Batch> {
        let total = dir.lock().batches.len();
        if i >= total {
            return None;
        }
        self.push((i + 1..(i + 3).min(total)).map(|k| Job::Stat(dir.clone(), k)).collect());
        if let Some(done) = self.stat(dir, i, None, true) {
            return Some(Batch(done));
        }
        let mut inner = dir.lock();
        loop {
            match std::mem::replace(&mut inner.batches[i], BatchState::Taken) {
                BatchState::Done(names) => {
                    drop(inner);
                    self.ahead.fetch_sub(names.len(), Ordering::SeqCst);
                    self.more.notify_all();
                    return Some(Batch(names));
                }
                other => inner.batches[i] = other,
            }
            inner = dir.wait(inner);
        }
    }

    /// Looks at a batch if nobody has begun to. With `take`, the result is the caller's; else it waits in the directory.
    fn stat(&self, dir: &Arc<DirJob>, i: usize, fd: Option<OwnedFd>, take: bool) -> Option<Vec<(Vec<u8>, Stat)>> {
        let mut inner = dir.lock();
        if !matches!(inner.batches.get(i), Some(BatchState::Todo)) {
            return None;
        }
        inner.batches[i] = BatchState::Busy;
        let names: Vec<Vec<u8>> = inner
            .names
            .iter()
            .skip(i * BATCH)
            .take(BATCH)
            .map(|n| inner.arena[n.0 as usize..n.1 as usize].to_vec())
            .collect();
        drop(inner);
        let fd = fd.map_or_else(|| self.open(&dir.path), Ok);
        let mut children = Vec::new();
        let result: Vec<_> = names
            .into_iter()
            .map(|name| {
                let stat = match &fd {
                    Ok(fd) => self.one(fd, &dir.path, &name, &mut children),
                    Err(e) => Stat::Failed(io::Error::new(e.kind(), e.to_string())),
                };
                (name, stat)
            })
            .collect();
        self.push(children);
        if take {
            dir.lock().batches[i] = BatchState::Taken;
            return Some(result);
        }
        self.ahead.fetch_add(result.len(), Ordering::SeqCst);
        dir.lock().batches[i] = BatchState::Done(result);
        dir.changed.notify_all();
        None
    }

    fn one(&self, fd: &OwnedFd, top: &[u8], name: &[u8], children: &mut Vec<Job>) -> Stat {
        let looked =
            gate(Call::Stat).and_then(|()| Ok(statx(fd, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?));
        let s = match looked {
            Ok(s) => s,
            Err(e) => return Stat::Failed(e),
        };
        let Some(meta) = meta_from(&s) else { return Stat::Socket };
        let dev = rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor);
        let mut child = None;
        if meta.kind == Kind::Dir {
            let path = if top.is_empty() { name.to_vec() } else { [top, b"/", name].concat() };
            let ahead = (!self.options.one_file_system || dev == self.root.dev)
                && self.options.excludes.as_ref().is_none_or(|x| !x(&path, true));
            // What is left out anyway is not touched: it may be a mount that hangs.
            if ahead && dev != self.root.dev && self.kernel.is_made_up(dev, fd, name) {
                return Stat::Kernel { meta, dev };
            }
            let job = DirJob::new(path);
            if ahead {
                children.push(Job::List(job.clone()));
            }
            child = Some(job);
        }
        Stat::Known { meta, dev, child, data: data_of(&s, &meta) }
    }
}

/// Whether the directory's `CACHEDIR.TAG` begins as the convention says.
fn has_tag(dir: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::openat(dir, c"CACHEDIR.TAG", flags, Mode::empty()) else { return false };
    let mut head = [0u8; 64];
    let n = crate::fsx::read_full_at(&std::fs::File::from(fd), &mut head, 0).unwrap_or(0);
    crate::glob::is_cachedir_tag(&head[..n])
}
