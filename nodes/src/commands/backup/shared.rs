//! `backup` where daemons serve the zone: asks for a checkpoint and stays until it is done, or until all that is left
//! waits for something that only time or a person brings.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use zoneward_actors::backup::BackupRequest;
use zoneward_actors::clock::now_ms;
use zoneward_actors::settle::lost_sectors;
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{CheckpointState, Source, State, Task, TaskState};
use zoneward_consensus::plan::{Work, plan};
use zoneward_sectors::ids::{CheckpointId, NodeId, TargetId};

use crate::cli::Global;
use crate::commands::node::{SILENT_MS, client_failed};
use crate::commands::serving;
use crate::daemon::client::Client;
use crate::daemon::local::Status;
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::progress::{Display, Meter};
use crate::summary::Summary;
use crate::units::show_path;

/// How often the daemon is asked, ms.
const LOOK_MS: u64 = 250;
/// What still waits after so long without any change is left to the daemons.
const PATIENCE: Duration = Duration::from_secs(8);

pub fn backup(
    g: &Global,
    out: Out,
    zone: &mut Zone,
    request: &BackupRequest,
    missing: Vec<Failure>,
) -> Result<i32, Failure> {
    if request.allow_older_home {
        return Err(Failure::new(1206, exit::REFUSED, "a daemon serves this home")
            .help("stop it, run this command, then start it again: zoneward up"));
    }
    if let Some((id, seq)) = zone.state().running().filter(|c| c.rewrite.is_some()).map(|c| (c.id, c.seq)) {
        out.say(format!("checkpoint {seq} is being made of what is stored; this begins after it"));
        let client = serving(g).ok_or_else(stopped)?;
        attend(g, &client, zone, id)?;
    }
    let running = zone.state().running().map(|c| (c.id, c.seq));
    let checkpoint = match running {
        Some((id, seq)) => {
            out.say(format!("checkpoint {seq} is being made already; this waits for it"));
            id
        }
        None => {
            let (id, sources) = (CheckpointId::random(), request.sources.clone());
            let (checkpoint_kind, allow_empty) = (request.kind, request.allow_empty);
            zone.propose(Command::OpenCheckpoint { checkpoint: id, checkpoint_kind, sources, allow_empty })?;
            id
        }
    };
    stay(g, out, zone, checkpoint, missing)
}

fn stopped() -> Failure {
    Failure::new(2007, exit::FAILED, "the daemon has just stopped")
}

/// Stays with a checkpoint that the daemons make, and tells what came of it.
pub fn stay(
    g: &Global,
    out: Out,
    zone: &mut Zone,
    checkpoint: CheckpointId,
    missing: Vec<Failure>,
) -> Result<i32, Failure> {
    let started = Instant::now();
    let client = serving(g).ok_or_else(stopped)?;
    let mut waits = attend(g, &client, zone, checkpoint)?;
    let state = zone.state();
    waits.extend(lost_sectors(state));
    if state.checkpoints.get(&checkpoint).is_some_and(|c| c.state == CheckpointState::Abandoned) {
        return Err(Failure::new(1409, exit::FAILED, "the checkpoint was given up meanwhile"));
    }
    let mut summary = Summary::of_state(state, checkpoint, waits)
        .ok_or_else(|| Failure::new(1409, exit::FAILED, "the checkpoint is gone"))?;
    summary.refused.extend(missing);
    Ok(summary.tell(out, state, started.elapsed().as_secs_f64()))
}

