//! Leases: who does which work. A report under a lease that has ended changes nothing, so that of two nodes that do the
//! same work, the second by mistake, only one counts.

use std::collections::BTreeSet;

use zoneward_sectors::ids::{CheckpointId, SourceId};

use super::{Applied, Change, Refusal, Row, checkpoints, dispatch, sectors};
use crate::command::Command;
use crate::limits::{CLAIM_MAX, LEASES_MAX};
use crate::model::{CheckpointState, CopyState, Lease, Standing, TaskState};
use crate::planted::{Bug, planted};
use crate::work::Work;

pub fn claim(c: &mut Change<'_>, incarnation: u64, work: &[Work]) -> Applied {
    may_claim(c, incarnation)?;
    let distinct: BTreeSet<&Work> = work.iter().collect();
    if work.is_empty() || work.len() > CLAIM_MAX || distinct.len() != work.len() {
        return Err(Refusal::Range("the work asked for"));
    }
    if c.state.leases.len() >= LEASES_MAX {
        return Err(Refusal::Range("the number of leases"));
    }
    for w in work {
        if c.state.lease_of(w).is_some() && !planted(Bug::GrantedTwice) {
            return Err(Refusal::Held);
        }
        if !is_open(c, w) {
            return Err(Refusal::State("the work"));
        }
    }
    let epoch = c.index;
    let lease = Lease { epoch, node: c.node, incarnation, work: work.to_vec(), since_ms: c.now };
    c.state.leases.insert(epoch, lease);
    c.rows.insert(Row::Lease(epoch));
    if planted(Bug::OpenHandedOn) {
        hand_on(c, epoch);
    }
    // A copy that somebody else began goes on under the new lease.
    for w in work {
        let Work::Copy { sector, target } = *w else { continue };
        let begun =
            |k: &&mut crate::model::Copy| k.sector == sector && k.target == target && k.state == CopyState::Open;
        for k in c.state.copies.values_mut().filter(begun) {
            k.lease = Some(epoch);
            c.rows.insert(Row::Copy(k.id));
        }
    }
    Ok(())
}

fn may_claim(c: &Change<'_>, incarnation: u64) -> Applied {
    let Some(node) = c.state.nodes.get(&c.node) else {
        return if planted(Bug::RemovedClaims) { Ok(()) } else { Err(Refusal::Unknown("the node")) };
    };
    if node.standing != Standing::Member {
        return Err(Refusal::State("the node"));
    }
    if node.incarnation != incarnation && !planted(Bug::OldStartClaims) {
        return Err(Refusal::Differs("the number of the node's start"));
    }
    Ok(())
}

/// Gives sectors that were left open to the next lease: for a planted mistake.
fn hand_on(c: &mut Change<'_>, epoch: u64) {
    let left: BTreeSet<_> =
        c.state.sectors.values().filter(|s| !s.is_sealed() && s.lease.is_none()).map(|s| s.id).collect();
    for s in &left {
        c.rows.insert(Row::Sector(*s));
        c.state.sectors.entry(*s).and_modify(|s| s.lease = Some(epoch));
    }
    for k in c.state.copies.values_mut().filter(|k| left.contains(&k.sector) && k.state == CopyState::Open) {
        k.lease = Some(epoch);
        c.rows.insert(Row::Copy(k.id));
    }
}

/// Whether this work is there to be done.
fn is_open(c: &Change<'_>, work: &Work) -> bool {
    let in_state = |id: CheckpointId, s| c.state.checkpoints.get(&id).is_some_and(|x| x.state == s);
    match *work {
        Work::Pack { checkpoint, source } => c.state.checkpoints.get(&checkpoint).is_some_and(|x| {
            let open = |t: &crate::model::Task| t.source == source && t.state == TaskState::Running;
            x.state == CheckpointState::Running && x.tasks.iter().any(open)
        }),
        Work::Stage { sector } => {
            let s = c.state.sectors.get(&sector);
            s.is_some_and(|s| s.is_sealed() && !s.staged.contains_key(&c.node))
        }
        Work::Copy { sector, target } => {
            let sealed = c.state.sectors.get(&sector).is_some_and(|s| s.is_sealed());
            let begun = c
                .state
                .copies
                .values()
                .find(|k| k.sector == sector && k.target == target && k.state == CopyState::Open);
            let free = begun.map(|k| k.id);
            sealed && c.state.targets.contains_key(&target) && sectors::place_free(c, sector, target, free).is_ok()
        }
        Work::WriteSystem { checkpoint } => in_state(checkpoint, CheckpointState::Stored),
        Work::Audit { target, copy } => c.state.copies.get(&copy).is_some_and(|k| k.is_stored() && k.target == target),
        Work::Publish { target } => c.state.targets.contains_key(&target),
        Work::RemoveIncoming { copy, .. } => c.state.copies.get(&copy).is_some_and(|k| k.state == CopyState::Abandoned),
        Work::ResumeCheckpoint { .. } | Work::StoreCheckpoint { .. } | Work::FinishCheckpoint { .. } => false,
    }
}

