//! What a node's process does: it says that it started, takes work that the planner names, claims it, does it and reports;
//! the leader ends leases of the silent and does what follows from the state alone.
//!
//! What a node claims and what the leader decides are the product's own functions (`choose`, `decide`); only what a step
//! does with sources and targets is simulated.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::steps;
use super::voice::{Lost, Voice};
use crate::choose::{Kind, Me, choose_of};
use crate::command::Command;
use crate::decide::{Act, Facts, decide};
use crate::model::{Lease, Standing, State};
use crate::plan::{Work, plan, staged_in_vain};
use crate::raft::Role;

/// Begins the tasks of one start of a node. They end with the node's power.
pub fn begin(voice: &Voice) -> Vec<JoinHandle<()>> {
    let (a, b, c, d) = (voice.clone(), voice.clone(), voice.clone(), voice.clone());
    vec![
        tokio::spawn(async move {
            start(&a).await;
            lane(a, &[Kind::Pack, Kind::Publish]).await;
        }),
        tokio::spawn(lane(b, &[Kind::Stage, Kind::Upload, Kind::Rebuild, Kind::Audit])),
        tokio::spawn(schedule(c)),
        tokio::spawn(credit(d)),
    ]
}

/// So much time passes for the zone's grace while a simulated millisecond does: a week in half a minute.
const CREDIT_SPEED: u64 = 20_000;

/// Says how much time passed.
async fn credit(voice: Voice) {
    loop {
        voice.pause(8_000 * voice.calm.min(4), 24_000 * voice.calm.min(4)).await;
        let credit_ms = voice.begun.elapsed().as_millis() as u64 * CREDIT_SPEED;
        if voice.state().nodes.get(&voice.me()).is_some_and(|n| n.credit_ms < credit_ms) {
            let _ = voice.say(&Command::Credit { credit_ms }).await;
        }
    }
}

/// Says that this node started, and which targets it can use.
async fn start(voice: &Voice) {
    loop {
        let start = Command::StartNode { incarnation: voice.life, version: "1".into() };
        if voice.insist(&start).await.is_ok() && reach(voice).await.is_ok() {
            return;
        }
        voice.pause(200, 1500).await;
    }
}

/// Says which targets this node can use: all but the last one, which only every third node can use as long as there is
/// trouble.
pub async fn reach(voice: &Voice) -> Result<(), Lost> {
    let far = voice.me().0[15] % 3 != 1 && !voice.net.trouble_is_over();
    let mut targets: Vec<_> = voice.state().targets.keys().copied().collect();
    targets.truncate(targets.len() - usize::from(far));
    voice.insist(&Command::Reach { targets }).await
}

/// Whether a node's process may claim: the zone knows of this start, and the node belongs to it.
fn may_claim(voice: &Voice, state: &State) -> bool {
    let node = state.nodes.get(&voice.me());
    node.is_some_and(|n| n.incarnation >= voice.life && n.standing == Standing::Member)
}

/// Some of the product's claimants, one after the other: they take turns, since a simulated node has no threads.
async fn lane(voice: Voice, kinds: &'static [Kind]) {
    let mut nothing_at = None;
    // One that was removed still asks now and then: it may not have heard.
    loop {
        let revision = voice.state().revision;
        let work = if nothing_at == Some(revision) { Vec::new() } else { next(&voice, kinds) };
        if work.is_empty() {
            nothing_at = Some(revision);
            voice.pause(500, 1500).await;
            continue;
        }
        // As the product does, what others hold is left to them; but two may ask at once.
        let _ = claim_and_do(&voice, work).await;
        voice.pause(10, 200).await;
    }
}

