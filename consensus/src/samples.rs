//! Commands and states for tests. Ids are small, so that random commands meet each other's records.

use proptest::prelude::*;
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::ids::{
    CheckpointId, CopyId, Digest, LayerId, NodeId, SectorId, SourceId, TargetId, TokenId, UserId, ZoneAlias, ZoneId,
};

use crate::apply::{Outcome, apply};
use crate::audits::{Audited, Audits, Found};
use crate::command::Command;
use crate::keep::Rules;
use crate::model::{CheckpointKind, CopyState, Ground, Part, Rebased, Scope, Source, State, TaskStats};
use crate::policy::{Conditions, Limit, Schedule, Window};
use crate::reading::{Reading, SnapshotKind};
use crate::stripes::StripeSet;
use crate::terms::{Per, Price, Terms};
use crate::users::{Rights, User, UserKey};

fn bytes(n: u8) -> [u8; 16] {
    let mut b = [0; 16];
    b[15] = n;
    b
}

macro_rules! ids {
    ($($name:ident: $id:ident),*) => { $(pub fn $name(n: u8) -> $id { $id(bytes(n)) })* };
}
ids!(target: TargetId, source: SourceId, checkpoint: CheckpointId, layer: LayerId, sector: SectorId, copy: CopyId);
ids!(token: TokenId, user: UserId);

pub fn node() -> NodeId {
    NodeId(bytes(1))
}

pub fn zone() -> ZoneId {
    ZoneId(bytes(9))
}

pub fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

/// A hash over all of a state.
pub fn hash(state: &State) -> Digest {
    sha256(&[&serde_json::to_vec(state).unwrap()])
}

/// Applies a command that must succeed.
pub fn done(state: &mut State, index: u64, command: &Command) {
    let (outcome, _) = apply(state, index, 1000 + index, node(), command);
    assert_eq!(outcome, Outcome::Done, "{command:?}");
}

/// Applies commands that must all succeed.
pub fn all_done(state: &mut State, commands: &[Command]) {
    for c in commands {
        let index = state.revision + 1;
        done(state, index, c);
    }
}

pub fn create_zone() -> Command {
    Command::CreateZone {
        zone: zone(),
        name: "home".into(),
        owner_fingerprint: digest(1),
        owner_public: "cHVi".into(),
        owner_sign_public: "c2ln".into(),
        sector_min_log2: 20,
        sector_max_log2: 36,
        zstd_level: 3,
        secret_epoch: 1,
    }
}

pub fn add_target(n: u8, domain: Option<&str>) -> Command {
    Command::AddTarget {
        target: target(n),
        name: format!("t{n}"),
        url: format!("file:///t{n}"),
        alias: ZoneAlias(bytes(n)),
        domain: domain.map(str::to_owned),
        credentials: None,
    }
}

pub fn put_source(n: u8, path: &[u8], priority: i32) -> Command {
    let source = Source {
        id: source(n),
        path: path.to_vec(),
        priority,
        copies: None,
        excludes: vec!["*.tmp".into()],
        exclude_caches: true,
        one_file_system: false,
        added_ms: 0,
        grounds: Default::default(),
        last_entries: 0,
        nodes: Vec::new(),
        reading: Reading::default(),
        write_only: false,
    };
    Command::PutSource { source }
}

pub fn open_checkpoint(n: u8, kind: CheckpointKind, sources: &[u8]) -> Command {
    let sources = sources.iter().map(|s| source(*s)).collect();
    Command::OpenCheckpoint { checkpoint: checkpoint(n), checkpoint_kind: kind, sources, allow_empty: false }
}

pub fn open_layer(l: u8, c: u8, s: u8, full: bool) -> Command {
    Command::OpenLayer { layer: layer(l), checkpoint: checkpoint(c), source: source(s), full }
}

pub fn open_sector(s: u8, c: u8, system: bool, copies_wanted: u8) -> Command {
    Command::OpenSector {
        sector: sector(s),
        checkpoint: checkpoint(c),
        class_log2: 20,
        system,
        copies_wanted,
        min_priority: 0,
        write_only: false,
    }
}

pub fn open_copy(k: u8, s: u8, t: u8) -> Command {
    Command::OpenCopy {
        copy: copy(k),
        sector: sector(s),
        target: target(t),
        alias: ZoneAlias(bytes(t)),
        header: "aGVhZGVy".into(),
        header_hash: digest(k),
        sealed_dek: "ZGVr".into(),
        relayed: None,
    }
}

