//! A whole zone under one seed: nodes, disks, network, workers, operators and clients on a paused clock. First everything
//! goes wrong that we claim to survive; then all heals and the zone must go on. Each invariant has its file.
//!
//! Consensus, store, planner and `apply` are the product's own. Workers, targets and operators are simulated; they speak the
//! product's commands.

mod acknowledged;
mod client;
mod copies;
pub(crate) mod eyes;
mod fencing;
mod leaders;
mod levels;
mod logs;
mod members;
mod operator;
mod order;
mod promises;
mod reach;
mod report;
mod segments;
mod settle;
mod slots;
mod states;
mod steps;
#[cfg(test)]
mod tests;
mod troubles;
mod voice;
mod worker;
mod world;
mod zone;

use std::time::Duration;

use tokio::time::sleep;
use zoneward_sectors::ids::NodeId;

use super::Role;
use crate::planted::Planted;
use crate::store::tables::Head;

pub use crate::planted::Bug;
pub use eyes::Broken;
pub use report::Report;
use world::World;

/// Milliseconds between two looks at the nodes.
const LOOK_MS: u64 = 50;

/// How much happens in a zone: by the seed. Every eighth has something to do at each moment, half of them are quiet, as real
/// ones mostly are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calm {
    Busy,
    Steady,
    Quiet,
}

impl Calm {
    fn of(seed: u64) -> Self {
        match seed % 8 {
            0 => Self::Busy,
            1 | 2 | 5 => Self::Steady,
            _ => Self::Quiet,
        }
    }

    /// So much longer than in a busy zone it takes until people or clients want something.
    fn idle(self) -> u64 {
        match self {
            Self::Busy => 1,
            Self::Steady => 4,
            Self::Quiet => 16,
        }
    }

    /// So much longer it takes until something goes wrong.
    fn rare(self) -> u64 {
        if self == Self::Quiet { 4 } else { 1 }
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Nodes at the beginning, 3 to 7; by the seed if not given.
    pub nodes: Option<u64>,
    /// Simulated minutes of trouble, before all heals.
    pub minutes: u64,
    /// A mistake that the run is to find.
    pub bug: Option<Bug>,
}

impl Plan {
    /// Ten minutes without a mistake; half an hour of a quiet zone.
    pub fn of(seed: u64) -> Self {
        let minutes = if Calm::of(seed) == Calm::Quiet { 30 } else { 10 };
        Self { seed, nodes: None, minutes, bug: None }
    }
}

/// What is seen of one node at one moment.
pub(crate) struct Seen {
    node: NodeId,
    /// Counts the node's starts.
    life: u64,
    role: Role,
    head: Head,
}

/// Runs a zone. The same plan gives the same report, on any thread.
pub fn simulate(plan: Plan) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let planted = Planted::new(plan.bug);
    let report = runtime.block_on(run(plan));
    eyes::close();
    drop(runtime);
    drop(planted);
    super::load_dice(None);
    report
}

/// Seeds that once broke an invariant, or did not repeat: they are run first, for ever.
pub fn regressions() -> &'static [u64] {
    &[16, 32, 210, 492, 538]
}

/// How a planted mistake was found.
#[derive(Clone, Debug)]
pub struct Caught {
    pub broken: Broken,
    /// Runs that it took.
    pub seeds: u64,
    /// Simulated time of all of them.
    pub simulated_ms: u64,
}

/// Seeds that are tried for each planted mistake.
const PLANTED_SEEDS: u64 = 40;

/// Plants a mistake and runs seeds until an invariant breaks.
pub fn planted(bug: Bug) -> Option<Caught> {
    let mut simulated_ms = 0;
    for nth in 0..PLANTED_SEEDS {
        let report = simulate(Plan { bug: Some(bug), minutes: 10, ..Plan::of(first_seed(bug) + nth) });
        simulated_ms += report.virtual_ms;
        if let Some(broken) = report.broken {
            return Some(Caught { broken, seeds: nth + 1, simulated_ms });
        }
    }
    None
}

/// Where to begin: mistakes that show seldom begin with a seed that is known to show them.
fn first_seed(bug: Bug) -> u64 {
    match bug {
        Bug::RemovedClaims => 38,
        Bug::WipedReturns => 2,
        Bug::ReportUnfenced => 28,
        Bug::VoteForgotten | Bug::LeaseUnchecked => 1,
        _ => 0,
    }
}

async fn run(plan: Plan) -> Report {
    let mut world = World::new(plan).await;
    let clients = world.clients();
    let trouble = Duration::from_secs(plan.minutes * 60);
    while world.begun.elapsed() < trouble && eyes::broken().is_none() {
        if world.net().roll(100 * world.calm.rare()) == 0 {
            world.trouble().await;
        }
        world.operate().await;
        world.bury().await;
        world.look();
        sleep(Duration::from_millis(LOOK_MS)).await;
    }
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    if eyes::broken().is_none() {
        world.heal().await;
        world.settle().await;
    }
    if eyes::broken().is_none() {
        world.newer_release().await;
    }
    world.report()
}
