use super::*;
use crate::entry::{Kind, Meta, Stamp, Xattrs};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use tempfile::TempDir;

mod hostile;
mod replace;

pub(super) fn none() -> Xattrs {
    Xattrs::new()
}

pub(super) fn me() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

pub(super) fn meta(kind: Kind, mode: u32) -> Meta {
    let (uid, gid) = me();
    Meta {
        kind,
        mode,
        uid,
        gid,
        mtime: Stamp { secs: 1_600_000_000, nanos: 123_456_789 },
        ctime: Stamp::default(),
        ino: 0,
        nlink: 1,
        size: 0,
        rdev: (0, 0),
    }
}

/// A place `dest` in a directory of its own, which also holds `outside`.
pub(super) struct Yard {
    pub dir: TempDir,
    pub dest: PathBuf,
    pub outside: PathBuf,
}

pub(super) fn yard() -> Yard {
    let dir = tempfile::tempdir().unwrap();
    let (dest, outside) = (dir.path().join("dest"), dir.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&dest).unwrap();
    Yard { dir, dest, outside }
}

impl Yard {
    pub fn place(&self) -> Place {
        Place::open(&self.dest).unwrap()
    }
}

pub(super) fn clean(done: Placed) {
    let lacks = done.unwrap();
    assert!(lacks.is_empty(), "{lacks:?}");
}

fn root() -> bool {
    me().0 == 0
}

/// Whether files here can have attributes.
fn takes_attributes(y: &Yard) -> bool {
    let probe = y.dir.path().join("probe");
    fs::write(&probe, b"").unwrap();
    rustix::fs::setxattr(&probe, "user.probe", b"1", rustix::fs::XattrFlags::empty()).is_ok()
}

fn attributes(path: &std::path::Path) -> Xattrs {
    crate::attrs::read_xattrs(fs::File::open(path).unwrap()).unwrap()
}

fn stamp_of(path: &std::path::Path) -> (i64, i64) {
    let s = fs::symlink_metadata(path).unwrap();
    (s.mtime(), s.mtime_nsec())
}

#[test]
fn a_missing_place_is_made_for_this_user_alone() {
    let y = yard();
    let deep = y.dir.path().join("a/b");
    Place::open(&deep).unwrap();
    assert_eq!(fs::metadata(&deep).unwrap().mode() & 0o777, 0o700);
    assert!(matches!(Place::open(&y.dir.path().join("a/b/c\0")), Err(PlaceError::Io { .. })));
}

#[test]
fn every_kind_comes_out_with_its_mode_and_time() {
    let y = yard();
    let place = y.place();
    let mut p = place.worker();
    let when = (1_600_000_000, 123_456_789);
    p.make_dir(b"d").unwrap();
    p.make_dir(b"d/e").unwrap();
    clean(p.write_small(b"d/e/small", b"hello", &meta(Kind::File, 0o4755), &none()));
    clean(p.write_small(b"d/e/closed", b"x", &meta(Kind::File, 0), &none()));
    clean(p.write_small(b"d/empty", b"", &meta(Kind::File, 0o600), &none()));
    clean(p.symlink(b"d/soft", b"../no/where", &meta(Kind::Symlink, 0o777), &none()));
    clean(p.fifo(b"d/fifo", &meta(Kind::Fifo, 0o622), &none()));
    p.hard_link(b"d/hard", b"d/e/small").unwrap();
    clean(p.finish_dir(b"d/e", &meta(Kind::Dir, 0o1555), &none()));
    clean(p.finish_dir(b"d", &meta(Kind::Dir, 0o750), &none()));
    place.sync().unwrap();
    for (name, mode) in [
        ("d", 0o750),
        ("d/e", 0o1555),
        ("d/e/small", 0o4755),
        ("d/hard", 0o4755),
        ("d/e/closed", 0),
        ("d/empty", 0o600),
        ("d/fifo", 0o622),
        ("d/soft", 0o777),
    ] {
        let at = y.dest.join(name);
        assert_eq!(fs::symlink_metadata(&at).unwrap().mode() & 0o7777, mode, "{name}");
        assert_eq!(stamp_of(&at), when, "{name}");
    }
    assert_eq!(fs::read(y.dest.join("d/e/small")).unwrap(), b"hello");
    assert_eq!(
        fs::metadata(y.dest.join("d/hard")).unwrap().ino(),
        fs::metadata(y.dest.join("d/e/small")).unwrap().ino()
    );
    assert_eq!(fs::read_link(y.dest.join("d/soft")).unwrap().as_os_str(), "../no/where");
    assert!(fs::metadata(y.dest.join("d/fifo")).unwrap().file_type().is_fifo());
}

