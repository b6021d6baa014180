//! The last stage: takes pieces in order, gives everything its place, writes catalog and index, opens and seals sectors.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender};
use serde::{Deserialize, Serialize};

use super::work::{Done, HERE, Large, LargeEnd, News, Unit};
use super::{PackError, PackReport, PlacedPart, RAW_BUFFERS_MAX, REPORT_MAX, Sectors, Shared, Task};
use crate::catalog::{PartWriter, SectorTable};
use crate::entry::{Entry, Extent, Kind};
use crate::frames::FrameWriter;
use crate::ids::{LayerId, SectorId, SourceId};
use crate::index::Place;
use crate::pax;
use crate::sector_writer::{SealJob, SectorWriter};
use crate::walk::Fallback;

/// A catalog part is written when it has grown to this: the memory it takes is bounded, and so is reading it.
const PART_FLUSH_LEN: usize = 2 << 20;
/// Why a further name could not be stored.
const NO_HOLDER: &str = "a file is read by the first of its names, which is gone or cannot be read";
/// Room kept for the index, the end of the tar and what else closes a sector.
const CLOSING_ROOM: u64 = 64 << 10;

/// The index member (`docs/format.md` §4.1).
#[derive(Debug, Serialize, Deserialize)]
pub struct IndexJson {
    pub format: u32,
    pub sector: SectorId,
    pub catalogs: Vec<IndexPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<IndexSystem>,
}

/// One catalog part, in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexPart {
    pub source: SourceId,
    pub layer: LayerId,
    pub part: u32,
    pub offset: u64,
    pub length: u64,
    pub entries: u64,
}

/// Where the system data lies, in the index of a system sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSystem {
    pub state: (u64, u64),
    pub secret: (u64, u64),
}

struct Open {
    writer: SectorWriter,
    number: u32,
    parts: Vec<(PlacedPart, Vec<u8>)>,
}

/// The task under way.
struct Current {
    source: SourceId,
    layer: LayerId,
    next_part: u32,
    part: Option<PartWriter>,
    /// Bytes still expected, with later tasks.
    remaining: u64,
    extents: Vec<Extent>,
    /// A whole member is under way: the sector must not end.
    inside: bool,
    /// Paths that could not be read, and whether the base's line stays for each.
    failed: HashMap<Vec<u8>, bool>,
}

pub(super) struct Placing<'a, S: Sectors> {
    sectors: &'a mut S,
    table: SectorTable,
    writer: FrameWriter,
    open: Option<Open>,
    current: Option<Current>,
    jobs: Option<Sender<SealJob>>,
    report: PackReport,
}

impl<'a, S: Sectors> Placing<'a, S> {
    pub fn new(sectors: &'a mut S, table: &SectorTable, level: i32) -> Result<Self, PackError> {
        let writer = FrameWriter::new(level).map_err(PackError::Compress)?;
        let table = table.clone();
        Ok(Self { sectors, table, writer, open: None, current: None, jobs: None, report: PackReport::default() })
    }

    pub fn begin_task(
        &mut self,
        task: &Task,
        estimate_after: u64,
        shared: &Shared<'_>,
        jobs: &Sender<SealJob>,
    ) -> Result<(), PackError> {
        self.jobs = Some(jobs.clone());
        if let Some(open) = &mut self.open {
            open.writer.set_jobs(Some(jobs.clone()));
        }
        self.current = Some(Current {
            source: task.source,
            layer: task.layer,
            next_part: 0,
            part: None,
            remaining: task.estimate + estimate_after,
            extents: Vec::new(),
            inside: false,
            failed: HashMap::new(),
        });
        if self.open.is_none() {
            self.open_sector(task.estimate + estimate_after, 0)?;
        }
        self.tell_free(shared);
        Ok(())
    }

    /// From here on segments are sealed by this thread; the packing threads can end.
    pub fn end_task_threads(&mut self) {
        self.jobs = None;
        if let Some(open) = &mut self.open {
            open.writer.set_jobs(None);
        }
    }

