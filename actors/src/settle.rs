//! What the planner asks for, done: leftovers removed, missing copies made, system data written, heads published.

use std::sync::atomic::{AtomicBool, Ordering};

use zoneward_consensus::plan::{Work, plan};
use zoneward_consensus::command::Command;
use zoneward_consensus::model::CopyState;
use zoneward_sectors::ids::{CopyId, SectorId, TargetId};

use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::open::chain;
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

/// Removes what a cut run left behind: files of sectors that were given up.
pub fn tidy(zone: &mut Zone) -> Result<(), ZoneError> {
    let opened: Vec<(TargetId, _)> = zone.targets().iter().map(|(id, t)| (*id, t.clone())).collect();
    for (id, target) in opened {
        let alias = zone.keys().alias(id);
        for copy in target.list_incoming(alias)? {
            target.discard_incoming(alias, copy)?;
        }
    }
    give_up_cut_work(zone)?;
    let work: Vec<Work> = plan(zone.state(), now_ms());
    for w in work {
        if let Work::RemoveIncoming { target, copy } = w {
            crate::system::remove_abandoned(zone, target, copy)?;
        }
    }
    Ok(())
}

/// Nobody else works in this home, so a copy that is still open was cut; so was a system sector.
fn give_up_cut_work(zone: &mut Zone) -> Result<(), ZoneError> {
    let state = zone.state();
    let systems: Vec<SectorId> =
        state.sectors.values().filter(|s| s.system && !s.is_sealed()).map(|s| s.id).collect();
    let sealed = |s: &SectorId| state.sectors.get(s).is_some_and(|s| s.is_sealed());
    let copies: Vec<CopyId> =
        state.copies.values().filter(|c| c.state == CopyState::Open && sealed(&c.sector)).map(|c| c.id).collect();
    for sector in systems {
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
    let mut given_up: Vec<Work> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let work: Vec<Work> = plan(zone.state(), now_ms()).into_iter().filter(|w| !given_up.contains(w)).collect();
        let mut did = false;
        for w in work {
            if stop.load(Ordering::Relaxed) {
                return Err(ZoneError::Interrupted);
            }
            match do_work(zone, &w, threads, &mut settled) {
                Ok(done) => {
                    did |= done;
                    if !done {
                        given_up.push(w);
                    }
                }
                // A target's trouble must not stop what the others can do.
                Err(e @ (ZoneError::Target(_) | ZoneError::NoTarget(_) | ZoneError::Sector(_) | ZoneError::Read(_) | ZoneError::Write(_))) => {
                    settled.failed.push(format!("{}: {}", describe(zone, &w), chain(&e)));
                    given_up.push(w);
                }
                Err(e) => return Err(e),
            }
        }
        if !did {
            return Ok(settled);
        }
    }
    Ok(settled)
}

fn do_work(zone: &mut Zone, work: &Work, threads: usize, settled: &mut Settled) -> Result<bool, ZoneError> {
    match *work {
        Work::RemoveIncoming { target, copy } => crate::system::remove_abandoned(zone, target, copy).map(|()| true),
        Work::Copy { sector, target } => {
            settled.copied_bytes += crate::transcode::copy_sector(zone, sector, target, threads)?;
            settled.copies_made += 1;
            Ok(true)
        }
        Work::WriteSystem { checkpoint } => crate::system::write_system(zone, checkpoint).map(|()| true),
        Work::Publish { target } => {
            crate::system::publish(zone, target)?;
            settled.heads_published += 1;
            Ok(true)
        }
        Work::FinishCheckpoint { checkpoint } => {
            zone.propose(Command::FinishCheckpoint { checkpoint })?;
            Ok(true)
        }
        // A cut checkpoint is carried on by the next backup, which knows what was asked for.
        Work::ResumeCheckpoint { .. } => Ok(false),
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
        Work::FinishCheckpoint { .. } | Work::ResumeCheckpoint { .. } => "finishing the checkpoint".into(),
    }
}
