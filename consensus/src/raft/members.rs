//! Changes of who belongs to the zone. An operator asks for each; raft never drops anyone by itself.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::error::RaftError;
use zoneward_sectors::ids::NodeId;

use super::node::{Consensus, ProposeError, refused};
use super::types::Peer;

impl Consensus {
    /// Adds a node that receives the log and has no vote. Adding it again changes nothing.
    pub async fn add_learner(&self, node: NodeId, peer: Peer) -> Result<(), ProposeError> {
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(node, peer)])), true).await
    }

    /// Gives a learner a vote. It should have caught up: see [`super::Metrics::lag`].
    pub async fn promote(&self, node: NodeId) -> Result<(), ProposeError> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([node])), true).await
    }

    /// Takes a node's vote; it goes on receiving the log.
    pub async fn demote(&self, node: NodeId) -> Result<(), ProposeError> {
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([node])), true).await
    }

    /// Removes a node; nobody listens to it any more once this is applied.
    pub async fn remove(&self, node: NodeId) -> Result<(), ProposeError> {
        let voter = self.0.raft.metrics().borrow().membership_config.voter_ids().any(|id| id == node);
        let nodes = BTreeSet::from([node]);
        if voter {
            self.change(ChangeMembers::RemoveVoters(nodes), false).await
        } else {
            self.change(ChangeMembers::RemoveNodes(nodes), false).await
        }
    }

    /// Changes how a node is reached. It must be the same node: another one under its id would vote twice.
    pub async fn set_peer(&self, node: NodeId, peer: Peer) -> Result<(), ProposeError> {
        if self.0.raft.metrics().borrow().membership_config.membership().get_node(&node).is_none() {
            return Err(ProposeError::Members(format!("the node {node} is not a member")));
        }
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(node, peer)])), true).await
    }

    /// One change at a time. A change that was cut in its middle, with two sets of voters in force, is finished first.
    async fn change(&self, change: ChangeMembers<NodeId, Peer>, retain: bool) -> Result<(), ProposeError> {
        self.must_lead()?;
        let Ok(_one) = self.0.changing.try_lock() else {
            return Err(ProposeError::Members("another change is under way: try again when it is done".into()));
        };
        if self.0.raft.metrics().borrow().membership_config.membership().get_joint_config().len() > 1 {
            self.step(ChangeMembers::AddVoterIds(BTreeSet::new()), true).await?;
        }
        self.step(change, retain).await
    }

    async fn step(&self, change: ChangeMembers<NodeId, Peer>, retain: bool) -> Result<(), ProposeError> {
        match self.wait(self.0.raft.change_membership(change, retain)).await? {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(e)) => Err(refused(e)),
            Err(RaftError::Fatal(e)) => Err(ProposeError::Stopped(e.to_string())),
        }
    }
}
