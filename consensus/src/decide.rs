//! What the leader decides: pure, from the state and what it observes of the other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use zoneward_sectors::ids::{CheckpointId, NodeId};

use crate::command::Command;
use crate::limits::LEASE_MS;
use crate::model::{RawSector, SectorState, Standing, State};
use crate::plan::{Work, is_staged, plan};

/// Entries that a learner may be behind and still get a vote.
const LAG_MAX: u64 = 100;

/// What the leader observes.
#[derive(Clone, Debug)]
pub struct Facts {
    pub me: NodeId,
    /// For how long this node has led.
    pub leading: Duration,
    /// For how long each member has not answered; `None`: it never did.
    pub silence: BTreeMap<NodeId, Option<Duration>>,
    /// Who led before, and for how long it has not spoken.
    pub deposed: Option<(NodeId, Duration)>,
    pub voters: BTreeSet<NodeId>,
    /// Entries that each other node does not have yet; `None`: it never answered.
    pub lag: BTreeMap<NodeId, Option<u64>>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // A few at a time, each used at once.
pub enum Act {
    Propose(Command),
    /// Give this node a vote.
    Promote(NodeId),
}

impl Facts {
    /// Whether a node is silent for longer than a lease lasts. A new leader grants everybody a full period first, except
    /// the leader before it, whose silence is what it was elected for.
    fn is_silent(&self, node: NodeId) -> bool {
        let lease = Duration::from_millis(LEASE_MS);
        let answered = self.silence.get(&node).copied().flatten();
        if node != self.me && self.deposed.is_some_and(|(id, since)| id == node && since > lease) {
            // It may have come back and answer by now.
            return answered.is_none_or(|s| s > lease);
        }
        if node == self.me || self.leading <= lease {
            return false;
        }
        answered.is_none_or(|s| s > lease)
    }

