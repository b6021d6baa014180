//! C5: equal revision, equal state, on all nodes and at all times.

use std::collections::BTreeMap;

use zoneward_sectors::ids::Digest;

use super::Seen;

#[derive(Default)]
pub struct States(BTreeMap<u64, Digest>);

impl States {
    pub fn look(&mut self, seen: &Seen) {
        let Some((revision, hash)) = seen.state else { return };
        let first = *self.0.entry(revision).or_insert(hash);
        assert_eq!(first, hash, "{} has another state at revision {revision}", seen.node);
    }

    /// The newest revision that was seen.
    pub fn newest(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(r, _)| *r)
    }
}
