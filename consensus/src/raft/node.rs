//! One node of a zone's consensus: the handle that the rest of the program uses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    ChangeMembershipError, CheckIsLeaderError, ClientWriteError, ForwardToLeader, InstallSnapshotError, RaftError,
};
use openraft::{Config, Raft, RaftMetrics, ServerState, SnapshotPolicy};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zoneward_sectors::ids::NodeId;

use super::contacts::{Contacts, Guard};
use super::network::{Links, Peers, ask};
use super::storage::Storage;
use super::types::{LogId, Membership, Peer, Reply, Types, Vote};
use super::wire::{self, Heard, Request, Response};
use crate::command::{Command, DecodeError, Entry};
use crate::limits;
use crate::model::State;
use crate::planted::{Bug, planted};
use crate::store::{Store, StoreError};

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory for snapshots: this node's alone.
    pub snapshots: PathBuf,
    /// A leader speaks at least this often, milliseconds.
    pub heartbeat_ms: u64,
    /// An election begins so long after the leader's lease ended; each node takes its own number in between. The upper end
    /// is also the lease.
    pub election_ms: (u64, u64),
    /// How long a proposal, a read or a change of members may take before its outcome counts as unknown.
    pub wait_ms: u64,
    /// A snapshot is made after so many entries.
    pub snapshot_every: u64,
    /// So many entries that a snapshot covers are kept nevertheless: a node behind by less gets entries.
    pub log_kept: u64,
    /// Calls of the store run in place, in one order. For simulations: a slow disk then stops heartbeats.
    pub inline: bool,
}

impl Settings {
    /// The defaults, with snapshots in this directory.
    pub fn new(snapshots: PathBuf) -> Self {
        Self {
            snapshots,
            heartbeat_ms: limits::HEARTBEAT_MS,
            election_ms: limits::ELECTION_MS,
            wait_ms: limits::WAIT_MS,
            snapshot_every: limits::LOG_KEPT / 2,
            log_kept: limits::LOG_KEPT / 2,
            inline: false,
        }
    }

    fn config(&self) -> Result<Arc<Config>, StartError> {
        let config = Config {
            cluster_name: "zoneward".into(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_ms.0,
            election_timeout_max: self.election_ms.1,
            install_snapshot_timeout: limits::CHUNK_WAIT_MS,
            max_payload_entries: limits::APPEND_ENTRIES_MAX,
            replication_lag_threshold: self.log_kept + self.snapshot_every,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            snapshot_max_chunk_size: limits::CHUNK_LEN_MAX,
            max_in_snapshot_log_to_keep: self.log_kept,
            // The guard allows elections, case by case.
            enable_elect: false,
            ..Config::default()
        };
        config.validate().map(Arc::new).map_err(|e| StartError::Settings(e.to_string()))
    }
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the settings of the consensus do not fit together: {0}")]
    Settings(String),
    #[error("the node stopped while it started: {0}")]
    Stopped(String),
}

/// Why a command was not seen through. A refusal is none of these: it is in the [`Reply`].
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was done. Ask the leader.
    #[error("this node does not lead the zone; {}", whom(.leader))]
    NotLeader { leader: Option<NodeId> },
    /// It may take effect now, later, or never.
    #[error("the zone's majority gave no answer: look whether it took effect before trying again")]
    Unknown,
    /// Nothing was done.
    #[error("more than {} commands are under way: try again in a moment", limits::PROPOSALS_MAX)]
    Busy,
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Nothing was done.
    #[error("the members cannot be changed so: {0}")]
    Members(String),
    #[error("the node has stopped: {0}: start it again")]
    Stopped(String),
}

fn whom(leader: &Option<NodeId>) -> String {
    leader.map_or("no leader is known: try again in a moment".into(), |id| format!("ask {id}"))
}

/// What a node does in its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receives, has no vote.
    Learner,
    Follower,
    Candidate,
    Leader,
    Stopped,
}

/// How a node stands, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    pub node: NodeId,
    pub role: Role,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub last_log: Option<u64>,
    pub last_applied: Option<u64>,
    pub snapshot: Option<u64>,
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    /// Of the leader: entries that each other node does not have yet; `None` if it has never answered.
    pub lag: BTreeMap<NodeId, Option<u64>>,
    /// What was found damaged when the node started, and made anew: look at the disk.
    pub repaired: Option<String>,
    /// Why the node stopped.
    pub stopped: Option<String>,
}

