//! What a node claims next: pure, from the state and what the node reaches. Each kind of work has a claimant of its own on
//! every node; of two nodes that choose the same, the one whose claim is applied first has it.

use std::collections::BTreeMap;

use zoneward_sectors::ids::{NodeId, TargetId};

use crate::audits::{due, may_be_away, together};
use crate::limits::{CLAIM_MAX, STAGED_MAX};
use crate::model::{CopyState, Standing, State, Target};
use crate::plan::{Work, plan};

/// Work that is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Sources into sectors.
    Pack,
    /// Further copies.
    Upload,
    /// Sectors held for another node.
    Stage,
    /// Copies in place of those that were lost or damaged.
    Rebuild,
    /// System data, heads, and what was given up.
    Publish,
    /// Stored copies that are to be looked at.
    Audit,
}

impl Kind {
    pub const ALL: [Self; 6] = [Self::Pack, Self::Upload, Self::Stage, Self::Rebuild, Self::Publish, Self::Audit];
}

/// The node for which is chosen.
pub struct Me<'a> {
    pub id: NodeId,
    /// Whether it can use a target now.
    pub reaches: &'a dyn Fn(TargetId) -> bool,
    /// Whether it leads.
    pub leads: bool,
}

/// Work of this kind for this node, to be claimed together.
pub fn choose(kind: Kind, state: &State, me: &Me<'_>, now_ms: u64) -> Vec<Work> {
    let plan = if kind == Kind::Audit { Vec::new() } else { plan(state, now_ms) };
    choose_of(kind, state, me, now_ms, &plan)
}

/// The same for kinds that come from the plan, which several may share.
pub(crate) fn choose_of(kind: Kind, state: &State, me: &Me<'_>, now_ms: u64, plan: &[Work]) -> Vec<Work> {
    if state.nodes.get(&me.id).is_none_or(|n| n.standing != Standing::Member) {
        return Vec::new();
    }
    let free = |w: &Work| state.lease_of(w).is_none() && w.target().is_none_or(|t| (me.reaches)(t));
    let open = plan.iter().copied().filter(free);
    match kind {
        Kind::Pack => packs(state, me, open.filter(|w| matches!(w, Work::Pack { .. })).collect(), now_ms),
        Kind::Stage => stages(state, me, open),
        Kind::Upload => copies(state, me, open, false),
        Kind::Rebuild => copies(state, me, open, true),
        Kind::Publish => publishes(state, me, open),
        Kind::Audit => audits(state, me, now_ms),
    }
}

/// Copies to be looked at by this node. That a server answers nobody is for the leader to note; a disk that is away says
/// nothing by it.
fn audits(state: &State, me: &Me<'_>, now_ms: u64) -> Vec<Work> {
    let silent = |t: &Target| me.leads && t.reached_by.is_empty() && !may_be_away(t);
    let mine = |t: TargetId| (me.reaches)(t) || state.targets.get(&t).is_some_and(silent);
    let free = due(state, now_ms).into_iter().filter(|w| state.lease_of(w).is_none() && w.target().is_some_and(mine));
    together(state, free, now_ms)
}

/// Sources to be packed by this node together: they may share sectors, so they must want the same number of copies.
/// Of what several nodes can read, each takes its share.
fn packs(state: &State, me: &Me<'_>, open: Vec<Work>, now_ms: u64) -> Vec<Work> {
    // The first copy is written while it is packed.
    if !state.usable_targets().any(|t| (me.reaches)(t.id)) {
        return Vec::new();
    }
    let mut groups: BTreeMap<(bool, std::cmp::Reverse<u8>), Vec<Work>> = BTreeMap::new();
    for w in open {
        let Work::Pack { source, checkpoint } = w else { continue };
        // No source is read for a synthetic checkpoint, and what is dead only one who looks at all of it can tell.
        if state.checkpoints.get(&checkpoint).is_some_and(|c| c.rewrite.is_some()) {
            groups.entry((false, std::cmp::Reverse(0))).or_default().push(w);
            continue;
        }
        // One that was removed meanwhile is refused by whoever takes it.
        let record = state.sources.get(&source);
        if record.is_some_and(|s| !state.should_read(me.id, checkpoint, s, now_ms)) {
            continue;
        }
        let shared = record.is_some_and(|s| s.nodes.len() != 1);
        let copies = record.map_or(1, |s| state.copies_wanted(s));
        groups.entry((shared, std::cmp::Reverse(copies))).or_default().push(w);
    }
    let Some(((shared, _), mut group)) = groups.into_iter().next() else { return Vec::new() };
    if shared {
        let members = state.nodes.values().filter(|n| n.standing == Standing::Member).count().max(1);
        group.truncate(group.len().div_ceil(members));
    }
    group.truncate(CLAIM_MAX);
    group
}

/// One copy to be made of a sector that can be read from here.
fn copies(state: &State, me: &Me<'_>, open: impl Iterator<Item = Work>, rebuild: bool) -> Vec<Work> {
    let mut of: BTreeMap<_, (bool, bool)> = BTreeMap::new();
    for c in state.copies.values() {
        let entry = of.entry(c.sector).or_default();
        entry.0 |= matches!(c.state, CopyState::Damaged | CopyState::Lost);
        let staged = || state.sectors.get(&c.sector).is_some_and(|s| s.staged.get(&me.id) == Some(&c.id));
        entry.1 |= c.is_stored() && ((me.reaches)(c.target) || staged());
    }
    let fits = |w: &Work| match w {
        Work::Copy { sector, .. } => of.get(sector).is_some_and(|(broken, readable)| *broken == rebuild && *readable),
        _ => false,
    };
    open.filter(fits).take(1).collect()
}

/// One sector to be held for another node, while there is room.
fn stages(state: &State, me: &Me<'_>, open: impl Iterator<Item = Work>) -> Vec<Work> {
    if state.sectors.values().filter(|s| s.staged.contains_key(&me.id)).count() >= STAGED_MAX {
        return Vec::new();
    }
    let theirs = |w: &Work| matches!(w, Work::Stage { sector } if !state.holders(*sector).contains(&me.id));
    open.filter(theirs).take(1).collect()
}

/// System data, a head, or leftovers: one kind at a time.
fn publishes(state: &State, me: &Me<'_>, open: impl Iterator<Item = Work>) -> Vec<Work> {
    let (mut leftovers, mut others) = (Vec::new(), Vec::new());
    for w in open {
        match w {
            Work::RemoveIncoming { .. } => leftovers.push(w),
            Work::Publish { .. } => others.push(w),
            Work::WriteSystem { .. } if state.usable_targets().any(|t| (me.reaches)(t.id)) => others.push(w),
            _ => {}
        }
    }
    if let Some(first) = others.first() {
        return vec![*first];
    }
    leftovers.truncate(CLAIM_MAX);
    leftovers
}
