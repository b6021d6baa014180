//! `prune`, and `backup --synthetic`: a checkpoint made of what is stored.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use zoneward_actors::rewrite::{Outlook, Synthetic, outlook, synthesize};
use zoneward_actors::settle;
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::owner::Act;
use zoneward_sectors::ids::CheckpointId;
use zoneward_sectors::pack::Progress;

use super::backup::shared;
use super::forget::owner_word;
use super::{open, threads};
use crate::cli::{Global, PruneArgs};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::progress::{Display, Meter};
use crate::units::{bytes, duration, plural};

pub fn prune(g: &Global, out: Out, a: &PruneArgs) -> Result<i32, Failure> {
    super::recover::refuse_while_pending(&super::home(g)?)?;
    let mut zone = open(g)?;
    let seen = outlook(&zone, a.max_waste)?;
    tell(out, &seen, a.max_waste);
    if seen.is_empty() {
        // What an earlier run was cut in still ends: files that nobody needs, copies, heads.
        let left = match a.apply && !zone.is_shared() {
            true => with_progress(g, &mut zone, |zone, p| {
                settle::tidy(zone).and_then(|()| settle::settle(zone, threads(), &p.stop))
            })?,
            false => settle::Settled::default(),
        };
        out.json(&document(&seen, None));
        out.say("there is nothing to free");
        left.failed.iter().for_each(|f| out.warn(f));
        return Ok(if left.failed.is_empty() { 0 } else { exit::INCOMPLETE });
    }
    if seen.is_much() && !a.owner && a.apply {
        return Err(Failure::new(1623, exit::REFUSED, "this waits for the owner")
            .why(format!("{} of {} would go", bytes(seen.freed()), bytes(seen.bytes())))
            .help("say so with the owner's passphrase: add --owner"));
    }
    if !a.apply {
        out.json(&document(&seen, None));
        out.say(match seen.is_much() {
            true => "--apply --owner does it: so much goes only by the owner's word",
            false => "--apply does it",
        });
        return Ok(0);
    }
    let checkpoint = CheckpointId::random();
    let owner = match a.owner {
        true => Some(owner_word(g, &zone, Act::Prune { checkpoint })?),
        false => None,
    };
    if zone.is_shared() {
        zone.propose(Command::OpenRewrite { checkpoint, max_waste: Some(a.max_waste), owner })?;
        let code = shared::stay(g, out, &mut zone, checkpoint, Vec::new())?;
        out.say("the files go when every target shows the new head; zoneward status shows what is left to do");
        return Ok(code);
    }
    let started = Instant::now();
    let made = with_progress(g, &mut zone, |zone, progress| {
        synthesize(zone, checkpoint, Some(a.max_waste), owner, threads(), progress)
    })?;
    out.json(&document(&seen, Some((&made, started.elapsed().as_secs_f64()))));
    say_made(out, &made, started);
    Ok(code_of(out, &made))
}

/// `backup --synthetic`.
pub fn synthetic(g: &Global, out: Out, zone: &mut Zone) -> Result<i32, Failure> {
    let checkpoint = CheckpointId::random();
    if zone.state().complete().is_empty() {
        return Err(
            Failure::new(1601, exit::FAILED, "there is no finished checkpoint yet").help("zoneward backup PATH")
        );
    }
    if zone.is_shared() {
        zone.propose(Command::OpenRewrite { checkpoint, max_waste: None, owner: None })?;
        return shared::stay(g, out, zone, checkpoint, Vec::new());
    }
    let started = Instant::now();
    let made = with_progress(g, zone, |zone, progress| synthesize(zone, checkpoint, None, None, threads(), progress))?;
    let seconds = started.elapsed().as_secs_f64();
    out.json(&serde_json::json!({
        "type": "summary", "schema": "zoneward.backup/1", "checkpoint": made.checkpoint, "seq": made.seq,
        "kind": "synthetic", "resumed": false, "dry_run": false, "complete": made.settled.failed.is_empty(),
        "seconds": seconds, "sectors": made.rewritten.sectors, "stored_bytes": made.rewritten.stored_bytes,
        "copies_made": made.settled.copies_made, "failed": made.settled.failed, "refused": [], "sources": [],
    }));
    say_made(out, &made, started);
    Ok(code_of(out, &made))
}

