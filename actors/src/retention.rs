//! Which checkpoints some rules keep, and why: pure, but for the time zone that says when a day begins.
//!
//! Order and count come from the zone's log. A day, week or month counts as one of so many only if credited time went on
//! with it: a clock that was set forward, or whoever stamps checkpoints with days to come, uses up no slot. What is in doubt
//! is kept.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use zoneward_consensus::command::Command;
use zoneward_consensus::keep::{Rules, held_back, pinned};
use zoneward_consensus::model::{Checkpoint, CheckpointKind, State};
use zoneward_sectors::ids::CheckpointId;

use crate::errors::ZoneError;
use crate::zone::Zone;

/// A checkpoint, and what keeps it; nothing: it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub id: CheckpointId,
    pub reasons: Vec<&'static str>,
}

/// One kind of period.
struct Period {
    name: &'static str,
    doubtful: &'static str,
    count: u32,
    ms: u64,
    of: fn(&Zoned) -> (i32, i32),
}

const HOUR_MS: u64 = 3_600_000;
/// This part of a period must have passed by credited time for the next one to count.
const CREDIT_PART: u64 = 24;

fn periods(r: &Rules) -> [Period; 5] {
    let period = |name, doubtful, count, hours: u64, of| Period { name, doubtful, count, ms: hours * HOUR_MS, of };
    let hour = |z: &Zoned| (i32::from(z.year()) * 366 + i32::from(z.day_of_year()), i32::from(z.hour()));
    let day = |z: &Zoned| (i32::from(z.year()), i32::from(z.day_of_year()));
    let week = |z: &Zoned| {
        let w = z.date().iso_week_date();
        (i32::from(w.year()), i32::from(w.week()))
    };
    let month = |z: &Zoned| (i32::from(z.year()), i32::from(z.month()));
    let year = |z: &Zoned| (i32::from(z.year()), 0);
    [
        period("hourly", "hourly, clock in doubt", r.hourly, 1, hour),
        period("daily", "daily, clock in doubt", r.daily, 24, day),
        period("weekly", "weekly, clock in doubt", r.weekly, 7 * 24, week),
        period("monthly", "monthly, clock in doubt", r.monthly, 30 * 24, month),
        period("yearly", "yearly, clock in doubt", r.yearly, 365 * 24, year),
    ]
}

fn local(ms: u64, zone: &TimeZone) -> Zoned {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    Zoned::new(at, zone.clone())
}

/// Judges every checkpoint that is not forgotten yet, newest first.
pub fn judge(state: &State, rules: &Rules, zone: &TimeZone) -> Vec<Judged> {
    let all: Vec<&Checkpoint> = state.complete().into_iter().rev().filter(|c| c.forgotten.is_none()).collect();
    let mut out: Vec<Judged> = all.iter().map(|c| Judged { id: c.id, reasons: Vec::new() }).collect();
    let mut keep = |i: usize, why: &'static str| {
        if let Some(j) = out.get_mut(i) {
            j.reasons.push(why);
        }
    };
    if let Some(newest) = all.first() {
        keep(0, "newest");
        let span = rules.within_s.saturating_mul(1000);
        for (i, c) in all.iter().enumerate() {
            let by_wall = newest.started_ms.saturating_sub(c.started_ms) <= span;
            let by_credit = newest.credit_ms.saturating_sub(c.credit_ms) <= span;
            if span > 0 && (by_wall || by_credit) {
                keep(i, "within");
            }
            if !c.tags.is_disjoint(&rules.tags) {
                keep(i, "tag");
            }
        }
    }
    let pinned = pinned(state);
    for (i, _) in all.iter().enumerate().filter(|(_, c)| pinned.contains_key(&c.id)) {
        keep(i, "before a sudden change");
    }
    // A synthetic one holds what another holds: it stands for no time of its own.
    let timed: Vec<(usize, &&Checkpoint)> =
        all.iter().enumerate().filter(|(_, c)| c.kind != CheckpointKind::Synthetic).collect();
    for (i, _) in timed.iter().take(rules.last as usize) {
        keep(*i, "last");
    }
    for p in periods(rules) {
        let mut used = 0;
        let mut before: Option<((i32, i32), u64)> = None;
        for (i, c) in &timed {
            if used >= p.count {
                break;
            }
            let now = (p.of)(&local(c.started_ms, zone));
            match before {
                Some((then, _)) if then == now => {}
                Some((_, credit)) if credit.saturating_sub(c.credit_ms) < p.ms / CREDIT_PART => {
                    keep(*i, p.doubtful);
                    before = Some((now, credit));
                }
                _ => {
                    keep(*i, p.name);
                    used += 1;
                    before = Some((now, c.credit_ms));
                }
            }
        }
    }
    out
}

/// Checkpoints that the zone's own rules no longer keep.
pub fn due(state: &State) -> Vec<CheckpointId> {
    let Some(rules) = &state.policy.retention else { return Vec::new() };
    let judged = judge(state, rules, &TimeZone::system());
    judged.into_iter().filter(|j| j.reasons.is_empty()).map(|j| j.id).collect()
}

/// What the zone's own rules did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub forgotten: usize,
    /// So many wait for the owner's word.
    pub waits: usize,
}

