use proptest::prelude::*;
use zoneward_sectors::ids::{LayerId, SourceId};

use super::*;
use crate::model::{CheckpointKind, CheckpointState, CopyState, SectorState, TaskState, default_copies};
use crate::samples::{self as s, all_done, hash};

fn after(commands: &[Command]) -> State {
    let mut state = State::default();
    all_done(&mut state, commands);
    state
}

fn layers(state: &State, checkpoint: u8, source: u8) -> Vec<LayerId> {
    let task = state.checkpoints[&s::checkpoint(checkpoint)].tasks.iter().find(|t| t.source == s::source(source));
    task.map(|t| t.layers.clone()).unwrap_or_default()
}

/// A refusal changes nothing but the number of the entry, and touches no record.
fn refused(state: &State, command: &Command) -> Refusal {
    let mut after = state.clone();
    let (outcome, rows) = apply(&mut after, state.revision + 1, state.last_time_ms, s::node(), command);
    after.revision = state.revision;
    assert_eq!(hash(&after), hash(state), "{command:?} was refused and changed something");
    assert!(rows.is_empty(), "{command:?} was refused and touched {rows:?}");
    match outcome {
        Outcome::Refused(r) => r,
        Outcome::Done => panic!("{command:?} was not refused"),
    }
}

#[test]
fn the_story_goes_through() {
    let state = s::state();
    let first = &state.checkpoints[&s::checkpoint(1)];
    assert_eq!((first.state, first.seq, first.tasks.len()), (CheckpointState::Published, 1, 1));
    let second = &state.checkpoints[&s::checkpoint(2)];
    assert_eq!((second.state, second.seq), (CheckpointState::Stored, 2));
    let states: Vec<TaskState> = second.tasks.iter().map(|t| t.state).collect();
    assert_eq!(states, [TaskState::Carried, TaskState::Done]);
    assert_eq!(state.checkpoints[&s::checkpoint(4)].state, CheckpointState::Abandoned);
    assert_eq!(state.layers.len(), 2, "layers of what was given up are gone");
    assert_eq!(state.sectors.len(), 3, "the sector that was open when the run was cut is gone");
    assert_eq!(state.copies[&s::copy(11)].state, CopyState::Lost);
    assert_eq!(state.copies[&s::copy(1)].read_ms, state.copies[&s::copy(2)].verified_ms);
    assert_eq!(state.sources[&s::source(1)].last_entries, 8);
    assert_eq!((state.next_seq, state.revision), (5, s::story().len() as u64));
}

