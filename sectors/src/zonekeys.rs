//! The zone secrets and everything that derives from them (`docs/format.md` §2): chunk fingerprints, the chunker's gear
//! table, the seal of data keys, and the alias on each target.
//!
//! The zone gets a new secret whenever a node is removed. What seals is of the epoch that the zone uses now, what opens is of
//! any; fingerprints, gear table and aliases stay those of the first, or nothing stored would be found again.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::{GcmKey, NotAuthentic, Secret32, TAG_LEN, fill_random, hkdf_into, hkdf32};
use crate::ids::{CopyId, Digest, TargetId, UserId, ZoneAlias, ZoneId};

/// Bytes of a data key sealed to the zone: nonce, key, tag.
pub const SEALED_DEK_LEN: usize = NONCE_LEN + 32 + TAG_LEN;
/// Bytes of a zone secret file; one of a single epoch has about 90.
pub const FILE_LEN_MAX: usize = 65_536;
/// Epochs of a zone: each removal of a node begins one.
pub const EPOCHS_MAX: usize = 512;
const NONCE_LEN: usize = 12;
/// One epoch.
const FORMAT: u32 = 1;
/// Several epochs.
const FORMAT_MANY: u32 = 2;

/// Why a zone secret file is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ZoneSecretError {
    #[error("the zone secret file has {len} bytes, more than the {FILE_LEN_MAX} a valid one may have")]
    TooLong { len: usize },
    #[error("the zone secret file has format {0}, this program knows up to {FORMAT_MANY}: use a newer zoneward")]
    Version(u32),
    #[error("the zone secret file is damaged: {0}")]
    Damaged(&'static str),
    #[error("the zone had {EPOCHS_MAX} secrets, the most it can have")]
    Full,
}

/// A sealed data key did not open.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the data key of copy {copy} does not open under the zone's secrets up to epoch {epoch}: \
     it was changed or sealed under another secret"
)]
pub struct OpenDekError {
    pub copy: CopyId,
    /// The newest epoch whose secret is known.
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingFile<'a> {
    format: u32,
    #[serde(borrow)]
    epochs: Vec<EpochFile<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EpochFile<'a> {
    epoch: u32,
    #[serde(borrow)]
    secret: &'a str,
}

impl ZoneSecret {
    /// A fresh secret for an epoch.
    pub fn generate(epoch: u32) -> Self {
        Self { epoch, secret: Secret32::random() }
    }

    /// What tells that a secret is the one that is meant, and nothing else of it.
    pub fn check(&self, zone: ZoneId) -> Digest {
        Digest(hkdf32(&self.secret.0, &zone.0, &[b"zoneward/1 secret check", &self.epoch.to_be_bytes()]).0)
    }

    fn decode(epoch: u32, text: &str) -> Result<Self, ZoneSecretError> {
        if epoch == 0 {
            return Err(ZoneSecretError::Damaged("its epoch is 0"));
        }
        let not_secret = ZoneSecretError::Damaged("its secret is not 32 bytes in base64");
        let Ok(raw) = STANDARD.decode(text).map(Zeroizing::new) else { return Err(not_secret) };
        let mut secret = Secret32([0; 32]);
        if raw.len() != secret.0.len() {
            return Err(not_secret);
        }
        secret.0.copy_from_slice(&raw);
        Ok(Self { epoch, secret })
    }
}

/// The zone's secrets of all epochs, in their order; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneSecrets(Vec<ZoneSecret>);

impl From<ZoneSecret> for ZoneSecrets {
    fn from(first: ZoneSecret) -> Self {
        Self(vec![first])
    }
}

impl ZoneSecrets {
    /// The first: what must stay findable derives from it.
    #[allow(clippy::indexing_slicing)] // There is always one.
    pub fn first(&self) -> &ZoneSecret {
        &self.0[0]
    }

    pub fn get(&self, epoch: u32) -> Option<&ZoneSecret> {
        self.0.iter().find(|s| s.epoch == epoch)
    }

    /// The newest epoch that is known.
    pub fn newest(&self) -> u32 {
        self.0.last().map_or(0, |s| s.epoch)
    }

    /// Keeps a secret of a later epoch than the first, in place of one of the same epoch.
    pub fn put(&mut self, secret: ZoneSecret) -> Result<(), ZoneSecretError> {
        if secret.epoch <= self.first().epoch {
            return Err(ZoneSecretError::Damaged("its first secret would be another"));
        }
        match self.0.binary_search_by_key(&secret.epoch, |s| s.epoch) {
            Ok(at) => self.0[at] = secret,
            Err(_) if self.0.len() >= EPOCHS_MAX => return Err(ZoneSecretError::Full),
            Err(at) => self.0.insert(at, secret),
        }
        Ok(())
    }

