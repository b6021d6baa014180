//! Requests over HTTP with a limit on everything: time, tries, and bytes of the answer, whatever its server says.
//!
//! All requests that are sent here may be sent twice: they put a whole thing, ask, or remove.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode, header};

use crate::credentials::Credentials;
use crate::errors::{Op, TargetError};
use crate::limits::{CONNECT_MS, PAUSE_MS, PAUSE_MS_MAX, REQUEST_MS, SLOWEST_BYTES_PER_S, TRIES};

/// Bytes of an error's name in an answer.
const CODE_LEN_MAX: usize = 64;

/// A connection pool to one server, and what went over it.
pub(crate) struct Wire {
    client: reqwest::Client,
    sent: AtomicU64,
    received: AtomicU64,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

/// A request, and how many bytes its answer may have.
pub(crate) struct Ask {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub answer_max: u64,
}

/// A whole answer of status 2xx.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("{0}")]
    Unreachable(String),
    #[error("it took longer than {} seconds", .0.as_secs())]
    TimedOut(Duration),
    #[error("its answer is longer than the {0} bytes that were asked for")]
    Endless(u64),
    #[error("its answer ended early")]
    Short,
    #[error("it answers {status} {code}")]
    Status { status: StatusCode, code: String, wait: Option<Duration> },
    #[error("{0}")]
    Nonsense(String),
}

impl WireError {
    /// Whether the same request may soon do better.
    fn passes(&self) -> bool {
        match self {
            WireError::Unreachable(_) | WireError::TimedOut(_) | WireError::Short => true,
            WireError::Endless(_) | WireError::Nonsense(_) => false,
            WireError::Status { status, .. } => matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504),
        }
    }

    /// As a target's error. A code that only one kind of server has is for its adapter to look at first.
    pub fn to_target(&self, op: Op, what: &str) -> TargetError {
        let what = what.to_owned();
        let reason = self.to_string();
        let other = || std::io::Error::other(reason.clone());
        match self {
            WireError::Unreachable(_) | WireError::TimedOut(_) | WireError::Short => {
                TargetError::Unreachable { op, what, reason }
            }
            WireError::Endless(_) | WireError::Nonsense(_) => TargetError::Protocol { op, what, reason },
            WireError::Status { status, wait, .. } => match status.as_u16() {
                401 | 407 => TargetError::Auth { op, what, reason },
                403 | 405 | 423 => TargetError::Denied { op, what, source: other() },
                404 | 410 => TargetError::NotFound { op, what },
                402 | 413 | 507 => TargetError::Full { op, what, source: other() },
                429 | 503 => TargetError::Throttled {
                    op,
                    what,
                    wait_ms: wait.map(|w| w.as_millis().min(u64::MAX.into()) as u64),
                },
                500..=599 => TargetError::Io { op, what, source: other() },
                _ => TargetError::Protocol { op, what, reason },
            },
        }
    }
}

/// Time for one request that carries this many bytes, to or fro.
pub(crate) fn request_ms(bytes: u64) -> Duration {
    Duration::from_millis(REQUEST_MS + bytes.saturating_mul(1000) / SLOWEST_BYTES_PER_S)
}

impl Wire {
    /// A pool without connections.
    pub fn new(credentials: Option<&Credentials>, what: &str) -> Result<Self, TargetError> {
        let op = Op::OpenTarget;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("zoneward/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .connect_timeout(Duration::from_millis(CONNECT_MS))
            // A server that sends elsewhere would get the credentials there.
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(Duration::from_secs(30));
        if let Some(pem) = credentials.and_then(|c| c.get("ca")) {
            let bad = |_| TargetError::Auth {
                op,
                what: what.to_owned(),
                reason: "its ca is no certificate in PEM".to_owned(),
            };
            builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(bad)?);
        }
        let client = builder.build().map_err(|e| TargetError::Io {
            op,
            what: what.to_owned(),
            source: std::io::Error::other(reasons(&e)),
        })?;
        Ok(Self { client, sent: AtomicU64::new(0), received: AtomicU64::new(0) })
    }

