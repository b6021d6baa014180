//! The steps themselves, with seeded content: what is read of a source differs with each try, what is copied never does.

use std::collections::{BTreeMap, BTreeSet};

use zoneward_sectors::crypto::sha256;
use zoneward_sectors::ids::{CheckpointId, CopyId, Digest, LayerId, SectorId, SourceId, TargetId, ZoneAlias};

use super::eyes;
use super::segments::SEGMENTS;
use super::voice::{Lost, Voice};
use crate::audits::{Audited, Found, reads_all};
use crate::command::Command;
use crate::model::{CheckpointKind, Copy, CopyState, Part, Rebased, State, TaskStats};
use crate::plan::{Work, newest_system};

/// Sectors of one source in one checkpoint.
const SLICES: u64 = 2;
/// Chains of a source that a synthetic checkpoint writes anew.
const CHAINS: usize = 4;
/// Stored bytes of each copy.
const STORED_LEN: u64 = 9000;

pub async fn step(voice: &Voice, epoch: u64, work: &Work) -> Result<(), Lost> {
    let step = Step { voice, epoch };
    match *work {
        Work::Pack { checkpoint, source } => step.pack(checkpoint, source).await,
        Work::Copy { sector, target } => step.copy(sector, target).await,
        Work::Stage { sector } => step.stage(sector).await,
        Work::WriteSystem { checkpoint } => step.system(checkpoint).await,
        Work::Audit { copy, .. } => step.audit(copy).await,
        Work::Publish { target } => step.publish(target).await,
        Work::RemoveIncoming { copy, .. } => step.remove(copy).await,
        Work::ResumeCheckpoint { .. } | Work::StoreCheckpoint { .. } | Work::FinishCheckpoint { .. } => Ok(()),
    }
}

struct Step<'a> {
    voice: &'a Voice,
    epoch: u64,
}

/// The plaintext of a segment of a raw sector.
fn plain(raw: &Digest, segment: u32) -> Digest {
    sha256(&[&raw.0, &segment.to_be_bytes()])
}

