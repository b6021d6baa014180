//! A sector on its way into a store of parts.
//!
//! Bytes are gathered into parts of [`PART_LEN`]; each that is full is sent while the next ones fill. Memory is bounded by
//! the parts that are open and those on their way. When a writer is dropped, the bytes that fill no part yet are put
//! beside the parts, so that whoever opens the sector next goes on at the very byte; a writer that is killed loses only them.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use bytes::Bytes;
use zoneward_sectors::ids::{CopyId, ZoneAlias};

use super::parts::{Note, Part, PartStore, Which, discard};
use super::{Held, runtime, wait};
use crate::errors::{Op, TargetError};
use crate::limits::{PART_LEN, PARTS_IN_FLIGHT, PARTS_OPEN_MAX, SECTOR_LEN_MAX};
use crate::target::Incoming;

/// A part that is being filled.
struct Filling {
    buf: Vec<u8>,
    /// What of it is filled: ranges that do not touch, in order.
    filled: Vec<(usize, usize)>,
}

impl Filling {
    fn new(start: Vec<u8>) -> Self {
        let filled = if start.is_empty() { Vec::new() } else { vec![(0, start.len())] };
        Self { buf: start, filled }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.buf.len() < end {
            // A part grows to its full length at once: memory is taken as planned.
            self.buf.reserve_exact((PART_LEN as usize).saturating_sub(self.buf.len()));
            self.buf.resize(end, 0);
        }
        if let Some(room) = self.buf.get_mut(at..end) {
            room.copy_from_slice(bytes);
        }
        let (mut from, mut to) = (at, end);
        self.filled.retain(|(a, b)| {
            let apart = *b < from || to < *a;
            if !apart {
                (from, to) = (from.min(*a), to.max(*b));
            }
            apart
        });
        let place = self.filled.partition_point(|(a, _)| *a < from);
        self.filled.insert(place, (from, to));
    }

    /// Bytes from its start that are there without a gap, if there are no others.
    fn whole(&self) -> Option<usize> {
        match self.filled.as_slice() {
            [(0, end)] => Some(*end),
            [] => Some(0),
            _ => None,
        }
    }
}

#[derive(Default)]
struct State {
    open: BTreeMap<u64, Filling>,
    sent: BTreeMap<u64, Part>,
    in_flight: usize,
    upload: Option<String>,
    /// The end of what was written.
    end: u64,
    /// A part could not be sent: the first reason is told once.
    failed: bool,
    why: Option<TargetError>,
    /// Sealed or thrown away: nothing is to be kept.
    done: bool,
}

struct Shared {
    store: Arc<dyn PartStore>,
    which: Which,
    state: Mutex<State>,
    moved: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wait_until<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        fits: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        while !fits(&state) {
            state = self.moved.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        state
    }

    fn io(&self, op: Op) -> impl Fn(std::io::Error) -> TargetError {
        let what = self.which.incoming();
        move |source| TargetError::Io { op, what: what.clone(), source }
    }
}

/// The writer of one sector.
pub(crate) struct PartWriter {
    shared: Arc<Shared>,
    offset: u64,
    /// Let go last.
    _held: Held,
}

impl PartWriter {
    pub fn open(store: Arc<dyn PartStore>, alias: ZoneAlias, copy: CopyId) -> Result<Self, TargetError> {
        let (op, which) = (Op::Open, Which { alias, copy });
        let busy = || TargetError::Busy { op, what: which.incoming() };
        let held = Held::take(store.url(), alias, copy).ok_or_else(busy)?;
        let shared = Shared { store, which, state: Mutex::default(), moved: Condvar::new() };
        let store = shared.store.clone();
        let state = wait(async move { find(&*store, which).await }).map_err(shared.io(op))??;
        let offset = state.end;
        let shared = Arc::new(Shared { state: Mutex::new(state), ..shared });
        Ok(Self { shared, offset, _held: held })
    }

    /// Sends a part that is full, when there is room for it among those on their way.
    fn send(&self, index: u64, bytes: Bytes) -> Result<(), TargetError> {
        let shared = &self.shared;
        let upload = self.upload()?;
        let mut state = shared.wait_until(shared.lock(), |s| s.in_flight < PARTS_IN_FLIGHT);
        state.in_flight += 1;
        drop(state);
        let task = shared.clone();
        let spawned = runtime().map(|runtime| {
            runtime.spawn(async move {
                let sent = task.store.put_part(task.which, &upload, index, bytes).await;
                let mut state = task.lock();
                state.in_flight -= 1;
                match sent {
                    Ok(part) => {
                        state.sent.insert(index, part);
                    }
                    Err(e) => {
                        state.failed = true;
                        state.why.get_or_insert(e);
                    }
                }
                drop(state);
                task.moved.notify_all();
            });
        });
        spawned.map_err(|e| {
            shared.lock().in_flight -= 1;
            shared.io(Op::Write)(e)
        })
    }

