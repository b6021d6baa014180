//! Whole nodes over real links and real files, on this machine's loopback.

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use zoneward_consensus::command::Command;
use zoneward_consensus::raft::Role;
use zoneward_sectors::crypto::{Secret32, SigningKey};
use zoneward_sectors::ids::{Digest, TargetId, ZoneAlias};
use zoneward_transport::kind;

const ZONE: ZoneId = ZoneId([9; 16]);

/// For what must come; a test that waits this long has failed.
const LONG: Duration = Duration::from_secs(30);

fn until(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < LONG, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn id(n: u8) -> NodeId {
    NodeId([n; 16])
}

/// A node's disk.
struct Disk {
    dir: tempfile::TempDir,
    identity: Arc<NodeIdentity>,
}

impl Disk {
    fn new(n: u8) -> Self {
        Self::of_zone(n, 1)
    }

    fn of_zone(n: u8, owner: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let owner = SigningKey::from_seed(&Secret32([owner; 32]));
        let identity = Arc::new(NodeIdentity::create(dir.path(), id(n), 1, &owner).unwrap());
        Self { dir, identity }
    }

    fn peer(&self, address: &str) -> Peer {
        Peer { address: address.into(), public_key: STANDARD.encode(self.identity.public_key()) }
    }

    fn store(&self) -> Store {
        let path = self.dir.path().join("zone.redb");
        let open = |p: &Path| if p.exists() { Store::open(p) } else { Store::create(p) };
        // The last run's file is free when its last call has ended.
        let begun = Instant::now();
        loop {
            match open(&path) {
                Err(zoneward_consensus::store::StoreError::Busy) if begun.elapsed() < LONG => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                opened => return opened.unwrap(),
            }
        }
    }

    fn start(&self, introduced: &[&Cluster]) -> Cluster {
        self.start_at("127.0.0.1:0", introduced)
    }

    fn start_at(&self, listen: &str, introduced: &[&Cluster]) -> Cluster {
        let settings = ClusterSettings {
            zone: ZONE,
            listen: listen.parse().unwrap(),
            address: String::new(),
            snapshots: self.dir.path().join("snapshots"),
            incarnation: crate::home::next_incarnation(self.dir.path()).unwrap(),
            introduced: introduced
                .iter()
                .map(|c| (c.node(), Peer { address: c.address().into(), public_key: c.parts.key.clone() }))
                .collect(),
        };
        Cluster::start(self.store(), self.identity.clone(), settings).unwrap()
    }
}

fn create_zone() -> Command {
    Command::CreateZone {
        zone: ZONE,
        name: "home".into(),
        owner_fingerprint: Digest([1; 32]),
        owner_public: String::new(),
        owner_sign_public: String::new(),
        sector_min_log2: 20,
        sector_max_log2: 36,
        zstd_level: 2,
        secret_epoch: 1,
    }
}

fn add_target(n: u8) -> Command {
    Command::AddTarget {
        target: TargetId([n; 16]),
        name: format!("target {n}"),
        url: format!("file:///mnt/{n}"),
        alias: ZoneAlias([n; 16]),
        domain: None,
        credentials: None,
    }
}

/// A zone of this many nodes, all voters; the first leads.
fn zone(n: u8) -> (Vec<Disk>, Vec<Cluster>) {
    let disks: Vec<Disk> = (1..=n).map(Disk::new).collect();
    disks[0].store().propose(1, id(1), create_zone()).unwrap();
    let mut nodes = vec![disks[0].start(&[])];
    until("one node leads itself", || nodes[0].metrics().role == Role::Leader);
    until("its address is known", || nodes[0].parts.consensus.known()[&id(1)].address == nodes[0].address());
    for disk in &disks[1..] {
        let node = disk.start(&[&nodes[0]]);
        nodes[0].add(node.node(), disk.peer(node.address())).unwrap();
        nodes[0].promote(node.node()).unwrap();
        nodes.push(node);
    }
    (disks, nodes)
}

fn leader(nodes: &[Cluster]) -> Option<usize> {
    nodes.iter().position(|n| n.metrics().role == Role::Leader)
}

#[test]
fn commands_come_through_on_every_node_and_survive_the_leader() {
    let (disks, mut nodes) = zone(3);
    for (i, node) in nodes.iter().enumerate() {
        node.propose(&add_target(i as u8 + 1)).unwrap();
    }
    // The same name again: a refusal travels back from the leader.
    let again = Command::AddTarget {
        target: TargetId([77; 16]),
        name: "target 1".into(),
        url: "file:///mnt/77".into(),
        alias: ZoneAlias([77; 16]),
        domain: None,
        credentials: None,
    };
    assert!(matches!(nodes[2].propose(&again), Err(CommandError::Refused { .. })));
    for node in &nodes {
        assert_eq!(node.linearizable().unwrap().targets.len(), 3);
    }
    let gone = leader(&nodes).unwrap();
    drop(nodes.remove(gone));
    let begun = Instant::now();
    // Nothing says at once that the leader is gone, so a command on its way to it may be of unknown outcome.
    let mut written = nodes[0].propose(&add_target(4));
    while matches!(written, Err(CommandError::Unknown | CommandError::NoLeader)) && begun.elapsed() < LONG {
        written = nodes[0].propose(&add_target(4));
    }
    assert!(
        written.is_ok() || nodes[0].linearizable().unwrap().targets.contains_key(&TargetId([4; 16])),
        "{written:?}"
    );
    println!("leader gone to next commit: {:?}", begun.elapsed());
    // It comes back at another address, which it tells the leader.
    let back = disks[gone].start(&[]);
    until("it catches up", || back.view().targets.len() == 4);
    until("its address is known", || nodes[0].parts.consensus.known()[&back.node()].address == back.address());
    assert_eq!(back.linearizable().unwrap().targets.len(), 4);
}

#[test]
fn a_removed_node_is_cut_off_at_once_and_a_stranger_never_gets_in() {
    let (disks, mut nodes) = zone(3);
    let removed = nodes.remove(2);
    nodes[0].remove(removed.node()).unwrap();
    until("all know", || nodes.iter().all(|n| !n.parts.consensus.known().contains_key(&removed.node())));
    let before = nodes[0].view().revision;
    assert!(matches!(removed.propose(&add_target(1)), Err(CommandError::Unknown | CommandError::NoLeader)));
    // With its disk and its old key it asks the others whom it knows: none of them listens.
    drop(removed);
    let back = disks[2].start(&[]);
    assert!(back.linearizable().is_err());
    assert!(nodes[0].view().targets.is_empty());
    // A node of another zone that knows all addresses, and one that was never added.
    for stranger in [Disk::of_zone(2, 2), Disk::new(4)] {
        let node = stranger.start(&[&nodes[0], &nodes[1]]);
        let call = node.parts.endpoint.call(id(1), kind::ANNOUNCE, b"127.0.0.1:9", Duration::from_secs(2));
        assert!(node.block(call).is_err());
    }
    nodes[1].propose(&add_target(2)).unwrap();
    assert!(nodes[0].linearizable().unwrap().revision > before);
}

#[test]
fn a_node_that_was_away_while_the_members_changed_finds_back() {
    let (disks, mut nodes) = zone(3);
    // Node 3 is away while 4 and 5 join and 2 leaves; 1 then stops leading, so that only 4 or 5 can.
    drop(nodes.remove(2));
    let mut more: Vec<Disk> = [4, 5].into_iter().map(Disk::new).collect();
    for disk in &more {
        let node = disk.start(&[&nodes[0]]);
        nodes[0].add(node.node(), disk.peer(node.address())).unwrap();
        nodes[0].promote(node.node()).unwrap();
        nodes.push(node);
    }
    nodes[0].propose(&add_target(1)).unwrap();
    let first_at = nodes[0].address().to_owned();
    drop(nodes.remove(0));
    // 2, 4 and 5 of five are left.
    until("another one leads", || leader(&nodes).is_some());
    let leads = leader(&nodes).unwrap();
    // 3 knows 1 and 2 alone.
    let back = disks[2].start(&[]);
    until("it hears the leader", || {
        back.view().targets.len() == 1 && back.metrics().leader == Some(nodes[leads].node())
    });
    let first = disks[0].start_at(&first_at, &[]);
    until("the first is back too", || first.metrics().leader.is_some());
    more.clear();
}
