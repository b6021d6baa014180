//! Where answers go: the answer to standard output, everything else to standard error.

use std::io::Write;

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

    /// The answer as JSON, if that was asked for.
    pub fn json(&self, value: &serde_json::Value) {
        if self.json {
            put(&value.to_string());
        }
    }

    /// Something a person should know, on standard error.
    pub fn warn(&self, line: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("warning: {}", line.as_ref());
        }
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

/// Writes a line; a reader that went away (as `head` does) ends the program quietly.
fn put(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").is_err() {
        std::process::exit(0);
    }
}
