//! Reading tar headers, from anyone: bounded, and an error rather than a guess.

use std::io::{self, Read};

use super::{BLOCK, SparseMap, padding};
use crate::entry::{Kind, Meta, Stamp, Xattrs};
use crate::limits::PATH_LEN_MAX;

/// Bytes of one extended header.
const EXTENDED_MAX: u64 = 2 << 20;

/// Why a tar is refused.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the tar cannot be read")]
    Io(#[from] io::Error),
    #[error("the tar is damaged at byte {at}: {what}")]
    Damaged { at: u64, what: &'static str },
}

/// One member's headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: Vec<u8>,
    /// `None` for a type that is not ours.
    pub kind: Option<Kind>,
    pub meta: Meta,
    pub link: Vec<u8>,
    pub xattrs: Xattrs,
    /// Bytes of content stored in the tar.
    pub size: u64,
    /// True if the content begins with a sparse map (GNU sparse 1.0).
    pub sparse: bool,
    /// Where the content begins.
    pub data_at: u64,
}

/// Reads member after member; content that is not taken is passed over.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    at: u64,
    /// Bytes of the current member's content and padding not read yet.
    left: u64,
    done: bool,
}

#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    mtime: Option<Stamp>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    real_size: Option<u64>,
    sparse: bool,
    xattrs: Xattrs,
}

fn decimal(v: &[u8]) -> Option<u64> {
    std::str::from_utf8(v).ok()?.parse().ok()
}

fn stamp(v: &[u8]) -> Option<Stamp> {
    let text = std::str::from_utf8(v).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let secs: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    match (negative, nanos) {
        (true, n) if n > 0 => Some(Stamp { secs: secs.checked_sub(1)?, nanos: 1_000_000_000 - n }),
        (_, nanos) => Some(Stamp { secs, nanos }),
    }
}

