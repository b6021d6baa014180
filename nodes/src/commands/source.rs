//! `source`: what the zone backs up, and how it is read.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use zoneward_actors::keyless::forget_keys;
use zoneward_actors::reading::allowed;
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{Checkpoint, CheckpointState, Source, State, TaskState};
use zoneward_consensus::names;
use zoneward_consensus::reading::{Reading, SnapshotKind};
use zoneward_sectors::ids::{NodeId, SectorId, SourceId};
use zoneward_targets::Url;

use super::{as_stored, open};
use crate::cli::{Global, ReadingArgs, SourceArgs, SourceCommand};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::show_path;

pub fn source(g: &Global, out: Out, command: SourceCommand) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    let said = match command {
        SourceCommand::Ls => None,
        SourceCommand::Add(a) => {
            let id = remember(&mut zone, &a, a.exclude.clone())?.id;
            Some(format!("source {id} added; zoneward backup takes it from now on"))
        }
        SourceCommand::Set(a) => {
            let old = zone.state().sources.get(&find_source(zone.state(), a.path.as_os_str())?).cloned();
            let path = old.as_ref().map(|s| s.path.clone()).unwrap_or_default();
            let was = old.as_ref().is_some_and(|s| s.write_only);
            let id = put(&mut zone, old, path, &a, a.exclude.clone())?.id;
            tell_write_only(&zone, out, id, was);
            tell_others(&zone, out, id, &a.reading);
            Some(format!("source {id} is set; the next backup reads it so"))
        }
        SourceCommand::Allow { source } => Some(allow(&zone, out, &source)?),
        SourceCommand::ForgetKeys { source } => Some(forget_older(&mut zone, &source)?),
        SourceCommand::Remove { source } => {
            let id = find_source(zone.state(), &source)?;
            zone.propose(Command::RemoveSource { source: id })?;
            Some("it is no longer backed up; what is stored stays".into())
        }
    };
    if let Some(said) = said {
        out.say(said);
        if !out.json {
            return Ok(0);
        }
    }
    list(out, zone.state());
    Ok(0)
}

fn list(out: Out, state: &State) {
    let all: Vec<_> = state.sources.values().collect();
    out.json(&serde_json::json!({"schema": "zoneward.sources/1", "sources": all.iter().map(|s| serde_json::json!({
        "id": s.id, "path": show_path(&s.path), "priority": s.priority, "copies": state.copies_wanted(s), "write_only": s.write_only, "nodes": s.nodes,
        "excludes": s.excludes, "exclude_caches": s.exclude_caches, "one_file_system": s.one_file_system, "entries": s.last_entries,
        "before": s.reading.before, "after": s.reading.after, "hook_limit_s": s.reading.limit_s,
        "snapshot": s.reading.snapshot.name(), "snapshot_command": s.reading.snapshot_command,
    })).collect::<Vec<_>>()}));
    for s in all {
        out.answer(format!("{:>4}  {} copies  {}", s.priority, state.copies_wanted(s), show_path(&s.path)));
        if s.write_only {
            out.answer("      write-only: restoring asks for the owner's key");
        }
        if s.reading.snapshot != SnapshotKind::Auto {
            out.answer(format!("      snapshot: {}", s.reading.snapshot.name()));
        }
        for (what, text) in s.reading.commands() {
            out.answer(format!("      {what}: {}", crate::output::one_line(text)));
        }
    }
}

/// A source by its path, its id, or the beginning of its id.
pub(super) fn find_source(state: &State, text: &OsStr) -> Result<SourceId, Failure> {
    let path = as_stored(Path::new(text))?;
    if let Some(s) = state.source_at(path.as_os_str().as_bytes()) {
        return Ok(s.id);
    }
    let shown = show_path(text.as_bytes());
    let id_fits = |id: &&SourceId| text.len() >= 4 && id.to_string().as_bytes().starts_with(text.as_bytes());
    let mut fits = state.sources.keys().filter(id_fits);
    match (fits.next(), fits.next()) {
        (Some(id), None) => Ok(*id),
        _ => {
            Err(Failure::new(1408, exit::FAILED, format!("{shown} is not a source"))
                .help("zoneward source ls lists them"))
        }
    }
}

/// Number of the error for a path that is not there or cannot be read.
pub(super) const UNREADABLE: u16 = 1403;

/// The path under which a source is kept: real, absolute.
fn real_path(path: &Path) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(path).map_err(|e| {
        Failure::new(UNREADABLE, exit::FAILED, format!("the source {} cannot be read", path.display()))
            .why(e.to_string())
            .help("name a path that is there; zoneward source ls lists the known ones")
    })
}

/// What a command line changed of a source, so that it can be put back.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub id: SourceId,
    /// As it was before it was changed; `None` if it is new.
    before: Option<Source>,
    changed: bool,
}

