use zoneward_sectors::ids::NodeId;

use super::*;
use crate::apply::{Outcome, apply};
use crate::command::Command;
use crate::model::{Standing, State};
use crate::samples as s;
use crate::secrets::{Want, holders, want};

const NEW: Digest = Digest([7; 32]);
const OTHER: Digest = Digest([8; 32]);

fn n(id: u8) -> NodeId {
    NodeId([id; 16])
}

fn say(state: &mut State, by: u8, command: Command) -> Outcome {
    let index = state.revision + 1;
    apply(state, index, 1000 + index, n(by), &command).0
}

fn offer(epoch: u32, check: Digest) -> Command {
    Command::OfferSecret { epoch, check }
}

fn hold(epoch: u32, check: Digest) -> Command {
    Command::HoldSecret { epoch, check }
}

/// A zone of so many nodes.
fn zone(nodes: u8) -> State {
    let mut state = State::default();
    s::all_done(&mut state, &s::begin()[..1]);
    for id in 1..=nodes {
        let key = id.to_string();
        let add = Command::AddNode { node: n(id), name: key.clone(), public_key: key, certificate: "Y2Vy".into() };
        assert_eq!(say(&mut state, 1, add), Outcome::Done);
    }
    state
}

fn remove(state: &mut State, id: u8) {
    assert_eq!(say(state, 1, Command::RemoveNode { node: n(id) }), Outcome::Done);
}

fn of(state: &State) -> &Zone {
    state.zone.as_ref().unwrap()
}

#[test]
fn a_new_secret_is_used_once_a_majority_holds_it() {
    let mut state = zone(6);
    assert!(matches!(say(&mut state, 1, offer(2, NEW)), Outcome::Refused(Refusal::State(_))), "nobody is gone");
    remove(&mut state, 6);
    assert!(of(&state).secret_stale);
    assert!(matches!(say(&mut state, 1, offer(1, NEW)), Outcome::Refused(Refusal::Range(_))));
    assert!(matches!(say(&mut state, 9, offer(2, NEW)), Outcome::Refused(Refusal::State(_))));
    assert_eq!(say(&mut state, 1, offer(2, NEW)), Outcome::Done);
    assert!(matches!(say(&mut state, 2, offer(2, OTHER)), Outcome::Refused(Refusal::Exists(_))));
    assert!(matches!(say(&mut state, 2, hold(2, OTHER)), Outcome::Refused(Refusal::Differs(_))));
    assert!(matches!(say(&mut state, 2, hold(3, NEW)), Outcome::Refused(Refusal::Differs(_))));
    assert_eq!(say(&mut state, 2, hold(2, NEW)), Outcome::Done);
    // Said twice it counts once.
    assert_eq!(say(&mut state, 2, hold(2, NEW)), Outcome::Done);
    assert_eq!((of(&state).secret_epoch, of(&state).secret_check), (1, None), "two of five");
    assert_eq!(say(&mut state, 3, hold(2, NEW)), Outcome::Done);
    assert_eq!((of(&state).secret_epoch, of(&state).secret_check), (2, Some(NEW)));
    assert!(!of(&state).secret_stale && of(&state).secret_next.is_none());
}

#[test]
fn who_goes_while_it_is_handed_out_does_not_keep_the_new_one() {
    let mut state = zone(4);
    remove(&mut state, 4);
    assert_eq!(say(&mut state, 1, offer(2, NEW)), Outcome::Done);
    remove(&mut state, 3);
    assert_eq!(of(&state).secret_next, None);
    assert!(matches!(say(&mut state, 2, hold(2, NEW)), Outcome::Refused(Refusal::Unknown(_))));
    assert_eq!(say(&mut state, 2, offer(3, OTHER)), Outcome::Done);
    assert_eq!(say(&mut state, 1, hold(3, OTHER)), Outcome::Done);
    assert_eq!(of(&state).secret_epoch, 3);
}

