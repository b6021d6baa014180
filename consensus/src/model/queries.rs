//! What is asked of the records: lookups and selections, without a change.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Checkpoint, CheckpointId, CheckpointKind, CheckpointState, Copy, LayerId, Lease, NodeId, SectorId, Source,
    SourceId, Standing, State, Target, TargetId, Task, TaskState,
};
use crate::policy::Maintenance;
use crate::work::Work;

/// Copies by priority: 3 from 10 up, 2 from -10 up, 1 from -50 up, none below.
pub fn default_copies(priority: i32) -> u8 {
    match priority {
        10.. => 3,
        -10..=9 => 2,
        -50..=-11 => 1,
        _ => 0,
    }
}

/// Why a checkpoint cannot be told from what was typed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoSuchCheckpoint {
    #[error("there is no finished checkpoint yet")]
    None,
    #[error("no checkpoint is called {0:?}")]
    Unknown(String),
    #[error("{0:?} fits several checkpoints: give more of its id")]
    Ambiguous(String),
}

impl Checkpoint {
    /// The moment that it is of: a synthetic one holds what another held.
    pub fn content_ms(&self) -> u64 {
        let newest = self.tasks.iter().map(|t| t.as_of_ms).max();
        newest.filter(|_| self.kind == CheckpointKind::Synthetic).unwrap_or(self.started_ms)
    }

    /// True if everything in it can be restored.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, CheckpointState::Stored | CheckpointState::Published)
    }
}

/// A node that could not read a source tries again after this long, if nobody else could.
const PASS_MS: u64 = 300_000;

impl State {
    /// Checkpoints that can be restored, oldest first.
    pub fn complete(&self) -> Vec<&Checkpoint> {
        let mut all: Vec<_> = self.checkpoints.values().filter(|c| c.is_complete()).collect();
        all.sort_by_key(|c| c.seq);
        all
    }

    /// A checkpoint by `latest`, number, id or the beginning of an id.
    pub fn find_checkpoint(&self, text: &str) -> Result<&Checkpoint, NoSuchCheckpoint> {
        let all = self.complete();
        if text == "latest" {
            return all.last().copied().ok_or(NoSuchCheckpoint::None);
        }
        if let Some(c) = text.parse::<u64>().ok().and_then(|n| all.iter().find(|c| c.seq == n)) {
            return Ok(c);
        }
        let mut fits = all.iter().filter(|c| text.len() >= 4 && c.id.to_string().starts_with(&text.to_lowercase()));
        match (fits.next(), fits.next()) {
            (Some(c), None) => Ok(c),
            (Some(_), Some(_)) => Err(NoSuchCheckpoint::Ambiguous(text.to_owned())),
            _ => Err(NoSuchCheckpoint::Unknown(text.to_owned())),
        }
    }

    /// The layers that a backup of this kind builds on.
    pub fn base_chain(&self, source: SourceId, kind: CheckpointKind) -> Vec<LayerId> {
        let newest = self.complete().into_iter().rev().find_map(|c| c.tasks.iter().find(|t| t.source == source));
        let mut chain = newest.map(|t| t.layers.clone()).unwrap_or_default();
        match kind {
            CheckpointKind::Full => chain.clear(),
            CheckpointKind::Incremental | CheckpointKind::Synthetic => {}
            // Everything since the last full backup is compared with that backup alone.
            CheckpointKind::Differential => {
                let full = chain.iter().rposition(|l| self.layers.get(l).is_some_and(|l| l.full)).unwrap_or(0);
                chain.truncate(full + 1);
            }
        }
        chain
    }

    /// What a checkpoint came to be: an incremental one that found nothing to build on is a full one.
    pub fn kind_made(&self, c: &Checkpoint) -> CheckpointKind {
        let anew = |l: &LayerId| self.layers.get(l).is_some_and(|l| l.full && l.checkpoint == c.id);
        let alone = |t: &Task| t.state == TaskState::Done && matches!(t.layers.as_slice(), [l] if anew(l));
        if !c.tasks.is_empty() && c.tasks.iter().all(alone) { CheckpointKind::Full } else { c.kind }
    }

    /// Copies that a source's sectors are to have.
    pub fn copies_wanted(&self, source: &Source) -> u8 {
        source.copies.unwrap_or_else(|| default_copies(source.priority)).max(1)
    }

