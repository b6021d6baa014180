//! What a rollback would do: which sources go back on this node, where, how much, and why others do not.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use zoneward_consensus::model::{Source, State, Task};
use zoneward_sectors::attrs::{meta_of, read_xattrs};
use zoneward_sectors::entry::{Entry, Kind};
use zoneward_sectors::ids::{CheckpointId, NodeId, SourceId};
use zoneward_sectors::shown::show_path;
use zoneward_targets::Url;

use super::journal::{Bytes, Dress, Step, Swap};
use super::room::{Needs, Short, short};
use super::{FOLDER_PREFIX, RollbackError};
use crate::errors::ZoneError;
use crate::ground::{ground_of, mounts_in, moved, on_other};
use crate::home::real;
use crate::keyless::closed;
use crate::restore::{Held, sources_of};
use crate::survey::left_out;
use crate::zone::Zone;

/// A source that would go back.
#[derive(Debug)]
pub struct Planned {
    pub swap: Swap,
    /// When what the checkpoint holds of it was read.
    pub as_of_ms: u64,
    /// What a person should know of it.
    pub notes: Vec<String>,
    needs: Needs,
}

/// Why a source does not go back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeftWhy {
    /// The checkpoint does not hold it.
    NotHeld,
    /// It is for these nodes to put back.
    Elsewhere(Vec<NodeId>),
    /// It could be done here, were it not for this.
    Here(String),
}

/// A source that would stay as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub source: SourceId,
    pub path: Vec<u8>,
    pub why: LeftWhy,
}

/// What a rollback would do.
#[derive(Debug)]
pub struct Outlook {
    pub checkpoint: CheckpointId,
    pub seq: u64,
    pub planned: Vec<Planned>,
    pub left: Vec<Left>,
    /// File systems that have not enough room for it.
    pub short: Vec<Short>,
}

/// A path inside a source, from an absolute one.
pub(super) fn inside<'p>(top: &[u8], path: &'p [u8]) -> &'p [u8] {
    let rest = path.strip_prefix(top).unwrap_or(path);
    rest.strip_prefix(b"/").unwrap_or(rest)
}

/// Whether an entry of a source goes where the swap brings things.
pub(super) fn goes_along(swap: &Swap, path: &[u8]) -> bool {
    let first = path.split(|b| *b == b'/').next().unwrap_or(path);
    swap.only.is_some() || path.is_empty() || swap.moves(first)
}

/// Looks at everything, and changes nothing.
pub fn outlook(zone: &Zone, checkpoint: CheckpointId) -> Result<Outlook, RollbackError> {
    let state = zone.state();
    let seq = state.checkpoints.get(&checkpoint).map_or(0, |c| c.seq);
    let held = sources_of(zone, checkpoint);
    let mut out = Outlook { checkpoint, seq, planned: Vec::new(), left: Vec::new(), short: Vec::new() };
    let mut here: Vec<Candidate<'_>> = Vec::new();
    for source in state.sources.values() {
        let why = match held.iter().find(|h| h.source == source.id) {
            None => LeftWhy::NotHeld,
            Some(_) if !state.can_read(zone.node(), source) => {
                LeftWhy::Elsewhere(state.readers(source).filter(|n| *n != zone.node()).collect())
            }
            Some(held) => match state.place_on(zone.node(), &source.path) {
                Some(at) => {
                    let place = PathBuf::from(OsString::from_vec(at));
                    here.push(Candidate { source, held, real: real(&place), place });
                    continue;
                }
                None => LeftWhy::Here("it lies nowhere on this node".into()),
            },
        };
        out.left.push(Left { source: source.id, path: source.path.clone(), why });
    }
    // What lies around others comes first: it takes them along.
    here.sort_by(|a, b| a.real.cmp(&b.real));
    let mut around: Vec<(PathBuf, Vec<u8>, Swap)> = Vec::new();
    for c in &here {
        let inner: Vec<&Candidate<'_>> = here.iter().filter(|o| o.source.id != c.source.id).collect();
        let looked = match around.iter().find(|(real, _, swap)| takes_along(real, swap, &c.real)) {
            Some((_, path, _)) => Err(format!("it lies in {}, which goes back as a whole", show_path(path))),
            None => look(zone, seq, checkpoint, c, &inner)?,
        };
        match looked {
            Ok(p) => {
                around.push((c.real.clone(), c.source.path.clone(), p.swap.clone()));
                out.planned.push(p);
            }
            Err(why) => {
                let why = LeftWhy::Here(why);
                out.left.push(Left { source: c.source.id, path: c.source.path.clone(), why });
            }
        }
    }
    let order = |p: &Planned| held.iter().position(|h| h.source == p.swap.source);
    out.planned.sort_by_key(order);
    let needs: Vec<(PathBuf, Needs)> = out.planned.iter().map(|p| (p.swap.dir.path(), p.needs)).collect();
    out.short = short(&needs)?;
    Ok(out)
}

