//! The owner key file, `owner-key.json` (`docs/format.md` §7): the owner's private keys, sealed under the recovery
//! words and, where wanted, under a passphrase.
//!
//! The file lies on every target, so it must be taken for hostile: each length and each cost is checked before any
//! work, and what opens must match the public halves that the file shows. A file with other keys altogether is only
//! found by comparing [`OwnerKeyFile::public`] with what is known from elsewhere (the kit's fingerprint, the zone).

mod b64;
mod words;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::crypto::{GcmKey, Secret32, fill_random, hkdf32};
use crate::ids::Digest;
use crate::owner::{OwnerKeyError, OwnerKeys, OwnerPublic};
use b64::{Array, Bytes};
pub use words::{WORD_COUNT, Words, WordsError};

/// Bytes of an owner key file. The largest real one, with six retired keys and both seals, has about 63,000.
pub const FILE_LEN_MAX: usize = 65_536;
const FORMAT: u32 = 1;

/// What deriving a key from a passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfCost {
    /// Memory in KiB, 16,384 … 1,048,576.
    pub m_kib: u32,
    /// Passes, 1 … 16.
    pub t: u32,
    /// Lanes, 1 … 8.
    pub p: u32,
}

impl KdfCost {
    /// What files are written with: 64 MiB, three passes.
    pub const DEFAULT: Self = Self { m_kib: 65_536, t: 3, p: 1 };
    /// The least the format allows. For tests: too little for a real file.
    pub const FLOOR: Self = Self { m_kib: 16_384, t: 1, p: 1 };

    fn check(self) -> Result<Self, KeyFileError> {
        for (what, value, min, max) in
            [("m_kib", self.m_kib, 16_384, 1_048_576), ("t", self.t, 1, 16), ("p", self.p, 1, 8)]
        {
            if value < min || value > max {
                return Err(KeyFileError::Cost { what, value, min, max });
            }
        }
        Ok(self)
    }

    fn derive(self, passphrase: &str, salt: &[u8; 16]) -> Result<Secret32, KeyFileError> {
        let failed = |source| KeyFileError::Kdf { m_kib: self.m_kib, source };
        self.check()?;
        let params = argon2::Params::new(self.m_kib, self.t, self.p, Some(32)).map_err(failed)?;
        let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut key = Secret32([0; 32]);
        argon.hash_password_into(passphrase.as_bytes(), salt, &mut key.0).map_err(failed)?;
        Ok(key)
    }
}

