//! `status`: how the zone is, what is under way, what is not yet safe, what to do about it.

use zoneward_actors::board::{STALLED_S, StepReport};
use zoneward_actors::clock::now_ms;
use zoneward_actors::zone::Zone;
use zoneward_consensus::model::{CheckpointState, Standing, State, TaskState};
use zoneward_consensus::plan::{Work, plan};

use super::{node, open, serving};
use crate::cli::Global;
use crate::daemon::local::Status;
use crate::errors::Failure;
use crate::output::Out;
use crate::units::{bytes, count, duration, local_time, plural, show_path, utc_time};

/// What is not as it should be, in words, with what to do.
fn concerns(zone: &Zone, status: Option<&Status>) -> Vec<String> {
    let state = zone.state();
    let mut all = Vec::new();
    for u in zone.unreachable() {
        all.push(format!("target {} cannot be used from here: {}", u.name, crate::errors::chain(&u.error)));
    }
    of_work(state, status.is_some(), &mut all);
    if let Some(status) = status {
        of_nodes(state, status, &mut all);
    } else if state.nodes.len() > 1 {
        all.push("no daemon runs here, so this may be old: zoneward up".into());
    }
    if zone.home.recovery_kit().exists() {
        all.push(format!(
            "the recovery kit still lies in this zone ({}): print it, store it elsewhere, delete it",
            zone.home.recovery_kit().display()
        ));
    }
    of_checkpoints(state, &mut all);
    all
}

fn of_work(state: &State, served: bool, all: &mut Vec<String>) {
    let work = plan(state, now_ms());
    let missing = work.iter().filter(|w| matches!(w, Work::Copy { .. })).count();
    if missing > 0 {
        let how =
            if served { "they are made as soon as their targets can be reached" } else { "zoneward backup makes them" };
        all.push(format!("{} missing: {how}", plural(missing as u64, "copy is", "copies are")));
    }
    if !served && work.iter().any(|w| matches!(w, Work::ResumeCheckpoint { .. })) {
        all.push("a backup was cut: zoneward backup carries it on".into());
    }
    let wanted = state.sources.values().map(|s| usize::from(state.copies_wanted(s))).max().unwrap_or(0);
    let targets = state.usable_targets().count();
    if wanted > targets {
        all.push(format!("{wanted} copies are wanted and there is room for {targets}: zoneward target add URL"));
    }
    let bad = state.copies.values().filter(|c| !c.is_open() && !c.is_stored()).count();
    if bad > 0 {
        all.push(format!("{} damaged or lost: zoneward check names them", plural(bad as u64, "copy is", "copies are")));
    }
}

fn of_nodes(state: &State, status: &Status, all: &mut Vec<String>) {
    if let Some(repaired) = &status.repaired {
        all.push(format!("this node's disk needs a look: {repaired}"));
    }
    if status.leader.is_none() {
        all.push(
            "no majority of the nodes is heard: backups under way go on, nothing new is decided; start the others"
                .into(),
        );
    }
    for n in state.nodes.values().filter(|n| n.standing != Standing::Faulty) {
        let report = status.reports.get(&n.id);
        if n.id == status.node || report.is_some_and(|r| now_ms().saturating_sub(r.at_ms) < node::SILENT_MS) {
            continue;
        }
        let waiting = state.running().into_iter().flat_map(|c| &c.tasks).filter(|t| t.state == TaskState::Running);
        let only: Vec<String> = waiting
            .filter_map(|t| state.sources.get(&t.source))
            .filter(|s| s.nodes == [n.id])
            .map(|s| show_path(&s.path))
            .collect();
        let effect = if only.is_empty() { String::new() } else { format!("; {} waits for it", only.join(", ")) };
        all.push(format!(
            "node {} is not heard{effect}: start it, or zoneward node mark-faulty {} if it is broken",
            n.name, n.name
        ));
    }
    for a in status.actors.iter().filter(|(_, h)| h.state == "waiting") {
        if let (name, Some(why)) = (a.0, a.1.last_error.as_ref()) {
            all.push(format!("the {name} of this node tries again soon: {why}"));
        }
    }
}

