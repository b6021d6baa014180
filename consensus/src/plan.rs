//! What should be done next, given what is: pure, idempotent, bounded. The whole scheduler of the pipeline behind packing.
//! When stored copies are looked at again is planned by itself ([`crate::audits`]).

use std::collections::{BTreeMap, BTreeSet};

use zoneward_sectors::ids::{CheckpointId, NodeId, SectorId, SourceId, TargetId};

use crate::limits::{PLAN_COPY_MAX, PLAN_MAX, PLAN_REMOVE_MAX, PLAN_STAGE_MAX};
use crate::model::{Checkpoint, CheckpointState, Copy, CopyState, RawSector, Standing, State, Target, TaskState};

pub use crate::work::Work;

/// What is to be done.
///
/// Every target gets the same share of a round, so that one that does not answer keeps nothing from the others.
pub fn plan(state: &State, _now_ms: u64) -> Vec<Work> {
    let mut out = Vec::new();
    let mut shares = Shares::of(PLAN_REMOVE_MAX, state.targets.len());
    for c in state.copies.values().filter(|c| c.state == CopyState::Abandoned && c.unneeded.is_none()) {
        if shares.take(c.target) {
            out.push(Work::RemoveIncoming { target: c.target, copy: c.id });
        }
    }
    for c in state.checkpoints.values().filter(|c| c.state == CheckpointState::Running) {
        out.push(Work::ResumeCheckpoint { checkpoint: c.id });
        packs(state, c, &mut out);
    }
    // On each target data first, then the system data that speaks of it, then the head that points at that.
    let newest = newest_system(state);
    let placed = placed(state);
    let data: Vec<&RawSector> = state.sectors.values().filter(|s| s.is_sealed() && !s.system).collect();
    let busy = copies(state, data, &placed, &BTreeSet::new(), &mut out);
    stages(state, &mut out);
    systems(state, &mut out);
    // Older system sectors need no further copies: nothing points at them. The one before the newest is looked after as
    // long as a target may show it, so what is lost of it is made anew.
    let replaced = state.replaced_systems();
    let hurt = |s: &&RawSector| {
        let bad = |c: &Copy| c.sector == s.id && matches!(c.state, CopyState::Damaged | CopyState::Lost);
        s.system && s.is_sealed() && !replaced.contains(&s.id) && state.copies.values().any(bad)
    };
    let mut systems: Vec<&RawSector> = state.sectors.values().filter(hurt).collect();
    systems.retain(|s| newest.is_none_or(|n| n.id != s.id));
    systems.extend(newest);
    copies(state, systems, &placed, &busy, &mut out);
    heads(state, newest, &mut out);
    unneeded(state, &placed, &mut shares, &mut out);
    out.truncate(PLAN_MAX);
    out
}

/// What a checkpoint no longer needed goes from a target that shows a head of that checkpoint or a later one, for an older
/// head leads to it; and not before what was written instead has its copies.
fn unneeded(state: &State, placed: &BTreeMap<SectorId, Vec<&Copy>>, shares: &mut Shares, out: &mut Vec<Work>) {
    let Some(head) = &state.head else { return };
    let shown = state.checkpoints.get(&head.checkpoint).map_or(0, |c| c.seq);
    let shows = |t: &TargetId| state.targets.get(t).and_then(|t| t.pointer).is_some_and(|p| p.n == head.n);
    let places: BTreeSet<_> = state.usable_targets().map(|t| t.domain.clone().ok_or(t.id)).collect();
    let waits = |s: &&RawSector| {
        let stored = placed.get(&s.id).into_iter().flatten().filter(|c| c.is_stored() && state.stays(c)).count();
        !s.system && stored < usize::from(s.copies_wanted).min(places.len())
    };
    let waiting: BTreeSet<CheckpointId> = state.sectors.values().filter(waits).map(|s| s.checkpoint).collect();
    // What a checkpoint wrote that is gone by now may stand instead of anything.
    let Some(waiting) =
        waiting.iter().map(|c| state.checkpoints.get(c).map(|c| c.seq)).collect::<Option<BTreeSet<u64>>>()
    else {
        return;
    };
    for c in state.copies.values().filter(|c| c.state == CopyState::Abandoned) {
        let due = c.unneeded.is_some_and(|seq| seq <= shown && !waiting.contains(&seq));
        if due && shows(&c.target) && shares.take(c.target) {
            out.push(Work::RemoveIncoming { target: c.target, copy: c.id });
        }
    }
}

