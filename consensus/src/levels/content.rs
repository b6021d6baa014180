//! What the zone holds of each source, and which sectors that lies in.
//!
//! Each layer of a catalog says which sectors its parts lie in, and which others hold content that it names. A layer of an
//! older release says only the former: then all that was ever stored of its source is counted.

use std::collections::{BTreeMap, BTreeSet};

use zoneward_sectors::ids::{LayerId, SectorId, SourceId, TargetId};

use super::Cause;
use crate::model::{CopyState, State, TaskState};

/// What a source held at one checkpoint.
#[derive(Debug)]
pub struct Version {
    /// Number of the checkpoint.
    pub seq: u64,
    pub as_of_ms: u64,
    /// The layers that its content is named in; all of the source's if one of them does not tell where it lies.
    layers: Vec<LayerId>,
}

/// All that is stored of one source.
#[derive(Debug, Default)]
pub struct Held {
    /// Newest first.
    pub versions: Vec<Version>,
    /// The sectors that each layer needs.
    sectors: BTreeMap<LayerId, BTreeSet<SectorId>>,
}

impl Held {
    /// The sectors that a version needs.
    pub fn needs(&self, version: &Version) -> BTreeSet<SectorId> {
        version.layers.iter().filter_map(|l| self.sectors.get(l)).flatten().copied().collect()
    }

    /// The newest version of those made from what is `there`, and `fits`.
    pub fn newest_of(&self, there: impl Fn(SectorId) -> bool, fits: impl Fn(&Version) -> bool) -> Option<&Version> {
        let broken = |(_, s): &(&LayerId, &BTreeSet<SectorId>)| !s.iter().all(|s| there(*s));
        let broken: BTreeSet<LayerId> = self.sectors.iter().filter(broken).map(|(l, _)| *l).collect();
        self.versions.iter().find(|v| fits(v) && !v.layers.iter().any(|l| broken.contains(l)))
    }
}

/// What is stored, and where.
#[derive(Debug)]
pub struct Content {
    held: BTreeMap<SourceId, Held>,
    /// Targets with a stored copy.
    on: BTreeMap<SectorId, BTreeSet<TargetId>>,
    /// Nothing is held of a source that is not named above.
    nothing: Held,
}

impl Content {
    pub fn of(state: &State) -> Self {
        let mut on: BTreeMap<SectorId, BTreeSet<TargetId>> = BTreeMap::new();
        for c in state.copies.values().filter(|c| c.is_stored() && state.targets.contains_key(&c.target)) {
            on.entry(c.sector).or_default().insert(c.target);
        }
        Self { held: held(state), on, nothing: Held::default() }
    }

    pub fn of_source(&self, source: SourceId) -> &Held {
        self.held.get(&source).unwrap_or(&self.nothing)
    }

    /// The targets that hold a copy of a sector.
    pub fn targets_of(&self, sector: SectorId) -> impl Iterator<Item = TargetId> {
        self.on.get(&sector).into_iter().flatten().copied()
    }

    /// Those of them that are to go on holding it.
    fn staying(&self, state: &State, sector: SectorId) -> impl Iterator<Item = TargetId> {
        self.targets_of(sector).filter(|t| state.targets.get(t).is_some_and(|t| !t.leaving))
    }

    /// Sectors that the newest content of the zone's sources lies in.
    pub fn in_use(&self, state: &State) -> BTreeSet<SectorId> {
        let newest = state.sources.keys().map(|s| self.of_source(*s));
        newest.filter_map(|h| h.versions.first().map(|v| h.needs(v))).flatten().collect()
    }

    /// What is to be known of copies that sectors in use still lack, if they do.
    pub fn missing(&self, state: &State) -> Option<Cause> {
        let (mut copies, mut short) = (0, false);
        for s in self.in_use(state).iter().filter_map(|s| state.sectors.get(s)) {
            let lacks = u64::from(s.copies_wanted).saturating_sub(self.staying(state, s.id).count() as u64);
            copies += lacks;
            short |= lacks > self.room(state, s.id);
        }
        (copies > 0).then_some(Cause::CopiesMissing { copies, short })
    }

