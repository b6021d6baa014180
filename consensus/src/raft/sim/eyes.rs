//! What the simulator sees: each entry as each node applies it, and what the simulated workers and clients report. All
//! invariants that hold over the history live here, one file each; the first that is broken is kept.

use std::cell::RefCell;
use std::collections::BTreeMap;

use openraft::EntryPayload;
use tokio::time::Instant;
use zoneward_sectors::ids::NodeId;

use super::acknowledged::Acknowledged;
use super::copies::Copies;
use super::fencing::Fencing;
use super::levels::Levels;
use super::members::Members;
use super::reach::Reach;
use super::segments::Segments;
use super::slots::Slots;
use super::{logs, states};
use crate::command::{Command, Entry};
use crate::model::State;
use crate::raft::{LogEntry, Reply};

/// An invariant that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its name in the list of invariants: `C1` … `C8`, `D3`, `D5`, `D6`, `L1`.
    pub invariant: &'static str,
    pub what: String,
    /// Simulated milliseconds since the run began.
    pub at_ms: u64,
}

/// The first broken invariant of a run.
#[derive(Debug)]
pub struct Found {
    begun: Instant,
    first: Option<Broken>,
}

impl Found {
    pub fn broke(&mut self, invariant: &'static str, what: String) {
        let at_ms = self.begun.elapsed().as_millis() as u64;
        self.first.get_or_insert(Broken { invariant, what, at_ms });
    }

    /// Keeps that an invariant is broken, unless this is so.
    pub fn demand(&mut self, so: bool, invariant: &'static str, what: impl FnOnce() -> String) {
        if !so {
            self.broke(invariant, what());
        }
    }
}

/// An entry when the first of all nodes applies it.
pub struct First<'a> {
    pub index: u64,
    /// Who proposed it.
    pub by: NodeId,
    pub command: &'a Command,
    /// The state after it, and perhaps after some that follow it.
    pub state: &'a State,
}

pub struct Eyes {
    pub found: Found,
    pub logs: logs::Logs,
    pub states: states::States,
    pub acknowledged: Acknowledged,
    pub segments: Segments,
    members: Members,
    fencing: Fencing,
    slots: Slots,
    copies: Copies,
    pub reach: Reach,
    levels: Levels,
    replies: BTreeMap<u64, Reply>,
    /// Number of the next entry that nobody has applied yet.
    next: Option<u64>,
    /// Commands that were done, by kind.
    pub done: BTreeMap<&'static str, u64>,
}

thread_local! {
    static EYES: RefCell<Option<Eyes>> = const { RefCell::new(None) };
}

/// Looks on from now on, on this thread.
pub fn open() {
    let found = Found { begun: Instant::now(), first: None };
    let eyes = Eyes {
        found,
        logs: logs::Logs::default(),
        states: states::States::default(),
        acknowledged: Acknowledged::default(),
        segments: Segments::default(),
        members: Members::default(),
        fencing: Fencing::default(),
        slots: Slots::default(),
        copies: Copies,
        reach: Reach::default(),
        levels: Levels::default(),
        replies: BTreeMap::new(),
        next: None,
        done: BTreeMap::new(),
    };
    EYES.set(Some(eyes));
}

/// Looks no more.
pub fn close() {
    EYES.set(None);
}

/// Something that the simulator itself sees; nothing if nobody looks.
pub fn with<T>(see: impl FnOnce(&mut Eyes) -> T) -> Option<T> {
    EYES.with_borrow_mut(|eyes| eyes.as_mut().map(see))
}

/// The first invariant that was broken.
pub fn broken() -> Option<Broken> {
    with(|e| e.found.first.clone()).flatten()
}

/// Keeps that an invariant is broken.
pub fn broke(invariant: &'static str, what: String) {
    with(|e| e.found.broke(invariant, what));
}

/// A node applied entries, whose last one led to this state.
pub(crate) fn applied(node: Option<NodeId>, entries: &[LogEntry], replies: &[Reply], state: &State) {
    let Some(node) = node else { return };
    with(|eyes| {
        for (entry, reply) in entries.iter().zip(replies) {
            eyes.logs.applied(node, entry.log_id, &mut eyes.found);
            eyes.reply(node, entry.log_id.index, reply);
            let index = entry.log_id.index;
            if eyes.next.is_none_or(|next| next == index) {
                eyes.next = Some(index + 1);
                eyes.first(entry, reply, state);
            }
        }
        eyes.states.hashed(node, state, &mut eyes.found);
    });
}

/// A node took over the state of a snapshot.
pub(crate) fn installed(node: Option<NodeId>, state: &State) {
    let Some(node) = node else { return };
    with(|eyes| eyes.states.whole(node, state, &mut eyes.found));
}

impl Eyes {
    /// C5: the same entry comes to the same on every node.
    fn reply(&mut self, node: NodeId, index: u64, reply: &Reply) {
        let first = self.replies.entry(index).or_insert_with(|| reply.clone());
        self.found.demand(first == reply, "C5", || format!("{node} answers otherwise at entry {index}: {reply:?}"));
    }

    fn first(&mut self, entry: &LogEntry, reply: &Reply, state: &State) {
        let found = &mut self.found;
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(m) => self.members.changed(m, found),
            EntryPayload::Normal(e) => {
                self.levels.entry(entry.log_id.index, e, state, found);
                self.normal(entry.log_id.index, e, reply, state);
            }
        }
    }

    fn normal(&mut self, index: u64, entry: &Entry, reply: &Reply, state: &State) {
        let Ok(command) = entry.command() else { return };
        let found = &mut self.found;
        self.acknowledged.entry(index, &command, found);
        if reply.refused.is_some() {
            return;
        }
        let first = First { index, by: entry.node, command: &command, state };
        self.copies.entry(&first, &self.segments, found);
        self.reach.entry(&first, found);
        self.members.entry(&first, found);
        self.slots.entry(&first, found);
        self.fencing.entry(&first, found);
        *self.done.entry(kind(&command)).or_default() += 1;
    }
}

/// The command itself, without the lease that it counts under.
pub fn inner(command: &Command) -> (Option<u64>, &Command) {
    match command {
        Command::Under { epoch, command } => (Some(*epoch), command),
        other => (None, other),
    }
}

fn kind(command: &Command) -> &'static str {
    match inner(command).1 {
        Command::Claim { .. } => "claims",
        Command::EndLease { .. } => "leases ended",
        Command::SealSector { .. } => "sectors sealed",
        Command::StoreCopy { .. } => "copies stored",
        Command::Staged { .. } => "sectors staged",
        Command::OpenCheckpoint { .. } => "checkpoints begun",
        Command::FinishCheckpoint { .. } => "checkpoints finished",
        Command::PublishedPointer { .. } => "heads published",
        Command::AbandonCopy { .. } => "leftovers removed",
        Command::Forget { .. } => "checkpoints forgotten",
        Command::OpenRewrite { .. } => "rewrites begun",
        Command::RemoveNode { .. } => "nodes removed",
        Command::StartNode { .. } => "node starts",
        Command::SetZone { .. } => "settings",
        _ => "others",
    }
}

/// The first invariant that was broken.
pub fn broken_of(eyes: &Eyes) -> Option<Broken> {
    eyes.found.first.clone()
}
