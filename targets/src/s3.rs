//! The `s3://` adapter: a bucket, or a folder in one, with the names of `docs/format.md` section 1 as keys.
//!
//! A sector grows as a multipart upload under its final key and becomes visible, whole, when the upload is completed. What
//! is on the way is known by an object `incoming/<copy>`: it names the upload, so that any node that opens the sector asks
//! the store for the parts it holds and goes on behind them. A bucket's own rule that aborts unfinished uploads after some
//! days tidies up what no node comes back to.

mod client;
mod guard;
mod lock;
mod store;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use zoneward_sectors::ids::{CopyId, TargetId, ZoneAlias};
use zoneward_sectors::limits::CLASS_LOG2_MAX;

use self::client::{Client, Page};
use self::lock::Keep;
use crate::credentials::Credentials;
use crate::directory::Existing;
use crate::errors::{Op, TargetError};
use crate::limits::{MARKER_LEN_MAX, NAMES_MAX, PAGES_MAX};
use crate::marker;
use crate::net::parts::{Which, discard};
use crate::net::place::{self, exact};
use crate::net::{Held, PartWriter, run};
use crate::target::{
    Capabilities, Guarded, Incoming, Listing, ObjectName, Protection, SectorReader, Target, in_range, object_fits,
};
use crate::url::S3Url;

/// A bucket, or a folder in one, that keeps sectors.
pub struct S3Target {
    client: Arc<Client>,
    id: TargetId,
}

fn sector_key(alias: ZoneAlias, copy: CopyId) -> String {
    format!("{}/{}", place::sectors(alias), place::sector_name(copy))
}

fn incoming_key(alias: ZoneAlias, copy: CopyId) -> String {
    format!("{}/{copy}", place::incoming(alias))
}

impl S3Target {
    /// Makes the folder a target. One that carries this id already is opened; one that carries another is treated as
    /// `existing` says.
    pub fn create(
        url: &S3Url,
        id: TargetId,
        existing: Existing,
        credentials: Option<&Credentials>,
    ) -> Result<Self, TargetError> {
        let op = Op::CreateTarget;
        let client = Arc::new(Client::new(url, credentials)?);
        let what = client.url().to_owned();
        if read_marker(&client, op)?.is_none() {
            put_marker(&client, op, id)?;
        }
        let id = marker::created(what, read_marker(&client, op)?, id, existing)?;
        Ok(Self { client, id })
    }

    /// Opens a target. With an id, another target's marker is refused; without, the marker tells the id.
    pub fn open(url: &S3Url, id: Option<TargetId>, credentials: Option<&Credentials>) -> Result<Self, TargetError> {
        let client = Arc::new(Client::new(url, credentials)?);
        let id = marker::opened(client.url(), read_marker(&client, Op::OpenTarget)?, id)?;
        Ok(Self { client, id })
    }

    /// Bytes of content that this handle sent and received.
    pub fn moved(&self) -> (u64, u64) {
        self.client.moved()
    }

    fn run<T: Send + 'static, F>(&self, op: Op, what: &str, f: impl FnOnce(Arc<Client>) -> F) -> Result<T, TargetError>
    where
        F: Future<Output = Result<T, TargetError>> + Send + 'static,
    {
        run(&self.client, op, what, f)
    }

    /// All names below a folder, relative to it; with `folders`, the folders directly in it instead.
    fn names(&self, folder: String, folders: bool) -> Result<Vec<(String, u64)>, TargetError> {
        let what = folder.clone();
        self.run(Op::List, &what, |c| async move {
            let (mut all, mut token) = (Vec::new(), None);
            for _ in 0..PAGES_MAX {
                let Page { mut names, next } = c.page(&folder, folders, token).await?;
                all.append(&mut names);
                let len = all.len() as u64;
                if all.len() > NAMES_MAX {
                    return Err(TargetError::TooLarge { op: Op::List, what: folder, len, limit: NAMES_MAX as u64 });
                }
                match next {
                    Some(next) => token = Some(next),
                    None => return Ok(all),
                }
            }
            // Pages without end and without names.
            let reason = "its listing does not end".to_owned();
            Err(TargetError::Protocol { op: Op::List, what: folder, reason })
        })
    }

