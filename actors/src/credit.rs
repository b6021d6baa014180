//! Time that this node saw pass, for the grace of what was forgotten.
//!
//! Between two looks the wall clock and the steady clock both tell how much time passed, and the smaller one counts. The
//! steady clock runs on while the machine sleeps, but not while it is off: over a restart the wall clock alone tells, and a
//! day counts at most. So a clock that is set forward ends no grace; a grace can only last longer than it says.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zoneward_consensus::command::Command;
use zoneward_sectors::fsx;

use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::home::{Home, io_at};
use crate::zone::Zone;

/// What counts at most over a restart, ms.
const RESTART_MS_MAX: u64 = 24 * 3_600_000;
/// Bytes of the file.
const FILE_LEN_MAX: u64 = 4096;

/// Both clocks at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Look {
    format: u32,
    /// Which start of the machine the steady clock is of.
    boot: String,
    steady_ms: u64,
    wall_ms: u64,
}

impl Look {
    fn now() -> std::io::Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        // Seconds since the machine started, sleep included.
        let uptime = std::fs::read_to_string("/proc/uptime")?;
        let seconds = uptime.split_whitespace().next().and_then(|s| s.parse::<f64>().ok());
        let steady_ms = seconds.map(|s| (s * 1000.0) as u64).ok_or_else(|| std::io::Error::other("/proc/uptime"))?;
        Ok(Self { format: 1, boot, steady_ms, wall_ms: now_ms() })
    }

    /// How much time surely passed since an earlier look.
    fn since(&self, before: &Look) -> u64 {
        let wall = self.wall_ms.saturating_sub(before.wall_ms);
        let most =
            if self.boot == before.boot { self.steady_ms.saturating_sub(before.steady_ms) } else { RESTART_MS_MAX };
        wall.min(most)
    }
}

fn path(home: &Home) -> PathBuf {
    home.dir().join("credited.json")
}

/// Time since the last look of this home, which is remembered before it is told: it never counts twice.
pub(crate) fn step(home: &Home) -> Result<u64, ZoneError> {
    let path = path(home);
    let now = Look::now().map_err(io_at("read the clocks of", home.dir()))?;
    // A home without a look begins to count now; so does one whose look cannot be read.
    let before = fsx::read_limited(&path, FILE_LEN_MAX).ok().and_then(|b| serde_json::from_slice::<Look>(&b).ok());
    let bytes = serde_json::to_vec(&now).map_err(|_| ZoneError::State { what: "the time that passed" })?;
    fsx::write_durably(&path, &bytes, 0o600).map_err(io_at("write", &path))?;
    Ok(before.map_or(0, |b| now.since(&b)))
}

/// Tells the zone how much time this node saw pass. Where a daemon serves the home, it does that: no moment counts twice.
pub fn tell(zone: &mut Zone) -> Result<(), ZoneError> {
    if zone.is_shared() {
        return Ok(());
    }
    let passed = step(&zone.home)?;
    let Some(known) = zone.state().nodes.get(&zone.node()).map(|n| n.credit_ms) else { return Ok(()) };
    if passed == 0 {
        return Ok(());
    }
    match zone.propose(Command::Credit { credit_ms: known.saturating_add(passed) }) {
        // Somebody else on this node told more meanwhile.
        Err(e) if e.is_refusal() => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(boot: &str, steady_ms: u64, wall_ms: u64) -> Look {
        Look { format: 1, boot: boot.into(), steady_ms, wall_ms }
    }

    #[test]
    fn only_what_both_clocks_saw_counts() {
        let before = look("a", 1_000, 50_000);
        for (now, passed) in [
            (look("a", 2_000, 51_000), 1_000),
            // The wall clock jumps ten years forward, or back.
            (look("a", 2_000, 315_360_000_000), 1_000),
            (look("a", 2_000, 10), 0),
            // The steady clock stands still.
            (look("a", 1_000, 51_000), 0),
            (look("a", 0, 51_000), 0),
            // Over a restart: the wall clock, up to a day.
            (look("b", 5, 51_000), 1_000),
            (look("b", 5, 315_360_000_000), RESTART_MS_MAX),
            (look("b", 9_000_000, 10), 0),
        ] {
            assert_eq!(now.since(&before), passed, "{now:?}");
        }
    }

    #[test]
    fn a_home_counts_each_moment_once() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(&dir.path().join("home")).unwrap();
        assert_eq!(step(&home).unwrap(), 0, "it begins now");
        let mut early = Look::now().unwrap();
        early.steady_ms -= 500;
        early.wall_ms -= 700;
        std::fs::write(path(&home), serde_json::to_vec(&early).unwrap()).unwrap();
        let passed = step(&home).unwrap();
        assert!((500..60_000).contains(&passed), "{passed}");
        assert!(step(&home).unwrap() < 60_000);
        std::fs::write(path(&home), b"{").unwrap();
        assert_eq!(step(&home).unwrap(), 0);
    }
}
