//! Power cuts and failing disks under raft's calls: C6 of the invariants. After opening any image: the vote is not older
//! than one that was promised, everything acknowledged is in the log, and the state is what the log makes.

use std::collections::BTreeMap;

use super::*;

/// One call of raft's.
#[derive(Clone, Debug)]
enum Op {
    Vote(Vote),
    Append(Vec<LogEntry>),
    Commit(LogId),
    Apply(Vec<LogEntry>),
    Truncate(LogId),
    Purge(LogId),
    Snapshot,
    Install,
}

/// What was acknowledged.
#[derive(Clone, Debug, Default)]
struct Promised {
    vote: Option<Vote>,
    log: BTreeMap<u64, LogId>,
    applied: Option<u64>,
}

impl Promised {
    fn with(&self, op: &Op, donor: &SnapshotMeta) -> Self {
        let mut p = self.clone();
        match op {
            Op::Vote(v) => p.vote = Some(*v),
            Op::Append(entries) => p.log.extend(entries.iter().map(|e| (e.log_id.index, e.log_id))),
            Op::Truncate(from) => p.log.retain(|i, _| *i < from.index),
            Op::Purge(upto) => p.log.retain(|i, _| *i > upto.index),
            Op::Apply(entries) => p.applied = entries.last().map(|e| e.log_id.index),
            Op::Install => p.applied = donor.last_log_id.map(|id| id.index),
            Op::Commit(_) | Op::Snapshot => {}
        }
        p
    }
}

struct Trip {
    /// The whole log, and the state's hash after each entry.
    log: Vec<LogEntry>,
    hashes: Vec<Digest>,
    donor: (SnapshotMeta, Vec<u8>),
    ops: Vec<Op>,
}

fn trip() -> Trip {
    let dir = tempfile::tempdir().unwrap();
    let log = log(&s::story());
    let mut donor = fed(&Trial::default(), dir.path(), &log[..30]);
    let meta = wait(donor.build_snapshot()).unwrap().meta;
    let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(file).unwrap();
    let other = |index| LogEntry {
        log_id: LogId::new(openraft::CommittedLeaderId::new(1, NodeId::from(2)), index),
        payload: EntryPayload::Blank,
    };
    let ops = vec![
        Op::Append(log[..1].to_vec()),
        Op::Vote(Vote::new(1, s::node())),
        Op::Vote(Vote::new_committed(1, s::node())),
        Op::Append(log[1..4].to_vec()),
        Op::Commit(id(2)),
        Op::Apply(log[..3].to_vec()),
        Op::Append(log[4..12].to_vec()),
        Op::Apply(log[3..8].to_vec()),
        Op::Apply(log[8..12].to_vec()),
        Op::Snapshot,
        Op::Purge(id(6)),
        Op::Append(vec![other(12), other(13)]),
        Op::Vote(Vote::new(2, NodeId::from(3))),
        Op::Truncate(id(12)),
        Op::Append(log[12..20].to_vec()),
        Op::Commit(id(19)),
        Op::Apply(log[12..20].to_vec()),
        Op::Vote(Vote::new(3, NodeId::from(2))),
        Op::Snapshot,
        Op::Install,
        Op::Purge(id(29)),
        Op::Append(log[30..].to_vec()),
        Op::Apply(log[30..].to_vec()),
        Op::Vote(Vote::new(9, s::node())),
    ];
    Trip { hashes: hashes(&log), log, donor: (meta, bytes), ops }
}

fn step(node: &mut Storage, op: &Op, trip: &Trip, dir: &Path) -> Result<(), String> {
    let done = wait(async {
        match op.clone() {
            Op::Vote(v) => node.save_vote(&v).await,
            Op::Append(entries) => node.blocking_append(entries).await,
            Op::Commit(id) => node.save_committed(Some(id)).await,
            Op::Apply(entries) => node.apply(entries).await.map(drop),
            Op::Truncate(id) => node.truncate(id).await,
            Op::Purge(id) => node.purge(id).await,
            Op::Snapshot => node.build_snapshot().await.map(drop),
            Op::Install => {
                let path = dir.join("sent");
                std::fs::write(&path, &trip.donor.1).unwrap();
                let sent = SnapshotFile::new(std::fs::File::open(&path).unwrap(), true);
                node.install_snapshot(&trip.donor.0, Box::new(sent)).await
            }
        }
    });
    done.map_err(|e| e.to_string())
}

