//! Every file call of the data plane goes through here, so that tests can fail or cut the n-th one.
//!
//! In ordinary builds [`gate`] and [`point`] are empty and vanish. With the feature `faults`, the environment variable
//! `ZONEWARD_FAULT=<n>:<action>` makes the n-th gated call (from 1) fail with `eio` or `enospc`, or kills the process
//! (`kill`, SIGKILL); `ZONEWARD_FAULT_COUNT=<file>` appends the number of calls when the process ends in order.
//! `ZONEWARD_POINT=<name>:<n>` kills the process at the n-th passing of a named fail point, and
//! `ZONEWARD_POINT_LOG=<file>` appends each name passed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The kinds of file call that can be failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Open,
    Create,
    Read,
    Write,
    Sync,
    Rename,
    Remove,
    Mkdir,
    Stat,
    List,
    Resize,
    SetMeta,
}

#[cfg(feature = "faults")]
mod faults {
    use super::Call;
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Plan {
        at: u64,
        action: String,
    }

    static COUNT: AtomicU64 = AtomicU64::new(0);
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    static POINTS: AtomicU64 = AtomicU64::new(0);

    fn die() -> ! {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::process::abort()
    }

    pub fn gate(_call: Call) -> io::Result<()> {
        let plan = PLAN.get_or_init(|| {
            let text = std::env::var("ZONEWARD_FAULT").ok()?;
            let (n, action) = text.split_once(':')?;
            Some(Plan { at: n.parse().ok()?, action: action.to_owned() })
        });
        let n = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
        match plan {
            Some(p) if p.at == n => match p.action.as_str() {
                "enospc" => Err(io::Error::from_raw_os_error(28)),
                "kill" => die(),
                _ => Err(io::Error::from_raw_os_error(5)),
            },
            _ => Ok(()),
        }
    }

    pub fn point(name: &str) {
        if let Ok(log) = std::env::var("ZONEWARD_POINT_LOG") {
            use std::io::Write;
            if let Ok(mut f) = std::fs::OpenOptions::new().append(true).create(true).open(log) {
                let _ = writeln!(f, "{name}");
            }
        }
        if let Ok(text) = std::env::var("ZONEWARD_POINT") {
            if let Some((want, n)) = text.rsplit_once(':') {
                if want == name && POINTS.fetch_add(1, Ordering::SeqCst) + 1 == n.parse().unwrap_or(1) {
                    die();
                }
            }
        }
    }

    pub fn report() {
        if let Ok(path) = std::env::var("ZONEWARD_FAULT_COUNT") {
            use std::io::Write;
            if let Ok(mut f) = std::fs::OpenOptions::new().append(true).create(true).open(path) {
                let _ = writeln!(f, "{}", COUNT.load(Ordering::SeqCst));
            }
        }
    }
}

/// Called before each file call; fails it when a test asked for that.
#[cfg(feature = "faults")]
pub fn gate(call: Call) -> io::Result<()> {
    faults::gate(call)
}

/// Called before each file call; fails it when a test asked for that.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn gate(_call: Call) -> io::Result<()> {
    Ok(())
}

/// A named place at which a test can kill the process.
#[cfg(feature = "faults")]
pub fn point(name: &str) {
    faults::point(name)
}

/// A named place at which a test can kill the process.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_name: &str) {}

/// Tells a test how many calls were gated.
pub fn report() {
    #[cfg(feature = "faults")]
    faults::report();
}

/// Opens an existing file for reading.
pub fn open_read(path: &Path) -> io::Result<File> {
    gate(Call::Open)?;
    File::open(path)
}

/// Creates a file that must not exist yet, for reading and writing.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    gate(Call::Create)?;
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)
}

/// Opens or creates a file for reading and writing, keeping what it holds.
pub fn open_rw(path: &Path, mode: u32) -> io::Result<File> {
    gate(Call::Create)?;
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(mode).open(path)
}

