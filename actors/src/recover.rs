//! A zone brought back on a new machine from one target and the owner's keys, when all its nodes are lost.
//!
//! 1. [`zones_on`]: which zones a target holds, each with the owner's sealed keys.
//! 2. [`find`]: the newest head of all targets that can be reached, and the state that it speaks of. Every head and every
//!    sector must be signed by a node that the owner certified; nothing else of a target is believed.
//! 3. [`take_over`]: the home of one new node, with that state. From then on everything works as in any zone; until the
//!    owner says that the files are back, nothing is backed up over them ([`pending`]).
//!
//! All of it can be cut and done again: a home counts from the moment when its state gets its name.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zoneward_consensus::command::Command;
use zoneward_consensus::export::import_state;
use zoneward_consensus::limits::EXPORT_LEN_MAX;
use zoneward_consensus::model::{Copy, CopyState, Head, Relayed, State};
use zoneward_consensus::quorum;
use zoneward_consensus::store::{Store, taken_over};
use zoneward_sectors::crypto::{Secret32, Signer, sha256};
use zoneward_sectors::fsx;
use zoneward_sectors::headcode::HeadCode;
use zoneward_sectors::header::Header;
use zoneward_sectors::ids::{CopyId, Digest, NodeId, SectorId, TargetId, ZoneAlias};
use zoneward_sectors::keyfile::OwnerKeyFile;
use zoneward_sectors::owner::OwnerKeys;
use zoneward_sectors::pack::IndexJson;
use zoneward_sectors::sector_reader::{Expected, SectorIn, SectorReadError, SectorReader, read_header};
use zoneward_sectors::zonekeys::{ZoneKeys, ZoneSecrets};
use zoneward_targets::{ObjectName, Op, Target, TargetError};
use zoneward_transport::identity::NodeIdentity;

use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::freshness::POINTER_LEN_MAX;
use crate::headchain::{Against, HeadPayload, SignedHead, signed_head};
use crate::home::{Home, io_at};
use crate::init::{Place, clear_unfinished};
use crate::open::{OnTarget, chain, to_io};
use crate::zone::{open_target, seal_credentials};

/// Bytes of a zone secret at most.
const SECRET_LEN_MAX: u64 = 1 << 16;
/// Rounds in which a newer state may name further targets with a newer one still.
const ROUNDS_MAX: usize = 8;
/// Zones of one target that are asked for their keys: far above what an account may have.
const ZONES_MAX: usize = 1000;
/// Time that a target may cost with sectors which it lists and which are none of this zone's: a list can be made up, and
/// each sector in it can take as long as a request may.
const WASTE_MAX: Duration = Duration::from_secs(60);

/// Why a zone does not come back.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Zone(#[from] ZoneError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("no sector on the target holds system data that these keys open")]
    NothingFound,
    #[error("none of the targets that can be reached has a whole copy of the newest system data (head {n}): {why}")]
    Unreadable { n: u64, why: String },
    #[error("the state in the system data is damaged: {0}")]
    State(String),
    #[error(
        "target {other} shows a head {theirs}, newer than head {n} on {one}, but the zone's voters did not sign it"
    )]
    Unvouched { one: String, n: u64, other: String, theirs: u64 },
    #[error("targets {one} and {other} both show a head {n}, and they differ: two homes have written as one zone")]
    Forked { one: String, other: String, n: u64 },
}

/// A zone that a target holds something of.
#[derive(Debug)]
pub struct ZoneOn {
    pub alias: ZoneAlias,
    /// The owner's sealed keys; `None`: there are none, or they are damaged.
    pub keyfile: Option<OwnerKeyFile>,
}

