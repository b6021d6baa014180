//! URLs of targets: `file:///a/folder`, `zoneward://host:port/#fingerprint` for a target server, `s3://host/bucket/folder`,
//! `webdav://host/folder`, `sftp://host/directory`.
//!
//! URLs are shown, logged and stored in the zone's state, so they never carry a secret: a user and password in one is
//! refused, and the message does not repeat it.

mod net;
mod server;

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use self::net::{S3Url, Server, SftpUrl, WebDavUrl};
pub use self::server::ServerUrl;
use crate::limits::{PATH_LEN_MAX, URL_LEN_MAX};

/// What this release can open; the end of a message.
const SUPPORTED: &str = "this release supports file:///path/to/folder, zoneward://host:port/#fingerprint, s3://host/bucket/folder, webdav://host/folder and sftp://host/folder";

/// Where a target is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Url {
    /// A directory of this machine, by its absolute path.
    File(PathBuf),
    /// A bucket of an S3 server.
    S3(S3Url),
    /// A folder of a WebDAV server.
    WebDav(WebDavUrl),
    /// A directory behind an SSH server.
    Sftp(SftpUrl),
    /// A target server.
    Server(ServerUrl),
}

/// Why a text is not the URL of a target. No message repeats what could be a secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    #[error("the URL is empty; {SUPPORTED}")]
    Empty,
    #[error("the URL is longer than {URL_LEN_MAX} bytes")]
    TooLong,
    #[error("the path of the URL is longer than {PATH_LEN_MAX} bytes")]
    PathTooLong,
    #[error("this is not a URL: it has no scheme; {SUPPORTED}")]
    NoScheme,
    #[error("no target can be opened with {scheme}: yet; {SUPPORTED} (for a folder of this name write ./{scheme}:…)")]
    UnknownScheme { scheme: String },
    #[error("a URL must not carry a user or password: it is shown and logged; {SUPPORTED}")]
    Credentials,
    #[error("a file URL names a folder of this machine, without a host: {SUPPORTED}")]
    Host,
    #[error("the path of a file URL must begin with /; {SUPPORTED}")]
    NotAbsolute,
    #[error("a file URL has no query or fragment; write %3F for ? and %23 for # in a name")]
    QueryOrFragment,
    #[error("% in a URL is followed by two hex digits; write %25 for a % in a name")]
    BadPercent,
    #[error("the path holds a zero byte, an encoded slash or a control character")]
    BadByte,
    #[error("the URL names no server; {SUPPORTED}")]
    NoHost,
    #[error("the server in the URL is no name, address or port")]
    BadHost,
    #[error("an s3 URL names the server first: s3://s3.eu-central-1.amazonaws.com/bucket/folder, s3://nas:9000/bucket")]
    S3NeedsServer,
    #[error("the URL names no bucket (3 to 63 letters, digits, dots and dashes): s3://host/bucket/folder")]
    NoBucket,
    #[error("the URL names no folder on the server: sftp://host/folder, or sftp://host/~/folder below the home")]
    NoFolder,
    #[error("the path of the URL climbs with ..")]
    Climbs,
    #[error("this URL takes no such query; an s3 URL may end with ?region=NAME, and nothing secret belongs in a URL")]
    UnknownQuery,
    #[error("this URL takes no fragment; write %23 for a # in a name")]
    Fragment,
    #[error("a target server is named zoneward://host:port/#fingerprint; {0}")]
    Server(&'static str),
    #[error("the current directory is unknown, so a relative path means nothing; {SUPPORTED}")]
    NoCurrentDir,
}

impl Url {
    /// Parses a URL, or takes the text as a path: what a person types. A relative path starts at the current
    /// directory. A text that begins like a URL (`s3:…`) is never taken for a path: a mistyped URL must not become
    /// a folder.
    pub fn parse_or_path(text: &str) -> Result<Url, UrlError> {
        if text.is_empty() {
            return Err(UrlError::Empty);
        }
        if scheme_of(text).is_some() {
            return text.parse();
        }
        if text.chars().any(char::is_control) {
            return Err(UrlError::BadByte);
        }
        Url::from_path(Path::new(text))
    }

