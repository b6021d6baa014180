//! Nodes in one process, for tests: a network that delays, loses, repeats and cuts, and disks that lose power.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use zoneward_sectors::ids::NodeId;

use super::network::{Answer, Peers, SendError};
use super::{Consensus, Peer, ProposeError, Reply, Settings, StartError};
use crate::command::Entry;
use crate::store::trial::Trial;
use crate::store::{Store, StoreError};

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub delay_us: (u64, u64),
    /// Of a thousand messages.
    pub lost: u64,
    pub doubled: u64,
    /// Bytes that pass in a millisecond; 0: any number.
    pub rate: u64,
}

pub(crate) const FAIR: Weather = Weather { delay_us: (100, 3000), lost: 0, doubled: 0, rate: 0 };

pub(crate) struct Net(Mutex<Inner>);

struct Inner {
    nodes: BTreeMap<NodeId, Consensus>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    weather: Weather,
    /// Nodes that stand still: what they say and hear waits until then.
    frozen: BTreeMap<NodeId, Instant>,
    /// All trouble is over.
    over: bool,
    dice: u64,
    messages: u64,
    lost: u64,
    doubled: u64,
}

impl Net {
    pub fn new(seed: u64, weather: Weather) -> Arc<Self> {
        let (nodes, cuts) = (BTreeMap::new(), BTreeSet::new());
        Arc::new(Self(Mutex::new(Inner {
            nodes,
            cuts,
            weather,
            frozen: BTreeMap::new(),
            over: false,
            dice: seed,
            messages: 0,
            lost: 0,
            doubled: 0,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// A number below `n`; the same ones for the same seed.
    pub fn roll(&self, n: u64) -> u64 {
        let mut i = self.inner();
        i.dice = i.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (i.dice >> 33) % n.max(1)
    }

    pub fn messages(&self) -> u64 {
        self.inner().messages
    }

    /// Messages that were lost, and that came twice.
    pub fn lost_and_doubled(&self) -> (u64, u64) {
        let i = self.inner();
        (i.lost, i.doubled)
    }

    /// From now on all is well.
    pub fn end_trouble(&self) {
        self.inner().over = true;
    }

    pub fn trouble_is_over(&self) -> bool {
        self.inner().over
    }

    /// A node stands still for a while, as if it were stopped by a signal.
    pub fn freeze(&self, node: NodeId, until: Instant) {
        self.inner().frozen.insert(node, until);
    }

    pub fn calm(&self, weather: Weather) {
        self.inner().weather = weather;
    }

    pub fn get(&self, id: NodeId) -> Option<Consensus> {
        self.inner().nodes.get(&id).cloned()
    }

    /// Any node that runs.
    pub fn any(&self) -> Option<Consensus> {
        let nodes: Vec<Consensus> = self.inner().nodes.values().cloned().collect();
        let at = self.roll(nodes.len() as u64) as usize;
        nodes.into_iter().nth(at)
    }

    /// Makes a node reachable.
    pub fn join(&self, node: &Consensus) {
        self.inner().nodes.insert(node.node(), node.clone());
    }

    /// Nobody is reachable any more.
    #[cfg(test)]
    pub fn part(&self) {
        self.inner().nodes.clear();
    }

    /// Cuts everything between these and the others, both ways.
    pub fn isolate(&self, nodes: &[NodeId]) {
        let mut i = self.inner();
        let all: Vec<NodeId> = i.nodes.keys().copied().collect();
        for a in &all {
            for b in all.iter().filter(|b| nodes.contains(a) != nodes.contains(b)) {
                i.cuts.insert((*a, *b));
            }
        }
    }

    /// Cuts one way.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.inner().cuts.insert((from, to));
    }

    pub fn heal(&self) {
        let mut i = self.inner();
        i.cuts.clear();
        i.frozen.clear();
    }

    /// One way of one message: how long it takes; `None` if it never arrives.
    fn way(&self, from: NodeId, to: NodeId, len: usize) -> Option<Duration> {
        let (weather, still) = {
            let mut i = self.inner();
            i.messages += 1;
            if i.cuts.contains(&(from, to)) {
                i.lost += 1;
                return None;
            }
            let until = i.frozen.get(&from).max(i.frozen.get(&to));
            (i.weather, until.map(|at| at.saturating_duration_since(Instant::now())))
        };
        let (low, high) = weather.delay_us;
        let delay = Duration::from_micros(low + self.roll(high - low));
        if self.roll(1000) < weather.lost {
            self.inner().lost += 1;
            return None;
        }
        let on_the_line = Duration::from_millis((len as u64).checked_div(weather.rate).unwrap_or(0));
        Some(delay + on_the_line + still.unwrap_or_default())
    }

    /// Brings an entry to another node, as the product's nodes do, and its answer back; `None` if either is lost.
    pub async fn forward(&self, from: NodeId, to: NodeId, entry: Entry) -> Option<Result<Reply, ProposeError>> {
        pause(self.way(from, to, entry.body.get().len())?).await;
        let node = self.get(to)?;
        let answer = tokio::spawn(async move { node.propose_entry(entry).await }).await.ok()?;
        pause(self.way(to, from, 0)?).await;
        Some(answer)
    }
}

/// tokio's shortest sleep is a millisecond.
async fn pause(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
}

/// One node's way to the others, until its power goes.
struct Port {
    net: Arc<Net>,
    me: NodeId,
    on: Arc<AtomicBool>,
}

/// A way to the others that is always on.
#[cfg(test)]
pub(crate) fn plain_port(net: &Arc<Net>, me: NodeId) -> Arc<dyn Peers> {
    Arc::new(Port { net: Arc::clone(net), me, on: Arc::new(AtomicBool::new(true)) })
}

impl Port {
    async fn go(&self, to: NodeId, request: Vec<u8>) -> Option<Vec<u8>> {
        let delay = self.net.way(self.me, to, request.len())?;
        pause(delay).await;
        let node = self.net.inner().nodes.get(&to).cloned()?;
        if !self.on.load(Ordering::SeqCst) {
            return None;
        }
        let doubled = {
            let rate = self.net.inner().weather.doubled;
            self.net.roll(1000) < rate
        };
        let me = self.me;
        if doubled {
            self.net.inner().doubled += 1;
            let (node, request, late) = (node.clone(), request.clone(), Duration::from_millis(self.net.roll(500)));
            tokio::spawn(async move {
                sleep(late).await;
                node.serve(me, &request).await;
            });
        }
        // The other side does not stop when the asker stops waiting.
        let answer = tokio::spawn(async move { node.serve(me, &request).await }).await.ok()?;
        let delay = self.net.way(to, me, answer.len())?;
        pause(delay).await;
        Some(answer)
    }
}

impl Peers for Port {
    fn send<'a>(&'a self, to: NodeId, _: &'a Peer, request: Vec<u8>) -> Answer<'a> {
        Box::pin(async move {
            match self.go(to, request).await {
                Some(answer) => Ok(answer),
                None => {
                    // As a transport would notice it.
                    sleep(Duration::from_millis(100)).await;
                    Err(SendError::Unreachable(to, io::ErrorKind::TimedOut.into()))
                }
            }
        })
    }
}

/// A directory for snapshots: in memory where there is such a place, since nothing of it outlives the process.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Some nodes, their disks and their network.
pub(crate) struct Cluster {
    pub net: Arc<Net>,
    pub disks: BTreeMap<NodeId, Trial>,
    pub snapshot_every: u64,
    pub log_kept: u64,
    dir: tempfile::TempDir,
    power: BTreeMap<NodeId, Arc<AtomicBool>>,
}

pub(crate) fn n(id: u64) -> NodeId {
    NodeId::from(id)
}

impl Cluster {
    pub fn new(seed: u64, weather: Weather) -> Self {
        super::load_dice(Some(seed));
        Self {
            net: Net::new(seed, weather),
            disks: BTreeMap::new(),
            snapshot_every: 5000,
            log_kept: 5000,
            dir: scratch(),
            power: BTreeMap::new(),
        }
    }

    fn settings(&self, id: NodeId) -> Settings {
        let snapshots: PathBuf = self.dir.path().join(id.to_string());
        let (snapshot_every, log_kept) = (self.snapshot_every, self.log_kept);
        Settings { snapshot_every, log_kept, inline: true, ..Settings::new(snapshots) }
    }

    #[cfg(test)]
    pub fn store(&self, id: NodeId) -> Store {
        Store::open_on(self.disks[&id].clone()).unwrap()
    }

    /// Starts a node on its disk; a new one if it has none.
    #[cfg(test)]
    pub async fn start(&mut self, id: u64) -> Consensus {
        let store = self.open(id).unwrap();
        self.begin(id, store).await.unwrap()
    }

    /// Opens a node's disk; a new one if it has none.
    pub fn open(&mut self, id: u64) -> Result<Store, StoreError> {
        Store::open_on(self.disks.entry(n(id)).or_default().clone())
    }

    /// Starts a node on its store.
    pub async fn begin(&mut self, id: u64, store: Store) -> Result<Consensus, StartError> {
        let id = n(id);
        let on = Arc::new(AtomicBool::new(true));
        let port = Port { net: Arc::clone(&self.net), me: id, on: Arc::clone(&on) };
        let node = Consensus::start(store, id, &self.settings(id), Arc::new(port)).await?;
        self.power.insert(id, on);
        self.net.join(&node);
        Ok(node)
    }

    /// Takes a node's power: what it did not sync is lost, in one of the ways in which disks lose it.
    pub async fn crash(&mut self, id: u64) {
        let id = n(id);
        self.power[&id].store(false, Ordering::SeqCst);
        let node = self.net.inner().nodes.remove(&id).unwrap();
        // Whatever the old process still writes, it writes to the old disk.
        let image = self.disks[&id].disk().cut_power(|n| self.net.roll(n));
        self.disks.insert(id, Trial::of(image));
        let _ = node.shutdown().await;
    }

    pub fn node(&self, id: u64) -> Consensus {
        self.net.inner().nodes[&n(id)].clone()
    }

    pub fn running(&self) -> Vec<Consensus> {
        self.net.inner().nodes.values().cloned().collect()
    }
}

/// Waits, in the test's own time, until something is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if so() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("after a minute it is still not so: {what}");
}