/// The zones on a target whose names begin so.
pub fn zones_on(target: &dyn Target, beginning: &str) -> Result<Vec<ZoneOn>, TargetError> {
    let mut zones = target.list_zones()?;
    zones.retain(|z| z.to_string().starts_with(beginning));
    if zones.len() > ZONES_MAX {
        let (what, len) = (format!("the zones on {}", target.describe()), zones.len() as u64);
        return Err(TargetError::TooLarge { op: Op::List, what, len, limit: ZONES_MAX as u64 });
    }
    let mut all = Vec::new();
    for alias in zones {
        let keyfile = match target.get_object(alias, ObjectName::OwnerKey, 1 << 16) {
            Ok(bytes) => OwnerKeyFile::from_bytes(&bytes).ok(),
            // What stands there is no file that this zone's nodes wrote. The owner may have the key's file.
            Err(TargetError::NotFound { .. } | TargetError::TooLarge { .. } | TargetError::Foreign { .. }) => None,
            Err(e) => return Err(e),
        };
        all.push(ZoneOn { alias, keyfile });
    }
    Ok(all)
}

/// Something that a person should know of what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The target shows no head that can be believed: every sector was looked at instead. Newer data may lie elsewhere.
    NoHead { target: String },
    /// Its head is there and cannot be read; the same was done.
    HeadAway { target: String, why: String },
    /// What its head speaks of cannot be read there: older system data of the target was used to go on.
    Unreadable { target: String, n: u64, time_ms: u64 },
    /// This target shows an older head: it may be behind, or show an old state.
    Older { target: String, n: u64, time_ms: u64 },
    /// This target shows a head of nodes that had handed over before, or of a generation that the owner ended.
    Overruled { target: String, n: u64, time_ms: u64 },
    /// The head that was found is signed by a node of the zone, but the owner's word does not reach it.
    Unvouched { n: u64 },
    /// It cannot be reached: it may know of newer data.
    Away { target: String, why: String },
    /// Nothing that can be believed is there.
    Silent { target: String },
    /// It lists sectors that cannot be read, and was not looked through to its end.
    Wasteful { target: String },
}

/// Why a state may not be the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// A newer one is known of and could not be read anywhere.
    Older,
    /// No head that can be believed speaks of it.
    NoHead,
}

/// The newest system data that was found.
pub struct Found {
    pub state: State,
    /// The head that speaks of it; `None`: it was found without one.
    pub head: Option<HeadPayload>,
    /// When it was written.
    pub time_ms: u64,
    pub notes: Vec<Note>,
    head_text: Option<String>,
    secret: ZoneSecrets,
}

impl Found {
    /// Whether this may not be the newest state.
    pub fn doubt(&self) -> Option<Doubt> {
        match (self.is_behind(), &self.head) {
            (true, _) => Some(Doubt::Older),
            (false, None) => Some(Doubt::NoHead),
            (false, Some(_)) => None,
        }
    }

    /// A newer state is known of and could not be read anywhere.
    fn is_behind(&self) -> bool {
        let unread = self.notes.iter().filter_map(|n| match n {
            Note::Unreadable { n, .. } => Some(*n),
            _ => None,
        });
        unread.max() > self.head.as_ref().map(|h| h.n)
    }

    /// The head, as a person may have written it down.
    pub fn head_code(&self) -> Option<HeadCode> {
        let (head, text) = (self.head.as_ref()?, self.head_text.as_ref()?);
        Some(HeadCode::of(head.n, &sha256(&[text.as_bytes()])))
    }
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Found(head {:?})", self.head.as_ref().map(|h| h.n))
    }
}

/// A target that is open, with the zone's alias there.
struct Open {
    name: String,
    alias: ZoneAlias,
    target: Arc<dyn Target>,
    /// Time spent on sectors that were none.
    wasted: Cell<Duration>,
}

impl Open {
    fn new(name: String, alias: ZoneAlias, target: Arc<dyn Target>) -> Self {
        Self { name, alias, target, wasted: Cell::default() }
    }
}

type Opened = BTreeMap<TargetId, Open>;

