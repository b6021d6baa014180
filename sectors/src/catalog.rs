//! Catalogs: what a source held, as layers of sorted JSON lines (`docs/format.md` §5).

mod merge;
mod reader;
mod writer;

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use crate::ids::SectorId;

pub use merge::{Lines, Merge};
pub use reader::{CatalogError, Line, PartReader, path_is_inside};
pub use writer::PartWriter;

/// The sectors that extents refer to, numbered from 0 for this process. Shared by readers and writers.
#[derive(Clone, Debug, Default)]
pub struct SectorTable(Arc<RwLock<Table>>);

#[derive(Debug, Default)]
struct Table {
    ids: Vec<SectorId>,
    numbers: HashMap<SectorId, u32>,
}

impl SectorTable {
    /// The number of a sector, new or known.
    pub fn number(&self, id: SectorId) -> u32 {
        let mut t = self.0.write().unwrap_or_else(|e| e.into_inner());
        if let Some(n) = t.numbers.get(&id) {
            return *n;
        }
        let n = t.ids.len() as u32;
        t.ids.push(id);
        t.numbers.insert(id, n);
        n
    }

    /// The sector behind a number.
    pub fn id(&self, number: u32) -> Option<SectorId> {
        self.0.read().unwrap_or_else(|e| e.into_inner()).ids.get(number as usize).copied()
    }
}

#[cfg(test)]
mod tests;
