//! Restoring checkpoints: which entries, to where, from which copies.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use zoneward_consensus::model::State;
use zoneward_consensus::names;
use zoneward_sectors::catalog::CatalogError;
use zoneward_sectors::entry::{Entry, Extent, Kind};
use zoneward_sectors::ids::{CheckpointId, LayerId, SourceId};
use zoneward_sectors::place::Place;
use zoneward_sectors::restore::{Progress, RestoreReport, Settings, restore};
use zoneward_sectors::sector_reader::SectorReadError;
use zoneward_sectors::shown::show_path;

use crate::catalogs::Catalogs;
use crate::errors::ZoneError;
use crate::keyless::closed;
use crate::open::Opener;
use crate::zone::Zone;

/// Decides by absolute path whether an entry is wanted; true for directories above what is wanted too.
pub type Wanted<'a> = &'a (dyn Fn(&[u8], bool) -> bool + Sync);

/// What to restore.
pub struct RestoreRequest<'a> {
    pub checkpoint: CheckpointId,
    /// Below this directory; `None` restores in place.
    pub to: Option<PathBuf>,
    pub wanted: Wanted<'a>,
    pub verify: bool,
    pub threads: usize,
}

impl std::fmt::Debug for RestoreRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RestoreRequest({})", self.checkpoint)
    }
}

/// A source of a checkpoint, with its catalog's chain.
#[derive(Clone, Debug)]
pub struct Held {
    pub source: SourceId,
    pub path: Vec<u8>,
    pub layers: Vec<LayerId>,
    pub priority: i32,
}

/// Whether `path` is `top` or lies below it.
pub fn is_within(path: &[u8], top: &[u8]) -> bool {
    path == top || top == b"/" || (path.starts_with(top) && path.get(top.len()) == Some(&b'/'))
}

/// The sources a checkpoint holds, most important first.
pub fn sources_of(zone: &Zone, checkpoint: CheckpointId) -> Vec<Held> {
    held_by(zone.state(), checkpoint)
}

/// The same, of a state.
pub(crate) fn held_by(state: &State, checkpoint: CheckpointId) -> Vec<Held> {
    let Some(c) = state.checkpoints.get(&checkpoint) else { return Vec::new() };
    let mut all: Vec<Held> = c
        .tasks
        .iter()
        .filter(|t| !t.layers.is_empty())
        .filter_map(|t| {
            let s = state.source_ever(t.source)?;
            Some(Held { source: t.source, path: s.path.clone(), layers: t.layers.clone(), priority: s.priority })
        })
        .collect();
    all.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.path.cmp(&b.path)));
    all
}

/// An entry's absolute path.
pub fn absolute(top: &[u8], path: &[u8]) -> Vec<u8> {
    match (top, path.is_empty()) {
        (_, true) => top.to_vec(),
        (b"/", false) => [b"/", path].concat(),
        (_, false) => [top, b"/", path].concat(),
    }
}

/// Restores what is wanted of a checkpoint. `each` is told of every source's figures as it is done.
pub fn restore_checkpoint(
    zone: &Zone,
    request: &RestoreRequest<'_>,
    progress: &Progress,
    each: &mut dyn FnMut(&Held, &RestoreReport),
) -> Result<(), ZoneError> {
    let opener = zone.opener();
    let catalogs = zone.catalogs(&opener);
    let all = sources_of(zone, request.checkpoint);
    let closed = closed_of(zone, &opener, &all, request.wanted)?;
    let names = || closed.iter().filter_map(|i| all.get(*i)).map(|h| show_path(&h.path)).collect();
    if !closed.is_empty() {
        let mut others = false;
        for (_, held) in all.iter().enumerate().filter(|(i, _)| !closed.contains(i)) {
            others |= wants_any(catalogs, held, request.wanted, &|_| true)?;
        }
        if !others {
            return Err(ZoneError::OwnerOnly(names()));
        }
    }
    for (i, held) in all.into_iter().enumerate() {
        if closed.contains(&i) {
            // The others are restored all the same.
            let mut report = RestoreReport::default();
            report.leave_out(&held.path, SectorReadError::OwnerOnly.to_string());
            each(&held, &report);
            continue;
        }
        let (dir, top) = place_of(zone, request, &held)?;
        let fresh = request.to.as_deref().is_some_and(is_empty_dir) || !dir.exists();
        let settings = Settings {
            threads: request.threads,
            verify: request.verify,
            fresh,
            fingerprint_key: *zone.keys().fingerprint_key(),
        };
        let place = Place::open(&dir).map_err(zoneward_sectors::restore::RestoreError::from)?;
        let entries = Filter::new(catalogs.entries(&held.layers)?, &held.path, request.wanted);
        let mut report = restore(entries, &top, &place, &opener, &settings, progress)?;
        report.bad_copies = opener.take_told();
        each(&held, &report);
    }
    Ok(())
}

