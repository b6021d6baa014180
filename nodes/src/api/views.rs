//! The zone's records as clients see them: no key, no certificate, no header of a sector, no place of a home.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use zoneward_actors::board::StepReport;
use zoneward_consensus::model::{Checkpoint, Copy, Node, RawSector, Source, State, Target, Task, TaskState};
use zoneward_consensus::terms::{Price, outlook};
use zoneward_sectors::ids::{NodeId, SectorId, SourceId};

use super::Shared;
use crate::terms;
use crate::units::{show_path, utc_time};

/// A value of one of the model's enumerations as its JSON has it.
fn word(v: impl Serialize) -> String {
    serde_json::to_value(v).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The zone as a whole.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Zone)]
pub struct ZoneView {
    pub id: String,
    pub name: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// SHA-256 of the owner's public key.
    pub owner_fingerprint: String,
    pub sector_min_bytes: u64,
    pub sector_max_bytes: u64,
    pub compression: i32,
    /// The node that decides now; `null` while none is heard.
    pub leader: Option<String>,
    pub nodes: u64,
    pub sources: u64,
    pub targets: u64,
    /// Checkpoints that can be restored.
    pub checkpoints: u64,
    pub last_checkpoint: Option<u64>,
    /// The checkpoint that is being made.
    pub running_checkpoint: Option<u64>,
    /// Stored copies of sectors, and their bytes.
    pub copies: u64,
    pub stored_bytes: u64,
    /// Copies that are still to be made.
    pub copies_missing: u64,
    /// Copies that were found damaged or gone.
    pub copies_damaged: u64,
}

impl ZoneView {
    pub fn of(state: &State, leader: Option<NodeId>) -> Option<Self> {
        let z = state.zone.as_ref()?;
        let complete = state.complete();
        let stored = state.copies.values().filter(|c| c.is_stored());
        let (copies, stored_bytes) = stored.fold((0, 0), |(n, b), c| (n + 1, b + c.stored_len));
        let mut by_sector: BTreeMap<SectorId, u64> = BTreeMap::new();
        for c in state.copies.values().filter(|c| c.is_stored()) {
            *by_sector.entry(c.sector).or_default() += 1;
        }
        let lacks =
            |s: &RawSector| u64::from(s.copies_wanted).saturating_sub(by_sector.get(&s.id).copied().unwrap_or(0));
        Some(Self {
            id: z.id.to_string(),
            name: z.name.clone(),
            created: utc_time(z.created_ms),
            owner_fingerprint: z.owner_fingerprint.to_string(),
            sector_min_bytes: 1 << z.sector_min_log2,
            sector_max_bytes: 1 << z.sector_max_log2,
            compression: z.zstd_level,
            leader: leader.map(|l| l.to_string()),
            nodes: state.nodes.len() as u64,
            sources: state.sources.len() as u64,
            targets: state.targets.len() as u64,
            checkpoints: complete.len() as u64,
            last_checkpoint: complete.last().map(|c| c.seq),
            running_checkpoint: state.running().map(|c| c.seq),
            copies,
            stored_bytes,
            copies_missing: state.sectors.values().filter(|s| s.is_sealed()).map(lacks).sum(),
            copies_damaged: state.copies.values().filter(|c| !c.is_open() && !c.is_stored()).count() as u64,
        })
    }
}

/// A node.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Node)]
pub struct NodeView {
    pub id: String,
    pub name: String,
    /// `member`, `draining`, `faulty`, `witness` or `standby`.
    pub standing: String,
    /// `asked`: its home is to be wiped; `done`: it is.
    pub wipe: Option<String>,
    pub joined: String,
    /// The release it runs; empty before its first start.
    pub version: String,
    /// Where other nodes reach it.
    pub address: Option<String>,
    pub voter: bool,
    pub leader: bool,
    /// The node that answers.
    pub this: bool,
    /// It was heard within the last five seconds.
    pub up: bool,
}

