//! The adapter against Apache's mod_dav.

mod apache;

use zoneward_sectors::ids::{CopyId, TargetId, ZoneAlias};

use self::apache::{Apache, PASSWORD, USER};
use super::WebDavTarget;
use crate::conformance::{self, Outcome};
use crate::credentials::Credentials;
use crate::directory::Existing;
use crate::errors::{Retry, TargetError};
use crate::limits::PART_LEN;
use crate::target::{ObjectName, Target};
use crate::url::{Url, WebDavUrl};

fn credentials() -> Credentials {
    Credentials::of([("user", USER), ("password", PASSWORD)])
}

fn url(server: &Apache) -> WebDavUrl {
    match server.url("my%20dav/backups").parse().unwrap() {
        Url::WebDav(url) => url,
        other => panic!("{other}"),
    }
}

fn err<T>(r: Result<T, TargetError>) -> TargetError {
    r.err().unwrap()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

/// `None` where its server is not installed.
pub(crate) fn conformance_results() -> Option<Vec<conformance::CheckResult>> {
    let server = Apache::start()?;
    let id = TargetId::random();
    WebDavTarget::create(&url(&server), id, Existing::Refuse, Some(&credentials())).unwrap();
    Some(conformance::run(&|| {
        Box::new(WebDavTarget::open(&url(&server), Some(id), Some(&credentials())).unwrap()) as Box<dyn Target>
    }))
}

#[test]
fn conformance_over_webdav() {
    let Some(results) = conformance_results() else { return };
    assert!(results.iter().all(|r| r.outcome == Outcome::Passed), "{}", conformance::report(&results));
}

#[test]
fn a_long_sector_is_a_run_of_parts_and_another_process_goes_on_with_it() {
    let Some(server) = Apache::start() else { return };
    let target =
        WebDavTarget::create(&url(&server), TargetId::random(), Existing::Refuse, Some(&credentials())).unwrap();
    let (alias, copy) = (ZoneAlias::random(), CopyId::random());
    let data = bytes((2 * PART_LEN + 333_333) as usize);
    let cut = (PART_LEN + 4321) as usize;
    let writer = target.open(alias, copy).unwrap();
    writer.write_at(0, &data[..cut]).unwrap();
    drop(writer);
    let other = WebDavTarget::open(&url(&server), None, Some(&credentials())).unwrap();
    assert_eq!(other.list_incoming(alias).unwrap(), [copy]);
    let writer = other.open(alias, copy).unwrap();
    assert_eq!(writer.offset(), cut as u64);
    writer.write_at(cut as u64, &data[cut..]).unwrap();
    assert_eq!(other.list(alias).unwrap().sectors, []);
    writer.seal(data.len() as u64).unwrap();
    let list = other.list(alias).unwrap();
    assert_eq!((list.sectors, list.foreign), (vec![(copy, data.len() as u64)], 0));
    // Across the edge of two parts.
    let mut buf = vec![0; 200_000];
    target.read_at(alias, copy, PART_LEN - 100_000, &mut buf).unwrap();
    assert_eq!(buf, data[PART_LEN as usize - 100_000..PART_LEN as usize + 100_000]);
    // Begun again and thrown away: what is sealed stays.
    let writer = other.open(alias, copy).unwrap();
    writer.write_at(0, &data).unwrap();
    writer.seal(data.len() as u64).unwrap();
    let reader = target.reader(alias, copy).unwrap();
    let mut all = vec![0; data.len()];
    reader.read_at(&mut all, 0).unwrap();
    assert_eq!(all, data);
    // A part that went missing is no short sector.
    let folder = std::fs::read_dir(
        server.dir.path().join(format!("files/my dav/backups/zones/{alias}/sectors/{}", &copy.to_string()[..2])),
    );
    let folders: Vec<_> = folder.unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    std::fs::remove_file(folders[0].join("00001")).unwrap();
    assert!(err(reader.read_at(&mut all, 0)).is_not_found());
    other.remove(alias, copy).unwrap();
    assert!(!folders[0].exists());
}

#[test]
fn wrong_credentials_and_a_server_that_is_gone() {
    let Some(server) = Apache::start() else { return };
    let target =
        WebDavTarget::create(&url(&server), TargetId::random(), Existing::Refuse, Some(&credentials())).unwrap();
    let wrong = Credentials::of([("user", USER), ("password", "hunter2")]);
    for given in [Some(&wrong), None] {
        let e = err(WebDavTarget::open(&url(&server), None, given));
        assert!(matches!(e, TargetError::Auth { .. }) && !format!("{e:?}").contains("hunter2"), "{e:?}");
    }
    let half = Credentials::of([("user", USER)]);
    assert!(matches!(err(WebDavTarget::open(&url(&server), None, Some(&half))), TargetError::Auth { .. }));
    let other = WebDavUrl { folder: "elsewhere".into(), ..url(&server) };
    assert!(matches!(err(WebDavTarget::open(&other, None, Some(&credentials()))), TargetError::Unplugged { .. }));
    drop(server);
    let e = err(target.put_object(ZoneAlias::random(), ObjectName::Pointer, b"x"));
    assert!(matches!(e, TargetError::Unreachable { .. }) && e.retry() == Retry::Later, "{e:?}");
}
