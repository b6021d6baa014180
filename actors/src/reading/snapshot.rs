//! Snapshots of sources: made before a source is read, removed after. What is made is first written down in the home, so
//! that a run that was killed leaves nothing behind: the next start removes it.

mod btrfs;
mod lvm;
mod zfs;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zoneward_consensus::reading::SnapshotKind;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::SourceId;

use super::mounts::{first_below, mounts};
use super::run::{RunError, run};

/// What one call of a file system's tool may take.
const TOOL: Duration = Duration::from_secs(120);
/// Bytes of a note on a snapshot.
const RECORD_LEN_MAX: u64 = 64 << 10;
/// Directories of this name are snapshots of btrfs sources: they are a part of no source.
pub const BTRFS_PREFIX: &str = ".zoneward-snapshot-";

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{0}")]
    Unfit(String),
    #[error("{what}")]
    Tool { what: String, source: RunError },
    #[error("{what} {path}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

fn io_at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::Io { what, path: path.to_owned(), source }
}

/// A snapshot, as it is written down: what has to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Made {
    Btrfs { path: PathBuf },
    Zfs { snapshot: String },
    Lvm { volume: String, mount: PathBuf },
}

impl Made {
    fn remove(&self) -> Result<(), SnapshotError> {
        match self {
            Self::Btrfs { path } => btrfs::remove(path),
            Self::Zfs { snapshot } => zfs::remove(snapshot),
            Self::Lvm { volume, mount } => lvm::remove(volume, mount),
        }
    }
}

/// What is to be made, and where the source lies in it.
struct Planned {
    made: Made,
    read: PathBuf,
    make: Vec<Command>,
}

/// A snapshot that is there. Dropping it removes it.
#[derive(Debug)]
pub struct Taken {
    /// The source as it was.
    pub read: PathBuf,
    made: Option<Made>,
    record: PathBuf,
}

impl Taken {
    /// Removes it. What fails is tried again by the next start.
    pub fn remove(mut self) -> Result<(), SnapshotError> {
        self.give_back()
    }

    fn give_back(&mut self) -> Result<(), SnapshotError> {
        let Some(made) = self.made.take() else { return Ok(()) };
        let done = made.remove().and_then(|()| forget(&self.record));
        live().remove(&self.record);
        done
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Its record stays, and so it is tried again.
        let _ = self.give_back();
    }
}

/// Records of snapshots that this process uses.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn records(home: &Path) -> PathBuf {
    home.join("source-snapshots")
}

fn forget(record: &Path) -> Result<(), SnapshotError> {
    fsx::remove_file(record).map_err(io_at("cannot remove", record))
}

/// Makes a snapshot of the tree at `path`. `apart`: what lies on other file systems is not wanted anyway.
pub fn take(home: &Path, kind: SnapshotKind, path: &Path, apart: bool) -> Result<Taken, SnapshotError> {
    let path = &path.canonicalize().map_err(io_at("cannot find", path))?;
    if !apart {
        refuse_mounts_below(path)?;
    }
    let dir = records(home);
    // Random, so that it meets nothing of an earlier run, whose snapshot may still be there.
    let name = SourceId::random().to_string();
    let planned = match kind {
        SnapshotKind::Btrfs => btrfs::plan(path, &name, apart)?,
        SnapshotKind::Zfs => zfs::plan(path, &name)?,
        SnapshotKind::Lvm => lvm::plan(path, &name, &dir.join(&name))?,
        _ => return Err(SnapshotError::Unfit("this kind makes no snapshot".into())),
    };
    fsx::create_dir_all(&dir, 0o700).map_err(io_at("cannot make", &dir))?;
    let record = dir.join(format!("{name}.json"));
    let note = serde_json::to_vec(&planned.made).map_err(|e| io_at("cannot write", &record)(io::Error::other(e)))?;
    live().insert(record.clone());
    // From here on, whatever happens, the value below removes what there is.
    let taken = Taken { read: planned.read, made: Some(planned.made), record };
    fsx::write_durably(&taken.record, &note, 0o600).map_err(io_at("cannot write", &taken.record))?;
    fsx::point("source-snapshot:before");
    for mut command in planned.make {
        tool(&mut command)?;
    }
    fsx::point("source-snapshot:after");
    Ok(taken)
}

/// A snapshot holds what one file system holds: what is mounted below would be left out without a word.
fn refuse_mounts_below(path: &Path) -> Result<(), SnapshotError> {
    let all = mounts().map_err(io_at("cannot read", Path::new("/proc/self/mountinfo")))?;
    match first_below(&all, path) {
        Some(p) => Err(SnapshotError::Unfit(format!(
            "{} is mounted inside it, and a snapshot would leave it out: --one-file-system leaves it out, or make it a \
             source of its own",
            p.display()
        ))),
        None => Ok(()),
    }
}

/// Removes the snapshots that earlier runs left; answers what could not be removed, in words.
pub fn sweep(home: &Path) -> Vec<String> {
    let dir = records(home);
    let all = match fsx::list(&dir) {
        Err(e) => return vec![format!("{} cannot be listed: {e}", dir.display())],
        Ok(all) => all,
    };
    let mut failed = Vec::new();
    for record in all.into_iter().map(|name| dir.join(name)).filter(|p| p.extension().is_some_and(|x| x == "json")) {
        if live().contains(&record) {
            continue;
        }
        let made = fsx::read_limited(&record, RECORD_LEN_MAX).and_then(|b| Ok(serde_json::from_slice::<Made>(&b)?));
        let done = made.map_err(io_at("cannot read", &record)).and_then(|m| m.remove()).and_then(|()| forget(&record));
        if let Err(e) = done {
            failed.push(format!("a snapshot of an earlier run is still there: {}", crate::open::chain(&e)));
        }
    }
    failed
}

/// Runs a file system's tool; its answer as text.
fn tool(command: &mut Command) -> Result<String, SnapshotError> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let what = words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    let out = run(command, TOOL, None).map_err(|source| SnapshotError::Tool { what, source })?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_inside_is_not_left_out_without_a_word() {
        let e = refuse_mounts_below(Path::new("/")).unwrap_err();
        assert!(e.to_string().contains("is mounted inside it"), "{e}");
        let dir = tempfile::tempdir().unwrap();
        assert!(refuse_mounts_below(dir.path()).is_ok());
        let home = tempfile::tempdir().unwrap();
        let gone = take(home.path(), SnapshotKind::Btrfs, Path::new("/no/such"), false);
        assert!(matches!(gone, Err(SnapshotError::Io { .. })));
        assert!(sweep(home.path()).is_empty());
    }

    #[test]
    fn a_record_that_cannot_be_read_is_kept_and_told() {
        let home = tempfile::tempdir().unwrap();
        let dir = records(home.path());
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("a.json"), r#"{"kind":"btrfs","path":"/etc"}"#).unwrap();
        std::fs::write(dir.join("b.json"), "{").unwrap();
        let failed = sweep(home.path());
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert!(failed[0].contains("/etc is no snapshot of Zoneward's"), "{failed:?}");
        assert!(Path::new("/etc").is_dir() && dir.join("a.json").exists() && dir.join("b.json").exists());
    }
}
