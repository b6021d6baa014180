//! The control plane's side of packing: opens sectors on the first target, seals them, and records both.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use zoneward_consensus::command::Command;
use zoneward_consensus::model::{Part, RawSector};
use zoneward_consensus::sizes::plan_sectors;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CheckpointId, CopyId, LayerId, SectorId, TargetId};
use zoneward_sectors::pack::{OpenedSector, PackError, PlacedPart, Sectors};
use zoneward_sectors::sector_writer::{Finished, SectorFacts};
use zoneward_sectors::stream::stored_id;

use crate::catalogs::local_form;
use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::mint::{TargetOut, mint_copy, record_stripes};
use crate::zone::Zone;

/// What lies in one sector has the same number of copies, expires together, and is read by the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub copies: u8,
    pub write_only: bool,
}

impl Group {
    /// Sectors whose content counts for nothing here: those with fewer copies, and those that others may read.
    pub fn apart(self, zone: &Zone) -> HashSet<u32> {
        let other = |s: &&RawSector| s.copies_wanted < self.copies || s.write_only != self.write_only;
        zone.state().sectors.values().filter(other).map(|s| zone.table().number(s.id)).collect()
    }
}

pub(crate) struct Provider<'a> {
    zone: &'a mut Zone,
    checkpoint: CheckpointId,
    copies: u8,
    min_priority: i32,
    /// Only the owner is to read what is packed.
    write_only: bool,
    target: TargetId,
    /// Targets that did not take a sector: their copies are made later.
    refused: BTreeSet<TargetId>,
    open: HashMap<SectorId, (CopyId, Arc<TargetOut>)>,
    pub sectors: u64,
    pub stored_bytes: u64,
}

fn failed(what: &str, e: impl Into<ZoneError>) -> PackError {
    PackError::Provider(what.to_owned(), Some(Box::new(e.into())))
}

/// The target for a first copy: one that the packer can write to while it packs; a directory before one behind a
/// network, because further copies are made from it; then the one with the most room.
pub(crate) fn first_target(zone: &Zone) -> Result<TargetId, ZoneError> {
    first_target_but(zone, &BTreeSet::new(), 0)
}

/// The same, without those that refused one, for a sector of this class.
fn first_target_but(zone: &Zone, refused: &BTreeSet<TargetId>, class_log2: u8) -> Result<TargetId, ZoneError> {
    let usable = zone.targets().iter().filter(|(id, t)| {
        let known = zone.state().targets.get(id);
        let can = t.capabilities();
        let fits = can.ordered_write && can.max_class_log2 >= class_log2;
        known.is_some_and(|k| !k.paused) && !refused.contains(id) && fits
    });
    let near = |id: &TargetId| zone.state().targets.get(id).is_some_and(|k| k.url.starts_with("file:"));
    usable
        .max_by_key(|(id, t)| {
            let room = t.capabilities().free_bytes.unwrap_or(u64::MAX) >> 34;
            (near(id), room, std::cmp::Reverse(**id))
        })
        .map(|(id, _)| *id)
        .ok_or_else(|| {
            let why: Vec<String> =
                zone.unreachable().iter().map(|u| format!("{}: {}", u.name, crate::open::chain(&u.error))).collect();
            ZoneError::NoTarget(if why.is_empty() { "all are paused".into() } else { why.join("; ") })
        })
}

impl<'a> Provider<'a> {
    pub fn new(
        zone: &'a mut Zone,
        checkpoint: CheckpointId,
        group: Group,
        min_priority: i32,
    ) -> Result<Self, ZoneError> {
        let target = first_target(zone)?;
        let (refused, open) = (BTreeSet::new(), HashMap::new());
        let Group { copies, write_only } = group;
        let (sectors, stored_bytes) = (0, 0);
        Ok(Self { zone, checkpoint, copies, min_priority, write_only, target, refused, open, sectors, stored_bytes })
    }

    /// Throws away what is not sealed.
    pub fn abandon(&mut self) {
        for (sector, (_, out)) in self.open.drain() {
            out.abandon();
            // If even this cannot be recorded, the next run finds the open sector and gives it up.
            let _ = self.zone.propose(Command::AbandonSector { sector });
        }
    }

