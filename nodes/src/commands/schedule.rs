//! When the zone backs itself up, and what it may use meanwhile: `schedule`.

use std::collections::BTreeMap;

use zoneward_actors::ambient::Ambient;
use zoneward_actors::clock::now_ms;
use zoneward_actors::engine::calendar::{self, Stands, Wait};
use zoneward_actors::zone::Zone;
use zoneward_consensus::audits::Audits;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{CheckpointKind, State};
use zoneward_consensus::policy::{Conditions, DAY_MIN, Limit, Schedule, Window};
use zoneward_sectors::ids::{NodeId, SourceId};

use super::{open, serving, source};
use crate::cli::{AuditArgs, ConditionArgs, Global, Kind, LimitArgs, Permit, ScheduleArgs, ScheduleCommand};
use crate::daemon::local::Status;
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::{bytes, duration, local_time, show_path, utc_time};

/// A node that was heard longer ago counts as away, ms.
const FRESH_MS: u64 = 10_000;

pub fn schedule(g: &Global, out: Out, command: ScheduleCommand) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    let said = match command {
        ScheduleCommand::Ls => None,
        ScheduleCommand::Set(a) => Some(set(&mut zone, &a)?),
        ScheduleCommand::Remove { name } => {
            known(zone.state(), &name)?;
            zone.propose(Command::RemoveSchedule { name: name.clone() })?;
            Some(format!("schedule {name} is gone; what it made stays"))
        }
        ScheduleCommand::Conditions(a) => {
            let conditions = conditions(zone.state().policy.conditions, &a);
            zone.propose(Command::SetConditions { conditions })?;
            Some(format!("scheduled work {}", said_of(&conditions)))
        }
        ScheduleCommand::Audits(a) => {
            let audits = audits(zone.state().policy.audits, &a)?;
            zone.propose(Command::SetAudits { audits })?;
            Some(said_of_audits(&audits))
        }
        ScheduleCommand::Limit(a) => {
            let limits = limits(&zone.state().policy.limits, &a)?;
            zone.propose(Command::SetLimits { limits })?;
            Some("limits are set; every node takes them over within seconds".into())
        }
    };
    if let Some(said) = said {
        out.say(said);
        if !out.json {
            return Ok(0);
        }
    }
    let served = serving(g).map(|c| c.status()).transpose().map_err(super::node::client_failed)?;
    let stands = stands(zone.state(), served.as_ref());
    out.json(&json(zone.state(), &stands));
    for line in lines(zone.state(), &stands) {
        out.answer(line);
    }
    if served.is_none() {
        out.say("no daemon runs here, and schedules are its work: zoneward up");
    }
    Ok(0)
}

fn known<'a>(state: &'a State, name: &str) -> Result<&'a Schedule, Failure> {
    state.policy.schedules.get(name).ok_or_else(|| {
        Failure::new(1811, exit::FAILED, format!("no schedule is called {name:?}"))
            .help("zoneward schedule ls lists them")
    })
}

