//! D5: each segment of each copy has had one plaintext, in all of history: its key and nonce have sealed one thing.
//!
//! The simulated targets: they keep what uploaders send, and never refuse an old holder, as real ones cannot.

use std::collections::{BTreeMap, BTreeSet};

use zoneward_sectors::ids::{CopyId, Digest};

use super::eyes::Found;

/// Segments of each copy.
pub const SEGMENTS: u32 = 3;

#[derive(Default)]
pub struct Segments {
    /// What each segment was made of, removed or not.
    ever: BTreeMap<(CopyId, u32), Digest>,
    /// Segments that are there, from the first on.
    there: BTreeMap<CopyId, u32>,
    sealed: BTreeSet<CopyId>,
}

impl Segments {
    /// An uploader writes a segment with this plaintext.
    pub fn write(&mut self, copy: CopyId, segment: u32, plain: Digest, found: &mut Found) {
        let first = *self.ever.entry((copy, segment)).or_insert(plain);
        found.demand(first == plain, "D5", || format!("segment {segment} of the copy {copy} has two plaintexts"));
        let there = self.there.entry(copy).or_default();
        *there = (*there).max(segment + 1);
    }

    /// How much of a copy is there.
    pub fn len(&self, copy: CopyId) -> u32 {
        self.there.get(&copy).copied().unwrap_or(0)
    }

    /// Seals a copy, if it is whole.
    pub fn seal(&mut self, copy: CopyId) -> bool {
        let whole = self.len(copy) == SEGMENTS;
        if whole {
            self.sealed.insert(copy);
        }
        whole
    }

    pub fn is_sealed(&self, copy: CopyId) -> bool {
        self.sealed.contains(&copy)
    }

    pub fn remove(&mut self, copy: CopyId) {
        self.there.remove(&copy);
        self.sealed.remove(&copy);
    }

    /// Segments written so far, each counted once.
    pub fn written(&self) -> u64 {
        self.ever.len() as u64
    }
}
