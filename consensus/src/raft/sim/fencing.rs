//! C3: work has one holder; a result counts only under the lease that holds its work, and never after that lease ended.
//!
//! This keeps its own account of leases, from the commands alone: it shares no code with what it checks.

use std::collections::BTreeMap;

use zoneward_sectors::ids::{CopyId, NodeId, SectorId, TargetId};

use super::eyes::{First, Found, inner};
use crate::command::Command;
use crate::model::{Standing, State};
use crate::work::Work;

struct Held {
    node: NodeId,
    incarnation: u64,
    work: Vec<Work>,
}

#[derive(Default)]
pub struct Fencing {
    live: BTreeMap<u64, Held>,
    /// Under which lease each sector was opened.
    sectors: BTreeMap<SectorId, Option<u64>>,
    copies: BTreeMap<CopyId, (SectorId, TargetId)>,
}

impl Fencing {
    pub fn entry(&mut self, e: &First<'_>, found: &mut Found) {
        let (epoch, command) = inner(e.command);
        if let Some(epoch) = epoch {
            let holder = self.live.get(&epoch).map(|h| h.node);
            found.demand(holder == Some(e.by), "C3", || {
                format!("entry {} of {} counts under lease {epoch}, which is {holder:?}'s", e.index, e.by)
            });
        }
        self.report(e.index, epoch, command, found);
        match command {
            Command::Claim { incarnation, work } => self.claim(e, *incarnation, work, found),
            Command::EndLease { epoch } => drop(self.live.remove(epoch)),
            Command::StartNode { incarnation, .. } => {
                self.live.retain(|_, h| h.node != e.by || h.incarnation >= *incarnation);
            }
            Command::RemoveNode { node }
            | Command::SetNode { node, standing: Some(Standing::Faulty | Standing::Witness), .. } => {
                self.live.retain(|_, h| h.node != *node);
            }
            Command::ResumeCheckpoint { checkpoint } | Command::AbandonCheckpoint { checkpoint } => {
                let packs = |w: &Work| matches!(w, Work::Pack { checkpoint: c, .. } if c == checkpoint);
                self.live.retain(|_, h| !h.work.iter().any(packs));
            }
            _ => {}
        }
        if e.state.revision == e.index {
            self.agrees(e.state, found);
        }
    }

    fn claim(&mut self, e: &First<'_>, incarnation: u64, work: &[Work], found: &mut Found) {
        for (epoch, held) in &self.live {
            if let Some(w) = work.iter().find(|w| held.work.contains(w)) {
                found.broke("C3", format!("{w:?} is granted to {} and {} holds it as {epoch}", e.by, held.node));
            }
        }
        self.live.insert(e.index, Held { node: e.by, incarnation, work: work.to_vec() });
    }

    /// A result belongs to work that its sender holds. In a zone that no daemon serves nobody holds anything, and reports
    /// come without a lease: those count as long as the work is not held.
    fn report(&mut self, index: u64, epoch: Option<u64>, command: &Command, found: &mut Found) {
        let holds = |w: Work| match epoch {
            Some(e) => self.live.get(&e).is_some_and(|h| h.work.contains(&w)),
            None => !self.live.values().any(|h| h.work.contains(&w)),
        };
        let right = match command {
            Command::OpenSector { sector, .. } => {
                self.sectors.insert(*sector, epoch);
                true
            }
            Command::OpenCopy { copy, sector, target, .. } => {
                self.copies.insert(*copy, (*sector, *target));
                true
            }
            Command::SealSector { sector, .. } => self.sectors.get(sector) == Some(&epoch),
            Command::StoreCopy { copy, .. } => self
                .copies
                .get(copy)
                .is_none_or(|(sector, target)| holds(Work::Copy { sector: *sector, target: *target })),
            Command::OpenLayer { checkpoint, source, .. } | Command::FinishTask { checkpoint, source, .. } => {
                holds(Work::Pack { checkpoint: *checkpoint, source: *source })
            }
            Command::Staged { sector, .. } => holds(Work::Stage { sector: *sector }),
            _ => true,
        };
        found.demand(right, "C3", || format!("entry {index} counts without the lease of its work: {command:?}"));
    }

    /// The state knows the same leases, and nothing is open under one that has ended.
    fn agrees(&self, state: &State, found: &mut Found) {
        let same = state.leases.len() == self.live.len()
            && state.leases.iter().all(|(epoch, l)| self.live.get(epoch).is_some_and(|h| h.node == l.node));
        found.demand(same, "C3", || format!("revision {}: leases {:?}", state.revision, state.leases.keys()));
        let ended = |epoch: Option<u64>| epoch.is_some_and(|e| !state.leases.contains_key(&e));
        for s in state.sectors.values().filter(|s| ended(s.lease)) {
            found.broke("C3", format!("the sector {} is open under a lease that has ended", s.id));
        }
        for c in state.copies.values().filter(|c| ended(c.lease)) {
            found.broke("C3", format!("the copy {} is written under a lease that has ended", c.id));
        }
    }
}
