//! The header of a backup sector: who may open it, who minted it, and the commitment to its key (`docs/format.md` §3.1).

use crate::cert::{CertError, NodeCertificate};
use crate::crypto::{Secret32, Signer, hkdf32, sha256, verify_ed25519};
use crate::ids::{CopyId, Digest, ZoneAlias};
use crate::limits::{CLASS_LOG2_MAX, CLASS_LOG2_MIN, HEADER_LEN, SEGMENT_LEN};

/// First bytes of every backup sector.
pub const MAGIC: [u8; 8] = [0x89, b'Z', b'W', b'S', 0x0d, 0x0a, 0x1a, 0x0a];
const VERSION: u16 = 1;
const SUITE: u16 = 1;
const CORE_LEN: usize = 88;
const WRAP_AT: usize = 92;
const WRAP_MAX: usize = 512;
const COMMIT_AT: usize = 604;
const CERT_AT: usize = 636;
const CERT_LEN: usize = 152;
const SIG_AT: usize = 788;
/// Bytes of a header that may differ from zero.
pub const USED_LEN: usize = 852;

/// What the header says in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// log2 of the class's bytes.
    pub class_log2: u8,
    pub signer_epoch: u32,
    pub alias: ZoneAlias,
    pub copy: CopyId,
    /// SHA-256 of the owner key's SubjectPublicKeyInfo.
    pub owner_fingerprint: Digest,
}

/// Why a header is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    #[error("this is not a backup sector: the first bytes are not Zoneward's")]
    NotASector,
    #[error("the sector has format version {0}, this program knows version {VERSION}: use a newer zoneward")]
    Version(u16),
    #[error("the sector uses cipher suite {0}, this program knows suite {SUITE}: use a newer zoneward")]
    Suite(u16),
    #[error("the header is damaged: {0}")]
    Damaged(&'static str),
    #[error("the header's certificate is refused: {0}")]
    Certificate(#[from] CertError),
    #[error("the header's signature is wrong: the header was changed or forged")]
    Signature,
    #[error("the key does not belong to this sector (its commitment differs)")]
    Commitment,
}

/// A header: its exact 4,096 bytes and what they say. Bytes, once minted, are replayed and never made again.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    bytes: Vec<u8>,
    core: Core,
    wrap_len: usize,
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header").field("core", &self.core).finish_non_exhaustive()
    }
}

impl Core {
    fn encode(&self) -> [u8; CORE_LEN] {
        let mut b = [0u8; CORE_LEN];
        b[0..8].copy_from_slice(&MAGIC);
        b[8..10].copy_from_slice(&VERSION.to_le_bytes());
        b[10..12].copy_from_slice(&SUITE.to_le_bytes());
        b[12..16].copy_from_slice(&(SEGMENT_LEN as u32).to_le_bytes());
        b[16] = self.class_log2;
        b[20..24].copy_from_slice(&self.signer_epoch.to_le_bytes());
        b[24..40].copy_from_slice(&self.alias.0);
        b[40..56].copy_from_slice(&self.copy.0);
        b[56..88].copy_from_slice(&self.owner_fingerprint.0);
        b
    }

    /// The label under which the data key is wrapped: SHA-256 of the core's bytes.
    pub fn label(&self) -> Digest {
        sha256(&[&self.encode()])
    }
}

fn commitment(dek: &Secret32, label: &Digest) -> Secret32 {
    hkdf32(&dek.0, b"", &[b"zoneward/1 commit", &label.0])
}

fn signed_message(bytes: &[u8]) -> Vec<u8> {
    [b"zoneward/1 sector header", bytes].concat()
}

impl Header {
    /// Mints a header. `wrapped` is the data key wrapped for the owner under [`Core::label`].
    ///
    /// # Panics
    /// If `wrapped` is not 384 or 512 bytes or the class is out of range: a programmer's mistake.
    #[allow(clippy::panic)]
    pub fn mint(core: Core, wrapped: &[u8], dek: &Secret32, cert: &NodeCertificate, signer: &dyn Signer) -> Self {
        assert!(wrapped.len() == 384 || wrapped.len() == 512, "RSA-3072 or RSA-4096");
        assert!((CLASS_LOG2_MIN..=CLASS_LOG2_MAX).contains(&core.class_log2));
        let mut bytes = vec![0u8; HEADER_LEN];
        bytes[..CORE_LEN].copy_from_slice(&core.encode());
        bytes[88..90].copy_from_slice(&(wrapped.len() as u16).to_le_bytes());
        bytes[WRAP_AT..WRAP_AT + wrapped.len()].copy_from_slice(wrapped);
        bytes[COMMIT_AT..CERT_AT].copy_from_slice(&commitment(dek, &core.label()).0);
        bytes[CERT_AT..SIG_AT].copy_from_slice(&cert.to_bytes());
        let sig = signer.sign(&signed_message(&bytes[..SIG_AT]));
        bytes[SIG_AT..USED_LEN].copy_from_slice(&sig);
        Self { bytes, core, wrap_len: wrapped.len() }
    }

