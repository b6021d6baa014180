use super::*;
use zoneward_consensus::apply::apply;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{CheckpointKind, CopyState, Part};
use zoneward_consensus::policy::Window;
use zoneward_sectors::ids::{CheckpointId, CopyId, Digest, LayerId, TargetId, ZoneAlias};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

fn n(i: u8) -> NodeId {
    NodeId([i; 16])
}

fn source(i: u8, nodes: &[u8]) -> Source {
    Source {
        id: SourceId([i; 16]),
        path: format!("/{i}").into_bytes(),
        priority: 0,
        copies: None,
        excludes: Vec::new(),
        exclude_caches: false,
        one_file_system: false,
        added_ms: 0,
        grounds: Default::default(),
        last_entries: 0,
        nodes: nodes.iter().copied().map(n).collect(),
        reading: Default::default(),
        write_only: false,
    }
}

/// Two nodes, a shared source, and one of the second node alone. The zone was made at midnight of day 1, UTC.
fn zone() -> State {
    let mut state = State::default();
    let mut all = vec![Command::CreateZone {
        zone: zoneward_sectors::ids::ZoneId([1; 16]),
        name: "home".into(),
        owner_fingerprint: Digest([0; 32]),
        owner_public: String::new(),
        owner_sign_public: String::new(),
        sector_min_log2: 31,
        sector_max_log2: 36,
        zstd_level: 3,
        secret_epoch: 1,
    }];
    for i in [1, 2] {
        let (public_key, certificate) = (i.to_string(), String::new());
        all.push(Command::AddNode { node: n(i), name: format!("n{i}"), public_key, certificate });
    }
    all.push(Command::PutSource { source: source(1, &[]) });
    all.push(Command::PutSource { source: source(2, &[2]) });
    all.push(put("daily", |_| {}));
    for command in all {
        at(&mut state, DAY, &command);
    }
    state
}

fn put(name: &str, change: impl Fn(&mut Schedule)) -> Command {
    let mut schedule = zoneward_consensus::policy::Policy::default().schedules["daily"].clone();
    schedule.time_zone = Some("UTC".into());
    change(&mut schedule);
    Command::PutSchedule { name: name.into(), schedule }
}

fn at(state: &mut State, ms: u64, command: &Command) {
    let index = state.revision + 1;
    let done = apply(state, index, ms, n(1), command).0;
    assert_eq!(done, zoneward_consensus::Outcome::Done, "{command:?}");
}

fn idle() -> BTreeMap<NodeId, Ambient> {
    [1, 2].map(|i| (n(i), Ambient { load_percent: Some(3), io_percent: Some(0), ..Ambient::default() })).into()
}

fn daily(state: &State, ms: u64, nodes: &BTreeMap<NodeId, Ambient>) -> Stands {
    look(state, ms, nodes).remove("daily").unwrap()
}

fn begins(stands: &Stands) -> Option<(usize, bool)> {
    match stands {
        Stands::Begins(due) => Some((due.sources.len(), due.covered)),
        _ => None,
    }
}

fn run(state: &mut State, ms: u64, due: &Due, id: u8) {
    let command = Command::RunSchedule {
        name: due.name.clone(),
        after_ms: due.after_ms,
        due_ms: ms,
        checkpoint: (!due.covered).then_some(CheckpointId([id; 16])),
        sources: due.sources.clone(),
    };
    at(state, ms, &command);
}

#[test]
fn once_a_day_at_one_and_once_only() {
    let mut state = zone();
    assert_eq!(daily(&state, DAY, &idle()), Stands::Next(DAY + HOUR));
    assert_eq!(daily(&state, DAY + HOUR - 1, &idle()), Stands::Next(DAY + HOUR));
    let now = DAY + HOUR;
    let Stands::Begins(due) = daily(&state, now, &idle()) else { panic!() };
    assert_eq!((due.sources.len(), due.covered), (2, false));
    run(&mut state, now, &due, 1);
    assert_eq!(daily(&state, now + 1, &idle()), Stands::Next(2 * DAY + HOUR));
    // A second leader that saw the state of before is refused.
    let again = Command::RunSchedule {
        name: due.name,
        after_ms: due.after_ms,
        due_ms: now + 5,
        checkpoint: None,
        sources: due.sources,
    };
    let index = state.revision + 1;
    let refused = apply(&mut state, index, now + 5, n(2), &again).0;
    assert!(matches!(refused, zoneward_consensus::Outcome::Refused(_)));
    // Three days without power are caught up on once; the one under way comes first.
    let later = 4 * DAY + 5 * HOUR;
    assert_eq!(daily(&state, later, &idle()), Stands::Waits(2 * DAY + HOUR, Wait::Running));
    at(&mut state, later, &Command::AbandonCheckpoint { checkpoint: CheckpointId([1; 16]) });
    let Stands::Begins(due) = daily(&state, later, &idle()) else { panic!() };
    run(&mut state, later, &due, 2);
    assert_eq!(daily(&state, later + 1, &idle()), Stands::Next(5 * DAY + HOUR));
}

