//! A zone under construction, by commands; and what is seen of it.

use zoneward_sectors::ids::{NodeId, SectorId};

use super::super::*;
use crate::apply::{Outcome, apply};
use crate::command::Command;
use crate::model::{CheckpointKind, CopyState, RefusedSource, Source, Standing, State, TaskStats};
use crate::samples as s;

pub const HOUR: u64 = 3_600_000;

/// The node of a number; 1 is the one that asks.
pub fn n(number: u8) -> NodeId {
    let mut id = s::node();
    id.0[15] = number;
    id
}

pub struct Z {
    pub state: State,
    pub seen: Seen,
    pub now: u64,
    /// Of the next backups: paths not read, kind, copies wanted.
    pub unread: u64,
    pub kind: CheckpointKind,
    pub wanted: u8,
    /// The next numbers of checkpoints and layers, and of sectors and copies.
    next: u8,
}

impl Z {
    /// Nothing at all.
    pub fn empty() -> Self {
        let seen = Seen { me: n(1), ..Seen::default() };
        let kind = CheckpointKind::Incremental;
        Self { state: State::default(), seen, now: 1_000_000 * HOUR, unread: 0, kind, wanted: 2, next: 100 }
    }

    /// One node without a daemon.
    pub fn new() -> Self {
        let mut z = Self::empty();
        z.send(s::create_zone());
        z.add_node(1);
        z
    }

    /// Three nodes that vote; a target on node 2 and one at another place; a source on node 1, backed up to both.
    pub fn good() -> Self {
        let mut z = Self::new();
        z.make_good();
        z
    }

    pub fn make_good(&mut self) {
        self.three();
        self.target(1, "file", None);
        self.reach(2, &[1]);
        self.target(2, "file", Some("uncle"));
        self.source(1, 10, &[1]);
        self.backup(&[1], &[1, 2]);
    }

    /// Three nodes that vote and are heard.
    pub fn three(&mut self) {
        self.daemon();
        self.node(2, true);
        self.node(3, true);
    }

    /// One node with a target of this failure domain, and a source.
    pub fn small(&mut self, domain: Option<&str>) {
        self.target(1, "file", domain);
        self.source(1, 0, &[1]);
        self.wanted = 1;
    }

    pub fn send_by(&mut self, node: NodeId, command: &Command) -> Outcome {
        let index = self.state.revision + 1;
        apply(&mut self.state, index, self.now, node, command).0
    }

    pub fn send(&mut self, command: Command) {
        assert_eq!(self.send_by(n(1), &command), Outcome::Done, "{command:?}");
    }

    pub fn levels(&self) -> Levels {
        levels(&self.state, &self.seen, self.now)
    }

    fn add_node(&mut self, number: u8) {
        let (name, public_key) = (format!("n{number}"), format!("key{number}"));
        self.send(Command::AddNode { node: n(number), name, public_key, certificate: "Y2Vy".into() });
    }

    /// The daemon of this node runs.
    pub fn daemon(&mut self) {
        let voters = [n(1)].into();
        let heard_ms = [(n(1), self.now)].into();
        self.seen.cluster = Some(Cluster { leader: Some(n(1)), voters, heard_ms });
    }

    pub fn cluster(&mut self) -> &mut Cluster {
        self.seen.cluster.as_mut().unwrap()
    }

    /// A node that is heard.
    pub fn node(&mut self, number: u8, voter: bool) {
        self.add_node(number);
        let now = self.now;
        let cluster = self.cluster();
        cluster.heard_ms.insert(n(number), now);
        if voter {
            cluster.voters.insert(n(number));
        }
    }

    pub fn silent(&mut self, number: u8) {
        let at = self.now - SILENT_MS;
        self.cluster().heard_ms.insert(n(number), at);
    }

    /// All nodes that were heard are heard now.
    pub fn hear_all(&mut self) {
        let now = self.now;
        if let Some(c) = &mut self.seen.cluster {
            c.heard_ms.values_mut().for_each(|at| *at = now);
        }
    }

    /// Time passes; who was heard still is.
    pub fn later(&mut self, hours: u64) {
        self.now += hours * HOUR;
        self.hear_all();
    }

    pub fn standing(&mut self, number: u8, standing: Standing) {
        self.send(Command::SetNode { node: n(number), name: None, standing: Some(standing) });
    }

    pub fn target(&mut self, t: u8, scheme: &str, domain: Option<&str>) {
        let Command::AddTarget { target, name, alias, domain, .. } = s::add_target(t, domain) else { unreachable!() };
        let url = format!("{scheme}:///t{t}");
        self.send(Command::AddTarget { target, name, url, alias, domain, credentials: None });
        self.seen.targets.insert(target, Answer::Yes);
    }

    pub fn answers(&mut self, t: u8, answer: Answer) {
        self.seen.targets.insert(s::target(t), answer);
    }

    pub fn paused(&mut self, t: u8) {
        self.send(Command::SetTarget { target: s::target(t), paused: Some(true), owner_key_hash: None });
    }

