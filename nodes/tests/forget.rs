//! Forgetting and pruning with the real program: what stays restores to the last bit, and room comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod wait;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bench::{Bench, noise, tree};
use serde_json::Value;

type Tree = Vec<(std::path::PathBuf, u32, u64, i64, i64, Vec<u8>)>;

fn json(b: &Bench, args: &[&str]) -> Value {
    let o = b.run(&[&["--json"][..], args].concat());
    let text = String::from_utf8_lossy(&o.stdout);
    let last = text.lines().last().unwrap_or_else(|| panic!("{args:?}: {}", String::from_utf8_lossy(&o.stderr)));
    serde_json::from_str(last).unwrap()
}

/// Numbers of the checkpoints that are listed.
fn listed(b: &Bench, more: &[&str]) -> Vec<u64> {
    let all = json(b, &[&["checkpoints"][..], more].concat());
    all["checkpoints"].as_array().unwrap().iter().map(|c| c["seq"].as_u64().unwrap()).collect()
}

/// Bytes of all sectors on a target, system data left out, and how many.
fn stored(b: &Bench) -> (u64, usize) {
    let all = json(b, &["sector", "ls"]);
    let data: Vec<&Value> = all["sectors"].as_array().unwrap().iter().filter(|s| s["system"] == false).collect();
    (data.iter().map(|s| s["raw_bytes"].as_u64().unwrap()).sum(), data.len())
}

fn files_on(target: &Path) -> usize {
    let mut n = 0;
    for zone in fs::read_dir(target.join("zones")).unwrap() {
        for shard in fs::read_dir(zone.unwrap().path().join("sectors")).unwrap() {
            n += fs::read_dir(shard.unwrap().path()).unwrap().count();
        }
    }
    n
}

fn assert_restores(b: &Bench, was: &BTreeMap<u64, Tree>, seqs: &[u64]) {
    for seq in seqs {
        let to = format!("out-{seq}");
        b.expect(0, &["restore", &seq.to_string(), "--to", &to]);
        assert!(tree(&b.restored(&to)) == was[seq], "checkpoint {seq} differs");
        fs::remove_dir_all(b.path(&to)).unwrap();
    }
}

/// One file more, one changed, one gone, for each checkpoint.
fn change(b: &Bench, n: u64) {
    let src = b.path("src");
    fs::write(src.join(format!("new-{n}")), noise(1000 + n, 120_000)).unwrap();
    fs::write(src.join("often"), noise(2000 + n, 200_000)).unwrap();
    let old = src.join(format!("new-{}", n.saturating_sub(3)));
    if old.exists() {
        fs::remove_file(old).unwrap();
    }
    let mut large = fs::read(src.join("a/b/large")).unwrap();
    let at = (n as usize * 900_000) % (large.len() - 100_000);
    large[at..at + 100_000].copy_from_slice(&noise(3000 + n, 100_000));
    fs::write(src.join("a/b/large"), large).unwrap();
}

fn many(b: &Bench, n: u64) -> BTreeMap<u64, Tree> {
    bench::fill(&b.path("src"));
    b.init();
    let mut was = BTreeMap::new();
    for i in 1..=n {
        if i > 1 {
            change(b, i);
        }
        b.expect(0, &["backup", "src"]);
        was.insert(i, tree(&b.path("src")));
    }
    was
}

