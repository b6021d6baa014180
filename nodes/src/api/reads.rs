//! What the zone holds: lists and single things.

use actix_web::{HttpRequest, get, web};
use utoipa::IntoParams;

use super::page::{List, Look, Page};
use super::views::{
    CheckpointView, NodeView, SectorView, SourceView, StepView, TargetView, ZoneView, newest_of_sources,
};
use super::{Answer, Problem, Shared, reply};
use zoneward_consensus::model::{Checkpoint, State as Model};
use zoneward_consensus::seen as settings;

type State = web::Data<Shared>;

pub fn id<K: std::str::FromStr>(text: &str) -> Result<K, Problem> {
    text.parse().map_err(|_| Problem::not_found("this is no id"))
}

/// The zone and its figures.
#[utoipa::path(tag = "zone", security(("token" = ["status:read"])), params(Look), responses((status = 200, body = ZoneView)))]
#[get("/api/v1/zone")]
pub async fn zone(shared: State, req: HttpRequest, q: web::Query<Look>) -> Answer {
    let state = shared.view(q.min_revision).await?;
    let leader = shared.node.cluster.metrics().leader;
    let view = ZoneView::of(&state, leader).ok_or_else(|| Problem::internal("there is no zone"))?;
    reply::seen(&req, state.revision, None, &view)
}

/// The nodes.
#[utoipa::path(tag = "nodes", security(("token" = ["status:read"])), params(Page), responses((status = 200, body = List<NodeView>)))]
#[get("/api/v1/nodes")]
pub async fn nodes(shared: State, req: HttpRequest, q: web::Query<Page>) -> Answer {
    let (state, reports) = (shared.view(q.min_revision).await?, shared.reports().await?);
    let (items, next) = q.of_map(&state.nodes)?;
    let items = items.into_iter().map(|n| NodeView::of(&shared, n, &reports)).collect();
    reply::seen(&req, state.revision, None, &List { items, next })
}

/// One node.
#[utoipa::path(tag = "nodes", security(("token" = ["status:read"])), params(("id" = String, Path, description = "The node's id"), Look), responses((status = 200, body = NodeView)))]
#[get("/api/v1/nodes/{id}")]
pub async fn node(shared: State, req: HttpRequest, path: web::Path<String>, q: web::Query<Look>) -> Answer {
    let (state, reports) = (shared.view(q.min_revision).await?, shared.reports().await?);
    let n = state.nodes.get(&id(&path)?).ok_or_else(|| Problem::not_found("no node has this id"))?;
    reply::seen(&req, state.revision, Some(&settings::of_node(n)), &NodeView::of(&shared, n, &reports))
}

/// The sources.
#[utoipa::path(tag = "sources", security(("token" = ["status:read"])), params(Page), responses((status = 200, body = List<SourceView>)))]
#[get("/api/v1/sources")]
pub async fn sources(shared: State, req: HttpRequest, q: web::Query<Page>) -> Answer {
    let state = shared.view(q.min_revision).await?;
    let (items, next) = q.of_map(&state.sources)?;
    let newest = newest_of_sources(&state);
    let items = items.into_iter().map(|s| SourceView::of(&state, s, &newest)).collect();
    reply::seen(&req, state.revision, None, &List { items, next })
}

/// One source.
#[utoipa::path(tag = "sources", security(("token" = ["status:read"])), params(("id" = String, Path, description = "The source's id"), Look), responses((status = 200, body = SourceView)))]
#[get("/api/v1/sources/{id}")]
pub async fn source(shared: State, req: HttpRequest, path: web::Path<String>, q: web::Query<Look>) -> Answer {
    let state = shared.view(q.min_revision).await?;
    let s = state.sources.get(&id(&path)?).ok_or_else(|| Problem::not_found("no source has this id"))?;
    let view = SourceView::of(&state, s, &newest_of_sources(&state));
    reply::seen(&req, state.revision, Some(&settings::of_source(s)), &view)
}

/// The Backup Targets.
#[utoipa::path(tag = "targets", security(("token" = ["status:read"])), params(Page), responses((status = 200, body = List<TargetView>)))]
#[get("/api/v1/targets")]
pub async fn targets(shared: State, req: HttpRequest, q: web::Query<Page>) -> Answer {
    let (state, reports) = (shared.view(q.min_revision).await?, shared.reports().await?);
    let (items, next) = q.of_map(&state.targets)?;
    let items = items.into_iter().map(|t| TargetView::of(&state, t, &reports)).collect();
    reply::seen(&req, state.revision, None, &List { items, next })
}

/// One Backup Target.
#[utoipa::path(tag = "targets", security(("token" = ["status:read"])), params(("id" = String, Path, description = "The target's id"), Look), responses((status = 200, body = TargetView)))]
#[get("/api/v1/targets/{id}")]
pub async fn target(shared: State, req: HttpRequest, path: web::Path<String>, q: web::Query<Look>) -> Answer {
    let (state, reports) = (shared.view(q.min_revision).await?, shared.reports().await?);
    let t = state.targets.get(&id(&path)?).ok_or_else(|| Problem::not_found("no target has this id"))?;
    reply::seen(&req, state.revision, Some(&settings::of_target(t)), &TargetView::of(&state, t, &reports))
}

/// The checkpoints, newest first.
#[utoipa::path(tag = "checkpoints", security(("token" = ["status:read"])), params(Page), responses((status = 200, body = List<CheckpointView>)))]
#[get("/api/v1/checkpoints")]
pub async fn checkpoints(shared: State, req: HttpRequest, q: web::Query<Page>) -> Answer {
    let state = shared.view(q.min_revision).await?;
    let mut all: Vec<_> = state.checkpoints.values().map(|c| (c.seq, c)).collect();
    all.sort_by_key(|(seq, _)| std::cmp::Reverse(*seq));
    let older = |before: Option<u64>| all.into_iter().filter(move |(seq, _)| before.is_none_or(|b| *seq < b));
    let (items, next) = q.of(older)?;
    let items = items.into_iter().map(|c| CheckpointView::of(&shared, &state, c, false)).collect();
    reply::seen(&req, state.revision, None, &List { items, next })
}