impl NodeView {
    pub fn of(shared: &Shared, n: &Node, reports: &super::Reports) -> Self {
        let m = shared.node.cluster.metrics();
        let this = n.id == shared.node.id();
        Self {
            id: n.id.to_string(),
            name: n.name.clone(),
            standing: word(n.standing),
            wipe: n.wipe.map(word),
            joined: utc_time(n.joined_ms),
            version: n.version.clone(),
            address: shared.node.cluster.members().get(&n.id).map(|p| p.address.clone()).filter(|a| !a.is_empty()),
            voter: m.voters.contains(&n.id),
            leader: m.leader == Some(n.id),
            this,
            up: this || is_up(reports, n.id),
        }
    }
}

/// Whether a node was heard just now.
pub fn is_up(reports: &super::Reports, id: NodeId) -> bool {
    let now = zoneward_actors::clock::now_ms();
    reports.get(&id).is_some_and(|r| now.saturating_sub(r.at_ms) < crate::commands::SILENT_MS)
}

/// A source.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Source)]
pub struct SourceView {
    pub id: String,
    /// Absolute. Control characters and bytes that are not UTF-8 are escaped.
    pub path: String,
    /// -50 … 50
    pub priority: i32,
    /// Copies asked for, 1 … 3; `null`: by priority.
    pub copies: Option<u8>,
    /// Copies that it gets.
    pub copies_wanted: u8,
    pub excludes: Vec<String>,
    pub exclude_caches: bool,
    pub one_file_system: bool,
    /// From what it is read: `auto`, `off`, `btrfs`, `zfs`, `lvm`, `reflink`, `command`.
    pub snapshot: String,
    /// What is stored of it only the owner's key opens. It is set on the command line only.
    pub write_only: bool,
    /// For what it has commands: `before`, `after`, `snapshot`. They are shown and set on the command line only.
    pub commands: Vec<String>,
    /// Nodes that can read it; empty: all can.
    pub nodes: Vec<String>,
    pub added: String,
    /// Entries that it had when it was last backed up.
    pub entries: u64,
    /// The newest checkpoint that can be restored and looked at it.
    pub last_checkpoint: Option<u64>,
}

impl SourceView {
    /// `newest`: by [`newest_of_sources`].
    pub fn of(state: &State, s: &Source, newest: &BTreeMap<SourceId, u64>) -> Self {
        Self {
            id: s.id.to_string(),
            path: show_path(&s.path),
            priority: s.priority,
            copies: s.copies,
            copies_wanted: state.copies_wanted(s),
            excludes: s.excludes.clone(),
            exclude_caches: s.exclude_caches,
            one_file_system: s.one_file_system,
            snapshot: s.reading.snapshot.name().into(),
            write_only: s.write_only,
            commands: s.reading.commands().map(|(what, _)| what.into()).collect(),
            nodes: s.nodes.iter().map(ToString::to_string).collect(),
            added: utc_time(s.added_ms),
            entries: s.last_entries,
            last_checkpoint: newest.get(&s.id).copied(),
        }
    }
}

/// The number of the newest checkpoint that can be restored and looked at a source, of each.
pub fn newest_of_sources(state: &State) -> BTreeMap<SourceId, u64> {
    let mut newest: BTreeMap<SourceId, u64> = BTreeMap::new();
    for c in state.checkpoints.values().filter(|c| c.is_complete()) {
        for t in c.tasks.iter().filter(|t| t.state == TaskState::Done) {
            let seq = newest.entry(t.source).or_default();
            *seq = c.seq.max(*seq);
        }
    }
    newest
}

