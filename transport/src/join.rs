//! Joining: a new node and a member prove to each other that both know an invite's secret, on this very TLS session.
//!
//! The joiner believes the member because the owner, whose key's hash the invite carries, certified the key that TLS
//! proved; and because the member knows the secret, so a node that was removed since cannot play host. A relay with a
//! key of its own fails the first test and, as the proof covers the session and both keys, the second too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use quinn::{RecvStream, SendStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;
use zoneward_sectors::cert::{CERT_LEN, CertError, NodeCertificate};
use zoneward_sectors::crypto::Signer;
use zoneward_sectors::ids::{Digest, NodeId, ZoneId};

use crate::endpoint::{BindError, Core, Side, open_socket, transport};
use crate::error::{Broken, Refusal};
use crate::invite::{Invite, Role, TokenHash, zone_fingerprint};
use crate::limits::{HANDSHAKE_MS_MAX, INVITES_MAX, JOIN_FAILED_MAX, JOIN_MS_MAX, JOIN_PAYLOAD_MAX, JOINS_MAX};
use crate::members::close;
use crate::rpc::{Boxed, ReadError, read_array, read_response, response_bytes};
use crate::serve::last_word;
use crate::tls::{self, Expect, SERVER_NAME, TlsError};
use crate::wire::{FrameError, Retry, Status, VERSION, VERSION_MIN};

const ASK: [u8; 4] = *b"zwjh";
const ASK_LEN: usize = 8;
const PROVE: [u8; 4] = *b"zwjp";
const PROVE_LEN: usize = 88;
const PROOF_LEN: usize = 32;
/// The member's certificate and the zone.
const SHOW_LEN: usize = CERT_LEN + 16;
const EXPORTER: &[u8] = b"EXPORTER-zoneward-join/1";
const LABEL_JOINER: &[u8] = b"zoneward-join/1 joiner";
const LABEL_HOST: &[u8] = b"zoneward-join/1 host";

/// Who joins: its key is proven by TLS, and the secret by the invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joiner {
    /// The id it made for itself.
    pub node: NodeId,
    /// Its Ed25519 key.
    pub key: [u8; 32],
    /// As what it may join.
    pub role: Role,
    /// Where it came from.
    pub from: SocketAddr,
}

/// Speaks for the zone to joiners that have proven themselves.
pub trait JoinHost: Send + Sync + 'static {
    /// Uses the invite up, by a committed command: `Ok` once, and again only for the same joiner's key, so that one
    /// whose connection broke can come back. An error refuses the joiner.
    fn consume(&self, token: TokenHash, joiner: Joiner) -> Boxed<'_, Result<(), Refusal>>;
    /// What the joiner is handed after that, at most [`JOIN_PAYLOAD_MAX`] bytes.
    fn payload(&self, joiner: Joiner) -> Boxed<'_, Result<Vec<u8>, Refusal>>;
}

/// No more invites can be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{INVITES_MAX} invites are open on this node: close one first")]
pub struct DeskFull;

struct Open {
    secret: Zeroizing<[u8; 16]>,
    expires_unix: u64,
    role: Role,
    failed: u32,
    used_by: Option<[u8; 32]>,
    host: Arc<dyn JoinHost>,
}

/// The invites that are open on this node.
pub(crate) struct Desk {
    open: Mutex<BTreeMap<TokenHash, Open>>,
    room: Semaphore,
}

impl Default for Desk {
    fn default() -> Self {
        Self { open: Mutex::default(), room: Semaphore::new(JOINS_MAX) }
    }
}

impl Desk {
    pub fn open(&self, invite: &Invite, host: Arc<dyn JoinHost>, now: u64) -> Result<(), DeskFull> {
        let mut open = self.lock();
        open.retain(|_, o| o.expires_unix > now || open_soon(o, now));
        if open.len() >= INVITES_MAX {
            return Err(DeskFull);
        }
        let Invite { secret, expires_unix, role, .. } = invite.clone();
        open.entry(invite.token_hash()).or_insert(Open { secret, expires_unix, role, failed: 0, used_by: None, host });
        Ok(())
    }

