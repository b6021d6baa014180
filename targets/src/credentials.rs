//! What opens a target: names and secrets, as its owner gave them.
//!
//! They come from a file that only its owner can read, and are kept in the zone's state sealed under the zone's secret.
//! They are wiped when dropped and never shown: `Debug` gives names alone, and no error repeats a value.
//!
//! Names by kind of target: `s3://` takes `access_key_id`, `secret_access_key` and perhaps `session_token`; `webdav://`
//! takes `user` and `password`; `sftp://` takes `user`, `host_key`, and `private_key` or `password`; `zoneward://` takes `token` and perhaps `pin`. Any target reached
//! over TLS takes `ca`: certificates (PEM) to trust besides the public ones, or instead of them for a server of one's own.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::limits::CREDENTIALS_LEN_MAX;

/// Names and secrets for one target.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<String, Zeroizing<String>>);

/// Why credentials are refused. No message repeats what could be a secret.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("the credentials are longer than {CREDENTIALS_LEN_MAX} bytes")]
    TooLong,
    #[error("the credentials are not a JSON object of names and texts, as {{\"user\":\"ann\",\"password\":\"…\"}}")]
    NotJson,
    #[error("others can read {}: chmod 600 it, then try again", .0.display())]
    Exposed(PathBuf),
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    #[error("{} cannot be read: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.names().collect::<Vec<_>>().join(", "))
    }
}

impl Credentials {
    /// From names and values.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.to_owned(), Zeroizing::new(v.to_owned()))).collect())
    }

    /// Reads their JSON form: an object whose values are texts.
    pub fn from_json(bytes: &[u8]) -> Result<Self, CredentialsError> {
        if bytes.len() > CREDENTIALS_LEN_MAX {
            return Err(CredentialsError::TooLong);
        }
        // What serde says could quote a secret, so its words are not passed on.
        let texts: BTreeMap<String, String> = serde_json::from_slice(bytes).map_err(|_| CredentialsError::NotJson)?;
        Ok(Self(texts.into_iter().map(|(k, v)| (k, Zeroizing::new(v))).collect()))
    }

    /// Their JSON form.
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let texts: BTreeMap<&str, &str> = self.0.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        // Room for all of it at once: a vector that grows leaves copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(2 * CREDENTIALS_LEN_MAX));
        // Texts always become JSON; a vector takes every byte.
        let _ = serde_json::to_writer(&mut *out, &texts);
        out
    }

    /// Reads them from a file that only its owner can read.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let io = |source| CredentialsError::Io { path: path.to_owned(), source };
        // A pipe would block for ever.
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits();
        let flags = i32::try_from(nonblock).unwrap_or(0);
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(CredentialsError::NotAFile(path.to_owned()));
        }
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(CredentialsError::Exposed(path.to_owned()));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(CREDENTIALS_LEN_MAX + 1));
        file.take(CREDENTIALS_LEN_MAX as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
        Self::from_json(&bytes)
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|v| v.as_str())
    }

    /// Those of these names.
    pub fn only(&self, names: &[&str]) -> Self {
        Self(self.0.iter().filter(|(k, _)| names.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    /// These, and of the others those whose names are not among them.
    pub fn or(mut self, others: &Self) -> Self {
        for (k, v) in &others.0 {
            self.0.entry(k.clone()).or_insert_with(|| v.clone());
        }
        self
    }

    /// The names that have a value.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_are_never_shown() {
        let c = Credentials::of([("user", "ann"), ("password", "hunter2 \"\n")]);
        assert_eq!(Credentials::from_json(&c.to_json()).unwrap(), c);
        assert_eq!(c.get("password"), Some("hunter2 \"\n"));
        assert_eq!(c.get("token"), None);
        assert_eq!(format!("{c:?}"), "Credentials(password, user)");
    }

    #[test]
    fn what_is_no_object_of_texts_is_refused_without_its_words() {
        for bad in ["", "hunter2", "[]", r#"{"password":{"x":"hunter2"}}"#, r#"{"password":2}"#, r#"{"a":"hunter2""#] {
            let e = Credentials::from_json(bad.as_bytes()).unwrap_err();
            assert!(matches!(e, CredentialsError::NotJson), "{bad}");
            assert!(!format!("{e} {e:?}").contains("hunter2"), "{bad}");
        }
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(CREDENTIALS_LEN_MAX));
        assert!(matches!(Credentials::from_json(long.as_bytes()), Err(CredentialsError::TooLong)));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("c");
        std::fs::write(&path, r#"{"user":"ann"}"#).unwrap();
        for (mode, fits) in [(0o644, false), (0o640, false), (0o604, false), (0o600, true), (0o400, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = Credentials::read(&path);
            assert_eq!(read.is_ok(), fits, "{mode:o}");
            assert!(fits || matches!(read, Err(CredentialsError::Exposed(_))));
        }
        assert!(matches!(Credentials::read(dir.path()), Err(CredentialsError::NotAFile(_))));
        assert!(matches!(Credentials::read(&dir.path().join("no")), Err(CredentialsError::Io { .. })));
    }
}
