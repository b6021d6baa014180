//! Three real nodes on tokio's paused clock, with real stores on disks in memory.

mod real;
mod timing;

use tokio::time::sleep;

use super::*;
use crate::raft::net::{Cluster, FAIR, Weather, n, until};
use crate::samples::{self as s, hash};

/// Node 1 with a new zone.
async fn first(cluster: &mut Cluster) -> Consensus {
    cluster.disks.entry(n(1)).or_default();
    let mut store = cluster.store(n(1));
    store.propose(1000, n(1), s::create_zone()).unwrap();
    drop(store);
    let node = cluster.start(1).await;
    until("one node leads itself", || node.leader() == Some(n(1))).await;
    node
}

async fn three(cluster: &mut Cluster) -> Consensus {
    let leader = first(cluster).await;
    for id in [2, 3] {
        let new = cluster.start(id).await;
        leader.add_learner(n(id), Peer { address: format!("host{id}:1"), ..Peer::default() }).await.unwrap();
        until("the learner has the log", || new.metrics().last_applied == leader.metrics().last_applied).await;
        assert_eq!(new.metrics().role, Role::Learner);
        leader.promote(n(id)).await.unwrap();
    }
    leader
}

fn leader_of(nodes: &[Consensus]) -> Option<Consensus> {
    let leads = |c: &&Consensus| c.metrics().role == Role::Leader;
    nodes.iter().filter(leads).max_by_key(|c| c.metrics().term).cloned()
}

async fn new_leader(cluster: &Cluster, among: &[u64]) -> Consensus {
    let nodes: Vec<Consensus> = among.iter().map(|id| cluster.node(*id)).collect();
    until("a leader that all know", || {
        let leader = leader_of(&nodes).map(|l| l.node());
        leader.is_some() && nodes.iter().all(|c| c.leader() == leader)
    })
    .await;
    leader_of(&nodes).unwrap()
}

async fn alike(nodes: &[Consensus]) {
    until("all have applied the same", || {
        let first = nodes[0].metrics().last_applied;
        nodes.iter().all(|c| c.metrics().last_applied == first && c.metrics().last_log == first)
    })
    .await;
    let hashes: Vec<_> = nodes.iter().map(|c| hash(&c.view())).collect();
    assert!(hashes.iter().all(|h| *h == hashes[0]), "equal entries, different states");
}

