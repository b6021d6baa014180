//! What the zone keeps: `target`.

use zoneward_actors::init::{Edit, add_target, edit_target, set_credentials};
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::State;
use zoneward_consensus::seen;
use zoneward_consensus::terms::{Price, Terms};
use zoneward_sectors::ids::TargetId;
use zoneward_targets::Url;

use super::make::{parse_url, read_credentials};
use super::open;
use super::target_code::{Given, given};
use crate::cli::{Global, SetTargetArgs, TargetCommand};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::terms::Said;
use crate::units::plural;

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

fn set(zone: &mut Zone, a: SetTargetArgs) -> Result<String, Failure> {
    let id = find_target(zone.state(), &a.target)?;
    let moves = a.name.is_some() || a.url.is_some() || a.domain.is_some();
    let terms = a.price.is_some() || a.paid_until.is_some() || a.quota.is_some();
    if !moves && !terms {
        return Err(Failure::new(1703, exit::USAGE, "there is nothing to set")
            .help("--name, --url, --domain, --price, --paid-until or --quota"));
    }
    a.name.as_deref().map_or(Ok(()), name_fits)?;
    let url = a.url.as_deref().map(parse_url).transpose()?;
    if let Some(url) = &url {
        super::make::apart(zone.home.dir(), std::slice::from_ref(url))?;
        let others: Vec<Url> =
            zone.state().targets.values().filter(|t| t.id != id).filter_map(|t| t.url.parse().ok()).collect();
        super::make::separate(url, &others)?;
    }
    let credentials = a.credentials_file.as_deref().map(read_credentials).transpose()?;
    let domain = a.domain.map(|d| if d == "none" { String::new() } else { d });
    if moves {
        edit_target(zone, id, Edit { name: a.name, url, credentials, domain, leaving: None })?;
    }
    if terms {
        set_terms(zone, id, a.price, a.paid_until, a.quota)?;
    }
    Ok(format!("target {} is changed", a.target))
}

/// Sets what was said and leaves the rest; if somebody else is faster, it is refused and can be said again.
fn set_terms(
    zone: &mut Zone,
    target: TargetId,
    price: Option<Said<Price>>,
    paid_until: Option<Said<u64>>,
    quota: Option<Said<u64>>,
) -> Result<(), Failure> {
    let old = zone.state().targets.get(&target).map(|t| t.terms.clone()).unwrap_or_default();
    let terms = Terms {
        price: price.map_or(old.price, |s| s.0),
        paid_until_ms: paid_until.map_or(old.paid_until_ms, |s| s.0),
        quota_bytes: quota.map_or(old.quota_bytes, |s| s.0),
    };
    let command = Command::SetTerms { target, terms };
    let command = match seen::before(zone.state(), &command) {
        Some(seen) => Command::IfSeen { seen, command: Box::new(command) },
        None => command,
    };
    Ok(zone.propose(command)?)
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
            let Given { place, shared } = given(&url, credentials_file.as_deref())?;
            let url = &place.url;
            super::make::apart(zone.home.dir(), std::slice::from_ref(url))?;
            let others: Vec<_> = zone.state().targets.values().filter_map(|t| t.url.parse().ok()).collect();
            super::make::separate(url, &others)?;
            name.as_deref().map_or(Ok(()), name_fits)?;
            let name = name.unwrap_or_else(|| format!("target-{}", zone.state().targets.len() + 1));
            add_target(&mut zone, &place, &name, domain, shared)?;
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
        TargetCommand::Set(a) => Some(set(&mut zone, a)?),
        TargetCommand::Test { target, size } => return super::target_test::test(&zone, out, &target, size),
        TargetCommand::Qr { target, with_credentials } => {
            return super::target_code::show(&zone, out, &target, with_credentials);
        }
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
    super::target_ls::list(g, out, &zone);
    Ok(0)
}
