//! Limits of targets: value, unit, reason.

use std::time::Duration;

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
/// Bytes of a target's credentials as JSON: a private key and a few certificates fit.
pub const CREDENTIALS_LEN_MAX: usize = 64 << 10;
/// Characters of the text that names a target: URL and credentials in base32, and blanks among them.
pub const CODE_TEXT_MAX: usize = 160 << 10;
const _: () =
    assert!((URL_LEN_MAX + CREDENTIALS_LEN_MAX + 16) * 8 / 5 + 16 < CODE_TEXT_MAX && URL_LEN_MAX <= u16::MAX as usize);
/// How often a lock is tried again because its file was sealed or discarded between opening and locking it.
pub const LOCK_TRIES: usize = 16;
/// Bytes of one piece of a sector on its way over the network, and of one part file: a sector of the largest class has
/// fewer than the 10,000 parts that S3 allows.
pub const PART_LEN: u64 = 8 << 20;
/// Parts of one sector on their way at once: they, and [`PARTS_OPEN_MAX`], are all that a writer holds in memory.
pub const PARTS_IN_FLIGHT: usize = 3;
/// Parts of one sector that may be partly filled at once: writers go nearly in order.
pub const PARTS_OPEN_MAX: usize = 4;
/// Bytes of an answer that is no content: a page of a listing has about 400 KiB, of a target server's 1 MB.
pub const ANSWER_LEN_MAX: u64 = 4 << 20;
/// Time for a connection to be made, ms.
pub const CONNECT_MS: u64 = 10_000;
/// Time for one request that carries nothing, ms; [`SLOWEST_BYTES_PER_S`] says what content adds to it.
pub const REQUEST_MS: u64 = 60_000;
/// A transfer that is slower than this is given up, bytes per second: 8 MiB may take nine minutes.
pub const SLOWEST_BYTES_PER_S: u64 = 16 << 10;
/// How often one request is sent.
pub const TRIES: u32 = 4;
/// The first pause between two tries, ms; each later one is four times as long.
pub const PAUSE_MS: u64 = 200;
/// The longest pause that a server may ask for within one call, ms; who asks for more is left to the caller.
pub const PAUSE_MS_MAX: u64 = 10_000;
/// Pages of one listing: a thousand names each.
pub const PAGES_MAX: usize = NAMES_MAX / 1000 + 1;
/// Bytes of the largest object that S3 copies at once.
pub const COPY_LEN_MAX: u64 = 5 << 30;
/// Objects whose locks are looked at in one round, and removed ones that are looked at again: a request or two each.
pub const GUARD_MAX: usize = 1024;
/// Delete markers of one object that are taken away; before more of them, the object is copied.
pub const MARKS_MAX: usize = 64;

const _: () = assert!(SECTOR_LEN_MAX.div_ceil(PART_LEN) <= 10_000 && PART_LEN >= 5 << 20);
const _: () = assert!(1 << CLASS_LOG2_MAX < SECTOR_LEN_MAX && SECTOR_LEN_MAX < 1 << (CLASS_LOG2_MAX + 1));
const _: () = assert!(SECTOR_LEN_MAX < i64::MAX as u64);

