//! What several real daemons do together: a new secret when one of them goes, commands around sources, names that lie
//! elsewhere on each node.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fleet;
mod wait;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use fleet::{Zone, fill, same, text, until};
use serde_json::Value;

/// The secrets in a home: epoch and text of each.
fn secrets(zone: &Zone, i: usize) -> Vec<(u64, String)> {
    let path = zone.home(i).join("secrets/zone-secret");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let one = |v: &Value| (v["epoch"].as_u64().unwrap(), v["secret"].as_str().unwrap().to_owned());
    match file["epochs"].as_array() {
        Some(all) => all.iter().map(one).collect(),
        None => vec![one(&file)],
    }
}

/// Whether the zone has nothing to hand round.
fn settled(zone: &Zone, i: usize) -> Option<()> {
    (!zone.ok(i, &["status"]).contains("a node that knew the zone's secret was removed")).then_some(())
}

fn backup(zone: &Zone, i: usize, source: &Path) {
    let made = zone.json(i, &["backup", source.to_str().unwrap(), "--shared", "--copies", "1"]);
    assert_eq!(made["complete"].as_bool(), Some(true), "{made}");
}

fn restores(zone: &Zone, i: usize, checkpoint: &str, to: &str, source: &Path) {
    zone.ok(i, &["restore", checkpoint, "--to", zone.path(to).to_str().unwrap()]);
    same(source, &zone.path(to).join(source.strip_prefix("/").unwrap()));
}

#[test]
fn who_is_removed_knows_nothing_of_what_comes_after() {
    let mut zone = Zone::three();
    let source = zone.path("source");
    fill(&source, 1);
    backup(&zone, 0, &source);
    let first = secrets(&zone, 0);
    assert_eq!((first.len(), first[0].0), (1, 1));
    let removed = zone.home(2).join("secrets/zone-secret");
    let known_to_it = fs::read(&removed).unwrap();

    // One of the two that stay is away: the new secret waits for a majority.
    zone.kill(2);
    let said = zone.run(0, &["node", "remove", "third"]);
    assert!(text(&said).contains("a new secret"), "{}", text(&said));
    until("the new one is used", || settled(&zone, 0));
    until("both have it", || (secrets(&zone, 0).len() == 2 && secrets(&zone, 1).len() == 2).then_some(()));
    let now = secrets(&zone, 0);
    assert_eq!(now, secrets(&zone, 1), "all know the same");
    assert_eq!(now[0], first[0], "what was stored stays readable");
    assert_ne!(now[1].1, first[0].1);
    assert_eq!(fs::read(&removed).unwrap(), known_to_it, "who was removed is told nothing");
    // It rises again with all it knew: nobody tells it the new one.
    let mut risen = zone.command(2, &["up", "--listen", "127.0.0.1:0", "--api", "off"]);
    let mut risen = risen.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();

    // What is sealed from now on needs it, on every node, also after it starts anew.
    fill(&source, 2);
    backup(&zone, 1, &source);
    zone.kill(1);
    zone.start(1);
    for i in [0, 1] {
        restores(&zone, i, "latest", &format!("out{i}"), &source);
    }
    let check = zone.run(1, &["check", "--read-data"]);
    assert!(check.status.success(), "{}", text(&check));
    // It finds out by itself, says so and ends.
    let ended = until("the removed node ends", || risen.try_wait().unwrap());
    let mut said = String::new();
    risen.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!ended.success() && said.contains("was removed from the zone"), "{said}");
    assert_eq!(fs::read(&removed).unwrap(), known_to_it);

    // Who joins is told all of them.
    fs::remove_dir_all(zone.home(2)).unwrap();
    zone.join(2, "fourth");
    assert_eq!(secrets(&zone, 2), now);
    restores(&zone, 2, "latest", "out-of-the-fourth", &source);

    // One that is away while another goes gets the new one when it is back.
    until("three votes", || (zone.voters(0) == 3).then_some(()));
    zone.join(3, "fifth");
    zone.kill(1);
    zone.ok(0, &["node", "remove", "fifth"]);
    zone.kill(3);
    until("two of three have it", || settled(&zone, 0));
    assert_eq!(secrets(&zone, 1).len(), 2);
    fill(&source, 3);
    backup(&zone, 0, &source);
    zone.start(1);
    until("the third has it", || (secrets(&zone, 1) == secrets(&zone, 0)).then_some(()));
    assert_eq!(secrets(&zone, 1).len(), 3);
    restores(&zone, 1, "latest", "out-of-the-second", &source);
}

