//! What the zone can do now: decide, take backups, give them back; and whether it goes on if a node fails.

use std::collections::BTreeSet;

use zoneward_sectors::ids::{NodeId, SourceId, TargetId};

use super::content::Content;
use super::{
    Answer, Cause, Finding, Level, SILENT_MS, Seen, about, by_weight, is_gone, node_name, takes_work, target_name,
    worst,
};
use crate::model::{Standing, State};

pub fn level(state: &State, seen: &Seen, content: &Content, now_ms: u64) -> Level {
    let now = Now { state, seen, content, alive: alive(state, seen, now_ms) };
    let mut found = now.of_nodes();
    found.extend(now.of_targets());
    found.extend(now.of_sources());
    found.extend(now.of_content(&found));
    found.extend(content.missing(state).map(|cause| Finding { number: 2, cause }));
    worst(found, Cause::AllWorks)
}

/// Nodes that are heard and that nobody called broken. Without a daemon, that is this one.
fn alive(state: &State, seen: &Seen, now_ms: u64) -> BTreeSet<NodeId> {
    let heard = seen.cluster.as_ref().into_iter().flat_map(|c| &c.heard_ms);
    let fresh = heard.filter(|(_, at)| now_ms.saturating_sub(**at) < SILENT_MS).map(|(n, _)| *n);
    let broken = |n: &NodeId| state.nodes.get(n).is_some_and(|n| n.standing == Standing::Faulty);
    fresh.chain([seen.me]).filter(|n| !broken(n)).collect()
}

struct Now<'a> {
    state: &'a State,
    seen: &'a Seen,
    content: &'a Content,
    alive: BTreeSet<NodeId>,
}

/// How the vote stands.
struct Votes {
    voters: usize,
    heard: usize,
    /// Voters that are not heard or broken.
    down: Vec<NodeId>,
}

impl Votes {
    fn majority(&self) -> usize {
        self.voters / 2 + 1
    }
}

