//! The survey of a source: what changed, how much, before anything is written.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use zoneward_consensus::model::{Ground, Source, State};
use zoneward_sectors::catalog::{CatalogError, Merge};
use zoneward_sectors::diff::{Change, Counts, Differ, Trouble};
use zoneward_sectors::entry::{Entry, Extent};
use zoneward_sectors::glob::Excludes;
use zoneward_sectors::ids::NodeId;
use zoneward_sectors::walk::{Filter, Walk, WalkOptions};

use crate::errors::ZoneError;
use crate::ground::ground_of;

/// Changes kept from the survey; if there are more, the source is scanned a second time.
const KEEP_MAX: usize = 100_000;

/// How a source is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Only differences count.
    Changes,
    /// Everything is stored anew.
    All,
    /// Only differences are read, but the catalog is written whole.
    WholeCatalog,
}

/// What a survey found.
#[derive(Debug)]
pub struct Survey {
    pub counts: Counts,
    pub troubles: Vec<Trouble>,
    /// All changes, if they are few enough to keep.
    pub changes: Option<Vec<Change>>,
    pub any_change: bool,
    /// What it lies on.
    pub ground: Ground,
    /// Numbers of the sectors that hold what its base names.
    pub relies_on: BTreeSet<u32>,
}

/// What a source is compared with.
pub struct Base {
    pub entries: Merge,
    /// Numbers of sectors that nothing is left of: what lies there is read again.
    pub gone: Arc<BTreeSet<u32>>,
}

/// The scan of a source against its base.
pub type Scan = Differ<Walk, Box<dyn Iterator<Item = Result<Entry, CatalogError>> + Send>>;

/// A source's own path, as it is stored and shown: it may be a dfs name.
pub fn source_path(source: &Source) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(source.path.clone()))
}

/// Where a source lies on a node.
pub fn located(state: &State, node: NodeId, source: &Source) -> Result<PathBuf, ZoneError> {
    let place = state.place_on(node, &source.path).map(|p| PathBuf::from(std::ffi::OsString::from_vec(p)));
    place.ok_or_else(|| ZoneError::Unmapped { path: source_path(source) })
}

/// Begins to compare a source with its base. It is read at `root`, which may be a snapshot of it.
pub fn scan(
    source: &Source,
    root: &Path,
    base: impl Iterator<Item = Result<Entry, CatalogError>> + Send + 'static,
    gone: &Arc<BTreeSet<u32>>,
    compare: Compare,
    threads: usize,
) -> Result<Scan, ZoneError> {
    let options = WalkOptions {
        threads,
        one_file_system: source.one_file_system,
        excludes: Some(left_out(source)?),
        skip_caches: source.exclude_caches,
    };
    let walk = Walk::start(root, options)
        .map_err(|e| ZoneError::Source { path: root.to_owned(), source: std::io::Error::other(e) })?;
    let base: Box<dyn Iterator<Item = _> + Send> = Box::new(base);
    Ok(Differ::new(walk, base, compare == Compare::All, compare == Compare::WholeCatalog).without(gone.clone()))
}

/// What of a source is not backed up, by its patterns and because it is our own.
pub(crate) fn left_out(source: &Source) -> Result<Filter, ZoneError> {
    let excludes = Excludes::new(&source.excludes, false).map_err(|e| ZoneError::TargetUrl(e.to_string()))?;
    if source.excludes.is_empty() {
        return Ok(Arc::new(|path: &[u8], is_dir| is_dir && is_own(path)));
    }
    // Patterns are written for the source's own path.
    let top = source.path.clone();
    Ok(Arc::new(move |path: &[u8], is_dir| {
        let absolute = [&top[..], b"/", path].concat();
        (is_dir && is_own(path)) || excludes.matches(path, &absolute, is_dir)
    }))
}

/// A snapshot that a backup of this or another source just made, what a rollback keeps and what an import has not put in its place, are a part of no source.
fn is_own(path: &[u8]) -> bool {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
    let ours =
        [crate::reading::snapshot::BTRFS_PREFIX, crate::rollback::FOLDER_PREFIX, crate::users::import::STAGED_PREFIX];
    ours.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

/// Scans a source once, at `root`; `live` is where it lies itself.
pub fn survey(
    source: &Source,
    live: &Path,
    root: &Path,
    base: Base,
    compare: Compare,
    threads: usize,
    stop: &AtomicBool,
) -> Result<Survey, ZoneError> {
    let ground = ground_of(live, source.one_file_system)?;
    let relies_on = Arc::new(Mutex::new(BTreeSet::new()));
    let entries = {
        let (relies_on, mut last) = (relies_on.clone(), None);
        base.entries.inspect(move |entry| {
            for x in entry.iter().flat_map(|e| &e.extents) {
                // Neighbours lie together.
                if let Extent::Data { sector, .. } = *x
                    && last.replace(sector) != Some(sector)
                {
                    relies_on.lock().unwrap_or_else(PoisonError::into_inner).insert(sector);
                }
            }
        })
    };
    let mut scan = scan(source, root, entries, &base.gone, compare, threads)?;
    let (mut kept, mut total) = (Vec::new(), 0usize);
    for change in scan.by_ref() {
        let change = change.map_err(|e| ZoneError::Catalogs(e.into()))?;
        total += 1;
        if stop.load(Ordering::Relaxed) {
            return Err(ZoneError::Interrupted);
        }
        if total <= KEEP_MAX {
            kept.push(change);
        } else {
            kept = Vec::new();
        }
    }
    Ok(Survey {
        counts: scan.counts.clone(),
        troubles: std::mem::take(&mut scan.troubles),
        changes: (total <= KEEP_MAX).then_some(kept),
        any_change: total > 0,
        ground,
        relies_on: std::mem::take(&mut *relies_on.lock().unwrap_or_else(PoisonError::into_inner)),
    })
}
