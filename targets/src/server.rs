//! Our own target server: keeps the sectors of zones that it knows nothing of, behind tokens, over TLS 1.3.
//!
//! What it never does: see a key or a name, change a sealed sector, or remove one before its lock ends. What it keeps
//! is laid out as a [`DirectoryTarget`] lays it out, so the disk can be read as `file://` and by the rescue script;
//! its own files lie in `server/` beside the zones:
//!
//! ```text
//! server/certificate.pem, key.pem           what it shows in the handshake
//! server/tokens.json                        tokens (hashed) and accounts
//! server/clock.json                         credited time
//! server/scrub.json                         what the last scrub found
//! server/zones/<alias>/account.json         whose zone it is
//! server/zones/<alias>/hashes/<copy>        hashes of what was received
//! ```

mod append;
mod chores;
mod credit;
mod hashes;
mod identity;
mod listen;
mod places;
mod range;
mod refusal;
mod routes;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;
mod uploads;

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CopyId, Digest, TargetId, ZoneAlias};
use zoneward_sectors::limits::CLASS_LOG2_MAX;

use self::chores::{Chores, Scrubbed};
use self::credit::Clock;
pub use self::credit::Jump;
pub use self::identity::GivenCertificate;
use self::identity::Identity;
pub(crate) use self::identity::{fingerprint, provider};
use self::places::Places;
use self::refusal::Refusal;
pub use self::tokens::{Account, NewToken, TokenError, TokenFile, TokenRecord, Tokens};
use self::uploads::Uploads;
use crate::directory::{DirectoryTarget, Existing};
use crate::errors::TargetError;
use crate::limits::{APPENDS_AT_ONCE, CONNECTIONS_MAX, KEEP_ALIVE, REQUEST_TIME};
use crate::protocol::{Code, Price};

/// The server's own folder in its data directory.
const OWN: &str = "server";

/// How a server is to serve.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Days of credited time that a removed sector is kept.
    pub lock_days: u32,
    /// Tell zones that every sector takes its whole class.
    pub fixed_sectors: bool,
    /// Largest class, as log2 of bytes.
    pub max_class_log2: u8,
    pub price: Option<Price>,
    /// None: the data directory's own, made at the first start.
    pub certificate: Option<GivenCertificate>,
    /// Bytes a second that a scrub reads.
    pub scrub_rate: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lock_days: 7,
            fixed_sectors: false,
            max_class_log2: CLASS_LOG2_MAX,
            price: None,
            certificate: None,
            scrub_rate: crate::limits::SCRUB_RATE,
        }
    }
}

/// What an operator should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The wall clock jumped; the locks did not move.
    ClockJumped(Jump),
    /// A sealed sector is no longer what was received.
    Damaged(ZoneAlias, CopyId),
    /// A removed sector's lock ended and it is gone.
    Purged(ZoneAlias, CopyId),
    /// A chore failed and is tried again.
    Failed(String),
}

/// Why a server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot use {path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Tokens(#[from] TokenError),
    #[error("{path} cannot be used as the server's certificate: {why}")]
    Certificate { path: String, why: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("another server works in {0}")]
    Busy(String),
}

impl ServeError {
    fn at(path: &Path) -> impl Fn(std::io::Error) -> ServeError {
        let path = path.display().to_string();
        move |source| ServeError::Io { path: path.clone(), source }
    }
}

type Tell = Box<dyn Fn(Event) + Send + Sync>;

/// A data directory that is being served.
pub struct Server {
    data: PathBuf,
    own: PathBuf,
    settings: Settings,
    target: DirectoryTarget,
    identity: Identity,
    tokens: RwLock<Tokens>,
    /// Length and time of the token file that `tokens` came from.
    tokens_stamp: Mutex<Option<(u64, std::time::SystemTime)>>,
    places: Places,
    uploads: Uploads,
    appends: tokio::sync::Semaphore,
    clock: Mutex<Clock>,
    scrubbed: Mutex<Scrubbed>,
    tell: Tell,
    _alone: std::fs::File,
}

fn failed_thread(_: tokio::task::JoinError) -> Refusal {
    Refusal::new(Code::Store, "the server's store failed")
}

