//! Write-only sources: the zone forgets the keys of what it stored, goes on backing up, makes lost copies anew by relaying
//! stored bytes, and gives nothing back without the owner's key.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod wait;

use std::fs;
use std::path::{Path, PathBuf};

use bench::{Bench, Running, fill, noise, start, tree, until};
use serde_json::Value;
use zoneward_consensus::model::{Copy, CopyState, State};
use zoneward_consensus::store::Store;

/// A zone with two targets, `one` and `two`, and a write-only source.
fn zone() -> Bench {
    let b = Bench::new();
    fill(&b.path("src"));
    b.expect(0, &["init", "--target", "one", "--target", "two", "--sector-min", "1MiB"]);
    b.expect(0, &["source", "add", "src", "--write-only", "--copies", "2"]);
    b
}

/// The state that this home holds.
fn state(b: &Bench) -> State {
    Store::open(&b.path("zone/zone.redb")).unwrap().state().clone()
}

fn data_copies(state: &State) -> Vec<Copy> {
    let data = |c: &&Copy| state.sectors.get(&c.sector).is_some_and(|s| !s.system);
    state.copies.values().filter(data).cloned().collect()
}

/// The file of a copy, on the directory target that holds it.
fn file_of(b: &Bench, state: &State, c: &Copy) -> PathBuf {
    let dir = b.path(state.targets[&c.target].url.rsplit('/').next().unwrap());
    let id = c.id.to_string();
    dir.join(format!("zones/{}/sectors/{}/{id}.zws", c.alias, &id[..2]))
}

fn restores(b: &Bench, to: &str) {
    b.expect(0, &["restore", "latest", "--to", to, "--verify", "--with-owner-key"]);
    assert!(tree(&b.restored(to)) == tree(&b.path("src")));
}

/// What the newest system sector on a target holds, as its owner sees it.
fn published(b: &Bench) -> Vec<u8> {
    let o = b.run(&["--json", "sector", "ls"]);
    let all: Value = serde_json::from_slice(&o.stdout).unwrap();
    let mut out = Vec::new();
    for s in all["sectors"].as_array().unwrap().iter().filter(|s| s["system"] == true) {
        let raw = b.run(&["sector", "cat", s["id"].as_str().unwrap()]);
        assert!(raw.status.success());
        out.extend(zstd::decode_all(&raw.stdout[..]).unwrap());
    }
    out
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|w| w == part)
}