pub fn part(s: u8, part: u32) -> Part {
    Part { sector: sector(s), part, offset: u64::from(part) * 100, length: 100, entries: 3 }
}

pub fn seal(s: u8, k: u8, parts: &[(u8, Part)]) -> Command {
    Command::SealSector {
        sector: sector(s),
        raw_id: digest(s),
        raw_len: 900,
        tar_len: 1000,
        index: (800, 100),
        seek_table: (850, 50),
        entries: 7,
        parts: parts.iter().map(|(l, p)| (layer(*l), *p)).collect(),
        refs: Default::default(),
        copy: copy(k),
        stored_len: 9000,
        stored_id: Some(digest(k)),
    }
}

pub fn finish_task(c: u8, s: u8) -> Command {
    let stats = TaskStats { files: 7, bytes: 70, ..TaskStats::default() };
    Command::FinishTask {
        checkpoint: checkpoint(c),
        source: source(s),
        stats,
        warnings: vec!["a: changed while it was read".into()],
        ground: Some(ground()),
        entries: 8,
    }
}

pub fn ground() -> Ground {
    Ground { mount: "a mounted file system (ext4 01)".into(), below: vec!["media".into()] }
}

pub fn store(c: u8) -> Command {
    Command::StoreCheckpoint { checkpoint: checkpoint(c) }
}

pub fn head(n: u64, s: u8, c: u8) -> Command {
    let (sector, checkpoint) = (sector(s), checkpoint(c));
    Command::PublishHead { n, payload: "{}".into(), payload_hash: digest(7), sector, checkpoint }
}

pub fn put_token(n: u8, expires_ms: u64) -> Command {
    Command::PutToken {
        token: token(n),
        hash: digest(n),
        label: format!("t{n}"),
        scopes: [Scope::StatusRead, Scope::BackupRun].into(),
        expires_ms,
    }
}

/// A zone with three targets and two sources.
pub fn begin() -> Vec<Command> {
    vec![
        create_zone(),
        Command::AddNode { node: node(), name: "node".into(), public_key: "cHVi".into(), certificate: "Y2Vy".into() },
        add_target(1, None),
        add_target(2, Some("cellar")),
        add_target(3, Some("cellar")),
        put_source(1, b"/home/ann", 17),
        put_source(2, b"/h/\xff", -20),
    ]
}

/// A checkpoint of one source in one sector on target 1. Layer, sector and copy have the number of the checkpoint.
pub fn backup(n: u8, kind: CheckpointKind, s: u8, full: bool) -> Vec<Command> {
    vec![
        open_checkpoint(n, kind, &[s]),
        open_layer(n, n, s, full),
        open_sector(n, n, false, 2),
        open_copy(n, n, 1),
        seal(n, n, &[(n, part(n, 0))]),
        finish_task(n, s),
        store(n),
    ]
}

