//! How fast a token may ask, and how slowly a guess is answered. Of this node, in memory, bounded.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use zoneward_sectors::ids::TokenId;

use super::Problem;

/// Requests a second of one token, and how many at once after a rest.
pub const PER_SECOND: u32 = 50;
pub const BURST: u32 = 100;
/// Tokens whose pace is remembered: twice as many as can be valid.
const REMEMBERED_MAX: usize = 2 * zoneward_consensus::limits::TOKENS_MAX;
/// Failed logins that wait for their answer at once; more are turned away.
const WAITING_MAX: usize = 32;
/// The wait of the first failed login; each more within [`FORGET`] doubles it, up to the second.
const WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// A quiet time after which failed logins are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// What a token may still ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub remaining: u32,
    /// Seconds until it may ask all of [`BURST`] again.
    pub reset_s: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// The pace of each token.
#[derive(Debug, Default)]
pub struct Rates(Mutex<BTreeMap<TokenId, Bucket>>);

impl Rates {
    /// Counts a request; what is over the limit is refused.
    pub fn take(&self, id: TokenId, now: Instant) -> Result<Rate, Problem> {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if all.len() >= REMEMBERED_MAX && !all.contains_key(&id) {
            // Whoever has rested long enough has all of its burst again, remembered or not.
            all.retain(|_, b| now.duration_since(b.at) < Duration::from_secs(u64::from(BURST / PER_SECOND)));
        }
        let full = f64::from(BURST);
        let bucket = all.entry(id).or_insert(Bucket { tokens: full, at: now });
        let rested = now.saturating_duration_since(bucket.at).as_secs_f64();
        *bucket = Bucket { tokens: (bucket.tokens + rested * f64::from(PER_SECOND)).min(full), at: now };
        if bucket.tokens < 1.0 {
            return Err(Problem::too_many("the token asks faster than 50 times a second", 1));
        }
        bucket.tokens -= 1.0;
        let reset = (full - bucket.tokens) / f64::from(PER_SECOND);
        Ok(Rate { remaining: bucket.tokens as u32, reset_s: reset.ceil() as u64 })
    }
}

/// Failed logins.
#[derive(Debug, Default)]
pub struct Failures {
    waiting: AtomicUsize,
    recent: Mutex<Option<(Instant, u32)>>,
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Failures {
    /// How long this failure waits.
    fn count(&self, now: Instant) -> Duration {
        let mut recent = self.recent.lock().unwrap_or_else(|e| e.into_inner());
        let before = recent.filter(|(at, _)| now.saturating_duration_since(*at) < FORGET).map_or(0, |(_, n)| n);
        *recent = Some((now, before.saturating_add(1)));
        WAIT.0.saturating_mul(1 << before.min(16)).min(WAIT.1)
    }

    /// Slows a failed login down; answers what to say. Whoever has a valid token is not slowed.
    pub async fn slow(&self, why: Problem) -> Problem {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Problem::too_many("many logins fail", WAIT.1.as_secs());
        }
        let waiting = Waiting(&self.waiting);
        tokio::time::sleep(self.count(Instant::now())).await;
        drop(waiting);
        why
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_may_ask_a_hundred_times_and_then_fifty_a_second() {
        let (rates, now, id) = (Rates::default(), Instant::now(), TokenId([1; 16]));
        for left in (0..BURST).rev() {
            assert_eq!(rates.take(id, now).unwrap().remaining, left);
        }
        assert_eq!(rates.take(id, now).unwrap_err().status.as_u16(), 429);
        assert!(rates.take(TokenId([2; 16]), now).is_ok(), "others are not held up");
        let later = now + Duration::from_secs(1);
        let passed = (0..BURST).filter(|_| rates.take(id, later).is_ok()).count();
        assert_eq!(passed as u32, PER_SECOND);
    }

    #[test]
    fn failures_wait_ever_longer_up_to_a_bound_and_are_forgotten() {
        let (failures, now) = (Failures::default(), Instant::now());
        let waits: Vec<u128> = (0..10).map(|_| failures.count(now).as_millis()).collect();
        assert_eq!(waits[..4], [50, 100, 200, 400]);
        assert_eq!(waits[9], 3000);
        assert_eq!(failures.count(now + FORGET).as_millis(), 50);
    }

    #[test]
    fn more_failures_than_may_wait_are_turned_away_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let failures = std::sync::Arc::new(Failures::default());
            let asked: Vec<_> = (0..WAITING_MAX + 5)
                .map(|_| {
                    let f = failures.clone();
                    tokio::spawn(async move { f.slow(Problem::unauthorized("no")).await.status.as_u16() })
                })
                .collect();
            let mut answers = Vec::new();
            for a in asked {
                answers.push(a.await.unwrap());
            }
            assert_eq!(answers.iter().filter(|s| **s == 429).count(), 5);
            assert_eq!(answers.iter().filter(|s| **s == 401).count(), WAITING_MAX);
            assert_eq!(failures.waiting.load(Ordering::Relaxed), 0);
        });
    }
}