fn set(zone: &mut Zone, a: &ScheduleArgs) -> Result<String, Failure> {
    let state = zone.state();
    let mut schedule = match state.policy.schedules.get(&a.name) {
        Some(s) => s.clone(),
        None => at_one(),
    };
    if let Some(cron) = &a.cron {
        schedule.cron.clone_from(cron);
    }
    if let Some(zone) = &a.time_zone {
        schedule.time_zone = (zone != "local").then(|| zone.clone());
    }
    if let Some(window) = &a.window {
        schedule.window = (window != "any").then(|| parse_window(window)).transpose()?;
    }
    if !a.source.is_empty() {
        schedule.sources = sources(state, &a.source)?;
    }
    if let Some(kind) = a.kind {
        schedule.checkpoint_kind = match kind {
            Kind::Full => CheckpointKind::Full,
            Kind::Incremental => CheckpointKind::Incremental,
            Kind::Differential => CheckpointKind::Differential,
        };
    }
    schedule.idle_wait_min = a.idle_wait.unwrap_or(schedule.idle_wait_min);
    schedule.paused = (schedule.paused || a.pause) && !a.resume;
    calendar::parse(&schedule.cron, schedule.time_zone.as_deref()).map_err(|why| {
        let line = schedule.time_zone.as_ref().map_or_else(String::new, |z| format!(" in {z}"));
        Failure::new(1812, exit::USAGE, format!("the cron line {:?}{line} cannot be used", schedule.cron))
            .why(why)
            .help("minute hour day month weekday, for example '30 2 * * *' for half past two each night")
    })?;
    if !calendar::meets_window(&schedule, now_ms()) {
        let window = schedule.window.map_or_else(String::new, show_window);
        return Err(Failure::new(
            2048,
            exit::USAGE,
            format!("the cron line {:?} never falls into {window}", schedule.cron),
        )
        .why("between these hours the schedule may begin, and its time never lies there")
        .help("change --cron or --window; --window any takes the window away"));
    }
    let (name, paused) = (a.name.clone(), schedule.paused);
    zone.propose(Command::PutSchedule { name, schedule })?;
    let stands = stands(zone.state(), None);
    Ok(match stands.get(&a.name) {
        Some(Stands::Next(at)) if !paused => format!("schedule {} is set; next on {}", a.name, local_time(*at)),
        _ => format!("schedule {} is set", a.name),
    })
}

/// What a new schedule is where nothing else is said: each night at one, busy or not.
fn at_one() -> Schedule {
    Schedule {
        cron: "0 1 * * *".into(),
        time_zone: None,
        window: None,
        sources: Vec::new(),
        checkpoint_kind: CheckpointKind::Incremental,
        idle_wait_min: 0,
        paused: false,
        since_ms: 0,
        begun_ms: 0,
    }
}

/// Sources by path or id; `all` alone is every source, those of the future too.
fn sources(state: &State, named: &[String]) -> Result<Vec<SourceId>, Failure> {
    if named == ["all"] {
        return Ok(Vec::new());
    }
    named.iter().map(|text| source::find_source(state, std::ffi::OsStr::new(text))).collect()
}

fn parse_minute(text: &str) -> Option<u16> {
    let (h, m) = text.split_once(':')?;
    let two = |t: &str| t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
    let (h, m): (u16, u16) = (two(h) && two(m)).then(|| Some((h.parse().ok()?, m.parse().ok()?))).flatten()?;
    (m < 60 && h * 60 + m <= DAY_MIN).then_some(h * 60 + m)
}

pub(crate) fn parse_window(text: &str) -> Result<Window, Failure> {
    let bounds = text.split_once('-').and_then(|(a, b)| Some((parse_minute(a.trim())?, parse_minute(b.trim())?)));
    let window = bounds.map(|(from_min, to_min)| Window { from_min, to_min }).filter(|w| w.is_valid());
    window.ok_or_else(|| {
        Failure::new(1813, exit::USAGE, format!("{text:?} is no window of the day"))
            .help("write it as 22:00-06:00; 00:00-24:00 is the whole day")
    })
}

pub(crate) fn show_window(w: Window) -> String {
    let at = |m: u16| format!("{:02}:{:02}", m / 60, m % 60);
    format!("{}-{}", at(w.from_min), at(w.to_min))
}

fn conditions(old: Conditions, a: &ConditionArgs) -> Conditions {
    let permit = |new: Option<Permit>, old| new.map_or(old, |p| p == Permit::Run);
    Conditions {
        on_battery: permit(a.battery, old.on_battery),
        on_metered: permit(a.metered, old.on_metered),
        idle_load_percent: a.idle_load.unwrap_or(old.idle_load_percent),
        idle_io_percent: a.idle_io.unwrap_or(old.idle_io_percent),
    }
}

fn audits(old: Audits, a: &AuditArgs) -> Result<Audits, Failure> {
    let audits = Audits {
        every_s: a.every.unwrap_or(old.every_s),
        read_s: a.read_all.unwrap_or(old.read_s),
        paid_read_s: a.read_all_s3.unwrap_or(old.paid_read_s),
        silence_s: a.silence.unwrap_or(old.silence_s),
    };
    if !audits.is_valid() {
        return Err(Failure::new(1815, exit::USAGE, "copies cannot be looked at so")
            .why("a time is longer than ten years, or everything would be read more often than a part of it")
            .help("give --read-all and --read-all-s3 a time no shorter than --every, or never"));
    }
    Ok(audits)
}

