//! Checkpoints, their tasks and layers, and heads.

use std::collections::{BTreeMap, BTreeSet};

use zoneward_sectors::ids::{CheckpointId, CopyId, LayerId, SectorId, SourceId};

use super::forget::{owner_says, used_word};
use super::{Applied, Change, Refusal, Row, leases};
use crate::command::Command;
use crate::limits::{MOUNTS_MAX, WARNINGS_MAX, WHY_LEN_MAX};
use crate::model::{
    Checkpoint, CheckpointKind, CheckpointState, CopyState, Ground, Head, Layer, Lease, Passed, Rebased, RefusedSource,
    Rewrite, SectorState, Task, TaskState, TaskStats,
};
use crate::owner::{Act, OwnerWord};
use crate::planted::{Bug, planted};
use crate::work::Work;

pub fn open(
    c: &mut Change<'_>,
    id: CheckpointId,
    kind: CheckpointKind,
    sources: &[SourceId],
    allow_empty: bool,
) -> Applied {
    if kind == CheckpointKind::Synthetic {
        return Err(Refusal::Range("the kind of the checkpoint"));
    }
    if sources.is_empty() || sources.iter().any(|s| !c.state.sources.contains_key(s)) {
        return Err(Refusal::Unknown("a source"));
    }
    let mut tasks = Vec::new();
    for source in c.state.sources.keys() {
        if sources.contains(source) {
            let layers = c.state.base_chain(*source, kind);
            let stats = TaskStats::default();
            tasks.push(Task {
                source: *source,
                state: TaskState::Running,
                layers,
                as_of_ms: c.now,
                stats,
                warnings: Vec::new(),
                passed: BTreeMap::new(),
            });
        } else if let Some(old) =
            c.state.complete().into_iter().rev().find_map(|x| x.tasks.iter().find(|t| t.source == *source))
        {
            tasks.push(Task { state: TaskState::Carried, ..old.clone() });
        }
    }
    begin(c, id, kind, tasks, allow_empty)
}

/// Begins a checkpoint of these tasks; there is one at a time.
fn begin(c: &mut Change<'_>, id: CheckpointId, kind: CheckpointKind, tasks: Vec<Task>, allow_empty: bool) -> Applied {
    if c.state.checkpoints.contains_key(&id) {
        return Err(Refusal::Exists("the checkpoint"));
    }
    if c.state.checkpoints.values().any(|x| x.state == CheckpointState::Running) {
        return Err(Refusal::State("another checkpoint that is still running"));
    }
    if c.state.in_maintenance().next().is_some() {
        return Err(Refusal::Maintenance);
    }
    let seq = c.state.next_seq.checked_add(1).ok_or(Refusal::Range("the checkpoint's number"))?;
    let checkpoint = Checkpoint {
        id,
        seq,
        kind,
        state: CheckpointState::Running,
        node: c.node,
        started_ms: c.now,
        finished_ms: None,
        tasks,
        refused: Vec::new(),
        allow_empty,
        tags: BTreeSet::new(),
        forgotten: None,
        credit_ms: c.state.zone.as_ref().map_or(0, |z| z.credit_ms),
        rewrite: None,
    };
    c.state.next_seq = seq;
    c.state.checkpoints.insert(id, checkpoint);
    c.rows.insert(Row::Checkpoint(id));
    c.rows.insert(Row::Zone);
    Ok(())
}

