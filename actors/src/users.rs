//! A user's data and settings, taken from one zone to another.
//!
//! An export is a small zone of its own: one target, one checkpoint, an owner key that is the user's. So everything that
//! opens a zone opens it. [`key`] makes that key; [`export`] writes it, from what is stored, under fresh secrets;
//! [`plan`] compares what he had with what another zone grants, without a change; [`import`] brings it there.

pub mod export;
pub mod import;
pub mod key;
pub mod plan;

use std::io;
use std::path::{Path, PathBuf};

use zoneward_sectors::fsx;
use zoneward_sectors::pack::PackError;
use zoneward_sectors::restore::RestoreReport;
use zoneward_targets::Url;

use crate::errors::ZoneError;
use crate::recover::RecoverError;

/// Why a user's data is not taken along.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error(transparent)]
    Zone(#[from] ZoneError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
    #[error("the user {0} has no key of his own yet")]
    NoKey(String),
    #[error("the user {0} is locked")]
    Locked(String),
    #[error("checkpoint {seq} holds nothing of the user {name}")]
    Nothing { name: String, seq: u64 },
    #[error("an export to {0} was cut, and it was of another checkpoint or of other sources")]
    OtherExport(String),
    #[error("the export is whole but could not be published: {0}")]
    Unpublished(String),
    #[error("this is no export of a user: {0}")]
    NotAnExport(&'static str),
    #[error("the note on this import, {0}, cannot be used")]
    Note(PathBuf),
    #[error("not all could be brought back: {} failed", .0.failed_count)]
    Incomplete(Box<RestoreReport>),
    #[error("{what} {path}")]
    Place { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("something came to be at {0} since the import began")]
    Taken(PathBuf),
    #[error("there is not enough room where {place} lies: about {needs} bytes are needed and {free} are free")]
    Room { place: PathBuf, needs: u64, free: u64 },
}

impl UserError {
    /// Whether somebody asked it to stop.
    pub fn is_interrupt(&self) -> bool {
        use zoneward_sectors::restore::RestoreError;
        matches!(
            self,
            Self::Zone(
                ZoneError::Interrupted
                    | ZoneError::Pack(PackError::Interrupted)
                    | ZoneError::Restore(RestoreError::Interrupted)
            )
        )
    }
}

/// What stands for a place in the name of a folder.
fn of_url(url: &Url) -> String {
    let hash = zoneward_sectors::crypto::sha256(&[url.to_string().as_bytes()]).to_string();
    hash.chars().take(16).collect()
}

/// Removes a folder and all that is in it: all at once for whoever comes after a crash.
fn remove_all(dir: &Path) -> Result<(), UserError> {
    let mut gone = dir.as_os_str().to_owned();
    gone.push(".gone");
    let gone = PathBuf::from(gone);
    remove_slowly(&gone)?;
    match fsx::rename(dir, &gone) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        r => r.map_err(|e| UserError::Place { what: "cannot remove", path: dir.to_owned(), source: e })?,
    }
    remove_slowly(&gone)
}

/// What a cut removal left of it is in nobody's way.
fn remove_slowly(dir: &Path) -> Result<(), UserError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(UserError::Place { what: "cannot remove", path: dir.to_owned(), source: e })
        }
        _ => Ok(()),
    }
}