#[tokio::test(start_paused = true)]
async fn three_nodes_agree_lose_their_leader_and_go_on() {
    let mut cluster = Cluster::new(1, FAIR);
    let leader = three(&mut cluster).await;
    let done = leader.propose(2000, &s::add_target(1, None)).await.unwrap();
    assert_eq!(done.refused, None);
    assert_eq!(leader.view().revision, done.revision);
    let refused = leader.propose(2000, &s::add_target(1, None)).await.unwrap();
    assert_eq!(refused.refused.unwrap().code, "exists");
    let other = cluster.node(2);
    let e = other.propose(2000, &s::add_target(2, None)).await.unwrap_err();
    assert!(matches!(e, ProposeError::NotLeader { leader: Some(id) } if id == n(1)), "{e}");
    assert_eq!(other.linearizable().await.unwrap().targets.len(), 1, "a follower reads what was acknowledged");
    assert_eq!(leader.metrics().voters.len(), 3);
    until("no lag", || leader.metrics().lag.values().all(|l| *l == Some(0))).await;
    assert_eq!(leader.metrics().lag.len(), 2);

    cluster.crash(1).await;
    let leader = new_leader(&cluster, &[2, 3]).await;
    assert!(leader.propose(3000, &s::add_target(2, None)).await.unwrap().refused.is_none());
    let old = cluster.start(1).await;
    alike(&cluster.running()).await;
    assert_eq!(old.view().targets.len(), 2);
    assert_eq!(old.linearizable().await.unwrap().targets.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_cut_off_comes_back_without_raising_the_term() {
    let mut cluster = Cluster::new(2, FAIR);
    let leader = three(&mut cluster).await;
    let term = leader.metrics().term;
    cluster.net.isolate(&[n(3)]);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.node(3).metrics().term, term, "it stood for no election");
    leader.propose(2000, &s::add_target(1, None)).await.unwrap();
    cluster.net.heal();
    alike(&cluster.running()).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!((leader.metrics().term, leader.metrics().role), (term, Role::Leader));
    // It hears the leader, and the leader does not hear it.
    cluster.net.cut(n(3), n(1));
    sleep(Duration::from_secs(30)).await;
    cluster.net.heal();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(leader.metrics().term, term);
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_majority_does_nothing_and_yields() {
    let mut cluster = Cluster::new(3, FAIR);
    let old = three(&mut cluster).await;
    cluster.net.isolate(&[n(1)]);
    let lost = old.propose(2000, &s::add_target(1, None)).await;
    assert!(matches!(lost, Err(ProposeError::Unknown)), "{lost:?}");
    assert!(matches!(old.linearizable().await, Err(ProposeError::Unknown)));
    let new = new_leader(&cluster, &[2, 3]).await;
    new.propose(2000, &s::add_target(2, None)).await.unwrap();
    cluster.net.heal();
    alike(&cluster.running()).await;
    assert_eq!(old.view().targets.keys().collect::<Vec<_>>(), [&s::target(2)], "what was unknown did not take effect");
}

#[tokio::test(start_paused = true)]
async fn a_node_far_behind_is_sent_a_snapshot() {
    let mut cluster = Cluster::new(4, FAIR);
    (cluster.snapshot_every, cluster.log_kept) = (20, 5);
    let leader = three(&mut cluster).await;
    for command in &s::story()[1..] {
        leader.propose(2000, command).await.unwrap();
    }
    cluster.crash(3).await;
    for i in 0..80u8 {
        let command = s::put_source(i % 4, format!("/h/{}", i % 4).as_bytes(), 3);
        leader.propose(2000, &command).await.unwrap();
    }
    until("a snapshot, and a shorter log", || leader.metrics().snapshot > Some(60)).await;
    let late = cluster.start(3).await;
    alike(&cluster.running()).await;
    assert!(late.metrics().snapshot > Some(60), "{:?}", late.metrics());
    // It survives what comes after.
    cluster.crash(3).await;
    cluster.start(3).await;
    alike(&cluster.running()).await;
}

/// Power fails between the two steps of a removal; whoever asks for it again must not find a learner left over.
#[tokio::test(start_paused = true)]
async fn a_removal_that_was_cut_in_its_middle_is_finished_when_it_is_asked_for_again() {
    let mut cluster = Cluster::new(7, FAIR);
    let leader = three(&mut cluster).await;
    cluster.net.calm(Weather { delay_us: (20_000, 20_001), ..FAIR });
    let asked = leader.clone();
    let cut = tokio::spawn(async move { asked.remove(n(3)).await });
    let joint = |c: &Consensus| c.0.raft.metrics().borrow().membership_config.membership().get_joint_config().len() > 1;
    while !joint(&cluster.node(2)) {
        sleep(Duration::from_millis(1)).await;
    }
    cut.abort();
    cluster.crash(1).await;
    cluster.net.calm(FAIR);
    cluster.start(1).await;
    let leads = |c: &Consensus| c.role() == Role::Leader;
    until("somebody leads", || cluster.running().iter().any(leads)).await;
    let leader = cluster.running().into_iter().find(leads).unwrap();
    assert!(joint(&leader), "the removal was not cut in its middle");
    leader.remove(n(3)).await.unwrap();
    let m = leader.metrics();
    assert_eq!((m.voters, m.learners), ([n(1), n(2)].into(), [].into()));
}

#[tokio::test(start_paused = true)]
async fn members_come_and_go_and_the_last_one_works_alone() {
    let mut cluster = Cluster::new(5, FAIR);
    let leader = three(&mut cluster).await;
    leader.set_peer(n(1), Peer { address: "host1:1".into(), ..Peer::default() }).await.unwrap();
    assert!(leader.set_peer(n(9), Peer::default()).await.is_err());
    assert!(matches!(leader.promote(n(9)).await, Err(ProposeError::Members(_))));
    let gone = cluster.node(3);
    leader.remove(n(3)).await.unwrap();
    assert_eq!(leader.metrics().voters, [n(1), n(2)].into());
    assert!(leader.metrics().learners.is_empty());
    // What it says is refused, and it does not disturb.
    let ask = wire::encode(&Request::Hear).unwrap();
    let answer = leader.serve(n(3), &ask).await;
    assert!(matches!(wire::decode(&answer).unwrap(), Response::Refused(_)));
    let term = leader.metrics().term;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(leader.metrics().term, term);
    let e = gone.propose(1, &s::add_target(3, None)).await.unwrap_err();
    assert!(matches!(e, ProposeError::NotLeader { .. }), "{e}");
    leader.remove(n(2)).await.unwrap();
    assert!(matches!(leader.remove(n(1)).await, Err(ProposeError::Members(_))), "someone must be left");
    cluster.crash(2).await;
    cluster.crash(3).await;
    leader.propose(2000, &s::add_target(1, None)).await.unwrap();
    // Without the daemon, and with it again.
    leader.shutdown().await.unwrap();
    cluster.crash(1).await;
    let mut store = cluster.store(n(1));
    assert_eq!(store.state().targets.len(), 1);
    store.propose(3000, n(1), s::add_target(2, None)).unwrap();
    drop(store);
    let node = cluster.start(1).await;
    until("it leads", || node.leader() == Some(n(1))).await;
    node.propose(4000, &s::add_target(3, None)).await.unwrap();
    assert_eq!(node.linearizable().await.unwrap().targets.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_answered_and_an_unknown_level_is_never_logged() {
    let mut cluster = Cluster::new(6, FAIR);
    let node = first(&mut cluster).await;
    for bad in [&b""[..], b"{", b"null", b"{\"Append\":{}}", &[0xff; 100]] {
        let answer = node.serve(n(1), bad).await;
        assert!(matches!(wire::decode(&answer).unwrap(), Response::Refused(_)));
    }
    let vote = Request::Vote(openraft::raft::VoteRequest::new(openraft::Vote::new(9, n(2)), None));
    let answer = node.serve(n(1), &wire::encode(&vote).unwrap()).await;
    assert!(matches!(wire::decode(&answer).unwrap(), Response::Refused(_)), "a vote for someone else");
    let mut entry = Entry::new(1, n(1), &s::add_target(1, None)).unwrap();
    entry.level += 1;
    let last = node.metrics().last_log;
    assert!(matches!(node.propose_entry(entry).await, Err(ProposeError::Decode(DecodeError::Level(_)))));
    assert_eq!(node.metrics().last_log, last);
}

/// A node that was away while another joined must not refuse it when it leads, or asks for a vote.
#[tokio::test(start_paused = true)]
async fn a_node_whose_log_is_old_learns_of_new_members_from_the_others() {
    let mut led_by_the_new_one = 0;
    for seed in 10..30 {
        let mut cluster = Cluster::new(seed, FAIR);
        let leader = three(&mut cluster).await;
        cluster.crash(3).await;
        cluster.start(4).await;
        leader.add_learner(n(4), Peer::default()).await.unwrap();
        leader.promote(n(4)).await.unwrap();
        cluster.crash(1).await;
        // Two of four are up. The third one is needed, and its log knows nothing of node 4.
        cluster.start(3).await;
        let leader = new_leader(&cluster, &[2, 3, 4]).await;
        led_by_the_new_one += u32::from(leader.node() == n(4));
        leader.propose(5000, &s::add_target(1, None)).await.unwrap();
        alike(&cluster.running()).await;
    }
    assert!(led_by_the_new_one > 2, "{led_by_the_new_one} of 20");
}

/// Found by the simulation: a leader that is started again goes on in its term, and openraft then reads at the commit that
/// it last synced, which is older than what it acknowledged.
#[tokio::test(start_paused = true)]
async fn a_leader_started_again_reads_all_that_it_acknowledged() {
    let mut in_its_old_term = 0;
    for seed in 40..60 {
        let mut cluster = Cluster::new(seed, FAIR);
        let leader = three(&mut cluster).await;
        let term = leader.metrics().term;
        let done = leader.propose(2000, &s::add_target(1, None)).await.unwrap();
        cluster.crash(1).await;
        let again = cluster.start(1).await;
        if let Ok(state) = again.linearizable().await {
            assert!(state.revision >= done.revision, "{} of {}", state.revision, done.revision);
            in_its_old_term += u32::from(again.metrics().term == term && again.leader() == Some(n(1)));
        }
    }
    assert!(in_its_old_term > 5, "{in_its_old_term} of 20");
}
