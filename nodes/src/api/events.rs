//! What changes, as it changes: server-sent events whose ids are revisions of the state.
//!
//! While somebody listens, and for [`LINGER`] after, one thread compares the state with what it was and keeps the last
//! [`EVENTS_MAX`] differences. Each stream reads them at its own pace; one that comes back too late, or reads too slowly, is
//! told to read everything again (`resync`). While nobody listens nothing is compared and no old state is held.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use zoneward_actors::node::Node;
use zoneward_consensus::model::State;
use zoneward_sectors::ids::TokenId;

use super::Problem;

/// Differences kept, and changes named in one: the rest is "more".
const EVENTS_MAX: usize = 512;
const CHANGES_MAX: usize = 100;
/// Streams of one token, and of the node.
pub const STREAMS_OF_TOKEN_MAX: usize = 8;
pub const STREAMS_MAX: usize = 64;
/// Changes within this time are one event; where the state is large, so much time that comparing takes a tenth of it at
/// most, up to the second.
const TOGETHER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Who lost its connection may come back so much later and goes on where it was.
const LINGER: Duration = Duration::from_secs(300);
/// How long it takes at most until a stop is seen.
const LOOK: Duration = Duration::from_millis(250);

/// What a client may listen to.
pub const TOPICS: [&str; 7] = ["zone", "nodes", "sources", "targets", "checkpoints", "sectors", "steps"];

/// One record that is new, other than before, or gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub topic: &'static str,
    pub id: String,
    pub change: &'static str,
}

/// The difference between two states.
#[derive(Debug)]
pub struct Event {
    pub revision: u64,
    pub changes: Vec<Change>,
    /// Topics in which more changed than is named.
    pub more: BTreeSet<&'static str>,
}

/// What a stream reads next.
#[derive(Debug)]
pub enum Next {
    Event(Arc<Event>),
    /// What lies between is no longer known: go on from here.
    Resync(u64),
    /// Nothing yet.
    Wait,
}

#[derive(Default)]
struct Ring {
    /// The newest state looked at; none while nobody listens.
    base: Option<Arc<State>>,
    /// The revision before the oldest event, and that of `base`.
    start: u64,
    end: u64,
    events: VecDeque<Arc<Event>>,
}

/// The events of a node.
#[derive(Default)]
pub struct Events {
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
    stopped: AtomicBool,
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    of: BTreeMap<TokenId, usize>,
    /// When the last of them ended.
    ended: Option<Instant>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

impl Events {
    /// Follows the state while somebody listens, until told to stop. Runs on a thread of its own.
    pub fn follow(&self, node: &Node) {
        let cluster = &node.cluster;
        while !self.stopped() {
            let Some(old) = self.base(Instant::now()) else {
                std::thread::sleep(LOOK);
                continue;
            };
            let next = async { tokio::time::timeout(LOOK, cluster.applied_beyond(Some(old.revision))).await };
            match cluster.runtime().block_on(next) {
                Err(_) => continue,
                Ok(None) => return self.stop(),
                Ok(Some(_)) => {}
            }
            let (new, begun) = (cluster.view(), Instant::now());
            if new.revision > old.revision {
                self.add(diff(&old, &new), new);
            }
            drop(old);
            std::thread::sleep((begun.elapsed() * 9).clamp(TOGETHER.0, TOGETHER.1));
        }
    }

    /// What the next state is compared with; `None` while nobody listens.
    fn base(&self, now: Instant) -> Option<Arc<State>> {
        let mut ring = lock(&self.ring);
        let streams = lock(&self.streams);
        let lingers = streams.ended.is_some_and(|at| now.saturating_duration_since(at) < LINGER);
        if streams.of.is_empty() && !lingers {
            *ring = Ring::default();
        }
        ring.base.clone()
    }

    fn add(&self, event: Event, state: Arc<State>) {
        let mut ring = lock(&self.ring);
        ring.end = event.revision;
        ring.base = Some(state);
        if !event.changes.is_empty() {
            ring.events.push_back(Arc::new(event));
        }
        while ring.events.len() > EVENTS_MAX {
            ring.start = ring.events.pop_front().map_or(ring.start, |e| e.revision);
        }
        let end = ring.end;
        drop(ring);
        self.newest.send_replace(end);
    }