/// Marks what the zone's own rules no longer keep.
pub(crate) fn apply(zone: &mut Zone) -> Result<Applied, ZoneError> {
    let due = due(zone.state());
    if due.is_empty() {
        return Ok(Applied::default());
    }
    if held_back(zone.state(), &due).is_some() {
        return Ok(Applied { forgotten: 0, waits: due.len() });
    }
    match zone.propose(Command::Forget { checkpoints: due.clone(), now: false, owner: None }) {
        Ok(()) => Ok(Applied { forgotten: due.len(), waits: 0 }),
        // Another node was faster, or the state moved on: the next look sees.
        Err(e) if e.is_refusal() => Ok(Applied::default()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use zoneward_consensus::model::CheckpointState;
    use zoneward_sectors::ids::NodeId;

    use super::*;

    const DAY_MS: u64 = 24 * HOUR_MS;

    fn checkpoint(n: u8, started_ms: u64, credit_ms: u64) -> Checkpoint {
        Checkpoint {
            id: CheckpointId([n; 16]),
            seq: u64::from(n),
            kind: CheckpointKind::Incremental,
            state: CheckpointState::Published,
            node: NodeId([1; 16]),
            started_ms,
            finished_ms: None,
            tasks: Vec::new(),
            refused: Vec::new(),
            allow_empty: false,
            tags: BTreeSet::new(),
            forgotten: None,
            credit_ms,
            rewrite: None,
        }
    }

    fn state(all: Vec<Checkpoint>) -> State {
        State { checkpoints: all.into_iter().map(|c| (c.id, c)).collect(), ..State::default() }
    }

    /// Numbers of those that are kept, newest first.
    fn kept(state: &State, rules: &Rules) -> Vec<u8> {
        let judged = judge(state, rules, &TimeZone::UTC);
        judged.into_iter().filter(|j| !j.reasons.is_empty()).map(|j| j.id.0[0]).collect()
    }

    /// One every twelve hours for twenty days, all true.
    fn steady() -> State {
        state((1..=40).map(|n| checkpoint(n, u64::from(n) * DAY_MS / 2, u64::from(n) * DAY_MS / 2)).collect())
    }

    #[test]
    fn the_newest_of_each_period_is_kept() {
        let s = steady();
        assert_eq!(kept(&s, &Rules { last: 3, ..Rules::default() }), [40, 39, 38]);
        // The fortieth begins a day of its own; each day before has two.
        assert_eq!(kept(&s, &Rules { daily: 4, ..Rules::default() }), [40, 39, 37, 35]);
        assert_eq!(kept(&s, &Rules { weekly: 2, ..Rules::default() }).len(), 2);
        assert_eq!(kept(&s, &Rules { within_s: 86_400, ..Rules::default() }), [40, 39, 38]);
        assert_eq!(kept(&s, &Rules::default()), [40], "the newest, whatever the rules");
        assert_eq!(
            kept(&s, &Rules { last: 1, daily: 2, ..Rules::default() }),
            [40, 39],
            "one may have several reasons"
        );
    }

    #[test]
    fn tags_keep_and_the_forgotten_are_not_judged_again() {
        let mut s = steady();
        s.checkpoints.get_mut(&CheckpointId([7; 16])).unwrap().tags = ["move".to_owned()].into();
        let rules = Rules { last: 1, tags: ["move".to_owned()].into(), ..Rules::default() };
        assert_eq!(kept(&s, &rules), [40, 7]);
        let gone = zoneward_consensus::model::Forgotten { at_ms: 1, credit_ms: 1, now: false };
        s.checkpoints.get_mut(&CheckpointId([7; 16])).unwrap().forgotten = Some(gone);
        assert_eq!(kept(&s, &rules), [40]);
        assert_eq!(judge(&s, &rules, &TimeZone::UTC).len(), 39);
    }

    /// Whoever stamps checkpoints with days to come must not push the good ones out.
    #[test]
    fn days_that_only_a_clock_saw_use_up_nothing() {
        let mut all: Vec<Checkpoint> =
            (1..=5).map(|n| checkpoint(n, u64::from(n) * DAY_MS, u64::from(n) * DAY_MS)).collect();
        // Ten more within ten minutes, each stamped a week later than the one before.
        all.extend((6..=15).map(|n| checkpoint(n, u64::from(n) * 7 * DAY_MS, 5 * DAY_MS + u64::from(n) * 60_000)));
        let s = state(all);
        let daily = kept(&s, &Rules { daily: 3, ..Rules::default() });
        assert!([5, 4].iter().all(|n| daily.contains(n)), "{daily:?}");
        let weekly = kept(&s, &Rules { weekly: 2, ..Rules::default() });
        assert!(weekly.contains(&5), "{weekly:?}");
        // A clock that was set back years ago does not make the younger ones old.
        assert!(kept(&s, &Rules { within_s: 86_400, ..Rules::default() }).contains(&5));
    }

    #[test]
    fn a_synthetic_one_stands_for_no_time_of_its_own() {
        let mut s = steady();
        for n in [40, 38] {
            s.checkpoints.get_mut(&CheckpointId([n; 16])).unwrap().kind = CheckpointKind::Synthetic;
        }
        assert_eq!(kept(&s, &Rules { last: 2, ..Rules::default() }), [40, 39, 37]);
    }
}
