//! What is stored: raw sectors, and their copies on targets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CheckpointId, CopyId, Digest, NodeId, SectorId, TargetId, ZoneAlias};
use crate::stripes::CopyStripes;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SectorState {
    Open,
    Sealed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RawSector {
    pub id: SectorId,
    pub checkpoint: CheckpointId,
    pub class_log2: u8,
    pub system: bool,
    pub state: SectorState,
    pub raw_id: Option<Digest>,
    pub raw_len: u64,
    pub tar_len: u64,
    pub index: (u64, u64),
    pub seek_table: (u64, u64),
    pub entries: u64,
    pub min_priority: i32,
    pub copies_wanted: u8,
    pub created_ms: u64,
    /// Nodes that hold the stored bytes of one of its copies, and of which.
    #[serde(default)]
    pub staged: BTreeMap<NodeId, CopyId>,
    /// The lease it was opened under: it is given up with it, unless it is sealed.
    #[serde(default)]
    pub lease: Option<u64>,
    /// The zone forgets its copies' keys once they are made ([`crate::keyless`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub write_only: bool,
}

impl RawSector {
    pub fn is_sealed(&self) -> bool {
        self.state == SectorState::Sealed
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyState {
    /// Being written.
    Open,
    Stored,
    /// Given up: its file is to be removed.
    Abandoned,
    /// Its bytes are wrong.
    Damaged,
    /// Its target no longer has it.
    Lost,
}

/// When a target showed another head than it was given, and what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misshown {
    pub at_ms: u64,
    pub what: String,
}

/// How long and how often a copy has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silent {
    pub tries: u8,
    pub first_ms: u64,
    pub last_ms: u64,
}

/// The copy whose stored bytes a relayed one repeats: its header names it, on the target that it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relayed {
    pub copy: CopyId,
    pub alias: ZoneAlias,
}

/// A backup sector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    pub id: CopyId,
    pub sector: SectorId,
    pub target: TargetId,
    pub alias: ZoneAlias,
    pub state: CopyState,
    /// Base64 of the used bytes of its header.
    pub header: String,
    pub header_hash: Digest,
    /// Base64 of its data key, sealed to the zone; empty once the zone forgot it.
    pub sealed_dek: String,
    pub stored_len: u64,
    /// What all its stored bytes are known by: SHA-256 over the BLAKE3 hashes of their pieces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_id: Option<Digest>,
    /// It holds the same bytes as another, whose header it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relayed: Option<Relayed>,
    pub opened_ms: u64,
    pub stored_ms: u64,
    /// When its metadata, or all of it, was last found whole.
    pub verified_ms: Option<u64>,
    pub read_ms: Option<u64>,
    /// When segments of it were last read and found right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audited_ms: Option<u64>,
    /// Asked for, it did not answer, the last time or times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<Silent>,
    /// What was found wrong with it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// What its target has to answer when it is asked about all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripes: Option<CopyStripes>,
    /// The lease under which it is being written.
    #[serde(default)]
    pub lease: Option<u64>,
    /// Number of the checkpoint that no longer needed it: its file stays until its target shows that checkpoint's head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unneeded: Option<u64>,
}

impl Copy {
    pub fn is_stored(&self) -> bool {
        self.state == CopyState::Stored
    }

    /// Whether the zone has no key to it: only the owner's opens it.
    pub fn is_keyless(&self) -> bool {
        self.sealed_dek.is_empty()
    }

    /// What its header names: itself, or the copy whose bytes it repeats.
    pub fn named(&self) -> Relayed {
        self.relayed.unwrap_or(Relayed { copy: self.id, alias: self.alias })
    }

    /// When it was last read whole, or written.
    pub fn read_or_written_ms(&self) -> u64 {
        self.read_ms.unwrap_or(0).max(self.stored_ms)
    }

    /// When it was last proved by its bytes to be there: it was written, or some or all of it was read.
    pub fn proved_ms(&self) -> u64 {
        self.audited_ms.unwrap_or(0).max(self.read_or_written_ms())
    }

    /// True while there is nothing that could be checked.
    pub fn is_open(&self) -> bool {
        matches!(self.state, CopyState::Open | CopyState::Abandoned)
    }
}
