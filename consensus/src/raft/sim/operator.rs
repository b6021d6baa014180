//! Operators: they begin checkpoints, and let nodes come and go, one change at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use zoneward_sectors::ids::{CheckpointId, SourceId};

use super::voice::Voice;
use super::world::World;
use super::zone;
use crate::command::Command;
use crate::model::CheckpointKind;
use crate::planted::{Bug, planted};
use crate::raft::net::{Net, n};
use crate::raft::{Consensus, Peer, Role};

/// What is being changed about the members.
#[derive(Default)]
pub enum Change {
    #[default]
    None,
    /// A new node is let in.
    In(JoinHandle<()>),
    /// A node is removed.
    Out(u64, JoinHandle<()>),
    /// A removed node still runs.
    Outside(u64, Instant),
}

impl Change {
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// The node that says it leads, in the newest term.
pub fn leader(net: &Net, up: impl Iterator<Item = u64>) -> Option<Consensus> {
    let led = up.filter_map(|id| net.get(n(id))).filter(|c| c.role() == Role::Leader);
    led.max_by_key(|c| c.metrics().term)
}

impl World {
    /// What operators do at this moment.
    pub async fn operate(&mut self) {
        // At each look: a checkpoint every 20 to 80 s if none runs, a change of members about every 40 s.
        if self.net().roll(400 * self.calm.idle()) == 0 {
            self.checkpoint();
        }
        match std::mem::take(&mut self.change) {
            Change::None if self.net().roll(800 * self.calm.rare()) == 0 => self.begin_change().await,
            Change::In(task) if !task.is_finished() => self.change = Change::In(task),
            Change::Out(id, task) if !task.is_finished() => self.change = Change::Out(id, task),
            Change::Out(id, _) => {
                let stays = Duration::from_millis(self.net().roll(20_000));
                self.change = Change::Outside(id, Instant::now() + stays);
            }
            Change::Outside(id, until) if Instant::now() < until => self.change = Change::Outside(id, until),
            Change::Outside(id, _) => self.lose(id).await,
            _ => {}
        }
    }

    fn checkpoint(&self) {
        let net = self.net();
        let (up, _) = self.split();
        let Some(voice) = up.get(net.roll(up.len() as u64) as usize).and_then(|id| self.voice(*id)) else { return };
        let kind = [CheckpointKind::Full, CheckpointKind::Incremental][net.roll(2) as usize];
        if net.roll(3) == 0 {
            forget(voice.clone());
        }
        if net.roll(4) == 0 {
            let open =
                Command::OpenRewrite { checkpoint: CheckpointId(voice.fresh()), max_waste: Some(10), owner: None };
            tokio::spawn(async move { drop(voice.insist(&open).await) });
            return;
        }
        let first = 1 + net.roll(3);
        let sources = (first..=3).map(|i| SourceId(zoneward_sectors::ids::NodeId::from(i).0)).collect();
        let open = Command::OpenCheckpoint {
            checkpoint: CheckpointId(voice.fresh()),
            checkpoint_kind: kind,
            sources,
            allow_empty: false,
        };
        tokio::spawn(async move {
            let _ = voice.insist(&open).await;
        });
    }

    async fn begin_change(&mut self) {
        let net = self.net();
        let (up, _) = self.split();
        let all: Vec<u64> = self.nodes.iter().copied().collect();
        let grow = all.len() < 4 || (all.len() < 7 && net.roll(2) == 0);
        if grow {
            let id = self.next_node;
            self.next_node += 1;
            self.start(id).await;
            self.count("node added");
            self.change = Change::In(tokio::spawn(let_in(net, all, id)));
            return;
        }
        let id = all[net.roll(all.len() as u64) as usize];
        // As long as nobody else is down, and a majority of the votes is left: else the zone is lost, whatever it does.
        if net.roll(2) == 0 && up.len() == all.len() && can_lose(&net, &up, id) {
            self.lose(id).await;
            self.count("disk lost for good");
            if planted(Bug::WipedReturns) {
                self.start(id).await;
            }
        }
        self.count("node removed");
        let others = all.into_iter().filter(|o| *o != id).collect();
        self.change = Change::Out(id, tokio::spawn(put_out(net, others, id)));
    }
}

/// Forgets one of the older checkpoints, or takes a mark back.
fn forget(voice: Voice) {
    let state = voice.state();
    let all = state.complete();
    let Some(c) = all.get(voice.net.roll(all.len() as u64 + 1) as usize) else { return };
    let command = match c.forgotten {
        Some(_) => Command::Remember { checkpoints: vec![c.id] },
        None => Command::Forget { checkpoints: vec![c.id], now: false, owner: None },
    };
    tokio::spawn(async move { drop(voice.insist(&command).await) });
}

/// Whether the zone goes on without a node that is lost for good.
fn can_lose(net: &Net, up: &[u64], id: u64) -> bool {
    let Some(leader) = leader(net, up.iter().copied()) else { return false };
    let voters = leader.metrics().voters;
    let left = up.iter().filter(|o| **o != id && voters.contains(&n(**o))).count();
    left > voters.len() / 2
}

/// Lets a node in: its record, then its place in the membership. Its vote the leader gives it.
async fn let_in(net: Arc<Net>, others: Vec<u64>, id: u64) {
    loop {
        sleep(Duration::from_millis(300)).await;
        let Some(leader) = leader(&net, others.iter().copied()) else { continue };
        let known = leader.propose(1000, &zone::add_node(id)).await;
        if known.is_ok_and(|r| r.refused.is_none_or(|r| r.code == "exists"))
            && leader.add_learner(n(id), Peer::default()).await.is_ok()
        {
            return;
        }
    }
}

/// Removes a node: its vote first, so that no majority needs it, then its record.
async fn put_out(net: Arc<Net>, others: Vec<u64>, id: u64) {
    loop {
        sleep(Duration::from_millis(300)).await;
        let Some(leader) = leader(&net, others.iter().copied().chain([id])) else { continue };
        let members = leader.membership();
        if members.nodes().any(|(m, _)| *m == n(id)) && leader.remove(n(id)).await.is_err() {
            continue;
        }
        let gone = leader.propose(1000, &Command::RemoveNode { node: n(id) }).await;
        if gone.is_ok_and(|r| r.refused.is_none_or(|r| r.code == "unknown")) {
            return;
        }
    }
}
