//! `backup`.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use zoneward_actors::backup::{BackupReport, BackupRequest, Event, backup as run_backup};
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{CheckpointKind, Source};
use zoneward_sectors::glob::{Excludes, parse_patterns_file};
use zoneward_sectors::ids::SourceId;
use zoneward_sectors::pack::Progress;

use super::{open, threads};
use crate::cli::{BackupArgs, Global, SourceArgs};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::progress::{Display, Meter};
use crate::units::{bytes, count, duration, plural, show_path};

fn patterns(a: &BackupArgs) -> Result<Vec<String>, Failure> {
    let mut all = a.exclude.clone();
    for path in &a.exclude_from {
        let fail = |why: String| Failure::new(1405, exit::USAGE, format!("{} cannot be used", path.display())).why(why);
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        all.extend(parse_patterns_file(&text).map_err(|e| fail(e.to_string()))?);
    }
    Excludes::new(&all, a.exclude_caches)
        .map_err(|e| Failure::new(1406, exit::USAGE, "an exclude pattern is wrong").why(e.to_string()))?;
    Ok(all)
}

/// The path under which a source is kept: real, absolute.
fn real_path(path: &std::path::Path) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(path).map_err(|e| {
        Failure::new(1403, exit::FAILED, format!("the source {} cannot be read", path.display())).why(e.to_string())
    })
}

/// Makes a path a source, or changes the settings of one.
pub(crate) fn remember(zone: &mut Zone, a: &SourceArgs, patterns: Vec<String>) -> Result<SourceId, Failure> {
    let path = real_path(&a.path)?;
    let raw = path.as_os_str().as_bytes().to_vec();
    if zone.home.dir().canonicalize().is_ok_and(|h| h.starts_with(&path) && h != path) {
        // The zone's own home changes while it is backed up; the zone's state is backed up by itself anyway.
        eprintln!("note: {} holds the zone's home; its files are stored as they are found", path.display());
    }
    let old = zone.state().source_at(&raw).cloned();
    let source = Source {
        id: old.as_ref().map_or_else(SourceId::random, |s| s.id),
        path: raw,
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
        last_mount: None,
        last_entries: 0,
    };
    let id = source.id;
    let same = old.as_ref().is_some_and(|o| {
        (&o.excludes, o.priority, o.copies, o.exclude_caches, o.one_file_system)
            == (&source.excludes, source.priority, source.copies, source.exclude_caches, source.one_file_system)
    });
    if !same {
        zone.propose(Command::PutSource { source })?;
    }
    Ok(id)
}

fn chosen_sources(zone: &mut Zone, a: &BackupArgs) -> Result<Vec<SourceId>, Failure> {
    let patterns = patterns(a)?;
    let mut ids = Vec::new();
    for path in &a.paths {
        let args = SourceArgs {
            path: path.clone(),
            priority: a.priority,
            copies: a.copies,
            exclude: Vec::new(),
            exclude_caches: a.exclude_caches,
            one_file_system: a.one_file_system,
        };
        let id = remember(zone, &args, patterns.clone())?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if a.paths.is_empty() {
        ids = zone.state().sources.keys().copied().collect();
    }
    if ids.is_empty() {
        return Err(Failure::new(1407, exit::USAGE, "there is nothing to back up")
            .why("the zone knows no source yet")
            .help("name one: zoneward backup ~/Documents"));
    }
    Ok(ids)
}

pub fn backup(g: &Global, out: Out, a: &BackupArgs) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    for u in zone.unreachable() {
        out.warn(format!("target {} cannot be used: {}", u.name, crate::errors::chain(&u.error)));
    }
    let kind = match (a.full, a.differential) {
        (true, _) => CheckpointKind::Full,
        (_, true) => CheckpointKind::Differential,
        _ => CheckpointKind::Incremental,
    };
    let sources = chosen_sources(&mut zone, a)?;
    let request = BackupRequest { sources, kind, dry_run: a.dry_run, allow_empty: a.allow_empty, threads: threads() };
    let started = Instant::now();
    let report = with_progress(g, &mut zone, &request)?;
    Ok(tell(out, &zone, &report, started.elapsed().as_secs_f64()))
}

/// Runs a backup with its progress shown.
pub(crate) fn with_progress(g: &Global, zone: &mut Zone, request: &BackupRequest) -> Result<BackupReport, Failure> {
    let progress = Arc::new(Progress { stop: crate::interrupt::stop(), ..Progress::default() });
    let meter = Arc::new(Meter::default());
    meter.bytes.store(true, Ordering::Relaxed);
    let shown = {
        let progress = progress.clone();
        Display::start(g, meter.clone(), move |m| {
            m.done.store(progress.read.load(Ordering::Relaxed), Ordering::Relaxed)
        })
    };
    let label = |text: String| *meter.label.lock().unwrap_or_else(|e| e.into_inner()) = text;
    let report = run_backup(zone, request, &progress, &mut |event| match event {
        Event::Scanning(p) => label(format!("scanning {}", p.display())),
        Event::Scanned(_, c) => {
            meter.total.fetch_add(c.changed_bytes, Ordering::Relaxed);
        }
        Event::Packing { path, .. } => label(format!("{}", path.display())),
        Event::Finishing => label("copies and system data".into()),
    })?;
    drop(shown);
    Ok(report)
}

