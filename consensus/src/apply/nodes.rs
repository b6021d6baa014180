//! Nodes: who they are, and what an operator decided about them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_sectors::crypto::verify_ed25519;
use zoneward_sectors::ids::{Digest, NodeId, TargetId};

use super::{Applied, Change, Refusal, Row, leases, name_ok};
use crate::heads::Vouched;
use crate::limits::{INVITE_MS_MAX, INVITES_MAX, NAME_LEN_MAX, NODES_MAX};
use crate::model::{Invite, Node, Standing, Wipe};

pub fn add(c: &mut Change<'_>, id: NodeId, name: &str, public_key: &str, certificate: &str) -> Applied {
    name_ok(name)?;
    if c.state.nodes.contains_key(&id) || c.state.nodes.values().any(|n| n.public_key == public_key) {
        return Err(Refusal::Exists("the node"));
    }
    if c.state.nodes.values().any(|n| n.name == name) {
        return Err(Refusal::Exists("a node of this name"));
    }
    if c.state.nodes.len() >= NODES_MAX {
        return Err(Refusal::Range("the number of nodes"));
    }
    let node = Node {
        id,
        name: name.to_owned(),
        public_key: public_key.to_owned(),
        certificate: certificate.to_owned(),
        joined_ms: c.now,
        incarnation: 0,
        standing: Standing::Member,
        version: String::new(),
        // What passed before it came it takes from the others.
        credit_ms: c.state.zone.as_ref().map_or(0, |z| z.credit_ms),
        wipe: None,
    };
    c.state.nodes.insert(id, node);
    c.rows.insert(Row::Node(id));
    Ok(())
}

pub fn start(c: &mut Change<'_>, incarnation: u64, version: &str) -> Applied {
    if version.len() > NAME_LEN_MAX || version.chars().any(char::is_control) {
        return Err(Refusal::Range("the version"));
    }
    let id = c.node;
    let node = c.state.nodes.get_mut(&id).ok_or(Refusal::Unknown("the node"))?;
    if incarnation <= node.incarnation {
        return Err(Refusal::Differs("the number of the node's start: does it run on an old copy of its disk? It"));
    }
    node.incarnation = incarnation;
    node.version = version.to_owned();
    c.rows.insert(Row::Node(id));
    leases::end_all(c, |l| l.node == id && l.incarnation < incarnation);
    Ok(())
}

pub fn set(c: &mut Change<'_>, id: NodeId, name: Option<&str>, standing: Option<Standing>) -> Applied {
    if !c.state.nodes.contains_key(&id) {
        return Err(Refusal::Unknown("the node"));
    }
    let ends = matches!(standing, None | Some(Standing::Faulty));
    if !ends && c.state.nodes.get(&id).is_some_and(|n| n.wipe.is_some()) {
        return Err(Refusal::State("the node, which is to be wiped,"));
    }
    if let Some(name) = name {
        name_ok(name)?;
        if c.state.nodes.values().any(|n| n.id != id && n.name == name) {
            return Err(Refusal::Exists("a node of this name"));
        }
    }
    if let Some(node) = c.state.nodes.get_mut(&id) {
        node.name = name.map_or_else(|| node.name.clone(), str::to_owned);
        node.standing = standing.unwrap_or(node.standing);
        c.rows.insert(Row::Node(id));
    }
    if matches!(standing, Some(Standing::Faulty | Standing::Witness)) {
        leases::end_all(c, |l| l.node == id);
        forget(c, id);
    }
    Ok(())
}

/// A node that nobody waits for any more is to delete what it has. One that still holds work, or the bytes of sectors whose
/// copies are not made yet, has to end that first, unless it is broken.
pub fn wipe(c: &mut Change<'_>, id: NodeId) -> Applied {
    let node = c.state.nodes.get(&id).ok_or(Refusal::Unknown("the node"))?;
    if node.wipe.is_some() {
        return Ok(());
    }
    let holds =
        c.state.leases.values().any(|l| l.node == id) || c.state.sectors.values().any(|s| s.staged.contains_key(&id));
    match node.standing {
        Standing::Faulty => {}
        Standing::Standby if !holds => {}
        Standing::Standby => return Err(Refusal::State("the node, which still holds work,")),
        _ => return Err(Refusal::State("the node, which is not on standby,")),
    }
    if !c.state.nodes.values().any(|n| n.id != id && n.standing == Standing::Member) {
        return Err(Refusal::Range("the number of nodes"));
    }
    if let Some(node) = c.state.nodes.get_mut(&id) {
        node.wipe = Some(Wipe::Asked);
        c.rows.insert(Row::Node(id));
    }
    Ok(())
}

