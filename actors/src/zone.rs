//! An opened zone: home, state, keys and targets. Everything that changes the zone goes through [`Zone::propose`].
//!
//! The state is either this process's own store, when no daemon serves the home, or that of an [`Authority`]: the cluster
//! that this process is a node of, or the daemon that serves the home. What works on the zone does not see the difference.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{Head, State};
use zoneward_consensus::store::Store;
use zoneward_sectors::catalog::SectorTable;
use zoneward_sectors::crypto::Signer;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{NodeId, TargetId};
use zoneward_sectors::owner::{OwnerKeys, OwnerPublic};
use zoneward_sectors::zonekeys::{FILE_LEN_MAX, ZoneKeys, ZoneSecrets};
use zoneward_targets::{Credentials, Target, TargetError, Url};
use zoneward_transport::identity::NodeIdentity;

use crate::catalogs::Catalogs;
use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::freshness::Published;
use crate::home::{Home, io_at};
use crate::open::{Opener, Targets};
use crate::pace::Pace;

/// A target that could not be opened, and why.
#[derive(Debug)]
pub struct Unreachable {
    pub target: TargetId,
    pub name: String,
    pub error: TargetError,
}

/// Who keeps the state, when it is not this process alone.
pub trait Authority: Send + Sync {
    /// The state as it was last heard of.
    fn view(&self) -> Arc<State>;

    /// Brings a command through. What comes back has the command in it. Waits as long as there is no majority: what was
    /// done under a lease counts when it returns, unless the lease has ended.
    fn propose(&self, command: Command) -> Result<Arc<State>, ZoneError>;

    /// Who votes in the zone; none: this is not the one to know.
    fn voters(&self) -> Option<BTreeSet<NodeId>> {
        None
    }

    /// Signatures of the newest head by those of these nodes who answer and know it; base64.
    fn cosigned(&self, _: &[NodeId], _: &Head) -> Vec<(NodeId, String)> {
        Vec::new()
    }
}

enum Truth {
    Alone(Box<Store>),
    Shared {
        authority: Arc<dyn Authority>,
        state: Arc<State>,
        /// The lease under which this handle works.
        epoch: Option<u64>,
    },
}

/// A zone, opened by this process.
pub struct Zone {
    pub home: Arc<Home>,
    truth: Truth,
    keys: Arc<ZoneKeys>,
    identity: Arc<NodeIdentity>,
    owner: Arc<OwnerPublic>,
    pace: Arc<Pace>,
    targets: Targets,
    unreachable: Arc<Vec<Unreachable>>,
    table: SectorTable,
    left_behind: Option<Published>,
    /// The owner's private keys, where a person gave them for this once.
    owner_keys: Option<Arc<OwnerKeys>>,
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
    Ok(fsx::read_limited(path, FILE_LEN_MAX as u64).map_err(io_at("read", path))?)
}

impl Zone {
    /// Opens the zone in this home. Targets that cannot be reached are listed, not fatal.
    pub fn open(dir: &Path) -> Result<Self, ZoneError> {
        let home = Home::open(dir)?;
        let store = Store::open(&home.state())?;
        Self::with(home, store)
    }

    pub(crate) fn with(home: Home, store: Store) -> Result<Self, ZoneError> {
        Self::build(Arc::new(home), Truth::Alone(Box::new(store)))
    }

    /// The zone of a home whose state somebody else keeps.
    pub fn shared(home: Arc<Home>, authority: Arc<dyn Authority>) -> Result<Self, ZoneError> {
        let state = authority.view();
        Self::build(home, Truth::Shared { authority, state, epoch: None })
    }

    fn build(home: Arc<Home>, truth: Truth) -> Result<Self, ZoneError> {
        let state = match &truth {
            Truth::Alone(store) => store.state(),
            Truth::Shared { state, .. } => state,
        };
        let ZoneParts { home, keys, identity, owner, pace, table } = ZoneParts::of(home, state)?;
        let (targets, unreachable) = open_targets(state, &keys)?;
        let unreachable = Arc::new(unreachable);
        let left_behind = None;
        let owner_keys = None;
        Ok(Self { home, truth, keys, identity, owner, pace, targets, unreachable, table, left_behind, owner_keys })
    }

    pub fn state(&self) -> &State {
        match &self.truth {
            Truth::Alone(store) => store.state(),
            Truth::Shared { state, .. } => state,
        }
    }

    /// Looks at the state as it is now: another node may have changed it.
    pub fn refresh(&mut self) {
        if let Truth::Shared { authority, state, .. } = &mut self.truth {
            *state = authority.view();
        }
    }

