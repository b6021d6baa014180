//! `status`: how the zone is, what is under way, what is not yet safe, what to do about it.

use std::collections::BTreeSet;

use zoneward_actors::board::{STALLED_S, StepReport};
use zoneward_actors::clock::now_ms;
use zoneward_actors::engine::backlog::{MUCH_LEN, OVERDUE_MS, backed_up_ms};
use zoneward_actors::zone::Zone;
use zoneward_consensus::keep::sudden;
use zoneward_consensus::keyless::with_keys;
use zoneward_consensus::levels::{Level, Levels, levels};
use zoneward_consensus::model::{CheckpointState, Misshown, State, TaskState};
use zoneward_consensus::secrets::keepers;
use zoneward_sectors::headcode::HeadCode;
use zoneward_transport::zone_fingerprint;

use super::{node, open, schedule, serving};
use crate::cli::Global;
use crate::daemon::local::Status;
use crate::errors::Failure;
use crate::output::Out;
use crate::seen::seen;
use crate::units::{bytes, count, duration, local_time, plural, show_path, utc_time};
use crate::words::{self, Ladder, Lang};

/// A target that showed another head than it was given is told of for so long, ms.
const MISSHOWN_MS: u64 = 7 * 24 * 3_600_000;

/// What is to be looked at beside what the levels say, in words, with what to do.
fn concerns(zone: &Zone, status: Option<&Status>) -> Vec<String> {
    let state = zone.state();
    let mut all = Vec::new();
    for u in zone.unreachable() {
        all.push(format!("target {} cannot be used from here: {}", u.name, crate::errors::chain(&u.error)));
    }
    if status.is_none() && state.running().is_some() {
        all.push("a backup was cut: zoneward backup carries it on".into());
    }
    if let Some(status) = status {
        of_node(status, &mut all);
        of_backlog(state, status, &mut all);
    }
    all.extend(super::rollback::concerns(zone));
    if zone.home.recovery_kit().exists() {
        all.push(format!(
            "the recovery kit still lies in this zone ({}): print it, store it elsewhere, delete it",
            zone.home.recovery_kit().display()
        ));
    }
    for t in state.targets.values() {
        let lately = |m: &&Misshown| now_ms().saturating_sub(m.at_ms) < MISSHOWN_MS;
        if let Some(m) = t.misshown.as_ref().filter(lately) {
            all.push(format!(
                "target {} showed {} on {}: it was set back, or lost it",
                t.name,
                m.what,
                local_time(m.at_ms)
            ));
        }
    }
    for t in state.targets.values().filter(|t| t.leaving) {
        all.push(match state.left_on(t.id) as u64 {
            0 => format!("target {} is evacuated: zoneward target remove {}", t.name, t.name),
            n => format!("target {} is being evacuated: {} left", t.name, plural(n, "sector is", "sectors are")),
        });
    }
    let known = crate::terms::of_zone(zone, status);
    all.extend(
        state
            .targets
            .values()
            .filter_map(|t| Some((t, known.get(&t.id)?)))
            .flat_map(|(t, o)| crate::terms::concerns(&t.name, o)),
    );
    if let Some(z) = state.zone.as_ref().filter(|z| z.secret_stale) {
        let (holders, keepers) = (z.secret_next.as_ref().map_or(0, |n| n.holders.len()), keepers(state).len());
        all.push(format!(
            "a node that knew the zone's secret was removed: {holders} of {} have the new one, more than half are needed",
            plural(keepers as u64, "node", "nodes")
        ));
    }
    let newest = state.complete().last().copied();
    for t in newest.into_iter().flat_map(|c| &c.tasks).filter(|t| t.state == TaskState::Done) {
        let path = state.sources.get(&t.source).map_or_else(|| t.source.to_string(), |s| show_path(&s.path));
        for (node, passed) in &t.passed {
            let name = state.nodes.get(node).map_or_else(|| node.to_string(), |n| n.name.clone());
            all.push(format!("{name} could not read {path} for the last backup, so another node did: {}", passed.why));
        }
    }
    for change in sudden(state) {
        all.push(format!(
            "{}: was that you? What was there before is kept for 30 days, and forgotten only with the owner's word",
            super::forget::sudden_text(state, &change)
        ));
    }
    let unsteady: u64 = newest.into_iter().flat_map(|c| &c.tasks).map(|t| t.stats.unsteady).sum();
    if unsteady > 0 {
        all.push(format!("{} changed while the last backup read them", plural(unsteady, "file", "files")));
    }
    all
}

fn of_node(status: &Status, all: &mut Vec<String>) {
    if let Some(repaired) = &status.repaired {
        all.push(format!("this node's disk needs a look: {repaired}"));
    }
    for a in status.actors.iter().filter(|(_, h)| h.state == "waiting") {
        if let (name, Some(why)) = (a.0, a.1.last_error.as_ref()) {
            all.push(format!("the {name} of this node tries again soon: {why}"));
        }
    }
}

