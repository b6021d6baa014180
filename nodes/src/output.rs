//! Where answers go: the answer to standard output, everything else to standard error.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::Global;

/// How this run speaks.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    pub json: bool,
    pub quiet: bool,
}

impl Out {
    pub fn new(g: &Global) -> Self {
        Self { json: g.json, quiet: g.quiet }
    }

    /// A line for a person, unless quiet or JSON was asked for.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.quiet && !self.json {
            put(line.as_ref());
        }
    }

    /// A line of the answer itself: shown even when quiet, not with JSON.
    pub fn answer(&self, line: impl AsRef<str>) {
        if !self.json {
            put(line.as_ref());
        }
    }

    /// The answer as JSON, if that was asked for. Every line says what it is in `type`; one that is the whole answer is
    /// an `answer`.
    pub fn json(&self, value: &serde_json::Value) {
        if !self.json {
            return;
        }
        let mut value = value.clone();
        if let Some(object) = value.as_object_mut() {
            object.entry("type").or_insert_with(|| "answer".into());
        }
        put(&value.to_string());
    }

    /// Something a person should know, on standard error: also one who wants to hear of trouble alone.
    pub fn warn(&self, line: impl AsRef<str>) {
        tell(&format!("warning: {}", one_line(line.as_ref())));
    }
}

/// Lines of one kind of warning that a person is shown; the checkpoint keeps more, the count is always whole.
const WARNINGS_SHOWN: usize = 40;

impl Out {
    /// Some of many warnings, and how many there are in all.
    pub fn warn_some(&self, lines: impl Iterator<Item = String>, total: u64) {
        let mut shown = 0;
        for line in lines.take(WARNINGS_SHOWN) {
            self.warn(line);
            shown += 1;
        }
        if total > shown {
            self.warn(format!("… and {} more like these", total - shown));
        }
    }
}

/// Set once standard output took no more.
static GONE: AtomicBool = AtomicBool::new(false);
/// Set if that was not because its reader went away.
static LOST: AtomicBool = AtomicBool::new(false);

/// Writes a line. A reader that went away (as `head` does) hears nothing more, and the command goes on to its end: its
/// exit code counts.
pub fn put(line: &str) {
    if GONE.load(Ordering::Relaxed) {
        return;
    }
    let mut out = std::io::stdout().lock();
    if let Err(e) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        GONE.store(true, Ordering::Relaxed);
        LOST.store(e.kind() != std::io::ErrorKind::BrokenPipe, Ordering::Relaxed);
    }
}

/// True if a part of the answer is missing that somebody would have read.
pub fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// A line on standard error. Where that cannot be written, there is nobody to tell.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Text on standard error, as it is, for what a person sees change in its place.
pub fn show(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Text without what would steer a terminal, or look like another line: names in it may come from anybody.
pub fn one_line(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}
