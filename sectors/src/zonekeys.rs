//! The zone secret and everything that derives from it (`docs/format.md` §2): chunk fingerprints, the chunker's gear
//! table, the seal of data keys, and the alias on each target.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::{GcmKey, NotAuthentic, Secret32, TAG_LEN, fill_random, hkdf_into, hkdf32};
use crate::ids::{CopyId, TargetId, ZoneAlias, ZoneId};

/// Bytes of a data key sealed to the zone: nonce, key, tag.
pub const SEALED_DEK_LEN: usize = NONCE_LEN + 32 + TAG_LEN;
/// Bytes of a zone secret file; a real one has about 90.
pub const FILE_LEN_MAX: usize = 4_096;
const NONCE_LEN: usize = 12;
const FORMAT: u32 = 1;

/// Why a zone secret file is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ZoneSecretError {
    #[error("the zone secret file has {len} bytes, more than the {FILE_LEN_MAX} a valid one may have")]
    TooLong { len: usize },
    #[error("the zone secret file has format {0}, this program knows format {FORMAT}: use a newer zoneward")]
    Version(u32),
    #[error("the zone secret file is damaged: {0}")]
    Damaged(&'static str),
}

/// A sealed data key did not open.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the data key of copy {copy} does not open under the zone secret of epoch {epoch}: \
     it was changed or sealed under another secret"
)]
pub struct OpenDekError {
    pub copy: CopyId,
    pub epoch: u32,
}

/// The zone secret of one epoch: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ZoneSecret {
    /// From 1; a new one when a node is removed.
    pub epoch: u32,
    pub secret: Secret32,
}

impl std::fmt::Debug for ZoneSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ZoneSecret(epoch {})", self.epoch)
    }
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretFile<'a> {
    format: u32,
    epoch: u32,
    #[serde(borrow)]
    secret: &'a str,
}

impl ZoneSecret {
    /// A fresh secret for an epoch.
    pub fn generate(epoch: u32) -> Self {
        Self { epoch, secret: Secret32::random() }
    }

    /// The file form, `{"format":1,"epoch":…,"secret":"…"}`: on a node it belongs in a file of mode 0600.
    #[allow(clippy::expect_used)] // Two numbers and a text always become JSON.
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let secret = Zeroizing::new(STANDARD.encode(self.secret.0));
        // Room for all of it at once: a vector that grows leaves copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(160));
        let file = SecretFile { format: FORMAT, epoch: self.epoch, secret: &secret };
        serde_json::to_writer(&mut *out, &file).expect("plain values");
        out
    }

    /// Reads the file form.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ZoneSecretError> {
        if bytes.len() > FILE_LEN_MAX {
            return Err(ZoneSecretError::TooLong { len: bytes.len() });
        }
        // What serde says could quote the secret, so its words are not passed on.
        let not_json = |_| ZoneSecretError::Damaged("it is not the JSON that is expected");
        let version: Version = serde_json::from_slice(bytes).map_err(not_json)?;
        if version.format != FORMAT {
            return Err(ZoneSecretError::Version(version.format));
        }
        let file: SecretFile<'_> = serde_json::from_slice(bytes).map_err(not_json)?;
        if file.epoch == 0 {
            return Err(ZoneSecretError::Damaged("its epoch is 0"));
        }
        let not_secret = ZoneSecretError::Damaged("its secret is not 32 bytes in base64");
        let Ok(raw) = STANDARD.decode(file.secret).map(Zeroizing::new) else { return Err(not_secret) };
        let mut secret = Secret32([0; 32]);
        if raw.len() != secret.0.len() {
            return Err(not_secret);
        }
        secret.0.copy_from_slice(&raw);
        Ok(Self { epoch: file.epoch, secret })
    }
}

/// All that derives from one zone secret: wiped when dropped, never printed.
pub struct ZoneKeys {
    zone: ZoneId,
    epoch: u32,
    secret: Secret32,
    fingerprint: Secret32,
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
    seal: GcmKey,
    credentials: GcmKey,
}

