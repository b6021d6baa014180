//! What the zone keeps: `source`, `target`, and `status`.

use std::os::unix::ffi::OsStrExt;

use zoneward_actors::clock::now_ms;
use zoneward_actors::init::add_target;
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::CheckpointState;
use zoneward_consensus::plan::{Work, plan};

use super::make::parse_url;
use super::{absolute, open};
use crate::cli::{Global, SourceCommand, TargetCommand};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::{bytes, count, duration, local_time, plural, show_path, utc_time};

pub fn source(g: &Global, out: Out, command: SourceCommand) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    match command {
        SourceCommand::Ls => {}
        SourceCommand::Add(a) => {
            let id = super::backup::remember(&mut zone, &a, a.exclude.clone())?;
            out.say(format!("source {id} added; zoneward backup takes it from now on"));
            if !out.json {
                return Ok(0);
            }
        }
        SourceCommand::Remove { source } => {
            let path = absolute(std::path::Path::new(&source))?;
            let found = zone
                .state()
                .sources
                .values()
                .find(|s| s.path == path.as_os_str().as_bytes() || s.id.to_string().starts_with(&source))
                .map(|s| s.id);
            let id = found.ok_or_else(|| {
                Failure::new(1408, exit::FAILED, format!("{source} is not a source"))
                    .help("zoneward source ls lists them")
            })?;
            zone.propose(Command::RemoveSource { source: id })?;
            out.say("it is no longer backed up; what is stored stays");
            if !out.json {
                return Ok(0);
            }
        }
    }
    let all: Vec<_> = zone.state().sources.values().collect();
    out.json(&serde_json::json!({"schema": "zoneward.sources/1", "sources": all.iter().map(|s| serde_json::json!({
        "id": s.id, "path": show_path(&s.path), "priority": s.priority, "copies": zone.state().copies_wanted(s),
        "excludes": s.excludes, "exclude_caches": s.exclude_caches, "one_file_system": s.one_file_system, "entries": s.last_entries,
    })).collect::<Vec<_>>()}));
    for s in all {
        out.answer(format!("{:>4}  {} copies  {}", s.priority, zone.state().copies_wanted(s), show_path(&s.path)));
    }
    Ok(0)
}

pub fn target(g: &Global, out: Out, command: TargetCommand) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    if let TargetCommand::Add { url, name, domain } = command {
        let url = parse_url(&url)?;
        let name = name.unwrap_or_else(|| format!("target-{}", zone.state().targets.len() + 1));
        add_target(&mut zone, &url, &name, domain)?;
        out.say(format!("target {name} added: {url}; the next backup brings it the copies that are missing"));
        if !out.json {
            return Ok(0);
        }
    }
    let mut rows = Vec::new();
    for t in zone.state().targets.values() {
        let stored = zone.state().copies.values().filter(|c| c.target == t.id && c.is_stored());
        let (n, used) = stored.fold((0u64, 0u64), |(n, b), c| (n + 1, b + c.stored_len));
        let free = zone.target(t.id).and_then(|x| x.capabilities().free_bytes);
        let why = zone.unreachable().iter().find(|u| u.target == t.id).map(|u| crate::errors::chain(&u.error));
        rows.push(serde_json::json!({
            "id": t.id, "name": t.name, "url": t.url, "domain": t.domain, "reachable": why.is_none(), "why": why,
            "sectors": n, "used_bytes": used, "free_bytes": free, "head": t.pointer.map(|p| p.n),
        }));
        let state = why.map_or_else(
            || free.map_or_else(String::new, |f| format!("{} free", bytes(f))),
            |w| format!("NOT REACHABLE: {w}"),
        );
        out.answer(format!(
            "{:<12} {:>6}  {:>9}  {}  {state}",
            t.name,
            plural(n, "sector", "sectors"),
            bytes(used),
            t.url
        ));
    }
    out.json(&serde_json::json!({"schema": "zoneward.targets/1", "targets": rows}));
    Ok(0)
}

