//! Kills a backup, and a prune, at every passing of every fail point.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chaos_tests::site::{PRUNE, Site, remove};

use crate::Plan;
use crate::workshop::{Workshop, fast_dir, tell};

/// What is killed.
#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Backup,
    Prune,
}

impl Operation {
    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Backup => &["backup"],
            Self::Prune => &PRUNE,
        }
    }
}

/// The names passed in a clean run, with how often each was.
fn learn(site: &Site, operation: Operation) -> Result<BTreeMap<String, u64>> {
    let log = site.path("points");
    remove(&log)?;
    site.begin_again(&["home", "target"])?;
    let ended = site.run(operation.args(), &[("ZONEWARD_POINT_LOG", log.to_str().context("an odd path")?)])?;
    ensure!(ended.code == Some(0), "the clean run failed: {}", ended.said);
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
    for operation in [Operation::Backup, Operation::Prune] {
        if operation == Operation::Prune {
            site.ready_to_prune()?;
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
                match one(&shop, site, operation, &format!("{name}:{n}")) {
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

fn one(shop: &Workshop, site: &Site, operation: Operation, point: &str) -> Result<()> {
    site.begin_again(&["home", "target"])?;
    let ended = site.run(operation.args(), &[("ZONEWARD_POINT", point)])?;
    ensure!(ended.killed, "it was not killed: {}", ended.said);
    if operation == Operation::Prune {
        site.restores_as("2", &shop.second).context("before another run")?;
        site.expect(0, &PRUNE)?;
        return site.is_pruned(&shop.second);
    }
    site.expect(0, &["backup"])?;
    site.all_is_well(&shop.first, &shop.second)
}
