//! Schedules, conditions, limits, levels, and their metrics.

use serde_json::{Value, json};

use super::{Daemon, until};

#[test]
fn schedules_are_made_changed_and_forgotten() {
    let d = Daemon::new();
    let t = d.token(&["status:read", "config:write"]);
    let listed = d.get(&t, "/api/v1/schedules").ok(200);
    assert_eq!((listed["items"].as_array().unwrap().len(), &listed["items"][0]["name"]), (1, &json!("daily")));
    let source = d.post(&t, "/api/v1/sources", &json!({"path": d.source("photos")})).ok(201);
    assert_eq!((&source["snapshot"], &source["commands"]), (&json!("auto"), &json!([])));
    let at = "/api/v1/schedules/photos-4h";
    let put = |body: &Value| {
        let bearer = super::bearer(&t);
        d.send("PUT", at, &[("Authorization", &bearer), ("Content-Type", "application/json")], Some(&body.to_string()))
    };
    let new = json!({"cron": "0 */4 * * *", "time_zone": "Europe/Berlin", "window": "20:00-07:00", "kind": "full",
                     "sources": [source["id"]], "idle_wait_minutes": 30});
    let made = put(&new);
    let v = made.ok(201);
    assert_eq!(made.header("location"), Some(at));
    assert_eq!(
        (&v["window"], &v["kind"], &v["state"], &v["begun"]),
        (&json!("20:00-07:00"), &json!("full"), &json!("next"), &Value::Null)
    );
    assert!(v["at"].as_str().unwrap().ends_with('Z'), "{v}");
    // There is one now: it is changed only by who has seen it.
    put(&new).problem(428, 3011);
    let tag = made.header("etag").unwrap().to_owned();
    let paused = d.change("PUT", &t, at, &tag, Some(&json!({"cron": "0 3 * * 0", "paused": true})));
    let v = paused.ok(200);
    assert_eq!((&v["state"], &v["window"], &v["sources"]), (&json!("paused"), &Value::Null, &json!([])));
    d.change("PUT", &t, at, &tag, Some(&new)).problem(412, 3007);
    d.change("DELETE", &t, at, &tag, None).problem(412, 3007);
    let other = "/api/v1/schedules/other";
    d.change("PUT", &t, other, &tag, Some(&new)).problem(412, 3007);
    let tag = d.etag(&t, at);
    assert_eq!(d.change("DELETE", &t, at, &tag, None).status, 204);
    d.get(&t, at).problem(404, 3004);
    d.change("DELETE", &t, at, &tag, None).problem(404, 3004);
    for (body, pointer) in [
        (json!({"cron": "0 3 * *"}), "/cron"),
        (json!({"cron": "0 3 31 2 *"}), "/cron"),
        (json!({"cron": "0 3 * * *", "time_zone": "Mars/Olympus"}), "/time_zone"),
        (json!({"cron": "0 3 * * *", "window": "9-10"}), "/window"),
        (json!({"cron": "0 3 * * *", "window": "22:00-02:00"}), "/window"),
        (json!({"cron": "0 3 * * *", "idle_wait_minutes": 10081}), "/idle_wait_minutes"),
        (json!({"cron": "0 3 * * *", "sources": ["00"]}), "/sources/0"),
    ] {
        assert_eq!(put(&body).problem(422, 3010)["errors"][0]["pointer"], pointer, "{body}");
    }
    let reader = d.token(&["status:read"]);
    d.change("DELETE", &reader, "/api/v1/schedules/daily", &d.etag(&t, "/api/v1/schedules/daily"), None)
        .problem(403, 3003);
}

#[test]
fn of_two_who_make_the_same_schedule_one_wins() {
    let d = Daemon::new();
    let t = d.token(&["status:read", "config:write"]);
    let start = std::sync::Barrier::new(6);
    let codes: Vec<u16> = std::thread::scope(|s| {
        let racer = |i: i32| {
            let (d, t, start) = (&d, &t, &start);
            s.spawn(move || {
                let body = json!({"cron": format!("{i} 1 * * *")}).to_string();
                let headers = [("Authorization", super::bearer(t)), ("Content-Type", "application/json".into())];
                let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
                start.wait();
                d.send("PUT", "/api/v1/schedules/raced", &headers, Some(&body)).status
            })
        };
        let all: Vec<_> = (0..6).map(racer).collect();
        all.into_iter().map(|r| r.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|c| **c == 201).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|c| [201, 412, 428].contains(c)), "{codes:?}");
    let winner = codes.iter().position(|c| *c == 201).unwrap();
    assert_eq!(d.get(&t, "/api/v1/schedules/raced").ok(200)["cron"], format!("{winner} 1 * * *"));
}

