//! Tars that someone damaged or made up: an error, or something sound, but never a panic and never much memory.

use super::*;

/// A tar with one of everything.
fn sample() -> Vec<u8> {
    let mut out = Vec::new();
    let stamp = Stamp { secs: -2, nanos: 500_000_000 };
    let xattrs = vec![(b"user.k=v".to_vec(), vec![0, 255, 10]), (b"user.z".to_vec(), Vec::new())];
    add(&mut out, b"dir", &meta(Kind::Dir), b"", &Vec::new(), b"");
    add(&mut out, b"dir/file", &Meta { mtime: stamp, size: 700, ..meta(Kind::File) }, b"", &xattrs, &[9; 700]);
    add(&mut out, &[b'x'; 300], &meta(Kind::Symlink), &[b'y'; 200], &Vec::new(), b"");
    add(&mut out, b"dir/link", &meta(Kind::HardLink), b"dir/file", &Vec::new(), b"");
    let map = SparseMap { real_size: 1 << 20, spans: vec![(4096, 4106), (100_000, 100_090)] };
    add_sparse(&mut out, b"sparse", &meta(Kind::File), &map, &[1; 100]);
    finish(&mut out);
    out
}

/// Reads to the end or to the first error, content and maps included: what was found.
fn walk(tar: &[u8]) -> Result<usize, ReadError> {
    let mut r = Reader::new(tar);
    let (mut found, mut buf) = (0, [0u8; 97]);
    loop {
        let m = match r.next_member() {
            Ok(Some(m)) => m,
            Ok(None) => return Ok(found),
            Err(e) => {
                assert!(matches!(r.next_member(), Err(ReadError::Stopped)));
                return Err(e);
            }
        };
        assert!(!m.name.is_empty() && m.name.len() <= crate::limits::PATH_LEN_MAX && !m.name.contains(&0));
        assert!(m.data_offset <= tar.len() as u64);
        found += 1;
        if let Some(map) = r.sparse_map()? {
            assert!(map.spans.iter().all(|(a, b)| a < b && *b <= map.real_size));
        }
        while r.read_content(&mut buf)? > 0 {}
    }
}

#[test]
fn the_sample_itself_is_sound() {
    assert_eq!(walk(&sample()).unwrap(), 5);
}

#[test]
fn every_truncation_is_an_error() {
    let tar = sample();
    for n in (0..tar.len()).step_by(64) {
        assert!(walk(&tar[..n]).is_err(), "cut at {n}");
    }
    assert!(matches!(walk(&tar[..tar.len() - 1]), Err(ReadError::Truncated { .. })));
}

#[test]
fn flipped_bytes_never_panic_and_headers_notice_them() {
    let tar = sample();
    for i in 0..tar.len() {
        for flip in [1u8, 0x80, 0xff] {
            let mut bad = tar.clone();
            bad[i] ^= flip;
            let r = walk(&bad);
            // The first member's header is one block: any change in it shows in its sum.
            assert!(i >= BLOCK || r.is_err(), "byte {i}");
        }
    }
}

/// Changes the last plain header of `tar` and makes its checksum right again.
fn patched(mut tar: Vec<u8>, from: usize, bytes: &[u8]) -> Vec<u8> {
    let start = tar.len() - BLOCK;
    let h = &mut tar[start..];
    h[from..from + bytes.len()].copy_from_slice(bytes);
    h[148..156].fill(b' ');
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar
}

fn plain(kind: Kind) -> Vec<u8> {
    let mut out = Vec::new();
    append_header(&mut out, b"n", &meta(kind), b"l", &[], 0, None);
    out
}

fn first(tar: &[u8]) -> Result<Member, ReadError> {
    Reader::new(tar).next_member().map(Option::unwrap)
}

#[test]
fn base_256_numbers_are_read() {
    let mut size = [0u8; 12];
    size[0] = 0x80;
    size[4..].copy_from_slice(&(1u64 << 40).to_be_bytes());
    assert_eq!(first(&patched(plain(Kind::File), 124, &size)).unwrap().size, 1 << 40);
    let mut time = [0xffu8; 12];
    time[4..].copy_from_slice(&(-5i64).to_be_bytes());
    assert_eq!(first(&patched(plain(Kind::File), 136, &time)).unwrap().meta.mtime.secs, -5);
    let uid = [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe];
    assert_eq!(first(&patched(plain(Kind::File), 108, &uid)).unwrap().meta.uid, u32::MAX - 1);
}

