use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::*;
use crate::entry::path_cmp;

fn options(threads: usize) -> WalkOptions {
    WalkOptions { threads, one_file_system: false, excludes: None, skip_caches: false }
}

fn walk(root: &Path, options: WalkOptions) -> Vec<Found> {
    Walk::start(root, options).unwrap().collect()
}

fn path(f: &Found) -> &[u8] {
    match f {
        Found::Entry(s) => &s.path,
        Found::Problem { path, .. } | Found::Skipped { path, .. } => path,
    }
}

fn entries(all: &[Found]) -> BTreeMap<Vec<u8>, Kind> {
    let seen = all.iter().filter_map(|f| match f {
        Found::Entry(s) => Some((s.path.clone(), s.meta.kind)),
        _ => None,
    });
    seen.collect()
}

/// A tree whose names sort otherwise as text than as paths.
fn awkward(root: &Path) {
    for dir in ["a", "a/b", "a.d", "a-", "z/deep/er", "empty"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for file in ["a/f", "a/b/g", "a.d/f", "a-/f", "z/deep/er/f", "a!"] {
        fs::write(root.join(file), file).unwrap();
    }
    for odd in [&b"\xff\xfe"[..], b"new\nline", b"\x01", &[b'x'; 255]] {
        fs::write(root.join(std::ffi::OsStr::from_bytes(odd)), "odd").unwrap();
    }
    symlink("..", root.join("a/up")).unwrap();
    symlink(".", root.join("a/self")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
}

#[test]
fn everything_is_found_once_in_path_order_whatever_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    awkward(dir.path());
    // Enough names for several batches.
    fs::create_dir(dir.path().join("many")).unwrap();
    for i in 0..3000 {
        fs::write(dir.path().join(format!("many/{i}")), "").unwrap();
    }
    let alone = walk(dir.path(), options(0));
    assert!(alone.windows(2).all(|w| path_cmp(path(&w[0]), path(&w[1])).is_lt()), "not in path order");
    let found = entries(&alone);
    assert_eq!(found.len(), alone.len());
    assert_eq!(found.len(), 1 + 9 + 6 + 4 + 3 + 3000);
    assert_eq!(found[&b""[..]], Kind::Dir);
    // Links to directories are links: nothing is followed, so nothing loops.
    assert_eq!(
        (found[&b"a/up"[..]], found[&b"a/self"[..]], found[&b"dangling"[..]]),
        (Kind::Symlink, Kind::Symlink, Kind::Symlink)
    );
    assert!(found.contains_key(&b"\xff\xfe"[..]) && found.contains_key(&b"new\nline"[..]));
    for threads in [1, 2, 7] {
        assert_eq!(entries(&walk(dir.path(), options(threads))), found, "{threads} threads");
    }
}

#[test]
fn sockets_caches_and_excludes_are_said_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    awkward(dir.path());
    let _socket = UnixListener::bind(dir.path().join("a/socket")).unwrap();
    fs::create_dir_all(dir.path().join("cache/deep")).unwrap();
    fs::write(dir.path().join("cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55 and more").unwrap();
    fs::write(dir.path().join("cache/deep/f"), "f").unwrap();
    fs::create_dir(dir.path().join("no-cache")).unwrap();
    fs::write(dir.path().join("no-cache/CACHEDIR.TAG"), "Signature: other").unwrap();
    let mut o = options(2);
    o.skip_caches = true;
    o.excludes = Some(Arc::new(|path: &[u8], is_dir: bool| (path == b"z" && is_dir) || path == b"a/f"));
    let all = walk(dir.path(), o);
    let skipped: Vec<(&[u8], Why)> = all
        .iter()
        .filter_map(|f| match f {
            Found::Skipped { path, why } => Some((&path[..], *why)),
            _ => None,
        })
        .collect();
    let want: [(&[u8], Why); 4] =
        [(b"a/f", Why::Excluded), (b"a/socket", Why::Socket), (b"cache", Why::Cache), (b"z", Why::Excluded)];
    assert_eq!(skipped, want);
    let found = entries(&all);
    assert!(found.contains_key(&b"cache/CACHEDIR.TAG"[..]) && !found.contains_key(&b"cache/deep"[..]));
    assert!(found.contains_key(&b"no-cache/CACHEDIR.TAG"[..]), "a wrong signature marks no cache");
    assert!(!found.keys().any(|p| p.starts_with(b"z")), "nothing below an excluded directory is looked at");
    // Without being asked to, it leaves out nothing but sockets.
    let everything = walk(dir.path(), options(1));
    assert!(entries(&everything).contains_key(&b"cache/deep/f"[..]));
    assert_eq!(everything.iter().filter(|f| matches!(f, Found::Skipped { .. })).count(), 1);
}

#[test]
fn what_vanishes_during_the_scan_is_said_so_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    for d in ["a", "b", "c"] {
        fs::create_dir(dir.path().join(d)).unwrap();
        fs::write(dir.path().join(d).join("f"), d).unwrap();
    }
    // Without threads nothing is looked at ahead, but for the names of the directory that is open.
    let mut walk = Walk::start(dir.path(), options(0)).unwrap();
    let mut all = vec![walk.next().unwrap(), walk.next().unwrap()];
    assert_eq!(path(&all[1]), b"a");
    fs::remove_dir_all(dir.path().join("b")).unwrap();
    all.extend(walk);
    let gone: Vec<&Found> = all.iter().filter(|f| path(f) == b"b" || path(f).starts_with(b"b/")).collect();
    assert!(gone.iter().any(|f| matches!(f, Found::Problem { vanished: true, .. })), "{gone:?}");
    assert!(entries(&all).contains_key(&b"c/f"[..]));
    assert!(!entries(&all).contains_key(&b"b/f"[..]));
}