/// Begins a synthetic checkpoint: it holds what the newest one holds, and all that checkpoints hold may be written anew for
/// it. Each source that any of them holds is a task, so that its chains can be looked at.
pub fn open_rewrite(c: &mut Change<'_>, id: CheckpointId, max_waste: Option<u8>, owner: Option<&OwnerWord>) -> Applied {
    if max_waste.is_some_and(|p| p > 100) {
        return Err(Refusal::Range("the part that may be dead"));
    }
    let complete = c.state.complete();
    let newest = complete.last().ok_or(Refusal::Unknown("a checkpoint"))?;
    let held = |x: &&Checkpoint| x.tasks.iter().map(|t| t.source).collect::<Vec<_>>();
    let mut sources: Vec<SourceId> = complete.iter().flat_map(held).collect();
    sources.sort();
    sources.dedup();
    let running = |source: SourceId| {
        let old = newest.tasks.iter().find(|t| t.source == source);
        let (layers, as_of_ms) = old.map_or((Vec::new(), 0), |t| (t.layers.clone(), t.as_of_ms));
        let stats = old.map_or_else(TaskStats::default, |t| t.stats.clone());
        let warnings = old.map_or_else(Vec::new, |t| t.warnings.clone());
        Task { source, state: TaskState::Running, layers, as_of_ms, stats, warnings, passed: BTreeMap::new() }
    };
    let tasks: Vec<Task> = sources.into_iter().map(running).collect();
    if let Some(word) = owner {
        owner_says(c, Act::Prune { checkpoint: id }, word)?;
    }
    begin(c, id, CheckpointKind::Synthetic, tasks, false)?;
    let rewrite = Rewrite { max_waste, much: owner.is_some(), chains: Vec::new() };
    if let Some(x) = c.state.checkpoints.get_mut(&id) {
        x.rewrite = Some(rewrite);
    }
    if owner.is_some() {
        used_word(c);
    }
    Ok(())
}

/// What stands instead of which chains once the synthetic checkpoint is stored.
pub fn rebase(c: &mut Change<'_>, id: CheckpointId, chains: &[Rebased]) -> Applied {
    let x = c.state.checkpoints.get(&id).ok_or(Refusal::Unknown("the checkpoint"))?;
    if x.state != CheckpointState::Running || x.rewrite.is_none() {
        return Err(Refusal::State("the checkpoint"));
    }
    for r in chains {
        let task = x.tasks.iter().find(|t| t.source == r.source).ok_or(Refusal::Unknown("the task"))?;
        if task.state != TaskState::Running {
            return Err(Refusal::State("the task"));
        }
        leases::holds_pack(c, id, r.source)?;
        let of_source = |l: &LayerId| c.state.layers.get(l).is_some_and(|l| l.source == r.source);
        let whole = r.new.first().and_then(|l| c.state.layers.get(l)).is_some_and(|l| l.full);
        if r.new.is_empty() || !whole || !r.new.iter().all(of_source) {
            return Err(Refusal::Differs("a chain"));
        }
    }
    if let Some(w) = c.state.checkpoints.get_mut(&id).and_then(|x| x.rewrite.as_mut()) {
        w.chains.retain(|old| !chains.iter().any(|r| r.source == old.source && r.old == old.old));
        w.chains.extend(chains.iter().cloned());
    }
    c.rows.insert(Row::Checkpoint(id));
    Ok(())
}

/// Puts the new chains in the place of the old ones, in every checkpoint. What has no entry holds nothing.
fn rebase_all(c: &mut Change<'_>, id: CheckpointId) {
    let Some(rewrite) = c.state.checkpoints.get_mut(&id).and_then(|x| x.rewrite.as_mut()) else { return };
    let chains = std::mem::take(&mut rewrite.chains);
    for x in c.state.checkpoints.values_mut().filter(|x| x.id == id || x.is_complete()) {
        for t in &mut x.tasks {
            let Some(r) = chains.iter().find(|r| r.source == t.source && r.old == t.layers) else { continue };
            t.layers = r.new.iter().copied().filter(|l| c.state.layers.contains_key(l)).collect();
            c.rows.insert(Row::Checkpoint(x.id));
        }
    }
    // A source that the newest checkpoint did not hold is no part of this one.
    if let Some(x) = c.state.checkpoints.get_mut(&id) {
        x.tasks.retain(|t| !t.layers.is_empty() || c.state.sources.contains_key(&t.source));
    }
}

/// Gives up every sector of a checkpoint that is not sealed.
fn give_up_open(c: &mut Change<'_>, id: CheckpointId) {
    let open: Vec<SectorId> =
        c.state.sectors.values().filter(|s| s.checkpoint == id && !s.is_sealed()).map(|s| s.id).collect();
    for s in open {
        super::sectors::give_up(c, s);
    }
}

