//! Limits of the links between nodes: value, unit, reason. `docs/transport.md` repeats what a peer can see of them.

/// Members of one zone's membership, voters, learners and witnesses together: a zone has 1–7 nodes, the rest is room.
pub const MEMBERS_MAX: usize = 32;
/// Addresses kept for one node: a few networks times two IP versions.
pub const ADDRESSES_MAX: usize = 8;

/// Largest UDP payload sent or taken, bytes. Ten segments go in one system call and must fit one datagram of 65,507
/// bytes: above 6,550 nothing arrives any more.
pub const UDP_PAYLOAD_MAX: u16 = 6_500;
/// Bytes sent before the first was acknowledged: ten packets of the largest size, as RFC 6928 has ten of the usual. With
/// quinn's own 14,720 two large packets fill it, and a close that meets a full window is never sent.
pub const INITIAL_SEND_WINDOW: u64 = 10 * UDP_PAYLOAD_MAX as u64;
/// Smallest UDP payload a path must carry, bytes: the QUIC minimum, to which a black hole falls back.
pub const UDP_PAYLOAD_MIN: u16 = 1_200;
/// A connection that hears nothing for this long is dead, ms: three lost keep-alives and some.
pub const IDLE_MS_MAX: u32 = 10_000;
/// A silent connection says this often that it lives, ms: dead peers are found and firewalls stay open.
pub const KEEP_ALIVE_MS: u64 = 2_500;

/// Bytes in flight towards us on one stream: 100 MB/s at 20 ms; a slow reader holds no more than this.
pub const STREAM_WINDOW: u32 = 2 << 20;
/// Bytes in flight towards us on one connection: every bulk stream may stall and calls still pass.
pub const CONNECTION_WINDOW: u32 = 32 << 20;
/// Bytes in flight towards us before the peer said hello, and in join mode.
pub const STRANGER_WINDOW: u32 = 64 << 10;
/// Bytes sent and not yet acknowledged on one connection.
pub const SEND_WINDOW: u64 = 8 << 20;

/// Bytes of a call's body and of its answer. Larger things go by bulk streams.
pub const RPC_BODY_MAX: usize = 4 << 20;
/// Bytes of request bodies of one peer that are in memory at once.
pub const RPC_BYTES_PER_PEER_MAX: usize = 16 << 20;
/// Calls of one peer that are served at once, but for the consensus; more wait.
pub const RPC_PER_PEER_MAX: usize = 32;
/// Calls of the consensus of one peer that are served at once: they have their own room, so that slow services never
/// delay a heartbeat.
pub const RAFT_PER_PEER_MAX: usize = 8;
/// Bytes of request bodies of the consensus of one peer that are in memory at once.
pub const RAFT_BYTES_PER_PEER_MAX: usize = 8 << 20;
/// Bulk streams of one peer that are received at once; more wait.
pub const BULK_PER_PEER_MAX: usize = 8;
/// Longest deadline of a call, ms: the longest question a node may leave open.
pub const DEADLINE_MS_MAX: u32 = 60_000;
/// A stream that was opened must show its header within this, ms.
pub const HEADER_MS_MAX: u64 = 5_000;
/// Bytes of text in a refusal: a sentence, not a log.
pub const TEXT_LEN_MAX: usize = 1_024;

/// Bytes of one bulk stream: one sector of the largest class with its header and trailer, or any snapshot.
pub const BULK_LEN_MAX: u64 = (64 << 30) + (64 << 20);
/// Bytes of the receiver's final answer on a bulk stream.
pub const BULK_ANSWER_MAX: usize = 64 << 10;
/// A bulk sender that sends no byte for this long has stalled, ms.
pub const BULK_IDLE_MS_MAX: u64 = 60_000;
/// A bulk receiver that takes no byte, or does not say that all is durable, for this long has stalled, ms: a slow disk
/// may sync for minutes.
pub const BULK_STALL_MS_MAX: u64 = 600_000;

