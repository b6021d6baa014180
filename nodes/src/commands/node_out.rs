//! `node remove`, `replace` and `wipe`: how a node leaves the zone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hyper::Method;
use zoneward_actors::clock::now_ms;
use zoneward_actors::serve::MemberChange;
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{Standing, State, Wipe};
use zoneward_sectors::ids::NodeId;

use super::node::{LOOK_MS, SILENT_MS, client_failed, need_daemon, show};
use super::{node_by_name, open};
use crate::cli::Global;
use crate::daemon::client::Client;
use crate::daemon::local::Status;
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::{plural, show_path};

/// How long a node that is to go may take to end what it holds.
const DRAIN: Duration = Duration::from_secs(3600);
/// How long a node that is heard may take to wipe its home.
const WIPE: Duration = Duration::from_secs(900);

fn change(client: &Client, change: &MemberChange) -> Result<(), Failure> {
    client.send(Method::POST, "/local/members", change).map_err(client_failed)?;
    Ok(())
}

fn is_heard(status: &Status, node: NodeId) -> bool {
    status.node == node || status.reports.get(&node).is_some_and(|r| now_ms().saturating_sub(r.at_ms) < SILENT_MS)
}

/// What the membership has to go through for a node to leave it.
struct Votes {
    voters: BTreeSet<NodeId>,
    /// Nodes that are heard.
    heard: BTreeSet<NodeId>,
    /// Nodes that could be given a vote.
    able: BTreeSet<NodeId>,
    leader: Option<NodeId>,
}

impl Votes {
    fn of(state: &State, status: &Status) -> Self {
        let heard: BTreeSet<NodeId> = status.members.keys().copied().filter(|n| is_heard(status, *n)).collect();
        let fit =
            |n: &NodeId| state.nodes.get(n).is_some_and(|n| matches!(n.standing, Standing::Member | Standing::Witness));
        let voters: BTreeSet<NodeId> = status.voters.iter().copied().collect();
        let able = heard.iter().copied().filter(|n| fit(n) && !voters.contains(n)).collect();
        Self { voters, heard, able, leader: status.leader }
    }

    /// Whether these voters can decide: each step needs a majority of those before and of those after.
    fn decide(&self, voters: &BTreeSet<NodeId>) -> bool {
        voters.intersection(&self.heard).count() > voters.len() / 2
    }

    /// Whether all steps can be decided, one after another.
    fn works(&self, steps: &[MemberChange]) -> bool {
        let mut now = self.voters.clone();
        self.decide(&now)
            && steps.iter().all(|s| {
                match s {
                    MemberChange::Promote { node } => drop(now.insert(*node)),
                    MemberChange::Demote { node } | MemberChange::Remove { node } => drop(now.remove(node)),
                    MemberChange::Add { .. } => {}
                }
                self.decide(&now)
            })
    }

    /// The way out for a node; `None`: the votes that would be left could not decide anything, not even to take it back. Two
    /// votes are worse than one: with one node fewer they stay odd.
    fn way_out(&self, node: NodeId, last: MemberChange) -> Option<Vec<MemberChange>> {
        if !self.voters.contains(&node) {
            return Some(match last {
                MemberChange::Demote { .. } => Vec::new(),
                last => vec![last],
            });
        }
        let rest: BTreeSet<NodeId> = self.voters.iter().copied().filter(|v| *v != node).collect();
        let mut ways = Vec::new();
        if let (Some(next), false) = (self.able.first(), rest.len() % 2 == 1) {
            // Another takes the vote over.
            ways.push(vec![MemberChange::Promote { node: *next }, last.clone()]);
        }
        if rest.len().is_multiple_of(2) && !rest.is_empty() {
            // One that is not heard is no help to keep.
            let spare = rest.iter().find(|v| !self.heard.contains(v));
            let spare = spare.or_else(|| rest.iter().find(|v| Some(**v) != self.leader));
            if let Some(spare) = spare {
                let demote = MemberChange::Demote { node: *spare };
                ways.push(vec![last.clone(), demote.clone()]);
                ways.push(vec![demote, last.clone()]);
            }
        } else if !rest.is_empty() {
            ways.push(vec![last]);
        }
        ways.into_iter().find(|w| self.works(w))
    }
}

/// How each change is carried out while the node that asks may itself be away from the leader for a moment.
fn walk(client: &Client, steps: &[MemberChange]) -> Result<(), Failure> {
    steps.iter().try_for_each(|s| change(client, s))
}

fn stuck(node: &str) -> Failure {
    Failure::new(2043, exit::REFUSED, format!("without {node}, too few of the nodes that vote are heard"))
        .why("what would be left could decide nothing any more; nothing was changed")
        .help("start the other nodes first (zoneward node ls), or take those out that will not come back")
}

