//! The few cryptographic operations the formats are made of. Everything here is a standard primitive; the hot ones
//! run in aws-lc-rs, and the tests compare them with independent implementations.

use aws_lc_rs::{aead, hkdf, rand, signature};
use sha2::Digest as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::Digest;

/// Bytes of an AES-GCM tag.
pub const TAG_LEN: usize = 16;

/// 32 secret bytes, wiped when dropped and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop, PartialEq, Eq)]
pub struct Secret32(pub [u8; 32]);

impl std::fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret32(…)")
    }
}

impl Secret32 {
    /// 32 fresh random bytes.
    pub fn random() -> Self {
        let mut b = [0u8; 32];
        fill_random(&mut b);
        Self(b)
    }
}

/// The bytes did not authenticate: another key, or changed bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the bytes do not authenticate under this key")]
pub struct NotAuthentic;

/// Fills with bytes from the system's random generator. A system without one cannot run Zoneward: this aborts.
#[allow(clippy::panic)] // No key may ever be made without randomness.
pub fn fill_random(buf: &mut [u8]) {
    if rand::fill(buf).is_err() {
        panic!("the system's random generator failed");
    }
}

/// SHA-256.
pub fn sha256(parts: &[&[u8]]) -> Digest {
    let mut h = sha2::Sha256::new();
    for p in parts {
        h.update(p);
    }
    Digest(h.finalize().into())
}

/// Whether two secrets are the same, in a time that does not tell where they differ.
pub fn same_secret(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// The fingerprint of a chunk: keyed BLAKE3.
pub fn keyed_fingerprint(key: &[u8; 32], data: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(key, data).as_bytes()
}

struct Len(usize);

impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA256 into `out` (at most 8,160 bytes).
#[allow(clippy::expect_used)] // Fails only for outputs above 255 × 32 bytes; callers pass constants.
pub fn hkdf_into(ikm: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(ikm);
    let okm = prk.expand(info, Len(out.len())).expect("output length within HKDF's limit");
    okm.fill(out).expect("output length as asked");
}

/// HKDF-SHA256 to 32 bytes.
pub fn hkdf32(ikm: &[u8], salt: &[u8], info: &[&[u8]]) -> Secret32 {
    let mut out = [0u8; 32];
    hkdf_into(ikm, salt, info, &mut out);
    Secret32(out)
}

/// One AES-256-GCM key.
pub struct GcmKey(aead::LessSafeKey);

impl std::fmt::Debug for GcmKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GcmKey(…)")
    }
}

impl GcmKey {
    #[allow(clippy::expect_used)] // 32 bytes are always a valid AES-256 key.
    pub fn new(key: &Secret32) -> Self {
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &key.0).expect("32 bytes");
        Self(aead::LessSafeKey::new(key))
    }

    /// Encrypts in place and returns the tag. The caller answers for a nonce never used before with this key.
    #[allow(clippy::expect_used)] // Fails only above 2^36 bytes; records are at most 2 MiB.
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], buf: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self
            .0
            .seal_in_place_separate_tag(aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(aad), buf)
            .expect("record within AES-GCM's limit");
        let mut out = [0u8; TAG_LEN];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Opens `ciphertext ‖ tag` into `out` (as long as the ciphertext).
    pub fn open_into(&self, nonce: [u8; 12], aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<(), NotAuthentic> {
        let cut = sealed.len().checked_sub(TAG_LEN).ok_or(NotAuthentic)?;
        let (text, tag) = sealed.split_at(cut);
        if text.len() != out.len() {
            return Err(NotAuthentic);
        }
        self.0
            .open_separate_gather(aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(aad), text, tag, out)
            .map_err(|_| NotAuthentic)
    }

    /// Opens `ciphertext ‖ tag` into a new vector.
    pub fn open(&self, nonce: [u8; 12], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
        let mut out = vec![0u8; sealed.len().checked_sub(TAG_LEN).ok_or(NotAuthentic)?];
        self.open_into(nonce, aad, sealed, &mut out)?;
        Ok(out)
    }

    /// Seals into a new vector: `ciphertext ‖ tag`.
    pub fn seal_vec(&self, nonce: [u8; 12], aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len() + TAG_LEN);
        out.extend_from_slice(plain);
        let tag = self.seal(nonce, aad, &mut out);
        out.extend_from_slice(&tag);
        out
    }
}

/// Whether `sig` is the Ed25519 signature of `message` (its parts joined) under `public`.
pub fn verify_ed25519(public: &[u8; 32], message: &[u8], sig: &[u8]) -> bool {
    signature::UnparsedPublicKey::new(&signature::ED25519, public).verify(message, sig).is_ok()
}

/// Something that signs with an Ed25519 key: a node.
pub trait Signer: Sync {
    /// The public key.
    fn public_key(&self) -> [u8; 32];
    /// A signature over `message`.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

/// An Ed25519 key pair made from its 32-byte seed.
pub struct SigningKey {
    pair: signature::Ed25519KeyPair,
    public: [u8; 32],
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", crate::ids::hex(&self.public))
    }
}

impl SigningKey {
    #[allow(clippy::expect_used)] // Any 32 bytes are a valid Ed25519 seed.
    pub fn from_seed(seed: &Secret32) -> Self {
        use signature::KeyPair;
        let pair = signature::Ed25519KeyPair::from_seed_unchecked(&seed.0).expect("a seed of 32 bytes");
        let mut public = [0u8; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { pair, public }
    }
}

impl Signer for SigningKey {
    fn public_key(&self) -> [u8; 32] {
        self.public
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut out = [0u8; 64];
        out.copy_from_slice(self.pair.sign(message).as_ref());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes_gcm::aead::{Aead, KeyInit, Payload};

    #[test]
    fn gcm_equals_the_aes_gcm_crate() {
        let key = Secret32([7; 32]);
        let other = aes_gcm::Aes256Gcm::new_from_slice(&key.0).unwrap();
        for len in [0usize, 1, 15, 16, 17, 4096, 1 << 20] {
            let plain: Vec<u8> = (0..len).map(|i| (i * 31) as u8).collect();
            let nonce = [3u8; 12];
            let ours = GcmKey::new(&key).seal_vec(nonce, b"aad", &plain);
            let theirs = other.encrypt((&nonce).into(), Payload { msg: &plain, aad: b"aad" }).unwrap();
            assert_eq!(ours, theirs, "length {len}");
            assert_eq!(GcmKey::new(&key).open(nonce, b"aad", &theirs).unwrap(), plain);
            assert_eq!(GcmKey::new(&key).open(nonce, b"aae", &theirs), Err(NotAuthentic));
        }
    }

    #[test]
    fn hkdf_matches_rfc_5869_case_1() {
        let ikm = [0x0b; 22];
        let salt: Vec<u8> = (0..=12).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let mut out = [0u8; 42];
        hkdf_into(&ikm, &salt, &[&info], &mut out);
        assert_eq!(
            crate::ids::hex(&out),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
        );
    }

    #[test]
    fn ed25519_signs_and_refuses() {
        let k = SigningKey::from_seed(&Secret32([1; 32]));
        let s = k.sign(b"message");
        assert!(verify_ed25519(&k.public_key(), b"message", &s));
        assert!(!verify_ed25519(&k.public_key(), b"messagf", &s));
        assert!(!verify_ed25519(&[0; 32], b"message", &s));
    }
}