#[test]
fn refusals_say_why_and_change_nothing() {
    use Refusal::{Differs, Exists, NoZone, Range, SameTarget, Unknown, ZoneExists};
    let running = |more: &[Command]| {
        let mut v = s::begin();
        v.extend([s::open_checkpoint(1, CheckpointKind::Full, &[1]), s::open_layer(1, 1, 1, true)]);
        v.extend([s::open_sector(1, 1, false, 2), s::open_copy(1, 1, 1)]);
        v.extend_from_slice(more);
        after(&v)
    };
    let (empty, begun, open, end) = (State::default(), after(&s::begin()), running(&[]), s::state());
    let full = CheckpointKind::Full;
    let mark = |k, state| Command::MarkCopy { copy: s::copy(k), state };
    let zone = |name: Option<&str>, min, level| Command::SetZone {
        name: name.map(str::to_owned),
        sector_min_log2: min,
        zstd_level: level,
    };
    let cases: Vec<(&State, Command, Refusal)> = vec![
        (&empty, s::add_target(1, None), NoZone),
        (&begun, s::create_zone(), ZoneExists),
        (&begun, s::add_target(1, None), Exists("a target of this name or URL")),
        (&begun, zone(Some(""), None, None), Range("the name")),
        (&begun, zone(Some("a\nb"), None, None), Range("the name")),
        (&begun, zone(None, Some(11), None), Range("the sector class")),
        (&begun, zone(None, Some(37), None), Range("the sector class")),
        (&begun, zone(Some("good"), None, Some(0)), Range("the compression level")),
        (&begun, s::put_source(3, b"relative", 0), Range("the source's path")),
        (&begun, s::put_source(3, b"/a\0b", 0), Range("the source's path")),
        (&begun, s::put_source(3, b"/a", 51), Range("the priority")),
        (&begun, s::put_source(3, b"/home/ann", 0), Exists("a source of this path")),
        (&begun, s::put_source(1, b"/elsewhere", 0), Differs("the source's path")),
        (&begun, Command::RemoveSource { source: s::source(9) }, Unknown("the source")),
        (&begun, s::open_checkpoint(1, full, &[]), Unknown("a source")),
        (&begun, s::open_checkpoint(1, full, &[1, 9]), Unknown("a source")),
        (&begun, s::store(1), Unknown("the checkpoint")),
        (&begun, s::head(1, 1, 1), Unknown("the system sector")),
        (&open, s::open_checkpoint(1, full, &[1]), Exists("the checkpoint")),
        (&open, s::open_checkpoint(2, full, &[1]), Refusal::State("another checkpoint that is still running")),
        (&open, s::open_layer(1, 1, 1, true), Exists("the layer")),
        (&open, s::open_layer(2, 1, 2, true), Unknown("the task")),
        (&open, s::open_sector(1, 1, false, 1), Exists("the sector")),
        (&open, s::open_sector(2, 1, true, 1), Refusal::State("the checkpoint")),
        (&open, s::open_sector(2, 1, false, 0), Range("the sector's class or number of copies")),
        (&open, s::open_copy(1, 1, 2), Exists("the copy")),
        (&open, s::open_copy(2, 1, 1), SameTarget),
        (&open, s::open_copy(2, 1, 9), Unknown("the target")),
        (&open, s::store(1), Refusal::State("the checkpoint")),
        (&open, Command::StoreCopy { copy: s::copy(1), stored_len: 1, stored_id: None }, Refusal::State("the copy")),
        (&open, Command::FinishCheckpoint { checkpoint: s::checkpoint(1) }, Refusal::State("the checkpoint")),
        (&open, mark(1, CopyState::Lost), Refusal::State("the copy")),
        (&end, mark(1, CopyState::Open), Refusal::State("the copy")),
        (&end, mark(1, CopyState::Abandoned), Refusal::State("the copy")),
        (&end, s::finish_task(1, 1), Refusal::State("the task")),
        (&end, s::open_layer(9, 1, 1, true), Refusal::State("the task")),
        (&end, s::open_sector(9, 1, false, 1), Refusal::State("the checkpoint")),
        (&end, Command::ResumeCheckpoint { checkpoint: s::checkpoint(1) }, Refusal::State("the checkpoint")),
        (&end, Command::AbandonCheckpoint { checkpoint: s::checkpoint(1) }, Refusal::State("the checkpoint")),
        (&end, Command::AbandonSector { sector: s::sector(1) }, Refusal::State("the sector")),
        (&end, Command::AbandonCopy { copy: s::copy(1) }, Refusal::State("the copy")),
        (&end, s::head(1, 20, 1), Range("the head's number")),
        (&end, s::head(2, 1, 1), Refusal::State("the system sector")),
        (&end, s::head(2, 20, 2), Differs("the system sector's checkpoint")),
        (
            &end,
            Command::PublishedPointer { target: s::target(1), n: 2, hash: Default::default() },
            Range("the head's number"),
        ),
    ];
    for (state, command, why) in cases {
        assert_eq!(refused(state, &command), why, "{command:?}");
    }
}

#[test]
fn a_task_must_end_and_a_sector_be_sealed_before_a_checkpoint_is_stored() {
    let mut v = s::begin();
    v.extend([s::open_checkpoint(1, CheckpointKind::Full, &[1]), s::open_layer(1, 1, 1, true)]);
    assert_eq!(refused(&after(&v), &s::store(1)), Refusal::State("the checkpoint"));
    v.extend([s::open_sector(1, 1, false, 1), s::finish_task(1, 1)]);
    assert_eq!(refused(&after(&v), &s::store(1)), Refusal::State("a sector of the checkpoint"));
    v.extend([Command::AbandonSector { sector: s::sector(1) }, s::store(1)]);
    let state = after(&v);
    assert_eq!(layers(&state, 1, 1), [], "a layer that holds nothing leaves the chain");
    assert!(state.layers.is_empty());
}