/// Takes a node out: it ends what it holds if it still runs, then nobody listens to it any more.
pub(super) fn remove(g: &Global, out: Out, node: &str, yes: bool) -> Result<i32, Failure> {
    let client = need_daemon(g)?;
    let mut zone = open(g)?;
    let id = node_by_name(zone.state(), node)?;
    not_this(&zone, id)?;
    let only: Vec<String> =
        zone.state().sources.values().filter(|s| s.nodes == [id]).map(|s| show_path(&s.path)).collect();
    if !only.is_empty() && !yes {
        return Err(Failure::new(2025, exit::REFUSED, "only this node can read some sources")
            .why(only.join(", "))
            .help(
                "give them another node (zoneward source add PATH --node NAME), or say --yes: what is stored stays",
            ));
    }
    let status = client.status().map_err(client_failed)?;
    let member = status.members.contains_key(&id);
    let way = Votes::of(zone.state(), &status).way_out(id, MemberChange::Remove { node: id });
    let way = way.ok_or_else(|| stuck(node))?;
    let before = zone.state().nodes.get(&id).map(|n| n.standing).unwrap_or_default();
    if is_heard(&status, id) && matches!(before, Standing::Member | Standing::Draining | Standing::Standby) {
        let begun = before == Standing::Member;
        let drained = drain(&mut zone, out, id).and_then(|()| walk(&client, &way));
        if let Err(failed) = drained {
            return Err(if begun { taken_back(&mut zone, id, node, before, failed) } else { failed });
        }
    } else if member {
        // Cut before, it may be out of the membership and still known.
        walk(&client, &way)?;
    }
    zone.propose(Command::RemoveNode { node: id })?;
    out.say(format!("{node} does not belong to the zone any more: nobody listens to it"));
    if before != Standing::Witness {
        out.say("the zone makes a new secret now, which that node never had");
        let known = zone.state().targets.values().filter(|t| t.credentials.is_some()).map(|t| t.name.clone());
        let known: Vec<String> = known.collect();
        if !known.is_empty() {
            out.say(format!(
                "it knew the credentials of {}: if it is in other hands, change them there and",
                known.join(", ")
            ));
            out.say("tell the zone: zoneward target credentials NAME --credentials-file FILE");
        }
    }
    show(out, &zone, client.status().ok().as_ref());
    Ok(0)
}

fn not_this(zone: &Zone, id: NodeId) -> Result<(), Failure> {
    if id == zone.node() {
        return Err(
            Failure::new(2024, exit::REFUSED, "this is the node that you are on").help("take it out from another node")
        );
    }
    Ok(())
}

/// A removal that failed leaves the node as it was; if that cannot be brought through either, it is said how.
fn taken_back(zone: &mut Zone, id: NodeId, node: &str, before: Standing, failed: Failure) -> Failure {
    let back = zone.propose(Command::SetNode { node: id, name: None, standing: Some(before) });
    match back {
        Ok(()) => failed.help(format!("{node} stays in the zone, as it was; try again")),
        Err(_) => {
            failed.help(format!("{node} stays in the zone and takes no new work: zoneward node drain {node} --undo"))
        }
    }
}

fn drain(zone: &mut Zone, out: Out, id: NodeId) -> Result<(), Failure> {
    let standing = zone.state().nodes.get(&id).map(|n| n.standing);
    if !matches!(standing, Some(Standing::Draining | Standing::Standby)) {
        zone.propose(Command::SetNode { node: id, name: None, standing: Some(Standing::Draining) })?;
    }
    ended(zone, out, |s| s.leases.values().any(|l| l.node == id))
}

/// Waits until a node holds no work.
fn ended(zone: &mut Zone, out: Out, holds: impl Fn(&State) -> bool) -> Result<(), Failure> {
    let (until, stop) = (Instant::now() + DRAIN, crate::interrupt::stop());
    let mut said = false;
    while holds(zone.state()) {
        if !said {
            out.say("it ends what it holds …");
            said = true;
        }
        if Instant::now() > until || stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Failure::new(2026, exit::FAILED, "the node still holds work")
                .help("wait for it, or give it up for broken: zoneward node mark-faulty NAME"));
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
        zone.refresh();
    }
    Ok(())
}

