//! `backup`.

mod shared;

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
use zoneward_sectors::ids::{NodeId, SourceId};
use zoneward_sectors::pack::Progress;

use super::{open, threads};
use crate::cli::{BackupArgs, Global, SourceArgs};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::progress::{Display, Meter};
use crate::summary::Summary;

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
        nodes: readers(zone, a, old.as_ref())?,
    };
    let id = source.id;
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
    Ok(id)
}

/// The nodes that can read a source: this one, unless something else is said or was said before.
fn readers(zone: &Zone, a: &SourceArgs, old: Option<&Source>) -> Result<Vec<NodeId>, Failure> {
    if a.shared {
        return Ok(Vec::new());
    }
    if a.node.is_empty() {
        return Ok(old.map_or_else(|| vec![zone.node()], |s| s.nodes.clone()));
    }
    let mut all = a.node.iter().map(|n| super::node_by_name(zone.state(), n)).collect::<Result<Vec<_>, _>>()?;
    all.sort();
    all.dedup();
    Ok(all)
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
            shared: a.shared,
            node: a.node.clone(),
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
    if zone.is_shared() && !a.dry_run {
        return shared::backup(g, out, zone, &request);
    }
    let started = Instant::now();
    let report = with_progress(g, &mut zone, &request)?;
    Ok(Summary::of_report(&report).tell(out, zone.state(), started.elapsed().as_secs_f64()))
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
