//! What a person, or a program, is told of a rollback.

use std::path::PathBuf;

use zoneward_actors::rollback::{Done, Journal, Left, LeftWhy, Outlook, Phase, Swap, has_late};
use zoneward_actors::zone::Zone;
use zoneward_consensus::model::State;
use zoneward_sectors::ids::NodeId;

use super::how_on;
use crate::output::Out;
use crate::units::{bytes, duration, local_time, plural, show_path, shown, utc_time};

/// What goes back, as a person knows it.
fn place(s: &Swap) -> PathBuf {
    s.only.as_ref().map_or_else(|| s.dir.path(), |name| s.dir.path().join(name.path()))
}

fn amount(files: u64, size: u64) -> String {
    format!("{}, {}", plural(files, "file", "files"), bytes(size))
}

fn node_name(state: &State, id: NodeId) -> String {
    state.nodes.get(&id).map_or_else(|| id.to_string(), |n| n.name.clone())
}

fn why_left(state: &State, seq: u64, why: &LeftWhy) -> String {
    match why {
        LeftWhy::NotHeld => format!("checkpoint {seq} does not hold it"),
        LeftWhy::Elsewhere(nodes) if nodes.is_empty() => "no node can read it".into(),
        LeftWhy::Elsewhere(nodes) => {
            let names: Vec<String> = nodes.iter().map(|n| node_name(state, *n)).collect();
            format!("on {} run zoneward rollback {seq} there", names.join(" or "))
        }
        LeftWhy::Here(why) => why.clone(),
    }
}

fn sources_json<'a>(swaps: impl Iterator<Item = &'a Swap>) -> Vec<serde_json::Value> {
    let one = |s: &Swap| {
        serde_json::json!({
            "source": s.source, "path": show_path(&s.path.0), "place": shown(&place(s)), "kept": shown(&s.kept()),
            "files": s.files, "bytes": s.bytes,
        })
    };
    swaps.map(one).collect()
}

fn document(phase: Option<Phase>, seq: Option<u64>, applied: bool, swaps: &[&Swap]) -> serde_json::Value {
    serde_json::json!({
        "schema": "zoneward.rollback/1", "phase": phase, "seq": seq, "applied": applied,
        "files": swaps.iter().map(|s| s.files).sum::<u64>(), "bytes": swaps.iter().map(|s| s.bytes).sum::<u64>(),
        "sources": sources_json(swaps.iter().copied()),
    })
}

/// Sources that stay as they are, and why.
pub fn left(out: Out, zone: &Zone, seq: u64, all: &[Left]) {
    for l in all {
        out.warn(format!("{} stays as it is: {}", show_path(&l.path), why_left(zone.state(), seq, &l.why)));
    }
}

/// What would be done.
pub fn outlook(out: Out, zone: &Zone, seen: &Outlook) {
    let swaps: Vec<&Swap> = seen.planned.iter().map(|p| &p.swap).collect();
    let mut json = document(None, Some(seen.seq), false, &swaps);
    let left = |l: &Left| {
        let here = matches!(l.why, LeftWhy::Here(_));
        serde_json::json!({"source": l.source, "path": show_path(&l.path), "here": here, "why": why_left(zone.state(), seen.seq, &l.why)})
    };
    json["left"] = seen.left.iter().map(left).collect();
    json["notes"] = seen.planned.iter().flat_map(|p| p.notes.iter().cloned()).collect();
    json["room"] = seen.short.is_empty().into();
    out.json(&json);
    for p in &seen.planned {
        let s = &p.swap;
        let size = amount(s.files, s.bytes);
        out.say(format!("{} goes back to {}: {size}", place(s).display(), local_time(p.as_of_ms)));
        p.notes.iter().for_each(|n| out.say(format!("    {n}")));
    }
    for l in &seen.left {
        out.say(format!("{} stays as it is: {}", show_path(&l.path), why_left(zone.state(), seen.seq, &l.why)));
    }
    for s in &seen.short {
        let (needs, free) = (bytes(s.needs.bytes), bytes(s.free.bytes));
        out.say(format!("NOT enough room where {} lies: about {needs} are needed, {free} are free", s.place.display()));
    }
    if seen.planned.is_empty() {
        out.say("nothing would be put back here");
        return;
    }
    if let Some(c) = zone.state().running().filter(|_| !zone.is_shared()) {
        out.say(format!("the backup that was cut, checkpoint {}, is given up", c.seq));
    }
    out.say("what is there now is kept beside until you release it; until all is in its place nothing is backed up");
    out.say("stop the programs that use these files; --apply does it");
}

/// How a rollback stands.
pub fn status(out: Out, zone: &Zone, journal: Option<&Journal>) {
    let swaps: Vec<&Swap> = journal.map(|j| j.swaps.iter().collect()).unwrap_or_default();
    let mut json = document(journal.map(|j| j.phase), journal.map(|j| j.seq), false, &swaps);
    json["started"] = journal.map(|j| utc_time(j.started_ms)).into();
    json["maintenance"] = maintenance(zone.state());
    out.json(&json);
    match journal {
        None => out.answer("there is no rollback on this node; zoneward rollback CP shows what one would do"),
        Some(j) => {
            out.answer(format!("rollback to checkpoint {}, begun {}: {}", j.seq, local_time(j.started_ms), phase(j)));
            for s in &j.swaps {
                out.answer(format!(
                    "  {}: {}, kept in {}",
                    place(s).display(),
                    amount(s.files, s.bytes),
                    s.kept().display()
                ));
            }
            out.answer(how_on(j.phase));
        }
    }
    quiet_nodes(zone).into_iter().for_each(|l| out.answer(l));
}

