//! What a node's process does: it says that it started, takes work that the planner names, claims it, does it and reports;
//! the leader ends leases of the silent and does what follows from the state alone.
//!
//! It is built as the product's engine is (`actors/src/engine`): the same planner, the same commands in the same order.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::steps;
use super::voice::{Lost, Voice};
use crate::command::Command;
use crate::limits::LEASE_MS;
use crate::model::{Lease, Standing, State};
use crate::plan::{Work, is_staged, plan, staged_in_vain};
use crate::raft::Role;

/// Begins the tasks of one start of a node. They end with the node's power.
pub fn begin(voice: &Voice) -> Vec<JoinHandle<()>> {
    let (a, b, c) = (voice.clone(), voice.clone(), voice.clone());
    vec![
        tokio::spawn(async move {
            start(&a).await;
            lane(a, |w| matches!(w, Work::Pack { .. } | Work::WriteSystem { .. } | Work::Publish { .. })).await;
        }),
        tokio::spawn(lane(b, |w| matches!(w, Work::Copy { .. } | Work::Stage { .. } | Work::RemoveIncoming { .. }))),
        tokio::spawn(schedule(c)),
    ]
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

async fn lane(voice: Voice, fits: impl Fn(&Work) -> bool) {
    // One that was removed still asks now and then: it may not have heard.
    loop {
        let Some(one) = choose(&voice, &fits) else {
            voice.pause(500, 1500).await;
            continue;
        };
        // As the product does, one that others hold is left to them; but two may ask at once.
        let _ = claim_and_do(&voice, vec![one]).await;
        voice.pause(10, 200).await;
    }
}

/// Some work that is free and that this node can do. A state that is held while others wait would be copied when the next
/// entry is applied: it is let go at once.
fn choose(voice: &Voice, fits: impl Fn(&Work) -> bool) -> Option<Work> {
    let state = voice.state();
    let free = |w: &Work| fits(w) && state.lease_of(w).is_none() && can(&state, voice, w);
    let work: Vec<Work> = plan(&state, 0).into_iter().filter(free).take(6).collect();
    if work.is_empty() || !(may_claim(voice, &state) || voice.net.roll(8) == 0) {
        return None;
    }
    work.get(voice.net.roll(work.len() as u64) as usize).copied()
}

/// Whether this node can do some work: it reaches the target, or holds what it needs; or it does not hold it yet.
fn can(state: &State, voice: &Voice, work: &Work) -> bool {
    let me = voice.me();
    let reached = |t| state.targets.get(&t).is_some_and(|t| t.reached_by.contains(&me));
    match work {
        Work::Stage { sector } => !state.holders(*sector).contains(&me),
        Work::Copy { sector, target } => reached(*target) && state.holders(*sector).contains(&me),
        w => w.target().is_none_or(reached),
    }
}

async fn claim_and_do(voice: &Voice, work: Vec<Work>) -> Result<(), Lost> {
    voice.insist(&Command::Claim { incarnation: voice.life, work: work.clone() }).await?;
    let mine = |l: &&Lease| l.node == voice.me() && l.work == work && l.incarnation == voice.life;
    let Some(epoch) = voice.state().leases.values().find(mine).map(|l| l.epoch) else { return Ok(()) };
    let done = steps::step(voice, epoch, &work[0]).await;
    let _ = voice.insist(&Command::EndLease { epoch }).await;
    done
}

/// On the leader: what follows from the state, and from who is silent.
async fn schedule(voice: Voice) {
    let mut leads_since: Option<Instant> = None;
    loop {
        sleep(Duration::from_millis(400)).await;
        let leads = voice.node.role() == Role::Leader;
        leads_since = leads.then(|| leads_since.unwrap_or_else(Instant::now));
        let mut due = leads_since.map_or_else(Vec::new, |since| decide(&voice, &voice.state(), since.elapsed()));
        let in_vain = staged_in_vain(&voice.state(), voice.me());
        due.extend(in_vain.into_iter().map(|sector| Command::Unstaged { sector }));
        for command in due {
            let _ = voice.say(&command).await;
        }
    }
}

fn decide(voice: &Voice, state: &Arc<State>, leading: Duration) -> Vec<Command> {
    let lease = Duration::from_millis(LEASE_MS);
    // Of the leader before, its silence is what this one was elected for: it is not waited for again.
    let deposed = |id| voice.node.last_leader().is_some_and(|(l, since)| l == id && since > lease);
    let silent = |id| {
        let waited = leading > lease || deposed(id);
        id != voice.me() && waited && voice.node.silence(id).is_none_or(|s| s > lease)
    };
    let mut out: Vec<Command> =
        state.leases.values().filter(|l| silent(l.node)).map(|l| Command::EndLease { epoch: l.epoch }).collect();
    let alone = state.nodes.keys().all(|id| *id == voice.me() || voice.node.silence(*id).is_none_or(|s| s > lease));
    for w in plan(state, 0) {
        match w {
            Work::StoreCheckpoint { checkpoint } if alone || is_staged(state, checkpoint) => {
                out.push(Command::StoreCheckpoint { checkpoint });
            }
            Work::FinishCheckpoint { checkpoint } => out.push(Command::FinishCheckpoint { checkpoint }),
            _ => {}
        }
    }
    out
}
