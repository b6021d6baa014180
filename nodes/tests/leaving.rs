//! How nodes leave a zone of real daemons: replaced and kept beside, wiped, killed while they wipe, taken out while others are dead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fleet;
mod wait;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use fleet::{Zone, fill, same, text, until};
use serde_json::Value;

fn node(zone: &Zone, i: usize, name: &str) -> Option<Value> {
    zone.nodes(i).into_iter().find(|n| n["name"] == name)
}

fn standing(zone: &Zone, name: &str) -> String {
    node(zone, 0, name).unwrap()["standing"].as_str().unwrap().to_owned()
}

/// Runs on node 0 and expects this exit code.
fn expect(zone: &Zone, code: i32, args: &[&str]) -> String {
    let o = zone.run(0, args);
    assert_eq!(o.status.code(), Some(code), "{args:?}: {}", text(&o));
    text(&o)
}

fn backup(zone: &Zone) {
    let made = zone.json(0, &["backup"]);
    assert_eq!(made["complete"].as_bool(), Some(true), "{made}");
}

fn restores(zone: &Zone, i: usize, to: &str, source: &Path) {
    zone.ok(i, &["restore", "latest", "--to", zone.path(to).to_str().unwrap()]);
    same(source, &zone.path(to).join(source.strip_prefix("/").unwrap()));
}

/// Waits for the end of a daemon, and answers its exit code.
fn ends(zone: &mut Zone, i: usize) -> Option<i32> {
    let mut child = zone.up[i].take().unwrap();
    let status = until("the daemon ends", || child.try_wait().unwrap());
    status.code()
}