    /// Zones of which somebody has hidden everything.
    fn hidden_zones(&self) -> Result<Vec<ZoneAlias>, TargetError> {
        let (op, what) = (Op::List, place::ZONES.to_owned());
        self.run(op, &what, |c| async move {
            if c.guards(op, place::ZONES).await?.versions != Some(true) {
                return Ok(Vec::new());
            }
            let prefix = format!("{}/", place::ZONES);
            let all = match c.versions(op, place::ZONES, &prefix).await {
                Err(TargetError::Denied { .. }) => return Ok(Vec::new()),
                all => all?,
            };
            let alias = |key: &str| exact(key.strip_prefix(&prefix)?.split_once('/')?.0);
            Ok(all.versions.iter().filter_map(|v| alias(&v.key)).collect::<BTreeSet<_>>().into_iter().collect())
        })
    }

    fn sealed_len(&self, op: Op, alias: ZoneAlias, copy: CopyId) -> Result<Option<u64>, TargetError> {
        let what = format!("sector {copy}");
        let text = what.clone();
        self.run(op, &what, |c| async move { c.len(op, &text, &sector_key(alias, copy)).await })
    }
}

/// Writes a marker. If another was quicker, its marker counts.
fn put_marker(client: &Arc<Client>, op: Op, id: TargetId) -> Result<(), TargetError> {
    let (bytes, what) = (marker::render(id), client.url().to_owned());
    let text = what.clone();
    run(client, op, &what, |c| async move { c.put_new(op, &text, place::MARKER, bytes.into()).await })?;
    Ok(())
}

