//! Catalogs written anew from what is stored, and with them what is left of sectors that are mostly dead.
//!
//! The chains of one source form a tree of layers. Only some of its nodes are looked at by checkpoints that stay: all layers
//! between two of these are one *run*, and a run can be written as one layer, because nobody asks for the states in between.
//! What no run names any more is dead. A run is written anew where it names something in a sector that is to go, and takes
//! that with it into new sectors. Nothing counts before the checkpoint for which this is done is stored; then all chains
//! change at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use zoneward_consensus::command::Command;
use zoneward_consensus::keep;
use zoneward_consensus::model::{Checkpoint, Layer, Rebased, Rewrite, State, TaskStats};
use zoneward_consensus::names;
use zoneward_consensus::owner::OwnerWord;
use zoneward_sectors::catalog::{CatalogError, Line};
use zoneward_sectors::entry::{Extent, Stamp};
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CheckpointId, LayerId, SectorId, SourceId};
use zoneward_sectors::index::ChunkIndex;
use zoneward_sectors::pack::{Moving, PackError, Packer, Progress, Settings, Task};

use crate::catalogs::Catalogs;
use crate::errors::ZoneError;
use crate::freshness::refuse_older_home;
use crate::home::Home;
use crate::open::Opener;
use crate::provide::{Group, Provider};
use crate::settle;
use crate::zone::Zone;

/// Tar bytes around a stretch of content: its member's headers and padding, about.
const AROUND: u64 = 1024;
/// Tar bytes of every sector that are nobody's content: its index and its end.
const CLOSING: u64 = 8 << 10;
/// Stretches that are remembered before those that came twice are thrown out.
const SORT_AT: usize = 4 << 20;

/// Layers that can be written as one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    source: SourceId,
    layers: Vec<LayerId>,
    /// It begins a chain.
    full: bool,
}

/// All runs of some chains, and each chain as a path of them.
#[derive(Debug, Default)]
struct Runs {
    runs: Vec<Run>,
    chains: Vec<(SourceId, Vec<LayerId>, Vec<usize>)>,
}

/// A node of the tree of layers of one source.
struct Node {
    layer: LayerId,
    parent: Option<usize>,
    children: BTreeMap<LayerId, usize>,
    /// A checkpoint that stays looks at it.
    wanted: bool,
}

impl Runs {
    /// Of the checkpoints that stay.
    fn of<'a>(checkpoints: impl Iterator<Item = &'a Checkpoint>) -> Self {
        let mut chains: BTreeMap<SourceId, BTreeSet<Vec<LayerId>>> = BTreeMap::new();
        for t in checkpoints.flat_map(|c| &c.tasks).filter(|t| !t.layers.is_empty()) {
            chains.entry(t.source).or_default().insert(t.layers.clone());
        }
        let mut out = Self::default();
        for (source, chains) in chains {
            out.add(source, chains);
        }
        out
    }

    fn add(&mut self, source: SourceId, chains: BTreeSet<Vec<LayerId>>) {
        let mut nodes: Vec<Node> = Vec::new();
        let mut roots: BTreeMap<LayerId, usize> = BTreeMap::new();
        let mut ends = Vec::new();
        for chain in &chains {
            let mut at: Option<usize> = None;
            for layer in chain {
                let below = match at.and_then(|i| nodes.get(i)) {
                    Some(n) => &n.children,
                    None => &roots,
                };
                let next = below.get(layer).copied().unwrap_or_else(|| {
                    nodes.push(Node { layer: *layer, parent: at, children: BTreeMap::new(), wanted: false });
                    let new = nodes.len() - 1;
                    match at.and_then(|i| nodes.get_mut(i)) {
                        Some(n) => n.children.insert(*layer, new),
                        None => roots.insert(*layer, new),
                    };
                    new
                });
                at = Some(next);
            }
            if let Some(n) = at.and_then(|i| nodes.get_mut(i)) {
                n.wanted = true;
            }
            ends.extend(at);
        }
        // Where a run ends: where somebody looks, and where the ways part.
        let is_end = |n: &Node| n.wanted || n.children.len() > 1;
        let mut run_of: HashMap<usize, usize> = HashMap::new();
        for (i, n) in nodes.iter().enumerate().filter(|(_, n)| is_end(n)) {
            let (mut layers, mut up) = (vec![n.layer], n.parent);
            while let Some(p) = up.and_then(|p| nodes.get(p)).filter(|p| !is_end(p)) {
                layers.push(p.layer);
                up = p.parent;
            }
            layers.reverse();
            run_of.insert(i, self.runs.len());
            self.runs.push(Run { source, layers, full: up.is_none() });
        }
        for (chain, end) in chains.into_iter().zip(ends) {
            let (mut path, mut at) = (Vec::new(), Some(end));
            while let Some(i) = at {
                path.extend(run_of.get(&i));
                at = nodes.get(i).and_then(|n| n.parent);
            }
            path.reverse();
            self.chains.push((source, chain, path));
        }
    }
}

