use proptest::prelude::*;

use super::*;
use crate::apply::Outcome;
use crate::command::Command;
use crate::model::CheckpointKind;
use crate::samples::{self as s, all_done, hash};

fn after(commands: &[Command]) -> State {
    let mut state = State::default();
    all_done(&mut state, commands);
    state
}

/// Does what is planned, except on targets that do not answer. Ids of new things continue from `fresh`.
fn obey(state: &mut State, work: Work, fresh: &mut u8, dead: &[TargetId]) {
    *fresh += 1;
    let n = *fresh;
    let number = |t: TargetId| t.0[15];
    match work {
        Work::ResumeCheckpoint { .. } | Work::Pack { .. } | Work::StoreCheckpoint { .. } | Work::Stage { .. } => {}
        Work::Audit { .. } => panic!("audits are planned by themselves"),
        Work::RemoveIncoming { target, .. } | Work::Copy { target, .. } | Work::Publish { target }
            if dead.contains(&target) => {}
        Work::RemoveIncoming { copy, .. } => all_done(state, &[Command::AbandonCopy { copy }]),
        Work::Copy { sector, target } => {
            let store = Command::StoreCopy { copy: s::copy(n), stored_len: 1, stored_id: None };
            all_done(state, &[s::open_copy(n, sector.0[15], number(target)), store]);
        }
        Work::WriteSystem { checkpoint } => {
            let wanted = state.targets.len() as u8;
            let c = checkpoint.0[15];
            all_done(state, &[s::open_sector(n, c, true, wanted), s::open_copy(n, n, 1), s::seal(n, n, &[])]);
        }
        Work::Publish { target } => {
            let newest = newest_system(state).map(|n| (n.id, n.checkpoint)).unwrap();
            if state.head.as_ref().is_none_or(|h| h.sector != newest.0) {
                let next = state.head.as_ref().map_or(1, |h| h.n + 1);
                all_done(state, &[s::head(next, newest.0.0[15], newest.1.0[15])]);
            }
            let n = state.head.as_ref().map_or(0, |h| h.n);
            all_done(state, &[Command::PublishedPointer { target, n, hash: Default::default() }]);
        }
        Work::FinishCheckpoint { checkpoint } => all_done(state, &[Command::FinishCheckpoint { checkpoint }]),
    }
}

/// Rounds until nothing is planned that can be done.
fn settle(state: &mut State, dead: &[TargetId]) -> usize {
    let mut fresh = 100;
    for round in 0..20 {
        let before = hash(state);
        for work in plan(state, 0) {
            obey(state, work, &mut fresh, dead);
        }
        if hash(state) == before {
            return round;
        }
    }
    panic!("planning does not end: {:?}", plan(state, 0));
}

fn backed_up() -> Vec<Command> {
    let mut v = s::begin();
    v.extend(s::backup(1, CheckpointKind::Full, 1, true));
    v
}

#[test]
fn nothing_is_planned_where_nothing_is_to_be_done() {
    assert_eq!(plan(&State::default(), 0), []);
    assert_eq!(plan(&after(&s::begin()), 0), []);
}

#[test]
fn a_stored_checkpoint_gets_copies_system_data_and_heads_and_then_rests() {
    let mut state = after(&backed_up());
    assert_eq!(plan(&state, 0), plan(&state, 0));
    let first = plan(&state, 0);
    assert!(first.contains(&Work::Copy { sector: s::sector(1), target: s::target(2) }), "{first:?}");
    assert!(first.contains(&Work::WriteSystem { checkpoint: s::checkpoint(1) }), "{first:?}");
    settle(&mut state, &[]);
    assert_eq!(plan(&state, 0), []);
    assert_eq!(state.checkpoints[&s::checkpoint(1)].state, CheckpointState::Published);
    let stored = |sector| state.copies.values().filter(|c| c.sector == sector && c.is_stored()).count();
    assert_eq!(stored(s::sector(1)), 2);
    // Targets 2 and 3 share a domain: the system data is on one of them.
    assert_eq!(newest_system(&state).map(|n| stored(n.id)), Some(2));
    assert_eq!(state.head.as_ref().map(|h| h.n), Some(1));
}

