//! Invites: who gets in with one, and who does not.

use std::sync::Mutex;

use super::*;

/// A zone that takes each invite once.
#[derive(Default)]
struct Desk {
    used: Mutex<Vec<(TokenHash, [u8; 32])>>,
    refuse: bool,
}

impl JoinHost for Desk {
    fn consume(&self, token: TokenHash, joiner: Joiner) -> Boxed<'_, Result<(), Refusal>> {
        Box::pin(async move {
            let mut used = self.used.lock().unwrap();
            if self.refuse || used.iter().any(|(t, k)| *t == token && *k != joiner.key) {
                return Err(Refusal::new(Retry::Operator, "the invite was used on another node"));
            }
            used.push((token, joiner.key));
            Ok(())
        })
    }

    fn payload(&self, joiner: Joiner) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move { Ok([b"welcome ".as_slice(), &joiner.node.0, &[joiner.role as u8]].concat()) })
    }
}

fn host() -> Node {
    let a = identity(1);
    Node::start(&a, members_of(ZONE, 1, &[&a]))
}

fn invite(node: &Node) -> Invite {
    let fingerprint = zone_fingerprint(&owner(1).public_key());
    Invite::new(ZONE, fingerprint, vec![node.addr()], 2000, Role::Full).unwrap()
}

/// A host with an invite open on it.
fn open() -> (Node, Invite, Arc<Desk>) {
    let (node, desk) = (host(), Arc::new(Desk::default()));
    let invite = invite(&node);
    node.endpoint.open_invite(&invite, desk.clone()).unwrap();
    (node, invite, desk)
}

fn joiner(n: u8) -> Arc<SigningKey> {
    Arc::new(owner(n))
}

