//! Joining a zone: what the member that lets a node in does, and what the node does.
//!
//! The owner's signing key certifies every node, and never enters a daemon: the person who invites stays with it until
//! the node has come, sees its certificate request on the [`Desk`], and signs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zoneward_consensus::command::Command;
use zoneward_consensus::raft::Peer;
use zoneward_consensus::store::Store;
use zoneward_sectors::cert::NodeCertificate;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{NodeId, ZoneId};
use zoneward_sectors::keyfile::OwnerKeyFile;
use zoneward_sectors::zonekeys::ZoneSecrets;
use zoneward_transport::identity::{NewNode, NodeIdentity};
use zoneward_transport::wire::Retry;
use zoneward_transport::{Boxed, Invite, JoinError, JoinHost, Joiner, Refusal, TokenHash};

use crate::cluster::CommandError;
use crate::errors::ZoneError;
use crate::home::{Home, io_at};
use crate::node::Node;
use crate::serve::{MemberChange, alive, change_members};
use crate::zone::Authority;

/// How long a joiner waits for the owner's signature, ms: less than it waits for an answer.
const SIGN_MS: u64 = 20_000;
/// Bytes of what is kept of the introduction.
const INTRODUCTION_LEN_MAX: u64 = 1 << 20;

/// What a joiner is handed.
#[derive(Serialize, Deserialize)]
struct Payload {
    introduction: Introduction,
    certificate: String,
    /// What a witness is not given.
    keys: Option<Keys>,
}

#[derive(Serialize, Deserialize)]
struct Keys {
    /// Base64 of the zone's secret, as it lies in a home.
    zone_secret: String,
    /// Base64 of the owner's sealed keys.
    owner_key: String,
}

/// Whom a new node knows before the zone's state has reached it. Nothing in it is secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Introduction {
    pub zone: ZoneId,
    pub name: String,
    /// Base64 of the owner's signing key.
    pub owner_sign_public: String,
    pub members: BTreeMap<NodeId, Peer>,
}

impl Introduction {
    /// Of a home that joined; `None` for one whose zone was made in it.
    pub fn read(dir: &Path) -> Result<Option<Self>, ZoneError> {
        let path = dir.join(FILE);
        match fsx::read_limited(&path, INTRODUCTION_LEN_MAX) {
            Ok(bytes) => {
                let parsed = serde_json::from_slice(&bytes).map_err(std::io::Error::other);
                Ok(Some(parsed.map_err(io_at("understand", &path))?))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_at("read", &path)(e).into()),
        }
    }

    /// The owner's signing key.
    pub fn owner(&self) -> Result<[u8; 32], ZoneError> {
        let bytes = STANDARD.decode(&self.owner_sign_public).ok();
        bytes.and_then(|b| b.try_into().ok()).ok_or(ZoneError::State { what: "the introduction of this node" })
    }
}

/// What is kept of the introduction.
const FILE: &str = "introduction.json";

/// What an invite waits for, as the person who let it out sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Waiting {
    /// Nobody has come yet.
    Joiner,
    /// A node proved the invite's secret and asks for a certificate.
    Signature {
        node: NodeId,
        public_key: String,
        from: String,
    },
    /// It is signed; the zone takes it in.
    Admission {
        node: NodeId,
    },
    /// It belongs to the zone.
    Joined {
        node: NodeId,
    },
    Failed {
        why: String,
    },
}

/// The invites that were let out on this node.
#[derive(Debug, Default)]
pub struct Desk(Mutex<BTreeMap<TokenHash, Slot>>);

#[derive(Debug)]
struct Slot {
    waiting: Waiting,
    signed: watch::Sender<Option<String>>,
}

impl Desk {
    fn with<T>(&self, token: &TokenHash, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let mut slots = self.0.lock().unwrap_or_else(|e| e.into_inner());
        slots.get_mut(token).map(change)
    }

    fn set(&self, token: &TokenHash, waiting: Waiting) {
        self.with(token, |s| s.waiting = waiting);
    }

    /// What an invite waits for; `None` if it is not of this desk.
    pub fn look(&self, token: &TokenHash) -> Option<Waiting> {
        self.with(token, |s| s.waiting.clone())
    }

    /// Hands in the certificate that a joiner waits for. `false`: none does.
    pub fn sign(&self, token: &TokenHash, certificate: String) -> bool {
        let signed = self.with(token, |s| match s.waiting {
            Waiting::Signature { .. } => s.signed.send_replace(Some(certificate)).is_none(),
            _ => false,
        });
        signed == Some(true)
    }

    fn close(&self, token: &TokenHash) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).remove(token);
    }
}

