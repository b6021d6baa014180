//! Snapshots: the records of one moment in a file, for nodes that are too far behind the log (`docs/state.md`).

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use redb::{Database, Durability, ReadableDatabase};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use zoneward_sectors::fsx;
use zoneward_sectors::ids::hex;

use super::ledger::Ledger;
use super::{StoreError, rows, tables, unreadable};
use crate::limits::{SNAPSHOT_LEN_MAX, SNAPSHOT_LINE_LEN_MAX};
use crate::model::State;
use crate::planted::{Bug, planted};
use crate::raft::{LogId, Membership, SnapshotMeta};

const FORMAT: u64 = 1;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Begin {
    format: u64,
    applied: Option<LogId>,
    membership: Membership,
    next_seq: u64,
    last_time_ms: u64,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
struct End {
    rows: u64,
    /// Of all bytes before this line, as hex.
    sha256: String,
}

/// The directory of a node's snapshots.
#[derive(Clone, Debug)]
pub struct Snapshots(PathBuf);

fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    move |source| StoreError::Snapshot { what, path: path.to_owned(), source }
}

impl Snapshots {
    /// Uses a directory, and removes from it what the store does not name: leftovers of a crash.
    pub fn open(dir: &Path, named: Option<&SnapshotMeta>) -> Result<Self, StoreError> {
        fsx::create_dir_all(dir, 0o700).map_err(failed("kept", dir))?;
        let this = Self(dir.to_owned());
        let keep = named.map(|meta| this.path(meta));
        for name in fsx::list(dir).map_err(failed("listed", dir))? {
            let path = dir.join(name);
            if Some(&path) != keep.as_ref() {
                fsx::remove_file(&path).map_err(failed("removed", &path))?;
            }
        }
        Ok(this)
    }

    fn path(&self, meta: &SnapshotMeta) -> PathBuf {
        self.0.join(format!("snapshot-{}", meta.snapshot_id))
    }

    /// A file without a name, for a snapshot on its way in: nothing is left of it after a crash.
    pub fn incoming(&self, n: u64) -> Result<File, StoreError> {
        let path = self.0.join(format!("incoming-{n}"));
        // One that was left by a crash between the next two calls.
        fsx::remove_file(&path).map_err(failed("removed", &path))?;
        let file = fsx::create_new(&path, 0o600).map_err(failed("made", &path))?;
        fsx::remove_file(&path).map_err(failed("removed", &path))?;
        Ok(file)
    }

    /// Opens a snapshot that the store names, and checks all of it.
    pub fn read(&self, meta: &SnapshotMeta) -> Result<File, StoreError> {
        let path = self.path(meta);
        let mut file = fsx::open_read(&path).map_err(failed("opened", &path))?;
        let (begin, _) = check(&mut file, &path, |_| Ok(()))?;
        matches(&begin, meta, &path)?;
        Ok(file)
    }