    /// Targets that may be given sectors.
    pub fn usable_targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.values().filter(|t| !t.paused && !t.leaving)
    }

    /// Whether a copy stands for its target: it is not on one that is to hold nothing any more.
    pub fn stays(&self, copy: &Copy) -> bool {
        self.targets.get(&copy.target).is_some_and(|t| !t.leaving)
    }

    /// Sectors on this target, of those that are needed, that lack stored copies elsewhere, as far as there are other targets for them.
    pub fn left_on(&self, target: TargetId) -> usize {
        let newest = crate::plan::newest_system(self).map(|s| s.id);
        let needed = |c: &&Copy| self.sectors.get(&c.sector).is_some_and(|s| !s.system || Some(s.id) == newest);
        let others = self.usable_targets().filter(|t| t.id != target).count();
        let mut here: BTreeMap<SectorId, usize> = BTreeMap::new();
        let stored = || self.copies.values().filter(|c| c.is_stored()).filter(needed);
        here.extend(stored().filter(|c| c.target == target).map(|c| (c.sector, 0)));
        for c in stored().filter(|c| c.target != target && self.stays(c)) {
            here.entry(c.sector).and_modify(|n| *n += 1);
        }
        let wanted = |s: &SectorId| self.sectors.get(s).map_or(0, |s| usize::from(s.copies_wanted));
        here.iter().filter(|(s, n)| **n < wanted(s).min(others).max(1)).count()
    }

    /// Sealed sectors that are needed and have a stored copy nowhere but on this target.
    pub fn only_on(&self, target: TargetId) -> BTreeSet<SectorId> {
        let newest = crate::plan::newest_system(self).map(|s| s.id);
        let needed = |c: &&Copy| self.sectors.get(&c.sector).is_some_and(|s| !s.system || Some(s.id) == newest);
        let stored = || self.copies.values().filter(|c| c.is_stored()).filter(needed);
        let elsewhere: BTreeSet<SectorId> = stored().filter(|c| c.target != target).map(|c| c.sector).collect();
        stored().filter(|c| c.target == target && !elsewhere.contains(&c.sector)).map(|c| c.sector).collect()
    }

    /// The lease that holds this work.
    pub fn lease_of(&self, work: &Work) -> Option<&Lease> {
        self.leases.values().find(|l| l.work.contains(work))
    }

    /// Whether a node can read a source.
    pub fn can_read(&self, node: NodeId, source: &Source) -> bool {
        (source.nodes.is_empty() || source.nodes.contains(&node)) && self.has_place(node, source)
    }

    /// Whether a node should try to read a source for a checkpoint: one that just failed leaves it to the others, as long as
    /// there are any that did not.
    pub fn should_read(&self, node: NodeId, checkpoint: CheckpointId, source: &Source, now_ms: u64) -> bool {
        let left = self.left_to(checkpoint, source, now_ms);
        self.can_read(node, source) && (left.is_empty() || left.contains(&node))
    }

    /// The nodes that may read a source and did not just fail to for this checkpoint.
    pub fn left_to(&self, checkpoint: CheckpointId, source: &Source, now_ms: u64) -> BTreeSet<NodeId> {
        let task = self.checkpoints.get(&checkpoint).and_then(|c| c.tasks.iter().find(|t| t.source == source.id));
        let failed = |id| task.and_then(|t| t.passed.get(&id)).is_some_and(|p| now_ms < p.at_ms + PASS_MS);
        self.readers(source).filter(|id| !failed(*id)).collect()
    }

    /// The nodes that may read a source.
    pub fn readers<'a>(&'a self, source: &'a Source) -> impl Iterator<Item = NodeId> + 'a {
        let members = self.nodes.values().filter(|n| n.standing == Standing::Member);
        members.map(|n| n.id).filter(|id| self.can_read(*id, source))
    }

    /// Nodes that can read a sector's stored bytes: from a target, or because they hold them.
    pub fn holders(&self, sector: SectorId) -> BTreeSet<NodeId> {
        let stored = self.copies.values().filter(|c| c.sector == sector && c.is_stored());
        let mut all: BTreeSet<NodeId> =
            stored.filter_map(|c| self.targets.get(&c.target)).flat_map(|t| t.reached_by.iter().copied()).collect();
        all.extend(self.sectors.get(&sector).into_iter().flat_map(|s| s.staged.keys().copied()));
        all
    }

    /// Sealed sectors with content of which nothing whole is left anywhere, as far as is known.
    pub fn gone(&self) -> BTreeSet<SectorId> {
        let data = self.sectors.values().filter(|s| s.is_sealed() && !s.system);
        let mut all: BTreeSet<SectorId> = data.map(|s| s.id).collect();
        for c in self.copies.values().filter(|c| c.is_stored()) {
            all.remove(&c.sector);
        }
        all
    }

    /// Those of them that lie under a chain of layers.
    pub fn gone_under<'a>(&self, layers: impl IntoIterator<Item = &'a LayerId>) -> BTreeSet<SectorId> {
        let gone = self.gone();
        if gone.is_empty() {
            return gone;
        }
        self.needed_by(layers).0.intersection(&gone).copied().collect()
    }

    /// Sources of which the newest checkpoint lacks something, with the sectors that nothing is left of.
    pub fn lacking(&self) -> Vec<(SourceId, BTreeSet<SectorId>)> {
        let newest = self.complete().pop();
        let tasks = newest.into_iter().flat_map(|c| &c.tasks).filter(|t| self.sources.contains_key(&t.source));
        tasks.map(|t| (t.source, self.gone_under(&t.layers))).filter(|(_, gone)| !gone.is_empty()).collect()
    }

    /// System sectors that newer ones replaced: all but the newest two.
    pub fn replaced_systems(&self) -> BTreeSet<SectorId> {
        let mut systems: Vec<_> = self.sectors.values().filter(|s| s.system && s.is_sealed()).collect();
        systems.sort_by_key(|s| (self.checkpoints.get(&s.checkpoint).map_or(0, |c| c.seq), s.created_ms));
        systems.iter().rev().skip(2).map(|s| s.id).collect()
    }

    /// Nodes that change their sources now, and why. For one that is given up nobody waits.
    pub fn in_maintenance(&self) -> impl Iterator<Item = (NodeId, &Maintenance)> {
        let waits = |id: &NodeId| self.nodes.get(id).is_some_and(|n| n.standing != Standing::Faulty);
        self.policy.maintenance.iter().filter(move |(id, _)| waits(id)).map(|(id, m)| (*id, m))
    }

    /// The checkpoint that is being made.
    pub fn running(&self) -> Option<&Checkpoint> {
        self.checkpoints.values().find(|c| c.state == CheckpointState::Running)
    }

    /// A source that is backed up, or was when some checkpoint was made.
    pub fn source_ever(&self, id: SourceId) -> Option<&Source> {
        self.sources.get(&id).or_else(|| self.former.get(&id))
    }

    /// A source by its path.
    pub fn source_at(&self, path: &[u8]) -> Option<&Source> {
        self.sources.values().find(|s| s.path == path)
    }
}
