//! Sectors that someone damaged, and sectors that a node of the zone made to do harm: an error or something harmless,
//! never wrong bytes, never a panic, never anything outside the place that is restored to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "hostile/restore.rs"]
mod restore;

use std::ops::Range;

use common::{Copy, Memory, copy, error_name, frame, mint, noise, raw_of, read_everything};
use zoneward_sectors::catalog::{CatalogError, Line, PartReader, SectorTable};
use zoneward_sectors::crypto::{GcmKey, hkdf32};
use zoneward_sectors::header::Core;
use zoneward_sectors::ids::{CopyId, LayerId, SectorId, SourceId};
use zoneward_sectors::limits::{CATALOG_LINE_MAX, FRAME_RAW_MAX, FRAME_TAR_MAX, FRAMES_MAX, HEADER_LEN, INDEX_LEN_MAX};
use zoneward_sectors::pax::{self, ReadError};
use zoneward_sectors::sector_reader::SectorReadError;
use zoneward_sectors::stream::{Layout, Trailer, TrailerError};

/// A good sector whose tar is about so long and does not compress.
fn sector(c: &Copy, tar_len: usize) -> Vec<u8> {
    let tar: Vec<Vec<u8>> = noise(5, tar_len).chunks(300_000).map(<[u8]>::to_vec).collect();
    c.write(&tar, b"{}").0
}

fn layout(file: &[u8]) -> Layout {
    Layout::of_file(file.len() as u64).unwrap()
}

/// Where segment `i`, tag included, lies in the file.
fn segment(file: &[u8], i: u64) -> Range<usize> {
    let from = Layout::segment_at(i) as usize;
    from..from + layout(file).segment_len(i) + 16
}

fn everything(c: &Copy, file: Vec<u8>) -> Result<Vec<u8>, SectorReadError> {
    read_everything(&c.open(file)?)
}

/// Fails the test unless reading all of it is an error; the error's name.
fn refused(c: &Copy, file: Vec<u8>, what: &str) -> &'static str {
    match everything(c, file) {
        Ok(_) => panic!("{what}: it was read as if nothing were wrong"),
        Err(e) => error_name(&e),
    }
}

#[test]
fn every_flipped_byte_of_the_header_is_noticed() {
    let c = copy(1, 2, 20);
    let file = Memory::of(sector(&c, 5000));
    for flip in [0x01u8, 0x80] {
        for i in 0..HEADER_LEN {
            file.0.lock().unwrap()[i] ^= flip;
            let r = c.open_in(file.clone());
            assert!(matches!(r, Err(SectorReadError::Header(_))), "byte {i}: {r:?}");
            file.0.lock().unwrap()[i] ^= flip;
        }
    }
    c.open_in(file).unwrap();
}

#[test]
fn flipped_bytes_of_the_body_give_an_error_and_never_wrong_bytes() {
    let c = copy(1, 2, 21);
    let good = sector(&c, 1_100_000);
    let whole = everything(&c, good.clone()).unwrap();
    let (l, file) = (layout(&good), Memory::of(good.clone()));
    assert_eq!(l.segments(), 2);
    let reader = c.open_in(file.clone()).unwrap();
    let flip = |i: usize| file.0.lock().unwrap()[i] ^= 1 << (i % 8);
    let mut scratch = Vec::new();
    for i in 0..2 {
        let mut plain = vec![0; l.segment_len(i)];
        for (n, at) in segment(&good, i).step_by(64).enumerate() {
            let at = (at + n % 64).min(segment(&good, i).end - 1);
            flip(at);
            let r = reader.read_segment(i, &mut scratch, &mut plain);
            assert!(matches!(r, Err(SectorReadError::Segment(s)) if s == i), "byte {at}: {r:?}");
            flip(at);
        }
    }
    for at in l.leaves_at() as usize..l.trailer_at() as usize {
        flip(at);
        assert!(matches!(reader.leaves(), Err(SectorReadError::LeafTable)), "byte {at}");
        flip(at);
    }
    for at in l.trailer_at() as usize..good.len() {
        flip(at);
        let r = c.open_in(file.clone());
        assert!(matches!(r, Err(SectorReadError::Trailer(TrailerError::NotAuthentic))), "byte {at}: {r:?}");
        flip(at);
    }
    assert!(read_everything(&reader).unwrap() == whole, "the test left it as it was");
}

