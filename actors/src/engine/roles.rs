//! What each actor looks for: pure, from the state and what this node reaches.

use std::collections::BTreeMap;
use std::sync::Arc;

use zoneward_consensus::limits::{CLAIM_MAX, STAGED_MAX};
use zoneward_consensus::model::{CopyState, Standing, State};
use zoneward_consensus::plan::{Work, plan};
use zoneward_sectors::ids::{NodeId, TargetId};

use super::steps;
use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::node::Node;

/// The actors of a node, one for each kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// On the leader: ends leases of silent nodes, closes checkpoints, changes who votes.
    Scheduler,
    /// Packs sources into sectors.
    Packer,
    /// Brings further copies of sectors to their targets.
    Uploader,
    /// Holds sectors that only one other node could read, until all their copies are made.
    Stager,
    /// Makes copies anew that were lost or damaged.
    Rebuilder,
    /// Writes system data, shows the head on targets, removes what was given up.
    Publisher,
    /// Looks after stored copies: that they are there.
    HealthChecker,
}

impl Role {
    pub const ALL: [Self; 7] = [
        Self::Scheduler,
        Self::Packer,
        Self::Uploader,
        Self::Stager,
        Self::Rebuilder,
        Self::Publisher,
        Self::HealthChecker,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Packer => "packer",
            Self::Uploader => "uploader",
            Self::Stager => "stager",
            Self::Rebuilder => "rebuilder",
            Self::Publisher => "publisher",
            Self::HealthChecker => "health-checker",
        }
    }

    /// What this node should do next in this role.
    pub fn choose(self, state: &State, node: &Arc<Node>) -> Chosen {
        let due = match self {
            Self::Scheduler => steps::schedule_is_due(node),
            Self::HealthChecker => steps::check_is_due(state, node),
            _ => {
                let work = choose(self, state, &Me { id: node.id(), reaches: &|t| node.reaches(t) });
                return if work.is_empty() { Chosen::Nothing } else { Chosen::Claim(work) };
            }
        };
        if due { Chosen::Look } else { Chosen::Nothing }
    }

    /// Does what was chosen, on a thread of its own. `false`: others were faster.
    pub fn run(self, node: &Arc<Node>, chosen: Chosen) -> Result<bool, ZoneError> {
        match (chosen, self) {
            (Chosen::Claim(work), _) => steps::claim_and_do(self, node, work),
            (Chosen::Look, Self::HealthChecker) => steps::check(node),
            (Chosen::Look, _) => steps::schedule(node),
            (Chosen::Nothing, _) => Ok(false),
        }
    }
}

/// What an actor is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Chosen {
    Nothing,
    /// This work, under a lease.
    Claim(Vec<Work>),
    /// What it finds when it looks: nobody else would do the same at the same time.
    Look,
}

/// The node for which is chosen.
pub struct Me<'a> {
    pub id: NodeId,
    pub reaches: &'a dyn Fn(TargetId) -> bool,
}

/// Work for this node in this role, to be claimed together.
pub fn choose(role: Role, state: &State, me: &Me<'_>) -> Vec<Work> {
    if state.nodes.get(&me.id).is_none_or(|n| n.standing != Standing::Member) {
        return Vec::new();
    }
    let free = |w: &Work| state.lease_of(w).is_none() && w.target().is_none_or(|t| (me.reaches)(t));
    let open = plan(state, now_ms()).into_iter().filter(free);
    match role {
        Role::Packer => packs(state, me, open.filter(|w| matches!(w, Work::Pack { .. })).collect()),
        Role::Stager => stages(state, me, open),
        Role::Uploader => copies(state, me, open, false),
        Role::Rebuilder => copies(state, me, open, true),
        Role::Publisher => publishes(state, me, open),
        Role::Scheduler | Role::HealthChecker => Vec::new(),
    }
}

/// Sources to be packed by this node together: they may share sectors, so they must want the same number of copies.
/// Of what several nodes can read, each takes its share.
fn packs(state: &State, me: &Me<'_>, open: Vec<Work>) -> Vec<Work> {
    // The first copy is written while it is packed.
    if !state.usable_targets().any(|t| (me.reaches)(t.id)) {
        return Vec::new();
    }
    let mut groups: BTreeMap<(bool, std::cmp::Reverse<u8>), Vec<Work>> = BTreeMap::new();
    for w in open {
        let Work::Pack { source, .. } = w else { continue };
        // One that was removed meanwhile is refused by whoever takes it.
        let record = state.sources.get(&source);
        if record.is_some_and(|s| !state.can_read(me.id, s)) {
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
