//! What a backup came to, as it is told: the same whether this process did it or the zone's daemons.

use zoneward_actors::backup::BackupReport;
use zoneward_actors::retention::Applied;
use zoneward_consensus::model::{State, TaskStats};
use zoneward_sectors::ids::{CheckpointId, SourceId};

use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::{bytes, count, duration, plural, show_path};

/// What one source came to.
#[derive(Debug)]
pub struct SourceSummary {
    pub id: SourceId,
    pub path: String,
    pub stats: TaskStats,
    /// In words, each with its path; at most so many are kept, all are counted.
    pub warnings: Vec<String>,
}

/// What a backup came to.
#[derive(Debug)]
pub struct Summary {
    /// `None` for a dry run.
    pub checkpoint: Option<CheckpointId>,
    pub seq: u64,
    pub resumed: bool,
    pub sources: Vec<SourceSummary>,
    /// Sources that keep what the checkpoint before holds of them.
    pub refused: Vec<Failure>,
    pub sectors: u64,
    pub stored_bytes: u64,
    pub copies_made: u64,
    /// What could not be done now, in words.
    pub failed: Vec<String>,
    /// What the zone's own rules no longer keep.
    pub retention: Applied,
}

impl Summary {
    /// Of a run of this process.
    pub fn of_report(r: &BackupReport) -> Self {
        let sources = r.sources.iter().map(|s| SourceSummary {
            id: s.source,
            path: crate::units::shown(&s.path),
            stats: s.stats(),
            warnings: s.warnings(),
        });
        Self {
            checkpoint: r.checkpoint,
            seq: r.seq,
            resumed: r.resumed,
            sources: sources.collect(),
            refused: r.refused.iter().map(crate::translate::of_source).collect(),
            sectors: r.sectors,
            stored_bytes: r.stored_bytes,
            copies_made: r.settled.copies_made,
            failed: r.settled.failed.clone(),
            retention: r.retention,
        }
    }

    /// Of a checkpoint that the zone's daemons made.
    pub fn of_state(state: &State, checkpoint: CheckpointId, failed: Vec<String>) -> Option<Self> {
        let c = state.checkpoints.get(&checkpoint)?;
        let path = |id: &SourceId| state.source_ever(*id).map_or_else(|| id.to_string(), |s| show_path(&s.path));
        let packed = c.tasks.iter().filter(|t| t.state == zoneward_consensus::model::TaskState::Done);
        let sources = packed.map(|t| SourceSummary {
            id: t.source,
            path: path(&t.source),
            stats: t.stats.clone(),
            warnings: t.warnings.clone(),
        });
        let own = |s: &&zoneward_consensus::model::RawSector| s.checkpoint == checkpoint && !s.system && s.is_sealed();
        let sectors: Vec<_> = state.sectors.values().filter(own).collect();
        let copies_of = |id| state.copies.values().filter(move |k| k.sector == id && k.is_stored());
        let first = sectors.iter().filter_map(|s| copies_of(s.id).map(|k| k.stored_len).next());
        let copies: u64 = sectors.iter().map(|s| copies_of(s.id).count().saturating_sub(1) as u64).sum();
        let refused = c.refused.iter().map(|r| {
            let exit = match r.code {
                1403 | 1411 => exit::FAILED,
                1410 => exit::HOOK,
                _ => exit::REFUSED,
            };
            Failure::new(r.code, exit, format!("{}: {}", path(&r.source), r.why))
                .help("what is stored of it is untouched; docs/errors.md says what to do")
        });
        Some(Self {
            checkpoint: Some(checkpoint),
            seq: c.seq,
            resumed: false,
            sources: sources.collect(),
            refused: refused.collect(),
            sectors: sectors.len() as u64,
            stored_bytes: first.sum(),
            copies_made: copies,
            failed,
            // The leader does that when the checkpoint is there.
            retention: Applied::default(),
        })
    }