    /// The URL of a path; a relative one starts at the current directory.
    pub fn from_path(path: &Path) -> Result<Url, UrlError> {
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(UrlError::BadByte);
        }
        let path = std::path::absolute(path).map_err(|_| UrlError::NoCurrentDir)?;
        checked(path)
    }
}

fn checked(path: PathBuf) -> Result<Url, UrlError> {
    if !path.is_absolute() {
        return Err(UrlError::NotAbsolute);
    }
    if path.as_os_str().len() > PATH_LEN_MAX {
        return Err(UrlError::PathTooLong);
    }
    // `components` drops doubled and trailing slashes and single dots, so that one folder has one spelling.
    Ok(Url::File(path.components().collect()))
}

/// The scheme a text begins with: a letter and at least one more letter, digit, `+`, `-` or `.`, then a colon.
fn scheme_of(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let fits = scheme.len() >= 2
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    fits.then_some((scheme, rest))
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Url, UrlError> {
        if text.is_empty() {
            return Err(UrlError::Empty);
        }
        if text.len() > URL_LEN_MAX {
            return Err(UrlError::TooLong);
        }
        let (scheme, rest) = scheme_of(text).ok_or(UrlError::NoScheme)?;
        let authority_of = |rest: &str| rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned();
        let authority = rest.strip_prefix("//").map(authority_of).unwrap_or_default();
        if authority.contains('@') {
            return Err(UrlError::Credentials);
        }
        match scheme.to_ascii_lowercase().as_str() {
            "file" => {}
            server::SCHEME => return Ok(Url::Server(ServerUrl::parse(rest)?)),
            "s3" => return S3Url::parse(true, rest).map(Url::S3),
            "s3+http" => return S3Url::parse(false, rest).map(Url::S3),
            "webdav" | "webdavs" => return WebDavUrl::parse(true, rest).map(Url::WebDav),
            "webdav+http" => return WebDavUrl::parse(false, rest).map(Url::WebDav),
            "sftp" => return SftpUrl::parse(rest).map(Url::Sftp),
            _ => return Err(UrlError::UnknownScheme { scheme: scheme.chars().take(32).collect() }),
        }
        if !authority.is_empty() && !authority.eq_ignore_ascii_case("localhost") {
            return Err(UrlError::Host);
        }
        let path = match rest.strip_prefix("//") {
            Some(r) => r.get(authority.len()..).unwrap_or_default(),
            None => rest,
        };
        if path.contains(['?', '#']) {
            return Err(UrlError::QueryOrFragment);
        }
        if !path.starts_with('/') {
            return Err(UrlError::NotAbsolute);
        }
        if path.chars().any(char::is_control) {
            return Err(UrlError::BadByte);
        }
        checked(PathBuf::from(OsString::from_vec(percent_decode(path.as_bytes())?)))
    }
}

/// The text that a percent-encoded one stands for; `None` if it is none.
pub(crate) fn decode(text: &str) -> Option<String> {
    String::from_utf8(percent_decode(text.as_bytes()).ok()?).ok()
}

fn percent_decode(text: &[u8]) -> Result<Vec<u8>, UrlError> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).ok_or(UrlError::BadPercent);
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let decoded = (digit(bytes.next())? << 4 | digit(bytes.next())?) as u8;
        // A slash inside a name cannot exist on disk; taking it for a separator would change the path's meaning.
        if decoded == 0 || decoded == b'/' {
            return Err(UrlError::BadByte);
        }
        out.push(decoded);
    }
    Ok(out)
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Url::File(path) => {
                f.write_str("file://")?;
                path.as_os_str().as_bytes().iter().try_for_each(|b| write_byte(f, *b))
            }
            Url::Server(url) => url.fmt(f),
            Url::S3(url) => url.fmt(f),
            Url::WebDav(url) => url.fmt(f),
            Url::Sftp(url) => url.fmt(f),
        }
    }
}

