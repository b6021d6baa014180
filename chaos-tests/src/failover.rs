//! Real daemons that are killed: of three nodes the one that packs, the one that copies or the one that leads dies by
//! SIGKILL at seeded moments, and the others must go on.
//!
//! What is measured: how long until another node's bytes move on the same work, and, when the leader died, how long until
//! a command is committed again. What must hold: every checkpoint completes and comes back without a difference, nothing
//! is sealed or stored twice with different results, and all nodes hold the same state in the end.

pub mod fleet;
pub mod source;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use zoneward::daemon::client::Client;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::State;
use zoneward_consensus::work::Work;

use fleet::Fleet;
use source::{Dice, Source};

/// How a run is set up.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub kills: usize,
    pub seed: u64,
    /// MiB of the source.
    pub size_mib: u64,
}

/// No checkpoint takes this long, whatever is killed.
const HANG: Duration = Duration::from_secs(120);
/// Kills in one checkpoint, then it is left in peace.
const KILLS_EACH: usize = 5;
/// A part of the source that is new in each checkpoint: one in so many files.
const CHANGED: u64 = 24;
const POLL: Duration = Duration::from_millis(10);
/// The whole state is asked for so often while a node is dead: that is work for the ones that live.
const LOOK: Duration = Duration::from_millis(100);
/// What takes longer is told, with whom it struck.
const LONG: Duration = Duration::from_millis(2500);

/// Whom a kill is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Packer,
    Uploader,
    Leader,
}

impl Victim {
    const ALL: [Self; 3] = [Self::Packer, Self::Uploader, Self::Leader];

    fn name(self) -> &'static str {
        match self {
            Self::Packer => "packing node",
            Self::Uploader => "copying node",
            Self::Leader => "leader",
        }
    }
}

/// What was measured.
#[derive(Default)]
struct Figures {
    kills: BTreeMap<Victim, usize>,
    /// From the kill until another node's bytes moved on the same work.
    moved: Vec<Duration>,
    /// From a leader's kill until a command was committed.
    committed: Vec<Duration>,
    /// The longest read for display while the leader was dead.
    blind: Vec<Duration>,
    /// Work that was over before another node had to take it.
    finished: usize,
}

fn at(sorted: &[Duration], per_mille: usize) -> Duration {
    let i = (sorted.len() * per_mille).div_ceil(1000).saturating_sub(1);
    sorted.get(i).copied().unwrap_or_default()
}

fn row(name: &str, all: &mut [Duration], goal: Option<(usize, u64)>) {
    all.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    let verdict = match goal {
        Some((which, limit)) if all.is_empty() => format!("goal p{}: {limit} ms, nothing measured", which / 10),
        Some((which, limit)) => {
            let met = ms(at(all, which)) < limit as f64;
            format!("goal p{} < {limit} ms: {}", which / 10, if met { "met" } else { "MISSED" })
        }
        None => String::new(),
    };
    println!(
        "{name:<44} {:>5} {:>8.0} {:>8.0} {:>8.0}  {verdict}",
        all.len(),
        ms(at(all, 500)),
        ms(at(all, 990)),
        ms(at(all, 1000))
    );
}

pub fn run(plan: Plan) -> Result<bool> {
    let begun = Instant::now();
    let mut fleet = Fleet::open()?;
    let mut dice = Dice::new(plan.seed);
    let mut source = Source::make(&fleet.dir.join("source"), plan.size_mib, plan.seed)?;
    fleet.found(&source)?;
    println!("three nodes, two targets, {} MiB on a shared path, seed {}", plan.size_mib, plan.seed);
    let (commits, at_rest) = quiet(&fleet)?;
    let (mut figures, mut kept) = (Figures::default(), Vec::new());
    let victims = victims(plan.kills, &mut dice);
    let (mut killed, mut idle) = (0, 0);
    while killed < plan.kills {
        let seq = kept.len() as u64 + 1;
        if seq > 1 {
            source.change(CHANGED, seq)?;
        }
        // The first holds everything and is made in peace.
        let next = if seq == 1 { &[] } else { &victims[killed..plan.kills.min(killed + KILLS_EACH)] };
        let before = killed;
        killed += checkpoint(&mut fleet, &mut dice, &mut figures, next, seq)?;
        idle = if killed == before { idle + 1 } else { 0 };
        ensure!(
            idle < 10,
            "in ten checkpoints nobody was at work as the {}\n{}",
            victims[killed].name(),
            fleet.told(&[])
        );
        kept.push(source.clone());
        if seq == 1 {
            fleet.slow_down(&source)?;
        }
        eprintln!(
            "checkpoint {seq} is complete, {killed} of {} kills, {:.0} s",
            plan.kills,
            begun.elapsed().as_secs_f64()
        );
    }
    fleet.all_up()?;
    let states = fleet.settle(HANG)?;
    ensure!(states.windows(2).all(|w| w[0] == w[1]), "the nodes ended with different states");
    let restored = restore_all(&fleet, &mut dice, &kept)?;
    fleet.expect(0, 0, &["check", "--read-data"])?;
    println!("\n{:<44} {:>5} {:>8} {:>8} {:>8}", "milliseconds", "n", "p50", "p99", "max");
    row("kill until another node's bytes move", &mut figures.moved, Some((990, 3000)));
    row("leader's kill until the next commit", &mut figures.committed.clone(), Some((990, 2500)));
    row("  the same, median", &mut figures.committed, Some((500, 1500)));
    row("the longest read for display meanwhile", &mut figures.blind, None);
    row("a committed command, three idle nodes", &mut commits.clone(), Some((990, 20)));
    println!("an idle node: {:.1} MiB, {:.2} % of a core (goals 60 MiB, 1 %)", at_rest.0, at_rest.1);
    let kills = figures.kills.iter().map(|(v, n)| format!("{n} × {}", v.name())).collect::<Vec<_>>().join(", ");
    println!("{killed} kills ({kills}); {} times the work was over at once", figures.finished);
    println!(
        "{} checkpoints complete, {restored} restored, 0 differences; {:.0} s",
        kept.len(),
        begun.elapsed().as_secs_f64()
    );
    Ok(true)
}

