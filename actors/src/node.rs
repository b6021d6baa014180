//! A node at work: its place in the cluster, the targets it reaches, and what it works on. The actors share it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use zoneward_consensus::command::Command;
use zoneward_consensus::effect::took_effect;
use zoneward_consensus::model::{Head, State};
use zoneward_consensus::plan::staged_in_vain;
use zoneward_consensus::raft::Role;
use zoneward_consensus::terms::Told;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CopyId, NodeId, SectorId, SourceId, TargetId};
use zoneward_sectors::sector_reader::SectorIn;
use zoneward_transport::kind;

use crate::ambient::{Ambient, Watch};
use crate::board::{Board, StepReport};
use crate::clock::now_ms;
use crate::cluster::{Cluster, CommandError};
use crate::engine::backlog::Backlog;
use crate::errors::ZoneError;
use crate::guard::Guard;
use crate::home::io_at;
use crate::open::{Targets, chain};
use crate::serve::ReadCopy;
use crate::zone::{Authority, Zone, ZoneParts, open_target};

/// Wait before a command is tried again, ms: doubled up to [`RETRY_MS_MAX`].
const RETRY_MS: u64 = 50;
const RETRY_MS_MAX: u64 = 200;
/// How long another node may take to say how it does, ms.
const REPORT_MS: u64 = 1_000;
/// Without a leader for so long, a node looks whether it still belongs to the zone, ms.
const REMOVED_MS: u64 = 4_000;
/// How often a target behind a network is asked whether it is there, ms: each question may cost money.
const REMOTE_LOOK_MS: u64 = 60_000;

/// A node at work.
pub struct Node {
    pub cluster: Arc<Cluster>,
    /// What its work needs; a witness has none of it.
    pub parts: Option<ZoneParts>,
    /// The number of this start.
    pub incarnation: u64,
    pub version: &'static str,
    /// Threads that a step may use.
    pub threads: usize,
    pub board: Arc<Board>,
    /// Set when the process is to end.
    pub stop: Arc<AtomicBool>,
    pub started_ms: u64,
    /// The invites that were let out here.
    pub desk: crate::join::Desk,
    /// The restores that this node was asked for.
    pub restores: crate::restorer::Restores,
    reach: Mutex<Reach>,
    heard: Mutex<BTreeMap<NodeId, NodeReport>>,
    /// When the others were last asked.
    asked: Mutex<Option<Instant>>,
    leading: Mutex<Leading>,
    /// Why the zone does not take this start.
    refused: Mutex<Option<String>>,
    /// The last look at the others found that they do not take this node's key.
    strange: AtomicBool,
    /// What the machine does besides.
    ambient: Mutex<(Watch, Ambient)>,
    /// What waits in sources whose last backup is old, as this node found it.
    backlog: Mutex<Vec<Backlog>>,
    /// When schedules were last looked at.
    scheduled: Mutex<Option<Instant>>,
    /// What was stored anew because nothing was left of it.
    repairs: Mutex<Repairs>,
    /// When the copies on each target were last looked after from here.
    checked: Mutex<BTreeMap<TargetId, Instant>>,
    /// How targets keep what is removed, where it was looked at from here.
    guards: Mutex<BTreeMap<TargetId, Guard>>,
    /// When the zone was last told how much time passed.
    credited: Mutex<Option<Instant>>,
}

/// What a leader did about sectors that nothing is left of.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    /// A checkpoint was begun for these.
    pub tried: BTreeSet<SectorId>,
    looked: Option<Instant>,
}

impl Repairs {
    /// Whether it was last looked at longer ago than `period`; then it counts as looked at.
    pub fn is_due(&mut self, period: Duration) -> bool {
        let due = self.looked.is_none_or(|at| at.elapsed() > period);
        if due {
            self.looked = Some(Instant::now());
        }
        due
    }
}

/// The targets as this node finds them.
#[derive(Default)]
struct Reach {
    open: Targets,
    away: BTreeMap<TargetId, String>,
    /// When targets behind a network were last asked.
    asked: BTreeMap<TargetId, Instant>,
    /// What each told of its room, price and time.
    told: BTreeMap<TargetId, Told>,
    /// The URL and the credentials that each was opened with.
    opened_as: BTreeMap<TargetId, (String, Option<String>)>,
}

