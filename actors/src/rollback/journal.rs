//! What a rollback is doing, so that whoever comes after a crash knows: one file in the home, replaced durably before each
//! step that it announces.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zoneward_consensus::model::path_text;
use zoneward_sectors::entry::{Kind, Meta, Stamp, Xattrs};
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CheckpointId, SourceId};

use super::RollbackError;
use crate::home::{Home, io_at};

/// The form of the journal.
const FORMAT: u32 = 1;
/// Longest journal that is read, in bytes: some hundred sources with long lists of what stays.
const JOURNAL_LEN_MAX: u64 = 16 << 20;

/// Bytes of a path or name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(#[serde(with = "path_text")] pub Vec<u8>);

impl Bytes {
    pub fn path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.0.clone()))
    }
}

/// How far a rollback is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// What the checkpoint holds is brought beside what is there. Nothing has changed places.
    Staging,
    /// Things change places.
    Swapping,
    /// All is as the checkpoint holds it; what was replaced is kept.
    Swapped,
    /// What was replaced comes back.
    Undoing,
    /// What was replaced is back; what had stood in its place is kept.
    Undone,
    /// What was kept is being deleted.
    Releasing,
}

impl Phase {
    /// Whether sources may be half of one state and half of another, so that nobody should read them.
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Staging | Self::Swapping | Self::Undoing)
    }
}

/// How far one source is. Each step is durable before what it announces is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// All is in its place.
    Waiting,
    /// What is there goes to `old`.
    Aside,
    /// What was staged takes its place, then the directory gets its attributes.
    In,
    Swapped,
    /// Undoing: what is in the place goes to `new`.
    Out,
    /// Undoing: what is in `old` comes back.
    Back,
    Undone,
}

/// Owner, mode, times and attributes of a directory that stays while what it holds changes places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dress {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_s: i64,
    pub mtime_ns: u32,
    pub xattrs: Vec<(Bytes, Bytes)>,
}

impl Dress {
    pub fn of(meta: &Meta, xattrs: &Xattrs) -> Self {
        Self {
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime_s: meta.mtime.secs,
            mtime_ns: meta.mtime.nanos,
            xattrs: xattrs.iter().map(|(n, v)| (Bytes(n.clone()), Bytes(v.clone()))).collect(),
        }
    }

    /// As an entry of a catalog has them.
    pub fn parts(&self) -> (Meta, Xattrs) {
        let mtime = Stamp { secs: self.mtime_s, nanos: self.mtime_ns };
        let meta = Meta {
            kind: Kind::Dir,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime,
            ctime: mtime,
            ino: 0,
            nlink: 2,
            size: 0,
            rdev: (0, 0),
        };
        (meta, self.xattrs.iter().map(|(n, v)| (n.0.clone(), v.0.clone())).collect())
    }
}

/// Where something lies, of the places that a swap knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Place,
    Old,
    New,
}

/// A directory that its owner may not write to is opened for the moment in which it is moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ajar {
    pub name: Bytes,
    pub ino: u64,
    pub mode: u32,
    pub from: Side,
    pub to: Side,
}

/// A source that changes places with what a checkpoint holds of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swap {
    pub source: SourceId,
    /// The source's own path, as it is shown.
    pub path: Bytes,
    /// The directory in which names change places: the source, or where its one name is.
    pub dir: Bytes,
    /// The one name that does; without it all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Bytes>,
    /// Names that stay as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stay: Vec<Bytes>,
    /// Name of the folder in the directory that has `new` and `old` in it.
    pub folder: String,
    pub step: Step,
    /// The directory's own attributes before, and as the checkpoint has them; nothing where one name changes alone.
    pub before: Option<Dress>,
    pub after: Option<Dress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ajar: Option<Ajar>,
    pub files: u64,
    pub bytes: u64,
}

impl Swap {
    /// The folder that has `new` and `old` in it.
    pub fn kept(&self) -> PathBuf {
        self.dir.path().join(&self.folder)
    }

    /// Whether a name in the directory changes places.
    pub fn moves(&self, name: &[u8]) -> bool {
        match &self.only {
            Some(only) => only.0 == name,
            None => name != self.folder.as_bytes() && self.stay.iter().all(|s| s.0 != name),
        }
    }
}

/// A rollback of this node's sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    format: u32,
    pub checkpoint: CheckpointId,
    pub seq: u64,
    pub started_ms: u64,
    pub phase: Phase,
    pub swaps: Vec<Swap>,
}

impl Journal {
    pub fn new(checkpoint: CheckpointId, seq: u64, started_ms: u64, swaps: Vec<Swap>) -> Self {
        Self { format: FORMAT, checkpoint, seq, started_ms, phase: Phase::Staging, swaps }
    }

    /// The rollback that is under way in a home, or whose leavings are kept.
    pub fn read(home: &Home) -> Result<Option<Self>, RollbackError> {
        let path = home.rollback();
        let bytes = match fsx::read_limited(&path, JOURNAL_LEN_MAX) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_at("read", &path)(e).into()),
        };
        let bad = |why: String| RollbackError::Journal { path: path.clone(), why };
        let journal: Self = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if journal.format != FORMAT {
            return Err(bad(format!("its form {} is not known here", journal.format)));
        }
        Ok(Some(journal))
    }

    pub fn write(&self, home: &Home) -> Result<(), RollbackError> {
        let path = home.rollback();
        let bad = |e: serde_json::Error| RollbackError::Journal { path: path.clone(), why: e.to_string() };
        let bytes = serde_json::to_vec_pretty(self).map_err(bad)?;
        fsx::write_durably(&path, &bytes, 0o600).map_err(io_at("write", &path))?;
        Ok(())
    }

    pub fn remove(home: &Home) -> Result<(), RollbackError> {
        let path = home.rollback();
        fsx::remove_file(&path).and_then(|()| fsx::sync_dir(home.dir())).map_err(io_at("remove", &path))?;
        Ok(())
    }

    pub fn files(&self) -> u64 {
        self.swaps.iter().map(|s| s.files).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.swaps.iter().map(|s| s.bytes).sum()
    }
}
