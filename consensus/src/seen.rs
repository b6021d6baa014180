//! What people set of a record, as a hash: a change says by it what it was made from. What the zone learns by itself is not
//! in it, so that its work does not get in a person's way.

use serde::Serialize;
use zoneward_sectors::crypto::sha256;

use crate::audits::Audits;
use crate::command::Command;
use crate::model::{Checkpoint, CheckpointId, Digest, Node, Source, State, Target};
use crate::policy::{Conditions, Limit, Policy, Schedule};
use crate::users::User;

/// Plain values in a fixed order: their JSON is the same on every node.
fn digest(settings: &impl Serialize) -> Digest {
    // Such values have no part that JSON cannot hold.
    sha256(&[&serde_json::to_vec(settings).unwrap_or_default()])
}

pub fn of_source(s: &Source) -> Digest {
    let Source { id, path, priority, copies, excludes, exclude_caches, one_file_system, nodes, reading, .. } = s;
    let settings = (id, path, priority, copies, excludes, exclude_caches, one_file_system, nodes, reading);
    // As it was before there were such sources, where it is none.
    if s.write_only { digest(&(settings, "write-only")) } else { digest(&settings) }
}

pub fn of_target(t: &Target) -> Digest {
    let Target { id, name, url, domain, paused, leaving, credentials, terms, .. } = t;
    let settings = (id, name, url, domain, paused, leaving, credentials);
    // As it was before there were terms, where there are none: entries of older releases are compared by it.
    if terms.is_empty() { digest(&settings) } else { digest(&(settings, terms)) }
}

pub fn of_node(n: &Node) -> Digest {
    let Node { id, name, standing, .. } = n;
    digest(&(id, name, standing))
}

/// Its tags, and whether it is to go: how far it is the zone sees to by itself.
pub fn of_checkpoint(c: &Checkpoint) -> Digest {
    let Checkpoint { id, tags, forgotten, .. } = c;
    digest(&("checkpoint", id, tags, forgotten))
}

/// A schedule, or that there is none of this name: so of two who make one only the first does.
pub fn of_schedule(name: &str, s: Option<&Schedule>) -> Digest {
    let settings = s.map(|s| {
        let Schedule { cron, time_zone, window, sources, checkpoint_kind, idle_wait_min, paused, .. } = s;
        (cron, time_zone, window, sources, checkpoint_kind, idle_wait_min, paused)
    });
    digest(&("schedule", name, settings))
}

pub fn of_conditions(c: &Conditions) -> Digest {
    let Conditions { on_battery, on_metered, idle_load_percent, idle_io_percent } = c;
    digest(&("conditions", on_battery, on_metered, idle_load_percent, idle_io_percent))
}

pub fn of_audits(a: &Audits) -> Digest {
    let Audits { every_s, read_s, paid_read_s, silence_s } = a;
    digest(&("audits", every_s, read_s, paid_read_s, silence_s))
}

/// What is kept, and how long what was forgotten can be taken back.
pub fn of_retention(p: &Policy) -> Digest {
    digest(&("retention", &p.retention, p.grace_s))
}

/// What is set of him, and which key is his.
pub fn of_user(u: &User) -> Digest {
    let User { id, name, sources, rights, locked, key, .. } = u;
    digest(&("user", id, name, sources, rights, locked, key.as_ref().map(|k| k.fingerprint)))
}

pub fn of_limits(all: &[Limit]) -> Digest {
    digest(&("limits", all))
}

/// The record that a command changes, as people set it; `None` if there is none, or it is no such command.
pub fn before(state: &State, command: &Command) -> Option<Digest> {
    match command {
        Command::PutSource { source } => state.sources.get(&source.id).map(of_source),
        Command::RemoveSource { source }
        | Command::SetReading { source, .. }
        | Command::SetWriteOnly { source, .. } => state.sources.get(source).map(of_source),
        Command::SetTarget { target, .. }
        | Command::SetCredentials { target, .. }
        | Command::SetTerms { target, .. }
        | Command::EditTarget { target, .. }
        | Command::RemoveTarget { target, .. } => state.targets.get(target).map(of_target),
        Command::PutSchedule { name, .. } | Command::RemoveSchedule { name } => {
            Some(of_schedule(name, state.policy.schedules.get(name)))
        }
        Command::Forget { checkpoints, .. } | Command::Remember { checkpoints } => one_checkpoint(state, checkpoints),
        Command::SetTags { checkpoint, .. } => state.checkpoints.get(checkpoint).map(of_checkpoint),
        Command::SetConditions { .. } => Some(of_conditions(&state.policy.conditions)),
        Command::SetAudits { .. } => Some(of_audits(&state.policy.audits)),
        Command::SetRetention { .. } | Command::SetGrace { .. } => Some(of_retention(&state.policy)),
        Command::SetLimits { .. } => Some(of_limits(&state.policy.limits)),
        Command::PutUser { user } => state.users.get(&user.id).map(of_user),
        Command::SetUserKey { user, .. } | Command::RemoveUser { user } => state.users.get(user).map(of_user),
        Command::SetNode { node, .. } => state.nodes.get(node).map(of_node),
        _ => None,
    }
}