/// Bytes of one append to a target server, and of what the adapter holds until it is acknowledged; two of them at most
/// for each sector that is being written.
pub const APPEND_LEN_MAX: u64 = 8 << 20;
/// Bytes that the adapter asks for in one range.
pub const RANGE_LEN_MAX: u64 = 8 << 20;
/// Bytes that the server holds of an append before it writes them: three such pieces at most for each append.
pub const PIECE_LEN: usize = 1 << 20;
/// Appends that a server takes in at once; further ones wait in the network, so that they cost no memory.
pub const APPENDS_AT_ONCE: usize = 32;
/// Bytes of a range that a server reads before it sends them: two such pieces at most for each connection.
pub const RANGE_PIECE_LEN: usize = 256 << 10;
/// Bytes of one hash of what was received: a scrub names damage to this precision.
pub const LEAF_LEN: usize = 1 << 20;
/// Sectors on one page of a target server's listing (about 50 bytes each).
pub const PAGE_LEN: usize = 20_000;
/// Bytes of a JSON request, of a challenge foremost.
pub const ASK_LEN_MAX: usize = 256 << 10;
/// Spans of one challenge: a sector has four. Its windows are bounded by `PART_WINDOWS`.
pub const PROOF_SPANS_MAX: usize = 8;
/// Time for the answer to a challenge: a disk that must seek for each of its windows needs some 40 s.
pub const PROOF_TIME: Duration = Duration::from_secs(120);
/// Connections of an adapter to its server at a time; further requests wait.
pub const LINKS_MAX: usize = 8;
/// How often a request that is safe to repeat is sent, if no answer comes. Between them the adapter waits 0.2 s, 0.4 s,
/// 0.8 s …
pub const LINK_TRIES: u32 = 5;
pub const TRY_PAUSE: Duration = Duration::from_millis(200);
/// Time to connect, and for a request without its bytes.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);
pub const REQUEST_TIME: Duration = Duration::from_secs(30);
/// Time to make a sector durable: the largest one, on a slow disk.
pub const SEAL_TIME: Duration = Duration::from_secs(900);
/// Bytes a second below which a transfer is given up.
pub const RATE_MIN: u64 = 64 << 10;
/// How long a server waits for the next bytes of an append.
pub const APPEND_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a stretch waits for the one before it, which another thread has in hand, while nothing comes: that thread may
/// wait for its share of a narrow upload limit.
pub const TURN_TIME: Duration = Duration::from_secs(1800);
/// How long a writer's hold on a sector lasts without a sign of life.
pub const WRITER_HOLD: Duration = Duration::from_secs(30);
/// Sectors that may be in writers' hands at once: each is an open file.
pub const UPLOADS_PER_ACCOUNT: usize = 64;
pub const UPLOADS_MAX: usize = 1024;
/// Bytes that are read from a TLS connection at once.
pub const READ_AHEAD: usize = 64 << 10;
/// Connections to a server, and how long an idle one is kept.
pub const CONNECTIONS_MAX: usize = 256;
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Free bytes that a server leaves on its disk, so that there is room to remove things and to note it.
pub const DISK_RESERVE: u64 = 64 << 20;
/// Zone aliases of an account, unless its operator says otherwise.
pub const ZONES_PER_ACCOUNT: u32 = 16;
/// Tokens of a server, bytes of their file and of an account's name.
pub const TOKENS_MAX: usize = 10_000;
pub const TOKEN_FILE_LEN_MAX: u64 = 16 << 20;
pub const ACCOUNT_NAME_LEN_MAX: usize = 64;
/// Bytes of a certificate or key file.
pub const PEM_LEN_MAX: u64 = 64 << 10;
/// Bytes of the clock's file.
pub const CLOCK_FILE_LEN_MAX: u64 = 4096;
/// How far the wall clock may go astray from the monotonic one between two looks and still be believed.
pub const CLOCK_SLACK: Duration = Duration::from_secs(5);
/// How often a server looks at its tokens, and how often at its clocks, its locks and its scrub.
pub const TOKENS_EVERY: Duration = Duration::from_secs(1);
pub const CHORES_EVERY: Duration = Duration::from_secs(60);
/// Days of credited time from one scrub to the next, and the bytes a second that it reads.
pub const SCRUB_EVERY_DAYS: u64 = 7;
pub const SCRUB_RATE: u64 = 128 << 20;
/// Bytes of the hashes of the largest sector.
pub const HASHES_LEN_MAX: u64 = 32 * (SECTOR_LEN_MAX / LEAF_LEN as u64 + 1);
/// Sectors that a scrub names as damaged in one zone; beyond, the target is replaced, not mended.
pub const DAMAGED_MAX: usize = 10_000;

const _: () = assert!(WRITER_HOLD.as_secs() >= 3 * 10, "a hold lasts over two lost signs of life");
const _: () =
    assert!(APPENDS_AT_ONCE * 3 * PIECE_LEN + CONNECTIONS_MAX * (2 * RANGE_PIECE_LEN + READ_AHEAD) <= 256 << 20);
const _: () = assert!(PAGE_LEN as u64 * 64 < ANSWER_LEN_MAX);
const _: () = assert!(DAMAGED_MAX as u64 * 36 < ANSWER_LEN_MAX);
