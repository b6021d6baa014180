//! What is kept, and why: which sectors the checkpoints need, what may be forgotten without the owner's word, and when what
//! was forgotten goes. Pure.
//!
//! A checkpoint that is forgotten is only marked. Its grace runs on credited time, which no single node and no clock that
//! was set can run forward: each node says how much time its own steady clock saw, and the zone believes what a majority
//! says. When the grace is over, the checkpoint leaves the state together with the next one that is stored, and with it the
//! sectors that nothing else needs; each copy's file goes when its target shows a head that no longer speaks of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use zoneward_sectors::ids::{CheckpointId, LayerId, SectorId, SourceId};

use crate::model::{Checkpoint, CheckpointState, Copy, RawSector, State, Task, TaskState};

/// Which checkpoints are kept: the newest of each of so many days, weeks and so on. Each of them is a reason to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
    /// All that are younger than so many seconds, counted from the newest.
    pub within_s: u64,
    /// All that carry one of these.
    pub tags: BTreeSet<String>,
}

impl Rules {
    /// Rules that keep nothing are a slip of the hand.
    pub fn keep_something(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        counts.iter().any(|n| *n > 0) || self.within_s > 0 || !self.tags.is_empty()
    }
}

/// Percent of the bytes that may go at once without the owner's word.
pub const MUCH_PERCENT: u64 = 30;

/// Why forgetting waits for the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Of this source no other checkpoint is left that was looked at since it was stored and found whole.
    LastVerified(SourceId),
    /// So many bytes of so many would be needed no more.
    Much { gone: u64, of: u64 },
    /// What this source held before most of its files changed at once.
    Pinned(Sudden),
}

/// A checkpoint in which most files of a source changed at once: an intruder's encryption looks like that, and so does a
/// person who sorts photos anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sudden {
    pub source: SourceId,
    /// The checkpoint's number.
    pub seq: u64,
    /// Files that were changed, or gone while others came, of so many.
    pub files: u64,
    pub of: u64,
}

/// Checkpoints before a sudden change that are kept.
const PINNED: usize = 3;
/// For how long, in credited time, ms.
const PINNED_MS: u64 = 30 * 24 * 3_600_000;
/// A source of fewer files tells nothing by their changing.
const FILES_MIN: u64 = 20;

/// Sudden changes whose time is not over, oldest first.
pub fn sudden(state: &State) -> Vec<Sudden> {
    let now = state.zone.as_ref().map_or(0, |z| z.credit_ms);
    let lately = |c: &&Checkpoint| now.saturating_sub(c.credit_ms) < PINNED_MS && c.rewrite.is_none();
    let tasks = state.complete().into_iter().filter(lately).flat_map(|c| c.tasks.iter().map(move |t| (c.seq, t)));
    let sudden = |(seq, t): (u64, &Task)| {
        let s = &t.stats;
        let of = s.files.saturating_add(s.removed).saturating_sub(s.new_files);
        let files = s.changed_files.saturating_add(s.removed.min(s.new_files)).min(of);
        (of >= FILES_MIN && files > of / 2).then_some(Sudden { source: t.source, seq, files, of })
    };
    tasks.filter(|(_, t)| t.state == TaskState::Done).filter_map(sudden).collect()
}

/// The checkpoints that these changes pin, each with the change.
pub fn pinned(state: &State) -> BTreeMap<CheckpointId, Sudden> {
    let mut out = BTreeMap::new();
    for change in sudden(state) {
        let before = state.complete().into_iter().rev().filter(|c| c.seq < change.seq && c.forgotten.is_none());
        let of_it = before.filter(|c| c.tasks.iter().any(|t| t.source == change.source && !t.layers.is_empty()));
        for c in of_it.take(PINNED) {
            out.entry(c.id).or_insert(change);
        }
    }
    out
}

/// What checkpoints need: their layers, and the sectors that these name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needed {
    pub layers: BTreeSet<LayerId>,
    pub sectors: BTreeSet<SectorId>,
    /// A layer does not tell what it needs: any sector may be needed.
    pub unknown: bool,
}

/// What these checkpoints need, with what is under way for them.
pub fn needed<'a>(state: &State, checkpoints: impl Iterator<Item = &'a Checkpoint>) -> Needed {
    let mut out = Needed::default();
    for c in checkpoints {
        out.layers.extend(c.tasks.iter().flat_map(|t| t.layers.iter().copied()));
        let chains = c.rewrite.iter().flat_map(|r| &r.chains);
        out.layers.extend(chains.flat_map(|r| r.new.iter().copied()));
    }
    for l in out.layers.iter().filter_map(|l| state.layers.get(l)) {
        out.sectors.extend(l.parts.iter().map(|p| p.sector));
        match &l.refs {
            Some(refs) => out.sectors.extend(refs.iter().copied()),
            None => out.unknown = true,
        }
    }
    out
}

