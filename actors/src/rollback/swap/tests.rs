//! Every step cut, and gone on with or undone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use zoneward_sectors::ids::{CheckpointId, SourceId};

use super::*;

const FOLDER: &str = ".zoneward-rollback-7";

/// Type and mode, time, content or target, by path.
type Tree = BTreeMap<PathBuf, (u32, i64, Vec<u8>)>;

fn tree(dir: &Path) -> Tree {
    let (mut out, mut todo) = (Tree::new(), vec![dir.to_owned()]);
    while let Some(p) = todo.pop() {
        if p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(FOLDER)) {
            continue;
        }
        let m = fs::symlink_metadata(&p).unwrap();
        let content = match m.file_type() {
            t if t.is_file() => fs::read(&p).unwrap(),
            t if t.is_symlink() => fs::read_link(&p).unwrap().into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        if m.is_dir() {
            todo.extend(fs::read_dir(&p).unwrap().map(|e| e.unwrap().path()));
        }
        // The directory around the sources is nobody's, and a link's time is that of the test.
        let time = if p == dir || m.is_symlink() { 0 } else { m.mtime() };
        out.insert(p.strip_prefix(dir).unwrap().to_owned(), (m.mode(), time, content));
    }
    out
}

fn at(dir: &Path, mtime: i64) {
    let times = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime as u64));
    fs::File::open(dir).unwrap().set_times(times).unwrap();
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A place of work, and what is durable of the journal.
struct Bench {
    dir: tempfile::TempDir,
    disk: RefCell<Journal>,
}

fn dress(mode: u32, mtime_s: i64) -> Option<Dress> {
    use rustix::process::{getegid, geteuid};
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    Some(Dress { mode, uid, gid, mtime_s, mtime_ns: 0, xattrs: Vec::new() })
}

impl Bench {
    /// A directory, a file, and a directory that is gone, with what a checkpoint holds of them.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().to_owned();
        let file = |p: &str, text: &str| {
            let p = d.join(p);
            fs::create_dir_all(p.parent().unwrap()).unwrap();
            fs::write(&p, text).unwrap();
            at(&p, 1_000_000);
        };
        for (p, text) in [("src/a", "new a"), ("src/d/x", "x"), ("src/only-now", "1"), ("src/cache/c", "c")] {
            file(p, text);
        }
        symlink("a", d.join("src/link")).unwrap();
        fs::hard_link(d.join("src/a"), d.join("src/hard")).unwrap();
        file("file", "what is there");
        file("file-not", "it stays");
        let all = format!("src/{FOLDER}");
        for (p, text) in [("a", "old a"), ("d/y", "y"), ("only-then/z", "z")] {
            file(&format!("{all}/new/{p}"), text);
        }
        fs::create_dir(d.join(&all).join(OLD)).unwrap();
        for (id, name) in [(2, "file"), (3, "gone")] {
            let folder = d.join(format!("{FOLDER}-{id}"));
            fs::create_dir_all(folder.join(OLD)).unwrap();
            file(&format!("{FOLDER}-{id}/new/{name}{}", if id == 3 { "/w" } else { "" }), "as it was");
        }
        let mut dirs = vec![d.clone()];
        while let Some(dir) = dirs.pop() {
            dirs.extend(
                fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir() && !p.is_symlink()),
            );
            at(&dir, 1_000_000);
        }
        mode(&d.join("src"), 0o750);
        at(&d.join("src"), 2_000_000);
        let swap = |i: u8, sub: &str, only: Option<&str>| Swap {
            source: SourceId([i; 16]),
            path: Bytes(b"/s".to_vec()),
            dir: Bytes(d.join(sub).into_os_string().into_encoded_bytes()),
            only: only.map(|n| Bytes(n.as_bytes().to_vec())),
            stay: if only.is_none() { vec![Bytes(b"cache".to_vec())] } else { Vec::new() },
            folder: if only.is_none() { FOLDER.into() } else { format!("{FOLDER}-{i}") },
            step: Step::Waiting,
            before: only.is_none().then(|| dress(0o750, 2_000_000)).flatten(),
            after: only.is_none().then(|| dress(0o711, 500_000)).flatten(),
            ajar: None,
            files: 1,
            bytes: 1,
        };
        let swaps = vec![swap(1, "src", None), swap(2, "", Some("file")), swap(3, "", Some("gone"))];
        let journal = Journal::new(CheckpointId([1; 16]), 7, 1, swaps);
        Self { dir, disk: RefCell::new(journal) }
    }

    fn tree(&self) -> Tree {
        tree(self.dir.path())
    }

    fn path(&self, p: &str) -> PathBuf {
        self.dir.path().join(p)
    }

    /// Runs steps on what is durable, until the `cut`-th moment. Answers whether they came to their end, and what was told.
    fn run(
        &self,
        cut: usize,
        steps: impl Fn(&mut Journal, &mut Hand<'_>) -> Result<(), RollbackError>,
    ) -> Result<Vec<String>, &'static str> {
        let mut journal = self.disk.borrow().clone();
        let (mut passed, mut last) = (0, "");
        let mut save = |j: &Journal| {
            // What is written is read again, as after a crash.
            *self.disk.borrow_mut() = serde_json::from_slice(&serde_json::to_vec(j).unwrap()).unwrap();
            Ok(())
        };
        let mut pass = |name: &'static str| {
            passed += 1;
            last = name;
            if passed == cut { Err(RollbackError::NoCheckpoint(0)) } else { Ok(()) }
        };
        let mut hand = Hand { save: &mut save, pass: &mut pass, told: Vec::new() };
        let done = steps(&mut journal, &mut hand);
        let told = std::mem::take(&mut hand.told);
        match done {
            Ok(()) => Ok(told),
            Err(RollbackError::NoCheckpoint(_)) => Err(last),
            Err(e) => panic!("after {passed} moments, {last}: {e:?}"),
        }
    }

    fn to_the_end(&self, steps: impl Fn(&mut Journal, &mut Hand<'_>) -> Result<(), RollbackError>) {
        assert_eq!(self.run(usize::MAX, steps), Ok(Vec::new()));
    }
}