/// The sender says that it did.
pub fn wiped(c: &mut Change<'_>) -> Applied {
    let id = c.node;
    let node = c.state.nodes.get_mut(&id).filter(|n| n.wipe.is_some());
    node.ok_or(Refusal::State("the node, which nobody asked for it,"))?.wipe = Some(Wipe::Done);
    c.rows.insert(Row::Node(id));
    leases::end_all(c, |l| l.node == id);
    forget(c, id);
    Ok(())
}

/// What a node can use: what it does not name, it cannot.
pub fn reach(c: &mut Change<'_>, targets: &[TargetId]) -> Applied {
    let id = c.node;
    if !c.state.nodes.contains_key(&id) {
        return Err(Refusal::Unknown("the node"));
    }
    for t in c.state.targets.values_mut() {
        let changed = if targets.contains(&t.id) { t.reached_by.insert(id) } else { t.reached_by.remove(&id) };
        if changed {
            c.rows.insert(Row::Target(t.id));
        }
    }
    Ok(())
}

/// What a node that is no more could use, and what it held.
fn forget(c: &mut Change<'_>, id: NodeId) {
    for t in c.state.targets.values_mut().filter(|t| t.reached_by.contains(&id)) {
        t.reached_by.remove(&id);
        c.rows.insert(Row::Target(t.id));
    }
    for s in c.state.sectors.values_mut().filter(|s| s.staged.contains_key(&id)) {
        s.staged.remove(&id);
        c.rows.insert(Row::Sector(s.id));
    }
}

pub fn remove(c: &mut Change<'_>, id: NodeId) -> Applied {
    if !c.state.nodes.contains_key(&id) {
        return Err(Refusal::Unknown("the node"));
    }
    if c.state.nodes.len() == 1 {
        return Err(Refusal::Range("the number of nodes"));
    }
    let gone = c.state.nodes.remove(&id);
    c.rows.insert(Row::Node(id));
    if gone.is_some_and(|n| n.standing != Standing::Witness) {
        super::secrets::renew(c);
    }
    leases::end_all(c, |l| l.node == id);
    forget(c, id);
    super::policy::forget_node(c, id);
    Ok(())
}

pub fn open_invite(c: &mut Change<'_>, token: Digest, expires_ms: u64, witness: bool, name: Option<&str>) -> Applied {
    if c.state.invites.contains_key(&token) {
        return Err(Refusal::Exists("the invite"));
    }
    if expires_ms <= c.now || expires_ms - c.now > INVITE_MS_MAX {
        return Err(Refusal::Range("the end of the invite"));
    }
    if let Some(name) = name {
        name_ok(name)?;
        if c.state.nodes.values().any(|n| n.name == name) {
            return Err(Refusal::Exists("a node of this name"));
        }
    }
    let live = c.state.invites.values().filter(|i| i.expires_ms > c.now).count();
    if live >= INVITES_MAX {
        return Err(Refusal::Range("the number of invites"));
    }
    // Those whose time is over go when a new one comes: until then a late joiner hears that it is late.
    let over: Vec<Digest> = c.state.invites.values().filter(|i| i.expires_ms <= c.now).map(|i| i.token).collect();
    for old in over {
        c.state.invites.remove(&old);
        c.rows.insert(Row::Invite(old));
    }
    let name = name.map(str::to_owned);
    let invite = Invite { token, expires_ms, witness, name, by: c.node, used_by: None };
    c.state.invites.insert(token, invite);
    c.rows.insert(Row::Invite(token));
    Ok(())
}

pub fn close_invite(c: &mut Change<'_>, token: Digest) -> Applied {
    c.state.invites.remove(&token).ok_or(Refusal::Unknown("the invite"))?;
    c.rows.insert(Row::Invite(token));
    Ok(())
}

