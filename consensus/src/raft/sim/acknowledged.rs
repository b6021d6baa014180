//! C2: what clients were told. Acknowledged counts, once and in the order in which it was acknowledged; what was said not
//! to be done is not; a linearizable read sees all that was acknowledged before it began.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use super::states::States;
use crate::command::Command;
use crate::raft::net::Net;
use crate::raft::{Consensus, ProposeError};
use crate::samples as s;

#[derive(Debug)]
enum Told {
    Done { revision: u64 },
    Unknown,
    NotDone,
}

#[derive(Debug, Default)]
pub struct History {
    /// By the number that the command carries.
    told: BTreeMap<u64, Told>,
    next: u64,
    /// Highest revision acknowledged so far.
    floor: u64,
    reads: usize,
}

/// Proposes and reads at any node, until it is stopped.
pub async fn client(id: u64, net: Arc<Net>, history: Arc<Mutex<History>>) {
    loop {
        sleep(Duration::from_millis(20 + net.roll(300))).await;
        let Some(node) = net.any() else { continue };
        if net.roll(4) == 0 {
            read(&node, &history).await;
            continue;
        }
        let (k, floor) = {
            let mut h = history.lock().unwrap();
            h.next += 1;
            (h.next, h.floor)
        };
        history.lock().unwrap().told.insert(k, Told::Unknown);
        // Where a leader is known it is asked, as a daemon would.
        let node = node.leader().and_then(|l| net.get(l)).unwrap_or(node);
        let told = match node.propose(1000 + k * 10 + id, &command(k)).await {
            Ok(reply) => {
                assert!(reply.revision > floor, "{k} counts before what was acknowledged before it was proposed");
                Told::Done { revision: reply.revision }
            }
            Err(ProposeError::NotLeader { .. } | ProposeError::Busy) => Told::NotDone,
            Err(_) => Told::Unknown,
        };
        let mut h = history.lock().unwrap();
        if let Told::Done { revision } = told {
            h.floor = h.floor.max(revision);
        }
        h.told.insert(k, told);
    }
}

/// A command that carries its number in the log: a name of the zone.
fn command(k: u64) -> Command {
    match k % 3 {
        0 => s::put_source(1 + (k % 3) as u8, format!("/h/{k}").as_bytes(), 1),
        _ => Command::SetZone { name: Some(format!("zone-{k}")), sector_min_log2: None, zstd_level: None },
    }
}

async fn read(node: &Consensus, history: &Arc<Mutex<History>>) {
    let floor = history.lock().unwrap().floor;
    if let Ok(state) = node.linearizable().await {
        assert!(state.revision >= floor, "a read saw {} and {floor} was acknowledged before it", state.revision);
        history.lock().unwrap().reads += 1;
    }
}

impl History {
    /// Compares with the log of the nodes, as far as they still have it.
    pub fn check(&self, states: &States, nodes: &[Consensus]) {
        assert!(self.floor <= states.newest(), "an acknowledged command is lost");
        let mut found: BTreeMap<u64, u64> = BTreeMap::new();
        let ledger = nodes[0].0.storage.ledger();
        for entry in ledger.entries(..=ledger.head.revision(), usize::MAX).unwrap() {
            let openraft::EntryPayload::Normal(e) = &entry.payload else { continue };
            // The time that the client chose carries its number.
            let k = (e.time_ms - 1000) / 10;
            if self.told.contains_key(&k) {
                assert_eq!(found.insert(k, entry.log_id.index), None, "the command {k} counts twice");
            }
        }
        let first = ledger.head.purged.map_or(0, |id| id.index + 1);
        for (k, told) in &self.told {
            match told {
                Told::Done { revision } if *revision >= first => {
                    assert_eq!(found.get(k), Some(revision), "the acknowledged command {k}");
                }
                Told::NotDone => assert_eq!(found.get(k), None, "the command {k} was said not to be done"),
                _ => {}
            }
        }
    }

    /// Acknowledged, unknown, reads.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |f: fn(&Told) -> bool| self.told.values().filter(|t| f(t)).count();
        (count(|t| matches!(t, Told::Done { .. })), count(|t| matches!(t, Told::Unknown)), self.reads)
    }
}
