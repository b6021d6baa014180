//! Pieces of work: what the planner asks for, and what a node claims before it begins.

use serde::{Deserialize, Serialize};
use zoneward_sectors::ids::{CheckpointId, CopyId, SectorId, SourceId, TargetId};

/// A piece of work. Doing it twice is doing it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Work {
    /// A backup was cut; the next one carries it on. Of a zone that no daemon serves.
    ResumeCheckpoint { checkpoint: CheckpointId },
    /// A source is to be packed. Of a zone that daemons serve.
    Pack { checkpoint: CheckpointId, source: SourceId },
    /// A given-up copy may have left a file.
    RemoveIncoming { target: TargetId, copy: CopyId },
    /// A sector that waits for copies lies where only one node can read it: another node is to hold it too.
    Stage { sector: SectorId },
    /// A sector has fewer copies than it should.
    Copy { sector: SectorId, target: TargetId },
    /// A stored checkpoint has no system sector.
    WriteSystem { checkpoint: CheckpointId },
    /// A stored copy is to be looked at.
    Audit { target: TargetId, copy: CopyId },
    /// A target shows an older head, or none.
    Publish { target: TargetId },
    /// All sources of a checkpoint are packed.
    StoreCheckpoint { checkpoint: CheckpointId },
    /// A stored checkpoint can be found from a target.
    FinishCheckpoint { checkpoint: CheckpointId },
}

impl Work {
    /// Its kind in one word, as people see it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ResumeCheckpoint { .. } => "resume",
            Self::Pack { .. } => "pack",
            Self::RemoveIncoming { .. } => "tidy",
            Self::Stage { .. } => "stage",
            Self::Copy { .. } => "upload",
            Self::WriteSystem { .. } => "system",
            Self::Audit { .. } => "audit",
            Self::Publish { .. } => "publish",
            Self::StoreCheckpoint { .. } => "store",
            Self::FinishCheckpoint { .. } => "finish",
        }
    }

    /// The target that it needs.
    pub fn target(&self) -> Option<TargetId> {
        match *self {
            Self::Copy { target, .. }
            | Self::Audit { target, .. }
            | Self::Publish { target }
            | Self::RemoveIncoming { target, .. } => Some(target),
            _ => None,
        }
    }
}
