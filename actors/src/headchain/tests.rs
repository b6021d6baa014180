use zoneward_sectors::crypto::{Secret32, Signer as _, SigningKey, sha256};

use super::*;

const ZONE: ZoneId = ZoneId([9; 16]);
/// The owner, and one who would like to be.
const OWNER: u8 = 99;
const MALLORY: u8 = 98;

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret32([n; 32]))
}

fn node(n: u8) -> NodeId {
    NodeId([n; 16])
}

fn certificate(n: u8, owner: u8) -> String {
    STANDARD.encode(NodeCertificate::issue(&key(owner), 1, node(n), key(n).public_key()).to_bytes())
}

/// A head's text and the signatures of these nodes.
fn head(n: u64, generation: u32, voters: &[u8], by: &[u8]) -> (String, Vec<HeadSignature>) {
    let payload = HeadPayload {
        n,
        previous: Digest([1; 32]),
        sector: SectorId([2; 16]),
        raw_id: sha256(&[&n.to_le_bytes(), voters, by]),
        copies: Vec::new(),
        checkpoint: CheckpointId([3; 16]),
        time_ms: 4,
        generation,
        voters: voters.iter().map(|n| node(*n)).collect(),
    };
    let text = serde_json::to_string(&payload).unwrap();
    let sign = |n: &u8| HeadSignature {
        certificate: certificate(*n, OWNER),
        signature: STANDARD.encode(key(*n).sign(&head_message(&text))),
    };
    let signatures = by.iter().map(sign).collect();
    (text, signatures)
}

/// From the owner's word for node 1 over these handovers: number, new voters, signers.
fn chain(generation: u32, handovers: &[(u64, &[u8], &[u8])]) -> Chain {
    let signature = STANDARD.encode(key(OWNER).sign(&quorum::message(ZONE, generation, node(1))));
    let word = Vouched { generation, node: node(1), signature };
    let handover = |(n, voters, by): &(u64, &[u8], &[u8])| {
        let (payload, signatures) = head(*n, generation, voters, by);
        Handover { payload, signatures }
    };
    Chain::of(ZONE, &word, &handovers.iter().map(handover).collect::<Vec<_>>())
}

fn pointer(head: (String, Vec<HeadSignature>), vouched: Option<Chain>) -> Pointer {
    Pointer { format: 2, payload: head.0, signatures: head.1, vouched }
}

fn read(p: &Pointer) -> Option<SignedHead> {
    signed_head(&serde_json::to_vec(p).unwrap(), &key(OWNER).public_key())
}

/// Handed over from node 1 to 1, 2, 3 with head 5, and from those to 2, 3, 4 with head 9.
const LONG: &[(u64, &[u8], &[u8])] = &[(5, &[1, 2, 3], &[1, 2]), (9, &[2, 3, 4], &[2, 3])];

#[test]
fn a_head_stands_when_most_of_its_voters_signed_it_and_the_owners_word_reaches_them() {
    let shown = read(&pointer(head(12, 0, &[2, 3, 4], &[3, 4]), Some(chain(0, LONG)))).unwrap();
    assert_eq!((shown.payload.n, shown.standing.as_ref().unwrap().handovers.len()), (12, 2));
    // The handover itself, as it is published first.
    assert!(read(&pointer(head(9, 0, &[2, 3, 4], &[2, 3]), Some(chain(0, LONG)))).unwrap().standing.is_some());
    assert!(read(&pointer(head(1, 0, &[1], &[1]), Some(chain(0, &[])))).unwrap().standing.is_some());
    // One signature makes no majority, twice neither, and those of others do not count.
    for by in [&[3][..], &[3, 3], &[3, 1], &[1, 5], &[]] {
        assert!(read(&pointer(head(12, 0, &[2, 3, 4], by), Some(chain(0, LONG)))).is_none(), "{by:?}");
    }
    // Other voters than those that were handed over to, another generation, a number from before.
    for (n, generation, voters) in [(12, 0, &[3, 4][..]), (12, 1, &[2, 3, 4]), (8, 0, &[2, 3, 4]), (12, 0, &[])] {
        assert!(read(&pointer(head(n, generation, voters, &[2, 3, 4]), Some(chain(0, LONG)))).is_none());
    }
}