/// How a node does, as it says itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    pub node: NodeId,
    pub version: String,
    pub incarnation: u64,
    pub started_ms: u64,
    /// When it said so, by the clock of the node that asked.
    pub at_ms: u64,
    pub role: String,
    pub term: u64,
    pub applied: u64,
    pub steps: Vec<StepReport>,
    /// Targets that it cannot use, and why.
    pub away: BTreeMap<TargetId, String>,
    /// What its machine does besides.
    #[serde(default)]
    pub ambient: Ambient,
    /// What waits in sources that it looked at.
    #[serde(default)]
    pub backlog: Vec<Backlog>,
    /// What targets told it of their room, price and time.
    #[serde(default)]
    pub told: BTreeMap<TargetId, Told>,
    /// How targets keep what is removed, where it looked at that.
    #[serde(default)]
    pub guards: BTreeMap<TargetId, Guard>,
}

/// How often a node asks the others at least.
const HEAR_EVERY: Duration = Duration::from_secs(30);
/// How often a node tells how much time passed: a twentieth of the grace, within these.
const CREDIT_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// Raft's roles as people read them.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Learner => "learner",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Stopped => "stopped",
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.id())
    }
}

impl Node {
    pub fn new(
        cluster: Arc<Cluster>,
        parts: Option<ZoneParts>,
        incarnation: u64,
        version: &'static str,
        threads: usize,
    ) -> Self {
        Self {
            cluster,
            parts,
            incarnation,
            version,
            threads,
            board: Arc::default(),
            stop: Arc::default(),
            started_ms: now_ms(),
            desk: crate::join::Desk::default(),
            restores: crate::restorer::Restores::default(),
            reach: Mutex::default(),
            heard: Mutex::default(),
            asked: Mutex::default(),
            leading: Mutex::default(),
            refused: Mutex::default(),
            strange: AtomicBool::default(),
            ambient: Mutex::default(),
            backlog: Mutex::default(),
            scheduled: Mutex::default(),
            repairs: Mutex::default(),
            checked: Mutex::default(),
            guards: Mutex::default(),
            credited: Mutex::default(),
        }
    }

    pub fn id(&self) -> NodeId {
        self.cluster.node()
    }

    /// A handle on the zone that works under a lease, or under none.
    pub fn zone(self: &Arc<Self>, epoch: Option<u64>) -> Result<Zone, ZoneError> {
        let targets = lock(&self.reach).open.clone();
        let parts = self.parts.as_ref().ok_or(ZoneError::Witness)?;
        parts.handle(self.clone(), epoch, targets)
    }

    /// Whether this node can use a target now.
    pub fn reaches(&self, target: TargetId) -> bool {
        lock(&self.reach).open.contains_key(&target)
    }

    /// The targets that this node can use now.
    pub fn reached(&self) -> Targets {
        lock(&self.reach).open.clone()
    }

    /// The targets that it cannot use, and why.
    pub fn away(&self) -> BTreeMap<TargetId, String> {
        lock(&self.reach).away.clone()
    }

    /// Opens the targets that are new, tries those again that were away, and lets go of those that do not answer.
    pub fn look_at_targets(&self) {
        let Some(parts) = &self.parts else { return };
        let view = self.cluster.view();
        let (known, away, asked, told, opened_as) = {
            let reach = lock(&self.reach);
            (reach.open.clone(), reach.away.clone(), reach.asked.clone(), reach.told.clone(), reach.opened_as.clone())
        };
        let mut next = Reach::default();
        for t in view.targets.values() {
            let now_as = (t.url.clone(), t.credentials.clone());
            // What was opened elsewhere, or with other credentials, is opened again.
            let same = opened_as.get(&t.id) == Some(&now_as);
            next.opened_as.insert(t.id, now_as);
            let known = known.get(&t.id).filter(|_| same);
            if !t.url.starts_with("file:") {
                let fresh = |at: &&Instant| same && at.elapsed() < Duration::from_millis(REMOTE_LOOK_MS);
                if let Some(at) = asked.get(&t.id).filter(fresh) {
                    next.asked.insert(t.id, *at);
                    known.into_iter().for_each(|x| drop(next.open.insert(t.id, x.clone())));
                    away.get(&t.id).into_iter().for_each(|why| drop(next.away.insert(t.id, why.clone())));
                    told.get(&t.id).into_iter().for_each(|x| drop(next.told.insert(t.id, x.clone())));
                    continue;
                }
                next.asked.insert(t.id, Instant::now());
            }
            let kept = known.filter(|x| x.mend().and_then(|_| x.list_zones()).is_ok());
            match kept.cloned().map_or_else(|| open_target(t, &parts.keys), Ok) {
                Ok(target) => {
                    next.told.insert(t.id, crate::terms::told(&*target));
                    next.open.insert(t.id, target);
                }
                Err(e) => {
                    next.away.insert(t.id, chain(&e));
                }
            }
        }
        *lock(&self.reach) = next;
    }

