//! Copies that the zone has no key to: they are known by their stored bytes, piece by piece.
//!
//! The state keeps one hash for a copy, its stored id. The hashes of its pieces, 32 bytes for each MiB, are kept beside, in
//! the home of whoever made the copy or once read all of it (`pieces/`): a cache that proves itself, because the stored id is
//! the hash over them. With it any piece is judged alone; without it all of the copy has to be read, which makes it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use zoneward_consensus::command::Command;
use zoneward_consensus::keyless::due;
use zoneward_consensus::model::{Copy as BackupCopy, State};
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{Digest, LayerId, SectorId};
use zoneward_sectors::limits::SEGMENTS_MAX;
use zoneward_sectors::sector_reader::{SectorIn, SectorReadError};
use zoneward_sectors::stream::{Layout, Piece, stored_id};

use crate::catalogs::Catalogs;
use crate::errors::ZoneError;
use crate::home::Home;
use crate::open::Opener;
use crate::zone::Zone;

/// The hashes of a copy's pieces, if this home has them.
pub(crate) fn kept(home: &Home, id: Digest) -> Option<Vec<Piece>> {
    let bytes = fsx::read_limited(&home.pieces(id), 32 * (SEGMENTS_MAX + 2)).ok()?;
    let (pieces, rest) = bytes.as_chunks::<32>();
    (rest.is_empty() && stored_id(pieces) == id).then(|| pieces.to_vec())
}

/// Keeps them. It is a cache: what cannot be written now costs a reading later.
pub(crate) fn keep(home: &Home, pieces: &[Piece]) {
    let path = home.pieces(stored_id(pieces));
    if let Some(dir) = path.parent() {
        let made = fsx::create_dir_all(dir, 0o700);
        let _ = made.and_then(|()| fsx::write_plainly(&path, pieces.as_flattened(), 0o600));
    }
}

/// A stored copy whose header is the one that was minted, and whose length is right.
pub(crate) struct Sealed {
    input: Arc<dyn SectorIn>,
    layout: Layout,
    id: Digest,
    table: Option<Vec<Piece>>,
}

/// How far the reading of a copy is.
#[derive(Debug, Default)]
pub(crate) struct Reading<'a> {
    pub done: Option<&'a AtomicU64>,
    pub stop: Option<&'a AtomicBool>,
}

impl Reading<'_> {
    fn read(&self, len: u64) {
        self.done.into_iter().for_each(|d| {
            d.fetch_add(len, Ordering::Relaxed);
        });
    }

    fn stopped(&self) -> bool {
        self.stop.is_some_and(|s| s.load(Ordering::Relaxed))
    }
}

impl Sealed {
    pub fn of(opener: &Opener, copy: &BackupCopy) -> Result<Self, SectorReadError> {
        let input = opener.sealed(copy)?;
        let len = input.len()?;
        let layout = Layout::of_file(len).filter(|l| l.file_len() == copy.stored_len);
        let layout = layout.ok_or(SectorReadError::Length(len))?;
        // Nothing but these bytes says what they are.
        let id = copy.stored_id.ok_or(SectorReadError::OwnerOnly)?;
        let table = kept(opener.home(), id).filter(|t| t.len() as u64 == layout.pieces());
        Ok(Self { input, layout, id, table })
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether each piece can be judged alone.
    pub fn has_table(&self) -> bool {
        self.table.is_some()
    }

    /// The bytes of piece `k`.
    fn bytes(&self, k: u64, buf: &mut Vec<u8>) -> Result<(), SectorReadError> {
        let at = self.layout.piece(k);
        buf.resize((at.end - at.start) as usize, 0);
        Ok(self.input.read_at(buf, at.start)?)
    }

    /// Reads piece `k`, which must be what was sealed.
    pub fn read(&self, k: u64, buf: &mut Vec<u8>) -> Result<(), SectorReadError> {
        self.bytes(k, buf)?;
        let known = self.table.as_ref().and_then(|t| t.get(k as usize));
        if known == Some(blake3::hash(buf).as_bytes()) { Ok(()) } else { Err(SectorReadError::Piece(k)) }
    }

    /// Reads all of it; `false` if it was stopped.
    pub fn read_all(&self, buf: &mut Vec<u8>, how: &Reading<'_>) -> Result<Option<Vec<Piece>>, SectorReadError> {
        let mut pieces = Vec::with_capacity(self.layout.pieces() as usize);
        for k in 0..self.layout.pieces() {
            if how.stopped() {
                return Ok(None);
            }
            self.bytes(k, buf)?;
            how.read(buf.len() as u64);
            let piece = *blake3::hash(buf).as_bytes();
            // With a table the piece is named; without one only the whole can be judged.
            if self.table.as_ref().is_some_and(|t| t.get(k as usize) != Some(&piece)) {
                return Err(SectorReadError::Piece(k));
            }
            pieces.push(piece);
        }
        if stored_id(&pieces) == self.id { Ok(Some(pieces)) } else { Err(SectorReadError::Stored) }
    }

    /// Sees to it that each piece can be judged alone: reads all of it if nobody did here. `false` if that was stopped.
    pub fn with_table(&mut self, home: &Home, how: &Reading<'_>) -> Result<bool, SectorReadError> {
        if self.table.is_none() {
            let Some(pieces) = self.read_all(&mut Vec::new(), how)? else { return Ok(false) };
            keep(home, &pieces);
            self.table = Some(pieces);
        }
        Ok(true)
    }
}

/// Has the zone forget the keys that it needs no more. A daemon's leader does it by itself.
pub fn forget_keys(zone: &mut Zone) -> Result<(), ZoneError> {
    loop {
        let sectors = due(zone.state());
        if sectors.is_empty() || zone.is_shared() {
            return Ok(());
        }
        fsx::point("forget-keys:before");
        zone.propose(Command::ForgetKeys { sectors })?;
        fsx::point("forget-keys:after");
    }
}

/// Removes tables of copies that are not known any more.
pub(crate) fn forget_pieces(home: &Home, state: &State) {
    let known: BTreeSet<Digest> = state.copies.values().filter_map(|c| c.stored_id).collect();
    let Ok(entries) = std::fs::read_dir(home.all_pieces()) else { return };
    for entry in entries.flatten() {
        let id = entry.file_name().to_str().and_then(|n| n.parse::<Digest>().ok());
        if id.is_some_and(|id| !known.contains(&id)) {
            let _ = fsx::remove_file(&entry.path());
        }
    }
}

/// Of these layers' sectors those that only the owner can read, as long as the owner's key is not at hand.
pub fn closed(zone: &Zone, layers: &[LayerId]) -> BTreeSet<SectorId> {
    if zone.has_owner_keys() {
        return BTreeSet::new();
    }
    let (needed, _) = zone.state().needed_by(layers);
    needed.intersection(&zone.state().keyless()).copied().collect()
}

impl Catalogs<'_> {
    /// Whether what a chain of layers says can be read as far as keys go: from here, or from sectors that can be opened.
    pub fn are_open(&self, layers: &[LayerId]) -> bool {
        let parts =
            layers.iter().filter_map(|l| self.state.layers.get(l)).flat_map(|l| l.parts.iter().map(|p| (l.id, p)));
        parts.into_iter().all(|(layer, p)| self.opener.has_key(p.sector) || self.is_here(layer, p))
    }
}
