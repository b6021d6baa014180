//! Tests of the owner key file: opening, refusing, changing.

use super::*;
use crate::owner::tests::{test_keys, test_pkcs8};
use crate::owner::{PKCS8_LEN_MAX, PREVIOUS_MAX, RsaSize, SPKI_LEN_MAX};
use serde_json::{Value, json};

const PASS: &str = "correct horse \u{7535}\u{6c60}";

fn sealed(words: &Words) -> OwnerKeyFile {
    OwnerKeyFile::seal_with_cost(&test_keys(), words, Some(PASS), KdfCost::FLOOR).unwrap()
}

fn as_value(file: &OwnerKeyFile) -> Value {
    serde_json::from_slice(&file.to_bytes()).unwrap()
}

fn read(value: &Value) -> Result<OwnerKeyFile, KeyFileError> {
    OwnerKeyFile::from_bytes(value.to_string().as_bytes())
}

#[test]
fn words_and_passphrase_open_and_wrong_ones_are_told_apart() {
    let (words, other) = (Words::generate(), Words::generate());
    let file = OwnerKeyFile::from_bytes(&sealed(&words).to_bytes()).unwrap();
    for keys in [file.open_with_words(&words).unwrap(), file.open_with_passphrase(PASS).unwrap()] {
        assert_eq!(keys.public(), test_keys().public());
        assert_eq!(keys.rsa_pkcs8(), test_pkcs8());
    }
    assert!(matches!(file.open_with_words(&other), Err(KeyFileError::WrongWords(_))));
    assert!(matches!(file.open_with_passphrase("correct horse"), Err(KeyFileError::WrongPassphrase(_))));
    assert!(matches!(file.open_with_passphrase(""), Err(KeyFileError::WrongPassphrase(_))));
    let bare = OwnerKeyFile::from_bytes(&file.without_passphrase().to_bytes()).unwrap();
    assert!(file.has_passphrase() && !bare.has_passphrase());
    assert!(!bare.to_bytes().windows(10).any(|w| w == b"passphrase"));
    assert!(matches!(bare.open_with_passphrase(PASS), Err(KeyFileError::NoPassphrase)));
    bare.open_with_words(&words).unwrap();
}

#[test]
fn the_bytes_are_as_the_format_says() {
    let words = Words::generate();
    let file = sealed(&words);
    assert_eq!(file.to_bytes(), OwnerKeyFile::from_bytes(&file.to_bytes()).unwrap().to_bytes());
    let text = String::from_utf8(file.to_bytes()).unwrap();
    let order = ["\"format\":1", "\"fingerprint\"", "\"rsa_public\"", "\"sign_public\"", "\"words\"", "\"passphrase\""];
    let at: Vec<usize> = order.iter().map(|k| text.find(k).unwrap()).collect();
    assert!(at.is_sorted());
    // A stranger's reading: keys derived and opened from the page alone.
    let v = as_value(&file);
    let b64 = |v: &Value| -> Vec<u8> {
        let text = v.to_string();
        serde_json::from_str::<Bytes>(&text).unwrap().0.to_vec()
    };
    let fingerprint = crate::crypto::sha256(&[&b64(&v["rsa_public"])]);
    assert_eq!(v["fingerprint"], fingerprint.to_string());
    let w = &v["words"];
    let key = hkdf32(words.text().as_bytes(), &b64(&w["salt"]), &[b"zoneward/1 owner words"]);
    let aad = [&fingerprint.0[..], b"words"].concat();
    let plain = GcmKey::new(&key).open(b64(&w["nonce"]).try_into().unwrap(), &aad, &b64(&w["sealed"])).unwrap();
    let bundle: Value = serde_json::from_slice(&plain).unwrap();
    assert_eq!(b64(&bundle["rsa_pkcs8"]), test_pkcs8());
    assert_eq!(b64(&bundle["sign_seed"]), [9; 32]);
    assert_eq!(bundle["previous"], json!([]));
    let p = &v["passphrase"];
    assert_eq!((&p["kdf"], &p["m_kib"], &p["t"], &p["p"]), (&json!("argon2id"), &json!(16384), &json!(1), &json!(1)));
    assert_eq!((b64(&p["salt"]).len(), b64(&p["nonce"]).len()), (16, 12));
}

#[test]
fn each_sealing_uses_fresh_salts_and_nonces() {
    let words = Words::generate();
    let (a, b) = (as_value(&sealed(&words)), as_value(&sealed(&words)));
    for (part, field) in
        [("words", "salt"), ("words", "nonce"), ("words", "sealed"), ("passphrase", "salt"), ("passphrase", "nonce")]
    {
        assert_ne!(a[part][field], b[part][field], "{part}.{field}");
    }
}