/// As many of each kind as can be, in any order.
fn victims(kills: usize, dice: &mut Dice) -> Vec<Victim> {
    let mut all: Vec<Victim> = (0..kills).map(|i| Victim::ALL[i % 3]).collect();
    for i in (1..all.len()).rev() {
        all.swap(i, dice.below(i as u64 + 1) as usize);
    }
    all
}

/// Commands on a zone at rest, and what a node takes that does nothing.
fn quiet(fleet: &Fleet) -> Result<(Vec<Duration>, (f64, f64))> {
    let client = fleet.client(1)?;
    let mut all = Vec::new();
    for i in 0..300 {
        let command = Command::SetZone { name: Some(format!("home-{i}")), sector_min_log2: None, zstd_level: None };
        let t = Instant::now();
        fleet::propose(&client, &command)?;
        all.push(t.elapsed());
    }
    Ok((all, fleet.idle(2, Duration::from_secs(10))?))
}

/// One checkpoint from its opening to its end; meanwhile these victims are killed, one after the other, each when it is
/// at work. Answers how many were.
fn checkpoint(
    fleet: &mut Fleet,
    dice: &mut Dice,
    figures: &mut Figures,
    victims: &[Victim],
    seq: u64,
) -> Result<usize> {
    fleet.all_up()?;
    let id = fleet.open_checkpoint(dice.below(3) as usize)?;
    let (begun, mut done) = (Instant::now(), 0);
    loop {
        ensure!(begun.elapsed() < HANG, "checkpoint {seq} does not end");
        let state = fleet.any_state()?;
        if fleet::is_over(&state, id) {
            return Ok(done);
        }
        if let Some(victim) = victims.get(done).filter(|_| fleet.full()) {
            if let Some((node, work)) = find(fleet, *victim)? {
                std::thread::sleep(Duration::from_millis(dice.below(60)));
                kill(fleet, figures, *victim, node, &work)?;
                done += 1;
                std::thread::sleep(Duration::from_millis(dice.below(400)));
                fleet.start(node)?;
            }
        } else {
            fleet.all_up()?;
        }
        std::thread::sleep(POLL);
    }
}

/// The node that does what the victim is to be doing, with its work.
fn find(fleet: &Fleet, victim: Victim) -> Result<Option<(usize, Vec<Work>)>> {
    for node in fleet.alive() {
        let Ok(client) = fleet.client(node) else { continue };
        let steps = client.steps().unwrap_or_default();
        let of_kind = |kinds: &[&str]| steps.iter().find(|s| kinds.contains(&s.kind.as_str()) && s.done_bytes > 0);
        let found = match victim {
            Victim::Packer => of_kind(&["pack"]).map(|s| s.work.clone()),
            Victim::Uploader => of_kind(&["upload", "rebuild"]).map(|s| s.work.clone()),
            Victim::Leader => {
                let leads = fleet.leader(node)? == Some(fleet.id(node));
                leads.then(|| steps.iter().flat_map(|s| s.work.clone()).collect())
            }
        };
        if let Some(work) = found {
            return Ok(Some((node, work)));
        }
    }
    Ok(None)
}

