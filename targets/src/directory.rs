//! The `file://` adapter: a directory on a local, removable or network disk, laid out as `docs/format.md` section 1.
//!
//! The directory stays open for as long as a [`DirectoryTarget`] lives, and every path is walked from there without
//! following links. Before each operation the path is opened again and compared, and the marker is read: when the disk
//! was unmounted, or another one stands in its place, the operation is [`TargetError::Unplugged`] and writes nothing.
//! A disk can be unmounted in order only when its target is dropped, and a disk that was plugged in again needs a new
//! [`DirectoryTarget::open`].

mod dir;
mod incoming;
mod marker;
mod removed;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CopyId, TargetId, ZoneAlias};
use zoneward_sectors::limits::CLASS_LOG2_MAX;

use self::dir::{DIRECTORY, Dir, Found, LINK, Taken, file_stat};
use self::incoming::DirectoryIncoming;
pub(crate) use self::removed::Aside;
use crate::errors::{Op, TargetError};
use crate::limits::FAT_CLASS_LOG2_MAX;
use crate::target::{Capabilities, Incoming, Listing, ObjectName, SectorReader, Target, in_range, object_fits};
use crate::url::Url;

const ZONES: &str = "zones";
const SECTORS: &str = "sectors";
const INCOMING: &str = "incoming";
const REMOVED: &str = "removed";
const SUFFIX: &str = ".zws";

/// The places at which a test can kill the process (`fsx::point`), in the order of a seal.
pub const FAIL_POINTS: [&str; 4] =
    ["target-seal:before", "target-seal:synced", "target-seal:renamed", "target-object:before-rename"];

/// What to do with a directory that is a target already, under another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse: [`TargetError::OtherTarget`].
    Refuse,
    /// Keep its marker and use its id: several zones can share a directory, each under its own alias.
    Adopt,
}

/// A directory that keeps sectors.
pub struct DirectoryTarget {
    shared: Arc<Shared>,
}

/// What the target and its open sectors share.
struct Shared {
    path: PathBuf,
    url: String,
    id: TargetId,
    root: Dir,
    /// One object is replaced at a time within this process; other processes are kept out by a lock on the file.
    objects: Mutex<()>,
}

/// What an operation was about, for messages.
enum Place {
    Sector(CopyId),
    Incoming(CopyId),
    Shard(CopyId),
    Object(ObjectName, ZoneAlias),
    Dir(&'static str, ZoneAlias),
    Zone(ZoneAlias),
    Zones,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Sector(copy) => write!(f, "sector {copy}"),
            Place::Incoming(copy) => write!(f, "incoming sector {copy}"),
            Place::Shard(copy) => write!(f, "the directory {} of sector {copy}", shard(*copy)),
            Place::Object(name, alias) => write!(f, "{ZONES}/{alias}/{}", name.file_name()),
            Place::Dir(name, alias) => write!(f, "{ZONES}/{alias}/{name}"),
            Place::Zone(alias) => write!(f, "{ZONES}/{alias}"),
            Place::Zones => f.write_str(ZONES),
        }
    }
}

fn shard(copy: CopyId) -> String {
    copy.to_string().chars().take(2).collect()
}

fn sector_file(copy: CopyId) -> String {
    format!("{copy}{SUFFIX}")
}

/// An id in exactly the spelling that Zoneward writes.
fn exact<T: FromStr + fmt::Display>(text: &str) -> Option<T> {
    text.parse::<T>().ok().filter(|id| id.to_string() == text)
}

impl Shared {
    /// Whether this is still the same directory with the same marker.
    fn check(&self, op: Op) -> Result<(), TargetError> {
        let away = |reason: &str| TargetError::Unplugged { op, what: self.url.clone(), reason: reason.to_owned() };
        let now = match Dir::open_path(&self.path) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(away("its directory is gone")),
            Err(e) => return Err(TargetError::from_io(op, &self.url, e)),
        };
        if !now.is(&self.root).map_err(|e| TargetError::from_io(op, &self.url, e))? {
            return Err(away("another directory stands in its place"));
        }
        match marker::read(&self.root, op, &self.url)? {
            None => Err(away("its zoneward-target.json is gone")),
            Some(id) if id != self.id => Err(away("its zoneward-target.json names another target")),
            Some(_) => Ok(()),
        }
    }

    /// The folder of a zone, made if missing. The error says which directory it was about.
    fn make_zone(&self, alias: ZoneAlias) -> Result<Dir, (Place, io::Error)> {
        let zones = self.root.make(ZONES).map_err(|e| (Place::Zones, e))?;
        zones.make(&alias.to_string()).map_err(|e| (Place::Zone(alias), e))
    }

    /// The folder of a zone, or one in it, if it is there.
    fn find(&self, op: Op, alias: ZoneAlias, name: Option<&'static str>) -> Result<Option<Dir>, TargetError> {
        let Some(zones) = opened(op, Place::Zones, self.root.open(ZONES))? else { return Ok(None) };
        let zone = opened(op, Place::Zone(alias), zones.open(&alias.to_string()))?;
        match (zone, name) {
            (Some(zone), Some(name)) => opened(op, Place::Dir(name, alias), zone.open(name)),
            (zone, _) => Ok(zone),
        }
    }

    /// The directory that holds a sealed sector, if it is there.
    fn find_shard(&self, op: Op, alias: ZoneAlias, copy: CopyId) -> Result<Option<Dir>, TargetError> {
        match self.find(op, alias, Some(SECTORS))? {
            Some(sectors) => opened(op, Place::Shard(copy), sectors.open(&shard(copy))),
            None => Ok(None),
        }
    }
}

