//! The suite is proven by planted bugs: each must be found, by the check that is there for it.

use tempfile::TempDir;
use zoneward_sectors::ids::{CopyId, TargetId, ZoneAlias};

use super::{Outcome, report, run};
use crate::directory::{DirectoryTarget, Existing};
use crate::errors::TargetError;
use crate::target::{Capabilities, Incoming, Listing, ObjectName, SectorReader, Target};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Bug {
    None,
    ReadsZerosPastTheEnd,
    SealsAnyLength,
    ForgetsToResume,
    SharesWriters,
    IgnoresTheLimit,
    ListsIncoming,
    DropsOneWrite,
    NeverRemoves,
    MixesZones,
    LosesNotFound,
}

/// A directory target with one bug.
struct Buggy(DirectoryTarget, Bug);

struct BuggyIncoming(Box<dyn Incoming>, Bug);

struct BuggyReader(Box<dyn SectorReader>, Bug);

impl Buggy {
    fn alias(&self, alias: ZoneAlias) -> ZoneAlias {
        if self.1 == Bug::MixesZones { ZoneAlias([1; 16]) } else { alias }
    }
}

impl Target for Buggy {
    fn id(&self) -> TargetId {
        self.0.id()
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn open(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn Incoming>, TargetError> {
        if self.1 == Bug::ForgetsToResume {
            // A live writer still makes it busy.
            self.0.discard_incoming(alias, copy)?;
        }
        match self.0.open(self.alias(alias), copy) {
            Err(TargetError::Busy { .. }) if self.1 == Bug::SharesWriters => self.0.open(alias, CopyId::random()),
            r => Ok(Box::new(BuggyIncoming(r?, self.1))),
        }
    }
    fn discard_incoming(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        self.0.discard_incoming(self.alias(alias), copy)
    }
    fn list_incoming(&self, alias: ZoneAlias) -> Result<Vec<CopyId>, TargetError> {
        self.0.list_incoming(self.alias(alias))
    }
    fn len(&self, alias: ZoneAlias, copy: CopyId) -> Result<Option<u64>, TargetError> {
        self.0.len(self.alias(alias), copy)
    }
    fn reader(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn SectorReader>, TargetError> {
        Ok(Box::new(BuggyReader(self.0.reader(self.alias(alias), copy)?, self.1)))
    }
    fn list(&self, alias: ZoneAlias) -> Result<Listing, TargetError> {
        let mut list = self.0.list(self.alias(alias))?;
        if self.1 == Bug::ListsIncoming {
            list.sectors.extend(self.0.list_incoming(alias)?.into_iter().map(|c| (c, 0)));
        }
        Ok(list)
    }
    fn list_zones(&self) -> Result<Vec<ZoneAlias>, TargetError> {
        self.0.list_zones()
    }
    fn remove(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        if self.1 == Bug::NeverRemoves { Ok(()) } else { self.0.remove(self.alias(alias), copy) }
    }
    fn put_object(&self, alias: ZoneAlias, name: ObjectName, bytes: &[u8]) -> Result<(), TargetError> {
        self.0.put_object(self.alias(alias), name, bytes)
    }
    fn get_object(&self, alias: ZoneAlias, name: ObjectName, limit: u64) -> Result<Vec<u8>, TargetError> {
        let limit = if self.1 == Bug::IgnoresTheLimit { u64::MAX } else { limit };
        match self.0.get_object(self.alias(alias), name, limit) {
            Err(e) if e.is_not_found() && self.1 == Bug::LosesNotFound => Ok(Vec::new()),
            r => r,
        }
    }
}

impl Incoming for BuggyIncoming {
    fn offset(&self) -> u64 {
        self.0.offset()
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        if self.1 == Bug::DropsOneWrite && offset > 0 && offset < 20_000 && bytes.len() > 10_000 {
            return Ok(());
        }
        self.0.write_at(offset, bytes)
    }
    fn seal(self: Box<Self>, len: u64) -> Result<(), TargetError> {
        match (self.1, self.0.seal(len)) {
            (Bug::SealsAnyLength, Err(TargetError::WrongLength { .. })) => Ok(()),
            (_, r) => r,
        }
    }
    fn abandon(self: Box<Self>) -> Result<(), TargetError> {
        self.0.abandon()
    }
}

impl SectorReader for BuggyReader {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), TargetError> {
        match self.0.read_at(buf, offset) {
            Err(TargetError::Truncated { .. }) if self.1 == Bug::ReadsZerosPastTheEnd => Ok(()),
            r => r,
        }
    }
}

fn failures(bug: Bug) -> Vec<&'static str> {
    let dir = TempDir::new().unwrap();
    let id = TargetId::random();
    DirectoryTarget::create(dir.path(), id, Existing::Refuse).unwrap();
    let results =
        run(&|| Box::new(Buggy(DirectoryTarget::open(dir.path(), Some(id)).unwrap(), bug)) as Box<dyn Target>);
    let failed = |o: &Outcome| matches!(o, Outcome::Failed(_));
    let text = report(&results);
    assert_eq!(text.lines().count(), results.iter().filter(|r| failed(&r.outcome)).count(), "{text}");
    results.into_iter().filter(|r| failed(&r.outcome)).map(|r| r.name).collect()
}

#[test]
fn every_planted_bug_is_found_by_its_check() {
    assert!(failures(Bug::None).is_empty());
    for (bug, check) in [
        (Bug::ReadsZerosPastTheEnd, "ranges are exact or refused"),
        (Bug::SealsAnyLength, "a wrong length is refused and incoming is kept"),
        (Bug::ForgetsToResume, "a resumed sector goes on at its offset"),
        (Bug::SharesWriters, "the second writer of a sector is told it is busy"),
        (Bug::IgnoresTheLimit, "objects longer than the limit are refused"),
        (Bug::ListsIncoming, "listing tells sealed from incoming"),
        (Bug::DropsOneWrite, "parallel writes at many offsets"),
        (Bug::NeverRemoves, "remove removes one sealed sector"),
        (Bug::MixesZones, "zones do not see each other"),
        (Bug::LosesNotFound, "objects are put, replaced and found again"),
    ] {
        let found = failures(bug);
        assert!(found.contains(&check), "{bug:?} was found only by {found:?}");
    }
}
