//! What all targets over the network share: a runtime that calls block on, requests with limits on everything, and who
//! is writing what.
//!
//! The calls of a [`Target`](crate::Target) block, and may come from any thread, also one that runs futures: they are
//! carried out on a small runtime of this crate's own.

mod held;
pub(crate) mod parts;
pub(crate) mod place;
mod wire;
mod writer;

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};

use tokio::runtime::{Builder, Runtime};

pub(crate) use held::Held;
pub(crate) use wire::{Answer, Ask, Wire, WireError, code_of, request_ms};
pub(crate) use writer::PartWriter;

use crate::errors::{Op, TargetError};

/// The runtime of all targets of this process. Threads that wait on sockets need not be many.
pub(crate) fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let made = RUNTIME
        .get_or_init(|| Builder::new_multi_thread().worker_threads(2).thread_name("target-io").enable_all().build());
    made.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string()))
}

/// Runs one request of a client, which is shared with what it opened.
pub(crate) fn run<C, T, F>(
    client: &Arc<C>,
    op: Op,
    what: &str,
    request: impl FnOnce(Arc<C>) -> F,
) -> Result<T, TargetError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, TargetError>> + Send + 'static,
{
    wait(request(client.clone())).map_err(|source| TargetError::Io { op, what: what.to_owned(), source })?
}

/// Carries a future out and waits for what it gives. Every future here has its own time limit.
pub(crate) fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    let (tx, rx) = mpsc::sync_channel(1);
    runtime()?.spawn(async move {
        // The caller is there until it has heard.
        let _ = tx.send(future.await);
    });
    rx.recv().map_err(|_| io::Error::other("a request ended unexpectedly"))
}
