//! File systems that the kernel makes up: what they show is the machine's state of the moment. They tell no sizes, and some
//! of their files never end, so they are no data that could be backed up.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags, fstatfs, openat};

/// `f_type` of statfs(2), from the kernel's `magic.h`: proc, sysfs, debugfs, tracefs, securityfs, selinuxfs, cgroup,
/// cgroup2, bpf, configfs, binfmt_misc, fusectl, nsfs, devpts, mqueue, rpc_pipefs, nfsd.
const MADE_UP: [u64; 17] = [
    0x9fa0,
    0x6265_6572,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xf97c_ff8c,
    0x0027_e0eb,
    0x6367_7270,
    0xcafe_4a11,
    0x6265_6570,
    0x4249_4e4d,
    0x6573_5543,
    0x6e73_6673,
    0x1cd1,
    0x1980_0202,
    0x6759_6969,
    0x6e66_7364,
];

/// What mounted checkpoints are called in the list of mounts. They are backed up already.
pub const OWN_MOUNTS: &str = "zoneward";
/// `f_type` of FUSE, which serves mounted checkpoints and much else.
const FUSE: u64 = 0x6573_5546;

/// Whether an open file or directory lies on such a file system, or in mounted checkpoints.
pub(super) fn is_made_up(fd: impl AsFd) -> io::Result<bool> {
    let kind = fstatfs(&fd)?.f_type as u64 & 0xffff_ffff;
    Ok(MADE_UP.contains(&kind) || (kind == FUSE && is_own_mount(rustix::fs::fstat(fd)?.st_dev)))
}

/// Whether a device of FUSE shows checkpoints, by the list of mounts: `id parent major:minor … - kind from …`. Without such
/// a list it counts as any other.
fn is_own_mount(dev: u64) -> bool {
    let device = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let list = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    String::from_utf8_lossy(&list).lines().any(|line| {
        let from = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').nth(1));
        line.split(' ').nth(2) == Some(&device) && from == Some(OWN_MOUNTS)
    })
}

/// What is known of the file systems that a scan met, by device number.
#[derive(Default)]
pub(super) struct Known(Mutex<HashMap<u64, bool>>);

impl Known {
    /// Whether a directory lies on such a file system. One that cannot be opened is left to the listing, which says why.
    pub fn is_made_up(&self, dev: u64, dir: &OwnedFd, name: &[u8]) -> bool {
        let mut known = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(answer) = known.get(&dev) {
            return *answer;
        }
        // Only a handle: this needs no right to read it, and mounts nothing.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(answer) = openat(dir, name, flags, Mode::empty()).map_err(io::Error::from).and_then(is_made_up) else {
            return false;
        };
        known.insert(dev, answer);
        answer
    }
}
