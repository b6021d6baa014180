//! `zoneward target serve` as a real process: killed, started again, ended; and a zone's disk that is served.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use zoneward_sectors::ids::{CopyId, ZoneAlias};
use zoneward_targets::{Credentials, DirectoryTarget, ServerTarget, Target, Url};

const APPEND: usize = zoneward_targets::limits::APPEND_LEN_MAX as usize;

fn zoneward(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_zoneward"));
    c.args(args).stdin(Stdio::null());
    c
}

fn said(args: &[&str]) -> String {
    let o = zoneward(args).output().unwrap();
    assert!(o.status.success(), "{args:?}: {}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8(o.stdout).unwrap()
}

struct Serving {
    child: Child,
    url: Url,
}

impl Serving {
    fn start(data: &Path, listen: &str) -> Serving {
        Self::start_with(data, listen, &[])
    }

    fn start_with(data: &Path, listen: &str, more: &[&str]) -> Serving {
        let data = data.to_str().unwrap();
        let args = ["--json", "target", "serve", "--data", data, "--listen", listen, "--host", "127.0.0.1"];
        let mut child = zoneward(&[&args, more].concat()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        Serving { child, url: told["url"].as_str().unwrap().parse().unwrap() }
    }

    fn listening(&self) -> String {
        let Url::Server(url) = &self.url else { panic!("no server's URL") };
        format!("127.0.0.1:{}", url.port)
    }

    fn open(&self, token: &str) -> ServerTarget {
        let Url::Server(url) = &self.url else { panic!("no server's URL") };
        ServerTarget::open(url, None, Some(&Credentials::of([("token", token)]))).unwrap()
    }

    fn signal(&mut self, signal: Signal) -> std::process::ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn token(data: &Path, more: &[&str]) -> String {
    let args = ["--json", "target", "token", "add", "--data", data.to_str().unwrap(), "--account", "ann"];
    let told: serde_json::Value = serde_json::from_str(&said(&[&args, more].concat())).unwrap();
    told["token"].as_str().unwrap().to_owned()
}

fn data_of(root: &tempfile::TempDir) -> PathBuf {
    root.path().canonicalize().unwrap().join("data")
}

#[test]
fn a_server_that_is_killed_keeps_what_it_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let data = data_of(&root);
    let token = token(&data, &[]);
    assert!(!fs::read_to_string(data.join("server/tokens.json")).unwrap().contains(token.rsplit('_').next().unwrap()));
    let mut serving = Serving::start(&data, "127.0.0.1:0");
    let target = serving.open(&token);
    let (alias, copy) = (ZoneAlias::random(), CopyId::random());
    let bytes: Vec<u8> = (0..3 * APPEND + 77).map(|i| (i * 31 + i / 977) as u8).collect();
    let writer = target.open(alias, copy).unwrap();
    writer.write_at(0, &bytes[..2 * APPEND + 5]).unwrap();
    let listen = serving.listening();
    assert!(!serving.signal(Signal::KILL).success());
    // Its writer tries for a while, gives up, and is gone: nothing of it reaches the server that comes after.
    drop(writer);
    let mut serving = Serving::start(&data, &listen);
    let target = serving.open(&token);
    let writer = target.open(alias, copy).unwrap();
    let held = writer.offset() as usize;
    assert!((APPEND..=2 * APPEND).contains(&held), "{held}");
    writer.write_at(held as u64, &bytes[held..]).unwrap();
    writer.seal(bytes.len() as u64).unwrap();
    // SIGTERM ends it in order, and the disk alone holds the sector.
    assert!(serving.signal(Signal::TERM).success());
    let disk = DirectoryTarget::open(&data, Some(target.id())).unwrap();
    let mut back = vec![0u8; bytes.len()];
    disk.read_at(alias, copy, 0, &mut back).unwrap();
    assert!(back == bytes);
    let listed = said(&["target", "token", "ls", "--data", data.to_str().unwrap()]);
    assert!(listed.contains("ann") && !listed.contains(token.rsplit('_').next().unwrap()), "{listed}");
}

#[test]
fn what_a_zone_wrote_to_a_disk_is_served_from_it_to_the_account_it_was_given_to() {
    let root = tempfile::tempdir().unwrap();
    let (data, home, source) = (data_of(&root), root.path().join("zone"), root.path().join("source"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), vec![7u8; 300_000]).unwrap();
    let run = |args: &[&str]| {
        let o =
            zoneward(args).env("ZONEWARD_HOME", &home).env("ZONEWARD_PASSPHRASE", "correct horse").output().unwrap();
        assert!(o.status.success(), "{args:?}: {}", String::from_utf8_lossy(&o.stderr));
    };
    run(&["init", "--target", data.to_str().unwrap(), "--sector-min", "1MiB"]);
    run(&["backup", source.to_str().unwrap()]);
    let disk = DirectoryTarget::open(&data, None).unwrap();
    let alias = disk.list_zones().unwrap()[0];
    let stored = disk.list(alias).unwrap();
    assert!(!stored.sectors.is_empty());
    let serving = Serving::start(&data, "127.0.0.1:0");
    // Nobody's until the operator gives it.
    let stranger = serving.open(&token(&data, &[]));
    assert!(stranger.list(alias).unwrap().sectors.is_empty());
    assert!(stranger.open(alias, CopyId::random()).is_err());
    let Serving { url, .. } = &serving;
    drop(stranger);
    let given = token(&data, &["--zone", &alias.to_string()]);
    let text = url.to_string();
    drop(serving);
    let serving = Serving::start(&data, "127.0.0.1:0");
    let Url::Server(again) = &serving.url else { panic!("no server's URL") };
    assert!(text.ends_with(&again.pin.unwrap().to_string()), "the server's key changed");
    let target = serving.open(&given);
    assert_eq!(target.id(), disk.id());
    assert_eq!(target.list(alias).unwrap(), stored);
    for (copy, len) in stored.sectors {
        let (mut served, mut read) = (vec![0u8; len as usize], vec![0u8; len as usize]);
        target.read_at(alias, copy, 0, &mut served).unwrap();
        disk.read_at(alias, copy, 0, &mut read).unwrap();
        assert!(served == read, "{copy}");
    }
}

#[test]
fn a_zone_lives_on_a_target_server() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().canonicalize().unwrap();
    let (data, source) = (data_of(&root), dir.join("source"));
    fs::create_dir(&source).unwrap();
    let content: Vec<u8> = (0..3_000_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(source.join("large"), &content).unwrap();
    let credentials = |name: &str, token: &str| {
        let path = dir.join(name);
        fs::write(&path, serde_json::json!({"token": token}).to_string()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = token(&data, &[]);
    let (right, wrong) = (credentials("right", &good), credentials("wrong", &token(&dir.join("other"), &[])));
    let serving = Serving::start(&data, "127.0.0.1:0");
    let (url, listen) = (serving.url.to_string(), serving.listening());
    let run = |code: i32, args: &[&str]| {
        let home = dir.join("zone");
        let o =
            zoneward(args).env("ZONEWARD_HOME", &home).env("ZONEWARD_PASSPHRASE", "correct horse").output().unwrap();
        let all = format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        assert_eq!(o.status.code(), Some(code), "{args:?}: {all}");
        assert!(!all.contains(good.rsplit('_').next().unwrap()), "the token is in the output of {args:?}");
        all
    };
    let init = |credentials: &str| {
        ["init", "--target", &url, "--credentials-file", credentials, "--sector-min", "1MiB"].map(str::to_owned)
    };
    let said = |code, args: [String; 7]| run(code, &args.each_ref().map(String::as_str));
    assert!(said(7, init(&wrong)).contains("ZW-1316"));
    said(0, init(&right));
    run(0, &["backup", source.to_str().unwrap()]);
    run(0, &["check", "--read-data"]);
    let out = dir.join("out");
    run(0, &["restore", "latest", "--to", out.to_str().unwrap()]);
    let back = out.join(source.strip_prefix("/").unwrap()).join("large");
    assert!(fs::read(back).unwrap() == content);
    // Other credentials are tried before they are taken.
    assert!(run(7, &["target", "credentials", "first", "--credentials-file", &wrong]).contains("ZW-1316"));
    run(0, &["check"]);
    drop(serving);
    assert!(run(7, &["check"]).contains("does not answer"));
    let serving = Serving::start(&data, &listen);
    assert_eq!(serving.url.to_string(), url);
    fs::write(source.join("more"), b"more").unwrap();
    run(0, &["backup"]);
    run(0, &["check", "--read-data"]);
}

#[test]
fn a_server_tells_its_price_its_quota_and_when_its_token_ends_until_a_person_says_otherwise() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().canonicalize().unwrap();
    let (data, source) = (data_of(&root), dir.join("source"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), b"a").unwrap();
    let key = dir.join("key");
    let token = token(&data, &["--days", "10", "--quota", "3GiB"]);
    fs::write(&key, serde_json::json!({"token": token}).to_string()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let serving = Serving::start_with(&data, "127.0.0.1:0", &["--price", "EUR 0.004"]);
    let run = |args: &[&str]| {
        let mut command = zoneward(args);
        let o = command
            .env("ZONEWARD_HOME", dir.join("zone"))
            .env("ZONEWARD_PASSPHRASE", "correct horse")
            .output()
            .unwrap();
        assert!(o.status.success(), "{args:?}: {}", String::from_utf8_lossy(&o.stderr));
        String::from_utf8(o.stdout).unwrap()
    };
    let first = || {
        let all: serde_json::Value = serde_json::from_str(&run(&["--json", "target", "ls"])).unwrap();
        all["targets"][0].clone()
    };
    let url = serving.url.to_string();
    run(&["init", "--target", &url, "--credentials-file", key.to_str().unwrap(), "--sector-min", "1MiB"]);
    run(&["backup", source.to_str().unwrap()]);
    let t = first();
    assert_eq!(t["price"], serde_json::json!({"amount": "4.096", "currency": "EUR", "per": "TiB/month"}));
    assert_eq!(t["cost_per_month"], serde_json::json!({"amount": "0.01", "currency": "EUR"}));
    assert_eq!((t["quota_bytes"].as_u64(), t["paid_until_from"].as_str()), (Some(3 << 30), Some("target")));
    let (used, free) = (t["used_bytes"].as_u64().unwrap(), t["free_bytes"].as_u64().unwrap());
    assert!(used > 0 && free <= (3 << 30) - used, "{used} {free}");
    assert_eq!(t["renew_in_days"], 9);
    let said = run(&["status"]);
    assert!(said.contains("lets this zone in until") && said.contains("target credentials first"), "{said}");
    run(&["target", "set", "first", "--price", "2EUR/month", "--paid-until", "2100-01-01", "--quota", "1GiB"]);
    let t = first();
    assert_eq!((t["price"]["amount"].as_str(), t["cost_per_month"]["amount"].as_str()), (Some("2.00"), Some("2.00")));
    assert_eq!(
        (t["paid_until"].as_str(), t["paid_until_from"].as_str()),
        (Some("2100-01-01T00:00:00Z"), Some("person"))
    );
    assert_eq!((t["quota_bytes"].as_u64(), t["free_bytes"].as_u64()), (Some(1 << 30), Some((1 << 30) - used)));
    assert!(!run(&["status"]).contains("lets this zone in until"));
    run(&["target", "set", "first", "--price", "", "--paid-until", "", "--quota", ""]);
    let t = first();
    assert_eq!((t["price"]["amount"].as_str(), t["quota_bytes"].as_u64()), (Some("4.096"), Some(3 << 30)));
}

#[test]
fn another_zone_takes_a_target_from_its_code() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().canonicalize().unwrap();
    let data = data_of(&root);
    let key = dir.join("key");
    let token = self::token(&data, &[]);
    let secret = token.rsplit('_').next().unwrap().to_owned();
    let write_key = |token: &str| {
        fs::write(&key, serde_json::json!({"token": token}).to_string()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write_key(&token);
    let serving = Serving::start(&data, "127.0.0.1:0");
    let url = serving.url.to_string();
    let run = |home: &str, code: i32, args: &[&str], input: &str| {
        let mut command = zoneward(args);
        command.env("ZONEWARD_HOME", dir.join(home)).env("ZONEWARD_PASSPHRASE", "correct horse");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        let o = child.wait_with_output().unwrap();
        let all = [o.stdout, o.stderr].map(|b| String::from_utf8(b).unwrap());
        assert_eq!(o.status.code(), Some(code), "{args:?}: {all:?}");
        assert!(!all.concat().contains(&secret), "the token is in the output of {args:?}");
        all
    };
    let key_file = ["--credentials-file", key.to_str().unwrap()];
    run("one", 0, &[&["init", "--target", &url, "--sector-min", "1MiB"], &key_file[..]].concat(), "");
    // It is in use.
    fs::create_dir(dir.join("source")).unwrap();
    fs::write(dir.join("source/a"), b"a").unwrap();
    run("one", 0, &["backup", dir.join("source").to_str().unwrap()], "");
    let [plain, told] = run("one", 0, &["target", "qr", "first"], "");
    let text = plain.lines().next().unwrap().to_owned();
    assert!(text.starts_with("zwt1-") && plain.contains(&url) && plain.contains('\u{2588}'), "{plain}");
    assert!(!told.contains("warning"), "{told}");
    let [json, told] = run("one", 0, &["--json", "target", "qr", "first", "--with-credentials"], "");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let with = json["code"].as_str().unwrap().to_owned();
    assert!(
        json["with_credentials"] == true && json["url"] == url.as_str() && told.contains("warning"),
        "{json} {told}"
    );
    let decoded = |text: &str| zoneward_targets::code::TargetCode::parse(text).unwrap();
    assert_eq!(decoded(&with).credentials.get("token"), Some(token.as_str()));
    assert_eq!(decoded(&text).credentials.names().count(), 0);

    // Another zone, with a folder of its own first.
    run("two", 0, &["init", "--target", dir.join("own").to_str().unwrap(), "--sector-min", "1MiB"], "");
    let refused = |code: &str, args: &[&str], input: &str| {
        let [_, told] = run("two", 2, args, input);
        assert!(told.contains(code), "{code} {told}");
        assert!(!told.contains(&with[5..]), "{told}");
    };
    refused("ZW-1662", &["target", "add", &with], "");
    refused("ZW-1320", &["target", "add", &text], "");
    refused("ZW-1663", &["target", "add", "-"], " \n");
    refused("ZW-1661", &["target", "add", "-"], &with[..with.len() - 1]);
    refused("ZW-1665", &["target", "set", "first", "--url", &with], "");
    refused("ZW-1664", &["target", "qr", "first", "--with-credentials"], "");
    // By its URL alone it could be a mistake: another zone's backups lie there.
    let [_, told] = run("two", 4, &[&["target", "add", &url], &key_file[..]].concat(), "");
    assert!(told.contains("ZW-1315"), "{told}");
    run("two", 0, &["target", "add", "-", "--name", "shared"], &format!("{}\n", with.to_uppercase()));
    run("two", 0, &["backup", dir.join("source").to_str().unwrap(), "--copies", "2"], "");
    run("two", 0, &["check", "--read-data"], "");
    run("two", 0, &["target", "remove", "shared"], "");
    run("one", 0, &["backup"], "");
    run("one", 0, &["check", "--read-data"], "");
    // Without secrets it needs credentials of one's own: another token.
    write_key(&self::token(&data, &[]));
    run("two", 0, &[&["target", "add", &text, "--name", "again"], &key_file[..]].concat(), "");
    let [listed, _] = run("two", 0, &["target", "ls"], "");
    assert!(listed.contains("again") && !listed.contains("NOT REACHABLE"), "{listed}");
}
