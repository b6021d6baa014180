//! Write-only sources: what is stored of them only the owner's key opens. The zone needs the key of a copy to make further
//! copies with keys of their own; when those are made it forgets all of them. What is lost later is made anew by relaying
//! stored bytes.

use std::collections::{BTreeMap, BTreeSet};

use zoneward_sectors::ids::{LayerId, SectorId, SourceId};

use crate::limits::FORGET_KEYS_MAX;
use crate::model::{CheckpointState, Copy, CopyState, RawSector, State};
use crate::work::Work;

/// Sectors whose keys are to be forgotten now.
pub fn due(state: &State) -> Vec<SectorId> {
    // Nearly always there is none.
    let waiting: BTreeSet<SectorId> = with_keys(state).collect();
    if waiting.is_empty() {
        return Vec::new();
    }
    let (replaced, all) = (state.replaced_systems(), copies_of(state, &waiting));
    let places: BTreeSet<_> = state.usable_targets().map(|t| t.domain.clone().ok_or(t.id)).collect();
    let is_due = |s: &RawSector, copies: &[&Copy]| {
        if s.system {
            return replaced.contains(&s.id);
        }
        // Until its checkpoint is closed, another node may have to go on with what was packed.
        let open = state.checkpoints.get(&s.checkpoint).is_some_and(|c| c.state == CheckpointState::Running);
        let stored = copies.iter().filter(|c| c.is_stored() && state.stays(c)).count();
        !open && stored >= usize::from(s.copies_wanted).min(places.len()).max(1)
    };
    let due = all.into_iter().filter(|(id, copies)| {
        let sector = state.sectors.get(id);
        sector.is_some_and(|s| is_due(s, copies) && may_forget(state, s, copies))
    });
    due.map(|(id, _)| id).take(FORGET_KEYS_MAX).collect()
}

/// Write-only sectors that the zone can still read.
pub fn with_keys(state: &State) -> impl Iterator<Item = SectorId> + '_ {
    let readable = |c: &&Copy| !c.is_keyless() && state.sectors.get(&c.sector).is_some_and(|s| s.write_only);
    state.copies.values().filter(readable).map(|c| c.sector)
}

/// The copies of some sectors.
pub(crate) fn copies_of<'a>(state: &'a State, sectors: &BTreeSet<SectorId>) -> BTreeMap<SectorId, Vec<&'a Copy>> {
    let mut out: BTreeMap<SectorId, Vec<&Copy>> = BTreeMap::new();
    for c in state.copies.values().filter(|c| sectors.contains(&c.sector)) {
        out.entry(c.sector).or_default().push(c);
    }
    out
}

/// Whether a sector can do without keys: it is complete, nobody is making a copy of it, and each of its copies can be known
/// by its stored bytes.
pub(crate) fn may_forget(state: &State, s: &RawSector, copies: &[&Copy]) -> bool {
    let under_way = |c: &&Copy| c.state == CopyState::Open || (c.is_stored() && c.stored_id.is_none());
    let mut held = state.leases.values().flat_map(|l| &l.work);
    s.write_only
        && s.is_sealed()
        && !copies.iter().any(under_way)
        && !held.any(|w| matches!(w, Work::Copy { sector, .. } if *sector == s.id))
}

impl State {
    /// Whether the zone cannot read a sector: no copy has a key.
    pub fn is_keyless(&self, sector: SectorId) -> bool {
        let write_only = self.sectors.get(&sector).is_some_and(|s| s.write_only && s.is_sealed());
        write_only && self.copies.values().filter(|c| c.sector == sector).all(Copy::is_keyless)
    }

    /// All sectors that the zone cannot read.
    pub fn keyless(&self) -> BTreeSet<SectorId> {
        let mut out: BTreeSet<SectorId> =
            self.sectors.values().filter(|s| s.write_only && s.is_sealed()).map(|s| s.id).collect();
        if !out.is_empty() {
            for c in self.copies.values().filter(|c| !c.is_keyless()) {
                out.remove(&c.sector);
            }
        }
        out
    }

    /// Sectors that layers lie in, or name content in; and whether all of that was recorded.
    pub fn needed_by<'a>(&self, layers: impl IntoIterator<Item = &'a LayerId>) -> (BTreeSet<SectorId>, bool) {
        let (mut out, mut all_known) = (BTreeSet::new(), true);
        for l in layers.into_iter().filter_map(|l| self.layers.get(l)) {
            out.extend(l.parts.iter().map(|p| p.sector));
            out.extend(l.refs.iter().flatten().copied());
            all_known &= l.refs.is_some();
        }
        (out, all_known)
    }

    /// Sectors of a source, stored before it was write-only, that no other source needs the zone to read.
    pub(crate) fn older_of(&self, source: SourceId) -> BTreeSet<SectorId> {
        let write_only = |id: SourceId| id == source || self.source_ever(id).is_some_and(|s| s.write_only);
        let (mine, others): (Vec<_>, Vec<_>) = self.layers.values().partition(|l| write_only(l.source));
        let (readable, known) = self.needed_by(others.iter().map(|l| &l.id));
        if !known {
            return BTreeSet::new();
        }
        let (needed, _) = self.needed_by(mine.iter().filter(|l| l.source == source).map(|l| &l.id));
        let data = |id: &SectorId| self.sectors.get(id).is_some_and(|s| s.is_sealed() && !s.system);
        needed.difference(&readable).copied().filter(data).collect()
    }
}
