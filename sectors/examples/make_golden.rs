//! Makes the golden files of format version 1: a whole target with three backup sectors, and damaged ones.
//!
//! `cargo run -p zoneward-sectors --example make_golden -- DIR`; DIR must not exist yet.
//!
//! Golden files are only ever added, never made again: each release must open what all releases before it wrote.
//! `tests/golden/v1` was made once with this program; a new case is a new program that makes new files beside the old.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test helper: it stops at anything unexpected.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/describe.rs"]
mod describe;

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use common::{Copy, add_member, meta, mint, noise};
use zoneward_sectors::catalog::{PartWriter, SectorTable};
use zoneward_sectors::cert::NodeCertificate;
use zoneward_sectors::crypto::{GcmKey, Secret32, Signer, SigningKey, hkdf32, keyed_fingerprint, sha256};
use zoneward_sectors::entry::{Entry, Extent, Kind, Meta, Stamp, Xattrs, path_cmp};
use zoneward_sectors::header::Core;
use zoneward_sectors::ids::{CopyId, Digest, LayerId, SectorId, SourceId, TargetId, ZoneAlias, hex};
use zoneward_sectors::keyfile::{KdfCost, OwnerKeyFile, Words};
use zoneward_sectors::limits::HEADER_LEN;
use zoneward_sectors::owner::{OwnerKeys, RsaSize};
use zoneward_sectors::pax::{self, SparseMap};
use zoneward_sectors::sector_writer::Finished;
use zoneward_sectors::stream::Layout;
use zoneward_sectors::zonekeys::{ZoneKeys, ZoneSecret, ZoneSecrets};

const TARGET: TargetId = TargetId([0x66; 16]);
const SOURCE: SourceId = SourceId([0x88; 16]);
const LAYERS: [LayerId; 2] = [LayerId([0x91; 16]), LayerId([0x92; 16])];
const TOP: &[u8] = b"home/ann";

struct Zone {
    dir: PathBuf,
    owner: OwnerKeys,
    keys: ZoneKeys,
    alias: ZoneAlias,
    table: SectorTable,
}

impl Zone {
    fn target(&self) -> PathBuf {
        self.dir.join("store/zones").join(self.alias.to_string())
    }

    fn copy(&self, sector: u8, copy: u8, class_log2: u8) -> Copy {
        let owner_fingerprint = self.owner.public().fingerprint();
        let core = Core { class_log2, signer_epoch: 1, alias: self.alias, copy: CopyId([copy; 16]), owner_fingerprint };
        mint(core, sector, Secret32([copy ^ 0xa5; 32]), &mut |dek, label| self.owner.public().wrap(dek, label))
    }

    fn fingerprint(&self, data: &[u8]) -> [u8; 32] {
        keyed_fingerprint(self.keys.fingerprint_key(), data)
    }

    fn save(&self, name: &str, what: &str, copy: &Copy, file: &[u8], done: &Finished, more: Value) {
        let id = copy.header.core().copy.to_string();
        let path = format!("sectors/{}/{id}.zws", &id[..2]);
        write(&self.target().join(&path), file);
        let mut told = json!({
            "what": what, "file": format!("store/zones/{}/{path}", self.alias), "file_len": file.len(),
            "file_sha256": sha256(&[file]), "header": describe::header(&copy.header), "raw_id": done.raw_id,
            "raw_len": done.raw_len, "segments": done.leaves.len(), "tar_len": done.tar_len,
            "sector": copy.facts.sector, "zone": copy.facts.zone, "checkpoint": copy.facts.checkpoint,
            "packer": copy.facts.packer, "epoch": copy.facts.epoch, "system": copy.facts.system,
            "created_ms": copy.facts.created_ms, "seek_table": done.seek_table, "index": done.index,
            "dek": hex(&copy.dek.0), "leaves": describe::leaves(&done.leaves),
            "frames": describe::frames(copy.open(file.to_vec()).unwrap().table()),
        });
        told.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        save_json(&self.dir.join(format!("{name}.expected.json")), &told);
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert!(!path.exists(), "golden files are never written over");
    fs::write(path, bytes).unwrap();
}

fn save_json(path: &Path, value: &Value) {
    write(path, (serde_json::to_string_pretty(value).unwrap() + "\n").as_bytes());
}

/// Entries on their way into a sector: what the tar holds, what the catalog says, what readers must find.
struct Making<'a> {
    zone: &'a Zone,
    own: u32,
    tar: Vec<u8>,
    entries: Vec<(Entry, Option<Vec<u8>>)>,
    members: Vec<Value>,
}

