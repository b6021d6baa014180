//! Links over a bad network: a relay of datagrams between two members that loses, doubles, delays and bends them.

use tokio::net::UdpSocket;

use super::*;
use crate::memory::Seeded;

/// Of a thousand datagrams.
const LOST: u64 = 80;
const DOUBLED: u64 = 100;
const BENT: u64 = 50;
const HELD_BACK: u64 = 50;

/// Relays between whoever sends to it and `to`; gives its address.
async fn relay(to: SocketAddr) -> SocketAddr {
    let (front, back) = (UdpSocket::bind(any_port()).await.unwrap(), UdpSocket::bind(any_port()).await.unwrap());
    let addr = front.local_addr().unwrap();
    tokio::spawn(async move {
        let mut random = Seeded(7);
        let mut client = None;
        let mut held: Option<(bool, Vec<u8>)> = None;
        let (mut a, mut b) = (vec![0u8; 70_000], vec![0u8; 70_000]);
        loop {
            let (onward, mut bytes) = tokio::select! {
                got = front.recv_from(&mut a) => {
                    let (n, from) = got.unwrap();
                    client = Some(from);
                    (true, a[..n].to_vec())
                }
                got = back.recv(&mut b) => (false, b[..got.unwrap()].to_vec()),
            };
            let chance = random.next() % 1000;
            if chance < BENT {
                let at = random.next() as usize % bytes.len();
                bytes[at] ^= 1 << (random.next() % 8);
            }
            let mut out = vec![(onward, bytes)];
            match random.next() % 1000 {
                n if n < LOST => out.clear(),
                n if n < LOST + DOUBLED => out.extend(out.clone()),
                n if n < LOST + DOUBLED + HELD_BACK => out = held.replace(out.remove(0)).into_iter().collect(),
                _ => out.extend(held.take()),
            }
            for (onward, bytes) in out {
                let to = if onward { Some(to) } else { client };
                let socket = if onward { &back } else { &front };
                if let Some(to) = to {
                    let _ = socket.send_to(&bytes, to).await; // A full socket is weather too.
                }
            }
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_arrive_whole_and_in_order_of_asking_through_bad_weather() {
    let (a, b) = (identity(1), identity(2));
    let members = members_of(ZONE, 1, &[&a, &b]);
    let (a, b) = (Node::start(&a, members.clone()), Node::start(&b, members));
    let addr = relay(b.addr()).await;
    // A dial may lose too many packets; the next one is another draw.
    within(async { while a.endpoint.connect(id(2), addr).await.is_err() {} }).await;
    for n in 0..100u32 {
        let answer = a.endpoint.call(id(2), ECHO, &n.to_le_bytes(), LONG).await.unwrap();
        assert_eq!(answer, n.to_le_bytes());
    }
    let body: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
    assert!(a.endpoint.call(id(2), ECHO, &body, LONG).await.unwrap() == body);
}
