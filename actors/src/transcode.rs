//! Further copies: each segment of a stored copy is opened, checked against its leaf hash and sealed under the new
//! copy's own key while it is sent; nothing is kept on the way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

use zoneward_consensus::command::Command;
use zoneward_consensus::model::{Copy as BackupCopy, CopyState};
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CopyId, SectorId, TargetId};
use zoneward_sectors::limits::SEGMENT_LEN;
use zoneward_sectors::sector_reader::{SectorReadError, SectorReader};
use zoneward_sectors::sector_writer::{SectorOut, last_piece};
use zoneward_sectors::stream::{Layout, Leaf, Piece, stored_id};

use crate::errors::ZoneError;
use crate::mint::{Minted, mint_copy, record_stripes, resume_copy};
use crate::relay::relay_sector;
use crate::zone::Zone;

/// How far a copy is.
#[derive(Debug, Default)]
pub struct CopyProgress {
    pub done: AtomicU64,
    pub total: AtomicU64,
    /// Bytes that an earlier attempt had sent already.
    pub resumed_at: AtomicU64,
    pub stop: AtomicBool,
}

/// Makes one more copy of a sector on `target`, or goes on with one that was begun. Answers the bytes sent.
///
/// Bytes go out in order, so that what the target holds is always a beginning: whoever goes on, on whichever node, sends
/// the rest. They are a function of the raw sector and of what the zone's state holds of the copy, so the two attempts
/// can never differ.
///
/// It is read from the copies that are taken for whole first. One that turns out damaged is marked, and the next is read.
pub(crate) fn copy_sector(
    zone: &mut Zone,
    sector: SectorId,
    target: TargetId,
    threads: usize,
    progress: &CopyProgress,
) -> Result<u64, ZoneError> {
    if zone.state().is_keyless(sector) {
        return relay_sector(zone, sector, target, progress);
    }
    loop {
        let mut from = None;
        match copy_from_one(zone, sector, target, threads, progress, &mut from) {
            // What was read of it is wrong; a damaged record of the new copy says nothing against the one it is made of.
            Err(ZoneError::Read(e)) if e.is_damage() => {
                let taken_for_whole = |id: &CopyId| zone.state().copies.get(id).is_some_and(BackupCopy::is_stored);
                let Some(copy) = from.filter(taken_for_whole) else { return Err(e.into()) };
                // Each round marks one of them: it ends.
                zone.propose(Command::MarkCopy { copy, state: CopyState::Damaged })?;
            }
            done => return done,
        }
    }
}

/// Makes the copy from one other, and tells which.
fn copy_from_one(
    zone: &mut Zone,
    sector: SectorId,
    target: TargetId,
    threads: usize,
    progress: &CopyProgress,
    from: &mut Option<CopyId>,
) -> Result<u64, ZoneError> {
    let opener = zone.opener();
    let number = zone.table().number(sector);
    let reader = opener.sector(number)?;
    *from = opener.in_use(number);
    let leaves = reader.leaves()?;
    let known = zone.state().sectors.get(&sector);
    let (class, write_only) = known.map_or((36, false), |s| (s.class_log2, s.write_only));
    let begun = |c: &&BackupCopy| c.sector == sector && c.target == target && c.state == CopyState::Open;
    let mut begun = zone.state().copies.values().find(begun).cloned();
    if let Some(other) = begun.take_if(|c| c.is_keyless()) {
        // It was to repeat another one's bytes, and the zone can read the sector again.
        zone.propose(Command::AbandonCopy { copy: other.id })?;
    }
    let (minted, held) = match &begun {
        Some(known) => resume_copy(zone, known)?,
        None => (mint_copy(zone, sector, class, target)?, 0),
    };
    let len = reader.layout().file_len();
    progress.total.store(len, Ordering::Relaxed);
    let (sent, pieces) = match send(&reader, &leaves, &minted, held, write_only, threads, progress) {
        Ok(sent) => sent,
        Err(e) => {
            // Alone, nobody would go on with it but the next run, which begins with a clean table.
            if !zone.is_shared() {
                minted.out.abandon();
                zone.propose(Command::AbandonCopy { copy: minted.copy })?;
            }
            return Err(e);
        }
    };
    fsx::point("copy-seal:before");
    minted.out.seal(len)?;
    fsx::point("copy-seal:after");
    let stored_id = pieces.as_deref().map(stored_id);
    zone.propose(Command::StoreCopy { copy: minted.copy, stored_len: len, stored_id })?;
    pieces.filter(|_| write_only).into_iter().for_each(|p| crate::keyless::keep(&zone.home, &p));
    fsx::point("copy-recorded:after");
    record_stripes(zone, minted.copy, &minted.out, len)?;
    Ok(sent)
}

/// Segments go out in order: who has sealed one waits for its turn.
struct Turn {
    next: Mutex<u64>,
    moved: Condvar,
    failed: Mutex<Option<ZoneError>>,
}