#[test]
fn times_before_1970_and_single_nanoseconds_are_kept() {
    let y = yard();
    let place = y.place();
    let mut p = place.worker();
    for (i, (secs, nanos)) in
        [(-1, 1), (-1_000_000_000, 999_999_999), (0, 0), (0, 1), (1 << 33, 5)].into_iter().enumerate()
    {
        let m = Meta { mtime: Stamp { secs, nanos }, ..meta(Kind::File, 0o644) };
        let (file, link) = (format!("f{i}"), format!("l{i}"));
        clean(p.write_small(file.as_bytes(), b"x", &m, &none()));
        clean(p.symlink(link.as_bytes(), b"x", &m, &none()));
        assert_eq!(stamp_of(&y.dest.join(&file)), (secs, i64::from(nanos)));
        assert_eq!(stamp_of(&y.dest.join(&link)), (secs, i64::from(nanos)));
    }
    p.set_symlink_times(b"l0", Stamp { secs: -7, nanos: 7 }).unwrap();
    assert_eq!(stamp_of(&y.dest.join("l0")), (-7, 7));
    clean(p.finish_dir(b"", &meta(Kind::Dir, 0o711), &none()));
    assert_eq!(stamp_of(&y.dest), (1_600_000_000, 123_456_789));
    assert_eq!(fs::metadata(&y.dest).unwrap().mode() & 0o777, 0o711);
}

#[test]
fn many_threads_write_one_file_and_holes_stay() {
    let y = yard();
    let place = y.place();
    let file = place.worker().create_file(b"big", 64 << 20).unwrap();
    let before = stamp_of(&y.dest.join("big"));
    std::thread::scope(|s| {
        for t in 0..4u8 {
            let file = &file;
            s.spawn(move || {
                for i in (u64::from(t)..16).step_by(4) {
                    file.write_at(&[t + 1; 4096], i << 22).unwrap();
                }
            });
        }
    });
    assert_ne!(before, (1_600_000_000, 123_456_789), "it must not look complete yet");
    clean(file.finish(&meta(Kind::File, 0o640), &none()));
    let s = fs::metadata(y.dest.join("big")).unwrap();
    assert_eq!((s.len(), s.mode() & 0o7777), (64 << 20, 0o640));
    assert!(s.blocks() * 512 < 1 << 20, "{} blocks", s.blocks());
    let got = fs::read(y.dest.join("big")).unwrap();
    for i in 0..16usize {
        assert_eq!(got[i << 22..(i << 22) + 4096], [(i % 4) as u8 + 1; 4096]);
        assert!(got[(i << 22) + 4096..(i + 1) << 22].iter().all(|b| *b == 0));
    }
}

#[test]
fn attributes_are_set_also_on_what_is_read_only_at_the_end() {
    let y = yard();
    if !takes_attributes(&y) {
        println!("skipped: no attributes here");
        return;
    }
    let place = y.place();
    let mut p = place.worker();
    let x = vec![(b"user.a=b".to_vec(), vec![0, 1, 255]), (b"user.c".to_vec(), Vec::new())];
    clean(p.write_small(b"f", b"x", &meta(Kind::File, 0o444), &x));
    p.make_dir(b"d").unwrap();
    clean(p.finish_dir(b"d", &meta(Kind::Dir, 0o555), &x));
    let big = p.create_file(b"big", 10).unwrap();
    clean(big.finish(&meta(Kind::File, 0o400), &x));
    for name in ["f", "d", "big"] {
        assert_eq!(attributes(&y.dest.join(name)), x, "{name}");
    }
    // What cannot be set is told, and the rest is there.
    let odd = vec![(b"nonsense.a".to_vec(), vec![1]), (b"user.ok".to_vec(), vec![2]), (b"user.n\0".to_vec(), vec![3])];
    let lacks = p.write_small(b"g", b"x", &meta(Kind::File, 0o604), &odd).unwrap();
    assert_eq!(
        lacks.iter().map(|w| &w.what[..]).collect::<Vec<_>>(),
        ["attribute nonsense.a", "attribute user.n\\x00"]
    );
    assert_eq!(attributes(&y.dest.join("g")), [odd[1].clone()]);
    assert_eq!(stamp_of(&y.dest.join("g")), (1_600_000_000, 123_456_789));
}

