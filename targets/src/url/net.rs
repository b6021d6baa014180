//! URLs of targets that are reached over the network.

use std::fmt;

use super::{UrlError, percent_decode};

/// Bytes of a host with its port.
const HOST_LEN_MAX: usize = 260;

/// A server: its name or address, perhaps a port, and whether TLS is spoken with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    pub tls: bool,
    /// Host, with `:port` where it is not the usual one.
    pub host: String,
}

/// A bucket, or a folder in one: `s3://host[:port]/bucket[/folder][?region=NAME]`. `s3+http://` is without TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct S3Url {
    pub server: Server,
    pub bucket: String,
    /// Folder in the bucket, without slashes around it; empty: the bucket itself.
    pub folder: String,
    /// Region, where the host does not tell it.
    pub region: Option<String>,
}

/// A folder of a WebDAV server: `webdav://host[:port]/folder`. `webdav+http://` is without TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WebDavUrl {
    pub server: Server,
    /// Folder, without slashes around it.
    pub folder: String,
}

/// A directory that an SSH server shows: `sftp://host[:port]/directory`; `/~/x` is below the user's home.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SftpUrl {
    pub host: String,
    pub port: u16,
    /// Directory: absolute, or relative to the user's home.
    pub path: String,
}

/// The scheme's part after `//`: authority, path, query.
struct Parts<'a> {
    host: &'a str,
    path: String,
    query: Option<&'a str>,
}

fn split(rest: &str) -> Result<Parts<'_>, UrlError> {
    let rest = rest.strip_prefix("//").ok_or(UrlError::NoHost)?;
    if rest.contains('#') {
        return Err(UrlError::Fragment);
    }
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(r, q)| (r, Some(q)));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || host.len() > HOST_LEN_MAX {
        return Err(UrlError::NoHost);
    }
    let (name, port) = host_port(host);
    // A name, an address, or an IPv6 address in brackets.
    let inner = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let fits = match inner {
        Some(six) => six.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    if !fits || port.is_some_and(|p| p.starts_with('+') || p.parse::<u16>().unwrap_or(0) == 0) {
        return Err(UrlError::BadHost);
    }
    let decoded = percent_decode(path.as_bytes())?;
    let path = String::from_utf8(decoded).map_err(|_| UrlError::BadByte)?;
    if path.chars().any(char::is_control) {
        return Err(UrlError::BadByte);
    }
    Ok(Parts { host, path, query })
}

/// The host, and the port if there is one.
fn host_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// A path without doubled slashes; one that climbs is refused.
fn clean(path: &str) -> Result<String, UrlError> {
    let names: Vec<&str> = path.split('/').filter(|n| !n.is_empty() && *n != ".").collect();
    if names.contains(&"..") {
        return Err(UrlError::Climbs);
    }
    Ok(names.join("/"))
}

fn server(tls: bool, host: &str) -> Server {
    Server { tls, host: host.to_ascii_lowercase() }
}

impl Server {
    /// Its base URL, without a slash at the end.
    pub fn base(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.host)
    }
}

impl S3Url {
    pub(super) fn parse(tls: bool, rest: &str) -> Result<Self, UrlError> {
        let parts = split(rest)?;
        // A bucket's name alone, as other programs write it, would be taken for a server.
        let (name, port) = host_port(parts.host);
        if port.is_none() && !name.contains(['.', '[']) && name != "localhost" {
            return Err(UrlError::S3NeedsServer);
        }
        let path = clean(&parts.path)?;
        let (bucket, folder) = path.split_once('/').unwrap_or((&path, ""));
        let fits = bucket.len() >= 3
            && bucket.len() <= 63
            && bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if !fits {
            return Err(UrlError::NoBucket);
        }
        let mut region = None;
        for pair in parts.query.into_iter().flat_map(|q| q.split('&')).filter(|p| !p.is_empty()) {
            match pair.split_once('=') {
                Some(("region", name))
                    if (1..=64).contains(&name.len())
                        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) =>
                {
                    region = Some(name.to_owned());
                }
                _ => return Err(UrlError::UnknownQuery),
            }
        }
        Ok(Self { server: server(tls, parts.host), bucket: bucket.to_owned(), folder: folder.to_owned(), region })
    }

    /// The region to sign for: the one given, the one that the host's name tells, or the usual one.
    pub fn region(&self) -> &str {
        let told = || {
            let host = self.server.host.strip_suffix(".amazonaws.com")?;
            host.rsplit('.').next().filter(|r| r.contains('-'))
        };
        self.region.as_deref().or_else(told).unwrap_or("us-east-1")
    }
}

impl WebDavUrl {
    pub(super) fn parse(tls: bool, rest: &str) -> Result<Self, UrlError> {
        let parts = split(rest)?;
        if parts.query.is_some() {
            return Err(UrlError::UnknownQuery);
        }
        Ok(Self { server: server(tls, parts.host), folder: clean(&parts.path)? })
    }
}

