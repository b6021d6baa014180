//! `target ls`: the targets, what lies on them, what they cost, until when they are paid for.

use zoneward_actors::zone::Zone;

use super::serving;
use crate::cli::Global;
use crate::output::Out;
use crate::terms;
use crate::units::{bytes, plural};

pub fn list(g: &Global, out: Out, zone: &Zone) {
    // What a daemon cannot say is looked at from here.
    let status = serving(g).and_then(|c| c.status().ok());
    let known = terms::of_zone(zone, status.as_ref());
    let mut rows = Vec::new();
    for t in zone.state().targets.values() {
        let Some(o) = known.get(&t.id) else { continue };
        let why = zone.unreachable().iter().find(|u| u.target == t.id).map(|u| crate::errors::chain(&u.error));
        let mut row = serde_json::json!({
            "id": t.id, "name": t.name, "url": t.url, "domain": t.domain, "paused": t.paused, "evacuating": t.leaving,
            "left_to_copy": t.leaving.then(|| zone.state().left_on(t.id)), "reachable": why.is_none(), "why": why,
            "sectors": o.copies, "head": t.pointer.map(|p| p.n),
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
        if let Some(line) = terms::line(o) {
            out.answer(format!("{:<12} {line}", ""));
        }
    }
    out.json(&serde_json::json!({"schema": "zoneward.targets/1", "targets": rows}));
}