#[test]
fn parts_continue_their_layers_and_lie_in_the_sector() {
    let mut v = s::begin();
    v.extend([s::open_checkpoint(1, CheckpointKind::Full, &[1]), s::open_layer(1, 1, 1, true)]);
    v.extend([s::open_sector(1, 1, false, 1), s::open_copy(1, 1, 1)]);
    let state = after(&v);
    let differs = Refusal::Differs("a part of a layer");
    let p = |n| s::part(1, n);
    assert_eq!(refused(&state, &s::seal(1, 1, &[(1, p(1))])), differs, "a gap");
    assert_eq!(refused(&state, &s::seal(1, 1, &[(1, p(0)), (1, p(0))])), differs, "the same part twice");
    assert_eq!(refused(&state, &s::seal(1, 1, &[(1, p(0)), (1, p(2))])), differs, "a gap after a part");
    assert_eq!(refused(&state, &s::seal(1, 1, &[(1, s::part(2, 0))])), differs, "another sector's part");
    assert_eq!(refused(&state, &s::seal(1, 1, &[(7, p(0))])), Refusal::Unknown("a layer"));
    let mut far = p(0);
    far.offset = 901;
    assert_eq!(refused(&state, &s::seal(1, 1, &[(1, far)])), Refusal::Range("a part of a layer"));
    far.offset = u64::MAX;
    assert_eq!(refused(&state, &s::seal(1, 1, &[(1, far)])), Refusal::Range("a part of a layer"));
    let mut long = s::seal(1, 1, &[]);
    if let Command::SealSector { raw_len, .. } = &mut long {
        *raw_len = (1 << 20) + 1;
    }
    assert_eq!(refused(&state, &long), Refusal::Range("the sector's length"));
    v.push(s::seal(1, 1, &[(1, p(0)), (1, p(1))]));
    let state = after(&v);
    assert_eq!(state.layers[&s::layer(1)].parts, [p(0), p(1)]);
    assert_eq!(state.sectors[&s::sector(1)].state, SectorState::Sealed);
    assert_eq!(state.copies[&s::copy(1)].state, CopyState::Stored);
    assert_eq!(refused(&state, &s::seal(1, 1, &[])), Refusal::State("the sector"), "sealing counts once");
}

#[test]
fn a_layer_of_an_earlier_checkpoint_takes_no_more_parts() {
    let mut v = s::begin();
    v.extend(s::backup(1, CheckpointKind::Full, 1, true));
    v.extend([s::open_checkpoint(2, CheckpointKind::Incremental, &[1]), s::open_sector(2, 2, false, 1)]);
    v.push(s::open_copy(2, 2, 1));
    let late = s::seal(2, 2, &[(1, s::part(2, 1))]);
    assert_eq!(refused(&after(&v), &late), Refusal::Differs("a part of a layer"));
}

#[test]
fn each_kind_of_backup_builds_on_its_base() {
    use CheckpointKind::*;
    let mut v = s::begin();
    v.extend(s::backup(1, Incremental, 1, true));
    v.extend(s::backup(2, Incremental, 1, false));
    let state = after(&v);
    assert_eq!(layers(&state, 2, 1), [s::layer(1), s::layer(2)]);
    assert_eq!(state.base_chain(s::source(1), Incremental), [s::layer(1), s::layer(2)]);
    assert_eq!(state.base_chain(s::source(1), Differential), [s::layer(1)]);
    assert_eq!(state.base_chain(s::source(1), Full), []);
    assert_eq!(state.base_chain(s::source(2), Incremental), [], "it was never backed up");
    v.extend(s::backup(3, Differential, 1, false));
    assert_eq!(layers(&after(&v), 3, 1), [s::layer(1), s::layer(3)]);
    v.extend(s::backup(4, Incremental, 1, true));
    let state = after(&v);
    assert_eq!(layers(&state, 4, 1), [s::layer(4)], "a whole catalog needs nothing before it");
    assert_eq!(layers(&state, 2, 1), [s::layer(1), s::layer(2)], "earlier checkpoints keep theirs");
}

