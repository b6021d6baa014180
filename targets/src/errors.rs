//! What can go wrong at a target: what was tried, on what, why, and whether to try again.

use std::fmt;
use std::io;

use rustix::io::Errno;
use zoneward_sectors::ids::TargetId;

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    CreateTarget,
    OpenTarget,
    Open,
    Write,
    Seal,
    Abandon,
    Discard,
    Read,
    List,
    Remove,
    PutObject,
    GetObject,
    Prove,
    /// Take back what was removed and is still kept.
    TakeBack,
    /// Ask the target about itself.
    Ask,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::CreateTarget => "make the target",
            Op::OpenTarget => "open the target",
            Op::Open => "begin",
            Op::Write => "write",
            Op::Seal => "seal",
            Op::Abandon => "abandon",
            Op::Discard => "discard",
            Op::Read => "read",
            Op::List => "list",
            Op::Remove => "remove",
            Op::PutObject => "put",
            Op::GetObject => "get",
            Op::Prove => "prove",
            Op::TakeBack => "take back",
            Op::Ask => "ask",
        })
    }
}

/// When the same call may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Never: something else must be asked for.
    Never,
    /// After a while, without anybody's help.
    Later,
    /// After a person did what the message says.
    Operator,
}

/// Why a target did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The target works, but does not hold this.
    #[error("cannot {op} {what}: the target does not hold it")]
    NotFound { op: Op, what: String },
    /// Bytes beyond the end were asked for; nothing was made up for them.
    #[error("cannot {op} {wanted} bytes at {offset} of {what}: it ends at byte {have}")]
    Truncated { op: Op, what: String, offset: u64, wanted: u64, have: u64 },
    /// The sector has another length than the caller says. Nothing was changed.
    #[error("cannot {op} {what}: it should be {expected} bytes long and is {found}")]
    WrongLength { op: Op, what: String, expected: u64, found: u64 },
    /// The target is not where it was: no marker, the marker of another target, or another directory than before.
    /// Nothing was written.
    #[error("cannot {op} {what}: the target is not there ({reason}). Plug in or mount its disk, then try again")]
    Unplugged { op: Op, what: String, reason: String },
    /// The folder is already the target of a zone, under another id.
    #[error("cannot {op} {what}: it is already the target {found}. Choose another folder")]
    OtherTarget { op: Op, what: String, found: TargetId },
    /// The marker is there but cannot be understood.
    #[error("cannot {op} {what}: zoneward-target.json in it is not a marker of this release ({reason})")]
    BadMarker { op: Op, what: String, reason: String },
    /// Somebody else is writing it.
    #[error("cannot {op} {what}: another writer holds it")]
    Busy { op: Op, what: String },
    /// No room is left, or the quota is used up.
    #[error("cannot {op} {what}: the target is full. Free some room on it, or add another target")]
    Full { op: Op, what: String, source: io::Error },
    /// The target refuses: permissions, or it is mounted read-only.
    #[error("cannot {op} {what}: the target refuses ({source}). Let this user read and write it")]
    Denied { op: Op, what: String, source: io::Error },
    /// Something that Zoneward did not make stands where one of its files belongs. It was not touched or followed.
    #[error("cannot {op} {what}: {reason} stands in its place. Look who put it there, and remove it")]
    Foreign { op: Op, what: String, reason: &'static str },
    /// Longer than the limit.
    #[error("cannot {op} {what}: {len} is more than the limit of {limit}")]
    TooLarge { op: Op, what: String, len: u64, limit: u64 },
    /// An earlier write or sync through this handle failed, so what it wrote cannot be trusted to be there.
    #[error("cannot {op} {what}: an earlier write of it failed. Begin it again")]
    Poisoned { op: Op, what: String },
    /// The target does not take the credentials, or needs some that were not given. No secret is in the reason.
    #[error("cannot {op} {what}: its credentials are refused ({reason}). Give it the right ones")]
    Auth { op: Op, what: String, reason: String },
    /// The target asks to be left alone for a while; it was asked again as often as is fair.
    #[error("cannot {op} {what}: the target is asked too often{}", wait_text(*.wait_ms))]
    Throttled { op: Op, what: String, wait_ms: Option<u64> },
    /// Nobody answers, or the connection does not hold.
    #[error("cannot {op} {what}: the target does not answer ({reason})")]
    Unreachable { op: Op, what: String, reason: String },
    /// The target answers what makes no sense: it is another kind of server, or it lies.
    #[error(
        "cannot {op} {what}: the target answers what makes no sense ({reason}). Look at its URL, and at who serves it"
    )]
    Protocol { op: Op, what: String, reason: String },
    /// What answers there does not hold the key that was pinned. Nothing secret was sent to it.
    #[error(
        "cannot {op} {what}: another server than the pinned one answers ({reason}). Ask its operator before you \
             trust it"
    )]
    Untrusted { op: Op, what: String, reason: String },
    /// The target keeps what was removed until its lock ends.
    #[error("cannot {op} {what}: the target's lock keeps it for {left_s} more seconds")]
    Locked { op: Op, what: String, left_s: u64 },
    /// The target takes bytes only at the end of what it holds.
    #[error("cannot {op} {what} at {offset}: the target appends only, and it ends at byte {end}")]
    NotAtEnd { op: Op, what: String, offset: u64, end: u64 },
    /// The store failed.
    #[error("cannot {op} {what}: {source}")]
    Io { op: Op, what: String, source: io::Error },
}

