//! Audits: copies that are due are looked at by their bytes, and what was found is reported under the lease of the audit.
//!
//! In: [`Work::Audit`]. Out: one `Audited` command for what was looked at together. A node that dies meanwhile leaves its
//! lease to the leader, and the copies to the next. Nothing of a copy is kept.
//!
//! A target that can compute is asked about all of a copy (`docs/format.md` §3.5); its answer was known before. One that it
//! gives wrong is looked into at once: all of the copy is read, which finds what is wrong, or clears the bytes.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;

use zoneward_consensus::audits::{Audited, Found, may_be_away, reads_all};
use zoneward_consensus::command::Command;
use zoneward_consensus::limits::TROUBLE_LEN_MAX;
use zoneward_consensus::model::Copy as BackupCopy;
use zoneward_consensus::plan::Work;
use zoneward_consensus::stripes::StripeSet;
use zoneward_sectors::ids::{CopyId, TargetId};
use zoneward_sectors::sector_reader::SectorReadError;
use zoneward_sectors::stream::Layout;
use zoneward_sectors::stripes::{PART_WINDOWS, Stripes, answer_of, spans, stripe_key};
use zoneward_targets::protocol::Challenge;
use zoneward_targets::{ObjectName, Target};

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
/// The same, where the target has answered for all of it: what it has it must also hand out.
const SAMPLES_PROVED: u64 = 2;

/// What is told of a target that has a copy whole and cannot answer for it.
const MISPROVED: &str =
    "asked about all of it, its target gave a wrong answer, though every byte was right when it was read";

