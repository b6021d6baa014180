//! A target whose errors name it: a zone has several, and a person asks which of them is meant.

use std::collections::BTreeSet;

use zoneward_sectors::ids::{CopyId, Digest, TargetId, ZoneAlias};

use crate::errors::TargetError;
use crate::protocol::Challenge;
use crate::target::{Capabilities, Guarded, Incoming, Listing, ObjectName, Offer, Protection, SectorReader, Target};

/// Any target, or what it handed out, with the URL that is added to its errors.
struct Named<T: ?Sized> {
    url: String,
    inner: Box<T>,
}

impl<T: ?Sized> Named<T> {
    fn say<V>(&self, result: Result<V, TargetError>) -> Result<V, TargetError> {
        result.map_err(|e| e.on(&self.url))
    }

    fn with<U: ?Sized>(&self, inner: Box<U>) -> Box<Named<U>> {
        Box::new(Named { url: self.url.clone(), inner })
    }
}

/// Names a target in all its errors, and in those of its writers and readers.
pub fn named(target: impl Target + 'static) -> Box<dyn Target> {
    Box::new(Named::<dyn Target> { url: target.describe(), inner: Box::new(target) })
}

impl Target for Named<dyn Target> {
    fn id(&self) -> TargetId {
        self.inner.id()
    }

    fn describe(&self) -> String {
        self.url.clone()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn offer(&self) -> Offer {
        self.inner.offer()
    }

    fn open(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn Incoming>, TargetError> {
        Ok(self.with(self.say(self.inner.open(alias, copy))?))
    }

    fn open_in_turn(
        &self,
        alias: ZoneAlias,
        copy: CopyId,
        turn: Option<u64>,
    ) -> Result<Box<dyn Incoming>, TargetError> {
        Ok(self.with(self.say(self.inner.open_in_turn(alias, copy, turn))?))
    }

    fn discard_incoming(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        self.say(self.inner.discard_incoming(alias, copy))
    }

    fn list_incoming(&self, alias: ZoneAlias) -> Result<Vec<CopyId>, TargetError> {
        self.say(self.inner.list_incoming(alias))
    }

    fn len(&self, alias: ZoneAlias, copy: CopyId) -> Result<Option<u64>, TargetError> {
        self.say(self.inner.len(alias, copy))
    }

    fn reader(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn SectorReader>, TargetError> {
        Ok(self.with(self.say(self.inner.reader(alias, copy))?))
    }

    fn read_at(&self, alias: ZoneAlias, copy: CopyId, offset: u64, buf: &mut [u8]) -> Result<(), TargetError> {
        self.say(self.inner.read_at(alias, copy, offset, buf))
    }

    fn list(&self, alias: ZoneAlias) -> Result<Listing, TargetError> {
        self.say(self.inner.list(alias))
    }

    fn list_zones(&self) -> Result<Vec<ZoneAlias>, TargetError> {
        self.say(self.inner.list_zones())
    }

    fn remove(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        self.say(self.inner.remove(alias, copy))
    }

    fn put_object(&self, alias: ZoneAlias, name: ObjectName, bytes: &[u8]) -> Result<(), TargetError> {
        self.say(self.inner.put_object(alias, name, bytes))
    }

    fn get_object(&self, alias: ZoneAlias, name: ObjectName, limit: u64) -> Result<Vec<u8>, TargetError> {
        self.say(self.inner.get_object(alias, name, limit))
    }

    fn mend(&self) -> Result<bool, TargetError> {
        self.say(self.inner.mend())
    }

    fn protection(&self) -> Result<Protection, TargetError> {
        self.say(self.inner.protection())
    }

    fn lock_for(&self, seconds: u64) {
        self.inner.lock_for(seconds);
    }

    fn guard(&self, alias: ZoneAlias, living: &BTreeSet<CopyId>, purge: bool) -> Result<Guarded, TargetError> {
        self.say(self.inner.guard(alias, living, purge))
    }

    fn prove(&self, alias: ZoneAlias, copy: CopyId, challenge: &Challenge) -> Result<Option<Digest>, TargetError> {
        self.say(self.inner.prove(alias, copy, challenge))
    }
}

impl Incoming for Named<dyn Incoming> {
    fn offset(&self) -> u64 {
        self.inner.offset()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        self.say(self.inner.write_at(offset, bytes))
    }

    fn seal(self: Box<Self>, len: u64) -> Result<(), TargetError> {
        self.inner.seal(len).map_err(|e| e.on(&self.url))
    }

    fn abandon(self: Box<Self>) -> Result<(), TargetError> {
        self.inner.abandon().map_err(|e| e.on(&self.url))
    }
}

impl SectorReader for Named<dyn SectorReader> {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), TargetError> {
        self.say(self.inner.read_at(buf, offset))
    }
}
