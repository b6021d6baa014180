use super::*;
use crate::entry::{Kind, Meta, Stamp, Xattrs};
use proptest::prelude::*;

mod foreign;
mod hostile;

pub(super) fn meta(kind: Kind) -> Meta {
    Meta {
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        mtime: Stamp { secs: 1_700_000_000, nanos: 0 },
        ctime: Stamp::default(),
        ino: 0,
        nlink: 1,
        size: 0,
        rdev: (0, 0),
    }
}

/// One member with content, appended as the packer does it.
pub(super) fn add(out: &mut Vec<u8>, name: &[u8], m: &Meta, link: &[u8], xattrs: &Xattrs, content: &[u8]) {
    append_header(out, name, m, link, xattrs, content.len() as u64, None);
    out.extend_from_slice(content);
    out.resize(out.len() + padding(content.len() as u64), 0);
}

pub(super) fn add_sparse(out: &mut Vec<u8>, name: &[u8], m: &Meta, map: &SparseMap, data: &[u8]) {
    let size = sparse_map_len(map) + data.len() as u64;
    append_header(out, name, m, b"", &[], size, Some(map));
    let before = out.len();
    append_sparse_map(out, map);
    assert_eq!((out.len() - before) as u64, sparse_map_len(map));
    out.extend_from_slice(data);
    out.resize(out.len() + padding(size), 0);
}

pub(super) fn members(tar: &[u8]) -> Vec<Member> {
    let (mut r, mut all) = (Reader::new(tar), Vec::new());
    while let Some(m) = r.next_member().unwrap() {
        all.push(m);
    }
    all
}

pub(super) fn content<R: std::io::Read>(r: &mut Reader<R>) -> Vec<u8> {
    let (mut all, mut buf) = (Vec::new(), [0u8; 700]);
    loop {
        match r.read_content(&mut buf).unwrap() {
            0 => return all,
            n => all.extend_from_slice(&buf[..n]),
        }
    }
}

