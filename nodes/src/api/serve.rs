//! Where the API listens, and the server on a thread of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use zoneward_actors::engine::HealthBoard;
use zoneward_actors::node::Node;

use super::{BODY_LEN_MAX, Problem, Shared, document, envelope, front};
use crate::errors::{Failure, exit};

/// Where the API listens unless something else is said.
pub const LISTEN: &str = "127.0.0.1:7440";
/// Threads that answer.
const WORKERS: usize = 2;
/// Requests of one thread that wait for other nodes at once; more queue.
const BLOCKING_MAX: usize = 16;
/// Connections at once, of each thread; more wait.
const CONNECTIONS_MAX: usize = 128;
/// Time for the head of a request.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// Time that an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// Seconds that requests under way get when the daemon stops.
const STOP_S: u64 = 3;

/// A place to listen.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    pub address: SocketAddr,
}

/// Takes the place that `choice` names; `None` if there is to be no API. Where nothing was chosen, a place that another
/// program holds is no reason to stop: the text says so.
pub fn bind(choice: Option<&str>) -> Result<(Option<Listener>, Option<String>), Failure> {
    if choice.is_some_and(|c| c.eq_ignore_ascii_case("off")) {
        return Ok((None, None));
    }
    let text = choice.unwrap_or(LISTEN);
    let address: SocketAddr = text.parse().map_err(|_| {
        Failure::new(3102, exit::USAGE, format!("{text:?} is no address for the API"))
            .help("an IP address and a port, as in 127.0.0.1:7440, or off")
    })?;
    if !address.ip().is_loopback() {
        return Err(Failure::new(3103, exit::REFUSED, format!("the API does not listen on {address}"))
            .why("without TLS, tokens would pass the network as they are")
            .help("use 127.0.0.1 or [::1]; from elsewhere reach it through SSH (ssh -L 7440:127.0.0.1:7440) or a TLS proxy on this device"));
    }
    let bound = TcpListener::bind(address).and_then(|socket| {
        socket.set_nonblocking(true)?;
        Ok(Listener { address: socket.local_addr()?, socket })
    });
    match bound {
        Ok(l) => Ok((Some(l), None)),
        Err(e) if choice.is_none() => Ok((
            None,
            Some(format!("no API: {address} cannot be used ({e}); zoneward up --api ADDR takes another place")),
        )),
        Err(e) => Err(Failure::new(3104, exit::FAILED, format!("the API cannot listen on {address}"))
            .why(e.to_string())
            .help("is another program there? Give another --api ADDR, or --api off")),
    }
}

/// A running API. Dropping it stops it.
pub struct Server {
    pub address: SocketAddr,
    shared: web::Data<Shared>,
    running: Option<(ServerHandle, JoinHandle<std::io::Result<()>>)>,
    follower: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves a node's API.
    pub fn start(listener: Listener, node: &Arc<Node>, health: HealthBoard, home: &Path) -> Result<Self, Failure> {
        let failed = |why: String| Failure::new(3105, exit::FAILED, "the API cannot be started").why(why);
        let shared = web::Data::new(Shared::new(node.clone(), health, home.to_owned()));
        let Listener { socket, address } = listener;
        let mut server = Self { address, shared: shared.clone(), running: None, follower: None };
        server.follower = Some(follow(&shared).map_err(|e| failed(e.to_string()))?);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("api".into()).spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new()
                        .app_data(shared.clone())
                        .app_data(json())
                        .app_data(query())
                        .app_data(web::PayloadConfig::new(BODY_LEN_MAX))
                        .configure(document::configure)
                        .wrap(from_fn(envelope::envelope))
                        .wrap(from_fn(front::front))
                })
                .workers(WORKERS)
                .worker_max_blocking_threads(BLOCKING_MAX)
                .max_connections(CONNECTIONS_MAX)
                .client_request_timeout(HEAD_WAIT)
                .keep_alive(IDLE)
                .disable_signals()
                .shutdown_timeout(STOP_S)
                .listen(socket)?
                .run();
                // If nobody waits for it any more, the server is dropped with this.
                let _ = ready.send(server.handle());
                server.await
            })
        });
        let thread = thread.map_err(|e| failed(e.to_string()))?;
        match is_ready.recv() {
            Ok(handle) => {
                server.running = Some((handle, thread));
                Ok(server)
            }
            Err(_) => Err(failed(match thread.join() {
                Ok(Err(e)) => e.to_string(),
                _ => "the server ended at once".into(),
            })),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.events.stop();
        if let Some((handle, thread)) = self.running.take() {
            // Graceful: requests under way are answered.
            drop(handle.stop(true));
            let _ = thread.join();
        }
        if let Some(thread) = self.follower.take() {
            let _ = thread.join();
        }
    }
}

/// Follows the state for the events.
fn follow(shared: &web::Data<Shared>) -> std::io::Result<JoinHandle<()>> {
    let (node, events) = (shared.node.clone(), shared.events.clone());
    std::thread::Builder::new().name("events".into()).spawn(move || events.follow(&node))
}

/// How bodies are read.
fn json() -> web::JsonConfig {
    use actix_web::error::JsonPayloadError as E;
    web::JsonConfig::default().limit(BODY_LEN_MAX).error_handler(|e, _| {
        let problem = match &e {
            E::OverflowKnownLength { .. } | E::Overflow { .. } => Problem::too_large(BODY_LEN_MAX),
            E::ContentType => Problem::media_type(),
            E::Deserialize(e) if e.is_data() => Problem::value("", e.to_string()),
            e => Problem::malformed(e.to_string()),
        };
        problem.into()
    })
}

/// How parameters are read.
fn query() -> web::QueryConfig {
    web::QueryConfig::default().error_handler(|e, _| Problem::malformed(e.to_string()).into())
}
