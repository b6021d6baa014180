//! What the zone keeps: `source` and `target`.

use std::os::unix::ffi::OsStrExt;

use zoneward_actors::init::add_target;
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;

use super::make::parse_url;
use super::{absolute, open};
use crate::cli::{Global, SourceCommand, TargetCommand};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::{bytes, plural, show_path};

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

fn pause(zone: &mut Zone, name: &str, paused: bool) -> Result<(), Failure> {
    let found = zone.state().targets.values().find(|t| t.name == name).map(|t| t.id);
    let target = found.ok_or_else(|| {
        Failure::new(1304, exit::FAILED, format!("no target is called {name:?}")).help("zoneward target ls lists them")
    })?;
    Ok(zone.propose(Command::SetTarget { target, paused: Some(paused), owner_key_hash: None })?)
}

pub fn target(g: &Global, out: Out, command: TargetCommand) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    let said = match command {
        TargetCommand::Ls => None,
        TargetCommand::Add { url, name, domain } => {
            let url = parse_url(&url)?;
            let name = name.unwrap_or_else(|| format!("target-{}", zone.state().targets.len() + 1));
            add_target(&mut zone, &url, &name, domain)?;
            Some(format!("target {name} added: {url}; the next backup brings it the copies that are missing"))
        }
        TargetCommand::Pause { target } => {
            pause(&mut zone, &target, true)?;
            Some(format!("target {target} gets nothing new; what it has stays"))
        }
        TargetCommand::Resume { target } => {
            pause(&mut zone, &target, false)?;
            Some(format!("target {target} takes sectors again"))
        }
    };
    if let Some(said) = said {
        out.say(said);
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
            "id": t.id, "name": t.name, "url": t.url, "domain": t.domain, "paused": t.paused, "reachable": why.is_none(), "why": why,
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