    fn open_sector(&mut self, estimate: u64, at_least: u64) -> Result<(), PackError> {
        let o = self.sectors.open(estimate, at_least)?;
        let number = self.table.number(o.facts.sector);
        let writer = SectorWriter::begin(o.facts, &o.header, o.keys, o.out, self.jobs.clone())?;
        self.open = Some(Open { writer, number, parts: Vec::new() });
        Ok(())
    }

    /// Bytes that the closing of the sector will take, about.
    fn reserve(&self) -> u64 {
        let part = self.current.as_ref().and_then(|c| c.part.as_ref()).map_or(0, PartWriter::len) as u64;
        let parts = self.open.as_ref().map_or(0, |o| o.parts.len()) as u64;
        CLOSING_ROOM + part + part / 64 + 256 * parts
    }

    fn room(&self) -> u64 {
        let reserve = self.reserve();
        self.open.as_ref().map_or(0, |o| o.writer.room(reserve))
    }

    fn tell_free(&self, shared: &Shared<'_>) {
        shared.free.store(self.room(), Ordering::SeqCst);
    }

    /// Takes pieces until the stage before ends.
    pub fn run(
        &mut self,
        _task: &Task,
        shared: &Shared<'_>,
        done: &Receiver<Done>,
        permits: &Sender<()>,
    ) -> Result<PackReport, PackError> {
        let mut waiting: BTreeMap<u64, Done> = BTreeMap::new();
        let mut next = 0;
        for piece in done {
            if piece.result.is_err() {
                return Err(piece.result.err().unwrap_or(PackError::Threads));
            }
            waiting.insert(piece.seq, piece);
            while let Some(piece) = waiting.remove(&next) {
                for unit in piece.result? {
                    self.unit(unit, shared)?;
                }
                self.tell_free(shared);
                shared.placed.fetch_add(piece.tar_bound, Ordering::SeqCst);
                next += 1;
                // The stage before may have ended: then nobody needs the permit.
                let _ = permits.try_send(());
            }
        }
        if !waiting.is_empty() {
            return Err(PackError::Threads);
        }
        self.flush_part()?;
        self.current = None;
        Ok(std::mem::take(&mut self.report))
    }

    fn unit(&mut self, unit: Unit, shared: &Shared<'_>) -> Result<(), PackError> {
        let inside = self.current.as_ref().is_some_and(|c| c.inside);
        let catalog = 300 * unit.news.len() as u64;
        let need = unit.raw.len() as u64 + catalog;
        if !inside && !unit.open_end && need > self.room() && !unit.frames.is_empty() {
            self.close_sector()?;
            let remaining = self.current.as_ref().map_or(0, |c| c.remaining);
            self.open_sector(remaining.max(need), need + 2 * CLOSING_ROOM)?;
        }
        let open = self.open.as_mut().ok_or(PackError::Threads)?;
        let base = open.writer.tar_len();
        let mut at = 0;
        let mut tar = 0;
        for (raw_len, tar_len) in &unit.frames {
            open.writer.add_frame(&unit.raw[at..at + raw_len], *tar_len)?;
            at += raw_len;
            tar += tar_len;
        }
        shared.progress.stored.fetch_add(unit.raw.len() as u64, Ordering::Relaxed);
        if let Some(c) = &mut self.current {
            c.remaining = c.remaining.saturating_sub(tar as u64);
            c.inside = unit.open_end;
        }
        for news in unit.news {
            self.news(news, base, shared)?;
        }
        if unit.raw.capacity() > 0 {
            shared.raws.give(unit.raw, RAW_BUFFERS_MAX);
        }
        let full = self.current.as_ref().and_then(|c| c.part.as_ref()).is_some_and(|p| p.len() >= PART_FLUSH_LEN);
        if full && !unit.open_end {
            self.flush_part()?;
        }
        Ok(())
    }