impl std::fmt::Debug for ZoneKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ZoneKeys({}, epoch {})", self.zone, self.epoch)
    }
}

impl Drop for ZoneKeys {
    fn drop(&mut self) {
        // The gear table tells who is asked which known files are stored.
        self.gear.zeroize();
        self.gear_shifted.zeroize();
    }
}

impl ZoneKeys {
    /// Derives all keys of a zone from its secret.
    pub fn derive(zone: ZoneId, secret: &ZoneSecret) -> Self {
        let ikm = &secret.secret.0;
        let mut table = Zeroizing::new([0u8; 2048]);
        hkdf_into(ikm, &zone.0, &[b"zoneward/1 gear"], &mut *table);
        let mut gear = Box::new([0u64; 256]);
        for (entry, bytes) in gear.iter_mut().zip(table.as_chunks::<8>().0) {
            *entry = u64::from_le_bytes(*bytes);
        }
        let mut gear_shifted = Box::new([0u64; 256]);
        for (shifted, entry) in gear_shifted.iter_mut().zip(gear.iter()) {
            *shifted = entry << 1;
        }
        Self {
            zone,
            epoch: secret.epoch,
            secret: secret.secret.clone(),
            fingerprint: hkdf32(ikm, &zone.0, &[b"zoneward/1 fingerprint"]),
            gear,
            gear_shifted,
            seal: GcmKey::new(&hkdf32(ikm, &zone.0, &[b"zoneward/1 seal"])),
            credentials: GcmKey::new(&hkdf32(ikm, &zone.0, &[b"zoneward/1 credentials"])),
        }
    }

    /// The zone these keys belong to.
    pub fn zone(&self) -> ZoneId {
        self.zone
    }

    /// Epoch of the secret.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Key of the keyed BLAKE3 that fingerprints chunks.
    pub fn fingerprint_key(&self) -> &[u8; 32] {
        &self.fingerprint.0
    }

    /// The chunker's gear table, for `fastcdc::v2020::cut_gear`.
    pub fn gear(&self) -> &[u64; 256] {
        &self.gear
    }

    /// The gear table with every entry shifted left by one: `cut_gear`'s second table.
    pub fn gear_shifted(&self) -> &[u64; 256] {
        &self.gear_shifted
    }

    /// What stands for the zone on a target.
    pub fn alias(&self, target: TargetId) -> ZoneAlias {
        let mut alias = [0u8; 16];
        hkdf_into(&self.secret.0, &self.zone.0, &[b"zoneward/1 alias", &target.0], &mut alias);
        ZoneAlias(alias)
    }

    /// Seals a copy's data key to the zone.
    pub fn seal_dek(&self, copy: CopyId, dek: &Secret32) -> [u8; SEALED_DEK_LEN] {
        let mut nonce = [0u8; NONCE_LEN];
        fill_random(&mut nonce);
        let mut out = [0u8; SEALED_DEK_LEN];
        let (head, rest) = out.split_at_mut(NONCE_LEN);
        let (text, tag) = rest.split_at_mut(32);
        head.copy_from_slice(&nonce);
        text.copy_from_slice(&dek.0);
        tag.copy_from_slice(&self.seal.seal(nonce, &self.dek_aad(copy), text));
        out
    }

    /// Opens a data key that was sealed for `copy` under this epoch's secret.
    pub fn open_dek(&self, copy: CopyId, sealed: &[u8]) -> Result<Secret32, OpenDekError> {
        self.try_open_dek(copy, sealed).map_err(|NotAuthentic| OpenDekError { copy, epoch: self.epoch })
    }

