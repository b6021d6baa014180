//! A target as a text that one device shows, as a QR code too, and another takes in: `zwt1-…`. `docs/cli.md` has its bytes.
//!
//! It carries the URL and by what the right server is known; what lets somebody in only if that is asked for. A checksum
//! tells a slip of the hand from another target.

use zeroize::Zeroizing;
use zoneward_sectors::base32;
use zoneward_sectors::crypto::sha256;

use crate::credentials::{Credentials, CredentialsError};
use crate::limits::{CODE_TEXT_MAX, CREDENTIALS_LEN_MAX, URL_LEN_MAX};
use crate::url::{Url, UrlError};

const PREFIX: &str = "zwt1-";
/// How the texts of all releases begin: then a number, then a dash.
const FAMILY: &str = "zwt";
const CHECK_LEN: usize = 8;
const DOMAIN: &[u8] = b"zoneward target code 1\0";
/// Credentials that are no secret: by them the right server is known.
const PUBLIC: [&str; 3] = ["ca", "host_key", "pin"];
/// First byte: what the code carries.
const PLAIN: u8 = 0;
const SECRET: u8 = 1;

/// What a code says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetCode {
    pub url: Url,
    /// Without secrets: what the right server is known by.
    pub credentials: Credentials,
    /// It lets its bearer in.
    pub secret: bool,
}

/// Why a text is no code of a target. No message repeats what could be a secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodeError {
    #[error("the code of a target begins with {PREFIX}")]
    Prefix,
    #[error("the code is of a kind that this program does not know: use a newer zoneward")]
    Unknown,
    #[error("the code is longer than {CODE_TEXT_MAX} characters")]
    TooLong,
    #[error("character {at} of the code is none of a–z and 2–7: copy it again")]
    Character { at: usize },
    #[error("the code was copied wrongly or not to its end: copy it again")]
    Checksum,
    #[error("the code is damaged: {0}; have it shown again")]
    Damaged(&'static str),
    #[error("the code names no target: {0}")]
    Url(#[from] UrlError),
}

/// Whether a text means to be a code of a target, of whatever release.
pub fn is_code(text: &str) -> bool {
    let text = text.trim_start();
    let Some((family, rest)) = text.split_at_checked(FAMILY.len()) else { return false };
    let number = rest.split_once('-').map_or("", |(n, _)| n);
    family.eq_ignore_ascii_case(FAMILY) && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

impl TargetCode {
    /// Without what lets somebody in.
    pub fn plain(url: &Url, credentials: Option<&Credentials>) -> Self {
        let known = credentials.map(|c| c.only(&PUBLIC)).unwrap_or_default();
        Self { url: pinned(url, &known), credentials: known, secret: false }
    }

    /// With all of it: whoever has the code can use the target as this zone does.
    pub fn with_credentials(url: &Url, credentials: &Credentials) -> Self {
        Self { url: pinned(url, credentials), credentials: credentials.clone(), secret: true }
    }

    /// The text to hand over.
    pub fn to_text(&self) -> Zeroizing<String> {
        let url = self.url.to_string();
        let mut b = Zeroizing::new(Vec::with_capacity(URL_LEN_MAX + CREDENTIALS_LEN_MAX));
        b.push(if self.secret { SECRET } else { PLAIN });
        // No URL is longer: see the limits.
        b.extend_from_slice(&u16::try_from(url.len()).unwrap_or(u16::MAX).to_le_bytes());
        b.extend_from_slice(url.as_bytes());
        if self.credentials.names().next().is_some() {
            b.extend_from_slice(&self.credentials.to_json());
        }
        let check = checksum(&b);
        b.extend_from_slice(&check);
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + b.len() * 8 / 5 + 1));
        text.push_str(PREFIX);
        base32::encode(&b, &mut text);
        text
    }

    /// Reads the text. Capitals, blanks and ends of lines do not matter, everything else does.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        if text.len() > CODE_TEXT_MAX {
            return Err(CodeError::TooLong);
        }
        let mut plain = Zeroizing::new(String::with_capacity(text.len()));
        plain.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
        let Some((prefix, rest)) = plain.split_at_checked(PREFIX.len()) else { return Err(CodeError::Prefix) };
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Err(if is_code(&plain) { CodeError::Unknown } else { CodeError::Prefix });
        }
        let bytes = base32::decode(rest).map_err(|e| match e {
            base32::Base32Error::Character { at } => CodeError::Character { at: at + PREFIX.len() },
            base32::Base32Error::Rest => CodeError::Checksum,
        })?;
        let at = bytes.len().checked_sub(CHECK_LEN).ok_or(CodeError::Checksum)?;
        let (body, check) = bytes.split_at_checked(at).ok_or(CodeError::Checksum)?;
        if *check != checksum(body) {
            return Err(CodeError::Checksum);
        }
        Self::decode(body)
    }

    fn decode(body: &[u8]) -> Result<Self, CodeError> {
        let short = CodeError::Damaged("it is too short");
        let Some(([kind, low, high], rest)) = body.split_first_chunk::<3>() else { return Err(short) };
        let secret = match *kind {
            PLAIN => false,
            SECRET => true,
            _ => return Err(CodeError::Unknown),
        };
        let len = usize::from(u16::from_le_bytes([*low, *high]));
        let Some((url, credentials)) = rest.split_at_checked(len) else { return Err(short) };
        let text = std::str::from_utf8(url).map_err(|_| CodeError::Damaged("its URL is no text"))?;
        let url: Url = text.parse()?;
        if url.to_string() != text {
            return Err(CodeError::Damaged("its URL is not written as it should be"));
        }
        let credentials = match credentials {
            [] => Credentials::default(),
            json => Credentials::from_json(json).map_err(|e| match e {
                CredentialsError::TooLong => CodeError::TooLong,
                _ => CodeError::Damaged("its credentials are none"),
            })?,
        };
        if !secret && credentials.names().any(|n| !PUBLIC.contains(&n)) {
            return Err(CodeError::Damaged("it carries credentials and says that it does not"));
        }
        Ok(Self { url, credentials, secret })
    }
}

/// A target server's URL with the pin, wherever that was kept.
fn pinned(url: &Url, credentials: &Credentials) -> Url {
    match (url, credentials.get("pin").and_then(|p| p.parse().ok())) {
        (Url::Server(s), Some(pin)) if s.pin.is_none() => {
            Url::Server(crate::url::ServerUrl { pin: Some(pin), ..s.clone() })
        }
        _ => url.clone(),
    }
}

fn checksum(body: &[u8]) -> [u8; CHECK_LEN] {
    let mut out = [0; CHECK_LEN];
    out.iter_mut().zip(sha256(&[DOMAIN, body]).0).for_each(|(o, b)| *o = b);
    out
}

#[cfg(test)]
mod tests;