#[test]
fn keys_are_forgotten_with_the_last_copy_and_backups_go_on() {
    let b = zone();
    fs::create_dir(b.path("open")).unwrap();
    fs::write(b.path("open/readable"), noise(77, 400_000)).unwrap();
    fs::copy(b.path("open/readable"), b.path("src/same")).unwrap();
    b.expect(0, &["source", "add", "open", "--copies", "2"]);
    // As long as a copy waits for its target, the zone needs the keys, and keeps them to itself.
    fs::rename(b.path("two"), b.path("drawer")).unwrap();
    b.expect(3, &["backup"]);
    let waiting = state(&b);
    let keys: Vec<String> = data_copies(&waiting)
        .into_iter()
        .filter(|c| waiting.sectors[&c.sector].write_only)
        .map(|c| c.sealed_dek)
        .collect();
    assert!(!keys.is_empty() && keys.iter().all(|k| !k.is_empty()));
    let told = published(&b);
    assert!(keys.iter().all(|k| !contains(&told, k.as_bytes())), "system data holds a key");
    fs::rename(b.path("drawer"), b.path("two")).unwrap();
    b.expect(0, &["backup"]);
    let now = state(&b);
    let told = published(&b);
    for c in data_copies(&now) {
        let write_only = now.sectors[&c.sector].write_only;
        assert_eq!(c.is_keyless(), write_only, "{c:?}");
        assert!(write_only || contains(&told, c.sealed_dek.as_bytes()));
    }
    let text = serde_json::to_string(&now.copies).unwrap();
    assert!(keys.iter().all(|k| !text.contains(k.as_str()) && !contains(&told, k.as_bytes())));
    // No sector is needed by both, though both hold the same file.
    for l in now.layers.values() {
        let mine = now.sources[&l.source].write_only;
        let (needed, known) = now.needed_by([&l.id]);
        assert!(known && needed.iter().all(|s| now.sectors[s].write_only == mine));
    }
    // The zone's secret alone brings nothing back; what is readable comes all the same.
    let src = b.path("src");
    let said = b.expect(4, &["restore", "latest", src.to_str().unwrap(), "--to", "no"]);
    assert!(said.contains("ZW-1691") && said.contains("--with-owner-key"), "{said}");
    assert!(!b.restored("no").join("same").exists());
    let said = b.expect(3, &["restore", "latest", "--to", "some"]);
    assert!(said.contains("only the owner's opens it"), "{said}");
    let open = b.path("some").join(b.path("open").strip_prefix("/").unwrap());
    assert_eq!(tree(&open), tree(&b.path("open")));
    let wrong =
        b.command(&["restore", "latest", "--to", "no", "--with-owner-key"]).env("ZONEWARD_PASSPHRASE", "x").output();
    assert_eq!(wrong.unwrap().status.code(), Some(12));
    restores(&b, "all");
    let words = b.words();
    let by_words = b
        .command(&["restore", "latest", "--to", "words", "--with-owner-key"])
        .env("ZONEWARD_PASSPHRASE", words)
        .output();
    assert_eq!(by_words.unwrap().status.code(), Some(0));
    assert_eq!(tree(&b.restored("words")), tree(&b.path("src")));
    // Names are listed from what this node keeps; content is not.
    assert!(b.expect(0, &["ls", "latest"]).contains("a/b/large"));
    let file = b.path("src/a/one");
    assert!(b.expect(4, &["cat", "latest", file.to_str().unwrap()]).contains("ZW-1691"));
    assert!(b.expect(0, &["cat", "latest", file.to_str().unwrap(), "--with-owner-key"]).contains("one"));
    assert!(b.expect(0, &["status"]).contains("1 write-only source"));
    // Incremental, on top of what cannot be read.
    fs::write(b.path("src/new"), noise(5, 700_000)).unwrap();
    fs::remove_file(b.path("src/closed")).unwrap();
    let said = b.run(&["--json", "backup", "src"]);
    let said = String::from_utf8(said.stdout).unwrap();
    let summary: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert!(summary["sources"][0]["new_bytes"].as_u64().unwrap() <= 1_500_000, "{summary}");
    restores(&b, "next");
    // A node without the catalogs stores all anew and says so.
    fs::remove_dir_all(b.path("zone/catalogs")).unwrap();
    fs::create_dir(b.path("zone/catalogs")).unwrap();
    fs::remove_dir_all(b.path("zone/index")).unwrap();
    fs::create_dir(b.path("zone/index")).unwrap();
    fs::write(b.path("src/newer"), b"newer").unwrap();
    let said = b.run(&["backup", "src"]);
    let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.contains("stored anew"), "{said}");
    restores(&b, "anew");
    // Older checkpoints are there as well.
    b.expect(0, &["restore", "1", "--to", "first", "--with-owner-key"]);
    assert!(b.restored("first").join("closed").exists());
    b.expect(0, &["check"]);
    b.expect(0, &["check", "--read-data"]);
    b.expect(0, &["check", "--read-data", "--with-owner-key"]);
}

