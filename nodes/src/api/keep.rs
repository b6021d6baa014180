//! Which checkpoints stay: forgetting one, taking that back, tags, and the zone's own rules. What only the owner may say is
//! not taken here: the owner's key never goes over HTTP.

use std::collections::BTreeSet;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, get, post, put, web};
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use zoneward_actors::retention::judge;
use zoneward_consensus::command::Command;
use zoneward_consensus::keep::{Rules, grace_is_over, held_back};
use zoneward_consensus::limits::{GRACE_S_MAX, TAG_LEN_MAX, TAGS_MAX};
use zoneward_consensus::model::{Checkpoint, State};
use zoneward_consensus::seen;
use zoneward_sectors::ids::CheckpointId;

use super::page::Look;
use super::reads::find_checkpoint;
use super::things::change;
use super::views::CheckpointView;
use super::{Answer, Problem, Shared, reply};
use crate::commands::hold_text;
use crate::units::utc_time;

type Zone = web::Data<Shared>;

/// Tags of a checkpoint, all of them.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagsView {
    /// At most 32, each 1 … 100 bytes without commas.
    pub tags: BTreeSet<String>,
}

/// Which checkpoints are kept: the newest of each of so many hours, days and so on. What one rule keeps is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = Rules)]
pub struct RulesView {
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
    /// All that are younger than so many seconds, counted from the newest.
    pub within_seconds: u64,
    /// All that carry one of these.
    pub tags: BTreeSet<String>,
}

/// What is kept, and what that comes to now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Retention)]
pub struct RetentionView {
    /// `null`: every checkpoint is kept.
    pub rules: Option<RulesView>,
    /// For so long what was forgotten can be taken back, by a time that no clock can be set to.
    pub grace_seconds: u32,
    /// Checkpoints that the rules no longer keep; they are forgotten with the next backup.
    pub due: Vec<String>,
    /// Why they wait for the owner; `null` if they do not.
    pub needs_owner: Option<String>,
    /// Checkpoints that are forgotten.
    pub forgotten: Vec<ForgottenView>,
}

/// A checkpoint that was forgotten.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Forgotten)]
pub struct ForgottenView {
    pub id: String,
    pub seq: u64,
    pub forgotten: String,
    /// The grace is over: it leaves with the next backup.
    pub leaves: bool,
}

/// What is to be kept, all of it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRetention {
    /// `null`: every checkpoint is kept.
    #[serde(deserialize_with = "said")]
    #[schema(required = true)]
    pub rules: Option<RulesView>,
    /// 0 … ten years; shorter than it is only by the owner's word, on the command line.
    pub grace_seconds: u32,
}

/// `null` has to be said: what is left out by mistake would forget nothing any more.
fn said<'de, D: Deserializer<'de>>(d: D) -> Result<Option<RulesView>, D::Error> {
    Option::deserialize(d)
}

fn show(shared: &Shared, req: &HttpRequest, state: &State, id: CheckpointId) -> Answer {
    let c = state.checkpoints.get(&id).ok_or_else(|| Problem::conflict("the checkpoint has left meanwhile"))?;
    let view = CheckpointView::of(shared, state, c, true);
    reply::seen(req, state.revision, Some(&seen::of_checkpoint(c)), &view)
}

/// Marks a checkpoint: when the grace is over it goes, and until then this can be undone. The newest one stays, and what
/// waits for the owner is refused.
#[utoipa::path(tag = "checkpoints", security(("token" = ["delete"])),
    params(("id" = String, Path, description = "Id, number or `latest`"), ("If-Match" = String, Header, description = "ETag of the checkpoint as it was read")),
    responses((status = 200, body = CheckpointView), (status = 403, description = "Only the owner may say this: `detail` has the command")))]
