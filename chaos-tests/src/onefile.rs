//! One small file out of much over S3: how many bytes a restore moves.
//!
//! The S3 server counts the content that it sends. First the home has its catalogs; then they are gone, and the restore has to
//! fetch what says where the file lies.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chaos_tests::site::{Site, remove};
use chaos_tests::tree::noise;

use crate::tale::server::{KEY_ID, SECRET, Server};

/// How a run is set up.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// MiB of the source.
    pub size_mib: u64,
}

/// Small files, in folders of a hundred.
const SMALL: u64 = 5000;
const SMALL_LEN: usize = 10 << 10;
/// The other files.
const LARGE_LEN: usize = 64 << 20;
/// What a restore with catalogs may move.
const MOVED_MAX: u64 = 8 << 20;

fn small(i: u64) -> (String, Vec<u8>) {
    (format!("folder-{}/small-{i}", i / 100), noise(1_000_000 + i, SMALL_LEN))
}

fn run_it(site: &Site, args: &[&str]) -> Result<String> {
    let out = site.command(args).output().context("starting the product")?;
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    ensure!(out.status.success(), "{args:?} ended with {}: {said}", out.status);
    Ok(said)
}

/// Restores one small file and answers how many bytes the server sent for it.
fn restore(site: &Site, s3: &Server, i: u64, to: &str) -> Result<u64> {
    let (name, want) = small(i);
    let path = site.source.join(&name);
    let before = s3.out_bytes.load(Ordering::Relaxed);
    let begun = Instant::now();
    run_it(site, &["restore", "latest", path.to_str().context("a path that is not UTF-8")?, "--to", to])?;
    let moved = s3.out_bytes.load(Ordering::Relaxed) - before;
    ensure!(fs::read(site.restored(to).join(&name))? == want, "{name} differs");
    // Fewer would mean that nothing was counted.
    ensure!(moved >= SMALL_LEN as u64, "only {moved} bytes were counted");
    println!("restored {name} into {to}: {} bytes moved, {:.2} s", moved, begun.elapsed().as_secs_f64());
    Ok(moved)
}

pub fn run(plan: Plan) -> Result<bool> {
    let dir = std::env::temp_dir().join(format!("zoneward-one-file-{}", std::process::id()));
    let ran = story(plan, &dir);
    remove(&dir)?;
    ran
}

fn story(plan: Plan, dir: &Path) -> Result<bool> {
    let source = dir.join("source");
    for i in 0..SMALL {
        let (name, bytes) = small(i);
        let path = source.join(name);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(path, bytes)?;
    }
    let large = (plan.size_mib << 20).div_ceil(LARGE_LEN as u64);
    for i in 0..large {
        fs::write(source.join(format!("large-{i}")), noise(i, LARGE_LEN))?;
    }
    let s3 = Server::start();
    let site = Site::of_this_program(dir, &source)?;
    let credentials = dir.join("credentials");
    fs::write(&credentials, serde_json::json!({"access_key_id": KEY_ID, "secret_access_key": SECRET}).to_string())?;
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600))?;
    run_it(&site, &["init", "--target", &s3.url("z"), "--credentials-file", "credentials"])?;
    let begun = Instant::now();
    run_it(&site, &["backup", source.to_str().context("a path that is not UTF-8")?])?;
    let stored: u64 = s3.files().iter().filter_map(|f| fs::metadata(f).ok()).map(|m| m.len()).sum();
    println!(
        "{} files, {} MiB of the source; {} MiB on the S3 server; backed up in {:.0} s",
        SMALL + large,
        (large * LARGE_LEN as u64 + SMALL * SMALL_LEN as u64) >> 20,
        stored >> 20,
        begun.elapsed().as_secs_f64()
    );
    let moved = restore(&site, &s3, SMALL / 2, "with-catalogs")?;
    for cache in ["catalogs", "index"] {
        remove(&dir.join("home").join(cache))?;
    }
    let without = restore(&site, &s3, SMALL / 3, "without-catalogs")?;
    let good = moved < MOVED_MAX;
    println!(
        "{moved} bytes with catalogs, {without} without; at most {MOVED_MAX}: {}",
        if good { "met" } else { "missed" }
    );
    Ok(good)
}