#[test]
fn what_is_made_of_stored_data_is_no_backup() {
    let mut state = zone();
    let sources = vec![SourceId([1; 16]), SourceId([2; 16])];
    let (checkpoint, rewrite) = (CheckpointId([1; 16]), CheckpointId([2; 16]));
    let open = Command::OpenCheckpoint {
        checkpoint,
        checkpoint_kind: CheckpointKind::Incremental,
        sources: sources.clone(),
        allow_empty: false,
    };
    at(&mut state, DAY + HOUR / 2, &open);
    let finish = |checkpoint, source| Command::FinishTask {
        checkpoint,
        source,
        stats: Default::default(),
        warnings: Vec::new(),
        ground: None,
        entries: 0,
    };
    sources.iter().for_each(|s| at(&mut state, DAY + HOUR / 2, &finish(checkpoint, *s)));
    at(&mut state, DAY + HOUR / 2, &Command::StoreCheckpoint { checkpoint });
    let now = DAY + HOUR + 1;
    at(&mut state, now, &Command::OpenRewrite { checkpoint: rewrite, max_waste: None, owner: None });
    assert_eq!(daily(&state, now, &idle()), Stands::Waits(DAY + HOUR, Wait::Running));
    sources.iter().for_each(|s| at(&mut state, now, &finish(rewrite, *s)));
    at(&mut state, now, &Command::StoreCheckpoint { checkpoint: rewrite });
    assert_eq!(begins(&daily(&state, now, &idle())), Some((2, false)));
}

#[test]
fn what_was_begun_by_hand_since_then_counts() {
    let mut state = zone();
    let open = Command::OpenCheckpoint {
        checkpoint: CheckpointId([1; 16]),
        checkpoint_kind: CheckpointKind::Incremental,
        sources: vec![SourceId([1; 16]), SourceId([2; 16])],
        allow_empty: false,
    };
    let now = DAY + HOUR + 60_000;
    at(&mut state, now, &open);
    let Stands::Begins(due) = daily(&state, now, &idle()) else { panic!() };
    assert!(due.covered);
    run(&mut state, now, &due, 2);
    assert_eq!(daily(&state, now + 1, &idle()), Stands::Next(2 * DAY + HOUR));
}

#[test]
fn it_waits_for_idle_nodes_but_not_for_ever() {
    let state = zone();
    let mut nodes = idle();
    nodes.get_mut(&n(2)).unwrap().load_percent = Some(90);
    let due = DAY + HOUR;
    assert_eq!(daily(&state, due, &nodes), Stands::Waits(due, Wait::Idle));
    assert_eq!(daily(&state, due + 6 * HOUR - 1, &nodes), Stands::Waits(due, Wait::Idle));
    assert_eq!(begins(&daily(&state, due + 6 * HOUR, &nodes)), Some((2, false)));
    // Disks count as well; what a machine does not tell does not.
    let mut nodes = idle();
    nodes.get_mut(&n(2)).unwrap().io_percent = Some(21);
    assert_eq!(daily(&state, due, &nodes), Stands::Waits(due, Wait::Idle));
    nodes.insert(n(2), Ambient::default());
    assert_eq!(begins(&daily(&state, due, &nodes)), Some((2, false)));
    // The shared source alone needs only one idle node.
    let mut state = zone();
    at(&mut state, DAY, &put("daily", |s| s.sources = vec![SourceId([1; 16])]));
    nodes.get_mut(&n(1)).unwrap().load_percent = Some(99);
    assert_eq!(begins(&daily(&state, due, &nodes)), Some((1, false)));
}

