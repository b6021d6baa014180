//! A network in memory, for tests: the same [`Caller`] and [`Handler`](crate::Handler), with delay, loss, duplication
//! and cuts drawn from a seed. Under tokio's paused clock on one thread, one seed gives one history.
//!
//! It carries calls, no bulk streams.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use zoneward_sectors::ids::NodeId;

use crate::error::{CallError, DialError, Refusal};
use crate::limits::MEMORY_IN_FLIGHT_MAX;
use crate::rpc::{Boxed, Caller, Services, check_call, run_handler};
use crate::wire::{Retry, Status};

/// What the network does to messages, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// Shortest way, in time.
    pub delay_min: Duration,
    /// Longest way, in time; a range reorders.
    pub delay_max: Duration,
    /// Of a thousand messages, this many are lost.
    pub lost_per_mille: u16,
    /// Of a thousand calls, this many reach the handler twice.
    pub doubled_per_mille: u16,
}

impl Default for Faults {
    fn default() -> Self {
        let ms = Duration::from_millis(1);
        Self { delay_min: ms, delay_max: ms, lost_per_mille: 0, doubled_per_mille: 0 }
    }
}

struct State {
    random: Seeded,
    faults: Faults,
    nodes: BTreeMap<NodeId, Services>,
    /// Ways that are cut, from whom to whom.
    cut: BTreeSet<(NodeId, NodeId)>,
    under_way: usize,
}

/// The network. Clones share it.
#[derive(Clone)]
pub struct MemoryNet(Arc<Mutex<State>>);

