//! When the zone backs itself up, and what it may use meanwhile: schedules, conditions, limits by the hour.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::http::header::IF_MATCH;
use actix_web::{HttpRequest, delete, get, put, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zoneward_actors::clock::now_ms;
use zoneward_actors::engine::calendar::{self, Stands};
use zoneward_consensus::audits::Audits;
use zoneward_consensus::command::Command;
use zoneward_consensus::limits::{LIMITS_MAX, NAME_LEN_MAX};
use zoneward_consensus::model::{CheckpointKind, State};
use zoneward_consensus::policy::{Conditions, Limit, Schedule, Window};
use zoneward_consensus::seen;

use super::page::{List, Look, Page};
use super::things::{Kind, change};
use super::views::is_up;
use super::{Answer, Problem, Reports, Shared, reply};
use crate::commands::schedule::{parse_window, show_window};
use crate::units::utc_time;

type Zone = web::Data<Shared>;

/// Minutes that a schedule waits for idle nodes at most: a week.
const IDLE_WAIT_MAX: u32 = 7 * 24 * 60;

/// A schedule and how it stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Schedule)]
pub struct ScheduleView {
    pub name: String,
    /// Minute, hour, day of the month, month, day of the week.
    pub cron: String,
    /// `null`: that of the node that leads.
    pub time_zone: Option<String>,
    /// Hours in which it may begin, as in `22:00-06:00`; `null`: any.
    pub window: Option<String>,
    /// Ids; empty: all sources.
    pub sources: Vec<String>,
    pub kind: Kind,
    pub idle_wait_minutes: u32,
    pub paused: bool,
    /// The moment of its calendar that it began last.
    pub begun: Option<String>,
    /// `paused`, `next`, `waits`, `begins` or `unreadable`.
    pub state: String,
    /// When it is next, or since when it waits.
    pub at: Option<String>,
    /// What it waits for, or what is wrong with its line.
    pub why: Option<String>,
}

/// A schedule as it is to be: what is not named is as for a new one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSchedule {
    pub cron: String,
    #[serde(default)]
    pub time_zone: Option<String>,
    #[serde(default)]
    pub window: Option<String>,
    #[serde(default)]
    pub sources: Vec<String>,
    #[serde(default)]
    pub kind: Kind,
    /// 0 … 10080
    #[serde(default)]
    pub idle_wait_minutes: u32,
    #[serde(default)]
    pub paused: bool,
}

/// When scheduled work is left alone, and what counts as idle. All of it is set at once.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Conditions)]
pub struct ConditionsView {
    /// Whether work may begin on a node that runs on battery.
    pub on_battery: bool,
    /// Whether work may begin on a node whose line is metered.
    pub on_metered: bool,
    /// Percent of a node's cores that other programs may use while it counts as idle.
    pub idle_load_percent: u8,
    /// Percent of the time in which something waits for its disks while it counts as idle.
    pub idle_io_percent: u8,
}

/// How stored copies are looked after. All of it is set at once.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Audits)]
pub struct AuditsView {
    /// Seconds in which each copy is looked at once, by random parts of it.
    pub every_seconds: u32,
    /// Seconds in which all of each copy is read once; 0: never. No shorter than `every_seconds`.
    pub read_seconds: u32,
    /// The same on s3:// targets, where reading is often paid for.
    pub s3_read_seconds: u32,
    /// A copy that was asked for three times and has not answered for so many seconds counts as lost.
    pub silence_seconds: u32,
}

/// All limits; the first that fits the hour counts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Limits)]
pub struct LimitsView {
    pub limits: Vec<LimitView>,
}

/// What work may use on each node in some hours.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Limit)]
pub struct LimitView {
    /// As in `08:00-18:00`; `00:00-24:00` is the whole day.
    pub window: String,
    #[serde(default)]
    pub upload_bytes_per_second: Option<u64>,
    /// 1 … 100, of a node's cores.
    #[serde(default)]
    pub cpu_percent: Option<u8>,
}

/// How all schedules stand now.
pub fn stands(state: &State, reports: &Reports) -> BTreeMap<String, Stands> {
    let nodes = reports.iter().filter(|(id, _)| is_up(reports, **id)).map(|(id, r)| (*id, r.ambient)).collect();
    calendar::look(state, now_ms(), &nodes)
}

