//! The survey of a source: what changed, how much, before anything is written.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use zoneward_consensus::model::Source;
use zoneward_sectors::catalog::{CatalogError, Merge};
use zoneward_sectors::diff::{Change, Counts, Differ, Trouble};
use zoneward_sectors::glob::Excludes;
use zoneward_sectors::walk::{Filter, Walk, WalkOptions};

use crate::errors::ZoneError;

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
    /// What the root lies on: see [`mount_of`].
    pub mount: String,
}

/// The scan of a source against its base.
pub type Scan = Differ<Walk, Box<dyn Iterator<Item = Result<zoneward_sectors::entry::Entry, CatalogError>> + Send>>;

/// A source's path.
pub fn source_path(source: &Source) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(source.path.clone()))
}

/// Begins to compare a source with its base.
pub fn scan(source: &Source, base: Merge, compare: Compare, threads: usize) -> Result<Scan, ZoneError> {
    let root = source_path(source);
    let excludes = Excludes::new(&source.excludes, false).map_err(|e| ZoneError::TargetUrl(e.to_string()))?;
    let filter: Option<Filter> = if source.excludes.is_empty() {
        None
    } else {
        let top = root.as_os_str().as_bytes().to_vec();
        Some(Arc::new(move |path: &[u8], is_dir| {
            let absolute = [&top[..], b"/", path].concat();
            excludes.matches(path, &absolute, is_dir)
        }))
    };
    let options = WalkOptions {
        threads,
        one_file_system: source.one_file_system,
        excludes: filter,
        skip_caches: source.exclude_caches,
    };
    let walk = Walk::start(&root, options)
        .map_err(|e| ZoneError::Source { path: root.clone(), source: std::io::Error::other(e) })?;
    let base: Box<dyn Iterator<Item = _> + Send> = Box::new(base);
    Ok(Differ::new(walk, base, compare == Compare::All, compare == Compare::WholeCatalog))
}

/// Scans a source once.
pub fn survey(
    source: &Source,
    base: Merge,
    compare: Compare,
    threads: usize,
    stop: &AtomicBool,
) -> Result<Survey, ZoneError> {
    let mount = mount_of(&source_path(source))?;
    let mut scan = scan(source, base, compare, threads)?;
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
        mount,
    })
}

/// What a path lies on, in words that stay the same across restarts: `a mounted file system`, or `a plain directory`.
pub fn mount_of(path: &Path) -> Result<String, ZoneError> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let mount = |p: &Path| {
        let s = statx(CWD, p, AtFlags::empty(), StatxFlags::MNT_ID);
        s.map(|s| s.stx_mnt_id).map_err(|e| ZoneError::Source { path: path.to_owned(), source: e.into() })
    };
    let here = mount(path)?;
    let is_mount = match path.parent() {
        Some(parent) => mount(parent)? != here,
        None => true,
    };
    Ok(if is_mount { "a mounted file system" } else { "a plain directory" }.into())
}