#[test]
fn what_is_kept_restores_and_the_room_of_the_rest_comes_back() {
    let b = Bench::new();
    let was = many(&b, 24);
    let before = stored(&b);
    // Only shown at first.
    let shown = b.expect(0, &["forget", "--keep-last", "4"]);
    assert!(shown.contains("would forget") && shown.contains("--apply"), "{shown}");
    assert_eq!(listed(&b, &[]).len(), 24);
    b.expect(0, &["forget", "--keep-last", "4", "--apply", "--owner"]);
    assert_eq!(listed(&b, &[]), [21, 22, 23, 24]);
    assert_eq!(listed(&b, &["--forgotten"]).len(), 20);
    // Within the grace nothing goes, and all of it can be had.
    b.expect(0, &["prune", "--apply", "--owner"]);
    assert_restores(&b, &was, &[1, 12]);
    b.expect(0, &["undelete", "5"]);
    let kept = [5, 21, 22, 23, 24];
    let goes: Vec<String> = listed(&b, &["--forgotten"]).iter().map(u64::to_string).collect();
    let goes: Vec<&str> = goes.iter().map(String::as_str).collect();
    b.expect(0, &[&["forget", "--apply", "--now"], goes.as_slice()].concat());
    let told = json(&b, &["prune"]);
    assert!(told["dead_bytes"].as_u64() > Some(0) && told["applied"] == false, "{told}");
    let done = json(&b, &["prune", "--apply", "--owner"]);
    assert!(done["applied"] == true && done["unmoved_bytes"] == 0, "{done}");
    assert_restores(&b, &was, &kept);
    let newest = *listed(&b, &[]).last().unwrap();
    b.expect(0, &["restore", &newest.to_string(), "--to", "newest"]);
    assert!(tree(&b.restored("newest")) == was[&24], "the synthetic checkpoint holds what the newest held");
    let after = stored(&b);
    let alive = json(&b, &["prune"]);
    let (bytes, dead) = (alive["bytes"].as_u64().unwrap(), alive["dead_bytes"].as_u64().unwrap());
    assert!(bytes * 10 < (bytes - dead) * 12, "{bytes} are stored and {dead} of them are dead");
    assert!(after.0 < before.0, "{before:?} {after:?}");
    // What the zone knows is what lies there.
    let all = json(&b, &["sector", "ls"]);
    let copies: usize = all["sectors"].as_array().unwrap().iter().map(|s| s["copies"].as_array().unwrap().len()).sum();
    assert_eq!(files_on(&b.path("target")), copies);
    b.expect(0, &["check", "--read-data"]);
    // And the zone goes on.
    change(&b, 30);
    b.expect(0, &["backup", "src"]);
    b.expect(0, &["restore", "latest", "--to", "latest"]);
    assert!(tree(&b.restored("latest")) == tree(&b.path("src")));
}

#[test]
fn a_lost_zone_comes_back_after_pruning() {
    let b = Bench::new();
    let was = many(&b, 6);
    b.expect(0, &["forget", "1", "2", "3", "--apply", "--now"]);
    b.expect(0, &["prune", "--apply", "--owner", "--max-waste", "0"]);
    let words = b.words();
    fs::remove_dir_all(b.path("zone")).unwrap();
    let o = b
        .command(&["recover", "--target", "target", "--state-only"])
        .env("ZONEWARD_PASSPHRASE", words)
        .output()
        .unwrap();
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    assert_eq!(listed(&b, &[]), [4, 5, 6, 7]);
    assert_restores(&b, &was, &[4, 5, 6]);
}

#[test]
fn a_synthetic_checkpoint_reads_no_source() {
    let b = Bench::new();
    let was = many(&b, 5);
    let away = b.path("elsewhere");
    fs::rename(b.path("src"), &away).unwrap();
    let text = b.expect(0, &["backup", "--synthetic", "--tag", "whole"]);
    assert!(text.contains("synthetic"), "{text}");
    assert_eq!(listed(&b, &["--tag", "whole"]), [6]);
    // It is no news of the source.
    let seconds = |key: &str| b.status()["last_checkpoint"][key].as_str().unwrap()[..19].to_owned();
    assert!(seconds("content") <= seconds("started"));
    let all = json(&b, &["checkpoints"]);
    assert_eq!(all["checkpoints"][5]["sources"][0]["carried"], true);
    b.expect(0, &["restore", "6", "--to", "six"]);
    assert!(tree(&b.restored("six")) == was[&5]);
    assert_restores(&b, &was, &[1, 3, 5]);
    fs::rename(&away, b.path("src")).unwrap();
    // What comes next builds on it, and finds nothing new.
    let text = b.expect(0, &["backup", "src"]);
    assert!(text.contains("0 new") && text.contains("0 gone; 0 B of new content"), "{text}");
}

#[test]
fn the_owner_is_asked_where_much_would_go_and_the_newest_stays() {
    let b = Bench::new();
    bench::fill(&b.path("src"));
    b.init();
    for _ in 0..3 {
        b.expect(0, &["backup", "src", "--full"]);
    }
    assert!(b.expect(4, &["forget", "3", "--apply"]).contains("ZW-1622"));
    assert!(b.expect(4, &["forget", "1", "2", "--apply"]).contains("ZW-1623"));
    assert!(b.expect(2, &["forget"]).contains("ZW-1621"));
    assert!(b.expect(1, &["undelete", "1"]).contains("ZW-1624"));
    assert!(b.expect(2, &["backup", "src", "--tag", "a,b"]).contains("ZW-1625"));
    assert!(b.expect(4, &["retention", "set", "--grace", "1h"]).contains("ZW-1626"));
    // With a wrong passphrase nothing is done.
    let o =
        b.command(&["forget", "1", "2", "--apply", "--owner"]).env("ZONEWARD_PASSPHRASE", "wrong").output().unwrap();
    assert_eq!(o.status.code(), Some(12));
    assert_eq!(listed(&b, &[]), [1, 2, 3]);
    b.expect(0, &["forget", "1", "2", "--apply", "--owner"]);
    assert_eq!(listed(&b, &[]), [3]);
    b.expect(0, &["undelete", "1", "2"]);
    assert_eq!(listed(&b, &[]), [1, 2, 3]);
}

