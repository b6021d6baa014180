//! The frames, to the byte (`docs/transport.md`): pure encoders and decoders, no I/O.
//!
//! All numbers are little-endian. Every frame starts with four bytes that name it; reserved bytes are zero.

use zoneward_sectors::ids::{NodeId, ZoneId};

use crate::limits::{BULK_LEN_MAX, DEADLINE_MS_MAX, RPC_BODY_MAX, TEXT_LEN_MAX};

/// The protocol that this program speaks.
pub const VERSION: u16 = 1;
/// The oldest protocol that this program speaks.
pub const VERSION_MIN: u16 = 1;

pub(crate) const HELLO_LEN: usize = 72;
pub(crate) const REQUEST_LEN: usize = 20;
pub(crate) const RESPONSE_LEN: usize = 16;
pub(crate) const BULK_OPEN_LEN: usize = 64;
pub(crate) const MAGIC_LEN: usize = 4;

pub(crate) const HELLO: [u8; MAGIC_LEN] = *b"zwhi";
pub(crate) const REQUEST: [u8; MAGIC_LEN] = *b"zwrq";
pub(crate) const RESPONSE: [u8; MAGIC_LEN] = *b"zwrs";
pub(crate) const BULK_OPEN: [u8; MAGIC_LEN] = *b"zwbo";
/// Follows the last byte of a bulk stream: the sender says that this was all.
pub(crate) const BULK_END: [u8; MAGIC_LEN] = *b"zwbe";

/// Why bytes from a peer are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the frame starts with {got:02x?}, not with {want:?}: the peer does not speak this protocol")]
    Magic { got: [u8; 4], want: &'static str },
    #[error("the frame has version {got}, this node speaks {VERSION_MIN} to {VERSION}: upgrade the older node")]
    Version { got: u16 },
    #[error("the {what} of {got} bytes is over the limit of {max}")]
    TooLarge { what: &'static str, got: u64, max: u64 },
    #[error("the frame is damaged: {0}")]
    Damaged(&'static str),
    #[error("the peer stopped in the middle of a frame")]
    Cut,
}

/// How an answer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// Done; the body is the answer.
    Ok = 0,
    /// No version in common.
    WrongVersion = 1,
    /// Not a frame, or not all of it.
    BadFrame = 2,
    /// The body is over the limit.
    TooLarge = 3,
    /// Nobody serves this kind of call or purpose of stream.
    UnknownKind = 4,
    /// Not done in time; it may still have happened.
    Deadline = 5,
    /// No room now.
    Busy = 6,
    /// The service said no.
    Refused = 7,
    /// The peer belongs to another zone.
    WrongZone = 8,
    /// The peer's key is not that of the node it says it is, or it wanted another node.
    WrongNode = 9,
    /// The peer shows an earlier start than it showed before: its disk was put back.
    StaleIncarnation = 10,
    /// The service failed.
    Failed = 11,
    /// No such invite is open here: another zone's, used, or closed.
    InviteUnknown = 12,
    /// The invite has expired.
    InviteExpired = 13,
    /// The proof does not stand under the invite's secret.
    InviteProof = 14,
    /// The zone did not take the invite: it was used.
    InviteUsed = 15,
}

impl Status {
    pub(crate) fn from_u16(n: u16) -> Option<Self> {
        use Status::*;
        let all = [
            Ok,
            WrongVersion,
            BadFrame,
            TooLarge,
            UnknownKind,
            Deadline,
            Busy,
            Refused,
            WrongZone,
            WrongNode,
            StaleIncarnation,
            Failed,
            InviteUnknown,
            InviteExpired,
            InviteProof,
            InviteUsed,
        ];
        all.get(usize::from(n)).copied()
    }
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Retry {
    /// The same question gets the same answer.
    Never = 0,
    /// After a while.
    Later = 1,
    /// After a person did something.
    Operator = 2,
}

/// First words of either side on a connection. Its layout never changes, so that any two versions understand the
/// refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub version_min: u16,
    pub version_max: u16,
    pub zone: ZoneId,
    pub node: NodeId,
    /// Whom the sender believes to talk to.
    pub peer: NodeId,
    pub incarnation: u64,
    pub revision: u64,
}

impl Hello {
    pub fn to_bytes(self) -> [u8; HELLO_LEN] {
        let mut b = [0u8; HELLO_LEN];
        b[..4].copy_from_slice(&HELLO);
        b[4..6].copy_from_slice(&self.version_min.to_le_bytes());
        b[6..8].copy_from_slice(&self.version_max.to_le_bytes());
        b[8..24].copy_from_slice(&self.zone.0);
        b[24..40].copy_from_slice(&self.node.0);
        b[40..56].copy_from_slice(&self.peer.0);
        b[56..64].copy_from_slice(&self.incarnation.to_le_bytes());
        b[64..72].copy_from_slice(&self.revision.to_le_bytes());
        b
    }

    pub fn parse(b: &[u8; HELLO_LEN]) -> Result<Self, FrameError> {
        magic(b, HELLO, "zwhi")?;
        let hello = Self {
            version_min: u16_at(b, 4),
            version_max: u16_at(b, 6),
            zone: ZoneId(array_at(b, 8)),
            node: NodeId(array_at(b, 24)),
            peer: NodeId(array_at(b, 40)),
            incarnation: u64::from_le_bytes(array_at(b, 56)),
            revision: u64::from_le_bytes(array_at(b, 64)),
        };
        if hello.version_min > hello.version_max {
            return Err(FrameError::Damaged("the lowest version is above the highest"));
        }
        Ok(hello)
    }

    /// The version both sides speak, if there is one.
    pub fn common_version(&self) -> Option<u16> {
        let v = self.version_max.min(VERSION);
        (v >= self.version_min && v >= VERSION_MIN).then_some(v)
    }
}

/// Header of a call; the body follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub kind: u16,
    pub deadline_ms: u32,
    pub body_len: u32,
}

