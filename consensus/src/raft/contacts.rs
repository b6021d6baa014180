//! Whom this node has heard of late, and the guard in place of a pre-vote.
//!
//! openraft 0.9 begins an election by raising the term, so a node that was cut off would unseat a good leader when it
//! comes back. Here a node may stand for election only after a majority of the voters say that they hear no leader
//! either. It changes nothing of raft's safety: it only keeps elections from beginning.
//!
//! Of those who may, the one with the longest log stands first; the others wait for it. Two that stand at once split the
//! votes, and one whose log is shorter is refused and makes all wait: each costs another round.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::{Membership, Raft};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use zoneward_sectors::ids::NodeId;

use super::network::{Peers, ask};
use super::node::has_vote;
use super::types::{Peer, Types};
use super::wire::{Heard, Request, Response};

/// Whom this node has heard.
#[derive(Debug)]
pub(crate) struct Contacts {
    seen: Mutex<Seen>,
    /// A leader counts as heard for so long.
    lease: Duration,
}

#[derive(Debug, Default)]
struct Seen {
    /// Which leader last spoke to this node, and when.
    leader: Option<(NodeId, Instant)>,
    /// When other nodes last answered this node as their leader.
    answers: BTreeMap<NodeId, Instant>,
    vouched: Vouched,
}

/// A newer membership than this node's log has, as members of the zone tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vouched {
    pub nodes: BTreeMap<NodeId, Peer>,
    /// The entry that made them members.
    pub since: Option<u64>,
}

impl Contacts {
    pub fn new(lease: Duration) -> Self {
        Self { seen: Mutex::default(), lease }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A leader spoke to this node.
    pub fn led(&self, leader: NodeId) {
        self.seen().leader = Some((leader, Instant::now()));
    }

    /// The leader that spoke to this node last, and how long ago.
    pub fn last_leader(&self) -> Option<(NodeId, Duration)> {
        self.seen().leader.map(|(id, at)| (id, at.elapsed()))
    }

    /// Another node answered this one as its leader.
    pub fn answered(&self, node: NodeId) {
        self.seen().answers.insert(node, Instant::now());
    }

    /// For how long a node has not answered this one as its leader.
    pub fn silence(&self, node: NodeId) -> Option<Duration> {
        self.seen().answers.get(&node).map(Instant::elapsed)
    }

    pub fn hears_leader(&self) -> bool {
        self.seen().leader.is_some_and(|(_, at)| at.elapsed() < self.lease)
    }

    /// True if this node, as leader, has a majority behind it.
    pub fn has_majority(&self, me: NodeId, membership: &Membership<NodeId, Peer>) -> bool {
        let seen = self.seen();
        let fresh = |id: &NodeId| *id == me || seen.answers.get(id).is_some_and(|at| at.elapsed() < self.lease);
        majority(membership, fresh)
    }

    /// How long no leader must have spoken before a node stands that so many others go before. The first stands as soon as
    /// it may; its election has begun when two leases are over.
    fn turn(&self, ahead: usize) -> Duration {
        match ahead {
            0 => Duration::ZERO,
            n => self.lease * 2 + self.lease / 2 * u32::try_from(n).unwrap_or(u32::MAX),
        }
    }

    /// What members tell of the membership, if it is newer than the one that entry `own` made. An older one would let in
    /// who was removed since.
    pub fn vouched(&self, own: Option<u64>) -> Option<Vouched> {
        let seen = self.seen();
        (seen.vouched.since > own).then(|| seen.vouched.clone())
    }
}

/// True if a majority with this node hears no leader.
fn agree(me: NodeId, membership: &Membership<NodeId, Peer>, answers: &BTreeMap<NodeId, Heard>) -> bool {
    majority(membership, |id| *id == me || answers.get(id).is_some_and(|h| !h.leader))
}

/// How many of those who answered go before this node: their log is longer, or as long and their id greater.
fn ahead(me: NodeId, last: Option<u64>, answers: &BTreeMap<NodeId, Heard>) -> usize {
    answers.iter().filter(|(id, h)| !h.leader && (h.last, **id) > (last, me)).count()
}

/// True if more than half of the voters of each configuration in force are such.
fn majority(membership: &Membership<NodeId, Peer>, is: impl Fn(&NodeId) -> bool) -> bool {
    let configs = membership.get_joint_config();
    !configs.is_empty() && configs.iter().all(|c| c.iter().filter(|id| is(id)).count() * 2 > c.len())
}

/// Watches over elections of one node.
pub(crate) struct Guard {
    pub me: NodeId,
    pub raft: Raft<Types>,
    pub peers: Arc<dyn Peers>,
    pub contacts: Arc<Contacts>,
    pub period: Duration,
}

impl Guard {
    /// Runs until the node stops.
    pub async fn run(self) {
        let began = Instant::now();
        loop {
            self.raft.runtime_config().heartbeat(!self.leads_without_a_vote());
            let may = self.may_stand(began).await;
            self.raft.runtime_config().elect(may);
            sleep(self.period).await;
            if self.raft.metrics().borrow().running_state.is_err() {
                return;
            }
        }
    }

