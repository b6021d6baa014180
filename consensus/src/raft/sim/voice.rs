//! How a simulated process speaks: it brings commands to the leader as the product's nodes do, and when it does not hear
//! what became of one, it looks for the command's effect before it says it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use zoneward_sectors::ids::NodeId;

use crate::command::{Command, Entry};
use crate::effect::took_effect;
use crate::model::State;
use crate::raft::net::Net;
use crate::raft::{Consensus, ProposeError, Reply};

/// What became of a command.
pub enum Said {
    Done(Reply),
    /// Nothing was done.
    Not,
    Unknown,
}

/// Why a step does not go on.
#[derive(Debug)]
pub enum Lost {
    /// The zone refused: the word of the refusal.
    Refused(String),
    /// What it needs is no longer there.
    Gone,
}

/// One start of a node's process.
#[derive(Clone)]
pub struct Voice {
    pub node: Consensus,
    pub net: Arc<Net>,
    /// Number of this start.
    pub life: u64,
    /// Milliseconds by which this node's clock is ahead; a fault may change it.
    pub clock: Arc<AtomicU64>,
    pub begun: Instant,
    /// By how much the zone is calmer than the busiest.
    pub calm: u64,
}

impl Voice {
    pub fn me(&self) -> NodeId {
        self.node.node()
    }

    pub fn state(&self) -> Arc<State> {
        self.node.view()
    }

    /// This node's wall clock.
    pub fn now_ms(&self) -> u64 {
        1_000_000 + self.begun.elapsed().as_millis() as u64 + self.clock.load(Ordering::Relaxed)
    }

    pub async fn pause(&self, from_ms: u64, to_ms: u64) {
        sleep(Duration::from_millis(from_ms + self.net.roll(to_ms - from_ms))).await;
    }

    /// Says a command once, to whoever leads.
    pub async fn say(&self, command: &Command) -> Said {
        let Ok(entry) = Entry::new(self.now_ms(), self.me(), command) else { return Said::Not };
        for _ in 0..20 {
            let leader = match self.node.propose_entry(entry.clone()).await {
                Ok(reply) => return Said::Done(reply),
                Err(ProposeError::NotLeader { leader }) => leader,
                Err(ProposeError::Busy) => None,
                Err(_) => return Said::Unknown,
            };
            if let Some(leader) = leader.filter(|id| *id != self.me()) {
                match self.net.forward(self.me(), leader, entry.clone()).await {
                    Some(Ok(reply)) => return Said::Done(reply),
                    Some(Err(ProposeError::NotLeader { .. } | ProposeError::Busy)) => {}
                    _ => return Said::Unknown,
                }
            }
            self.pause(100, 400).await;
        }
        Said::Not
    }

    /// Says a command until it is known to count or to be refused; then this node has applied it. As the product does: it
    /// says it again, and if that is refused, an earlier time may have counted.
    pub async fn insist(&self, command: &Command) -> Result<(), Lost> {
        let mut maybe = false;
        loop {
            match self.say(command).await {
                Said::Done(reply) => {
                    self.until(reply.revision).await;
                    let Some(refused) = reply.refused else { return Ok(()) };
                    if maybe && took_effect(&*self.linearizable().await, self.me(), command) {
                        return Ok(());
                    }
                    return Err(Lost::Refused(refused.code));
                }
                Said::Not => {}
                Said::Unknown => maybe = true,
            }
            self.pause(100, 600).await;
        }
    }

    async fn linearizable(&self) -> Arc<State> {
        loop {
            match self.node.linearizable().await {
                Ok(state) => return state,
                Err(_) => self.pause(100, 600).await,
            }
        }
    }

    /// Waits until this node has applied an entry. Polls: waiters of one channel are woken in an order that no seed tells.
    async fn until(&self, revision: u64) {
        while self.state().revision < revision {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// A number that no other call gives, in the shape of an id.
    pub fn fresh(&self) -> [u8; 16] {
        let mut id = [0; 16];
        for part in id.chunks_mut(4) {
            part.copy_from_slice(&(self.net.roll(1 << 31) as u32).to_be_bytes());
        }
        id
    }
}
