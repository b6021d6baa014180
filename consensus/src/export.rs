//! The state as one JSON document: what a system sector carries, and what an offline look at a zone reads.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::limits::EXPORT_LEN_MAX;
use crate::model::{
    Checkpoint, CheckpointId, Copy, CopyId, Head, Layer, LayerId, Node, NodeId, RawSector, SectorId, Source, SourceId,
    State, Target, TargetId, Zone,
};

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
    checkpoints: Vec<Checkpoint>,
    layers: Vec<Layer>,
    sectors: Vec<RawSector>,
    copies: Vec<Copy>,
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
    checkpoints: Values<'a, CheckpointId, Checkpoint>,
    layers: Values<'a, LayerId, Layer>,
    sectors: Values<'a, SectorId, RawSector>,
    copies: Values<'a, CopyId, Copy>,
}

/// The values of a map as an array, one after another.
struct Values<'a, K, V>(&'a std::collections::BTreeMap<K, V>);

impl<K, V: Serialize> Serialize for Values<'_, K, V> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.values())
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
        checkpoints: Values(&state.checkpoints),
        layers: Values(&state.layers),
        sectors: Values(&state.sectors),
        copies: Values(&state.copies),
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
        nodes: doc.nodes.into_iter().map(|x| (x.id, x)).collect(),
        targets: doc.targets.into_iter().map(|x| (x.id, x)).collect(),
        sources: doc.sources.into_iter().map(|x| (x.id, x)).collect(),
        checkpoints: doc.checkpoints.into_iter().map(|x| (x.id, x)).collect(),
        layers: doc.layers.into_iter().map(|x| (x.id, x)).collect(),
        sectors: doc.sectors.into_iter().map(|x| (x.id, x)).collect(),
        copies: doc.copies.into_iter().map(|x| (x.id, x)).collect(),
        head: doc.head,
        revision: doc.revision,
        next_seq: doc.next_seq,
        last_time_ms: doc.last_time_ms,
    })
}