fn of_checkpoints(state: &State, all: &mut Vec<String>) {
    let Some(c) = state.complete().last().copied() else {
        return all.push("nothing is backed up yet: zoneward backup PATH".into());
    };
    let unread: u64 = c.tasks.iter().map(|t| t.stats.unread + t.stats.unsteady).sum();
    if unread > 0 {
        all.push(format!("{} could not be read well in the last backup", plural(unread, "path", "paths")));
    }
    for r in &c.refused {
        let path = state.sources.get(&r.source).map_or_else(|| r.source.to_string(), |s| show_path(&s.path));
        all.push(format!("{path} was left as it was in the last backup (ZW-{}): {}", r.code, r.why));
    }
    let age = now_ms().saturating_sub(c.started_ms);
    if age > 24 * 3600 * 1000 {
        all.push(format!("the last backup is {} old: zoneward backup", duration(age as f64 / 1000.0)));
    }
}

/// One running step as a line.
pub(crate) fn step_line(s: &StepReport, node: &str) -> String {
    let percent = (s.done_bytes.min(s.total_bytes) * 100).checked_div(s.total_bytes);
    let part = match percent {
        Some(percent) => format!("{percent:>3} %  {}/{}", bytes(s.done_bytes), bytes(s.total_bytes)),
        None => bytes(s.done_bytes),
    };
    let pace = match s.seconds_left {
        _ if s.still_seconds > STALLED_S => format!("no byte moved for {}", duration(s.still_seconds as f64)),
        Some(left) => format!("{}/s  {} left", bytes(s.bytes_per_second), duration(left as f64)),
        None => format!("{}/s", bytes(s.bytes_per_second)),
    };
    let room =
        if s.temporary_bytes > 0 { format!("  {} of room here", bytes(s.temporary_bytes)) } else { String::new() };
    format!("{:<8} {node:<12} {}  {part}  {pace}{room}", s.kind, s.label)
}

fn cluster_lines(out: &mut Vec<String>, zone: &Zone, status: &Status) {
    let name = |id| zone.state().nodes.get(id).map_or_else(|| format!("{:.8}", format!("{id}")), |n| n.name.clone());
    out.push(match &status.leader {
        Some(l) => format!("leader {}", name(l)),
        None => "leader: none is heard".into(),
    });
    for (id, n) in node::known(zone, Some(status)) {
        out.push(format!("  {}", node::line(id, &n, zone.node())));
    }
    let steps: Vec<_> = status.reports.values().flat_map(|r| r.steps.iter().map(|s| (r.node, s))).collect();
    if !steps.is_empty() {
        out.push("running:".into());
        steps.iter().for_each(|(id, s)| out.push(format!("  {}", step_line(s, &name(id)))));
    }
}

/// How the zone is, as lines for a person.
fn lines(zone: &Zone, served: Option<&Status>) -> Vec<String> {
    let state = zone.state();
    let mut out = Vec::new();
    let name = state.zone.as_ref().map_or_else(String::new, |z| format!("zone {}  {}", z.name, z.id));
    out.push(name);
    out.push(format!("home {}", zone.home.dir().display()));
    if let Some(s) = served {
        cluster_lines(&mut out, zone, s);
    }
    if let Some(c) = state.running().filter(|_| served.is_some()) {
        let done = c.tasks.iter().filter(|t| t.state != TaskState::Running).count();
        out.push(format!("checkpoint {} is being made: {done} of {} sources done", c.seq, c.tasks.len()));
    }
    match state.complete().last() {
        Some(c) => out.push(format!(
            "last checkpoint {} ({:.8}), {} ago",
            c.seq,
            c.id.to_string(),
            duration(now_ms().saturating_sub(c.started_ms) as f64 / 1000.0)
        )),
        None => out.push("last checkpoint: none".into()),
    }
    let (copies, stored) = stored(state);
    out.push(format!(
        "{}, {}; {} in {} on {}",
        plural(state.sources.len() as u64, "source", "sources"),
        plural(state.complete().len() as u64, "checkpoint", "checkpoints"),
        bytes(stored),
        plural(copies, "backup sector", "backup sectors"),
        plural(state.targets.len() as u64, "target", "targets")
    ));
    match all_read(state) {
        Some(t) => out.push(format!("every stored byte was last read and found whole on {}", local_time(t))),
        None => out.push("not every stored byte has been read back yet: zoneward check --read-data".into()),
    }
    let concerns = concerns(zone, served);
    if concerns.is_empty() {
        out.push("nothing needs attention".into());
    } else {
        out.push(format!("{} to look at:", count(concerns.len() as u64)));
        out.extend(concerns.iter().map(|c| format!("  - {c}")));
    }
    out
}