    /// The file form (`docs/format.md` §6): on a node it belongs in a file of mode 0600.
    #[allow(clippy::expect_used)] // Numbers and texts always become JSON.
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let texts: Vec<_> = self.0.iter().map(|s| Zeroizing::new(STANDARD.encode(s.secret.0))).collect();
        // Room for all of it at once: a vector that grows leaves copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(160 * texts.len()));
        match (&self.0[..], &texts[..]) {
            ([one], [text]) => {
                let file = SecretFile { format: FORMAT, epoch: one.epoch, secret: text };
                serde_json::to_writer(&mut *out, &file).expect("plain values");
            }
            (all, texts) => {
                let epochs = all.iter().zip(texts).map(|(s, text)| EpochFile { epoch: s.epoch, secret: text });
                let file = RingFile { format: FORMAT_MANY, epochs: epochs.collect() };
                serde_json::to_writer(&mut *out, &file).expect("plain values");
            }
        }
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
        match version.format {
            FORMAT => {
                let file: SecretFile<'_> = serde_json::from_slice(bytes).map_err(not_json)?;
                Ok(Self(vec![ZoneSecret::decode(file.epoch, file.secret)?]))
            }
            FORMAT_MANY => {
                let file: RingFile<'_> = serde_json::from_slice(bytes).map_err(not_json)?;
                let all = file.epochs.iter().map(|e| ZoneSecret::decode(e.epoch, e.secret));
                let all = all.collect::<Result<Vec<_>, _>>()?;
                if !(2..=EPOCHS_MAX).contains(&all.len()) {
                    return Err(ZoneSecretError::Damaged("it has too few or too many epochs"));
                }
                if !all.is_sorted_by(|a, b| a.epoch < b.epoch) {
                    return Err(ZoneSecretError::Damaged("its epochs are not in order"));
                }
                Ok(Self(all))
            }
            other => Err(ZoneSecretError::Version(other)),
        }
    }
}

/// All that derives from the zone's secrets: wiped when dropped, never printed. Handles share it, so that a new secret is
/// known to all of them at once.
pub struct ZoneKeys {
    zone: ZoneId,
    first: Secret32,
    fingerprint: Secret32,
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
    ring: RwLock<Ring>,
}

/// The secrets that are known, and what seals under each.
struct Ring {
    secrets: ZoneSecrets,
    seals: Vec<Seals>,
    /// The epoch that the zone uses.
    active: u32,
}

struct Seals {
    epoch: u32,
    deks: GcmKey,
    credentials: GcmKey,
    signers: GcmKey,
}

impl Seals {
    fn of(zone: ZoneId, secret: &ZoneSecret) -> Self {
        let ikm = &secret.secret.0;
        Self {
            epoch: secret.epoch,
            deks: GcmKey::new(&hkdf32(ikm, &zone.0, &[b"zoneward/1 seal"])),
            credentials: GcmKey::new(&hkdf32(ikm, &zone.0, &[b"zoneward/1 credentials"])),
            signers: GcmKey::new(&hkdf32(ikm, &zone.0, &[b"zoneward/1 user signer"])),
        }
    }
}

impl Ring {
    fn new(zone: ZoneId, secrets: ZoneSecrets, active: u32) -> Self {
        let seals = secrets.0.iter().map(|s| Seals::of(zone, s)).collect();
        Self { secrets, seals, active }
    }

    /// What the zone seals with now: of what is known, the newest that it uses already.
    #[allow(clippy::indexing_slicing)] // There is always one.
    fn active(&self) -> &Seals {
        self.seals.iter().rev().find(|s| s.epoch <= self.active).unwrap_or(&self.seals[0])
    }

    /// The seals that something may be under, the likeliest first.
    fn all(&self) -> impl Iterator<Item = &Seals> {
        self.seals.iter().rev()
    }
}

impl std::fmt::Debug for ZoneKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ZoneKeys({}, epoch {})", self.zone, self.epoch())
    }
}

impl Drop for ZoneKeys {
    fn drop(&mut self) {
        // The gear table tells who is asked which known files are stored.
        self.gear.zeroize();
        self.gear_shifted.zeroize();
    }
}

/// What something that is sealed belongs to, and under which epoch.
fn aad(id: &[u8; 16], epoch: u32) -> [u8; 20] {
    let mut aad = [0u8; 20];
    aad[..16].copy_from_slice(id);
    aad[16..].copy_from_slice(&epoch.to_be_bytes());
    aad
}

