//! Real daemons, real links: a zone of three nodes made by the commands that a person types.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fleet;
mod wait;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use fleet::{Zone, fill, same, text, until};

#[test]
fn three_nodes_back_up_lose_their_leader_and_go_on() {
    let mut zone = Zone::new();
    let source = zone.path("source");
    fill(&source, 1);
    let used = zone.join(1, "second");
    until("two nodes, one vote", || (zone.nodes(0).len() == 2 && zone.voters(0) == 1).then_some(()));
    zone.join(2, "third");
    until("three votes", || (zone.voters(0) == 3).then_some(()));

    // A code lets one node in, once.
    let again = zone.run(7, &["join", &used]);
    assert_eq!(again.status.code(), Some(13), "{}", text(&again));

    let made = zone.json(1, &["backup", source.to_str().unwrap(), "--shared", "--copies", "1"]);
    assert_eq!((made["seq"].as_u64(), made["complete"].as_bool()), (Some(1), Some(true)), "{made}");
    assert_eq!(made["sources"][0]["files"], 40);
    zone.ok(2, &["restore", "latest", "--to", zone.path("out").to_str().unwrap()]);
    same(&source, &zone.path("out").join(source.strip_prefix("/").unwrap()));

    // The leader dies: the other two go on, with backups too.
    let leader = zone.nodes(1).iter().find(|n| n["role"] == "leader").unwrap()["name"].clone();
    let dead = ["", "second", "third"].iter().position(|n| leader == **n).unwrap_or(0);
    let alive = (dead + 1) % 3;
    zone.kill(dead);
    fill(&source, 2);
    let made = zone.json(alive, &["backup"]);
    assert_eq!((made["seq"].as_u64(), made["complete"].as_bool()), (Some(2), Some(true)), "{made}");
    // A new leader may be faster than the silence after which a node is told.
    until("the dead node is told", || zone.ok(alive, &["status"]).contains("is not heard").then_some(()));

    // It comes back and has it all.
    zone.start(dead);
    until("it has what it missed", || {
        let c = zone.json(dead, &["checkpoints"]);
        (c["checkpoints"].as_array().unwrap().len() == 2).then_some(())
    });
    zone.ok(dead, &["restore", "latest", "--to", zone.path("out2").to_str().unwrap()]);
    same(&source, &zone.path("out2").join(source.strip_prefix("/").unwrap()));
    let check = zone.run(dead, &["check", "--read-data"]);
    assert!(check.status.success(), "{}", text(&check));

    // One is taken out: nobody listens to it any more, and one vote stays.
    let out = ["", "second", "third"][if alive == 0 { 1 } else { alive }];
    let stays = (0..3).find(|i| ["", "second", "third"][*i] != out).unwrap();
    zone.ok(stays, &["node", "remove", out]);
    assert_eq!(zone.nodes(stays).len(), 2);
    until("one vote of two nodes", || (zone.voters(stays) == 1).then_some(()));
    zone.ok(stays, &["backup"]);
}

#[test]
fn a_source_of_a_node_that_is_away_waits_and_the_others_go_on() {
    let mut zone = Zone::new();
    let (mine, theirs) = (zone.path("mine"), zone.path("theirs"));
    fill(&mine, 1);
    fill(&theirs, 2);
    zone.join(1, "second");
    zone.ok(0, &["source", "add", mine.to_str().unwrap(), "--copies", "1"]);
    zone.ok(1, &["source", "add", theirs.to_str().unwrap(), "--copies", "1"]);
    zone.kill(1);
    let o = zone.run(0, &["backup"]);
    assert_eq!(o.status.code(), Some(3), "{}", text(&o));
    assert!(text(&o).contains("waits for second"), "{}", text(&o));
    // What this node can read is packed.
    let status = zone.ok(0, &["status"]);
    assert!(status.contains("1 of 2 sources done"), "{status}");
    // It comes back, and the checkpoint is finished without a word.
    zone.start(1);
    until("the checkpoint is done", || {
        let c = zone.json(0, &["checkpoints"]);
        (c["checkpoints"].as_array().unwrap().len() == 1).then_some(())
    });
    zone.ok(0, &["restore", "latest", "--to", zone.path("out").to_str().unwrap()]);
    for dir in [&mine, &theirs] {
        same(dir, &zone.path("out").join(dir.strip_prefix("/").unwrap()));
    }
    // Wiped, it is a stranger; joined again, it is a new node.
    zone.kill(1);
    std::fs::remove_dir_all(zone.home(1)).unwrap();
    zone.join(1, "second-again");
    assert_eq!(zone.nodes(0).len(), 3);
    zone.ok(0, &["node", "replace", "second", "second-again"]);
    assert_eq!(zone.nodes(0).len(), 2);
    let made = zone.json(0, &["backup"]);
    assert_eq!(made["complete"].as_bool(), Some(true), "{made}");
}

