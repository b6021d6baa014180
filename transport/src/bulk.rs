//! Bulk streams: an open header, raw bytes under QUIC's flow control, an end mark, and the receiver's answer.
//!
//! The answer comes when the receiver has everything as durable as its service promises, so a sender that holds it may
//! forget its own copy. Both sides see exactly the announced length or an error.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, timeout};
use zoneward_sectors::ids::NodeId;

use crate::error::{Broken, CallError, Refusal};
use crate::limits::{BULK_ANSWER_MAX, BULK_IDLE_MS_MAX, BULK_LEN_MAX, BULK_STALL_MS_MAX, HEADER_MS_MAX};
use crate::rpc::{
    Boxed, PeerLimits, ReadError, Sending, Services, Task, broken, failed, read_response, response_bytes,
};
use crate::wire::{BULK_END, BULK_OPEN_LEN, BulkOpen, FrameError, MAGIC_LEN};

const STALL: Duration = Duration::from_millis(BULK_STALL_MS_MAX);
const IDLE: Duration = Duration::from_millis(BULK_IDLE_MS_MAX);
/// Bytes copied at once from a sender's reader.
const COPY_LEN: usize = 256 << 10;

/// Receives bulk streams of one purpose.
pub trait BulkHandler: Send + Sync + 'static {
    /// Reads `stream` to its end, makes the bytes durable, and answers (at most [`BULK_ANSWER_MAX`] bytes). An answer
    /// other than a refusal before the end was read is a fault of the service. The future is dropped when the sender
    /// goes away or is removed: what it wrote by then must be harmless.
    fn receive(&self, from: NodeId, open: BulkOpen, stream: BulkReceiver) -> Boxed<'_, Result<Vec<u8>, Refusal>>;
}

/// The receiving end: yields exactly the announced bytes. Its end of file means that the sender said "this was all";
/// everything else is an error.
pub struct BulkReceiver {
    recv: RecvStream,
    open: BulkOpen,
    left: u64,
    /// Bytes of the end mark seen; above them, the end of the stream too.
    mark: usize,
    idle: Pin<Box<Sleep>>,
    complete: Arc<AtomicBool>,
}

impl BulkReceiver {
    fn new(recv: RecvStream, open: BulkOpen) -> Self {
        let idle = Box::pin(tokio::time::sleep(IDLE));
        Self { recv, open, left: open.length, mark: 0, idle, complete: Arc::default() }
    }

    /// Bytes that are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Waits for the end after the last byte, for readers that count instead of reading to the end of file.
    pub async fn end(&mut self) -> io::Result<()> {
        let mut byte = [0u8; 1];
        match self.read(&mut byte).await? {
            0 => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not all bytes were read before the end")),
        }
    }

    fn poll_some(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        match Pin::new(&mut self.recv).poll_read(cx, &mut buf) {
            Poll::Ready(done) => {
                self.idle.as_mut().reset(Instant::now() + IDLE);
                Poll::Ready(done.map(|()| buf.filled().len()))
            }
            Poll::Pending if self.idle.as_mut().poll(cx).is_ready() => {
                let text = format!("the sender sent nothing for {IDLE:?}, with {} bytes to come", self.left);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Reads the end mark and the end of the stream.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.complete.load(Ordering::Relaxed) {
            let mut byte = [0u8; 1];
            let n = match self.poll_some(cx, &mut byte) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Ready(Ok(n)) => n,
            };
            match (n, BULK_END.get(self.mark)) {
                (0, None) => self.complete.store(true, Ordering::Relaxed),
                (0, Some(_)) => return Poll::Ready(Err(self.cut())),
                (_, Some(want)) if byte[0] == *want => self.mark += 1,
                _ => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "bytes follow the last one"))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn cut(&self) -> io::Error {
        let (got, want) = (self.open.length - self.left, self.open.length);
        io::Error::new(io::ErrorKind::UnexpectedEof, format!("the sender stopped after {got} of {want} bytes"))
    }
}

impl AsyncRead for BulkReceiver {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.left == 0 {
            return this.poll_end(cx);
        }
        let most = buf.remaining().min(usize::try_from(this.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Poll::Ready(Ok(()));
        }
        let n = match this.poll_some(cx, buf.initialize_unfilled_to(most)) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(this.cut())),
            Poll::Ready(Ok(n)) => n,
        };
        buf.advance(n);
        this.left -= n as u64;
        Poll::Ready(Ok(()))
    }
}

/// The sending end. Dropping it before [`BulkSender::finish`] takes the stream back: the receiver sees an error.
pub struct BulkSender {
    node: NodeId,
    send: Sending,
    recv: RecvStream,
    left: u64,
    want: u64,
    _slot: OwnedSemaphorePermit,
}

