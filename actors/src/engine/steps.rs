//! What the actors' threads do: claim, do, report, let go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use zoneward_consensus::command::Command;
use zoneward_consensus::decide::{self, Facts};
use zoneward_consensus::keep;
use zoneward_consensus::limits;
use zoneward_consensus::model::{CheckpointKind, CopyState, State};
use zoneward_consensus::plan::Work;
use zoneward_consensus::raft;
use zoneward_sectors::ids::{CheckpointId, NodeId, SourceId};
use zoneward_sectors::pack;

use super::roles::Role;
use super::{backlog, calendar};
use crate::ambient::Ambient;
use crate::backup::{Event, pack_sources};
use crate::board::Running;
use crate::clock::now_ms;
use crate::cluster::CommandError;
use crate::errors::ZoneError;
use crate::node::Node;
use crate::open::Targets;
use crate::retention;
use crate::transcode::{CopyProgress, copy_sector};
use crate::zone::{Authority, Zone};

/// How often figures are taken from a step under way, ms.
pub const METER_MS: u64 = 100;

/// Claims work and does it under the lease. `false`: somebody else was faster.
pub fn claim_and_do(role: Role, node: &Arc<Node>, work: Vec<Work>) -> Result<bool, ZoneError> {
    let claim = Command::Claim { incarnation: node.incarnation, work: work.clone() };
    let state = match node.propose(claim) {
        Ok(state) => state,
        // Another node has it, or it is done by now.
        Err(ZoneError::Command(CommandError::Refused { code, .. })) if code == "held" || code == "state" => {
            return Ok(false);
        }
        Err(e) => return Err(e),
    };
    let lease = state.leases.values().find(|l| l.node == node.id() && l.work == work);
    let Some(epoch) = lease.map(|l| l.epoch) else { return Ok(false) };
    let shown = node.board.show(Running::new(epoch, kind(role, &work), work.clone()));
    let done = node.zone(Some(epoch)).and_then(|mut zone| {
        // A step begins with the state in which it was claimed.
        meter(&shown.running, |progress| step(&mut zone, node, &work, progress))
    });
    drop(shown);
    if done.is_err() {
        work.first().and_then(Work::target).into_iter().for_each(|t| node.doubt(t));
    }
    // Whatever came of it: what is not done is free for the next to claim.
    match node.propose(Command::EndLease { epoch }) {
        Ok(_) | Err(ZoneError::Command(CommandError::Refused { .. })) => {}
        Err(e) => return Err(done.err().unwrap_or(e)),
    }
    done.map(|()| true)
}

fn kind(role: Role, work: &[Work]) -> &'static str {
    match role {
        Role::Rebuilder => "rebuild",
        _ => work.first().map_or("nothing", Work::kind),
    }
}

/// What a step counts while it runs.
struct Progress {
    running: Arc<Running>,
    pack: Arc<pack::Progress>,
    copy: Arc<CopyProgress>,
}

/// Runs a step while its figures are carried to the board, and its stop flag to where it works.
fn meter(running: &Arc<Running>, step: impl FnOnce(&Progress) -> Result<(), ZoneError>) -> Result<(), ZoneError> {
    let pack = Arc::new(pack::Progress { stop: running.stop.clone(), ..pack::Progress::default() });
    let progress = Progress { running: running.clone(), pack, copy: Arc::default() };
    let (end, ended) = crossbeam_channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let wait = Duration::from_millis(METER_MS);
            while ended.recv_timeout(wait) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
                take(&progress);
            }
        });
        let done = step(&progress);
        drop(end);
        done
    })
}

