//! Checking: is everything that the state promises there, and whole? Damage is named, with the files it holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use zoneward_consensus::model::{Copy as BackupCopy, Target as TargetRecord};
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::current::Current;
use zoneward_sectors::entry::Extent;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CopyId, SectorId, TargetId, ZoneAlias};
use zoneward_sectors::keyfile::OwnerKeyFile;
use zoneward_sectors::sector_reader::SectorReadError;
use zoneward_sectors::shown::show_path;
use zoneward_targets::{ObjectName, Target, TargetError};

use crate::errors::ZoneError;
use crate::examine::{Examined, Room, any_of};
use crate::open::{Opener, chain};
use crate::zone::Zone;

/// How much to read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Depth {
    /// Headers, trailers, indexes, catalogs, listings.
    Metadata,
    /// Each segment with this probability, in percent.
    Part(f64),
    /// Every byte.
    Everything,
}

/// Something that is not as it should be.
#[derive(Clone, Debug)]
pub struct Finding {
    pub target: Option<TargetId>,
    pub sector: Option<SectorId>,
    pub copy: Option<CopyId>,
    pub what: String,
    /// True for wrong bytes; false for what could not be reached.
    pub damage: bool,
    /// The target says that it does not have the copy.
    pub missing: bool,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    pub sectors: u64,
    pub copies: u64,
    pub segments_read: u64,
    pub bytes_read: u64,
    pub catalogs: u64,
    /// Catalogs that only the owner's key opens, and of which this node keeps no copy: they were not read.
    pub closed_catalogs: u64,
    /// Copies that only the owner's key opens: judged by their stored bytes alone.
    pub keyless: u64,
    pub entries: u64,
    pub findings: Vec<Finding>,
    /// Files that lie in damaged stretches: path of the source and path inside, with checkpoint numbers.
    pub files: Vec<DamagedFile>,
    pub files_count: u64,
    /// Sectors on targets that the state does not know.
    pub unknown: u64,
    /// The targets that list them.
    pub unknown_on: Vec<TargetId>,
    /// System sectors that newer ones replaced: nothing needs them, and they are not looked at.
    pub replaced: u64,
    /// Copies found whole.
    pub whole: Vec<CopyId>,
}

/// A file that damage reaches.
#[derive(Clone, Debug)]
pub struct DamagedFile {
    pub path: Vec<u8>,
    pub checkpoints: Vec<u64>,
    /// True if another copy still holds it whole.
    pub other_copy: bool,
}

impl CheckReport {
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    pub fn has_damage(&self) -> bool {
        self.findings.iter().any(|f| f.damage)
    }
}

/// Live figures of a check.
#[derive(Debug, Default)]
pub struct CheckProgress {
    /// Bytes read, and to be read.
    pub done: AtomicU64,
    pub total: AtomicU64,
    /// The target and the sector that are looked at, or the source whose catalog is.
    pub current: Current,
    pub stop: Arc<AtomicBool>,
}

/// Time that a target may cost with reads that fail without an answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Files named at most.
const FILES_MAX: usize = 1000;

/// Tar ranges of a sector that cannot be read from a copy; an empty list means all of it.
type Lost = BTreeMap<CopyId, Vec<std::ops::Range<u64>>>;

struct Checker<'a> {
    zone: &'a Zone,
    opener: &'a Opener,
    depth: Depth,
    threads: usize,
    progress: &'a CheckProgress,
    report: CheckReport,
    lost: Lost,
    /// Copies that their targets acknowledged and do not list, or with another length.
    unlisted: BTreeSet<CopyId>,
    silence: Silence,
}

/// What targets cost that do not answer in time: after some of it they are not asked for the rest, or a check of many
/// copies would take as many deadlines.
#[derive(Default)]
struct Silence(Mutex<HashMap<TargetId, Duration>>);

impl Silence {
    fn spent(&self) -> std::sync::MutexGuard<'_, HashMap<TargetId, Duration>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn is_too_long(&self, target: TargetId) -> bool {
        self.spent().get(&target).is_some_and(|t| *t > SILENCE_MAX)
    }

    /// Does something at a target, and notes how long it took to fail.
    fn note<T>(
        &self,
        target: TargetId,
        read: impl FnOnce() -> Result<T, SectorReadError>,
    ) -> Result<T, SectorReadError> {
        if self.is_too_long(target) {
            return Err(std::io::Error::other("its target did not answer before, and was not asked again").into());
        }
        let begun = Instant::now();
        let done = read();
        if done.as_ref().is_err_and(|e| !e.is_damage()) {
            *self.spent().entry(target).or_default() += begun.elapsed();
        }
        done
    }
}

