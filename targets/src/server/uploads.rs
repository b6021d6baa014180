//! Sectors in writers' hands: one writer each, who appends until the seal.
//!
//! A writer holds a sector under an id that it chose, so that it can ask twice. Its hold lasts for
//! [`WRITER_HOLD`] after its last sign of life; then another writer may take over, at the byte that was acknowledged. One of a
//! later turn need not wait: the zone gave it the sector because the earlier one is not heard any more. Bytes are
//! written in order, so whatever interrupts the server, the length of the file is what it holds.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CopyId, ZoneAlias};

use super::hashes::{self, Leaves};
use super::refusal::Refusal;
use super::{Server, failed_thread};
use crate::errors::TargetError;
use crate::limits::{LEAF_LEN, SECTOR_LEN_MAX, UPLOADS_MAX, UPLOADS_PER_ACCOUNT, WRITER_HOLD};
use crate::protocol::Code;
use crate::target::{Incoming, Target};

pub(crate) type Key = (ZoneAlias, CopyId);

/// The open file of a sector, and the hashes of what came.
pub(crate) struct Sink {
    incoming: Box<dyn Incoming>,
    pub offset: u64,
    leaves: Leaves,
}

impl Sink {
    fn open(server: &Server, (alias, copy): Key) -> Result<Self, Refusal> {
        let incoming = server.target.open(alias, copy)?;
        let offset = incoming.offset();
        let mut leaves = Leaves::from(offset);
        // The beginning of the leaf that the next byte belongs to.
        let mut head = vec![0u8; (offset - leaves.start()) as usize];
        server.read_incoming((alias, copy), leaves.start(), &mut head)?;
        leaves.add(&head);
        Ok(Self { incoming, offset, leaves })
    }

    /// Writes and hashes the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), TargetError> {
        self.incoming.write_at(self.offset, bytes)?;
        self.leaves.add(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Seals the sector at exactly `len` bytes. Its hashes are durable first.
    fn seal(self, server: &Server, (alias, copy): Key, len: u64) -> Result<u64, Refusal> {
        let sealed_before = server.target.len(alias, copy)?.is_some();
        let held = self.offset;
        if !sealed_before && held == len {
            let start = self.leaves.start();
            let mut all = Leaves::from(0);
            let mut piece = vec![0u8; LEAF_LEN];
            for at in (0..start).step_by(LEAF_LEN) {
                server.read_incoming((alias, copy), at, &mut piece)?;
                all.add(&piece);
            }
            let all = [all.finish(), self.leaves.finish()].concat();
            hashes::save(&server.own, alias, copy, &all).map_err(|e| Refusal::from_io(&e))?;
        }
        self.incoming.seal(len)?;
        // What was begun beside a sealed sector is gone now.
        Ok(if sealed_before { held } else { 0 })
    }
}

/// What a request works with; `None`: its file must be opened again.
pub(crate) type Slot = Arc<tokio::sync::Mutex<Option<Sink>>>;

struct Held {
    writer: String,
    turn: Option<u64>,
    account: String,
    seen: Instant,
    slot: Slot,
}

/// All sectors in writers' hands.
#[derive(Default)]
pub(crate) struct Uploads(Mutex<HashMap<Key, Held>>);

fn busy() -> Refusal {
    Refusal::new(Code::Busy, "another writer holds it")
}

impl Uploads {
    fn map(&self) -> MutexGuard<'_, HashMap<Key, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For tests: as if no sign had come for so long.
    #[cfg(test)]
    pub fn forget(&self, time: std::time::Duration) {
        self.map().values_mut().for_each(|held| held.seen = Instant::now().checked_sub(time).unwrap_or(held.seen));
    }

    /// Lets go of what nobody gave a sign for.
    pub fn sweep(&self) {
        self.map().retain(|_, held| held.seen.elapsed() < WRITER_HOLD || held.slot.try_lock().is_err());
    }

    /// Makes `writer` the holder, if no other one lives whose turn is not over.
    fn hold(&self, key: Key, account: &str, writer: &str, turn: Option<u64>) -> Result<Slot, Refusal> {
        let full = {
            let map = self.map();
            !map.contains_key(&key)
                && (map.len() >= UPLOADS_MAX
                    || map.values().filter(|h| h.account == account).count() >= UPLOADS_PER_ACCOUNT)
        };
        if full {
            self.sweep();
        }
        let mut map = self.map();
        if let Some(held) = map.get_mut(&key) {
            if held.writer == writer {
                held.seen = Instant::now();
                return Ok(held.slot.clone());
            }
            let over = turn.is_some_and(|now| held.turn.is_some_and(|then| then < now));
            // What is being written at this moment is written to its end first.
            if (!over && held.seen.elapsed() < WRITER_HOLD) || held.slot.try_lock().is_err() {
                return Err(busy());
            }
            // The file closes with its slot, and the new writer can open it.
            map.remove(&key);
        }
        let mine = map.values().filter(|h| h.account == account).count();
        if map.len() >= UPLOADS_MAX || mine >= UPLOADS_PER_ACCOUNT {
            return Err(Refusal::new(Code::Busy, "too many sectors are being written"));
        }
        let slot = Slot::default();
        let (writer, account) = (writer.to_owned(), account.to_owned());
        map.insert(key, Held { writer, turn, account, seen: Instant::now(), slot: slot.clone() });
        Ok(slot)
    }