/// About forty commands: a zone, a backup with its copies and head, one that is cut and resumed, one that is given up.
pub fn story() -> Vec<Command> {
    let mut v = begin();
    v.extend(backup(1, CheckpointKind::Incremental, 1, true));
    v.extend([
        open_copy(11, 1, 2),
        Command::StoreCopy { copy: copy(11), stored_len: 9000, stored_id: Some(digest(11)) },
        open_sector(20, 1, true, 3),
        open_copy(20, 20, 1),
        seal(20, 20, &[]),
        head(1, 20, 1),
        Command::PublishedPointer { target: target(1), n: 1, hash: digest(9) },
        Command::Misshown { target: target(1), wrote: digest(9), what: "no head".into() },
        Command::PublishedPointer { target: target(1), n: 1, hash: digest(8) },
        Command::FinishCheckpoint { checkpoint: checkpoint(1) },
        Command::SetTarget { target: target(1), paused: None, owner_key_hash: Some(digest(4)) },
        Command::SetCredentials { target: target(1), credentials: "c2VhbGVk".into() },
        set_terms(2, 2 << 40),
        open_checkpoint(2, CheckpointKind::Incremental, &[2]),
        open_layer(2, 2, 2, true),
        open_sector(2, 2, false, 1),
        open_copy(2, 2, 1),
        seal(2, 2, &[(2, part(2, 0))]),
        open_sector(3, 2, false, 1),
        open_copy(3, 3, 1),
        Command::ResumeCheckpoint { checkpoint: checkpoint(2) },
        Command::AbandonCopy { copy: copy(3) },
        finish_task(2, 2),
        store(2),
        Command::Verified { copies: vec![copy(1), copy(2)], read: true, sampled: false },
        Command::Audited { results: vec![Audited { copy: copy(1), found: Found::Whole { all: false } }] },
        Command::SetStripes { sets: vec![StripeSet::new(copy(1), 0, &[[7; 16]; 64])] },
        Command::SpendStripes { copies: vec![copy(1)] },
        Command::SetAudits { audits: Audits { every_s: 3600, ..Audits::default() } },
        Command::MarkCopy { copy: copy(11), state: CopyState::Lost },
        edit_target(3, Some(true)),
        Command::RemoveTarget { target: target(3), lose: false },
        add_target(3, Some("cellar")),
        open_checkpoint(4, CheckpointKind::Full, &[1, 2]),
        open_layer(4, 4, 1, true),
        Command::AbandonCheckpoint { checkpoint: checkpoint(4) },
        Command::SetZone { name: Some("house".into()), sector_min_log2: Some(21), zstd_level: Some(5) },
        put_schedule("weekly", &[1]),
        Command::SetConditions { conditions: Conditions { on_battery: true, ..Conditions::default() } },
        Command::SetLimits { limits: vec![limit(480, 1080)] },
        run_schedule("weekly", 0, 90_000_000, Some(5), &[1]),
        Command::AbandonCheckpoint { checkpoint: checkpoint(5) },
        Command::RemoveSchedule { name: "daily".into() },
        Command::SetWriteOnly { source: source(2), write_only: true, older: false },
        set_reading(1, "systemctl stop db", 30),
        map_name("media", Some("/mnt/media")),
        put_token(1, 100_000_000),
        put_token(2, 200_000_000),
        Command::RemoveToken { token: token(2) },
        Command::SetTags { checkpoint: checkpoint(1), tags: ["before the move".to_owned()].into() },
        Command::SetRetention { rules: Some(Rules { daily: 7, ..Rules::default() }) },
        Command::SetGrace { grace_s: 8 * 24 * 3600, owner: None },
        Command::Credit { credit_ms: 5_000 },
        Command::Forget { checkpoints: vec![checkpoint(1)], now: false, owner: None },
        Command::Remember { checkpoints: vec![checkpoint(1)] },
        Command::OpenRewrite { checkpoint: checkpoint(6), max_waste: Some(10), owner: None },
        open_layer(6, 6, 1, true),
        open_sector(6, 6, false, 2),
        open_copy(6, 6, 1),
        seal(6, 6, &[(6, part(6, 0))]),
        rebase(6, 1, &[1], &[6]),
        finish_task(6, 1),
        Command::AbandonCheckpoint { checkpoint: checkpoint(6) },
        Command::SetMaintenance { reason: Some("a rollback to checkpoint 1".into()) },
        Command::SetMaintenance { reason: None },
        put_user(1, "ann", &[1]),
        Command::SetUserKey { user: user(1), key: user_key() },
        put_user(2, "bob", &[]),
        Command::RemoveUser { user: user(2) },
    ]);
    v.push(seen_by_its_sender(&v, target(2)));
    v
}

/// A change of a target as these commands leave it.
fn seen_by_its_sender(before: &[Command], target: TargetId) -> Command {
    let mut state = State::default();
    all_done(&mut state, before);
    let command = Command::SetTarget { target, paused: None, owner_key_hash: Some(digest(5)) };
    Command::IfSeen { seen: crate::seen::before(&state, &command).unwrap(), command: Box::new(command) }
}

pub fn rebase(c: u8, s: u8, old: &[u8], new: &[u8]) -> Command {
    let chain = |all: &[u8]| all.iter().map(|l| layer(*l)).collect();
    let r = Rebased { source: source(s), old: chain(old), new: chain(new) };
    Command::Rebase { checkpoint: checkpoint(c), chains: vec![r] }
}

pub fn edit_target(t: u8, leaving: Option<bool>) -> Command {
    Command::EditTarget { target: target(t), name: None, url: None, domain: None, leaving }
}

pub fn set_terms(t: u8, quota: u64) -> Command {
    let price = Price { currency: "EUR".into(), micros: 4_990_000, per: Per::Month };
    let terms = Terms { price: Some(price), paid_until_ms: Some(1_803_859_200_000), quota_bytes: Some(quota) };
    Command::SetTerms { target: target(t), terms }
}

pub fn set_reading(s: u8, before: &str, limit_s: u32) -> Command {
    let reading = Reading { before: Some(before.into()), limit_s, snapshot: SnapshotKind::Btrfs, ..Reading::default() };
    Command::SetReading { source: source(s), reading }
}

