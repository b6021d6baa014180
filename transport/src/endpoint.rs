//! This node's end of all links: one UDP socket that serves members, dials them on demand, and, while an invite is
//! open, lets new nodes join. Nothing that an unauthenticated peer sends is parsed, but by TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quinn::congestion::CubicConfig;
use quinn::{MtuDiscoveryConfig, TransportConfig, VarInt};
use tokio::time::{Instant, timeout_at};
use zoneward_sectors::crypto::fill_random;
use zoneward_sectors::ids::NodeId;

use crate::bulk::{self, BulkSender};
use crate::dial::{Dialer, PeerInfo};
use crate::error::CallError;
use crate::gate::Gate;
use crate::identity::NodeIdentity;
use crate::invite::{Invite, TokenHash};
use crate::join::{Desk, DeskFull, JoinHost};
use crate::limits::*;
use crate::members::{MemberView, close};
use crate::rpc::{Boxed, Caller, Services, check_call};
use crate::serve;
use crate::tls::{NodeKey, TlsError};
use crate::wire::BulkOpen;

/// Tells the time in seconds since 1970; only the end of invites depends on it.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The system's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// What an endpoint is made of.
pub struct Config {
    /// This node's key and certificate.
    pub identity: Arc<NodeIdentity>,
    /// The membership to obey.
    pub members: MemberView,
    /// The number of this start; grows with each, and is durable before it is shown.
    pub incarnation: u64,
    /// What this node serves.
    pub services: Services,
    /// Tells when invites end.
    pub clock: Clock,
}

/// Why an endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("listening on UDP {addr} failed: is the port free and the address this machine's?")]
    Socket { addr: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the largest UDP payload of {UDP_PAYLOAD_MAX} bytes was not taken: this build of zoneward is broken")]
    Payload,
}

/// What the parts of an endpoint share.
pub(crate) struct Core {
    pub identity: Arc<NodeIdentity>,
    pub members: MemberView,
    pub incarnation: u64,
    pub services: Services,
    pub clock: Clock,
    pub gate: Gate,
    pub desk: Desk,
}

impl Core {
    pub fn key(&self) -> NodeKey {
        self.identity.clone()
    }
}

struct Inner {
    core: Arc<Core>,
    socket: quinn::Endpoint,
    local: SocketAddr,
    dialer: Dialer,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.socket.close(close::SHUTDOWN.into(), b"stopping");
    }
}

/// The endpoint. Clones share it; the last one closes it.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({} on {})", self.0.core.identity.node(), self.0.local)
    }
}

