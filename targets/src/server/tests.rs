//! The server over real TLS, seen through its adapter.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tempfile::TempDir;
use zoneward_sectors::crypto::Secret32;
use zoneward_sectors::stripes::{Part, Span, block_of, tag_of};

use super::*;
use crate::conformance::{self, Outcome};
use crate::credentials::Credentials;
use crate::errors::{Op, Retry};
use crate::limits::{APPEND_LEN_MAX, LEAF_LEN};
use crate::protocol::{Challenge, Role};
use crate::target::{ObjectName, Target};
use crate::url::ServerUrl;
use crate::{ServerTarget, Url};

/// A served data directory.
pub(crate) struct Home {
    dir: TempDir,
    pub server: Arc<Server>,
    pub running: Option<Running>,
    pub told: Mutex<Receiver<Event>>,
}

impl Home {
    pub fn new() -> Home {
        Home::with(TempDir::new().unwrap(), Settings::default())
    }

    fn with(dir: TempDir, settings: Settings) -> Home {
        Home::with_port(dir, settings, 0)
    }

    fn with_port(dir: TempDir, settings: Settings, port: u16) -> Home {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let say = move |e| drop(tell.lock().unwrap().send(e));
        let server = Server::open(&dir.path().join("data"), settings, Box::new(say)).unwrap();
        let running = Some(server.start(TcpListener::bind(("127.0.0.1", port)).unwrap()).unwrap());
        Home { dir, server, running, told: Mutex::new(told) }
    }

    /// The same data, served anew after the server was killed.
    pub fn again(self) -> Home {
        self.again_at(0)
    }

    pub fn again_at(self, port: u16) -> Home {
        let Home { dir, server, running, .. } = self;
        drop(running);
        // Its threads let go of the data when they end; a process that is killed needs no such care.
        let gone = Arc::downgrade(&server);
        drop(server);
        let until = std::time::Instant::now() + Duration::from_secs(30);
        while gone.strong_count() > 0 && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        Home::with_port(dir, Settings::default(), port)
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A token, known to the server at once.
    pub fn token(&self, new: NewToken) -> String {
        let (text, _) = TokenFile::of(&self.data()).add(&new).unwrap();
        self.server.take_up_tokens();
        text.to_string()
    }

    pub fn account(&self, name: &str) -> String {
        self.token(NewToken { account: name.into(), zones_max: Some(1000), ..NewToken::default() })
    }

    pub fn url(&self) -> ServerUrl {
        let address = self.running.as_ref().unwrap().address;
        ServerUrl { host: address.ip().to_string(), port: address.port(), pin: Some(self.server.fingerprint()) }
    }

    pub fn open(&self, token: &str) -> Result<ServerTarget, TargetError> {
        ServerTarget::open(&self.url(), None, Some(&credentials(token)))
    }

    pub fn sealed(&self, alias: ZoneAlias, copy: CopyId) -> PathBuf {
        self.data().join(format!("zones/{alias}/sectors/{}/{copy}.zws", &copy.to_string()[..2]))
    }
}

impl Server {
    /// As if no writer had given a sign for so long.
    pub(crate) fn forget_signs(&self, time: Duration) {
        self.uploads.forget(time);
    }

    pub(crate) fn scrub_now(&self) {
        self.scrub(&mut |_| false).unwrap();
    }
}

pub(crate) fn credentials(token: &str) -> Credentials {
    Credentials::of([("token", token)])
}

pub(crate) fn bytes(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64 ^ len as u64;
    let mut step = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 24) as u8
    };
    (0..len).map(|_| step()).collect()
}

fn put(target: &dyn Target, alias: ZoneAlias, data: &[u8]) -> CopyId {
    let copy = CopyId::random();
    let writer = target.open(alias, copy).unwrap();
    data.chunks(300_007).enumerate().for_each(|(i, p)| writer.write_at(i as u64 * 300_007, p).unwrap());
    writer.seal(data.len() as u64).unwrap();
    copy
}