/// Puts sources back as they were that no backup took: a try, or a backup that was refused, changes no setting.
pub(super) fn put_back(zone: &mut Zone, remembered: Vec<Remembered>, last_seq: u64) -> Result<(), Failure> {
    zone.refresh();
    for r in remembered.into_iter().filter(|r| r.changed) {
        let since = |c: &&Checkpoint| c.seq > last_seq || c.state == CheckpointState::Running;
        let taken = |c: &Checkpoint| c.tasks.iter().any(|t| t.source == r.id && t.state != TaskState::Carried);
        if zone.state().checkpoints.values().filter(since).any(taken) {
            continue;
        }
        zone.propose(match r.before {
            Some(source) => Command::PutSource { source },
            None => Command::RemoveSource { source: r.id },
        })?;
    }
    Ok(())
}

/// Makes a path a source, or changes the settings of one.
pub(crate) fn remember(zone: &mut Zone, a: &SourceArgs, patterns: Vec<String>) -> Result<Remembered, Failure> {
    if let Some(name) = dfs_name(&a.path) {
        let raw = names::one_form(a.path.as_os_str().as_bytes());
        if !names::is_source_path(&raw) || !zone.state().policy.names.contains_key(&name) {
            return Err(Failure::new(
                1414,
                exit::USAGE,
                format!("{} is no dfs name that the zone knows", a.path.display()),
            )
            .help("zoneward dfs map NAME PATH says where one lies; zoneward dfs ls lists them"));
        }
        let old = zone.state().source_at(&raw).cloned();
        return put(zone, old, raw, a, patterns);
    }
    let path = real_path(&a.path)?;
    let raw = path.as_os_str().as_bytes().to_vec();
    if zone.home.dir().canonicalize().is_ok_and(|h| h.starts_with(&path) && h != path) {
        // The zone's own home changes while it is backed up; the zone's state is backed up by itself anyway.
        crate::output::tell(&format!(
            "note: {} holds the zone's home; its files are stored as they are found",
            path.display()
        ));
    }
    for t in zone.state().targets.values() {
        let Ok(Url::File(dir)) = Url::parse_or_path(&t.url) else { continue };
        if dir.canonicalize().is_ok_and(|d| d.starts_with(&path)) {
            crate::output::tell(&format!(
                "note: {} holds the target {}: each backup stores the backups before it again; leave it out with --exclude",
                path.display(),
                t.name
            ));
        }
    }
    let old = zone.state().source_at(&raw).cloned();
    put(zone, old, raw, a, patterns)
}

/// The name, if it is a dfs path.
fn dfs_name(path: &Path) -> Option<String> {
    names::name_of(path.as_os_str().as_bytes()).map(str::to_owned)
}

fn put(
    zone: &mut Zone,
    old: Option<Source>,
    path: Vec<u8>,
    a: &SourceArgs,
    patterns: Vec<String>,
) -> Result<Remembered, Failure> {
    let reading = reading_of(old.as_ref().map_or_else(Reading::default, |s| s.reading.clone()), &a.reading)?;
    let source = Source {
        id: old.as_ref().map_or_else(SourceId::random, |s| s.id),
        path,
        priority: a.priority.or(old.as_ref().map(|s| s.priority)).unwrap_or(0),
        copies: a.copies.or(old.as_ref().and_then(|s| s.copies)),
        excludes: if patterns.is_empty() {
            old.as_ref().map(|s| s.excludes.clone()).unwrap_or_default()
        } else {
            patterns
        },
        exclude_caches: a.exclude_caches || old.as_ref().is_some_and(|s| s.exclude_caches),
        one_file_system: a.one_file_system || old.as_ref().is_some_and(|s| s.one_file_system),
        added_ms: 0,
        grounds: Default::default(),
        last_entries: 0,
        nodes: readers(zone, a, old.as_ref())?,
        reading,
        write_only: !a.zone_readable && (a.write_only || old.as_ref().is_some_and(|s| s.write_only)),
    };
    // What was typed here, this node may run; before the zone knows of it, for a backup may begin at once.
    allowed::allow(zone.home.dir(), source.id, &typed(&a.reading))?;
    let (id, reading, write_only) = (source.id, source.reading.clone(), source.write_only);
    let same = old.as_ref().is_some_and(|o| {
        (&o.excludes, o.priority, o.copies, o.exclude_caches, o.one_file_system, &o.nodes)
            == (
                &source.excludes,
                source.priority,
                source.copies,
                source.exclude_caches,
                source.one_file_system,
                &source.nodes,
            )
    });
    if !same {
        zone.propose(Command::PutSource { source })?;
    }
    if old.as_ref().is_some_and(|o| o.reading != reading) {
        zone.propose(Command::SetReading { source: id, reading })?;
    }
    if old.as_ref().is_some_and(|o| o.write_only != write_only) {
        zone.propose(Command::SetWriteOnly { source: id, write_only, older: false })?;
    }
    Ok(Remembered { id, before: old, changed: !same })
}

