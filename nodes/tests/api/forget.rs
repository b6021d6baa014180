//! Forgetting, taking it back, tags and retention.

use serde_json::{Value, json};

use super::{Daemon, bearer, text, until};

/// Bytes that cannot be made smaller.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Makes a checkpoint and waits until it is published; its path.
fn backup(d: &Daemon, t: &str, kind: &str) -> String {
    let begun = d.post(t, "/api/v1/checkpoints", &json!({"kind": kind}));
    begun.ok(202);
    let at = begun.header("location").unwrap().to_owned();
    until("the checkpoint", || (d.get(t, &at).ok(200)["state"] == "published").then_some(()));
    at
}

/// Checkpoints: the first two hold a little, the third much that the fourth no longer has.
fn four(d: &Daemon, t: &str) -> Vec<String> {
    let dir = d.source("kept");
    let file = |name: &str, seed: u32, len: usize| std::fs::write(format!("{dir}/{name}"), noise(seed, len)).unwrap();
    file("large", 7, 2_000_000);
    d.post(t, "/api/v1/sources", &json!({"path": dir})).ok(201);
    let mut all = vec![backup(d, t, "full")];
    file("small", 8, 1000);
    all.push(backup(d, t, "incremental"));
    file("gone", 11, 3_000_000);
    all.push(backup(d, t, "incremental"));
    std::fs::remove_file(format!("{dir}/gone")).unwrap();
    // It stands by itself: an incremental one would need what those before it hold.
    all.push(backup(d, t, "full"));
    all
}

#[test]
fn a_checkpoint_is_forgotten_and_taken_back_and_what_is_the_owners_stays_the_owners() {
    let d = Daemon::new();
    let t = d.token(&["admin"]);
    let all = four(&d, &t);
    let [first, second, third, newest] = &all[..] else { unreachable!() };
    let act = |t: &str, at: &str, what: &str| d.change("POST", t, &format!("{at}/{what}"), &d.etag(t, at), None);

    // What it was made from has to be said, and who may is told apart.
    d.send("POST", &format!("{second}/forget"), &[("Authorization", &bearer(&t))], None).problem(428, 3011);
    d.change("POST", &t, &format!("{second}/forget"), "\"1-00-00\"", None).problem(412, 3007);
    let reader = d.token(&["status:read", "config:write", "backup:run"]);
    act(&reader, second, "forget").problem(403, 3003);
    let may = d.token(&["delete", "status:read"]);
    let gone = act(&may, second, "forget");
    assert!(gone.ok(200)["forgotten"].is_string());
    act(&may, second, "forget").problem(409, 3006);
    let listed = d.get(&t, "/api/v1/retention").ok(200);
    assert_eq!(listed["forgotten"].as_array().unwrap().len(), 1);
    assert_eq!((&listed["forgotten"][0]["seq"], &listed["forgotten"][0]["leaves"]), (&json!(2), &json!(false)));
    // The command line sees the same.
    assert!(text(&d.run(&["checkpoints", "--forgotten"])).contains("forgotten "));

    // Who saw it before it was forgotten does not take it back.
    let old = d.etag(&t, second);
    act(&t, second, "undelete").ok(200);
    d.change("POST", &t, &format!("{second}/undelete"), &old, None).problem(412, 3007);
    let back = d.get(&t, second).ok(200);
    assert!(back["forgotten"].is_null(), "{back}");
    act(&t, second, "undelete").problem(409, 3006);

    // The newest stays. By number it is found too.
    act(&t, newest, "forget").problem(409, 3006);
    act(&t, "/api/v1/checkpoints/latest", "forget").problem(409, 3006);
    act(&t, "/api/v1/checkpoints/1", "forget").ok(200);
    d.change("POST", &t, "/api/v1/checkpoints/99/undelete", &old, None).problem(404, 3004);

    // Much would go with the third: that is the owner's to say, and not here, whatever is sent.
    let held = act(&t, third, "forget").problem(403, 3050);
    let detail = held["detail"].as_str().unwrap();
    assert!(detail.contains("zoneward forget 3 --apply --owner") && detail.contains("MiB"), "{detail}");
    let path = format!("{third}/forget");
    let body = json!({"now": true, "owner": {"expires_ms": 1, "signature": "AAAA"}});
    d.change("POST", &t, &path, &d.etag(&t, third), Some(&body)).problem(403, 3050);
    assert!(d.get(&t, third).ok(200)["forgotten"].is_null());
    let said = d.run(&["forget", "3", "--apply", "--owner"]);
    assert!(said.status.success(), "{}", text(&said));
    assert!(d.get(&t, third).ok(200)["forgotten"].is_string());
    assert!(d.get(&t, first).ok(200)["forgotten"].is_string());
}

