//! A real S3 server with versions, object lock and policies, as a process of its own; its nodes have the rights that
//! `deploy/s3/node-policy.json` gives. Other crates' tests include this file.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use serde_json::{Value, json};

/// The server; it ends when this is dropped.
pub struct Locking {
    child: Child,
    lines: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    pub port: u16,
    /// Key id and secret of a node, and of whom the bucket belongs to.
    pub node: (String, String),
    #[allow(dead_code)] // Each test crate uses what it needs.
    pub owner: (String, String),
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A Python that has what `tests/moto.txt` names.
fn python() -> Option<PathBuf> {
    let own =
        [std::env::var_os("ZONEWARD_TEST_PYTHON").map(PathBuf::from), Some(top().join("target/venv/bin/python3"))];
    let all = own.into_iter().flatten().chain([PathBuf::from("python3")]);
    let wanted = std::fs::read_to_string(top().join("tests/moto.txt")).unwrap();
    let version = wanted.trim().rsplit_once("==").unwrap().1;
    // Another one may behave otherwise: 5.2.1 refuses right signatures.
    let has = |p: &PathBuf| {
        let mut c = Command::new(p);
        c.args(["-c", "import sys, moto, moto.server, boto3; sys.exit(moto.__version__ != sys.argv[1])", version]);
        c.stdout(Stdio::null()).stderr(Stdio::null());
        c.status().is_ok_and(|s| s.success())
    };
    all.into_iter().find(has)
}

#[allow(dead_code)] // Each test crate uses what it needs.
impl Locking {
    /// Starts it; `None`, with a word why, where it is not installed.
    pub fn start() -> Option<Locking> {
        let Some(python) = python() else {
            assert!(std::env::var_os("ZONEWARD_ALL_SERVERS").is_none(), "no Python has what tests/moto.txt names");
            println!("skipped: no Python has what tests/moto.txt names");
            return None;
        };
        let mut command = Command::new(python);
        command.arg(top().join("targets/src/s3/tests/locking_server.py")).arg(top().join("deploy/s3/node-policy.json"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, mut out) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let keys = |who: &str| {
            let of = |i: usize| said[who][i].as_str().unwrap().to_owned();
            (of(0), of(1))
        };
        let port = said["port"].as_u64().unwrap() as u16;
        let (node, owner) = (keys("node"), keys("owner"));
        Some(Locking { child, lines: Mutex::new((stdin, out)), port, node, owner })
    }

    fn ask(&self, name: &str, args: Value) -> Result<Value, String> {
        let mut lines = self.lines.lock().unwrap();
        writeln!(lines.0, "{}", json!([name, args])).unwrap();
        lines.0.flush().unwrap();
        let mut line = String::new();
        lines.1.read_line(&mut line).unwrap();
        let mut said: Value = serde_json::from_str(&line).unwrap();
        match said["error"].as_str() {
            Some(code) => Err(code.to_owned()),
            None => Ok(said["ok"].take()),
        }
    }

    /// Makes a bucket. A node may use it if its name begins with `locked`.
    pub fn bucket(&self, name: &str, lock: bool, versions: bool) {
        self.ask("bucket", json!([name, lock, versions])).unwrap();
    }

    pub fn url(&self, bucket: &str) -> String {
        format!("s3+http://127.0.0.1:{}/{bucket}/zone-one", self.port)
    }

    /// All versions and marks whose names hold this.
    pub fn versions(&self, bucket: &str, of: &str) -> Vec<Value> {
        let all = self.ask("versions", json!([bucket])).unwrap();
        all.as_array().unwrap().iter().filter(|v| v["key"].as_str().unwrap().contains(of)).cloned().collect()
    }

    /// Removes as `node` or `owner`; with a version, for good.
    pub fn remove(&self, by: &str, bucket: &str, key: &str, version: Option<&str>) -> Result<(), String> {
        self.ask("remove", json!([by, bucket, key, version])).map(|_| ())
    }

    /// Puts a mark before everything in a bucket, as somebody with a node's credentials would.
    pub fn hide_all(&self, bucket: &str) -> usize {
        let all = self.versions(bucket, "");
        let seen = all.iter().filter(|v| v["latest"] == true && v["marker"] == false);
        seen.map(|v| self.remove("node", bucket, v["key"].as_str().unwrap(), None).unwrap()).count()
    }
}

impl Drop for Locking {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