/// What lies in sectors and is still named, sector by sector.
#[derive(Debug, Default)]
struct Alive {
    stretches: Vec<(u32, u64, u32)>,
    sorted: usize,
}

impl Alive {
    fn add(&mut self, sector: u32, offset: u64, len: u64) {
        self.stretches.push((sector, offset, u32::try_from(len).unwrap_or(u32::MAX)));
        if self.stretches.len() >= SORT_AT.max(self.sorted * 2) {
            self.sort();
        }
    }

    fn sort(&mut self) {
        self.stretches.sort_unstable();
        self.stretches.dedup();
        self.sorted = self.stretches.len();
    }

    /// Tar bytes that are alive, by sector.
    fn bytes(&mut self) -> HashMap<u32, u64> {
        self.sort();
        let mut out: HashMap<u32, u64> = HashMap::new();
        for (sector, _, len) in &self.stretches {
            *out.entry(*sector).or_default() += u64::from(*len).next_multiple_of(512) + AROUND;
        }
        out
    }
}

/// How a sector stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    pub sector: SectorId,
    /// Bytes of the raw sector.
    pub bytes: u64,
    /// How many of them are dead, about.
    pub dead: u64,
}

/// What pruning would do.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// Data sectors that something needs, the deadest first.
    pub sectors: Vec<Stand>,
    /// Those that go: what is alive in them is moved.
    pub leave: BTreeSet<SectorId>,
    /// Data sectors that nothing needs, and their bytes.
    pub unneeded: u64,
    pub unneeded_bytes: u64,
    /// Forgotten checkpoints whose grace is over.
    pub over: usize,
    /// Sources whose catalogs and content only the owner can read: they stay as they are.
    pub closed: BTreeSet<SourceId>,
}

impl Outlook {
    pub fn bytes(&self) -> u64 {
        self.sectors.iter().map(|s| s.bytes).sum::<u64>() + self.unneeded_bytes
    }

    pub fn dead(&self) -> u64 {
        self.sectors.iter().map(|s| s.dead).sum::<u64>() + self.unneeded_bytes
    }

    fn of_leaving(&self, f: impl Fn(&Stand) -> u64) -> u64 {
        self.sectors.iter().filter(|s| self.leave.contains(&s.sector)).map(f).sum()
    }

    /// Bytes that go.
    pub fn freed(&self) -> u64 {
        self.of_leaving(|s| s.dead) + self.unneeded_bytes
    }

    /// Bytes that are written again elsewhere.
    pub fn moved(&self) -> u64 {
        self.of_leaving(|s| s.bytes - s.dead)
    }

    /// Whether so much goes that the owner has to say so. What nothing needs was judged when it was forgotten.
    pub fn is_much(&self) -> bool {
        u128::from(self.of_leaving(|s| s.dead)) * 100 > u128::from(self.bytes()) * u128::from(keep::MUCH_PERCENT)
    }

    /// Whether there is anything to do.
    pub fn is_empty(&self) -> bool {
        self.leave.is_empty() && self.unneeded == 0 && self.over == 0
    }
}

/// Checkpoints that stay when the next one is stored.
fn staying(state: &State) -> impl Iterator<Item = &Checkpoint> {
    state.checkpoints.values().filter(|c| c.is_complete() && !keep::grace_is_over(state, c))
}

/// What reading needs, without a hand on the zone.
struct Reading {
    home: Arc<Home>,
    state: State,
    opener: Opener,
}

impl Reading {
    fn of(zone: &Zone) -> Self {
        Self { home: zone.home.clone(), state: zone.state().clone(), opener: zone.opener() }
    }

