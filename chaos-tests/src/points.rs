//! Kills a backup, and a restore, at every passing of every fail point.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chaos_tests::site::{Site, remove};

use crate::Plan;
use crate::workshop::{Workshop, fast_dir, tell};

/// The names passed in a clean backup, with how often each was.
fn learn(site: &Site) -> Result<BTreeMap<String, u64>> {
    let log = site.path("points");
    remove(&log)?;
    site.begin_again(&["home", "target"])?;
    let ended = site.run(&["backup"], &[("ZONEWARD_POINT_LOG", log.to_str().context("an odd path")?)])?;
    ensure!(ended.code == Some(0), "the clean backup failed: {}", ended.said);
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
    let names = learn(site)?;
    let (all, mut runs, mut failures) = (Instant::now(), 0, Vec::new());
    println!("{:<32} {:>8} {:>8} {:>8}", "fail point", "passings", "killed", "failures");
    let mut number = 0;
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
            match one(&shop, site, &format!("{name}:{n}")) {
                Ok(()) => killed += 1,
                Err(e) => failures.push(format!("{name}:{n}: {e:#}")),
            }
        }
        runs += killed;
        println!("{name:<32} {passings:>8} {killed:>8} {:>8}", failures.len() - before);
    }
    println!("{} names, {runs} kills in {:.1} s", names.len(), all.elapsed().as_secs_f64());
    Ok(tell(&failures))
}

fn one(shop: &Workshop, site: &Site, point: &str) -> Result<()> {
    site.begin_again(&["home", "target"])?;
    let ended = site.run(&["backup"], &[("ZONEWARD_POINT", point)])?;
    ensure!(ended.killed, "it was not killed: {}", ended.said);
    site.expect(0, &["backup"])?;
    site.all_is_well(&shop.first, &shop.second)
}