fn wait_text(wait_ms: Option<u64>) -> String {
    wait_ms.map_or_else(String::new, |ms| format!("; it asks to wait {} seconds", ms.div_ceil(1000)))
}

impl TargetError {
    /// Sorts an error of the operating system.
    pub(crate) fn from_io(op: Op, what: impl fmt::Display, source: io::Error) -> Self {
        let what = what.to_string();
        let Some(errno) = source.raw_os_error().map(Errno::from_raw_os_error) else {
            return TargetError::Io { op, what, source };
        };
        match errno {
            Errno::NOENT => TargetError::NotFound { op, what },
            Errno::NOSPC | Errno::DQUOT => TargetError::Full { op, what, source },
            Errno::ACCESS | Errno::PERM | Errno::ROFS => TargetError::Denied { op, what, source },
            Errno::LOOP => TargetError::Foreign { op, what, reason: "a symbolic link" },
            Errno::NOTDIR => TargetError::Foreign { op, what, reason: "something that is not a directory" },
            Errno::ISDIR => TargetError::Foreign { op, what, reason: "a directory" },
            Errno::NODEV | Errno::NXIO | Errno::STALE | Errno::NOTCONN => {
                TargetError::Unplugged { op, what, reason: source.to_string() }
            }
            _ => TargetError::Io { op, what, source },
        }
    }

    /// Says at which target it happened, unless it says so already.
    pub(crate) fn on(mut self, url: &str) -> Self {
        let what = match &mut self {
            TargetError::NotFound { what, .. }
            | TargetError::Truncated { what, .. }
            | TargetError::WrongLength { what, .. }
            | TargetError::Unplugged { what, .. }
            | TargetError::OtherTarget { what, .. }
            | TargetError::BadMarker { what, .. }
            | TargetError::Busy { what, .. }
            | TargetError::Full { what, .. }
            | TargetError::Denied { what, .. }
            | TargetError::Foreign { what, .. }
            | TargetError::TooLarge { what, .. }
            | TargetError::Poisoned { what, .. }
            | TargetError::Auth { what, .. }
            | TargetError::Throttled { what, .. }
            | TargetError::Unreachable { what, .. }
            | TargetError::Protocol { what, .. }
            | TargetError::Untrusted { what, .. }
            | TargetError::Locked { what, .. }
            | TargetError::NotAtEnd { what, .. }
            | TargetError::Io { what, .. } => what,
        };
        if !what.contains(url) {
            *what = format!("{what} on {url}");
        }
        self
    }

    /// When the same call may succeed.
    pub fn retry(&self) -> Retry {
        match self {
            TargetError::NotFound { .. }
            | TargetError::Truncated { .. }
            | TargetError::WrongLength { .. }
            | TargetError::TooLarge { .. }
            | TargetError::NotAtEnd { .. }
            | TargetError::Poisoned { .. } => Retry::Never,
            TargetError::Busy { .. }
            | TargetError::Throttled { .. }
            | TargetError::Unreachable { .. }
            | TargetError::Locked { .. } => Retry::Later,
            TargetError::Unplugged { .. }
            | TargetError::OtherTarget { .. }
            | TargetError::BadMarker { .. }
            | TargetError::Full { .. }
            | TargetError::Denied { .. }
            | TargetError::Auth { .. }
            | TargetError::Untrusted { .. }
            | TargetError::Protocol { .. }
            | TargetError::Foreign { .. } => Retry::Operator,
            TargetError::Io { source, .. } => match source.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::FBIG | Errno::INVAL | Errno::NAMETOOLONG) => Retry::Never,
                _ => Retry::Later,
            },
        }
    }

    /// True if the target answered that it does not hold what was asked for.
    pub fn is_not_found(&self) -> bool {
        matches!(self, TargetError::NotFound { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_are_sorted_by_what_helps() {
        let of = |e: Errno| TargetError::from_io(Op::Write, "sector x", io::Error::from_raw_os_error(e.raw_os_error()));
        assert!(of(Errno::NOENT).is_not_found());
        assert!(matches!(of(Errno::DQUOT), TargetError::Full { .. }));
        assert!(matches!(of(Errno::STALE), TargetError::Unplugged { .. }));
        assert!(matches!(of(Errno::LOOP), TargetError::Foreign { .. }));
        let table = [
            (Errno::NOENT, Retry::Never),
            (Errno::FBIG, Retry::Never),
            (Errno::IO, Retry::Later),
            (Errno::NOSPC, Retry::Operator),
            (Errno::ROFS, Retry::Operator),
            (Errno::NODEV, Retry::Operator),
        ];
        for (errno, retry) in table {
            assert_eq!(of(errno).retry(), retry, "{errno:?}");
        }
        assert_eq!(TargetError::Busy { op: Op::Open, what: String::new() }.retry(), Retry::Later);
    }

    #[test]
    fn messages_say_what_was_tried_on_what_and_what_to_do() {
        let e = TargetError::from_io(Op::Seal, "sector 12", io::Error::from_raw_os_error(28));
        assert_eq!(
            e.to_string(),
            "cannot seal sector 12: the target is full. Free some room on it, or add another target"
        );
        assert!(std::error::Error::source(&e).is_some());
        let told = |e: TargetError| e.on("file:///disk").to_string();
        assert!(told(e).starts_with("cannot seal sector 12 on file:///disk: the target is full"));
        let named = TargetError::NotFound { op: Op::OpenTarget, what: "file:///disk".into() };
        assert_eq!(told(named), "cannot open the target file:///disk: the target does not hold it");
    }
}
