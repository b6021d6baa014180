//! A snapshot's file as openraft moves it: a piece at a time, never in one buffer.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, AsyncWriteExt, ReadBuf};

/// A file whose calls run on tokio's threads, or in place where a simulation needs the same order each time.
#[derive(Debug)]
pub enum SnapshotFile {
    Threads(tokio::fs::File),
    Inline(File),
}

impl SnapshotFile {
    pub(crate) fn new(file: File, inline: bool) -> Self {
        if inline { Self::Inline(file) } else { Self::Threads(tokio::fs::File::from_std(file)) }
    }

    /// The plain file, once all that was written has reached it.
    pub(crate) async fn into_std(self) -> io::Result<File> {
        match self {
            Self::Inline(file) => Ok(file),
            Self::Threads(mut file) => {
                file.flush().await?;
                Ok(file.into_std().await)
            }
        }
    }
}

impl AsyncRead for SnapshotFile {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Threads(file) => Pin::new(file).poll_read(cx, buf),
            Self::Inline(file) => {
                let n = file.read(buf.initialize_unfilled());
                Poll::Ready(n.map(|n| buf.advance(n)))
            }
        }
    }
}

impl AsyncWrite for SnapshotFile {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Threads(file) => Pin::new(file).poll_write(cx, buf),
            Self::Inline(file) => Poll::Ready(file.write(buf)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Threads(file) => Pin::new(file).poll_flush(cx),
            Self::Inline(file) => Poll::Ready(file.flush()),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Threads(file) => Pin::new(file).poll_shutdown(cx),
            Self::Inline(file) => Poll::Ready(file.flush()),
        }
    }
}

impl AsyncSeek for SnapshotFile {
    fn start_seek(self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        match self.get_mut() {
            Self::Threads(file) => Pin::new(file).start_seek(position),
            Self::Inline(file) => file.seek(position).map(drop),
        }
    }

    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        match self.get_mut() {
            Self::Threads(file) => Pin::new(file).poll_complete(cx),
            Self::Inline(file) => Poll::Ready(file.stream_position()),
        }
    }
}