#[test]
fn a_cut_run_is_to_be_resumed_and_its_leftovers_removed() {
    let mut v = s::begin();
    v.extend([s::open_checkpoint(1, CheckpointKind::Full, &[1]), s::open_sector(1, 1, false, 1)]);
    v.push(s::open_copy(1, 1, 1));
    let (checkpoint, source) = (s::checkpoint(1), s::source(1));
    assert_eq!(plan(&after(&v), 0), [Work::ResumeCheckpoint { checkpoint }, Work::Pack { checkpoint, source }]);
    v.push(Command::AbandonCheckpoint { checkpoint: s::checkpoint(1) });
    assert_eq!(plan(&after(&v), 0), [Work::RemoveIncoming { target: s::target(1), copy: s::copy(1) }]);
}

#[test]
fn paused_targets_get_nothing_and_lost_copies_are_made_again() {
    let mut v = backed_up();
    v.push(Command::SetTarget { target: s::target(2), paused: Some(true), owner_key_hash: None });
    let mut state = after(&v);
    settle(&mut state, &[]);
    assert!(state.copies.values().all(|c| c.target != s::target(2)));
    let copy = state.copies.values().find(|c| c.sector == s::sector(1) && c.target == s::target(3)).unwrap().id;
    all_done(&mut state, &[Command::MarkCopy { copy, state: CopyState::Lost }]);
    assert_eq!(plan(&state, 0), [Work::Copy { sector: s::sector(1), target: s::target(3) }]);
    // Where no copy is left there is nothing to copy from.
    for copy in state.copies.values().filter(|c| c.is_stored()).map(|c| c.id).collect::<Vec<_>>() {
        all_done(&mut state, &[Command::MarkCopy { copy, state: CopyState::Damaged }]);
    }
    assert!(!plan(&state, 0).iter().any(|w| matches!(w, Work::Copy { .. })));
}

#[test]
fn what_nothing_is_left_of_is_named_with_its_source_and_no_copy_of_it_is_gone_on_with() {
    let mut state = after(&backed_up());
    settle(&mut state, &[]);
    assert_eq!((state.gone().len(), state.lacking()), (0, Vec::new()));
    let held: Vec<_> = state.copies.values().filter(|c| c.sector == s::sector(1)).map(|c| c.id).collect();
    all_done(&mut state, &[Command::MarkCopy { copy: held[0], state: CopyState::Lost }]);
    assert!(state.gone().is_empty(), "another copy is left");
    let place = state.copies[&held[0]].target.0[15];
    all_done(&mut state, &[s::open_copy(90, 1, place)]);
    for copy in &held[1..] {
        all_done(&mut state, &[Command::MarkCopy { copy: *copy, state: CopyState::Damaged }]);
    }
    assert_eq!(state.lacking(), [(s::source(1), [s::sector(1)].into())]);
    assert!(!plan(&state, 0).iter().any(|w| matches!(w, Work::Copy { sector, .. } if *sector == s::sector(1))));
    // A full backup needs it no more.
    all_done(&mut state, &s::backup(50, CheckpointKind::Full, 1, true));
    assert_eq!((state.gone().len(), state.lacking()), (1, Vec::new()));
    // A source that is removed is nobody's to read.
    let mut gone = state.clone();
    let lost: Vec<_> = gone.copies.values().filter(|c| c.sector == s::sector(50)).map(|c| c.id).collect();
    for copy in lost {
        all_done(&mut gone, &[Command::MarkCopy { copy, state: CopyState::Lost }]);
    }
    assert_eq!(gone.lacking().len(), 1);
    all_done(&mut gone, &[Command::RemoveSource { source: s::source(1) }]);
    assert!(gone.lacking().is_empty());
}

#[test]
fn a_copy_goes_where_some_node_can_bring_it() {
    let mut state = after(&backed_up());
    let to = |state: &State| {
        let plan = plan(state, 0);
        let copy = plan.iter().find_map(|w| match w {
            Work::Copy { sector, target } if *sector == s::sector(1) => Some(target.0[15]),
            _ => None,
        });
        copy.unwrap()
    };
    assert_eq!(to(&state), 2, "by number where nobody says what is reached");
    state.targets.get_mut(&s::target(3)).unwrap().reached_by.insert(s::node());
    assert_eq!(to(&state), 3);
}

