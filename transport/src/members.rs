//! The membership as the links see it: which keys belong to the zone now.
//!
//! The truth is replicated state elsewhere; whoever applies it calls [`MemberView::update`]. Admission and removal
//! go through one lock, so that no connection slips in between: after `update` returns, every connection of a removed
//! node is closed and none can be opened.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zoneward_sectors::ids::{NodeId, ZoneId};

use crate::limits::MEMBERS_MAX;

/// One member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its Ed25519 key.
    pub key: [u8; 32],
    /// The lowest incarnation that is believed: a node that shows less runs on an old disk.
    pub incarnation_min: u64,
}

/// The membership of a zone at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    zone: ZoneId,
    revision: u64,
    nodes: BTreeMap<NodeId, Member>,
}

/// Why a membership is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    #[error("a zone has at most {MEMBERS_MAX} members, not {0}")]
    TooMany(usize),
    #[error("nodes {0} and {1} have the same key: one of them is a copy of the other and must be made anew")]
    SameKey(NodeId, NodeId),
    #[error("the membership is of zone {got}, this node belongs to {want}")]
    OtherZone { got: ZoneId, want: ZoneId },
    #[error("the membership has revision {got}, this node has {have} already")]
    Older { got: u64, have: u64 },
    #[error("two different memberships have revision {0}: this node's state is damaged, let it rejoin")]
    Conflict(u64),
}

impl Members {
    /// The members of `zone` at `revision` (a number that grows with every change, for instance the log index).
    pub fn new(
        zone: ZoneId,
        revision: u64,
        nodes: impl IntoIterator<Item = (NodeId, Member)>,
    ) -> Result<Self, MembersError> {
        let nodes: BTreeMap<_, _> = nodes.into_iter().collect();
        if nodes.len() > MEMBERS_MAX {
            return Err(MembersError::TooMany(nodes.len()));
        }
        let mut by_key = BTreeMap::new();
        for (node, member) in &nodes {
            if let Some(other) = by_key.insert(member.key, *node) {
                return Err(MembersError::SameKey(other, *node));
            }
        }
        Ok(Self { zone, revision, nodes })
    }

    /// The zone.
    pub fn zone(&self) -> ZoneId {
        self.zone
    }

    /// The revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A member.
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.nodes.get(&node)
    }

    /// Whose key this is.
    pub fn node_of(&self, key: &[u8; 32]) -> Option<NodeId> {
        self.nodes.iter().find(|(_, m)| m.key == *key).map(|(n, _)| *n)
    }
}

/// Why a connection is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    NotMember,
    Stale { shown: u64, known: u64 },
}

/// Application codes with which connections are closed.
pub(crate) mod close {
    pub const SHUTDOWN: u32 = 0;
    pub const NOT_MEMBER: u32 = 1;
    pub const REPLACED: u32 = 2;
    pub const REFUSED: u32 = 3;
    pub const DONE: u32 = 4;
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Dialed,
    Accepted,
}

struct Live {
    node: NodeId,
    key: [u8; 32],
    direction: Direction,
    /// The node's start that this connection is with.
    incarnation: u64,
    connection: quinn::Connection,
}

struct State {
    now: Arc<Members>,
    /// Highest incarnation shown by each node to this process.
    shown: BTreeMap<NodeId, u64>,
    live: HashMap<u64, Live>,
    next: u64,
}

/// The membership that all links of this process look at. Clones share it.
#[derive(Clone)]
pub struct MemberView(Arc<Mutex<State>>);

impl std::fmt::Debug for MemberView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.snapshot().fmt(f)
    }
}