    /// What comes after a revision.
    pub fn after(&self, revision: u64) -> Next {
        let ring = lock(&self.ring);
        if revision < ring.start {
            return Next::Resync(ring.end);
        }
        let i = ring.events.partition_point(|e| e.revision <= revision);
        ring.events.get(i).map_or(Next::Wait, |e| Next::Event(e.clone()))
    }

    /// Tells when there may be something new.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Ends all streams.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.newest.send_modify(|_| {});
    }

    /// Takes a place for a stream that begins with the state as it is now.
    pub fn enter(self: &Arc<Self>, token: TokenId, view: &Arc<State>) -> Result<Place, Problem> {
        let mut streams = lock(&self.streams);
        if streams.of.values().sum::<usize>() >= STREAMS_MAX {
            return Err(Problem::too_many("this node has 64 streams open", 15));
        }
        let own = streams.of.entry(token).or_default();
        if *own >= STREAMS_OF_TOKEN_MAX {
            return Err(Problem::too_many("the token has 8 streams open", 15));
        }
        *own += 1;
        // From here on what there is to compare with stays.
        drop(streams);
        let mut ring = lock(&self.ring);
        if ring.base.is_none() {
            let revision = view.revision;
            *ring = Ring { base: Some(view.clone()), start: revision, end: revision, events: VecDeque::new() };
        }
        Ok(Place { events: self.clone(), token })
    }
}

/// The place of one stream.
pub struct Place {
    events: Arc<Events>,
    token: TokenId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = lock(&self.events.streams);
        let left = streams.of.get(&self.token).map_or(0, |n| n.saturating_sub(1));
        if left == 0 {
            streams.of.remove(&self.token);
        } else {
            streams.of.insert(self.token, left);
        }
        if streams.of.is_empty() {
            streams.ended = Some(Instant::now());
        }
    }
}

impl Event {
    /// As it is sent to who listens to these topics; `None` if it says nothing about them.
    pub fn text(&self, topics: &BTreeSet<&'static str>) -> Option<String> {
        let changes: Vec<&Change> = self.changes.iter().filter(|c| topics.contains(c.topic)).collect();
        let more: Vec<_> = self.more.intersection(topics).collect();
        if changes.is_empty() && more.is_empty() {
            return None;
        }
        let data = serde_json::json!({"revision": self.revision, "changes": changes, "more": more});
        Some(format!("event: change\nid: {}\ndata: {data}\n\n", self.revision))
    }
}

/// The difference between two states.
fn diff(old: &State, new: &State) -> Event {
    let mut event = Event { revision: new.revision, changes: Vec::new(), more: BTreeSet::new() };
    if old.zone != new.zone || old.head != new.head {
        let id = new.zone.as_ref().map_or_else(String::new, |z| z.id.to_string());
        event.add("zone", id, "put");
    }
    event.maps("nodes", &old.nodes, &new.nodes);
    event.maps("sources", &old.sources, &new.sources);
    event.maps("targets", &old.targets, &new.targets);
    event.maps("checkpoints", &old.checkpoints, &new.checkpoints);
    event.maps("steps", &old.leases, &new.leases);
    event.maps("sectors", &old.sectors, &new.sectors);
    for (id, copy) in &new.copies {
        if old.copies.get(id) != Some(copy) {
            event.add("sectors", copy.sector.to_string(), "put");
        }
    }
    event
}

impl Event {
    fn add(&mut self, topic: &'static str, id: String, change: &'static str) {
        let change = Change { topic, id, change };
        if self.changes.len() >= CHANGES_MAX {
            self.more.insert(topic);
        } else if !self.changes.contains(&change) {
            self.changes.push(change);
        }
    }