impl SftpUrl {
    pub(super) fn parse(rest: &str) -> Result<Self, UrlError> {
        let parts = split(rest)?;
        if parts.query.is_some() {
            return Err(UrlError::UnknownQuery);
        }
        let (host, port) = host_port(parts.host);
        let port = port.and_then(|p| p.parse().ok()).unwrap_or(22);
        let path = clean(&parts.path)?;
        let path = match path.split_once('/') {
            _ if path == "~" => String::new(),
            Some(("~", below)) => below.to_owned(),
            _ => format!("/{path}"),
        };
        if path == "/" || path.is_empty() {
            return Err(UrlError::NoFolder);
        }
        Ok(Self { host: host.to_ascii_lowercase(), port, path })
    }
}

fn write_path(f: &mut fmt::Formatter<'_>, path: &str) -> fmt::Result {
    path.bytes().try_for_each(|b| super::write_byte(f, b))
}

impl fmt::Display for S3Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.server.tls { "s3" } else { "s3+http" };
        write!(f, "{scheme}://{}/{}", self.server.host, self.bucket)?;
        if !self.folder.is_empty() {
            f.write_str("/")?;
            write_path(f, &self.folder)?;
        }
        self.region.as_ref().map_or(Ok(()), |r| write!(f, "?region={r}"))
    }
}

impl fmt::Display for WebDavUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.server.tls { "webdav" } else { "webdav+http" };
        write!(f, "{scheme}://{}/", self.server.host)?;
        write_path(f, &self.folder)
    }
}

impl fmt::Display for SftpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sftp://{}", self.host)?;
        if self.port != 22 {
            write!(f, ":{}", self.port)?;
        }
        if !self.path.starts_with('/') {
            f.write_str("/~/")?;
        }
        write_path(f, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Url;
    use super::*;

    #[test]
    fn network_urls_in_their_spellings_come_back_as_one() {
        for (text, shown) in [
            ("s3://S3.eu-central-1.amazonaws.com/b-1/z", "s3://s3.eu-central-1.amazonaws.com/b-1/z"),
            ("S3+HTTP://127.0.0.1:9000/bucket//a%20b/", "s3+http://127.0.0.1:9000/bucket/a%20b"),
            ("s3://nas:9000/bucket?region=home", "s3://nas:9000/bucket?region=home"),
            ("s3://[::1]:9000/bucket", "s3://[::1]:9000/bucket"),
            ("webdav://cloud.example/remote.php/dav/", "webdav://cloud.example/remote.php/dav"),
            ("webdavs://cloud.example", "webdav://cloud.example/"),
            ("webdav+http://localhost:8080/x", "webdav+http://localhost:8080/x"),
            ("sftp://host:22/backups/z", "sftp://host/backups/z"),
            ("sftp://host:2222/~/z/y", "sftp://host:2222/~/z/y"),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(shown.parse::<Url>(), Ok(url), "{text}");
        }
    }

    #[test]
    fn regions() {
        for (text, region) in [
            ("s3://s3.eu-central-1.amazonaws.com/bucket", "eu-central-1"),
            ("s3://s3.amazonaws.com/bucket", "us-east-1"),
            ("s3://garage.home:3900/bucket?region=garage", "garage"),
            ("s3://garage.home:3900/bucket", "us-east-1"),
        ] {
            let Url::S3(url) = text.parse().unwrap() else { panic!("{text}") };
            assert_eq!(url.region(), region, "{text}");
        }
    }

    #[test]
    fn bad_network_urls_are_refused_with_their_reason() {
        use UrlError::*;
        for (text, want) in [
            ("s3:bucket/x", NoHost),
            ("s3:///bucket", NoHost),
            ("s3://bucket/x", S3NeedsServer),
            ("s3://host.example", NoBucket),
            ("s3://host.example/ab", NoBucket),
            ("s3://host.example/b%20b", NoBucket),
            ("s3://host.example/bucket/../x", Climbs),
            ("s3://host.example/bucket?secret=x", UnknownQuery),
            ("s3://host.example/bucket#x", Fragment),
            ("s3://host.example:0x/bucket", BadHost),
            ("s3://host.example:99999/bucket", BadHost),
            ("s3://host.example:/bucket", BadHost),
            ("s3://ho st.example/bucket", BadHost),
            ("s3://[::zz]:1/bucket", BadHost),
            ("webdav://host/x?y", UnknownQuery),
            ("webdav://host/%0a", BadByte),
            ("webdav://host/%FF", BadByte),
            ("sftp://host", NoFolder),
            ("sftp://host/~", NoFolder),
            ("sftp://host/a/../../x", Climbs),
            ("s3://ann:hunter2@host.example/bucket", Credentials),
            ("sftp://ann@host/x", Credentials),
        ] {
            assert_eq!(text.parse::<Url>(), Err(want), "{text}");
        }
    }
}
