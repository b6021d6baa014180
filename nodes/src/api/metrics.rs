//! What Prometheus reads. Only what the zone can tell truly; names and units as in docs/api.md. Labels are names that people
//! gave, never ids, hashes or paths: a source is called by the last part of its path.

use std::collections::BTreeMap;
use std::fmt::Write;

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, get, web};
use zoneward_actors::board::StepReport;
use zoneward_actors::engine::calendar::Stands;
use zoneward_consensus::levels::{DAY_MS, Levels};
use zoneward_consensus::model::{Checkpoint, CheckpointState, CopyState, Source, Standing, State, TaskState};
use zoneward_consensus::raft::{Metrics, Role};
use zoneward_consensus::terms::Outlook;
use zoneward_sectors::ids::{NodeId, SectorId, SourceId, TargetId};

use super::{Answer, Shared, views};
use crate::units::show_path;

/// Every metric: name, type, meaning.
pub const METRICS: [(&str, &str, &str); 29] = [
    ("zoneward_build_info", "gauge", "1; the release as a label"),
    ("zoneward_last_checkpoint_timestamp_seconds", "gauge", "The moment that the newest backup of a source is of"),
    (
        "zoneward_last_checkpoint_success",
        "gauge",
        "1 if the newest finished checkpoint backed the source up, 0 if it left it as it was",
    ),
    ("zoneward_checkpoints_total", "counter", "Checkpoints by what came of them"),
    ("zoneward_source_bytes", "gauge", "Bytes of a source's files at its newest backup"),
    ("zoneward_source_files", "gauge", "Files of a source at its newest backup"),
    ("zoneward_copies_wanted", "gauge", "Copies that a source's sectors are to have"),
    ("zoneward_copies_present", "gauge", "Stored copies of that sector of a source's newest backup that has fewest"),
    ("zoneward_sectors", "gauge", "Copies of sectors on a target, by state"),
    ("zoneward_target_up", "gauge", "1 if some node can use the target"),
    ("zoneward_target_used_bytes", "gauge", "Bytes of stored copies on a target"),
    ("zoneward_target_free_bytes", "gauge", "Bytes that a target can still take; absent where nobody tells"),
    (
        "zoneward_target_full_timestamp_seconds",
        "gauge",
        "When a target is full at the rate of the last 30 days; absent while it does not grow, or that is not known",
    ),
    (
        "zoneward_target_cost_per_month",
        "gauge",
        "What a month of a target costs with what lies there now; absent without a price",
    ),
    (
        "zoneward_target_paid_until_timestamp_seconds",
        "gauge",
        "Until when a target is paid for, or lets this zone in; absent where nobody tells",
    ),
    (
        "zoneward_audit_oldest_timestamp_seconds",
        "gauge",
        "When that copy on a target was written or last read, in part or whole, for which this is longest ago",
    ),
    ("zoneward_audit_silent_copies", "gauge", "Copies of a target that did not answer when they were last looked at"),
    ("zoneward_target_paused", "gauge", "1 if a target is given nothing new"),
    ("zoneward_reliability_level", "gauge", "How safe the data is, 1 (best) to 7, as this node sees it"),
    ("zoneward_availability_level", "gauge", "What can be done now, 1 (best) to 7, as this node sees it"),
    ("zoneward_schedule_begun_timestamp_seconds", "gauge", "The moment of its calendar that a schedule began last"),
    (
        "zoneward_schedule_due_timestamp_seconds",
        "gauge",
        "Since when a schedule is due and waits; absent while it does not",
    ),
    ("zoneward_schedule_paused", "gauge", "1 if a schedule is paused"),
    ("zoneward_task_running", "gauge", "Steps that run on this node, by kind"),
    ("zoneward_task_remaining_seconds", "gauge", "Time that the longest of them still takes; absent while unknown"),
    ("zoneward_node_up", "gauge", "1 if the node was heard within five seconds"),
    ("zoneward_node_standby", "gauge", "1 if the node is on standby: it takes no work, and may be off"),
    ("zoneward_raft_term", "gauge", "The term of the consensus"),
    ("zoneward_raft_is_leader", "gauge", "1 if this node decides"),
];
/// The histogram, which [`super::times`] keeps.
pub const REQUESTS: &str = "zoneward_http_request_duration_seconds";

/// Kinds of steps.
const KINDS: [&str; 9] = ["pack", "stage", "upload", "rebuild", "system", "publish", "tidy", "store", "finish"];

/// What it is made from.
struct Figures<'a> {
    version: &'a str,
    state: &'a State,
    raft: &'a Metrics,
    up: BTreeMap<NodeId, bool>,
    steps: Vec<StepReport>,
    levels: Levels,
    stands: BTreeMap<String, Stands>,
    outlooks: BTreeMap<TargetId, Outlook>,
    now_ms: u64,
}

