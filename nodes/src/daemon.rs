//! A node's daemon: its place in the cluster, its actors, and where the command line and programs talk to it.

pub mod client;
pub mod local;
mod socket;

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_actors::cluster::{Cluster, ClusterSettings};
use zoneward_actors::engine::Engine;
use zoneward_actors::errors::ZoneError;
use zoneward_actors::home::{Home, next_incarnation};
use zoneward_actors::join::{Introduction, identity};
use zoneward_actors::node::Node;
use zoneward_actors::wipe;
use zoneward_actors::zone::ZoneParts;
use zoneward_consensus::command::Command;
use zoneward_consensus::store::Store;

use crate::errors::{Failure, exit};

/// Where nodes talk to each other unless something else is said.
pub const LISTEN: &str = "0.0.0.0:7441";

/// How long a node that wiped its home tries to tell the zone.
const LAST_WORD: Duration = Duration::from_secs(30);

/// How a daemon is to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where other nodes reach this one (UDP).
    pub listen: SocketAddr,
    /// What others are told, `host:port`; none: found out.
    pub address: Option<String>,
    /// Threads that a step may use.
    pub threads: usize,
}

/// A running daemon. Dropping it stops it.
pub struct Daemon {
    pub node: Arc<Node>,
    /// Held so that nobody else works here.
    _home: Arc<Home>,
    engine: Engine,
    server: Option<(actix_web::dev::ServerHandle, JoinHandle<std::io::Result<()>>)>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Daemon({:?})", self.node)
    }
}

/// The address that others are told when this node listens on all of its own: the one it would reach them from.
fn own_address(listen: SocketAddr) -> String {
    if !listen.ip().is_unspecified() {
        // As it listens, with the port that it was given.
        return String::new();
    }
    let (any, far) = if listen.is_ipv4() { ("0.0.0.0:0", "192.0.2.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
    // Nothing is sent: the kernel only chooses a route.
    let chosen = UdpSocket::bind(any).and_then(|s| s.connect(far).and_then(|()| s.local_addr()));
    match chosen {
        Ok(a) if !a.ip().is_unspecified() => SocketAddr::new(a.ip(), listen.port()).to_string(),
        // No network yet: the others learn the address when this node is started with one.
        _ => SocketAddr::new(if listen.is_ipv4() { [127, 0, 0, 1].into() } else { [0u16; 8].into() }, listen.port())
            .to_string(),
    }
}

impl Daemon {
    /// Starts the daemon of a home. `stop` ends the wait for a zone that this node has joined and not seen yet.
    pub fn start(dir: &Path, settings: &Settings, stop: &AtomicBool) -> Result<Self, Failure> {
        let home = Arc::new(Home::open(dir)?);
        let store = Store::open(&home.state()).map_err(ZoneError::from)?;
        let introduction = Introduction::read(home.dir())?;
        let (zone, owner) = match (&store.state().zone, &introduction) {
            (Some(z), _) => {
                let owner = STANDARD.decode(&z.owner_sign_public).ok().and_then(|b| b.try_into().ok());
                (z.id, owner.ok_or(ZoneError::State { what: "the owner's signing key" })?)
            }
            (None, Some(i)) => (i.zone, i.owner()?),
            (None, None) => return Err(ZoneError::Unfinished.into()),
        };
        let identity = Arc::new(identity(&home, &owner)?);
        let incarnation = next_incarnation(home.dir())?;
        let cluster = ClusterSettings {
            zone,
            listen: settings.listen,
            address: settings.address.clone().unwrap_or_else(|| own_address(settings.listen)),
            snapshots: home.snapshots(),
            incarnation,
            introduced: introduction.map(|i| i.members).unwrap_or_default(),
        };
        let cluster = Cluster::start(store, identity, cluster).map_err(ZoneError::from)?;
        let cluster = Arc::new(cluster);
        let parts = loop {
            let view = cluster.view();
            if view.zone.is_some() && view.nodes.contains_key(&cluster.node()) {
                break match ZoneParts::of(home.clone(), &view) {
                    Err(ZoneError::Witness) => None,
                    parts => Some(parts?),
                };
            }
            if stop.load(Ordering::Relaxed) {
                return Err(ZoneError::Interrupted.into());
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let node = Node::new(cluster, parts, incarnation, env!("CARGO_PKG_VERSION"), settings.threads);
        let node = Arc::new(node);
        zoneward_actors::serve::serve(&node);
        let engine = Engine::start(node.clone())
            .map_err(|e| Failure::new(2002, exit::FAILED, "the actors cannot be started").why(e.to_string()))?;
        let server = socket::serve(home.dir(), &node, engine.health_board())
            .map_err(|e| Failure::new(2003, exit::FAILED, "the daemon's socket cannot be opened").why(e.to_string()))?;
        Ok(Self { node, _home: home, engine, server: Some(server) })
    }

    /// How its actors do.
    pub fn health(&self) -> zoneward_actors::engine::HealthBoard {
        self.engine.health_board()
    }

    /// Whether the zone wants this home wiped.
    pub fn is_to_be_wiped(&self) -> bool {
        self.node.cluster.view().nodes.get(&self.node.id()).is_some_and(|n| n.wipe.is_some())
    }

    /// Wipes the home, and answers whether the zone heard of it, and what lies there besides. Cut anywhere, the next start
    /// goes on.
    pub fn wipe(mut self, dir: &Path) -> Result<(bool, Vec<PathBuf>), Failure> {
        wipe::begin(&self._home)?;
        // From here on nobody works here who could put something back.
        self.engine.stop();
        if let Some((handle, thread)) = self.server.take() {
            drop(handle.stop(true));
            let _ = thread.join();
        }
        wipe::secrets(dir)?;
        let told = self.node.cluster.say_last(&Command::Wiped {}, LAST_WORD).is_ok();
        drop(self);
        Ok((told, wipe::finish(dir)?))
    }

    /// Ends by itself when the node can no longer take part; the text says why.
    pub fn ended(&self) -> Option<String> {
        self.node.cluster.metrics().stopped.or_else(|| self.node.refused())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.engine.stop();
        if let Some((handle, thread)) = self.server.take() {
            // Graceful: requests under way are answered.
            drop(handle.stop(true));
            let _ = thread.join();
        }
    }
}