    /// The state of this moment, where others change it too.
    pub(crate) fn others_state(&self) -> Option<Arc<State>> {
        match &self.truth {
            Truth::Alone(_) => None,
            Truth::Shared { authority, .. } => Some(authority.view()),
        }
    }

    /// True if others work on the zone too.
    pub fn is_shared(&self) -> bool {
        matches!(self.truth, Truth::Shared { .. })
    }

    /// Who votes: this node alone, if nobody else keeps the state.
    pub(crate) fn voters(&self) -> BTreeSet<NodeId> {
        let known = match &self.truth {
            Truth::Alone(_) => None,
            Truth::Shared { authority, .. } => authority.voters(),
        };
        known.unwrap_or_else(|| BTreeSet::from([self.node()]))
    }

    /// Signatures of the newest head by other nodes.
    pub(crate) fn cosigned(&self, nodes: &[NodeId], head: &Head) -> Vec<(NodeId, String)> {
        match &self.truth {
            Truth::Shared { authority, .. } if !nodes.is_empty() => authority.cosigned(nodes, head),
            _ => Vec::new(),
        }
    }

    /// The lease under which this handle works: its number rises with each holder.
    pub(crate) fn turn(&self) -> Option<u64> {
        match &self.truth {
            Truth::Alone(_) => None,
            Truth::Shared { epoch, .. } => *epoch,
        }
    }

    pub fn keys(&self) -> &Arc<ZoneKeys> {
        &self.keys
    }

    pub fn identity(&self) -> &Arc<NodeIdentity> {
        &self.identity
    }

    pub fn node(&self) -> NodeId {
        self.identity.node()
    }

    pub fn signer(&self) -> &dyn Signer {
        &*self.identity
    }

    pub fn owner(&self) -> &OwnerPublic {
        &self.owner
    }

    /// How fast may be sent.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    pub fn unreachable(&self) -> &[Unreachable] {
        &self.unreachable
    }

    /// The newest head that the owner left behind with the home that knew it.
    pub(crate) fn left_behind(&self) -> Option<Published> {
        self.left_behind
    }

    pub(crate) fn leave_behind(&mut self, head: Published) {
        if self.left_behind.is_none_or(|l| l.n < head.n) {
            self.left_behind = Some(head);
        }
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
        let (sign, owner) = (*self.owner.sign_public(), self.owner_keys.clone());
        let (home, keys) = (self.home.clone(), self.keys.clone());
        Opener::new(self.state(), self.targets.clone(), home, keys, sign, owner, self.table.clone())
    }

    /// From now on this handle reads what only the owner can.
    pub fn use_owner_keys(&mut self, keys: OwnerKeys) {
        self.owner_keys = Some(Arc::new(keys));
    }

    pub fn has_owner_keys(&self) -> bool {
        self.owner_keys.is_some()
    }

    pub(crate) fn owner_keys(&self) -> Option<Arc<OwnerKeys>> {
        self.owner_keys.clone()
    }

    pub fn catalogs<'a>(&'a self, opener: &'a Opener) -> Catalogs<'a> {
        Catalogs { home: &self.home, state: self.state(), opener }
    }

    /// Makes this node the zone's only one, as the owner signed. Nobody else may serve the home.
    pub fn recover_quorum(&mut self, command: Command) -> Result<(), ZoneError> {
        match &mut self.truth {
            Truth::Alone(store) => {
                zoneward_consensus::quorum::recover(store, now_ms(), self.identity.node(), command)?;
                Ok(())
            }
            Truth::Shared { .. } => Err(ZoneError::Served),
        }
    }

    /// Changes the zone: durable when this returns. A refusal is an error that says why.
    pub fn propose(&mut self, command: Command) -> Result<(), ZoneError> {
        match &mut self.truth {
            Truth::Alone(store) => {
                store.propose(now_ms(), self.identity.node(), command)?;
            }
            Truth::Shared { authority, state, epoch } => {
                let command = match *epoch {
                    Some(epoch) => Command::Under { epoch, command: Box::new(command) },
                    None => command,
                };
                *state = authority.propose(command)?;
            }
        }
        Ok(())
    }
}

/// Opens the targets of a state.
fn open_targets(state: &State, keys: &ZoneKeys) -> Result<(Targets, Vec<Unreachable>), ZoneError> {
    let (mut targets, mut unreachable) = (Targets::new(), Vec::new());
    for t in state.targets.values() {
        match open_target(t, keys) {
            Ok(target) => {
                targets.insert(t.id, target);
            }
            Err(ZoneError::Target(error)) => {
                unreachable.push(Unreachable { target: t.id, name: t.name.clone(), error });
            }
            Err(e) => return Err(e),
        }
    }
    Ok((targets, unreachable))
}

