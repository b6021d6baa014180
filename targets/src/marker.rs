//! The marker's content: what makes a place a target, and tells which (`docs/format.md` section 1).

use serde::Deserialize;
use zoneward_sectors::ids::TargetId;

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