#[test]
fn commands_around_a_source_run_where_it_is_read_and_only_where_they_are_allowed() {
    let mut zone = Zone::three();
    let (source, log) = (zone.path("source"), zone.path("log"));
    fill(&source, 1);
    let path = source.to_str().unwrap();
    let (before, after) =
        (format!("echo before >> {}", log.display()), format!("echo after $ZONEWARD_OUTCOME >> {}", log.display()));
    // Set on the second node: no other node runs them.
    zone.ok(1, &["source", "add", path, "--shared", "--copies", "1", "--before", &before, "--after", &after]);
    zone.kill(1);
    let refused = zone.run(0, &["backup"]);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(text(&refused).contains("ZW-1412"), "{}", text(&refused));
    assert!(!log.exists(), "nothing ran");
    // A person on the first allows them there.
    zone.ok(0, &["source", "allow", path]);
    let made = zone.json(0, &["backup"]);
    assert_eq!(made["complete"].as_bool(), Some(true), "{made}");
    assert_eq!(fs::read_to_string(&log).unwrap(), "before\nafter read\n");
    restores(&zone, 2, "latest", "out", &source);
    // A command that fails is told, whoever ran it, and what is stored stays.
    zone.start(1);
    zone.ok(0, &["source", "set", path, "--before", "echo locked >&2; exit 5"]);
    let failed = zone.run(2, &["backup"]);
    assert!(!failed.status.success(), "{}", text(&failed));
    assert!(text(&failed).contains("ZW-1410") || text(&failed).contains("ZW-1412"), "{}", text(&failed));
    restores(&zone, 2, "2", "out-again", &source);
}

#[test]
fn a_dfs_name_lies_elsewhere_on_each_node_and_any_of_them_goes_on() {
    let mut zone = Zone::three();
    let share = zone.path("share");
    fill(&share.join("photos"), 1);
    // The same share, mounted in another place on each node.
    let mounts: Vec<_> = (0..3).map(|i| zone.path(&format!("mnt{i}"))).collect();
    for (i, at) in mounts.iter().enumerate() {
        std::os::unix::fs::symlink(&share, at).unwrap();
        let node = zone.nodes(i).iter().find(|n| n["this"] == true).map(|n| n["name"].clone());
        let name = node.unwrap_or_else(|| panic!("which node is this? {:?}", zone.nodes(i)));
        zone.ok(0, &["dfs", "map", "dfs://media", at.to_str().unwrap(), "--node", name.as_str().unwrap()]);
    }
    zone.ok(0, &["source", "add", "dfs://media/photos", "--copies", "1"]);
    let made = zone.json(0, &["backup"]);
    assert_eq!((made["complete"].as_bool(), made["sources"][0]["files"].as_u64()), (Some(true), Some(40)), "{made}");
    // Each node in its turn is the only one that has the share mounted.
    for reads in 0..3 {
        for (i, at) in mounts.iter().enumerate() {
            let _ = fs::remove_file(at);
            if i == reads {
                std::os::unix::fs::symlink(&share, at).unwrap();
            }
        }
        fs::write(share.join("photos/new"), format!("for node {reads}")).unwrap();
        let listed = |zone: &Zone| {
            let all = zone.json(reads, &["checkpoints"])["checkpoints"].as_array().unwrap().len();
            let text = zone.run(reads, &["cat", "latest", "dfs://media/photos/new"]);
            (all, String::from_utf8_lossy(&text.stdout).into_owned())
        };
        until("a node that has it reads it", || {
            let _ = zone.run((reads + 1) % 3, &["backup"]);
            (listed(&zone).1 == format!("for node {reads}")).then_some(())
        });
    }
    let to = zone.path("out");
    zone.ok(1, &["restore", "latest", "dfs://media/photos", "--to", to.to_str().unwrap()]);
    same(&share.join("photos"), &to.join("dfs:/media/photos"));
    // The one that has it dies: the task says for whom it waits.
    zone.kill(2);
    let o = zone.run(0, &["backup"]);
    assert!(!o.status.success(), "{}", text(&o));
}