    /// The sources of which something lies where only the owner can read.
    fn closed(&self, runs: &Runs) -> BTreeSet<SourceId> {
        let keyless = self.state.keyless();
        let held = |r: &&Run| self.state.needed_by(&r.layers).0.iter().any(|s| keyless.contains(s));
        match self.opener.has_owner() {
            true => BTreeSet::new(),
            false => runs.runs.iter().filter(held).map(|r| r.source).collect(),
        }
    }

    /// The lines of a run, as those of one layer.
    fn lines(&self, run: &Run) -> Result<impl Iterator<Item = Result<Line, CatalogError>> + Send + 'static, ZoneError> {
        let catalogs = Catalogs { home: &self.home, state: &self.state, opener: &self.opener };
        let full = run.full;
        let lines = catalogs.entries(&run.layers)?.lines();
        // In a whole catalog nothing is gone: what it does not name is not there.
        Ok(lines.filter(move |l| !(full && matches!(l, Ok(Line::Gone(_))))))
    }
}

/// Looks at all that checkpoints hold: what is alive of each sector, and which are to go.
pub fn outlook(zone: &Zone, max_waste: u8) -> Result<Outlook, ZoneError> {
    let reading = Reading::of(zone);
    look(&reading, &Runs::of(staying(zone.state())), max_waste)
}

fn look(reading: &Reading, runs: &Runs, max_waste: u8) -> Result<Outlook, ZoneError> {
    let state = &reading.state;
    let mut alive = Alive::default();
    let closed = reading.closed(runs);
    let mine = |r: &&Run| closed.contains(&r.source);
    let (fixed, all_known) = state.needed_by(runs.runs.iter().filter(mine).flat_map(|r| &r.layers));
    for run in runs.runs.iter().filter(|r| !mine(r)) {
        for line in reading.lines(run)? {
            let Line::Entry(e) = line? else { continue };
            for x in &e.extents {
                if let Extent::Data { sector, offset, len, .. } = *x {
                    alive.add(sector, offset, len);
                }
            }
        }
    }
    let mut used = alive.bytes();
    let layers: BTreeSet<LayerId> = runs.runs.iter().flat_map(|r| r.layers.iter().copied()).collect();
    for p in layers.iter().filter_map(|l| state.layers.get(l)).flat_map(|l| &l.parts) {
        *used.entry(reading.opener.table().number(p.sector)).or_default() += p.length + AROUND;
    }
    let needed = keep::needed(state, staying(state));
    let mut out = Outlook { over: keep::over(state).len(), closed, ..Outlook::default() };
    for s in state.sectors.values().filter(|s| s.is_sealed() && !s.system) {
        if !needed.unknown && !needed.sectors.contains(&s.id) {
            out.unneeded += 1;
            out.unneeded_bytes += s.raw_len;
            continue;
        }
        if fixed.contains(&s.id) || !all_known {
            // What is dead in it nobody here can tell.
            out.sectors.push(Stand { sector: s.id, bytes: s.raw_len, dead: 0 });
            continue;
        }
        let used = used.get(&reading.opener.table().number(s.id)).copied().unwrap_or(0);
        // What the end of every sector takes is nobody's waste, unless nothing else is there.
        let held = if used == 0 { 0 } else { (used + CLOSING).min(s.tar_len) };
        let dead = u128::from(s.raw_len) * u128::from(s.tar_len - held) / u128::from(s.tar_len.max(1));
        out.sectors.push(Stand { sector: s.id, bytes: s.raw_len, dead: u64::try_from(dead).unwrap_or(s.raw_len) });
    }
    let part = |s: &Stand| u128::from(s.dead) * 1_000_000 / u128::from(s.bytes.max(1));
    out.sectors.sort_by_key(|s| (std::cmp::Reverse(part(s)), s.sector));
    let (mut kept, mut dead) = (0u128, 0u128);
    for s in &out.sectors {
        kept += u128::from(s.bytes - s.dead);
        dead += u128::from(s.dead);
    }
    for s in &out.sectors {
        if dead * 100 <= kept * u128::from(max_waste) {
            break;
        }
        if s.dead > 0 {
            out.leave.insert(s.sector);
            dead -= u128::from(s.dead);
        }
    }
    Ok(out)
}

/// What rewriting came to.
#[derive(Debug, Default)]
pub struct Rewritten {
    pub sectors: u64,
    pub stored_bytes: u64,
    /// Layers that were written.
    pub layers: u64,
    /// Content that could not be moved, and why.
    pub unmoved_bytes: u64,
    pub unmoved_why: Option<String>,
}

