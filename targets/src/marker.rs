//! The marker's content: what makes a place a target, and tells which (`docs/format.md` section 1).

use serde::Deserialize;
use zoneward_sectors::ids::TargetId;

use crate::directory::Existing;
use crate::errors::{Op, TargetError};

/// Its name in the target's folder.
pub(crate) const NAME: &str = "zoneward-target.json";

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Deserialize)]
struct Marker {
    target: TargetId,
}

/// The id in a marker, or why it cannot be understood.
pub(crate) fn parse(bytes: &[u8]) -> Result<TargetId, String> {
    // The format is looked at alone first, so that a later release's marker is called by its name.
    let Format { format } = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if format != 1 {
        return Err(format!("format {format}: a newer release made it"));
    }
    serde_json::from_slice(bytes).map(|m: Marker| m.target).map_err(|e| e.to_string())
}

/// A marker's bytes.
pub(crate) fn render(id: TargetId) -> String {
    format!("{{\"format\":1,\"target\":\"{id}\"}}\n")
}

/// What place `what`, which was to become the target `id`, is now that its marker is read again.
pub(crate) fn created(
    what: String,
    found: Option<TargetId>,
    id: TargetId,
    existing: Existing,
) -> Result<TargetId, TargetError> {
    let op = Op::CreateTarget;
    match found {
        Some(found) if found == id || existing == Existing::Adopt => Ok(found),
        Some(found) => Err(TargetError::OtherTarget { op, what, found }),
        None => Err(TargetError::Protocol { op, what, reason: "what was put is not there".to_owned() }),
    }
}

/// The target at a place whose marker says this; with an id, it must be that one.
pub(crate) fn opened(what: &str, found: Option<TargetId>, id: Option<TargetId>) -> Result<TargetId, TargetError> {
    let away = |reason| Err(TargetError::Unplugged { op: Op::OpenTarget, what: what.to_owned(), reason });
    match (found, id) {
        (None, _) => away(format!("it holds no {NAME}")),
        (Some(found), Some(id)) if id != found => away(format!("it is the target {found}, not {id}")),
        (Some(found), _) => Ok(found),
    }
}
