//! Ids shared by every crate: 16 random bytes, written as 32 lower-case hex digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an id: {text:?} (32 hex digits are expected)")]
pub struct IdError {
    /// What was given, cut at 64 characters.
    pub text: String,
}

/// Lower-case hex of any bytes.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(char::from(DIGITS[usize::from(b >> 4)]));
        out.push(char::from(DIGITS[usize::from(b & 15)]));
    }
    out
}

/// Bytes of lower- or upper-case hex; `None` if the text is not hex.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let t = text.as_bytes();
    if !t.len().is_multiple_of(2) {
        return None;
    }
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    t.chunks_exact(2).map(|p| Some(digit(p[0])? << 4 | digit(p[1])?)).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A fresh random id.
            pub fn random() -> Self {
                let mut b = [0u8; 16];
                crate::crypto::fill_random(&mut b);
                Self(b)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                unhex(s)
                    .and_then(|b| <[u8; 16]>::try_from(b).ok())
                    .map(Self)
                    .ok_or_else(|| IdError { text: s.chars().take(64).collect() })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&hex(&self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = std::borrow::Cow::<'de, str>::deserialize(d)?;
                s.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(/** The zone. */ ZoneId);
id!(/** One node of the zone. */ NodeId);
impl From<u64> for NodeId {
    /// An id that ends in this number: for tests, openraft's among them.
    fn from(n: u64) -> Self {
        Self(u128::from(n).to_be_bytes())
    }
}

id!(/** One source: a directory tree with a priority. */ SourceId);
id!(/** One Backup Target. */ TargetId);
id!(/** What stands for the zone on one target, so that targets cannot link zones. */ ZoneAlias);
id!(/** One backup of the zone at one moment. */ CheckpointId);
id!(/** One layer of a source's catalog. */ LayerId);
id!(/** One raw sector, from the moment it is opened. */ SectorId);
id!(/** One backup sector: an encrypted copy of a raw sector on one target. */ CopyId);
id!(/** A token of the REST API. */ TokenId);
id!(/** Somebody whose sources the zone backs up. */ UserId);
id!(/** A restore that a node was asked for. */ RestoreId);

/// A SHA-256 digest, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", hex(&self.0))
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        unhex(s)
            .and_then(|b| <[u8; 32]>::try_from(b).ok())
            .map(Self)
            .ok_or_else(|| IdError { text: s.chars().take(80).collect() })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = std::borrow::Cow::<'de, str>::deserialize(d)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_as_hex_and_refuse_other_text() {
        let id = ZoneId::random();
        assert_eq!(id.to_string().parse::<ZoneId>().unwrap(), id);
        assert_eq!(serde_json::from_str::<ZoneId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        for bad in [
            "",
            "00",
            "zz00000000000000000000000000000000",
            "0000000000000000000000000000000",
            "é0000000000000000000000000000000",
        ] {
            assert!(bad.parse::<ZoneId>().is_err(), "{bad}");
        }
    }
}