/// Says what came of it; answers the exit code.
pub(crate) fn tell(out: Out, zone: &Zone, r: &BackupReport, seconds: f64) -> i32 {
    let unread: u64 = r.sources.iter().map(|s| s.unread()).sum();
    let unsteady: u64 = r.sources.iter().map(|s| s.packed.unsteady_count).sum();
    for s in &r.sources {
        tell_source(out, s);
    }
    for f in &r.settled.failed {
        out.warn(f);
    }
    let refused: Vec<Failure> = r.refused.iter().map(crate::translate::of_source).collect();
    for f in &refused {
        eprintln!("{f}");
    }
    let incomplete = unread + unsteady > 0 || !r.settled.failed.is_empty() || !refused.is_empty();
    let state = zone.state();
    let targets = state.usable_targets().count();
    let wanted = r
        .sources
        .iter()
        .filter_map(|s| state.sources.get(&s.source))
        .map(|s| state.copies_wanted(s))
        .max()
        .unwrap_or(1);
    out.json(&serde_json::json!({
        "type": "summary", "schema": "zoneward.backup/1", "checkpoint": r.checkpoint, "seq": r.seq, "resumed": r.resumed,
        "dry_run": r.checkpoint.is_none(), "complete": !incomplete, "seconds": seconds, "sectors": r.sectors,
        "stored_bytes": r.stored_bytes, "copies_made": r.settled.copies_made, "failed": r.settled.failed,
        "refused": refused.iter().map(|f| serde_json::json!({"code": format!("ZW-{}", f.code), "what": f.what})).collect::<Vec<_>>(),
        "sources": r.sources.iter().map(|s| serde_json::json!({
            "id": s.source, "path": s.path.to_string_lossy(), "files": s.counts.files, "dirs": s.counts.dirs, "others": s.counts.others,
            "bytes": s.counts.bytes, "new": s.counts.new, "changed": s.counts.changed, "gone": s.counts.gone,
            "new_bytes": s.packed.new_bytes, "unread": s.unread(), "unsteady": s.packed.unsteady_count,
            "vanished": s.counts.vanished + s.packed.vanished, "sockets": s.counts.sockets,
            "excluded": s.counts.excluded + s.counts.caches + s.counts.other_file_systems,
        })).collect::<Vec<_>>(),
    }));
    match r.checkpoint {
        None => out.say("nothing was changed (dry run)"),
        Some(id) => {
            let made = if r.resumed { "finished what was cut" } else { "done" };
            out.say(format!(
                "checkpoint {} ({:.8}) {made} in {}: {} in {} on the target",
                r.seq,
                id.to_string(),
                duration(seconds),
                bytes(r.stored_bytes),
                plural(r.sectors, "sector", "sectors")
            ));
        }
    }
    if usize::from(wanted) > targets && r.checkpoint.is_some() {
        out.say(format!("{wanted} copies are wanted, there is room for {targets}: zoneward target add URL"));
    }
    match (refused.first(), incomplete) {
        (Some(f), _) => f.exit,
        (None, true) => exit::INCOMPLETE,
        (None, false) => 0,
    }
}

fn tell_source(out: Out, s: &zoneward_actors::backup::SourceReport) {
    let c = &s.counts;
    out.say(format!(
        "{}: {}, {}; {} new, {} changed, {} gone; {} of new content",
        s.path.display(),
        plural(c.files, "file", "files"),
        bytes(c.bytes),
        count(c.new),
        count(c.changed),
        count(c.gone),
        bytes(s.packed.new_bytes)
    ));
    let left_out = [
        (c.sockets, "sockets"),
        (c.excluded, "excluded"),
        (c.caches, "caches"),
        (c.other_file_systems, "on other file systems"),
        (c.vanished + s.packed.vanished, "vanished meanwhile"),
    ];
    let left_out: Vec<String> =
        left_out.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", count(*n))).collect();
    if !left_out.is_empty() {
        out.say(format!("  left out: {}", left_out.join(", ")));
    }
    let troubles = s.troubles.iter().filter(|t| !t.vanished);
    out.warn_some(troubles.map(|t| format!("{}: cannot {}: {}", show_path(&t.path), t.what, t.error)), s.counts.unread);
    let unread = s.packed.unread.iter().map(|(path, why)| format!("{}: {why}", show_path(path)));
    out.warn_some(unread, s.packed.unread_count);
    let unsteady = s.packed.unsteady.iter().map(|p| format!("{}: it changed while it was read", show_path(p)));
    out.warn_some(unsteady, s.packed.unsteady_count);
}
