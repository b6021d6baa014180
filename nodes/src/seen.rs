//! What this moment shows of a zone's nodes and targets: what its levels are computed from beside the state.

use std::collections::BTreeMap;

use zoneward_actors::node::{Node, NodeReport};
use zoneward_actors::zone::Zone;
use zoneward_consensus::levels::{Answer, Cluster, DAY_MS, SILENT_MS, Seen};
use zoneward_consensus::model::{Standing, State};
use zoneward_sectors::ids::{NodeId, SourceId, TargetId};
use zoneward_targets::TargetError;

use crate::daemon::local::Status;

/// What is seen from here, and what the daemon's neighbours say of the targets.
pub fn seen(zone: &Zone, status: Option<&Status>, now_ms: u64) -> Seen {
    let state = zone.state();
    let answer = |t: &TargetId| {
        let away = status.and_then(|s| s.reports.get(&s.node)).is_some_and(|r| r.away.contains_key(t));
        if (zone.target(*t).is_some() && !away)
            || status.is_some_and(|s| others_say(state, &s.reports, s.node, *t, now_ms))
        {
            return Answer::Yes;
        }
        let wrong = |e: &TargetError| matches!(e, TargetError::BadMarker { .. } | TargetError::OtherTarget { .. });
        let why = zone.unreachable().iter().find(|u| u.target == *t).map(|u| &u.error);
        if why.is_some_and(wrong) { Answer::Wrong } else { Answer::Away }
    };
    let cluster = status.map(|s| Cluster {
        leader: s.leader,
        voters: s.voters.iter().copied().collect(),
        heard_ms: s.reports.iter().map(|(n, r)| (*n, r.at_ms)).collect(),
    });
    Seen {
        me: status.map_or_else(|| zone.node(), |s| s.node),
        cluster,
        targets: state.targets.keys().map(|t| (*t, answer(t))).collect(),
        unsaved: status.map(|s| unsaved(&s.reports, now_ms)).unwrap_or_default(),
    }
}

/// What a node that serves the zone sees: for answers that are given without a handle on the targets.
pub fn of_node(node: &Node, state: &State, reports: &BTreeMap<NodeId, NodeReport>, now_ms: u64) -> Seen {
    let m = node.cluster.metrics();
    let answer = |t: &TargetId| {
        let here = node.reaches(*t) || others_say(state, reports, node.id(), *t, now_ms);
        if here { Answer::Yes } else { Answer::Away }
    };
    let cluster = Cluster {
        leader: m.leader,
        voters: m.voters.iter().copied().collect(),
        heard_ms: reports.iter().map(|(n, r)| (*n, r.at_ms)).collect(),
    };
    Seen {
        me: node.id(),
        cluster: Some(cluster),
        targets: state.targets.keys().map(|t| (*t, answer(t))).collect(),
        unsaved: unsaved(reports, now_ms),
    }
}

/// What waits in sources, as far as nodes have looked within the last day. A new file without content waits too.
fn unsaved(reports: &BTreeMap<NodeId, NodeReport>, now_ms: u64) -> BTreeMap<SourceId, u64> {
    let found = reports.values().flat_map(|r| &r.backlog);
    let found = found.filter(|b| now_ms.saturating_sub(b.at_ms) < DAY_MS);
    found.filter_map(|b| Some((b.source, b.bytes?.max(u64::from(b.files > 0))))).collect()
}

/// Whether another node that is heard and can hold data says that it can use a target.
fn others_say(
    state: &State,
    reports: &BTreeMap<NodeId, NodeReport>,
    me: NodeId,
    target: TargetId,
    now_ms: u64,
) -> bool {
    let Some(t) = state.targets.get(&target) else { return false };
    reports.values().any(|r| {
        let able =
            state.nodes.get(&r.node).is_some_and(|n| matches!(n.standing, Standing::Member | Standing::Draining));
        let fresh = r.node != me && now_ms.saturating_sub(r.at_ms) < SILENT_MS;
        able && fresh && t.reached_by.contains(&r.node) && !r.away.contains_key(&target)
    })
}
