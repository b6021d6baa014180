//! `node`: who belongs to the zone.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use zoneward_actors::clock::now_ms;
use zoneward_actors::join::Waiting;
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{Standing, Wipe};
use zoneward_sectors::cert::NodeCertificate;
use zoneward_sectors::ids::{Digest, NodeId};
use zoneward_transport::limits::INVITE_ADDRESSES_MAX;
use zoneward_transport::{Invite, Role, zone_fingerprint};

use super::{keys, node_by_name, node_out, open, serving};
use crate::cli::{Global, InviteArgs, NodeCommand};
use crate::daemon::client::{Client, ClientError};
use crate::daemon::local::{NewInvite, Signed, Status};
use crate::errors::{Failure, chain, exit};
use crate::output::Out;
use crate::units::duration;

/// How often it is looked whether somebody has come, ms.
pub(super) const LOOK_MS: u64 = 200;
/// A node that has not been heard for so long is told as silent, ms.
pub(crate) const SILENT_MS: u64 = zoneward_consensus::levels::SILENT_MS;

pub fn node(g: &Global, out: Out, command: NodeCommand) -> Result<i32, Failure> {
    match command {
        NodeCommand::Ls => ls(g, out),
        NodeCommand::Invite(a) => invite(g, out, &a),
        NodeCommand::Rename { node, name } => {
            set(g, out, &node, Some(name.clone()), None, &format!("it is called {name} now"))
        }
        NodeCommand::Drain { node, undo } => {
            let (standing, said) = if undo {
                (Standing::Member, "it takes work again")
            } else {
                (Standing::Draining, "it ends what it holds and takes nothing new")
            };
            set(g, out, &node, None, Some(standing), said)
        }
        NodeCommand::MarkFaulty { node, undo } => {
            let (standing, said) = if undo {
                (Standing::Member, "it takes work again")
            } else {
                (Standing::Faulty, "nobody waits for it any more; zoneward node replace or remove is next")
            };
            set(g, out, &node, None, Some(standing), said)
        }
        NodeCommand::Standby { node, undo } => {
            let (standing, said) = if undo {
                (Standing::Member, "it takes work again")
            } else {
                (Standing::Standby, "it ends what it holds, takes nothing new, and keeps what it has")
            };
            set(g, out, &node, None, Some(standing), said)
        }
        NodeCommand::Remove { node, yes } => node_out::remove(g, out, &node, yes),
        NodeCommand::Replace { old, new, keep } => node_out::replace(g, out, &old, &new, keep),
        NodeCommand::Wipe { node, confirm } => node_out::wipe(g, out, &node, confirm.as_deref()),
    }
}

fn set(
    g: &Global,
    out: Out,
    node: &str,
    name: Option<String>,
    standing: Option<Standing>,
    said: &str,
) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    let id = node_by_name(zone.state(), node)?;
    if zone.state().nodes.get(&id).is_some_and(|n| n.standing == Standing::Witness) && standing.is_some() {
        return Err(
            Failure::new(2021, exit::REFUSED, "a witness holds no work").help("zoneward node remove takes it out")
        );
    }
    zone.propose(Command::SetNode { node: id, name, standing })?;
    out.say(said);
    show(out, &zone, serving(g).and_then(|c| c.status().ok()).as_ref());
    Ok(0)
}

fn ls(g: &Global, out: Out) -> Result<i32, Failure> {
    let zone = open(g)?;
    let status = serving(g).map(|c| c.status()).transpose().map_err(client_failed)?;
    show(out, &zone, status.as_ref());
    Ok(0)
}

pub(crate) fn client_failed(e: ClientError) -> Failure {
    Failure::new(2006, exit::FAILED, "the daemon did not do it").why(chain(&e))
}

/// What is known of one node.
pub(crate) struct Known {
    pub name: String,
    pub standing: &'static str,
    /// Its home is to be wiped, or is.
    pub wipe: Option<Wipe>,
    pub role: String,
    pub version: String,
    /// Seconds since it was last heard; `None`: never, or no daemon runs here.
    pub heard_s: Option<u64>,
    /// Seconds since the daemon that did not hear it started.
    pub started_s: Option<u64>,
    pub address: String,
}

