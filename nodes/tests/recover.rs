//! A zone that is lost comes back: from one target and the 24 words, on what counts as a new machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod wait;

use std::fs;
use std::path::{Path, PathBuf};

use bench::{Bench, PASSPHRASE, tree};
use serde_json::Value;

/// A lost zone's owner: a workplace, and the words.
struct Owner {
    b: Bench,
    words: String,
}

impl Owner {
    /// A zone with two targets and one checkpoint of two sources.
    fn new() -> Self {
        let b = Bench::new();
        fs::create_dir(b.path("photos")).unwrap();
        fs::write(b.path("src/a"), b"first").unwrap();
        fs::write(b.path("src/empty"), b"").unwrap();
        fs::write(b.path("photos/p"), vec![7u8; 300_000]).unwrap();
        b.expect(0, &["init", "--target", "one", "--target", "two", "--sector-min", "1MiB"]);
        b.expect(0, &["backup", "src", "photos", "--copies", "2"]);
        let words = b.words();
        Self { b, words }
    }

    /// The home burns.
    fn lose(&self) {
        fs::remove_dir_all(self.b.path("zone")).unwrap();
    }

    fn run_with(&self, secret: &str, args: &[&str]) -> (i32, String) {
        let o = self.b.command(args).env("ZONEWARD_PASSPHRASE", secret).output().unwrap();
        let all = format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        assert!(!all.contains(&self.words), "the words are in the output of {args:?}");
        (o.status.code().unwrap(), all)
    }

    fn recover(&self, code: i32, more: &[&str]) -> String {
        let (got, all) = self.run_with(&self.words, &[&["recover"], more].concat());
        assert_eq!(got, code, "{more:?}: {all}");
        all
    }

    fn checkpoints(&self) -> usize {
        let o = self.b.run(&["--json", "checkpoints"]);
        let all: Value = serde_json::from_slice(&o.stdout).unwrap();
        all["checkpoints"].as_array().unwrap().len()
    }

    fn below(&self, to: &str, name: &str) -> PathBuf {
        self.b.path(to).join(self.b.path(name).strip_prefix("/").unwrap())
    }

    fn away(&self, target: &str) {
        fs::rename(self.b.path(target), self.b.path(&format!("{target}-away"))).unwrap();
    }