    /// Gives extents their sector and offset, and remembers their chunks.
    fn settle(&mut self, extents: &mut [Extent], base: u64, shared: &Shared<'_>) -> Result<(), PackError> {
        let number = self.open.as_ref().map_or(0, |o| o.number);
        for x in extents {
            if let Extent::Data { sector, offset, len, fingerprint } = x
                && *sector == HERE
            {
                *sector = number;
                *offset += base;
                self.report.new_bytes += *len;
                shared.progress.new_bytes.fetch_add(*len, Ordering::Relaxed);
                let place = Place { sector: number, offset: *offset, len: *len as u32 };
                shared.index.insert(*fingerprint, place).map_err(PackError::Index)?;
            }
        }
        Ok(())
    }

    fn news(&mut self, news: News, base: u64, shared: &Shared<'_>) -> Result<(), PackError> {
        match news {
            News::Entry(mut e) => {
                self.settle(&mut e.extents, base, shared)?;
                self.entry(e, shared)
            }
            News::Link(e, fallback) if self.fell(&e.link).is_some() => self.unread(e.path, NO_HOLDER.into(), fallback),
            News::Link(e, _) => self.entry(e, shared),
            // What the first name holds is gone, and was to be stored anew.
            News::Kept(e) if e.meta.kind == Kind::HardLink && self.fell(&e.link).is_some() => {
                let path = e.path.clone();
                self.unread(path, NO_HOLDER.into(), Fallback { lost: None, line: Some(Arc::new(e)) })
            }
            News::Kept(e) => self.part(|p| p.push(&e)),
            News::Moved(mut e, unmoved) => {
                self.settle(&mut e.extents, base, shared)?;
                self.unmoved(unmoved);
                self.part(|p| p.push(&e))
            }
            News::Unmoved(unmoved) => {
                self.unmoved(Some(unmoved));
                Ok(())
            }
            News::MovedLarge(mut e, unmoved) => {
                e.extents = self.current.as_mut().map(|c| std::mem::take(&mut c.extents)).unwrap_or_default();
                self.unmoved(unmoved);
                self.part(|p| p.push(&e))
            }
            News::Gone(path) => {
                self.part(|p| p.push_gone(&path))?;
                Ok(())
            }
            News::Extents(mut extents) => {
                self.settle(&mut extents, base, shared)?;
                if let Some(c) = &mut self.current {
                    c.extents.append(&mut extents);
                }
                Ok(())
            }
            News::LargeEnd(large, end) => self.large_end(&large, end, shared),
            News::Failed { path, error, fallback } if error.kind() == std::io::ErrorKind::NotFound => {
                self.report.vanished += 1;
                // Its other names would point to nothing: they wait for the next backup.
                self.fall_back(path, fallback)
            }
            News::Failed { path, error, fallback } => self.unread(path, error.to_string(), fallback),
            News::Unsteady(path) => {
                self.unsteady(path);
                Ok(())
            }
        }
    }

    fn unmoved(&mut self, unmoved: Option<super::moving::Unmoved>) {
        let Some(u) = unmoved else { return };
        self.report.unmoved_bytes += u.bytes;
        self.report.unmoved_why.get_or_insert(u.why);
    }

    fn unsteady(&mut self, path: Vec<u8>) {
        self.report.unsteady_count += 1;
        if self.report.unsteady.len() < REPORT_MAX {
            self.report.unsteady.push(path);
        }
    }

    fn unread(&mut self, path: Vec<u8>, why: String, fallback: Fallback) -> Result<(), PackError> {
        self.report.unread_count += 1;
        if self.report.unread.len() < REPORT_MAX {
            self.report.unread.push((path.clone(), why));
        }
        self.fall_back(path, fallback)
    }

    /// Whether a path could not be read, and then whether the base's line stays for it.
    fn fell(&self, path: &[u8]) -> Option<bool> {
        self.current.as_ref()?.failed.get(path).copied()
    }

    /// In place of what could not be read stays what the base holds of it, if anything.
    fn fall_back(&mut self, path: Vec<u8>, fallback: Fallback) -> Result<(), PackError> {
        if let Some(bytes) = fallback.lost {
            self.report.absent += 1;
            self.report.absent_bytes += bytes;
        }
        // A further name stays if what it is a name of does.
        let stands = |e: &Entry| e.meta.kind != Kind::HardLink || self.fell(&e.link) == Some(true);
        let line = fallback.line.filter(|e| stands(e));
        if let Some(c) = &mut self.current {
            c.failed.insert(path, line.is_some());
        }
        match line {
            Some(line) => self.part(|p| p.push(&line)),
            None => Ok(()),
        }
    }

