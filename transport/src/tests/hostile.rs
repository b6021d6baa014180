//! Peers that send anything at all: each wrong has its answer, and the endpoint serves on.

use tokio::io::AsyncReadExt;

use super::*;
use crate::memory::Seeded;
use crate::rpc::{read_response, response_bytes};
use crate::wire::{Hello, Request};

/// Seeded noise, at most so long.
fn noise(random: &mut Seeded, most: u64) -> Vec<u8> {
    let len = random.next() % (most + 1);
    (0..len).map(|_| random.next() as u8).collect()
}

/// A member's connection that said hello, and may now misbehave.
async fn member(b: &Node, a: &Node) -> (quinn::Endpoint, quinn::Connection) {
    let (socket, connection) = raw(Some(&b.key()), tls::ALPN, a.addr()).await.unwrap();
    let (zone, node, peer) = (ZONE, id(2), id(1));
    let hello = Hello { version_min: 1, version_max: 1, zone, node, peer, incarnation: 1, revision: 1 };
    let answer = ask(&connection, &hello.to_bytes()).await.unwrap();
    assert_eq!(answer.unwrap().len(), 72);
    (socket, connection)
}

/// Sends bytes on a stream of their own and reads the answer.
async fn ask(connection: &quinn::Connection, bytes: &[u8]) -> Result<Result<Vec<u8>, Refusal>, rpc::ReadError> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let _ = send.write_all(bytes).await; // The endpoint may have heard enough.
    let _ = send.finish();
    within(read_response(&mut recv, limits::RPC_BODY_MAX)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_frame_has_its_own_refusal() {
    let (a, b) = pair();
    let (_socket, connection) = member(&b, &a).await;
    let good = Request { kind: ECHO, deadline_ms: 5000, body_len: 3 }.to_bytes();
    let frame = |at: usize, value: u8, body: &[u8]| {
        let mut b = good.to_vec();
        b[at] = value;
        b.extend_from_slice(body);
        b
    };
    let cases = [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Status::BadFrame, "this protocol"),
        (frame(4, 9, b"abc"), Status::WrongVersion, "version 9"),
        (frame(8, 1, b"abc"), Status::BadFrame, "reserved"),
        (frame(19, 0xff, b"abc"), Status::TooLarge, "over the limit of 4194304"),
        (frame(6, 0xee, b"abc"), Status::UnknownKind, "kind"),
        (frame(15, 0xff, b"abc"), Status::BadFrame, "deadline"),
        (frame(16, 3, b"ab"), Status::BadFrame, "in the middle"),
        (frame(16, 3, b"abcd"), Status::BadFrame, "follow the body"),
        (b"zw".to_vec(), Status::BadFrame, "in the middle"),
        (good[..10].to_vec(), Status::BadFrame, "in the middle"),
        ([b"zwbo\x02\0".as_slice(), &[0; 58]].concat(), Status::WrongVersion, "version 2"),
        ([b"zwbo\x01\0".as_slice(), &[0xff; 58]].concat(), Status::BadFrame, "reserved"),
        ([b"zwbo\x01\0\x01\0".as_slice(), &[0; 55], &[0xff]].concat(), Status::TooLarge, "bulk stream"),
        (b"zwhi".repeat(18), Status::BadFrame, "hello"),
    ];
    for (bytes, status, text) in cases {
        let refusal = ask(&connection, &bytes).await.unwrap().unwrap_err();
        assert!(refusal.status == status && refusal.text.contains(text), "{bytes:02x?}: {refusal:?}");
    }
    assert_eq!(ask(&connection, &frame(16, 3, b"abc")).await.unwrap().unwrap(), b"abc");
}

/// Reads all, and says how that ended.
struct Reads;

