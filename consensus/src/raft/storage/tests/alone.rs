//! The store without a daemon writes what raft would have written.

use super::*;
use crate::limits::LOG_KEPT;

fn alone(disk: &Trial, commands: &[Command]) -> Store {
    let mut store = Store::open_on(disk.clone()).unwrap();
    for command in commands {
        store.propose(1000, s::node(), command.clone()).unwrap();
    }
    store
}

#[test]
fn the_first_command_makes_a_zone_of_one_voter() {
    let store = alone(&Trial::default(), &s::begin());
    let head = &store.ledger.head;
    let entries = store.ledger.entries(.., usize::MAX).unwrap();
    assert_eq!(entries.len(), s::begin().len() + 1);
    let EntryPayload::Membership(first) = &entries[0].payload else { panic!("{:?}", entries[0]) };
    assert_eq!((entries[0].log_id, first.voter_ids().collect::<Vec<_>>()), (LogId::default(), vec![s::node()]));
    assert!(entries[1..].iter().all(|e| e.log_id.leader_id == openraft::CommittedLeaderId::new(1, s::node())));
    assert_eq!((head.vote, head.node), (Some(Vote::new_committed(1, s::node())), Some(s::node())));
    assert_eq!((head.applied, head.committed), (head.last, head.last));
    assert_eq!(store.state().revision, head.last.unwrap().index);
    assert!(store.membership().voter_ids().eq([s::node()]));
}

#[test]
fn another_nodes_state_and_a_zone_of_several_voters_are_refused() {
    let disk = Trial::default();
    let mut store = alone(&disk, &s::begin());
    let other = store.propose(1, NodeId::from(7), s::add_target(9, None));
    assert!(matches!(other, Err(StoreError::Foreign { .. })), "{other:?}");
    let dir = tempfile::tempdir().unwrap();
    let disk = Trial::default();
    drop(fed(&disk, dir.path(), &log(&s::begin())));
    let mut store = Store::open_on(same_bytes(&disk)).unwrap();
    let e = store.propose(1, s::node(), s::add_target(9, None)).unwrap_err();
    assert!(matches!(e, StoreError::Clustered(3)), "{e:?}");
    assert!(e.to_string().contains("zoneward up"), "{e}");
}

#[test]
fn the_only_voter_takes_over_what_raft_left_and_wins_a_newer_term() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Trial::default();
    drop(alone(&disk, &s::begin()));
    // Raft ran: an election under way, an entry that is logged and not applied.
    let disk = same_bytes(&disk);
    let mut node = storage(&disk, dir.path());
    let last = wait(async {
        let last = node.get_log_state().await.unwrap().last_log_id.unwrap().index;
        let entry = Entry::new(2000, s::node(), &s::add_target(8, None)).unwrap();
        let entry = LogEntry { log_id: id(last + 1), payload: EntryPayload::Normal(entry) };
        node.blocking_append([entry]).await.unwrap();
        node.save_vote(&Vote::new(4, s::node())).await.unwrap();
        last + 1
    });
    drop(node);
    let mut store = Store::open_on(same_bytes(&disk)).unwrap();
    assert_eq!(store.state().revision, last, "what only this node could commit is committed");
    store.propose(3000, s::node(), s::add_target(9, None)).unwrap();
    let head = &store.ledger.head;
    assert_eq!(head.vote, Some(Vote::new_committed(5, s::node())));
    assert_eq!(head.last, Some(LogId::new(openraft::CommittedLeaderId::new(5, s::node()), last + 1)));
    assert_eq!(store.state().targets.len(), 5);
}

#[test]
fn a_trimmed_log_forgets_a_snapshot_that_ends_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Trial::default();
    let store = alone(&disk, &s::begin());
    let mut node = Storage::new(store, s::node(), dir.path(), true).unwrap();
    let meta = wait(node.build_snapshot()).unwrap().meta;
    drop(node);
    let mut store = Store::open_on(same_bytes(&disk)).unwrap();
    assert_eq!(store.ledger.head.snapshot, Some(meta.clone()));
    // As if most of the log had been written since.
    let far = id(LOG_KEPT + 1);
    (store.ledger.head.last, store.ledger.head.applied) = (Some(far), Some(far));
    store.propose(1000, s::node(), s::add_target(9, None)).unwrap();
    assert_eq!(store.ledger.head.purged, Some(id(2)));
    assert_eq!(store.ledger.head.snapshot, Some(meta), "it ends after the log's new beginning");
    let far = id(LOG_KEPT + 7);
    (store.ledger.head.last, store.ledger.head.applied) = (Some(far), Some(far));
    store.ledger.write(Durability::Immediate, |batch| ledger::purge(batch, id(8))).unwrap();
    assert_eq!(store.ledger.head.snapshot, None);
    // Its file goes when raft next uses the directory.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let _ = Snapshots::open(dir.path(), None).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Of a zone of three voters one is left: the owner's word makes it the only voter, in a term that the others cannot reach.
#[test]
fn the_owner_makes_one_node_of_three_the_zone() {
    use crate::quorum;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use zoneward_sectors::crypto::{Secret32, Signer, SigningKey};
    let owner = SigningKey::from_seed(&Secret32([7; 32]));
    let mut begin = s::begin();
    for c in &mut begin {
        if let Command::CreateZone { owner_sign_public, .. } = c {
            *owner_sign_public = STANDARD.encode(owner.public_key());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = Trial::default();
    drop(fed(&disk, dir.path(), &log(&begin)));
    let mut store = Store::open_on(same_bytes(&disk)).unwrap();
    let zone = store.state().zone.clone().unwrap();
    let before = store.ledger.head.clone();
    let command = |generation, key: &SigningKey, node| {
        let signature = STANDARD.encode(key.sign(&quorum::message(zone.id, generation, node)));
        Command::RecoverQuorum { generation, signature }
    };
    let other = SigningKey::from_seed(&Secret32([8; 32]));
    for bad in [command(1, &other, s::node()), command(2, &owner, s::node()), command(1, &owner, NodeId::from(9))] {
        let e = quorum::recover(&mut store, 5000, s::node(), bad).unwrap_err();
        assert!(matches!(e, StoreError::Refused(_)), "{e:?}");
        assert_eq!((store.ledger.head.vote, store.ledger.head.last), (before.vote, before.last), "nothing was changed");
    }
    let foreign = quorum::recover(&mut store, 5000, NodeId::from(9), command(1, &owner, NodeId::from(9)));
    assert!(matches!(foreign, Err(StoreError::Foreign { .. })), "{foreign:?}");
    quorum::recover(&mut store, 5000, s::node(), command(1, &owner, s::node())).unwrap();
    let state = store.state().clone();
    assert_eq!(state.zone.as_ref().map(|z| z.generation), Some(1));
    assert!(store.membership().voter_ids().eq([s::node()]));
    let term = store.ledger.head.vote.unwrap().leader_id().term;
    assert!(term > before.vote.map_or(0, |v| v.leader_id().term) + 1000, "{term}");
    // It goes on alone from here, and what it wrote is there after the next start.
    store.propose(6000, s::node(), s::add_target(9, None)).unwrap();
    let again = quorum::recover(&mut store, 7000, s::node(), command(1, &owner, s::node()));
    assert!(matches!(again, Err(StoreError::Refused(_))), "each generation once: {again:?}");
    quorum::recover(&mut store, 7000, s::node(), command(2, &owner, s::node())).unwrap();
}
