//! Where things lie in a target over the network: the names of `docs/format.md` section 1, below the target's folder.

use std::fmt;
use std::str::FromStr;

use zoneward_sectors::ids::{CopyId, ZoneAlias};

use crate::target::ObjectName;

/// The marker's name.
pub(crate) const MARKER: &str = crate::marker::NAME;
/// The folder of all zones.
pub(crate) const ZONES: &str = "zones";
const SUFFIX: &str = ".zws";

/// A zone's folder.
pub(crate) fn zone(alias: ZoneAlias) -> String {
    format!("{ZONES}/{alias}")
}

/// The folder of a zone's sealed sectors.
pub(crate) fn sectors(alias: ZoneAlias) -> String {
    format!("{ZONES}/{alias}/sectors")
}

/// The folder of what a zone began and did not seal.
pub(crate) fn incoming(alias: ZoneAlias) -> String {
    format!("{ZONES}/{alias}/incoming")
}

/// A sealed sector, below the folder of sectors.
pub(crate) fn sector_name(copy: CopyId) -> String {
    let name = copy.to_string();
    format!("{}/{name}{SUFFIX}", name.get(..2).unwrap_or_default())
}

/// The sector that a name below the folder of sectors stands for, if it is one of ours.
pub(crate) fn sector_of(name: &str) -> Option<CopyId> {
    let (shard, file) = name.split_once('/')?;
    file.strip_suffix(SUFFIX).filter(|id| id.starts_with(shard) && shard.len() == 2).and_then(exact)
}

/// An object beside the sectors.
pub(crate) fn object(alias: ZoneAlias, name: ObjectName) -> String {
    format!("{ZONES}/{alias}/{}", name.file_name())
}

/// An id in exactly the spelling that Zoneward writes.
pub(crate) fn exact<T: FromStr + fmt::Display>(text: &str) -> Option<T> {
    text.parse::<T>().ok().filter(|id| id.to_string() == text)
}