fn read(target: &dyn Target, alias: ZoneAlias, copy: CopyId) -> Vec<u8> {
    let reader = target.reader(alias, copy).unwrap();
    let mut buf = vec![0u8; reader.len() as usize];
    reader.read_at(&mut buf, 0).unwrap();
    buf
}

fn err<T>(r: Result<T, TargetError>) -> TargetError {
    r.err().unwrap()
}

pub(crate) fn conformance_results() -> Vec<conformance::CheckResult> {
    let home = Home::new();
    let token = home.account("ann");
    conformance::run(&|| Box::new(home.open(&token).unwrap()) as Box<dyn Target>)
}

#[test]
fn the_server_passes_the_conformance_suite_over_tls() {
    let results = conformance_results();
    let skipped = |o: &Outcome| matches!(o, Outcome::Skipped(why) if why.contains("many offsets"));
    let other: Vec<_> = results.iter().filter(|r| r.outcome != Outcome::Passed && !skipped(&r.outcome)).collect();
    assert!(other.is_empty(), "{}", conformance::report(&results));
    assert_eq!(results.iter().filter(|r| skipped(&r.outcome)).count(), 1);
    assert!(results.len() >= 24);
}

#[test]
fn a_sector_of_many_appends_is_the_same_on_the_disk() {
    let home = Home::new();
    let target = home.open(&home.account("ann")).unwrap();
    let (alias, data) = (ZoneAlias::random(), bytes(2 * APPEND_LEN_MAX as usize + 777_777));
    let copy = put(&target, alias, &data);
    assert!(read(&target, alias, copy) == data);
    assert_eq!(target.document().unwrap().used_bytes, data.len() as u64);
    // The disk alone is a directory target.
    let disk = DirectoryTarget::open(&home.data(), Some(target.id())).unwrap();
    assert!(read(&disk, alias, copy) == data);
    assert_eq!(disk.list(alias).unwrap().foreign, 0);
    // The same disk, served anew, counts the same.
    drop((target, disk));
    let home = home.again();
    assert_eq!(home.open(&home.account("ann")).unwrap().document().unwrap().used_bytes, data.len() as u64);
    assert!(matches!(Server::open(&home.data(), Settings::default(), Box::new(|_| {})), Err(ServeError::Busy(_))));
}

#[test]
fn tokens_open_their_own_account_and_what_their_role_covers() {
    let home = Home::new();
    let ann = home.open(&home.account("ann")).unwrap();
    let alias = ZoneAlias::random();
    let copy = put(&ann, alias, b"ann's");
    let login = |e: &TargetError| matches!(e, TargetError::Auth { .. }) && e.retry() == Retry::Operator;
    for wrong in ["", "zts_0000000000000000_00", "other"] {
        assert!(login(&err(home.open(wrong))), "{wrong}");
    }
    assert!(login(&err(ServerTarget::open(&home.url(), None, None))));
    let bob = home.open(&home.account("bob")).unwrap();
    assert!(login(&err(bob.reader(alias, copy))));
    assert!(login(&err(bob.list(alias))));
    assert!(login(&err(bob.open(alias, CopyId::random()))));
    assert!(login(&err(bob.remove(alias, copy))));
    assert!(login(&err(bob.put_object(alias, ObjectName::Pointer, b"{}"))));
    assert!(bob.list_zones().unwrap().is_empty());
    assert_eq!(ann.list_zones().unwrap(), [alias]);
    // Three roles of one account.
    let role = |r: Role| {
        home.open(&home.token(NewToken { account: "ann".into(), roles: [r].into(), ..NewToken::default() })).unwrap()
    };
    let (writer, auditor, marker) = (role(Role::Writer), role(Role::Auditor), role(Role::Marker));
    assert_eq!(read(&auditor, alias, copy), b"ann's");
    assert!(login(&err(writer.reader(alias, copy))));
    assert!(login(&err(auditor.remove(alias, copy))));
    assert!(login(&err(auditor.open(alias, CopyId::random()))));
    assert!(login(&err(marker.open(alias, CopyId::random()))));
    writer.open(alias, CopyId::random()).unwrap().abandon().unwrap();
    marker.remove(alias, copy).unwrap();
    // An account may begin so many zones and no more.
    let carl = home.token(NewToken { account: "carl".into(), zones_max: Some(1), ..NewToken::default() });
    let carl = home.open(&carl).unwrap();
    put(&carl, ZoneAlias::random(), b"first");
    assert!(login(&err(carl.open(ZoneAlias::random(), CopyId::random()))));
}

