//! Audits: copies that are due are looked at by their bytes, and what was found is reported under the lease of the audit.
//!
//! In: [`Work::Audit`]. Out: one `Audited` command for what was looked at together. A node that dies meanwhile leaves its
//! lease to the leader, and the copies to the next. Nothing of a copy is kept.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;

use zoneward_consensus::audits::{Audited, Found, may_be_away, reads_all};
use zoneward_consensus::command::Command;
use zoneward_consensus::limits::TROUBLE_LEN_MAX;
use zoneward_consensus::model::Copy as BackupCopy;
use zoneward_consensus::plan::Work;
use zoneward_sectors::ids::TargetId;
use zoneward_sectors::sector_reader::SectorReadError;
use zoneward_targets::ObjectName;

use crate::board::Running;
use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::examine::{Examined, Room, any_of};
use crate::freshness::POINTER_LEN_MAX;
use crate::open::{Opener, chain};
use crate::transcode::CopyProgress;
use crate::zone::Zone;

/// Random segments read of a copy that is not read whole. With its tables, some 20 MiB a week for each copy; the rest is
/// left to the reading of everything now and then.
pub const SAMPLES: u64 = 16;

/// Looks at copies, and reports. `doubt` hears of targets that keep silent.
pub(crate) fn audit(
    zone: &mut Zone,
    work: &[Work],
    running: &Running,
    progress: &CopyProgress,
    doubt: &dyn Fn(TargetId),
) -> Result<(), ZoneError> {
    let opener = zone.opener();
    let (mut results, mut stopped) = (Vec::new(), false);
    for w in work {
        let Work::Audit { copy, .. } = *w else { continue };
        let Some(c) = zone.state().copies.get(&copy).filter(|c| c.is_stored()).cloned() else { continue };
        let target = zone.state().targets.get(&c.target).map_or("", |t| &t.name);
        running.say(format!("sector {:.8} on {target}", c.sector.to_string()));
        match look(zone, &opener, &c, progress) {
            Ok(Some(found)) => {
                if let Found::Silent { .. } = &found {
                    doubt(c.target);
                }
                results.push(Audited { copy, found });
            }
            Ok(None) => {}
            Err(ZoneError::Interrupted) => {
                stopped = true;
                break;
            }
            Err(e) => return Err(e),
        }
    }
    let gone = |r: &&Audited| matches!(r.found, Found::Gone { .. });
    let lost: BTreeSet<TargetId> =
        results.iter().filter(gone).filter_map(|r| zone.state().copies.get(&r.copy).map(|c| c.target)).collect();
    if !results.is_empty() {
        zone.propose(Command::Audited { results })?;
    }
    for target in lost {
        // What cannot be put back now is looked at again with the next copy that is missing there.
        let _ = beside(zone, target);
    }
    if stopped { Err(ZoneError::Interrupted) } else { Ok(()) }
}

/// Where a sector is gone, what lies beside the sectors may be gone too: the marker, the head, the owner's sealed key.
fn beside(zone: &mut Zone, id: TargetId) -> Result<(), ZoneError> {
    let Some(target) = zone.target(id).cloned() else { return Ok(()) };
    let alias = zone.keys().alias(id);
    let shown = zone.state().targets.get(&id).and_then(|t| t.pointer);
    let gone = target.get_object(alias, ObjectName::Pointer, POINTER_LEN_MAX).is_err_and(|e| e.is_not_found());
    // Publishing puts the owner's key back too.
    if gone && shown.is_some() { crate::system::publish(zone, id) } else { Ok(()) }
}

/// What one copy shows. `None`: nothing is to be said of it.
fn look(zone: &Zone, opener: &Opener, copy: &BackupCopy, p: &CopyProgress) -> Result<Option<Found>, ZoneError> {
    let Some(target) = zone.state().targets.get(&copy.target) else { return Ok(None) };
    if zone.target(copy.target).is_none() {
        let why = "its target cannot be reached from any node".to_owned();
        return Ok((!may_be_away(target)).then_some(Found::Silent { why }));
    }
    let all = reads_all(zone.state(), copy, now_ms());
    let read = Examined::of(opener, copy).and_then(|x| sample(&x, all, p));
    Ok(match read {
        Ok(Read::Stopped) => return Err(ZoneError::Interrupted),
        Ok(Read::Some) => Some(Found::Whole { all: false }),
        Ok(Read::All) => Some(Found::Whole { all: true }),
        // That is this zone's own trouble.
        Err(e @ SectorReadError::Key) => return Err(e.into()),
        Err(e) => {
            let why = in_short(&chain(&e));
            match &e {
                // A disk that is not mounted behind a server has no sector and no marker either: that is no loss.
                SectorReadError::Io(io) if io.kind() == io::ErrorKind::NotFound => {
                    match zone.target(copy.target).map(|t| t.mend()) {
                        Some(Err(_)) if may_be_away(target) => None,
                        Some(Err(e)) => Some(Found::Silent { why: in_short(&chain(&e)) }),
                        _ => Some(Found::Gone { why }),
                    }
                }
                e if e.is_damage() => Some(Found::Wrong { why }),
                // A disk that was taken out meanwhile is looked at when it is back.
                _ if may_be_away(target) => None,
                _ => Some(Found::Silent { why }),
            }
        }
    })
}

/// How much was read.
enum Read {
    Some,
    All,
    Stopped,
}

/// Reads random segments, or all.
fn sample(copy: &Examined, all: bool, p: &CopyProgress) -> Result<Read, SectorReadError> {
    let n = copy.segments();
    let all = all || n <= SAMPLES;
    let chosen: Box<dyn Iterator<Item = u64>> = if all {
        Box::new(0..n)
    } else {
        let mut drawn = BTreeSet::new();
        while (drawn.len() as u64) < SAMPLES {
            drawn.insert(any_of(n));
        }
        Box::new(drawn.into_iter())
    };
    let len = |s| copy.reader.layout().segment_len(s) as u64;
    let total = if all { (0..n).map(len).sum() } else { SAMPLES * len(0) };
    p.total.fetch_add(total, Ordering::Relaxed);
    let mut room = Room::new();
    for s in chosen {
        if p.stop.load(Ordering::Relaxed) {
            return Ok(Read::Stopped);
        }
        let read = copy.read(s, &mut room)?;
        p.done.fetch_add(read, Ordering::Relaxed);
    }
    Ok(if all { Read::All } else { Read::Some })
}

/// One line of bounded length.
fn in_short(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    crate::told::shorten(plain, TROUBLE_LEN_MAX - '…'.len_utf8())
}
