//! The adapter against OpenSSH's server.

mod sshd;

use zoneward_sectors::ids::{CopyId, TargetId, ZoneAlias};

use self::sshd::Sshd;
use super::SftpTarget;
use crate::conformance::{self, Outcome};
use crate::credentials::Credentials;
use crate::directory::{DirectoryTarget, Existing};
use crate::errors::{Retry, TargetError};
use crate::target::{ObjectName, Target};
use crate::url::{SftpUrl, Url};

fn credentials(server: &Sshd, key: &str, host_key: &str) -> Credentials {
    let user = rustix::process::geteuid().is_root().then(|| "root".to_owned());
    let user = user.or_else(|| std::env::var("USER").ok()).unwrap();
    let (key, host_key) = (server.read(key), server.read(host_key));
    Credentials::of([("user", user.as_str()), ("private_key", &key), ("host_key", host_key.trim())])
}

fn right(server: &Sshd) -> Credentials {
    credentials(server, "user", "host.pub")
}

fn url(server: &Sshd) -> SftpUrl {
    match server.url("a%20b/target").parse().unwrap() {
        Url::Sftp(url) => url,
        other => panic!("{other}"),
    }
}

fn err<T>(r: Result<T, TargetError>) -> TargetError {
    r.err().unwrap()
}

/// `None` where its server is not installed.
pub(crate) fn conformance_results() -> Option<Vec<conformance::CheckResult>> {
    let server = Sshd::start()?;
    let id = TargetId::random();
    SftpTarget::create(&url(&server), id, Existing::Refuse, Some(&right(&server))).unwrap();
    Some(conformance::run(&|| {
        Box::new(SftpTarget::open(&url(&server), Some(id), Some(&right(&server))).unwrap()) as Box<dyn Target>
    }))
}

#[test]
fn conformance_over_sftp() {
    let Some(results) = conformance_results() else { return };
    assert!(results.iter().all(|r| r.outcome == Outcome::Passed), "{}", conformance::report(&results));
}

#[test]
fn what_sftp_writes_a_directory_target_reads() {
    let Some(server) = Sshd::start() else { return };
    let target =
        SftpTarget::create(&url(&server), TargetId::random(), Existing::Refuse, Some(&right(&server))).unwrap();
    let (alias, copy) = (ZoneAlias::random(), CopyId::random());
    let data: Vec<u8> = (0..3_000_000u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect();
    let writer = target.open(alias, copy).unwrap();
    writer.write_at(0, &data[..1_000_001]).unwrap();
    drop(writer);
    // Another process goes on, over a line that breaks in the middle.
    let other = SftpTarget::open(&url(&server), None, Some(&right(&server))).unwrap();
    let writer = other.open(alias, copy).unwrap();
    assert_eq!(writer.offset(), 1_000_001);
    writer.write_at(1_000_001, &data[1_000_001..2_000_000]).unwrap();
    other.place.line.break_now();
    writer.write_at(2_000_000, &data[2_000_000..]).unwrap();
    writer.seal(data.len() as u64).unwrap();
    target.put_object(alias, ObjectName::Pointer, b"head").unwrap();
    let path = server.dir.path().join("a b/target");
    let dir = DirectoryTarget::open(&path, Some(target.id())).unwrap();
    assert_eq!(dir.list(alias).unwrap(), target.list(alias).unwrap());
    assert_eq!(dir.get_object(alias, ObjectName::Pointer, 100).unwrap(), b"head");
    let reader = target.reader(alias, copy).unwrap();
    let mut all = vec![0; data.len()];
    dir.read_at(alias, copy, 0, &mut all).unwrap();
    assert_eq!(all, data);
    all.fill(0);
    reader.read_at(&mut all, 0).unwrap();
    assert_eq!(all, data);
    other.place.line.break_now();
    assert!(target.capabilities().free_bytes.is_some_and(|n| n > 0));
}

#[test]
fn other_keys_other_hosts_and_nobody_at_all() {
    let Some(server) = Sshd::start() else { return };
    let target =
        SftpTarget::create(&url(&server), TargetId::random(), Existing::Refuse, Some(&right(&server))).unwrap();
    for (key, host_key, says) in [("stranger", "host.pub", "take the key"), ("user", "stranger.pub", "host key")] {
        let e = err(SftpTarget::open(&url(&server), None, Some(&credentials(&server, key, host_key))));
        assert!(matches!(&e, TargetError::Auth { reason, .. } if reason.contains(says)), "{e:?}");
    }
    assert!(matches!(err(SftpTarget::open(&url(&server), None, None)), TargetError::Auth { .. }));
    let other = SftpUrl { path: "/nowhere/at/all".into(), ..url(&server) };
    assert!(matches!(err(SftpTarget::open(&other, None, Some(&right(&server)))), TargetError::Unplugged { .. }));
    let gone = url(&server);
    let key = right(&server);
    drop(server);
    target.place.line.break_now();
    for e in [err(target.list_zones()), err(SftpTarget::open(&gone, None, Some(&key)))] {
        assert!(matches!(e, TargetError::Unreachable { .. }) && e.retry() == Retry::Later, "{e:?}");
    }
}
