//! Which zone alias is whose, and how much each account keeps.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use zoneward_sectors::fsx;
use zoneward_sectors::ids::ZoneAlias;

use super::refusal::Refusal;
use super::tokens::Who;
use crate::directory::DirectoryTarget;
use crate::errors::TargetError;
use crate::protocol::Code;
use crate::target::Target;

/// Bytes of the file that names an alias's account.
const CLAIM_LEN_MAX: u64 = 4096;

#[derive(Serialize, Deserialize)]
struct Claim {
    format: u32,
    account: String,
}

#[derive(Default)]
struct Inner {
    owners: BTreeMap<ZoneAlias, String>,
    used: BTreeMap<String, u64>,
}

/// The places of a server's accounts.
pub(crate) struct Places {
    dir: PathBuf,
    inner: Mutex<Inner>,
}

/// Room that is taken before the bytes arrive, and given back when they do not.
pub(crate) struct Reservation<'a> {
    places: &'a Places,
    account: String,
    left: u64,
}

impl Reservation<'_> {
    /// These bytes came and stay.
    pub fn keep(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.places.give_back(&self.account, self.left);
    }
}

impl Places {
    /// Reads who owns what, and counts what each keeps.
    pub fn open(own: &std::path::Path, target: &DirectoryTarget) -> std::io::Result<Self> {
        let dir = own.join("zones");
        fsx::create_dir_all(&dir, 0o700)?;
        let mut inner = Inner::default();
        for name in fsx::list(&dir)? {
            let Some(alias) = name.to_str().and_then(|n| n.parse::<ZoneAlias>().ok()) else { continue };
            let path = dir.join(&name).join("account.json");
            if fsx::size(&path)?.is_none() {
                continue;
            }
            let claim: Claim = serde_json::from_slice(&fsx::read_limited(&path, CLAIM_LEN_MAX)?)?;
            let used = kept(target, alias).map_err(std::io::Error::other)?;
            *inner.used.entry(claim.account.clone()).or_default() += used;
            inner.owners.insert(alias, claim.account);
        }
        Ok(Self { dir, inner: Mutex::new(inner) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the zone is this account's; another's is refused, one that nobody began is not there.
    pub fn mine(&self, who: &Who, alias: ZoneAlias) -> Result<bool, Refusal> {
        match self.inner().owners.get(&alias) {
            Some(owner) if *owner == who.name => Ok(true),
            Some(_) => Err(Refusal::new(Code::Forbidden, "the zone is another account's")),
            None => Ok(who.account.zones.contains(&alias)),
        }
    }

    /// Makes the zone this account's, if it is nobody's.
    pub fn claim(&self, target: &DirectoryTarget, who: &Who, alias: ZoneAlias) -> Result<(), Refusal> {
        if self.inner().owners.get(&alias).is_some_and(|owner| *owner == who.name) {
            return Ok(());
        }
        let given = self.mine(who, alias)?;
        let mut inner = self.inner();
        let begun = inner.owners.values().filter(|owner| **owner == who.name).count();
        if !given && begun >= who.account.zones_max as usize {
            return Err(Refusal::new(Code::Forbidden, "the account has as many zones as it may have"));
        }
        // What lies there already is somebody's: only the operator can say whose.
        if !given && target.list_zones()?.contains(&alias) {
            return Err(Refusal::new(Code::Forbidden, "the zone is here and no account's: its operator can give it"));
        }
        let used = kept(target, alias)?;
        let claim = Claim { format: 1, account: who.name.clone() };
        let dir = self.dir.join(alias.to_string());
        let written = serde_json::to_vec(&claim).map_err(std::io::Error::from).and_then(|bytes| {
            fsx::create_dir_all(&dir, 0o700)?;
            fsx::write_durably(&dir.join("account.json"), &bytes, 0o600)?;
            fsx::sync_dir(&self.dir)
        });
        written.map_err(|e| Refusal::from_io(&e))?;
        *inner.used.entry(who.name.clone()).or_default() += used;
        inner.owners.insert(alias, who.name.clone());
        Ok(())
    }

    pub fn zones_of(&self, account: &str) -> Vec<ZoneAlias> {
        self.inner().owners.iter().filter(|(_, owner)| *owner == account).map(|(alias, _)| *alias).collect()
    }

    pub fn zones(&self) -> Vec<(ZoneAlias, String)> {
        self.inner().owners.iter().map(|(alias, owner)| (*alias, owner.clone())).collect()
    }

    pub fn used(&self, account: &str) -> u64 {
        self.inner().used.get(account).copied().unwrap_or(0)
    }

    /// Takes room for `bytes` within the account's quota.
    pub fn reserve(&self, who: &Who, bytes: u64) -> Result<Reservation<'_>, Refusal> {
        let mut inner = self.inner();
        let used = inner.used.entry(who.name.clone()).or_default();
        let wanted = used.saturating_add(bytes);
        if let Some(quota) = who.account.quota_bytes.filter(|q| wanted > *q) {
            let mut refusal = Refusal::new(Code::Quota, "the account's quota is used up");
            refusal.limit = Some(quota);
            return Err(refusal);
        }
        *used = wanted;
        Ok(Reservation { places: self, account: who.name.clone(), left: bytes })
    }

    /// These bytes are no longer kept.
    pub fn give_back(&self, account: &str, bytes: u64) {
        if let Some(used) = self.inner().used.get_mut(account) {
            *used = used.saturating_sub(bytes);
        }
    }
}

/// Bytes of all sectors of a zone: sealed, begun, and removed within their lock.
fn kept(target: &DirectoryTarget, alias: ZoneAlias) -> Result<u64, TargetError> {
    let mut sum: u64 = target.list(alias)?.sectors.iter().map(|(_, len)| len).sum();
    sum += target.list_aside(alias)?.iter().map(|a| a.len).sum::<u64>();
    for copy in target.list_incoming(alias)? {
        sum += target.incoming_len(alias, copy)?.unwrap_or(0);
    }
    Ok(sum)
}
