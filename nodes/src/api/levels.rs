//! How safe the zone's data is and what can be done now: `/zone/levels`. Same numbers and words as `zoneward status`.

use actix_web::{HttpRequest, get, web};
use serde::Serialize;
use utoipa::ToSchema;
use zoneward_actors::clock::now_ms;
use zoneward_consensus::levels::{self as rules, Cause, Level, Levels};
use zoneward_consensus::model::State;

use super::page::Look;
use super::{Answer, Reports, Shared, reply};
use crate::words::{self, Ladder, Lang};

/// Both levels of the zone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Levels)]
pub struct LevelsView {
    pub reliability: LevelView,
    pub availability: LevelView,
}

/// A level, why it is not better, and what to do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Level)]
pub struct LevelView {
    /// 1 (best) … 7
    pub number: u8,
    pub name: String,
    /// What it means for the data.
    pub consequence: String,
    pub reason: String,
    pub next_action: String,
    /// What to type for it.
    pub commands: Vec<String>,
    /// What else was found, the worst first.
    pub also: Vec<FindingView>,
}

/// Something else that was found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Finding)]
pub struct FindingView {
    /// The level that it alone would lead to.
    pub number: u8,
    pub reason: String,
    pub next_action: String,
    pub commands: Vec<String>,
}

/// The levels as this node computes them now.
pub fn of_now(shared: &Shared, state: &State, reports: &Reports) -> Levels {
    let now = now_ms();
    rules::levels(state, &crate::seen::of_node(&shared.node, state, reports, now), now)
}

fn view(shared: &Shared, ladder: Ladder, level: &Level) -> LevelView {
    let rung = words::rung(Lang::En, ladder, level.number);
    let of = |number, cause: &Cause| FindingView {
        number,
        reason: shared.outside(&words::cause(Lang::En, cause)),
        next_action: words::next(Lang::En, &cause.next()).into(),
        commands: words::next::commands(&cause.next()).iter().map(|c| shared.outside(c)).collect(),
    };
    let FindingView { number, reason, next_action, commands } = of(level.number, &level.reason);
    LevelView {
        number,
        name: rung.name.into(),
        consequence: rung.consequence.into(),
        reason,
        next_action,
        commands,
        also: level.also.iter().map(|f| of(f.number, &f.cause)).collect(),
    }
}

/// Reliability and availability, why they are as they are, and what to do.
#[utoipa::path(tag = "zone", security(("token" = ["status:read"])), params(Look), responses((status = 200, body = LevelsView)))]
#[get("/api/v1/zone/levels")]
pub async fn levels(shared: web::Data<Shared>, req: HttpRequest, q: web::Query<Look>) -> Answer {
    let (state, reports) = (shared.view(q.min_revision).await?, shared.reports().await?);
    let levels = of_now(&shared, &state, &reports);
    let view = LevelsView {
        reliability: view(&shared, Ladder::Reliability, &levels.reliability),
        availability: view(&shared, Ladder::Availability, &levels.availability),
    };
    reply::seen(&req, state.revision, None, &view)
}