fn view(name: &str, s: &Schedule, stands: Option<&Stands>) -> ScheduleView {
    let (state, at, why) = match stands {
        Some(Stands::Paused) | None => ("paused", None, None),
        Some(Stands::Next(at)) => ("next", Some(*at), None),
        Some(Stands::Waits(at, wait)) => {
            let word = serde_json::to_value(wait).ok().and_then(|v| v.as_str().map(str::to_owned));
            ("waits", Some(*at), word)
        }
        Some(Stands::Begins(_)) => ("begins", None, None),
        Some(Stands::Unreadable(why)) => ("unreadable", None, Some(why.clone())),
    };
    ScheduleView {
        name: name.into(),
        cron: s.cron.clone(),
        time_zone: s.time_zone.clone(),
        window: s.window.map(show_window),
        sources: s.sources.iter().map(ToString::to_string).collect(),
        kind: match s.checkpoint_kind {
            CheckpointKind::Full => Kind::Full,
            // A schedule cannot ask for a synthetic one.
            CheckpointKind::Incremental | CheckpointKind::Synthetic => Kind::Incremental,
            CheckpointKind::Differential => Kind::Differential,
        },
        idle_wait_minutes: s.idle_wait_min,
        paused: s.paused,
        begun: (s.begun_ms > 0).then(|| utc_time(s.begun_ms)),
        state: state.into(),
        at: at.map(utc_time),
        why,
    }
}

/// The schedules, by name.
#[utoipa::path(tag = "schedules", security(("token" = ["status:read"])), params(Page), responses((status = 200, body = List<ScheduleView>)))]
#[get("/api/v1/schedules")]
pub async fn schedules(shared: Zone, req: HttpRequest, q: web::Query<Page>) -> Answer {
    let (state, reports) = (shared.view(q.min_revision).await?, shared.reports().await?);
    let stands = stands(&state, &reports);
    let all = &state.policy.schedules;
    let (names, next) = q.of(|after: Option<String>| {
        all.keys().filter(move |n| after.as_ref().is_none_or(|a| *n > a)).map(|n| (n.clone(), n))
    })?;
    let items = names.into_iter().filter_map(|n| Some(view(n, all.get(n)?, stands.get(n)))).collect();
    reply::seen(&req, state.revision, None, &List { items, next })
}

/// One schedule.
#[utoipa::path(tag = "schedules", security(("token" = ["status:read"])), params(("name" = String, Path, description = "What it is called"), Look), responses((status = 200, body = ScheduleView)))]
#[get("/api/v1/schedules/{name}")]
pub async fn schedule(shared: Zone, req: HttpRequest, path: web::Path<String>, q: web::Query<Look>) -> Answer {
    let (state, reports) = (shared.view(q.min_revision).await?, shared.reports().await?);
    show(&req, &state, &reports, &path, StatusCode::OK)
}

fn show(req: &HttpRequest, state: &State, reports: &Reports, name: &str, status: StatusCode) -> Answer {
    let s = known(state, name)?;
    let view = view(name, s, stands(state, reports).get(name));
    let location = (status == StatusCode::CREATED).then(|| format!("/api/v1/schedules/{name}"));
    reply::with_status(req, status, state.revision, Some(&seen::of_schedule(name, Some(s))), &view, location)
}

fn known<'a>(state: &'a State, name: &str) -> Result<&'a Schedule, Problem> {
    state.policy.schedules.get(name).ok_or_else(|| Problem::not_found("no schedule is called this"))
}

/// Adds a schedule, or puts another in its place: then `If-Match` says what it was made from.
#[utoipa::path(tag = "schedules", security(("token" = ["config:write"])), request_body = NewSchedule,
    params(("name" = String, Path, description = "Letters, digits and -._~"), ("If-Match" = Option<String>, Header, description = "ETag of the schedule as it was read; none for a new one")),
    responses((status = 200, body = ScheduleView), (status = 201, body = ScheduleView, headers(("Location" = String)))))]
#[put("/api/v1/schedules/{name}")]
pub async fn put_schedule(
    shared: Zone,
    req: HttpRequest,
    path: web::Path<String>,
    body: web::Json<NewSchedule>,
) -> Answer {
    let state = shared.view(None).await?;
    let name = path.into_inner();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    if name.len() > NAME_LEN_MAX || !name.chars().all(plain) {
        return Err(Problem::value("name", "letters, digits and -._~"));
    }
    let old = state.policy.schedules.get(&name);
    let digest = seen::of_schedule(&name, old);
    let status = match old {
        Some(_) => {
            reply::if_match(&req, &digest)?;
            StatusCode::OK
        }
        // What it was made from is gone, or never was.
        None if req.headers().contains_key(IF_MATCH) => return Err(Problem::stale()),
        None => StatusCode::CREATED,
    };
    let wanted = wanted(&state, body.into_inner())?;
    let state = change(&shared, digest, Command::PutSchedule { name: name.clone(), schedule: wanted }).await?;
    show(&req, &state, &shared.reports().await?, &name, status)
}