fn said_of_audits(a: &Audits) -> String {
    let time = |s: u32| duration(f64::from(s));
    let all = |s: u32| if s == 0 { "never".into() } else { format!("once in {}", time(s)) };
    format!(
        "each copy is looked at once in {}; read whole {}, on s3:// targets {}; silence counts as loss after {}",
        time(a.every_s),
        all(a.read_s),
        all(a.paid_read_s),
        time(a.silence_s)
    )
}

fn said_of(c: &Conditions) -> String {
    let yes = |on: bool| if on { "runs" } else { "does not begin" };
    format!(
        "{} on battery, {} on a metered line; a node is idle while others use at most {} % of its cores and wait for \
         disks at most {} % of the time",
        yes(c.on_battery),
        yes(c.on_metered),
        c.idle_load_percent,
        c.idle_io_percent
    )
}

fn limits(old: &[Limit], a: &LimitArgs) -> Result<Vec<Limit>, Failure> {
    let Some(window) = &a.window else {
        return Ok(Vec::new());
    };
    let window = parse_window(window)?;
    let mut all: Vec<Limit> = old.iter().copied().filter(|l| l.window != window).collect();
    if a.upload.is_some() || a.cpu.is_some() {
        // The first that fits counts: what was said last goes before.
        all.insert(0, Limit { window, upload_bytes_s: a.upload, cpu_percent: a.cpu });
    }
    Ok(all)
}

/// How all schedules stand now. Without a daemon nobody says how busy the nodes are.
pub(super) fn stands(state: &State, served: Option<&Status>) -> BTreeMap<String, Stands> {
    let now = now_ms();
    let nodes: BTreeMap<NodeId, Ambient> = match served {
        Some(s) => {
            let fresh = s.reports.iter().filter(|(_, r)| now.saturating_sub(r.at_ms) < FRESH_MS);
            fresh.map(|(id, r)| (*id, r.ambient)).collect()
        }
        None => state.nodes.keys().map(|id| (*id, Ambient::default())).collect(),
    };
    calendar::look(state, now, &nodes)
}

fn wait_text(wait: Wait) -> &'static str {
    match wait {
        Wait::Running => "waits for the checkpoint that is being made",
        Wait::Maintenance => "waits for a rollback that is under way: zoneward status",
        Wait::Window => "waits for its window",
        Wait::Sources => "waits for a source: zoneward source add PATH",
        Wait::Nodes => "waits for a node that can read its sources, is not on battery and not on a metered line",
        Wait::Idle => "waits for idle nodes",
    }
}

/// How a schedule stands, in words.
pub(super) fn text(stands: &Stands) -> String {
    match stands {
        Stands::Paused => "paused".into(),
        Stands::Next(at) => format!("next on {}", local_time(*at)),
        Stands::Waits(at, wait) => format!("due since {}: {}", local_time(*at), wait_text(*wait)),
        Stands::Begins(_) => "begins now".into(),
        Stands::Unreadable(why) => format!("CANNOT BE READ: {why}"),
    }
}

fn kind_text(kind: CheckpointKind) -> &'static str {
    match kind {
        CheckpointKind::Full => "full",
        CheckpointKind::Incremental => "incremental",
        CheckpointKind::Differential => "differential",
        CheckpointKind::Synthetic => "synthetic",
    }
}

