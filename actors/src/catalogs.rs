//! Catalogs of the zone: read from the local copies, or from the sectors where a copy is missing or damaged.

use std::collections::BTreeSet;
use std::io::{BufReader, Cursor, Read};

use zoneward_consensus::model::{Layer, Part, State};
use zoneward_sectors::catalog::{CatalogError, Merge, PartReader, SectorTable};
use zoneward_sectors::entry::Entry;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{LayerId, SectorId};
use zoneward_sectors::limits::CATALOG_PART_MAX;
use zoneward_sectors::restore::NoCopy;
use zoneward_sectors::sector_reader::SectorReader;

use crate::home::Home;
use crate::open::Opener;

/// Why a catalog cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogsError {
    #[error("a layer of the catalog is unknown to the zone's state ({0})")]
    UnknownLayer(LayerId),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// The entries of a chain of layers.
pub type Entries<'a> = Box<dyn Iterator<Item = Result<Entry, CatalogError>> + Send + 'a>;

/// Reads catalogs.
#[derive(Clone, Copy, Debug)]
pub struct Catalogs<'a> {
    pub home: &'a Home,
    pub state: &'a State,
    pub opener: &'a Opener,
}

impl<'a> Catalogs<'a> {
    pub fn table(&self) -> &'a SectorTable {
        self.opener.table()
    }

    /// Everything a chain of layers says, as one tree in path order.
    pub fn entries(&self, layers: &[LayerId]) -> Result<Merge, CatalogsError> {
        let mut all: Vec<Box<dyn Iterator<Item = _> + Send>> = Vec::new();
        for id in layers {
            let layer = self.state.layers.get(id).ok_or(CatalogsError::UnknownLayer(*id))?;
            all.push(Box::new(self.layer(layer)));
        }
        Ok(Merge::new(all)?)
    }

    /// Whether what a chain says can be read though these sectors are gone.
    pub fn are_readable(&self, layers: &[LayerId], gone: &BTreeSet<SectorId>) -> bool {
        let parts =
            layers.iter().filter_map(|l| self.state.layers.get(l)).flat_map(|l| l.parts.iter().map(|p| (l.id, p)));
        parts.into_iter().all(|(layer, p)| !gone.contains(&p.sector) || self.is_here(layer, p))
    }

    /// Whether the local copy of a part is whole.
    pub(crate) fn is_here(&self, layer: LayerId, part: &Part) -> bool {
        let packed = fsx::read_limited(&self.home.catalog_part(layer, part.part), CATALOG_PART_MAX);
        packed.is_ok_and(|packed| local_is_whole(&[], &packed))
    }

    /// The lines of one layer: its parts one after another, each opened when the one before ends.
    fn layer(
        &self,
        layer: &Layer,
    ) -> impl Iterator<Item = Result<zoneward_sectors::catalog::Line, CatalogError>> + Send + 'static {
        let parts: Vec<LazyPart> = layer
            .parts
            .iter()
            .map(|p| LazyPart {
                part: *p,
                source: layer.source,
                layer: layer.id,
                local: self.home.catalog_part(layer.id, p.part),
                opener: self.opener.clone(),
            })
            .collect();
        parts.into_iter().flat_map(|p| {
            let (lines, error) = match p.open() {
                Ok(r) => (Some(r), None),
                Err(e) => (None, Some(Err(e))),
            };
            lines.into_iter().flatten().chain(error)
        })
    }
}

struct LazyPart {
    part: Part,
    source: zoneward_sectors::ids::SourceId,
    layer: LayerId,
    local: std::path::PathBuf,
    opener: Opener,
}

type PartBytes = BufReader<Box<dyn Read + Send>>;

impl LazyPart {
    fn open(&self) -> Result<PartReader<PartBytes>, CatalogError> {
        match self.local_bytes() {
            Some(bytes) => self.reader(bytes),
            None => self.reader(Box::new(Cursor::new(self.remote()?))),
        }
    }

    /// The local copy, if it is whole: its length must be the part's. It is a cache, so damage only costs a fetch.
    fn local_bytes(&self) -> Option<Box<dyn Read + Send>> {
        let packed = fsx::read_limited(&self.local, CATALOG_PART_MAX).ok()?;
        let mut plain = Vec::with_capacity(self.part.length.min(CATALOG_PART_MAX) as usize);
        let limit = self.part.length + 1;
        zstd::Decoder::new(&packed[..]).ok()?.take(limit).read_to_end(&mut plain).ok()?;
        if plain.len() as u64 != self.part.length || !local_is_whole(&plain, &packed) {
            return None;
        }
        Some(Box::new(Cursor::new(plain)))
    }

    fn remote(&self) -> Result<Vec<u8>, CatalogError> {
        let failed = |damage: bool, e: Box<dyn std::error::Error + Send + Sync>| {
            let kind = if damage { std::io::ErrorKind::InvalidData } else { std::io::ErrorKind::Other };
            CatalogError::Io(std::io::Error::new(kind, e))
        };
        let none = |no: NoCopy| failed(no.damage, no.into());
        let number = self.opener.table().number(self.part.sector);
        let read = |r: &SectorReader| r.read_tar(self.part.offset, self.part.length, CATALOG_PART_MAX);
        let mut reader = self.opener.sector(number).map_err(none)?;
        loop {
            match read(&reader) {
                Ok(b) => return Ok(b),
                Err(e) => reader = self.opener.next_copy(number, &reader, &e).map_err(none)?,
            }
        }
    }

    fn reader(&self, bytes: Box<dyn Read + Send>) -> Result<PartReader<PartBytes>, CatalogError> {
        let input = BufReader::with_capacity(1 << 16, bytes);
        PartReader::new(input, self.opener.table(), self.part.sector, self.source, self.layer, self.part.part)
    }
}

/// A local copy ends with the BLAKE3 of its frames, in a skippable frame that zstd passes over.
fn local_is_whole(_plain: &[u8], packed: &[u8]) -> bool {
    let Some((frames, mark)) = packed.split_at_checked(packed.len().saturating_sub(MARK_LEN)) else { return false };
    mark.len() == MARK_LEN && mark[..8] == MARK_HEAD && mark[8..] == *blake3::hash(frames).as_bytes()
}

const MARK_HEAD: [u8; 8] = [0x5C, 0x2A, 0x4D, 0x18, 32, 0, 0, 0];
const MARK_LEN: usize = 40;

/// The local form of a part: its frames and their hash.
pub fn local_form(frames: &[u8]) -> Vec<u8> {
    [frames, &MARK_HEAD, blake3::hash(frames).as_bytes()].concat()
}