    /// What the store calls this upload; begun with the first part, and noted before it is sent.
    fn upload(&self) -> Result<String, TargetError> {
        let mut state = self.shared.lock();
        if let Some(upload) = &state.upload {
            return Ok(upload.clone());
        }
        let (store, which) = (self.shared.store.clone(), self.shared.which);
        let begun = wait(async move {
            let upload = store.begin(which).await?;
            let note = Note::new(Some(upload.clone()));
            note.write(&*store, Op::Write, which).await.map(|()| upload)
        });
        let upload = begun.map_err(self.shared.io(Op::Write))??;
        state.upload = Some(upload.clone());
        Ok(upload)
    }

    /// Puts bytes into the parts they belong to; answers the parts that are full now.
    fn fill(&self, offset: u64, bytes: &[u8]) -> Result<Vec<(u64, Bytes)>, TargetError> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let (mut at, mut rest, mut full) = (offset, bytes, Vec::new());
        while !rest.is_empty() {
            let (index, inside) = (at / PART_LEN, at % PART_LEN);
            let (now, later) = rest.split_at(rest.len().min((PART_LEN - inside) as usize));
            // A part that was sent holds these very bytes: those of a copy are decided before its first one leaves.
            if !state.sent.contains_key(&index) {
                let scattered = !state.open.contains_key(&index) && state.open.len() >= PARTS_OPEN_MAX;
                if scattered {
                    let e = std::io::Error::new(std::io::ErrorKind::InvalidInput, "writes lie too far apart");
                    return Err(self.shared.io(Op::Write)(e));
                }
                let filling = state.open.entry(index).or_insert_with(|| Filling::new(Vec::new()));
                filling.write(inside as usize, now);
                if filling.whole() == Some(PART_LEN as usize)
                    && let Some(part) = state.open.remove(&index)
                {
                    full.push((index, part.buf.into()));
                }
            }
            at += now.len() as u64;
            state.end = state.end.max(at);
            rest = later;
        }
        Ok(full)
    }

    fn poisoned(&self, op: Op) -> TargetError {
        TargetError::Poisoned { op, what: self.shared.which.incoming() }
    }

    /// Waits until nothing is on its way.
    fn settle(&self) -> MutexGuard<'_, State> {
        self.shared.wait_until(self.shared.lock(), |s| s.in_flight == 0)
    }

    /// The parts that make the sector, and the bytes of the last one if it is still here.
    fn gather(&self, state: &mut State, len: u64) -> Result<(Vec<Part>, Option<Bytes>), TargetError> {
        let wrong =
            |found| TargetError::WrongLength { op: Op::Seal, what: self.shared.which.incoming(), expected: len, found };
        if state.end != len {
            return Err(wrong(state.end));
        }
        let (whole_parts, rest) = (len / PART_LEN, (len % PART_LEN) as usize);
        let mut parts = Vec::new();
        for index in 0..whole_parts {
            // A gap: what lies before it is what there is.
            parts.push(state.sent.get(&index).cloned().ok_or_else(|| wrong(index * PART_LEN))?);
        }
        if rest == 0 {
            return Ok((parts, None));
        }
        match state.open.get(&whole_parts) {
            Some(last) if last.whole() == Some(rest) => {
                Ok((parts, Some(Bytes::copy_from_slice(last.buf.get(..rest).unwrap_or_default()))))
            }
            _ => match state.sent.get(&whole_parts).filter(|p| p.len == rest as u64) {
                Some(last) => {
                    parts.push(last.clone());
                    Ok((parts, None))
                }
                None => Err(wrong(whole_parts * PART_LEN)),
            },
        }
    }
}

/// What an earlier writer left of a sector, or the beginning of one that is new. The note is there when this returns.
async fn find(store: &dyn PartStore, which: Which) -> Result<State, TargetError> {
    let op = Op::Open;
    let mut state = State::default();
    let Some(note) = Note::read(store, op, which).await? else {
        Note::new(None).write(store, op, which).await?;
        return Ok(state);
    };
    let mut parts = BTreeMap::new();
    if let Some(upload) = note.upload
        && let Some(held) = store.held(op, which, &upload).await?
    {
        state.upload = Some(upload);
        parts = held.into_iter().map(|p| (p.index, p)).collect();
    }
    // Whole parts from the first without a gap count; what lies behind one is sent again.
    while let Some(part) = parts.remove(&(state.sent.len() as u64)).filter(|p| p.len == PART_LEN) {
        state.sent.insert(part.index, part);
    }
    let next = state.sent.len() as u64;
    state.end = next * PART_LEN;
    if note.tail_at == state.end && !note.tail.is_empty() && (note.tail.len() as u64) < PART_LEN {
        state.end += note.tail.len() as u64;
        state.open.insert(next, Filling::new(note.tail));
    }
    Ok(state)
}