impl Request {
    pub fn to_bytes(self) -> [u8; REQUEST_LEN] {
        let mut b = [0u8; REQUEST_LEN];
        b[..4].copy_from_slice(&REQUEST);
        b[4..6].copy_from_slice(&VERSION.to_le_bytes());
        b[6..8].copy_from_slice(&self.kind.to_le_bytes());
        b[12..16].copy_from_slice(&self.deadline_ms.to_le_bytes());
        b[16..20].copy_from_slice(&self.body_len.to_le_bytes());
        b
    }

    pub fn parse(b: &[u8; REQUEST_LEN]) -> Result<Self, FrameError> {
        magic(b, REQUEST, "zwrq")?;
        version(b)?;
        zero(&b[8..12])?;
        let request = Self {
            kind: u16_at(b, 6),
            deadline_ms: u32::from_le_bytes(array_at(b, 12)),
            body_len: u32::from_le_bytes(array_at(b, 16)),
        };
        if request.deadline_ms == 0 || request.deadline_ms > DEADLINE_MS_MAX {
            return Err(FrameError::Damaged("the deadline is zero or over the limit"));
        }
        limit("body", u64::from(request.body_len), RPC_BODY_MAX as u64)?;
        Ok(request)
    }
}

/// Header of every answer; the body follows. The body of a refusal is its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Response {
    pub status: Status,
    pub retry: Retry,
    pub body_len: u32,
}

impl Response {
    pub fn to_bytes(self) -> [u8; RESPONSE_LEN] {
        let mut b = [0u8; RESPONSE_LEN];
        b[..4].copy_from_slice(&RESPONSE);
        b[4..6].copy_from_slice(&VERSION.to_le_bytes());
        b[6..8].copy_from_slice(&(self.status as u16).to_le_bytes());
        b[8..10].copy_from_slice(&(self.retry as u16).to_le_bytes());
        b[12..16].copy_from_slice(&self.body_len.to_le_bytes());
        b
    }