    /// Reads a header's structure. Nothing in it may be believed before [`Header::verify`].
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() != HEADER_LEN || bytes[..8] != MAGIC {
            return Err(HeaderError::NotASector);
        }
        let u16_at = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
        let u32_at = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        if u16_at(8) != VERSION {
            return Err(HeaderError::Version(u16_at(8)));
        }
        if u16_at(10) != SUITE {
            return Err(HeaderError::Suite(u16_at(10)));
        }
        if u32_at(12) as usize != SEGMENT_LEN {
            return Err(HeaderError::Damaged("segment size"));
        }
        if !(CLASS_LOG2_MIN..=CLASS_LOG2_MAX).contains(&bytes[16]) {
            return Err(HeaderError::Damaged("class"));
        }
        let wrap_len = usize::from(u16_at(88));
        if wrap_len != 384 && wrap_len != WRAP_MAX {
            return Err(HeaderError::Damaged("length of the wrapped key"));
        }
        let zero = |r: std::ops::Range<usize>| bytes[r].iter().all(|b| *b == 0);
        if !zero(17..20) || !zero(90..92) || !zero(WRAP_AT + wrap_len..COMMIT_AT) || !zero(USED_LEN..HEADER_LEN) {
            return Err(HeaderError::Damaged("reserved bytes"));
        }
        let (mut alias, mut copy, mut fp) = ([0u8; 16], [0u8; 16], [0u8; 32]);
        alias.copy_from_slice(&bytes[24..40]);
        copy.copy_from_slice(&bytes[40..56]);
        fp.copy_from_slice(&bytes[56..88]);
        let core = Core {
            class_log2: bytes[16],
            signer_epoch: u32_at(20),
            alias: ZoneAlias(alias),
            copy: CopyId(copy),
            owner_fingerprint: Digest(fp),
        };
        Ok(Self { bytes: bytes.to_vec(), core, wrap_len })
    }

    /// Restores a header from its used part, as the state keeps it.
    pub fn from_used(used: &[u8]) -> Result<Self, HeaderError> {
        if used.len() != USED_LEN {
            return Err(HeaderError::Damaged("length"));
        }
        let mut bytes = used.to_vec();
        bytes.resize(HEADER_LEN, 0);
        Self::parse(&bytes)
    }

    /// Checks certificate and signature up to the owner's signing key.
    pub fn verify(&self, owner_sign_public: &[u8; 32]) -> Result<NodeCertificate, HeaderError> {
        let cert = NodeCertificate::parse(&self.bytes[CERT_AT..SIG_AT])?;
        cert.verify(owner_sign_public)?;
        if cert.epoch != self.core.signer_epoch {
            return Err(HeaderError::Damaged("signer epoch differs from the certificate's"));
        }
        if !verify_ed25519(&cert.public_key, &signed_message(&self.bytes[..SIG_AT]), &self.bytes[SIG_AT..USED_LEN]) {
            return Err(HeaderError::Signature);
        }
        Ok(cert)
    }

    /// Checks that `dek` is the key this header was minted for.
    pub fn check_commitment(&self, dek: &Secret32) -> Result<(), HeaderError> {
        let want = commitment(dek, &self.core.label());
        if want.0[..] == self.bytes[COMMIT_AT..CERT_AT] { Ok(()) } else { Err(HeaderError::Commitment) }
    }

    pub fn core(&self) -> &Core {
        &self.core
    }

    /// All 4,096 bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes that may differ from zero: what the state keeps.
    pub fn used(&self) -> &[u8] {
        &self.bytes[..USED_LEN]
    }

    /// The data key, wrapped for the owner.
    pub fn wrapped(&self) -> &[u8] {
        &self.bytes[WRAP_AT..WRAP_AT + self.wrap_len]
    }

    /// H: what every record of the sector is bound to.
    pub fn hash(&self) -> Digest {
        sha256(&[&self.bytes])
    }
}

const _: () = assert!(CERT_AT + CERT_LEN == SIG_AT && SIG_AT + 64 == USED_LEN && WRAP_AT + WRAP_MAX == COMMIT_AT);