/// A new node takes the place of an old one: what only the old one could read, the new one reads from now on. The old one
/// is taken out, or stays on standby. Cut anywhere, it is said again.
pub(super) fn replace(g: &Global, out: Out, old: &str, new: &str, keep: bool) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    let (old_id, new_id) = (node_by_name(zone.state(), old)?, node_by_name(zone.state(), new)?);
    if old_id == new_id {
        return Err(Failure::new(2001, exit::USAGE, "a node cannot replace itself"));
    }
    let standing = |id| zone.state().nodes.get(&id).map(|n| n.standing);
    if standing(new_id) != Some(Standing::Member) {
        return Err(Failure::new(2044, exit::REFUSED, format!("{new} takes no work"))
            .help(format!("let it: zoneward node drain {new} --undo")));
    }
    if keep && standing(old_id) == Some(Standing::Witness) {
        return Err(
            Failure::new(2021, exit::REFUSED, "a witness holds no work").help("zoneward node remove takes it out")
        );
    }
    let sources: Vec<_> = zone.state().sources.values().filter(|s| s.nodes.contains(&old_id)).cloned().collect();
    for mut source in sources {
        source.nodes.retain(|n| *n != old_id && *n != new_id);
        source.nodes.push(new_id);
        source.nodes.sort();
        out.say(format!("{} is read by {new} from now on", show_path(&source.path)));
        zone.propose(Command::PutSource { source })?;
    }
    let unmapped =
        zone.state().policy.names.iter().filter(|(_, m)| m.nodes.contains_key(&old_id) && m.at(new_id).is_none());
    for (name, _) in unmapped {
        out.say(format!("dfs://{name} lies nowhere on {new} yet: zoneward dfs map {name} PATH --node {new}"));
    }
    if keep {
        zone.propose(Command::SetNode { node: old_id, name: None, standing: Some(Standing::Standby) })?;
        out.say(format!(
            "{old} is on standby: it takes no work and keeps what it has; zoneward node standby {old} --undo takes that back, \
             zoneward node wipe {old} ends it"
        ));
        let status = need_daemon(g)?.status().map_err(client_failed)?;
        show(out, &zone, Some(&status));
        return Ok(0);
    }
    zone.propose(Command::SetNode { node: old_id, name: None, standing: Some(Standing::Faulty) })?;
    drop(zone);
    remove(g, out, old, true)
}

/// Has a node on standby wipe its home, and takes it out. One that is not heard is only taken out.
pub(super) fn wipe(g: &Global, out: Out, node: &str, confirm: Option<&str>) -> Result<i32, Failure> {
    let client = need_daemon(g)?;
    let mut zone = open(g)?;
    let id = node_by_name(zone.state(), node)?;
    not_this(&zone, id)?;
    let known = zone.state().nodes.get(&id).cloned();
    let known = known.ok_or_else(|| Failure::new(2001, exit::FAILED, format!("no node is called {node:?}")))?;
    if !matches!(known.standing, Standing::Standby | Standing::Faulty) {
        return Err(Failure::new(2045, exit::REFUSED, format!("{node} is not on standby"))
            .help(format!("zoneward node replace {node} NEW --keep, or zoneward node standby {node}")));
    }
    let only = zone.state().sources.values().filter(|s| s.nodes == [id]).count();
    if confirm != Some(known.name.as_str()) {
        let sources = plural(only as u64, "source", "sources");
        return Err(Failure::new(2046, exit::REFUSED, "nothing was wiped")
            .why(format!(
                "{node} would delete its keys and all it keeps of the zone, and belong to it no more; {sources} that it alone reads \
                 would be backed up no more. The files of sources and targets stay"
            ))
            .help(format!("zoneward node wipe {node} --confirm {}", known.name)));
    }
    let status = client.status().map_err(client_failed)?;
    let asked = is_heard(&status, id) && known.wipe != Some(Wipe::Done);
    let mut done = known.wipe == Some(Wipe::Done);
    if asked {
        let votes = Votes::of(zone.state(), &status);
        // Without its vote nothing waits for it when it is gone.
        let way = votes.way_out(id, MemberChange::Demote { node: id }).ok_or_else(|| stuck(node))?;
        let staged = |s: &State| s.sectors.values().any(|x| x.staged.contains_key(&id));
        let holds = |s: &State| s.leases.values().any(|l| l.node == id) || staged(s);
        ended(&mut zone, out, |s| known.standing == Standing::Standby && holds(s))?;
        walk(&client, &way)?;
        zone.propose(Command::WipeNode { node: id })?;
        out.say(format!("{node} wipes its home …"));
        done = wait_for_wipe(&client, &mut zone, id)?;
    }
    out.say(match (done, asked) {
        (true, _) => format!("{node} deleted the zone's secret and what it kept"),
        (false, true) => format!(
            "{node} was asked to wipe its home and is not heard any more: look there what it said; zoneward up in that home \
             finishes a wiping that was cut. What it still has opens nothing that comes after"
        ),
        (false, false) => format!("{node} is not heard: what it has stays on it, and opens nothing that comes after"),
    });
    remove(g, out, node, true)
}

