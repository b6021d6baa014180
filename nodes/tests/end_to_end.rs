//! The program as a person uses it: a real binary, real directories, exit codes and what is left on disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

mod bench;
mod wait;

use bench::{Bench, fill, noise, tree};

#[test]
fn what_was_backed_up_comes_back_at_both_checkpoints() {
    let b = Bench::new();
    let src = b.path("src");
    fill(&src);
    b.init();
    b.expect(0, &["backup", "src"]);
    let first = tree(&src);
    let mut large = fs::read(src.join("a/b/large")).unwrap();
    large.splice(4_000_000..4_000_000, *b"inserted");
    fs::write(src.join("a/b/large"), large).unwrap();
    fs::remove_file(src.join("a/small-7")).unwrap();
    fs::rename(src.join("a/small-8"), src.join("moved")).unwrap();
    let said = b.expect(0, &["--json", "backup"]);
    let summary: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let new_bytes = summary["sources"][0]["new_bytes"].as_u64().unwrap();
    assert!(new_bytes > 0 && new_bytes < 5_000_000, "only new chunks are stored: {new_bytes}");
    b.expect(0, &["check", "--read-data"]);
    b.expect(0, &["restore", "1", "--to", "one", "--verify"]);
    b.expect(0, &["restore", "latest", "--to", "two"]);
    assert_eq!(tree(&b.restored("one")), first);
    assert_eq!(tree(&b.restored("two")), tree(&src));
    let one = fs::metadata(b.restored("two").join("a/one")).unwrap();
    assert_eq!(one.ino(), fs::metadata(b.restored("two").join("hard")).unwrap().ino());
    // Run again over what is there: nothing needs to be written.
    let again = b.expect(0, &["--json", "restore", "latest", "--to", "two"]);
    let again: serde_json::Value = serde_json::from_str(again.lines().last().unwrap()).unwrap();
    assert_eq!(again["bytes"], 0, "{again}");
    assert_eq!(tree(&b.restored("two")), tree(&src));
}

#[test]
fn a_changed_byte_is_named_and_never_restored() {
    let b = Bench::new();
    fill(&b.path("src"));
    b.init();
    b.expect(0, &["backup", "src"]);
    b.damage_largest_sector();
    b.expect(0, &["check"]);
    let said = b.expect(5, &["check", "--read-data"]);
    assert!(said.contains("DAMAGED") && said.contains("holds") && said.contains("a/b/large"), "{said}");
    let status = b.status();
    assert_eq!(
        (&status["reliability"]["number"], &status["availability"]["number"]),
        (&5.into(), &6.into()),
        "{status}"
    );
    assert_eq!(status["reliability"]["commands"][0], "zoneward backup", "{status}");
    let said = b.expect(5, &["restore", "latest", "--to", "out"]);
    assert!(said.contains("NOT restored"), "{said}");
    for (path, .., content) in tree(&b.restored("out")).into_iter().filter(|e| !e.5.is_empty()) {
        let original = b.path("src").join(&path);
        let original = match fs::symlink_metadata(&original).unwrap().is_symlink() {
            true => fs::read_link(original).unwrap().into_os_string().into_encoded_bytes(),
            false => fs::read(original).unwrap(),
        };
        assert_eq!(content, original, "{}", path.display());
    }
    // The way out that `status` names: what is there today is whole again.
    b.expect(0, &["backup", "--full"]);
    let status = b.status();
    assert_eq!(status["reliability"]["number"], 3, "{status}");
    let also = status["reliability"]["also"].as_array().unwrap();
    assert!(also.iter().any(|f| f["reason"].as_str().unwrap().contains("older checkpoints")), "{status}");
    b.expect(0, &["restore", "latest", "--to", "whole"]);
    assert_eq!(tree(&b.path("src")), tree(&b.restored("whole")));
}

#[test]
fn safety_rules_refuse_with_their_own_codes() {
    let b = Bench::new();
    b.expect(10, &["status"]);
    b.init();
    b.expect(4, &["init", "--target", "other"]);
    b.expect(2, &["backup"]);
    fs::write(b.path("src/file"), b"content").unwrap();
    b.expect(0, &["backup", "src"]);
    fs::remove_file(b.path("src/file")).unwrap();
    b.expect(4, &["backup"]);
    b.expect(0, &["backup", "--allow-empty"]);
    b.expect(1, &["restore", "99", "--to", "out"]);
    assert!(!b.path("out").exists());
    let o = b.command(&["key", "passphrase"]).env("ZONEWARD_PASSPHRASE", "wrong").output().unwrap();
    assert_eq!(o.status.code(), Some(12));
    for name in ["secrets/zone-secret", "secrets/node-identity", "owner-key.json", "zone.redb", "recovery-kit.html"] {
        let mode = fs::metadata(b.path("zone").join(name)).unwrap().mode();
        assert_eq!(mode & 0o077, 0, "{name} can be read by others");
    }
}

