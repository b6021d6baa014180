//! Catalogs that lie, and someone who changes the tree under the restore's hands.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// Every operation at `path`. `holder` is a file that is there.
fn everything(p: &mut Placer<'_>, path: &[u8], holder: &[u8]) -> Vec<Result<(), PlaceError>> {
    let m = |kind| meta(kind, 0o666);
    let (uid, gid) = me();
    // Another owner where that is possible, so that nothing is left out.
    let owner =
        |kind| Meta { uid: if uid == 0 { 4242 } else { uid }, gid: if uid == 0 { 4242 } else { gid }, ..m(kind) };
    vec![
        p.make_dir(path),
        p.make_parent(path),
        p.finish_dir(path, &owner(Kind::Dir), &none()).map(|_| ()),
        p.write_small(path, b"x", &owner(Kind::File), &none()).map(|_| ()),
        p.create_file(path, 1).and_then(|f| f.write_at(b"y", 0).and(f.finish(&owner(Kind::File), &none()))).map(|_| ()),
        p.touch_up(path, &owner(Kind::File), &none()).map(|_| ()),
        p.symlink(path, b"t", &owner(Kind::Symlink), &none()).map(|_| ()),
        p.set_symlink_times(path, Stamp { secs: 5, nanos: 5 }),
        p.fifo(path, &owner(Kind::Fifo), &none()).map(|_| ()),
        p.device(path, &Meta { rdev: (1, 3), ..owner(Kind::CharDevice) }, &none()).map(|_| ()),
        p.hard_link(path, holder),
        p.remove(path),
    ]
}

/// Mode, owner, number of links, time; then the content.
type Seen = (u32, u32, u64, (i64, i64), Vec<u8>);

/// All that can be seen of what lies outside.
fn picture(y: &Yard) -> Vec<(PathBuf, Seen)> {
    let mut all = Vec::new();
    let mut todo = vec![y.outside.clone()];
    while let Some(at) = todo.pop() {
        let s = fs::symlink_metadata(&at).unwrap();
        let content = if s.is_file() { fs::read(&at).unwrap() } else { Vec::new() };
        if s.is_dir() {
            todo.extend(fs::read_dir(&at).unwrap().map(|e| e.unwrap().path()));
        }
        all.push((at, (s.mode(), s.uid(), s.nlink(), (s.mtime(), s.mtime_nsec()), content)));
    }
    all.sort();
    all
}

fn furnish(y: &Yard) {
    fs::write(y.outside.join("secret"), b"secret").unwrap();
    fs::create_dir(y.outside.join("sub")).unwrap();
    fs::write(y.outside.join("sub/f"), b"f").unwrap();
}

#[test]
fn paths_that_lead_outside_are_refused() {
    let y = yard();
    furnish(&y);
    let before = picture(&y);
    let place = y.place();
    let mut p = place.worker();
    clean(p.write_small(b"holder", b"h", &meta(Kind::File, 0o644), &none()));
    let absolute = y.outside.join("new");
    let long = [b'a'; 65_536];
    for path in [
        &b".."[..],
        b".",
        b"../outside/new",
        b"d/../../outside/new",
        b"d/..",
        b"./x",
        b"d/./x",
        b"d//x",
        b"/",
        b"//x",
        b"d/",
        b"x\0y",
        b"\0",
        absolute.as_os_str().as_bytes(),
        &long,
    ] {
        for (i, r) in everything(&mut p, path, b"holder").into_iter().enumerate() {
            assert!(matches!(r, Err(PlaceError::Outside)), "{i} at {}: {r:?}", path.escape_ascii());
        }
        assert!(matches!(p.existing(path), Err(PlaceError::Outside)));
        assert!(matches!(p.hard_link(b"new", path), Err(PlaceError::Outside)));
    }
    assert!(matches!(p.write_small(b"", b"", &meta(Kind::File, 0), &none()), Err(PlaceError::Outside)));
    assert_eq!(picture(&y), before);
    assert_eq!(fs::read_dir(&y.dest).unwrap().count(), 1);
}

