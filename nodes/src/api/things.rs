//! What people and programs change: sources, targets, nodes, and a backup now. Every change of a record says by `If-Match`
//! what it was made from; the zone compares again when it applies it, so that of two who saw the same only one wins.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, delete, patch, post, web};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{CheckpointKind, Source, Standing, State};
use zoneward_consensus::names;
use zoneward_consensus::seen;
use zoneward_sectors::glob::Excludes;
use zoneward_sectors::ids::{CheckpointId, NodeId, SourceId};

use super::changes::{Before, Once, commit};
use super::reads::id;
use super::views::{CheckpointView, NodeView, SourceView, TargetView, newest_of_sources};
use super::{Answer, Problem, Shared, reply};

type Zone = web::Data<Shared>;

/// Patterns of one source.
const EXCLUDES_MAX: usize = 1000;

/// A backup to be made now.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCheckpoint {
    #[serde(default)]
    pub kind: Kind,
    /// Ids of sources; all if there are none.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Sources that held files and are empty now, or lie elsewhere, are taken as they are.
    #[serde(default)]
    pub allow_empty: bool,
}

/// What a checkpoint is compared with.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Full,
    #[default]
    Incremental,
    Differential,
}

impl From<Kind> for CheckpointKind {
    fn from(k: Kind) -> Self {
        match k {
            Kind::Full => Self::Full,
            Kind::Incremental => Self::Incremental,
            Kind::Differential => Self::Differential,
        }
    }
}

/// A source to be remembered.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSource {
    /// Absolute, without `.` and `..`.
    pub path: String,
    /// -50 … 50
    #[serde(default)]
    pub priority: i32,
    /// 1 … 3; by priority if nothing is said.
    #[serde(default)]
    pub copies: Option<u8>,
    #[serde(default)]
    pub excludes: Vec<String>,
    #[serde(default)]
    pub exclude_caches: bool,
    #[serde(default)]
    pub one_file_system: bool,
    /// Ids of the nodes that can read it; `[]`: all; the answering node if nothing is said.
    #[serde(default)]
    pub nodes: Option<Vec<String>>,
}

/// What changes of a source; what is not named stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourcePatch {
    #[serde(default)]
    pub priority: Option<i32>,
    /// `null`: by priority.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u8>)]
    pub copies: Option<Option<u8>>,
    #[serde(default)]
    pub excludes: Option<Vec<String>>,
    #[serde(default)]
    pub exclude_caches: Option<bool>,
    #[serde(default)]
    pub one_file_system: Option<bool>,
    #[serde(default)]
    pub nodes: Option<Vec<String>>,
}

/// Tells `null` from nothing.
fn given<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Option<u8>>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// What changes of a target.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetPatch {
    /// It gets nothing new; what it has stays and is still read.
    pub paused: bool,
}

/// What changes of a node; what is not named stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodePatch {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub standing: Option<Drain>,
}

/// Whether a node takes new work.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Drain {
    Member,
    /// It ends what it holds and takes nothing new.
    Draining,
    /// The same; another took its place, and it keeps what it has until it is wiped.
    Standby,
}

/// The change of a record that must be what `If-Match` names.
pub(super) async fn change(
    shared: &Zone,
    seen: zoneward_sectors::ids::Digest,
    command: Command,
) -> Result<std::sync::Arc<State>, Problem> {
    commit(shared, Command::IfSeen { seen, command: Box::new(command) }).await
}

/// Makes a backup now. The answer comes at once; the checkpoint shows how far it is.
#[utoipa::path(tag = "checkpoints", security(("token" = ["backup:run"])), request_body = NewCheckpoint,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same request sent again with the same key makes nothing new")),
    responses((status = 202, body = CheckpointView, description = "Begun; Location names it", headers(("Location" = String)))))]
