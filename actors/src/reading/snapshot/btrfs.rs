//! Read-only snapshots of btrfs subvolumes, made beside what they are of: in the root of the subvolume.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BTRFS_PREFIX, Made, Planned, SnapshotError, io_at, tool};

/// The root of every subvolume has this inode number.
const SUBVOLUME_INO: u64 = 256;

fn btrfs(args: &[&str], path: &Path) -> Command {
    let mut c = Command::new("btrfs");
    c.args(args).arg(path);
    c
}

/// The root of the subvolume that holds a path, as far as it is mounted.
fn subvolume(path: &Path) -> Result<PathBuf, SnapshotError> {
    let look = |p: &Path| std::fs::metadata(p).map(|m| (m.dev(), m.ino())).map_err(io_at("cannot look at", p));
    let (dev, _) = look(path)?;
    for p in path.ancestors() {
        match look(p)? {
            (d, SUBVOLUME_INO) if d == dev => return Ok(p.to_owned()),
            (d, _) if d != dev => break,
            _ => {}
        }
    }
    Err(SnapshotError::Unfit("the root of its subvolume is not mounted".into()))
}

pub fn plan(path: &Path, name: &str, apart: bool) -> Result<Planned, SnapshotError> {
    let root = subvolume(path)?;
    let inside = path.strip_prefix(&root).unwrap_or(Path::new("")).to_owned();
    if !apart {
        refuse_subvolumes_below(&root, &inside)?;
    }
    let snapshot = root.join(format!("{BTRFS_PREFIX}{name}"));
    let mut make = btrfs(&["subvolume", "snapshot", "-r"], &root);
    make.arg(&snapshot);
    let read = if inside.as_os_str().is_empty() { snapshot.clone() } else { snapshot.join(inside) };
    Ok(Planned { made: Made::Btrfs { path: snapshot }, read, make: vec![make] })
}

/// A snapshot ends at subvolumes below: each shows as an empty directory.
fn refuse_subvolumes_below(root: &Path, inside: &Path) -> Result<(), SnapshotError> {
    let shown = tool(&mut btrfs(&["subvolume", "show"], root))?;
    let own = Path::new(shown.lines().next().unwrap_or("/").trim());
    let own = own.strip_prefix("/").unwrap_or(own).to_owned();
    let listed = tool(&mut btrfs(&["subvolume", "list", "-o"], root))?;
    let below = listed.lines().filter_map(|l| l.split_once(" path ")).map(|(_, p)| Path::new(p));
    let below = below.filter_map(|p| p.strip_prefix(&own).ok());
    let ours = |p: &Path| p.to_str().is_some_and(|t| t.starts_with(BTRFS_PREFIX));
    match below.filter(|p| !ours(p)).find(|p| p.starts_with(inside)) {
        Some(p) => Err(SnapshotError::Unfit(format!(
            "{} is a subvolume inside it, and a snapshot would leave it out: --one-file-system leaves it out, or make it \
             a source of its own",
            root.join(p).display()
        ))),
        None => Ok(()),
    }
}

pub fn remove(path: &Path) -> Result<(), SnapshotError> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if !name.starts_with(BTRFS_PREFIX) {
        return Err(SnapshotError::Unfit(format!("{} is no snapshot of Zoneward's", path.display())));
    }
    match std::fs::symlink_metadata(path) {
        // It was written down and never made; or its file system is not mounted now: then it is found when it is.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match path.parent().map(subvolume_is_there) {
            Some(true) => Ok(()),
            _ => Err(io_at("cannot look at", path)(e)),
        },
        Err(e) => Err(io_at("cannot look at", path)(e)),
        // Only once it is gone for good its record may go.
        Ok(_) => tool(&mut btrfs(&["subvolume", "delete", "--commit-after"], path)).map(|_| ()),
    }
}

fn subvolume_is_there(root: &Path) -> bool {
    std::fs::metadata(root).is_ok_and(|m| m.ino() == SUBVOLUME_INO)
}