/// Lets somebody join through this node.
pub fn open_invite(node: &Arc<Node>, invite: &Invite, name: Option<String>) -> Result<(), ZoneError> {
    let token = invite.token_hash();
    let witness = invite.role == zoneward_transport::Role::Witness;
    let expires_ms = invite.expires_unix.saturating_mul(1000);
    node.propose(Command::OpenInvite { token, expires_ms, witness, name })?;
    let slot = Slot { waiting: Waiting::Joiner, signed: watch::Sender::new(None) };
    node.desk.0.lock().unwrap_or_else(|e| e.into_inner()).insert(token, slot);
    let host = Arc::new(Host(Arc::downgrade(node)));
    node.cluster.endpoint().open_invite(invite, host).map_err(|e| ZoneError::Sector(e.to_string()))
}

/// Takes an invite back.
pub fn close_invite(node: &Arc<Node>, token: &TokenHash) -> Result<(), ZoneError> {
    node.cluster.endpoint().close_invite(token);
    node.desk.close(token);
    match node.propose(Command::CloseInvite { token: *token }) {
        Ok(_) => Ok(()),
        Err(ZoneError::Command(CommandError::Refused { code, .. })) if code == "unknown" => Ok(()),
        Err(e) => Err(e),
    }
}

struct Host(Weak<Node>);

impl Host {
    fn node(&self) -> Result<Arc<Node>, Refusal> {
        alive(&self.0)
    }

    async fn admit(&self, token: TokenHash, joiner: Joiner) -> Result<(), Refusal> {
        let node = self.node()?;
        let operator = |text: String| Refusal::new(Retry::Operator, text);
        let public_key = STANDARD.encode(joiner.key);
        let view = node.cluster.view();
        let known = view.nodes.get(&joiner.node).filter(|n| n.public_key == public_key);
        let certificate = match known {
            // It was taken in before and its connection broke.
            Some(n) => n.certificate.clone(),
            None => signature(&node, &token, joiner, &public_key).await?,
        };
        let owner = view.zone.as_ref().and_then(|z| STANDARD.decode(&z.owner_sign_public).ok());
        let owner: [u8; 32] = owner
            .and_then(|o| o.try_into().ok())
            .ok_or_else(|| operator("the owner's signing key is not known here".into()))?;
        let parsed = STANDARD.decode(&certificate).ok().and_then(|b| NodeCertificate::parse(&b).ok());
        let fits =
            |c: &NodeCertificate| c.verify(&owner).is_ok() && (c.node, c.public_key) == (joiner.node, joiner.key);
        if !parsed.as_ref().is_some_and(fits) {
            return Err(operator("the certificate that was signed is not for this node".into()));
        }
        node.desk.set(&token, Waiting::Admission { node: joiner.node });
        let work = node.clone();
        let done = tokio::task::spawn_blocking(move || -> Result<(), ZoneError> {
            let (id, key) = (joiner.node, public_key);
            work.propose(Command::UseInvite { token, node: id, public_key: key.clone(), certificate })?;
            change_members(&work, &MemberChange::Add { node: id, public_key: key })
        });
        let done = done.await.map_err(|e| operator(e.to_string()))?;
        done.map_err(|e| operator(crate::open::chain(&e)))?;
        node.desk.set(&token, Waiting::Joined { node: joiner.node });
        Ok(())
    }
}

/// Waits until the person who invites has signed.
async fn signature(node: &Node, token: &TokenHash, joiner: Joiner, public_key: &str) -> Result<String, Refusal> {
    let waiting =
        Waiting::Signature { node: joiner.node, public_key: public_key.to_owned(), from: joiner.from.to_string() };
    let slot = node.desk.with(token, |s| {
        s.waiting = waiting;
        s.signed.send_replace(None);
        s.signed.subscribe()
    });
    let gone = || Refusal::new(Retry::Operator, "who invited you is no longer there: ask for a new invite");
    let mut signed = slot.ok_or_else(gone)?;
    let wait = Duration::from_millis(SIGN_MS);
    match tokio::time::timeout(wait, signed.wait_for(Option::is_some)).await {
        Ok(Ok(text)) => text.clone().ok_or_else(gone),
        _ => {
            node.desk.set(token, Waiting::Joiner);
            Err(Refusal::new(
                Retry::Operator,
                "nobody signed in time: is the command that made the invite still running?",
            ))
        }
    }
}

