//! Catalogs written anew: their lines go in, and what they name in sectors that are to go is moved into new ones.
//!
//! Content is read from the sectors, in the order in which it lies there, and compared with its fingerprint. What cannot be
//! read stays where it is, and is told of: then its sector stays too. Content of another zone must all come along.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::outlet::{Behind, Outlet};
use super::work::{HERE, News, PieceBody, Unit, Worker, member_name};
use super::{Moving, PackError, Shared};
use crate::catalog::{CatalogError, Line};
use crate::entry::{Entry, Extent, Kind};
use crate::index::Place;
use crate::limits::FRAME_TAR_MAX;
use crate::pax;
use crate::restore::{NoCopy, open_frames};

/// Bytes moved by one piece, about.
const PIECE_BYTES: u64 = 2 << 20;
/// Lines in one piece.
const PIECE_LINES: usize = 2048;
/// Extents of a large file in one piece.
const PIECE_EXTENTS: usize = 4096;
/// Tar bytes that are read together, about.
const READ_TAR: u64 = 4 << 20;
/// Bytes between two stretches that are still read together.
const READ_GAP: u64 = 64 << 10;

/// What stays where it is.
#[derive(Debug)]
pub(super) struct Unmoved {
    pub bytes: u64,
    pub why: String,
}

/// Hands out the lines in order.
pub(super) fn feed<I>(shared: &Shared<'_>, lines: I, out: Outlet<'_>) -> Result<(), PackError>
where
    I: Iterator<Item = Result<Line, CatalogError>>,
{
    let mut feed = Feed { shared, out, batch: Vec::new(), bytes: 0 };
    for line in lines {
        if feed.out.is_stopped() {
            return Err(PackError::Interrupted);
        }
        if feed.line(line?).is_err() {
            return feed.out.ended();
        }
    }
    feed.flush().or_else(|Behind| feed.out.ended())
}

struct Feed<'a> {
    shared: &'a Shared<'a>,
    out: Outlet<'a>,
    batch: Vec<Line>,
    bytes: u64,
}

impl Feed<'_> {
    fn flush(&mut self) -> Result<(), Behind> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        let bound = std::mem::take(&mut self.bytes) + 4096 * batch.len() as u64;
        self.out.send(PieceBody::Lines(batch), bound)
    }

    fn line(&mut self, line: Line) -> Result<(), Behind> {
        let moves = match &line {
            Line::Entry(e) => moving_bytes(self.shared, &e.extents),
            Line::Gone(_) => 0,
        };
        match line {
            Line::Entry(e) if moves > PIECE_BYTES || e.extents.len() > PIECE_EXTENTS => {
                self.flush()?;
                return self.large(e);
            }
            line => self.batch.push(line),
        }
        self.bytes += moves;
        if self.bytes >= PIECE_BYTES || self.batch.len() >= PIECE_LINES {
            self.flush()?;
        }
        Ok(())
    }

    fn large(&mut self, mut e: Entry) -> Result<(), Behind> {
        let (mut some, mut bytes, path) = (Vec::new(), 0, e.path.clone());
        for x in std::mem::take(&mut e.extents) {
            bytes += moving_bytes(self.shared, std::slice::from_ref(&x));
            some.push(x);
            if bytes >= PIECE_BYTES || some.len() >= PIECE_EXTENTS {
                let bound = std::mem::take(&mut bytes) + 4096 * some.len() as u64;
                let extents = std::mem::take(&mut some);
                self.out.send(PieceBody::Extents { path: path.clone(), extents, end: None }, bound)?;
            }
        }
        let bound = bytes + 4096 * some.len() as u64;
        self.out.send(PieceBody::Extents { path, extents: some, end: Some(Box::new(e)) }, bound)
    }
}

/// Bytes of these extents that leave their sectors.
fn moving_bytes(shared: &Shared<'_>, extents: &[Extent]) -> u64 {
    extents.iter().filter(|x| leaves(shared, x)).map(Extent::len).sum()
}

