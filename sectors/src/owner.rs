//! The owner's keys in memory: the RSA pair that unwraps data keys, and the Ed25519 key that signs node certificates
//! (`docs/format.md` §2). On disk they only exist sealed: see [`crate::keyfile`].
//!
//! The `rsa` crate makes keys and reads public halves; every operation with a private key runs in aws-lc-rs, in
//! constant time.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
    PublicEncryptingKey,
};
use rsa::pkcs8::{DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::PublicKeyParts;
use zeroize::Zeroizing;

use crate::crypto::{Secret32, Signer, SigningKey, fill_random, sha256};
use crate::ids::Digest;

/// Retired owner keys that one set of keys may carry: with more, the sealed file could pass its 64 KiB.
pub const PREVIOUS_MAX: usize = 6;
/// Bytes of a SubjectPublicKeyInfo: RSA-4096 needs 550.
pub const SPKI_LEN_MAX: usize = 600;
/// Bytes of a PKCS#8 document: RSA-4096 needs at most 2,377.
pub const PKCS8_LEN_MAX: usize = 2_400;
const EXPONENT: u64 = 65_537;

/// Size of an owner key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RsaSize {
    Rsa3072,
    Rsa4096,
}

impl RsaSize {
    /// Bits of the modulus.
    pub fn bits(self) -> usize {
        match self {
            Self::Rsa3072 => 3072,
            Self::Rsa4096 => 4096,
        }
    }

    /// The size with so many bits; anything but 3072 and 4096 is an error.
    pub fn from_bits(bits: usize) -> Result<Self, OwnerKeyError> {
        match bits {
            3072 => Ok(Self::Rsa3072),
            4096 => Ok(Self::Rsa4096),
            bits => Err(OwnerKeyError::Size { bits }),
        }
    }
}

/// Why a key is not taken as an owner key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OwnerKeyError {
    #[error("an owner key has 3072 or 4096 bits, this one has {bits}")]
    Size { bits: usize },
    #[error("the owner key's {what} has {len} bytes, more than any valid one ({max})")]
    TooLong { what: &'static str, len: usize, max: usize },
    #[error("the owner key's public half is not an RSA SubjectPublicKeyInfo in DER")]
    Public,
    #[error("the owner key's public exponent is not 65537")]
    Exponent,
    #[error("the owner key's private half is not a valid RSA key in PKCS#8")]
    Private,
    #[error("the retired owner key {0} is there twice")]
    Twice(Digest),
    #[error("there are already {PREVIOUS_MAX} retired owner keys: forget one that no sector needs any more")]
    TooManyRetired,
    #[error("making an RSA key failed")]
    Generate,
}

/// Why a data key could not be unwrapped.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnwrapError {
    #[error("the data key is wrapped for the owner key {0}, which is neither the current nor a retired key given here")]
    UnknownKey(Digest),
    #[error("the wrapped data key has {got} bytes, the owner key {fingerprint} wraps to {want}")]
    Length { fingerprint: Digest, got: usize, want: usize },
    #[error("the wrapped data key does not open with the owner key {0}: it was changed or belongs to another header")]
    NotAuthentic(Digest),
}

/// The public halves of the owner's keys: all that is needed to wrap data keys and to check node certificates.
#[derive(Clone)]
pub struct OwnerPublic {
    rsa_spki_der: Vec<u8>,
    sign_public: [u8; 32],
    fingerprint: Digest,
    key: PublicEncryptingKey,
}

impl PartialEq for OwnerPublic {
    fn eq(&self, other: &Self) -> bool {
        self.rsa_spki_der == other.rsa_spki_der && self.sign_public == other.sign_public
    }
}

impl Eq for OwnerPublic {}

impl std::fmt::Debug for OwnerPublic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnerPublic({})", self.fingerprint)
    }
}

impl OwnerPublic {
    /// Takes public halves from anywhere. The RSA half must be the one DER encoding of an RSA key of 3072 or 4096 bits
    /// with exponent 65537, because its hash is the key's name.
    pub fn new(rsa_spki_der: &[u8], sign_public: [u8; 32]) -> Result<Self, OwnerKeyError> {
        let key = check_spki(rsa_spki_der)?;
        let fingerprint = sha256(&[rsa_spki_der]);
        Ok(Self { rsa_spki_der: rsa_spki_der.to_vec(), sign_public, fingerprint, key })
    }