/// A source that this node can read, and the checkpoint holds.
struct Candidate<'a> {
    source: &'a Source,
    held: &'a Held,
    place: PathBuf,
    /// Its place, links followed.
    real: PathBuf,
}

/// The first name of what lies inside a directory.
fn first_of(dir: &Path, path: &Path) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(dir).ok()?;
    rest.components().next().map(|c| c.as_os_str().as_bytes().to_vec())
}

/// Whether what lies at `path` changes places with another source.
fn takes_along(real: &Path, swap: &Swap, path: &Path) -> bool {
    match first_of(real, path) {
        None => path == real,
        Some(first) => swap.only.is_some() || swap.moves(&first),
    }
}

/// What a catalog holds.
#[derive(Default)]
struct Counts {
    files: u64,
    bytes: u64,
    needs: Needs,
    root: Option<Entry>,
}

fn count(zone: &Zone, held: &Held, goes: &dyn Fn(&[u8]) -> bool) -> Result<Counts, RollbackError> {
    let opener = zone.opener();
    let mut all = Counts::default();
    for entry in zone.catalogs(&opener).entries(&held.layers).map_err(ZoneError::from)? {
        let entry = entry.map_err(ZoneError::from)?;
        if goes(&entry.path) {
            all.files += u64::from(matches!(entry.meta.kind, Kind::File | Kind::HardLink));
            all.bytes += if entry.meta.kind == Kind::File { entry.meta.size } else { 0 };
            all.needs.add(Needs::of(&entry));
        }
        if entry.path.is_empty() {
            all.root = Some(entry);
        }
    }
    Ok(all)
}

/// The root of what a checkpoint holds of a source.
fn root_of(zone: &Zone, held: &Held) -> Result<Option<Entry>, RollbackError> {
    let opener = zone.opener();
    let first = zone.catalogs(&opener).entries(&held.layers).map_err(ZoneError::from)?.next();
    Ok(first.transpose().map_err(ZoneError::from)?.filter(|e| e.path.is_empty()))
}

type Looked<T> = Result<T, String>;

