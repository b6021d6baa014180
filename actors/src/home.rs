//! A node's home: the folder that holds what this node knows and keeps.
//!
//! ```text
//! home.lock          held by the one process that works here; holds its process id
//! zone.redb          the zone's state
//! secrets/           zone secret and node key, 0600
//! owner-key.json     the owner's sealed keys
//! catalogs/          local copies of catalog parts
//! index/             the chunk index (a cache)
//! pieces/            hashes of the pieces of copies that the zone has no key to (a cache)
//! spool/             sectors held for another node until all their copies are made: sealed bytes
//! source-snapshots/  notes on snapshots of sources that have to be removed
//! allowed-commands   which commands around sources this node may run
//! snapshots/         the newest snapshot of the state, for other nodes
//! incarnation        counts the starts of this node's daemon
//! zoneward.sock      where the daemon that serves this home listens
//! recovery.json      while a zone that was lost is brought back: nothing is backed up
//! rollback.json      while sources are put back to a checkpoint, or what that replaced is kept
//! rollback.lock      held by the one process that does so
//! exports/           exports to users that are being written
//! imports/           exports of users that are being brought in
//! recovery-kit.html  until it is stored elsewhere
//! wipe-begun         while all of this is being deleted for good
//! ```

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CopyId, Digest, LayerId};
use zoneward_targets::Url;

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("there is no zone in {0}")]
    NoZone(PathBuf),
    #[error("there is a zone in {0} already")]
    Exists(PathBuf),
    #[error("another zoneward (process {pid}) is working in {home}")]
    Busy { home: PathBuf, pid: String },
    #[error("the home {0} is being wiped: it belongs to no zone any more")]
    Wiping(PathBuf),
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// Turns an I/O error into one that says what was tried, on what.
pub(crate) fn io_at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |source| HomeError::Io { what, path, source }
}

/// An opened home; nobody else works in it while this lives, but for guests of the one that keeps its state.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    _lock: Option<File>,
}

/// A path with the links in it followed as far as it exists.
pub fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let known = path.ancestors().find_map(|a| a.canonicalize().ok().map(|real| (a, real)));
    match known {
        // Nothing joined would end it with a slash.
        Some((above, real)) if above == path => real,
        Some((above, real)) => path.strip_prefix(above).map_or_else(|_| path.clone(), |rest| real.join(rest)),
        None => path,
    }
}

/// The target folder that a path lies in.
pub fn target_around<'u>(path: &Path, targets: &'u [Url]) -> Option<&'u Path> {
    let path = real(path);
    let mut folders = targets.iter().filter_map(|url| match url {
        Url::File(folder) => Some(folder.as_path()),
        _ => None,
    });
    folders.find(|folder| path.starts_with(real(folder)))
}