/// The node's metrics. From this device no token is needed.
#[utoipa::path(tag = "health", security(("token" = ["metrics:read"])),
    responses((status = 200, description = "Prometheus text", content_type = "text/plain", body = String)))]
#[get("/metrics")]
pub async fn metrics(shared: web::Data<Shared>) -> Answer {
    let (state, reports) = (shared.node.cluster.view(), shared.reports().await?);
    let now_ms = zoneward_actors::clock::now_ms();
    let up = |id: &NodeId| (*id, *id == shared.node.id() || views::is_up(&reports, *id));
    let figures = Figures {
        version: shared.node.version,
        state: &state,
        raft: &shared.node.cluster.metrics(),
        up: state.nodes.keys().map(up).collect(),
        steps: shared.node.board.report(),
        levels: super::levels::of_now(&shared, &state, &reports),
        stands: super::schedules::stands(&state, &reports),
        outlooks: crate::terms::of_reports(&state, &reports, now_ms),
        now_ms,
    };
    let mut out = figures.text();
    let _ = writeln!(out, "# HELP {REQUESTS} Time that requests took\n# TYPE {REQUESTS} histogram");
    shared.times.write(REQUESTS, &mut out);
    let mut answer = HttpResponse::Ok();
    answer.insert_header((CACHE_CONTROL, "no-store")).content_type("text/plain; version=0.0.4; charset=utf-8");
    Ok(answer.body(out))
}

/// A label's value as the format has it.
fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

/// A name for each source: the last part of its path, with a number where several have the same, by age.
fn source_names(state: &State) -> BTreeMap<SourceId, String> {
    let mut all: Vec<&Source> = state.sources.values().collect();
    all.sort_by_key(|s| (s.added_ms, s.id));
    let mut used: BTreeMap<String, u32> = BTreeMap::new();
    let name = |s: &Source| {
        let last = s.path.rsplit(|b| *b == b'/').find(|p| !p.is_empty());
        last.map_or_else(|| "root".to_owned(), show_path)
    };
    let mut numbered = |s: &&Source| {
        let name = name(s);
        let n = used.entry(name.clone()).or_default();
        *n += 1;
        (s.id, if *n == 1 { name } else { format!("{name}-{n}") })
    };
    all.iter().map(&mut numbered).collect()
}

/// The copies on one target.
#[derive(Default)]
struct OnTarget {
    states: BTreeMap<&'static str, u64>,
    used: u64,
    silent: u64,
    oldest_ms: Option<u64>,
}

/// Samples of one metric: labels and value.
type Samples = Vec<(String, f64)>;

