//! Rolling back with the real program: to a checkpoint and back without a difference, cut, undone, released.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod fleet;
mod wait;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bench::{Bench, noise};
use serde_json::Value;

const FOLDER: &str = ".zoneward-rollback-1";

type Tree = Vec<(PathBuf, u32, u64, i64, i64, Vec<u8>)>;

/// A tree without what a rollback keeps in it.
fn tree(dir: &Path) -> Tree {
    let kept = |p: &Path| p.components().any(|c| c.as_os_str().to_string_lossy().starts_with(".zoneward-rollback-"));
    bench::tree(dir).into_iter().filter(|e| !kept(&e.0)).collect()
}

fn json(b: &Bench, args: &[&str]) -> Value {
    let o = b.run(&[&["--json"][..], args].concat());
    let text = String::from_utf8_lossy(&o.stdout);
    let last = text.lines().last().unwrap_or_else(|| panic!("{args:?}: {}", String::from_utf8_lossy(&o.stderr)));
    serde_json::from_str(last).unwrap()
}

fn phase(b: &Bench) -> Option<String> {
    json(b, &["rollback"])["phase"].as_str().map(str::to_owned)
}

/// A source with links, a hole, and times that a rollback has to bring back; its first state.
fn first(b: &Bench) -> Tree {
    let src = b.path("src");
    bench::fill(&src);
    let sparse = fs::File::create(src.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 20 << 20).unwrap();
    fs::create_dir(src.join("closed-dir")).unwrap();
    fs::write(src.join("closed-dir/in"), "in").unwrap();
    fs::set_permissions(src.join("closed-dir"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(&src, fs::Permissions::from_mode(0o751)).unwrap();
    tree(&src)
}

/// What went wrong with it since.
fn second(b: &Bench) -> Tree {
    let src = b.path("src");
    fs::remove_dir_all(src.join("a/b")).unwrap();
    fs::write(src.join("a/one"), "locked by a stranger").unwrap();
    fs::remove_file(src.join("link")).unwrap();
    symlink("elsewhere", src.join("link")).unwrap();
    fs::create_dir_all(src.join("new/deep")).unwrap();
    fs::write(src.join("new/deep/file"), noise(9, 100_000)).unwrap();
    fs::write(src.join("READ ME"), "pay").unwrap();
    fs::remove_file(src.join("sparse")).unwrap();
    fs::set_permissions(&src, fs::Permissions::from_mode(0o700)).unwrap();
    tree(&src)
}

#[test]
fn to_a_checkpoint_and_back_without_a_difference() {
    let b = Bench::new();
    let src = b.path("src");
    let was = first(&b);
    b.init();
    b.expect(0, &["backup", "src"]);
    let now = second(&b);
    assert!(was != now);

    // Only shown at first.
    let told = b.expect(0, &["rollback", "1"]);
    assert!(told.contains("goes back to") && told.contains("--apply does it"), "{told}");
    let told = json(&b, &["rollback", "1"]);
    assert_eq!((told["applied"].as_bool(), told["room"].as_bool()), (Some(false), Some(true)), "{told}");
    assert_eq!(told["sources"][0]["files"], 307);
    assert!(tree(&src) == now && !src.join(FOLDER).exists());
    assert_eq!(phase(&b), None);

    let told = b.expect(0, &["rollback", "1", "--apply"]);
    assert!(told.contains("1 source put back") && told.contains("backups go on"), "{told}");
    assert!(tree(&src) == was, "what the checkpoint holds");
    let ino = |p: &str| fs::metadata(src.join(p)).unwrap().ino();
    assert_eq!(ino("a/one"), ino("hard"));
    assert!(fs::metadata(src.join("sparse")).unwrap().blocks() < 1000, "a hole stays a hole");
    assert_eq!(fs::metadata(src.join(FOLDER)).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read(src.join(FOLDER).join("old/a/one")).unwrap(), b"locked by a stranger");
    assert_eq!(phase(&b).as_deref(), Some("swapped"));
    let status = b.expect(0, &["status"]);
    assert!(status.contains("rollback to checkpoint 1 is done; what was replaced is kept"), "{status}");

    // What is kept is not backed up, and is not mixed with what another rollback would keep.
    b.expect(0, &["backup"]);
    assert!(!b.expect(0, &["ls", "latest"]).contains("zoneward-rollback"));
    assert!(b.expect(4, &["rollback", "2", "--apply"]).contains("ZW-1651"));
    assert!(b.expect(1, &["rollback", "--apply"]).contains("ZW-1652"));

    b.expect(0, &["rollback", "--undo"]);
    assert!(tree(&src) == now, "what was there before");
    assert_eq!(phase(&b).as_deref(), Some("undone"));
    assert!(b.expect(1, &["rollback", "--undo"]).contains("ZW-1652"));
    let told = b.expect(0, &["rollback", "--release"]);
    assert!(told.contains("would be deleted") && src.join(FOLDER).exists(), "{told}");
    b.expect(0, &["rollback", "--release", "--apply"]);
    assert!(bench::tree(&src) == now, "not even a trace");
    assert!(b.expect(1, &["rollback", "--release", "--apply"]).contains("ZW-1652"));

    // And once more, for good.
    b.expect(0, &["rollback", "1", "--apply"]);
    b.expect(0, &["rollback", "--release", "--apply"]);
    assert!(bench::tree(&src) == was);
    assert_eq!(phase(&b), None);
    let status = b.expect(0, &["status"]);
    assert!(!status.contains("rollback"), "{status}");
}

#[test]
fn what_cannot_be_had_whole_is_refused_before_anything_is_touched() {
    let b = Bench::new();
    let src = b.path("src");
    first(&b);
    b.init();
    b.expect(0, &["backup", "src"]);
    let now = second(&b);
    b.damage_largest_sector();
    let told = b.expect(5, &["rollback", "1", "--apply"]);
    assert!(told.contains("ZW-1655") && told.contains("a/b/large") && told.contains("nothing was changed"), "{told}");
    assert!(bench::tree(&src) == now, "not even a trace");
    assert_eq!(phase(&b), None);
    assert_eq!(b.status()["maintenance"], serde_json::json!([]));
    b.expect(0, &["backup"]);
    assert!(b.expect(1, &["rollback", "7"]).contains("ZW-1601"));
    // A journal that cannot be read is not guessed at.
    fs::write(b.path("zone/rollback.json"), "{\"format\": 2}").unwrap();
    for args in [&["rollback"][..], &["rollback", "1", "--apply"], &["rollback", "--undo"], &["backup"]] {
        assert!(b.expect(5, args).contains("ZW-1659"), "{args:?}");
    }
    assert!(b.expect(0, &["status"]).contains("the journal of a rollback"));
}

#[test]
fn while_it_is_under_way_nothing_is_backed_up() {
    let b = Bench::new();
    let src = b.path("src");
    let was = first(&b);
    b.init();
    b.expect(0, &["backup", "src"]);
    let now = second(&b);
    b.expect(0, &["rollback", "1", "--apply"]);
    // A disk that is not mounted: the undoing begins and cannot go on.
    fs::rename(src.join(FOLDER), b.path("away")).unwrap();
    let told = b.expect(1, &["rollback", "--undo"]);
    assert!(told.contains("ZW-1657") && told.contains("is the right disk mounted"), "{told}");
    assert!(tree(&src)[1..] == was[1..], "nothing was moved");
    for args in [&["backup"][..], &["backup", "--synthetic"]] {
        let said = b.expect(4, args);
        assert!(said.contains("ZW-1656") && said.contains("a rollback to checkpoint 1"), "{said}");
    }
    let status = b.expect(0, &["status"]);
    assert!(status.contains("is under way, nothing is backed up"), "{status}");
    assert_eq!(b.status()["maintenance"][0]["reason"], "a rollback to checkpoint 1");
    assert_eq!(json(&b, &["checkpoints"])["checkpoints"].as_array().unwrap().len(), 1);
    assert!(b.expect(4, &["rollback", "1", "--apply"]).contains("ZW-1651"));
    assert!(b.expect(4, &["rollback", "--release", "--apply"]).contains("ZW-1651"));
    fs::rename(b.path("away"), src.join(FOLDER)).unwrap();
    b.expect(0, &["rollback", "--undo"]);
    assert!(tree(&src) == now);
    b.expect(0, &["backup"]);
}

#[test]
fn killed_at_any_moment_it_is_gone_on_with_or_undone() {
    let b = Bench::new();
    let src = b.path("src");
    let was = first(&b);
    b.init();
    b.expect(0, &["backup", "src"]);
    let now = second(&b);
    let mut under_way = 0;
    for i in 0..6u64 {
        let mut child =
            b.command(&["rollback", "1", "--apply"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // From the moment on at which something is brought: the first kill comes at once, the others ever later.
        while !src.join(FOLDER).exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(i * i * 4));
        child.kill().unwrap();
        child.wait().unwrap();
        let cut = phase(&b);
        let half = matches!(cut.as_deref(), Some("staging" | "swapping"));
        if half {
            under_way += 1;
            let said = b.run(&["backup"]);
            let text = String::from_utf8_lossy(&said.stderr).into_owned();
            // Between the journal and the word to the zone nothing was staged yet.
            assert!(text.contains("ZW-1656") || !src.join(FOLDER).exists(), "{i}: {text}");
        }
        if cut.as_deref() == Some("staging") {
            assert!(tree(&src)[1..] == now[1..], "{i}: nothing is touched before all is there");
        }
        match (cut.as_deref(), i % 2) {
            (None, _) => {
                assert!(bench::tree(&src) == now, "{i}: it had not begun");
                continue;
            }
            (Some("swapped"), _) => assert!(tree(&src) == was),
            (_, 0) => {
                b.expect(0, &["rollback", "--apply"]);
                assert!(tree(&src) == was, "{i}: gone on with");
                assert_eq!(phase(&b).as_deref(), Some("swapped"));
            }
            _ => {}
        }
        b.expect(0, &["rollback", "--undo"]);
        assert!(tree(&src) == now, "{i}: undone");
        if phase(&b).is_some() {
            b.expect(0, &["rollback", "--release", "--apply"]);
        }
        assert!(bench::tree(&src) == now, "{i}: not even a trace");
        assert_eq!(b.status()["maintenance"], serde_json::json!([]));
    }
    assert!(under_way > 0, "no kill met it under way");
    b.expect(0, &["rollback", "1", "--apply"]);
    assert!(tree(&src) == was);
}

#[test]
fn files_and_folders_that_are_gone_come_back_too() {
    let b = Bench::new();
    bench::fill(&b.path("src"));
    fs::create_dir(b.path("etc")).unwrap();
    fs::write(b.path("etc/one"), "as it was").unwrap();
    fs::write(b.path("etc/neighbour"), "nobody's").unwrap();
    fs::set_permissions(b.path("etc/one"), fs::Permissions::from_mode(0o640)).unwrap();
    let was = (tree(&b.path("src")), tree(&b.path("etc"))[1..].to_vec());
    b.init();
    b.expect(0, &["backup", "src", "etc/one"]);
    // A source of which the checkpoint knows nothing stays.
    fs::create_dir(b.path("later")).unwrap();
    fs::write(b.path("later/file"), "later").unwrap();
    b.expect(0, &["source", "add", "later"]);
    fs::remove_dir_all(b.path("src")).unwrap();
    fs::remove_file(b.path("etc/one")).unwrap();
    fs::create_dir(b.path("etc/one")).unwrap();
    fs::write(b.path("etc/one/odd"), "a folder where a file was").unwrap();
    let told = b.expect(0, &["rollback", "1", "--apply"]);
    assert!(told.contains("later stays as it is: checkpoint 1 does not hold it"), "{told}");
    assert!((tree(&b.path("src")), tree(&b.path("etc"))[1..].to_vec()) == was);
    assert_eq!(fs::read(b.path("later/file")).unwrap(), b"later");
    b.expect(0, &["rollback", "--undo"]);
    assert!(!b.path("src").exists());
    assert_eq!(fs::read(b.path("etc/one/odd")).unwrap(), b"a folder where a file was");
    b.expect(0, &["rollback", "--release", "--apply"]);
    assert_eq!(fs::read_dir(b.path("etc")).unwrap().count(), 2, "not even a trace");
}

#[test]
fn what_is_not_backed_up_stays_and_the_zones_own_files_are_not_moved() {
    let b = Bench::new();
    bench::fill(&b.path("src/data"));
    fs::create_dir_all(b.path("src/cache")).unwrap();
    fs::create_dir_all(b.path("deep/er")).unwrap();
    fs::write(b.path("deep/er/file"), "1").unwrap();
    let own = |args: &[&str]| {
        let o = b.command(args).env("ZONEWARD_HOME", b.path("deep/er/zone")).output().unwrap();
        (o.status.code(), String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned())
    };
    // The home lies at the top of one source, and deeper inside of another.
    let target = b.path("target");
    assert_eq!(own(&["init", "--target", target.to_str().unwrap(), "--sector-min", "1MiB"]).0, Some(0));
    fs::rename(b.path("deep/er/zone"), b.path("src/zone")).unwrap();
    let run = |args: &[&str]| {
        let o = b.command(args).env("ZONEWARD_HOME", b.path("src/zone")).output().unwrap();
        (o.status.code(), String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned())
    };
    let (code, said) = run(&["backup", "src", "--exclude", "cache", "--exclude", "zone"]);
    assert_eq!(code, Some(0), "{said}");
    let was = tree(&b.path("src/data"));
    fs::write(b.path("src/cache/made"), "since").unwrap();
    fs::remove_dir_all(b.path("src/data/a")).unwrap();
    // A source inside of another goes with it.
    fs::create_dir(b.path("src/data/a")).unwrap();
    fs::write(b.path("src/data/a/x"), "x").unwrap();
    let (code, said) = run(&["backup", "src/data/a"]);
    assert_eq!(code, Some(0), "{said}");
    let (_, said) = run(&["rollback", "2"]);
    assert!(said.contains("src/data/a stays as it is: it lies in") && said.contains("goes back as a whole"), "{said}");
    assert!(said.contains("not backed up, so these stay as they are: cache, zone"), "{said}");
    let (code, said) = run(&["rollback", "1", "--apply"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(tree(&b.path("src/data")) == was);
    assert_eq!(fs::read(b.path("src/cache/made")).unwrap(), b"since");
    assert!(run(&["rollback", "--release", "--apply"]).0 == Some(0));

    // What lies inside of it and is left out of it would go with what is around it.
    let (code, said) = run(&["source", "set", "src", "--exclude", "data/a"]);
    assert_eq!(code, Some(0), "{said}");
    let (_, said) = run(&["rollback", "2"]);
    assert!(said.contains("src/data/a lies in it and is left out of it"), "{said}");

    fs::rename(b.path("src/zone"), b.path("deep/er/zone")).unwrap();
    let (code, said) = own(&["backup", "deep", "--exclude", "zone"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = own(&["rollback", "latest"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the zone's own files lie in it, at er/zone"), "{said}");
}

#[test]
fn each_node_puts_its_own_sources_back_and_all_wait() {
    let mut zone = fleet::Zone::new();
    zone.join(1, "second");
    let (shared, mine, theirs) = (zone.path("shared"), zone.path("mine"), zone.path("theirs"));
    for (dir, round) in [(&shared, 1), (&mine, 2), (&theirs, 3)] {
        fleet::fill(dir, round);
    }
    let p = |d: &PathBuf| d.to_str().unwrap().to_owned();
    zone.ok(0, &["source", "add", &p(&shared), "--shared", "--copies", "1"]);
    zone.ok(0, &["source", "add", &p(&mine), "--copies", "1"]);
    zone.ok(1, &["source", "add", &p(&theirs), "--copies", "1"]);
    let made = zone.json(0, &["backup"]);
    assert_eq!(made["complete"].as_bool(), Some(true), "{made}");
    let was: Vec<Tree> = [&shared, &mine, &theirs].map(|d| tree(d)).into();
    for d in [&shared, &mine, &theirs] {
        fs::write(d.join("locked"), "pay").unwrap();
        fs::remove_file(fs::read_dir(d).unwrap().map(|e| e.unwrap().path()).min().unwrap()).unwrap();
    }
    let told = zone.ok(0, &["rollback", "latest"]);
    assert!(told.contains("theirs stays as it is: on second run zoneward rollback 1 there"), "{told}");
    zone.ok(0, &["rollback", "latest", "--apply"]);
    assert!(tree(&shared) == was[0] && tree(&mine) == was[1] && tree(&theirs) != was[2]);
    // The other node does its own, and leaves what is shared to the one that did it.
    let o = zone.run(1, &["rollback", "1", "--apply"]);
    let said = fleet::text(&o);
    assert!(o.status.code() == Some(3) && said.contains("is of another rollback"), "{said}");
    assert!(tree(&theirs) == was[2]);
    // While one of them is under way, nobody backs anything up.
    fs::rename(mine.join(FOLDER), zone.path("away")).unwrap();
    let o = zone.run(0, &["rollback", "--undo"]);
    assert!(fleet::text(&o).contains("ZW-1657"), "{}", fleet::text(&o));
    let refused = fleet::until("the word of it", || {
        let o = zone.run(1, &["status"]);
        fleet::text(&o).contains("nothing is backed up since").then(|| zone.run(1, &["backup"]))
    });
    assert!(refused.status.code() == Some(4) && fleet::text(&refused).contains("ZW-1656"), "{}", fleet::text(&refused));
    fs::rename(zone.path("away"), mine.join(FOLDER)).unwrap();
    zone.ok(0, &["rollback", "--undo"]);
    assert!(mine.join("locked").exists() && shared.join("locked").exists());
    fleet::until("backups again", || zone.run(1, &["backup"]).status.success().then_some(()));
}
