//! Credited time: the only time on which removed sectors are purged.
//!
//! It starts at the wall clock's and then grows by what the wall clock and the monotonic clock both saw pass. A wall
//! clock that jumps credits nothing and is reported; time during which the server was off is not credited either, so
//! a lock can only last longer than it says, never shorter.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use zoneward_sectors::fsx;

use crate::limits::{CLOCK_FILE_LEN_MAX, CLOCK_SLACK};

/// A wall clock that went otherwise than the monotonic one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// Milliseconds; negative: it went back.
    pub by_ms: i64,
}

/// The arithmetic alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credit {
    pub credited_ms: u64,
}

impl Credit {
    /// Credits a step of both clocks, or reports the jump.
    pub fn step(&mut self, wall_ms: i64, monotonic: Duration) -> Option<Jump> {
        let monotonic_ms = i64::try_from(monotonic.as_millis()).unwrap_or(i64::MAX);
        let by_ms = wall_ms.saturating_sub(monotonic_ms);
        if by_ms.unsigned_abs() > CLOCK_SLACK.as_millis() as u64 {
            return Some(Jump { by_ms });
        }
        let step = wall_ms.min(monotonic_ms).max(0);
        self.credited_ms = self.credited_ms.saturating_add(step.unsigned_abs());
        None
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    credited_ms: u64,
}

/// The clock of a data directory.
pub(crate) struct Clock {
    path: PathBuf,
    credit: Credit,
    wall: SystemTime,
    monotonic: Instant,
}

pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Clock {
    /// Reads the clock, or starts one.
    pub fn open(dir: &Path) -> std::io::Result<Self> {
        let path = dir.join("clock.json");
        let credited_ms = match fsx::size(&path)? {
            None => wall_ms(),
            Some(_) => {
                let file: File = serde_json::from_slice(&fsx::read_limited(&path, CLOCK_FILE_LEN_MAX)?)?;
                file.credited_ms
            }
        };
        let mut clock =
            Self { path, credit: Credit { credited_ms }, wall: SystemTime::now(), monotonic: Instant::now() };
        clock.save()?;
        Ok(clock)
    }

    pub fn now_ms(&self) -> u64 {
        self.credit.credited_ms
    }

    /// Looks at both clocks again.
    pub fn tick(&mut self) -> Option<Jump> {
        let (wall, monotonic) = (SystemTime::now(), Instant::now());
        let wall_step = match wall.duration_since(self.wall) {
            Ok(forward) => i64::try_from(forward.as_millis()).unwrap_or(i64::MAX),
            Err(back) => i64::try_from(back.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        };
        let jump = self.credit.step(wall_step, monotonic.duration_since(self.monotonic));
        (self.wall, self.monotonic) = (wall, monotonic);
        jump
    }

    /// Keeps what was credited over a restart.
    pub fn save(&mut self) -> std::io::Result<()> {
        let bytes = serde_json::to_vec(&File { format: 1, credited_ms: self.credit.credited_ms })?;
        fsx::write_durably(&self.path, &bytes, 0o600)
    }

    /// For tests: lets credited time pass.
    #[cfg(test)]
    pub fn credit(&mut self, time: Duration) {
        self.credit.credited_ms += time.as_millis() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn only_time_that_both_clocks_saw_is_credited() {
        let mut c = Credit { credited_ms: 1000 };
        assert_eq!(c.step(60_000, MINUTE), None);
        assert_eq!(c.credited_ms, 61_000);
        // The slower of both counts, within the slack.
        assert_eq!(c.step(59_000, MINUTE), None);
        assert_eq!(c.step(61_000, MINUTE), None);
        assert_eq!(c.credited_ms, 61_000 + 59_000 + 60_000);
        let before = c.credited_ms;
        // Eight days forward, a year back, and a monotonic clock that stood while the wall clock ran.
        for (wall, monotonic) in
            [(8 * 86_400_000, MINUTE), (-365 * 86_400_000, MINUTE), (60_000, Duration::ZERO), (i64::MAX, MINUTE)]
        {
            let jump = c.step(wall, monotonic).unwrap();
            assert_eq!(jump.by_ms.is_negative(), wall < 0);
            assert_eq!(c.credited_ms, before);
        }
        assert_eq!(c.step(-10, Duration::ZERO), None);
        assert_eq!(c.credited_ms, before);
    }

    #[test]
    fn a_restart_credits_nothing() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut clock = Clock::open(dir.path()).unwrap();
        clock.credit(Duration::from_secs(1000));
        clock.save().unwrap();
        let at = clock.now_ms();
        assert_eq!(Clock::open(dir.path()).unwrap().now_ms(), at);
        std::fs::write(dir.path().join("clock.json"), "{").unwrap();
        assert!(Clock::open(dir.path()).is_err());
    }
}
