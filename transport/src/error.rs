//! What can go wrong between two nodes, and whether trying again helps.

use std::net::SocketAddr;
use std::time::Duration;

use zoneward_sectors::ids::NodeId;

use crate::limits::TEXT_LEN_MAX;
use crate::members::close;
use crate::tls::TlsError;
use crate::wire::{FrameError, Retry, Status};

/// A service's no, as it travels to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Why in a word.
    pub status: Status,
    /// Whether trying again helps.
    pub retry: Retry,
    /// For a person: what was tried, why not, what to do. Cut at [`TEXT_LEN_MAX`] bytes; no secrets.
    pub text: String,
}

impl Refusal {
    /// A service's refusal.
    pub fn new(retry: Retry, text: impl Into<String>) -> Self {
        Self::with(Status::Refused, retry, text)
    }

    pub(crate) fn with(status: Status, retry: Retry, text: impl Into<String>) -> Self {
        let mut text = text.into();
        let mut end = TEXT_LEN_MAX.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Self { status, retry, text }
    }
}

impl From<FrameError> for Refusal {
    fn from(e: FrameError) -> Self {
        let status = match e {
            FrameError::Version { .. } => Status::WrongVersion,
            FrameError::TooLarge { .. } => Status::TooLarge,
            FrameError::Magic { .. } | FrameError::Damaged(_) | FrameError::Cut => Status::BadFrame,
        };
        let retry = if status == Status::WrongVersion { Retry::Operator } else { Retry::Never };
        Self::with(status, retry, e.to_string())
    }
}

/// Why a link broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("it does not take this node's key: this node is not, or no longer, a member for it")]
    KeyRefused,
    #[error("it showed another key than the membership has for it: something else answers at this address")]
    OtherKey,
    #[error("it takes no joining nodes now: no invite is open there")]
    NoJoins,
    #[error("this node closed it: the peer was removed from the zone, or this node is stopping")]
    ClosedHere,
    #[error("another connection took the place of this one: does another machine run with this node's identity?")]
    Replaced,
    #[error("it stopped")]
    Stopped,
    #[error("nothing was heard from it")]
    Silent,
    #[error("it does not know this connection any more: it restarted, or closed it")]
    Forgotten,
    #[error("it is too busy with others")]
    Crowded,
    #[error("{0}")]
    Other(String),
}

/// TLS alert numbers as QUIC carries them (RFC 9001 §4.8).
const ALERT: u64 = 0x100;
const ACCESS_DENIED: u64 = ALERT + 49;
const NO_APPLICATION_PROTOCOL: u64 = ALERT + 120;

impl From<quinn::ConnectionError> for Broken {
    fn from(e: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError::*;
        match e {
            TransportError(e) if u64::from(e.code) == ACCESS_DENIED => Self::OtherKey,
            TransportError(e) => Self::Other(e.to_string()),
            ConnectionClosed(c) => match u64::from(c.error_code) {
                ACCESS_DENIED => Self::KeyRefused,
                NO_APPLICATION_PROTOCOL => Self::NoJoins,
                2 => Self::Crowded, // CONNECTION_REFUSED of RFC 9000.
                _ => Self::Other(c.to_string()),
            },
            ApplicationClosed(c) => match u32::try_from(c.error_code.into_inner()) {
                Ok(close::NOT_MEMBER) => Self::KeyRefused,
                Ok(close::REPLACED) => Self::Replaced,
                Ok(close::SHUTDOWN) => Self::Stopped,
                _ => Self::Other(c.to_string()),
            },
            LocallyClosed => Self::ClosedHere,
            TimedOut => Self::Silent,
            Reset => Self::Forgotten,
            e @ (VersionMismatch | CidsExhausted) => Self::Other(e.to_string()),
        }
    }
}

