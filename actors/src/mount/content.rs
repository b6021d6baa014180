//! The content of files, frame by frame: opened once, checked against its fingerprint, kept for a while.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use zoneward_consensus::model::Copy as BackupCopy;
use zoneward_sectors::entry::Extent;
use zoneward_sectors::frames::FrameReader;
use zoneward_sectors::ids::{CopyId, TargetId};
use zoneward_sectors::sector_reader::{SectorReadError, SectorReader};

use super::table::{Record, Table};
use crate::open::chain;
use crate::still::Still;

/// Bytes of opened frames that are kept.
const KEPT: usize = 64 << 20;
/// Sectors that are kept open: each holds a file and a seek table.
const OPEN_MAX: usize = 64;
/// Stretches of which it is kept that they were found right.
const RIGHT_MAX: usize = 4096;
/// Rooms of frames that are kept for others.
const SPARE_MAX: usize = 4;
/// How long a target that failed is asked after all others.
const AWAY: Duration = Duration::from_secs(30);
/// How long it is not asked at all: a program that reads on meets one failure, not hundreds.
const SILENT: Duration = Duration::from_secs(2);

/// A frame of a sector, opened.
struct Frame {
    /// Tells it from the same frame when it is opened again.
    id: u64,
    /// Where it begins in the tar stream.
    start: u64,
    tar: Vec<u8>,
}

/// Frame `usize` of sector `u32`.
type FrameKey = (u32, usize);
/// A frame, once somebody has opened it. Others wait for the one who does.
type Slot = Arc<Mutex<Option<Arc<Frame>>>>;
/// Sector, offset, length, fingerprint.
type Place = (u32, u64, u64, [u8; 32]);

#[derive(Default)]
struct Kept {
    frames: HashMap<FrameKey, (Slot, u64, usize)>,
    bytes: usize,
    /// Counts uses: what was used longest ago goes first.
    now: u64,
    /// Room of frames that went: with room made anew for each, the process would grow to several times what is kept.
    spare: Vec<Vec<u8>>,
}

impl Kept {
    fn slot(&mut self, key: FrameKey) -> Slot {
        self.now += 1;
        let now = self.now;
        let (slot, used, _) = self.frames.entry(key).or_insert_with(|| (Slot::default(), now, 0));
        *used = now;
        slot.clone()
    }

    fn grown(&mut self, key: FrameKey, len: usize) {
        if let Some((_, _, bytes)) = self.frames.get_mut(&key) {
            self.bytes += len - (*bytes).min(len);
            *bytes = len;
        }
        while self.bytes > KEPT {
            let oldest = self.frames.iter().filter(|(k, (_, _, n))| **k != key && *n > 0).min_by_key(|(_, v)| v.1);
            let Some(oldest) = oldest.map(|(k, _)| *k) else { break };
            self.forget(oldest);
        }
    }

    fn forget(&mut self, key: FrameKey) {
        let Some((slot, _, n)) = self.frames.remove(&key) else { return };
        self.bytes -= n;
        // Only if nobody reads from it just now.
        let frame = Arc::into_inner(slot).and_then(|s| s.into_inner().unwrap_or_else(|e| e.into_inner()));
        if let Some(frame) = frame.and_then(Arc::into_inner)
            && self.spare.len() < SPARE_MAX
        {
            self.spare.push(frame.tar);
        }
    }
}

/// Reads content of files.
pub(super) struct Content {
    still: Arc<Still>,
    kept: Mutex<Kept>,
    readers: Mutex<HashMap<CopyId, Arc<SectorReader>>>,
    /// Stretches that were found right, with the frames in which.
    right: Mutex<HashMap<Place, Vec<u64>>>,
    /// When a target failed last, and how.
    away: Mutex<HashMap<TargetId, (Instant, String)>>,
    next_id: AtomicU64,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

impl Content {
    pub fn new(still: Arc<Still>) -> Self {
        Self {
            still,
            kept: Mutex::default(),
            readers: Mutex::default(),
            right: Mutex::default(),
            away: Mutex::default(),
            next_id: AtomicU64::new(0),
        }
    }

