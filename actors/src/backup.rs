//! A backup run: survey, pack, seal, copy, system sector, head. Each effect is recorded by a command before or after it,
//! so that a run that was cut is carried on by the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use zoneward_consensus::command::Command;
use zoneward_consensus::limits;
use zoneward_consensus::model::{CheckpointKind, CheckpointState, Ground, RefusedSource, Source, TaskState, TaskStats};
use zoneward_consensus::names;
use zoneward_sectors::diff::{Counts, Trouble};
use zoneward_sectors::entry::Stamp;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CheckpointId, LayerId, NodeId, SourceId};
use zoneward_sectors::index::ChunkIndex;
use zoneward_sectors::pack::{PackReport, Packer, Progress, Settings, Task};

use crate::clock::now_ms;
use crate::errors::{SOURCE_GONE, ZoneError};
use crate::freshness::refuse_older_home;
use crate::ground::moved;
use crate::open::chain;
use crate::provide::{Group, Provider};
use crate::reading::{Here, Outcome, Ready, make_ready};
use crate::retention;
use crate::settle;
use crate::survey::{Base, Compare, Survey, located, scan, source_path, survey};
use crate::told::{shorten, told};
use crate::zone::Zone;

/// Layers in a chain before a catalog is written whole again: reading a chain costs a little for each.
const CHAIN_MAX: usize = 16;
/// What is told of a source that could not be compared with what is stored of it.
const NO_BASE: &str =
    "all of it was stored anew: what is stored of it only the owner can read, and this node has no list of it";
/// What is told of a source parts of which were stored anew.
const READ_AGAIN: &str =
    "of a part of what was stored no whole copy is left: the files in it are stored again as far as they can be read";
/// Changes this close to the start may hide behind the clock's tick, milliseconds.
const RACY_MS: u64 = 30;

/// What to back up, and how.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// The sources, which the zone knows already.
    pub sources: Vec<SourceId>,
    pub kind: CheckpointKind,
    pub dry_run: bool,
    pub allow_empty: bool,
    /// This home is the right one, though a target shows that the zone went on without it.
    pub allow_older_home: bool,
    pub threads: usize,
}

/// What one source came to.
#[derive(Debug)]
pub struct SourceReport {
    pub source: SourceId,
    pub path: PathBuf,
    /// What it lay on when it was scanned.
    pub ground: Ground,
    /// Where it lies on this node.
    pub live: PathBuf,
    pub counts: Counts,
    pub troubles: Vec<Trouble>,
    pub packed: PackReport,
    /// What its commands and its snapshot gave reason to say.
    pub notes: Vec<String>,
    /// How many of the notes are of what failed.
    pub hooks_failed: u64,
}

impl SourceReport {
    /// Paths that could not be read, by the scan or by the packing.
    pub fn unread(&self) -> u64 {
        self.counts.unread + self.packed.unread_count
    }

    /// Its figures, as the zone keeps them.
    pub fn stats(&self) -> TaskStats {
        stats_of(self)
    }

    /// What went wrong with single paths, in words.
    pub fn warnings(&self) -> Vec<String> {
        warnings_of(self)
    }
}

/// What a backup came to.
#[derive(Debug)]
pub struct BackupReport {
    /// `None` for a dry run.
    pub checkpoint: Option<CheckpointId>,
    pub seq: u64,
    pub resumed: bool,
    pub sources: Vec<SourceReport>,
    /// Sources that were not backed up, and why: they keep what the last checkpoint holds of them.
    pub refused: Vec<ZoneError>,
    pub sectors: u64,
    pub stored_bytes: u64,
    pub settled: settle::Settled,
    /// What the zone's own rules no longer keep.
    pub retention: retention::Applied,
}

