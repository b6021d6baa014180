//! A copy looked at by its bytes: what makes it the copy it should be, and its segments, one by one.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use zoneward_consensus::model::Copy as BackupCopy;
use zoneward_sectors::limits::SEGMENT_LEN;
use zoneward_sectors::pack::IndexJson;
use zoneward_sectors::sector_reader::{SectorReadError, SectorReader};
use zoneward_sectors::stream::Leaf;

use crate::keyless::{Reading, Sealed, keep};
use crate::open::Opener;

/// A copy whose header, chain, commitment, trailer, seek table, leaf table and index are right; of one to which there is no
/// key, header, chain and length.
pub(crate) struct Examined<'a> {
    how: How,
    opener: &'a Opener,
}

enum How {
    Open { reader: Box<SectorReader>, leaves: Vec<Leaf> },
    Sealed(Sealed),
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

    /// The segment that was read last, as it is stored.
    pub fn sealed(&self) -> &[u8] {
        &self.sealed
    }
}

impl<'a> Examined<'a> {
    pub fn of(opener: &'a Opener, copy: &BackupCopy) -> Result<Self, SectorReadError> {
        if copy.is_keyless() && !opener.has_owner() {
            return Ok(Self { how: How::Sealed(Sealed::of(opener, copy)?), opener });
        }
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
        Ok(Self { how: How::Open { reader: Box::new(reader), leaves }, opener })
    }

    /// Its reader, where there is a key.
    pub fn reader(&self) -> Option<&SectorReader> {
        match &self.how {
            How::Open { reader, .. } => Some(reader),
            How::Sealed(_) => None,
        }
    }

    /// What can be judged by itself: its segments, or its pieces; without a key, and without the hashes of its pieces, only
    /// the whole.
    pub fn units(&self) -> u64 {
        match &self.how {
            How::Open { reader, .. } => reader.layout().segments(),
            How::Sealed(s) if s.has_table() => s.layout().pieces(),
            How::Sealed(_) => 1,
        }
    }

    /// Bytes of one of them.
    pub fn len(&self, unit: u64) -> u64 {
        match &self.how {
            How::Open { reader, .. } => reader.layout().segment_len(unit) as u64,
            How::Sealed(s) if s.has_table() => s.layout().piece(unit).end - s.layout().piece(unit).start,
            How::Sealed(s) => s.layout().file_len(),
        }
    }

    /// Reads a unit: of a segment its tag and its leaf hash must be right, of stored bytes their hash. Answers its length;
    /// `None`: it was stopped.
    pub fn read(&self, unit: u64, room: &mut Room, stop: &AtomicBool) -> Result<Option<u64>, SectorReadError> {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match &self.how {
            How::Open { reader, leaves } => {
                room.plain.resize(reader.layout().segment_len(unit), 0);
                reader.read_segment(unit, &mut room.sealed, &mut room.plain)?;
                if leaves.get(unit as usize) != Some(blake3::hash(&room.plain).as_bytes()) {
                    return Err(SectorReadError::Leaf(unit));
                }
            }
            How::Sealed(s) if s.has_table() => s.read(unit, &mut room.sealed)?,
            How::Sealed(s) => {
                let how = Reading { done: None, stop: Some(stop) };
                let Some(pieces) = s.read_all(&mut room.sealed, &how)? else { return Ok(None) };
                // From now on parts of it can be judged.
                keep(self.opener.home(), &pieces);
            }
        }
        Ok(Some(self.len(unit)))
    }

    /// The tar ranges of the frames that touch a unit; none where that cannot be known.
    pub fn tar_ranges(&self, unit: u64) -> Vec<Range<u64>> {
        let How::Open { reader, .. } = &self.how else { return Vec::new() };
        let (from, to) = (unit * SEGMENT_LEN as u64, (unit + 1) * SEGMENT_LEN as u64);
        let table = reader.table();
        (0..table.frames())
            .filter_map(|i| table.frame(i))
            .filter(|(raw, _)| raw.start < to && raw.end > from)
            .map(|(_, tar)| tar)
            .collect()
    }
}

/// Any number below `n`.
pub(crate) fn any_of(n: u64) -> u64 {
    let mut b = [0u8; 8];
    zoneward_sectors::crypto::fill_random(&mut b);
    u64::from_le_bytes(b) % n.max(1)
}
