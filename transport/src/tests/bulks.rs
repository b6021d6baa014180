//! Bulk streams: exact lengths, slow readers, and the receiver's last word.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, duplex};
use tokio::sync::mpsc;

use super::*;
use crate::{BulkHandler, BulkReceiver, bulk::BulkSender};

const KEEP: u16 = 1;
const REFUSE: u16 = 2;
const LAZY: u16 = 3;
const PACED: u16 = 4;

/// Receives by purpose: keeps all, refuses early, answers without reading, or reads a MiB per permit.
struct Sink {
    kept: Mutex<Vec<u8>>,
    errors: mpsc::UnboundedSender<std::io::Error>,
    pace: Semaphore,
}

impl Sink {
    async fn keep(&self, mut stream: BulkReceiver) -> Result<Vec<u8>, Refusal> {
        let mut bytes = Vec::new();
        if let Err(e) = stream.read_to_end(&mut bytes).await {
            let text = e.to_string();
            self.errors.send(e).unwrap();
            return Err(Refusal::new(Retry::Later, text));
        }
        let answer = bytes.len().to_le_bytes().to_vec();
        *self.kept.lock().unwrap() = bytes;
        Ok(answer)
    }

    async fn paced(&self, mut stream: BulkReceiver) -> Result<Vec<u8>, Refusal> {
        let mut buf = vec![0u8; 1 << 20];
        let mut seen = 0u64;
        while stream.left() > 0 {
            self.pace.acquire().await.unwrap().forget();
            let most = buf.len().min(stream.left() as usize);
            stream.read_exact(&mut buf[..most]).await.unwrap();
            assert!(buf[..most].iter().enumerate().all(|(i, b)| *b == ((seen as usize + i) % 251) as u8));
            seen += most as u64;
        }
        stream.end().await.unwrap();
        Ok(seen.to_le_bytes().to_vec())
    }
}

impl BulkHandler for Sink {
    fn receive(&self, _: NodeId, open: BulkOpen, stream: BulkReceiver) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            match open.purpose {
                KEEP => self.keep(stream).await,
                PACED => self.paced(stream).await,
                REFUSE => Err(Refusal::new(Retry::Operator, "no room for this: make some")),
                _ => Ok(vec![]),
            }
        })
    }
}

fn sink(node: &Node) -> (Arc<Sink>, mpsc::UnboundedReceiver<std::io::Error>) {
    let (errors, seen) = mpsc::unbounded_channel();
    let sink = Arc::new(Sink { kept: Mutex::default(), errors, pace: Semaphore::new(0) });
    for purpose in [KEEP, REFUSE, LAZY, PACED] {
        node.services.receive(purpose, sink.clone());
    }
    (sink, seen)
}

