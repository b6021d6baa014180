//! Proof of crash safety: the product runs as a child process that is failed or killed at a place named beforehand; then
//! a clean run must end as if nothing had happened. It never looks inside the product: exit codes, what is stored and
//! what comes back are all that counts.
//!
//! Start at [`site::Site`], one place to work in with a zone and a target; [`tree`] makes and compares source trees.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod site;
pub mod tree;
