//! D6: everything that a checkpoint needs is there; and no target loses what the head that it shows leads to.

use std::collections::{BTreeMap, BTreeSet};

use zoneward_sectors::ids::{CopyId, SectorId};

use super::eyes::{First, Found, inner};
use crate::command::Command;
use crate::keep::{self, Needed};
use crate::model::State;

#[derive(Default)]
pub struct Reach {
    /// What the checkpoints needed of which a system sector tells.
    told: BTreeMap<SectorId, BTreeSet<SectorId>>,
    /// The system sector of each head.
    heads: BTreeMap<u64, SectorId>,
}

impl Reach {
    pub fn entry(&mut self, e: &First<'_>, found: &mut Found) {
        match inner(e.command).1 {
            Command::StoreCheckpoint { .. } | Command::AbandonCheckpoint { .. } | Command::SealSector { .. } => {
                whole(e.state, found);
            }
            Command::OpenSector { sector, system: true, .. } => {
                self.told.insert(*sector, complete(e.state).sectors);
            }
            Command::PublishHead { n, sector, .. } => drop(self.heads.insert(*n, *sector)),
            _ => {}
        }
    }

    /// A copy's file is removed.
    pub fn removes(&self, state: &State, copy: CopyId, found: &mut Found) {
        let Some(c) = state.copies.get(&copy).filter(|c| c.unneeded.is_some()) else { return };
        let shown = state.targets.get(&c.target).and_then(|t| t.pointer).map(|p| p.n);
        let told = shown.and_then(|n| self.heads.get(&n)).and_then(|s| self.told.get(s));
        found.demand(told.is_some_and(|t| !t.contains(&c.sector)), "D6", || {
            format!("the copy {copy} goes and the head that its target shows, {shown:?}, leads to it")
        });
    }
}

fn complete(state: &State) -> Needed {
    keep::needed(state, state.checkpoints.values().filter(|c| c.is_complete()))
}

fn whole(state: &State, found: &mut Found) {
    let needed = complete(state);
    let layers = needed.layers.iter().all(|l| state.layers.contains_key(l));
    found.demand(layers, "D6", || "a checkpoint needs a layer that is not there".into());
    let sectors = needed.sectors.iter().all(|s| state.sectors.get(s).is_some_and(|s| s.is_sealed()));
    found.demand(sectors, "D6", || "a checkpoint needs a sector that is not there".into());
}