#[test]
fn sources_that_are_not_asked_for_are_carried_over() {
    let mut v = s::begin();
    v.extend(s::backup(1, CheckpointKind::Full, 1, true));
    v.extend(s::backup(2, CheckpointKind::Full, 2, true));
    v.extend(s::backup(3, CheckpointKind::Incremental, 2, false));
    let state = after(&v);
    let carried = state.checkpoints[&s::checkpoint(3)].tasks[0].clone();
    let first = &state.checkpoints[&s::checkpoint(1)];
    assert_eq!((carried.source, carried.state), (s::source(1), TaskState::Carried));
    assert_eq!((carried.layers, carried.as_of_ms), (vec![s::layer(1)], first.started_ms));
    // A source that the zone forgot is in no later checkpoint.
    v.push(Command::RemoveSource { source: s::source(1) });
    v.extend(s::backup(4, CheckpointKind::Incremental, 2, false));
    let sources: Vec<SourceId> = after(&v).checkpoints[&s::checkpoint(4)].tasks.iter().map(|t| t.source).collect();
    assert_eq!(sources, [s::source(2)]);
}

#[test]
fn a_resumed_checkpoint_keeps_what_is_sealed_and_gives_up_the_rest() {
    let mut v = s::begin();
    v.extend([s::open_checkpoint(1, CheckpointKind::Full, &[1]), s::open_layer(1, 1, 1, true)]);
    v.extend([s::open_sector(1, 1, false, 1), s::open_copy(1, 1, 1), s::seal(1, 1, &[(1, s::part(1, 0))])]);
    v.extend([s::open_layer(2, 1, 1, false), s::open_sector(2, 1, false, 1), s::open_copy(2, 2, 1)]);
    v.push(Command::ResumeCheckpoint { checkpoint: s::checkpoint(1) });
    let state = after(&v);
    assert_eq!(layers(&state, 1, 1), [s::layer(1)], "the sealed layer stays, the empty one goes");
    assert!(!state.sectors.contains_key(&s::sector(2)));
    assert_eq!(state.copies[&s::copy(2)].state, CopyState::Abandoned, "its file is still to be removed");
    assert_eq!(state.copies[&s::copy(1)].state, CopyState::Stored);
    // Resuming twice is resuming once.
    let mut twice = state.clone();
    all_done(&mut twice, &[Command::ResumeCheckpoint { checkpoint: s::checkpoint(1) }]);
    (twice.revision, twice.last_time_ms) = (state.revision, state.last_time_ms);
    assert_eq!(hash(&twice), hash(&state));
    // Once the file is gone, the copy is forgotten.
    v.push(Command::AbandonCopy { copy: s::copy(2) });
    assert!(!after(&v).copies.contains_key(&s::copy(2)));
}

#[test]
fn an_abandoned_checkpoint_leaves_nothing_but_files_to_remove() {
    let mut v = s::begin();
    v.extend(s::backup(1, CheckpointKind::Full, 1, true));
    let before = after(&v);
    v.extend([s::open_checkpoint(2, CheckpointKind::Incremental, &[1]), s::open_layer(2, 2, 1, true)]);
    v.extend([s::open_sector(2, 2, false, 1), s::open_copy(2, 2, 1), s::seal(2, 2, &[(2, s::part(2, 0))])]);
    v.push(Command::AbandonCheckpoint { checkpoint: s::checkpoint(2) });
    let state = after(&v);
    assert_eq!((&state.layers, &state.sectors), (&before.layers, &before.sectors));
    assert_eq!(state.copies[&s::copy(2)].state, CopyState::Abandoned);
    assert_eq!(state.base_chain(s::source(1), CheckpointKind::Incremental), [s::layer(1)]);
    assert_eq!(state.find_checkpoint("latest").unwrap().id, s::checkpoint(1));
}

#[test]
fn copies_of_a_sector_share_neither_target_nor_domain() {
    let mut v = s::begin();
    v.extend(s::backup(1, CheckpointKind::Full, 1, true));
    v.extend([s::open_copy(2, 1, 2), Command::StoreCopy { copy: s::copy(2), stored_len: 1, stored_id: None }]);
    assert_eq!(refused(&after(&v), &s::open_copy(3, 1, 3)), Refusal::SameTarget, "targets 2 and 3 share a cellar");
    let mark = |k, state| Command::MarkCopy { copy: s::copy(k), state };
    v.extend([mark(2, CopyState::Lost), s::open_copy(3, 1, 3)]);
    // The lost one turns up while another has its place.
    assert_eq!(refused(&after(&v), &mark(2, CopyState::Stored)), Refusal::SameTarget);
    v.extend([Command::AbandonCopy { copy: s::copy(3) }, mark(2, CopyState::Stored)]);
    assert_eq!(after(&v).copies[&s::copy(2)].state, CopyState::Stored);
}

