//! Writing catalog parts.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::SectorTable;
use crate::entry::{Entry, Extent, Kind, Stamp};
use crate::ids::{LayerId, SectorId, SourceId};
use crate::limits::EXTENTS_PER_LINE;

/// Collects the lines of one part.
#[derive(Debug)]
pub struct PartWriter {
    table: SectorTable,
    own: u32,
    /// Process-wide sector number to number within this part.
    numbers: HashMap<u32, u32>,
    lines: Vec<u8>,
    entries: u64,
}

fn push_u64(out: &mut Vec<u8>, mut v: u64) {
    let mut buf = [0u8; 20];
    let mut at = buf.len();
    loop {
        at -= 1;
        buf[at] = b'0' + (v % 10) as u8;
        v /= 10;
        if v == 0 {
            break;
        }
    }
    out.extend_from_slice(&buf[at..]);
}

fn push_i64(out: &mut Vec<u8>, v: i64) {
    if v < 0 {
        out.push(b'-');
    }
    push_u64(out, v.unsigned_abs());
}

fn push_stamp(out: &mut Vec<u8>, key: &str, s: Stamp) {
    out.extend_from_slice(key.as_bytes());
    push_i64(out, s.secs);
    out.push(b',');
    push_u64(out, u64::from(s.nanos));
    out.push(b']');
}

