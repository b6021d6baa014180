//! Builds small sectors by hand, so that tests and golden files decide every byte of what is sealed.
#![allow(dead_code)] // Each test binary uses its own part.

use std::io;
use std::sync::{Arc, Mutex};

use zoneward_sectors::cert::NodeCertificate;
use zoneward_sectors::crypto::{Secret32, Signer, SigningKey};
use zoneward_sectors::entry::{Kind, Meta, Stamp, Xattrs};
use zoneward_sectors::frames::{FrameWriter, SeekTable};
use zoneward_sectors::header::{Core, Header, HeaderError};
use zoneward_sectors::ids::{CheckpointId, CopyId, Digest, NodeId, SectorId, ZoneAlias, ZoneId};
use zoneward_sectors::limits::SEGMENT_LEN;
use zoneward_sectors::pax;
use zoneward_sectors::sector_reader::{Expected, SectorIn, SectorReadError, SectorReader, read_header};
use zoneward_sectors::sector_writer::{Finished, SectorFacts, SectorOut, SectorWriter};
use zoneward_sectors::stream::{RecordKeys, Trailer, TrailerError, raw_id};

pub const ZONE: ZoneId = ZoneId([0x11; 16]);
pub const NODE: NodeId = NodeId([0x22; 16]);
pub const CHECKPOINT: CheckpointId = CheckpointId([0x33; 16]);

pub fn owner_signer() -> SigningKey {
    SigningKey::from_seed(&Secret32([0x51; 32]))
}

pub fn node_signer() -> SigningKey {
    SigningKey::from_seed(&Secret32([0x52; 32]))
}

pub fn node_certificate() -> NodeCertificate {
    NodeCertificate::issue(&owner_signer(), 1, NODE, node_signer().public_key())
}

/// Bytes in memory, as a sector is written to and read from.
#[derive(Default)]
pub struct Memory(pub Mutex<Vec<u8>>);

impl Memory {
    pub fn of(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(bytes)))
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl SectorOut for Memory {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut all = self.0.lock().unwrap();
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        if all.len() < to {
            all.resize(to, 0);
        }
        all[from..to].copy_from_slice(bytes);
        Ok(())
    }
}

impl SectorIn for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let all = self.0.lock().unwrap();
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let part = from.checked_add(buf.len()).and_then(|to| all.get(from..to));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// One copy: its header, its data key, and what its trailer will say.
pub struct Copy {
    pub header: Header,
    pub dek: Secret32,
    pub facts: SectorFacts,
}

/// A copy with ids made of one byte each.
pub fn copy(sector: u8, copy: u8, class_log2: u8) -> Copy {
    copy_for(sector, copy, class_log2, Digest([0x77; 32]), &mut |_, _| vec![7; 384])
}

/// A copy whose data key is wrapped by `wrap`.
pub fn copy_for(
    sector: u8,
    copy: u8,
    class_log2: u8,
    owner_fingerprint: Digest,
    wrap: &mut dyn FnMut(&Secret32, &[u8; 32]) -> Vec<u8>,
) -> Copy {
    let dek = Secret32([copy ^ 0xa5; 32]);
    let core =
        Core { class_log2, signer_epoch: 1, alias: ZoneAlias([0x44; 16]), copy: CopyId([copy; 16]), owner_fingerprint };
    mint(core, sector, dek, wrap)
}

pub fn mint(core: Core, sector: u8, dek: Secret32, wrap: &mut dyn FnMut(&Secret32, &[u8; 32]) -> Vec<u8>) -> Copy {
    let wrapped = wrap(&dek, &core.label().0);
    let header = Header::mint(core, &wrapped, &dek, &node_certificate(), &node_signer());
    let facts = SectorFacts {
        zone: ZONE,
        sector: SectorId([sector; 16]),
        checkpoint: CHECKPOINT,
        packer: NODE,
        epoch: 1,
        system: false,
        created_ms: 1_700_000_000_123,
    };
    Copy { header, dek, facts }
}

impl Copy {
    pub fn keys(&self) -> RecordKeys {
        RecordKeys::derive(&self.dek, &self.header)
    }

    /// Writes a sector as the packer does: each piece of tar becomes one frame.
    pub fn write(&self, frames: &[Vec<u8>], index_json: &[u8]) -> (Vec<u8>, Finished) {
        let out = Arc::new(Memory::default());
        let mut writer = SectorWriter::begin(self.facts, &self.header, self.keys(), out.clone(), None).unwrap();
        let mut packer = FrameWriter::new(3).unwrap();
        for tar in frames {
            let mut frame = Vec::new();
            packer.append(tar, &mut frame).unwrap();
            writer.add_frame(&frame, tar.len()).unwrap();
        }
        let done = writer.finish(&mut packer, index_json).unwrap();
        (out.bytes(), done)
    }

    /// The trailer of a raw sector whose parts lie as usual.
    pub fn trailer(&self, raw: &[u8], tar_len: u64, seek_table: (u64, u64), index: (u64, u64)) -> Trailer {
        let leaves: Vec<_> = raw.chunks(SEGMENT_LEN).map(|s| *blake3::hash(s).as_bytes()).collect();
        Trailer {
            format: 1,
            raw_id: raw_id(&leaves),
            raw_len: raw.len() as u64,
            segments: leaves.len() as u64,
            sector: self.facts.sector,
            zone: self.facts.zone,
            checkpoint: self.facts.checkpoint,
            packer: self.facts.packer,
            epoch: self.facts.epoch,
            tar_len,
            seek_table,
            index,
            system: self.facts.system,
            created_ms: self.facts.created_ms,
        }
    }