/// The sources that are still to be packed, the most important first.
fn packs(state: &State, c: &Checkpoint, out: &mut Vec<Work>) {
    let mut open: Vec<SourceId> = c.tasks.iter().filter(|t| t.state == TaskState::Running).map(|t| t.source).collect();
    open.sort_by_key(|s| (std::cmp::Reverse(state.sources.get(s).map(|s| s.priority)), *s));
    if open.is_empty() {
        out.push(Work::StoreCheckpoint { checkpoint: c.id });
    }
    out.extend(open.into_iter().take(PLAN_COPY_MAX).map(|source| Work::Pack { checkpoint: c.id, source }));
}

/// How much of a round each target may still take.
pub(crate) struct Shares {
    each: usize,
    /// What all together may still take.
    left: usize,
    taken: BTreeMap<TargetId, usize>,
}

impl Shares {
    pub(crate) fn of(all: usize, targets: usize) -> Self {
        Self { each: (all / targets.max(1)).max(1), left: all, taken: BTreeMap::new() }
    }

    pub(crate) fn take(&mut self, target: TargetId) -> bool {
        let taken = self.taken.entry(target).or_default();
        if self.left == 0 || *taken >= self.each {
            return false;
        }
        *taken += 1;
        self.left -= 1;
        true
    }
}

/// Copies by sector that are stored or on their way.
fn placed(state: &State) -> BTreeMap<SectorId, Vec<&Copy>> {
    let mut out: BTreeMap<SectorId, Vec<&Copy>> = BTreeMap::new();
    for c in state.copies.values().filter(|c| matches!(c.state, CopyState::Open | CopyState::Stored)) {
        out.entry(c.sector).or_default().push(c);
    }
    out
}

/// Proposes the copies that these sectors lack, but none to the targets in `not`. Answers which targets lack some.
fn copies(
    state: &State,
    mut wanting: Vec<&RawSector>,
    placed: &BTreeMap<SectorId, Vec<&Copy>>,
    not: &BTreeSet<TargetId>,
    out: &mut Vec<Work>,
) -> BTreeSet<TargetId> {
    let mut lacking = BTreeSet::new();
    // Where nothing whole is left there is nothing to copy from.
    wanting.retain(|s| placed.get(&s.id).is_some_and(|c| c.iter().any(|c| c.is_stored())));
    for s in &wanting {
        // A copy that was begun and that nobody goes on with: what is written of it stands.
        let begun = placed.get(&s.id).into_iter().flatten().filter(|c| c.state == CopyState::Open && c.lease.is_none());
        for c in begun.filter(|c| state.usable_targets().any(|t| t.id == c.target)) {
            lacking.insert(c.target);
            out.push(Work::Copy { sector: s.id, target: c.target });
        }
    }
    // Those first that some node can use: a copy is better on another target now than on one that is away later.
    let mut candidates: Vec<&Target> = state.usable_targets().collect();
    candidates.sort_by_key(|t| t.reached_by.is_empty());
    let mut shares = Shares::of(PLAN_COPY_MAX, candidates.len());
    let staying = |s: &RawSector| placed.get(&s.id).into_iter().flatten().filter(|c| state.stays(c)).count();
    wanting.retain(|s| staying(s) < usize::from(s.copies_wanted));
    // The fewest copies first, then the most important, then the oldest.
    wanting.sort_by_key(|s| (staying(s), std::cmp::Reverse(s.min_priority), s.created_ms, s.id));
    for s in wanting {
        let Some(have) = placed.get(&s.id) else { continue };
        let domain = |id: TargetId| state.targets.get(&id).and_then(|t| t.domain.as_deref());
        let stay = have.iter().filter(|c| state.stays(c));
        let mut used: Vec<(TargetId, Option<&str>)> = stay.map(|c| (c.target, domain(c.target))).collect();
        for t in &candidates {
            if used.len() >= usize::from(s.copies_wanted) {
                break;
            }
            let free = used.iter().all(|(id, d)| *id != t.id && (t.domain.is_none() || *d != t.domain.as_deref()));
            if !free {
                continue;
            }
            lacking.insert(t.id);
            used.push((t.id, t.domain.as_deref()));
            if !not.contains(&t.id) && shares.take(t.id) {
                out.push(Work::Copy { sector: s.id, target: t.id });
            }
        }
    }
    lacking
}