#[test]
fn every_other_length_is_an_error() {
    let c = copy(1, 2, 23);
    let good = sector(&c, 3_300_000);
    let mut cuts = vec![0, 1, HEADER_LEN - 1, HEADER_LEN, HEADER_LEN + 1, good.len() - 1, good.len() - HEADER_LEN];
    for i in 0..layout(&good).segments() {
        let s = segment(&good, i);
        cuts.extend([s.start - 1, s.start, s.start + 1, s.end - 1, s.end, s.end + 1]);
    }
    cuts.extend((0..100).map(|i| good.len() / 100 * i + i * 37 % 1000));
    for cut in cuts {
        assert!(cut < good.len());
        refused(&c, good[..cut].to_vec(), &format!("cut at {cut}"));
    }
    for more in [1, 16, 48, 4096, (1 << 20) + 48] {
        let longer = [&good[..], &vec![0; more]].concat();
        refused(&c, longer, &format!("{more} bytes more"));
    }
}

#[test]
fn records_in_another_place_or_from_another_copy_are_errors() {
    let (c, sibling) = (copy(1, 2, 23), copy(1, 3, 23));
    let (good, other) = (sector(&c, 3_300_000), sector(&sibling, 3_300_000));
    let (l, n) = (layout(&good), layout(&good).segments());
    let raw_id = |c: &Copy, file: &[u8]| c.open(file.to_vec()).unwrap().trailer().raw_id;
    assert_eq!((raw_id(&c, &good), good.len()), (raw_id(&sibling, &other), other.len()), "copies of one raw sector");
    for a in 0..n {
        for b in a + 1..n {
            let (ra, rb) = (segment(&good, a), segment(&good, b));
            let between = &good[ra.end..rb.start];
            let parts = [&good[..ra.start], &good[rb.clone()], between, &good[ra], &good[rb.end..]];
            let e = refused(&c, parts.concat(), &format!("segments {a} and {b} swapped"));
            assert_eq!(e, "segment");
        }
    }
    let mut splices: Vec<(Range<usize>, &str)> = (0..n).map(|i| (segment(&good, i), "segment")).collect();
    splices.push((l.leaves_at() as usize..l.trailer_at() as usize, "leaf table"));
    splices.push((l.trailer_at() as usize..good.len(), "trailer not authentic"));
    splices.push((0..HEADER_LEN, "commitment"));
    splices.push((HEADER_LEN..good.len(), "trailer not authentic"));
    for (range, error) in splices {
        let mut file = good.clone();
        file[range.clone()].copy_from_slice(&other[range.clone()]);
        assert_eq!(refused(&c, file, &format!("{range:?} of a sibling")), error, "{range:?}");
    }
    assert_eq!(refused(&c, other, "a sibling"), "commitment");
    // One data key under two headers: what is bound to one header does not open under the other.
    let core = Core { copy: CopyId([4; 16]), ..c.header.core().clone() };
    let twin = mint(core, 1, c.dek.clone(), &mut |_, _| vec![7; 384]);
    let file = [twin.header.bytes(), &good[HEADER_LEN..]].concat();
    assert_eq!(refused(&twin, file, "a new header before old records"), "trailer not authentic");
}

/// Compressed and decompressed size of each frame.
type Entries<'a> = &'a [(u32, u32)];

/// A seek table of any entries, as its bytes.
fn table(entries: Entries, count: u32) -> Vec<u8> {
    let mut out = 0x184D_2A5Eu32.to_le_bytes().to_vec();
    out.extend_from_slice(&(entries.len() as u32 * 8 + 9).to_le_bytes());
    for (raw, tar) in entries {
        out.extend_from_slice(&raw.to_le_bytes());
        out.extend_from_slice(&tar.to_le_bytes());
    }
    out.extend_from_slice(&count.to_le_bytes());
    out.push(0);
    out.extend_from_slice(&0x8F92_EAB1u32.to_le_bytes());
    out
}

/// Seals data under a seek table and a trailer of the insider's choice.
fn insider(c: &Copy, data: &[u8], table: &[u8], tar_len: u64, change: impl FnOnce(&mut Trailer)) -> Vec<u8> {
    let raw = [data, table].concat();
    let mut t = c.trailer(&raw, tar_len, (data.len() as u64, table.len() as u64), (0, 1));
    change(&mut t);
    c.seal(&raw, &t)
}