#[test]
fn settings_do_not_overwrite_what_backups_learned() {
    let mut v = s::begin();
    v.extend(s::backup(1, CheckpointKind::Full, 1, true));
    let added = after(&v).sources[&s::source(1)].added_ms;
    v.push(s::put_source(1, b"/home/ann", 5));
    let source = after(&v).sources[&s::source(1)].clone();
    assert_eq!((source.priority, source.last_entries, source.added_ms), (5, 8, added));
    assert_eq!(source.grounds.get(&s::node()), Some(&s::ground()));
}

#[test]
fn time_never_runs_backwards_and_numbers_never_wrap() {
    let mut state = after(&s::begin());
    let late = s::open_checkpoint(1, CheckpointKind::Full, &[1]);
    let now = state.last_time_ms;
    assert_eq!(apply(&mut state, 50, 3, s::node(), &late).0, Outcome::Done);
    assert_eq!((state.last_time_ms, state.checkpoints[&s::checkpoint(1)].started_ms), (now, now));
    let mut state = s::state();
    state.next_seq = u64::MAX;
    let next = s::open_checkpoint(9, CheckpointKind::Full, &[1]);
    assert_eq!(refused(&state, &next), Refusal::Range("the checkpoint's number"));
    state.head.as_mut().unwrap().n = u64::MAX;
    assert_eq!(refused(&state, &s::head(0, 20, 1)), Refusal::Range("the head's number"));
}

#[test]
fn warnings_are_bounded() {
    let mut v = s::begin();
    v.push(s::open_checkpoint(1, CheckpointKind::Full, &[1]));
    let mut finish = s::finish_task(1, 1);
    if let Command::FinishTask { warnings, .. } = &mut finish {
        *warnings = vec!["x".into(); WARNINGS + 5];
    }
    v.push(finish);
    assert_eq!(after(&v).checkpoints[&s::checkpoint(1)].tasks[0].warnings.len(), WARNINGS);
}
const WARNINGS: usize = crate::limits::WARNINGS_MAX;

#[test]
fn checkpoints_are_found_by_number_id_and_prefix() {
    use crate::model::NoSuchCheckpoint::*;
    assert_eq!(after(&s::begin()).find_checkpoint("latest"), Err(None));
    let mut state = s::state();
    let id = |text: &str| state.find_checkpoint(text).map(|c| c.id);
    assert_eq!(id("latest"), Ok(s::checkpoint(2)));
    assert_eq!(id("1"), Ok(s::checkpoint(1)));
    assert_eq!(id(&s::checkpoint(2).to_string()), Ok(s::checkpoint(2)));
    assert_eq!(id("0000"), Err(Ambiguous("0000".into())));
    // Given up, unknown, empty, and too short to mean anything.
    for none in ["3", "4", "", "abcd", "é", "18446744073709551616"] {
        assert_eq!(id(none), Err(Unknown(none.into())), "{none}");
    }
    let mut other = state.checkpoints[&s::checkpoint(1)].clone();
    (other.id.0[0], other.seq) = (0xab, 7);
    state.checkpoints.insert(other.id, other.clone());
    assert_eq!(state.find_checkpoint("AB00").map(|c| c.id), Ok(other.id));
}

#[test]
fn default_copies_follow_the_priority_groups() {
    for (priority, copies) in [(50, 3), (10, 3), (9, 2), (0, 2), (-10, 2), (-11, 1), (-50, 1), (-51, 0)] {
        assert_eq!(default_copies(priority), copies, "{priority}");
    }
}