/// Why an owner key file could not be read, opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("the owner key file has {len} bytes, more than the {FILE_LEN_MAX} a valid one may have")]
    TooLong { len: usize },
    #[error("the owner key file has format {0}, this program knows format {FORMAT}: use a newer zoneward")]
    Version(u32),
    #[error("the owner key file is damaged: not the JSON that is expected (line {line}, column {column})")]
    Json { line: usize, column: usize },
    #[error("the owner key file is damaged: its fingerprint is not that of its public key")]
    Fingerprint,
    #[error("the owner key file asks for argon2id with {what} = {value}; {min} to {max} are allowed")]
    Cost { what: &'static str, value: u32, min: u32, max: u32 },
    #[error("argon2id with {m_kib} KiB of memory failed")]
    Kdf { m_kib: u32, source: argon2::Error },
    #[error("these recovery words do not open the owner key file {0}: they belong to another one")]
    WrongWords(Digest),
    #[error("this passphrase does not open the owner key file {0}: try again, or use the recovery words")]
    WrongPassphrase(Digest),
    #[error("the owner key file has no passphrase: use the recovery words")]
    NoPassphrase,
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    #[error("the owner key file's sealed part opens, but does not hold what is expected")]
    Bundle,
    #[error("the owner key file holds other keys than it shows: it was substituted, do not use it")]
    Substituted,
    #[error("the owner key file belongs to {file}, the keys given are {given}")]
    OtherKeys { file: Digest, given: Digest },
    #[error("the owner key file holds a key that is not an owner key")]
    Key(#[from] OwnerKeyError),
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    fingerprint: Digest,
    rsa_public: Bytes,
    sign_public: Array<32>,
    words: WordsSeal,
    #[serde(skip_serializing_if = "Option::is_none")]
    passphrase: Option<PassphraseSeal>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WordsSeal {
    salt: Array<32>,
    nonce: Array<12>,
    sealed: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kdf {
    #[serde(rename = "argon2id")]
    Argon2id,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PassphraseSeal {
    kdf: Kdf,
    m_kib: u32,
    t: u32,
    p: u32,
    salt: Array<16>,
    nonce: Array<12>,
    sealed: Bytes,
}

/// What both seals hold.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bundle {
    rsa_pkcs8: Bytes,
    sign_seed: Array<32>,
    previous: Vec<Retired>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retired {
    fingerprint: Digest,
    rsa_pkcs8: Bytes,
}

/// An owner key file whose structure and public halves were checked.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnerKeyFile {
    file: File,
    public: OwnerPublic,
}

impl std::fmt::Debug for OwnerKeyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnerKeyFile({}, passphrase: {})", self.public.fingerprint(), self.has_passphrase())
    }
}

impl OwnerKeyFile {
    /// Seals the keys under the words and, if given, under a passphrase (as typed, in UTF-8). With a passphrase this
    /// takes 64 MiB of memory and some tenths of a second.
    pub fn seal(keys: &OwnerKeys, words: &Words, passphrase: Option<&str>) -> Result<Self, KeyFileError> {
        Self::seal_with_cost(keys, words, passphrase, KdfCost::DEFAULT)
    }

    /// [`OwnerKeyFile::seal`] with a cost of one's own.
    pub fn seal_with_cost(
        keys: &OwnerKeys,
        words: &Words,
        passphrase: Option<&str>,
        cost: KdfCost,
    ) -> Result<Self, KeyFileError> {
        let public = keys.public().clone();
        let plain = encode_bundle(keys);
        let file = File {
            format: FORMAT,
            fingerprint: public.fingerprint(),
            rsa_public: Bytes::new(public.rsa_spki_der()),
            sign_public: Array::new(*public.sign_public()),
            words: seal_words(&plain, &public, words),
            passphrase: passphrase.map(|text| seal_passphrase(&plain, &public, text, cost)).transpose()?,
        };
        Ok(Self { file, public })
    }

    /// Seals changed keys of the same owner (after `rotate`) under the words of this file, so that the recovery kit's
    /// words stay good. For new words use [`OwnerKeyFile::seal`].
    pub fn reseal(&self, keys: &OwnerKeys, words: &Words, passphrase: Option<&str>) -> Result<Self, KeyFileError> {
        self.open_with_words(words)?;
        if keys.public().sign_public() != self.public.sign_public() {
            return Err(self.other_keys(keys));
        }
        Self::seal(keys, words, passphrase)
    }

    /// Sets or changes the passphrase, without the words: `keys` come from [`OwnerKeyFile::open_with_passphrase`] or
    /// from the session that holds them.
    pub fn set_passphrase(&mut self, keys: &OwnerKeys, passphrase: &str) -> Result<(), KeyFileError> {
        self.set_passphrase_with_cost(keys, passphrase, KdfCost::DEFAULT)
    }

    /// [`OwnerKeyFile::set_passphrase`] with a cost of one's own.
    pub fn set_passphrase_with_cost(
        &mut self,
        keys: &OwnerKeys,
        passphrase: &str,
        cost: KdfCost,
    ) -> Result<(), KeyFileError> {
        if *keys.public() != self.public {
            return Err(self.other_keys(keys)); // Rotated keys must go under the words too.
        }
        self.file.passphrase = Some(seal_passphrase(&encode_bundle(keys), &self.public, passphrase, cost)?);
        Ok(())
    }

    /// The same file with the words' seal only: what targets get unless the owner asks for more.
    pub fn without_passphrase(&self) -> Self {
        let mut out = self.clone();
        out.file.passphrase = None;
        out
    }

    /// Whether a passphrase opens it.
    pub fn has_passphrase(&self) -> bool {
        self.file.passphrase.is_some()
    }

    /// The public halves, as the file shows them. Believe them only if the file opens or the fingerprint is known.
    pub fn public(&self) -> &OwnerPublic {
        &self.public
    }

    /// Opens with the recovery words.
    pub fn open_with_words(&self, words: &Words) -> Result<OwnerKeys, KeyFileError> {
        let s = &self.file.words;
        let key = words_key(words, &s.salt.0);
        let plain = GcmKey::new(&key)
            .open(*s.nonce.0, &aad(&self.public, "words"), &s.sealed.0)
            .map_err(|_| KeyFileError::WrongWords(self.public.fingerprint()))?;
        self.open_bundle(&Zeroizing::new(plain))
    }

    /// Opens with the passphrase. The memory it takes is what the file asks for: 1 GiB at most.
    pub fn open_with_passphrase(&self, passphrase: &str) -> Result<OwnerKeys, KeyFileError> {
        let s = self.file.passphrase.as_ref().ok_or(KeyFileError::NoPassphrase)?;
        let key = s.cost().derive(passphrase, &s.salt.0)?;
        let plain = GcmKey::new(&key)
            .open(*s.nonce.0, &aad(&self.public, "passphrase"), &s.sealed.0)
            .map_err(|_| KeyFileError::WrongPassphrase(self.public.fingerprint()))?;
        self.open_bundle(&Zeroizing::new(plain))
    }

    /// The file's bytes; the same file always gives the same bytes.
    #[allow(clippy::expect_used)] // Plain texts and numbers always become JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.file).expect("plain values")
    }

    /// Reads a file from anywhere. No key is derived here.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyFileError> {
        if bytes.len() > FILE_LEN_MAX {
            return Err(KeyFileError::TooLong { len: bytes.len() });
        }
        // What serde says could carry a stranger's text to the terminal: only the place is passed on.
        let json = |e: serde_json::Error| KeyFileError::Json { line: e.line(), column: e.column() };
        let version: Version = serde_json::from_slice(bytes).map_err(json)?;
        if version.format != FORMAT {
            return Err(KeyFileError::Version(version.format));
        }
        let file: File = serde_json::from_slice(bytes).map_err(json)?;
        if let Some(s) = &file.passphrase {
            s.cost().check()?;
        }
        let public = OwnerPublic::new(&file.rsa_public.0, *file.sign_public.0)?;
        if public.fingerprint() != file.fingerprint {
            return Err(KeyFileError::Fingerprint);
        }
        Ok(Self { file, public })
    }

    fn open_bundle(&self, plain: &[u8]) -> Result<OwnerKeys, KeyFileError> {
        let bundle: Bundle = serde_json::from_slice(plain).map_err(|_| KeyFileError::Bundle)?;
        let previous: Vec<&[u8]> = bundle.previous.iter().map(|r| r.rsa_pkcs8.0.as_slice()).collect();
        let keys = OwnerKeys::from_parts(&bundle.rsa_pkcs8.0, Secret32(*bundle.sign_seed.0), &previous)?;
        if *keys.public() != self.public {
            return Err(KeyFileError::Substituted);
        }
        if !keys.previous().eq(bundle.previous.iter().map(|r| r.fingerprint)) {
            return Err(KeyFileError::Bundle);
        }
        Ok(keys)
    }

    fn other_keys(&self, keys: &OwnerKeys) -> KeyFileError {
        KeyFileError::OtherKeys { file: self.public.fingerprint(), given: keys.public().fingerprint() }
    }
}

