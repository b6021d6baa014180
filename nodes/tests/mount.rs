//! A mount shows what was backed up, to the byte and to the attribute, and nothing else. Needs root, and then /dev/fuse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod wait;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bench::{Bench, noise};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take before a test gives up on it.
const LIMIT: Duration = Duration::from_secs(60);

/// A workplace for who may mount and make devices. Anybody else is told that nothing was tried.
fn bench() -> Option<Bench> {
    if rustix::process::geteuid().is_root() {
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse: modprobe fuse");
        let b = Bench::new();
        b.init();
        return Some(b);
    }
    // Not through the macros: what they say of a test that passes is not shown.
    std::io::stderr().write_all(b"NOT TRIED: tests of mount need root\n").unwrap();
    None
}

/// A mount that is served, and taken away whatever happens.
struct Mounted {
    child: Child,
    at: PathBuf,
    errors: PathBuf,
    told: Value,
}

fn mount(b: &Bench, name: &str, more: &[&str]) -> Mounted {
    let (at, errors) = (b.path(name), b.path(&format!("{}.stderr", name.replace('/', "-"))));
    fs::create_dir_all(&at).unwrap();
    let mut command = b.command(&[&["--json", "mount", name][..], more].concat());
    command.stdout(Stdio::piped()).stderr(File::create(&errors).unwrap());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap_or_default();
    let m = Mounted { child, at, errors, told };
    assert_eq!(m.told["schema"], "zoneward.mount/1", "{line}{}", m.errors());
    m
}

impl Mounted {
    fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap()
    }

    /// Where a path of the bench is shown in the newest checkpoint.
    fn latest(&self, path: &Path) -> PathBuf {
        self.at.join("latest").join(path.strip_prefix("/").unwrap())
    }

    /// Where a path is shown in the checkpoint of this number.
    fn of(&self, seq: usize, path: &Path) -> PathBuf {
        let start = format!("{seq:04}_");
        let names = fs::read_dir(&self.at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let name = names.into_iter().find(|n| n.starts_with(&start)).unwrap();
        self.at.join(name).join(path.strip_prefix("/").unwrap())
    }

    fn signal(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Its exit code, when it ends by itself.
    fn code(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < LIMIT, "the mount does not end: {}", self.errors());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_mounted(&self) -> bool {
        fs::read_to_string("/proc/self/mountinfo").unwrap().contains(self.at.to_str().unwrap())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Command::new("umount").arg("-l").arg(&self.at).stderr(Stdio::null()).status();
    }
}

fn run(program: &str, args: &[&OsStr]) {
    let o = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned();
    assert!(o.status.success() && said.is_empty(), "{program} {args:?}: {said}");
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0u8; 1 << 16];
    let n = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..n].split(|b| *b == 0).filter(|n| !n.is_empty());
    let get = |name: &[u8]| {
        let mut value = vec![0u8; 1 << 16];
        let n = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        value[..n].to_vec()
    };
    names.map(|n| (n.to_vec(), get(n))).collect()
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    all.sort();
    all
}

/// Compares all that can be seen of two trees. `inodes` pairs the inode numbers: names of one file are names of one file.
fn same(a: &Path, b: &Path, inodes: &mut BTreeMap<u64, u64>) -> usize {
    let (m, n) = (fs::symlink_metadata(a).unwrap(), fs::symlink_metadata(b).unwrap());
    let of = |m: &fs::Metadata| {
        let (size, links) = if m.is_dir() { (0, 0) } else { (m.len(), m.nlink()) };
        (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec(), m.rdev(), size, links)
    };
    assert_eq!(of(&m), of(&n), "{}", a.display());
    assert_eq!(*inodes.entry(m.ino()).or_insert(n.ino()), n.ino(), "{}", a.display());
    assert_eq!(xattrs(a), xattrs(b), "{}", a.display());
    if m.is_symlink() {
        assert_eq!(fs::read_link(a).unwrap(), fs::read_link(b).unwrap());
    }
    if m.is_file() {
        assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap(), "{}", a.display());
    }
    if !m.is_dir() {
        return 1;
    }
    assert_eq!(names(a), names(b), "{}", a.display());
    names(a).iter().map(|name| same(&a.join(name), &b.join(name), inodes)).sum::<usize>() + 1
}

fn set_time(path: &Path, secs: i64, nanos: i64) {
    let at = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: at, last_modification: at };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A tree with what is hard to get right.