    /// SHA-256 of the SubjectPublicKeyInfo: the owner key's name.
    pub fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    /// The RSA key as SubjectPublicKeyInfo (DER).
    pub fn rsa_spki_der(&self) -> &[u8] {
        &self.rsa_spki_der
    }

    /// The Ed25519 key that signs node certificates.
    pub fn sign_public(&self) -> &[u8; 32] {
        &self.sign_public
    }

    /// Bytes of a wrapped key: 384 or 512.
    pub fn wrap_len(&self) -> usize {
        self.key.key_size_bytes()
    }

    /// Wraps a data key for the owner: RSA-OAEP with SHA-256, MGF1 SHA-256 and `label`. Never the same bytes twice.
    #[allow(clippy::expect_used)] // 32 bytes fit either key size, the buffer has the key's size: only memory can fail.
    pub fn wrap(&self, dek: &Secret32, label: &[u8; 32]) -> Vec<u8> {
        let key = OaepPublicEncryptingKey::new(self.key.clone()).expect("a key that was checked");
        let mut out = vec![0u8; self.wrap_len()];
        let len = key.encrypt(&OAEP_SHA256_MGF1SHA256, &dek.0, &mut out, Some(label)).expect("OAEP of 32 bytes").len();
        out.truncate(len);
        out
    }
}

/// Checks a SubjectPublicKeyInfo and opens it for wrapping.
fn check_spki(der: &[u8]) -> Result<PublicEncryptingKey, OwnerKeyError> {
    if der.len() > SPKI_LEN_MAX {
        return Err(OwnerKeyError::TooLong { what: "public half", len: der.len(), max: SPKI_LEN_MAX });
    }
    let read = rsa::RsaPublicKey::from_public_key_der(der).map_err(|_| OwnerKeyError::Public)?;
    let bits = usize::try_from(read.n().bits()).map_err(|_| OwnerKeyError::Public)?;
    RsaSize::from_bits(bits)?;
    if *read.e() != rsa::BoxedUint::from(EXPONENT) {
        return Err(OwnerKeyError::Exponent);
    }
    if read.to_public_key_der().map_err(|_| OwnerKeyError::Public)?.as_bytes() != der {
        return Err(OwnerKeyError::Public); // One key, one encoding, one fingerprint.
    }
    let key = PublicEncryptingKey::from_der(der).map_err(|_| OwnerKeyError::Public)?;
    if key.key_size_bits() != bits {
        return Err(OwnerKeyError::Public);
    }
    Ok(key)
}

/// One RSA pair. aws-lc wipes its own copy when it is dropped.
struct RsaPair {
    pkcs8: Zeroizing<Vec<u8>>,
    spki: Vec<u8>,
    fingerprint: Digest,
    key: OaepPrivateDecryptingKey,
}

impl RsaPair {
    fn generate(size: RsaSize) -> Result<Self, OwnerKeyError> {
        let key = rsa::RsaPrivateKey::new(&mut SystemRng, size.bits()).map_err(|_| OwnerKeyError::Generate)?;
        let der = key.to_pkcs8_der().map_err(|_| OwnerKeyError::Generate)?;
        let pair = Self::from_pkcs8(der.as_bytes())?;
        // The two libraries must agree about the key before anything is wrapped for it.
        let spki = key.to_public_key().to_public_key_der().map_err(|_| OwnerKeyError::Generate)?;
        if spki.as_bytes() != pair.spki { Err(OwnerKeyError::Generate) } else { Ok(pair) }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, OwnerKeyError> {
        if der.len() > PKCS8_LEN_MAX {
            return Err(OwnerKeyError::TooLong { what: "private half", len: der.len(), max: PKCS8_LEN_MAX });
        }
        let key = PrivateDecryptingKey::from_pkcs8(der).map_err(|_| OwnerKeyError::Private)?;
        RsaSize::from_bits(key.key_size_bits())?;
        let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| OwnerKeyError::Private)?;
        let spki = spki.as_ref().to_vec();
        check_spki(&spki)?;
        let key = OaepPrivateDecryptingKey::new(key).map_err(|_| OwnerKeyError::Private)?;
        Ok(Self { pkcs8: Zeroizing::new(der.to_vec()), fingerprint: sha256(&[&spki]), spki, key })
    }