pub fn end(c: &mut Change<'_>, epoch: u64) -> Applied {
    if !c.state.leases.contains_key(&epoch) {
        return Err(Refusal::Unknown("the lease"));
    }
    end_all(c, |l| l.epoch == epoch);
    Ok(())
}

/// Ends leases and gives up what was begun under them and is not sealed. A further copy stays as far as it is: its bytes
/// are always the same, so the next holder goes on with it.
pub(super) fn end_all(c: &mut Change<'_>, which: impl Fn(&Lease) -> bool) {
    let ended: Vec<Lease> = c.state.leases.values().filter(|l| which(l)).cloned().collect();
    for lease in ended {
        c.state.leases.remove(&lease.epoch);
        c.rows.insert(Row::Lease(lease.epoch));
        let of_it = Some(lease.epoch);
        let open: Vec<_> =
            c.state.sectors.values().filter(|s| s.lease == of_it && !s.is_sealed()).map(|s| s.id).collect();
        for s in open {
            if planted(Bug::OpenHandedOn) {
                c.state.sectors.entry(s).and_modify(|s| s.lease = None);
                c.rows.insert(Row::Sector(s));
            } else {
                sectors::give_up(c, s);
            }
        }
        for k in c.state.copies.values_mut().filter(|k| k.lease == of_it) {
            k.lease = None;
            c.rows.insert(Row::Copy(k.id));
        }
        let packs = lease.work.iter().filter_map(|w| match *w {
            Work::Pack { checkpoint, source } => Some((checkpoint, source)),
            _ => None,
        });
        let packs: BTreeSet<(CheckpointId, SourceId)> = packs.collect();
        let checkpoints: BTreeSet<CheckpointId> = packs.iter().map(|(x, _)| *x).collect();
        for x in checkpoints {
            checkpoints::drop_empty_layers(c, x, |s| packs.contains(&(x, s)));
            c.rows.insert(Row::Checkpoint(x));
        }
    }
}

pub fn under(c: &mut Change<'_>, epoch: u64, command: &Command) -> Applied {
    let holder = c.state.leases.get(&epoch).map(|l| l.node);
    if holder != Some(c.node) && !planted(Bug::LeaseUnchecked) {
        return Err(Refusal::Lease);
    }
    if matches!(command, Command::Under { .. }) {
        return Err(Refusal::State("a command under two leases"));
    }
    c.lease = Some(epoch);
    dispatch(c, command)
}

/// Refuses what is not said by the holder of the lease under which a thing was begun.
pub(crate) fn held(c: &Change<'_>, lease: Option<u64>) -> Applied {
    if lease == c.lease || planted(Bug::ReportUnfenced) { Ok(()) } else { Err(Refusal::Lease) }
}

