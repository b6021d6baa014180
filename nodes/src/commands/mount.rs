//! `mount`: all checkpoints as a file system to look around in, until Ctrl-C.

mod fs;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::mount::{UnmountFlags, unmount};
use zoneward_actors::home::{real, target_around};
use zoneward_actors::keyless::closed;
use zoneward_actors::mount::{Shown, View};
use zoneward_actors::restore::sources_of;
use zoneward_actors::zone::Zone;
use zoneward_consensus::model::Checkpoint;
use zoneward_sectors::entry::Stamp;
use zoneward_targets::Url;

use super::{absolute, open};
use crate::cli::{Global, MountArgs};
use crate::errors::{Failure, chain, exit};
use crate::output::Out;
use crate::translate::OWNER_KEY;
use crate::units::{local_stamp, plural, shown};

use fs::{Fs, Teller};

/// How often it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(200);

/// What the mount is called in lists of mounts. A backup passes over what is called so.
const CALLED: &str = zoneward_sectors::walk::OWN_MOUNTS;

/// An empty directory that is neither in a target nor among the zone's own files.
fn check_place(zone: &Zone, dir: &Path) -> Result<(), Failure> {
    let shown = dir.display();
    let wrong = |what: String| Failure::new(1641, exit::USAGE, what);
    match std::fs::metadata(dir) {
        Ok(m) if m.is_dir() => {}
        Ok(_) => return Err(wrong(format!("{shown} is no directory")).help("name an empty directory")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(wrong(format!("{shown} is not there")).help(format!("make it: mkdir {shown}")));
        }
        // What the kernel says of a mount whose program was killed.
        Err(e) if e.kind() == io::ErrorKind::NotConnected => {
            return Err(wrong(format!("the mount at {shown} is dead"))
                .why("the program that served it was killed")
                .help(format!("take it away: fusermount3 -u {shown}, or as root umount {shown}")));
        }
        Err(e) => return Err(wrong(format!("{shown} cannot be used")).why(e.to_string())),
    }
    let refused = |why: String| {
        Failure::new(1642, exit::REFUSED, format!("nothing is mounted on {shown}"))
            .why(why)
            .help("name an empty directory elsewhere")
    };
    let mut inside = std::fs::read_dir(dir)
        .map_err(|e| Failure::new(1641, exit::USAGE, format!("{shown} cannot be read")).why(e.to_string()))?;
    if inside.next().is_some() {
        return Err(refused("it is not empty: what it holds would be hidden".into()));
    }
    let urls: Vec<Url> = zone.state().targets.values().filter_map(|t| t.url.parse().ok()).collect();
    if let Some(target) = target_around(dir, &urls) {
        return Err(refused(format!("it lies in the target {}", target.display())));
    }
    if real(dir).starts_with(real(zone.home.dir())) {
        return Err(refused("the zone's own files lie there".into()));
    }
    Ok(())
}

/// What a checkpoint's folder is called: by number first, so that names are in order.
fn folder(c: &Checkpoint, newest: u64) -> Shown {
    let digits = newest.to_string().len().max(4);
    let name = format!("{:0digits$}_{}", c.seq, local_stamp(c.started_ms)).into_bytes();
    let made = Stamp { secs: (c.started_ms / 1000) as i64, nanos: (c.started_ms % 1000) as u32 * 1_000_000 };
    Shown { checkpoint: c.id, name, made }
}

fn cannot(e: &io::Error) -> Failure {
    let failed = Failure::new(1643, exit::FAILED, "the kernel does not let this be mounted").why(chain(e));
    match (Path::new("/dev/fuse").exists(), rustix::process::geteuid().is_root()) {
        (false, _) => failed.help("there is no /dev/fuse: load the kernel's module with modprobe fuse"),
        (true, true) => failed.help("zoneward restore brings files back without a mount"),
        (true, false) => failed.help(
            "install fusermount3 (package fuse3), or run it as root; --allow-other also needs the line user_allow_other \
             in /etc/fuse.conf",
        ),
    }
}

