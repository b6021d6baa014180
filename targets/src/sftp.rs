//! The `sftp://` adapter: a directory that an SSH server shows, laid out as `docs/format.md` section 1.
//!
//! The system's `ssh` makes the line; SFTP is spoken here. A server must be able to make files durable and to rename over a
//! file, as OpenSSH's can. What it cannot do for us is to make names durable: after a loss of power in the very moment of
//! a seal, a server may find the sector in `incoming/` again, whole, and the zone seals it once more.

mod incoming;
mod line;
#[cfg(test)]
pub(crate) mod tests;
mod wire;

use std::sync::{Arc, Mutex};

use zoneward_sectors::crypto::fill_random;
use zoneward_sectors::ids::{CopyId, TargetId, ZoneAlias, hex};
use zoneward_sectors::limits::CLASS_LOG2_MAX;

use self::incoming::SftpIncoming;
use self::line::Line;
use self::wire::{Attrs, Handle, Session, SftpError};
use crate::credentials::Credentials;
use crate::directory::Existing;
use crate::errors::{Op, TargetError};
use crate::limits::MARKER_LEN_MAX;
use crate::marker;
use crate::net::Held;
use crate::net::parts::Which;
use crate::net::place::{self, exact};
use crate::target::{Capabilities, Incoming, Listing, ObjectName, SectorReader, Target, in_range, object_fits};
use crate::url::SftpUrl;

/// How files are opened: flags of the protocol.
const READ: u32 = 1;
const WRITE: u32 = 2;
const CREATE: u32 = 8;
const TRUNCATE: u32 = 16;

/// A directory behind an SSH server that keeps sectors.
pub struct SftpTarget {
    place: Arc<Place>,
    id: TargetId,
}

/// The line and where the target's folder lies.
struct Place {
    line: Line,
    root: String,
}

impl Place {
    fn new(url: &SftpUrl, credentials: Option<&Credentials>) -> Result<Self, TargetError> {
        Ok(Self { line: Line::new(url, credentials)?, root: url.path.clone() })
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }

    fn incoming(&self, which: Which) -> String {
        self.path(&format!("{}/{}", place::incoming(which.alias), which.copy))
    }

    fn sector(&self, which: Which) -> String {
        self.path(&format!("{}/{}", place::sectors(which.alias), place::sector_name(which.copy)))
    }

    fn sealed_len(&self, op: Op, which: Which) -> Result<Option<u64>, TargetError> {
        let path = self.sector(which);
        match self.line.with(op, &which.sector(), 0, |s, _| s.stat(&path))? {
            None => Ok(None),
            Some(attrs) if attrs.is_file() => Ok(Some(attrs.len)),
            Some(_) => Err(TargetError::Foreign { op, what: which.sector(), reason: "something that is not a file" }),
        }
    }

    /// A whole file of at most `limit` bytes.
    fn get(&self, op: Op, what: &str, path: &str, limit: u64) -> Result<Vec<u8>, TargetError> {
        let got = self.line.with(op, what, limit, |s, _| {
            let handle = s.open(path, READ)?;
            let len = s.stat_open(&handle)?.len;
            if len > limit {
                s.close(&handle)?;
                return Ok(Err(len));
            }
            let mut bytes = vec![0; len as usize];
            let read = s.read(&handle, 0, &mut bytes);
            s.close(&handle)?;
            read.map(|()| Ok(bytes))
        })?;
        got.map_err(|len| TargetError::TooLarge { op, what: what.to_owned(), len, limit })
    }

    /// Writes a file beside its place, durably, and puts it there; over one that is there only if `over` says so.
    fn put(&self, op: Op, what: &str, near: &str, path: &str, bytes: &[u8], over: bool) -> Result<(), TargetError> {
        let mut random = [0; 8];
        fill_random(&mut random);
        let new = format!("{near}.{}", hex(&random));
        self.line.with(op, what, bytes.len() as u64, |s, _| {
            let handle = s.open(&new, WRITE | CREATE | TRUNCATE)?;
            s.write(&handle, 0, bytes)?;
            s.sync(&handle)?;
            s.close(&handle)?;
            let put = if over { s.rename_over(&new, path) } else { s.rename_new(&new, path) };
            if put.is_err() {
                // The first failure tells more.
                let _ = s.remove(&new);
            }
            put
        })
    }