    /// Opens a sector where its first copy goes. A target that cannot begin one gives way to the next.
    fn open_sector(&mut self, class_log2: u8) -> Result<OpenedSector, ZoneError> {
        loop {
            let sector = SectorId::random();
            match self.open_on_target(sector, class_log2) {
                Err(e @ ZoneError::Target(_)) => {
                    self.zone.propose(Command::AbandonSector { sector })?;
                    self.refused.insert(self.target);
                    // The first reason tells most.
                    self.target = first_target_but(self.zone, &self.refused, class_log2).map_err(|_| e)?;
                }
                done => return done,
            }
        }
    }

    fn open_on_target(&mut self, sector: SectorId, class_log2: u8) -> Result<OpenedSector, ZoneError> {
        fsx::point("open-sector:before");
        self.zone.propose(Command::OpenSector {
            sector,
            checkpoint: self.checkpoint,
            class_log2,
            system: false,
            copies_wanted: self.copies,
            min_priority: self.min_priority,
            write_only: self.write_only,
        })?;
        fsx::point("open-sector:after");
        let minted = mint_copy(self.zone, sector, class_log2, self.target)?;
        self.open.insert(sector, (minted.copy, minted.out.clone()));
        let facts = SectorFacts {
            zone: self.zone.keys().zone(),
            sector,
            checkpoint: self.checkpoint,
            packer: self.zone.node(),
            epoch: self.zone.keys().epoch(),
            system: false,
            created_ms: now_ms(),
        };
        Ok(OpenedSector { facts, header: minted.header, keys: minted.keys, out: minted.out })
    }

    fn seal_sector(
        &mut self,
        sector: SectorId,
        done: Finished,
        parts: Vec<(PlacedPart, Vec<u8>)>,
    ) -> Result<(), ZoneError> {
        let Some((copy, out)) = self.open.remove(&sector) else {
            return Err(ZoneError::Sector(format!("sector {sector} is not open")));
        };
        let mut placed = Vec::with_capacity(parts.len());
        let mut entries = 0;
        let mut refs: BTreeMap<LayerId, BTreeSet<SectorId>> = BTreeMap::new();
        for (p, frames) in parts {
            let path = self.zone.home.catalog_part(p.layer, p.part);
            // A cache that knows whether it is whole: it need not be durable.
            fsx::write_plainly(&path, &local_form(&frames), 0o600).map_err(crate::home::io_at("write", &path))?;
            let PlacedPart { part, offset, length, .. } = p;
            entries += p.entries;
            refs.entry(p.layer).or_default().extend(p.refs);
            placed.push((p.layer, Part { sector, part, offset, length, entries: p.entries }));
        }
        fsx::point("seal:before");
        out.seal(done.file_len)?;
        fsx::point("seal:after");
        self.zone.propose(Command::SealSector {
            sector,
            raw_id: done.raw_id,
            raw_len: done.raw_len,
            tar_len: done.tar_len,
            index: done.index,
            seek_table: done.seek_table,
            entries,
            parts: placed,
            refs,
            copy,
            stored_len: done.file_len,
            stored_id: Some(stored_id(&done.pieces)),
        })?;
        if self.write_only {
            crate::keyless::keep(&self.zone.home, &done.pieces);
        }
        fsx::point("seal-recorded:after");
        record_stripes(self.zone, copy, &out, done.file_len)?;
        self.sectors += 1;
        self.stored_bytes += done.file_len;
        Ok(())
    }
}

impl Sectors for Provider<'_> {
    fn open(&mut self, estimate: u64, at_least: u64) -> Result<OpenedSector, PackError> {
        let (min, max) = self.zone.state().zone.as_ref().map_or((31, 36), |z| (z.sector_min_log2, z.sector_max_log2));
        let most = self.zone.target(self.target).map_or(max, |t| t.capabilities().max_class_log2).min(max);
        let first = plan_sectors(estimate.max(at_least), min, most).first().copied().unwrap_or(min);
        let class = first.max(at_least.next_power_of_two().trailing_zeros() as u8);
        if class > 36 {
            return Err(PackError::Provider("no class is large enough".into(), None));
        }
        self.open_sector(class).map_err(|e| failed("a sector cannot be opened", e))
    }

    fn seal(&mut self, sector: SectorId, done: Finished, parts: Vec<(PlacedPart, Vec<u8>)>) -> Result<(), PackError> {
        self.seal_sector(sector, done, parts).map_err(|e| failed("a sector cannot be sealed", e))
    }
}