    /// Bytes of a file from `offset` on, as many as asked for or up to its end.
    pub fn read(&self, table: &Table, file: &Record, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(len).min(file.meta.size);
        let mut out = Vec::with_capacity(end.saturating_sub(offset) as usize);
        for stretch in table.stretches(file, offset)? {
            let s = stretch?;
            if s.start >= end {
                break;
            }
            // What of the stretch is wanted.
            let from = offset.max(s.start) - s.start;
            let to = end.min(s.start + s.extent.len()) - s.start;
            match s.extent {
                Extent::Hole(_) => out.resize(out.len() + (to - from) as usize, 0),
                Extent::Data { sector, offset, len, fingerprint } => {
                    self.stretch((sector, offset, len, fingerprint), from..to, &mut out)?
                }
            }
        }
        Ok(out)
    }

    /// A part of a stretch, from the first copy of its sector that has it right.
    fn stretch(&self, place: Place, part: Range<u64>, out: &mut Vec<u8>) -> io::Result<()> {
        let mut copies: Vec<&BackupCopy> = self.still.copies(place.0).iter().collect();
        let away = |c: &BackupCopy| lock(&self.away).get(&c.target).is_some_and(|(t, _)| t.elapsed() < AWAY);
        copies.sort_by_cached_key(|c| away(c));
        let (mut why, mut damage) = (Vec::new(), false);
        for copy in &copies {
            let failed = match self.try_copy(copy, place, part.clone(), out) {
                Ok(()) => return Ok(()),
                Err(e) => e,
            };
            damage |= failed.is_damage();
            // That the zone has no key says nothing of the target.
            if !failed.is_damage() && !matches!(failed, SectorReadError::OwnerOnly) {
                let silent = lock(&self.away).get(&copy.target).is_some_and(|(t, _)| t.elapsed() < SILENT);
                if !silent {
                    let why = match &failed {
                        SectorReadError::Io(e) => chain(e),
                        e => chain(e),
                    };
                    lock(&self.away).insert(copy.target, (Instant::now(), why));
                }
            }
            // It is opened anew when it is asked again: its target may be another one by then.
            lock(&self.readers).remove(&copy.id);
            let target = self.still.target_name(copy.target);
            why.push(format!("copy {} on target {target}: {}", copy.id, chain(&failed)));
        }
        if why.is_empty() {
            (why, damage) = (vec!["no copy of it is stored".into()], true);
        }
        let kind = if damage { io::ErrorKind::InvalidData } else { io::ErrorKind::Other };
        Err(io::Error::new(kind, why.join("; ")))
    }

    fn reader(&self, copy: &BackupCopy) -> Result<Arc<SectorReader>, SectorReadError> {
        if let Some(r) = lock(&self.readers).get(&copy.id) {
            return Ok(r.clone());
        }
        let failed =
            lock(&self.away).get(&copy.target).filter(|(t, _)| t.elapsed() < SILENT).map(|(_, why)| why.clone());
        if let Some(why) = failed {
            return Err(io::Error::other(why).into());
        }
        // Without the lock: a slow target holds up only those who read from it.
        let reader = Arc::new(self.still.open(copy)?);
        let mut readers = lock(&self.readers);
        if readers.len() >= OPEN_MAX {
            readers.clear();
        }
        readers.insert(copy.id, reader.clone());
        Ok(reader)
    }