fn path_in(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { TOP.to_vec() } else { [TOP, b"/", path].concat() }
}

impl Making<'_> {
    fn push(
        &mut self,
        path: &[u8],
        meta: Meta,
        link: &[u8],
        xattrs: Xattrs,
        extents: Vec<Extent>,
        whole: Option<Vec<u8>>,
    ) {
        let (path, link) = (path.to_vec(), link.to_vec());
        let unsteady = path == b"unsteady";
        self.entries.push((Entry { path, meta, xattrs, link, extents, unsteady }, whole));
    }

    fn member(&mut self, name: &[u8], content: &[u8]) {
        self.members.push(json!([hex(name), content.len(), sha256(&[content])]));
    }

    fn other(&mut self, path: &[u8], meta: Meta, link: &[u8], xattrs: Xattrs) {
        let name = path_in(path);
        let tar_link = if meta.kind == Kind::HardLink { path_in(link) } else { link.to_vec() };
        add_member(&mut self.tar, &name, &meta, &tar_link, &xattrs, b"");
        self.member(&name, b"");
        let whole = (meta.kind == Kind::File).then(Vec::new);
        self.push(path, meta, link, xattrs, Vec::new(), whole);
    }

    fn data(&self, offset: u64, content: &[u8]) -> Extent {
        let fingerprint = self.zone.fingerprint(content);
        Extent::Data { sector: self.own, offset, len: content.len() as u64, fingerprint }
    }

    fn file(&mut self, path: &[u8], meta: Meta, xattrs: Xattrs, content: &[u8]) {
        let (name, meta) = (path_in(path), Meta { size: content.len() as u64, ..meta });
        let at = add_member(&mut self.tar, &name, &meta, b"", &xattrs, content);
        self.member(&name, content);
        let extents = vec![self.data(at, content)];
        self.push(path, meta, b"", xattrs, extents, Some(content.to_vec()));
    }

    fn sparse(&mut self, path: &[u8], size: u64, spans: &[(u64, Vec<u8>)]) {
        let ends = spans.iter().map(|(at, d)| (*at, at + d.len() as u64)).collect();
        let map = SparseMap { real_size: size, spans: ends };
        let data: Vec<u8> = spans.iter().flat_map(|s| s.1.clone()).collect();
        let (name, m) = (path_in(path), Meta { size, ..meta(Kind::File) });
        let stored = pax::sparse_map_len(&map) + data.len() as u64;
        pax::append_header(&mut self.tar, &name, &m, b"", &[], stored, Some(&map));
        pax::append_sparse_map(&mut self.tar, &map);
        let (mut extents, mut whole, mut at) = (Vec::new(), vec![0u8; size as usize], 0);
        let mut offset = self.tar.len() as u64;
        self.tar.extend_from_slice(&data);
        self.tar.resize(self.tar.len() + pax::padding(stored), 0);
        for (start, piece) in spans {
            extents.extend((*start > at).then_some(Extent::Hole(start - at)));
            extents.push(self.data(offset, piece));
            whole[*start as usize..*start as usize + piece.len()].copy_from_slice(piece);
            offset += piece.len() as u64;
            at = start + piece.len() as u64;
        }
        extents.extend((size > at).then_some(Extent::Hole(size - at)));
        self.member(&name, &whole);
        self.push(path, m, b"", Vec::new(), extents, Some(whole));
    }

    /// The catalog's part, as a member; the index, and what readers must find.
    fn close(&mut self, sector: SectorId, layer: LayerId, gone: &[u8]) -> (Vec<u8>, Value, Value) {
        self.entries.sort_by(|a, b| path_cmp(&a.0.path, &b.0.path));
        let mut part = PartWriter::new(&self.zone.table, sector, SOURCE, layer, 0);
        let mut told = Vec::new();
        for (e, whole) in &self.entries {
            part.push(e);
            told.push(describe::entry(e, &self.zone.table, whole.as_deref()));
        }
        if !gone.is_empty() {
            part.push_gone(gone);
            told.push(describe::gone(gone));
        }
        let (lines, n) = part.finish();
        pax::append_simple(&mut self.tar, ".zoneward/catalog/000000.jsonl", lines.len() as u64);
        let offset = self.tar.len();
        self.tar.extend_from_slice(&lines);
        self.tar.resize(self.tar.len() + pax::padding(lines.len() as u64), 0);
        self.member(b".zoneward/catalog/000000.jsonl", &lines);
        let place = json!({ "source": SOURCE, "layer": layer, "part": 0, "offset": offset,
            "length": lines.len(), "entries": n });
        let index = json!({ "format": 1, "sector": sector, "catalogs": [place] });
        let index_json = serde_json::to_vec(&index).unwrap();
        self.member(b".zoneward/index.json", &index_json);
        let part = json!({ "sector": sector, "offset": offset, "length": lines.len() });
        (index_json, json!({ "entries": told, "members": self.members, "index_json": index }), part)
    }
}