impl MemberView {
    /// A view that begins with `members`.
    pub fn new(members: Members) -> Self {
        let state = State { now: Arc::new(members), shown: BTreeMap::new(), live: HashMap::new(), next: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The membership now.
    pub fn snapshot(&self) -> Arc<Members> {
        self.lock().now.clone()
    }

    /// Takes a newer membership and closes the connections of every node that is no longer in it, or has another key,
    /// before it returns. The same membership again changes nothing; an older one is refused.
    pub fn update(&self, members: Members) -> Result<(), MembersError> {
        let mut state = self.lock();
        if members.zone != state.now.zone {
            return Err(MembersError::OtherZone { got: members.zone, want: state.now.zone });
        }
        if members.revision < state.now.revision {
            return Err(MembersError::Older { got: members.revision, have: state.now.revision });
        }
        if members.revision == state.now.revision {
            let same = members == *state.now;
            return if same { Ok(()) } else { Err(MembersError::Conflict(members.revision)) };
        }
        let known: BTreeSet<NodeId> = members.nodes.keys().copied().collect();
        state.shown.retain(|node, _| known.contains(node));
        state.live.retain(|_, live| {
            let stays = members.get(live.node).is_some_and(|m| m.key == live.key);
            if !stays {
                live.connection.close(close::NOT_MEMBER.into(), b"removed from the zone");
            }
            stays
        });
        state.now = Arc::new(members);
        Ok(())
    }

    /// Whether the node with this key is a member.
    pub(crate) fn is_member(&self, node: NodeId, key: &[u8; 32]) -> bool {
        self.lock().now.get(node).is_some_and(|m| m.key == *key)
    }

    /// Admits a connection whose TLS handshake proved `key`. It counts as admitted until the guard is dropped. A newer
    /// accepted connection of a node takes the place of the older one.
    pub(crate) fn admit(
        &self,
        node: NodeId,
        key: &[u8; 32],
        incarnation: u64,
        direction: Direction,
        connection: &quinn::Connection,
    ) -> Result<Admission, NotAdmitted> {
        let mut state = self.lock();
        let Some(member) = state.now.get(node).copied().filter(|m| m.key == *key) else {
            return Err(NotAdmitted::NotMember);
        };
        let known = state.shown.get(&node).copied().unwrap_or(0).max(member.incarnation_min);
        if incarnation < known {
            return Err(NotAdmitted::Stale { shown: incarnation, known });
        }
        state.shown.insert(node, incarnation);
        // Its process was started again: what goes to the one before goes nowhere, and would only be noticed when the
        // connection has been idle for long.
        state.live.retain(|_, live| {
            let gone = live.node == node && live.incarnation < incarnation;
            if gone {
                live.connection.close(close::REPLACED.into(), b"the node was started again");
            }
            !gone
        });
        if direction == Direction::Accepted {
            state.live.retain(|_, live| {
                let older = live.node == node && live.direction == Direction::Accepted;
                if older {
                    live.connection.close(close::REPLACED.into(), b"a newer connection took its place");
                }
                !older
            });
        }
        let id = state.next;
        state.next += 1;
        state.live.insert(id, Live { node, key: *key, direction, incarnation, connection: connection.clone() });
        Ok(Admission { view: self.clone(), id })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A live connection's entry in the view.
pub(crate) struct Admission {
    view: MemberView,
    id: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.view.lock().live.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE: ZoneId = ZoneId([1; 16]);

    fn member(n: u8) -> (NodeId, Member) {
        (NodeId([n; 16]), Member { key: [n; 32], incarnation_min: 0 })
    }

    #[test]
    fn a_membership_with_one_key_twice_or_too_many_nodes_is_refused() {
        let mut twin = member(2);
        twin.1.key = [1; 32];
        let e = Members::new(ZONE, 1, [member(1), twin]).unwrap_err();
        assert_eq!(e, MembersError::SameKey(NodeId([1; 16]), NodeId([2; 16])));
        let e = Members::new(ZONE, 1, (0..=MEMBERS_MAX as u8).map(member)).unwrap_err();
        assert_eq!(e, MembersError::TooMany(MEMBERS_MAX + 1));
    }

    #[test]
    fn only_newer_memberships_of_this_zone_are_taken() {
        let members = |zone, revision, n| Members::new(zone, revision, [member(n)]).unwrap();
        let view = MemberView::new(members(ZONE, 5, 1));
        let other = ZoneId([2; 16]);
        assert_eq!(view.update(members(other, 6, 1)), Err(MembersError::OtherZone { got: other, want: ZONE }));
        assert_eq!(view.update(members(ZONE, 4, 2)), Err(MembersError::Older { got: 4, have: 5 }));
        assert_eq!(view.update(members(ZONE, 5, 2)), Err(MembersError::Conflict(5)));
        assert_eq!(view.update(members(ZONE, 5, 1)), Ok(()));
        assert_eq!(view.update(members(ZONE, 6, 2)), Ok(()));
        assert!(view.is_member(NodeId([2; 16]), &[2; 32]));
        assert!(!view.is_member(NodeId([1; 16]), &[1; 32]));
        assert!(!view.is_member(NodeId([2; 16]), &[1; 32]));
    }
}