fn open(purpose: u16, length: u64) -> BulkOpen {
    BulkOpen { purpose, id: [1; 16], id2: [2; 16], offset: 0, length }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

async fn opened(from: &Node, what: BulkOpen) -> BulkSender {
    from.endpoint.open_bulk(id(2), what).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_all_lengths_arrive_and_the_receiver_answers() {
    let (a, b) = pair();
    let (sink, _) = sink(&b);
    for len in [0, 1, 4, 70_000, 5 << 20] {
        let bytes = pattern(len);
        let answer = opened(&a, open(KEEP, len as u64)).await.send_all(&bytes[..]).await.unwrap();
        assert_eq!(answer, len.to_le_bytes());
        assert!(*sink.kept.lock().unwrap() == bytes, "length {len}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_breaks_off_or_sends_another_length_is_found_out_by_both() {
    let (a, b) = pair();
    let (_sink, mut errors) = sink(&b);
    let e = opened(&a, open(KEEP, 10)).await.send_all(&b"short"[..]).await.unwrap_err();
    assert_eq!(e, CallError::Length { node: id(2), got: 5, want: 10 });
    let e = opened(&a, open(KEEP, 3)).await.send_all(&b"long"[..]).await.unwrap_err();
    assert_eq!(e, CallError::Length { node: id(2), got: 4, want: 3 });
    // A reader that fails: the other end of a pipe that is gone is its end, in the middle of what was announced.
    let (reader, writer) = duplex(10);
    drop(writer);
    assert!(opened(&a, open(KEEP, 10)).await.send_all(reader).await.is_err());
    assert!(echo(&a, 2).await.is_ok());
    // Those that the receiver saw before the sender was gone are errors, never ends of file.
    drop((a, b));
    while let Ok(e) = errors.try_recv() {
        assert_ne!(e.kind(), std::io::ErrorKind::Other, "{e}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_come_early_and_an_answer_without_reading_is_a_failure() {
    let (a, b) = pair();
    let (_sink, _) = sink(&b);
    for (purpose, want) in [(REFUSE, Status::Refused), (LAZY, Status::Failed), (99, Status::UnknownKind)] {
        // Far more than the windows hold: only an early refusal ends this.
        let mut sender = opened(&a, open(purpose, 1 << 30)).await;
        let block = vec![0u8; 1 << 20];
        let e = within(async {
            loop {
                if let Err(e) = sender.write(&block).await {
                    return e;
                }
            }
        })
        .await;
        let CallError::Refused { source, .. } = &e else { panic!("{e}") };
        assert_eq!(source.status, want, "{e}");
    }
    let e = a.endpoint.open_bulk(id(2), open(KEEP, limits::BULK_LEN_MAX + 1)).await.err().unwrap();
    assert!(matches!(e, CallError::TooLarge { .. }), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_the_sender_back_and_calls_still_pass() {
    const LEN: u64 = 64 << 20;
    let (a, b) = pair();
    let (sink, _) = sink(&b);
    let mut sender = opened(&a, open(PACED, LEN)).await;
    let block = pattern(251 << 12);
    let mut sent = 0u64;
    // The receiver reads nothing: what is taken from us fits in the windows of both sides.
    let most = u64::from(limits::STREAM_WINDOW) + limits::SEND_WINDOW + block.len() as u64;
    while let Ok(written) = tokio::time::timeout(SECOND / 2, sender.write(&block[..64 << 10])).await {
        written.unwrap();
        sent += 64 << 10;
        assert!(sent <= most, "{sent} bytes were taken, over {most}");
        if sent.is_multiple_of(1 << 20) {
            assert!(echo(&a, 2).await.is_ok());
        }
    }
    assert!(sent > 0 && echo(&a, 2).await.is_ok());
    drop(sender); // A write that was cut short leaves a stream that nobody can go on with.
    sink.pace.add_permits(2 * (LEN >> 20) as usize);
    let sender = opened(&a, open(PACED, LEN)).await;
    let bytes = pattern(LEN as usize);
    assert_eq!(within(sender.send_all(&bytes[..])).await.unwrap(), LEN.to_le_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_cuts_bulk_streams_off() {
    let (a, b) = pair();
    let (_sink, mut errors) = sink(&b);
    let mut sender = opened(&a, open(KEEP, 1 << 20)).await;
    sender.write(b"some").await.unwrap();
    b.members.update(members_of(ZONE, 2, &[&b.identity])).unwrap();
    let e = within(async {
        loop {
            if let Err(e) = sender.write(b"more").await {
                return e;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(cut_off(&e), "{e}");
    // The service was dropped, or saw an error; it never saw an end.
    if let Ok(e) = errors.try_recv() {
        assert_ne!(e.kind(), std::io::ErrorKind::UnexpectedEof);
    }
}

/// Prints the speed; run it alone, in a release build, on a quiet machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speed() {
    let len: u64 = if cfg!(debug_assertions) { 32 << 20 } else { 1 << 30 };
    let (a, b) = pair();
    struct Count;
    impl BulkHandler for Count {
        fn receive(&self, _: NodeId, _: BulkOpen, mut s: BulkReceiver) -> Boxed<'_, Result<Vec<u8>, Refusal>> {
            Box::pin(async move {
                let mut buf = vec![0u8; 256 << 10];
                while s.read(&mut buf).await.map_err(|e| Refusal::new(Retry::Later, e.to_string()))? > 0 {}
                Ok(vec![])
            })
        }
    }
    b.services.receive(KEEP, Arc::new(Count));
    echo(&a, 2).await.unwrap();
    let start = std::time::Instant::now();
    let mut sender = opened(&a, open(KEEP, len)).await;
    let block = vec![7u8; 1 << 20];
    for _ in 0..len >> 20 {
        sender.write(&block).await.unwrap();
    }
    sender.finish().await.unwrap();
    let bulk = start.elapsed().as_secs_f64();
    let start = std::time::Instant::now();
    let calls = 2000;
    for _ in 0..calls {
        echo(&a, 2).await.unwrap();
    }
    let call = start.elapsed().as_secs_f64();
    println!("bulk {:.0} MB/s, call {:.0} µs", len as f64 / 1e6 / bulk, call * 1e6 / f64::from(calls));
}
