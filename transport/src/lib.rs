//! Node identity and the authenticated links between nodes.
//!
//! What this crate never does: decide who is a member (that is replicated state, see [`members`]), hold an owner's
//! key, or serve anyone whose key the membership does not have, but for joining with an invite. Start at
//! [`endpoint::Endpoint`]; `docs/transport.md` has the bytes. [`memory`] is the same without a network, for tests.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod bulk;
mod dial;
pub mod endpoint;
pub mod error;
mod gate;
pub mod identity;
pub mod invite;
pub mod join;
pub mod limits;
pub mod members;
pub mod memory;
pub mod rpc;
mod serve;
#[cfg(test)]
mod tests;
mod tls;
pub mod wire;

pub use bulk::{BulkHandler, BulkReceiver, BulkSender};
pub use dial::PeerInfo;
pub use endpoint::{BindError, Clock, Config, Endpoint, system_clock};
pub use error::{Broken, CallError, DialError, Refusal};
pub use identity::{IdentityError, NewNode, NodeIdentity};
pub use invite::{Invite, InviteError, Role, TokenHash, zone_fingerprint};
pub use join::{DeskFull, JoinError, JoinHost, Joined, Joiner, join};
pub use members::{Member, MemberView, Members, MembersError};
pub use rpc::{Boxed, Caller, Handler, Services, kind};
pub use tls::TlsError;
pub use wire::{BulkOpen, Retry, Status};
