//! What each fuzz target does with its bytes: plain functions, so that the stable tests run them too.
//!
//! Each decoder must not panic, must not take memory without bound, and what it accepts must come out of its encoder
//! and be accepted as the same again.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Each binary uses one; they may stop.

use std::io;
use std::sync::Arc;

use zoneward_sectors::catalog::{Line, PartReader, PartWriter, SectorTable};
use zoneward_sectors::cert::NodeCertificate;
use zoneward_sectors::crypto::{Secret32, Signer, SigningKey};
use zoneward_sectors::entry::Kind;
use zoneward_sectors::frames::{FrameReader, SeekTable};
use zoneward_sectors::header::{Core, Header};
use zoneward_sectors::ids::{CheckpointId, CopyId, Digest, LayerId, NodeId, SectorId, SourceId, ZoneAlias, ZoneId};
use zoneward_sectors::keyfile::{OwnerKeyFile, Words};
use zoneward_sectors::limits::{PATH_LEN_MAX, SEGMENT_LEN};
use zoneward_sectors::pack::IndexJson;
use zoneward_sectors::pax::{self, MemberKind, Reader};
use zoneward_sectors::sector_reader::{Expected, SectorIn, SectorReader, read_header};
use zoneward_sectors::stream::{RecordKeys, Trailer, raw_id};
use zoneward_sectors::zonekeys::ZoneSecrets;

pub const SOURCE: SourceId = SourceId([0x88; 16]);
pub const LAYER: LayerId = LayerId([0x91; 16]);
const OWN: SectorId = SectorId([0xb1; 16]);
const NODE: NodeId = NodeId([0x22; 16]);
/// Frames that one run opens: each may take 8 MiB.
const FRAMES_OPENED: usize = 4;

/// The seeds of the golden files' signing keys.
fn owner() -> SigningKey {
    SigningKey::from_seed(&Secret32([0x51; 32]))
}

fn dek() -> Secret32 {
    Secret32([0xc1 ^ 0xa5; 32])
}

pub fn fuzz_header(data: &[u8]) {
    let Ok(h) = Header::parse(data) else { return };
    assert_eq!(h.bytes(), data);
    assert_eq!(Header::from_used(h.used()), Ok(h.clone()));
    assert!(matches!(h.wrapped().len(), 384 | 512));
    let _ = h.verify(&owner().public_key());
    let _ = h.check_commitment(&dek());
    let _ = format!("{h:?} {}", h.hash());
}

struct Bytes(Vec<u8>);

impl SectorIn for Bytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let part = usize::try_from(offset).ok().and_then(|o| self.0.get(o..)?.get(..buf.len()));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn read(bytes: Vec<u8>) {
    let input = Arc::new(Bytes(bytes));
    let Ok(header) = read_header(&*input) else { return };
    let opened = SectorReader::open(input, &header, &owner().public_key(), &dek(), &Expected::default());
    let Ok(reader) = opened else { return };
    let _ = reader.leaves();
    let _ = reader.index_json();
    let mut frames = FrameReader::new().unwrap();
    let table = reader.table();
    assert_eq!(table.end().1, reader.trailer().tar_len);
    for i in 0..table.frames().min(FRAMES_OPENED) {
        let (raw, tar) = table.frame(i).unwrap();
        assert_eq!(table.find(tar.start), Some(i));
        assert!(raw.end <= reader.layout().raw_len());
        if let Ok(data) = reader.read_frame(i, &mut frames) {
            assert_eq!(data.len() as u64, tar.end - tar.start);
        }
    }
}

/// Any bytes as a whole file.
pub fn fuzz_stream(data: &[u8]) {
    read(data.to_vec());
}

/// Any bytes as the content of a sector that a node sealed rightly: the first 16 say the tar's length and where the
/// seek table begins.
pub fn fuzz_raw_sector(data: &[u8]) {
    let Some((numbers, raw)) = data.split_first_chunk::<16>() else { return };
    let word = |i: usize| u64::from_le_bytes(numbers[i..i + 8].try_into().unwrap());
    if raw.is_empty() {
        return;
    }
    let core = Core {
        class_log2: 30,
        signer_epoch: 1,
        alias: ZoneAlias([1; 16]),
        copy: CopyId([2; 16]),
        owner_fingerprint: Digest([3; 32]),
    };
    let node = SigningKey::from_seed(&Secret32([0x52; 32]));
    let cert = NodeCertificate::issue(&owner(), 1, NODE, node.public_key());
    let header = Header::mint(core, &[7; 384], &dek(), &cert, &node);
    let keys = RecordKeys::derive(&dek(), &header);
    let (mut file, mut leaves) = (header.bytes().to_vec(), Vec::new());
    let n = raw.len().div_ceil(SEGMENT_LEN);
    for (i, segment) in raw.chunks(SEGMENT_LEN).enumerate() {
        leaves.push(*blake3::hash(segment).as_bytes());
        let mut buf = segment.to_vec();
        keys.seal_segment(i as u32, i + 1 == n, &mut buf);
        file.extend_from_slice(&buf);
    }
    file.extend_from_slice(&keys.seal_leaves(&leaves));
    let (tar_len, at) = (word(0), word(8));
    let trailer = Trailer {
        format: 1,
        raw_id: raw_id(&leaves),
        raw_len: raw.len() as u64,
        segments: n as u64,
        sector: OWN,
        zone: ZoneId([4; 16]),
        checkpoint: CheckpointId([5; 16]),
        packer: NODE,
        epoch: 1,
        tar_len,
        seek_table: (at, (raw.len() as u64).wrapping_sub(at)),
        index: (tar_len / 2, tar_len / 4),
        system: false,
        created_ms: 0,
    };
    file.extend_from_slice(&keys.seal_trailer(&trailer).unwrap());
    read(file);
}

