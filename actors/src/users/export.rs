//! Writing an export: what a checkpoint holds of a user's sources, read from the zone's sectors and packed into new ones
//! of a zone whose owner he is. Nothing is spooled in the clear: content goes from opened frames into sealed segments.
//!
//! The little zone's home lies in `exports/` of this one until the export is published. A run that was cut is gone on with
//! by the next: what is sealed stays, and packing goes on behind the last path that is in a sealed catalog.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{Checkpoint, CheckpointKind, CheckpointState, Source, TaskState, TaskStats};
use zoneward_consensus::names;
use zoneward_consensus::policy::Schedule;
use zoneward_consensus::reading::{Reading, SnapshotKind};
use zoneward_consensus::users::User;
use zoneward_sectors::catalog::{CatalogError, Line};
use zoneward_sectors::entry::{Stamp, path_cmp};
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CheckpointId, LayerId, SourceId, ZoneId};
use zoneward_sectors::index::ChunkIndex;
use zoneward_sectors::keyfile::OwnerKeyFile;
use zoneward_sectors::pack::{Moving, PackError, Packer, Progress, Settings, Task};
use zoneward_sectors::zonekeys::{ZoneKeys, ZoneSecret, ZoneSecrets};
use zoneward_transport::identity::NodeIdentity;

use super::{UserError, key, of_url, remove_all};
use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::home::{Home, io_at};
use crate::init::{Place, clear_unfinished, create_target, put_owner_key};
use crate::provide::{Group, Provider};
use crate::restore::{Held, sources_of};
use crate::settle;
use crate::zone::{Zone, create_store};

/// What the one node and the one target of an export are called: names of the zone that wrote it do not come along.
const NAME: &str = "export";
/// Bytes of the note on an export.
const NOTE_LEN_MAX: u64 = 1 << 20;

/// What to export, and to where.
#[derive(Debug)]
pub struct Wish<'a> {
    pub user: &'a User,
    pub checkpoint: CheckpointId,
    pub place: &'a Place,
    /// What the export's checkpoint is tagged with, beside the tags that the zone's has.
    pub tags: BTreeSet<String>,
    pub threads: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Exported {
    pub zone: ZoneId,
    /// It goes on with one that was cut.
    pub resumed: bool,
    pub sources: Vec<(Source, TaskStats)>,
    /// Of which sources the commands stayed behind.
    pub without_commands: Vec<Vec<u8>>,
    pub sectors: u64,
    pub stored_bytes: u64,
}

/// What an export is of, so that one that was cut is not gone on with as another.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    format: u32,
    checkpoint: CheckpointId,
    sources: Vec<SourceId>,
}

/// What a checkpoint holds of a user.
pub fn held(zone: &Zone, user: &User, checkpoint: CheckpointId) -> Vec<Held> {
    sources_of(zone, checkpoint).into_iter().filter(|h| user.sources.contains(&h.source)).collect()
}

/// The newest complete checkpoint that holds something of a user.
pub fn newest<'z>(zone: &'z Zone, user: &User) -> Option<&'z Checkpoint> {
    let complete = zone.state().complete();
    let has = |c: &&Checkpoint| c.tasks.iter().any(|t| user.sources.contains(&t.source) && !t.layers.is_empty());
    complete.into_iter().rev().find(has)
}

/// Writes an export.
pub fn export(zone: &Zone, wish: &Wish<'_>, progress: &Arc<Progress>) -> Result<Exported, UserError> {
    let user = wish.user;
    if user.locked {
        return Err(UserError::Locked(user.name.clone()));
    }
    let key = user.key.as_ref().ok_or_else(|| UserError::NoKey(user.name.clone()))?;
    let seq = zone.state().checkpoints.get(&wish.checkpoint).map_or(0, |c| c.seq);
    let held = held(zone, user, wish.checkpoint);
    if held.is_empty() {
        return Err(UserError::Nothing { name: user.name.clone(), seq });
    }
    let dir = zone.home.dir().join("exports").join(format!("{}-{}", user.id, of_url(&wish.place.url)));
    let mut sources: Vec<SourceId> = held.iter().map(|h| h.source).collect();
    sources.sort();
    let note = Note { format: 1, checkpoint: wish.checkpoint, sources };
    let resumed = fsx::size(&dir.join("zone.redb")).map_err(io_at("look at", &dir)).map_err(ZoneError::from)?.is_some();
    let mut work = match resumed {
        true => reopen(wish, &dir, &note)?,
        false => make(zone, wish, &key::open(zone.keys(), user.id, key)?, &held, &dir, &note)?,
    };
    if work.state().targets.values().any(|t| t.owner_key_hash.is_none()) {
        // Not before the zone counts: of one that was cut nothing is to be found there.
        let path = work.home.owner_key();
        let bytes = fsx::read_limited(&path, 1 << 16).map_err(io_at("read", &path)).map_err(ZoneError::from)?;
        let file = OwnerKeyFile::from_bytes(&bytes).map_err(|e| ZoneError::Sector(e.to_string()))?;
        put_owner_key(&mut work, &file, file.has_passphrase())?;
    }
    let (sectors, stored_bytes) = fill(zone, wish, &mut work, &held, progress)?;
    let done = |s: &Source| {
        let tasks = zone.state().checkpoints.get(&wish.checkpoint).map(|c| &c.tasks);
        let task = tasks.and_then(|t| t.iter().find(|t| t.source == s.id));
        (s.clone(), task.map(|t| t.stats.clone()).unwrap_or_default())
    };
    let exported = Exported {
        zone: work.keys().zone(),
        resumed,
        sources: work.state().sources.values().map(done).collect(),
        without_commands: of_held(zone, &held)
            .filter(|s| s.reading.commands().next().is_some())
            .map(|s| s.path)
            .collect(),
        sectors,
        stored_bytes,
    };
    drop(work);
    fsx::point("export-done:before");
    remove_all(&dir)?;
    Ok(exported)
}

