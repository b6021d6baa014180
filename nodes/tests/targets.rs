//! Targets that move, are tried, are left.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod wait;

use std::fs;

use bench::Bench;
use serde_json::Value;

fn targets(b: &Bench) -> Vec<Value> {
    let o = b.run(&["--json", "target", "ls"]);
    serde_json::from_slice::<Value>(&o.stdout).unwrap()["targets"].as_array().unwrap().clone()
}

fn named<'a>(all: &'a [Value], name: &str) -> &'a Value {
    all.iter().find(|t| t["name"] == name).unwrap()
}

#[test]
fn a_disk_that_is_mounted_elsewhere_is_found_again_and_no_other_is_taken_for_it() {
    let b = Bench::new();
    fs::write(b.path("src/a"), b"a").unwrap();
    b.expect(0, &["init", "--target", "one", "--target", "two", "--sector-min", "1MiB"]);
    b.expect(0, &["backup", "src"]);
    fs::rename(b.path("one"), b.path("moved")).unwrap();
    assert_eq!(named(&targets(&b), "first")["reachable"], false);
    // Another target lies there, or nothing.
    b.expect(4, &["target", "set", "first", "--url", "two/inner"]);
    b.expect(7, &["target", "set", "first", "--url", "nowhere"]);
    fs::create_dir(b.path("empty")).unwrap();
    b.expect(7, &["target", "set", "first", "--url", "empty"]);
    assert!(fs::read_dir(b.path("empty")).unwrap().next().is_none(), "nothing is written into an empty folder");
    b.expect(2, &["target", "set", "first"]);
    b.expect(0, &["target", "set", "first", "--url", "moved", "--name", "cellar", "--domain", "cellar"]);
    let all = targets(&b);
    let t = named(&all, "cellar");
    assert_eq!((&t["reachable"], &t["domain"]), (&true.into(), &"cellar".into()));
    assert!(t["url"].as_str().unwrap().ends_with("/moved"));
    b.expect(0, &["target", "set", "cellar", "--domain", "none"]);
    assert!(named(&targets(&b), "cellar")["domain"].is_null());
    b.expect(0, &["backup"]);
    b.expect(0, &["check", "--read-data"]);
    for bad in ["target-2", "../x"] {
        assert_ne!(b.run(&["target", "set", "cellar", "--name", bad]).status.code(), Some(0), "{bad}");
    }
}

#[test]
fn a_target_is_left_without_losing_anything() {
    let b = Bench::new();
    for i in 0..3u8 {
        fs::write(b.path(&format!("src/{i}")), vec![i; 400_000]).unwrap();
    }
    b.expect(0, &["init", "--target", "one", "--target", "two", "--sector-min", "1MiB"]);
    b.expect(0, &["backup", "src", "--copies", "2"]);
    assert!(b.expect(1, &["target", "remove", "no-such"]).contains("ZW-1304"));
    // Two copies are wanted, and there are two targets: the third comes first.
    b.expect(0, &["target", "evacuate", "first"]);
    assert!(b.expect(0, &["status"]).contains("is evacuated"), "all of it lies on the other one too");
    b.expect(0, &["target", "evacuate", "first", "--undo"]);
    b.expect(0, &["target", "add", "three", "--name", "third"]);
    b.expect(0, &["target", "evacuate", "first"]);
    let left = named(&targets(&b), "first")["left_to_copy"].as_u64().unwrap();
    assert!(left > 0);
    assert!(b.expect(0, &["status"]).contains("is being evacuated"));
    fs::write(b.path("src/new"), b"new").unwrap();
    b.expect(0, &["backup"]);
    let all = targets(&b);
    assert_eq!(named(&all, "first")["left_to_copy"], 0);
    b.expect(0, &["target", "remove", "first"]);
    fs::remove_dir_all(b.path("one")).unwrap();
    b.expect(0, &["check", "--read-data"]);
    fs::rename(b.path("two"), b.path("away")).unwrap();
    b.expect(0, &["restore", "latest", "--to", "out"]);
    for name in ["0", "1", "2", "new"] {
        assert!(fs::read(b.path("src").join(name)).unwrap() == fs::read(b.restored("out").join(name)).unwrap());
    }
    fs::rename(b.path("away"), b.path("two")).unwrap();
    b.expect(0, &["backup"]);
}

#[test]
fn the_only_copy_of_something_is_not_given_up_by_a_slip() {
    let b = Bench::new();
    fs::write(b.path("src/a"), b"a").unwrap();
    b.init();
    b.expect(0, &["backup", "src", "--copies", "1"]);
    assert!(b.expect(4, &["target", "remove", "first"]).contains("ZW-1326"));
    b.expect(0, &["target", "add", "two", "--name", "second"]);
    assert!(b.expect(4, &["target", "remove", "first"]).contains("ZW-1326"));
    b.expect(0, &["target", "remove", "second"]);
    assert!(b.expect(4, &["target", "remove", "first", "--lose-copies"]).contains("ZW-1327"));
    b.expect(0, &["check", "--read-data"]);
}

