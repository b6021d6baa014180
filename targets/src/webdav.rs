//! The `webdav://` adapter: a folder of a WebDAV server (RFC 4918), which need know no more than `GET` with ranges, `PUT`
//! of whole files, `DELETE`, `MKCOL` and `PROPFIND`.
//!
//! WebDAV cannot write a part of a file, so a sector is a folder of part files of [`PART_LEN`] bytes each, and a small file
//! beside it that is put last: its name is the seal, and tells the length.
//!
//! ```text
//! zones/<zone alias>/sectors/<ab>/<copy id>.<upload>/<part, five digits>   8 MiB each, the last one shorter
//! zones/<zone alias>/sectors/<ab>/<copy id>.<length>.<upload>.zws          the seal
//! zones/<zone alias>/incoming/<copy id>                                    what is on the way: its upload, and the bytes that fill no part yet
//! zones/<zone alias>/pointer.json.<number>.<SHA-256>                       an object: the highest number whose bytes fit counts
//! ```

mod client;
mod objects;
mod store;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use zoneward_sectors::ids::{CopyId, TargetId, ZoneAlias};
use zoneward_sectors::limits::CLASS_LOG2_MAX;

use self::client::Client;
use self::store::Sealed;
use crate::credentials::Credentials;
use crate::directory::Existing;
use crate::errors::{Op, TargetError};
use crate::limits::{MARKER_LEN_MAX, NAMES_MAX, PART_LEN};
use crate::marker;
use crate::net::parts::{Which, discard};
use crate::net::place::{self, exact};
use crate::net::{Held, PartWriter, run};
use crate::target::{Capabilities, Incoming, Listing, ObjectName, SectorReader, Target, in_range, object_fits};
use crate::url::WebDavUrl;

/// A folder of a WebDAV server that keeps sectors.
pub struct WebDavTarget {
    client: Arc<Client>,
    id: TargetId,
}