    fn large_end(&mut self, large: &Arc<Large>, end: LargeEnd, shared: &Shared<'_>) -> Result<(), PackError> {
        let extents = self.current.as_mut().map(|c| std::mem::take(&mut c.extents)).unwrap_or_default();
        if let Some(e) = end.error {
            return self.unread(large.path.clone(), e.to_string(), large.fallback.clone());
        }
        if end.again {
            return Ok(());
        }
        if end.unsteady {
            self.unsteady(large.path.clone());
        }
        let entry = Entry {
            path: large.path.clone(),
            meta: large.meta,
            xattrs: large.xattrs.clone(),
            link: Vec::new(),
            extents,
            unsteady: end.unsteady,
        };
        self.entry(entry, shared)
    }

    fn entry(&mut self, mut e: Entry, shared: &Shared<'_>) -> Result<(), PackError> {
        if e.meta.ctime >= shared.settings.racy_after || e.unsteady {
            // It may change once more within the same tick of the clock: no inode makes the next scan look again.
            e.meta.ino = 0;
        }
        self.report.entries += 1;
        shared.progress.entries.fetch_add(1, Ordering::Relaxed);
        self.part(|p| p.push(&e))
    }

    /// Adds to the part under way; begins one if there is none.
    fn part(&mut self, add: impl FnOnce(&mut PartWriter)) -> Result<(), PackError> {
        let open = self.open.as_ref().ok_or(PackError::Threads)?;
        let c = self.current.as_mut().ok_or(PackError::Threads)?;
        let part = c
            .part
            .get_or_insert_with(|| PartWriter::new(&self.table, open.writer.sector(), c.source, c.layer, c.next_part));
        add(part);
        Ok(())
    }

    /// Writes the part under way as a member.
    fn flush_part(&mut self) -> Result<(), PackError> {
        let (Some(c), Some(open)) = (&mut self.current, &mut self.open) else { return Ok(()) };
        let Some(part) = c.part.take() else { return Ok(()) };
        let refs = part.refs();
        let (lines, entries) = part.finish();
        let mut head = Vec::new();
        pax::append_simple(&mut head, &format!(".zoneward/catalog/{:06}.jsonl", open.parts.len()), lines.len() as u64);
        open.writer.add_tar(&mut self.writer, &head)?;
        let offset = open.writer.tar_len();
        let mut frames = Vec::new();
        for piece in lines.chunks(1 << 20) {
            let before = frames.len();
            self.writer.append(piece, &mut frames).map_err(PackError::Compress)?;
            open.writer.add_frame(&frames[before..], piece.len())?;
        }
        let pad = pax::padding(lines.len() as u64);
        if pad > 0 {
            open.writer.add_tar(&mut self.writer, &[0; 512][..pad])?;
        }
        let placed = PlacedPart {
            source: c.source,
            layer: c.layer,
            part: c.next_part,
            offset,
            length: lines.len() as u64,
            entries,
            refs,
        };
        c.next_part += 1;
        open.parts.push((placed, frames));
        Ok(())
    }

    fn close_sector(&mut self) -> Result<(), PackError> {
        self.flush_part()?;
        let Some(open) = self.open.take() else { return Ok(()) };
        let catalogs = open
            .parts
            .iter()
            .map(|(p, _)| IndexPart {
                source: p.source,
                layer: p.layer,
                part: p.part,
                offset: p.offset,
                length: p.length,
                entries: p.entries,
            })
            .collect();
        let index = IndexJson { format: 1, sector: open.writer.sector(), catalogs, system: None };
        let json = serde_json::to_vec(&index).map_err(|e| PackError::Compress(e.into()))?;
        let sector = open.writer.sector();
        let done = open.writer.finish(&mut self.writer, &json)?;
        self.sectors.seal(sector, done, open.parts)
    }

    pub fn finish(&mut self) -> Result<(), PackError> {
        self.close_sector()
    }
}
