//! Sector formats and the data plane: scan, chunk, pack, seal, open, restore.
//!
//! What this crate never does: async, network, a clock of its own, or anything with the zone's state. Everything it
//! needs to know comes in as plain values; what it did goes out as plain values.
//!
//! Start at `docs/format.md`, then [`header`] and [`stream`] (the encrypted container), [`catalog`] (what it holds),
//! [`pack`] (writing) and [`restore`] (reading).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod attrs;
pub mod base32;
pub mod beneath;
pub mod catalog;
pub mod cert;
pub mod child;
pub mod chunk;
pub mod clone;
pub mod crypto;
pub mod current;
pub mod diff;
pub mod entry;
pub mod frames;
pub mod fsx;
pub mod glob;
pub mod headcode;
pub mod header;
pub mod ids;
pub mod index;
pub mod keyfile;
pub mod limits;
pub mod owner;
pub mod pack;
pub mod pax;
pub mod place;
pub mod restore;
pub mod sector_reader;
pub mod sector_writer;
pub mod shown;
pub mod stream;
pub mod stripes;
pub mod walk;
pub mod zonekeys;
