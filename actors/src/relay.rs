//! Further copies of what the zone has no key to: the stored bytes of a whole copy go to another target as they are.
//!
//! No piece leaves before it was found to be what was sealed, so a copy that was cut goes on where its target ended, whoever
//! goes on and from whichever copy of the same bytes. A source that turns out wrong is marked, and the next is read.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{Copy as BackupCopy, CopyState};
use zoneward_sectors::fsx;
use zoneward_sectors::header::Header;
use zoneward_sectors::ids::{CopyId, SectorId, TargetId};
use zoneward_sectors::restore::NoCopy;
use zoneward_sectors::sector_writer::SectorOut;

use crate::errors::ZoneError;
use crate::keyless::{Reading, Sealed};
use crate::mint::TargetOut;
use crate::open::chain;
use crate::transcode::CopyProgress;
use crate::zone::Zone;

/// Makes one more copy of a sector on `target`, of the same bytes as another, or goes on with one that was begun. Answers the
/// bytes sent.
pub(crate) fn relay_sector(
    zone: &mut Zone,
    sector: SectorId,
    target: TargetId,
    progress: &CopyProgress,
) -> Result<u64, ZoneError> {
    let (mut tried, mut why, mut damage) = (BTreeSet::new(), Vec::new(), false);
    while let Some(from) = next_source(zone, sector, target, &tried) {
        tried.insert(from.id);
        match relay_from(zone, &from, target, progress) {
            Err(ZoneError::Read(e)) => {
                let name = zone.state().targets.get(&from.target).map_or("", |t| &t.name);
                why.push(format!("copy {} on target {name}: {}", from.id, chain(&e)));
                damage |= e.is_damage();
                let stored = zone.state().copies.get(&from.id).is_some_and(BackupCopy::is_stored);
                if e.is_damage() && stored {
                    zone.propose(Command::MarkCopy { copy: from.id, state: CopyState::Damaged })?;
                }
            }
            done => return done,
        }
    }
    if why.is_empty() {
        why.push("no copy of it is stored, or none whose stored bytes are known".into());
    }
    let why = format!("sector {sector} cannot be relayed: {}", why.join("; "));
    Err(NoCopy { why, damage }.into())
}

/// The copy that is begun there.
fn begun(zone: &Zone, sector: SectorId, target: TargetId) -> Option<BackupCopy> {
    let open = |c: &&BackupCopy| c.sector == sector && c.target == target && c.state == CopyState::Open;
    zone.state().copies.values().find(open).cloned()
}

/// A copy to read: one of the same bytes as what was begun before others, one in a directory before one behind a network.
fn next_source(zone: &Zone, sector: SectorId, target: TargetId, tried: &BTreeSet<CopyId>) -> Option<BackupCopy> {
    let begun = begun(zone, sector, target).map(|c| c.header_hash);
    let far = |c: &BackupCopy| zone.state().targets.get(&c.target).is_none_or(|t| !t.url.starts_with("file:"));
    let all = zone.state().copies.values().filter(|c| c.sector == sector && c.is_stored() && c.stored_id.is_some());
    all.filter(|c| !tried.contains(&c.id)).min_by_key(|c| (begun != Some(c.header_hash), far(c), c.id)).cloned()
}

fn relay_from(zone: &mut Zone, from: &BackupCopy, target: TargetId, progress: &CopyProgress) -> Result<u64, ZoneError> {
    let opener = zone.opener();
    let mut sealed = Sealed::of(&opener, from)?;
    let len = sealed.layout().file_len();
    progress.total.store(len, Ordering::Relaxed);
    progress.done.store(0, Ordering::Relaxed);
    let home = zone.home.clone();
    if !sealed.with_table(&home, &Reading { done: None, stop: Some(&progress.stop) })? {
        return Err(ZoneError::Interrupted);
    }
    let (copy, out, held) = open_on(zone, from, target)?;
    let sent = match send(&sealed, &out, held, progress) {
        Ok(sent) => sent,
        Err(e) => {
            // Alone, nobody would go on with it but the next run, which begins with a clean table.
            if !zone.is_shared() {
                out.abandon();
                zone.propose(Command::AbandonCopy { copy })?;
            }
            return Err(e);
        }
    };
    fsx::point("relay-seal:before");
    out.seal(len)?;
    fsx::point("relay-seal:after");
    zone.propose(Command::StoreCopy { copy, stored_len: len, stored_id: from.stored_id })?;
    fsx::point("relay-recorded:after");
    Ok(sent)
}

/// The copy that is to be written, and how much of it its target has.
fn open_on(
    zone: &mut Zone,
    from: &BackupCopy,
    target: TargetId,
) -> Result<(CopyId, std::sync::Arc<TargetOut>, u64), ZoneError> {
    let bad = || ZoneError::State { what: "the header of a copy" };
    let used = STANDARD.decode(&from.header).map_err(|_| bad())?;
    if Header::from_used(&used).map_err(|_| bad())?.hash() != from.header_hash {
        return Err(bad());
    }
    let mut known = begun(zone, from.sector, target);
    if let Some(other) = known.take_if(|k| k.header_hash != from.header_hash) {
        // It is of other bytes, and those that it was made from are not there any more.
        zone.propose(Command::AbandonCopy { copy: other.id })?;
    }
    let (copy, alias) = match &known {
        Some(k) => (k.id, k.alias),
        None => {
            let (copy, alias) = (CopyId::random(), zone.keys().alias(target));
            fsx::point("open-relay:before");
            zone.propose(Command::OpenCopy {
                copy,
                sector: from.sector,
                target,
                alias,
                header: from.header.clone(),
                header_hash: from.header_hash,
                sealed_dek: String::new(),
                relayed: Some(from.named()),
            })?;
            fsx::point("open-relay:after");
            (copy, alias)
        }
    };
    let t = zone.target(target).ok_or_else(|| ZoneError::NoTarget("it is not reachable".into()))?;
    let incoming = t.open_in_turn(alias, copy, zone.turn())?;
    // What a target cannot hold across an interruption is sent again: the same bytes.
    let held = if known.is_some() && t.capabilities().resume { incoming.offset() } else { 0 };
    Ok((copy, TargetOut::new(incoming, zone.pace().clone(), None), held))
}

/// Sends what the target does not hold yet, in order, each piece judged before it leaves.
fn send(sealed: &Sealed, out: &TargetOut, held: u64, progress: &CopyProgress) -> Result<u64, ZoneError> {
    let layout = sealed.layout();
    // Whole pieces only: a part of one is sent again.
    let first = (0..layout.pieces()).find(|k| layout.piece(*k).end > held).unwrap_or(layout.pieces());
    let from = layout.piece(first).start;
    progress.resumed_at.store(from, Ordering::Relaxed);
    progress.done.store(from, Ordering::Relaxed);
    let mut buf = Vec::new();
    for k in first..layout.pieces() {
        if progress.stop.load(Ordering::Relaxed) {
            return Err(ZoneError::Interrupted);
        }
        sealed.read(k, &mut buf)?;
        fsx::point("relay-piece:before");
        let written = out.write_at(layout.piece(k).start, &buf);
        written.map_err(|e| ZoneError::Write(e.into()))?;
        progress.done.fetch_add(buf.len() as u64, Ordering::Relaxed);
    }
    Ok(layout.file_len() - from)
}