#[test]
fn the_passphrase_changes_and_keys_rotate_without_touching_sectors() {
    let b = Bench::new();
    fill(&b.path("src"));
    b.init();
    b.expect(0, &["backup", "src"]);
    let sectors = tree(&b.path("target")).into_iter().filter(|e| e.0.to_string_lossy().ends_with(".zws")).count();
    let o = b.command(&["key", "passphrase"]).env("ZONEWARD_NEW_PASSPHRASE", "another one").output().unwrap();
    assert!(o.status.success());
    b.expect(12, &["key", "rotate"]);
    let o = b.command(&["key", "rotate"]).env("ZONEWARD_PASSPHRASE", "another one").output().unwrap();
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    assert_eq!(
        tree(&b.path("target")).into_iter().filter(|e| e.0.to_string_lossy().ends_with(".zws")).count(),
        sectors
    );
    fs::write(b.path("src/new"), b"under the new key").unwrap();
    b.expect(0, &["backup"]);
    b.expect(0, &["check", "--read-data"]);
    b.expect(0, &["restore", "1", "--to", "old"]);
    b.expect(0, &["restore", "latest", "--to", "new"]);
    assert_eq!(tree(&b.restored("new")), tree(&b.path("src")));
}

#[test]
fn copies_lie_on_different_targets_and_stand_in_for_each_other() {
    let b = Bench::new();
    fill(&b.path("src"));
    b.init();
    b.expect(0, &["target", "add", "second"]);
    b.expect(0, &["backup", "--copies", "2", "src"]);
    b.expect(0, &["check", "--read-data"]);
    fs::remove_dir_all(b.path("target")).unwrap();
    b.expect(7, &["check", "--read-data"]);
    b.expect(0, &["restore", "latest", "--to", "out"]);
    assert_eq!(tree(&b.restored("out")), tree(&b.path("src")));
    // The lost target is named, and the rest goes on.
    fs::write(b.path("src/more"), b"more").unwrap();
    b.expect(3, &["backup"]);
    b.expect(0, &["restore", "latest", "--to", "out2"]);
    assert_eq!(tree(&b.restored("out2")), tree(&b.path("src")));
}

#[test]
fn a_second_process_is_refused_and_told_who_works() {
    let b = Bench::new();
    b.init();
    let lock = fs::OpenOptions::new().read(true).write(true).open(b.path("zone/home.lock")).unwrap();
    lock.lock().unwrap();
    let said = b.expect(11, &["status"]);
    assert!(said.contains("ZW-1003"), "{said}");
    drop(lock);
    b.expect(0, &["status"]);
}

/// Lets a child run until `ready`, then holds it, sends the signal and lets it go on: it meets the signal in its work.
fn interrupt(mut child: std::process::Child, signal: rustix::process::Signal, ready: impl Fn() -> bool) -> Output {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = Pid::from_child(&child);
    while !ready() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before there was anything to interrupt");
        std::thread::yield_now();
    }
    for s in [Signal::STOP, signal, Signal::CONT] {
        kill_process(pid, s).unwrap();
    }
    child.wait_with_output().unwrap()
}

