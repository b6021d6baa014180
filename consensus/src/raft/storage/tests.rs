//! openraft's suite sees no application data and no disk that fails: those tests are here.

mod alone;
mod crashes;

use openraft::EntryPayload;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::{StoreBuilder, Suite};
use zoneward_sectors::ids::Digest;

use super::*;
use crate::command::{Command, Entry, LEVEL};
use crate::samples::{self as s, hash};
use crate::store::trial::Trial;

struct Builder;

impl StoreBuilder<Types, Storage, Storage, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, Storage, Storage), Failed> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_on(Trial::default()).unwrap();
        let storage = Storage::new(store, NodeId::from(0), dir.path(), false).unwrap();
        Ok((dir, storage.clone(), storage))
    }
}

#[test]
fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).unwrap();
}

/// Runs calls of a store that runs everything in place.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(super) fn id(index: u64) -> LogId {
    LogId::new(
        openraft::CommittedLeaderId::new(u64::from(index > 0), if index > 0 { s::node() } else { NodeId::default() }),
        index,
    )
}

/// A log: three voters, then commands.
pub(super) fn log(commands: &[Command]) -> Vec<LogEntry> {
    let voters = (1..=3).map(|n| (NodeId::from(n), Peer::default()));
    let members = openraft::Membership::new(
        vec![(1..=3).map(NodeId::from).collect()],
        voters.collect::<std::collections::BTreeMap<_, _>>(),
    );
    let mut entries = vec![LogEntry { log_id: id(0), payload: EntryPayload::Membership(members) }];
    for command in commands {
        let index = entries.len() as u64;
        let entry = Entry::new(1000 + index, s::node(), command).unwrap();
        entries.push(LogEntry { log_id: id(index), payload: EntryPayload::Normal(entry) });
    }
    entries
}

/// The hash of the state after each entry.
pub(super) fn hashes(log: &[LogEntry]) -> Vec<Digest> {
    let mut state = State::default();
    let step = |e| {
        ledger::run(None, &mut state, std::slice::from_ref(e)).unwrap();
        hash(&state)
    };
    log.iter().map(step).collect()
}

pub(super) fn storage(disk: &Trial, dir: &Path) -> Storage {
    Storage::new(Store::open_on(disk.clone()).unwrap(), s::node(), dir, true).unwrap()
}

fn fed(disk: &Trial, dir: &Path, log: &[LogEntry]) -> Storage {
    let mut storage = storage(disk, dir);
    wait(async {
        storage.blocking_append(log.to_vec()).await.unwrap();
        storage.apply(log.to_vec()).await.unwrap();
    });
    storage
}

fn same_bytes(disk: &Trial) -> Trial {
    Trial::of(disk.disk().live.clone())
}

#[test]
fn a_snapshot_carries_the_whole_state_and_replaces_all_of_the_old_one() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let story = log(&s::story());
    let mut leader = fed(&Trial::default(), from.path(), &story);
    // Records that the snapshot does not have.
    let mut other = s::begin();
    other.extend((4..9).map(|n| s::add_target(n, None)));
    let disk = Trial::default();
    let mut follower = fed(&disk, to.path(), &log(&other));
    let taken = wait(leader.build_snapshot()).unwrap();
    wait(async {
        // As it comes over the network: into a file of the follower.
        let mut incoming = follower.begin_receiving_snapshot().await.unwrap();
        let mut sent = taken.snapshot;
        tokio::io::copy(&mut sent, &mut incoming).await.unwrap();
        follower.install_snapshot(&taken.meta, incoming).await.unwrap();
        follower.purge(taken.meta.last_log_id.unwrap()).await.unwrap();
    });
    assert_eq!(hash(&follower.view()), hash(&leader.view()));
    let (applied, members) = wait(follower.applied_state()).unwrap();
    assert_eq!((applied, members), wait(leader.applied_state()).unwrap());
    assert_eq!(wait(follower.get_current_snapshot()).unwrap().unwrap().meta, taken.meta);
    drop(follower);
    let again = Store::open_on(same_bytes(&disk)).unwrap();
    assert_eq!(hash(again.state()), hash(&leader.view()));
    assert_eq!(again.ledger.head.last, taken.meta.last_log_id);
    // It goes on from there.
    let mut follower = Storage::new(again, s::node(), to.path(), true).unwrap();
    let n = story.len() as u64;
    let next = Entry::new(9999, s::node(), &s::add_target(7, None)).unwrap();
    let next = LogEntry { log_id: id(n), payload: EntryPayload::Normal(next) };
    let replies = wait(async {
        follower.blocking_append([next.clone()]).await.unwrap();
        follower.apply([next]).await.unwrap()
    });
    assert_eq!(replies, [Reply { revision: n, refused: None }]);
    assert_eq!(follower.view().targets.len(), 4);
}

