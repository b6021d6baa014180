//! Bringing a change to the zone, and requests that are sent twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::{HttpMessage, HttpRequest, web};
use serde::Serialize;
use zoneward_actors::cluster::{Cluster, CommandError};
use zoneward_consensus::command::Command;
use zoneward_consensus::effect::took_effect;
use zoneward_consensus::model::State;
use zoneward_sectors::crypto::sha256;

use super::front::Login;
use super::{Problem, Shared};

/// Characters of an `Idempotency-Key`.
const KEY_LEN_MAX: usize = 128;

/// Brings a command through, once; answers the state with it.
pub async fn commit(shared: &web::Data<Shared>, command: Command) -> Result<Arc<State>, Problem> {
    let node = shared.node.clone();
    let done = web::block(move || propose(&node.cluster, &command)).await;
    done.map_err(|_| Problem::internal("the node stops"))?.map_err(|e| Problem::of_command(&e))
}

fn propose(cluster: &Cluster, command: &Command) -> Result<Arc<State>, CommandError> {
    match cluster.propose(command).and_then(|reply| cluster.applied(reply.revision)) {
        // No answer came; the state may tell all the same.
        Err(CommandError::Unknown) => {
            let state = cluster.linearizable()?;
            if took_effect(&state, cluster.node(), command) { Ok(state) } else { Err(CommandError::Unknown) }
        }
        done => done,
    }
}

/// What a POST makes gets an id that follows from token, route, key and body: sent again, on any node and after any
/// restart, it meets what the first one made. Nothing has to be remembered for it, so nothing has to be bounded.
pub struct Once {
    id: Option<[u8; 16]>,
}

/// What is there already under a key.
pub enum Before {
    Nothing,
    Same,
    Other,
}

impl Once {
    pub fn of(req: &HttpRequest, body: &impl Serialize) -> Result<Self, Problem> {
        let Some(key) = req.headers().get("Idempotency-Key") else { return Ok(Self { id: None }) };
        let bad = || {
            Problem::malformed("the Idempotency-Key cannot be used").at("Idempotency-Key", "1 … 128 visible characters")
        };
        let key = key.to_str().map_err(|_| bad())?;
        if key.is_empty() || key.len() > KEY_LEN_MAX {
            return Err(bad());
        }
        let token = req.extensions().get::<Login>().map(|l| l.token).unwrap_or_default();
        let body = serde_json::to_vec(body).map_err(|e| Problem::internal(e.to_string()))?;
        let first = sha256(&[b"zoneward once\0", &token.0, req.path().as_bytes(), b"\0", key.as_bytes()]);
        let second = sha256(&[&first.0, &body]);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&first.0[..8]);
        id[8..].copy_from_slice(&second.0[..8]);
        Ok(Self { id: Some(id) })
    }

    /// The id of what is made.
    pub fn id(&self, random: impl FnOnce() -> [u8; 16]) -> [u8; 16] {
        self.id.unwrap_or_else(random)
    }

    /// What the key has made before.
    pub fn before<K: Ord, V>(&self, all: &BTreeMap<K, V>, of: impl Fn([u8; 16]) -> K) -> Before {
        let Some(id) = self.id else { return Before::Nothing };
        let (mut from, mut to) = (id, id);
        from[8..].fill(0);
        to[8..].fill(0xff);
        match all.range(of(from)..=of(to)).next() {
            None => Before::Nothing,
            Some(_) if all.contains_key(&of(id)) => Before::Same,
            Some(_) => Before::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;
    use zoneward_sectors::ids::{SourceId, TokenId};

    fn once(key: &str, token: u8, body: &str) -> Once {
        let req =
            TestRequest::default().uri("/api/v1/sources").insert_header(("Idempotency-Key", key)).to_http_request();
        let rate = crate::api::rate::Rate { remaining: 1, reset_s: 1 };
        req.extensions_mut().insert(Login { token: TokenId([token; 16]), rate });
        Once::of(&req, &body).unwrap()
    }

    #[test]
    fn a_request_sent_twice_meets_what_it_made() {
        let first = once("k", 1, "body");
        let id = first.id(|| panic!("not random"));
        let all: BTreeMap<SourceId, ()> = [(SourceId(id), ())].into();
        assert!(matches!(once("k", 1, "body").before(&all, SourceId), Before::Same));
        assert!(matches!(once("k", 1, "other").before(&all, SourceId), Before::Other));
        assert!(matches!(once("l", 1, "body").before(&all, SourceId), Before::Nothing));
        assert!(matches!(once("k", 2, "body").before(&all, SourceId), Before::Nothing));
        let none = Once::of(&TestRequest::default().to_http_request(), &"body").unwrap();
        assert!(matches!(none.before(&all, SourceId), Before::Nothing));
    }

    #[test]
    fn a_key_that_cannot_be_one_is_refused() {
        let long = "x".repeat(KEY_LEN_MAX + 1);
        for key in ["", &long, "\u{e9}"] {
            let req = TestRequest::default().insert_header(("Idempotency-Key", key)).to_http_request();
            assert_eq!(Once::of(&req, &"b").err().map(|p| p.status.as_u16()), Some(400), "{key:?}");
        }
    }
}
