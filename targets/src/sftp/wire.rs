//! The SFTP protocol, version 3 (draft-ietf-secsh-filexfer-02), over the standard input and output of `ssh -s sftp`.
//!
//! Every packet has a limit, every call a deadline. After a failure of the line the session is of no use any more.

use std::io;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::limits::NAMES_MAX;

/// Bytes of one packet: servers send at most 256 KiB.
const PACKET_LEN_MAX: usize = 300 << 10;
/// Bytes of content in one request: what every server takes.
const PIECE_LEN: usize = 32 << 10;
/// Requests on their way at once: their answers fit into a pipe, so that nobody waits for the other.
const WINDOW: usize = 32;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum SftpError {
    /// The server's answer: its number.
    Status(u32),
    /// The line does not hold.
    Line(io::Error),
    /// The answer makes no sense.
    Nonsense(&'static str),
    /// The file ends at this byte.
    End(u64),
    /// More names than any zone has.
    TooMany,
}

pub(super) const NO_SUCH_FILE: u32 = 2;
pub(super) const DENIED: u32 = 3;
const EOF: u32 = 1;

/// What is known of a file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attrs {
    pub len: u64,
    mode: u32,
}

impl Attrs {
    pub fn is_file(self) -> bool {
        self.mode & 0o170_000 == 0o100_000
    }

    pub fn is_dir(self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }
}

/// A file that is open in a session.
pub(super) type Handle = Vec<u8>;

pub(super) struct Session {
    pub child: Child,
    input: ChildStdin,
    output: ChildStdout,
    next: u32,
    extensions: Vec<Vec<u8>>,
    /// When the call under way must be done.
    until: Instant,
}

/// A packet that is being made.
struct Out(Vec<u8>);

impl Out {
    fn new(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind])
    }

    fn u32(mut self, n: u32) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }

    fn string(self, bytes: &[u8]) -> Self {
        let mut out = self.u32(bytes.len() as u32);
        out.0.extend_from_slice(bytes);
        out
    }

    fn finish(mut self) -> Vec<u8> {
        let len = (self.0.len() - 4) as u32;
        if let Some(head) = self.0.first_chunk_mut::<4>() {
            *head = len.to_be_bytes();
        }
        self.0
    }
}

/// A packet that is being read.
struct In<'a>(&'a [u8]);

const CUT: SftpError = SftpError::Nonsense("a packet ended early");

impl<'a> In<'a> {
    fn u8(&mut self) -> Result<u8, SftpError> {
        let (n, rest) = self.0.split_first().ok_or(CUT)?;
        self.0 = rest;
        Ok(*n)
    }

    fn u32(&mut self) -> Result<u32, SftpError> {
        let (n, rest) = self.0.split_first_chunk::<4>().ok_or(CUT)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*n))
    }

    fn u64(&mut self) -> Result<u64, SftpError> {
        let (n, rest) = self.0.split_first_chunk::<8>().ok_or(CUT)?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*n))
    }

    fn string(&mut self) -> Result<&'a [u8], SftpError> {
        let len = self.u32()? as usize;
        let (text, rest) = self.0.split_at_checked(len).ok_or(CUT)?;
        self.0 = rest;
        Ok(text)
    }

    fn attrs(&mut self) -> Result<Attrs, SftpError> {
        let flags = self.u32()?;
        let mut out = Attrs::default();
        if flags & 1 != 0 {
            out.len = self.u64()?;
        }
        if flags & 2 != 0 {
            self.u64()?;
        }
        if flags & 4 != 0 {
            out.mode = self.u32()?;
        }
        if flags & 8 != 0 {
            self.u64()?;
        }
        if flags & 0x8000_0000 != 0 {
            for _ in 0..self.u32()? {
                self.string()?;
                self.string()?;
            }
        }
        Ok(out)
    }
}

fn line(e: impl Into<io::Error>) -> SftpError {
    SftpError::Line(e.into())
}