/// Sources whose backup is old and that hold much that is new.
fn of_backlog(state: &State, status: &Status, all: &mut Vec<String>) {
    let found = status.reports.values().flat_map(|r| &r.backlog);
    for b in found {
        let Some(waits) = b.bytes.filter(|n| *n >= MUCH_LEN) else { continue };
        let Some(s) = state.sources.get(&b.source) else { continue };
        let age = now_ms().saturating_sub(backed_up_ms(state, s));
        if age > OVERDUE_MS {
            all.push(format!(
                "{} of new data in {} {} not backed up, the last backup of it is {} old: zoneward backup {}",
                bytes(waits),
                plural(b.files, "file", "files"),
                if b.files == 1 { "is" } else { "are" },
                duration(age as f64 / 1000.0),
                show_path(&s.path)
            ));
        }
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
    out.push(format!("  zone fingerprint: {}", zone_fingerprint(zone.owner().sign_public())));
    let steps: Vec<_> = status.reports.values().flat_map(|r| r.steps.iter().map(|s| (r.node, s))).collect();
    if !steps.is_empty() {
        out.push("running:".into());
        steps.iter().for_each(|(id, s)| out.push(format!("  {}", step_line(s, &name(id)))));
    }
}

/// How the zone is, as lines for a person.
fn lines(zone: &Zone, served: Option<&Status>, lang: Lang) -> Vec<String> {
    let state = zone.state();
    let mut out = Vec::new();
    let name = state.zone.as_ref().map_or_else(String::new, |z| format!("zone {}  {}", z.name, z.id));
    out.push(name);
    out.push(format!("home {}", zone.home.dir().display()));
    let levels = of_zone(zone, served);
    out.extend(words::lines(lang, Ladder::Reliability, &levels.reliability));
    out.extend(words::lines(lang, Ladder::Availability, &levels.availability));
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
            duration(now_ms().saturating_sub(c.content_ms()) as f64 / 1000.0)
        )),
        None => out.push("last checkpoint: none".into()),
    }
    if let Some(code) = head_code(state) {
        out.push(format!("head {code}  (kept elsewhere, it tells an older state from this one: recover --head)"));
    }
    for (name, stands) in schedule::stands(state, served).into_iter().filter(|_| served.is_some()) {
        out.push(format!("schedule {name}: {}", schedule::text(&stands)));
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
    let write_only = state.sources.values().filter(|s| s.write_only).count() as u64;
    let keyless = state.keyless().len() as u64;
    if write_only + keyless > 0 {
        let waiting = with_keys(state).collect::<BTreeSet<_>>().len() as u64;
        out.push(format!(
            "{}; only the owner's key opens {}{}",
            plural(write_only, "write-only source", "write-only sources"),
            plural(keyless, "sector", "sectors"),
            if waiting > 0 {
                format!(", and {} more when their copies are made", count(waiting))
            } else {
                String::new()
            }
        ));
    }
    match all_read(state) {
        Some(t) => out.push(format!("every stored byte was last read and found whole on {}", local_time(t))),
        None => out.push("not every stored byte has been read back yet: zoneward check --read-data".into()),
    }
    let concerns = concerns(zone, served);
    let perfect = |l: &Level| l.number == 1 && l.also.is_empty();
    if concerns.is_empty() && perfect(&levels.reliability) && perfect(&levels.availability) {
        out.push("nothing needs attention".into());
    } else if !concerns.is_empty() {
        out.push(format!("{} to look at:", count(concerns.len() as u64)));
        out.extend(concerns.iter().map(|c| format!("  - {c}")));
    }
    out
}

/// Both levels, as of now.
fn of_zone(zone: &Zone, served: Option<&Status>) -> Levels {
    let now = now_ms();
    levels(zone.state(), &seen(zone, served, now), now)
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

/// The newest head, to be kept outside the zone.
fn head_code(state: &State) -> Option<HeadCode> {
    state.head.as_ref().map(|h| HeadCode::of(h.n, &h.payload_hash))
}

fn json(zone: &Zone, served: Option<&Status>) -> serde_json::Value {
    let state = zone.state();
    let last = state.complete().last().copied().map(|c| {
        let published = c.state == CheckpointState::Published;
        serde_json::json!({"id": c.id, "seq": c.seq, "started": utc_time(c.started_ms), "content": utc_time(c.content_ms()), "published": published})
    });
    let (copies, stored_bytes) = stored(state);
    let levels = of_zone(zone, served);
    let z = state.zone.as_ref();
    serde_json::json!({
        "schema": "zoneward.status/1", "zone": z.map(|z| z.id), "name": z.map(|z| &z.name), "home": crate::units::shown(zone.home.dir()),
        "owner_fingerprint": z.map(|z| z.owner_fingerprint), "fingerprint": zone_fingerprint(zone.owner().sign_public()), "nodes": state.nodes.len(), "sources": state.sources.len(),
        "targets": state.targets.len(), "checkpoints": state.complete().len(), "last_checkpoint": last,
        "sectors": state.sectors.values().filter(|s| s.is_sealed()).count(), "copies": copies,
        "write_only_sources": state.sources.values().filter(|s| s.write_only).count(), "keyless_sectors": state.keyless().len(),
        "reliability": words::json(Ladder::Reliability, &levels.reliability),
        "availability": words::json(Ladder::Availability, &levels.availability), "stored_bytes": stored_bytes, "all_read": all_read(state).map(utc_time), "concerns": concerns(zone, served),
        "head": head_code(state).map(|c| c.to_string()), "running": state.running().map(|c| c.seq), "maintenance": super::rollback::maintenance(state),
        "daemon": served,
    })
}

pub fn status(g: &Global, out: Out) -> Result<i32, Failure> {
    let zone = open(g)?;
    let served = serving(g).map(|c| c.status()).transpose().map_err(node::client_failed)?;
    out.json(&json(&zone, served.as_ref()));
    lines(&zone, served.as_ref(), Lang::chosen(g.lang)).iter().for_each(|l| out.answer(l));
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
        for line in lines(&zone, served.as_ref(), Lang::chosen(g.lang)) {
            text.push_str(&line);
            text.push_str("\x1b[K\r\n");
        }
        text.push_str(&format!("\x1b[K\r\n{}   Ctrl-C ends this\x1b[K\x1b[J", local_time(now_ms())));
        if screen.write_all(text.as_bytes()).and_then(|()| screen.flush()).is_err() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    crate::output::put("");
    Ok(0)
}
