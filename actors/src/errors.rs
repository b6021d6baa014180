//! Why a step on the zone failed.

use std::path::PathBuf;

use zoneward_consensus::store::StoreError;
use zoneward_sectors::catalog::CatalogError;
use zoneward_sectors::pack::PackError;
use zoneward_sectors::restore::{NoCopy, RestoreError};
use zoneward_sectors::sector_reader::SectorReadError;
use zoneward_sectors::sector_writer::SectorWriteError;
use zoneward_sectors::zonekeys::ZoneSecretError;
use zoneward_targets::TargetError;
use zoneward_transport::identity::IdentityError;

use crate::catalogs::CatalogsError;
use crate::cluster::{ClusterError, CommandError};
use crate::home::HomeError;

/// Why a step on the zone failed.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("this home holds no whole zone: if nothing was ever backed up with it, remove it and begin again")]
    Unfinished,
    #[error(
        "target {target} shows state {theirs} of this zone, and this home knows none after {own}: was it put back from an older copy?"
    )]
    OlderHome { target: String, theirs: u64, own: u64 },
    #[error("there are keys of a zone, and its state is gone: {0}")]
    KeysWithoutState(PathBuf),
    #[error("{0} can be read by others: chmod 600 it, and think of who may have read it")]
    Exposed(PathBuf),
    #[error("the zone's state is damaged: {what}")]
    State { what: &'static str },
    /// Nothing was done: it comes with the other nodes.
    #[error("this node does not have the zone's secret of epoch {epoch} yet, and no node that has it answers")]
    SecretAway { epoch: u32 },
    #[error("the zone's secret is damaged")]
    Secret(#[from] ZoneSecretError),
    #[error("this node's identity cannot be used")]
    Identity(#[from] IdentityError),
    #[error("{0}")]
    TargetUrl(String),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Catalogs(#[from] CatalogsError),
    #[error("a sector cannot be read")]
    Read(#[from] SectorReadError),
    #[error("a sector cannot be written")]
    Write(#[from] SectorWriteError),
    #[error("the source {path} cannot be read")]
    Source { path: PathBuf, source: std::io::Error },
    #[error("{path} held {held} entries and is empty now")]
    SourceEmpty { path: PathBuf, held: u64 },
    #[error("{path} was {was} and is {now} now: is the right disk mounted?")]
    SourceMoved { path: PathBuf, was: String, now: String },
    #[error("the command {what} {path} failed: {why}")]
    Hook { path: PathBuf, what: &'static str, why: String },
    #[error("no snapshot of {path} could be made: {why}")]
    Snapshot { path: PathBuf, why: String },
    #[error("the {what} command of {path} was not allowed on this node")]
    NotAllowed { path: PathBuf, what: &'static str },
    #[error("{path} lies nowhere on this node")]
    Unmapped { path: PathBuf },
    #[error("{} can be read only with the owner's key: the zone has forgotten its own", .0.join(", "))]
    OwnerOnly(Vec<String>),
    #[error("no target can take a sector: {0}")]
    NoTarget(String),
    #[error(transparent)]
    NoCopy(#[from] NoCopy),
    #[error("{0}")]
    Sector(String),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("{by} of {of} voters have signed head {n}: more than half are needed")]
    Unsigned { n: u64, by: usize, of: usize },
    #[error("this node is a witness: it votes, and has no key to the zone's data")]
    Witness,
    #[error("a daemon serves this home: stop it first")]
    Served,
    /// What was begun under the lease does not count any more; nothing that was acknowledged is touched.
    #[error("the lease on this work has ended: another node goes on with it")]
    LeaseEnded,
    #[error("interrupted")]
    Interrupted,
}

/// Number of the error for a source that is no longer there.
pub const SOURCE_GONE: u16 = 1403;

impl ZoneError {
    /// Number under which people find a source's trouble explained (`docs/errors.md`).
    pub fn source_code(&self) -> u16 {
        match self {
            Self::SourceEmpty { .. } => 1401,
            Self::SourceMoved { .. } => 1402,
            Self::Hook { .. } => 1410,
            Self::Snapshot { .. } => 1411,
            Self::NotAllowed { .. } => 1412,
            Self::Unmapped { .. } => 1415,
            _ => SOURCE_GONE,
        }
    }

    /// Whether it speaks of one source alone.
    pub fn is_about_the_source(&self) -> bool {
        matches!(
            self,
            Self::Source { .. }
                | Self::SourceEmpty { .. }
                | Self::SourceMoved { .. }
                | Self::Hook { .. }
                | Self::Snapshot { .. }
                | Self::NotAllowed { .. }
                | Self::Unmapped { .. }
        )
    }

    /// Whether the zone said no to a command; nothing was changed.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::Refused(_)) | Self::Command(crate::cluster::CommandError::Refused { .. })
        )
    }
}

impl ZoneError {
    /// True if stored bytes are wrong or gone; false where they are out of reach, or something else failed.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Read(e) => e.is_damage(),
            Self::NoCopy(e) | Self::Pack(PackError::Content { source: e, .. }) => e.damage,
            Self::Catalogs(CatalogsError::Catalog(e)) | Self::Restore(RestoreError::Catalog(e)) => e.is_damage(),
            Self::Catalogs(CatalogsError::UnknownLayer(_)) | Self::Secret(_) | Self::State { .. } => true,
            Self::Store(StoreError::Damaged(_)) => true,
            _ => false,
        }
    }
}

// So that `?` works on what a catalog's iterator gives.
impl From<CatalogError> for ZoneError {
    fn from(e: CatalogError) -> Self {
        Self::Catalogs(e.into())
    }
}
