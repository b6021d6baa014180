//! The adapter against a real S3 server, whole and broken.

mod locked;
mod locking;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zoneward_sectors::ids::{CopyId, TargetId, ZoneAlias};

use self::server::{BUCKET, Break, KEY_ID, SECRET, Server};
use super::S3Target;
use crate::conformance::{self, Outcome};
use crate::credentials::Credentials;
use crate::directory::Existing;
use crate::errors::{Retry, TargetError};
use crate::limits::{OBJECT_LEN_MAX, PART_LEN};
use crate::target::{ObjectName, Target};
use crate::url::{S3Url, Url};

fn credentials() -> Credentials {
    Credentials::of([("access_key_id", KEY_ID), ("secret_access_key", SECRET)])
}

fn url(server: &Server) -> S3Url {
    match server.url("zone one/x").replace(' ', "%20").parse().unwrap() {
        Url::S3(url) => url,
        other => panic!("{other}"),
    }
}

fn made(server: &Server) -> (TargetId, S3Target) {
    let id = TargetId::random();
    (id, S3Target::create(&url(server), id, Existing::Refuse, Some(&credentials())).unwrap())
}

fn again(server: &Server) -> S3Target {
    S3Target::open(&url(server), None, Some(&credentials())).unwrap()
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(x ^ (x >> 29)).to_le_bytes());
    }
    out.truncate(len);
    out
}

fn err<T>(r: Result<T, TargetError>) -> TargetError {
    r.err().unwrap()
}

fn put(target: &S3Target, alias: ZoneAlias, copy: CopyId, data: &[u8]) -> Result<(), TargetError> {
    let w = target.open(alias, copy)?;
    data.chunks(1 << 20).enumerate().try_for_each(|(i, piece)| w.write_at((i as u64) << 20, piece))?;
    w.seal(data.len() as u64)
}

fn read(target: &S3Target, alias: ZoneAlias, copy: CopyId) -> Vec<u8> {
    let reader = target.reader(alias, copy).unwrap();
    let mut out = vec![0; reader.len() as usize];
    for (i, piece) in out.chunks_mut(1 << 20).enumerate() {
        reader.read_at(piece, (i as u64) << 20).unwrap();
    }
    out
}

pub(crate) fn conformance_results() -> Vec<conformance::CheckResult> {
    let server = Server::start();
    let (id, _) = made(&server);
    let results = conformance::run(&|| {
        Box::new(S3Target::open(&url(&server), Some(id), Some(&credentials())).unwrap()) as Box<dyn Target>
    });
    assert_eq!(server.loose_parts(), 0);
    results
}

#[test]
fn conformance_over_s3() {
    let results = conformance_results();
    assert!(results.iter().all(|r| r.outcome == Outcome::Passed), "{}", conformance::report(&results));
}

#[test]
fn a_long_sector_goes_in_parts_and_another_process_goes_on_where_it_ended() {
    let server = Server::start();
    let (_, target) = made(&server);
    let (alias, copy) = (ZoneAlias::random(), CopyId::random());
    let data = bytes(1, (3 * PART_LEN + 1_234_567) as usize);
    let cut = (2 * PART_LEN + 777) as usize;
    let writer = target.open(alias, copy).unwrap();
    for (i, piece) in data[..cut].chunks(999_983).enumerate() {
        writer.write_at(i as u64 * 999_983, piece).unwrap();
    }
    drop(writer);
    // Another handle, as on another node: it knows only what the store tells.
    let other = again(&server);
    assert_eq!(other.list_incoming(alias).unwrap(), [copy]);
    let (before, _) = other.moved();
    let writer = other.open(alias, copy).unwrap();
    assert_eq!(writer.offset(), cut as u64);
    writer.write_at(cut as u64, &data[cut..]).unwrap();
    writer.seal(data.len() as u64).unwrap();
    let sent = other.moved().0 - before;
    assert!(sent < data.len() as u64 - 2 * PART_LEN + 10_000, "{sent} bytes were sent again");
    assert_eq!(read(&target, alias, copy), data);
    assert_eq!(other.list_incoming(alias).unwrap(), []);
    assert_eq!(server.loose_parts(), 0);
}

#[test]
fn a_killed_writer_loses_only_what_filled_no_part() {
    let server = Server::start();
    let (_, target) = made(&server);
    let (alias, copy) = (ZoneAlias::random(), CopyId::random());
    let data = bytes(2, (2 * PART_LEN + 5000) as usize);
    let writer = target.open(alias, copy).unwrap();
    writer.write_at(0, &data).unwrap();
    // Parts are sent behind the caller's back: both must be there before the kill.
    while server.loose_parts() < 2 {
        std::thread::yield_now();
    }
    // The kill: nothing of it runs any more, not even its end. The process would let go of the sector with it.
    server.rule(|_, _| Some(Break::Answer { status: 403, code: "AccessDenied", retry_after: None }));
    drop(writer);
    server.mend();
    let other = again(&server);
    let writer = other.open(alias, copy).unwrap();
    assert_eq!(writer.offset(), 2 * PART_LEN);
    writer.write_at(2 * PART_LEN, &data[2 * PART_LEN as usize..]).unwrap();
    writer.seal(data.len() as u64).unwrap();
    assert_eq!(read(&other, alias, copy), data);
}

