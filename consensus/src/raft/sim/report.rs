//! What a run came to.

use std::collections::BTreeMap;

use zoneward_sectors::ids::Digest;

use super::eyes::Broken;

/// What a run came to. Equal for equal plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub seed: u64,
    /// Nodes at the beginning.
    pub nodes: u64,
    /// A hash over what was seen of all nodes at all looks.
    pub trace: u64,
    /// SHA-256 of the state at the end.
    pub state: Option<Digest>,
    /// Number of its last entry.
    pub revision: u64,
    pub virtual_ms: u64,
    pub messages: u64,
    /// What was done to the zone, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What the zone did, by kind.
    pub work: BTreeMap<&'static str, u64>,
    pub broken: Option<Broken>,
}

impl Report {
    /// Faults of all kinds; lost and doubled messages, which are counted too, are not among them.
    pub fn fault_count(&self) -> u64 {
        self.faults.iter().filter(|(kind, _)| !kind.starts_with("messages")).map(|(_, n)| n).sum()
    }

    /// Simulated hours.
    pub fn hours(&self) -> f64 {
        self.virtual_ms as f64 / 3.6e6
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        self.virtual_ms += other.virtual_ms;
        self.messages += other.messages;
        for (kind, n) in &other.faults {
            *self.faults.entry(kind).or_default() += n;
        }
        for (kind, n) in &other.work {
            *self.work.entry(kind).or_default() += n;
        }
    }
}