#[test]
fn an_ordinary_member_takes_one_block_and_an_odd_one_three() {
    let mut out = Vec::new();
    append_header(&mut out, b"a/b", &meta(Kind::File), b"", &[], 0, None);
    assert_eq!(out.len(), BLOCK);
    let odd = Meta { mtime: Stamp { secs: 5, nanos: 1 }, ..meta(Kind::File) };
    append_header(&mut out, b"a/c", &odd, b"", &[], 0, None);
    assert_eq!(out.len(), 4 * BLOCK);
    finish(&mut out);
    let m = members(&out);
    assert_eq!(m.iter().map(|m| m.meta.mtime.nanos).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_record_counts_its_own_length() {
    // Around every length at which the number of digits changes.
    for name_len in (101..=120).chain(980..=1010).chain(9_980..=10_010).chain([65_535]) {
        let name = vec![b'n'; name_len];
        let mut out = Vec::new();
        add(&mut out, &name, &meta(Kind::File), b"", &Vec::new(), b"x");
        finish(&mut out);
        assert_eq!(members(&out)[0].name, name, "{name_len}");
    }
}

#[test]
fn names_at_the_edge_of_the_plain_field() {
    for len in [99, 100, 101] {
        for kind in [Kind::File, Kind::Dir] {
            let (name, mut out) = (vec![b'n'; len], Vec::new());
            append_header(&mut out, &name, &meta(kind), b"", &[], 0, None);
            finish(&mut out);
            assert_eq!(members(&out)[0].name, name, "{len} {kind:?}");
        }
    }
}

#[test]
fn a_map_says_where_a_file_ends_that_ends_in_a_hole() {
    for (map, text) in [
        (SparseMap { real_size: 9000, spans: vec![(0, 512), (4096, 9000)] }, "2\n0\n512\n4096\n4904\n"),
        (SparseMap { real_size: 9000, spans: vec![(4096, 4100)] }, "2\n4096\n4\n9000\n0\n"),
        (SparseMap { real_size: 7, spans: Vec::new() }, "1\n7\n0\n"),
    ] {
        let mut out = Vec::new();
        append_sparse_map(&mut out, &map);
        assert_eq!(out.len(), BLOCK);
        assert_eq!(&out[..text.len()], text.as_bytes());
        assert!(out[text.len()..].iter().all(|b| *b == 0));
    }
}

#[test]
fn sparse_files_come_back_with_their_map_and_data() {
    let spans: Vec<_> = (0..300).map(|i| (i * 10_000, i * 10_000 + 3)).collect();
    let map = SparseMap { real_size: 1 << 40, spans };
    let data: Vec<u8> = (0..900).map(|i| i as u8).collect();
    let mut out = Vec::new();
    add_sparse(&mut out, b"dir/file=\n name", &meta(Kind::File), &map, &data);
    append_simple(&mut out, ".zoneward/index.json", 0);
    finish(&mut out);
    let mut r = Reader::new(&out[..]);
    let m = r.next_member().unwrap().unwrap();
    assert_eq!((&m.name[..], m.real_size, m.meta.size), (&b"dir/file=\n name"[..], 1 << 40, 1 << 40));
    assert_eq!(m.size, sparse_map_len(&map) + 900);
    assert_eq!(r.sparse_map().unwrap(), Some(map));
    assert_eq!(r.sparse_map().unwrap(), None);
    assert_eq!(content(&mut r), data);
    let last = r.next_member().unwrap().unwrap();
    assert_eq!((&last.name[..], last.meta.mode, last.meta.uid), (&b".zoneward/index.json"[..], 0o600, 0));
    assert_eq!(r.next_member().unwrap(), None);
    assert_eq!(r.next_member().unwrap(), None);
}

#[test]
fn sizes_beyond_octal_go_to_a_record() {
    for size in [(1 << 33) - 1, 1 << 33, 1 << 60] {
        let mut out = Vec::new();
        append_header(&mut out, b"big", &meta(Kind::File), b"", &[], size, None);
        assert_eq!(out.len() > BLOCK, size >= 1 << 33);
        let m = Reader::new(&out[..]).next_member().unwrap().unwrap();
        assert_eq!((m.size, m.real_size), (size, size));
    }
}

fn text(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![1u8..=255, Just(b'='), Just(b'\n'), Just(b'%'), Just(b'/')], 1..max)
}

fn kinds() -> impl Strategy<Value = Kind> {
    use Kind::*;
    prop::sample::select(vec![File, Dir, Symlink, HardLink, Fifo, CharDevice, BlockDevice])
}

fn times() -> impl Strategy<Value = Stamp> {
    let secs = prop_oneof![any::<i64>(), -3i64..3, Just(i64::MIN), Just(i64::MAX), (1i64 << 33) - 2..(1 << 33) + 2];
    (secs, prop_oneof![Just(0), 0u32..1_000_000_000, Just(999_999_999)]).prop_map(|(secs, nanos)| Stamp { secs, nanos })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(
        name in text(300), link in text(300), kind in kinds(), mode in 0u32..0o10000, mtime in times(),
        uid in prop_oneof![any::<u32>(), 2_097_150u32..2_097_154], gid in any::<u32>(),
        rdev in (0u32..4096, 0u32..1 << 20),
        xattrs in prop::collection::btree_map(text(60), prop::collection::vec(any::<u8>(), 0..200), 0..4),
        body in prop::collection::vec(any::<u8>(), 0..1500),
    ) {
        let body = if kind == Kind::File { body } else { Vec::new() };
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let linked = matches!(kind, Kind::Symlink | Kind::HardLink);
        let rdev = if device { rdev } else { (0, 0) };
        let m = Meta { mode, uid, gid, mtime, rdev, size: body.len() as u64, ..meta(kind) };
        let link = if linked { link } else { Vec::new() };
        let xattrs: Xattrs = xattrs.into_iter().collect();
        let mut out = Vec::new();
        add(&mut out, &name, &m, &link, &xattrs, &body);
        append_simple(&mut out, "next", 0);
        finish(&mut out);
        prop_assert_eq!(out.len() % BLOCK, 0);
        let mut r = Reader::new(&out[..]);
        let got = r.next_member().unwrap().unwrap();
        let mut wanted = name;
        if kind == Kind::Dir && wanted.len() > 1 && wanted.ends_with(b"/") {
            wanted.pop();
        }
        prop_assert_eq!(&got.name, &wanted);
        prop_assert_eq!(got.kind, MemberKind::Entry(kind));
        prop_assert_eq!(got.meta, m);
        prop_assert_eq!(&got.link, &link);
        prop_assert_eq!(&got.xattrs, &xattrs);
        prop_assert_eq!((got.size, got.real_size, got.sparse), (m.size, m.size, false));
        let at = got.data_offset as usize;
        prop_assert_eq!(&out[at..at + body.len()], &body[..]);
        prop_assert_eq!(content(&mut r), body);
        prop_assert_eq!(&r.next_member().unwrap().unwrap().name, b"next");
        prop_assert!(r.next_member().unwrap().is_none());
    }

    #[test]
    fn maps_come_back(gaps in prop::collection::vec((1u64..1 << 40, 1u64..100), 0..200), tail in 0u64..1 << 40) {
        let (mut at, mut spans, mut data) = (0, Vec::new(), 0);
        for (gap, len) in gaps {
            spans.push((at + gap, at + gap + len));
            at += gap + len;
            data += len;
        }
        let map = SparseMap { real_size: at + tail, spans };
        let mut out = Vec::new();
        add_sparse(&mut out, b"f", &meta(Kind::File), &map, &vec![7; data as usize]);
        finish(&mut out);
        let mut r = Reader::new(&out[..]);
        prop_assert!(r.next_member().unwrap().unwrap().sparse);
        prop_assert_eq!(r.sparse_map().unwrap(), Some(map));
        prop_assert_eq!(content(&mut r).len() as u64, data);
        prop_assert!(r.next_member().unwrap().is_none());
    }
}
