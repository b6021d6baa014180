//! `check`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use zoneward_actors::check::{CheckProgress, CheckReport, Depth, check as run_check};
use zoneward_actors::cluster::CommandError;
use zoneward_actors::errors::ZoneError;
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::CopyState;
use zoneward_consensus::store::StoreError;
use zoneward_sectors::ids::{CopyId, SectorId};

use super::{open, threads};
use crate::cli::{CheckArgs, Global};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::progress::{Display, Meter};
use crate::units::{bytes, count, duration, plural, show_path};

pub fn check(g: &Global, out: Out, a: &CheckArgs) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    let depth = match (a.read_data, a.read_data_subset) {
        (true, _) => Depth::Everything,
        (_, Some(p)) => Depth::Part(p),
        _ => Depth::Metadata,
    };
    let started = Instant::now();
    let report = run(g, &zone, depth)?;
    let code = tell(out, &zone, &report, started.elapsed().as_secs_f64());
    note(&mut zone, &report, depth)?;
    if !report.whole.is_empty() {
        let read = depth == Depth::Everything;
        let sampled = depth != Depth::Metadata;
        for copies in report.whole.chunks(zoneward_consensus::limits::VERIFIED_MAX) {
            zone.propose(Command::Verified { copies: copies.to_vec(), read, sampled })?;
        }
    }
    Ok(code)
}

/// Makes what was found the zone's own: damage is shown until it is healed, and copies are made anew elsewhere. A copy that
/// was given up and is whole after all counts again.
fn note(zone: &mut Zone, report: &CheckReport, depth: Depth) -> Result<(), Failure> {
    let state = |id: &CopyId| zone.state().copies.get(id).map(|c| c.state);
    let bad = report.findings.iter().filter(|f| f.damage).filter_map(|f| f.copy.map(|c| (c, f.missing)));
    let bad = bad.filter(|(c, _)| state(c) == Some(CopyState::Stored));
    // What a target does not have may come back, and is known by its metadata then; wrong bytes have to be read.
    let bad = bad.map(|(c, missing)| (c, if missing { CopyState::Lost } else { CopyState::Damaged }));
    let healed = |c: &&CopyId| match state(c) {
        Some(CopyState::Lost) => true,
        Some(CopyState::Damaged) => depth == Depth::Everything,
        _ => false,
    };
    let good = report.whole.iter().filter(healed).map(|c| (*c, CopyState::Stored));
    let marks: std::collections::BTreeMap<CopyId, CopyState> = bad.chain(good).collect();
    for (copy, state) in marks {
        match zone.propose(Command::MarkCopy { copy, state }) {
            // Another copy took its place meanwhile.
            Err(ZoneError::Store(StoreError::Refused(_)) | ZoneError::Command(CommandError::Refused { .. })) => {}
            done => done?,
        }
    }
    Ok(())
}

/// Runs a check with its progress shown.
pub(crate) fn run(g: &Global, zone: &Zone, depth: Depth) -> Result<CheckReport, Failure> {
    let progress = Arc::new(CheckProgress { stop: crate::interrupt::stop(), ..CheckProgress::default() });
    let meter = Arc::new(Meter { bytes: true.into(), ..Meter::default() });
    let shown = {
        let progress = progress.clone();
        Display::start(g, meter, move |m| {
            m.done.store(progress.done.load(Ordering::Relaxed), Ordering::Relaxed);
            m.total.store(progress.total.load(Ordering::Relaxed), Ordering::Relaxed);
            m.file(&progress.current.ask());
        })
    };
    let report = run_check(zone, depth, threads(), &progress)?;
    drop(shown);
    Ok(report)
}