/// Whether the grace of a forgotten checkpoint is over.
pub fn grace_is_over(state: &State, c: &Checkpoint) -> bool {
    let now = state.zone.as_ref().map_or(0, |z| z.credit_ms);
    c.forgotten.is_some_and(|f| f.now || now.saturating_sub(f.credit_ms) >= u64::from(state.policy.grace_s) * 1000)
}

/// Forgotten checkpoints whose grace is over.
pub fn over(state: &State) -> Vec<CheckpointId> {
    let gone = |c: &&Checkpoint| c.is_complete() && grace_is_over(state, c);
    state.checkpoints.values().filter(gone).map(|c| c.id).collect()
}

/// Why the owner must say so if these checkpoints are to be forgotten; `None` if anybody may.
pub fn held_back(state: &State, ids: &[CheckpointId]) -> Option<Hold> {
    let goes = |c: &&Checkpoint| ids.contains(&c.id);
    let stays = |c: &&Checkpoint| c.is_complete() && c.forgotten.is_none() && !goes(c);
    let of = |which: &dyn Fn(&&Checkpoint) -> bool| state.checkpoints.values().filter(which).collect::<Vec<_>>();
    let stays = of(&stays);
    let pinned = pinned(state);
    if let Some(change) = ids.iter().find_map(|id| pinned.get(id)) {
        return Some(Hold::Pinned(*change));
    }
    last_verified(state, &of(&goes), &stays).map(Hold::LastVerified).or_else(|| much(state, &stays))
}

/// A source that is left without any checkpoint that was found whole, though it had one.
fn last_verified(state: &State, goes: &[&Checkpoint], stays: &[&Checkpoint]) -> Option<SourceId> {
    let looked_at =
        |c: &&Copy| c.is_stored() && (c.verified_ms.is_some() || c.audited_ms.is_some() || c.read_ms.is_some());
    let proved: BTreeSet<SectorId> = state.copies.values().filter(looked_at).map(|c| c.sector).collect();
    let mut whole: BTreeMap<&[LayerId], bool> = BTreeMap::new();
    let mut sources = |of: &[&'_ Checkpoint]| -> BTreeSet<SourceId> {
        let tasks = of.iter().filter_map(|c| state.checkpoints.get(&c.id)).flat_map(|c| &c.tasks);
        let mut out = BTreeSet::new();
        for t in tasks.filter(|t| !t.layers.is_empty()) {
            if *whole.entry(&t.layers).or_insert_with(|| chain_is(state, &t.layers, &proved)) {
                out.insert(t.source);
            }
        }
        out
    };
    let had = sources(goes);
    if had.is_empty() {
        return None;
    }
    let left = sources(stays);
    had.difference(&left).next().copied()
}

/// Whether every sector that a chain names is among these.
fn chain_is(state: &State, chain: &[LayerId], proved: &BTreeSet<SectorId>) -> bool {
    chain.iter().all(|l| {
        state.layers.get(l).is_some_and(|l| {
            l.parts.iter().all(|p| proved.contains(&p.sector))
                && l.refs.as_ref().is_some_and(|refs| refs.iter().all(|s| proved.contains(s)))
        })
    })
}

/// Whether much goes, together with what was forgotten before and is not gone yet: many small steps are one large one.
fn much(state: &State, stays: &[&Checkpoint]) -> Option<Hold> {
    let before = needed(state, state.checkpoints.values().filter(|c| c.is_complete()));
    let after = needed(state, stays.iter().copied());
    if after.unknown {
        return None;
    }
    let bytes = |s: &SectorId| state.sectors.get(s).map_or(0, |s| s.raw_len);
    let of: u64 = before.sectors.iter().map(bytes).sum();
    let gone: u64 = before.sectors.difference(&after.sectors).map(bytes).sum();
    (u128::from(gone) * 100 > u128::from(of) * u128::from(MUCH_PERCENT)).then_some(Hold::Much { gone, of })
}

/// Checkpoints that count or are being made.
pub(crate) fn live(state: &State) -> impl Iterator<Item = &Checkpoint> {
    state.checkpoints.values().filter(|c| c.state != CheckpointState::Abandoned)
}

/// Sectors that nothing needs: no checkpoint by its layers, no head, and no checkpoint that is being made.
pub fn unneeded(state: &State) -> BTreeSet<SectorId> {
    if state.checkpoints.values().any(|c| c.state == CheckpointState::Running) {
        return BTreeSet::new();
    }
    let needed = needed(state, live(state));
    let replaced = state.replaced_systems();
    let head = state.head.as_ref().map(|h| h.sector);
    let goes = |s: &&RawSector| {
        s.is_sealed()
            && Some(s.id) != head
            && if s.system { replaced.contains(&s.id) } else { !needed.unknown && !needed.sectors.contains(&s.id) }
    };
    state.sectors.values().filter(goes).map(|s| s.id).collect()
}