    fn unwrap(&self, wrapped: &[u8], label: &[u8; 32]) -> Result<Secret32, UnwrapError> {
        let want = self.key.key_size_bytes();
        if wrapped.len() != want {
            return Err(UnwrapError::Length { fingerprint: self.fingerprint, got: wrapped.len(), want });
        }
        let mut buf = Zeroizing::new(vec![0u8; self.key.min_output_size()]);
        let plain = self
            .key
            .decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut buf, Some(label))
            .map_err(|_| UnwrapError::NotAuthentic(self.fingerprint))?;
        let mut dek = Secret32([0; 32]);
        if plain.len() != dek.0.len() {
            return Err(UnwrapError::NotAuthentic(self.fingerprint));
        }
        dek.0.copy_from_slice(plain);
        Ok(dek)
    }
}

/// The owner's private keys: wiped when dropped, never printed.
pub struct OwnerKeys {
    current: RsaPair,
    previous: Vec<RsaPair>,
    sign_seed: Secret32,
    sign: SigningKey,
    public: OwnerPublic,
}

impl std::fmt::Debug for OwnerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnerKeys({}, {} retired)", self.current.fingerprint, self.previous.len())
    }
}

impl OwnerKeys {
    /// Makes fresh keys. Takes a few tenths of a second, now and then some seconds.
    pub fn generate(size: RsaSize) -> Result<Self, OwnerKeyError> {
        Self::assemble(RsaPair::generate(size)?, Secret32::random(), Vec::new())
    }

    /// Keys from their encoded parts: PKCS#8 of the RSA key, seed of the signing key, PKCS#8 of each retired key.
    pub fn from_parts(rsa_pkcs8: &[u8], sign_seed: Secret32, previous: &[&[u8]]) -> Result<Self, OwnerKeyError> {
        if previous.len() > PREVIOUS_MAX {
            return Err(OwnerKeyError::TooManyRetired);
        }
        let current = RsaPair::from_pkcs8(rsa_pkcs8)?;
        let mut old: Vec<RsaPair> = Vec::with_capacity(previous.len());
        for der in previous {
            let pair = RsaPair::from_pkcs8(der)?;
            if pair.fingerprint == current.fingerprint || old.iter().any(|o| o.fingerprint == pair.fingerprint) {
                return Err(OwnerKeyError::Twice(pair.fingerprint));
            }
            old.push(pair);
        }
        Self::assemble(current, sign_seed, old)
    }

    fn assemble(current: RsaPair, sign_seed: Secret32, previous: Vec<RsaPair>) -> Result<Self, OwnerKeyError> {
        let sign = SigningKey::from_seed(&sign_seed);
        let public = OwnerPublic::new(&current.spki, sign.public_key())?;
        Ok(Self { current, previous, sign_seed, sign, public })
    }

    /// The public halves.
    pub fn public(&self) -> &OwnerPublic {
        &self.public
    }

    /// The key that signs node certificates.
    pub fn signing_key(&self) -> &SigningKey {
        &self.sign
    }

    /// Names of the retired keys, oldest first.
    pub fn previous(&self) -> impl Iterator<Item = Digest> + '_ {
        self.previous.iter().map(|p| p.fingerprint)
    }

    /// Unwraps the data key that was wrapped for the key named `fingerprint`, the current or a retired one.
    pub fn unwrap(&self, fingerprint: &Digest, wrapped: &[u8], label: &[u8; 32]) -> Result<Secret32, UnwrapError> {
        std::iter::once(&self.current)
            .chain(&self.previous)
            .find(|p| p.fingerprint == *fingerprint)
            .ok_or(UnwrapError::UnknownKey(*fingerprint))?
            .unwrap(wrapped, label)
    }

    /// Makes a new RSA key and retires the present one, which still unwraps. The signing key stays, so node
    /// certificates stay valid. On error nothing has changed.
    pub fn rotate(&mut self, size: RsaSize) -> Result<(), OwnerKeyError> {
        if self.previous.len() >= PREVIOUS_MAX {
            return Err(OwnerKeyError::TooManyRetired);
        }
        let fresh = RsaPair::generate(size)?;
        self.public = OwnerPublic::new(&fresh.spki, self.sign.public_key())?;
        self.previous.push(std::mem::replace(&mut self.current, fresh));
        Ok(())
    }

    /// Forgets a retired key; `false` if there is none of that name. Sectors wrapped for it can then no longer be
    /// opened with these keys.
    pub fn forget_previous(&mut self, fingerprint: &Digest) -> bool {
        let before = self.previous.len();
        self.previous.retain(|p| p.fingerprint != *fingerprint);
        self.previous.len() < before
    }

    /// PKCS#8 of the current key, for sealing.
    pub(crate) fn rsa_pkcs8(&self) -> &[u8] {
        &self.current.pkcs8
    }

    /// Seed of the signing key, for sealing.
    pub(crate) fn sign_seed(&self) -> &Secret32 {
        &self.sign_seed
    }

    /// Name and PKCS#8 of each retired key, for sealing.
    pub(crate) fn previous_pkcs8(&self) -> impl Iterator<Item = (Digest, &[u8])> {
        self.previous.iter().map(|p| (p.fingerprint, p.pkcs8.as_slice()))
    }
}

