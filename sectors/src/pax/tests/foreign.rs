//! Other programs read what is written here.

use super::*;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

fn first_line(program: &str) -> Option<String> {
    let out = Command::new(program).arg("--version").stderr(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&out.stdout).lines().next().map(str::to_owned)
}

fn gnu_tar() -> bool {
    first_line("tar").is_some_and(|l| l.contains("GNU tar"))
}

/// Whether files here can have attributes of their own.
fn takes_attributes(dir: &Path) -> bool {
    let file = dir.join("probe");
    fs::write(&file, b"").unwrap();
    let ok = rustix::fs::setxattr(&file, "user.a=b", b"1", rustix::fs::XattrFlags::empty()).is_ok();
    fs::remove_file(&file).unwrap();
    ok
}

fn owner() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn mine(kind: Kind, secs: i64, nanos: u32) -> Meta {
    let (uid, gid) = owner();
    Meta { uid, gid, mtime: Stamp { secs, nanos }, ..meta(kind) }
}

fn sparse() -> (SparseMap, Vec<u8>) {
    let map = SparseMap { real_size: 3_000_000, spans: vec![(0, 512), (1_000_000, 1_004_097)] };
    (map, (0..4609u32).map(|i| (i * 7) as u8 | 1).collect())
}

fn hollow() -> SparseMap {
    SparseMap { real_size: 70_000, spans: Vec::new() }
}

/// A long name with this at its end.
fn long_name(end: &[u8]) -> Vec<u8> {
    [&b"d/"[..], &[b'L'; 200], end].concat()
}

const ODD: &[u8] = b"=\n\xff";

fn sample(xattrs: &Xattrs, end: &[u8]) -> Vec<u8> {
    let (mut out, none) = (Vec::new(), Vec::new());
    add(&mut out, b"d", &Meta { mode: 0o755, ..mine(Kind::Dir, 1_600_000_000, 123_456_789) }, b"", &none, b"");
    let file = Meta { size: 5, mode: 0o4750, ..mine(Kind::File, 1_600_000_001, 1) };
    add(&mut out, b"d/f", &file, b"", xattrs, b"hello");
    add(&mut out, &long_name(end), &mine(Kind::File, -2, 250_000_000), b"", &none, b"");
    add(&mut out, b"d/hard", &mine(Kind::HardLink, 1_600_000_001, 1), b"d/f", &none, b"");
    let target = [b't'; 150];
    add(&mut out, b"d/soft", &mine(Kind::Symlink, 1_600_000_002, 999_999_999), &target, &none, b"");
    add(&mut out, b"d/fifo", &mine(Kind::Fifo, 1_600_000_003, 0), b"", &none, b"");
    let (map, data) = sparse();
    add_sparse(&mut out, b"d/sparse", &mine(Kind::File, 1_600_000_004, 5), &map, &data);
    add_sparse(&mut out, b"d/hollow", &mine(Kind::File, 1_600_000_005, 0), &hollow(), b"");
    add(&mut out, b"d/old", &mine(Kind::File, -1, 500_000_000), b"", &none, b"");
    append_simple(&mut out, ".zoneward/index.json", 2);
    out.extend_from_slice(b"{}");
    out.resize(out.len() + padding(2), 0);
    finish(&mut out);
    out
}

#[test]
fn the_tar_crate_reads_names_sizes_and_times() {
    // That crate splits records at every new line, so it is not asked about a name with one.
    let tar = sample(&Vec::new(), b"=\xff");
    let ours = members(&tar);
    let mut archive = tar::Archive::new(&tar[..]);
    let mut n = 0;
    for (theirs, ours) in archive.entries().unwrap().zip(&ours) {
        let mut theirs = theirs.unwrap();
        if !ours.sparse {
            let path = theirs.path_bytes().into_owned();
            assert_eq!(path.strip_suffix(b"/").unwrap_or(&path), ours.name);
        }
        assert_eq!(theirs.size(), ours.size, "{:?}", String::from_utf8_lossy(&ours.name));
        if ours.meta.mtime.secs >= 0 {
            assert_eq!(theirs.header().mtime().unwrap(), ours.meta.mtime.secs as u64);
        }
        assert_eq!(theirs.header().mode().unwrap(), ours.meta.mode);
        assert_eq!(u64::from(ours.meta.uid), theirs.header().uid().unwrap());
        assert_eq!(theirs.link_name_bytes().unwrap_or_default().into_owned(), ours.link);
        let mut body = Vec::new();
        theirs.read_to_end(&mut body).unwrap();
        let at = ours.data_offset as usize;
        assert_eq!(body, tar[at..at + body.len()]);
        n += 1;
    }
    assert_eq!((n, ours.len()), (10, 10));
}

