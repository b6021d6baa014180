//! When a stored copy is looked at again, and how much of it: pure, from the state and the time.
//!
//! An audit opens a copy (header, signature chain, commitment, trailer, index, leaf table) and reads random segments of it,
//! each checked by its tag and its leaf hash; now and then it reads all of it. What is found is reported under the lease of
//! the audit ([`crate::command::Command::Audited`]). A wrong answer counts at once; silence accuses nobody until the third
//! time, [`Audits::silence_s`] after the first.

use serde::{Deserialize, Serialize};
use zoneward_sectors::ids::CopyId;

use crate::limits::{CLAIM_AUDITS_MAX, PLAN_AUDIT_MAX};
use crate::model::{Copy, State, Target};
use crate::plan::Shares;
use crate::work::Work;

/// How stored copies are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audits {
    /// Seconds in which each copy is looked at once.
    pub every_s: u32,
    /// Seconds in which all of each copy is read once; 0: never.
    pub read_s: u32,
    /// The same on targets where reading is paid for.
    pub paid_read_s: u32,
    /// Seconds of silence, three times asked, after which a copy counts as lost.
    pub silence_s: u32,
}

/// Seconds of a day.
const DAY_S: u32 = 24 * 3600;
/// How often a copy must have kept silent before it counts as lost.
pub const SILENT_MAX: u8 = 3;

impl Default for Audits {
    fn default() -> Self {
        Self { every_s: 7 * DAY_S, read_s: 30 * DAY_S, paid_read_s: 180 * DAY_S, silence_s: DAY_S }
    }
}

impl Audits {
    /// Whether these can be meant: up to ten years.
    pub fn is_valid(&self) -> bool {
        let most = 3653 * DAY_S;
        let read = |s: u32| s == 0 || (s >= self.every_s && s <= most);
        (1..=most).contains(&self.every_s)
            && read(self.read_s)
            && read(self.paid_read_s)
            && (1..=most).contains(&self.silence_s)
    }
}

/// What a look at a copy came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub enum Found {
    /// Everything that was read is right; `all`: that was all of it.
    Whole { all: bool },
    /// All bytes are right, but its target gave a wrong answer about them.
    Misproved { why: String },
    /// Bytes are wrong.
    Wrong { why: String },
    /// Its target says that it does not have it.
    Gone { why: String },
    /// No answer, or none that says anything.
    Silent { why: String },
}

/// A copy and what was found of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audited {
    pub copy: CopyId,
    pub found: Found,
}

/// When a copy is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    pub at_ms: u64,
    /// From when on all of it is read.
    pub read_ms: Option<u64>,
}

/// Whether reading from a target is paid for by the byte, as at most stores in a cloud.
fn is_paid(t: &Target) -> bool {
    t.url.starts_with("s3")
}

/// Whether a target may be away for as long as its owner likes: a disk in a drawer says nothing by its silence.
pub fn may_be_away(t: &Target) -> bool {
    t.url.starts_with("file:") || t.paused
}

/// Some of the time, so that what was stored together is not looked at together and nothing comes late: from three to
/// four fifths of `period_ms`, another for each copy.
fn spread(copy: CopyId, period_ms: u64) -> u64 {
    // Ids are random.
    let part = u64::from(copy.0[0]) << 8 | u64::from(copy.0[1]);
    period_ms * 3 / 5 + (u128::from(period_ms / 5) * u128::from(part) / 65_536) as u64
}

/// When a copy on this target is looked at next.
pub fn when(audits: &Audits, copy: &Copy, target: &Target) -> When {
    let ms = |s: u32| u64::from(s) * 1000;
    let period = if is_paid(target) { audits.paid_read_s } else { audits.read_s };
    let read_ms = (period > 0).then(|| copy.read_or_written_ms() + spread(copy.id, ms(period)));
    let at_ms = match copy.silent {
        Some(s) => s.last_ms + ms(audits.silence_s) / u64::from(SILENT_MAX - 1),
        None => copy.proved_ms() + spread(copy.id, ms(audits.every_s)),
    };
    let early = read_ms.filter(|_| copy.silent.is_none());
    When { at_ms: early.map_or(at_ms, |r| r.min(at_ms)), read_ms }
}

/// Copies whose time has come, those first that wait longest; every target gets its share of a round.
pub fn due(state: &State, now_ms: u64) -> Vec<Work> {
    let replaced = state.replaced_systems();
    let audits = &state.policy.audits;
    let mut due: Vec<(u64, &Copy)> = Vec::new();
    for c in state.copies.values().filter(|c| c.is_stored() && !replaced.contains(&c.sector)) {
        let Some(t) = state.targets.get(&c.target) else { continue };
        let at = when(audits, c, t).at_ms;
        if at <= now_ms {
            due.push((at, c));
        }
    }
    due.sort_by_key(|(at, c)| (*at, c.id));
    let mut shares = Shares::of(PLAN_AUDIT_MAX, state.targets.len());
    let taken = due.into_iter().filter(|(_, c)| shares.take(c.target));
    taken.map(|(_, c)| Work::Audit { target: c.target, copy: c.id }).collect()
}

