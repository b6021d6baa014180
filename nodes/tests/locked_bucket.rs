//! The program with a target in a bucket that locks, under the rights that we tell people to give its key: what somebody with
//! that key can do, and what the zone makes of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../targets/src/s3/tests/locking.rs"]
mod locking;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use locking::Locking;
use serde_json::{Value, json};

const BUCKET: &str = "locked-zone";

struct Bench {
    dir: tempfile::TempDir,
    server: Locking,
}

impl Bench {
    fn new() -> Option<Self> {
        let server = Locking::start()?;
        server.bucket(BUCKET, true, true);
        let b = Self { dir: tempfile::tempdir().unwrap(), server };
        let (id, secret) = &b.server.node;
        fs::write(b.path("key"), json!({"access_key_id": id, "secret_access_key": secret}).to_string()).unwrap();
        fs::set_permissions(b.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(b.path("src")).unwrap();
        for i in 0..20u8 {
            fs::write(b.path(&format!("src/{i}")), vec![i; 10_000]).unwrap();
        }
        Some(b)
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    fn run(&self, home: &str, args: &[&str]) -> (i32, String, String) {
        let mut c = Command::new(env!("CARGO_BIN_EXE_zoneward"));
        c.args(args).env("ZONEWARD_HOME", self.path(home)).env("ZONEWARD_PASSPHRASE", "pass phrase");
        let o = c.stdin(Stdio::null()).current_dir(self.dir.path()).output().unwrap();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (o.status.code().unwrap(), text(&o.stdout), text(&o.stderr))
    }

    fn expect(&self, code: i32, args: &[&str]) -> String {
        let (found, out, err) = self.run("home", args);
        assert_eq!(found, code, "{args:?}: {out}{err}");
        out + &err
    }

    fn protection(&self) -> Value {
        let (code, out, err) = self.run("home", &["--json", "target", "ls"]);
        assert_eq!(code, 0, "{err}");
        serde_json::from_str::<Value>(&out).unwrap()["targets"][0]["protection"].clone()
    }

    fn restores(&self, home: &str, to: &str) {
        let (code, out, err) = self.run(home, &["restore", "latest", "--to", to]);
        assert_eq!(code, 0, "{out}{err}");
        self.is_back(to);
    }

    fn is_back(&self, to: &str) {
        let back = self.path(to).join(self.path("src").strip_prefix("/").unwrap());
        for i in 0..20u8 {
            assert_eq!(fs::read(back.join(i.to_string())).unwrap(), vec![i; 10_000]);
        }
    }
}

#[test]
fn whoever_has_the_nodes_key_cannot_make_the_zone_lose_anything() {
    let Some(b) = Bench::new() else { return };
    let url = b.server.url(BUCKET);
    b.expect(
        0,
        &["init", "--target", &url, "--sector-min", "1MiB", "--passphrase-on-targets", "--credentials-file", "key"],
    );
    b.expect(0, &["backup", "src"]);
    let listed = b.protection();
    assert_eq!((&listed["versions"], &listed["locks"]), (&json!(true), &json!(true)), "{listed}");
    assert!(b.expect(0, &["target", "ls"]).contains("locks what it holds against removal"));
    assert!(b.expect(0, &["target", "test", "first"]).contains("locks what it holds"));
    // Twice the grace, for all that has to live, and for nothing that is on its way.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let all = b.server.versions(BUCKET, "");
    let kept: Vec<&Value> = all.iter().filter(|v| v["marker"] == false && v["latest"] == true).collect();
    assert!(kept.len() >= 5, "{all:?}");
    for v in &kept {
        let left = v["until"].as_u64().map(|u| u - now);
        assert!(left.is_some_and(|l| (13 * 86_400..=14 * 86_400).contains(&l)), "{v}");
        assert!(b.server.remove("node", BUCKET, v["key"].as_str().unwrap(), v["id"].as_str()).is_err());
        assert!(b.server.remove("owner", BUCKET, v["key"].as_str().unwrap(), v["id"].as_str()).is_err());
    }
    // Everything is hidden: the zone reads on, says it, and has it back.
    assert!(b.server.hide_all(BUCKET) >= 5);
    b.restores("home", "one");
    let (code, out, err) = b.run("home", &["check"]);
    assert!(code != 0 && code != 5, "hidden is not damaged: {code} {out}{err}");
    let said = out + &err;
    assert!(said.contains("hidden by delete markers and were brought back"), "{said}");
    b.expect(0, &["check", "--read-data"]);
    // Also from nothing but the bucket, with everything hidden again.
    b.server.hide_all(BUCKET);
    let (code, out, err) = b.run("new", &["recover", "--target", &url, "--credentials-file", "key", "--to", "again"]);
    assert_eq!(code, 0, "{out}{err}");
    b.is_back("again");
    // The next backup finds it too, and what it writes is locked.
    fs::write(b.path("src/new"), "new").unwrap();
    let (_, out, err) = b.run("home", &["backup"]);
    assert!((out.clone() + &err).contains("somebody else uses its credentials"), "{out}{err}");
    b.expect(0, &["backup"]);
    b.expect(0, &["check", "--read-data"]);
}