/// Opens what a crash left, and judges it.
fn judge(image: Vec<u8>, before: &Promised, after: &Promised, trip: &Trip, what: &str) {
    let store = Store::open_on(Trial::of(image)).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let head = &store.ledger.head;
    assert!(head.vote >= before.vote, "{what}: the vote {:?} is older than {:?}", head.vote, before.vote);
    assert!(head.vote <= after.vote, "{what}: a vote that nobody gave");
    let found: BTreeMap<u64, LogId> =
        store.ledger.entries(.., usize::MAX).unwrap().into_iter().map(|e| (e.log_id.index, e.log_id)).collect();
    for (index, id) in before.log.iter().filter(|(i, _)| after.log.contains_key(i)) {
        assert_eq!(found.get(index), Some(id), "{what}: an acknowledged entry is lost");
    }
    for (index, id) in &found {
        let known = [before, after].iter().any(|p| p.log.get(index) == Some(id));
        assert!(known, "{what}: entry {index} comes from nowhere");
    }
    // An entry that is applied need not be so after a crash: the log still has it, or a snapshot does.
    match head.applied {
        Some(id) => {
            assert_eq!(
                hash(store.state()),
                trip.hashes[id.index as usize],
                "{what}: not the state of entry {}",
                id.index
            );
            assert!(Some(id.index) <= after.applied.max(before.applied), "{what}: applied too much");
        }
        None => assert_eq!(hash(store.state()), hash(&State::default()), "{what}"),
    }
    let next = head.applied.map_or(0, |id| id.index + 1);
    if let (Some(want), Some(first)) = (before.applied, found.keys().next().or(Some(&next))) {
        assert!(*first <= next || next > want, "{what}: entries {next} to {first} are neither applied nor logged");
    }
}

#[test]
fn every_crash_image_keeps_what_raft_was_promised() {
    let trip = trip();
    let dir = tempfile::tempdir().unwrap();
    let disk = Trial::default();
    let mut node = storage(&disk, dir.path());
    disk.disk().record = true;
    let (mut promised, mut images) = (Promised::default(), 0);
    for op in &trip.ops {
        let after = promised.with(op, &trip.donor.0);
        step(&mut node, op, &trip, dir.path()).unwrap();
        let what = format!("{op:?}").chars().take(40).collect::<String>();
        let (taken, durable) = {
            let mut d = disk.disk();
            (std::mem::take(&mut d.images), d.durable.clone())
        };
        for image in taken {
            judge(image, &promised, &after, &trip, &what);
            images += 1;
        }
        judge(durable, &after, &after, &trip, &what);
        promised = after;
    }
    assert_eq!(hash(&node.view()), trip.hashes[trip.log.len() - 1]);
    assert!(images > 100, "{images}");
    println!("{images} images");
}

/// Fails the first call, then the second, and so on, until the trip ends without meeting the failure.
#[test]
fn a_failed_call_stops_the_node_and_loses_nothing_that_was_promised() {
    let trip = trip();
    let mut failures = 0;
    for n in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let disk = Trial::default();
        let mut node = storage(&disk, dir.path());
        disk.disk().calls = 0;
        disk.disk().fail_at = Some(n);
        let mut promised = Promised::default();
        let failed = trip.ops.iter().find(|op| {
            let after = promised.with(op, &trip.donor.0);
            let done = step(&mut node, op, &trip, dir.path());
            if done.is_err() {
                let images = {
                    let d = disk.disk();
                    [d.live.clone(), d.durable.clone()]
                };
                images
                    .into_iter()
                    .for_each(|image| judge(image, &promised, &after, &trip, &format!("call {n} failed")));
            }
            promised = after;
            done.is_err()
        });
        if failed.is_none() {
            assert!(disk.disk().calls < n, "call {n} failed and nobody said so");
            break;
        }
        failures += 1;
        if wait(node.save_vote(&Vote::new(99, s::node()))).is_ok() {
            // A read that failed leaves the store whole.
            assert!(matches!(failed, Some(Op::Snapshot | Op::Truncate(_) | Op::Install)), "call {n}: {failed:?}");
        }
    }
    assert!(failures > 50, "{failures}");
    println!("{failures} failed calls");
}