fn leaves(shared: &Shared<'_>, x: &Extent) -> bool {
    match x {
        Extent::Data { sector, .. } => shared.moving.is_some_and(|m| m.foreign.is_some() || m.leaves.contains(sector)),
        Extent::Hole(_) => false,
    }
}

/// A stretch of content that is moved.
#[derive(Clone, Copy)]
struct Stretch {
    sector: u32,
    offset: u64,
    len: u64,
    fingerprint: [u8; 32],
}

/// What was read, by where it lay; or why not.
type Contents = HashMap<(u32, u64), Result<Vec<u8>, NoCopy>>;

/// Where a stretch lies by now.
fn moved_before(shared: &Shared<'_>, fingerprint: &[u8; 32], len: u64) -> Option<Place> {
    // Another zone's fingerprint says nothing here.
    if shared.moving.is_some_and(|m| m.foreign.is_some()) {
        return None;
    }
    let place = shared.index.lookup(fingerprint, len)?;
    shared.moving.is_none_or(|m| !m.leaves.contains(&place.sector)).then_some(place)
}

/// Reads all that these extents name and that did not move yet.
fn read(shared: &Shared<'_>, extents: impl Iterator<Item = Extent>) -> Contents {
    let mut wanted: Vec<Stretch> = Vec::new();
    for x in extents.filter(|x| leaves(shared, x)) {
        if let Extent::Data { sector, offset, len, fingerprint } = x
            && moved_before(shared, &fingerprint, len).is_none()
        {
            wanted.push(Stretch { sector, offset, len, fingerprint });
        }
    }
    wanted.sort_unstable_by_key(|s| (s.sector, s.offset));
    wanted.dedup_by_key(|s| (s.sector, s.offset));
    let mut out = Contents::new();
    let mut rest = &wanted[..];
    while let Some(first) = rest.first() {
        let (mut n, mut end) = (0, first.offset);
        for s in rest {
            // They are sorted: within a sector offsets rise.
            let near = s.offset <= end.saturating_add(READ_GAP) && s.offset.saturating_sub(first.offset) < READ_TAR;
            if s.sector != first.sector || !near {
                break;
            }
            end = end.max(s.offset.saturating_add(s.len));
            n += 1;
        }
        let (some, after) = rest.split_at(n.max(1));
        read_some(shared, some, end, &mut out);
        rest = after;
    }
    out
}

/// Reads neighbouring stretches of one sector: from one copy, else from the next.
fn read_some(shared: &Shared<'_>, some: &[Stretch], end: u64, out: &mut Contents) {
    let (Some(first), Some(moving)) = (some.first(), shared.moving) else { return };
    let opened = open_any(moving, first, end);
    for s in some {
        let content = match &opened {
            Ok((tar, start)) => take(shared, s, tar, *start),
            Err(why) => Err(why.clone()),
        };
        out.insert((s.sector, s.offset), content);
    }
}

/// The frames of a range, from whichever copy can be read.
fn open_any(moving: Moving<'_>, first: &Stretch, end: u64) -> Result<(Vec<u8>, u64), NoCopy> {
    let mut reader = moving.sectors.open(first.sector)?;
    loop {
        match open_frames(&reader, first.offset, end) {
            Ok(opened) => return Ok(opened),
            // Each failure takes a copy out: there is an end.
            Err(e) => reader = moving.sectors.after_failure(first.sector, &reader, &e)?,
        }
    }
}