/// A directory that is not there is no error.
fn opened(op: Op, place: Place, dir: io::Result<Dir>) -> Result<Option<Dir>, TargetError> {
    match dir {
        Ok(dir) => Ok(Some(dir)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(TargetError::from_io(op, place, e)),
    }
}

/// The names in a directory, as text; what is not UTF-8 is none of ours and comes as `None`.
fn names(op: Op, place: &Place, dir: &Dir) -> Result<Vec<Option<String>>, TargetError> {
    let names = dir.names().map_err(|e| TargetError::from_io(op, place, e))?;
    let limit = crate::limits::NAMES_MAX as u64;
    let names = names.ok_or_else(|| TargetError::TooLarge { op, what: place.to_string(), len: limit + 1, limit })?;
    Ok(names.into_iter().map(|n| n.into_string().ok()).collect())
}

impl DirectoryTarget {
    /// Makes a directory a target: an existing one, empty or not, or a new one. A directory that carries this id
    /// already is opened; one that carries another is treated as `existing` says.
    pub fn create(path: &Path, id: TargetId, existing: Existing) -> Result<Self, TargetError> {
        let (path, url) = named(Op::CreateTarget, path)?;
        make_path(&path).map_err(|e| TargetError::from_io(Op::CreateTarget, &url, e))?;
        let root = Dir::open_path(&path).map_err(|e| TargetError::from_io(Op::CreateTarget, &url, e))?;
        if marker::read(&root, Op::CreateTarget, &url)?.is_none() {
            marker::write(&root, id, &url)?;
        }
        match marker::read(&root, Op::CreateTarget, &url)? {
            Some(found) if found == id || existing == Existing::Adopt => Self::open(&path, Some(found)),
            Some(found) => Err(TargetError::OtherTarget { op: Op::CreateTarget, what: url, found }),
            None => Err(TargetError::Busy { op: Op::CreateTarget, what: url }),
        }
    }

    /// Opens a target. With an id, another target's marker is refused; without, the marker tells the id.
    pub fn open(path: &Path, id: Option<TargetId>) -> Result<Self, TargetError> {
        let op = Op::OpenTarget;
        let (path, url) = named(op, path)?;
        let away = |reason: String| TargetError::Unplugged { op, what: url.clone(), reason };
        let root = match Dir::open_path(&path) {
            Ok(root) => root,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(away("there is no such directory".into())),
            Err(e) => return Err(TargetError::from_io(op, &url, e)),
        };
        let found =
            marker::read(&root, op, &url)?.ok_or_else(|| away(format!("the directory holds no {}", marker::NAME)))?;
        if let Some(id) = id.filter(|id| *id != found) {
            return Err(away(format!("the directory is the target {found}, not {id}")));
        }
        let shared = Shared { path, url, id: found, root, objects: Mutex::new(()) };
        Ok(Self { shared: Arc::new(shared) })
    }
}

/// The absolute path, and the URL that messages show.
fn named(op: Op, path: &Path) -> Result<(PathBuf, String), TargetError> {
    let url = Url::from_path(path).map_err(|e| TargetError::Io {
        op,
        what: "a directory target".to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, e),
    })?;
    let text = url.to_string();
    Ok((std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components().collect(), text))
}

/// Makes a directory and those above it, durably.
fn make_path(path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for dir in path.ancestors() {
        fsx::gate(fsx::Call::Stat)?;
        if dir.try_exists()? {
            break;
        }
        missing.push(dir);
    }
    fsx::create_dir_all(path, 0o700)?;
    missing.iter().filter_map(|dir| dir.parent()).try_for_each(fsx::sync_dir)
}

impl Target for DirectoryTarget {
    fn id(&self) -> TargetId {
        self.shared.id
    }

    fn describe(&self) -> String {
        self.shared.url.clone()
    }

