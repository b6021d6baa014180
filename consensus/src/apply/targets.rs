//! Targets: where copies lie.

use std::collections::BTreeSet;

use zoneward_sectors::ids::{CopyId, Digest, TargetId};

use super::{Applied, Change, Refusal, Row, credentials_ok, leases, name_ok};
use crate::command::Command;
use crate::limits::TROUBLE_LEN_MAX;
use crate::model::{Misshown, Target};
use crate::terms::Terms;

pub fn add(c: &mut Change<'_>, command: &Command) -> Applied {
    let Command::AddTarget { target, name, url, alias, domain, credentials } = command else {
        return Err(Refusal::Unknown("the command"));
    };
    name_ok(name)?;
    credentials.as_ref().map_or(Ok(()), |c| credentials_ok(c))?;
    if c.state.targets.values().any(|t| t.id == *target || t.name == *name || t.url == *url) {
        return Err(Refusal::Exists("a target of this name or URL"));
    }
    let record = Target {
        id: *target,
        name: name.clone(),
        url: url.clone(),
        alias: *alias,
        domain: domain.clone(),
        added_ms: c.now,
        paused: false,
        leaving: false,
        owner_key_hash: None,
        pointer: None,
        misshown: None,
        reached_by: BTreeSet::new(),
        credentials: credentials.clone(),
        terms: Terms::default(),
    };
    c.state.targets.insert(*target, record);
    c.rows.insert(Row::Target(*target));
    Ok(())
}

/// Two targets never have one name or one URL.
pub fn edit(c: &mut Change<'_>, command: &Command) -> Applied {
    let Command::EditTarget { target, name, url, domain, leaving } = command else {
        return Err(Refusal::Unknown("the command"));
    };
    name.as_deref().map_or(Ok(()), name_ok)?;
    if url.as_deref().is_some_and(|u| u.is_empty() || u.len() > crate::limits::PATH_LEN_MAX) {
        return Err(Refusal::Range("the target's URL"));
    }
    if !c.state.targets.contains_key(target) {
        return Err(Refusal::Unknown("the target"));
    }
    let mut others = c.state.targets.values().filter(|t| t.id != *target);
    if others.any(|t| Some(&t.name) == name.as_ref() || Some(&t.url) == url.as_ref()) {
        return Err(Refusal::Exists("a target of this name or URL"));
    }
    if let Some(t) = c.state.targets.get_mut(target) {
        t.name = name.clone().unwrap_or_else(|| t.name.clone());
        t.url = url.clone().unwrap_or_else(|| t.url.clone());
        t.domain = match domain.as_deref() {
            None => t.domain.clone(),
            Some("") => None,
            Some(d) => Some(d.to_owned()),
        };
        t.leaving = leaving.unwrap_or(t.leaving);
        if url.is_some() {
            // Who reached it where it was has to look again.
            t.reached_by.clear();
        }
        c.rows.insert(Row::Target(*target));
    }
    Ok(())
}

pub fn set_terms(c: &mut Change<'_>, target: TargetId, terms: &Terms) -> Applied {
    if !terms.are_valid() {
        return Err(Refusal::Range("the target's price, quota or date"));
    }
    let t = c.state.targets.get_mut(&target).ok_or(Refusal::Unknown("the target"))?;
    t.terms.clone_from(terms);
    c.rows.insert(Row::Target(target));
    Ok(())
}

pub fn remove(c: &mut Change<'_>, target: TargetId, lose: bool) -> Applied {
    if !c.state.targets.contains_key(&target) {
        return Err(Refusal::Unknown("the target"));
    }
    if c.state.targets.len() == 1 {
        return Err(Refusal::Range("the number of targets"));
    }
    if !lose && !c.state.only_on(target).is_empty() {
        return Err(Refusal::State("the only copy of something: it"));
    }
    leases::end_all(c, |l| l.work.iter().any(|w| w.target() == Some(target)));
    let gone: BTreeSet<CopyId> = c.state.copies.values().filter(|k| k.target == target).map(|k| k.id).collect();
    for id in &gone {
        c.state.copies.remove(id);
        c.rows.insert(Row::Copy(*id));
    }
    // What a node holds staged of them serves no longer.
    for s in c.state.sectors.values_mut().filter(|s| s.staged.values().any(|k| gone.contains(k))) {
        s.staged.retain(|_, k| !gone.contains(k));
        c.rows.insert(Row::Sector(s.id));
    }
    c.state.targets.remove(&target);
    c.rows.insert(Row::Target(target));
    Ok(())
}

