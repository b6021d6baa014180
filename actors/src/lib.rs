//! The steps of a backup and a restore: survey, pack, copy, publish, check, restore; and the zone they work on.
//!
//! What this crate never does: decide what the zone should hold (that is `consensus`), know formats (`sectors`) or talk
//! to a person (`nodes`). Every effect stands between two commands, so that a cut run is carried on by the next.
//!
//! Start at [`zone::Zone`], then [`backup::backup`] and [`settle::settle`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod ambient;
pub mod audit;
pub mod backup;
pub mod board;
pub mod catalogs;
pub mod check;
mod chunks;
pub mod clock;
pub mod cluster;
pub mod cosign;
pub mod credit;
pub mod engine;
pub mod errors;
mod examine;
pub mod freshness;
pub mod ground;
pub mod guard;
pub mod headchain;
pub mod home;
pub mod init;
pub mod join;
pub mod keyfile;
pub mod keyless;
mod mint;
pub mod mount;
pub mod node;
pub mod open;
pub mod pace;
mod provide;
pub mod reading;
pub mod recover;
mod relay;
pub mod restore;
pub mod restorer;
pub mod retention;
pub mod rewrite;
pub mod rollback;
pub mod secrets;
pub mod serve;
pub mod settle;
pub mod still;
pub mod survey;
pub mod system;
pub mod terms;
mod told;
pub mod transcode;
pub mod users;
pub mod wipe;
pub mod zone;