impl Step<'_> {
    /// A report under this lease. One whose lease is gone now and then tries by itself, or in another's name: it must not
    /// count.
    async fn say(&self, command: Command) -> Result<(), Lost> {
        let under = Command::Under { epoch: self.epoch, command: Box::new(command.clone()) };
        let done = self.voice.insist(&under).await;
        // Sectors and layers are opened without a lease in a zone of one node: that is no report.
        let report = !matches!(command, Command::OpenSector { .. } | Command::OpenLayer { .. });
        if report && matches!(&done, Err(Lost::Refused(code)) if code == "lease") && self.voice.net.roll(2) == 0 {
            let other = self.voice.state().leases.keys().next_back().copied();
            let stray = match other {
                Some(epoch) if self.voice.net.roll(2) == 0 => Command::Under { epoch, command: Box::new(command) },
                _ => command,
            };
            let _ = self.voice.insist(&stray).await;
        }
        done
    }

    /// Takes its time; now and then far longer than a lease lasts without its holder.
    async fn work(&self) {
        match self.voice.net.roll(12) {
            0 => self.voice.pause(500, 4_000).await,
            _ => self.voice.pause(20, 400).await,
        }
    }

    /// Any target that can be used; often the one that few nodes reach.
    fn target(&self, state: &State) -> Result<(TargetId, ZoneAlias), Lost> {
        let reached = |t: &&crate::model::Target| t.reached_by.contains(&self.voice.me());
        let all: Vec<_> = state.usable_targets().filter(reached).map(|t| (t.id, t.alias)).collect();
        let last = all.len().saturating_sub(1);
        let at = if self.voice.net.roll(3) == 0 { last } else { self.voice.net.roll(all.len() as u64) as usize };
        all.get(at).copied().ok_or(Lost::Gone)
    }

    async fn open_copy(&self, sector: SectorId, target: TargetId, alias: ZoneAlias) -> Result<CopyId, Lost> {
        let copy = CopyId(self.voice.fresh());
        let open = Command::OpenCopy {
            copy,
            sector,
            target,
            alias,
            header: "aGVhZGVy".into(),
            header_hash: sha256(&[&copy.0]),
            sealed_dek: "ZGVr".into(),
            relayed: None,
        };
        self.say(open).await.map(|()| copy)
    }

    /// Writes what is not yet there, and seals it.
    async fn upload(&self, copy: CopyId, raw: &Digest) -> Result<(), Lost> {
        let from = eyes::with(|e| e.segments.len(copy)).ok_or(Lost::Gone)?;
        for segment in from..SEGMENTS {
            self.work().await;
            eyes::with(|e| e.segments.write(copy, segment, plain(raw, segment), &mut e.found));
        }
        self.voice.pause(5, 50).await;
        match eyes::with(|e| e.segments.seal(copy)) {
            Some(true) => Ok(()),
            _ => Err(Lost::Gone),
        }
    }

    /// A sector with its first copy. `parts` is empty for system data.
    async fn sector(
        &self,
        open: Command,
        sector: SectorId,
        parts: Vec<(LayerId, Part)>,
        refs: BTreeMap<LayerId, BTreeSet<SectorId>>,
    ) -> Result<(), Lost> {
        let state = self.voice.state();
        // One that is this lease's already is gone on with.
        let begun = state.sectors.values().find(|s| s.lease == Some(self.epoch) && !s.is_sealed()).map(|s| s.id);
        let begun = begun.and_then(|s| state.copies.values().find(|k| k.sector == s && k.state == CopyState::Open));
        let (sector, copy) = match begun {
            Some(k) => (k.sector, k.id),
            None => {
                self.say(open).await?;
                let (target, alias) = self.target(&state)?;
                (sector, self.open_copy(sector, target, alias).await?)
            }
        };
        let raw = sha256(&[&self.voice.fresh()]);
        if begun.is_some() {
            // It was read anew: what is there is written over.
            for segment in 0..SEGMENTS {
                eyes::with(|e| e.segments.write(copy, segment, plain(&raw, segment), &mut e.found));
            }
        }
        if self.voice.net.roll(10) == 0 {
            // A report in the wrong place: the sector is not sealed.
            let early = Command::StoreCopy { copy, stored_len: STORED_LEN, stored_id: None };
            let early = Command::Under { epoch: self.epoch, command: Box::new(early) };
            let _ = self.voice.insist(&early).await;
        }
        self.upload(copy, &raw).await?;
        let parts = parts.into_iter().map(|(layer, part)| (layer, Part { sector, ..part })).collect();
        let seal = Command::SealSector {
            sector,
            raw_id: raw,
            raw_len: 900,
            tar_len: 1000,
            index: (800, 100),
            seek_table: (850, 50),
            entries: 7,
            parts,
            refs,
            copy,
            stored_len: STORED_LEN,
            stored_id: None,
        };
        self.say(seal).await
    }

    async fn pack(&self, checkpoint: CheckpointId, source: SourceId) -> Result<(), Lost> {
        let state = self.voice.state();
        if state.checkpoints.get(&checkpoint).is_some_and(|c| c.rewrite.is_some()) {
            return self.rewrite(&state, checkpoint, source).await;
        }
        let chain = state.base_chain(source, CheckpointKind::Incremental);
        let base: Vec<SectorId> = of_chain(&state, &chain).into_iter().collect();
        let own: Vec<_> = state.layers.values().filter(|l| l.checkpoint == checkpoint && l.source == source).collect();
        let sealed: u64 = own.iter().map(|l| l.parts.len() as u64).sum();
        let (priority, copies) = state.sources.get(&source).map_or((0, 1), |s| (s.priority, state.copies_wanted(s)));
        let layer = LayerId(self.voice.fresh());
        if sealed < SLICES {
            let task = state.checkpoints.get(&checkpoint).and_then(|c| c.tasks.iter().find(|t| t.source == source));
            let full = task.is_none_or(|t| t.layers.is_empty());
            self.say(Command::OpenLayer { layer, checkpoint, source, full }).await?;
        }
        for (part, slice) in (sealed..SLICES).enumerate() {
            let sector = SectorId(self.voice.fresh());
            let open = open_sector(sector, checkpoint, false, copies, priority);
            let part = Part { sector, part: part as u32, offset: 0, length: 100, entries: slice };
            // What it holds names content of a sector that the source's chain names, now and then.
            let known = base.get(self.voice.net.roll(2 * base.len() as u64 + 1) as usize).copied();
            let refs = BTreeMap::from([(layer, known.into_iter().collect())]);
            self.sector(open, sector, vec![(layer, part)], refs).await?;
        }
        let stats = TaskStats { files: 7, bytes: 70, ..TaskStats::default() };
        let finish = Command::FinishTask { checkpoint, source, stats, warnings: vec![], ground: None, entries: 8 };
        self.say(finish).await
    }

    /// The newest chains of a source, each written as one layer; content stays or moves, as drawn.
    async fn rewrite(&self, state: &State, checkpoint: CheckpointId, source: SourceId) -> Result<(), Lost> {
        let mut chains: Vec<Vec<LayerId>> = Vec::new();
        for t in state.complete().into_iter().rev().flat_map(|c| &c.tasks).filter(|t| t.source == source) {
            if !t.layers.is_empty() && !chains.contains(&t.layers) && chains.len() < CHAINS {
                chains.push(t.layers.clone());
            }
        }
        let (mut parts, mut refs, mut rebased) = (Vec::new(), BTreeMap::new(), Vec::new());
        let sector = SectorId(self.voice.fresh());
        for old in chains {
            let layer = LayerId(self.voice.fresh());
            self.say(Command::OpenLayer { layer, checkpoint, source, full: true }).await?;
            parts.push((layer, Part { sector, part: 0, offset: 0, length: 100, entries: 3 }));
            let stays = self.voice.net.roll(2) == 0;
            refs.insert(layer, if stays { of_chain(state, &old) } else { BTreeSet::new() });
            rebased.push(Rebased { source, old, new: vec![layer] });
        }
        if !rebased.is_empty() {
            self.sector(open_sector(sector, checkpoint, false, 2, 0), sector, parts, refs).await?;
            self.say(Command::Rebase { checkpoint, chains: rebased }).await?;
        }
        let (stats, warnings) = (TaskStats::default(), Vec::new());
        self.say(Command::FinishTask { checkpoint, source, stats, warnings, ground: None, entries: 0 }).await
    }

    async fn copy(&self, sector: SectorId, target: TargetId) -> Result<(), Lost> {
        let state = self.voice.state();
        // Whoever began it: its bytes are the same.
        let begun = |k: &&Copy| k.sector == sector && k.target == target && k.state == CopyState::Open;
        let copy = match state.copies.values().find(begun) {
            Some(k) => k.id,
            None => {
                let alias = state.targets.get(&target).map(|t| t.alias).ok_or(Lost::Gone)?;
                self.open_copy(sector, target, alias).await?
            }
        };
        let raw = state.sectors.get(&sector).and_then(|s| s.raw_id).ok_or(Lost::Gone)?;
        self.upload(copy, &raw).await?;
        self.say(Command::StoreCopy { copy, stored_len: STORED_LEN, stored_id: None }).await
    }

    async fn stage(&self, sector: SectorId) -> Result<(), Lost> {
        self.work().await;
        let state = self.voice.state();
        let copy = state.copies.values().find(|k| k.sector == sector && k.is_stored()).map(|k| k.id);
        self.say(Command::Staged { sector, copy: copy.ok_or(Lost::Gone)? }).await
    }

    async fn system(&self, checkpoint: CheckpointId) -> Result<(), Lost> {
        let sector = SectorId(self.voice.fresh());
        self.sector(open_sector(sector, checkpoint, true, 3, 50), sector, Vec::new(), BTreeMap::new()).await
    }

    async fn publish(&self, target: TargetId) -> Result<(), Lost> {
        let state = self.voice.state();
        let newest = newest_system(&state).ok_or(Lost::Gone)?;
        if state.head.as_ref().is_none_or(|h| h.sector != newest.id) {
            let n = state.head.as_ref().map_or(0, |h| h.n) + 1;
            let (payload_hash, checkpoint) = (sha256(&[&self.voice.fresh()]), newest.checkpoint);
            self.say(Command::PublishHead { n, payload: "{}".into(), payload_hash, sector: newest.id, checkpoint })
                .await?;
        }
        self.work().await;
        let state = self.voice.state();
        let head = state.head.as_ref().ok_or(Lost::Gone)?;
        self.say(Command::PublishedPointer { target, n: head.n, hash: head.payload_hash }).await
    }

    /// Now and then a copy turns out bad, or says nothing; but never the first of a sector, so that one is left.
    async fn audit(&self, copy: CopyId) -> Result<(), Lost> {
        self.work().await;
        let state = self.voice.state();
        let Some(k) = state.copies.get(&copy) else { return Ok(()) };
        let first = state.copies.values().find(|o| o.sector == k.sector && o.is_stored()).map(|o| o.id);
        let all = reads_all(&state, k, self.voice.now_ms());
        let why = || "as drawn".to_owned();
        let found = match self.voice.net.roll(20) {
            _ if first == Some(copy) || self.voice.net.trouble_is_over() => Found::Whole { all },
            0 => Found::Wrong { why: why() },
            1 => Found::Gone { why: why() },
            2..=4 => Found::Silent { why: why() },
            _ => Found::Whole { all },
        };
        self.say(Command::Audited { results: vec![Audited { copy, found }] }).await
    }

    async fn remove(&self, copy: CopyId) -> Result<(), Lost> {
        self.work().await;
        // One that fell behind does not remove: the product's lease is looked at before each effect.
        let state = self.voice.state();
        if !state.leases.contains_key(&self.epoch) {
            return Err(Lost::Gone);
        }
        eyes::with(|e| {
            e.reach.removes(&state, copy, &mut e.found);
            e.segments.remove(copy);
        });
        self.say(Command::AbandonCopy { copy }).await
    }
}

/// What a chain's layers lie in and name.
fn of_chain(state: &State, chain: &[LayerId]) -> BTreeSet<SectorId> {
    let layers = chain.iter().filter_map(|l| state.layers.get(l));
    layers.flat_map(|l| l.parts.iter().map(|p| p.sector).chain(l.refs.iter().flatten().copied())).collect()
}

fn open_sector(sector: SectorId, checkpoint: CheckpointId, system: bool, copies: u8, min_priority: i32) -> Command {
    Command::OpenSector {
        sector,
        checkpoint,
        class_log2: 20,
        system,
        copies_wanted: copies,
        min_priority,
        write_only: false,
    }
}
