//! Calls: one bidirectional stream each, header and body there, header and body back.
//!
//! [`Handler`] serves a kind of call, [`Caller`] makes calls; real links and the in-memory network have the same two.
//! Dropping a call's future cancels the call: the peer drops the handler's future.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use zoneward_sectors::ids::NodeId;

use crate::bulk::BulkHandler;
use crate::error::{Broken, CallError, Refusal};
use crate::limits::{
    BULK_PER_PEER_MAX, DEADLINE_MS_MAX, HEADER_MS_MAX, RAFT_BYTES_PER_PEER_MAX, RAFT_PER_PEER_MAX, RPC_BODY_MAX,
    RPC_BYTES_PER_PEER_MAX, RPC_PER_PEER_MAX,
};
use crate::wire::{FrameError, MAGIC_LEN, REQUEST_LEN, RESPONSE_LEN, Request, Response, Retry, Status};

/// Kinds of calls whose numbers are fixed. A number is never used again for something else.
pub mod kind {
    /// Messages of the consensus.
    pub const RAFT: u16 = 1;
    /// A command on its way to the leader.
    pub const PROPOSE: u16 = 2;
    /// A node tells the leader where it can be reached.
    pub const ANNOUNCE: u16 = 3;
    /// How a node does, and what it works on.
    pub const REPORT: u16 = 4;
    /// A change of members on its way to the leader.
    pub const MEMBERS: u16 = 5;
    /// A range of a copy's stored bytes.
    pub const READ: u16 = 6;
    /// A zone secret, for a node that keeps data.
    pub const SECRET: u16 = 7;
    /// The owner's sealed keys, for a node that keeps data.
    pub const OWNER_KEY: u16 = 8;
    /// A signature of the zone's newest head.
    pub const HEAD: u16 = 9;
}

/// A future in a box, as the traits here return it.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Serves one kind of call.
pub trait Handler: Send + Sync + 'static {
    /// Answers `body`, which the member `from` sent. The future is dropped when the deadline passes, the caller goes
    /// away or the member is removed.
    fn handle(&self, from: NodeId, body: Vec<u8>) -> Boxed<'_, Result<Vec<u8>, Refusal>>;
}

/// Makes calls.
pub trait Caller: Send + Sync + 'static {
    /// Sends `body` to the service `kind` of the member `to` and waits for the answer, at most `deadline`.
    fn send(&self, to: NodeId, kind: u16, body: Vec<u8>, deadline: Duration) -> Boxed<'_, Result<Vec<u8>, CallError>>;
}

/// What this node serves. Clones share it; services may be added while it serves.
#[derive(Clone, Default)]
pub struct Services(Arc<RwLock<Table>>);

#[derive(Default)]
struct Table {
    calls: HashMap<u16, Arc<dyn Handler>>,
    bulk: HashMap<u16, Arc<dyn BulkHandler>>,
}

impl Services {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves calls of `kind` with `handler` from now on.
    pub fn serve(&self, kind: u16, handler: Arc<dyn Handler>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).calls.insert(kind, handler);
    }

    /// Receives bulk streams of `purpose` with `handler` from now on.
    pub fn receive(&self, purpose: u16, handler: Arc<dyn BulkHandler>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).bulk.insert(purpose, handler);
    }

    pub(crate) fn handler(&self, kind: u16) -> Result<Arc<dyn Handler>, Refusal> {
        let found = self.0.read().unwrap_or_else(PoisonError::into_inner).calls.get(&kind).cloned();
        found.ok_or_else(|| unknown("calls of kind", kind))
    }

    pub(crate) fn bulk_handler(&self, purpose: u16) -> Result<Arc<dyn BulkHandler>, Refusal> {
        let found = self.0.read().unwrap_or_else(PoisonError::into_inner).bulk.get(&purpose).cloned();
        found.ok_or_else(|| unknown("bulk streams of purpose", purpose))
    }
}

fn unknown(what: &str, number: u16) -> Refusal {
    let text = format!("this node serves no {what} {number}: it may be older, or still starting");
    Refusal::with(Status::UnknownKind, Retry::Later, text)
}

/// Room for some kinds of calls.
pub(crate) struct Lane {
    pub calls: Arc<Semaphore>,
    body_bytes: Arc<Semaphore>,
}

impl Lane {
    fn new(calls: usize, bytes: usize) -> Self {
        Self { calls: Arc::new(Semaphore::new(calls)), body_bytes: Arc::new(Semaphore::new(bytes)) }
    }
}

/// What one peer may have under way at once, towards it or from it. What is over it waits; how much can wait is bounded
/// by the number of streams.
pub(crate) struct PeerLimits {
    raft: Lane,
    other: Lane,
    pub bulk: Arc<Semaphore>,
}

impl PeerLimits {
    pub fn new() -> Self {
        Self {
            raft: Lane::new(RAFT_PER_PEER_MAX, RAFT_BYTES_PER_PEER_MAX),
            other: Lane::new(RPC_PER_PEER_MAX, RPC_BYTES_PER_PEER_MAX),
            bulk: Arc::new(Semaphore::new(BULK_PER_PEER_MAX)),
        }
    }

