//! The REST API of a real daemon, over real connections.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod changes;
mod events;
mod forget;
mod schedules;
#[path = "../wait/mod.rs"]
mod wait;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use wait::{LIMIT, until};

struct Daemon {
    dir: std::sync::Arc<tempfile::TempDir>,
    home: &'static str,
    child: Child,
    api: SocketAddr,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|l| {
            let (k, v) = l.split_once(':')?;
            k.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// It is a problem of this status and number.
    #[track_caller]
    fn problem(&self, status: u16, code: u16) -> Value {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        assert_eq!((self.status, self.header("content-type")), (status, Some("application/problem+json")), "{text}");
        let v = self.json();
        assert_eq!((&v["result_code"], &v["status"]), (&json!(code), &json!(status)), "{text}");
        assert_eq!(v["type"], format!("urn:zoneward:error:ZW-{code}"));
        assert_eq!(v["request_id"].as_str(), self.header("x-request-id"));
        assert!(v["instance"].as_str().is_some_and(|i| i.starts_with('/')), "{text}");
        v
    }

    #[track_caller]
    fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }
}

fn command(home: &std::path::Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_zoneward"));
    c.arg("--home").arg(home).args(args).env("ZONEWARD_PASSPHRASE", "pass phrase").stdin(Stdio::null());
    c
}

fn text(o: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
}

impl Daemon {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (home, target) = (dir.path().join("home"), dir.path().join("target"));
        let args = ["init", "--target", target.to_str().unwrap(), "--sector-min", "1MiB"];
        let made = command(&home, &args).output().unwrap();
        assert!(made.status.success(), "{}", text(&made));
        Self::start(dir.into(), "home")
    }

    fn start(dir: std::sync::Arc<tempfile::TempDir>, home: &'static str) -> Self {
        let args = ["--json", "up", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0"];
        let mut child = command(&dir.path().join(home), &args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let up: Value = serde_json::from_str(&line).unwrap();
        let api = up["api"].as_str().unwrap().parse().unwrap();
        Self { dir, home, child, api }
    }

    /// Another node of this one's zone.
    fn join(&self, name: &'static str) -> Self {
        let mut stays = command(&self.home(), &["--quiet", "node", "invite", "--name", name]);
        let mut stays = stays.stdout(Stdio::piped()).spawn().unwrap();
        let mut code = String::new();
        BufReader::new(stays.stdout.take().unwrap()).read_line(&mut code).unwrap();
        let joined = command(&self.dir.path().join(name), &["join", code.trim()]).output().unwrap();
        assert!(joined.status.success(), "{}", text(&joined));
        assert!(stays.wait().unwrap().success());
        Self::start(self.dir.clone(), name)
    }

    fn home(&self) -> std::path::PathBuf {
        self.dir.path().join(self.home)
    }

    fn run(&self, args: &[&str]) -> Output {
        command(&self.home(), args).output().unwrap()
    }

    fn token(&self, scopes: &[&str]) -> String {
        let mut args = vec!["--json", "token", "create", "--label", "test"];
        scopes.iter().for_each(|s| args.extend(["--scope", s]));
        let made = self.run(&args);
        assert!(made.status.success(), "{}", text(&made));
        let v: Value = serde_json::from_slice(&made.stdout).unwrap();
        v["token"].as_str().unwrap().to_owned()
    }

    /// A directory that can be a source.
    fn source(&self, name: &str) -> String {
        let dir = self.dir.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("file"), format!("the content of {name}")).unwrap();
        dir.to_str().unwrap().to_owned()
    }

    /// Sends bytes as they are and reads all of the answer.
    fn raw(&self, bytes: &[u8]) -> Answer {
        let mut s = TcpStream::connect(self.api).unwrap();
        s.set_read_timeout(Some(LIMIT)).unwrap();
        // The server may answer, and close, before it has read everything.
        let _ = s.write_all(bytes);
        let mut all = Vec::new();
        let mut piece = [0; 64 << 10];
        while let Ok(n) = s.read(&mut piece) {
            if n == 0 {
                break;
            }
            all.extend_from_slice(&piece[..n]);
        }
        parse(&all)
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        headers.iter().for_each(|(k, v)| head.push_str(&format!("{k}: {v}\r\n")));
        if let Some(body) = body {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head.push_str(body.unwrap_or_default());
        self.raw(head.as_bytes())
    }

    fn get(&self, token: &str, path: &str) -> Answer {
        self.send("GET", path, &[("Authorization", &bearer(token))], None)
    }

    fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[("Authorization", &bearer(token))], Some(&body.to_string()))
    }

    fn change(&self, method: &str, token: &str, path: &str, etag: &str, body: Option<&Value>) -> Answer {
        let body = body.map(ToString::to_string);
        self.send(method, path, &[("Authorization", &bearer(token)), ("If-Match", etag)], body.as_deref())
    }

    fn etag(&self, token: &str, path: &str) -> String {
        self.get(token, path).header("etag").unwrap().to_owned()
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn parse(all: &[u8]) -> Answer {
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("no answer: {all:?}"));
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: all[end + 4..].to_vec() }
}

