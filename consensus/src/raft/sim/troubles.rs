//! What goes wrong, by the seed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use zoneward_sectors::ids::NodeId;

use super::eyes;
use super::world::World;
use crate::raft::net::{FAIR, Weather, n};
use crate::raft::{Consensus, Role};

/// Reads that a leader is asked for as soon as it has been started again.
const READS_AT_ONCE: u64 = 3;

impl World {
    /// One piece of bad luck, or its end.
    pub async fn trouble(&mut self) {
        let net = self.net();
        let (up, down) = self.split();
        let any = |list: &[u64]| list.get(net.roll(list.len() as u64) as usize).copied();
        match net.roll(24) {
            0..3 => self.maybe_crash(any(&up), "crash").await,
            3 => {
                let leader = self.leader(&up);
                self.maybe_crash(leader, "crash of the leader").await;
                if let Some(id) = leader.filter(|_| net.roll(2) == 0) {
                    self.start(id).await;
                    self.read_at_once(id);
                    self.count("leader started again at once");
                }
            }
            4..10 => {
                for id in down {
                    self.start(id).await;
                    if net.roll(3) == 0 {
                        break;
                    }
                }
            }
            10 | 11 => {
                let some: Vec<NodeId> = up.iter().filter(|_| net.roll(2) == 0).map(|id| n(*id)).collect();
                net.isolate(&some);
                self.count("partition");
            }
            12 => {
                if let (Some(a), Some(b)) = (any(&up), any(&up)) {
                    net.cut(n(a), n(b));
                    self.count("one-way cut");
                }
            }
            13..18 => net.heal(),
            18 => self.fail_disk(any(&up)),
            19 => {
                if let Some(id) = any(&up) {
                    let until = Instant::now() + Duration::from_millis(500 + net.roll(10_000));
                    net.freeze(n(id), until);
                    self.count("node stands still");
                }
            }
            20 => self.jump(any(&up)),
            21 if net.roll(4) == 0 => {
                for id in up {
                    self.crash(id).await;
                }
                self.count("crash of all nodes");
            }
            _ => self.weather(),
        }
    }

    fn leader(&self, up: &[u64]) -> Option<u64> {
        let leads = |id: &&u64| self.net().get(n(**id)).is_some_and(|c| c.role() == Role::Leader);
        up.iter().find(leads).copied()
    }

    /// Clients read from a node that has just been started, before it can have committed anything.
    fn read_at_once(&self, id: u64) {
        for _ in 0..READS_AT_ONCE {
            if let Some(voice) = self.voice(id) {
                tokio::spawn(super::client::read(voice));
            }
        }
    }

    async fn maybe_crash(&mut self, id: Option<u64>, kind: &'static str) {
        if let Some(id) = id {
            self.crash(id).await;
            self.count(kind);
        }
    }

    fn weather(&mut self) {
        let net = self.net();
        let weather = match net.roll(3) {
            0 => FAIR,
            _ => Weather {
                delay_us: (100, 1000 << net.roll(9)),
                lost: net.roll(100),
                doubled: net.roll(100),
                rate: [0, 8, 1250][net.roll(3) as usize],
            },
        };
        net.calm(weather);
        self.count("change of loss and delay");
    }

    /// The disk fails in the middle of a call of the store, soon.
    fn fail_disk(&mut self, id: Option<u64>) {
        let Some(id) = id else { return };
        let soon = self.net().roll(60);
        if let Some(disk) = self.cluster.disks.get(&n(id)) {
            let mut disk = disk.disk();
            disk.fail_at = Some(disk.calls + 1 + soon);
        }
        self.failing.insert(id);
        self.count("disk failure");
    }

    /// A wall clock jumps, by up to a day, ahead or back.
    fn jump(&mut self, id: Option<u64>) {
        let by = self.net().roll(86_400_000);
        if let Some(clock) = id.and_then(|id| self.clock(id)) {
            clock.store(by, Ordering::Relaxed);
            self.count("clock jump");
        }
    }

    /// A node whose disk failed has stopped: its power goes too. No other node may stop.
    pub async fn bury(&mut self) {
        for node in self.cluster.running() {
            if node.role() != Role::Stopped {
                continue;
            }
            let Some(id) = self.nodes.iter().copied().find(|id| n(*id) == node.node()) else { continue };
            if !self.failing.contains(&id) {
                let why = node.metrics().stopped.unwrap_or_default();
                eyes::broke("C6", format!("node {id} stopped by itself: {why}"));
                return;
            }
            drop(node);
            self.crash(id).await;
        }
    }

    /// All is well again.
    pub async fn heal(&mut self) {
        self.net().end_trouble();
        self.net().heal();
        self.net().calm(FAIR);
        for disk in self.cluster.disks.values() {
            disk.disk().fail_at = None;
        }
        self.bury().await;
        for id in self.split().1 {
            self.start(id).await;
        }
        for node in self.cluster.running() {
            let id = self.nodes.iter().copied().find(|id| n(*id) == Consensus::node(&node));
            if let Some(voice) = id.and_then(|id| self.voice(id)) {
                tokio::spawn(async move {
                    while super::worker::reach(&voice).await.is_err() {
                        voice.pause(300, 900).await;
                    }
                });
            }
        }
    }
}
