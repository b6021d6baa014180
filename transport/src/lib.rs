//! Node identity, and later the authenticated links between nodes.
//!
//! What this crate never does: decide who is a member (that is replicated state), or hold an owner's key. Start at
//! [`identity`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod identity;

pub use identity::{IdentityError, NodeIdentity};