fn wanted(state: &State, new: NewSchedule) -> Result<Schedule, Problem> {
    calendar::parse(&new.cron, None).map_err(|why| Problem::value("/cron", why))?;
    calendar::parse(&new.cron, new.time_zone.as_deref()).map_err(|why| Problem::value("/time_zone", why))?;
    let window = new.window.as_deref().map(|t| window(t, "/window")).transpose()?;
    if new.idle_wait_minutes > IDLE_WAIT_MAX {
        return Err(Problem::value("/idle_wait_minutes", format!("0 … {IDLE_WAIT_MAX}")));
    }
    let mut sources = Vec::new();
    for (i, text) in new.sources.iter().enumerate() {
        let found = text.parse().ok().filter(|id| state.sources.contains_key(id));
        sources.push(found.ok_or_else(|| Problem::value(&format!("/sources/{i}"), "no source has this id"))?);
    }
    let wanted = Schedule {
        cron: new.cron,
        time_zone: new.time_zone,
        window,
        sources,
        checkpoint_kind: new.kind.into(),
        idle_wait_min: new.idle_wait_minutes,
        paused: new.paused,
        since_ms: 0,
        begun_ms: 0,
    };
    if !calendar::meets_window(&wanted, now_ms()) {
        return Err(Problem::value("/window", "the time of /cron never lies in it"));
    }
    Ok(wanted)
}

fn window(text: &str, pointer: &str) -> Result<Window, Problem> {
    parse_window(text).map_err(|_| Problem::value(pointer, "a window of the day, as in 22:00-06:00"))
}

/// Forgets a schedule; what it made stays.
#[utoipa::path(tag = "schedules", security(("token" = ["config:write"])),
    params(("name" = String, Path, description = "What it is called"), ("If-Match" = String, Header, description = "ETag of the schedule as it was read")),
    responses((status = 204, description = "It is forgotten")))]
#[delete("/api/v1/schedules/{name}")]
pub async fn remove_schedule(shared: Zone, req: HttpRequest, path: web::Path<String>) -> Answer {
    let state = shared.view(None).await?;
    let name = path.into_inner();
    let digest = seen::of_schedule(&name, Some(known(&state, &name)?));
    reply::if_match(&req, &digest)?;
    let state = change(&shared, digest, Command::RemoveSchedule { name }).await?;
    Ok(reply::gone(state.revision))
}

/// When scheduled work is left alone, and what counts as idle.
#[utoipa::path(tag = "schedules", security(("token" = ["status:read"])), params(Look), responses((status = 200, body = ConditionsView)))]
#[get("/api/v1/conditions")]
pub async fn conditions(shared: Zone, req: HttpRequest, q: web::Query<Look>) -> Answer {
    let state = shared.view(q.min_revision).await?;
    show_conditions(&req, &state)
}

fn show_conditions(req: &HttpRequest, state: &State) -> Answer {
    let c = &state.policy.conditions;
    let Conditions { on_battery, on_metered, idle_load_percent, idle_io_percent } = *c;
    let view = ConditionsView { on_battery, on_metered, idle_load_percent, idle_io_percent };
    reply::seen(req, state.revision, Some(&seen::of_conditions(c)), &view)
}

/// Sets all conditions.
#[utoipa::path(tag = "schedules", security(("token" = ["config:write"])), request_body = ConditionsView,
    params(("If-Match" = String, Header, description = "ETag of the conditions as they were read")),
    responses((status = 200, body = ConditionsView)))]
#[put("/api/v1/conditions")]
pub async fn set_conditions(shared: Zone, req: HttpRequest, body: web::Json<ConditionsView>) -> Answer {
    let state = shared.view(None).await?;
    let digest = seen::of_conditions(&state.policy.conditions);
    reply::if_match(&req, &digest)?;
    let ConditionsView { on_battery, on_metered, idle_load_percent, idle_io_percent } = body.into_inner();
    for (pointer, percent) in [("/idle_load_percent", idle_load_percent), ("/idle_io_percent", idle_io_percent)] {
        if percent > 100 {
            return Err(Problem::value(pointer, "0 … 100"));
        }
    }
    let wanted = Conditions { on_battery, on_metered, idle_load_percent, idle_io_percent };
    let state = change(&shared, digest, Command::SetConditions { conditions: wanted }).await?;
    show_conditions(&req, &state)
}