    pub fn close(&self, token: &TokenHash) {
        self.lock().remove(token);
    }

    /// Whether anyone may join now.
    pub fn any_open(&self, now: u64) -> bool {
        self.lock().values().any(|o| o.expires_unix > now)
    }

    /// Looks a joiner's proof up; `transcript` is what the proof covers, made from the invite's end and role.
    fn check(
        &self,
        token: &TokenHash,
        key: &[u8; 32],
        now: u64,
        proof: &[u8],
        transcript: impl FnOnce(u64, Role) -> Vec<u8>,
    ) -> Result<Accepted, Refusal> {
        let refuse = |status, text: &str| Refusal::with(status, Retry::Operator, text);
        let mut open = self.lock();
        let unknown = || {
            refuse(
                Status::InviteUnknown,
                "no such invite is open on this node: it was used or taken back, or is another's",
            )
        };
        let Some(found) = open.get_mut(token) else { return Err(unknown()) };
        if found.expires_unix <= now {
            return Err(refuse(Status::InviteExpired, "the invite has expired: ask for a new one"));
        }
        let transcript = transcript(found.expires_unix, found.role);
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &*found.secret);
        // In constant time.
        if hmac::verify(&secret, &[LABEL_JOINER, &transcript].concat(), proof).is_err() {
            found.failed += 1;
            if found.failed >= JOIN_FAILED_MAX {
                open.remove(token);
            }
            return Err(refuse(Status::InviteProof, "the proof does not stand under the invite's secret"));
        }
        if found.used_by.is_some_and(|by| by != *key) {
            return Err(refuse(Status::InviteUsed, "the invite was used by another node: ask for a new one"));
        }
        let proof = hmac::sign(&secret, &[LABEL_HOST, &transcript].concat()).as_ref().to_vec();
        Ok(Accepted { proof, role: found.role, host: found.host.clone() })
    }

    fn used(&self, token: &TokenHash, key: [u8; 32]) {
        if let Some(found) = self.lock().get_mut(token) {
            found.used_by = Some(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TokenHash, Open>> {
        // Each change is one assignment: nothing under the lock can leave the table half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Expired invites are kept for an hour, so that late joiners hear that they are late.
fn open_soon(open: &Open, now: u64) -> bool {
    now.saturating_sub(open.expires_unix) < 3600
}

struct Accepted {
    proof: Vec<u8>,
    role: Role,
    host: Arc<dyn JoinHost>,
}

/// What both proofs cover.
pub(crate) struct Session {
    pub exported: [u8; 32],
    pub joiner_key: [u8; 32],
    pub host_key: [u8; 32],
    pub zone: ZoneId,
    pub joiner: NodeId,
    pub host: NodeId,
    pub token: TokenHash,
}

impl Session {
    fn transcript(&self, expires_unix: u64, role: Role) -> Vec<u8> {
        [
            &self.exported[..],
            &self.joiner_key,
            &self.host_key,
            &self.zone.0,
            &self.joiner.0,
            &self.host.0,
            &self.token.0,
            &expires_unix.to_le_bytes(),
            &[role as u8],
        ]
        .concat()
    }

    /// The joiner's question with its proof.
    pub fn prove(&self, invite: &Invite) -> Vec<u8> {
        let transcript = self.transcript(invite.expires_unix, invite.role);
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &*invite.secret);
        let proof = hmac::sign(&secret, &[LABEL_JOINER, &transcript].concat());
        [&PROVE[..], &VERSION.to_le_bytes(), &[0, 0], &self.token.0, &self.joiner.0, proof.as_ref()].concat()
    }
}

pub(crate) fn exported(connection: &quinn::Connection) -> Option<[u8; 32]> {
    let mut out = [0u8; 32];
    connection.export_keying_material(&mut out, EXPORTER, b"").ok()?;
    Some(out)
}

/// Serves one joiner to its end, within the time and room for joins. Who has proven nothing yet gets as long as a
/// handshake.
pub(crate) async fn host(core: &Core, connection: &quinn::Connection, key: [u8; 32]) {
    if let Ok(_room) = core.desk.room.try_acquire() {
        let (proof_by, done_by) = (Duration::from_millis(HANDSHAKE_MS_MAX), Duration::from_millis(JOIN_MS_MAX));
        // A joiner that breaks off or is slow has itself to thank.
        if let Ok(Some((prove, send))) = timeout(proof_by, hear(core, connection)).await {
            let _ = timeout(done_by, reply(core, connection, key, prove, send)).await;
        }
    }
    connection.close(close::DONE.into(), b"done");
}

/// Shows who this node is and reads the joiner's proof; `None` if there is nothing to reply to.
async fn hear(core: &Core, connection: &quinn::Connection) -> Option<(Result<Prove, FrameError>, SendStream)> {
    let (mut send, mut recv) = connection.accept_bi().await.ok()?;
    let shown = match ask(&mut recv).await {
        Err(ReadError::Lost(_)) => return None,
        Err(ReadError::Frame(e)) => Err(Refusal::from(e)),
        Ok(()) => {
            let zone = core.members.snapshot().zone();
            Ok([&core.identity.certificate().to_bytes()[..], &zone.0].concat())
        }
    };
    send.write_all(&response_bytes(&shown)).await.ok()?;
    send.finish().ok()?;
    if shown.is_err() {
        last_word(&mut send).await;
        return None;
    }
    let (send, mut recv) = connection.accept_bi().await.ok()?;
    match read_prove(&mut recv).await {
        Err(ReadError::Lost(_)) => None,
        Err(ReadError::Frame(e)) => Some((Err(e), send)),
        Ok(prove) => Some((Ok(prove), send)),
    }
}

async fn reply(
    core: &Core,
    connection: &quinn::Connection,
    key: [u8; 32],
    prove: Result<Prove, FrameError>,
    mut send: SendStream,
) -> Option<()> {
    let answer = match prove {
        Err(e) => Err(Refusal::from(e)),
        Ok(prove) => admit(core, connection, key, &prove).await,
    };
    send.write_all(&response_bytes(&answer)).await.ok()?;
    send.finish().ok()?;
    last_word(&mut send).await;
    Some(())
}

struct Prove {
    token: TokenHash,
    node: NodeId,
    proof: [u8; PROOF_LEN],
}

async fn ask(recv: &mut RecvStream) -> Result<(), ReadError> {
    let b = read_array::<ASK_LEN>(recv).await?;
    check_magic(&b, ASK, "zwjh")?;
    let (min, max) = (u16::from_le_bytes([b[4], b[5]]), u16::from_le_bytes([b[6], b[7]]));
    if min > VERSION || max < VERSION_MIN || min > max {
        return Err(FrameError::Version { got: max }.into());
    }
    Ok(())
}

async fn read_prove(recv: &mut RecvStream) -> Result<Prove, ReadError> {
    let b = read_array::<PROVE_LEN>(recv).await?;
    check_magic(&b, PROVE, "zwjp")?;
    let got = u16::from_le_bytes([b[4], b[5]]);
    if !(VERSION_MIN..=VERSION).contains(&got) {
        return Err(FrameError::Version { got }.into());
    }
    if b[6..8] != [0, 0] {
        return Err(FrameError::Damaged("reserved bytes are not zero").into());
    }
    let mut prove = Prove { token: Digest([0; 32]), node: NodeId([0; 16]), proof: [0; PROOF_LEN] };
    prove.token.0.copy_from_slice(&b[8..40]);
    prove.node.0.copy_from_slice(&b[40..56]);
    prove.proof.copy_from_slice(&b[56..88]);
    Ok(prove)
}

fn check_magic(b: &[u8], magic: [u8; 4], want: &'static str) -> Result<(), FrameError> {
    let got = [b[0], b[1], b[2], b[3]];
    if got == magic { Ok(()) } else { Err(FrameError::Magic { got, want }) }
}

async fn admit(core: &Core, connection: &quinn::Connection, key: [u8; 32], prove: &Prove) -> Result<Vec<u8>, Refusal> {
    let failed = || Refusal::with(Status::Failed, Retry::Later, "the member failed on this: see its log");
    let session = Session {
        exported: exported(connection).ok_or_else(failed)?,
        joiner_key: key,
        host_key: core.identity.public_key(),
        zone: core.members.snapshot().zone(),
        joiner: prove.node,
        host: core.identity.node(),
        token: prove.token,
    };
    let now = (core.clock)();
    let accepted = core.desk.check(&prove.token, &key, now, &prove.proof, |e, r| session.transcript(e, r))?;
    let joiner = Joiner { node: prove.node, key, role: accepted.role, from: connection.remote_address() };
    // Nothing is handed over before the zone has taken the invite.
    accepted.host.consume(prove.token, joiner).await.map_err(|r| Refusal { status: Status::InviteUsed, ..r })?;
    core.desk.used(&prove.token, key);
    let payload = accepted.host.payload(joiner).await?;
    if payload.len() > JOIN_PAYLOAD_MAX {
        return Err(failed());
    }
    Ok([accepted.proof, payload].concat())
}

/// What a joiner has in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The member that let it in, certified by the owner.
    pub host: NodeCertificate,
    /// Where it was found.
    pub addr: SocketAddr,
    /// What it handed over.
    pub payload: Vec<u8>,
}

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Socket(#[from] BindError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{addr} cannot be dialed: {text}")]
    Address { addr: SocketAddr, text: String },
    #[error("no answer from {addr} in time: is the node up, and does a firewall let UDP through?")]
    TimedOut { addr: SocketAddr },
    #[error("{addr} broke the connection off: {source}")]
    Broken { addr: SocketAddr, source: Broken },
    #[error("{addr} sent something that is no answer: {source}")]
    Frame { addr: SocketAddr, source: FrameError },
    #[error("{addr} does not belong to the zone of the invite: somebody else answers there; nothing was told to it")]
    OtherZone { addr: SocketAddr },
    #[error("the certificate that {addr} shows is refused; nothing was told to it")]
    Certificate { addr: SocketAddr, source: CertError },
    #[error("{addr} shows the certificate of another key: somebody sits between; nothing was told to it")]
    OtherKey { addr: SocketAddr },
    #[error("{addr} refused: {source}")]
    Refused { addr: SocketAddr, source: Refusal },
    #[error("{addr} does not know the invite's secret: it was removed from the zone; use another member's address")]
    HostProof { addr: SocketAddr },
    #[error("the invite names no address: ask for a new one")]
    NoAddress,
}

/// Joins with `invite` as `node`, whose key is `key`: tries the addresses in turn until one answers. The invite's
/// secret is told to nobody; a member that the owner certified gets a proof of it.
pub async fn join(invite: &Invite, node: NodeId, key: Arc<dyn Signer + Send + Sync>) -> Result<Joined, JoinError> {
    let mut result = Err(JoinError::NoAddress);
    for addr in &invite.addresses {
        let any = SocketAddr::new(if addr.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() }, 0);
        let socket = open_socket(any, None)?;
        result = timeout(Duration::from_millis(JOIN_MS_MAX), join_at(invite, node, &key, &socket, *addr))
            .await
            .unwrap_or(Err(JoinError::TimedOut { addr: *addr }));
        socket.close(close::DONE.into(), b"done");
        if matches!(result, Ok(_) | Err(JoinError::Refused { .. })) {
            break; // A member of the zone has spoken: another would say the same.
        }
    }
    result
}

async fn join_at(
    invite: &Invite,
    node: NodeId,
    key: &tls::NodeKey,
    socket: &quinn::Endpoint,
    addr: SocketAddr,
) -> Result<Joined, JoinError> {
    let broken = |e: quinn::ConnectionError| JoinError::Broken { addr, source: Broken::from(e) };
    let mut config = quinn::ClientConfig::new(tls::client(key, Expect::AnyoneYet)?);
    config.transport_config(transport(Side::Dialing));
    let connecting =
        socket.connect_with(config, addr, SERVER_NAME).map_err(|e| JoinError::Address { addr, text: e.to_string() })?;
    let connection = timeout(Duration::from_millis(HANDSHAKE_MS_MAX), connecting)
        .await
        .map_err(|_| JoinError::TimedOut { addr })?
        .map_err(broken)?;
    let cut = || JoinError::Frame { addr, source: FrameError::Cut };
    let (_, host_key) = tls::peer(&connection).ok_or_else(cut)?;
    let ask = [&ASK[..], &VERSION_MIN.to_le_bytes(), &VERSION.to_le_bytes()].concat();
    let shown = question(&connection, addr, &ask, SHOW_LEN).await?;
    let host = check_host(invite, &shown, &host_key, addr)?;
    let session = Session {
        exported: exported(&connection).ok_or_else(cut)?,
        joiner_key: key.public_key(),
        host_key,
        zone: invite.zone,
        joiner: node,
        host: host.node,
        token: invite.token_hash(),
    };
    let prove = session.prove(invite);
    let mut answer = question(&connection, addr, &prove, PROOF_LEN + JOIN_PAYLOAD_MAX).await?;
    if answer.len() < PROOF_LEN {
        return Err(cut());
    }
    let payload = answer.split_off(PROOF_LEN);
    let transcript = session.transcript(invite.expires_unix, invite.role);
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &*invite.secret);
    hmac::verify(&secret, &[LABEL_HOST, &transcript].concat(), &answer).map_err(|_| JoinError::HostProof { addr })?;
    connection.close(close::DONE.into(), b"joined");
    Ok(Joined { host, addr, payload })
}