pub fn resume(c: &mut Change<'_>, id: CheckpointId) -> Applied {
    let x = c.state.checkpoints.get_mut(&id).ok_or(Refusal::Unknown("the checkpoint"))?;
    if x.state != CheckpointState::Running {
        return Err(Refusal::State("the checkpoint"));
    }
    for t in x.tasks.iter_mut().filter(|t| t.state == TaskState::Done) {
        // It is looked at again: what changed since belongs to the checkpoint that now ends later.
        t.state = TaskState::Running;
    }
    leases::end_all(c, |l| packs_of(l, id));
    drop_empty_layers(c, id, |_| true);
    give_up_open(c, id);
    c.rows.insert(Row::Checkpoint(id));
    Ok(())
}

/// Whether a lease is one of packing this checkpoint.
fn packs_of(lease: &Lease, id: CheckpointId) -> bool {
    lease.work.iter().any(|w| matches!(w, Work::Pack { checkpoint, .. } if *checkpoint == id))
}

/// Layers of a checkpoint and of these sources that hold nothing leave the chains.
pub(super) fn drop_empty_layers(c: &mut Change<'_>, id: CheckpointId, of: impl Fn(SourceId) -> bool) {
    let holds_nothing = |l: &Layer| l.parts.is_empty() || planted(Bug::SealedForgotten);
    let empty = |l: &&Layer| l.checkpoint == id && holds_nothing(l) && of(l.source);
    let empty: Vec<LayerId> = c.state.layers.values().filter(empty).map(|l| l.id).collect();
    for l in &empty {
        c.state.layers.remove(l);
        c.rows.insert(Row::Layer(*l));
    }
    if let Some(x) = c.state.checkpoints.get_mut(&id) {
        for t in &mut x.tasks {
            t.layers.retain(|l| !empty.contains(l));
        }
    }
}

pub fn abandon(c: &mut Change<'_>, id: CheckpointId) -> Applied {
    let x = c.state.checkpoints.get_mut(&id).ok_or(Refusal::Unknown("the checkpoint"))?;
    if x.state != CheckpointState::Running {
        return Err(Refusal::State("the checkpoint"));
    }
    x.state = CheckpointState::Abandoned;
    x.finished_ms = Some(c.now);
    x.rewrite.iter_mut().for_each(|w| w.chains.clear());
    leases::end_all(c, |l| packs_of(l, id));
    let layers: Vec<LayerId> = c.state.layers.values().filter(|l| l.checkpoint == id).map(|l| l.id).collect();
    for l in layers {
        c.state.layers.remove(&l);
        c.rows.insert(Row::Layer(l));
    }
    // Nothing that counts refers to its sectors, sealed or not.
    let all: Vec<SectorId> = c.state.sectors.values().filter(|s| s.checkpoint == id).map(|s| s.id).collect();
    for s in all {
        super::sectors::give_up(c, s);
    }
    c.rows.insert(Row::Checkpoint(id));
    Ok(())
}

pub fn open_layer(c: &mut Change<'_>, layer: LayerId, id: CheckpointId, source: SourceId, full: bool) -> Applied {
    if c.state.layers.contains_key(&layer) {
        return Err(Refusal::Exists("the layer"));
    }
    let x = c.state.checkpoints.get_mut(&id).ok_or(Refusal::Unknown("the checkpoint"))?;
    let running = x.state == CheckpointState::Running;
    let task = x.tasks.iter_mut().find(|t| t.source == source).ok_or(Refusal::Unknown("the task"))?;
    if !running || task.state != TaskState::Running {
        return Err(Refusal::State("the task"));
    }
    leases::holds_pack(c, id, source)?;
    let x = c.state.checkpoints.get_mut(&id).ok_or(Refusal::Unknown("the checkpoint"))?;
    let synthetic = x.rewrite.is_some();
    let task = x.tasks.iter_mut().find(|t| t.source == source).ok_or(Refusal::Unknown("the task"))?;
    // Layers of a synthetic checkpoint belong to many chains: which, is said when they are complete.
    if !synthetic {
        // A whole catalog needs nothing before it; what was sealed of this checkpoint so far it names again.
        if full {
            task.layers.clear();
        }
        task.layers.push(layer);
    }
    let record = Layer { id: layer, source, checkpoint: id, full, parts: Vec::new(), refs: Some(BTreeSet::new()) };
    c.state.layers.insert(layer, record);
    c.rows.insert(Row::Checkpoint(id));
    c.rows.insert(Row::Layer(layer));
    Ok(())
}