    /// How many more copies of a sector the zone's targets have room for: one for each target and failure domain.
    fn room(&self, state: &State, sector: SectorId) -> u64 {
        let domain = |t: &TargetId| state.targets.get(t).and_then(|t| t.domain.as_deref());
        let mut used: Vec<TargetId> = self.staying(state, sector).collect();
        let before = used.len();
        for t in state.usable_targets() {
            if used.iter().all(|u| *u != t.id && (t.domain.is_none() || domain(u) != t.domain.as_deref())) {
                used.push(t.id);
            }
        }
        (used.len() - before) as u64
    }

    /// Sectors in use, and what tells of them.
    fn needed(&self, state: &State) -> BTreeSet<SectorId> {
        let system = crate::plan::newest_system(state).map(|s| s.id);
        self.in_use(state).into_iter().chain(system).collect()
    }

    /// Copies in use that nobody has looked at for too long.
    pub fn unaudited(&self, state: &State, now_ms: u64) -> Option<Cause> {
        let long_ms = 2 * u64::from(state.policy.audits.every_s) * 1000;
        let used = self.needed(state);
        let old = state.copies.values().filter(|c| c.is_stored() && used.contains(&c.sector));
        let old: Vec<_> = old.filter(|c| now_ms.saturating_sub(c.proved_ms()) > long_ms).collect();
        let oldest = old.iter().min_by_key(|c| (c.proved_ms(), c.id))?;
        Some(Cause::Unaudited { copies: old.len() as u64, target: super::target_name(state, oldest.target) })
    }

    /// Copies that are damaged or lost and not replaced: neither on their target nor, in number, elsewhere; with the
    /// targets they lay on.
    pub fn damaged(&self, state: &State) -> (u64, BTreeSet<TargetId>) {
        let used = self.needed(state);
        let bad = state.copies.values().filter(|c| matches!(c.state, CopyState::Damaged | CopyState::Lost));
        let open = bad.filter(|c| used.contains(&c.sector)).filter(|c| {
            let wanted = state.sectors.get(&c.sector).map_or(0, |s| usize::from(s.copies_wanted));
            self.targets_of(c.sector).all(|t| t != c.target) && self.targets_of(c.sector).count() < wanted
        });
        let open: Vec<TargetId> = open.map(|c| c.target).collect();
        (open.len() as u64, open.into_iter().collect())
    }

    /// Sectors of which nothing is left and that only older content, or content of removed sources, lies in.
    pub fn damaged_before(&self, state: &State) -> u64 {
        let used = self.in_use(state);
        let all = self.held.values().filter(|h| !h.versions.is_empty()).flat_map(|h| h.sectors.values().flatten());
        let gone: BTreeSet<SectorId> =
            all.copied().filter(|s| !used.contains(s) && self.targets_of(*s).next().is_none()).collect();
        gone.len() as u64
    }

    /// The newest checkpoint that these targets can tell of by themselves: its system data lies there.
    pub fn told_by(&self, state: &State, target: impl Fn(TargetId) -> bool) -> u64 {
        let systems = state.sectors.values().filter(|s| s.system && s.is_sealed());
        let there = systems.filter(|s| self.targets_of(s.id).any(&target));
        there.filter_map(|s| state.checkpoints.get(&s.checkpoint)).map(|c| c.seq).max().unwrap_or(0)
    }
}

fn held(state: &State) -> BTreeMap<SourceId, Held> {
    let mut all: BTreeMap<SourceId, Held> = BTreeMap::new();
    for l in state.layers.values() {
        let sectors = all.entry(l.source).or_default().sectors.entry(l.id).or_default();
        sectors.extend(l.parts.iter().map(|p| p.sector).chain(l.refs.iter().flatten().copied()));
    }
    for c in state.complete() {
        for t in &c.tasks {
            let held = all.entry(t.source).or_default();
            // What was taken over from an earlier checkpoint is that one's.
            if held.versions.last().is_some_and(|v| v.as_of_ms == t.as_of_ms && t.state == TaskState::Carried) {
                continue;
            }
            let tells = |l: &LayerId| state.layers.get(l).is_some_and(|l| l.refs.is_some());
            let layers = match t.layers.iter().all(tells) {
                true => t.layers.clone(),
                false => held.sectors.keys().copied().collect(),
            };
            held.versions.push(Version { seq: c.seq, as_of_ms: t.as_of_ms, layers });
        }
    }
    all.values_mut().for_each(|h| h.versions.reverse());
    all
}
