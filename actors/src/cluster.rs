//! A node in its zone's cluster: raft over authenticated links, on a runtime of its own.
//!
//! Nothing that works on data runs on this runtime, so that no step can hold up a heartbeat. [`Cluster`] is a handle that
//! blocks: it is called from worker threads. The links obey the replicated membership: what is applied closes the links of
//! a removed node before the next entry is applied. A crash leaves nothing to tidy: all that lasts is in the store.

mod forward;
mod peers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use zoneward_consensus::command::{Command, DecodeError, Entry};
use zoneward_consensus::model::State;
use zoneward_consensus::raft::{Consensus, Metrics, Peer, ProposeError, Reply, Settings, StartError};
use zoneward_consensus::store::Store;
use zoneward_sectors::crypto::Signer;
use zoneward_sectors::ids::{NodeId, ZoneId};
use zoneward_transport::{BindError, CallError, Config, Endpoint, MemberView, MembersError, NodeIdentity, Services};

use crate::clock::now_ms;
use crate::serve::MemberChange;

/// Threads of the runtime: consensus and links, never data.
const THREADS: usize = 2;
/// How often a node looks for what no entry tells it: a newer membership that others vouch for, its own address.
const LOOK_MS: u64 = 200;
/// Wait before a leader is looked for again, ms.
const LEADER_WAIT_MS: u64 = 50;

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    pub zone: ZoneId,
    /// Where to listen (UDP).
    pub listen: SocketAddr,
    /// How others reach this node, `host:port`; empty: as it listens.
    pub address: String,
    /// Directory for snapshots.
    pub snapshots: PathBuf,
    /// The number of this start: see [`next_incarnation`](crate::home::next_incarnation).
    pub incarnation: u64,
    /// The members that a node knows before its log does: those that the one that let it join told it.
    pub introduced: BTreeMap<NodeId, Peer>,
}

/// Why a node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("the threads of the consensus could not be started")]
    Threads(#[source] std::io::Error),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the zone's membership cannot be used")]
    Members(#[from] MembersError),
}

/// Why a command did not come through.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("the zone refuses: {text}")]
    Refused {
        /// Which kind: that of the control plane, or `members` or `failed`.
        code: String,
        text: String,
    },
    /// Nothing was done.
    #[error("no leader was found: does a majority of the zone's nodes run? `zoneward node ls` shows them")]
    NoLeader,
    /// It may take effect now, later, or never.
    #[error("the zone's majority gave no answer: look whether it took effect before trying again")]
    Unknown,
    /// Nothing was done.
    #[error("too many commands are under way: try again in a moment")]
    Busy,
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("{0}")]
    Stopped(String),
}

/// A running node. Dropping it stops it.
pub struct Cluster {
    runtime: Option<Runtime>,
    handle: tokio::runtime::Handle,
    parts: Arc<Parts>,
}

/// What the tasks of a node share.
pub(crate) struct Parts {
    me: NodeId,
    identity: Arc<NodeIdentity>,
    key: String,
    address: String,
    consensus: Consensus,
    endpoint: Endpoint,
    services: Services,
    /// Those it knew before its log did.
    introduced: Vec<NodeId>,
    wait: Duration,
    /// Set when the node stops: nobody waits for an answer any more.
    stopping: tokio::sync::watch::Sender<bool>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({} at {})", self.parts.me, self.parts.address)
    }
}

