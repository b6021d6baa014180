//! One user's data and settings, from one zone to another, with the real program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod wait;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::{Bench, PASSPHRASE, noise};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, llistxattr, mknodat, setxattr};
use serde_json::Value;
use zoneward_actors::recover::{find, zones_on};
use zoneward_consensus::export::export_state;
use zoneward_sectors::keyfile::Words;
use zoneward_targets::{Target, Url};

/// All of an entry that has to come back.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    same_as: Option<PathBuf>,
    holes: bool,
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0u8; 4096];
    let n = llistxattr(path, &mut names[..]).unwrap();
    let one = |name: &[u8]| {
        let mut value = vec![0u8; 4096];
        let len = lgetxattr(path, name, &mut value[..]).unwrap();
        (name.to_vec(), value[..len].to_vec())
    };
    names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()).map(one).collect()
}

fn deep(dir: &Path) -> BTreeMap<PathBuf, Node> {
    let (mut paths, mut todo) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(p) = todo.pop() {
        let meta = fs::symlink_metadata(&p).unwrap();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&p).unwrap().map(|e| e.unwrap().path()));
        }
        paths.insert(p.strip_prefix(dir).unwrap().to_owned(), (p, meta));
    }
    let (mut out, mut seen) = (BTreeMap::new(), BTreeMap::<u64, PathBuf>::new());
    for (inside, (path, m)) in paths {
        let same_as = seen.get(&m.ino()).cloned();
        if !m.is_dir() && same_as.is_none() {
            seen.insert(m.ino(), inside.clone());
        }
        let content = match m.file_type() {
            t if t.is_file() => fs::read(&path).unwrap(),
            t if t.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_vec(),
            _ => Vec::new(),
        };
        let node = Node {
            mode: m.mode(),
            owner: (m.uid(), m.gid()),
            mtime: (m.mtime(), m.mtime_nsec()),
            holes: m.is_file() && m.blocks() * 512 + (1 << 20) < m.len(),
            xattrs: xattrs(&path),
            content,
            same_as,
        };
        out.insert(inside, node);
    }
    out
}

