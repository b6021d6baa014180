//! What the daemon answers on the socket in its home: the state, commands, and how the node does. For this release's own
//! command line; programs use the REST API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix_web::{HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zoneward_actors::cluster::CommandError;
use zoneward_actors::engine::{Health, HealthBoard};
use zoneward_actors::errors::ZoneError;
use zoneward_actors::join::{close_invite, open_invite};
use zoneward_actors::node::{Node, NodeReport, role_name};
use zoneward_actors::serve::{MemberChange, change_members};
use zoneward_actors::zone::Authority;
use zoneward_consensus::command::Command;
use zoneward_consensus::raft::Peer;
use zoneward_sectors::ids::{Digest, NodeId};
use zoneward_transport::Invite;

/// What the answers are made from.
pub struct Shared {
    pub node: Arc<Node>,
    pub health: HealthBoard,
}

/// How the node and the zone do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub node: NodeId,
    /// Where others reach it.
    pub address: String,
    pub version: String,
    pub leader: Option<NodeId>,
    pub role: String,
    pub term: u64,
    pub applied: u64,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub members: BTreeMap<NodeId, Peer>,
    pub reports: BTreeMap<NodeId, NodeReport>,
    /// Damage that was found and mended when the node started.
    pub repaired: Option<String>,
    pub actors: BTreeMap<String, Health>,
}

/// Why something was not done, as it travels to the command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refused {
    pub code: String,
    pub text: String,
}

/// An invite to be let out.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewInvite {
    /// The invite's text. It comes through the socket only.
    pub invite: String,
    pub name: Option<String>,
}

/// A certificate that a joiner waits for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Signed {
    pub certificate: String,
}

#[derive(Deserialize)]
struct After {
    after: Option<u64>,
}

/// The routes of the socket.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/local/state", web::get().to(state))
        .route("/local/status", web::get().to(status))
        .route("/local/steps", web::get().to(steps))
        .route("/local/commands", web::post().to(command))
        .route("/local/members", web::post().to(members))
        .route("/local/stop", web::post().to(stop))
        .route("/local/invites", web::post().to(invite))
        .route("/local/invites/{token}", web::get().to(look_at_invite))
        .route("/local/invites/{token}", web::delete().to(take_invite_back))
        .route("/local/invites/{token}/certificate", web::put().to(sign));
}

fn refused(e: &ZoneError) -> HttpResponse {
    let code = match e {
        ZoneError::Command(CommandError::Refused { code, .. }) => code.clone(),
        ZoneError::Command(CommandError::NoLeader) => "no_leader".into(),
        ZoneError::LeaseEnded => "lease".into(),
        ZoneError::Interrupted => "stopping".into(),
        _ => "failed".into(),
    };
    HttpResponse::Conflict().json(Refused { code, text: crate::errors::chain(e) })
}

/// Runs what may wait for other nodes away from the server's own thread.
async fn away<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ZoneError> + Send + 'static,
) -> Result<T, HttpResponse> {
    match web::block(work).await {
        Ok(Ok(t)) => Ok(t),
        Ok(Err(e)) => Err(refused(&e)),
        Err(_) => Err(refused(&ZoneError::Interrupted)),
    }
}

/// The state as this node last applied it; 204 if it is no newer than `after`.
async fn state(shared: web::Data<Shared>, after: web::Query<After>) -> HttpResponse {
    let view = shared.node.view();
    if after.after.is_some_and(|a| a >= view.revision) {
        return HttpResponse::NoContent().finish();
    }
    HttpResponse::Ok().json(&*view)
}

/// What this node works on: at once, without asking the others.
async fn steps(shared: web::Data<Shared>) -> HttpResponse {
    HttpResponse::Ok().json(shared.node.board.report())
}

async fn status(shared: web::Data<Shared>) -> HttpResponse {
    let node = shared.node.clone();
    let reports = match away(move || Ok(node.reports())).await {
        Ok(r) => r,
        Err(e) => return e,
    };
    let (node, m) = (&shared.node, shared.node.cluster.metrics());
    HttpResponse::Ok().json(Status {
        node: node.id(),
        address: node.cluster.address().to_owned(),
        version: node.version.to_owned(),
        leader: m.leader,
        role: role_name(m.role).to_owned(),
        term: m.term,
        applied: m.last_applied.unwrap_or(0),
        voters: m.voters.into_iter().collect(),
        learners: m.learners.into_iter().collect(),
        members: node.cluster.members(),
        reports,
        repaired: m.repaired,
        actors: actors(&shared.health),
    })
}

/// How the actors do, by name.
pub fn actors(health: &HealthBoard) -> BTreeMap<String, Health> {
    let board = health.lock().unwrap_or_else(|e| e.into_inner());
    board.iter().map(|(name, h)| ((*name).to_owned(), h.clone())).collect()
}

/// Brings a command through; answers the state with it.
async fn command(shared: web::Data<Shared>, command: web::Json<Command>) -> HttpResponse {
    let node = shared.node.clone();
    match away(move || node.propose(command.into_inner())).await {
        Ok(state) => HttpResponse::Ok().json(&*state),
        Err(e) => e,
    }
}

async fn members(shared: web::Data<Shared>, change: web::Json<MemberChange>) -> HttpResponse {
    let node = shared.node.clone();
    done(away(move || change_members(&node, &change)).await)
}

fn done(result: Result<(), HttpResponse>) -> HttpResponse {
    result.map_or_else(|e| e, |()| HttpResponse::NoContent().finish())
}

/// The daemon ends as by a signal.
async fn stop(shared: web::Data<Shared>) -> HttpResponse {
    shared.node.stop.store(true, Ordering::SeqCst);
    HttpResponse::NoContent().finish()
}

fn bad(text: &str) -> HttpResponse {
    HttpResponse::BadRequest().json(Refused { code: "bad_request".into(), text: text.to_owned() })
}

async fn invite(shared: web::Data<Shared>, new: web::Json<NewInvite>) -> HttpResponse {
    let new = new.into_inner();
    let Ok(invite) = Invite::parse(&new.invite) else { return bad("this is no invite") };
    let node = shared.node.clone();
    // Opening it needs the runtime of the links.
    done(away(move || open_invite(&node, &invite, new.name)).await)
}

fn token(text: &str) -> Option<Digest> {
    text.parse().ok()
}

async fn look_at_invite(shared: web::Data<Shared>, path: web::Path<String>) -> HttpResponse {
    match token(&path).and_then(|t| shared.node.desk.look(&t)) {
        Some(waiting) => HttpResponse::Ok().json(waiting),
        None => HttpResponse::NotFound().finish(),
    }
}

async fn take_invite_back(shared: web::Data<Shared>, path: web::Path<String>) -> HttpResponse {
    let Some(token) = token(&path) else { return bad("this is no token") };
    let node = shared.node.clone();
    done(away(move || close_invite(&node, &token)).await)
}

async fn sign(shared: web::Data<Shared>, path: web::Path<String>, signed: web::Json<Signed>) -> HttpResponse {
    let Some(token) = token(&path) else { return bad("this is no token") };
    if STANDARD.decode(&signed.certificate).is_err() {
        return bad("this is no certificate");
    }
    if shared.node.desk.sign(&token, signed.into_inner().certificate) {
        HttpResponse::NoContent().finish()
    } else {
        HttpResponse::Conflict().json(Refused { code: "nobody".into(), text: "nobody waits for it".into() })
    }
}