    /// openraft lets a leader lead on that lost its vote and was started again. It falls silent here, so that those who
    /// vote choose another one.
    fn leads_without_a_vote(&self) -> bool {
        let metrics = self.raft.metrics();
        let m = metrics.borrow();
        m.current_leader == Some(self.me) && !has_vote(&m, self.me)
    }

    /// For how long no leader has spoken to this node.
    fn quiet(&self, began: Instant) -> Duration {
        self.contacts.last_leader().map_or_else(|| began.elapsed(), |(_, since)| since)
    }

    async fn may_stand(&self, began: Instant) -> bool {
        let (membership, leads, last) = {
            let metrics = self.raft.metrics();
            let m = metrics.borrow();
            (m.membership_config.membership().clone(), m.current_leader == Some(self.me), m.last_log_index)
        };
        if membership.voter_ids().eq([self.me]) {
            return true;
        }
        if leads || self.contacts.hears_leader() {
            return false;
        }
        let answers = self.ask_all(&membership).await;
        if let Some(newest) = answers.values().max_by_key(|h| h.since) {
            self.contacts.seen().vouched = Vouched { nodes: newest.members.clone(), since: newest.since };
        }
        // While they answered, a leader may have spoken.
        !self.contacts.hears_leader()
            && membership.voter_ids().any(|id| id == self.me)
            && agree(self.me, &membership, &answers)
            && self.quiet(began) >= self.contacts.turn(ahead(self.me, last, &answers))
    }

    /// Asks all other voters. Who does not answer within a period does not count.
    async fn ask_all(&self, membership: &Membership<NodeId, Peer>) -> BTreeMap<NodeId, Heard> {
        let mut asked = JoinSet::new();
        for id in membership.voter_ids().filter(|id| *id != self.me) {
            let Some(peer) = membership.get_node(&id).cloned() else { continue };
            let (peers, period) = (Arc::clone(&self.peers), self.period);
            asked.spawn(async move {
                match timeout(period, ask(peers.as_ref(), id, &peer, &Request::Hear)).await {
                    Ok(Ok(Response::Heard(heard))) => Some((id, heard)),
                    _ => None,
                }
            });
        }
        let mut answers = BTreeMap::new();
        while let Some(done) = asked.join_next().await {
            answers.extend(done.ok().flatten());
            // Who is dead does not answer: it need not be waited for.
            if agree(self.me, membership, &answers) {
                break;
            }
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_log_stands_first_and_the_others_wait_in_order() {
        let id = |n: u8| NodeId([n; 16]);
        let heard = |last, leader| Heard { last, leader, ..Heard::default() };
        let answers: BTreeMap<_, _> =
            [(id(1), heard(Some(9), false)), (id(3), heard(Some(7), false)), (id(4), heard(Some(99), true))].into();
        let ahead = |n, last| ahead(id(n), last, &answers);
        assert_eq!((ahead(2, Some(10)), ahead(2, Some(8)), ahead(2, None)), (0, 1, 2));
        assert_eq!((ahead(2, Some(9)), ahead(0, Some(9)), ahead(2, Some(7))), (0, 1, 2), "the greater id goes before");
        let contacts = Contacts::new(Duration::from_millis(600));
        let turns: Vec<u128> = (0..3).map(|n| contacts.turn(n).as_millis()).collect();
        assert_eq!(turns, [0, 1500, 1800]);
    }
}