/// A tree with all that is hard to bring back.
fn awkward(src: &Path) {
    bench::fill(src);
    for sub in ["deep/er", "empty", "closed-dir"] {
        fs::create_dir_all(src.join(sub)).unwrap();
    }
    fs::write(src.join("a/left-out.tmp"), "left out").unwrap();
    fs::write(src.join("nothing"), "").unwrap();
    fs::hard_link(src.join("a/b/large"), src.join("deep/er/large-too")).unwrap();
    symlink("/nowhere/at all", src.join("broken")).unwrap();
    fs::write(src.join(std::ffi::OsString::from_vec(b"odd \xff\n name".to_vec())), b"odd").unwrap();
    mknodat(CWD, src.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let holes = fs::File::create(src.join("holes")).unwrap();
    holes.set_len(30 << 20).unwrap();
    holes.write_all_at(b"an island", 20 << 20).unwrap();
    fs::write(src.join("twin"), noise(1, 9_000_000)).unwrap();
    for path in ["a/one", "deep"] {
        setxattr(src.join(path), "user.note", b"a value \0 with zero", XattrFlags::empty()).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(src.join("a/small-3"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::lchown(src.join("broken"), Some(77), Some(78)).unwrap();
    }
    for (path, mode) in
        [("a/small-1", 0o4755), ("empty", 0o1777), ("a/small-2", 0o604), ("closed-dir", 0o555), ("", 0o751)]
    {
        fs::set_permissions(src.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 987_654_321);
    for path in ["a/small-4", "empty"] {
        fs::File::open(src.join(path)).unwrap().set_times(fs::FileTimes::new().set_modified(old)).unwrap();
    }
}

/// What a tree is without what its source leaves out.
fn kept(dir: &Path) -> BTreeMap<PathBuf, Node> {
    deep(dir).into_iter().filter(|(p, _)| p.extension().is_none_or(|e| e != "tmp")).collect()
}

fn same(a: &BTreeMap<PathBuf, Node>, b: &BTreeMap<PathBuf, Node>) {
    let differ: Vec<_> = a.iter().filter(|(p, n)| b.get(*p) != Some(n)).map(|(p, _)| p).collect();
    let more: Vec<_> = b.keys().filter(|p| !a.contains_key(*p)).collect();
    assert!(differ.is_empty() && more.is_empty(), "differ: {differ:?}, too many: {more:?}");
}

/// Two zones: ann has a source in the first.
struct Two {
    b: Bench,
    words: String,
}

fn words_in(kit: &Path) -> String {
    let page = fs::read_to_string(kit).unwrap();
    let word = |w: &str| w.split_once("</span>").unwrap().1.split_once("</li>").unwrap().0.to_owned();
    page.split("<li><span>").skip(1).take(24).map(word).collect::<Vec<_>>().join(" ")
}

impl Two {
    /// The first zone, with ann's source and bob's; her key; the second zone, empty.
    fn new(fill: impl Fn(&Path)) -> Self {
        let b = Bench::new();
        fill(&b.path("src"));
        fs::create_dir(b.path("bob")).unwrap();
        fs::write(b.path("bob/diary"), "of bob alone").unwrap();
        b.expect(0, &["init", "--target", "target", "--sector-min", "1MiB", "--name", "aquarium"]);
        b.expect(0, &["backup", "src", "--priority", "5", "--exclude", "*.tmp", "--tag", "spring"]);
        b.expect(0, &["backup", "bob"]);
        b.expect(0, &["user", "add", "ann", "--source", "src", "--max-priority", "7"]);
        b.expect(0, &["user", "add", "bob", "--source", "bob"]);
        let said = b.expect(0, &["user", "key", "ann", "--kit", "ann.html"]);
        let words = words_in(&b.path("ann.html"));
        assert!(!said.contains(&words) && fs::metadata(b.path("ann.html")).unwrap().mode() & 0o077 == 0);
        let two = Self { b, words };
        two.there(0, &["init", "--target", "target-b", "--sector-min", "1MiB", "--name", "barn"]);
        two
    }

    fn export(&self) {
        self.b.expect(0, &["user", "export", "ann", "--to", "export"]);
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut c = self.b.command(args);
        c.env("ZONEWARD_HOME", self.b.path("zone-b")).env("ZONEWARD_USER_PASSPHRASE", &self.words);
        c
    }

    /// In the second zone, with ann's words.
    fn there(&self, code: i32, args: &[&str]) -> String {
        let o = self.command(args).output().unwrap();
        let all = format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        assert_eq!(o.status.code(), Some(code), "{args:?}: {all}");
        assert!(!all.contains(&self.words) && !all.contains(PASSPHRASE), "a secret is in the output of {args:?}");
        all
    }

    fn at(&self, place: &str) -> String {
        format!("{}={}", self.b.path("src").display(), self.b.path(place).display())
    }

    fn json(&self, args: &[&str]) -> Value {
        let said = self.there(0, &[&["--json"], args].concat());
        serde_json::from_str(said.lines().last().unwrap()).unwrap()
    }
}

#[test]
fn a_users_data_and_settings_come_from_one_zone_to_another_without_a_difference() {
    let two = Two::new(awkward);
    let b = &two.b;
    b.expect(0, &["source", "set", "src", "--before", "true hunter2", "--snapshot", "off"]);
    b.expect(0, &["schedule", "set", "weekly", "--cron", "0 3 * * 0", "--source", "src"]);
    b.expect(0, &["schedule", "set", "others", "--cron", "0 3 * * 0", "--source", "bob"]);
    let was = kept(&b.path("src"));
    let said = b.expect(0, &["user", "export", "ann", "--to", "export"]);
    assert!(said.contains("commands around") && !said.contains("hunter2"), "{said}");
    assert!(!b.path("zone/exports").exists() || fs::read_dir(b.path("zone/exports")).unwrap().next().is_none());
    // Nothing is written over, an export neither.
    assert!(b.expect(4, &["user", "export", "ann", "--to", "export"]).contains("ZW-1315"));

    // What she had is compared with what she gets, and nothing is changed.
    let at = two.at("new");
    let said = two.there(4, &["user", "import", "export", "-n", "--at", &at]);
    assert!(said.contains("ZW-1674") && said.contains("priorities up to 0: he had up to 7"), "{said}");
    assert!(said.contains("priority 5 becomes 0"), "{said}");
    let said = two.there(4, &["user", "import", "export", "-n", "--grant"]);
    assert!(said.contains("ZW-1684") && said.contains("something is at"), "{said}");
    let said = two.there(0, &["user", "import", "export", "-n", "--grant", "--at", &at]);
    assert!(said.contains("gets here") && said.contains("schedule weekly") && said.contains("dry run"), "{said}");
    assert!(!b.path("new").exists() && !b.path("zone-b/imports").exists());
    assert!(two.json(&["user", "ls"])["users"].as_array().unwrap().is_empty());
    // Only she opens it.
    let o =
        two.command(&["user", "import", "export", "-n"]).env("ZONEWARD_USER_PASSPHRASE", b.words()).output().unwrap();
    assert_eq!(o.status.code(), Some(12), "the owner of the first zone has no key to it");

    let said = two.there(0, &["--json", "user", "import", "export", "--grant", "--at", &at]);
    let summary: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["type"], &summary["warnings"]), (&"summary".into(), &0.into()), "{summary}");
    same(&was, &deep(&b.path("new")));
    assert!(
        fs::read_dir(b.path("")).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with(".zoneward"))
    );
    assert!(!said.contains("bob"));

    // The settings came too; what belongs to the other machine did not.
    let source = two.json(&["source", "ls"])["sources"][0].clone();
    assert_eq!((&source["priority"], &source["snapshot"], &source["before"]), (&5.into(), &"off".into(), &Value::Null));
    assert_eq!((&source["excludes"][0], &source["path"]), (&"*.tmp".into(), &b.path("new").to_str().unwrap().into()));
    let user = two.json(&["user", "ls"])["users"][0].clone();
    assert_eq!(
        (&user["name"], &user["priority_max"], &user["sources"].as_array().unwrap().len()),
        (&"ann".into(), &7.into(), &1)
    );
    assert!(user["key"].is_string(), "her key is hers here too");
    let schedules = two.json(&["schedule", "ls"])["schedules"].clone();
    assert!(
        schedules.as_array().unwrap().iter().any(|s| s["name"] == "weekly")
            && !schedules.to_string().contains("others")
    );
    two.there(0, &["backup"]);
    two.there(0, &["restore", "latest", "--to", "out"]);
    same(&was, &deep(&b.path("out").join(b.path("new").strip_prefix("/").unwrap())));

    // And on, from there, with the same words.
    two.there(0, &["user", "export", "ann", "--to", "export-2"]);
    let on = format!("{}={}", b.path("new").display(), b.path("third").display());
    let mut c = two.command(&["user", "import", "export-2", "--name", "anna", "--grant", "--at", &on]);
    let o = c.env("ZONEWARD_HOME", b.path("zone")).output().unwrap();
    assert_eq!(o.status.code(), Some(0), "{}", String::from_utf8_lossy(&o.stderr));
    same(&was, &deep(&b.path("third")));
}

#[test]
fn an_export_holds_nothing_of_the_zone_that_wrote_it() {
    let two = Two::new(bench::fill);
    let b = &two.b;
    b.expect(0, &["token", "create", "--label", "dashboard-label"]);
    b.expect(0, &["target", "set", "first", "--name", "cellar-shelf"]);
    b.expect(0, &["source", "set", "src", "--after", "true hunter2"]);
    b.expect(0, &["backup", "--tag", "autumn"]);
    two.export();

    let target = zoneward_targets::open(&Url::from_path(&b.path("export")).unwrap(), None, None).unwrap();
    let target: Arc<dyn Target> = Arc::from(target);
    let zones = zones_on(target.as_ref(), "").unwrap();
    let [zone] = &zones[..] else { panic!("{}", zones.len()) };
    let file = zone.keyfile.clone().unwrap();
    assert!(file.open_with_words(&Words::parse(&b.words()).unwrap()).is_err() && !file.has_passphrase());
    let owner = file.open_with_words(&Words::parse(&two.words).unwrap()).unwrap();
    let found = find(&target, zone.alias, &owner, true).unwrap();
    assert!(found.notes.is_empty(), "{:?}", found.notes);
    let state = &found.state;
    let mut text = Vec::new();
    export_state(state, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();

    let secret: Value = serde_json::from_slice(&fs::read(b.path("zone/secrets/zone-secret")).unwrap()).unwrap();
    let cellar = zoneward_targets::open(&Url::from_path(&b.path("target")).unwrap(), None, None).unwrap();
    let cellar: Arc<dyn Target> = Arc::from(cellar);
    let zone = zones_on(cellar.as_ref(), "").unwrap().remove(0);
    let its_owner = zone.keyfile.unwrap().open_with_words(&Words::parse(&b.words()).unwrap()).unwrap();
    let its = find(&cellar, zone.alias, &its_owner, true).unwrap().state;
    let zone_id = its.zone.as_ref().unwrap().id.to_string();
    let mut ids: Vec<String> = its.nodes.keys().map(ToString::to_string).collect();
    ids.extend(its.targets.keys().map(ToString::to_string));
    ids.extend(its.checkpoints.keys().map(ToString::to_string));
    ids.extend(its.sectors.keys().map(ToString::to_string));
    ids.extend(its.copies.keys().map(ToString::to_string));
    assert!(ids.len() > 5 && ids.iter().all(|id| !text.contains(id)));
    let key: Value = serde_json::from_slice(&fs::read(b.path("zone/owner-key.json")).unwrap()).unwrap();
    for strange in [
        "bob",
        "hunter2",
        "dashboard-label",
        "cellar-shelf",
        "aquarium",
        "/target",
        &zone_id,
        secret["secret"].as_str().unwrap(),
        key["fingerprint"].as_str().unwrap(),
        key["sign_public"].as_str().unwrap(),
    ] {
        assert!(!strange.is_empty() && !text.contains(strange), "{strange}");
    }
    assert_eq!(state.nodes.values().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["export"]);
    assert_eq!(state.targets.values().map(|t| (&t.name[..], &t.credentials)).collect::<Vec<_>>(), [("export", &None)]);
    assert!(state.tokens.is_empty() && state.invites.is_empty() && state.former.is_empty());
    let [user] = &state.users.values().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!((&user.name[..], user.key.is_none(), user.sources.len()), ("ann", true, 1));
    let tags: Vec<_> = state.complete()[0].tags.iter().cloned().collect();
    assert!(tags.contains(&"autumn".to_owned()) && tags.iter().any(|t| t.starts_with("as of 20")), "{tags:?}");
    // Its sectors are new ones: no copy has a name or bytes that the zone's target has.
    let files = |dir: &str| {
        let zws = |e: &(PathBuf, u32, u64, i64, i64, Vec<u8>)| e.0.extension().is_some_and(|x| x == "zws");
        bench::tree(&b.path(dir)).into_iter().filter(zws).map(|e| e.5[..4096].to_vec()).collect::<Vec<_>>()
    };
    let (ours, theirs) = (files("target"), files("export"));
    assert!(!theirs.is_empty() && theirs.iter().all(|t| !ours.contains(t)));
    // What signs her exports is hers and fresh: whoever holds both cannot tell by it that they belong together.
    assert!(ours.iter().all(|o| theirs.iter().all(|t| o[636 + 24..636 + 88] != t[636 + 24..636 + 88])));
}

#[test]
fn what_opens_a_zone_opens_an_export() {
    let two = Two::new(awkward);
    two.export();
    let b = &two.b;
    let out = b.path("out").join(b.path("src").strip_prefix("/").unwrap());
    let recover = |secret: &str| {
        let mut c = two.command(&["recover", "--target", "export", "--to", "out"]);
        c.env("ZONEWARD_HOME", b.path("third")).env("ZONEWARD_PASSPHRASE", secret).output().unwrap()
    };
    assert_eq!(recover(&b.words()).status.code(), Some(12));
    let o = recover(&two.words);
    assert_eq!(o.status.code(), Some(0), "{}", String::from_utf8_lossy(&o.stderr));
    same(&kept(&b.path("src")), &deep(&out));
    let mut c = two.command(&["check", "--read-data"]);
    let o = c.env("ZONEWARD_HOME", b.path("third")).output().unwrap();
    assert_eq!(o.status.code(), Some(0), "{}", String::from_utf8_lossy(&o.stdout));
    // Its sectors are whole tars again, with folders and links in them.
    let o = two.command(&["--json", "sector", "ls"]).env("ZONEWARD_HOME", b.path("third")).output().unwrap();
    let all: Value = serde_json::from_slice(&o.stdout).unwrap();
    let data = all["sectors"].as_array().unwrap().iter().filter(|s| s["system"] == false);
    let members: String = data
        .map(|s| {
            let id = s["id"].as_str().unwrap().to_owned();
            let o = two.command(&["sector", "ls", &id]).env("ZONEWARD_HOME", b.path("third")).output().unwrap();
            String::from_utf8_lossy(&o.stdout).into_owned()
        })
        .collect();
    for name in ["deep/er", "broken", "fifo", "hard", "nothing", "a/one"] {
        assert!(members.contains(name), "{name}: {members}");
    }
}

/// The largest sector of a target.
fn largest(target: &Path) -> PathBuf {
    let all = bench::tree(target).into_iter().filter(|e| e.0.extension().is_some_and(|x| x == "zws"));
    target.join(all.max_by_key(|e| e.2).unwrap().0)
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_damaged_is_named_and_nothing_of_it_is_put_in_its_place() {
    let two = Two::new(bench::fill);
    let b = &two.b;
    let was = bench::tree(&b.path("src"));
    two.export();
    let sector = largest(&b.path("export"));
    flip(&sector);
    let import = ["user", "import", "export", "--grant", "--at", &two.at("new")];
    let said = two.there(5, &import);
    assert!(said.contains("ZW-1685") && said.contains("because"), "{said}");
    assert!(!b.path("new").exists() && two.json(&["user", "ls"])["users"].as_array().unwrap().is_empty());
    two.there(0, &["user", "import", "export", "--give-up"]);
    assert!(
        fs::read_dir(b.path("")).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with(".zoneward"))
    );
    assert!(two.there(4, &["user", "import", "export", "--give-up"]).contains("ZW-1687"));
    // Mended, it goes on from where it ended, without her words.
    two.there(5, &import);
    flip(&sector);
    let mut c = two.command(&import);
    let o = c.env_remove("ZONEWARD_USER_PASSPHRASE").output().unwrap();
    assert_eq!(o.status.code(), Some(0), "{}", String::from_utf8_lossy(&o.stderr));
    assert!(bench::tree(&b.path("new")) == was);

    // A head that is cut, forged, or speaks of what is not there: it is no whole export.
    let zone = fs::read_dir(b.path("export/zones")).unwrap().next().unwrap().unwrap().path();
    let pointer = zone.join("pointer.json");
    let good = fs::read_to_string(&pointer).unwrap();
    for bad in [good[..good.len() / 2].to_owned(), good.replacen("\\\"n\\\":1", "\\\"n\\\":2", 1)] {
        assert_ne!(bad, good);
        fs::write(&pointer, bad).unwrap();
        let said = two.there(5, &["user", "import", "export", "-n", "--grant", "--at", &two.at("other")]);
        assert!(said.contains("ZW-1683"), "{said}");
    }
    fs::write(&pointer, &good).unwrap();
    // A zone is no export, whoever opens it.
    assert!(two.there(12, &["user", "import", "target", "-n"]).contains("ZW-1107"));
    let o =
        two.command(&["user", "import", "target", "-n"]).env("ZONEWARD_USER_PASSPHRASE", b.words()).output().unwrap();
    let said = String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(o.status.code() == Some(4) && said.contains("ZW-1682"), "{said}");

    // And what is damaged in the zone is not exported as if it were whole.
    b.damage_largest_sector();
    let said = b.expect(5, &["user", "export", "ann", "--to", "second"]);
    assert!(said.contains("ZW-1679") && said.contains("a/b/"), "{said}");
    b.expect(0, &["backup", "--full"]);
    b.expect(4, &["user", "export", "ann", "--to", "second"]);
    b.expect(0, &["user", "export", "ann", "--to", "whole"]);
}

/// Kills a run at ever later moments, until one comes to its end. Answers how many were met under way. One that was killed
/// with its last breath was `done`: then the next finds nothing to go on with.
fn kill_until_done(mut start: impl FnMut() -> std::process::Command, done: impl Fn() -> bool) -> u32 {
    let (mut met, mut wait) = (0, Duration::from_millis(5));
    loop {
        let (begun, was_done) = (Instant::now(), done());
        let mut child = start().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if begun.elapsed() > wait {
                break None;
            }
            std::thread::yield_now();
        };
        match ended {
            Some(status) => {
                assert!(status.code() == Some(0) || was_done, "{status}");
                return met;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                met += 1;
                wait = wait * 5 / 4;
            }
        }
    }
}

#[test]
fn killed_at_any_moment_export_and_import_go_on_to_the_same_end() {
    let two = Two::new(awkward);
    let b = &two.b;
    let was = kept(&b.path("src"));
    let under_way = |e: std::io::Result<fs::DirEntry>| !e.unwrap().file_name().to_string_lossy().ends_with(".gone");
    let none = |dir: &str| fs::read_dir(b.path(dir)).map_or(true, |d| !d.into_iter().any(under_way));
    let export = || b.command(&["user", "export", "ann", "--to", "export"]);
    let met = kill_until_done(export, || b.path("export").exists() && none("zone/exports"));
    assert!(met > 2, "{met} kills");
    assert!(none("zone/exports"));
    let at = two.at("new");
    let import = || two.command(&["user", "import", "export", "--grant", "--at", &at]);
    let met = kill_until_done(import, || b.path("new").exists() && none("zone-b/imports"));
    assert!(met > 2, "{met} kills");
    same(&was, &deep(&b.path("new")));
    assert!(none("zone-b/imports"));
    assert_eq!(two.json(&["source", "ls"])["sources"].as_array().unwrap().len(), 1);
    assert_eq!(two.json(&["user", "ls"])["users"].as_array().unwrap().len(), 1);
    two.there(0, &["backup"]);
    two.there(0, &["check", "--read-data"]);
}

#[test]
fn an_import_that_was_begun_goes_on_as_it_was_begun_and_not_otherwise() {
    let two = Two::new(|src| {
        for i in 0..300 {
            fs::write(src.join(i.to_string()), vec![7; 20_000]).unwrap();
        }
    });
    let b = &two.b;
    two.export();
    let at = two.at("new");
    // A part of the export cannot be read for now, so the import ends in the middle.
    let sector = largest(&b.path("export"));
    flip(&sector);
    two.there(5, &["user", "import", "export", "--grant", "--at", &at]);
    for more in [&["--at", &two.at("other")][..], &["--name", "anna"]] {
        let said = two.there(4, &[&["user", "import", "export", "--grant"], more].concat());
        assert!(said.contains("ZW-1667") && said.contains("/new"), "{said}");
    }
    assert!(!b.path("other").exists() && !b.path("new").exists());
    flip(&sector);
    two.there(0, &["user", "import", "export"]);
    assert_eq!(fs::read(b.path("new/299")).unwrap(), vec![7; 20_000]);
}

#[test]
fn rights_hold_for_a_users_sources_and_a_lock_holds_all_of_his() {
    let two = Two::new(|src| fs::write(src.join("file"), "content").unwrap());
    let b = &two.b;
    assert!(b.expect(4, &["source", "set", "src", "--priority", "8"]).contains("for the source's user"));
    b.expect(0, &["source", "set", "src", "--priority", "7"]);
    assert!(b.expect(4, &["user", "set", "ann", "--max-priority", "3"]).contains("ZW-1674"));
    assert!(b.expect(4, &["user", "set", "ann", "--source", "bob"]).contains("ZW-1673"));
    assert!(b.expect(4, &["user", "add", "ann"]).contains("ZW-1672"));
    assert!(b.expect(2, &["user", "add", "a/b"]).contains("ZW-1672"));
    assert!(b.expect(1, &["user", "set", "nobody", "--max-copies", "1"]).contains("ZW-1671"));
    assert!(b.expect(4, &["user", "key", "ann", "--kit", "again.html"]).contains("ZW-1676"));
    assert!(b.expect(4, &["user", "key", "bob", "--kit", "target/bob.html"]).contains("ZW-1112"));
    assert!(b.expect(4, &["user", "export", "bob", "--to", "bobs"]).contains("ZW-1677"));
    // A kit may be the only place of its words, and is not written over, nor backed up.
    let kit = fs::read(b.path("ann.html")).unwrap();
    assert!(b.expect(4, &["user", "key", "ann", "--kit", "ann.html", "--new"]).contains("ZW-1113"));
    assert_eq!(fs::read(b.path("ann.html")).unwrap(), kit);
    assert!(b.expect(4, &["user", "key", "bob", "--kit", "bob/kit.html"]).contains("in the next backup of"));
    assert!(b.expect(4, &["user", "export", "ann", "--to", "src/inside"]).contains("ZW-1668"));
    assert!(!b.path("bob/kit.html").exists() && !b.path("src/inside").exists());
    b.expect(0, &["user", "lock", "ann"]);
    for refused in [
        &["source", "set", "src", "--priority", "1"][..],
        &["source", "remove", "src"],
        &["user", "set", "ann", "--max-copies", "1"],
        &["user", "export", "ann", "--to", "export"],
        &["user", "key", "ann", "--kit", "k", "--new"],
    ] {
        b.expect(4, refused);
    }
    fs::write(b.path("src/file"), "changed").unwrap();
    b.expect(0, &["backup"]);
    b.expect(0, &["user", "lock", "ann", "--undo"]);
    b.expect(0, &["user", "set", "ann", "--quota", "1GiB", "--max-copies", "2"]);
    assert!(b.expect(0, &["user", "ls"]).contains("1 source, 7 B of 1.00 GiB"), "{}", b.expect(0, &["user", "ls"]));
    // What is no longer backed up stays hers, as long as a checkpoint holds it.
    b.expect(0, &["source", "remove", "src"]);
    two.export();
    let said = two.there(4, &["user", "import", "export", "-n", "--fewer-rights"]);
    assert!(said.contains("something is at"), "{said}");
    two.there(0, &["user", "import", "export", "--fewer-rights", "--at", &two.at("new")]);
    assert_eq!(fs::read(b.path("new/file")).unwrap(), b"changed");
    let source = two.json(&["source", "ls"])["sources"][0].clone();
    assert_eq!(source["priority"], 0);
    b.expect(0, &["user", "rm", "ann"]);
    // A passphrase of his own opens it as well, where he wants that.
    let mut c = b.command(&["user", "key", "bob", "--kit", "bob.html", "--passphrase"]);
    assert_eq!(c.env("ZONEWARD_USER_PASSPHRASE", "a phrase of bob").output().unwrap().status.code(), Some(0));
    b.expect(0, &["user", "export", "bob", "--to", "bobs"]);
    let at = format!("{}={}", b.path("bob").display(), b.path("bob-there").display());
    let mut c = two.command(&["user", "import", "bobs", "--at", &at]);
    let o = c.env("ZONEWARD_USER_PASSPHRASE", "a phrase of bob").output().unwrap();
    assert_eq!(o.status.code(), Some(0), "{}", String::from_utf8_lossy(&o.stderr));
    assert_eq!(fs::read(b.path("bob-there/diary")).unwrap(), b"of bob alone");
}
