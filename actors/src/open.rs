//! Opening backup sectors of the zone: whichever healthy copy of a raw sector can be reached, with the zone's key or the owner's.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_consensus::model::{Copy as BackupCopy, CopyState, Relayed, State};
use zoneward_sectors::catalog::SectorTable;
use zoneward_sectors::crypto::Secret32;
use zoneward_sectors::fsx;
use zoneward_sectors::header::Header;
use zoneward_sectors::ids::{CopyId, SectorId, TargetId};
use zoneward_sectors::owner::OwnerKeys;
use zoneward_sectors::restore::{NoCopy, OpenSectors};
use zoneward_sectors::sector_reader::{Expected, SectorIn, SectorReadError, SectorReader, read_header};
use zoneward_sectors::zonekeys::ZoneKeys;
use zoneward_targets::{Target, TargetError};

use crate::home::Home;

/// The targets of the zone that are open.
pub type Targets = HashMap<TargetId, Arc<dyn Target>>;

/// A target's sector as the data plane reads it.
pub(crate) struct OnTarget(pub Box<dyn zoneward_targets::SectorReader>);

pub(crate) fn to_io(e: TargetError) -> io::Error {
    let kind = match &e {
        TargetError::NotFound { .. } => io::ErrorKind::NotFound,
        TargetError::Truncated { .. } => io::ErrorKind::UnexpectedEof,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, e)
}

impl SectorIn for OnTarget {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset).map_err(to_io)
    }
}

/// The copy's stored bytes, if this node holds them for another.
pub(crate) fn staged(home: &Home, copy: CopyId) -> Option<Staged> {
    // What cannot be opened is not held: another copy may do.
    fsx::open_read(&home.staged(copy)).ok().map(Staged)
}

/// A file of the spool.
pub(crate) struct Staged(std::fs::File);

impl SectorIn for Staged {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        fsx::read_exact_at(&self.0, buf, offset)
    }
}

/// What the opener knows of one copy.
#[derive(Clone)]
struct Known {
    copy: CopyId,
    target: TargetId,
    alias: zoneward_sectors::ids::ZoneAlias,
    state: CopyState,
    /// Empty: the zone has no key to it.
    sealed_dek: Vec<u8>,
    /// What its header names.
    named: Relayed,
    expected: Expected,
}

struct Inner {
    targets: Targets,
    /// Where copies are staged.
    home: Arc<Home>,
    keys: Arc<ZoneKeys>,
    owner_sign_public: [u8; 32],
    /// The owner's keys, if they are at hand: they open what the zone cannot.
    owner: Option<Arc<OwnerKeys>>,
    table: SectorTable,
    /// What people call the targets.
    names: HashMap<TargetId, String>,
    copies: HashMap<SectorId, Vec<Known>>,
    open: Mutex<HashMap<u32, (CopyId, Arc<SectorReader>)>>,
    /// Copies that failed, and whether because they are damaged.
    bad: Mutex<HashMap<CopyId, bool>>,
    /// Targets that something could not be read from without its being damaged: they are asked last, for each question
    /// may cost a deadline.
    silent: Mutex<HashSet<TargetId>>,
    /// What failed, in words.
    told: Mutex<Vec<String>>,
}

/// Opens sectors and keeps them open. Cheap to clone.
#[derive(Clone)]
pub struct Opener(Arc<Inner>);

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opener")
    }
}

/// Sectors kept open at once: each holds a file and a seek table.
const OPEN_MAX: usize = 64;
/// Copies that could not be read and are told of at most.
const TOLD_MAX: usize = 100;

impl Opener {
    pub fn new(
        state: &State,
        targets: Targets,
        home: Arc<Home>,
        keys: Arc<ZoneKeys>,
        owner_sign_public: [u8; 32],
        owner: Option<Arc<OwnerKeys>>,
        table: SectorTable,
    ) -> Self {
        let mut copies: HashMap<SectorId, Vec<Known>> = HashMap::new();
        for c in state.copies.values() {
            let Some(sector) = state.sectors.get(&c.sector) else { continue };
            copies.entry(c.sector).or_default().push(Known {
                copy: c.id,
                target: c.target,
                alias: c.alias,
                state: c.state,
                sealed_dek: STANDARD.decode(&c.sealed_dek).unwrap_or_default(),
                named: c.named(),
                expected: Expected { sector: Some(c.sector), raw_id: sector.raw_id, header_hash: Some(c.header_hash) },
            });
        }
        // A directory is read before what lies behind a network. One that is known to be damaged comes last: some of it may
        // still be read.
        let far = |t: &TargetId| state.targets.get(t).is_none_or(|t| !t.url.starts_with("file:"));
        copies.values_mut().for_each(|all| all.sort_by_key(|k| (k.state != CopyState::Stored, far(&k.target))));
        Self(Arc::new(Inner {
            targets,
            home,
            keys,
            owner_sign_public,
            owner,
            table,
            names: state.targets.values().map(|t| (t.id, t.name.clone())).collect(),
            copies,
            open: Mutex::default(),
            bad: Mutex::default(),
            silent: Mutex::default(),
            told: Mutex::default(),
        }))
    }