    /// Forgets the named snapshot if it is missing or damaged, and says so: the records that it was made of are in the
    /// store and were found whole, so a new one is made of them. A disk that cannot be read is still an error.
    pub fn repair(&self, ledger: &mut Ledger) -> Result<Option<String>, StoreError> {
        let Some(meta) = ledger.head.snapshot.clone() else { return Ok(None) };
        let why = match self.read(&meta) {
            Ok(_) => return Ok(None),
            Err(e @ StoreError::SnapshotDamaged { .. }) => e.to_string(),
            Err(StoreError::Snapshot { source, path, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                format!("the snapshot {} was missing", path.display())
            }
            Err(e) => return Err(e),
        };
        ledger.write(Durability::Immediate, |batch| {
            batch.head.snapshot = None;
            Ok(())
        })?;
        self.remove(Some(&meta))?;
        Ok(Some(why))
    }

    /// Writes the records of this moment to a new file, which is durable when this returns.
    pub fn build(&self, db: &Database, n: u64) -> Result<SnapshotMeta, StoreError> {
        let read = db.begin_read().map_err(unreadable)?;
        let head = tables::head(&read)?;
        let last_membership = head.membership.clone();
        let index = head.revision();
        let meta = SnapshotMeta { last_log_id: head.applied, last_membership, snapshot_id: format!("{n}-{index}") };
        let begin = Begin {
            format: FORMAT,
            applied: head.applied,
            membership: head.membership,
            next_seq: head.next_seq,
            last_time_ms: head.last_time_ms,
        };
        let path = self.path(&meta);
        let fail = || failed("written", &path);
        let file = fsx::create_new(&path, 0o600).map_err(fail())?;
        let mut out = Hashed { out: BufWriter::new(file), hash: Sha256::new() };
        let mut rows = 0;
        out.line(&begin).map_err(fail())?;
        tables::each_row(&read, |key, value, _| {
            if planted(Bug::SnapshotWithoutLeases) && key.starts_with("lease/") {
                return Ok(());
            }
            rows += 1;
            let value: &RawValue = serde_json::from_slice(value).map_err(|e| StoreError::Damaged(e.to_string()))?;
            out.line(&(key, value)).map_err(fail())
        })?;
        let sha256 = hex(&out.hash.clone().finalize());
        out.line(&End { rows, sha256 }).map_err(fail())?;
        let file = out.out.into_inner().map_err(|e| fail()(e.into_error()))?;
        self.keep(&file, &path)?;
        Ok(meta)
    }

    /// Copies a snapshot that came in to a file of this node, checks it and makes it the state: all older records are
    /// gone, and so are older snapshots.
    pub fn install(&self, ledger: &mut Ledger, meta: &SnapshotMeta, mut from: File) -> Result<State, StoreError> {
        let n = ledger.head.snapshots;
        let temporary = self.0.join(format!("copy-{n}"));
        let fail = |what| failed(what, &temporary);
        fsx::remove_file(&temporary).map_err(fail("removed"))?;
        let mut copy = fsx::create_new(&temporary, 0o600).map_err(fail("made"))?;
        from.rewind().map_err(fail("read"))?;
        std::io::copy(&mut from.take(SNAPSHOT_LEN_MAX + 1), &mut copy).map_err(fail("copied"))?;
        fsx::sync(&copy).map_err(fail("synced"))?;
        let mut state = State::default();
        let mut file = fsx::open_read(&temporary).map_err(fail("opened"))?;
        let (begin, _) = check(&mut file, &temporary, |line| {
            let (key, value) = row(line, &temporary)?;
            rows::load(&mut state, &key, value.get().as_bytes()).map_err(|what| damaged(&temporary, what))
        })?;
        matches(&begin, meta, &temporary)?;
        state.revision = begin.applied.map_or(0, |id| id.index);
        (state.next_seq, state.last_time_ms) = (begin.next_seq, begin.last_time_ms);
        let path = self.path(meta);
        fsx::rename(&temporary, &path).map_err(fail("renamed"))?;
        fsx::sync_dir(&self.0).map_err(fail("kept"))?;
        let old = ledger.head.snapshot.clone();
        ledger.write(Durability::Immediate, |batch| {
            batch.clear_rows()?;
            check(&mut file, &path, |line| {
                let (key, value) = row(line, &path)?;
                batch.put_rows([(key, Some(value.get().as_bytes().to_vec()))])
            })?;
            let head = &mut batch.head;
            head.applied = begin.applied;
            head.committed = head.committed.max(begin.applied);
            head.membership = begin.membership;
            (head.next_seq, head.last_time_ms) = (begin.next_seq, begin.last_time_ms);
            head.snapshot = Some(meta.clone());
            head.snapshots += 1;
            Ok(())
        })?;
        self.remove(old.as_ref().filter(|old| old.snapshot_id != meta.snapshot_id))?;
        Ok(state)
    }

    /// Removes the file of a snapshot that the store no longer names.
    pub fn remove(&self, meta: Option<&SnapshotMeta>) -> Result<(), StoreError> {
        let Some(path) = meta.map(|m| self.path(m)) else { return Ok(()) };
        fsx::remove_file(&path).map_err(failed("removed", &path))
    }

    fn keep(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        fsx::sync(file).and_then(|()| fsx::sync_dir(&self.0)).map_err(failed("synced", path))
    }
}

struct Hashed {
    out: BufWriter<File>,
    hash: Sha256,
}

impl Hashed {
    fn line(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.hash.update(&line);
        self.out.write_all(&line)
    }
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> StoreError {
    StoreError::SnapshotDamaged { path: path.to_owned(), what: what.to_string() }
}

fn row(line: &[u8], path: &Path) -> Result<(String, Box<RawValue>), StoreError> {
    serde_json::from_slice(line).map_err(|e| damaged(path, e))
}

/// What openraft says of a snapshot is what the snapshot says of itself.
fn matches(begin: &Begin, meta: &SnapshotMeta, path: &Path) -> Result<(), StoreError> {
    if begin.applied == meta.last_log_id && begin.membership == meta.last_membership {
        return Ok(());
    }
    Err(damaged(path, format_args!("it is of the moment {:?}, not of {:?}", begin.applied, meta.last_log_id)))
}

/// Reads a snapshot from its beginning, giving each record's line; leaves it at its beginning. Only when this returns is
/// what was given known to be right.
fn check(
    file: &mut File,
    path: &Path,
    mut give: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(Begin, End), StoreError> {
    file.rewind().map_err(failed("read", path))?;
    let mut input = BufReader::new(&mut *file).take(SNAPSHOT_LEN_MAX);
    let mut hash = Sha256::new();
    let first = line(&mut input, path)?.ok_or_else(|| damaged(path, "it is empty"))?;
    hash.update(&first);
    #[derive(Deserialize)]
    struct Format {
        format: u64,
    }
    match serde_json::from_slice::<Format>(&first).map_err(|e| damaged(path, e))?.format {
        FORMAT => {}
        other => return Err(StoreError::SnapshotNewer(other)),
    }
    let begin: Begin = serde_json::from_slice(&first).map_err(|e| damaged(path, e))?;
    let mut held = line(&mut input, path)?.ok_or_else(|| damaged(path, "its end is missing"))?;
    let mut count = 0;
    // The last line is known only when no other follows.
    while let Some(next) = line(&mut input, path)? {
        give(&held)?;
        hash.update(&held);
        count += 1;
        held = next;
    }
    let end: End = serde_json::from_slice(&held).map_err(|_| damaged(path, "its end is missing"))?;
    if end.rows != count || end.sha256 != hex(&hash.finalize()) {
        return Err(damaged(path, "its checksum is wrong"));
    }
    file.rewind().map_err(failed("read", path))?;
    Ok((begin, end))
}

fn line(input: &mut impl BufRead, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let mut line = Vec::new();
    input.take(SNAPSHOT_LINE_LEN_MAX).read_until(b'\n', &mut line).map_err(failed("read", path))?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(damaged(path, "its last line is cut")),
    }
}
