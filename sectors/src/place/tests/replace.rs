//! Something is there already.

use super::*;

#[test]
fn a_replaced_file_keeps_the_content_of_its_other_names() {
    let y = yard();
    let place = y.place();
    let mut p = place.worker();
    let (at, other) = (y.dest.join("f"), y.outside.join("other"));
    for big in [false, true] {
        let _ = (fs::remove_file(&at), fs::remove_file(&other));
        fs::write(&at, b"old").unwrap();
        fs::hard_link(&at, &other).unwrap();
        if big {
            let file = p.create_file(b"f", 3).unwrap();
            file.write_at(b"new", 0).unwrap();
            clean(file.finish(&meta(Kind::File, 0o640), &none()));
        } else {
            clean(p.write_small(b"f", b"new", &meta(Kind::File, 0o640), &none()));
        }
        assert_eq!((fs::read(&at).unwrap(), fs::read(&other).unwrap()), (b"new".to_vec(), b"old".to_vec()));
        assert_ne!(fs::metadata(&other).unwrap().mode() & 0o7777, 0o640);
    }
}

#[test]
fn each_kind_replaces_each_other_but_never_a_full_directory() {
    let y = yard();
    let place = y.place();
    let mut p = place.worker();
    let at = y.dest.join("x");
    let file = meta(Kind::File, 0o644);
    clean(p.write_small(b"x", b"1", &file, &none()));
    clean(p.symlink(b"x", b"y", &meta(Kind::Symlink, 0o777), &none()));
    clean(p.fifo(b"x", &meta(Kind::Fifo, 0o644), &none()));
    p.make_dir(b"x").unwrap();
    assert!(at.is_dir());
    // An empty directory gives way, a full one does not.
    clean(p.write_small(b"x", b"2", &file, &none()));
    assert_eq!(fs::read(&at).unwrap(), b"2");
    p.make_dir(b"x").unwrap();
    clean(p.write_small(b"x/kept", b"3", &file, &none()));
    clean(p.write_small(b"holder", b"4", &file, &none()));
    let all = [
        p.write_small(b"x", b"5", &file, &none()).map(|_| ()),
        p.create_file(b"x", 5).map(|_| ()),
        p.symlink(b"x", b"y", &file, &none()).map(|_| ()),
        p.fifo(b"x", &file, &none()).map(|_| ()),
        p.hard_link(b"x", b"holder"),
        p.remove(b"x"),
    ];
    for r in all {
        assert!(matches!(r, Err(PlaceError::InTheWay)), "{r:?}");
    }
    assert_eq!(fs::read(y.dest.join("x/kept")).unwrap(), b"3");
}

#[test]
fn what_is_to_be_kept_is_kept() {
    let y = yard();
    let place = y.place().with_overwrite(Overwrite::Never);
    assert_eq!(place.overwrite(), Overwrite::Never);
    let mut p = place.worker();
    fs::write(y.dest.join("f"), b"old").unwrap();
    fs::write(y.dest.join("holder"), b"h").unwrap();
    symlink("target", y.dest.join("l")).unwrap();
    fs::create_dir(y.dest.join("d")).unwrap();
    let m = meta(Kind::File, 0o600);
    let all = [
        p.write_small(b"f", b"new", &m, &none()).map(|_| ()),
        p.create_file(b"f", 9).map(|_| ()),
        p.symlink(b"l", b"target", &m, &none()).map(|_| ()),
        p.fifo(b"f", &m, &none()).map(|_| ()),
        p.hard_link(b"f", b"holder"),
        p.make_dir(b"f"),
        p.write_small(b"d", b"", &m, &none()).map(|_| ()),
    ];
    for r in all {
        assert!(matches!(r, Err(PlaceError::Exists)), "{r:?}");
    }
    p.make_dir(b"d").unwrap();
    assert_eq!(fs::read(y.dest.join("f")).unwrap(), b"old");
    clean(p.write_small(b"d/new", b"new", &m, &none()));
    // A file that failed half way may go under this rule too.
    p.remove(b"d/new").unwrap();
    p.remove(b"d/new").unwrap();
    assert!(!y.dest.join("d/new").exists());
}