#[test]
fn answers_that_are_lost_or_cut_are_asked_for_again() {
    let server = Server::start();
    let (_, target) = made(&server);
    let (alias, data) = (ZoneAlias::random(), bytes(3, (PART_LEN + 99) as usize));
    for broken in [Break::LoseAnswer, Break::Answer { status: 503, code: "SlowDown", retry_after: Some(0) }] {
        for nth in 0..14 {
            let count = AtomicU64::new(0);
            let fault = broken.clone();
            server.rule(move |_, _| (count.fetch_add(1, Ordering::Relaxed) == nth).then(|| fault.clone()));
            let copy = CopyId::random();
            put(&target, alias, copy, &data).unwrap_or_else(|e| panic!("request {nth} {broken:?}: {e}"));
            server.mend();
            assert_eq!(read(&target, alias, copy), data, "request {nth}");
        }
    }
    assert_eq!(server.loose_parts(), 0);
    let copy = target.list(alias).unwrap().sectors[0].0;
    let count = AtomicU64::new(0);
    server.rule(move |m, _| (m == "GET" && count.fetch_add(1, Ordering::Relaxed) < 2).then_some(Break::Half));
    let mut buf = vec![0; 100_000];
    target.read_at(alias, copy, 5, &mut buf).unwrap();
    assert_eq!(buf, data[5..100_005]);
}