    /// The slot of a writer that holds the sector.
    pub fn held_by(&self, key: Key, writer: &str) -> Result<Slot, Refusal> {
        match self.map().get_mut(&key) {
            Some(held) if held.writer == writer => {
                held.seen = Instant::now();
                Ok(held.slot.clone())
            }
            Some(_) => Err(busy()),
            None => Err(Refusal::new(Code::NotHeld, "no writer holds it: begin it again")),
        }
    }

    /// A sign of life.
    pub fn touch(&self, key: Key, writer: &str) {
        if let Some(held) = self.map().get_mut(&key).filter(|h| h.writer == writer) {
            held.seen = Instant::now();
        }
    }

    pub fn let_go(&self, key: Key, writer: &str) {
        let mut map = self.map();
        if map.get(&key).is_some_and(|h| h.writer == writer) {
            map.remove(&key);
        }
    }

    /// Lets go of a holder that gave no sign; a live one is busy.
    pub fn let_go_if_stale(&self, key: Key) -> Result<(), Refusal> {
        let mut map = self.map();
        match map.get(&key) {
            Some(h) if h.seen.elapsed() < WRITER_HOLD || h.slot.try_lock().is_err() => Err(busy()),
            _ => {
                map.remove(&key);
                Ok(())
            }
        }
    }
}

/// Makes sure that a slot has its file; answers the offset.
pub(crate) async fn filled(server: &Arc<Server>, key: Key, sink: &mut Option<Sink>) -> Result<u64, Refusal> {
    if let Some(sink) = sink {
        return Ok(sink.offset);
    }
    let again = server.clone();
    let opened = tokio::task::spawn_blocking(move || Sink::open(&again, key)).await.map_err(failed_thread)??;
    Ok(sink.insert(opened).offset)
}

impl Server {
    /// Begins a sector, or goes on with it.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        key: Key,
        account: &str,
        writer: &str,
        turn: Option<u64>,
    ) -> Result<u64, Refusal> {
        let slot = self.uploads.hold(key, account, writer, turn)?;
        let mut sink = slot.lock().await;
        let filled = filled(self, key, &mut sink).await;
        if filled.is_err() {
            drop(sink);
            self.uploads.let_go(key, writer);
        }
        filled
    }

    /// Seals a sector at `len` bytes; the writer's hold ends, whatever comes of it.
    pub(crate) async fn seal(self: &Arc<Self>, key: Key, account: &str, writer: &str, len: u64) -> Result<(), Refusal> {
        let slot = match self.uploads.held_by(key, writer) {
            Ok(slot) => slot,
            // The answer to an earlier seal was lost.
            Err(r) if r.code == Code::NotHeld && self.target.len(key.0, key.1)? == Some(len) => return Ok(()),
            Err(r) => return Err(r),
        };
        let mut sink = slot.lock().await;
        filled(self, key, &mut sink).await?;
        let Some(taken) = sink.take() else { return Err(busy()) };
        let again = self.clone();
        let sealed = tokio::task::spawn_blocking(move || taken.seal(&again, key, len)).await.map_err(failed_thread);
        drop(sink);
        self.uploads.let_go(key, writer);
        self.places.give_back(account, sealed??);
        Ok(())
    }

    /// Throws away what was begun: by its writer, or by anybody of the account when no writer lives.
    pub(crate) async fn discard(
        self: &Arc<Self>,
        key: Key,
        account: &str,
        writer: Option<&str>,
    ) -> Result<(), Refusal> {
        match writer.map(|w| (w, self.uploads.held_by(key, w))) {
            Some((writer, Ok(slot))) => {
                // Its file closes here.
                *slot.lock().await = None;
                self.uploads.let_go(key, writer);
            }
            Some((_, Err(r))) if r.code != Code::NotHeld => return Err(r),
            // Nobody's, or its writer's from before a restart.
            Some(_) | None => self.uploads.let_go_if_stale(key)?,
        }
        let again = self.clone();
        let gone = move || -> Result<u64, Refusal> {
            let len = again.target.incoming_len(key.0, key.1)?.unwrap_or(0);
            again.target.discard_incoming(key.0, key.1)?;
            Ok(len)
        };
        let gone = tokio::task::spawn_blocking(gone).await.map_err(failed_thread)??;
        self.places.give_back(account, gone);
        Ok(())
    }

    /// Reads what was begun and not sealed.
    fn read_incoming(&self, (alias, copy): Key, offset: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        if buf.is_empty() {
            return Ok(());
        }
        let path = self.data.join("zones").join(alias.to_string()).join("incoming").join(copy.to_string());
        let file: File = fsx::open_read(&path).map_err(|e| Refusal::from_io(&e))?;
        fsx::read_exact_at(&file, buf, offset).map_err(|e| Refusal::from_io(&e))
    }
}

/// That `len` more bytes at `offset` are no sector.
pub(crate) fn too_long(offset: u64, len: u64) -> Option<Refusal> {
    let mut refusal = Refusal::new(Code::TooLarge, "no sector is that long");
    refusal.limit = Some(SECTOR_LEN_MAX);
    (offset.saturating_add(len) > SECTOR_LEN_MAX).then_some(refusal)
}
