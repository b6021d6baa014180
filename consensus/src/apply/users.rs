//! Users: their sources, rights and keys.

use zoneward_sectors::ids::{SourceId, UserId};

use super::{Applied, Change, Refusal, Row, name_ok};
use crate::limits::{USER_SOURCES_MAX, USERS_MAX};
use crate::model::Source;
use crate::users::{User, UserKey};

pub fn put(c: &mut Change<'_>, user: &User) -> Applied {
    name_ok(&user.name)?;
    if let Some(what) = user.rights.fault() {
        return Err(Refusal::Range(what));
    }
    if c.state.users.values().any(|u| u.name == user.name && u.id != user.id) {
        return Err(Refusal::Exists("a user of this name"));
    }
    let old = c.state.users.get(&user.id);
    if old.is_none() && c.state.users.len() >= USERS_MAX {
        return Err(Refusal::Range("the number of users"));
    }
    if user.sources.len() > USER_SOURCES_MAX {
        return Err(Refusal::Range("the number of the user's sources"));
    }
    if old.is_some_and(|o| o.locked && user.locked) {
        return Err(Refusal::State("the user, who is locked,"));
    }
    for id in &user.sources {
        if c.state.user_of(*id).is_some_and(|u| u.id != user.id) {
            return Err(Refusal::Exists("another user whose source it is"));
        }
        match c.state.sources.get(id) {
            Some(source) => user.rights.exceeded(c.state, source).map_or(Ok(()), |what| Err(Refusal::Range(what)))?,
            // What was his and is no longer backed up stays his.
            None if old.is_some_and(|o| o.sources.contains(id)) => {}
            None => return Err(Refusal::Unknown("a source")),
        }
    }
    let (added_ms, key) = old.map_or((c.now, None), |o| (o.added_ms, o.key.clone()));
    c.state.users.insert(user.id, User { added_ms, key, ..user.clone() });
    c.rows.insert(Row::User(user.id));
    Ok(())
}

pub fn set_key(c: &mut Change<'_>, id: UserId, key: &UserKey) -> Applied {
    if let Some(what) = key.fault() {
        return Err(Refusal::Range(what));
    }
    let user = c.state.users.get_mut(&id).ok_or(Refusal::Unknown("the user"))?;
    if user.locked {
        return Err(Refusal::State("the user, who is locked,"));
    }
    user.key = Some(key.clone());
    c.rows.insert(Row::User(id));
    Ok(())
}

/// Forgets a user; his sources stay, and are nobody's.
pub fn remove(c: &mut Change<'_>, id: UserId) -> Applied {
    c.state.users.remove(&id).ok_or(Refusal::Unknown("the user"))?;
    c.rows.insert(Row::User(id));
    Ok(())
}

/// Whether a source may be as it is to be: its user is not locked, and has the right.
pub fn may_be(c: &Change<'_>, source: &Source) -> Applied {
    unlocked(c, source.id)?;
    let beyond = c.state.user_of(source.id).and_then(|u| u.rights.exceeded(c.state, source));
    beyond.map_or(Ok(()), |what| Err(Refusal::Range(what)))
}

/// Whether a source may be changed at all.
pub fn unlocked(c: &Change<'_>, source: SourceId) -> Applied {
    match c.state.user_of(source) {
        Some(u) if u.locked => Err(Refusal::State("the source's user, who is locked,")),
        _ => Ok(()),
    }
}