/// Of several at once nobody says what they were.
fn one_checkpoint(state: &State, ids: &[CheckpointId]) -> Option<Digest> {
    let [id] = ids else { return None };
    state.checkpoints.get(id).map(of_checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Outcome, Refusal, apply};
    use crate::samples as s;

    fn say(state: &mut State, seen: Digest, command: Command) -> Outcome {
        let index = state.revision + 1;
        apply(state, index, 1000, s::node(), &Command::IfSeen { seen, command: Box::new(command) }).0
    }

    #[test]
    fn of_two_who_saw_the_same_only_the_first_changes_it() {
        let mut state = s::state();
        let seen = of_source(&state.sources[&s::source(1)]);
        let change = |n| s::put_source(1, b"/home/ann", n);
        assert_eq!(say(&mut state, seen, change(3)), Outcome::Done);
        let before = state.clone();
        assert_eq!(say(&mut state, seen, change(4)), Outcome::Refused(Refusal::Differs("the record")));
        assert_eq!(
            say(&mut state, seen, Command::RemoveSource { source: s::source(1) }),
            Outcome::Refused(Refusal::Differs("the record"))
        );
        assert_eq!(state.sources, before.sources);
        // What a backup learns is no change that anybody made.
        let seen = of_source(&state.sources[&s::source(1)]);
        state.sources.get_mut(&s::source(1)).unwrap().last_entries += 1;
        assert_eq!(say(&mut state, seen, change(4)), Outcome::Done);
        assert_eq!(state.sources[&s::source(1)].priority, 4);
    }

    #[test]
    fn schedules_conditions_and_limits_are_seen_as_people_set_them() {
        let mut state = s::state();
        let differs = Outcome::Refused(Refusal::Differs("the record"));
        let none = of_schedule("new", None);
        assert_eq!(say(&mut state, none, s::put_schedule("new", &[1])), Outcome::Done);
        assert_eq!(say(&mut state, none, s::put_schedule("new", &[2])), differs, "somebody was faster");
        let seen = of_schedule("new", state.policy.schedules.get("new"));
        state.policy.schedules.get_mut("new").unwrap().begun_ms = 77;
        assert_eq!(seen, of_schedule("new", state.policy.schedules.get("new")), "that it began is no setting");
        assert_ne!(seen, of_schedule("other", state.policy.schedules.get("new")));
        let remove = Command::RemoveSchedule { name: "new".into() };
        assert_eq!(say(&mut state, seen, remove.clone()), Outcome::Done);
        assert_eq!(say(&mut state, seen, remove.clone()), differs);
        assert_eq!(say(&mut state, none, remove), Outcome::Refused(Refusal::Unknown("the schedule")));
        let seen = of_limits(&state.policy.limits);
        let set = |n| Command::SetLimits { limits: vec![s::limit(n, 600)] };
        assert_eq!(say(&mut state, seen, set(1)), Outcome::Done);
        assert_eq!(say(&mut state, seen, set(2)), differs);
        let seen = of_conditions(&state.policy.conditions);
        let set = |p| Command::SetConditions { conditions: Conditions { idle_io_percent: p, ..Conditions::default() } };
        assert_eq!(say(&mut state, seen, set(1)), Outcome::Done);
        assert_eq!(say(&mut state, seen, set(2)), differs);
    }

    #[test]
    fn how_a_source_is_read_is_a_setting() {
        let mut state = s::state();
        let seen = of_source(&state.sources[&s::source(1)]);
        assert_eq!(say(&mut state, seen, s::set_reading(1, "a", 5)), Outcome::Done);
        assert_eq!(say(&mut state, seen, s::set_reading(1, "b", 5)), Outcome::Refused(Refusal::Differs("the record")));
    }

    #[test]
    fn tags_and_marks_of_a_checkpoint_are_settings() {
        let mut state = s::state();
        let id = s::checkpoint(1);
        let of = |state: &State| of_checkpoint(&state.checkpoints[&id]);
        let differs = Outcome::Refused(Refusal::Differs("the record"));
        let forget = Command::Forget { checkpoints: vec![id], now: false, owner: None };
        let remember = Command::Remember { checkpoints: vec![id] };
        let tag = Command::SetTags { checkpoint: id, tags: ["x".to_owned()].into() };
        let first = of(&state);
        assert_eq!(say(&mut state, first, tag), Outcome::Done);
        assert_eq!(say(&mut state, first, forget.clone()), differs);
        let seen = of(&state);
        assert_eq!(say(&mut state, seen, forget.clone()), Outcome::Done);
        assert_eq!(say(&mut state, seen, remember.clone()), differs);
        let seen = of(&state);
        assert_eq!(say(&mut state, seen, remember), Outcome::Done);
        // That the zone works on it is no setting; of two at once nobody can say what they were.
        let seen = of(&state);
        state.checkpoints.get_mut(&id).unwrap().finished_ms = Some(77);
        assert_eq!(of(&state), seen);
        let two = Command::Forget { checkpoints: vec![id, s::checkpoint(2)], now: false, owner: None };
        assert_eq!(say(&mut state, seen, two), Outcome::Refused(Refusal::Unknown("the record")));
    }

    #[test]
    fn each_setting_counts_and_other_commands_are_refused() {
        let mut state = s::state();
        let node = of_node(&state.nodes[&s::node()]);
        let rename = Command::SetNode { node: s::node(), name: Some("other".into()), standing: None };
        assert_eq!(say(&mut state, node, rename.clone()), Outcome::Done);
        assert_eq!(say(&mut state, node, rename), Outcome::Refused(Refusal::Differs("the record")));
        let target = of_target(&state.targets[&s::target(1)]);
        let pause = Command::SetTarget { target: s::target(1), paused: Some(true), owner_key_hash: None };
        assert_eq!(say(&mut state, target, pause.clone()), Outcome::Done);
        assert_eq!(say(&mut state, target, pause), Outcome::Refused(Refusal::Differs("the record")));
        let gone = Command::RemoveSource { source: s::source(9) };
        assert_eq!(say(&mut state, node, gone), Outcome::Refused(Refusal::Unknown("the record")));
        let nested = Command::IfSeen { seen: node, command: Box::new(s::put_source(1, b"/home/ann", 1)) };
        assert_eq!(say(&mut state, node, nested), Outcome::Refused(Refusal::Unknown("the record")));
    }
}
