//! Pax tar headers: what a raw sector's members begin with (`docs/format.md` §4.1).

mod read;

pub use read::{Member, ReadError, Reader};

use crate::entry::{Kind, Meta, Stamp};

const BLOCK: usize = 512;
/// Largest value of an 11-digit octal field.
const OCTAL_11: u64 = (1 << 33) - 1;
/// Largest value of a 7-digit octal field.
const OCTAL_7: u64 = (1 << 21) - 1;

/// Where a sparse file holds data.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SparseMap {
    /// Size of the whole file.
    pub real_size: u64,
    /// (start, end) of each stretch of data, ascending.
    pub spans: Vec<(u64, u64)>,
}

/// Zeros after `size` bytes of content.
pub fn padding(size: u64) -> usize {
    ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize
}

fn sparse_map_text(map: &SparseMap) -> Vec<u8> {
    let mut text = format!("{}\n", map.spans.len()).into_bytes();
    for (start, end) in &map.spans {
        text.extend_from_slice(format!("{start}\n{}\n", end - start).as_bytes());
    }
    text.resize(text.len() + padding(text.len() as u64), 0);
    text
}

/// Bytes that the map takes at the start of a sparse member's content.
pub fn sparse_map_len(map: &SparseMap) -> u64 {
    sparse_map_text(map).len() as u64
}

/// Appends the map that begins a sparse member's content.
pub fn append_sparse_map(out: &mut Vec<u8>, map: &SparseMap) {
    out.extend_from_slice(&sparse_map_text(map));
}

/// One pax record: its own length, key, value.
fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut len = body + 1;
    while len.to_string().len() + body != len {
        len = len.to_string().len() + body;
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Seconds with nanoseconds as a decimal fraction; before 1970 the fraction counts from the number's own value.
fn time_text(t: Stamp) -> String {
    match (t.secs, t.nanos) {
        (s, 0) => s.to_string(),
        (s, n) if s >= 0 => format!("{s}.{n:09}"),
        (-1, n) => format!("-0.{:09}", 1_000_000_000 - n),
        (s, n) => format!("{}.{:09}", s + 1, 1_000_000_000 - n),
    }
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    for (i, b) in field[..digits].iter_mut().enumerate() {
        *b = b'0' + ((value >> (3 * (digits - 1 - i))) & 7) as u8;
    }
}

fn cut(field: &mut [u8], bytes: &[u8]) {
    let n = bytes.len().min(field.len());
    field[..n].copy_from_slice(&bytes[..n]);
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

fn finish_header(h: &mut [u8; BLOCK]) {
    h[257..265].copy_from_slice(b"ustar\x0000");
    h[148..156].fill(b' ');
    let sum: u64 = h.iter().map(|b| u64::from(*b)).sum();
    octal(&mut h[148..155], sum);
    h[154] = 0;
}

struct Fields<'a> {
    name: &'a [u8],
    flag: u8,
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    link: &'a [u8],
    rdev: (u32, u32),
}

fn push_header(out: &mut Vec<u8>, f: &Fields<'_>) {
    let mut h = [0u8; BLOCK];
    cut(&mut h[..100], f.name);
    octal(&mut h[100..108], u64::from(f.mode));
    octal(&mut h[108..116], f.uid.min(OCTAL_7));
    octal(&mut h[116..124], f.gid.min(OCTAL_7));
    octal(&mut h[124..136], f.size.min(OCTAL_11));
    octal(&mut h[136..148], f.mtime.min(OCTAL_11));
    h[156] = f.flag;
    cut(&mut h[157..257], f.link);
    octal(&mut h[329..337], u64::from(f.rdev.0).min(OCTAL_7));
    octal(&mut h[337..345], u64::from(f.rdev.1).min(OCTAL_7));
    finish_header(&mut h);
    out.extend_from_slice(&h);
}

/// Appends a member's headers: an extended one where something needs it, then the plain one. `size` is that of the stored
/// content, with the sparse map.
pub fn append_header(
    out: &mut Vec<u8>,
    name: &[u8],
    meta: &Meta,
    link: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
    size: u64,
    sparse: Option<&SparseMap>,
) {
    let mut with_slash;
    let mut name = name;
    if meta.kind == Kind::Dir && !name.ends_with(b"/") {
        with_slash = name.to_vec();
        with_slash.push(b'/');
        name = &with_slash;
    }
    let mut records = Vec::new();
    if let Some(map) = sparse {
        push_record(&mut records, b"GNU.sparse.major", b"1");
        push_record(&mut records, b"GNU.sparse.minor", b"0");
        push_record(&mut records, b"GNU.sparse.name", name);
        push_record(&mut records, b"GNU.sparse.realsize", map.real_size.to_string().as_bytes());
        let base = name.rsplit(|b| *b == b'/').next().unwrap_or(name);
        with_slash = [b"GNUSparseFile.0/", &base[..base.len().min(80)]].concat();
        name = &with_slash;
    } else if name.len() > 100 {
        push_record(&mut records, b"path", name);
    }
    if link.len() > 100 {
        push_record(&mut records, b"linkpath", link);
    }
    if meta.mtime.nanos != 0 || meta.mtime.secs < 0 || meta.mtime.secs as u64 > OCTAL_11 {
        push_record(&mut records, b"mtime", time_text(meta.mtime).as_bytes());
    }
    for (key, id) in [(&b"uid"[..], meta.uid), (b"gid", meta.gid)] {
        if u64::from(id) > OCTAL_7 {
            push_record(&mut records, key, id.to_string().as_bytes());
        }
    }
    if size > OCTAL_11 {
        push_record(&mut records, b"size", size.to_string().as_bytes());
    }
    for (key, value) in xattrs {
        push_record(&mut records, &[b"SCHILY.xattr.", &key[..]].concat(), value);
    }
    let fields = Fields {
        name,
        flag: type_flag(meta.kind),
        mode: meta.mode,
        uid: u64::from(meta.uid),
        gid: u64::from(meta.gid),
        size,
        mtime: u64::try_from(meta.mtime.secs).unwrap_or(0),
        link,
        rdev: meta.rdev,
    };
    if !records.is_empty() {
        let n = records.len() as u64;
        let extended = Fields {
            name: b"././@PaxHeader",
            flag: b'x',
            mode: 0o600,
            uid: 0,
            gid: 0,
            size: n,
            mtime: 0,
            link: b"",
            rdev: (0, 0),
        };
        push_header(out, &extended);
        out.extend_from_slice(&records);
        out.resize(out.len() + padding(n), 0);
    }
    push_header(out, &fields);
}

/// Appends the header of one of Zoneward's own members.
pub fn append_simple(out: &mut Vec<u8>, name: &str, size: u64) {
    let meta = Meta {
        kind: Kind::File,
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: Stamp::default(),
        ctime: Stamp::default(),
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
