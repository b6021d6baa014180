//! The nodes of a run, and what is done to each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use zoneward_sectors::ids::NodeId;

use super::operator::Change;
use super::promises::Promised;
use super::report::Report;
use super::voice::Voice;
use super::{Calm, Plan, Seen, client, eyes, leaders, order, states, worker, zone};
use crate::raft::net::{Cluster, FAIR, Net, n, until};
use crate::raft::{Consensus, LogId, Peer, Role, Vote};

/// What a node's process is, besides its consensus.
#[derive(Default)]
struct Process {
    life: u64,
    clock: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

/// What was last seen of a node: anything else is worth a look.
type Glance = (Role, Option<LogId>, Option<LogId>, Option<LogId>, Option<LogId>, Option<Vote>, u64);

pub struct World {
    pub cluster: Cluster,
    pub plan: Plan,
    pub calm: Calm,
    /// Nodes that have a disk, running or not.
    pub nodes: BTreeSet<u64>,
    pub next_node: u64,
    pub change: Change,
    pub begun: Instant,
    pub faults: BTreeMap<&'static str, u64>,
    processes: BTreeMap<u64, Process>,
    promised: BTreeMap<u64, Promised>,
    /// Nodes whose disk fails: they may stop.
    pub failing: BTreeSet<u64>,
    leaders: leaders::Leaders,
    order: order::Order,
    glances: BTreeMap<NodeId, Glance>,
    trace: u64,
    terms: u64,
    pub snapshots: u64,
}

impl World {
    pub async fn new(plan: Plan) -> Self {
        let mut cluster = Cluster::new(plan.seed, FAIR);
        eyes::open();
        let size =
            plan.nodes.unwrap_or(if plan.seed.is_multiple_of(2) { 3 } else { 3 + plan.seed / 2 % 5 }).clamp(3, 7);
        (cluster.snapshot_every, cluster.log_kept) = (60, 15);
        // Nobody waits for a mistake in a quiet zone.
        let calm = match Calm::of(plan.seed) {
            Calm::Quiet if plan.bug.is_some() => Calm::Steady,
            calm => calm,
        };
        let mut store = cluster.open(1).unwrap();
        store.propose(1000, n(1), zone::create()).unwrap();
        drop(store);
        let mut world = Self {
            cluster,
            plan: Plan { nodes: Some(size), ..plan },
            calm,
            nodes: BTreeSet::new(),
            next_node: size + 1,
            change: Change::default(),
            begun: Instant::now(),
            faults: BTreeMap::new(),
            processes: BTreeMap::new(),
            promised: BTreeMap::new(),
            failing: BTreeSet::new(),
            leaders: leaders::Leaders::default(),
            order: order::Order::default(),
            glances: BTreeMap::new(),
            trace: 0,
            terms: 0,
            snapshots: 0,
        };
        world.found(size).await;
        world
    }

    /// Makes the zone and its first nodes.
    async fn found(&mut self, size: u64) {
        self.start(1).await;
        let first = self.cluster.node(1);
        until("one node leads itself", || first.leader() == Some(n(1))).await;
        for command in zone::furnish(self.calm.idle()) {
            first.propose(1000, &command).await.unwrap();
        }
        first.propose(1000, &zone::add_node(1)).await.unwrap();
        for id in 2..=size {
            self.start(id).await;
            first.propose(1000, &zone::add_node(id)).await.unwrap();
            first.add_learner(n(id), Peer::default()).await.unwrap();
        }
        let votes = if size.is_multiple_of(2) { size - 1 } else { size };
        until("the first leader has given out the votes", || first.metrics().voters.len() as u64 == votes).await;
    }

    pub fn net(&self) -> Arc<Net> {
        Arc::clone(&self.cluster.net)
    }

    pub fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// Three clients that ask any node.
    pub fn clients(&self) -> Vec<JoinHandle<()>> {
        let voice = || {
            let (net, begun, calm) = (self.net(), self.begun, self.calm.idle());
            move || {
                let node = net.any()?;
                Some(Voice { node, net: Arc::clone(&net), life: 0, clock: Arc::default(), begun, calm })
            }
        };
        vec![
            tokio::spawn(client::writer(voice(), 4000 * self.calm.idle())),
            tokio::spawn(client::writer(voice(), 8000 * self.calm.idle())),
            tokio::spawn(client::reader(voice(), 4000 * self.calm.idle())),
        ]
    }

    pub fn voice(&self, id: u64) -> Option<Voice> {
        let (node, process) = (self.net().get(n(id))?, self.processes.get(&id)?);
        let clock = Arc::clone(&process.clock);
        Some(Voice { node, net: self.net(), life: process.life, clock, begun: self.begun, calm: self.calm.idle() })
    }

    pub fn clock(&self, id: u64) -> Option<Arc<AtomicU64>> {
        self.processes.get(&id).map(|p| Arc::clone(&p.clock))
    }