    pub fn table(&self) -> &SectorTable {
        &self.0.table
    }

    /// Opens one copy, verifying its header, key and trailer against what the state knows.
    pub fn copy(&self, c: &BackupCopy) -> Result<(Header, SectorReader), SectorReadError> {
        let known = self.0.copies.get(&c.sector).and_then(|all| all.iter().find(|k| k.copy == c.id));
        match known {
            Some(k) => self.open_known(k),
            None => Err(SectorReadError::Other("the zone knows no such copy")),
        }
    }

    pub(crate) fn home(&self) -> &Home {
        &self.0.home
    }

    pub(crate) fn has_owner(&self) -> bool {
        self.0.owner.is_some()
    }

    /// Whether some copy of a sector can be opened, as far as keys go.
    pub fn has_key(&self, sector: SectorId) -> bool {
        let copies = self.0.copies.get(&sector);
        self.0.owner.is_some() || copies.is_none_or(|all| all.iter().any(|k| !k.sealed_dek.is_empty()))
    }

    /// The stored bytes of one copy, whose header is the one that was minted. Nothing else of it is looked at.
    pub(crate) fn sealed(&self, c: &BackupCopy) -> Result<Arc<dyn SectorIn>, SectorReadError> {
        let known = self.0.copies.get(&c.sector).and_then(|all| all.iter().find(|k| k.copy == c.id));
        let k = known.ok_or(SectorReadError::Other("the zone knows no such copy"))?;
        let (input, header) = self.input(k)?;
        header.verify(&self.0.owner_sign_public)?;
        if k.expected.header_hash.is_some_and(|h| h != header.hash()) {
            return Err(SectorReadError::Other("its header is not the one that was minted"));
        }
        Ok(input)
    }

    /// Where a copy's bytes come from, and its header: it names this copy, or the one whose bytes this copy repeats.
    fn input(&self, k: &Known) -> Result<(Arc<dyn SectorIn>, Header), SectorReadError> {
        let i = &self.0;
        let input: Arc<dyn SectorIn> = match (i.targets.get(&k.target), staged(&i.home, k.copy)) {
            (Some(target), _) => Arc::new(OnTarget(target.reader(k.alias, k.copy).map_err(to_io)?)),
            (None, Some(file)) => Arc::new(file),
            (None, None) => return Err(io::Error::other("its target is not reachable").into()),
        };
        let header = read_header(&*input)?;
        if header.core().copy != k.named.copy || header.core().alias != k.named.alias {
            return Err(SectorReadError::Other("its header names another copy"));
        }
        Ok((input, header))
    }

    fn open_known(&self, k: &Known) -> Result<(Header, SectorReader), SectorReadError> {
        let i = &self.0;
        if k.sealed_dek.is_empty() && i.owner.is_none() {
            return Err(SectorReadError::OwnerOnly);
        }
        let (input, header) = self.input(k)?;
        let dek: Secret32 = match (&i.owner, k.sealed_dek.is_empty()) {
            (Some(owner), true) => {
                // Before the private key meets it: whoever has the public one could have made it.
                header.verify(&i.owner_sign_public)?;
                let core = header.core();
                owner
                    .unwrap(&core.owner_fingerprint, header.wrapped(), &core.label().0)
                    .map_err(|_| SectorReadError::Other("its key is not wrapped for this owner"))?
            }
            _ => i.keys.open_dek(k.copy, &k.sealed_dek).map_err(|_| SectorReadError::Key)?,
        };
        let reader = SectorReader::open(input, &header, &i.owner_sign_public, &dek, &k.expected)?;
        Ok((header, reader))
    }

    /// A reader for a raw sector: the first copy that opens.
    pub fn sector(&self, number: u32) -> Result<Arc<SectorReader>, NoCopy> {
        self.any_copy(number, true)
    }

