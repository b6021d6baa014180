//! What the planner asks for, done: leftovers removed, missing copies made, system data written, heads published.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use zoneward_consensus::command::Command;
use zoneward_consensus::limits;
use zoneward_consensus::model::{CopyState, State};
use zoneward_consensus::plan::{Work, plan};
use zoneward_sectors::ids::{CopyId, LayerId, SectorId, TargetId};

use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::open::chain;
use crate::transcode::{CopyProgress, copy_sector};
use crate::zone::Zone;

/// What was settled, and what could not be.
#[derive(Debug, Default)]
pub struct Settled {
    pub copies_made: u64,
    pub copied_bytes: u64,
    pub heads_published: u64,
    /// Work that a target did not let us do, in words.
    pub failed: Vec<String>,
}

/// Rounds of planning before something is wrong: each round does all that the one before asked for.
const ROUNDS_MAX: usize = 64;

/// Time that the leftovers of one target may take; the rest is left to the next run.
const TIDY_TIME: Duration = Duration::from_secs(60);

/// Removes what a cut run left behind: files of sectors that were given up.
pub fn tidy(zone: &mut Zone) -> Result<(), ZoneError> {
    let opened: Vec<(TargetId, _)> = zone.targets().iter().map(|(id, t)| (*id, t.clone())).collect();
    for (id, target) in opened {
        let alias = zone.keys().alias(id);
        // A target that cannot be tidied now keeps its leftovers until it can; the others must not wait for it.
        // Nor may one that makes up leftovers keep this run from its work.
        let begun = Instant::now();
        for copy in target.list_incoming(alias).unwrap_or_default() {
            let _ = target.discard_incoming(alias, copy);
            if begun.elapsed() > TIDY_TIME {
                break;
            }
        }
    }
    give_up_cut_work(zone)?;
    let work: Vec<Work> = plan(zone.state(), now_ms());
    for w in work {
        if let Work::RemoveIncoming { target, copy } = w {
            match crate::system::remove_abandoned(zone, target, copy) {
                // Planned again by every run until its target can be reached.
                Ok(()) | Err(ZoneError::Target(_) | ZoneError::NoTarget(_)) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// Nobody else works in this home, so a copy that is still open was cut; so was a system sector.
fn give_up_cut_work(zone: &mut Zone) -> Result<(), ZoneError> {
    let state = zone.state();
    let systems: Vec<SectorId> = state.sectors.values().filter(|s| s.system && !s.is_sealed()).map(|s| s.id).collect();
    let sealed = |s: &SectorId| state.sectors.get(s).is_some_and(|s| s.is_sealed());
    let copies: Vec<CopyId> =
        state.copies.values().filter(|c| c.state == CopyState::Open && sealed(&c.sector)).map(|c| c.id).collect();
    let leases: Vec<u64> = state.leases.keys().copied().collect();
    // A daemon that served this home held them, and is gone.
    for epoch in leases {
        zone.propose(Command::EndLease { epoch })?;
    }
    for sector in systems.into_iter().filter(|s| zone.state().sectors.contains_key(s)).collect::<Vec<_>>() {
        zone.propose(Command::AbandonSector { sector })?;
    }
    for copy in copies {
        zone.propose(Command::AbandonCopy { copy })?;
    }
    Ok(())
}

/// Does all the planner asks for until it asks for nothing that can be done now.
pub fn settle(zone: &mut Zone, threads: usize, stop: &AtomicBool) -> Result<Settled, ZoneError> {
    let mut settled = Settled::default();
    look_at_heads(zone, &mut settled)?;
    let mut given_up: Vec<Work> = Vec::new();
    // Targets that failed, or cannot be reached: what they would get goes to others if there are any.
    let mut away: BTreeSet<TargetId> = zone.unreachable().iter().map(|u| u.target).collect();
    for _ in 0..ROUNDS_MAX {
        let work: Vec<Work> = plan_without(zone, &away).into_iter().filter(|w| !given_up.contains(w)).collect();
        let mut did = false;
        for w in work {
            if stop.load(Ordering::Relaxed) {
                return Err(ZoneError::Interrupted);
            }
            if w.target().is_some_and(|t| away.contains(&t)) {
                continue;
            }
            match do_work(zone, &w, threads, &mut settled) {
                Ok(true) => did = true,
                Ok(false) => given_up.push(w),
                // No whole copy is left to read: no fault of the target that was to get one more.
                Err(e) if e.is_damage() && matches!(w, Work::Copy { .. }) => {
                    settled.failed.push(format!("{}: {}", describe(zone, &w), chain(&e)));
                    given_up.push(w);
                }
                Err(e) if is_a_targets(&e) => {
                    settled.failed.push(format!("{}: {}", describe(zone, &w), chain(&e)));
                    // Another round may find another target for it.
                    did |= w.target().is_some_and(|t| away.insert(t));
                    given_up.push(w);
                }
                Err(e) => return Err(e),
            }
        }
        if !did {
            break;
        }
    }
    for u in zone.unreachable() {
        let waits = plan(zone.state(), now_ms()).iter().any(|w| w.target() == Some(u.target));
        if waits {
            settled.failed.push(format!("target {} cannot be reached and waits for its copies", u.name));
        }
    }
    crate::keyless::forget_keys(zone)?;
    guard_all(zone, &mut settled);
    settled.failed.extend(lost_sectors(zone.state()));
    Ok(settled)
}

/// Makes locks longer and brings back what was hidden. Where a daemon runs, its leader does.
/// A target that was set back is named before it gets the newest head: afterwards nothing would tell of it. With daemons
/// the leader looks.
fn look_at_heads(zone: &mut Zone, settled: &mut Settled) -> Result<(), ZoneError> {
    if zone.is_shared() {
        return Ok(());
    }
    let targets: Vec<_> = zone.targets().iter().map(|(id, t)| (*id, t.clone())).collect();
    for (id, target) in targets {
        let Some(command) = crate::freshness::misshown(zone.state(), id, &*target) else { continue };
        if let Command::Misshown { what, .. } = &command {
            let name = zone.state().targets.get(&id).map_or("", |t| &t.name);
            settled.failed.push(format!("target {name} showed {what}: it was set back, or lost it"));
        }
        zone.propose(command)?;
    }
    Ok(())
}

fn guard_all(zone: &Zone, settled: &mut Settled) {
    if zone.is_shared() {
        return;
    }
    for (id, target) in zone.targets() {
        let name = zone.state().targets.get(id).map_or("", |t| &t.name);
        match crate::guard::guard(zone.state(), *id, &**target, true, None) {
            Ok((guard, _)) => settled.failed.extend(guard.alarms().iter().map(|c| format!("target {name}: {c}"))),
            Err(e) => settled.failed.push(format!("target {name}: {}", chain(&e))),
        }
    }
}

/// What a source relies on has as many copies as the source asks for, also if it asked for fewer when that was stored:
/// the sectors of its catalog's layers, and those that hold content which they name.
pub(crate) fn raise_copies(
    zone: &mut Zone,
    layers: &[LayerId],
    content: &BTreeSet<u32>,
    copies: u8,
) -> Result<(), ZoneError> {
    let state = zone.state();
    let parts = layers.iter().filter_map(|l| state.layers.get(l)).flat_map(|l| &l.parts).map(|part| part.sector);
    let content = content.iter().filter_map(|n| zone.table().id(*n));
    let few = |s: &SectorId| state.sectors.get(s).is_some_and(|s| s.is_sealed() && s.copies_wanted < copies);
    let few: BTreeSet<SectorId> = parts.chain(content).filter(few).collect();
    let few: Vec<SectorId> = few.into_iter().collect();
    for some in few.chunks(limits::VERIFIED_MAX) {
        zone.propose(Command::RaiseCopies { sectors: some.to_vec(), copies })?;
    }
    Ok(())
}

/// What a person is told of sectors that the newest checkpoint builds on and that are lost.
pub fn lost_sectors(state: &State) -> Vec<String> {
    let text = |sector| {
        format!(
            "sector {}: no whole copy is left, and the newest checkpoint needs it: the next zoneward backup stores anew what \
             is still there",
            short(sector)
        )
    };
    without_a_copy(state).into_iter().map(text).collect()
}

/// Sectors that the newest checkpoint builds on and of which no copy is whole, as far as is known.
fn without_a_copy(state: &State) -> BTreeSet<SectorId> {
    let newest = state.checkpoints.values().filter(|c| c.is_complete()).max_by_key(|c| c.seq);
    state.gone_under(newest.into_iter().flat_map(|c| &c.tasks).flat_map(|t| &t.layers))
}

/// A target's trouble must not stop what the others can do, nor undo what is stored: what cannot be read because its
/// target is away waits for it.
fn is_a_targets(e: &ZoneError) -> bool {
    use ZoneError::{Catalogs, NoCopy, NoTarget, Read, Sector, Target, Write};
    matches!(e, Target(_) | NoTarget(_) | Sector(_) | Read(_) | Write(_))
        || (matches!(e, Catalogs(_) | NoCopy(_)) && !e.is_damage())
}

/// The plan as if these targets were paused.
fn plan_without(zone: &Zone, away: &BTreeSet<TargetId>) -> Vec<Work> {
    if away.is_empty() {
        return plan(zone.state(), now_ms());
    }
    let mut view = zone.state().clone();
    view.targets.values_mut().filter(|t| away.contains(&t.id)).for_each(|t| t.paused = true);
    plan(&view, now_ms())
}

fn do_work(zone: &mut Zone, work: &Work, threads: usize, settled: &mut Settled) -> Result<bool, ZoneError> {
    match *work {
        Work::RemoveIncoming { target, copy } => crate::system::remove_abandoned(zone, target, copy).map(|()| true),
        Work::Copy { sector, target } => {
            let progress = CopyProgress::default();
            settled.copied_bytes += copy_sector(zone, sector, target, threads, &progress)?;
            settled.copies_made += 1;
            Ok(true)
        }
        Work::WriteSystem { checkpoint } => crate::system::write_system(zone, checkpoint).map(|()| true),
        Work::Publish { target } => {
            match crate::system::publish(zone, target) {
                // The daemons of the voters do it.
                Err(ZoneError::Unsigned { .. }) if zone.is_shared() => return Ok(false),
                done => done?,
            }
            settled.heads_published += 1;
            Ok(true)
        }
        Work::FinishCheckpoint { checkpoint } => {
            zone.propose(Command::FinishCheckpoint { checkpoint })?;
            Ok(true)
        }
        // A cut checkpoint is carried on by the next backup, which knows what was asked for.
        Work::ResumeCheckpoint { .. }
        | Work::Pack { .. }
        | Work::StoreCheckpoint { .. }
        | Work::Stage { .. }
        | Work::Audit { .. } => Ok(false),
    }
}

fn name(zone: &Zone, target: TargetId) -> String {
    zone.state().targets.get(&target).map_or_else(|| target.to_string(), |t| t.name.clone())
}

fn short(sector: SectorId) -> String {
    sector.to_string().chars().take(8).collect()
}

fn describe(zone: &Zone, work: &Work) -> String {
    match *work {
        Work::Copy { sector, target } => format!("copying sector {} to {}", short(sector), name(zone, target)),
        Work::Publish { target } => format!("publishing the head on {}", name(zone, target)),
        Work::RemoveIncoming { target, .. } => format!("removing leftovers on {}", name(zone, target)),
        Work::WriteSystem { .. } => "writing the system data".into(),
        Work::FinishCheckpoint { .. }
        | Work::ResumeCheckpoint { .. }
        | Work::StoreCheckpoint { .. }
        | Work::Stage { .. }
        | Work::Audit { .. }
        | Work::Pack { .. } => "finishing the checkpoint".into(),
    }
}
