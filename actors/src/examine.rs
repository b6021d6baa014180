//! A copy looked at by its bytes: what makes it the copy it should be, and its segments, one by one.

use zoneward_consensus::model::Copy as BackupCopy;
use zoneward_sectors::limits::SEGMENT_LEN;
use zoneward_sectors::pack::IndexJson;
use zoneward_sectors::sector_reader::{SectorReadError, SectorReader};
use zoneward_sectors::stream::Leaf;

use crate::open::Opener;

/// A copy whose header, chain, commitment, trailer, seek table, leaf table and index are right.
pub(crate) struct Examined {
    pub reader: SectorReader,
    leaves: Vec<Leaf>,
}

/// Room for one segment, sealed and open.
pub(crate) struct Room {
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

impl Room {
    pub fn new() -> Self {
        Self { sealed: Vec::new(), plain: Vec::with_capacity(SEGMENT_LEN) }
    }
}

impl Examined {
    pub fn of(opener: &Opener, copy: &BackupCopy) -> Result<Self, SectorReadError> {
        let (_, reader) = opener.copy(copy)?;
        if reader.layout().file_len() != copy.stored_len {
            return Err(SectorReadError::Length(reader.layout().file_len()));
        }
        let leaves = reader.leaves()?;
        let index: IndexJson = serde_json::from_slice(&reader.index_json()?)
            .map_err(|_| SectorReadError::Other("its index is not the JSON it should be"))?;
        if index.sector != copy.sector {
            return Err(SectorReadError::Other("its index names another sector"));
        }
        Ok(Self { reader, leaves })
    }

    pub fn segments(&self) -> u64 {
        self.reader.layout().segments()
    }

    /// Reads a segment; its tag and its leaf hash must be right. Answers its length.
    pub fn read(&self, segment: u64, room: &mut Room) -> Result<u64, SectorReadError> {
        room.plain.resize(self.reader.layout().segment_len(segment), 0);
        self.reader.read_segment(segment, &mut room.sealed, &mut room.plain)?;
        if self.leaves.get(segment as usize) != Some(blake3::hash(&room.plain).as_bytes()) {
            return Err(SectorReadError::Leaf(segment));
        }
        Ok(room.plain.len() as u64)
    }
}

/// Any number below `n`.
pub(crate) fn any_of(n: u64) -> u64 {
    let mut b = [0u8; 8];
    zoneward_sectors::crypto::fill_random(&mut b);
    u64::from_le_bytes(b) % n.max(1)
}
