//! What a source asks for, and what a person's slip must not destroy: copies, kits, checks that agree with each other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod wait;

use std::fs;
use std::path::PathBuf;

use bench::{Bench, PASSPHRASE, noise, tree};

/// A zone with two targets, `target` and `second`.
fn two() -> Bench {
    let b = Bench::new();
    b.expect(0, &["init", "--target", "target", "--target", "second", "--sector-min", "1MiB"]);
    b
}

/// Restores while one target is away, from the other alone.
fn restores_without(b: &Bench, away: &str, to: &str) {
    fs::rename(b.path(away), b.path("away")).unwrap();
    b.expect(0, &["restore", "latest", "--to", to]);
    fs::rename(b.path("away"), b.path(away)).unwrap();
}

fn sectors(b: &Bench) -> Vec<serde_json::Value> {
    let o = b.run(&["--json", "sector", "ls"]);
    serde_json::from_slice::<serde_json::Value>(&o.stdout).unwrap()["sectors"].as_array().unwrap().clone()
}

/// Stored sectors, the largest first.
fn stored(b: &Bench, target: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for zone in fs::read_dir(b.path(target).join("zones")).unwrap() {
        for shard in fs::read_dir(zone.unwrap().path().join("sectors")).unwrap() {
            all.extend(fs::read_dir(shard.unwrap().path()).unwrap().map(|e| e.unwrap().path()));
        }
    }
    all.sort_by_key(|p| std::cmp::Reverse(fs::metadata(p).unwrap().len()));
    all
}

#[test]
fn what_asks_for_more_copies_does_not_rely_on_what_has_fewer() {
    let b = two();
    for dir in ["low", "high"] {
        fs::create_dir(b.path(dir)).unwrap();
        fs::write(b.path(dir).join("a"), noise(1, 1_000_000)).unwrap();
    }
    b.expect(0, &["backup", "low", "--priority", "-50"]);
    b.expect(0, &["backup", "high", "--priority", "50"]);
    for away in ["target", "second"] {
        fs::rename(b.path(away), b.path("away")).unwrap();
        let to = format!("without-{away}");
        b.expect(0, &["restore", "latest", b.path("high").to_str().unwrap(), "--to", &to]);
        fs::rename(b.path("away"), b.path(away)).unwrap();
        let back = b.path(&to).join(b.path("high").strip_prefix("/").unwrap());
        assert_eq!(tree(&back), tree(&b.path("high")));
    }
    // The other way round the same content need not be stored again.
    fs::create_dir(b.path("lowest")).unwrap();
    fs::write(b.path("lowest/b"), noise(1, 1_000_000)).unwrap();
    let said = b.expect(0, &["--json", "backup", "lowest", "--priority", "-50"]);
    let summary: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(summary["sources"][0]["new_bytes"], 0, "{said}");
}

#[test]
fn a_source_that_asks_for_more_copies_gets_them_of_what_is_stored() {
    let b = two();
    fs::write(b.path("src/a"), noise(2, 1_000_000)).unwrap();
    b.expect(0, &["backup", "src", "--copies", "1"]);
    fs::write(b.path("src/b"), noise(3, 1_000_000)).unwrap();
    b.expect(0, &["backup"]);
    let few = |b: &Bench| {
        let content = sectors(b).into_iter().filter(|s| s["system"] == false);
        content.filter(|s| s["copies"].as_array().unwrap().len() < 2).count()
    };
    assert!(few(&b) > 0);
    b.expect(0, &["source", "set", "src", "--copies", "2"]);
    b.expect(0, &["backup"]);
    assert_eq!(few(&b), 0, "{:?}", sectors(&b));
    restores_without(&b, "target", "one");
    restores_without(&b, "second", "two");
    for to in ["one", "two"] {
        assert_eq!(tree(&b.restored(to)), tree(&b.path("src")));
    }
}

#[test]
fn a_kit_is_written_over_nothing_but_a_kit_of_its_zone() {
    let b = Bench::new();
    let thesis = b.path("thesis.txt");
    fs::write(&thesis, "my thesis").unwrap();
    let over = thesis.to_str().unwrap();
    assert!(b.expect(4, &["init", "--target", "target", "--kit", over]).contains("ZW-1113"));
    b.init();
    std::os::unix::fs::symlink(&thesis, b.path("link")).unwrap();
    for (path, command) in [(over, "show-recovery"), ("link", "show-recovery"), ("/dev/full", "rotate")] {
        assert!(b.expect(4, &["key", command, "--kit", path]).contains("ZW-1113"));
    }
    assert_eq!(fs::read_to_string(&thesis).unwrap(), "my thesis");
    assert!(fs::symlink_metadata(b.path("link")).unwrap().is_symlink());
    b.expect(0, &["key", "show-recovery", "--kit", "kit.html"]);
    b.expect(0, &["key", "show-recovery", "--kit", "kit.html"]);
    assert!(!b.path("kit.html.new").exists() && !b.path("kit.html.old").exists());
}