    /// A node says which targets it can use.
    pub fn reach(&mut self, node: u8, targets: &[u8]) {
        let targets = targets.iter().map(|t| s::target(*t)).collect();
        assert_eq!(self.send_by(n(node), &Command::Reach { targets }), Outcome::Done);
    }

    pub fn source(&mut self, number: u8, priority: i32, nodes: &[u8]) {
        let Command::PutSource { source } = s::put_source(number, format!("/s{number}").as_bytes(), priority) else {
            unreachable!()
        };
        let nodes = nodes.iter().map(|k| n(*k)).collect();
        self.send(Command::PutSource { source: Source { nodes, ..source } });
    }

    fn fresh(&mut self) -> u8 {
        self.next += 1;
        self.next
    }

    /// A checkpoint of these sources, all in one new sector with a copy on each target; system data as well.
    pub fn backup(&mut self, sources: &[u8], targets: &[u8]) {
        self.backup_but(sources, targets, &[]);
    }

    /// The same, but `refused` could not be read.
    pub fn backup_but(&mut self, sources: &[u8], targets: &[u8], refused: &[u8]) {
        let (c, sector) = (self.fresh(), self.fresh());
        let asked: Vec<u8> = sources.iter().chain(refused).copied().collect();
        self.send(s::open_checkpoint(c, self.kind, &asked));
        let mut parts = Vec::new();
        for source in sources {
            let layer = self.fresh();
            let full = self.state.base_chain(s::source(*source), self.kind).is_empty();
            self.send(s::open_layer(layer, c, *source, full));
            parts.push((layer, s::part(sector, 0)));
        }
        if !sources.is_empty() {
            self.seal(sector, c, false, targets, &parts);
        }
        for source in sources {
            self.finish(c, *source);
        }
        for source in refused {
            let refused = RefusedSource { source: s::source(*source), code: 1402, why: "not mounted".into() };
            self.send(Command::RefuseTask { checkpoint: s::checkpoint(c), refused });
        }
        self.send(s::store(c));
        let system = self.fresh();
        self.seal(system, c, true, targets, &[]);
    }

    /// A checkpoint that found nothing new.
    pub fn backup_unchanged(&mut self, source: u8, targets: &[u8]) {
        let c = self.fresh();
        self.send(s::open_checkpoint(c, self.kind, &[source]));
        self.finish(c, source);
        self.send(s::store(c));
        let system = self.fresh();
        self.seal(system, c, true, targets, &[]);
    }

    fn seal(&mut self, sector: u8, c: u8, system: bool, targets: &[u8], parts: &[(u8, crate::model::Part)]) {
        let wanted = if system { targets.len() as u8 } else { self.wanted };
        self.send(s::open_sector(sector, c, system, wanted));
        let copy = self.fresh();
        self.send(s::open_copy(copy, sector, targets[0]));
        let mut seal = s::seal(sector, copy, parts);
        if let Command::SealSector { refs, .. } = &mut seal {
            // What is not stored anew may name all that is stored of its source.
            for (layer, _) in parts.iter().filter(|_| self.kind != CheckpointKind::Full) {
                let source = self.state.layers[&s::layer(*layer)].source;
                let of_it = self.state.layers.values().filter(|l| l.source == source);
                refs.insert(s::layer(*layer), of_it.flat_map(|l| &l.parts).map(|p| p.sector).collect());
            }
        }
        self.send(seal);
        for t in &targets[1..] {
            self.copy(s::sector(sector), *t);
        }
    }

    fn finish(&mut self, c: u8, source: u8) {
        let Command::FinishTask { checkpoint, source, ground, entries, .. } = s::finish_task(c, source) else {
            unreachable!()
        };
        let stats = TaskStats { files: 7, unread: self.unread, ..TaskStats::default() };
        let warnings = if self.unread > 0 { vec!["a: denied".to_owned()] } else { Vec::new() };
        self.send(Command::FinishTask { checkpoint, source, stats, warnings, ground, entries });
    }

    pub fn copy(&mut self, sector: SectorId, t: u8) {
        assert!(self.try_copy(sector, t), "{sector} on {t}");
    }

    /// A further copy, if the zone allows one there.
    pub fn try_copy(&mut self, sector: SectorId, t: u8) -> bool {
        let copy = self.fresh();
        let open = s::open_copy(copy, sector.0[15], t);
        let store = Command::StoreCopy { copy: s::copy(copy), stored_len: 9000, stored_id: None };
        self.send_by(n(1), &open) == Outcome::Done && self.send_by(n(1), &store) == Outcome::Done
    }

    /// A data sector, counted from the oldest.
    pub fn sector(&self, nth: usize) -> SectorId {
        self.state.sectors.values().filter(|x| !x.system).nth(nth).unwrap().id
    }

    /// What was found of a data sector's copy on a target.
    pub fn mark(&mut self, nth: usize, t: u8, state: CopyState) {
        let sector = self.sector(nth);
        let found = self.state.copies.values().find(|c| c.sector == sector && c.target == s::target(t));
        let copy = found.unwrap().id;
        self.send(Command::MarkCopy { copy, state });
    }
}