/// Stays with a checkpoint until there is nothing more to wait for; answers what was left, in words.
fn attend(g: &Global, client: &Client, zone: &mut Zone, checkpoint: CheckpointId) -> Result<Vec<String>, Failure> {
    let stop = crate::interrupt::stop();
    let meter = Arc::new(Meter::default());
    meter.bytes.store(true, Ordering::Relaxed);
    let shown = Display::start(g, meter.clone(), |_| {});
    let (mut still_since, mut seen) = (Instant::now(), None);
    loop {
        let status = client.status().map_err(client_failed)?;
        zone.refresh();
        let state = zone.state();
        show(&meter, state, checkpoint, &status);
        let left = left(state, checkpoint, &status);
        if left.is_empty() || !state.checkpoints.get(&checkpoint).is_some_and(is_alive) {
            drop(shown);
            return Ok(Vec::new());
        }
        // What somebody works on moves by itself; the rest may wait for a disk, a node, a person. Looking after what is stored
        // goes on for ever beside it.
        let works = |w: &Work| !matches!(w, Work::Audit { .. });
        let stored = state.copies.values().filter(|c| c.is_stored()).count();
        let now = Some((left.clone(), state.sectors.len(), stored));
        let moving = seen != now || state.leases.values().any(|l| l.work.iter().any(works));
        if moving {
            (still_since, seen) = (Instant::now(), now);
        }
        if still_since.elapsed() > PATIENCE {
            drop(shown);
            return Ok(left);
        }
        if stop.load(Ordering::Relaxed) {
            drop(shown);
            return Err(Failure::new(1901, exit::INTERRUPTED, "no longer waiting")
                .help("the backup goes on by itself: zoneward status shows it"));
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
}

fn is_alive(c: &zoneward_consensus::model::Checkpoint) -> bool {
    c.state != CheckpointState::Abandoned
}

fn show(meter: &Meter, state: &State, checkpoint: CheckpointId, status: &Status) {
    let mine = |w: &Work| matches!(w, Work::Pack { checkpoint: c, .. } if *c == checkpoint);
    let steps = status.reports.values().flat_map(|r| &r.steps);
    let packing: Vec<_> = steps.filter(|s| s.work.iter().any(mine)).collect();
    if let Some(step) = packing.first() {
        meter.total.store(packing.iter().map(|s| s.total_bytes).sum(), Ordering::Relaxed);
        meter.done.store(packing.iter().map(|s| s.done_bytes).sum(), Ordering::Relaxed);
        *meter.label.lock().unwrap_or_else(|e| e.into_inner()) = step.label.clone();
    } else if state.checkpoints.get(&checkpoint).is_some_and(|c| c.is_complete()) {
        *meter.label.lock().unwrap_or_else(|e| e.into_inner()) = "copies and system data".into();
    }
}

/// What is still to be done for a checkpoint, each with what it waits for.
fn left(state: &State, checkpoint: CheckpointId, status: &Status) -> Vec<String> {
    let Some(c) = state.checkpoints.get(&checkpoint) else { return Vec::new() };
    let fresh = |r: &&zoneward_actors::node::NodeReport| now_ms().saturating_sub(r.at_ms) < SILENT_MS;
    let up: BTreeSet<NodeId> = status.reports.values().filter(fresh).map(|r| r.node).collect();
    let mut all = Vec::new();
    for t in c.tasks.iter().filter(|t| c.state == CheckpointState::Running && t.state == TaskState::Running) {
        if let Some(source) = state.sources.get(&t.source) {
            all.push(waits_for(state, source, t, &up));
        }
    }
    if c.state == CheckpointState::Running && all.is_empty() {
        all.push("the checkpoint is about to be closed".into());
    }
    if c.state == CheckpointState::Stored {
        all.push("the checkpoint's system data is not published yet".into());
    }
    let reached = |t: &TargetId| status.reports.values().filter(fresh).any(|r| !r.away.contains_key(t));
    let name = |t: TargetId| state.targets.get(&t).map_or_else(|| t.to_string(), |t| t.name.clone());
    let mut lacking: BTreeSet<TargetId> = BTreeSet::new();
    for w in plan(state, now_ms()) {
        if let Work::Copy { target, .. } | Work::Publish { target } = w {
            lacking.insert(target);
        }
    }
    lacking.extend(state.leases.values().flat_map(|l| &l.work).filter_map(Work::target));
    all.extend(lacking.into_iter().map(|t| match reached(&t) {
        true => format!("target {} lacks copies", name(t)),
        false => format!("target {} cannot be reached and waits for its copies", name(t)),
    }));
    all
}

fn waits_for(state: &State, source: &Source, task: &Task, up: &BTreeSet<NodeId>) -> String {
    let path = show_path(&source.path);
    if let Some((node, passed)) = task.passed.iter().next() {
        let name = |n: NodeId| state.nodes.get(&n).map_or_else(|| n.to_string(), |n| n.name.clone());
        let others: Vec<String> = state.readers(source).filter(|n| !task.passed.contains_key(n)).map(name).collect();
        return format!("{path} waits for {}: {} cannot read it ({})", others.join(" or "), name(*node), passed.why);
    }
    let readers = source.nodes.iter().filter(|n| up.contains(n)).count();
    if source.nodes.is_empty() || readers > 0 {
        return format!("{path} is not packed yet");
    }
    let names = source.nodes.iter().map(|n| state.nodes.get(n).map_or_else(|| n.to_string(), |n| n.name.clone()));
    let names: Vec<String> = names.collect();
    format!("{path} waits for {}, which is not heard: only it can read it", names.join(" or "))
}