    pub fn lane(&self, kind: u16) -> &Lane {
        if kind == kind::RAFT { &self.raft } else { &self.other }
    }
}

/// Takes its stream back unless it ended well: quinn would finish it, as if all had been said.
pub(crate) struct Sending(Option<SendStream>);

impl Sending {
    pub fn new(stream: SendStream) -> Self {
        Self(Some(stream))
    }

    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), quinn::WriteError> {
        match &mut self.0 {
            Some(s) => s.write_all(bytes).await,
            None => Err(quinn::WriteError::ClosedStream),
        }
    }

    /// Says that this was all; gives the stream back for those who wait until it arrived.
    pub fn finish(mut self) -> Option<SendStream> {
        let mut stream = self.0.take()?;
        stream.finish().ok()?; // Fails only if the peer wants no more of it.
        Some(stream)
    }

    /// Resolves when the peer wants no more of it or is gone.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.0.as_ref().map(SendStream::stopped);
        async move {
            if let Some(stopped) = stopped {
                let _ = stopped.await; // Either way nobody waits any more.
            }
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.0 {
            let _ = stream.reset(VarInt::from_u32(1)); // Fails only if it is closed already.
        }
    }
}

pub(crate) fn broken(node: NodeId, e: quinn::ConnectionError) -> CallError {
    CallError::Broken { node, source: Broken::from(e) }
}

/// Reads exactly `N` bytes of a frame.
pub(crate) async fn read_array<const N: usize>(recv: &mut RecvStream) -> Result<[u8; N], ReadError> {
    let mut b = [0u8; N];
    recv.read_exact(&mut b).await?;
    Ok(b)
}

/// Why a frame could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Frame(FrameError),
    Lost(quinn::ConnectionError),
}

impl From<FrameError> for ReadError {
    fn from(e: FrameError) -> Self {
        Self::Frame(e)
    }
}

impl From<quinn::ReadExactError> for ReadError {
    fn from(e: quinn::ReadExactError) -> Self {
        match e {
            quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(e)) => Self::Lost(e),
            _ => Self::Frame(FrameError::Cut),
        }
    }
}

/// Reads a body of the announced length, which was checked, and the end of the stream. Memory grows with what arrives,
/// not with what is announced.
pub(crate) async fn read_body(recv: &mut RecvStream, len: u32) -> Result<Vec<u8>, ReadError> {
    let len = len as usize;
    let mut body = Vec::new();
    loop {
        match recv.read_chunk(len + 1 - body.len(), true).await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk.bytes),
            Ok(None) if body.len() == len => return Ok(body),
            Ok(None) => return Err(FrameError::Cut.into()),
            Err(quinn::ReadError::ConnectionLost(e)) => return Err(ReadError::Lost(e)),
            Err(_) => return Err(FrameError::Cut.into()),
        }
        if body.len() > len {
            return Err(FrameError::Damaged("bytes follow the body").into());
        }
    }
}

/// Reads an answer: the body, or the peer's refusal.
pub(crate) async fn read_response(recv: &mut RecvStream, max: usize) -> Result<Result<Vec<u8>, Refusal>, ReadError> {
    let header = Response::parse(&read_array::<RESPONSE_LEN>(recv).await?, max)?;
    let body = read_body(recv, header.body_len).await?;
    if header.status == Status::Ok {
        return Ok(Ok(body));
    }
    // The text ends on a person's screen: nothing in it may steer a terminal.
    let text = String::from_utf8_lossy(&body).chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    Ok(Err(Refusal::with(header.status, header.retry, text)))
}

/// The bytes of an answer.
pub(crate) fn response_bytes(answer: &Result<Vec<u8>, Refusal>) -> Vec<u8> {
    let (status, retry, body) = match answer {
        Ok(body) => (Status::Ok, Retry::Never, body.as_slice()),
        Err(r) => (r.status, r.retry, r.text.as_bytes()),
    };
    // Callers keep bodies below RPC_BODY_MAX, which fits.
    let body_len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&Response { status, retry, body_len }.to_bytes()[..], body].concat()
}