#[test]
fn seek_tables_that_lie_are_refused() {
    let c = copy(1, 2, 26);
    let (a, b) = (frame(&noise(1, 5000)), frame(&noise(2, 5000)));
    let pad = [&0x184D_2A5Du32.to_le_bytes()[..], &[0; 4]].concat();
    let data = [&a.0[..], &b.0, &pad].concat();
    let (la, lb) = (a.0.len() as u32, b.0.len() as u32);
    let sound = [(la, 5000), (lb, 5000), (8, 0)];
    let good = insider(&c, &data, &table(&sound, 3), 10_000, |_| ());
    assert_eq!(everything(&c, good).unwrap(), [noise(1, 5000), noise(2, 5000)].concat());
    let huge = FRAME_TAR_MAX as u32 + 1;
    let lies: &[(&str, Entries, u32, u64)] = &[
        ("overlap", &[(la + lb, 5000), (lb, 5000), (8, 0)], 3, 10_000),
        ("a gap", &[(la, 5000), (lb - 1, 5000), (8, 0)], 3, 10_000),
        ("too much tar", &[(la, huge), (lb, 5000), (8, 0)], 3, u64::from(huge) + 5000),
        ("4 GiB of tar", &[(la, u32::MAX), (lb, 5000), (8, 0)], 3, u64::from(u32::MAX) + 5000),
        ("too long a frame", &[(FRAME_RAW_MAX as u32 + 1, 5000), (8, 0)], 2, 5000),
        ("an empty frame", &[(la, 5000), (0, 5000), (lb, 5000), (8, 0)], 4, 15_000),
        ("a frame of no tar", &[(la, 0), (lb, 5000), (8, 0)], 3, 5000),
        ("padding with tar", &[(la, 5000), (lb, 5000), (8, 1)], 3, 10_001),
        ("no padding", &[(la, 5000), (lb + 8, 5000)], 2, 10_000),
        ("fewer than it says", &sound, u32::MAX, 10_000),
        ("more than it says", &sound, 2, 10_000),
        ("none", &[], 0, 0),
        ("another tar length", &sound, 3, 9_999),
        ("a huge tar length", &sound, 3, u64::MAX),
        ("bounds inside a frame", &[(la - 10, 5000), (lb + 10, 5000), (8, 0)], 3, 10_000),
        ("tar moved between frames", &[(la, 4999), (lb, 5001), (8, 0)], 3, 10_000),
    ];
    for (what, entries, count, tar_len) in lies {
        let file = insider(&c, &data, &table(entries, *count), *tar_len, |t| t.index = (0, 0));
        assert_eq!(refused(&c, file, what), "frame", "{what}");
    }
    let many = vec![(1u32, 1u32); FRAMES_MAX as usize + 2];
    let long = table(&many, many.len() as u32);
    let file = insider(&c, &data, &long, 1, |_| ());
    assert_eq!(refused(&c, file, "too many frames"), "range");
}

#[test]
fn frames_that_burst_are_refused() {
    let c = copy(1, 2, 26);
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    let unsaid = zstd::stream::encode_all(&vec![0u8; 64 << 20][..], 3).unwrap();
    let small = frame(&[0; 100]).0;
    let twice = [&small[..], &bomb].concat();
    for (what, bytes, tar_len) in [
        ("a bomb", &bomb, 100),
        ("a bomb in the largest frame", &bomb, FRAME_TAR_MAX as u32),
        ("a bomb of unsaid size", &unsaid, FRAME_TAR_MAX as u32),
        ("a bomb behind a frame", &twice, 100),
        ("less than told", &small, 101),
        ("no zstd at all", &noise(3, 100), 100),
    ] {
        let (raw, range) = raw_of(&[(bytes.clone(), tar_len)]);
        let file = c.seal(&raw, &c.trailer(&raw, u64::from(tar_len), range, (0, 1)));
        assert_eq!(refused(&c, file, what), "frame", "{what}");
    }
}

type Change<'a> = &'a dyn Fn(&mut Trailer);