/// How one source would go back, or why it cannot.
fn look(
    zone: &Zone,
    seq: u64,
    checkpoint: CheckpointId,
    c: &Candidate<'_>,
    inner: &[&Candidate<'_>],
) -> Result<Looked<Planned>, RollbackError> {
    if !closed(zone, &c.held.layers).is_empty() {
        return Ok(Err("it is write-only, and only the owner's key reads it: add --with-owner-key".into()));
    }
    let Some(root) = root_of(zone, c.held)? else {
        return Ok(Err("the checkpoint holds nothing of it".into()));
    };
    let swap = match swap_of(zone, seq, c, &root, inner) {
        Ok(swap) => swap,
        Err(why) => return Ok(Err(why)),
    };
    let counts = count(zone, c.held, &|path| goes_along(&swap, path))?;
    let after = swap.only.is_none().then(|| Dress::of(&root.meta, &root.xattrs));
    let swap = Swap { after, files: counts.files, bytes: counts.bytes, ..swap };
    let task = task_of(zone.state(), checkpoint, c.source.id);
    let notes = notes(c.source, &swap, task);
    Ok(Ok(Planned { swap, as_of_ms: task.map_or(0, |t| t.as_of_ms), notes, needs: counts.needs }))
}

fn task_of(state: &State, checkpoint: CheckpointId, source: SourceId) -> Option<&Task> {
    state.checkpoints.get(&checkpoint)?.tasks.iter().find(|t| t.source == source)
}

fn notes(source: &Source, swap: &Swap, task: Option<&Task>) -> Vec<String> {
    let mut notes = Vec::new();
    if !swap.stay.is_empty() {
        let names: Vec<String> = swap.stay.iter().map(|s| show_path(&s.0)).collect();
        notes.push(format!("not backed up, so these stay as they are: {}", names.join(", ")));
    }
    if swap.only.is_none() && (!source.excludes.is_empty() || source.exclude_caches) {
        notes.push("what its patterns leave out deeper inside goes aside with the rest: --undo brings it back".into());
    }
    if let Some(unread) = task.map(|t| t.stats.unread).filter(|n| *n > 0) {
        notes.push(format!("the checkpoint lacks {unread} of its paths: they could not be read then"));
    }
    notes
}

/// How a source changes places, or why it cannot. Counts and the checkpoint's attributes are not in it yet.
fn swap_of(zone: &Zone, seq: u64, c: &Candidate<'_>, root: &Entry, inner: &[&Candidate<'_>]) -> Looked<Swap> {
    let ours = own_places(zone);
    if let Some(around) = ours.iter().find(|o| c.real.starts_with(o)) {
        return Err(format!("it lies in {}, which is the zone's own", around.display()));
    }
    let is_dir = root.meta.kind == Kind::Dir && c.place.is_dir();
    let swap = |dir: &Path, only: Option<Bytes>, folder: String| Swap {
        source: c.source.id,
        path: Bytes(c.source.path.clone()),
        dir: Bytes(dir.as_os_str().as_bytes().to_vec()),
        only,
        stay: Vec::new(),
        folder,
        step: Step::Waiting,
        before: None,
        after: None,
        ajar: None,
        files: 0,
        bytes: 0,
    };
    let swap = match is_dir {
        true => {
            same_ground(zone, c, &c.real, false)?;
            let stay = stays(c, &ours, inner)?;
            let before = Some(dress_of(&c.real).map_err(|e| format!("it cannot be looked at: {e}"))?);
            Swap { stay, before, ..swap(&c.real, None, format!("{FOLDER_PREFIX}{seq}")) }
        }
        false => {
            let name = c.place.file_name().ok_or("its place has no name of its own")?.as_bytes().to_vec();
            let dir = real(c.place.parent().ok_or("its place has no folder above it")?);
            if !dir.is_dir() {
                return Err(format!("the folder above it, {}, is not there", dir.display()));
            }
            if ours.iter().any(|o| o.starts_with(&c.real)) {
                return Err("the zone's own files lie in it".into());
            }
            same_ground(zone, c, &dir, true)?;
            let id = c.source.id.to_string();
            swap(&dir, Some(Bytes(name)), format!("{FOLDER_PREFIX}{seq}-{id:.8}"))
        }
    };
    let dir = swap.dir.path();
    no_mounts(&swap, &c.real)?;
    nobody_else(&swap)?;
    access(&dir, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|e| format!("{} cannot be written to: {}", dir.display(), std::io::Error::from(e)))?;
    Ok(swap)
}

/// The home and the targets that are folders here.
fn own_places(zone: &Zone) -> Vec<PathBuf> {
    let urls = zone.state().targets.values().filter_map(|t| t.url.parse::<Url>().ok());
    let folders = urls.filter_map(|u| match u {
        Url::File(folder) => Some(real(&folder)),
        _ => None,
    });
    folders.chain([real(zone.home.dir())]).collect()
}

