//! How safe the data is and what can be done now, as two numbers from 1 (best) to 7: reliability and availability.
//!
//! Pure: the state, what this moment knows, and the time go in; numbers and causes come out, as data. Words are made of
//! them where people are spoken to. `docs/levels.md` says what leads to each level and what to do; it must be kept true.

mod availability;
mod content;
mod reliability;

use std::collections::{BTreeMap, BTreeSet};

use zoneward_sectors::ids::{NodeId, SourceId, TargetId};

use crate::model::{Source, Standing, State};

/// A node that has not been heard for so long counts as down, ms.
pub const SILENT_MS: u64 = 5_000;
/// To lose what changed in so long a time counts as no loss, ms: a backup a day is what a zone promises.
pub const DAY_MS: u64 = 24 * 3_600_000;
/// To lose the changes of so long a time counts as losing the data, ms.
pub const WEEK_MS: u64 = 7 * DAY_MS;
/// Sources from this priority up are important: what lies below can be had again elsewhere.
pub const IMPORTANT: i32 = 0;

/// What only the moment knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The node that asks.
    pub me: NodeId,
    /// What the node's daemon knows of the others; none: no daemon runs here.
    pub cluster: Option<Cluster>,
    /// Whether some node that takes part can use a target. One that is not named is away.
    pub targets: BTreeMap<TargetId, Answer>,
    /// Bytes that a source holds and no checkpoint does, where that is known.
    pub unsaved: BTreeMap<SourceId, u64>,
}

/// The other nodes, as one node's daemon sees them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    pub leader: Option<NodeId>,
    pub voters: BTreeSet<NodeId>,
    /// When a node was last heard, by the clock that `now_ms` is read from.
    pub heard_ms: BTreeMap<NodeId, u64>,
}

/// How a target answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Yes,
    /// It cannot be reached: that accuses nobody of losing anything.
    Away,
    /// Something else lies in its place.
    Wrong,
}

/// Both levels of a zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    pub reliability: Level,
    pub availability: Level,
}

/// A level and why it is not better.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// 1 (best) to 7.
    pub number: u8,
    pub reason: Cause,
    /// What else was found, the worst first: each with the level that it alone would lead to.
    pub also: Vec<Finding>,
}

/// One cause, and the level that it alone leads to; 1 for what is only to be known.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub number: u8,
    pub cause: Cause,
}

/// A source that a cause speaks of, and how many others it is true of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub path: Vec<u8>,
    pub others: usize,
}

/// Why a level is as it is. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Reliability: even the loss of the whole site loses nothing that is older than a day.
    AllSurvives,
    NoSources,
    NoTargets,
    /// It is in no checkpoint.
    NeverStored {
        source: About,
    },
    /// What is stored of its newest content is not whole: copies are damaged or lost.
    StoredInPart {
        source: About,
    },
    /// Its newest checkpoint is so old.
    Stale {
        source: About,
        age_ms: u64,
    },
    /// It is gone or cannot be read, and all its copies lie on one disk.
    OneDisk {
        source: About,
        target: String,
    },
    /// It and all its copies, or all copies of what is gone, are in one device (or one failure domain).
    OneDevice {
        source: About,
        device: String,
    },
    /// Nothing outside the site has all of it.
    OneSite {
        source: About,
    },
    /// Paths of it could not be read, so that no checkpoint holds them as they are.
    Unread {
        source: About,
        paths: u64,
        first: String,
    },
    /// It is gone, and what is stored of it is not whole.
    Lost {
        source: About,
    },
    /// The same of all sources, and nothing of them can be restored.
    AllLost,
    /// Copies that are still to be made; `short`: some have no target to lie on.
    CopiesMissing {
        copies: u64,
        short: bool,
    },
    /// Copies that are damaged or lost and that no others have replaced.
    CopiesDamaged {
        copies: u64,
        /// The names of the targets they lay on.
        targets: Vec<String>,
    },
    /// Copies that no audit has looked at for two of its periods, and a target that holds some of them.
    Unaudited {
        copies: u64,
        target: String,
    },
    /// Sectors of older checkpoints of which no copy is left.
    OlderDamaged {
        sectors: u64,
    },
    /// Every node that could read it is gone: what is stored is all there is.
    OriginalGone {
        source: About,
        node: String,
    },
    /// The last backup had to leave it as it was.
    Refused {
        source: About,
        code: u16,
        why: String,
    },
    /// Something else lies where this target was.
    WrongTarget {
        target: String,
    },
    /// Availability: everything works, and goes on if a node fails.
    AllWorks,
    /// One device does it all.
    OneNode,
    /// All nodes answer, but there are too few to go on without one.
    FewNodes {
        voters: usize,
        working: usize,
    },
    /// A node does not answer, or is broken.
    NodeDown {
        node: String,
        standing: Standing,
    },
    /// Nobody can back it up now: the only node that may read it is down, or takes no work.
    SourceWaits {
        source: About,
        node: String,
        standing: Option<Standing>,
    },
    /// A majority answers and chooses a leader.
    Electing,
    /// No daemon runs here, so that nothing can be decided from here.
    NoDaemon,
    /// No node takes work.
    NobodyWorks {
        node: String,
    },
    NoMajority {
        heard: usize,
        voters: usize,
        node: String,
        standing: Standing,
    },
    AllPaused {
        target: String,
    },
    /// A target does not answer; `all`: none that may take sectors does.
    TargetAway {
        target: String,
        all: bool,
    },
    /// It cannot be restored in full now; the target that would have to answer, and whether the source is gone itself.
    Unreadable {
        source: About,
        target: Option<String>,
        gone: bool,
    },
    /// Nothing can be decided, and nothing can be restored.
    NothingWorks {
        node: String,
        standing: Standing,
    },
}

