//! A user's own key. The zone keeps its public half, the sealed file that only he can open, and what signs his exports;
//! so it can write an export when he is not there, and never read one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_consensus::users::UserKey;
use zoneward_sectors::ids::{NodeId, UserId};
use zoneward_sectors::keyfile::{OwnerKeyFile, Words};
use zoneward_sectors::owner::{OwnerKeys, OwnerPublic, RsaSize};
use zoneward_sectors::zonekeys::ZoneKeys;
use zoneward_transport::identity::NodeIdentity;

use crate::errors::ZoneError;

/// Makes a key for a user, sealed under new words, and under a passphrase of his if there is one.
pub fn make(
    zone: &ZoneKeys,
    user: UserId,
    size: RsaSize,
    passphrase: Option<&str>,
) -> Result<(UserKey, Words), ZoneError> {
    let owner = OwnerKeys::generate(size).map_err(|_| ZoneError::State { what: "no key could be made" })?;
    let words = Words::generate();
    let file = OwnerKeyFile::seal(&owner, &words, passphrase).map_err(|e| ZoneError::Sector(e.to_string()))?;
    Ok((adopt(zone, user, &owner, &file), words))
}

/// A user's key as this zone keeps it: he certifies what will sign his exports here.
pub(super) fn adopt(zone: &ZoneKeys, user: UserId, owner: &OwnerKeys, file: &OwnerKeyFile) -> UserKey {
    let signer = NodeIdentity::issue(NodeId::random(), 1, owner.signing_key());
    let public = owner.public();
    UserKey {
        fingerprint: public.fingerprint(),
        public: STANDARD.encode(public.rsa_spki_der()),
        sign_public: STANDARD.encode(public.sign_public()),
        file: STANDARD.encode(file.to_bytes()),
        signer: STANDARD.encode(zone.seal_signer(user, &signer)),
    }
}

/// A user's key, as it is needed to write an export.
pub(super) struct Opened {
    pub public: OwnerPublic,
    pub file: OwnerKeyFile,
    /// Bytes of the identity that signs.
    pub signer: zeroize::Zeroizing<Vec<u8>>,
}

pub(super) fn open(zone: &ZoneKeys, user: UserId, key: &UserKey) -> Result<Opened, ZoneError> {
    let bad = || ZoneError::State { what: "a user's key" };
    let decode = |text: &str| STANDARD.decode(text).map_err(|_| bad());
    let sign: [u8; 32] = decode(&key.sign_public)?.try_into().map_err(|_| bad())?;
    let public = OwnerPublic::new(&decode(&key.public)?, sign).map_err(|_| bad())?;
    let file = OwnerKeyFile::from_bytes(&decode(&key.file)?).map_err(|_| bad())?;
    if public.fingerprint() != key.fingerprint || *file.public() != public {
        return Err(bad());
    }
    let signer = zone.open_signer(user, &decode(&key.signer)?).map_err(|_| bad())?;
    Ok(Opened { public, file, signer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoneward_sectors::ids::ZoneId;
    use zoneward_sectors::zonekeys::ZoneSecret;

    #[test]
    fn the_zone_signs_with_it_and_opens_nothing_and_another_zone_does_not_even_sign() {
        let keys = |n: u8| ZoneKeys::derive(ZoneId([n; 16]), ZoneSecret::generate(1), 1);
        let (zone, user) = (keys(1), UserId([7; 16]));
        let (key, words) = make(&zone, user, RsaSize::Rsa3072, Some("a passphrase of his")).unwrap();
        assert_eq!(key.fault(), None);
        let opened = open(&zone, user, &key).unwrap();
        let his = opened.file.open_with_words(&words).unwrap();
        assert_eq!(his.public().fingerprint(), key.fingerprint);
        assert!(opened.file.open_with_passphrase("a passphrase of his").is_ok());
        assert!(opened.file.open_with_passphrase("another").is_err());
        let dir = tempfile::tempdir().unwrap();
        let signer = NodeIdentity::put(dir.path(), &opened.signer, opened.public.sign_public()).unwrap();
        signer.certificate().verify(his.public().sign_public()).unwrap();
        // Neither another zone nor another user's record opens it.
        assert!(open(&keys(2), user, &key).is_err() && open(&zone, UserId([8; 16]), &key).is_err());
        let other = make(&zone, user, RsaSize::Rsa3072, None).unwrap().0;
        assert!(open(&zone, user, &UserKey { file: other.file, ..key }).is_err(), "a file of another key");
    }
}
