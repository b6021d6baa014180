//! Reading tar headers, from anyone: bounded, and an error rather than a guess.

use std::io::{self, Read};

use super::{BLOCK, EXTENDED_MAX, SparseMap, XATTR_KEY, padding};
use crate::entry::{Kind, Meta, Stamp, Xattrs};
use crate::limits::PATH_LEN_MAX;

/// Stretches in one sparse map.
const SPANS_MAX: u64 = 1 << 20;

/// Why a tar is refused. `at` is a byte of the tar: the header that is wrong, or where it ends.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the tar cannot be read at byte {at}: {source}")]
    Io { at: u64, source: io::Error },
    #[error("the tar ends at byte {at}, inside {what}")]
    Truncated { at: u64, what: &'static str },
    #[error("the tar is damaged at byte {at}: {what}")]
    Damaged { at: u64, what: &'static str },
    #[error("the tar has, at byte {at}, {what}, longer than {limit} bytes")]
    TooLong { at: u64, what: &'static str, limit: u64 },
    #[error("the tar has, at byte {at}, {what}, which is not read here")]
    Unsupported { at: u64, what: &'static str },
    #[error("the tar is not read on after an error")]
    Stopped,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    Entry(Kind),
    /// A type flag that Zoneward does not write.
    Other(u8),
}

/// One member's headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Without the `/` at the end of a directory's name.
    pub name: Vec<u8>,
    pub kind: MemberKind,
    /// What a tar does not hold (ctime, inode, number of links) is 0 or 1; the size is that of the whole file, and 0
    /// for all else; the kind of an `Other` is `File`.
    pub meta: Meta,
    pub link: Vec<u8>,
    /// Sorted by name.
    pub xattrs: Xattrs,
    /// Bytes of content stored in the tar, with the sparse map.
    pub size: u64,
    /// Bytes of the file, holes included.
    pub real_size: u64,
    /// The content begins with a map: see [`Reader::sparse_map`].
    pub sparse: bool,
    /// Where the content begins in the tar.
    pub data_offset: u64,
}

/// Walks from member to member. Content that is not asked for is passed over by reading it.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Bytes of the tar read.
    at: u64,
    /// Bytes of the current member's content, and of zeros after it, not read yet.
    left: u64,
    pad: usize,
    /// The whole size of the current member, if it is sparse and its map was not read yet.
    map_due: Option<u64>,
    ended: bool,
    failed: bool,
    records: Vec<u8>,
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Self {
        Self { input, at: 0, left: 0, pad: 0, map_due: None, ended: false, failed: false, records: Vec::new() }
    }

    /// The next member, or `None` after the last one. After an error there is nothing more.
    pub fn next_member(&mut self) -> Result<Option<Member>, ReadError> {
        self.guarded(Self::advance)
    }

    /// Reads some of the current member's content, with its sparse map if that was not taken first; 0 at its end.
    pub fn read_content(&mut self, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.guarded(|r| {
            let want = buf.len().min(usize::try_from(r.left).unwrap_or(usize::MAX));
            r.map_due = None;
            r.fill(&mut buf[..want], "a member")?;
            r.left -= want as u64;
            Ok(want)
        })
    }

    /// The map that begins a sparse member's content; `None` if the member is not sparse or its content was read
    /// already. What [`Self::read_content`] gives then is the data alone.
    pub fn sparse_map(&mut self) -> Result<Option<SparseMap>, ReadError> {
        self.guarded(|r| match r.map_due.take() {
            Some(real_size) => r.read_map(real_size).map(Some),
            None => Ok(None),
        })
    }

    fn guarded<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, ReadError>) -> Result<T, ReadError> {
        if self.failed {
            return Err(ReadError::Stopped);
        }
        let r = f(self);
        self.failed = r.is_err();
        r
    }

    fn fill(&mut self, buf: &mut [u8], what: &'static str) -> Result<(), ReadError> {
        self.input.read_exact(buf).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => ReadError::Truncated { at: self.at, what },
            _ => ReadError::Io { at: self.at, source },
        })?;
        self.at += buf.len() as u64;
        Ok(())
    }

    fn skip(&mut self, n: u64) -> Result<(), ReadError> {
        let got = io::copy(&mut (&mut self.input).take(n), &mut io::sink());
        let got = got.map_err(|source| ReadError::Io { at: self.at, source })?;
        self.at += got;
        if got == n { Ok(()) } else { Err(ReadError::Truncated { at: self.at, what: "a member" }) }
    }

    fn advance(&mut self) -> Result<Option<Member>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let rest = std::mem::take(&mut self.left) + std::mem::take(&mut self.pad) as u64;
        self.map_due = None;
        self.skip(rest)?;
        let mut extended: Option<Extended> = None;
        loop {
            let at = self.at;
            let damaged = |what| ReadError::Damaged { at, what };
            let mut h = [0u8; BLOCK];
            self.fill(&mut h, "a header")?;
            if h.iter().all(|b| *b == 0) {
                if extended.is_some() {
                    return Err(damaged("it ends after an extended header"));
                }
                self.fill(&mut h, "the two blocks at its end")?;
                if h.iter().any(|b| *b != 0) {
                    return Err(damaged("only one empty block"));
                }
                self.ended = true;
                return Ok(None);
            }
            check_sum(&h).ok_or_else(|| damaged("the checksum of a header"))?;
            match h[156] {
                b'x' if extended.is_none() => extended = Some(self.read_extended(&h, at)?),
                b'x' => return Err(damaged("two extended headers in a row")),
                b'g' => return Err(ReadError::Unsupported { at, what: "a global extended header" }),
                // They would name the member after them.
                b'L' | b'K' => return Err(ReadError::Unsupported { at, what: "a GNU long name" }),
                _ => return self.member(&h, at, extended.unwrap_or_default()).map(Some),
            }
        }
    }

    fn read_extended(&mut self, h: &[u8; BLOCK], at: u64) -> Result<Extended, ReadError> {
        let size = number(&h[124..136]).and_then(|n| u64::try_from(n).ok());
        let size = size.ok_or(ReadError::Damaged { at, what: "the size of an extended header" })?;
        if size > EXTENDED_MAX {
            return Err(ReadError::TooLong { at, what: "an extended header", limit: EXTENDED_MAX });
        }
        let mut records = std::mem::take(&mut self.records);
        records.resize(size as usize, 0);
        self.fill(&mut records, "an extended header")?;
        self.skip(padding(size) as u64)?;
        let mut e = Extended::default();
        let mut rest = &records[..];
        while !rest.is_empty() {
            let (key, value, after) =
                split_record(rest).ok_or(ReadError::Damaged { at, what: "a record of an extended header" })?;
            e.take(key, value, at)?;
            rest = after;
        }
        // Of two records with one key the later holds; the sort is stable.
        e.xattrs.sort_by(|a, b| a.0.cmp(&b.0));
        e.xattrs.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        self.records = records;
        Ok(e)
    }

    fn member(&mut self, h: &[u8; BLOCK], at: u64, mut e: Extended) -> Result<Member, ReadError> {
        let damaged = |what| ReadError::Damaged { at, what };
        let unsigned = |from: usize, to: usize, what| {
            number(&h[from..to]).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| damaged(what))
        };
        let small = |from, to, what| unsigned(from, to, what).and_then(|n| n.try_into().map_err(|_| damaged(what)));
        let kind = kind_of(h[156]);
        let stored = match e.size {
            Some(n) => n,
            None => unsigned(124, 136, "the size of a member")?,
        };
        let has_content = matches!(kind, MemberKind::Entry(Kind::File) | MemberKind::Other(_));
        if stored > 0 && !has_content {
            return Err(damaged("content where there can be none"));
        }
        let end = self.at.checked_add(stored).and_then(|n| n.checked_add(BLOCK as u64));
        end.filter(|n| *n <= i64::MAX as u64).ok_or_else(|| damaged("the size of a member"))?;
        let sparse = e.sparse(kind, at)?;
        let real_size = e.real_size.filter(|_| sparse).unwrap_or(stored);
        let (name, link) = names(h, &mut e, kind, at)?;
        let mtime = match e.mtime {
            Some(t) => t,
            None => Stamp { secs: number(&h[136..148]).ok_or_else(|| damaged("a time"))?, nanos: 0 },
        };
        let meta = Meta {
            kind: if let MemberKind::Entry(k) = kind { k } else { Kind::File },
            mode: small(100, 108, "a mode")? & 0o7777,
            uid: e.uid.map_or_else(|| small(108, 116, "an owner"), Ok)?,
            gid: e.gid.map_or_else(|| small(116, 124, "a group"), Ok)?,
            mtime,
            ctime: Stamp::default(),
            ino: 0,
            nlink: 1,
            size: if kind == MemberKind::Entry(Kind::File) { real_size } else { 0 },
            rdev: match kind {
                MemberKind::Entry(Kind::CharDevice | Kind::BlockDevice) => {
                    (small(329, 337, "a device")?, small(337, 345, "a device")?)
                }
                _ => (0, 0),
            },
        };
        (self.left, self.pad, self.map_due) = (stored, padding(stored), sparse.then_some(real_size));
        Ok(Member { name, kind, meta, link, xattrs: e.xattrs, size: stored, real_size, sparse, data_offset: self.at })
    }

    fn read_map(&mut self, real_size: u64) -> Result<SparseMap, ReadError> {
        let at = self.at;
        let damaged = || ReadError::Damaged { at, what: "a sparse map" };
        let mut map = SparseMap { real_size, spans: Vec::new() };
        let mut block = [0u8; BLOCK];
        let mut used = BLOCK;
        let mut line = |r: &mut Self| -> Result<u64, ReadError> {
            let (mut value, mut any) = (0u64, false);
            loop {
                if used == BLOCK {
                    r.left = r.left.checked_sub(BLOCK as u64).ok_or_else(damaged)?;
                    r.fill(&mut block, "a sparse map")?;
                    used = 0;
                }
                let b = block.get(used).copied().unwrap_or(0);
                used += 1;
                match b {
                    b'0'..=b'9' => {
                        let next = value.checked_mul(10).and_then(|v| v.checked_add(u64::from(b - b'0')));
                        value = next.ok_or_else(damaged)?;
                        any = true;
                    }
                    b'\n' if any => return Ok(value),
                    _ => return Err(damaged()),
                }
            }
        };
        let count = line(self)?;
        if count > SPANS_MAX {
            return Err(damaged());
        }
        let (mut before, mut data) = (0, 0u64);
        for _ in 0..count {
            let (start, len) = (line(self)?, line(self)?);
            let end = start.checked_add(len).filter(|e| start >= before && *e <= real_size).ok_or_else(damaged)?;
            // An empty stretch only says where the file ends.
            if len > 0 {
                map.spans.push((start, end));
            }
            data += len;
            before = end;
        }
        if data == self.left { Ok(map) } else { Err(damaged()) }
    }
}