/// Opens a target, if what lies there is that target.
pub(crate) fn open_target(
    t: &zoneward_consensus::model::Target,
    keys: &ZoneKeys,
) -> Result<Arc<dyn Target>, ZoneError> {
    let url = Url::parse_or_path(&t.url).map_err(|e| ZoneError::TargetUrl(e.to_string()))?;
    let credentials = match &t.credentials {
        Some(sealed) => Some(open_credentials(keys, t.id, sealed)?),
        None => None,
    };
    Ok(Arc::from(zoneward_targets::open(&url, Some(t.id), credentials.as_ref())?))
}

/// Seals a target's credentials for the zone's state.
pub(crate) fn seal_credentials(keys: &ZoneKeys, target: TargetId, credentials: &Credentials) -> String {
    STANDARD.encode(keys.seal_credentials(target, &credentials.to_json()))
}

pub(crate) fn open_credentials(keys: &ZoneKeys, target: TargetId, sealed: &str) -> Result<Credentials, ZoneError> {
    let bad = ZoneError::State { what: "the credentials of a target" };
    let Ok(sealed) = STANDARD.decode(sealed) else { return Err(bad) };
    match keys.open_credentials(target, &sealed) {
        Ok(plain) => Credentials::from_json(&plain).map_err(|_| bad),
        Err(_) => Err(bad),
    }
}

/// The owner's public keys, as the zone knows them now.
fn owner_of(zone: &zoneward_consensus::model::Zone) -> Result<OwnerPublic, ZoneError> {
    let bad_key = |what| ZoneError::State { what };
    let spki = STANDARD.decode(&zone.owner_public).map_err(|_| bad_key("the owner's public key"))?;
    let sign = STANDARD.decode(&zone.owner_sign_public).map_err(|_| bad_key("the owner's signing key"))?;
    let sign: [u8; 32] = sign.try_into().map_err(|_| bad_key("the owner's signing key"))?;
    OwnerPublic::new(&spki, sign).map_err(|_| bad_key("the owner's public key"))
}

/// What every handle on a zone shares.
#[derive(Clone)]
pub struct ZoneParts {
    pub home: Arc<Home>,
    pub(crate) keys: Arc<ZoneKeys>,
    pub identity: Arc<NodeIdentity>,
    owner: Arc<OwnerPublic>,
    pub pace: Arc<Pace>,
    table: SectorTable,
}

impl ZoneParts {
    /// Of a home whose zone is in this state.
    pub fn of(home: Arc<Home>, state: &State) -> Result<Self, ZoneError> {
        let zone = state.zone.as_ref().ok_or(ZoneError::Unfinished)?;
        let owner = owner_of(zone)?;
        let sign = *owner.sign_public();
        let witness = |n: &zoneward_consensus::model::Node| n.standing == zoneward_consensus::model::Standing::Witness;
        let identity = NodeIdentity::load(&home.secrets(), &sign)?;
        if state.nodes.get(&identity.node()).is_some_and(witness) {
            return Err(ZoneError::Witness);
        }
        let identity = Arc::new(identity);
        let secrets = ZoneSecrets::from_json(&read_secret(&home.zone_secret())?)?;
        let keys = Arc::new(ZoneKeys::derive(zone.id, secrets, zone.secret_epoch));
        let (owner, table) = (Arc::new(owner), SectorTable::default());
        let pace = Arc::new(Pace::default());
        pace.set(&state.policy);
        Ok(Self { home, keys, identity, owner, pace, table })
    }

    /// A handle that works under a lease, or under none, with these targets.
    pub fn handle(
        &self,
        authority: Arc<dyn Authority>,
        epoch: Option<u64>,
        targets: Targets,
    ) -> Result<Zone, ZoneError> {
        let state = authority.view();
        // The owner may have changed the keys since this node began.
        let owner = match state.zone.as_ref().filter(|z| z.owner_fingerprint != self.owner.fingerprint()) {
            Some(zone) => Arc::new(owner_of(zone)?),
            None => self.owner.clone(),
        };
        Ok(Zone {
            home: self.home.clone(),
            truth: Truth::Shared { authority, state, epoch },
            left_behind: None,
            owner_keys: None,
            keys: self.keys.clone(),
            identity: self.identity.clone(),
            owner,
            pace: self.pace.clone(),
            targets,
            unreachable: Arc::default(),
            table: self.table.clone(),
        })
    }

    /// The owner's public keys.
    pub fn owner(&self) -> &OwnerPublic {
        &self.owner
    }
}

/// The store of a new zone: it gets its name when the zone is complete.
pub(crate) fn create_store(home: &Home) -> Result<Store, ZoneError> {
    Ok(Store::create(&home.unfinished_state())?)
}
