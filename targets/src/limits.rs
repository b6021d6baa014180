//! Limits of targets: value, unit, reason.

use zoneward_sectors::limits::{CLASS_LOG2_MAX, SEGMENT_LEN, SEGMENTS_MAX};

/// Bytes of the largest backup sector: the largest raw sector with its tags, leaves, header and trailer
/// (`docs/format.md` section 3.2).
pub const SECTOR_LEN_MAX: u64 = SEGMENTS_MAX * (SEGMENT_LEN as u64 + 48) + 4096 + 4096 + 16;
/// Largest class on a store whose files end below 4 GiB (FAT), as log2 of bytes.
pub const FAT_CLASS_LOG2_MAX: u8 = 31;
/// Bytes of an object that may be put: heads and owner keys are a few KiB, and readers hold them in memory.
pub const OBJECT_LEN_MAX: u64 = 1 << 20;
/// Bytes of the marker file: it holds one id.
pub const MARKER_LEN_MAX: u64 = 4096;
/// Names in one folder of a target: far above what a zone makes, and a hostile disk cannot eat the memory.
pub const NAMES_MAX: usize = 1 << 20;
/// Bytes of a URL, and of the path in it (the kernel's own limit for paths).
pub const URL_LEN_MAX: usize = 16 << 10;
pub const PATH_LEN_MAX: usize = 4095;
/// How often a lock is tried again because its file was sealed or discarded between opening and locking it.
pub const LOCK_TRIES: usize = 16;

const _: () = assert!(1 << CLASS_LOG2_MAX < SECTOR_LEN_MAX && SECTOR_LEN_MAX < 1 << (CLASS_LOG2_MAX + 1));
const _: () = assert!(SECTOR_LEN_MAX < i64::MAX as u64);