    /// A target did not do what it was asked: the next look, within seconds, sees whether it is there at all.
    pub(crate) fn doubt(&self, target: TargetId) {
        lock(&self.reach).asked.remove(&target);
    }

    /// Tells the zone which targets this node can use, if that has changed. What fails is tried with the next look.
    pub(crate) fn tell_reach(&self) {
        let (view, open) = (self.cluster.view(), self.reached());
        let me = self.id();
        let differs = view.targets.values().any(|t| t.reached_by.contains(&me) != open.contains_key(&t.id));
        if self.parts.is_some() && differs {
            let targets = open.into_keys().collect();
            let _ = self.cluster.propose(&Command::Reach { targets });
        }
    }

    /// Tells the zone how much time passed, now and then. What fails counts with the next look, but for what the look itself
    /// has used up: a grace only lasts longer by it.
    pub(crate) fn tell_credit(&self) {
        let grace = Duration::from_secs(u64::from(self.cluster.view().policy.grace_s));
        let every = (grace / 20).clamp(CREDIT_EVERY.0, CREDIT_EVERY.1);
        if lock(&self.credited).is_some_and(|at| at.elapsed() < every) {
            return;
        }
        *lock(&self.credited) = Some(Instant::now());
        let Some(parts) = &self.parts else { return };
        let Ok(passed) = crate::credit::step(&parts.home) else { return };
        let known = self.cluster.view().nodes.get(&self.id()).map(|n| n.credit_ms);
        if let (Some(known), true) = (known, passed > 0) {
            let _ = self.cluster.propose(&Command::Credit { credit_ms: known.saturating_add(passed) });
        }
    }

