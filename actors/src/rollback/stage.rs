//! Restoring what a checkpoint holds beside what is there, whole and read back, while nothing is touched.

use std::os::fd::AsFd;

use rustix::fs::{Mode, open, openat};
use zoneward_sectors::catalog::CatalogError;
use zoneward_sectors::entry::Entry;
use zoneward_sectors::place::Place;
use zoneward_sectors::restore::{Progress, RestoreError, RestoreReport, Settings, restore};

use super::journal::{Journal, Swap};
use super::swap::{LIST, NEW, OLD, failed, make_dir, names};
use super::{RollbackError, plan};
use crate::catalogs::CatalogsError;
use crate::errors::ZoneError;
use crate::restore::{Filter, Held, sources_of};
use crate::zone::Zone;

/// Brings all sources of a rollback beside what is there. What an earlier run brought already is compared, not brought again.
pub(super) fn stage(
    zone: &Zone,
    journal: &Journal,
    threads: usize,
    progress: &Progress,
) -> Result<RestoreReport, RollbackError> {
    let held = sources_of(zone, journal.checkpoint);
    let mut total = RestoreReport::default();
    for swap in &journal.swaps {
        let held = held.iter().find(|h| h.source == swap.source);
        let held = held.ok_or(RollbackError::NoCheckpoint(journal.seq))?;
        total.add(&one(zone, swap, held, threads, progress)?);
        if total.failed_count > 0 {
            return Err(RollbackError::Incomplete(Box::new(total)));
        }
    }
    Ok(total)
}

fn one(
    zone: &Zone,
    swap: &Swap,
    held: &Held,
    threads: usize,
    progress: &Progress,
) -> Result<RestoreReport, RollbackError> {
    let (dir, kept) = (swap.dir.path(), swap.kept());
    let place = open(&dir, LIST, Mode::empty()).map_err(failed("open", &dir))?;
    make_dir(place.as_fd(), &swap.folder).map_err(failed("make", &kept))?;
    let folder = openat(&place, swap.folder.as_str(), LIST, Mode::empty()).map_err(failed("open", &kept))?;
    for name in [OLD, NEW] {
        make_dir(folder.as_fd(), name).map_err(failed("make", &kept))?;
    }
    let new = openat(&folder, NEW, LIST, Mode::empty()).map_err(failed("open", &kept))?;
    let fresh = names(new.as_fd()).map_err(failed("list", &kept))?.is_empty();
    let fingerprint_key = *zone.keys().fingerprint_key();
    let settings = Settings { threads, verify: true, fresh, fingerprint_key };
    let opener = zone.opener();
    let catalogs = zone.catalogs(&opener);
    let wanted = |path: &[u8], _: bool| plan::goes_along(swap, plan::inside(&held.path, path));
    let entries = catalogs.entries(&held.layers).map_err(ZoneError::from)?;
    let entries = Filter::new(entries, &held.path, &wanted);
    // The directory itself stays: it gets its attributes when all is in its place.
    let entries = entries
        .filter(|e: &Result<Entry, CatalogError>| swap.only.is_some() || !e.as_ref().is_ok_and(|e| e.path.is_empty()));
    let top: &[u8] = swap.only.as_ref().map_or(b"", |n| &n.0);
    let mut report = restore(entries, top, &Place::at(new), &opener, &settings, progress).map_err(of_restore)?;
    report.bad_copies = opener.take_told();
    Ok(report)
}

fn of_restore(e: RestoreError) -> RollbackError {
    match e {
        RestoreError::Catalog(e) => ZoneError::Catalogs(CatalogsError::from(e)).into(),
        e => ZoneError::from(e).into(),
    }
}
