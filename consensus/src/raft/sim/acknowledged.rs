//! C2: what clients were told. Acknowledged counts, once and in the order in which it was acknowledged; what was said not
//! to be done is not; a linearizable read sees all that was acknowledged before it began.

use std::collections::BTreeMap;

use super::eyes::Found;
use crate::command::Command;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Done { revision: u64 },
    Unknown,
    NotDone,
}

#[derive(Debug, Default)]
pub struct Acknowledged {
    /// By the number that the command carries.
    told: BTreeMap<u64, Told>,
    /// Where it stands in the log that was applied.
    counts: BTreeMap<u64, u64>,
    /// Highest revision acknowledged so far.
    pub floor: u64,
    pub reads: u64,
}

/// A command that carries its number: the zone's name.
pub fn command(k: u64) -> Command {
    Command::SetZone { name: Some(format!("zone-{k}")), sector_min_log2: None, zstd_level: None }
}

fn number(command: &Command) -> Option<u64> {
    match command {
        Command::SetZone { name: Some(name), .. } => name.strip_prefix("zone-")?.parse().ok(),
        _ => None,
    }
}

impl Acknowledged {
    /// A new command, and the highest revision acknowledged before it.
    pub fn ask(&mut self) -> (u64, u64) {
        let k = self.told.len() as u64;
        self.told.insert(k, Told::Unknown);
        (k, self.floor)
    }

    pub fn tell(&mut self, k: u64, floor: u64, told: Told, found: &mut Found) {
        if let Told::Done { revision } = told {
            found.demand(revision > floor, "C2", || {
                format!("command {k} counts as {revision}, and {floor} was acknowledged before it was proposed")
            });
            self.floor = self.floor.max(revision);
        }
        self.told.insert(k, told);
    }

    /// A linearizable read that began when `floor` was acknowledged saw the state of `revision`.
    pub fn read(&mut self, floor: u64, revision: u64, found: &mut Found) {
        self.reads += 1;
        found.demand(revision >= floor, "C2", || {
            format!("a read saw revision {revision}, and {floor} was acknowledged before it began")
        });
    }

    /// An entry is applied for the first time.
    pub fn entry(&mut self, index: u64, command: &Command, found: &mut Found) {
        let Some(k) = number(command) else { return };
        if let Some(before) = self.counts.insert(k, index) {
            found.broke("C2", format!("command {k} counts twice, as {before} and {index}"));
        }
        if self.told.get(&k) == Some(&Told::NotDone) {
            found.broke("C2", format!("command {k} counts as {index} and was said not to be done"));
        }
    }

    /// At the end, when all nodes have applied everything.
    pub fn check(&self, found: &mut Found) {
        for (k, told) in &self.told {
            let counts = self.counts.get(k);
            match told {
                Told::Done { revision } => found.demand(counts == Some(revision), "C2", || {
                    format!("command {k} was acknowledged as {revision} and stands at {counts:?}")
                }),
                Told::NotDone => found.demand(counts.is_none(), "C2", || {
                    format!("command {k} was said not to be done and stands at {counts:?}")
                }),
                Told::Unknown => {}
            }
        }
    }

    /// Acknowledged, unknown.
    pub fn counts(&self) -> (u64, u64) {
        let count = |f: fn(&Told) -> bool| self.told.values().filter(|t| f(t)).count() as u64;
        (count(|t| matches!(t, Told::Done { .. })), count(|t| matches!(t, Told::Unknown)))
    }
}
