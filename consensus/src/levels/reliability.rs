//! What each possible loss would cost: the level is that of the worst.
//!
//! Nothing is guessed from settings: each loss is carried out on what is stored, and it is seen what could be restored.

use std::collections::{BTreeMap, BTreeSet};

use zoneward_sectors::ids::{NodeId, TargetId};

use super::content::{Content, Held, Version};
use super::{
    Answer, Cause, DAY_MS, Finding, IMPORTANT, Level, Seen, WEEK_MS, about, by_weight, is_gone, node_name, target_name,
    worst,
};
use crate::model::{RefusedSource, Source, Standing, State, Target, TaskState};

/// A failure domain that is this name, or begins with it and a `/`, is at the zone's own place.
const OWN_SITE: &str = "site";

/// The level, with `now_ms` no earlier than the zone's own time.
pub fn level(state: &State, seen: &Seen, content: &Content, now_ms: u64) -> Level {
    let world = World::of(state, seen, content, now_ms);
    let mut found = world.of_zone();
    let mut lost = 0;
    for s in by_weight(state) {
        let (cause, all) = world.of_source(s);
        lost += usize::from(all);
        found.extend(cause);
        found.extend(world.of_last_backup(s));
    }
    if lost > 0 && lost == state.sources.len() {
        found.push(Finding { number: 7, cause: Cause::AllLost });
    }
    worst(found, Cause::AllSurvives)
}

/// Whether a source's own files are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Original {
    There,
    /// The last backup could not read it.
    Doubtful,
    /// A person said that its nodes are broken, or took them out.
    Gone,
}

/// What is lost at once.
#[derive(Debug, Default)]
struct Loss {
    targets: BTreeSet<TargetId>,
    /// Nothing of the zone's state is left but what lies on targets.
    state: bool,
}

/// What a loss costs of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    /// At most what changed within a day.
    Little,
    /// The changes of so long a time, ms.
    Changes(u64),
    Everything,
}

/// The zone as losses find it.
struct World<'a> {
    state: &'a State,
    seen: &'a Seen,
    content: &'a Content,
    now_ms: u64,
    /// Targets in whose place something else lies: nothing on them counts.
    wrong: BTreeSet<TargetId>,
    /// On-site targets by the node that they are attached to; `None`: it is not known to which.
    attached: BTreeMap<Option<NodeId>, BTreeSet<TargetId>>,
    on_site: BTreeSet<TargetId>,
    domains: BTreeMap<&'a str, BTreeSet<TargetId>>,
}