/// A Backup Target.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Target)]
pub struct TargetView {
    pub id: String,
    pub name: String,
    /// Without name and password, if it has any.
    pub url: String,
    /// Failure domain: copies of one sector never share one.
    pub domain: Option<String>,
    /// It gets nothing new.
    pub paused: bool,
    /// It is to hold nothing any more: copies are made on others.
    pub evacuating: bool,
    pub added: String,
    /// Number of the head that it shows.
    pub head: Option<u64>,
    /// Stored copies, and their bytes.
    pub copies: u64,
    pub used_bytes: u64,
    /// Bytes that may lie there, as a person said, else as its operator does.
    pub quota_bytes: Option<u64>,
    /// Bytes that can still be written, within that quota; `null` where nobody tells.
    pub free_bytes: Option<u64>,
    /// By how much it grew a day, over the last 30 days; `null` while it is too early to say.
    pub growth_bytes_per_day: Option<u64>,
    /// Whole days until it is full at this rate; `null` if it does not grow, or that is not known.
    pub full_in_days: Option<u64>,
    /// As a person said, else as its operator does.
    pub price: Option<PriceView>,
    /// What a month costs with what lies there now.
    pub cost_per_month: Option<MoneyView>,
    /// Until when it is paid for.
    pub paid_until: Option<String>,
    /// `person`: somebody said so; `target`: then the token ends that lets us in.
    pub paid_until_from: Option<String>,
    /// Whole days until then; below zero once it is over.
    pub renew_in_days: Option<i64>,
    /// Nodes that can use it now.
    pub reached_by: Vec<String>,
}

/// A price.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Price)]
pub struct PriceView {
    /// A decimal number as text: nothing of it is lost.
    pub amount: String,
    /// ISO 4217.
    pub currency: String,
    /// `month`, or `TiB/month` for what lies there.
    pub per: String,
}

/// An amount of money, rounded up to hundredths.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Money)]
pub struct MoneyView {
    pub amount: String,
    pub currency: String,
}