fn of_held<'a>(zone: &'a Zone, held: &'a [Held]) -> impl Iterator<Item = Source> + 'a {
    held.iter().filter_map(|h| zone.state().source_ever(h.source)).cloned()
}

/// A source as it goes along: what it is and what its user set, nothing of where the zone read it. Commands stay: they
/// are this machine's, and people write passwords into them.
fn without_the_zone(source: Source) -> Source {
    let Source { id, path, priority, copies, excludes, exclude_caches, one_file_system, reading, write_only, .. } =
        source;
    let snapshot = if reading.snapshot == SnapshotKind::Command { SnapshotKind::Auto } else { reading.snapshot };
    Source {
        id,
        path,
        priority,
        copies,
        excludes,
        exclude_caches,
        one_file_system,
        added_ms: 0,
        grounds: Default::default(),
        last_entries: 0,
        nodes: Vec::new(),
        reading: Reading { snapshot, ..Reading::default() },
        write_only,
    }
}

/// Schedules of his sources alone.
fn schedules_of<'a>(zone: &'a Zone, held: &'a [Held]) -> impl Iterator<Item = (&'a String, &'a Schedule)> {
    let his = |s: &SourceId| held.iter().any(|h| h.source == *s);
    zone.state().policy.schedules.iter().filter(move |(_, s)| !s.sources.is_empty() && s.sources.iter().all(his))
}

/// Makes the little zone. It counts when its state has its name; what was cut before is made anew.
fn make(
    zone: &Zone,
    wish: &Wish<'_>,
    key: &key::Opened,
    held: &[Held],
    dir: &Path,
    note: &Note,
) -> Result<Zone, UserError> {
    // First: what refuses leaves nothing behind.
    let target = create_target(wish.place, false)?;
    let home = Home::create(dir).map_err(ZoneError::from)?;
    clear_unfinished(&home)?;
    let write = |path: &Path, bytes: &[u8]| fsx::write_durably(path, bytes, 0o600).map_err(io_at("write", path));
    let mut store = create_store(&home)?;
    let (id, secret) = (ZoneId::random(), ZoneSecrets::from(ZoneSecret::generate(1)));
    write(&home.zone_secret(), &secret.to_json()).map_err(ZoneError::from)?;
    write(&home.owner_key(), &key.file.to_bytes()).map_err(ZoneError::from)?;
    let identity =
        NodeIdentity::put(&home.secrets(), &key.signer, key.public.sign_public()).map_err(ZoneError::from)?;
    let node = identity.node();
    let (min, level) = zone.state().zone.as_ref().map_or((31, 2), |z| (z.sector_min_log2, z.zstd_level));
    let create = Command::CreateZone {
        zone: id,
        name: wish.user.name.clone(),
        owner_fingerprint: key.public.fingerprint(),
        owner_public: STANDARD.encode(key.public.rsa_spki_der()),
        owner_sign_public: STANDARD.encode(key.public.sign_public()),
        sector_min_log2: min,
        sector_max_log2: 36,
        zstd_level: level,
        secret_epoch: 1,
    };
    let add = Command::AddNode {
        node,
        name: NAME.to_owned(),
        public_key: STANDARD.encode(identity.certificate().public_key),
        certificate: STANDARD.encode(identity.certificate().to_bytes()),
    };
    for command in [create, add] {
        store.propose(now_ms(), node, command).map_err(ZoneError::from)?;
    }
    let mut work = Zone::with(home, store)?;
    let keys = ZoneKeys::derive(id, secret, 1);
    let target_id = target.id();
    // Without what opens it: whoever gets the export gets no credentials of this zone.
    work.propose(Command::AddTarget {
        target: target_id,
        name: NAME.to_owned(),
        url: wish.place.url.to_string(),
        alias: keys.alias(target_id),
        domain: None,
        credentials: None,
    })?;
    work.add_target(target);
    for source in of_held(zone, held) {
        // What is no longer backed up may be of a time in which he had more rights.
        let source = wish.user.rights.lowered(without_the_zone(source));
        work.propose(Command::PutSource { source })?;
    }
    for (name, schedule) in schedules_of(zone, held) {
        work.propose(Command::PutSchedule { name: name.clone(), schedule: schedule.clone() })?;
    }
    let sources = held.iter().map(|h| h.source).collect();
    work.propose(Command::PutUser { user: User { sources, key: None, locked: false, ..wish.user.clone() } })?;
    let json = serde_json::to_vec(note).map_err(|_| ZoneError::State { what: "the note on an export" })?;
    write(&note_in(dir), &json).map_err(ZoneError::from)?;
    fsx::point("export-made:before");
    let (from, to) = (work.home.unfinished_state(), work.home.state());
    let named = fsx::rename(&from, &to).and_then(|()| fsx::sync_dir(dir));
    named.map_err(io_at("finish", &to)).map_err(ZoneError::from)?;
    fsx::point("export-made:after");
    Ok(work)
}