/// That the owner of the invite's zone certified the key TLS proved.
fn check_host(
    invite: &Invite,
    shown: &[u8],
    host_key: &[u8; 32],
    addr: SocketAddr,
) -> Result<NodeCertificate, JoinError> {
    let (certificate, zone) = shown.split_at_checked(CERT_LEN).unwrap_or((shown, &[]));
    let refused = |source| JoinError::Certificate { addr, source };
    let host = NodeCertificate::parse(certificate).map_err(refused)?;
    if zone != invite.zone.0 || zone_fingerprint(&host.owner_sign_public) != invite.fingerprint {
        return Err(JoinError::OtherZone { addr });
    }
    host.verify(&host.owner_sign_public).map_err(refused)?;
    if host.public_key != *host_key {
        return Err(JoinError::OtherKey { addr });
    }
    Ok(host)
}

/// One question and its answer on a stream of their own.
async fn question(
    connection: &quinn::Connection,
    addr: SocketAddr,
    bytes: &[u8],
    max: usize,
) -> Result<Vec<u8>, JoinError> {
    let broken = |e: quinn::ConnectionError| JoinError::Broken { addr, source: Broken::from(e) };
    let (mut send, mut recv) = connection.open_bi().await.map_err(broken)?;
    if let Err(quinn::WriteError::ConnectionLost(e)) = send.write_all(bytes).await {
        return Err(broken(e)); // Other errors: the member wants no more of it and has said why.
    }
    let _ = send.finish();
    match read_response(&mut recv, max).await {
        Ok(answer) => answer.map_err(|source| JoinError::Refused { addr, source }),
        Err(ReadError::Frame(source)) => Err(JoinError::Frame { addr, source }),
        Err(ReadError::Lost(e)) => Err(broken(e)),
    }
}
