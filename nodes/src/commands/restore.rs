//! `restore`.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use zoneward_actors::home::{real, target_around};
use zoneward_actors::restore::{RestoreRequest, absolute as join, is_within as within, restore_checkpoint, sources_of};
use zoneward_actors::zone::Zone;
use zoneward_sectors::entry::Kind;
use zoneward_sectors::glob::Excludes;
use zoneward_sectors::ids::CheckpointId;
use zoneward_sectors::restore::{Progress, RestoreReport};
use zoneward_targets::Url;

use super::{PATTERNS, absolute, as_stored, open, threads};
use crate::cli::{Global, RestoreArgs};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::progress::{Display, Meter};
use crate::units::{bytes, count, duration, plural, show_path};

fn globs(patterns: &[String]) -> Result<Excludes, Failure> {
    Excludes::new(patterns, false)
        .map_err(|e| Failure::new(1406, exit::USAGE, "a pattern is wrong").why(e.to_string()).help(PATTERNS))
}

/// What is wanted, by absolute path.
pub(crate) struct Selection {
    paths: Vec<Vec<u8>>,
    include: Excludes,
    exclude: Excludes,
}

impl Selection {
    fn new(a: &RestoreArgs) -> Result<Self, Failure> {
        Ok(Self { include: globs(&a.include)?, exclude: globs(&a.exclude)?, ..Self::of_paths(&a.paths)? })
    }

    /// These paths and what lies below them; everything if there are none.
    pub(crate) fn of_paths(paths: &[std::path::PathBuf]) -> Result<Self, Failure> {
        let paths = paths.iter().map(|p| Ok(as_stored(p)?.as_os_str().as_bytes().to_vec()));
        let paths = paths.collect::<Result<_, Failure>>()?;
        Ok(Self { paths, include: Excludes::default(), exclude: Excludes::default() })
    }

    /// A pattern that fits a directory speaks for all below it.
    fn fits(rules: &Excludes, path: &[u8], is_dir: bool) -> bool {
        let above = path.iter().enumerate().filter(|(i, b)| **b == b'/' && *i > 0).map(|(i, _)| &path[..i]);
        above.into_iter().any(|p| rules.matches(&p[1..], p, true))
            || rules.matches(path.get(1..).unwrap_or_default(), path, is_dir)
    }

    pub(crate) fn wants(&self, path: &[u8], is_dir: bool) -> bool {
        (self.paths.is_empty() || self.paths.iter().any(|p| within(path, p)))
            && (self.include.is_empty() || Self::fits(&self.include, path, is_dir))
            && (self.exclude.is_empty() || !Self::fits(&self.exclude, path, is_dir))
    }
}

pub fn restore(g: &Global, out: Out, a: &RestoreArgs) -> Result<i32, Failure> {
    let zone = open(g)?;
    let checkpoint = zone.state().find_checkpoint(&a.checkpoint)?.id;
    let selection = Selection::new(a)?;
    if let Some(gone) = missing(&zone, checkpoint, &selection)? {
        return Err(Failure::new(
            1602,
            exit::FAILED,
            format!("checkpoint {} holds no {}", a.checkpoint, show_path(&gone)),
        )
        .help("zoneward ls CP PATH and zoneward find PATTERN show what there is"));
    }
    if a.dry_run {
        return dry_run(&zone, out, checkpoint, &selection);
    }
    let to = a.to.as_deref().map(absolute).transpose()?;
    if let Some(to) = &to {
        apart(&zone, to)?;
    }
    let started = Instant::now();
    let request = RestoreRequest {
        checkpoint,
        to: to.clone(),
        wanted: &|path, is_dir| selection.wants(path, is_dir),
        verify: a.verify,
        threads: threads(),
    };
    let total = run(g, &zone, &request)?;
    if !a.include.is_empty() && total.files + total.dirs + total.others + total.failed_count == 0 {
        let text = format!("nothing in checkpoint {} fits what was asked for", a.checkpoint);
        return Err(Failure::new(1602, exit::FAILED, text).help(PATTERNS));
    }
    let code = tell(out, &total, to.as_deref(), started.elapsed().as_secs_f64());
    if total.damage_count > 0 {
        out.say("next: zoneward check notes what is damaged; after it zoneward backup makes it anew where it can");
    }
    Ok(code)
}

/// What is restored lies in the clear: not where whoever holds a target sees it, nor among the zone's own files.
pub(super) fn apart(zone: &Zone, to: &Path) -> Result<(), Failure> {
    if to.exists() && !to.is_dir() {
        return Err(not_to(to, "something that is no directory is there"));
    }
    apart_file(zone, to)
}

/// The same, where a file may go.
pub(super) fn apart_file(zone: &Zone, to: &Path) -> Result<(), Failure> {
    let urls: Vec<Url> = zone.state().targets.values().filter_map(|t| t.url.parse().ok()).collect();
    match target_around(to, &urls) {
        Some(target) => Err(not_to(to, format!("whoever holds the target {} could read it", target.display()))),
        None if real(to).starts_with(real(zone.home.dir())) => Err(not_to(to, "the zone's own files lie there")),
        None => Ok(()),
    }
}

fn not_to(to: &Path, why: impl Into<String>) -> Failure {
    Failure::new(1605, exit::REFUSED, format!("nothing is restored to {}", to.display()))
        .why(why)
        .help("give another place")
}

