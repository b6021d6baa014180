//! A store made of a state that came back from a backup: the zone of one new node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use openraft::{CommittedLeaderId, EntryPayload};
use redb::Durability;
use zoneward_sectors::ids::NodeId;

use super::{Store, StoreError, rows, write_error};
use crate::apply::Row;
use crate::model::{Head, State};
use crate::raft::{LogEntry, LogId, Membership, Peer, Vote};

/// A state as a new node takes it over when all nodes before it are lost: nobody holds work, invites or tokens; what one
/// of them alone could read, the new one reads; and of what targets show nothing is taken for known but `head`.
pub fn taken_over(mut state: State, node: NodeId, head: Option<Head>) -> State {
    state.nodes.clear();
    state.leases.clear();
    state.invites.clear();
    state.tokens.clear();
    state.head = head.or(state.head);
    for s in state.sources.values_mut().chain(state.former.values_mut()) {
        s.grounds.clear();
        if !s.nodes.is_empty() {
            s.nodes = vec![node];
        }
    }
    for t in state.targets.values_mut() {
        t.reached_by.clear();
        t.pointer = None;
    }
    for s in state.sectors.values_mut() {
        s.staged.clear();
        s.lease = None;
    }
    state.copies.values_mut().for_each(|c| c.lease = None);
    // Whoever found the old nodes may know the zone's secret.
    state.zone.iter_mut().for_each(|z| (z.secret_stale, z.secret_next) = (true, None));
    state.policy.names.values_mut().for_each(|m| m.nodes.clear());
    state.policy.maintenance.clear();
    state
}

impl Store {
    /// Makes a store that holds `state` and belongs to `node` alone, whose entries come after all that the state has seen.
    /// A file that is there already is an error. Durable when this returns.
    pub fn seed(path: &Path, state: State, node: NodeId) -> Result<Self, StoreError> {
        let mut store = Self::create(path)?;
        let at = |index| LogId::new(CommittedLeaderId::new(1, node), index);
        let alone = openraft::Membership::new(vec![BTreeSet::from([node])], BTreeMap::from([(node, Peer::default())]));
        let id = at(state.revision + 1);
        let first = LogEntry { log_id: id, payload: EntryPayload::Membership(alone.clone()) };
        let rows = rows::changed(&state, &all(&state)).map_err(write_error)?;
        store.ledger.write(Durability::Immediate, |batch| {
            batch.put_rows(rows.into_iter().filter(|(_, value)| value.is_some()))?;
            // What the state has seen is another log's: this one begins behind it.
            (batch.head.purged, batch.head.last) = (Some(at(state.revision)), Some(at(state.revision)));
            batch.append([&first])?;
            let head = &mut batch.head;
            (head.node, head.vote) = (Some(node), Some(Vote::new_committed(1, node)));
            (head.committed, head.applied) = (Some(id), Some(id));
            head.membership = Membership::new(Some(id), alone);
            (head.next_seq, head.last_time_ms) = (state.next_seq, state.last_time_ms);
            Ok(())
        })?;
        store.state = State { revision: id.index, ..state };
        Ok(store)
    }
}

/// The rows of all records.
fn all(state: &State) -> BTreeSet<Row> {
    let mut rows = BTreeSet::from([Row::Zone, Row::Head, Row::Policy]);
    rows.extend(state.nodes.keys().copied().map(Row::Node));
    rows.extend(state.targets.keys().copied().map(Row::Target));
    rows.extend(state.sources.keys().copied().map(Row::Source));
    rows.extend(state.former.keys().copied().map(Row::Former));
    rows.extend(state.checkpoints.keys().copied().map(Row::Checkpoint));
    rows.extend(state.layers.keys().copied().map(Row::Layer));
    rows.extend(state.sectors.keys().copied().map(Row::Sector));
    rows.extend(state.copies.keys().copied().map(Row::Copy));
    rows.extend(state.leases.keys().copied().map(Row::Lease));
    rows.extend(state.invites.keys().copied().map(Row::Invite));
    rows.extend(state.tokens.keys().copied().map(Row::Token));
    rows.extend(state.users.keys().copied().map(Row::User));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::samples as s;

    #[test]
    fn a_seeded_store_goes_on_where_the_state_ends_and_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zone.redb");
        let node = NodeId([9; 16]);
        let before = s::state();
        let state = taken_over(before.clone(), node, None);
        assert!(state.nodes.is_empty() && state.tokens.is_empty());
        let mut store = Store::seed(&path, state.clone(), node).unwrap();
        assert_eq!(store.state().revision, before.revision + 1);
        let add = Command::AddNode { node, name: "new".into(), public_key: "bmV3".into(), certificate: "Y2Vy".into() };
        store.propose(before.last_time_ms + 1, node, add).unwrap();
        assert_eq!(store.state().revision, before.revision + 2);
        let expected = store.state().clone();
        drop(store);
        let again = Store::open(&path).unwrap();
        assert_eq!(*again.state(), expected);
        assert_eq!(again.state().copies.len(), before.copies.len());
        assert_eq!((again.node(), again.state().next_seq), (Some(node), before.next_seq));
        assert!(again.membership().voter_ids().eq([node]));
        drop(again);
        assert!(Store::seed(&path, state, node).is_err(), "a store is never written over");
    }

    #[test]
    fn what_one_lost_node_read_the_new_one_reads() {
        let node = NodeId([9; 16]);
        let mut before = s::state();
        before.sources.get_mut(&s::source(1)).unwrap().nodes = vec![s::node()];
        let after = taken_over(before, node, None);
        assert_eq!(after.sources[&s::source(1)].nodes, [node]);
        assert!(after.sources[&s::source(2)].nodes.is_empty(), "what all can read stays so");
        assert!(after.sources.values().all(|s| s.grounds.is_empty()));
    }
}