fn take(shared: &Shared<'_>, s: &Stretch, tar: &[u8], start: u64) -> Result<Vec<u8>, NoCopy> {
    let wrong = |why: &str| NoCopy { why: why.to_owned(), damage: true };
    let key = shared.moving.and_then(|m| m.foreign).unwrap_or(&shared.fingerprint_key);
    let range = s.offset.checked_sub(start).map(|from| from as usize..from as usize + s.len as usize);
    let content = range.and_then(|r| tar.get(r)).ok_or_else(|| wrong("the catalog names content beyond its sector"))?;
    if blake3::keyed_hash(key, content) != s.fingerprint {
        return Err(wrong("the content differs from its fingerprint"));
    }
    shared.progress.read.fetch_add(s.len, Ordering::Relaxed);
    Ok(content.to_vec())
}

/// Adds content to a tar as a member without a name of its own. Answers where in the tar it lies.
fn add_member(tar: &mut Vec<u8>, name: &str, content: &[u8]) -> u64 {
    pax::append_simple(tar, name, content.len() as u64);
    let at = tar.len() as u64;
    tar.extend_from_slice(content);
    tar.resize(tar.len() + pax::padding(content.len() as u64), 0);
    at
}

/// Extents on their way: what they were and what they become.
struct Mover<'a> {
    shared: &'a Shared<'a>,
    contents: Contents,
    /// What this piece has put into its tar, by where it lay.
    here: HashMap<(u32, u64), Extent>,
    unmoved: Option<Unmoved>,
}

impl Mover<'_> {
    /// The extent as it is from now on. `add` puts content into the tar and answers where it lies there.
    fn extent(
        &mut self,
        path: &[u8],
        x: &Extent,
        add: &mut dyn FnMut(&[u8]) -> Result<u64, PackError>,
    ) -> Result<Extent, PackError> {
        let Extent::Data { sector, offset, len, fingerprint } = *x else { return Ok(*x) };
        if !leaves(self.shared, x) {
            return Ok(*x);
        }
        if let Some(moved) = self.here.get(&(sector, offset)) {
            return Ok(*moved);
        }
        let foreign = self.shared.moving.is_some_and(|m| m.foreign.is_some());
        match self.contents.get(&(sector, offset)) {
            Some(Ok(content)) => {
                let own = |c: &[u8]| *blake3::keyed_hash(&self.shared.fingerprint_key, c).as_bytes();
                let fingerprint = if foreign { own(content) } else { fingerprint };
                let known = if foreign { self.shared.index.lookup(&fingerprint, len) } else { None };
                let moved = match known {
                    Some(p) => Extent::Data { sector: p.sector, offset: p.offset, len, fingerprint },
                    None => Extent::Data { sector: HERE, offset: add(content)?, len, fingerprint },
                };
                self.here.insert((sector, offset), moved);
                Ok(moved)
            }
            Some(Err(no)) if foreign => {
                let path = String::from_utf8_lossy(path).into_owned();
                Err(PackError::Content { path, source: no.clone() })
            }
            Some(Err(no)) => {
                let why = &no.why;
                let told = self.unmoved.get_or_insert_with(|| Unmoved { bytes: 0, why: why.clone() });
                told.bytes += len;
                Ok(*x)
            }
            None => match moved_before(self.shared, &fingerprint, len) {
                Some(p) => Ok(Extent::Data { sector: p.sector, offset: p.offset, len, fingerprint }),
                None => Ok(*x),
            },
        }
    }
}