fn octal(field: &[u8]) -> Option<u64> {
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        // Base 256, as GNU tar writes large numbers.
        let (head, rest) = field.split_first()?;
        let mut v = u64::from(head & 0x7f);
        for b in rest {
            v = v.checked_mul(256)?.checked_add(u64::from(*b))?;
        }
        return Some(v);
    }
    let text: Vec<u8> = field.iter().copied().take_while(|b| *b != 0).filter(|b| *b != b' ').collect();
    if text.is_empty() {
        return Some(0);
    }
    text.iter().try_fold(0u64, |v, b| match b {
        b'0'..=b'7' => v.checked_mul(8)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

fn text(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|b| *b != 0).collect()
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Self {
        Self { input, at: 0, left: 0, done: false }
    }

    fn bad(&self, what: &'static str) -> ReadError {
        ReadError::Damaged { at: self.at, what }
    }

    fn skip(&mut self, n: u64) -> Result<(), ReadError> {
        let got = io::copy(&mut (&mut self.input).take(n), &mut io::sink())?;
        self.at += got;
        if got == n { Ok(()) } else { Err(self.bad("it ends inside a member")) }
    }

    fn block(&mut self) -> Result<[u8; BLOCK], ReadError> {
        let mut b = [0u8; BLOCK];
        self.input.read_exact(&mut b).map_err(|_| self.bad("it ends inside a header"))?;
        self.at += BLOCK as u64;
        Ok(b)
    }

    /// The next member, or `None` at the end.
    pub fn next_member(&mut self) -> Result<Option<Member>, ReadError> {
        if self.done {
            return Ok(None);
        }
        let left = std::mem::take(&mut self.left);
        self.skip(left)?;
        let mut extended = None;
        loop {
            let b = self.block()?;
            if b.iter().all(|x| *x == 0) {
                self.done = true;
                return if extended.is_some() { Err(self.bad("it ends after an extended header")) } else { Ok(None) };
            }
            let sum: u64 =
                b.iter().enumerate().map(|(i, x)| if (148..156).contains(&i) { 32 } else { u64::from(*x) }).sum();
            if octal(&b[148..156]) != Some(sum) {
                return Err(self.bad("the checksum of a header"));
            }
            let size = octal(&b[124..136]).ok_or_else(|| self.bad("the size of a member"))?;
            match b[156] {
                b'x' if extended.is_none() => extended = Some(self.extended(size)?),
                b'x' => return Err(self.bad("two extended headers in a row")),
                b'g' | b'L' | b'K' => return Err(self.bad("a kind of header that Zoneward does not write")),
                _ => return self.member(&b, size, extended.unwrap_or_default()).map(Some),
            }
        }
    }

    fn extended(&mut self, size: u64) -> Result<Extended, ReadError> {
        if size > EXTENDED_MAX {
            return Err(self.bad("an extended header is too long"));
        }
        let mut body = vec![0u8; size as usize];
        self.input.read_exact(&mut body).map_err(|_| self.bad("it ends inside an extended header"))?;
        self.at += size;
        self.skip(padding(size) as u64)?;
        let mut e = Extended::default();
        let mut rest = &body[..];
        while !rest.is_empty() {
            let space = rest.iter().position(|b| *b == b' ').ok_or_else(|| self.bad("an extended record"))?;
            let len = decimal(&rest[..space]).and_then(|n| usize::try_from(n).ok());
            let len =
                len.filter(|n| *n > space + 1 && *n <= rest.len()).ok_or_else(|| self.bad("an extended record"))?;
            let (record, after) = rest.split_at(len);
            rest = after;
            let body = record[space + 1..].strip_suffix(b"\n").ok_or_else(|| self.bad("an extended record"))?;
            let eq = body.iter().position(|b| *b == b'=').ok_or_else(|| self.bad("an extended record"))?;
            e.take(&body[..eq], &body[eq + 1..]).ok_or_else(|| self.bad("a value in an extended header"))?;
        }
        e.xattrs.sort();
        Ok(e)
    }

    fn member(&mut self, b: &[u8; BLOCK], size: u64, e: Extended) -> Result<Member, ReadError> {
        let kind = match b[156] {
            b'0' | 0 => Some(Kind::File),
            b'1' => Some(Kind::HardLink),
            b'2' => Some(Kind::Symlink),
            b'3' => Some(Kind::CharDevice),
            b'4' => Some(Kind::BlockDevice),
            b'5' => Some(Kind::Dir),
            b'6' => Some(Kind::Fifo),
            _ => None,
        };
        let size = e.size.unwrap_or(size);
        let number = |r: std::ops::Range<usize>, what| octal(&b[r]).ok_or(ReadError::Damaged { at: self.at, what });
        let small = |v: u64, what| u32::try_from(v).map_err(|_| ReadError::Damaged { at: self.at, what });
        let mtime = match e.mtime {
            Some(t) => t,
            None => Stamp { secs: number(136..148, "a time")? as i64, nanos: 0 },
        };
        let name = e.path.unwrap_or_else(|| text(&b[..100]));
        if name.is_empty() || name.len() > PATH_LEN_MAX {
            return Err(self.bad("the name of a member"));
        }
        self.left = size.checked_add(padding(size) as u64).ok_or_else(|| self.bad("the size of a member"))?;
        let meta = Meta {
            kind: kind.unwrap_or(Kind::File),
            mode: small(number(100..108, "a mode")? & 0o7777, "a mode")?,
            uid: e.uid.map_or_else(|| small(number(108..116, "an owner")?, "an owner"), Ok)?,
            gid: e.gid.map_or_else(|| small(number(116..124, "a group")?, "a group"), Ok)?,
            mtime,
            ctime: Stamp::default(),
            ino: 0,
            nlink: 1,
            size: e.real_size.unwrap_or(size),
            rdev: (
                small(number(329..337, "a device")?, "a device")?,
                small(number(337..345, "a device")?, "a device")?,
            ),
        };
        let link = e.link.unwrap_or_else(|| text(&b[157..257]));
        Ok(Member { name, kind, meta, link, xattrs: e.xattrs, size, sparse: e.sparse, data_at: self.at })
    }

    /// The map that begins a sparse member's content: call it before anything else of the content is read.
    pub fn sparse_map(&mut self, member: &Member) -> Result<SparseMap, ReadError> {
        let mut map = SparseMap { real_size: member.meta.size, spans: Vec::new() };
        let mut numbers = Vec::new();
        let (mut want, mut value, mut digits) = (1usize, 0u64, 0);
        let mut used = 0u64;
        while numbers.len() < want {
            let mut c = [0u8];
            if used >= self.left || used > EXTENDED_MAX {
                return Err(self.bad("a sparse map"));
            }
            self.input.read_exact(&mut c).map_err(|_| self.bad("it ends inside a sparse map"))?;
            used += 1;
            match c[0] {
                d @ b'0'..=b'9' => {
                    value = value
                        .checked_mul(10)
                        .and_then(|v| v.checked_add(u64::from(d - b'0')))
                        .ok_or_else(|| self.bad("a sparse map"))?;
                    digits += 1;
                }
                b'\n' if digits > 0 => {
                    if numbers.is_empty() {
                        let count = usize::try_from(value).ok().filter(|n| *n <= 1 << 20);
                        want = 1 + 2 * count.ok_or_else(|| self.bad("a sparse map"))?;
                    }
                    numbers.push(value);
                    (value, digits) = (0, 0);
                }
                _ => return Err(self.bad("a sparse map")),
            }
        }
        for pair in numbers[1..].chunks_exact(2) {
            let end =
                pair[0].checked_add(pair[1]).filter(|e| *e <= map.real_size).ok_or_else(|| self.bad("a sparse map"))?;
            map.spans.push((pair[0], end));
        }
        self.at += used;
        self.left -= used;
        let pad = (padding(used) as u64).min(self.left);
        self.skip(pad)?;
        self.left -= pad;
        Ok(map)
    }
}

impl Extended {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" | b"GNU.sparse.name" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"mtime" => self.mtime = Some(stamp(value)?),
            b"uid" => self.uid = Some(decimal(value)?.try_into().ok()?),
            b"gid" => self.gid = Some(decimal(value)?.try_into().ok()?),
            b"size" => self.size = Some(decimal(value)?),
            b"GNU.sparse.realsize" => self.real_size = Some(decimal(value)?),
            b"GNU.sparse.major" => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Some(())
    }
}