#[test]
fn conditions_and_limits_are_set_as_a_whole() {
    let d = Daemon::new();
    let t = d.token(&["status:read", "config:write"]);
    let at = "/api/v1/conditions";
    let tag = d.etag(&t, at);
    let set = json!({"on_battery": true, "on_metered": false, "idle_load_percent": 30, "idle_io_percent": 5});
    assert_eq!(d.change("PUT", &t, at, &tag, Some(&set)).ok(200), set);
    d.change("PUT", &t, at, &tag, Some(&set)).problem(412, 3007);
    let mut wrong = set.clone();
    wrong["idle_io_percent"] = json!(101);
    d.change("PUT", &t, at, &d.etag(&t, at), Some(&wrong)).problem(422, 3010);
    let at = "/api/v1/limits";
    let tag = d.etag(&t, at);
    let limit = json!({"window": "08:00-18:00", "upload_bytes_per_second": 1_000_000, "cpu_percent": null});
    let set = json!({"limits": [limit]});
    assert_eq!(d.change("PUT", &t, at, &tag, Some(&set)).ok(200), set);
    d.change("PUT", &t, at, &tag, Some(&json!({"limits": []}))).problem(412, 3007);
    for (part, value) in
        [("window", json!("25:00-26:00")), ("cpu_percent", json!(0)), ("upload_bytes_per_second", json!(0))]
    {
        let mut wrong = set.clone();
        wrong["limits"][0][part] = value;
        let said = d.change("PUT", &t, at, &d.etag(&t, at), Some(&wrong)).problem(422, 3010);
        assert_eq!(said["errors"][0]["pointer"], format!("/limits/0/{part}"));
    }
    let many = json!({"limits": vec![limit; 25]});
    d.change("PUT", &t, at, &d.etag(&t, at), Some(&many)).problem(422, 3010);
}

#[test]
fn levels_are_those_of_status_and_come_as_metrics() {
    let d = Daemon::new();
    let t = d.token(&["status:read", "config:write", "metrics:read"]);
    let levels = |d: &Daemon| d.get(&t, "/api/v1/zone/levels").ok(200);
    let status = |d: &Daemon| -> Value { serde_json::from_slice(&d.run(&["--json", "status"]).stdout).unwrap() };
    let metric = |d: &Daemon, name: &str| {
        let text = String::from_utf8(d.get(&t, "/metrics").body).unwrap();
        let line = text.lines().find(|l| l.starts_with(name)).map(str::to_owned);
        line.map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
    };
    let numbers = |v: &Value| (v["reliability"]["number"].clone(), v["availability"]["number"].clone());
    until("both see the leader and the target", || (numbers(&levels(&d)) == numbers(&status(&d))).then_some(()));
    let (now, told) = (levels(&d), status(&d));
    for ladder in ["reliability", "availability"] {
        for part in ["number", "name", "consequence", "reason", "next_action", "commands"] {
            assert_eq!(now[ladder][part], told[ladder][part], "{ladder} {part}");
        }
        let number = metric(&d, &format!("zoneward_{ladder}_level"));
        assert_eq!(number, now[ladder]["number"].as_f64());
    }
    assert_eq!(metric(&d, "zoneward_schedule_paused{schedule=\"daily\"}"), Some(0.0));
    assert_eq!(metric(&d, "zoneward_schedule_begun_timestamp_seconds{"), None);
    assert_eq!(metric(&d, "zoneward_target_paused{"), Some(0.0));
    let tag = d.etag(&t, "/api/v1/schedules/daily");
    d.change("PUT", &t, "/api/v1/schedules/daily", &tag, Some(&json!({"cron": "0 1 * * *", "paused": true}))).ok(200);
    assert_eq!(metric(&d, "zoneward_schedule_paused{schedule=\"daily\"}"), Some(1.0));
}
