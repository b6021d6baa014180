//! Which sectors this process is writing: a dumb store cannot keep a second writer out.
//!
//! Writers in other processes are not seen here. They do no harm: the bytes of a copy are decided before its first byte
//! leaves, so that two writers of one copy write the same, and the zone lets one node work on a copy at a time.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use zoneward_sectors::ids::{CopyId, ZoneAlias};

type Key = (String, ZoneAlias, CopyId);

static HELD: Mutex<BTreeSet<Key>> = Mutex::new(BTreeSet::new());

fn all() -> MutexGuard<'static, BTreeSet<Key>> {
    HELD.lock().unwrap_or_else(|e| e.into_inner())
}

/// A sector in the hands of one writer, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held(Key);

impl Held {
    /// Takes a sector of the store at `url`; `None` if somebody has it.
    pub fn take(url: &str, alias: ZoneAlias, copy: CopyId) -> Option<Self> {
        let key = (url.to_owned(), alias, copy);
        let new = all().insert(key.clone());
        // Only what was taken may be let go of.
        new.then(|| Self(key))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        all().remove(&self.0);
    }
}
