//! Which schedule begins now: pure, from the state, the clock and how the nodes do.

use std::collections::{BTreeMap, BTreeSet};

use cronexpr::{Crontab, FallbackTimezoneOption, ParseOptions};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use zoneward_consensus::model::{CheckpointState, Source, Standing, State};
use zoneward_consensus::policy::{Conditions, DAY_MIN, Schedule};
use zoneward_sectors::ids::{NodeId, SectorId, SourceId};

use crate::ambient::Ambient;

/// What a schedule asks for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub name: String,
    pub after_ms: u64,
    pub sources: Vec<SourceId>,
    /// All that it asks for is done already, because somebody began a checkpoint by hand.
    pub covered: bool,
}

/// How a schedule stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stands {
    Paused,
    /// The next moment, ms since 1970.
    Next(u64),
    /// It was due then, and waits for something.
    Waits(u64, Wait),
    Begins(Due),
    Unreadable(String),
}

/// What a schedule that is due waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Another checkpoint is still being made.
    Running,
    /// A node puts its sources back to an earlier state.
    Maintenance,
    Window,
    /// Nobody has told the zone of a source.
    Sources,
    /// No node that can read the sources is there, off battery and off a metered line.
    Nodes,
    Idle,
}

/// What a cron line with its time zone means. The error is for a person.
pub fn parse(cron: &str, time_zone: Option<&str>) -> Result<Crontab, String> {
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::System;
    let fields = cron.split_whitespace().count();
    if fields != 5 {
        return Err(format!(
            "it has {fields} fields instead of 5: minute, hour, day of the month, month, day of the week"
        ));
    }
    let line = time_zone.map_or_else(|| cron.to_owned(), |zone| format!("{cron} {zone}"));
    let tab = cronexpr::parse_crontab_with(&line, options).map_err(|e| e.to_string().replace('\n', " "))?;
    // A line may be well formed and never come true. 2000 is followed by years of every kind.
    let from = Timestamp::from_second(YEAR_2000_S).unwrap_or(Timestamp::UNIX_EPOCH);
    tab.find_next(cronexpr::MakeTimestamp(from))
        .map_err(|_| "it never comes true: no month has such a day".to_owned())?;
    Ok(tab)
}

/// 1 January 2000, seconds since 1970.
const YEAR_2000_S: i64 = 946_684_800;
/// Moments of a schedule that are compared with its window: each minute of two days, or each day of years.
const MOMENTS_MAX: usize = 2_880;

/// Whether a schedule's time ever lies in the hours in which it may begin. One whose time never does would wait for its
/// window each time, which nobody means.
pub fn meets_window(s: &Schedule, now_ms: u64) -> bool {
    let (Some(window), Ok(tab)) = (s.window, parse(&s.cron, s.time_zone.as_deref())) else { return true };
    let mut at = now_ms;
    for _ in 0..MOMENTS_MAX {
        let Some(next) = next_after(&tab, at).filter(|next| *next > at) else { return false };
        if window.holds(minute_of_day(next, s.time_zone.as_deref())) {
            return true;
        }
        at = next;
    }
    false
}

fn next_after(tab: &Crontab, ms: u64) -> Option<u64> {
    let at = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    let next = tab.find_next(cronexpr::MakeTimestamp(at)).ok()?;
    u64::try_from(next.timestamp().as_millisecond()).ok()
}

/// The minute of the day in a time zone; the system's own if it is not named or not known.
pub fn minute_of_day(now_ms: u64, time_zone: Option<&str>) -> u16 {
    let zone = time_zone.and_then(|z| TimeZone::get(z).ok()).unwrap_or_else(TimeZone::system);
    let at = i64::try_from(now_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    let local = Zoned::new(at, zone);
    let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
    u16::try_from(minute).unwrap_or(0).min(DAY_MIN - 1)
}

/// How each schedule stands at a moment. `nodes`: those that were heard of late.
pub fn look(state: &State, now_ms: u64, nodes: &BTreeMap<NodeId, Ambient>) -> BTreeMap<String, Stands> {
    let stand = |(name, s): (&String, &Schedule)| (name.clone(), stands(state, name, s, now_ms, nodes));
    state.policy.schedules.iter().map(stand).collect()
}

/// The first schedule that begins now.
pub fn due(state: &State, now_ms: u64, nodes: &BTreeMap<NodeId, Ambient>) -> Option<Due> {
    look(state, now_ms, nodes).into_values().find_map(|s| match s {
        Stands::Begins(due) => Some(due),
        _ => None,
    })
}

/// Sources that are to be stored anew in part, and the sectors that call for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub sources: Vec<SourceId>,
    pub gone: BTreeSet<SectorId>,
}

