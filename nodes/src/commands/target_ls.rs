//! `target ls`: the targets, what lies on them, what they cost, until when they are paid for.

use zoneward_actors::guard::Guard;
use zoneward_actors::zone::Zone;
use zoneward_sectors::ids::TargetId;

use super::serving;
use crate::cli::Global;
use crate::daemon::local::Status;
use crate::output::Out;
use crate::terms;
use crate::units::{bytes, local_time, plural, utc_time};

pub fn list(g: &Global, out: Out, zone: &Zone) {
    // What a daemon cannot say is looked at from here.
    let status = serving(g).and_then(|c| c.status().ok());
    let known = terms::of_zone(zone, status.as_ref());
    let mut rows = Vec::new();
    for t in zone.state().targets.values() {
        let Some(o) = known.get(&t.id) else { continue };
        let guard = guard_of(zone, status.as_ref(), t.id);
        let why = zone.unreachable().iter().find(|u| u.target == t.id).map(|u| crate::errors::chain(&u.error));
        let mut row = serde_json::json!({
            "id": t.id, "name": t.name, "url": t.url, "domain": t.domain, "paused": t.paused, "evacuating": t.leaving,
            "left_to_copy": t.leaving.then(|| zone.state().left_on(t.id)), "reachable": why.is_none(), "why": why,
            "protection": guard, "sectors": o.copies, "head": t.pointer.map(|p| p.n),
            "misshown": t.misshown.as_ref().map(|m| serde_json::json!({"at": utc_time(m.at_ms), "what": m.what})),
        });
        if let (Some(row), serde_json::Value::Object(more)) = (row.as_object_mut(), terms::json(o)) {
            row.extend(more);
        }
        rows.push(row);
        let state = why.map_or_else(
            || o.free_bytes.map_or_else(String::new, |f| format!("{} free", bytes(f))),
            |w| format!("NOT REACHABLE: {w}"),
        );
        let state = match zone.state().left_on(t.id) as u64 {
            _ if !t.leaving => state,
            0 => format!("evacuated: zoneward target remove {}", t.name),
            n => format!("evacuating: {} left", plural(n, "sector", "sectors")),
        };
        let (n, used) = (plural(o.copies, "sector", "sectors"), bytes(o.used_bytes));
        out.answer(format!("{:<12} {n:>6}  {used:>9}  {}  {state}", t.name, t.url));
        for line in guard.iter().flat_map(guard_lines) {
            out.answer(format!("{:<12} {line}", ""));
        }
        if let Some(line) = terms::line(o) {
            out.answer(format!("{:<12} {line}", ""));
        }
    }
    for t in zone.state().targets.values() {
        if let Some(m) = &t.misshown {
            out.answer(format!(
                "{}: on {} it showed {}; it got the newest one anew",
                t.name,
                local_time(m.at_ms),
                m.what
            ));
        }
    }
    out.json(&serde_json::json!({"schema": "zoneward.targets/1", "targets": rows}));
}

/// How a target keeps what is removed: as the node found it that looked last, or asked from here; `None`: it does not answer.
fn guard_of(zone: &Zone, status: Option<&Status>, id: TargetId) -> Option<Guard> {
    let told = status.into_iter().flat_map(|s| s.reports.values());
    let newest = told.filter_map(|r| Some((r.at_ms, r.guards.get(&id)?))).max_by_key(|(at, _)| *at);
    newest.map(|(_, guard)| guard.clone()).or_else(|| zoneward_actors::guard::known(&**zone.target(id)?).ok())
}

/// The same in lines; none of a target that just removes.
fn guard_lines(g: &Guard) -> Vec<String> {
    let mut lines = Vec::new();
    if !g.is_plain() {
        lines.push(guard_text(g));
    }
    lines.extend(g.concerns());
    lines
}

pub(crate) fn guard_text(g: &Guard) -> String {
    if let Some(days) = g.kept_days {
        let days = plural(u64::from(days), "day", "days");
        return format!("keeps what is removed for {days} of its own clock; no token shortens that");
    }
    let text = match (g.locks, g.versions) {
        (Some(true), _) => "locks what it holds against removal",
        (_, Some(true)) => "keeps removed versions, and cannot lock them",
        (None, _) | (_, None) => "does not tell whether it locks: these credentials may not ask",
        _ => "removes at once whatever its credentials remove",
    };
    match g.kept {
        0 => text.to_owned(),
        n => format!("{text}; still keeps {}", plural(n, "removed sector", "removed sectors")),
    }
}