/// Says what was found; answers the exit code.
pub(crate) fn tell(out: Out, zone: &Zone, r: &CheckReport, seconds: f64) -> i32 {
    let name = |id: &zoneward_sectors::ids::TargetId| {
        zone.state().targets.get(id).map_or_else(|| id.to_string(), |t| t.name.clone())
    };
    let code = match (r.is_clean(), r.has_damage()) {
        (true, _) => 0,
        (false, true) => exit::DAMAGE,
        (false, false) => exit::TARGET,
    };
    let seq = |v: &[u64]| {
        let sorted: std::collections::BTreeSet<u64> = v.iter().copied().collect();
        sorted.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
    };
    out.json(&serde_json::json!({
        "type": "summary", "schema": "zoneward.check/1", "clean": r.is_clean(), "sectors": r.sectors, "copies": r.copies,
        "bytes_read": r.bytes_read, "segments_read": r.segments_read, "catalogs": r.catalogs, "entries": r.entries,
        "unknown_sectors": r.unknown, "replaced_system_sectors": r.replaced, "keyless_copies": r.keyless,
        "closed_catalogs": r.closed_catalogs, "seconds": seconds,
        "findings": r.findings.iter().map(|f| serde_json::json!({
            "target": f.target.as_ref().map(name), "sector": f.sector, "copy": f.copy, "what": f.what, "damage": f.damage,
        })).collect::<Vec<_>>(),
        "files": r.files.iter().map(|f| serde_json::json!({
            "path": show_path(&f.path), "checkpoints": f.checkpoints, "other_copy": f.other_copy,
        })).collect::<Vec<_>>(),
        "files_count": r.files_count,
    }));
    for f in &r.findings {
        let target = f.target.as_ref().map_or_else(String::new, |t| format!("target {}: ", name(t)));
        let sector = f.sector.map_or_else(String::new, |s| format!("sector {s}: "));
        let kind = if f.damage { "DAMAGED" } else { "NOT CHECKED" };
        out.answer(format!("{kind}  {target}{sector}{}", f.what));
    }
    for f in &r.files {
        let other = if f.other_copy { "another copy holds it whole" } else { "NO other copy" };
        out.answer(format!("  holds {} (checkpoints {}; {other})", show_path(&f.path), seq(&f.checkpoints)));
    }
    if r.files_count > r.files.len() as u64 {
        out.answer(format!("  and {} more files", count(r.files_count - r.files.len() as u64)));
    }
    if r.unknown > 0 {
        let on: Vec<String> = r.unknown_on.iter().map(name).collect();
        out.say(format!(
            "{} that the zone does not know, on target {} (left alone)",
            plural(r.unknown, "sector", "sectors"),
            on.join(", ")
        ));
    }
    if r.replaced > 0 {
        let old = plural(r.replaced, "older system sector", "older system sectors");
        out.say(format!("left out: {old}, which newer ones replaced and nothing needs"));
    }
    if r.keyless > 0 {
        let by = "only the owner can read: judged by their stored bytes (--with-owner-key opens them)";
        out.say(format!("{} {by}", plural(r.keyless, "copy", "copies")));
    }
    if r.closed_catalogs > 0 {
        let n = plural(r.closed_catalogs, "catalog", "catalogs");
        out.say(format!("left out: {n} that only the owner can read, and that this node does not keep"));
    }
    let read = if r.bytes_read > 0 { format!(", {} read", bytes(r.bytes_read)) } else { String::new() };
    out.say(format!(
        "{}, {}, {} in {}{read} in {}: {}",
        plural(r.sectors, "sector", "sectors"),
        plural(r.copies, "copy", "copies"),
        plural(r.entries, "entry", "entries"),
        plural(r.catalogs, "catalog", "catalogs"),
        duration(seconds),
        if r.is_clean() { "no damage" } else { "see above" }
    ));
    let concerned: Vec<_> = r.findings.iter().filter(|f| f.damage).filter_map(|f| f.sector).collect();
    let state = zone.state();
    let of_today = || state.complete().pop().into_iter().flat_map(|c| &c.tasks).flat_map(|t| &t.layers);
    let (needed, known) = state.needed_by(of_today());
    let data = |s: &SectorId| state.sectors.get(s).is_some_and(|s| !s.system);
    if !concerned.is_empty() && known && concerned.iter().all(|s| data(s) && !needed.contains(s)) {
        out.say(
            "next: the newest checkpoint is not concerned; zoneward backup makes copies anew of what another target has whole. What\n      \
             older checkpoints lost stays lost: zoneward forget CP lets go of those",
        );
    } else if !concerned.is_empty() {
        out.say(
            "next: zoneward backup makes copies anew of what another target has whole; of what no target has whole\n      \
             it stores anew what is still in its source",
        );
    }
    code
}