#[test]
fn a_changed_or_cut_snapshot_is_an_error_and_changes_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut leader = fed(&Trial::default(), from.path(), &log(&s::story()));
    let meta = wait(leader.build_snapshot()).unwrap().meta;
    let file = std::fs::read_dir(from.path()).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&file).unwrap();
    let disk = Trial::default();
    let before = log(&s::begin());
    let install = |image: &[u8], meta: &SnapshotMeta| {
        let mut follower = storage(&same_bytes(&disk), to.path());
        let path = to.path().join("sent");
        std::fs::write(&path, image).unwrap();
        let sent = SnapshotFile::new(std::fs::File::open(&path).unwrap(), true);
        let done = wait(follower.install_snapshot(meta, Box::new(sent)));
        (done, hash(&follower.view()))
    };
    drop(fed(&disk, to.path(), &before));
    let old = hash(&storage(&same_bytes(&disk), to.path()).view());
    for at in (0..bytes.len()).step_by(101) {
        let mut image = bytes.clone();
        image[at] ^= 1 << (at % 8);
        let (done, state) = install(&image, &meta);
        assert!(done.is_err() && state == old, "byte {at}");
        let (done, state) = install(&bytes[..at], &meta);
        assert!(done.is_err() && state == old, "cut at {at}");
    }
    let other = SnapshotMeta { last_log_id: Some(id(3)), ..meta.clone() };
    assert!(install(&bytes, &other).0.is_err(), "a snapshot of another moment");
    let newer = String::from_utf8(bytes.clone()).unwrap().replacen("{\"format\":1", "{\"format\":2", 1);
    let (done, _) = install(newer.as_bytes(), &meta);
    assert!(done.unwrap_err().to_string().contains("newer zoneward"));
    assert!(install(&bytes, &meta).0.is_ok());
    // The store's own: damaged and missing are errors, never "none".
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(wait(leader.get_current_snapshot()).is_err());
    std::fs::remove_file(&file).unwrap();
    assert!(wait(leader.get_current_snapshot()).is_err());
}

#[test]
fn a_damaged_snapshot_is_forgotten_at_the_start_and_that_is_said() {
    for damage in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let disk = Trial::default();
        let mut node = fed(&disk, dir.path(), &log(&s::story()));
        let meta = wait(node.build_snapshot()).unwrap().meta;
        drop(node);
        let same = storage(&same_bytes(&disk), dir.path());
        assert_eq!((same.repaired(), same.ledger().head.snapshot.clone()), (None, Some(meta)));
        drop(same);
        let file = one_file(dir.path());
        if damage {
            std::fs::write(&file, b"{}\n{}\n").unwrap()
        } else {
            std::fs::remove_file(&file).unwrap()
        }
        let mut node = storage(&same_bytes(&disk), dir.path());
        assert!(node.repaired().is_some());
        assert!(wait(node.get_current_snapshot()).unwrap().is_none());
        assert_eq!(wait(node.build_snapshot()).unwrap().meta.last_log_id, node.ledger().head.applied);
    }
}

#[test]
fn an_entry_of_an_unknown_level_stops_the_node_and_a_refusal_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(&[s::create_zone(), s::create_zone(), s::add_target(1, None)]);
    let EntryPayload::Normal(entry) = &mut log[3].payload else { panic!() };
    entry.level = LEVEL + 1;
    let mut node = storage(&Trial::default(), dir.path());
    wait(async {
        node.blocking_append(log.clone()).await.unwrap();
        let replies = node.apply(log[..3].to_vec()).await.unwrap();
        assert_eq!((replies[1].revision, &replies[1].refused), (1, &None));
        assert_eq!(replies[2].refused.as_ref().unwrap().code, "zone_exists");
        let stopped = node.apply(log[3..].to_vec()).await.unwrap_err();
        assert!(stopped.to_string().contains("use a newer one"), "{stopped}");
        assert_eq!(node.applied_state().await.unwrap().0, Some(id(2)), "it is not skipped");
    });
}

#[test]
fn what_must_never_happen_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(&s::begin());
    let mut node = storage(&Trial::default(), dir.path());
    wait(async {
        node.blocking_append(log[..5].to_vec()).await.unwrap();
        node.apply(log[..3].to_vec()).await.unwrap();
        assert!(node.truncate(id(2)).await.is_err(), "an applied entry given up");
        node.truncate(id(3)).await.unwrap();
        node.save_vote(&Vote::new(5, s::node())).await.unwrap();
        assert!(node.save_vote(&Vote::new(4, s::node())).await.is_err(), "a vote taken back");
        assert!(node.save_vote(&Vote::new(5, NodeId::default())).await.is_err(), "a second vote");
        node.save_vote(&Vote::new_committed(5, s::node())).await.unwrap();
        assert!(node.blocking_append(log[5..].to_vec()).await.is_err(), "a gap");
        assert!(node.blocking_append(log[3..].to_vec()).await.is_err(), "and nothing after that");
    });
}

#[test]
fn a_store_belongs_to_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Trial::default();
    drop(storage(&disk, dir.path()));
    let store = Store::open_on(same_bytes(&disk)).unwrap();
    let other = Storage::new(store, NodeId::from(2), dir.path(), true);
    assert!(matches!(other.err(), Some(StoreError::Foreign { .. })));
}

/// Found by the simulation: openraft 0.9 may purge the entries before a snapshot that is not installed yet.
#[test]
fn a_purge_waits_for_the_snapshot_that_covers_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut leader = fed(&Trial::default(), from.path(), &log(&s::story()));
    let taken = wait(leader.build_snapshot()).unwrap();
    let upto = taken.meta.last_log_id.unwrap();
    for good in [true, false] {
        let disk = Trial::default();
        let mut follower = fed(&disk, to.path(), &log(&s::begin()));
        let mut purging = follower.clone();
        let (purged, installed) = wait(async {
            let mut incoming = follower.begin_receiving_snapshot().await.unwrap();
            if good {
                let mut sent = SnapshotFile::new(std::fs::File::open(one_file(from.path())).unwrap(), true);
                tokio::io::copy(&mut sent, &mut incoming).await.unwrap();
            }
            tokio::join!(purging.purge(upto), follower.install_snapshot(&taken.meta, incoming))
        });
        assert_eq!((purged.is_ok(), installed.is_ok()), (good, good));
        let store = Store::open_on(same_bytes(&disk)).unwrap();
        assert!(store.ledger.head.purged <= store.ledger.head.applied);
        assert_eq!(store.ledger.head.purged, good.then_some(upto));
    }
}

fn one_file(dir: &Path) -> std::path::PathBuf {
    std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
}
