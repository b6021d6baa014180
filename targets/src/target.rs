//! What every Backup Target must do, whatever store lies behind it.
//!
//! A sector is begun in `incoming`, written, and sealed; only then is it listed and read. Sealed sectors never change.
//! A store needs no more than writing from an offset, sealing, reading ranges, listing and deleting.

use std::collections::BTreeSet;

use zoneward_sectors::ids::{CopyId, Digest, TargetId, ZoneAlias};

use crate::errors::{Op, TargetError};
use crate::limits::OBJECT_LEN_MAX;
use crate::protocol::{Challenge, Price};

/// What a target can do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Every sector takes the room of its whole class, however little it holds.
    pub fixed_sectors: bool,
    /// Largest class of raw sectors that it takes, as log2 of bytes.
    pub max_class_log2: u8,
    /// What was written before an interruption is kept, and [`Incoming::offset`] tells how much.
    pub resume: bool,
    /// The packer may write straight into incoming, at any offset, from many threads.
    pub direct_write: bool,
    /// The packer may write straight into incoming from many threads that each hold one stretch, if together they leave
    /// no gap and each takes the first stretch that is left: a stretch waits for those before it. What can be written
    /// directly can be written so too.
    pub ordered_write: bool,
    /// Bytes that can still be written, if the target tells.
    pub free_bytes: Option<u64>,
    /// It answers challenges ([`Target::prove`]).
    pub proves: bool,
}

/// What a target's operator tells of this account. Another's words: they are looked at before they are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Bytes that it may keep.
    pub quota_bytes: Option<u64>,
    pub price: Option<Price>,
    /// Milliseconds since 1970 at which the token ends.
    pub ends_ms: Option<u64>,
}

/// How a target keeps what somebody removes. `None`: it does not let us ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// What is removed is only hidden, and stays behind a mark.
    pub versions: Option<bool>,
    /// It can be told to refuse every removal until a moment ([`Target::lock_for`]).
    pub locks: Option<bool>,
    /// Days that it keeps what is removed by itself, if it says so.
    pub kept_days: Option<u32>,
}

impl Default for Protection {
    fn default() -> Self {
        Self { versions: Some(false), locks: Some(false), kept_days: None }
    }
}

/// What [`Target::guard`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// Sectors and objects whose lock was made longer.
    pub extended: u64,
    /// What has no lock, or one that ends soon, because the target refused to make it longer.
    pub unlocked: u64,
    /// Sectors that somebody had hidden, and that are to be seen again.
    pub brought_back: Vec<CopyId>,
    /// Sectors that somebody has hidden: their bytes are still there and can be read, but the mark could not be taken away.
    pub hidden: Vec<CopyId>,
    /// What the zone removed and the target still keeps: under a lock, or because it lets others only remove it for good.
    pub kept: u64,
    /// What the zone removed before, and is gone for good now.
    pub purged: u64,
}

/// The objects that lie beside the sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectName {
    /// The head: where the newest system data lies.
    Pointer,
    /// The owner's sealed private keys.
    OwnerKey,
}

impl ObjectName {
    /// All of them.
    pub const ALL: [ObjectName; 2] = [ObjectName::Pointer, ObjectName::OwnerKey];

    /// Its name in a zone's folder.
    pub fn file_name(self) -> &'static str {
        match self {
            ObjectName::Pointer => "pointer.json",
            ObjectName::OwnerKey => "owner-key.json",
        }
    }
}

/// The sealed sectors of a zone.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Listing {
    /// Copy and length in bytes, sorted by copy.
    pub sectors: Vec<(CopyId, u64)>,
    /// Things among them that are no sectors of ours. They are left alone; a target that has some deserves a look.
    pub foreign: u64,
}

/// A store of backup sectors. Every method may be called from many threads at once.
pub trait Target: Send + Sync {
    /// The target's id: the same for as long as its content lives.
    fn id(&self) -> TargetId;

    /// Its URL, without secrets: for people.
    fn describe(&self) -> String;

    /// What it can do now.
    fn capabilities(&self) -> Capabilities;

    /// What its operator told last, where there is one who can. The target is not asked for it.
    fn offer(&self) -> Offer {
        Offer::default()
    }

