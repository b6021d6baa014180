//! An opened zone: home, state, keys and targets. Everything that changes the zone goes through [`Zone::propose`].

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_consensus::Outcome;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::State;
use zoneward_consensus::store::Store;
use zoneward_sectors::catalog::SectorTable;
use zoneward_sectors::crypto::Signer;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{NodeId, TargetId};
use zoneward_sectors::owner::OwnerPublic;
use zoneward_sectors::zonekeys::{ZoneKeys, ZoneSecret};
use zoneward_targets::{Target, TargetError, Url};
use zoneward_transport::identity::NodeIdentity;

use crate::catalogs::Catalogs;
use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::home::{Home, io_at};
use crate::open::{Opener, Targets};

/// A target that could not be opened, and why.
#[derive(Debug)]
pub struct Unreachable {
    pub target: TargetId,
    pub name: String,
    pub error: TargetError,
}

/// A zone, opened by this process.
pub struct Zone {
    pub home: Home,
    store: Store,
    keys: Arc<ZoneKeys>,
    secret: ZoneSecret,
    identity: NodeIdentity,
    owner: OwnerPublic,
    targets: Targets,
    unreachable: Vec<Unreachable>,
    table: SectorTable,
}

impl std::fmt::Debug for Zone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Zone({})", self.home.dir().display())
    }
}

/// A secret file must not be readable by others.
fn read_secret(path: &Path) -> Result<Vec<u8>, ZoneError> {
    use std::os::unix::fs::PermissionsExt;
    let meta = std::fs::metadata(path).map_err(io_at("look at", path))?;
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(ZoneError::Exposed(path.to_owned()));
    }
    Ok(fsx::read_limited(path, 4096).map_err(io_at("read", path))?)
}

impl Zone {
    /// Opens the zone in this home. Targets that cannot be reached are listed, not fatal.
    pub fn open(dir: &Path) -> Result<Self, ZoneError> {
        let home = Home::open(dir)?;
        let store = Store::open(&home.state())?;
        Self::with(home, store)
    }

    pub(crate) fn with(home: Home, store: Store) -> Result<Self, ZoneError> {
        let zone = store.state().zone.as_ref().ok_or(ZoneError::Unfinished)?;
        let bad_key = |what| ZoneError::State { what };
        let spki = STANDARD.decode(&zone.owner_public).map_err(|_| bad_key("the owner's public key"))?;
        let sign = STANDARD.decode(&zone.owner_sign_public).map_err(|_| bad_key("the owner's signing key"))?;
        let sign: [u8; 32] = sign.try_into().map_err(|_| bad_key("the owner's signing key"))?;
        let owner = OwnerPublic::new(&spki, sign).map_err(|_| bad_key("the owner's public key"))?;
        let secret = ZoneSecret::from_json(&read_secret(&home.zone_secret())?)?;
        let keys = Arc::new(ZoneKeys::derive(zone.id, &secret));
        let identity = NodeIdentity::load(&home.secrets(), &sign)?;
        let (mut targets, mut unreachable) = (Targets::new(), Vec::new());
        for t in store.state().targets.values() {
            let opened = Url::parse_or_path(&t.url)
                .map_err(|e| ZoneError::TargetUrl(e.to_string()))
                .and_then(|url| Ok(zoneward_targets::open(&url, Some(t.id))?));
            match opened {
                Ok(target) => {
                    targets.insert(t.id, Arc::from(target));
                }
                Err(ZoneError::Target(error)) => {
                    unreachable.push(Unreachable { target: t.id, name: t.name.clone(), error });
                }
                Err(e) => return Err(e),
            }
        }
        let table = SectorTable::default();
        Ok(Self { home, store, keys, secret, identity, owner, targets, unreachable, table })
    }

    pub fn state(&self) -> &State {
        self.store.state()
    }

    pub fn keys(&self) -> &Arc<ZoneKeys> {
        &self.keys
    }

    pub fn secret(&self) -> &ZoneSecret {
        &self.secret
    }

    pub fn identity(&self) -> &NodeIdentity {
        &self.identity
    }

    pub fn node(&self) -> NodeId {
        self.identity.node()
    }

    pub fn signer(&self) -> &dyn Signer {
        &self.identity
    }

    pub fn owner(&self) -> &OwnerPublic {
        &self.owner
    }

    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    pub fn unreachable(&self) -> &[Unreachable] {
        &self.unreachable
    }

    pub fn target(&self, id: TargetId) -> Option<&Arc<dyn Target>> {
        self.targets.get(&id)
    }

    pub(crate) fn add_target(&mut self, target: Arc<dyn Target>) {
        self.targets.insert(target.id(), target);
    }

    pub fn table(&self) -> &SectorTable {
        &self.table
    }

    /// An opener that knows the copies of this moment.
    pub fn opener(&self) -> Opener {
        let sign = *self.owner.sign_public();
        Opener::new(self.state(), self.targets.clone(), self.keys.clone(), sign, self.table.clone())
    }

    pub fn catalogs<'a>(&'a self, opener: &'a Opener) -> Catalogs<'a> {
        Catalogs { home: &self.home, state: self.state(), opener }
    }

    /// Changes the zone: durable when this returns. A refusal is an error that says why.
    pub fn propose(&mut self, command: Command) -> Result<Outcome, ZoneError> {
        let node = self.identity.node();
        Ok(self.store.propose(now_ms(), node, command)?)
    }
}

/// The store of a new zone: it gets its name when the zone is complete.
pub(crate) fn create_store(home: &Home) -> Result<Store, ZoneError> {
    Ok(Store::create(&home.unfinished_state())?)
}
