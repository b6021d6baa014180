//! Events: they come, go on where they were, and end with the token.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::{Daemon, LIMIT, bearer, until};

struct Events(BufReader<TcpStream>);

impl Events {
    fn open(d: &Daemon, token: &str, query: &str, last: Option<&str>) -> Self {
        let mut s = TcpStream::connect(d.api).unwrap();
        s.set_read_timeout(Some(LIMIT)).unwrap();
        let last = last.map_or_else(String::new, |l| format!("Last-Event-ID: {l}\r\n"));
        let auth = bearer(token);
        write!(s, "GET /api/v1/events{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {auth}\r\n{last}\r\n")
            .unwrap();
        Self(BufReader::new(s))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let n = self.0.read_line(&mut line).unwrap();
        (n > 0).then(|| line.trim_end().to_owned())
    }

    fn status(&mut self) -> u16 {
        self.line().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The next event: its name, id and data.
    fn next(&mut self) -> Option<(String, String, Value)> {
        let (mut name, mut id) = (String::new(), String::new());
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                Some(("event", n)) => name = n.to_owned(),
                Some(("id", n)) => id = n.to_owned(),
                Some(("data", d)) => return Some((name, id, serde_json::from_str(d).unwrap())),
                _ => {}
            }
        }
    }
}

#[test]
fn events_come_go_on_where_they_were_and_end_with_the_token() {
    let d = Daemon::new();
    let admin = d.token(&["admin"]);
    let reader = d.token(&["status:read"]);
    let mut first = Events::open(&d, &reader, "?topics=sources", None);
    assert_eq!(first.status(), 200);
    let head: Vec<String> = std::iter::from_fn(|| first.line().filter(|l| !l.is_empty())).collect();
    let head = head.join("\n").to_lowercase();
    assert!(head.contains("text/event-stream") && head.contains("x-accel-buffering: no"), "{head}");
    let retry = until("the beginning", || first.line().filter(|l| l.starts_with("retry")));
    assert_eq!(retry, "retry: 3000");
    let a = d.post(&admin, "/api/v1/sources", &json!({"path": d.source("a")})).ok(201);
    let (name, id, data) = first.next().unwrap();
    assert_eq!(
        (&*name, &data["changes"][0]["id"], &data["changes"][0]["topic"]),
        ("change", &a["id"], &json!("sources"))
    );
    drop(first);

    let b = d.post(&admin, "/api/v1/sources", &json!({"path": d.source("b")})).ok(201);
    let c = d.post(&admin, "/api/v1/sources", &json!({"path": d.source("c")})).ok(201);
    let mut again = Events::open(&d, &reader, "?topics=sources", Some(&id));
    let mut missed = Vec::new();
    while missed.len() < 2 {
        let (name, _, data) = again.next().unwrap();
        assert_eq!(name, "change");
        missed.extend(data["changes"].as_array().unwrap().iter().map(|c| c["id"].clone()));
    }
    missed.sort_by_key(|v| v != &b["id"]);
    assert_eq!(missed, [b["id"].clone(), c["id"].clone()]);

    for unknown in ["0", "99999999"] {
        let (name, _, data) = Events::open(&d, &reader, "", Some(unknown)).next().unwrap();
        assert_eq!(name, "resync");
        assert!(data["revision"].as_u64().is_some_and(|r| r > 0));
    }
    assert_eq!(Events::open(&d, &reader, "?topics=weather", None).status(), 400);
    assert_eq!(Events::open(&d, &reader, "", Some("x")).status(), 400);

    let other = d.token(&["status:read"]);
    let mut open: Vec<Events> = (0..8).map(|_| Events::open(&d, &other, "", None)).collect();
    assert!(open.iter_mut().all(|e| e.status() == 200));
    assert_eq!(Events::open(&d, &other, "", None).status(), 429);

    // A stream ends with its token.
    assert!(d.run(&["token", "revoke", reader.split('_').nth(1).unwrap()]).status.success());
    while again.next().is_some() {}
}