/// An access ACL: the owner rw, user 1 r, the group nothing, mask r, others nothing.
fn acl() -> Vec<u8> {
    let mut v = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 1), (4, 0, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)]
    {
        v.extend_from_slice(&tag.to_le_bytes());
        v.extend_from_slice(&perm.to_le_bytes());
        v.extend_from_slice(&id.to_le_bytes());
    }
    v
}

#[test]
fn an_acl_and_the_mode_agree() {
    let y = yard();
    let probe = y.dir.path().join("probe");
    fs::write(&probe, b"").unwrap();
    if rustix::fs::setxattr(&probe, "system.posix_acl_access", &acl(), rustix::fs::XattrFlags::empty()).is_err() {
        println!("skipped: no ACLs here");
        return;
    }
    let place = y.place();
    let mut p = place.worker();
    let x = vec![(b"system.posix_acl_access".to_vec(), acl())];
    clean(p.write_small(b"f", b"x", &meta(Kind::File, 0o640), &x));
    assert_eq!(attributes(&y.dest.join("f")), x);
    assert_eq!(fs::metadata(y.dest.join("f")).unwrap().mode() & 0o7777, 0o640);
    // Without it the same file loses it again.
    clean(p.touch_up(b"f", &meta(Kind::File, 0o600), &none()));
    assert_eq!(attributes(&y.dest.join("f")), none());
    assert_eq!(fs::metadata(y.dest.join("f")).unwrap().mode() & 0o7777, 0o600);
}

/// A directory may hand an access list on to what is made in it: what is restored has its own, or none.
#[test]
fn no_access_list_is_inherited() {
    let y = yard();
    let set = rustix::fs::setxattr(&y.dest, "system.posix_acl_default", &acl(), rustix::fs::XattrFlags::empty());
    if set.is_err() {
        println!("skipped: no ACLs here");
        return;
    }
    let place = y.place();
    let mut p = place.worker();
    let x = vec![(b"system.posix_acl_access".to_vec(), acl())];
    clean(p.write_small(b"small", b"x", &meta(Kind::File, 0o600), &none()));
    clean(p.write_small(b"own", b"x", &meta(Kind::File, 0o640), &x));
    let large = p.create_file(b"large", 10).unwrap();
    clean(large.finish(&meta(Kind::File, 0o644), &none()));
    clean(p.fifo(b"fifo", &meta(Kind::Fifo, 0o640), &none()));
    p.make_dir(b"d").unwrap();
    clean(p.write_small(b"d/f", b"x", &meta(Kind::File, 0o660), &none()));
    clean(p.finish_dir(b"d", &meta(Kind::Dir, 0o750), &none()));
    for (name, mode, has) in [
        ("small", 0o600, &none()),
        ("own", 0o640, &x),
        ("large", 0o644, &none()),
        ("d/f", 0o660, &none()),
        ("d", 0o750, &none()),
    ] {
        assert_eq!(attributes(&y.dest.join(name)), *has, "{name}");
        assert_eq!(fs::metadata(y.dest.join(name)).unwrap().mode() & 0o7777, mode, "{name}");
    }
    let mut list = [0u8; 100];
    let of_fifo = rustix::fs::getxattr(y.dest.join("fifo"), "system.posix_acl_access", &mut list);
    assert_eq!(of_fifo, Err(rustix::io::Errno::NODATA));
}

#[test]
fn owners_are_set_by_root_and_told_by_others() {
    let y = yard();
    let place = y.place();
    let mut p = place.worker();
    let m = |kind| Meta { uid: 12_345, gid: 54_321, ..meta(kind, 0o6755) };
    p.make_dir(b"d").unwrap();
    let all = [
        p.write_small(b"f", b"x", &m(Kind::File), &none()),
        p.symlink(b"l", b"x", &m(Kind::Symlink), &none()),
        p.fifo(b"p", &m(Kind::Fifo), &none()),
        p.finish_dir(b"d", &m(Kind::Dir), &none()),
    ];
    for (name, lacks) in ["f", "l", "p", "d"].into_iter().zip(all) {
        let (s, lacks) = (fs::symlink_metadata(y.dest.join(name)).unwrap(), lacks.unwrap());
        if root() {
            assert!(lacks.is_empty(), "{name}: {lacks:?}");
            assert_eq!((s.uid(), s.gid()), (12_345, 54_321), "{name}");
            assert!(name == "l" || s.mode() & 0o7777 == 0o6755, "{name}: {:o}", s.mode());
        } else {
            assert_eq!(lacks.iter().map(|w| &w.what[..]).collect::<Vec<_>>(), ["owner"], "{name}");
            assert!(name == "l" || s.mode() & 0o7777 == 0o755, "{name} must not run as this user: {:o}", s.mode());
        }
        assert_eq!(stamp_of(&y.dest.join(name)), (1_600_000_000, 123_456_789), "{name}");
    }
}

