//! The bytes of an append, from the network to the file.
//!
//! One piece is written and hashed on a blocking thread while the next one arrives. What came before a connection broke
//! is kept and counted: the client asks for the offset and goes on.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::Payload;
use futures_core::Stream;
use tokio::task::JoinHandle;

use super::refusal::Refusal;
use super::tokens::Who;
use super::uploads::{Key, Sink, filled, too_long};
use super::{Server, failed_thread};
use crate::errors::TargetError;
use crate::limits::{APPEND_LEN_MAX, APPEND_PAUSE_MAX, DISK_RESERVE, PIECE_LEN, RATE_MIN, REQUEST_TIME, WRITER_HOLD};
use crate::protocol::Code;
use crate::target::Target;

/// An append as it was announced.
pub(super) struct Announced {
    pub key: Key,
    pub who: Who,
    pub writer: String,
    pub offset: u64,
    pub len: u64,
}

/// The next chunk of a body. A pause that is too long ends it.
pub(super) async fn next(payload: &mut Payload) -> Option<Result<bytes::Bytes, Refusal>> {
    let chunk = std::future::poll_fn(|cx| Pin::new(&mut *payload).poll_next(cx));
    let broken = || Refusal::new(Code::BadRequest, "the body broke off");
    match tokio::time::timeout(APPEND_PAUSE_MAX, chunk).await {
        Ok(chunk) => chunk.map(|c| c.map_err(|_| broken())),
        Err(_) => Some(Err(broken())),
    }
}

/// A sink and a buffer to be used again, how the write of what was in it went, and, let go of last, what keeps others from
/// the data directory.
type Written = (Sink, Vec<u8>, Result<(), TargetError>, Arc<Server>);

/// Writes pieces one after another, off the thread that reads the network.
struct Writing {
    /// A piece may still be written when nobody waits for it any more.
    server: Arc<Server>,
    sink: Option<Sink>,
    spare: Vec<u8>,
    running: Option<JoinHandle<Written>>,
}

impl Writing {
    /// Waits until what was handed over is written.
    async fn settle(&mut self) -> Result<(), Refusal> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let (sink, buf, result, _) = running.await.map_err(failed_thread)?;
        self.spare = buf;
        // After a failed write nobody may go on with this handle: its file is opened again.
        result?;
        self.sink = Some(sink);
        Ok(())
    }

    /// Hands a piece over; answers an empty buffer for the next one.
    async fn write(&mut self, piece: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        self.settle().await?;
        let Some(mut sink) = self.sink.take() else {
            return Err(Refusal::new(Code::NotHeld, "an earlier write failed: begin again"));
        };
        let alone = self.server.clone();
        self.running = Some(tokio::task::spawn_blocking(move || {
            let result = sink.append(&piece);
            (sink, piece, result, alone)
        }));
        let mut next = std::mem::take(&mut self.spare);
        next.clear();
        next.reserve(PIECE_LEN);
        Ok(next)
    }
}

impl Server {
    /// Takes an append; answers the offset that is held now.
    pub(super) async fn append(self: Arc<Self>, a: Announced, mut payload: Payload) -> Result<u64, Refusal> {
        if a.len > APPEND_LEN_MAX {
            let mut refusal = Refusal::new(Code::TooLarge, "one append may not be that long");
            refusal.limit = Some(APPEND_LEN_MAX);
            return Err(refusal);
        }
        if let Some(refusal) = too_long(a.offset, a.len) {
            return Err(refusal);
        }
        let turn = tokio::time::timeout(REQUEST_TIME, self.appends.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Refusal::new(Code::Busy, "too much is being written")) };
        let slot = self.uploads.held_by(a.key, &a.writer)?;
        let Ok(mut slot) = tokio::time::timeout(WRITER_HOLD, slot.lock_owned()).await else {
            return Err(Refusal::new(Code::Busy, "an earlier append has not ended"));
        };
        let held = filled(&self, a.key, &mut slot).await?;
        if held != a.offset {
            return Err(Refusal::offset(held, a.offset));
        }
        let free = self.target.capabilities().free_bytes.unwrap_or(0);
        if free < a.len.saturating_add(DISK_RESERVE) {
            return Err(Refusal::new(Code::Full, "the disk is full"));
        }
        let mut room = self.places.reserve(&a.who, a.len)?;
        let (server, spare) = (self.clone(), Vec::with_capacity(PIECE_LEN));
        let mut writing = Writing { server, sink: slot.take(), spare, running: None };
        // Who sends a byte now and then must not hold a turn for ever.
        let time = APPEND_PAUSE_MAX + Duration::from_secs(a.len / RATE_MIN);
        let taken = tokio::time::timeout(time, self.take(&a, &mut payload, &mut writing)).await;
        let taken = taken.unwrap_or_else(|_| Err(Refusal::new(Code::BadRequest, "the body came too slowly")));
        let settled = writing.settle().await;
        *slot = writing.sink.take();
        // What is held is what the file says, whatever broke off.
        let now = filled(&self, a.key, &mut slot).await?;
        room.keep(now.saturating_sub(held));
        taken.and(settled)?;
        Ok(now)
    }

    async fn take(&self, a: &Announced, payload: &mut Payload, writing: &mut Writing) -> Result<(), Refusal> {
        let mut piece = Vec::with_capacity(PIECE_LEN);
        let mut left = a.len;
        let mut seen = Instant::now();
        let mut result = Ok(());
        while let Some(chunk) = next(payload).await {
            let chunk = match chunk {
                Ok(chunk) if chunk.len() as u64 <= left => chunk,
                Ok(_) => {
                    result = Err(Refusal::new(Code::BadRequest, "the body is longer than it said"));
                    break;
                }
                Err(e) => {
                    result = Err(e);
                    break;
                }
            };
            left -= chunk.len() as u64;
            if seen.elapsed() > WRITER_HOLD / 10 {
                self.uploads.touch(a.key, &a.writer);
                seen = Instant::now();
            }
            let mut rest = &chunk[..];
            while piece.len() + rest.len() >= PIECE_LEN {
                let (now, later) = rest.split_at(PIECE_LEN - piece.len());
                piece.extend_from_slice(now);
                piece = writing.write(piece).await?;
                rest = later;
            }
            piece.extend_from_slice(rest);
        }
        if !piece.is_empty() {
            writing.write(piece).await?;
        }
        if result.is_ok() && left > 0 {
            return Err(Refusal::new(Code::BadRequest, "the body broke off"));
        }
        result
    }
}
