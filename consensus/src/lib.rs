//! The zone's state and how it changes: model, versioned commands, pure [`apply`](apply::apply), pure
//! [`plan`](plan::plan), and the store that keeps them.
//!
//! What this crate never does: read a clock, roll dice, touch data or targets. Proposers choose times and ids; `apply`
//! gives the same answer on every node and every release. Nothing writes state except through a command.
//!
//! Start at [`model::State`], then [`command::Command`] and [`apply::apply`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod apply;
pub mod command;
pub mod export;
pub mod limits;
pub mod model;
pub mod plan;
#[cfg(test)]
mod samples;
pub mod sizes;
pub mod store;

pub use apply::{Outcome, Refusal};