#[test]
fn trailers_that_lie_are_refused() {
    let c = copy(1, 2, 26);
    let zeros = frame(&vec![0; FRAME_TAR_MAX]);
    let (raw, range) = raw_of(&[zeros.clone(), zeros.clone(), zeros]);
    let tar_len = 3 * FRAME_TAR_MAX as u64;
    let lies: &[(&str, Change, &str)] = &[
        ("raw length", &|t| t.raw_len = u64::MAX, "trailer damaged"),
        ("raw length by one", &|t| t.raw_len -= 1, "trailer damaged"),
        ("segments", &|t| t.segments = u64::MAX, "trailer damaged"),
        ("format", &|t| t.format = 2, "trailer damaged"),
        ("table outside", &|t| t.seek_table.0 += 1, "trailer damaged"),
        ("table that overflows", &|t| t.seek_table = (u64::MAX, u64::MAX), "trailer damaged"),
        ("table of everything", &|t| t.seek_table = (0, t.raw_len), "frame"),
        ("empty table", &|t| t.seek_table = (t.raw_len, 0), "frame"),
        ("index outside", &|t| t.index = (t.tar_len, 1), "trailer damaged"),
        ("index that overflows", &|t| t.index = (u64::MAX, 2), "trailer damaged"),
        ("too long an index", &|t| t.index = (0, INDEX_LEN_MAX + 1), "range"),
        ("tar length", &|t| t.tar_len = u64::MAX, "frame"),
        ("raw id", &|t| t.raw_id.0[0] ^= 1, "leaf table"),
    ];
    for (what, change, error) in lies {
        let mut t = c.trailer(&raw, tar_len, range, (0, 1));
        change(&mut t);
        assert_eq!(refused(&c, c.seal(&raw, &t), what), *error, "{what}");
    }
}

/// The trailer is of the raw sector and comes from the node that packed it; the header is of the copy and comes from the
/// node that made the copy.
#[test]
fn a_copy_that_another_node_made_is_whole() {
    let c = copy(1, 2, 26);
    let (raw, range) = raw_of(&[(frame(&[7; 100]).0, 100)]);
    let mut trailer = c.trailer(&raw, 100, range, (0, 1));
    trailer.packer.0[0] ^= 1;
    everything(&c, c.seal(&raw, &trailer)).unwrap();
}

#[test]
fn trailers_of_any_bytes_are_refused() {
    let c = copy(1, 2, 20);
    let good = sector(&c, 5000);
    let trailer = c.open(good.clone()).unwrap().trailer().clone();
    let json = serde_json::to_string(&trailer).unwrap();
    let key = GcmKey::new(&hkdf32(&c.dek.0, &c.header.hash().0, &[b"zoneward/1 trailer"]));
    let sealed = |len: u32, text: &[u8], rest: u8| {
        let mut plain = vec![rest; HEADER_LEN - 16];
        plain[..4].copy_from_slice(&len.to_le_bytes());
        plain[4..4 + text.len()].copy_from_slice(text);
        let at = good.len() - HEADER_LEN;
        [&good[..at], &key.seal_vec([0; 12], &c.header.hash().0, &plain)].concat()
    };
    let n = json.len() as u32;
    everything(&c, sealed(n, json.as_bytes(), 0)).unwrap();
    let deep = "[".repeat(4000);
    let twice = json.replacen('{', "{\"raw_len\":1,", 1);
    let negative = json.replace("\"epoch\":1", "\"epoch\":-1");
    let float = json.replace("\"epoch\":1", "\"epoch\":1.5");
    for (what, len, text, rest) in [
        ("length 2^32-1", u32::MAX, json.as_str(), 0),
        ("length beyond the trailer", 4077, json.as_str(), 0),
        ("length 0", 0, "", 0),
        ("cut", n - 1, json.as_str(), 0),
        ("a byte too many", n + 1, json.as_str(), 0),
        ("reserved bytes", n, json.as_str(), 1),
        ("nesting", 4000, deep.as_str(), 0),
        ("a field twice", twice.len() as u32, twice.as_str(), 0),
        ("a negative number", negative.len() as u32, negative.as_str(), 0),
        ("a fraction", float.len() as u32, float.as_str(), 0),
    ] {
        assert_eq!(refused(&c, sealed(len, text.as_bytes(), rest), what), "trailer damaged", "{what}");
    }
}

