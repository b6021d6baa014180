//! Writing headers: straight into the caller's buffer, with no other memory and no text formatting, because every small
//! file of a tree passes here.

use super::{BLOCK, SparseMap, XATTR_KEY, padding};
use crate::entry::{Kind, Meta, Stamp};

/// Largest value of an 11-digit octal field.
const OCTAL_11: u64 = (1 << 33) - 1;
/// Largest value of a 7-digit octal field.
const OCTAL_7: u64 = (1 << 21) - 1;
/// Bytes of the name field and of the link field.
const NAME_LEN: usize = 100;
const SPARSE_PREFIX: &[u8] = b"GNUSparseFile.0/";

/// What all headers share: magic, version, and blanks where the checksum will be.
const TEMPLATE: [u8; BLOCK] = {
    let mut h = [0u8; BLOCK];
    let magic = b"ustar\x0000";
    let mut i = 0;
    while i < magic.len() {
        h[257 + i] = magic[i];
        h[148 + i] = b' ';
        i += 1;
    }
    h
};

/// A decimal number as text.
struct Decimal {
    digits: [u8; 20],
    from: usize,
}

impl Decimal {
    fn new(mut n: u64) -> Self {
        let (mut digits, mut from) = ([b'0'; 20], 20);
        loop {
            from -= 1;
            digits[from] = b'0' + (n % 10) as u8;
            n /= 10;
            if n == 0 {
                return Self { digits, from };
            }
        }
    }

    fn text(&self) -> &[u8] {
        &self.digits[self.from..]
    }
}

fn digits(n: u64) -> usize {
    n.checked_ilog10().map_or(1, |d| d as usize + 1)
}

fn push_decimal(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(Decimal::new(n).text());
}

/// The map's entries: (offset, length). A last, empty one says where a file ends that ends in a hole; without it GNU
/// tar makes such a file too short.
fn sparse_entries(map: &SparseMap) -> impl Iterator<Item = (u64, u64)> + '_ {
    let end = map.spans.last().map_or(0, |s| s.1);
    let tail = (end < map.real_size).then_some((map.real_size, 0));
    map.spans.iter().map(|(a, b)| (*a, b.saturating_sub(*a))).chain(tail)
}

/// Bytes that the map takes at the start of a sparse member's content, with its padding.
pub fn sparse_map_len(map: &SparseMap) -> u64 {
    let (n, bytes) = sparse_entries(map).fold((0, 0), |(n, b), (at, len)| (n + 1, b + digits(at) + digits(len) + 2));
    let text = (digits(n) + 1 + bytes) as u64;
    text + padding(text) as u64
}

/// Appends the map that begins a sparse member's content.
pub fn append_sparse_map(out: &mut Vec<u8>, map: &SparseMap) {
    let start = out.len();
    push_decimal(out, sparse_entries(map).count() as u64);
    out.push(b'\n');
    for (at, len) in sparse_entries(map) {
        push_decimal(out, at);
        out.push(b'\n');
        push_decimal(out, len);
        out.push(b'\n');
    }
    pad(out, start);
}

fn pad(out: &mut Vec<u8>, start: usize) {
    let n = padding((out.len() - start) as u64);
    out.resize(out.len() + n, 0);
}

/// The beginning of a record: its whole length, which counts its own digits, and a blank.
fn begin_record(out: &mut Vec<u8>, key_len: usize, value_len: usize) {
    let body = (key_len + value_len + 3) as u64;
    let mut n = digits(body);
    n = digits(body + n as u64);
    push_decimal(out, body + n as u64);
    out.push(b' ');
}

/// A record whose value comes in parts.
fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[&[u8]]) {
    begin_record(out, key.len(), value.iter().map(|v| v.len()).sum());
    out.extend_from_slice(key);
    out.push(b'=');
    value.iter().for_each(|v| out.extend_from_slice(v));
    out.push(b'\n');
}

fn push_xattr(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let odd = name.iter().filter(|b| matches!(b, b'%' | b'=')).count();
    begin_record(out, XATTR_KEY.len() + name.len() + 2 * odd, value.len());
    out.extend_from_slice(XATTR_KEY);
    if odd == 0 {
        out.extend_from_slice(name);
    } else {
        for b in name {
            match b {
                b'%' => out.extend_from_slice(b"%25"),
                b'=' => out.extend_from_slice(b"%3D"),
                b => out.push(*b),
            }
        }
    }
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Seconds with nanoseconds as a decimal fraction. Before 1970 the sign holds for the fraction too, while in a stamp
/// the nanoseconds always count forward: -1 s and 0.25 s after that is -0.75.
fn push_time(out: &mut Vec<u8>, t: Stamp) {
    let nanos = t.nanos.min(999_999_999);
    let (whole, fraction) = match (t.secs < 0, nanos) {
        (true, 1..) => ((t.secs + 1).unsigned_abs(), 1_000_000_000 - nanos),
        _ => (t.secs.unsigned_abs(), nanos),
    };
    let whole = Decimal::new(whole);
    let sign: &[u8] = if t.secs < 0 { b"-" } else { b"" };
    if fraction == 0 {
        return push_record(out, b"mtime", &[sign, whole.text()]);
    }
    // A one in front keeps the fraction's zeros.
    let fraction = Decimal::new(u64::from(fraction) + 1_000_000_000);
    push_record(out, b"mtime", &[sign, whole.text(), b".", &fraction.text()[1..]]);
}

fn octal(field: &mut [u8], value: u64) {
    let mut v = value;
    for b in field.iter_mut().rev().skip(1) {
        *b = b'0' + (v & 7) as u8;
        v >>= 3;
    }
}

fn cut(field: &mut [u8], bytes: &[u8]) -> usize {
    let n = bytes.len().min(field.len());
    field[..n].copy_from_slice(&bytes[..n]);
    n
}

fn type_flag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Dir => b'5',
        Kind::Fifo => b'6',
    }
}

