//! Links that this node opens: one per peer, made when needed and made again when broken, with growing waits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use zoneward_sectors::ids::NodeId;

use crate::endpoint::{Core, Side, transport, widen};
use crate::error::{Broken, CallError, DialError};
use crate::limits::{ADDRESSES_MAX, BACKOFF_MS_MAX, BACKOFF_MS_MIN, DIAL_MS_MAX};
use crate::members::{Admission, Direction, NotAdmitted, close};
use crate::rpc::{PeerLimits, ReadError, read_response};
use crate::tls::{self, Expect, SERVER_NAME};
use crate::wire::{FrameError, HELLO_LEN, Hello, VERSION, VERSION_MIN};

const DIAL: Duration = Duration::from_millis(DIAL_MS_MAX);

/// What a peer said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerInfo {
    /// The node.
    pub node: NodeId,
    /// The protocol version both speak.
    pub version: u16,
    /// The number of its start.
    pub incarnation: u64,
    /// The revision of its membership.
    pub revision: u64,
}

/// A connection whose both sides have agreed to it.
pub(crate) struct Link {
    pub connection: quinn::Connection,
    pub info: PeerInfo,
    _admission: Admission,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.close(close::DONE.into(), b"no longer needed");
    }
}

/// A peer that may be dialed.
pub(crate) struct Peer {
    node: NodeId,
    pub limits: PeerLimits,
    state: Mutex<PeerState>,
    /// Held while dialing: one dial at a time.
    dialing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct PeerState {
    addresses: Vec<SocketAddr>,
    link: Option<Arc<Link>>,
    failures: u32,
    wait: Option<(Instant, DialError)>,
}

impl Peer {
    fn new(node: NodeId) -> Self {
        Self { node, limits: PeerLimits::new(), state: Mutex::default(), dialing: tokio::sync::Mutex::default() }
    }

    pub fn set_addresses(&self, addresses: &[SocketAddr]) {
        let addresses: Vec<_> = addresses.iter().copied().take(ADDRESSES_MAX).collect();
        self.with(|s| {
            if s.addresses != addresses {
                s.wait = None; // What failed were other addresses.
                // A link to a place where it no longer is would only be noticed when it has been idle for long.
                if s.link.as_ref().is_some_and(|l| !addresses.contains(&l.connection.remote_address())) {
                    s.link = None;
                }
                s.addresses = addresses;
            }
        });
    }

