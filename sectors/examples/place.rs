//! Makes 50,000 files of 4 KiB with two workers, as a restore does, and says how long it took.
//!
//! `cargo run --release --example place -- DIR [FILES [WORKERS]]`; DIR gets a new directory `place-example`, which must
//! not exist yet.

use std::path::PathBuf;
use std::time::Instant;

use zoneward_sectors::entry::{Kind, Meta, Stamp, Xattrs};
use zoneward_sectors::place::{Place, PlaceError};

const PER_DIR: usize = 50;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let dir = PathBuf::from(args.next().ok_or("which directory?")?).join("place-example");
    let mut number = |default: usize| {
        args.next().map_or(Ok(default), |a| a.to_string_lossy().parse()).map_err(|e| format!("not a number: {e}"))
    };
    let (files, workers) = (number(50_000)?, number(2)?.max(1));
    if dir.exists() {
        return Err("the directory is there already".into());
    }
    let place = Place::open(&dir)?;
    let meta = Meta {
        kind: Kind::File,
        mode: 0o644,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Stamp { secs: 1_700_000_000, nanos: 123_456_789 },
        ctime: Stamp::default(),
        ino: 0,
        nlink: 1,
        size: 4096,
        rdev: (0, 0),
    };
    let dirs = files.div_ceil(PER_DIR);
    let start = Instant::now();
    let work = &|worker: usize| -> Result<usize, PlaceError> {
        let (mut placer, content, mut made) = (place.worker(), [7u8; 4096], 0);
        // Each worker has a stretch of directories of its own, as in a restore.
        for d in dirs * worker / workers..dirs * (worker + 1) / workers {
            let at = format!("d{d:05}");
            placer.make_dir(at.as_bytes())?;
            for f in (d * PER_DIR)..(d * PER_DIR + PER_DIR).min(files) {
                let path = format!("{at}/file-{f}");
                made += 1 - placer.write_small(path.as_bytes(), &content, &meta, &Xattrs::new())?.len().min(1);
            }
            placer.finish_dir(at.as_bytes(), &Meta { kind: Kind::Dir, mode: 0o755, ..meta }, &Xattrs::new())?;
        }
        Ok(made)
    };
    let made = std::thread::scope(|s| -> Result<usize, Box<dyn std::error::Error>> {
        let handles: Vec<_> = (0..workers).map(|w| s.spawn(move || work(w))).collect();
        handles.into_iter().try_fold(0, |n, h| Ok(n + h.join().map_err(|_| "a worker panicked")??))
    })?;
    println!("{made} files of 4 KiB, {workers} workers: {:.3} s", start.elapsed().as_secs_f64());
    Ok(())
}
