//! Making a zone: keys, state, first targets.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_consensus::command::Command;
use zoneward_consensus::heads::Vouched;
use zoneward_consensus::quorum;
use zoneward_sectors::crypto::Signer as _;
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{NodeId, TargetId, ZoneId};
use zoneward_sectors::keyfile::{OwnerKeyFile, Words};
use zoneward_sectors::owner::{OwnerKeys, RsaSize};
use zoneward_sectors::zonekeys::{ZoneKeys, ZoneSecret, ZoneSecrets};
use zoneward_targets::{Credentials, Existing, ObjectName, Target, TargetError, Url};
use zoneward_transport::identity::NodeIdentity;

use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::home::{Home, io_at};
use crate::zone::{Zone, create_store, open_credentials, seal_credentials};

/// Where a target is, and what opens it.
#[derive(Clone, Debug)]
pub struct Place {
    pub url: Url,
    /// None for a directory.
    pub credentials: Option<Credentials>,
}

/// What a new zone is to be.
#[derive(Clone, Debug)]
pub struct NewZone {
    pub name: String,
    pub node_name: String,
    pub targets: Vec<Place>,
    pub sector_min_log2: u8,
    pub zstd_level: i32,
    pub rsa: RsaSize,
    pub passphrase_on_targets: bool,
}

/// Makes a zone in a home. Targets are tried first, so that a wrong URL leaves no half-made zone. `keep_words` runs before
/// the zone counts as made: there is no zone whose words nobody kept.
pub fn init<E: From<ZoneError>>(
    home_dir: &Path,
    new: &NewZone,
    passphrase: &str,
    keep_words: impl FnOnce(&Zone, &Words) -> Result<(), E>,
) -> Result<Zone, E> {
    let (zone, words) = prepare(home_dir, new, passphrase)?;
    keep_words(&zone, &words)?;
    fsx::point("init:before");
    let (from, to) = (zone.home.unfinished_state(), zone.home.state());
    let finished = fsx::rename(&from, &to).and_then(|()| fsx::sync_dir(zone.home.dir()));
    finished.map_err(io_at("finish", &to)).map_err(ZoneError::from)?;
    fsx::point("init:after");
    Ok(zone)
}

/// All of a zone but the step that makes it one.
fn prepare(home_dir: &Path, new: &NewZone, passphrase: &str) -> Result<(Zone, Words), ZoneError> {
    let home = Home::create(home_dir)?;
    clear_unfinished(&home)?;
    let mut targets: Vec<(&Place, Arc<dyn Target>)> = Vec::new();
    for place in &new.targets {
        targets.push((place, create_target(place, false)?));
    }
    let zone_id = ZoneId::random();
    let owner = OwnerKeys::generate(new.rsa).map_err(|_| ZoneError::State { what: "no owner key could be made" })?;
    let words = Words::generate();
    let keyfile = OwnerKeyFile::seal(&owner, &words, Some(passphrase)).map_err(|e| ZoneError::Sector(e.to_string()))?;
    let secret = ZoneSecrets::from(ZoneSecret::generate(1));
    let write = |path: &Path, bytes: &[u8]| fsx::write_durably(path, bytes, 0o600).map_err(io_at("write", path));
    // First: while it is there and not renamed, the keys beside it were never used.
    let mut store = create_store(&home)?;
    write(&home.zone_secret(), &secret.to_json())?;
    write(&home.owner_key(), &keyfile.to_bytes())?;
    let node = NodeId::random();
    let identity = NodeIdentity::create(&home.secrets(), node, 1, owner.signing_key())?;
    let public = owner.public();
    store.propose(
        now_ms(),
        node,
        Command::CreateZone {
            zone: zone_id,
            name: new.name.clone(),
            owner_fingerprint: public.fingerprint(),
            owner_public: STANDARD.encode(public.rsa_spki_der()),
            owner_sign_public: STANDARD.encode(public.sign_public()),
            sector_min_log2: new.sector_min_log2,
            sector_max_log2: 36,
            zstd_level: new.zstd_level,
            secret_epoch: 1,
        },
    )?;
    store.propose(
        now_ms(),
        node,
        Command::AddNode {
            node,
            name: new.node_name.clone(),
            public_key: STANDARD.encode(identity.certificate().public_key),
            certificate: STANDARD.encode(identity.certificate().to_bytes()),
        },
    )?;
    let word = owner.signing_key().sign(&quorum::message(zone_id, 0, node));
    let word = Vouched { generation: 0, node, signature: STANDARD.encode(word) };
    store.propose(now_ms(), node, Command::Vouch { word })?;
    let mut zone = Zone::with(home, store)?;
    let keys = ZoneKeys::derive(zone_id, secret, 1);
    for (i, (place, target)) in targets.into_iter().enumerate() {
        let name = if i == 0 { "first".to_owned() } else { format!("target-{}", i + 1) };
        record_target(&mut zone, &keys, &name, place, None, target)?;
    }
    put_owner_key(&mut zone, &keyfile, new.passphrase_on_targets)?;
    Ok((zone, words))
}

