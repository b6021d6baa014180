//! Invites: what an owner hands to a new device so that it finds the zone, knows it for the right one, and proves that
//! it was meant. A text `zw1-…` that fits a QR code; `docs/transport.md` has its bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zeroize::Zeroizing;
use zoneward_sectors::base32::{self, Base32Error};
use zoneward_sectors::crypto::{fill_random, sha256};
use zoneward_sectors::ids::{Digest, ZoneId};

use crate::limits::{INVITE_ADDRESSES_MAX, INVITE_TEXT_MAX};

const PREFIX: &str = "zw1-";
const SECRET_LEN: usize = 16;
const CHECK_LEN: usize = 4;
const V4: u8 = 4;
const V6: u8 = 6;

/// As what the new node joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// A node with data and a vote.
    Full = 1,
    /// A vote, no data.
    Witness = 2,
}

/// What names an invite without giving it away: the zone consumes it once.
pub type TokenHash = Digest;

/// An invite. Whoever reads it may join once: it is as secret as a password until it is used or expires.
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    /// The zone.
    pub zone: ZoneId,
    /// [`zone_fingerprint`] of the owner's signing key: how the joiner knows the zone.
    pub fingerprint: Digest,
    /// Where members listen; 1 to [`INVITE_ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
    /// When it ends, seconds since 1970, by the clock of the member that is asked.
    pub expires_unix: u64,
    /// As what the new node joins.
    pub role: Role,
    pub(crate) secret: Zeroizing<[u8; SECRET_LEN]>,
}

impl std::fmt::Debug for Invite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invite(zone {}, expires {}, {:?})", self.zone, self.expires_unix, self.role)
    }
}

/// Why a text is not an invite.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    #[error("an invite begins with {PREFIX}")]
    Prefix,
    #[error("an invite has at most {INVITE_TEXT_MAX} characters, not {0}")]
    TooLong(usize),
    #[error("character {at} of the invite is none of a–z and 2–7: copy it again")]
    Character { at: usize },
    #[error("the invite was copied wrongly or not to its end: copy it again")]
    Checksum,
    #[error("the invite is of a kind this program does not know: use a newer zoneward")]
    Unknown,
    #[error("the invite is damaged: {0}; ask for a new one")]
    Damaged(&'static str),
    #[error("an invite names 1 to {INVITE_ADDRESSES_MAX} addresses, not {0}")]
    Addresses(usize),
}

/// The fingerprint of a zone: SHA-256 of its owner's Ed25519 signing key.
pub fn zone_fingerprint(owner_sign_public: &[u8; 32]) -> Digest {
    sha256(&[owner_sign_public])
}

impl Invite {
    /// A fresh invite with a random secret.
    pub fn new(
        zone: ZoneId,
        fingerprint: Digest,
        addresses: Vec<SocketAddr>,
        expires_unix: u64,
        role: Role,
    ) -> Result<Self, InviteError> {
        if addresses.is_empty() || addresses.len() > INVITE_ADDRESSES_MAX {
            return Err(InviteError::Addresses(addresses.len()));
        }
        let mut secret = Zeroizing::new([0u8; SECRET_LEN]);
        fill_random(&mut *secret);
        Ok(Self { zone, fingerprint, addresses, expires_unix, role, secret })
    }

    /// What the zone remembers of it.
    pub fn token_hash(&self) -> TokenHash {
        sha256(&[b"zoneward/1 invite", &self.zone.0, &*self.secret])
    }

    /// The text to hand over. It holds the secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut b = Zeroizing::new(Vec::with_capacity(256));
        b.extend_from_slice(&[1, self.role as u8, self.addresses.len() as u8]); // At most INVITE_ADDRESSES_MAX.
        b.extend_from_slice(&self.zone.0);
        b.extend_from_slice(&self.fingerprint.0);
        b.extend_from_slice(&*self.secret);
        b.extend_from_slice(&self.expires_unix.to_le_bytes());
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    b.push(V4);
                    b.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    b.push(V6);
                    b.extend_from_slice(&ip.octets());
                }
            }
            b.extend_from_slice(&address.port().to_le_bytes());
        }
        let check = checksum(&b);
        b.extend_from_slice(&check);
        let mut text = Zeroizing::new(String::with_capacity(INVITE_TEXT_MAX));
        text.push_str(PREFIX);
        base32::encode(&b, &mut text);
        text
    }

    /// Reads the text; capitals and blanks around it do not matter, everything else does.
    pub fn parse(text: &str) -> Result<Self, InviteError> {
        if text.len() > INVITE_TEXT_MAX {
            return Err(InviteError::TooLong(text.len()));
        }
        let text = text.trim();
        let prefix = text.get(..PREFIX.len()).ok_or(InviteError::Prefix)?;
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Err(InviteError::Prefix);
        }
        let bytes = base32::decode(&text[PREFIX.len()..]).map_err(|e| match e {
            Base32Error::Character { at } => InviteError::Character { at: at + PREFIX.len() },
            Base32Error::Rest => InviteError::Checksum,
        })?;
        let (body, check) =
            bytes.split_at_checked(bytes.len().saturating_sub(CHECK_LEN)).ok_or(InviteError::Checksum)?;
        if *check != checksum(body) {
            return Err(InviteError::Checksum);
        }
        Self::decode(&mut Bytes(body))
    }

    fn decode(b: &mut Bytes<'_>) -> Result<Self, InviteError> {
        if b.u8()? != 1 {
            return Err(InviteError::Unknown);
        }
        let role = match b.u8()? {
            1 => Role::Full,
            2 => Role::Witness,
            _ => return Err(InviteError::Unknown),
        };
        let count = usize::from(b.u8()?);
        if count == 0 || count > INVITE_ADDRESSES_MAX {
            return Err(InviteError::Addresses(count));
        }
        let zone = ZoneId(b.take()?);
        let fingerprint = Digest(b.take()?);
        let secret = Zeroizing::new(b.take()?);
        let expires_unix = u64::from_le_bytes(b.take()?);
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let ip = match b.u8()? {
                V4 => IpAddr::from(Ipv4Addr::from(b.take::<4>()?)),
                V6 => IpAddr::from(Ipv6Addr::from(b.take::<16>()?)),
                _ => return Err(InviteError::Damaged("an address is of no known kind")),
            };
            addresses.push(SocketAddr::new(ip, u16::from_le_bytes(b.take()?)));
        }
        if !b.0.is_empty() {
            return Err(InviteError::Damaged("bytes follow the last one"));
        }
        Ok(Self { zone, fingerprint, addresses, expires_unix, role, secret })
    }
}

