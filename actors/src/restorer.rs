//! Restores that this node was asked for: into a folder of its own, one after another.
//!
//! A restore changes nothing of the zone, so it needs no lease and is no command. The list lives with the process: after a
//! restart it is asked for again, and files that are right already are not written again.
//!
//! Limits: [`WAITING_MAX`] wait, the last [`ENDED_MAX`] that ended are remembered.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use zoneward_consensus::model::{Checkpoint, Source, State};
use zoneward_sectors::ids::{CheckpointId, NodeId, RestoreId};
use zoneward_sectors::restore::{Progress, RestoreReport};
use zoneward_sectors::shown::show_path;
use zoneward_targets::Url;

use crate::board::Running;
use crate::clock::now_ms;
use crate::errors::ZoneError;
use crate::home::{real, target_around};
use crate::node::Node;
use crate::open::chain;
use crate::restore::{RestoreRequest, is_within, restore_checkpoint};
use crate::survey::located;

/// Restores that wait at most.
pub const WAITING_MAX: usize = 16;
/// Restores that ended and are still told of.
pub const ENDED_MAX: usize = 64;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub checkpoint: CheckpointId,
    /// Absolute paths, and what lies below them; all if there are none.
    pub paths: Vec<Vec<u8>>,
    /// An absolute path: everything comes to lie below it.
    pub to: PathBuf,
    /// Reads everything back and compares.
    pub verify: bool,
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Waiting,
    Running,
    /// Everything is there.
    Done,
    /// Some of it is there; the figures say what is not.
    Incomplete,
    Failed,
    Stopped,
}

/// Figures of a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub files: u64,
    pub dirs: u64,
    pub others: u64,
    pub bytes: u64,
    /// Files that were right already.
    pub kept: u64,
    pub failed: u64,
    pub damaged: u64,
    pub unreachable: u64,
    pub warnings: u64,
}

/// A restore.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: RestoreId,
    pub ask: Ask,
    pub stage: Stage,
    pub asked_ms: u64,
    pub ended_ms: Option<u64>,
    /// Bytes that all sources of the checkpoint hold: an upper bound of what is written.
    pub total_bytes: u64,
    pub figures: Figures,
    /// Paths that could not be restored, and why; the first ones.
    pub failures: Vec<String>,
    pub why: Option<String>,
    running: Option<Arc<Running>>,
    order: u64,
}

impl Job {
    /// Bytes written so far.
    pub fn done_bytes(&self) -> u64 {
        self.running.as_ref().map_or(self.figures.bytes, |r| r.done.load(Ordering::Relaxed))
    }

    fn ended(&self) -> bool {
        !matches!(self.stage, Stage::Waiting | Stage::Running)
    }
}

/// Why a restore is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{WAITING_MAX} restores wait already")]
    Full,
    #[error("the folder must be an absolute path without . and ..")]
    NotAbsolute,
    #[error("the folder lies in the zone's home")]
    InHome,
    #[error("the folder lies in the target {0}: whoever holds that could read what is restored")]
    InTarget(String),
    #[error("what is restored there would lie in a source, or over one")]
    InSource,
    #[error("no complete checkpoint has this id")]
    NoCheckpoint,
    #[error("a path lies in no source of the checkpoint")]
    NotHeld,
}

/// Failures that are told of each restore.
const FAILURES_MAX: usize = 100;

/// The restores of a node.
#[derive(Debug, Default)]
pub struct Restores {
    jobs: Mutex<BTreeMap<RestoreId, Job>>,
}

impl Restores {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RestoreId, Job>> {
        self.jobs.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// All of them, by id.
    pub fn all(&self) -> BTreeMap<RestoreId, Job> {
        self.lock().clone()
    }

    pub fn get(&self, id: RestoreId) -> Option<Job> {
        self.lock().get(&id).cloned()
    }