/// The tree before, and the tree when all has changed places.
fn both() -> (Tree, Tree) {
    let b = Bench::new();
    let before = b.tree();
    b.to_the_end(forward);
    assert_eq!(b.disk.borrow().phase, Phase::Swapped);
    (before, b.tree())
}

#[test]
fn all_changes_places_but_what_stays() {
    let (before, after) = both();
    let b = Bench::new();
    b.to_the_end(forward);
    let names: Vec<String> = after.keys().map(|p| p.display().to_string()).filter(|p| p.starts_with("src")).collect();
    let wanted = ["src", "src/a", "src/cache", "src/cache/c", "src/d", "src/d/y", "src/only-then", "src/only-then/z"];
    assert_eq!(names, wanted);
    let src = &after[Path::new("src")];
    assert_eq!((src.0 & 0o7777, src.1), (0o711, 500_000));
    assert_eq!(after[Path::new("src/a")].2, b"old a");
    assert_eq!(after[Path::new("file")].2, b"as it was");
    assert_eq!(after[Path::new("file-not")], before[Path::new("file-not")]);
    assert!(after.contains_key(Path::new("gone/w")) && !before.contains_key(Path::new("gone")));
    let kept = b.path(&format!("src/{FOLDER}/old"));
    let same = |p: &str| fs::metadata(kept.join(p)).unwrap().ino();
    assert_eq!(same("a"), same("hard"), "names of one file stay names of one file");
    b.to_the_end(back);
    assert_eq!(b.tree(), before);
    assert_eq!(b.disk.borrow().phase, Phase::Undone);
    assert!(b.path(&format!("src/{FOLDER}/new/only-then/z")).exists(), "what had stood there is kept too");
}

