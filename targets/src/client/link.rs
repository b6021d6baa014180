//! Connections to one server: pinned TLS 1.3, HTTP/1.1, a few at a time, a deadline for each exchange.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming as Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use zoneward_sectors::ids::Digest;

use super::Timing;
use crate::errors::{Op, TargetError};
use crate::limits::{ANSWER_LEN_MAX, LINK_TRIES, LINKS_MAX, READ_AHEAD, TRY_PAUSE};
use crate::server::{fingerprint, provider};
use crate::url::ServerUrl;

/// Threads of the runtime that all servers of this process share: they only move bytes.
const THREADS: usize = 2;

/// Pieces of a body that are shorter are copied together.
const FRAME_LEN_MIN: usize = 16 << 10;

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(super) enum LinkError {
    /// No connection, or it broke.
    Broken(String),
    /// The deadline passed.
    Slow(Duration),
    /// Another key than the pinned one.
    Stranger(Digest),
    /// More bytes than were asked for.
    Endless(u64),
}

impl LinkError {
    pub fn named(self, op: Op, what: &str) -> TargetError {
        let what = what.to_owned();
        match self {
            LinkError::Broken(reason) => TargetError::Unreachable { op, what, reason },
            LinkError::Slow(time) => {
                let reason = format!("it was not done after {:.1} s", time.as_secs_f32());
                TargetError::Unreachable { op, what, reason }
            }
            LinkError::Stranger(found) => {
                TargetError::Untrusted { op, what, reason: format!("its fingerprint is {found}") }
            }
            LinkError::Endless(limit) => TargetError::Protocol {
                op,
                what,
                reason: format!("it sends more than the {limit} bytes that may come"),
            },
        }
    }
}

/// A request.
#[derive(Clone)]
pub(super) struct Ask {
    method: Method,
    path: String,
    fields: Vec<(HeaderName, String)>,
    body: Bytes,
    limit: u64,
    carries: u64,
    time: Option<Duration>,
    tries: u32,
}

impl Ask {
    pub fn new(method: Method, path: String) -> Self {
        let (fields, body) = (Vec::new(), Bytes::new());
        Self { method, path, fields, body, limit: ANSWER_LEN_MAX, carries: 0, time: None, tries: LINK_TRIES }
    }

    /// Must not be sent twice.
    pub fn once(mut self) -> Self {
        self.tries = 1;
        self
    }

    pub fn field(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((HeaderName::from_static(name), value.into()));
        self
    }

    pub fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    /// Most bytes of the answer.
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// Bytes that the server works through, or that come back, for its deadline.
    pub fn carries(mut self, bytes: u64) -> Self {
        self.carries = bytes;
        self
    }

    /// Another time than that of an ordinary request.
    pub fn time(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }
}

/// An answer.
pub(super) struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub frames: Vec<Bytes>,
}

impl Got {
    /// The body in one piece.
    pub fn body(&self) -> Bytes {
        match self.frames.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            all => {
                let mut out = BytesMut::with_capacity(all.iter().map(Bytes::len).sum());
                all.iter().for_each(|f| out.extend_from_slice(f));
                out.freeze()
            }
        }
    }

    pub fn len(&self) -> u64 {
        self.frames.iter().map(|f| f.len() as u64).sum()
    }
}

fn runtime() -> Result<&'static Runtime, LinkError> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let make = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(THREADS).thread_name("target-link").enable_all().build().ok()
    };
    RUNTIME.get_or_init(make).as_ref().ok_or_else(|| LinkError::Broken("no threads could be started".into()))
}

/// Starts work on the shared runtime; it ends when the handle is aborted or the work does.
pub(super) fn start<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<tokio::task::JoinHandle<T>, LinkError> {
    Ok(runtime()?.spawn(work))
}

/// Runs work on the shared runtime and waits for it: from any thread, also one of another runtime.
pub(super) fn run<T: Send + 'static>(
    work: impl Future<Output = Result<T, LinkError>> + Send + 'static,
) -> Result<T, LinkError> {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    runtime()?.spawn(async move {
        let _ = tell.send(work.await);
    });
    told.recv().unwrap_or_else(|_| Err(LinkError::Broken("the work was dropped".into())))
}