fn note_in(dir: &Path) -> PathBuf {
    dir.join("export.json")
}

/// Goes on with what was cut, if it is the same that is asked for.
fn reopen(wish: &Wish<'_>, dir: &Path, note: &Note) -> Result<Zone, UserError> {
    let other = || UserError::OtherExport(wish.place.url.to_string());
    let path = note_in(dir);
    let bytes = fsx::read_limited(&path, NOTE_LEN_MAX).map_err(io_at("read", &path)).map_err(ZoneError::from)?;
    if serde_json::from_slice::<Note>(&bytes).ok().as_ref() != Some(note) {
        return Err(other());
    }
    let mut work = Zone::open(dir)?;
    let id = work.state().targets.keys().next().copied().ok_or_else(other)?;
    if work.target(id).is_none() {
        let opened = zoneward_targets::open(&wish.place.url, Some(id), wish.place.credentials.as_ref());
        work.add_target(Arc::from(opened.map_err(ZoneError::from)?));
    }
    settle::tidy(&mut work)?;
    let cut: Vec<CheckpointId> = work.state().running().into_iter().map(|c| c.id).collect();
    for checkpoint in cut {
        work.propose(Command::ResumeCheckpoint { checkpoint })?;
    }
    settle::tidy(&mut work)?;
    Ok(work)
}

/// Packs what is not packed yet, and publishes. Answers sectors and bytes written by this run.
fn fill(
    zone: &Zone,
    wish: &Wish<'_>,
    work: &mut Zone,
    held: &[Held],
    progress: &Arc<Progress>,
) -> Result<(u64, u64), UserError> {
    let mut written = (0, 0);
    if work.state().complete().is_empty() {
        let checkpoint = match work.state().running() {
            Some(c) => c.id,
            None => {
                let id = CheckpointId::random();
                let sources = work.state().sources.keys().copied().collect();
                let checkpoint_kind = CheckpointKind::Full;
                work.propose(Command::OpenCheckpoint { checkpoint: id, checkpoint_kind, sources, allow_empty: false })?;
                id
            }
        };
        written = pack(zone, wish, work, checkpoint, held, progress)?;
        finish_tasks(zone, wish, work, checkpoint)?;
        let mut tags = zone.state().checkpoints.get(&wish.checkpoint).map(|c| c.tags.clone()).unwrap_or_default();
        tags.extend(wish.tags.iter().cloned());
        fsx::point("export-store:before");
        work.propose(Command::StoreCheckpoint { checkpoint })?;
        // The tags are there for people: one too many is not worth an export.
        let _ = work.propose(Command::SetTags { checkpoint, tags });
        fsx::point("export-store:after");
    }
    let settled = settle::settle(work, wish.threads, &progress.stop)?;
    let state = work.state();
    let published = state.complete().last().is_some_and(|c| c.state == CheckpointState::Published)
        && state.targets.values().all(|t| t.pointer.is_some_and(|p| state.head.as_ref().is_some_and(|h| h.n == p.n)));
    match published {
        true => Ok(written),
        false => Err(UserError::Unpublished(settled.failed.join("; "))),
    }
}

