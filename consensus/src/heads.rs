//! Who speaks for the zone in its heads (`docs/format.md` §8): the owner's word for the first voter of a generation, and the
//! heads with which one set of voters handed over to the next.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zoneward_sectors::crypto::verify_ed25519;
use zoneward_sectors::ids::NodeId;

use crate::apply::{Applied, Change, Refusal, Row};
use crate::limits::HANDOVERS_MAX;
use crate::model::{State, Zone};

/// The owner's word that a node is the first voter of a generation of the zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vouched {
    pub generation: u32,
    pub node: NodeId,
    /// Over [`crate::quorum::message`]; base64.
    pub signature: String,
}

/// A node's signature of a head, with what makes it a node of the zone; base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadSignature {
    pub certificate: String,
    pub signature: String,
}

/// A head whose voters are others than those of the one before, signed by a majority of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// The head's exact text.
    pub payload: String,
    pub signatures: Vec<HeadSignature>,
}

/// What a head says of who votes. Read from its text; the rest of it is none of the state's business.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Electorate {
    pub n: u64,
    pub generation: u32,
    pub voters: BTreeSet<NodeId>,
}

impl Electorate {
    /// From a head's text; `None` if it says nothing of voters, as heads of before.
    pub fn of(payload: &str) -> Option<Self> {
        serde_json::from_str(payload).ok()
    }
}

/// Whether these are more than half of the voters.
pub fn is_majority(voters: &BTreeSet<NodeId>, of: &BTreeSet<NodeId>) -> bool {
    voters.intersection(of).count() * 2 > voters.len()
}

/// Who spoke for the zone last, as far as the owner's word reaches; `None`: it reaches nowhere.
pub fn speakers(state: &State) -> Option<BTreeSet<NodeId>> {
    let zone = state.zone.as_ref()?;
    let vouched = zone.vouched.as_ref().filter(|v| v.generation == zone.generation)?;
    match state.head.as_ref().and_then(|h| h.handovers.last()) {
        Some(last) => Some(Electorate::of(&last.payload)?.voters),
        None => Some(BTreeSet::from([vouched.node])),
    }
}

/// What a node signs of a head.
pub fn head_message(payload: &str) -> Vec<u8> {
    [b"zoneward/1 head", payload.as_bytes()].concat()
}

/// Those of these nodes whose signature of a head is right.
pub fn signers(state: &State, payload: &str, signatures: &[(NodeId, String)]) -> BTreeSet<NodeId> {
    let message = head_message(payload);
    let right = |(node, signature): &&(NodeId, String)| {
        let key = state.nodes.get(node).and_then(|n| STANDARD.decode(&n.public_key).ok());
        let key = key.and_then(|k| <[u8; 32]>::try_from(k).ok());
        let signature = STANDARD.decode(signature).unwrap_or_default();
        key.is_some_and(|key| verify_ed25519(&key, &message, &signature))
    };
    signatures.iter().filter(right).map(|(node, _)| *node).collect()
}

fn owner_said(zone: &Zone, generation: u32, node: NodeId, signature: &str) -> bool {
    let owner = STANDARD.decode(&zone.owner_sign_public).ok().and_then(|k| <[u8; 32]>::try_from(k).ok());
    let signature = STANDARD.decode(signature).unwrap_or_default();
    owner.is_some_and(|key| verify_ed25519(&key, &crate::quorum::message(zone.id, generation, node), &signature))
}

/// Keeps the owner's word for the generation that the zone is in. There is one for each.
pub(crate) fn vouch(c: &mut Change<'_>, word: &Vouched) -> Applied {
    let zone = c.state.zone.as_mut().ok_or(Refusal::NoZone)?;
    if word.generation != zone.generation {
        return Err(Refusal::Range("the generation"));
    }
    if zone.vouched.as_ref().is_some_and(|v| v.generation == word.generation && v.node != word.node) {
        return Err(Refusal::Exists("the owner's word for this generation"));
    }
    if !owner_said(zone, word.generation, word.node, &word.signature) {
        return Err(Refusal::Signature);
    }
    zone.vouched = Some(word.clone());
    c.rows.insert(Row::Zone);
    Ok(())
}