fn phase(j: &Journal) -> &'static str {
    match j.phase {
        Phase::Staging => "cut, or being made, before anything was replaced",
        Phase::Swapping => "cut, or being made, while sources were replaced",
        Phase::Swapped => "done; what was replaced is kept",
        Phase::Undoing => "being undone",
        Phase::Undone => "undone; what it had brought is kept",
        Phase::Releasing => "what was kept is being deleted",
    }
}

pub(crate) fn maintenance(state: &State) -> serde_json::Value {
    let one = |(node, m): (NodeId, &zoneward_consensus::policy::Maintenance)| serde_json::json!({"node": node, "name": node_name(state, node), "reason": m.reason, "since": utc_time(m.since_ms)});
    state.in_maintenance().map(one).collect()
}

/// Other nodes for which the zone backs nothing up.
fn quiet_nodes(zone: &Zone) -> Vec<String> {
    let state = zone.state();
    let others = state.in_maintenance().filter(|(node, _)| *node != zone.node());
    others
        .map(|(node, m)| {
            let (name, since) = (node_name(state, node), local_time(m.since_ms));
            format!(
                "nothing is backed up since {since}: {} is under way on {name}; zoneward rollback there shows it",
                m.reason
            )
        })
        .collect()
}

/// What `status` says of it.
pub fn concerns(zone: &Zone) -> Vec<String> {
    let mut all = match Journal::read(&zone.home) {
        Ok(None) => Vec::new(),
        Ok(Some(j)) => vec![match j.phase.is_under_way() {
            true => {
                format!("a rollback to checkpoint {} is under way, nothing is backed up: {}", j.seq, how_on(j.phase))
            }
            false => format!("a rollback to checkpoint {} is {}: {}", j.seq, phase(&j), how_on(j.phase)),
        }],
        Err(e) => vec![crate::errors::chain(&e)],
    };
    let under_way = matches!(Journal::read(&zone.home), Ok(Some(j)) if j.phase.is_under_way());
    if !under_way && zone.state().in_maintenance().any(|(node, _)| node == zone.node()) {
        all.push(
            "nothing is backed up, and the rollback here is over: it was cut before it said so; zoneward rollback does"
                .into(),
        );
    }
    all.extend(quiet_nodes(zone));
    all
}

fn warn_told(out: Out, journal: &Journal, done: &Done) {
    let r = &done.restored;
    out.warn_some(r.warnings.iter().map(|(p, why)| format!("{}: {why}", show_path(p))), r.warnings_count);
    out.warn_some(r.bad_copies.iter().map(|why| format!("not read: {why}")), r.bad_copies.len() as u64);
    out.warn_some(done.told.iter().cloned(), done.told.len() as u64);
    if has_late(journal) {
        out.warn("what programs made anew meanwhile lies in the folder late of what is kept: look at it before you release it");
    }
}

/// All sources are as the checkpoint holds them.
pub fn done(out: Out, journal: &Journal, done: &Done, seconds: f64) {
    warn_told(out, journal, done);
    let swaps: Vec<&Swap> = journal.swaps.iter().collect();
    let mut json = document(Some(journal.phase), Some(journal.seq), true, &swaps);
    json["seconds"] = seconds.into();
    json["warnings"] = (done.restored.warnings_count + done.told.len() as u64).into();
    out.json(&json);
    for s in &journal.swaps {
        out.say(format!(
            "{} is as checkpoint {} holds it; what was there is kept in {}",
            place(s).display(),
            journal.seq,
            s.kept().join("old").display()
        ));
    }
    out.say(format!(
        "{} put back: {} in {}; backups go on",
        plural(journal.swaps.len() as u64, "source", "sources"),
        amount(journal.files(), journal.bytes()),
        duration(seconds)
    ));
    out.say(how_on(journal.phase));
}

/// What was replaced is back, or nothing had been replaced yet.
pub fn undone(out: Out, journal: &Journal, done: Option<&Done>) {
    let swaps: Vec<&Swap> = if done.is_some() { journal.swaps.iter().collect() } else { Vec::new() };
    out.json(&document(done.map(|_| journal.phase), Some(journal.seq), true, &swaps));
    let Some(done) = done else {
        out.say("nothing had been replaced yet; what was brought is deleted again, and backups go on");
        return;
    };
    warn_told(out, journal, done);
    for s in &journal.swaps {
        let kept = s.kept().join("new");
        out.say(format!("{} is as it was; what had stood there is kept in {}", place(s).display(), kept.display()));
    }
    out.say(format!("backups go on; {}", how_on(journal.phase)));
}

/// What would be deleted.
pub fn kept(out: Out, journal: &Journal) {
    let swaps: Vec<&Swap> = journal.swaps.iter().collect();
    out.json(&document(Some(journal.phase), Some(journal.seq), false, &swaps));
    journal.swaps.iter().for_each(|s| out.say(format!("{} would be deleted", s.kept().display())));
    out.say("--apply does it, for good");
}

pub fn released(out: Out, journal: &Journal) {
    out.json(&document(None, Some(journal.seq), true, &journal.swaps.iter().collect::<Vec<_>>()));
    journal.swaps.iter().for_each(|s| out.say(format!("{} is deleted", s.kept().display())));
}