#[test]
fn huge_and_odd_numbers_are_refused() {
    for (from, bytes) in [
        (124, &[0xffu8; 12][..]),                                   // a negative size
        (124, b"\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"), // a size whose padding overflows
        (124, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        (124, b"00000000 01\0"),                    // digits after the end
        (124, b"0000000008\0\0"),                   // not octal
        (108, b"\x80\x00\x00\x01\x00\x00\x00\x00"), // an owner beyond 32 bits
        (100, b"rw-r--r-"),
        (0, b"\0"), // no name
    ] {
        let r = first(&patched(plain(Kind::File), from, bytes));
        assert!(matches!(r, Err(ReadError::Damaged { .. })), "{from} {bytes:?}: {r:?}");
    }
}

#[test]
fn other_types_are_named_and_dangerous_ones_refused() {
    assert_eq!(first(&patched(plain(Kind::File), 156, b"V")).unwrap().kind, MemberKind::Other(b'V'));
    assert_eq!(first(&patched(plain(Kind::File), 156, b"7")).unwrap().kind, MemberKind::Entry(Kind::File));
    for flag in [b"g", b"L", b"K"] {
        let r = first(&patched(plain(Kind::File), 156, flag));
        assert!(matches!(r, Err(ReadError::Unsupported { .. })), "{flag:?}");
    }
    for kind in [Kind::Dir, Kind::Symlink, Kind::HardLink, Kind::Fifo, Kind::CharDevice, Kind::BlockDevice] {
        let r = first(&patched(plain(kind), 124, b"00000000010\0"));
        assert!(matches!(r, Err(ReadError::Damaged { .. })), "{kind:?} with content");
    }
    assert!(first(&patched(plain(Kind::Symlink), 157, b"\0")).is_err(), "a link to nothing");
}

#[test]
fn the_first_part_of_a_name_is_read_where_posix_puts_it() {
    assert_eq!(first(&patched(plain(Kind::File), 345, b"some/dir")).unwrap().name, b"some/dir/n");
}

/// A file after an extended header with these records.
fn extended(records: &[u8]) -> Vec<u8> {
    let mut out = plain(Kind::File);
    out = patched(out, 156, b"x");
    out = patched(out, 124, format!("{:011o}\0", records.len()).as_bytes());
    out.extend_from_slice(records);
    out.resize(out.len() + padding(records.len() as u64), 0);
    append_header(&mut out, b"plain", &meta(Kind::File), b"", &[], 0, None);
    finish(&mut out);
    out
}

#[test]
fn bad_records_are_refused() {
    for bad in [
        &b"x"[..],
        b" ",
        b"0 a=b\n",
        b"5 a=b\n",
        b"7 a=b\n",
        b"99 a=b\n",
        b"7 a=bc",
        b"+6 a=b\n",
        b"99999999999999999999999 a=b\n",
        b"18446744073709551615 a=b\n",
        b"5 ab\n",
        b"5 =b\n",
    ] {
        let r = first(&extended(bad));
        assert!(
            matches!(r, Err(ReadError::Damaged { what: "a record of an extended header", .. })),
            "{:?}: {r:?}",
            String::from_utf8_lossy(bad)
        );
    }
    assert_eq!(first(&extended(b"6 a=b\n10 path=p\n11 mtime=5\n")).unwrap().name, b"p");
}

/// Records of these keys and values.
fn records(all: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in all {
        let body = key.len() + value.len() + 3;
        let len = (body..).find(|n| n.to_string().len() + body == *n).unwrap();
        out.extend_from_slice(format!("{len} {key}={value}\n").as_bytes());
    }
    out
}

#[test]
fn bad_values_are_refused() {
    for (key, value) in [
        ("mtime", "x"),
        ("mtime", "1.x"),
        ("mtime", "1.-5"),
        ("mtime", "1.0000000000x"),
        ("mtime", "--5"),
        ("mtime", "+5"),
        ("mtime", ".5"),
        ("mtime", "9223372036854775808"),
        ("mtime", "-9223372036854775808.1"),
        ("size", "-"),
        ("size", "-1"),
        ("size", "18446744073709551616"),
        ("size", "18446744073709551615"),
        ("size", "9223372036854775807"),
        ("uid", "4294967296"),
        ("gid", "0x10"),
        ("path", "\0"),
        ("path", "a\0b"),
        ("linkpath", "a\0b"),
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.major", "2"),
        ("GNU.sparse.map", "0,1,5"),
        ("GNU.sparse.realsize", "9"),
        ("GNU.sparse.name", "other"),
    ] {
        let r = first(&extended(&records(&[(key, value)])));
        let refused = matches!(&r, Err(ReadError::Damaged { what, .. }) if *what != "a record of an extended header");
        assert!(refused || matches!(r, Err(ReadError::Unsupported { .. })), "{key} {value}: {r:?}");
    }
    let lowest = records(&[("mtime", "-9223372036854775808")]);
    assert_eq!(first(&extended(&lowest)).unwrap().meta.mtime, Stamp { secs: i64::MIN, nanos: 0 });
}

#[test]
fn later_records_win_and_empty_ones_take_back() {
    assert_eq!(first(&extended(&records(&[("path", "p"), ("path", "q")]))).unwrap().name, b"q");
    assert_eq!(first(&extended(&records(&[("path", "p"), ("path", "")]))).unwrap().name, b"plain");
    let (a, b) = ("SCHILY.xattr.user.a", "SCHILY.xattr.user.b");
    let m = first(&extended(&records(&[(b, "1"), (a, "11"), (b, "222")]))).unwrap();
    assert_eq!(m.xattrs, [(b"user.a".to_vec(), b"11".to_vec()), (b"user.b".to_vec(), b"222".to_vec())]);
    // Digits below a nanosecond are dropped.
    let m = first(&extended(&records(&[("mtime", "-0.2500000009")]))).unwrap();
    assert_eq!(m.meta.mtime, Stamp { secs: -1, nanos: 750_000_000 });
}

#[test]
fn a_long_extended_header_is_refused_before_memory_is_reserved() {
    let tar = patched(patched(plain(Kind::File), 156, b"x"), 124, b"77777777777\0");
    assert!(matches!(first(&tar), Err(ReadError::TooLong { .. })));
    let name = vec![b'n'; 65_536];
    let mut out = Vec::new();
    append_header(&mut out, &name, &meta(Kind::File), b"", &[], 0, None);
    assert!(matches!(first(&out), Err(ReadError::TooLong { .. })));
}

#[test]
fn the_most_attributes_that_an_entry_may_have_fit() {
    let value = vec![7u8; (1 << 20) - 6];
    let mut out = Vec::new();
    let long = vec![b'n'; 65_535];
    append_header(&mut out, &long, &meta(Kind::Symlink), &long, &[(b"user.a".to_vec(), value.clone())], 0, None);
    assert_eq!(first(&out).unwrap().xattrs[0].1, value);
    // As many names as Linux lists (64 KiB of them), each as short as it can be.
    let many: Xattrs = (0..6500).map(|i| (format!("user.{i:04}").into_bytes(), vec![1; 150])).collect();
    let mut out = Vec::new();
    append_header(&mut out, &long, &meta(Kind::Symlink), &long, &many, 0, None);
    assert_eq!(first(&out).unwrap().xattrs, many);
}

#[test]
fn bad_maps_are_refused() {
    let tar = |map: &str, data: usize, real: u64| {
        let mut body = map.as_bytes().to_vec();
        body.resize(body.len() + padding(body.len() as u64) + data, 0);
        let mut out = Vec::new();
        let m = SparseMap { real_size: real, spans: Vec::new() };
        append_header(&mut out, b"s", &meta(Kind::File), b"", &[], body.len() as u64, Some(&m));
        out.extend_from_slice(&body);
        let mut r = Reader::new(std::io::Cursor::new(out));
        assert!(r.next_member().unwrap().unwrap().sparse);
        r.sparse_map()
    };
    assert!(tar("1\n5\n3\n", 3, 100).is_ok());
    for (map, data, real) in [
        ("", 0, 100),
        ("x\n", 0, 100),
        ("\n", 0, 100),
        ("2\n5\n3\n", 3, 100),                    // fewer than it says
        ("1\n5\n3\n", 4, 100),                    // more data than stretches
        ("1\n5\n3\n", 2, 100),                    // less
        ("1\n98\n3\n", 3, 100),                   // beyond the end
        ("2\n5\n3\n7\n1\n", 4, 100),              // overlapping
        ("1\n18446744073709551615\n3\n", 3, 100), // overflow
        ("1\n18446744073709551616\n3\n", 3, 100),
        ("18446744073709551615\n", 0, 100),
        ("1048577\n", 0, 100),
    ] {
        assert!(tar(map, data, real).is_err(), "{map:?} {data}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = walk(&bytes);
    }

    #[test]
    fn any_records_are_read_without_a_panic(records in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = walk(&extended(&records));
    }
}