impl Endpoint {
    /// Listens on `addr` (port 0: any) and serves. Must be called inside a tokio runtime.
    pub fn bind(addr: SocketAddr, config: Config) -> Result<Self, BindError> {
        let Config { identity, members, incarnation, services, clock } = config;
        let (gate, desk) = (Gate::default(), Desk::default());
        let core = Arc::new(Core { identity, members, incarnation, services, clock, gate, desk });
        let configs = serve::Configs::new(&core)?;
        let socket = open_socket(addr, Some(configs.members.clone()))?;
        let local = socket.local_addr().map_err(|source| BindError::Socket { addr, source })?;
        tokio::spawn(serve::accept(core.clone(), socket.clone(), configs));
        let dialer = Dialer::new(core.clone(), socket.clone());
        Ok(Self(Arc::new(Inner { core, socket, local, dialer })))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    /// Says where `node` can be reached; the first [`ADDRESSES_MAX`] count.
    pub fn set_addresses(&self, node: NodeId, addresses: &[SocketAddr]) -> Result<(), CallError> {
        self.0.dialer.peer(node)?.set_addresses(addresses);
        Ok(())
    }

    /// Dials `node` at `addr` now, whatever failed before, unless a link is open, and keeps the address. It returns when
    /// the node itself has said that it takes this node: a TLS handshake alone does not say so.
    pub async fn connect(&self, node: NodeId, addr: SocketAddr) -> Result<PeerInfo, CallError> {
        let peer = self.0.dialer.peer(node)?;
        peer.prefer_address(addr);
        let link = self.0.dialer.link(&peer, true).await;
        link.map(|l| l.info).map_err(|source| CallError::Unreachable { node, source })
    }

    /// Calls the service `kind` of `node`, dialing first if need be. Within the wait after a failed dial it fails at
    /// once.
    pub async fn call(&self, node: NodeId, kind: u16, body: &[u8], deadline: Duration) -> Result<Vec<u8>, CallError> {
        check_call(node, body, deadline)?;
        let until = Instant::now() + deadline;
        let peer = self.0.dialer.peer(node)?;
        let ready = async {
            let slot = peer.limits.lane(kind).calls.clone().acquire_owned().await.map_err(|_| CallError::Closed)?;
            let link = self.0.dialer.link(&peer, false).await;
            Ok((slot, link.map_err(|source| CallError::Unreachable { node, source })?))
        };
        let (_slot, link) =
            timeout_at(until, ready).await.unwrap_or(Err(CallError::Deadline { node, after: deadline }))?;
        crate::rpc::call(&link.connection, node, kind, body, until, deadline).await
    }

    /// Opens a bulk stream to `node`; waits while [`BULK_PER_PEER_MAX`] are open.
    pub async fn open_bulk(&self, node: NodeId, open: BulkOpen) -> Result<BulkSender, CallError> {
        bulk::check_open(node, &open)?;
        let peer = self.0.dialer.peer(node)?;
        let slot = peer.limits.bulk.clone().acquire_owned().await.map_err(|_| CallError::Closed)?;
        let link = self.0.dialer.link(&peer, false).await.map_err(|source| CallError::Unreachable { node, source })?;
        bulk::open(&link.connection, node, open, slot).await
    }

    /// Lets a node join with `invite`, through this node, until it expires, is used, or is closed. `host` asks the zone.
    pub fn open_invite(&self, invite: &Invite, host: Arc<dyn JoinHost>) -> Result<(), DeskFull> {
        self.0.core.desk.open(invite, host, (self.0.core.clock)())
    }

    /// Takes an invite back.
    pub fn close_invite(&self, token: &TokenHash) {
        self.0.core.desk.close(token);
    }

    /// Handshakes of strangers in progress.
    #[cfg(test)]
    pub(crate) fn strangers(&self) -> usize {
        self.0.core.gate.strangers()
    }

    /// Closes all links and waits until the peers know, at most [`LAST_WORD_MS_MAX`].
    pub async fn close(&self) {
        self.0.socket.close(close::SHUTDOWN.into(), b"stopping");
        let wait = Duration::from_millis(LAST_WORD_MS_MAX);
        let _ = tokio::time::timeout(wait, self.0.socket.wait_idle()).await; // Peers that are gone are not waited for.
    }
}

impl Caller for Endpoint {
    fn send(&self, to: NodeId, kind: u16, body: Vec<u8>, deadline: Duration) -> Boxed<'_, Result<Vec<u8>, CallError>> {
        Box::pin(async move { self.call(to, kind, &body, deadline).await })
    }
}

/// Opens the UDP socket; without a server configuration it only dials.
pub(crate) fn open_socket(addr: SocketAddr, server: Option<quinn::ServerConfig>) -> Result<quinn::Endpoint, BindError> {
    let failed = |source| BindError::Socket { addr, source };
    let mut reset_key = zeroize::Zeroizing::new([0u8; 64]);
    fill_random(&mut *reset_key);
    let reset_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &*reset_key);
    let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
    config.max_udp_payload_size(UDP_PAYLOAD_MAX).map_err(|_| BindError::Payload)?;
    let socket = std::net::UdpSocket::bind(addr).map_err(failed)?;
    quinn::Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime)).map_err(failed)
}

/// Which end of a connection this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// It asks; the peer may open no streams.
    Dialing,
    /// It answers.
    Serving,
}

/// Flow control, time-outs and packet sizes. A peer starts with a stranger's windows, see [`widen`].
pub(crate) fn transport(side: Side) -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_MAX);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_SEND_WINDOW);
    let mut t = TransportConfig::default();
    t.max_concurrent_bidi_streams(VarInt::from_u32(if side == Side::Serving { 2 } else { 0 }))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .send_window(SEND_WINDOW)
        .congestion_controller_factory(Arc::new(congestion))
        .initial_rtt(Duration::from_millis(INITIAL_RTT_MS))
        .initial_mtu(UDP_PAYLOAD_MIN)
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_MS_MAX).into()))
        .keep_alive_interval(Some(Duration::from_millis(KEEP_ALIVE_MS)));
    Arc::new(t)
}

/// Gives a member the windows of a member, and streams for all its calls and bulk and one more for the hello.
pub(crate) fn widen(connection: &quinn::Connection, side: Side) {
    if side == Side::Serving {
        let streams = (RAFT_PER_PEER_MAX + RPC_PER_PEER_MAX + BULK_PER_PEER_MAX + 1) as u32;
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(streams));
    }
    connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW));
}