#[test]
fn who_forgot_the_passphrase_sets_a_new_one_with_the_words() {
    let b = Bench::new();
    b.init();
    let words = b.words();
    let with_words = |args: &[&str]| {
        let mut c = b.command(args);
        c.env("ZONEWARD_PASSPHRASE", &words)
            .env("ZONEWARD_NEW_PASSPHRASE", "another one")
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!(with_words(&["key", "show-recovery"]), Some(12), "a kit needs the passphrase that it is sealed beside");
    assert_eq!(with_words(&["key", "passphrase"]), Some(0));
    b.expect(12, &["key", "show-recovery"]);
    fs::write(b.path("new"), "another one\n").unwrap();
    b.expect(0, &["--passphrase-file", "new", "key", "show-recovery"]);
    assert_ne!(PASSPHRASE, "another one");
}

#[test]
fn a_check_and_a_backup_agree_on_what_came_back() {
    let b = Bench::new();
    b.init();
    fs::write(b.path("src/a"), noise(4, 1_000_000)).unwrap();
    b.expect(0, &["backup", "src"]);
    let largest = stored(&b, "target").remove(0);
    fs::rename(&largest, b.path("taken")).unwrap();
    b.expect(5, &["check"]);
    fs::rename(b.path("taken"), &largest).unwrap();
    b.expect(0, &["check"]);
    b.expect(0, &["backup"]);
    b.expect(0, &["check", "--read-data"]);
}

#[test]
fn system_data_that_was_replaced_matters_no_more() {
    let b = Bench::new();
    b.init();
    fs::write(b.path("src/a"), noise(5, 1_000_000)).unwrap();
    let of_system = |b: &Bench| -> Vec<String> {
        let all = sectors(b);
        let systems = all.iter().filter(|s| s["system"] == true);
        systems
            .flat_map(|s| s["copies"].as_array().unwrap().clone())
            .map(|c| c["id"].as_str().unwrap().into())
            .collect()
    };
    b.expect(0, &["backup", "src"]);
    let first = of_system(&b);
    assert_eq!(first.len(), 1);
    let at = stored(&b, "target").into_iter().find(|p| p.to_str().unwrap().contains(&first[0])).unwrap();
    fs::remove_file(at).unwrap();
    b.expect(5, &["check"]);
    b.expect(0, &["backup"]);
    b.expect(0, &["backup"]);
    b.expect(0, &["check"]);
}

#[test]
fn nothing_is_restored_where_a_target_shows_it() {
    let b = Bench::new();
    b.init();
    fs::write(b.path("src/a"), b"a").unwrap();
    b.expect(0, &["backup", "src"]);
    for to in ["target/out", "target", "zone/out"] {
        assert!(b.expect(4, &["restore", "latest", "--to", to]).contains("ZW-1605"));
    }
    assert!(!b.path("target/out").exists() && !b.path("zone/out").exists());
    assert!(
        b.expect(1, &["restore", "latest", "--to", "out", "--include", "nothing-is-called-so"]).contains("ZW-1602")
    );
}

#[test]
fn a_home_that_was_put_back_does_not_write_over_what_came_after() {
    let b = Bench::new();
    b.init();
    fs::write(b.path("src/a"), b"a").unwrap();
    b.expect(0, &["backup", "src"]);
    let copy = |from: &str, to: &str| {
        let _ = fs::remove_dir_all(b.path(to));
        let o = std::process::Command::new("cp").arg("-a").arg(b.path(from)).arg(b.path(to)).output().unwrap();
        assert!(o.status.success());
    };
    copy("zone", "old");
    fs::write(b.path("src/precious"), b"precious").unwrap();
    b.expect(0, &["backup"]);
    copy("zone", "new");
    copy("old", "zone");
    assert!(b.expect(4, &["backup"]).contains("ZW-1206"));
    assert!(b.expect(4, &["backup", "--dry-run"]).contains("ZW-1206"));
    // The newer home is untouched by that.
    copy("new", "zone");
    b.expect(0, &["check", "--read-data"]);
    b.expect(0, &["backup"]);
    assert!(b.expect(0, &["find", "precious"]).contains("precious"));
    // The owner may go on with the older one; then the newer one is the one that is refused.
    copy("old", "zone");
    b.expect(0, &["backup", "--allow-older-home"]);
    b.expect(0, &["check", "--read-data"]);
    b.expect(0, &["backup"]);
    copy("new", "zone");
    assert!(b.expect(4, &["backup"]).contains("ZW-1206"));
}

#[test]
fn targets_and_the_home_lie_apart() {
    let b = Bench::new();
    assert!(b.expect(4, &["init", "--target", "zone/target"]).contains("ZW-1007"));
    assert!(b.expect(4, &["init", "--target", "t", "--target", "t/inner"]).contains("ZW-1324"));
    assert!(!b.path("t").exists());
    b.init();
    for url in ["target/zones", "."] {
        let said = b.expect(4, &["target", "add", url]);
        assert!(said.contains("ZW-1324") || said.contains("ZW-1007"), "{said}");
    }
    b.expect(0, &["target", "add", "second"]);
}
