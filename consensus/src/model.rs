//! The records of a zone. Plain values; every change comes from a command.

mod queries;
mod stored;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::heads::{Handover, Vouched};
use crate::policy::Policy;
use crate::reading::Reading;
use crate::terms::Terms;
use crate::users::User;
use crate::work::Work;
pub use queries::{NoSuchCheckpoint, default_copies};
pub use stored::{Copy, CopyState, Misshown, RawSector, Relayed, SectorState, Silent};
pub(crate) use zoneward_sectors::ids::{
    CheckpointId, CopyId, Digest, LayerId, NodeId, SectorId, SourceId, TargetId, TokenId, UserId, ZoneAlias, ZoneId,
};

/// Everything the zone knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub zone: Option<Zone>,
    pub nodes: BTreeMap<NodeId, Node>,
    pub targets: BTreeMap<TargetId, Target>,
    pub sources: BTreeMap<SourceId, Source>,
    /// Sources that are no longer backed up and that checkpoints hold.
    #[serde(default)]
    pub former: BTreeMap<SourceId, Source>,
    pub checkpoints: BTreeMap<CheckpointId, Checkpoint>,
    pub layers: BTreeMap<LayerId, Layer>,
    pub sectors: BTreeMap<SectorId, RawSector>,
    pub copies: BTreeMap<CopyId, Copy>,
    pub head: Option<Head>,
    /// Invites by the hash of their secret.
    pub invites: BTreeMap<Digest, Invite>,
    /// What lets programs use the REST API.
    #[serde(default)]
    pub tokens: BTreeMap<TokenId, Token>,
    /// Whose sources are whose.
    #[serde(default)]
    pub users: BTreeMap<UserId, User>,
    /// Work that nodes hold, by epoch.
    pub leases: BTreeMap<u64, Lease>,
    /// When it backs itself up, and what it may use.
    pub policy: Policy,
    /// Index of the last entry applied.
    pub revision: u64,
    /// Number of the next checkpoint.
    pub next_seq: u64,
    /// Latest time that any command carried, milliseconds since 1970.
    pub last_time_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Zone {
    pub id: ZoneId,
    pub name: String,
    pub created_ms: u64,
    pub owner_fingerprint: Digest,
    /// Base64 of the owner key's SubjectPublicKeyInfo (DER).
    pub owner_public: String,
    /// Base64 of the owner's Ed25519 public key.
    pub owner_sign_public: String,
    pub sector_min_log2: u8,
    pub sector_max_log2: u8,
    pub zstd_level: i32,
    /// Commands up to this level may be used: all nodes speak them.
    pub feature_level: u32,
    /// The epoch of the secret that seals now.
    pub secret_epoch: u32,
    /// What that secret is known by; nothing for the first.
    #[serde(default)]
    pub secret_check: Option<Digest>,
    /// A node that knew the secret is gone: it is to be replaced.
    #[serde(default)]
    pub secret_stale: bool,
    /// The next secret, until enough nodes hold it.
    #[serde(default)]
    pub secret_next: Option<NextSecret>,
    /// Hashes of the owner's sealed key files that were in use, the newest last; empty until it is first changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owner_files: Vec<Digest>,
    /// The node on which the newest was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_file_by: Option<NodeId>,
    /// How often the owner had to go on without a majority.
    #[serde(default)]
    pub generation: u32,
    /// The owner's word for the first voter of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouched: Option<Vouched>,
    /// Time that passed as a majority of the nodes saw it, ms: what was forgotten waits on this clock.
    #[serde(default)]
    pub credit_ms: u64,
    /// How many words of the owner were used: none counts twice.
    #[serde(default)]
    pub owner_words: u64,
}

/// A secret that some nodes hold and none uses yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextSecret {
    pub epoch: u32,
    pub check: Digest,
    pub holders: BTreeSet<NodeId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub name: String,
    pub public_key: String,
    pub certificate: String,
    pub joined_ms: u64,
    /// The number of its last start that the zone knows of. What shows a lower one runs on an old copy of its disk.
    #[serde(default)]
    pub incarnation: u64,
    #[serde(default)]
    pub standing: Standing,
    /// The release it runs.
    #[serde(default)]
    pub version: String,
    /// Time that passed as it says, ms: never more than its own steady clock saw.
    #[serde(default)]
    pub credit_ms: u64,
    /// Its home is to be wiped, or is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wipe: Option<Wipe>,
}

/// An invite, as the zone remembers it: the secret itself only its bearer has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    pub token: Digest,
    pub expires_ms: u64,
    /// It lets a witness in: a vote, no data.
    pub witness: bool,
    /// What the node will be called.
    pub name: Option<String>,
    /// Who let it out.
    pub by: NodeId,
    pub used_by: Option<NodeId>,
}