pub fn mount(g: &Global, out: Out, a: &MountArgs) -> Result<i32, Failure> {
    let stop = crate::interrupt::stop();
    let dir = absolute(&a.dir)?;
    let zone = open(g)?;
    check_place(&zone, &dir)?;
    let (shown_all, bytes) = what_is_shown(&zone, a.checkpoint.as_deref())?;
    for t in zone.unreachable() {
        out.warn(format!("target {} cannot be reached: what lies there alone cannot be read", t.name));
    }
    let layers: Vec<_> =
        shown_all.iter().flat_map(|s| sources_of(&zone, s.checkpoint)).flat_map(|h| h.layers).collect();
    if !closed(&zone, &layers).is_empty() {
        out.warn(format!("files of write-only sources cannot be read here: {OWNER_KEY}"));
    }
    let still = zone.still();
    // Lets go of the home: from here on backups go on beside this.
    drop(zone);
    let teller = Arc::new(Teller::default());
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let tell = {
        let teller = teller.clone();
        Box::new(move |text: &str| teller.tell(text))
    };
    let view = Arc::new(View::new(still, &shown_all, a.checkpoint.is_some(), owner, tell));
    let fs = Fs::new(view, teller, bytes, a.allow_other)
        .map_err(|e| Failure::new(1644, exit::FAILED, "no threads can be started").why(e.to_string()))?;
    let mut config = Config::default();
    config.mount_options = vec![MountOption::RO, MountOption::FSName(CALLED.into()), MountOption::NoAtime];
    if a.allow_other {
        config.mount_options.push(MountOption::DefaultPermissions);
        config.acl = SessionACL::All;
    }
    let session = Session::new(fs, &dir, &config).map_err(|e| cannot(&e))?;
    serve(out, session, &dir, &shown_all, &stop)
}

/// The checkpoints that are shown, oldest first, and how much the newest of them holds.
fn what_is_shown(zone: &Zone, one: Option<&str>) -> Result<(Vec<Shown>, u64), Failure> {
    let chosen = match one {
        Some(text) => vec![zone.state().find_checkpoint(text)?],
        None => zone.state().complete(),
    };
    let Some(newest) = chosen.last() else {
        // Says that there is none, as everywhere.
        zone.state().find_checkpoint("latest")?;
        return Ok((Vec::new(), 0));
    };
    let bytes = newest.tasks.iter().map(|t| t.stats.bytes).sum();
    Ok((chosen.iter().map(|c| folder(c, newest.seq)).collect(), bytes))
}

/// Stays until the mount is taken away, or Ctrl-C.
fn serve(out: Out, mut session: Session<Fs>, dir: &Path, all: &[Shown], stop: &AtomicBool) -> Result<i32, Failure> {
    let ended = |e: &io::Error| Failure::new(1644, exit::FAILED, "the mount has ended").why(chain(e));
    let mut away = session.unmount_callable();
    let (done, ends) = channel();
    let run = move || {
        let _ = done.send(session.run());
    };
    std::thread::Builder::new().name("mount".into()).spawn(run).map_err(|e| ended(&e))?;
    out.json(&serde_json::json!({
        "schema": "zoneward.mount/1", "mounted": shown(dir), "checkpoints": all.len(),
        "names": all.iter().map(|s| String::from_utf8_lossy(&s.name)).collect::<Vec<_>>(),
    }));
    let what = plural(all.len() as u64, "checkpoint is", "checkpoints are");
    out.say(format!("{what} mounted at {}, read-only", dir.display()));
    out.say(format!("Ctrl-C here ends it, or: umount {}", dir.display()));
    loop {
        match ends.recv_timeout(LOOK) {
            Ok(Ok(())) => break,
            Ok(Err(e)) => return Err(ended(&e)),
            Err(RecvTimeoutError::Disconnected) => return Err(ended(&io::Error::other("its thread ended"))),
            Err(RecvTimeoutError::Timeout) if !stop.load(Ordering::Relaxed) => {}
            Err(RecvTimeoutError::Timeout) => {
                if let Err(e) = away.unmount() {
                    // Somebody is still in there. The place is free at once, and they get errors when this ends.
                    unmount(dir, UnmountFlags::DETACH).map_err(|_| ended(&e))?;
                    out.warn("programs were still in the mount: what they read there fails from now on");
                }
                break;
            }
        }
    }
    out.say(format!("{} is no longer mounted", dir.display()));
    Ok(0)
}