    /// Takes a restore on. The same id again changes nothing.
    pub fn ask(&self, node: &Node, id: RestoreId, ask: Ask) -> Result<Job, Refused> {
        use std::path::Component;
        if !ask.to.is_absolute() || ask.to.components().any(|c| matches!(c, Component::ParentDir | Component::CurDir)) {
            return Err(Refused::NotAbsolute);
        }
        let to = real(&ask.to);
        if node.parts.as_ref().is_some_and(|p| to.starts_with(real(p.home.dir()))) {
            return Err(Refused::InHome);
        }
        let view = node.cluster.view();
        let urls: Vec<Url> = view.targets.values().filter_map(|t| t.url.parse().ok()).collect();
        if let Some(target) = target_around(&to, &urls) {
            return Err(Refused::InTarget(target.display().to_string()));
        }
        let held = view.checkpoints.get(&ask.checkpoint).filter(|c| c.is_complete()).ok_or(Refused::NoCheckpoint)?;
        if !ask.paths.iter().all(|p| may_hold(&view, held, p)) {
            return Err(Refused::NotHeld);
        }
        if meets_a_source(&view, node.id(), held, &to) {
            return Err(Refused::InSource);
        }
        let total_bytes = held.tasks.iter().map(|t| t.stats.bytes).sum();
        let mut jobs = self.lock();
        if let Some(known) = jobs.get(&id) {
            return Ok(known.clone());
        }
        if jobs.values().filter(|j| j.stage == Stage::Waiting).count() >= WAITING_MAX {
            return Err(Refused::Full);
        }
        forget_oldest(&mut jobs);
        let job = Job {
            id,
            ask,
            stage: Stage::Waiting,
            asked_ms: now_ms(),
            ended_ms: None,
            total_bytes,
            figures: Figures::default(),
            failures: Vec::new(),
            why: None,
            running: None,
            order: jobs.values().map(|j| j.order).max().map_or(0, |o| o + 1),
        };
        jobs.insert(id, job.clone());
        Ok(job)
    }

    /// Stops a restore, waiting or running. What it wrote stays. `false`: there is none, or it has ended.
    pub fn stop(&self, id: RestoreId) -> bool {
        let mut jobs = self.lock();
        let Some(job) = jobs.get_mut(&id).filter(|j| !j.ended()) else { return false };
        match &job.running {
            Some(r) => r.stop.store(true, Ordering::SeqCst),
            None => (job.stage, job.ended_ms) = (Stage::Stopped, Some(now_ms())),
        }
        true
    }

    /// Whether one waits.
    pub fn waits(&self) -> bool {
        self.lock().values().any(|j| j.stage == Stage::Waiting)
    }

    fn begin(&self, running: &Arc<Running>) -> Option<Job> {
        let mut jobs = self.lock();
        let job = jobs.values_mut().filter(|j| j.stage == Stage::Waiting).min_by_key(|j| j.order)?;
        (job.stage, job.running) = (Stage::Running, Some(running.clone()));
        running.total.store(job.total_bytes, Ordering::Relaxed);
        Some(job.clone())
    }