/// A node of the zone's consensus. Clones are one node.
#[derive(Clone)]
pub struct Consensus(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub me: NodeId,
    pub raft: Raft<Types>,
    pub storage: Storage,
    pub peers: Arc<dyn Peers>,
    pub contacts: Arc<Contacts>,
    pub wait: Duration,
    /// Vote and end of the log at the start.
    restored: (Option<Vote>, Option<LogId>),
    places: Semaphore,
    /// Members are changed one at a time.
    pub changing: Mutex<()>,
    guard: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.guard.abort();
    }
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Consensus({})", self.0.me)
    }
}

impl Consensus {
    /// Starts a node on its store. A store that is new waits to be added by the leader of a zone; one of a zone of one
    /// node leads it at once.
    pub async fn start(
        store: Store,
        me: NodeId,
        settings: &Settings,
        peers: Arc<dyn Peers>,
    ) -> Result<Self, StartError> {
        let config = settings.config()?;
        let storage = Storage::new(store, me, &settings.snapshots, settings.inline)?;
        let restored = storage.last();
        let contacts = Arc::new(Contacts::new(Duration::from_millis(settings.election_ms.1)));
        let links = Links { peers: Arc::clone(&peers), contacts: Arc::clone(&contacts) };
        let raft = Raft::new(me, config, links, storage.clone(), storage.clone()).await;
        let raft = raft.map_err(|e| StartError::Stopped(e.to_string()))?;
        let guard = Guard {
            me,
            raft: raft.clone(),
            peers: Arc::clone(&peers),
            contacts: Arc::clone(&contacts),
            period: Duration::from_millis(settings.heartbeat_ms),
        };
        let inner = Inner {
            me,
            raft,
            storage,
            peers,
            contacts,
            wait: Duration::from_millis(settings.wait_ms),
            restored,
            places: Semaphore::new(limits::PROPOSALS_MAX),
            changing: Mutex::new(()),
            guard: tokio::spawn(guard.run()),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.me
    }

    /// Proposes a command of this node. When this returns `Ok`, a majority has it on disk and it is applied here.
    pub async fn propose(&self, time_ms: u64, command: &Command) -> Result<Reply, ProposeError> {
        self.propose_entry(Entry::new(time_ms, self.0.me, command)?).await
    }

    /// Proposes what another node sent here because this one leads. An entry that this release cannot read is refused
    /// before it is logged.
    pub async fn propose_entry(&self, entry: Entry) -> Result<Reply, ProposeError> {
        entry.command()?;
        // From here on "not the leader" means "no longer": openraft says it too of an entry that it logged and then gave
        // up here, and which another node may still bring through.
        self.must_lead()?;
        let _place = self.0.places.try_acquire().map_err(|_| ProposeError::Busy)?;
        let mut answer = self.wait(self.0.raft.client_write(entry.clone())).await;
        if planted(Bug::RetriedBlindly) && !matches!(answer, Ok(Ok(_))) {
            answer = self.wait(self.0.raft.client_write(entry)).await;
        }
        match answer? {
            Ok(written) => Ok(written.data),
            Err(RaftError::APIError(e)) => Err(refused(e)),
            Err(RaftError::Fatal(e)) => Err(ProposeError::Stopped(e.to_string())),
        }
    }

    /// The state as this node last applied it: it may be behind.
    pub fn view(&self) -> Arc<State> {
        self.0.storage.view()
    }

    /// The state with everything in it that was acknowledged before this was called, on any node.
    pub async fn linearizable(&self) -> Result<Arc<State>, ProposeError> {
        if planted(Bug::FollowerRead) {
            return Ok(self.view());
        }
        let index = match self.wait(self.read_index()).await? {
            Ok(index) => index,
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(f))) => self.read_index_of(f).await?,
            // A majority did not answer, or this node no longer leads: it may be tried again.
            Err(RaftError::APIError(_)) => return Err(ProposeError::Unknown),
            Err(RaftError::Fatal(e)) => return Err(ProposeError::Stopped(e.to_string())),
        };
        let applied = self.wait(self.0.storage.applied_up_to(index.map(|id| id.index))).await?;
        if applied { Ok(self.view()) } else { Err(ProposeError::Unknown) }
    }

    /// Up to which entry a reader must have applied, if this node leads.
    async fn read_index(&self) -> Result<Option<LogId>, RaftError<NodeId, CheckIsLeaderError<NodeId, Peer>>> {
        let (index, _) = self.0.raft.get_read_log_id().await?;
        // A leader that was started again goes on in its old term, and may not know yet what it acknowledged before: its
        // last synced "committed" is older. All of that is in its log. A later term would show in the index.
        let (vote, last) = self.0.restored;
        let restored = vote.filter(|v| v.is_committed()).map(|v| (v.leader_id().term, v.leader_id().node_id));
        let same_term = restored.is_some()
            && !planted(Bug::RestoredRead)
            && index.map(|id| (id.leader_id.term, id.leader_id.node_id)) == restored;
        Ok(if same_term { index.max(last) } else { index })
    }

    async fn read_index_of(&self, to: ForwardToLeader<NodeId, Peer>) -> Result<Option<LogId>, ProposeError> {
        let leader = to.leader_id;
        let (Some(id), Some(peer)) = (leader, to.leader_node) else { return Err(ProposeError::NotLeader { leader }) };
        match self.wait(ask(self.0.peers.as_ref(), id, &peer, &Request::ReadIndex)).await? {
            Ok(Response::ReadIndex(index)) => Ok(index),
            _ => Err(ProposeError::NotLeader { leader }),
        }
    }

    /// What this node does, as far as it knows.
    pub fn role(&self) -> Role {
        role(&self.0.raft.metrics().borrow())
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.0.raft.metrics().borrow().current_leader
    }

    /// Who belongs to the zone, as of the last entry that this node applied.
    pub fn membership(&self) -> Arc<Membership> {
        self.0.storage.members()
    }

    /// How this node stands.
    pub fn metrics(&self) -> Metrics {
        let metrics = self.0.raft.metrics();
        let m = metrics.borrow();
        let members = m.membership_config.membership();
        let last = m.last_log_index;
        let behind = |id: Option<LogId>| id.map(|id| last.unwrap_or(0).saturating_sub(id.index));
        let lag = m.replication.iter().flatten().filter(|(id, _)| **id != self.0.me);
        Metrics {
            node: self.0.me,
            role: role(&m),
            term: m.current_term,
            leader: m.current_leader,
            last_log: last,
            last_applied: m.last_applied.map(|id| id.index),
            snapshot: m.snapshot.map(|id| id.index),
            voters: members.voter_ids().collect(),
            learners: members.learner_ids().collect(),
            lag: lag.map(|(id, at)| (*id, behind(*at))).collect(),
            repaired: self.0.storage.repaired(),
            stopped: m.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Answers a request that the transport received from a node whose identity it has proven. Never fails: what cannot
    /// be answered is answered so.
    pub async fn serve(&self, from: NodeId, request: &[u8]) -> Vec<u8> {
        let response = match wire::decode::<Request>(request) {
            Err(e) => Response::Refused(e.to_string()),
            Ok(_) if !self.admits(from) => Response::Refused(format!("the node {from} does not belong to this zone")),
            Ok(request) => self.answer(from, request).await,
        };
        // An answer has no part that grows; if it cannot be written, an empty one says as much as any.
        wire::encode(&response).unwrap_or_default()
    }

    /// A node belongs to the zone if it does as of the last entry applied here, or if members say so: this node's log
    /// may be too old to know a new leader. A node that knows of no zone yet takes whom the transport let in.
    fn admits(&self, from: NodeId) -> bool {
        let known = self.known();
        known.is_empty() || known.contains_key(&from)
    }

    /// Who belongs to the zone as of the last entry applied here, or, where members tell of a newer membership, by that
    /// one. What the links between nodes go by.
    pub fn known(&self) -> BTreeMap<NodeId, Peer> {
        let members = self.membership();
        match self.0.contacts.vouched(members.log_id().map(|id| id.index)) {
            Some(newer) => newer.nodes,
            None => members.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
        }
    }

    /// For how long another node has not answered this one as its leader; `None` if it never did.
    pub fn silence(&self, node: NodeId) -> Option<Duration> {
        self.0.contacts.silence(node)
    }

    /// The leader that spoke to this node last, and how long ago; `None` if none ever did.
    pub fn last_leader(&self) -> Option<(NodeId, Duration)> {
        self.0.contacts.last_leader()
    }

    /// Whether this node takes part now: it leads and a majority answers, or a leader spoke to it a moment ago.
    pub fn takes_part(&self) -> bool {
        let metrics = self.0.raft.metrics();
        let m = metrics.borrow();
        let members = m.membership_config.membership();
        let leads = m.current_leader == Some(self.0.me) && self.0.contacts.has_majority(self.0.me, members);
        leads || self.0.contacts.hears_leader()
    }

    /// Waits until an entry after `applied` is applied here, and answers its number; `None` once the node has stopped.
    pub async fn applied_beyond(&self, applied: Option<u64>) -> Option<u64> {
        self.0.storage.applied_beyond(applied).await
    }

    async fn answer(&self, from: NodeId, request: Request) -> Response {
        let failed = |e: &dyn std::fmt::Display| Response::Failed(e.to_string());
        let raft = &self.0.raft;
        match request {
            Request::Append(rpc) if rpc.vote.leader_id().node_id == from => match raft.append_entries(rpc).await {
                Ok(answer) => {
                    if !matches!(answer, openraft::raft::AppendEntriesResponse::HigherVote(_)) {
                        self.0.contacts.led(from);
                    }
                    Response::Append(answer)
                }
                Err(e) => failed(&e),
            },
            Request::Chunk(chunk) if chunk.vote.leader_id().node_id == from => {
                let vote = chunk.vote;
                match raft.install_snapshot(chunk.into()).await {
                    Ok(answer) => {
                        if answer.vote <= vote {
                            self.0.contacts.led(from);
                        }
                        Response::Chunk(answer.vote)
                    }
                    Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(e))) => Response::Mismatch(e),
                    Err(e) => failed(&e),
                }
            }
            Request::Vote(rpc) if rpc.vote.leader_id().node_id == from => match raft.vote(rpc).await {
                Ok(answer) => Response::Vote(answer),
                Err(e) => failed(&e),
            },
            Request::Append(_) | Request::Chunk(_) | Request::Vote(_) => {
                Response::Refused(format!("the node {from} speaks for another one"))
            }
            Request::Hear => Response::Heard(self.heard()),
            Request::ReadIndex => match self.wait(self.read_index()).await {
                Ok(Ok(index)) => Response::ReadIndex(index),
                Ok(Err(e)) => failed(&e),
                Err(e) => failed(&e),
            },
        }
    }

    fn heard(&self) -> Heard {
        let leader = self.takes_part();
        let metrics = self.0.raft.metrics();
        let m = metrics.borrow();
        let members = m.membership_config.membership();
        let since = m.membership_config.log_id().map(|id| id.index);
        Heard {
            leader,
            members: members.nodes().map(|(id, p)| (*id, p.clone())).collect(),
            since,
            last: m.last_log_index,
        }
    }

    /// Stops the node. What was acknowledged stays; what is under way becomes unknown. The
    /// store's file is free once all clones of this handle are dropped and the last call to the disk has ended.
    pub async fn shutdown(&self) -> Result<(), ProposeError> {
        self.0.guard.abort();
        let done = self.0.raft.shutdown().await.map_err(|e| ProposeError::Stopped(e.to_string()));
        self.0.storage.ends();
        done
    }

    pub(super) fn must_lead(&self) -> Result<(), ProposeError> {
        let metrics = self.0.raft.metrics();
        let m = metrics.borrow();
        match m.current_leader {
            Some(me) if me == self.0.me && has_vote(&m, me) => Ok(()),
            // One that lost its vote hands over: see the guard.
            Some(me) if me == self.0.me => Err(ProposeError::NotLeader { leader: None }),
            leader => Err(ProposeError::NotLeader { leader }),
        }
    }

    pub(super) async fn wait<T>(&self, what: impl Future<Output = T>) -> Result<T, ProposeError> {
        timeout(self.0.wait, what).await.map_err(|_| ProposeError::Unknown)
    }
}

/// Whether a node votes, as far as this one knows.
pub(super) fn has_vote(m: &RaftMetrics<NodeId, Peer>, node: NodeId) -> bool {
    m.membership_config.voter_ids().any(|id| id == node)
}

fn role(m: &RaftMetrics<NodeId, Peer>) -> Role {
    match (&m.running_state, m.state) {
        (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
        (_, ServerState::Learner) => Role::Learner,
        (_, ServerState::Follower) => Role::Follower,
        (_, ServerState::Candidate) => Role::Candidate,
        (_, ServerState::Leader) => Role::Leader,
    }
}

/// Why openraft did not write, though this node led when it was asked.
pub(super) fn refused(e: ClientWriteError<NodeId, Peer>) -> ProposeError {
    match e {
        ClientWriteError::ForwardToLeader(_) => ProposeError::Unknown,
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => ProposeError::Members(
            "another change of members is not through yet: does a majority of the nodes answer?".into(),
        ),
        ClientWriteError::ChangeMembershipError(e) => ProposeError::Members(e.to_string()),
    }
}

#[cfg(test)]
mod tests;