impl MemoryNet {
    /// A network without faults but a delay of 1 ms; `seed` decides all that is left to chance.
    pub fn new(seed: u64) -> Self {
        let (nodes, cut) = (BTreeMap::new(), BTreeSet::new());
        let state = State { random: Seeded(seed), faults: Faults::default(), nodes, cut, under_way: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Puts a node on the network (again, after a restart) and gives its way to call others.
    pub fn join(&self, node: NodeId, services: Services) -> MemoryLink {
        self.lock().nodes.insert(node, services);
        MemoryLink { net: self.clone(), node }
    }

    /// Takes a node off: it hears nothing and its own messages are lost.
    pub fn leave(&self, node: NodeId) {
        self.lock().nodes.remove(&node);
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Cuts the way from `from` to `to`; what is under way is lost too. The way back stays.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.lock().cut.insert((from, to));
    }

    /// Cuts all ways between the two groups.
    pub fn partition(&self, left: &[NodeId], right: &[NodeId]) {
        for (l, r) in left.iter().flat_map(|l| right.iter().map(move |r| (*l, *r))) {
            self.cut(l, r);
            self.cut(r, l);
        }
    }

    /// Opens every way again.
    pub fn heal(&self) {
        self.lock().cut.clear();
    }

    /// Draws what happens to one message: its delay, or that it is lost.
    fn draw(&self) -> Option<Duration> {
        let mut state = self.lock();
        let faults = state.faults;
        let lost = state.random.per_mille(faults.lost_per_mille);
        let range = faults.delay_max.saturating_sub(faults.delay_min).as_micros();
        let range = u64::try_from(range).unwrap_or(u64::MAX).saturating_add(1);
        let delay = faults.delay_min + Duration::from_micros(state.random.next() % range);
        (!lost).then_some(delay)
    }

    /// Takes one message along its way; lost ones never arrive.
    async fn carry(&self, from: NodeId, to: NodeId) {
        let arrives = match self.draw() {
            Some(delay) => {
                sleep(delay).await;
                let state = self.lock();
                !state.cut.contains(&(from, to)) && [from, to].iter().all(|n| state.nodes.contains_key(n))
            }
            None => false,
        };
        if !arrives {
            std::future::pending::<()>().await;
        }
    }

    async fn call(&self, from: NodeId, to: NodeId, kind: u16, body: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        self.carry(from, to).await;
        let services = self.lock().nodes.get(&to).cloned().unwrap_or_default();
        let answer = match services.handler(kind) {
            Ok(handler) => run_handler(handler, from, body).await,
            Err(refusal) => Err(refusal),
        };
        self.carry(to, from).await;
        answer
    }

    fn enter(&self) -> Option<UnderWay> {
        let mut state = self.lock();
        if state.under_way >= MEMORY_IN_FLIGHT_MAX {
            return None;
        }
        state.under_way += 1;
        Some(UnderWay(self.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment: nothing under the lock can leave the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct UnderWay(MemoryNet);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}

/// One node's way to call others.
#[derive(Clone)]
pub struct MemoryLink {
    net: MemoryNet,
    node: NodeId,
}

impl Caller for MemoryLink {
    fn send(&self, to: NodeId, kind: u16, body: Vec<u8>, deadline: Duration) -> Boxed<'_, Result<Vec<u8>, CallError>> {
        Box::pin(async move {
            check_call(to, &body, deadline)?;
            let (net, from) = (self.net.clone(), self.node);
            if !net.lock().nodes.contains_key(&to) {
                return Err(CallError::Unreachable { node: to, source: DialError::NoAddress });
            }
            let refused = |source| CallError::Refused { node: to, source };
            let crowded = || refused(Refusal::with(Status::Busy, Retry::Later, "the network is full"));
            let _one = net.enter().ok_or_else(crowded)?;
            let doubled = {
                let mut state = net.lock();
                let chance = state.faults.doubled_per_mille;
                state.random.per_mille(chance)
            };
            if doubled && let Some(other) = net.enter() {
                let (net, body) = (net.clone(), body.clone());
                // The second one goes its own way, and its answer is to nobody.
                tokio::spawn(async move {
                    let _ = timeout(deadline, net.call(from, to, kind, body)).await;
                    drop(other);
                });
            }
            match timeout(deadline, net.call(from, to, kind, body)).await {
                Ok(answer) => answer.map_err(refused),
                Err(_) => Err(CallError::Deadline { node: to, after: deadline }),
            }
        })
    }
}

/// SplitMix64: small, and the same everywhere. Not for keys.
pub(crate) struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn per_mille(&mut self, chance: u16) -> bool {
        self.next() % 1000 < u64::from(chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Handler;

    const KIND: u16 = 1;
    const MS: Duration = Duration::from_millis(1);

    #[derive(Default)]
    struct Log(Mutex<Vec<(NodeId, Vec<u8>)>>);

    impl Handler for Log {
        fn handle(&self, from: NodeId, body: Vec<u8>) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
            self.0.lock().unwrap().push((from, body.clone()));
            Box::pin(async move { Ok(body) })
        }
    }

    fn id(n: u8) -> NodeId {
        NodeId([n; 16])
    }

    fn two(seed: u64) -> (MemoryNet, MemoryLink, Arc<Log>) {
        let (net, log) = (MemoryNet::new(seed), Arc::new(Log::default()));
        let services = Services::new();
        services.serve(KIND, log.clone());
        net.join(id(2), services);
        let link = net.join(id(1), Services::new());
        (net, link, log)
    }

    #[tokio::test(start_paused = true)]
    async fn calls_take_the_time_of_both_ways() {
        let (net, link, log) = two(1);
        net.set_faults(Faults { delay_min: 20 * MS, delay_max: 20 * MS, ..Faults::default() });
        let start = tokio::time::Instant::now();
        assert_eq!(link.send(id(2), KIND, vec![5], 1000 * MS).await.unwrap(), [5]);
        assert_eq!(start.elapsed(), 40 * MS);
        assert_eq!(*log.0.lock().unwrap(), [(id(1), vec![5])]);
        let e = link.send(id(2), 9, vec![], 1000 * MS).await.unwrap_err();
        assert!(matches!(&e, CallError::Refused { source, .. } if source.status == Status::UnknownKind), "{e}");
        let e = link.send(id(3), KIND, vec![], 1000 * MS).await.unwrap_err();
        assert!(matches!(e, CallError::Unreachable { .. }), "{e}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_way_loses_the_question_or_only_the_answer() {
        let (net, link, log) = two(1);
        net.cut(id(1), id(2));
        let e = link.send(id(2), KIND, vec![1], 100 * MS).await.unwrap_err();
        assert_eq!(e, CallError::Deadline { node: id(2), after: 100 * MS });
        assert!(log.0.lock().unwrap().is_empty());
        net.heal();
        net.cut(id(2), id(1));
        assert!(link.send(id(2), KIND, vec![2], 100 * MS).await.unwrap_err().outcome_unknown());
        assert_eq!(*log.0.lock().unwrap(), [(id(1), vec![2])]);
        net.partition(&[id(1)], &[id(2)]);
        assert!(link.send(id(2), KIND, vec![3], 100 * MS).await.is_err());
        net.heal();
        assert!(link.send(id(2), KIND, vec![4], 100 * MS).await.is_ok());
        net.leave(id(2));
        assert!(link.send(id(2), KIND, vec![4], 100 * MS).await.is_err());
    }

    async fn history(seed: u64) -> (Vec<bool>, Vec<(NodeId, Vec<u8>)>) {
        let (net, link, log) = two(seed);
        let (delay_min, delay_max) = (MS, 50 * MS);
        net.set_faults(Faults { delay_min, delay_max, lost_per_mille: 200, doubled_per_mille: 200 });
        let mut ended = Vec::new();
        for n in 0..200u8 {
            ended.push(link.send(id(2), KIND, vec![n], 200 * MS).await.is_ok());
        }
        sleep(1000 * MS).await; // Of the paused clock: the doubled ones end.
        assert_eq!(net.lock().under_way, 0);
        let seen = log.0.lock().unwrap().clone();
        (ended, seen)
    }

    #[tokio::test(start_paused = true)]
    async fn one_seed_gives_one_history_with_all_its_faults() {
        let (ended, seen) = history(7).await;
        assert_eq!((ended.clone(), seen.clone()), history(7).await);
        assert_ne!(ended, history(8).await.0);
        let ok = ended.iter().filter(|ok| **ok).count();
        // 0.8 × 0.8 of the calls end well; some are seen twice, some never.
        assert!((100..160).contains(&ok), "{ok}");
        let doubled = seen.iter().zip(seen.iter().skip(1)).filter(|(a, b)| a == b).count();
        let missing = (0..200u8).filter(|n| !seen.contains(&(id(1), vec![*n]))).count();
        assert!(doubled > 0 && missing > 0, "{doubled} {missing}");
    }
}