/// Answers whether the node said that it did; without a word from it for a while, that it did not.
fn wait_for_wipe(client: &Client, zone: &mut Zone, id: NodeId) -> Result<bool, Failure> {
    let (until, stop) = (Instant::now() + WIPE, crate::interrupt::stop());
    loop {
        zone.refresh();
        match zone.state().nodes.get(&id).map(|n| n.wipe) {
            Some(Some(Wipe::Done)) | None => return Ok(true),
            Some(_) => {}
        }
        if stop.load(std::sync::atomic::Ordering::Relaxed) || Instant::now() > until {
            return Err(Failure::new(2047, exit::FAILED, "the node has not said yet that it is wiped")
                .help("it goes on by itself; the same command again waits for it and takes it out"));
        }
        if !is_heard(&client.status().map_err(client_failed)?, id) {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(i: u8) -> NodeId {
        NodeId([i; 16])
    }

    fn set(of: &[u8]) -> BTreeSet<NodeId> {
        of.iter().map(|i| n(*i)).collect()
    }

    fn votes(voters: &[u8], heard: &[u8], able: &[u8]) -> Votes {
        Votes { voters: set(voters), heard: set(heard), able: set(able), leader: Some(n(1)) }
    }

    #[test]
    fn a_node_leaves_only_where_the_votes_that_stay_can_decide() {
        let out = |v: &Votes, i: u8| v.way_out(n(i), MemberChange::Remove { node: n(i) });
        let (remove, demote) = (|i| MemberChange::Remove { node: n(i) }, |i| MemberChange::Demote { node: n(i) });
        // All are heard: one more loses its vote, and it is not the leader's.
        assert_eq!(out(&votes(&[1, 2, 3], &[1, 2, 3], &[]), 3), Some(vec![remove(3), demote(2)]));
        // It is dead itself: first it goes, then the spare vote.
        assert_eq!(out(&votes(&[1, 2, 3], &[1, 2], &[]), 3), Some(vec![remove(3), demote(2)]));
        // Another voter is dead: its vote goes first, or nothing could be decided half way.
        assert_eq!(out(&votes(&[1, 2, 3], &[1, 2], &[]), 2), Some(vec![demote(3), remove(2)]));
        // Nothing can be decided now.
        assert_eq!(out(&votes(&[1, 2, 3], &[1], &[]), 2), None);
        // Of five two are dead and one more goes.
        assert_eq!(out(&votes(&[1, 2, 3, 4, 5], &[1, 2, 3], &[]), 3), Some(vec![demote(4), remove(3)]));
        // The only vote is handed on, or stays.
        assert_eq!(out(&votes(&[1], &[1, 2], &[2]), 1), Some(vec![MemberChange::Promote { node: n(2) }, remove(1)]));
        assert_eq!(out(&votes(&[1], &[1, 2], &[]), 1), None);
        // Another that can vote takes over.
        let way = out(&votes(&[1, 2, 3], &[1, 2, 3, 4], &[4]), 3);
        assert_eq!(way, Some(vec![MemberChange::Promote { node: n(4) }, remove(3)]));
        // Who has no vote is free to go.
        assert_eq!(out(&votes(&[1, 2, 3], &[1, 2], &[]), 4), Some(vec![remove(4)]));
        assert_eq!(votes(&[1], &[1, 2], &[]).way_out(n(2), demote(2)), Some(vec![]));
    }

    #[test]
    fn each_way_out_can_be_decided_at_every_step() {
        for mask in 0..(1u32 << 10) {
            let of = |shift: u32| (0..5u8).filter(|i| mask >> (shift + u32::from(*i)) & 1 == 1).collect::<Vec<_>>();
            let (voters, heard) = (of(0), of(5));
            let able: Vec<u8> = heard.iter().copied().filter(|i| !voters.contains(i)).collect();
            let v = votes(&voters, &heard, &able);
            for i in &voters {
                if let Some(way) = v.way_out(n(*i), MemberChange::Remove { node: n(*i) }) {
                    assert!(v.works(&way), "{voters:?} {heard:?} {i}: {way:?}");
                    assert!(way.contains(&MemberChange::Remove { node: n(*i) }));
                } else {
                    assert!(!v.decide(&v.voters) || heard.len() < 2 + voters.len() / 2, "{voters:?} {heard:?} {i}");
                }
            }
        }
    }
}
