//! Limits of the control plane: value, unit, reason.

/// Entries of the log kept in the store: enough to look back at, bounded.
pub const LOG_KEPT: u64 = 10_000;
/// Bytes of entries applied together; one entry may be longer.
pub const BATCH_LEN_MAX: usize = 4 << 20;
/// Bytes of one line of a snapshot: a record grows with what belongs to it.
pub const SNAPSHOT_LINE_LEN_MAX: u64 = 256 << 20;
/// Bytes of a snapshot.
pub const SNAPSHOT_LEN_MAX: u64 = EXPORT_LEN_MAX;
/// Bytes of a snapshot sent together.
pub const CHUNK_LEN_MAX: u64 = 1 << 20;
/// Warnings kept for one task; the rest are counted.
pub const WARNINGS_MAX: usize = 1000;
/// Bytes of one command: it must pass a slow line between two words of a leader, or nearly so.
pub const COMMAND_LEN_MAX: usize = 2 << 20;
/// Bytes of a target's sealed credentials, in base64: 64 KiB of JSON, nonce and tag.
pub const CREDENTIALS_LEN_MAX: usize = 88 << 10;
/// Bytes of all warnings of one task, and of one: paths may be long.
pub const WARNINGS_LEN_MAX: usize = 512 << 10;
/// See [`WARNINGS_LEN_MAX`].
pub const WARNING_LEN_MAX: usize = 1 << 10;
/// Mount points that are kept of a source.
pub const MOUNTS_MAX: usize = 64;
/// Copies in one command that says they were found whole; sectors in one that asks for more copies.
pub const VERIFIED_MAX: usize = 10_000;
/// Sectors whose keys one command forgets.
pub const FORGET_KEYS_MAX: usize = 1000;
/// Work proposed in one round of planning.
pub const PLAN_MAX: usize = 256;
/// Leftovers to be removed in one round, shared among the targets: the rest waits for the next round.
pub const PLAN_REMOVE_MAX: usize = 64;
/// Copies of data, and again of system sectors, in one round, shared among the targets.
pub const PLAN_COPY_MAX: usize = 64;
/// Audits in one round, shared among the targets.
pub const PLAN_AUDIT_MAX: usize = 256;
/// Copies that one node looks at together.
pub const CLAIM_AUDITS_MAX: usize = 16;
/// Changes of voters that the heads of one generation tell of: some 2 KiB each, and a pointer holds them all.
pub const HANDOVERS_MAX: usize = 128;
/// Bytes of the text that says what is wrong with a copy.
pub const TROUBLE_LEN_MAX: usize = 500;
/// Millionths of a currency that a price may be: a million.
pub const PRICE_MICROS_MAX: u64 = 1_000_000_000_000;
/// Checkpoints forgotten by one command.
pub const FORGET_MAX: usize = 10_000;
/// Tags of a checkpoint, and bytes of one.
pub const TAGS_MAX: usize = 32;
/// See [`TAGS_MAX`].
pub const TAG_LEN_MAX: usize = 100;
/// Seconds for which what was forgotten can be taken back, at most: ten years.
pub const GRACE_S_MAX: u32 = 3653 * 24 * 3600;
/// Pieces of work in one lease.
pub const CLAIM_MAX: usize = 64;
/// Leases at once, of all nodes.
pub const LEASES_MAX: usize = 256;
/// Milliseconds of silence after which the leader ends a node's leases: long against a heartbeat, short against a person's
/// patience.
pub const LEASE_MS: u64 = 1_000;
/// Bytes of the text that says why a source was left as it was.
pub const WHY_LEN_MAX: usize = 2_000;
/// Invites that a zone remembers.
pub const INVITES_MAX: usize = 32;
/// An invite is valid for at most so long, ms: a week.
pub const INVITE_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// Schedules of a zone.
pub const SCHEDULES_MAX: usize = 32;
/// Limits by hour of a zone.
pub const LIMITS_MAX: usize = 24;
/// Bytes of a command that runs around the reading of a source.
pub const HOOK_LEN_MAX: usize = 4096;
/// Seconds that such a command may take where nothing else is said, and at most: a day.
pub const HOOK_S: u32 = 600;
/// See [`HOOK_S`].
pub const HOOK_S_MAX: u32 = 24 * 3600;
/// Bytes of a path of a source or a dfs name.
pub const PATH_LEN_MAX: usize = 4096;
/// Names that lie at different places on nodes.
pub const DFS_NAMES_MAX: usize = 64;
/// Bytes of a cron line, and of the name of a time zone.
pub const CRON_LEN_MAX: usize = 200;
/// Tokens of the REST API that are valid at once.
pub const TOKENS_MAX: usize = 64;
/// Users of a zone.
pub const USERS_MAX: usize = 64;
/// Sources of one user.
pub const USER_SOURCES_MAX: usize = 1024;
/// Bytes of a user's public keys, of his sealed key file and of his sealed signer, each in base64.
pub const USER_PUBLIC_LEN_MAX: usize = 2 << 10;
/// See [`USER_PUBLIC_LEN_MAX`].
pub const USER_FILE_LEN_MAX: usize = 88 << 10;
/// See [`USER_PUBLIC_LEN_MAX`].
pub const USER_SIGNER_LEN_MAX: usize = 1 << 10;
/// A token is valid for at most so long, ms: a year and a day.
pub const TOKEN_MS_MAX: u64 = 366 * 24 * 3_600_000;
/// Nodes of a zone.
pub const NODES_MAX: usize = 7;
/// Sectors to be staged in one round.
pub const PLAN_STAGE_MAX: usize = 16;
/// Sectors that a node holds staged for others at once: temporary space is bounded.
pub const STAGED_MAX: usize = 2;
/// Bytes of an exported state.
pub const EXPORT_LEN_MAX: u64 = 1 << 30;
/// Bytes of a name that a person gives.
/// Hashes of sealed key files that a zone remembers: a node that was away for more changes keeps what it has.
pub const OWNER_FILES_MAX: usize = 64;
pub const NAME_LEN_MAX: usize = 200;
/// Copies of one sector that can be asked for.
pub const COPIES_MAX: u8 = 3;

