//! Putting this node's sources back to a checkpoint, in place, without losing what is there.
//!
//! What the checkpoint holds is restored completely beside what is there, on the same file system, before anything is
//! touched. Then names change places: what is there goes to `old`, what was restored takes its place. `old` stays until a
//! person releases it, and brings all back if asked to. From the beginning until all sources are of one state again the
//! zone is in maintenance: nothing is backed up.
//!
//! Crash rule: the journal (`rollback/journal.rs`) is durable before each step; a cut run is gone on with, or undone.

mod journal;
mod plan;
mod remove;
mod room;
mod stage;
mod swap;

use std::fs::File;
use std::io;
use std::path::PathBuf;

use zoneward_consensus::command::Command;
use zoneward_consensus::model::CheckpointState;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::CheckpointId;
use zoneward_sectors::restore::{Progress, RestoreReport};

use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::home::{Home, HomeError};
use crate::zone::Zone;

pub use journal::{Journal, Phase, Step, Swap};
pub use plan::{Left, LeftWhy, Outlook, Planned, outlook};
pub use room::{Needs, Short};

/// What the folders begin with in which a rollback keeps things. They are in no backup.
pub const FOLDER_PREFIX: &str = ".zoneward-rollback-";

/// Why a rollback stopped.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    #[error(transparent)]
    Zone(#[from] ZoneError),
    #[error("the journal of a rollback, {path}, cannot be used: {why}")]
    Journal { path: PathBuf, why: String },
    #[error("what the checkpoint holds could not be brought back whole")]
    Incomplete(Box<RestoreReport>),
    #[error("checkpoint {0} is no longer there")]
    NoCheckpoint(u64),
    #[error("checkpoint {0} is being made")]
    Running(u64),
    #[error("cannot {what} {path}")]
    Move { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the folder {folder} is not there: is the right disk mounted?")]
    Gone { folder: PathBuf },
    #[error("the rollback is at another step than this needs")]
    Turn,
}

impl From<HomeError> for RollbackError {
    fn from(e: HomeError) -> Self {
        Self::Zone(e.into())
    }
}

impl RollbackError {
    /// Whether somebody asked for the stop.
    pub fn is_interrupt(&self) -> bool {
        use zoneward_sectors::restore::RestoreError;
        matches!(self, Self::Zone(ZoneError::Interrupted | ZoneError::Restore(RestoreError::Interrupted)))
    }
}

/// What a rollback, or its undoing, came to.
#[derive(Debug, Default)]
pub struct Done {
    /// What was restored by this run.
    pub restored: RestoreReport,
    /// What a person should know.
    pub told: Vec<String>,
}

/// Held by the one process that works on the rollback of a home.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock.
pub fn lock(home: &Home) -> Result<Lock, RollbackError> {
    Ok(Lock { _file: home.lock_rollback()? })
}

/// Says to the zone that this node changes its sources.
fn raise(zone: &mut Zone, seq: u64) -> Result<(), ZoneError> {
    if zone.state().policy.maintenance.contains_key(&zone.node()) {
        return Ok(());
    }
    zone.propose(Command::SetMaintenance { reason: Some(format!("a rollback to checkpoint {seq}")) })
}

/// Says that it is done.
fn lower(zone: &mut Zone) -> Result<(), ZoneError> {
    if !zone.state().policy.maintenance.contains_key(&zone.node()) {
        return Ok(());
    }
    zone.propose(Command::SetMaintenance { reason: None })
}

/// Lets backups begin again where a run was cut after it was done and before it said so.
pub fn settle(zone: &mut Zone) -> Result<(), RollbackError> {
    match Journal::read(&zone.home)? {
        Some(j) if j.phase.is_under_way() => Ok(()),
        _ => Ok(lower(zone)?),
    }
}

/// Begins a rollback: from here on nothing is backed up. A backup that was cut is given up: it could not be resumed on
/// sources that are of another state.
pub fn begin(zone: &mut Zone, outlook: Outlook) -> Result<Journal, RollbackError> {
    let running = |c: &zoneward_consensus::model::Checkpoint| c.state == CheckpointState::Running;
    let running: Vec<(CheckpointId, u64)> =
        zone.state().checkpoints.values().filter(|c| running(c)).map(|c| (c.id, c.seq)).collect();
    for (checkpoint, seq) in running {
        if zone.is_shared() {
            return Err(RollbackError::Running(seq));
        }
        zone.propose(Command::AbandonCheckpoint { checkpoint })?;
    }
    let swaps = outlook.planned.into_iter().map(|p| p.swap).collect();
    let journal = Journal::new(outlook.checkpoint, outlook.seq, now_ms(), swaps);
    fsx::point("rollback-begin:before");
    journal.write(&zone.home)?;
    fsx::point("rollback-begin:after");
    if let Err(e) = raise(zone, journal.seq) {
        // Nothing was begun. If the journal stays too, the next run undoes nothing.
        Journal::remove(&zone.home)?;
        return Err(e.into());
    }
    Ok(journal)
}

/// Goes on with a rollback until all sources are as the checkpoint holds them. If it cannot be brought back whole, nothing
/// was touched, and all that was staged is removed again; when it is interrupted, it stays.
pub fn go_on(
    zone: &mut Zone,
    journal: &mut Journal,
    threads: usize,
    progress: &Progress,
) -> Result<Done, RollbackError> {
    raise(zone, journal.seq)?;
    let mut done = Done::default();
    if journal.phase == Phase::Staging {
        match stage::stage(zone, journal, threads, progress) {
            Ok(restored) => done.restored = restored,
            Err(e) if e.is_interrupt() => return Err(e),
            Err(e) => {
                give_up(zone, journal)?;
                return Err(e);
            }
        }
        fsx::point("rollback-staged");
    }
    done.told = with_hand(zone, |hand| swap::forward(journal, hand))?;
    lower(zone)?;
    fsx::point("rollback-lowered");
    Ok(done)
}

/// Brings back what a rollback replaced. One that has replaced nothing yet is only given up: `None`.
pub fn undo(zone: &mut Zone, journal: &mut Journal) -> Result<Option<Done>, RollbackError> {
    raise(zone, journal.seq)?;
    if journal.phase == Phase::Staging {
        give_up(zone, journal)?;
        return Ok(None);
    }
    let told = with_hand(zone, |hand| swap::back(journal, hand))?;
    lower(zone)?;
    Ok(Some(Done { told, ..Done::default() }))
}

/// Deletes what was kept, for good.
pub fn release(zone: &mut Zone, journal: &mut Journal) -> Result<(), RollbackError> {
    if journal.phase.is_under_way() {
        return Err(RollbackError::Turn);
    }
    lower(zone)?;
    journal.phase = Phase::Releasing;
    journal.write(&zone.home)?;
    fsx::point("rollback-release:before");
    for swap in &journal.swaps {
        remove::kept(swap)?;
        fsx::point("rollback-release:one");
    }
    Journal::remove(&zone.home)
}

/// Removes what was staged. Nothing was touched yet.
fn give_up(zone: &mut Zone, journal: &Journal) -> Result<(), RollbackError> {
    for swap in &journal.swaps {
        remove::staged(swap)?;
    }
    lower(zone)?;
    Journal::remove(&zone.home)
}

/// Runs steps that change places; answers what is to be told.
fn with_hand(
    zone: &Zone,
    steps: impl FnOnce(&mut swap::Hand<'_>) -> Result<(), RollbackError>,
) -> Result<Vec<String>, RollbackError> {
    let home = zone.home.clone();
    let mut save = |j: &Journal| j.write(&home);
    let mut pass = |name: &'static str| {
        fsx::point(name);
        Ok(())
    };
    let mut hand = swap::Hand { save: &mut save, pass: &mut pass, told: Vec::new() };
    steps(&mut hand)?;
    Ok(hand.told)
}

/// Whether something was moved out of the way of what came: it is kept, and comes back by itself neither way.
pub fn has_late(journal: &Journal) -> bool {
    journal.swaps.iter().any(swap::has_late)
}
