//! Copies that heal by themselves: real daemons, a real target server, bytes that are flipped, files that are gone, a
//! server that falls silent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod wait;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bench::{Bench, Running, start, tree, until};
use serde_json::Value;

fn daemon(b: &Bench) -> Running {
    start(b.command(&["--json", "up", "--listen", "127.0.0.1:0", "--api", "off"])).0
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
    assert!(tree(&b.path("src")) == tree(&b.restored(to)));
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

/// A target server with an account, whose credentials lie in a file. Answers its URL.
fn serve(b: &Bench) -> (Running, String) {
    let data = b.path("server").to_str().unwrap().to_owned();
    let tokens = b.run(&["--json", "target", "token", "add", "--data", &data, "--account", "ann"]);
    let token: Value = serde_json::from_slice(&tokens.stdout).unwrap();
    let serve = ["--json", "target", "serve", "--data", &data, "--listen", "127.0.0.1:0", "--host", "127.0.0.1"];
    let (server, told) = start(b.command(&serve));
    let credentials = b.path("credentials");
    fs::write(&credentials, serde_json::json!({"token": token["token"]}).to_string()).unwrap();
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600)).unwrap();
    (server, told["url"].as_str().unwrap().to_owned())
}

#[test]
fn a_server_answers_for_all_of_a_large_copy_and_cannot_for_one_that_lacks_a_segment() {
    let b = Bench::new();
    let mut state = 9u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    });
    fs::write(b.path("src/much"), noise.take(36 << 20).collect::<Vec<u8>>()).unwrap();
    let (_server, url) = serve(&b);
    // The first copy is packed for the server, the second is transcoded from it.
    b.expect(0, &["init", "--target", "disk", "--sector-min", "1MiB"]);
    b.expect(0, &["target", "add", &url, "--credentials-file", "credentials", "--name", "server"]);
    b.expect(0, &["backup", "src", "--copies", "2"]);
    let large = |all: Vec<Value>| all.into_iter().find(|s| s["raw_bytes"].as_u64().unwrap() > 16 << 20).unwrap();
    let copy = |target: &str| {
        let all = large(sectors(&b))["copies"].as_array().unwrap().clone();
        all.into_iter().find(|c| c["target"] == target).unwrap()
    };
    let challenges = || (copy("server")["challenges"]["told"].as_u64(), copy("server")["challenges"]["left"].as_u64());
    assert_eq!(challenges(), (Some(0), Some(64)), "known from the writing of it");
    assert!(copy("first")["challenges"].is_null(), "a directory answers nothing");
    let _up = daemon(&b);
    b.expect(0, &["schedule", "audits", "--every", "2s", "--read-all", "never", "--read-all-s3", "never"]);
    until("two answers were taken", || (challenges().0 > Some(2)).then_some(()));
    let now = copy("server");
    assert!(now["trouble"].is_null() && now["read"].is_null() && !now["audited"].is_null(), "{now}");
    // A reading of everything gives new answers; no key is told twice.
    b.expect(0, &["schedule", "audits", "--read-all", "2s"]);
    until("all of it was read", || (!copy("server")["read"].is_null() && challenges().1 == Some(64)).then_some(()));
    let told = challenges().0;
    assert!(told > Some(2));
    b.expect(0, &["schedule", "audits", "--read-all", "never"]);
    until("another answer was taken", || (challenges().0 > told.map(|n| n + 1)).then_some(()));
    // A segment is gone: zeros stand there.
    let file = file_of(&b.path("server"), &large(sectors(&b)), "server");
    let file = fs::File::options().write(true).open(file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; 1 << 20], 9 << 20).unwrap();
    until("it is found", || copy("server")["trouble"].as_str().map(str::to_owned));
    let bad = |c: &Value| c["trouble"].as_str().is_some_and(|t| t.contains("segment"));
    assert!(large(sectors(&b))["copies"].as_array().unwrap().iter().any(bad), "where it is wrong is named");
    until("it is made anew", || {
        let all = large(sectors(&b))["copies"].as_array().unwrap().clone();
        all.iter().any(|c| c["target"] == "server" && c["state"] == "stored").then_some(())
    });
}