    fn back(&self, target: &str) {
        fs::rename(self.b.path(&format!("{target}-away")), self.b.path(target)).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

fn pointer(target: &Path) -> PathBuf {
    let zones: Vec<_> = fs::read_dir(target.join("zones")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(zones.len(), 1);
    zones[0].join("pointer.json")
}

#[test]
fn one_target_and_the_words_bring_all_of_it_back() {
    let o = Owner::new();
    fs::write(o.b.path("src/b"), b"second").unwrap();
    o.b.expect(0, &["backup"]);
    copy(&o.b.path("zone"), &o.b.path("burnt"));
    o.lose();
    // Wrong words open nothing and leave nothing.
    let (code, all) = o.run_with(PASSPHRASE, &["recover", "--target", "one", "--to", "out"]);
    assert_eq!(code, 12, "{all}");
    assert!(all.contains("under the 24 words only"), "{all}");
    assert!(!o.b.path("zone/zone.redb").exists());
    let all = o.recover(0, &["--target", "one", "--to", "out", "--verify"]);
    assert!(all.contains("newest checkpoint 2"), "{all}");
    for name in ["src", "photos"] {
        assert_eq!(tree(&o.below("out", name)), tree(&o.b.path(name)));
    }
    // Until its owner says that the files are back, nothing is backed up over them.
    for refused in [&["backup"][..], &["up"]] {
        assert!(o.b.expect(4, refused).contains("ZW-1612"));
    }
    assert!(o.b.expect(0, &["ls", "latest"]).contains("src/b"));
    o.b.expect(0, &["recover", "--finish"]);
    assert!(o.b.expect(4, &["recover", "--finish"]).contains("ZW-1613"));
    // It goes on as the same zone: numbers, sources, what is stored.
    let said = o.b.run(&["--json", "backup"]);
    let said = String::from_utf8(said.stdout).unwrap();
    let summary: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["seq"], &summary["complete"]), (&3.into(), &true.into()), "{summary}");
    for s in summary["sources"].as_array().unwrap() {
        // Files that changed just before a backup are read again by the next one; what they hold is known.
        assert_eq!((&s["new_bytes"], &s["new"], &s["gone"]), (&0.into(), &0.into(), &0.into()), "{s}");
    }
    o.b.expect(0, &["check", "--read-data"]);
    assert_eq!(o.checkpoints(), 3);
    // What is left of the old machine must not write as if nothing had happened.
    copy(&o.b.path("zone"), &o.b.path("new"));
    copy(&o.b.path("burnt"), &o.b.path("zone"));
    assert!(o.b.expect(4, &["backup"]).contains("ZW-1206"));
    // The words still open it, and set a passphrase for this home.
    copy(&o.b.path("new"), &o.b.path("zone"));
    let mut c = o.b.command(&["key", "passphrase"]);
    let set = c.env("ZONEWARD_PASSPHRASE", &o.words).env("ZONEWARD_NEW_PASSPHRASE", "another one").output().unwrap();
    assert_eq!(set.status.code(), Some(0), "{}", String::from_utf8_lossy(&set.stderr));
}

#[test]
fn a_head_that_was_written_down_tells_an_older_state_and_another_history() {
    let o = Owner::new();
    let head = || {
        let said: Value = serde_json::from_slice(&o.b.run(&["--json", "status"]).stdout).unwrap();
        said["head"].as_str().unwrap().to_owned()
    };
    let first = head();
    assert!(o.b.expect(0, &["status"]).contains(&first));
    for target in ["one", "two"] {
        copy(&o.b.path(target), &o.b.path(&format!("{target}-then")));
    }
    fs::write(o.b.path("src/b"), b"second").unwrap();
    o.b.expect(0, &["backup"]);
    let second = head();
    assert_ne!(first, second);
    o.lose();
    // Both targets are set back.
    for target in ["one", "two"] {
        copy(&o.b.path(target), &o.b.path(&format!("{target}-now")));
        copy(&o.b.path(&format!("{target}-then")), &o.b.path(target));
    }
    let recover = |code: i32, head: &str| o.recover(code, &["--target", "one", "--state-only", "--head", head]);
    let said = recover(4, &second);
    assert!(said.contains("ZW-1620") && said.contains("newer one"), "{said}");
    assert!(!o.b.path("zone/zone.redb").exists());
    let (n, words) = first.split_once('-').unwrap();
    let last = words.rsplit('-').next().unwrap();
    let other = format!("{n}-{}-{}", words.rsplit_once('-').unwrap().0, if last == "zoo" { "zone" } else { "zoo" });
    assert!(recover(4, &other).contains("ZW-1617"));
    assert!(recover(2, "12").contains("ZW-1619"));
    // What is known, and what is newer than it, is brought back.
    recover(0, &first.to_uppercase().replace('-', " "));
    o.lose();
    for target in ["one", "two"] {
        copy(&o.b.path(&format!("{target}-now")), &o.b.path(target));
    }
    recover(0, &first);
    o.lose();
    recover(0, &second);
    assert_eq!(o.checkpoints(), 2);
}

#[test]
fn files_come_back_to_their_places_a_part_first() {
    let o = Owner::new();
    let (src, photos) = (tree(&o.b.path("src")), tree(&o.b.path("photos")));
    o.lose();
    fs::remove_dir_all(o.b.path("src")).unwrap();
    fs::remove_dir_all(o.b.path("photos")).unwrap();
    let all = o.recover(0, &["--target", "two", "--state-only"]);
    assert!(all.contains("2 sources"), "{all}");
    assert!(o.recover(2, &[]).contains("ZW-1618"));
    let only = o.b.path("src/a");
    let all = o.recover(0, &["--in-place", "--only", only.to_str().unwrap()]);
    assert!(all.contains("a part is back"), "{all}");
    assert_eq!(fs::read(&only).unwrap(), b"first");
    assert!(!o.b.path("photos").exists() && o.b.expect(4, &["backup"]).contains("ZW-1612"));
    let all = o.recover(1, &["--in-place", "--only", "/nowhere"]);
    assert!(all.contains("ZW-1602") && all.contains("is here and stays"), "{all}");
    let all = o.recover(0, &["--in-place"]);
    assert!(all.contains("works as before"), "{all}");
    assert_eq!((tree(&o.b.path("src")), tree(&o.b.path("photos"))), (src, photos));
    o.b.expect(0, &["backup"]);
    assert!(o.recover(2, &["--in-place"]).contains("ZW-1611"));
    // A home that has a zone is never written over.
    assert_ne!(o.run_with(&o.words, &["recover", "--target", "one", "--state-only"]).0, 0);
    assert_eq!(o.checkpoints(), 2);
}

#[test]
fn the_newest_state_of_all_targets_counts_and_older_ones_are_named() {
    let o = Owner::new();
    o.away("two");
    fs::write(o.b.path("src/b"), b"second").unwrap();
    o.b.run(&["backup"]);
    o.back("two");
    o.lose();
    let all = o.recover(0, &["--target", "two", "--state-only"]);
    assert!(all.contains("newest checkpoint 2") && all.contains("shows an older state"), "{all}");
    // Of those that cannot be asked it is said that they may know more.
    o.lose();
    o.away("one");
    let all = o.recover(0, &["--target", "two", "--state-only"]);
    assert!(all.contains("newest checkpoint 1") && all.contains("cannot be asked"), "{all}");
    o.back("one");
    // Or the owner wants what this one shows.
    o.lose();
    let all = o.recover(0, &["--target", "two", "--state-only", "--only-this-target"]);
    assert!(all.contains("newest checkpoint 1") && !all.contains("older state"), "{all}");
}

#[test]
fn heads_that_nobody_certified_are_not_believed() {
    let o = Owner::new();
    o.lose();
    o.away("two");
    let path = pointer(&o.b.path("one"));
    let good = fs::read(&path).unwrap();
    // Gone, changed by one digit, or nonsense: every sector is looked at instead, and that is said.
    let mut forged: Value = serde_json::from_slice(&good).unwrap();
    let payload = forged["payload"].as_str().unwrap().replacen("\"n\":1", "\"n\":9", 1);
    assert_ne!(forged["payload"], payload.as_str());
    forged["payload"] = payload.into();
    for bad in [None, Some(forged.to_string().into_bytes()), Some(b"nonsense".to_vec())] {
        match bad {
            None => fs::remove_file(&path).unwrap(),
            Some(bytes) => fs::write(&path, bytes).unwrap(),
        }
        let all = o.recover(0, &["--target", "one", "--to", "out"]);
        assert!(all.contains("shows no head that can be believed"), "{all}");
        // Who goes on is told again.
        let all = o.recover(0, &["--to", "out"]);
        assert!(all.contains("nothing shows that all of this is of the newest state"), "{all}");
        assert_eq!(tree(&o.below("out", "src")), tree(&o.b.path("src")));
        o.b.expect(0, &["recover", "--finish"]);
        let all = o.b.expect(7, &["check"]);
        assert!(!all.contains("DAMAGED"), "{all}");
        o.lose();
        fs::remove_dir_all(o.b.path("out")).unwrap();
    }
    // What stands in its place cannot even be read.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let all = o.recover(0, &["--target", "one", "--to", "out"]);
    assert!(all.contains("does not let its head be read"), "{all}");
    assert_eq!(tree(&o.below("out", "src")), tree(&o.b.path("src")));
    // A target that is not there is still called that.
    o.lose();
    o.away("one");
    let all = o.recover(7, &["--target", "one", "--to", "out"]);
    assert!(!all.contains("ZW-1616"), "{all}");
}

#[test]
fn a_target_that_was_set_back_is_named_before_it_gets_the_newest_head() {
    let o = Owner::new();
    let old = fs::read(pointer(&o.b.path("two"))).unwrap();
    fs::write(o.b.path("src/a"), b"second").unwrap();
    o.b.expect(0, &["backup"]);
    fs::write(pointer(&o.b.path("two")), old).unwrap();
    fs::write(o.b.path("src/a"), b"third").unwrap();
    let said = o.b.expect(3, &["backup"]);
    assert!(said.contains("target-2 showed head 1, older than the head 2"), "{said}");
    assert!(o.b.expect(0, &["target", "ls"]).contains("it showed head 1"));
    assert!(o.b.expect(0, &["status"]).contains("it was set back, or lost it"));
    let shown: Value = serde_json::from_slice(&fs::read(pointer(&o.b.path("two"))).unwrap()).unwrap();
    assert!(shown["payload"].as_str().unwrap().contains("\"n\":3"), "{shown}");
    o.b.expect(0, &["backup"]);
    o.b.expect(0, &["check", "--read-data"]);
}

#[test]
fn of_two_histories_the_owner_chooses() {
    let o = Owner::new();
    copy(&o.b.path("zone"), &o.b.path("twin"));
    for (target, home, text) in [("two", "zone", "in one"), ("one", "twin", "in two")] {
        o.away(target);
        fs::write(o.b.path("src/which"), text).unwrap();
        let mut c = o.b.command(&["backup"]);
        c.env("ZONEWARD_HOME", o.b.path(home)).output().unwrap();
        o.back(target);
    }
    o.lose();
    let all = o.recover(4, &["--target", "one", "--state-only"]);
    assert!(all.contains("ZW-1617"), "{all}");
    assert!(!o.b.path("zone/zone.redb").exists());
    for (target, text) in [("one", "in one"), ("two", "in two")] {
        o.recover(0, &["--target", target, "--only-this-target", "--to", target.to_uppercase().as_str()]);
        assert_eq!(fs::read(o.below(&target.to_uppercase(), "src").join("which")).unwrap(), text.as_bytes());
        o.lose();
    }
}

#[test]
fn system_data_that_is_damaged_here_is_taken_from_elsewhere_or_an_older_one_is_and_that_is_said() {
    let o = Owner::new();
    fs::write(o.b.path("src/b"), b"second").unwrap();
    o.b.expect(0, &["backup"]);
    let all: Value = serde_json::from_slice(&o.b.run(&["--json", "sector", "ls"]).stdout).unwrap();
    let newest = all["sectors"].as_array().unwrap().iter().rfind(|s| s["system"] == true).unwrap().clone();
    let mut copies = newest["copies"].as_array().unwrap().iter();
    let copy = copies.find(|c| c["target"] == "first").unwrap()["id"].as_str().unwrap().to_owned();
    let mut shards =
        fs::read_dir(pointer(&o.b.path("one")).with_file_name("sectors")).unwrap().map(|e| e.unwrap().path());
    let file = shards.find_map(|s| Some(s.join(format!("{copy}.zws"))).filter(|p| p.exists())).unwrap();
    fs::write(&file, b"cut").unwrap();
    o.lose();
    let all = o.recover(0, &["--target", "one", "--state-only"]);
    assert!(all.contains("newest checkpoint 2") && all.contains("cannot be read there"), "{all}");
    o.lose();
    o.away("two");
    let all = o.recover(3, &["--target", "one", "--to", "out"]);
    assert!(all.contains("newest checkpoint 1") && all.contains("cannot be read there"), "{all}");
    assert!(all.contains("of an older state") && !all.contains("all files are back"), "{all}");
    // So it is when it is gone on with.
    let all = o.recover(3, &["--to", "again"]);
    assert!(all.contains("of an older state") && !all.contains("all files are back"), "{all}");
    o.b.expect(0, &["recover", "--finish"]);
    assert!(o.b.expect(4, &["backup"]).contains("ZW-1206"));
    // Two copies are wanted and one target is there: done, but not complete.
    o.b.expect(3, &["backup", "--allow-older-home"]);
}

#[test]
fn a_recovery_that_was_cut_before_its_state_counted_stops_nothing() {
    let o = Owner::new();
    o.lose();
    let cut = || {
        fs::create_dir_all(o.b.path("zone")).unwrap();
        let note = r#"{"format":1,"checkpoint":1,"begun_ms":1}"#;
        fs::write(o.b.path("zone/recovery.json"), note).unwrap();
    };
    cut();
    assert!(o.recover(2, &["--in-place"]).contains("ZW-1611"));
    o.recover(0, &["--target", "one", "--state-only"]);
    assert!(o.b.expect(4, &["backup"]).contains("ZW-1612"));
    // Nor does it make a new zone read-only.
    o.lose();
    cut();
    o.b.expect(0, &["init", "--target", "third", "--sector-min", "1MiB"]);
    o.b.expect(0, &["backup", "src"]);
}
