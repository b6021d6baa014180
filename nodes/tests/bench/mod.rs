//! A person's workplace: a zone, a source, a target, and the program.
#![allow(dead_code)] // Each test program uses a part of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[allow(unused_imports)] // As above.
pub use crate::wait::{Running, start, until};

pub struct Bench {
    pub dir: tempfile::TempDir,
}

pub const PASSPHRASE: &str = "correct horse battery staple";

impl Bench {
    pub fn new() -> Self {
        let b = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(b.path("src")).unwrap();
        b
    }

    pub fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_zoneward"));
        c.args(args).env("ZONEWARD_HOME", self.path("zone")).env("ZONEWARD_PASSPHRASE", PASSPHRASE);
        c.stdin(Stdio::null()).current_dir(self.dir.path());
        c
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs and expects this exit code; answers what was printed.
    pub fn expect(&self, code: i32, args: &[&str]) -> String {
        let o = self.run(args);
        let all = format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        assert_eq!(o.status.code(), Some(code), "{args:?}: {all}");
        assert!(!all.contains(PASSPHRASE), "the passphrase is in the output of {args:?}");
        all
    }

    pub fn init(&self) {
        self.expect(0, &["init", "--target", "target", "--sector-min", "1MiB"]);
    }

    /// Changes one byte in the middle of the largest stored sector.
    pub fn damage_largest_sector(&self) {
        let mut sectors: Vec<PathBuf> = Vec::new();
        for zone in fs::read_dir(self.path("target/zones")).unwrap() {
            for shard in fs::read_dir(zone.unwrap().path().join("sectors")).unwrap() {
                sectors.extend(fs::read_dir(shard.unwrap().path()).unwrap().map(|e| e.unwrap().path()));
            }
        }
        let largest = sectors.into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
        let mut bytes = fs::read(&largest).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(&largest, bytes).unwrap();
    }

    pub fn status(&self) -> serde_json::Value {
        let o = self.run(&["--json", "status"]);
        serde_json::from_slice(&o.stdout).unwrap()
    }

    /// The 24 words, from the recovery kit in the home.
    pub fn words(&self) -> String {
        let page = fs::read_to_string(self.path("zone/recovery-kit.html")).unwrap();
        let words = page.split("<li><span>").skip(1).take(24).map(|w| {
            let (_, rest) = w.split_once("</span>").unwrap();
            rest.split_once("</li>").unwrap().0.to_owned()
        });
        words.collect::<Vec<_>>().join(" ")
    }

    pub fn restored(&self, to: &str) -> PathBuf {
        self.path(to).join(self.path("src").strip_prefix("/").unwrap())
    }
}

/// Everything below a directory: path, kind, mode, size, time, content or target.
pub fn tree(dir: &Path) -> Vec<(PathBuf, u32, u64, i64, i64, Vec<u8>)> {
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
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
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

pub fn fill(src: &Path) {
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