/// What the newest checkpoint lacks, nothing whole being left of it, can still be read from its source. For each sector that
/// is tried once; a source whose schedules rest is left alone.
pub fn repair(state: &State, nodes: &BTreeMap<NodeId, Ambient>, tried: &BTreeSet<SectorId>) -> Option<Repair> {
    if state.running().is_some() || state.in_maintenance().next().is_some() {
        return None;
    }
    if !state.usable_targets().any(|t| !t.reached_by.is_empty()) {
        return None;
    }
    let c = &state.policy.conditions;
    let (mut sources, mut all) = (Vec::new(), BTreeSet::new());
    for (id, gone) in state.lacking() {
        let Some(source) = state.sources.get(&id) else { continue };
        let mut schedules = state.policy.schedules.values().filter(|s| !s.paused);
        let wanted = schedules.any(|s| s.sources.is_empty() || s.sources.contains(&id));
        if wanted && !gone.is_subset(tried) && readers(state, source, nodes).any(|a| is_fit(c, a)) {
            sources.push(id);
            all.extend(gone);
        }
    }
    (!sources.is_empty()).then_some(Repair { sources, gone: all })
}

fn stands(state: &State, name: &str, s: &Schedule, now_ms: u64, nodes: &BTreeMap<NodeId, Ambient>) -> Stands {
    if s.paused {
        return Stands::Paused;
    }
    let tab = match parse(&s.cron, s.time_zone.as_deref()) {
        Ok(tab) => tab,
        Err(e) => return Stands::Unreadable(e),
    };
    let made = state.zone.as_ref().map_or(0, |z| z.created_ms);
    let Some(at) = next_after(&tab, s.begun_ms.max(s.since_ms).max(made)) else {
        return Stands::Unreadable("it never comes true".into());
    };
    if at > now_ms {
        return Stands::Next(at);
    }
    let all: Vec<&Source> =
        state.sources.values().filter(|x| s.sources.is_empty() || s.sources.contains(&x.id)).collect();
    if all.is_empty() {
        return Stands::Waits(at, Wait::Sources);
    }
    let due = |sources, covered| Due { name: name.to_owned(), after_ms: s.begun_ms, sources, covered };
    if all.iter().all(|x| begun_since(state, x.id, at)) {
        return Stands::Begins(due(Vec::new(), true));
    }
    if state.checkpoints.values().any(|c| c.state == CheckpointState::Running) {
        return Stands::Waits(at, Wait::Running);
    }
    if state.in_maintenance().next().is_some() {
        return Stands::Waits(at, Wait::Maintenance);
    }
    if s.window.is_some_and(|w| !w.holds(minute_of_day(now_ms, s.time_zone.as_deref()))) {
        return Stands::Waits(at, Wait::Window);
    }
    let c = &state.policy.conditions;
    let readable = |x: &&&Source| readers(state, x, nodes).any(|a| is_fit(c, a));
    let fit: Vec<&Source> = all.iter().filter(readable).copied().collect();
    if fit.is_empty() {
        return Stands::Waits(at, Wait::Nodes);
    }
    let patient = now_ms < at.saturating_add(u64::from(s.idle_wait_min) * 60_000);
    if patient && !fit.iter().all(|x| readers(state, x, nodes).any(|a| is_fit(c, a) && is_idle(c, a))) {
        return Stands::Waits(at, Wait::Idle);
    }
    Stands::Begins(due(fit.iter().map(|x| x.id).collect(), false))
}

/// Whether a source is in a checkpoint that was begun since then and is complete, or being made. A synthetic one looks at no
/// source.
fn begun_since(state: &State, source: SourceId, since_ms: u64) -> bool {
    state.checkpoints.values().any(|c| {
        c.started_ms >= since_ms
            && c.state != CheckpointState::Abandoned
            && c.rewrite.is_none()
            && c.tasks.iter().any(|t| t.source == source && t.state != zoneward_consensus::model::TaskState::Carried)
    })
}

/// Nodes that are there and can read a source.
fn readers<'a>(
    state: &'a State,
    source: &'a Source,
    nodes: &'a BTreeMap<NodeId, Ambient>,
) -> impl Iterator<Item = &'a Ambient> {
    let member = |id: &NodeId| state.nodes.get(id).is_some_and(|n| n.standing == Standing::Member);
    nodes.iter().filter(move |(id, _)| member(id) && state.can_read(**id, source)).map(|(_, a)| a)
}

fn is_fit(c: &Conditions, a: &Ambient) -> bool {
    (c.on_battery || a.on_battery != Some(true)) && (c.on_metered || a.metered != Some(true))
}

/// What is not known does not speak against it: better a backup on a busy node than none.
fn is_idle(c: &Conditions, a: &Ambient) -> bool {
    a.load_percent.is_none_or(|p| p <= c.idle_load_percent) && a.io_percent.is_none_or(|p| p <= c.idle_io_percent)
}

#[cfg(test)]
mod tests;