fn making(zone: &Zone, sector: u8) -> Making<'_> {
    let own = zone.table.number(SectorId([sector; 16]));
    Making { zone, own, tar: Vec::new(), entries: Vec::new(), members: Vec::new() }
}

/// All kinds of entry, as awkward as they get.
fn basic(zone: &Zone) -> (Copy, Vec<u8>, Value, (u64, Vec<u8>)) {
    let mut m = making(zone, 0xb1);
    let dir = meta(Kind::Dir);
    let file = meta(Kind::File);
    let x = |all: &[(&[u8], &[u8])]| all.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect::<Xattrs>();
    m.other(b"", dir, b"", x(&[(b"user.root", b"yes")]));
    m.file(b"plain", Meta { nlink: 2, ..file }, Xattrs::new(), b"plain text\n");
    m.other(b"plain.link", Meta { kind: Kind::HardLink, nlink: 2, size: 11, ..file }, b"plain", Xattrs::new());
    m.other(b"empty", file, b"", Xattrs::new());
    m.file(b"unsteady", Meta { ino: 0, ..file }, Xattrs::new(), b"changed while it was read");
    m.file(b"odd \xff\xfe\n\t\"\\%= name", file, Xattrs::new(), b"a name that is no UTF-8");
    m.file("汉字 🙂 é".as_bytes(), file, Xattrs::new(), "内容".as_bytes());
    let big = Meta { uid: u32::MAX - 1, gid: 2_097_152, mode: 0o7777, ..file };
    m.file(b"big-ids", big, Xattrs::new(), b"ids beyond octal");
    let before = Stamp { secs: -1, nanos: 500_000_000 };
    m.file(b"before-1970", Meta { mtime: before, ctime: before, ..file }, Xattrs::new(), b"moon");
    let far = Stamp { secs: (1 << 34) + 7, nanos: 999_999_999 };
    m.file(b"far-future", Meta { mtime: far, ..file }, Xattrs::new(), b"2514");
    let attributes = x(&[
        (
            b"system.posix_acl_access",
            b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff",
        ),
        (b"user.%25=\xff", b"\0\xff\n=%"),
        (b"user.empty", b""),
        (b"user.long", &noise(9, 2000)),
    ]);
    m.file(b"attributes", file, attributes, b"with attributes");
    let mut deep = Vec::new();
    for i in 0..6 {
        deep.extend_from_slice(if i == 0 { b"" } else { b"/" });
        deep.extend_from_slice(&vec![b'a' + i; 250]);
        m.other(&deep, Meta { mode: 0o2750, ..dir }, b"", Xattrs::new());
    }
    m.file(&[&deep[..], b"/end"].concat(), file, Xattrs::new(), b"at the end of a long path");
    m.other(b"link", meta(Kind::Symlink), b"../some/where", Xattrs::new());
    m.other(b"link-4000", Meta { mode: 0o777, ..meta(Kind::Symlink) }, &b"to/\xff".repeat(1000), Xattrs::new());
    m.other(b"fifo", meta(Kind::Fifo), b"", Xattrs::new());
    m.other(b"char", Meta { rdev: (1, 3), ..meta(Kind::CharDevice) }, b"", Xattrs::new());
    m.other(b"block", Meta { rdev: (259, 1_048_575), ..meta(Kind::BlockDevice) }, b"", Xattrs::new());
    m.sparse(b"sparse", 3_000_000, &[(4096, b"one".repeat(512)), (1 << 20, b"last".to_vec())]);
    m.sparse(b"all-hole", 1_000_000, &[]);
    let copy = zone.copy(0xb1, 0xc1, 20);
    let (index, told, part) = m.close(copy.facts.sector, LAYERS[0], b"");
    let frames: Vec<Vec<u8>> = m.tar.chunks(20_000).map(<[u8]>::to_vec).collect();
    let plain = m.entries.iter().find(|e| e.0.path == b"plain").unwrap();
    let Extent::Data { offset, .. } = plain.0.extents[0] else { panic!() };
    let shared = (offset, plain.1.clone().unwrap());
    let (bytes, done) = copy.write(&frames, &index);
    zone.save("basic", "awkward entries of every kind, in small frames", &copy, &bytes, &done, told);
    (copy, bytes, part, shared)
}

