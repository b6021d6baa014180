//! Whole zones on simulated time, one after another on each core, until so many simulated hours have passed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use zoneward_consensus::raft::sim::{Bug, Plan, Report, planted, regressions, simulate};

const USAGE: &str =
    "usage: chaos-tests simulate [--hours H] [--seed S] [--nodes N] [--minutes M] [--cores C] [--twice] [--quiet]
       chaos-tests simulate --planted
  --hours H    go on until so many simulated hours have passed [default: 100]
  --seed S     only this seed
  --from S     the first of the seeds [default: 0]; seeds that once failed come before it
  --nodes N    3 to 7 nodes at the beginning [default: by the seed]
  --minutes M  simulated minutes of trouble in each run [default: 10, in quiet zones 30]
  --cores C    so many runs at once [default: all cores]
  --twice      run every seed twice and compare [default: two of 40]
  --quiet      only the sums
  --planted    plant each known mistake, and print which invariant finds it and how soon";

/// Of so many seeds two are run twice, and both runs must be alike: one of a busy zone, one of a calm one.
const TWICE_OF: u64 = 40;

struct Options {
    hours: f64,
    seed: Option<u64>,
    from: u64,
    nodes: Option<u64>,
    minutes: Option<u64>,
    cores: usize,
    twice: bool,
    quiet: bool,
    planted: bool,
}

fn options(args: &[String]) -> Result<Options> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut o = Options {
        hours: 100.0,
        seed: None,
        from: 0,
        nodes: None,
        minutes: None,
        cores,
        twice: false,
        quiet: false,
        planted: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|v| v.parse::<u64>().ok()).context(USAGE);
        match arg.as_str() {
            "--hours" => o.hours = number()? as f64,
            "--seed" => o.seed = Some(number()?),
            "--from" => o.from = number()?,
            "--nodes" => o.nodes = Some(number()?).filter(|n| (3..=7).contains(n)),
            "--minutes" => o.minutes = Some(number()?.clamp(1, 600)),
            "--cores" => o.cores = number()?.clamp(1, 64) as usize,
            "--twice" => o.twice = true,
            "--quiet" => o.quiet = true,
            "--planted" => o.planted = true,
            _ => bail!(USAGE),
        }
    }
    Ok(o)
}

/// Runs what the arguments ask for. `false`: an invariant was broken, or a planted mistake was not found.
pub fn run(args: &[String]) -> Result<bool> {
    let o = options(args)?;
    if o.planted { Ok(plant()) } else { hours(&o) }
}

/// What all runs came to.
#[derive(Default)]
struct Sums {
    all: Report,
    runs: u64,
    compared: u64,
    bad: Vec<u64>,
}

fn hours(o: &Options) -> Result<bool> {
    let begun = Instant::now();
    let (next, enough) = (AtomicU64::new(0), AtomicBool::new(false));
    let sums = Mutex::new(Sums::default());
    std::thread::scope(|scope| {
        let cores: Vec<_> = (0..o.cores).map(|_| scope.spawn(|| core(o, &next, &enough, &sums))).collect();
        cores.into_iter().try_for_each(|c| c.join().map_err(|_| anyhow::anyhow!("a run panicked: see above")))
    })?;
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    print_sums(&sums, begun.elapsed(), o.cores);
    Ok(sums.bad.is_empty())
}

fn core(o: &Options, next: &AtomicU64, enough: &AtomicBool, sums: &Mutex<Sums>) {
    while !enough.load(Ordering::Relaxed) {
        let nth = next.fetch_add(1, Ordering::Relaxed);
        let known = regressions().len() as u64;
        let seed = match o.seed {
            Some(_) if nth > 0 => return,
            Some(seed) => seed,
            None if o.from == 0 && nth < known => regressions()[nth as usize],
            None if o.from == 0 => nth - known,
            None => o.from + nth,
        };
        let plan = Plan::of(seed);
        let plan = Plan { nodes: o.nodes, minutes: o.minutes.unwrap_or(plan.minutes), ..plan };
        let begun = Instant::now();
        let mut report = simulate(plan);
        let took = begun.elapsed();
        let twice = o.twice || o.seed.is_some() || [0, 21].contains(&(seed % TWICE_OF));
        let differs = twice && simulate(plan) != report;
        let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
        sums.runs += 1;
        sums.compared += u64::from(twice);
        sums.all.add(&report);
        if report.broken.is_some() || differs {
            sums.bad.push(seed);
        }
        if sums.all.hours() >= o.hours || sums.bad.len() > 20 {
            enough.store(true, Ordering::Relaxed);
        }
        if !o.quiet || report.broken.is_some() || differs {
            print_run(&mut report, took, twice, differs);
        }
    }
}

fn print_run(r: &mut Report, took: Duration, twice: bool, differs: bool) {
    let (state, speed) = (r.state.map(|d| d.to_string()).unwrap_or_default(), speed(r.virtual_ms, took));
    let again = match (twice, differs) {
        (false, _) => "",
        (true, false) => "  twice, alike",
        (true, true) => "  TWICE, AND NOT ALIKE",
    };
    println!(
        "seed {:<6} {} nodes  {:>5.2} h  {:>4} faults  {:>7} messages  {:>6.0} x  revision {:>5}  state {:.12}  trace {:016x}{again}",
        r.seed,
        r.nodes,
        r.hours(),
        r.fault_count(),
        r.messages,
        speed,
        r.revision,
        state,
        r.trace,
    );
    if let Some(b) = &r.broken {
        println!("  BROKEN {} at {:.2} s: {}", b.invariant, b.at_ms as f64 / 1e3, b.what);
        println!("  again: chaos-tests simulate --seed {}", r.seed);
    }
}

fn speed(virtual_ms: u64, took: Duration) -> f64 {
    virtual_ms as f64 / 1e3 / took.as_secs_f64().max(1e-9)
}

fn print_sums(s: &Sums, took: Duration, cores: usize) {
    println!();
    for (what, counts) in [("faults", &s.all.faults), ("the zones did", &s.all.work)] {
        println!("{what}:");
        counts.iter().for_each(|(kind, n)| println!("  {n:>10}  {kind}"));
    }
    println!(
        "\n{} runs, {} of them twice; {:.1} cluster-hours, {} faults, {} messages in {:.1} s: {:.0} x real time on {cores} cores",
        s.runs,
        s.compared,
        s.all.hours(),
        s.all.fault_count(),
        s.all.messages,
        took.as_secs_f64(),
        speed(s.all.virtual_ms, took),
    );
    match &s.bad[..] {
        [] => println!("no invariant was broken"),
        bad => println!("BROKEN, or not the same twice: seeds {bad:?}"),
    }
}

/// Plants each known mistake and prints who finds it.
fn plant() -> bool {
    println!("{:<22} {:<10} {:>8} {:>14} {:>6}", "mistake", "invariant", "seconds", "simulated s", "seeds");
    let mut all = true;
    for bug in Bug::ALL {
        let begun = Instant::now();
        let name = format!("{bug:?}");
        match planted(bug) {
            Some(found) => println!(
                "{name:<22} {:<10} {:>8.2} {:>14.1} {:>6}",
                found.broken.invariant,
                begun.elapsed().as_secs_f64(),
                found.simulated_ms as f64 / 1e3,
                found.seeds,
            ),
            None => {
                all = false;
                println!("{name:<22} NOT FOUND {:>8.2}", begun.elapsed().as_secs_f64());
            }
        }
    }
    all
}
