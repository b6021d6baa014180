//! How golden files' contents are told in JSON. Bytes that may be any are in hex.
#![allow(dead_code)] // Each binary uses its own part.

use serde_json::{Value, json};

use zoneward_sectors::catalog::{Line, SectorTable};
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::entry::{Entry, Extent, Kind};
use zoneward_sectors::frames::SeekTable;
use zoneward_sectors::header::Header;
use zoneward_sectors::ids::hex;
use zoneward_sectors::stream::{Leaf, Trailer};

pub const WORDS: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
                         abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
                         abandon art";
pub const PASSPHRASE: &str = "golden pässphrase";

fn letter(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "f",
        Kind::Dir => "d",
        Kind::Symlink => "l",
        Kind::HardLink => "h",
        Kind::Fifo => "p",
        Kind::CharDevice => "c",
        Kind::BlockDevice => "b",
    }
}

/// Every field of an entry, and the hash of its whole content (holes as zeros).
pub fn entry(e: &Entry, table: &SectorTable, content: Option<&[u8]>) -> Value {
    let extents: Vec<Value> = e
        .extents
        .iter()
        .map(|x| match x {
            Extent::Hole(n) => json!([n]),
            Extent::Data { sector, offset, len, fingerprint } => {
                json!([table.id(*sector).unwrap(), offset, len, hex(fingerprint)])
            }
        })
        .collect();
    let m = &e.meta;
    json!({
        "path": hex(&e.path), "type": letter(m.kind), "mode": m.mode, "uid": m.uid, "gid": m.gid,
        "mtime": [m.mtime.secs, m.mtime.nanos], "ctime": [m.ctime.secs, m.ctime.nanos], "ino": m.ino,
        "nlink": m.nlink, "size": m.size, "rdev": [m.rdev.0, m.rdev.1], "link": hex(&e.link),
        "xattrs": e.xattrs.iter().map(|(n, v)| json!([hex(n), hex(v)])).collect::<Vec<_>>(),
        "extents": extents, "unsteady": e.unsteady, "sha256": content.map(|c| sha256(&[c])),
    })
}

pub fn gone(path: &[u8]) -> Value {
    json!({ "path": hex(path), "type": "-" })
}

pub fn line(l: &Line, table: &SectorTable, content: impl FnOnce(&Entry) -> Option<Vec<u8>>) -> Value {
    match l {
        Line::Gone(p) => gone(p),
        Line::Entry(e) => entry(e, table, content(e).as_deref()),
    }
}

pub fn is_file(e: &Entry) -> bool {
    e.meta.kind == Kind::File
}

pub fn header(h: &Header) -> Value {
    let c = h.core();
    json!({
        "class_log2": c.class_log2, "signer_epoch": c.signer_epoch, "alias": c.alias, "copy": c.copy,
        "owner_fingerprint": c.owner_fingerprint, "hash": h.hash(), "wrapped_len": h.wrapped().len(),
    })
}

pub fn trailer(t: &Trailer) -> Value {
    serde_json::to_value(t).unwrap()
}

/// Raw length and tar length of each frame, as the seek table has them.
pub fn frames(t: &SeekTable) -> Value {
    (0..t.frames()).filter_map(|i| t.frame(i)).map(|(r, t)| json!([r.end - r.start, t.end - t.start])).collect()
}

pub fn leaves(leaves: &[Leaf]) -> Value {
    leaves.iter().map(|l| json!(hex(l))).collect()
}
