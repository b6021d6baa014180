//! LVM snapshots: of the logical volume that a source's file system lies on, mounted read-only in the home.

use std::path::Path;
use std::process::Command;

use zoneward_sectors::fsx;

use super::{Made, Planned, SnapshotError, io_at, tool};
use crate::reading::mounts::{inside, mount_of, mounts};

const NAME: &str = "zoneward-";
/// Room for what changes while the snapshot is there, where the volume is not a thin one.
const ROOM: &str = "15%ORIGIN";

pub fn plan(path: &Path, name: &str, at: &Path) -> Result<Planned, SnapshotError> {
    let all = mounts().map_err(io_at("cannot read", Path::new("/proc/self/mountinfo")))?;
    let mount = mount_of(&all, path).ok_or_else(|| SnapshotError::Unfit("it is on no mounted file system".into()))?;
    let mut lvs = Command::new("lvs");
    lvs.args(["--noheadings", "--separator", "|", "--options", "vg_name,lv_name,pool_lv"]).arg(&mount.device);
    let answer = tool(&mut lvs)?;
    let mut fields = answer.trim().split('|').map(str::trim);
    let (group, origin, pool) = (fields.next(), fields.next(), fields.next());
    let (Some(group), Some(origin)) = (group.filter(|g| !g.is_empty()), origin.filter(|o| !o.is_empty())) else {
        return Err(SnapshotError::Unfit(format!("{} is no logical volume", mount.device.display())));
    };
    let volume = format!("{group}/{NAME}{name}");
    let mut create = Command::new("lvcreate");
    create.args(["--snapshot", "--permission", "r", "--name", &format!("{NAME}{name}")]);
    match pool {
        Some(pool) if !pool.is_empty() => create.args(["--setactivationskip", "n"]),
        _ => create.args(["--extents", ROOM]),
    };
    create.arg(format!("{group}/{origin}"));
    let mut show = Command::new("mount");
    show.args(["-t", &mount.fs_type, "-o", options(&mount.fs_type)]).arg(format!("/dev/{volume}")).arg(at);
    fsx::create_dir_all(at, 0o700).map_err(io_at("cannot make", at))?;
    let read = at.join(inside(&mount, path));
    Ok(Planned { made: Made::Lvm { volume, mount: at.to_owned() }, read, make: vec![create, show] })
}

/// The snapshot cannot be written, and the file system was whole when it was made: its journal is left alone.
fn options(fs_type: &str) -> &'static str {
    match fs_type {
        "xfs" => "ro,nouuid,norecovery",
        "ext3" | "ext4" => "ro,noload",
        _ => "ro",
    }
}

pub fn remove(volume: &str, at: &Path) -> Result<(), SnapshotError> {
    if !volume.split_once('/').is_some_and(|(_, name)| name.starts_with(NAME)) {
        return Err(SnapshotError::Unfit(format!("{volume} is no snapshot of Zoneward's")));
    }
    let mounted = mounts().map_err(io_at("cannot read", Path::new("/proc/self/mountinfo")))?;
    if mounted.iter().any(|m| m.point == at) {
        let mut umount = Command::new("umount");
        tool(umount.arg(at))?;
    }
    let mut lvs = Command::new("lvs");
    lvs.args(["--noheadings", "--options", "lv_name"]).arg(volume);
    let gone = matches!(tool(&mut lvs), Err(SnapshotError::Tool { source, .. }) if source.to_string().contains("Failed to find"));
    if !gone {
        let mut lvremove = Command::new("lvremove");
        tool(lvremove.arg("--yes").arg(volume))?;
    }
    match std::fs::remove_dir(at) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_at("cannot remove", at)(e)),
        _ => Ok(()),
    }
}
