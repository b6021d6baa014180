//! The actors of a node, and who watches over them.
//!
//! Each kind of step has an actor. It holds no truth: woken by a change of the state or by the clock, it asks its role's
//! pure `choose` what this node should claim, has a thread of its own claim and do it, and waits for that thread alone.
//! A handler never blocks and never touches data. What a crash at any moment leaves behind is in the state: a lease that
//! the leader ends, and a step that the next holder does again or goes on with.
//!
//! Limits: one step at a time for each actor; one wake-up waits at most in a mailbox, a second one is dropped, because it
//! would say the same.

pub mod backlog;
pub mod calendar;
pub mod roles;
mod stage;
pub(crate) mod steps;
mod worker;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use actix::prelude::*;

use crate::node::Node;
use roles::Role;
use worker::{Wake, Worker};

/// The actors look around at least so often, ms: what time alone brings, no entry tells.
const TICK_MS: u64 = 500;
/// A leader looks so often whether others still hold what they claimed, ms.
const LEADER_TICK_MS: u64 = 100;
/// Targets are looked at so often, ms.
const TARGETS_MS: u64 = 3_000;
/// Waits before an actor is made again after it ended unexpectedly, ms: doubled up to the second.
const AGAIN_MS: (u64, u64) = (500, 30_000);

/// How an actor does.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Health {
    /// `idle`, `busy`, `waiting` after a failure, or `starting`.
    pub state: Cow<'static, str>,
    pub done: u64,
    pub failed: u64,
    /// Steps that ended by a panic: each is a fault of the program.
    pub panics: u64,
    /// How often the actor itself was made anew.
    pub restarts: u64,
    pub last_error: Option<String>,
}

/// How all actors of a node do, by name.
pub type HealthBoard = Arc<Mutex<BTreeMap<&'static str, Health>>>;

/// The running actors.
pub struct Engine {
    node: Arc<Node>,
    health: HealthBoard,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({:?})", self.node)
    }
}

impl Engine {
    /// Starts the actors of a node, on a thread of their own.
    pub fn start(node: Arc<Node>) -> std::io::Result<Self> {
        let health = HealthBoard::default();
        let (n, h) = (node.clone(), health.clone());
        let thread = std::thread::Builder::new().name("actors".into()).spawn(move || {
            System::new().block_on(supervise(n, h));
        })?;
        Ok(Self { node, health, thread: Some(thread) })
    }

    pub fn health(&self) -> BTreeMap<&'static str, Health> {
        self.health.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// How the actors do, for others to read.
    pub fn health_board(&self) -> HealthBoard {
        self.health.clone()
    }

    /// Tells all steps to stop and waits for their threads.
    pub fn stop(&mut self) {
        self.node.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        self.node.cluster.stop_waiting();
        if let Some(parts) = &self.node.parts {
            parts.pace.open();
        }
        for r in self.node.board.running() {
            r.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        if let Some(t) = self.thread.take() {
            // A panic there was shown when it happened.
            let _ = t.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One actor under watch.
struct Watched {
    role: Role,
    address: Option<Addr<Worker>>,
    again_ms: u64,
    not_before: tokio::time::Instant,
}

/// Makes the actors, wakes them, and makes those anew that ended, until the node stops.
async fn supervise(node: Arc<Node>, health: HealthBoard) {
    let now = tokio::time::Instant::now();
    let watched = |role| Watched { role, address: None, again_ms: AGAIN_MS.0, not_before: now };
    let mut all: Vec<Watched> = Role::ALL.into_iter().map(watched).collect();
    let looker = look_at_targets(node.clone());
    let starting = node.clone();
    let start = std::thread::spawn(move || starting.announce_start());
    let mut applied = None;
    while !node.stopping() {
        let wait = Duration::from_millis(if watches(&node) { LEADER_TICK_MS } else { TICK_MS });
        if let Ok(next) = tokio::time::timeout(wait, node.cluster.applied_beyond(applied)).await {
            let Some(index) = next else { break };
            applied = Some(index);
        }
        node.board.tick();
        node.take_over_limits();
        stop_what_is_lost(&node);
        for w in &mut all {
            watch(w, &node, &health);
        }
    }
    let busy: Vec<_> = all.into_iter().filter_map(|w| w.address).collect();
    for address in busy {
        // An actor answers this when its thread has ended.
        let _ = address.send(worker::Stop).await;
    }
    let _ = looker.join();
    let _ = start.join();
}

/// Whether this node leads while others hold work.
fn watches(node: &Node) -> bool {
    node.cluster.metrics().role == zoneward_consensus::raft::Role::Leader
        && node.cluster.view().leases.values().any(|l| l.node != node.id())
}

/// A step whose lease has ended stops by itself: another node may do it by now.
fn stop_what_is_lost(node: &Node) {
    let view = node.cluster.view();
    for r in node.board.running() {
        // What needs no lease cannot lose it. The view may not have the claim yet; then it is older than the lease.
        if r.epoch > 0 && view.revision >= r.epoch && !view.leases.contains_key(&r.epoch) {
            r.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
}

fn watch(w: &mut Watched, node: &Arc<Node>, health: &HealthBoard) {
    let now = tokio::time::Instant::now();
    match &w.address {
        Some(a) if a.connected() => {
            // A full mailbox holds a wake-up already.
            let _ = a.try_send(Wake);
        }
        Some(_) => {
            w.address = None;
            w.not_before = now + Duration::from_millis(w.again_ms);
            w.again_ms = (w.again_ms * 2).min(AGAIN_MS.1);
            let mut board = health.lock().unwrap_or_else(|e| e.into_inner());
            board.entry(w.role.name()).or_default().restarts += 1;
        }
        None if now >= w.not_before => {
            w.address = Some(Worker::new(w.role, node.clone(), health.clone()).start());
        }
        None => {}
    }
}

/// Looks at the targets now and then, on a thread of its own: a dead mount may hold a call for minutes.
fn look_at_targets(node: Arc<Node>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        // Leftovers take room and nothing else.
        let _ = node.clean_spool();
        if let Some(parts) = &node.parts {
            let view = node.cluster.view();
            parts.home.forget_catalogs(|l| view.layers.contains_key(l));
            crate::keyless::forget_pieces(&parts.home, &view);
            // What cannot be removed, the next backup tells.
            let _ = crate::reading::snapshot::sweep(parts.home.dir());
        }
        while !node.stopping() {
            node.look_around();
            node.look_at_targets();
            node.tell_reach();
            node.hear_others();
            node.tell_credit();
            // Who does not answer now does later; the zone waits with its new secret as long as that.
            let _ = crate::secrets::step(&node);
            let _ = crate::keyfile::step(&node);
            node.look_for_removal();
            // A file that cannot be removed now is looked at again.
            let _ = node.tidy_spool();
            let known = node.cluster.view().targets.len();
            let until = std::time::Instant::now() + Duration::from_millis(TARGETS_MS);
            // A target that was just added is looked at at once.
            while !node.stopping() && std::time::Instant::now() < until && node.cluster.view().targets.len() == known {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    })
}