/// Whether all of a copy is read when it is looked at now.
pub fn reads_all(state: &State, copy: &Copy, now_ms: u64) -> bool {
    let target = state.targets.get(&copy.target);
    target.and_then(|t| when(&state.policy.audits, copy, t).read_ms).is_some_and(|at| at <= now_ms)
}

/// What one node looks at together, of what is due and free: copies on one target. One that is read whole, alone.
pub(crate) fn together(state: &State, free: impl Iterator<Item = Work>, now_ms: u64) -> Vec<Work> {
    let (mut some, mut on) = (Vec::new(), None);
    for w in free {
        let Work::Audit { target, copy } = w else { continue };
        let all = state.copies.get(&copy).is_some_and(|c| reads_all(state, c, now_ms));
        if some.is_empty() && all {
            return vec![w];
        }
        if !all && *on.get_or_insert(target) == target && some.len() < CLAIM_AUDITS_MAX {
            some.push(w);
        }
    }
    some
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Outcome, Refusal, apply};
    use crate::choose::{Kind, Me, choose};
    use crate::command::Command;
    use crate::model::{CopyState, Silent};
    use crate::samples as s;

    const DAY: u64 = 24 * 3_600_000;

    /// A zone with copies 1 (target 1) and 11 (target 2) of one sector, both stored near the beginning of time.
    fn zone() -> State {
        let mut state = State::default();
        let mut all = s::begin();
        all.extend(s::backup(1, crate::model::CheckpointKind::Incremental, 1, true));
        all.extend([
            s::open_copy(11, 1, 2),
            Command::StoreCopy { copy: s::copy(11), stored_len: 9000, stored_id: None },
        ]);
        all.push(Command::StartNode { incarnation: 1, version: "1".into() });
        s::all_done(&mut state, &all);
        state
    }

    fn audit(t: u8, c: u8) -> Work {
        Work::Audit { target: s::target(t), copy: s::copy(c) }
    }

    /// Says a command at a time.
    fn say(state: &mut State, at_ms: u64, command: Command) -> Outcome {
        let index = state.revision + 1;
        apply(state, index, at_ms, s::node(), &command).0
    }

    /// Claims an audit, reports what was found, and lets go.
    fn report(state: &mut State, at_ms: u64, t: u8, c: u8, found: Found) -> Outcome {
        let claim = Command::Claim { incarnation: 1, work: vec![audit(t, c)] };
        assert_eq!(say(state, at_ms, claim), Outcome::Done);
        let epoch = state.revision;
        let results = vec![Audited { copy: s::copy(c), found }];
        let told = Command::Under { epoch, command: Box::new(Command::Audited { results }) };
        let outcome = say(state, at_ms, told);
        assert_eq!(say(state, at_ms, Command::EndLease { epoch }), Outcome::Done);
        outcome
    }

    fn silent() -> Found {
        Found::Silent { why: "it does not answer".into() }
    }

    #[test]
    fn each_copy_is_looked_at_once_in_its_period_and_not_all_at_once() {
        let mut state = zone();
        assert_eq!(due(&state, 2 * DAY), vec![]);
        assert_eq!(due(&state, 7 * DAY), vec![audit(1, 1), audit(2, 11)], "late");
        let at = 7 * DAY;
        assert_eq!(report(&mut state, at, 1, 1, Found::Whole { all: false }), Outcome::Done);
        assert_eq!(due(&state, at + 2 * DAY), vec![audit(2, 11)]);
        assert_eq!(state.copies[&s::copy(1)].audited_ms, Some(at));
        assert_eq!(state.copies[&s::copy(1)].read_ms, None);
        // Another id, another moment; all of them between three and four fifths of the period.
        let moments: std::collections::BTreeSet<u64> = (0..=255).map(|n| spread(CopyId([n; 16]), 7 * DAY)).collect();
        assert_eq!(moments.len(), 256);
        assert!(moments.iter().all(|m| (7 * DAY * 3 / 5..7 * DAY * 4 / 5).contains(m)));
    }

    #[test]
    fn all_of_a_copy_is_read_now_and_then_and_alone() {
        let mut state = zone();
        let at = 20 * DAY;
        assert!(reads_all(&state, &state.copies[&s::copy(1)], at));
        let me = Me { id: s::node(), reaches: &|_| true, leads: false };
        assert_eq!(choose(Kind::Audit, &state, &me, at), vec![audit(1, 1)], "not together with others");
        assert_eq!(report(&mut state, at, 1, 1, Found::Whole { all: true }), Outcome::Done);
        assert_eq!(state.copies[&s::copy(1)].read_ms, Some(at));
        assert!(!reads_all(&state, &state.copies[&s::copy(1)], at + 10 * DAY));
        // Where it costs money, less often; and it can be switched off.
        state.targets.get_mut(&s::target(2)).unwrap().url = "s3://bucket".into();
        assert!(!reads_all(&state, &state.copies[&s::copy(11)], at));
        assert!(reads_all(&state, &state.copies[&s::copy(11)], 180 * DAY));
        state.policy.audits.paid_read_s = 0;
        assert!(!reads_all(&state, &state.copies[&s::copy(11)], 3000 * DAY));
    }

    #[test]
    fn silence_counts_after_three_times_and_a_day() {
        let mut state = zone();
        let state_of = |s: &State| s.copies[&s::copy(1)].state;
        let at = 7 * DAY;
        assert_eq!(report(&mut state, at, 1, 1, silent()), Outcome::Done);
        assert!(!due(&state, at + DAY / 2 - 1).contains(&audit(1, 1)), "asked again too soon");
        assert!(due(&state, at + DAY / 2).contains(&audit(1, 1)));
        // Whoever asks more often accuses no earlier.
        for more in 1..6 {
            assert_eq!(report(&mut state, at + more, 1, 1, silent()), Outcome::Done);
            assert_eq!(state_of(&state), CopyState::Stored);
        }
        assert_eq!(report(&mut state, at + DAY, 1, 1, silent()), Outcome::Done);
        assert_eq!(state_of(&state), CopyState::Lost);
        assert_eq!(state.copies[&s::copy(1)].trouble.as_deref(), Some("it does not answer"));
        // What answers in between is as before; and of two tries a day apart nothing follows.
        let mut state = zone();
        for (after, found) in
            [(0, silent()), (DAY / 2, Found::Whole { all: false }), (DAY, silent()), (2 * DAY, silent())]
        {
            assert_eq!(report(&mut state, at + after, 1, 1, found), Outcome::Done);
            assert_eq!(state_of(&state), CopyState::Stored);
        }
        let first = Silent { tries: 2, first_ms: at + DAY, last_ms: at + 2 * DAY };
        assert_eq!(state.copies[&s::copy(1)].silent, Some(first));
    }

    #[test]
    fn a_wrong_answer_counts_at_once_and_a_copy_is_planned_anew() {
        for (found, becomes) in [
            (Found::Wrong { why: "segment 3 is damaged".into() }, CopyState::Damaged),
            (Found::Gone { why: "not found".into() }, CopyState::Lost),
        ] {
            let mut state = zone();
            assert_eq!(report(&mut state, 7 * DAY, 1, 1, found), Outcome::Done);
            assert_eq!(state.copies[&s::copy(1)].state, becomes);
            assert!(state.copies[&s::copy(1)].trouble.is_some());
            let plan = crate::plan::plan(&state, 7 * DAY);
            assert!(plan.contains(&Work::Copy { sector: s::sector(1), target: s::target(1) }), "{plan:?}");
            assert!(!due(&state, 99 * DAY).contains(&audit(1, 1)), "it is known to be bad");
            // Found again, it counts again, and nothing is held against it.
            let mark = Command::MarkCopy { copy: s::copy(1), state: CopyState::Stored };
            assert_eq!(say(&mut state, 8 * DAY, mark), Outcome::Done);
            assert_eq!(state.copies[&s::copy(1)].trouble, None);
        }
    }

    #[test]
    fn only_who_holds_the_audit_reports_on_it() {
        let mut state = zone();
        let results = vec![Audited { copy: s::copy(1), found: Found::Gone { why: String::new() } }];
        let claim = Command::Claim { incarnation: 1, work: vec![audit(1, 1)] };
        assert_eq!(say(&mut state, 7 * DAY, claim), Outcome::Done);
        let stray = say(&mut state, 7 * DAY, Command::Audited { results: results.clone() });
        assert_eq!(stray, Outcome::Refused(Refusal::Lease));
        let long = vec![Audited { copy: s::copy(1), found: Found::Gone { why: "x".repeat(3000) } }];
        let epoch = state.revision - 1;
        let long = Command::Under { epoch, command: Box::new(Command::Audited { results: long }) };
        assert!(matches!(say(&mut state, 7 * DAY, long), Outcome::Refused(Refusal::Range(_))));
        assert_eq!(state.copies[&s::copy(1)].state, CopyState::Stored);
    }

    #[test]
    fn who_cannot_reach_a_target_leaves_its_audits_to_others_and_the_leader_notes_the_silence_of_servers() {
        let mut state = zone();
        let at = 7 * DAY;
        let ask = |state: &State, leads, reaches: &dyn Fn(zoneward_sectors::ids::TargetId) -> bool| {
            choose(Kind::Audit, state, &Me { id: s::node(), reaches, leads }, at)
        };
        assert_eq!(ask(&state, true, &|t| t == s::target(2)), vec![audit(2, 11)]);
        assert_eq!(ask(&state, true, &|_| false), vec![], "a disk in a drawer is no news");
        state.targets.get_mut(&s::target(1)).unwrap().url = "https://server".into();
        assert_eq!(ask(&state, false, &|_| false), vec![]);
        assert_eq!(ask(&state, true, &|_| false), vec![audit(1, 1)]);
        state.targets.get_mut(&s::target(1)).unwrap().reached_by.insert(zoneward_sectors::ids::NodeId([7; 16]));
        assert_eq!(ask(&state, true, &|_| false), vec![], "another node can look");
    }
}