fn checksum(body: &[u8]) -> [u8; CHECK_LEN] {
    let d = sha256(&[b"zoneward/1 invite text", body]).0;
    [d[0], d[1], d[2], d[3]]
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], InviteError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(InviteError::Damaged("it is too short"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, InviteError> {
        self.take::<1>().map(|[b]| b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn invite() -> Invite {
        let addresses = vec!["192.168.7.2:7443".parse().unwrap(), "[fd00::7]:7443".parse().unwrap()];
        Invite::new(ZoneId([1; 16]), Digest([2; 32]), addresses, 1_800_000_000, Role::Witness).unwrap()
    }

    #[test]
    fn an_invite_survives_its_text_capitals_and_blanks() {
        let invite = invite();
        let text = invite.to_text();
        assert!(text.starts_with("zw1-") && text.len() < 180, "{}", text.len());
        assert!(Invite::parse(&text).unwrap() == invite);
        assert!(Invite::parse(&format!(" {}\n", text.to_uppercase())).unwrap() == invite);
    }

    #[test]
    fn the_largest_invite_fits_the_limit() {
        let addresses = vec!["[fd00::7]:7443".parse().unwrap(); INVITE_ADDRESSES_MAX];
        let invite = Invite::new(ZoneId([1; 16]), Digest([2; 32]), addresses, u64::MAX, Role::Full).unwrap();
        assert!(invite.to_text().len() <= INVITE_TEXT_MAX / 2);
    }

    #[test]
    fn every_wrong_letter_and_every_cut_is_refused() {
        let text = invite().to_text();
        for at in 0..text.len() {
            let mut bent = text.as_bytes().to_vec();
            bent[at] = if bent[at] == b'b' { b'c' } else { b'b' };
            let e = Invite::parse(std::str::from_utf8(&bent).unwrap()).unwrap_err();
            let want = if at < 4 { InviteError::Prefix } else { InviteError::Checksum };
            assert_eq!(e, want, "letter {at}");
            assert!(Invite::parse(&text[..at]).is_err());
        }
        assert_eq!(Invite::parse(&format!("{}1", *text)), Err(InviteError::Character { at: text.len() }));
        assert_eq!(Invite::parse(&"a".repeat(513)), Err(InviteError::TooLong(513)));
    }

    #[test]
    fn what_checks_but_means_nothing_is_refused() {
        let text = |b: &[u8]| {
            let mut t = PREFIX.to_owned();
            base32::encode(&[b, &checksum(b)].concat(), &mut t);
            t
        };
        assert_eq!(Invite::parse(&text(&[2])), Err(InviteError::Unknown));
        assert_eq!(Invite::parse(&text(&[1, 9])), Err(InviteError::Unknown));
        assert_eq!(Invite::parse(&text(&[1, 1, 0])), Err(InviteError::Addresses(0)));
        assert_eq!(Invite::parse(&text(&[1, 1, 99])), Err(InviteError::Addresses(99)));
        assert!(matches!(Invite::parse(&text(&[1, 1, 1, 5])), Err(InviteError::Damaged(_))));
        let mut long = vec![1, 1, 1];
        long.extend([0; 72]);
        long.extend([4, 1, 2, 3, 4, 5, 6, 7]);
        assert!(matches!(Invite::parse(&text(&long)), Err(InviteError::Damaged(_))));
        long.pop();
        assert!(Invite::parse(&text(&long)).is_ok());
    }

    #[test]
    fn the_secret_is_not_printed() {
        let i = invite();
        let shown = format!("{i:?}");
        assert!(!shown.contains(&zoneward_sectors::ids::hex(&*i.secret)) && shown.len() < 120);
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in "(zw1-)?[a-z2-7A-Z ä]{0,600}") { let _ = Invite::parse(&text); }
    }
}