impl Now<'_> {
    fn votes(&self) -> Votes {
        let alone: BTreeSet<NodeId> = [self.seen.me].into();
        let voters = self.seen.cluster.as_ref().map_or(&alone, |c| &c.voters);
        let down: Vec<NodeId> = voters.iter().filter(|v| !self.alive.contains(v)).copied().collect();
        Votes { voters: voters.len(), heard: voters.len() - down.len(), down }
    }

    fn standing(&self, node: NodeId) -> Standing {
        self.state.nodes.get(&node).map_or(Standing::Member, |n| n.standing)
    }

    fn down(&self, node: NodeId) -> Cause {
        Cause::NodeDown { node: node_name(self.state, node), standing: self.standing(node) }
    }

    /// Whether the zone can decide, and what it can spare.
    fn of_nodes(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if self.seen.cluster.is_none() && self.state.nodes.len() > 1 {
            return vec![Finding { number: 5, cause: Cause::NoDaemon }];
        }
        let votes = self.votes();
        let leader = self.seen.cluster.as_ref().is_none_or(|c| c.leader.is_some());
        if votes.heard < votes.majority() {
            let first = votes.down.first().copied().unwrap_or(self.seen.me);
            let (node, standing) = (node_name(self.state, first), self.standing(first));
            let (heard, voters) = (votes.heard, votes.voters);
            found.push(Finding { number: 5, cause: Cause::NoMajority { heard, voters, node, standing } });
        } else if !leader {
            found.push(Finding { number: 4, cause: Cause::Electing });
        }
        let working = self.alive.iter().filter(|n| takes_work(self.state, **n)).count();
        found.extend(self.nobody_works().filter(|_| working == 0));
        let spare = votes.heard.saturating_sub(votes.majority()).min(working.saturating_sub(1));
        let spared = if spare == 0 { 3 } else { 1 };
        let mut down: Vec<NodeId> = self.state.nodes.keys().filter(|n| !self.alive.contains(n)).copied().collect();
        // Who has a vote is missed first.
        down.sort_by_key(|n| !votes.down.contains(n));
        let lost_vote = !votes.down.is_empty();
        for n in &down {
            let counts = votes.down.contains(n) || (takes_work(self.state, *n) && working < 2);
            found.push(Finding { number: if counts { spared } else { 1 }, cause: self.down(*n) });
        }
        if spare == 0 && !lost_vote && working > 0 {
            let cause = match self.state.nodes.len() {
                0 | 1 => Cause::OneNode,
                _ => Cause::FewNodes { voters: votes.voters, working },
            };
            found.push(Finding { number: 3, cause });
        }
        found
    }

    /// What stands against there being a node that takes work.
    fn nobody_works(&self) -> Option<Finding> {
        let with = |s: Standing| self.state.nodes.values().find(move |n| n.standing == s);
        let draining =
            with(Standing::Draining).or_else(|| with(Standing::Standby)).filter(|n| self.alive.contains(&n.id));
        let cause = match (draining, with(Standing::Member)) {
            (None, Some(n)) => self.down(n.id),
            (n, _) => {
                Cause::NobodyWorks { node: n.map_or_else(|| node_name(self.state, self.seen.me), |n| n.name.clone()) }
            }
        };
        Some(Finding { number: 5, cause })
    }

    fn answers(&self, target: TargetId) -> bool {
        self.seen.targets.get(&target) == Some(&Answer::Yes)
    }

    /// Whether backups have somewhere to go.
    fn of_targets(&self) -> Vec<Finding> {
        if self.state.targets.is_empty() {
            return vec![Finding { number: 5, cause: Cause::NoTargets }];
        }
        let usable: Vec<TargetId> = self.state.usable_targets().map(|t| t.id).collect();
        let all = !usable.iter().any(|t| self.answers(*t));
        let mut found = Vec::new();
        if let Some(t) = self.state.targets.values().find(|_| usable.is_empty()) {
            found.push(Finding { number: 5, cause: Cause::AllPaused { target: t.name.clone() } });
        }
        let mut number = if all { 5 } else { 1 };
        for t in self.state.targets.values().filter(|t| !self.answers(t.id)) {
            if t.paused {
                found.push(Finding { number: 1, cause: Cause::TargetAway { target: t.name.clone(), all: false } });
                continue;
            }
            let cause = match self.seen.targets.get(&t.id) {
                Some(Answer::Wrong) => Cause::WrongTarget { target: t.name.clone() },
                _ => Cause::TargetAway { target: t.name.clone(), all },
            };
            found.push(Finding { number, cause });
            number = 1;
        }
        found
    }

    /// Sources that nobody can back up now.
    fn of_sources(&self) -> Vec<Finding> {
        if self.seen.cluster.is_none() && self.state.nodes.len() > 1 {
            return Vec::new();
        }
        let able = |n: &NodeId| self.alive.contains(n) && takes_work(self.state, *n);
        let waiting = by_weight(self.state).into_iter().filter(|s| !s.nodes.is_empty() && !s.nodes.iter().any(able));
        let finding = |s: &crate::model::Source| {
            // Who could be brought back soonest.
            let known = s.nodes.iter().filter_map(|n| self.state.nodes.get(n));
            let best = known.min_by_key(|n| match n.standing {
                Standing::Member => 0,
                Standing::Draining | Standing::Standby => 1,
                Standing::Witness | Standing::Faulty => 2,
            });
            let node =
                best.map_or_else(|| s.nodes.first().map_or_else(String::new, |n| n.to_string()), |n| n.name.clone());
            let standing = best.map(|n| n.standing);
            Finding { number: 3, cause: Cause::SourceWaits { source: about(s), node, standing } }
        };
        waiting.map(finding).collect()
    }

    /// Whether what is stored could be restored now.
    fn of_content(&self, before: &[Finding]) -> Vec<Finding> {
        let stored: Vec<_> =
            by_weight(self.state).into_iter().filter(|s| !self.content.of_source(s.id).versions.is_empty()).collect();
        let mut found = Vec::new();
        for s in &stored {
            if let Some(away) = self.unreadable(s.id) {
                let target = away.map(|t| target_name(self.state, t));
                found.push(Finding {
                    number: 6,
                    cause: Cause::Unreadable { source: about(s), target, gone: is_gone(self.state, s) },
                });
            }
        }
        let undecided = before.iter().find_map(|f| match &f.cause {
            Cause::NoMajority { node, standing, .. } => Some((node.clone(), *standing)),
            _ => None,
        });
        if let Some((node, standing)) = undecided.filter(|_| !stored.is_empty() && found.len() == stored.len()) {
            found.push(Finding { number: 7, cause: Cause::NothingWorks { node, standing } });
        }
        found
    }

    /// If a source's newest content cannot be read in full: a target that would help; none if no target holds it.
    fn unreadable(&self, source: SourceId) -> Option<Option<TargetId>> {
        let held = self.content.of_source(source);
        let needed = held.versions.first().map(|v| held.needs(v)).unwrap_or_default();
        let staged = |s| {
            let mut holders = self.state.sectors.get(s).into_iter().flat_map(|s| s.staged.keys());
            holders.any(|n| self.alive.contains(n))
        };
        let mut bad = needed.iter().filter(|s| !self.content.targets_of(**s).any(|t| self.answers(t)) && !staged(*s));
        // What no target holds is the worse trouble.
        let first = bad.next()?;
        let worst = std::iter::once(first).chain(bad).find(|s| self.content.targets_of(**s).next().is_none());
        Some(self.content.targets_of(*worst.unwrap_or(first)).next())
    }
}
