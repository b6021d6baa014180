//! Limits of the formats and of the data plane: value, unit, reason. `docs/format.md` §9 repeats the format's.

/// Bytes of plaintext in a segment: small enough for cheap audits, large enough that a tag costs nothing.
pub const SEGMENT_LEN: usize = 1 << 20;
/// Segments of one sector: 64 GiB.
pub const SEGMENTS_MAX: u64 = 1 << 16;
/// Fixed room of the header and of the trailer, bytes.
pub const HEADER_LEN: usize = 4096;
/// Bytes of tar in one zstd frame at most: what a reader must be ready to hold.
pub const FRAME_TAR_MAX: usize = 8 << 20;
/// Bytes of one compressed frame at most: stored frames grow by their block headers.
pub const FRAME_RAW_MAX: usize = FRAME_TAR_MAX + (64 << 10);
/// Frames of one sector.
pub const FRAMES_MAX: u64 = 1 << 20;
/// Bytes of the index member.
pub const INDEX_LEN_MAX: u64 = 16 << 20;
/// Bytes of one catalog part.
pub const CATALOG_PART_MAX: u64 = 64 << 20;
/// Bytes of one catalog line: the longest extended attributes as base64, two long paths with every byte escaped, and a
/// line's extents fit.
pub const CATALOG_LINE_MAX: usize = 4 << 20;
/// Extents in one catalog line; more go to continuation lines.
pub const EXTENTS_PER_LINE: usize = 1024;
/// Bytes of a path or of a link target.
pub const PATH_LEN_MAX: usize = 65_535;
/// Bytes of all extended attributes of one entry, names and values.
pub const XATTRS_LEN_MAX: usize = 1 << 20;

/// Files below this are one chunk, bytes.
pub const SMALL_FILE_MAX: u64 = 512 << 10;
/// Smallest chunk of a large file, bytes (the last may be smaller).
pub const CHUNK_MIN: usize = 512 << 10;
/// Average chunk, bytes.
pub const CHUNK_AVG: usize = 1 << 20;
/// Largest chunk, bytes.
pub const CHUNK_MAX: usize = 4 << 20;

/// Smallest and largest class of a raw sector, as log2 of bytes (4 KiB is for tests, 64 GiB the largest).
pub const CLASS_LOG2_MIN: u8 = 12;
pub const CLASS_LOG2_MAX: u8 = 36;

const _: () = assert!(SEGMENT_LEN as u64 * SEGMENTS_MAX == 1 << CLASS_LOG2_MAX);
const _: () = assert!(CHUNK_MIN < CHUNK_AVG && CHUNK_AVG < CHUNK_MAX);
const _: () = assert!(CHUNK_MAX <= FRAME_TAR_MAX);

// An entry whose line the reader refuses would make a whole catalog unreadable. Names are at most 64 KiB of the
// attributes (the kernel's limit for a list); a control character takes six bytes of JSON, an extent about 100.
const _: () =
    assert!(CATALOG_LINE_MAX > XATTRS_LEN_MAX / 3 * 4 + 6 * (64 << 10) + 12 * PATH_LEN_MAX + 100 * EXTENTS_PER_LINE);