/// What is not as it should be, in words, with what to do.
fn concerns(zone: &Zone) -> Vec<String> {
    let state = zone.state();
    let mut all = Vec::new();
    for u in zone.unreachable() {
        all.push(format!("target {} cannot be used: {}", u.name, crate::errors::chain(&u.error)));
    }
    let work = plan(state, now_ms());
    let missing = work.iter().filter(|w| matches!(w, Work::Copy { .. })).count();
    if missing > 0 {
        all.push(format!("{} missing: zoneward backup makes them", plural(missing as u64, "copy is", "copies are")));
    }
    if work.iter().any(|w| matches!(w, Work::ResumeCheckpoint { .. })) {
        all.push("a backup was cut: zoneward backup carries it on".into());
    }
    let wanted = state.sources.values().map(|s| usize::from(state.copies_wanted(s))).max().unwrap_or(0);
    let targets = state.usable_targets().count();
    if wanted > targets {
        all.push(format!("{wanted} copies are wanted and there is room for {targets}: zoneward target add URL"));
    }
    if zone.home.recovery_kit().exists() {
        all.push(format!(
            "the recovery kit still lies in this zone ({}): print it, store it elsewhere, delete it",
            zone.home.recovery_kit().display()
        ));
    }
    let bad = state.copies.values().filter(|c| !c.is_open() && !c.is_stored()).count();
    if bad > 0 {
        all.push(format!("{} damaged or lost: zoneward check names them", plural(bad as u64, "copy is", "copies are")));
    }
    if let Some(c) = state.complete().last() {
        let unread: u64 = c.tasks.iter().map(|t| t.stats.unread + t.stats.unsteady).sum();
        if unread > 0 {
            all.push(format!("{} could not be read well in the last backup", plural(unread, "path", "paths")));
        }
        let age = now_ms().saturating_sub(c.started_ms);
        if age > 24 * 3600 * 1000 {
            all.push(format!("the last backup is {} old: zoneward backup", duration(age as f64 / 1000.0)));
        }
    } else {
        all.push("nothing is backed up yet: zoneward backup PATH".into());
    }
    all
}

pub fn status(g: &Global, out: Out) -> Result<i32, Failure> {
    let zone = open(g)?;
    let state = zone.state();
    let Some(z) = state.zone.as_ref() else { return Ok(exit::NO_ZONE) };
    let last = state.complete().last().copied().cloned();
    let sealed: Vec<_> = state.sectors.values().filter(|s| s.is_sealed()).collect();
    let stored =
        state.copies.values().filter(|c| c.is_stored()).fold((0u64, 0u64), |(n, b), c| (n + 1, b + c.stored_len));
    let read = state.copies.values().filter(|c| c.is_stored()).map(|c| c.read_ms.unwrap_or(0)).min();
    let concerns = concerns(&zone);
    out.json(&serde_json::json!({
        "schema": "zoneward.status/1", "zone": z.id, "name": z.name, "home": zone.home.dir(), "owner_fingerprint": z.owner_fingerprint,
        "nodes": state.nodes.len(), "sources": state.sources.len(), "targets": state.targets.len(), "checkpoints": state.complete().len(),
        "last_checkpoint": last.as_ref().map(|c| serde_json::json!({"id": c.id, "seq": c.seq, "started": utc_time(c.started_ms), "published": c.state == CheckpointState::Published})),
        "sectors": sealed.len(), "copies": stored.0, "stored_bytes": stored.1, "all_read": read.filter(|t| *t > 0).map(utc_time), "concerns": concerns,
    }));
    out.answer(format!("zone {}  {}", z.name, z.id));
    out.answer(format!("home {}", zone.home.dir().display()));
    match &last {
        Some(c) => out.answer(format!(
            "last checkpoint {} ({:.8}), {} ago",
            c.seq,
            c.id.to_string(),
            duration(now_ms().saturating_sub(c.started_ms) as f64 / 1000.0)
        )),
        None => out.answer("last checkpoint: none"),
    }
    out.answer(format!(
        "{}, {}; {} in {} on {}",
        plural(state.sources.len() as u64, "source", "sources"),
        plural(state.complete().len() as u64, "checkpoint", "checkpoints"),
        bytes(stored.1),
        plural(stored.0, "backup sector", "backup sectors"),
        plural(state.targets.len() as u64, "target", "targets")
    ));
    match read.filter(|t| *t > 0) {
        Some(t) => out.answer(format!("every stored byte was last read and found whole on {}", local_time(t))),
        None => out.answer("not every stored byte has been read back yet: zoneward check --read-data"),
    }
    if concerns.is_empty() {
        out.answer("nothing needs attention");
    } else {
        out.answer(format!("{} to look at:", count(concerns.len() as u64)));
        concerns.iter().for_each(|c| out.answer(format!("  - {c}")));
    }
    Ok(0)
}
