//! What each actor looks for.

use std::sync::Arc;

use zoneward_consensus::choose::{Kind, Me, choose};
use zoneward_consensus::model::State;
use zoneward_consensus::plan::Work;
use zoneward_consensus::raft;

use super::steps;
use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::node::Node;
use crate::restorer;

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
    /// Looks after stored copies: that they are listed, and, by their bytes, that they are there.
    HealthChecker,
    /// Restores into a folder what this node was asked for.
    Restorer,
}

impl Role {
    pub const ALL: [Self; 8] = [
        Self::Scheduler,
        Self::Packer,
        Self::Uploader,
        Self::Stager,
        Self::Rebuilder,
        Self::Publisher,
        Self::HealthChecker,
        Self::Restorer,
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
            Self::Restorer => "restorer",
        }
    }

    /// What this node should do next in this role.
    pub fn choose(self, state: &State, node: &Arc<Node>) -> Chosen {
        let due = match self {
            Self::Scheduler => steps::schedule_is_due(node),
            Self::HealthChecker if !steps::check_is_due(state, node) => return claim(Kind::Audit, state, node),
            Self::HealthChecker => true,
            Self::Restorer => node.restores.waits(),
            Self::Packer => return claim(Kind::Pack, state, node),
            Self::Uploader => return claim(Kind::Upload, state, node),
            Self::Stager => return claim(Kind::Stage, state, node),
            Self::Rebuilder => return claim(Kind::Rebuild, state, node),
            Self::Publisher => return claim(Kind::Publish, state, node),
        };
        if due { Chosen::Look } else { Chosen::Nothing }
    }

    /// Does what was chosen, on a thread of its own. `false`: others were faster.
    pub fn run(self, node: &Arc<Node>, chosen: Chosen) -> Result<bool, ZoneError> {
        match (chosen, self) {
            (Chosen::Claim(work), _) => steps::claim_and_do(self, node, work),
            (Chosen::Look, Self::HealthChecker) => steps::check(node),
            (Chosen::Look, Self::Restorer) => restorer::run(node),
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

fn claim(kind: Kind, state: &State, node: &Arc<Node>) -> Chosen {
    let leads = node.cluster.metrics().role == raft::Role::Leader;
    let work = choose(kind, state, &Me { id: node.id(), reaches: &|t| node.reaches(t), leads }, now_ms());
    if work.is_empty() { Chosen::Nothing } else { Chosen::Claim(work) }
}