fn awkward(src: &Path) {
    bench::fill(src);
    let long = "n".repeat(255);
    for name in [&b"not\xffutf8\xfe"[..], b"two\nlines", b" blank ", b"a\x01", b"a.txt", b"\\back", long.as_bytes()] {
        fs::write(src.join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::create_dir_all(src.join(vec!["deep"; 60].join("/"))).unwrap();
    fs::write(src.join(vec!["deep"; 60].join("/")).join("down here"), b"here").unwrap();
    fs::create_dir(src.join("empty")).unwrap();
    fs::set_permissions(src.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::create_dir(src.join("many")).unwrap();
    for i in 0..3000 {
        File::create(src.join(format!("many/{i}"))).unwrap();
    }
    // Holes before, between and behind data; and a file that is nothing else.
    let sparse = File::create(src.join("sparse")).unwrap();
    sparse.write_all_at(&noise(5, 70_000), 3 << 20).unwrap();
    sparse.write_all_at(&noise(6, 1_500_000), 6 << 20).unwrap();
    sparse.set_len(9 << 20).unwrap();
    File::create(src.join("hole")).unwrap().set_len(5_000_001).unwrap();
    fs::create_dir(src.join("zz")).unwrap();
    fs::hard_link(src.join("a/b/large"), src.join("zz/the large one")).unwrap();
    symlink("nowhere at all", src.join("dangling")).unwrap();
    fs::hard_link(src.join("dangling"), src.join("zz/dangling too")).unwrap();
    rustix::fs::mknodat(CWD, src.join("pipe"), FileType::Fifo, Mode::from_bits_retain(0o640), 0).unwrap();
    fs::hard_link(src.join("pipe"), src.join("zz/pipe")).unwrap();
    let device = rustix::fs::makedev(259, 70_000);
    rustix::fs::mknodat(CWD, src.join("device"), FileType::BlockDevice, Mode::from_bits_retain(0o600), device).unwrap();
    let owned = src.join("a/one");
    std::os::unix::fs::chown(&owned, Some(12_345), Some(4_000_000_000)).unwrap();
    fs::set_permissions(&owned, fs::Permissions::from_mode(0o6751)).unwrap();
    rustix::fs::setxattr(&owned, "user.color", b"red\0\xff", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(src.join("many"), "user.empty", b"", XattrFlags::empty()).unwrap();
    // A version, then tag, rights and id: the owner, user 777, the group, the mask, others.
    let acl = [(1u16, 7u16, u32::MAX), (2, 6, 777), (4, 1, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)];
    let entry = |(tag, rights, id): (u16, u16, u32)| {
        (u64::from(tag) | u64::from(rights) << 16 | u64::from(id) << 32).to_le_bytes()
    };
    let acl = [&2u32.to_le_bytes()[..], &acl.map(entry).concat()].concat();
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        rustix::fs::setxattr(src.join("empty"), name, &acl, XattrFlags::empty()).unwrap();
    }
    set_time(&src.join("closed"), -86_400, 999_999_999);
    set_time(&src.join("dangling"), 4_200_000_000, 1);
    set_time(&src.join("empty"), 0, 123_456_789);
}

#[test]
fn everything_is_shown_as_it_was() {
    let Some(b) = bench() else { return };
    awkward(&b.path("src"));
    // One source in another, and one that is a single file.
    fs::write(b.path("alone"), b"a file that is a source").unwrap();
    b.expect(0, &["backup", "src", "src/a", "alone"]);
    let m = mount(&b, "mnt", &[]);
    let shown = m.latest(&b.path("src"));
    assert!(same(&b.path("src"), &shown, &mut BTreeMap::new()) > 3300);
    assert_eq!(fs::read(m.latest(&b.path("alone"))).unwrap(), b"a file that is a source");
    // Devices and pipes are no content to compare, and are told as a difference.
    let src = b.path("src");
    let options = ["-r", "--no-dereference", "-x", "pipe", "-x", "device"].map(OsStr::new);
    run("diff", &[&options[..], &[shown.as_os_str(), src.as_os_str()]].concat());
    run("cp", &["-a".as_ref(), shown.as_os_str(), b.path("copy").as_os_str()]);
    same(&shown, &b.path("copy"), &mut BTreeMap::new());
    let blocks = |p: &Path| fs::metadata(p.join("sparse")).unwrap().blocks();
    assert!(blocks(&shown) < 4000 && blocks(&b.path("copy")) < 6000, "holes stay holes");
    let seek = |data: bool, from: u64| {
        let f = File::open(shown.join("sparse")).unwrap();
        let to = if data { rustix::fs::SeekFrom::Data(from) } else { rustix::fs::SeekFrom::Hole(from) };
        rustix::fs::seek(&f, to)
    };
    assert_eq!(seek(false, 0), Ok(0));
    assert_eq!(seek(true, 7 << 20), Ok(7 << 20));
    assert!(seek(true, 0).unwrap() <= 3 << 20);
    assert_eq!(seek(true, 9 << 20), Err(rustix::io::Errno::NXIO));
    let space = rustix::fs::statvfs(&m.at).unwrap();
    assert!(space.f_blocks > 2000 && space.f_bfree == 0 && space.f_namemax == 255);
    assert_eq!(fs::metadata(shown.join("not there")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(m.errors(), "");
}

#[test]
fn nothing_can_be_written() {
    let Some(b) = bench() else { return };
    bench::fill(&b.path("src"));
    b.expect(0, &["backup", "src"]);
    let m = mount(&b, "mnt", &[]);
    let shown = m.latest(&b.path("src"));
    let (one, new) = (shown.join("a/one"), shown.join("new"));
    let tried = [
        fs::write(&one, b"x"),
        fs::write(&new, b"x"),
        fs::create_dir(&new),
        fs::remove_file(&one),
        fs::remove_dir(shown.join("a/b")),
        fs::rename(&one, &new),
        fs::hard_link(&one, &new),
        symlink("x", &new),
        fs::set_permissions(&one, fs::Permissions::from_mode(0o777)),
        std::os::unix::fs::chown(&one, Some(1), None),
        fs::write(m.at.join("new"), b"x"),
        rustix::fs::setxattr(&one, "user.x", b"x", XattrFlags::empty()).map_err(Into::into),
        rustix::fs::access(&one, rustix::fs::Access::WRITE_OK).map_err(Into::into),
    ];
    // Also where the kernel was told to let it through.
    let again = Command::new("mount").args(["-i", "-o", "remount,rw"]).arg(&m.at).status().unwrap();
    assert!(again.success());
    let again = [
        fs::write(&one, b"x"),
        fs::write(&new, b"x"),
        fs::create_dir(&new),
        fs::remove_file(&one),
        fs::rename(&one, &new),
        fs::hard_link(&one, &new),
        symlink("x", &new),
        fs::set_permissions(&one, fs::Permissions::from_mode(0o777)),
        rustix::fs::setxattr(&one, "user.x", b"x", XattrFlags::empty()).map_err(Into::into),
    ];
    for (i, answer) in tried.into_iter().chain(again).enumerate() {
        assert_eq!(answer.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{i}");
    }
    same(&b.path("src"), &shown, &mut BTreeMap::new());
}

#[test]
fn any_place_of_a_large_file_can_be_read() {
    let Some(b) = bench() else { return };
    let content = noise(9, 90_000_001);
    fs::write(b.path("src/film"), &content).unwrap();
    b.expect(0, &["backup", "src"]);
    let m = mount(&b, "mnt", &["--checkpoint", "latest"]);
    let film = File::open(m.at.join(b.path("src/film").strip_prefix("/").unwrap())).unwrap();
    let mut x = 7u64;
    for i in 0..400u64 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = if i == 0 { content.len() as u64 - 10 } else { (x >> 16) % content.len() as u64 };
        let mut part = vec![0u8; 1 + (x >> 40) as usize % 300_000];
        let n = film.read_at(&mut part, at).unwrap();
        let right = &content[at as usize..(at as usize + part.len()).min(content.len())];
        assert!(n > 0 && part[..n] == right[..n], "{n} bytes at {at}");
    }
    // Several at once.
    std::thread::scope(|s| {
        for k in 0..6usize {
            let (film, content) = (&film, &content);
            s.spawn(move || {
                let mut part = vec![0u8; 10_000_000];
                film.read_exact_at(&mut part, k as u64 * 13_000_000).unwrap();
                assert!(part == content[k * 13_000_000..][..10_000_000]);
            });
        }
    });
    assert_eq!(film.read_at(&mut [0], content.len() as u64).unwrap(), 0);
}

#[test]
fn older_checkpoints_show_what_was_then_and_backups_go_on() {
    let Some(b) = bench() else { return };
    let src = b.path("src");
    fs::create_dir(src.join("d")).unwrap();
    fs::write(src.join("d/changes"), b"before").unwrap();
    fs::write(src.join("goes"), b"gone soon").unwrap();
    fs::hard_link(src.join("goes"), src.join("stays")).unwrap();
    b.expect(0, &["backup", "src"]);
    fs::write(src.join("d/changes"), b"after, and longer").unwrap();
    fs::remove_file(src.join("goes")).unwrap();
    fs::write(src.join("comes"), b"new").unwrap();
    b.expect(0, &["backup"]);
    // The mount lies in the source that is backed up while it is there.
    let m = mount(&b, "src/mnt", &[]);
    let count = |m: &Mounted| (m.told["checkpoints"].as_u64(), names(&m.at).len());
    assert_eq!(count(&m), (Some(2), 3));
    let (old, new) = (m.of(1, &src), m.latest(&src));
    assert_eq!(fs::read(old.join("d/changes")).unwrap(), b"before");
    assert_eq!(fs::read(new.join("d/changes")).unwrap(), b"after, and longer");
    assert_eq!(names(&old), ["d", "goes", "stays"]);
    assert_eq!(names(&new), ["comes", "d", "stays"]);
    assert_eq!(fs::metadata(old.join("goes")).unwrap().ino(), fs::metadata(old.join("stays")).unwrap().ino());
    assert_eq!(fs::read(new.join("stays")).unwrap(), b"gone soon");
    b.expect(0, &["backup"]);
    let listed = b.expect(0, &["ls", "latest"]);
    assert!(listed.contains("src/mnt\n") && !listed.contains("src/mnt/"), "{listed}");
    assert_eq!(count(&m), (Some(2), 3), "what was made later is shown by the next mount");
    let again = mount(&b, "mnt2", &[]);
    assert_eq!(count(&again), (Some(3), 4));
    assert_eq!(names(&again.latest(&src)), ["comes", "d", "mnt", "stays"]);
}

#[test]
fn damaged_bytes_are_never_shown() {
    let Some(b) = bench() else { return };
    for i in 0..40u64 {
        fs::write(b.path(&format!("src/{i}")), noise(i, 100_000 + 13_000 * i as usize)).unwrap();
    }
    b.expect(0, &["backup", "src"]);
    b.damage_largest_sector();
    let m = mount(&b, "mnt", &[]);
    let shown = m.latest(&b.path("src"));
    for _ in 0..2 {
        let mut bad = Vec::new();
        for i in 0..40u64 {
            match fs::read(shown.join(i.to_string())) {
                Ok(data) => assert!(data == noise(i, 100_000 + 13_000 * i as usize), "{i}"),
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(5));
                    bad.push(i);
                }
            }
        }
        // One damaged segment takes what lies in it, and nothing else with it.
        assert!((1..30).contains(&bad.len()), "{bad:?}");
        let errors = m.errors();
        for i in bad {
            let name = format!("{}: ", shown.join(i.to_string()).strip_prefix(m.at.join("latest")).unwrap().display());
            assert!(errors.contains(&name) && errors.contains("does not authenticate"), "{name} in {errors}");
        }
    }
}

#[test]
fn another_copy_is_read_when_a_target_is_away() {
    let Some(b) = bench() else { return };
    b.expect(0, &["target", "add", "second"]);
    bench::fill(&b.path("src"));
    b.expect(0, &["backup", "src", "--copies", "2"]);
    fs::rename(b.path("target"), b.path("away")).unwrap();
    // Local catalogs are a cache: without them they come from the target that is there.
    fs::remove_dir_all(b.path("zone/catalogs")).unwrap();
    fs::create_dir(b.path("zone/catalogs")).unwrap();
    let m = mount(&b, "mnt", &[]);
    assert!(m.errors().contains("target first cannot be reached"), "{}", m.errors());
    same(&b.path("src"), &m.latest(&b.path("src")), &mut BTreeMap::new());
    drop(m);
    let m = mount(&b, "mnt2", &[]);
    let shown = m.latest(&b.path("src"));
    let _ = names(&shown.join("a"));
    fs::rename(b.path("second/zones"), b.path("second/gone")).unwrap();
    assert_eq!(fs::read(shown.join("a/b/large")).unwrap_err().raw_os_error(), Some(5));
    let errors = m.errors();
    assert!(errors.contains("on target first:") && errors.contains("on target target-2:"), "{errors}");
    assert_eq!(names(&shown), names(&b.path("src")), "names need no target");
    // A target that comes back is used.
    fs::rename(b.path("away"), b.path("target")).unwrap();
    let begun = Instant::now();
    while fs::read(shown.join("a/b/large")).is_err() {
        assert!(begun.elapsed() < LIMIT, "{}", m.errors());
        std::thread::sleep(Duration::from_millis(500));
    }
    same(&b.path("src"), &shown, &mut BTreeMap::new());
}

#[test]
fn it_ends_when_it_is_told_to() {
    let Some(b) = bench() else { return };
    fs::write(b.path("src/a"), b"a").unwrap();
    b.expect(0, &["backup", "src"]);
    let mut m = mount(&b, "mnt", &[]);
    assert!(m.is_mounted());
    m.signal();
    assert_eq!((m.code(), m.is_mounted()), (Some(0), false));
    // From outside.
    let mut m = mount(&b, "mnt", &[]);
    run("umount", &[m.at.as_os_str()]);
    assert_eq!((m.code(), m.is_mounted()), (Some(0), false));
    // While somebody is in it.
    let mut m = mount(&b, "mnt", &[]);
    let open = File::open(m.latest(&b.path("src/a"))).unwrap();
    m.signal();
    assert_eq!((m.code(), m.is_mounted()), (Some(0), false));
    assert!(m.errors().contains("programs were still in the mount"), "{}", m.errors());
    drop(open);
}

#[test]
fn a_place_that_cannot_be_is_refused() {
    let Some(b) = bench() else { return };
    fs::write(b.path("src/a"), b"a").unwrap();
    fs::create_dir(b.path("mnt")).unwrap();
    assert!(b.expect(1, &["mount", "mnt"]).contains("ZW-1601"), "there is no checkpoint yet");
    b.expect(0, &["backup", "src"]);
    for (dir, code, number) in [
        ("not there", 2, "ZW-1641"),
        ("src/a", 2, "ZW-1641"),
        ("src", 4, "ZW-1642"),
        ("zone/catalogs/x", 4, "ZW-1642"),
        ("target/x", 4, "ZW-1642"),
    ] {
        if dir.ends_with('x') {
            fs::create_dir(b.path(dir)).unwrap();
        }
        assert!(b.expect(code, &["mount", dir]).contains(number), "{dir}");
    }
    assert!(b.expect(1, &["mount", "mnt", "--checkpoint", "77"]).contains("ZW-1601"));
    let m = mount(&b, "mnt", &[]);
    let said = b.expect(4, &["mount", "mnt"]);
    assert!(said.contains("ZW-1642"), "{said}");
    drop(m);
}

#[test]
fn it_works_beside_a_daemon_and_after_a_fire() {
    let Some(b) = bench() else { return };
    bench::fill(&b.path("src"));
    b.expect(0, &["backup", "src"]);
    let mut daemon = b.command(&["--json", "up", "--listen", "127.0.0.1:0", "--api", "off"]);
    let mut daemon = daemon.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("zoneward.up/1"), "{line}");
    let m = mount(&b, "mnt", &[]);
    same(&b.path("src"), &m.latest(&b.path("src")), &mut BTreeMap::new());
    // It has what it needs: the daemon may go.
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(fs::read(m.latest(&b.path("src/a/one"))).unwrap(), b"one");
    drop(m);
    let words = b.words();
    fs::remove_dir_all(b.path("zone")).unwrap();
    let mut recover = b.command(&["recover", "--target", "target", "--state-only"]);
    assert!(recover.env("ZONEWARD_PASSPHRASE", words).status().unwrap().success());
    let m = mount(&b, "mnt", &[]);
    same(&b.path("src"), &m.latest(&b.path("src")), &mut BTreeMap::new());
}

#[test]
fn what_only_the_owner_reads_is_listed_and_said_and_read_with_the_owners_key() {
    let Some(b) = bench() else { return };
    fs::write(b.path("src/secret"), noise(1, 300_000)).unwrap();
    fs::create_dir(b.path("open")).unwrap();
    fs::write(b.path("open/file"), noise(2, 300_000)).unwrap();
    b.expect(0, &["source", "add", "src", "--write-only"]);
    b.expect(0, &["source", "add", "open"]);
    b.expect(0, &["backup"]);
    let m = mount(&b, "mnt", &[]);
    assert!(m.errors().contains("write-only") && m.errors().contains("--with-owner-key"), "{}", m.errors());
    let shown = m.latest(&b.path("src"));
    assert_eq!(names(&shown), names(&b.path("src")));
    assert_eq!(fs::read(shown.join("secret")).unwrap_err().raw_os_error(), Some(5));
    // That says nothing of its target: what others may read is read.
    assert!(fs::read(m.latest(&b.path("open/file"))).unwrap() == noise(2, 300_000));
    drop(m);
    let m = mount(&b, "mnt2", &["--with-owner-key"]);
    assert_eq!(m.errors(), "");
    same(&b.path("src"), &m.latest(&b.path("src")), &mut BTreeMap::new());
}
