//! Wiping a home: what a node has of the zone is overwritten and deleted.
//!
//! The note that this has begun is there first and goes last, and every start goes on from the beginning: a home that was
//! cut in the middle is of no use to anything but the rest of its wiping. What opens the zone goes before what only
//! describes it; the node's own key goes late, so that the node can still say that it did.
//!
//! Only what Zoneward puts into a home is touched, never what lies there besides, on another file system, or behind a link:
//! sources and targets keep all they have. Overwriting is what a program can do; a disk that writes elsewhere than it is
//! told (flash, copy-on-write, snapshots) may keep old bytes. The zone takes a new secret for that.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zoneward_sectors::crypto::fill_random;
use zoneward_sectors::fsx;

use crate::home::{Home, HomeError, io_at};

/// Lies in a home from the beginning of its wiping to the end.
const NOTE: &str = "wipe-begun";
/// What opens the zone, or its owner's keys.
const FIRST: [&str; 9] = [
    "recovery-kit.html",
    "recovery-kit.html.old",
    "recovery-kit.html.new",
    "kit-pending.json",
    "secrets/zone-secret",
    "owner-key.json",
    "allowed-commands",
    // Homes of users' exports and imports that were cut.
    "imports",
    "exports",
];
/// What a daemon that still speaks to the zone can do without.
const THEN: [&str; 7] = ["catalogs", "index", "pieces", "spool", "source-snapshots", "recovery.json", "rollback.json"];
/// What it needs until then.
const LAST: [&str; 10] = [
    "secrets",
    "introduction.json",
    "snapshots",
    "zone.redb",
    "zone.redb.new",
    "incarnation",
    "credited.json",
    "keys.lock",
    "rollback.lock",
    "zoneward.sock",
];
/// How deep folders of a home lie in each other at most.
const DEPTH_MAX: usize = 8;
const PIECE: usize = 64 << 10;

/// Whether the wiping of this home has begun.
pub fn has_begun(dir: &Path) -> bool {
    fs::symlink_metadata(dir.join(NOTE)).is_ok()
}

/// From here on it is never a node's home again.
pub fn begin(home: &Home) -> Result<(), HomeError> {
    let note = home.dir().join(NOTE);
    fsx::write_durably(&note, b"this home is being wiped: zoneward up finishes it\n", 0o600)
        .map_err(io_at("write", &note))?;
    fsx::point("wipe-begun");
    Ok(())
}

/// Deletes all that the daemon of this home can do without.
pub fn secrets(dir: &Path) -> Result<(), HomeError> {
    // Snapshots of sources that are mounted here: those that stay are not entered.
    let _ = crate::reading::snapshot::sweep(dir);
    erase_all(dir, &FIRST)?;
    erase_all(dir, &THEN)
}

/// Deletes the rest, with nobody working here; answers what lies in the home besides.
pub fn finish(dir: &Path) -> Result<Vec<PathBuf>, HomeError> {
    let lock = Home::lock_for_wiping(dir)?;
    secrets(dir)?;
    fsx::point("wipe-rest");
    erase_all(dir, &LAST)?;
    for last in [NOTE, "home.lock"] {
        let path = dir.join(last);
        fsx::remove_file(&path).and_then(|()| fsx::sync_dir(dir)).map_err(io_at("remove", &path))?;
    }
    drop(lock);
    let left = fsx::list(dir).map_err(io_at("list", dir))?;
    Ok(left.into_iter().map(|name| dir.join(name)).collect())
}

/// All of them, also if one cannot be erased; the first failure is answered.
fn erase_all(dir: &Path, names: &[&str]) -> Result<(), HomeError> {
    let device = fs::metadata(dir).map_err(io_at("look at", dir))?.dev();
    let mut failed = None;
    for name in names {
        let path = dir.join(name);
        // Of a write that was cut.
        for path in [fsx::left_beside(&path), path] {
            if let Err(e) = erase(&path, device, DEPTH_MAX) {
                failed.get_or_insert(io_at("wipe", &path)(e));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn erase(path: &Path, device: u64, depth: usize) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let kind = meta.file_type();
    if meta.dev() != device {
        return Err(io::Error::other("it lies on another file system"));
    }
    if kind.is_dir() {
        if depth == 0 {
            return Err(io::Error::other("it lies too deep"));
        }
        let mut failed = None;
        for inside in fsx::list(path)? {
            failed = erase(&path.join(inside), device, depth - 1).err().or(failed);
        }
        return failed.map_or_else(|| fs::remove_dir(path), Err);
    }
    // What has another name elsewhere may be somebody else's by that name.
    if kind.is_file() && meta.nlink() == 1 {
        overwrite(path, meta.len())?;
    }
    fsx::remove_file(path)?;
    path.parent().map_or(Ok(()), fsx::sync_dir)
}

fn overwrite(path: &Path, len: u64) -> io::Result<()> {
    let file: File = fsx::open_rw(path, 0o600)?;
    let mut noise = vec![0; PIECE.min(len as usize)];
    let mut at = 0;
    while at < len {
        fill_random(&mut noise);
        let n = (len - at).min(noise.len() as u64) as usize;
        fsx::write_all_at(&file, noise.get(..n).unwrap_or_default(), at)?;
        at += n as u64;
    }
    fsx::sync(&file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn home() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for sub in ["secrets", "catalogs", "index", "spool", "snapshots", "mine"] {
            fs::create_dir(at(sub)).unwrap();
        }
        for file in
            FIRST.iter().chain(&["zone.redb", "secrets/node-identity", "spool/a.zws", "catalogs/b.zst", "incarnation"])
        {
            fs::write(at(file), b"secret bytes").unwrap();
        }
        fs::write(at("mine/letter"), "stays").unwrap();
        dir
    }

    #[test]
    fn a_home_is_wiped_from_wherever_it_was_cut_and_nothing_besides() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("source"), "stays").unwrap();
        fs::write(outside.path().join("twice"), "stays").unwrap();
        let all = [&FIRST[..], &THEN, &LAST].concat();
        // Each prefix of the way is a place where it may be cut.
        for cut in 0..=all.len() {
            let dir = home();
            symlink(outside.path(), dir.path().join("catalogs/link")).unwrap();
            fs::hard_link(outside.path().join("twice"), dir.path().join("index/name")).unwrap();
            begin(&Home::guest(dir.path())).unwrap();
            erase_all(dir.path(), &all[..cut]).unwrap();
            assert!(has_begun(dir.path()));
            assert!(matches!(Home::open(dir.path()), Err(HomeError::Wiping(_) | HomeError::NoZone(_))), "{cut}");
            assert!(matches!(Home::create(dir.path()), Err(HomeError::Wiping(_))), "{cut}");
            assert_eq!(finish(dir.path()).unwrap(), [dir.path().join("mine")], "{cut}");
            assert!(!has_begun(dir.path()));
            assert_eq!(fs::read(dir.path().join("mine/letter")).unwrap(), b"stays");
        }
        for name in ["source", "twice"] {
            assert_eq!(fs::read(outside.path().join(name)).unwrap(), b"stays");
        }
    }

    #[test]
    fn bytes_are_overwritten_before_the_name_goes() {
        let dir = home();
        let path = dir.path().join("secrets/zone-secret");
        let open = File::open(&path).unwrap();
        secrets(dir.path()).unwrap();
        assert!(!path.exists() && dir.path().join("secrets/node-identity").exists());
        let mut now = [0; 12];
        fsx::read_exact_at(&open, &mut now, 0).unwrap();
        assert_ne!(&now, b"secret bytes");
    }
}