#[test]
fn a_token_that_is_removed_is_refused_without_a_restart() {
    let home = Home::new();
    let (text, record) =
        TokenFile::of(&home.data()).add(&NewToken { account: "ann".into(), ..NewToken::default() }).unwrap();
    home.server.take_up_tokens();
    let target = home.open(&text).unwrap();
    TokenFile::of(&home.data()).remove(&record.id).unwrap();
    home.server.take_up_tokens();
    assert!(matches!(err(target.list_zones()), TargetError::Auth { .. }));
}

#[test]
fn another_server_than_the_pinned_one_gets_no_token() {
    let (home, other) = (Home::new(), Home::new());
    let token = home.account("ann");
    let url = ServerUrl { pin: Some(other.server.fingerprint()), ..home.url() };
    let e = err(ServerTarget::open(&url, None, Some(&credentials(&token))));
    let found = home.server.fingerprint().to_string();
    assert!(matches!(&e, TargetError::Untrusted { reason, .. } if reason.contains(&found)), "{e:?}");
    // No fingerprint at all: not even tried. In the credentials it is as good as in the URL.
    let url = ServerUrl { pin: None, ..home.url() };
    assert!(matches!(err(ServerTarget::open(&url, None, Some(&credentials(&token)))), TargetError::Untrusted { .. }));
    let both = Credentials::of([("token", token.as_str()), ("pin", found.as_str())]);
    let text = Url::Server(url).to_string();
    let target = crate::open(&text.parse().unwrap(), None, Some(&both)).unwrap();
    // The id that the zone knows is looked at.
    let wrong = crate::open(&text.parse().unwrap(), Some(TargetId::random()), Some(&both));
    assert!(matches!(err(wrong), TargetError::Unplugged { .. }));
    // A server is never made, only taken as it is.
    let create = |existing| crate::create(&text.parse().unwrap(), TargetId::random(), existing, Some(&both));
    assert!(matches!(err(create(Existing::Refuse)), TargetError::OtherTarget { found, .. } if found == target.id()));
    assert_eq!(create(Existing::Adopt).unwrap().id(), target.id());
}

#[test]
fn the_quota_ends_an_upload_and_leaves_what_was_acknowledged() {
    let home = Home::new();
    let quota = APPEND_LEN_MAX + (1 << 20);
    let token = home.token(NewToken { account: "ann".into(), quota_bytes: Some(quota), ..NewToken::default() });
    let target = home.open(&token).unwrap();
    let (alias, copy, data) = (ZoneAlias::random(), CopyId::random(), bytes(3 * APPEND_LEN_MAX as usize));
    assert_eq!(target.capabilities().free_bytes, Some(quota));
    let writer = target.open(alias, copy).unwrap();
    let e = data.chunks(1 << 20).enumerate().find_map(|(i, p)| writer.write_at((i as u64) << 20, p).err());
    let full = |e: &TargetError| matches!(e, TargetError::Full { .. }) && e.retry() == Retry::Operator;
    assert!(full(&e.unwrap()));
    assert!(matches!(err(writer.write_at(0, b"x")), TargetError::Poisoned { .. }));
    assert!(matches!(err(writer.seal(5)), TargetError::Poisoned { .. }));
    assert_eq!(target.document().unwrap().used_bytes, APPEND_LEN_MAX);
    let writer = target.open(alias, copy).unwrap();
    assert_eq!(writer.offset(), APPEND_LEN_MAX);
    writer.abandon().unwrap();
    assert_eq!(target.document().unwrap().used_bytes, 0);
    // Another account is not touched by it; one with more room goes on.
    put(&home.open(&home.account("bob")).unwrap(), ZoneAlias::random(), &data);
    home.token(NewToken { account: "ann".into(), quota_bytes: Some(4 * APPEND_LEN_MAX), ..NewToken::default() });
    put(&target, alias, &data);
}