impl Server {
    /// Opens a data directory, which is made if it is not there. One server works in it at a time.
    pub fn open(data: &Path, settings: Settings, tell: Tell) -> Result<Arc<Self>, ServeError> {
        let target = DirectoryTarget::create(data, TargetId::random(), Existing::Adopt)?;
        let own = data.join(OWN);
        fsx::create_dir_all(&own, 0o700).map_err(ServeError::at(&own))?;
        let lock = own.join("serving.lock");
        let alone = fsx::open_rw(&lock, 0o600).map_err(ServeError::at(&lock))?;
        rustix::fs::flock(&alone, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| ServeError::Busy(data.display().to_string()))?;
        let identity = Identity::open(&own, settings.certificate.as_ref())?;
        let tokens = RwLock::new(TokenFile::of(data).load()?);
        let places = Places::open(&own, &target).map_err(ServeError::at(&own))?;
        let clock = Mutex::new(Clock::open(&own).map_err(ServeError::at(&own))?);
        let scrubbed = Mutex::new(Scrubbed::open(&own).map_err(ServeError::at(&own))?);
        Ok(Arc::new(Self {
            data: data.to_owned(),
            own,
            settings,
            target,
            identity,
            tokens,
            tokens_stamp: Mutex::default(),
            places,
            uploads: Uploads::default(),
            appends: tokio::sync::Semaphore::new(APPENDS_AT_ONCE),
            clock,
            scrubbed,
            tell,
            _alone: alone,
        }))
    }

    /// SHA-256 of the public key that the server shows: what clients pin.
    pub fn fingerprint(&self) -> Digest {
        self.identity.fingerprint
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_ms(&self) -> u64 {
        u64::from(self.settings.lock_days) * 86_400_000
    }

    /// Serves on a listener until it is stopped.
    pub fn start(self: &Arc<Self>, listener: TcpListener) -> Result<Running, ServeError> {
        let tls = self.identity.tls()?;
        self.run(listener, Some(tls))
    }

    /// The same without encryption: only to measure what encryption costs.
    #[doc(hidden)]
    pub fn start_plain_to_measure(self: &Arc<Self>, listener: TcpListener) -> Result<Running, ServeError> {
        self.run(listener, None)
    }

    fn run(self: &Arc<Self>, listener: TcpListener, tls: Option<rustls::ServerConfig>) -> Result<Running, ServeError> {
        let failed = |source| ServeError::Io { path: "the address to listen at".to_owned(), source };
        let address = listener.local_addr().map_err(failed)?;
        let server = self.clone();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let (alive, gone) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("target-server".into()).spawn(move || {
            let serve = async {
                let workers = std::thread::available_parallelism().map_or(2, |n| n.get()).min(8);
                let app = move || routes::app(server.clone()).app_data(alive.clone());
                let http = match tls {
                    Some(tls) => listen::over_tls(listener, tls, workers, SHUTDOWN_S, app),
                    None => actix_web::HttpServer::new(app)
                        .workers(workers)
                        .max_connections(CONNECTIONS_MAX.div_ceil(workers))
                        .keep_alive(KEEP_ALIVE)
                        .client_request_timeout(REQUEST_TIME)
                        .shutdown_timeout(SHUTDOWN_S)
                        .disable_signals()
                        .listen(listener)
                        .map(actix_web::HttpServer::run),
                };
                match http {
                    Ok(running) => {
                        let _ = tell.send(Ok(running.handle()));
                        running.await
                    }
                    Err(e) => {
                        let _ = tell.send(Err(e));
                        Ok(())
                    }
                }
            };
            actix_web::rt::System::new().block_on(serve)
        });
        let thread = thread.map_err(failed)?;
        let handle = told.recv().map_err(|e| failed(std::io::Error::other(e)))?.map_err(failed)?;
        Ok(Running { address, handle, thread: Some(thread), gone, chores: Some(Chores::start(self)) })
    }
}

/// Seconds that requests have to end when the server is stopped.
const SHUTDOWN_S: u64 = 5;
/// Longest wait for the threads that answer, once they were told to end.
const END_WAIT: Duration = Duration::from_secs(10);

/// A server that serves. Dropping it ends it; once that is done nothing is answered any more.
pub struct Running {
    pub address: SocketAddr,
    handle: actix_web::dev::ServerHandle,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
    /// Ends when no thread is left that could answer: each holds the other side, which never sends.
    gone: Receiver<Infallible>,
    chores: Option<Chores>,
}

impl Running {
    /// Lets requests end for a few seconds, then stops.
    pub fn stop(mut self) {
        self.end(true);
    }

    fn end(&mut self, graceful: bool) {
        self.chores = None;
        let Some(thread) = self.thread.take() else { return };
        // The order is given when the future is made; awaiting it would need a runtime here.
        drop(self.handle.stop(graceful));
        let _ = thread.join();
        // That was the thread that takes connections; those that answer end after it, on their own.
        let _ = self.gone.recv_timeout(END_WAIT);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(false);
    }
}