/// Fills in the checksum.
fn seal(h: &mut [u8; BLOCK]) {
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    octal(&mut h[148..155], u64::from(sum));
    h[154] = 0;
}

fn extended_header(size: u64) -> [u8; BLOCK] {
    let mut h = TEMPLATE;
    cut(&mut h[..NAME_LEN], b"././@PaxHeader");
    octal(&mut h[100..108], 0o600);
    octal(&mut h[108..116], 0);
    octal(&mut h[116..124], 0);
    octal(&mut h[124..136], size.min(OCTAL_11));
    octal(&mut h[136..148], 0);
    h[156] = b'x';
    octal(&mut h[329..337], 0);
    octal(&mut h[337..345], 0);
    seal(&mut h);
    h
}

/// The time, if the plain header's field can hold its seconds.
fn plain_time(meta: &Meta) -> Option<u64> {
    u64::try_from(meta.mtime.secs).ok().filter(|s| *s <= OCTAL_11)
}

/// Records for all that the plain header cannot hold. The name comes in two parts.
fn push_records(
    out: &mut Vec<u8>,
    name: &[&[u8]; 2],
    meta: &Meta,
    link: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
    size: u64,
    sparse: Option<&SparseMap>,
) {
    if let Some(map) = sparse {
        push_record(out, b"GNU.sparse.major", &[b"1"]);
        push_record(out, b"GNU.sparse.minor", &[b"0"]);
        push_record(out, b"GNU.sparse.name", name);
        push_record(out, b"GNU.sparse.realsize", &[Decimal::new(map.real_size).text()]);
    } else if name[0].len() + name[1].len() > NAME_LEN {
        push_record(out, b"path", name);
    }
    if link.len() > NAME_LEN {
        push_record(out, b"linkpath", &[link]);
    }
    if meta.mtime.nanos != 0 || plain_time(meta).is_none() {
        push_time(out, meta.mtime);
    }
    for (key, id) in [(b"uid", meta.uid), (b"gid", meta.gid)] {
        if u64::from(id) > OCTAL_7 {
            push_record(out, key, &[Decimal::new(id.into()).text()]);
        }
    }
    if size > OCTAL_11 {
        push_record(out, b"size", &[Decimal::new(size).text()]);
    }
    for (key, value) in xattrs {
        push_xattr(out, key, value);
    }
}

/// Appends a member's headers: an extended one where something needs it, then the plain one.
///
/// `name` and `link` are any bytes but NUL; a directory's name gets a `/` at its end. `size` is that of the stored
/// content in bytes; for a sparse file that is its map ([`sparse_map_len`]) and the data, and the map is appended by
/// [`append_sparse_map`]. Device numbers beyond 2,097,151 are cut to that: Linux has none.
pub fn append_header(
    out: &mut Vec<u8>,
    name: &[u8],
    meta: &Meta,
    link: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
    size: u64,
    sparse: Option<&SparseMap>,
) {
    let slash: &[u8] = if meta.kind == Kind::Dir && !name.ends_with(b"/") { b"/" } else { b"" };
    let start = out.len();
    let body = start + BLOCK;
    // The extended header's place is kept while its records are written, and given back if there are none.
    out.resize(body, 0);
    push_records(out, &[name, slash], meta, link, xattrs, size, sparse);
    if out.len() == body {
        out.truncate(start);
    } else {
        let header = extended_header((out.len() - body) as u64);
        out[start..body].copy_from_slice(&header);
        pad(out, body);
    }
    let mut h = TEMPLATE;
    let field = &mut h[..NAME_LEN];
    if sparse.is_some() {
        let n = cut(field, SPARSE_PREFIX);
        cut(&mut field[n..], name.rsplit(|b| *b == b'/').next().unwrap_or(name));
    } else {
        let n = cut(field, name);
        cut(&mut field[n..], slash);
    }
    octal(&mut h[100..108], u64::from(meta.mode & 0o7777));
    octal(&mut h[108..116], u64::from(meta.uid).min(OCTAL_7));
    octal(&mut h[116..124], u64::from(meta.gid).min(OCTAL_7));
    octal(&mut h[124..136], size.min(OCTAL_11));
    octal(&mut h[136..148], plain_time(meta).unwrap_or(0));
    h[156] = type_flag(meta.kind);
    cut(&mut h[157..257], link);
    octal(&mut h[329..337], u64::from(meta.rdev.0).min(OCTAL_7));
    octal(&mut h[337..345], u64::from(meta.rdev.1).min(OCTAL_7));
    seal(&mut h);
    out.extend_from_slice(&h);
}

/// Appends the header of one of Zoneward's own members (`.zoneward/…`): mode 0600, owner 0, time 0.
pub fn append_simple(out: &mut Vec<u8>, name: &str, size: u64) {
    const EPOCH: Stamp = Stamp { secs: 0, nanos: 0 };
    let meta = Meta {
        kind: Kind::File,
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: EPOCH,
        ctime: EPOCH,
        ino: 0,
        nlink: 1,
        size,
        rdev: (0, 0),
    };
    append_header(out, name.as_bytes(), &meta, b"", &[], size, None);
}

/// Ends a tar: two zero blocks.
pub fn finish(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK, 0);
}
