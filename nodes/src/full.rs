//! A node whose disk is full. A store that could not write has to be opened anew: what it acknowledged is on disk, and of
//! what it did not, nobody knows until it is read back. So the whole node ends, as it does on every failure of its disk;
//! the process stays, says why, and starts the node again when there is room, as a person would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Free bytes below which a disk counts as full.
const FULL: u64 = 4 << 20;
/// Free bytes from which on a node starts again: its log and state can grow for a while.
const ROOM: u64 = 32 << 20;
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes of a request that are read, and how long its sender may take.
const ASK_LEN: usize = 4096;
const ASK_TIME: Duration = Duration::from_secs(2);

/// Free bytes for this user where a home lies.
fn room(dir: &Path) -> Option<u64> {
    rustix::fs::statvfs(dir).ok().map(|s| s.f_bavail.saturating_mul(s.f_frsize))
}

/// Whether the disk under a home is full.
pub fn is_full(dir: &Path) -> bool {
    room(dir).is_some_and(|free| free < FULL)
}

/// Waits until there is room again, and meanwhile tells programs that ask at this address. False: it was stopped.
pub fn wait(dir: &Path, address: Option<SocketAddr>, stop: &AtomicBool) -> bool {
    let _notice = address.and_then(Notice::start);
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        if room(dir).is_some_and(|free| free >= ROOM) {
            return true;
        }
        std::thread::sleep(LOOK);
    }
}

/// Answers in the place of the API.
struct Notice {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Notice {
    /// `None` if somebody else took the place.
    fn start(address: SocketAddr) -> Option<Self> {
        let socket = TcpListener::bind(address).ok()?;
        socket.set_nonblocking(true).ok()?;
        let end = Arc::new(AtomicBool::new(false));
        let over = end.clone();
        let thread = std::thread::Builder::new().name("full".into()).spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match socket.accept() {
                    // One at a time: nobody is kept waiting for long.
                    Ok((client, _)) => drop(answer(client)),
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        });
        Some(Self { end, thread: Some(thread.ok()?) })
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

fn answer(mut client: std::net::TcpStream) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(ASK_TIME))?;
    client.set_write_timeout(Some(ASK_TIME))?;
    let (mut ask, mut have) = ([0u8; ASK_LEN], 0);
    while let Some(rest) = ask.get_mut(have..).filter(|r| !r.is_empty()) {
        let n = client.read(rest)?;
        have += n;
        if n == 0 || ask.get(..have).is_some_and(|a| a.windows(4).any(|w| w == b"\r\n\r\n")) {
            break;
        }
    }
    let alive = ask.starts_with(b"GET /livez ");
    let (status, body) = if alive { ("200 OK", "ok") } else { ("503 Service Unavailable", "full") };
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncache-control: no-store\r\nretry-after: 30\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(text.as_bytes())
}