    /// Whether no other node answers.
    fn is_alone(&self) -> bool {
        let lease = Duration::from_millis(LEASE_MS);
        self.silence.iter().filter(|(id, _)| **id != self.me).all(|(_, s)| s.is_none_or(|s| s > lease))
    }
}

/// What the leader should do now.
pub fn decide(state: &State, facts: &Facts) -> Vec<Act> {
    let mut acts = Vec::new();
    for l in state.leases.values().filter(|l| facts.is_silent(l.node)) {
        acts.push(Act::Propose(Command::EndLease { epoch: l.epoch }));
    }
    for w in plan(state, 0) {
        match w {
            // Left open by a process that worked in this home alone and was cut: nobody goes on with them.
            Work::StoreCheckpoint { checkpoint } if left_open(state, checkpoint).next().is_some() => {
                let open = left_open(state, checkpoint).map(|s| Act::Propose(Command::AbandonSector { sector: s.id }));
                acts.extend(open);
            }
            // Its sectors lie where another node can go on with them, if there is another node.
            Work::StoreCheckpoint { checkpoint } if facts.is_alone() || is_staged(state, checkpoint) => {
                acts.push(Act::Propose(Command::StoreCheckpoint { checkpoint }));
            }
            Work::FinishCheckpoint { checkpoint } => {
                acts.push(Act::Propose(Command::FinishCheckpoint { checkpoint }));
            }
            _ => {}
        }
    }
    let sectors = crate::keyless::due(state);
    if !sectors.is_empty() {
        acts.push(Act::Propose(Command::ForgetKeys { sectors }));
    }
    acts.extend(promotion(state, facts).map(Act::Promote));
    acts
}

/// Sectors of a checkpoint that are open under no lease.
fn left_open(state: &State, checkpoint: CheckpointId) -> impl Iterator<Item = &RawSector> {
    let open = move |s: &&RawSector| s.checkpoint == checkpoint && s.state == SectorState::Open && s.lease.is_none();
    state.sectors.values().filter(open)
}

/// Who should get a vote next, if anyone. Two votes are worse than one: either node's loss would stop both. So votes go
/// up from one to three, and from there on in pairs; with an even number of nodes, one learns only.
fn promotion(state: &State, facts: &Facts) -> Option<NodeId> {
    let fit = |id: &NodeId| {
        let standing = state.nodes.get(id).map(|n| n.standing);
        matches!(standing, Some(Standing::Member | Standing::Witness))
    };
    let fresh = |id: &NodeId| {
        let answered = facts.silence.get(id).copied().flatten();
        answered.is_some_and(|s| s < Duration::from_millis(LEASE_MS))
            && facts.lag.get(id).copied().flatten().is_some_and(|lag| lag <= LAG_MAX)
    };
    let ready: Vec<NodeId> =
        facts.lag.keys().filter(|id| !facts.voters.contains(id) && fit(id) && fresh(id)).copied().collect();
    let able = facts.voters.len() + ready.len();
    let wanted = if able.is_multiple_of(2) { able - 1 } else { able };
    // An even number stands between two steps of one change: it is to be left.
    if facts.voters.len() < wanted { ready.first().copied() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(i: u8) -> NodeId {
        NodeId([i; 16])
    }

    fn state(nodes: u8) -> State {
        let mut state = State::default();
        for i in 1..=nodes {
            let node = crate::model::Node {
                id: n(i),
                name: format!("n{i}"),
                public_key: String::new(),
                certificate: String::new(),
                joined_ms: 0,
                incarnation: 1,
                standing: Standing::Member,
                version: String::new(),
                credit_ms: 0,
                wipe: None,
            };
            state.nodes.insert(n(i), node);
        }
        state
    }

    fn facts(voters: u8, nodes: u8) -> Facts {
        let ms = Duration::from_millis;
        Facts {
            me: n(1),
            leading: ms(60_000),
            silence: (2..=nodes).map(|i| (n(i), Some(ms(10)))).collect(),
            deposed: None,
            voters: (1..=voters).map(n).collect(),
            lag: (2..=nodes).map(|i| (n(i), Some(0))).collect(),
        }
    }

    #[test]
    fn votes_go_up_in_odd_steps() {
        for (nodes, voters, next) in [
            (1, 1, None),
            (2, 1, None),
            (3, 1, Some(2)),
            (3, 2, Some(3)),
            (3, 3, None),
            (4, 3, None),
            (5, 3, Some(4)),
            (5, 4, Some(5)),
            (5, 5, None),
            (7, 6, Some(7)),
        ] {
            assert_eq!(promotion(&state(nodes), &facts(voters, nodes)), next.map(n), "{nodes} nodes, {voters} voters");
        }
    }

    #[test]
    fn who_is_behind_silent_or_put_aside_gets_no_vote() {
        let mut f = facts(1, 3);
        f.lag.insert(n(3), Some(LAG_MAX + 1));
        assert_eq!(promotion(&state(3), &f), None);
        let mut f = facts(1, 3);
        f.silence.insert(n(3), Some(Duration::from_secs(5)));
        assert_eq!(promotion(&state(3), &f), None);
        let mut s = state(3);
        s.nodes.get_mut(&n(2)).unwrap().standing = Standing::Faulty;
        assert_eq!(promotion(&s, &facts(1, 3)), None);
    }

    #[test]
    fn what_a_cut_process_left_open_is_given_up_before_its_checkpoint_is_closed() {
        use crate::samples as s;
        let mut v = s::begin();
        v.push(s::open_checkpoint(1, crate::model::CheckpointKind::Full, &[1]));
        v.extend([s::open_sector(1, 1, false, 1), s::finish_task(1, 1)]);
        let mut state = State::default();
        s::all_done(&mut state, &v);
        let f = facts(1, 1);
        let acts = decide(&state, &f);
        assert_eq!(acts, [Act::Propose(Command::AbandonSector { sector: s::sector(1) })]);
        for (i, act) in acts.into_iter().enumerate() {
            let Act::Propose(command) = act else { panic!("{act:?}") };
            let index = state.revision + 1 + i as u64;
            let (outcome, _) = crate::apply::apply(&mut state, index, 5000, s::node(), &command);
            assert_eq!(outcome, crate::apply::Outcome::Done);
        }
        let close = Command::StoreCheckpoint { checkpoint: s::checkpoint(1) };
        assert_eq!(decide(&state, &f), [Act::Propose(close)]);
    }

    #[test]
    fn leases_end_with_silence_but_not_under_a_new_leader() {
        let mut s = state(3);
        let lease = |epoch, node| crate::model::Lease { epoch, node, incarnation: 1, work: Vec::new(), since_ms: 0 };
        s.leases.insert(5, lease(5, n(2)));
        s.leases.insert(6, lease(6, n(3)));
        s.leases.insert(7, lease(7, n(1)));
        let mut f = facts(3, 3);
        f.silence.insert(n(2), Some(Duration::from_millis(LEASE_MS + 1)));
        assert_eq!(decide(&s, &f), [Act::Propose(Command::EndLease { epoch: 5 })]);
        f.silence.insert(n(3), None);
        assert_eq!(decide(&s, &f).len(), 2, "a node that never answered is silent");
        f.leading = Duration::from_millis(LEASE_MS);
        assert_eq!(decide(&s, &f), []);
        // The leader before was heard last before it fell; what it held is free as soon as that is long enough ago.
        f.deposed = Some((n(2), Duration::from_millis(LEASE_MS)));
        assert_eq!(decide(&s, &f), []);
        f.deposed = Some((n(2), Duration::from_millis(LEASE_MS + 1)));
        assert_eq!(decide(&s, &f), [Act::Propose(Command::EndLease { epoch: 5 })]);
        f.silence.insert(n(2), Some(Duration::from_millis(3)));
        assert_eq!(decide(&s, &f), [], "it is back");
    }
}
