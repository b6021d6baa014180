use zoneward_sectors::catalog::{Line, Merge};
use zoneward_sectors::entry::{Entry, Extent, Kind, Meta, Stamp};

use super::build::{Side, build};
use super::table::{ROOT, Table};
use crate::home::Home;

fn entry(path: &str, kind: Kind) -> Entry {
    let meta = Meta {
        kind,
        mode: 0o640,
        uid: 7,
        gid: 8,
        mtime: Stamp { secs: -5, nanos: 6 },
        ctime: Stamp { secs: 9, nanos: 10 },
        ino: 11,
        nlink: 1,
        size: 0,
        rdev: (0, 0),
    };
    let (xattrs, link, extents) = Default::default();
    Entry { path: path.into(), meta, xattrs, link, extents, unsteady: false }
}

fn side(prefix: &str, entries: Vec<Entry>) -> Side {
    let lines = entries.into_iter().map(|e| Ok(Line::Entry(e)));
    let entries = Merge::new(vec![Box::new(lines.collect::<Vec<_>>().into_iter())]).unwrap();
    Side { prefix: prefix.into(), entries }
}

fn made(sides: Vec<Side>) -> (Table, u64) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::create(&dir.path().join("home")).unwrap();
    let made = build(&home, sides, (1, 2)).unwrap();
    assert_eq!(std::fs::read_dir(home.catalogs()).unwrap().count(), 0, "the index has no name");
    made
}

/// Paths with kinds, as one walks through the directories.
fn walk(t: &Table) -> Vec<(String, Kind)> {
    let (mut out, mut todo) = (Vec::new(), vec![ROOT]);
    while let Some(at) = todo.pop() {
        let record = t.record(at).unwrap();
        let path = t.path(at).unwrap();
        assert_eq!(t.find(&path).unwrap().unwrap().0, at);
        out.push((String::from_utf8(path).unwrap(), record.meta.kind));
        if record.meta.kind == Kind::Dir {
            let children = t.children(&record, 0, u64::MAX >> 8).unwrap();
            let names: Vec<_> = children.iter().map(|c| t.record(*c).unwrap().name).collect();
            assert!(names.is_sorted());
            for (c, name) in children.iter().zip(&names) {
                assert_eq!(t.child(&record, name).unwrap().unwrap().0, *c);
            }
            todo.extend(children.iter().rev());
        }
    }
    out
}

fn paths(t: &Table) -> Vec<String> {
    walk(t).into_iter().map(|(p, _)| p).collect()
}

#[test]
fn every_entry_is_found_by_name_and_by_place() {
    use Kind::{Dir, File};
    let mut all = vec![entry("", Dir), entry("a", Dir), entry("a/b", Dir), entry("a/b/x", File), entry("a/c", File)];
    all.extend([entry("a\u{1}", Dir), entry("a.txt", File), entry("b", Dir)]);
    // More than a buffer holds, so that directories are closed after they were written.
    all.extend((0..20_000).map(|i| entry(&format!("b/{i:05}"), File)));
    all.push(entry("c", File));
    let kinds: Vec<_> = all.iter().map(|e| (String::from_utf8(e.path.clone()).unwrap(), e.meta.kind)).collect();
    let (t, skipped) = made(vec![side("", all)]);
    assert_eq!((walk(&t), skipped), (kinds, 0));
    let root = t.record(ROOT).unwrap();
    assert_eq!((root.nlink, root.count, root.meta.uid), (5, 5, 7));
    assert!(t.find(b"b/20000").unwrap().is_none() && t.find(b"c/below").unwrap().is_none());
}

#[test]
fn attributes_links_and_content_come_back() {
    let data = |offset, len| Extent::Data { sector: 3, offset, len, fingerprint: [offset as u8; 32] };
    let mut f = entry("f", Kind::File);
    f.extents = vec![Extent::Hole(10), data(5, 20), data(77, 1), Extent::Hole(1 << 40)];
    f.meta.size = (1 << 40) + 31;
    f.xattrs = vec![(b"user.a".to_vec(), vec![0; 300]), (b"user.b".to_vec(), Vec::new())];
    let mut link = entry("l", Kind::Symlink);
    link.link = vec![b'x'; 5000];
    let mut hard = entry("h", Kind::HardLink);
    hard.link = b"f".to_vec();
    let mut lost = entry("i", Kind::HardLink);
    lost.link = b"gone".to_vec();
    let (t, _) = made(vec![side("", vec![entry("", Kind::Dir), f.clone(), hard, lost, link.clone()])]);
    let get = |name: &[u8]| t.find(name).unwrap().unwrap();
    let (at, r) = get(b"f");
    assert_eq!(r.meta, Meta { ino: at, ..f.meta });
    assert_eq!((t.xattrs(&r).unwrap(), r.stored), (f.xattrs, 21));
    let from = |offset| t.stretches(&r, offset).unwrap().map(|s| s.unwrap().extent).collect::<Vec<_>>();
    assert_eq!(from(0), f.extents);
    assert_eq!(from(9), f.extents);
    assert_eq!(from(10), f.extents[1..]);
    assert_eq!(from(30), f.extents[2..]);
    assert_eq!(from(1 << 40), f.extents[3..]);
    assert_eq!(from(f.meta.size), []);
    assert_eq!(get(b"l").1.link, link.link);
    let (hard, lost) = (get(b"h"), get(b"i"));
    assert_eq!(t.holder(hard.0, hard.1).unwrap().0, at);
    assert!(t.holder(lost.0, lost.1).is_err());
}

#[test]
fn sources_in_each_other_are_one_tree() {
    use Kind::{Dir, File, HardLink};
    let mut hard = entry("z", HardLink);
    hard.link = b"new".to_vec();
    let outer =
        vec![entry("", Dir), entry("in", Dir), entry("in/both", File), entry("in/outer", File), entry("x", File)];
    let mut both = entry("both", Dir);
    both.meta.uid = 99;
    let inner = vec![entry("", Dir), both, entry("both/y", File), entry("new", File), hard];
    let (t, skipped) = made(vec![side("", outer), side("in", inner), side("far/away", vec![entry("", File)])]);
    let want = ["", "far", "far/away", "in", "in/both", "in/both/y", "in/new", "in/outer", "in/z", "x"];
    assert_eq!((paths(&t), skipped), (want.map(String::from).to_vec(), 0));
    assert_eq!(t.find(b"in/both").unwrap().unwrap().1.meta.uid, 99, "the later one counts");
    assert_eq!(t.find(b"far").unwrap().unwrap().1.meta.uid, 1, "nobody told of it");
    let (at, hard) = t.find(b"in/z").unwrap().unwrap();
    assert_eq!(t.holder(at, hard).unwrap().0, t.find(b"in/new").unwrap().unwrap().0);
}

#[test]
fn what_has_no_place_is_counted_and_left_out() {
    use Kind::{Dir, File};
    let odd = vec![entry("", Dir), entry("f", File), entry("f/below", File), entry("g", File), entry("h/i/j", File)];
    let (t, skipped) = made(vec![side("", odd)]);
    assert_eq!((paths(&t), skipped), (["", "f", "g", "h", "h/i", "h/i/j"].map(String::from).to_vec(), 1));
    let (t, skipped) = made(vec![side("", vec![entry("", File), entry("a", File)])]);
    assert_eq!((paths(&t), skipped), (vec![String::new()], 1));
    let (t, skipped) = made(vec![side("", Vec::new())]);
    assert!(t.len() == ROOT && t.record(ROOT).is_err() && skipped == 0);
}