pub fn use_invite(c: &mut Change<'_>, token: Digest, node: NodeId, public_key: &str, certificate: &str) -> Applied {
    let invite = c.state.invites.get(&token).ok_or(Refusal::Unknown("the invite"))?.clone();
    match invite.used_by {
        // A joiner whose connection broke comes back.
        Some(by) if by == node && c.state.nodes.get(&node).is_some_and(|n| n.public_key == public_key) => return Ok(()),
        Some(_) => return Err(Refusal::State("the invite, which was used before,")),
        None => {}
    }
    if invite.expires_ms <= c.now {
        return Err(Refusal::Range("the time: the invite has expired, and it"));
    }
    let free = (2..).map(|i| format!("node-{i}")).find(|n| c.state.nodes.values().all(|x| x.name != *n));
    let name = invite.name.or(free).unwrap_or_else(|| node.to_string());
    add(c, node, &name, public_key, certificate)?;
    if let (true, Some(n)) = (invite.witness, c.state.nodes.get_mut(&node)) {
        n.standing = Standing::Witness;
    }
    if let Some(i) = c.state.invites.get_mut(&token) {
        i.used_by = Some(node);
        c.rows.insert(Row::Invite(token));
    }
    Ok(())
}

/// The owner goes on with one node. The others are taken for broken: their work is free, and they can be replaced or
/// removed like any broken node.
pub fn recover_quorum(c: &mut Change<'_>, generation: u32, signature: &str) -> Applied {
    let me = c.node;
    match c.state.nodes.get(&me).map(|n| n.standing) {
        None => return Err(Refusal::Unknown("the node")),
        Some(Standing::Witness) => return Err(Refusal::State("a witness, which has no data,")),
        Some(_) => {}
    }
    let zone = c.state.zone.as_mut().ok_or(Refusal::NoZone)?;
    if zone.generation.checked_add(1) != Some(generation) {
        return Err(Refusal::Range("the generation"));
    }
    let owner = STANDARD.decode(&zone.owner_sign_public).ok().and_then(|k| <[u8; 32]>::try_from(k).ok());
    let signature = STANDARD.decode(signature).unwrap_or_default();
    let message = crate::quorum::message(zone.id, generation, me);
    if !owner.is_some_and(|key| verify_ed25519(&key, &message, &signature)) {
        return Err(Refusal::Signature);
    }
    zone.generation = generation;
    zone.vouched = Some(Vouched { generation, node: me, signature: STANDARD.encode(&signature) });
    c.rows.insert(Row::Zone);
    if let Some(head) = c.state.head.as_mut() {
        head.handovers.clear();
        c.rows.insert(Row::Head);
    }
    leases::end_all(c, |_| true);
    let others: Vec<NodeId> = c.state.nodes.keys().copied().filter(|id| *id != me).collect();
    for id in others {
        if let Some(n) = c.state.nodes.get_mut(&id) {
            n.standing = Standing::Faulty;
            c.rows.insert(Row::Node(id));
        }
        forget(c, id);
    }
    if let Some(n) = c.state.nodes.get_mut(&me) {
        n.standing = Standing::Member;
        c.rows.insert(Row::Node(me));
    }
    // A code that was let out before may be in anybody's hands by now.
    let invites: Vec<Digest> = c.state.invites.keys().copied().collect();
    for token in invites {
        c.state.invites.remove(&token);
        c.rows.insert(Row::Invite(token));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Outcome, apply};
    use crate::command::Command;
    use crate::model::State;
    use crate::samples as s;

    fn try_at(state: &mut State, now: u64, command: Command) -> Outcome {
        let index = state.revision + 1;
        apply(state, index, now, s::node(), &command).0
    }

    fn join(node: u8, key: &str) -> Command {
        let (node, public_key) = (NodeId([node; 16]), key.to_owned());
        Command::UseInvite { token: Digest([1; 32]), node, public_key, certificate: "Y2Vy".into() }
    }

    #[test]
    fn an_invite_lets_one_node_in_once_and_in_time() {
        let mut state = State::default();
        s::all_done(&mut state, &s::begin());
        let open = |expires_ms, name: Option<&str>| Command::OpenInvite {
            token: Digest([1; 32]),
            expires_ms,
            witness: false,
            name: name.map(str::to_owned),
        };
        assert!(matches!(try_at(&mut state, 5_000, join(7, "a")), Outcome::Refused(Refusal::Unknown(_))));
        assert!(matches!(try_at(&mut state, 5_000, open(5_000, None)), Outcome::Refused(Refusal::Range(_))));
        let far = 5_001 + INVITE_MS_MAX;
        assert!(matches!(try_at(&mut state, 5_000, open(far, None)), Outcome::Refused(Refusal::Range(_))));
        assert!(matches!(try_at(&mut state, 5_000, open(9_000, Some("node"))), Outcome::Refused(Refusal::Exists(_))));
        assert_eq!(try_at(&mut state, 5_000, open(9_000, Some("nas"))), Outcome::Done);
        let mut late = state.clone();
        assert!(matches!(try_at(&mut late, 9_000, join(7, "a")), Outcome::Refused(Refusal::Range(_))));
        assert_eq!(try_at(&mut state, 6_000, join(7, "a")), Outcome::Done);
        assert_eq!(state.nodes[&NodeId([7; 16])].name, "nas");
        assert_eq!(try_at(&mut state, 6_000, join(7, "a")), Outcome::Done, "it comes back after a broken connection");
        assert!(matches!(try_at(&mut state, 6_000, join(7, "b")), Outcome::Refused(Refusal::State(_))));
        assert!(matches!(try_at(&mut state, 6_000, join(8, "b")), Outcome::Refused(Refusal::State(_))));
        // A clock that is put back does not bring an invite back.
        assert_eq!(
            try_at(&mut late, 6_000, join(7, "a")),
            Outcome::Refused(Refusal::Range("the time: the invite has expired, and it"))
        );
    }

    #[test]
    fn only_who_is_on_standby_and_holds_nothing_is_wiped_and_nobody_takes_it_back() {
        let mut state = State::default();
        s::all_done(&mut state, &s::begin());
        let me = s::node();
        let stand = |node, standing| Command::SetNode { node, name: None, standing: Some(standing) };
        let wipe = |node| Command::WipeNode { node };
        assert!(matches!(try_at(&mut state, 1, wipe(me)), Outcome::Refused(Refusal::State(_))), "it is at work");
        assert_eq!(try_at(&mut state, 1, stand(me, Standing::Standby)), Outcome::Done);
        assert!(matches!(try_at(&mut state, 1, wipe(me)), Outcome::Refused(Refusal::Range(_))), "nobody else works");
        let open = Command::OpenInvite { token: Digest([1; 32]), expires_ms: 9_000, witness: false, name: None };
        s::all_done(&mut state, &[open]);
        assert_eq!(try_at(&mut state, 1, join(7, "a")), Outcome::Done);
        assert!(
            matches!(try_at(&mut state, 1, Command::Wiped {}), Outcome::Refused(Refusal::State(_))),
            "nobody asked"
        );
        let sector = state.sectors.keys().next().copied();
        if let Some(s) = sector.and_then(|id| state.sectors.get_mut(&id)) {
            s.staged.insert(me, Default::default());
            let mut held = state.clone();
            assert!(matches!(try_at(&mut held, 1, wipe(me)), Outcome::Refused(Refusal::State(_))), "it holds bytes");
            assert_eq!(try_at(&mut held, 1, stand(me, Standing::Faulty)), Outcome::Done);
            assert_eq!(try_at(&mut held, 1, wipe(me)), Outcome::Done, "a broken one is not waited for");
            state.sectors.values_mut().for_each(|s| s.staged.clear());
        }
        assert_eq!(try_at(&mut state, 1, wipe(me)), Outcome::Done);
        assert_eq!(try_at(&mut state, 1, wipe(me)), Outcome::Done, "said again");
        for back in [Standing::Member, Standing::Draining, Standing::Standby] {
            assert!(matches!(try_at(&mut state, 1, stand(me, back)), Outcome::Refused(Refusal::State(_))), "{back:?}");
        }
        let done = |state: &State, command| crate::effect::took_effect(state, me, &command);
        assert!(done(&state, wipe(me)) && !done(&state, Command::Wiped {}));
        assert_eq!(try_at(&mut state, 1, Command::Wiped {}), Outcome::Done);
        assert!(done(&state, Command::Wiped {}));
        assert_eq!(state.nodes[&me].wipe, Some(Wipe::Done));
        let text = serde_json::to_string(&state.nodes[&me]).unwrap();
        assert!(text.contains(r#""wipe":"done""#), "{text}");
    }

    #[test]
    fn a_start_with_an_old_number_is_refused_and_the_last_node_stays() {
        let mut state = State::default();
        s::all_done(&mut state, &s::begin());
        let start = |incarnation| Command::StartNode { incarnation, version: "1".into() };
        assert_eq!(try_at(&mut state, 1, start(3)), Outcome::Done);
        for old in [3, 2, 0] {
            assert!(matches!(try_at(&mut state, 1, start(old)), Outcome::Refused(Refusal::Differs(_))), "{old}");
        }
        assert!(matches!(
            try_at(&mut state, 1, Command::RemoveNode { node: s::node() }),
            Outcome::Refused(Refusal::Range(_))
        ));
    }
}