/// What a watcher is told.
#[derive(Debug)]
pub enum Event<'a> {
    Scanning(&'a std::path::Path),
    Scanned(&'a std::path::Path, &'a Counts),
    Packing { path: &'a std::path::Path, bytes: u64 },
    Finishing,
}

struct Planned {
    source: Source,
    live: PathBuf,
    ready: Ready,
    survey: Survey,
    base: Vec<LayerId>,
    /// Numbers of sectors that nothing is left of.
    gone: Arc<BTreeSet<u32>>,
    compare: Compare,
    group: Group,
}

/// Runs a backup.
pub fn backup(
    zone: &mut Zone,
    request: &BackupRequest,
    progress: &Arc<Progress>,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<BackupReport, ZoneError> {
    let started = now_ms();
    refuse_older_home(zone, request.allow_older_home)?;
    if !request.dry_run {
        settle::tidy(zone)?;
        crate::credit::tell(zone)?;
        crate::secrets::renew(zone)?;
    }
    let resumed = if request.dry_run { None } else { resumable(zone, request)? };
    let (mut planned, mut refused) = (Vec::new(), Vec::new());
    for id in &request.sources {
        let Some(source) = zone.state().sources.get(id).cloned() else { continue };
        match plan_source(zone, source, request, resumed, &progress.stop, tell) {
            Ok(p) => planned.push(p),
            // One source in trouble must not keep the others from being backed up.
            Err(e) if e.is_about_the_source() => refused.push(e),
            Err(e) => return Err(e),
        }
    }
    if planned.is_empty()
        && let Some(e) = refused.pop()
    {
        return Err(e);
    }
    let request = &BackupRequest { sources: planned.iter().map(|p| p.source.id).collect(), ..request.clone() };
    planned.sort_by_key(|p| std::cmp::Reverse(p.source.priority));
    if request.dry_run {
        let sources = planned.into_iter().map(|p| report_of(p, PackReport::default())).collect();
        let settled = settle::Settled::default();
        return Ok(BackupReport {
            checkpoint: None,
            seq: 0,
            resumed: false,
            sources,
            refused,
            sectors: 0,
            stored_bytes: 0,
            settled,
            retention: retention::Applied::default(),
        });
    }
    let checkpoint = match resumed {
        Some(id) => id,
        None => {
            let id = CheckpointId::random();
            fsx::point("open-checkpoint:before");
            let sources = request.sources.clone();
            let (checkpoint_kind, allow_empty) = (request.kind, request.allow_empty);
            zone.propose(Command::OpenCheckpoint { checkpoint: id, checkpoint_kind, sources, allow_empty })?;
            fsx::point("open-checkpoint:after");
            id
        }
    };
    let (sources, sectors, stored_bytes) = pack_all(zone, checkpoint, planned, request, started, progress, tell)?;
    tell(Event::Finishing);
    fsx::point("store-checkpoint:before");
    zone.propose(Command::StoreCheckpoint { checkpoint })?;
    fsx::point("store-checkpoint:after");
    let settled = settle::settle(zone, request.threads, &progress.stop)?;
    let retention = retention::apply(zone)?;
    let seq = zone.state().checkpoints.get(&checkpoint).map_or(0, |c| c.seq);
    let resumed = resumed.is_some();
    Ok(BackupReport {
        checkpoint: Some(checkpoint),
        seq,
        resumed,
        sources,
        refused,
        sectors,
        stored_bytes,
        settled,
        retention,
    })
}

/// Packs sources of a checkpoint under the lease that this handle works with: from where sealed work of them ended. A
/// source in trouble is left to another node if `others` says that one of those answers, else it is refused; the other
/// sources go on.
pub fn pack_sources(
    zone: &mut Zone,
    checkpoint: CheckpointId,
    sources: &[SourceId],
    threads: usize,
    progress: &Arc<Progress>,
    others: &dyn Fn(&[NodeId]) -> bool,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<(), ZoneError> {
    let started = now_ms();
    let known = zone.state().checkpoints.get(&checkpoint);
    let known = known.ok_or(ZoneError::State { what: "a checkpoint that is being made" })?;
    if known.rewrite.is_some() {
        return crate::rewrite::or_give_up(zone, checkpoint, sources, threads, progress);
    }
    let (kind, allow_empty) = (known.kind, known.allow_empty);
    let request = BackupRequest {
        sources: sources.to_vec(),
        kind,
        dry_run: false,
        allow_empty,
        allow_older_home: false,
        threads,
    };
    let mut planned = Vec::new();
    for id in sources {
        let Some(source) = zone.state().sources.get(id).cloned() else {
            let gone = RefusedSource { source: *id, code: SOURCE_GONE, why: "the source was removed".into() };
            zone.propose(Command::RefuseTask { checkpoint, refused: gone })?;
            continue;
        };
        let mut left: Vec<NodeId> = zone.state().left_to(checkpoint, &source, now_ms()).into_iter().collect();
        left.retain(|id| *id != zone.node());
        match plan_source(zone, source, &request, Some(checkpoint), &progress.stop, tell) {
            Ok(p) => planned.push(p),
            Err(e) if e.is_about_the_source() => {
                zone.propose(in_trouble(zone, checkpoint, *id, &e, &left, others))?;
            }
            Err(e) => return Err(e),
        }
    }
    if planned.is_empty() {
        return Ok(());
    }
    planned.sort_by_key(|p| std::cmp::Reverse(p.source.priority));
    pack_all(zone, checkpoint, planned, &request, started, progress, tell).map(|_| ())
}

/// What becomes of a source that this node cannot read: another node may try if one answers, but each leaves it to the others
/// once only, so that a checkpoint ends.
fn in_trouble(
    zone: &Zone,
    checkpoint: CheckpointId,
    source: SourceId,
    e: &ZoneError,
    left: &[NodeId],
    others: &dyn Fn(&[NodeId]) -> bool,
) -> Command {
    let state = zone.state();
    let task = state.checkpoints.get(&checkpoint).and_then(|c| c.tasks.iter().find(|t| t.source == source));
    let passed = task.is_some_and(|t| t.passed.contains_key(&zone.node()));
    let answer = !left.is_empty() && others(left);
    let away: Vec<&str> = left.iter().filter_map(|id| Some(&state.nodes.get(id)?.name[..])).collect();
    let more = match (answer, away.is_empty()) {
        (false, false) => format!("; not heard, and may be able to read it: {}", away.join(", ")),
        _ => String::new(),
    };
    let why = shorten(chain(e) + &more, limits::WHY_LEN_MAX - 4);
    let refused = RefusedSource { source, code: e.source_code(), why };
    match answer && !passed {
        true => Command::PassTask { checkpoint, refused },
        false => Command::RefuseTask { checkpoint, refused },
    }
}

fn report_of(mut p: Planned, packed: PackReport) -> SourceReport {
    SourceReport {
        source: p.source.id,
        path: source_path(&p.source),
        ground: p.survey.ground,
        live: p.live,
        counts: p.survey.counts,
        troubles: p.survey.troubles,
        packed,
        notes: std::mem::take(&mut p.ready.notes),
        hooks_failed: p.ready.failed,
    }
}

/// A checkpoint that was cut and is the one asked for now; any other that was cut is given up.
fn resumable(zone: &mut Zone, request: &BackupRequest) -> Result<Option<CheckpointId>, ZoneError> {
    let cut: Vec<_> = zone
        .state()
        .checkpoints
        .values()
        .filter(|c| c.state == CheckpointState::Running)
        .map(|c| {
            let mut mine: Vec<_> = c.tasks.iter().filter(|t| t.state != TaskState::Carried).map(|t| t.source).collect();
            let mut asked = request.sources.clone();
            mine.sort();
            asked.sort();
            (c.id, c.kind == request.kind && c.rewrite.is_none() && mine == asked)
        })
        .collect();
    let mut found = None;
    for (checkpoint, same) in cut {
        if same && found.is_none() {
            zone.propose(Command::ResumeCheckpoint { checkpoint })?;
            found = Some(checkpoint);
        } else {
            zone.propose(Command::AbandonCheckpoint { checkpoint })?;
        }
        settle::tidy(zone)?;
    }
    Ok(found)
}

/// The layers a source is compared with.
fn base_of(zone: &Zone, source: SourceId, request: &BackupRequest, resumed: Option<CheckpointId>) -> Vec<LayerId> {
    if let Some(c) = resumed.and_then(|id| zone.state().checkpoints.get(&id)) {
        return c.tasks.iter().find(|t| t.source == source).map(|t| t.layers.clone()).unwrap_or_default();
    }
    zone.state().base_chain(source, request.kind)
}

fn plan_source(
    zone: &Zone,
    source: Source,
    request: &BackupRequest,
    resumed: Option<CheckpointId>,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Planned, ZoneError> {
    let path = source_path(&source);
    let live = located(zone.state(), zone.node(), &source)?;
    tell(Event::Scanning(&path));
    let mut base = base_of(zone, source.id, request, resumed);
    let mut compare = match request.kind {
        CheckpointKind::Full if resumed.is_none() => Compare::All,
        _ => Compare::Changes,
    };
    let opener = zone.opener();
    // What only the owner can read cannot be built upon where its catalog is not kept: this begins anew.
    let closed = !zone.catalogs(&opener).are_open(&base);
    if closed {
        (base, compare) = (Vec::new(), Compare::All);
    }
    // What nothing is left of is read again, and nothing that comes after builds on it.
    let under = zone.state().gone_under(&base);
    let gone = Arc::new(under.iter().map(|s| zone.table().number(*s)).collect());
    if compare == Compare::Changes && !under.is_empty() {
        compare = Compare::WholeCatalog;
        if !zone.catalogs(&opener).are_readable(&base, &under) {
            (base, compare) = (Vec::new(), Compare::All);
        }
    }
    let entries = zone.catalogs(&opener).entries(&base)?;
    let mut ready = match request.dry_run {
        true => Ready::live(live.clone()),
        false => {
            let name = zone.state().nodes.get(&zone.node()).map_or("", |n| n.name.as_str());
            let here = Here { home: zone.home.dir(), node: name };
            make_ready(here, &source, live.clone(), stop)?
        }
    };
    ready.notes.extend(closed.then(|| NO_BASE.to_owned()));
    ready.notes.extend((!under.is_empty()).then(|| READ_AGAIN.to_owned()));
    let against = Base { entries, gone: Arc::clone(&gone) };
    let survey = survey(&source, &live, &ready.root, against, compare, request.threads, stop)?;
    let before = source.grounds.get(&zone.node());
    refuse_odd_source(&source, before, &live, held_files(zone, source.id), &survey, request)?;
    if compare == Compare::Changes && base.len() >= CHAIN_MAX && survey.any_change {
        compare = Compare::WholeCatalog;
    }
    tell(Event::Scanned(&path, &survey.counts));
    let group = Group { copies: zone.state().copies_wanted(&source), write_only: source.write_only };
    Ok(Planned { source, live, ready, survey, base, gone, compare, group })
}

/// Files that the newest checkpoint holds of a source.
fn held_files(zone: &Zone, source: SourceId) -> u64 {
    let complete = zone.state().complete();
    let tasks = complete.iter().rev().find_map(|c| c.tasks.iter().find(|t| t.source == source));
    tasks.map_or(0, |t| t.stats.files)
}

/// A source that held files and is empty now, or lies elsewhere: a person decides.
fn refuse_odd_source(
    source: &Source,
    before: Option<&Ground>,
    live: &Path,
    held_files: u64,
    survey: &Survey,
    request: &BackupRequest,
) -> Result<(), ZoneError> {
    if request.allow_empty {
        return Ok(());
    }
    let path = source_path(source);
    if let Some((path, was, now)) = before.and_then(|was| moved(live, was, &survey.ground)) {
        return Err(ZoneError::SourceMoved { path, was, now });
    }
    let c = &survey.counts;
    let held = source.last_entries;
    let nothing = c.files + c.dirs + c.others <= 1 && held > 1;
    // Directories and links alone are what is left of a mount, or of a deletion.
    if c.files == 0 && c.unread == 0 && (nothing || held_files > 0) {
        return Err(ZoneError::SourceEmpty { path, held });
    }
    Ok(())
}

fn stats_of(r: &SourceReport) -> TaskStats {
    let (counts, packed) = (&r.counts, &r.packed);
    TaskStats {
        files: counts.files.saturating_sub(packed.absent),
        dirs: counts.dirs,
        others: counts.others,
        bytes: counts.bytes.saturating_sub(packed.absent_bytes),
        new_files: counts.new.saturating_sub(packed.absent),
        changed_files: counts.changed,
        removed: counts.gone,
        new_bytes: packed.new_bytes,
        unread: counts.unread + packed.unread_count,
        sockets: counts.sockets,
        excluded: counts.excluded + counts.caches + counts.other_file_systems + counts.kernel,
        unsteady: packed.unsteady_count,
        vanished: counts.vanished + packed.vanished,
        hooks_failed: r.hooks_failed,
    }
}

fn warnings_of(r: &SourceReport) -> Vec<String> {
    let seen = r.troubles.iter().filter(|t| !t.vanished);
    let scan = seen.map(|t| told(&t.path, &format!("cannot {}: {}", t.what, t.error)));
    let unread = r.packed.unread.iter().map(|(p, why)| told(p, why));
    let unsteady = r.packed.unsteady.iter().map(|p| told(p, "changed while it was read"));
    let mut room = limits::WARNINGS_LEN_MAX;
    // What concerns one path comes first: the first of it is shown as such.
    let paths = scan.chain(unread).chain(unsteady).take(limits::WARNINGS_MAX.saturating_sub(r.notes.len()));
    paths
        .chain(r.notes.iter().cloned())
        .map(|w| shorten(w, limits::WARNING_LEN_MAX))
        .take(limits::WARNINGS_MAX)
        .take_while(|w| {
            let len = serde_json::to_string(w).map_or(usize::MAX, |json| json.len());
            let fits = room >= len;
            room = room.saturating_sub(len);
            fits
        })
        .collect()
}

fn pack_all(
    zone: &mut Zone,
    checkpoint: CheckpointId,
    planned: Vec<Planned>,
    request: &BackupRequest,
    started: u64,
    progress: &Arc<Progress>,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<(Vec<SourceReport>, u64, u64), ZoneError> {
    for p in &planned {
        settle::raise_copies(zone, &p.base, &p.survey.relies_on, p.group.copies)?;
    }
    let mut reports = Vec::new();
    // One retention group after another: what lies in one sector has the same number of copies and expires together.
    let mut groups: BTreeMap<std::cmp::Reverse<Group>, Vec<Planned>> = BTreeMap::new();
    for p in planned {
        groups.entry(std::cmp::Reverse(p.group)).or_default().push(p);
    }
    let (mut sectors, mut stored) = (0, 0);
    for (of, group) in groups {
        let (mut done, n, bytes) = pack_group(zone, checkpoint, of.0, group, request, started, progress, tell)?;
        reports.append(&mut done);
        sectors += n;
        stored += bytes;
    }
    for r in &reports {
        finish_task(zone, checkpoint, r)?;
    }
    Ok((reports, sectors, stored))
}

fn finish_task(zone: &mut Zone, checkpoint: CheckpointId, r: &SourceReport) -> Result<(), ZoneError> {
    fsx::point("finish-task:before");
    zone.propose(Command::FinishTask {
        checkpoint,
        source: r.source,
        stats: stats_of(r),
        warnings: warnings_of(r),
        ground: Some(r.ground.clone()),
        entries: r.counts.files + r.counts.dirs + r.counts.others,
    })?;
    fsx::point("finish-task:after");
    Ok(())
}

#[allow(clippy::too_many_arguments)] // One private step of a backup, with all of the backup's context.
fn pack_group(
    zone: &mut Zone,
    checkpoint: CheckpointId,
    of: Group,
    group: Vec<Planned>,
    request: &BackupRequest,
    started: u64,
    progress: &Arc<Progress>,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<(Vec<SourceReport>, u64, u64), ZoneError> {
    let settings = Settings {
        threads: request.threads,
        zstd_level: zone.state().zone.as_ref().map_or(3, |z| z.zstd_level),
        racy_after: stamp_of(started.saturating_sub(RACY_MS)),
        meagre: of.apart(zone),
    };
    let index = if request.kind == CheckpointKind::Full {
        ChunkIndex::in_memory(zone.table())
    } else {
        // Nothing new may rely on what no copy is left of.
        let stored: BTreeSet<_> = zone.state().copies.values().filter(|c| c.is_stored()).map(|c| c.sector).collect();
        let alive = |s| stored.contains(&s) && zone.state().sectors.get(&s).is_some_and(|r| r.is_sealed());
        let index = ChunkIndex::open(&zone.home.index(), zone.table(), &alive)
            .map_err(crate::home::io_at("open", &zone.home.index()))?;
        if !index.knows_older() {
            crate::chunks::learn(zone, &index, &alive)?;
        }
        index
    };
    let (keys, table) = (zone.keys().clone(), zone.table().clone());
    let opener = zone.opener();
    let mut todo = Vec::new();
    for p in group {
        let layer = LayerId::random();
        if p.survey.any_change {
            let full = p.compare != Compare::Changes || p.base.is_empty();
            zone.propose(Command::OpenLayer { layer, checkpoint, source: p.source.id, full })?;
        }
        todo.push((p, layer));
    }
    let mut after: u64 = todo.iter().map(|(p, _)| estimate(&p.survey)).sum();
    let min_priority = todo.iter().map(|(p, _)| p.source.priority).min().unwrap_or(0);
    let mut scans = Vec::new();
    for (p, _) in &mut todo {
        // The changes of a survey are used up; where there were too many to keep, the source is scanned again.
        let changes: Box<dyn Iterator<Item = _> + Send> = match p.survey.changes.take() {
            Some(kept) if p.compare != Compare::WholeCatalog => Box::new(kept.into_iter().map(Ok)),
            _ => {
                let entries = zone.catalogs(&opener).entries(&p.base)?;
                Box::new(scan(&p.source, &p.ready.root, entries, &p.gone, p.compare, request.threads)?)
            }
        };
        scans.push(changes);
    }
    let mut provider = Provider::new(zone, checkpoint, of, min_priority)?;
    let mut packer = Packer::new(&settings, &index, &table, keys.gear(), *keys.fingerprint_key(), &mut provider)?;
    let mut reports = Vec::new();
    let mut failed = None;
    for ((mut p, layer), changes) in todo.into_iter().zip(scans) {
        let bytes = estimate(&p.survey);
        after = after.saturating_sub(bytes);
        let path = source_path(&p.source);
        let mut packed = PackReport::default();
        if p.survey.any_change && failed.is_none() {
            tell(Event::Packing { path: &path, bytes: p.survey.counts.changed_bytes });
            let prefix = names::inside(&p.source.path);
            let (root, clones) = (p.ready.root.clone(), p.ready.clones);
            let task = Task { source: p.source.id, layer, prefix, root, clones, estimate: bytes };
            match packer.run(&task, changes, after, progress) {
                Ok(r) => packed = r,
                Err(e) => failed = Some(e),
            }
        } else {
            // It may hold files of the snapshot open.
            drop(changes);
        }
        p.ready.end(if failed.is_none() { Outcome::Read } else { Outcome::Failed });
        reports.push(report_of(p, packed));
    }
    let finished = match failed {
        Some(e) => Err(e),
        None => packer.finish(),
    };
    let (sectors, bytes) = (provider.sectors, provider.stored_bytes);
    if let Err(e) = finished {
        provider.abandon();
        return Err(match e {
            zoneward_sectors::pack::PackError::Interrupted => ZoneError::Interrupted,
            e => e.into(),
        });
    }
    if request.kind != CheckpointKind::Full {
        index.commit().map_err(crate::home::io_at("write", &zone.home.index()))?;
    }
    Ok((reports, sectors, bytes))
}

/// Bytes a source will bring, about: content without holes, and headers and catalog lines for each entry.
fn estimate(s: &Survey) -> u64 {
    s.counts.changed_data + 1024 * (s.counts.new + s.counts.changed + s.counts.again)
}

fn stamp_of(ms: u64) -> Stamp {
    Stamp { secs: (ms / 1000) as i64, nanos: (ms % 1000) as u32 * 1_000_000 }
}