    /// Lets go of what this node holds staged and nobody waits for, and of what it no longer has.
    pub(crate) fn tidy_spool(&self) -> Result<(), ZoneError> {
        let Some(parts) = &self.parts else { return Ok(()) };
        let (view, me) = (self.cluster.view(), self.id());
        let mut gone = staged_in_vain(&view, me);
        let mine = view.sectors.values().filter_map(|s| Some((s.id, *s.staged.get(&me)?)));
        let mine: BTreeMap<SectorId, CopyId> = mine.collect();
        gone.extend(mine.iter().filter(|(_, copy)| !parts.home.staged(**copy).exists()).map(|(s, _)| *s));
        for sector in gone {
            // First the zone forgets it, then it goes: nobody relies on what is not there.
            if self.cluster.propose(&Command::Unstaged { sector }).is_ok()
                && let Some(copy) = mine.get(&sector)
            {
                let path = parts.home.staged(*copy);
                fsx::remove_file(&path).map_err(io_at("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Removes what an earlier start left in the spool and the zone does not know of.
    pub(crate) fn clean_spool(&self) -> Result<(), ZoneError> {
        let Some(parts) = &self.parts else { return Ok(()) };
        let (view, me, dir) = (self.cluster.view(), self.id(), parts.home.spool());
        let mine: Vec<_> =
            view.sectors.values().filter_map(|s| s.staged.get(&me)).map(|c| parts.home.staged(*c)).collect();
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(io_at("list", &dir))?,
        };
        for entry in entries {
            let path = entry.map_err(io_at("list", &dir))?.path();
            if !mine.contains(&path) {
                fsx::remove_file(&path).map_err(io_at("remove", &path))?;
            }
        }
        Ok(())
    }

    /// A range of a copy that this node can read.
    pub(crate) fn read_copy(&self, range: ReadCopy) -> Result<Vec<u8>, ZoneError> {
        let view = self.cluster.view();
        let known = view.copies.get(&range.copy).filter(|c| c.is_stored());
        let known = known.ok_or_else(|| ZoneError::Sector(format!("no stored copy is called {}", range.copy)))?;
        let mut bytes = vec![0; range.len as usize];
        if let Some(target) = self.reached().get(&known.target) {
            target.read_at(known.alias, known.id, range.offset, &mut bytes)?;
            return Ok(bytes);
        }
        let staged = self.parts.as_ref().and_then(|p| crate::open::staged(&p.home, known.id));
        let staged = staged.ok_or_else(|| ZoneError::NoTarget("this node cannot read the copy".into()))?;
        staged.read_at(&mut bytes, range.offset).map_err(|e| ZoneError::Read(e.into()))?;
        Ok(bytes)
    }

    /// True once the process is to end.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Why the zone does not take this start: it runs on an old copy of its disk, or was removed.
    pub fn refused(&self) -> Option<String> {
        lock(&self.refused).clone()
    }

    /// Tells the zone of this start: what earlier ones held is free from then on.
    pub(crate) fn announce_start(&self) {
        let (incarnation, version) = (self.incarnation, self.version.to_owned());
        // Any other error: the node stops.
        let done = self.propose(Command::StartNode { incarnation, version });
        if let Err(ZoneError::Command(e @ CommandError::Refused { .. })) = done {
            *lock(&self.refused) = Some(e.to_string());
        }
    }

    /// Looks whether the others still take this node for one of theirs, when no leader is heard. Two looks in a row must say
    /// the same: a member that just came may be unknown to some.
    pub(crate) fn look_for_removal(&self) {
        let view = self.cluster.view();
        let quiet = self.cluster.heard().is_none_or(|age| age > Duration::from_millis(REMOVED_MS));
        if !quiet || !view.nodes.contains_key(&self.id()) {
            self.strange.store(false, Ordering::Relaxed);
            return;
        }
        let others: Vec<NodeId> = self.cluster.members().into_keys().filter(|id| *id != self.id()).collect();
        let answers = self.cluster.ask_all(&others, kind::REPORT, &[], Duration::from_millis(REPORT_MS));
        let refusing =
            answers.iter().filter(|(_, a)| a.as_ref().is_err_and(zoneward_transport::CallError::key_refused));
        let refusing = refusing.count();
        let strange = refusing > 0 && refusing * 2 >= others.len() && answers.iter().all(|(_, a)| a.is_err());
        if self.strange.swap(strange, Ordering::Relaxed) && strange {
            let text = "this node was removed from the zone: the other nodes do not take its key any more";
            *lock(&self.refused) = Some(text.into());
        }
    }

    /// Since when this node leads.
    pub(crate) fn leading<T>(&self, look: impl FnOnce(&mut Leading) -> T) -> T {
        look(&mut lock(&self.leading))
    }

    /// The targets within reach on which copies were last looked after longer ago than `period`.
    pub(crate) fn check_due(&self, period: Duration) -> Targets {
        let checked = lock(&self.checked).clone();
        let mut due = self.reached();
        due.retain(|id, _| checked.get(id).is_none_or(|at| at.elapsed() > period));
        due
    }

    pub(crate) fn checked(&self, target: TargetId) {
        lock(&self.checked).insert(target, Instant::now());
    }

    pub(crate) fn guard(&self, target: TargetId) -> Option<Guard> {
        lock(&self.guards).get(&target).cloned()
    }

    pub(crate) fn guarded(&self, target: TargetId, found: Guard) {
        lock(&self.guards).insert(target, found);
    }

    /// Takes over how fast work may go from now on.
    pub(crate) fn take_over_limits(&self) {
        if let Some(parts) = &self.parts {
            parts.pace.set(&self.cluster.view().policy);
        }
    }

    /// Looks at the machine.
    pub(crate) fn look_around(&self) {
        let ambient = {
            let mut watch = lock(&self.ambient);
            // Nobody else looks: the lock is free while a slow answer is waited for.
            std::mem::take(&mut watch.0)
        };
        let mut watch = ambient;
        let seen = watch.look();
        *lock(&self.ambient) = (watch, seen);
    }

    /// What waits in sources that this node looked at.
    pub(crate) fn backlog(&self) -> Vec<Backlog> {
        lock(&self.backlog).clone()
    }

    /// Remembers what was found in a source, and forgets sources that are gone.
    pub(crate) fn found(&self, source: SourceId, found: Option<Backlog>) {
        let view = self.cluster.view();
        let mut all = lock(&self.backlog);
        all.retain(|b| b.source != source && view.sources.contains_key(&b.source));
        all.extend(found);
    }

    /// Threads that a step may use now.
    pub fn threads_now(&self) -> usize {
        self.parts.as_ref().map_or(self.threads, |p| p.pace.threads(self.threads))
    }

    /// Whether schedules were last looked at longer ago than `period`; then they count as looked at.
    pub(crate) fn schedules_due(&self, period: Duration) -> bool {
        let mut at = lock(&self.scheduled);
        let due = at.is_none_or(|at| at.elapsed() > period);
        if due {
            *at = Some(Instant::now());
        }
        due
    }

    pub(crate) fn repairs<T>(&self, f: impl FnOnce(&mut Repairs) -> T) -> T {
        f(&mut lock(&self.repairs))
    }

    /// How this node does.
    pub fn report(&self) -> NodeReport {
        let m = self.cluster.metrics();
        NodeReport {
            node: self.id(),
            version: self.version.to_owned(),
            incarnation: self.incarnation,
            started_ms: self.started_ms,
            at_ms: now_ms(),
            role: role_name(m.role).to_owned(),
            term: m.term,
            applied: m.last_applied.unwrap_or(0),
            steps: self.board.report(),
            away: self.away(),
            ambient: lock(&self.ambient).1,
            backlog: self.backlog(),
            told: lock(&self.reach).told.clone(),
            guards: lock(&self.guards).clone(),
        }
    }

    /// Whether one of these nodes answers now.
    pub(crate) fn answers(&self, nodes: &[NodeId]) -> bool {
        let answers = self.cluster.ask_all(nodes, kind::REPORT, &[], Duration::from_millis(REPORT_MS));
        answers.iter().any(|(_, answer)| answer.is_ok())
    }

    /// Asks all others now and then, so that of one that falls silent it is known since when.
    pub(crate) fn hear_others(&self) {
        let due = lock(&self.asked).is_none_or(|at| at.elapsed() > HEAR_EVERY);
        if due {
            self.reports();
        }
    }

    /// Asks all other nodes how they do, all at once. Of one that does not answer, what it said last.
    pub fn reports(&self) -> BTreeMap<NodeId, NodeReport> {
        let others: Vec<NodeId> = self.cluster.members().into_keys().filter(|id| *id != self.id()).collect();
        let wait = Duration::from_millis(REPORT_MS);
        let answers = self.cluster.ask_all(&others, kind::REPORT, &[], wait);
        *lock(&self.asked) = Some(Instant::now());
        let mut heard = lock(&self.heard);
        for (id, answer) in answers {
            // An answer that this release cannot read is no answer.
            if let Some(mut report) = answer.ok().and_then(|b| serde_json::from_slice::<NodeReport>(&b).ok()) {
                report.at_ms = now_ms();
                heard.insert(id, report);
            }
        }
        heard.retain(|id, _| others.contains(id));
        heard.insert(self.id(), self.report());
        heard.clone()
    }
}

impl Authority for Node {
    fn view(&self) -> Arc<State> {
        self.cluster.view()
    }

    fn voters(&self) -> Option<BTreeSet<NodeId>> {
        Some(self.cluster.electorate().0)
    }

    fn cosigned(&self, nodes: &[NodeId], head: &Head) -> Vec<(NodeId, String)> {
        crate::cosign::ask(self, nodes, head)
    }

    fn propose(&self, command: Command) -> Result<Arc<State>, ZoneError> {
        let mut wait = RETRY_MS;
        let mut maybe = false;
        loop {
            match self.cluster.propose(&command).and_then(|reply| self.cluster.applied(reply.revision)) {
                Ok(state) => return Ok(state),
                Err(CommandError::Unknown) => maybe = true,
                Err(CommandError::NoLeader | CommandError::Busy) => {}
                Err(CommandError::Refused { code, text }) => {
                    // An earlier try may have come through, so that this one came too late. Whether it did must be
                    // known: work that is held and not known of would be held for ever.
                    let seen = if maybe { self.cluster.linearizable().map(Some) } else { Ok(None) };
                    match seen {
                        Ok(Some(state)) if took_effect(&state, self.id(), &command) => return Ok(state),
                        Ok(_) if code == "lease" => return Err(ZoneError::LeaseEnded),
                        Ok(_) => return Err(CommandError::Refused { code, text }.into()),
                        Err(_) => {}
                    }
                }
                Err(e) => return Err(e.into()),
            }
            if self.stopping() {
                return Err(ZoneError::Interrupted);
            }
            if maybe
                && let Ok(state) = self.cluster.linearizable()
                && took_effect(&state, self.id(), &command)
            {
                return Ok(state);
            }
            std::thread::sleep(Duration::from_millis(wait));
            wait = (wait * 2).min(RETRY_MS_MAX);
        }
    }
}

/// Since when this node leads, by its own clock.
#[derive(Debug, Default)]
pub struct Leading(Option<Instant>);

impl Leading {
    /// For how long it has led; `None` if it does not.
    pub fn look(&mut self, leads: bool) -> Option<Duration> {
        if !leads {
            self.0 = None;
            return None;
        }
        Some(self.0.get_or_insert_with(Instant::now).elapsed())
    }
}
