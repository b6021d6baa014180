//! The adapter against servers that die, and servers that lie.

mod liar;

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use zoneward_sectors::ids::{CopyId, Digest, SectorId, ZoneAlias, unhex};
use zoneward_sectors::keyfile::{OwnerKeyFile, Words};
use zoneward_sectors::owner::OwnerKeys;
use zoneward_sectors::sector_reader::{Expected, SectorIn, SectorReadError, read_header};

use self::liar::{Asked, Liar, Part, ok};
use super::*;
use crate::limits::{APPEND_LEN_MAX, WRITER_HOLD};
use crate::server::tests::{Home, bytes, credentials};

fn err<T>(r: Result<T, TargetError>) -> TargetError {
    r.err().unwrap()
}

fn lies(e: &TargetError) -> bool {
    matches!(e, TargetError::Protocol { .. })
}

const PIECE: usize = 1 << 20;

fn write(writer: &dyn Incoming, data: &[u8], from: u64) {
    for (i, piece) in data.chunks(PIECE).enumerate().skip((from / PIECE as u64) as usize) {
        writer.write_at((i * PIECE) as u64, piece).unwrap();
    }
}

#[test]
fn a_server_killed_during_an_upload_is_gone_on_with_by_a_new_client() {
    let mut home = Home::new();
    let token = home.account("ann");
    let (alias, copy, data) = (ZoneAlias::random(), CopyId::random(), bytes(3 * APPEND_LEN_MAX as usize + 5));
    let target = home.open(&token).unwrap();
    let writer = target.open(alias, copy).unwrap();
    // Two appends went out, so the first is acknowledged; the rest is only gathered.
    write(writer.as_ref(), &data[..2 * APPEND_LEN_MAX as usize + PIECE], 0);
    home.running = None;
    // The client is gone too, and what it had not sent with it.
    std::mem::forget(writer);
    let home = home.again();
    let target = home.open(&token).unwrap();
    let writer = target.open(alias, copy).unwrap();
    let held = writer.offset();
    assert!((APPEND_LEN_MAX..=2 * APPEND_LEN_MAX).contains(&held), "{held}");
    // Whole pieces again, as a node that makes the same bytes sends them.
    write(writer.as_ref(), &data, held);
    writer.seal(data.len() as u64).unwrap();
    let mut back = vec![0u8; data.len()];
    target.read_at(alias, copy, 0, &mut back).unwrap();
    assert!(back == data);
    assert_eq!(target.document().unwrap().used_bytes, data.len() as u64);
}

#[test]
fn a_server_that_is_started_anew_costs_a_writer_nothing() {
    let mut home = Home::new();
    let token = home.account("ann");
    let (alias, copy, data) = (ZoneAlias::random(), CopyId::random(), bytes(4 * APPEND_LEN_MAX as usize + 5));
    let target = home.open(&token).unwrap();
    let writer = target.open(alias, copy).unwrap();
    let half = 2 * APPEND_LEN_MAX as usize + 3 * PIECE;
    write(writer.as_ref(), &data[..half], 0);
    let port = home.running.as_ref().unwrap().address.port();
    home.running = None;
    let home = home.again_at(port);
    write(writer.as_ref(), &data, half as u64);
    writer.seal(data.len() as u64).unwrap();
    let mut back = vec![0u8; data.len()];
    home.open(&token).unwrap().read_at(alias, copy, 0, &mut back).unwrap();
    assert!(back == data);
}