#[test]
fn tags_and_retention_are_settings_and_the_grace_grows_only() {
    let d = Daemon::new();
    let t = d.token(&["status:read", "config:write", "backup:run"]);
    let all = four(&d, &t);
    let at = &all[0];
    let tags =
        |t: &str, tags: Value| d.change("PUT", t, &format!("{at}/tags"), &d.etag(t, at), Some(&json!({"tags": tags})));
    assert_eq!(tags(&t, json!(["before the move", "keep"])).ok(200)["tags"], json!(["before the move", "keep"]));
    let before = d.etag(&t, at);
    assert_eq!(tags(&t, json!(["keep"])).ok(200)["tags"], json!(["keep"]));
    let late = d.change("PUT", &t, &format!("{at}/tags"), &before, Some(&json!({"tags": []})));
    late.problem(412, 3007);
    for bad in [json!([""]), json!(["a,b"]), json!(["a\nb"]), json!(["x".repeat(101)])] {
        assert_eq!(tags(&t, bad).problem(422, 3010)["errors"][0]["pointer"], "/tags/0");
    }
    let many: Vec<String> = (0..33).map(|i| i.to_string()).collect();
    assert_eq!(tags(&t, json!(many)).problem(422, 3010)["errors"][0]["pointer"], "/tags");
    tags(&d.token(&["delete", "status:read"]), json!([])).problem(403, 3003);

    let path = "/api/v1/retention";
    let put = |v: Value| d.change("PUT", &t, path, &d.etag(&t, path), Some(&v));
    let now = d.get(&t, path).ok(200);
    let grace = now["grace_seconds"].as_u64().unwrap();
    assert_eq!((&now["rules"], grace), (&Value::Null, 7 * 24 * 3600));
    let seen = d.etag(&t, path);
    let set = put(json!({"rules": {"last": 1, "tags": ["keep"]}, "grace_seconds": grace + 60}));
    let set = set.ok(200);
    assert_eq!((&set["rules"]["last"], &set["rules"]["daily"]), (&json!(1), &json!(0)));
    assert_eq!((&set["rules"]["tags"], &set["grace_seconds"]), (&json!(["keep"]), &json!(grace + 60)));
    // The newest and the one with the tag stay; the third takes much with it.
    assert_eq!(set["due"].as_array().unwrap().len(), 2, "{set}");
    assert!(set["needs_owner"].as_str().is_some_and(|w| w.contains("MiB")), "{set}");
    d.change("PUT", &t, path, &seen, Some(&json!({"rules": null, "grace_seconds": grace + 60}))).problem(412, 3007);

    // Shorter is the owner's to say.
    let held = put(json!({"rules": null, "grace_seconds": grace})).problem(403, 3050);
    assert!(held["detail"].as_str().unwrap().contains(&format!("zoneward retention set --grace {grace}s --owner")));
    assert_eq!(d.get(&t, path).ok(200)["rules"]["last"], 1, "nothing of it was done");
    put(json!({"rules": {}, "grace_seconds": grace + 60})).problem(422, 3010);
    put(json!({"rules": null, "grace_seconds": 4_000_000_000u64})).problem(422, 3010);
    put(json!({"rules": {"tags": ["a,b"]}, "grace_seconds": grace + 60})).problem(422, 3010);
    // What is left out is no wish to keep everything.
    assert_eq!(put(json!({"grace_seconds": grace + 60})).status / 100, 4);
    assert_eq!(put(json!({"rules": {"lats": 1}, "grace_seconds": grace + 60})).status / 100, 4);
    let kept = put(json!({"rules": null, "grace_seconds": grace + 60})).ok(200);
    assert_eq!((&kept["rules"], &kept["due"], &kept["needs_owner"]), (&Value::Null, &json!([]), &Value::Null));
}
