//! Schedules, conditions and limits.

use zoneward_sectors::ids::{NodeId, SourceId};

use super::{Applied, Change, Refusal, Row, checkpoints, name_ok};
use crate::audits::Audits;
use crate::command::Command;
use crate::limits::{CRON_LEN_MAX, DFS_NAMES_MAX, LIMITS_MAX, SCHEDULES_MAX, WHY_LEN_MAX};
use crate::model::CheckpointKind;
use crate::names::{is_name, is_place, name_of};
use crate::policy::{Conditions, Limit, Maintenance, Schedule};

pub fn put_schedule(c: &mut Change<'_>, name: &str, schedule: &Schedule) -> Applied {
    name_ok(name)?;
    let text_ok = |t: &str| !t.is_empty() && t.len() <= CRON_LEN_MAX && !t.chars().any(char::is_control);
    if !text_ok(&schedule.cron) || !schedule.time_zone.as_deref().is_none_or(text_ok) {
        return Err(Refusal::Range("the cron line or the time zone"));
    }
    if schedule.window.is_some_and(|w| !w.is_valid()) {
        return Err(Refusal::Range("the window"));
    }
    if schedule.checkpoint_kind == CheckpointKind::Synthetic {
        return Err(Refusal::Range("the kind of the checkpoint"));
    }
    if schedule.idle_wait_min > 7 * 24 * 60 {
        return Err(Refusal::Range("the time to wait"));
    }
    if schedule.sources.iter().any(|s| !c.state.sources.contains_key(s)) {
        return Err(Refusal::Unknown("a source"));
    }
    let schedules = &mut c.state.policy.schedules;
    let old = schedules.get(name);
    if old.is_none() && schedules.len() >= SCHEDULES_MAX {
        return Err(Refusal::Range("the number of schedules"));
    }
    // What was begun is not for a setting to change, and what was due under the old one is not caught up on.
    let record = Schedule { since_ms: c.now, begun_ms: old.map_or(0, |s| s.begun_ms), ..schedule.clone() };
    schedules.insert(name.to_owned(), record);
    c.rows.insert(Row::Policy);
    Ok(())
}

pub fn remove_schedule(c: &mut Change<'_>, name: &str) -> Applied {
    c.state.policy.schedules.remove(name).ok_or(Refusal::Unknown("the schedule"))?;
    c.rows.insert(Row::Policy);
    Ok(())
}

pub fn set_conditions(c: &mut Change<'_>, conditions: Conditions) -> Applied {
    if conditions.idle_load_percent > 100 || conditions.idle_io_percent > 100 {
        return Err(Refusal::Range("a percentage"));
    }
    c.state.policy.conditions = conditions;
    c.rows.insert(Row::Policy);
    Ok(())
}

pub fn set_audits(c: &mut Change<'_>, audits: Audits) -> Applied {
    if !audits.is_valid() {
        return Err(Refusal::Range("how often copies are looked at"));
    }
    c.state.policy.audits = audits;
    c.rows.insert(Row::Policy);
    Ok(())
}

pub fn set_limits(c: &mut Change<'_>, limits: &[Limit]) -> Applied {
    if limits.len() > LIMITS_MAX {
        return Err(Refusal::Range("the number of limits"));
    }
    if limits.iter().any(|l| !l.window.is_valid()) {
        return Err(Refusal::Range("the window"));
    }
    if limits.iter().any(|l| l.cpu_percent.is_some_and(|p| !(1..=100).contains(&p)) || l.upload_bytes_s == Some(0)) {
        return Err(Refusal::Range("a limit"));
    }
    c.state.policy.limits = limits.to_vec();
    c.rows.insert(Row::Policy);
    Ok(())
}