/// The nodes that can read a source: this one, unless something else is said or was said before.
fn readers(zone: &Zone, a: &SourceArgs, old: Option<&Source>) -> Result<Vec<NodeId>, Failure> {
    if a.shared {
        return Ok(Vec::new());
    }
    if a.node.is_empty() {
        return Ok(match old {
            Some(s) => s.nodes.clone(),
            // Where a dfs name lies, it can be read.
            None if dfs_name(&a.path).is_some() => Vec::new(),
            None => vec![zone.node()],
        });
    }
    let mut all = a.node.iter().map(|n| super::node_by_name(zone.state(), n)).collect::<Result<Vec<_>, _>>()?;
    all.sort();
    all.dedup();
    Ok(all)
}

/// How a source is read, with what was typed put into it.
fn reading_of(mut r: Reading, a: &ReadingArgs) -> Result<Reading, Failure> {
    let put = |old: &mut Option<String>, new: &Option<String>| {
        if let Some(text) = new {
            *old = Some(text.clone()).filter(|t| !t.trim().is_empty());
        }
    };
    put(&mut r.before, &a.before);
    put(&mut r.after, &a.after);
    put(&mut r.snapshot_command, &a.snapshot_command);
    r.limit_s = a.hook_limit.unwrap_or(r.limit_s);
    r.snapshot = a.snapshot.unwrap_or(r.snapshot);
    if r.snapshot != SnapshotKind::Command && a.snapshot_command.is_none() {
        r.snapshot_command = None;
    }
    match r.fault() {
        None => Ok(r),
        Some("the snapshot's command") => {
            Err(Failure::new(1413, exit::USAGE, "--snapshot command and --snapshot-command CMD go together"))
        }
        Some(what) => Err(Failure::new(1413, exit::USAGE, format!("{what} cannot be used"))
            .why(format!("it may have {} bytes", zoneward_consensus::limits::HOOK_LEN_MAX))),
    }
}

/// The commands that were typed, without those that were there before.
fn typed(a: &ReadingArgs) -> Reading {
    let (before, after, snapshot_command) = (a.before.clone(), a.after.clone(), a.snapshot_command.clone());
    Reading { before, after, snapshot_command, ..Reading::default() }
}

fn tell_others(zone: &Zone, out: Out, id: SourceId, typed_here: &ReadingArgs) {
    let Some(s) = zone.state().sources.get(&id) else { return };
    let others = zone.state().nodes.keys().any(|n| *n != zone.node() && zone.state().can_read(*n, s));
    if others && typed(typed_here).commands().next().is_some() {
        out.say(format!(
            "other nodes that read it run these commands once they are allowed there: zoneward source allow {}",
            show_path(&s.path)
        ));
    }
}

/// What a change between readable and write-only leaves as it was.
fn tell_write_only(zone: &Zone, out: Out, id: SourceId, was: bool) {
    let Some(s) = zone.state().sources.get(&id).filter(|s| s.write_only != was) else { return };
    let stored = zone.state().layers.values().any(|l| l.source == id);
    match (s.write_only, stored) {
        (true, true) => out.say(format!(
            "what was stored of it before can still be read by the zone, until: zoneward source forget-keys {}",
            show_path(&s.path)
        )),
        (false, true) => out.say("what was stored of it before stays as it is: only the owner's key opens it"),
        (_, false) => {}
    }
}

/// Has the zone forget the keys of what was stored before the source was write-only.
fn forget_older(zone: &mut Zone, text: &OsStr) -> Result<String, Failure> {
    let id = find_source(zone.state(), text)?;
    if !zone.state().sources.get(&id).is_some_and(|s| s.write_only) {
        return Err(Failure::new(1692, exit::REFUSED, format!("{} is not write-only", show_path(text.as_bytes())))
            .why("the zone would go on storing what it can read")
            .help("first: zoneward source set PATH --write-only"));
    }
    zone.propose(Command::SetWriteOnly { source: id, write_only: true, older: true })?;
    forget_keys(zone)?;
    let (left, shared) = older_left(zone.state(), id);
    let mut said = "its keys are forgotten: only the owner's key opens what is stored of it".to_owned();
    if left > 0 {
        said =
            format!("{left} sectors keep their keys until their copies are made; then only the owner's key opens them");
    }
    if shared > 0 {
        said += &format!("; {shared} sectors that a source needs which the zone may read stay readable");
    }
    Ok(said)
}

/// Sectors of a source that still have keys, and of them those that keep them.
fn older_left(state: &State, id: SourceId) -> (usize, usize) {
    let mine = state.layers.values().filter(|l| l.source == id).map(|l| &l.id);
    let open: Vec<_> = state.needed_by(mine).0.difference(&state.keyless()).copied().collect();
    let marked = |s: &&SectorId| state.sectors.get(s).is_some_and(|s| s.write_only);
    let left = open.iter().filter(marked).count();
    (left, open.len() - left)
}

fn allow(zone: &Zone, out: Out, text: &OsStr) -> Result<String, Failure> {
    let id = find_source(zone.state(), text)?;
    let Some(s) = zone.state().sources.get(&id) else { return Ok(String::new()) };
    for (what, text) in s.reading.commands() {
        out.say(format!("{what}: {}", crate::output::one_line(text)));
    }
    allowed::allow(zone.home.dir(), id, &s.reading)?;
    Ok(format!("this node runs the commands of {} as they are now", show_path(&s.path)))
}
