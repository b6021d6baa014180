//! What the kernel asks of a mount, and the answers. Names and attributes are answered by the thread that hears the question,
//! unless a catalog has to be read first; that, and all content, is left to other threads, so that a slow target holds up
//! nobody else.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use zoneward_actors::mount::{Name, Node, Trouble, View};
use zoneward_sectors::entry::{Kind, Stamp};

/// How long the kernel may keep what it was told: nothing of it ever changes.
const FOR_LONG: Duration = Duration::from_secs(24 * 3600);
/// Threads that read content, and as many that read catalogs.
const THREADS: usize = 8;
/// How long the same trouble is told once.
const TOLD_ONCE: Duration = Duration::from_secs(60);
/// Troubles that are remembered as told.
const TOLD_MAX: usize = 1000;
/// What `statfs` calls a block.
const BLOCK: u64 = 4096;

/// Work for another thread.
type Job = Box<dyn FnOnce() + Send>;

/// Threads that take jobs in order. They end when the pool is dropped and its jobs are done.
struct Pool(Mutex<Sender<Job>>);

impl Pool {
    fn new(name: &str) -> io::Result<Self> {
        let (sender, jobs) = channel::<Job>();
        let jobs: Arc<Mutex<Receiver<Job>>> = Arc::new(Mutex::new(jobs));
        for i in 0..THREADS {
            let jobs = jobs.clone();
            let work = move || {
                loop {
                    let job = jobs.lock().unwrap_or_else(|e| e.into_inner()).recv();
                    match job {
                        Ok(job) => job(),
                        Err(_) => return,
                    }
                }
            };
            std::thread::Builder::new().name(format!("{name}-{i}")).spawn(work)?;
        }
        Ok(Self(Mutex::new(sender)))
    }

    /// The kernel bounds what it asks at a time, so what waits is bounded too.
    fn run(&self, job: Job) {
        // Jobs are only refused when all threads are gone; a reply that is dropped answers EIO.
        let _ = self.0.lock().unwrap_or_else(|e| e.into_inner()).send(job);
    }
}

/// Says on standard error what programs only hear as an error number, and each thing once a minute.
#[derive(Default)]
pub struct Teller(Mutex<HashMap<String, Instant>>);

impl Teller {
    pub fn tell(&self, text: &str) {
        let mut told = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if told.get(text).is_some_and(|t| t.elapsed() < TOLD_ONCE) {
            return;
        }
        if told.len() >= TOLD_MAX {
            told.clear();
        }
        told.insert(text.to_owned(), Instant::now());
        drop(told);
        crate::output::tell(&format!("error: {}", crate::output::one_line(text)));
    }
}

/// A mounted view.
pub struct Fs {
    view: Arc<View>,
    teller: Arc<Teller>,
    names: Pool,
    content: Pool,
    /// Bytes that the newest checkpoint holds.
    bytes: u64,
    /// Others than the one who mounts may look: the kernel then checks modes and ACLs.
    others: bool,
}

impl Fs {
    pub fn new(view: Arc<View>, teller: Arc<Teller>, bytes: u64, others: bool) -> io::Result<Self> {
        Ok(Self { view, teller, names: Pool::new("names")?, content: Pool::new("content")?, bytes, others })
    }

    /// Does what may have to wait for a catalog: here if it need not.
    fn names(&self, ino: INodeNo, name: Option<&OsStr>, job: impl FnOnce(&View, &Teller) + Send + 'static) {
        if self.view.is_quick(ino.0, name.map(OsStr::as_bytes)) {
            return job(&self.view, &self.teller);
        }
        let (view, teller) = (self.view.clone(), self.teller.clone());
        self.names.run(Box::new(move || job(&view, &teller)));
    }
}

fn errno(t: &Trouble, teller: &Teller) -> Errno {
    match t {
        Trouble::Missing => Errno::ENOENT,
        Trouble::NotDir => Errno::ENOTDIR,
        Trouble::Unreadable(why) => {
            teller.tell(why);
            Errno::EIO
        }
    }
}

fn moment(s: Stamp) -> SystemTime {
    let far = Duration::from_secs(s.secs.unsigned_abs());
    let whole = if s.secs < 0 { UNIX_EPOCH.checked_sub(far) } else { UNIX_EPOCH.checked_add(far) };
    whole.and_then(|t| t.checked_add(Duration::from_nanos(u64::from(s.nanos)))).unwrap_or(UNIX_EPOCH)
}

