//! Records as rows: `kind/id` to JSON.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::de::DeserializeOwned;

use crate::apply::Row;
use crate::model::{Invite, Lease, State};

/// The key of a record.
pub fn key(row: &Row) -> String {
    match row {
        Row::Zone => "zone".into(),
        Row::Head => "head".into(),
        Row::Node(id) => format!("node/{id}"),
        Row::Target(id) => format!("target/{id}"),
        Row::Source(id) => format!("source/{id}"),
        Row::Former(id) => format!("former/{id}"),
        Row::Checkpoint(id) => format!("checkpoint/{id}"),
        Row::Layer(id) => format!("layer/{id}"),
        Row::Sector(id) => format!("sector/{id}"),
        Row::Copy(id) => format!("copy/{id}"),
        Row::Lease(epoch) => format!("lease/{epoch}"),
        Row::Invite(token) => format!("invite/{token}"),
        Row::Policy => "policy".into(),
        Row::Token(id) => format!("token/{id}"),
        Row::User(id) => format!("user/{id}"),
    }
}

/// A record's JSON; `None` if it is gone.
pub fn value(state: &State, row: &Row) -> serde_json::Result<Option<Vec<u8>>> {
    fn json<T: serde::Serialize>(v: Option<&T>) -> serde_json::Result<Option<Vec<u8>>> {
        v.map(serde_json::to_vec).transpose()
    }
    match row {
        Row::Zone => json(state.zone.as_ref()),
        Row::Head => json(state.head.as_ref()),
        Row::Node(id) => json(state.nodes.get(id)),
        Row::Target(id) => json(state.targets.get(id)),
        Row::Source(id) => json(state.sources.get(id)),
        Row::Former(id) => json(state.former.get(id)),
        Row::Checkpoint(id) => json(state.checkpoints.get(id)),
        Row::Layer(id) => json(state.layers.get(id)),
        Row::Sector(id) => json(state.sectors.get(id)),
        Row::Copy(id) => json(state.copies.get(id)),
        Row::Lease(epoch) => json(state.leases.get(epoch)),
        Row::Invite(token) => json(state.invites.get(token)),
        Row::Policy => json(Some(&state.policy)),
        Row::Token(id) => json(state.tokens.get(id)),
        Row::User(id) => json(state.users.get(id)),
    }
}

/// These records as keys and values.
pub fn changed<'a>(
    state: &State,
    rows: impl IntoIterator<Item = &'a Row>,
) -> serde_json::Result<Vec<(String, Option<Vec<u8>>)>> {
    rows.into_iter().map(|row| Ok((key(row), value(state, row)?))).collect()
}

/// Puts a row back into a state. The text says what is wrong with it.
pub fn load(state: &mut State, key: &str, value: &[u8]) -> Result<(), String> {
    fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, String> {
        serde_json::from_slice(value).map_err(|e| format!("the record {key}: {e}"))
    }
    macro_rules! record {
        ($map:ident) => {
            insert(&mut state.$map, key, read(key, value)?, |x| x.id)?
        };
    }
    match key.split('/').next().unwrap_or_default() {
        "zone" => state.zone = Some(read(key, value)?),
        "head" => state.head = Some(read(key, value)?),
        "policy" => state.policy = read(key, value)?,
        "node" => record!(nodes),
        "target" => record!(targets),
        "source" => record!(sources),
        "former" => record!(former),
        "checkpoint" => record!(checkpoints),
        "layer" => record!(layers),
        "sector" => record!(sectors),
        "copy" => record!(copies),
        "token" => record!(tokens),
        "user" => record!(users),
        "invite" => insert(&mut state.invites, key, read::<Invite>(key, value)?, |x| x.token)?,
        "lease" => insert(&mut state.leases, key, read::<Lease>(key, value)?, |x| x.epoch)?,
        other => return Err(format!("records of the unknown kind {other:?}: was it written by a newer zoneward?")),
    }
    Ok(())
}

/// Keeps a record under its own id, which must be the one that its key names.
fn insert<K: Ord + Display, V>(
    map: &mut BTreeMap<K, V>,
    key: &str,
    value: V,
    id: impl Fn(&V) -> K,
) -> Result<(), String> {
    let k = id(&value);
    if key.split_once('/').is_none_or(|(_, name)| name != k.to_string()) {
        return Err(format!("the record {key} holds another one"));
    }
    map.insert(k, value);
    Ok(())
}
