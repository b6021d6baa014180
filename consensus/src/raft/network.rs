//! The way to other nodes: what the transport gives, and openraft's calls over it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zoneward_sectors::ids::NodeId;

use super::contacts::Contacts;
use super::types::{LogId, Peer, Types, Vote};
use super::wire::{self, Request, Response, WireError};
use crate::limits::CHUNK_WAIT_MS;

/// Why a request got no answer. None of these says whether the other node acted on it.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("the node {0} cannot be reached: is it running, and is its address right?")]
    Unreachable(NodeId, #[source] io::Error),
    #[error("the node {0} gave no answer in time")]
    Timeout(NodeId),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the node {0} refuses: {1}")]
    Refused(NodeId, String),
}

/// The answer to a request, later.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, SendError>> + Send + 'a>>;

/// A way to the other nodes of the zone. It proves to them which node this is, and to this node that the answer comes from
/// the one with `peer`'s key. Each side keeps frames to `limits::FRAME_LEN_MAX`. Dropping the answer gives up waiting.
pub trait Peers: Send + Sync + 'static {
    /// Asks a node and waits for its answer.
    fn send<'a>(&'a self, to: NodeId, peer: &'a Peer, request: Vec<u8>) -> Answer<'a>;
}

/// Asks one question.
pub(crate) async fn ask(peers: &dyn Peers, to: NodeId, peer: &Peer, request: &Request) -> Result<Response, SendError> {
    let answer = peers.send(to, peer, wire::encode(request)?).await?;
    match wire::decode(&answer)? {
        Response::Refused(why) | Response::Failed(why) => Err(SendError::Refused(to, why)),
        response => Ok(response),
    }
}

/// Makes openraft's connections.
#[derive(Clone)]
pub(crate) struct Links {
    pub peers: Arc<dyn Peers>,
    pub contacts: Arc<Contacts>,
}

/// openraft's way to one node.
pub(crate) struct Link {
    links: Links,
    to: NodeId,
    peer: Peer,
    under_way: Option<UnderWay>,
}

/// Entries on their way to a node. openraft gives up on a call after one heartbeat and makes it again; over a slow or a
/// long line it would never come to an end, and the node would hear nothing of its leader in between.
struct UnderWay {
    vote: Vote,
    prev: Option<LogId>,
    last: Option<LogId>,
    answer: JoinHandle<Result<Response, SendError>>,
}

impl UnderWay {
    fn begin(links: &Links, to: NodeId, peer: &Peer, rpc: AppendEntriesRequest<Types>) -> Self {
        let (vote, prev, last) = (rpc.vote, rpc.prev_log_id, last_of(&rpc));
        let (peers, peer) = (Arc::clone(&links.peers), peer.clone());
        let answer = tokio::spawn(async move {
            let asked = timeout(APPEND_WAIT, ask(peers.as_ref(), to, &peer, &Request::Append(rpc))).await;
            asked.unwrap_or(Err(SendError::Timeout(to)))
        });
        Self { vote, prev, last, answer }
    }

    /// Whether a call is for entries that are on their way already, as far as they go.
    fn is_of(&self, rpc: &AppendEntriesRequest<Types>) -> bool {
        self.vote == rpc.vote && self.prev == rpc.prev_log_id && self.last <= last_of(rpc)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

/// The longest that entries may be on their way.
const APPEND_WAIT: Duration = Duration::from_millis(CHUNK_WAIT_MS);

fn last_of(rpc: &AppendEntriesRequest<Types>) -> Option<LogId> {
    rpc.entries.last().map(|e| e.log_id)
}

/// Tells a node that its leader lives. Comes to an end only if that is no longer so.
fn alive(
    links: Links,
    to: NodeId,
    peer: Peer,
    rpc: &AppendEntriesRequest<Types>,
) -> impl Future<Output = AppendEntriesResponse<NodeId>> + use<> {
    let beat =
        AppendEntriesRequest { vote: rpc.vote, prev_log_id: rpc.prev_log_id, entries: Vec::new(), leader_commit: None };
    async move {
        match ask(links.peers.as_ref(), to, &peer, &Request::Append(beat)).await {
            Ok(Response::Append(answer @ AppendEntriesResponse::HigherVote(_))) => return answer,
            Ok(Response::Append(_)) => links.contacts.answered(to),
            _ => {}
        }
        std::future::pending().await
    }
}

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, node: &Peer) -> Link {
        Link { links: self.clone(), to: target, peer: node.clone(), under_way: None }
    }
}

type Failed<E = openraft::error::Infallible> = RPCError<NodeId, Peer, RaftError<NodeId, E>>;

impl Link {
    /// openraft waits a while after `Unreachable` before it tries again, whatever the reason was.
    async fn ask(&self, request: &Request) -> Result<Response, Unreachable> {
        ask(self.links.peers.as_ref(), self.to, &self.peer, request).await.map_err(|e| Unreachable::new(&e))
    }

    /// Sends entries and waits for the answer. When openraft makes the call again, it waits for the answer to the first
    /// one, and the node hears meanwhile that its leader lives.
    async fn send_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
    ) -> Result<AppendEntriesResponse<NodeId>, Unreachable> {
        let wanted = last_of(&rpc);
        let alive = alive(self.links.clone(), self.to, self.peer.clone(), &rpc);
        let again = self.under_way.as_ref().is_some_and(|u| u.is_of(&rpc));
        if !again {
            self.under_way = Some(UnderWay::begin(&self.links, self.to, &self.peer, rpc));
        }
        let Some(way) = self.under_way.as_mut() else { return Err(self.odd()) };
        let sent = way.last;
        // It stays where it is if openraft gives up on this call.
        let answer = tokio::select! {
            biased;
            answer = &mut way.answer => answer,
            deposed = alive, if again => return Ok(deposed),
        };
        self.under_way = None;
        match answer {
            Ok(Ok(Response::Append(AppendEntriesResponse::Success))) if sent < wanted => {
                Ok(AppendEntriesResponse::PartialSuccess(sent))
            }
            Ok(Ok(Response::Append(answer))) => Ok(answer),
            Ok(Ok(_)) => Err(self.odd()),
            Ok(Err(e)) => Err(Unreachable::new(&e)),
            Err(e) => Err(Unreachable::new(&e)),
        }
    }

    fn odd(&self) -> Unreachable {
        Unreachable::new(&SendError::Refused(self.to, "its answer is to another question".into()))
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, Failed> {
        let answer = if rpc.entries.is_empty() {
            match self.ask(&Request::Append(rpc)).await? {
                Response::Append(answer) => answer,
                _ => return Err(self.odd().into()),
            }
        } else {
            self.send_entries(rpc).await?
        };
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.links.contacts.answered(self.to);
        }
        Ok(answer)
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, Failed<InstallSnapshotError>> {
        let vote = rpc.vote;
        match self.ask(&Request::Chunk(rpc.into())).await? {
            Response::Chunk(answer) => {
                if answer <= vote {
                    self.links.contacts.answered(self.to);
                }
                Ok(InstallSnapshotResponse { vote: answer })
            }
            Response::Mismatch(e) => {
                let e = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(e));
                Err(RPCError::RemoteError(RemoteError::new(self.to, e)))
            }
            _ => Err(self.odd().into()),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<NodeId>, _: RPCOption) -> Result<VoteResponse<NodeId>, Failed> {
        match self.ask(&Request::Vote(rpc)).await? {
            Response::Vote(answer) => Ok(answer),
            _ => Err(self.odd().into()),
        }
    }
}