#[test]
fn a_node_on_battery_or_away_leaves_its_sources_for_the_next_time() {
    let mut state = zone();
    let due = DAY + HOUR;
    let mut nodes = idle();
    nodes.get_mut(&n(2)).unwrap().on_battery = Some(true);
    assert_eq!(begins(&daily(&state, due, &nodes)), Some((1, false)), "only what the other node can read");
    nodes.get_mut(&n(1)).unwrap().metered = Some(true);
    assert_eq!(daily(&state, due, &nodes), Stands::Waits(due, Wait::Nodes));
    let conditions = Conditions { on_battery: true, on_metered: true, ..Conditions::default() };
    at(&mut state, DAY, &Command::SetConditions { conditions });
    assert_eq!(begins(&daily(&state, due, &nodes)), Some((2, false)));
    let away = BTreeMap::from([(n(1), Ambient::default())]);
    assert_eq!(begins(&daily(&state, due, &away)), Some((1, false)));
    assert_eq!(daily(&state, due, &BTreeMap::new()), Stands::Waits(due, Wait::Nodes));
    // A node that drains takes on nothing.
    at(&mut state, DAY, &Command::SetNode { node: n(2), name: None, standing: Some(Standing::Draining) });
    assert_eq!(begins(&daily(&state, due, &idle())), Some((1, false)));
}

#[test]
fn windows_time_zones_and_pauses() {
    let mut state = zone();
    let put_daily = |state: &mut State, change: &dyn Fn(&mut Schedule)| at(state, DAY, &put("daily", change));
    put_daily(&mut state, &|s| s.window = Some(Window { from_min: 23 * 60, to_min: 5 * 60 }));
    assert_eq!(begins(&daily(&state, DAY + HOUR, &idle())), Some((2, false)));
    assert_eq!(daily(&state, DAY + 6 * HOUR, &idle()), Stands::Waits(DAY + HOUR, Wait::Window));
    assert_eq!(begins(&daily(&state, DAY + 23 * HOUR, &idle())), Some((2, false)));
    // One o'clock in Shanghai is seventeen o'clock the day before, in Greenwich.
    put_daily(&mut state, &|s| s.time_zone = Some("Asia/Shanghai".into()));
    assert_eq!(daily(&state, DAY, &idle()), Stands::Next(DAY + 17 * HOUR));
    put_daily(&mut state, &|s| s.paused = true);
    assert_eq!(daily(&state, DAY + HOUR, &idle()), Stands::Paused);
    put_daily(&mut state, &|s| s.cron = "soon".into());
    assert!(matches!(daily(&state, DAY + HOUR, &idle()), Stands::Unreadable(_)));
    // What is set anew does not catch up on what was due before.
    let mut state = zone();
    at(&mut state, 3 * DAY + 2 * HOUR, &put("daily", |_| {}));
    assert_eq!(daily(&state, 3 * DAY + 3 * HOUR, &idle()), Stands::Next(4 * DAY + HOUR));
}

#[test]
fn a_zone_without_sources_waits_for_them() {
    let mut state = zone();
    for i in [1, 2] {
        at(&mut state, DAY, &Command::RemoveSource { source: SourceId([i; 16]) });
    }
    assert_eq!(daily(&state, DAY + HOUR, &idle()), Stands::Waits(DAY + HOUR, Wait::Sources));
}

#[test]
fn a_time_outside_of_its_own_window_is_told() {
    let mut state = zone();
    let meets = |state: &mut State, cron: &str, window: Option<(u16, u16)>| {
        let change = |s: &mut Schedule| {
            s.cron = cron.into();
            s.time_zone = Some("UTC".into());
            s.window = window.map(|(from_min, to_min)| Window { from_min, to_min });
        };
        at(state, 3 * DAY, &put("daily", change));
        meets_window(&state.policy.schedules["daily"], 5 * DAY)
    };
    for (cron, window, wanted) in [
        ("0 3 * * *", None, true),
        ("0 3 * * *", Some((180, 181)), true),
        ("0 3 * * *", Some((181, 180)), false),
        ("0 3 * * *", Some((22 * 60, 2 * 60)), false),
        ("0 3 * * *", Some((22 * 60, 4 * 60)), true),
        ("0 */4 * * *", Some((20 * 60, 7 * 60)), true),
        ("30 12 29 2 *", Some((0, 12 * 60)), false),
        ("30 12 29 2 *", Some((12 * 60, 13 * 60)), true),
        ("* 9-17 * * *", Some((18 * 60, 6 * 60)), false),
        ("* * * * *", Some((1439, 1440)), true),
    ] {
        assert_eq!(meets(&mut state, cron, window), wanted, "{cron} {window:?}");
    }
}