/// What lets a program use the REST API, as the zone remembers it: the secret itself only its bearer has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub id: TokenId,
    pub label: String,
    /// SHA-256 over the secret's bytes, which are random.
    pub hash: Digest,
    pub scopes: BTreeSet<Scope>,
    pub created_ms: u64,
    pub expires_ms: u64,
    /// On which node it was made.
    pub by: NodeId,
}

/// What a token permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    #[serde(rename = "status:read")]
    StatusRead,
    #[serde(rename = "config:write")]
    ConfigWrite,
    #[serde(rename = "backup:run")]
    BackupRun,
    #[serde(rename = "node:write")]
    NodeWrite,
    #[serde(rename = "target:write")]
    TargetWrite,
    #[serde(rename = "metrics:read")]
    MetricsRead,
    /// To forget checkpoints, and to take that back. What only the owner may say is not in it.
    #[serde(rename = "delete")]
    Delete,
    /// Everything.
    #[serde(rename = "admin")]
    Admin,
}

impl Scope {
    pub const ALL: [Self; 8] = [
        Self::StatusRead,
        Self::ConfigWrite,
        Self::BackupRun,
        Self::NodeWrite,
        Self::TargetWrite,
        Self::MetricsRead,
        Self::Delete,
        Self::Admin,
    ];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::StatusRead => "status:read",
            Self::ConfigWrite => "config:write",
            Self::BackupRun => "backup:run",
            Self::NodeWrite => "node:write",
            Self::TargetWrite => "target:write",
            Self::MetricsRead => "metrics:read",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }
}

/// What an operator decided about a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It takes part.
    #[default]
    Member,
    /// It finishes what it holds and claims nothing new.
    Draining,
    /// It is broken, as a person confirmed: it claims nothing, and nobody waits for it.
    Faulty,
    /// It has a vote and no data: it claims nothing.
    Witness,
    /// Another took its place: it finishes what it holds, claims nothing, and keeps what it has until it is wiped.
    Standby,
}

/// How far a node is that is to forget the zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wipe {
    /// A person wants it.
    Asked,
    /// The node says that the zone's secret and all but its own key are deleted there.
    Done,
}

/// Work that one node holds. What it reports counts only while it holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Number of the entry that granted it: no other lease ever has it.
    pub epoch: u64,
    pub node: NodeId,
    /// The holder's start: a process that was started again holds nothing that the one before it held.
    pub incarnation: u64,
    pub work: Vec<Work>,
    pub since_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub id: TargetId,
    pub name: String,
    pub url: String,
    pub alias: ZoneAlias,
    /// Copies of one sector never share a failure domain, where domains are named.
    pub domain: Option<String>,
    pub added_ms: u64,
    pub paused: bool,
    /// It is to hold nothing any more: its copies no longer count, and others are made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// SHA-256 of the bytes of `owner-key.json` there.
    pub owner_key_hash: Option<Digest>,
    pub pointer: Option<Pointer>,
    /// The last time that it showed another head than it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misshown: Option<Misshown>,
    /// Nodes that can use it, as they say themselves.
    #[serde(default)]
    pub reached_by: BTreeSet<NodeId>,
    /// What opens it, sealed under the zone's secret; base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// What a person said of its price, its room, and until when it is paid for.
    #[serde(default, skip_serializing_if = "Terms::is_empty")]
    pub terms: Terms,
}

/// The head that a target shows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pointer {
    pub n: u64,
    /// SHA-256 of the bytes of `pointer.json` there.
    pub hash: Digest,
}