#[post("/api/v1/checkpoints/{id}/forget")]
pub async fn forget(shared: Zone, req: HttpRequest, path: web::Path<String>) -> Answer {
    let state = shared.view(None).await?;
    let c = find_checkpoint(&state, &path)?;
    let digest = seen::of_checkpoint(c);
    reply::if_match(&req, &digest)?;
    may_go(&state, c)?;
    let command = Command::Forget { checkpoints: vec![c.id], now: false, owner: None };
    let id = c.id;
    let state = change(&shared, digest, command).await?;
    show(&shared, &req, &state, id)
}

/// What the zone would refuse, with what can be done about it.
fn may_go(state: &State, c: &Checkpoint) -> Result<(), Problem> {
    if !c.is_complete() {
        return Err(Problem::conflict("the checkpoint is not complete"));
    }
    if c.forgotten.is_some() {
        return Err(Problem::conflict("the checkpoint is forgotten already"));
    }
    if state.complete().last().is_some_and(|newest| newest.id == c.id) {
        return Err(Problem::conflict("the newest checkpoint stays: the next backup builds on it"));
    }
    match held_back(state, &[c.id]) {
        None => Ok(()),
        Some(h) => Err(Problem::owner(&hold_text(state, &h), &format!("zoneward forget {} --apply --owner", c.seq))),
    }
}

/// Takes the mark back: the checkpoint is kept again.
#[utoipa::path(tag = "checkpoints", security(("token" = ["delete"])),
    params(("id" = String, Path, description = "Id or number"), ("If-Match" = String, Header, description = "ETag of the checkpoint as it was read")),
    responses((status = 200, body = CheckpointView)))]
#[post("/api/v1/checkpoints/{id}/undelete")]
pub async fn undelete(shared: Zone, req: HttpRequest, path: web::Path<String>) -> Answer {
    let state = shared.view(None).await?;
    let c = find_checkpoint(&state, &path)?;
    let digest = seen::of_checkpoint(c);
    reply::if_match(&req, &digest)?;
    if c.forgotten.is_none() {
        return Err(Problem::conflict("the checkpoint is not forgotten"));
    }
    let id = c.id;
    let state = change(&shared, digest, Command::Remember { checkpoints: vec![id] }).await?;
    show(&shared, &req, &state, id)
}

/// Sets all tags of a checkpoint.
#[utoipa::path(tag = "checkpoints", security(("token" = ["config:write"])), request_body = TagsView,
    params(("id" = String, Path, description = "Id, number or `latest`"), ("If-Match" = String, Header, description = "ETag of the checkpoint as it was read")),
    responses((status = 200, body = CheckpointView)))]
#[put("/api/v1/checkpoints/{id}/tags")]
pub async fn set_tags(shared: Zone, req: HttpRequest, path: web::Path<String>, body: web::Json<TagsView>) -> Answer {
    let state = shared.view(None).await?;
    let c = find_checkpoint(&state, &path)?;
    let digest = seen::of_checkpoint(c);
    reply::if_match(&req, &digest)?;
    let tags = body.into_inner().tags;
    tags_fit(&tags, "/tags")?;
    let id = c.id;
    let state = change(&shared, digest, Command::SetTags { checkpoint: id, tags }).await?;
    show(&shared, &req, &state, id)
}

fn tags_fit(tags: &BTreeSet<String>, at: &str) -> Result<(), Problem> {
    if tags.len() > TAGS_MAX {
        return Err(Problem::value(at, format!("at most {TAGS_MAX}")));
    }
    let fits =
        |t: &String| !t.is_empty() && t.len() <= TAG_LEN_MAX && !t.contains(',') && !t.chars().any(char::is_control);
    match tags.iter().position(|t| !fits(t)) {
        None => Ok(()),
        Some(i) => Err(Problem::value(&format!("{at}/{i}"), "1 … 100 bytes without commas and control characters")),
    }
}

