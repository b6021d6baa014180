//! Real daemons with homes of their own in one folder: a zone made by the commands that a person types.

#![allow(dead_code)] // Each test program uses a part of it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

pub use crate::wait::until;
use serde_json::Value;

pub struct Zone {
    pub dir: tempfile::TempDir,
    pub up: Vec<Option<Child>>,
}

impl Drop for Zone {
    fn drop(&mut self) {
        for child in self.up.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn text(o: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
}

impl Zone {
    /// One node, up.
    pub fn new() -> Self {
        let zone = Self { dir: tempfile::tempdir().unwrap(), up: Vec::new() };
        let target = zone.path("target");
        let made = zone.run(0, &["init", "--target", target.to_str().unwrap(), "--sector-min", "1MiB"]);
        assert!(made.status.success(), "{}", text(&made));
        let mut zone = zone;
        zone.start(0);
        zone
    }

    /// Three nodes that all vote.
    pub fn three() -> Self {
        let mut zone = Self::new();
        zone.join(1, "second");
        zone.join(2, "third");
        until("three votes", || (zone.voters(0) == 3).then_some(()));
        zone
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn home(&self, i: usize) -> PathBuf {
        self.path(&format!("home{i}"))
    }

    pub fn command(&self, i: usize, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_zoneward"));
        // Each node works in a folder of its own: what is named by way of it, only that node can reach.
        let own = self.path(&format!("own{i}"));
        std::fs::create_dir_all(&own).unwrap();
        c.current_dir(own);
        c.arg("--home").arg(self.home(i)).args(args).env("ZONEWARD_PASSPHRASE", "pass phrase").stdin(Stdio::null());
        c
    }

    pub fn run(&self, i: usize, args: &[&str]) -> Output {
        self.command(i, args).output().unwrap()
    }

    pub fn ok(&self, i: usize, args: &[&str]) -> String {
        let o = self.run(i, args);
        assert!(o.status.success(), "{args:?} on node {i}: {}", text(&o));
        String::from_utf8(o.stdout).unwrap()
    }

    pub fn json(&self, i: usize, args: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        let out = self.ok(i, &all);
        serde_json::from_str(out.lines().last().unwrap()).unwrap()
    }

    /// Starts the daemon of node `i` on a port of its own and waits until it is up.
    pub fn start(&mut self, i: usize) {
        let mut child = self
            .command(i, &["--json", "up", "--listen", "127.0.0.1:0", "--api", "off"])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("zoneward.up/1"), "node {i}: {line}");
        if self.up.len() <= i {
            self.up.resize_with(i + 1, || None);
        }
        self.up[i] = Some(child);
    }

    pub fn kill(&mut self, i: usize) {
        let mut child = self.up[i].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A code of node `i`, and the command that stays with it.
    pub fn invite(&self, i: usize, name: &str, more: &[&str]) -> (String, Child) {
        let mut command = self.command(i, &["--quiet", "node", "invite", "--name", name]);
        let mut child = command.args(more).stdout(Stdio::piped()).spawn().unwrap();
        let mut code = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut code).unwrap();
        (code.trim().to_owned(), child)
    }

    pub fn join(&mut self, i: usize, name: &str) -> String {
        self.join_as(i, name, &[])
    }

    pub fn join_as(&mut self, i: usize, name: &str, more: &[&str]) -> String {
        let (code, mut stays) = self.invite(0, name, more);
        self.ok(i, &["join", &code]);
        assert!(stays.wait().unwrap().success());
        self.start(i);
        code
    }

    pub fn nodes(&self, i: usize) -> Vec<Value> {
        self.json(i, &["node", "ls"])["nodes"].as_array().unwrap().clone()
    }

    pub fn voters(&self, i: usize) -> usize {
        self.nodes(i).iter().filter(|n| n["role"] == "voter" || n["role"] == "leader").count()
    }
}

pub fn fill(dir: &Path, round: u8) {
    std::fs::create_dir_all(dir).unwrap();
    for f in 0..40u32 {
        let seed = u64::from(f) * 251 + u64::from(round);
        let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .take(200_000)
        .collect();
        std::fs::write(dir.join(format!("{round}-{f}")), bytes).unwrap();
    }
}

pub fn same(a: &Path, b: &Path) {
    let o = Command::new("diff").arg("-r").arg(a).arg(b).output().unwrap();
    assert!(o.status.success(), "{}", text(&o));
}