/// What an extended header says of the member after it.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    mtime: Option<Stamp>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    sparse_major: Option<u64>,
    sparse_minor: Option<u64>,
    sparse_name: Option<Vec<u8>>,
    real_size: Option<u64>,
    xattrs: Xattrs,
}

impl Extended {
    fn take(&mut self, key: &[u8], value: &[u8], at: u64) -> Result<(), ReadError> {
        fn parsed<T>(value: &[u8], at: u64, parse: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, ReadError> {
            // An empty value takes a record back.
            if value.is_empty() {
                return Ok(None);
            }
            parse(value).map(Some).ok_or(ReadError::Damaged { at, what: "a value in an extended header" })
        }
        let bytes = |v: &[u8]| Some(v.to_vec());
        let id = |v: &[u8]| decimal(v).and_then(|n| u32::try_from(n).ok());
        match key {
            b"path" => self.path = parsed(value, at, bytes)?,
            b"linkpath" => self.link = parsed(value, at, bytes)?,
            b"mtime" => self.mtime = parsed(value, at, stamp)?,
            b"uid" => self.uid = parsed(value, at, id)?,
            b"gid" => self.gid = parsed(value, at, id)?,
            b"size" => self.size = parsed(value, at, decimal)?,
            b"GNU.sparse.major" => self.sparse_major = parsed(value, at, decimal)?,
            b"GNU.sparse.minor" => self.sparse_minor = parsed(value, at, decimal)?,
            b"GNU.sparse.name" => self.sparse_name = parsed(value, at, bytes)?,
            b"GNU.sparse.realsize" => self.real_size = parsed(value, at, decimal)?,
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(ReadError::Unsupported { at, what: "a sparse file of an older form" });
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_KEY) {
                    self.xattrs.push((xattr_name(name), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn sparse(&self, kind: MemberKind, at: u64) -> Result<bool, ReadError> {
        match (self.sparse_major, self.sparse_minor, self.real_size) {
            (None, None, None) if self.sparse_name.is_none() => Ok(false),
            (Some(1), Some(0), Some(_)) if kind == MemberKind::Entry(Kind::File) => Ok(true),
            (Some(1), Some(0), _) => Err(ReadError::Damaged { at, what: "a sparse file" }),
            _ => Err(ReadError::Unsupported { at, what: "a sparse file of another form" }),
        }
    }
}

/// The name of a member and the target of a link.
fn names(h: &[u8; BLOCK], e: &mut Extended, kind: MemberKind, at: u64) -> Result<(Vec<u8>, Vec<u8>), ReadError> {
    let mut name = e.sparse_name.take().or(e.path.take()).unwrap_or_else(|| plain_name(h));
    if kind == MemberKind::Entry(Kind::Dir) && name.len() > 1 && name.ends_with(b"/") {
        name.pop();
    }
    let link = e.link.take().unwrap_or_else(|| until_nul(&h[157..257]).to_vec());
    for (text, what) in [(&name, "the name of a member"), (&link, "the target of a link")] {
        if text.len() > PATH_LEN_MAX {
            return Err(ReadError::TooLong { at, what, limit: PATH_LEN_MAX as u64 });
        }
        if text.contains(&0) {
            return Err(ReadError::Damaged { at, what });
        }
    }
    let needs_link = matches!(kind, MemberKind::Entry(Kind::HardLink | Kind::Symlink));
    if name.is_empty() || (needs_link && link.is_empty()) {
        return Err(ReadError::Damaged { at, what: "an empty name" });
    }
    Ok((name, link))
}

fn kind_of(flag: u8) -> MemberKind {
    MemberKind::Entry(match flag {
        b'0' | b'7' | 0 => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        other => return MemberKind::Other(other),
    })
}

/// Splits `<length> <key>=<value>\n` off: key, value and what follows.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(21).position(|b| *b == b' ')?;
    let len = usize::try_from(decimal(bytes.get(..blank)?)?).ok()?;
    let record = bytes.get(blank + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=').filter(|n| *n > 0)?;
    Some((record.get(..equals)?, record.get(equals + 1..)?, bytes.get(len..)?))
}

fn decimal(v: &[u8]) -> Option<u64> {
    if v.is_empty() {
        return None;
    }
    v.iter().try_fold(0u64, |n, b| match b {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

/// A time as decimal seconds; digits below a nanosecond are dropped.
fn stamp(v: &[u8]) -> Option<Stamp> {
    let (negative, v) = v.strip_prefix(b"-").map_or((false, v), |rest| (true, rest));
    let dot = v.iter().position(|b| *b == b'.');
    let (whole, fraction) = dot.map_or((v, &b""[..]), |i| (&v[..i], &v[i + 1..]));
    let whole = i128::from(decimal(whole)?);
    let mut nanos = 0;
    for i in 0..fraction.len().max(9) {
        let digit = fraction.get(i).map_or(Some(0), |b| b.is_ascii_digit().then(|| u32::from(b - b'0')))?;
        if i < 9 {
            nanos = nanos * 10 + digit;
        }
    }
    let (secs, nanos) = match (negative, nanos) {
        (false, n) => (whole, n),
        (true, 0) => (-whole, 0),
        (true, n) => (-whole - 1, 1_000_000_000 - n),
    };
    Some(Stamp { secs: i64::try_from(secs).ok()?, nanos })
}

fn xattr_name(key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((b, after)) = rest.split_first() {
        let (b, after) = match (*b, after) {
            (b'%', [b'2', b'5', after @ ..]) => (b'%', after),
            (b'%', [b'3', b'D', after @ ..]) => (b'=', after),
            (b, after) => (b, after),
        };
        name.push(b);
        rest = after;
    }
    name
}

/// A numeric field: octal text, or base 256 (two's complement) as GNU tar writes what octal cannot hold.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let start = match first {
            0xff => -1,
            b if b & 0x40 == 0 => i64::from(b & 0x3f),
            _ => return None,
        };
        return rest.iter().try_fold(start, |v: i64, b| v.checked_mul(256)?.checked_add(i64::from(*b)));
    }
    let from = field.iter().position(|b| *b != b' ').unwrap_or(field.len());
    let text = field.get(from..)?;
    let end = text.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(text.len());
    let (digits, after) = text.split_at(end);
    if after.iter().any(|b| !matches!(b, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0i64, |v, b| match b {
        b'0'..=b'7' => v.checked_mul(8)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

/// The sum of all bytes, with blanks in place of the sum itself.
fn check_sum(h: &[u8; BLOCK]) -> Option<()> {
    let all: i64 = h.iter().map(|b| i64::from(*b)).sum();
    let own: i64 = h[148..156].iter().map(|b| i64::from(*b)).sum();
    (number(&h[148..156])? == all - own + 8 * i64::from(b' ')).then_some(())
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(field)
}

/// The name that the plain header gives: POSIX allows a first part in a field of its own.
fn plain_name(h: &[u8; BLOCK]) -> Vec<u8> {
    let (name, prefix) = (until_nul(&h[..100]), until_nul(&h[345..500]));
    if prefix.is_empty() || h[257..263] != *b"ustar\0" {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}