#[test]
fn a_removed_sector_is_kept_until_its_lock_ends_by_credited_time() {
    let home = Home::new();
    let target = home.open(&home.account("ann")).unwrap();
    let (alias, data) = (ZoneAlias::random(), bytes(5000));
    let (copy, kept) = (put(&target, alias, &data), put(&target, alias, b"kept"));
    target.remove(alias, copy).unwrap();
    assert_eq!(target.len(alias, copy).unwrap(), None);
    let removed = target.list_removed(alias).unwrap();
    assert_eq!((removed.len(), removed[0].copy, removed[0].len), (1, copy, 5000));
    let days = removed[0].locked_s / 86_400;
    assert!((6..=7).contains(&days), "{days}");
    // Nobody's token shortens it; it still counts.
    let e = err(target.purge(alias, copy));
    assert!(matches!(e, TargetError::Locked { left_s, .. } if left_s > 6 * 86_400), "{e:?}");
    home.server.purge_due();
    assert_eq!(target.document().unwrap().used_bytes, 5004);
    // It can be taken back, and is what it was.
    target.take_back(alias, copy).unwrap();
    assert_eq!(read(&target, alias, copy), data);
    assert!(target.take_back(alias, copy).unwrap_err().is_not_found());
    target.remove(alias, copy).unwrap();
    home.server.clock().credit(Duration::from_secs(7 * 86_400 - 60));
    home.server.purge_due();
    assert_eq!(target.list_removed(alias).unwrap().len(), 1);
    home.server.clock().credit(Duration::from_secs(61));
    home.server.purge_due();
    assert!(target.list_removed(alias).unwrap().is_empty());
    assert_eq!(home.told.lock().unwrap().try_recv(), Ok(Event::Purged(alias, copy)));
    assert_eq!(target.document().unwrap().used_bytes, 4);
    assert_eq!(read(&target, alias, kept), b"kept");
    assert!(target.purge(alias, copy).unwrap_err().is_not_found());
}

#[test]
fn a_scrub_without_keys_finds_what_is_not_as_it_was_received() {
    let home = Home::new();
    let target = home.open(&home.account("ann")).unwrap();
    let (alias, len) = (ZoneAlias::random(), 2 * LEAF_LEN + 9);
    let all: Vec<CopyId> = (0..4).map(|i| put(&target, alias, &bytes(len + i))).collect();
    // One is written in two goes: its hashes are made of both.
    let resumed = CopyId::random();
    let data = bytes(len);
    let writer = target.open(alias, resumed).unwrap();
    writer.write_at(0, &data[..LEAF_LEN + 5]).unwrap();
    drop(writer);
    let writer = target.open(alias, resumed).unwrap();
    writer.write_at(LEAF_LEN as u64 + 5, &data[LEAF_LEN + 5..]).unwrap();
    writer.seal(len as u64).unwrap();
    assert_eq!(target.scrub_report(alias).unwrap().age_s, None);
    home.server.scrub(&mut |_| false).unwrap();
    let report = target.scrub_report(alias).unwrap();
    assert_eq!((report.sectors, report.unknown, report.damaged.len(), report.age_s), (5, 0, 0, Some(0)));
    // A flipped bit, a cut end, and one that came past the server.
    let flipped = home.sealed(alias, all[0]);
    let mut bytes = fs::read(&flipped).unwrap();
    bytes[LEAF_LEN + 77] ^= 1;
    fs::write(&flipped, bytes).unwrap();
    fs::File::options().write(true).open(home.sealed(alias, all[1])).unwrap().set_len(5).unwrap();
    let disk = DirectoryTarget::open(&home.data(), None).unwrap();
    put(&disk, alias, b"past the server");
    home.server.scrub(&mut |_| false).unwrap();
    let report = target.scrub_report(alias).unwrap();
    let mut want = vec![all[0], all[1]];
    want.sort_unstable();
    assert_eq!((report.sectors, report.unknown, report.damaged), (6, 1, want.clone()));
    let told: Vec<Event> = home.told.lock().unwrap().try_iter().collect();
    assert_eq!(told, want.iter().map(|c| Event::Damaged(alias, *c)).collect::<Vec<_>>());
}

