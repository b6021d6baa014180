//! Commands around a source and snapshots of it: a real binary, real file systems where the machine has them (root, loop
//! devices, btrfs-progs, xfsprogs), and tools that write down what they are asked where it cannot have them (ZFS, LVM).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod wait;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wait::until;

struct Bench {
    dir: tempfile::TempDir,
    /// A directory of tools that come before the machine's own.
    tools: Option<PathBuf>,
}

impl Bench {
    fn new() -> Self {
        let b = Self { dir: tempfile::tempdir().unwrap(), tools: None };
        fs::create_dir(b.path("src")).unwrap();
        fs::write(b.path("src/file"), b"one").unwrap();
        b.expect(0, &["init", "--target", "target", "--sector-min", "1MiB"]);
        b
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_zoneward"));
        c.args(args).env("ZONEWARD_HOME", self.path("zone")).env("ZONEWARD_PASSPHRASE", "correct horse");
        c.stdin(Stdio::null()).current_dir(self.dir.path());
        if let Some(tools) = &self.tools {
            c.env("PATH", format!("{}:{}", tools.display(), std::env::var("PATH").unwrap()));
        }
        c
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn expect(&self, code: i32, args: &[&str]) -> String {
        let o = self.run(args);
        let all = format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        assert_eq!(o.status.code(), Some(code), "{args:?}: {all}");
        all
    }

    /// What a backup says as JSON, and its exit code.
    fn backup(&self) -> (i32, serde_json::Value) {
        let o = self.run(&["--json", "backup"]);
        let said = String::from_utf8_lossy(&o.stdout);
        let last = said.lines().last().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&o.stderr)));
        (o.status.code().unwrap(), serde_json::from_str(last).unwrap())
    }

    fn cat(&self, path: &Path) -> Vec<u8> {
        let o = self.run(&["cat", "latest", path.to_str().unwrap()]);
        assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
        o.stdout
    }

    /// A tool that writes down how it is called, in `calls`, and does this.
    fn tool(&mut self, name: &str, text: &str) {
        let dir = self.path("tools");
        fs::create_dir_all(&dir).unwrap();
        let log = format!("#!/bin/sh\necho \"{name} $*\" >> '{}'\n{text}\n", self.text("calls"));
        fs::write(dir.join(name), log).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        self.tools = Some(dir);
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// A file system of its own in a file.
struct LoopFs {
    at: PathBuf,
}

impl LoopFs {
    /// `None` where this machine cannot have one: then what is tested needs another machine.
    fn new(bench: &Bench, kind: &str) -> Option<Self> {
        let (image, at) = (bench.path("image"), bench.path("mounted"));
        fs::create_dir(&at).unwrap();
        fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        let ok = |c: &mut Command| c.output().is_ok_and(|o| o.status.success());
        let made = ok(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image))
            && ok(Command::new("mount").args(["-t", kind, "-o", "loop"]).arg(&image).arg(&at));
        if !made {
            eprintln!("not tried: this machine cannot mount {kind} from a file");
        }
        made.then_some(Self { at })
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

fn sh(text: &str) {
    let o = Command::new("sh").args(["-ec", text]).output().unwrap();
    assert!(o.status.success(), "{text}: {}", String::from_utf8_lossy(&o.stderr));
}

#[test]
fn a_command_that_fails_stops_its_source_and_no_other() {
    let b = Bench::new();
    fs::create_dir(b.path("db")).unwrap();
    fs::write(b.path("db/data"), b"data").unwrap();
    let log = b.text("log");
    b.expect(0, &["source", "add", "src"]);
    let before = format!("echo before >> {log}; echo locked >&2; exit 5");
    let after = format!("echo after $ZONEWARD_OUTCOME >> {log}");
    b.expect(0, &["source", "add", "db", "--before", &before, "--after", &after, "--hook-limit", "30"]);
    let (code, said) = b.backup();
    assert_eq!(
        (code, said["refused"][0]["code"].as_str(), said["complete"].as_bool()),
        (8, Some("ZW-1410"), Some(false))
    );
    assert!(said["refused"][0]["what"].as_str().unwrap().contains("it ended with exit code 5: locked"), "{said}");
    assert_eq!(fs::read_to_string(&log).unwrap(), "before\nafter failed\n");
    assert_eq!(b.cat(&b.path("src/file")), b"one");
    assert_eq!(b.run(&["cat", "latest", &b.text("db/data")]).status.code(), Some(1));
    // A dry run runs nothing.
    b.expect(0, &["backup", "--dry-run"]);
    assert_eq!(fs::read_to_string(&log).unwrap(), "before\nafter failed\n");
    b.expect(
        0,
        &["source", "set", "db", "--before", &format!("test -z \"$ZONEWARD_PASSPHRASE\" && echo before >> {log}")],
    );
    let (code, said) = b.backup();
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::read_to_string(&log).unwrap(), "before\nafter failed\nbefore\nafter read\n");
    assert_eq!(b.cat(&b.path("db/data")), b"data");
    // The source is stored; that something may still be stopped is told.
    b.expect(0, &["source", "set", "db", "--before", "", "--after", "exit 3"]);
    let (code, said) = b.backup();
    let db = said["sources"].as_array().unwrap().iter().find(|s| s["hooks_failed"] == 1);
    assert!(code == 3 && db.is_some(), "{said}");
    let listed = b.expect(0, &["source", "ls"]);
    assert!(listed.contains("after: exit 3") && !listed.contains("before:"), "{listed}");
}

#[test]
fn a_node_runs_only_what_was_allowed_on_it() {
    let b = Bench::new();
    b.expect(0, &["source", "add", "src", "--before", "true"]);
    fs::remove_file(b.path("zone/allowed-commands")).unwrap();
    let said = b.expect(4, &["backup"]);
    assert!(said.contains("ZW-1412") && said.contains("zoneward source allow"), "{said}");
    b.expect(0, &["source", "allow", "src"]);
    b.expect(0, &["backup"]);
    b.expect(2, &["source", "set", "src", "--snapshot", "command"]);
    b.expect(2, &["source", "set", "src", "--snapshot", "shadow"]);
    b.expect(1, &["source", "set", "elsewhere", "--snapshot", "off"]);
}

#[test]
fn a_command_prints_what_is_read_and_the_sources_own_path_is_kept() {
    let b = Bench::new();
    let shot = b.text("shot");
    let make = format!("cp -a \"$ZONEWARD_SOURCE\" {shot} && echo later > \"$ZONEWARD_SOURCE/file\" && echo {shot}");
    b.expect(
        0,
        &[
            "source",
            "add",
            "src",
            "--snapshot",
            "command",
            "--snapshot-command",
            &make,
            "--after",
            &format!("rm -r {shot}"),
        ],
    );
    assert_eq!(b.backup().0, 0);
    assert_eq!(b.cat(&b.path("src/file")), b"one");
    assert!(!b.path("shot").exists());
    assert!(!b.expect(0, &["ls", "latest"]).contains("shot"));
}

#[test]
fn a_dfs_name_is_what_is_stored_wherever_it_lies() {
    let b = Bench::new();
    fs::create_dir_all(b.path("mnt/photos")).unwrap();
    fs::write(b.path("mnt/photos/one"), b"one").unwrap();
    b.expect(2, &["source", "add", "dfs://media/photos"]);
    b.expect(2, &["dfs", "map", "me dia", "mnt"]);
    b.expect(0, &["dfs", "map", "dfs://media", "mnt"]);
    b.expect(2, &["source", "add", "dfs://media/../photos"]);
    // Slashes at the end and doubled ones mean nothing.
    b.expect(0, &["source", "add", "dfs://media//photos/", "--exclude", "*.tmp"]);
    b.expect(0, &["source", "set", "dfs://media/photos/", "--hook-limit", "60"]);
    b.expect(0, &["source", "add", "dfs://media/photos", "--exclude", "*.tmp"]);
    fs::write(b.path("mnt/photos/x.tmp"), b"x").unwrap();
    assert_eq!(b.backup().0, 0);
    let listed = b.expect(0, &["ls", "latest"]);
    assert!(
        listed.contains("dfs://media/photos/one") && !listed.contains(&b.text("mnt")) && !listed.contains("x.tmp"),
        "{listed}"
    );
    assert_eq!(b.cat(Path::new("dfs://media/photos/one")), b"one");
    b.expect(0, &["restore", "latest", "dfs://media/photos/one", "--to", "back"]);
    assert_eq!(fs::read(b.path("back/dfs:/media/photos/one")).unwrap(), b"one");
    // The share is mounted elsewhere now.
    fs::rename(b.path("mnt"), b.path("srv")).unwrap();
    let said = b.expect(1, &["backup"]);
    assert!(said.contains("ZW-1403"), "{said}");
    let nodes: serde_json::Value = serde_json::from_slice(&b.run(&["--json", "node", "ls"]).stdout).unwrap();
    let node = nodes["nodes"][0]["name"].as_str().unwrap();
    b.expect(0, &["dfs", "map", "media", "srv", "--node", node]);
    let (code, said) = b.backup();
    // Its folder was changed so shortly before the first backup that it may be looked at again: as changed, never as new.
    let source = &said["sources"][0];
    assert_eq!(
        (code, source["path"].as_str(), source["new"].as_u64(), source["gone"].as_u64()),
        (0, Some("dfs://media/photos"), Some(0), Some(0)),
        "{said}"
    );
    fs::write(b.path("srv/photos/one"), b"spoiled").unwrap();
    b.expect(0, &["restore", "latest", "--in-place"]);
    assert_eq!(fs::read(b.path("srv/photos/one")).unwrap(), b"one");
    assert!(!Path::new("/dfs:").exists());
    b.expect(0, &["dfs", "unmap", "media"]);
    b.expect(4, &["dfs", "unmap", "media", "--node", node]);
    b.expect(0, &["source", "remove", "dfs://media/photos"]);
    b.expect(0, &["dfs", "unmap", "media", "--node", node]);
}

#[test]
fn a_btrfs_source_is_read_from_a_snapshot_that_is_removed() {
    let mut b = Bench::new();
    let Some(fs_) = LoopFs::new(&b, "btrfs") else { return };
    sh(&format!("btrfs subvolume create {0}/vol; mkdir {0}/vol/data; echo one > {0}/vol/data/file", fs_.at.display()));
    let (vol, data) = (fs_.at.join("vol"), fs_.at.join("vol/data"));
    let snapshots = || fs::read_dir(&vol).unwrap().filter(|e| e.as_ref().unwrap().file_name() != "data").count();
    // The command after runs as soon as there is a snapshot: what it writes is of the next backup.
    let after = "echo $ZONEWARD_OUTCOME > \"$ZONEWARD_SOURCE/file\"";
    b.expect(0, &["source", "add", data.to_str().unwrap(), "--after", after]);
    assert_eq!(b.backup().0, 0);
    assert_eq!(b.cat(&data.join("file")), b"one\n");
    assert_eq!(fs::read(data.join("file")).unwrap(), b"snapshot\n");
    assert_eq!(snapshots(), 0);
    b.expect(0, &["source", "set", data.to_str().unwrap(), "--after", ""]);
    wait::settled(&data.join("file"));
    let (code, said) = b.backup();
    assert_eq!((code, said["sources"][0]["changed"].as_u64()), (0, Some(1)), "{said}");
    // A snapshot has the same times and numbers: nothing else counts as changed.
    let (code, said) = b.backup();
    assert_eq!(
        (code, said["sources"][0]["changed"].as_u64(), said["sources"][0]["new_bytes"].as_u64()),
        (0, Some(0), Some(0))
    );
    // A run that is killed while it has one.
    b.expect(0, &["source", "set", data.to_str().unwrap(), "--after", "test -e /nowhere || sleep 20"]);
    let mut cut = b.command(&["backup"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the snapshot", || (snapshots() == 1).then_some(()));
    cut.kill().unwrap();
    cut.wait().unwrap();
    assert_eq!(snapshots(), 1, "nobody was left to remove it");
    b.expect(0, &["source", "set", data.to_str().unwrap(), "--after", ""]);
    // The whole subvolume, with what the killed run left in it.
    b.expect(0, &["source", "add", vol.to_str().unwrap()]);
    assert_eq!(b.backup().0, 0);
    assert_eq!(snapshots(), 0);
    assert!(!b.expect(0, &["ls", "latest"]).contains("zoneward-snapshot"));
    // What a snapshot would leave out: auto reads the live tree and says so, an explicit kind refuses.
    sh(&format!("btrfs subvolume create {0}/nested; echo in > {0}/nested/file", data.display()));
    let said = b.expect(0, &["backup"]);
    assert!(said.contains("no snapshot could be made, so the live tree was read") && said.contains("nested"), "{said}");
    assert_eq!(b.cat(&data.join("nested/file")), b"in\n");
    b.expect(0, &["source", "set", data.to_str().unwrap(), "--snapshot", "btrfs"]);
    assert_eq!(b.backup().0, 3);
    b.expect(0, &["source", "set", data.to_str().unwrap(), "--one-file-system"]);
    b.tool("btrfs", "echo no space left >&2; exit 1");
    let said = b.expect(3, &["backup"]);
    assert!(said.contains("ZW-1411") && said.contains("no space left"), "{said}");
}

#[test]
fn files_of_an_xfs_source_are_read_through_clones() {
    let b = Bench::new();
    let Some(xfs) = LoopFs::new(&b, "xfs") else { return };
    let (data, large) = (xfs.at.join("data"), xfs.at.join("data/large"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("small"), b"small").unwrap();
    let len = 96u64 << 20;
    fs::write(&large, noise(len as usize)).unwrap();
    b.expect(0, &["source", "add", data.to_str().unwrap(), "--snapshot", "reflink"]);
    // At every moment its first and last eight bytes are the same number, or one apart.
    let file = fs::OpenOptions::new().write(true).open(&large).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1u64.. {
                file.write_all_at(&n.to_le_bytes(), 0).unwrap();
                file.write_all_at(&n.to_le_bytes(), len - 8).unwrap();
                std::thread::sleep(Duration::from_millis(60));
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let (code, said) = b.backup();
        stop.store(true, Ordering::Relaxed);
        assert_eq!((code, said["sources"][0]["unsteady"].as_u64()), (0, Some(0)), "{said}");
    });
    let stored = b.cat(&large);
    let at = |i: usize| u64::from_le_bytes(stored[i..i + 8].try_into().unwrap());
    assert_eq!(stored.len() as u64, len);
    assert!(at(0) - at(len as usize - 8) <= 1, "{} {}", at(0), at(len as usize - 8));
    assert_eq!(b.cat(&data.join("small")), b"small");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 2, "clones have no names");
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

#[test]
fn zfs_is_asked_for_a_snapshot_and_for_its_end() {
    let mut b = Bench::new();
    let top = b.text("");
    let top = top.trim_end_matches('/');
    let text = format!(
        "case \"$*\" in
         *filesystem*) printf 'tank/data\\t{top}\\n';;
         snapshot*) n=\"{top}/.zfs/snapshot/${{2#*@}}\"; mkdir -p \"$n\" && cp -a {top}/src \"$n/\" && echo later > {top}/src/file;;
         destroy*) rm -r \"{top}/.zfs/snapshot/${{2#*@}}\";;
         esac"
    );
    b.tool("zfs", &text);
    b.expect(0, &["source", "add", "src", "--snapshot", "zfs"]);
    assert_eq!(b.backup().0, 0);
    assert_eq!(b.cat(&b.path("src/file")), b"one");
    let calls = b.calls();
    let name = calls[1].strip_prefix("zfs snapshot tank/data@zoneward-").unwrap();
    assert_eq!(name.len(), 32);
    assert_eq!(calls[0], format!("zfs list -H -t filesystem -o name,mountpoint {}", b.text("src")));
    assert_eq!(calls[2], format!("zfs list -H -t snapshot -o name tank/data@zoneward-{name}"));
    assert_eq!(calls[3..], [format!("zfs destroy tank/data@zoneward-{name}")]);
    assert_eq!(fs::read_dir(b.path("zone/source-snapshots")).unwrap().count(), 0);
    // One that cannot be removed is told, kept in mind, and tried again.
    b.tool("zfs", &text.replace("destroy*) rm", "destroy*) echo dataset is busy >&2; exit 1; rm"));
    let (code, said) = b.backup();
    assert_eq!((code, said["sources"][0]["hooks_failed"].as_u64()), (3, Some(1)), "{said}");
    assert_eq!(fs::read_dir(b.path("zone/source-snapshots")).unwrap().count(), 1);
    b.tool("zfs", &text);
    assert_eq!(b.backup().0, 0);
    assert_eq!(fs::read_dir(b.path("zone/source-snapshots")).unwrap().count(), 0);
    assert_eq!(b.calls().iter().filter(|c| c.starts_with("zfs destroy")).count(), 4);
}

