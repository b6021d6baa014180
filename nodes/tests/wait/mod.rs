//! Processes that end with their test, and waiting for what they bring about.

#![allow(dead_code)] // Each test program uses a part of it.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// What is waited for comes well before this, or never.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Waits until something holds.
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_or_tell(what, look, String::new)
}

/// The same; what `tell` answers is shown if it does not come about.
#[track_caller]
pub fn until_or_tell<T>(what: &str, mut look: impl FnMut() -> Option<T>, tell: impl Fn() -> String) -> T {
    let begun = Instant::now();
    loop {
        if let Some(t) = look() {
            return t;
        }
        assert!(begun.elapsed() < LIMIT, "{what} did not come about\n{}", tell());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until what was just written counts as unchanged if it is: within a tick of the clock nobody can tell.
pub fn settled(path: &Path) {
    let changed = |p: &Path| {
        let m = std::fs::symlink_metadata(p).unwrap();
        SystemTime::UNIX_EPOCH + Duration::new(m.ctime() as u64, m.ctime_nsec() as u32)
    };
    until("the clock goes on", || (changed(path).elapsed().ok()? > Duration::from_millis(100)).then_some(()));
}

/// A process that ends with its test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts something that says one line of JSON when it is ready.
pub fn start(mut command: Command) -> (Running, serde_json::Value) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Running(child), serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")))
}
