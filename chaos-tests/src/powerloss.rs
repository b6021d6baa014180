//! Loses power: a backup is killed at a file call, then the file system that holds home and target is shut down without
//! writing what it keeps in memory, and mounted again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::site::{Site, remove};

use crate::Plan;
use crate::workshop::{Workshop, fast_dir, tell};

/// The journal must not be written by the clock: only what the product syncs is to survive.
const MOUNT_OPTIONS: &str = "loop,commit=300";
/// EXT4_IOC_SHUTDOWN is `_IOR('X', 125, u32)`; 2 is NOLOGFLUSH. Python because the call needs a raw ioctl.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

fn tool(name: &str, args: &[&str]) -> Result<()> {
    let out = Command::new(name).args(args).output().with_context(|| format!("running {name}"))?;
    ensure!(out.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

/// A file system in a file.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
    mounted: bool,
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("an odd path")
}

impl Disk {
    fn make(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir.join("disk"))?;
        let disk = Self { image: dir.join("image"), mount: dir.join("disk"), mounted: false };
        std::fs::File::create(&disk.image)?.set_len(256 << 20)?;
        tool("mkfs.ext4", &["-q", "-F", text(&disk.image)?])?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<()> {
        tool("mount", &["-t", "ext4", "-o", MOUNT_OPTIONS, text(&self.image)?, text(&self.mount)?])?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<()> {
        tool("umount", &[text(&self.mount)?])?;
        self.mounted = false;
        Ok(())
    }

    /// Power off, power on.
    fn lose_power(&mut self) -> Result<()> {
        tool("python3", &["-c", SHUTDOWN, text(&self.mount)?])?;
        // Proof that the shutdown took: nothing can be written any more.
        ensure!(std::fs::write(self.mount.join("written"), b"?").is_err(), "the file system was not shut down");
        self.unmount()?;
        self.mount()
    }

    fn copy_image(from: &Path, to: &Path) -> Result<()> {
        tool("cp", &["--sparse=always", text(from)?, text(to)?])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // The error that brought us here is told already.
            let _ = self.unmount();
        }
    }
}

pub fn run(plan: Plan) -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: mounting a file system needs root");
        return Ok(true);
    }
    let dir = fast_dir();
    remove(&dir)?;
    // The disk is outside the workshop's folder: that is cleared when the workshop opens.
    let place = dir.with_extension("disk");
    remove(&place)?;
    let outcome = match prepare(&place) {
        Ok(disk) => all(disk, &place, plan),
        Err(e) => {
            println!("NOT RUN: {e:#}");
            Ok(true)
        }
    };
    remove(&place)?;
    outcome
}

fn prepare(place: &Path) -> Result<Disk> {
    let mut disk = Disk::make(place)?;
    disk.mount()?;
    Ok(disk)
}

fn all(mut disk: Disk, place: &Path, plan: Plan) -> Result<bool> {
    let (shop, sites) = Workshop::open(&[disk.mount.join("site")])?;
    let site = sites.first().context("there is no site")?;
    let site = Site::of_this_program(&site.dir, &site.source)?;
    remove(&site.path("kept"))?;
    disk.unmount()?;
    let kept = place.join("kept");
    Disk::copy_image(&disk.image, &kept)?;
    let (started, mut runs, mut failures, mut n) = (Instant::now(), 0, Vec::new(), plan.first());
    loop {
        Disk::copy_image(&kept, &disk.image)?;
        disk.mount()?;
        let outcome = one(&mut disk, &shop, &site, n);
        disk.unmount()?;
        runs += 1;
        let last = match outcome {
            Ok(last) => last,
            Err(e) => {
                failures.push(format!("{n}: {e:#}"));
                failures.len() > 20
            }
        };
        if last || plan.at.is_some() {
            break;
        }
        n += plan.every;
    }
    println!(
        "powerloss: calls up to {n}, {runs} runs, {:.1} s, {} failures",
        started.elapsed().as_secs_f64(),
        failures.len()
    );
    Ok(tell(&failures))
}

/// One loss of power; true if the backup had ended before it.
fn one(disk: &mut Disk, shop: &Workshop, site: &Site, n: u64) -> Result<bool> {
    let ended = site.run(&["backup"], &[("ZONEWARD_FAULT", &format!("{n}:kill"))])?;
    if !ended.killed && ended.code != Some(0) {
        bail!("the backup failed by itself: {}", ended.said);
    }
    disk.lose_power()?;
    site.is_whole().context("after the loss")?;
    site.restores_as("1", &shop.first).context("after the loss")?;
    if !ended.killed {
        site.restores_as("latest", &shop.second).context("acknowledged before the loss")?;
    }
    remove(&site.path("out"))?;
    site.expect(0, &["backup"])?;
    site.all_is_well(&shop.first, &shop.second)?;
    Ok(!ended.killed)
}
