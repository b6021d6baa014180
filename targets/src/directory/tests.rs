//! What only a directory can get wrong: markers, mounts, links, modes, full disks.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::conformance::{self, Outcome};
use crate::errors::Retry;

struct Home {
    dir: TempDir,
    id: TargetId,
    alias: ZoneAlias,
}

impl Home {
    fn new() -> (Home, DirectoryTarget) {
        let dir = TempDir::new().unwrap();
        let id = TargetId::random();
        let target = DirectoryTarget::create(&dir.path().join("t"), id, Existing::Refuse).unwrap();
        (Home { dir, id, alias: ZoneAlias::random() }, target)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("t")
    }

    fn zone(&self) -> PathBuf {
        self.root().join(format!("zones/{}", self.alias))
    }

    fn sealed(&self, copy: CopyId) -> PathBuf {
        self.zone().join(format!("sectors/{}/{copy}.zws", shard(copy)))
    }

    fn incoming(&self, copy: CopyId) -> PathBuf {
        self.zone().join(format!("incoming/{copy}"))
    }

    fn put(&self, target: &DirectoryTarget, bytes: &[u8]) -> CopyId {
        let copy = CopyId::random();
        let w = target.open(self.alias, copy).unwrap();
        w.write_at(0, bytes).unwrap();
        w.seal(bytes.len() as u64).unwrap();
        copy
    }
}

fn err<T>(r: Result<T, TargetError>) -> TargetError {
    r.err().unwrap()
}

fn is_unplugged(e: &TargetError) -> bool {
    matches!(e, TargetError::Unplugged { .. }) && e.retry() == Retry::Operator
}

pub(crate) fn conformance_results() -> Vec<conformance::CheckResult> {
    let (home, _target) = Home::new();
    conformance::run(&|| Box::new(DirectoryTarget::open(&home.root(), Some(home.id)).unwrap()) as Box<dyn Target>)
}

#[test]
fn a_directory_passes_the_conformance_suite() {
    let results = conformance_results();
    assert_eq!(conformance::report(&results), "");
    assert!(results.len() >= 24 && results.iter().all(|r| r.outcome == Outcome::Passed));
}

#[test]
fn the_layout_is_the_documented_one_and_private() {
    let (home, target) = Home::new();
    let copy = home.put(&target, b"sector");
    let begun = CopyId::random();
    let writer = target.open(home.alias, begun).unwrap();
    target.put_object(home.alias, ObjectName::Pointer, b"{}").unwrap();
    target.put_object(home.alias, ObjectName::OwnerKey, b"{}").unwrap();
    assert_eq!(fs::read(home.sealed(copy)).unwrap(), b"sector");
    let marker = fs::read_to_string(home.root().join("zoneward-target.json")).unwrap();
    assert_eq!(marker.trim_end(), format!("{{\"format\":1,\"target\":\"{}\"}}", home.id));
    let mut seen = Vec::new();
    let mut todo = vec![home.root()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mode = meta.permissions().mode() & 0o7777;
        assert_eq!(mode, if meta.is_dir() { 0o700 } else { 0o600 }, "{path:?}");
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else {
            seen.push(path);
        }
    }
    seen.sort();
    let mut expected = vec![
        home.root().join("zoneward-target.json"),
        home.zone().join("pointer.json"),
        home.zone().join("owner-key.json"),
        home.sealed(copy),
        home.incoming(begun),
    ];
    expected.sort();
    assert_eq!(seen, expected);
    drop(writer);
}

#[test]
fn without_its_marker_nothing_is_opened_or_written() {
    let dir = TempDir::new().unwrap();
    assert!(is_unplugged(&err(DirectoryTarget::open(dir.path(), None))));
    assert!(is_unplugged(&err(DirectoryTarget::open(&dir.path().join("none"), None))));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let (home, target) = Home::new();
    assert!(is_unplugged(&err(DirectoryTarget::open(&home.root(), Some(TargetId::random())))));
    assert_eq!(DirectoryTarget::open(&home.root(), None).unwrap().id(), home.id);
    fs::remove_file(home.root().join(marker::NAME)).unwrap();
    assert!(is_unplugged(&err(target.open(home.alias, CopyId::random()))));
    assert!(is_unplugged(&err(target.list(home.alias))));
    assert!(!home.zone().exists());
}