/// Keeps the newest head as one with which the voters changed.
pub(crate) fn hand_over(c: &mut Change<'_>, n: u64, signatures: &[(NodeId, String)]) -> Applied {
    let before = speakers(c.state).ok_or(Refusal::State("what the owner vouched for"))?;
    let generation = c.state.zone.as_ref().map_or(0, |z| z.generation);
    let head = c.state.head.as_ref().filter(|h| h.n == n).ok_or(Refusal::Unknown("the head"))?;
    if head.handovers.last().is_some_and(|h| h.payload == head.payload) {
        return Ok(());
    }
    let said = Electorate::of(&head.payload).filter(|e| e.n == n && e.generation == generation);
    let said = said.ok_or(Refusal::State("the head"))?;
    let signed = signers(c.state, &head.payload, signatures);
    if said.voters == before {
        return Err(Refusal::State("the head"));
    }
    if !is_majority(&before, &signed) || !is_majority(&said.voters, &signed) {
        return Err(Refusal::Signature);
    }
    if head.handovers.len() >= HANDOVERS_MAX {
        return Err(Refusal::Range("the number of changes of voters"));
    }
    let named = |(node, signature): &(NodeId, String)| {
        let certificate = c.state.nodes.get(node).filter(|_| signed.contains(node))?.certificate.clone();
        Some(HeadSignature { certificate, signature: signature.clone() })
    };
    let handover =
        Handover { payload: head.payload.clone(), signatures: signatures.iter().filter_map(named).collect() };
    if let Some(head) = c.state.head.as_mut() {
        head.handovers.push(handover);
        c.rows.insert(Row::Head);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use zoneward_sectors::crypto::{Secret32, Signer, SigningKey};

    use super::*;
    use crate::apply::{Outcome, apply};
    use crate::command::Command;
    use crate::samples as s;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&Secret32([n; 32]))
    }

    fn node(n: u8) -> NodeId {
        NodeId([n; 16])
    }

    fn say(state: &mut State, command: Command) -> Outcome {
        let index = state.revision + 1;
        apply(state, index, 1, s::node(), &command).0
    }

    /// A zone with a head, whose owner's key is number 99 and whose nodes 1 to 5 have the keys of their numbers.
    fn zone(voters: &[u8]) -> State {
        let mut state = State::default();
        s::all_done(&mut state, &s::story());
        state.zone.as_mut().unwrap().owner_sign_public = STANDARD.encode(key(99).public_key());
        for n in 1..=5 {
            let mut record = state.nodes.values().next().unwrap().clone();
            (record.id, record.name) = (node(n), format!("n{n}"));
            record.public_key = STANDARD.encode(key(n).public_key());
            record.certificate = format!("cert{n}");
            state.nodes.insert(node(n), record);
        }
        next_head(&mut state, voters);
        state
    }

    fn next_head(state: &mut State, voters: &[u8]) {
        let head = state.head.as_mut().unwrap();
        head.n += 1;
        let voters: Vec<NodeId> = voters.iter().map(|n| node(*n)).collect();
        let generation = state.zone.as_ref().unwrap().generation;
        head.payload =
            serde_json::json!({"n": head.n, "generation": generation, "voters": voters, "more": 1}).to_string();
    }

    fn signed(state: &State, by: &[u8]) -> Command {
        let head = state.head.as_ref().unwrap();
        let sign = |n: &u8| (node(*n), STANDARD.encode(key(*n).sign(&head_message(&head.payload))));
        Command::HandOver { n: head.n, signatures: by.iter().map(sign).collect() }
    }

    fn vouched(state: &State, n: u8, owner: u8) -> Command {
        let zone = state.zone.as_ref().unwrap();
        let message = crate::quorum::message(zone.id, zone.generation, node(n));
        let signature = STANDARD.encode(key(owner).sign(&message));
        Command::Vouch { word: Vouched { generation: zone.generation, node: node(n), signature } }
    }

    #[test]
    fn the_owner_vouches_once_for_a_generation_and_nobody_else_does() {
        let mut state = zone(&[1]);
        let command = vouched(&state, 1, 98);
        assert_eq!(say(&mut state, command), Outcome::Refused(Refusal::Signature));
        let command = signed(&state, &[1]);
        assert!(matches!(say(&mut state, command), Outcome::Refused(Refusal::State(_))), "nobody vouched yet");
        let command = vouched(&state, 1, 99);
        assert_eq!(say(&mut state, command.clone()), Outcome::Done);
        assert_eq!(say(&mut state, command), Outcome::Done, "said again");
        let command = vouched(&state, 2, 99);
        assert!(matches!(say(&mut state, command), Outcome::Refused(Refusal::Exists(_))));
        assert_eq!(speakers(&state), Some([node(1)].into()));
        // Of another generation it says nothing.
        state.zone.as_mut().unwrap().generation += 1;
        assert_eq!(speakers(&state), None);
    }

    #[test]
    fn voters_hand_over_with_a_majority_of_both() {
        let mut state = zone(&[1, 2, 3]);
        let command = vouched(&state, 1, 99);
        say(&mut state, command);
        let refused = Outcome::Refused(Refusal::Signature);
        for few in [&[2, 3][..], &[1], &[1, 4], &[1, 1], &[]] {
            let command = signed(&state, few);
            assert_eq!(say(&mut state, command), refused, "{few:?}");
        }
        // One of the signatures is of another text.
        let Command::HandOver { n, mut signatures } = signed(&state, &[1, 2]) else { panic!() };
        signatures[1].1 = STANDARD.encode(key(2).sign(b"zoneward/1 head{}"));
        assert_eq!(say(&mut state, Command::HandOver { n, signatures }), refused);
        let command = signed(&state, &[1, 3]);
        assert_eq!(say(&mut state, command.clone()), Outcome::Done);
        assert_eq!(say(&mut state, command), Outcome::Done, "said again");
        assert_eq!(state.head.as_ref().unwrap().handovers.len(), 1);
        assert_eq!(speakers(&state), Some([node(1), node(2), node(3)].into()));
        // The same voters hand over nothing; others need two of the three.
        next_head(&mut state, &[1, 2, 3]);
        let command = signed(&state, &[1, 2, 3]);
        assert!(matches!(say(&mut state, command), Outcome::Refused(Refusal::State(_))));
        next_head(&mut state, &[3, 4, 5]);
        for (by, done) in [(&[3, 4, 5][..], false), (&[1, 2, 3], false), (&[2, 3, 5], true)] {
            let command = signed(&state, by);
            assert_eq!(say(&mut state, command) == Outcome::Done, done, "{by:?}");
        }
        assert_eq!(state.head.as_ref().unwrap().handovers.len(), 2);
        let certificates: Vec<_> =
            state.head.as_ref().unwrap().handovers[1].signatures.iter().map(|s| s.certificate.clone()).collect();
        assert_eq!(certificates, ["cert2", "cert3", "cert5"]);
    }
}