pub(crate) fn standing(s: Standing) -> &'static str {
    match s {
        Standing::Member => "member",
        Standing::Draining => "draining",
        Standing::Faulty => "faulty",
        Standing::Witness => "witness",
        Standing::Standby => "standby",
    }
}

/// The nodes of a zone, by name.
pub(crate) fn known(zone: &Zone, status: Option<&Status>) -> Vec<(NodeId, Known)> {
    let mut all: Vec<_> = zone
        .state()
        .nodes
        .values()
        .map(|n| {
            let report = status.and_then(|s| s.reports.get(&n.id));
            let heard_s = report.map(|r| now_ms().saturating_sub(r.at_ms) / 1000);
            let mine = status.and_then(|s| s.reports.get(&s.node));
            let started_s = mine.map(|r| now_ms().saturating_sub(r.started_ms) / 1000);
            let voter = status.map(|s| s.voters.contains(&n.id));
            let leads = status.is_some_and(|s| s.leader == Some(n.id));
            let role = match (leads, voter) {
                (true, _) => "leader",
                (_, Some(true)) => "voter",
                (_, Some(false)) => "learner",
                (_, None) => "alone",
            };
            let address = status.and_then(|s| s.members.get(&n.id)).map_or_else(String::new, |p| p.address.clone());
            let (name, standing, version) = (n.name.clone(), standing(n.standing), n.version.clone());
            (n.id, Known { name, standing, wipe: n.wipe, role: role.to_owned(), version, heard_s, address, started_s })
        })
        .collect();
    all.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    all
}

pub(super) fn show(out: Out, zone: &Zone, status: Option<&Status>) {
    let all = known(zone, status);
    let fingerprint = zone_fingerprint(zone.owner().sign_public());
    out.json(&serde_json::json!({"schema": "zoneward.nodes/1", "fingerprint": fingerprint, "nodes": all.iter().map(|(id, n)| serde_json::json!({
        "id": id, "name": n.name, "standing": n.standing, "wipe": n.wipe, "role": n.role, "version": n.version, "heard_seconds": n.heard_s,
        "address": n.address, "this": *id == zone.node(),
    })).collect::<Vec<_>>()}));
    for (id, n) in &all {
        out.answer(line(*id, n, zone.node()));
    }
    out.answer(format!("zone fingerprint: {fingerprint} (who joins is shown the same)"));
    if status.is_none() && all.len() > 1 {
        out.answer("no daemon runs here: zoneward up");
    }
}

/// One node as a line.
pub(crate) fn line(id: NodeId, n: &Known, me: NodeId) -> String {
    let heard = match n.heard_s {
        _ if id == me => "this node".to_owned(),
        Some(s) if s * 1000 < SILENT_MS => "heard just now".to_owned(),
        Some(s) => format!("SILENT for {}", duration(s as f64)),
        // What was before, no node remembers across its start.
        None => match n.started_s {
            Some(s) => format!("NOT HEARD since this node started {} ago", duration(s as f64)),
            None => "no daemon runs here to hear it".to_owned(),
        },
    };
    let heard = match n.wipe {
        None => heard,
        Some(Wipe::Asked) => format!("to be wiped; {heard}"),
        Some(Wipe::Done) => "wiped: zoneward node wipe takes it out".to_owned(),
    };
    let version = if n.version.is_empty() { "not started yet" } else { &n.version };
    format!("{:<14} {:<9} {:<8} {version:<9} {:<22} {heard}", n.name, n.standing, n.role, n.address)
}

pub(super) fn need_daemon(g: &Global) -> Result<Client, Failure> {
    serving(g).ok_or_else(|| {
        Failure::new(2007, exit::FAILED, "no daemon runs in this home")
            .why("nodes talk to each other by their daemons")
            .help("start it: zoneward up")
    })
}

/// The addresses that a joiner is told: the invite is open on this node alone.
fn addresses(status: &Status) -> Vec<SocketAddr> {
    let all = status.address.to_socket_addrs().map(Iterator::collect);
    let mut all: Vec<SocketAddr> = all.unwrap_or_default();
    all.truncate(INVITE_ADDRESSES_MAX);
    all
}

