//! URLs of targets. Today there is one kind: `file:///a/folder`.
//!
//! URLs are shown, logged and stored in the zone's state, so they never carry a secret: a user and password in one is
//! refused, and the message does not repeat it.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::limits::{PATH_LEN_MAX, URL_LEN_MAX};

/// What this release can open; the end of a message.
const SUPPORTED: &str = "this release supports file:///path/to/folder";

/// Where a target is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Url {
    /// A directory of this machine, by its absolute path.
    File(PathBuf),
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
        if !scheme.eq_ignore_ascii_case("file") {
            return Err(UrlError::UnknownScheme { scheme: scheme.chars().take(32).collect() });
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
        let Url::File(path) = self;
        f.write_str("file://")?;
        for &b in path.as_os_str().as_bytes() {
            if b.is_ascii_alphanumeric() || b"/-._~+,=@:".contains(&b) {
                write!(f, "{}", char::from(b))?;
            } else {
                write!(f, "%{b:02X}")?;
            }
        }
        Ok(())
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
            ("s3://bucket/x", UnknownScheme { scheme: "s3".into() }),
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
        let e = Url::parse_or_path("sftp://host/b?token=hunter2").unwrap_err().to_string();
        assert!(e.contains("sftp:") && e.contains("file:///") && !e.contains("hunter2"), "{e}");
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
            assert_eq!(matches!(got, Err(UrlError::UnknownScheme { .. })), !path, "{text}: {got:?}");
        }
        assert_eq!(Url::parse_or_path(""), Err(UrlError::Empty));
        assert_eq!(Url::parse_or_path("/a\x1b[2J"), Err(UrlError::BadByte));
    }
}
