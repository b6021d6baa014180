//! A tree of a checkpoint as records in a file of its own, so that any entry is found without reading the catalog again.
//!
//! The file has no name and ends with this process, so its form is nobody else's business: a record for each entry, and
//! for each directory the places of what it holds, by name. An entry's place is its inode number.

use std::cmp::Ordering;
use std::fs::File;
use std::io;

use zoneward_sectors::entry::{Entry, Extent, Kind, Meta, Stamp, Xattrs};
use zoneward_sectors::fsx;

/// Where the record of the tree's root lies.
pub const ROOT: u64 = 8;
/// Bytes of a record before its name.
const FIXED: usize = 100;
/// Bytes of an extent.
const EXTENT: u64 = 60;
/// What stands for the sector of a hole.
const HOLE: u32 = u32::MAX;
/// Bytes that one look reads: a record with a name of usual length.
const LOOK: usize = 512;
/// Bytes that a listing reads at once.
const LISTING: usize = 64 << 10;

/// The beginning of a record: what changes when a directory is closed comes first.
#[derive(Clone, Debug)]
pub struct Record {
    /// Extents of a file, or the places of what a directory holds.
    pub at: u64,
    pub count: u64,
    pub nlink: u32,
    pub meta: Meta,
    /// Bytes of content that are stored, without holes.
    pub stored: u64,
    pub parent: u64,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    /// Where the extended attributes lie, and how long they are.
    xattrs: (u64, usize),
}

/// A stretch of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where it begins in the file.
    pub start: u64,
    pub extent: Extent,
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the index of a mounted checkpoint is damaged")
}

/// Takes numbers off the front of a record.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn i64(&mut self) -> io::Result<i64> {
        Ok(i64::from_le_bytes(self.take()?))
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u16(&mut self) -> io::Result<u16> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    fn bytes(&mut self, n: usize) -> io::Result<Vec<u8>> {
        let (head, rest) = self.0.split_at_checked(n).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(head.to_vec())
    }
}

fn kind_of(code: u8) -> io::Result<Kind> {
    use Kind::*;
    let all = [File, Dir, Symlink, HardLink, Fifo, CharDevice, BlockDevice];
    all.into_iter().find(|k| *k as u8 == code).ok_or_else(damaged)
}

/// What is written again when a directory is closed.
pub(super) fn patch(at: u64, count: u64, nlink: u32) -> Vec<u8> {
    [&at.to_le_bytes()[..], &count.to_le_bytes(), &nlink.to_le_bytes()].concat()
}

/// The record of an entry that will lie at `place`, with its extents behind it.
pub(super) fn record(place: u64, parent: u64, name: &[u8], link: &[u8], e: &Entry) -> Vec<u8> {
    let mut xattrs = Vec::new();
    for (n, v) in &e.xattrs {
        xattrs.extend_from_slice(&(n.len() as u32).to_le_bytes());
        xattrs.extend_from_slice(&(v.len() as u32).to_le_bytes());
        xattrs.extend_from_slice(n);
        xattrs.extend_from_slice(v);
    }
    let m = &e.meta;
    let extents_at = place + (FIXED + name.len() + link.len() + xattrs.len()) as u64;
    let data = e.extents.iter().filter(|x| matches!(x, Extent::Data { .. }));
    let stored: u64 = data.map(Extent::len).sum();
    let mut out = patch(extents_at, e.extents.len() as u64, m.nlink);
    for n in [m.size, stored, parent, m.mtime.secs as u64, m.ctime.secs as u64] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    for n in [m.mtime.nanos, m.ctime.nanos, m.mode, m.uid, m.gid, m.rdev.0, m.rdev.1, xattrs.len() as u32] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    // Names and link targets of a catalog are at most 65,535 bytes long.
    for n in [name.len(), link.len()] {
        out.extend_from_slice(&(n as u16).to_le_bytes());
    }
    out.extend_from_slice(&[m.kind as u8, 0, 0, 0]);
    for part in [name, link, &xattrs] {
        out.extend_from_slice(part);
    }
    let mut start = 0u64;
    for x in &e.extents {
        let (sector, offset, fingerprint) = match *x {
            Extent::Hole(_) => (HOLE, 0, [0; 32]),
            Extent::Data { sector, offset, fingerprint, .. } => (sector, offset, fingerprint),
        };
        out.extend_from_slice(&start.to_le_bytes());
        out.extend_from_slice(&x.len().to_le_bytes());
        out.extend_from_slice(&sector.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&fingerprint);
        start += x.len();
    }
    out
}

/// An index that is complete.
#[derive(Debug)]
pub struct Table {
    file: File,
    len: u64,
}

/// Reads neighbouring records with few calls.
pub struct Looker<'a> {
    table: &'a Table,
    step: usize,
    at: u64,
    bytes: Vec<u8>,
}

