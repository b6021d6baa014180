//! A range of a sealed sector as the body of an answer, read piece by piece on blocking threads.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::errors::TargetError;
use crate::limits::RANGE_PIECE_LEN;
use crate::target::SectorReader;

/// `len` bytes from `at`.
pub(super) struct Range {
    reader: Arc<dyn SectorReader>,
    at: u64,
    /// Bytes that are not being read yet.
    left: u64,
    len: u64,
    reading: Option<JoinHandle<Result<Vec<u8>, TargetError>>>,
}

impl Range {
    pub fn new(reader: Arc<dyn SectorReader>, at: u64, len: u64) -> Self {
        let mut range = Self { reader, at, left: len, len, reading: None };
        range.read_on();
        range
    }

    fn read_on(&mut self) {
        let len = self.left.min(RANGE_PIECE_LEN as u64);
        if len == 0 {
            return;
        }
        let (reader, at) = (self.reader.clone(), self.at);
        self.reading = Some(tokio::task::spawn_blocking(move || {
            let mut buf = vec![0u8; len as usize];
            reader.read_at(&mut buf, at).map(|()| buf)
        }));
        self.at += len;
        self.left -= len;
    }
}

impl MessageBody for Range {
    type Error = std::io::Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.len)
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, std::io::Error>>> {
        let Some(reading) = self.reading.as_mut() else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        let read = read.map_err(std::io::Error::other).and_then(|r| r.map_err(std::io::Error::other));
        if read.is_ok() {
            self.read_on();
        }
        Poll::Ready(Some(read.map(Bytes::from)))
    }
}