proptest! {
    #[test]
    fn any_commands_give_the_same_state_twice_and_refusals_change_nothing(story in s::any_story()) {
        let (mut one, mut two) = (State::default(), State::default());
        for (i, command) in story.iter().enumerate() {
            let before = one.clone();
            let index = i as u64 + 1;
            let first = apply(&mut one, index, 1000, s::node(), command);
            let second = apply(&mut two, index, 1000, s::node(), command);
            prop_assert_eq!(&first, &second);
            if let Outcome::Refused(why) = first.0 {
                let was = State { revision: index, last_time_ms: one.last_time_ms, ..before };
                prop_assert_eq!(hash(&one), hash(&was), "{:?} refused {:?}", why, command);
                prop_assert!(first.1.is_empty());
            }
        }
        prop_assert_eq!(hash(&one), hash(&two));
        check(&one)?;
    }
}

/// What holds in every state.
fn check(state: &State) -> Result<(), TestCaseError> {
    for c in state.checkpoints.values().filter(|c| c.is_complete()) {
        for l in c.tasks.iter().flat_map(|t| &t.layers) {
            let layer = state.layers.get(l);
            prop_assert!(layer.is_some(), "{} needs the layer {l}", c.id);
            for part in layer.iter().flat_map(|l| &l.parts) {
                prop_assert!(state.sectors.get(&part.sector).is_some_and(|s| s.is_sealed()));
            }
        }
    }
    for l in state.layers.values() {
        prop_assert!(l.parts.iter().enumerate().all(|(i, p)| p.part as usize == i));
    }
    let held: Vec<_> =
        state.copies.values().filter(|k| matches!(k.state, CopyState::Open | CopyState::Stored)).collect();
    for (i, a) in held.iter().enumerate() {
        prop_assert!(!a.is_stored() || state.sectors.get(&a.sector).is_some_and(|s| s.is_sealed()));
        prop_assert!(held.iter().skip(i + 1).all(|b| (a.sector, a.target) != (b.sector, b.target)));
    }
    prop_assert!(state.checkpoints.values().filter(|c| c.state == CheckpointState::Running).count() <= 1);
    Ok(())
}

#[test]
fn a_schedule_begins_each_moment_once() {
    let mut state = s::state();
    let now = state.last_time_ms;
    let at = |state: &mut State, command: &Command| {
        let index = state.revision + 1;
        apply(state, index, now + 10, s::node(), command).0
    };
    assert_eq!(at(&mut state, &s::put_schedule("nightly", &[1])), Outcome::Done);
    let since = state.policy.schedules["nightly"].since_ms;
    let run = |after, due, id, sources: &[u8]| s::run_schedule("nightly", after, due, Some(id), sources);
    assert!(matches!(at(&mut state, &run(0, since, 50, &[1])), Outcome::Refused(_)), "not after it was set");
    assert!(matches!(at(&mut state, &run(0, since + 1, 50, &[1, 2])), Outcome::Refused(_)), "not one of its sources");
    assert!(matches!(at(&mut state, &run(0, since + 1, 50, &[])), Outcome::Refused(_)), "no source at all");
    assert_eq!(state.policy.schedules["nightly"].begun_ms, 0);
    assert_eq!(at(&mut state, &run(0, since + 1, 50, &[1])), Outcome::Done);
    assert_eq!(state.running().map(|c| (c.id, c.kind)), Some((s::checkpoint(50), CheckpointKind::Full)));
    // Another leader that saw the same: refused, whatever moment it names.
    let skip = s::run_schedule("nightly", 0, since + 9, None, &[]);
    assert!(matches!(at(&mut state, &skip), Outcome::Refused(_)));
    // A change of the schedule keeps what was begun.
    assert_eq!(at(&mut state, &s::put_schedule("nightly", &[1])), Outcome::Done);
    assert_eq!(state.policy.schedules["nightly"].begun_ms, since + 1);
}

#[test]
fn a_source_that_goes_leaves_its_schedules() {
    let mut state = s::state();
    let at = |state: &mut State, command: &Command| {
        let index = state.revision + 1;
        assert_eq!(apply(state, index, 1, s::node(), command).0, Outcome::Done);
    };
    at(&mut state, &s::put_schedule("one", &[1]));
    at(&mut state, &s::put_schedule("both", &[1, 2]));
    at(&mut state, &s::put_schedule("all", &[]));
    at(&mut state, &Command::RemoveSource { source: s::source(1) });
    assert!(!state.policy.schedules.contains_key("one"), "it would be one of all sources now");
    assert_eq!(state.policy.schedules["both"].sources, [s::source(2)]);
    assert!(state.policy.schedules["all"].sources.is_empty());
}

