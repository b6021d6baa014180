//! Copies that heal by themselves: real daemons, a real target server, bytes that are flipped, files that are gone, a
//! server that falls silent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bench::Bench;
use serde_json::Value;

/// What is waited for comes well before this, or never.
const LIMIT: Duration = Duration::from_secs(120);

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts something that says one line when it is ready.
fn start(mut command: Command) -> (Running, Value) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Running(child), serde_json::from_str(&line).unwrap())
}

fn daemon(b: &Bench) -> Running {
    start(b.command(&["--json", "up", "--listen", "127.0.0.1:0", "--api", "off"])).0
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(t) = look() {
            return t;
        }
        assert!(begun.elapsed() < LIMIT, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Data sectors of the zone with their copies.
fn sectors(b: &Bench) -> Vec<Value> {
    let o = b.run(&["--json", "sector", "ls"]);
    let all: Value = serde_json::from_slice(&o.stdout).unwrap();
    all["sectors"].as_array().unwrap().iter().filter(|s| s["system"] == false).cloned().collect()
}

/// How many copies in this state a target has.
fn count(b: &Bench, target: &str, state: &str) -> usize {
    let all = sectors(b);
    let copies = all.iter().flat_map(|s| s["copies"].as_array().unwrap().clone());
    copies.filter(|c| c["target"] == target && c["state"] == state).count()
}

fn trouble(b: &Bench, target: &str) -> Vec<String> {
    let all = sectors(b);
    let copies = all.iter().flat_map(|s| s["copies"].as_array().unwrap().clone());
    copies.filter(|c| c["target"] == target).filter_map(|c| c["trouble"].as_str().map(str::to_owned)).collect()
}

/// The file of a sector's copy on a directory target.
fn file_of(dir: &Path, sector: &Value, target: &str) -> PathBuf {
    let mut copies = sector["copies"].as_array().unwrap().iter();
    let copy = copies.find(|c| c["target"] == target).unwrap()["id"].as_str().unwrap().to_owned();
    let zone = fs::read_dir(dir.join("zones")).unwrap().next().unwrap().unwrap().path();
    let mut shards = fs::read_dir(zone.join("sectors")).unwrap().map(|e| e.unwrap().path());
    shards.find_map(|s| Some(s.join(format!("{copy}.zws"))).filter(|p| p.exists())).unwrap()
}

/// A source of more than one sector.
fn fill(b: &Bench) {
    let mut state = 1u64;
    for i in 0..6 {
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
        .take(400_000)
        .collect();
        fs::write(b.path(&format!("src/{i}")), noise).unwrap();
    }
}

fn restores(b: &Bench, to: &str) {
    b.expect(0, &["restore", "latest", "--to", to, "--verify"]);
    for e in fs::read_dir(b.path("src")).unwrap() {
        let name = e.unwrap().file_name();
        assert!(fs::read(b.path("src").join(&name)).unwrap() == fs::read(b.restored(to).join(&name)).unwrap());
    }
}

#[test]
fn damage_is_found_named_and_healed_by_nobody_but_the_zone() {
    let b = Bench::new();
    fill(&b);
    b.expect(0, &["init", "--target", "one", "--target", "two", "--sector-min", "1MiB"]);
    b.expect(0, &["backup", "src", "--copies", "2"]);
    let n = sectors(&b).len();
    assert!(n >= 2);
    let _up = daemon(&b);
    let said = b.expect(0, &["schedule", "audits", "--every", "2s", "--read-all", "never", "--read-all-s3", "never"]);
    assert!(said.contains("each copy is looked at once in 2.0 s"), "{said}");
    let (one, two) = ("first".to_owned(), "target-2".to_owned());
    // One byte is flipped in a sector of the first target, another sector of the second is gone.
    let all = sectors(&b);
    let flipped = file_of(&b.path("one"), &all[0], &one);
    let mut bytes = fs::read(&flipped).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&flipped, bytes).unwrap();
    fs::remove_file(file_of(&b.path("two"), &all[1], &two)).unwrap();
    until("the flipped byte is found", || (count(&b, &one, "damaged") == 1).then_some(()));
    until("the gone file is found", || (count(&b, &two, "lost") == 1).then_some(()));
    assert!(trouble(&b, &one)[0].contains("damaged"), "{:?}", trouble(&b, &one));
    until("both are made anew", || (count(&b, &one, "stored") == n && count(&b, &two, "stored") == n).then_some(()));
    b.expect(0, &["check", "--read-data"]);
    for (away, to) in [("one", "from-two"), ("two", "from-one")] {
        fs::rename(b.path(away), b.path("drawer")).unwrap();
        restores(&b, to);
        fs::rename(b.path("drawer"), b.path(away)).unwrap();
    }
    // A disk in a drawer is not accused of anything.
    fs::rename(b.path("one"), b.path("drawer")).unwrap();
    b.expect(0, &["schedule", "audits", "--silence", "1s"]);
    let before = sectors(&b);
    let proved = |all: &[Value], t: &str| -> Vec<String> {
        let copies = all.iter().flat_map(|s| s["copies"].as_array().unwrap().clone());
        copies.filter(|c| c["target"] == t && c["state"] == "stored").map(|c| c["audited"].to_string()).collect()
    };
    let later = until("the other disk is looked at again", || {
        let now = sectors(&b);
        let again = proved(&now, &two).iter().zip(proved(&before, &two)).all(|(n, b)| *n != b);
        again.then_some(now)
    });
    assert_eq!(proved(&later, &one).len(), n);
}

#[test]
fn what_a_silent_server_held_is_made_anew_elsewhere() {
    let b = Bench::new();
    fill(&b);
    let data = b.path("server").to_str().unwrap().to_owned();
    let tokens = b.run(&["--json", "target", "token", "add", "--data", &data, "--account", "ann"]);
    let token: Value = serde_json::from_slice(&tokens.stdout).unwrap();
    let serve = ["--json", "target", "serve", "--data", &data, "--listen", "127.0.0.1:0", "--host", "127.0.0.1"];
    let (server, told) = start(b.command(&serve));
    let credentials = b.path("credentials");
    fs::write(&credentials, serde_json::json!({"token": token["token"]}).to_string()).unwrap();
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600)).unwrap();
    let url = told["url"].as_str().unwrap();
    b.expect(0, &["init", "--target", "disk", "--sector-min", "1MiB"]);
    b.expect(0, &["target", "add", url, "--credentials-file", "credentials", "--name", "server"]);
    b.expect(0, &["backup", "src", "--copies", "2"]);
    let n = sectors(&b).len();
    assert_eq!(count(&b, "server", "stored"), n);
    b.expect(0, &["target", "add", "spare", "--name", "spare"]);
    let _up = daemon(&b);
    b.expect(
        0,
        &["schedule", "audits", "--every", "2s", "--read-all", "never", "--read-all-s3", "never", "--silence", "4s"],
    );
    drop(server);
    until("what it held is made anew", || (count(&b, "spare", "stored") == n).then_some(()));
    assert_eq!(count(&b, "server", "lost"), n);
    assert_eq!(trouble(&b, "server").len(), n);
    fs::rename(b.path("disk"), b.path("drawer")).unwrap();
    restores(&b, "from-spare");
}