/// Makes one call on a connection.
pub(crate) async fn call(
    connection: &quinn::Connection,
    node: NodeId,
    kind: u16,
    body: &[u8],
    until: Instant,
    after: Duration,
) -> Result<Vec<u8>, CallError> {
    let work = async {
        let (send, mut recv) = connection.open_bi().await.map_err(|e| broken(node, e))?;
        // Heartbeats go before calls, calls before bulk. It fails only on a closed stream, which is found below.
        let _ = send.set_priority(if kind == kind::RAFT { 2 } else { 1 });
        let mut send = Sending::new(send);
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        let deadline_ms = u32::try_from(left).unwrap_or(DEADLINE_MS_MAX).clamp(1, DEADLINE_MS_MAX);
        let body_len = u32::try_from(body.len()).unwrap_or(u32::MAX); // The caller checked the limit.
        let header = Request { kind, deadline_ms, body_len }.to_bytes();
        let sent = async {
            send.write(&header).await?;
            send.write(body).await
        };
        match sent.await {
            // A peer that wants no more has said why.
            Ok(()) | Err(quinn::WriteError::Stopped(_)) => {}
            Err(quinn::WriteError::ConnectionLost(e)) => return Err(broken(node, e)),
            Err(e) => return Err(CallError::Broken { node, source: Broken::Other(e.to_string()) }),
        }
        let _ = send.finish();
        match read_response(&mut recv, RPC_BODY_MAX).await {
            Ok(answer) => answer.map_err(|source| CallError::Refused { node, source }),
            Err(ReadError::Frame(source)) => Err(CallError::Frame { node, source }),
            Err(ReadError::Lost(e)) => Err(broken(node, e)),
        }
    };
    timeout_at(until, work).await.unwrap_or(Err(CallError::Deadline { node, after }))
}

/// Serves one call, whose first four bytes are read.
pub(crate) async fn serve(
    magic: [u8; MAGIC_LEN],
    send: SendStream,
    mut recv: RecvStream,
    from: NodeId,
    services: &Services,
    limits: &PeerLimits,
) {
    let mut send = Sending::new(send);
    let Some(answer) = answer(magic, &mut recv, &send, from, services, limits).await else {
        return; // The caller is gone.
    };
    let bytes = response_bytes(&answer);
    let written = timeout(Duration::from_millis(u64::from(DEADLINE_MS_MAX)), send.write(&bytes)).await;
    if matches!(written, Ok(Ok(()))) {
        let _ = send.finish(); // A caller that left meanwhile misses nothing.
    }
}

/// The answer, or nothing if the caller left.
async fn answer(
    magic: [u8; MAGIC_LEN],
    recv: &mut RecvStream,
    send: &Sending,
    from: NodeId,
    services: &Services,
    limits: &PeerLimits,
) -> Option<Result<Vec<u8>, Refusal>> {
    let header = async {
        let mut b = [0u8; REQUEST_LEN];
        b[..MAGIC_LEN].copy_from_slice(&magic);
        recv.read_exact(&mut b[MAGIC_LEN..]).await?;
        Ok::<_, ReadError>(Request::parse(&b)?)
    };
    let header = match timeout(Duration::from_millis(HEADER_MS_MAX), header).await {
        Err(_) => return Some(Err(FrameError::Cut.into())),
        Ok(Err(ReadError::Lost(_))) => return None,
        Ok(Err(ReadError::Frame(e))) => return Some(Err(e.into())),
        Ok(Ok(header)) => header,
    };
    let handler = match services.handler(header.kind) {
        Ok(handler) => handler,
        Err(refusal) => return Some(Err(refusal)),
    };
    let work = async {
        let lane = limits.lane(header.kind);
        let _slot = lane.calls.clone().acquire_owned().await;
        let _room = lane.body_bytes.clone().acquire_many_owned(header.body_len).await;
        let body = match read_body(recv, header.body_len).await {
            Err(ReadError::Lost(_)) => return None,
            Err(ReadError::Frame(e)) => return Some(Err(e.into())),
            Ok(body) => body,
        };
        tokio::select! {
            answer = run_handler(handler, from, body) => Some(answer),
            () = send.stopped() => None,
        }
    };
    let deadline = Duration::from_millis(u64::from(header.deadline_ms));
    timeout(deadline, work).await.unwrap_or_else(|_| {
        let text = format!("not done within {deadline:?}; it may still happen");
        Some(Err(Refusal::with(Status::Deadline, Retry::Later, text)))
    })
}

/// Runs a handler so that its panic fails this call only.
pub(crate) async fn run_handler(handler: Arc<dyn Handler>, from: NodeId, body: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    let mut task = Task(tokio::spawn(async move { handler.handle(from, body).await }));
    let answer = (&mut task.0).await.unwrap_or_else(|_| Err(failed()))?;
    if answer.len() > RPC_BODY_MAX {
        let text = format!("the answer has {} bytes, over the limit of {RPC_BODY_MAX}: ask for less", answer.len());
        return Err(Refusal::with(Status::TooLarge, Retry::Never, text));
    }
    Ok(answer)
}

pub(crate) fn failed() -> Refusal {
    Refusal::with(Status::Failed, Retry::Operator, "the service failed on this: see the log of that node")
}

/// A task that ends with whoever waits for it.
pub(crate) struct Task<T>(pub tokio::task::JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Checks a call before it leaves.
pub(crate) fn check_call(node: NodeId, body: &[u8], deadline: Duration) -> Result<(), CallError> {
    if deadline.is_zero() || deadline.as_millis() > u128::from(DEADLINE_MS_MAX) {
        return Err(CallError::BadDeadline(deadline));
    }
    if body.len() > RPC_BODY_MAX {
        let (got, max) = (body.len() as u64, RPC_BODY_MAX as u64);
        return Err(CallError::TooLarge { node, what: "call", got, max });
    }
    Ok(())
}