#[test]
fn nobody_at_the_address_is_said_within_the_deadline() {
    let mut home = Home::new();
    let token = home.account("ann");
    let target = home.open(&token).unwrap();
    let url = home.url();
    home.running = None;
    let e = err(target.list_zones());
    assert!(matches!(&e, TargetError::Unreachable { .. }) && e.retry() == crate::Retry::Later, "{e:?}");
    // What is known of it stays; what is not known is not made up.
    std::thread::sleep(FRESH);
    assert_eq!(target.capabilities().free_bytes, None);
    // One that takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = ServerUrl { port: silent.local_addr().unwrap().port(), ..url };
    let timing = Timing { connect: Duration::from_millis(300), ..Timing::default() };
    let start = Instant::now();
    let e = err(ServerTarget::open_with(&url, None, Some(&credentials(&token)), timing));
    assert!(matches!(&e, TargetError::Unreachable { reason, .. } if reason.contains("0.3 s")), "{e:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_writer_that_says_nothing_loses_its_hold_only_to_another_one() {
    let home = Home::new();
    let target = home.open(&home.account("ann")).unwrap();
    let (alias, copy) = (ZoneAlias::random(), CopyId::random());
    let writer = target.open(alias, copy).unwrap();
    writer.write_at(0, b"first").unwrap();
    assert!(matches!(err(target.open(alias, copy)), TargetError::Busy { .. }));
    // Long silent, and nobody else came: it goes on.
    home.server.forget_signs(WRITER_HOLD * 2);
    writer.write_at(5, b"second").unwrap();
    drop(writer);
    let writer = target.open(alias, copy).unwrap();
    assert_eq!(writer.offset(), 11);
    home.server.forget_signs(WRITER_HOLD * 2);
    let other = target.open(alias, copy).unwrap();
    other.write_at(11, b"other").unwrap();
    // The first one is told, and changes nothing.
    writer.write_at(11, b"late!!").unwrap();
    assert!(matches!(err(writer.seal(17)), TargetError::Busy { .. }));
    other.seal(16).unwrap();
    let mut back = [0u8; 16];
    target.read_at(alias, copy, 0, &mut back).unwrap();
    assert_eq!(&back, b"firstsecondother");
}

#[test]
fn a_later_turn_need_not_wait_for_a_writer_that_is_dead() {
    let home = Home::new();
    let target = home.open(&home.account("ann")).unwrap();
    let (alias, copy) = (ZoneAlias::random(), CopyId::random());
    let writer = target.open_in_turn(alias, copy, Some(7)).unwrap();
    writer.write_at(0, b"first").unwrap();
    for turn in [None, Some(0), Some(6), Some(7)] {
        assert!(matches!(err(target.open_in_turn(alias, copy, turn)), TargetError::Busy { .. }), "{turn:?}");
    }
    // Its process is dead: it neither sends nor lets go.
    std::mem::forget(writer);
    let other = target.open_in_turn(alias, copy, Some(8)).unwrap();
    let held = other.offset() as usize;
    assert!(held <= 5);
    other.write_at(held as u64, &b"first, second"[held..]).unwrap();
    assert!(matches!(err(target.open_in_turn(alias, copy, Some(7))), TargetError::Busy { .. }));
    other.seal(13).unwrap();
    // One that has no number is taken over by nobody.
    let copy = CopyId::random();
    let _plain = target.open(alias, copy).unwrap();
    assert!(matches!(err(target.open_in_turn(alias, copy, Some(9))), TargetError::Busy { .. }));
}

/// A reader of 1000 bytes at a liar, who answers ranges as `lie` says.
fn read_from(lie: impl Fn(&Asked) -> Vec<Part> + Send + Sync + 'static, timing: Timing) -> TargetError {
    let liar = Liar::start(move |asked| match (asked.method.as_str(), asked.path.contains("/sectors/")) {
        ("HEAD", true) => vec![ok("204 No Content", "zoneward-length: 1000\r\n", b"")],
        ("GET", true) => lie(asked),
        _ => liar::document(),
    });
    let target = ServerTarget::open_with(&liar.url, None, Some(&credentials("t")), timing).unwrap();
    let reader = target.reader(ZoneAlias::random(), CopyId::random()).unwrap();
    let mut buf = [0u8; 100];
    let start = Instant::now();
    let e = err(reader.read_at(&mut buf, 10));
    assert!(start.elapsed() < Duration::from_secs(10));
    e
}

type MakePart = fn() -> Part;

const RIGHT: &str = "content-range: bytes 10-109/1000\r\n";

#[test]
fn what_a_liar_sends_for_a_range_is_noticed_and_named() {
    let read = |part: MakePart| read_from(move |_| vec![part()], Timing::default());
    let cases: [(&str, MakePart); 6] = [
        ("99 bytes for 100", || ok("206 Partial Content", RIGHT, &[7; 99])),
        ("101 bytes for 100", || ok("206 Partial Content", RIGHT, &[7; 101])),
        ("bytes 11-110/1000", || ok("206 Partial Content", "content-range: bytes 11-110/1000\r\n", &[7; 100])),
        ("bytes 10-109/900", || ok("206 Partial Content", "content-range: bytes 10-109/900\r\n", &[7; 100])),
        ("status 200", || ok("200 OK", "", &[7; 100])),
        ("fewer", || ok("416 Range Not Satisfiable", "content-range: bytes */5\r\n", b"")),
    ];
    for (word, part) in cases {
        let e = read(part);
        assert!(lies(&e) && e.to_string().contains(word), "{word}: {e}");
    }
    // Cut off in the middle, each time it is asked.
    let e = read(|| Part::Cut(b"HTTP/1.1 206 Partial Content\r\ncontent-length: 100\r\n\r\nabc".to_vec()));
    assert!(matches!(&e, TargetError::Unreachable { .. }), "{e:?}");
}

#[test]
fn an_endless_answer_ends_at_its_limit_and_a_slow_one_at_its_deadline() {
    let head = "HTTP/1.1 206 Partial Content\r\ntransfer-encoding: chunked\r\ncontent-range: bytes 10-109/1000\r\n\r\n";
    let endless =
        move |_: &Asked| vec![Part::Bytes(head.into()), Part::Forever(b"2710\r\n".to_vec(), 10_000, Duration::ZERO)];
    let e = read_from(endless, Timing::default());
    assert!(lies(&e) && e.to_string().contains("more than"), "{e}");
    // A byte at a time, for ever: each byte comes, the answer never.
    let slow =
        move |_: &Asked| vec![Part::Bytes(head.into()), Part::Forever(b"1\r\n".to_vec(), 1, Duration::from_millis(50))];
    let timing = Timing { request: Duration::from_millis(600), rate_min: 1 << 30, ..Timing::default() };
    let e = read_from(slow, timing);
    assert!(matches!(&e, TargetError::Unreachable { reason, .. } if reason.contains("0.6 s")), "{e:?}");
}

#[test]
fn false_acknowledgements_and_lists_are_no_truth() {
    let offset = |n: &str| format!("upload-offset: {n}\r\nupload-complete: ?0\r\n");
    let with = |begin: &'static str, patch: &'static str| {
        Liar::start(move |asked| match asked.method.as_str() {
            "PUT" => vec![ok("201 Created", &offset(begin), b"")],
            "PATCH" => vec![ok("204 No Content", &offset(patch), b"")],
            "DELETE" | "HEAD" => vec![ok("204 No Content", "", b"")],
            _ => liar::document(),
        })
    };
    let open = |liar: &Liar| ServerTarget::open(&liar.url, None, Some(&credentials("t"))).unwrap();
    let begin = |t: &ServerTarget| t.open(ZoneAlias::random(), CopyId::random());
    // More or less than was sent; a seal at another length; an absurd offset at the beginning.
    for wrong in ["4", "6", "0"] {
        let liar = with("0", wrong);
        let writer = begin(&open(&liar)).unwrap();
        writer.write_at(0, b"bytes").unwrap();
        assert!(lies(&err(writer.seal(5))), "{wrong}");
    }
    let liar = with("7", "8");
    assert!(lies(&err(begin(&open(&liar)).unwrap().seal(7))));
    assert!(lies(&err(begin(&open(&with("99999999999999", "0"))))));
    assert!(lies(&err(begin(&open(&with("x", "0"))))));
    for (list, word) in [
        (
            r#"{"sectors":[["ffffffffffffffffffffffffffffffff",1],["00000000000000000000000000000000",1]],"foreign":0,"more":false}"#,
            "order",
        ),
        (r#"{"sectors":[["ffffffffffffffffffffffffffffffff",1]],"foreign":0,"more":true}"#, "order"),
        (r#"{"sectors":[["ffff",1]],"foreign":0,"more":false}"#, "JSON"),
        ("[[[[", "JSON"),
    ] {
        let liar = Liar::start(move |asked| match asked.path.contains("sectors") {
            true => vec![ok("200 OK", "", list.as_bytes())],
            false => liar::document(),
        });
        let e = err(open(&liar).list(ZoneAlias::random()));
        assert!(lies(&e) && e.to_string().contains(word), "{e}");
    }
}

#[test]
fn a_body_that_comes_byte_by_byte_is_held_in_few_pieces() {
    let chunks = b"1\r\nx\r\n".repeat(100_000);
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = [head.as_bytes(), &chunks, b"0\r\n\r\n"].concat();
    let liar = Liar::start(move |asked| match asked.path.contains("scrub") {
        true => vec![Part::Bytes(body.clone())],
        false => liar::document(),
    });
    let target = ServerTarget::open(&liar.url, None, Some(&credentials("t"))).unwrap();
    let got = target.shared.link.ask(Ask::new(Method::GET, format!("{ROOT}/scrub"))).unwrap();
    assert!(got.frames.len() <= 4, "{} pieces", got.frames.len());
    assert!(got.body() == vec![b'x'; 100_000]);
}

#[test]
fn what_a_server_says_is_short_and_plain_and_its_pages_are_no_longer_than_allowed() {
    let liar = Liar::start(|asked| {
        let long = "A".repeat(1 << 20);
        if asked.path.contains("sectors") {
            let all: Vec<(CopyId, u64)> =
                (0..=crate::limits::PAGE_LEN as u128).map(|n| (CopyId(n.to_be_bytes()), 1)).collect();
            let page = serde_json::json!({"sectors": all, "foreign": 0, "more": false});
            return vec![ok("200 OK", "", page.to_string().as_bytes())];
        }
        if asked.path.contains("scrub") {
            return vec![ok("200 OK", "", format!("{{\"damaged\":[\"\u{7}\u{1b}[2J{long}\"]}}").as_bytes())];
        }
        if asked.path.contains("removed") {
            let title = format!("\u{1b}[2J{long}");
            let p = serde_json::json!({"type": "about:blank", "title": title, "status": 500, "code": "store"});
            return vec![ok("500 Internal Server Error", "", p.to_string().as_bytes())];
        }
        liar::document()
    });
    let target = ServerTarget::open(&liar.url, None, Some(&credentials("t"))).unwrap();
    let alias = ZoneAlias::random();
    let e = err(target.list(alias));
    assert!(lies(&e) && e.to_string().contains("on a page"), "{e}");
    for e in [err(target.scrub_report(alias)), err(target.list_removed(alias))] {
        let text = e.to_string();
        assert!(text.len() < 500 && !text.chars().any(char::is_control), "{} bytes", text.len());
    }
}

#[test]
fn a_server_that_does_not_tell_of_itself_is_not_asked_at_each_look() {
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    let liar = Liar::start(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => liar::document(),
        _ => vec![ok("500 Internal Server Error", "", b"")],
    });
    let target = ServerTarget::open(&liar.url, None, Some(&credentials("t"))).unwrap();
    assert_eq!(target.capabilities().free_bytes, Some(1_000_000));
    target.shared.known().at -= FRESH;
    for _ in 0..5 {
        assert_eq!(target.capabilities().free_bytes, None);
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 2);
}

/// The keys of the golden sectors, and one of them as its bytes.
fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/v1").join(name)
}

struct OnTarget(Box<dyn SectorReader>);

impl SectorIn for OnTarget {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len())
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset).map_err(io::Error::other)
    }
}

