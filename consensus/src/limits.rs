//! Limits of the control plane: value, unit, reason.

/// Entries of the log kept in the store: enough to look back at, bounded.
pub const LOG_KEPT: u64 = 10_000;
/// Bytes of entries read or sent together; one entry may be longer.
pub const BATCH_LEN_MAX: usize = 4 << 20;
/// Bytes of one line of a snapshot: a record grows with what belongs to it.
pub const SNAPSHOT_LINE_LEN_MAX: u64 = 256 << 20;
/// Bytes of a snapshot.
pub const SNAPSHOT_LEN_MAX: u64 = EXPORT_LEN_MAX;
/// Bytes of a snapshot sent together.
pub const CHUNK_LEN_MAX: u64 = 1 << 20;
/// Warnings kept for one task; the rest are counted.
pub const WARNINGS_MAX: usize = 1000;
/// Bytes of one command.
pub const COMMAND_LEN_MAX: usize = 64 << 20;
/// Work proposed in one round of planning.
pub const PLAN_MAX: usize = 256;
/// Leftovers to be removed in one round, shared among the targets: the rest waits for the next round.
pub const PLAN_REMOVE_MAX: usize = 64;
/// Copies of data, and again of system sectors, in one round, shared among the targets.
pub const PLAN_COPY_MAX: usize = 64;
/// Bytes of an exported state.
pub const EXPORT_LEN_MAX: u64 = 1 << 30;
/// Bytes of a name that a person gives.
pub const NAME_LEN_MAX: usize = 200;

const _: () = assert!(PLAN_REMOVE_MAX + 2 * PLAN_COPY_MAX < PLAN_MAX);