    /// Seals any raw bytes under any trailer, rightly: what an insider could write.
    pub fn seal(&self, raw: &[u8], trailer: &Trailer) -> Vec<u8> {
        let keys = self.keys();
        let mut file = self.header.bytes().to_vec();
        let n = raw.len().div_ceil(SEGMENT_LEN);
        let mut leaves = Vec::new();
        for (i, segment) in raw.chunks(SEGMENT_LEN).enumerate() {
            leaves.push(*blake3::hash(segment).as_bytes());
            let mut buf = segment.to_vec();
            keys.seal_segment(i as u32, i + 1 == n, &mut buf);
            file.extend_from_slice(&buf);
        }
        file.extend_from_slice(&keys.seal_leaves(&leaves));
        file.extend_from_slice(&keys.seal_trailer(trailer).unwrap());
        file
    }

    /// Opens these bytes as this copy.
    pub fn open(&self, bytes: Vec<u8>) -> Result<SectorReader, SectorReadError> {
        self.open_in(Memory::of(bytes))
    }

    /// Opens bytes that the test may go on changing.
    pub fn open_in(&self, input: Arc<Memory>) -> Result<SectorReader, SectorReadError> {
        let header = read_header(&*input)?;
        SectorReader::open(input, &header, &owner_signer().public_key(), &self.dek, &Expected::default())
    }
}

/// Opens a sector and reads all of it: segments, leaves, frames.
pub fn read_everything(reader: &SectorReader) -> Result<Vec<u8>, SectorReadError> {
    let layout = reader.layout();
    let leaves = reader.leaves()?;
    let mut scratch = Vec::new();
    for i in 0..layout.segments() {
        let mut plain = vec![0u8; layout.segment_len(i)];
        reader.read_segment(i, &mut scratch, &mut plain)?;
        if blake3::hash(&plain).as_bytes() != &leaves[i as usize] {
            return Err(SectorReadError::Leaf(i));
        }
    }
    let mut frames = zoneward_sectors::frames::FrameReader::new()?;
    let mut tar = Vec::new();
    for i in 0..reader.table().frames() {
        tar.extend_from_slice(&reader.read_frame(i, &mut frames)?);
    }
    reader.index_json()?;
    Ok(tar)
}

/// A raw sector of these frames, already compressed: its bytes, and the seek table's range.
pub fn raw_of(frames: &[(Vec<u8>, u32)]) -> (Vec<u8>, (u64, u64)) {
    let (mut raw, mut table) = (Vec::new(), SeekTable::new());
    for (frame, tar_len) in frames {
        raw.extend_from_slice(frame);
        table.push(frame.len() as u32, *tar_len);
    }
    let used = raw.len() as u64;
    let range = table.finish(&mut raw, used);
    (raw, range)
}

pub fn frame(tar: &[u8]) -> (Vec<u8>, u32) {
    let mut out = Vec::new();
    FrameWriter::new(3).unwrap().append(tar, &mut out).unwrap();
    (out, tar.len() as u32)
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut v = vec![0u8; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut v);
    v
}

pub fn meta(kind: Kind) -> Meta {
    Meta {
        kind,
        mode: if kind == Kind::Dir { 0o755 } else { 0o644 },
        uid: 1000,
        gid: 100,
        mtime: Stamp { secs: 1_600_000_000, nanos: 0 },
        ctime: Stamp { secs: 1_600_000_001, nanos: 5 },
        ino: 77,
        nlink: 1,
        size: 0,
        rdev: (0, 0),
    }
}

/// Appends a member and its content; where the content begins.
pub fn add_member(tar: &mut Vec<u8>, name: &[u8], m: &Meta, link: &[u8], xattrs: &Xattrs, content: &[u8]) -> u64 {
    pax::append_header(tar, name, m, link, xattrs, content.len() as u64, None);
    let at = tar.len() as u64;
    tar.extend_from_slice(content);
    tar.resize(tar.len() + pax::padding(content.len() as u64), 0);
    at
}

/// The fixed name of an error, as `tests/golden/*/bad/cases.json` gives it.
pub fn error_name(e: &SectorReadError) -> &'static str {
    use zoneward_sectors::cert::CertError;
    match e {
        SectorReadError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => "cut short",
        SectorReadError::Io(_) => "io",
        SectorReadError::Header(h) => match h {
            HeaderError::NotASector => "not a sector",
            HeaderError::Version(_) => "unknown version",
            HeaderError::Suite(_) => "unknown suite",
            HeaderError::Damaged(_) => "header damaged",
            HeaderError::Certificate(CertError::OtherOwner(_)) => "another owner",
            HeaderError::Certificate(_) => "certificate",
            HeaderError::Signature => "header signature",
            HeaderError::Commitment => "commitment",
        },
        SectorReadError::Trailer(TrailerError::NotAuthentic) => "trailer not authentic",
        SectorReadError::Trailer(TrailerError::Damaged(_)) => "trailer damaged",
        SectorReadError::Length(_) => "length",
        SectorReadError::Segment(_) => "segment",
        SectorReadError::Leaf(_) => "leaf",
        SectorReadError::Key => "key",
        SectorReadError::LeafTable => "leaf table",
        SectorReadError::Other(_) => "another sector",
        SectorReadError::Frame(_) => "frame",
        SectorReadError::Fingerprint => "fingerprint",
        SectorReadError::Range => "range",
        SectorReadError::OwnerOnly => "owner only",
        SectorReadError::Piece(_) | SectorReadError::Stored => "stored bytes",
    }
}