fn with_progress<T>(
    g: &Global,
    zone: &mut Zone,
    run: impl FnOnce(&mut Zone, &Arc<Progress>) -> Result<T, zoneward_actors::errors::ZoneError>,
) -> Result<T, Failure> {
    let progress = Arc::new(Progress { stop: crate::interrupt::stop(), ..Progress::default() });
    let meter = Arc::new(Meter::default());
    meter.bytes.store(true, Ordering::Relaxed);
    meter.label("rewriting".to_owned());
    let shown = {
        let progress = progress.clone();
        Display::start(g, meter, move |m| m.done.store(progress.read.load(Ordering::Relaxed), Ordering::Relaxed))
    };
    let done = run(zone, &progress);
    drop(shown);
    Ok(done?)
}

fn tell(out: Out, seen: &Outlook, max_waste: u8) {
    let all = plural(seen.sectors.len() as u64 + seen.unneeded, "sector", "sectors");
    out.say(format!("{all} of data, {}; about {} of that is dead", bytes(seen.bytes()), bytes(seen.dead())));
    if seen.over > 0 {
        out.say(format!(
            "the grace is over for {}: gone for good with this",
            plural(seen.over as u64, "forgotten checkpoint", "forgotten checkpoints")
        ));
    }
    if !seen.closed.is_empty() {
        out.say(format!(
            "{} only the owner can read: what is dead of {} stays until a full backup, or --with-owner-key without a daemon",
            plural(seen.closed.len() as u64, "source", "sources"),
            if seen.closed.len() == 1 { "it" } else { "them" }
        ));
    }
    if seen.unneeded > 0 {
        let n = plural(seen.unneeded, "sector", "sectors");
        out.say(format!("{n} that nothing needs go: {}", bytes(seen.unneeded_bytes)));
    }
    if !seen.leave.is_empty() {
        let n = plural(seen.leave.len() as u64, "sector", "sectors");
        out.say(format!(
            "{n} with more than {max_waste} % dead in all go: about {} are freed, {} written anew",
            bytes(seen.freed() - seen.unneeded_bytes),
            bytes(seen.moved())
        ));
    }
}

fn document(seen: &Outlook, made: Option<(&Synthetic, f64)>) -> serde_json::Value {
    serde_json::json!({
        "type": "summary", "schema": "zoneward.prune/1", "applied": made.is_some(),
        "bytes": seen.bytes(), "dead_bytes": seen.dead(), "freed_bytes": seen.freed(), "moved_bytes": seen.moved(),
        "sectors": seen.sectors.len() as u64 + seen.unneeded, "unneeded_sectors": seen.unneeded, "closed_sources": seen.closed.len(),
        "rewritten_sectors": seen.leave.len(), "checkpoints_gone": seen.over, "needs_owner": seen.is_much(),
        "checkpoint": made.map(|(m, _)| m.checkpoint), "seconds": made.map(|(_, s)| s),
        "stored_bytes": made.map(|(m, _)| m.rewritten.stored_bytes),
        "unmoved_bytes": made.map(|(m, _)| m.rewritten.unmoved_bytes),
        "failed": made.map(|(m, _)| m.settled.failed.clone()).unwrap_or_default(),
    })
}

fn say_made(out: Out, made: &Synthetic, started: Instant) {
    let r = &made.rewritten;
    out.say(format!(
        "checkpoint {} ({:.8}), synthetic, done in {}: {} of catalogs, {} in {} on the target",
        made.seq,
        made.checkpoint.to_string(),
        duration(started.elapsed().as_secs_f64()),
        plural(r.layers, "layer", "layers"),
        bytes(r.stored_bytes),
        plural(r.sectors, "sector", "sectors")
    ));
}

fn code_of(out: Out, made: &Synthetic) -> i32 {
    made.settled.failed.iter().for_each(|f| out.warn(f));
    if let Some(why) = &made.rewritten.unmoved_why {
        let left = bytes(made.rewritten.unmoved_bytes);
        out.warn(format!("{left} could not be moved, so their sectors stay: {why}"));
    }
    let complete = made.settled.failed.is_empty() && made.rewritten.unmoved_bytes == 0;
    if complete { 0 } else { exit::INCOMPLETE }
}
