use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_sectors::crypto::{Secret32, Signer as _, SigningKey};
use zoneward_sectors::ids::NodeId;

use super::*;
use crate::apply::{Outcome, apply};
use crate::command::Command;
use crate::keep::Hold;
use crate::model::{CheckpointKind, CopyState, State, TaskState};
use crate::owner::message;
use crate::plan::{Work, plan};
use crate::samples::{self as s, all_done};

const DAY_MS: u64 = 24 * 3_600_000;

fn say(state: &mut State, command: Command) -> Outcome {
    let index = state.revision + 1;
    apply(state, index, 1000 + index, s::node(), &command).0
}

fn forget(n: &[u8]) -> Command {
    Command::Forget { checkpoints: n.iter().map(|n| s::checkpoint(*n)).collect(), now: false, owner: None }
}

fn credit(ms: u64) -> Command {
    Command::Credit { credit_ms: ms }
}

/// The system data of a checkpoint, shown on target 1. Its sector and copy have the number 20 more, its head the same.
fn publish(n: u8) -> Vec<Command> {
    vec![
        s::open_sector(20 + n, n, true, 1),
        s::open_copy(20 + n, 20 + n, 1),
        s::seal(20 + n, 20 + n, &[]),
        s::head(u64::from(n), 20 + n, n),
        Command::PublishedPointer { target: s::target(1), n: u64::from(n), hash: Default::default() },
        Command::FinishCheckpoint { checkpoint: s::checkpoint(n) },
    ]
}

/// Checkpoints 1, 2, … of source 1: whole ones, so that none needs another.
fn zone(checkpoints: u8) -> State {
    let mut state = State::default();
    all_done(&mut state, &s::begin());
    for n in 1..=checkpoints {
        all_done(&mut state, &s::backup(n, CheckpointKind::Full, 1, true));
        all_done(&mut state, &publish(n));
    }
    state
}

#[test]
fn what_was_forgotten_waits_for_its_grace_and_can_be_taken_back() {
    let mut state = zone(5);
    all_done(&mut state, &[forget(&[1]), credit(6 * DAY_MS)]);
    all_done(&mut state, &s::backup(6, CheckpointKind::Full, 1, true));
    assert!(state.checkpoints.contains_key(&s::checkpoint(1)), "its grace is not over");
    assert!(state.sectors.contains_key(&s::sector(1)));
    let mut kept = state.clone();
    all_done(&mut kept, &[Command::Remember { checkpoints: vec![s::checkpoint(1)] }, credit(60 * DAY_MS)]);
    all_done(&mut kept, &s::backup(7, CheckpointKind::Full, 1, true));
    assert!(kept.checkpoints.contains_key(&s::checkpoint(1)));
    all_done(&mut state, &[credit(7 * DAY_MS + 1)]);
    assert!(state.checkpoints.contains_key(&s::checkpoint(1)), "it leaves with the next one that is stored");
    all_done(&mut state, &s::backup(7, CheckpointKind::Full, 1, true));
    assert!(!state.checkpoints.contains_key(&s::checkpoint(1)));
    assert!(!state.sectors.contains_key(&s::sector(1)) && !state.layers.contains_key(&s::layer(1)));
    assert!(state.sectors.contains_key(&s::sector(2)), "what others need stays");
    let gone = &state.copies[&s::copy(1)];
    assert_eq!((gone.state, gone.unneeded), (CopyState::Abandoned, Some(7)));
    assert_eq!(say(&mut state, Command::Remember { checkpoints: vec![s::checkpoint(1)] }), unknown());
}

fn unknown() -> Outcome {
    Outcome::Refused(Refusal::Unknown("the checkpoint"))
}

