//! The program as a person uses it: a real binary, real directories, exit codes and what is left on disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Bench {
    dir: tempfile::TempDir,
}

const PASSPHRASE: &str = "correct horse battery staple";

impl Bench {
    fn new() -> Self {
        let b = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(b.path("src")).unwrap();
        b
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_zoneward"));
        c.args(args).env("ZONEWARD_HOME", self.path("zone")).env("ZONEWARD_PASSPHRASE", PASSPHRASE);
        c.stdin(Stdio::null()).current_dir(self.dir.path());
        c
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs and expects this exit code; answers what was printed.
    fn expect(&self, code: i32, args: &[&str]) -> String {
        let o = self.run(args);
        let all = format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        assert_eq!(o.status.code(), Some(code), "{args:?}: {all}");
        assert!(!all.contains(PASSPHRASE), "the passphrase is in the output of {args:?}");
        all
    }

    fn init(&self) {
        self.expect(0, &["init", "--target", "target", "--sector-min", "1MiB"]);
    }

    fn restored(&self, to: &str) -> PathBuf {
        self.path(to).join(self.path("src").strip_prefix("/").unwrap())
    }
}

/// Everything below a directory: path, kind, mode, size, time, content or target.
fn tree(dir: &Path) -> Vec<(PathBuf, u32, u64, i64, i64, Vec<u8>)> {
    let (mut out, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(p) = todo.pop() {
        let m = fs::symlink_metadata(&p).unwrap();
        let content = match m.file_type() {
            t if t.is_file() => fs::read(&p).unwrap(),
            t if t.is_symlink() => fs::read_link(&p).unwrap().into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        if m.is_dir() {
            todo.extend(fs::read_dir(&p).unwrap().map(|e| e.unwrap().path()));
        }
        let size = if m.is_dir() { 0 } else { m.len() };
        out.push((p.strip_prefix(dir).unwrap().to_owned(), m.mode(), size, m.mtime(), m.mtime_nsec(), content));
    }
    out.sort();
    out
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        (x, _) = (x ^ (x << 13), ());
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

fn fill(src: &Path) {
    fs::create_dir_all(src.join("a/b")).unwrap();
    fs::write(src.join("a/one"), b"one").unwrap();
    fs::write(src.join("a/b/large"), noise(1, 9_000_000)).unwrap();
    fs::write(src.join("a/b/text"), b"a line that comes again\n".repeat(100_000)).unwrap();
    fs::hard_link(src.join("a/one"), src.join("hard")).unwrap();
    symlink("a/one", src.join("link")).unwrap();
    fs::write(src.join("closed"), b"secret").unwrap();
    fs::set_permissions(src.join("closed"), fs::Permissions::from_mode(0o400)).unwrap();
    for i in 0..300 {
        fs::write(src.join(format!("a/small-{i}")), noise(i, (i * 37 % 5000) as usize)).unwrap();
    }
}

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
    let mut sectors: Vec<PathBuf> = Vec::new();
    for zone in fs::read_dir(b.path("target/zones")).unwrap() {
        for shard in fs::read_dir(zone.unwrap().path().join("sectors")).unwrap() {
            sectors.extend(fs::read_dir(shard.unwrap().path()).unwrap().map(|e| e.unwrap().path()));
        }
    }
    sectors.sort_by_key(|p| fs::metadata(p).unwrap().len());
    let largest = sectors.pop().unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&largest, bytes).unwrap();
    b.expect(0, &["check"]);
    let said = b.expect(5, &["check", "--read-data"]);
    assert!(said.contains("DAMAGED") && said.contains("holds") && said.contains("a/b/large"), "{said}");
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