    fn try_copy(
        &self,
        copy: &BackupCopy,
        place: Place,
        part: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), SectorReadError> {
        let (sector, offset, len, fingerprint) = place;
        let reader = self.reader(copy)?;
        let end = offset.checked_add(len).ok_or(SectorReadError::Range)?;
        let wanted = offset + part.start..(offset + part.end).min(end);
        let frames = self.frames(&reader, sector, wanted.clone())?;
        let known = lock(&self.right).get(&place).cloned().unwrap_or_default();
        if !frames.iter().all(|f| known.contains(&f.id)) {
            let all = self.frames(&reader, sector, offset..end)?;
            let mut hash = blake3::Hasher::new_keyed(self.still.fingerprint_key());
            for f in &all {
                hash.update(f.range(&(offset..end)));
            }
            if *hash.finalize().as_bytes() != fingerprint {
                // Another copy is to be opened anew, not found here.
                let numbers = self.numbers(&reader, offset..end)?;
                numbers.for_each(|i| lock(&self.kept).forget((sector, i)));
                return Err(SectorReadError::Fingerprint);
            }
            let mut right = lock(&self.right);
            if right.len() >= RIGHT_MAX {
                right.clear();
            }
            right.insert(place, all.iter().map(|f| f.id).collect());
            drop(right);
            // These are the frames that were compared: of others that were opened meanwhile nothing is known.
            all.iter().for_each(|f| out.extend_from_slice(f.range(&wanted)));
            return Ok(());
        }
        frames.iter().for_each(|f| out.extend_from_slice(f.range(&wanted)));
        Ok(())
    }

    /// The numbers of the frames that hold a range of the tar stream.
    fn numbers(
        &self,
        reader: &SectorReader,
        tar: Range<u64>,
    ) -> Result<std::ops::RangeInclusive<usize>, SectorReadError> {
        let table = reader.table();
        let first = table.find(tar.start).ok_or(SectorReadError::Range)?;
        let last = table.find(tar.end.saturating_sub(1)).ok_or(SectorReadError::Range)?;
        Ok(first..=last)
    }

    fn frames(&self, reader: &SectorReader, sector: u32, tar: Range<u64>) -> Result<Vec<Arc<Frame>>, SectorReadError> {
        self.numbers(reader, tar)?.map(|i| self.frame(reader, (sector, i))).collect()
    }

    fn frame(&self, reader: &SectorReader, key: FrameKey) -> Result<Arc<Frame>, SectorReadError> {
        let slot = lock(&self.kept).slot(key);
        let mut slot = lock(&slot);
        if let Some(frame) = &*slot {
            return Ok(frame.clone());
        }
        let (_, tar) = reader.table().frame(key.1).ok_or(SectorReadError::Range)?;
        let room = lock(&self.kept).spare.pop().unwrap_or_default();
        let bytes = open_frame(reader, key.1, room).inspect_err(|_| lock(&self.kept).forget(key))?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = Arc::new(Frame { id, start: tar.start, tar: bytes });
        *slot = Some(frame.clone());
        // What it takes, not what it holds: the room may be that of a larger one.
        lock(&self.kept).grown(key, frame.tar.capacity());
        Ok(frame)
    }
}

thread_local! {
    /// Room for a frame as it is stored, and for a segment of it.
    static RAW: std::cell::RefCell<(Vec<u8>, Vec<u8>)> = const { std::cell::RefCell::new((Vec::new(), Vec::new())) };
}

/// Opens a frame into `room`.
fn open_frame(reader: &SectorReader, number: usize, mut room: Vec<u8>) -> Result<Vec<u8>, SectorReadError> {
    let (raw, tar) = reader.table().frame(number).ok_or(SectorReadError::Range)?;
    room.resize((tar.end - tar.start) as usize, 0);
    RAW.with(|buffers| {
        let (scratch, bytes) = &mut *buffers.borrow_mut();
        reader.read_raw_into(raw, scratch, bytes)?;
        FrameReader::new()?.read(bytes, &mut room)?;
        Ok(room)
    })
}

impl Frame {
    /// What the frame holds of a range of the tar stream.
    fn range(&self, tar: &Range<u64>) -> &[u8] {
        let inside = |at: u64| at.saturating_sub(self.start).min(self.tar.len() as u64) as usize;
        self.tar.get(inside(tar.start)..inside(tar.end)).unwrap_or_default()
    }
}