/// Which checkpoints the zone keeps by itself.
#[utoipa::path(tag = "checkpoints", security(("token" = ["status:read"])), params(Look), responses((status = 200, body = RetentionView)))]
#[get("/api/v1/retention")]
pub async fn retention(shared: Zone, req: HttpRequest, q: web::Query<Look>) -> Answer {
    let state = shared.view(q.min_revision).await?;
    show_retention(&req, &state)
}

fn show_retention(req: &HttpRequest, state: &State) -> Answer {
    let rules = state.policy.retention.as_ref();
    let judged = rules.map(|r| judge(state, r, &TimeZone::system())).unwrap_or_default();
    let due: Vec<CheckpointId> = judged.iter().filter(|j| j.reasons.is_empty()).map(|j| j.id).collect();
    let hold = held_back(state, &due).filter(|_| !due.is_empty()).map(|h| hold_text(state, &h));
    let gone = state.complete().into_iter().filter_map(|c| Some((c, c.forgotten?)));
    let view = RetentionView {
        rules: rules.map(view_of),
        grace_seconds: state.policy.grace_s,
        due: due.iter().map(ToString::to_string).collect(),
        needs_owner: hold,
        forgotten: gone
            .map(|(c, f)| ForgottenView {
                id: c.id.to_string(),
                seq: c.seq,
                forgotten: utc_time(f.at_ms),
                leaves: grace_is_over(state, c),
            })
            .collect(),
    };
    reply::with_status(req, StatusCode::OK, state.revision, Some(&seen::of_retention(&state.policy)), &view, None)
}

fn view_of(r: &Rules) -> RulesView {
    let Rules { last, hourly, daily, weekly, monthly, yearly, within_s, tags } = r.clone();
    RulesView { last, hourly, daily, weekly, monthly, yearly, within_seconds: within_s, tags }
}

fn rules_of(v: RulesView) -> Rules {
    let RulesView { last, hourly, daily, weekly, monthly, yearly, within_seconds, tags } = v;
    Rules { last, hourly, daily, weekly, monthly, yearly, within_s: within_seconds, tags }
}

/// Sets which checkpoints the zone keeps by itself. A shorter grace is the owner's to say.
#[utoipa::path(tag = "checkpoints", security(("token" = ["config:write"])), request_body = NewRetention,
    params(("If-Match" = String, Header, description = "ETag of the retention as it was read")),
    responses((status = 200, body = RetentionView), (status = 403, description = "Only the owner may say this: `detail` has the command")))]
#[put("/api/v1/retention")]
pub async fn set_retention(shared: Zone, req: HttpRequest, body: web::Json<NewRetention>) -> Answer {
    let mut state = shared.view(None).await?;
    let mut digest = seen::of_retention(&state.policy);
    reply::if_match(&req, &digest)?;
    let NewRetention { rules, grace_seconds: grace_s } = body.into_inner();
    let rules = rules.map(rules_of);
    if let Some(r) = &rules {
        tags_fit(&r.tags, "/rules/tags")?;
        if !r.keep_something() {
            return Err(Problem::value("/rules", "rules that keep nothing would forget everything; null keeps all"));
        }
    }
    if grace_s > GRACE_S_MAX {
        return Err(Problem::value("/grace_seconds", format!("0 … {GRACE_S_MAX}")));
    }
    if grace_s < state.policy.grace_s {
        let why = "whoever holds a token could then remove what was backed up, at once";
        return Err(Problem::owner(why, &format!("zoneward retention set --grace {grace_s}s --owner")));
    }
    // Two commands, the harmless one first: each says what it was made from.
    if grace_s != state.policy.grace_s {
        state = change(&shared, digest, Command::SetGrace { grace_s, owner: None }).await?;
        digest = seen::of_retention(&state.policy);
        if state.policy.grace_s != grace_s {
            return Err(Problem::stale());
        }
    }
    if rules != state.policy.retention {
        state = change(&shared, digest, Command::SetRetention { rules }).await?;
    }
    show_retention(&req, &state)
}