pub fn finish_task(c: &mut Change<'_>, command: &Command) -> Applied {
    let Command::FinishTask { checkpoint, source, stats, warnings, ground, entries } = command else {
        return Err(Refusal::Unknown("the command"));
    };
    let x = c.state.checkpoints.get_mut(checkpoint).ok_or(Refusal::Unknown("the checkpoint"))?;
    let running = x.state == CheckpointState::Running;
    let task = x.tasks.iter_mut().find(|t| t.source == *source).ok_or(Refusal::Unknown("the task"))?;
    if !running || task.state != TaskState::Running {
        return Err(Refusal::State("the task"));
    }
    leases::holds_pack(c, *checkpoint, *source)?;
    let x = c.state.checkpoints.get_mut(checkpoint).ok_or(Refusal::Unknown("the checkpoint"))?;
    let synthetic = x.rewrite.is_some();
    let task = x.tasks.iter_mut().find(|t| t.source == *source).ok_or(Refusal::Unknown("the task"))?;
    task.state = if synthetic { TaskState::Carried } else { TaskState::Done };
    if synthetic {
        // Nothing was read: what is known of the content is what was known before.
        c.rows.insert(Row::Checkpoint(*checkpoint));
        return Ok(());
    }
    task.as_of_ms = x.started_ms;
    task.stats = stats.clone();
    task.warnings = warnings.iter().take(WARNINGS_MAX).cloned().collect();
    if let Some(s) = c.state.sources.get_mut(source) {
        if let Some(ground) = ground {
            let below = ground.below.iter().take(MOUNTS_MAX).cloned().collect();
            s.grounds.retain(|node, _| c.state.nodes.contains_key(node));
            s.grounds.insert(c.node, Ground { below, ..ground.clone() });
        }
        s.last_entries = *entries;
        c.rows.insert(Row::Source(*source));
    }
    c.rows.insert(Row::Checkpoint(*checkpoint));
    Ok(())
}

pub fn store(c: &mut Change<'_>, id: CheckpointId) -> Applied {
    let x = c.state.checkpoints.get(&id).ok_or(Refusal::Unknown("the checkpoint"))?;
    if x.state != CheckpointState::Running || x.tasks.iter().any(|t| t.state == TaskState::Running) {
        return Err(Refusal::State("the checkpoint"));
    }
    if c.state.sectors.values().any(|s| s.checkpoint == id && s.state == SectorState::Open) {
        return Err(Refusal::State("a sector of the checkpoint"));
    }
    drop_empty_layers(c, id, |_| true);
    rebase_all(c, id);
    if let Some(x) = c.state.checkpoints.get_mut(&id) {
        x.state = CheckpointState::Stored;
        x.finished_ms = Some(c.now);
    }
    c.rows.insert(Row::Checkpoint(id));
    super::forget::collect(c, id);
    Ok(())
}

/// A source cannot be backed up now: its task gives way to what the checkpoint before holds of it.
/// A task that may be given up or left to another node: its holder says so.
fn in_trouble(c: &Change<'_>, id: CheckpointId, refused: &RefusedSource) -> Applied {
    let x = c.state.checkpoints.get(&id).ok_or(Refusal::Unknown("the checkpoint"))?;
    let task = x.tasks.iter().find(|t| t.source == refused.source).ok_or(Refusal::Unknown("the task"))?;
    if x.state != CheckpointState::Running || task.state != TaskState::Running {
        return Err(Refusal::State("the task"));
    }
    if refused.why.len() > WHY_LEN_MAX {
        return Err(Refusal::Range("the reason"));
    }
    leases::holds_pack(c, id, refused.source)
}