#[post("/api/v1/checkpoints")]
pub async fn make_checkpoint(shared: Zone, req: HttpRequest, body: web::Json<NewCheckpoint>) -> Answer {
    let once = Once::of(&req, &*body)?;
    let mut state = shared.view(None).await?;
    let made = CheckpointId(once.id(|| CheckpointId::random().0));
    match once.before(&state.checkpoints, CheckpointId) {
        Before::Other => return Err(Problem::key_reused()),
        Before::Same => {}
        Before::Nothing => {
            let sources = chosen(&state, &body.sources)?;
            if let Some(c) = state.running() {
                return Err(Problem::conflict(format!("checkpoint {} is being made", c.seq)));
            }
            let (checkpoint_kind, allow_empty) = (body.kind.into(), body.allow_empty);
            let open = Command::OpenCheckpoint { checkpoint: made, checkpoint_kind, sources, allow_empty };
            state = commit(&shared, open).await?;
        }
    }
    let c = state.checkpoints.get(&made).ok_or_else(|| Problem::internal("the checkpoint is gone"))?;
    let view = CheckpointView::of(&shared, &state, c, true);
    let location = Some(format!("/api/v1/checkpoints/{made}"));
    let digest = seen::of_checkpoint(c);
    reply::with_status(&req, StatusCode::ACCEPTED, state.revision, Some(&digest), &view, location)
}

fn chosen(state: &State, asked: &[String]) -> Result<Vec<SourceId>, Problem> {
    if asked.is_empty() {
        let all: Vec<SourceId> = state.sources.keys().copied().collect();
        return if all.is_empty() { Err(Problem::conflict("the zone has no source yet")) } else { Ok(all) };
    }
    let mut all = Vec::new();
    for (i, text) in asked.iter().enumerate() {
        let found = text.parse().ok().filter(|id| state.sources.contains_key(id));
        let found = found.ok_or_else(|| Problem::value(&format!("/sources/{i}"), "no source has this id"))?;
        if !all.contains(&found) {
            all.push(found);
        }
    }
    Ok(all)
}

/// Remembers a source; the next backup takes it.
#[utoipa::path(tag = "sources", security(("token" = ["config:write"])), request_body = NewSource,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same request sent again with the same key makes nothing new")),
    responses((status = 201, body = SourceView, headers(("Location" = String)))))]
#[post("/api/v1/sources")]
pub async fn add_source(shared: Zone, req: HttpRequest, body: web::Json<NewSource>) -> Answer {
    let once = Once::of(&req, &*body)?;
    let mut state = shared.view(None).await?;
    let made = SourceId(once.id(|| SourceId::random().0));
    match once.before(&state.sources, SourceId) {
        Before::Other => return Err(Problem::key_reused()),
        Before::Same => {}
        Before::Nothing => {
            let source = new_source(&shared, &state, made, body.into_inner()).await?;
            state = commit(&shared, Command::PutSource { source }).await?;
        }
    }
    let location = Some(format!("/api/v1/sources/{made}"));
    show_source(&req, &state, made, StatusCode::CREATED, location)
}

async fn new_source(shared: &Zone, state: &State, id: SourceId, new: NewSource) -> Result<Source, Problem> {
    let named = new.path.starts_with(names::SCHEME);
    let nodes = match &new.nodes {
        Some(asked) => readers(state, asked)?,
        // Any node on which the name lies.
        None if named => Vec::new(),
        None => vec![shared.node.id()],
    };
    let path = if named {
        dfs_path(state, &new.path)?
    } else {
        let path = path_of(&new.path)?;
        let path = if nodes == [shared.node.id()] { real_path(path).await? } else { path };
        path.as_os_str().as_bytes().to_vec()
    };
    let source = Source {
        id,
        path,
        priority: new.priority,
        copies: new.copies,
        excludes: new.excludes,
        exclude_caches: new.exclude_caches,
        one_file_system: new.one_file_system,
        added_ms: 0,
        grounds: Default::default(),
        last_entries: 0,
        nodes,
        reading: Default::default(),
        write_only: false,
    };
    check(&source)?;
    if state.source_at(&source.path).is_some() {
        return Err(Problem::conflict("there is a source of this path"));
    }
    Ok(source)
}