impl BulkHandler for Reads {
    fn receive(&self, _: NodeId, _: BulkOpen, mut s: BulkReceiver) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            let mut bytes = Vec::new();
            let read = s.read_to_end(&mut bytes).await;
            read.map_err(|e| Refusal::new(Retry::Later, format!("{:?}: {e}", e.kind())))?;
            Ok(bytes)
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_stream_ends_with_its_mark_or_in_an_error() {
    let (a, b) = pair();
    a.services.receive(1, Arc::new(Reads));
    let (_socket, connection) = member(&b, &a).await;
    let open = BulkOpen { purpose: 1, id: [0; 16], id2: [0; 16], offset: 0, length: 3 }.to_bytes();
    let cases = [
        (b"ab".as_slice(), "UnexpectedEof: the sender stopped after 2 of 3 bytes"),
        (b"", "UnexpectedEof: the sender stopped after 0 of 3 bytes"),
        (b"abc", "UnexpectedEof: the sender stopped after 3 of 3 bytes"),
        (b"abczwb", "UnexpectedEof"),
        (b"abcdzwbe", "InvalidData: bytes follow"),
        (b"abczwbez", "InvalidData: bytes follow"),
    ];
    for (bytes, text) in cases {
        let refusal = ask(&connection, &[&open[..], bytes].concat()).await.unwrap().unwrap_err();
        assert!(refusal.status == Status::Refused && refusal.text.starts_with(text), "{bytes:?}: {refusal:?}");
    }
    assert_eq!(ask(&connection, &[&open[..], b"abczwbe"].concat()).await.unwrap().unwrap(), b"abc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_a_members_connection_does_no_harm() {
    let (a, b) = pair();
    let (_socket, connection) = member(&b, &a).await;
    let mut random = Seeded(7);
    let prefixes = [b"".as_slice(), b"zwrq\x01\0", b"zwrq\x01\0\x64\0\0\0\0\0\xff\0\0\0", b"zwbo\x01\0", b"zwhi\x01\0"];
    for n in 0..300 {
        let bytes = [prefixes[n % prefixes.len()], &noise(&mut random, 200)].concat();
        // Every question is answered or reset; none ends the connection.
        if let Ok(Ok(answer)) = ask(&connection, &bytes).await {
            assert!(answer.len() <= 200, "only an echo can have gone well");
        }
    }
    assert!(connection.close_reason().is_none());
    let good = [&Request { kind: ECHO, deadline_ms: 5000, body_len: 1 }.to_bytes()[..], b"x"].concat();
    assert_eq!(ask(&connection, &good).await.unwrap().unwrap(), b"x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_in_place_of_packets_and_hellos_does_no_harm() {
    let (a, b) = pair();
    let mut random = Seeded(7);
    let udp = tokio::net::UdpSocket::bind(any_port()).await.unwrap();
    for n in 0..2000u32 {
        let mut bytes = noise(&mut random, 1500);
        if n % 2 == 0 && bytes.len() > 6 {
            bytes[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]); // As a first packet of QUIC begins.
        }
        let _ = udp.send_to(&bytes, a.addr()).await; // The system may drop it as well.
    }
    for _ in 0..20 {
        let (_socket, connection) = raw(Some(&b.key()), tls::ALPN, a.addr()).await.unwrap();
        let answer = ask(&connection, &[&noise(&mut random, 60)[..], &[0; 72]].concat()).await;
        assert!(!matches!(answer, Ok(Ok(_))));
        within(connection.closed()).await;
    }
    assert!(echo(&b, 1).await.is_ok());
}

/// An endpoint that accepts node 1 as a client, says a good hello, and answers every stream with `answer`.
async fn liar(identity: &Arc<NodeIdentity>, client: &NodeIdentity, answer: Vec<u8>) -> SocketAddr {
    let view = MemberView::new(members_of(ZONE, 1, &[client]));
    let key: NodeKey = identity.clone();
    let mut config = quinn::ServerConfig::with_crypto(tls::server(&key, &view, false).unwrap());
    config.transport_config(endpoint::transport(endpoint::Side::Serving));
    let socket = endpoint::open_socket(any_port(), Some(config)).unwrap();
    let addr = socket.local_addr().unwrap();
    let (node, peer) = (identity.node(), client.node());
    tokio::spawn(async move {
        let connection = socket.accept().await.unwrap().await.unwrap();
        endpoint::widen(&connection, endpoint::Side::Serving);
        let zone = ZONE;
        let hello = Hello { version_min: 1, version_max: 1, zone, node, peer, incarnation: 1, revision: 1 };
        let mut answers = vec![response_bytes(&Ok(hello.to_bytes().to_vec()))];
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let _ = recv.read_to_end(1 << 20).await;
            let bytes = answers.pop().unwrap_or_else(|| answer.clone());
            let _ = send.write_all(&bytes).await; // The client may have heard enough.
            let _ = send.finish();
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_none_are_errors_of_the_caller() {
    let (us, them) = (identity(1), identity(2));
    let cases = [
        (b"zwrs\x01\0\0\0\0\0\0\0\xff\xff\xff\xff".to_vec(), "over the limit"),
        (b"zwrs\x07\0\0\0\0\0\0\0\0\0\0\0".to_vec(), "version 7"),
        (b"zwrs\x01\0\xff\0\0\0\0\0\0\0\0\0".to_vec(), "unknown status"),
        (b"zwrs\x01\0\0\0\0\0\0\0\x05\0\0\0abc".to_vec(), "in the middle"),
        (b"zwrs\x01\0\0\0\0\0\0\0\x01\0\0\0abc".to_vec(), "follow the body"),
        (vec![], "in the middle"),
        (vec![0xff; 100], "does not speak"),
    ];
    for (answer, text) in cases {
        let addr = liar(&them, &us, answer).await;
        let node = Node::start(&us, members_of(ZONE, 1, &[&us, &them]));
        node.endpoint.set_addresses(id(2), &[addr]).unwrap();
        let e = node.endpoint.call(id(2), ECHO, b"x", LONG).await.unwrap_err();
        assert!(matches!(e, CallError::Frame { .. }) && e.to_string().contains(text), "{text}: {e}");
    }
    // What a peer says in a refusal cannot steer a terminal.
    let addr = liar(&them, &us, b"zwrs\x01\0\x07\0\0\0\0\0\x08\0\0\0\x1b[2Jboo\n".to_vec()).await;
    let node = Node::start(&us, members_of(ZONE, 1, &[&us, &them]));
    node.endpoint.set_addresses(id(2), &[addr]).unwrap();
    let e = node.endpoint.call(id(2), ECHO, b"x", LONG).await.unwrap_err();
    assert!(e.to_string().ends_with(" [2Jboo "), "{e:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_strangers_does_not_keep_members_out() {
    let (a, b) = pair();
    echo(&b, 1).await.unwrap();
    // First packets that look good and are never followed up hold the room for strangers as long as they may.
    let mut crowd = Vec::new();
    for n in 2..42u8 {
        let udp = tokio::net::UdpSocket::bind(SocketAddr::from(([127, 0, 0, n], 0))).await.unwrap();
        for _ in 0..5 {
            udp.send_to(&first_packet().await, a.addr()).await.unwrap();
        }
        crowd.push(udp);
    }
    // What does not show that its address is its own gets a part of that room only.
    within(async {
        while a.endpoint.strangers() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(a.endpoint.strangers() <= limits::STRANGER_HANDSHAKES_CHEAP);
    // A member that comes back at its old address is let in at once, while they sit there.
    let members = members_of(ZONE, 1, &[&a.identity, &b.identity]);
    let back = Node::start_at(&b.identity, members, 2, any_port());
    let start = std::time::Instant::now();
    back.endpoint.connect(id(1), a.addr()).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(limits::HANDSHAKE_MS_MAX) / 2);
    assert!(echo(&back, 1).await.is_ok());
}

/// A good first packet of a client, caught on its way.
async fn first_packet() -> Vec<u8> {
    let catcher = tokio::net::UdpSocket::bind(any_port()).await.unwrap();
    let socket = endpoint::open_socket(any_port(), None).unwrap();
    let mut config = quinn::ClientConfig::new(tls::odd_client(None, &[tls::ALPN]));
    config.transport_config(endpoint::transport(endpoint::Side::Dialing));
    let _connecting = socket.connect_with(config, catcher.local_addr().unwrap(), tls::SERVER_NAME).unwrap();
    let mut b = vec![0u8; 2000];
    let n = within(catcher.recv(&mut b)).await.unwrap();
    b.truncate(n);
    b
}