/// The same for a daemon. What cannot be done is given up at once: nothing else could be backed up meanwhile.
pub(crate) fn or_give_up(
    zone: &mut Zone,
    checkpoint: CheckpointId,
    sources: &[SourceId],
    threads: usize,
    progress: &Arc<Progress>,
) -> Result<(), ZoneError> {
    match rewrite(zone, checkpoint, sources, threads, progress) {
        Ok(_) => Ok(()),
        // Another node goes on, or this one when there is a majority again.
        Err(e @ (ZoneError::Interrupted | ZoneError::Command(_))) => Err(e),
        Err(e) => {
            zone.propose(Command::AbandonCheckpoint { checkpoint })?;
            Err(e)
        }
    }
}

/// What a synthetic checkpoint came to.
#[derive(Debug)]
pub struct Synthetic {
    pub checkpoint: CheckpointId,
    pub seq: u64,
    pub rewritten: Rewritten,
    pub settled: settle::Settled,
}

/// Makes a synthetic checkpoint in a zone that no daemon serves.
pub fn synthesize(
    zone: &mut Zone,
    checkpoint: CheckpointId,
    max_waste: Option<u8>,
    owner: Option<OwnerWord>,
    threads: usize,
    progress: &Arc<Progress>,
) -> Result<Synthetic, ZoneError> {
    refuse_older_home(zone, false)?;
    settle::tidy(zone)?;
    // What was cut is no longer wanted: whoever prunes wants that first.
    let cut: Vec<CheckpointId> = zone.state().running().into_iter().map(|c| c.id).collect();
    for checkpoint in cut {
        zone.propose(Command::AbandonCheckpoint { checkpoint })?;
        settle::tidy(zone)?;
    }
    crate::credit::tell(zone)?;
    fsx::point("open-rewrite:before");
    zone.propose(Command::OpenRewrite { checkpoint, max_waste, owner })?;
    fsx::point("open-rewrite:after");
    let tasks = zone.state().checkpoints.get(&checkpoint).map(|c| c.tasks.iter().map(|t| t.source).collect::<Vec<_>>());
    let rewritten = match rewrite(zone, checkpoint, &tasks.unwrap_or_default(), threads, progress) {
        Ok(r) => r,
        Err(e) => {
            // If even this cannot be recorded, the next run gives it up.
            let _ = zone.propose(Command::AbandonCheckpoint { checkpoint });
            let _ = settle::tidy(zone);
            return Err(e);
        }
    };
    fsx::point("store-rewrite:before");
    zone.propose(Command::StoreCheckpoint { checkpoint })?;
    fsx::point("store-rewrite:after");
    let settled = settle::settle(zone, threads, &progress.stop)?;
    zone.home.forget_catalogs(|l| zone.state().layers.contains_key(l));
    crate::keyless::forget_pieces(&zone.home, zone.state());
    let seq = zone.state().checkpoints.get(&checkpoint).map_or(0, |c| c.seq);
    Ok(Synthetic { checkpoint, seq, rewritten, settled })
}

/// One run to be written, and as which layer.
struct Todo {
    run: usize,
    layer: LayerId,
    group: Group,
    priority: i32,
}