/// A target shows another head than it was given: it gets the newest one anew. Since it was looked at, it may have got it.
pub fn misshown(c: &mut Change<'_>, target: TargetId, wrote: Digest, what: &str) -> Applied {
    if what.len() > TROUBLE_LEN_MAX || what.chars().any(char::is_control) {
        return Err(Refusal::Range("what the target shows"));
    }
    let now = c.now;
    let t = c.state.targets.get_mut(&target).ok_or(Refusal::Unknown("the target"))?;
    if t.pointer.is_none_or(|p| p.hash != wrote) {
        return Err(Refusal::Differs("the head that was written there"));
    }
    t.pointer = None;
    t.misshown = Some(Misshown { at_ms: now, what: what.to_owned() });
    c.rows.insert(Row::Target(target));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Outcome, apply};
    use crate::model::{CheckpointKind, State};
    use crate::plan::{Work, plan};
    use crate::samples as s;

    fn say(state: &mut State, command: Command) -> Outcome {
        let index = state.revision + 1;
        apply(state, index, 1000 + index, s::node(), &command).0
    }

    fn edit(t: u8) -> Command {
        Command::EditTarget { target: s::target(t), name: None, url: None, domain: None, leaving: None }
    }

    fn zone() -> State {
        let mut state = State::default();
        s::all_done(&mut state, &s::begin());
        s::all_done(&mut state, &s::backup(1, CheckpointKind::Full, 1, true));
        state
    }

    #[test]
    fn names_and_urls_stay_apart() {
        let mut state = zone();
        let with = |name: &str, url: &str| Command::EditTarget {
            target: s::target(1),
            name: Some(name.into()),
            url: Some(url.into()),
            domain: Some("attic".into()),
            leaving: None,
        };
        let exists = Outcome::Refused(Refusal::Exists("a target of this name or URL"));
        assert_eq!(say(&mut state, with("t2", "file:///new")), exists);
        assert_eq!(say(&mut state, with("new", "file:///t3")), exists);
        state.targets.get_mut(&s::target(1)).unwrap().reached_by.insert(s::node());
        assert_eq!(say(&mut state, with("new", "file:///new")), Outcome::Done);
        let t = &state.targets[&s::target(1)];
        assert_eq!((t.name.as_str(), t.url.as_str(), t.domain.as_deref()), ("new", "file:///new", Some("attic")));
        assert!(t.reached_by.is_empty());
        let Command::EditTarget { target, .. } = edit(1) else { unreachable!() };
        let none = Command::EditTarget { target, name: None, url: None, domain: Some(String::new()), leaving: None };
        assert_eq!(say(&mut state, none), Outcome::Done);
        assert_eq!(state.targets[&s::target(1)].domain, None);
    }

    #[test]
    fn terms_are_set_all_at_once_and_nothing_that_cannot_be() {
        let mut state = zone();
        let set = s::set_terms(1, 5);
        assert_eq!(say(&mut state, set.clone()), Outcome::Done);
        let Command::SetTerms { terms, .. } = set else { unreachable!() };
        assert_eq!(state.targets[&s::target(1)].terms, terms);
        let before = state.clone();
        let bad = |f: &dyn Fn(&mut Terms)| {
            let mut terms = terms.clone();
            f(&mut terms);
            Command::SetTerms { target: s::target(1), terms }
        };
        let currency = |c: &'static str| bad(&move |t| t.price.as_mut().unwrap().currency = c.into());
        for command in [
            bad(&|t| t.quota_bytes = Some(0)),
            bad(&|t| t.paid_until_ms = Some(0)),
            bad(&|t| t.price.as_mut().unwrap().micros = crate::limits::PRICE_MICROS_MAX + 1),
            currency("eur"),
            currency("\u{1b}[2J"),
        ] {
            assert!(matches!(say(&mut state, command), Outcome::Refused(Refusal::Range(_))));
        }
        assert_eq!(state.targets, before.targets);
        assert_eq!(say(&mut state, s::set_terms(9, 5)), Outcome::Refused(Refusal::Unknown("the target")));
        // Nothing said is nothing stored: the record is as it was before anybody said anything.
        let none = Command::SetTerms { target: s::target(1), terms: Terms::default() };
        assert_eq!(say(&mut state, none), Outcome::Done);
        assert!(!serde_json::to_string(&state.targets[&s::target(1)]).unwrap().contains("terms"));
    }

    #[test]
    fn a_target_goes_when_all_that_is_needed_lies_elsewhere() {
        let mut state = zone();
        let one = s::target(1);
        let remove = |lose| Command::RemoveTarget { target: one, lose };
        assert!(matches!(say(&mut state, remove(false)), Outcome::Refused(Refusal::State(_))));
        assert_eq!(state.only_on(one).len(), 1);
        // It is to leave: what it holds no longer counts, so copies are made on the others, also in its own domain.
        let leave = Command::EditTarget {
            target: one,
            name: None,
            url: None,
            domain: Some("cellar".into()),
            leaving: Some(true),
        };
        assert_eq!(say(&mut state, leave), Outcome::Done);
        let to: Vec<u8> = plan(&state, 0)
            .iter()
            .filter_map(|w| match w {
                Work::Copy { target, .. } => Some(target.0[15]),
                _ => None,
            })
            .collect();
        assert_eq!(to, [2], "the third shares its domain with the second");
        assert_eq!(say(&mut state, s::open_copy(7, 1, 2)), Outcome::Done);
        assert_eq!(
            say(&mut state, Command::StoreCopy { copy: s::copy(7), stored_len: 9000, stored_id: None }),
            Outcome::Done
        );
        assert_eq!(say(&mut state, remove(false)), Outcome::Done);
        assert!(!state.targets.contains_key(&one) && state.copies.values().all(|k| k.target != one));
        // The only copy of something goes with its target if that is said.
        let two = s::target(2);
        let lose = |lose| Command::RemoveTarget { target: two, lose };
        assert!(matches!(say(&mut state, lose(false)), Outcome::Refused(Refusal::State(_))));
        assert_eq!(say(&mut state, lose(true)), Outcome::Done);
        let last = Command::RemoveTarget { target: s::target(3), lose: true };
        assert!(matches!(say(&mut state, last), Outcome::Refused(Refusal::Range(_))));
    }
}
