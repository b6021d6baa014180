//! C8: the feature level never goes back; an entry of a newer release stops who cannot read it and is never skipped.

use super::eyes::Found;
use crate::command::{Entry, LEVEL};
use crate::model::State;

#[derive(Default)]
pub struct Levels(u32);

impl Levels {
    pub fn entry(&mut self, index: u64, entry: &Entry, state: &State, found: &mut Found) {
        found.demand(entry.level <= LEVEL, "C8", || {
            format!("entry {index} has level {} and was passed by a release that speaks {LEVEL}", entry.level)
        });
        let level = state.zone.as_ref().map_or(0, |z| z.feature_level);
        found.demand(level >= self.0, "C8", || format!("the feature level went back from {} to {level}", self.0));
        self.0 = level;
    }
}
