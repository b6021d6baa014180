//! Runs the product again and again, breaking it at one place after another.
//!
//! `cargo run --release -p chaos-tests --features faults -- faults|points|powerloss [--every K] [--seed S] [--at N]`
//! `cargo run --release -p chaos-tests --features tale -- malicious [--only CASE]`
//! `cargo run --release -p chaos-tests -- failover [--kills N] [--seed S] [--size MIB]`

mod failover;
mod faults;
#[cfg(feature = "tale")]
mod malicious;
#[cfg(feature = "tale")]
mod onefile;
mod points;
mod powerloss;
mod prune;
#[cfg(feature = "tale")]
mod resume;
mod simulate;
#[cfg(feature = "tale")]
mod tale;
mod workshop;

use anyhow::{Context, Result, bail};
use chaos_tests::site::AS_PRODUCT;

const USAGE: &str = "usage: chaos-tests faults|points|powerloss [--every K] [--seed S] [--at N]
  faults      fail or kill at every file call of a backup, of a restore and of a prune
  points      kill at every passing of every fail point
  powerloss   lose what is not synced at file calls of a backup (needs root)
  simulate    run whole zones under seeded faults, on simulated time: simulate --help
  --every K   only every K-th call [default: 1; powerloss: 40]
  --seed S    where to begin with --every [default: 1]
  --at N      only the N-th call
or: chaos-tests failover [--kills N] [--seed S] [--size MIB]
  three daemons; the one that packs, copies or leads is killed at seeded moments
  --kills N   how often in all [default: 100]
  --size MIB  of the source [default: 2048]
or: chaos-tests prune [--checkpoints N] [--seed S]
  N checkpoints [default: 200], few are kept: they restore, and take hardly more room than if nothing else had ever been
or: chaos-tests tale [--seed S] [--size MIB]   (built with --features tale)
  a target is destroyed, another one changes bytes, the zone heals itself, burns, and comes back
  --size MIB  of the source [default: 256]
or: chaos-tests resume [--kills N] [--seed S] [--size MIB]   (built with --features tale)
  the node that sends one large sector to a target server is killed N times [default: 10]; what is sent twice is counted
  --size MIB  of the sector [default: 512]
or: chaos-tests one-file [--size MIB]   (built with --features tale)
  one small file out of much is restored over S3; what moves is counted
  --size MIB  of the source [default: 10240; it lies twice on the disk of temporary files]
or: chaos-tests malicious [--only CASE]   (built with --features tale)
  a target server that drops, bends, replays, stalls and never ends; what it does is noticed, named and survived
  --only CASE only cases whose name holds this";

/// Which places are broken.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub every: u64,
    pub seed: u64,
    pub at: Option<u64>,
}

impl Plan {
    /// The first place: anywhere below `every`, told by the seed.
    pub fn first(&self) -> u64 {
        self.at.unwrap_or(1 + self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) % self.every)
    }
}

fn main() {
    let mut args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == AS_PRODUCT) {
        args.remove(1);
        let code = zoneward::run(args);
        #[cfg(feature = "tale")]
        tell_peak();
        std::process::exit(code);
    }
    let args: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    match run(&args) {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(e) => {
            eprintln!("error: {e:#}");
            std::process::exit(2);
        }
    }
}

/// Tells whoever runs this as the product how much memory it took.
#[cfg(feature = "tale")]
fn tell_peak() {
    let Some(file) = std::env::var_os(malicious::PEAK) else { return };
    let peak = std::fs::read_to_string("/proc/self/status").ok().and_then(|s| malicious::peak_kib(&s));
    // Who misses it says so.
    let _ = std::fs::write(file, peak.map_or_else(String::new, |kib| kib.to_string()));
}

#[cfg(feature = "tale")]
fn malicious(args: &[String]) -> Result<bool> {
    match args {
        [] => malicious::run(None),
        [only, name] if only == "--only" => malicious::run(Some(name)),
        _ => bail!(USAGE),
    }
}

#[cfg(not(feature = "tale"))]
fn malicious(_: &[String]) -> Result<bool> {
    bail!("built without the feature `tale`: add --features tale")
}

fn failover_plan(args: &[String]) -> Result<failover::Plan> {
    let mut plan = failover::Plan { kills: 100, seed: 1, size_mib: 2048 };
    for pair in args.chunks(2) {
        let number = || pair.get(1).and_then(|v| v.parse::<u64>().ok()).context(USAGE);
        match pair.first().map(String::as_str) {
            Some("--kills") => plan.kills = usize::try_from(number()?)?,
            Some("--seed") => plan.seed = number()?,
            Some("--size") => plan.size_mib = number()?.max(48),
            _ => bail!(USAGE),
        }
    }
    Ok(plan)
}

