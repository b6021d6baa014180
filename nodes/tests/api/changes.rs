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

#[test]
fn what_a_target_costs_is_told_to_programs_too() {
    let d = Daemon::new();
    let t = d.token(&["status:read", "metrics:read"]);
    let target = || d.get(&t, "/api/v1/targets").ok(200)["items"][0].clone();
    let metrics = || String::from_utf8(d.get(&t, "/metrics").body).unwrap();
    // The node has looked at its targets soon after its start.
    until("the room", || target()["free_bytes"].as_u64());
    let before = target();
    for nothing in ["price", "cost_per_month", "paid_until", "paid_until_from", "renew_in_days", "quota_bytes"] {
        assert!(before[nothing].is_null(), "{nothing}: {before}");
    }
    assert!(metrics().contains("zoneward_target_free_bytes{target=\"first\"} "));
    assert!(!metrics().contains("zoneward_target_cost_per_month{"));
    let at = format!("/api/v1/targets/{}", before["id"].as_str().unwrap());
    let seen = d.etag(&t, &at);
    let set = ["target", "set", "first", "--price", "4.99EUR/month", "--paid-until", "2100-01-01", "--quota", "1MiB"];
    let set = d.run(&set);
    assert!(set.status.success(), "{}", super::text(&set));
    let after = d.get(&t, &at).ok(200);
    assert_eq!(after["price"], json!({"amount": "4.99", "currency": "EUR", "per": "month"}));
    assert_eq!(after["cost_per_month"], json!({"amount": "4.99", "currency": "EUR"}));
    assert_eq!((&after["paid_until"], &after["paid_until_from"]), (&json!("2100-01-01T00:00:00Z"), &json!("person")));
    let used = after["used_bytes"].as_u64().unwrap();
    assert_eq!((&after["quota_bytes"], &after["free_bytes"]), (&json!(1 << 20), &json!((1u64 << 20) - used)));
    assert!(after["renew_in_days"].as_i64().unwrap() > 10_000, "{after}");
    // It is a setting: who saw the target before would undo it.
    assert_ne!(seen.split('-').nth(1), d.etag(&t, &at).split('-').nth(1));
    let told = metrics();
    for line in [
        "zoneward_target_cost_per_month{target=\"first\",currency=\"EUR\"} 4.99".to_owned(),
        "zoneward_target_paid_until_timestamp_seconds{target=\"first\"} 4102444800".to_owned(),
        format!("zoneward_target_used_bytes{{target=\"first\"}} {used}"),
        format!("zoneward_target_free_bytes{{target=\"first\"}} {}", (1u64 << 20) - used),
    ] {
        assert!(told.contains(&line), "{line} in\n{told}");
    }
}

#[test]
fn a_source_may_have_a_name_that_lies_elsewhere_on_each_node() {
    let d = Daemon::new();
    let t = d.token(&["admin"]);
    let new = |path: &str| d.post(&t, "/api/v1/sources", &json!({"path": path}));
    new("dfs://media/photos").problem(422, 3010);
    let place = d.source("mnt");
    assert!(d.run(&["dfs", "map", "media", &place]).status.success());
    let made = new("dfs://media//photos/").ok(201);
    assert_eq!((&made["path"], &made["nodes"]), (&json!("dfs://media/photos"), &json!([])));
    new("dfs://media/photos").problem(409, 3006);
    for bad in ["dfs://media/../x", "dfs://other", "dfs:///x", "dfs://"] {
        new(bad).problem(422, 3010);
    }
}
