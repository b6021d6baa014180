//! Members among themselves, and who is not let in.

use super::*;
use crate::wire::Hello;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_both_ways_and_bodies_of_all_lengths_come_back() {
    let (a, b) = pair();
    let info = a.endpoint.connect(id(2), b.addr()).await.unwrap();
    assert_eq!((info.node, info.version, info.incarnation, info.revision), (id(2), 1, 1, 1));
    for len in [0, 1, 1000, 100_000, limits::RPC_BODY_MAX] {
        let body: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        assert_eq!(a.endpoint.call(id(2), ECHO, &body, LONG).await.unwrap(), body, "length {len}");
    }
    assert_eq!(echo(&b, 1).await.unwrap(), b"hello");
    let caller: Arc<dyn Caller> = Arc::new(b.endpoint.clone());
    assert_eq!(caller.send(id(1), ECHO, vec![7], SECOND).await.unwrap(), [7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_all_come_back() {
    let (a, _b) = pair();
    let calls: Vec<_> = (0..500u32)
        .map(|n| {
            let endpoint = a.endpoint.clone();
            tokio::spawn(async move { endpoint.call(id(2), ECHO, &n.to_le_bytes(), LONG).await.unwrap() })
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(within(call).await.unwrap(), (n as u32).to_le_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_services_do_not_hold_up_the_consensus() {
    let (a, b) = pair();
    b.services.serve(kind::RAFT, Arc::new(Kind(ECHO, b.handlers.clone())));
    echo(&a, 2).await.unwrap();
    let slow = |_| {
        let endpoint = a.endpoint.clone();
        tokio::spawn(async move { endpoint.call(id(2), NEVER, b"", LONG).await })
    };
    let slow: Vec<_> = (0..2 * limits::RPC_PER_PEER_MAX).map(slow).collect();
    for _ in 0..limits::RPC_PER_PEER_MAX {
        within(b.handlers.started.acquire()).await.unwrap().forget();
    }
    // The room of the others is full: one more waits for its whole deadline, the consensus does not wait.
    let e = a.endpoint.call(id(2), ECHO, b"", Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(e, CallError::Deadline { .. }), "{e}");
    assert_eq!(a.endpoint.call(id(2), kind::RAFT, b"beat", 5 * SECOND).await.unwrap(), b"beat");
    assert_eq!(b.handlers.started.available_permits(), 0);
    slow.iter().for_each(|call| call.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_late_or_unknown_has_its_own_error() {
    let (a, _b) = pair();
    let call = |kind, body: Vec<u8>, wait| {
        let e = a.endpoint.clone();
        async move { e.call(id(2), kind, &body, wait).await.unwrap_err() }
    };
    let e = call(ECHO, vec![0; limits::RPC_BODY_MAX + 1], SECOND).await;
    assert!(matches!(e, CallError::TooLarge { .. }), "{e}");
    let status = |e: CallError| match e {
        CallError::Refused { source, .. } => source.status,
        e => panic!("{e}"),
    };
    assert_eq!(status(call(HUGE, vec![], LONG).await), Status::TooLarge);
    assert_eq!(status(call(999, vec![0; 1 << 20], LONG).await), Status::UnknownKind);
    let e = call(PANIC, vec![], LONG).await;
    assert!(e.outcome_unknown());
    assert_eq!(status(e), Status::Failed);
    for wait in [Duration::ZERO, Duration::from_secs(61)] {
        assert!(matches!(call(ECHO, vec![], wait).await, CallError::BadDeadline(_)));
    }
    let e = a.endpoint.call(id(9), ECHO, b"", SECOND).await.unwrap_err();
    assert_eq!(e, CallError::NotMember(id(9)));
    assert!(echo(&a, 2).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_work_on_both_sides() {
    let (a, b) = pair();
    echo(&a, 2).await.unwrap();
    let e = a.endpoint.call(id(2), NEVER, b"", Duration::from_millis(200)).await.unwrap_err();
    assert!(e.outcome_unknown() && e.retry() == Retry::Later, "{e}");
    within(b.handlers.dropped.notified()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_call_cancels_it() {
    let (a, b) = pair();
    let endpoint = a.endpoint.clone();
    let call = tokio::spawn(async move { endpoint.call(id(2), NEVER, b"x", 2 * LONG).await });
    within(b.handlers.started.acquire()).await.unwrap().forget();
    call.abort();
    within(b.handlers.dropped.notified()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_is_cut_off_at_once_and_refused_from_then_on() {
    let (a, b) = pair();
    echo(&b, 1).await.unwrap();
    let endpoint = b.endpoint.clone();
    let call = tokio::spawn(async move { endpoint.call(id(1), NEVER, b"", LONG).await.unwrap_err() });
    within(a.handlers.started.acquire()).await.unwrap().forget();
    a.members.update(members_of(ZONE, 2, &[&a.identity])).unwrap();
    let e = within(call).await.unwrap();
    assert!(cut_off(&e), "{e}");
    within(a.handlers.dropped.notified()).await;
    let e = b.endpoint.connect(id(1), a.addr()).await.unwrap_err();
    assert!(matches!(e, CallError::Unreachable { source: DialError::Broken(_, Broken::KeyRefused), .. }), "{e}");
    assert_eq!(e.retry(), Retry::Operator);
    assert_eq!(echo(&a, 2).await, Err(CallError::NotMember(id(2))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_remover_stops_its_own_calls_too() {
    let (a, b) = pair();
    let endpoint = a.endpoint.clone();
    let call = tokio::spawn(async move { endpoint.call(id(2), NEVER, b"", LONG).await.unwrap_err() });
    within(b.handlers.started.acquire()).await.unwrap().forget();
    a.members.update(members_of(ZONE, 2, &[&a.identity])).unwrap();
    let e = within(call).await.unwrap();
    assert!(matches!(e, CallError::Broken { source: Broken::ClosedHere, .. }), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_key_changed_is_cut_off_under_the_old_one() {
    let (a, b) = pair();
    echo(&b, 1).await.unwrap();
    let anew = identity(2);
    a.members.update(members_of(ZONE, 2, &[&a.identity, &anew])).unwrap();
    assert!(echo(&b, 1).await.is_err());
    assert!(b.endpoint.connect(id(1), a.addr()).await.is_err());
    let anew = Node::start(&anew, members_of(ZONE, 2, &[&a.identity, &anew]));
    anew.endpoint.connect(id(1), a.addr()).await.unwrap();
    let e = a.endpoint.connect(id(2), b.addr()).await.unwrap_err();
    assert!(matches!(e, CallError::Unreachable { source: DialError::Broken(_, Broken::OtherKey), .. }), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_those_without_a_key_are_refused_by_tls() {
    let (a, b) = pair();
    let stranger = identity(3);
    let s = Node::start(&stranger, members_of(ZONE, 1, &[&stranger, &a.identity]));
    let e = s.endpoint.connect(id(1), a.addr()).await.unwrap_err();
    assert!(matches!(e, CallError::Unreachable { source: DialError::Broken(_, Broken::KeyRefused), .. }), "{e}");
    let other: NodeKey = stranger.clone();
    for (key, protocol) in [
        (Some(other), tls::ALPN),
        (None, tls::ALPN),
        (Some(b.key()), b"h3".as_slice()),
        (Some(b.key()), tls::ALPN_JOIN),
    ] {
        let Ok((_socket, connection)) = raw(key.as_ref(), protocol, a.addr()).await else { continue };
        // A client may finish its handshake before the server has judged it. It is TLS that refuses, not the layer
        // above it.
        let e = within(connection.closed()).await;
        assert!(matches!(e, quinn::ConnectionError::ConnectionClosed(_)), "{e}");
    }
    assert!(echo(&b, 1).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_zone_is_refused_even_with_a_known_key() {
    let (a, b) = (identity(1), identity(2));
    let server = Node::start(&a, members_of(ZONE, 1, &[&a, &b]));
    let client = Node::start(&b, members_of(ZoneId([2; 16]), 1, &[&a, &b]));
    let e = client.endpoint.connect(id(1), server.addr()).await.unwrap_err();
    let CallError::Unreachable { source: DialError::Refused(_, refusal), .. } = &e else { panic!("{e}") };
    assert_eq!(refusal.status, Status::WrongZone);
    let again = echo(&client, 1).await.unwrap_err();
    assert!(matches!(again, CallError::Unreachable { source: DialError::Waiting(..), .. }), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_start_than_was_seen_is_refused() {
    let (a, b) = (identity(1), identity(2));
    let members = members_of(ZONE, 1, &[&a, &b]);
    let server = Node::start(&a, members.clone());
    let fresh = Node::start_at(&b, members.clone(), 7, any_port());
    fresh.endpoint.connect(id(1), server.addr()).await.unwrap();
    let stale = Node::start_at(&b, members, 6, any_port());
    let e = stale.endpoint.connect(id(1), server.addr()).await.unwrap_err();
    let CallError::Unreachable { source: DialError::Refused(_, refusal), .. } = &e else { panic!("{e}") };
    assert_eq!(refusal.status, Status::StaleIncarnation);
    assert_eq!(e.retry(), Retry::Operator);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_is_dialed_again_on_demand() {
    let (a, b) = pair();
    echo(&a, 2).await.unwrap();
    let (addr, members) = (b.addr(), members_of(ZONE, 1, &[&a.identity, &b.identity]));
    let identity = b.identity.clone();
    b.endpoint.close().await;
    drop(b);
    let e = within(async {
        loop {
            // The first calls may meet the closing connection.
            match echo(&a, 2).await.unwrap_err() {
                CallError::Broken { .. } => {}
                e => return e,
            }
        }
    })
    .await;
    assert!(matches!(e, CallError::Unreachable { .. } | CallError::Deadline { .. }), "{e}");
    // The old socket goes when its last task does.
    within(async {
        while std::net::UdpSocket::bind(addr).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let _b = Node::start_at(&identity, members, 2, addr);
    assert_eq!(a.endpoint.connect(id(2), addr).await.unwrap().incarnation, 2);
    echo(&a, 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_that_do_not_meet_and_wrong_addressees_hear_why() {
    let (a, b) = pair();
    let good =
        Hello { version_min: 1, version_max: 1, zone: ZONE, node: id(2), peer: id(1), incarnation: 1, revision: 1 };
    let cases = [
        (Hello { version_min: 2, version_max: 9, ..good }, Status::WrongVersion),
        (Hello { zone: ZoneId([9; 16]), ..good }, Status::WrongZone),
        (Hello { peer: id(3), ..good }, Status::WrongNode),
        (Hello { node: id(1), ..good }, Status::WrongNode),
    ];
    for (hello, want) in cases {
        let (_socket, connection) = raw(Some(&b.key()), tls::ALPN, a.addr()).await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&hello.to_bytes()).await.unwrap();
        let refusal = within(rpc::read_response(&mut recv, 72)).await.unwrap().unwrap_err();
        assert_eq!(refusal.status, want, "{refusal}");
        within(connection.closed()).await;
    }
}