/// A dfs path whose name the zone knows, in its one form.
fn dfs_path(state: &State, text: &str) -> Result<Vec<u8>, Problem> {
    let path = names::one_form(text.as_bytes());
    let known = names::name_of(&path).is_some_and(|name| state.policy.names.contains_key(name));
    match known && names::is_source_path(&path) {
        true => Ok(path),
        false => Err(Problem::value("/path", "it is no dfs name that the zone knows")),
    }
}

fn path_of(text: &str) -> Result<std::path::PathBuf, Problem> {
    let path = Path::new(text);
    // Components leave `.` and doubled slashes out by themselves.
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || text.contains('\0') {
        return Err(Problem::value("/path", "an absolute path without .. is expected"));
    }
    Ok(path.components().collect())
}

/// The path under which a source is kept, where this node is the one that reads it.
async fn real_path(path: std::path::PathBuf) -> Result<std::path::PathBuf, Problem> {
    let real =
        web::block(move || std::fs::canonicalize(path)).await.map_err(|_| Problem::internal("the node stops"))?;
    real.map_err(|e| Problem::value("/path", format!("this node cannot read it: {}", e.kind())))
}

fn readers(state: &State, asked: &[String]) -> Result<Vec<NodeId>, Problem> {
    let mut all = Vec::new();
    for (i, text) in asked.iter().enumerate() {
        let found = text.parse().ok().filter(|id| state.nodes.contains_key(id));
        all.push(found.ok_or_else(|| Problem::value(&format!("/nodes/{i}"), "no node has this id"))?);
    }
    all.sort();
    all.dedup();
    Ok(all)
}

/// What the zone would refuse, told by the part that is wrong.
fn check(s: &Source) -> Result<(), Problem> {
    if !(-50..=50).contains(&s.priority) {
        return Err(Problem::value("/priority", "-50 … 50"));
    }
    if s.copies.is_some_and(|n| !(1..=3).contains(&n)) {
        return Err(Problem::value("/copies", "1 … 3"));
    }
    if s.excludes.len() > EXCLUDES_MAX {
        return Err(Problem::value("/excludes", format!("at most {EXCLUDES_MAX} patterns")));
    }
    Excludes::new(&s.excludes, s.exclude_caches).map_err(|e| Problem::value("/excludes", e.to_string()))?;
    Ok(())
}

fn show_source(req: &HttpRequest, state: &State, id: SourceId, status: StatusCode, location: Option<String>) -> Answer {
    let s = state.sources.get(&id).ok_or_else(|| Problem::conflict("the source was removed meanwhile"))?;
    let view = SourceView::of(state, s, &newest_of_sources(state));
    reply::with_status(req, status, state.revision, Some(&seen::of_source(s)), &view, location)
}

/// Changes the settings of a source.
#[utoipa::path(tag = "sources", security(("token" = ["config:write"])), request_body = SourcePatch,
    params(("id" = String, Path, description = "The source's id"), ("If-Match" = String, Header, description = "ETag of the source as it was read")),
    responses((status = 200, body = SourceView)))]
#[patch("/api/v1/sources/{id}")]
pub async fn change_source(
    shared: Zone,
    req: HttpRequest,
    path: web::Path<String>,
    body: web::Json<SourcePatch>,
) -> Answer {
    let state = shared.view(None).await?;
    let old = state.sources.get(&id(&path)?).ok_or_else(|| Problem::not_found("no source has this id"))?;
    let digest = seen::of_source(old);
    reply::if_match(&req, &digest)?;
    let body = body.into_inner();
    let nodes = body.nodes.map(|n| readers(&state, &n)).transpose()?;
    let source = Source {
        priority: body.priority.unwrap_or(old.priority),
        copies: body.copies.unwrap_or(old.copies),
        excludes: body.excludes.unwrap_or_else(|| old.excludes.clone()),
        exclude_caches: body.exclude_caches.unwrap_or(old.exclude_caches),
        one_file_system: body.one_file_system.unwrap_or(old.one_file_system),
        nodes: nodes.unwrap_or_else(|| old.nodes.clone()),
        ..old.clone()
    };
    check(&source)?;
    let id = source.id;
    let state = change(&shared, digest, Command::PutSource { source }).await?;
    show_source(&req, &state, id, StatusCode::OK, None)
}

