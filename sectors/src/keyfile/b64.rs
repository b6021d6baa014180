//! Bytes that stand in JSON as strict standard base64. Both kinds are wiped when dropped; errors never quote them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// Any number of bytes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bytes(pub Zeroizing<Vec<u8>>);

/// Exactly `N` bytes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Array<const N: usize>(pub Zeroizing<[u8; N]>);

impl<const N: usize> Array<N> {
    pub fn new(bytes: [u8; N]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub fn random() -> Self {
        let mut out = Self::new([0; N]);
        crate::crypto::fill_random(&mut *out.0);
        out
    }
}

impl Bytes {
    pub fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&Zeroizing::new(STANDARD.encode(&*self.0)))
    }
}

impl<const N: usize> Serialize for Array<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&Zeroizing::new(STANDARD.encode(*self.0)))
    }
}

/// Decodes from the parser's own buffer, so that no copy of the text stays behind.
struct Base64;

impl Visitor<'_> for Base64 {
    type Value = Bytes;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("base64")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
        STANDARD.decode(text).map(|b| Bytes(Zeroizing::new(b))).map_err(|_| E::custom("not base64"))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(Base64)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Array<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes = Bytes::deserialize(d)?;
        let mut out = Self::new([0; N]);
        if bytes.0.len() != N {
            return Err(D::Error::custom(format_args!("not {N} bytes in base64")));
        }
        out.0.copy_from_slice(&bytes.0);
        Ok(out)
    }
}
