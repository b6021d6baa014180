//! What earlier releases wrote is still opened, field by field; what is damaged gives the error it always gave.
//!
//! The files lie in `tests/golden`. `examples/make_golden.rs` made version 1; they are only ever added.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/describe.rs"]
mod describe;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use common::{Memory, error_name, read_everything};
use zoneward_sectors::catalog::{Line, PartReader, SectorTable};
use zoneward_sectors::cert::NodeCertificate;
use zoneward_sectors::crypto::{Secret32, keyed_fingerprint, sha256, verify_ed25519};
use zoneward_sectors::entry::{Entry, Extent};
use zoneward_sectors::ids::{CopyId, Digest, LayerId, SectorId, SourceId, TargetId, ZoneId, hex, unhex};
use zoneward_sectors::keyfile::{OwnerKeyFile, Words};
use zoneward_sectors::limits::{CATALOG_PART_MAX, FRAME_TAR_MAX};
use zoneward_sectors::owner::OwnerKeys;
use zoneward_sectors::pax;
use zoneward_sectors::sector_reader::{Expected, SectorReadError, SectorReader, read_header};
use zoneward_sectors::zonekeys::{ZoneKeys, ZoneSecret, ZoneSecrets};

const SECTORS: [&str; 3] = ["basic", "extents", "system"];

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/v1")
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(dir().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn told(name: &str) -> Value {
    serde_json::from_slice(&bytes(&format!("{name}.expected.json"))).unwrap()
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap()
}

fn array<const N: usize>(v: &Value) -> [u8; N] {
    unhex(text(v)).unwrap().try_into().unwrap()
}

fn key_file(keys: &Value) -> OwnerKeyFile {
    let name = format!("store/zones/{}/owner-key.json", text(&keys["alias"]));
    OwnerKeyFile::from_bytes(&bytes(&name)).unwrap()
}

fn owner(keys: &Value) -> OwnerKeys {
    key_file(keys).open_with_words(&Words::parse(text(&keys["words"])).unwrap()).unwrap()
}

fn zone_keys(keys: &Value) -> ZoneKeys {
    let secret = ZoneSecret { epoch: 1, secret: Secret32(array(&keys["zone_secret"])) };
    ZoneKeys::derive(ZoneId(array(&keys["zone"])), secret, 1)
}

/// Opens a file as a stranger with the owner key would, believing nothing but the owner's own keys.
fn open(owner: &OwnerKeys, file: Vec<u8>, expected: &Expected) -> Result<SectorReader, SectorReadError> {
    let input = Memory::of(file);
    let header = read_header(&*input)?;
    header.verify(owner.public().sign_public())?;
    let dek = owner.unwrap(&header.core().owner_fingerprint, header.wrapped(), &header.core().label().0).unwrap();
    SectorReader::open(input, &header, owner.public().sign_public(), &dek, expected)
}

fn open_good(owner: &OwnerKeys, want: &Value) -> SectorReader {
    let expected = Expected {
        sector: Some(SectorId(array(&want["sector"]))),
        raw_id: Some(Digest(array(&want["raw_id"]))),
        header_hash: Some(Digest(array(&want["header"]["hash"]))),
    };
    open(owner, bytes(text(&want["file"])), &expected).unwrap()
}

/// The content of a file, from whatever sectors it lies in; every chunk is checked against its fingerprint.
fn content(e: &Entry, readers: &HashMap<u32, Arc<SectorReader>>, key: &[u8; 32]) -> Vec<u8> {
    let mut out = Vec::new();
    for x in &e.extents {
        match *x {
            Extent::Hole(n) => out.resize(out.len() + n as usize, 0),
            Extent::Data { sector, offset, len, fingerprint } => {
                let data = readers[&sector].read_tar(offset, len, FRAME_TAR_MAX as u64).unwrap();
                assert_eq!(keyed_fingerprint(key, &data), fingerprint);
                out.extend_from_slice(&data);
            }
        }
    }
    out
}

/// Name, length and hash of each member's whole content.
fn members(tar: &[u8]) -> Value {
    let (mut r, mut all) = (pax::Reader::new(tar), Vec::new());
    while let Some(m) = r.next_member().unwrap() {
        let map = r.sparse_map().unwrap();
        let (mut data, mut buf) = (Vec::new(), [0u8; 4096]);
        loop {
            match r.read_content(&mut buf).unwrap() {
                0 => break,
                n => data.extend_from_slice(&buf[..n]),
            }
        }
        if let Some(map) = map {
            let (mut whole, mut rest) = (vec![0; map.real_size as usize], &data[..]);
            for (from, to) in map.spans {
                let (piece, after) = rest.split_at((to - from) as usize);
                whole[from as usize..to as usize].copy_from_slice(piece);
                rest = after;
            }
            data = whole;
        }
        all.push(json!([hex(&m.name), data.len(), sha256(&[&data])]));
    }
    Value::Array(all)
}

#[test]
fn the_owner_key_file_opens_with_words_and_passphrase() {
    let keys = told("keys");
    let file = key_file(&keys);
    let by_passphrase = file.open_with_passphrase(text(&keys["passphrase"])).unwrap();
    assert_eq!(*by_passphrase.public(), *owner(&keys).public());
    assert_eq!(json!(file.public().fingerprint()), keys["fingerprint"]);
    assert_eq!(hex(file.public().sign_public()), text(&keys["sign_public"]));
    let name = format!("store/zones/{}/owner-key.json", text(&keys["alias"]));
    assert_eq!(file.to_bytes(), bytes(&name), "reading and writing again gives the same bytes");
    let raw: Value = serde_json::from_slice(&bytes(&name)).unwrap();
    for cost in ["m_kib", "t", "p"] {
        assert_eq!(raw["passphrase"][cost], keys["kdf"][cost]);
    }
}

#[test]
fn zone_keys_and_the_node_certificate_come_out_the_same() {
    let keys = told("keys");
    let zone = zone_keys(&keys);
    assert_eq!(json!(zone.alias(TargetId(array(&keys["target"])))), keys["alias"]);
    assert_eq!(hex(zone.fingerprint_key()), text(&keys["fingerprint_key"]));
    let raw = bytes("node.cert");
    let cert = NodeCertificate::parse(&raw).unwrap();
    cert.verify(owner(&keys).public().sign_public()).unwrap();
    assert_eq!(cert.to_bytes()[..], raw[..]);
    assert_eq!((json!(cert.node), json!(cert.epoch)), (keys["node"].clone(), keys["node_epoch"].clone()));
    assert_eq!(hex(&cert.public_key), text(&keys["node_public"]));
}

#[test]
fn every_field_of_every_good_sector_is_as_it_was_written() {
    let keys = told("keys");
    let owner = owner(&keys);
    let key = *zone_keys(&keys).fingerprint_key();
    let table = SectorTable::default();
    let mut readers = HashMap::new();
    for name in SECTORS {
        let want = told(name);
        let reader = Arc::new(open_good(&owner, &want));
        readers.insert(table.number(reader.trailer().sector), reader);
    }
    for name in SECTORS {
        let want = told(name);
        let file = bytes(text(&want["file"]));
        assert_eq!(json!(sha256(&[&file])), want["file_sha256"], "{name} was changed: golden files never are");
        assert_eq!(json!(file.len()), want["file_len"]);
        let header = read_header(&*Memory::of(file)).unwrap();
        assert_eq!(describe::header(&header), want["header"]);
        let core = header.core();
        let dek = owner.unwrap(&core.owner_fingerprint, header.wrapped(), &core.label().0).unwrap();
        assert_eq!(hex(&dek.0), text(&want["dek"]));
        let reader = &readers[&table.number(SectorId(array(&want["sector"])))];
        let trailer = describe::trailer(reader.trailer());
        for (field, value) in trailer.as_object().unwrap() {
            if field != "format" {
                assert_eq!(*value, want[field], "{name}: {field}");
            }
        }
        assert_eq!(trailer["format"], json!(1));
        assert_eq!(describe::leaves(&reader.leaves().unwrap()), want["leaves"]);
        assert_eq!(describe::frames(reader.table()), want["frames"]);
        let index: Value = serde_json::from_slice(&reader.index_json().unwrap()).unwrap();
        assert_eq!(index, want["index_json"]);
        assert_eq!(members(&read_everything(reader).unwrap()), want["members"], "{name}");
        let mut entries = Vec::new();
        for part in index["catalogs"].as_array().unwrap() {
            let (from, len) = (part["offset"].as_u64().unwrap(), part["length"].as_u64().unwrap());
            let lines = reader.read_tar(from, len, CATALOG_PART_MAX).unwrap();
            let (source, layer) = (SourceId(array(&part["source"])), LayerId(array(&part["layer"])));
            let own = reader.trailer().sector;
            for line in PartReader::new(&lines[..], &table, own, source, layer, 0).unwrap() {
                let is_file = |e: &Entry| describe::is_file(e).then(|| content(e, &readers, &key));
                entries.push(describe::line(&line.unwrap(), &table, is_file));
            }
            assert_eq!(json!(entries.len()), part["entries"]);
        }
        let wanted = want["entries"].as_array().unwrap();
        assert_eq!(entries.len(), wanted.len(), "{name}");
        for (got, want) in entries.iter().zip(wanted) {
            assert_eq!(got, want, "{name}");
        }
    }
}

#[test]
fn the_head_leads_to_the_system_sector_and_its_state() {
    let keys = told("keys");
    let owner = owner(&keys);
    let pointer = bytes(&format!("store/zones/{}/pointer.json", text(&keys["alias"])));
    let pointer: Value = serde_json::from_slice(&pointer).unwrap();
    let decoded = |key: &str| STANDARD.decode(text(&pointer[key])).unwrap();
    let cert = NodeCertificate::parse(&decoded("certificate")).unwrap();
    cert.verify(owner.public().sign_public()).unwrap();
    let message = [b"zoneward/1 head", text(&pointer["payload"]).as_bytes()].concat();
    assert!(verify_ed25519(&cert.public_key, &message, &decoded("signature")));
    let payload: Value = serde_json::from_str(text(&pointer["payload"])).unwrap();
    assert_eq!(payload, keys["pointer"]);
    let want = told("system");
    assert_eq!(payload["sector"], want["sector"]);
    assert_eq!(payload["copies"][0]["copy"], json!(CopyId(array(&want["header"]["copy"]))));
    let reader = open_good(&owner, &want);
    let range = |v: &Value| (v[0].as_u64().unwrap(), v[1].as_u64().unwrap());
    let system = &want["index_json"]["system"];
    let (at, len) = range(&system["state"]);
    let state: Value = serde_json::from_slice(&reader.read_tar(at, len, 1 << 20).unwrap()).unwrap();
    assert_eq!(state, want["state"]);
    let (at, len) = range(&system["secret"]);
    let secrets = ZoneSecrets::from_json(&reader.read_tar(at, len, 4096).unwrap()).unwrap();
    let secret = secrets.first();
    assert_eq!((secret.epoch, hex(&secret.secret.0)), (1, text(&keys["zone_secret"]).to_owned()));
}

#[test]
fn every_damaged_file_gives_its_error() {
    let owner = owner(&told("keys"));
    let cases: Value = serde_json::from_slice(&bytes("bad/cases.json")).unwrap();
    let cases = cases.as_object().unwrap();
    for (name, case) in cases {
        let mut file = Vec::new();
        for piece in case["pieces"].as_array().unwrap() {
            let from = piece["offset"].as_u64().unwrap() as usize;
            let to = from + piece["length"].as_u64().unwrap() as usize;
            file.extend_from_slice(&bytes(text(&piece["file"]))[from..to]);
        }
        let got = open(&owner, file, &Expected::default()).and_then(|r| read_everything(&r));
        let error = got.expect_err(name);
        assert_eq!(error_name(&error), text(&case["error"]), "{name}: {error}");
    }
    assert!(cases.len() >= 18, "cases are only ever added");
}

#[test]
fn a_layer_says_what_is_gone() {
    let gone = told("extents")["entries"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(gone, describe::line(&Line::Gone(b"unsteady".to_vec()), &SectorTable::default(), |_| None));
}
