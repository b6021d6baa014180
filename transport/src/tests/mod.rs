//! Links over loopback: whole endpoints against each other, and hostile peers against an endpoint.

mod bulks;
mod hostile;
mod joins;
mod links;
mod weather;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use zoneward_sectors::crypto::{Secret32, Signer, SigningKey};
use zoneward_sectors::ids::{NodeId, ZoneId};

use crate::rpc::Boxed;
use crate::tls::NodeKey;
use crate::*;

pub const ZONE: ZoneId = ZoneId([1; 16]);
pub const ECHO: u16 = 100;
pub const NEVER: u16 = 101;
pub const PANIC: u16 = 102;
pub const HUGE: u16 = 103;
pub const SECOND: Duration = Duration::from_secs(1);
/// For what must come; a test that waits this long has failed.
pub const LONG: Duration = Duration::from_secs(30);

pub fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub fn owner(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret32([n; 32]))
}

pub fn id(n: u8) -> NodeId {
    NodeId([n; 16])
}

/// An identity certified by the owner of the usual zone.
pub fn identity(n: u8) -> Arc<NodeIdentity> {
    let dir = tempfile::tempdir().unwrap();
    Arc::new(NodeIdentity::create(dir.path(), id(n), 1, &owner(1)).unwrap())
}

pub fn members_of(zone: ZoneId, revision: u64, nodes: &[&NodeIdentity]) -> Members {
    let nodes = nodes.iter().map(|i| (i.node(), Member { key: i.public_key(), incarnation_min: 0 }));
    Members::new(zone, revision, nodes).unwrap()
}

/// An endpoint and what a test wants to reach of it.
pub struct Node {
    pub identity: Arc<NodeIdentity>,
    pub members: MemberView,
    pub services: Services,
    pub handlers: Arc<Handlers>,
    pub now: Arc<AtomicU64>,
    pub endpoint: Endpoint,
}

impl Node {
    pub fn start(identity: &Arc<NodeIdentity>, members: Members) -> Self {
        Self::start_at(identity, members, 1, any_port())
    }

    pub fn start_at(identity: &Arc<NodeIdentity>, members: Members, incarnation: u64, addr: SocketAddr) -> Self {
        let (members, services, now) = (MemberView::new(members), Services::new(), Arc::new(AtomicU64::new(1000)));
        let handlers = Arc::new(Handlers::default());
        for kind in [ECHO, NEVER, PANIC, HUGE] {
            services.serve(kind, Arc::new(Kind(kind, handlers.clone())));
        }
        let shown = now.clone();
        let config = Config {
            identity: identity.clone(),
            members: members.clone(),
            incarnation,
            services: services.clone(),
            clock: Arc::new(move || shown.load(Ordering::SeqCst)),
        };
        let endpoint = Endpoint::bind(addr, config).unwrap();
        Self { identity: identity.clone(), members, services, handlers, now, endpoint }
    }

    pub fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    pub fn key(&self) -> NodeKey {
        self.identity.clone()
    }
}

/// Two members that know each other's address.
pub fn pair() -> (Node, Node) {
    let (a, b) = (identity(1), identity(2));
    let members = members_of(ZONE, 1, &[&a, &b]);
    let (a, b) = (Node::start(&a, members.clone()), Node::start(&b, members));
    a.endpoint.set_addresses(id(2), &[b.addr()]).unwrap();
    b.endpoint.set_addresses(id(1), &[a.addr()]).unwrap();
    (a, b)
}

pub struct Handlers {
    pub started: Semaphore,
    pub dropped: Notify,
}

impl Default for Handlers {
    fn default() -> Self {
        Self { started: Semaphore::new(0), dropped: Notify::new() }
    }
}

struct Kind(u16, Arc<Handlers>);

struct OnDrop(Arc<Handlers>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.dropped.notify_one();
    }
}

impl Handler for Kind {
    fn handle(&self, _: NodeId, body: Vec<u8>) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            match self.0 {
                ECHO => Ok(body),
                HUGE => Ok(vec![0; limits::RPC_BODY_MAX + 1]),
                PANIC => panic!("a planted panic"),
                _ => {
                    let _dropped = OnDrop(self.1.clone());
                    self.1.started.add_permits(1);
                    std::future::pending().await
                }
            }
        })
    }
}

pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what).await.expect("it takes for ever")
}

/// How a peer learns that its key is refused on a live connection: by word, or, where quinn's word was lost, because
/// the connection is not known any more.
pub fn cut_off(e: &CallError) -> bool {
    matches!(e, CallError::Broken { source: Broken::KeyRefused | Broken::Forgotten, .. })
}

/// Calls the echo of `node`.
pub async fn echo(from: &Node, node: u8) -> Result<Vec<u8>, CallError> {
    from.endpoint.call(id(node), ECHO, b"hello", 5 * SECOND).await
}

/// A connection made without an endpoint, to misbehave with.
pub async fn raw(
    key: Option<&NodeKey>,
    protocol: &[u8],
    addr: SocketAddr,
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let socket = endpoint::open_socket(any_port(), None).unwrap();
    let mut config = quinn::ClientConfig::new(tls::odd_client(key, &[protocol]));
    config.transport_config(endpoint::transport(endpoint::Side::Dialing));
    let connection = within(socket.connect_with(config, addr, tls::SERVER_NAME).unwrap()).await?;
    Ok((socket, connection))
}