type Sender = SendRequest<Full<Bytes>>;

struct Inner {
    host: String,
    port: u16,
    authority: HeaderValue,
    token: HeaderValue,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timing: Timing,
    idle: Mutex<Vec<Sender>>,
    room: Semaphore,
}

/// The way to one server.
#[derive(Clone)]
pub(super) struct Link(Arc<Inner>);

impl Link {
    pub fn new(url: &ServerUrl, pin: Option<Digest>, token: &str, timing: Timing) -> Result<Self, String> {
        let mut token =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| "the token is no line of text".to_owned())?;
        token.set_sensitive(true);
        let authority = HeaderValue::from_str(&url.authority()).map_err(|e| e.to_string())?;
        let name = ServerName::try_from(url.host.clone()).map_err(|e| e.to_string());
        let tls = pin.map(|pin| Ok::<_, String>((TlsConnector::from(Arc::new(client(pin)?)), name?))).transpose()?;
        let (idle, room) = (Mutex::default(), Semaphore::new(LINKS_MAX));
        Ok(Self(Arc::new(Inner { host: url.host.clone(), port: url.port, authority, token, tls, timing, idle, room })))
    }

    pub fn timing(&self) -> Timing {
        self.0.timing
    }

    /// One exchange, from any thread.
    pub fn ask(&self, ask: Ask) -> Result<Got, LinkError> {
        let link = self.clone();
        run(async move { link.exchange(ask).await })
    }

    /// One exchange, tried again while no answer comes, if it may be.
    pub async fn exchange(&self, ask: Ask) -> Result<Got, LinkError> {
        let mut pause = TRY_PAUSE;
        for _ in 1..ask.tries {
            match self.once(&ask).await {
                // A slow server is not asked again at once: what it did not do in its time makes it no faster.
                Err(LinkError::Broken(_)) => {}
                done => return done,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.once(&ask).await
    }

    /// One exchange within its deadline, once.
    pub async fn once(&self, ask: &Ask) -> Result<Got, LinkError> {
        let t = &self.0.timing;
        let bytes = ask.carries.saturating_add(ask.body.len() as u64);
        let time = ask.time.unwrap_or(t.request) + Duration::from_secs(bytes / t.rate_min.max(1));
        let slow = |_| LinkError::Slow(time);
        let closed = |_| LinkError::Broken("it is closed".into());
        // Waiting for the other exchanges of this process is none of the server's time.
        let _room = self.0.room.acquire().await.map_err(closed)?;
        tokio::time::timeout(time, self.talk(ask)).await.map_err(slow)?
    }

    async fn talk(&self, ask: &Ask) -> Result<Got, LinkError> {
        let (mut sender, old) = match self.idle().await {
            Some(sender) => (sender, true),
            None => (self.connect().await?, false),
        };
        let answer = match sender.send_request(self.request(ask)?).await {
            // The server closed it while it was idle: that says nothing.
            Err(e) if old && ask.tries > 1 && (e.is_canceled() || e.is_closed() || e.is_incomplete_message()) => {
                sender = self.connect().await?;
                sender.send_request(self.request(ask)?).await
            }
            answer => answer,
        };
        let (head, body) = answer.map_err(|e| broken(&e))?.into_parts();
        let frames = collect(body, ask.limit).await?;
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < LINKS_MAX && !sender.is_closed() {
            idle.push(sender);
        }
        Ok(Got { status: head.status, headers: head.headers, frames })
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, LinkError> {
        let mut request = Request::new(Full::new(ask.body.clone()));
        *request.method_mut() = ask.method.clone();
        let bad = |e: &dyn std::fmt::Display| LinkError::Broken(format!("the request cannot be made: {e}"));
        *request.uri_mut() = ask.path.parse().map_err(|e| bad(&e))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.0.authority.clone());
        headers.insert(AUTHORIZATION, self.0.token.clone());
        if ask.method != Method::GET && ask.method != Method::HEAD {
            headers.insert(CONTENT_LENGTH, ask.body.len().into());
        }
        for (name, value) in &ask.fields {
            headers.insert(name, HeaderValue::from_str(value).map_err(|e| bad(&e))?);
        }
        Ok(request)
    }

    /// A connection that is open and has nothing to do.
    async fn idle(&self) -> Option<Sender> {
        loop {
            let mut sender = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self) -> Result<Sender, LinkError> {
        let time = self.0.timing.connect;
        tokio::time::timeout(time, self.connect_slowly()).await.map_err(|_| LinkError::Slow(time))?
    }

    async fn connect_slowly(&self) -> Result<Sender, LinkError> {
        let io = |e: std::io::Error| LinkError::Broken(e.to_string());
        let tcp = TcpStream::connect((self.0.host.as_str(), self.0.port)).await.map_err(io)?;
        tcp.set_nodelay(true).map_err(io)?;
        match &self.0.tls {
            Some((tls, name)) => {
                // Read ahead: rustls asks for 4 KiB at a time.
                let tcp = BufReader::with_capacity(READ_AHEAD, tcp);
                let stream = tls.connect(name.clone(), tcp).await.map_err(|e| stranger(&e).unwrap_or_else(|| io(e)))?;
                speak(TokioIo::new(stream)).await
            }
            None => speak(TokioIo::new(tcp)).await,
        }
    }
}

/// What a person can use of an error of the connection.
fn broken(e: &hyper::Error) -> LinkError {
    let mut text = e.to_string();
    if let Some(cause) = std::error::Error::source(e) {
        text = format!("{text}: {cause}");
    }
    LinkError::Broken(text)
}

/// A body of at most `limit` bytes. Short pieces are gathered: each costs its place in the list and the buffer that it
/// lies in, so a body sent byte by byte would take many times its length.
async fn collect(mut body: Body, limit: u64) -> Result<Vec<Bytes>, LinkError> {
    let (mut frames, mut gathered, mut len) = (Vec::new(), BytesMut::new(), 0u64);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| broken(&e))?.into_data() else { continue };
        len += data.len() as u64;
        if len > limit {
            return Err(LinkError::Endless(limit));
        }
        if data.len() < FRAME_LEN_MIN {
            gathered.extend_from_slice(&data);
            if gathered.len() < 4 * FRAME_LEN_MIN {
                continue;
            }
        }
        if !gathered.is_empty() {
            frames.push(gathered.split().freeze());
        }
        if data.len() >= FRAME_LEN_MIN {
            frames.push(data);
        }
    }
    if !gathered.is_empty() {
        frames.push(gathered.freeze());
    }
    Ok(frames)
}

async fn speak<T>(io: T) -> Result<Sender, LinkError>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new().handshake(io).await.map_err(|e| broken(&e))?;
    tokio::spawn(async move {
        // What breaks a connection is told to whoever waits for its answer.
        let _ = connection.await;
    });
    Ok(sender)
}

/// The fingerprint of a server that is not the pinned one, if that is what the handshake failed for.
fn stranger(e: &std::io::Error) -> Option<LinkError> {
    match e.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<Stranger>().map(|s| LinkError::Stranger(s.0))
        }
        _ => None,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the server's fingerprint is {0}")]
struct Stranger(Digest);

/// Believes one key, whatever names and dates its certificate shows.
#[derive(Debug)]
struct Pinned {
    pin: Digest,
    provider: Arc<CryptoProvider>,
}

fn client(pin: Digest) -> Result<rustls::ClientConfig, String> {
    let provider = provider();
    let pinned = Arc::new(Pinned { pin, provider: provider.clone() });
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .dangerous() // The name of rustls for a verifier of one's own.
        .with_custom_certificate_verifier(pinned)
        .with_no_client_auth();
    // A resumed session would skip the look at the key.
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(tls)
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found =
            fingerprint(end_entity).map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if found == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(Stranger(found))))))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