/// What to do about a cause. Everything in it is a command that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing has to be done; now and then it is worth proving that what is stored can be read.
    Prove,
    /// It gets better by itself.
    Wait,
    AddSource,
    AddTarget,
    AddTargetElsewhere,
    AddTargetOnOtherDevice,
    ResumeTarget {
        target: String,
    },
    AttachTarget {
        target: String,
    },
    /// What lies in the target's place is not it: bring it back, or go on without it.
    ReplaceTarget {
        target: String,
    },
    Backup,
    /// The daemon makes them by itself; without one a backup does.
    MakeCopies,
    /// What nothing is left of is read from its source again: by a backup, or by the daemons.
    StoreAnew,
    MendPaths {
        path: Vec<u8>,
    },
    MendSource {
        path: Vec<u8>,
    },
    NameDamage,
    /// A daemon looks at copies by itself; without one a check does.
    LookAtCopies,
    Restore {
        path: Vec<u8>,
    },
    SaveWhatIsLeft {
        path: Vec<u8>,
    },
    SaveAllThatIsLeft,
    StartDaemon,
    InviteNode,
    StartNode {
        node: String,
    },
    /// Too few votes are heard: start one, or the owner goes on without them.
    StartVoter {
        node: String,
    },
    StartWitness {
        node: String,
    },
    ReplaceNode {
        node: String,
    },
    Undrain {
        node: String,
    },
    ChangeReader {
        path: Vec<u8>,
    },
}

impl Cause {
    /// What to do about it.
    pub fn next(&self) -> Next {
        let down = |node: &String, standing: Standing| match standing {
            Standing::Faulty | Standing::Standby => Next::ReplaceNode { node: node.clone() },
            Standing::Witness => Next::StartWitness { node: node.clone() },
            Standing::Member | Standing::Draining => Next::StartNode { node: node.clone() },
        };
        match self {
            Self::AllSurvives | Self::AllWorks => Next::Prove,
            Self::Electing => Next::Wait,
            Self::CopiesMissing { short: true, .. } => Next::AddTarget,
            Self::CopiesMissing { .. } | Self::CopiesDamaged { .. } => Next::MakeCopies,
            Self::NoSources => Next::AddSource,
            Self::NoTargets => Next::AddTarget,
            Self::NeverStored { .. } | Self::Stale { .. } => Next::Backup,
            Self::StoredInPart { .. } => Next::StoreAnew,
            Self::OneDisk { source, .. } | Self::OriginalGone { source, .. } => {
                Next::Restore { path: source.path.clone() }
            }
            Self::OneDevice { .. } => Next::AddTargetOnOtherDevice,
            Self::OneSite { .. } => Next::AddTargetElsewhere,
            Self::Unread { source, .. } => Next::MendPaths { path: source.path.clone() },
            Self::Refused { source, .. } => Next::MendSource { path: source.path.clone() },
            Self::Lost { source } => Next::SaveWhatIsLeft { path: source.path.clone() },
            Self::AllLost => Next::SaveAllThatIsLeft,
            Self::OlderDamaged { .. } => Next::NameDamage,
            Self::Unaudited { .. } => Next::LookAtCopies,
            Self::WrongTarget { target } => Next::ReplaceTarget { target: target.clone() },
            Self::OneNode | Self::FewNodes { .. } => Next::InviteNode,
            Self::NodeDown { node, standing } => down(node, *standing),
            Self::NoMajority { node, .. } | Self::NothingWorks { node, .. } => Next::StartVoter { node: node.clone() },
            Self::SourceWaits { source, node, standing } => match standing {
                Some(Standing::Draining | Standing::Standby) => Next::Undrain { node: node.clone() },
                Some(Standing::Member) => Next::StartNode { node: node.clone() },
                _ => Next::ChangeReader { path: source.path.clone() },
            },
            Self::NoDaemon => Next::StartDaemon,
            Self::NobodyWorks { node } => Next::Undrain { node: node.clone() },
            Self::AllPaused { target } => Next::ResumeTarget { target: target.clone() },
            Self::TargetAway { target, .. } | Self::Unreadable { target: Some(target), .. } => {
                Next::AttachTarget { target: target.clone() }
            }
            Self::Unreadable { source, target: None, gone: true } => Next::SaveWhatIsLeft { path: source.path.clone() },
            Self::Unreadable { .. } => Next::StoreAnew,
        }
    }