#[test]
fn what_a_silent_server_held_is_made_anew_elsewhere() {
    let b = Bench::new();
    fill(&b);
    let (server, url) = serve(&b);
    b.expect(0, &["init", "--target", "disk", "--sector-min", "1MiB"]);
    b.expect(0, &["target", "add", &url, "--credentials-file", "credentials", "--name", "server"]);
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

/// Files below a directory whose names end so.
fn below(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let (mut out, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(d) = todo.pop() {
        for e in fs::read_dir(d).into_iter().flatten().flatten() {
            match e.file_type() {
                Ok(t) if t.is_dir() => todo.push(e.path()),
                _ if e.file_name().to_string_lossy().ends_with(ending) => out.push(e.path()),
                _ => {}
            }
        }
    }
    out
}

#[test]
fn what_is_lost_everywhere_during_an_upload_is_made_anew() {
    let b = Bench::new();
    for i in 0..5 {
        fill(&b);
        fs::create_dir(b.path(&format!("src/{i}-dir"))).unwrap();
        for n in 0..6 {
            let mut bytes = fs::read(b.path(&format!("src/{n}"))).unwrap();
            bytes.iter_mut().for_each(|x| *x = x.wrapping_mul(2 * i + 3).wrapping_add(i));
            fs::write(b.path(&format!("src/{i}-dir/{n}")), bytes).unwrap();
        }
    }
    let (server, url) = serve(&b);
    b.expect(0, &["init", "--target", "disk", "--sector-min", "1MiB"]);
    b.expect(0, &["target", "add", &url, "--credentials-file", "credentials", "--name", "server"]);
    b.expect(0, &["source", "add", "src", "--copies", "2"]);
    // Slowly, so that there is a middle.
    b.expect(0, &["schedule", "limit", "--window", "00:00-24:00", "--upload", "1MiB"]);
    let up = daemon(&b);
    b.expect(0, &["schedule", "audits", "--every", "2s", "--read-all", "never", "--read-all-s3", "never"]);
    let mut backup = b.command(&["backup"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("one sector is stored and another is under way", || {
        let stored = count(&b, "first", "stored") + count(&b, "server", "stored");
        (stored >= 1 && sectors(&b).len() >= 2).then_some(())
    });
    assert!(backup.try_wait().unwrap().is_none(), "there was no middle");
    // Both targets lose all sectors they hold, sealed or under way, at once.
    let gone: Vec<PathBuf> = ["disk", "server"].iter().flat_map(|t| below(&b.path(t), "")).collect();
    let gone: Vec<&PathBuf> = gone.iter().filter(|p| p.components().any(|c| c.as_os_str() == "zones")).collect();
    let gone: Vec<&&PathBuf> = gone.iter().filter(|p| !p.ends_with("account.json")).collect();
    assert!(gone.len() >= 3, "{gone:?}");
    gone.iter().for_each(|p| fs::remove_file(p).unwrap());
    b.expect(0, &["schedule", "limit", "--clear"]);
    let code = until("the backup ends", || backup.try_wait().unwrap()).code();
    assert!(matches!(code, Some(0 | 3)), "{code:?}");
    // The zone finds out, and stores anew from the source what nothing is left of.
    until("all that the newest checkpoint needs is there twice", || {
        // It looks at what is really there, and what it finds lost no longer counts. The first checkpoint stays damaged.
        let _ = b.run(&["check", "--read-data"]);
        let status = b.status();
        let twice = sectors(&b).iter().all(|s| {
            let stored = s["copies"].as_array().unwrap().iter().filter(|c| c["state"] == "stored").count();
            stored == 2 || s["copies"].as_array().unwrap().iter().all(|c| c["state"] != "stored")
        });
        let whole = status["reliability"]["number"].as_u64() < Some(5);
        (twice && whole && b.run(&["restore", "latest", "--to", "daily", "--verify"]).status.success()).then_some(())
    });
    drop(up);
    fs::rename(b.path("disk"), b.path("drawer")).unwrap();
    restores(&b, "from-server");
    fs::rename(b.path("drawer"), b.path("disk")).unwrap();
    drop(server);
    restores(&b, "from-disk");
}