#[test]
fn a_target_is_tried_and_nothing_is_left_behind() {
    let b = Bench::new();
    fs::write(b.path("src/a"), vec![3u8; 500_000]).unwrap();
    b.init();
    b.expect(0, &["backup", "src"]);
    let files = || {
        let o = std::process::Command::new("find").arg(b.path("target")).arg("-type").arg("f").output().unwrap();
        String::from_utf8(o.stdout).unwrap().lines().count()
    };
    let before = files();
    let said = b.expect(0, &["target", "test", "first", "--size", "3MiB"]);
    for what in ["can ", "answers", "writes", "reads", "/s"] {
        assert!(said.contains(what), "{said}");
    }
    assert_eq!(files(), before);
    fs::rename(b.path("target"), b.path("away")).unwrap();
    assert!(b.expect(7, &["target", "test", "first"]).contains("ZW-1302"));
}

#[test]
fn price_room_and_time_of_a_target_are_set_and_told() {
    let b = Bench::new();
    fs::write(b.path("src/a"), vec![3u8; 500_000]).unwrap();
    b.init();
    b.expect(0, &["backup", "src"]);
    let t = targets(&b)[0].clone();
    for nothing in ["price", "cost_per_month", "paid_until", "renew_in_days", "quota_bytes", "growth_bytes_per_day"] {
        assert!(t.as_object().unwrap().contains_key(nothing) && t[nothing].is_null(), "{nothing}: {t}");
    }
    let used = t["used_bytes"].as_u64().unwrap();
    assert!(used > 0 && t["free_bytes"].as_u64().is_some(), "{t}");
    for bad in [
        ["--price", "4.99"],
        ["--price", "4.99EUR/year"],
        ["--price", "-1EUR/month"],
        ["--paid-until", "2027-02-30"],
        ["--paid-until", "soon"],
        ["--quota", "0"],
        ["--quota", "much"],
    ] {
        b.expect(2, &["target", "set", "first", bad[0], bad[1]]);
    }
    b.expect(2, &["target", "set", "first"]);
    b.expect(0, &["target", "set", "first", "--price", "5.49EUR/TiB/month", "--quota", "2TiB"]);
    b.expect(0, &["target", "set", "first", "--paid-until", "2020-03-01"]);
    let t = targets(&b)[0].clone();
    assert_eq!(t["price"], serde_json::json!({"amount": "5.49", "currency": "EUR", "per": "TiB/month"}));
    assert_eq!(t["cost_per_month"], serde_json::json!({"amount": "0.01", "currency": "EUR"}));
    assert_eq!((t["quota_bytes"].as_u64(), t["paid_until"].as_str()), (Some(2 << 40), Some("2020-03-01T00:00:00Z")));
    assert!(t["renew_in_days"].as_i64().unwrap() < -2000, "{t}");
    let said = b.expect(0, &["target", "ls"]);
    for part in ["quota 2.00 TiB", "5.49 EUR/TiB/month: 0.01 EUR a month at this size", "WAS PAID UNTIL 2020-03-01"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(b.expect(0, &["status"]).contains("target first was paid until 2020-03-01"));
    // Other settings leave it, and it leaves them.
    b.expect(0, &["target", "set", "first", "--name", "cellar", "--paid-until", "2100-01-01"]);
    let t = targets(&b)[0].clone();
    assert_eq!((t["name"].as_str(), t["price"]["amount"].as_str()), (Some("cellar"), Some("5.49")));
    assert!(!b.expect(0, &["status"]).contains("paid until"));
    // What may lie there is used up.
    b.expect(0, &["target", "set", "cellar", "--quota", &used.to_string()]);
    assert_eq!(targets(&b)[0]["free_bytes"], 0);
    assert!(b.status()["concerns"].to_string().contains("target cellar is full"));
    b.expect(0, &["target", "set", "cellar", "--price", "", "--quota", "", "--paid-until", ""]);
    let t = targets(&b)[0].clone();
    assert!(t["price"].is_null() && t["quota_bytes"].is_null() && t["paid_until"].is_null(), "{t}");
    // It is in the system data: a zone that comes back knows it.
    b.expect(0, &["target", "set", "cellar", "--price", "3CHF/month"]);
    b.expect(0, &["backup"]);
    assert_eq!(targets(&b)[0]["price"]["currency"], "CHF");
}