/// The first 8 bytes say where the table lies.
pub fn fuzz_seek_table(data: &[u8]) {
    let Some((at, table)) = data.split_first_chunk::<8>() else { return };
    let Ok(parsed) = SeekTable::parse(table, u64::from_le_bytes(*at)) else { return };
    assert!(parsed.frames() <= table.len() / 8);
    let (raw_end, tar_end) = parsed.end();
    assert_eq!(parsed.find(tar_end), None);
    for i in [0, parsed.frames() / 2, parsed.frames().saturating_sub(1)] {
        if let Some((_, tar)) = parsed.frame(i) {
            assert_eq!((parsed.find(tar.start), parsed.find(tar.end - 1)), (Some(i), Some(i)));
        }
    }
    // Padding may be of many sizes, and is written as Padmé wants it: 12 % of what is there.
    if raw_end < 1 << 24 {
        let mut out = Vec::new();
        let (at, len) = parsed.finish(&mut out, raw_end);
        let again = SeekTable::parse(&out[out.len() - len as usize..], at).unwrap();
        assert_eq!(again, parsed);
    }
}

pub fn fuzz_catalog(data: &[u8]) {
    let table = SectorTable::default();
    let part = |bytes| PartReader::new(bytes, &table, OWN, SOURCE, LAYER, 0);
    let Ok(reader) = part(data) else { return };
    let mut writer = PartWriter::new(&table, OWN, SOURCE, LAYER, 0);
    let mut all = Vec::new();
    for line in reader {
        match line {
            Ok(Line::Entry(e)) => {
                assert!(e.path.len() <= PATH_LEN_MAX && e.link.len() <= PATH_LEN_MAX);
                writer.push(&e);
                all.push(Line::Entry(e));
            }
            Ok(Line::Gone(p)) => {
                writer.push_gone(&p);
                all.push(Line::Gone(p));
            }
            Err(_) => break,
        }
    }
    let (bytes, n) = writer.finish();
    assert_eq!(n, all.len() as u64);
    let again: Vec<Line> = part(&bytes[..]).unwrap().collect::<Result<_, _>>().expect("what was written is read");
    assert_eq!(again, all);
}

pub fn fuzz_tar(data: &[u8]) {
    let mut reader = Reader::new(data);
    let mut buf = [0; 4096];
    while let Ok(Some(m)) = reader.next_member() {
        assert!(m.data_offset <= data.len() as u64 && !m.name.is_empty() && !m.name.contains(&0));
        if let MemberKind::Entry(kind) = m.kind {
            let cut = m.meta.rdev.0.max(m.meta.rdev.1) >= 1 << 21;
            let slash = kind == Kind::Dir && m.name.ends_with(b"/");
            if !m.sparse && !cut && !slash {
                let mut out = Vec::new();
                pax::append_header(&mut out, &m.name, &m.meta, &m.link, &m.xattrs, m.size, None);
                let again = Reader::new(&out[..]).next_member().expect("what was written is read").unwrap();
                assert_eq!((again.name, again.kind, again.meta), (m.name, m.kind, m.meta));
                assert_eq!((again.link, again.xattrs, again.size), (m.link, m.xattrs, m.size));
            }
        }
        if let Ok(Some(map)) = reader.sparse_map() {
            assert!(map.spans.iter().all(|(a, b)| a < b && *b <= map.real_size));
            assert!(map.spans.windows(2).all(|w| w[0].1 <= w[1].0));
        }
        while matches!(reader.read_content(&mut buf), Ok(1..)) {}
    }
    assert!(reader.next_member().is_ok_and(|m| m.is_none()) || reader.next_member().is_err());
}

pub fn fuzz_key_file(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Words::parse(text);
    }
    let Ok(file) = OwnerKeyFile::from_bytes(data) else { return };
    let bytes = file.to_bytes();
    let again = OwnerKeyFile::from_bytes(&bytes).expect("what was written is read");
    assert!(again == file && again.to_bytes() == bytes);
    assert!(!file.without_passphrase().has_passphrase());
    let words = Words::parse(&["abandon ".repeat(23), "art".into()].concat()).unwrap();
    let _ = file.open_with_words(&words);
}

pub fn fuzz_trailer(data: &[u8]) {
    let Ok(t) = Trailer::decode(data) else { return };
    let json = serde_json::to_vec(&t).unwrap();
    let plain = [&(json.len() as u32).to_le_bytes()[..], &json, &[0; 9]].concat();
    assert_eq!(Trailer::decode(&plain), Ok(t));
}

pub fn fuzz_certificate(data: &[u8]) {
    let Ok(c) = NodeCertificate::parse(data) else { return };
    assert_eq!(c.to_bytes()[..], *data);
    let _ = c.verify(&owner().public_key());
}

pub fn fuzz_zone_secret(data: &[u8]) {
    let Ok(s) = ZoneSecrets::from_json(data) else { return };
    assert_eq!(ZoneSecrets::from_json(&s.to_json()), Ok(s));
}

pub fn fuzz_index(data: &[u8]) {
    let Ok(index) = serde_json::from_slice::<IndexJson>(data) else { return };
    let json = serde_json::to_vec(&index).unwrap();
    let again: IndexJson = serde_json::from_slice(&json).expect("what was written is read");
    assert_eq!(serde_json::to_vec(&again).unwrap(), json);
}