impl BulkSender {
    /// Sends the next bytes; waits while the receiver is slow.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), CallError> {
        let len = bytes.len() as u64;
        let Some(left) = self.left.checked_sub(len) else {
            return Err(CallError::Length { node: self.node, got: self.want - self.left + len, want: self.want });
        };
        self.raw(bytes).await?;
        self.left = left;
        Ok(())
    }

    /// Sends all that `reader` yields, which must be what is left of the announced length, and finishes.
    pub async fn send_all(mut self, mut reader: impl AsyncRead + Unpin) -> Result<Vec<u8>, CallError> {
        let mut buf = vec![0u8; COPY_LEN];
        loop {
            let n =
                reader.read(&mut buf).await.map_err(|e| CallError::Source { node: self.node, text: e.to_string() })?;
            if n == 0 {
                return self.finish().await;
            }
            self.write(&buf[..n]).await?;
        }
    }

    /// Says that this was all and waits until the receiver has it durable; gives its answer.
    pub async fn finish(mut self) -> Result<Vec<u8>, CallError> {
        if self.left != 0 {
            return Err(CallError::Length { node: self.node, got: self.want - self.left, want: self.want });
        }
        self.raw(&BULK_END).await?;
        let _ = self.send.finish();
        answer(self.node, &mut self.recv).await
    }

    async fn raw(&mut self, bytes: &[u8]) -> Result<(), CallError> {
        let node = self.node;
        match timeout(STALL, self.send.write(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Err(_) => Err(CallError::Deadline { node, after: STALL }),
            Ok(Err(quinn::WriteError::ConnectionLost(e))) => Err(broken(node, e)),
            // The receiver wants no more of it: it says why.
            Ok(Err(quinn::WriteError::Stopped(_))) => match answer(node, &mut self.recv).await {
                Err(e) => Err(e),
                Ok(_) => Err(CallError::Frame { node, source: FrameError::Damaged("an answer before the end") }),
            },
            Ok(Err(e)) => Err(CallError::Broken { node, source: Broken::Other(e.to_string()) }),
        }
    }
}

async fn answer(node: NodeId, recv: &mut RecvStream) -> Result<Vec<u8>, CallError> {
    match timeout(STALL, read_response(recv, BULK_ANSWER_MAX)).await {
        Err(_) => Err(CallError::Deadline { node, after: STALL }),
        Ok(Ok(answer)) => answer.map_err(|source| CallError::Refused { node, source }),
        Ok(Err(ReadError::Frame(source))) => Err(CallError::Frame { node, source }),
        Ok(Err(ReadError::Lost(e))) => Err(broken(node, e)),
    }
}

/// Checks a header before it leaves.
pub(crate) fn check_open(node: NodeId, open: &BulkOpen) -> Result<(), CallError> {
    open.check().map_err(|e| match e {
        FrameError::TooLarge { .. } => {
            CallError::TooLarge { node, what: "bulk stream", got: open.length, max: BULK_LEN_MAX }
        }
        source => CallError::Frame { node, source },
    })
}

/// Opens a stream on a connection.
pub(crate) async fn open(
    connection: &quinn::Connection,
    node: NodeId,
    open: BulkOpen,
    slot: OwnedSemaphorePermit,
) -> Result<BulkSender, CallError> {
    let (send, recv) = connection.open_bi().await.map_err(|e| broken(node, e))?;
    let (left, want) = (open.length, open.length);
    let mut sender = BulkSender { node, send: Sending::new(send), recv, left, want, _slot: slot };
    sender.raw(&open.to_bytes()).await?;
    Ok(sender)
}

/// Receives one stream, whose first four bytes are read.
pub(crate) async fn serve(
    magic: [u8; MAGIC_LEN],
    send: SendStream,
    recv: RecvStream,
    from: NodeId,
    services: &Services,
    limits: &PeerLimits,
) {
    let mut send = Sending::new(send);
    let work = receive(magic, recv, from, services, limits);
    let answer = tokio::select! {
        answer = work => answer,
        () = send.stopped() => None,
    };
    let Some(answer) = answer else { return };
    let bytes = response_bytes(&answer);
    if matches!(timeout(STALL, send.write(&bytes)).await, Ok(Ok(()))) {
        let _ = send.finish(); // A sender that left meanwhile misses nothing.
    }
}

/// The answer, or nothing if the sender is gone.
async fn receive(
    magic: [u8; MAGIC_LEN],
    mut recv: RecvStream,
    from: NodeId,
    services: &Services,
    limits: &PeerLimits,
) -> Option<Result<Vec<u8>, Refusal>> {
    let header = async {
        let mut b = [0u8; BULK_OPEN_LEN];
        b[..MAGIC_LEN].copy_from_slice(&magic);
        recv.read_exact(&mut b[MAGIC_LEN..]).await?;
        Ok::<_, ReadError>(BulkOpen::parse(&b)?)
    };
    let open = match timeout(Duration::from_millis(HEADER_MS_MAX), header).await {
        Err(_) => return Some(Err(FrameError::Cut.into())),
        Ok(Err(ReadError::Lost(_))) => return None,
        Ok(Err(ReadError::Frame(e))) => return Some(Err(e.into())),
        Ok(Ok(open)) => open,
    };
    let handler = match services.bulk_handler(open.purpose) {
        Ok(handler) => handler,
        Err(refusal) => return Some(Err(refusal)),
    };
    let _slot = limits.bulk.clone().acquire_owned().await;
    let stream = BulkReceiver::new(recv, open);
    let complete = stream.complete.clone();
    let mut task = Task(tokio::spawn(async move { handler.receive(from, open, stream).await }));
    let answer = (&mut task.0).await.unwrap_or_else(|_| Err(failed()));
    Some(match answer {
        // Never tell a sender that all is durable when not all was read.
        Ok(answer) if !complete.load(Ordering::Relaxed) || answer.len() > BULK_ANSWER_MAX => {
            drop(answer);
            Err(failed())
        }
        answer => answer,
    })
}