#[test]
fn lvm_is_asked_for_a_snapshot_and_for_its_end() {
    let mut b = Bench::new();
    let src = b.text("src");
    b.tool("lvs", "case \"$*\" in *vg_name*) echo '  vg|data|';; esac");
    b.tool("lvcreate", "");
    b.tool(
        "mount",
        &format!("for at; do :; done; rel={src}; top=$(stat -c %m {src}); rel=${{rel#$top}}; mkdir -p \"$at/$(dirname $rel)\" && cp -a {src} \"$at/$rel\""),
    );
    b.tool("lvremove", &format!("rm -r {}/source-snapshots/*/*", b.text("zone")));
    b.expect(0, &["source", "add", "src", "--snapshot", "lvm"]);
    assert_eq!(b.backup().0, 0);
    assert_eq!(b.cat(&b.path("src/file")), b"one");
    let calls = b.calls();
    assert!(calls[0].starts_with("lvs --noheadings --separator | --options vg_name,lv_name,pool_lv /"), "{calls:?}");
    let name = calls[1].strip_prefix("lvcreate --snapshot --permission r --name zoneward-").unwrap();
    let (name, rest) = name.split_once(' ').unwrap();
    assert_eq!(rest, "--extents 15%ORIGIN vg/data");
    assert!(calls[2].starts_with("mount -t ") && calls[2].contains(&format!(" /dev/vg/zoneward-{name} ")), "{calls:?}");
    assert!(calls[2].contains(" -o ro"), "{calls:?}");
    assert_eq!(calls[3], format!("lvs --noheadings --options lv_name vg/zoneward-{name}"));
    assert_eq!(calls[4..], [format!("lvremove --yes vg/zoneward-{name}")]);
    assert_eq!(fs::read_dir(b.path("zone/source-snapshots")).unwrap().count(), 0);
}