impl Session {
    /// Greets the server behind a started `ssh`.
    pub fn greet(mut child: Child, limit: Duration) -> Result<Self, (Child, SftpError)> {
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err((child, SftpError::Nonsense("no pipes")));
        };
        let until = Instant::now() + limit;
        let mut session = Self { child, input, output, next: 0, extensions: Vec::new(), until };
        match session.hello() {
            Ok(()) => Ok(session),
            Err(e) => Err((session.child, e)),
        }
    }

    fn hello(&mut self) -> Result<(), SftpError> {
        rustix::io::ioctl_fionbio(&self.input, true).map_err(line)?;
        self.send(&Out::new(1).u32(3).finish())?;
        let packet = self.receive()?;
        let mut p = In(&packet);
        if p.u8()? != 2 || p.u32()? < 3 {
            return Err(SftpError::Nonsense("it speaks no SFTP of version 3"));
        }
        while !p.0.is_empty() {
            self.extensions.push(p.string()?.to_vec());
            p.string()?;
        }
        Ok(())
    }

    /// Says how long the next calls may take.
    pub fn allow(&mut self, limit: Duration) {
        self.until = Instant::now() + limit;
    }

    fn wait(&self, fd: impl AsFd, flags: PollFlags) -> Result<(), SftpError> {
        let left = self.until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), flags)], Some(&timeout)) {
            Ok(0) => Err(line(io::Error::from(io::ErrorKind::TimedOut))),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(line(e)),
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), SftpError> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.input, bytes) {
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => self.wait(&self.input, PollFlags::OUT)?,
                Err(e) => return Err(line(e)),
            }
        }
        Ok(())
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), SftpError> {
        let mut at = 0;
        while at < buf.len() {
            self.wait(&self.output, PollFlags::IN)?;
            match rustix::io::read(&self.output, buf.get_mut(at..).unwrap_or_default()) {
                Ok(0) => return Err(line(io::Error::from(io::ErrorKind::UnexpectedEof))),
                Ok(n) => at += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(line(e)),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Vec<u8>, SftpError> {
        let mut len = [0; 4];
        self.fill(&mut len)?;
        let len = u32::from_be_bytes(len) as usize;
        if len == 0 || len > PACKET_LEN_MAX {
            return Err(SftpError::Nonsense("a packet of an absurd length"));
        }
        let mut packet = vec![0; len];
        self.fill(&mut packet)?;
        Ok(packet)
    }

    fn request(&mut self, kind: u8) -> (u32, Out) {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        (id, Out::new(kind).u32(id))
    }

    /// The answer to the oldest request: servers answer requests of one session in order, as OpenSSH does, or not; here
    /// only those of one kind are ever on their way together, and their ids tell them apart.
    fn answer(&mut self) -> Result<(u32, u8, Vec<u8>), SftpError> {
        let packet = self.receive()?;
        let mut p = In(&packet);
        let (kind, id) = (p.u8()?, p.u32()?);
        Ok((id, kind, p.0.to_vec()))
    }

    fn call(&mut self, id: u32, out: Out, wanted: u8) -> Result<Vec<u8>, SftpError> {
        self.send(&out.finish())?;
        let (got, kind, body) = self.answer()?;
        if got != id {
            return Err(SftpError::Nonsense("an answer to another request"));
        }
        expect(kind, wanted, body)
    }

    fn done(&mut self, id: u32, out: Out) -> Result<(), SftpError> {
        self.call(id, out, 101).map(|_| ())
    }

    pub fn open(&mut self, path: &str, flags: u32) -> Result<Handle, SftpError> {
        let (id, out) = self.request(3);
        // Mode 0600 for what is made.
        let body = self.call(id, out.string(path.as_bytes()).u32(flags).u32(4).u32(0o600), 102)?;
        In(&body).string().map(<[u8]>::to_vec)
    }

    pub fn close(&mut self, handle: &[u8]) -> Result<(), SftpError> {
        let (id, out) = self.request(4);
        self.done(id, out.string(handle))
    }

    /// Writes all bytes at an offset.
    pub fn write(&mut self, handle: &[u8], offset: u64, bytes: &[u8]) -> Result<(), SftpError> {
        let pieces: Vec<(u64, &[u8])> =
            bytes.chunks(PIECE_LEN).enumerate().map(|(i, p)| (offset + (i * PIECE_LEN) as u64, p)).collect();
        for window in pieces.chunks(WINDOW) {
            let mut first = None;
            for (at, piece) in window {
                let (_, out) = self.request(6);
                self.send(&out.string(handle).u64(*at).string(piece).finish())?;
            }
            for _ in window {
                let (_, kind, body) = self.answer()?;
                match expect(kind, 101, body) {
                    Ok(_) => {}
                    // All answers are taken, so that the session can go on.
                    Err(SftpError::Status(n)) => drop(first.get_or_insert(n)),
                    Err(e) => return Err(e),
                }
            }
            first.map_or(Ok(()), |n| Err(SftpError::Status(n)))?;
        }
        Ok(())
    }

    /// Fills `buf` from an offset.
    pub fn read(&mut self, handle: &[u8], offset: u64, buf: &mut [u8]) -> Result<(), SftpError> {
        // (where in the buffer, how much) of what is missing: short answers are asked for again.
        let mut todo: Vec<(usize, usize)> =
            (0..buf.len()).step_by(PIECE_LEN).map(|at| (at, PIECE_LEN.min(buf.len() - at))).rev().collect();
        while !todo.is_empty() {
            let window: Vec<_> = todo.split_off(todo.len().saturating_sub(WINDOW)).into_iter().rev().collect();
            let mut asked = Vec::new();
            for (at, len) in window {
                let (id, out) = self.request(5);
                self.send(&out.string(handle).u64(offset + at as u64).u32(len as u32).finish())?;
                asked.push((id, at, len));
            }
            let mut failed = None;
            for _ in 0..asked.len() {
                let (id, kind, body) = self.answer()?;
                let Some((_, at, len)) = asked.iter().find(|(asked, _, _)| *asked == id).copied() else {
                    return Err(SftpError::Nonsense("an answer to another request"));
                };
                match expect(kind, 103, body) {
                    Ok(body) => {
                        let data = In(&body).string()?;
                        let Some(room) =
                            buf.get_mut(at..at + data.len()).filter(|_| data.len() <= len && !data.is_empty())
                        else {
                            return Err(SftpError::Nonsense("more bytes than were asked for"));
                        };
                        room.copy_from_slice(data);
                        if data.len() < len {
                            todo.push((at + data.len(), len - data.len()));
                        }
                    }
                    Err(SftpError::Status(EOF)) => {
                        failed.get_or_insert(SftpError::End(offset + at as u64));
                    }
                    Err(SftpError::Status(n)) => drop(failed.get_or_insert(SftpError::Status(n))),
                    Err(e) => return Err(e),
                }
            }
            failed.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// What lies at a path; `None` if nothing does. A link is not followed.
    pub fn stat(&mut self, path: &str) -> Result<Option<Attrs>, SftpError> {
        let (id, out) = self.request(7);
        match self.call(id, out.string(path.as_bytes()), 105) {
            Ok(body) => In(&body).attrs().map(Some),
            Err(SftpError::Status(NO_SUCH_FILE)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What an open file is.
    pub fn stat_open(&mut self, handle: &[u8]) -> Result<Attrs, SftpError> {
        let (id, out) = self.request(8);
        In(&self.call(id, out.string(handle), 105)?).attrs()
    }

    pub fn make_dir(&mut self, path: &str) -> Result<(), SftpError> {
        let (id, out) = self.request(14);
        self.done(id, out.string(path.as_bytes()).u32(4).u32(0o700))
    }

    pub fn remove(&mut self, path: &str) -> Result<(), SftpError> {
        let (id, out) = self.request(13);
        self.done(id, out.string(path.as_bytes()))
    }

    /// Renames a file to a name that is free.
    pub fn rename_new(&mut self, from: &str, to: &str) -> Result<(), SftpError> {
        let (id, out) = self.request(18);
        self.done(id, out.string(from.as_bytes()).string(to.as_bytes()))
    }

    fn knows(&self, extension: &[u8]) -> Result<(), SftpError> {
        // Without it nothing durable or whole can be promised.
        let known = self.extensions.iter().any(|e| e == extension);
        if known { Ok(()) } else { Err(SftpError::Nonsense("it lacks what OpenSSH's server can: fsync, posix-rename")) }
    }

    /// Renames a file over one that is there, at once.
    pub fn rename_over(&mut self, from: &str, to: &str) -> Result<(), SftpError> {
        self.knows(b"posix-rename@openssh.com")?;
        let (id, out) = self.request(200);
        self.done(id, out.string(b"posix-rename@openssh.com").string(from.as_bytes()).string(to.as_bytes()))
    }

    /// Makes a file's bytes durable.
    pub fn sync(&mut self, handle: &[u8]) -> Result<(), SftpError> {
        self.knows(b"fsync@openssh.com")?;
        let (id, out) = self.request(200);
        self.done(id, out.string(b"fsync@openssh.com").string(handle))
    }

    /// Bytes that are free where a path lies, if the server tells.
    pub fn free(&mut self, path: &str) -> Result<Option<u64>, SftpError> {
        if self.knows(b"statvfs@openssh.com").is_err() {
            return Ok(None);
        }
        let (id, out) = self.request(200);
        let body = self.call(id, out.string(b"statvfs@openssh.com").string(path.as_bytes()), 201)?;
        let mut p = In(&body);
        let (_, unit, _, _, free) = (p.u64()?, p.u64()?, p.u64()?, p.u64()?, p.u64()?);
        Ok(Some(unit.saturating_mul(free)))
    }

    /// What lies directly in a directory; `None` if it is not there.
    pub fn list(&mut self, path: &str) -> Result<Option<Vec<(String, Attrs)>>, SftpError> {
        let (id, out) = self.request(11);
        let handle = match self.call(id, out.string(path.as_bytes()), 102) {
            Ok(body) => In(&body).string()?.to_vec(),
            Err(SftpError::Status(NO_SUCH_FILE)) => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut all = Vec::new();
        loop {
            let (id, out) = self.request(12);
            let body = match self.call(id, out.string(&handle), 104) {
                Ok(body) => body,
                Err(SftpError::Status(EOF)) => break,
                Err(e) => return Err(e),
            };
            let mut p = In(&body);
            for _ in 0..p.u32()? {
                let name = String::from_utf8_lossy(p.string()?).into_owned();
                p.string()?;
                let attrs = p.attrs()?;
                if name != "." && name != ".." {
                    all.push((name, attrs));
                }
            }
            if all.len() > NAMES_MAX {
                return Err(SftpError::TooMany);
            }
        }
        self.close(&handle)?;
        Ok(Some(all))
    }
}

fn expect(kind: u8, wanted: u8, body: Vec<u8>) -> Result<Vec<u8>, SftpError> {
    match kind {
        101 => match In(&body).u32()? {
            0 if wanted == 101 => Ok(body),
            0 => Err(SftpError::Nonsense("an answer of another kind")),
            n => Err(SftpError::Status(n)),
        },
        kind if kind == wanted => Ok(body),
        _ => Err(SftpError::Nonsense("an answer of another kind")),
    }
}
