//! Fails or kills the n-th file call of a backup, of a restore and of a prune, for every n.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chaos_tests::site::{Ended, PRUNE, Site, remove};

use crate::Plan;
use crate::workshop::{WORKERS, Workshop, fast_dir, tell};

const ACTIONS: [&str; 3] = ["eio", "enospc", "kill"];
/// Runs that pass without their fault before a loop ends: threads make the number of calls differ a little.
const UNFIRED_MAX: u64 = 3;

#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Backup,
    Restore,
    Prune,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Prune => "prune",
        }
    }
}

/// What one loop over all calls came to.
#[derive(Default)]
struct Row {
    runs: u64,
    unfired: u64,
    calls_max: u64,
    /// Exit codes of runs whose fault fired.
    codes: BTreeMap<String, u64>,
    failures: Vec<String>,
}

pub fn run(plan: Plan) -> Result<bool> {
    let sites: Vec<_> = (0..WORKERS).map(|w| fast_dir().join(format!("site-{w}"))).collect();
    let (shop, sites) = Workshop::open(&sites)?;
    let mut failures = Vec::new();
    let all = Instant::now();
    println!("{:<8} {:<7} {:>6} {:>6} {:>8} {:>8}  exit codes", "run", "fault", "calls", "runs", "seconds", "failures");
    for operation in [Operation::Backup, Operation::Restore, Operation::Prune] {
        for s in &sites {
            match operation {
                Operation::Backup => {}
                Operation::Restore => {
                    s.begin_again(&["home", "target"])?;
                    s.expect(0, &["backup"])?;
                    s.keep()?;
                }
                Operation::Prune => s.ready_to_prune()?,
            }
        }
        for action in ACTIONS {
            let (started, row) = (Instant::now(), every_call(&shop, &sites, operation, action, plan)?);
            let name = operation.name();
            let codes: Vec<_> = row.codes.iter().map(|(c, n)| format!("{c}: {n}")).collect();
            println!(
                "{name:<8} {action:<7} {:>6} {:>6} {:>8.1} {:>8}  {}",
                row.calls_max,
                row.runs,
                started.elapsed().as_secs_f64(),
                row.failures.len(),
                codes.join(", ")
            );
            failures.extend(row.failures.into_iter().map(|f| format!("{name} {action} {f}")));
        }
    }
    println!("in all {:.1} s", all.elapsed().as_secs_f64());
    Ok(tell(&failures))
}

fn every_call(shop: &Workshop, sites: &[Site], operation: Operation, action: &str, plan: Plan) -> Result<Row> {
    let next = AtomicU64::new(plan.first());
    let row = Mutex::new(Row::default());
    let worker = |site: &Site| -> Result<()> {
        loop {
            let n = next.fetch_add(plan.every, Ordering::SeqCst);
            if row.lock().is_ok_and(|r| r.unfired >= UNFIRED_MAX) || plan.at.is_some_and(|at| n != at) {
                return Ok(());
            }
            let fault = format!("{n}:{action}");
            let outcome = match operation {
                Operation::Backup => backup(shop, site, &fault),
                Operation::Restore => restore(shop, site, &fault),
                Operation::Prune => prune(shop, site, &fault),
            };
            let Ok(mut row) = row.lock() else { return Ok(()) };
            match outcome {
                Ok((ended, checked)) => {
                    row.calls_max = row.calls_max.max(ended.calls.unwrap_or(0));
                    let fired = ended.killed || ended.calls.is_some_and(|c| c >= n);
                    if fired {
                        row.runs += 1;
                        let code = ended.code.map_or_else(|| "killed".to_owned(), |c| c.to_string());
                        *row.codes.entry(code).or_default() += 1;
                    } else {
                        row.unfired += 1;
                    }
                    if let Err(e) = checked {
                        row.failures.push(format!("{n}: {e:#}\n    the run said: {}", ended.said.trim()));
                    }
                }
                Err(e) => row.failures.push(format!("{n}: {e:#}")),
            }
        }
    };
    let mut results = Vec::new();
    std::thread::scope(|scope| {
        let running: Vec<_> = sites.iter().map(|s| scope.spawn(move || worker(s))).collect();
        results = running.into_iter().map(|r| r.join()).collect();
    });
    for r in results {
        r.map_err(|_| anyhow::anyhow!("a worker panicked"))??;
    }
    row.into_inner().context("a worker panicked")
}

/// How a run ended, and whether all was well afterwards.
type Tried = Result<(Ended, Result<()>)>;

fn backup(shop: &Workshop, site: &Site, fault: &str) -> Tried {
    site.begin_again(&["home", "target"])?;
    let ended = site.run(&["backup"], &[("ZONEWARD_FAULT", fault)])?;
    let checked = after_backup(shop, site, &ended);
    Ok((ended, checked))
}

fn after_backup(shop: &Workshop, site: &Site, ended: &Ended) -> Result<()> {
    ended.in_order()?;
    ensure!(ended.code != Some(5), "a failing call is called damage");
    if ended.code == Some(0) {
        // What was acknowledged must be there without any further run.
        site.restores_as("latest", &shop.second).context("acknowledged")?;
    }
    site.expect(0, &["backup"])?;
    site.all_is_well(&shop.first, &shop.second)
}

fn prune(shop: &Workshop, site: &Site, fault: &str) -> Tried {
    site.begin_again(&["home", "target"])?;
    let ended = site.run(&PRUNE, &[("ZONEWARD_FAULT", fault)])?;
    let checked = ended.in_order().and_then(|()| {
        ensure!(ended.code != Some(5), "a failing call is called damage");
        // Whatever happened, all that is kept is there at once.
        site.restores_as("2", &shop.second).context("before another run")?;
        site.expect(0, &PRUNE)?;
        site.is_pruned(&shop.second)
    });
    Ok((ended, checked))
}

fn restore(shop: &Workshop, site: &Site, fault: &str) -> Tried {
    // Each run begins with the same home: it may have left something in it.
    site.begin_again(&["home"])?;
    remove(&site.path("again"))?;
    let ended = site.run(&["restore", "latest", "--to", "again"], &[("ZONEWARD_FAULT", fault)])?;
    let checked = after_restore(shop, site, &ended);
    Ok((ended, checked))
}

fn after_restore(shop: &Workshop, site: &Site, ended: &Ended) -> Result<()> {
    ended.in_order()?;
    ensure!(ended.code != Some(5), "a failing call is called damage");
    if ended.code == Some(0) {
        site.same("again", &shop.second).context("acknowledged")?;
    }
    site.expect(0, &["restore", "latest", "--to", "again"])?;
    site.same("again", &shop.second)
}