/// Many frames, two segments, chunks as members of their own, chunks in another sector.
fn extents(zone: &Zone, shared: &(u64, Vec<u8>)) -> (Copy, Vec<u8>, Value, Vec<Vec<u8>>, Vec<u8>) {
    let mut m = making(zone, 0xb2);
    let file = meta(Kind::File);
    m.file(b"large", file, Xattrs::new(), &noise(1, 1_040_000));
    let chunk = noise(2, 20_000);
    let name = b".zoneward/extents/91919191-00000001-0001";
    pax::append_simple(&mut m.tar, std::str::from_utf8(name).unwrap(), chunk.len() as u64);
    let at = m.tar.len() as u64;
    m.tar.extend_from_slice(&chunk);
    m.tar.resize(m.tar.len() + pax::padding(chunk.len() as u64), 0);
    m.member(name, &chunk);
    let old = Extent::Data {
        sector: zone.table.number(SectorId([0xb1; 16])),
        offset: shared.0,
        len: shared.1.len() as u64,
        fingerprint: zone.fingerprint(&shared.1),
    };
    let parts = vec![old, Extent::Hole(100_000), m.data(at, &chunk), old];
    let whole = [&shared.1[..], &vec![0; 100_000], &chunk, &shared.1].concat();
    let size = whole.len() as u64;
    m.push(b"disk.img", Meta { size, ..file }, b"", Xattrs::new(), parts, Some(whole));
    let many: Vec<Extent> = (0..1100).map(|_| old).collect();
    let whole = shared.1.repeat(1100);
    m.push(b"repeats", Meta { size: whole.len() as u64, ..file }, b"", Xattrs::new(), many, Some(whole));
    let copy = zone.copy(0xb2, 0xc2, 21);
    let (index, told, part) = m.close(copy.facts.sector, LAYERS[1], b"unsteady");
    let frames: Vec<Vec<u8>> = m.tar.chunks(200_000).map(<[u8]>::to_vec).collect();
    let (bytes, done) = copy.write(&frames, &index);
    assert_eq!(done.leaves.len(), 2, "two segments");
    zone.save("extents", "many frames, two segments, extents here and in the basic sector", &copy, &bytes, &done, told);
    (copy, bytes, part, frames, index)
}