impl Figures<'_> {
    fn text(&self) -> String {
        let mut all = self.of_sources();
        all.extend(self.of_targets());
        all.extend(self.of_schedules());
        all.extend(self.of_node());
        let mut out = String::new();
        for (name, kind, help) in METRICS {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in all.remove(name).unwrap_or_default() {
                let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        }
        out
    }

    fn of_sources(&self) -> BTreeMap<&'static str, Samples> {
        let state = self.state;
        let complete = state.complete();
        let mut stored: BTreeMap<SectorId, u64> = BTreeMap::new();
        for c in state.copies.values().filter(|c| c.is_stored()) {
            *stored.entry(c.sector).or_default() += 1;
        }
        let mut all: BTreeMap<&'static str, Samples> = BTreeMap::new();
        for (id, name) in source_names(state) {
            let labels = label("source", &name);
            let mut put = |metric, value: Option<f64>| {
                all.entry(metric).or_default().extend(value.map(|v| (labels.clone(), v)));
            };
            let newest = complete.iter().rev().find_map(|c| c.tasks.iter().find(|t| t.source == id));
            let success = complete.iter().rev().find_map(|c| looked_at(c, id)).map(|s| f64::from(u8::from(s)));
            put("zoneward_last_checkpoint_timestamp_seconds", newest.map(|t| t.as_of_ms as f64 / 1000.0));
            put("zoneward_last_checkpoint_success", success);
            put("zoneward_source_bytes", newest.map(|t| t.stats.bytes as f64));
            put("zoneward_source_files", newest.map(|t| t.stats.files as f64));
            let wanted = state.sources.get(&id).map(|s| f64::from(state.copies_wanted(s)));
            put("zoneward_copies_wanted", wanted);
            let layers = newest.into_iter().flat_map(|t| &t.layers).filter_map(|l| state.layers.get(l));
            let present = layers.flat_map(|l| &l.parts).map(|p| stored.get(&p.sector).copied().unwrap_or(0)).min();
            put("zoneward_copies_present", present.map(|n| n as f64));
        }
        let abandoned = state.checkpoints.values().filter(|c| c.state == CheckpointState::Abandoned).count();
        let results = [("complete", complete.len()), ("abandoned", abandoned)];
        let results = results.map(|(result, n)| (label("result", result), n as f64));
        all.insert("zoneward_checkpoints_total", results.into());
        all
    }

    fn of_targets(&self) -> BTreeMap<&'static str, Samples> {
        let mut copies: BTreeMap<TargetId, OnTarget> = BTreeMap::new();
        for c in self.state.copies.values() {
            let of = copies.entry(c.target).or_default();
            let word = match c.state {
                CopyState::Open => "open",
                CopyState::Stored => "stored",
                CopyState::Abandoned => "abandoned",
                CopyState::Damaged => "damaged",
                CopyState::Lost => "lost",
            };
            *of.states.entry(word).or_default() += 1;
            if c.is_stored() {
                let proved = c.proved_ms();
                of.used += c.stored_len;
                of.silent += u64::from(c.silent.is_some());
                of.oldest_ms = Some(of.oldest_ms.map_or(proved, |r| r.min(proved)));
            }
        }
        let mut all: BTreeMap<&'static str, Samples> = BTreeMap::new();
        for t in self.state.targets.values() {
            let target = label("target", &t.name);
            let OnTarget { states, used, silent, oldest_ms } = copies.remove(&t.id).unwrap_or_default();
            let mut put = |metric, labels: String, value: f64| all.entry(metric).or_default().push((labels, value));
            if let Some(o) = self.outlooks.get(&t.id) {
                of_outlook(o, &target, self.now_ms, &mut put);
            }
            for word in ["open", "stored", "abandoned", "damaged", "lost"] {
                let n = states.get(word).copied().unwrap_or(0);
                put("zoneward_sectors", format!("{target},{}", label("state", word)), n as f64);
            }
            put("zoneward_target_up", target.clone(), f64::from(u8::from(!t.reached_by.is_empty())));
            put("zoneward_target_used_bytes", target.clone(), used as f64);
            put("zoneward_audit_silent_copies", target.clone(), silent as f64);
            put("zoneward_target_paused", target.clone(), f64::from(u8::from(t.paused)));
            if let Some(ms) = oldest_ms {
                put("zoneward_audit_oldest_timestamp_seconds", target, ms as f64 / 1000.0);
            }
        }
        all
    }

    fn of_schedules(&self) -> BTreeMap<&'static str, Samples> {
        let mut all: BTreeMap<&'static str, Samples> = BTreeMap::new();
        for (name, s) in &self.state.policy.schedules {
            let labels = label("schedule", name);
            let mut put = |metric, value: Option<f64>| {
                all.entry(metric).or_default().extend(value.map(|v| (labels.clone(), v)));
            };
            let due = match self.stands.get(name) {
                Some(Stands::Waits(at, _)) => Some(*at as f64 / 1000.0),
                _ => None,
            };
            put("zoneward_schedule_begun_timestamp_seconds", (s.begun_ms > 0).then(|| s.begun_ms as f64 / 1000.0));
            put("zoneward_schedule_due_timestamp_seconds", due);
            put("zoneward_schedule_paused", Some(f64::from(u8::from(s.paused))));
        }
        let level = |n: u8| vec![(String::new(), f64::from(n))];
        all.insert("zoneward_reliability_level", level(self.levels.reliability.number));
        all.insert("zoneward_availability_level", level(self.levels.availability.number));
        all
    }

    fn of_node(&self) -> BTreeMap<&'static str, Samples> {
        let up = self.up.iter().filter_map(|(id, up)| {
            let n = self.state.nodes.get(id)?;
            Some((label("node", &n.name), f64::from(u8::from(*up))))
        });
        let standby = |n: &zoneward_consensus::model::Node| f64::from(u8::from(n.standing == Standing::Standby));
        let standby = self.state.nodes.values().map(|n| (label("node", &n.name), standby(n)));
        let of = |kind: &'static str| self.steps.iter().filter(move |s| s.kind == kind);
        let running = KINDS.iter().map(|k| (label("kind", k), of(k).count() as f64));
        let left = KINDS.iter().filter_map(|k| {
            let longest = of(k).filter_map(|s| s.seconds_left).max()?;
            Some((label("kind", k), longest as f64))
        });
        let leads = f64::from(u8::from(self.raft.role == Role::Leader));
        BTreeMap::from([
            ("zoneward_build_info", vec![(label("version", self.version), 1.0)]),
            ("zoneward_node_up", up.collect()),
            ("zoneward_node_standby", standby.collect()),
            ("zoneward_task_running", running.collect()),
            ("zoneward_task_remaining_seconds", left.collect()),
            ("zoneward_raft_term", vec![(String::new(), self.raft.term as f64)]),
            ("zoneward_raft_is_leader", vec![(String::new(), leads)]),
        ])
    }
}

