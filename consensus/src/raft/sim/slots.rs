//! C4: each slice of what a checkpoint packs of a source has one raw sector, whoever packed it and how often it was begun.
//! What is written anew of what is stored is begun anew too; only what its chains name counts.

use std::collections::BTreeMap;

use zoneward_sectors::ids::{CheckpointId, Digest, LayerId, SourceId};

use super::eyes::{First, Found, inner};
use crate::command::Command;

#[derive(Default)]
pub struct Slots {
    layers: BTreeMap<LayerId, (CheckpointId, SourceId)>,
    /// The raw sector of each slice. The simulated packers write a slice's number where its entries are counted.
    raw: BTreeMap<(CheckpointId, SourceId, u64), Digest>,
}

impl Slots {
    pub fn entry(&mut self, e: &First<'_>, found: &mut Found) {
        match inner(e.command).1 {
            Command::OpenLayer { layer, checkpoint, source, .. }
                if e.state.checkpoints.get(checkpoint).is_none_or(|c| c.rewrite.is_none()) =>
            {
                self.layers.insert(*layer, (*checkpoint, *source));
            }
            Command::SealSector { raw_id, parts, .. } => {
                for (layer, part) in parts {
                    let Some((checkpoint, source)) = self.layers.get(layer) else { continue };
                    let slot = (*checkpoint, *source, part.entries);
                    let first = *self.raw.entry(slot).or_insert(*raw_id);
                    found.demand(first == *raw_id, "C4", || {
                        format!("entry {} of {} seals the slice {slot:?} a second time", e.index, e.by)
                    });
                }
            }
            _ => {}
        }
    }
}