fn kind(k: Kind) -> FileType {
    match k {
        Kind::File | Kind::HardLink => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

fn attr(n: &Node) -> FileAttr {
    let (major, minor) = n.rdev;
    FileAttr {
        ino: INodeNo(n.ino),
        size: n.size,
        blocks: n.stored.div_ceil(512),
        // When it was last read is not stored.
        atime: moment(n.mtime),
        mtime: moment(n.mtime),
        ctime: moment(n.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(n.kind),
        perm: (n.mode & 0o7777) as u16,
        nlink: n.nlink,
        uid: n.uid,
        gid: n.gid,
        // As the kernel packs device numbers into 32 bits.
        rdev: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
        blksize: BLOCK as u32,
        flags: 0,
    }
}

/// How long the kernel keeps what it is told: what is not all that is known, or could not be read, is asked for again.
fn keep(sure: bool) -> Duration {
    if sure { FOR_LONG } else { Duration::ZERO }
}

/// Names before the first that a directory holds: `.` and `..`.
const DOTS: u64 = 2;

/// Lists a directory: `put` answers true when it takes no more, as the kernel's buffers do.
fn list(view: &View, ino: u64, offset: u64, put: &mut dyn FnMut(u64, &Name) -> bool) -> Result<(), Trouble> {
    let (here, _) = view.node(ino)?;
    for (i, dot) in [&b"."[..], b".."].into_iter().enumerate().skip(offset as usize) {
        if put(i as u64 + 1, &Name { name: dot.to_vec(), node: here, sure: false }) {
            return Ok(());
        }
    }
    view.list(ino, offset.saturating_sub(DOTS), &mut |n, name| !put(n + DOTS + 1, name))
}

/// An answer of unknown length to someone who brings room for `size` bytes, or asks for the length with 0.
fn sized(reply: ReplyXattr, size: u32, data: &[u8]) {
    match size {
        0 => reply.size(data.len() as u32),
        n if data.len() <= n as usize => reply.data(data),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Fs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ];
        for flag in wanted {
            // An older kernel asks more often; the answers are the same.
            let _ = config.add_capabilities(flag);
        }
        if self.others && config.add_capabilities(InitFlags::FUSE_POSIX_ACL).is_err() {
            return Err(io::Error::other("this kernel does not check ACLs, so others may not be let in"));
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let owned = name.as_bytes().to_vec();
        self.names(parent, Some(name), move |view, teller| match view.lookup(parent.0, &owned) {
            Ok((node, sure)) => reply.entry(&keep(sure), &attr(&node), Generation(0)),
            Err(e) => reply.error(errno(&e, teller)),
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.names(ino, None, move |view, teller| match view.node(ino.0) {
            Ok((node, sure)) => reply.attr(&keep(sure), &attr(&node)),
            Err(e) => reply.error(errno(&e, teller)),
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.names(ino, None, move |view, teller| match view.link(ino.0) {
            Ok(to) => reply.data(&to),
            Err(e) => reply.error(errno(&e, teller)),
        });
    }

    fn open(&self, _req: &Request, _ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match flags.acc_mode() {
            OpenAccMode::O_RDONLY => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            _ => reply.error(Errno::EROFS),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (view, teller) = (self.view.clone(), self.teller.clone());
        self.content.run(Box::new(move || match view.read(ino.0, offset, u64::from(size)) {
            Ok(data) => reply.data(&data),
            Err(e) => reply.error(errno(&e, &teller)),
        }));
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        // From linux/fs.h; the kernel answers all other kinds itself.
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        let (Ok(offset), SEEK_DATA | SEEK_HOLE) = (u64::try_from(offset), whence) else {
            return reply.error(Errno::EINVAL);
        };
        self.names(ino, None, move |view, teller| match view.seek(ino.0, offset, whence == SEEK_DATA) {
            Ok(Some(at)) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(e) => reply.error(errno(&e, teller)),
        });
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.names(ino, None, move |view, teller| {
            let mut put = |next: u64, n: &Name| {
                reply.add(INodeNo(n.node.ino), next, kind(n.node.kind), OsStr::from_bytes(&n.name))
            };
            match list(view, ino.0, offset, &mut put) {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(&e, teller)),
            }
        });
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.names(ino, None, move |view, teller| {
            let mut put = |next: u64, n: &Name| {
                let name = OsStr::from_bytes(&n.name);
                reply.add(INodeNo(n.node.ino), next, name, &keep(n.sure), &attr(&n.node), Generation(0))
            };
            match list(view, ino.0, offset, &mut put) {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(&e, teller)),
            }
        });
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(self.bytes.div_ceil(BLOCK), 0, 0, 0, 0, BLOCK as u32, 255, BLOCK as u32);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        self.names(ino, None, move |view, teller| match view.xattrs(ino.0) {
            Ok(all) => match all.iter().find(|(n, _)| *n == name) {
                Some((_, value)) => sized(reply, size, value),
                None => reply.error(Errno::NO_XATTR),
            },
            Err(e) => reply.error(errno(&e, teller)),
        });
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.names(ino, None, move |view, teller| match view.xattrs(ino.0) {
            Ok(all) => {
                let names: Vec<u8> = all.into_iter().flat_map(|(n, _)| n.into_iter().chain([0])).collect();
                sized(reply, size, &names);
            }
            Err(e) => reply.error(errno(&e, teller)),
        });
    }

    fn access(&self, _req: &Request, _ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if mask.contains(AccessFlags::W_OK) { reply.error(Errno::EROFS) } else { reply.ok() }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    // The kernel refuses all that follows by itself, as the mount is read-only, unless somebody mounts it again.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _target: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _req: &Request, _ino: INodeNo, _newparent: INodeNo, _newname: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}
