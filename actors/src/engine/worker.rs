//! One actor: woken, it asks its role what to claim, has a thread do it, and waits for the thread.
//!
//! In: [`Wake`] (the supervisor; mailbox of one), [`Stop`]. Out: nothing; what a step comes to, it reports by commands.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::oneshot;

use super::roles::{Chosen, Role};
use super::{Health, HealthBoard};
use crate::errors::ZoneError;
use crate::node::Node;
use crate::open::chain;

/// Something may have changed.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Wake;

/// The node stops: answered when no thread of the actor runs any more.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Stop;

/// Waits after a failed step, ms: doubled with each failure in a row.
const BACKOFF_MS: (u64, u64) = (200, 30_000);

pub(super) struct Worker {
    role: Role,
    node: Arc<Node>,
    health: HealthBoard,
    busy: bool,
    /// Something changed while a step ran.
    woken: bool,
    backoff_ms: u64,
    not_before: Instant,
    stopping: Vec<oneshot::Sender<()>>,
}

/// What a thread came to.
enum Ended {
    /// There was something to do and it is done.
    Did,
    /// Others were faster, or nothing could be done.
    Nothing,
    Failed(ZoneError),
    Panicked(String),
}

impl Worker {
    pub fn new(role: Role, node: Arc<Node>, health: HealthBoard) -> Self {
        let not_before = Instant::now();
        let (busy, woken, backoff_ms, stopping) = (false, false, BACKOFF_MS.0, Vec::new());
        Self { role, node, health, busy, woken, backoff_ms, not_before, stopping }
    }

    fn note(&self, change: impl FnOnce(&mut Health)) {
        let mut board = self.health.lock().unwrap_or_else(|e| e.into_inner());
        change(board.entry(self.role.name()).or_default());
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        if self.busy || self.node.stopping() || Instant::now() < self.not_before {
            self.woken = self.busy;
            return;
        }
        let view = self.node.cluster.view();
        let chosen = self.role.choose(&view, &self.node);
        if chosen == Chosen::Nothing {
            return self.note(|h| h.state = "idle".into());
        }
        let (role, node) = (self.role, self.node.clone());
        let (ended, when) = oneshot::channel();
        let job = move || {
            let run = std::panic::catch_unwind(AssertUnwindSafe(|| role.run(&node, chosen)));
            let came_to = match run {
                Ok(Ok(true)) => Ended::Did,
                Ok(Ok(false)) => Ended::Nothing,
                Ok(Err(e)) => Ended::Failed(e),
                Err(panic) => Ended::Panicked(words(&*panic)),
            };
            // If the actor is gone, nobody waits for it.
            let _ = ended.send(came_to);
        };
        if let Err(e) = std::thread::Builder::new().name(self.role.name().into()).spawn(job) {
            self.not_before = Instant::now() + Duration::from_millis(BACKOFF_MS.1);
            return self.note(|h| h.last_error = Some(format!("no thread could be started: {e}")));
        }
        self.busy = true;
        self.note(|h| h.state = "busy".into());
        let done = async move { when.await.unwrap_or_else(|_| Ended::Panicked("the thread vanished".into())) };
        ctx.spawn(done.into_actor(self).map(|ended, me, ctx| me.ended(ended, ctx)));
    }

    fn ended(&mut self, ended: Ended, ctx: &mut Context<Self>) {
        self.busy = false;
        let wait = match ended {
            Ended::Did | Ended::Nothing => {
                self.backoff_ms = BACKOFF_MS.0;
                let did = matches!(ended, Ended::Did);
                self.note(|h| {
                    h.state = "idle".into();
                    h.done += u64::from(did);
                });
                did || std::mem::take(&mut self.woken)
            }
            // The lease went elsewhere, or the node stops: no fault of the step.
            Ended::Failed(ZoneError::LeaseEnded | ZoneError::Interrupted) => true,
            Ended::Failed(e) => self.failed(chain(&e), 0),
            Ended::Panicked(text) => self.failed(text, 1),
        };
        for s in self.stopping.drain(..) {
            let _ = s.send(());
        }
        if wait {
            self.look(ctx);
        }
    }

    fn failed(&mut self, text: String, panics: u64) -> bool {
        self.not_before = Instant::now() + Duration::from_millis(self.backoff_ms);
        self.backoff_ms = (self.backoff_ms * 2).min(BACKOFF_MS.1);
        self.note(|h| {
            h.state = "waiting".into();
            h.failed += 1;
            h.panics += panics;
            h.last_error = Some(text);
        });
        false
    }
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".into())
}

impl Actor for Worker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1);
        self.note(|h| h.state = "idle".into());
    }
}

impl Handler<Wake> for Worker {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        self.look(ctx);
    }
}

impl Handler<Stop> for Worker {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Stop, _: &mut Self::Context) -> Self::Result {
        if !self.busy {
            return Box::pin(async {});
        }
        let (ended, when) = oneshot::channel();
        self.stopping.push(ended);
        Box::pin(async move {
            let _ = when.await;
        })
    }
}