/// What a system sector holds.
struct System {
    state: State,
    secret: ZoneSecrets,
    time_ms: u64,
}

/// Finds the newest system data. `only_here`: that of this target, whatever others show.
pub fn find(
    target: &Arc<dyn Target>,
    alias: ZoneAlias,
    owner: &OwnerKeys,
    only_here: bool,
) -> Result<Found, RecoverError> {
    let (mut opened, mut notes) = (Opened::new(), Vec::new());
    let here = target.describe();
    opened.insert(target.id(), Open::new(here.clone(), alias, target.clone()));
    let first = head_on(target.as_ref(), alias, owner);
    let mut best = match first {
        Ok(Some(h)) => match read_system(&opened, &h.payload, owner) {
            Ok(system) => (system, Some(h)),
            // An older state tells of the other targets, which may have the newest one whole.
            Err(e) => {
                let system = search(&opened[&target.id()], owner).map_err(|_| e)?;
                notes.push(Note::Unreadable { target: here, n: h.payload.n, time_ms: h.payload.time_ms });
                (system, None)
            }
        },
        Ok(None) => {
            notes.push(Note::NoHead { target: here });
            (search(&opened[&target.id()], owner)?, None)
        }
        Err(e) => {
            let why = chain(&e);
            // A target that is not there at all says so best by what was asked first.
            let system = search(&opened[&target.id()], owner).map_err(|_| e)?;
            notes.push(Note::HeadAway { target: here, why });
            (system, None)
        }
    };
    let mut tried = BTreeSet::from([target.id()]);
    for _ in 0..ROUNDS_MAX {
        if only_here {
            break;
        }
        let keys = keys_of(&best.0)?;
        let mut newest: Option<(TargetId, SignedHead)> = None;
        for t in best.0.state.targets.values().filter(|t| !tried.contains(&t.id)) {
            let away = |why: String| Note::Away { target: t.name.clone(), why };
            match open_target(t, &keys) {
                Ok(target) => {
                    let open = Open::new(t.name.clone(), keys.alias(t.id), target);
                    match head_on(open.target.as_ref(), open.alias, owner) {
                        Ok(Some(h)) if newest.as_ref().is_none_or(|(_, n)| is_better(&h, n)) => {
                            newest = Some((t.id, h));
                        }
                        Ok(Some(_)) => {}
                        Ok(None) => notes.push(Note::Silent { target: t.name.clone() }),
                        Err(e) => notes.push(away(chain(&e))),
                    }
                    opened.insert(t.id, open);
                }
                Err(e) => notes.push(away(chain(&e))),
            }
        }
        tried.extend(best.0.state.targets.keys().copied());
        match newest {
            Some((_, h)) if best.1.as_ref().is_none_or(|b| is_better(&h, b)) => {
                best = (read_system(&opened, &h.payload, owner)?, Some(h));
            }
            _ => break,
        }
    }
    if !only_here {
        compare(&opened, best.1.as_ref(), owner, &mut notes)?;
    }
    // What could not be told apart before has the names that its zone gave it.
    for n in &mut notes {
        if let Note::NoHead { target: name }
        | Note::HeadAway { target: name, .. }
        | Note::Unreadable { target: name, .. }
        | Note::Older { target: name, .. } = n
            && *name == target.describe()
            && let Some(t) = best.0.state.targets.get(&target.id())
        {
            name.clone_from(&t.name);
        }
    }
    let (mut system, head) = best;
    let keys = keys_of(&system)?;
    adopt(&mut system.state, &opened, owner, &keys);
    for (id, _) in opened.iter().filter(|(_, o)| o.wasted.get() > WASTE_MAX) {
        let target = system.state.targets.get(id).map_or_else(|| id.to_string(), |t| t.name.clone());
        notes.push(Note::Wasteful { target });
    }
    let time_ms = head.as_ref().map_or(system.time_ms, |h| h.payload.time_ms);
    let (head_text, head) = head.map_or((None, None), |h| (Some(h.text), Some(h.payload)));
    Ok(Found { state: system.state, head, time_ms, notes, head_text, secret: system.secret })
}