/// Reads exactly `buf.len()` bytes at `offset`; a shorter file is `UnexpectedEof`.
pub fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    gate(Call::Read)?;
    file.read_exact_at(buf, offset)
}

/// Reads up to `buf.len()` bytes at `offset`, until the buffer is full or the file ends.
pub fn read_full_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    gate(Call::Read)?;
    let mut got = 0;
    while got < buf.len() {
        match file.read_at(&mut buf[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

/// Writes all of `buf` at `offset`.
pub fn write_all_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    gate(Call::Write)?;
    file.write_all_at(buf, offset)
}

/// Gives a range of a file that holds nothing yet its room on the disk: it reads as zeros, and none were written. `false`
/// where the file system knows no such thing.
pub fn allocate(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    gate(Call::Write)?;
    loop {
        match fallocate(file, FallocateFlags::empty(), offset, len) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Makes a file's content durable.
pub fn sync(file: &File) -> io::Result<()> {
    gate(Call::Sync)?;
    file.sync_all()
}

/// Makes a directory's entries durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    gate(Call::Sync)?;
    File::open(path)?.sync_all()
}

/// Renames, replacing what was there.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    gate(Call::Rename)?;
    fs::rename(from, to)
}

/// Removes a file; a file that is not there is not an error.
pub fn remove_file(path: &Path) -> io::Result<()> {
    gate(Call::Remove)?;
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        r => r,
    }
}

/// Makes a directory and those above it; existing ones are kept as they are.
pub fn create_dir_all(path: &Path, mode: u32) -> io::Result<()> {
    gate(Call::Mkdir)?;
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Size of a file, or `None` if there is none.
pub fn size(path: &Path) -> io::Result<Option<u64>> {
    gate(Call::Stat)?;
    match fs::symlink_metadata(path) {
        Ok(m) => Ok(Some(m.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Names in a directory, sorted; a directory that is not there is empty.
pub fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    gate(Call::List)?;
    let mut out = Vec::new();
    match fs::read_dir(path) {
        Ok(rd) => {
            for e in rd {
                out.push(PathBuf::from(e?.file_name()));
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    out.sort();
    Ok(out)
}

/// Reads a whole file of at most `limit` bytes.
pub fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_read(path)?;
    let meta = file.metadata()?;
    let len = meta.len();
    let too_long =
        |len| io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes, more than the limit of {limit}"));
    if !meta.is_file() {
        // A pipe, or what a shell puts in a file's place: its length shows at its end.
        // Room at once: a secret that comes so leaves no pieces in memory.
        let mut buf = Vec::with_capacity(limit.min(1 << 16) as usize + 1);
        io::Read::read_to_end(&mut io::Read::take(&file, limit.saturating_add(1)), &mut buf)?;
        return if buf.len() as u64 > limit { Err(too_long(buf.len() as u64)) } else { Ok(buf) };
    }
    if len > limit {
        return Err(too_long(len));
    }
    let mut buf = vec![0u8; len as usize];
    read_exact_at(&file, &mut buf, 0)?;
    Ok(buf)
}

/// Replaces a file durably: a temporary file beside it, sync, rename, sync of the directory.
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // A bare name has an empty parent, which is no directory that can be opened.
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = std::ffi::OsString::from(".new-");
    name.push(path.file_name().unwrap_or_default());
    let tmp = dir.join(name);
    remove_file(&tmp)?;
    let file = create_new(&tmp, mode)?;
    let written = write_all_at(&file, bytes, 0).and_then(|()| sync(&file)).and_then(|()| rename(&tmp, path));
    if let Err(e) = written {
        // It may hold a secret. The first failure tells more.
        let _ = std::fs::remove_file(&tmp);
        return Err(e);
    }
    sync_dir(dir)
}

/// What a cut [`write_durably`] leaves beside a file.
pub fn left_beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".new-");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// Replaces a file without making it durable: for caches that are checked when they are read.
pub fn write_plainly(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    remove_file(path)?;
    let file = create_new(path, mode)?;
    write_all_at(&file, bytes, 0)
}
