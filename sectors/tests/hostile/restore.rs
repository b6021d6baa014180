//! Entries that lie, restored: whatever they say, nothing outside the place changes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{copy, frame, meta, raw_of};
use zoneward_sectors::catalog::CatalogError;
use zoneward_sectors::crypto::keyed_fingerprint;
use zoneward_sectors::entry::{Entry, Extent, Kind, Meta};
use zoneward_sectors::place::Place;
use zoneward_sectors::restore::{NoCopy, OpenSectors, Progress, RestoreReport, Settings, restore};
use zoneward_sectors::sector_reader::{SectorReadError, SectorReader};

const KEY: [u8; 32] = [3; 32];
/// Content that is there, at offset 0 of the tar.
const GOOD: &[u8] = b"content that is there";

/// One sector, number 0.
struct One(Arc<SectorReader>);

impl OpenSectors for One {
    fn open(&self, sector: u32) -> Result<Arc<SectorReader>, NoCopy> {
        let why = || NoCopy { why: "no such sector".to_owned(), damage: false };
        (sector == 0).then(|| self.0.clone()).ok_or_else(why)
    }

    fn after_failure(&self, _: u32, _: &Arc<SectorReader>, why: &SectorReadError) -> Result<Arc<SectorReader>, NoCopy> {
        Err(NoCopy { why: why.to_string(), damage: why.is_damage() })
    }
}

fn sectors() -> One {
    let c = copy(1, 2, 20);
    let mut tar = GOOD.to_vec();
    tar.resize(2048, 0);
    let (raw, range) = raw_of(&[frame(&tar[..1024]), frame(&tar[1024..])]);
    One(Arc::new(c.open(c.seal(&raw, &c.trailer(&raw, 2048, range, (0, 1)))).unwrap()))
}

fn entry(path: &[u8], kind: Kind, link: &[u8], extents: Vec<Extent>) -> Entry {
    let size = extents.iter().fold(0u64, |n, x| n.saturating_add(x.len()));
    // A mode and times that would show.
    let m = Meta { size, mode: 0o777, ..meta(kind) };
    Entry { path: path.to_vec(), meta: m, xattrs: Vec::new(), link: link.to_vec(), extents, unsteady: false }
}

fn data(sector: u32, offset: u64, len: u64) -> Extent {
    Extent::Data { sector, offset, len, fingerprint: keyed_fingerprint(&KEY, GOOD) }
}

fn file(path: &[u8]) -> Entry {
    entry(path, Kind::File, b"", vec![data(0, 0, GOOD.len() as u64)])
}

/// A place with something secret beside it.
struct Yard {
    _dir: tempfile::TempDir,
    dest: PathBuf,
    outside: PathBuf,
}

fn yard() -> Yard {
    let dir = tempfile::tempdir().unwrap();
    let (dest, outside) = (dir.path().join("dest"), dir.path().join("outside"));
    fs::create_dir(&dest).unwrap();
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::write(outside.join("secret"), b"secret").unwrap();
    Yard { _dir: dir, dest, outside }
}

/// Mode, owner, links, time and content.
type Seen = (u32, u32, u64, (i64, i64), Vec<u8>);

/// All that lies below.
fn picture(at: &Path) -> BTreeMap<PathBuf, Seen> {
    let (mut all, mut todo) = (BTreeMap::new(), vec![at.to_owned()]);
    while let Some(at) = todo.pop() {
        let s = fs::symlink_metadata(&at).unwrap();
        if s.is_dir() {
            todo.extend(fs::read_dir(&at).unwrap().map(|e| e.unwrap().path()));
        }
        let content = if s.is_file() { fs::read(&at).unwrap() } else { Vec::new() };
        all.insert(at, (s.mode(), s.uid(), s.nlink(), (s.mtime(), s.mtime_nsec()), content));
    }
    all
}

/// Restores these entries twice, into nothing and then over what came of it; the first report.
fn run(y: &Yard, top: &[u8], entries: &[Entry]) -> RestoreReport {
    let before = picture(&y.outside);
    let (place, sectors) = (Place::open(&y.dest).unwrap(), sectors());
    let once = |fresh: bool| {
        let settings = Settings { threads: 2, verify: !fresh, fresh, fingerprint_key: KEY };
        let all = entries.iter().cloned().map(Ok::<_, CatalogError>);
        restore(all, top, &place, &sectors, &settings, &Progress::default())
    };
    let report = once(true).unwrap();
    assert_eq!(picture(&y.outside), before, "something outside was changed");
    once(false).unwrap();
    assert_eq!(picture(&y.outside), before, "something outside was changed the second time");
    let beside: Vec<_> = fs::read_dir(y.dest.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "something new lies beside the place: {beside:?}");
    report
}

#[test]
fn what_is_sound_is_restored() {
    let y = yard();
    let report = run(&y, b"top", &[entry(b"", Kind::Dir, b"", Vec::new()), file(b"a")]);
    assert_eq!((report.failed_count, report.files), (0, 1), "{:?}", report.failed);
    assert_eq!(fs::read(y.dest.join("top/a")).unwrap(), GOOD);
}