impl ZoneKeys {
    /// Derives all keys of a zone from its secrets; it uses those of this epoch to seal.
    pub fn derive(zone: ZoneId, secrets: impl Into<ZoneSecrets>, active: u32) -> Self {
        let secrets = secrets.into();
        let ikm = &secrets.first().secret.0;
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
            first: secrets.first().secret.clone(),
            fingerprint: hkdf32(ikm, &zone.0, &[b"zoneward/1 fingerprint"]),
            gear,
            gear_shifted,
            ring: RwLock::new(Ring::new(zone, secrets, active)),
        }
    }

    fn ring(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The secrets that are known.
    pub fn secrets(&self) -> ZoneSecrets {
        self.ring().secrets.clone()
    }

    /// Takes the secrets as they are known by now.
    pub fn learn(&self, secrets: ZoneSecrets) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        *ring = Ring::new(self.zone, secrets, ring.active);
    }

    /// Seals under this epoch from now on, or under the newest before it that is known.
    pub fn activate(&self, epoch: u32) {
        self.ring.write().unwrap_or_else(PoisonError::into_inner).active = epoch;
    }

    /// The zone these keys belong to.
    pub fn zone(&self) -> ZoneId {
        self.zone
    }

    /// The epoch whose secret seals now.
    pub fn epoch(&self) -> u32 {
        self.ring().active().epoch
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
        hkdf_into(&self.first.0, &self.zone.0, &[b"zoneward/1 alias", &target.0], &mut alias);
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
        let ring = self.ring();
        let seals = ring.active();
        tag.copy_from_slice(&seals.deks.seal(nonce, &aad(&copy.0, seals.epoch), text));
        out
    }

    /// Opens a data key that was sealed for `copy` under the secret of any epoch.
    pub fn open_dek(&self, copy: CopyId, sealed: &[u8]) -> Result<Secret32, OpenDekError> {
        let ring = self.ring();
        let refused = OpenDekError { copy, epoch: ring.secrets.newest() };
        let Some((nonce, rest)) = sealed.split_first_chunk::<NONCE_LEN>() else { return Err(refused) };
        let mut dek = Secret32([0; 32]);
        let opens = |s: &Seals| s.deks.open_into(*nonce, &aad(&copy.0, s.epoch), rest, &mut dek.0).is_ok();
        if ring.all().any(opens) { Ok(dek) } else { Err(refused) }
    }

    /// Seals a target's credentials to the zone: nonce, text, tag.
    pub fn seal_credentials(&self, target: TargetId, plain: &[u8]) -> Vec<u8> {
        self.seal_with(|s| &s.credentials, &target.0, plain)
    }

    /// Seals what signs a user's exports to the zone, likewise.
    pub fn seal_signer(&self, user: UserId, plain: &[u8]) -> Vec<u8> {
        self.seal_with(|s| &s.signers, &user.0, plain)
    }

    fn seal_with(&self, key: impl Fn(&Seals) -> &GcmKey, whose: &[u8; 16], plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0u8; NONCE_LEN];
        fill_random(&mut nonce);
        let mut out = nonce.to_vec();
        let ring = self.ring();
        let seals = ring.active();
        out.extend_from_slice(&key(seals).seal_vec(nonce, &aad(whose, seals.epoch), plain));
        out
    }

    /// Opens credentials that were sealed for `target` under the secret of any epoch.
    pub fn open_credentials(&self, target: TargetId, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
        self.open_with(|s| &s.credentials, &target.0, sealed)
    }

    /// Opens what signs a user's exports, likewise.
    pub fn open_signer(&self, user: UserId, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
        self.open_with(|s| &s.signers, &user.0, sealed)
    }

    fn open_with(
        &self,
        key: impl Fn(&Seals) -> &GcmKey,
        whose: &[u8; 16],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(NotAuthentic)?;
        let ring = self.ring();
        let mut open = ring.all().filter_map(|s| key(s).open(*nonce, &aad(whose, s.epoch), rest).ok());
        open.next().map(Zeroizing::new).ok_or(NotAuthentic)
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
        ZoneKeys::derive(ZONE, secret(epoch), epoch)
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
        let other = ZoneKeys::derive(ZoneId([0x12; 16]), secret(1), 1);
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
        let s = ZoneSecrets::from(secret(3));
        let text = r#"{"format":1,"epoch":3,"secret":"MzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzM="}"#;
        assert_eq!(s.to_json().as_slice(), text.as_bytes());
        assert_eq!(ZoneSecrets::from_json(text.as_bytes()), Ok(s));
        let damaged = |from: &str, to: &str| {
            assert!(text.contains(from));
            let e = ZoneSecrets::from_json(text.replace(from, to).as_bytes()).unwrap_err();
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
        let newer = ZoneSecrets::from_json(br#"{"format":3,"more":[]}"#);
        assert_eq!(newer, Err(ZoneSecretError::Version(3)));
        let long = vec![b' '; FILE_LEN_MAX + 1];
        assert_eq!(ZoneSecrets::from_json(&long), Err(ZoneSecretError::TooLong { len: FILE_LEN_MAX + 1 }));
        assert!(ZoneSecrets::from_json(b"").is_err());
    }

    #[test]
    fn several_epochs_have_a_file_form_of_their_own() {
        let mut s = ZoneSecrets::from(secret(1));
        s.put(ZoneSecret { epoch: 2, secret: Secret32([0x34; 32]) }).unwrap();
        let a = r#"{"epoch":1,"secret":"MzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzM="}"#;
        let b = r#"{"epoch":2,"secret":"NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ="}"#;
        let text = format!(r#"{{"format":2,"epochs":[{a},{b}]}}"#);
        assert_eq!(String::from_utf8_lossy(&s.to_json()), text);
        assert_eq!(ZoneSecrets::from_json(text.as_bytes()), Ok(s.clone()));
        for bad in [
            format!(r#"{{"format":2,"epochs":[{a}]}}"#),
            r#"{"format":2,"epochs":[]}"#.to_owned(),
            format!(r#"{{"format":2,"epochs":[{b},{a}]}}"#),
            format!(r#"{{"format":2,"epochs":[{a},{a}]}}"#),
            format!(r#"{{"format":2,"epochs":[{a},{b}],"more":1}}"#),
        ] {
            assert!(matches!(ZoneSecrets::from_json(bad.as_bytes()), Err(ZoneSecretError::Damaged(_))), "{bad}");
        }
        // The first one never changes; a later one does until the zone uses it.
        assert!(s.put(ZoneSecret::generate(1)).is_err());
        s.put(ZoneSecret { epoch: 2, secret: Secret32([0x35; 32]) }).unwrap();
        assert_eq!(s.get(2).unwrap().secret.0, [0x35; 32]);
        for epoch in 3..=EPOCHS_MAX as u32 {
            s.put(ZoneSecret::generate(epoch)).unwrap();
        }
        assert_eq!(s.put(ZoneSecret::generate(9_999)), Err(ZoneSecretError::Full));
        assert!(s.to_json().len() <= FILE_LEN_MAX);
        assert_eq!(ZoneSecrets::from_json(&s.to_json()), Ok(s));
    }

    #[test]
    fn what_was_sealed_before_a_new_secret_still_opens_and_what_comes_after_needs_it() {
        let (k, dek, target) = (keys(1), Secret32::random(), TargetId([0x44; 16]));
        let (before, login) = (k.seal_dek(COPY, &dek), k.seal_credentials(target, b"secret"));
        let (alias, print, gear) = (k.alias(target), *k.fingerprint_key(), *k.gear());
        let mut ring = k.secrets();
        ring.put(ZoneSecret::generate(2)).unwrap();
        k.learn(ring.clone());
        // The others may not have it yet.
        assert_eq!(k.epoch(), 1);
        assert_eq!(keys(1).open_dek(COPY, &k.seal_dek(COPY, &dek)).unwrap(), dek);
        k.activate(2);
        assert_eq!(k.epoch(), 2);
        let after = k.seal_dek(COPY, &dek);
        assert_eq!((k.open_dek(COPY, &before).unwrap(), k.open_dek(COPY, &after).unwrap()), (dek.clone(), dek.clone()));
        assert_eq!(k.open_credentials(target, &login).unwrap().as_slice(), b"secret");
        let removed = keys(1);
        assert!(removed.open_dek(COPY, &after).is_err());
        assert!(removed.open_credentials(target, &k.seal_credentials(target, b"new")).is_err());
        assert_eq!((k.alias(target), *k.fingerprint_key(), *k.gear()), (alias, print, gear));
        // The zone is ahead of what this node knows: it seals as it can.
        k.activate(3);
        assert_eq!(k.epoch(), 2);
        let again = ZoneKeys::derive(ZONE, ring, 2);
        assert_eq!(again.open_dek(COPY, &after).unwrap(), dek);
    }

    #[test]
    fn the_check_of_a_secret_tells_zone_epoch_and_secret_apart() {
        let check = secret(2).check(ZONE);
        assert_eq!(check, secret(2).check(ZONE));
        assert_ne!(check, secret(3).check(ZONE));
        assert_ne!(check, secret(2).check(ZoneId([9; 16])));
        assert_ne!(check, ZoneSecret { epoch: 2, secret: Secret32([0x34; 32]) }.check(ZONE));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let all = format!("{:?} {:?} {:?}", secret(1), ZoneSecrets::from(secret(1)), keys(1));
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