/// One header block: name, type and size as given, its checksum right.
fn block(name: &[u8], flag: u8, size: u64) -> [u8; 512] {
    let mut h = [0u8; 512];
    h[..name.len()].copy_from_slice(name);
    for (at, digits) in [(100, "0000644\0"), (108, "0001750\0"), (116, "0000144\0"), (136, "00000000000\0")] {
        h[at..at + digits.len()].copy_from_slice(digits.as_bytes());
    }
    h[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    h[156] = flag;
    h[157..158].copy_from_slice(b"t");
    h[257..265].copy_from_slice(b"ustar\x0000");
    h[148..156].fill(b' ');
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    h
}

fn record(key: &str, value: &str) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let len = (body..).find(|n| n.to_string().len() + body == *n).unwrap();
    format!("{len} {key}={value}\n").into_bytes()
}

/// Walks a tar that came out of a sealed sector.
fn walk(tar: &[u8]) -> Result<Vec<Vec<u8>>, ReadError> {
    let c = copy(1, 2, 26);
    let (raw, range) = raw_of(&[frame(tar)]);
    let opened = everything(&c, c.seal(&raw, &c.trailer(&raw, tar.len() as u64, range, (0, 1)))).unwrap();
    let (mut r, mut names) = (pax::Reader::new(&opened[..]), Vec::new());
    while let Some(m) = r.next_member()? {
        names.push(m.name);
        while r.read_content(&mut [0; 4096])? > 0 {}
    }
    Ok(names)
}

fn extended(records: &[u8]) -> Vec<u8> {
    let mut out = block(b"x", b'x', records.len() as u64).to_vec();
    out.extend_from_slice(records);
    out.resize(out.len() + pax::padding(records.len() as u64), 0);
    out
}

#[test]
fn tars_that_lie_are_refused() {
    let end = [0u8; 1024];
    let file = |size| [&block(b"f", b'0', size)[..], &[7; 512]].concat();
    assert_eq!(walk(&[&file(10)[..], &end].concat()).unwrap(), [b"f"]);
    let tars = [
        ("a pax size beyond the end", [&extended(&record("size", "1000000"))[..], &file(10), &end].concat()),
        ("a pax size that ends inside", [&extended(&record("size", "1030"))[..], &file(10), &end].concat()),
        ("a pax size below the content", [&extended(&record("size", "0"))[..], &file(10), &end].concat()),
        ("a pax size of 2^64 - 1", [&extended(&record("size", &u64::MAX.to_string()))[..], &file(10), &end].concat()),
        ("a pax header of 1 GiB", [&block(b"x", b'x', 1 << 30)[..], &file(10), &end].concat()),
        ("a record of 1 GiB", [&extended(b"1073741824 path=a\n")[..], &file(10), &end].concat()),
        ("a member of 8 GiB", [&file((8 << 30) - 1)[..], &end].concat()),
        ("a map of 1 TiB", {
            let sparse = [("major", "1"), ("minor", "0"), ("realsize", "1099511627776")];
            let all: Vec<u8> = sparse.iter().flat_map(|(k, v)| record(&format!("GNU.sparse.{k}"), v)).collect();
            [&extended(&all)[..], &block(b"f", b'0', 1 << 33 >> 1), &end].concat()
        }),
        ("no end", file(10)),
    ];
    for (what, tar) in tars {
        let r = walk(&tar);
        assert!(r.is_err(), "{what}: {r:?}");
    }
    let r = walk(&[&block(b"x", b'x', 1 << 30)[..], &end].concat());
    assert!(matches!(r, Err(ReadError::TooLong { .. })), "{r:?}");
}

#[test]
fn tar_names_that_lead_outside_are_only_names() {
    // Restoring goes by the catalog; a tar's names are never used as paths.
    let names: [&[u8]; 3] = [b"../up", b"/etc/passwd", b"a/../../b"];
    let tar: Vec<u8> = names.iter().flat_map(|n| block(n, b'0', 0)).chain([0; 1024]).collect();
    assert_eq!(walk(&tar).unwrap(), names);
}

const HEAD: &str = "{\"catalog\":1,\"source\":\"88888888888888888888888888888888\",\
                    \"layer\":\"99999999999999999999999999999999\",\"part\":0}\n";

