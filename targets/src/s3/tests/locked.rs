//! The adapter against a server with object lock, under the policy that we tell people to give a node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use zoneward_sectors::ids::{CopyId, TargetId, ZoneAlias};

use super::locking::Locking;
use super::{bytes, put, read};
use crate::conformance::{self, Outcome};
use crate::credentials::Credentials;
use crate::directory::Existing;
use crate::limits::PART_LEN;
use crate::s3::S3Target;
use crate::target::{Guarded, ObjectName, Protection, Target};
use crate::url::{S3Url, Url};

const WEEK: u64 = 7 * 24 * 3600;

fn url(server: &Locking, bucket: &str) -> S3Url {
    match server.url(bucket).parse().unwrap() {
        Url::S3(url) => url,
        other => panic!("{other}"),
    }
}

fn credentials(keys: &(String, String)) -> Credentials {
    Credentials::of([("access_key_id", keys.0.as_str()), ("secret_access_key", keys.1.as_str())])
}

fn made(server: &Locking, bucket: &str) -> S3Target {
    let credentials = credentials(&server.node);
    S3Target::create(&url(server, bucket), TargetId::random(), Existing::Refuse, Some(&credentials)).unwrap()
}

fn again(server: &Locking, bucket: &str) -> S3Target {
    S3Target::open(&url(server, bucket), None, Some(&credentials(&server.node))).unwrap()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn guard(target: &S3Target, alias: ZoneAlias, living: &[CopyId]) -> Guarded {
    target.guard(alias, &living.iter().copied().collect::<BTreeSet<_>>(), true).unwrap()
}

#[test]
fn conformance_in_a_bucket_that_locks() {
    let Some(server) = Locking::start() else { return };
    server.bucket("locked-a", true, true);
    let target = made(&server, "locked-a");
    assert_eq!(target.protection().unwrap(), Protection { versions: Some(true), locks: Some(true), kept_days: None });
    let results = conformance::run(&|| {
        let target = again(&server, "locked-a");
        target.lock_for(WEEK);
        Box::new(target) as Box<dyn Target>
    });
    assert!(results.iter().all(|r| r.outcome == Outcome::Passed), "{}", conformance::report(&results));
}

#[test]
fn what_is_put_is_locked_and_a_thief_with_the_nodes_keys_removes_nothing_for_good() {
    let Some(server) = Locking::start() else { return };
    server.bucket("locked-a", true, true);
    let target = made(&server, "locked-a");
    target.lock_for(WEEK);
    let alias = ZoneAlias::random();
    let copies = [CopyId::random(), CopyId::random()];
    // One in a single request, one in parts.
    let data = [bytes(1, 1000), bytes(2, (2 * PART_LEN + 99) as usize)];
    for (copy, data) in copies.iter().zip(&data) {
        put(&target, alias, *copy, data).unwrap();
    }
    target.put_object(alias, ObjectName::Pointer, b"head").unwrap();
    for name in [&copies[0].to_string()[..], &copies[1].to_string(), "pointer.json"] {
        let kept = server.versions("locked-a", name);
        let kept: Vec<_> = kept.iter().filter(|v| !v["key"].as_str().unwrap().contains("incoming")).collect();
        assert_eq!(kept.len(), 1, "{name}: {kept:?}");
        let left = kept[0]["until"].as_u64().unwrap() - now_s();
        assert!(kept[0]["mode"] == "COMPLIANCE" && (WEEK - 600..=WEEK).contains(&left), "{name}: {kept:?}");
        // Whoever asks.
        for by in ["node", "owner"] {
            let key = kept[0]["key"].as_str().unwrap();
            let refused = server.remove(by, "locked-a", key, kept[0]["id"].as_str());
            assert_eq!(refused, Err("AccessDenied".to_owned()), "{name} {by}");
        }
    }
    // A mark before everything hides all of it from a listing, and nothing from a reader.
    assert!(server.hide_all("locked-a") >= 4);
    let other = again(&server, "locked-a");
    other.lock_for(WEEK);
    assert_eq!((other.id(), other.list(alias).unwrap().sectors.len()), (target.id(), 0));
    assert_eq!(other.list_zones().unwrap(), [alias]);
    assert_eq!(other.get_object(alias, ObjectName::Pointer, 100).unwrap(), b"head");
    for (copy, data) in copies.iter().zip(&data) {
        assert_eq!(&read(&other, alias, *copy), data);
    }
    // With the node's rights the marks cannot go; the store copies what is behind them.
    let mut found = guard(&other, alias, &copies);
    found.brought_back.sort_unstable();
    let mut all = copies.to_vec();
    all.sort_unstable();
    assert_eq!((found.brought_back, found.hidden, found.unlocked), (all, vec![], 0));
    assert_eq!(other.list(alias).unwrap().sectors.len(), 2);
    for (copy, data) in copies.iter().zip(&data) {
        assert_eq!(&read(&again(&server, "locked-a"), alias, *copy), data);
    }
    assert_eq!(guard(&other, alias, &copies).brought_back, []);
    // With the rights to remove marks, they go.
    server.hide_all("locked-a");
    let with = S3Target::open(&url(&server, "locked-a"), None, Some(&credentials(&server.owner))).unwrap();
    with.lock_for(WEEK);
    let before = server.versions("locked-a", &copies[0].to_string()).len();
    assert_eq!(guard(&with, alias, &copies).brought_back.len(), 2);
    assert!(server.versions("locked-a", &copies[0].to_string()).len() < before);
    assert_eq!(with.list(alias).unwrap().sectors.len(), 2);
}

#[test]
fn locks_get_longer_and_never_shorter_and_what_the_zone_removed_goes_when_they_end() {
    let Some(server) = Locking::start() else { return };
    server.bucket("locked-a", true, true);
    let target = S3Target::create(
        &url(&server, "locked-a"),
        TargetId::random(),
        Existing::Refuse,
        Some(&credentials(&server.owner)),
    )
    .unwrap();
    let (alias, copy, gone) = (ZoneAlias::random(), CopyId::random(), CopyId::random());
    let until = |copy: CopyId| {
        let all = server.versions("locked-a", &format!("sectors/{}/{copy}", &copy.to_string()[..2]));
        all.iter().find_map(|v| v["until"].as_u64())
    };
    // From before there were locks.
    put(&target, alias, copy, b"content").unwrap();
    assert_eq!(until(copy), None);
    target.lock_for(WEEK);
    assert!(guard(&target, alias, &[copy]).extended >= 1);
    let first = until(copy).unwrap();
    assert!(first > now_s() + WEEK - 600);
    assert_eq!(guard(&target, alias, &[copy]).extended, 0);
    target.lock_for(WEEK / 2);
    assert_eq!((guard(&target, alias, &[copy]).extended, until(copy)), (0, Some(first)));
    target.lock_for(2 * WEEK);
    assert!(guard(&target, alias, &[copy]).extended >= 1);
    assert!(until(copy).unwrap() > first);
    // What the zone removes stays as long as its lock.
    target.lock_for(4);
    put(&target, alias, gone, b"gone").unwrap();
    target.remove(alias, gone).unwrap();
    assert_eq!(target.len(alias, gone).unwrap(), None);
    let ends = until(gone).unwrap();
    let began = Instant::now();
    loop {
        let found = guard(&target, alias, &[copy]);
        assert!(found.brought_back.is_empty() && found.hidden.is_empty(), "{found:?}");
        if found.purged > 0 {
            assert!(now_s() >= ends, "it went before its lock ended");
            break;
        }
        assert_eq!(found.kept, 1);
        assert!(began.elapsed() < Duration::from_secs(60), "it never goes");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        server
            .versions("locked-a", &gone.to_string())
            .iter()
            .filter(|v| v["key"].as_str().unwrap().contains("sectors"))
            .count(),
        0
    );
    assert_eq!(read(&target, alias, copy), b"content");
}

#[test]
fn a_bucket_with_versions_alone_and_one_that_may_not_be_asked() {
    let Some(server) = Locking::start() else { return };
    server.bucket("locked-v", false, true);
    let target = made(&server, "locked-v");
    target.lock_for(WEEK);
    assert_eq!(target.protection().unwrap(), Protection { versions: Some(true), locks: Some(false), kept_days: None });
    let (alias, copy) = (ZoneAlias::random(), CopyId::random());
    put(&target, alias, copy, b"content").unwrap();
    server.hide_all("locked-v");
    assert_eq!(target.len(alias, copy).unwrap(), None);
    assert_eq!(guard(&target, alias, &[copy]).brought_back, [copy]);
    assert_eq!(read(&target, alias, copy), b"content");
    server.bucket("locked-p", false, false);
    let target = made(&server, "locked-p");
    assert_eq!(target.protection().unwrap(), Protection::default());
    put(&target, alias, copy, b"content").unwrap();
    server.hide_all("locked-p");
    // Nothing is kept there.
    assert_eq!(guard(&target, alias, &[copy]), Guarded::default());
    assert!(target.reader(alias, copy).err().unwrap().is_not_found());
}