    fn end(&self, id: RestoreId, stage: Stage, total: &RestoreReport, why: Option<String>) {
        if let Some(job) = self.lock().get_mut(&id) {
            (job.stage, job.ended_ms, job.running, job.why) = (stage, Some(now_ms()), None, why);
            let words = |(path, why): &(Vec<u8>, String)| format!("{}: {why}", show_path(path));
            job.figures = figures(total);
            job.failures = total.failed.iter().take(FAILURES_MAX).map(words).collect();
        }
    }
}

fn forget_oldest(jobs: &mut BTreeMap<RestoreId, Job>) {
    while jobs.values().filter(|j| j.ended()).count() >= ENDED_MAX {
        let oldest = jobs.values().filter(|j| j.ended()).min_by_key(|j| j.order).map(|j| j.id);
        let Some(id) = oldest else { return };
        jobs.remove(&id);
    }
}

fn figures(r: &RestoreReport) -> Figures {
    Figures {
        files: r.files,
        dirs: r.dirs,
        others: r.others,
        bytes: r.bytes,
        kept: r.kept,
        failed: r.failed_count,
        damaged: r.damage_count,
        unreachable: r.unreachable_count,
        warnings: r.warnings_count,
    }
}

/// Whether nothing at all was met.
fn met_nothing(r: &RestoreReport) -> bool {
    r.files + r.dirs + r.others + r.kept + r.failed_count == 0
}

/// Does the restore that has waited longest. `false`: none waits.
pub(crate) fn run(node: &Arc<Node>) -> Result<bool, ZoneError> {
    // Zero is no lease: nothing that is claimed has this number.
    let running = Running::new(0, "restore", Vec::new());
    let Some(job) = node.restores.begin(&running) else { return Ok(false) };
    let shown = node.board.show(running);
    let mut total = RestoreReport::default();
    let done = restore(node, &job, &shown.running, &mut total);
    drop(shown);
    let (stage, why) = match &done {
        Ok(()) if met_nothing(&total) && !job.ask.paths.is_empty() => {
            (Stage::Failed, Some("the checkpoint holds none of these paths".into()))
        }
        Ok(()) if total.failed_count == 0 => (Stage::Done, None),
        Ok(()) => (Stage::Incomplete, None),
        Err(ZoneError::Interrupted | ZoneError::Restore(zoneward_sectors::restore::RestoreError::Interrupted)) => {
            (Stage::Stopped, None)
        }
        Err(e) => (Stage::Failed, Some(chain(e))),
    };
    node.restores.end(job.id, stage, &total, why);
    // Its end is told in the list: it is no reason for the next one to wait.
    Ok(true)
}

fn restore(node: &Arc<Node>, job: &Job, running: &Arc<Running>, total: &mut RestoreReport) -> Result<(), ZoneError> {
    let zone = node.zone(None)?;
    let paths = &job.ask.paths;
    let request = RestoreRequest {
        checkpoint: job.ask.checkpoint,
        to: Some(job.ask.to.clone()),
        wanted: &|path, _| paths.is_empty() || paths.iter().any(|p| is_within(path, p)),
        verify: job.ask.verify,
        threads: node.threads_now(),
    };
    running.say(format!("restoring to {}", job.ask.to.display()));
    let progress = Arc::new(Progress { stop: running.stop.clone(), ..Progress::default() });
    let (end, ended) = crossbeam_channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let wait = std::time::Duration::from_millis(crate::engine::steps::METER_MS);
            while ended.recv_timeout(wait) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
                running.done.store(progress.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        });
        let done = restore_checkpoint(&zone, &request, &progress, &mut |_, r| total.add(r));
        drop(end);
        done
    })
}

/// Whether a part of a checkpoint that is restored below `to` would come to lie in a source, or a source in it.
fn meets_a_source(state: &State, node: NodeId, checkpoint: &Checkpoint, to: &Path) -> bool {
    let path = |s: &Source| PathBuf::from(OsString::from_vec(s.path.clone()));
    // A dfs name lies elsewhere on each node; one that this node does not map is not here.
    let sources: Vec<PathBuf> =
        state.sources.values().filter_map(|s| located(state, node, s).ok()).map(|p| real(&p)).collect();
    let held = checkpoint.tasks.iter().filter_map(|t| state.source_ever(t.source));
    let places: Vec<PathBuf> = held.map(|s| to.join(path(s).strip_prefix("/").unwrap_or(&path(s)))).collect();
    places.iter().any(|p| sources.iter().any(|s| p.starts_with(s) || s.starts_with(p)))
}

/// Whether a path can be in a checkpoint: it lies in a source, or above one.
fn may_hold(state: &State, checkpoint: &Checkpoint, path: &[u8]) -> bool {
    let sources = checkpoint.tasks.iter().filter_map(|t| state.source_ever(t.source));
    sources.into_iter().any(|s| is_within(path, &s.path) || is_within(&s.path, path))
}
