//! D3: a copy counts only after its target has sealed all of it; two copies of one sector never share target or failure
//! domain.

use zoneward_sectors::ids::CopyId;

use super::eyes::{First, Found, inner};
use super::segments::Segments;
use crate::command::Command;
use crate::model::{CopyState, State};

#[derive(Default)]
pub struct Copies;

impl Copies {
    pub fn entry(&mut self, e: &First<'_>, segments: &Segments, found: &mut Found) {
        match inner(e.command).1 {
            Command::SealSector { copy, .. } | Command::StoreCopy { copy, .. } => {
                counts(e.state, *copy, segments, found);
                apart(e.state, *copy, found);
            }
            Command::OpenCopy { copy, .. } => apart(e.state, *copy, found),
            _ => {}
        }
    }
}

fn counts(state: &State, copy: CopyId, segments: &Segments, found: &mut Found) {
    // A later entry of the same batch may have taken it out again.
    let Some(c) = state.copies.get(&copy).filter(|c| c.is_stored()) else { return };
    let sealed = state.sectors.get(&c.sector).is_some_and(|s| s.is_sealed());
    found.demand(sealed, "D3", || format!("the copy {copy} counts and its sector is not sealed"));
    let whole = segments.is_sealed(copy);
    found.demand(whole, "D3", || format!("the copy {copy} counts and its target has not sealed it"));
}

fn apart(state: &State, copy: CopyId, found: &mut Found) {
    let Some(c) = state.copies.get(&copy) else { return };
    let domain = |t| state.targets.get(&t).and_then(|t| t.domain.as_deref());
    let stands = |s| matches!(s, CopyState::Open | CopyState::Stored);
    if !stands(c.state) {
        return;
    }
    for k in state.copies.values().filter(|k| k.sector == c.sector && k.id != copy && stands(k.state)) {
        let together = k.target == c.target || (domain(k.target).is_some() && domain(k.target) == domain(c.target));
        found.demand(!together, "D3", || format!("the copies {copy} and {} lie together", k.id));
    }
}