/// No checkpoint holds it any more, and it is not backed up: it is nobody's.
pub fn forget_source(c: &mut Change<'_>, source: SourceId) {
    for u in c.state.users.values_mut().filter(|u| u.sources.contains(&source)) {
        u.sources.remove(&source);
        c.rows.insert(Row::User(u.id));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::apply::{Outcome, apply};
    use crate::command::Command;
    use crate::model::State;
    use crate::samples as s;
    use crate::users::Rights;

    fn say(state: &mut State, command: &Command) -> Outcome {
        let (index, now) = (state.revision + 1, state.last_time_ms);
        apply(state, index, now, s::node(), command).0
    }

    fn state() -> State {
        let mut state = State::default();
        s::all_done(&mut state, &s::begin());
        s::all_done(&mut state, &[s::put_source(7, b"/u/ann", 0), s::put_source(8, b"/u/bob", 5)]);
        state
    }

    fn user(n: u8, name: &str, sources: &[u8]) -> User {
        let Command::PutUser { user } = s::put_user(n, name, sources) else { unreachable!() };
        user
    }

    fn range(o: &Outcome) -> bool {
        matches!(o, Outcome::Refused(Refusal::Range(_)))
    }

    #[test]
    fn a_source_has_one_user_who_has_one_name_and_only_what_his_rights_allow() {
        let mut state = state();
        let put = |user: User| Command::PutUser { user };
        assert_eq!(say(&mut state, &put(user(1, "ann", &[7]))), Outcome::Done);
        assert_eq!(
            say(&mut state, &put(user(2, "ann", &[]))),
            Outcome::Refused(Refusal::Exists("a user of this name"))
        );
        assert!(matches!(say(&mut state, &put(user(2, "bob", &[7]))), Outcome::Refused(Refusal::Exists(_))));
        assert_eq!(say(&mut state, &put(user(2, "bob", &[9]))), Outcome::Refused(Refusal::Unknown("a source")));
        assert!(range(&say(&mut state, &put(user(2, "bob", &[8])))), "his priority is above what he may ask for");
        let rights = Rights { priority_max: 5, copies_max: 1, quota_bytes: None };
        assert!(range(&say(&mut state, &put(User { rights, ..user(2, "bob", &[8]) }))), "two copies by priority");
        let rights = Rights { copies_max: 2, ..rights };
        assert_eq!(say(&mut state, &put(User { rights, ..user(2, "bob", &[8]) })), Outcome::Done);
        // From then on the source's own settings are held to it too, and nobody else's are.
        assert!(range(&say(&mut state, &s::put_source(8, b"/u/bob", 6))));
        assert_eq!(say(&mut state, &s::put_source(8, b"/u/bob", 4)), Outcome::Done);
        assert_eq!(say(&mut state, &s::put_source(9, b"/srv", 50)), Outcome::Done);
        assert!(say(&mut state, &put(user(3, "", &[]))) != Outcome::Done);
        assert_eq!(state.user_of(s::source(8)).map(|u| u.name.as_str()), Some("bob"));
    }

    #[test]
    fn nothing_of_a_locked_user_changes_until_he_is_unlocked() {
        let mut state = state();
        let locked = User { locked: true, ..user(1, "ann", &[7]) };
        assert_eq!(say(&mut state, &Command::PutUser { user: locked.clone() }), Outcome::Done);
        let before = state.clone();
        for command in [
            Command::PutUser { user: User { name: "anna".into(), ..locked } },
            Command::SetUserKey { user: s::user(1), key: s::user_key() },
            s::put_source(7, b"/u/ann", -3),
            s::set_reading(7, "true", 5),
            Command::RemoveSource { source: s::source(7) },
        ] {
            assert!(matches!(say(&mut state, &command), Outcome::Refused(Refusal::State(_))), "{command:?}");
        }
        assert_eq!((&state.users, &state.sources), (&before.users, &before.sources));
        assert_eq!(say(&mut state, &Command::PutUser { user: user(1, "ann", &[7]) }), Outcome::Done);
        assert_eq!(say(&mut state, &Command::RemoveSource { source: s::source(7) }), Outcome::Done);
        assert_eq!(state.users[&s::user(1)].sources, BTreeSet::new(), "no checkpoint held it");
    }

    #[test]
    fn a_key_stays_with_its_user_and_is_bounded() {
        let mut state = state();
        let key = s::user_key();
        let set = |key: UserKey| Command::SetUserKey { user: s::user(1), key };
        assert_eq!(say(&mut state, &set(key.clone())), Outcome::Refused(Refusal::Unknown("the user")));
        say(&mut state, &Command::PutUser { user: user(1, "ann", &[]) });
        assert!(range(&say(&mut state, &set(UserKey { file: "x".repeat(1 << 20), ..key.clone() }))));
        assert_eq!(say(&mut state, &set(key.clone())), Outcome::Done);
        // A change of his settings is not a change of his key.
        say(&mut state, &Command::PutUser { user: user(1, "anna", &[7]) });
        assert_eq!(state.users[&s::user(1)].key, Some(key));
        assert_eq!(say(&mut state, &Command::RemoveUser { user: s::user(1) }), Outcome::Done);
        assert!(state.users.is_empty() && state.sources.contains_key(&s::source(7)));
        for n in 0..USERS_MAX as u8 {
            assert_eq!(say(&mut state, &Command::PutUser { user: user(n, &format!("u{n}"), &[]) }), Outcome::Done);
        }
        assert!(range(&say(&mut state, &Command::PutUser { user: user(200, "more", &[]) })));
    }
}