#[test]
fn every_refusal_has_its_own_error_and_never_counts_as_missing() {
    let server = Server::start();
    let (_, target) = made(&server);
    let (alias, copy) = (ZoneAlias::random(), CopyId::random());
    put(&target, alias, copy, b"content").unwrap();
    type Fits = fn(&TargetError) -> bool;
    let table: [(u16, &'static str, Fits, Retry); 9] = [
        (403, "InvalidAccessKeyId", |e| matches!(e, TargetError::Auth { .. }), Retry::Operator),
        (403, "SignatureDoesNotMatch", |e| matches!(e, TargetError::Auth { .. }), Retry::Operator),
        (403, "AccessDenied", |e| matches!(e, TargetError::Denied { .. }), Retry::Operator),
        (403, "QuotaExceeded", |e| matches!(e, TargetError::Full { .. }), Retry::Operator),
        (507, "XMinioStorageFull", |e| matches!(e, TargetError::Full { .. }), Retry::Operator),
        (404, "NoSuchBucket", |e| matches!(e, TargetError::Unplugged { .. }), Retry::Operator),
        (429, "SlowDown", |e| matches!(e, TargetError::Throttled { wait_ms: Some(3_600_000), .. }), Retry::Later),
        (301, "PermanentRedirect", |e| matches!(e, TargetError::Protocol { .. }), Retry::Operator),
        (400, "Whatever", |e| matches!(e, TargetError::Protocol { .. }), Retry::Operator),
    ];
    for (status, code, fits, retry) in table {
        // An hour is longer than any call waits.
        server.rule(move |_, _| Some(Break::Answer { status, code, retry_after: Some(3600) }));
        let writes = err(target.put_object(alias, ObjectName::Pointer, b"x"));
        let reads = err(target.get_object(alias, ObjectName::Pointer, 100));
        let lists = err(target.list(alias));
        for e in [writes, reads, lists] {
            assert!(fits(&e), "{status} {code}: {e:?}");
            assert_eq!(e.retry(), retry, "{code}");
            let text = format!("{e} {e:?}");
            assert!(!text.contains('\u{1b}') && !text.contains(SECRET), "{text}");
        }
        server.mend();
    }
    assert_eq!(read(&target, alias, copy), b"content");
}

#[test]
fn wrong_credentials_and_missing_ones_say_so() {
    let server = Server::start();
    made(&server);
    for wrong in [("access_key_id", "nobody"), ("secret_access_key", "wrong")] {
        let mut pairs = vec![("access_key_id", KEY_ID), ("secret_access_key", SECRET)];
        pairs.retain(|(name, _)| *name != wrong.0);
        let without = Credentials::of(pairs.clone());
        pairs.push(wrong);
        let e = err(S3Target::open(&url(&server), None, Some(&Credentials::of(pairs))));
        assert!(matches!(e, TargetError::Auth { .. }), "{e:?}");
        let e = err(S3Target::open(&url(&server), None, Some(&without)));
        assert!(matches!(&e, TargetError::Auth { reason, .. } if reason.contains(wrong.0)), "{e:?}");
    }
    let e = err(S3Target::open(&url(&server), None, None));
    assert!(matches!(e, TargetError::Auth { .. }), "{e:?}");
}

#[test]
fn a_server_that_is_gone_a_bucket_that_is_gone_and_another_target() {
    let server = Server::start();
    let (id, target) = made(&server);
    let e = err(S3Target::open(&url(&server), Some(TargetId::random()), Some(&credentials())));
    assert!(matches!(&e, TargetError::Unplugged { reason, .. } if reason.contains(&id.to_string())), "{e:?}");
    let e = err(S3Target::create(&url(&server), TargetId::random(), Existing::Refuse, Some(&credentials())));
    assert!(matches!(e, TargetError::OtherTarget { found, .. } if found == id));
    let adopted = S3Target::create(&url(&server), TargetId::random(), Existing::Adopt, Some(&credentials())).unwrap();
    assert_eq!(adopted.id(), id);
    let other = S3Url { bucket: "nothere".into(), ..url(&server) };
    let e = err(S3Target::open(&other, None, Some(&credentials())));
    assert!(matches!(e, TargetError::Unplugged { .. }), "{e:?}");
    drop(server);
    let e = err(target.list_zones());
    assert!(matches!(e, TargetError::Unreachable { .. }) && e.retry() == Retry::Later, "{e:?}");
}

#[test]
fn a_malicious_store_is_noticed_and_survived() {
    let server = Server::start();
    let (_, target) = made(&server);
    let (alias, copy, data) = (ZoneAlias::random(), CopyId::random(), bytes(4, (PART_LEN + 1) as usize));
    put(&target, alias, copy, &data).unwrap();
    let protocol = |e: &TargetError| matches!(e, TargetError::Protocol { .. });
    // Bytes without end, in every kind of answer.
    server.rule(|_, _| Some(Break::Endless));
    let mut buf = [0; 4096];
    assert!(protocol(&err(target.read_at(alias, copy, 0, &mut buf))));
    assert!(protocol(&err(target.list(alias))));
    assert!(matches!(err(target.get_object(alias, ObjectName::Pointer, OBJECT_LEN_MAX)), TargetError::NotFound { .. }));
    assert!(protocol(&err(put(&target, alias, CopyId::random(), &data))));
    let received = target.moved().1;
    assert!(received < 64 << 20, "{received} bytes were taken");
    // Answers that are no answers.
    for text in ["", "<html>hello</html>", "<ListBucketResult>", "\u{0}\u{1b}[2J"] {
        server.rule(move |m, uri| (m == "GET" && uri.contains("list-type")).then_some(Break::Nonsense(text)));
        let e = err(target.list(alias));
        assert!(protocol(&e) && !format!("{e}{e:?}").contains('\u{1b}'), "{text:?}: {e:?}");
        server.rule(|m, uri| (m == "POST" && uri.contains("uploads")).then_some(Break::Nonsense("<x/>")));
        assert!(protocol(&err(put(&target, alias, CopyId::random(), &data))));
    }
    // Too few bytes, always.
    server.rule(|m, _| (m == "GET").then_some(Break::Half));
    assert!(matches!(err(target.read_at(alias, copy, 0, &mut buf)), TargetError::Unreachable { .. }));
    // It says that it sealed, and did not.
    server.rule(|m, uri| {
        (m == "POST" && uri.contains("uploadId")).then_some(Break::Answer { status: 200, code: "", retry_after: None })
    });
    let lied = CopyId::random();
    let e = err(put(&target, alias, lied, &data));
    assert!(protocol(&e), "{e:?}");
    server.mend();
    assert_eq!(target.len(alias, lied).unwrap(), None);
    put(&target, alias, lied, &data).unwrap();
    assert_eq!(read(&target, alias, lied), data);
    // A sector that was cut behind our back.
    let reader = target.reader(alias, copy).unwrap();
    let file = server.files().into_iter().find(|f| f.to_string_lossy().contains(&copy.to_string())).unwrap();
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(100).unwrap();
    assert!(matches!(err(reader.read_at(&mut buf, 5000)), TargetError::Truncated { .. }));
    assert_eq!(target.len(alias, copy).unwrap(), Some(100));
}

#[test]
fn calls_work_on_a_thread_that_runs_futures() {
    let server = Server::start();
    let (_, target) = made(&server);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(async { target.list_zones() }).unwrap(), []);
}

#[test]
fn writes_far_apart_are_refused_instead_of_held_in_memory() {
    let server = Server::start();
    let (_, target) = made(&server);
    let target = Arc::new(target);
    let writer = target.open(ZoneAlias::random(), CopyId::random()).unwrap();
    let refused = (0..100).find_map(|i| writer.write_at(i * 3 * PART_LEN, b"x").err()).unwrap();
    assert!(matches!(refused, TargetError::Io { .. }), "{refused:?}");
    assert!(matches!(err(writer.seal(1)), TargetError::Poisoned { .. }));
    assert!(server.files().iter().all(|f| f.starts_with(server.dir.path().join(BUCKET))));
}