/// Why one address did not lead to the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("the address {0} cannot be dialed: {1}")]
    Address(SocketAddr, String),
    #[error("no answer from {0} within {1:?}: is the node up, and does a firewall let UDP through?")]
    TimedOut(SocketAddr, Duration),
    #[error("{0} broke the connection off: {1}")]
    Broken(SocketAddr, Broken),
    #[error("{0} refused the connection: {1}")]
    Refused(SocketAddr, Refusal),
    #[error("{0} sent something else than a hello: {1}")]
    Frame(SocketAddr, FrameError),
    #[error("no address of the node is known")]
    NoAddress,
    #[error("the last dial failed and the next is due in {0:?}: {1}")]
    Waiting(Duration, Box<DialError>),
    #[error("{0}")]
    Tls(String),
}

impl From<TlsError> for DialError {
    fn from(e: TlsError) -> Self {
        Self::Tls(e.to_string())
    }
}

/// Why a call or a bulk stream did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("node {0} is not a member of this zone")]
    NotMember(NodeId),
    #[error("node {node} cannot be reached: {source}")]
    Unreachable { node: NodeId, source: DialError },
    #[error("node {node} did not answer within {after:?}; what was asked may still happen")]
    Deadline { node: NodeId, after: Duration },
    #[error("the deadline of {0:?} is zero or over the limit")]
    BadDeadline(Duration),
    #[error(
        "the {what} for node {node} has {got} bytes, over the limit of {max}: send it as a bulk stream or in parts"
    )]
    TooLarge { node: NodeId, what: &'static str, got: u64, max: u64 },
    #[error("node {node} refused: {source}")]
    Refused { node: NodeId, source: Refusal },
    #[error("the link to node {node} broke: {source}; what was asked may still happen")]
    Broken { node: NodeId, source: Broken },
    #[error("node {node} sent an answer that is none: {source}")]
    Frame { node: NodeId, source: FrameError },
    #[error("{got} bytes were given to a bulk stream to node {node} that was opened for {want}")]
    Length { node: NodeId, got: u64, want: u64 },
    #[error("reading what should go to node {node} failed: {text}")]
    Source { node: NodeId, text: String },
    #[error("this node's links are closed")]
    Closed,
}

impl CallError {
    /// Whether trying again helps.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { source, .. } => source.retry(),
            Self::Refused { source, .. } => source.retry,
            Self::Broken { source, .. } => source.retry(),
            Self::Deadline { .. } | Self::Source { .. } => Retry::Later,
            Self::NotMember(_)
            | Self::BadDeadline(_)
            | Self::TooLarge { .. }
            | Self::Frame { .. }
            | Self::Length { .. }
            | Self::Closed => Retry::Never,
        }
    }

    /// Whether the peer does not take this node for a member.
    pub fn key_refused(&self) -> bool {
        let mut dial = match self {
            Self::Broken { source, .. } => return *source == Broken::KeyRefused,
            Self::Unreachable { source, .. } => source,
            _ => return false,
        };
        while let DialError::Waiting(_, last) = dial {
            dial = last;
        }
        matches!(dial, DialError::Broken(_, Broken::KeyRefused))
    }

    /// Whether the peer may have done what was asked all the same: a time-out means unknown, never no.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Deadline { .. } | Self::Broken { .. } | Self::Frame { .. } => true,
            Self::Refused { source, .. } => matches!(source.status, Status::Deadline | Status::Failed),
            _ => false,
        }
    }
}

impl DialError {
    fn retry(&self) -> Retry {
        match self {
            Self::Broken(_, b) => b.retry(),
            Self::Refused(_, r) => r.retry,
            Self::Waiting(_, e) => e.retry(),
            Self::NoAddress | Self::Tls(_) => Retry::Operator,
            Self::Address(..) | Self::TimedOut(..) | Self::Frame(..) => Retry::Later,
        }
    }
}

impl Broken {
    fn retry(&self) -> Retry {
        match self {
            Self::KeyRefused | Self::OtherKey | Self::ClosedHere | Self::Replaced | Self::NoJoins => Retry::Operator,
            Self::Stopped | Self::Silent | Self::Forgotten | Self::Crowded | Self::Other(_) => Retry::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let r = Refusal::new(Retry::Never, "ä".repeat(TEXT_LEN_MAX));
        assert!(r.text.len() <= TEXT_LEN_MAX && r.text.len() > TEXT_LEN_MAX - 4);
    }
}
