//! Tokens: who may use a target server, for what, and how much. Stored as hashes; a token's text is shown once.
//!
//! An *account* is one zone's place on the server: its quota and its zone aliases. It may have several tokens, with
//! different roles, and goes on when one of them is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;
use zoneward_sectors::crypto::{Secret32, fill_random, same_secret, sha256};
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{Digest, ZoneAlias, hex, unhex};

use super::credit::wall_ms;
use crate::limits::{ACCOUNT_NAME_LEN_MAX, TOKEN_FILE_LEN_MAX, TOKENS_MAX, ZONES_PER_ACCOUNT};
use crate::protocol::Role;

const PREFIX: &str = "zts_";
const DAY_MS: u64 = 86_400_000;

/// Why the tokens cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read or write {path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{path} is not a token file of this release: {reason}")]
    Damaged { path: String, reason: String },
    #[error("an account is called by 1 to {ACCOUNT_NAME_LEN_MAX} letters, digits, -, _ or .")]
    BadName,
    #[error("there are {TOKENS_MAX} tokens already: remove some")]
    TooMany,
    #[error("no token begins with {0:?}, or several do")]
    NoSuchToken(String),
}

/// One zone's place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// Most bytes it may keep; none: as much as the disk holds.
    pub quota_bytes: Option<u64>,
    /// Most zone aliases that it may begin.
    pub zones_max: u32,
    /// Aliases that the operator gave it, beside those it began itself.
    #[serde(default)]
    pub zones: BTreeSet<ZoneAlias>,
}

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// 16 hex digits: the part of the token that may be shown.
    pub id: String,
    pub account: String,
    /// SHA-256 of the secret's 32 bytes: random, so that guessing from the hash is hopeless.
    pub hash: Digest,
    pub roles: BTreeSet<Role>,
    pub created_ms: u64,
    #[serde(default)]
    pub expires_ms: Option<u64>,
}

/// What a new token is to be.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    pub account: String,
    /// None: all of them.
    pub roles: BTreeSet<Role>,
    /// None: what the account has.
    pub quota_bytes: Option<u64>,
    pub zones_max: Option<u32>,
    pub zone: Option<ZoneAlias>,
    pub days: Option<u32>,
}

/// All tokens and accounts of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    format: u32,
    pub accounts: BTreeMap<String, Account>,
    pub tokens: Vec<TokenRecord>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub name: String,
    pub account: Account,
    pub roles: BTreeSet<Role>,
    pub expires_ms: Option<u64>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { format: 1, accounts: BTreeMap::new(), tokens: Vec::new() }
    }
}

impl Tokens {
    /// Who bears this token, if it is known and not over.
    pub(crate) fn who(&self, text: &str, now_ms: u64) -> Option<Who> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let secret = Zeroizing::new(unhex(secret).filter(|s| s.len() == 32)?);
        let found = self.tokens.iter().find(|t| t.id == id)?;
        let right = same_secret(&sha256(&[&secret]).0, &found.hash.0);
        if !right || found.expires_ms.is_some_and(|end| end <= now_ms) {
            return None;
        }
        let account = self.accounts.get(&found.account)?.clone();
        Some(Who { name: found.account.clone(), account, roles: found.roles.clone(), expires_ms: found.expires_ms })
    }
}

/// The token file of a data directory.
pub struct TokenFile {
    dir: PathBuf,
    path: PathBuf,
}