/// This node cannot read it: what another one sealed of it stays.
pub fn pass_task(c: &mut Change<'_>, id: CheckpointId, refused: &RefusedSource) -> Applied {
    in_trouble(c, id, refused)?;
    let (node, now) = (c.node, c.now);
    if !c.state.nodes.contains_key(&node) {
        return Err(Refusal::Unknown("the node"));
    }
    let task = c.state.checkpoints.get_mut(&id).and_then(|x| x.tasks.iter_mut().find(|t| t.source == refused.source));
    if let Some(t) = task {
        t.passed.insert(node, Passed { at_ms: now, why: refused.why.clone() });
        c.rows.insert(Row::Checkpoint(id));
    }
    Ok(())
}

pub fn refuse_task(c: &mut Change<'_>, id: CheckpointId, refused: &RefusedSource) -> Applied {
    in_trouble(c, id, refused)?;
    let before = c.state.complete().into_iter().rev().find_map(|x| x.tasks.iter().find(|t| t.source == refused.source));
    let before = before.map(|old| Task { state: TaskState::Carried, passed: BTreeMap::new(), ..old.clone() });
    // What was sealed of it is a part of nothing; its sectors go when the sectors of the checkpoint are pruned.
    let layers: Vec<LayerId> =
        c.state.layers.values().filter(|l| l.checkpoint == id && l.source == refused.source).map(|l| l.id).collect();
    for l in layers {
        c.state.layers.remove(&l);
        c.rows.insert(Row::Layer(l));
    }
    if let Some(x) = c.state.checkpoints.get_mut(&id) {
        x.tasks.retain(|t| t.source != refused.source);
        x.tasks.extend(before);
        x.tasks.sort_by_key(|t| t.source);
        x.refused.push(refused.clone());
    }
    c.rows.insert(Row::Checkpoint(id));
    Ok(())
}

pub fn finish(c: &mut Change<'_>, id: CheckpointId) -> Applied {
    let x = c.state.checkpoints.get_mut(&id).ok_or(Refusal::Unknown("the checkpoint"))?;
    if x.state != CheckpointState::Stored {
        return Err(Refusal::State("the checkpoint"));
    }
    x.state = CheckpointState::Published;
    c.rows.insert(Row::Checkpoint(id));
    Ok(())
}

pub fn publish_head(c: &mut Change<'_>, command: &Command) -> Applied {
    let Command::PublishHead { n, payload, payload_hash, sector, checkpoint } = command else {
        return Err(Refusal::Unknown("the command"));
    };
    // It may skip numbers that a home had which was lost.
    if *n <= c.state.head.as_ref().map_or(0, |h| h.n) {
        return Err(Refusal::Range("the head's number"));
    }
    let s = c.state.sectors.get(sector).ok_or(Refusal::Unknown("the system sector"))?;
    if !s.system || !s.is_sealed() {
        return Err(Refusal::State("the system sector"));
    }
    if s.checkpoint != *checkpoint {
        return Err(Refusal::Differs("the system sector's checkpoint"));
    }
    let handovers = c.state.head.take().map(|h| h.handovers).unwrap_or_default();
    c.state.head = Some(Head {
        n: *n,
        payload: payload.clone(),
        payload_hash: *payload_hash,
        sector: *sector,
        checkpoint: *checkpoint,
        time_ms: c.now,
        handovers,
    });
    c.rows.insert(Row::Head);
    Ok(())
}

/// Copies of a sector that may have left a file somewhere.
pub(super) fn copies_of(c: &Change<'_>, sector: SectorId) -> Vec<CopyId> {
    c.state.copies.values().filter(|k| k.sector == sector && k.state != CopyState::Abandoned).map(|k| k.id).collect()
}