    pub fn prefer_address(&self, addr: SocketAddr) {
        self.with(|s| {
            s.addresses.retain(|a| *a != addr);
            s.addresses.insert(0, addr);
            s.addresses.truncate(ADDRESSES_MAX);
            s.wait = None;
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut PeerState) -> T) -> T {
        // Plain assignments only: nothing under the lock can leave the state half changed.
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn open_link(&self) -> Option<Arc<Link>> {
        self.with(|s| s.link.clone()).filter(|l| l.connection.close_reason().is_none())
    }

    /// Remembers how a dial ended.
    fn dialed(&self, result: &Result<Arc<Link>, DialError>) {
        self.with(|s| match result {
            Ok(link) => {
                (s.failures, s.wait) = (0, None);
                s.link = Some(link.clone());
            }
            Err(e) => {
                let wait = BACKOFF_MS_MIN.saturating_mul(1 << s.failures.min(20)).min(BACKOFF_MS_MAX);
                s.failures = s.failures.saturating_add(1);
                s.wait = Some((Instant::now() + Duration::from_millis(wait), e.clone()));
                s.link = None;
            }
        });
    }
}

/// Dials peers.
pub(crate) struct Dialer {
    core: Arc<Core>,
    socket: quinn::Endpoint,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
}

impl Dialer {
    pub fn new(core: Arc<Core>, socket: quinn::Endpoint) -> Self {
        Self { core, socket, peers: Mutex::default() }
    }

    /// The peer, if it is a member now. Nothing is kept of those that are none.
    pub fn peer(&self, node: NodeId) -> Result<Arc<Peer>, CallError> {
        let members = self.core.members.snapshot();
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|node, _| members.get(*node).is_some());
        if members.get(node).is_none() {
            return Err(CallError::NotMember(node));
        }
        Ok(peers.entry(node).or_insert_with(|| Arc::new(Peer::new(node))).clone())
    }

    /// The link to a peer, made now if there is none. A caller that does not wait to the end does not stop the dial:
    /// the next one profits from it.
    ///
    /// Within the wait after a failed dial it fails at once, but for `now`.
    pub async fn link(&self, peer: &Arc<Peer>, now: bool) -> Result<Arc<Link>, DialError> {
        if let Some(link) = peer.open_link() {
            return Ok(link);
        }
        let (core, socket, peer) = (self.core.clone(), self.socket.clone(), peer.clone());
        let dial = tokio::spawn(async move {
            let _one = peer.dialing.lock().await;
            if let Some(link) = peer.open_link() {
                return Ok(link);
            }
            let (addresses, wait) = peer.with(|s| (s.addresses.clone(), s.wait.clone()));
            if let Some((until, last)) = wait.filter(|_| !now) {
                let left = until.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    return Err(DialError::Waiting(left, Box::new(last)));
                }
            }
            let result = dial_any(&core, &socket, peer.node, &addresses).await.map(Arc::new);
            peer.dialed(&result);
            result
        });
        dial.await.unwrap_or_else(|e| Err(DialError::Tls(format!("the dial ended early: {e}"))))
    }
}

/// Tries the addresses in turn; the last error is told.
async fn dial_any(
    core: &Arc<Core>,
    socket: &quinn::Endpoint,
    node: NodeId,
    addresses: &[SocketAddr],
) -> Result<Link, DialError> {
    let mut result = Err(DialError::NoAddress);
    for addr in addresses {
        let dialed = timeout(DIAL, dial(core, socket, node, *addr)).await;
        result = dialed.unwrap_or(Err(DialError::TimedOut(*addr, DIAL)));
        if result.is_ok() {
            core.gate.met(addr.ip());
            break;
        }
    }
    result
}

async fn dial(core: &Arc<Core>, socket: &quinn::Endpoint, node: NodeId, addr: SocketAddr) -> Result<Link, DialError> {
    let members = core.members.snapshot();
    let broken = |e: quinn::ConnectionError| DialError::Broken(addr, Broken::from(e));
    let gone = DialError::Broken(addr, Broken::ClosedHere);
    let Some(member) = members.get(node) else { return Err(gone) };
    let mut config = quinn::ClientConfig::new(tls::client(&core.key(), Expect::Key(member.key))?);
    config.transport_config(transport(Side::Dialing));
    let connecting =
        socket.connect_with(config, addr, SERVER_NAME).map_err(|e| DialError::Address(addr, e.to_string()))?;
    let connection = connecting.await.map_err(broken)?;
    let refuse = |e: DialError| {
        connection.close(close::REFUSED.into(), b"refused");
        e
    };
    let theirs = hello(core, &connection, node, addr).await.map_err(refuse)?;
    let damaged = |what| refuse(DialError::Frame(addr, FrameError::Damaged(what)));
    let us = core.identity.node();
    if (theirs.zone, theirs.node, theirs.peer) != (members.zone(), node, us) {
        return Err(damaged("the hello is of another zone or node, or for another"));
    }
    let Some(version) = theirs.common_version() else {
        return Err(refuse(DialError::Frame(addr, FrameError::Version { got: theirs.version_max })));
    };
    let incarnation = theirs.incarnation;
    let admitted = core.members.admit(node, &member.key, incarnation, Direction::Dialed, &connection);
    let admission = admitted.map_err(|e| match e {
        NotAdmitted::NotMember => refuse(gone.clone()),
        NotAdmitted::Stale { .. } => damaged("the node shows an earlier start than before: its disk was put back"),
    })?;
    widen(&connection, Side::Dialing);
    let info = PeerInfo { node, version, incarnation, revision: theirs.revision };
    Ok(Link { connection, info, _admission: admission })
}

/// Says hello and waits for the peer's: only then has it judged this node.
async fn hello(
    core: &Core,
    connection: &quinn::Connection,
    node: NodeId,
    addr: SocketAddr,
) -> Result<Hello, DialError> {
    let broken = |e: quinn::ConnectionError| DialError::Broken(addr, Broken::from(e));
    let cut = |_| DialError::Frame(addr, FrameError::Cut);
    let members = core.members.snapshot();
    let ours = Hello {
        version_min: VERSION_MIN,
        version_max: VERSION,
        zone: members.zone(),
        node: core.identity.node(),
        peer: node,
        incarnation: core.incarnation,
        revision: members.revision(),
    };
    let (mut send, mut recv) = connection.open_bi().await.map_err(broken)?;
    match send.write_all(&ours.to_bytes()).await {
        Err(quinn::WriteError::ConnectionLost(e)) => return Err(broken(e)),
        Err(quinn::WriteError::Stopped(_)) => {} // It has said why.
        written => written.map_err(cut)?,
    }
    let _ = send.finish(); // Fails only if the peer wants no more of it.
    match read_response(&mut recv, HELLO_LEN).await {
        Err(ReadError::Lost(e)) => Err(broken(e)),
        Err(ReadError::Frame(e)) => Err(DialError::Frame(addr, e)),
        Ok(Err(refusal)) => Err(DialError::Refused(addr, refusal)),
        Ok(Ok(body)) => {
            let body: &[u8; HELLO_LEN] =
                body.as_slice().try_into().map_err(|_| DialError::Frame(addr, FrameError::Cut))?;
            Hello::parse(body).map_err(|e| DialError::Frame(addr, e))
        }
    }
}
