//! How far a store has come, for those who wait for it. Waiters go on in the order in which they came: a simulation then
//! repeats, where those of a [`tokio::sync::watch`] are woken in an order of its own.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// What is waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub applied: Option<u64>,
    /// A snapshot has begun to arrive since this node started.
    pub receiving: bool,
    /// A call failed, or the node stops: there will be no more progress.
    pub over: bool,
}

#[derive(Default)]
pub struct Board {
    progress: Mutex<Progress>,
    moved: Notify,
}

impl Board {
    pub fn new(applied: Option<u64>) -> Self {
        Self { progress: Mutex::new(Progress { applied, ..Progress::default() }), moved: Notify::new() }
    }

    pub fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        self.moved.notify_waiters();
    }

    fn now(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is so, or until there is no more progress: then `None`.
    pub async fn until(&self, so: impl Fn(&Progress) -> bool) -> Option<Progress> {
        loop {
            // What moves after this line is not missed.
            let moved = self.moved.notified();
            let now = self.now();
            if now.over {
                return None;
            }
            if so(&now) {
                return Some(now);
            }
            moved.await;
        }
    }
}