#[test]
fn of_two_changes_of_keys_one_counts() {
    let mut state = zone(3);
    let d = |n| Digest([n; 32]);
    let change = |before, now| Command::SetOwnerFile { before: d(before), now: d(now) };
    assert_eq!(say(&mut state, 1, change(1, 2)), Outcome::Done);
    assert_eq!(say(&mut state, 1, change(1, 2)), Outcome::Done, "said twice");
    assert!(matches!(say(&mut state, 2, change(1, 3)), Outcome::Refused(Refusal::Differs(_))));
    assert_eq!(say(&mut state, 2, change(2, 3)), Outcome::Done);
    assert_eq!(of(&state).owner_files, [d(1), d(2), d(3)]);
    // Cut before it was on a disk: the same node tries again, and others do once that node is gone.
    assert_eq!(say(&mut state, 2, change(2, 4)), Outcome::Done);
    assert!(matches!(say(&mut state, 3, change(2, 5)), Outcome::Refused(Refusal::Differs(_))));
    remove(&mut state, 2);
    assert_eq!(say(&mut state, 3, change(2, 5)), Outcome::Done);
    assert_eq!(of(&state).owner_files, [d(1), d(3), d(4), d(2), d(5)]);
}

#[test]
fn a_witness_that_goes_knew_nothing_and_does_not_count() {
    let mut state = zone(4);
    let witness = Command::SetNode { node: n(4), name: None, standing: Some(Standing::Witness) };
    assert_eq!(say(&mut state, 1, witness), Outcome::Done);
    let mut without = state.clone();
    remove(&mut without, 4);
    assert!(!of(&without).secret_stale);
    remove(&mut state, 3);
    assert!(matches!(say(&mut state, 4, offer(2, NEW)), Outcome::Refused(Refusal::State(_))));
    assert_eq!(want(&state, n(4), true, &|_, _| false), Want::Nothing);
    assert_eq!(say(&mut state, 1, offer(2, NEW)), Outcome::Done);
    assert_eq!(say(&mut state, 2, hold(2, NEW)), Outcome::Done);
    assert_eq!(of(&state).secret_epoch, 2);
}

#[test]
fn what_each_node_does_leads_there() {
    let mut state = zone(4);
    let none = |_: u32, _: Digest| false;
    assert_eq!(want(&state, n(1), true, &none), Want::Nothing);
    remove(&mut state, 4);
    assert_eq!(want(&state, n(2), false, &none), Want::Nothing, "the leader makes it");
    assert_eq!(want(&state, n(1), true, &none), Want::Make);
    assert_eq!(say(&mut state, 1, offer(2, NEW)), Outcome::Done);
    let held = |epoch: u32, check: Digest| (epoch, check) == (2, NEW);
    assert_eq!(want(&state, n(1), true, &held), Want::Nothing);
    // It lost what it offered: it makes another, and nobody is stuck.
    assert_eq!(want(&state, n(1), false, &none), Want::Make);
    assert_eq!(want(&state, n(2), false, &none), Want::Fetch { epoch: 2, check: NEW });
    assert_eq!(holders(&state, n(2), 2), [n(1)]);
    assert_eq!(want(&state, n(2), false, &held), Want::Tell { epoch: 2, check: NEW });
    // The two others break: those who are left are enough.
    let mut broken = state.clone();
    for id in [2, 3] {
        let faulty = Command::SetNode { node: n(id), name: None, standing: Some(Standing::Faulty) };
        assert_eq!(say(&mut broken, 1, faulty), Outcome::Done);
    }
    assert_eq!(want(&broken, n(1), true, &held), Want::Tell { epoch: 2, check: NEW });
    assert_eq!(say(&mut broken, 1, hold(2, NEW)), Outcome::Done);
    assert_eq!(of(&broken).secret_epoch, 2);
    assert_eq!(say(&mut state, 2, hold(2, NEW)), Outcome::Done);
    assert_eq!(of(&state).secret_epoch, 2);
    // The third comes late.
    assert_eq!(want(&state, n(3), false, &none), Want::Fetch { epoch: 2, check: NEW });
    assert_eq!(holders(&state, n(3), 2), [n(1), n(2)]);
    assert_eq!(want(&state, n(3), false, &held), Want::Nothing);
    // One whose holders are all gone is made anew.
    remove(&mut state, 3);
    assert_eq!(say(&mut state, 1, offer(4, OTHER)), Outcome::Done);
    assert_eq!(want(&state, n(2), true, &held), Want::Fetch { epoch: 4, check: OTHER });
}
