//! Threads, files and the real clock: nothing here waits longer than it must.

use std::path::Path;

use super::*;
use crate::raft::net::{Net, Weather, plain_port};
use crate::store::Store;

fn open(dir: &Path, id: u64) -> Store {
    let path = dir.join(format!("{id}.redb"));
    if path.exists() { Store::open(&path).unwrap() } else { Store::create(&path).unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_on_files_and_threads() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new(1, Weather { delay_us: (0, 1), ..FAIR });
    open(dir.path(), 1).propose(1000, n(1), s::create_zone()).unwrap();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let settings = Settings::new(dir.path().join(format!("snapshots-{id}")));
        let port = plain_port(&net, n(id));
        let node = Consensus::start(open(dir.path(), id), n(id), &settings, port).await.unwrap();
        net.join(&node);
        nodes.push(node);
    }
    let leader = nodes[0].clone();
    until("it leads", || leader.leader() == Some(n(1))).await;
    for id in [2, 3] {
        leader.add_learner(n(id), Peer::default()).await.unwrap();
        leader.promote(n(id)).await.unwrap();
    }
    let begun = tokio::time::Instant::now();
    for command in &s::story()[1..] {
        assert_eq!(leader.propose(2000, command).await.unwrap().refused, None, "{command:?}");
    }
    println!("{} commands one by one: {:?}", s::story().len() - 1, begun.elapsed());
    alike(&nodes).await;
    leader.0.raft.trigger().snapshot().await.unwrap();
    until("a snapshot", || leader.metrics().snapshot.is_some()).await;
    let whole = hash(&leader.view());
    net.part();
    for node in &nodes {
        node.shutdown().await.unwrap();
    }
    drop((nodes, leader));
    // The files are free again as soon as the last task has let go of them.
    for id in 1..=3 {
        let path = dir.path().join(format!("{id}.redb"));
        until("the store is free", || !matches!(Store::open(&path), Err(StoreError::Busy))).await;
        let store = Store::open(&path).unwrap();
        assert_eq!(store.membership().voter_ids().count(), 3);
        if id == 1 {
            assert_eq!(hash(store.state()), whole);
        }
    }
}
