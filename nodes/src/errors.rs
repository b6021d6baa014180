//! Errors as a person sees them: what, why, what to do, with a stable code and an exit code.

use std::fmt;

use crate::output::one_line;

/// Exit codes (`docs/cli.md`). Any other code is a failure; codes may be added.
pub mod exit {
    pub const FAILED: i32 = 1;
    pub const USAGE: i32 = 2;
    pub const INCOMPLETE: i32 = 3;
    pub const REFUSED: i32 = 4;
    pub const DAMAGE: i32 = 5;
    pub const TARGET: i32 = 7;
    pub const HOOK: i32 = 8;
    pub const NO_ZONE: i32 = 10;
    pub const BUSY: i32 = 11;
    pub const WRONG_KEY: i32 = 12;
    pub const NOT_PERMITTED: i32 = 13;
    pub const INTERRUPTED: i32 = 130;
}

/// An error with all that is shown of it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Stable number, searchable: `ZW-1001`.
    pub code: u16,
    pub exit: i32,
    pub what: String,
    pub why: Option<String>,
    pub help: Option<String>,
}

impl Failure {
    pub fn new(code: u16, exit: i32, what: impl Into<String>) -> Self {
        Self { code, exit, what: what.into(), why: None, help: None }
    }

    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Shows it: JSON on standard output for machines, lines on standard error for people.
    pub fn show(&self, json: bool) {
        if json {
            self.put();
        }
        crate::output::tell(&self.to_string());
    }

    /// Writes it as JSON on standard output.
    pub fn put(&self) {
        let v = serde_json::json!({
            "type": "error", "schema": "zoneward.error/1", "code": format!("ZW-{}", self.code), "exit": self.exit,
            "what": self.what, "why": self.why, "help": self.help,
        });
        crate::output::put(&v.to_string());
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[ZW-{}] {}", self.code, one_line(&self.what))?;
        if let Some(why) = &self.why {
            write!(f, "\n  because: {}", one_line(why))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {}", one_line(help))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// An error and all its causes in one line.
pub fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        let text = s.to_string();
        if !out.ends_with(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        source = s.source();
    }
    out
}
