//! Tokens: `zwt_<id>_<secret>`. The id is public; of the secret, 256 random bits, the zone keeps a hash.

use zoneward_consensus::model::{State, Token};
use zoneward_sectors::crypto::{fill_random, same_secret, sha256};
use zoneward_sectors::ids::{Digest, TokenId, hex, unhex};

/// What a token's text begins with, so that scanners for secrets find it.
const PREFIX: &str = "zwt";

/// What a bearer shows. Never printed but once, when it is made.
pub struct Secret {
    pub id: TokenId,
    secret: [u8; 32],
}

impl Secret {
    pub fn random() -> Self {
        let mut secret = [0; 32];
        fill_random(&mut secret);
        Self { id: TokenId::random(), secret }
    }

    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('_');
        let (prefix, id, secret) = (parts.next()?, parts.next()?, parts.next()?);
        let secret = unhex(secret)?.try_into().ok()?;
        (prefix == PREFIX && parts.next().is_none()).then_some(Self { id: id.parse().ok()?, secret })
    }

    pub fn text(&self) -> String {
        format!("{PREFIX}_{}_{}", self.id, hex(&self.secret))
    }

    /// What the zone keeps.
    pub fn hash(&self) -> Digest {
        sha256(&[b"zoneward token\0", &self.id.0, &self.secret])
    }
}

/// The token that a secret belongs to, if it is one of the zone's and its time is not over.
pub fn find<'a>(state: &'a State, secret: &Secret, now_ms: u64) -> Option<&'a Token> {
    let token = state.tokens.get(&secret.id);
    // One that is not known takes as long as one that is.
    let known = token.map_or(Digest::default(), |t| t.hash);
    let same = same_secret(&known.0, &secret.hash().0);
    // A clock that was put back brings no token back.
    let now = now_ms.max(state.last_time_ms);
    token.filter(|t| same && now < t.expires_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoneward_consensus::model::Scope;
    use zoneward_sectors::ids::NodeId;

    #[test]
    fn a_token_is_known_by_its_secret_and_for_its_time_only() {
        let secret = Secret::random();
        let read = Secret::parse(&secret.text()).unwrap();
        assert_eq!((read.id, read.hash()), (secret.id, secret.hash()));
        let token = Token {
            id: secret.id,
            label: "t".into(),
            hash: secret.hash(),
            scopes: [Scope::StatusRead].into(),
            created_ms: 1,
            expires_ms: 1000,
            by: NodeId::default(),
        };
        let mut state = State { tokens: [(secret.id, token)].into(), ..State::default() };
        assert!(find(&state, &secret, 999).is_some());
        assert!(find(&state, &secret, 1000).is_none());
        let other = Secret { id: secret.id, secret: [7; 32] };
        assert!(find(&state, &other, 999).is_none());
        assert!(find(&state, &Secret::random(), 999).is_none());
        state.last_time_ms = 1000;
        assert!(find(&state, &secret, 5).is_none());
    }

    #[test]
    fn what_is_no_token_is_not_taken_for_one() {
        let good = Secret::random().text();
        let changed = good.replace("zwt_", "zwx_");
        let bad = ["", "zwt", "zwt__", &good[..good.len() - 1], &format!("{good}0"), &format!("{good}_"), &changed];
        for text in bad {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
    }
}