fn check_times(root: &Path, tar: &[u8]) {
    for m in members(tar) {
        let path = root.join(std::ffi::OsString::from_vec(m.name.clone()));
        let s = fs::symlink_metadata(&path).unwrap();
        let shown = path.display();
        assert_eq!((s.mtime(), s.mtime_nsec()), (m.meta.mtime.secs, i64::from(m.meta.mtime.nanos)), "{shown}");
        if m.kind != MemberKind::Entry(Kind::Symlink) && m.kind != MemberKind::Entry(Kind::HardLink) {
            assert_eq!(s.mode() & 0o7777, m.meta.mode, "{shown}");
        }
    }
}

#[test]
fn gnu_tar_makes_the_same_tree() {
    if !gnu_tar() {
        println!("skipped: there is no GNU tar");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let has_xattrs = takes_attributes(dir.path());
    let mut xattrs = Xattrs::new();
    if has_xattrs {
        xattrs.push((b"user.50%=x".to_vec(), b"a=b\n\0c".to_vec()));
        xattrs.push((b"user.plain".to_vec(), b"v".to_vec()));
    }
    let tar = sample(&xattrs, ODD);
    let file = dir.path().join("it.tar");
    fs::write(&file, &tar).unwrap();
    let root = dir.path().join("out");
    fs::create_dir(&root).unwrap();
    let mut c = Command::new("tar");
    c.args(["--extract", "--preserve-permissions", "--xattrs", "--xattrs-include=*", "--file"]).arg(&file);
    let out = c.arg("--directory").arg(&root).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    check_times(&root, &tar);
    assert_eq!(fs::read(root.join("d/f")).unwrap(), b"hello");
    assert_eq!(fs::metadata(root.join("d/f")).unwrap().ino(), fs::metadata(root.join("d/hard")).unwrap().ino());
    assert_eq!(fs::read_link(root.join("d/soft")).unwrap().as_os_str().as_bytes(), [b't'; 150]);
    assert!(fs::metadata(root.join("d/fifo")).unwrap().file_type().is_fifo());
    let (map, data) = sparse();
    let got = fs::read(root.join("d/sparse")).unwrap();
    assert_eq!(got.len() as u64, map.real_size);
    let mut whole = vec![0; map.real_size as usize];
    whole[..512].copy_from_slice(&data[..512]);
    whole[1_000_000..1_004_097].copy_from_slice(&data[512..]);
    assert!(got == whole);
    assert_eq!(fs::read(root.join("d/hollow")).unwrap(), vec![0; hollow().real_size as usize]);
    for (name, value) in &xattrs {
        let mut buf = [0u8; 64];
        let n = rustix::fs::getxattr(root.join("d/f"), &name[..], &mut buf).unwrap();
        assert_eq!(&buf[..n], &value[..], "{}", String::from_utf8_lossy(name));
    }
}

#[test]
fn python_reads_names_and_sparse_content() {
    if first_line("python3").is_none() {
        println!("skipped: there is no python3");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("it.tar");
    fs::write(&file, sample(&Vec::new(), ODD)).unwrap();
    let script = "import sys, tarfile, hashlib\n\
        t = tarfile.open(sys.argv[1], errors='surrogateescape')\n\
        for m in t:\n\
        \x20   h = hashlib.sha256(t.extractfile(m).read()).hexdigest() if m.isfile() else m.linkname\n\
        \x20   print(ascii(m.name), m.size, m.type.decode(), repr(m.mtime), h)\n";
    let out = Command::new("python3").args(["-c", script]).arg(&file).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let (map, data) = sparse();
    let mut whole = vec![0u8; map.real_size as usize];
    whole[..512].copy_from_slice(&data[..512]);
    whole[1_000_000..1_004_097].copy_from_slice(&data[512..]);
    let digest = |b: &[u8]| crate::ids::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b).as_ref());
    let wanted = format!("'d/sparse' 3000000 0 1600000004.0 {}", digest(&whole));
    assert!(text.contains(&wanted), "{wanted} in {text}");
    assert!(text.contains(&format!("'d/hollow' 70000 0 1600000005 {}", digest(&[0; 70_000]))), "{text}");
    assert!(text.contains(&format!("'d/{}=\\n\\udcff' 0 0 -1.75", "L".repeat(200))), "{text}");
    assert_eq!(text.lines().count(), 10);
}