/// Makes the state's list of copies that of the targets. The state was written before the last copies were made, and copies
/// may have been made anew since: what a target holds of a known sector counts, and what it does not hold does not.
fn adopt(state: &mut State, opened: &Opened, owner: &OwnerKeys, keys: &ZoneKeys) {
    for (target, o) in opened {
        let Ok(listing) = o.target.list(o.alias) else { continue };
        let listed: BTreeMap<CopyId, u64> = listing.sectors.into_iter().collect();
        for c in state.copies.values_mut().filter(|c| c.target == *target && c.is_stored()) {
            if listed.get(&c.id) != Some(&c.stored_len) {
                c.state = CopyState::Lost;
            }
        }
        let here = |c: &&Copy| c.target == *target && c.is_stored();
        let mut held: BTreeSet<SectorId> = state.copies.values().filter(here).map(|c| c.sector).collect();
        for (copy, stored_len) in listed {
            if state.copies.get(&copy).is_some_and(|c| !c.is_open()) {
                continue;
            }
            let Some((header, dek, reader)) = any_sector(o, copy, owner, false) else { continue };
            let it = reader.trailer();
            let known = state.sectors.get(&it.sector).filter(|s| s.is_sealed() && s.raw_id == Some(it.raw_id));
            let Some(write_only) = known.map(|s| s.write_only) else { continue };
            let core = header.core();
            let named = Relayed { copy: core.copy, alias: core.alias };
            // A header of another copy is right only on what repeats that copy's bytes, and the state knows that copy.
            let from = state.copies.values().find(|c| c.header_hash == header.hash() && c.sector == it.sector);
            let relayed = Some(named).filter(|n| (n.copy, n.alias) != (copy, o.alias));
            let stored_id = from.filter(|c| c.named() == named && c.stored_len == stored_len).and_then(|c| c.stored_id);
            if relayed.is_some() && !(write_only && stored_id.is_some()) {
                continue;
            }
            if !held.insert(it.sector) {
                continue;
            }
            // The zone is to have no key to what only the owner may read. But without a key it must know the bytes.
            let keyless = write_only && stored_id.is_some();
            let sealed_dek = if keyless { String::new() } else { STANDARD.encode(keys.seal_dek(copy, &dek)) };
            let record = Copy {
                id: copy,
                sector: it.sector,
                target: *target,
                alias: o.alias,
                state: CopyState::Stored,
                header: STANDARD.encode(header.used()),
                header_hash: header.hash(),
                sealed_dek,
                stored_len,
                stored_id,
                relayed,
                opened_ms: it.created_ms,
                stored_ms: it.created_ms,
                verified_ms: None,
                read_ms: None,
                audited_ms: None,
                silent: None,
                trouble: None,
                stripes: None,
                lease: None,
                unneeded: None,
            };
            state.copies.insert(copy, record);
        }
    }
}

/// What each target shows beside the newest head: an older one is told, another of the same number ends it.
fn compare(
    opened: &Opened,
    best: Option<&SignedHead>,
    owner: &OwnerKeys,
    notes: &mut Vec<Note>,
) -> Result<(), RecoverError> {
    let Some(best) = best else { return Ok(()) };
    let shown: Vec<_> = opened
        .values()
        .filter_map(|o| Some((o.name.clone(), head_on(o.target.as_ref(), o.alias, owner).ok().flatten()?)))
        .collect();
    let with_best = shown.iter().find(|(_, h)| h.text == best.text).map_or_else(String::new, |(name, _)| name.clone());
    for (target, h) in shown {
        let (n, time_ms) = (h.payload.n, h.payload.time_ms);
        match best.against(&h) {
            Against::Same => {}
            Against::Older => notes.push(Note::Older { target, n, time_ms }),
            Against::Overruled => notes.push(Note::Overruled { target, n, time_ms }),
            Against::Unvouched => {
                return Err(RecoverError::Unvouched { one: with_best, n: best.payload.n, other: target, theirs: n });
            }
            Against::Newer | Against::Overrules | Against::Forked => {
                return Err(RecoverError::Forked { one: with_best, other: target, n });
            }
        }
    }
    if best.standing.is_none() {
        notes.push(Note::Unvouched { n: best.payload.n });
    }
    Ok(())
}

