//! How fast a node may send to targets, and how many cores its work may use, by the hour.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use zoneward_consensus::policy::{Limit, Policy};

use crate::clock::now_ms;
use crate::engine::calendar::minute_of_day;

/// A rate is worked out anew so often: the hour changes, and so may the settings.
const RATE_EVERY: Duration = Duration::from_secs(1);
/// Longest sleep between two looks at the rate.
const NAP: Duration = Duration::from_millis(100);
/// What may be sent at once after a pause, as a part of a second's worth.
const BURST_S: f64 = 0.25;

/// The pace of one process, shared by everything in it that sends.
#[derive(Debug)]
pub struct Pace {
    gate: Mutex<Gate>,
    /// Set when the process ends: nobody waits any more.
    open: AtomicBool,
}

#[derive(Debug)]
struct Gate {
    limits: Vec<Limit>,
    /// Bytes a second; `None`: as fast as it goes.
    rate: Option<u64>,
    looked: Instant,
    /// Bytes that may be sent now; below zero while a large piece is being paid off.
    credit: f64,
    filled: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        let now = Instant::now();
        let gate = Gate { limits: Vec::new(), rate: None, looked: now, credit: 0.0, filled: now };
        Self { gate: Mutex::new(gate), open: AtomicBool::new(false) }
    }
}

fn limit_now(limits: &[Limit]) -> Option<Limit> {
    let minute = minute_of_day(now_ms(), None);
    limits.iter().find(|l| l.window.holds(minute)).copied()
}

impl Gate {
    fn look(&mut self) {
        self.rate = limit_now(&self.limits).and_then(|l| l.upload_bytes_s);
        self.looked = Instant::now();
    }

    /// How long `bytes` more must wait; zero if they may go now, and then they are counted.
    fn ask(&mut self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.rate else {
            (self.credit, self.filled) = (0.0, now);
            return Duration::ZERO;
        };
        let rate = rate as f64;
        let earned = now.saturating_duration_since(self.filled).as_secs_f64() * rate;
        self.credit = (self.credit + earned).min(rate * BURST_S);
        self.filled = now;
        if self.credit < 0.0 {
            return Duration::from_secs_f64(-self.credit / rate);
        }
        // A piece may be larger than what was saved up: who comes next waits for it.
        self.credit -= bytes as f64;
        Duration::ZERO
    }
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes over the zone's settings.
    pub fn set(&self, policy: &Policy) {
        let mut gate = self.lock();
        if gate.limits != policy.limits {
            gate.limits.clone_from(&policy.limits);
            gate.look();
        }
    }

    /// Waits until `bytes` may be sent.
    pub fn send(&self, bytes: usize) {
        loop {
            let wait = {
                let mut gate = self.lock();
                if gate.limits.is_empty() || self.open.load(Ordering::Relaxed) {
                    return;
                }
                if gate.looked.elapsed() >= RATE_EVERY {
                    gate.look();
                }
                gate.ask(bytes as u64, Instant::now())
            };
            if wait.is_zero() {
                return;
            }
            std::thread::sleep(wait.min(NAP));
        }
    }

    /// Of `cores` those that work may use now.
    pub fn threads(&self, cores: usize) -> usize {
        let percent = limit_now(&self.lock().limits).and_then(|l| l.cpu_percent).unwrap_or(100);
        (cores * usize::from(percent) / 100).max(1)
    }

    /// Lets everything through: the process ends.
    pub fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoneward_consensus::policy::{DAY_MIN, Window};

    fn policy(upload: Option<u64>, cpu: Option<u8>) -> Policy {
        let window = Window { from_min: 0, to_min: DAY_MIN };
        Policy { limits: vec![Limit { window, upload_bytes_s: upload, cpu_percent: cpu }], ..Policy::default() }
    }

    #[test]
    fn over_a_while_no_more_than_the_rate_goes_out() {
        let mut gate = Gate { rate: Some(1000), ..Pace::default().gate.into_inner().unwrap() };
        let begin = gate.filled;
        let (mut sent, mut refused) = (0, 0);
        for ms in 0..10_000 {
            if gate.ask(100, begin + Duration::from_millis(ms)).is_zero() {
                sent += 100;
            } else {
                refused += 1;
            }
        }
        assert!((9_900..=10_400).contains(&sent), "{sent}");
        assert!(refused > 9_000);
        // One piece larger than a second's worth goes, and is paid off before the next.
        let later = begin + Duration::from_secs(100);
        assert!(gate.ask(5000, later).is_zero());
        let wait = gate.ask(1, later);
        assert!((4.7..=5.0).contains(&wait.as_secs_f64()), "{wait:?}");
        gate.rate = None;
        assert!(gate.ask(u64::MAX, later).is_zero());
        assert!(gate.ask(u64::MAX, later).is_zero());
    }

    #[test]
    fn settings_take_effect_at_once_and_an_end_waits_for_nobody() {
        let pace = Pace::default();
        pace.send(usize::MAX);
        assert_eq!(pace.threads(8), 8);
        pace.set(&policy(Some(1), Some(30)));
        assert_eq!((pace.threads(8), pace.threads(2)), (2, 1));
        pace.send(1 << 30);
        pace.open();
        pace.send(1 << 30);
    }
}