#[test]
fn names_too_long_for_the_system_are_errors_and_deep_paths_work() {
    let y = yard();
    let place = y.place();
    let mut p = place.worker();
    let r = p.write_small(&[b'n'; 256], b"", &meta(Kind::File, 0o644), &none());
    assert!(matches!(r, Err(PlaceError::Io { .. })));
    // Longer than any one call takes.
    let (mut path, part) = (Vec::new(), [b'p'; 200]);
    for _ in 0..30 {
        path.extend_from_slice(&part);
        p.make_dir(&path).unwrap();
        path.push(b'/');
    }
    path.push(b'f');
    clean(p.write_small(&path, b"deep", &meta(Kind::File, 0o644), &none()));
    assert_eq!(p.existing(&path).unwrap().unwrap().0.size, 4);
}

#[test]
fn links_planted_as_directories_are_not_followed() {
    let y = yard();
    furnish(&y);
    fs::create_dir(y.dest.join("real")).unwrap();
    symlink(&y.outside, y.dest.join("absolute")).unwrap();
    symlink("../outside", y.dest.join("relative")).unwrap();
    symlink("real", y.dest.join("inside")).unwrap();
    symlink("/proc/self/root", y.dest.join("magic")).unwrap();
    symlink("relative", y.dest.join("real/twice")).unwrap();
    fs::write(y.dest.join("file"), b"").unwrap();
    let before = picture(&y);
    let place = y.place();
    let mut p = place.worker();
    clean(p.write_small(b"holder", b"h", &meta(Kind::File, 0o644), &none()));
    for above in ["absolute", "relative", "inside", "magic", "real/twice", "file", "absolute/sub"] {
        for name in ["new", "secret", "sub"] {
            let path = format!("{above}/{name}").into_bytes();
            for (i, r) in everything(&mut p, &path, b"holder").into_iter().enumerate() {
                assert!(matches!(r, Err(PlaceError::NotADirectory)), "{i} at {above}/{name}: {r:?}");
            }
            assert!(p.existing(&path).is_err());
            assert!(matches!(p.hard_link(b"new", &path), Err(PlaceError::NotADirectory)));
        }
    }
    assert_eq!(picture(&y), before);
    assert_eq!(fs::read_dir(y.dest.join("real")).unwrap().count(), 1);
    // As the last part of a path a link is replaced, not followed; above what is restored it is left alone.
    assert!(matches!(p.make_parent(b"absolute"), Err(PlaceError::NotADirectory)));
    assert!(matches!(p.finish_dir(b"absolute", &meta(Kind::Dir, 0o777), &none()), Err(PlaceError::NotADirectory)));
    assert!(matches!(p.touch_up(b"absolute", &meta(Kind::File, 0o777), &none()), Err(PlaceError::InTheWay)));
    clean(p.write_small(b"absolute", b"mine", &meta(Kind::File, 0o644), &none()));
    p.make_dir(b"relative").unwrap();
    clean(p.write_small(b"relative/f", b"mine", &meta(Kind::File, 0o644), &none()));
    assert_eq!(picture(&y), before);
}

#[test]
fn a_hard_link_to_a_link_is_to_the_link_itself() {
    let y = yard();
    furnish(&y);
    let before = picture(&y);
    symlink(y.outside.join("secret"), y.dest.join("l")).unwrap();
    let place = y.place();
    let mut p = place.worker();
    p.hard_link(b"again", b"l").unwrap();
    assert!(fs::symlink_metadata(y.dest.join("again")).unwrap().is_symlink());
    assert!(matches!(p.hard_link(b"d", b"."), Err(PlaceError::Outside)));
    fs::create_dir(y.dest.join("sub")).unwrap();
    assert!(p.hard_link(b"d", b"sub").is_err());
    assert_eq!(picture(&y), before);
}

