//! How long a zone is without a leader, and what must not take a leader away.

use super::*;
use crate::raft::net::Weather;

/// From the leader's power cut to the first command that counts again, over many seeds.
#[tokio::test(start_paused = true)]
async fn a_lost_leader_is_replaced_in_well_under_two_seconds() {
    let mut took = Vec::new();
    for seed in 100..140 {
        let mut cluster = Cluster::new(seed, FAIR);
        three(&mut cluster).await;
        sleep(Duration::from_millis(3000 + 37 * (seed - 100))).await;
        cluster.crash(1).await;
        let begun = tokio::time::Instant::now();
        let nodes = [cluster.node(2), cluster.node(3)];
        'lost: loop {
            for node in &nodes {
                if node.propose(3000, &s::add_target(2, None)).await.is_ok() {
                    break 'lost;
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
        took.push(begun.elapsed().as_millis());
    }
    took.sort_unstable();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!("leader lost to next commit: median {median} ms, longest {most} ms");
    assert!(median < 1_500 && most < 4_000, "{took:?}");
}

/// Ten minutes on long lines, with some loss: the leader stays.
#[tokio::test(start_paused = true)]
async fn long_lines_do_not_unseat_a_leader() {
    for seed in 140..146 {
        let mut cluster = Cluster::new(seed, FAIR);
        let leader = three(&mut cluster).await;
        let term = leader.metrics().term;
        cluster.net.calm(Weather { delay_us: (30_000, 50_000), lost: 2, ..FAIR });
        let mut written = 0;
        for k in 0..600 {
            sleep(Duration::from_secs(1)).await;
            written += u32::from(leader.propose(3000 + k, &s::put_source(1, b"/home/ann", 17)).await.is_ok());
        }
        assert_eq!((leader.metrics().term, leader.metrics().role), (term, Role::Leader), "seed {seed}");
        assert_eq!(written, 600, "seed {seed}");
        assert!(leader.linearizable().await.is_ok(), "seed {seed}");
    }
}

/// The longest command takes seconds on a slow line: far longer than a follower waits for a word of its leader.
#[tokio::test(start_paused = true)]
async fn a_long_command_on_a_slow_line_keeps_its_leader() {
    for seed in 150..154 {
        let mut cluster = Cluster::new(seed, FAIR);
        let leader = three(&mut cluster).await;
        let term = leader.metrics().term;
        // 4 Mbit/s.
        cluster.net.calm(Weather { delay_us: (5_000, 20_000), rate: 500, ..FAIR });
        let warning = "x".repeat(limits::WARNING_LEN_MAX);
        let stats = crate::model::TaskStats::default();
        let long = Command::FinishTask {
            checkpoint: s::checkpoint(1),
            source: s::source(1),
            stats,
            warnings: vec![warning; 1500],
            ground: None,
            entries: 1,
        };
        let begun = tokio::time::Instant::now();
        assert!(leader.propose(3000, &long).await.is_ok(), "seed {seed}");
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(2), "{took:?}: it was no slow line");
        sleep(Duration::from_secs(20)).await;
        assert_eq!((leader.metrics().term, leader.metrics().role), (term, Role::Leader), "seed {seed}");
        alike(&cluster.running()).await;
    }
}