pub fn put_user(n: u8, name: &str, sources: &[u8]) -> Command {
    let sources = sources.iter().map(|s| source(*s)).collect();
    let rights = Rights { priority_max: if n == 1 { 50 } else { 0 }, ..Rights::default() };
    let user = User { id: user(n), name: name.into(), added_ms: 0, sources, rights, locked: n == 3, key: None };
    Command::PutUser { user }
}

pub fn user_key() -> UserKey {
    let (public, sign_public) = ("cHVi".to_owned(), "c2ln".to_owned());
    UserKey { fingerprint: digest(8), public, sign_public, file: "e30=".into(), signer: "c2VhbGVk".into() }
}

pub fn map_name(name: &str, path: Option<&str>) -> Command {
    Command::MapName { name: name.into(), node: Some(node()), path: path.map(str::to_owned) }
}

pub fn put_schedule(name: &str, sources: &[u8]) -> Command {
    let schedule = Schedule {
        cron: "0 3 * * 0".into(),
        time_zone: Some("UTC".into()),
        window: Some(Window { from_min: 1320, to_min: 360 }),
        sources: sources.iter().map(|s| source(*s)).collect(),
        checkpoint_kind: CheckpointKind::Full,
        idle_wait_min: 10,
        paused: false,
        since_ms: 0,
        begun_ms: 0,
    };
    Command::PutSchedule { name: name.into(), schedule }
}

pub fn limit(from_min: u16, to_min: u16) -> Limit {
    Limit { window: Window { from_min, to_min }, upload_bytes_s: Some(1 << 20), cpu_percent: Some(50) }
}

pub fn run_schedule(name: &str, after_ms: u64, due_ms: u64, id: Option<u8>, sources: &[u8]) -> Command {
    let sources = sources.iter().map(|s| source(*s)).collect();
    Command::RunSchedule { name: name.into(), after_ms, due_ms, checkpoint: id.map(checkpoint), sources }
}

/// The state at the end of the story.
pub fn state() -> State {
    let mut state = State::default();
    all_done(&mut state, &story());
    state
}

