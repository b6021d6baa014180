//! The target protocol, version 1: the words that the server and its adapter share. `docs/target-protocol.md` is the
//! page from which others write either side.

use serde::{Deserialize, Serialize};
use zoneward_sectors::crypto::Secret32;
use zoneward_sectors::ids::{CopyId, Digest, TargetId, ZoneAlias};
use zoneward_sectors::stripes::{BLOCK_LEN, PART_WINDOWS, Part, Span, block_of, tag_of};

use crate::errors::TargetError;
use crate::limits::PROOF_SPANS_MAX;
use crate::target::SectorReader;

/// Version that a capability document tells, and the first part of every path.
pub const VERSION: u32 = 1;
pub(crate) const ROOT: &str = "/v1";
/// The name of the one kind of proof.
pub(crate) const STRIPES: &str = "blake3-stripes";

/// Fields of draft-ietf-httpbis-resumable-upload-09.
pub(crate) const UPLOAD_OFFSET: &str = "upload-offset";
pub(crate) const UPLOAD_COMPLETE: &str = "upload-complete";
pub(crate) const UPLOAD_LIMIT: &str = "upload-limit";
pub(crate) const PARTIAL_UPLOAD: &str = "application/partial-upload";
/// 32 hex digits that a writer chose: it alone appends to the sector while its hold lasts.
pub(crate) const WRITER: &str = "zoneward-writer";
/// A number that rises with each writer whom the zone gives a sector to: a later one need not wait for an earlier one.
pub(crate) const TURN: &str = "zoneward-turn";
pub(crate) const PROBLEM: &str = "application/problem+json";

/// What a target server tells of itself and of the account that asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    pub protocol: u32,
    pub target: TargetId,
    /// Every sector takes the room of its whole class.
    pub fixed_sectors: bool,
    /// Largest class, as log2 of bytes.
    pub max_class_log2: u8,
    /// What was acknowledged is kept over interruptions of either side.
    pub resume: bool,
    /// Kinds of proof that it answers: [`STRIPES`].
    pub proofs: Vec<String>,
    /// Days, on the server's credited clock, that a removed sector is kept.
    pub lock_days: u32,
    /// Seconds that a writer's hold lasts without a sign of life.
    pub writer_hold_s: u64,
    /// Most bytes of one append.
    pub append_len_max: u64,
    /// Bytes that this account can still write.
    pub free_bytes: u64,
    /// Bytes that this account may keep; none: as much as the disk holds.
    #[serde(default)]
    pub quota_bytes: Option<u64>,
    /// Bytes that it keeps, removed ones within their lock included.
    pub used_bytes: u64,
    /// What the operator asks for, in the operator's words.
    #[serde(default)]
    pub price: Option<Price>,
    /// Milliseconds since 1970 at which the token ends.
    #[serde(default)]
    pub expires_ms: Option<u64>,
    /// What this token may do: `writer`, `auditor`, `marker`.
    pub roles: Vec<Role>,
}

/// A price as the operator states it. Text, because nothing is computed from it here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// ISO 4217.
    pub currency: String,
    /// Decimal number, for a GiB and month.
    pub gib_month: String,
}

/// What a token lets its bearer do. None can purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Begin, append, seal, put objects, take removed sectors back.
    Writer,
    /// Read, list, prove.
    Auditor,
    /// Mark sectors for removal.
    Marker,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Writer, Role::Auditor, Role::Marker];

    pub fn name(self) -> &'static str {
        match self {
            Role::Writer => "writer",
            Role::Auditor => "auditor",
            Role::Marker => "marker",
        }
    }

    pub fn parse(text: &str) -> Result<Role, String> {
        let all = Role::ALL.into_iter();
        all.clone().find(|r| r.name() == text).ok_or_else(|| "writer, auditor or marker".to_owned())
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Zones {
    pub zones: Vec<ZoneAlias>,
}

/// One page of a listing, in the order of copies.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Page {
    pub sectors: Vec<(CopyId, u64)>,
    pub foreign: u64,
    /// Ask again with `after` = the last copy of this page.
    pub more: bool,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub incoming: Vec<CopyId>,
    pub more: bool,
}

/// A sector that is kept only until its lock ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub copy: CopyId,
    pub len: u64,
    /// Seconds of credited time until it is purged.
    pub locked_s: u64,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RemovedList {
    pub removed: Vec<Removed>,
}