impl Worker<'_> {
    /// Lines of small files and of all else: one run of frames.
    pub(super) fn moved_lines(&mut self, lines: Vec<Line>) -> Result<Unit, PackError> {
        let extents = lines.iter().flat_map(|l| match l {
            Line::Entry(e) => e.extents.as_slice(),
            Line::Gone(_) => &[],
        });
        let contents = read(self.shared, extents.copied());
        let mut mover = Mover { shared: self.shared, contents, here: HashMap::new(), unmoved: None };
        let mut unit = Unit { news: Vec::with_capacity(lines.len()), ..Unit::default() };
        let mut tar = std::mem::take(&mut self.tar);
        tar.clear();
        let mut n = 0;
        for line in lines {
            let mut e = match line {
                Line::Gone(path) => {
                    unit.news.push(News::Gone(path));
                    continue;
                }
                Line::Entry(e) => e,
            };
            let old = std::mem::take(&mut e.extents);
            if old.is_empty() && self.shared.moving.is_some_and(|m| m.foreign.is_some()) {
                self.bare_member(&mut tar, &e);
            }
            // A file of one piece is an ordinary member again, as it was.
            let whole = e.meta.kind == Kind::File && old.len() == 1;
            let mut new = Vec::with_capacity(old.len());
            for x in &old {
                let mut add = |content: &[u8]| {
                    n += 1;
                    if whole && content.len() as u64 == e.meta.size {
                        let name = member_name(&self.task.prefix, &e.path);
                        pax::append_header(&mut tar, &name, &e.meta, b"", &e.xattrs, e.meta.size, None);
                        let at = tar.len() as u64;
                        tar.extend_from_slice(content);
                        tar.resize(tar.len() + pax::padding(e.meta.size), 0);
                        return Ok(at);
                    }
                    let name =
                        format!(".zoneward/extents/{:.8}-m-{:08}-{n:06}", self.task.layer.to_string(), tar.len());
                    Ok(add_member(&mut tar, &name, content))
                };
                new.push(mover.extent(&e.path, x, &mut add)?);
            }
            e.extents = new;
            unit.news.push(News::Moved(e, mover.unmoved.take()));
        }
        for piece in tar.chunks(FRAME_TAR_MAX) {
            unit.add_frame(&mut self.writer, piece)?;
        }
        self.tar = tar;
        Ok(unit)
    }

    /// The member of what has no content: a directory, a link, an empty file.
    fn bare_member(&self, tar: &mut Vec<u8>, e: &Entry) {
        let name = member_name(&self.task.prefix, &e.path);
        match e.meta.kind {
            Kind::HardLink => {
                let holder = member_name(&self.task.prefix, &e.link);
                pax::append_header(tar, &name, &e.meta, &holder, &[], 0, None);
            }
            _ => pax::append_header(tar, &name, &e.meta, &e.link, &e.xattrs, 0, None),
        }
    }

    /// A stretch of a large file.
    pub(super) fn moved_extents(
        &mut self,
        seq: u64,
        path: &[u8],
        extents: Vec<Extent>,
        end: Option<Box<Entry>>,
    ) -> Result<Vec<Unit>, PackError> {
        let contents = read(self.shared, extents.iter().copied());
        let mut mover = Mover { shared: self.shared, contents, here: HashMap::new(), unmoved: None };
        let mut units = Vec::new();
        let mut some = Vec::new();
        for x in &extents {
            let mut unit = Unit::default();
            let mut add = |content: &[u8]| {
                let name = format!(".zoneward/extents/{:.8}-{seq:08}-{:04}", self.task.layer.to_string(), units.len());
                let mut head = Vec::new();
                pax::append_simple(&mut head, &name, content.len() as u64);
                unit.add_frame(&mut self.writer, &head)?;
                unit.add_uniform(&mut self.writer, content)?;
                let pad = pax::padding(content.len() as u64);
                if pad > 0 {
                    unit.add_frame(&mut self.writer, &[0; 512][..pad])?;
                }
                Ok(head.len() as u64)
            };
            some.push(mover.extent(path, x, &mut add)?);
            if !unit.frames.is_empty() {
                unit.news.push(News::Extents(std::mem::take(&mut some)));
                units.push(unit);
                // Each unit may lie in another sector.
                mover.here.clear();
            }
        }
        let mut last = Unit::default();
        last.news.push(News::Extents(some));
        match (end, mover.unmoved) {
            (Some(e), unmoved) => last.news.push(News::MovedLarge(*e, unmoved)),
            (None, Some(unmoved)) => last.news.push(News::Unmoved(unmoved)),
            (None, None) => {}
        }
        units.push(last);
        Ok(units)
    }
}