/// Any command on few ids: most are refused, some meet.
pub fn any_command() -> impl Strategy<Value = Command> {
    let n = || 0u8..4;
    let kind =
        prop_oneof![Just(CheckpointKind::Full), Just(CheckpointKind::Incremental), Just(CheckpointKind::Differential)];
    let state = prop_oneof![Just(CopyState::Stored), Just(CopyState::Lost), Just(CopyState::Open)];
    let why = || "silence".to_owned();
    let found = prop_oneof![
        any::<bool>().prop_map(|all| Found::Whole { all }),
        Just(Found::Wrong { why: why() }),
        Just(Found::Gone { why: why() }),
        Just(Found::Silent { why: why() }),
    ];
    prop_oneof![
        1 => (n(), proptest::option::of("[ab]")).prop_map(|(t, d)| add_target(t, d.as_deref())),
        1 => (n(), -60i32..60).prop_map(|(s, p)| put_source(s, format!("/{s}").as_bytes(), p)),
        1 => (n(), "[ab]?", 0u32..3).prop_map(|(s, c, limit)| set_reading(s, &c, limit)),
        1 => ("[ab]", proptest::option::of("/?[ab]?")).prop_map(|(name, path)| map_name(&name, path.as_deref())),
        1 => n().prop_map(|s| Command::RemoveSource { source: source(s) }),
        1 => (n(), "[ab]", proptest::collection::vec(n(), 0..2)).prop_map(|(u, name, s)| put_user(u, &name, &s)),
        1 => n().prop_map(|u| Command::RemoveUser { user: user(u) }),
        1 => (n(), 0u64..3).prop_map(|(t, e)| put_token(t, 2_000 * e)),
        1 => n().prop_map(|t| Command::RemoveToken { token: token(t) }),
        1 => n().prop_map(|n| Command::SetMaintenance { reason: (n == 0).then(|| "a rollback".to_owned()) }),
        1 => (n(), n()).prop_map(|(s, seen)| Command::IfSeen { seen: digest(seen), command: Box::new(put_source(s, b"/s", 1)) }),
        1 => (n(), any::<Option<bool>>())
            .prop_map(|(t, paused)| Command::SetTarget { target: target(t), paused, owner_key_hash: None }),
        1 => (n(), any::<Option<bool>>()).prop_map(|(t, leaving)| edit_target(t, leaving)),
        1 => (n(), 0u64..3).prop_map(|(t, quota)| set_terms(t, quota)),
        1 => (n(), any::<bool>()).prop_map(|(t, lose)| Command::RemoveTarget { target: target(t), lose }),
        4 => (n(), kind, proptest::collection::vec(n(), 1..3)).prop_map(|(c, k, s)| open_checkpoint(c, k, &s)),
        1 => n().prop_map(|c| Command::ResumeCheckpoint { checkpoint: checkpoint(c) }),
        1 => n().prop_map(|c| Command::AbandonCheckpoint { checkpoint: checkpoint(c) }),
        2 => (n(), any::<Option<u8>>())
            .prop_map(|(c, w)| Command::OpenRewrite { checkpoint: checkpoint(c), max_waste: w, owner: None }),
        2 => (n(), n(), proptest::collection::vec(n(), 0..3), proptest::collection::vec(n(), 0..3))
            .prop_map(|(c, s, old, new)| rebase(c, s, &old, &new)),
        2 => n().prop_map(|c| Command::Forget { checkpoints: vec![checkpoint(c)], now: false, owner: None }),
        1 => n().prop_map(|c| Command::Remember { checkpoints: vec![checkpoint(c)] }),
        1 => (n(), "[a,]?").prop_map(|(c, t)| Command::SetTags { checkpoint: checkpoint(c), tags: [t].into() }),
        2 => (0u64..2_000_000_000).prop_map(|credit_ms| Command::Credit { credit_ms }),
        4 => (n(), n(), n(), any::<bool>()).prop_map(|(l, c, s, full)| open_layer(l, c, s, full)),
        4 => (n(), n(), any::<bool>(), 0u8..4).prop_map(|(s, c, sys, w)| open_sector(s, c, sys, w)),
        4 => (n(), n(), n()).prop_map(|(k, s, t)| open_copy(k, s, t)),
        4 => (n(), n(), proptest::collection::vec((n(), n(), 0u32..3), 0..3)).prop_map(|(s, k, parts)| {
            seal(s, k, &parts.iter().map(|(l, s, p)| (*l, part(*s, *p))).collect::<Vec<_>>())
        }),
        1 => n().prop_map(|s| Command::AbandonSector { sector: sector(s) }),
        1 => n().prop_map(|k| Command::StoreCopy { copy: copy(k), stored_len: 1, stored_id: None }),
        1 => n().prop_map(|k| Command::AbandonCopy { copy: copy(k) }),
        1 => (n(), state).prop_map(|(k, state)| Command::MarkCopy { copy: copy(k), state }),
        1 => (n(), any::<bool>()).prop_map(|(k, read)| Command::Verified { copies: vec![copy(k)], read, sampled: !read }),
        1 => (n(), found).prop_map(|(k, found)| Command::Audited { results: vec![Audited { copy: copy(k), found }] }),
        1 => (n(), 0u32..3).prop_map(|(k, first)| Command::SetStripes {
            sets: vec![StripeSet::new(copy(k), first, &[[1; 16]; 64])],
        }),
        1 => n().prop_map(|k| Command::SpendStripes { copies: vec![copy(k)] }),
        1 => (n(), 0u8..4).prop_map(|(s, copies)| Command::RaiseCopies { sectors: vec![sector(s)], copies }),
        4 => (n(), n()).prop_map(|(c, s)| finish_task(c, s)),
        4 => n().prop_map(store),
        1 => (0u64..3, n(), n()).prop_map(|(n, s, c)| head(n, s, c)),
        1 => (n(), 0u64..3).prop_map(|(t, n)| Command::PublishedPointer { target: target(t), n, hash: digest(1) }),
        1 => n().prop_map(|c| Command::FinishCheckpoint { checkpoint: checkpoint(c) }),
        1 => ("[ab]", proptest::collection::vec(n(), 0..3)).prop_map(|(name, s)| put_schedule(&name, &s)),
        1 => "[ab]".prop_map(|name| Command::RemoveSchedule { name }),
        1 => (0u16..1500, 0u16..1500).prop_map(|(a, b)| Command::SetLimits { limits: vec![limit(a, b)] }),
        1 => ("[ab]", 0u64..3, 0u64..200_000_000, proptest::option::of(n()), proptest::collection::vec(n(), 0..3))
            .prop_map(|(name, after, due, id, s)| run_schedule(&name, after, due, id, &s)),
    ]
}

/// A beginning and any commands after it.
pub fn any_story() -> impl Strategy<Value = Vec<Command>> {
    proptest::collection::vec(any_command(), 0..120).prop_map(|more| {
        let mut v = begin();
        v.extend(more);
        v
    })
}