async fn status(invite: &Invite, n: u8) -> Status {
    match within(join(invite, id(n), joiner(n))).await.unwrap_err() {
        JoinError::Refused { source, .. } => source.status,
        e => panic!("{e}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_lets_one_node_in_and_no_second() {
    let (node, invite, desk) = open();
    let text = invite.to_text();
    let invite = Invite::parse(&text).unwrap();
    let joined = within(join(&invite, id(8), joiner(8))).await.unwrap();
    assert_eq!(joined.payload, [b"welcome ".as_slice(), &[8; 16], &[1]].concat());
    assert_eq!((joined.host.node, joined.addr), (id(1), node.addr()));
    assert_eq!(*desk.used.lock().unwrap(), [(invite.token_hash(), joiner(8).public_key())]);
    assert_eq!(status(&invite, 9).await, Status::InviteUsed);
    // The same node may come back for what it did not receive.
    assert_eq!(within(join(&invite, id(8), joiner(8))).await.unwrap().payload, joined.payload);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_that_the_zone_does_not_take_hands_nothing_over() {
    let node = host();
    let invite = invite(&node);
    node.endpoint.open_invite(&invite, Arc::new(Desk { refuse: true, ..Desk::default() })).unwrap();
    assert_eq!(status(&invite, 8).await, Status::InviteUsed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_secrets_are_refused_and_close_the_invite_in_the_end() {
    let (node, good, desk) = open();
    // Another secret is another invite.
    assert_eq!(status(&invite(&node), 8).await, Status::InviteUnknown);
    // The name of the invite, without its secret: the transcript differs by the role.
    let bent = Invite { role: Role::Witness, ..good.clone() };
    for _ in 0..limits::JOIN_FAILED_MAX {
        assert_eq!(status(&bent, 8).await, Status::InviteProof);
    }
    let e = within(join(&good, id(8), joiner(8))).await.unwrap_err();
    assert!(matches!(e, JoinError::Broken { source: Broken::NoJoins, .. }), "{e}");
    assert!(desk.used.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_and_withdrawn_invites_are_refused() {
    let (node, invite, desk) = open();
    let mut longer = invite_until(&node, 3000);
    node.endpoint.open_invite(&longer, desk.clone()).unwrap();
    node.now.store(2000, Ordering::SeqCst);
    assert_eq!(status(&invite, 8).await, Status::InviteExpired);
    longer.expires_unix += 1; // Nobody lengthens his own invite.
    assert_eq!(status(&longer, 8).await, Status::InviteProof);
    node.endpoint.close_invite(&longer.token_hash());
    // None is open any more: the protocol itself is refused.
    let e = within(join(&invite, id(8), joiner(8))).await.unwrap_err();
    assert!(matches!(e, JoinError::Broken { source: Broken::NoJoins, .. }), "{e}");
    assert!(desk.used.lock().unwrap().is_empty());
}

fn invite_until(node: &Node, expires_unix: u64) -> Invite {
    Invite { expires_unix, ..invite(node) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_zone_at_the_address_is_told_nothing() {
    let (_node, good, desk) = open();
    let other = Invite { fingerprint: zone_fingerprint(&owner(2).public_key()), ..good.clone() };
    let e = within(join(&other, id(8), joiner(8))).await.unwrap_err();
    assert!(matches!(e, JoinError::OtherZone { .. }), "{e}");
    let other = Invite { zone: ZoneId([9; 16]), ..good };
    let e = within(join(&other, id(8), joiner(8))).await.unwrap_err();
    assert!(matches!(e, JoinError::OtherZone { .. }), "{e}");
    assert!(desk.used.lock().unwrap().is_empty());
}

/// A relay with a key of its own between joiner and member: it shows what the member shows and passes on what it gets.
async fn relay(key: NodeKey, member: SocketAddr) -> SocketAddr {
    let any = MemberView::new(Members::new(ZONE, 1, []).unwrap());
    let mut config = quinn::ServerConfig::with_crypto(tls::server(&key, &any, true).unwrap());
    config.transport_config(endpoint::transport(endpoint::Side::Serving));
    let socket = endpoint::open_socket(any_port(), Some(config)).unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let victim = socket.accept().await.unwrap().await.unwrap();
        let (_socket, onward) = raw(Some(&key), tls::ALPN_JOIN, member).await.unwrap();
        while let Ok((mut to_victim, mut from_victim)) = victim.accept_bi().await {
            let (mut send, mut recv) = onward.open_bi().await.unwrap();
            send.write_all(&from_victim.read_to_end(4096).await.unwrap()).await.unwrap();
            send.finish().unwrap();
            let Ok(answer) = recv.read_to_end(1 << 20).await else { break };
            to_victim.write_all(&answer).await.unwrap();
            to_victim.finish().unwrap();
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_with_a_key_of_its_own_gains_nothing() {
    let (node, good, desk) = open();
    let addr = relay(joiner(66), node.addr()).await;
    let through = Invite { addresses: vec![addr], ..good.clone() };
    let e = within(join(&through, id(8), joiner(8))).await.unwrap_err();
    assert!(matches!(e, JoinError::OtherKey { .. }), "{e}");
    assert!(desk.used.lock().unwrap().is_empty());
    assert!(within(join(&good, id(8), joiner(8))).await.is_ok());
}

/// Asks `node` with `key` as a joiner would, with the bytes that `prove` makes on this session.
async fn ask_with(
    node: &Node,
    key: &NodeKey,
    prove: impl FnOnce(&quinn::Connection) -> Vec<u8>,
) -> Result<Vec<u8>, Refusal> {
    let (_socket, connection) = raw(Some(key), tls::ALPN_JOIN, node.addr()).await.unwrap();
    let mut last = None;
    for question in [b"zwjh\x01\0\x01\0".to_vec(), prove(&connection)] {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&question).await.unwrap();
        send.finish().unwrap();
        last = Some(within(rpc::read_response(&mut recv, 1 << 21)).await.unwrap());
    }
    last.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_is_good_for_its_own_session_key_and_node_only() {
    let (node, good, desk) = open();
    let (key, other): (NodeKey, NodeKey) = (joiner(8), joiner(9));
    let session = |c: &quinn::Connection| join::Session {
        exported: join::exported(c).unwrap(),
        joiner_key: key.public_key(),
        host_key: node.key().public_key(),
        zone: ZONE,
        joiner: id(8),
        host: id(1),
        token: good.token_hash(),
    };
    // Recorded on one session, replayed on another, even by one who has the joiner's key.
    let (_socket, first) = raw(Some(&key), tls::ALPN_JOIN, node.addr()).await.unwrap();
    let recorded = session(&first).prove(&good);
    let e = ask_with(&node, &key, |_| recorded).await.unwrap_err();
    assert_eq!(e.status, Status::InviteProof);
    let e = ask_with(&node, &other, |c| session(c).prove(&good)).await.unwrap_err();
    assert_eq!(e.status, Status::InviteProof);
    let as_another = |c: &quinn::Connection| {
        let mut bytes = session(c).prove(&good);
        bytes[40..56].fill(7);
        bytes
    };
    assert_eq!(ask_with(&node, &key, as_another).await.unwrap_err().status, Status::InviteProof);
    for (at, value, want) in [(0, b'x', Status::BadFrame), (4, 2, Status::WrongVersion), (7, 1, Status::BadFrame)] {
        let bent = |c: &quinn::Connection| {
            let mut bytes = session(c).prove(&good);
            bytes[at] = value;
            bytes
        };
        assert_eq!(ask_with(&node, &key, bent).await.unwrap_err().status, want);
    }
    assert!(desk.used.lock().unwrap().is_empty());
    assert!(ask_with(&node, &key, |c| session(c).prove(&good)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_at_the_door_for_joiners_does_no_harm() {
    let (node, good, desk) = open();
    let mut random = crate::memory::Seeded(7);
    for n in 0..10u8 {
        let key: NodeKey = joiner(100 + n);
        let (_socket, connection) = raw(Some(&key), tls::ALPN_JOIN, node.addr()).await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let noise: Vec<u8> = (0..8 + n).map(|_| random.next() as u8).collect();
        let _ = send.write_all(&noise).await; // The member may have heard enough.
        let _ = send.finish();
        let answer = within(rpc::read_response(&mut recv, 1 << 21)).await;
        assert!(!matches!(answer, Ok(Ok(_))));
        within(connection.closed()).await;
    }
    assert!(desk.used.lock().unwrap().is_empty());
    assert!(within(join(&good, id(8), joiner(8))).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_does_not_know_the_secret_is_found_out() {
    // A removed node answers "welcome" to everyone: the owner's certificate is good, the proof is not.
    let removed = identity(5);
    let key: NodeKey = removed.clone();
    let any = MemberView::new(Members::new(ZONE, 1, []).unwrap());
    let mut config = quinn::ServerConfig::with_crypto(tls::server(&key, &any, true).unwrap());
    config.transport_config(endpoint::transport(endpoint::Side::Serving));
    let socket = endpoint::open_socket(any_port(), Some(config)).unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let victim = socket.accept().await.unwrap().await.unwrap();
        let show = [&removed.certificate().to_bytes()[..], &ZONE.0].concat();
        for answer in [show, vec![0xab; 40]] {
            let (mut send, _recv) = victim.accept_bi().await.unwrap();
            send.write_all(&rpc::response_bytes(&Ok(answer))).await.unwrap();
            send.finish().unwrap();
        }
        victim.closed().await;
    });
    let fingerprint = zone_fingerprint(&owner(1).public_key());
    let invite = Invite::new(ZONE, fingerprint, vec![addr], 2000, Role::Full).unwrap();
    let e = within(join(&invite, id(8), joiner(8))).await.unwrap_err();
    assert!(matches!(e, JoinError::HostProof { .. }), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_an_invite_is_open_strangers_get_no_further_as_members() {
    let (node, _invite, _desk) = open();
    let (_socket, connection) = raw(Some(&(joiner(66) as NodeKey)), tls::ALPN, node.addr()).await.unwrap();
    let e = Broken::from(within(connection.closed()).await);
    assert_eq!(e, Broken::KeyRefused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_invites_are_counted() {
    let node = host();
    for _ in 0..limits::INVITES_MAX {
        node.endpoint.open_invite(&invite(&node), Arc::new(Desk::default())).unwrap();
    }
    assert_eq!(node.endpoint.open_invite(&invite(&node), Arc::new(Desk::default())), Err(DeskFull));
}