/// A home that is put back from an older copy has forgotten what it promised: it must not speak for the node again.
#[test]
fn an_old_copy_of_a_disk_is_not_taken_for_the_node() {
    let mut zone = Zone::new();
    zone.join(1, "second");
    zone.join(2, "third");
    until("three votes", || (zone.voters(0) == 3).then_some(()));
    zone.kill(2);
    let kept = zone.path("old-copy");
    let copy = |from: &Path, to: &Path| {
        let o = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
        assert!(o.status.success(), "{}", text(&o));
    };
    copy(&zone.home(2), &kept);
    // It starts twice more, then its disk is put back.
    for _ in 0..2 {
        zone.start(2);
        let heard = || zone.nodes(0).iter().find(|n| n["name"] == "third" && n["heard_seconds"] == 0).map(|_| ());
        wait::until_or_tell("its start is known", heard, || {
            (0..3).map(|i| text(&zone.run(i, &["node", "ls"])) + &text(&zone.run(i, &["status"]))).collect()
        });
        until("it holds a vote", || (zone.voters(2) == 3).then_some(()));
        zone.kill(2);
    }
    std::fs::remove_dir_all(zone.home(2)).unwrap();
    copy(&kept, &zone.home(2));
    let mut child = zone
        .command(2, &["up", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The others do not listen to it, whatever it does; they go on.
    until("the others have a leader", || zone.nodes(0).iter().find(|n| n["role"] == "leader").map(|_| ()));
    std::thread::sleep(Duration::from_secs(3));
    let heard = zone.nodes(0).iter().find(|n| n["name"] == "third").unwrap()["heard_seconds"].as_u64();
    assert!(heard.is_none_or(|s| s >= 2), "it was heard {heard:?} s ago");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Two nodes and a witness: either node may die, and the witness never had a key.
#[test]
fn a_witness_lets_either_of_two_nodes_die() {
    let mut zone = Zone::new();
    let source = zone.path("source");
    fill(&source, 1);
    zone.join(1, "second");
    zone.join_as(2, "witness", &["--witness"]);
    until("three votes", || (zone.voters(0) == 3).then_some(()));
    for file in ["secrets/zone-secret", "owner-key.json"] {
        assert!(zone.home(1).join(file).exists() && !zone.home(2).join(file).exists(), "{file}");
    }
    let asked = zone.run(2, &["checkpoints"]);
    assert_eq!(asked.status.code(), Some(4), "{}", text(&asked));
    zone.ok(0, &["source", "add", source.to_str().unwrap(), "--shared", "--copies", "1"]);
    // The witness may have been the one whose word made it count.
    until("the second node knows the source", || {
        let all = zone.json(1, &["source", "ls"]);
        (all["sources"].as_array().unwrap().len() == 1).then_some(())
    });
    zone.kill(0);
    let made = zone.json(1, &["backup"]);
    assert_eq!(made["complete"].as_bool(), Some(true), "{made}");
}

/// A sector that lies on one node's own disk is held by the other node too before it counts, so that the other can bring
/// the second copy out when the first node dies.
#[test]
fn what_one_disk_holds_another_node_can_bring_on() {
    let mut zone = Zone::new();
    let source = zone.path("source");
    fill(&source, 1);
    zone.join(1, "second");
    zone.join(2, "third");
    until("three votes", || (zone.voters(0) == 3).then_some(()));
    zone.kill(0);
    zone.start(0);
    // The first target goes to sleep; a disk that only node 0 has is what it packs to.
    zone.ok(0, &["target", "add", "/proc/self/cwd/usb", "--name", "usb"]);
    zone.ok(0, &["target", "pause", "first"]);
    let o = zone.run(0, &["backup", source.to_str().unwrap(), "--shared", "--copies", "2"]);
    assert!(matches!(o.status.code(), Some(0 | 3)), "{}", text(&o));
    let copies = |zone: &Zone, i: usize, target: &str| {
        let all = zone.json(i, &["target", "ls"]);
        let found = all["targets"].as_array().unwrap().iter().find(|t| t["name"] == target).unwrap().clone();
        found["sectors"].as_u64().unwrap()
    };
    assert!(copies(&zone, 0, "usb") > 0);
    assert_eq!(copies(&zone, 0, "first"), 0);
    // It wakes up, and the node with the disk dies as soon as somebody else holds a sector.
    zone.ok(0, &["target", "resume", "first"]);
    let spooled = |zone: &Zone| {
        (1..3).any(|i| {
            let whole =
                |e: std::io::Result<std::fs::DirEntry>| e.unwrap().path().extension().is_some_and(|x| x == "zws");
            std::fs::read_dir(zone.home(i).join("spool")).is_ok_and(|mut d| d.any(whole))
        })
    };
    until("a sector is staged or brought out", || (spooled(&zone) || copies(&zone, 1, "first") > 0).then_some(()));
    zone.kill(0);
    until("a copy is brought out by another node", || (copies(&zone, 1, "first") > 0).then_some(()));
}

/// What nothing is left of is stored anew from its source, by daemons that nobody tells to.
#[test]
fn what_nothing_is_left_of_is_stored_anew_by_itself() {
    let zone = Zone::new();
    let source = zone.path("source");
    fill(&source, 1);
    zone.ok(0, &["backup", source.to_str().unwrap(), "--copies", "1"]);
    fill(&source, 2);
    zone.ok(0, &["backup"]);
    let found = Command::new("find")
        .arg(zone.path("target/zones"))
        .args(["-path", "*/sectors/*", "-type", "f", "-size", "+1M"])
        .output();
    let sectors = String::from_utf8(found.unwrap().stdout).unwrap();
    assert!(sectors.lines().count() > 1);
    // All that the first checkpoint brought is gone, what the second brought is not.
    let mut by_age: Vec<_> = sectors.lines().map(|p| (std::fs::metadata(p).unwrap().modified().unwrap(), p)).collect();
    by_age.sort();
    std::fs::remove_file(by_age[0].1).unwrap();
    assert_eq!(zone.run(0, &["check"]).status.code(), Some(5));
    until("a checkpoint is made of what is still there", || {
        let all = zone.json(0, &["checkpoints"])["checkpoints"].as_array().unwrap().len();
        (all == 3 && zone.run(0, &["check", "--read-data"]).status.code() == Some(5)).then_some(())
    });
    let to = zone.path("out");
    until("it can be restored", || {
        let o = zone.run(0, &["restore", "latest", "--to", to.to_str().unwrap(), "--verify"]);
        o.status.success().then_some(())
    });
    same(&source, &to.join(source.strip_prefix("/").unwrap()));
    // Once is enough.
    zone.ok(0, &["backup"]);
    assert_eq!(zone.json(0, &["checkpoints"])["checkpoints"].as_array().unwrap().len(), 4);
}

/// A limit binds the node that is at work from the moment it is set.
#[test]
fn a_limit_counts_at_once() {
    let zone = Zone::new();
    let source = zone.path("source");
    for round in 1..4 {
        zone.ok(0, &["schedule", "limit", "--window", "00:00-24:00", "--upload", "4MiB"]);
        fill(&source, round);
        let begun = std::time::Instant::now();
        zone.ok(0, &["backup", source.to_str().unwrap(), "--copies", "1"]);
        // 8 MB, some of which may go before anything is owed.
        assert!(begun.elapsed() > Duration::from_millis(1_200), "{:?} in round {round}", begun.elapsed());
        zone.ok(0, &["schedule", "limit", "--clear"]);
    }
}

/// Two of three nodes burn down. Nothing goes on by itself; the owner's word lets the third go on, and the burnt ones can
/// be replaced. One that rises from the ashes with its old home is not listened to.
#[test]
fn the_owner_goes_on_with_one_node_when_the_majority_is_lost() {
    let mut zone = Zone::new();
    let source = zone.path("source");
    fill(&source, 1);
    zone.join(1, "second");
    zone.join(2, "third");
    until("three votes", || (zone.voters(0) == 3).then_some(()));
    let made = zone.json(0, &["backup", source.to_str().unwrap(), "--shared", "--copies", "1"]);
    assert_eq!(made["complete"].as_bool(), Some(true), "{made}");
    let recover = ["zone", "recover-quorum", "--confirm", "home"];
    let o = zone.run(2, &recover);
    assert_eq!(o.status.code(), Some(4), "a daemon runs: {}", text(&o));
    for i in 0..3 {
        zone.kill(i);
    }
    for args in [&recover[..2], &["zone", "recover-quorum", "--confirm", "hom"]] {
        let o = zone.run(2, args);
        assert_eq!(o.status.code(), Some(4), "{}", text(&o));
        assert!(text(&o).contains("ZW-2053") && text(&o).contains("second"), "{}", text(&o));
    }
    let o = zone.command(2, &recover).env("ZONEWARD_PASSPHRASE", "wrong").output().unwrap();
    assert_eq!(o.status.code(), Some(12), "{}", text(&o));
    zone.ok(2, &recover);
    zone.start(2);
    fill(&source, 2);
    let made = zone.json(2, &["backup"]);
    assert_eq!((made["seq"].as_u64(), made["complete"].as_bool()), (Some(2), Some(true)), "{made}");
    // The second comes back as it was: it has one vote of three as it knows the zone, and nobody answers it.
    zone.start(1);
    let (code, mut stays) = zone.invite(2, "fourth", &[]);
    zone.ok(3, &["join", &code]);
    assert!(stays.wait().unwrap().success());
    zone.start(3);
    zone.ok(2, &["node", "replace", "second", "fourth"]);
    let names: Vec<_> = zone.nodes(2).iter().map(|n| n["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let made = zone.json(3, &["backup"]);
    assert_eq!((made["seq"].as_u64(), made["complete"].as_bool()), (Some(3), Some(true)), "{made}");
    let old = zone.json(1, &["checkpoints"]);
    assert_eq!(old["checkpoints"].as_array().unwrap().len(), 1, "what came after does not reach it: {old}");
    zone.ok(3, &["restore", "latest", "--to", zone.path("out").to_str().unwrap()]);
    same(&source, &zone.path("out").join(source.strip_prefix("/").unwrap()));
}

/// Files of sealed sectors on the target.
fn sealed_files(zone: &Zone) -> usize {
    let mut n = 0;
    for z in std::fs::read_dir(zone.path("target/zones")).unwrap() {
        let Ok(shards) = std::fs::read_dir(z.unwrap().path().join("sectors")) else { continue };
        n += shards.map(|s| std::fs::read_dir(s.unwrap().path()).unwrap().count()).sum::<usize>();
    }
    n
}

#[test]
fn what_was_forgotten_goes_and_daemons_prune() {
    let mut zone = Zone::new();
    zone.join(1, "two");
    zone.join(2, "three");
    let src = zone.path("shared");
    std::fs::create_dir(&src).unwrap();
    let write = |name: &str, seed: u64, len: usize| {
        let mut x = seed | 1;
        let bytes = std::iter::repeat_with(|| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) as u8
        });
        std::fs::write(src.join(name), bytes.take(len).collect::<Vec<u8>>()).unwrap();
    };
    write("steady", 1, 700_000);
    for n in 1..=6 {
        write("often", 100 + n, 900_000);
        zone.ok(0, &["backup", src.to_str().unwrap(), "--shared", "--copies", "1"]);
    }
    let before = sealed_files(&zone);
    zone.ok(1, &["forget", "1", "--apply"]);
    zone.ok(1, &["undelete", "1"]);
    zone.ok(0, &["forget", "1", "2", "3", "4", "--apply", "--now"]);
    // Any node may do the work; who asks needs the owner's key only because so much goes.
    zone.ok(0, &["prune", "--apply", "--owner", "--max-waste", "0"]);
    until("the files of what nobody needs are gone", || {
        let all = zone.json(2, &["sector", "ls"]);
        let copies = all["sectors"].as_array()?.iter().map(|s| s["copies"].as_array().unwrap().len()).sum::<usize>();
        (sealed_files(&zone) == copies && copies < before).then_some(())
    });
    let listed = zone.json(2, &["checkpoints"])["checkpoints"].as_array().unwrap().len();
    assert_eq!(listed, 3, "5, 6, and the synthetic one");
    for checkpoint in ["6", "latest"] {
        let to = zone.path(checkpoint);
        zone.ok(2, &["restore", checkpoint, "--to", to.to_str().unwrap()]);
        let there = to.join(src.strip_prefix("/").unwrap());
        for name in ["steady", "often"] {
            assert!(std::fs::read(there.join(name)).unwrap() == std::fs::read(src.join(name)).unwrap(), "{name}");
        }
    }
    zone.ok(1, &["check", "--read-data"]);
    write("often", 300, 900_000);
    zone.ok(1, &["backup", src.to_str().unwrap(), "--shared", "--copies", "1"]);
}
