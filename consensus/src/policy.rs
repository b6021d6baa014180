//! When the zone backs itself up, and what it may use meanwhile. Plain values: what a cron line means is for the leader to
//! work out; here only what was begun is recorded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zoneward_sectors::ids::{NodeId, SourceId};

use crate::audits::Audits;
use crate::keep::Rules;
use crate::model::CheckpointKind;
use crate::names::Mapped;

/// The zone's settings for work that nobody asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub schedules: BTreeMap<String, Schedule>,
    pub conditions: Conditions,
    /// The first that fits the hour counts.
    pub limits: Vec<Limit>,
    /// How stored copies are looked after.
    #[serde(default)]
    pub audits: Audits,
    /// Where `dfs://` names lie.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, Mapped>,
    /// Which checkpoints are kept; all if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Rules>,
    /// Seconds of credited time for which what was forgotten can be taken back.
    #[serde(default = "grace_s")]
    pub grace_s: u32,
    /// Nodes that change their sources, and why: no checkpoint begins meanwhile.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub maintenance: BTreeMap<NodeId, Maintenance>,
}

/// Why a node's sources are not to be read now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    pub reason: String,
    pub since_ms: u64,
}

/// A week.
fn grace_s() -> u32 {
    7 * 24 * 3600
}

/// One line of the calendar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Minute, hour, day of the month, month, day of the week.
    pub cron: String,
    /// An IANA time zone; the leader's own if not given.
    pub time_zone: Option<String>,
    /// Hours in which a checkpoint may begin; any if not given.
    pub window: Option<Window>,
    /// Sources that it backs up; all if empty.
    pub sources: Vec<SourceId>,
    pub checkpoint_kind: CheckpointKind,
    /// Minutes to wait for nodes that are idle; 0 does not wait.
    pub idle_wait_min: u32,
    pub paused: bool,
    /// When it was made or changed: what was due before is not caught up on.
    pub since_ms: u64,
    /// The moment of the calendar that was begun last.
    pub begun_ms: u64,
}

/// Minutes of a day, from the first up to and without the second; over midnight if the second is the smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub from_min: u16,
    pub to_min: u16,
}

/// Minutes of a day.
pub const DAY_MIN: u16 = 24 * 60;

impl Window {
    pub fn holds(self, minute: u16) -> bool {
        if self.from_min <= self.to_min {
            (self.from_min..self.to_min).contains(&minute)
        } else {
            minute >= self.from_min || minute < self.to_min
        }
    }

    pub fn is_valid(self) -> bool {
        self.from_min < DAY_MIN && self.to_min <= DAY_MIN && self.from_min != self.to_min
    }
}

/// When scheduled work is left alone, and what counts as idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// Whether work may begin on a node that runs on battery.
    pub on_battery: bool,
    /// Whether work may begin on a node whose connection is metered.
    pub on_metered: bool,
    /// Percent of a node's cores that others may use while it still counts as idle.
    pub idle_load_percent: u8,
    /// Percent of the time in which something waits for its disks while it still counts as idle.
    pub idle_io_percent: u8,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { on_battery: false, on_metered: false, idle_load_percent: 50, idle_io_percent: 20 }
    }
}

/// What work may use on each node in some hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub window: Window,
    /// Bytes a second that a node sends to targets.
    pub upload_bytes_s: Option<u64>,
    /// Percent of a node's cores.
    pub cpu_percent: Option<u8>,
}

impl Default for Policy {
    /// Once a day, at night, when the nodes are idle, at the latest six hours later.
    fn default() -> Self {
        let daily = Schedule {
            cron: "0 1 * * *".into(),
            time_zone: None,
            window: None,
            sources: Vec::new(),
            checkpoint_kind: CheckpointKind::Incremental,
            idle_wait_min: 360,
            paused: false,
            since_ms: 0,
            begun_ms: 0,
        };
        Self {
            schedules: BTreeMap::from([("daily".to_owned(), daily)]),
            conditions: Conditions::default(),
            limits: Vec::new(),
            audits: Audits::default(),
            names: BTreeMap::new(),
            retention: None,
            grace_s: grace_s(),
            maintenance: BTreeMap::new(),
        }
    }
}

impl Policy {
    /// What counts at this minute of the day.
    pub fn limit_at(&self, minute: u16) -> Option<Limit> {
        self.limits.iter().find(|l| l.window.holds(minute)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_reach_over_midnight() {
        let w = |from_min, to_min| Window { from_min, to_min };
        for (window, minute, holds) in [
            (w(60, 120), 59, false),
            (w(60, 120), 60, true),
            (w(60, 120), 119, true),
            (w(60, 120), 120, false),
            (w(1320, 360), 1320, true),
            (w(1320, 360), 0, true),
            (w(1320, 360), 359, true),
            (w(1320, 360), 360, false),
            (w(1320, 360), 1319, false),
            (w(0, 1440), 1439, true),
        ] {
            assert_eq!(window.holds(minute), holds, "{window:?} {minute}");
        }
        assert!(w(0, 1440).is_valid() && w(1439, 0).is_valid());
        assert!(!w(1440, 0).is_valid() && !w(0, 1441).is_valid() && !w(5, 5).is_valid());
    }

    #[test]
    fn the_first_limit_that_fits_counts() {
        let limit = |from_min, to_min, n| Limit {
            window: Window { from_min, to_min },
            upload_bytes_s: Some(n),
            cpu_percent: None,
        };
        let policy = Policy { limits: vec![limit(480, 1080, 1), limit(0, 1440, 2)], ..Policy::default() };
        assert_eq!(policy.limit_at(500).and_then(|l| l.upload_bytes_s), Some(1));
        assert_eq!(policy.limit_at(1080).and_then(|l| l.upload_bytes_s), Some(2));
        assert_eq!(Policy::default().limit_at(500), None);
    }
}