    /// Bytes of content that went out and came in.
    pub fn moved(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// Sends a request until it is answered, a few times at most.
    pub async fn ask(&self, ask: &Ask) -> Result<Answer, WireError> {
        let mut pause = Duration::from_millis(PAUSE_MS);
        let mut tries = 1;
        loop {
            let failed = match self.ask_once(ask).await {
                Ok(answer) => return Ok(answer),
                Err(e) => e,
            };
            let asked = match &failed {
                WireError::Status { wait, .. } => *wait,
                _ => None,
            };
            let long = asked.is_some_and(|w| w > Duration::from_millis(PAUSE_MS_MAX));
            if tries >= TRIES || !failed.passes() || long {
                return Err(failed);
            }
            tokio::time::sleep(asked.unwrap_or(pause)).await;
            pause *= 4;
            tries += 1;
        }
    }

    async fn ask_once(&self, ask: &Ask) -> Result<Answer, WireError> {
        let limit = request_ms(ask.body.len() as u64 + ask.answer_max);
        tokio::time::timeout(limit, self.exchange(ask)).await.unwrap_or(Err(WireError::TimedOut(limit)))
    }

    async fn exchange(&self, ask: &Ask) -> Result<Answer, WireError> {
        let url: reqwest::Url =
            ask.url.parse().map_err(|_| WireError::Nonsense("the URL cannot be used".to_owned()))?;
        let mut request = reqwest::Request::new(ask.method.clone(), url);
        request.headers_mut().clone_from(&ask.headers);
        *request.body_mut() = Some(ask.body.clone().into());
        let response = self.client.execute(request).await.map_err(|e| unreachable(&e))?;
        self.sent.fetch_add(ask.body.len() as u64, Ordering::Relaxed);
        let (status, headers) = (response.status(), response.headers().clone());
        // What a server says about an error is cut, what was asked for is not.
        let max = if status.is_success() { ask.answer_max } else { 4096 };
        let promised = response.content_length();
        if status.is_success() && ask.method != Method::HEAD && promised.is_some_and(|n| n > max) {
            return Err(WireError::Endless(max));
        }
        let mut body = BytesMut::with_capacity(promised.unwrap_or(0).min(max) as usize);
        let mut stream = response.bytes_stream();
        while let Some(piece) = stream.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(_) if !status.is_success() => break,
                Err(e) if e.is_timeout() || e.is_connect() => return Err(unreachable(&e)),
                Err(_) => return Err(WireError::Short),
            };
            self.received.fetch_add(piece.len() as u64, Ordering::Relaxed);
            let room = max.saturating_sub(body.len() as u64) as usize;
            body.extend_from_slice(piece.get(..room).unwrap_or(&piece));
            if piece.len() > room {
                if status.is_success() {
                    return Err(WireError::Endless(max));
                }
                break;
            }
        }
        if status.is_success() {
            return Ok(Answer { status, headers, body: body.freeze() });
        }
        let wait = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        Err(WireError::Status { status, code: code_of(&body), wait: wait.map(Duration::from_secs) })
    }
}

/// The name that an XML answer gives an error, in letters and digits alone; empty if it has none.
pub(crate) fn code_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map_or("", |(code, _)| code);
    code.chars().filter(char::is_ascii_alphanumeric).take(CODE_LEN_MAX).collect()
}

fn unreachable(e: &reqwest::Error) -> WireError {
    WireError::Unreachable(reasons(e))
}

/// An error's causes without the URL, whose query could be long.
fn reasons(e: &reqwest::Error) -> String {
    let mut out = String::new();
    let mut next = std::error::Error::source(e);
    while let Some(e) = next {
        if !out.is_empty() {
            out.push_str(": ");
        }
        out.push_str(&e.to_string());
        next = e.source();
    }
    if out.is_empty() { "the request failed".to_owned() } else { out }
}