/// The zone's state and secret.
fn system(zone: &Zone, parts: [Value; 2], copies: [&Copy; 2]) -> (Copy, Finished) {
    let layer = |i: usize| json!({ "id": LAYERS[i], "source": SOURCE, "full": i == 0, "parts": [parts[i]] });
    let copy_of = |c: &Copy| {
        json!({ "id": c.header.core().copy, "sector": c.facts.sector, "target": TARGET,
        "alias": zone.alias, "state": "sealed" })
    };
    let state = json!({
        "zone": { "id": common::ZONE, "name": "golden" },
        "sources": [{ "id": SOURCE, "path": "/home/ann", "priority": 0 }],
        "checkpoints": [{ "id": common::CHECKPOINT, "seq": 1, "tasks": [{ "source": SOURCE, "layers": LAYERS }] }],
        "layers": [layer(0), layer(1)], "copies": copies.map(copy_of),
    });
    let secret = ZoneSecrets::from(ZoneSecret { epoch: 1, secret: Secret32([0x55; 32]) }).to_json();
    let state_json = serde_json::to_vec(&state).unwrap();
    let mut tar = Vec::new();
    let mut range = |name: &str, data: &[u8]| {
        pax::append_simple(&mut tar, name, data.len() as u64);
        let at = tar.len();
        tar.extend_from_slice(data);
        tar.resize(tar.len() + pax::padding(data.len() as u64), 0);
        (at, data.len())
    };
    let places = json!({
        "state": range(".zoneward/system/state.json", &state_json),
        "secret": range(".zoneward/system/zone-secret.json", &secret),
    });
    let mut copy = zone.copy(0xb3, 0xc3, 20);
    copy.facts.system = true;
    let index = json!({ "format": 1, "sector": copy.facts.sector, "catalogs": [], "system": places });
    let index_json = serde_json::to_vec(&index).unwrap();
    let (bytes, done) = copy.write(&[tar], &index_json);
    let members = json!([
        [hex(b".zoneward/system/state.json"), state_json.len(), sha256(&[&state_json])],
        [hex(b".zoneward/system/zone-secret.json"), secret.len(), sha256(&[&secret])],
        [hex(b".zoneward/index.json"), index_json.len(), sha256(&[&index_json])],
    ]);
    let told = json!({ "entries": [], "members": members, "index_json": index, "state": state });
    zone.save("system", "the zone's state and secret", &copy, &bytes, &done, told);
    (copy, done)
}

fn head(zone: &Zone, system: &Copy, done: &Finished) -> Value {
    let payload = json!({
        "n": 1, "previous": Digest::default(), "sector": system.facts.sector, "raw_id": done.raw_id,
        "copies": [{ "target": TARGET, "copy": system.header.core().copy, "header_hash": system.header.hash() }],
        "checkpoint": common::CHECKPOINT, "time_ms": 1_700_000_000_456u64,
    });
    let text = serde_json::to_string(&payload).unwrap();
    let signature = common::node_signer().sign(&[b"zoneward/1 head", text.as_bytes()].concat());
    let pointer = json!({
        "format": 1, "payload": text, "certificate": STANDARD.encode(common::node_certificate().to_bytes()),
        "signature": STANDARD.encode(signature),
    });
    write(&zone.target().join("pointer.json"), &serde_json::to_vec(&pointer).unwrap());
    payload
}

/// A piece of a damaged file: a range of another file below the golden folder.
fn piece(file: &str, from: usize, to: usize) -> Value {
    json!({ "file": file, "offset": from, "length": to - from })
}