fn take(p: &Progress) {
    let (r, c) = (&p.running, &p.copy);
    c.stop.store(r.stop.load(Ordering::Relaxed), Ordering::Relaxed);
    let total = c.total.load(Ordering::Relaxed);
    if total > 0 {
        r.total.store(total, Ordering::Relaxed);
        r.done.store(c.done.load(Ordering::Relaxed), Ordering::Relaxed);
    } else {
        r.done.store(p.pack.read.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

fn step(zone: &mut Zone, node: &Arc<Node>, work: &[Work], p: &Progress) -> Result<(), ZoneError> {
    match work.first() {
        Some(Work::Pack { checkpoint, .. }) => {
            let sources = work.iter().filter_map(|w| match w {
                Work::Pack { source, .. } => Some(*source),
                _ => None,
            });
            let sources: Vec<_> = sources.collect();
            pack_sources(
                zone,
                *checkpoint,
                &sources,
                node.threads_now(),
                &p.pack,
                &|of| node.answers(of),
                &mut |event| match event {
                    Event::Scanning(path) => p.running.say(format!("scanning {}", path.display())),
                    Event::Scanned(_, counts) => {
                        p.running.total.fetch_add(counts.changed_bytes, Ordering::Relaxed);
                    }
                    Event::Packing { path, .. } => p.running.say(format!("packing {}", path.display())),
                    Event::Finishing => p.running.say("finishing".into()),
                },
            )
        }
        Some(Work::Copy { sector, target }) => {
            let name = zone.state().targets.get(target).map_or_else(String::new, |t| t.name.clone());
            p.running.say(format!("sector {:.8} to {name}", sector.to_string()));
            copy_sector(zone, *sector, *target, node.threads_now(), &p.copy).map(|_| ())
        }
        Some(Work::Stage { sector }) => super::stage::stage(zone, node, *sector, &p.running),
        Some(Work::WriteSystem { checkpoint }) => crate::system::write_system(zone, *checkpoint),
        Some(Work::Audit { .. }) => crate::audit::audit(zone, work, &p.running, &p.copy, &|t| node.doubt(t)),
        Some(Work::Publish { target }) => crate::system::publish(zone, *target),
        Some(Work::RemoveIncoming { .. }) => {
            for w in work {
                if let Work::RemoveIncoming { target, copy } = *w {
                    crate::system::remove_abandoned(zone, target, copy)?;
                }
            }
            Ok(())
        }
        Some(Work::ResumeCheckpoint { .. } | Work::StoreCheckpoint { .. } | Work::FinishCheckpoint { .. }) | None => {
            Ok(())
        }
    }
}

/// Whether this node leads and finds something to decide.
pub fn schedule_is_due(node: &Arc<Node>) -> bool {
    !decide(node).is_empty()
        || handover(node).is_some()
        || !unkept(node).is_empty()
        || (calendar_waits(node) && node.schedules_due(SCHEDULES_EVERY))
        || (leads(node)
            && node.repairs(|r| r.is_due(SCHEDULES_EVERY))
            && repair(node, &all_idle(&node.view())).is_some())
}

/// Nodes are asked so often how busy they are while a schedule waits for them.
const SCHEDULES_EVERY: Duration = Duration::from_secs(5);

/// On the leader: whether a schedule would begin if the nodes were idle. Asks nobody.
fn calendar_waits(node: &Arc<Node>) -> bool {
    if !leads(node) {
        return false;
    }
    let state = node.view();
    calendar::due(&state, now_ms(), &all_idle(&state)).is_some()
}

/// On the leader: begins the schedule that is due, if there is one. `false`: there is none, or it waits.
fn begin_scheduled(node: &Arc<Node>) -> Result<bool, ZoneError> {
    if !calendar_waits(node) {
        return Ok(false);
    }
    let Some(due) = calendar::due(&node.view(), now_ms(), &heard(node)) else { return Ok(false) };
    let checkpoint = (!due.covered).then(CheckpointId::random);
    let command = Command::RunSchedule {
        name: due.name,
        after_ms: due.after_ms,
        due_ms: now_ms(),
        checkpoint,
        sources: due.sources,
    };
    began(node, command)
}

fn began(node: &Arc<Node>, command: Command) -> Result<bool, ZoneError> {
    match node.propose(command) {
        Ok(_) => Ok(true),
        // Another leader was faster, or somebody began a checkpoint by hand.
        Err(ZoneError::Command(CommandError::Refused { .. })) => Ok(false),
        Err(e) => Err(e),
    }
}

fn leads(node: &Arc<Node>) -> bool {
    node.cluster.metrics().role == raft::Role::Leader
}

/// The nodes as if all were there and had nothing to do.
fn all_idle(state: &State) -> BTreeMap<NodeId, Ambient> {
    state.nodes.keys().map(|id| (*id, Ambient::default())).collect()
}

/// How nodes that were heard of late do. Asks them: not from where the actors run.
fn heard(node: &Arc<Node>) -> BTreeMap<NodeId, Ambient> {
    let now = now_ms();
    let fresh = |at_ms: u64| now.saturating_sub(at_ms) < REPORT_FRESH_MS;
    node.reports().into_iter().filter(|(_, r)| fresh(r.at_ms)).map(|(id, r)| (id, r.ambient)).collect()
}

/// What a node said longer ago says nothing of now, ms.
const REPORT_FRESH_MS: u64 = 10_000;

/// What is to be stored anew from its source, because nothing else is left of it.
fn repair(node: &Arc<Node>, nodes: &BTreeMap<NodeId, Ambient>) -> Option<calendar::Repair> {
    let state = node.view();
    node.repairs(|r| calendar::repair(&state, nodes, &r.tried))
}

/// On the leader: begins a checkpoint that stores anew what was lost. Each lost sector brings about one.
fn begin_repair(node: &Arc<Node>) -> Result<bool, ZoneError> {
    if !leads(node) || repair(node, &all_idle(&node.view())).is_none() {
        return Ok(false);
    }
    let Some(calendar::Repair { sources, gone }) = repair(node, &heard(node)) else { return Ok(false) };
    let (checkpoint, checkpoint_kind) = (CheckpointId::random(), CheckpointKind::Incremental);
    let begun = began(node, Command::OpenCheckpoint { checkpoint, checkpoint_kind, sources, allow_empty: false })?;
    if begun {
        node.repairs(|r| r.tried.extend(gone));
    }
    Ok(begun)
}

fn decide(node: &Arc<Node>) -> Vec<decide::Act> {
    let m = node.cluster.metrics();
    let leading = node.leading(|l| l.look(m.role == raft::Role::Leader));
    let Some(leading) = leading else { return Vec::new() };
    let facts = Facts {
        me: node.id(),
        leading,
        silence: m.voters.iter().chain(&m.learners).map(|id| (*id, node.cluster.silence(*id))).collect(),
        deposed: node.cluster.last_leader(),
        voters: m.voters,
        lag: m.lag,
    };
    decide::decide(&node.view(), &facts)
}

/// On the leader: what follows from the state alone.
pub fn schedule(node: &Arc<Node>) -> Result<bool, ZoneError> {
    let mut did = false;
    for act in decide(node) {
        let done = match act {
            decide::Act::Propose(command) => node.propose(command).map(|_| ()),
            decide::Act::Promote(id) => node.cluster.promote(id).map_err(ZoneError::from),
        };
        match done {
            Ok(()) => did = true,
            // The state moved on while this was decided.
            Err(ZoneError::Command(CommandError::Refused { .. })) => {}
            Err(e) => return Err(e),
        }
    }
    if let Some(command) = handover(node) {
        did |= tell(node, command)?;
    }
    did |= retain(node)?;
    // Last: nodes are asked how busy they are, and one that is dead takes its time.
    Ok(begin_scheduled(node)? || begin_repair(node)? || did)
}

/// On the leader: checkpoints that the zone's own rules no longer keep, if they may go without the owner's word.
fn unkept(node: &Arc<Node>) -> Vec<CheckpointId> {
    let state = node.view();
    let leads = node.cluster.metrics().role == raft::Role::Leader;
    if !leads || state.policy.retention.is_none() || state.running().is_some() {
        return Vec::new();
    }
    let due = retention::due(&state);
    if due.is_empty() || keep::held_back(&state, &due).is_some() { Vec::new() } else { due }
}

/// On the leader: the head with which voters that changed hand over to each other.
fn handover(node: &Arc<Node>) -> Option<Command> {
    let leads = node.cluster.metrics().role == raft::Role::Leader;
    let (voters, settled) = node.cluster.electorate();
    if leads && settled { crate::system::handover(&node.view(), &voters) } else { None }
}

fn retain(node: &Arc<Node>) -> Result<bool, ZoneError> {
    let checkpoints = unkept(node);
    if checkpoints.is_empty() {
        return Ok(false);
    }
    tell(node, Command::Forget { checkpoints, now: false, owner: None })
}

/// Says something that the zone may have moved past. Answers whether it counts.
fn tell(node: &Arc<Node>, command: Command) -> Result<bool, ZoneError> {
    match node.propose(command) {
        Ok(_) => Ok(true),
        Err(ZoneError::Command(CommandError::Refused { .. })) => Ok(false),
        Err(e) => Err(e),
    }
}

/// How often a node looks whether its targets still list what the state says they hold, ms.
const CHECK_EVERY_MS: u64 = 3_600_000;

/// Whether this node should look after something now.
pub fn check_is_due(state: &State, node: &Arc<Node>) -> bool {
    !copies_are_due(state, node).is_empty() || waiting_source(state, node).is_some()
}

/// Targets whose copies are to be looked after: the leader does it, each hour.
fn copies_are_due(state: &State, node: &Arc<Node>) -> Targets {
    let leads = node.cluster.metrics().role == raft::Role::Leader;
    if !leads || state.copies.is_empty() {
        return Targets::new();
    }
    node.check_due(Duration::from_millis(CHECK_EVERY_MS))
}

/// A source whose backup is old and that this node should look at.
fn waiting_source(state: &State, node: &Arc<Node>) -> Option<SourceId> {
    let leads = node.cluster.metrics().role == raft::Role::Leader;
    node.parts.as_ref()?;
    backlog::next(state, node.id(), leads, &node.backlog(), now_ms())
}

/// Compares what reachable targets list with what they should hold: a copy that is gone, or has another length, is marked,
/// and one that was given up for lost and is there again counts again.
pub fn check(node: &Arc<Node>) -> Result<bool, ZoneError> {
    let state = node.view();
    if let Some(source) = waiting_source(&state, node) {
        let unknown = backlog::Backlog { source, bytes: None, files: 0, at_ms: now_ms() };
        // One that cannot be read says so in its backup; it is looked at again when its time comes.
        node.found(source, backlog::look(node, source).unwrap_or(Some(unknown)));
    }
    let (mut whole, mut failed) = (Vec::new(), None);
    for (id, target) in copies_are_due(&state, node) {
        // One that fails now is asked again when its time comes.
        node.checked(id);
        let Some(alias) = state.targets.get(&id).map(|t| t.alias) else { continue };
        // What fails here is tried with the next look; what the target lists counts all the same.
        let mut hidden = Vec::new();
        if let Ok((guard, found)) = crate::guard::guard(&state, id, &*target, true, node.guard(id)) {
            hidden = found;
            if !guard.is_plain() {
                node.guarded(id, guard);
            }
        }
        let listed: std::collections::BTreeMap<_, _> = match target.list(alias) {
            Ok(listing) => listing.sectors.into_iter().collect(),
            Err(e) => {
                failed.get_or_insert(e);
                continue;
            }
        };
        for c in state.copies.values().filter(|c| c.target == id && !c.is_open()) {
            let right = listed.get(&c.id) == Some(&c.stored_len);
            match (c.state, right) {
                (CopyState::Stored, true) => whole.push(c.id),
                // Its bytes are there and can be read.
                (CopyState::Stored, false) if hidden.contains(&c.id) => {}
                (CopyState::Stored, false) => mark(node, c.id, CopyState::Lost)?,
                (CopyState::Lost, true) => mark(node, c.id, CopyState::Stored)?,
                _ => {}
            }
        }
        if let Some(command) = crate::freshness::misshown(&state, id, target.as_ref()) {
            tell(node, command)?;
        }
    }
    for some in whole.chunks(limits::VERIFIED_MAX) {
        node.propose(Command::Verified { copies: some.to_vec(), read: false, sampled: false })?;
    }
    match failed {
        Some(e) => Err(e.into()),
        None => Ok(true),
    }
}

fn mark(node: &Arc<Node>, copy: zoneward_sectors::ids::CopyId, state: CopyState) -> Result<(), ZoneError> {
    match node.propose(Command::MarkCopy { copy, state }) {
        // Another copy took its place meanwhile.
        Ok(_) | Err(ZoneError::Command(CommandError::Refused { .. })) => Ok(()),
        Err(e) => Err(e),
    }
}
