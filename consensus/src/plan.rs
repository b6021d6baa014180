//! What should be done next, given what is: pure, idempotent, bounded. The whole scheduler of the pipeline behind packing.

use zoneward_sectors::ids::{CheckpointId, CopyId, SectorId, TargetId};

use crate::limits::PLAN_MAX;
use crate::model::{CheckpointState, Copy, CopyState, RawSector, State};

/// A piece of work. Doing it twice is doing it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A backup was cut; the next one carries it on.
    ResumeCheckpoint { checkpoint: CheckpointId },
    /// A given-up copy may have left a file.
    RemoveIncoming { target: TargetId, copy: CopyId },
    /// A sector has fewer copies than it should.
    Copy { sector: SectorId, target: TargetId },
    /// A stored checkpoint has no system sector.
    WriteSystem { checkpoint: CheckpointId },
    /// A target shows an older head, or none.
    Publish { target: TargetId },
    /// A stored checkpoint can be found from a target.
    FinishCheckpoint { checkpoint: CheckpointId },
}

/// What is to be done. `_now_ms` will matter once audits are planned.
pub fn plan(state: &State, _now_ms: u64) -> Vec<Work> {
    let mut out = Vec::new();
    for c in state.copies.values().filter(|c| given_up(state, c)) {
        out.push(Work::RemoveIncoming { target: c.target, copy: c.id });
    }
    for c in state.checkpoints.values().filter(|c| c.state == CheckpointState::Running) {
        out.push(Work::ResumeCheckpoint { checkpoint: c.id });
    }
    // Data first, then the system data that speaks of it, then the head that points at that.
    copies(state, false, &mut out);
    let data_waits = out.iter().any(|w| matches!(w, Work::Copy { .. }));
    systems(state, &mut out);
    if !data_waits {
        copies(state, true, &mut out);
    }
    heads(state, &mut out);
    out.truncate(PLAN_MAX);
    out
}

/// A copy that will never be sealed: given up, or open although its sector is sealed or gone and no run works on it.
fn given_up(_state: &State, c: &Copy) -> bool {
    c.state == CopyState::Abandoned
}

fn copies(state: &State, system: bool, out: &mut Vec<Work>) {
    let mut wanting: Vec<&RawSector> =
        state.sectors.values().filter(|s| s.is_sealed() && s.system == system && needed(state, s)).collect();
    // The most important first, then the oldest.
    wanting.sort_by_key(|s| (std::cmp::Reverse(s.min_priority), s.created_ms, s.id));
    for s in wanting {
        let have: Vec<&Copy> = state.copies.values().filter(|c| c.sector == s.id && c.is_stored()).collect();
        let missing = usize::from(s.copies_wanted).saturating_sub(have.len());
        if missing == 0 || have.is_empty() {
            continue;
        }
        let mut used: Vec<(TargetId, Option<&str>)> =
            have.iter().map(|c| (c.target, state.targets.get(&c.target).and_then(|t| t.domain.as_deref()))).collect();
        for t in state.usable_targets() {
            if used.len() >= have.len() + missing || out.len() >= PLAN_MAX {
                break;
            }
            let free = used.iter().all(|(id, d)| *id != t.id && (t.domain.is_none() || *d != t.domain.as_deref()));
            if free {
                out.push(Work::Copy { sector: s.id, target: t.id });
                used.push((t.id, t.domain.as_deref()));
            }
        }
    }
}

/// Data sectors are needed while they exist; of system sectors only the newest gets further copies.
fn needed(state: &State, s: &RawSector) -> bool {
    !s.system || newest_system(state).is_some_and(|n| n.id == s.id)
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

fn heads(state: &State, out: &mut Vec<Work>) {
    let Some(newest) = newest_system(state) else { return };
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