fn invite(g: &Global, out: Out, a: &InviteArgs) -> Result<i32, Failure> {
    let client = need_daemon(g)?;
    let zone = open(g)?;
    let status = client.status().map_err(client_failed)?;
    let unlocked = keys::unlock(g, &zone)?;
    let role = if a.witness { Role::Witness } else { Role::Full };
    let expires = now_ms() / 1000 + u64::from(a.ttl_minutes) * 60;
    let id = zone.state().zone.as_ref().map(|z| z.id).unwrap_or_default();
    let mut to = addresses(&status);
    if let Some(address) = &a.address {
        to = address
            .to_socket_addrs()
            .map(Iterator::collect)
            .map_err(|e| Failure::new(2004, exit::USAGE, format!("{address:?} is no address")).why(e.to_string()))?;
        to.truncate(INVITE_ADDRESSES_MAX);
    }
    let invite = Invite::new(id, zone_fingerprint(zone.owner().sign_public()), to, expires, role)
        .map_err(|e| Failure::new(2022, exit::FAILED, "no invite can be made").why(e.to_string()))?;
    let text = invite.to_text();
    let new = NewInvite { invite: text.to_string(), name: a.name.clone() };
    client.send(Method::POST, "/local/invites", &new).map_err(client_failed)?;
    let token = invite.token_hash();
    out.json(&serde_json::json!({
        "type": "invite", "schema": "zoneward.invite/1", "code": *text, "expires": crate::units::utc_time(expires * 1000),
        "zone": id, "fingerprint": zone_fingerprint(zone.owner().sign_public()),
    }));
    if !out.json {
        out.answer(text.as_str());
    }
    out.say("");
    if !out.quiet && !out.json {
        out.say(crate::qr::terminal(&text).unwrap_or_default());
    }
    out.say(format!("on the new device: zoneward join {:.16}…", *text));
    out.say(format!(
        "It lets one node in, within {} min. Stay here: the owner's key signs the node when it comes (Ctrl-C takes the invite back).",
        a.ttl_minutes
    ));
    let result = attend(&client, &token, expires, |node, public_key| {
        let key = STANDARD.decode(public_key).ok().and_then(|k| k.try_into().ok());
        let key: [u8; 32] = key.ok_or(ClientError::Answer)?;
        let epoch = zone.state().zone.as_ref().map_or(1, |z| z.secret_epoch);
        let certificate = NodeCertificate::issue(unlocked.keys.signing_key(), epoch, node, key);
        Ok(STANDARD.encode(certificate.to_bytes()))
    });
    match result {
        Ok(node) => {
            let name = open(g)?.state().nodes.get(&node).map_or_else(|| node.to_string(), |n| n.name.clone());
            out.json(
                &serde_json::json!({"type": "summary", "schema": "zoneward.invite/1", "node": node, "name": name}),
            );
            out.say(format!("node {name} ({:.8}) belongs to the zone now", node.to_string()));
            Ok(0)
        }
        Err(f) => {
            // Whatever ended the wait, the code is worth nothing any more.
            let _ = client.delete(&format!("/local/invites/{token}"));
            Err(f)
        }
    }
}

/// Stays with an invite until somebody has joined: signs when asked.
fn attend(
    client: &Client,
    token: &Digest,
    expires: u64,
    sign: impl Fn(NodeId, &str) -> Result<String, ClientError>,
) -> Result<NodeId, Failure> {
    let stop = crate::interrupt::stop();
    let path = format!("/local/invites/{token}");
    loop {
        match client.get::<Waiting>(&path).map_err(client_failed)? {
            Some(Waiting::Joined { node }) => return Ok(node),
            Some(Waiting::Signature { node, public_key, .. }) => {
                let certificate = sign(node, &public_key).map_err(client_failed)?;
                // Signed twice, the second is refused and the first counts.
                let _ = client.send(Method::PUT, &format!("{path}/certificate"), &Signed { certificate });
            }
            Some(Waiting::Failed { why }) if now_ms() / 1000 >= expires => {
                return Err(Failure::new(2023, exit::FAILED, "nobody joined").why(why));
            }
            Some(Waiting::Joiner | Waiting::Admission { .. } | Waiting::Failed { .. }) => {}
            None => return Err(Failure::new(2023, exit::FAILED, "the invite was taken back")),
        }
        if now_ms() / 1000 >= expires {
            return Err(
                Failure::new(2023, exit::FAILED, "nobody joined in time").help("zoneward node invite makes a new code")
            );
        }
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Failure::new(1900, exit::INTERRUPTED, "interrupted").why("the invite was taken back"));
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
}