/// Refuses a report on a task that another lease holds, or that this one does not.
pub(super) fn holds_pack(c: &Change<'_>, checkpoint: CheckpointId, source: SourceId) -> Applied {
    held(c, c.state.lease_of(&Work::Pack { checkpoint, source }).map(|l| l.epoch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Outcome, apply};
    use crate::model::{CheckpointKind, State};
    use crate::samples as s;
    use zoneward_sectors::ids::NodeId;

    const OTHER: NodeId = NodeId([2; 16]);

    fn say(state: &mut State, node: NodeId, command: Command) -> Outcome {
        let index = state.revision + 1;
        apply(state, index, 1000 + index, node, &command).0
    }

    fn claim(work: &[Work]) -> Command {
        Command::Claim { incarnation: 1, work: work.to_vec() }
    }

    fn under(epoch: u64, command: Command) -> Command {
        Command::Under { epoch, command: Box::new(command) }
    }

    /// A zone of two nodes with a checkpoint of two sources.
    fn begun() -> State {
        let mut state = State::default();
        s::all_done(&mut state, &s::begin());
        let other = Command::AddNode {
            node: OTHER,
            name: "other".into(),
            public_key: "b3Ro".into(),
            certificate: "Y2Vy".into(),
        };
        s::all_done(&mut state, &[other, s::open_checkpoint(1, CheckpointKind::Incremental, &[1, 2])]);
        for node in [s::node(), OTHER] {
            let start = Command::StartNode { incarnation: 1, version: "1".into() };
            assert_eq!(say(&mut state, node, start), Outcome::Done);
        }
        state
    }

    fn pack(source: u8) -> Work {
        Work::Pack { checkpoint: s::checkpoint(1), source: s::source(source) }
    }

    #[test]
    fn work_has_one_holder_and_only_its_word_counts() {
        let mut state = begun();
        assert_eq!(say(&mut state, s::node(), claim(&[pack(1)])), Outcome::Done);
        let mine = state.revision;
        assert_eq!(say(&mut state, OTHER, claim(&[pack(2), pack(1)])), Outcome::Refused(Refusal::Held));
        assert_eq!(say(&mut state, OTHER, claim(&[pack(2)])), Outcome::Done);
        let theirs = state.revision;
        let steps = [s::open_layer(1, 1, 1, true), s::open_sector(1, 1, false, 2), s::open_copy(1, 1, 1)];
        for step in &steps {
            assert_eq!(say(&mut state, s::node(), under(mine, step.clone())), Outcome::Done, "{step:?}");
        }
        let seal = s::seal(1, 1, &[(1, s::part(1, 0))]);
        // Without the lease, under another one, in another's name: nothing counts.
        for (node, command) in [
            (s::node(), seal.clone()),
            (OTHER, under(mine, seal.clone())),
            (OTHER, under(theirs, seal.clone())),
            (s::node(), under(theirs, seal.clone())),
            (s::node(), under(mine + 100, seal.clone())),
            (OTHER, under(theirs, s::finish_task(1, 1))),
            (s::node(), s::finish_task(1, 1)),
            (OTHER, under(theirs, s::open_layer(5, 1, 1, true))),
            (OTHER, under(theirs, s::open_copy(5, 1, 2))),
        ] {
            let outcome = say(&mut state, node, command.clone());
            assert_eq!(outcome, Outcome::Refused(Refusal::Lease), "{command:?} by {node}");
        }
        assert_eq!(say(&mut state, s::node(), under(mine, seal)), Outcome::Done);
        assert_eq!(say(&mut state, s::node(), under(mine, s::finish_task(1, 1))), Outcome::Done);
        assert_eq!(say(&mut state, s::node(), Command::EndLease { epoch: mine }), Outcome::Done);
        assert!(state.sectors[&s::sector(1)].is_sealed());
    }

    #[test]
    fn what_was_sealed_stays_and_what_was_open_goes_when_a_lease_ends() {
        let mut state = begun();
        say(&mut state, s::node(), claim(&[pack(1)]));
        let mine = state.revision;
        say(&mut state, OTHER, claim(&[pack(2)]));
        let theirs = state.revision;
        for step in [
            s::open_layer(1, 1, 1, true),
            s::open_sector(1, 1, false, 2),
            s::open_copy(1, 1, 1),
            s::seal(1, 1, &[(1, s::part(1, 0))]),
            s::open_sector(2, 1, false, 2),
            s::open_copy(2, 2, 1),
        ] {
            assert_eq!(say(&mut state, s::node(), under(mine, step.clone())), Outcome::Done, "{step:?}");
        }
        for step in [s::open_layer(7, 1, 2, true), s::open_sector(7, 1, false, 1), s::open_copy(7, 7, 1)] {
            assert_eq!(say(&mut state, OTHER, under(theirs, step.clone())), Outcome::Done, "{step:?}");
        }
        // The first holder fell silent: the leader, whoever it is, says so.
        assert_eq!(say(&mut state, OTHER, Command::EndLease { epoch: mine }), Outcome::Done);
        assert!(state.sectors.contains_key(&s::sector(1)) && !state.sectors.contains_key(&s::sector(2)));
        assert_eq!(state.copies[&s::copy(2)].state, CopyState::Abandoned);
        assert!(state.layers.contains_key(&s::layer(7)), "the other's empty layer is not touched");
        assert!(state.sectors.contains_key(&s::sector(7)));
        // It wakes up: nothing of what it says counts.
        let late = under(mine, s::seal(2, 2, &[(1, s::part(2, 1))]));
        assert_eq!(say(&mut state, s::node(), late), Outcome::Refused(Refusal::Lease));
        // Another goes on from the sealed sector.
        assert_eq!(say(&mut state, OTHER, claim(&[pack(1)])), Outcome::Done);
        let task = state.checkpoints[&s::checkpoint(1)].tasks.iter().find(|t| t.source == s::source(1));
        assert_eq!(task.map(|t| t.layers.clone()), Some(vec![s::layer(1)]));
    }

    #[test]
    fn a_new_start_and_a_faulty_node_hold_nothing() {
        let mut state = begun();
        say(&mut state, OTHER, claim(&[pack(1)]));
        let start = Command::StartNode { incarnation: 2, version: "1".into() };
        assert_eq!(say(&mut state, OTHER, start), Outcome::Done);
        assert!(state.leases.is_empty());
        assert!(matches!(say(&mut state, OTHER, claim(&[pack(1)])), Outcome::Refused(Refusal::Differs(_))));
        let again = Command::Claim { incarnation: 2, work: vec![pack(1)] };
        assert_eq!(say(&mut state, OTHER, again.clone()), Outcome::Done);
        let faulty = Command::SetNode { node: OTHER, name: None, standing: Some(Standing::Faulty) };
        assert_eq!(say(&mut state, s::node(), faulty), Outcome::Done);
        assert!(state.leases.is_empty());
        assert!(matches!(say(&mut state, OTHER, again), Outcome::Refused(Refusal::State(_))));
    }

    #[test]
    fn claims_are_bounded_and_for_what_is_there_to_do() {
        let mut state = begun();
        let unknown = Work::Pack { checkpoint: s::checkpoint(9), source: s::source(1) };
        for bad in [vec![], vec![pack(1), pack(1)], vec![pack(1); CLAIM_MAX + 1]] {
            assert!(matches!(say(&mut state, OTHER, claim(&bad)), Outcome::Refused(Refusal::Range(_))));
        }
        for not_there in [unknown, Work::WriteSystem { checkpoint: s::checkpoint(1) }] {
            assert!(matches!(say(&mut state, OTHER, claim(&[not_there])), Outcome::Refused(Refusal::State(_))));
        }
        // A command under a lease cannot hide another one.
        say(&mut state, OTHER, claim(&[pack(1)]));
        let epoch = state.revision;
        let nested = under(epoch, under(epoch, s::store(1)));
        assert!(matches!(say(&mut state, OTHER, nested), Outcome::Refused(Refusal::State(_))));
    }

    #[test]
    fn what_one_node_cannot_read_is_left_to_the_others() {
        let mut state = begun();
        let refused = crate::model::RefusedSource { source: s::source(1), code: 1412, why: "not allowed here".into() };
        let pass = Command::PassTask { checkpoint: s::checkpoint(1), refused };
        let source = state.sources[&s::source(1)].clone();
        let should = |state: &State, node, now| state.should_read(node, s::checkpoint(1), &source, now);
        assert!(should(&state, s::node(), 2_000) && should(&state, OTHER, 2_000));
        assert_eq!(say(&mut state, s::node(), pass.clone()), Outcome::Done);
        let at = state.last_time_ms;
        assert!(!should(&state, s::node(), at + 1) && should(&state, OTHER, at + 1));
        // Nobody else did for a while.
        assert!(should(&state, s::node(), at + 300_000));
        // All failed: who comes next gives it up.
        assert_eq!(say(&mut state, OTHER, pass.clone()), Outcome::Done);
        let at = state.last_time_ms;
        assert!(should(&state, s::node(), at + 1) && should(&state, OTHER, at + 1));
        assert!(state.left_to(s::checkpoint(1), &source, at + 1).is_empty());
        assert_eq!(state.checkpoints[&s::checkpoint(1)].tasks[0].passed[&OTHER].why, "not allowed here");
        // While another node holds it, it is not this one's to say.
        assert_eq!(say(&mut state, OTHER, claim(&[pack(1)])), Outcome::Done);
        assert!(matches!(say(&mut state, s::node(), pass), Outcome::Refused(_)));
    }

    #[test]
    fn a_source_in_trouble_keeps_what_the_checkpoint_before_holds() {
        let mut state = State::default();
        s::all_done(&mut state, &s::begin());
        s::all_done(&mut state, &s::backup(1, CheckpointKind::Incremental, 1, true));
        s::all_done(&mut state, &[s::open_checkpoint(2, CheckpointKind::Incremental, &[1, 2])]);
        let refuse = |n| Command::RefuseTask {
            checkpoint: s::checkpoint(2),
            refused: crate::model::RefusedSource { source: s::source(n), code: 1401, why: "it is empty now".into() },
        };
        s::all_done(&mut state, &[refuse(1), refuse(2), s::store(2)]);
        let c = &state.checkpoints[&s::checkpoint(2)];
        assert_eq!(c.tasks.len(), 1, "there was nothing of the second source");
        assert_eq!((c.tasks[0].state, c.tasks[0].layers.clone()), (TaskState::Carried, vec![s::layer(1)]));
        assert_eq!(c.refused.len(), 2);
    }
}