#[test]
fn what_was_stored_before_is_forgotten_on_demand_and_not_taken_back() {
    let b = Bench::new();
    fill(&b.path("src"));
    b.expect(0, &["init", "--target", "one", "--sector-min", "1MiB"]);
    b.expect(0, &["backup", "src", "--copies", "1"]);
    assert!(b.expect(4, &["source", "forget-keys", "src"]).contains("ZW-1692"));
    let said = b.expect(0, &["source", "set", "src", "--write-only"]);
    assert!(said.contains("source forget-keys"), "{said}");
    fs::write(b.path("src/second"), noise(9, 500_000)).unwrap();
    b.expect(0, &["backup"]);
    let open = |b: &Bench| {
        let s = state(b);
        data_copies(&s).iter().filter(|c| !c.is_keyless()).count()
    };
    let before = open(&b);
    assert!(
        before > 0 && before < data_copies(&state(&b)).len(),
        "what came after is forgotten, what was before is not"
    );
    assert!(b.expect(0, &["source", "forget-keys", "src"]).contains("only the owner's key opens"));
    assert_eq!(open(&b), 0);
    // System data of before, which held those keys, cannot be opened by the zone either once it is replaced.
    let s = state(&b);
    let systems: Vec<_> = s.sectors.values().filter(|s| s.system).map(|s| s.id).collect();
    let with_keys = |s: &State| s.copies.values().filter(|c| systems.contains(&c.sector) && !c.is_keyless()).count();
    assert!(with_keys(&s) > 0);
    for i in 0..3 {
        fs::write(b.path("src/more"), noise(i, 1000)).unwrap();
        b.expect(0, &["backup"]);
    }
    assert_eq!(with_keys(&state(&b)), 0);
    assert!(b.expect(0, &["prune"]).contains("only the owner can read"));
    restores(&b, "all");
    // Nothing of it goes back in place without the owner's key, and that is said before anything is touched.
    let here = tree(&b.path("src"));
    let said = b.expect(0, &["rollback", "1"]);
    assert!(said.contains("--with-owner-key"), "{said}");
    let said = b.expect(4, &["rollback", "1", "--apply"]);
    assert!(said.contains("ZW-1653") && said.contains("--with-owner-key"), "{said}");
    assert_eq!(tree(&b.path("src")), here);
    b.expect(0, &["rollback", "1", "--apply", "--with-owner-key"]);
    assert!(!b.path("src/second").exists());
    b.expect(0, &["rollback", "--undo"]);
    b.expect(0, &["rollback", "--release", "--apply"]);
    assert_eq!(tree(&b.path("src")), here);
    // Back again: only what comes from now on.
    let said = b.expect(0, &["source", "set", "src", "--zone-readable"]);
    assert!(said.contains("stays as it is"), "{said}");
    b.expect(0, &["backup", "--full"]);
    b.expect(0, &["restore", "latest", "--to", "readable"]);
    assert_eq!(tree(&b.restored("readable")), tree(&b.path("src")));
    assert!(b.expect(4, &["restore", "1", "--to", "no"]).contains("ZW-1691"));
}

fn daemon(b: &Bench) -> Running {
    start(b.command(&["--json", "up", "--listen", "127.0.0.1:0", "--api", "off"])).0
}