#[test]
fn hostile_costs_are_refused_before_any_work() {
    let good = as_value(&sealed(&Words::generate()));
    for (field, values) in [
        ("m_kib", &[0, 1, 16_383, 1_048_577, 1 << 30, u64::from(u32::MAX)][..]),
        ("t", &[0, 17, u64::from(u32::MAX)][..]),
        ("p", &[0, 9, u64::from(u32::MAX)][..]),
    ] {
        for value in values {
            let mut v = good.clone();
            v["passphrase"][field] = json!(value);
            let e = read(&v).unwrap_err();
            assert!(matches!(e, KeyFileError::Cost { what, .. } if what == field), "{field} {value}: {e}");
        }
    }
    let e = KdfCost { m_kib: 8, ..KdfCost::FLOOR }.derive("x", &[0; 16]).unwrap_err();
    assert!(matches!(e, KeyFileError::Cost { .. }));
}

#[test]
fn argon2id_equals_the_reference_implementation() {
    let key = KdfCost { m_kib: 16_384, t: 2, p: 2 }.derive("zoneward", b"0123456789abcdef").unwrap();
    let reference = "ceab7fd02ead2dd45f9d42771fe6d7cfc683bcc1ae80125d56fc7dffd17826ac";
    assert_eq!(crate::ids::hex(&key.0), reference);
}

#[test]
fn damaged_files_are_refused_with_their_kind() {
    let good = as_value(&sealed(&Words::generate()));
    read(&good).unwrap();
    let json_error = |path: &[&str], value: Value| {
        let mut v = good.clone();
        *path.iter().fold(&mut v, |v, k| &mut v[*k]) = value;
        let e = read(&v).unwrap_err();
        assert!(matches!(e, KeyFileError::Json { .. }), "{path:?}: {e}");
    };
    json_error(&["more"], json!(1));
    json_error(&["words", "more"], json!(1));
    json_error(&["passphrase", "more"], json!(1));
    json_error(&["words"], Value::Null);
    json_error(&["words", "salt"], json!("AAAA"));
    json_error(&["words", "nonce"], json!("AAAAAAAAAAAAAAA"));
    json_error(&["words", "sealed"], json!("%%%%"));
    json_error(&["words", "sealed"], json!(7));
    json_error(&["passphrase", "kdf"], json!("scrypt"));
    json_error(&["passphrase", "m_kib"], json!(-1));
    json_error(&["passphrase", "salt"], good["words"]["salt"].clone());
    json_error(&["sign_public"], json!("AAAA"));
    json_error(&["fingerprint"], json!("00"));
    let mut v = good.clone();
    v["fingerprint"] = json!("00".repeat(32));
    assert!(matches!(read(&v), Err(KeyFileError::Fingerprint)));
    v["rsa_public"] = json!("AAAA");
    assert!(matches!(read(&v), Err(KeyFileError::Key(OwnerKeyError::Public))));
    assert!(matches!(read(&json!({"format": 2, "x": 1})), Err(KeyFileError::Version(2))));
    let long = vec![b' '; FILE_LEN_MAX + 1];
    assert!(matches!(OwnerKeyFile::from_bytes(&long), Err(KeyFileError::TooLong { .. })));
    let bytes = good.to_string().into_bytes();
    for len in (0..bytes.len()).step_by(97) {
        assert!(matches!(OwnerKeyFile::from_bytes(&bytes[..len]), Err(KeyFileError::Json { .. })));
    }
    let twice = String::from_utf8(bytes).unwrap().replace("{\"fingerprint\"", "{\"format\":1,\"fingerprint\"");
    assert!(OwnerKeyFile::from_bytes(twice.as_bytes()).is_err());
}

#[test]
fn a_strangers_text_does_not_reach_the_message() {
    let e = OwnerKeyFile::from_bytes(b"{\"format\":1,\"\\u001b[2Jevil\":1}").unwrap_err();
    assert!(!e.to_string().contains("evil"));
}

#[test]
fn changed_seals_do_not_open() {
    let words = Words::generate();
    let mut file = sealed(&words);
    file.file.words.sealed.0[5] ^= 1;
    assert!(matches!(file.open_with_words(&words), Err(KeyFileError::WrongWords(_))));
    file.file.words.sealed.0.truncate(3);
    assert!(matches!(file.open_with_words(&words), Err(KeyFileError::WrongWords(_))));
    // One seal does not stand in for the other, even under the same key.
    let mut file = sealed(&words);
    let key = GcmKey::new(&words_key(&words, &file.file.words.salt.0));
    for (kind, opens) in [("words", true), ("passphrase", false)] {
        let sealed = key.seal_vec([7; 12], &aad(&file.public, kind), &encode_bundle(&test_keys()));
        file.file.words.nonce = Array::new([7; 12]);
        file.file.words.sealed = Bytes::new(&sealed);
        assert_eq!(file.open_with_words(&words).is_ok(), opens);
    }
}