#[test]
fn what_took_the_place_of_something_just_made_is_left_alone() {
    use crate::place::dress::{dress_held, dress_made, hold_made};
    let y = yard();
    furnish(&y);
    fs::hard_link(y.outside.join("secret"), y.dest.join("file")).unwrap();
    symlink(y.outside.join("secret"), y.dest.join("link")).unwrap();
    symlink(y.outside.join("sub"), y.dest.join("dir-link")).unwrap();
    let before = picture(&y);
    let place = y.place();
    let mut p = place.worker();
    let dir = crate::place::dirs::Dirs::default().open(&place, b"").unwrap();
    let odd = |kind| Meta { uid: me().0 + 1, ..meta(kind, 0o4777) };
    let null = Meta { rdev: (1, 3), ..odd(Kind::CharDevice) };
    // Between making and dressing.
    for name in [&b"file"[..], b"link", b"dir-link"] {
        for m in [odd(Kind::Fifo), null, odd(Kind::Symlink)] {
            if m.kind != Kind::Symlink || name == b"file" {
                let r = dress_made(&dir, name, &m, &none());
                assert!(matches!(r, Err(PlaceError::InTheWay)), "{:?} {}", m.kind, name.escape_ascii());
            }
        }
    }
    // Between taking hold and dressing: the thing itself is dressed, wherever it is now.
    clean(p.fifo(b"fifo", &meta(Kind::Fifo, 0o600), &none()));
    clean(p.symlink(b"soft", b"t", &meta(Kind::Symlink, 0o777), &none()));
    for (name, kind) in [("fifo", Kind::Fifo), ("soft", Kind::Symlink)] {
        let m = Meta { mtime: Stamp { secs: 9, nanos: 9 }, ..meta(kind, 0o640) };
        let (fd, now) = hold_made(&dir, name.as_bytes(), &m).unwrap();
        fs::rename(y.dest.join(name), y.dest.join("moved")).unwrap();
        symlink(y.outside.join("secret"), y.dest.join(name)).unwrap();
        assert!(dress_held(&fd, &now, &m, &none()).is_empty());
        assert_eq!(stamp_of(&y.dest.join("moved")), (9, 9), "{name}");
        let mode = fs::symlink_metadata(y.dest.join("moved")).unwrap().mode() & 0o7777;
        assert_eq!(mode, if kind == Kind::Fifo { 0o640 } else { 0o777 });
    }
    assert_eq!(picture(&y), before);
}

/// Swaps what lies at `at` until told to stop: what was there, a link to `target`, and back.
fn swap(at: &std::path::Path, aside: &std::path::Path, target: &std::path::Path, stop: &AtomicBool) -> u64 {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) && n < 200_000 {
        if fs::rename(at, aside).is_ok() && symlink(target, at).is_ok() {
            std::hint::spin_loop();
        }
        let _ = fs::remove_file(at);
        let _ = fs::remove_dir_all(at);
        let _ = fs::rename(aside, at);
        n += 1;
    }
    n
}

#[test]
fn a_directory_swapped_for_a_link_meanwhile_leads_nowhere() {
    let y = yard();
    furnish(&y);
    fs::create_dir(y.dest.join("d")).unwrap();
    let before = picture(&y);
    let place = y.place();
    let stop = AtomicBool::new(false);
    let (done, swaps) = std::thread::scope(|s| {
        let racer = s.spawn(|| swap(&y.dest.join("d"), &y.dest.join("aside"), &y.outside, &stop));
        let mut p = place.worker();
        clean(p.write_small(b"holder", b"h", &meta(Kind::File, 0o644), &none()));
        let mut done = 0;
        for i in 0..100 {
            // A new worker has nothing open; an old one must not be fooled either.
            if i % 3 == 0 {
                p = place.worker();
            }
            for name in ["new", "secret", "sub"] {
                done += everything(&mut p, format!("d/{name}").as_bytes(), b"holder").len();
            }
            let _ = p.hard_link(b"stolen", b"d/secret");
            assert!(!std::fs::read(y.dest.join("stolen")).is_ok_and(|c| c == b"secret"));
        }
        stop.store(true, Ordering::Relaxed);
        (done, racer.join().unwrap())
    });
    assert!(done == 100 * 3 * 12 && swaps > 0);
    assert_eq!(picture(&y), before);
}

#[test]
fn a_name_swapped_for_a_link_meanwhile_is_not_followed() {
    let y = yard();
    furnish(&y);
    let before = picture(&y);
    let place = y.place();
    for (target, at) in [("secret", "x"), ("sub", "x")] {
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            let (at, target) = (y.dest.join(at), y.outside.join(target));
            let racer = s.spawn({
                let (aside, stop) = (y.dest.join("aside"), &stop);
                move || swap(&at, &aside, &target, stop)
            });
            let mut p = place.worker();
            clean(p.write_small(b"holder", b"h", &meta(Kind::File, 0o644), &none()));
            for _ in 0..150 {
                everything(&mut p, b"x", b"holder");
                let _ = p.make_dir(b"x");
            }
            stop.store(true, Ordering::Relaxed);
            assert!(racer.join().unwrap() > 0);
        });
    }
    assert_eq!(picture(&y), before);
}