    fn capabilities(&self) -> Capabilities {
        // A disk that is away has no room, and what kind it is will be asked again when it is back.
        let room = self.shared.check(Op::OpenTarget).ok().and_then(|()| self.shared.root.room().ok());
        Capabilities {
            fixed_sectors: false,
            max_class_log2: if room.is_some_and(|(_, fat)| fat) { FAT_CLASS_LOG2_MAX } else { CLASS_LOG2_MAX },
            resume: true,
            direct_write: true,
            ordered_write: true,
            free_bytes: room.map(|(free, _)| free),
            proves: false,
        }
    }

    fn open(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn Incoming>, TargetError> {
        Ok(Box::new(DirectoryIncoming::open(&self.shared, alias, copy)?))
    }

    fn discard_incoming(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        let op = Op::Discard;
        let what = Place::Incoming(copy);
        let io = |e| TargetError::from_io(op, &what, e);
        self.shared.check(op)?;
        let Some(dir) = self.shared.find(op, alias, Some(INCOMING))? else { return Ok(()) };
        let name = copy.to_string();
        // Held while it is removed, so that a writer never loses its file under its hands. A link that somebody
        // planted has no writer and goes as it is.
        let _held = match dir.file_len(&name).map_err(io)? {
            None => return Ok(()),
            Some(Err(LINK)) => None,
            Some(_) => match dir.take(&name).map_err(io)? {
                Taken::Held(file, _) => Some(file),
                Taken::Busy => return Err(TargetError::Busy { op, what: what.to_string() }),
                Taken::Foreign(reason) => return Err(TargetError::Foreign { op, what: what.to_string(), reason }),
            },
        };
        dir.remove(&name).map_err(io)?;
        dir.sync().map_err(io)
    }

    fn list_incoming(&self, alias: ZoneAlias) -> Result<Vec<CopyId>, TargetError> {
        self.shared.check(Op::List)?;
        let Some(dir) = self.shared.find(Op::List, alias, Some(INCOMING))? else { return Ok(Vec::new()) };
        let names = names(Op::List, &Place::Dir(INCOMING, alias), &dir)?;
        let mut out: Vec<CopyId> = names.iter().flatten().filter_map(|n| exact(n)).collect();
        out.sort_unstable();
        Ok(out)
    }

    fn len(&self, alias: ZoneAlias, copy: CopyId) -> Result<Option<u64>, TargetError> {
        self.shared.check(Op::Read)?;
        let Some(dir) = self.shared.find_shard(Op::Read, alias, copy)? else { return Ok(None) };
        let what = Place::Sector(copy);
        match dir.file_len(&sector_file(copy)).map_err(|e| TargetError::from_io(Op::Read, &what, e))? {
            None => Ok(None),
            Some(Ok(len)) => Ok(Some(len)),
            Some(Err(reason)) => Err(TargetError::Foreign { op: Op::Read, what: what.to_string(), reason }),
        }
    }

    fn reader(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn SectorReader>, TargetError> {
        let op = Op::Read;
        let what = Place::Sector(copy).to_string();
        self.shared.check(op)?;
        let Some(dir) = self.shared.find_shard(op, alias, copy)? else {
            return Err(TargetError::NotFound { op, what });
        };
        match dir.read(&sector_file(copy)).map_err(|e| TargetError::from_io(op, &what, e))? {
            Found::File(file, st) => {
                Ok(Box::new(DirectoryReader { file, what, len: u64::try_from(st.st_size).unwrap_or(0) }))
            }
            Found::Nothing => Err(TargetError::NotFound { op, what }),
            Found::Foreign(reason) => Err(TargetError::Foreign { op, what, reason }),
        }
    }

    fn list(&self, alias: ZoneAlias) -> Result<Listing, TargetError> {
        let op = Op::List;
        self.shared.check(op)?;
        let mut out = Listing::default();
        let Some(sectors) = self.shared.find(op, alias, Some(SECTORS))? else { return Ok(out) };
        let place = Place::Dir(SECTORS, alias);
        for name in names(op, &place, &sectors)? {
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            let Some(shard) = name.filter(|n| n.len() == 2 && n.bytes().all(hex)) else {
                out.foreign += 1;
                continue;
            };
            match sectors.open(&shard) {
                Ok(dir) => list_shard(&place, &shard, &dir, &mut out)?,
                Err(e) => match TargetError::from_io(op, &place, e) {
                    TargetError::Foreign { .. } => out.foreign += 1,
                    TargetError::NotFound { .. } => {}
                    e => return Err(e),
                },
            }
        }
        out.sectors.sort_unstable();
        Ok(out)
    }

    fn list_zones(&self) -> Result<Vec<ZoneAlias>, TargetError> {
        self.shared.check(Op::List)?;
        let Some(zones) = opened(Op::List, Place::Zones, self.shared.root.open(ZONES))? else {
            return Ok(Vec::new());
        };
        let mut out: Vec<ZoneAlias> = Vec::new();
        for name in names(Op::List, &Place::Zones, &zones)?.into_iter().flatten() {
            if let Some(alias) = exact(&name) {
                out.push(alias);
            }
        }
        out.sort_unstable();
        Ok(out)
    }

    fn remove(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        self.shared.check(Op::Remove)?;
        let Some(dir) = self.shared.find_shard(Op::Remove, alias, copy)? else { return Ok(()) };
        dir.remove(&sector_file(copy))
            .and_then(|()| dir.sync())
            .map_err(|e| TargetError::from_io(Op::Remove, Place::Sector(copy), e))
    }

    fn put_object(&self, alias: ZoneAlias, name: ObjectName, bytes: &[u8]) -> Result<(), TargetError> {
        let op = Op::PutObject;
        let what = Place::Object(name, alias);
        let io = |e| TargetError::from_io(op, &what, e);
        object_fits(&what.to_string(), bytes.len() as u64)?;
        let _alone = self.shared.objects.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.check(op)?;
        let zones = self.shared.root.make(ZONES).map_err(io)?;
        let zone = zones.make(&alias.to_string()).map_err(io)?;
        // Written in incoming, where leftovers of a crash are expected; the next put takes the same name.
        let incoming = zone.make(INCOMING).map_err(io)?;
        let file = match incoming.take(name.file_name()).map_err(io)? {
            Taken::Held(file, _) => file,
            Taken::Busy => return Err(TargetError::Busy { op, what: what.to_string() }),
            Taken::Foreign(reason) => return Err(TargetError::Foreign { op, what: what.to_string(), reason }),
        };
        if let Some(Err(reason @ DIRECTORY)) = zone.file_len(name.file_name()).map_err(io)? {
            return Err(TargetError::Foreign { op, what: what.to_string(), reason });
        }
        marker::replace_content(&file, bytes).map_err(io)?;
        fsx::point("target-object:before-rename");
        incoming.rename(name.file_name(), &zone, name.file_name()).map_err(io)?;
        [&incoming, &zone, &zones, &self.shared.root].into_iter().try_for_each(Dir::sync).map_err(io)
    }

    fn get_object(&self, alias: ZoneAlias, name: ObjectName, limit: u64) -> Result<Vec<u8>, TargetError> {
        let op = Op::GetObject;
        let what = Place::Object(name, alias).to_string();
        let io = |e| TargetError::from_io(op, &what, e);
        self.shared.check(op)?;
        let found = match self.shared.find(op, alias, None)? {
            Some(zone) => zone.read(name.file_name()).map_err(io)?,
            None => Found::Nothing,
        };
        let file = match found {
            Found::File(file, _) => file,
            Found::Nothing => return Err(TargetError::NotFound { op, what }),
            Found::Foreign(reason) => return Err(TargetError::Foreign { op, what, reason }),
        };
        let len = u64::try_from(file_stat(&file).map_err(io)?.st_size).unwrap_or(0);
        if len > limit {
            return Err(TargetError::TooLarge { op, what, len, limit });
        }
        let mut bytes = vec![0u8; len as usize];
        let got = fsx::read_full_at(&file, &mut bytes, 0).map_err(io)?;
        bytes.truncate(got);
        Ok(bytes)
    }
}

/// Adds the sectors of one of the 256 directories to a listing.
fn list_shard(place: &Place, shard: &str, dir: &Dir, out: &mut Listing) -> Result<(), TargetError> {
    for name in names(Op::List, place, dir)? {
        let copy = name
            .as_deref()
            .filter(|n| n.starts_with(shard))
            .and_then(|n| n.strip_suffix(SUFFIX))
            .and_then(exact::<CopyId>);
        let Some(copy) = copy else {
            out.foreign += 1;
            continue;
        };
        match dir.file_len(&sector_file(copy)).map_err(|e| TargetError::from_io(Op::List, Place::Sector(copy), e))? {
            Some(Ok(len)) => out.sectors.push((copy, len)),
            Some(Err(_)) => out.foreign += 1,
            None => {}
        }
    }
    Ok(())
}

struct DirectoryReader {
    file: File,
    what: String,
    len: u64,
}

impl SectorReader for DirectoryReader {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), TargetError> {
        let (what, wanted) = (|| self.what.clone(), buf.len() as u64);
        in_range(&self.what, offset, wanted, self.len)?;
        let got = fsx::read_full_at(&self.file, buf, offset).map_err(|e| TargetError::from_io(Op::Read, what(), e))?;
        if (got as u64) < wanted {
            // Cut since it was opened.
            let have = offset + got as u64;
            return Err(TargetError::Truncated { op: Op::Read, what: what(), offset, wanted, have });
        }
        Ok(())
    }
}