/// Past every segment.
const NEVER: u64 = u64::MAX;

impl Turn {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.next.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Does `write` when all segments before `i` are written; `false` once one failed.
    fn take(&self, i: u64, write: impl FnOnce() -> Result<(), ZoneError>) -> bool {
        let mut next = self.lock();
        while *next < i {
            next = self.moved.wait(next).unwrap_or_else(|e| e.into_inner());
        }
        if *next == NEVER {
            return false;
        }
        match write() {
            Ok(()) => *next = i + 1,
            Err(e) => {
                *next = NEVER;
                self.fail(e);
            }
        }
        self.moved.notify_all();
        *next != NEVER
    }

    fn give_up(&self, e: ZoneError) {
        *self.lock() = NEVER;
        self.fail(e);
        self.moved.notify_all();
    }

    fn fail(&self, e: ZoneError) {
        self.failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(e);
    }
}

/// Sends what the target does not hold yet. Answers also the hashes of all pieces, where all were made: what had been sent
/// before is sealed again for that only where there is a `need`.
fn send(
    reader: &SectorReader,
    leaves: &[Leaf],
    minted: &Minted,
    held: u64,
    need: bool,
    threads: usize,
    progress: &CopyProgress,
) -> Result<(u64, Option<Vec<Piece>>), ZoneError> {
    let layout = reader.layout();
    // Whole segments only: a piece of one is sent again.
    let first = (0..layout.segments()).find(|i| Layout::segment_at(i + 1).min(layout.leaves_at()) > held);
    let first = first.unwrap_or(layout.segments());
    let from = if held < Layout::segment_at(0) { 0 } else { Layout::segment_at(first).min(layout.leaves_at()) };
    progress.resumed_at.store(from, Ordering::Relaxed);
    progress.done.store(from, Ordering::Relaxed);
    if from == 0 {
        minted.out.write_at(0, minted.header.bytes()).map_err(write_error)?;
    }
    let begin = if need { 0 } else { first };
    let claimed = AtomicU64::new(begin);
    let turn = Turn { next: Mutex::new(begin), moved: Condvar::new(), failed: Mutex::default() };
    let pieces = Mutex::new(vec![*blake3::hash(minted.header.bytes()).as_bytes()]);
    let work = || {
        let (mut scratch, mut buf) = (Vec::new(), Vec::with_capacity(SEGMENT_LEN + 16));
        loop {
            let i = claimed.fetch_add(1, Ordering::SeqCst);
            if i >= layout.segments() {
                return;
            }
            if progress.stop.load(Ordering::Relaxed) {
                return turn.give_up(ZoneError::Interrupted);
            }
            if let Err(e) = seal_one(reader, leaves, minted, i, &mut scratch, &mut buf) {
                return turn.give_up(e);
            }
            let piece = *blake3::hash(&buf).as_bytes();
            let write = || {
                pieces.lock().unwrap_or_else(|e| e.into_inner()).push(piece);
                if i < first {
                    return Ok(());
                }
                fsx::point("copy-segment:before");
                minted.out.write_at(Layout::segment_at(i), &buf).map_err(write_error)?;
                progress.done.fetch_add(buf.len() as u64, Ordering::Relaxed);
                Ok(())
            };
            if !turn.take(i, write) {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            scope.spawn(work);
        }
        work();
    });
    if let Some(e) = turn.failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(e);
    }
    let leaves = minted.keys.seal_leaves(leaves);
    minted.out.write_at(layout.leaves_at(), &leaves).map_err(write_error)?;
    let trailer = minted.keys.seal_trailer(reader.trailer()).map_err(SectorReadError::from)?;
    minted.out.write_at(layout.trailer_at(), &trailer).map_err(write_error)?;
    let mut pieces = pieces.into_inner().unwrap_or_else(|e| e.into_inner());
    pieces.push(last_piece(&leaves, &trailer));
    Ok((layout.file_len() - from, (begin == 0).then_some(pieces)))
}

fn write_error(e: std::io::Error) -> ZoneError {
    ZoneError::Write(e.into())
}

/// Opens a segment and seals it under the copy's own key.
fn seal_one(
    reader: &SectorReader,
    leaves: &[Leaf],
    minted: &Minted,
    i: u64,
    scratch: &mut Vec<u8>,
    buf: &mut Vec<u8>,
) -> Result<(), ZoneError> {
    let layout = reader.layout();
    buf.resize(layout.segment_len(i), 0);
    reader.read_segment(i, scratch, buf)?;
    // A second plaintext under one key and nonce would break the cipher: what does not match its leaf is never sealed.
    if leaves.get(i as usize) != Some(blake3::hash(buf).as_bytes()) {
        return Err(SectorReadError::Leaf(i).into());
    }
    minted.keys.seal_segment(i as u32, layout.is_last(i), buf);
    Ok(())
}