/// Runs a restore with its progress shown.
pub(crate) fn run(g: &Global, zone: &Zone, request: &RestoreRequest<'_>) -> Result<RestoreReport, Failure> {
    let progress = Arc::new(Progress { stop: crate::interrupt::stop(), ..Progress::default() });
    let meter = Arc::new(Meter::default());
    meter.bytes.store(true, Ordering::Relaxed);
    let all: u64 =
        zone.state().checkpoints.get(&request.checkpoint).map_or(0, |c| c.tasks.iter().map(|t| t.stats.bytes).sum());
    meter.total.store(all, Ordering::Relaxed);
    let shown = {
        let progress = progress.clone();
        Display::start(g, meter, move |m| {
            m.done.store(progress.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
            m.file(&progress.current.ask());
        })
    };
    let mut total = RestoreReport::default();
    restore_checkpoint(zone, request, &progress, &mut |_, r| total.add(r))?;
    drop(shown);
    Ok(total)
}

/// A path that was asked for and is not there.
pub(super) fn missing(zone: &Zone, checkpoint: CheckpointId, s: &Selection) -> Result<Option<Vec<u8>>, Failure> {
    if s.paths.is_empty() {
        return Ok(None);
    }
    let opener = zone.opener();
    let mut missing = s.paths.clone();
    for held in sources_of(zone, checkpoint) {
        missing.retain(|p| !within(&held.path, p));
        if missing.iter().all(|p| !within(p, &held.path)) {
            continue;
        }
        for entry in zone.catalogs(&opener).entries(&held.layers).map_err(zoneward_actors::errors::ZoneError::from)? {
            let entry = entry.map_err(|e| zoneward_actors::errors::ZoneError::Catalogs(e.into()))?;
            let path = join(&held.path, &entry.path);
            missing.retain(|p| *p != path);
            if missing.is_empty() {
                return Ok(None);
            }
        }
    }
    Ok(missing.into_iter().next())
}

fn dry_run(zone: &Zone, out: Out, checkpoint: CheckpointId, s: &Selection) -> Result<i32, Failure> {
    let opener = zone.opener();
    let (mut entries, mut size) = (0u64, 0u64);
    for held in sources_of(zone, checkpoint) {
        for entry in zone.catalogs(&opener).entries(&held.layers).map_err(zoneward_actors::errors::ZoneError::from)? {
            let entry = entry.map_err(|e| zoneward_actors::errors::ZoneError::Catalogs(e.into()))?;
            let path = join(&held.path, &entry.path);
            if s.wants(&path, entry.meta.kind == Kind::Dir) {
                entries += 1;
                if entry.meta.kind == Kind::File {
                    size += entry.meta.size;
                }
                out.say(show_path(&path));
            }
        }
    }
    out.json(&serde_json::json!({
        "type": "summary", "schema": "zoneward.restore/1", "dry_run": true, "entries": entries, "bytes": size,
    }));
    out.say(format!("{} of {}; nothing was changed (dry run)", plural(entries, "entry", "entries"), bytes(size)));
    Ok(0)
}

/// Says what came of it; answers the exit code.
pub(crate) fn tell(out: Out, r: &RestoreReport, to: Option<&std::path::Path>, seconds: f64) -> i32 {
    out.warn_some(r.failed.iter().map(|(p, why)| format!("{}: {why}", show_path(p))), r.failed_count);
    out.warn_some(r.warnings.iter().map(|(p, why)| format!("{}: {why}", show_path(p))), r.warnings_count);
    out.warn_some(r.bad_copies.iter().map(|why| format!("not read: {why}")), r.bad_copies.len() as u64);
    let place = to.map_or_else(|| "its place".to_owned(), |p| p.display().to_string());
    out.json(&serde_json::json!({
        "type": "summary", "schema": "zoneward.restore/1", "dry_run": false, "to": to.map(crate::units::shown), "files": r.files, "dirs": r.dirs,
        "others": r.others, "bytes": r.bytes, "kept": r.kept, "failed": r.failed_count, "damaged": r.damage_count,
        "unreachable": r.unreachable_count, "warnings": r.warnings_count, "seconds": seconds, "complete": r.failed_count == 0, "bad_copies": r.bad_copies,
        "failures": r.failed.iter().map(|(p, why)| serde_json::json!({"path": show_path(p), "why": why})).collect::<Vec<_>>(),
    }));
    let kept = if r.kept > 0 { format!(" ({} were already right)", count(r.kept)) } else { String::new() };
    out.say(format!(
        "restored {}{kept}, {}, {} to {place} in {} ({}/s)",
        plural(r.files, "file", "files"),
        plural(r.dirs, "directory", "directories"),
        bytes(r.bytes),
        duration(seconds),
        bytes((r.bytes as f64 / seconds.max(0.001)) as u64)
    ));
    if r.failed_count > 0 {
        out.say(format!("NOT restored: {}", plural(r.failed_count, "entry", "entries")));
    }
    match (r.damage_count, r.unreachable_count, r.failed_count + r.warnings_count) {
        (0, 0, 0) => 0,
        (0, 0, _) => exit::INCOMPLETE,
        (0, ..) => exit::TARGET,
        _ => exit::DAMAGE,
    }
}