/// Looks at copies, and reports. `doubt` hears of targets that keep silent.
pub(crate) fn audit(
    zone: &mut Zone,
    work: &[Work],
    running: &Running,
    progress: &CopyProgress,
    doubt: &dyn Fn(TargetId),
) -> Result<(), ZoneError> {
    let opener = zone.opener();
    let asked = spend(zone, work)?;
    let (mut results, mut sets, mut stopped) = (Vec::new(), Vec::new(), false);
    // A target that left a question open is not asked again in this round: each may cost a deadline.
    let mut mute = false;
    for w in work {
        let Work::Audit { copy, .. } = *w else { continue };
        let Some(c) = zone.state().copies.get(&copy).filter(|c| c.is_stored()).cloned() else { continue };
        let target = zone.state().targets.get(&c.target).map_or("", |t| &t.name);
        running.say(format!("sector {:.8} on {target}", c.sector.to_string()));
        let mut set = None;
        match look(zone, &opener, &c, asked.contains(&copy), &mut mute, progress, &mut set) {
            Ok(Some(found)) => {
                sets.extend(set);
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
    if !sets.is_empty() {
        zone.propose(Command::SetStripes { sets })?;
    }
    for target in lost {
        // What cannot be put back now is looked at again with the next copy that is missing there.
        let _ = beside(zone, target);
    }
    if stopped { Err(ZoneError::Interrupted) } else { Ok(()) }
}

/// Uses up a key of each copy that its target can be asked about. Answers which.
fn spend(zone: &mut Zone, work: &[Work]) -> Result<BTreeSet<CopyId>, ZoneError> {
    let (mut copies, now) = (BTreeSet::new(), now_ms());
    for w in work {
        let Work::Audit { copy, target } = *w else { continue };
        let has_some = |c: &&BackupCopy| c.stripes.as_ref().is_some_and(|s| s.left() > 0);
        let Some(c) = zone.state().copies.get(&copy).filter(|c| c.is_stored()).filter(has_some) else { continue };
        let proves = zone.target(target).is_some_and(|t| t.capabilities().proves);
        if proves && !reads_all(zone.state(), c, now) {
            copies.insert(copy);
        }
    }
    if !copies.is_empty() {
        zone.propose(Command::SpendStripes { copies: copies.iter().copied().collect() })?;
    }
    Ok(copies)
}

/// Asks a copy's target about all of it, with the key that was used up for it; `None` if there is no answer. Whether the
/// answer is right is all that comes of it: a target that does not answer is read like one that cannot.
fn ask(target: &dyn Target, copy: &BackupCopy, of: &Examined<'_>) -> Option<bool> {
    let (j, right) = copy.stripes.as_ref()?.told()?;
    let reader = of.reader()?;
    let key = stripe_key(reader.audit_root(), j);
    let spans = spans(&reader.layout());
    let windows: u64 = spans.iter().map(|s| s.windows()).sum();
    let mut parts = Vec::new();
    while parts.len() as u64 * PART_WINDOWS < windows {
        let first = parts.len() as u64 * PART_WINDOWS;
        let challenge = Challenge::new(&key, &spans, first, PART_WINDOWS.min(windows - first));
        parts.push(target.prove(copy.alias, copy.id, &challenge).ok()??);
    }
    Some(answer_of(&key, copy.id, windows, &parts) == right)
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
///
/// Of a copy all of which was read, what its target has to answer from now on is left in `set`.
fn look(
    zone: &Zone,
    opener: &Opener,
    copy: &BackupCopy,
    asked: bool,
    mute: &mut bool,
    p: &CopyProgress,
    set: &mut Option<StripeSet>,
) -> Result<Option<Found>, ZoneError> {
    let Some(target) = zone.state().targets.get(&copy.target) else { return Ok(None) };
    let Some(store) = zone.target(copy.target).cloned() else {
        let why = "its target cannot be reached from any node".to_owned();
        return Ok((!may_be_away(target)).then_some(Found::Silent { why }));
    };
    let mut all = reads_all(zone.state(), copy, now_ms());
    let mut answered = None;
    let next = copy.stripes.as_ref().map_or(0, |s| s.next);
    let read = Examined::of(opener, copy).and_then(|x| {
        if asked && !*mute {
            answered = ask(store.as_ref(), copy, &x);
            *mute = answered.is_none();
        }
        all |= answered == Some(false);
        let some = if answered == Some(true) { SAMPLES_PROVED } else { SAMPLES };
        let large = store.capabilities().proves && x.units() > SAMPLES;
        let learns = x.reader().filter(|_| large).map(|r| Stripes::new(r.audit_root(), copy.id, next));
        let read = sample(&x, all, some, learns.as_ref(), p)?;
        let answers = learns.and_then(|s| s.answers(copy.stored_len));
        *set = answers.map(|a| StripeSet::new(copy.id, next, &a));
        Ok(read)
    });
    Ok(match read {
        Ok(Read::Stopped) => return Err(ZoneError::Interrupted),
        Ok(Read::All) if answered == Some(false) => Some(Found::Misproved { why: MISPROVED.into() }),
        Ok(Read::Some) => Some(Found::Whole { all: false }),
        Ok(Read::All) => Some(Found::Whole { all: true }),
        // That is this zone's own trouble.
        Err(e @ SectorReadError::Key) => return Err(e.into()),
        // Of one that the zone can neither open nor know by its bytes nothing can be said.
        Err(SectorReadError::OwnerOnly) => return Ok(None),
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

/// Reads `some` random segments, or all. What is read from beginning to end passes by `learns`.
fn sample(
    copy: &Examined<'_>,
    all: bool,
    some: u64,
    learns: Option<&Stripes>,
    p: &CopyProgress,
) -> Result<Read, SectorReadError> {
    let n = copy.units();
    let all = all || n <= SAMPLES;
    let learns = copy.reader().zip(learns).filter(|_| all);
    if let Some((reader, stripes)) = learns {
        reader.pass_header(stripes)?;
    }
    let chosen: Box<dyn Iterator<Item = u64>> = if all {
        Box::new(0..n)
    } else {
        let mut drawn = BTreeSet::new();
        while (drawn.len() as u64) < some {
            drawn.insert(any_of(n));
        }
        Box::new(drawn.into_iter())
    };
    let total = if all { (0..n).map(|u| copy.len(u)).sum() } else { some * copy.len(n / 2) };
    p.total.fetch_add(total, Ordering::Relaxed);
    let mut room = Room::new();
    for s in chosen {
        let Some(read) = copy.read(s, &mut room, &p.stop)? else { return Ok(Read::Stopped) };
        if let Some((_, stripes)) = learns {
            stripes.pass(Layout::segment_at(s), room.sealed());
        }
        p.done.fetch_add(read, Ordering::Relaxed);
    }
    if let Some((reader, stripes)) = learns {
        reader.pass_tables(stripes)?;
    }
    Ok(if all { Read::All } else { Read::Some })
}

/// One line of bounded length.
fn in_short(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    crate::told::shorten(plain, TROUBLE_LEN_MAX - '…'.len_utf8())
}