    /// The same; with `damaged`, one of which wrong bytes were read before is better than none: the rest of it may be right.
    fn any_copy(&self, number: u32, damaged: bool) -> Result<Arc<SectorReader>, NoCopy> {
        let mut open = self.0.open.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, r)) = open.get(&number) {
            return Ok(r.clone());
        }
        let unknown = || NoCopy { why: "the catalog names an unknown sector".into(), damage: true };
        let id = self.0.table.id(number).ok_or_else(unknown)?;
        let (mut why, mut damage, mut tried) = (Vec::new(), false, false);
        let copies = self.0.copies.get(&id).into_iter().flatten().filter(|k| k.state != CopyState::Open);
        let mut copies: Vec<&Known> = copies.collect();
        let silent = self.silent().clone();
        copies.sort_by_key(|k| (k.state != CopyState::Stored, silent.contains(&k.target)));
        let mut keep = |copy: CopyId, reader: SectorReader| {
            if open.len() >= OPEN_MAX {
                open.clear();
            }
            let reader = Arc::new(reader);
            open.insert(number, (copy, reader.clone()));
            reader
        };
        let mut last = Vec::new();
        for k in copies {
            tried = true;
            let before = self.bad().get(&k.copy).copied();
            if let Some(was) = before {
                damage |= was;
                why.push(format!("copy {} could not be read before", k.copy));
                last.extend((was && damaged).then_some(k));
                continue;
            }
            match self.open_known(k) {
                Ok((_, r)) => return Ok(keep(k.copy, r)),
                Err(e) => {
                    why.push(self.failed(k, &e));
                    damage |= e.is_damage();
                }
            }
        }
        for k in last {
            if let Ok((_, r)) = self.open_known(k) {
                return Ok(keep(k.copy, r));
            }
        }
        if !tried {
            why.push("no copy of it is stored".into());
        }
        let why = format!("sector {id} cannot be opened: {}", why.join("; "));
        Err(NoCopy { why, damage: damage || !tried })
    }

    fn bad(&self) -> std::sync::MutexGuard<'_, HashMap<CopyId, bool>> {
        self.0.bad.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn silent(&self) -> std::sync::MutexGuard<'_, HashSet<TargetId>> {
        self.0.silent.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Notes that a copy could not be read; answers it in words.
    fn failed(&self, k: &Known, e: &SectorReadError) -> String {
        self.bad().insert(k.copy, e.is_damage());
        // That it has no key says nothing of the target.
        if !e.is_damage() && !matches!(e, SectorReadError::OwnerOnly) {
            self.silent().insert(k.target);
        }
        let target = self.0.names.get(&k.target).map_or("", |name| name);
        let why = format!("copy {} on target {target}: {}", k.copy, chain(e));
        let mut told = self.0.told.lock().unwrap_or_else(|e| e.into_inner());
        if told.len() < TOLD_MAX {
            told.push(why.clone());
        }
        why
    }

    /// Copies that could not be read since this was asked last, in words.
    pub fn take_told(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.told.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// The copy that a raw sector is read from now.
    pub fn in_use(&self, number: u32) -> Option<CopyId> {
        self.0.open.lock().unwrap_or_else(|e| e.into_inner()).get(&number).map(|(copy, _)| *copy)
    }

    /// The copy behind `reader` could not be read: the next one. If another thread found that out before, what is in use by
    /// now is another copy, and this failure says nothing against it.
    pub fn next_copy(
        &self,
        number: u32,
        reader: &Arc<SectorReader>,
        failure: &SectorReadError,
    ) -> Result<Arc<SectorReader>, NoCopy> {
        let mut open = self.0.open.lock().unwrap_or_else(|e| e.into_inner());
        let known = |copy: CopyId| self.0.copies.values().flatten().find(move |k| k.copy == copy);
        let in_use = open.get(&number).filter(|(_, r)| Arc::ptr_eq(r, reader)).map(|(copy, _)| *copy);
        if let Some(k) = in_use.and_then(known) {
            open.remove(&number);
            self.failed(k, failure);
            if !failure.is_damage() {
                // What else is open there gives way to other copies, where there are any.
                open.retain(|_, (copy, _)| known(*copy).is_none_or(|o| o.target != k.target));
            }
        }
        drop(open);
        // Those that failed are not asked again here: each failure takes a copy out, so there is an end.
        self.any_copy(number, false)
    }
}

impl OpenSectors for Opener {
    fn open(&self, sector: u32) -> Result<Arc<SectorReader>, NoCopy> {
        self.sector(sector)
    }

    fn after_failure(
        &self,
        sector: u32,
        failed: &Arc<SectorReader>,
        why: &SectorReadError,
    ) -> Result<Arc<SectorReader>, NoCopy> {
        self.next_copy(sector, failed, why)
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        out.push_str(": ");
        out.push_str(&s.to_string());
        source = s.source();
    }
    out
}