    /// Starts a node: a new one if it has no disk.
    pub async fn start(&mut self, id: u64) {
        let store = match self.cluster.open(id) {
            Ok(store) => store,
            Err(e) => return eyes::broke("C6", format!("node {id} cannot start on what its disk kept: {e}")),
        };
        if let Some(promised) = self.promised.remove(&id) {
            promised.check(&store);
        }
        let node = match self.cluster.begin(id, store).await {
            Ok(node) => node,
            Err(e) => return eyes::broke("C6", format!("node {id} cannot start: {e}")),
        };
        self.nodes.insert(id);
        self.failing.remove(&id);
        eyes::with(|e| e.states.whole(n(id), &node.view(), &mut e.found));
        self.processes.entry(id).or_default().life += 1;
        let Some(voice) = self.voice(id) else { return };
        let tasks = worker::begin(&voice);
        self.processes.entry(id).or_default().tasks = tasks;
    }

    /// Takes a node's power, and with it all that runs on it.
    pub async fn crash(&mut self, id: u64) {
        let node = self.cluster.node(id);
        let promised = Promised::of(&node.0.storage.ledger());
        if promised.stopped {
            self.count("power lost in the middle of a write");
        }
        self.promised.insert(id, promised);
        drop(node);
        if let Some(process) = self.processes.get_mut(&id) {
            process.tasks.drain(..).for_each(|t| t.abort());
        }
        self.cluster.crash(id).await;
        // What was applied and not yet synced is applied again.
        self.glances.remove(&n(id));
    }

    /// A node and its disk are no more.
    pub async fn lose(&mut self, id: u64) {
        if self.net().get(n(id)).is_some() {
            self.crash(id).await;
        }
        self.nodes.remove(&id);
        self.promised.remove(&id);
        self.cluster.disks.remove(&n(id));
    }

    /// Ids of nodes that run, and of those that do not.
    pub fn split(&self) -> (Vec<u64>, Vec<u64>) {
        let running: BTreeSet<NodeId> = self.cluster.running().iter().map(Consensus::node).collect();
        self.nodes.iter().copied().partition(|id| running.contains(&n(*id)))
    }

    /// Looks at all nodes.
    pub fn look(&mut self) {
        for node in self.cluster.running() {
            let Some(seen) = self.seen(&node) else { continue };
            self.snapshots = self.snapshots.max(seen.head.snapshots);
            let term = seen.head.vote.map_or(0, |v| v.leader_id().term);
            self.terms = self.terms.max(term);
            for fact in [term, seen.role as u64, seen.head.revision(), self.cluster.net.messages()] {
                self.trace = (self.trace ^ fact).wrapping_mul(0x0000_0100_0000_01b3);
            }
            eyes::with(|e| {
                self.leaders.look(&seen, &mut e.found);
                self.order.look(&seen, &mut e.found);
                e.states.look(&seen, &mut e.found);
            });
        }
    }

    /// A node, if anything about it has changed.
    fn seen(&mut self, node: &Consensus) -> Option<Seen> {
        let (id, role) = (node.node(), node.role());
        let ledger = node.0.storage.ledger();
        let h = &ledger.head;
        let glance = (role, h.applied, h.committed, h.last, h.purged, h.vote, h.snapshots);
        if self.glances.insert(id, glance) == Some(glance) {
            return None;
        }
        let number = u64::from_be_bytes(*id.0.last_chunk()?);
        let life = self.processes.get(&number).map_or(0, |p| p.life);
        Some(Seen { node: id, life, role, head: h.clone() })
    }

    /// What the run came to.
    pub fn report(self) -> Report {
        let (lost, doubled) = self.cluster.net.lost_and_doubled();
        let (messages, virtual_ms) = (self.cluster.net.messages(), self.begun.elapsed().as_millis() as u64);
        let newest = self.cluster.running().iter().map(Consensus::view).max_by_key(|s| s.revision);
        let mut faults = self.faults;
        faults.extend([("messages lost", lost), ("messages doubled", doubled)]);
        let mut report = Report {
            seed: self.plan.seed,
            nodes: self.plan.nodes.unwrap_or_default(),
            trace: self.trace,
            state: newest.as_ref().map(|s| states::hash(s)),
            revision: newest.map_or(0, |s| s.revision),
            virtual_ms,
            messages,
            faults,
            ..Report::default()
        };
        eyes::with(|e| {
            let (acknowledged, unknown) = e.acknowledged.counts();
            report.work = std::mem::take(&mut e.done);
            report.work.extend([
                ("acknowledged to clients", acknowledged),
                ("unknown to clients", unknown),
                ("linearizable reads", e.acknowledged.reads),
                ("segments written", e.segments.written()),
                ("terms", self.terms),
                ("leaders", self.leaders.count()),
                ("snapshots", self.snapshots),
            ]);
            report.broken = eyes::broken_of(e);
        });
        report
    }
}