#[test]
fn cron_lines_are_read_or_said_to_be_wrong() {
    for good in ["0 1 * * *", "*/15 8-18 * * MON-FRI", "0 3 1,15 * *"] {
        assert!(parse(good, Some("Europe/Berlin")).is_ok(), "{good}");
        assert!(parse(good, None).is_ok(), "{good}");
    }
    for bad in ["", "0 1 * *", "0 1 * * * *", "61 1 * * *", "0 25 * * *", "0 0 30 2 *", "a b c d e", "0 1 * * * UTC"] {
        assert!(parse(bad, None).is_err(), "{bad}");
    }
    assert!(parse("0 1 * * *", Some("Mars/Olympus")).is_err());
    for never in ["0 0 30 2 *", "0 0 31 4,6 *"] {
        assert_eq!(parse(never, None).err().unwrap(), "it never comes true: no month has such a day");
    }
    assert!(parse("0 0 29 2 *", Some("UTC")).is_ok(), "now and then it does");
    assert_eq!(minute_of_day(25 * HOUR + 120_000, Some("UTC")), 62);
}

/// A checkpoint of source 1 in one sector, whose only copy lies on target 1.
fn backed_up(state: &mut State) {
    let (target, sector, copy) = (TargetId([1; 16]), SectorId([1; 16]), CopyId([1; 16]));
    let (checkpoint, source, layer) = (CheckpointId([1; 16]), SourceId([1; 16]), LayerId([1; 16]));
    let part = Part { sector, part: 0, offset: 0, length: 100, entries: 3 };
    for command in [
        Command::AddTarget {
            target,
            name: "t".into(),
            url: "file:///t".into(),
            alias: ZoneAlias([1; 16]),
            domain: None,
            credentials: None,
        },
        Command::Reach { targets: [target].into() },
        Command::OpenCheckpoint {
            checkpoint,
            checkpoint_kind: CheckpointKind::Full,
            sources: vec![source],
            allow_empty: false,
        },
        Command::OpenLayer { layer, checkpoint, source, full: true },
        Command::OpenSector {
            sector,
            checkpoint,
            class_log2: 31,
            system: false,
            copies_wanted: 1,
            min_priority: 0,
            write_only: false,
        },
        Command::OpenCopy {
            copy,
            sector,
            target,
            alias: ZoneAlias([1; 16]),
            header: "aGVhZGVy".into(),
            header_hash: Digest([1; 32]),
            sealed_dek: "ZGVr".into(),
            relayed: None,
        },
        Command::SealSector {
            sector,
            raw_id: Digest([1; 32]),
            raw_len: 900,
            tar_len: 1000,
            index: (800, 100),
            seek_table: (850, 50),
            entries: 3,
            parts: vec![(layer, part)],
            refs: Default::default(),
            copy,
            stored_len: 9000,
            stored_id: Some(Digest([2; 32])),
        },
        Command::FinishTask {
            checkpoint,
            source,
            stats: Default::default(),
            warnings: Vec::new(),
            ground: None,
            entries: 3,
        },
        Command::StoreCheckpoint { checkpoint },
    ] {
        at(state, DAY, &command);
    }
}

#[test]
fn what_nothing_is_left_of_is_stored_anew_once_where_that_may_be() {
    let mut state = zone();
    backed_up(&mut state);
    let none = BTreeSet::new();
    assert_eq!(repair(&state, &idle(), &none), None, "nothing is gone");
    let lost = Command::MarkCopy { copy: CopyId([1; 16]), state: CopyState::Lost };
    at(&mut state, DAY, &lost);
    let due = repair(&state, &idle(), &none).unwrap();
    assert_eq!((&due.sources[..], due.gone.len()), (&[SourceId([1; 16])][..], 1));
    assert_eq!(repair(&state, &idle(), &due.gone), None, "it was tried");
    assert_eq!(repair(&state, &BTreeMap::new(), &none), None, "nobody is there who could read it");
    let poor = [(n(1), Ambient { on_battery: Some(true), ..Ambient::default() })].into();
    assert_eq!(repair(&state, &poor, &none).is_some(), state.policy.conditions.on_battery);
    let but = |change: &dyn Fn(&mut State)| {
        let mut other = state.clone();
        change(&mut other);
        repair(&other, &idle(), &none)
    };
    let rests = put("daily", |s| s.paused = true);
    assert_eq!(but(&|s| at(s, DAY, &rests)), None, "who paused the schedule wants no checkpoints");
    let others = put("daily", |s| s.sources = vec![SourceId([2; 16])]);
    assert_eq!(but(&|s| at(s, DAY, &others)), None, "no schedule has the source");
    let away = Command::Reach { targets: Default::default() };
    assert_eq!(but(&|s| at(s, DAY, &away)), None, "no target could take it");
    let running = Command::OpenCheckpoint {
        checkpoint: CheckpointId([2; 16]),
        checkpoint_kind: CheckpointKind::Incremental,
        sources: vec![SourceId([1; 16])],
        allow_empty: false,
    };
    assert_eq!(but(&|s| at(s, DAY, &running)), None, "one is being made already");
}