    /// Begins a sector, or goes on with one that was begun and not sealed. There is one writer of a sector at a time:
    /// a second one is [`TargetError::Busy`]. A sector that is sealed already may be begun again: sealing it with the
    /// same length then changes nothing.
    fn open(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn Incoming>, TargetError>;

    /// The same for a writer whose turn it is: the number rises with each, and where a target can tell that an earlier one
    /// holds the sector, it has lost it.
    fn open_in_turn(
        &self,
        alias: ZoneAlias,
        copy: CopyId,
        turn: Option<u64>,
    ) -> Result<Box<dyn Incoming>, TargetError> {
        let _ = turn;
        self.open(alias, copy)
    }

    /// Throws away what was begun and not sealed. Nothing there is fine; a live writer is [`TargetError::Busy`].
    fn discard_incoming(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError>;

    /// What was begun and not sealed, sorted. Some of it may be in the hands of a live writer.
    fn list_incoming(&self, alias: ZoneAlias) -> Result<Vec<CopyId>, TargetError>;

    /// Bytes of a sealed sector; `None` if it is not there.
    fn len(&self, alias: ZoneAlias, copy: CopyId) -> Result<Option<u64>, TargetError>;

    /// Opens a sealed sector for reading.
    fn reader(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn SectorReader>, TargetError>;

    /// Fills `buf` from `offset` of a sealed sector, or fails: for a single range. More than one: [`Target::reader`].
    fn read_at(&self, alias: ZoneAlias, copy: CopyId, offset: u64, buf: &mut [u8]) -> Result<(), TargetError> {
        self.reader(alias, copy)?.read_at(buf, offset)
    }

    /// The sealed sectors. A zone that the target never saw has none.
    fn list(&self, alias: ZoneAlias) -> Result<Listing, TargetError>;

    /// The zones that have something here, sorted. A restore that has only a URL and an owner key starts with this.
    fn list_zones(&self) -> Result<Vec<ZoneAlias>, TargetError>;

    /// Removes a sealed sector. Nothing there is fine.
    fn remove(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError>;

    /// Replaces an object durably and whole: a reader sees the old bytes or the new ones. At most
    /// [`crate::limits::OBJECT_LEN_MAX`] bytes.
    fn put_object(&self, alias: ZoneAlias, name: ObjectName, bytes: &[u8]) -> Result<(), TargetError>;

    /// Reads an object of at most `limit` bytes; a longer one is [`TargetError::TooLarge`].
    fn get_object(&self, alias: ZoneAlias, name: ObjectName, limit: u64) -> Result<Vec<u8>, TargetError>;

    /// Puts back what makes the place this target, if its store lost it and the place is surely the same. Answers whether
    /// it was gone. A store that may be another disk at the same address never does, for an empty mount point is no target:
    /// where its marker is gone, it fails.
    fn mend(&self) -> Result<bool, TargetError> {
        Ok(false)
    }

    /// How it keeps what somebody removes. The target is asked once for each handle.
    fn protection(&self) -> Result<Protection, TargetError> {
        Ok(Protection::default())
    }

    /// From now on, what is put here is locked for so many seconds where the target can lock; 0: not at all.
    fn lock_for(&self, _seconds: u64) {}

    /// Where removing only hides: brings back what somebody hid of the `living` sectors, makes locks longer that end soon,
    /// and, with `purge`, removes for good what the zone removed and no lock keeps. A bounded amount each time; said again, it goes on.
    fn guard(&self, _alias: ZoneAlias, _living: &BTreeSet<CopyId>, _purge: bool) -> Result<Guarded, TargetError> {
        Ok(Guarded::default())
    }

    /// The target's own answer to a challenge about a sealed sector, without moving its bytes; `None` if it cannot
    /// compute. The right answer is [`Challenge::answer`] over the right bytes.
    fn prove(&self, _: ZoneAlias, _: CopyId, _: &Challenge) -> Result<Option<Digest>, TargetError> {
        Ok(None)
    }
}

/// A sector that is being written. Dropping it keeps what was written, for a later [`Target::open`] to go on with.
pub trait Incoming: Send + Sync {
    /// Bytes that were held when it was opened. They can be trusted only if they were written in order: who wrote at
    /// many offsets at once and was interrupted discards the sector and begins again.
    fn offset(&self) -> u64;

    /// Writes bytes at an offset, from any thread. Not durable before the seal. After a failure the sector cannot be
    /// sealed through this handle ([`TargetError::Poisoned`]).
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError>;

    /// Makes the sector durable and final, if it is exactly `len` bytes long. When this returns `Ok`, the sector
    /// survives a loss of power. What is already sealed with this length is fine; with another length it is
    /// [`TargetError::WrongLength`], and the sealed sector stays as it is. If the length is wrong, or the target is
    /// away, what was written is kept. If the store failed to make it durable, what was written is thrown away:
    /// nobody can know which of it is there.
    fn seal(self: Box<Self>, len: u64) -> Result<(), TargetError>;

    /// Throws away what was written.
    fn abandon(self: Box<Self>) -> Result<(), TargetError>;
}

/// A sealed sector that is open for reading, from many threads.
pub trait SectorReader: Send + Sync {
    /// Bytes of the sector.
    fn len(&self) -> u64;

    /// True if it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`, or fails. A range that crosses the end is [`TargetError::Truncated`], and `buf` then
    /// holds nothing to rely on.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), TargetError>;
}

/// Refuses an object that is longer than targets take.
pub(crate) fn object_fits(what: &str, len: u64) -> Result<(), TargetError> {
    if len > OBJECT_LEN_MAX {
        return Err(TargetError::TooLarge { op: Op::PutObject, what: what.to_owned(), len, limit: OBJECT_LEN_MAX });
    }
    Ok(())
}

/// Refuses a range that crosses the end of a sector of `have` bytes.
pub(crate) fn in_range(what: &str, offset: u64, wanted: u64, have: u64) -> Result<(), TargetError> {
    if offset.checked_add(wanted).is_none_or(|end| end > have) {
        return Err(TargetError::Truncated { op: Op::Read, what: what.to_owned(), offset, wanted, have });
    }
    Ok(())
}