/// A challenge: some windows of a sealed sector, and the key that says which block of each is wanted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// 32 bytes in hex, told once.
    key: Digest,
    /// Offset, length and stride of each stretch of windows, in order.
    spans: Vec<(u64, u64, u64)>,
    /// The first window that is asked for, counted over all spans, and how many.
    first: u64,
    count: u64,
}

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Challenge({} windows from {})", self.count, self.first)
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub digest: Digest,
}

/// What the last scrub found in a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Seconds of credited time since it ended; none: none has ended yet.
    pub age_s: Option<u64>,
    pub sectors: u64,
    /// Sealed sectors whose bytes are no longer those that were received.
    pub damaged: Vec<CopyId>,
    /// Sealed sectors without hashes of their own: put there by other ways than this server.
    pub unknown: u64,
}

/// A refusal: problem details (RFC 9457) with a code of ours.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub code: Code,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "expected-offset")]
    pub expected_offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "provided-offset")]
    pub provided_offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_s: Option<u64>,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Code {
    /// No token, an unknown or expired one.
    Unauthorized,
    /// The token's role does not cover it, or the zone is another account's.
    Forbidden,
    NotFound,
    /// Another writer holds it, or too many are open.
    Busy,
    /// The bytes would not stand where the sector ends.
    MismatchingOffset,
    /// The hold ended and what was begun is not this writer's.
    NotHeld,
    TooLarge,
    /// The quota is used up.
    Quota,
    /// The disk is full.
    Full,
    Locked,
    /// Something that the server did not make stands in its place.
    Foreign,
    /// The store behind the server is not there.
    Away,
    BadRequest,
    Store,
}

impl Code {
    pub fn status(self) -> u16 {
        match self {
            Code::Unauthorized => 401,
            Code::Forbidden => 403,
            Code::NotFound => 404,
            Code::Busy | Code::MismatchingOffset | Code::NotHeld => 409,
            Code::TooLarge => 413,
            Code::Locked => 423,
            Code::Quota | Code::Full => 507,
            Code::Away => 503,
            Code::BadRequest => 400,
            Code::Foreign | Code::Store => 500,
        }
    }
}

impl Challenge {
    /// Asks for `count` windows from number `first` on.
    pub fn new(key: &Secret32, spans: &[Span], first: u64, count: u64) -> Self {
        let spans = spans.iter().map(|s| (s.offset, s.len, s.stride)).collect();
        Self { key: Digest(key.0), spans, first, count }
    }

    /// The right answer: the digest of these windows over the bytes of the sector.
    pub fn answer(&self, copy: CopyId, sector: &dyn SectorReader) -> Result<Digest, TargetError> {
        let key = Secret32(self.key.0);
        let mut part = Part::new(&key, copy, self.first);
        let (mut block, mut skip, mut left) = ([0; BLOCK_LEN], self.first, self.count);
        for (offset, len, stride) in &self.spans {
            let span = Span { offset: *offset, len: *len, stride: *stride };
            let windows = span.windows();
            for w in skip.min(windows)..windows.min(skip.saturating_add(left)) {
                let (at, len) = span.window(w);
                let (within, n) = block_of(&key, at, len);
                let block = block.get_mut(..n).unwrap_or_default();
                sector.read_at(block, at + within)?;
                part.add(&tag_of(&key, block));
                left -= 1;
            }
            skip = skip.saturating_sub(windows);
        }
        Ok(part.digest())
    }

    /// Bytes that are read for it at most.
    pub(crate) fn bytes(&self) -> u64 {
        self.count.saturating_mul(BLOCK_LEN as u64)
    }

    /// Whether a server has to answer it: windows that exist, and not more than the limits.
    pub(crate) fn fits(&self) -> bool {
        let windows = self.spans.iter().try_fold(0u64, |sum, &(offset, len, stride)| {
            offset.checked_add(len).filter(|_| len > 0 && stride > 0)?;
            sum.checked_add(len.div_ceil(stride))
        });
        let end = self.first.checked_add(self.count);
        let asked = 1..=PART_WINDOWS;
        self.spans.len() <= PROOF_SPANS_MAX && asked.contains(&self.count) && end.is_some_and(|e| windows >= Some(e))
    }
}
