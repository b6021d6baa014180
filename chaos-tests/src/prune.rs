//! Many checkpoints, few of them kept: what stays restores without a difference, and takes hardly more room than a zone
//! that never held anything else.
//!
//! The yardstick is such a zone: the kept trees, backed up one after another into a new home and a new target.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chaos_tests::site::{Site, remove};
use chaos_tests::tree::{Tree, noise};

use crate::failover::source::Dice;
use crate::workshop::{fast_dir, tell};

/// How a run is set up.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub checkpoints: u64,
    pub seed: u64,
}

/// The newest ones that are kept, and each so many-th of the others, by its tag.
const KEEP_LAST: u64 = 10;
const KEEP_EACH: u64 = 20;
/// What is stored afterwards, in percent of the yardstick, at most.
const ROOM_MAX: u64 = 120;
/// A large file of which a stretch changes with each checkpoint.
const LARGE: usize = 24 << 20;

fn kept(plan: Plan, n: u64) -> bool {
    n > plan.checkpoints.saturating_sub(KEEP_LAST) || n.is_multiple_of(KEEP_EACH)
}

/// A tree that changes as a person's does: some new files, some changed, some gone, a large one that changes in one place.
fn change(dir: &Path, dice: &mut Dice, n: u64) -> Result<()> {
    let large = dir.join("large");
    let mut bytes = if n == 1 { noise(7, LARGE) } else { fs::read(&large)? };
    let at = dice.below(LARGE as u64 - 300_000) as usize;
    let patch = noise(n.wrapping_mul(31), 300_000);
    bytes.get_mut(at..at + patch.len()).context("a patch beyond the file")?.copy_from_slice(&patch);
    fs::write(&large, bytes)?;
    for i in 0..if n == 1 { 200 } else { 12 } {
        let folder = dir.join(format!("folder-{}", dice.below(12)));
        fs::create_dir_all(&folder)?;
        let name = folder.join(format!("file-{}", dice.below(60)));
        if n > 1 && i % 4 == 3 {
            remove(&name)?;
        } else {
            fs::write(&name, noise(n * 1000 + i, 1000 + dice.below(90_000) as usize))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    remove(to)?;
    let status = Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to).status().context("running cp")?;
    ensure!(status.success(), "copying {} failed", from.display());
    Ok(())
}

/// Bytes of the data sectors on the site's target, and how many they are.
fn stored(site: &Site) -> Result<(u64, usize)> {
    let text = site.expect(0, &["--json", "sector", "ls"])?;
    let all: serde_json::Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
    let (mut bytes, mut n) = (0, 0);
    for s in all["sectors"].as_array().context("no sectors")?.iter().filter(|s| s["system"] == false) {
        for c in s["copies"].as_array().context("no copies")? {
            bytes += c["bytes"].as_u64().context("no length")?;
            n += 1;
        }
    }
    Ok((bytes, n))
}

fn site(dir: PathBuf, source: &Path) -> Result<Site> {
    fs::create_dir_all(&dir)?;
    let site = Site::of_this_program(&dir, source)?;
    site.init()?;
    Ok(site)
}

/// Removes what was made, however the run ends.
struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = remove(&self.0);
    }
}

pub fn run(plan: Plan) -> Result<bool> {
    let top = Gone(fast_dir());
    remove(&top.0)?;
    let source = top.0.join("source");
    fs::create_dir_all(&source)?;
    let zone = site(top.0.join("zone"), &source)?;
    let mut dice = Dice::new(plan.seed);
    let (begun, mut trees) = (Instant::now(), BTreeMap::new());
    for n in 1..=plan.checkpoints {
        change(&source, &mut dice, n)?;
        let tag: &[&str] = if n.is_multiple_of(KEEP_EACH) { &["--tag", "keep"] } else { &[] };
        zone.expect(0, &[&["backup", zone.source_text()?][..], tag].concat())?;
        if kept(plan, n) {
            copy(&source, &top.0.join(format!("tree-{n}")))?;
            trees.insert(n, Tree::read(&source)?);
        }
    }
    let before = stored(&zone)?;
    println!(
        "{} checkpoints in {:.1} s: {} MiB in {} sectors; {} are kept",
        plan.checkpoints,
        begun.elapsed().as_secs_f64(),
        before.0 >> 20,
        before.1,
        trees.len()
    );
    let last = KEEP_LAST.to_string();
    let said = zone.expect(0, &["forget", "--keep-last", &last, "--keep-tag", "keep", "--apply", "--owner"])?;
    // Within the grace all of it can be had; then the owner does not want to wait.
    let forgotten = zone.expect(0, &["--json", "checkpoints", "--forgotten"])?;
    let forgotten: serde_json::Value = serde_json::from_str(forgotten.lines().last().unwrap_or_default())?;
    let numbers = forgotten["checkpoints"].as_array().context("no checkpoints")?.iter().map(|c| c["seq"].to_string());
    let numbers: Vec<String> = numbers.collect();
    ensure!(numbers.len() as u64 == plan.checkpoints - trees.len() as u64, "{} are forgotten: {said}", numbers.len());
    let all: Vec<&str> = numbers.iter().map(String::as_str).collect();
    zone.expect(0, &[&["forget", "--apply", "--now"], all.as_slice()].concat())?;
    let pruning = Instant::now();
    zone.expect(0, &["prune", "--apply", "--owner"])?;
    let seconds = pruning.elapsed().as_secs_f64();
    let after = stored(&zone)?;
    println!("pruned in {seconds:.1} s: {} MiB in {} sectors", after.0 >> 20, after.1);
    let mut failures = Vec::new();
    for (n, tree) in &trees {
        if let Err(e) = zone.restores_as(&n.to_string(), tree) {
            failures.push(format!("checkpoint {n}: {e:#}"));
        }
    }
    println!("{} checkpoints restored, {} with a difference", trees.len(), failures.len());
    zone.is_whole()?;
    zone.no_leftovers()?;
    let yardstick = site(top.0.join("yardstick"), &source)?;
    for n in trees.keys() {
        copy(&top.0.join(format!("tree-{n}")), &source)?;
        yardstick.expect(0, &["backup", yardstick.source_text()?])?;
    }
    let alive = stored(&yardstick)?;
    let percent = after.0 * 100 / alive.0.max(1);
    println!("a zone that never held anything else takes {} MiB: {percent} %", alive.0 >> 20);
    if percent > ROOM_MAX {
        failures.push(format!("what is stored is {percent} % of what is alive, more than {ROOM_MAX} %"));
    }
    Ok(tell(&failures))
}