fn read_marker(client: &Arc<Client>, op: Op) -> Result<Option<TargetId>, TargetError> {
    let what = client.url().to_owned();
    let text = what.clone();
    match run(client, op, &what, |c| async move { c.get(op, &text, place::MARKER, MARKER_LEN_MAX).await }) {
        Ok(bytes) => marker::parse(&bytes).map(Some).map_err(|reason| TargetError::BadMarker { op, what, reason }),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

impl WebDavTarget {
    /// Makes the folder a target. One that carries this id already is opened; one that carries another is treated as
    /// `existing` says.
    pub fn create(
        url: &WebDavUrl,
        id: TargetId,
        existing: Existing,
        credentials: Option<&Credentials>,
    ) -> Result<Self, TargetError> {
        let op = Op::CreateTarget;
        let client = Arc::new(Client::new(url, credentials)?);
        let what = client.url().to_owned();
        if read_marker(&client, op)?.is_none() {
            let text = what.clone();
            run(&client, op, &what, |c| async move {
                c.make_root(op, &text).await?;
                // If another was quicker, its marker counts.
                c.put_new(op, &text, place::MARKER, marker::render(id).into()).await
            })?;
        }
        let id = marker::created(what, read_marker(&client, op)?, id, existing)?;
        Ok(Self { client, id })
    }

    /// Opens a target. With an id, another target's marker is refused; without, the marker tells the id.
    pub fn open(url: &WebDavUrl, id: Option<TargetId>, credentials: Option<&Credentials>) -> Result<Self, TargetError> {
        let client = Arc::new(Client::new(url, credentials)?);
        let id = marker::opened(client.url(), read_marker(&client, Op::OpenTarget)?, id)?;
        Ok(Self { client, id })
    }

    fn run<T: Send + 'static, F>(&self, op: Op, what: &str, f: impl FnOnce(Arc<Client>) -> F) -> Result<T, TargetError>
    where
        F: Future<Output = Result<T, TargetError>> + Send + 'static,
    {
        run(&self.client, op, what, f)
    }

    fn sealed(&self, op: Op, which: Which) -> Result<Option<Sealed>, TargetError> {
        self.run(op, &which.sector(), |c| async move { store::sealed(&c, op, which).await })
    }
}

impl Target for WebDavTarget {
    fn id(&self) -> TargetId {
        self.id
    }

    fn mend(&self) -> Result<bool, TargetError> {
        marker::opened(self.client.url(), read_marker(&self.client, Op::OpenTarget)?, Some(self.id)).map(|_| false)
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
        let (op, which) = (Op::Discard, Which { alias, copy });
        let what = which.incoming();
        let Some(held) = Held::take(self.client.url(), alias, copy) else { return Err(TargetError::Busy { op, what }) };
        let done = self.run(op, &what, |c| discard(c, op, which));
        drop(held);
        done
    }

    fn list_incoming(&self, alias: ZoneAlias) -> Result<Vec<CopyId>, TargetError> {
        let folder = place::incoming(alias);
        let entries = self.run(Op::List, &folder.clone(), |c| async move { c.list(Op::List, &folder).await })?;
        let mut out: Vec<CopyId> = entries.iter().filter(|e| !e.folder).filter_map(|e| exact(&e.name)).collect();
        out.sort_unstable();
        Ok(out)
    }

    fn len(&self, alias: ZoneAlias, copy: CopyId) -> Result<Option<u64>, TargetError> {
        Ok(self.sealed(Op::Read, Which { alias, copy })?.map(|s| s.len))
    }

    fn reader(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn SectorReader>, TargetError> {
        let which = Which { alias, copy };
        match self.sealed(Op::Read, which)? {
            Some(sealed) => Ok(Box::new(WebDavReader {
                client: self.client.clone(),
                folder: store::parts_folder(which, &sealed.upload),
                what: which.sector(),
                len: sealed.len,
            })),
            None => Err(TargetError::NotFound { op: Op::Read, what: which.sector() }),
        }
    }

    fn list(&self, alias: ZoneAlias) -> Result<Listing, TargetError> {
        let folder = place::sectors(alias);
        self.run(Op::List, &folder.clone(), |c| async move {
            let mut out = Listing::default();
            for shard in c.list(Op::List, &folder).await? {
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if !shard.folder || shard.name.len() != 2 || !shard.name.bytes().all(hex) {
                    out.foreign += 1;
                    continue;
                }
                let entries = c.list(Op::List, &format!("{folder}/{}", shard.name)).await?;
                store::sort(&shard.name, entries, &mut out);
                let len = out.sectors.len() as u64;
                if out.sectors.len() > NAMES_MAX {
                    return Err(TargetError::TooLarge { op: Op::List, what: folder, len, limit: NAMES_MAX as u64 });
                }
            }
            out.sectors.sort_unstable();
            out.sectors.dedup_by_key(|(copy, _)| *copy);
            Ok(out)
        })
    }

    fn list_zones(&self) -> Result<Vec<ZoneAlias>, TargetError> {
        let entries = self.run(Op::List, place::ZONES, |c| async move { c.list(Op::List, place::ZONES).await })?;
        let zones: BTreeSet<ZoneAlias> = entries.iter().filter(|e| e.folder).filter_map(|e| exact(&e.name)).collect();
        Ok(zones.into_iter().collect())
    }

    fn remove(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        let which = Which { alias, copy };
        self.run(Op::Remove, &which.sector(), |c| async move { store::remove(&c, which).await })
    }

    fn put_object(&self, alias: ZoneAlias, name: ObjectName, bytes: &[u8]) -> Result<(), TargetError> {
        let (op, what, len) = (Op::PutObject, place::object(alias, name), bytes.len() as u64);
        object_fits(&what, len)?;
        let bytes = bytes.to_vec();
        self.run(op, &what, |c| async move { objects::put(&c, alias, name, bytes.into()).await })
    }

    fn get_object(&self, alias: ZoneAlias, name: ObjectName, limit: u64) -> Result<Vec<u8>, TargetError> {
        let (op, what) = (Op::GetObject, place::object(alias, name));
        self.run(op, &what, |c| async move { Ok(objects::get(&c, alias, name, limit).await?.to_vec()) })
    }
}

struct WebDavReader {
    client: Arc<Client>,
    folder: String,
    what: String,
    len: u64,
}

impl SectorReader for WebDavReader {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), TargetError> {
        let (op, wanted, have) = (Op::Read, buf.len() as u64, self.len);
        in_range(&self.what, offset, wanted, have)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let inside = at % PART_LEN;
            let n = rest.len().min((PART_LEN - inside) as usize);
            let (now, later) = rest.split_at_mut(n);
            let path = format!("{}/{}", self.folder, store::part_name(at / PART_LEN));
            let (what, range) = (self.what.clone(), inside..inside + n as u64);
            let got = run(&self.client, op, &self.what, |c| async move { c.range(op, &what, &path, range).await });
            let bytes = got.map_err(|e| match e {
                TargetError::Truncated { have, .. } => {
                    let have = at - inside + have;
                    TargetError::Truncated { op, what: self.what.clone(), offset, wanted, have }
                }
                e => e,
            })?;
            now.copy_from_slice(&bytes);
            at += n as u64;
            rest = later;
        }
        Ok(())
    }
}
