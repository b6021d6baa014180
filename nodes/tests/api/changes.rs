//! Changes: what they were made from, and what is not taken.

use serde_json::{Value, json};

use super::{Daemon, bearer, until};

#[test]
fn of_two_operators_who_saw_the_same_one_wins() {
    let d = Daemon::new();
    let t = d.token(&["admin"]);
    let made = d.post(&t, "/api/v1/sources", &json!({"path": d.source("shared")}));
    let at = made.header("location").unwrap().to_owned();
    let tag = made.header("etag").unwrap().to_owned();
    d.send("PATCH", &at, &[("Authorization", &bearer(&t))], Some("{}")).problem(428, 3011);
    d.change("PATCH", &t, &at, "*", Some(&json!({}))).problem(428, 3011);
    let start = std::sync::Barrier::new(8);
    let codes: Vec<u16> = std::thread::scope(|s| {
        let racer = |i: i32| {
            let (d, t, at, tag, start) = (&d, &t, &at, &tag, &start);
            s.spawn(move || {
                start.wait();
                d.change("PATCH", t, at, tag, Some(&json!({"priority": i}))).status
            })
        };
        let all: Vec<_> = (1..=8).map(racer).collect();
        all.into_iter().map(|r| r.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|c| **c == 200).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|c| **c == 412).count(), 7, "{codes:?}");
    let winner = codes.iter().position(|c| *c == 200).unwrap() as i64 + 1;
    assert_eq!(d.get(&t, &at).ok(200)["priority"], winner);
    d.change("DELETE", &t, &at, &tag, None).problem(412, 3007);

    // What the zone learns by itself is in nobody's way.
    let tag = d.etag(&t, &at);
    let begun = d.post(&t, "/api/v1/checkpoints", &json!({}));
    let checkpoint = begun.header("location").unwrap().to_owned();
    until("the checkpoint", || (d.get(&t, &checkpoint).ok(200)["state"] == "published").then_some(()));
    assert_ne!(d.etag(&t, &at), tag);
    let patched = d.change("PATCH", &t, &at, &tag, Some(&json!({"copies": 2, "priority": -3})));
    assert_eq!(patched.ok(200)["copies"], 2);
    let tag = patched.header("etag").unwrap().to_owned();
    let patched = d.change("PATCH", &t, &at, &tag, Some(&json!({"copies": null})));
    assert_eq!((&patched.ok(200)["copies"], &patched.json()["priority"]), (&Value::Null, &json!(-3)));
    let gone = d.change("DELETE", &t, &at, patched.header("etag").unwrap(), None);
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    d.get(&t, &at).problem(404, 3004);

    let target = d.get(&t, "/api/v1/targets").ok(200)["items"][0]["id"].as_str().unwrap().to_owned();
    let at = format!("/api/v1/targets/{target}");
    let tag = d.etag(&t, &at);
    assert_eq!(d.change("PATCH", &t, &at, &tag, Some(&json!({"paused": true}))).ok(200)["paused"], true);
    d.change("PATCH", &t, &at, &tag, Some(&json!({"paused": false}))).problem(412, 3007);
    let node = d.get(&t, "/api/v1/nodes").ok(200)["items"][0]["id"].as_str().unwrap().to_owned();
    let at = format!("/api/v1/nodes/{node}");
    let drained = d.change("PATCH", &t, &at, &d.etag(&t, &at), Some(&json!({"standing": "draining"})));
    assert_eq!(drained.ok(200)["standing"], "draining");
    d.change("PATCH", &t, &at, &d.etag(&t, &at), Some(&json!({"standing": "faulty"}))).problem(422, 3010);
}
