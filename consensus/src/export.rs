//! The state as one JSON document: what a system sector carries, and what an offline look at a zone reads.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::limits::EXPORT_LEN_MAX;
use crate::model::{
    Checkpoint, CheckpointId, Copy, Head, Layer, LayerId, Node, NodeId, RawSector, SectorId, Source, SourceId, State,
    Target, TargetId, UserId, Zone,
};
use crate::policy::Policy;
use crate::users::User;

/// Shape of the document (`docs/state.md`).
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: u32,
    zone: Option<Zone>,
    revision: u64,
    next_seq: u64,
    last_time_ms: u64,
    head: Option<Head>,
    nodes: Vec<Node>,
    targets: Vec<Target>,
    sources: Vec<Source>,
    #[serde(default)]
    former_sources: Vec<Source>,
    checkpoints: Vec<Checkpoint>,
    layers: Vec<Layer>,
    sectors: Vec<RawSector>,
    copies: Vec<Copy>,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    users: Vec<User>,
}

#[derive(Serialize)]
struct Borrowed<'a> {
    format: u32,
    zone: &'a Option<Zone>,
    revision: u64,
    next_seq: u64,
    last_time_ms: u64,
    head: &'a Option<Head>,
    nodes: Values<'a, NodeId, Node>,
    targets: Values<'a, TargetId, Target>,
    sources: Values<'a, SourceId, Source>,
    former_sources: Values<'a, SourceId, Source>,
    checkpoints: Values<'a, CheckpointId, Checkpoint>,
    layers: Values<'a, LayerId, Layer>,
    sectors: Values<'a, SectorId, RawSector>,
    copies: Copies<'a>,
    policy: &'a Policy,
    users: Values<'a, UserId, User>,
}

/// The values of a map as an array, one after another.
struct Values<'a, K, V>(&'a BTreeMap<K, V>);

impl<K, V: Serialize> Serialize for Values<'_, K, V> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.values())
    }
}

/// The copies, without the keys of write-only sectors: system data is read by whoever has the zone's secret, and stays on
/// targets for long.
struct Copies<'a>(&'a State);

impl Serialize for Copies<'_> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.copies.values().map(
            |c| match self.0.sectors.get(&c.sector).is_some_and(|s| s.write_only) {
                true => Cow::Owned(Copy { sealed_dek: String::new(), ..c.clone() }),
                false => Cow::Borrowed(c),
            },
        ))
    }
}

/// Writes the state.
pub fn export_state(state: &State, out: impl Write) -> io::Result<()> {
    let doc = Borrowed {
        format: 1,
        zone: &state.zone,
        revision: state.revision,
        next_seq: state.next_seq,
        last_time_ms: state.last_time_ms,
        head: &state.head,
        nodes: Values(&state.nodes),
        targets: Values(&state.targets),
        sources: Values(&state.sources),
        former_sources: Values(&state.former),
        checkpoints: Values(&state.checkpoints),
        layers: Values(&state.layers),
        sectors: Values(&state.sectors),
        copies: Copies(state),
        policy: &state.policy,
        users: Values(&state.users),
    };
    serde_json::to_writer(out, &doc).map_err(io::Error::from)
}

/// Reads a state, from at most 1 GiB.
pub fn import_state(input: impl Read) -> io::Result<State> {
    let doc: Document = serde_json::from_reader(io::BufReader::new(input.take(EXPORT_LEN_MAX)))?;
    if doc.format != 1 {
        return Err(io::Error::other(format!("the state has format {}, this program knows 1", doc.format)));
    }
    Ok(State {
        zone: doc.zone,
        nodes: by_id("node", doc.nodes, |x| x.id)?,
        targets: by_id("target", doc.targets, |x| x.id)?,
        sources: by_id("source", doc.sources, |x| x.id)?,
        former: by_id("former source", doc.former_sources, |x| x.id)?,
        checkpoints: by_id("checkpoint", doc.checkpoints, |x| x.id)?,
        layers: by_id("layer", doc.layers, |x| x.id)?,
        sectors: by_id("sector", doc.sectors, |x| x.id)?,
        copies: by_id("copy", doc.copies, |x| x.id)?,
        head: doc.head,
        policy: doc.policy,
        users: by_id("user", doc.users, |x| x.id)?,
        // Whoever held work in the zone of this document holds none in the one that is made of it.
        leases: BTreeMap::new(),
        invites: BTreeMap::new(),
        // A token that was revoked after this was written must not come to life again.
        tokens: BTreeMap::new(),
        revision: doc.revision,
        next_seq: doc.next_seq,
        last_time_ms: doc.last_time_ms,
    })
}

/// Records by id. One id twice is not a state that Zoneward wrote, and which of both counts would be a guess.
fn by_id<K: Ord + std::fmt::Display, V>(what: &str, all: Vec<V>, id: impl Fn(&V) -> K) -> io::Result<BTreeMap<K, V>> {
    let mut out = BTreeMap::new();
    for v in all {
        let k = id(&v);
        if out.contains_key(&k) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the {what} {k} is in the state twice")));
        }
        out.insert(k, v);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn text(state: &State) -> String {
        let mut out = Vec::new();
        export_state(state, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_was_exported_is_imported_again_at_every_step() {
        let mut state = State::default();
        for (i, command) in samples::story().iter().enumerate() {
            samples::done(&mut state, i as u64 + 1, command);
            // Tokens stay in the zone that gave them out.
            let expected = State { tokens: BTreeMap::new(), ..state.clone() };
            assert_eq!(import_state(text(&state).as_bytes()).unwrap(), expected, "after {command:?}");
        }
        let json: serde_json::Value = serde_json::from_str(&text(&state)).unwrap();
        for key in ["sources", "checkpoints", "layers", "sectors", "copies", "targets", "nodes"] {
            assert!(json[key].as_array().is_some_and(|a| !a.is_empty()), "{key}");
        }
        assert_eq!(json["format"], 1);
        assert_eq!(json["zone"]["id"], samples::zone().to_string());
        assert_eq!(json["head"]["n"], 1);
        assert_eq!(json["sources"][0]["path"], "/home/ann");
        assert_eq!(json["sources"][1]["path"]["b64"], "L2gv/w==");
        assert_eq!(json["copies"][0]["state"], "stored");
    }

    #[test]
    fn other_formats_cut_documents_and_doubled_records_are_refused() {
        let good = text(&samples::state());
        assert!(import_state(good.replace("\"format\":1", "\"format\":2").as_bytes()).is_err());
        for cut in (0..good.len()).step_by(97) {
            assert!(import_state(&good.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
        let mut json: serde_json::Value = serde_json::from_str(&good).unwrap();
        let first = json["copies"][0].clone();
        json["copies"].as_array_mut().unwrap().push(first);
        let e = import_state(json.to_string().as_bytes()).unwrap_err();
        assert!(e.to_string().contains("twice"), "{e}");
        assert!(import_state(&b"[]"[..]).is_err());
        assert!(import_state(&[0xff; 64][..]).is_err());
    }
}
