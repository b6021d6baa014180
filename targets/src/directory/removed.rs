//! Sectors that were removed and are kept for a while: `zones/<alias>/removed/<copy>.<mark>`.
//!
//! Only a target server sets sectors aside; a plain directory removes them at once. The mark, 16 hex digits, is the
//! server's credited time at the removal in milliseconds, so that no other record is needed and none can be lost.

use zoneward_sectors::ids::{CopyId, ZoneAlias};

use super::dir::Dir;
use super::{DirectoryTarget, INCOMING, Place, REMOVED, SECTORS, ZONES, exact, names, sector_file, shard};
use crate::errors::{Op, TargetError};

/// How often a mark is moved by a millisecond because the same copy was removed at the same one.
const MARK_TRIES: u64 = 64;

/// A sector that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aside {
    pub copy: CopyId,
    /// When, in milliseconds of credited time.
    pub mark: u64,
    pub len: u64,
}

fn aside_file(copy: CopyId, mark: u64) -> String {
    format!("{copy}.{mark:016x}")
}

impl DirectoryTarget {
    /// Moves a sealed sector aside, durably. False if it is not there.
    pub(crate) fn set_aside(&self, alias: ZoneAlias, copy: CopyId, mark: u64) -> Result<bool, TargetError> {
        let op = Op::Remove;
        let io = |e| TargetError::from_io(op, Place::Sector(copy), e);
        self.shared.check(op)?;
        let Some(dir) = self.shared.find_shard(op, alias, copy)? else { return Ok(false) };
        if dir.stat(&sector_file(copy)).map_err(io)?.is_none() {
            return Ok(false);
        }
        let zone = self.shared.make_zone(alias).map_err(|(place, e)| TargetError::from_io(op, place, e))?;
        let removed = zone.make(REMOVED).map_err(io)?;
        for late in 0..MARK_TRIES {
            match dir.rename_new(&sector_file(copy), &removed, &aside_file(copy, mark + late)) {
                Ok(()) => {
                    [&removed, &dir, &zone].into_iter().try_for_each(Dir::sync).map_err(io)?;
                    return Ok(true);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
                Err(e) => return Err(io(e)),
            }
        }
        Err(TargetError::Busy { op, what: Place::Sector(copy).to_string() })
    }

    /// What was set aside, in the order of copies and marks.
    pub(crate) fn list_aside(&self, alias: ZoneAlias) -> Result<Vec<Aside>, TargetError> {
        let op = Op::List;
        self.shared.check(op)?;
        let Some(dir) = self.shared.find(op, alias, Some(REMOVED))? else { return Ok(Vec::new()) };
        let place = Place::Dir(REMOVED, alias);
        let mut out = Vec::new();
        for name in names(op, &place, &dir)?.into_iter().flatten() {
            let Some((copy, mark)) = name.split_once('.') else { continue };
            let (Some(copy), Ok(mark)) = (exact::<CopyId>(copy), u64::from_str_radix(mark, 16)) else { continue };
            if name != aside_file(copy, mark) {
                continue;
            }
            if let Some(Ok(len)) = dir.file_len(&name).map_err(|e| TargetError::from_io(op, &place, e))? {
                out.push(Aside { copy, mark, len });
            }
        }
        out.sort_unstable_by_key(|a| (a.copy, a.mark));
        Ok(out)
    }

    /// Makes a sector that was set aside a sealed one again, durably. One that is sealed under its id is
    /// [`TargetError::Busy`].
    pub(crate) fn take_back(&self, alias: ZoneAlias, aside: Aside) -> Result<(), TargetError> {
        let op = Op::TakeBack;
        let what = Place::Sector(aside.copy);
        let io = |e| TargetError::from_io(op, &what, e);
        self.shared.check(op)?;
        let Some(removed) = self.shared.find(op, alias, Some(REMOVED))? else {
            return Err(TargetError::NotFound { op, what: what.to_string() });
        };
        let zones = self.shared.root.make(ZONES).map_err(io)?;
        let zone = zones.make(&alias.to_string()).map_err(io)?;
        let sectors = zone.make(SECTORS).map_err(io)?;
        let dir = sectors.make(&shard(aside.copy)).map_err(io)?;
        match removed.rename_new(&aside_file(aside.copy, aside.mark), &dir, &sector_file(aside.copy)) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(TargetError::Busy { op, what: what.to_string() });
            }
            r => r.map_err(io)?,
        }
        [&dir, &sectors, &removed].into_iter().try_for_each(Dir::sync).map_err(io)
    }

    /// Removes for good what was set aside.
    pub(crate) fn purge(&self, alias: ZoneAlias, aside: Aside) -> Result<(), TargetError> {
        let op = Op::Remove;
        let io = |e| TargetError::from_io(op, Place::Sector(aside.copy), e);
        self.shared.check(op)?;
        let Some(removed) = self.shared.find(op, alias, Some(REMOVED))? else { return Ok(()) };
        removed.remove(&aside_file(aside.copy, aside.mark)).and_then(|()| removed.sync()).map_err(io)
    }

    /// Bytes of a sector that was begun and not sealed; `None` if there is none.
    pub(crate) fn incoming_len(&self, alias: ZoneAlias, copy: CopyId) -> Result<Option<u64>, TargetError> {
        let op = Op::Read;
        self.shared.check(op)?;
        let Some(dir) = self.shared.find(op, alias, Some(INCOMING))? else { return Ok(None) };
        let what = Place::Incoming(copy);
        match dir.file_len(&copy.to_string()).map_err(|e| TargetError::from_io(op, &what, e))? {
            Some(Err(reason)) => Err(TargetError::Foreign { op, what: what.to_string(), reason }),
            Some(Ok(len)) => Ok(Some(len)),
            None => Ok(None),
        }
    }
}
