//! L1 and L2: after all healed, the zone goes on; then what only the end of a run can show.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::world::World;
use super::{LOOK_MS, acknowledged, eyes, operator};
use crate::command::{Command, Entry, LEVEL};
use crate::model::CheckpointState;
use crate::plan::plan;
use crate::raft::Role;

/// Simulated milliseconds within which the zone must be at rest again, all work done.
const REST_MS: u64 = 240_000;

impl World {
    /// Waits until the zone is at rest: one leader, nobody behind, nothing to do. Then all histories must agree.
    pub async fn settle(&mut self) {
        let begun = Instant::now();
        let mut through = false;
        while eyes::broken().is_none() {
            self.operate_on().await;
            self.bury().await;
            self.look();
            through = through || (self.change.is_none() && self.goes_on().await);
            if through && self.at_rest() {
                break;
            }
            if begun.elapsed() > Duration::from_millis(REST_MS) {
                eyes::broke("L1", format!("the zone is not at rest after all healed: {}", self.why()));
                return;
            }
            sleep(Duration::from_millis(LOOK_MS)).await;
        }
        for node in self.members() {
            let view = node.view();
            eyes::with(|e| e.states.whole(node.node(), &view, &mut e.found));
        }
        eyes::with(|e| e.acknowledged.check(&mut e.found));
    }

    /// A change that was begun is finished; no other is.
    async fn operate_on(&mut self) {
        if !self.change.is_none() {
            self.operate().await;
        }
    }

    /// A command goes through.
    async fn goes_on(&self) -> bool {
        let Some(leader) = operator::leader(&self.net(), self.nodes.iter().copied()) else { return false };
        let nothing = Command::SetZone { name: None, sector_min_log2: None, zstd_level: None };
        leader.propose(1000, &nothing).await.is_ok()
    }

    /// Nodes that belong to the zone and run.
    fn members(&self) -> Vec<crate::raft::Consensus> {
        let running = self.cluster.running();
        let newest = running.iter().map(|c| c.membership()).max_by_key(|m| m.log_id().map(|id| id.index));
        let ids: BTreeSet<_> = newest.iter().flat_map(|m| m.nodes().map(|(id, _)| *id)).collect();
        running.into_iter().filter(|c| ids.contains(&c.node())).collect()
    }

    fn at_rest(&self) -> bool {
        let all = self.members();
        let Some(first) = all.first().map(|c| c.view()) else { return false };
        let same = all.iter().all(|c| c.view().revision == first.revision && c.leader() == all[0].leader());
        let busy = |s| matches!(s, CheckpointState::Running | CheckpointState::Stored);
        let leads = all.iter().filter(|c| c.role() == Role::Leader).count() == 1;
        let quiet = first.leases.is_empty() && !first.checkpoints.values().any(|c| busy(c.state));
        same && leads && quiet && plan(&first, 0).is_empty() && all.len() == self.nodes.len() && self.all_vote(&all)
    }

    /// Nobody waits for a vote: all have one, or all but one of an even number.
    fn all_vote(&self, all: &[crate::raft::Consensus]) -> bool {
        let votes = all.first().map_or(0, |c| c.metrics().voters.len());
        votes == all.len() || (votes + 1 == all.len() && all.len().is_multiple_of(2))
    }

    fn why(&self) -> String {
        let mut out = Vec::new();
        for c in self.cluster.running() {
            let m = c.metrics();
            let view = c.view();
            let todo = plan(&view, 0);
            out.push(format!(
                "{} {:?} term {} leader {:?} votes {:?} log {:?} applied {:?} leases {:?} to do {:?}",
                c.node(),
                m.role,
                m.term,
                m.leader,
                m.voters,
                m.last_log,
                m.last_applied,
                view.leases,
                todo.iter().take(3).collect::<Vec<_>>(),
            ));
        }
        out.join("; ")
    }

    /// C8: an entry of a newer release comes into the log, as a newer leader would bring it. Whoever would apply it stops.
    pub async fn newer_release(&mut self) {
        if !self.plan.seed.is_multiple_of(4) {
            return;
        }
        let Some(leader) = operator::leader(&self.net(), self.nodes.iter().copied()) else { return };
        let Ok(mut entry) = Entry::new(1000, leader.node(), &acknowledged::command(u64::MAX - 1)) else { return };
        entry.level = LEVEL + 1;
        let before = leader.view().revision;
        let raft = leader.0.raft.clone();
        let asked = tokio::spawn(async move { raft.client_write(entry).await.is_ok() });
        sleep(Duration::from_secs(20)).await;
        self.count("entry of a newer release");
        let passed = asked.is_finished() && asked.await.unwrap_or(false);
        let stopped = self.cluster.running().iter().any(|c| c.role() == Role::Stopped);
        if passed || !stopped {
            eyes::broke("C8", format!("an entry of a newer release was passed after revision {before}"));
        }
    }
}