/// Stops backing a source up; what is stored stays.
#[utoipa::path(tag = "sources", security(("token" = ["config:write"])),
    params(("id" = String, Path, description = "The source's id"), ("If-Match" = String, Header, description = "ETag of the source as it was read")),
    responses((status = 204, description = "It is no longer backed up")))]
#[delete("/api/v1/sources/{id}")]
pub async fn remove_source(shared: Zone, req: HttpRequest, path: web::Path<String>) -> Answer {
    let state = shared.view(None).await?;
    let old = state.sources.get(&id(&path)?).ok_or_else(|| Problem::not_found("no source has this id"))?;
    let digest = seen::of_source(old);
    reply::if_match(&req, &digest)?;
    let state = change(&shared, digest, Command::RemoveSource { source: old.id }).await?;
    Ok(reply::gone(state.revision))
}

/// Pauses a target, or lets it take sectors again.
#[utoipa::path(tag = "targets", security(("token" = ["target:write"])), request_body = TargetPatch,
    params(("id" = String, Path, description = "The target's id"), ("If-Match" = String, Header, description = "ETag of the target as it was read")),
    responses((status = 200, body = TargetView)))]
#[patch("/api/v1/targets/{id}")]
pub async fn change_target(
    shared: Zone,
    req: HttpRequest,
    path: web::Path<String>,
    body: web::Json<TargetPatch>,
) -> Answer {
    let state = shared.view(None).await?;
    let old = state.targets.get(&id(&path)?).ok_or_else(|| Problem::not_found("no target has this id"))?;
    let digest = seen::of_target(old);
    reply::if_match(&req, &digest)?;
    let command = Command::SetTarget { target: old.id, paused: Some(body.paused), owner_key_hash: None };
    let state = change(&shared, digest, command).await?;
    let t = state.targets.get(&old.id).ok_or_else(|| Problem::conflict("the target was removed meanwhile"))?;
    let reports = shared.reports().await?;
    reply::seen(&req, state.revision, Some(&seen::of_target(t)), &TargetView::of(&state, t, &reports))
}

/// Renames a node, drains it, or gives it work again.
#[utoipa::path(tag = "nodes", security(("token" = ["node:write"])), request_body = NodePatch,
    params(("id" = String, Path, description = "The node's id"), ("If-Match" = String, Header, description = "ETag of the node as it was read")),
    responses((status = 200, body = NodeView)))]
#[patch("/api/v1/nodes/{id}")]
pub async fn change_node(
    shared: Zone,
    req: HttpRequest,
    path: web::Path<String>,
    body: web::Json<NodePatch>,
) -> Answer {
    let state = shared.view(None).await?;
    let old = state.nodes.get(&id(&path)?).ok_or_else(|| Problem::not_found("no node has this id"))?;
    let digest = seen::of_node(old);
    reply::if_match(&req, &digest)?;
    let body = body.into_inner();
    if body.standing.is_some() && old.standing == Standing::Witness {
        return Err(Problem::conflict("a witness holds no work"));
    }
    let standing = body.standing.map(|s| match s {
        Drain::Member => Standing::Member,
        Drain::Draining => Standing::Draining,
        Drain::Standby => Standing::Standby,
    });
    let state = change(&shared, digest, Command::SetNode { node: old.id, name: body.name, standing }).await?;
    let n = state.nodes.get(&old.id).ok_or_else(|| Problem::conflict("the node was removed meanwhile"))?;
    let reports = shared.reports().await?;
    reply::seen(&req, state.revision, Some(&seen::of_node(n)), &NodeView::of(&shared, n, &reports))
}
