//! Short runs, on each change. `chaos-tests simulate` runs many more.

use super::*;

/// Ten seeds of five minutes.
#[test]
fn zones_survive_their_troubles() {
    let mut total = Report::default();
    for seed in 0..SEEDS {
        let report = simulate(Plan { minutes: 5, ..Plan::of(seed) });
        assert_eq!(report.broken, None, "chaos-tests simulate --minutes 5 --seed {seed}");
        total.add(&report);
    }
    println!("{:.2} cluster-hours: {total:#?}", total.hours());
    // A planned fault that never happened, or an outcome that never came, would prove nothing.
    for fault in [
        "change of loss and delay",
        "clock jump",
        "crash",
        "crash of all nodes",
        "crash of the leader",
        "disk failure",
        "disk lost for good",
        "entry of a newer release",
        "leader started again at once",
        "messages doubled",
        "messages lost",
        "node added",
        "node removed",
        "node stands still",
        "one-way cut",
        "partition",
        "power lost in the middle of a write",
    ] {
        assert!(total.faults.get(fault).is_some_and(|n| *n > 0), "no {fault}");
    }
    for work in [
        "acknowledged to clients",
        "checkpoints begun",
        "checkpoints finished",
        "claims",
        "copies stored",
        "heads published",
        "leases ended",
        "leftovers removed",
        "linearizable reads",
        "nodes removed",
        "sectors sealed",
        "sectors staged",
        "snapshots",
        "unknown to clients",
    ] {
        assert!(total.work.get(work).is_some_and(|n| *n > 0), "no {work}");
    }
}

const SEEDS: u64 = 10;

#[test]
fn seeds_that_once_failed_do_not_fail_again() {
    for seed in regressions() {
        assert_eq!(simulate(Plan::of(*seed)).broken, None, "seed {seed}");
    }
}

#[test]
fn a_seed_gives_the_same_run_each_time_on_any_thread() {
    let run = |seed| std::thread::spawn(move || simulate(Plan { minutes: 3, ..Plan::of(seed) }));
    let (a, b, other) = (run(1), run(1), run(4));
    let (a, b, other) = (a.join().unwrap(), b.join().unwrap(), other.join().unwrap());
    assert_eq!(a, b);
    assert_ne!(a.trace, other.trace);
}

/// Each planted mistake is found, and by an invariant that names what is wrong.
#[test]
fn planted_mistakes_are_found() {
    let halves: Vec<_> = (0..2).map(|half| std::thread::spawn(move || not_found(half))).collect();
    let bad: Vec<String> = halves.into_iter().flat_map(|h| h.join().unwrap()).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

/// Plants every second mistake.
fn not_found(half: usize) -> Vec<String> {
    let mut bad = Vec::new();
    for bug in Bug::ALL.into_iter().skip(half).step_by(2) {
        match planted(bug) {
            Some(Caught { broken: b, seeds, .. }) => {
                let what: String = b.what.chars().take(200).collect();
                println!("{bug:?}: {} in {seeds} seeds: {what}", b.invariant);
                if !found_by(bug).contains(&b.invariant) {
                    bad.push(format!("{bug:?}: {} {what}", b.invariant));
                }
            }
            None => bad.push(format!("{bug:?} was not found")),
        }
    }
    assert_eq!(simulate(Plan { minutes: 1, ..Plan::of(0) }).broken, None, "nothing stays planted");
    bad
}

/// The invariants that may find a mistake first: which of them does is up to the seed.
fn found_by(bug: Bug) -> &'static [&'static str] {
    match bug {
        Bug::AckBeforeSync | Bug::VoteForgotten => &["C6"],
        Bug::LeaseUnchecked | Bug::GrantedTwice | Bug::ReportUnfenced => &["C3"],
        Bug::CopyBeforeSeal => &["D3"],
        Bug::FollowerRead | Bug::RestoredRead | Bug::RetriedBlindly => &["C2"],
        Bug::LocalClock | Bug::AppliedTwice | Bug::SnapshotWithoutLeases => &["C5"],
        Bug::UnknownSkipped => &["C8"],
        Bug::OldStartClaims => &["C7"],
        // What a removed node holds, nobody takes from it: the zone does not come to rest.
        Bug::RemovedClaims => &["C7", "L1"],
        Bug::WipedReturns => &["C1", "C6", "C7"],
        Bug::SealedForgotten => &["C4"],
        Bug::OpenHandedOn => &["D5", "C3", "C4"],
    }
}