/// One byte of a path, encoded where it must be.
fn write_byte(f: &mut fmt::Formatter<'_>, b: u8) -> fmt::Result {
    if b.is_ascii_alphanumeric() || b"/-._~+,=@:".contains(&b) {
        write!(f, "{}", char::from(b))
    } else {
        write!(f, "%{b:02X}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Result<Url, UrlError> {
        Ok(Url::File(path.into()))
    }

    #[test]
    fn file_urls_in_their_spellings() {
        for (text, path) in [
            ("file:///mnt/backup", "/mnt/backup"),
            ("FILE:///mnt/backup/", "/mnt/backup"),
            ("file://localhost/mnt/a%20b", "/mnt/a b"),
            ("file:///mnt//./x", "/mnt/x"),
            ("file:/mnt/x", "/mnt/x"),
            ("file:///Käse/%C3%A4", "/Käse/ä"),
            ("file:///a@b:c", "/a@b:c"),
            ("file:///", "/"),
        ] {
            assert_eq!(text.parse::<Url>(), file(path), "{text}");
            assert_eq!(Url::parse_or_path(text), file(path), "{text}");
        }
    }

    #[test]
    fn every_name_survives_writing_and_parsing() {
        for b in (1..=255u8).filter(|b| *b != b'/') {
            let url = Url::File(PathBuf::from(OsString::from_vec(vec![b'/', b'x', b, b'y'])));
            let text = url.to_string();
            assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
            assert_eq!(text.parse::<Url>(), Ok(url), "{b}");
        }
    }

    #[test]
    fn bad_urls_are_refused_with_their_reason() {
        use UrlError::*;
        for (text, want) in [
            ("", Empty),
            ("/mnt/x", NoScheme),
            ("file:", NotAbsolute),
            ("file:x", NotAbsolute),
            ("file://", NotAbsolute),
            ("file://localhost", NotAbsolute),
            ("file://nas/x", Host),
            ("file:///a?b", QueryOrFragment),
            ("file:///a#b", QueryOrFragment),
            ("file:///a%", BadPercent),
            ("file:///a%4", BadPercent),
            ("file:///a%zz", BadPercent),
            ("file:///a%+1", BadPercent),
            ("file:///a%00", BadByte),
            ("file:///a%2Fb", BadByte),
            ("file:///a\nb", BadByte),
            ("gopher://bucket/x", UnknownScheme { scheme: "gopher".into() }),
        ] {
            assert_eq!(text.parse::<Url>(), Err(want), "{text}");
        }
        assert_eq!(format!("file:///{}", "x".repeat(URL_LEN_MAX)).parse::<Url>(), Err(TooLong));
        assert_eq!(format!("file:///{}", "x".repeat(PATH_LEN_MAX)).parse::<Url>(), Err(PathTooLong));
    }

    #[test]
    fn messages_name_what_is_supported_and_repeat_no_secret() {
        for text in ["s3://ann:hunter2@host/b", "file://ann:hunter2@host/b", "webdavs://hunter2@host"] {
            let e = Url::parse_or_path(text).unwrap_err();
            assert_eq!(e, UrlError::Credentials);
            assert!(!format!("{e} {e:?}").contains("hunter2"));
        }
        let e = Url::parse_or_path("tape://host/b?token=hunter2").unwrap_err().to_string();
        assert!(e.contains("tape:") && e.contains("file:///") && !e.contains("hunter2"), "{e}");
        let e = Url::parse_or_path("s3://host.example/bucket?token=hunter2").unwrap_err();
        assert!(!format!("{e} {e:?}").contains("hunter2"), "{e}");
    }

    #[test]
    fn paths_are_taken_as_a_convenience_but_never_a_mistyped_url() {
        assert_eq!(Url::parse_or_path("/mnt/a b%20/"), file("/mnt/a b%20"));
        let here = std::env::current_dir().unwrap();
        assert_eq!(Url::parse_or_path("backup/x"), Ok(Url::File(here.join("backup/x"))));
        assert_eq!(Url::parse_or_path("./s3:bucket"), Ok(Url::File(here.join("s3:bucket"))));
        for text in ["s3:bucket/x", "sftp:host:/x", "C:\\x:y/..", "http://x"] {
            let got = Url::parse_or_path(text);
            let path = text.starts_with("C:");
            assert_eq!(matches!(got, Err(UrlError::UnknownScheme { .. } | UrlError::NoHost)), !path, "{text}: {got:?}");
        }
        assert_eq!(Url::parse_or_path(""), Err(UrlError::Empty));
        assert_eq!(Url::parse_or_path("/a\x1b[2J"), Err(UrlError::BadByte));
    }
}