/// A target's room, money and time.
fn of_outlook(o: &Outlook, target: &str, now_ms: u64, put: &mut impl FnMut(&'static str, String, f64)) {
    if let Some(free) = o.free_bytes {
        put("zoneward_target_free_bytes", target.to_owned(), free as f64);
    }
    if let Some(days) = o.full_in_days {
        let at = now_ms.saturating_add(days.saturating_mul(DAY_MS)) as f64 / 1000.0;
        put("zoneward_target_full_timestamp_seconds", target.to_owned(), at);
    }
    if let (Some(p), Some(micros)) = (&o.price, o.cost_micros) {
        let labels = format!("{target},{}", label("currency", &p.currency));
        put("zoneward_target_cost_per_month", labels, micros as f64 / 1_000_000.0);
    }
    if let Some(at) = o.paid_until_ms {
        put("zoneward_target_paid_until_timestamp_seconds", target.to_owned(), at as f64 / 1000.0);
    }
}

/// Whether a checkpoint backed a source up; `None` if it did not try.
fn looked_at(c: &Checkpoint, id: SourceId) -> Option<bool> {
    if c.refused.iter().any(|r| r.source == id) {
        return Some(false);
    }
    c.tasks.iter().any(|t| t.source == id && t.state == TaskState::Done).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Words of ours in a text.
    fn names(text: &str) -> BTreeSet<String> {
        let word = |c: char| !(c.is_ascii_lowercase() || c == '_');
        let all = text.split(word).filter(|w| w.starts_with("zoneward_"));
        all.map(|w| ["_bucket", "_sum", "_count"].iter().find_map(|s| w.strip_suffix(s)).unwrap_or(w).to_owned())
            .collect()
    }

    #[test]
    fn every_alert_looks_at_a_metric_that_exists() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let known: BTreeSet<String> =
            METRICS.iter().map(|(n, _, _)| (*n).to_owned()).chain([REQUESTS.to_owned()]).collect();
        let alerts = std::fs::read_to_string(root.join("deploy/alerts.yml")).unwrap();
        let used = names(&alerts);
        assert!(used.len() >= 6, "{used:?}");
        assert!(used.is_subset(&known), "{:?}", used.difference(&known).collect::<Vec<_>>());
        let page = std::fs::read_to_string(root.join("docs/api.md")).unwrap();
        let told = names(&page);
        assert_eq!(told, known);
    }

    #[test]
    fn prometheus_takes_the_alerts() {
        let rules = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/alerts.yml");
        match std::process::Command::new("promtool").args(["check", "rules"]).arg(rules).output() {
            Ok(o) => assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr)),
            // It comes with Debian's package prometheus.
            Err(e) => eprintln!("not tried: promtool: {e}"),
        }
    }

    /// Alerts that compute something fire when they should, and only then.
    #[test]
    fn alerts_fire_when_they_should() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        match std::process::Command::new("promtool")
            .args(["test", "rules", "alerts.test.yml"])
            .current_dir(root)
            .output()
        {
            Ok(o) => assert!(
                o.status.success(),
                "{}{}",
                String::from_utf8_lossy(&o.stdout),
                String::from_utf8_lossy(&o.stderr)
            ),
            Err(e) => eprintln!("not tried: promtool: {e}"),
        }
    }

    #[test]
    fn names_follow_the_rules() {
        for (name, kind, help) in METRICS {
            assert!(name.starts_with("zoneward_") && !help.is_empty(), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        }
        assert_eq!(label("source", "a\"b\\c\n"), "source=\"a\\\"b\\\\c\\n\"");
    }

    #[test]
    fn sources_are_told_apart_without_their_paths() {
        let source = |n: u8, path: &str| Source {
            id: SourceId([n; 16]),
            path: path.into(),
            priority: 0,
            copies: None,
            excludes: Vec::new(),
            exclude_caches: false,
            one_file_system: false,
            added_ms: u64::from(10 - n),
            grounds: Default::default(),
            last_entries: 0,
            nodes: Vec::new(),
            reading: Default::default(),
            write_only: false,
        };
        let all = [source(1, "/home/ann/Documents"), source(2, "/home/bob/Documents"), source(3, "/")];
        let state = State { sources: all.into_iter().map(|s| (s.id, s)).collect(), ..State::default() };
        let names: Vec<String> = source_names(&state).into_values().collect();
        assert_eq!(names, ["Documents-2", "Documents", "root"]);
    }
}