/// One checkpoint, with what was found wrong: by its id, its number, or `latest` for the newest that can be restored.
#[utoipa::path(tag = "checkpoints", security(("token" = ["status:read"])), params(("id" = String, Path, description = "Id, number or `latest`"), Look), responses((status = 200, body = CheckpointView)))]
#[get("/api/v1/checkpoints/{id}")]
pub async fn checkpoint(shared: State, req: HttpRequest, path: web::Path<String>, q: web::Query<Look>) -> Answer {
    let state = shared.view(q.min_revision).await?;
    let c = find_checkpoint(&state, &path)?;
    let digest = settings::of_checkpoint(c);
    reply::seen(&req, state.revision, Some(&digest), &CheckpointView::of(&shared, &state, c, true))
}

/// A checkpoint by its id, its number, or `latest`.
pub fn find_checkpoint<'a>(state: &'a Model, text: &str) -> Result<&'a Checkpoint, Problem> {
    let found = match (text.parse::<u64>(), text.parse()) {
        _ if text == "latest" => state.complete().last().copied(),
        (_, Ok(id)) => state.checkpoints.get(&id),
        (Ok(seq), _) => state.checkpoints.values().find(|c| c.seq == seq),
        _ => None,
    };
    found.ok_or_else(|| Problem::not_found("no checkpoint is called this"))
}

/// What the nodes work on now.
#[utoipa::path(tag = "steps", security(("token" = ["status:read"])), params(Page), responses((status = 200, body = List<StepView>)))]
#[get("/api/v1/steps")]
pub async fn steps(shared: State, q: web::Query<Page>) -> Answer {
    let (_, reports) = (shared.view(q.min_revision).await?, shared.reports().await?);
    let of = |r: &zoneward_actors::node::NodeReport| {
        let steps: Vec<_> = r.steps.iter().map(|s| (s.epoch, StepView::of(&shared, r.node, s))).collect();
        steps
    };
    let mut all: Vec<_> = reports.values().filter(|r| super::views::is_up(&reports, r.node)).flat_map(of).collect();
    all.sort_by_key(|(epoch, _)| *epoch);
    let later = |after: Option<u64>| all.into_iter().filter(move |(epoch, _)| after.is_none_or(|a| *epoch > a));
    let (items, next) = q.of(later)?;
    reply::of_now(&List { items, next })
}

/// One step; gone as soon as it has ended.
#[utoipa::path(tag = "steps", security(("token" = ["status:read"])), params(("id" = u64, Path, description = "The step's number"), Look), responses((status = 200, body = StepView)))]
#[get("/api/v1/steps/{id}")]
pub async fn step(shared: State, path: web::Path<String>, q: web::Query<Look>) -> Answer {
    let (_, reports) = (shared.view(q.min_revision).await?, shared.reports().await?);
    let epoch: u64 = id(&path)?;
    let find = |r: &zoneward_actors::node::NodeReport| {
        r.steps.iter().find(|s| s.epoch == epoch).map(|s| StepView::of(&shared, r.node, s))
    };
    let found = reports.values().find_map(find).ok_or_else(|| Problem::not_found("no step of this number runs"))?;
    reply::of_now(&found)
}

/// Which sectors.
#[derive(Debug, Default, serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Sectors {
    /// Only those of this checkpoint.
    pub checkpoint: Option<String>,
    /// Items of one answer, 1 … 1000, 100 if nothing is said.
    pub limit: Option<usize>,
    /// `next` of the page before.
    pub cursor: Option<String>,
    /// Answer only with a state that has this revision in it.
    pub min_revision: Option<u64>,
}

/// The raw sectors and their copies.
#[utoipa::path(tag = "sectors", security(("token" = ["status:read"])), params(Sectors), responses((status = 200, body = List<SectorView>)))]
#[get("/api/v1/sectors")]
pub async fn sectors(shared: State, req: HttpRequest, q: web::Query<Sectors>) -> Answer {
    let q = q.into_inner();
    let state = shared.view(q.min_revision).await?;
    let of = q.checkpoint.as_deref().map(id).transpose()?;
    let page = Page { limit: q.limit, cursor: q.cursor, min_revision: None };
    let (items, next) = page.of(|after| {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let all = state.sectors.range((from, std::ops::Bound::Unbounded));
        all.filter(|(_, s)| of.is_none_or(|c| s.checkpoint == c)).map(|(k, s)| (*k, s))
    })?;
    let items = SectorView::of_all(&state, &items);
    reply::seen(&req, state.revision, None, &List { items, next })
}

/// One raw sector.
#[utoipa::path(tag = "sectors", security(("token" = ["status:read"])), params(("id" = String, Path, description = "The sector's id"), Look), responses((status = 200, body = SectorView)))]
#[get("/api/v1/sectors/{id}")]
pub async fn sector(shared: State, req: HttpRequest, path: web::Path<String>, q: web::Query<Look>) -> Answer {
    let state = shared.view(q.min_revision).await?;
    let s = state.sectors.get(&id(&path)?).ok_or_else(|| Problem::not_found("no sector has this id"))?;
    match SectorView::of_all(&state, &[s]).pop() {
        Some(view) => reply::seen(&req, state.revision, None, &view),
        None => Err(Problem::internal("a sector without a view")),
    }
}