/// Does the work of these sources of a synthetic checkpoint.
pub fn rewrite(
    zone: &mut Zone,
    checkpoint: CheckpointId,
    sources: &[SourceId],
    threads: usize,
    progress: &Arc<Progress>,
) -> Result<Rewritten, ZoneError> {
    let known = zone.state().checkpoints.get(&checkpoint);
    let wish: Rewrite =
        known.and_then(|c| c.rewrite.clone()).ok_or(ZoneError::State { what: "a synthetic checkpoint" })?;
    let reading = Reading::of(zone);
    let (runs, leave) = match wish.max_waste {
        Some(max_waste) => {
            let runs = Runs::of(staying(&reading.state));
            let mut outlook = look(&reading, &runs, max_waste)?;
            // Without the owner's word no more than a part goes; the rest another time.
            while !wish.much && outlook.is_much() && outlook.leave.pop_last().is_some() {}
            (runs, outlook.leave)
        }
        None => (newest_alone(&reading.state), BTreeSet::new()),
    };
    let closed = reading.closed(&runs);
    let mine = |r: &Run| sources.contains(&r.source) && !closed.contains(&r.source);
    let mut todo = Vec::new();
    for (i, run) in runs.runs.iter().enumerate().filter(|(_, r)| mine(r)) {
        let layers: Vec<&Layer> = run.layers.iter().filter_map(|l| reading.state.layers.get(l)).collect();
        let names = |l: &&Layer| {
            let refs = l.refs.iter().flatten().any(|s| leave.contains(s));
            refs || l.refs.is_none() || l.parts.iter().any(|p| leave.contains(&p.sector))
        };
        if layers.iter().any(names) || (wish.max_waste.is_none() && run.layers.len() > 1) {
            let (copies, priority) = group_of(&reading.state, run, &layers);
            let write_only = reading.state.source_ever(run.source).is_some_and(|s| s.write_only);
            let group = Group { copies, write_only };
            todo.push(Todo { run: i, layer: LayerId::random(), group, priority });
        }
    }
    let mut groups: BTreeMap<std::cmp::Reverse<Group>, Vec<&Todo>> = BTreeMap::new();
    todo.iter().for_each(|t| groups.entry(std::cmp::Reverse(t.group)).or_default().push(t));
    let mut out = Rewritten::default();
    // What was moved for those that the zone may read, and for the others.
    let moved = [ChunkIndex::in_memory(zone.table()), ChunkIndex::in_memory(zone.table())];
    for (of, group) in groups {
        let moved = &moved[usize::from(of.0.write_only)];
        write_group(zone, checkpoint, of.0, &group, &runs, &leave, &reading, moved, threads, progress, &mut out)?;
    }
    let new: HashMap<usize, LayerId> = todo.iter().map(|t| (t.run, t.layer)).collect();
    for source in sources {
        let of = runs.chains.iter().filter(|(s, _, path)| s == source && path.iter().any(|r| new.contains_key(r)));
        let chains: Vec<Rebased> = of
            .map(|(_, old, path)| {
                let layers = path.iter().flat_map(|r| match (new.get(r), runs.runs.get(*r)) {
                    (Some(l), _) => vec![*l],
                    (None, Some(run)) => run.layers.clone(),
                    (None, None) => Vec::new(),
                });
                Rebased { source: *source, old: old.clone(), new: layers.collect() }
            })
            .collect();
        for some in chains.chunks(CHAINS_EACH) {
            zone.propose(Command::Rebase { checkpoint, chains: some.to_vec() })?;
        }
        let stats = TaskStats::default();
        zone.propose(Command::FinishTask {
            checkpoint,
            source: *source,
            stats,
            warnings: Vec::new(),
            ground: None,
            entries: 0,
        })?;
    }
    Ok(out)
}

/// Chains in one command.
const CHAINS_EACH: usize = 256;

/// The chains of the newest checkpoint alone, each to be one layer.
fn newest_alone(state: &State) -> Runs {
    Runs::of(state.complete().last().copied().into_iter())
}

/// How many copies what a run names is to have, and its priority.
fn group_of(state: &State, run: &Run, layers: &[&Layer]) -> (u8, i32) {
    let sectors = layers.iter().flat_map(|l| l.parts.iter().map(|p| p.sector).chain(l.refs.iter().flatten().copied()));
    let had = sectors.filter_map(|s| state.sectors.get(&s)).map(|s| s.copies_wanted).max().unwrap_or(1);
    match state.source_ever(run.source) {
        Some(s) => (state.copies_wanted(s).max(if state.sources.contains_key(&s.id) { 1 } else { had }), s.priority),
        None => (had, 0),
    }
}