#[test]
fn a_proof_is_right_only_over_the_right_bytes() {
    let home = Home::new();
    let target = home.open(&home.account("ann")).unwrap();
    assert!(target.capabilities().proves);
    let (alias, data) = (ZoneAlias::random(), bytes(3_000_000));
    let copy = put(&target, alias, &data);
    let disk = DirectoryTarget::open(&home.data(), None).unwrap();
    let span = |offset, len, stride| Span { offset, len, stride };
    let spans = [span(0, 4096, 4096), span(4096, 2_995_904, 1 << 20)];
    let (key, other) = (Secret32([1; 32]), Secret32([2; 32]));
    let ask = |key, first, count| Challenge::new(key, &spans, first, count);
    let truth = |c: &Challenge| c.answer(copy, disk.reader(alias, copy).unwrap().as_ref()).unwrap();
    let prove = |c: &Challenge| target.prove(alias, copy, c).unwrap().unwrap();
    let (all, last) = (ask(&key, 0, 4), ask(&key, 3, 1));
    // By hand: header, two whole windows and a rest.
    let mut by_hand = Part::new(&key, copy, 0);
    for (at, len) in
        [(0, 4096), (4096, 1 << 20), (4096 + (1 << 20), 1 << 20), (4096 + (2 << 20), 2_995_904 - (2 << 20))]
    {
        let (within, n) = block_of(&key, at, len);
        by_hand.add(&tag_of(&key, &data[(at + within) as usize..][..n]));
    }
    let right = by_hand.digest();
    assert_eq!((prove(&all), truth(&all)), (right, right));
    // Another key, other windows: another answer.
    assert_ne!(prove(&ask(&other, 0, 4)), right);
    assert_ne!(prove(&last), prove(&ask(&key, 2, 1)));
    // A flipped bit in a block that the key asks for is seen, one beside it is not.
    let flip = |at: u64| {
        let path = home.sealed(alias, copy);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at as usize] ^= 4;
        fs::File::options().write(true).open(&path).unwrap().write_all(&bytes).unwrap();
    };
    let (within, n) = block_of(&key, 4096, 1 << 20);
    flip(4096 + (within + n as u64) % (1 << 20));
    assert_eq!(prove(&all), right);
    flip(4096 + within + 100);
    assert_ne!(prove(&all), right);
    let beyond = Challenge::new(&key, &[span(2_999_999, 2, 2)], 0, 1);
    let endless = Challenge::new(&key, &[span(0, u64::MAX, 1)], u64::MAX - 1, 2);
    let too_many = Challenge::new(&key, &[span(0, 3_000_000, 100)], 0, 4097);
    let many_spans = Challenge::new(&key, &[span(0, 1, 1); 9], 0, 1);
    let still = Challenge::new(&key, &[span(0, 100, 0)], 0, 1);
    for bad in [ask(&key, 0, 5), ask(&key, 4, 1), ask(&key, 0, 0), beyond, endless, too_many, many_spans, still] {
        let refused = err(target.prove(alias, copy, &bad));
        assert!(matches!(refused, TargetError::Protocol { op: Op::Prove, .. }), "{refused}");
    }
    assert!(target.prove(alias, CopyId::random(), &all).unwrap_err().is_not_found());
}