fn open_sector(
    target: &ServerTarget,
    alias: ZoneAlias,
    copy: CopyId,
    owner: &OwnerKeys,
    want: &serde_json::Value,
) -> Result<(), SectorReadError> {
    let array = |v: &serde_json::Value| -> [u8; 32] { unhex(v.as_str().unwrap()).unwrap().try_into().unwrap() };
    let input = Arc::new(OnTarget(target.reader(alias, copy).unwrap()));
    let header = read_header(input.as_ref())?;
    let core = header.core();
    let dek = owner.unwrap(&core.owner_fingerprint, header.wrapped(), &core.label().0);
    let dek = dek.map_err(|_| SectorReadError::Other("its key does not open"))?;
    let sector: SectorId = want["sector"].as_str().unwrap().parse().unwrap();
    let expected = Expected {
        sector: Some(sector),
        raw_id: Some(Digest(array(&want["raw_id"]))),
        header_hash: Some(Digest(array(&want["header"]["hash"]))),
    };
    let public = owner.public();
    let reader =
        zoneward_sectors::sector_reader::SectorReader::open(input, &header, public.sign_public(), &dek, &expected)?;
    let (mut scratch, mut out) = (Vec::new(), vec![0u8; zoneward_sectors::limits::SEGMENT_LEN]);
    (0..reader.layout().segments()).try_for_each(|i| {
        let len = reader.layout().segment_len(i);
        reader.read_segment(i, &mut scratch, &mut out[..len])
    })
}