#[test]
fn an_interrupt_stops_cleanly_and_the_next_run_goes_on() {
    use rustix::process::Signal;
    let b = Bench::new();
    for i in 0..24 {
        fs::write(b.path("src").join(format!("{i}")), noise(i, 8 << 20)).unwrap();
    }
    b.init();
    let spawn = |args: &[&str]| b.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let zone = fs::read_dir(b.path("target/zones")).unwrap().next().unwrap().unwrap().path();
    let waiting = || fs::read_dir(zone.join("incoming")).map_or(0, |d| d.count());
    let cut = interrupt(spawn(&["backup", "src"]), Signal::INT, || waiting() > 0);
    assert_eq!(cut.status.code(), Some(130), "{}", String::from_utf8_lossy(&cut.stderr));
    assert!(String::from_utf8_lossy(&cut.stderr).contains("error[ZW-1900] interrupted"));
    // It tidied up behind itself: nothing waits half written on the target.
    assert_eq!(waiting(), 0);
    assert!(b.expect(0, &["backup", "src"]).contains("finished what was cut"));
    let begun = || b.restored("out").join("0").exists();
    let cut = interrupt(spawn(&["restore", "latest", "--to", "out"]), Signal::TERM, begun);
    assert_eq!(cut.status.code(), Some(130), "{}", String::from_utf8_lossy(&cut.stderr));
    b.expect(0, &["restore", "latest", "--to", "out"]);
    assert_eq!(tree(&b.path("src")), tree(&b.restored("out")));
    b.expect(0, &["check", "--read-data"]);
}

#[test]
fn the_levels_follow_what_is_done_and_are_told_in_two_languages() {
    let b = Bench::new();
    fill(&b.path("src"));
    b.init();
    let number = |what: &str| b.status()[what]["number"].as_u64().unwrap();
    assert_eq!((number("reliability"), number("availability")), (3, 3), "no source yet, one node");
    b.expect(0, &["source", "add", "src"]);
    assert_eq!(number("reliability"), 5, "one disk lost would lose it");
    b.expect(0, &["backup"]);
    assert_eq!(number("reliability"), 3, "the target hangs on the same device");
    b.expect(0, &["target", "add", "far", "--domain", "uncle"]);
    b.expect(0, &["backup"]);
    assert_eq!(number("reliability"), 1, "a copy lies at another place");
    let english = b.expect(0, &["--lang", "en", "status"]);
    assert!(english.contains("reliability 1 of 7  safe: even the loss of the whole site"), "{english}");
    assert!(english.contains("zoneward node invite"), "{english}");
    let chinese =
        b.command(&["status"]).env_remove("LC_ALL").env_remove("LC_MESSAGES").env("LANG", "zh_CN.UTF-8").output();
    let chinese = String::from_utf8(chinese.unwrap().stdout).unwrap();
    assert!(chinese.contains("可靠性 1/7  安全：即使整个场所损毁"), "{chinese}");
    assert!(chinese.contains("zoneward node invite"), "{chinese}");
    b.expect(2, &["--lang", "fr", "status"]);

    // The target elsewhere is away: nothing is lost by that, and all can be had from the other.
    fs::rename(b.path("far"), b.path("unplugged")).unwrap();
    assert_eq!((number("reliability"), number("availability")), (1, 3));
    b.expect(7, &["check", "--read-data"]);
    assert!(b.status()["all_read"].is_null(), "what is away was not read");
    fs::rename(b.path("target"), b.path("unplugged-too")).unwrap();
    assert_eq!((number("reliability"), number("availability")), (1, 6));
    fs::rename(b.path("unplugged"), b.path("far")).unwrap();
    assert_eq!((number("reliability"), number("availability")), (1, 3));
}

#[test]
fn a_target_out_of_reach_is_told_from_damage() {
    let b = Bench::new();
    fill(&b.path("src"));
    b.init();
    b.expect(0, &["backup", "src"]);
    fs::rename(b.path("target"), b.path("unplugged")).unwrap();
    let all = b.expect(7, &["restore", "latest", "--to", "out"]);
    assert!(all.contains("NOT restored"), "{all}");
    fs::rename(b.path("unplugged"), b.path("target")).unwrap();
    b.expect(0, &["restore", "latest", "--to", "out"]);
    assert_eq!(tree(&b.path("src")), tree(&b.restored("out")));
}

#[test]
fn every_command_answers_help_and_the_pages_are_made() {
    fn walk(c: &clap::Command, path: &[String], all: &mut Vec<Vec<String>>) {
        all.push(path.to_vec());
        for s in c.get_subcommands() {
            walk(s, &[path, &[s.get_name().to_owned()]].concat(), all);
        }
    }
    let b = Bench::new();
    let mut all = Vec::new();
    walk(&zoneward::command_tree(), &[], &mut all);
    assert!(all.len() > 20);
    for path in &all {
        let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
        args.push("--help");
        let said = b.expect(0, &args);
        assert!(said.contains("Usage:"), "{args:?}");
    }
    b.expect(0, &["man", "--dir", "man"]);
    assert!(fs::read_dir(b.path("man")).unwrap().count() >= all.len());
    assert!(b.expect(0, &["completions", "bash"]).contains("zoneward"));
    assert!(b.expect(2, &[]).lines().count() <= 25);
}