/// The places in this list of the sources of which something wanted can be read only with the owner's key, which is not at
/// hand.
fn closed_of(zone: &Zone, opener: &Opener, all: &[Held], wanted: Wanted<'_>) -> Result<BTreeSet<usize>, ZoneError> {
    let catalogs = zone.catalogs(opener);
    let mut out = BTreeSet::new();
    for (i, held) in all.iter().enumerate() {
        let sectors = closed(zone, &held.layers);
        if sectors.is_empty() {
            continue;
        }
        if !catalogs.are_open(&held.layers) {
            out.insert(i);
            continue;
        }
        let numbers: BTreeSet<u32> = sectors.iter().map(|s| zone.table().number(*s)).collect();
        let inside = |x: &Extent| matches!(x, Extent::Data { sector, .. } if numbers.contains(sector));
        if wants_any(catalogs, held, wanted, &|e| e.extents.iter().any(inside))? {
            out.insert(i);
        }
    }
    Ok(out)
}

/// Whether anything of a source is wanted and is such an entry.
fn wants_any(
    catalogs: Catalogs<'_>,
    held: &Held,
    wanted: Wanted<'_>,
    such: &dyn Fn(&Entry) -> bool,
) -> Result<bool, ZoneError> {
    for entry in catalogs.entries(&held.layers)? {
        let entry = entry?;
        if such(&entry) && wanted(&absolute(&held.path, &entry.path), entry.meta.kind == Kind::Dir) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The directory that nothing leaves, and the source's place inside it.
fn place_of(zone: &Zone, request: &RestoreRequest<'_>, held: &Held) -> Result<(PathBuf, Vec<u8>), ZoneError> {
    match &request.to {
        Some(dir) => Ok((dir.clone(), names::inside(&held.path))),
        None => {
            let place = zone.state().place_on(zone.node(), &held.path);
            let path = || PathBuf::from(std::ffi::OsString::from_vec(held.path.clone()));
            let place = place.ok_or_else(|| ZoneError::Unmapped { path: path() })?;
            Ok((PathBuf::from("/"), names::inside(&place)))
        }
    }
}

fn is_empty_dir(dir: &Path) -> bool {
    match std::fs::read_dir(dir) {
        Ok(mut rd) => rd.next().is_none(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Lets wanted entries through, and the directories above them; and files that a wanted hard link needs.
pub struct Filter<'a, I> {
    entries: I,
    top: &'a [u8],
    wanted: Wanted<'a>,
    /// Directories above the current path that have not been let through yet.
    above: Vec<Entry>,
    ready: std::collections::VecDeque<Entry>,
    /// Files with several names that were not wanted: the first wanted link takes their content.
    holders: std::collections::HashMap<Vec<u8>, Holder>,
}

enum Holder {
    Skipped(Box<Entry>),
    /// Its content now lies under this path.
    Moved(Vec<u8>),
}

impl<'a, I> Filter<'a, I> {
    pub fn new(entries: I, top: &'a [u8], wanted: Wanted<'a>) -> Self {
        Self { entries, top, wanted, above: Vec::new(), ready: Default::default(), holders: Default::default() }
    }

    fn take(&mut self, mut e: Entry) {
        while self.above.last().is_some_and(|d| !is_below(&e.path, &d.path)) {
            self.above.pop();
        }
        let is_dir = e.meta.kind == Kind::Dir;
        if !(self.wanted)(&absolute(self.top, &e.path), is_dir) {
            if is_dir {
                self.above.push(e);
            } else if e.meta.kind != Kind::HardLink && e.meta.nlink > 1 {
                self.holders.insert(e.path.clone(), Holder::Skipped(Box::new(e)));
            }
            return;
        }
        if e.meta.kind == Kind::HardLink {
            match self.holders.remove(&e.link) {
                Some(Holder::Skipped(holder)) => {
                    let old = std::mem::take(&mut e.link);
                    self.holders.insert(old, Holder::Moved(e.path.clone()));
                    e.take_over(*holder);
                }
                Some(Holder::Moved(to)) => {
                    self.holders.insert(std::mem::replace(&mut e.link, to.clone()), Holder::Moved(to));
                }
                None => {}
            }
        }
        self.ready.extend(self.above.drain(..));
        self.ready.push_back(e);
    }
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || (path.starts_with(dir) && path.get(dir.len()) == Some(&b'/'))
}

impl<I: Iterator<Item = Result<Entry, CatalogError>>> Iterator for Filter<'_, I> {
    type Item = Result<Entry, CatalogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(e) = self.ready.pop_front() {
                return Some(Ok(e));
            }
            match self.entries.next()? {
                Ok(e) => self.take(e),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}
