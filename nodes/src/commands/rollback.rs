//! `rollback`: this node's sources back to a checkpoint, and what becomes of what that replaced.

mod told;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use zoneward_actors::rollback::{self, Done, Journal, LeftWhy, Outlook, Phase, RollbackError};
use zoneward_actors::zone::Zone;
use zoneward_sectors::restore::Progress;

use super::{open, threads};
use crate::cli::{Global, RollbackArgs};
use crate::errors::{Failure, chain, exit};
use crate::output::Out;
use crate::progress::{Display, Meter};
use crate::units::{bytes, count, show_path};

pub(super) use told::{concerns, maintenance};

/// How to go on with what was cut.
pub(super) const GO_ON: &str = "zoneward rollback --apply goes on, zoneward rollback --undo brings back what was there";
const RELEASE: &str =
    "zoneward rollback --release --apply deletes what is kept, zoneward rollback --undo brings it back";
const RELEASE_UNDONE: &str = "zoneward rollback --release --apply deletes what is kept";

pub fn rollback(g: &Global, out: Out, a: &RollbackArgs) -> Result<i32, Failure> {
    super::recover::refuse_while_pending(&super::home(g)?)?;
    let mut zone = open(g)?;
    if a.checkpoint.is_none() && !a.apply && !a.undo && !a.release {
        settle(&mut zone)?;
        let journal = Journal::read(&zone.home).map_err(failure)?;
        told::status(out, &zone, journal.as_ref());
        return Ok(0);
    }
    let _lock = rollback::lock(&zone.home).map_err(failure)?;
    rollback::settle(&mut zone).map_err(failure)?;
    let journal = Journal::read(&zone.home).map_err(failure)?;
    match (journal, a) {
        (Some(mut j), a) if a.undo => undo(out, &mut zone, &mut j),
        (Some(mut j), a) if a.release => release(out, &mut zone, &mut j, a.apply),
        (None, a) if a.undo || a.release => Err(nothing("there is no rollback of this node")),
        (journal, RollbackArgs { checkpoint: Some(checkpoint), apply, .. }) => {
            to_checkpoint(g, out, &mut zone, journal, checkpoint, *apply)
        }
        (Some(mut j), _) => match j.phase {
            Phase::Staging | Phase::Swapping => go_on(g, out, &mut zone, &mut j, false),
            Phase::Undoing => undo(out, &mut zone, &mut j),
            Phase::Releasing => release(out, &mut zone, &mut j, true),
            Phase::Swapped => Err(nothing("the rollback is done").help(RELEASE)),
            Phase::Undone => Err(nothing("the rollback was undone").help(RELEASE_UNDONE)),
        },
        (None, _) => Err(nothing("there is no rollback to go on with").help("begin one: zoneward rollback CP")),
    }
}

fn nothing(what: &str) -> Failure {
    Failure::new(1652, exit::FAILED, what)
}

/// One rollback at a time: what the last one replaced is not mixed with what the next one does.
fn refuse_second(j: &Journal) -> Failure {
    let what = match j.phase.is_under_way() {
        true => format!("a rollback to checkpoint {} is under way", j.seq),
        false => format!("what a rollback to checkpoint {} left is still kept", j.seq),
    };
    Failure::new(1651, exit::REFUSED, what).help(how_on(j.phase))
}

/// What can be done from here.
fn how_on(phase: Phase) -> &'static str {
    match phase {
        Phase::Staging | Phase::Swapping => GO_ON,
        Phase::Swapped => RELEASE,
        Phase::Undoing => "zoneward rollback --undo goes on with it",
        Phase::Undone | Phase::Releasing => RELEASE_UNDONE,
    }
}

fn to_checkpoint(
    g: &Global,
    out: Out,
    zone: &mut Zone,
    journal: Option<Journal>,
    checkpoint: &str,
    apply: bool,
) -> Result<i32, Failure> {
    let id = zone.state().find_checkpoint(checkpoint)?.id;
    if let Some(mut j) = journal {
        let same = j.checkpoint == id && matches!(j.phase, Phase::Staging | Phase::Swapping);
        return if same && apply { go_on(g, out, zone, &mut j, false) } else { Err(refuse_second(&j)) };
    }
    let seen = rollback::outlook(zone, id).map_err(failure)?;
    if !apply {
        told::outlook(out, zone, &seen);
        return Ok(0);
    }
    if seen.planned.is_empty() {
        told::left(out, zone, seen.seq, &seen.left);
        return Err(Failure::new(1653, exit::REFUSED, format!("no source goes back to checkpoint {} here", seen.seq))
            .why("the lines above say why for each; nothing was changed")
            .help("zoneward rollback CP shows it again; zoneward restore CP --to DIR brings files back beside"));
    }
    refuse_short(&seen)?;
    let partly = seen.left.iter().any(|l| matches!(l.why, LeftWhy::Here(_)));
    told::left(out, zone, seen.seq, &seen.left);
    let mut journal = rollback::begin(zone, seen).map_err(failure)?;
    go_on(g, out, zone, &mut journal, partly)
}

fn refuse_short(seen: &Outlook) -> Result<(), Failure> {
    let Some(s) = seen.short.first() else { return Ok(()) };
    let why = match s.needs.bytes > s.free.bytes || s.needs.entries <= s.free.entries {
        true => format!("about {} are needed and {} are free", bytes(s.needs.bytes), bytes(s.free.bytes)),
        false => format!("{} files are needed and {} are free", count(s.needs.entries), count(s.free.entries)),
    };
    let what = format!("there is not enough room where {} lies", s.place.display());
    Err(Failure::new(1654, exit::REFUSED, what)
        .why(format!("{why}: what is there stays until you release it"))
        .help("make room, or bring back what you need: zoneward restore CP PATH --in-place. Nothing was changed"))
}