#[test]
fn a_file_goes_only_when_its_target_shows_a_head_that_does_not_speak_of_it() {
    let mut state = zone(5);
    all_done(&mut state, &[forget(&[1]), credit(8 * DAY_MS)]);
    all_done(&mut state, &s::backup(6, CheckpointKind::Full, 1, true));
    let removes = |state: &State| {
        let all = plan(state, 0).into_iter();
        all.filter_map(|w| match w {
            Work::RemoveIncoming { copy, .. } => Some(copy),
            _ => None,
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(removes(&state), [], "target 1 shows the head of checkpoint 5, which leads to checkpoint 1");
    all_done(&mut state, &publish(6));
    // Two copies of what was just packed are wanted, and there is one.
    assert_eq!(removes(&state), [], "what was written last has no second copy yet");
    let more = [s::open_copy(60, 6, 2), Command::StoreCopy { copy: s::copy(60), stored_len: 1, stored_id: None }];
    all_done(&mut state, &more);
    let gone = removes(&state);
    assert!(gone.contains(&s::copy(1)) && !gone.contains(&s::copy(2)), "{gone:?}");
    // A system sector that newer ones replaced goes the same way; the two newest stay. Those before it left with
    // checkpoints whose own data lacks copies still.
    assert!(gone.contains(&s::copy(23)) && !gone.contains(&s::copy(25)) && !gone.contains(&s::copy(26)), "{gone:?}");
    // The record of a checkpoint may go while what it wrote still lacks a copy.
    let mut lacking = state.clone();
    all_done(&mut lacking, &[Command::MarkCopy { copy: s::copy(60), state: CopyState::Lost }]);
    lacking.checkpoints.remove(&s::checkpoint(6));
    lacking.head.as_mut().unwrap().checkpoint = s::checkpoint(7);
    let newer =
        crate::model::Checkpoint { id: s::checkpoint(7), seq: 7, ..state.checkpoints[&s::checkpoint(6)].clone() };
    lacking.checkpoints.insert(newer.id, newer);
    assert_eq!(removes(&lacking), []);
    all_done(&mut state, &[Command::AbandonCopy { copy: s::copy(1) }]);
    assert!(!state.copies.contains_key(&s::copy(1)));
}

#[test]
fn a_chain_keeps_what_it_is_made_of() {
    let mut state = State::default();
    all_done(&mut state, &s::begin());
    all_done(&mut state, &s::backup(1, CheckpointKind::Full, 1, true));
    all_done(&mut state, &s::backup(2, CheckpointKind::Incremental, 1, false));
    // Another source's layer names content in sector 3, which no layer of its own lies in.
    all_done(&mut state, &s::backup(3, CheckpointKind::Full, 2, true));
    let mut last = s::backup(4, CheckpointKind::Full, 1, true);
    for c in &mut last {
        if let Command::SealSector { refs, .. } = c {
            refs.insert(s::layer(4), [s::sector(3)].into());
        }
    }
    all_done(&mut state, &[Command::RemoveSource { source: s::source(2) }]);
    all_done(&mut state, &last);
    all_done(&mut state, &s::backup(5, CheckpointKind::Incremental, 1, false));
    all_done(&mut state, &[forget(&[1]), forget(&[3])]);
    all_done(&mut state, &[credit(8 * DAY_MS)]);
    all_done(&mut state, &s::backup(6, CheckpointKind::Incremental, 1, false));
    assert!(!state.checkpoints.contains_key(&s::checkpoint(1)) && !state.checkpoints.contains_key(&s::checkpoint(3)));
    assert!(state.sectors.contains_key(&s::sector(1)), "checkpoint 2 builds on it");
    assert!(state.sectors.contains_key(&s::sector(3)), "layer 4 names content in it");
    assert!(!state.layers.contains_key(&s::layer(3)));
    assert!(state.former.is_empty(), "no checkpoint holds the source any more");
    // A layer that does not tell what it names keeps everything.
    state.layers.get_mut(&s::layer(5)).unwrap().refs = None;
    let before = state.sectors.len();
    assert_eq!(say(&mut state, forget(&[2])), Outcome::Done);
    all_done(&mut state, &[credit(30 * DAY_MS)]);
    all_done(&mut state, &s::backup(7, CheckpointKind::Incremental, 1, false));
    assert_eq!(state.sectors.len(), before + 1);
}

#[test]
fn the_newest_stays_and_so_does_what_is_not_there_or_marked_already() {
    let mut state = zone(4);
    assert_eq!(say(&mut state, forget(&[4])), Outcome::Refused(Refusal::State("the newest checkpoint")));
    assert_eq!(say(&mut state, forget(&[9])), unknown());
    for bad in [&[][..], &[1, 1]] {
        assert_eq!(say(&mut state, forget(bad)), Outcome::Refused(Refusal::Range("the checkpoints")));
    }
    all_done(&mut state, &[forget(&[1])]);
    assert_eq!(say(&mut state, forget(&[1])), Outcome::Refused(Refusal::State("the checkpoint")));
    let not_marked = Command::Remember { checkpoints: vec![s::checkpoint(2)] };
    assert_eq!(say(&mut state, not_marked), Outcome::Refused(Refusal::State("the checkpoint")));
}

#[test]
fn much_at_once_and_the_last_that_was_found_whole_wait_for_the_owner() {
    let mut state = zone(5);
    let owner = Outcome::Refused(Refusal::Owner);
    assert_eq!(say(&mut state, forget(&[1, 2])), owner, "two of five");
    all_done(&mut state, &[forget(&[1])]);
    assert_eq!(say(&mut state, forget(&[2])), owner, "many small steps are one large one");
    let mut state = zone(5);
    let read = Command::Verified { copies: vec![s::copy(2)], read: true, sampled: false };
    all_done(&mut state, &[read]);
    let held = crate::keep::held_back(&state, &[s::checkpoint(2)]);
    assert_eq!(held, Some(Hold::LastVerified(s::source(1))));
    assert_eq!(say(&mut state, forget(&[2])), owner);
    all_done(&mut state, &[Command::Verified { copies: vec![s::copy(4)], read: false, sampled: true }]);
    assert_eq!(say(&mut state, forget(&[2])), Outcome::Done);
}

#[test]
fn what_was_there_before_most_files_changed_at_once_waits_for_the_owner() {
    // Of 100 files: changed, gone, new.
    for (changed, removed, new, sudden) in [
        (50, 0, 0, false),
        (51, 0, 0, true),
        (0, 100, 100, true),
        (30, 25, 25, true),
        (0, 100, 0, false),
        (0, 0, 500, false),
    ] {
        let mut state = zone(7);
        all_done(&mut state, &[Command::Verified { copies: vec![s::copy(7)], read: true, sampled: false }]);
        let stats = &mut state.checkpoints.get_mut(&s::checkpoint(6)).unwrap().tasks[0].stats;
        (stats.files, stats.changed_files, stats.removed, stats.new_files) =
            (100 - removed + new, changed, removed, new);
        let pinned: Vec<_> = crate::keep::pinned(&state).keys().copied().collect();
        let three = [s::checkpoint(3), s::checkpoint(4), s::checkpoint(5)];
        assert_eq!(pinned == three, sudden, "{changed} changed, {removed} gone, {new} new: {pinned:?}");
        let outcome = say(&mut state.clone(), forget(&[4]));
        assert_eq!(outcome == Outcome::Refused(Refusal::Owner), sudden);
        assert_eq!(say(&mut state.clone(), forget(&[2])), Outcome::Done, "what lies further back is not pinned");
        // For 30 days of credited time.
        all_done(&mut state, &[credit(29 * DAY_MS)]);
        assert_eq!(crate::keep::pinned(&state).len(), if sudden { 3 } else { 0 });
        all_done(&mut state, &[credit(30 * DAY_MS)]);
        assert_eq!(crate::keep::pinned(&state).len(), 0);
    }
    // Few files tell nothing.
    let mut state = zone(3);
    let stats = &mut state.checkpoints.get_mut(&s::checkpoint(3)).unwrap().tasks[0].stats;
    (stats.files, stats.changed_files) = (19, 19);
    assert!(crate::keep::pinned(&state).is_empty());
}

struct Owner(SigningKey);

impl Owner {
    /// Takes a zone over.
    fn of(state: &mut State) -> Self {
        let pair = SigningKey::from_seed(&Secret32([7; 32]));
        state.zone.as_mut().unwrap().owner_sign_public = STANDARD.encode(pair.public_key());
        Self(pair)
    }

    fn word(&self, state: &State, act: Act<'_>, expires_ms: u64) -> OwnerWord {
        let text = message(state.zone.as_ref().unwrap(), act, expires_ms);
        OwnerWord { expires_ms, signature: STANDARD.encode(self.0.sign(&text)) }
    }
}

#[test]
fn the_owners_word_counts_once_for_what_it_says_and_in_its_time() {
    let mut state = zone(5);
    let owner = Owner::of(&mut state);
    let ids = [s::checkpoint(1), s::checkpoint(2)];
    let act = Act::Forget { checkpoints: &ids, now: true };
    let say_so = |ids: &[CheckpointId], word: OwnerWord| Command::Forget {
        checkpoints: ids.to_vec(),
        now: true,
        owner: Some(word),
    };
    let not = Outcome::Refused(Refusal::Signature);
    let word = owner.word(&state, act, 1_000_000);
    assert_eq!(say(&mut state, say_so(&[s::checkpoint(1), s::checkpoint(3)], word.clone())), not, "of others");
    assert_eq!(say(&mut state, say_so(&ids, OwnerWord { expires_ms: 2_000_000, ..word.clone() })), not);
    let late = owner.word(&state, act, 1_000);
    assert_eq!(say(&mut state, say_so(&ids, late)), not, "its time is over");
    let mut other = state.clone();
    other.zone.as_mut().unwrap().generation += 1;
    assert_eq!(say(&mut other, say_so(&ids, word.clone())), not, "of a zone that went on otherwise");
    let grace = owner.word(&state, Act::Grace { grace_s: 5 }, 1_000_000);
    assert_eq!(say(&mut state, say_so(&ids, grace)), not, "for something else");
    assert_eq!(say(&mut state, say_so(&ids, word.clone())), Outcome::Done);
    all_done(&mut state, &[Command::Remember { checkpoints: ids.to_vec() }]);
    assert_eq!(say(&mut state, say_so(&ids, word)), not, "it was used");
    let again = owner.word(&state, act, 1_000_000);
    assert_eq!(say(&mut state, say_so(&ids, again)), Outcome::Done);
    all_done(&mut state, &s::backup(6, CheckpointKind::Full, 1, true));
    assert!(!state.checkpoints.contains_key(&s::checkpoint(1)), "without grace");
    assert_eq!(say(&mut state, Command::Forget { checkpoints: vec![s::checkpoint(3)], now: true, owner: None }), {
        Outcome::Refused(Refusal::Owner)
    });
}

#[test]
fn the_grace_grows_freely_and_shrinks_by_the_owners_word() {
    let mut state = zone(1);
    let owner = Owner::of(&mut state);
    let set = |grace_s, owner| Command::SetGrace { grace_s, owner };
    assert_eq!(say(&mut state, set(30 * 86_400, None)), Outcome::Done);
    assert_eq!(say(&mut state, set(86_400, None)), Outcome::Refused(Refusal::Owner));
    let word = owner.word(&state, Act::Grace { grace_s: 86_400 }, 1_000_000);
    assert_eq!(say(&mut state, set(5, Some(word.clone()))), Outcome::Refused(Refusal::Signature));
    assert_eq!(say(&mut state, set(86_400, Some(word))), Outcome::Done);
    assert_eq!(state.policy.grace_s, 86_400);
    assert_eq!(say(&mut state, set(u32::MAX, None)), Outcome::Refused(Refusal::Range("the grace")));
}

#[test]
fn time_is_what_a_majority_saw_pass() {
    let mut state = zone(1);
    for n in [2u8, 3] {
        let add = Command::AddNode {
            node: NodeId([n; 16]),
            name: format!("n{n}"),
            public_key: format!("k{n}"),
            certificate: "Y2Vy".into(),
        };
        all_done(&mut state, &[add]);
    }
    let tell = |state: &mut State, n: u8, ms: u64| {
        let index = state.revision + 1;
        let node = if n == 1 { s::node() } else { NodeId([n; 16]) };
        apply(state, index, 1000 + index, node, &credit(ms)).0
    };
    let now = |state: &State| state.zone.as_ref().unwrap().credit_ms;
    assert_eq!(tell(&mut state, 1, 1_000_000), Outcome::Done);
    assert_eq!(now(&state), 0, "one node may say what it likes");
    assert_eq!(tell(&mut state, 2, 700), Outcome::Done);
    assert_eq!(now(&state), 700);
    assert_eq!(tell(&mut state, 2, 600), Outcome::Refused(Refusal::Range("the time that passed")));
    assert_eq!(tell(&mut state, 3, 900), Outcome::Done);
    assert_eq!(now(&state), 900);
    // A broken node is not waited for, and a new one begins where the zone is.
    let faulty = Command::SetNode { node: NodeId([3; 16]), name: None, standing: Some(Standing::Faulty) };
    all_done(&mut state, &[faulty]);
    assert_eq!(tell(&mut state, 2, 950), Outcome::Done);
    assert_eq!(now(&state), 950);
    let add = Command::AddNode {
        node: NodeId([4; 16]),
        name: "n4".into(),
        public_key: "k4".into(),
        certificate: "Y2Vy".into(),
    };
    all_done(&mut state, &[add]);
    assert_eq!(state.nodes[&NodeId([4; 16])].credit_ms, 950);
    // A witness says nothing, and is not waited for.
    let witness = Command::SetNode { node: NodeId([4; 16]), name: None, standing: Some(Standing::Witness) };
    all_done(&mut state, &[witness]);
    assert_eq!(tell(&mut state, 2, 990), Outcome::Done);
    assert_eq!(now(&state), 990);
}

/// Everything that a checkpoint needs is there.
fn whole(state: &State) -> bool {
    keep::live(state).flat_map(|c| &c.tasks).flat_map(|t| &t.layers).all(|l| {
        state.layers.get(l).is_some_and(|l| {
            let parts = l.parts.iter().map(|p| p.sector);
            parts.chain(l.refs.iter().flatten().copied()).all(|s| state.sectors.contains_key(&s))
        })
    })
}

#[test]
fn a_rewrite_changes_all_chains_at_once_when_it_is_stored() {
    let mut state = State::default();
    all_done(&mut state, &s::begin());
    all_done(&mut state, &s::backup(1, CheckpointKind::Full, 1, true));
    for n in 2..=4 {
        all_done(&mut state, &s::backup(n, CheckpointKind::Incremental, 1, false));
    }
    let open = Command::OpenRewrite { checkpoint: s::checkpoint(6), max_waste: Some(10), owner: None };
    all_done(&mut state, std::slice::from_ref(&open));
    assert_eq!(state.checkpoints[&s::checkpoint(6)].tasks[0].layers.len(), 4);
    all_done(&mut state, &[s::open_layer(6, 6, 1, true), s::open_layer(7, 6, 1, false), s::open_layer(8, 6, 1, false)]);
    all_done(&mut state, &[s::open_sector(6, 6, false, 2), s::open_copy(6, 6, 1)]);
    // Layer 8 turns out to hold nothing.
    all_done(&mut state, &[s::seal(6, 6, &[(6, s::part(6, 0)), (7, s::part(6, 0))])]);
    for bad in [
        s::rebase(6, 2, &[1], &[6]),
        s::rebase(6, 1, &[1], &[]),
        s::rebase(6, 1, &[1], &[7]),
        s::rebase(6, 1, &[1], &[9]),
    ] {
        assert!(matches!(say(&mut state, bad.clone()), Outcome::Refused(_)), "{bad:?}");
    }
    all_done(&mut state, &[s::rebase(6, 1, &[1, 2], &[6]), s::rebase(6, 1, &[1, 2, 3], &[6, 8])]);
    all_done(&mut state, &[s::rebase(6, 1, &[1, 2, 3, 4], &[6, 7])]);
    let chain = |state: &State, n: u8| state.checkpoints[&s::checkpoint(n)].tasks[0].layers.clone();
    assert_eq!(chain(&state, 2), [s::layer(1), s::layer(2)], "nothing counts before it is stored");
    // Cut here, and given up: as if it had never been.
    let mut cut = state.clone();
    all_done(&mut cut, &[Command::AbandonCheckpoint { checkpoint: s::checkpoint(6) }]);
    assert!(whole(&cut) && !cut.sectors.contains_key(&s::sector(6)) && cut.sectors.contains_key(&s::sector(1)));
    all_done(&mut state, &[s::finish_task(6, 1), s::store(6)]);
    assert!(whole(&state));
    assert_eq!(chain(&state, 1), [s::layer(1)], "no chain was given for it");
    assert_eq!(chain(&state, 2), [s::layer(6)]);
    assert_eq!(chain(&state, 3), [s::layer(6)], "what holds nothing is left out");
    assert_eq!((chain(&state, 4), chain(&state, 6)), (vec![s::layer(6), s::layer(7)], vec![s::layer(6), s::layer(7)]));
    for (n, there) in [(1, true), (2, false), (3, false), (4, false), (6, true)] {
        assert_eq!(state.sectors.contains_key(&s::sector(n)), there, "{n}");
    }
    let task = &state.checkpoints[&s::checkpoint(6)].tasks[0];
    assert_eq!(task.state, TaskState::Carried, "no source was looked at");
    assert_eq!((task.stats.files, task.as_of_ms), (7, state.checkpoints[&s::checkpoint(4)].started_ms));
    assert!(matches!(say(&mut state, open), Outcome::Refused(Refusal::Exists(_))));
}

#[test]
fn a_rewrite_goes_alone_and_needs_a_checkpoint() {
    let mut state = State::default();
    all_done(&mut state, &s::begin());
    let open = |n| Command::OpenRewrite { checkpoint: s::checkpoint(n), max_waste: None, owner: None };
    assert!(matches!(say(&mut state, open(1)), Outcome::Refused(Refusal::Unknown(_))));
    all_done(&mut state, &s::backup(1, CheckpointKind::Full, 1, true));
    all_done(&mut state, &[s::open_checkpoint(2, CheckpointKind::Full, &[1])]);
    assert!(matches!(say(&mut state, open(3)), Outcome::Refused(Refusal::State(_))));
    let by_hand = s::open_checkpoint(3, CheckpointKind::Synthetic, &[1]);
    assert!(matches!(say(&mut state, by_hand), Outcome::Refused(Refusal::Range(_))));
    all_done(&mut state, &[Command::AbandonCheckpoint { checkpoint: s::checkpoint(2) }, open(3)]);
    let other = s::open_checkpoint(4, CheckpointKind::Full, &[1]);
    assert!(matches!(say(&mut state, other), Outcome::Refused(Refusal::State(_))));
}

#[test]
fn rules_that_keep_nothing_and_odd_tags_are_refused() {
    let mut state = zone(1);
    let set = |rules| Command::SetRetention { rules };
    assert!(matches!(say(&mut state, set(Some(Rules::default()))), Outcome::Refused(Refusal::Range(_))));
    for bad in ["", "a,b", "a\nb"] {
        let tags: BTreeSet<String> = [bad.to_owned()].into();
        let rules = Rules { tags: tags.clone(), ..Rules::default() };
        assert!(matches!(say(&mut state, set(Some(rules))), Outcome::Refused(Refusal::Range(_))), "{bad:?}");
        let tag = Command::SetTags { checkpoint: s::checkpoint(1), tags };
        assert!(matches!(say(&mut state, tag), Outcome::Refused(Refusal::Range(_))), "{bad:?}");
    }
    assert_eq!(say(&mut state, set(Some(Rules { last: 3, ..Rules::default() }))), Outcome::Done);
    assert_eq!(say(&mut state, set(None)), Outcome::Done);
}