#[test]
fn nodes_take_turns_with_a_source_that_none_of_them_can_read_back() {
    let zone = Zone::three();
    let share = zone.path("share");
    fill(&share, 1);
    zone.ok(0, &["source", "add", share.to_str().unwrap(), "--shared", "--write-only", "--copies", "1"]);
    // What this node is told to do; the others rest, so that it is this one that reads.
    let mut turns = Vec::new();
    for (turn, i) in [0usize, 1, 2, 0].into_iter().enumerate() {
        let names: Vec<String> = zone.nodes(0).iter().map(|n| n["name"].as_str().unwrap().to_owned()).collect();
        let this = zone.nodes(i).iter().find(|n| n["this"] == true).unwrap()["name"].as_str().unwrap().to_owned();
        for name in &names {
            let mut command = vec!["node", "drain", name.as_str()];
            command.extend((*name == this).then_some("--undo"));
            zone.ok(0, &command);
        }
        fs::write(share.join("new"), format!("turn {turn}").repeat(30_000)).unwrap();
        let made = zone.json(i, &["backup"]);
        assert_eq!(made["complete"].as_bool(), Some(true), "{made}");
        turns.push(fs::read(share.join("new")).unwrap());
        let to = zone.path(&format!("out{turn}"));
        let restore = ["restore", "latest", "--to", to.to_str().unwrap(), "--verify"];
        // The key is the owner's on whatever node he sits; without it none of them gives anything back.
        for node in 0..3 {
            let o = zone.run(node, &restore);
            assert_eq!(o.status.code(), Some(4), "{}", text(&o));
        }
        zone.ok((i + 1) % 3, &[&restore[..], &["--with-owner-key"]].concat());
        same(&share, &to.join(share.strip_prefix("/").unwrap()));
    }
    let file = share.join("new");
    for (turn, was) in turns.iter().enumerate() {
        let cat = ["cat", &format!("{}", turn + 1), file.to_str().unwrap(), "--with-owner-key"];
        assert!(zone.run(2, &cat).stdout == *was, "turn {turn}");
    }
}

#[test]
fn keys_that_are_changed_on_one_node_are_the_same_on_all() {
    let mut zone = Zone::three();
    let source = zone.path("source");
    fill(&source, 1);
    backup(&zone, 0, &source);
    let file = |zone: &Zone, i: usize| fs::read(zone.home(i).join("owner-key.json")).unwrap();
    let first = file(&zone, 0);
    assert_eq!(first, file(&zone, 1));
    // Beside a daemon too, one process of a home changes keys at a time: it would print a kit for keys that are replaced.
    let held = fs::File::create(zone.home(0).join("keys.lock")).unwrap();
    held.lock().unwrap();
    let o = zone.command(0, &["key", "passphrase"]).env("ZONEWARD_NEW_PASSPHRASE", "another one").output().unwrap();
    assert_eq!(o.status.code(), Some(11), "{}", text(&o));
    drop(held);
    assert_eq!(file(&zone, 0), first);
    // One is away meanwhile.
    zone.kill(2);
    let changed =
        zone.command(0, &["key", "passphrase"]).env("ZONEWARD_NEW_PASSPHRASE", "another one").output().unwrap();
    assert!(changed.status.success(), "{}", text(&changed));
    until("the other node has it", || (file(&zone, 1) == file(&zone, 0)).then_some(()));
    assert_ne!(file(&zone, 0), first);
    let fingerprint =
        |zone: &Zone, i: usize| zone.json(i, &["status"])["owner_fingerprint"].as_str().unwrap().to_owned();
    let before = fingerprint(&zone, 1);
    let rotate = ["key", "rotate", "--kit", "kit.html"];
    let o = zone.command(1, &rotate).env("ZONEWARD_PASSPHRASE", "another one").output().unwrap();
    assert!(o.status.success(), "{}", text(&o));
    until("the first has it", || (file(&zone, 1) == file(&zone, 0)).then_some(()));
    zone.start(2);
    until("so has the one that was away", || (file(&zone, 2) == file(&zone, 0)).then_some(()));
    until("all know the new key", || (0..3).all(|i| fingerprint(&zone, i) != before).then_some(()));
    // What any of them packs from now on is for the new key: each has a source that only it reads.
    let known = sectors(&zone.path("target"));
    for i in 0..3 {
        let own = zone.path(&format!("only{i}"));
        fill(&own, 10 + i as u8);
        zone.ok(i, &["source", "add", own.to_str().unwrap(), "--copies", "1"]);
    }
    let made = zone.json(0, &["backup"]);
    assert_eq!(made["complete"].as_bool(), Some(true), "{made}");
    let new: Vec<_> = sectors(&zone.path("target")).into_iter().filter(|p| !known.contains(p)).collect();
    assert!(new.len() >= 4, "{new:?}");
    let owner: Vec<u8> = {
        let hex = fingerprint(&zone, 2);
        (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
    };
    for sector in new {
        let header = fs::read(&sector).unwrap();
        assert!(header[56..88] == owner, "{} was sealed for the key before", sector.display());
    }
}

/// Sealed sectors on a target.
fn sectors(target: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for e in fs::read_dir(target).unwrap() {
        let path = e.unwrap().path();
        if path.is_dir() {
            all.extend(sectors(&path));
        } else if path.extension().is_some_and(|x| x == "zws") {
            all.push(path);
        }
    }
    all
}