/// Refuses where another disk is mounted than was at the last backup.
fn same_ground(zone: &Zone, c: &Candidate<'_>, dir: &Path, above: bool) -> Looked<()> {
    let Some(was) = c.source.grounds.get(&zone.node()) else { return Ok(()) };
    let now = ground_of(dir, c.source.one_file_system).map_err(|e| e.to_string())?;
    let other = match above {
        true => on_other(was, &now).then(|| (dir.to_owned(), was.mount.clone(), now.mount.clone())),
        false => moved(dir, was, &now),
    };
    match other {
        Some((at, was, now)) => {
            Err(format!("{} was {was} at the last backup and is {now} now: is the right disk mounted?", at.display()))
        }
        None => Ok(()),
    }
}

/// Names in a source that stay: what is not backed up, and the zone's own. Where such things lie deeper, so that they
/// could not stay while what is around them goes, the source cannot go back.
fn stays(c: &Candidate<'_>, ours: &[PathBuf], inner: &[&Candidate<'_>]) -> Looked<Vec<Bytes>> {
    let out = left_out(c.source).map_err(|e| e.to_string())?;
    let mut stay = BTreeSet::new();
    for e in std::fs::read_dir(&c.real).map_err(|e| format!("it cannot be listed: {e}"))? {
        let e = e.map_err(|e| format!("it cannot be listed: {e}"))?;
        let is_dir = e.file_type().map_err(|e| format!("it cannot be listed: {e}"))?.is_dir();
        let name = e.file_name().into_vec();
        if !name.starts_with(FOLDER_PREFIX.as_bytes()) && out(&name, is_dir) {
            stay.insert(Bytes(name));
        }
    }
    let inside = |p: &Path| p.strip_prefix(&c.real).ok().map(Path::to_owned).filter(|r| r != Path::new(""));
    for p in ours {
        match inside(p).map(|r| (r.components().count(), r)) {
            Some((1, name)) => drop(stay.insert(Bytes(name.into_os_string().into_vec()))),
            Some((_, deeper)) => {
                return Err(format!("the zone's own files lie in it, at {}: they cannot go aside", deeper.display()));
            }
            None => {}
        }
    }
    for other in inner {
        let Some(rest) = inside(&other.real) else { continue };
        let rest = rest.into_os_string().into_vec();
        let ends = rest.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([rest.len()]);
        let above: Vec<&[u8]> = ends.filter_map(|i| rest.get(..i)).collect();
        let first = above.first().map(|f| Bytes(f.to_vec()));
        if first.is_some_and(|f| !stay.contains(&f)) && above.iter().any(|p| out(p, true)) {
            return Err(format!("the source {} lies in it and is left out of it", show_path(&other.source.path)));
        }
    }
    Ok(stay.into_iter().collect())
}

fn dress_of(dir: &Path) -> std::io::Result<Dress> {
    let fd = rustix::fs::open(dir, super::swap::LIST, rustix::fs::Mode::empty())?;
    Ok(Dress::of(&meta_of(&fd)?, &read_xattrs(&fd)?))
}

/// What something is mounted on does not go aside, nor what is around it.
fn no_mounts(swap: &Swap, place: &Path) -> Looked<()> {
    let mounts =
        mounts_in(place, swap.only.is_some()).map_err(|e| format!("the list of mounts cannot be read: {e}"))?;
    let moves = |m: &&PathBuf| swap.only.is_some() || first_of(place, m).is_none_or(|first| swap.moves(&first));
    match mounts.iter().find(moves) {
        Some(m) => Err(format!("something is mounted on {}: unmount it first", m.display())),
        None => Ok(()),
    }
}

/// A shared source may be another node's to put back.
fn nobody_else(swap: &Swap) -> Looked<()> {
    let dir = swap.dir.path();
    let theirs = |name: &[u8]| match swap.only {
        Some(_) => name == swap.folder.as_bytes(),
        None => name.starts_with(FOLDER_PREFIX.as_bytes()),
    };
    for e in std::fs::read_dir(&dir).map_err(|e| format!("{} cannot be listed: {e}", dir.display()))? {
        let name = e.map_err(|e| format!("{} cannot be listed: {e}", dir.display()))?.file_name();
        if theirs(name.as_bytes()) {
            return Err(format!("{} is of another rollback: end that one first", dir.join(name).display()));
        }
    }
    Ok(())
}