#[test]
fn the_zones_own_rules_are_applied_after_each_backup() {
    let b = Bench::new();
    bench::fill(&b.path("src"));
    b.init();
    b.expect(0, &["backup", "src", "--tag", "first"]);
    b.expect(0, &["retention", "set", "--keep-last", "2", "--keep-tag", "first"]);
    for n in 2..=5 {
        change(&b, n);
        b.expect(0, &["backup", "src"]);
    }
    assert_eq!(listed(&b, &[]), [1, 4, 5]);
    b.expect(0, &["tag", "1", "--remove", "first"]);
    change(&b, 6);
    b.expect(0, &["backup", "src"]);
    assert_eq!(listed(&b, &[]), [5, 6]);
    assert!(b.expect(0, &["retention", "show"]).contains("2 last"));
    b.expect(0, &["retention", "clear"]);
    change(&b, 7);
    b.expect(0, &["backup", "src"]);
    assert_eq!(listed(&b, &[]), [5, 6, 7]);
}

/// Changes a byte in each segment of a sector's only copy.
fn spoil(b: &Bench, sector: &Value) {
    let copy = sector["copies"][0]["id"].as_str().unwrap();
    let zone = fs::read_dir(b.path("target/zones")).unwrap().next().unwrap().unwrap().path();
    let path = zone.join(format!("sectors/{}/{copy}.zws", &copy[..2]));
    let mut bytes = fs::read(&path).unwrap();
    // The header, and behind the segments the leaf table and the trailer, stay as they are.
    let end = bytes.len() - 32_768;
    bytes[8192..end].iter_mut().step_by(1 << 19).for_each(|x| *x ^= 1);
    fs::write(&path, bytes).unwrap();
}

#[test]
fn content_that_no_copy_has_any_more_stays_where_it_is_and_is_named() {
    let b = Bench::new();
    // The first in the first sector: where a file is cut into chunks, and what lies beside them, differs from zone to zone.
    fs::create_dir_all(b.path("src/a")).unwrap();
    fs::write(b.path("src/a/a"), noise(77, 1_000_000)).unwrap();
    fs::write(b.path("src/a/aa"), noise(78, 1_000_000)).unwrap();
    many(&b, 4);
    fs::remove_file(b.path("src/a/aa")).unwrap();
    b.expect(0, &["backup", "src"]);
    let was = tree(&b.path("src"));
    b.expect(0, &["forget", "1", "2", "3", "4", "--apply", "--now"]);
    let sectors = || json(&b, &["sector", "ls"])["sectors"].as_array().unwrap().clone();
    let first = sectors()[0].clone();
    spoil(&b, &first);
    let said = b.expect(3, &["prune", "--apply", "--owner", "--max-waste", "0"]);
    assert!(said.contains("could not be moved"), "{said}");
    assert!(sectors().iter().any(|s| s["id"] == first["id"]), "what is left in it would be lost for good");
    // What lies elsewhere is as it was.
    b.expect(5, &["restore", "5", "--to", "five"]);
    let there = tree(&b.restored("five"));
    for name in ["often", "new-4", "new-3"] {
        let wanted = was.iter().find(|e| e.0 == Path::new(name)).unwrap();
        assert!(there.contains(wanted), "{name}");
    }
    assert!(there.iter().all(|e| e.0 != Path::new("a/a")), "no copy of it was whole");
}

#[test]
fn changed_content_is_still_found_after_pruning() {
    let b = Bench::new();
    many(&b, 4);
    b.expect(0, &["forget", "1", "2", "3", "--apply", "--now"]);
    b.expect(0, &["prune", "--apply", "--owner", "--max-waste", "0"]);
    let mut large = fs::read(b.path("src/a/b/large")).unwrap();
    large[5_000_000..5_000_010].copy_from_slice(b"0123456789");
    fs::write(b.path("src/a/b/large"), large).unwrap();
    let told = json(&b, &["backup", "src"]);
    let new = told["sources"][0]["new_bytes"].as_u64().unwrap();
    assert!(new > 0 && new < 5_000_000, "{new} of 9,000,000 bytes were stored anew");
}