/// The system's random generator in the shape the `rsa` crate asks for.
struct SystemRng;

impl TryRng for SystemRng {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut b = [0u8; 4];
        fill_random(&mut b);
        Ok(u32::from_le_bytes(b))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut b = [0u8; 8];
        fill_random(&mut b);
        Ok(u64::from_le_bytes(b))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Self::Error> {
        fill_random(dst);
        Ok(())
    }
}

impl TryCryptoRng for SystemRng {}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rsa::pkcs8::DecodePrivateKey;
    use std::sync::OnceLock;

    /// One RSA-3072 key (PKCS#8) for all tests of this run: making keys is slow.
    pub(crate) fn test_pkcs8() -> &'static [u8] {
        static KEY: OnceLock<Vec<u8>> = OnceLock::new();
        KEY.get_or_init(|| RsaPair::generate(RsaSize::Rsa3072).unwrap().pkcs8.to_vec())
    }

    pub(crate) fn test_keys() -> OwnerKeys {
        OwnerKeys::from_parts(test_pkcs8(), Secret32([9; 32]), &[]).unwrap()
    }

    fn oaep(label: &[u8]) -> rsa::Oaep<sha2::Sha256> {
        rsa::Oaep::new_with_label(label.to_vec())
    }

    #[test]
    fn both_libraries_open_what_the_other_wrapped() {
        for keys in [test_keys(), OwnerKeys::generate(RsaSize::Rsa4096).unwrap()] {
            let other = rsa::RsaPrivateKey::from_pkcs8_der(keys.rsa_pkcs8()).unwrap();
            let (dek, label) = (Secret32::random(), [5u8; 32]);
            let ours = keys.public().wrap(&dek, &label);
            assert_eq!(ours.len(), keys.public().wrap_len());
            assert!(other.decrypt(oaep(&label), &ours).unwrap() == dek.0);
            let theirs = other.to_public_key().encrypt(&mut SystemRng, oaep(&label), &dek.0).unwrap();
            let name = keys.public().fingerprint();
            assert_eq!(keys.unwrap(&name, &theirs, &label).unwrap(), dek);
            // What is not 32 bytes is not a data key.
            let short = other.to_public_key().encrypt(&mut SystemRng, oaep(&label), &dek.0[1..]).unwrap();
            assert_eq!(keys.unwrap(&name, &short, &label), Err(UnwrapError::NotAuthentic(name)));
            assert_ne!(ours, keys.public().wrap(&dek, &label), "OAEP is random");
        }
    }

    #[test]
    fn unwrapping_refuses_other_labels_lengths_bytes_and_keys() {
        let keys = test_keys();
        let (name, dek, label) = (keys.public().fingerprint(), Secret32::random(), [1u8; 32]);
        let good = keys.public().wrap(&dek, &label);
        assert_eq!(good.len(), 384);
        assert_eq!(keys.unwrap(&name, &good, &label).unwrap(), dek);
        assert_eq!(keys.unwrap(&name, &good, &[2; 32]), Err(UnwrapError::NotAuthentic(name)));
        let mut bent = good.clone();
        bent[200] ^= 1;
        assert_eq!(keys.unwrap(&name, &bent, &label), Err(UnwrapError::NotAuthentic(name)));
        assert_eq!(keys.unwrap(&name, &[0xff; 384], &label), Err(UnwrapError::NotAuthentic(name)));
        for len in [0, 1, 383] {
            let e = keys.unwrap(&name, &good[..len], &label).unwrap_err();
            assert_eq!(e, UnwrapError::Length { fingerprint: name, got: len, want: 384 });
        }
        let other = Digest([7; 32]);
        assert_eq!(keys.unwrap(&other, &good, &label), Err(UnwrapError::UnknownKey(other)));
    }

    #[test]
    fn a_rotated_key_still_opens_old_sectors_and_keeps_its_signing_key() {
        let mut keys = test_keys();
        let old = keys.public().clone();
        let (dek, label) = (Secret32::random(), [3u8; 32]);
        let wrapped = old.wrap(&dek, &label);
        keys.rotate(RsaSize::Rsa3072).unwrap();
        assert_ne!(keys.public().fingerprint(), old.fingerprint());
        assert_eq!(keys.public().sign_public(), old.sign_public());
        assert_eq!(keys.previous().collect::<Vec<_>>(), [old.fingerprint()]);
        assert_eq!(keys.unwrap(&old.fingerprint(), &wrapped, &label).unwrap(), dek);
        let new = keys.public().wrap(&dek, &label);
        assert_eq!(keys.unwrap(&keys.public().fingerprint(), &new, &label).unwrap(), dek);
        assert!(keys.forget_previous(&old.fingerprint()));
        assert!(!keys.forget_previous(&old.fingerprint()));
        assert!(matches!(keys.unwrap(&old.fingerprint(), &wrapped, &label), Err(UnwrapError::UnknownKey(_))));
    }

    #[test]
    fn retired_keys_have_a_limit_and_no_doubles() {
        let k = test_pkcs8();
        let e = OwnerKeys::from_parts(k, Secret32([0; 32]), &[k]).unwrap_err();
        assert!(matches!(e, OwnerKeyError::Twice(_)));
        let e = OwnerKeys::from_parts(k, Secret32([0; 32]), &[k; PREVIOUS_MAX + 1]).unwrap_err();
        assert_eq!(e, OwnerKeyError::TooManyRetired);
    }

    #[test]
    fn public_halves_that_are_not_an_owner_key_are_refused() {
        let good = test_keys().public().rsa_spki_der().to_vec();
        let refuse = |der: &[u8]| OwnerPublic::new(der, [0; 32]).unwrap_err();
        for len in 0..good.len() {
            refuse(&good[..len]);
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(refuse(&long), OwnerKeyError::Public);
        assert!(matches!(refuse(&[0x30; SPKI_LEN_MAX + 1]), OwnerKeyError::TooLong { .. }));
        let small = rsa::RsaPrivateKey::new(&mut SystemRng, 2048).unwrap();
        let der = small.to_public_key().to_public_key_der().unwrap();
        assert_eq!(refuse(der.as_bytes()), OwnerKeyError::Size { bits: 2048 });
        let read = rsa::RsaPublicKey::from_public_key_der(&good).unwrap();
        let e3 = rsa::RsaPublicKey::new(read.n().as_ref().clone(), rsa::BoxedUint::from(3u64)).unwrap();
        assert_eq!(refuse(e3.to_public_key_der().unwrap().as_bytes()), OwnerKeyError::Exponent);
        // Bent anywhere, it is either refused or another key with another name.
        let name = test_keys().public().fingerprint();
        for i in 0..good.len() {
            let mut bent = good.clone();
            bent[i] ^= 0x55;
            if let Ok(p) = OwnerPublic::new(&bent, [0; 32]) {
                assert_ne!(p.fingerprint(), name);
            }
        }
    }

    #[test]
    fn private_halves_that_are_not_an_owner_key_are_refused() {
        let good = test_pkcs8();
        let refuse = |der: &[u8]| OwnerKeys::from_parts(der, Secret32([0; 32]), &[]).unwrap_err();
        for len in (0..good.len()).step_by(101) {
            assert_eq!(refuse(&good[..len]), OwnerKeyError::Private);
        }
        assert!(matches!(refuse(&[0x30; PKCS8_LEN_MAX + 1]), OwnerKeyError::TooLong { .. }));
        let small = rsa::RsaPrivateKey::new(&mut SystemRng, 2048).unwrap().to_pkcs8_der().unwrap();
        assert_eq!(refuse(small.as_bytes()), OwnerKeyError::Size { bits: 2048 });
        // A changed private exponent, prime or CRT part is found, not used.
        for i in [600, 900, 1100, 1300, 1500, 1700] {
            let mut bent = good.to_vec();
            bent[i] ^= 1;
            assert_eq!(refuse(&bent), OwnerKeyError::Private, "byte {i}");
        }
        assert!(RsaSize::from_bits(2048).is_err());
        assert_eq!(RsaSize::from_bits(4096), Ok(RsaSize::Rsa4096));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let keys = test_keys();
        assert_eq!(format!("{keys:?}"), format!("OwnerKeys({}, 0 retired)", keys.public().fingerprint()));
    }
}