#[test]
fn settings_out_of_range_are_refused() {
    use crate::policy::{Conditions, Schedule, Window};
    let mut state = s::state();
    let before = state.policy.clone();
    let schedule = |change: &dyn Fn(&mut Schedule)| {
        let Command::PutSchedule { name, mut schedule } = s::put_schedule("x", &[]) else { panic!() };
        change(&mut schedule);
        Command::PutSchedule { name, schedule }
    };
    let limit = |change: &dyn Fn(&mut crate::policy::Limit)| {
        let mut limit = s::limit(0, 60);
        change(&mut limit);
        Command::SetLimits { limits: vec![limit] }
    };
    for bad in [
        schedule(&|x| x.cron = String::new()),
        schedule(&|x| x.cron = "* ".repeat(200)),
        schedule(&|x| x.time_zone = Some("a\nb".into())),
        schedule(&|x| x.window = Some(Window { from_min: 1440, to_min: 0 })),
        schedule(&|x| x.idle_wait_min = 7 * 24 * 60 + 1),
        schedule(&|x| x.sources = vec![s::source(99)]),
        s::put_schedule("", &[]),
        limit(&|l| l.window.to_min = 0),
        limit(&|l| l.cpu_percent = Some(0)),
        limit(&|l| l.upload_bytes_s = Some(0)),
        Command::SetLimits { limits: vec![s::limit(0, 60); 25] },
        Command::SetConditions { conditions: Conditions { idle_load_percent: 101, ..Conditions::default() } },
    ] {
        let index = state.revision + 1;
        assert!(matches!(apply(&mut state, index, 1, s::node(), &bad).0, Outcome::Refused(_)), "{bad:?}");
    }
    assert_eq!(state.policy, before);
    for i in 0..40 {
        let index = state.revision + 1;
        let _ = apply(&mut state, index, 1, s::node(), &s::put_schedule(&format!("s{i}"), &[]));
    }
    assert_eq!(state.policy.schedules.len(), crate::limits::SCHEDULES_MAX);
}

#[test]
fn how_a_source_is_read_has_a_command_of_its_own() {
    use crate::reading::{Reading, SnapshotKind};
    let mut state = s::state();
    let reading = |state: &State| state.sources[&s::source(1)].reading.clone();
    let set = reading(&state);
    assert_eq!(
        (set.before.as_deref(), set.limit_s, set.snapshot),
        (Some("systemctl stop db"), 30, SnapshotKind::Btrfs)
    );
    // Other settings leave it as it is, even if their sender did not know of it.
    s::done(&mut state, 1000, &s::put_source(1, b"/home/ann", 3));
    assert_eq!(reading(&state), set);
    let say = |state: &mut State, r: Reading, n: u8| {
        let index = state.revision + 1;
        apply(state, index, 1, s::node(), &Command::SetReading { source: s::source(n), reading: r }).0
    };
    let bad = Reading { before: Some(String::new()), ..Reading::default() };
    assert_eq!(say(&mut state, bad.clone(), 1), Outcome::Refused(Refusal::Range("a command of the source")));
    assert_eq!(say(&mut state, Reading::default(), 9), Outcome::Refused(Refusal::Unknown("the source")));
    assert_eq!(say(&mut state, Reading::default(), 1), Outcome::Done);
    assert_eq!(reading(&state), Reading::default());
    // A new source comes with it, so that it is never read without its commands.
    let Command::PutSource { mut source } = s::put_source(7, b"/db", 1) else { unreachable!() };
    source.reading = bad;
    let index = state.revision + 1;
    let (outcome, _) = apply(&mut state, index, 1, s::node(), &Command::PutSource { source: source.clone() });
    assert_eq!(outcome, Outcome::Refused(Refusal::Range("a command of the source")));
    source.reading = set.clone();
    s::done(&mut state, index + 1, &Command::PutSource { source });
    assert_eq!(state.sources[&s::source(7)].reading, set);
    // A record written before there was this opens as it was.
    let mut old = serde_json::to_value(&state.sources[&s::source(7)]).unwrap();
    old.as_object_mut().unwrap().remove("reading");
    let old: crate::model::Source = serde_json::from_value(old).unwrap();
    assert_eq!(old.reading, Reading::default());
}
