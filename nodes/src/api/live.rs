//! What anybody may ask: does the process turn, can the node serve, which release is it. Cheap, and never touches a target.

use actix_web::http::StatusCode;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, get, web};
use serde::Serialize;
use utoipa::ToSchema;
use zoneward_actors::node::{Node, role_name};

use super::{Answer, Shared, reply};

/// Which release answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Version {
    pub name: &'static str,
    pub version: &'static str,
    /// Versions of the API that it serves.
    pub api: [&'static str; 1],
}

/// How the node is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// It takes part and hears a majority.
    pub ready: bool,
    /// Why not, in one word: `starting`, `quorum`, `refused`, `stopped`.
    #[schema(value_type = Option<String>)]
    pub reason: Option<&'static str>,
    /// `leader`, `follower`, `candidate`, `learner` or `stopped`.
    pub role: &'static str,
    pub revision: u64,
}

/// Why this node cannot serve now.
pub fn unready(node: &Node) -> Option<&'static str> {
    let m = node.cluster.metrics();
    if m.stopped.is_some() || node.stopping() {
        return Some("stopped");
    }
    if node.refused().is_some() {
        return Some("refused");
    }
    if !node.cluster.takes_part() {
        return Some("quorum");
    }
    node.cluster.view().zone.is_none().then_some("starting")
}

fn plain(status: StatusCode, word: &'static str) -> HttpResponse {
    HttpResponse::build(status).insert_header((CACHE_CONTROL, "no-store")).content_type("text/plain").body(word)
}

/// 200 while the process turns.
#[utoipa::path(tag = "health", responses((status = 200, description = "It turns", content_type = "text/plain", body = String)))]
#[get("/livez")]
pub async fn livez() -> HttpResponse {
    plain(StatusCode::OK, "ok")
}

/// 200 while the node takes part and hears a majority, else 503 with one word that says why.
#[utoipa::path(tag = "health", responses(
    (status = 200, description = "It can serve", content_type = "text/plain", body = String),
    (status = 503, description = "It cannot: `starting`, `quorum`, `refused` or `stopped`", content_type = "text/plain", body = String),
))]
#[get("/readyz")]
pub async fn readyz(shared: web::Data<Shared>) -> HttpResponse {
    match unready(&shared.node) {
        None => plain(StatusCode::OK, "ok"),
        Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

/// Which release answers.
#[utoipa::path(tag = "health", responses((status = 200, body = Version)))]
#[get("/api/v1/version")]
pub async fn version(shared: web::Data<Shared>) -> Answer {
    reply::of_now(&Version { name: "zoneward", version: shared.node.version, api: ["v1"] })
}

/// How this node is, in a few words.
#[utoipa::path(tag = "health", responses((status = 200, body = Health)))]
#[get("/api/v1/health")]
pub async fn health(shared: web::Data<Shared>) -> Answer {
    let reason = unready(&shared.node);
    let role = role_name(shared.node.cluster.metrics().role);
    reply::of_now(&Health { ready: reason.is_none(), reason, role, revision: shared.node.cluster.view().revision })
}