fn catalog(lines: &[u8]) -> Result<Vec<Line>, CatalogError> {
    let (own, table) = (SectorId([1; 16]), SectorTable::default());
    PartReader::new(lines, &table, own, SourceId([0x88; 16]), LayerId([0x99; 16]), 0)?.collect()
}

/// A catalog line with these fields before the usual ones.
fn line(first: &str) -> String {
    format!("{{{first},\"m\":420,\"u\":0,\"g\":0,\"mt\":[0,0],\"ct\":[0,0],\"i\":1}}\n")
}

#[test]
fn catalogs_that_lie_are_refused() {
    let file = |path: &str, more: &str| line(&format!("\"p\":\"{path}\",\"t\":\"f\",\"s\":1{more}"));
    let fp = "A".repeat(43);
    let extent = |k: &str, offset: &str, len: &str| file("a", &format!(",\"e\":[[{k},{offset},{len},\"{fp}\"]]"));
    let ok = extent("0", "0", "1");
    assert_eq!(catalog([HEAD, &ok].concat().as_bytes()).unwrap().len(), 1);
    let hole = |path: &str| file(path, ",\"e\":[[1]]");
    let long = format!("{{\"p\":\"{}\",\"t\":\"-\"}}\n", "a".repeat(CATALOG_LINE_MAX));
    let deep = format!("{{\"p\":{}\n", "[".repeat(100_000));
    let far = u64::MAX.to_string();
    let lies = [
        ("unsorted", [hole("b"), hole("a")].concat()),
        ("twice the same", [hole("a"), hole("a")].concat()),
        ("a directory after what it holds", [hole("a/b"), hole("a")].concat()),
        ("too long a line", long),
        ("too long a path", hole(&"a".repeat(65_536))),
        ("nesting", deep),
        ("up", hole("../x")),
        ("up in the middle", hole("a/../../x")),
        ("absolute", hole("/etc/passwd")),
        ("here", hole("./a")),
        ("an empty part", hole("a//b")),
        ("a slash at the end", hole("a/")),
        ("a zero byte", hole("a\\u0000b")),
        ("two paths", file("a", ",\"p64\":\"YQ==\",\"e\":[[1]]")),
        ("a hard link to outside", line("\"p\":\"a\",\"t\":\"h\",\"s\":1,\"l\":\"../../etc/passwd\"")),
        ("a hard link to an absolute path", line("\"p\":\"a\",\"t\":\"h\",\"s\":1,\"l\":\"/etc/passwd\"")),
        ("a link to nothing", line("\"p\":\"a\",\"t\":\"l\",\"l\":\"\"")),
        ("an unknown sector", extent("1", "0", "1")),
        ("a range that overflows", extent("0", &far, "1")),
        ("too long an extent", extent("0", "0", "8388609")),
        ("an empty extent", extent("0", "0", "0")),
        ("a negative offset", extent("0", "-1", "1")),
        ("extents beyond the size", file("a", ",\"e\":[[1],[1]]")),
        ("extents that overflow", file("a", &format!(",\"e\":[[{far}],[2]]"))),
        ("no extents", file("a", "")),
        ("extents of nothing", "{\"+\":[[1]]}\n".to_owned()),
        ("extents of a directory", line("\"p\":\"a\",\"t\":\"d\"") + "{\"+\":[[1]]}\n"),
        ("a sector number left out", "{\"k\":2,\"sector\":\"11111111111111111111111111111111\"}\n".to_owned()),
        ("an unknown type", line("\"p\":\"a\",\"t\":\"x\"")),
        ("an unknown field", line("\"p\":\"a\",\"t\":\"d\",\"z\":1")),
        ("half a line", hole("a").trim_end().to_owned()),
        ("a mode beyond 12 bits", hole("a").replace("420", "4096")),
        ("a time beyond", hole("a").replace("[0,0]", "[0,1000000000]")),
    ];
    for (what, lines) in lies {
        let r = catalog([HEAD, &lines].concat().as_bytes());
        assert!(matches!(r, Err(CatalogError::Damaged { .. } | CatalogError::Json { .. })), "{what}: {r:?}");
    }
    assert!(matches!(catalog(b""), Err(CatalogError::Damaged { .. })));
    assert!(matches!(catalog(HEAD.replace("88", "77").as_bytes()), Err(CatalogError::Other)));
}
