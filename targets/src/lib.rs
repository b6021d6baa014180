//! Backup Targets: stores outside the zone's trust that keep backup sectors.
//!
//! What this crate never does: read a key, look inside a sector, decide what is stored where, or wait. A target is a
//! dumb store with a few durable operations; every call returns with a typed error that says whether to try again.
//!
//! Start at [`Target`] (what every store must do), then [`conformance`] (the checks that every adapter passes), then
//! [`DirectoryTarget`] (the `file://` adapter, laid out as `docs/format.md` section 1 says), then [`server`] (our own
//! target server) and [`ServerTarget`] (its adapter); `docs/target-protocol.md` is what those two speak.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod client;
pub mod code;
pub mod conformance;
mod credentials;
mod directory;
mod errors;
pub mod limits;
mod marker;
mod named;
mod net;
pub mod protocol;
mod s3;
pub mod server;
mod sftp;
mod target;
mod url;
mod webdav;

pub use client::{ServerTarget, Timing};
pub use credentials::{Credentials, CredentialsError};
pub use directory::{DirectoryTarget, Existing, FAIL_POINTS};
pub use errors::{Op, Retry, TargetError};
pub use s3::S3Target;
pub use sftp::SftpTarget;
pub use target::{Capabilities, Guarded, Incoming, Listing, ObjectName, Offer, Protection, SectorReader, Target};
pub use url::{S3Url, Server, ServerUrl, SftpUrl, Url, UrlError, WebDavUrl};
pub use webdav::WebDavTarget;

use named::named;
use zoneward_sectors::ids::TargetId;

/// Opens the target that a URL names. `id` is the id that the zone knows it by; a restore that has only the URL gives
/// `None` and asks the target for its [`Target::id`]. A target over the network needs credentials.
pub fn open(
    url: &Url,
    id: Option<TargetId>,
    credentials: Option<&Credentials>,
) -> Result<Box<dyn Target>, TargetError> {
    match url {
        Url::File(path) => Ok(named(DirectoryTarget::open(path, id)?)),
        Url::S3(url) => Ok(named(S3Target::open(url, id, credentials)?)),
        Url::WebDav(url) => Ok(named(WebDavTarget::open(url, id, credentials)?)),
        Url::Server(server) => Ok(named(ServerTarget::open(server, id, credentials)?)),
        Url::Sftp(url) => Ok(named(SftpTarget::open(url, id, credentials)?)),
    }
}

/// Makes the place that a URL names a target. Ask the result for its [`Target::id`]: with [`Existing::Adopt`] it may
/// be another than the one offered. A target server has its id already, and is only ever adopted.
pub fn create(
    url: &Url,
    id: TargetId,
    existing: Existing,
    credentials: Option<&Credentials>,
) -> Result<Box<dyn Target>, TargetError> {
    match url {
        Url::File(path) => Ok(named(DirectoryTarget::create(path, id, existing)?)),
        Url::S3(url) => Ok(named(S3Target::create(url, id, existing, credentials)?)),
        Url::WebDav(url) => Ok(named(WebDavTarget::create(url, id, existing, credentials)?)),
        Url::Server(server) => {
            let target = ServerTarget::open(server, None, credentials)?;
            match target.id() {
                found if found == id || existing == Existing::Adopt => Ok(named(target)),
                found => Err(TargetError::OtherTarget { op: Op::CreateTarget, what: url.to_string(), found }),
            }
        }
        Url::Sftp(url) => Ok(named(SftpTarget::create(url, id, existing, credentials)?)),
    }
}
