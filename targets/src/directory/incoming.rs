//! A sector on its way into a directory target.
//!
//! What is durable before what: the file's bytes before its rename; the rename and every directory above it before the
//! seal returns. A crash leaves the sector in `incoming/` or sealed and whole, never anything between.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CopyId, ZoneAlias};

use super::dir::{Dir, Taken, file_stat};
use super::{INCOMING, Place, SECTORS, Shared, ZONES, sector_file, shard};
use crate::errors::{Op, TargetError};
use crate::limits::SECTOR_LEN_MAX;
use crate::target::Incoming;

pub(super) struct DirectoryIncoming {
    shared: Arc<Shared>,
    alias: ZoneAlias,
    copy: CopyId,
    incoming: Dir,
    name: String,
    file: File,
    offset: u64,
    /// A write failed: what is there is unknown.
    failed: AtomicBool,
    /// A file takes one writer at a time: here the others sleep, in the kernel they would spin.
    writing: Mutex<()>,
}

/// The directories from a sealed sector up to the target's root.
struct Chain {
    shard: Dir,
    above: [Dir; 3],
}

impl Chain {
    /// Makes all names on the way durable. Always all of them: an earlier call may have made a directory and failed
    /// before it was synced.
    fn sync(&self, root: &Dir) -> io::Result<()> {
        self.shard.sync()?;
        self.above.iter().rev().try_for_each(Dir::sync)?;
        root.sync()
    }
}

impl DirectoryIncoming {
    pub fn open(shared: &Arc<Shared>, alias: ZoneAlias, copy: CopyId) -> Result<Self, TargetError> {
        let what = Place::Incoming(copy);
        let io = |e| TargetError::from_io(Op::Open, &what, e);
        shared.check(Op::Open)?;
        let zone = shared.make_zone(alias).map_err(|(place, e)| TargetError::from_io(Op::Open, place, e))?;
        let incoming =
            zone.make(INCOMING).map_err(|e| TargetError::from_io(Op::Open, Place::Dir(INCOMING, alias), e))?;
        let name = copy.to_string();
        let (file, st) = match incoming.take(&name).map_err(io)? {
            Taken::Held(file, st) => (file, st),
            Taken::Busy => return Err(TargetError::Busy { op: Op::Open, what: what.to_string() }),
            Taken::Foreign(reason) => {
                return Err(TargetError::Foreign { op: Op::Open, what: what.to_string(), reason });
            }
        };
        let offset = u64::try_from(st.st_size).unwrap_or(0);
        let (shared, failed, writing) = (shared.clone(), AtomicBool::new(false), Mutex::default());
        let new = Self { shared, alias, copy, incoming, name, file, offset, failed, writing };
        // Where it could not be sealed it is not begun: another target may take it.
        new.chain(Op::Open)?;
        Ok(new)
    }

    fn io(&self, op: Op) -> impl Fn(io::Error) -> TargetError {
        let what = Place::Incoming(self.copy);
        move |e| TargetError::from_io(op, &what, e)
    }

    /// Opens the directories that the sealed sector goes to, making those that are missing.
    fn chain(&self, op: Op) -> Result<Chain, TargetError> {
        let at = |place: Place, r: io::Result<Dir>| r.map_err(|e| TargetError::from_io(op, place, e));
        let zones = at(Place::Zones, self.shared.root.make(ZONES))?;
        let zone = at(Place::Zone(self.alias), zones.make(&self.alias.to_string()))?;
        let sectors = at(Place::Dir(SECTORS, self.alias), zone.make(SECTORS))?;
        let shard = at(Place::Shard(self.copy), sectors.make(&shard(self.copy)))?;
        Ok(Chain { shard, above: [zones, zone, sectors] })
    }

    /// Removes our file from incoming, if the name still stands for it.
    fn remove(&self) -> io::Result<()> {
        if self.incoming.holds(&self.name, &self.file)? {
            self.incoming.remove(&self.name)?;
        }
        Ok(())
    }

    /// True if the sector is sealed already with this length.
    fn sealed(&self, chain: &Chain, len: u64) -> Result<bool, TargetError> {
        let what = Place::Sector(self.copy).to_string();
        match chain.shard.file_len(&sector_file(self.copy)).map_err(self.io(Op::Seal))? {
            None => Ok(false),
            Some(Ok(found)) if found == len => Ok(true),
            Some(Ok(found)) => Err(TargetError::WrongLength { op: Op::Seal, what, expected: len, found }),
            Some(Err(reason)) => Err(TargetError::Foreign { op: Op::Seal, what, reason }),
        }
    }

    /// Our file becomes the sealed sector.
    fn place(&self, chain: &Chain, len: u64) -> Result<(), TargetError> {
        let what = || Place::Incoming(self.copy).to_string();
        if self.failed.load(Ordering::SeqCst) {
            return Err(TargetError::Poisoned { op: Op::Seal, what: what() });
        }
        let found = u64::try_from(file_stat(&self.file).map_err(self.io(Op::Seal))?.st_size).unwrap_or(0);
        if found != len {
            return Err(TargetError::WrongLength { op: Op::Seal, what: what(), expected: len, found });
        }
        if !self.incoming.holds(&self.name, &self.file).map_err(self.io(Op::Seal))? {
            return Err(TargetError::NotFound { op: Op::Seal, what: what() });
        }
        fsx::point("target-seal:before");
        if let Err(e) = fsx::sync(&self.file) {
            // After a failed sync the kernel forgets which bytes were lost, and the next sync would succeed: nobody
            // may go on with this file. If it cannot be removed either, the first error tells more.
            let _ = self.remove().and_then(|()| self.incoming.sync());
            return Err(self.io(Op::Seal)(e));
        }
        fsx::point("target-seal:synced");
        match self.incoming.rename_new(&self.name, &chain.shard, &sector_file(self.copy)) {
            // Somebody sealed it since we looked. Only a writer outside this target's locks can.
            Err(e) if e.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {
                Err(TargetError::Busy { op: Op::Seal, what: what() })
            }
            r => r.map_err(self.io(Op::Seal)),
        }
    }
}

impl Incoming for DirectoryIncoming {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > SECTOR_LEN_MAX {
            let what = Place::Incoming(self.copy).to_string();
            return Err(TargetError::TooLarge { op: Op::Write, what, len: end, limit: SECTOR_LEN_MAX });
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        fsx::write_all_at(&self.file, bytes, offset).map_err(|e| {
            self.failed.store(true, Ordering::SeqCst);
            self.io(Op::Write)(e)
        })
    }

    fn seal(self: Box<Self>, len: u64) -> Result<(), TargetError> {
        self.shared.check(Op::Seal)?;
        let chain = self.chain(Op::Seal)?;
        if self.sealed(&chain, len)? {
            self.remove().map_err(self.io(Op::Seal))?;
        } else {
            self.place(&chain, len)?;
        }
        fsx::point("target-seal:renamed");
        self.incoming.sync().map_err(self.io(Op::Seal))?;
        chain.sync(&self.shared.root).map_err(self.io(Op::Seal))
    }

    fn abandon(self: Box<Self>) -> Result<(), TargetError> {
        self.remove().and_then(|()| self.incoming.sync()).map_err(self.io(Op::Abandon))
    }
}
