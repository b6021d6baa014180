//! The line to a server: one `ssh` process, started when it is needed and again when it broke.
//!
//! Keys are handed to `ssh` in files that exist in memory alone. It is told to know this server's key and no other, and to
//! read no configuration.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};

use super::wire::{DENIED, Handle, NO_SUCH_FILE, Session, SftpError};
use crate::credentials::Credentials;
use crate::errors::{Op, TargetError};
use crate::limits::{CONNECT_MS, REQUEST_MS};
use crate::net::request_ms;
use crate::url::SftpUrl;

/// Bytes of what `ssh` says when it ends.
const WORDS_LEN_MAX: u64 = 2000;

pub(super) struct Line {
    host: String,
    port: u16,
    user: String,
    key: File,
    known: File,
    /// The target's URL, for people.
    url: String,
    state: Mutex<(u64, Option<Session>)>,
}

fn hidden(name: &str, text: &str) -> std::io::Result<File> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    file.write_all(text.trim_end().as_bytes())?;
    file.write_all(b"\n")?;
    Ok(file)
}

fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

impl Line {
    pub fn new(url: &SftpUrl, credentials: Option<&Credentials>) -> Result<Self, TargetError> {
        let (op, what) = (Op::OpenTarget, url.to_string());
        let needed = |name: &str| {
            let value = credentials.and_then(|c| c.get(name)).filter(|v| !v.is_empty());
            let reason = format!("it needs credentials with {name}");
            value.ok_or(TargetError::Auth { op, what: what.clone(), reason })
        };
        let (user, key, host_key) = (needed("user")?, needed("private_key")?, needed("host_key")?);
        let fits = user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._@".contains(&b)) && !user.starts_with('-');
        if !fits || host_key.contains(['\n', '\r']) {
            let reason = "its user or host_key is not in the usual form".to_owned();
            return Err(TargetError::Auth { op, what, reason });
        }
        let io = |source| TargetError::Io { op, what: what.clone(), source };
        let known = hidden("known", &format!("* {host_key}")).map_err(io)?;
        let key = hidden("key", key).map_err(io)?;
        let host = url.host.trim_matches(['[', ']']).to_owned();
        Ok(Self { host, port: url.port, user: user.to_owned(), key, known, url: what, state: Mutex::default() })
    }

    /// The target's URL, for people.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn connect(&self) -> Result<Session, TargetError> {
        let (op, what) = (Op::OpenTarget, || self.url.clone());
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-s", "-p", &self.port.to_string(), "-l", &self.user, "-i", &path_of(&self.key)]);
        let known = format!("UserKnownHostsFile={}", path_of(&self.known));
        let connect = format!("ConnectTimeout={}", CONNECT_MS / 1000);
        for option in [
            known.as_str(),
            connect.as_str(),
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "PasswordAuthentication=no",
            "ClearAllForwardings=yes",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=4",
            "LogLevel=ERROR",
        ] {
            command.args(["-o", option]);
        }
        zoneward_sectors::child::without_secrets(&mut command);
        command.args(["--", &self.host, "sftp"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| {
            let reason = format!("the program ssh cannot be started: {e}");
            TargetError::Unreachable { op, what: what(), reason }
        })?;
        Session::greet(child, Duration::from_millis(REQUEST_MS)).map_err(|(child, e)| {
            let words = end(child);
            match e {
                SftpError::Nonsense(reason) => TargetError::Protocol { op, what: what(), reason: reason.to_owned() },
                _ if words.contains("Host key verification failed") || words.contains("Permission denied") => {
                    let key = words.contains("Host key");
                    let reason = if key { "the server has another host key" } else { "it does not take the key" };
                    TargetError::Auth { op, what: what(), reason: reason.to_owned() }
                }
                _ => TargetError::Unreachable { op, what: what(), reason: words },
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Option<Session>)> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Does something over the line that moves about so many bytes; it is told the number of the session, which changes
    /// with each new one. When the line breaks it is done once more over a new one: what is done here may be done twice.
    pub fn with<T>(
        &self,
        op: Op,
        what: &str,
        bytes: u64,
        mut work: impl FnMut(&mut Session, u64) -> Result<T, SftpError>,
    ) -> Result<T, TargetError> {
        let mut state = self.lock();
        let mut fresh = false;
        loop {
            let (number, session) = &mut *state;
            let session = match session {
                Some(session) => session,
                None => {
                    fresh = true;
                    *number += 1;
                    session.insert(self.connect()?)
                }
            };
            session.allow(request_ms(bytes));
            let failed = match work(session, *number) {
                Ok(t) => return Ok(t),
                Err(e) => e,
            };
            if let SftpError::Line(_) | SftpError::Nonsense(_) | SftpError::TooMany = failed
                && let Some(session) = state.1.take()
            {
                end(session.child);
                if matches!(failed, SftpError::Line(_)) && !fresh {
                    continue;
                }
            }
            return Err(to_target(failed, op, what));
        }
    }
}

impl Line {
    /// Closes a file of the session of this number, if that is still the one. What cannot be closed goes with its session.
    pub fn close(&self, open: Option<(u64, Handle)>) {
        let mut state = self.lock();
        let Some((number, handle)) = open else { return };
        if state.0 == number
            && let Some(session) = &mut state.1
        {
            session.allow(Duration::from_millis(REQUEST_MS));
            if let Err(SftpError::Line(_) | SftpError::Nonsense(_)) = session.close(&handle)
                && let Some(session) = state.1.take()
            {
                end(session.child);
            }
        }
    }
}

#[cfg(test)]
impl Line {
    /// The line breaks, as when a network does.
    pub fn break_now(&self) {
        if let Some(session) = &mut self.lock().1 {
            let _ = session.child.kill();
            let _ = session.child.wait();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(session) = self.lock().1.take() {
            end(session.child);
        }
    }
}

/// Ends a process; answers what it said, without control characters.
fn end(mut child: Child) -> String {
    let _ = child.kill();
    let mut words = Vec::new();
    if let Some(said) = child.stderr.take() {
        // It has ended, so this does not wait.
        let _ = said.take(WORDS_LEN_MAX).read_to_end(&mut words);
    }
    let _ = child.wait();
    let text = String::from_utf8_lossy(&words).replace(['\r', '\n'], " ");
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    if text.trim().is_empty() { "the line does not hold".to_owned() } else { text.trim().to_owned() }
}

fn to_target(e: SftpError, op: Op, what: &str) -> TargetError {
    let what = what.to_owned();
    match e {
        SftpError::Status(NO_SUCH_FILE) => TargetError::NotFound { op, what },
        SftpError::Status(DENIED) => {
            TargetError::Denied { op, what, source: std::io::Error::other("the server refuses") }
        }
        SftpError::Status(n) => {
            TargetError::Io { op, what, source: std::io::Error::other(format!("the server answers with failure {n}")) }
        }
        SftpError::Line(e) => TargetError::Unreachable { op, what, reason: e.to_string() },
        SftpError::Nonsense(reason) => TargetError::Protocol { op, what, reason: reason.to_owned() },
        SftpError::End(have) => TargetError::Truncated { op, what, offset: have, wanted: 1, have },
        SftpError::TooMany => {
            let limit = crate::limits::NAMES_MAX as u64;
            TargetError::TooLarge { op, what, len: limit + 1, limit }
        }
    }
}