#[allow(clippy::too_many_arguments)] // One private step, with all of its context.
fn write_group(
    zone: &mut Zone,
    checkpoint: CheckpointId,
    of: Group,
    group: &[&Todo],
    runs: &Runs,
    leave: &BTreeSet<SectorId>,
    reading: &Reading,
    moved: &ChunkIndex,
    threads: usize,
    progress: &Arc<Progress>,
    out: &mut Rewritten,
) -> Result<(), ZoneError> {
    let settings = Settings {
        threads,
        zstd_level: reading.state.zone.as_ref().map_or(3, |z| z.zstd_level),
        racy_after: Stamp { secs: i64::MAX, nanos: 0 },
        meagre: HashSet::new(),
    };
    let leaves: HashSet<u32> = leave.iter().map(|s| zone.table().number(*s)).collect();
    let moving = Moving { sectors: &reading.opener, leaves: &leaves, foreign: None };
    for t in group {
        let Some(run) = runs.runs.get(t.run) else { continue };
        zone.propose(Command::OpenLayer { layer: t.layer, checkpoint, source: run.source, full: run.full })?;
    }
    let priority = group.iter().map(|t| t.priority).min().unwrap_or(0);
    let (keys, table) = (zone.keys().clone(), zone.table().clone());
    let mut provider = Provider::new(zone, checkpoint, of, priority)?;
    let mut packer = Packer::new(&settings, moved, &table, keys.gear(), *keys.fingerprint_key(), &mut provider)?;
    let mut write = |t: &Todo| -> Result<(), Failed> {
        let Some(run) = runs.runs.get(t.run) else { return Ok(()) };
        let prefix = reading.state.source_ever(run.source).map(|s| names::inside(&s.path)).unwrap_or_default();
        let root = std::path::PathBuf::new();
        let task = Task { source: run.source, layer: t.layer, prefix, root, clones: false, estimate: 0 };
        let lines = reading.lines(run).map_err(Failed::Zone)?;
        let report = packer.run_moving(&task, lines, moving, 0, progress).map_err(Failed::Pack)?;
        out.layers += 1;
        out.unmoved_bytes += report.unmoved_bytes;
        out.unmoved_why = out.unmoved_why.take().or(report.unmoved_why);
        Ok(())
    };
    let mut done = group.iter().try_for_each(|t| write(t));
    if done.is_ok() {
        done = packer.finish().map_err(Failed::Pack);
    }
    out.sectors += provider.sectors;
    out.stored_bytes += provider.stored_bytes;
    match done {
        Ok(()) => Ok(()),
        Err(e) => {
            provider.abandon();
            Err(match e {
                Failed::Pack(PackError::Interrupted) => ZoneError::Interrupted,
                Failed::Pack(e) => e.into(),
                Failed::Zone(e) => e,
            })
        }
    }
}

enum Failed {
    Zone(ZoneError),
    Pack(PackError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn l(n: u8) -> LayerId {
        LayerId([n; 16])
    }

    fn runs(chains: &[&[u8]]) -> Runs {
        let mut out = Runs::default();
        let chains = chains.iter().map(|c| c.iter().map(|n| l(*n)).collect()).collect();
        out.add(SourceId([1; 16]), chains);
        out
    }

    /// Runs with whether they begin a chain, and each chain's path.
    type Shown = (Vec<(Vec<u8>, bool)>, Vec<Vec<usize>>);

    fn shown(r: &Runs) -> Shown {
        let n = |l: &LayerId| l.0[0];
        let runs = r.runs.iter().map(|r| (r.layers.iter().map(n).collect(), r.full)).collect();
        (runs, r.chains.iter().map(|(_, _, path)| path.clone()).collect())
    }

    #[test]
    fn layers_that_nobody_looks_at_between_two_that_are_looked_at_are_one_run() {
        let r = runs(&[&[1, 2, 3, 4, 5]]);
        assert_eq!(shown(&r), (vec![(vec![1, 2, 3, 4, 5], true)], vec![vec![0]]));
        let r = runs(&[&[1, 2, 3], &[1, 2, 3, 4, 5]]);
        assert_eq!(shown(&r), (vec![(vec![1, 2, 3], true), (vec![4, 5], false)], vec![vec![0], vec![0, 1]]));
        // Differential: the ways part where nobody looks.
        let r = runs(&[&[1, 2], &[1, 3, 4]]);
        let all = (vec![(vec![1], true), (vec![2], false), (vec![3, 4], false)], vec![vec![0, 1], vec![0, 2]]);
        assert_eq!(shown(&r), all);
        let r = runs(&[&[1], &[2, 3]]);
        assert_eq!(shown(&r), (vec![(vec![1], true), (vec![2, 3], true)], vec![vec![0], vec![1]]));
    }

    #[test]
    fn what_is_named_twice_is_alive_once() {
        let mut a = Alive::default();
        for _ in 0..3 {
            a.add(1, 512, 100);
            a.add(1, 2048, 600);
            a.add(2, 512, 100);
        }
        let bytes = a.bytes();
        assert_eq!((bytes[&1], bytes[&2]), (512 + 1024 + 2 * AROUND, 512 + AROUND));
    }
}