    fn try_open_dek(&self, copy: CopyId, sealed: &[u8]) -> Result<Secret32, NotAuthentic> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(NotAuthentic)?;
        let mut dek = Secret32([0; 32]);
        self.seal.open_into(*nonce, &self.dek_aad(copy), rest, &mut dek.0)?;
        Ok(dek)
    }

    /// Seals a target's credentials to the zone: nonce, text, tag.
    pub fn seal_credentials(&self, target: TargetId, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0u8; NONCE_LEN];
        fill_random(&mut nonce);
        let mut out = nonce.to_vec();
        out.extend_from_slice(&self.credentials.seal_vec(nonce, &self.credentials_aad(target), plain));
        out
    }

    /// Opens credentials that were sealed for `target` under this epoch's secret.
    pub fn open_credentials(&self, target: TargetId, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(NotAuthentic)?;
        self.credentials.open(*nonce, &self.credentials_aad(target), rest).map(Zeroizing::new)
    }

    fn credentials_aad(&self, target: TargetId) -> [u8; 20] {
        let mut aad = [0u8; 20];
        aad[..16].copy_from_slice(&target.0);
        aad[16..].copy_from_slice(&self.epoch.to_be_bytes());
        aad
    }

    fn dek_aad(&self, copy: CopyId) -> [u8; 20] {
        let mut aad = [0u8; 20];
        aad[..16].copy_from_slice(&copy.0);
        aad[16..].copy_from_slice(&self.epoch.to_be_bytes());
        aad
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::hex;
    use aes_gcm::aead::{Aead, KeyInit, Payload};

    const ZONE: ZoneId = ZoneId([0x11; 16]);
    const COPY: CopyId = CopyId([0x22; 16]);

    fn secret(epoch: u32) -> ZoneSecret {
        ZoneSecret { epoch, secret: Secret32([0x33; 32]) }
    }

    fn keys(epoch: u32) -> ZoneKeys {
        ZoneKeys::derive(ZONE, &secret(epoch))
    }

    /// The first 32-byte blocks of RFC 5869, from SHA-256 alone.
    fn reference_hkdf(ikm: &[u8], salt: &[u8], info: &[u8], len: usize) -> Vec<u8> {
        fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
            let mut block = [0u8; 64];
            block[..key.len()].copy_from_slice(key);
            let pad = |x: u8| block.map(|b| b ^ x);
            let inner = crate::crypto::sha256(&[&pad(0x36), message]);
            crate::crypto::sha256(&[&pad(0x5c), &inner.0]).0.to_vec()
        }
        let prk = hmac(salt, ikm);
        let (mut out, mut last) = (Vec::new(), Vec::new());
        for n in 1..=len.div_ceil(32) {
            last = hmac(&prk, &[&last[..], info, &[n as u8]].concat());
            out.extend_from_slice(&last);
        }
        out.truncate(len);
        out
    }

    #[test]
    fn keys_equal_an_independent_derivation() {
        let (k, hkdf) = (keys(1), |info: &[u8], len| reference_hkdf(&[0x33; 32], &[0x11; 16], info, len));
        assert_eq!(k.fingerprint_key()[..], hkdf(b"zoneward/1 fingerprint", 32));
        let target = TargetId([0x44; 16]);
        let info = [b"zoneward/1 alias".as_slice(), &target.0].concat();
        assert_eq!(k.alias(target).to_string(), hex(&hkdf(&info, 16)));
        let table: Vec<u8> = k.gear().iter().flat_map(|e| e.to_le_bytes()).collect();
        assert_eq!(table, hkdf(b"zoneward/1 gear", 2048));
        for (a, b) in k.gear().iter().zip(k.gear_shifted()) {
            assert_eq!(a.wrapping_mul(2), *b);
        }
        // The seal, opened by the other library.
        let other = aes_gcm::Aes256Gcm::new_from_slice(&hkdf(b"zoneward/1 seal", 32)).unwrap();
        let sealed = k.seal_dek(COPY, &Secret32([0x55; 32]));
        let aad = [&COPY.0[..], &1u32.to_be_bytes()].concat();
        let nonce: [u8; 12] = sealed[..12].try_into().unwrap();
        let open = other.decrypt((&nonce).into(), Payload { msg: &sealed[12..], aad: &aad }).unwrap();
        assert_eq!(open, [0x55; 32]);
    }

    #[test]
    fn aliases_differ_by_target_and_zone() {
        let k = keys(1);
        assert_ne!(k.alias(TargetId([1; 16])), k.alias(TargetId([2; 16])));
        let other = ZoneKeys::derive(ZoneId([0x12; 16]), &secret(1));
        assert_ne!(k.alias(TargetId([1; 16])), other.alias(TargetId([1; 16])));
    }

    #[test]
    fn a_sealed_key_opens_only_for_its_copy_epoch_and_bytes() {
        let (k, dek) = (keys(7), Secret32::random());
        let sealed = k.seal_dek(COPY, &dek);
        assert_eq!(k.open_dek(COPY, &sealed).unwrap(), dek);
        assert_ne!(sealed, k.seal_dek(COPY, &dek), "a fresh nonce each time");
        let refused = Err(OpenDekError { copy: COPY, epoch: 7 });
        for i in 0..SEALED_DEK_LEN {
            let mut bent = sealed;
            bent[i] ^= 1;
            assert_eq!(k.open_dek(COPY, &bent), refused);
            assert_eq!(k.open_dek(COPY, &sealed[..i]), refused);
        }
        assert_eq!(k.open_dek(COPY, &[&sealed[..], &[0]].concat()), refused);
        assert!(k.open_dek(CopyId([0x23; 16]), &sealed).is_err());
        assert_eq!(keys(8).open_dek(COPY, &sealed), Err(OpenDekError { copy: COPY, epoch: 8 }));
    }

    #[test]
    fn the_file_form_is_fixed_and_strict() {
        let s = secret(3);
        let text = r#"{"format":1,"epoch":3,"secret":"MzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzM="}"#;
        assert_eq!(s.to_json().as_slice(), text.as_bytes());
        assert_eq!(ZoneSecret::from_json(text.as_bytes()), Ok(s));
        let damaged = |from: &str, to: &str| {
            assert!(text.contains(from));
            let e = ZoneSecret::from_json(text.replace(from, to).as_bytes()).unwrap_err();
            assert!(matches!(e, ZoneSecretError::Damaged(_)), "{to}: {e}");
            assert!(!e.to_string().contains("MzMz"));
        };
        damaged(r#""epoch":3"#, r#""epoch":0"#);
        damaged(r#""epoch":3"#, r#""epoch":4294967296"#);
        damaged(r#""epoch":3"#, r#""epoch":3,"epoch":3"#);
        damaged(r#""epoch":3"#, r#""epoch":3,"more":1"#);
        damaged(r#""epoch":3,"#, "");
        damaged("MzM=", "MzM");
        damaged("MzM=", "MzN=");
        damaged("MzMzMzM=", "MzM=");
        damaged(r#""MzMz"#, r#""Mz Mz"#);
        damaged("}", "} x");
        let newer = ZoneSecret::from_json(br#"{"format":2,"epochs":[]}"#);
        assert_eq!(newer, Err(ZoneSecretError::Version(2)));
        let long = vec![b' '; FILE_LEN_MAX + 1];
        assert_eq!(ZoneSecret::from_json(&long), Err(ZoneSecretError::TooLong { len: FILE_LEN_MAX + 1 }));
        assert!(ZoneSecret::from_json(b"").is_err());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let all = format!("{:?} {:?}", secret(1), keys(1));
        assert!(!all.contains("33, 33") && !all.contains("3333") && !all.contains("51"));
    }

    #[test]
    fn credentials_open_only_for_their_target_and_epoch() {
        let (k, target) = (keys(1), TargetId([0x44; 16]));
        let sealed = k.seal_credentials(target, b"secret");
        assert_eq!(k.open_credentials(target, &sealed).unwrap().as_slice(), b"secret");
        assert_ne!(k.seal_credentials(target, b"secret"), sealed);
        assert!(k.open_credentials(TargetId([0x45; 16]), &sealed).is_err());
        assert!(keys(2).open_credentials(target, &sealed).is_err());
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert!(k.open_credentials(target, &bad).is_err(), "byte {i}");
            assert!(k.open_credentials(target, &sealed[..i]).is_err(), "{i} bytes");
        }
    }
}