fn prune_plan(args: &[String]) -> Result<prune::Plan> {
    let mut plan = prune::Plan { checkpoints: 200, seed: 1 };
    for pair in args.chunks(2) {
        let number = || pair.get(1).and_then(|v| v.parse::<u64>().ok()).context(USAGE);
        match pair.first().map(String::as_str) {
            Some("--checkpoints") => plan.checkpoints = number()?.clamp(30, 10_000),
            Some("--seed") => plan.seed = number()?,
            _ => bail!(USAGE),
        }
    }
    Ok(plan)
}

#[cfg(feature = "tale")]
fn tale(args: &[String]) -> Result<bool> {
    let mut plan = tale::Plan { seed: 1, size_mib: 256 };
    for pair in args.chunks(2) {
        let number = || pair.get(1).and_then(|v| v.parse::<u64>().ok()).context(USAGE);
        match pair.first().map(String::as_str) {
            Some("--seed") => plan.seed = number()?,
            Some("--size") => plan.size_mib = number()?.max(48),
            _ => bail!(USAGE),
        }
    }
    tale::run(plan)
}

#[cfg(feature = "tale")]
fn resume(args: &[String]) -> Result<bool> {
    let mut plan = resume::Plan { kills: 10, seed: 1, size_mib: 512 };
    for pair in args.chunks(2) {
        let number = || pair.get(1).and_then(|v| v.parse::<u64>().ok()).context(USAGE);
        match pair.first().map(String::as_str) {
            Some("--kills") => plan.kills = usize::try_from(number()?)?.max(1),
            Some("--seed") => plan.seed = number()?,
            Some("--size") => plan.size_mib = number()?.max(48),
            _ => bail!(USAGE),
        }
    }
    resume::run(plan)
}

#[cfg(feature = "tale")]
fn one_file(args: &[String]) -> Result<bool> {
    match args {
        [] => onefile::run(onefile::Plan { size_mib: 10_240 }),
        [size, mib] if size == "--size" => {
            onefile::run(onefile::Plan { size_mib: mib.parse::<u64>().ok().context(USAGE)?.max(64) })
        }
        _ => bail!(USAGE),
    }
}

#[cfg(not(feature = "tale"))]
fn one_file(_: &[String]) -> Result<bool> {
    bail!("built without the feature `tale`: add --features tale")
}

#[cfg(not(feature = "tale"))]
fn resume(_: &[String]) -> Result<bool> {
    bail!("built without the feature `tale`: add --features tale")
}

#[cfg(not(feature = "tale"))]
fn tale(_: &[String]) -> Result<bool> {
    bail!("built without the feature `tale`: add --features tale")
}

fn run(args: &[String]) -> Result<bool> {
    let what = args.get(1).context(USAGE)?;
    if what == "failover" {
        return failover::run(failover_plan(&args[2..])?);
    }
    if what == "tale" {
        return tale(&args[2..]);
    }
    if what == "resume" {
        return resume(&args[2..]);
    }
    if what == "one-file" {
        return one_file(&args[2..]);
    }
    if what == "malicious" {
        return malicious(&args[2..]);
    }
    if what == "prune" {
        return prune::run(prune_plan(&args[2..])?);
    }
    if what == "simulate" {
        return simulate::run(args.get(2..).unwrap_or_default());
    }
    let mut plan = Plan { every: if what == "powerloss" { 40 } else { 1 }, seed: 1, at: None };
    for pair in args.get(2..).unwrap_or_default().chunks(2) {
        let number = || pair.get(1).and_then(|v| v.parse::<u64>().ok()).context(USAGE);
        match pair.first().map(String::as_str) {
            Some("--every") => plan.every = number()?.max(1),
            Some("--seed") => plan.seed = number()?,
            Some("--at") => plan.at = Some(number()?),
            _ => bail!(USAGE),
        }
    }
    if !cfg!(feature = "faults") {
        bail!("built without the feature `faults`, so nothing would break: add --features faults");
    }
    match what.as_str() {
        "faults" => faults::run(plan),
        "points" => points::run(plan),
        "powerloss" => powerloss::run(plan),
        _ => bail!(USAGE),
    }
}