impl Looker<'_> {
    fn get(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let inside = |me: &Self| {
            let from = usize::try_from(at.checked_sub(me.at)?).ok()?;
            Some(from..from.checked_add(len)?).filter(|r| r.end <= me.bytes.len())
        };
        if inside(self).is_none() {
            let room = self.table.len.saturating_sub(at).min(len.max(self.step) as u64);
            self.bytes.resize(usize::try_from(room).map_err(|_| damaged())?, 0);
            self.at = at;
            if let Err(e) = fsx::read_exact_at(&self.table.file, &mut self.bytes, at) {
                self.bytes.clear();
                return Err(e);
            }
        }
        let range = inside(self).ok_or_else(damaged)?;
        self.bytes.get(range).ok_or_else(damaged)
    }

    pub fn record(&mut self, at: u64) -> io::Result<Record> {
        let mut f = Fields(self.get(at, FIXED)?);
        let (list, count, nlink) = (f.u64()?, f.u64()?, f.u32()?);
        let (size, stored, parent) = (f.u64()?, f.u64()?, f.u64()?);
        let secs = (f.i64()?, f.i64()?);
        let nanos = (f.u32()?, f.u32()?);
        let (mode, uid, gid, rdev) = (f.u32()?, f.u32()?, f.u32()?, (f.u32()?, f.u32()?));
        let (xattrs_len, name_len, link_len) = (f.u32()? as usize, usize::from(f.u16()?), usize::from(f.u16()?));
        let [code, ..] = f.take::<4>()?;
        let meta = Meta {
            kind: kind_of(code)?,
            mode,
            uid,
            gid,
            mtime: Stamp { secs: secs.0, nanos: nanos.0 },
            ctime: Stamp { secs: secs.1, nanos: nanos.1 },
            ino: at,
            nlink,
            size,
            rdev,
        };
        let mut f = Fields(self.get(at + FIXED as u64, name_len + link_len)?);
        let (name, link) = (f.bytes(name_len)?, f.bytes(link_len)?);
        let xattrs = (at + (FIXED + name_len + link_len) as u64, xattrs_len);
        Ok(Record { at: list, count, nlink, meta, stored, parent, name, link, xattrs })
    }
}

impl Table {
    pub(super) fn new(file: File, len: u64) -> Self {
        Self { file, len }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    fn looker(&self, step: usize) -> Looker<'_> {
        Looker { table: self, step, at: 0, bytes: Vec::new() }
    }

    /// For many records that lie near each other.
    pub fn listing(&self) -> Looker<'_> {
        self.looker(LISTING)
    }

    pub fn record(&self, at: u64) -> io::Result<Record> {
        self.looker(LOOK).record(at)
    }

    /// Places of what a directory holds, from its `from`th on, at most `n`.
    pub fn children(&self, dir: &Record, from: u64, n: u64) -> io::Result<Vec<u64>> {
        let n = dir.count.saturating_sub(from).min(n);
        let mut bytes = vec![0u8; usize::try_from(n * 8).map_err(|_| damaged())?];
        fsx::read_exact_at(&self.file, &mut bytes, dir.at + from * 8)?;
        let (all, _) = bytes.as_chunks::<8>();
        Ok(all.iter().map(|b| u64::from_le_bytes(*b)).collect())
    }

    /// What a directory holds under this name.
    pub fn child(&self, dir: &Record, name: &[u8]) -> io::Result<Option<(u64, Record)>> {
        let (mut low, mut high) = (0, dir.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let at = self.children(dir, middle, 1)?.first().copied().ok_or_else(damaged)?;
            let record = self.record(at)?;
            match record.name[..].cmp(name) {
                Ordering::Equal => return Ok(Some((at, record))),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// What lies at a path inside the tree.
    pub fn find(&self, path: &[u8]) -> io::Result<Option<(u64, Record)>> {
        let mut here = (ROOT, self.record(ROOT)?);
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            if here.1.meta.kind != Kind::Dir {
                return Ok(None);
            }
            match self.child(&here.1, name)? {
                Some(next) => here = next,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// A hard link's record as that of the entry that it is a further name of.
    pub fn holder(&self, at: u64, record: Record) -> io::Result<(u64, Record)> {
        if record.meta.kind != Kind::HardLink {
            return Ok((at, record));
        }
        let holder = self.find(&record.link)?;
        let other = |r: &Record| matches!(r.meta.kind, Kind::HardLink | Kind::Dir);
        holder.filter(|(_, r)| !other(r)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the catalog does not hold what it is a further name of")
        })
    }

    /// The path inside the tree of the record at a place.
    pub fn path(&self, at: u64) -> io::Result<Vec<u8>> {
        let (mut names, mut here) = (Vec::new(), at);
        while here > ROOT {
            let record = self.record(here)?;
            // A record lies behind that of its directory, so this ends.
            if record.parent >= here {
                return Err(damaged());
            }
            names.push(record.name);
            here = record.parent;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    pub fn xattrs(&self, record: &Record) -> io::Result<Xattrs> {
        let mut bytes = vec![0u8; record.xattrs.1];
        fsx::read_exact_at(&self.file, &mut bytes, record.xattrs.0)?;
        let mut f = Fields(&bytes);
        let mut out = Xattrs::new();
        while !f.0.is_empty() {
            let (name, value) = (f.u32()? as usize, f.u32()? as usize);
            out.push((f.bytes(name)?, f.bytes(value)?));
        }
        Ok(out)
    }

    /// Stretch `i` of a file.
    fn stretch(&self, file: &Record, i: u64) -> io::Result<Stretch> {
        let mut bytes = [0u8; EXTENT as usize];
        fsx::read_exact_at(&self.file, &mut bytes, file.at + i * EXTENT)?;
        let mut f = Fields(&bytes);
        let (start, len, sector, offset) = (f.u64()?, f.u64()?, f.u32()?, f.u64()?);
        let extent = match sector {
            HOLE => Extent::Hole(len),
            sector => Extent::Data { sector, offset, len, fingerprint: f.take()? },
        };
        Ok(Stretch { start, extent })
    }

    /// The stretches of a file from the one that holds byte `offset` on.
    pub fn stretches<'a>(
        &'a self,
        file: &'a Record,
        offset: u64,
    ) -> io::Result<impl Iterator<Item = io::Result<Stretch>> + 'a> {
        // The first stretch that ends behind the offset.
        let (mut low, mut high) = (0, file.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let s = self.stretch(file, middle)?;
            if s.start + s.extent.len() <= offset { low = middle + 1 } else { high = middle }
        }
        Ok((low..file.count).map(move |i| self.stretch(file, i)))
    }
}