#[test]
fn links_that_are_right_stay() {
    let y = yard();
    let m = meta(Kind::Symlink, 0o777);
    let ino = |name: &str| fs::symlink_metadata(y.dest.join(name)).unwrap().ino();
    symlink("target", y.dest.join("l")).unwrap();
    fs::write(y.dest.join("a"), b"a").unwrap();
    fs::hard_link(y.dest.join("a"), y.dest.join("b")).unwrap();
    let before = (ino("l"), ino("b"));
    let place = y.place();
    let mut p = place.worker();
    clean(p.symlink(b"l", b"target", &m, &none()));
    p.hard_link(b"b", b"a").unwrap();
    p.hard_link(b"a", b"a").unwrap();
    assert_eq!((ino("l"), ino("b")), before);
    assert_eq!(stamp_of(&y.dest.join("l")), (1_600_000_000, 123_456_789));
    // With another name too: that name keeps what it has, unless the entry is meant to have several.
    fs::hard_link(y.dest.join("l"), y.outside.join("l")).unwrap();
    clean(p.symlink(b"l", b"target", &Meta { nlink: 2, ..m }, &none()));
    assert_eq!(ino("l"), before.0);
    clean(p.symlink(b"l", b"target", &m, &none()));
    assert_ne!(ino("l"), before.0);
    clean(p.symlink(b"l", b"elsewhere", &m, &none()));
    assert_eq!(fs::read_link(y.dest.join("l")).unwrap().as_os_str(), "elsewhere");
    fs::write(y.dest.join("c"), b"c").unwrap();
    p.hard_link(b"c", b"a").unwrap();
    assert_eq!(ino("c"), ino("a"));
    assert!(matches!(p.hard_link(b"x", b"nothing"), Err(PlaceError::Io { .. })));
}

#[test]
fn what_exists_can_be_compared() {
    let y = yard();
    let place = y.place();
    let mut p = place.worker();
    assert!(p.existing(b"no").unwrap().is_none());
    assert!(p.existing(b"no/where").unwrap().is_none());
    fs::write(y.dest.join("f"), b"content").unwrap();
    let (m, mut file) = p.existing(b"f").unwrap().unwrap();
    let mut got = String::new();
    std::io::Read::read_to_string(&mut file, &mut got).unwrap();
    assert_eq!((m.kind, m.size, &got[..]), (Kind::File, 7, "content"));
    // None of these is opened for reading: a fifo would wait, a link would lead away.
    symlink(y.outside.join("secret"), y.dest.join("l")).unwrap();
    clean(p.fifo(b"p", &meta(Kind::Fifo, 0o600), &none()));
    fs::create_dir(y.dest.join("d")).unwrap();
    for (name, kind) in [(&b"l"[..], Kind::Symlink), (b"p", Kind::Fifo), (b"d", Kind::Dir)] {
        let (m, mut file) = p.existing(name).unwrap().unwrap();
        assert_eq!(m.kind, kind);
        assert!(std::io::Read::read(&mut file, &mut [0]).is_err());
    }
}

#[test]
fn a_file_that_is_right_is_touched_up_and_no_other_name_with_it() {
    let y = yard();
    let place = y.place();
    let mut p = place.worker();
    let at = y.dest.join("f");
    fs::write(&at, b"x").unwrap();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o4711)).unwrap();
    if root() {
        std::os::unix::fs::chown(&at, Some(5), Some(6)).unwrap();
    }
    let has_attributes = takes_attributes(&y);
    if has_attributes {
        rustix::fs::setxattr(&at, "user.stale", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    }
    let x = if has_attributes { vec![(b"user.right".to_vec(), b"2".to_vec())] } else { none() };
    let m = meta(Kind::File, 0o600);
    clean(p.touch_up(b"f", &m, &x));
    let s = fs::metadata(&at).unwrap();
    assert_eq!((s.mode() & 0o7777, s.uid(), s.gid()), (0o600, me().0, me().1));
    assert_eq!(attributes(&at), x);
    assert_eq!(stamp_of(&at), (1_600_000_000, 123_456_789));
    // Doing it again changes nothing at all.
    let ctime = (s.ctime(), s.ctime_nsec());
    clean(p.touch_up(b"f", &m, &x));
    let s = fs::metadata(&at).unwrap();
    assert_eq!((s.ctime(), s.ctime_nsec()), ctime);
    fs::hard_link(&at, y.outside.join("other")).unwrap();
    assert!(matches!(p.touch_up(b"f", &meta(Kind::File, 0o777), &none()), Err(PlaceError::InTheWay)));
    clean(p.touch_up(b"f", &Meta { nlink: 2, ..m }, &x));
    assert!(matches!(p.touch_up(b"missing", &m, &none()), Err(PlaceError::InTheWay)));
}

#[test]
fn a_closed_directory_is_filled_and_closed_again() {
    let y = yard();
    fs::create_dir(y.dest.join("d")).unwrap();
    fs::set_permissions(y.dest.join("d"), fs::Permissions::from_mode(0o050)).unwrap();
    let place = y.place();
    let mut p = place.worker();
    p.make_parent(b"d").unwrap();
    assert_eq!(fs::metadata(y.dest.join("d")).unwrap().mode() & 0o7777, 0o050, "a parent is left as it is");
    p.make_dir(b"d").unwrap();
    clean(p.write_small(b"d/f", b"x", &meta(Kind::File, 0o644), &none()));
    clean(p.finish_dir(b"d", &meta(Kind::Dir, 0o050), &none()));
    assert_eq!(fs::metadata(y.dest.join("d")).unwrap().mode() & 0o7777, 0o050);
    fs::set_permissions(y.dest.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(fs::read(y.dest.join("d/f")).unwrap(), b"x");
}
