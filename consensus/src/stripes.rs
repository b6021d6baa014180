//! What a copy's target has to answer, known beforehand: sets of stripes (`docs/format.md` §3.5) and how far they are used.
//!
//! A key that was told is used up when it is told, not when its answer comes: this is committed first. A node that dies in
//! between costs one key, and no target ever hears one twice.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zoneward_sectors::ids::CopyId;
use zoneward_sectors::stripes::{ANSWER_LEN, Answer, ROUNDS};

use crate::apply::{Applied, Change, Refusal, Row, leases};
use crate::limits::CLAIM_AUDITS_MAX;
use crate::work::Work;

/// The answers to a set of keys of one copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyStripes {
    /// The number of the first key.
    pub first: u32,
    /// The number of the first key that was not told yet.
    pub next: u32,
    /// The answers in the order of their keys: base64 of 16 bytes each.
    pub answers: String,
}

/// A new set for a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StripeSet {
    pub copy: CopyId,
    pub first: u32,
    pub answers: String,
}

impl StripeSet {
    pub fn new(copy: CopyId, first: u32, answers: &[Answer]) -> Self {
        Self { copy, first, answers: STANDARD.encode(answers.as_flattened()) }
    }
}

impl CopyStripes {
    /// Keys that were not told yet.
    pub fn left(&self) -> u32 {
        self.first.saturating_add(ROUNDS).saturating_sub(self.next)
    }

    /// The answer to key number `j`, if it is one of this set.
    pub fn answer(&self, j: u32) -> Option<Answer> {
        let bytes = STANDARD.decode(&self.answers).ok()?;
        let at = j.checked_sub(self.first)? as usize * ANSWER_LEN;
        bytes.get(at..at + ANSWER_LEN)?.try_into().ok()
    }

    /// The key that was told last, if it is one of this set.
    pub fn told(&self) -> Option<(u32, Answer)> {
        let j = self.next.checked_sub(1)?;
        Some((j, self.answer(j)?))
    }
}

/// Takes in sets that were computed. Of keys that were told before, no set is taken.
pub(crate) fn set(c: &mut Change<'_>, sets: &[StripeSet]) -> Applied {
    for s in sets {
        let k = c.state.copies.get(&s.copy).ok_or(Refusal::Unknown("the copy"))?;
        let right = STANDARD.decode(&s.answers).is_ok_and(|a| a.len() == ROUNDS as usize * ANSWER_LEN);
        if sets.len() > CLAIM_AUDITS_MAX || !right || s.first.checked_add(ROUNDS).is_none() {
            return Err(Refusal::Range("the answers of a copy"));
        }
        if !k.is_stored() {
            return Err(Refusal::State("the copy"));
        }
        if k.stripes.as_ref().is_some_and(|old| old.next > s.first) {
            return Err(Refusal::Differs("the number of the key"));
        }
    }
    for s in sets {
        if let Some(k) = c.state.copies.get_mut(&s.copy) {
            k.stripes = Some(CopyStripes { first: s.first, next: s.first, answers: s.answers.clone() });
            c.rows.insert(Row::Copy(s.copy));
        }
    }
    Ok(())
}

/// Uses up a key of each of these copies, by who looks at them. Of a copy that has none left, nothing changes.
pub(crate) fn spend(c: &mut Change<'_>, copies: &[CopyId]) -> Applied {
    for copy in copies {
        let target = c.state.copies.get(copy).ok_or(Refusal::Unknown("the copy"))?.target;
        leases::held(c, c.state.lease_of(&Work::Audit { target, copy: *copy }).map(|l| l.epoch))?;
    }
    for copy in copies {
        if let Some(s) = c.state.copies.get_mut(copy).and_then(|k| k.stripes.as_mut()).filter(|s| s.left() > 0) {
            s.next += 1;
            c.rows.insert(Row::Copy(*copy));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Outcome, apply};
    use crate::command::Command;
    use crate::model::State;
    use crate::samples as s;

    fn say(state: &mut State, command: Command) -> Outcome {
        let index = state.revision + 1;
        apply(state, index, 1, s::node(), &command).0
    }

    fn sets(first: u32) -> Command {
        let answers: Vec<Answer> = (0..64).map(|i| [first as u8 + i; 16]).collect();
        Command::SetStripes { sets: vec![StripeSet::new(s::copy(1), first, &answers)] }
    }

    fn zone() -> State {
        let mut state = State::default();
        let mut all = s::begin();
        all.extend(s::backup(1, crate::model::CheckpointKind::Incremental, 1, true));
        all.push(Command::StartNode { incarnation: 1, version: "1".into() });
        s::all_done(&mut state, &all);
        state
    }

    #[test]
    fn a_key_is_told_once_whatever_comes_between() {
        let mut state = zone();
        assert_eq!(say(&mut state, sets(0)), Outcome::Done);
        let audit = Work::Audit { target: s::target(1), copy: s::copy(1) };
        let spend = Command::SpendStripes { copies: vec![s::copy(1)] };
        assert_eq!(say(&mut state, Command::Claim { incarnation: 1, work: vec![audit] }), Outcome::Done);
        let epoch = state.revision;
        assert_eq!(say(&mut state, spend.clone()), Outcome::Refused(Refusal::Lease), "only who looks at it");
        let under = |command: Command| Command::Under { epoch, command: Box::new(command) };
        for told in 0..64 {
            assert_eq!(say(&mut state, under(spend.clone())), Outcome::Done);
            let stripes = state.copies[&s::copy(1)].stripes.clone().unwrap();
            assert_eq!(stripes.told(), Some((told, [told as u8; 16])));
            assert_eq!(stripes.left(), 63 - told);
        }
        let before = state.copies[&s::copy(1)].clone();
        assert_eq!(say(&mut state, under(spend)), Outcome::Done);
        assert_eq!(state.copies[&s::copy(1)], before, "there are no more");
        // A set with a key that was told is refused, the next ones are taken.
        assert_eq!(say(&mut state, sets(63)), Outcome::Refused(Refusal::Differs("the number of the key")));
        assert_eq!(say(&mut state, sets(64)), Outcome::Done);
        assert_eq!(state.copies[&s::copy(1)].stripes.as_ref().unwrap().left(), 64);
        assert_eq!(state.copies[&s::copy(1)].stripes.as_ref().unwrap().told(), None);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let mut state = zone();
        let bad =
            |answers: String, first| Command::SetStripes { sets: vec![StripeSet { copy: s::copy(1), first, answers }] };
        let right = "A".repeat(1366) + "==";
        for command in [bad(String::new(), 0), bad("?".repeat(1368), 0), bad(right.clone(), u32::MAX - 3)] {
            assert_eq!(say(&mut state, command), Outcome::Refused(Refusal::Range("the answers of a copy")));
        }
        let unknown = Command::SetStripes { sets: vec![StripeSet { copy: s::copy(99), first: 0, answers: right }] };
        assert_eq!(say(&mut state, unknown), Outcome::Refused(Refusal::Unknown("the copy")));
        assert_eq!(state.copies[&s::copy(1)].stripes, None);
    }
}