#[test]
fn devices_are_made_by_those_who_may() {
    let y = yard();
    let place = y.place();
    let may = {
        let probe = fs::File::open(y.dir.path()).unwrap();
        let dev = rustix::fs::makedev(1, 3);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(&probe, "probe-device", kind, Mode::RUSR, dev).is_ok()
    };
    let m = Meta { rdev: (1, 3), ..meta(Kind::CharDevice, 0o666) };
    let made = place.worker().device(b"null", &m, &none());
    if may {
        clean(made);
        let s = fs::metadata(y.dest.join("null")).unwrap();
        assert!(s.file_type().is_char_device());
        assert_eq!((s.rdev(), s.mode() & 0o7777), (rustix::fs::makedev(1, 3), 0o666));
        assert_eq!(stamp_of(&y.dest.join("null")), (1_600_000_000, 123_456_789));
    } else {
        assert!(matches!(made, Err(PlaceError::NotPermitted { .. })), "{made:?}");
    }
}

#[test]
fn the_group_of_a_set_gid_directory_does_not_stick() {
    let y = yard();
    if !root() {
        println!("skipped: needs root");
        return;
    }
    std::os::unix::fs::chown(&y.dest, None, Some(777)).unwrap();
    fs::set_permissions(&y.dest, fs::Permissions::from_mode(0o2755)).unwrap();
    let place = y.place();
    let mut p = place.worker();
    clean(p.write_small(b"mine", b"x", &meta(Kind::File, 0o600), &none()));
    clean(p.write_small(b"theirs", b"x", &Meta { gid: 777, ..meta(Kind::File, 0o600) }, &none()));
    clean(p.create_file(b"big", 1).unwrap().finish(&meta(Kind::File, 0o600), &none()));
    let group = |name| fs::metadata(y.dest.join(name)).unwrap().gid();
    assert_eq!((group("mine"), group("theirs"), group("big")), (me().1, 777, me().1));
}

#[test]
fn more_directories_than_are_kept_open() {
    let y = yard();
    let place = y.place();
    let mut p = place.worker();
    for round in 0..3 {
        for d in 0..100 {
            let dir = format!("d{d}");
            p.make_dir(dir.as_bytes()).unwrap();
            clean(p.write_small(
                format!("{dir}/f{round}").as_bytes(),
                dir.as_bytes(),
                &meta(Kind::File, 0o644),
                &none(),
            ));
        }
    }
    for d in 0..100 {
        assert_eq!(fs::read_dir(y.dest.join(format!("d{d}"))).unwrap().count(), 3);
    }
    let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|e| fs::read_link(e.unwrap().path()).ok());
    let ours = open.filter(|p| p.starts_with(&y.dest)).count();
    assert!((2..=33).contains(&ours), "{ours} directories are open");
}

#[test]
fn a_directory_made_anew_by_someone_else_is_found() {
    let y = yard();
    let place = y.place();
    let mut p = place.worker();
    p.make_dir(b"d").unwrap();
    p.make_dir(b"d/e").unwrap();
    clean(p.write_small(b"d/e/one", b"1", &meta(Kind::File, 0o644), &none()));
    fs::remove_dir_all(y.dest.join("d")).unwrap();
    assert!(matches!(p.write_small(b"d/e/two", b"2", &meta(Kind::File, 0o644), &none()), Err(PlaceError::Io { .. })));
    fs::create_dir_all(y.dest.join("d/e")).unwrap();
    clean(p.write_small(b"d/e/two", b"2", &meta(Kind::File, 0o644), &none()));
    fs::remove_dir_all(y.dest.join("d")).unwrap();
    fs::create_dir_all(y.dest.join("d/e")).unwrap();
    clean(p.finish_dir(b"d/e", &meta(Kind::Dir, 0o700), &none()));
    p.make_dir(b"d/e/f").unwrap();
    assert!(y.dest.join("d/e/f").is_dir());
}