/// Whether a head stands before another one.
fn is_better(head: &SignedHead, than: &SignedHead) -> bool {
    matches!(than.against(head), Against::Newer | Against::Overrules)
}

/// The head that a target shows, if a node that the owner certified signed it.
fn head_on(target: &dyn Target, alias: ZoneAlias, owner: &OwnerKeys) -> Result<Option<SignedHead>, TargetError> {
    match target.get_object(alias, ObjectName::Pointer, POINTER_LEN_MAX) {
        Ok(bytes) => Ok(signed_head(&bytes, owner.public().sign_public())),
        Err(TargetError::NotFound { .. } | TargetError::TooLarge { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens a sector with the owner's key: its header must be signed by a node that the owner certified, and, if it is to be
/// `exact`, name this copy: it may repeat another one's bytes otherwise.
fn open_sector(
    o: &Open,
    copy: CopyId,
    owner: &OwnerKeys,
    expected: &Expected,
    exact: bool,
) -> Result<(Header, Secret32, SectorReader), SectorReadError> {
    let input: Arc<dyn SectorIn> = Arc::new(OnTarget(o.target.reader(o.alias, copy).map_err(to_io)?));
    let header = read_header(&*input)?;
    let core = header.core();
    if exact && (core.copy != copy || core.alias != o.alias) {
        return Err(SectorReadError::Other("its header names another copy"));
    }
    header.verify(owner.public().sign_public())?;
    let dek = owner
        .unwrap(&core.owner_fingerprint, header.wrapped(), &core.label().0)
        .map_err(|_| SectorReadError::Other("its key is not wrapped for this owner"))?;
    let reader = SectorReader::open(input, &header, owner.public().sign_public(), &dek, expected)?;
    Ok((header, dek, reader))
}

/// Any sector that a target lists, if it is this owner's and whole enough to be opened.
fn any_sector(o: &Open, copy: CopyId, owner: &OwnerKeys, exact: bool) -> Option<(Header, Secret32, SectorReader)> {
    if o.wasted.get() > WASTE_MAX {
        return None;
    }
    let begun = Instant::now();
    let opened = open_sector(o, copy, owner, &Expected::default(), exact).ok();
    if opened.is_none() {
        o.wasted.set(o.wasted.get() + begun.elapsed());
    }
    opened
}

/// Reads the system data that a head names, from any of its copies that can be reached.
fn read_system(opened: &Opened, head: &HeadPayload, owner: &OwnerKeys) -> Result<System, RecoverError> {
    let mut why = "it lies on other targets".to_owned();
    for c in &head.copies {
        let Some(o) = opened.get(&c.target) else { continue };
        let expected =
            Expected { sector: Some(head.sector), raw_id: Some(head.raw_id), header_hash: Some(c.header_hash) };
        let opened = open_sector(o, c.copy, owner, &expected, true).map_err(RecoverError::from);
        match opened.and_then(|(_, _, r)| system_in(&r, o, owner)) {
            Ok(system) => return Ok(system),
            Err(e) => why = format!("{}: {}", o.name, chain(&e)),
        }
    }
    // A copy that was made anew since the head was written has another name: it is known by what it holds.
    for o in opened.values() {
        for (copy, _) in o.target.list(o.alias).map(|l| l.sectors).unwrap_or_default() {
            let Some((_, _, reader)) = any_sector(o, copy, owner, true) else { continue };
            let it = reader.trailer();
            if (it.sector, it.raw_id) == (head.sector, head.raw_id) {
                match system_in(&reader, o, owner) {
                    Ok(system) => return Ok(system),
                    Err(e) => why = format!("{}: {}", o.name, chain(&e)),
                }
            }
        }
    }
    Err(RecoverError::Unreadable { n: head.n, why })
}

/// The newest system data among all sectors of a target, where no head tells of it.
fn search(o: &Open, owner: &OwnerKeys) -> Result<System, RecoverError> {
    let mut best: Option<System> = None;
    for (copy, _) in o.target.list(o.alias)?.sectors {
        let Some((_, _, reader)) = any_sector(o, copy, owner, true) else { continue };
        let newer = best.as_ref().is_none_or(|b| reader.trailer().created_ms > b.time_ms);
        if let Some(system) = newer.then(|| system_in(&reader, o, owner).ok()).flatten() {
            best = Some(system);
        }
    }
    best.ok_or(RecoverError::NothingFound)
}

fn system_in(reader: &SectorReader, o: &Open, owner: &OwnerKeys) -> Result<System, RecoverError> {
    contents(reader, o.target.id(), o.alias, owner)
}

/// The state and the zone's secret in a system sector, if they fit each other, the owner and the place they came from.
fn contents(
    reader: &SectorReader,
    target: TargetId,
    alias: ZoneAlias,
    owner: &OwnerKeys,
) -> Result<System, RecoverError> {
    let bad = |what: &str| RecoverError::State(what.to_owned());
    let index: IndexJson =
        serde_json::from_slice(&reader.index_json()?).map_err(|_| bad("its index is not the JSON it should be"))?;
    let at = index.system.filter(|_| reader.trailer().system).ok_or_else(|| bad("it is no system sector"))?;
    let state = reader.read_tar(at.state.0, at.state.1, EXPORT_LEN_MAX)?;
    let state = import_state(&state[..]).map_err(|e| RecoverError::State(e.to_string()))?;
    let secret = zeroize::Zeroizing::new(reader.read_tar(at.secret.0, at.secret.1, SECRET_LEN_MAX)?);
    let secret = ZoneSecrets::from_json(&secret).map_err(ZoneError::from)?;
    let zone = state.zone.as_ref().ok_or_else(|| bad("it tells of no zone"))?;
    if STANDARD.decode(&zone.owner_sign_public).ok().as_deref() != Some(&owner.public().sign_public()[..]) {
        return Err(bad("it is another owner's"));
    }
    if ZoneKeys::derive(zone.id, secret.clone(), zone.secret_epoch).alias(target) != alias {
        return Err(bad("it belongs to another place"));
    }
    Ok(System { state, secret, time_ms: reader.trailer().created_ms })
}

fn keys_of(system: &System) -> Result<ZoneKeys, RecoverError> {
    let zone = system.state.zone.as_ref().ok_or_else(|| RecoverError::State("it tells of no zone".into()))?;
    Ok(ZoneKeys::derive(zone.id, system.secret.clone(), zone.secret_epoch))
}

/// What a home notes while its files are not all back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    pub format: u32,
    /// Number of the checkpoint that is brought back.
    pub checkpoint: Option<u64>,
    pub begun_ms: u64,
    /// Why the state may not be the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
}

/// Whether a home was brought back and its owner has not said yet that its files are.
pub fn pending(home: &Path) -> Result<Option<Pending>, ZoneError> {
    let path = Home::recovery_in(home);
    if !home.join("zone.redb").exists() {
        // Cut before the state got its name: nothing was brought back.
        return Ok(None);
    }
    match fsx::read_limited(&path, 4096) {
        Ok(bytes) => {
            let bad = || ZoneError::State { what: "the note on its recovery" };
            Ok(Some(serde_json::from_slice(&bytes).map_err(|_| bad())?))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_at("read", &path)(e).into()),
    }
}

/// The files are back: the zone works as any other from now on.
pub fn finish(home: &Path) -> Result<(), ZoneError> {
    let path = Home::recovery_in(home);
    fsx::remove_file(&path).and_then(|()| fsx::sync_dir(home)).map_err(io_at("remove", &path))?;
    Ok(())
}

/// Makes a home of what was found: one new node, certified by the owner, in place of all that are lost.
pub fn take_over(
    dir: &Path,
    found: Found,
    owner: &OwnerKeys,
    keyfile: &OwnerKeyFile,
    from: (TargetId, &Place),
    node_name: &str,
) -> Result<(), RecoverError> {
    let home = Home::create(dir).map_err(ZoneError::from)?;
    clear_unfinished(&home)?;
    let node = NodeId::random();
    let zone = found.state.zone.clone().ok_or_else(|| RecoverError::State("it tells of no zone".into()))?;
    let keys = ZoneKeys::derive(zone.id, found.secret.clone(), zone.secret_epoch);
    let head = found.head.as_ref().zip(found.head_text.as_ref()).map(|(h, text)| head_record(h, text));
    let newest = found.state.complete().last().map(|c| c.seq);
    let doubt = found.doubt();
    let mut state = taken_over(found.state, node, head);
    if let Some(t) = state.targets.get_mut(&from.0) {
        // It may lie elsewhere by now.
        t.url = from.1.url.to_string();
        t.credentials = from.1.credentials.as_ref().map(|c| seal_credentials(&keys, from.0, c));
    }
    let write = |path: &Path, bytes: &[u8]| fsx::write_durably(path, bytes, 0o600).map_err(io_at("write", path));
    let mut store = Store::seed(&home.unfinished_state(), state, node).map_err(ZoneError::from)?;
    write(&home.zone_secret(), &found.secret.to_json()).map_err(ZoneError::from)?;
    write(&home.owner_key(), &keyfile.to_bytes()).map_err(ZoneError::from)?;
    let identity =
        NodeIdentity::create(&home.secrets(), node, zone.secret_epoch, owner.signing_key()).map_err(ZoneError::from)?;
    let generation = zone.generation.saturating_add(1);
    let signature = owner.signing_key().sign(&quorum::message(zone.id, generation, node));
    let add = Command::AddNode {
        node,
        name: node_name.to_owned(),
        public_key: STANDARD.encode(identity.certificate().public_key),
        certificate: STANDARD.encode(identity.certificate().to_bytes()),
    };
    for command in [add, Command::RecoverQuorum { generation, signature: STANDARD.encode(signature) }] {
        store.propose(now_ms(), node, command).map_err(ZoneError::from)?;
    }
    drop(store);
    let note = Pending { format: 1, checkpoint: newest, begun_ms: now_ms(), doubt };
    let note = serde_json::to_vec(&note).map_err(|e| RecoverError::State(e.to_string()))?;
    write(&Home::recovery_in(dir), &note).map_err(ZoneError::from)?;
    fsx::point("recover:before");
    let done = fsx::rename(&home.unfinished_state(), &home.state()).and_then(|()| fsx::sync_dir(dir));
    done.map_err(io_at("finish", &home.state())).map_err(ZoneError::from)?;
    fsx::point("recover:after");
    Ok(())
}

fn head_record(h: &HeadPayload, text: &str) -> Head {
    let payload_hash: Digest = sha256(&[text.as_bytes()]);
    Head {
        n: h.n,
        payload: text.to_owned(),
        payload_hash,
        sector: h.sector,
        checkpoint: h.checkpoint,
        time_ms: h.time_ms,
        handovers: Vec::new(),
    }
}

impl From<SectorReadError> for RecoverError {
    fn from(e: SectorReadError) -> Self {
        Self::Zone(e.into())
    }
}