#[test]
fn work_under_way_is_not_planned_again_until_nobody_holds_it() {
    let mut v = backed_up();
    let (sector, target) = (s::sector(1), s::target(2));
    let copies = |state: &State| {
        let all = plan(state, 0);
        all.into_iter().filter(|w| matches!(w, Work::Copy { .. })).collect::<Vec<_>>()
    };
    assert_eq!(copies(&after(&v)), [Work::Copy { sector, target }]);
    v.push(Command::StartNode { incarnation: 1, version: "1".into() });
    v.push(Command::Claim { incarnation: 1, work: vec![Work::Copy { sector, target }] });
    let epoch = after(&v).revision;
    v.push(Command::Under { epoch, command: Box::new(s::open_copy(2, 1, 2)) });
    assert_eq!(copies(&after(&v)), []);
    v.push(Command::EndLease { epoch });
    assert_eq!(copies(&after(&v)), [Work::Copy { sector, target }], "the next holder goes on with it");
}

/// A target that does not answer must keep nothing from the others.
#[test]
fn a_dead_target_does_not_keep_system_data_from_the_others() {
    let mut v = s::begin();
    v.push(s::add_target(4, None));
    v.extend(s::backup(1, CheckpointKind::Full, 1, true));
    let mut state = after(&v);
    let dead = [s::target(2)];
    settle(&mut state, &dead);
    let system = newest_system(&state).map(|n| n.id).unwrap();
    let has = |t| state.copies.values().any(|c| c.sector == system && c.target == t && c.is_stored());
    assert!(has(s::target(1)) && has(s::target(4)), "{:?}", plan(&state, 0));
    assert_eq!(state.targets[&s::target(4)].pointer.map(|p| p.n), Some(1));
}

#[test]
fn a_round_is_bounded_and_every_target_has_a_share() {
    let mut state = after(&backed_up());
    let (sector, copy) = (state.sectors[&s::sector(1)].clone(), state.copies[&s::copy(1)].clone());
    for n in 0..2000u32 {
        let (mut s1, mut c1) = (sector.clone(), copy.clone());
        s1.id.0[..4].copy_from_slice(&(n + 1).to_be_bytes());
        c1.id.0[..4].copy_from_slice(&(n + 1).to_be_bytes());
        (c1.sector, s1.copies_wanted) = (s1.id, 3);
        state.sectors.insert(s1.id, s1);
        let mut gone = c1.clone();
        gone.id.0[4] = 1;
        (gone.state, gone.target) = (CopyState::Abandoned, s::target(2));
        state.copies.extend([(c1.id, c1), (gone.id, gone)]);
    }
    all_done(&mut state, &[s::add_target(4, None)]);
    let work = plan(&state, 0);
    assert!(work.len() <= PLAN_MAX, "{}", work.len());
    let to = |t| work.iter().filter(|w| matches!(w, Work::Copy { target, .. } if *target == t)).count();
    assert!(to(s::target(2)) > 0 && to(s::target(4)) > 0);
    assert!(work.contains(&Work::WriteSystem { checkpoint: s::checkpoint(1) }));
}

/// What only a packer or the leader of daemons does.
fn of_packing(w: &Work) -> bool {
    matches!(w, Work::ResumeCheckpoint { .. } | Work::Pack { .. } | Work::StoreCheckpoint { .. })
}

proptest! {
    #[test]
    fn what_is_planned_can_be_done_and_comes_to_an_end(story in s::any_story()) {
        let mut state = State::default();
        for command in &story {
            let index = state.revision + 1;
            let (outcome, _) = crate::apply::apply(&mut state, index, 1000, s::node(), command);
            let _: Outcome = outcome;
        }
        // Only what a run left open is between this state and one that rests.
        let open: Vec<_> = state.copies.values().filter(|c| c.state == CopyState::Open).map(|c| c.id).collect();
        for copy in open {
            all_done(&mut state, &[Command::AbandonCopy { copy }]);
        }
        if state.targets.contains_key(&s::target(1)) {
            settle(&mut state, &[]);
            let left: Vec<Work> =
                plan(&state, 0).into_iter().filter(|w| !of_packing(w)).collect();
            prop_assert!(left.is_empty(), "{left:?}");
        }
    }
}