impl Home {
    /// Opens the home of an existing zone.
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        let state = dir.join("zone.redb");
        if fsx::size(&state).map_err(io_at("look at", &state))?.is_none() {
            return Err(HomeError::NoZone(dir.to_owned()));
        }
        Self::lock(dir)
    }

    /// Enters a home that a daemon serves: the daemon keeps the state, a guest asks it. What a guest writes here itself,
    /// local copies of catalogs, may be written by several at once.
    pub fn guest(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), _lock: None }
    }

    /// Where the daemon that serves this home listens.
    pub fn socket(dir: &Path) -> PathBuf {
        dir.join("zoneward.sock")
    }

    /// Sectors that this node holds for another one until all their copies are made.
    pub fn spool(&self) -> PathBuf {
        self.dir.join("spool")
    }

    /// The stored bytes of a copy that is staged here.
    pub fn staged(&self, copy: CopyId) -> PathBuf {
        self.dir.join(format!("spool/{copy}.zws"))
    }

    /// Snapshots of the zone's state, for nodes that were away for long.
    pub fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    /// Makes a home for a new zone.
    pub fn create(dir: &Path) -> Result<Self, HomeError> {
        fsx::create_dir_all(dir, 0o700).map_err(io_at("make", dir))?;
        let home = Self::lock(dir)?;
        if fsx::size(&home.state()).map_err(io_at("look at", dir))?.is_some() {
            return Err(HomeError::Exists(dir.to_owned()));
        }
        // Of a recovery that was cut before there was a state.
        let note = Self::recovery_in(dir);
        fsx::remove_file(&note).map_err(io_at("remove", &note))?;
        for sub in ["secrets", "catalogs", "index"] {
            let path = dir.join(sub);
            fsx::create_dir_all(&path, 0o700).map_err(io_at("make", &path))?;
        }
        Ok(home)
    }

    fn lock(dir: &Path) -> Result<Self, HomeError> {
        if crate::wipe::has_begun(dir) {
            return Err(HomeError::Wiping(dir.to_owned()));
        }
        Self::lock_for_wiping(dir)
    }

    /// The same for who wipes it.
    pub(crate) fn lock_for_wiping(dir: &Path) -> Result<Self, HomeError> {
        let file = Self::take(dir, &dir.join("home.lock"))?;
        Ok(Self { dir: dir.to_owned(), _lock: Some(file) })
    }

    /// Takes a lock in a home, until the file is closed.
    fn take(dir: &Path, path: &Path) -> Result<File, HomeError> {
        use rustix::fs::{FlockOperation, flock};
        use std::os::unix::fs::FileExt;
        let file = fsx::open_rw(path, 0o600).map_err(io_at("open", path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = [0u8; 16];
            let n = file.read_at(&mut pid, 0).unwrap_or(0);
            let pid = String::from_utf8_lossy(&pid[..n]).trim().to_owned();
            return Err(HomeError::Busy { home: dir.to_owned(), pid });
        }
        // The id is for the message above only, so writing it may fail.
        let _ = file.set_len(0).and_then(|()| file.write_all_at(std::process::id().to_string().as_bytes(), 0));
        Ok(file)
    }

    /// The note of a home whose files are being brought back.
    pub fn recovery_in(dir: &Path) -> PathBuf {
        dir.join("recovery.json")
    }

    /// The journal of a rollback.
    pub fn rollback(&self) -> PathBuf {
        self.dir.join("rollback.json")
    }

    /// Taken to change the owner's keys: a daemon may serve the home meanwhile, and guests be several.
    pub fn lock_keys(&self) -> Result<File, HomeError> {
        Self::take(&self.dir, &self.dir.join("keys.lock"))
    }

    /// Taken to work on a rollback, likewise.
    pub(crate) fn lock_rollback(&self) -> Result<File, HomeError> {
        Self::take(&self.dir, &self.dir.join("rollback.lock"))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("zone.redb")
    }

    /// The state of a zone that is still being made.
    pub fn unfinished_state(&self) -> PathBuf {
        self.dir.join("zone.redb.new")
    }

    pub fn secrets(&self) -> PathBuf {
        self.dir.join("secrets")
    }

    pub fn zone_secret(&self) -> PathBuf {
        self.dir.join("secrets/zone-secret")
    }

    pub fn owner_key(&self) -> PathBuf {
        self.dir.join("owner-key.json")
    }

    pub fn recovery_kit(&self) -> PathBuf {
        self.dir.join("recovery-kit.html")
    }

    pub fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    pub fn catalogs(&self) -> PathBuf {
        self.dir.join("catalogs")
    }

    /// The local copy of a catalog part: its zstd frames.
    pub fn catalog_part(&self, layer: LayerId, part: u32) -> PathBuf {
        self.dir.join(format!("catalogs/{layer}-{part:05}.zst"))
    }

    /// Hashes of the pieces of copies that the zone has no key to.
    pub(crate) fn all_pieces(&self) -> PathBuf {
        self.dir.join("pieces")
    }

    /// Those of the stored bytes that are known by this id.
    pub(crate) fn pieces(&self, id: Digest) -> PathBuf {
        self.dir.join(format!("pieces/{id}"))
    }

    /// Removes cached catalogs of layers that are not `known` any more. What cannot be removed takes room and nothing else.
    pub(crate) fn forget_catalogs(&self, known: impl Fn(&LayerId) -> bool) {
        let Ok(entries) = std::fs::read_dir(self.catalogs()) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let layer = name.to_str().and_then(|n| n.get(..32)).and_then(|n| n.parse::<LayerId>().ok());
            if layer.is_some_and(|l| !known(&l)) {
                let _ = fsx::remove_file(&entry.path());
            }
        }
    }
}

/// The number of a node's start in this home: one more than the last, durable before it is answered. Peers refuse a node
/// that shows less than they remember: it runs on an old copy of its disk.
pub fn next_incarnation(dir: &Path) -> Result<u64, HomeError> {
    let path = dir.join("incarnation");
    let last = match fsx::read_limited(&path, 32) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        read => read.and_then(|bytes| {
            let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse::<u64>().ok());
            number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it holds no number"))
        }),
    };
    let last = last.map_err(io_at("read", &path))?;
    let next = last.saturating_add(1);
    fsx::write_durably(&path, format!("{next}\n").as_bytes(), 0o600).map_err(io_at("write", &path))?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_has_a_higher_number() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!([(); 3].map(|()| next_incarnation(dir.path()).unwrap()), [1, 2, 3]);
        std::fs::write(dir.path().join("incarnation"), "x").unwrap();
        // A number that is made up could be lower than one that was shown.
        assert!(matches!(next_incarnation(dir.path()), Err(HomeError::Io { .. })));
    }
}