#[test]
fn a_broken_or_newer_marker_is_told_apart() {
    for (text, word) in [
        ("", "EOF"),
        ("{\"format\":1}", "target"),
        ("{\"format\":2,\"target\":7}", "newer"),
        ("{\"format\":1,\"target\":\"zz\"}", "not an id"),
        (&*" ".repeat(5000), "5000 bytes"),
    ] {
        let (home, target) = Home::new();
        fs::write(home.root().join(marker::NAME), text).unwrap();
        let e = err(DirectoryTarget::open(&home.root(), None));
        assert!(matches!(e, TargetError::BadMarker { .. }), "{e:?}");
        assert!(e.to_string().contains(word), "{e}");
        assert!(matches!(err(target.list(home.alias)), TargetError::BadMarker { .. }));
        // It is not overwritten: whoever made it may need it.
        let e = err(DirectoryTarget::create(&home.root(), home.id, Existing::Adopt));
        assert!(matches!(e, TargetError::BadMarker { .. }));
        assert_eq!(fs::read_to_string(home.root().join(marker::NAME)).unwrap(), text);
    }
}

#[test]
fn create_takes_what_is_free_and_asks_before_sharing() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("new/deep");
    let id = TargetId::random();
    assert_eq!(DirectoryTarget::create(&path, id, Existing::Refuse).unwrap().id(), id);
    assert_eq!(DirectoryTarget::create(&path, id, Existing::Refuse).unwrap().id(), id);
    let other = TargetId::random();
    let e = err(DirectoryTarget::create(&path, other, Existing::Refuse));
    assert!(matches!(e, TargetError::OtherTarget { found, .. } if found == id), "{e:?}");
    assert_eq!(DirectoryTarget::create(&path, other, Existing::Adopt).unwrap().id(), id);
    // A directory with other things in it keeps them.
    fs::write(dir.path().join("photo.jpg"), b"mine").unwrap();
    assert_eq!(DirectoryTarget::create(dir.path(), other, Existing::Refuse).unwrap().id(), other);
    assert_eq!(fs::read(dir.path().join("photo.jpg")).unwrap(), b"mine");
    // A file is no directory.
    let e = err(DirectoryTarget::create(&dir.path().join("photo.jpg"), id, Existing::Refuse));
    assert!(e.to_string().contains("photo.jpg"), "{e}");
}

#[test]
fn a_crash_while_the_marker_is_made_leaves_a_free_directory() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(".zoneward-target.json.new"), b"{\"form").unwrap();
    assert!(is_unplugged(&err(DirectoryTarget::open(dir.path(), None))));
    let id = TargetId::random();
    assert_eq!(DirectoryTarget::create(dir.path(), id, Existing::Refuse).unwrap().id(), id);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_unmount_between_open_and_seal_is_noticed() {
    let (home, target) = Home::new();
    let (copy, away) = (CopyId::random(), home.dir.path().join("away"));
    let writer = target.open(home.alias, copy).unwrap();
    writer.write_at(0, b"bytes").unwrap();
    // To the adapter an unmount looks like this: another, empty directory stands under the path.
    fs::rename(home.root(), &away).unwrap();
    fs::create_dir(home.root()).unwrap();
    assert!(is_unplugged(&err(writer.seal(5))));
    assert!(is_unplugged(&err(target.open(home.alias, CopyId::random()))));
    assert!(is_unplugged(&err(target.list(home.alias))));
    assert!(is_unplugged(&err(target.list_incoming(home.alias))));
    assert!(is_unplugged(&err(target.len(home.alias, copy))));
    assert!(is_unplugged(&err(target.remove(home.alias, copy))));
    assert!(is_unplugged(&err(target.put_object(home.alias, ObjectName::Pointer, b"{}"))));
    assert!(is_unplugged(&err(target.get_object(home.alias, ObjectName::Pointer, 9))));
    assert_eq!(target.capabilities().free_bytes, None);
    assert_eq!(fs::read_dir(home.root()).unwrap().count(), 0);
    // Gone altogether, and back again: the upload goes on where it was.
    fs::remove_dir(home.root()).unwrap();
    assert!(is_unplugged(&err(target.list(home.alias))));
    fs::rename(&away, home.root()).unwrap();
    let writer = target.open(home.alias, copy).unwrap();
    assert_eq!(writer.offset(), 5);
    writer.seal(5).unwrap();
    assert_eq!(target.list(home.alias).unwrap().sectors, vec![(copy, 5)]);
}