fn push_num(out: &mut Vec<u8>, key: &str, v: u64) {
    out.extend_from_slice(key.as_bytes());
    push_u64(out, v);
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\') {
        out.extend_from_slice(text.as_bytes());
    } else {
        for c in text.chars() {
            match c {
                '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
                c if (c as u32) < 0x20 => {
                    out.extend_from_slice(b"\\u00");
                    out.extend_from_slice(crate::ids::hex(&[c as u8]).as_bytes());
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    out.push(b'"');
}

/// `"key":"text"` where the bytes are UTF-8, `"key64":"base64"` where not.
fn push_bytes(out: &mut Vec<u8>, key: &str, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(key.as_bytes());
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            out.extend_from_slice(b"\":");
            push_text(out, text);
        }
        Err(_) => {
            out.extend_from_slice(b"64\":\"");
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
    }
}

fn push_xattrs(out: &mut Vec<u8>, xattrs: &[(Vec<u8>, Vec<u8>)]) {
    for (key, utf8) in [(",\"x\":{", true), (",\"x64\":{", false)] {
        let mut first = true;
        for (name, value) in xattrs {
            let text = std::str::from_utf8(name).ok();
            if text.is_some() != utf8 {
                continue;
            }
            out.extend_from_slice(if first { key.as_bytes() } else { b"," });
            first = false;
            match text {
                Some(t) => push_text(out, t),
                None => push_text(out, &STANDARD.encode(name)),
            }
            out.push(b':');
            push_text(out, &STANDARD.encode(value));
        }
        if !first {
            out.push(b'}');
        }
    }
}

fn kind_letter(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'f',
        Kind::Dir => b'd',
        Kind::Symlink => b'l',
        Kind::HardLink => b'h',
        Kind::Fifo => b'p',
        Kind::CharDevice => b'c',
        Kind::BlockDevice => b'b',
    }
}

impl PartWriter {
    /// Begins a part that will lie in the sector `own`.
    pub fn new(table: &SectorTable, own: SectorId, source: SourceId, layer: LayerId, part: u32) -> Self {
        let lines = format!("{{\"catalog\":1,\"source\":\"{source}\",\"layer\":\"{layer}\",\"part\":{part}}}\n");
        Self {
            table: table.clone(),
            own: table.number(own),
            numbers: HashMap::new(),
            lines: lines.into_bytes(),
            entries: 0,
        }
    }

    /// The other sectors that its entries have content in.
    pub fn refs(&self) -> Vec<SectorId> {
        self.numbers.keys().filter_map(|n| self.table.id(*n)).collect()
    }

    fn number_in_part(&mut self, sector: u32) -> u32 {
        if sector == self.own {
            return 0;
        }
        if let Some(k) = self.numbers.get(&sector) {
            return *k;
        }
        let k = self.numbers.len() as u32 + 1;
        self.numbers.insert(sector, k);
        let id = self.table.id(sector).unwrap_or_default();
        self.lines.extend_from_slice(format!("{{\"k\":{k},\"sector\":\"{id}\"}}\n").as_bytes());
        k
    }

    /// Adds an entry. Entries must come in the order of [`crate::entry::path_cmp`] over the whole layer.
    pub fn push(&mut self, e: &Entry) {
        let ks: Vec<u32> = e
            .extents
            .iter()
            .map(|x| match x {
                Extent::Data { sector, .. } => self.number_in_part(*sector),
                Extent::Hole(_) => 0,
            })
            .collect();
        let out = &mut self.lines;
        out.push(b'{');
        push_bytes(out, "p", &e.path);
        out.extend_from_slice(b",\"t\":\"");
        out.push(kind_letter(e.meta.kind));
        push_num(out, "\",\"m\":", u64::from(e.meta.mode));
        push_num(out, ",\"u\":", u64::from(e.meta.uid));
        push_num(out, ",\"g\":", u64::from(e.meta.gid));
        push_stamp(out, ",\"mt\":[", e.meta.mtime);
        push_stamp(out, ",\"ct\":[", e.meta.ctime);
        push_num(out, ",\"i\":", e.meta.ino);
        if e.meta.nlink != 1 && e.meta.kind != Kind::Dir {
            push_num(out, ",\"n\":", u64::from(e.meta.nlink));
        }
        push_xattrs(out, &e.xattrs);
        if matches!(e.meta.kind, Kind::Symlink | Kind::HardLink) {
            out.push(b',');
            push_bytes(out, "l", &e.link);
        }
        if matches!(e.meta.kind, Kind::CharDevice | Kind::BlockDevice) {
            push_num(out, ",\"r\":[", u64::from(e.meta.rdev.0));
            push_num(out, ",", u64::from(e.meta.rdev.1));
            out.push(b']');
        }
        if matches!(e.meta.kind, Kind::File | Kind::HardLink) {
            push_num(out, ",\"s\":", e.meta.size);
        }
        if e.unsteady {
            out.extend_from_slice(b",\"w\":1");
        }
        let mut rest = &e.extents[..];
        let mut ks = &ks[..];
        let mut open = b",\"e\":[".as_slice();
        loop {
            let n = rest.len().min(EXTENTS_PER_LINE);
            if n > 0 {
                out.extend_from_slice(open);
                push_extents(out, &rest[..n], &ks[..n]);
                out.push(b']');
            }
            out.extend_from_slice(b"}\n");
            (rest, ks) = (&rest[n..], &ks[n..]);
            if rest.is_empty() {
                break;
            }
            open = b"{\"+\":[";
        }
        self.entries += 1;
    }

    /// Adds the news that a path is gone.
    pub fn push_gone(&mut self, path: &[u8]) {
        self.lines.push(b'{');
        push_bytes(&mut self.lines, "p", path);
        self.lines.extend_from_slice(b",\"t\":\"-\"}\n");
        self.entries += 1;
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// True while it holds no entries.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The lines and the number of entries.
    pub fn finish(self) -> (Vec<u8>, u64) {
        (self.lines, self.entries)
    }
}

fn push_extents(out: &mut Vec<u8>, extents: &[Extent], ks: &[u32]) {
    for (i, (x, k)) in extents.iter().zip(ks).enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.push(b'[');
        match x {
            Extent::Hole(n) => push_u64(out, *n),
            Extent::Data { offset, len, fingerprint, .. } => {
                push_u64(out, u64::from(*k));
                out.push(b',');
                push_u64(out, *offset);
                out.push(b',');
                push_u64(out, *len);
                let mut fp = [0u8; 43];
                let n = URL_SAFE_NO_PAD.encode_slice(fingerprint, &mut fp).unwrap_or(0);
                out.extend_from_slice(b",\"");
                out.extend_from_slice(&fp[..n]);
                out.push(b'"');
            }
        }
        out.push(b']');
    }
}
