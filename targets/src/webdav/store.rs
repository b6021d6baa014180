//! A WebDAV folder as a store of parts: part files, and a file that seals them.

use async_trait::async_trait;
use bytes::Bytes;
use zoneward_sectors::crypto::fill_random;
use zoneward_sectors::ids::{CopyId, hex};

use super::client::{Client, DavEntry};
use crate::errors::{Op, TargetError};
use crate::limits::PART_LEN;
use crate::net::parts::{Part, PartStore, Which};
use crate::net::place::{self, exact};
use crate::target::Listing;

const SUFFIX: &str = ".zws";

/// A sealed sector: how long it is, and which parts make it.
pub(super) struct Sealed {
    pub len: u64,
    pub upload: String,
}

/// The folder that holds what begins with the same two digits.
fn shard(which: Which) -> String {
    let name = which.copy.to_string();
    format!("{}/{}", place::sectors(which.alias), name.get(..2).unwrap_or_default())
}

pub(super) fn parts_folder(which: Which, upload: &str) -> String {
    format!("{}/{}.{upload}", shard(which), which.copy)
}

pub(super) fn part_name(index: u64) -> String {
    format!("{index:05}")
}

fn note(which: Which) -> String {
    format!("{}/{}", place::incoming(which.alias), which.copy)
}

/// What a seal's name says.
fn read_seal(name: &str) -> Option<(CopyId, Sealed)> {
    let mut parts = name.strip_suffix(SUFFIX)?.split('.');
    let (copy, len, upload) = (parts.next()?, parts.next()?, parts.next()?);
    let len: u64 = len.parse().ok().filter(|n: &u64| n.to_string() == len)?;
    (parts.next().is_none() && is_upload(upload)).then_some((exact(copy)?, Sealed { len, upload: upload.to_owned() }))
}