#[test]
fn a_copy_of_the_disk_in_its_place_is_noticed() {
    let (home, target) = Home::new();
    fs::rename(home.root(), home.dir.path().join("away")).unwrap();
    fs::create_dir(home.root()).unwrap();
    fs::copy(home.dir.path().join("away").join(marker::NAME), home.root().join(marker::NAME)).unwrap();
    assert!(is_unplugged(&err(target.open(home.alias, CopyId::random()))));
    // Opened anew it is the target: its marker says so.
    let again = DirectoryTarget::open(&home.root(), Some(home.id)).unwrap();
    home.put(&again, b"x");
}

#[test]
fn planted_links_are_not_followed() {
    for planted in ["zones", "zones/A", "zones/A/sectors", "zones/A/sectors/XX", "zones/A/incoming"] {
        let (home, target) = Home::new();
        let copy = CopyId::random();
        let outside = home.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let path = home.root().join(planted.replace('A', &home.alias.to_string()).replace("XX", &shard(copy)));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(&outside, &path).unwrap();
        assert!(target.open(home.alias, copy).is_err(), "{planted}: what cannot be sealed is not begun");
        let put = target.open(home.alias, copy).and_then(|w| {
            w.write_at(0, b"secret")?;
            w.seal(6)
        });
        assert!(matches!(err(put), TargetError::Foreign { .. }), "{planted}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{planted}");
        // Nor read through: a sector that a link would show is not there, and the listing says that something is odd.
        fs::create_dir_all(outside.join(shard(copy))).unwrap();
        fs::write(outside.join(format!("{copy}.zws")), b"planted").unwrap();
        fs::write(outside.join(shard(copy)).join(format!("{copy}.zws")), b"planted").unwrap();
        if !planted.ends_with("incoming") {
            assert!(matches!(err(target.reader(home.alias, copy)), TargetError::Foreign { .. }), "{planted}");
            let odd = target.list(home.alias).map_or(true, |l| l.sectors.is_empty() && l.foreign == 1);
            assert!(odd, "{planted}");
        }
    }
}