/// Checks the zone.
pub fn check(zone: &Zone, depth: Depth, threads: usize, progress: &CheckProgress) -> Result<CheckReport, ZoneError> {
    let opener = zone.opener();
    let (report, lost, unlisted, silence) = Default::default();
    let mut c = Checker { zone, opener: &opener, depth, threads, progress, report, lost, unlisted, silence };
    for u in zone.unreachable() {
        let damage = matches!(u.error, TargetError::BadMarker { .. } | TargetError::OtherTarget { .. });
        c.find(Some(u.target), None, None, format!("the target cannot be used: {}", chain(&u.error)), damage);
    }
    c.home();
    c.objects();
    c.listings();
    c.copies()?;
    c.catalogs()?;
    Ok(c.report)
}

/// How long a head may be on its way into the state, and how often it is looked for.
const HEAD_WAIT: Duration = Duration::from_secs(3);
const HEAD_LOOK: Duration = Duration::from_millis(100);

/// What beside its sectors is not what was written on a target, and whether that is damage.
fn odd_objects(target: &dyn Target, alias: ZoneAlias, t: &TargetRecord) -> Vec<(String, bool)> {
    let wanted = [
        (ObjectName::Pointer, t.pointer.as_ref().map(|p| p.hash), "the head (pointer.json)"),
        (ObjectName::OwnerKey, t.owner_key_hash, "the owner's sealed key (owner-key.json)"),
    ];
    let mut found = Vec::new();
    for (name, hash, what) in wanted {
        let Some(hash) = hash else { continue };
        match target.get_object(alias, name, 1 << 20) {
            Ok(bytes) if sha256(&[&bytes]) == hash => {}
            Ok(_) => found.push((format!("{what} is not what was written"), true)),
            Err(e) => {
                let damage = matches!(e, TargetError::NotFound { .. } | TargetError::TooLarge { .. });
                found.push((format!("{what} cannot be read: {}", chain(&e)), damage));
            }
        }
    }
    found
}