/// Milliseconds between two words of a leader; openraft gives up on an answer after so long, so it is longer than the way
/// there and back between two homes.
pub const HEARTBEAT_MS: u64 = 150;
/// Milliseconds until an election after a leader's lease; the upper end is also the lease.
pub const ELECTION_MS: (u64, u64) = (350, 650);
/// Milliseconds until the outcome of a proposal counts as unknown: two elections.
pub const WAIT_MS: u64 = 10_000;
/// Milliseconds for a piece of a snapshot: slow lines at home.
pub const CHUNK_WAIT_MS: u64 = 30_000;
/// Commands under way at once.
pub const PROPOSALS_MAX: usize = 256;
/// Entries sent together.
pub const APPEND_ENTRIES_MAX: u64 = 256;
/// Bytes of entries sent together; one entry may be longer. openraft gives up on them after one heartbeat, and this much
/// must pass a line of 10 Mbit/s in that time.
pub const APPEND_LEN_MAX: usize = 128 << 10;
/// Bytes of one message between nodes: the longest entry, and room around it.
pub const FRAME_LEN_MAX: usize = COMMAND_LEN_MAX + (2 << 20);

const _: () = assert!(LEASE_MS > 3 * HEARTBEAT_MS);
const _: () = assert!(ELECTION_MS.0 > 2 * HEARTBEAT_MS && ELECTION_MS.0 < ELECTION_MS.1);
const _: () = assert!(WAIT_MS > 2 * (ELECTION_MS.1 + ELECTION_MS.1));
const _: () = assert!(FRAME_LEN_MAX > COMMAND_LEN_MAX + APPEND_LEN_MAX);
const _: () = assert!(FRAME_LEN_MAX as u64 > CHUNK_LEN_MAX * 2);
const _: () = assert!(PLAN_REMOVE_MAX + 2 * PLAN_COPY_MAX + PLAN_STAGE_MAX < PLAN_MAX);