pub fn map_name(c: &mut Change<'_>, name: &str, node: Option<NodeId>, path: Option<&str>) -> Applied {
    if !is_name(name) {
        return Err(Refusal::Range("the name"));
    }
    if path.is_some_and(|p| !is_place(p)) {
        return Err(Refusal::Range("the path"));
    }
    if path.is_some() && node.is_some_and(|n| !c.state.nodes.contains_key(&n)) {
        return Err(Refusal::Unknown("the node"));
    }
    let names = &c.state.policy.names;
    let old = names.get(name);
    if old.is_none() && names.len() >= DFS_NAMES_MAX {
        return Err(Refusal::Range("the number of names"));
    }
    let mut next = old.cloned().unwrap_or_default();
    let was = match (node, path) {
        (None, path) => std::mem::replace(&mut next.everywhere, path.map(str::to_owned)),
        (Some(n), Some(path)) => next.nodes.insert(n, path.to_owned()),
        (Some(n), None) => next.nodes.remove(&n),
    };
    if path.is_none() && was.is_none() {
        return Err(Refusal::Unknown("the name"));
    }
    if next.is_empty() {
        if c.state.sources.values().any(|s| name_of(&s.path) == Some(name)) {
            return Err(Refusal::State("a name that a source uses"));
        }
        c.state.policy.names.remove(name);
    } else {
        c.state.policy.names.insert(name.to_owned(), next);
    }
    c.rows.insert(Row::Policy);
    Ok(())
}

/// Keeps checkpoints from beginning while the sender changes its sources, or lets them begin again.
pub fn set_maintenance(c: &mut Change<'_>, reason: Option<&str>) -> Applied {
    let Some(reason) = reason else {
        if c.state.policy.maintenance.remove(&c.node).is_some() {
            c.rows.insert(Row::Policy);
        }
        return Ok(());
    };
    if reason.is_empty() || reason.len() > WHY_LEN_MAX || reason.chars().any(char::is_control) {
        return Err(Refusal::Range("the reason"));
    }
    if !c.state.nodes.contains_key(&c.node) {
        return Err(Refusal::Unknown("the node"));
    }
    // What is being read now would be read half as it was and half as it will be.
    if c.state.running().is_some() {
        return Err(Refusal::State("another checkpoint that is still running"));
    }
    let maintenance = Maintenance { reason: reason.to_owned(), since_ms: c.now };
    c.state.policy.maintenance.insert(c.node, maintenance);
    c.rows.insert(Row::Policy);
    Ok(())
}

/// Names lie no more on a node that is gone. One that then lies nowhere stays: sources wait for a place. And nobody waits
/// for it to be done with its sources.
pub fn forget_node(c: &mut Change<'_>, node: NodeId) {
    if c.state.policy.maintenance.remove(&node).is_some() {
        c.rows.insert(Row::Policy);
    }
    let names = &mut c.state.policy.names;
    if names.values().any(|m| m.nodes.contains_key(&node)) {
        names.values_mut().for_each(|m| drop(m.nodes.remove(&node)));
        c.rows.insert(Row::Policy);
    }
}

/// Begins what a schedule asks for at one moment of its calendar. Two leaders may both think of it: one of them is refused.
pub fn run(c: &mut Change<'_>, command: &Command) -> Applied {
    let Command::RunSchedule { name, after_ms, due_ms, checkpoint, sources } = command else {
        return Err(Refusal::Unknown("the command"));
    };
    let s = c.state.policy.schedules.get(name).ok_or(Refusal::Unknown("the schedule"))?;
    if s.paused || *after_ms != s.begun_ms || *due_ms <= s.begun_ms.max(s.since_ms) {
        return Err(Refusal::State("the schedule"));
    }
    if !s.sources.is_empty() && sources.iter().any(|id| !s.sources.contains(id)) {
        return Err(Refusal::Unknown("a source"));
    }
    let kind = s.checkpoint_kind;
    if let Some(checkpoint) = checkpoint {
        checkpoints::open(c, *checkpoint, kind, sources, false)?;
    }
    if let Some(s) = c.state.policy.schedules.get_mut(name) {
        s.begun_ms = *due_ms;
    }
    c.rows.insert(Row::Policy);
    Ok(())
}