impl TokenFile {
    /// The token file of the server that keeps its data in `data`.
    pub fn of(data: &Path) -> Self {
        let dir = data.join(super::OWN);
        Self { path: dir.join("tokens.json"), dir }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it; where there is none, there are no tokens.
    pub fn load(&self) -> Result<Tokens, TokenError> {
        if fsx::size(&self.path).map_err(self.io())?.is_none() {
            return Ok(Tokens::default());
        }
        let bytes = fsx::read_limited(&self.path, TOKEN_FILE_LEN_MAX).map_err(self.io())?;
        let bad = |reason: String| TokenError::Damaged { path: self.path.display().to_string(), reason };
        let tokens: Tokens = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if tokens.format != 1 {
            return Err(bad(format!("format {}", tokens.format)));
        }
        Ok(tokens)
    }

    /// Makes a token. Its text is the answer, and is nowhere else.
    pub fn add(&self, new: &NewToken) -> Result<(Zeroizing<String>, TokenRecord), TokenError> {
        let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let len = new.account.len();
        if len == 0 || len > ACCOUNT_NAME_LEN_MAX || !new.account.chars().all(named) {
            return Err(TokenError::BadName);
        }
        let secret = Secret32::random();
        let mut id = [0u8; 8];
        fill_random(&mut id);
        let id = hex(&id);
        let text = Zeroizing::new(format!("{PREFIX}{id}_{}", *Zeroizing::new(hex(&secret.0))));
        let now_ms = wall_ms();
        let roles = if new.roles.is_empty() { Role::ALL.into() } else { new.roles.clone() };
        let expires_ms = new.days.map(|d| now_ms.saturating_add(u64::from(d) * DAY_MS));
        let hash = sha256(&[&secret.0]);
        let record = TokenRecord { id, account: new.account.clone(), hash, roles, created_ms: now_ms, expires_ms };
        self.change(|all| {
            if all.tokens.len() >= TOKENS_MAX {
                return Err(TokenError::TooMany);
            }
            let account = all.accounts.entry(new.account.clone()).or_insert(Account {
                quota_bytes: None,
                zones_max: ZONES_PER_ACCOUNT,
                zones: BTreeSet::new(),
            });
            account.quota_bytes = new.quota_bytes.or(account.quota_bytes);
            account.zones_max = new.zones_max.unwrap_or(account.zones_max);
            account.zones.extend(new.zone);
            all.tokens.push(record.clone());
            Ok(())
        })?;
        Ok((text, record))
    }

    /// Ends a token, by its id or the beginning of it. What its account keeps stays.
    pub fn remove(&self, id: &str) -> Result<TokenRecord, TokenError> {
        self.change(|all| {
            let fits: Vec<usize> = (0..all.tokens.len())
                .filter(|i| id.len() >= 4 && all.tokens.get(*i).is_some_and(|t| t.id.starts_with(id)))
                .collect();
            match fits.as_slice() {
                [one] => Ok(all.tokens.remove(*one)),
                _ => Err(TokenError::NoSuchToken(id.to_owned())),
            }
        })
    }

    /// Changes the file while no other process does.
    fn change<T>(&self, change: impl FnOnce(&mut Tokens) -> Result<T, TokenError>) -> Result<T, TokenError> {
        fsx::create_dir_all(&self.dir, 0o700).map_err(self.io())?;
        let lock: File = fsx::open_rw(&self.dir.join("tokens.lock"), 0o600).map_err(self.io())?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| self.io()(e.into()))?;
        let mut tokens = self.load()?;
        let out = change(&mut tokens)?;
        let bytes = serde_json::to_vec_pretty(&tokens).map_err(|e| self.io()(e.into()))?;
        fsx::write_durably(&self.path, &bytes, 0o600).map_err(self.io())?;
        Ok(out)
    }

    fn io(&self) -> impl Fn(std::io::Error) -> TokenError {
        let path = self.path.display().to_string();
        move |source| TokenError::Io { path: path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_until_it_is_removed_or_over_and_stored_only_as_a_hash() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = TokenFile::of(dir.path());
        let new = NewToken { account: "ann".into(), quota_bytes: Some(5), days: Some(1), ..NewToken::default() };
        let (text, record) = file.add(&new).unwrap();
        let (other, _) = file.add(&NewToken { account: "ann".into(), ..NewToken::default() }).unwrap();
        let all = file.load().unwrap();
        let who = all.who(&text, record.created_ms).unwrap();
        assert_eq!((who.name.as_str(), who.account.quota_bytes), ("ann", Some(5)));
        assert!(all.who(&text, record.created_ms + DAY_MS).is_none());
        assert!(all.who(&other, u64::MAX).is_some());
        let secret = text.rsplit('_').next().unwrap();
        let stored = std::fs::read_to_string(file.path()).unwrap();
        assert!(!stored.contains(secret));
        // The id of one with the secret of another, cut, or without its beginning.
        let mixed = format!("zts_{}_{}", record.id, other.rsplit('_').next().unwrap());
        for wrong in [mixed.as_str(), &text[..text.len() - 2], &text[4..], "", "zts__"] {
            assert!(all.who(wrong, 0).is_none(), "{wrong}");
        }
        file.remove(&record.id[..6]).unwrap();
        assert!(file.load().unwrap().who(&text, 0).is_none());
        assert!(matches!(file.remove(&record.id), Err(TokenError::NoSuchToken(_))));
        assert!(matches!(file.add(&NewToken { account: "a b".into(), ..new }), Err(TokenError::BadName)));
    }
}
