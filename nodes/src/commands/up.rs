//! `up`, `join`: running a node.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use zoneward_actors::join::{JoinFailed, join as join_zone};
use zoneward_actors::wipe;
use zoneward_transport::{Invite, JoinError};

use super::{home, threads};
use crate::api;
use crate::cli::{Global, JoinArgs, UpArgs};
use crate::daemon::{Daemon, Settings};
use crate::errors::{Failure, exit};
use crate::full;
use crate::output::Out;

/// How long a node that ended may hold on to its home and address.
const LET_GO: Duration = Duration::from_secs(20);
/// How often a running daemon looks whether it should end, ms.
const LOOK_MS: u64 = 100;

fn settings(a: &UpArgs) -> Result<Settings, Failure> {
    let listen: SocketAddr = a.listen.parse().map_err(|_| {
        Failure::new(2004, exit::USAGE, format!("{:?} is no address to listen on", a.listen))
            .help("an IP address and a port, as in 0.0.0.0:7441 or [::]:7441")
    })?;
    Ok(Settings { listen, address: a.address.clone(), threads: a.threads.map_or_else(threads, usize::from) })
}

/// How a node ended.
enum Ended {
    Stopped,
    Wiped {
        told: bool,
        left: Vec<PathBuf>,
    },
    /// Its disk is full; where programs find it.
    Full {
        api: Option<SocketAddr>,
        why: String,
    },
}

pub fn up(g: &Global, out: Out, a: &UpArgs) -> Result<i32, Failure> {
    let dir = home(g)?;
    let settings = settings(a)?;
    if wipe::has_begun(&dir) {
        // It was cut. The zone goes by whether this node is heard.
        return wiped(out, false, &wipe::finish(&dir)?);
    }
    super::recover::refuse_while_pending(&dir)?;
    let stop = crate::interrupt::stop();
    // Where it was found once, it is found again.
    let mut place = a.api.clone();
    let mut again = None::<Instant>;
    loop {
        let ended = match run(&dir, &settings, place.as_deref(), out, &stop, again.is_none()) {
            // It could not even begin.
            Err(f) if again.is_some() && full::is_full(&dir) => {
                Ended::Full { api: place.as_deref().and_then(|p| p.parse().ok()), why: f.to_string() }
            }
            // What ran before may take a moment to let go of the home and of its address.
            Err(_) if again.is_some_and(|since| since.elapsed() < LET_GO) && !stop.load(Ordering::Relaxed) => {
                std::thread::sleep(Duration::from_millis(LOOK_MS));
                continue;
            }
            ended => ended?,
        };
        match ended {
            Ended::Stopped => return Ok(0),
            Ended::Wiped { told, left } => return wiped(out, told, &left),
            Ended::Full { api, why } => {
                out.warn(format!(
                    "the disk of {} is full, so this node does nothing ({why}); it goes on by itself when there is room",
                    dir.display()
                ));
                if !full::wait(&dir, api, &stop) {
                    return Ok(0);
                }
                out.warn("there is room again: this node starts anew");
                place = api.map(|a| a.to_string()).or(place);
                again = Some(Instant::now());
            }
        }
    }
}

/// Runs the node until it ends. `first`: nobody was told yet that it is up.
fn run(
    dir: &Path,
    settings: &Settings,
    place: Option<&str>,
    out: Out,
    stop: &AtomicBool,
    first: bool,
) -> Result<Ended, Failure> {
    let (api, no_api) = api::bind(place)?;
    let daemon = match Daemon::start(dir, settings, stop) {
        Err(f) if f.code == 1001 => {
            return Err(f.help(
                "make a zone: zoneward init --target file:///where/backups/go; or join one: zoneward join CODE \
                 (a member prints the code: zoneward node invite)",
            ));
        }
        started => started?,
    };
    let api = api.map(|l| api::Server::start(l, &daemon.node, daemon.health(), dir)).transpose()?;
    let node = &daemon.node;
    let view = node.cluster.view();
    let name = view.nodes.get(&node.id()).map_or_else(String::new, |n| n.name.clone());
    let zone = view.zone.as_ref().map_or_else(String::new, |z| z.name.clone());
    if first {
        out.json(&serde_json::json!({
            "schema": "zoneward.up/1", "node": node.id(), "name": name, "zone": zone, "address": node.cluster.address(),
            "incarnation": node.incarnation, "home": dir, "api": api.as_ref().map(|a| a.address),
        }));
    }
    out.say(format!("node {name} of zone {zone} is up; other nodes reach it at {} (UDP)", node.cluster.address()));
    no_api.iter().for_each(|why| out.warn(why));
    if let Some(api) = &api {
        out.say(format!("programs on this device reach it at http://{}/api/v1 (zoneward token create)", api.address));
    }
    if view.nodes.len() == 1 {
        out.say("it is the only node: zoneward node invite lets another one in");
    }
    drop(view);
    while !stop.load(Ordering::Relaxed) && !node.stopping() {
        if let Some(why) = daemon.ended() {
            if full::is_full(dir) {
                return Ok(Ended::Full { api: api.map(|a| a.address), why });
            }
            return Err(Failure::new(2005, exit::FAILED, "this node can no longer take part").why(why));
        }
        if daemon.is_to_be_wiped() {
            drop(api);
            let (told, left) = daemon.wipe(dir)?;
            return Ok(Ended::Wiped { told, left });
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
    out.say("stopping; what is under way goes on with the next start, or on another node");
    drop(api);
    drop(daemon);
    Ok(Ended::Stopped)
}

/// The end of a node whose home was wiped, as somebody wanted it.
fn wiped(out: Out, told: bool, left: &[PathBuf]) -> Result<i32, Failure> {
    out.json(&serde_json::json!({"schema": "zoneward.wiped/1", "told": told, "left": left}));
    out.say("this home was wiped, as the zone's owner asked: it belongs to no zone any more");
    for path in left {
        out.say(format!("not made by zoneward, and left: {}", path.display()));
    }
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
