//! A daemon whose disk is full stays, says so, and goes on when there is room. The home lies on a small file system of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod wait;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use wait::{start, until};

/// A small file system in memory, as long as this lives.
struct Small(PathBuf);

impl Small {
    fn mount(dir: &Path) -> Option<Self> {
        fs::create_dir_all(dir).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m,mode=700", "none"]).arg(dir).status();
        if !mounted.is_ok_and(|s| s.success()) {
            println!("skipped: this user cannot mount a file system");
            return None;
        }
        Some(Self(dir.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut s = TcpStream::connect(address).ok()?;
    s.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(s, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut all = String::new();
    s.read_to_string(&mut all).ok()?;
    let status = all.split(' ').nth(1)?.parse().ok()?;
    Some((status, all.split_once("\r\n\r\n")?.1.to_owned()))
}

#[test]
fn a_full_disk_is_said_and_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let Some(_small) = Small::mount(&home) else { return };
    let run = |args: &[&str]| -> Output {
        let mut c = Command::new(env!("CARGO_BIN_EXE_zoneward"));
        c.arg("--home").arg(&home).args(args).env("ZONEWARD_PASSPHRASE", "pass phrase").stdin(Stdio::null());
        c.output().unwrap()
    };
    let ok = |args: &[&str]| {
        let o = run(args);
        assert!(o.status.success(), "{args:?}: {}", String::from_utf8_lossy(&o.stderr));
        String::from_utf8(o.stdout).unwrap()
    };
    let target = dir.path().join("target");
    ok(&["init", "--target", target.to_str().unwrap(), "--sector-min", "1MiB"]);
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let mut c = Command::new(env!("CARGO_BIN_EXE_zoneward"));
    c.arg("--home").arg(&home).args(["--json", "up", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0"]);
    let told = dir.path().join("told");
    c.stdin(Stdio::null()).stderr(fs::File::create(&told).unwrap());
    let (mut up, ready) = start(c);
    let api: SocketAddr = ready["api"].as_str().unwrap().parse().unwrap();
    until("it is ready", || get(api, "/readyz").filter(|a| *a == (200, "ok".into())));
    ok(&["backup", source.to_str().unwrap()]);

    // Somebody fills the disk; the zone is changed until it cannot be.
    let mut filler = fs::File::create(home.join("filler")).unwrap();
    while filler.write_all(&[7; 64 << 10]).is_ok() {}
    // As long as it is open, its room is not given back.
    drop(filler);
    let tried = (0..2000).take_while(|i| run(&["dfs", "map", "media", &format!("/place/{i}")]).status.success());
    let acknowledged = tried.last();
    let full = || get(api, "/readyz").filter(|a| *a == (503, "full".into()));
    until("it says that its disk is full", || full().map(drop));
    assert_eq!(get(api, "/livez"), Some((200, "ok".into())));
    assert_eq!(get(api, "/api/v1/zone").map(|a| a.0), Some(503));
    assert!(up.0.try_wait().unwrap().is_none(), "it stays");
    let said = fs::read_to_string(&told).unwrap();
    assert!(said.contains("is full") && said.contains("when there is room"), "{said}");

    // Room is made: it goes on by itself, with all that was acknowledged.
    fs::remove_file(home.join("filler")).unwrap();
    until("it is ready again", || get(api, "/readyz").filter(|a| *a == (200, "ok".into())));
    let names: Value = serde_json::from_str(&ok(&["--json", "dfs", "ls"])).unwrap();
    let place = names["names"][0]["everywhere"].as_str().map(|p| p.rsplit('/').next().unwrap().parse::<u32>().unwrap());
    // Of the one that failed, either may be.
    assert!(
        place >= acknowledged && place <= Some(acknowledged.map_or(0, |i| i + 1)),
        "{place:?} after {acknowledged:?}"
    );
    fs::write(source.join("file"), "more").unwrap();
    ok(&["backup"]);
    assert!(up.0.try_wait().unwrap().is_none());
}