#[test]
fn paths_to_outside_are_refused_one_by_one() {
    let y = yard();
    let absolute = y.outside.join("new");
    let absolute = absolute.as_os_str().as_encoded_bytes();
    let paths: [&[u8]; 8] =
        [b"../outside/new", b"a/../../outside/new", absolute, b"..", b".", b"a//b", b"new\0", b"../outside/secret"];
    for path in paths {
        for kind in [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::CharDevice, Kind::HardLink] {
            let e = match kind {
                Kind::File => file(path),
                Kind::HardLink => entry(path, kind, b"holder", Vec::new()),
                _ => entry(path, kind, b"target", Vec::new()),
            };
            let report = run(&y, b"", &[file(b"holder"), e]);
            assert_eq!(report.failed_count, 1, "{kind:?} at {}: {:?}", path.escape_ascii(), report.failed);
            assert_eq!(report.damage_count, 0);
        }
    }
}

#[test]
fn nothing_is_written_through_a_link_that_was_restored() {
    for target in [&b"../outside"[..], b"../../outside", b"/", b"/proc/self/root"] {
        let y = yard();
        let entries = [
            entry(b"", Kind::Dir, b"", Vec::new()),
            entry(b"door", Kind::Symlink, target, Vec::new()),
            file(b"door/new"),
            file(b"door/secret"),
            entry(b"door/sub", Kind::Dir, b"", Vec::new()),
            file(b"door/sub/new"),
            entry(b"door/link", Kind::Symlink, b"x", Vec::new()),
            entry(b"door/fifo", Kind::Fifo, b"", Vec::new()),
        ];
        let report = run(&y, b"top", &entries);
        assert!(report.failed_count >= 6, "{:?}", report.failed);
    }
    // First a directory, then a link of the same name.
    let y = yard();
    let entries = [
        entry(b"door", Kind::Dir, b"", Vec::new()),
        entry(b"door", Kind::Symlink, b"../outside", Vec::new()),
        file(b"door/new"),
        entry(b"door/sub", Kind::Dir, b"", Vec::new()),
    ];
    run(&y, b"", &entries);
}

#[test]
fn hard_links_to_outside_are_refused() {
    let y = yard();
    let secret = y.outside.join("secret");
    let holders: [&[u8]; 5] = [
        b"../outside/secret",
        secret.as_os_str().as_encoded_bytes(),
        b"door/secret",
        b"door/../../outside/secret",
        b"",
    ];
    for holder in holders {
        let entries = [
            entry(b"door", Kind::Symlink, b"../outside", Vec::new()),
            entry(b"name", Kind::HardLink, holder, Vec::new()),
        ];
        let report = run(&y, b"", &entries);
        assert_eq!(report.failed_count, 1, "{}: {:?}", holder.escape_ascii(), report.failed);
        assert!(!y.dest.join("name").exists());
    }
}

#[test]
fn content_that_is_not_there_or_not_the_right_one_is_damage() {
    let len = GOOD.len() as u64;
    let lies: &[(&str, Vec<Extent>)] = &[
        ("another place", vec![data(0, 1, len)]),
        ("beyond the tar", vec![data(0, 4096, len)]),
        ("over the tar's end", vec![data(0, 2040, len)]),
        ("the end of all", vec![data(0, u64::MAX - len, len)]),
        ("8 MiB of 2 KiB", vec![data(0, 0, 8 << 20)]),
        ("right, then wrong", vec![data(0, 0, len), data(0, 512, len)]),
        ("right, then beyond", vec![data(0, 0, len), Extent::Hole(4096), data(0, 1 << 40, len)]),
    ];
    for (what, extents) in lies {
        let y = yard();
        let report = run(&y, b"", &[entry(b"a", Kind::File, b"", extents.clone()), file(b"b")]);
        assert!(report.failed_count >= 1, "{what}");
        assert_eq!(report.damage_count, report.failed_count, "{what}: {:?}", report.failed);
        assert!(!y.dest.join("a").exists(), "{what}: half a file is not kept");
        // Neighbouring stretches are read together: b may be lost with a and is told then, but is never wrong.
        match fs::read(y.dest.join("b")) {
            Ok(content) => assert_eq!(content, GOOD, "{what}"),
            Err(_) => assert!(report.failed.iter().any(|(path, _)| path == b"b"), "{what}: lost and not told"),
        }
    }
    let y = yard();
    let report = run(&y, b"", &[entry(b"a", Kind::File, b"", vec![data(7, 0, len)])]);
    assert_eq!((report.failed_count, report.unreachable_count), (1, 1));
    // No file system holds so much.
    let report = run(&y, b"", &[entry(b"h", Kind::File, b"", vec![Extent::Hole(u64::MAX)]), file(b"b")]);
    assert_eq!(report.failed_count, 1, "{:?}", report.failed);
    assert!(!y.dest.join("h").exists());
}