fn read_marker(client: &Arc<Client>, op: Op) -> Result<Option<TargetId>, TargetError> {
    let what = client.url().to_owned();
    let text = what.clone();
    let got = run(client, op, &what, |c| async move { c.get(op, &text, place::MARKER, MARKER_LEN_MAX).await });
    match got {
        Ok(bytes) => marker::parse(&bytes).map(Some).map_err(|reason| TargetError::BadMarker { op, what, reason }),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

impl Target for S3Target {
    fn id(&self) -> TargetId {
        self.id
    }

    /// A bucket is no mount point: with these credentials it is the same place, also when it is empty.
    fn mend(&self) -> Result<bool, TargetError> {
        let op = Op::OpenTarget;
        if read_marker(&self.client, op)?.is_some() {
            return Ok(false);
        }
        put_marker(&self.client, op, self.id)?;
        marker::opened(self.client.url(), read_marker(&self.client, op)?, Some(self.id)).map(|_| true)
    }

    fn describe(&self) -> String {
        self.client.url().to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            fixed_sectors: false,
            max_class_log2: CLASS_LOG2_MAX,
            resume: true,
            // Nearly in order: see `limits::PARTS_OPEN_MAX`.
            direct_write: true,
            ordered_write: true,
            free_bytes: None,
            proves: false,
        }
    }

    fn open(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn Incoming>, TargetError> {
        Ok(Box::new(PartWriter::open(self.client.clone(), alias, copy)?))
    }

    fn discard_incoming(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        let op = Op::Discard;
        let what = Which { alias, copy }.incoming();
        let Some(held) = Held::take(self.client.url(), alias, copy) else { return Err(TargetError::Busy { op, what }) };
        let done = self.run(op, &what, |c| discard(c, op, Which { alias, copy }));
        drop(held);
        done
    }

    fn list_incoming(&self, alias: ZoneAlias) -> Result<Vec<CopyId>, TargetError> {
        let names = self.names(place::incoming(alias), false)?;
        let mut out: Vec<CopyId> = names.iter().filter_map(|(n, _)| exact(n)).collect();
        out.sort_unstable();
        Ok(out)
    }

    fn len(&self, alias: ZoneAlias, copy: CopyId) -> Result<Option<u64>, TargetError> {
        self.sealed_len(Op::Read, alias, copy)
    }

    fn reader(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn SectorReader>, TargetError> {
        let what = format!("sector {copy}");
        let (key, op) = (sector_key(alias, copy), Op::Read);
        let (len, version) = match self.sealed_len(op, alias, copy)? {
            Some(len) => (len, None),
            // Somebody may have hidden it: what it held is as good.
            None => {
                let (k, w) = (key.clone(), what.clone());
                match self.run(op, &what, |c| async move { c.newest(op, &w, &k).await })? {
                    Some(hidden) => (hidden.len, Some(hidden.id)),
                    None => return Err(TargetError::NotFound { op, what }),
                }
            }
        };
        Ok(Box::new(S3Reader { client: self.client.clone(), key, what, len, version }))
    }

    fn list(&self, alias: ZoneAlias) -> Result<Listing, TargetError> {
        let mut out = Listing::default();
        for (name, len) in self.names(place::sectors(alias), false)? {
            match place::sector_of(&name) {
                Some(copy) => out.sectors.push((copy, len)),
                None => out.foreign += 1,
            }
        }
        out.sectors.sort_unstable();
        out.sectors.dedup();
        Ok(out)
    }

    fn list_zones(&self) -> Result<Vec<ZoneAlias>, TargetError> {
        let names = self.names(place::ZONES.to_owned(), true)?;
        let mut zones: BTreeSet<ZoneAlias> = names.iter().filter_map(|(n, _)| exact(n)).collect();
        zones.extend(self.hidden_zones()?);
        Ok(zones.into_iter().collect())
    }

    fn remove(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        let what = format!("sector {copy}");
        let text = what.clone();
        self.run(Op::Remove, &what, |c| async move { c.delete(Op::Remove, &text, &sector_key(alias, copy)).await })
    }

    fn protection(&self) -> Result<Protection, TargetError> {
        let (op, what) = (Op::Ask, self.describe());
        let text = what.clone();
        self.run(op, &what, |c| async move { c.guards(op, &text).await })
    }

    fn lock_for(&self, seconds: u64) {
        self.client.lock_s.store(seconds, Ordering::Relaxed);
    }

    fn guard(&self, alias: ZoneAlias, living: &BTreeSet<CopyId>, purge: bool) -> Result<Guarded, TargetError> {
        let (op, what, living) = (Op::Ask, self.describe(), living.clone());
        self.run(op, &what, |c| async move { guard::guard(&c, alias, &living, purge).await })
    }

    fn put_object(&self, alias: ZoneAlias, name: ObjectName, bytes: &[u8]) -> Result<(), TargetError> {
        let (op, what, len) = (Op::PutObject, place::object(alias, name), bytes.len() as u64);
        object_fits(&what, len)?;
        let (key, bytes) = (what.clone(), bytes.to_vec());
        self.run(op, &what, |c| async move { c.put(op, &key, &key, bytes.into(), Keep::Locked).await })
    }

    fn get_object(&self, alias: ZoneAlias, name: ObjectName, limit: u64) -> Result<Vec<u8>, TargetError> {
        let (op, what) = (Op::GetObject, place::object(alias, name));
        let key = what.clone();
        self.run(op, &what, |c| async move { Ok(c.get(op, &key, &key, limit).await?.to_vec()) })
    }
}

struct S3Reader {
    client: Arc<Client>,
    key: String,
    what: String,
    len: u64,
    /// Read when it is not the one that is to be seen.
    version: Option<String>,
}

impl SectorReader for S3Reader {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), TargetError> {
        let (op, wanted, have) = (Op::Read, buf.len() as u64, self.len);
        in_range(&self.what, offset, wanted, have)?;
        if buf.is_empty() {
            return Ok(());
        }
        let (key, what, version) = (self.key.clone(), self.what.clone(), self.version.clone());
        let bytes = run(&self.client, op, &self.what, |c| async move {
            c.range(op, &what, &key, offset..offset + wanted, version).await
        })?;
        buf.copy_from_slice(&bytes);
        Ok(())
    }
}