/// What this node claims next. A state that is held while others wait would be copied when the next entry is applied: it
/// is let go at once.
fn next(voice: &Voice, kinds: &[Kind]) -> Vec<Work> {
    let state = voice.state();
    if !may_claim(voice, &state) {
        return impostor(voice, &state, kinds);
    }
    let reaches = |t| state.targets.get(&t).is_some_and(|t| t.reached_by.contains(&voice.me()));
    let me = Me { id: voice.me(), reaches: &reaches, leads: voice.node.role() == Role::Leader };
    let now_ms = voice.now_ms();
    let plan = plan(&state, now_ms);
    let mut chosen = kinds.iter().map(|kind| choose_of(*kind, &state, &me, now_ms, &plan));
    chosen.find(|work| !work.is_empty()).unwrap_or_default()
}

/// What one that may not claim asks for now and then: anything of these kinds that is free. Of other kinds another claimant
/// of the same node may ask, and what one of them was given is not the other's.
fn impostor(voice: &Voice, state: &State, kinds: &[Kind]) -> Vec<Work> {
    if voice.net.roll(8) != 0 {
        return Vec::new();
    }
    let free: Vec<Work> = plan(state, 0)
        .into_iter()
        .filter(|w| kinds_of(w).iter().any(|k| kinds.contains(k)) && state.lease_of(w).is_none())
        .take(6)
        .collect();
    free.get(voice.net.roll(free.len() as u64) as usize).copied().into_iter().collect()
}

/// The kinds that a piece of work may be claimed as.
fn kinds_of(work: &Work) -> &'static [Kind] {
    match work {
        Work::Pack { .. } => &[Kind::Pack],
        Work::Stage { .. } => &[Kind::Stage],
        Work::Audit { .. } => &[Kind::Audit],
        Work::Copy { .. } => &[Kind::Upload, Kind::Rebuild],
        Work::WriteSystem { .. } | Work::Publish { .. } | Work::RemoveIncoming { .. } => &[Kind::Publish],
        // The leader's, or of a zone that no daemon serves.
        Work::ResumeCheckpoint { .. } | Work::StoreCheckpoint { .. } | Work::FinishCheckpoint { .. } => &[],
    }
}

async fn claim_and_do(voice: &Voice, work: Vec<Work>) -> Result<(), Lost> {
    voice.insist(&Command::Claim { incarnation: voice.life, work: work.clone() }).await?;
    let mine = |l: &&Lease| l.node == voice.me() && l.work == work && l.incarnation == voice.life;
    let Some(epoch) = voice.state().leases.values().find(mine).map(|l| l.epoch) else { return Ok(()) };
    let mut done = Ok(());
    for one in &work {
        done = steps::step(voice, epoch, one).await;
        if done.is_err() {
            break;
        }
    }
    let _ = voice.insist(&Command::EndLease { epoch }).await;
    done
}

/// On the leader: what follows from the state, and from who is silent.
async fn schedule(voice: Voice) {
    let mut leads_since: Option<Instant> = None;
    let mut looked_at = None;
    loop {
        sleep(Duration::from_millis(400)).await;
        let leads = voice.node.role() == Role::Leader;
        leads_since = leads.then(|| leads_since.unwrap_or_else(Instant::now));
        let acts = leads_since.map_or_else(Vec::new, |since| due(&voice, since.elapsed()));
        let revision = Some(voice.state().revision);
        if looked_at != revision {
            looked_at = revision;
            let in_vain = staged_in_vain(&voice.state(), voice.me());
            for sector in in_vain {
                let _ = voice.say(&Command::Unstaged { sector }).await;
            }
        }
        for act in acts {
            match act {
                Act::Propose(command) => drop(voice.say(&command).await),
                // It is decided anew if it fails.
                Act::Promote(id) => drop(voice.node.promote(id).await),
            }
        }
    }
}

/// What a node that has led for so long should do now.
fn due(voice: &Voice, leading: Duration) -> Vec<Act> {
    let m = voice.node.metrics();
    let facts = Facts {
        me: voice.me(),
        leading,
        silence: m.voters.iter().chain(&m.learners).map(|id| (*id, voice.node.silence(*id))).collect(),
        deposed: voice.node.last_leader(),
        voters: m.voters,
        lag: m.lag,
    };
    decide(&voice.state(), &facts)
}
