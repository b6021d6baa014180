//! `zoneward-target.json`: what makes a directory a target, and tells an empty mount point from the disk itself.

use std::fmt::Display;
use std::io;

use rustix::io::Errno;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::TargetId;

use super::dir::{Dir, Found, Taken};
use crate::errors::{Op, TargetError};
use crate::limits::MARKER_LEN_MAX;

/// Its name in the target's folder.
pub(super) const NAME: &str = crate::marker::NAME;
/// Where it is written before it is put in place.
const NEW_NAME: &str = ".zoneward-target.json.new";

/// The id in the marker; `None` if there is no marker.
pub(super) fn read(root: &Dir, op: Op, what: &dyn Display) -> Result<Option<TargetId>, TargetError> {
    let bad = |reason: String| TargetError::BadMarker { op, what: what.to_string(), reason };
    let io = |e: io::Error| TargetError::from_io(op, what, e);
    let (file, len) = match root.read(NAME).map_err(io)? {
        Found::File(file, st) => (file, u64::try_from(st.st_size).unwrap_or(u64::MAX)),
        Found::Nothing => return Ok(None),
        Found::Foreign(reason) => return Err(TargetError::Foreign { op, what: format!("{NAME} in {what}"), reason }),
    };
    if len > MARKER_LEN_MAX {
        return Err(bad(format!("{len} bytes")));
    }
    let mut bytes = vec![0u8; len as usize];
    let got = fsx::read_full_at(&file, &mut bytes, 0).map_err(io)?;
    bytes.truncate(got);
    crate::marker::parse(&bytes).map(Some).map_err(bad)
}

/// Puts a marker where there is none, durably. Somebody else's that came first wins: the caller reads it again.
pub(super) fn write(root: &Dir, id: TargetId, what: &dyn Display) -> Result<(), TargetError> {
    let op = Op::CreateTarget;
    let io = |e: io::Error| TargetError::from_io(op, what, e);
    let file = match root.take(NEW_NAME).map_err(io)? {
        Taken::Held(file, _) => file,
        Taken::Busy => return Err(TargetError::Busy { op, what: what.to_string() }),
        Taken::Foreign(reason) => {
            return Err(TargetError::Foreign { op, what: format!("{NEW_NAME} in {what}"), reason });
        }
    };
    replace_content(&file, crate::marker::render(id).as_bytes()).map_err(io)?;
    match root.rename_new(NEW_NAME, root, NAME) {
        Err(e) if e.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => root.remove(NEW_NAME).map_err(io)?,
        r => r.map_err(io)?,
    }
    root.sync().map_err(io)
}

/// Makes `bytes` the whole durable content of a file.
pub(super) fn replace_content(file: &std::fs::File, bytes: &[u8]) -> io::Result<()> {
    fsx::gate(fsx::Call::Resize)?;
    rustix::fs::ftruncate(file, 0)?;
    fsx::write_all_at(file, bytes, 0)?;
    fsx::sync(file)
}