#[test]
fn a_single_file_is_a_source_and_what_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("one"), "1").unwrap();
    fs::write(dir.path().join("two"), "2").unwrap();
    let all = walk(&dir.path().join("one"), options(2));
    assert_eq!(entries(&all), BTreeMap::from([(Vec::new(), Kind::File)]));
    let Found::Entry(seen) = &all[0] else { panic!("{all:?}") };
    assert_eq!(io::read_to_string(seen.open().unwrap()).unwrap(), "1");
    let e = Walk::start(&dir.path().join("three"), options(1)).unwrap_err();
    assert_eq!(e.source.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_link_put_in_a_files_place_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/secret"), "mine").unwrap();
    fs::write(dir.path().join("f"), "mine").unwrap();
    let all = walk(dir.path(), options(0));
    fs::remove_file(dir.path().join("f")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("f")).unwrap();
    fs::remove_dir_all(dir.path().join("d")).unwrap();
    symlink(outside.path(), dir.path().join("d")).unwrap();
    for f in &all {
        let Found::Entry(seen) = f else { continue };
        if seen.meta.kind == Kind::File {
            assert!(seen.open().is_err(), "{f:?} was opened through a link");
        }
    }
}

#[test]
fn what_the_kernel_makes_up_is_left_out_and_counted() {
    let only_proc: Filter = Arc::new(|path, _| path != b"proc");
    let all = walk(Path::new("/"), WalkOptions { excludes: Some(only_proc), ..options(2) });
    let seen = entries(&all);
    assert_eq!(seen.keys().map(Vec::as_slice).collect::<Vec<_>>(), [&b""[..], b"proc"]);
    let skipped = |f: &&Found| matches!(f, Found::Skipped { path, why: Why::Kernel } if path == b"proc");
    assert_eq!(all.iter().filter(skipped).count(), 1);
    for root in ["/proc", "/proc/self", "/proc/version"] {
        let refused = Walk::start(Path::new(root), options(0)).unwrap_err();
        assert!(refused.source.to_string().contains("kernel"), "{root}");
    }
}