    /// Makes a directory below the root, and those above it.
    fn make(&self, op: Op, what: &str, folder: &str) -> Result<(), TargetError> {
        let path = self.path(folder);
        self.line.with(op, what, 0, |s, _| make_path(s, &self.root, &path))
    }

    fn read_marker(&self, op: Op) -> Result<Option<TargetId>, TargetError> {
        let what = self.line.url();
        match self.get(op, what, &self.path(marker::NAME), MARKER_LEN_MAX) {
            Ok(bytes) => marker::parse(&bytes).map(Some).map_err(|reason| TargetError::BadMarker {
                op,
                what: what.to_owned(),
                reason,
            }),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Makes the directories of a path that lie below `above`; one that is there is fine.
fn make_path(s: &mut Session, above: &str, path: &str) -> Result<(), SftpError> {
    if s.stat(path)?.is_some_and(Attrs::is_dir) {
        return Ok(());
    }
    let below = path.strip_prefix(above).unwrap_or(path);
    let mut at = above.to_owned();
    for name in below.split('/').filter(|n| !n.is_empty()) {
        if !at.is_empty() || path.starts_with('/') {
            at.push('/');
        }
        at.push_str(name);
        if !s.stat(&at)?.is_some_and(Attrs::is_dir) {
            match s.make_dir(&at) {
                // Another was quicker.
                Err(SftpError::Status(_)) if s.stat(&at)?.is_some_and(Attrs::is_dir) => {}
                r => r?,
            }
        }
    }
    Ok(())
}

impl SftpTarget {
    /// Makes the directory a target. One that carries this id already is opened; one that carries another is treated as
    /// `existing` says.
    pub fn create(
        url: &SftpUrl,
        id: TargetId,
        existing: Existing,
        credentials: Option<&Credentials>,
    ) -> Result<Self, TargetError> {
        let op = Op::CreateTarget;
        let place = Arc::new(Place::new(url, credentials)?);
        let what = place.line.url().to_owned();
        if place.read_marker(op)?.is_none() {
            let root = place.root.clone();
            place.line.with(op, &what, 0, |s, _| make_path(s, "", &root))?;
            let path = place.path(marker::NAME);
            let put = place.put(op, &what, &path, &path, marker::render(id).as_bytes(), false);
            // If another was quicker, its marker counts.
            if place.read_marker(op)?.is_none() {
                put?;
            }
        }
        let id = marker::created(what, place.read_marker(op)?, id, existing)?;
        Ok(Self { place, id })
    }

    /// Opens a target. With an id, another target's marker is refused; without, the marker tells the id.
    pub fn open(url: &SftpUrl, id: Option<TargetId>, credentials: Option<&Credentials>) -> Result<Self, TargetError> {
        let place = Arc::new(Place::new(url, credentials)?);
        let id = marker::opened(place.line.url(), place.read_marker(Op::OpenTarget)?, id)?;
        Ok(Self { place, id })
    }

    fn names(&self, folder: &str) -> Result<Vec<(String, Attrs)>, TargetError> {
        let path = self.place.path(folder);
        let all = self.place.line.with(Op::List, folder, 1 << 20, |s, _| s.list(&path))?;
        Ok(all.unwrap_or_default())
    }
}

impl Target for SftpTarget {
    fn id(&self) -> TargetId {
        self.id
    }

    fn mend(&self) -> Result<bool, TargetError> {
        marker::opened(self.place.line.url(), self.place.read_marker(Op::OpenTarget)?, Some(self.id)).map(|_| false)
    }

    fn describe(&self) -> String {
        self.place.line.url().to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        let root = self.place.root.clone();
        // A server that is away has no room, and is asked again when it is back.
        let free = self.place.line.with(Op::OpenTarget, self.place.line.url(), 0, |s, _| s.free(&root));
        Capabilities {
            fixed_sectors: false,
            max_class_log2: CLASS_LOG2_MAX,
            resume: true,
            direct_write: true,
            ordered_write: true,
            free_bytes: free.ok().flatten(),
            proves: false,
        }
    }

    fn open(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn Incoming>, TargetError> {
        Ok(Box::new(SftpIncoming::open(&self.place, Which { alias, copy })?))
    }

    fn discard_incoming(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        let (op, which) = (Op::Discard, Which { alias, copy });
        let what = which.incoming();
        let Some(held) = Held::take(self.place.line.url(), alias, copy) else {
            return Err(TargetError::Busy { op, what });
        };
        let path = self.place.incoming(which);
        let done = self.place.line.with(op, &what, 0, |s, _| s.remove(&path));
        drop(held);
        done.or_else(|e| if e.is_not_found() { Ok(()) } else { Err(e) })
    }

    fn list_incoming(&self, alias: ZoneAlias) -> Result<Vec<CopyId>, TargetError> {
        let names = self.names(&place::incoming(alias))?;
        let mut out: Vec<CopyId> = names.iter().filter_map(|(name, _)| exact(name)).collect();
        out.sort_unstable();
        Ok(out)
    }

    fn len(&self, alias: ZoneAlias, copy: CopyId) -> Result<Option<u64>, TargetError> {
        self.place.sealed_len(Op::Read, Which { alias, copy })
    }

    fn reader(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn SectorReader>, TargetError> {
        let which = Which { alias, copy };
        match self.place.sealed_len(Op::Read, which)? {
            Some(len) => Ok(Box::new(SftpReader { place: self.place.clone(), which, len, open: Mutex::default() })),
            None => Err(TargetError::NotFound { op: Op::Read, what: which.sector() }),
        }
    }

    fn list(&self, alias: ZoneAlias) -> Result<Listing, TargetError> {
        let folder = place::sectors(alias);
        let mut out = Listing::default();
        for (shard, attrs) in self.names(&folder)? {
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if !attrs.is_dir() || shard.len() != 2 || !shard.bytes().all(hex) {
                out.foreign += 1;
                continue;
            }
            for (name, attrs) in self.names(&format!("{folder}/{shard}"))? {
                match place::sector_of(&format!("{shard}/{name}")).filter(|_| attrs.is_file()) {
                    Some(copy) => out.sectors.push((copy, attrs.len)),
                    None => out.foreign += 1,
                }
            }
        }
        out.sectors.sort_unstable();
        Ok(out)
    }

    fn list_zones(&self) -> Result<Vec<ZoneAlias>, TargetError> {
        let names = self.names(place::ZONES)?;
        let mut out: Vec<ZoneAlias> = names.iter().filter_map(|(name, _)| exact(name)).collect();
        out.sort_unstable();
        Ok(out)
    }

    fn remove(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        let which = Which { alias, copy };
        let path = self.place.sector(which);
        let done = self.place.line.with(Op::Remove, &which.sector(), 0, |s, _| s.remove(&path));
        done.or_else(|e| if e.is_not_found() { Ok(()) } else { Err(e) })
    }

    fn put_object(&self, alias: ZoneAlias, name: ObjectName, bytes: &[u8]) -> Result<(), TargetError> {
        let (op, what, len) = (Op::PutObject, place::object(alias, name), bytes.len() as u64);
        object_fits(&what, len)?;
        let incoming = place::incoming(alias);
        self.place.make(op, &what, &incoming)?;
        let near = self.place.path(&format!("{incoming}/{}", name.file_name()));
        self.place.put(op, &what, &near, &self.place.path(&what), bytes, true)
    }

    fn get_object(&self, alias: ZoneAlias, name: ObjectName, limit: u64) -> Result<Vec<u8>, TargetError> {
        let what = place::object(alias, name);
        self.place.get(Op::GetObject, &what, &self.place.path(&what), limit)
    }
}

struct SftpReader {
    place: Arc<Place>,
    which: Which,
    len: u64,
    /// The file, open in the session of this number.
    open: Mutex<Option<(u64, Handle)>>,
}

impl SectorReader for SftpReader {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), TargetError> {
        let (op, wanted, have, what) = (Op::Read, buf.len() as u64, self.len, self.which.sector());
        in_range(&what, offset, wanted, have)?;
        if buf.is_empty() {
            return Ok(());
        }
        let path = self.place.sector(self.which);
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        let read = self.place.line.with(op, &what, wanted, |s, number| {
            let handle = match &*open {
                Some((session, handle)) if *session == number => handle,
                _ => &open.insert((number, s.open(&path, READ)?)).1,
            };
            s.read(handle, offset, buf)
        });
        read.map_err(|e| match e {
            TargetError::Truncated { have, .. } => TargetError::Truncated { op, what, offset, wanted, have },
            e => e,
        })
    }
}

impl Drop for SftpReader {
    fn drop(&mut self) {
        let open = self.open.get_mut().unwrap_or_else(|e| e.into_inner()).take();
        self.place.line.close(open);
    }
}
