//! `backup`.

pub(super) mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use zoneward_actors::backup::{BackupReport, BackupRequest, Event, backup as run_backup};
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::CheckpointKind;
use zoneward_sectors::glob::{Excludes, parse_patterns_file};
use zoneward_sectors::ids::SourceId;
use zoneward_sectors::pack::Progress;

use super::source::{self, Remembered};
use super::{PATTERNS, open, threads};
use crate::cli::{BackupArgs, Global, ReadingArgs, SourceArgs};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::progress::{Display, Meter};
use crate::summary::Summary;

fn patterns(a: &BackupArgs) -> Result<Vec<String>, Failure> {
    let mut all = a.exclude.clone();
    for path in &a.exclude_from {
        let fail = |why: String| {
            Failure::new(1405, exit::USAGE, format!("{} cannot be used", path.display()))
                .why(why)
                .help("a file of patterns has one in each line, as --exclude takes them; nothing was stored")
        };
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        all.extend(parse_patterns_file(&text).map_err(|e| fail(e.to_string()))?);
    }
    Excludes::new(&all, a.exclude_caches).map_err(|e| {
        Failure::new(1406, exit::USAGE, "a pattern of --exclude is wrong").why(e.to_string()).help(PATTERNS)
    })?;
    Ok(all)
}

/// What a command line names.
#[derive(Default)]
struct Chosen {
    sources: Vec<SourceId>,
    /// Paths that are not there: the others are backed up.
    missing: Vec<Failure>,
}

/// The sources to back up. Those that are named are put into `remembered`.
fn chosen_sources(zone: &mut Zone, a: &BackupArgs, remembered: &mut Vec<Remembered>) -> Result<Chosen, Failure> {
    let patterns = patterns(a)?;
    let (mut ids, mut missing) = (Vec::new(), Vec::new());
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
            write_only: false,
            zone_readable: false,
            reading: ReadingArgs::default(),
        };
        let r = match source::remember(zone, &args, patterns.clone()) {
            Ok(r) => r,
            Err(e) if e.code == source::UNREADABLE && a.paths.len() > 1 => {
                missing.push(e);
                continue;
            }
            Err(e) => return Err(e),
        };
        if !ids.contains(&r.id) {
            ids.push(r.id);
        }
        remembered.push(r);
    }
    if a.paths.is_empty() {
        ids = zone.state().sources.keys().copied().collect();
    }
    if let Some(first) = missing.first().filter(|_| ids.is_empty()) {
        return Err(first.clone());
    }
    if ids.is_empty() {
        return Err(Failure::new(1407, exit::USAGE, "there is nothing to back up")
            .why("the zone knows no source yet")
            .help("name one: zoneward backup ~/Documents"));
    }
    Ok(Chosen { sources: ids, missing })
}

pub fn backup(g: &Global, out: Out, a: &BackupArgs) -> Result<i32, Failure> {
    super::recover::refuse_while_pending(&super::home(g)?)?;
    let mut zone = open(g)?;
    for u in zone.unreachable() {
        out.warn(format!("target {} cannot be used: {}", u.name, crate::errors::chain(&u.error)));
    }
    super::forget::tags_ok(&a.tag)?;
    if !a.dry_run {
        super::rollback::refuse_in_maintenance(&mut zone)?;
    }
    if a.synthetic {
        let code = super::prune::synthetic(g, out, &mut zone)?;
        return set_tags(&mut zone, a).map(|()| code);
    }
    let kind = match (a.full, a.differential) {
        (true, _) => CheckpointKind::Full,
        (_, true) => CheckpointKind::Differential,
        _ => CheckpointKind::Incremental,
    };
    let (last_seq, mut remembered) = (zone.state().next_seq, Vec::new());
    let done = chosen_sources(&mut zone, a, &mut remembered).and_then(|Chosen { sources, missing }| {
        missing.iter().for_each(|f| out.warn(format!("{}: the other paths are backed up", f.what)));
        let request = BackupRequest {
            sources,
            kind,
            dry_run: a.dry_run,
            allow_empty: a.allow_empty,
            allow_older_home: a.allow_older_home,
            threads: threads(),
        };
        if zone.is_shared() && !a.dry_run {
            return shared::backup(g, out, &mut zone, &request, missing);
        }
        let started = Instant::now();
        let report = with_progress(g, &mut zone, &request)?;
        let mut summary = Summary::of_report(&report);
        summary.refused.extend(missing);
        Ok(summary.tell(out, zone.state(), started.elapsed().as_secs_f64()))
    });
    // In reverse: of a path that was named twice the first has what was there before.
    remembered.reverse();
    let done = match done {
        Ok(code) if !a.dry_run => set_tags(&mut zone, a).map(|()| code),
        done => done,
    };
    let back = source::put_back(&mut zone, remembered, last_seq);
    done.and_then(|code| back.map(|()| code))
}

/// Gives the checkpoint that was just made its tags.
fn set_tags(zone: &mut Zone, a: &BackupArgs) -> Result<(), Failure> {
    if a.tag.is_empty() {
        return Ok(());
    }
    zone.refresh();
    let Some((id, mut tags)) = zone.state().complete().last().map(|c| (c.id, c.tags.clone())) else { return Ok(()) };
    tags.extend(a.tag.iter().cloned());
    zone.propose(Command::SetTags { checkpoint: id, tags })?;
    Ok(())
}

/// Runs a backup with its progress shown.
pub(crate) fn with_progress(g: &Global, zone: &mut Zone, request: &BackupRequest) -> Result<BackupReport, Failure> {
    let progress = Arc::new(Progress { stop: crate::interrupt::stop(), ..Progress::default() });
    let (meter, packing) = (Arc::new(Meter::default()), Arc::new(AtomicBool::new(false)));
    meter.bytes.store(true, Ordering::Relaxed);
    let shown = {
        let (progress, packing) = (progress.clone(), packing.clone());
        Display::start(g, meter.clone(), move |m| {
            m.done.store(progress.read.load(Ordering::Relaxed), Ordering::Relaxed);
            if packing.load(Ordering::Relaxed) {
                m.file(&progress.current.ask());
            }
        })
    };
    let label = |text: String, files: bool| {
        packing.store(files, Ordering::Relaxed);
        meter.label(text);
    };
    let report = run_backup(zone, request, &progress, &mut |event| match event {
        Event::Scanning(p) => label(format!("scanning {}", p.display()), false),
        Event::Scanned(_, c) => {
            meter.total.fetch_add(c.changed_bytes, Ordering::Relaxed);
        }
        Event::Packing { path, .. } => label(format!("{}", path.display()), true),
        Event::Finishing => label("copies and system data".into(), false),
    })?;
    drop(shown);
    Ok(report)
}