impl Checker<'_> {
    fn find(
        &mut self,
        target: Option<TargetId>,
        sector: Option<SectorId>,
        copy: Option<CopyId>,
        what: String,
        damage: bool,
    ) {
        self.report.findings.push(Finding { target, sector, copy, what, damage, missing: false });
    }

    fn unreadable_catalog(&mut self, seqs: &[u64], e: &dyn std::error::Error) {
        self.find(None, None, None, format!("the catalog of checkpoint {seqs:?} cannot be read: {}", chain(e)), true);
    }

    /// What this home keeps of the owner's.
    fn home(&mut self) {
        let path = self.zone.home.owner_key();
        let kept = fsx::read_limited(&path, 1 << 16).map_err(|e| e.to_string());
        if let Err(why) = kept.and_then(|b| OwnerKeyFile::from_bytes(&b).map(|_| ()).map_err(|e| e.to_string())) {
            let what = format!("{}: {why}; a target has it too, as owner-key.json", path.display());
            self.find(None, None, None, what, true);
        }
        for path in [path, self.zone.home.recovery_kit()] {
            let mode = std::fs::metadata(&path).map(|m| m.permissions().mode()).unwrap_or(0);
            if mode & 0o077 != 0 {
                let what = format!("{} can be read by others: chmod 600 it", path.display());
                self.find(None, None, None, what, true);
            }
        }
    }

    /// Pointer and owner key must be, to the byte, what was written. (The marker was checked when the target was opened.)
    fn objects(&mut self) {
        let records: Vec<_> = self.zone.state().targets.values().cloned().collect();
        for mut t in records {
            let Some(target) = self.zone.target(t.id) else { continue };
            let alias = self.zone.keys().alias(t.id);
            let mut found = odd_objects(target.as_ref(), alias, &t);
            // A head lies on the target a moment before the state says so, and others write heads meanwhile.
            let begun = Instant::now();
            while found.iter().any(|(_, damage)| *damage) && begun.elapsed() < HEAD_WAIT {
                let Some(state) = self.zone.others_state() else { break };
                std::thread::sleep(HEAD_LOOK);
                let Some(now) = state.targets.get(&t.id).cloned() else { break };
                t = now;
                found = odd_objects(target.as_ref(), alias, &t);
            }
            found.into_iter().for_each(|(what, damage)| self.find(Some(t.id), None, None, what, damage));
        }
    }

    /// What targets list against what they acknowledged.
    fn listings(&mut self) {
        let ids: Vec<TargetId> = self.zone.targets().keys().copied().collect();
        for id in ids {
            let Some(target) = self.zone.target(id) else { continue };
            let mut hidden = Vec::new();
            match crate::guard::guard(self.zone.state(), id, &**target, false, None) {
                Ok((guard, found)) => {
                    hidden = found;
                    guard.alarms().into_iter().for_each(|what| self.find(Some(id), None, None, what, false));
                }
                // Why it does not answer is said of its listing.
                Err(e) if e.retry() == zoneward_targets::Retry::Later => {}
                Err(e) => self.find(Some(id), None, None, chain(&e), false),
            }
            match target.list(self.zone.keys().alias(id)) {
                Ok(listing) => {
                    let state = self.zone.state();
                    let known = |c: &CopyId| state.copies.get(c).is_some_and(|k| k.target == id);
                    let unknown = listing.sectors.iter().filter(|(c, _)| !known(c)).count() as u64;
                    self.report.unknown += unknown;
                    self.report.unknown_on.extend((unknown > 0).then_some(id));
                    let listed: HashMap<CopyId, u64> = listing.sectors.into_iter().collect();
                    let here = state.copies.values().filter(|c| c.target == id && c.is_stored());
                    let other = here.filter(|c| listed.get(&c.id) != Some(&c.stored_len)).map(|c| c.id);
                    let other = other.filter(|c| !hidden.contains(c));
                    self.unlisted.extend(other);
                }
                Err(e) => self.find(Some(id), None, None, format!("it cannot list its sectors: {}", chain(&e)), false),
            }
        }
    }

    fn copies(&mut self) -> Result<(), ZoneError> {
        let opener = self.opener;
        let state = self.zone.state();
        let whole = |c: &BackupCopy| c.is_stored();
        let in_place: BTreeSet<_> = state.copies.values().filter(|c| whole(c)).map(|c| (c.sector, c.target)).collect();
        // One that was damaged or lost, and that its target has anew, matters no more.
        let replaced = state.replaced_systems();
        self.report.replaced = replaced.len() as u64;
        let counts = |c: &&BackupCopy| {
            let now = whole(c) || !in_place.contains(&(c.sector, c.target));
            !c.is_open() && now && !replaced.contains(&c.sector)
        };
        let all: Vec<BackupCopy> = state.copies.values().filter(counts).cloned().collect();
        self.report.sectors = all.iter().map(|c| c.sector).collect::<BTreeSet<_>>().len() as u64;
        let mut opened: Vec<(&BackupCopy, Examined<'_>)> = Vec::new();
        for c in &all {
            if self.zone.target(c.target).is_none() {
                continue; // Said already, once for the target.
            }
            self.report.copies += 1;
            self.report.keyless += u64::from(c.is_keyless() && !opener.has_owner());
            self.progress.current.tell(self.label(c).as_bytes());
            match self.silence.note(c.target, || Examined::of(opener, c)) {
                Ok(copy) => {
                    if self.unlisted.contains(&c.id) {
                        let what = "it is there, and its target does not list it so: a recovery would not find it";
                        self.find(Some(c.target), Some(c.sector), None, what.to_owned(), true);
                    }
                    opened.push((c, copy));
                }
                Err(e) => {
                    self.lost.insert(c.id, Vec::new());
                    let missing = is_missing(&e);
                    let (target, sector, copy) = (Some(c.target), Some(c.sector), Some(c.id));
                    let (what, damage) = (chain(&e), e.is_damage() || missing);
                    self.report.findings.push(Finding { target, sector, copy, what, damage, missing });
                }
            }
        }
        self.read(&opened)?;
        let bad: BTreeSet<CopyId> = self.lost.keys().copied().collect();
        // Of a target that is away nothing is known.
        let seen = all.iter().filter(|c| self.zone.target(c.target).is_some()).map(|c| c.id);
        self.report.whole = seen.filter(|c| !bad.contains(c)).collect();
        Ok(())
    }

    /// A copy, as progress shows it.
    fn label(&self, c: &BackupCopy) -> String {
        let target = self.zone.state().targets.get(&c.target).map_or("", |t| &t.name);
        format!("{target}: sector {}", c.sector)
    }

    /// Reads segments, each checked by its tag and by its leaf hash.
    fn read(&mut self, opened: &[(&BackupCopy, Examined<'_>)]) -> Result<(), ZoneError> {
        let percent = match self.depth {
            Depth::Metadata => return Ok(()),
            Depth::Part(p) => p,
            Depth::Everything => 100.0,
        };
        let mut jobs: Vec<(usize, u64)> = Vec::new();
        for (i, (_, copy)) in opened.iter().enumerate() {
            let (all, before) = (copy.units(), jobs.len());
            jobs.extend((0..all).filter(|_| percent >= 100.0 || chosen(percent)).map(|s| (i, s)));
            // Of a small sector too something is read.
            if jobs.len() == before && percent > 0.0 && all > 0 {
                jobs.push((i, any_of(all)));
            }
        }
        let len = |(i, s): &(usize, u64)| opened.get(*i).map_or(0, |(_, x)| x.len(*s));
        self.progress.total.store(jobs.iter().map(len).sum(), Ordering::Relaxed);
        let labels: Vec<String> = opened.iter().map(|(c, ..)| self.label(c)).collect();
        let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        let bad: Mutex<Vec<(usize, u64, SectorReadError)>> = Mutex::default();
        let work = || {
            let mut room = Room::new();
            while !self.progress.stop.load(Ordering::Relaxed) {
                let Some((i, s)) = jobs.get(next.fetch_add(1, Ordering::SeqCst)) else { return };
                let Some((c, copy)) = opened.get(*i) else { return };
                self.progress.current.tell(labels[*i].as_bytes());
                let read = self.silence.note(c.target, || copy.read(*s, &mut room, &self.progress.stop));
                let len = len(&(*i, *s));
                bytes.fetch_add(len, Ordering::Relaxed);
                self.progress.done.fetch_add(len, Ordering::Relaxed);
                if let Err(e) = read {
                    bad.lock().unwrap_or_else(|e| e.into_inner()).push((*i, *s, e));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.max(1) {
                scope.spawn(work);
            }
            work();
        });
        if self.progress.stop.load(Ordering::Relaxed) {
            return Err(ZoneError::Interrupted);
        }
        self.report.segments_read = jobs.len() as u64;
        self.report.bytes_read = bytes.into_inner();
        let mut by_copy: BTreeMap<usize, Vec<(u64, SectorReadError)>> = BTreeMap::new();
        for (i, s, e) in bad.into_inner().unwrap_or_else(|e| e.into_inner()) {
            by_copy.entry(i).or_default().push((s, e));
        }
        for (i, mut errors) in by_copy {
            let Some((c, copy)) = opened.get(i) else { continue };
            errors.sort_by_key(|(s, _)| *s);
            let damage = errors.iter().any(|(_, e)| e.is_damage());
            let ranges = errors.iter().flat_map(|(s, _)| copy.tar_ranges(*s)).collect();
            self.lost.insert(c.id, ranges);
            let first = errors.first().map(|(_, e)| chain(e)).unwrap_or_default();
            let what = match errors.len() {
                1 => first,
                n => format!("{first}, and {} more segments", n - 1),
            };
            self.find(Some(c.target), Some(c.sector), Some(c.id), what, damage);
        }
        Ok(())
    }

    /// Every catalog of every checkpoint that counts must be readable, and its extents must lie inside known sectors.
    fn catalogs(&mut self) -> Result<(), ZoneError> {
        let catalogs = self.zone.catalogs(self.opener);
        let ends: HashMap<u32, u64> = self
            .zone
            .state()
            .sectors
            .values()
            .filter(|s| s.is_sealed())
            .map(|s| (self.zone.table().number(s.id), s.tar_len))
            .collect();
        let mut chains: BTreeMap<(zoneward_sectors::ids::SourceId, Vec<_>), Vec<u64>> = BTreeMap::new();
        for c in self.zone.state().checkpoints.values() {
            if !c.is_complete() {
                continue;
            }
            for t in c.tasks.iter().filter(|t| !t.layers.is_empty()) {
                chains.entry((t.source, t.layers.clone())).or_default().push(c.seq);
            }
        }
        let lost = self.lost_by_sector();
        for ((source, layers), seqs) in chains {
            if self.progress.stop.load(Ordering::Relaxed) {
                return Err(ZoneError::Interrupted);
            }
            // What only the owner can read is not damaged; it is looked at when the owner's key is given.
            if !catalogs.are_open(&layers) {
                self.report.closed_catalogs += 1;
                continue;
            }
            self.report.catalogs += 1;
            let top = self.zone.state().source_ever(source).map(|s| s.path.clone()).unwrap_or_default();
            let entries = match catalogs.entries(&layers) {
                Ok(e) => e,
                Err(e) => {
                    self.unreadable_catalog(&seqs, &e);
                    continue;
                }
            };
            for entry in entries {
                match entry {
                    Err(e) => {
                        self.unreadable_catalog(&seqs, &e);
                        break;
                    }
                    Ok(e) => {
                        self.report.entries += 1;
                        let path = || [&top[..], b"/", &e.path].concat();
                        if let Some(what) = outside(&e.extents, &ends) {
                            let shown = show_path(&path());
                            self.find(None, None, None, format!("{shown}: {what}"), true);
                        }
                        if let Some(other_copy) = reached(&e.extents, &lost) {
                            self.damaged_file(path(), &seqs, other_copy);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn damaged_file(&mut self, path: Vec<u8>, seqs: &[u64], other_copy: bool) {
        if let Some(known) = self.report.files.iter_mut().find(|f| f.path == path) {
            known.checkpoints.extend_from_slice(seqs);
            return;
        }
        self.report.files_count += 1;
        if self.report.files.len() < FILES_MAX {
            self.report.files.push(DamagedFile { path, checkpoints: seqs.to_vec(), other_copy });
        }
    }

    /// For each sector with a bad copy: the ranges lost, and whether another copy is whole.
    fn lost_by_sector(&self) -> HashMap<u32, (Vec<std::ops::Range<u64>>, bool)> {
        let state = self.zone.state();
        let mut out: HashMap<u32, (Vec<std::ops::Range<u64>>, bool)> = HashMap::new();
        for (copy, ranges) in &self.lost {
            let Some(c) = state.copies.get(copy) else { continue };
            let other = self.report.whole.iter().any(|w| state.copies.get(w).is_some_and(|k| k.sector == c.sector));
            let all = std::iter::once(0..u64::MAX);
            let mine: Vec<_> = if ranges.is_empty() { all.collect() } else { ranges.clone() };
            out.entry(self.zone.table().number(c.sector)).or_insert((Vec::new(), other)).0.extend(mine);
        }
        out
    }
}

/// A copy that its target no longer has is damage of its own kind.
fn is_missing(e: &SectorReadError) -> bool {
    matches!(e, SectorReadError::Io(e) if e.kind() == std::io::ErrorKind::NotFound)
}

/// True with the given probability, in percent.
fn chosen(percent: f64) -> bool {
    let mut b = [0u8; 4];
    zoneward_sectors::crypto::fill_random(&mut b);
    f64::from(u32::from_le_bytes(b)) < percent / 100.0 * f64::from(u32::MAX)
}

fn outside(extents: &[Extent], ends: &HashMap<u32, u64>) -> Option<&'static str> {
    extents.iter().find_map(|x| match x {
        Extent::Hole(_) => None,
        Extent::Data { sector, offset, len, .. } => match ends.get(sector) {
            None => Some("its content lies in a sector that the zone does not hold"),
            Some(end) if offset + len > *end => Some("its content lies beyond the end of its sector"),
            Some(_) => None,
        },
    })
}

fn reached(extents: &[Extent], lost: &HashMap<u32, (Vec<std::ops::Range<u64>>, bool)>) -> Option<bool> {
    if lost.is_empty() {
        return None;
    }
    extents.iter().find_map(|x| match x {
        Extent::Data { sector, offset, len, .. } => lost
            .get(sector)
            .filter(|(ranges, _)| ranges.iter().any(|r| r.start < offset + len && r.end > *offset))
            .map(|(_, other)| *other),
        Extent::Hole(_) => None,
    })
}