impl Cluster {
    /// Starts this node on its store.
    pub fn start(store: Store, identity: Arc<NodeIdentity>, settings: ClusterSettings) -> Result<Self, ClusterError> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(THREADS).thread_name("cluster").enable_all().build();
        let runtime = runtime.map_err(ClusterError::Threads)?;
        let parts = runtime.block_on(Self::start_parts(store, identity, settings))?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle, parts })
    }

    async fn start_parts(
        store: Store,
        identity: Arc<NodeIdentity>,
        settings: ClusterSettings,
    ) -> Result<Arc<Parts>, ClusterError> {
        let me = identity.node();
        let key = STANDARD.encode(identity.public_key());
        let begun: BTreeMap<NodeId, Peer> = match store.membership().nodes().next() {
            Some(_) => store.membership().nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
            None => settings.introduced,
        };
        let view = MemberView::new(peers::members(settings.zone, 0, &begun, &BTreeMap::new(), (me, &key))?);
        let services = Services::new();
        let config = Config {
            identity: identity.clone(),
            members: view.clone(),
            incarnation: settings.incarnation,
            services: services.clone(),
            clock: zoneward_transport::system_clock(),
        };
        let endpoint = Endpoint::bind(settings.listen, config)?;
        peers::set_addresses(&endpoint, me, &begun).await;
        let links = Arc::new(peers::Links(endpoint.clone()));
        let raft = Settings::new(settings.snapshots);
        let wait = Duration::from_millis(raft.wait_ms);
        let consensus = Consensus::start(store, me, &raft, links).await?;
        let address = if settings.address.is_empty() { endpoint.local_addr().to_string() } else { settings.address };
        let introduced = begun.keys().copied().filter(|id| *id != me).collect();
        let parts = Arc::new(Parts {
            me,
            identity,
            key,
            address,
            consensus,
            endpoint,
            services: services.clone(),
            introduced,
            wait,
            stopping: tokio::sync::watch::Sender::new(false),
        });
        forward::serve(&services, &parts);
        tokio::spawn(peers::follow(Arc::downgrade(&parts), view, begun));
        tokio::spawn(forward::announce(Arc::downgrade(&parts)));
        Ok(parts)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.parts.me
    }

    /// Who votes, as of the last entry that this node applied, and whether that is settled: during a change two sets are in
    /// force.
    pub fn electorate(&self) -> (BTreeSet<NodeId>, bool) {
        let members = self.parts.consensus.membership();
        (members.voter_ids().collect(), members.membership().get_joint_config().len() == 1)
    }

    /// What it signs with.
    pub(crate) fn identity(&self) -> &NodeIdentity {
        &self.parts.identity
    }

    /// Where others reach it.
    pub fn address(&self) -> &str {
        &self.parts.address
    }

    /// The state as this node last applied it: it may be behind.
    pub fn view(&self) -> Arc<State> {
        self.parts.consensus.view()
    }

    /// The state with everything in it that was acknowledged before this was called.
    pub fn linearizable(&self) -> Result<Arc<State>, CommandError> {
        self.unless_stopping(async { self.parts.consensus.linearizable().await.map_err(CommandError::from) })
    }

    /// Ends all waiting for the zone: what was proposed may or may not come about.
    pub fn stop_waiting(&self) {
        self.parts.stopping.send_replace(true);
    }

    fn unless_stopping<T>(&self, what: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
        let mut stopping = self.parts.stopping.subscribe();
        self.block(async {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|s| *s) => Err(CommandError::Unknown),
                done = what => done,
            }
        })
    }

    /// How the node stands.
    pub fn metrics(&self) -> Metrics {
        self.parts.consensus.metrics()
    }

    /// Proposes a command, on whichever node leads. When this returns `Ok`, a majority has it on disk.
    pub fn propose(&self, command: &Command) -> Result<Reply, CommandError> {
        let entry = Entry::new(now_ms(), self.parts.me, command)?;
        let reply = self.unless_stopping(forward::propose(&self.parts, entry))?;
        match reply.refused {
            Some(why) => Err(CommandError::Refused { code: why.code, text: why.text }),
            None => Ok(reply),
        }
    }

    /// The last word of a node whose actors have stopped: brought through within this time, or it may or may not count.
    pub fn say_last(&self, command: &Command, within: Duration) -> Result<(), CommandError> {
        let entry = Entry::new(now_ms(), self.parts.me, command)?;
        let said = self.block(async { tokio::time::timeout(within, forward::propose(&self.parts, entry)).await });
        match said.unwrap_or(Err(CommandError::Unknown))?.refused {
            Some(why) => Err(CommandError::Refused { code: why.code, text: why.text }),
            None => Ok(()),
        }
    }

    /// Waits until entry `revision` is applied here.
    pub fn applied(&self, revision: u64) -> Result<Arc<State>, CommandError> {
        let stopped = || CommandError::Stopped("this node stops".into());
        let mut at = None;
        // What the leader acknowledged is on its way here, unless this node is removed.
        while self.view().revision < revision {
            let next = self
                .block(async { tokio::time::timeout(self.parts.wait, self.parts.consensus.applied_beyond(at)).await });
            at = match next {
                Ok(Some(index)) => Some(index),
                Ok(None) => return Err(stopped()),
                Err(_) => return Err(CommandError::Unknown),
            };
        }
        Ok(self.view())
    }

    /// Waits until this node knows another one. Runs on any runtime.
    pub async fn applied_node(&self, node: NodeId) -> Result<Arc<State>, CommandError> {
        let wait = async {
            let mut at = None;
            while !self.view().nodes.contains_key(&node) {
                at =
                    Some(self.applied_beyond(at).await.ok_or_else(|| CommandError::Stopped("this node stops".into()))?);
            }
            Ok(self.view())
        };
        tokio::time::timeout(self.parts.wait, wait).await.unwrap_or(Err(CommandError::Unknown))
    }

    /// Waits until an entry after `applied` is applied here; `None` once the node has stopped. Runs on any runtime.
    pub async fn applied_beyond(&self, applied: Option<u64>) -> Option<u64> {
        self.parts.consensus.applied_beyond(applied).await
    }

    /// The leader that spoke to this node last, and how long ago; `None` if none ever did.
    pub fn last_leader(&self) -> Option<(NodeId, Duration)> {
        self.parts.consensus.last_leader()
    }

    /// How long ago this node last heard a leader, which may be itself; `None` if it never did. What it shows is at most so old.
    pub fn heard(&self) -> Option<Duration> {
        match self.metrics().role == zoneward_consensus::raft::Role::Leader && self.takes_part() {
            true => Some(Duration::ZERO),
            false => self.last_leader().map(|(_, age)| age),
        }
    }

    /// For how long another node has not answered this one as its leader; `None` if it never did.
    pub fn silence(&self, node: NodeId) -> Option<Duration> {
        self.parts.consensus.silence(node)
    }

    /// Whether this node takes part now: it leads and a majority answers, or a leader spoke to it a moment ago.
    pub fn takes_part(&self) -> bool {
        self.parts.consensus.takes_part()
    }

    /// Who belongs to the zone, and where.
    pub fn members(&self) -> BTreeMap<NodeId, Peer> {
        self.parts.consensus.known()
    }

    /// Asks another node.
    pub fn ask(&self, node: NodeId, kind: u16, body: &[u8], wait: Duration) -> Result<Vec<u8>, CallError> {
        self.block(self.parts.endpoint.call(node, kind, body, wait))
    }

    /// Asks several nodes at once.
    pub fn ask_all(
        &self,
        nodes: &[NodeId],
        kind: u16,
        body: &[u8],
        wait: Duration,
    ) -> Vec<(NodeId, Result<Vec<u8>, CallError>)> {
        self.block(async {
            let mut asked = tokio::task::JoinSet::new();
            for id in nodes {
                let (id, endpoint, body) = (*id, self.parts.endpoint.clone(), body.to_vec());
                asked.spawn(async move { (id, endpoint.call(id, kind, &body, wait).await) });
            }
            asked.join_all().await
        })
    }

    /// The links.
    pub fn endpoint(&self) -> &Endpoint {
        &self.parts.endpoint
    }

    /// What this node answers other nodes: more kinds of calls can be served.
    pub fn services(&self) -> &Services {
        &self.parts.services
    }

    /// The runtime of consensus and links: nothing that blocks may run there.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        &self.handle
    }

    /// Changes who belongs to the zone. Asked of the leader.
    pub async fn change(&self, change: &MemberChange) -> Result<(), CommandError> {
        let consensus = &self.parts.consensus;
        let done = match change {
            MemberChange::Add { node, public_key } => {
                // A joiner whose connection broke comes back; where it said it is, it stays.
                if consensus.known().contains_key(node) {
                    return Ok(());
                }
                consensus.add_learner(*node, MemberChange::peer(public_key)).await
            }
            MemberChange::Promote { node } => consensus.promote(*node).await,
            MemberChange::Demote { node } => consensus.demote(*node).await,
            MemberChange::Remove { node } => consensus.remove(*node).await,
        };
        done.map_err(CommandError::from)
    }

    /// The same, from a thread that may block.
    pub fn change_here(&self, change: &MemberChange) -> Result<(), CommandError> {
        self.block(self.change(change))
    }

    /// Adds a node that proved its key; it gets the log and has no vote until it is promoted. Asked of the leader.
    pub fn add(&self, node: NodeId, peer: Peer) -> Result<(), CommandError> {
        self.block(self.parts.consensus.add_learner(node, peer)).map_err(CommandError::from)
    }

    /// Gives a node a vote. Asked of the leader.
    pub fn promote(&self, node: NodeId) -> Result<(), CommandError> {
        self.block(self.parts.consensus.promote(node)).map_err(CommandError::from)
    }

    /// Removes a node: its links are closed on each node as soon as this is applied there. Asked of the leader.
    pub fn remove(&self, node: NodeId) -> Result<(), CommandError> {
        self.block(self.parts.consensus.remove(node)).map_err(CommandError::from)
    }

    fn block<T>(&self, what: impl Future<Output = T>) -> T {
        self.handle.block_on(what)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let parts = self.parts.clone();
        let end = move || {
            runtime.block_on(async move {
                // Whoever waits for this node finds out by itself; nothing acknowledged depends on a clean end.
                let _ = parts.consensus.shutdown().await;
                parts.endpoint.close().await;
            });
            // Calls of the disk that are under way end by themselves.
            runtime.shutdown_timeout(Duration::from_secs(2));
        };
        // Who lets go of it last may be a thread of a server, which must not wait for another runtime.
        match tokio::runtime::Handle::try_current() {
            Ok(_) => drop(std::thread::Builder::new().name("cluster-end".into()).spawn(end)),
            Err(_) => end(),
        }
    }
}

impl From<ProposeError> for CommandError {
    fn from(e: ProposeError) -> Self {
        match e {
            ProposeError::NotLeader { .. } => Self::NoLeader,
            ProposeError::Unknown => Self::Unknown,
            ProposeError::Busy => Self::Busy,
            ProposeError::Decode(e) => Self::Decode(e),
            ProposeError::Members(text) => Self::Refused { code: "members".into(), text },
            ProposeError::Stopped(text) => Self::Stopped(text),
        }
    }
}

/// Waits a moment, unless that would pass `until`.
async fn pause(until: Instant) -> bool {
    let next = Instant::now() + Duration::from_millis(LEADER_WAIT_MS);
    tokio::time::sleep_until(next.min(until)).await;
    next < until
}

#[cfg(test)]
mod tests;
