//! Going on without a majority: what the owner signs, and how a store becomes that of one node.
//!
//! A zone whose majority is lost for good can decide nothing more, and must not by itself: the lost nodes may be alive
//! behind a broken line. The owner says so with the signing key, once for each generation of the zone.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{CommittedLeaderId, EntryPayload};
use zoneward_sectors::ids::{NodeId, ZoneId};

use crate::Outcome;
use crate::command::Command;
use crate::raft::{LogEntry, LogId, Membership, Vote};
use crate::store::{Store, StoreError};

/// The term rises by so much: whatever the lost nodes elect meanwhile stays behind it.
const TERMS: u64 = 1 << 20;

/// What the owner signs.
pub fn message(zone: ZoneId, generation: u32, node: NodeId) -> Vec<u8> {
    [b"zoneward/1 recover quorum", &zone.0[..], &generation.to_le_bytes(), &node.0].concat()
}

/// Makes a store that of a zone of one node. Everything that this node has logged counts from now on, whether a majority
/// had it or not. Durable when this returns; cut at any moment, it can be done again.
///
/// The command is tried first: if the zone refuses it, nothing is changed.
pub fn recover(store: &mut Store, time_ms: u64, node: NodeId, command: Command) -> Result<Outcome, StoreError> {
    let head = &store.ledger.head;
    if let Some(owner) = head.node.filter(|owner| *owner != node) {
        return Err(StoreError::Foreign { owner, node });
    }
    store.apply_all()?;
    let mut trial = store.state.clone();
    let next = trial.revision + 2;
    if let (Outcome::Refused(refusal), _) = crate::apply::apply(&mut trial, next, time_ms, node, &command) {
        return Err(StoreError::Refused(refusal));
    }
    let head = &store.ledger.head;
    if !head.membership.voter_ids().eq([node]) {
        let known = head.membership.nodes().find(|(id, _)| **id == node).map(|(_, peer)| peer.clone());
        let alone = openraft::Membership::new(
            vec![BTreeSet::from([node])],
            BTreeMap::from([(node, known.unwrap_or_default())]),
        );
        let term = head.vote.map_or(0, |v| v.leader_id().term).saturating_add(TERMS);
        let id = LogId::new(CommittedLeaderId::new(term, node), head.last.map_or(0, |id| id.index + 1));
        let entry = LogEntry { log_id: id, payload: EntryPayload::Membership(alone.clone()) };
        store.install(Vote::new_committed(term, node), &entry, Membership::new(Some(id), alone))?;
    }
    store.propose(time_ms, node, command)
}
