//! What the zone keeps: `target`.

use zoneward_actors::init::{add_target, set_credentials};
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::State;
use zoneward_sectors::ids::TargetId;

use super::make::{parse_url, place, read_credentials};
use super::open;
use crate::cli::{Global, TargetCommand};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::{bytes, plural};

fn find_target(state: &State, name: &str) -> Result<TargetId, Failure> {
    let found = state.targets.values().find(|t| t.name == name).map(|t| t.id);
    found.ok_or_else(|| {
        Failure::new(1304, exit::FAILED, format!("no target is called {name:?}")).help("zoneward target ls lists them")
    })
}

/// A name is typed in commands and shown in lines: it looks neither like a path nor like an option.
fn name_fits(name: &str) -> Result<(), Failure> {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if name.chars().all(plain) && name.starts_with(char::is_alphanumeric) && name.len() <= 64 {
        return Ok(());
    }
    Err(Failure::new(1325, exit::USAGE, format!("{name:?} is no name for a target"))
        .help("take letters, digits, and -, _ or . after the first; at most 64 bytes"))
}

fn pause(zone: &mut Zone, name: &str, paused: bool) -> Result<(), Failure> {
    let target = find_target(zone.state(), name)?;
    Ok(zone.propose(Command::SetTarget { target, paused: Some(paused), owner_key_hash: None })?)
}

pub fn target(g: &Global, out: Out, command: TargetCommand) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    let said = match command {
        // Those two are asked of a target server, not of the zone (`commands::run`).
        TargetCommand::Ls | TargetCommand::Serve(_) | TargetCommand::Token(_) => None,
        TargetCommand::Add { url, credentials_file, name, domain } => {
            let place = place(parse_url(&url)?, credentials_file.as_deref())?;
            let url = &place.url;
            super::make::apart(zone.home.dir(), std::slice::from_ref(url))?;
            let others: Vec<_> = zone.state().targets.values().filter_map(|t| t.url.parse().ok()).collect();
            super::make::separate(url, &others)?;
            name.as_deref().map_or(Ok(()), name_fits)?;
            let name = name.unwrap_or_else(|| format!("target-{}", zone.state().targets.len() + 1));
            add_target(&mut zone, &place, &name, domain)?;
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
        TargetCommand::Credentials { target, credentials_file } => {
            let id = find_target(zone.state(), &target)?;
            set_credentials(&mut zone, id, &read_credentials(&credentials_file)?)?;
            Some(format!("target {target} is opened with these credentials from now on"))
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