/// Handshakes in progress from addresses at which no member was met: strangers wait, members do not.
pub const STRANGER_HANDSHAKES_MAX: usize = 32;
/// Of these, from one address.
pub const STRANGER_HANDSHAKES_PER_IP_MAX: usize = 8;
/// Above this many the sender of a first packet must show that its address is its own.
pub const STRANGER_HANDSHAKES_CHEAP: usize = 8;
/// Handshakes in progress from addresses at which a member was met.
pub const MEMBER_HANDSHAKES_MAX: usize = 32;
/// Addresses remembered as those of members; the oldest goes first.
pub const MEMBER_IPS_MAX: usize = MEMBERS_MAX * ADDRESSES_MAX;
/// First packets that wait to be looked at, and the bytes they may hold together.
pub const INCOMING_MAX: usize = 256;
/// See [`INCOMING_MAX`].
pub const INCOMING_BYTES_MAX: u64 = 4 << 20;
/// A handshake with its hello is done within this, ms, on either side.
pub const HANDSHAKE_MS_MAX: u64 = 5_000;
/// A dial with its hello is done within this for one address, ms: a lost packet or three are repeated within it.
pub const DIAL_MS_MAX: u64 = 3_000;
/// Round trip that is assumed before one was measured, ms: lost first packets are repeated after three of them, so that
/// a peer that was just starting is heard soon.
pub const INITIAL_RTT_MS: u64 = 100;
/// Wait after the first failed dial, ms; doubles with each further one.
pub const BACKOFF_MS_MIN: u64 = 50;
/// Longest wait after failed dials, ms: a node that comes back is heard within about a second.
pub const BACKOFF_MS_MAX: u64 = 1_000;
/// How long a refusal may take to reach the peer before its connection is closed, ms.
pub const LAST_WORD_MS_MAX: u64 = 1_000;

/// Invites open at once on one node.
pub const INVITES_MAX: usize = 16;
/// Characters of an invite: all addresses, twice over; a QR code holds it.
pub const INVITE_TEXT_MAX: usize = 512;
/// Addresses in an invite.
pub const INVITE_ADDRESSES_MAX: usize = 4;
/// Wrong proofs after which an invite is closed: whoever can name it but not prove it attacks it.
pub const JOIN_FAILED_MAX: u32 = 5;
/// Joiners served at once. They count as strangers' handshakes too, so one address cannot take all.
pub const JOINS_MAX: usize = 16;
/// A join from hello to payload, ms: a commit of the zone is part of it.
pub const JOIN_MS_MAX: u64 = 30_000;
/// Bytes of what a joiner is handed.
pub const JOIN_PAYLOAD_MAX: usize = 1 << 20;

/// Messages under way in the in-memory network.
pub const MEMORY_IN_FLIGHT_MAX: usize = 4_096;

const _: () = assert!(UDP_PAYLOAD_MAX as usize * 10 <= 65_507);
const _: () = assert!(IDLE_MS_MAX as u64 > 3 * KEEP_ALIVE_MS);
const _: () = assert!(STREAM_WINDOW as usize * BULK_PER_PEER_MAX <= CONNECTION_WINDOW as usize / 2);
const _: () = assert!(
    RPC_BODY_MAX <= RAFT_BYTES_PER_PEER_MAX
        && RPC_BODY_MAX <= RPC_BYTES_PER_PEER_MAX
        && RPC_BYTES_PER_PEER_MAX <= CONNECTION_WINDOW as usize
);
const _: () = assert!(STRANGER_HANDSHAKES_PER_IP_MAX < JOINS_MAX && JOINS_MAX < STRANGER_HANDSHAKES_MAX);
const _: () = assert!(BULK_ANSWER_MAX <= RPC_BODY_MAX && JOIN_PAYLOAD_MAX <= RPC_BODY_MAX);
const _: () = assert!(TEXT_LEN_MAX <= BULK_ANSWER_MAX);
