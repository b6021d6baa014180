//! The way to other nodes: what the transport gives, and openraft's calls over it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use zoneward_sectors::ids::NodeId;

use super::contacts::Contacts;
use super::types::{Peer, Types};
use super::wire::{self, Request, Response, WireError};

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
}

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, node: &Peer) -> Link {
        Link { links: self.clone(), to: target, peer: node.clone() }
    }
}

type Failed<E = openraft::error::Infallible> = RPCError<NodeId, Peer, RaftError<NodeId, E>>;

impl Link {
    /// openraft waits a while after `Unreachable` before it tries again, whatever the reason was.
    async fn ask(&self, request: &Request) -> Result<Response, Unreachable> {
        ask(self.links.peers.as_ref(), self.to, &self.peer, request).await.map_err(|e| Unreachable::new(&e))
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
        match self.ask(&Request::Append(rpc)).await? {
            Response::Append(answer) => {
                if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                    self.links.contacts.answered(self.to);
                }
                Ok(answer)
            }
            _ => Err(self.odd().into()),
        }
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