#[test]
fn sectors_that_a_server_swaps_or_replays_do_not_open() {
    let json =
        |name: &str| -> serde_json::Value { serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap() };
    let (keys, a, b) = (json("keys.expected.json"), json("basic.expected.json"), json("extents.expected.json"));
    let alias: ZoneAlias = keys["alias"].as_str().unwrap().parse().unwrap();
    let file = std::fs::read(golden(&format!("store/zones/{alias}/owner-key.json"))).unwrap();
    let owner = OwnerKeyFile::from_bytes(&file).unwrap();
    let owner = owner.open_with_words(&Words::parse(keys["words"].as_str().unwrap()).unwrap()).unwrap();
    let home = Home::new();
    let target = home.open(&home.account("ann")).unwrap();
    let put = |want: &serde_json::Value| {
        let bytes = std::fs::read(golden(want["file"].as_str().unwrap())).unwrap();
        let copy = CopyId::random();
        let writer = target.open(alias, copy).unwrap();
        writer.write_at(0, &bytes).unwrap();
        writer.seal(bytes.len() as u64).unwrap();
        (copy, bytes)
    };
    let ((first, _), (second, bytes)) = (put(&a), put(&b));
    open_sector(&target, alias, first, &owner, &a).unwrap();
    open_sector(&target, alias, second, &owner, &b).unwrap();
    // Another sector in its place: its header is not the one that the zone knows.
    std::fs::rename(home.sealed(alias, first), home.data().join("first")).unwrap();
    std::fs::copy(home.sealed(alias, second), home.sealed(alias, first)).unwrap();
    assert!(open_sector(&target, alias, first, &owner, &a).unwrap_err().is_damage());
    // Bytes of itself, at another place.
    let mut replayed = bytes.clone();
    replayed.copy_within(8192..12_288, 100_000);
    std::fs::write(home.sealed(alias, second), &replayed).unwrap();
    assert!(open_sector(&target, alias, second, &owner, &b).unwrap_err().is_damage());
    // The server's own scrub, were it honest, names both.
    home.server.scrub_now();
    let mut damaged = target.scrub_report(alias).unwrap().damaged;
    damaged.sort_unstable();
    let mut want = [first, second];
    want.sort_unstable();
    assert_eq!(damaged, want);
}