#[test]
fn a_bundle_with_other_keys_than_shown_is_refused() {
    let words = Words::generate();
    let mut file = sealed(&words);
    let other_sign = OwnerKeys::from_parts(test_pkcs8(), Secret32([8; 32]), &[]).unwrap();
    file.file.words = seal_words(&encode_bundle(&other_sign), &file.public, &words);
    assert!(matches!(file.open_with_words(&words), Err(KeyFileError::Substituted)));
    let mut other_rsa = test_keys();
    other_rsa.rotate(RsaSize::Rsa3072).unwrap();
    file.file.words = seal_words(&encode_bundle(&other_rsa), &file.public, &words);
    assert!(matches!(file.open_with_words(&words), Err(KeyFileError::Substituted)));
    for nonsense in ["", "{}", "[]", r#"{"rsa_pkcs8":"AAAA","sign_seed":"AAAA","previous":[]}"#] {
        file.file.words = seal_words(nonsense.as_bytes(), &file.public, &words);
        assert!(matches!(file.open_with_words(&words), Err(KeyFileError::Bundle)), "{nonsense}");
    }
    // A retired key under another's name.
    let text = String::from_utf8(encode_bundle(&other_rsa).to_vec()).unwrap();
    let named = other_rsa.previous().next().unwrap().to_string();
    let file2 = OwnerKeyFile::seal_with_cost(&other_rsa, &words, None, KdfCost::FLOOR).unwrap();
    let mut lied = file2.clone();
    lied.file.words = seal_words(text.replace(&named, &"0".repeat(64)).as_bytes(), &file2.public, &words);
    assert!(matches!(lied.open_with_words(&words), Err(KeyFileError::Bundle)));
}

#[test]
fn the_passphrase_changes_without_the_words() {
    let words = Words::generate();
    let mut file = sealed(&words).without_passphrase();
    let keys = file.open_with_words(&words).unwrap();
    assert!(matches!(file.set_passphrase_with_cost(&keys, "", KdfCost::FLOOR), Err(KeyFileError::EmptyPassphrase)));
    file.set_passphrase_with_cost(&keys, "one", KdfCost::FLOOR).unwrap();
    let keys = file.open_with_passphrase("one").unwrap();
    file.set_passphrase_with_cost(&keys, "two", KdfCost::FLOOR).unwrap();
    assert!(matches!(file.open_with_passphrase("one"), Err(KeyFileError::WrongPassphrase(_))));
    file.open_with_passphrase("two").unwrap();
    file.open_with_words(&words).unwrap();
    let mut rotated = keys;
    rotated.rotate(RsaSize::Rsa3072).unwrap();
    let e = file.set_passphrase_with_cost(&rotated, "three", KdfCost::FLOOR).unwrap_err();
    assert!(matches!(e, KeyFileError::OtherKeys { .. }));
    file.open_with_passphrase("two").unwrap();
}

#[test]
fn rotated_keys_are_sealed_again_under_the_same_words() {
    let (words, other) = (Words::generate(), Words::generate());
    let file = sealed(&words);
    let mut keys = file.open_with_words(&words).unwrap();
    let old = keys.public().fingerprint();
    keys.rotate(RsaSize::Rsa3072).unwrap();
    assert!(matches!(file.reseal(&keys, &other, None), Err(KeyFileError::WrongWords(_))));
    let stranger = OwnerKeys::from_parts(test_pkcs8(), Secret32([8; 32]), &[]).unwrap();
    assert!(matches!(file.reseal(&stranger, &words, None), Err(KeyFileError::OtherKeys { .. })));
    let new = file.reseal(&keys, &words, None).unwrap();
    let opened = OwnerKeyFile::from_bytes(&new.to_bytes()).unwrap().open_with_words(&words).unwrap();
    assert_eq!(opened.public(), keys.public());
    assert_eq!(opened.previous().collect::<Vec<_>>(), [old]);
}

#[test]
fn the_default_cost_is_what_the_format_shows() {
    let words = Words::generate();
    let file = OwnerKeyFile::seal(&test_keys(), &words, Some(PASS)).unwrap();
    assert_eq!(file.file.passphrase.as_ref().map(PassphraseSeal::cost), Some(KdfCost::DEFAULT));
    file.open_with_passphrase(PASS).unwrap();
}

#[test]
fn the_largest_file_fits_its_limit() {
    let der = || Bytes::new(&[0xff; PKCS8_LEN_MAX]);
    let retired = |_| Retired { fingerprint: Digest([0xff; 32]), rsa_pkcs8: der() };
    let bundle =
        Bundle { rsa_pkcs8: der(), sign_seed: Array::new([0; 32]), previous: (0..PREVIOUS_MAX).map(retired).collect() };
    let plain = serde_json::to_vec(&bundle).unwrap();
    let mut file = sealed(&Words::generate());
    file.file.rsa_public = Bytes::new(&[0; SPKI_LEN_MAX]);
    file.file.words = seal_words(&plain, &file.public, &Words::generate());
    file.file.passphrase = Some(seal_passphrase(&plain, &file.public, "x", KdfCost::FLOOR).unwrap());
    assert!(file.to_bytes().len() + 16 < FILE_LEN_MAX, "{}", file.to_bytes().len());
}

#[test]
fn debug_shows_only_the_name() {
    let words = Words::generate();
    let shown = format!("{:?}", sealed(&words));
    assert_eq!(shown, format!("OwnerKeyFile({}, passphrase: true)", test_keys().public().fingerprint()));
}
