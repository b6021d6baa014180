//! Restores that this node makes for who asks: into a folder of the node, never over a source.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, delete, get, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zoneward_actors::restorer::{Ask, Job, Refused, Stage};
use zoneward_sectors::ids::RestoreId;

use super::changes::{Before, Once};
use super::page::{List, Page};
use super::reads::id;
use super::{Answer, Problem, Shared, reply};
use crate::units::{show_path, utc_time};

type Zone = web::Data<Shared>;

/// Paths of one restore.
const PATHS_MAX: usize = 1000;

/// A restore to be made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRestore {
    /// `latest`, a checkpoint's number, or its id.
    pub checkpoint: String,
    /// Absolute paths: they and what lies below them; everything if there are none.
    #[serde(default)]
    pub paths: Vec<String>,
    /// An absolute folder of the answering node: every path comes to lie below it. Files that are right already are kept.
    pub to: String,
    /// Everything is read back and compared.
    #[serde(default)]
    pub verify: bool,
}

/// A restore.
#[derive(Debug, Serialize, ToSchema)]
pub struct RestoreView {
    pub id: String,
    pub checkpoint: String,
    pub paths: Vec<String>,
    pub to: String,
    /// `waiting`, `running`, `done`, `incomplete`, `failed`, `stopped`
    pub state: &'static str,
    /// RFC 3339
    pub asked: String,
    pub ended: Option<String>,
    pub done_bytes: u64,
    /// What the checkpoint holds in all: an upper bound.
    pub total_bytes: u64,
    pub files: u64,
    pub dirs: u64,
    pub others: u64,
    /// Files that were right already.
    pub kept: u64,
    /// Paths that could not be restored.
    pub failed: u64,
    /// Those of them whose stored bytes are damaged or gone.
    pub damaged: u64,
    /// Those of them whose stored bytes are out of reach for now.
    pub unreachable: u64,
    pub warnings: u64,
    /// The first failures, in words.
    pub failures: Vec<String>,
    /// Why it failed.
    pub why: Option<String>,
}

impl From<&Job> for RestoreView {
    fn from(j: &Job) -> Self {
        let f = &j.figures;
        let state = match j.stage {
            Stage::Waiting => "waiting",
            Stage::Running => "running",
            Stage::Done => "done",
            Stage::Incomplete => "incomplete",
            Stage::Failed => "failed",
            Stage::Stopped => "stopped",
        };
        Self {
            id: j.id.to_string(),
            checkpoint: j.ask.checkpoint.to_string(),
            paths: j.ask.paths.iter().map(|p| show_path(p)).collect(),
            to: show_path(j.ask.to.as_os_str().as_bytes()),
            state,
            asked: utc_time(j.asked_ms),
            ended: j.ended_ms.map(utc_time),
            done_bytes: j.done_bytes(),
            total_bytes: j.total_bytes,
            files: f.files,
            dirs: f.dirs,
            others: f.others,
            kept: f.kept,
            failed: f.failed,
            damaged: f.damaged,
            unreachable: f.unreachable,
            warnings: f.warnings,
            failures: j.failures.clone(),
            why: j.why.clone(),
        }
    }
}

fn refused(why: Refused) -> Problem {
    match why {
        Refused::Full => Problem::too_many(&why.to_string(), 60),
        Refused::NotAbsolute | Refused::InHome | Refused::InTarget(_) | Refused::InSource => {
            Problem::value("/to", why.to_string())
        }
        Refused::NoCheckpoint => Problem::value("/checkpoint", why.to_string()),
        Refused::NotHeld => Problem::value("/paths", why.to_string()),
    }
}

/// Restores into a folder of the answering node. The answer comes at once; the restore shows how far it is.
#[utoipa::path(tag = "restores", security(("token" = ["admin"])), request_body = NewRestore,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same request sent again with the same key makes nothing new")),
    responses((status = 202, body = RestoreView, description = "It waits for its turn; Location names it", headers(("Location" = String)))))]
#[post("/api/v1/restores")]
pub async fn make_restore(shared: Zone, req: HttpRequest, body: web::Json<NewRestore>) -> Answer {
    let once = Once::of(&req, &*body)?;
    if body.paths.len() > PATHS_MAX {
        return Err(Problem::value("/paths", format!("at most {PATHS_MAX}")));
    }
    let bad = |p: &String| !p.starts_with('/') || p.contains('\0') || p.split('/').any(|c| c == "." || c == "..");
    if let Some(i) = body.paths.iter().position(bad) {
        return Err(Problem::value(&format!("/paths/{i}"), "an absolute path without . and .."));
    }
    let state = shared.view(None).await?;
    let found = state.find_checkpoint(&body.checkpoint).map_err(|e| Problem::value("/checkpoint", e.to_string()))?;
    let path = |p: &String| {
        let plain = p.trim_end_matches('/');
        if plain.is_empty() { b"/".to_vec() } else { plain.as_bytes().to_vec() }
    };
    if body.to.contains('\0') {
        return Err(Problem::value("/to", "a path has no zero byte"));
    }
    let ask = Ask {
        checkpoint: found.id,
        paths: body.paths.iter().map(path).collect(),
        to: PathBuf::from(&body.to),
        verify: body.verify,
    };
    let made = RestoreId(once.id(|| RestoreId::random().0));
    if let Before::Other = once.before(&shared.node.restores.all(), RestoreId) {
        return Err(Problem::key_reused());
    }
    let job = shared.node.restores.ask(&shared.node, made, ask).map_err(refused)?;
    let location = Some(format!("/api/v1/restores/{made}"));
    reply::with_status(&req, StatusCode::ACCEPTED, state.revision, None, &RestoreView::from(&job), location)
}

/// The restores of the answering node since its daemon started; of those that ended the last 64.
#[utoipa::path(tag = "restores", security(("token" = ["status:read"])), params(Page), responses((status = 200, body = List<RestoreView>)))]
#[get("/api/v1/restores")]
pub async fn restores(shared: Zone, q: web::Query<Page>) -> Answer {
    let all = shared.node.restores.all();
    let later = |after: Option<RestoreId>| {
        all.iter().filter(move |(id, _)| after.is_none_or(|a| **id > a)).map(|(id, j)| (*id, RestoreView::from(j)))
    };
    let (items, next) = q.of(later)?;
    reply::of_now(&List { items, next })
}

fn find(shared: &Zone, text: &str) -> Result<Job, Problem> {
    let found = shared.node.restores.get(id(text)?);
    found.ok_or_else(|| Problem::not_found("this node has no such restore"))
}

/// One restore.
#[utoipa::path(tag = "restores", security(("token" = ["status:read"])), params(("id" = String, Path)), responses((status = 200, body = RestoreView)))]
#[get("/api/v1/restores/{id}")]
pub async fn restore(shared: Zone, path: web::Path<String>) -> Answer {
    reply::of_now(&RestoreView::from(&find(&shared, &path)?))
}

/// Stops a restore, waiting or running. What it wrote stays.
#[utoipa::path(tag = "restores", security(("token" = ["admin"])), params(("id" = String, Path)), responses((status = 202, body = RestoreView, description = "It stops where nothing is lost")))]
#[delete("/api/v1/restores/{id}")]
pub async fn stop_restore(shared: Zone, req: HttpRequest, path: web::Path<String>) -> Answer {
    let job = find(&shared, &path)?;
    if !shared.node.restores.stop(job.id) {
        return Err(Problem::conflict("this restore has ended"));
    }
    let revision = shared.view(None).await?.revision;
    reply::with_status(&req, StatusCode::ACCEPTED, revision, None, &RestoreView::from(&find(&shared, &path)?), None)
}