/// What lies in a home, by name.
fn left(home: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(home).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

fn epochs(zone: &Zone, i: usize) -> usize {
    let file: Value = serde_json::from_slice(&fs::read(zone.home(i).join("secrets/zone-secret")).unwrap()).unwrap();
    file["epochs"].as_array().map_or(1, Vec::len)
}

#[test]
fn a_node_is_replaced_stays_beside_its_successor_and_is_wiped_on_request() {
    let mut zone = Zone::three();
    let source = zone.path("source");
    fill(&source, 1);
    zone.ok(1, &["source", "add", source.to_str().unwrap()]);
    backup(&zone);

    // Its work and its sources go over; it stays, and can still be asked.
    let said = expect(&zone, 0, &["node", "replace", "second", "third", "--keep"]);
    assert!(said.contains("is read by third from now on") && said.contains("on standby"), "{said}");
    let third = node(&zone, 0, "third").unwrap()["id"].clone();
    let sources = zone.json(0, &["source", "ls"]);
    assert_eq!(sources["sources"][0]["nodes"], serde_json::json!([third]), "{sources}");
    assert_eq!(standing(&zone, "second"), "standby");
    fill(&source, 2);
    backup(&zone);
    restores(&zone, 1, "from-the-old", &source);
    // Twice is as good as once, and it can be taken back.
    expect(&zone, 0, &["node", "replace", "second", "third", "--keep"]);
    expect(&zone, 0, &["node", "standby", "second", "--undo"]);
    assert_eq!(standing(&zone, "second"), "member");
    let refused = expect(&zone, 4, &["node", "wipe", "second", "--confirm", "second"]);
    assert!(refused.contains("ZW-2045"), "{refused}");
    expect(&zone, 0, &["node", "standby", "second"]);

    // Not by a slip.
    for args in [&["node", "wipe", "second"][..], &["node", "wipe", "second", "--confirm", "third"]] {
        let refused = expect(&zone, 4, args);
        assert!(refused.contains("ZW-2046") && refused.contains("The files of sources and targets stay"), "{refused}");
    }
    let home = zone.home(1);
    assert!(home.join("secrets/zone-secret").exists());
    fs::write(home.join("letter"), "mine").unwrap();
    let said = expect(&zone, 0, &["node", "wipe", "second", "--confirm", "second"]);
    assert!(
        said.contains("deleted the zone's secret") && said.contains("does not belong to the zone any more"),
        "{said}"
    );
    assert_eq!(ends(&mut zone, 1), Some(0));
    assert_eq!(left(&home), ["letter"], "only what is not ours is left");
    assert_eq!(node(&zone, 0, "second"), None);
    until("the zone has a new secret", || (epochs(&zone, 0) == 2 && epochs(&zone, 2) == 2).then_some(()));

    // Nothing else was touched.
    fill(&source, 3);
    backup(&zone);
    restores(&zone, 0, "after", &source);
    expect(&zone, 0, &["check", "--read-data"]);
    // The folder is good for a new node.
    fs::remove_file(home.join("letter")).unwrap();
    zone.join(1, "fourth");
    restores(&zone, 1, "from-the-new", &source);
}

#[test]
fn a_node_that_is_killed_while_it_wipes_goes_on_with_that_and_nothing_else() {
    let mut zone = Zone::three();
    let source = zone.path("source");
    fill(&source, 1);
    zone.ok(0, &["source", "add", source.to_str().unwrap(), "--shared"]);
    backup(&zone);
    let home = zone.home(1);
    // Enough to be killed in the middle of it.
    for i in 0..4000 {
        fs::write(home.join(format!("catalogs/x-{i}")), [7; 8192]).unwrap();
    }
    expect(&zone, 0, &["node", "standby", "second"]);
    let mut wipe = zone.command(0, &["node", "wipe", "second", "--confirm", "second"]);
    let wipe = wipe.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let secret = home.join("secrets/zone-secret");
    until("the secret goes first", || (!secret.exists()).then_some(()));
    zone.kill(1);
    let names = left(&home);
    assert!(names.contains(&"wipe-begun".to_owned()) && names.contains(&"zone.redb".to_owned()), "{names:?}");
    // Whoever asked is told the truth.
    let said = text(&wipe.wait_with_output().unwrap());
    assert!(
        said.contains("second was asked to wipe its home and is not heard any more")
            && said.contains("does not belong to the zone any more"),
        "{said}"
    );
    // It is no node any more, and no new one yet.
    for args in [&["status"][..], &["restore", "latest", "--to", "x"]] {
        let o = zone.run(1, args);
        assert!(o.status.code() == Some(4) && text(&o).contains("ZW-2042"), "{}", text(&o));
    }
    // Killed again, and again.
    for _ in 0..3 {
        let mut up = zone.command(1, &["up", "--listen", "127.0.0.1:0", "--api", "off"]);
        let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let before = fs::read_dir(home.join("catalogs")).map_or(0, Iterator::count);
        until("some more is gone", || {
            let now = fs::read_dir(home.join("catalogs")).map_or(0, Iterator::count);
            (now < before || before == 0).then_some(())
        });
        up.kill().unwrap();
        up.wait().unwrap();
    }
    let o = zone.run(1, &["up", "--listen", "127.0.0.1:0", "--api", "off"]);
    let no_zone = o.status.code() == Some(10) && text(&o).contains("ZW-1001");
    assert!(o.status.success() && text(&o).contains("this home was wiped") || no_zone, "{}", text(&o));
    assert_eq!(left(&home), Vec::<String>::new());
    until("the zone has a new secret", || (epochs(&zone, 0) == 2).then_some(()));
    restores(&zone, 0, "after", &source);
}

#[test]
fn a_node_is_taken_out_while_another_voter_is_dead() {
    let mut zone = Zone::three();
    let source = zone.path("source");
    fill(&source, 1);
    zone.ok(0, &["source", "add", source.to_str().unwrap(), "--shared"]);
    zone.kill(2);
    until("the third is missed", || {
        node(&zone, 0, "third").filter(|n| n["heard_seconds"].as_u64().is_some_and(|s| s > 5)).map(drop)
    });
    let said = expect(&zone, 0, &["node", "remove", "second"]);
    assert!(said.contains("second does not belong to the zone any more"), "{said}");
    assert_eq!(node(&zone, 0, "second"), None);
    assert_eq!((zone.nodes(0).len(), standing(&zone, "third")), (2, "member".into()));
    // It decides alone, and the dead one comes back to it.
    backup(&zone);
    zone.start(2);
    until("the third is heard", || {
        node(&zone, 2, "third").filter(|_| zone.run(2, &["status"]).status.success()).map(drop)
    });
    backup(&zone);
    // A dead one on standby is only taken out.
    zone.kill(2);
    expect(&zone, 0, &["node", "standby", "third"]);
    until("the third is missed again", || {
        node(&zone, 0, "third").filter(|n| n["heard_seconds"].as_u64().is_none_or(|s| s > 5)).map(drop)
    });
    let said = expect(&zone, 0, &["node", "wipe", "third", "--confirm", "third"]);
    assert!(said.contains("what it has stays on it"), "{said}");
    assert_eq!(zone.nodes(0).len(), 1);
    assert!(zone.home(2).join("secrets/zone-secret").exists(), "nothing was done behind its back");
}

#[test]
fn who_is_silent_and_who_was_never_heard_are_told_apart_and_the_fingerprint_is_shown() {
    let mut zone = Zone::new();
    let (code, mut stays) = zone.invite(0, "second", &[]);
    zone.ok(1, &["join", &code]);
    assert!(stays.wait().unwrap().success());
    zone.start(1);
    until("it is heard", || node(&zone, 0, "second").filter(|n| n["heard_seconds"].is_u64()).map(drop));
    let listed = zone.json(0, &["node", "ls"]);
    let fingerprint = listed["fingerprint"].as_str().unwrap().to_owned();
    assert!(fingerprint.len() >= 32, "{listed}");
    assert!(zone.ok(0, &["node", "ls"]).contains(&fingerprint) && zone.ok(1, &["status"]).contains(&fingerprint));
    let (line, mut other) = {
        let mut c = zone.command(0, &["--json", "node", "invite", "--name", "x"]);
        let mut child = c.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        (line, child)
    };
    let _ = (other.kill(), other.wait());
    let invite: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(invite["fingerprint"].as_str(), Some(&*fingerprint), "who joins compares it with this");
    zone.kill(1);
    until("its silence is timed", || zone.ok(0, &["node", "ls"]).contains("SILENT for").then_some(()));
    zone.kill(0);
    zone.start(0);
    let said = zone.ok(0, &["node", "ls"]);
    assert!(said.contains("NOT HEARD since this node started"), "{said}");
}