impl PassphraseSeal {
    fn cost(&self) -> KdfCost {
        KdfCost { m_kib: self.m_kib, t: self.t, p: self.p }
    }
}

fn aad(public: &OwnerPublic, kind: &str) -> Vec<u8> {
    [&public.fingerprint().0[..], kind.as_bytes()].concat()
}

fn words_key(words: &Words, salt: &[u8; 32]) -> Secret32 {
    hkdf32(words.text().as_bytes(), salt, &[b"zoneward/1 owner words"])
}

fn fresh_nonce() -> [u8; 12] {
    let mut nonce = [0u8; 12];
    fill_random(&mut nonce);
    nonce
}

fn seal_words(plain: &[u8], public: &OwnerPublic, words: &Words) -> WordsSeal {
    let (salt, nonce) = (Array::random(), fresh_nonce());
    let sealed = GcmKey::new(&words_key(words, &salt.0)).seal_vec(nonce, &aad(public, "words"), plain);
    WordsSeal { salt, nonce: Array::new(nonce), sealed: Bytes(Zeroizing::new(sealed)) }
}

fn seal_passphrase(
    plain: &[u8],
    public: &OwnerPublic,
    passphrase: &str,
    cost: KdfCost,
) -> Result<PassphraseSeal, KeyFileError> {
    if passphrase.is_empty() {
        return Err(KeyFileError::EmptyPassphrase);
    }
    let (salt, nonce) = (Array::random(), fresh_nonce());
    let key = cost.derive(passphrase, &salt.0)?;
    let sealed = GcmKey::new(&key).seal_vec(nonce, &aad(public, "passphrase"), plain);
    let KdfCost { m_kib, t, p } = cost;
    let sealed = Bytes(Zeroizing::new(sealed));
    Ok(PassphraseSeal { kdf: Kdf::Argon2id, m_kib, t, p, salt, nonce: Array::new(nonce), sealed })
}

#[allow(clippy::expect_used)] // Plain texts always become JSON.
fn encode_bundle(keys: &OwnerKeys) -> Zeroizing<Vec<u8>> {
    let previous: Vec<Retired> =
        keys.previous_pkcs8().map(|(fingerprint, der)| Retired { fingerprint, rsa_pkcs8: Bytes::new(der) }).collect();
    let bundle =
        Bundle { rsa_pkcs8: Bytes::new(keys.rsa_pkcs8()), sign_seed: Array::new(keys.sign_seed().0), previous };
    // Room for all of it at once: a vector that grows leaves copies behind.
    let mut out = Zeroizing::new(Vec::with_capacity(FILE_LEN_MAX));
    serde_json::to_writer(&mut *out, &bundle).expect("plain values");
    out
}

#[cfg(test)]
mod tests;