#[test]
fn a_chain_with_a_weak_link_is_none() {
    let top = || head(12, 0, &[2, 3, 4], &[2, 3, 4]);
    let refused = |c: Chain, what: &str| assert!(read(&pointer(top(), Some(c))).is_none(), "{what}");
    refused(chain(0, &[(5, &[1, 2, 3], &[2, 3]), LONG[1]]), "the first voter did not hand over");
    refused(chain(0, &[LONG[0], (9, &[2, 3, 4], &[3, 4])]), "most of the old voters did not");
    refused(chain(0, &[LONG[0], (9, &[2, 3, 4, 5, 6], &[1, 2])]), "most of the new voters did not");
    refused(chain(0, &[(9, LONG[0].1, LONG[0].2), (5, LONG[1].1, LONG[1].2)]), "backwards");
    refused(chain(0, &LONG[1..]), "one is missing");
    refused(chain(1, LONG), "the owner's word for another generation");
    let mut other_word = chain(0, LONG);
    other_word.node = node(2);
    refused(other_word, "the owner's word for another node");
    let mut other_zone = chain(0, LONG);
    other_zone.zone = ZoneId([8; 16]);
    refused(other_zone, "the owner's word for another zone");
    let mut changed = chain(0, LONG);
    changed.handovers[0].payload = changed.handovers[0].payload.replace("\"time_ms\":4", "\"time_ms\":5");
    refused(changed, "a text that nobody signed");
    // A certificate that somebody else gave out.
    let mut p = pointer(top(), Some(chain(0, LONG)));
    p.signatures.iter_mut().for_each(|s| s.certificate = certificate(3, MALLORY));
    assert!(read(&p).is_none());
}

#[test]
fn a_head_without_the_owners_word_needs_one_certified_signature() {
    let shown = read(&pointer(head(12, 0, &[2, 3, 4], &[3]), None)).unwrap();
    assert_eq!((shown.payload.n, shown.standing), (12, None));
    let mut p = pointer(head(12, 0, &[3], &[3]), None);
    p.signatures[0].certificate = certificate(3, MALLORY);
    assert!(read(&p).is_none());
    // The form of before.
    let text = r#"{"n":7,"previous":"0101010101010101010101010101010101010101010101010101010101010101","sector":"02020202020202020202020202020202","raw_id":"0101010101010101010101010101010101010101010101010101010101010101","copies":[],"checkpoint":"03030303030303030303030303030303","time_ms":4}"#;
    let old = serde_json::json!({"format": 1, "payload": text, "certificate": certificate(1, OWNER),
        "signature": STANDARD.encode(key(1).sign(&head_message(text)))});
    let shown = signed_head(old.to_string().as_bytes(), &key(OWNER).public_key()).unwrap();
    assert_eq!((shown.payload.n, shown.standing), (7, None));
    for bad in [old.to_string().replace("\"format\":1", "\"format\":2"), old.to_string().replace("n\\\":7", "n\\\":8")]
    {
        assert!(signed_head(bad.as_bytes(), &key(OWNER).public_key()).is_none(), "{bad}");
    }
    let mut later = pointer(head(12, 0, &[3], &[3]), None);
    later.format = 3;
    assert!(read(&later).is_none());
}

#[test]
fn two_heads_are_told_apart_by_who_spoke_when() {
    let of = |n, generation, voters: &[u8], by: &[u8], c: Option<Chain>| {
        read(&pointer(head(n, generation, voters, by), c)).unwrap()
    };
    let now = of(12, 0, &[2, 3, 4], &[2, 3], Some(chain(0, LONG)));
    let newer = of(13, 0, &[2, 3, 4], &[3, 4], Some(chain(0, LONG)));
    let other = of(12, 0, &[2, 3, 4], &[3, 4], Some(chain(0, LONG)));
    assert_eq!((now.against(&newer), newer.against(&now)), (Against::Newer, Against::Older));
    assert_eq!((now.against(&now), now.against(&other)), (Against::Same, Against::Forked));
    // Before the last handover those voters spoke; after it they do not, however high the number.
    let before = of(8, 0, &[1, 2, 3], &[1, 2], Some(chain(0, &LONG[..1])));
    let after = of(60, 0, &[1, 2, 3], &[1, 2], Some(chain(0, &LONG[..1])));
    let first = of(70, 0, &[1], &[1], Some(chain(0, &[])));
    assert_eq!((now.against(&before), before.against(&now)), (Against::Older, Against::Newer));
    assert_eq!((now.against(&after), after.against(&now)), (Against::Overruled, Against::Overrules));
    assert_eq!((now.against(&first), first.against(&now)), (Against::Overruled, Against::Overrules));
    // The first voter hands over to somebody else: two histories.
    let fork = of(12, 0, &[1, 5, 6], &[5, 6], Some(chain(0, &[(6, &[1, 5, 6], &[1, 5])])));
    assert_eq!((now.against(&fork), fork.against(&now)), (Against::Forked, Against::Forked));
    // The owner began anew.
    let anew = of(3, 1, &[1], &[1], Some(chain(1, &[])));
    assert_eq!((anew.against(&now), now.against(&anew)), (Against::Overruled, Against::Overrules));
    let later = of(13, 1, &[1], &[1], Some(chain(1, &[])));
    assert_eq!((later.against(&now), now.against(&later)), (Against::Older, Against::Newer));
    // What no majority signed never stands before what one did, and is told where it seems newer.
    let single = of(60, 0, &[2, 3, 4], &[3], None);
    assert_eq!((now.against(&single), single.against(&now)), (Against::Unvouched, Against::Overrules));
    let old = of(4, 0, &[1], &[1], None);
    assert_eq!((now.against(&old), old.against(&now)), (Against::Older, Against::Newer));
}