#[test]
fn from_a_source_to_a_finished_checkpoint() {
    let d = Daemon::new();
    let t = d.token(&["status:read", "config:write", "backup:run", "target:write", "node:write"]);
    let path = d.source("documents");
    let made = d.post(&t, "/api/v1/sources", &json!({"path": path, "priority": 5, "excludes": ["*.tmp"]}));
    let source = made.ok(201);
    assert_eq!((&source["path"], &source["priority"]), (&json!(path), &json!(5)));
    let at = made.header("location").unwrap().to_owned();
    assert_eq!(d.get(&t, &at).ok(200), source);
    let revision = made.header("x-zoneward-revision").unwrap();
    let read = d.get(&t, &format!("{at}?min_revision={revision}"));
    assert_eq!((read.status, read.header("x-zoneward-heard-ms")), (200, Some("0")), "the leader itself");

    // The same key makes one checkpoint, however often it is sent.
    let key = [("Authorization", &*bearer(&t)), ("Idempotency-Key", "first")];
    let begun = d.send("POST", "/api/v1/checkpoints", &key, Some("{}"));
    begun.ok(202);
    let at = begun.header("location").unwrap().to_owned();
    let again = d.send("POST", "/api/v1/checkpoints", &key, Some("{ }"));
    again.ok(202);
    assert_eq!(again.header("location"), Some(&*at));
    d.send("POST", "/api/v1/checkpoints", &key, Some("{\"kind\": \"full\"}")).problem(422, 3016);
    let done = until("the checkpoint", || Some(d.get(&t, &at).ok(200)).filter(|c| c["state"] == "published"));
    assert_eq!((&done["sources"][0]["files"], &done["seq"]), (&json!(1), &json!(1)));
    let all = d.get(&t, "/api/v1/checkpoints").ok(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
    for name in ["latest", "1"] {
        assert_eq!(d.get(&t, &format!("/api/v1/checkpoints/{name}")).ok(200)["id"], done["id"]);
    }

    let zone = d.get(&t, "/api/v1/zone").ok(200);
    assert_eq!((&zone["sources"], &zone["checkpoints"], &zone["nodes"]), (&json!(1), &json!(1), &json!(1)));
    let sectors = d.get(&t, &format!("/api/v1/sectors?checkpoint={}", done["id"].as_str().unwrap())).ok(200);
    let sector = &sectors["items"][0];
    assert_eq!((&sector["state"], &sector["copies"][0]["state"]), (&json!("sealed"), &json!("stored")));
    let one = d.get(&t, &format!("/api/v1/sectors/{}", sector["id"].as_str().unwrap())).ok(200);
    assert_eq!(one["raw_id"], sector["raw_id"]);
    assert_eq!(d.get(&t, "/api/v1/steps").ok(200)["next"], Value::Null);

    let metrics = d.send("GET", "/metrics", &[], None);
    let metrics = String::from_utf8(metrics.body).unwrap();
    for line in [
        "zoneward_last_checkpoint_success{source=\"documents\"} 1",
        "zoneward_checkpoints_total{result=\"complete\"} 1",
        "zoneward_copies_present{source=\"documents\"} 1",
        "zoneward_target_up{target=\"first\"} 1",
        "zoneward_raft_is_leader 1",
        "zoneward_http_request_duration_seconds_count{route=\"/api/v1/checkpoints\",method=\"POST\",code=\"202\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    leaks_nothing(&d, &t);
}

/// Nothing that is served holds the home's path, or what the zone's files keep secret.
fn leaks_nothing(d: &Daemon, t: &str) {
    let home = d.home().canonicalize().unwrap();
    for path in
        ["zone", "nodes", "sources", "targets", "checkpoints", "checkpoints/latest", "sectors", "steps", "health"]
    {
        let body = String::from_utf8(d.get(t, &format!("/api/v1/{path}")).body).unwrap();
        let words = ["sealed_dek", "certificate", "public_key", "owner_public", "\"header\"", "hash", "alias"];
        for word in words.into_iter().chain([home.to_str().unwrap()]) {
            assert!(!body.contains(word), "{word} in {path}: {body}");
        }
    }
}

#[test]
fn pages_validators_and_the_envelope() {
    let d = Daemon::new();
    let t = d.token(&["status:read", "config:write"]);
    for i in 0..5 {
        d.post(&t, "/api/v1/sources", &json!({"path": d.source(&format!("s{i}"))})).ok(201);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = d.get(&t, &format!("/api/v1/sources?limit=2{cursor}")).ok(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let mut sorted = seen.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((seen.len(), &seen), (5, &sorted));
    for bad in ["limit=0", "limit=1001", "limit=x", "cursor=x", "limt=5"] {
        d.get(&t, &format!("/api/v1/sources?{bad}")).problem(400, 3001);
    }

    let at = format!("/api/v1/sources/{}", seen[0]);
    let tag = d.etag(&t, &at);
    let known = d.send("GET", &at, &[("Authorization", &bearer(&t)), ("If-None-Match", &tag)], None);
    assert_eq!((known.status, known.body.len()), (304, 0));
    let plain = d.get(&t, &at).ok(200);
    let accept = [("Authorization", &*bearer(&t)), ("Accept", "application/vnd.zoneward.envelope+json")];
    let wrapped = d.send("GET", &at, &accept, None);
    assert_eq!(wrapped.header("content-type"), Some("application/vnd.zoneward.envelope+json"));
    assert_eq!(wrapped.ok(200), json!({"result_code": 0, "result_message": "success", "data": plain}));
    d.send("GET", "/api/v1/sources/x", &accept, None).problem(404, 3004);
    let head = d.send("HEAD", &at, &[("Authorization", &bearer(&t))], None);
    assert_eq!((head.status, head.body.len()), (200, 0));
    let far = d.send("GET", "/api/v1/zone?min_revision=999999", &[("Authorization", &bearer(&t))], None);
    far.problem(503, 3015);
    assert!(far.header("retry-after").is_some());
}

#[test]
fn who_may_do_what() {
    let d = Daemon::new();
    let reader = d.token(&["status:read"]);
    assert_eq!(d.send("GET", "/livez", &[], None).body, b"ok");
    assert_eq!(d.send("GET", "/readyz", &[], None).body, b"ok");
    assert_eq!(d.send("GET", "/api/v1/version", &[], None).ok(200)["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(d.send("GET", "/api/v1/health", &[], None).ok(200)["ready"], true);
    // What needs no token does not look at one.
    for wrong in ["Bearer zwt_x", "Bearer", "Basic x"] {
        d.send("GET", "/api/v1/version", &[("Authorization", wrong)], None).ok(200);
        assert_eq!(d.send("GET", "/livez", &[("Authorization", wrong)], None).status, 200, "{wrong}");
    }
    let none = d.send("GET", "/api/v1/zone", &[], None);
    none.problem(401, 3002);
    assert!(none.header("www-authenticate").unwrap().starts_with("Bearer"));
    for wrong in ["zwt_x", "", &format!("{reader}0"), &reader.replace("zwt_", "zwt"), &flipped(&reader)] {
        d.get(wrong, "/api/v1/zone").problem(401, 3002);
    }
    d.send("GET", "/api/v1/zone", &[("Authorization", &format!("Basic {reader}"))], None).problem(401, 3002);
    let good = d.get(&reader, "/api/v1/zone");
    good.ok(200);
    assert!(good.header("ratelimit").unwrap().starts_with("\"token\";r="), "{}", good.head);

    let (sources, node) = (json!({"path": "/tmp"}), d.get(&reader, "/api/v1/nodes").ok(200)["items"][0]["id"].clone());
    let node = format!("/api/v1/nodes/{}", node.as_str().unwrap());
    d.post(&reader, "/api/v1/sources", &sources).problem(403, 3003);
    d.post(&reader, "/api/v1/checkpoints", &json!({})).problem(403, 3003);
    d.change("PATCH", &reader, &node, "\"x\"", Some(&json!({"name": "a"}))).problem(403, 3003);
    let writer = d.token(&["node:write"]);
    d.get(&writer, "/api/v1/zone").problem(403, 3003);
    d.change("PATCH", &writer, &node, "\"x\"", Some(&json!({"name": "a"}))).problem(412, 3007);
    let admin = d.token(&["admin"]);
    d.change("PATCH", &admin, &node, &d.etag(&reader, &node), Some(&json!({"name": "nas"}))).ok(200);

    let id = reader.split('_').nth(1).unwrap();
    let listed = text(&d.run(&["token", "ls"]));
    assert!(listed.contains(&id[..8]) && !listed.contains(reader.rsplit('_').next().unwrap()), "{listed}");
    assert!(d.run(&["token", "revoke", id]).status.success());
    d.get(&reader, "/api/v1/zone").problem(401, 3002);
    assert!(!d.run(&["token", "revoke", id]).status.success());
}

/// The token with another secret.
fn flipped(token: &str) -> String {
    let last = if token.ends_with('0') { "1" } else { "0" };
    format!("{}{last}", &token[..token.len() - 1])
}

#[test]
fn what_is_not_right_is_said() {
    let d = Daemon::new();
    let t = d.token(&["admin"]);
    let auth = bearer(&t);
    let auth = ("Authorization", &*auth);
    for path in ["/", "/api", "/api/v1", "/api/v1/", "/api/v1/zone/", "/api/v1/%7Aone", "/api/v2/zone", "/local/state"]
    {
        d.send("GET", path, &[auth], None).problem(404, 3004);
    }
    for path in ["/api/v1/nodes/x", "/api/v1/sources/00", "/api/v1/checkpoints/latest", "/api/v1/steps/7"] {
        d.send("GET", path, &[auth], None).problem(404, 3004);
    }
    let wrong = d.send("PUT", "/api/v1/sources", &[auth], Some("{}"));
    wrong.problem(405, 3005);
    assert!(wrong.header("allow").is_some_and(|a| a.contains("GET") && a.contains("POST")), "{}", wrong.head);
    for bad in ["{", "", "{\"path\": ", "{\"path\": \"/x\"} trailing"] {
        d.send("POST", "/api/v1/sources", &[auth], Some(bad)).problem(400, 3001);
    }
    for (bad, at) in [
        (json!({}), ""),
        (json!({"path": 5}), ""),
        (json!({"path": "/tmp", "colour": "red"}), ""),
        (json!({"path": "relative"}), "/path"),
        (json!({"path": "/tmp/../etc"}), "/path"),
        (json!({"path": "/is/not/there"}), "/path"),
        (json!({"path": "/tmp", "priority": 51}), "/priority"),
        (json!({"path": "/tmp", "copies": 9}), "/copies"),
        (json!({"path": "/tmp", "excludes": ["["]}), "/excludes"),
        (json!({"path": "/tmp", "nodes": ["00"]}), "/nodes/0"),
    ] {
        let problem = d.post(&t, "/api/v1/sources", &bad).problem(422, 3010);
        assert_eq!(problem["errors"][0]["pointer"], at, "{bad}");
    }
    let typed = format!(
        "POST /api/v1/sources HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}: {}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}",
        auth.0, auth.1
    );
    d.raw(typed.as_bytes()).problem(415, 3009);
    let long = format!("{{\"path\": \"/{}\"}}", "x".repeat(10 << 20));
    d.send("POST", "/api/v1/sources", &[auth], Some(&long)).problem(413, 3008);
    let wide = "x".repeat(20 << 10);
    d.send("GET", "/api/v1/zone", &[auth, ("X-Wide", &wide)], None).problem(431, 3013);
    // Beyond what is read at all the connection is answered without a body and closed.
    let wider = "x".repeat(1 << 20);
    assert_eq!(d.send("GET", "/livez", &[("X-Wide", &wider)], None).status, 431);
    let host = "GET /livez HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    d.raw(host.as_bytes()).problem(421, 3014);
    d.send("GET", "/livez", &[], None).body.starts_with(b"ok").then_some(()).unwrap();
    let key = "x".repeat(200);
    d.send("POST", "/api/v1/checkpoints", &[auth, ("Idempotency-Key", &key)], Some("{}")).problem(400, 3001);
    d.post(&t, "/api/v1/checkpoints", &json!({})).problem(409, 3006);
    d.post(&t, "/api/v1/checkpoints", &json!({"sources": ["00"]})).problem(422, 3010);
}

#[test]
fn any_node_serves_and_one_alone_says_that_it_cannot() {
    let first = Daemon::new();
    let (second, third) = (first.join("second"), first.join("third"));
    let t = first.token(&["admin"]);
    let voters = || {
        first.get(&t, "/api/v1/nodes").ok(200)["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|n| n["voter"] == true)
            .count()
    };
    until("three votes", || (voters() == 3).then_some(()));
    // A token counts on every node, and so does what was changed by way of any: the leader finds itself.
    let made = second.post(&t, "/api/v1/sources", &json!({"path": second.source("theirs")}));
    made.ok(201);
    let (at, revision) = (made.header("location").unwrap(), made.header("x-zoneward-revision").unwrap());
    let seen = third.get(&t, &format!("{at}?min_revision={revision}")).ok(200);
    assert_eq!(seen["path"], made.json()["path"]);
    assert_eq!(seen["nodes"].as_array().unwrap().len(), 1);
    let tag = third.etag(&t, at);
    second.change("PATCH", &t, at, &tag, Some(&json!({"priority": 7}))).ok(200);
    first.change("PATCH", &t, at, &tag, Some(&json!({"priority": 8}))).problem(412, 3007);

    drop(first);
    let other = until("a new leader", || {
        let ready = |d: &&Daemon| d.send("GET", "/readyz", &[], None).status == 200;
        [&second, &third].iter().all(ready).then_some(&second)
    });
    let nodes = other.get(&t, "/api/v1/nodes").ok(200);
    until("silence", || nodes_up(other, &t).filter(|up| *up == 2));
    assert_eq!(nodes["items"].as_array().unwrap().len(), 3);
    drop(third);
    let answer = until("no majority", || Some(second.send("GET", "/readyz", &[], None)).filter(|a| a.status == 503));
    assert_eq!(answer.body, b"quorum");
    assert_eq!(second.send("GET", "/livez", &[], None).status, 200);
    // It still shows what it knows, and does not pretend to change it.
    let tag = second.etag(&t, at);
    let refused = second.change("PATCH", &t, at, &tag, Some(&json!({"priority": 9})));
    assert!(refused.status == 503 && refused.header("retry-after").is_some(), "{}", refused.head);
}

fn nodes_up(d: &Daemon, t: &str) -> Option<usize> {
    let nodes = d.get(t, "/api/v1/nodes").ok(200);
    Some(nodes["items"].as_array()?.iter().filter(|n| n["up"] == true).count())
}

/// A stream of events, line by line.
#[test]
fn a_token_that_asks_too_fast_waits_and_others_do_not() {
    let d = Daemon::new();
    let (fast, calm) = (d.token(&["status:read"]), d.token(&["status:read"]));
    // One connection, everything sent at once: no client is slower than the limit.
    let one = format!("GET /api/v1/zone HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n\r\n", bearer(&fast));
    let last = one.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let all = one.repeat(399) + &last;
    let mut s = TcpStream::connect(d.api).unwrap();
    s.set_read_timeout(Some(LIMIT)).unwrap();
    let mut writer = s.try_clone().unwrap();
    let sent = std::thread::spawn(move || writer.write_all(all.as_bytes()));
    let mut answers = String::new();
    s.read_to_string(&mut answers).unwrap();
    sent.join().unwrap().unwrap();
    let (good, refused) = (answers.matches("HTTP/1.1 200").count(), answers.matches("HTTP/1.1 429").count());
    assert_eq!(good + refused, 400);
    assert!(good >= 100 && refused > 0, "{good} good, {refused} refused");
    assert!(answers.to_lowercase().contains("retry-after: 1"));
    d.get(&calm, "/api/v1/zone").ok(200);
}

#[test]
fn where_the_api_listens() {
    let d = Daemon::new();
    let up = |args: &[&str]| {
        let mut all = vec!["up", "--listen", "127.0.0.1:0"];
        all.extend(args);
        let o = command(&d.dir.path().join("none"), &all).output().unwrap();
        (o.status.code(), text(&o))
    };
    let (code, said) = up(&["--api", "0.0.0.0:7440"]);
    assert!(code == Some(4) && said.contains("ZW-3103"), "{said}");
    let (code, said) = up(&["--api", "nowhere"]);
    assert!(code == Some(2) && said.contains("ZW-3102"), "{said}");
    let (code, said) = up(&["--api", &d.api.to_string()]);
    assert!(code == Some(1) && said.contains("ZW-3104"), "{said}");
    let (_, said) = up(&["--api", "off"]);
    assert!(said.contains("ZW-1001"), "{said}");
}

#[test]
fn the_description_is_served_and_covers_what_is_served() {
    let d = Daemon::new();
    let t = d.token(&["metrics:read"]);
    d.send("GET", "/api/v1/openapi.json", &[], None).problem(401, 3002);
    let doc = d.get(&t, "/api/v1/openapi.json").ok(200);
    for (path, item) in doc["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if path.ends_with("/events") {
                continue;
            }
            let status = d.send(&method.to_uppercase(), &path.replace("{id}", "x"), &[], None).status;
            let open = operation["security"].is_null() || path == "/metrics";
            assert_eq!(status, if open { 200 } else { 401 }, "{method} {path}");
        }
    }
}

#[test]
fn a_restore_is_asked_for_followed_and_stopped() {
    let d = Daemon::new();
    let (t, reader) = (d.token(&["admin"]), d.token(&["status:read"]));
    let path = d.source("documents");
    d.post(&t, "/api/v1/sources", &json!({"path": path})).ok(201);
    let at = d.post(&t, "/api/v1/checkpoints", &json!({})).header("location").unwrap().to_owned();
    until("the checkpoint", || Some(d.get(&t, &at).ok(200)).filter(|c| c["state"] == "published"));
    let to = d.dir.path().canonicalize().unwrap().join("restored");
    let ask = json!({"checkpoint": "latest", "paths": [format!("{path}/")], "to": to, "verify": true});
    d.post(&reader, "/api/v1/restores", &ask).problem(403, 3003);
    let begun = d.post(&t, "/api/v1/restores", &ask);
    assert_eq!(begun.ok(202)["to"], json!(to));
    let at = begun.header("location").unwrap().to_owned();
    let ended = |at: &str| {
        let open = |r: &Value| r["state"] == "waiting" || r["state"] == "running";
        until("the restore", || Some(d.get(&reader, at).ok(200)).filter(|r| !open(r)))
    };
    let done = ended(&at);
    assert_eq!((&done["state"], &done["files"], &done["failed"]), (&json!("done"), &json!(1), &json!(0)), "{done}");
    let file = to.join(path.trim_start_matches('/')).join("file");
    assert_eq!(std::fs::read(&file).unwrap(), b"the content of documents");
    // Again: what is right is kept; what has ended cannot be stopped.
    let again = ended(d.post(&t, "/api/v1/restores", &ask).header("location").unwrap());
    assert_eq!((&again["state"], &again["kept"]), (&json!("done"), &json!(1)));
    d.send("DELETE", &at, &[("Authorization", &bearer(&t))], None).problem(409, 3006);
    assert_eq!(d.get(&reader, "/api/v1/restores").ok(200)["items"].as_array().unwrap().len(), 2);
    // A file is in the way of the folder: it is left, and named.
    std::fs::remove_dir_all(&to).unwrap();
    std::fs::create_dir(&to).unwrap();
    let block = to.join(path.trim_start_matches('/').split('/').next().unwrap());
    std::fs::write(&block, b"mine").unwrap();
    let blocked = ended(d.post(&t, "/api/v1/restores", &ask).header("location").unwrap());
    assert!(blocked["state"] == "incomplete" || blocked["state"] == "failed", "{blocked}");
    assert_eq!(std::fs::read(&block).unwrap(), b"mine");
    let with = |k: &str, v: Value| {
        let mut ask = ask.clone();
        ask[k] = v;
        d.post(&t, "/api/v1/restores", &ask).problem(422, 3010)
    };
    with("to", json!("relative"));
    with("to", json!(d.home().canonicalize().unwrap().join("x")));
    with("to", json!("/tmp/../etc"));
    // Whoever holds the target could read it.
    with("to", json!(d.dir.path().canonicalize().unwrap().join("target/out")));
    // Over a source, inside of one, or through a link into one.
    with("to", json!("/"));
    with("to", json!(path));
    let link = d.dir.path().canonicalize().unwrap().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    with("to", json!(link.join("x")));
    with("paths", json!(["relative"]));
    with("paths", json!(["/nowhere/at/all"]));
    with("checkpoint", json!("77"));
    let none = ended(
        d.post(&t, "/api/v1/restores", &json!({"checkpoint": "1", "paths": [format!("{path}/x")], "to": to}))
            .header("location")
            .unwrap(),
    );
    assert_eq!(none["state"], "failed");
}