#[allow(clippy::too_many_lines)] // A list.
fn bad(zone: &Zone, basic: (&Copy, &[u8]), multi: (&Copy, &[u8]), frames: &[Vec<u8>], index: &[u8]) {
    let mut cases = serde_json::Map::new();
    let mut whole = |name: &str, bytes: &[u8], error: &str| {
        let file = format!("bad/{name}.zws");
        write(&zone.dir.join(&file), bytes);
        cases.insert(name.into(), json!({ "pieces": [piece(&file, 0, bytes.len())], "error": error }));
    };
    let good = basic.1;
    let changed = |at: usize, to: u8| {
        let mut b = good.to_vec();
        b[at] = to;
        b
    };
    whole("header-byte-flipped", &changed(100, good[100] ^ 1), "header signature");
    whole("magic", &changed(1, b'X'), "not a sector");
    whole("version", &changed(8, 2), "unknown version");
    whole("suite", &changed(10, 9), "unknown suite");
    whole("reserved", &changed(4000, 1), "header damaged");
    whole("commitment", &recommitted(good), "commitment");
    whole("foreign-owner", &foreign(good), "another owner");
    whole("cut-in-a-segment", &good[..HEADER_LEN + 1000], "length");
    whole("cut-in-the-trailer", &good[..good.len() - 100], "trailer not authentic");
    whole("appended", &[good, b"more"].concat(), "trailer not authentic");
    whole("empty", b"", "cut short");
    whole("last-flag-missing", &without_last_flag(basic.0, good), "segment");
    let sibling = zone.copy(0xb1, 0xd1, 20);
    let mut swapped = good.to_vec();
    let trailer = sibling.keys().seal_trailer(&basic.0.open(good.to_vec()).unwrap().trailer().clone()).unwrap();
    let at = good.len() - HEADER_LEN;
    swapped[at..].copy_from_slice(&trailer);
    whole("trailer-of-another-copy", &swapped, "trailer not authentic");

    // Files of two segments are told as pieces of the good one: they would be a megabyte each.
    let id = multi.0.header.core().copy.to_string();
    let file = format!("store/zones/{}/sectors/{}/{id}.zws", zone.alias, &id[..2]);
    let (len, second) = (multi.1.len(), Layout::segment_at(1) as usize);
    let leaves = Layout::of_file(len as u64).unwrap().leaves_at() as usize;
    let sibling = zone.copy(0xb2, 0xd2, 21);
    let (other, _) = sibling.write(frames, index);
    assert_eq!(other.len(), len);
    write(&zone.dir.join("bad/second-segment-of-sibling.part"), &other[second..leaves]);
    let mut pieces = |name: &str, pieces: Vec<Value>, error: &str| {
        cases.insert(name.into(), json!({ "pieces": pieces, "error": error }));
    };
    let replayed = piece("bad/second-segment-of-sibling.part", 0, leaves - second);
    let all = |from, to| piece(&file, from, to);
    pieces("segment-of-another-copy", vec![all(0, second), replayed, all(leaves, len)], "segment");
    pieces(
        "segments-swapped",
        vec![all(0, HEADER_LEN), all(second, leaves), all(HEADER_LEN, second), all(leaves, len)],
        "segment",
    );
    pieces("a-segment-missing", vec![all(0, second), all(leaves, len)], "length");
    pieces("cut-after-the-first-segment", vec![all(0, second)], "trailer not authentic");
    pieces(
        "leaf-table-of-a-later-place",
        vec![all(0, leaves), all(leaves - 80, leaves), all(leaves + 80, len)],
        "leaf table",
    );
    save_json(&zone.dir.join("bad/cases.json"), &Value::Object(cases));
}

/// Signed again by the node, but with a commitment to another key.
fn recommitted(good: &[u8]) -> Vec<u8> {
    let mut b = good.to_vec();
    b[604] ^= 1;
    let signature = common::node_signer().sign(&[b"zoneward/1 sector header", &b[..788]].concat());
    b[788..852].copy_from_slice(&signature);
    b
}

/// A stranger's certificate and signature around the same core.
fn foreign(good: &[u8]) -> Vec<u8> {
    let stranger = SigningKey::from_seed(&Secret32([0x99; 32]));
    let node = common::node_signer();
    let cert = NodeCertificate::issue(&stranger, 1, common::NODE, node.public_key());
    let mut b = good.to_vec();
    b[636..788].copy_from_slice(&cert.to_bytes());
    let signature = node.sign(&[b"zoneward/1 sector header", &b[..788]].concat());
    b[788..852].copy_from_slice(&signature);
    b
}