fn lines(state: &State, stands: &BTreeMap<String, Stands>) -> Vec<String> {
    let policy = &state.policy;
    let mut out = Vec::new();
    for (name, s) in &policy.schedules {
        let stands = stands.get(name).map_or_else(String::new, text);
        let mut more = vec![kind_text(s.checkpoint_kind).to_owned()];
        more.extend(s.time_zone.clone());
        more.extend(s.window.map(|w| format!("begins within {}", show_window(w))));
        if s.idle_wait_min > 0 {
            more.push(format!("waits up to {} min for idle nodes", s.idle_wait_min));
        }
        let paths: Vec<String> =
            s.sources.iter().filter_map(|id| state.sources.get(id)).map(|x| show_path(&x.path)).collect();
        more.push(if paths.is_empty() { "all sources".into() } else { paths.join(", ") });
        out.push(format!("{name:<12} {:<14} {stands}", s.cron));
        out.push(format!("{:12} {}", "", more.join("; ")));
    }
    if policy.schedules.is_empty() {
        out.push("no schedule: nothing is backed up unless somebody asks for it".into());
    }
    out.push(format!("scheduled work {}", said_of(&policy.conditions)));
    out.push(said_of_audits(&policy.audits));
    for l in &policy.limits {
        let mut what = Vec::new();
        what.extend(l.upload_bytes_s.map(|n| format!("at most {}/s to targets", bytes(n))));
        what.extend(l.cpu_percent.map(|p| format!("at most {p} % of the cores")));
        out.push(format!("limit {}: {}", show_window(l.window), what.join(", ")));
    }
    out
}

fn json(state: &State, stands: &BTreeMap<String, Stands>) -> serde_json::Value {
    let schedule = |(name, s): (&String, &Schedule)| {
        let (state_name, at, why) = match stands.get(name) {
            Some(Stands::Paused) | None => ("paused", None, None),
            Some(Stands::Next(at)) => ("next", Some(*at), None),
            Some(Stands::Waits(at, wait)) => ("waits", Some(*at), serde_json::to_value(wait).ok()),
            Some(Stands::Begins(_)) => ("begins", None, None),
            Some(Stands::Unreadable(why)) => ("unreadable", None, Some(why.as_str().into())),
        };
        serde_json::json!({
            "name": name, "cron": s.cron, "time_zone": s.time_zone, "window": s.window.map(show_window),
            "sources": s.sources, "kind": s.checkpoint_kind, "idle_wait_minutes": s.idle_wait_min, "state": state_name,
            "at": at.map(utc_time), "why": why, "begun": (s.begun_ms > 0).then(|| utc_time(s.begun_ms)),
        })
    };
    let limit = |l: &Limit| {
        serde_json::json!({"window": show_window(l.window), "upload_bytes_per_second": l.upload_bytes_s,
                           "cpu_percent": l.cpu_percent})
    };
    serde_json::json!({
        "schema": "zoneward.schedules/1", "schedules": state.policy.schedules.iter().map(schedule).collect::<Vec<_>>(),
        "conditions": state.policy.conditions, "audits": state.policy.audits, "limits": state.policy.limits.iter().map(limit).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoneward_consensus::policy::Policy;

    #[test]
    fn windows_are_read_and_shown() {
        for (text, shown) in
            [("22:00-06:00", "22:00-06:00"), ("00:00 - 24:00", "00:00-24:00"), ("09:05-09:06", "09:05-09:06")]
        {
            assert_eq!(show_window(parse_window(text).unwrap()), shown);
        }
        for bad in [
            "",
            "22-6",
            "22:00",
            "24:01-01:00",
            "24:00-01:00",
            "10:60-11:00",
            "1:00-2:00",
            "10:00-10:00",
            "+1:00-02:00",
        ] {
            assert!(parse_window(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_said_last_about_an_hour_counts() {
        let args = |window: Option<&str>, upload, cpu| LimitArgs {
            window: window.map(str::to_owned),
            upload,
            cpu,
            clear: window.is_none(),
        };
        let all = limits(&[], &args(Some("00:00-24:00"), Some(5), None)).unwrap();
        let all = limits(&all, &args(Some("08:00-18:00"), Some(1), Some(50))).unwrap();
        assert_eq!(all.len(), 2);
        let policy = Policy { limits: all.clone(), ..Policy::default() };
        assert_eq!(policy.limit_at(600).and_then(|l| l.upload_bytes_s), Some(1));
        let all = limits(&all, &args(Some("08:00-18:00"), None, None)).unwrap();
        assert_eq!(all.len(), 1, "a window without a limit is free");
        assert!(limits(&all, &args(None, None, None)).unwrap().is_empty());
    }
}