impl JoinHost for Host {
    fn consume(&self, token: TokenHash, joiner: Joiner) -> Boxed<'_, Result<(), Refusal>> {
        Box::pin(async move {
            let done = self.admit(token, joiner).await;
            if let (Err(e), Ok(node)) = (&done, self.node()) {
                node.desk.set(&token, Waiting::Failed { why: e.text.clone() });
            }
            done
        })
    }

    fn payload(&self, joiner: Joiner) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            let node = self.node()?;
            let failed = |what: &str| Refusal::new(Retry::Later, format!("{what}: see this member's log"));
            let state = node.cluster.applied_node(joiner.node).await.map_err(|e| failed(&e.to_string()))?;
            let zone = state.zone.as_ref().ok_or_else(|| failed("the zone is unknown"))?;
            let record = state.nodes.get(&joiner.node).ok_or_else(|| failed("the node is unknown"))?;
            let keys = match joiner.role {
                zoneward_transport::Role::Witness => None,
                zoneward_transport::Role::Full => {
                    let parts = node.parts.as_ref().ok_or_else(|| failed("a witness has no keys to hand over"))?;
                    let owner_key = fsx::read_limited(&parts.home.owner_key(), 1 << 16);
                    let owner_key = owner_key.map_err(|_| failed("the owner's key cannot be read"))?;
                    let zone_secret = STANDARD.encode(parts.keys.secrets().to_json());
                    Some(Keys { zone_secret, owner_key: STANDARD.encode(owner_key) })
                }
            };
            let members = node.cluster.members().into_iter().filter(|(id, _)| *id != joiner.node).collect();
            let payload = Payload {
                introduction: Introduction {
                    zone: zone.id,
                    name: zone.name.clone(),
                    owner_sign_public: zone.owner_sign_public.clone(),
                    members,
                },
                certificate: record.certificate.clone(),
                keys,
            };
            serde_json::to_vec(&payload).map_err(|_| failed("the introduction cannot be written"))
        })
    }
}

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailed {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("what the member handed over cannot be used: {0}")]
    Payload(String),
    #[error(transparent)]
    Zone(#[from] ZoneError),
    #[error("the threads that join could not be started")]
    Threads(#[source] std::io::Error),
}

impl From<crate::home::HomeError> for JoinFailed {
    fn from(e: crate::home::HomeError) -> Self {
        Self::Zone(e.into())
    }
}

/// What a node came into.
#[derive(Debug)]
pub struct Joined {
    pub node: NodeId,
    pub introduction: Introduction,
}

/// Joins a zone: this home becomes that of a new node. What was cut before the end left nothing that counts: the same
/// invite lets nobody else in, so then a new one is needed.
pub fn join(dir: &Path, invite: &Invite) -> Result<Joined, JoinFailed> {
    let home = Home::create(dir)?;
    let bad = |what: &str| JoinFailed::Payload(what.to_owned());
    let (id, file) = (NodeId::random(), home.unfinished_state());
    for left in [&file, &home.zone_secret(), &home.owner_key(), &home.secrets().join("node-identity")] {
        fsx::remove_file(left).map_err(io_at("remove", left))?;
    }
    let node = Arc::new(NewNode::random(id));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(JoinFailed::Threads)?;
    let joined = runtime.block_on(zoneward_transport::join(invite, id, node.clone()))?;
    let payload: Payload = serde_json::from_slice(&joined.payload).map_err(|e| JoinFailed::Payload(e.to_string()))?;
    let decode = |text: &str, what: &str| STANDARD.decode(text).map_err(|_| bad(what));
    let owner = payload.introduction.owner()?;
    if zoneward_transport::zone_fingerprint(&owner) != invite.fingerprint || payload.introduction.zone != invite.zone {
        return Err(bad("it is of another zone"));
    }
    let certificate = NodeCertificate::parse(&decode(&payload.certificate, "the certificate")?);
    let certificate = certificate.map_err(|e| JoinFailed::Payload(e.to_string()))?;
    if payload.keys.is_none() && invite.role == zoneward_transport::Role::Full {
        return Err(bad("it has no keys"));
    }
    let write = |path: &Path, bytes: &[u8]| fsx::write_durably(path, bytes, 0o600).map_err(io_at("write", path));
    if let Some(keys) = &payload.keys {
        let secret = ZoneSecrets::from_json(&decode(&keys.zone_secret, "the zone's secret")?);
        let secret = secret.map_err(ZoneError::from)?;
        let sealed = decode(&keys.owner_key, "the owner's keys")?;
        let keyfile = OwnerKeyFile::from_bytes(&sealed).map_err(|e| JoinFailed::Payload(e.to_string()))?;
        if *keyfile.public().sign_public() != owner {
            return Err(bad("the owner's keys are another's"));
        }
        write(&home.zone_secret(), &secret.to_json())?;
        write(&home.owner_key(), &keyfile.to_bytes())?;
    }
    node.certified(&home.secrets(), certificate, &owner).map_err(ZoneError::from)?;
    let json = serde_json::to_vec_pretty(&payload.introduction).map_err(|e| JoinFailed::Payload(e.to_string()))?;
    write(&home.dir().join(FILE), &json)?;
    drop(Store::create(&file).map_err(ZoneError::from)?);
    // From here on it is the home of a node.
    fsx::rename(&file, &home.state())
        .and_then(|()| fsx::sync_dir(home.dir()))
        .map_err(io_at("finish", &home.state()))?;
    Ok(Joined { node: id, introduction: payload.introduction })
}

/// The identity in a home, which the owner certified.
pub fn identity(home: &Home, owner: &[u8; 32]) -> Result<NodeIdentity, ZoneError> {
    Ok(NodeIdentity::load(&home.secrets(), owner)?)
}