    /// Says what came of it; answers the exit code.
    pub fn tell(&self, out: Out, state: &State, seconds: f64) -> i32 {
        self.sources.iter().for_each(|s| s.tell(out));
        self.failed.iter().for_each(|f| out.warn(f));
        self.refused.iter().for_each(|f| f.show(false));
        let bad: u64 = self.sources.iter().map(|s| s.stats.unread + s.stats.unsteady + s.stats.hooks_failed).sum();
        let incomplete = bad > 0 || !self.failed.is_empty() || !self.refused.is_empty();
        out.json(&self.json(!incomplete, seconds));
        match self.checkpoint {
            None => out.say("nothing was changed (dry run)"),
            Some(id) => {
                let made = if self.resumed { "finished what was cut" } else { "done" };
                out.say(format!(
                    "checkpoint {} ({:.8}) {made} in {}: {} in {} on the target",
                    self.seq,
                    id.to_string(),
                    duration(seconds),
                    bytes(self.stored_bytes),
                    plural(self.sectors, "sector", "sectors")
                ));
            }
        }
        let Applied { forgotten, waits } = self.retention;
        if forgotten > 0 {
            let n = plural(forgotten as u64, "checkpoint", "checkpoints");
            out.say(format!("{n} forgotten by the zone's rules (zoneward retention show)"));
        }
        if waits > 0 {
            let n = plural(waits as u64, "checkpoint", "checkpoints");
            out.say(format!(
                "{n} would be forgotten by the zone's rules and wait for the owner: zoneward retention show"
            ));
        }
        let targets = state.usable_targets().count();
        let of_source = |s: &SourceSummary| state.sources.get(&s.id).map(|s| state.copies_wanted(s));
        let wanted = self.sources.iter().filter_map(of_source).max().unwrap_or(1);
        if usize::from(wanted) > targets && self.checkpoint.is_some() {
            out.say(format!("{wanted} copies are wanted, there is room for {targets}: zoneward target add URL"));
        }
        // What a person has to decide goes before what could not be read.
        let first = self.refused.iter().find(|f| f.exit != exit::FAILED).or(self.refused.first());
        match (first, incomplete) {
            // The others were backed up: done, but not complete.
            (Some(f), _) if f.exit == exit::FAILED && !self.sources.is_empty() => exit::INCOMPLETE,
            (Some(f), _) => f.exit,
            (None, true) => exit::INCOMPLETE,
            (None, false) => 0,
        }
    }

    fn json(&self, complete: bool, seconds: f64) -> serde_json::Value {
        let refused = |f: &Failure| serde_json::json!({"code": format!("ZW-{}", f.code), "what": f.what});
        serde_json::json!({
            "type": "summary", "schema": "zoneward.backup/1", "checkpoint": self.checkpoint, "seq": self.seq,
            "resumed": self.resumed, "dry_run": self.checkpoint.is_none(), "complete": complete, "seconds": seconds,
            "sectors": self.sectors, "stored_bytes": self.stored_bytes, "copies_made": self.copies_made,
            "forgotten": self.retention.forgotten, "failed": self.failed, "refused": self.refused.iter().map(refused).collect::<Vec<_>>(),
            "sources": self.sources.iter().map(SourceSummary::json).collect::<Vec<_>>(),
        })
    }
}

impl SourceSummary {
    fn tell(&self, out: Out) {
        let s = &self.stats;
        out.say(format!(
            "{}: {}, {}; {} new, {} changed, {} gone; {} of new content",
            self.path,
            plural(s.files, "file", "files"),
            bytes(s.bytes),
            count(s.new_files),
            count(s.changed_files),
            count(s.removed),
            bytes(s.new_bytes)
        ));
        let left_out = [(s.sockets, "sockets"), (s.excluded, "excluded")];
        let left_out: Vec<String> =
            left_out.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", count(*n))).collect();
        if !left_out.is_empty() {
            out.say(format!("  left out: {}", left_out.join(", ")));
        }
        if s.vanished > 0 {
            out.say(format!(
                "  gone while the source was read: {} (what was held of such paths may stay until the next backup)",
                count(s.vanished)
            ));
        }
        out.warn_some(self.warnings.iter().cloned(), s.unread + s.unsteady + s.hooks_failed);
    }

    fn json(&self) -> serde_json::Value {
        let s = &self.stats;
        serde_json::json!({
            "id": self.id, "path": self.path, "files": s.files, "dirs": s.dirs, "others": s.others, "bytes": s.bytes,
            "new": s.new_files, "changed": s.changed_files, "gone": s.removed, "new_bytes": s.new_bytes,
            "unread": s.unread, "unsteady": s.unsteady, "vanished": s.vanished, "sockets": s.sockets,
            "excluded": s.excluded, "hooks_failed": s.hooks_failed,
        })
    }
}