    /// `body_max` is the limit of an answer where all went well; a refusal's text has its own.
    pub fn parse(b: &[u8; RESPONSE_LEN], body_max: usize) -> Result<Self, FrameError> {
        magic(b, RESPONSE, "zwrs")?;
        version(b)?;
        zero(&b[10..12])?;
        let status = Status::from_u16(u16_at(b, 6)).ok_or(FrameError::Damaged("unknown status"))?;
        let retry = match u16_at(b, 8) {
            0 => Retry::Never,
            1 => Retry::Later,
            2 => Retry::Operator,
            _ => return Err(FrameError::Damaged("unknown advice about trying again")),
        };
        let body_len = u32::from_le_bytes(array_at(b, 12));
        let max = if status == Status::Ok { body_max } else { TEXT_LEN_MAX };
        limit("answer", u64::from(body_len), max as u64)?;
        Ok(Self { status, retry, body_len })
    }
}

/// What a bulk stream carries; `length` bytes follow, then the end mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkOpen {
    /// Which service receives it.
    pub purpose: u16,
    /// What it is about; the meaning is the service's (a copy, a sector, a snapshot).
    pub id: [u8; 16],
    /// A second id, or zero.
    pub id2: [u8; 16],
    /// Where in that thing the first byte belongs.
    pub offset: u64,
    /// Bytes that follow.
    pub length: u64,
}

impl BulkOpen {
    pub(crate) fn to_bytes(self) -> [u8; BULK_OPEN_LEN] {
        let mut b = [0u8; BULK_OPEN_LEN];
        b[..4].copy_from_slice(&BULK_OPEN);
        b[4..6].copy_from_slice(&VERSION.to_le_bytes());
        b[6..8].copy_from_slice(&self.purpose.to_le_bytes());
        b[16..32].copy_from_slice(&self.id);
        b[32..48].copy_from_slice(&self.id2);
        b[48..56].copy_from_slice(&self.offset.to_le_bytes());
        b[56..64].copy_from_slice(&self.length.to_le_bytes());
        b
    }

    pub(crate) fn parse(b: &[u8; BULK_OPEN_LEN]) -> Result<Self, FrameError> {
        magic(b, BULK_OPEN, "zwbo")?;
        version(b)?;
        zero(&b[8..16])?;
        let open = Self {
            purpose: u16_at(b, 6),
            id: array_at(b, 16),
            id2: array_at(b, 32),
            offset: u64::from_le_bytes(array_at(b, 48)),
            length: u64::from_le_bytes(array_at(b, 56)),
        };
        open.check()?;
        Ok(open)
    }

    pub(crate) fn check(&self) -> Result<(), FrameError> {
        limit("bulk stream", self.length, BULK_LEN_MAX)?;
        if self.offset.checked_add(self.length).is_none() {
            return Err(FrameError::Damaged("offset and length run over"));
        }
        Ok(())
    }
}

fn magic(b: &[u8], want: [u8; MAGIC_LEN], name: &'static str) -> Result<(), FrameError> {
    let got: [u8; MAGIC_LEN] = array_at(b, 0);
    if got == want { Ok(()) } else { Err(FrameError::Magic { got, want: name }) }
}

fn version(b: &[u8]) -> Result<(), FrameError> {
    let got = u16_at(b, 4);
    if (VERSION_MIN..=VERSION).contains(&got) { Ok(()) } else { Err(FrameError::Version { got }) }
}

fn zero(b: &[u8]) -> Result<(), FrameError> {
    if b.iter().all(|b| *b == 0) { Ok(()) } else { Err(FrameError::Damaged("reserved bytes are not zero")) }
}

fn limit(what: &'static str, got: u64, max: u64) -> Result<(), FrameError> {
    if got <= max { Ok(()) } else { Err(FrameError::TooLarge { what, got, max }) }
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(b, at))
}

