//! Making a source ready to be read, on the node that packs it: the command before, a snapshot, the command after.
//!
//! `before` fails: the source is left as it was, the others go on. `after` runs whenever `before` was begun, or would have
//! been: as soon as the live tree is no longer needed. What is read lies at [`Ready::root`]; what is stored keeps the
//! source's own path.

pub mod allowed;
mod mounts;
pub mod run;
pub mod snapshot;

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use zoneward_consensus::model::Source;
use zoneward_consensus::reading::{Reading, SnapshotKind};

use self::run::{RunError, run};
use self::snapshot::{SnapshotError, Taken};
use crate::errors::ZoneError;
use crate::open::chain;

/// What the command after a source is told of how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A snapshot of it was made and is read from now on.
    Snapshot,
    /// It was read.
    Read,
    Failed,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Read => "read",
            Self::Failed => "failed",
        }
    }
}

/// A source that is ready to be read. Dropping it counts as a failure: `after` runs, and the snapshot goes.
#[derive(Debug)]
pub struct Ready {
    /// Where it is read.
    pub root: PathBuf,
    /// Each file is read through a clone that shares its blocks.
    pub clones: bool,
    /// What a person should know, in words.
    pub notes: Vec<String>,
    /// How many of the notes are of commands that failed, and of snapshots that are still there.
    pub failed: u64,
    after: Option<After>,
    taken: Option<Taken>,
}

impl Ready {
    /// The live tree, without commands.
    pub fn live(root: PathBuf) -> Self {
        Self { root, clones: false, notes: Vec::new(), failed: 0, after: None, taken: None }
    }

    /// The source is no longer needed: `after` runs, unless it has, and the snapshot goes.
    pub fn end(&mut self, outcome: Outcome) {
        if let Some(after) = self.after.take()
            && let Err(e) = after.run(outcome)
        {
            self.failed += 1;
            self.notes.push(format!("the command after it failed: {}", chain(&e)));
        }
        if let Some(taken) = self.taken.take()
            && let Err(e) = taken.remove()
        {
            self.failed += 1;
            self.notes.push(format!("its snapshot is still there, and the next start tries again: {}", chain(&e)));
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.end(Outcome::Failed);
    }
}

/// The node that packs, as commands are told of it.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    pub home: &'a Path,
    /// The node's name.
    pub node: &'a str,
}

/// The command after a source, and what it is told.
#[derive(Debug)]
struct After(Shell);

impl After {
    fn run(mut self, outcome: Outcome) -> Result<(), RunError> {
        self.0.command.env("ZONEWARD_OUTCOME", outcome.name());
        // It runs to its end even if the backup is interrupted: what `before` stopped has to go on.
        self.0.run(None).map(|_| ())
    }
}

/// A command of a person's, with its environment and its limit.
#[derive(Debug)]
struct Shell {
    command: Command,
    limit: Duration,
}

impl Shell {
    fn new(here: Here<'_>, source: &Source, live: &Path, what: &str, text: &str) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", text]);
        command.env("ZONEWARD_HOOK", what).env("ZONEWARD_SOURCE", live);
        command.env("ZONEWARD_SOURCE_ID", source.id.to_string()).env("ZONEWARD_NODE", here.node);
        Self { command, limit: Duration::from_secs(source.reading.limit_s.into()) }
    }

    fn run(mut self, stop: Option<&AtomicBool>) -> Result<Vec<u8>, RunError> {
        run(&mut self.command, self.limit, stop)
    }
}

/// Makes a source ready to be read: `live` is where it lies on this node.
pub fn make_ready(here: Here<'_>, source: &Source, live: PathBuf, stop: &AtomicBool) -> Result<Ready, ZoneError> {
    let reading = &source.reading;
    let mut ready = Ready::live(live.clone());
    if let Some(what) = allowed::first_not_allowed(here.home, source.id, reading)? {
        return Err(ZoneError::NotAllowed { path: live, what });
    }
    let shell = |what: &str, text: &str| Shell::new(here, source, &live, what, text);
    ready.notes = snapshot::sweep(here.home);
    ready.failed = ready.notes.len() as u64;
    ready.after = reading.after.as_deref().map(|text| After(shell("after", text)));
    if let Some(text) = &reading.before
        && let Err(e) = shell("before", text).run(Some(stop))
    {
        return Err(of_command(&live, "before", &e));
    }
    if reading.snapshot == SnapshotKind::Command {
        let text = reading.snapshot_command.as_deref().unwrap_or_default();
        let said =
            shell("snapshot", text).run(Some(stop)).map_err(|e| of_command(&live, "that makes a snapshot of", &e))?;
        ready.root = printed_path(said).ok_or_else(|| ZoneError::Hook {
            path: live.clone(),
            what: "that makes a snapshot of",
            why: "the last line that it prints is no absolute path".into(),
        })?;
        return Ok(ready);
    }
    let done = take(here, source, reading, &live, &mut ready);
    match done {
        Ok(()) => Ok(ready),
        Err(e) if reading.snapshot == SnapshotKind::Auto => {
            ready.notes.push(format!("no snapshot could be made, so the live tree was read: {}", chain(&e)));
            Ok(ready)
        }
        Err(e) => Err(ZoneError::Snapshot { path: live.clone(), why: chain(&e) }),
    }
}

fn take(
    here: Here<'_>,
    source: &Source,
    reading: &Reading,
    live: &Path,
    ready: &mut Ready,
) -> Result<(), SnapshotError> {
    let kind = match reading.snapshot {
        SnapshotKind::Auto => match own_kind(live) {
            Some(kind) => kind,
            None => return Ok(()),
        },
        SnapshotKind::Off | SnapshotKind::Command => return Ok(()),
        SnapshotKind::Reflink => {
            zoneward_sectors::clone::probe(live).map_err(|e| {
                SnapshotError::Unfit(format!("its file system makes no clones of files, or may not be written: {e}"))
            })?;
            ready.clones = true;
            return Ok(());
        }
        kind => kind,
    };
    let taken = snapshot::take(here.home, kind, live, source.one_file_system)?;
    ready.root.clone_from(&taken.read);
    ready.taken = Some(taken);
    if let Some(after) = ready.after.take()
        && let Err(e) = after.run(Outcome::Snapshot)
    {
        ready.failed += 1;
        ready.notes.push(format!("the command after it failed: {}", chain(&e)));
    }
    Ok(())
}

/// The kind of snapshot that costs nothing where a path lies.
fn own_kind(path: &Path) -> Option<SnapshotKind> {
    const BTRFS: i64 = 0x9123_683e;
    const ZFS: i64 = 0x2fc1_2fc1;
    // A path that cannot be looked at is the survey's to tell.
    match rustix::fs::statfs(path).map(|s| s.f_type) {
        Ok(BTRFS) => Some(SnapshotKind::Btrfs),
        Ok(ZFS) => Some(SnapshotKind::Zfs),
        _ => None,
    }
}

fn of_command(path: &Path, what: &'static str, e: &RunError) -> ZoneError {
    match e {
        RunError::Stopped => ZoneError::Interrupted,
        e => ZoneError::Hook { path: path.to_owned(), what, why: chain(e) },
    }
}

/// The last line that is not empty, if it is an absolute path.
fn printed_path(said: Vec<u8>) -> Option<PathBuf> {
    let line = said.split(|b| *b == b'\n').rev().find(|l| !l.is_empty())?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(line.to_vec()));
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests;