fn is_upload(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Sorts what one of the 256 folders holds into a listing. Parts without a seal are on their way.
pub(super) fn sort(shard: &str, entries: Vec<DavEntry>, out: &mut Listing) {
    for e in entries {
        let ours = e.name.starts_with(shard);
        let parts =
            || e.name.split_once('.').is_some_and(|(copy, up)| exact::<CopyId>(copy).is_some() && is_upload(up));
        match read_seal(&e.name) {
            Some((copy, sealed)) if ours && !e.folder => out.sectors.push((copy, sealed.len)),
            _ if ours && e.folder && parts() => {}
            _ => out.foreign += 1,
        }
    }
}

/// The seal of a sector; if two writers sealed it, one of the two.
pub(super) async fn sealed(client: &Client, op: Op, which: Which) -> Result<Option<Sealed>, TargetError> {
    let entries = client.list(op, &shard(which)).await?;
    let mut seals = entries.iter().filter(|e| !e.folder).filter_map(|e| read_seal(&e.name));
    Ok(seals.find(|(copy, _)| *copy == which.copy).map(|(_, sealed)| sealed))
}

/// Removes a sealed sector: first the seals, so that what is half removed is not taken for a sector.
pub(super) async fn remove(client: &Client, which: Which) -> Result<(), TargetError> {
    let (op, what, shard) = (Op::Remove, which.sector(), shard(which));
    loop {
        let Some(found) = sealed(client, op, which).await? else { return Ok(()) };
        let seal = format!("{shard}/{}.{}.{}{SUFFIX}", which.copy, found.len, found.upload);
        client.delete(op, &what, &seal).await?;
        client.delete(op, &what, &parts_folder(which, &found.upload)).await?;
    }
}

#[async_trait]
impl PartStore for Client {
    fn url(&self) -> &str {
        Client::url(self)
    }

    async fn sealed_len(&self, op: Op, which: Which) -> Result<Option<u64>, TargetError> {
        Ok(sealed(self, op, which).await?.map(|s| s.len))
    }

    async fn get_note(&self, op: Op, which: Which, limit: u64) -> Result<Option<Bytes>, TargetError> {
        match self.get(op, &which.incoming(), &note(which), limit).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn put_note(&self, op: Op, which: Which, bytes: Bytes) -> Result<(), TargetError> {
        self.put(op, &which.incoming(), &note(which), bytes).await
    }

    async fn remove_note(&self, op: Op, which: Which) -> Result<(), TargetError> {
        self.delete(op, &which.incoming(), &note(which)).await
    }

    async fn begin(&self, _: Which) -> Result<String, TargetError> {
        // Of its own for each attempt: parts of one never lie among those of another, least of all of a sealed one.
        let mut random = [0; 8];
        fill_random(&mut random);
        Ok(hex(&random))
    }

    async fn held(&self, op: Op, which: Which, upload: &str) -> Result<Option<Vec<Part>>, TargetError> {
        if !is_upload(upload) {
            return Ok(None);
        }
        let entries = self.try_list(op, &parts_folder(which, upload)).await?;
        let part = |e: DavEntry| {
            let index = e.name.parse::<u64>().ok().filter(|i| part_name(*i) == e.name)?;
            Some(Part { index, len: e.len, tag: String::new() })
        };
        Ok(entries.map(|all| all.into_iter().filter(|e| !e.folder).filter_map(part).collect()))
    }

    async fn put_part(&self, which: Which, upload: &str, index: u64, bytes: Bytes) -> Result<Part, TargetError> {
        let (len, path) = (bytes.len() as u64, format!("{}/{}", parts_folder(which, upload), part_name(index)));
        self.put(Op::Write, &which.incoming(), &path, bytes).await?;
        Ok(Part { index, len, tag: String::new() })
    }

    async fn finish(&self, which: Which, upload: &str, parts: Vec<Part>, len: u64) -> Result<(), TargetError> {
        let (op, what) = (Op::Seal, which.incoming());
        // The seal says that all is there: so it is looked at first.
        let mut held = self.held(op, which, upload).await?.unwrap_or_default();
        held.sort_by_key(|p| p.index);
        let lens = |all: &[Part]| all.iter().map(|p| (p.index, p.len)).collect::<Vec<_>>();
        let sum: u64 = held.iter().map(|p| p.len).sum();
        if lens(&held) != lens(&parts) || sum != len || parts.iter().rev().skip(1).any(|p| p.len != PART_LEN) {
            let reason =
                format!("it holds {} parts of {sum} bytes and said it took {} of {len}", held.len(), parts.len());
            return Err(TargetError::Protocol { op, what, reason });
        }
        self.put(op, &what, &seal_path(which, upload, len), Bytes::new()).await
    }

    async fn put_whole(&self, which: Which, bytes: Bytes) -> Result<(), TargetError> {
        let upload = self.begin(which).await?;
        let len = bytes.len() as u64;
        if len > 0 {
            self.put_part(which, &upload, 0, bytes).await?;
        }
        self.put(Op::Seal, &which.incoming(), &seal_path(which, &upload, len), Bytes::new()).await
    }

    async fn throw_away(&self, op: Op, which: Which, upload: &str) -> Result<(), TargetError> {
        if !is_upload(upload) {
            return Ok(());
        }
        // What was sealed in the end, by a writer whose answer was lost, is no more on its way.
        match sealed(self, op, which).await? {
            Some(sealed) if sealed.upload == upload => Ok(()),
            _ => self.delete(op, &which.incoming(), &parts_folder(which, upload)).await,
        }
    }
}

fn seal_path(which: Which, upload: &str, len: u64) -> String {
    format!("{}/{}.{len}.{upload}{SUFFIX}", shard(which), which.copy)
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn seals_are_read_strictly() {
        let copy = CopyId([0xab; 16]);
        let name = format!("{copy}.42.0123456789abcdef.zws");
        let (found, sealed) = read_seal(&name).unwrap();
        assert_eq!((found, sealed.len, sealed.upload.as_str()), (copy, 42, "0123456789abcdef"));
        for bad in [
            format!("{copy}.042.0123456789abcdef.zws"),
            format!("{copy}.42.0123456789ABCDEF.zws"),
            format!("{copy}.42.zws"),
            format!("{copy}.42.0123456789abcdef.x.zws"),
            format!("{copy}.-1.0123456789abcdef.zws"),
            "x.42.0123456789abcdef.zws".into(),
        ] {
            assert!(read_seal(&bad).is_none(), "{bad}");
        }
    }
}