/// `N` bytes from `at`; callers pass places inside frames of fixed length.
fn array_at<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut out = [0u8; N];
    out.copy_from_slice(&b[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_decoded_encodes_to_the_same_bytes(raw in any::<[u8; HELLO_LEN]>(), fix in 0u8..16) {
            // Half right frames reach deeper than noise does.
            let mut b = raw;
            for (bit, m) in [(1, HELLO), (2, REQUEST), (4, RESPONSE), (8, BULK_OPEN)] {
                if fix & bit != 0 { b[..4].copy_from_slice(&m); b[4..6].copy_from_slice(&1u16.to_le_bytes()); }
            }
            if fix & 1 == 0 && fix != 0 { b[8..12].fill(0); b[12..16].fill(0); }
            if let Ok(h) = Hello::parse(&b) { prop_assert_eq!(h.to_bytes(), b); }
            let r: [u8; REQUEST_LEN] = array_at(&b, 0);
            if let Ok(h) = Request::parse(&r) { prop_assert_eq!(h.to_bytes(), r); }
            let r: [u8; RESPONSE_LEN] = array_at(&b, 0);
            if let Ok(h) = Response::parse(&r, RPC_BODY_MAX) { prop_assert_eq!(h.to_bytes(), r); }
            let r: [u8; BULK_OPEN_LEN] = array_at(&b, 0);
            if let Ok(h) = BulkOpen::parse(&r) { prop_assert_eq!(h.to_bytes(), r); }
        }

        #[test]
        fn frames_come_back(kind: u16, deadline_ms in 1..=DEADLINE_MS_MAX, body_len in 0..=RPC_BODY_MAX as u32) {
            let r = Request { kind, deadline_ms, body_len };
            prop_assert_eq!(Request::parse(&r.to_bytes()), Ok(r));
        }
    }

    #[test]
    fn the_bytes_lie_where_the_page_says() {
        let r = Request { kind: 0x0201, deadline_ms: 0x0102, body_len: 3 };
        assert_eq!(r.to_bytes(), *b"zwrq\x01\0\x01\x02\0\0\0\0\x02\x01\0\0\x03\0\0\0");
        let r = Response { status: Status::UnknownKind, retry: Retry::Operator, body_len: 5 };
        assert_eq!(r.to_bytes(), *b"zwrs\x01\0\x04\0\x02\0\0\0\x05\0\0\0");
        assert_eq!(Response::parse(&r.to_bytes(), 0), Ok(r));
        // The example of the page.
        let page = include_str!("../../docs/transport.md");
        let question = Request { kind: 1, deadline_ms: 250, body_len: 2 }.to_bytes();
        let answer = Response { status: Status::Ok, retry: Retry::Never, body_len: 2 }.to_bytes();
        for bytes in [[&question[..], b"hi"].concat(), [&answer[..], b"ok"].concat()] {
            let hex = zoneward_sectors::ids::hex(&bytes);
            assert!(page.lines().any(|l| l.replace(' ', "") == hex), "the page does not show {hex}");
        }
    }

    #[test]
    fn each_kind_of_wrong_has_its_own_error() {
        let good = Request { kind: 1, deadline_ms: 1, body_len: 1 }.to_bytes();
        let bent = |at: usize, v: u8| {
            let mut b = good;
            b[at] = v;
            Request::parse(&b)
        };
        assert!(matches!(bent(0, b'x'), Err(FrameError::Magic { .. })));
        assert_eq!(bent(4, 9), Err(FrameError::Version { got: 9 }));
        assert_eq!(bent(4, 0), Err(FrameError::Version { got: 0 }));
        assert!(matches!(bent(8, 1), Err(FrameError::Damaged(_))));
        assert!(matches!(bent(15, 1), Err(FrameError::Damaged(_))));
        assert!(matches!(bent(19, 1), Err(FrameError::TooLarge { .. })));
        let long = Response { status: Status::Refused, retry: Retry::Never, body_len: TEXT_LEN_MAX as u32 + 1 };
        assert!(matches!(Response::parse(&long.to_bytes(), RPC_BODY_MAX), Err(FrameError::TooLarge { .. })));
        let open = BulkOpen { purpose: 1, id: [0; 16], id2: [0; 16], offset: u64::MAX, length: 1 };
        assert!(matches!(BulkOpen::parse(&open.to_bytes()), Err(FrameError::Damaged(_))));
    }

    #[test]
    fn versions_meet_in_the_highest_both_speak() {
        let h = |version_min, version_max| Hello {
            version_min,
            version_max,
            zone: ZoneId([1; 16]),
            node: NodeId([2; 16]),
            peer: NodeId([3; 16]),
            incarnation: 4,
            revision: 5,
        };
        assert_eq!(h(1, 7).common_version(), Some(1));
        assert_eq!(h(2, 7).common_version(), None);
        assert_eq!(h(0, 0).common_version(), None);
        assert!(Hello::parse(&h(2, 1).to_bytes()).is_err());
    }
}
