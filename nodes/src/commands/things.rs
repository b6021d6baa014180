//! What the zone keeps: `target`.

use std::path::Path;

use zoneward_actors::init::{Edit, add_target, edit_target, set_credentials};
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::State;
use zoneward_sectors::ids::TargetId;
use zoneward_targets::Url;

use super::make::{parse_url, place, read_credentials};
use super::open;
use crate::cli::{Global, TargetCommand};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::{bytes, plural};

pub(super) fn find_target(state: &State, name: &str) -> Result<TargetId, Failure> {
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

/// What is to be changed of a target.
struct Change {
    name: Option<String>,
    url: Option<String>,
    domain: Option<String>,
}

fn set(zone: &mut Zone, target: &str, change: Change, credentials: Option<&Path>) -> Result<String, Failure> {
    let id = find_target(zone.state(), target)?;
    let Change { name, url, domain } = change;
    if name.is_none() && url.is_none() && domain.is_none() {
        return Err(Failure::new(1703, exit::USAGE, "there is nothing to set").help("--name, --url or --domain"));
    }
    name.as_deref().map_or(Ok(()), name_fits)?;
    let url = url.map(|u| parse_url(&u)).transpose()?;
    if let Some(url) = &url {
        super::make::apart(zone.home.dir(), std::slice::from_ref(url))?;
        let others: Vec<Url> =
            zone.state().targets.values().filter(|t| t.id != id).filter_map(|t| t.url.parse().ok()).collect();
        super::make::separate(url, &others)?;
    }
    let credentials = credentials.map(read_credentials).transpose()?;
    let domain = domain.map(|d| if d == "none" { String::new() } else { d });
    edit_target(zone, id, Edit { name, url, credentials, domain, leaving: None })?;
    Ok(format!("target {target} is changed"))
}

fn evacuate(zone: &mut Zone, target: &str, leaving: bool) -> Result<String, Failure> {
    let id = find_target(zone.state(), target)?;
    edit_target(zone, id, Edit { leaving: Some(leaving), ..Edit::default() })?;
    if !leaving {
        return Ok(format!("target {target} stays, and takes sectors again"));
    }
    if zone.state().usable_targets().next().is_none() {
        return Ok(format!("target {target} is to be left, and there is no other: zoneward target add URL"));
    }
    Ok(format!(
        "target {target} gets nothing new; a running daemon copies what it holds to others, without one a backup does; \
         zoneward target ls shows how far it is, then: zoneward target remove {target}"
    ))
}

fn remove(zone: &mut Zone, target: &str, lose: bool) -> Result<String, Failure> {
    let id = find_target(zone.state(), target)?;
    let only = zone.state().only_on(id).len() as u64;
    if only > 0 && !lose {
        return Err(Failure::new(
            1326,
            exit::REFUSED,
            format!("target {target} holds the only copy of {}", plural(only, "sector", "sectors")),
        )
        .help(format!(
            "zoneward target evacuate {target} makes copies elsewhere first; --lose-copies gives up what lies there alone"
        )));
    }
    if zone.state().targets.len() == 1 {
        return Err(Failure::new(1327, exit::REFUSED, format!("target {target} is the zone's only one"))
            .help("add another one first: zoneward target add URL"));
    }
    zone.propose(Command::RemoveTarget { target: id, lose })?;
    Ok(format!("target {target} is forgotten; what it holds is still there, and still encrypted"))
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
        TargetCommand::Set { target, name, url, credentials_file, domain } => {
            let change = Change { name, url, domain };
            Some(set(&mut zone, &target, change, credentials_file.as_deref())?)
        }
        TargetCommand::Test { target, size } => return super::target_test::test(&zone, out, &target, size),
        TargetCommand::Evacuate { target, undo } => Some(evacuate(&mut zone, &target, !undo)?),
        TargetCommand::Remove { target, lose_copies } => Some(remove(&mut zone, &target, lose_copies)?),
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
            "id": t.id, "name": t.name, "url": t.url, "domain": t.domain, "paused": t.paused, "evacuating": t.leaving,
            "left_to_copy": t.leaving.then(|| zone.state().left_on(t.id)), "reachable": why.is_none(), "why": why,
            "sectors": n, "used_bytes": used, "free_bytes": free, "head": t.pointer.map(|p| p.n),
        }));
        let state = why.map_or_else(
            || free.map_or_else(String::new, |f| format!("{} free", bytes(f))),
            |w| format!("NOT REACHABLE: {w}"),
        );
        let state = match zone.state().left_on(t.id) as u64 {
            _ if !t.leaving => state,
            0 => format!("evacuated: zoneward target remove {}", t.name),
            n => format!("evacuating: {} left", plural(n, "sector", "sectors")),
        };
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
