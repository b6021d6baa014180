//! The URL of a target server: `zoneward://host:port/#fingerprint`.
//!
//! The fingerprint is the SHA-256 of the server certificate's `SubjectPublicKeyInfo`, 64 hex digits. It is no secret,
//! and with it in the URL, what is printed in a recovery kit is enough to know the right server again.

use std::fmt;
use std::net::Ipv6Addr;

use zoneward_sectors::ids::Digest;

use super::UrlError;

pub(super) const SCHEME: &str = "zoneward";
/// Where a target server listens, if nobody says otherwise.
pub const DEFAULT_PORT: u16 = 7443;
/// Bytes of a DNS name.
const HOST_LEN_MAX: usize = 253;

/// Where a target server is, and who it must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerUrl {
    /// A name, or an address; an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
    /// Fingerprint of the server's key; without, the credentials must hold it.
    pub pin: Option<Digest>,
}

impl ServerUrl {
    /// Parses what follows `zoneward:`.
    pub(super) fn parse(rest: &str) -> Result<Self, UrlError> {
        let bad = UrlError::Server;
        let rest = rest.strip_prefix("//").ok_or(bad("// is missing"))?;
        let (place, pin) = match rest.split_once('#') {
            Some((place, pin)) => (place, Some(pin)),
            None => (rest, None),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        let pin = pin.map(|p| p.parse().map_err(|_| bad("the fingerprint is not 64 hex digits"))).transpose()?;
        let (host, port) = match place.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or(bad("a ] is missing"))?;
                host.parse::<Ipv6Addr>().map_err(|_| bad("between [ and ] is no IPv6 address"))?;
                (host, port.strip_prefix(':').or(port.is_empty().then_some("")).ok_or(bad("the port is no number"))?)
            }
            None => match place.split_once(':') {
                Some((_, "")) => return Err(bad("the port is no number")),
                Some((host, port)) => (host, port),
                None => (place, ""),
            },
        };
        let named = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let v6 = place.starts_with('[');
        if host.is_empty() || host.len() > HOST_LEN_MAX || !(v6 || host.bytes().all(named)) {
            return Err(bad("the host is no name and no address"));
        }
        let port = match port {
            "" => DEFAULT_PORT,
            text if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().ok().filter(|p| *p > 0).ok_or(bad("the port is no number from 1 to 65535"))?
            }
            _ => return Err(bad("the port is no number from 1 to 65535")),
        };
        Ok(Self { host: host.to_ascii_lowercase(), port, pin })
    }

    /// Host and port as a `Host` field has them.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}://{}/", self.authority())?;
        self.pin.map_or(Ok(()), |pin| write!(f, "#{pin}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::Url;

    #[test]
    fn server_urls_in_their_spellings() {
        let pin = Digest([0xab; 32]);
        let url = |host: &str, port, pin| Url::Server(ServerUrl { host: host.into(), port, pin });
        for (text, want) in [
            ("zoneward://nas:9000/", url("nas", 9000, None)),
            ("zoneward://NAS.example", url("nas.example", DEFAULT_PORT, None)),
            ("ZONEWARD://192.0.2.7:1", url("192.0.2.7", 1, None)),
            ("zoneward://[2001:db8::1]/", url("2001:db8::1", DEFAULT_PORT, None)),
            ("zoneward://[2001:db8::1]:80/", url("2001:db8::1", 80, None)),
            (&format!("zoneward://nas:9000/#{pin}"), url("nas", 9000, Some(pin))),
            (&format!("zoneward://nas#{pin}"), url("nas", DEFAULT_PORT, Some(pin))),
        ] {
            let parsed: Url = text.parse().unwrap();
            assert_eq!(parsed, want, "{text}");
            assert_eq!(parsed.to_string().parse::<Url>().unwrap(), want, "{parsed}");
        }
    }

    #[test]
    fn bad_server_urls_are_refused() {
        for text in [
            "zoneward:nas",
            "zoneward://",
            "zoneward:///x",
            "zoneward://nas/folder",
            "zoneward://nas:",
            "zoneward://nas:0",
            "zoneward://nas:65536",
            "zoneward://nas:+1",
            "zoneward://nas?x",
            "zoneward://[::1",
            "zoneward://[nas]",
            "zoneward://[::1]x",
            "zoneward://nas/#ab",
            "zoneward://na s",
        ] {
            assert!(matches!(text.parse::<Url>(), Err(UrlError::Server(_))), "{text}: {:?}", text.parse::<Url>());
        }
        assert_eq!("zoneward://ann:hunter2@nas/".parse::<Url>(), Err(UrlError::Credentials));
    }
}