    fn maps<K: Ord + Display, V: PartialEq>(
        &mut self,
        topic: &'static str,
        old: &BTreeMap<K, V>,
        new: &BTreeMap<K, V>,
    ) {
        for (k, v) in new {
            if old.get(k) != Some(v) {
                self.add(topic, k.to_string(), "put");
            }
        }
        for k in old.keys().filter(|k| !new.contains_key(k)) {
            self.add(topic, k.to_string(), "gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoneward_consensus::model::Lease;
    use zoneward_sectors::ids::NodeId;

    fn with_leases(revision: u64, epochs: std::ops::Range<u64>) -> State {
        let lease = |epoch| Lease { epoch, node: NodeId::default(), incarnation: 1, work: Vec::new(), since_ms: 0 };
        State { revision, leases: epochs.map(|e| (e, lease(e))).collect(), ..State::default() }
    }

    fn all() -> BTreeSet<&'static str> {
        TOPICS.into()
    }

    #[test]
    fn what_came_and_what_went_is_named() {
        let event = diff(&with_leases(1, 1..3), &with_leases(2, 2..4));
        let change = |id: &str, change| Change { topic: "steps", id: id.into(), change };
        assert_eq!(event.changes, [change("3", "put"), change("1", "gone")]);
        let text = event.text(&all()).unwrap();
        assert!(text.starts_with("event: change\nid: 2\ndata: {") && text.ends_with("}\n\n"), "{text}");
        assert_eq!(event.text(&["nodes"].into()), None);
    }

    #[test]
    fn an_event_is_bounded_and_says_so() {
        let event = diff(&with_leases(1, 0..0), &with_leases(2, 0..1000));
        assert_eq!((event.changes.len(), event.more.len()), (CHANGES_MAX, 1));
        assert!(event.text(&["steps"].into()).unwrap().contains("\"more\":[\"steps\"]"));
    }

    #[test]
    fn a_stream_goes_on_where_it_was_unless_that_is_forgotten() {
        let events = Arc::new(Events::default());
        let view = |revision, leases| Arc::new(with_leases(revision, leases));
        let _place = events.enter(TokenId([1; 16]), &view(10, 0..0)).unwrap();
        let add = |old: State, new: State| events.add(diff(&old, &new), Arc::new(new));
        assert!(matches!(events.after(10), Next::Wait));
        assert!(matches!(events.after(9), Next::Resync(10)));
        for i in 0..EVENTS_MAX as u64 {
            add(with_leases(10 + i, 0..0), with_leases(11 + i, i..i + 1));
        }
        let mut at = 10;
        let mut seen = 0;
        while let Next::Event(e) = events.after(at) {
            assert_eq!(e.revision, at + 1);
            (at, seen) = (e.revision, seen + 1);
        }
        assert_eq!(seen, EVENTS_MAX);
        add(with_leases(at, 0..0), with_leases(at + 5, 1..2));
        assert!(matches!(events.after(10), Next::Resync(end) if end == at + 5));
        assert!(matches!(events.after(11), Next::Event(e) if e.revision == 12));
        // An entry that changes nothing that is shown makes no event, and does not hold anybody up.
        add(with_leases(at + 5, 0..0), with_leases(at + 6, 0..0));
        assert!(matches!(events.after(at + 5), Next::Wait));
    }

    #[test]
    fn streams_are_bounded_by_token_and_node_and_places_come_back() {
        let events = Arc::new(Events::default());
        let view = Arc::new(State::default());
        let enter = |n: usize| events.enter(TokenId([n as u8; 16]), &view);
        let mut places: Vec<Place> = (0..STREAMS_OF_TOKEN_MAX).map(|_| enter(0).unwrap()).collect();
        assert_eq!(enter(0).err().map(|p| p.status.as_u16()), Some(429));
        places.pop();
        places.push(enter(0).unwrap());
        for n in STREAMS_OF_TOKEN_MAX..STREAMS_MAX {
            places.push(enter(n).unwrap());
        }
        assert_eq!(enter(99).err().map(|p| p.status.as_u16()), Some(429));
        places.clear();
        assert!(lock(&events.streams).of.is_empty());
    }

    #[test]
    fn nothing_is_compared_while_nobody_listens() {
        let (events, view) = (Arc::new(Events::default()), Arc::new(with_leases(7, 0..1)));
        let now = Instant::now();
        assert!(events.base(now).is_none());
        let place = events.enter(TokenId([1; 16]), &view).unwrap();
        assert_eq!(events.base(now).map(|s| s.revision), Some(7));
        drop(place);
        assert!(events.base(Instant::now()).is_some(), "who lost its connection comes back");
        assert!(events.base(Instant::now() + LINGER).is_none());
        assert_eq!(Arc::strong_count(&view), 1, "no old state is held");
        // It begins anew where the state is then; what was before is not known any more.
        let _place = events.enter(TokenId([1; 16]), &Arc::new(with_leases(9, 0..0))).unwrap();
        assert!(matches!((events.after(7), events.after(9)), (Next::Resync(9), Next::Wait)));
    }
}