/// What a source lies on: which file system holds its root, and which others are mounted inside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    /// `a mounted file system` or `a plain directory`, with the identity of the file system behind it where it has one
    /// that outlives a restart: `a mounted file system (ext4 0e1f…)`.
    pub mount: String,
    /// Folders in the source that other file systems are mounted on, as text, sorted.
    #[serde(default)]
    pub below: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub id: SourceId,
    /// Absolute path, or `dfs://name/…`; bytes, written as text where they are UTF-8.
    #[serde(with = "path_text")]
    pub path: Vec<u8>,
    pub priority: i32,
    /// Copies asked for; by priority if not given.
    pub copies: Option<u8>,
    pub excludes: Vec<String>,
    pub exclude_caches: bool,
    pub one_file_system: bool,
    pub added_ms: u64,
    /// What it lay on at the last backup, as each node that backs it up sees it.
    #[serde(default)]
    pub grounds: BTreeMap<NodeId, Ground>,
    /// Entries it had at the last backup.
    pub last_entries: u64,
    /// Nodes that can read it; none: all can, it is a shared mount.
    #[serde(default)]
    pub nodes: Vec<NodeId>,
    /// What runs before and after it is read, and from what it is read.
    #[serde(default)]
    pub reading: Reading,
    /// What is stored of it only the owner's key opens, once its copies are made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub write_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointKind {
    Full,
    Incremental,
    Differential,
    /// Made of what is stored; no source was read.
    Synthetic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointState {
    /// Being packed.
    Running,
    /// All data is sealed; the system data is still to be written and published.
    Stored,
    /// Complete: it can be found from any target that has it.
    Published,
    Abandoned,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub id: CheckpointId,
    pub seq: u64,
    pub kind: CheckpointKind,
    pub state: CheckpointState,
    pub node: NodeId,
    pub started_ms: u64,
    pub finished_ms: Option<u64>,
    pub tasks: Vec<Task>,
    /// Sources that were not backed up, and why: they keep what the checkpoint before holds of them.
    #[serde(default)]
    pub refused: Vec<RefusedSource>,
    #[serde(default)]
    pub allow_empty: bool,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// It is to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<Forgotten>,
    /// The zone's credited time when it began.
    #[serde(default)]
    pub credit_ms: u64,
    /// What a synthetic one does to the chains of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
}

/// When a checkpoint was forgotten: for a while it can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    pub at_ms: u64,
    /// The zone's credited time then.
    pub credit_ms: u64,
    /// The owner does not want to wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
}

/// Catalogs and content written anew from what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// Percent of what is kept that may stay dead; without it content stays where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_waste: Option<u8>,
    /// The owner allowed that much goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub much: bool,
    /// Which chains give way to which when the checkpoint is stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chains: Vec<Rebased>,
}

/// A source's chain of layers, and one that holds the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rebased {
    pub source: SourceId,
    pub old: Vec<LayerId>,
    pub new: Vec<LayerId>,
}

/// A source that a checkpoint had to leave as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSource {
    pub source: SourceId,
    /// Number of the error, as people see it.
    pub code: u16,
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    Running,
    Done,
    /// Taken over unchanged from an earlier checkpoint, because this one did not look at the source.
    Carried,
}

/// What a checkpoint holds of one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub source: SourceId,
    pub state: TaskState,
    /// The catalog: layers, oldest first.
    pub layers: Vec<LayerId>,
    /// The moment the content is of.
    pub as_of_ms: u64,
    pub stats: TaskStats,
    pub warnings: Vec<String>,
    /// Nodes that could not read it for this checkpoint, and why: it is left to others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub passed: BTreeMap<NodeId, Passed>,
}

/// That a node could not read a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    pub at_ms: u64,
    pub why: String,
}

/// Figures of one task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskStats {
    pub files: u64,
    pub dirs: u64,
    pub others: u64,
    pub bytes: u64,
    pub new_files: u64,
    pub changed_files: u64,
    pub removed: u64,
    /// Bytes of content that were not stored before.
    pub new_bytes: u64,
    /// Paths that could not be read.
    pub unread: u64,
    pub sockets: u64,
    pub excluded: u64,
    /// Files that changed while they were read.
    pub unsteady: u64,
    pub vanished: u64,
    /// Commands after it that failed, and snapshots that could not be removed.
    pub hooks_failed: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    pub id: LayerId,
    pub source: SourceId,
    pub checkpoint: CheckpointId,
    /// Needs no layer before it.
    pub full: bool,
    pub parts: Vec<Part>,
    /// Sectors that hold content of its entries, other than by its parts; `None` if that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refs: Option<BTreeSet<SectorId>>,
}

/// A part of a layer: a range of a sector's tar stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub sector: SectorId,
    pub part: u32,
    pub offset: u64,
    pub length: u64,
    pub entries: u64,
}

/// The newest head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub n: u64,
    /// Its exact text.
    pub payload: String,
    pub payload_hash: Digest,
    pub sector: SectorId,
    pub checkpoint: CheckpointId,
    pub time_ms: u64,
    /// The heads with which voters of this generation handed over to others, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handovers: Vec<Handover>,
}

/// Paths as text where they are UTF-8, else as `{"b64": …}`.
pub mod path_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Text {
        Utf8(String),
        Bytes { b64: String },
    }

    pub fn serialize<S: Serializer>(path: &[u8], s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(path) {
            Ok(t) => Text::Utf8(t.to_owned()),
            Err(_) => Text::Bytes { b64: STANDARD.encode(path) },
        }
        .serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        match Text::deserialize(d)? {
            Text::Utf8(t) => Ok(t.into_bytes()),
            Text::Bytes { b64 } => STANDARD.decode(b64).map_err(D::Error::custom),
        }
    }
}