/// The longest file that is being written on a target.
fn incoming(dir: &Path) -> Option<(PathBuf, u64)> {
    let (mut out, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(d) = todo.pop() {
        for e in fs::read_dir(d).into_iter().flatten().flatten() {
            match e.metadata() {
                Ok(m) if m.is_dir() => todo.push(e.path()),
                Ok(m) if e.path().to_string_lossy().contains("incoming") => out.push((e.path(), m.len())),
                _ => {}
            }
        }
    }
    out.into_iter().max_by_key(|(_, n)| *n)
}

#[test]
fn a_lost_copy_is_relayed_goes_on_after_a_kill_and_is_enough() {
    let b = Bench::new();
    fs::write(b.path("src/large"), noise(3, 12_000_000)).unwrap();
    fs::write(b.path("src/small"), b"small").unwrap();
    b.expect(0, &["init", "--target", "one", "--target", "two", "--sector-min", "16MiB"]);
    b.expect(0, &["source", "add", "src", "--write-only", "--copies", "2"]);
    b.expect(0, &["backup"]);
    let before = state(&b);
    let target = |s: &State, name: &str| s.targets.values().find(|t| t.url.ends_with(name)).unwrap().id;
    let (one, two) = (target(&before, "one"), target(&before, "two"));
    let lost = data_copies(&before).into_iter().find(|c| c.target == two).unwrap();
    fs::remove_file(file_of(&b, &before, &lost)).unwrap();
    b.expect(5, &["check"]);
    // Slowly, so that there is a middle to be killed in.
    b.expect(0, &["schedule", "limit", "--window", "00:00-24:00", "--upload", "2MiB"]);
    let up = daemon(&b);
    let (path, len) = until("a part is sent", || incoming(&b.path("two")).filter(|(_, n)| *n > 3_000_000));
    drop(up);
    let cut = state(&b);
    let begun = data_copies(&cut).into_iter().find(|c| c.target == two && c.state == CopyState::Open).unwrap();
    let origin = data_copies(&before).into_iter().find(|c| c.target == one).unwrap();
    assert_eq!(begun.relayed.unwrap().copy, origin.id);
    assert!(begun.sealed_dek.is_empty());
    let held = fs::metadata(&path).unwrap().len();
    assert!(held >= len);
    let up = daemon(&b);
    until("it is made", || {
        if let Some((_, n)) = incoming(&b.path("two")) {
            assert!(n + (1 << 21) > held, "it began anew: {n} of {held}");
        }
        let listed = b.run(&["--json", "sector", "ls"]);
        let all: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let copies = all["sectors"].as_array().unwrap().iter().flat_map(|s| s["copies"].as_array().unwrap());
        let id = begun.id.to_string();
        copies.into_iter().any(|c| c["id"] == id.as_str() && c["state"] == "stored").then_some(())
    });
    drop(up);
    let after = state(&b);
    let made = after.copies[&begun.id].clone();
    assert_eq!((made.stored_id, made.header_hash), (origin.stored_id, origin.header_hash));
    assert!(fs::read(file_of(&b, &after, &made)).unwrap() == fs::read(file_of(&b, &after, &origin)).unwrap());
    // Now the other original goes.
    fs::remove_file(file_of(&b, &after, &origin)).unwrap();
    restores(&b, "from-two");
    b.expect(5, &["check"]);
    // The script that knows nothing of us.
    fs::write(b.path("words"), b.words()).unwrap();
    if let Some(python) = python() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rescue/rescue.py");
        let mut c = std::process::Command::new(python);
        c.arg(script).arg("--target").arg(b.path("two")).arg("--words-file").arg(b.path("words"));
        let done = c.arg("--to").arg(b.path("rescued")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(fs::read(b.restored("rescued").join("large")).unwrap(), noise(3, 12_000_000));
    }
    // After a fire: the newest system data does not know of the relayed copy yet.
    let words = b.words();
    fs::rename(b.path("zone"), b.path("burnt")).unwrap();
    let mut c = b.command(&["recover", "--target", "two", "--to", "out", "--verify"]);
    let done = c.env("ZONEWARD_PASSPHRASE", words).output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(tree(&b.restored("out")), tree(&b.path("src")));
    let adopted = state(&b);
    let c = &adopted.copies[&begun.id];
    assert!(c.is_keyless() && c.is_stored() && c.relayed == made.relayed && c.stored_id == made.stored_id);
    // Wrong bytes under the right name are no relayed copy.
    b.expect(0, &["recover", "--finish"]);
    b.expect(0, &["schedule", "limit", "--clear"]);
    b.expect(0, &["backup"]);
    b.expect(0, &["check", "--read-data"]);
}

/// A Python with what the rescue script needs, where the one who runs the tests has one.
fn python() -> Option<PathBuf> {
    let p = PathBuf::from(std::env::var_os("ZONEWARD_TEST_PYTHON")?);
    p.exists().then_some(p)
}

#[test]
fn a_damaged_source_is_named_and_never_spread() {
    for with_tables in [true, false] {
        let b = zone();
        b.expect(0, &["target", "add", "three", "--name", "three"]);
        b.expect(0, &["backup"]);
        let s = state(&b);
        let sector = s.sectors.values().filter(|s| !s.system).max_by_key(|s| s.raw_len).unwrap().id;
        let mut copies: Vec<Copy> = data_copies(&s).into_iter().filter(|c| c.sector == sector).collect();
        copies.sort_by_key(|c| c.id);
        assert_eq!(copies.len(), 2);
        // The one that is read first.
        let damaged = file_of(&b, &s, &copies[0]);
        let mut bytes = fs::read(&damaged).unwrap();
        let at = bytes.len() - 5000;
        bytes[at] ^= 1;
        fs::write(&damaged, &bytes).unwrap();
        if !with_tables {
            fs::remove_dir_all(b.path("zone/pieces")).unwrap();
        }
        b.expect(0, &["source", "set", "src", "--copies", "3"]);
        b.expect(0, &["backup"]);
        let now = state(&b);
        assert_eq!(now.copies[&copies[0].id].state, CopyState::Damaged, "with tables: {with_tables}");
        assert!(now.copies[&copies[0].id].trouble.is_some());
        let here: Vec<Copy> = data_copies(&now).into_iter().filter(|c| c.sector == sector && c.is_stored()).collect();
        assert_eq!(here.len(), 3, "{here:?}");
        for c in &here {
            assert_eq!((c.header_hash, c.stored_id), (copies[1].header_hash, copies[1].stored_id));
            assert!(fs::read(file_of(&b, &now, c)).unwrap() == fs::read(file_of(&b, &s, &copies[1])).unwrap());
        }
        b.expect(0, &["check", "--read-data"]);
        // A byte that changes now is found without any key, by the reading of all and by that of parts.
        let victim = file_of(&b, &now, &here[0]);
        let mut bytes = fs::read(&victim).unwrap();
        bytes[4096 + 100] ^= 1;
        fs::write(&victim, &bytes).unwrap();
        assert!(b.expect(5, &["check", "--read-data"]).contains("piece 1 of its stored bytes"));
    }
}

#[test]
fn daemons_audit_without_a_key_and_heal_by_relaying() {
    let b = zone();
    b.expect(0, &["backup"]);
    let s = state(&b);
    let victim = data_copies(&s).into_iter().max_by_key(|c| c.stored_len).unwrap();
    let file = file_of(&b, &s, &victim);
    // A node that did not make the copies has no hashes of their pieces: it reads them whole, once.
    fs::remove_dir_all(b.path("zone/pieces")).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let up = daemon(&b);
    b.expect(0, &["schedule", "audits", "--every", "2s", "--read-all", "never", "--read-all-s3", "never"]);
    let copies = |b: &Bench| -> Vec<Value> {
        let o = b.run(&["--json", "sector", "ls"]);
        let all: Value = serde_json::from_slice(&o.stdout).unwrap();
        let sectors = all["sectors"].as_array().unwrap().iter();
        let mine = sectors.filter(|s| s["id"] == victim.sector.to_string().as_str());
        mine.flat_map(|s| s["copies"].as_array().unwrap().clone()).collect()
    };
    let damaged = until("the flipped byte is found", || {
        copies(&b).into_iter().find(|c| c["id"] == victim.id.to_string().as_str() && c["state"] == "damaged")
    });
    assert!(damaged["trouble"].as_str().unwrap().contains("stored bytes"), "{damaged}");
    until("a copy is relayed in its place", || {
        let stored: Vec<Value> = copies(&b).into_iter().filter(|c| c["state"] == "stored").collect();
        (stored.len() == 2 && stored.iter().any(|c| !c["relayed"].is_null())).then_some(())
    });
    drop(up);
    b.expect(0, &["check", "--read-data"]);
    restores(&b, "all");
}