fn go_on(g: &Global, out: Out, zone: &mut Zone, journal: &mut Journal, partly: bool) -> Result<i32, Failure> {
    let started = Instant::now();
    let done = with_progress(g, journal, |journal, progress| rollback::go_on(zone, journal, threads(), progress));
    let done = done.map_err(|e| explained(out, zone, e))?;
    told::done(out, journal, &done, started.elapsed().as_secs_f64());
    Ok(code_of(&done, partly))
}

/// What a person should look at makes it incomplete.
fn code_of(done: &Done, partly: bool) -> i32 {
    let fine = done.told.is_empty() && done.restored.warnings_count == 0 && !partly;
    if fine { 0 } else { exit::INCOMPLETE }
}

fn with_progress(
    g: &Global,
    journal: &mut Journal,
    run: impl FnOnce(&mut Journal, &Progress) -> Result<Done, RollbackError>,
) -> Result<Done, RollbackError> {
    let progress = Arc::new(Progress { stop: crate::interrupt::stop(), ..Progress::default() });
    let meter = Arc::new(Meter::default());
    meter.bytes.store(true, Ordering::Relaxed);
    meter.total.store(journal.bytes(), Ordering::Relaxed);
    meter.label("beside what is there".to_owned());
    let _shown = {
        let progress = progress.clone();
        Display::start(g, meter, move |m| {
            m.done.store(progress.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
            m.file(&progress.current.ask());
        })
    };
    run(journal, &progress)
}

fn undo(out: Out, zone: &mut Zone, journal: &mut Journal) -> Result<i32, Failure> {
    if matches!(journal.phase, Phase::Undone | Phase::Releasing) {
        return Err(nothing("there is nothing to bring back any more").help(RELEASE_UNDONE));
    }
    let done = rollback::undo(zone, journal).map_err(|e| explained(out, zone, e))?;
    told::undone(out, journal, done.as_ref());
    Ok(done.map_or(0, |d| code_of(&d, false)))
}

fn release(out: Out, zone: &mut Zone, journal: &mut Journal, apply: bool) -> Result<i32, Failure> {
    if journal.phase.is_under_way() {
        return Err(refuse_second(journal));
    }
    if !apply {
        told::kept(out, journal);
        return Ok(0);
    }
    rollback::release(zone, journal).map_err(|e| explained(out, zone, e))?;
    told::released(out, journal);
    Ok(0)
}

/// A run may have been cut after it was done and before it said so. If another one works on it, that one will.
fn settle(zone: &mut Zone) -> Result<(), Failure> {
    match rollback::lock(&zone.home) {
        Ok(_lock) => rollback::settle(zone).map_err(failure),
        Err(_) => Ok(()),
    }
}

/// Refuses what would read sources that are half of one state and half of another.
pub(super) fn refuse_in_maintenance(zone: &mut Zone) -> Result<(), Failure> {
    settle(zone)?;
    let state = zone.state();
    let Some((node, m)) = state.in_maintenance().next() else { return Ok(()) };
    let name = state.nodes.get(&node).map_or_else(|| node.to_string(), |n| n.name.clone());
    Err(crate::translate::in_maintenance(format!("{name}: {} is under way", m.reason)))
}

/// An error of a step, with what can be done from where it ended.
fn explained(out: Out, zone: &Zone, e: RollbackError) -> Failure {
    if let RollbackError::Incomplete(r) = &e {
        out.warn_some(r.failed.iter().map(|(p, why)| format!("{}: {why}", show_path(p))), r.failed_count);
    }
    let help = match Journal::read(&zone.home) {
        Ok(None) => "nothing was changed",
        Ok(Some(j)) => how_on(j.phase),
        Err(e) => return failure(e),
    };
    let stop = e.is_interrupt();
    let f = failure(e);
    match f.help {
        Some(_) if !stop => f,
        _ => f.help(help),
    }
}

fn failure(e: RollbackError) -> Failure {
    if e.is_interrupt() {
        return Failure::new(1900, exit::INTERRUPTED, "interrupted").help(GO_ON);
    }
    let text = chain(&e);
    match e {
        RollbackError::Zone(e) => e.into(),
        RollbackError::Journal { .. } | RollbackError::Turn => Failure::new(1659, exit::DAMAGE, text).help(
            "nothing was touched now. The folders .zoneward-rollback-… beside or in the sources hold all that was replaced: \
             docs/cli.md says how to put it back by hand",
        ),
        RollbackError::Incomplete(r) => {
            let code = match (r.damage_count, r.unreachable_count) {
                (0, 0) => exit::FAILED,
                (0, _) => exit::TARGET,
                _ => exit::DAMAGE,
            };
            let why = r.failed.first().map(|(p, why)| format!("{}: {why}", show_path(p)));
            Failure::new(1655, code, text).why(why.unwrap_or_default())
        }
        RollbackError::NoCheckpoint(_) => Failure::new(1655, exit::FAILED, text),
        RollbackError::Running(_) => Failure::new(1658, exit::REFUSED, text)
            .why("its sources are being read")
            .help("wait until zoneward status says that it is done. Nothing was changed"),
        RollbackError::Move { .. } | RollbackError::Gone { .. } => Failure::new(1657, exit::FAILED, text),
    }
}