/// The only segment, sealed as if another followed.
fn without_last_flag(copy: &Copy, good: &[u8]) -> Vec<u8> {
    let reader = copy.open(good.to_vec()).unwrap();
    let layout = reader.layout();
    let plain = reader.read_raw(0..layout.raw_len()).unwrap();
    let h = copy.header.hash();
    let sealed = GcmKey::new(&hkdf32(&copy.dek.0, &h.0, &[b"zoneward/1 segments"])).seal_vec([0; 12], &h.0, &plain);
    let mut b = good.to_vec();
    b[HEADER_LEN..HEADER_LEN + sealed.len()].copy_from_slice(&sealed);
    b
}

fn main() {
    let dir = PathBuf::from(std::env::args_os().nth(1).expect("which directory?"));
    assert!(!dir.exists(), "golden files are only ever added, never regenerated: the directory must not exist");
    let words = Words::parse(describe::WORDS).unwrap();
    // The signing key has a fixed seed; the RSA key lives in the key file from now on.
    let made = OwnerKeys::generate(RsaSize::Rsa3072).unwrap();
    let owner = rekeyed(&OwnerKeyFile::seal_with_cost(&made, &words, None, KdfCost::FLOOR).unwrap(), &words);
    let keys = ZoneKeys::derive(common::ZONE, ZoneSecret { epoch: 1, secret: Secret32([0x55; 32]) }, 1);
    let alias = keys.alias(TARGET);
    let zone = Zone { dir, owner, keys, alias, table: SectorTable::default() };
    let file = OwnerKeyFile::seal_with_cost(&zone.owner, &words, Some(describe::PASSPHRASE), KdfCost::FLOOR).unwrap();
    write(&zone.target().join("owner-key.json"), &file.to_bytes());
    write(
        &zone.dir.join("store/zoneward-target.json"),
        format!("{{\"format\":1,\"target\":\"{TARGET}\"}}\n").as_bytes(),
    );
    write(&zone.dir.join("node.cert"), &common::node_certificate().to_bytes());
    let (one, one_bytes, one_part, shared) = basic(&zone);
    let (two, two_bytes, two_part, frames, index) = extents(&zone, &shared);
    let (three, done) = system(&zone, [one_part, two_part], [&one, &two]);
    let payload = head(&zone, &three, &done);
    bad(&zone, (&one, &one_bytes), (&two, &two_bytes), &frames, &index);
    let public = zone.owner.public();
    let told = json!({
        "words": describe::WORDS, "passphrase": describe::PASSPHRASE, "kdf": { "m_kib": 16_384, "t": 1, "p": 1 },
        "fingerprint": public.fingerprint(), "sign_public": hex(public.sign_public()), "sign_seed": hex(&[0x51; 32]),
        "node": common::NODE, "node_epoch": 1, "node_public": hex(&common::node_signer().public_key()),
        "zone": common::ZONE, "zone_secret": hex(&[0x55; 32]), "target": TARGET, "alias": zone.alias,
        "fingerprint_key": hex(zone.keys.fingerprint_key()), "pointer": payload,
    });
    save_json(&zone.dir.join("keys.expected.json"), &told);
}

/// The same RSA key with the fixed signing key.
fn rekeyed(sealed: &OwnerKeyFile, words: &Words) -> OwnerKeys {
    let file: Value = serde_json::from_slice(&sealed.to_bytes()).unwrap();
    let raw = |v: &Value| STANDARD.decode(v.as_str().unwrap()).unwrap();
    let w = &file["words"];
    let key = hkdf32(words.text().as_bytes(), &raw(&w["salt"]), &[b"zoneward/1 owner words"]);
    let aad = [&sealed.public().fingerprint().0[..], b"words"].concat();
    let nonce = raw(&w["nonce"]).try_into().unwrap();
    let bundle: Value =
        serde_json::from_slice(&GcmKey::new(&key).open(nonce, &aad, &raw(&w["sealed"])).unwrap()).unwrap();
    OwnerKeys::from_parts(&raw(&bundle["rsa_pkcs8"]), Secret32([0x51; 32]), &[]).unwrap()
}
