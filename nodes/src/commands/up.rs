//! `up`, `join`: running a node.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use zoneward_actors::join::{JoinFailed, join as join_zone};
use zoneward_transport::{Invite, JoinError};

use super::{home, threads};
use crate::api;
use crate::cli::{Global, JoinArgs, UpArgs};
use crate::daemon::{Daemon, Settings};
use crate::errors::{Failure, exit};
use crate::output::Out;

/// How often a running daemon looks whether it should end, ms.
const LOOK_MS: u64 = 100;

fn settings(a: &UpArgs) -> Result<Settings, Failure> {
    let listen: SocketAddr = a.listen.parse().map_err(|_| {
        Failure::new(2004, exit::USAGE, format!("{:?} is no address to listen on", a.listen))
            .help("an IP address and a port, as in 0.0.0.0:7441 or [::]:7441")
    })?;
    Ok(Settings { listen, address: a.address.clone(), threads: a.threads.map_or_else(threads, usize::from) })
}

pub fn up(g: &Global, out: Out, a: &UpArgs) -> Result<i32, Failure> {
    let dir = home(g)?;
    let settings = settings(a)?;
    super::recover::refuse_while_pending(&dir)?;
    let (api, no_api) = api::bind(a.api.as_deref())?;
    let stop = crate::interrupt::stop();
    let daemon = match Daemon::start(&dir, &settings, &stop) {
        Err(f) if f.code == 1001 => {
            return Err(f.help(
                "make a zone: zoneward init --target file:///where/backups/go; or join one: zoneward join CODE \
                 (a member prints the code: zoneward node invite)",
            ));
        }
        started => started?,
    };
    let api = api.map(|l| api::Server::start(l, &daemon.node, daemon.health(), &dir)).transpose()?;
    let node = &daemon.node;
    let view = node.cluster.view();
    let name = view.nodes.get(&node.id()).map_or_else(String::new, |n| n.name.clone());
    let zone = view.zone.as_ref().map_or_else(String::new, |z| z.name.clone());
    out.json(&serde_json::json!({
        "schema": "zoneward.up/1", "node": node.id(), "name": name, "zone": zone, "address": node.cluster.address(),
        "incarnation": node.incarnation, "home": dir, "api": api.as_ref().map(|a| a.address),
    }));
    out.say(format!("node {name} of zone {zone} is up; other nodes reach it at {} (UDP)", node.cluster.address()));
    no_api.iter().for_each(|why| out.warn(why));
    if let Some(api) = &api {
        out.say(format!("programs on this device reach it at http://{}/api/v1 (zoneward token create)", api.address));
    }
    if view.nodes.len() == 1 {
        out.say("it is the only node: zoneward node invite lets another one in");
    }
    while !stop.load(Ordering::Relaxed) && !node.stopping() {
        if let Some(why) = daemon.ended() {
            return Err(Failure::new(2005, exit::FAILED, "this node can no longer take part").why(why));
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
    out.say("stopping; what is under way goes on with the next start, or on another node");
    drop(api);
    drop(daemon);
    Ok(0)
}

fn join_failed(e: JoinFailed) -> Failure {
    let why = crate::errors::chain(&e);
    match e {
        JoinFailed::Zone(e) => e.into(),
        JoinFailed::Join(JoinError::Refused { .. }) => {
            Failure::new(2011, exit::NOT_PERMITTED, "the zone did not let this node in").why(why)
        }
        JoinFailed::Join(_) => Failure::new(2012, exit::TARGET, "no member of the zone let this node in").why(why),
        _ => Failure::new(2013, exit::FAILED, "this node could not join").why(why),
    }
}

pub fn join(g: &Global, out: Out, a: &JoinArgs) -> Result<i32, Failure> {
    let code = match (&a.code, &a.code_file) {
        (Some(code), _) => code.clone(),
        (None, Some(path)) => std::fs::read_to_string(path).map_err(|e| {
            Failure::new(2014, exit::USAGE, format!("{} cannot be read", path.display())).why(e.to_string())
        })?,
        (None, None) => std::io::read_to_string(std::io::stdin())
            .map_err(|e| Failure::new(2014, exit::USAGE, "the code cannot be read").why(e.to_string()))?,
    };
    let invite = Invite::parse(code.trim())
        .map_err(|e| Failure::new(2014, exit::USAGE, "this is no invite").why(e.to_string()))?;
    let dir = home(g)?;
    let joined = join_zone(&dir, &invite).map_err(join_failed)?;
    out.json(&serde_json::json!({
        "schema": "zoneward.join/1", "node": joined.node, "zone": joined.introduction.zone,
        "name": joined.introduction.name, "home": dir,
    }));
    out.say(format!("this node belongs to zone {} now", joined.introduction.name));
    out.say("next: zoneward up");
    Ok(0)
}