#[test]
fn planted_files_are_not_written_through() {
    let (home, target) = Home::new();
    home.put(&target, b"makes the folders");
    let victim = home.dir.path().join("victim");
    fs::write(&victim, b"precious").unwrap();
    let copy = CopyId::random();
    let at = home.incoming(copy);
    let plants: [(&str, &dyn Fn()); 4] = [
        ("link", &|| symlink(&victim, &at).unwrap()),
        ("hard link", &|| fs::hard_link(&victim, &at).unwrap()),
        ("pipe", &|| assert!(Command::new("mkfifo").arg(&at).status().unwrap().success())),
        ("directory", &|| fs::create_dir(&at).unwrap()),
    ];
    for (name, plant) in plants {
        plant();
        assert!(matches!(err(target.open(home.alias, copy)), TargetError::Foreign { .. }), "{name}");
        assert_eq!(fs::read(&victim).unwrap(), b"precious", "{name}");
        if at.is_dir() { fs::remove_dir(&at).unwrap() } else { fs::remove_file(&at).unwrap() }
    }
    // A link can be discarded: that removes the link alone.
    symlink(&victim, &at).unwrap();
    target.discard_incoming(home.alias, copy).unwrap();
    assert!(fs::symlink_metadata(&at).is_err());
    // The same for objects and for what is sealed.
    symlink(&victim, home.zone().join("pointer.json")).unwrap();
    let e = err(target.get_object(home.alias, ObjectName::Pointer, 100));
    assert!(matches!(e, TargetError::Foreign { .. }));
    target.put_object(home.alias, ObjectName::Pointer, b"new").unwrap();
    assert_eq!(target.get_object(home.alias, ObjectName::Pointer, 100).unwrap(), b"new");
    symlink(&victim, home.zone().join("incoming/owner-key.json")).unwrap();
    let e = err(target.put_object(home.alias, ObjectName::OwnerKey, b"new"));
    assert!(matches!(e, TargetError::Foreign { .. }));
    fs::create_dir_all(home.sealed(copy).parent().unwrap()).unwrap();
    symlink(&victim, home.sealed(copy)).unwrap();
    assert!(matches!(err(target.len(home.alias, copy)), TargetError::Foreign { .. }));
    assert!(matches!(err(target.reader(home.alias, copy)), TargetError::Foreign { .. }));
    let writer = target.open(home.alias, copy).unwrap();
    writer.write_at(0, b"precious").unwrap();
    assert!(matches!(err(writer.seal(8)), TargetError::Foreign { .. }));
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn hostile_names_are_left_alone_and_counted() {
    use std::os::unix::ffi::OsStrExt;
    let (home, target) = Home::new();
    let copy = home.put(&target, b"sector");
    let sectors = home.zone().join("sectors");
    let wrong = CopyId([!copy.0[0]; 16]);
    let in_sectors: [&[u8]; 6] = [b"zz", b"AB", b"abc", b"\xff\xfe", b"\x1b[2J", b"0"];
    for name in in_sectors {
        fs::create_dir(sectors.join(std::ffi::OsStr::from_bytes(name))).unwrap();
    }
    fs::write(sectors.join(shard(wrong)), b"a file where a directory belongs").unwrap();
    let here = home.sealed(copy).parent().unwrap().to_path_buf();
    let in_shard = [
        format!("{wrong}.zws"),
        format!("{}.ZWS", copy),
        copy.to_string(),
        format!("{copy}.zws.part"),
        format!("{}.zws", copy.to_string().to_uppercase() + "A"),
        "..zws".to_owned(),
        "-rf".to_owned(),
    ];
    for name in &in_shard {
        fs::write(here.join(name), b"x").unwrap();
    }
    let mut other = copy;
    other.0[15] ^= 1;
    fs::create_dir(here.join(format!("{other}.zws"))).unwrap();
    let list = target.list(home.alias).unwrap();
    assert_eq!(list.sectors, vec![(copy, 6)]);
    assert_eq!(list.foreign, (in_sectors.len() + 1 + in_shard.len() + 1) as u64);
    let incoming = home.zone().join("incoming");
    for name in ["pointer.json", "x", "ABCDEF00000000000000000000000000"] {
        fs::write(incoming.join(name), b"x").unwrap();
    }
    assert_eq!(target.list_incoming(home.alias).unwrap(), vec![]);
    fs::create_dir(home.root().join("zones/not a zone")).unwrap();
    assert_eq!(target.list_zones().unwrap(), vec![home.alias]);
}

#[test]
fn a_sector_cut_while_it_is_open_is_truncated() {
    let (home, target) = Home::new();
    let copy = home.put(&target, &[7; 1000]);
    let reader = target.reader(home.alias, copy).unwrap();
    fs::OpenOptions::new().write(true).open(home.sealed(copy)).unwrap().set_len(600).unwrap();
    let e = reader.read_at(&mut [0; 100], 550).unwrap_err();
    assert!(matches!(e, TargetError::Truncated { offset: 550, wanted: 100, have: 600, .. }), "{e:?}");
    let mut buf = [0; 100];
    reader.read_at(&mut buf, 500).unwrap();
    assert_eq!(buf, [7; 100]);
}

#[test]
fn a_writer_whose_file_was_taken_away_cannot_seal_another() {
    let (home, target) = Home::new();
    let copy = CopyId::random();
    let writer = target.open(home.alias, copy).unwrap();
    writer.write_at(0, b"mine").unwrap();
    // Somebody outside the locks removes it and makes another.
    fs::remove_file(home.incoming(copy)).unwrap();
    fs::write(home.incoming(copy), b"evil").unwrap();
    assert!(err(writer.seal(4)).is_not_found());
    assert_eq!(target.len(home.alias, copy).unwrap(), None);
    // Abandoning removes only what is ours.
    let writer = target.open(home.alias, copy).unwrap();
    fs::remove_file(home.incoming(copy)).unwrap();
    fs::write(home.incoming(copy), b"next").unwrap();
    writer.abandon().unwrap();
    assert_eq!(fs::read(home.incoming(copy)).unwrap(), b"next");
}

#[test]
fn sealed_files_keep_their_inode_so_nothing_is_copied() {
    let (home, target) = Home::new();
    let copy = CopyId::random();
    let writer = target.open(home.alias, copy).unwrap();
    writer.write_at(0, b"x").unwrap();
    let before = fs::metadata(home.incoming(copy)).unwrap().ino();
    writer.seal(1).unwrap();
    assert_eq!(fs::metadata(home.sealed(copy)).unwrap().ino(), before);
    assert!(!home.incoming(copy).exists());
}

/// A small file system of its own; `None`, and why, where this user cannot mount one.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: PathBuf, size: &str) -> Option<Mount> {
        fs::create_dir(&at).unwrap();
        let option = format!("size={size},mode=700");
        match Command::new("mount").args(["-t", "tmpfs", "-o", &option, "zoneward-test"]).arg(&at).output() {
            Ok(out) if out.status.success() => Some(Mount(at)),
            Ok(out) => {
                println!("NOT RUN: cannot mount a tmpfs: {}", String::from_utf8_lossy(&out.stderr).trim());
                None
            }
            Err(e) => {
                println!("NOT RUN: no mount command: {e}");
                None
            }
        }
    }

    fn detach(&self) {
        assert!(Command::new("umount").arg("-l").arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Fails where the test has detached it already.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_keeps_what_fits_and_works_again_after_a_discard() {
    let dir = TempDir::new().unwrap();
    let Some(mount) = Mount::tmpfs(dir.path().join("disk"), "1m") else { return };
    let target = DirectoryTarget::create(&mount.0, TargetId::random(), Existing::Refuse).unwrap();
    assert!(target.capabilities().free_bytes.unwrap() <= 1 << 20);
    let (alias, copy) = (ZoneAlias::random(), CopyId::random());
    let writer = target.open(alias, copy).unwrap();
    let piece = vec![1u8; 64 << 10];
    let full = (0..32u64).map(|i| writer.write_at(i << 16, &piece)).find_map(Result::err).unwrap();
    assert!(matches!(full, TargetError::Full { .. }), "{full:?}");
    assert_eq!(full.retry(), Retry::Operator);
    // What failed once is not sealed, whatever length it has now.
    let len = fs::metadata(mount.0.join(format!("zones/{alias}/incoming/{copy}"))).unwrap().len();
    assert!(matches!(err(writer.seal(len)), TargetError::Poisoned { .. }));
    assert_eq!(target.len(alias, copy).unwrap(), None);
    assert_eq!(target.list_incoming(alias).unwrap(), vec![copy]);
    let e = err(target.put_object(alias, ObjectName::Pointer, &[0; 100_000]));
    assert!(matches!(e, TargetError::Full { .. }), "{e:?}");
    assert!(err(target.get_object(alias, ObjectName::Pointer, 9)).is_not_found());
    target.discard_incoming(alias, copy).unwrap();
    target.put_object(alias, ObjectName::Pointer, b"{}").unwrap();
    let writer = target.open(alias, copy).unwrap();
    writer.write_at(0, &piece).unwrap();
    writer.seal(64 << 10).unwrap();
}

#[test]
fn a_disk_unmounted_for_real_is_noticed_and_its_mount_point_stays_empty() {
    let dir = TempDir::new().unwrap();
    let Some(mount) = Mount::tmpfs(dir.path().join("disk"), "1m") else { return };
    let target = DirectoryTarget::create(&mount.0, TargetId::random(), Existing::Refuse).unwrap();
    let (alias, copy) = (ZoneAlias::random(), CopyId::random());
    let writer = target.open(alias, copy).unwrap();
    writer.write_at(0, b"bytes").unwrap();
    mount.detach();
    writer.write_at(5, b"more").unwrap();
    assert!(is_unplugged(&err(writer.seal(9))));
    assert!(is_unplugged(&err(target.open(alias, copy))));
    assert!(is_unplugged(&err(target.list(alias))));
    assert_eq!(fs::read_dir(&mount.0).unwrap().count(), 0);
}

#[test]
fn a_read_only_disk_is_denied_but_can_be_read() {
    let dir = TempDir::new().unwrap();
    let Some(mount) = Mount::tmpfs(dir.path().join("disk"), "1m") else { return };
    let target = DirectoryTarget::create(&mount.0, TargetId::random(), Existing::Refuse).unwrap();
    let (alias, copy) = (ZoneAlias::random(), CopyId::random());
    let writer = target.open(alias, copy).unwrap();
    writer.write_at(0, b"bytes").unwrap();
    writer.seal(5).unwrap();
    let ro = Command::new("mount").args(["-o", "remount,ro"]).arg(&mount.0).status().unwrap();
    assert!(ro.success());
    let e = err(target.open(alias, CopyId::random()));
    assert!(matches!(e, TargetError::Denied { .. }) && e.retry() == Retry::Operator, "{e:?}");
    let mut buf = [0; 5];
    target.read_at(alias, copy, 0, &mut buf).unwrap();
    assert_eq!(&buf, b"bytes");
}
