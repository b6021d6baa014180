//! Tokens: what lets programs use the REST API. The zone keeps a hash of each; the secret only its bearer has.

use zoneward_sectors::ids::{Digest, TokenId};

use super::{Applied, Change, Refusal, Row, name_ok};
use crate::limits::{TOKEN_MS_MAX, TOKENS_MAX};
use crate::model::{Scope, Token};

pub fn put(
    c: &mut Change<'_>,
    id: TokenId,
    hash: Digest,
    label: &str,
    scopes: &std::collections::BTreeSet<Scope>,
    expires_ms: u64,
) -> Applied {
    name_ok(label)?;
    if c.state.tokens.contains_key(&id) {
        return Err(Refusal::Exists("the token"));
    }
    if scopes.is_empty() {
        return Err(Refusal::Range("the number of scopes"));
    }
    if expires_ms <= c.now || expires_ms - c.now > TOKEN_MS_MAX {
        return Err(Refusal::Range("the end of the token"));
    }
    if c.state.tokens.values().filter(|t| t.expires_ms > c.now).count() >= TOKENS_MAX {
        return Err(Refusal::Range("the number of tokens"));
    }
    // Those whose time is over go when a new one comes: until then a list shows why they no longer work.
    let over: Vec<TokenId> = c.state.tokens.values().filter(|t| t.expires_ms <= c.now).map(|t| t.id).collect();
    for old in over {
        c.state.tokens.remove(&old);
        c.rows.insert(Row::Token(old));
    }
    let (label, scopes) = (label.to_owned(), scopes.clone());
    let token = Token { id, label, hash, scopes, created_ms: c.now, expires_ms, by: c.node };
    c.state.tokens.insert(id, token);
    c.rows.insert(Row::Token(id));
    Ok(())
}

pub fn remove(c: &mut Change<'_>, id: TokenId) -> Applied {
    c.state.tokens.remove(&id).ok_or(Refusal::Unknown("the token"))?;
    c.rows.insert(Row::Token(id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Outcome, apply};
    use crate::command::Command;
    use crate::model::State;
    use crate::samples::{self as s, put_token as put};

    fn try_at(state: &mut State, now: u64, command: &Command) -> Outcome {
        let index = state.revision + 1;
        apply(state, index, now, s::node(), command).0
    }

    #[test]
    fn tokens_are_bounded_in_number_and_time_and_go_when_they_are_over() {
        let mut state = State::default();
        s::all_done(&mut state, &s::begin());
        let range = |o| matches!(o, Outcome::Refused(Refusal::Range(_)));
        assert!(range(try_at(&mut state, 5_000, &put(1, 5_000))));
        assert!(range(try_at(&mut state, 5_000, &put(1, 5_001 + TOKEN_MS_MAX))));
        assert_eq!(try_at(&mut state, 5_000, &put(1, 6_000)), Outcome::Done);
        assert!(matches!(try_at(&mut state, 5_000, &put(1, 6_000)), Outcome::Refused(Refusal::Exists(_))));
        for n in 1..TOKENS_MAX as u8 {
            assert_eq!(try_at(&mut state, 5_000, &put(n + 1, 9_000)), Outcome::Done);
        }
        assert!(range(try_at(&mut state, 5_000, &put(200, 9_000))));
        // The first is over now and makes room.
        assert_eq!(try_at(&mut state, 6_000, &put(200, 9_000)), Outcome::Done);
        assert!(!state.tokens.contains_key(&s::token(1)));
        let remove = Command::RemoveToken { token: s::token(200) };
        assert_eq!(try_at(&mut state, 6_000, &remove), Outcome::Done);
        assert!(matches!(try_at(&mut state, 6_000, &remove), Outcome::Refused(Refusal::Unknown(_))));
    }

    #[test]
    fn a_token_without_scope_or_name_is_refused() {
        let mut state = State::default();
        s::all_done(&mut state, &s::begin());
        for (label, scopes) in [("", vec![Scope::Admin]), ("a\nb", vec![Scope::Admin]), ("ok", vec![])] {
            let command = Command::PutToken {
                token: s::token(1),
                hash: Digest([1; 32]),
                label: label.into(),
                scopes: scopes.into_iter().collect(),
                expires_ms: 9_000,
            };
            assert!(matches!(try_at(&mut state, 5_000, &command), Outcome::Refused(Refusal::Range(_))), "{label:?}");
        }
    }
}