    /// The source that it speaks of.
    fn about(&mut self) -> Option<&mut About> {
        match self {
            Self::NeverStored { source }
            | Self::StoredInPart { source }
            | Self::Stale { source, .. }
            | Self::OneDisk { source, .. }
            | Self::OneDevice { source, .. }
            | Self::OneSite { source }
            | Self::Unread { source, .. }
            | Self::Lost { source }
            | Self::OriginalGone { source, .. }
            | Self::Refused { source, .. }
            | Self::SourceWaits { source, .. }
            | Self::Unreadable { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Both levels. `now_ms` is the time of the node that asks; the zone's own time may be ahead of it.
pub fn levels(state: &State, seen: &Seen, now_ms: u64) -> Levels {
    let content = content::Content::of(state);
    Levels {
        reliability: reliability::level(state, seen, &content, now_ms.max(state.last_time_ms)),
        // When nodes were heard, this node's own clock says: the zone's time has no say in that.
        availability: availability::level(state, seen, &content, now_ms),
    }
}

/// The level that these findings lead to; `fine` is said if nothing stands against level 1.
fn worst(mut found: Vec<Finding>, fine: Cause) -> Level {
    found.sort_by_key(|f| std::cmp::Reverse(f.number));
    let mut all: Vec<Finding> = Vec::new();
    for mut f in found {
        // What names a path or an error is never folded into another.
        let single = matches!(f.cause, Cause::Unread { .. } | Cause::Refused { .. }) || f.cause.about().is_none();
        let same = |k: &&mut Finding| {
            let kind = std::mem::discriminant(&k.cause) == std::mem::discriminant(&f.cause);
            !single && k.number == f.number && kind
        };
        match all.iter_mut().find(same).and_then(|k| k.cause.about()) {
            Some(known) => known.others += 1,
            None => all.push(f),
        }
    }
    let number = all.first().map_or(1, |f| f.number);
    let reason = if number > 1 && !all.is_empty() { all.remove(0).cause } else { fine };
    Level { number, reason, also: all }
}

/// The sources, the most important first.
fn by_weight(state: &State) -> Vec<&Source> {
    let mut all: Vec<&Source> = state.sources.values().collect();
    all.sort_by_key(|s| (std::cmp::Reverse(s.priority), s.id));
    all
}

fn about(source: &Source) -> About {
    About { path: source.path.clone(), others: 0 }
}

/// Whether this node may be given work: it takes part, as far as its owner decided.
fn takes_work(state: &State, node: NodeId) -> bool {
    state.nodes.get(&node).is_some_and(|n| n.standing == Standing::Member)
}

/// Whether every node that may read a source is broken, as a person said, or was taken out.
fn is_gone(state: &State, source: &Source) -> bool {
    let gone = |n: &NodeId| state.nodes.get(n).is_none_or(|n| n.standing == Standing::Faulty);
    !source.nodes.is_empty() && source.nodes.iter().all(gone)
}

/// A node's name, or its id if the zone no longer knows it.
fn node_name(state: &State, node: NodeId) -> String {
    state.nodes.get(&node).map_or_else(|| node.to_string(), |n| n.name.clone())
}

fn target_name(state: &State, target: TargetId) -> String {
    state.targets.get(&target).map_or_else(|| target.to_string(), |t| t.name.clone())
}

#[cfg(test)]
mod tests;
