//! How much new data waits where the last backup is old: each node looks at the sources that it reads.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zoneward_consensus::model::{CheckpointKind, Source, State, TaskState};
use zoneward_sectors::ids::{NodeId, SourceId};

use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::node::Node;
use crate::survey::{Base, Compare, located, survey};
use crate::zone::{Authority, Zone};

/// A backup older than this is overdue, ms.
pub const OVERDUE_MS: u64 = 24 * 3_600_000;
/// A source that is overdue is looked at so often, ms: that reads all its names.
const EVERY_MS: u64 = 6 * 3_600_000;
/// Bytes of new data that are worth a word.
pub const MUCH_LEN: u64 = 1 << 30;

/// What waits in one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    pub source: SourceId,
    /// Bytes of new and changed files; `None`: it could not be looked at.
    pub bytes: Option<u64>,
    /// New and changed files.
    pub files: u64,
    pub at_ms: u64,
}

/// When a source was last looked at by a complete checkpoint; before that, when it was added.
pub fn backed_up_ms(state: &State, source: &Source) -> u64 {
    let tasks = state.complete().into_iter().flat_map(|c| &c.tasks);
    tasks
        .filter(|t| t.source == source.id && t.state == TaskState::Done)
        .map(|t| t.as_of_ms)
        .max()
        .unwrap_or(source.added_ms)
}

/// The source that a node should look at next: overdue, read by it, and not looked at for long.
pub fn next(state: &State, me: NodeId, leads: bool, known: &[Backlog], now_ms: u64) -> Option<SourceId> {
    let overdue = |s: &&Source| now_ms.saturating_sub(backed_up_ms(state, s)) > OVERDUE_MS;
    // What all nodes can read, the leader looks at.
    let mine = |s: &&Source| if s.nodes.is_empty() { leads } else { s.nodes.first() == Some(&me) };
    let stale =
        |s: &&Source| known.iter().find(|b| b.source == s.id).is_none_or(|b| now_ms.saturating_sub(b.at_ms) > EVERY_MS);
    // While a checkpoint is being made, disks have enough to do.
    if state.running().is_some() {
        return None;
    }
    state.sources.values().filter(mine).filter(overdue).find(stale).map(|s| s.id)
}

/// Counts what is new in a source since its last backup. Reads names and times, no content.
pub fn look(node: &Arc<Node>, id: SourceId) -> Result<Option<Backlog>, ZoneError> {
    let zone: Zone = node.zone(None)?;
    let state = node.view();
    let Some(source) = state.sources.get(&id) else { return Ok(None) };
    let live = located(&state, node.id(), source)?;
    let opener = zone.opener();
    // What only the owner can read, and this node does not keep, it cannot be compared with.
    if !zone.catalogs(&opener).are_open(&state.base_chain(id, CheckpointKind::Incremental)) {
        return Ok(Some(Backlog { source: id, bytes: None, files: 0, at_ms: now_ms() }));
    }
    let entries = zone.catalogs(&opener).entries(&state.base_chain(id, CheckpointKind::Incremental))?;
    let base = Base { entries, gone: Arc::default() };
    let found = survey(source, &live, &live, base, Compare::Changes, node.threads_now(), &node.stop)?;
    let (bytes, files) = (Some(found.counts.changed_bytes), found.counts.new + found.counts.changed);
    Ok(Some(Backlog { source: id, bytes, files, at_ms: now_ms() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn source(i: u8, nodes: &[u8]) -> Source {
        Source {
            id: SourceId([i; 16]),
            path: format!("/{i}").into_bytes(),
            priority: 0,
            copies: None,
            excludes: Vec::new(),
            exclude_caches: false,
            one_file_system: false,
            added_ms: 1000,
            grounds: Default::default(),
            last_entries: 0,
            nodes: nodes.iter().map(|n| NodeId([*n; 16])).collect(),
            reading: Default::default(),
            write_only: false,
        }
    }

    #[test]
    fn each_overdue_source_is_looked_at_by_one_node_and_not_too_often() {
        let sources: BTreeMap<_, _> = [source(1, &[]), source(2, &[2])].into_iter().map(|s| (s.id, s)).collect();
        let state = State { sources, ..State::default() };
        let (one, two) = (NodeId([1; 16]), NodeId([2; 16]));
        let now = 1000 + OVERDUE_MS;
        assert_eq!(next(&state, one, true, &[], now), None, "not a moment too early");
        let now = now + 1;
        assert_eq!(next(&state, one, true, &[], now), Some(SourceId([1; 16])));
        assert_eq!(next(&state, one, false, &[], now), None);
        assert_eq!(next(&state, two, false, &[], now), Some(SourceId([2; 16])));
        let known = [Backlog { source: SourceId([2; 16]), bytes: Some(0), files: 0, at_ms: now }];
        assert_eq!(next(&state, two, false, &known, now + EVERY_MS), None);
        assert_eq!(next(&state, two, false, &known, now + EVERY_MS + 1), Some(SourceId([2; 16])));
    }
}
