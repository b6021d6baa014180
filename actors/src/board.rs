//! What this node works on now, and how far it is: read by `status`, by other nodes and by metrics. Nothing decides by it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use zoneward_consensus::plan::Work;

/// One running step as others see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The lease it runs under.
    pub epoch: u64,
    /// The kind of step: pack, upload, rebuild, publish, …
    pub kind: String,
    pub work: Vec<Work>,
    /// What it is at now, for people.
    pub label: String,
    pub done_bytes: u64,
    /// Zero: not known yet.
    pub total_bytes: u64,
    pub bytes_per_second: u64,
    /// At this speed; none while nothing moves or the total is unknown.
    pub seconds_left: Option<u64>,
    pub running_seconds: u64,
    /// Seconds since the last byte moved.
    pub still_seconds: u64,
    /// Bytes on this node's disks that the step takes while it runs.
    pub temporary_bytes: u64,
}

/// A running step as its worker sees it.
#[derive(Debug)]
pub struct Running {
    pub epoch: u64,
    pub kind: &'static str,
    pub work: Vec<Work>,
    pub label: Mutex<String>,
    pub done: AtomicU64,
    pub total: AtomicU64,
    /// Set it to stop the step.
    pub stop: Arc<AtomicBool>,
    speed: Mutex<Speed>,
}

#[derive(Debug)]
struct Speed {
    begun: Instant,
    /// When `done` was last looked at, and what it was.
    seen: (Instant, u64),
    moved: Instant,
    per_second: f64,
}

/// Weight of the past in a step's speed: about thirty seconds count.
const SPEED_MEMORY_S: f64 = 30.0;

impl Running {
    pub fn new(epoch: u64, kind: &'static str, work: Vec<Work>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            epoch,
            kind,
            work,
            label: Mutex::default(),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            stop: Arc::default(),
            speed: Mutex::new(Speed { begun: now, seen: (now, 0), moved: now, per_second: 0.0 }),
        })
    }

    pub fn say(&self, label: String) {
        *self.label.lock().unwrap_or_else(|e| e.into_inner()) = label;
    }

    fn speed(&self) -> MutexGuard<'_, Speed> {
        self.speed.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn tick(&self, now: Instant) {
        let done = self.done.load(Ordering::Relaxed);
        let mut s = self.speed();
        let dt = now.duration_since(s.seen.0).as_secs_f64();
        if dt < 0.05 {
            return;
        }
        let moved = done.saturating_sub(s.seen.1);
        let young = now.duration_since(s.begun).as_secs_f64();
        // Early on the mean is all there is to know.
        let memory = SPEED_MEMORY_S.min(young.max(dt));
        let share = (dt / memory).min(1.0);
        s.per_second += (moved as f64 / dt - s.per_second) * share;
        if moved > 0 {
            s.moved = now;
        }
        s.seen = (now, done);
    }

    fn report(&self, now: Instant) -> StepReport {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        let s = self.speed();
        let still = now.duration_since(s.moved).as_secs();
        let left = total.saturating_sub(done);
        let known = total > 0 && s.per_second >= 1.0 && still < STALLED_S;
        StepReport {
            epoch: self.epoch,
            kind: self.kind.to_owned(),
            work: self.work.clone(),
            label: self.label.lock().unwrap_or_else(|e| e.into_inner()).clone(),
            done_bytes: done,
            total_bytes: total,
            bytes_per_second: s.per_second as u64,
            seconds_left: known.then(|| (left as f64 / s.per_second).ceil() as u64),
            running_seconds: now.duration_since(s.begun).as_secs(),
            still_seconds: still,
            temporary_bytes: 0,
        }
    }
}

/// After so long without a byte a step counts as stalled, seconds.
pub const STALLED_S: u64 = 60;

/// The running steps of this node.
#[derive(Debug, Default)]
pub struct Board(Mutex<BTreeMap<u64, Arc<Running>>>);

impl Board {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Running>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Shows a step until what is answered is dropped.
    pub fn show(self: &Arc<Self>, running: Arc<Running>) -> Shown {
        self.lock().insert(running.epoch, running.clone());
        Shown { board: self.clone(), running }
    }

    pub fn running(&self) -> Vec<Arc<Running>> {
        self.lock().values().cloned().collect()
    }

    /// Measures speeds. Called about twice a second.
    pub fn tick(&self) {
        let now = Instant::now();
        self.running().iter().for_each(|r| r.tick(now));
    }

    pub fn report(&self) -> Vec<StepReport> {
        let now = Instant::now();
        self.running().iter().map(|r| r.report(now)).collect()
    }
}

/// A step that is shown.
#[derive(Debug)]
pub struct Shown {
    board: Arc<Board>,
    pub running: Arc<Running>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.board.lock().remove(&self.running.epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_steady_step_says_when_it_ends_and_a_stalled_one_does_not() {
        let board = Arc::new(Board::default());
        let shown = board.show(Running::new(7, "pack", Vec::new()));
        shown.running.total.store(1000, Ordering::Relaxed);
        let begun = shown.running.speed().begun;
        for second in 1..=50u64 {
            shown.running.done.store(second * 10, Ordering::Relaxed);
            shown.running.tick(begun + Duration::from_secs(second));
        }
        let report = shown.running.report(begun + Duration::from_secs(50));
        assert_eq!((report.bytes_per_second, report.seconds_left), (10, Some(50)));
        for second in 51..=115 {
            shown.running.tick(begun + Duration::from_secs(second));
        }
        let report = shown.running.report(begun + Duration::from_secs(115));
        assert_eq!((report.seconds_left, report.still_seconds), (None, 65));
        assert_eq!(board.report().len(), 1);
        drop(shown);
        assert!(board.report().is_empty());
    }
}
