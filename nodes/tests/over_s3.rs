//! The program with a target behind an S3 server: a real binary, a real server in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../targets/src/s3/tests/server.rs"]
mod server;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use server::{KEY_ID, SECRET, Server};

const PASSPHRASE: &str = "correct horse battery staple";

struct Bench {
    dir: tempfile::TempDir,
    server: Server,
}

impl Bench {
    fn new() -> Self {
        let b = Self { dir: tempfile::tempdir().unwrap(), server: Server::start() };
        fs::create_dir(b.path("src")).unwrap();
        b.credentials("right", SECRET);
        b.credentials("wrong", "hunter2");
        b
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    fn credentials(&self, name: &str, secret: &str) {
        let text = format!(r#"{{"access_key_id":"{KEY_ID}","secret_access_key":"{secret}"}}"#);
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Runs and expects this exit code; answers what was printed.
    fn expect(&self, code: i32, args: &[&str]) -> String {
        let mut c = Command::new(env!("CARGO_BIN_EXE_zoneward"));
        c.args(args).env("ZONEWARD_HOME", self.path("zone")).env("ZONEWARD_PASSPHRASE", PASSPHRASE);
        let o = c.stdin(Stdio::null()).current_dir(self.dir.path()).output().unwrap();
        let all = format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        assert_eq!(o.status.code(), Some(code), "{args:?}: {all}");
        for secret in [PASSPHRASE, SECRET, "hunter2"] {
            assert!(!all.contains(secret), "a secret is in the output of {args:?}");
        }
        all
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(x ^ (x >> 29)).to_le_bytes());
    }
    out.truncate(len);
    out
}

fn contains(dir: &Path, text: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).any(|p| {
        if p.is_dir() { contains(&p, text) } else { fs::read(&p).unwrap().windows(text.len()).any(|w| w == text) }
    })
}

#[test]
fn a_zone_lives_behind_s3_and_one_small_file_costs_little() {
    let b = Bench::new();
    for i in 0..6 {
        fs::write(b.path(&format!("src/large-{i}")), noise(i, 8_000_000)).unwrap();
    }
    fs::write(b.path("src/small"), noise(99, 10 << 10)).unwrap();
    let url = b.server.url("z");
    b.expect(0, &["init", "--target", &url, "--sector-min", "64MiB", "--credentials-file", "right"]);
    b.expect(0, &["backup", "src"]);
    // Nothing is left half done, and the credentials are nowhere but sealed.
    assert_eq!(b.server.loose_parts(), 0);
    assert!(b.server.files().iter().all(|f| !f.to_string_lossy().contains("incoming")));
    assert!(!contains(&b.path("zone"), SECRET.as_bytes()));
    assert!(!contains(b.server.dir.path(), SECRET.as_bytes()));
    b.expect(0, &["check", "--read-data"]);
    b.expect(0, &["restore", "latest", "--to", "back"]);
    let back = b.path("back").join(b.path("src").strip_prefix("/").unwrap());
    for i in 0..6 {
        assert!(fs::read(back.join(format!("large-{i}"))).unwrap() == noise(i, 8_000_000), "large-{i}");
    }
    let before = b.server.out_bytes.load(Ordering::Relaxed);
    b.expect(0, &["restore", "latest", b.path("src/small").to_str().unwrap(), "--to", "one"]);
    let moved = b.server.out_bytes.load(Ordering::Relaxed) - before;
    let one = b.path("one").join(b.path("src/small").strip_prefix("/").unwrap());
    assert_eq!(fs::read(one).unwrap(), noise(99, 10 << 10));
    println!("restoring 10 KiB of 48 MB moved {moved} bytes");
    // Fewer would mean that nothing was counted.
    assert!((10 << 10..8 << 20).contains(&moved), "restoring 10 KiB moved {moved} bytes");
    // A second checkpoint, and a second target that gets its copies from the first.
    fs::write(b.path("src/later"), b"later").unwrap();
    b.expect(0, &["target", "add", "disk", "--name", "disk"]);
    b.expect(0, &["backup", "src"]);
    b.expect(0, &["check", "--read-data"]);
}

#[test]
fn credentials_are_asked_for_tried_and_never_shown() {
    let b = Bench::new();
    let url = b.server.url("z");
    let text = b.expect(2, &["init", "--target", &url]);
    assert!(text.contains("ZW-1320") && text.contains("--credentials-file"), "{text}");
    fs::write(b.path("open"), "{}").unwrap();
    fs::set_permissions(b.path("open"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(b.expect(2, &["init", "--target", &url, "--credentials-file", "open"]).contains("ZW-1321"));
    assert!(b.expect(7, &["init", "--target", &url, "--credentials-file", "wrong"]).contains("ZW-1316"));
    b.expect(0, &["init", "--target", "disk", "--sector-min", "1MiB"]);
    b.expect(0, &["target", "add", &url, "--name", "cloud", "--credentials-file", "right"]);
    let text = b.expect(7, &["target", "credentials", "cloud", "--credentials-file", "wrong"]);
    assert!(text.contains("ZW-1316"), "{text}");
    // What was refused changed nothing.
    fs::write(b.path("src/x"), b"x").unwrap();
    b.expect(0, &["backup", "src", "--copies", "2"]);
    b.expect(0, &["check", "--read-data"]);
    b.expect(0, &["target", "credentials", "cloud", "--credentials-file", "right"]);
    // The store goes away: the zone says so, and works on with what it has.
    let Bench { dir, server } = b;
    drop(server);
    let b = Bench { dir, server: Server::start() };
    assert!(b.expect(0, &["target", "ls"]).contains("NOT REACHABLE"));
    b.expect(0, &["restore", "latest", "--to", "back"]);
}