/// A full disk under standard output hides nothing: the command goes on, and its exit code counts.
#[test]
fn an_answer_that_nobody_can_read_is_no_success() {
    let b = Bench::new();
    fs::write(b.path("src/a"), vec![7; 300_000]).unwrap();
    b.expect(0, &["init", "--target", "target", "--sector-min", "1MiB"]);
    b.expect(0, &["backup", "src", "--copies", "1"]);
    let full = |args: &[&str]| {
        let out = fs::File::options().write(true).open("/dev/full").unwrap();
        b.command(args).stdout(out).output().unwrap()
    };
    let o = full(&["checkpoints"]);
    assert_eq!(o.status.code(), Some(1), "{}", String::from_utf8_lossy(&o.stderr));
    assert!(String::from_utf8_lossy(&o.stderr).contains("ZW-1702"));
    assert_eq!(full(&["--json", "status"]).status.code(), Some(1));
    let restored = full(&["restore", "latest", "--to", "out"]);
    assert_eq!(restored.status.code(), Some(1));
    let back = b.path("out").join(b.path("src/a").strip_prefix("/").unwrap());
    assert_eq!(fs::read(back).unwrap().len(), 300_000, "the restore goes on to its end");
    // Damage stays damage.
    let sectors = Command::new("find").arg(b.path("target")).args(["-name", "*.zws"]).output().unwrap();
    for path in String::from_utf8(sectors.stdout).unwrap().lines() {
        let mut bytes = fs::read(path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(full(&["check", "--read-data"]).status.code(), Some(5));
}

#[test]
fn a_path_that_is_no_text_is_a_path() {
    use std::os::unix::ffi::OsStringExt;
    let b = Bench::new();
    fs::write(b.path("src/a"), b"a").unwrap();
    let odd = |name: &[u8]| b.dir.path().join(std::ffi::OsString::from_vec(name.to_vec()));
    let run = |args: &[&std::ffi::OsStr]| {
        let o = b.command(&["--json", "--home"]).arg(odd(b"h\xff")).args(args).output().unwrap();
        assert_eq!(o.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&o.stderr));
        for line in String::from_utf8(o.stdout).unwrap().lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    };
    let (kit, to) = (odd(b"kit\xff.html"), odd(b"to\xff"));
    run(&["init".as_ref(), "--target".as_ref(), "target".as_ref(), "--kit".as_ref(), kit.as_os_str()]);
    run(&["backup".as_ref(), "src".as_ref(), "--copies".as_ref(), "1".as_ref()]);
    run(&["status".as_ref()]);
    run(&["restore".as_ref(), "latest".as_ref(), "--to".as_ref(), to.as_os_str()]);
    run(&["key".as_ref(), "rotate".as_ref()]);
}

/// Directories alone are what is left of a mount, or of a deletion.
#[test]
fn a_source_without_its_files_is_refused_until_a_person_says_so() {
    let b = Bench::new();
    fs::create_dir(b.path("src/d")).unwrap();
    fs::write(b.path("src/d/a"), b"a").unwrap();
    b.expect(0, &["init", "--target", "target"]);
    b.expect(0, &["backup", "src", "--copies", "1"]);
    fs::remove_file(b.path("src/d/a")).unwrap();
    symlink("x", b.path("src/link")).unwrap();
    let o = b.command(&["backup"]).output().unwrap();
    assert_eq!(o.status.code(), Some(4), "{}", String::from_utf8_lossy(&o.stderr));
    b.expect(0, &["backup", "--allow-empty"]);
}

/// Words and target open nothing without the owner's sealed key: a backup puts it back.
#[test]
fn an_owner_key_that_is_gone_from_a_target_comes_back() {
    let b = Bench::new();
    fs::write(b.path("src/a"), b"a").unwrap();
    b.expect(0, &["init", "--target", "target"]);
    b.expect(0, &["backup", "src", "--copies", "1"]);
    let found = Command::new("find").arg(b.path("target")).args(["-name", "owner-key.json"]).output().unwrap();
    let path = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
    let kept = fs::read(&path).unwrap();
    for spoil in [None, Some(&b"garbage"[..])] {
        match spoil {
            None => fs::remove_file(&path).unwrap(),
            Some(bytes) => fs::write(&path, bytes).unwrap(),
        }
        fs::write(b.path("src/a"), format!("{spoil:?}")).unwrap();
        b.expect(0, &["backup"]);
        assert_eq!(fs::read(&path).unwrap(), kept);
    }
}

#[test]
fn names_of_one_thing_stay_names_of_one_thing() {
    let b = Bench::new();
    let src = b.path("src");
    for dir in ["a", "b", "c"] {
        fs::create_dir_all(src.join(dir)).unwrap();
    }
    fs::write(src.join("a/file"), noise(1, 100_000)).unwrap();
    symlink("nowhere", src.join("a/link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, src.join("a/fifo"), rustix::fs::FileType::Fifo, 0o640.into(), 0).unwrap();
    for name in ["file", "link", "fifo"] {
        for dir in ["b", "c"] {
            fs::hard_link(src.join("a").join(name), src.join(dir).join(name)).unwrap();
        }
    }
    let same = |top: &std::path::Path, dirs: &[&str]| {
        for name in ["file", "link", "fifo"] {
            let mut all: Vec<_> =
                dirs.iter().map(|d| fs::symlink_metadata(top.join(d).join(name)).unwrap().ino()).collect();
            all.dedup();
            assert_eq!(all.len(), 1, "{name} in {dirs:?}");
        }
        assert_eq!(fs::read(top.join(dirs[0]).join("file")).unwrap(), noise(1, 100_000));
        assert_eq!(fs::read_link(top.join(dirs[0]).join("link")).unwrap(), PathBuf::from("nowhere"));
    };
    b.init();
    b.expect(0, &["backup", "src"]);
    b.expect(0, &["restore", "latest", "--to", "all"]);
    same(&b.restored("all"), &["a", "b", "c"]);
    assert_eq!(tree(&b.restored("all")), tree(&src));
    // The first names are not wanted: what they are names of comes under the others.
    let some = [src.join("b"), src.join("c")];
    let some: Vec<&str> = some.iter().map(|p| p.to_str().unwrap()).collect();
    b.expect(0, &[&["restore", "latest"], &some[..], &["--to", "some"]].concat());
    same(&b.restored("some"), &["b", "c"]);
    // The first names are taken by what is not removed: the others have it all the same.
    for name in ["file", "link", "fifo"] {
        let taken = b.path("taken").join(src.strip_prefix("/").unwrap()).join("a").join(name);
        fs::create_dir_all(&taken).unwrap();
        fs::write(taken.join("mine"), b"mine").unwrap();
    }
    let said = b.expect(3, &["restore", "latest", "--to", "taken"]);
    assert_eq!(
        said.matches("a/file").count() + said.matches("a/link").count() + said.matches("a/fifo").count(),
        3,
        "{said}"
    );
    same(&b.restored("taken"), &["b", "c"]);
    b.expect(0, &["check", "--read-data"]);
}

#[test]
fn holes_ask_for_no_room() {
    let b = Bench::new();
    let sparse = b.path("src/sparse");
    fs::write(&sparse, noise(3, 300_000)).unwrap();
    fs::File::options().write(true).open(&sparse).unwrap().set_len(8 << 30).unwrap();
    b.init();
    b.expect(0, &["backup", "src"]);
    let o = b.run(&["--json", "sector", "ls"]);
    let all: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    let largest = all["sectors"].as_array().unwrap().iter().map(|s| s["class_bytes"].as_u64().unwrap()).max();
    assert_eq!(largest, Some(1 << 20), "{all}");
    b.expect(0, &["restore", "latest", "--to", "out"]);
    let back = fs::metadata(b.restored("out").join("sparse")).unwrap();
    assert_eq!(back.len(), 8 << 30);
    assert!(back.blocks() * 512 < 2_000_000, "holes were filled");
}

#[test]
fn a_link_to_what_is_damaged_says_so() {
    let b = Bench::new();
    let src = b.path("src");
    fs::write(src.join("a"), noise(2, 3_000_000)).unwrap();
    fs::hard_link(src.join("a"), src.join("b")).unwrap();
    b.init();
    b.expect(0, &["backup", "src"]);
    b.damage_largest_sector();
    let o = b.run(&["--json", "restore", "latest", "--to", "out"]);
    assert_eq!(o.status.code(), Some(5));
    let said = String::from_utf8(o.stdout).unwrap();
    let summary: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["failed"], &summary["damaged"]), (&2.into(), &2.into()), "{said}");
}
