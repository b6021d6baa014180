//! The zone's state and how it changes: model, versioned commands, pure [`apply`](apply::apply), pure
//! [`plan`](plan::plan), and the store that keeps them.
//!
//! What this crate never does: read a wall clock, touch data or targets. Proposers choose times and ids; `apply` gives the
//! same answer on every node and every release. Nothing writes state except through a command. Only [`raft`] waits and
//! rolls dice, both through its [`raft::Runtime`].
//!
//! Start at [`model::State`], then [`command::Command`] and [`apply::apply`]; then [`store`], which keeps log and state
//! in one file, and [`raft`], by which several nodes agree on them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod apply;
pub mod audits;
pub mod choose;
pub mod command;
pub mod decide;
pub mod effect;
pub mod export;
pub mod heads;
pub mod keep;
pub mod keyless;
pub mod levels;
pub mod limits;
pub mod model;
pub mod names;
pub mod owner;
pub mod plan;
mod planted;
pub mod policy;
pub mod quorum;
pub mod raft;
pub mod reading;
#[cfg(test)]
mod samples;
pub mod secrets;
pub mod seen;
pub mod sizes;
pub mod store;
pub mod stripes;
pub mod terms;
pub mod users;
mod watch;
pub mod work;

pub use apply::{Outcome, Refusal};
