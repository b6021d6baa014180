//! Kills a backup, a prune, a rollback and its undoing at every passing of every fail point.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chaos_tests::site::{PRUNE, Site, remove};
use chaos_tests::tree::Tree;

use crate::Plan;
use crate::workshop::{Workshop, fast_dir, tell};

/// What is killed.
#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Backup,
    Prune,
    Rollback,
    Undo,
}

const ROLLBACK: [&str; 3] = ["rollback", "1", "--apply"];
const UNDO: [&str; 2] = ["rollback", "--undo"];
const RELEASE: [&str; 3] = ["rollback", "--release", "--apply"];

impl Operation {
    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Backup => &["backup"],
            Self::Prune => &PRUNE,
            Self::Rollback => &ROLLBACK,
            Self::Undo => &UNDO,
        }
    }

    /// Makes ready what it works on.
    fn prepare(self, site: &Site) -> Result<()> {
        site.begin_again(&["home", "target"])?;
        if self == Self::Undo {
            site.expect(0, &ROLLBACK)?;
        }
        Ok(())
    }

    /// The source as it was before, and nothing kept: for the next run.
    fn clear(self, site: &Site) -> Result<()> {
        if self == Self::Rollback {
            site.expect(0, &UNDO)?;
        }
        if matches!(self, Self::Rollback | Self::Undo) {
            site.expect(0, &RELEASE)?;
        }
        Ok(())
    }
}

/// The names passed in a clean run, with how often each was.
fn learn(site: &Site, operation: Operation) -> Result<BTreeMap<String, u64>> {
    let log = site.path("points");
    remove(&log)?;
    operation.prepare(site)?;
    let ended = site.run(operation.args(), &[("ZONEWARD_POINT_LOG", log.to_str().context("an odd path")?)])?;
    ensure!(ended.code == Some(0), "the clean run failed: {}", ended.said);
    operation.clear(site)?;
    let mut names = BTreeMap::new();
    for name in std::fs::read_to_string(&log).context("reading the names of fail points")?.lines() {
        *names.entry(name.to_owned()).or_default() += 1;
    }
    ensure!(!names.is_empty(), "no fail point was passed");
    Ok(names)
}

pub fn run(plan: Plan) -> Result<bool> {
    let (shop, sites) = Workshop::open(&[fast_dir().join("site-0")])?;
    let site = sites.first().context("there is no site")?;
    let (all, mut runs, mut failures, mut points) = (Instant::now(), 0, Vec::new(), 0);
    let mut number = 0;
    println!("{:<32} {:>8} {:>8} {:>8}", "fail point", "passings", "killed", "failures");
    // Last what forgets the checkpoint that the others go back to.
    for operation in [Operation::Backup, Operation::Rollback, Operation::Undo, Operation::Prune] {
        if operation == Operation::Prune {
            site.ready_to_prune()?;
        }
        if operation == Operation::Rollback {
            site.ready_to_roll_back()?;
        }
        let names = learn(site, operation)?;
        points += names.len();
        for (name, passings) in &names {
            let (before, mut killed) = (failures.len(), 0);
            for n in 1..=*passings {
                number += 1;
                if number < plan.first()
                    || !(number - plan.first()).is_multiple_of(plan.every)
                    || plan.at.is_some_and(|a| a != number)
                {
                    continue;
                }
                match one(&shop, site, operation, &format!("{name}:{n}"), n) {
                    Ok(()) => killed += 1,
                    Err(e) => failures.push(format!("{} {name}:{n}: {e:#}", operation.args().join(" "))),
                }
            }
            runs += killed;
            println!("{name:<32} {passings:>8} {killed:>8} {:>8}", failures.len() - before);
        }
    }
    println!("{points} names, {runs} kills in {:.1} s", all.elapsed().as_secs_f64());
    Ok(tell(&failures))
}

fn one(shop: &Workshop, site: &Site, operation: Operation, point: &str, n: u64) -> Result<()> {
    operation.prepare(site)?;
    let ended = site.run(operation.args(), &[("ZONEWARD_POINT", point)])?;
    ensure!(ended.killed, "it was not killed: {}", ended.said);
    match operation {
        Operation::Backup => {
            site.expect(0, &["backup"])?;
            site.all_is_well(&shop.first, &shop.second)
        }
        Operation::Prune => {
            site.restores_as("2", &shop.second).context("before another run")?;
            site.expect(0, &PRUNE)?;
            site.is_pruned(&shop.second)
        }
        // Gone on with and undone by turns.
        Operation::Rollback if n % 2 == 1 => went_on(shop, site),
        Operation::Rollback | Operation::Undo => undone(shop, site),
    }
}

/// How a rollback stands.
fn phase(site: &Site) -> Result<Option<String>> {
    let said = site.expect(0, &["--json", "rollback"])?;
    let answer: serde_json::Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
    Ok(answer["phase"].as_str().map(str::to_owned))
}

fn is(site: &Site, want: &Tree, what: &str) -> Result<()> {
    let wrong = want.differences(&Tree::read(&site.source)?);
    ensure!(wrong.is_empty(), "{what}: {}", wrong.join("; "));
    Ok(())
}

fn went_on(shop: &Workshop, site: &Site) -> Result<()> {
    if phase(site)?.as_deref() != Some("swapped") {
        site.expect(0, &ROLLBACK)?;
    }
    site.expect(0, &RELEASE)?;
    is(site, &shop.first, "gone on with")?;
    site.expect(0, &["rollback", "2", "--apply"])?;
    site.expect(0, &RELEASE)?;
    is(site, &shop.second, "back again")?;
    site.expect(0, &["backup"]).map(drop)
}

fn undone(shop: &Workshop, site: &Site) -> Result<()> {
    if !matches!(phase(site)?.as_deref(), None | Some("undone")) {
        site.expect(0, &UNDO)?;
    }
    if phase(site)?.is_some() {
        site.expect(0, &RELEASE)?;
    }
    is(site, &shop.second, "undone")?;
    site.expect(0, &["backup"]).map(drop)
}
