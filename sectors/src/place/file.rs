//! Files under way.

use std::fs::File;
use std::sync::{Mutex, PoisonError};

use super::dress::{Now, dress};
use super::{PlaceError, Placed};
use crate::entry::{Meta, Xattrs};
use crate::fsx;

/// A file that is being written, by any thread. It has its whole size from the start: what is not written is a hole.
#[derive(Debug)]
pub struct PlacedFile {
    file: File,
    /// The kernel lets one writer into a file at a time and has the others spin: here they sleep.
    turn: Mutex<()>,
    now: Now,
}

impl PlacedFile {
    pub(super) fn new(file: File, now: Now) -> Self {
        Self { file, turn: Mutex::default(), now }
    }

    /// Writes at an offset, bytes from the file's start.
    pub fn write_at(&self, content: &[u8], offset: u64) -> Result<(), PlaceError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        fsx::write_all_at(&self.file, content, offset).map_err(PlaceError::of("write the file"))
    }

    /// Gives the file its owner, mode, attributes and times: after its content, and once.
    pub fn finish(&self, meta: &Meta, xattrs: &Xattrs) -> Placed {
        Ok(dress(&self.file, &self.now, meta, xattrs))
    }
}