/// Stored copies and their bytes.
fn stored(state: &State) -> (u64, u64) {
    state.copies.values().filter(|c| c.is_stored()).fold((0, 0), |(n, b), c| (n + 1, b + c.stored_len))
}

/// When the copy was read that was read longest ago; `None` if one never was.
fn all_read(state: &State) -> Option<u64> {
    let read = state.copies.values().filter(|c| c.is_stored()).map(|c| c.read_ms.unwrap_or(0)).min();
    read.filter(|t| *t > 0)
}

fn json(zone: &Zone, served: Option<&Status>) -> serde_json::Value {
    let state = zone.state();
    let last = state.complete().last().copied().map(|c| {
        let published = c.state == CheckpointState::Published;
        serde_json::json!({"id": c.id, "seq": c.seq, "started": utc_time(c.started_ms), "published": published})
    });
    let (copies, stored_bytes) = stored(state);
    let z = state.zone.as_ref();
    serde_json::json!({
        "schema": "zoneward.status/1", "zone": z.map(|z| z.id), "name": z.map(|z| &z.name), "home": zone.home.dir(),
        "owner_fingerprint": z.map(|z| z.owner_fingerprint), "nodes": state.nodes.len(), "sources": state.sources.len(),
        "targets": state.targets.len(), "checkpoints": state.complete().len(), "last_checkpoint": last,
        "sectors": state.sectors.values().filter(|s| s.is_sealed()).count(), "copies": copies,
        "stored_bytes": stored_bytes, "all_read": all_read(state).map(utc_time), "concerns": concerns(zone, served),
        "running": state.running().map(|c| c.seq), "daemon": served,
    })
}

pub fn status(g: &Global, out: Out) -> Result<i32, Failure> {
    let zone = open(g)?;
    let served = serving(g).map(|c| c.status()).transpose().map_err(node::client_failed)?;
    out.json(&json(&zone, served.as_ref()));
    lines(&zone, served.as_ref()).iter().for_each(|l| out.answer(l));
    Ok(0)
}

/// The same, live: drawn again each second until Ctrl-C. Where there is no terminal it is drawn once.
pub fn top(g: &Global, out: Out) -> Result<i32, Failure> {
    use std::io::{IsTerminal, Write};
    let mut screen = std::io::stdout();
    if out.json || !screen.is_terminal() {
        return status(g, out);
    }
    let stop = crate::interrupt::stop();
    let mut zone = open(g)?;
    let client = serving(g);
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        zone.refresh();
        let served = client.as_ref().map(|c| c.status()).transpose().map_err(node::client_failed)?;
        // Home, each line to its end, the rest cleared: nothing flickers.
        let mut text = String::from("\x1b[H");
        for line in lines(&zone, served.as_ref()) {
            text.push_str(&line);
            text.push_str("\x1b[K\r\n");
        }
        text.push_str(&format!("\x1b[K\r\n{}   Ctrl-C ends this\x1b[K\x1b[J", local_time(now_ms())));
        if screen.write_all(text.as_bytes()).and_then(|()| screen.flush()).is_err() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    println!();
    Ok(0)
}