/// What each source came to, as the zone's checkpoint has it.
fn finish_tasks(zone: &Zone, wish: &Wish<'_>, work: &mut Zone, checkpoint: CheckpointId) -> Result<(), UserError> {
    let tasks = work.state().checkpoints.get(&checkpoint).map(|c| c.tasks.clone()).unwrap_or_default();
    let of_zone = zone.state().checkpoints.get(&wish.checkpoint).map(|c| &c.tasks);
    for t in tasks.iter().filter(|t| t.state == TaskState::Running) {
        let known = of_zone.and_then(|all| all.iter().find(|k| k.source == t.source)).map(|k| k.stats.clone());
        let stats = TaskStats { new_files: 0, changed_files: 0, removed: 0, ..known.unwrap_or_default() };
        let entries = stats.files + stats.dirs + stats.others;
        let (source, warnings) = (t.source, Vec::new());
        work.propose(Command::FinishTask { checkpoint, source, stats, warnings, ground: None, entries })?;
    }
    Ok(())
}

type Lines = std::iter::Peekable<Box<dyn Iterator<Item = Result<Line, CatalogError>> + Send>>;

/// One source on its way.
struct Todo {
    source: SourceId,
    layer: LayerId,
    prefix: Vec<u8>,
    lines: Lines,
    bytes: u64,
}

/// The lines of a source that are in no sealed catalog of the export yet.
fn rest_of(zone: &Zone, work: &Zone, checkpoint: CheckpointId, held: &Held) -> Result<(Lines, bool), ZoneError> {
    let chain =
        work.state().checkpoints.get(&checkpoint).and_then(|c| c.tasks.iter().find(|t| t.source == held.source));
    let chain = chain.map(|t| t.layers.clone()).unwrap_or_default();
    let opener = work.opener();
    let mut last: Option<Vec<u8>> = None;
    for entry in work.catalogs(&opener).entries(&chain)? {
        last = Some(entry?.path);
    }
    let opener = zone.opener();
    let lines = zone.catalogs(&opener).entries(&held.layers)?.lines();
    let todo = lines.filter(move |l| match l {
        Ok(Line::Gone(_)) => false,
        Ok(Line::Entry(e)) => last.as_ref().is_none_or(|last| path_cmp(&e.path, last).is_gt()),
        Err(_) => true,
    });
    let lines: Box<dyn Iterator<Item = _> + Send> = Box::new(todo);
    Ok((lines.peekable(), chain.is_empty()))
}

fn pack(
    zone: &Zone,
    wish: &Wish<'_>,
    work: &mut Zone,
    checkpoint: CheckpointId,
    held: &[Held],
    progress: &Arc<Progress>,
) -> Result<(u64, u64), UserError> {
    let tasks = zone.state().checkpoints.get(&wish.checkpoint).map(|c| &c.tasks);
    let mut todo = Vec::new();
    for h in held {
        let (mut lines, full) = rest_of(zone, work, checkpoint, h)?;
        if lines.peek().is_none() {
            continue;
        }
        let layer = LayerId::random();
        work.propose(Command::OpenLayer { layer, checkpoint, source: h.source, full })?;
        let bytes = tasks.and_then(|all| all.iter().find(|t| t.source == h.source)).map_or(0, |t| t.stats.bytes);
        todo.push(Todo { source: h.source, layer, prefix: names::inside(&h.path), lines, bytes });
    }
    if todo.is_empty() {
        return Ok((0, 0));
    }
    let settings = Settings {
        threads: wish.threads,
        zstd_level: work.state().zone.as_ref().map_or(3, |z| z.zstd_level),
        racy_after: Stamp { secs: i64::MAX, nanos: 0 },
        meagre: HashSet::new(),
    };
    let priority = held.iter().map(|h| h.priority).min().unwrap_or(0);
    let (opener, all, index) = (zone.opener(), HashSet::new(), ChunkIndex::in_memory(work.table()));
    let moving = Moving { sectors: &opener, leaves: &all, foreign: Some(zone.keys().fingerprint_key()) };
    let (keys, table) = (work.keys().clone(), work.table().clone());
    let mut provider = Provider::new(work, checkpoint, Group { copies: 1, write_only: false }, priority)?;
    let packer = Packer::new(&settings, &index, &table, keys.gear(), *keys.fingerprint_key(), &mut provider);
    let mut packer = packer.map_err(ZoneError::from)?;
    let mut after: u64 = todo.iter().map(|t| t.bytes).sum();
    let run = || -> Result<(), PackError> {
        for t in todo {
            after = after.saturating_sub(t.bytes);
            let Todo { source, layer, prefix, lines, bytes: estimate } = t;
            let task = Task { source, layer, prefix, root: PathBuf::new(), clones: false, estimate };
            packer.run_moving(&task, lines, moving, after, progress)?;
        }
        packer.finish()
    };
    if let Err(e) = run() {
        provider.abandon();
        return Err(match e {
            PackError::Interrupted => ZoneError::Interrupted,
            e => e.into(),
        }
        .into());
    }
    Ok((provider.sectors, provider.stored_bytes))
}