fn kill(fleet: &mut Fleet, figures: &mut Figures, victim: Victim, node: usize, work: &[Work]) -> Result<()> {
    let led = fleet.leader(node)? == Some(fleet.id(node));
    let t = Instant::now();
    fleet.kill(node)?;
    *figures.kills.entry(victim).or_default() += 1;
    let alive = fleet.alive();
    let clients = alive.iter().map(|n| fleet.client(*n)).collect::<Result<Vec<_>>>()?;
    let watch = led.then(|| Commit::watch(clients[0].clone(), t));
    let (mut moved, mut last, mut blind) = (work.is_empty().then_some(None), t, Duration::ZERO);
    let (mut committed, mut seen) = (None, Seen::default());
    let mut state = clients[0].state(None)?.context("a node without a state")?;
    while moved.is_none() || (watch.is_some() && committed.is_none()) {
        if t.elapsed() > HANG {
            let told = format!("{}, moved: {moved:?}, committed: {}", victim.name(), committed.is_some());
            bail!("nobody goes on after node {node} died ({told})\n{}", fleet.told(work));
        }
        if last.elapsed() >= LOOK {
            let asked = Instant::now();
            state = clients[0].state(None)?.context("a node without a state")?;
            blind = blind.max(asked.elapsed());
            // Who is asked how all do asks the dead one too, and waits a second for it: not while a figure depends on it.
            if t.elapsed() > LONG {
                seen.look(&clients, &state, t);
            }
            last = Instant::now();
        }
        if moved.is_none() {
            moved = goes_on(&clients, &state, fleet.id(node), work, t);
        }
        if let Some(w) = watch.as_ref().filter(|_| committed.is_none()) {
            committed = w.done();
        }
        std::thread::sleep(POLL);
    }
    if t.elapsed() > LONG {
        let role = if led { ", which led," } else { "" };
        eprintln!("the {}{role} was killed: moved after {moved:?}, committed after {committed:?}", victim.name());
        eprint!("{}", seen.0.concat());
    }
    match moved.flatten() {
        Some(d) => figures.moved.push(d),
        None if work.is_empty() => {}
        None => figures.finished += 1,
    }
    if let Some(d) = committed {
        figures.committed.push(d?);
        figures.blind.push(blind);
    }
    Ok(())
}

/// What the living showed while a node was dead, each time that it changed.
#[derive(Default)]
struct Seen(Vec<String>, String);

impl Seen {
    fn look(&mut self, clients: &[Client], state: &State, since: Instant) {
        let node = |id: zoneward_sectors::ids::NodeId| format!("{id:.4}").chars().take(4).collect::<String>();
        let mut now = String::new();
        for s in clients.iter().filter_map(|c| c.status().ok()) {
            now += &format!("  {} {} in term {} follows {:?};", node(s.node), s.role, s.term, s.leader.map(node));
        }
        let held =
            state.leases.values().map(|l| format!("{} by {}", l.work.first().map_or("", Work::kind), node(l.node)));
        now += &format!(" held: {}\n", held.collect::<Vec<_>>().join(", "));
        if now != self.1 {
            self.0.push(format!("{:>6} ms{now}", since.elapsed().as_millis()));
            self.1 = now;
        }
    }
}

/// Whether the work goes on: `Some(Some(t))` if another node's bytes move on it, `Some(None)` if it is over.
fn goes_on(
    clients: &[Client],
    state: &State,
    dead: zoneward_sectors::ids::NodeId,
    work: &[Work],
    since: Instant,
) -> Option<Option<Duration>> {
    for client in clients {
        let steps = client.steps().unwrap_or_default();
        if steps.iter().any(|s| s.done_bytes > 0 && s.work.iter().any(|w| work.contains(w))) {
            return Some(Some(since.elapsed()));
        }
    }
    let held = state.leases.values().any(|l| l.node == dead && l.work.iter().any(|w| work.contains(w)));
    let open = zoneward_consensus::plan::plan(state, 0).iter().any(|w| work.contains(w));
    let taken = state.leases.values().any(|l| l.work.iter().any(|w| work.contains(w)));
    (!held && !open && !taken).then_some(None)
}

/// A command that is proposed as soon as the leader is dead.
struct Commit(std::sync::mpsc::Receiver<Result<Duration>>);

impl Commit {
    fn watch(client: Client, since: Instant) -> Self {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let command = Command::SetZone { name: Some("home".into()), sector_min_log2: None, zstd_level: None };
            // If nobody waits any more, the run has failed already.
            let _ = tell.send(fleet::propose(&client, &command).map(|()| since.elapsed()));
        });
        Self(told)
    }

    fn done(&self) -> Option<Result<Duration>> {
        self.0.try_recv().ok()
    }
}

/// Restores every checkpoint on some node and compares it with what the source held then.
fn restore_all(fleet: &Fleet, dice: &mut Dice, kept: &[Source]) -> Result<usize> {
    for (i, source) in kept.iter().enumerate() {
        let to = fleet.dir.join("restored");
        let node = dice.below(3) as usize;
        let text = to.to_str().context("the folder's name is no text")?;
        fleet.expect(node, 0, &["restore", &(i + 1).to_string(), "--to", text])?;
        if let Some(what) = source.differs(&to)? {
            bail!("checkpoint {} came back different: {what}", i + 1);
        }
        std::fs::remove_dir_all(&to)?;
    }
    Ok(kept.len())
}
