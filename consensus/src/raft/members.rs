//! Changes of who belongs to the zone. An operator asks for each; raft never drops anyone by itself.

use std::collections::{BTreeMap, BTreeSet};

use openraft::error::RaftError;
use openraft::{ChangeMembers, Membership};
use zoneward_sectors::ids::NodeId;

use super::node::{Consensus, ProposeError, refused};
use super::types::Peer;

impl Consensus {
    /// Adds a node that receives the log and has no vote. Adding it again changes nothing.
    pub async fn add_learner(&self, node: NodeId, peer: Peer) -> Result<(), ProposeError> {
        self.change(|_| (ChangeMembers::AddNodes(BTreeMap::from([(node, peer)])), true)).await
    }

    /// Gives a learner a vote. It should have caught up: see [`super::Metrics::lag`].
    pub async fn promote(&self, node: NodeId) -> Result<(), ProposeError> {
        self.change(|_| (ChangeMembers::AddVoterIds(BTreeSet::from([node])), true)).await
    }

    /// Takes a node's vote; it goes on receiving the log.
    pub async fn demote(&self, node: NodeId) -> Result<(), ProposeError> {
        self.change(|_| (ChangeMembers::RemoveVoters(BTreeSet::from([node])), true)).await
    }

    /// Removes a node; nobody listens to it any more once this is applied.
    pub async fn remove(&self, node: NodeId) -> Result<(), ProposeError> {
        let nodes = BTreeSet::from([node]);
        self.change(|voters| match voters.contains(&node) {
            true => (ChangeMembers::RemoveVoters(nodes), false),
            false => (ChangeMembers::RemoveNodes(nodes), false),
        })
        .await
    }

    /// Changes how a node is reached. It must be the same node: another one under its id would vote twice.
    pub async fn set_peer(&self, node: NodeId, peer: Peer) -> Result<(), ProposeError> {
        if self.members_now().get_node(&node).is_none() {
            return Err(ProposeError::Members(format!("the node {node} is not a member")));
        }
        self.change(|_| (ChangeMembers::SetNodes(BTreeMap::from([(node, peer)])), true)).await
    }

    /// One change at a time. A change that was cut in its middle, with two sets of voters in force, is finished first, and
    /// who then votes decides what is to be changed: a voter whose removal was cut is a learner by then.
    async fn change(
        &self,
        change: impl FnOnce(&BTreeSet<NodeId>) -> (ChangeMembers<NodeId, Peer>, bool),
    ) -> Result<(), ProposeError> {
        self.must_lead()?;
        let Ok(_one) = self.0.changing.try_lock() else {
            return Err(ProposeError::Members("another change is under way: try again when it is done".into()));
        };
        let mut members = self.members_now();
        if members.get_joint_config().len() > 1 {
            members = self.step(ChangeMembers::AddVoterIds(BTreeSet::new()), true).await?.unwrap_or(members);
        }
        let (change, retain) = change(&members.voter_ids().collect());
        self.step(change, retain).await.map(drop)
    }

    /// The members in force: those of the newest entry of this node's log that names some.
    fn members_now(&self) -> Membership<NodeId, Peer> {
        self.0.raft.metrics().borrow().membership_config.membership().clone()
    }

    /// Answers the members that it came to.
    async fn step(
        &self,
        change: ChangeMembers<NodeId, Peer>,
        retain: bool,
    ) -> Result<Option<Membership<NodeId, Peer>>, ProposeError> {
        match self.wait(self.0.raft.change_membership(change, retain)).await? {
            Ok(written) => Ok(written.membership),
            Err(RaftError::APIError(e)) => Err(refused(e)),
            Err(RaftError::Fatal(e)) => Err(ProposeError::Stopped(e.to_string())),
        }
    }
}
