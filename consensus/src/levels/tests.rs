//! Zones are built by commands, as nodes would send them; each case says both levels and why.

mod cases;
mod zone;

use proptest::prelude::*;

use super::*;
use crate::apply::apply;
use crate::model::CopyState;
use crate::samples as s;
use zone::{Z, n};

/// The first word of a cause: its kind.
fn kind(cause: &Cause) -> String {
    let text = format!("{cause:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

#[test]
fn the_cases_come_out_as_the_table_says() {
    assert!(cases::CASES.len() >= 40, "{}", cases::CASES.len());
    let mut wrong = Vec::new();
    for c in cases::CASES {
        let mut z = Z::new();
        (c.build)(&mut z);
        let l = z.levels();
        let got =
            (l.reliability.number, kind(&l.reliability.reason), l.availability.number, kind(&l.availability.reason));
        let want = (c.r, c.why_r.to_owned(), c.a, c.why_a.to_owned());
        let all = l.reliability.also.iter().chain(&l.availability.also).map(|f| kind(&f.cause));
        let all: Vec<String> = all.collect();
        if got != want || !c.also.iter().all(|k| all.iter().any(|a| a == k)) {
            wrong.push(format!("{}: {got:?}, not {want:?}; also {all:?}, wanted {:?}", c.name, c.also));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_level_is_in_the_table() {
    for number in 1..=7 {
        assert!(cases::CASES.iter().any(|c| c.r == number), "reliability {number}");
        assert!(cases::CASES.iter().any(|c| c.a == number), "availability {number}");
    }
}

#[test]
fn the_time_of_the_zone_counts_for_ages_and_not_for_who_was_heard() {
    let mut z = Z::good();
    let ahead = z.now + 30 * zone::HOUR;
    // A node whose clock is ahead brought a command through.
    let index = z.state.revision + 1;
    let _ = apply(&mut z.state, index, ahead, n(2), &s::open_checkpoint(99, crate::model::CheckpointKind::Full, &[1]));
    let l = z.levels();
    assert_eq!((l.reliability.number, kind(&l.reliability.reason)), (3, "Stale".into()));
    assert_eq!((l.availability.number, kind(&l.availability.reason)), (1, "AllWorks".into()));
}

#[test]
fn what_cannot_be_read_is_named_source_by_source() {
    let mut z = Z::good();
    z.source(2, 0, &[1]);
    z.unread = 3;
    z.backup(&[1, 2], &[1, 2]);
    let l = z.levels().reliability;
    let named: Vec<_> = std::iter::once(&l.reason)
        .chain(l.also.iter().map(|f| &f.cause))
        .filter_map(|c| match c {
            Cause::Unread { source, paths: 3, first } if first == "a: denied" => Some(source.path.clone()),
            _ => None,
        })
        .collect();
    assert_eq!((l.number, named), (2, vec![b"/s1".to_vec(), b"/s2".to_vec()]));
}

#[test]
fn a_node_that_is_down_gets_the_advice_that_fits_what_it_is() {
    let next = |build: fn(&mut Z)| {
        let mut z = Z::good();
        build(&mut z);
        z.levels().availability.reason.next()
    };
    let node = || "n3".to_owned();
    assert_eq!(next(|z| z.silent(3)), Next::StartNode { node: node() });
    assert_eq!(next(|z| z.standing(3, Standing::Faulty)), Next::ReplaceNode { node: node() });
    let witness = |z: &mut Z| {
        z.standing(3, Standing::Witness);
        z.silent(3);
    };
    // Nobody can mark a witness faulty.
    assert_eq!(next(witness), Next::StartWitness { node: node() });
}

#[test]
fn damage_is_shown_until_it_is_healed() {
    let shown = |z: &Z| z.levels().reliability.also.iter().any(|f| matches!(f.cause, Cause::CopiesDamaged { .. }));
    let mut z = Z::good();
    assert!(!shown(&z));
    z.mark(0, 1, CopyState::Damaged);
    assert!(shown(&z));
    // Time and further backups that add nothing to it do not hide it.
    z.now += zone::HOUR;
    z.backup(&[1], &[1, 2]);
    assert!(shown(&z));
    let sector = z.sector(0);
    z.copy(sector, 1);
    assert!(!shown(&z));
}

#[test]
fn copies_that_nobody_looks_at_are_told_of() {
    let found = |z: &Z| {
        let levels = z.levels();
        let mut all = levels.reliability.also.iter().map(|f| f.cause.clone());
        all.find(|c| matches!(c, Cause::Unaudited { .. }))
    };
    let mut z = Z::good();
    z.now += 13 * 24 * zone::HOUR;
    assert_eq!(found(&z), None);
    z.now += 2 * 24 * zone::HOUR;
    assert_eq!(found(&z), Some(Cause::Unaudited { copies: 4, target: "t1".into() }));
    let one = z.state.copies.values_mut().find(|c| c.is_stored()).unwrap();
    one.audited_ms = Some(z.now);
    assert!(matches!(found(&z), Some(Cause::Unaudited { copies: 3, .. })));
}

#[test]
fn a_full_backup_is_the_way_out_when_no_copy_is_left() {
    let mut z = Z::good();
    z.mark(0, 1, CopyState::Damaged);
    z.mark(0, 2, CopyState::Lost);
    let l = z.levels().reliability;
    assert_eq!((l.number, &l.reason.next()), (5, &Next::StoreAnew));
    z.backup(&[1], &[1, 2]);
    assert_eq!(z.levels().reliability.number, 5, "what did not change was not stored anew");
    z.kind = crate::model::CheckpointKind::Full;
    z.backup(&[1], &[1, 2]);
    let l = z.levels();
    assert_eq!((l.reliability.number, l.availability.number), (1, 1));
    assert!(l.reliability.also.iter().any(|f| matches!(f.cause, Cause::OlderDamaged { sectors: 1 })));
}

/// Something that can only help.
#[derive(Clone, Debug)]
enum More {
    /// A copy of the sector of this number, on the target of this number.
    Copy(usize, u8),
    Target(Option<u8>),
    Node {
        voter: bool,
    },
}

fn more() -> impl Strategy<Value = More> {
    prop_oneof![
        4 => (0usize..20, 1u8..6).prop_map(|(s, t)| More::Copy(s, t)),
        2 => proptest::option::of(0u8..3).prop_map(More::Target),
        1 => any::<bool>().prop_map(|voter| More::Node { voter }),
    ]
}

fn add(z: &mut Z, more: &More) {
    match more {
        More::Copy(sector, target) => {
            let sealed: Vec<_> = z.state.sectors.values().filter(|x| x.is_sealed()).map(|x| x.id).collect();
            if let Some(id) = sealed.get(sector % sealed.len().max(1)) {
                z.try_copy(*id, *target);
            }
        }
        More::Target(domain) => {
            let free = (1..9).find(|t| !z.state.targets.contains_key(&s::target(*t)));
            let domain = domain.map(|d| ["site", "uncle", "bank"][usize::from(d)]);
            if let Some(t) = free {
                z.target(t, "file", domain);
            }
        }
        More::Node { voter } => {
            let free = (1..=7).find(|k| !z.state.nodes.contains_key(&n(*k)));
            // Without a daemon nobody can join.
            if let (Some(k), true) = (free, z.seen.cluster.is_some()) {
                z.node(k, *voter);
            }
        }
    }
}

fn never_worse(mut z: Z, all: &[More]) -> Result<(), TestCaseError> {
    for m in all {
        let before = z.levels();
        add(&mut z, m);
        let after = z.levels();
        prop_assert!(after.reliability.number <= before.reliability.number, "{m:?}: {before:?} became {after:?}");
        prop_assert!(after.availability.number <= before.availability.number, "{m:?}: {before:?} became {after:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn more_is_never_worse(case in 0..cases::CASES.len(), all in proptest::collection::vec(more(), 1..8)) {
        let mut z = Z::new();
        (cases::CASES[case].build)(&mut z);
        never_worse(z, &all)?;
    }

    #[test]
    fn nor_is_it_in_zones_of_any_story(
        story in s::any_story(),
        daemon in any::<bool>(),
        away in proptest::collection::btree_set(0u8..4, 0..3),
        hours in 0u64..400,
        all in proptest::collection::vec(more(), 1..6),
    ) {
        let mut z = Z::empty();
        for c in story {
            let index = z.state.revision + 1;
            let _ = apply(&mut z.state, index, z.now, z.seen.me, &c);
        }
        z.seen.targets = z.state.targets.keys().map(|t| (*t, Answer::Yes)).collect();
        for t in away {
            z.seen.targets.insert(s::target(t), Answer::Away);
        }
        if daemon {
            z.daemon();
        }
        z.now += hours * zone::HOUR;
        z.hear_all();
        let l = z.levels();
        prop_assert!((1..=7).contains(&l.reliability.number) && (1..=7).contains(&l.availability.number));
        never_worse(z, &all)?;
    }
}