impl TargetView {
    pub fn of(state: &State, t: &Target, reports: &super::Reports) -> Self {
        let now = zoneward_actors::clock::now_ms();
        let o = outlook(state, t, terms::heard(reports, t.id), now);
        let price = |p: &Price| PriceView {
            amount: terms::amount(p.micros),
            currency: p.currency.clone(),
            per: terms::per(p).into(),
        };
        let cost =
            |p: &Price| MoneyView { amount: terms::cost(o.cost_micros.unwrap_or(0)), currency: p.currency.clone() };
        Self {
            id: t.id.to_string(),
            name: t.name.clone(),
            url: plain_url(&t.url),
            domain: t.domain.clone(),
            paused: t.paused,
            evacuating: t.leaving,
            added: utc_time(t.added_ms),
            head: t.pointer.map(|p| p.n),
            copies: o.copies,
            used_bytes: o.used_bytes,
            quota_bytes: o.quota_bytes,
            free_bytes: o.free_bytes,
            growth_bytes_per_day: o.growth_bytes,
            full_in_days: o.full_in_days,
            price: o.price.as_ref().map(price),
            cost_per_month: o.price.as_ref().map(cost),
            paid_until: o.paid_until_ms.map(utc_time),
            paid_until_from: o.paid_until_ms.map(|_| terms::from(&o).into()),
            renew_in_days: o.renew_in_days,
            reached_by: t.reached_by.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A URL without what lets somebody in.
fn plain_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| *scheme != "file") else {
        return url.to_owned();
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.find('/').map_or((rest, ""), |i| rest.split_at(i));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// What a checkpoint holds of one source.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CheckpointSource)]
pub struct TaskView {
    pub source: String,
    /// `null` where the source is no longer known.
    pub path: Option<String>,
    /// `running`, `done`, or `carried` over from an earlier checkpoint.
    pub state: String,
    pub as_of: String,
    pub files: u64,
    pub dirs: u64,
    pub bytes: u64,
    pub new_files: u64,
    pub changed_files: u64,
    pub removed: u64,
    pub new_bytes: u64,
    /// Paths that could not be read.
    pub unread: u64,
    /// Files that changed while they were read.
    pub unsteady: u64,
    /// What was found wrong, in words; with a single checkpoint only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnings: Option<Vec<String>>,
}

/// A source that a checkpoint left as it was.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RefusedSource)]
pub struct RefusedView {
    pub source: String,
    pub result_code: u16,
    pub why: String,
}

/// A checkpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Checkpoint)]
pub struct CheckpointView {
    pub id: String,
    /// Its number.
    pub seq: u64,
    /// `full`, `incremental`, `differential` or `synthetic`: what it came to be, so the first one is full.
    pub kind: String,
    /// `running` → `stored` → `published`, or `abandoned`.
    pub state: String,
    /// Everything in it can be restored.
    pub complete: bool,
    pub started: String,
    pub finished: Option<String>,
    pub node: String,
    pub allow_empty: bool,
    pub tags: Vec<String>,
    /// When it was forgotten; until its grace is over it can be taken back.
    pub forgotten: Option<String>,
    pub sources: Vec<TaskView>,
    pub refused: Vec<RefusedView>,
}

impl CheckpointView {
    pub fn of(shared: &Shared, state: &State, c: &Checkpoint, warnings: bool) -> Self {
        let task = |t: &Task| TaskView {
            source: t.source.to_string(),
            path: state.source_ever(t.source).map(|s| show_path(&s.path)),
            state: word(t.state),
            as_of: utc_time(t.as_of_ms),
            files: t.stats.files,
            dirs: t.stats.dirs,
            bytes: t.stats.bytes,
            new_files: t.stats.new_files,
            changed_files: t.stats.changed_files,
            removed: t.stats.removed,
            new_bytes: t.stats.new_bytes,
            unread: t.stats.unread,
            unsteady: t.stats.unsteady,
            warnings: warnings.then(|| t.warnings.iter().map(|w| shared.outside(w)).collect()),
        };
        let refused = c.refused.iter().map(|r| RefusedView {
            source: r.source.to_string(),
            result_code: r.code,
            why: shared.outside(&r.why),
        });
        Self {
            id: c.id.to_string(),
            seq: c.seq,
            kind: word(state.kind_made(c)),
            state: word(c.state),
            tags: c.tags.iter().cloned().collect(),
            forgotten: c.forgotten.map(|f| utc_time(f.at_ms)),
            complete: c.is_complete(),
            started: utc_time(c.started_ms),
            finished: c.finished_ms.map(utc_time),
            node: c.node.to_string(),
            allow_empty: c.allow_empty,
            sources: c.tasks.iter().map(task).collect(),
            refused: refused.collect(),
        }
    }
}

/// A step that some node works on now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Step)]
pub struct StepView {
    /// Number of the lease that it runs under: no other step ever has it.
    pub id: u64,
    pub node: String,
    /// pack, stage, upload, rebuild, publish, …
    pub kind: String,
    pub label: String,
    pub done_bytes: u64,
    /// Zero: not known yet.
    pub total_bytes: u64,
    pub bytes_per_second: u64,
    pub seconds_left: Option<u64>,
    pub running_seconds: u64,
    /// Seconds since the last byte moved.
    pub still_seconds: u64,
    /// Bytes on the node's disks that it takes while it runs.
    pub temporary_bytes: u64,
    /// The pieces of work, each an object with `kind` and the ids that it names.
    #[schema(value_type = Vec<Object>)]
    pub work: Vec<serde_json::Value>,
}

impl StepView {
    pub fn of(shared: &Shared, node: NodeId, s: &StepReport) -> Self {
        Self {
            id: s.epoch,
            node: node.to_string(),
            kind: s.kind.clone(),
            label: shared.outside(&s.label),
            done_bytes: s.done_bytes,
            total_bytes: s.total_bytes,
            bytes_per_second: s.bytes_per_second,
            seconds_left: s.seconds_left,
            running_seconds: s.running_seconds,
            still_seconds: s.still_seconds,
            temporary_bytes: s.temporary_bytes,
            work: s.work.iter().filter_map(|w| serde_json::to_value(w).ok()).collect(),
        }
    }
}

/// An encrypted copy of a sector.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Copy)]
pub struct CopyView {
    pub id: String,
    pub target: String,
    /// `open`, `stored`, `abandoned`, `damaged` or `lost`.
    pub state: String,
    pub stored_bytes: u64,
    pub stored: Option<String>,
    /// When it, or its metadata, was last found whole.
    pub verified: Option<String>,
    /// When parts of it were last read and found right.
    pub audited: Option<String>,
    /// When its every byte was last read and found whole.
    pub read: Option<String>,
    /// What was found wrong with it, or why it did not answer, in words.
    pub trouble: Option<String>,
}

/// A raw sector and its copies.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sector)]
pub struct SectorView {
    pub id: String,
    pub checkpoint: String,
    /// `open` or `sealed`.
    pub state: String,
    /// It carries the zone's own data.
    pub system: bool,
    pub class_bytes: u64,
    /// SHA-256 of its content once it is sealed.
    pub raw_id: Option<String>,
    pub raw_bytes: u64,
    pub tar_bytes: u64,
    pub entries: u64,
    pub copies_wanted: u8,
    pub created: String,
    pub copies: Vec<CopyView>,
}

impl SectorView {
    /// Of these sectors, with one look at all copies.
    pub fn of_all(state: &State, sectors: &[&RawSector]) -> Vec<Self> {
        let mut copies: BTreeMap<SectorId, Vec<CopyView>> = sectors.iter().map(|s| (s.id, Vec::new())).collect();
        for c in state.copies.values() {
            if let Some(all) = copies.get_mut(&c.sector) {
                all.push(copy(c));
            }
        }
        sectors.iter().map(|s| Self::of(s, copies.remove(&s.id).unwrap_or_default())).collect()
    }

    fn of(s: &RawSector, copies: Vec<CopyView>) -> Self {
        Self {
            id: s.id.to_string(),
            checkpoint: s.checkpoint.to_string(),
            state: word(s.state),
            system: s.system,
            class_bytes: 1 << s.class_log2,
            raw_id: s.raw_id.map(|r| r.to_string()),
            raw_bytes: s.raw_len,
            tar_bytes: s.tar_len,
            entries: s.entries,
            copies_wanted: s.copies_wanted,
            created: utc_time(s.created_ms),
            copies,
        }
    }
}

fn copy(c: &Copy) -> CopyView {
    CopyView {
        id: c.id.to_string(),
        target: c.target.to_string(),
        state: word(c.state),
        stored_bytes: c.stored_len,
        stored: (!c.is_open()).then(|| utc_time(c.stored_ms)),
        verified: c.verified_ms.map(utc_time),
        audited: c.audited_ms.map(utc_time),
        read: c.read_ms.map(utc_time),
        trouble: c.trouble.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoneward_consensus::model::{CheckpointKind, CheckpointState, CopyState, SectorState, Standing};

    #[test]
    fn a_url_loses_what_lets_somebody_in() {
        assert_eq!(plain_url("file:///mnt/a@b?#"), "file:///mnt/a@b?#");
        assert_eq!(plain_url("sftp://ann:secret@nas.lan:22/x"), "sftp://nas.lan:22/x");
        assert_eq!(plain_url("https://k:s@h?token=1"), "https://h");
        assert_eq!(plain_url("s3://h/b?key=1#x"), "s3://h/b");
    }

    #[test]
    fn enumerations_are_told_as_the_state_tells_them() {
        assert_eq!(word(Standing::Faulty), "faulty");
        assert_eq!(word(CheckpointKind::Differential), "differential");
        assert_eq!(word(CheckpointState::Published), "published");
        assert_eq!((word(SectorState::Sealed), word(CopyState::Lost)), ("sealed".into(), "lost".into()));
    }
}
