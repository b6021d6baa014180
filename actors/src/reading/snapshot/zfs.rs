//! ZFS snapshots, read through the dataset's hidden `.zfs/snapshot`.

use std::path::Path;
use std::process::Command;

use super::{Made, Planned, SnapshotError, tool};

const NAME: &str = "zoneward-";

pub fn plan(path: &Path, name: &str) -> Result<Planned, SnapshotError> {
    let mut list = Command::new("zfs");
    list.args(["list", "-H", "-t", "filesystem", "-o", "name,mountpoint"]).arg(path);
    let answer = tool(&mut list)?;
    let unfit = || SnapshotError::Unfit("zfs names no mounted dataset for it".into());
    let (dataset, mounted) = answer.lines().next().and_then(|l| l.split_once('\t')).ok_or_else(unfit)?;
    let mounted = Path::new(mounted);
    let inside = path.strip_prefix(mounted).map_err(|_| unfit())?;
    let snapshot = format!("{dataset}@{NAME}{name}");
    let mut make = Command::new("zfs");
    make.arg("snapshot").arg(&snapshot);
    let read = mounted.join(format!(".zfs/snapshot/{NAME}{name}")).join(inside);
    Ok(Planned { made: Made::Zfs { snapshot }, read, make: vec![make] })
}

pub fn remove(snapshot: &str) -> Result<(), SnapshotError> {
    if !snapshot.split_once('@').is_some_and(|(_, name)| name.starts_with(NAME)) {
        return Err(SnapshotError::Unfit(format!("{snapshot} is no snapshot of Zoneward's")));
    }
    let mut list = Command::new("zfs");
    list.args(["list", "-H", "-t", "snapshot", "-o", "name"]).arg(snapshot);
    // It was written down and never made, or somebody else removed it.
    if let Err(SnapshotError::Tool { source, .. }) = tool(&mut list)
        && source.to_string().contains("does not exist")
    {
        return Ok(());
    }
    let mut destroy = Command::new("zfs");
    destroy.arg("destroy").arg(snapshot);
    tool(&mut destroy).map(|_| ())
}