/// Whether a URL leads to this very device.
fn is_loopback(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let place = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let host = match place.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => place.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a target stands where the zone stands. A folder does, and a server at an address of this device, unless the failure
/// domain names another place.
pub fn is_on_site(t: &Target) -> bool {
    match &t.domain {
        Some(d) => d == OWN_SITE || d.strip_prefix(OWN_SITE).is_some_and(|rest| rest.starts_with('/')),
        None => t.url.starts_with("file:") || is_loopback(&t.url),
    }
}

impl<'a> World<'a> {
    fn of(state: &'a State, seen: &'a Seen, content: &'a Content, now_ms: u64) -> Self {
        let wrong = seen.targets.iter().filter(|(_, a)| **a == Answer::Wrong).map(|(t, _)| *t).collect();
        let mut world = Self {
            state,
            seen,
            content,
            now_ms,
            wrong,
            attached: BTreeMap::new(),
            on_site: BTreeSet::new(),
            domains: BTreeMap::new(),
        };
        for t in state.targets.values() {
            if let Some(d) = &t.domain {
                world.domains.entry(d).or_default().insert(t.id);
            }
            if !is_on_site(t) {
                continue;
            }
            world.on_site.insert(t.id);
            // What several nodes can use is a device of its own. So is what has an address of its own.
            if t.url.starts_with("file:") && t.reached_by.len() < 2 {
                let only = state.nodes.keys().next().copied().filter(|_| state.nodes.len() == 1);
                world.attached.entry(t.reached_by.first().copied().or(only)).or_default().insert(t.id);
            }
        }
        world
    }

    /// What concerns no source in particular.
    fn of_zone(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if self.state.targets.is_empty() {
            found.push(Finding { number: 3, cause: Cause::NoTargets });
        } else if self.state.sources.is_empty() {
            found.push(Finding { number: 3, cause: Cause::NoSources });
        }
        for t in &self.wrong {
            found.push(Finding { number: 1, cause: Cause::WrongTarget { target: target_name(self.state, *t) } });
        }
        let (damaged, before) = (self.content.damaged(self.state), self.content.damaged_before(self.state));
        if damaged.0 > 0 {
            let targets = damaged.1.iter().map(|t| target_name(self.state, *t)).collect();
            found.push(Finding { number: 1, cause: Cause::CopiesDamaged { copies: damaged.0, targets } });
        }
        found.extend(self.content.unaudited(self.state, self.now_ms).map(|cause| Finding { number: 1, cause }));
        if before > 0 {
            found.push(Finding { number: 1, cause: Cause::OlderDamaged { sectors: before } });
        }
        found.extend(self.content.missing(self.state).map(|cause| Finding { number: 1, cause }));
        found
    }

    /// What the last backup says of a source: what it could not read, and what it had to leave.
    fn of_last_backup(&self, s: &Source) -> Vec<Finding> {
        let mut found = Vec::new();
        let newest =
            self.state.complete().into_iter().rev().find_map(|c| c.tasks.iter().find(|t| t.source == s.id)).cloned();
        if let Some(t) = newest.filter(|t| t.stats.unread > 0) {
            let first = t.warnings.first().cloned().unwrap_or_default();
            // A few paths are not the zone: what they cost is told, and where.
            let cause = Cause::Unread { source: about(s), paths: t.stats.unread, first };
            found.push(Finding { number: 2, cause });
        }
        match self.original(s) {
            (Original::Gone, _) => {
                let node = s.nodes.first().map_or_else(String::new, |n| node_name(self.state, *n));
                found.push(Finding { number: 1, cause: Cause::OriginalGone { source: about(s), node } });
            }
            (Original::Doubtful, Some(r)) => {
                let cause = Cause::Refused { source: about(s), code: r.code, why: r.why.clone() };
                found.push(Finding { number: 1, cause });
            }
            _ => {}
        }
        found
    }

    fn original(&self, s: &Source) -> (Original, Option<&'a RefusedSource>) {
        if is_gone(self.state, s) {
            return (Original::Gone, None);
        }
        for c in self.state.complete().into_iter().rev() {
            if let Some(r) = c.refused.iter().find(|r| r.source == s.id) {
                return (Original::Doubtful, Some(r));
            }
            if c.tasks.iter().any(|t| t.source == s.id && t.state == TaskState::Done) {
                break;
            }
        }
        (Original::There, None)
    }

    /// What it costs to lose a source's files together with `loss`.
    fn cost(&self, s: &Source, held: &Held, original: Original, loss: &Loss) -> Cost {
        let left = |t: TargetId| !loss.targets.contains(&t) && !self.wrong.contains(&t);
        let told = if loss.state { self.content.told_by(self.state, left) } else { u64::MAX };
        let there = |sector| self.content.targets_of(sector).any(left);
        let Some(newest) = held.versions.first() else { return Cost::Everything };
        let Some(v) = held.newest_of(there, |v| v.seq <= told) else { return Cost::Everything };
        let known_whole = v.seq == newest.seq && self.seen.unsaved.get(&s.id) == Some(&0);
        // What is gone changes no more.
        let until = if original == Original::Gone || known_whole { newest.as_of_ms } else { self.now_ms };
        match until.saturating_sub(v.as_of_ms) {
            0..=DAY_MS => Cost::Little,
            age => Cost::Changes(age),
        }
    }

    /// The worst that a loss may do to a source, and whether nothing of it is left now.
    fn of_source(&self, s: &Source) -> (Option<Finding>, bool) {
        let held = self.content.of_source(s.id);
        let (original, _) = self.original(s);
        let cost = |loss: &Loss| self.cost(s, held, original, loss);
        let found = |number: u8, cause: Cause| (Some(Finding { number, cause }), false);
        let own = cost(&Loss::default());
        if original == Original::Gone {
            // Nothing will bring its newest content again.
            if own != Cost::Little || held.versions.first().is_none_or(|v| !self.is_whole(held, v)) {
                let cause = Cause::Lost { source: about(s) };
                return (Some(Finding { number: 6, cause }), own == Cost::Everything);
            }
        } else if let Some(number) = of_disk(own, s) {
            // Its own disk may fail.
            return found(number, self.why_own(s, held, own));
        } else if held.versions.first().is_some_and(|v| !self.is_whole(held, v)) {
            // What is whole is not a day old yet; but no later backup will mend this by itself.
            return found(3, Cause::StoredInPart { source: about(s) });
        }
        if original != Original::There {
            // Its copies are all there is for sure: each target's disk may fail.
            let each = self.state.targets.keys().filter_map(|t| {
                let loss = Loss { targets: [*t].into(), state: false };
                Some((of_disk(cost(&loss), s)?, *t))
            });
            if let Some((number, t)) = each.max() {
                return found(number, Cause::OneDisk { source: about(s), target: target_name(self.state, t) });
            }
        }
        if let Some(device) = self.devices(s, original).find(|(_, loss)| cost(loss) != Cost::Little) {
            return found(3, Cause::OneDevice { source: about(s), device: device.0 });
        }
        let site = Loss { targets: self.on_site.clone(), state: true };
        if cost(&site) != Cost::Little {
            return found(2, Cause::OneSite { source: about(s) });
        }
        (None, false)
    }

    /// Whether a copy is left of every sector that a version needs.
    fn is_whole(&self, held: &Held, version: &Version) -> bool {
        let mut all = held.needs(version).into_iter();
        all.all(|sector| self.content.targets_of(sector).any(|t| !self.wrong.contains(&t)))
    }

    /// Why the loss of a source's own disk would cost too much.
    fn why_own(&self, s: &Source, held: &Held, cost: Cost) -> Cause {
        let source = about(s);
        match (held.versions.first(), cost) {
            (None, _) => Cause::NeverStored { source },
            (Some(newest), Cost::Changes(age_ms)) if self.is_whole(held, newest) => Cause::Stale { source, age_ms },
            _ => Cause::StoredInPart { source },
        }
    }

    /// The devices whose loss could touch a source, by name: those that its files lie in, or, where these do not count,
    /// all.
    fn devices(&self, s: &Source, original: Original) -> impl Iterator<Item = (String, Loss)> {
        let unknown = self.attached.get(&None).cloned().unwrap_or_default();
        let alone = self.state.nodes.len() == 1;
        let mine = move |n: &NodeId| {
            let own = s.nodes == [*n] || (s.nodes.is_empty() && alone);
            own || original != Original::There
        };
        let nodes = self.state.nodes.values().filter(move |n| mine(&n.id)).map(move |n| {
            let mut targets = self.attached.get(&Some(n.id)).cloned().unwrap_or_default();
            targets.extend(unknown.iter().copied());
            let keeps = |k: &crate::model::Node| k.id != n.id && k.standing != Standing::Faulty && k.wipe.is_none();
            (n.name.clone(), Loss { targets, state: !self.state.nodes.values().any(keeps) })
        });
        let domains = self.domains.iter().filter(move |_| original != Original::There);
        nodes.chain(domains.map(|(d, t)| ((*d).to_owned(), Loss { targets: t.clone(), state: false })))
    }
}

/// The level that the loss of one disk leads to, if it costs too much.
fn of_disk(cost: Cost, s: &Source) -> Option<u8> {
    match cost {
        Cost::Little => None,
        Cost::Changes(age) if age <= WEEK_MS => Some(3),
        Cost::Changes(_) | Cost::Everything => Some(if s.priority >= IMPORTANT { 5 } else { 4 }),
    }
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn an_address_of_this_device_is_no_other_place() {
        for here in
            ["zoneward://127.0.0.1:7440/", "s3+http://localhost/b", "sftp://ann@[::1]:22/x", "webdav://u@127.9.0.1?x"]
        {
            assert!(is_loopback(here), "{here}");
        }
        for away in [
            "zoneward://127.example.org/",
            "https://10.0.0.1/127.0.0.1",
            "s3://localhosts/b",
            "file:///x",
            "sftp://[fe80::1]/",
        ] {
            assert!(!is_loopback(away), "{away}");
        }
    }
}
