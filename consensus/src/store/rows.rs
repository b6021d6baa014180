//! Records as rows: `kind/id` to JSON.

use serde::de::DeserializeOwned;

use crate::apply::Row;
use crate::model::State;

/// The key of a record.
pub fn key(row: &Row) -> String {
    match row {
        Row::Zone => "zone".into(),
        Row::Head => "head".into(),
        Row::Node(id) => format!("node/{id}"),
        Row::Target(id) => format!("target/{id}"),
        Row::Source(id) => format!("source/{id}"),
        Row::Checkpoint(id) => format!("checkpoint/{id}"),
        Row::Layer(id) => format!("layer/{id}"),
        Row::Sector(id) => format!("sector/{id}"),
        Row::Copy(id) => format!("copy/{id}"),
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
        Row::Checkpoint(id) => json(state.checkpoints.get(id)),
        Row::Layer(id) => json(state.layers.get(id)),
        Row::Sector(id) => json(state.sectors.get(id)),
        Row::Copy(id) => json(state.copies.get(id)),
    }
}

/// Puts a row back into a state. The text says what is wrong with it.
pub fn load(state: &mut State, key: &str, value: &[u8]) -> Result<(), String> {
    fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, String> {
        serde_json::from_slice(value).map_err(|e| format!("the record {key}: {e}"))
    }
    macro_rules! record {
        ($map:ident) => {{
            let r = read(key, value)?;
            if let Some(old) = insert(&mut state.$map, r, |x| x.id) {
                return Err(format!("the record {key} is there twice ({old})"));
            }
        }};
    }
    match key.split('/').next().unwrap_or_default() {
        "zone" => state.zone = Some(read(key, value)?),
        "head" => state.head = Some(read(key, value)?),
        "node" => record!(nodes),
        "target" => record!(targets),
        "source" => record!(sources),
        "checkpoint" => record!(checkpoints),
        "layer" => record!(layers),
        "sector" => record!(sectors),
        "copy" => record!(copies),
        other => return Err(format!("records of the unknown kind {other:?}: was it written by a newer zoneward?")),
    }
    Ok(())
}

fn insert<K: Ord + Copy + std::fmt::Display, V>(
    map: &mut std::collections::BTreeMap<K, V>,
    value: V,
    id: impl Fn(&V) -> K,
) -> Option<K> {
    let k = id(&value);
    map.insert(k, value).map(|_| k)
}
