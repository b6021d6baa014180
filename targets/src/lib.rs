//! Backup Targets: stores outside the zone's trust that keep backup sectors.
//!
//! What this crate never does: read a key, look inside a sector, decide what is stored where, or wait. A target is a
//! dumb store with a few durable operations; every call returns with a typed error that says whether to try again.
//!
//! Start at [`Target`] (what every store must do), then [`conformance`] (the checks that every adapter passes), then
//! [`DirectoryTarget`] (the `file://` adapter, laid out as `docs/format.md` section 1 says).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod conformance;
mod directory;
mod errors;
pub mod limits;
mod target;
mod url;

pub use directory::{DirectoryTarget, Existing, FAIL_POINTS};
pub use errors::{Op, Retry, TargetError};
pub use target::{Capabilities, Incoming, Listing, ObjectName, SectorReader, Target};
pub use url::{Url, UrlError};

use zoneward_sectors::ids::TargetId;

/// Opens the target that a URL names. `id` is the id that the zone knows it by; a restore that has only the URL gives
/// `None` and asks the target for its [`Target::id`].
pub fn open(url: &Url, id: Option<TargetId>) -> Result<Box<dyn Target>, TargetError> {
    match url {
        Url::File(path) => Ok(Box::new(DirectoryTarget::open(path, id)?)),
    }
}

/// Makes the place that a URL names a target. Ask the result for its [`Target::id`]: with [`Existing::Adopt`] it may
/// be another than the one offered.
pub fn create(url: &Url, id: TargetId, existing: Existing) -> Result<Box<dyn Target>, TargetError> {
    match url {
        Url::File(path) => Ok(Box::new(DirectoryTarget::create(path, id, existing)?)),
    }
}