/// Sectors whose further copies are planned or on their way, and that only one node can read: another is to hold them.
fn stages(state: &State, out: &mut Vec<Work>) {
    let able = |n: &&crate::model::Node| matches!(n.standing, Standing::Member | Standing::Draining);
    if state.nodes.values().filter(able).count() < 2 {
        return;
    }
    for sector in waiting(state, out).into_iter().filter(|s| state.holders(*s).len() == 1).take(PLAN_STAGE_MAX) {
        out.push(Work::Stage { sector });
    }
}

/// Sectors that wait for copies, by plan or under way, on targets that some node can use.
fn waiting(state: &State, planned: &[Work]) -> BTreeSet<SectorId> {
    let held = state.leases.values().flat_map(|l| &l.work);
    let used = |t: &TargetId| state.targets.get(t).is_some_and(|t| !t.reached_by.is_empty());
    let copy = |w: &Work| match w {
        Work::Copy { sector, target } if used(target) => Some(*sector),
        _ => None,
    };
    planned.iter().chain(held).filter_map(copy).collect()
}

/// What a node holds staged and nobody waits for any more.
pub fn staged_in_vain(state: &State, node: NodeId) -> Vec<SectorId> {
    let waiting = waiting(state, &plan(state, 0));
    let mine = state.sectors.values().filter(|s| s.staged.contains_key(&node)).map(|s| s.id);
    mine.filter(|s| !waiting.contains(s)).collect()
}

/// Whether a checkpoint's sectors all lie where a second node can go on with them, as far as that is of any use.
pub fn is_staged(state: &State, checkpoint: CheckpointId) -> bool {
    plan(state, 0).iter().all(|w| match w {
        Work::Stage { sector } => state.sectors.get(sector).is_none_or(|s| s.checkpoint != checkpoint),
        _ => true,
    })
}

/// The newest sealed system sector.
pub fn newest_system(state: &State) -> Option<&RawSector> {
    let seq = |s: &RawSector| state.checkpoints.get(&s.checkpoint).map_or(0, |c| c.seq);
    state.sectors.values().filter(|s| s.system && s.is_sealed()).max_by_key(|s| (seq(s), s.created_ms, s.id))
}

fn systems(state: &State, out: &mut Vec<Work>) {
    for c in state.checkpoints.values().filter(|c| c.state == CheckpointState::Stored) {
        let written = state.sectors.values().any(|s| s.system && s.checkpoint == c.id && s.is_sealed());
        if !written {
            out.push(Work::WriteSystem { checkpoint: c.id });
        }
    }
}

fn heads(state: &State, newest: Option<&RawSector>, out: &mut Vec<Work>) {
    let Some(newest) = newest else { return };
    if out.iter().any(|w| matches!(w, Work::WriteSystem { .. })) {
        return;
    }
    let current = state.head.as_ref().filter(|h| h.sector == newest.id).map(|h| h.n);
    let mut shown = false;
    for t in state.usable_targets() {
        let up_to_date = current.is_some() && t.pointer.map(|p| p.n) == current;
        shown |= up_to_date;
        let has_copy = state.copies.values().any(|c| c.sector == newest.id && c.target == t.id && c.is_stored());
        if !up_to_date && has_copy {
            out.push(Work::Publish { target: t.id });
        }
    }
    if shown {
        for c in state.checkpoints.values().filter(|c| c.state == CheckpointState::Stored) {
            out.push(Work::FinishCheckpoint { checkpoint: c.id });
        }
    }
}

#[cfg(test)]
mod tests;