/// A schedule of this source alone goes with it; others go on without it.
pub fn forget_source(c: &mut Change<'_>, source: SourceId) {
    let schedules = &mut c.state.policy.schedules;
    if !schedules.values().any(|s| s.sources.contains(&source)) {
        return;
    }
    schedules.retain(|_, s| s.sources != [source]);
    for s in schedules.values_mut() {
        s.sources.retain(|id| *id != source);
    }
    c.rows.insert(Row::Policy);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Outcome, apply};
    use crate::model::{CheckpointState, NodeId as Id, Standing, State};
    use crate::samples as s;

    fn at(state: &mut State, node: Id, command: &Command) -> Outcome {
        let (index, now) = (state.revision + 1, state.last_time_ms);
        apply(state, index, now, node, command).0
    }

    fn quiet(reason: Option<&str>) -> Command {
        Command::SetMaintenance { reason: reason.map(str::to_owned) }
    }

    #[test]
    fn no_checkpoint_begins_while_a_node_changes_its_sources() {
        let mut state = s::state();
        assert_eq!(at(&mut state, s::node(), &quiet(Some("a rollback"))), Outcome::Done);
        let refused = Outcome::Refused(Refusal::Maintenance);
        assert_eq!(at(&mut state, s::node(), &s::open_checkpoint(50, CheckpointKind::Full, &[1])), refused);
        let rewrite = Command::OpenRewrite { checkpoint: s::checkpoint(51), max_waste: None, owner: None };
        assert_eq!(at(&mut state, s::node(), &rewrite), refused);
        at(&mut state, s::node(), &s::put_schedule("nightly", &[1]));
        let due = s::run_schedule("nightly", 0, state.last_time_ms + 1, Some(52), &[1]);
        assert_eq!(at(&mut state, s::node(), &due), refused);
        assert_eq!(state.policy.schedules["nightly"].begun_ms, 0, "it is still due when the node is done");
        // Another node's word does not end it, that of the node does, and saying it twice is fine.
        assert_eq!(at(&mut state, Id([77; 16]), &quiet(None)), Outcome::Done);
        assert_eq!(at(&mut state, s::node(), &due), refused);
        for _ in 0..2 {
            assert_eq!(at(&mut state, s::node(), &quiet(None)), Outcome::Done);
        }
        assert_eq!(at(&mut state, s::node(), &due), Outcome::Done);
        // And not while one is read.
        assert!(state.checkpoints.values().any(|c| c.state == CheckpointState::Running));
        assert!(matches!(at(&mut state, s::node(), &quiet(Some("late"))), Outcome::Refused(Refusal::State(_))));
    }

    #[test]
    fn nobody_waits_for_a_node_that_is_given_up_or_gone() {
        let mut state = s::state();
        for bad in ["", "a\nb"] {
            assert_eq!(at(&mut state, s::node(), &quiet(Some(bad))), Outcome::Refused(Refusal::Range("the reason")));
        }
        let unknown = at(&mut state, Id([77; 16]), &quiet(Some("a rollback")));
        assert_eq!(unknown, Outcome::Refused(Refusal::Unknown("the node")));
        at(&mut state, s::node(), &quiet(Some("a rollback")));
        let stand = |standing| Command::SetNode { node: s::node(), name: None, standing: Some(standing) };
        assert_eq!(at(&mut state, s::node(), &stand(Standing::Faulty)), Outcome::Done);
        assert_eq!(state.in_maintenance().count(), 0);
        assert_eq!(at(&mut state, s::node(), &stand(Standing::Member)), Outcome::Done);
        assert_eq!(state.in_maintenance().count(), 1);
        let mut rows = Default::default();
        let (index, now) = (state.revision, state.last_time_ms);
        let mut change = Change { state: &mut state, rows: &mut rows, now, node: s::node(), index, lease: None };
        forget_node(&mut change, s::node());
        assert!(state.policy.maintenance.is_empty() && rows.contains(&Row::Policy));
    }
}