/// How stored copies are looked after.
#[utoipa::path(tag = "schedules", security(("token" = ["status:read"])), params(Look), responses((status = 200, body = AuditsView)))]
#[get("/api/v1/audits")]
pub async fn audits(shared: Zone, req: HttpRequest, q: web::Query<Look>) -> Answer {
    let state = shared.view(q.min_revision).await?;
    show_audits(&req, &state)
}

fn show_audits(req: &HttpRequest, state: &State) -> Answer {
    let a = &state.policy.audits;
    let view = AuditsView {
        every_seconds: a.every_s,
        read_seconds: a.read_s,
        s3_read_seconds: a.paid_read_s,
        silence_seconds: a.silence_s,
    };
    reply::seen(req, state.revision, Some(&seen::of_audits(a)), &view)
}

/// Sets how stored copies are looked after.
#[utoipa::path(tag = "schedules", security(("token" = ["config:write"])), request_body = AuditsView,
    params(("If-Match" = String, Header, description = "ETag of the audits as they were read")),
    responses((status = 200, body = AuditsView)))]
#[put("/api/v1/audits")]
pub async fn set_audits(shared: Zone, req: HttpRequest, body: web::Json<AuditsView>) -> Answer {
    let state = shared.view(None).await?;
    let digest = seen::of_audits(&state.policy.audits);
    reply::if_match(&req, &digest)?;
    let v = body.into_inner();
    let wanted = Audits {
        every_s: v.every_seconds,
        read_s: v.read_seconds,
        paid_read_s: v.s3_read_seconds,
        silence_s: v.silence_seconds,
    };
    if !wanted.is_valid() {
        return Err(Problem::value(
            "/every_seconds",
            "above 0, no longer than the other two that are not 0, and none above ten years",
        ));
    }
    let state = change(&shared, digest, Command::SetAudits { audits: wanted }).await?;
    show_audits(&req, &state)
}

/// What work may use in some hours of the day.
#[utoipa::path(tag = "schedules", security(("token" = ["status:read"])), params(Look), responses((status = 200, body = LimitsView)))]
#[get("/api/v1/limits")]
pub async fn limits(shared: Zone, req: HttpRequest, q: web::Query<Look>) -> Answer {
    let state = shared.view(q.min_revision).await?;
    show_limits(&req, &state)
}

fn show_limits(req: &HttpRequest, state: &State) -> Answer {
    let all = &state.policy.limits;
    let view = |l: &Limit| LimitView {
        window: show_window(l.window),
        upload_bytes_per_second: l.upload_bytes_s,
        cpu_percent: l.cpu_percent,
    };
    let view = LimitsView { limits: all.iter().map(view).collect() };
    reply::seen(req, state.revision, Some(&seen::of_limits(all)), &view)
}

/// Sets all limits; every node takes them over within seconds.
#[utoipa::path(tag = "schedules", security(("token" = ["config:write"])), request_body = LimitsView,
    params(("If-Match" = String, Header, description = "ETag of the limits as they were read")),
    responses((status = 200, body = LimitsView)))]
#[put("/api/v1/limits")]
pub async fn set_limits(shared: Zone, req: HttpRequest, body: web::Json<LimitsView>) -> Answer {
    let state = shared.view(None).await?;
    let digest = seen::of_limits(&state.policy.limits);
    reply::if_match(&req, &digest)?;
    if body.limits.len() > LIMITS_MAX {
        return Err(Problem::value("/limits", format!("at most {LIMITS_MAX}")));
    }
    let mut all = Vec::new();
    for (i, l) in body.limits.iter().enumerate() {
        if l.upload_bytes_per_second == Some(0) {
            return Err(Problem::value(&format!("/limits/{i}/upload_bytes_per_second"), "1 or more, or null"));
        }
        if l.cpu_percent.is_some_and(|p| !(1..=100).contains(&p)) {
            return Err(Problem::value(&format!("/limits/{i}/cpu_percent"), "1 … 100, or null"));
        }
        let window = window(&l.window, &format!("/limits/{i}/window"))?;
        all.push(Limit { window, upload_bytes_s: l.upload_bytes_per_second, cpu_percent: l.cpu_percent });
    }
    let state = change(&shared, digest, Command::SetLimits { limits: all }).await?;
    show_limits(&req, &state)
}