#[test]
fn a_rollback_cut_anywhere_is_gone_on_with_or_undone() {
    let (before, after) = both();
    let mut names = std::collections::BTreeSet::new();
    for cut in 1.. {
        let b = Bench::new();
        let Err(name) = b.run(cut, forward) else {
            assert!(cut > 30, "{cut}");
            break;
        };
        names.insert(name);
        // Nothing was moved before it was announced.
        let phase = b.disk.borrow().phase;
        assert!(phase != Phase::Staging || b.tree() == before, "{cut}");
        if phase != Phase::Swapped {
            match phase {
                Phase::Staging | Phase::Swapping => b.to_the_end(forward),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(b.tree(), after, "cut at {cut}, {name}");

        let b = Bench::new();
        assert!(b.run(cut, forward).is_err());
        if b.disk.borrow().phase != Phase::Staging {
            b.to_the_end(back);
            assert_eq!(b.tree(), before, "undone after {cut}, {name}");
        }
    }
    assert_eq!(
        names.into_iter().collect::<Vec<_>>(),
        ["rollback-journal:after", "rollback-journal:before", "rollback-move:after", "rollback-move:before"]
    );
}

#[test]
fn an_undoing_cut_anywhere_is_gone_on_with() {
    let (before, _) = both();
    // Of a rollback that was done, and of one that was cut half way.
    for forward_cut in [usize::MAX, 14, 20] {
        for cut in 1.. {
            let b = Bench::new();
            let _ = b.run(forward_cut, forward);
            if b.run(cut, back).is_ok() {
                assert!(cut > 5);
                break;
            }
            if b.disk.borrow().phase != Phase::Undone {
                b.to_the_end(back);
            }
            assert_eq!(b.tree(), before, "cut at {forward_cut} and at {cut}");
        }
    }
}

#[test]
fn what_a_program_makes_anew_meanwhile_is_kept_and_told() {
    let (_, after) = both();
    // The third moment of moving: `a` has gone aside.
    let b = Bench::new();
    let cut = (1..).find(|cut| {
        let b = Bench::new();
        b.run(*cut, forward).is_err() && !b.path("src/a").exists()
    });
    assert!(b.run(cut.unwrap(), forward).is_err());
    fs::write(b.path("src/a"), "written meanwhile").unwrap();
    let told = b.run(usize::MAX, forward).unwrap();
    assert!(told.len() == 1 && told[0].contains("src/a was made anew"), "{told:?}");
    assert_eq!(b.tree(), after);
    let late = b.path(&format!("src/{FOLDER}/{LATE}/0/a"));
    assert_eq!(fs::read(late).unwrap(), b"written meanwhile");
    assert_eq!(fs::read(b.path(&format!("src/{FOLDER}/old/a"))).unwrap(), b"new a");
    assert!(has_late(&b.disk.borrow().swaps[0]));
}

#[test]
fn a_directory_that_is_closed_to_its_owner_is_closed_again_wherever_the_move_was_cut() {
    let closed = |b: &Bench| {
        mode(&b.path("src/d"), 0o500);
        b.disk.borrow_mut().phase = Phase::Swapping;
        b.disk.borrow_mut().swaps[0].step = Step::Aside;
    };
    // Root may move it as it is, so the way that others need is gone by hand.
    let move_d = |journal: &mut Journal, hand: &mut Hand<'_>| {
        let sides = Sides::open(&journal.swaps[0])?;
        assert!(is_closed(sides.fd(Side::Place), c"d") && !is_closed(sides.fd(Side::Place), c"a"));
        carry_closed(journal, 0, &sides, c"d", (Side::Place, Side::Old), hand)
    };
    let mode_of = |p: PathBuf| fs::metadata(p).unwrap().mode() & 0o7777;
    for cut in 1..=4 {
        let b = Bench::new();
        closed(&b);
        let end = b.run(cut, move_d);
        assert_eq!(end.is_ok(), cut == 4, "{end:?}");
        if cut == 3 {
            assert_eq!((end, mode_of(b.path("src/d"))), (Err("rollback-ajar"), 0o700));
        }
        b.to_the_end(forward);
        assert_eq!(mode_of(b.path(&format!("src/{FOLDER}/old/d"))), 0o500, "{cut}");
        b.to_the_end(back);
        assert_eq!(mode_of(b.path("src/d")), 0o500, "{cut}");
    }
}

#[test]
fn a_disk_that_is_not_there_is_no_empty_folder() {
    let b = Bench::new();
    fs::rename(b.path(&format!("src/{FOLDER}")), b.path("away")).unwrap();
    let mut journal = b.disk.borrow().clone();
    let mut hand = Hand { save: &mut |_| Ok(()), pass: &mut |_| Ok(()), told: Vec::new() };
    assert!(matches!(forward(&mut journal, &mut hand), Err(RollbackError::Gone { .. })));
    assert!(b.path("src/a").exists());
}

#[test]
fn steps_that_do_not_follow_each_other_are_refused() {
    let b = Bench::new();
    b.to_the_end(forward);
    let refused = |steps: fn(&mut Journal, &mut Hand<'_>) -> Result<(), RollbackError>| {
        let mut journal = b.disk.borrow().clone();
        let mut hand = Hand { save: &mut |_| Ok(()), pass: &mut |_| Ok(()), told: Vec::new() };
        matches!(steps(&mut journal, &mut hand), Err(RollbackError::Turn))
    };
    assert!(refused(forward), "it is done already");
    b.to_the_end(back);
    assert!(refused(back) && refused(forward), "it is undone");
}