/// Makes a target. One that was made before and never used, as a cut `init` leaves it, is taken as it is.
pub(crate) fn create_target(place: &Place, shared: bool) -> Result<Arc<dyn Target>, ZoneError> {
    let Place { url, credentials } = place;
    match zoneward_targets::create(url, TargetId::random(), Existing::Refuse, credentials.as_ref()) {
        Ok(t) => Ok(Arc::from(t)),
        Err(refused) => match zoneward_targets::open(url, None, credentials.as_ref()) {
            Ok(t) if shared || never_used(t.as_ref()).is_ok_and(|never| never) => Ok(Arc::from(t)),
            _ => Err(refused.into()),
        },
    }
}

/// Whether no zone has stored anything on a target: an `init` that was cut may have left an owner's sealed key there.
fn never_used(target: &dyn Target) -> Result<bool, TargetError> {
    for alias in target.list_zones()? {
        let head = target.get_object(alias, ObjectName::Pointer, 1 << 20);
        if !head.is_err_and(|e| e.is_not_found()) || !target.list(alias)?.sectors.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What an interrupted `init` left: nothing in it was ever used.
pub(crate) fn clear_unfinished(home: &Home) -> Result<(), ZoneError> {
    let exists = |path: &Path| path.try_exists().map_err(io_at("look for", path));
    let keys = [home.zone_secret(), home.owner_key(), home.secrets().join("node-identity")];
    if !exists(&home.unfinished_state())? {
        // `init` makes the state first: these keys are those of a zone that was used.
        for path in &keys {
            if exists(path)? {
                return Err(ZoneError::KeysWithoutState(path.clone()));
            }
        }
    }
    for path in keys.into_iter().chain([home.unfinished_state()]) {
        fsx::remove_file(&path).map_err(io_at("remove", &path))?;
    }
    Ok(())
}

fn record_target(
    zone: &mut Zone,
    keys: &ZoneKeys,
    name: &str,
    place: &Place,
    domain: Option<String>,
    target: Arc<dyn Target>,
) -> Result<(), ZoneError> {
    let id = target.id();
    zone.propose(Command::AddTarget {
        target: id,
        name: name.to_owned(),
        url: place.url.to_string(),
        alias: keys.alias(id),
        domain,
        credentials: place.credentials.as_ref().map(|c| seal_credentials(keys, id, c)),
    })?;
    zone.add_target(target);
    Ok(())
}

/// Adds a target to a living zone: it gets the owner's sealed key at once, sectors with the next backup. One that other
/// zones use already is taken only if it is to be `shared`: each has a folder of its own there.
pub fn add_target(
    zone: &mut Zone,
    place: &Place,
    name: &str,
    domain: Option<String>,
    shared: bool,
) -> Result<TargetId, ZoneError> {
    let target = create_target(place, shared)?;
    let id = target.id();
    let keys = zone.keys().clone();
    record_target(zone, &keys, name, place, domain, target)?;
    let path = zone.home.owner_key();
    let bytes = fsx::read_limited(&path, 1 << 16).map_err(io_at("read", &path))?;
    let keyfile = OwnerKeyFile::from_bytes(&bytes).map_err(|e| ZoneError::Sector(e.to_string()))?;
    put_owner_key(zone, &keyfile, false)?;
    Ok(id)
}

/// Gives a target other credentials, after it was opened with them.
pub fn set_credentials(zone: &mut Zone, id: TargetId, credentials: &Credentials) -> Result<(), ZoneError> {
    let known = zone.state().targets.get(&id).ok_or_else(|| ZoneError::NoTarget("the zone does not know it".into()))?;
    let url = Url::parse_or_path(&known.url).map_err(|e| ZoneError::TargetUrl(e.to_string()))?;
    let target = zoneward_targets::open(&url, Some(id), Some(credentials))?;
    let credentials = seal_credentials(zone.keys(), id, credentials);
    zone.propose(Command::SetCredentials { target: id, credentials })?;
    zone.add_target(Arc::from(target));
    Ok(())
}

/// What opens a target; `None` if it needs nothing.
pub fn credentials_of(zone: &Zone, id: TargetId) -> Result<Option<Credentials>, ZoneError> {
    let known = zone.state().targets.get(&id).ok_or_else(|| ZoneError::NoTarget("the zone does not know it".into()))?;
    known.credentials.as_ref().map(|sealed| open_credentials(zone.keys(), id, sealed)).transpose()
}

/// What is to be changed of a target.
#[derive(Debug, Default)]
pub struct Edit {
    pub name: Option<String>,
    pub url: Option<Url>,
    /// Those at the new URL; the known ones if not given.
    pub credentials: Option<Credentials>,
    /// An empty one takes the domain away.
    pub domain: Option<String>,
    pub leaving: Option<bool>,
}

/// Changes a target. At a new URL it is opened first: something else there is refused.
pub fn edit_target(zone: &mut Zone, id: TargetId, edit: Edit) -> Result<(), ZoneError> {
    let known = zone.state().targets.get(&id).ok_or_else(|| ZoneError::NoTarget("the zone does not know it".into()))?;
    let old = Url::parse_or_path(&known.url).map_err(|e| ZoneError::TargetUrl(e.to_string()))?;
    let credentials = match (&edit.credentials, &known.credentials) {
        (Some(c), _) => Some(c.clone()),
        (None, Some(sealed)) => Some(open_credentials(zone.keys(), id, sealed)?),
        (None, None) => None,
    };
    let moved = edit.url.as_ref().is_some_and(|url| *url != old);
    let opened = (moved || edit.credentials.is_some())
        .then(|| zoneward_targets::open(edit.url.as_ref().unwrap_or(&old), Some(id), credentials.as_ref()))
        .transpose()?;
    let Edit { name, url, credentials: new, domain, leaving } = edit;
    // What may be refused comes first.
    let url = url.map(|u| u.to_string());
    zone.propose(Command::EditTarget { target: id, name, url, domain, leaving })?;
    if let Some(c) = new {
        let credentials = seal_credentials(zone.keys(), id, &c);
        zone.propose(Command::SetCredentials { target: id, credentials })?;
    }
    opened.into_iter().for_each(|t| zone.add_target(Arc::from(t)));
    Ok(())
}

/// Puts the owner's sealed key on every target that can be reached.
pub fn put_owner_key(zone: &mut Zone, keyfile: &OwnerKeyFile, with_passphrase: bool) -> Result<(), ZoneError> {
    let bytes = if with_passphrase { keyfile.to_bytes() } else { keyfile.without_passphrase().to_bytes() };
    let hash = sha256(&[&bytes]);
    let targets: Vec<_> = zone.targets().iter().map(|(id, t)| (*id, t.clone())).collect();
    let mut refused = None;
    for (id, target) in targets {
        let put = target.put_object(zone.keys().alias(id), ObjectName::OwnerKey, &bytes);
        refused = refused.or(put.err());
        // What it should hold, also if it does not: a check names it, and the next backup puts it there.
        zone.propose(Command::SetTarget { target: id, paused: None, owner_key_hash: Some(hash) })?;
    }
    refused.map_or(Ok(()), |e| Err(e.into()))
}

/// Puts the owner's sealed key that each target holds onto it once more: one that takes nothing now shows itself before
/// anything is changed.
pub fn try_owner_key(zone: &Zone) -> Result<(), ZoneError> {
    for (id, target) in zone.targets() {
        let alias = zone.keys().alias(*id);
        match target.get_object(alias, ObjectName::OwnerKey, 1 << 16) {
            Ok(bytes) => target.put_object(alias, ObjectName::OwnerKey, &bytes)?,
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