impl Incoming for PartWriter {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let op = Op::Write;
        let end = offset.saturating_add(bytes.len() as u64);
        if end > SECTOR_LEN_MAX {
            let what = self.shared.which.incoming();
            return Err(TargetError::TooLarge { op, what, len: end, limit: SECTOR_LEN_MAX });
        }
        let mut state = self.shared.lock();
        if state.failed {
            return Err(state.why.take().unwrap_or_else(|| self.poisoned(op)));
        }
        drop(state);
        let sent = self.fill(offset, bytes).and_then(|full| full.into_iter().try_for_each(|(i, b)| self.send(i, b)));
        sent.inspect_err(|_| self.shared.lock().failed = true)
    }

    fn seal(self: Box<Self>, len: u64) -> Result<(), TargetError> {
        let op = Op::Seal;
        let (store, which) = (self.shared.store.clone(), self.shared.which);
        let sealed = {
            let store = store.clone();
            wait(async move { store.sealed_len(op, which).await }).map_err(self.shared.io(op))??
        };
        let mut state = self.settle();
        let finish = match sealed {
            Some(found) if found == len => None,
            Some(found) => {
                let what = which.sector();
                return Err(TargetError::WrongLength { op, what, expected: len, found });
            }
            None if state.failed => return Err(state.why.take().unwrap_or_else(|| self.poisoned(op))),
            None => Some(self.gather(&mut state, len)?),
        };
        let upload = state.upload.clone();
        drop(state);
        let task = async move {
            match (finish, &upload) {
                // Sealed before, or by another: what was begun again is not needed.
                (None, Some(upload)) => store.throw_away(op, which, upload).await?,
                (None, None) => {}
                (Some((_, last)), None) => store.put_whole(which, last.unwrap_or_default()).await?,
                (Some((mut parts, last)), Some(upload)) => {
                    if let Some(bytes) = last {
                        parts.push(store.put_part(which, upload, parts.len() as u64, bytes).await?);
                    }
                    let done = store.finish(which, upload, parts, len).await;
                    // A lost answer is no failure; and what says it is sealed must be there.
                    match (store.sealed_len(op, which).await?, done) {
                        (Some(found), _) if found == len => {}
                        (_, Err(e)) => return Err(e),
                        (found, Ok(())) => {
                            let reason = format!("it sealed {len} bytes and shows {found:?}");
                            return Err(TargetError::Protocol { op, what: which.incoming(), reason });
                        }
                    }
                }
            }
            store.remove_note(op, which).await
        };
        let sealed = wait(task).map_err(self.shared.io(op))?;
        if sealed.as_ref().is_err_and(|e| !keeps(e)) {
            // The store will not make a sector of these parts: nobody should go on with them.
            let store = self.shared.store.clone();
            let _ = wait(async move { discard(store, op, which).await });
        }
        self.shared.lock().done = !sealed.as_ref().is_err_and(keeps);
        sealed
    }

    fn abandon(self: Box<Self>) -> Result<(), TargetError> {
        let (store, which) = (self.shared.store.clone(), self.shared.which);
        self.settle().done = true;
        wait(async move { discard(store, Op::Abandon, which).await }).map_err(self.shared.io(Op::Abandon))?
    }
}

impl Drop for PartWriter {
    /// Puts what fills no part beside the parts. What cannot be put now is sent again by the next writer.
    fn drop(&mut self) {
        let mut state = self.settle();
        if state.done || state.failed {
            return;
        }
        let next = state.sent.len() as u64;
        let in_order = state.sent.keys().copied().eq(0..next) && state.open.keys().all(|i| *i == next);
        let Some(tail) = state.open.remove(&next).filter(|f| in_order && f.whole().is_some_and(|n| n > 0)) else {
            return;
        };
        let note = Note::new(state.upload.clone()).with_tail(next * PART_LEN, tail.buf);
        drop(state);
        let (store, which) = (self.shared.store.clone(), self.shared.which);
        let _ = wait(async move { note.write(&*store, Op::Write, which).await });
    }
}

/// Whether what was written is still worth something after the seal failed in this way.
fn keeps(e: &TargetError) -> bool {
    !matches!(e, TargetError::NotFound { .. } | TargetError::Protocol { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_knows_what_of_it_is_filled() {
        let mut f = Filling::new(Vec::new());
        assert_eq!(f.whole(), Some(0));
        f.write(10, b"abc");
        assert_eq!((f.whole(), f.filled.len()), (None, 1));
        f.write(20, b"xyz");
        f.write(13, b"1234567");
        assert_eq!(f.filled, [(10, 23)]);
        f.write(0, b"0123456789ab");
        assert_eq!(f.whole(), Some(23));
        assert_eq!(f.buf, b"0123456789abc1234567xyz");
    }
}
