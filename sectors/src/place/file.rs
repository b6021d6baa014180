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

    /// Writes at an offset, bytes from the file's start. No place is written twice.
    ///
    /// Long runs of zeros get their room and no bytes: the file is new, so they are there already. It is no sparser for
    /// that than what was backed up.
    pub fn write_at(&self, content: &[u8], offset: u64) -> Result<(), PlaceError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        runs(content).try_for_each(|run| self.write_run(run, offset)).map_err(PlaceError::of("write the file"))
    }

    fn write_run(&self, run: Run<'_>, offset: u64) -> std::io::Result<()> {
        let at = offset + run.start as u64;
        if run.zero && fsx::allocate(&self.file, at, run.content.len() as u64)? {
            return Ok(());
        }
        fsx::write_all_at(&self.file, run.content, at)
    }

    /// Gives the file its owner, mode, attributes and times: after its content, and once.
    pub fn finish(&self, meta: &Meta, xattrs: &Xattrs) -> Placed {
        Ok(dress(&self.file, &self.now, meta, xattrs))
    }
}

/// Zeros are looked for in pieces of this length: shorter runs cost more to set apart than to write.
const PIECE: usize = 64 << 10;
static ZEROS: [u8; PIECE] = [0; PIECE];

/// Neighbouring pieces that are all zeros, or all not.
struct Run<'a> {
    zero: bool,
    start: usize,
    content: &'a [u8],
}

/// Cuts content into runs.
fn runs(content: &[u8]) -> impl Iterator<Item = Run<'_>> {
    let is_zero = |piece: &[u8]| piece.len() == PIECE && piece == &ZEROS[..];
    let mut start = 0;
    std::iter::from_fn(move || {
        let mut pieces = content.get(start..)?.chunks(PIECE);
        let first = pieces.next()?;
        let zero = is_zero(first);
        let more: usize = pieces.take_while(|p| is_zero(p) == zero).map(<[u8]>::len).sum();
        let run = Run { zero, start, content: content.get(start..start + first.len() + more)? };
        start += run.content.len();
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_the_whole_content_and_zeros_are_zeros(
            pieces in proptest::collection::vec((any::<bool>(), 1usize..=PIECE), 0..6),
        ) {
            let content: Vec<u8> = pieces.iter().flat_map(|(zero, len)| vec![u8::from(!zero); *len]).collect();
            let mut at = 0;
            for run in runs(&content) {
                prop_assert_eq!(run.start, at);
                prop_assert!(!run.content.is_empty());
                prop_assert!(!run.zero || run.content.iter().all(|b| *b == 0));
                at += run.content.len();
            }
            prop_assert_eq!(at, content.len());
        }
    }

    #[test]
    fn a_megabyte_of_zeros_between_data_is_one_run_and_is_allocated() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let (mut content, len) = (vec![7u8; 3 * PIECE], 16 * PIECE);
        content.extend(vec![0; len]);
        content.extend([7; 100]);
        let all: Vec<(bool, usize)> = runs(&content).map(|r| (r.zero, r.content.len())).collect();
        assert_eq!(all, [(false, 3 * PIECE), (true, len), (false, 100)]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = std::fs::File::create_new(&path).unwrap();
        file.set_len(content.len() as u64).unwrap();
        for run in runs(&content) {
            let at = run.start as u64;
            if !run.zero || !fsx::allocate(&file, at, run.content.len() as u64).unwrap() {
                file.write_all_at(run.content, at).unwrap();
            }
        }
        assert_eq!(std::fs::read(&path).unwrap(), content);
        let room = std::fs::metadata(&path).unwrap().blocks() * 512;
        assert!(room >= content.len() as u64, "{room} bytes of room for {}", content.len());
    }
}
