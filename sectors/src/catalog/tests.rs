use proptest::prelude::*;

use super::*;
use crate::entry::{Entry, Extent, Kind, Meta, Stamp, path_cmp};
use crate::ids::{LayerId, SectorId, SourceId};

fn entry(path: &[u8], kind: Kind, extents: Vec<Extent>) -> Entry {
    let link = if matches!(kind, Kind::Symlink | Kind::HardLink) { b"some/where\xff".to_vec() } else { Vec::new() };
    Entry {
        path: path.to_vec(),
        meta: Meta {
            kind,
            mode: 0o4755,
            uid: 0,
            gid: u32::MAX,
            mtime: Stamp { secs: -5, nanos: 7 },
            ctime: Stamp { secs: i64::MAX, nanos: 999_999_999 },
            ino: u64::MAX,
            nlink: 1,
            size: extents.iter().map(Extent::len).sum(),
            rdev: if kind == Kind::CharDevice { (1, 3) } else { (0, 0) },
        },
        xattrs: vec![(b"user.a\xff".to_vec(), vec![]), (b"user.b".to_vec(), vec![0, 1, 255])],
        link,
        extents,
        unsteady: kind == Kind::File,
    }
}

fn sorted_xattrs(mut e: Entry) -> Entry {
    e.xattrs.sort();
    e
}

fn ids() -> (SectorId, SourceId, LayerId) {
    (SectorId([1; 16]), SourceId([2; 16]), LayerId([3; 16]))
}

fn read_all(bytes: &[u8], table: &SectorTable) -> Result<Vec<Line>, CatalogError> {
    let (own, source, layer) = ids();
    PartReader::new(bytes, table, own, source, layer, 0)?.collect()
}

#[test]
fn the_longest_line_that_is_written_is_read() {
    let (own, source, layer) = ids();
    let table = SectorTable::default();
    let here = table.number(own);
    let extents =
        vec![Extent::Data { sector: here, offset: u64::MAX >> 12, len: 8 << 20, fingerprint: [255; 32] }; 1024];
    let mut longest = entry(&[1; crate::limits::PATH_LEN_MAX], Kind::File, extents);
    let names = (0..255u32).map(|i| [b"user.".to_vec(), vec![1; 240], i.to_string().into_bytes()].concat());
    longest.xattrs = names.map(|n| (n, vec![0xFF; 3800])).collect();
    longest.xattrs.sort();
    let mut w = PartWriter::new(&table, own, source, layer, 0);
    w.push(&longest);
    let (bytes, _) = w.finish();
    assert!(bytes.len() > 2 << 20, "the test is to reach far: {}", bytes.len());
    assert_eq!(read_all(&bytes, &table).unwrap(), [Line::Entry(longest)]);
}

#[test]
fn every_kind_of_entry_comes_back() {
    let (own, source, layer) = ids();
    let table = SectorTable::default();
    let (here, there) = (table.number(own), table.number(SectorId([9; 16])));
    let data = |sector, offset| Extent::Data { sector, offset, len: 3, fingerprint: [7; 32] };
    let many: Vec<Extent> = (0..3000).map(|i| data(if i % 2 == 0 { here } else { there }, i)).collect();
    let mut all = vec![
        entry(b"", Kind::Dir, vec![]),
        entry(b"a", Kind::File, vec![data(here, 0), Extent::Hole(1 << 40), data(there, 5)]),
        entry(b"b/\"q\\\n\x01\x7f", Kind::Symlink, vec![]),
        entry(b"b/h", Kind::HardLink, vec![]),
        entry("b/汉字🙂".as_bytes(), Kind::CharDevice, vec![]),
        entry(b"b/\xff\xfe", Kind::Fifo, vec![]),
        entry(b"c", Kind::File, many),
        entry(b"d", Kind::File, vec![]),
    ];
    all.iter_mut().for_each(|e| *e = sorted_xattrs(e.clone()));
    let mut w = PartWriter::new(&table, own, source, layer, 0);
    for e in &all {
        w.push(e);
    }
    w.push_gone(b"e/f");
    let (bytes, n) = w.finish();
    assert_eq!(n, 9);
    let lines = read_all(&bytes, &table).unwrap();
    let mut want: Vec<Line> = all.into_iter().map(Line::Entry).collect();
    want.push(Line::Gone(b"e/f".to_vec()));
    assert_eq!(lines, want);
    // Another reader, another numbering: the sectors' ids decide.
    let other = SectorTable::default();
    other.number(SectorId([8; 16]));
    let Line::Entry(a) = read_all(&bytes, &other).unwrap().remove(1) else { panic!() };
    let Extent::Data { sector, .. } = a.extents[2] else { panic!() };
    assert_eq!(other.id(sector), Some(SectorId([9; 16])));
}

#[test]
fn damaged_and_hostile_lines_are_errors() {
    let (_, source, layer) = ids();
    let first = format!("{{\"catalog\":1,\"source\":\"{source}\",\"layer\":\"{layer}\",\"part\":0}}\n");
    let common = "\"m\":1,\"u\":0,\"g\":0,\"mt\":[0,0],\"ct\":[0,0],\"i\":1";
    let ok = format!("{first}{{\"p\":\"a\",\"t\":\"d\",{common}}}\n");
    assert_eq!(read_all(ok.as_bytes(), &SectorTable::default()).unwrap().len(), 1);
    let fp = "A".repeat(43);
    for bad in [
        format!("{{\"p\":\"../a\",\"t\":\"d\",{common}}}\n"),
        format!("{{\"p\":\"/a\",\"t\":\"d\",{common}}}\n"),
        format!("{{\"p\":\"a//b\",\"t\":\"d\",{common}}}\n"),
        format!("{{\"p\":\"a/./b\",\"t\":\"d\",{common}}}\n"),
        format!("{{\"p\":\"a\\u0000\",\"t\":\"d\",{common}}}\n"),
        format!("{{\"t\":\"d\",{common}}}\n"),
        format!("{{\"p\":\"a\",\"t\":\"z\",{common}}}\n"),
        format!("{{\"p\":\"a\",\"t\":\"h\",\"l\":\"../x\",\"s\":1,{common}}}\n"),
        format!("{{\"p\":\"a\",\"t\":\"f\",\"s\":4,\"e\":[[0,0,3,\"{fp}\"]],{common}}}\n"),
        format!("{{\"p\":\"a\",\"t\":\"f\",\"s\":3,\"e\":[[1,0,3,\"{fp}\"]],{common}}}\n"),
        format!("{{\"p\":\"a\",\"t\":\"f\",\"s\":3,\"e\":[[0,18446744073709551615,3,\"{fp}\"]],{common}}}\n"),
        format!("{{\"p\":\"b\",\"t\":\"d\",{common}}}\n{{\"p\":\"a\",\"t\":\"d\",{common}}}\n"),
        format!("{{\"p\":\"a\",\"t\":\"d\",{common},\"zz\":1}}\n"),
        format!("{{\"p\":\"a\",\"t\":\"d\",{common}}}"),
        "{\"+\":[[3]]}\n".to_owned(),
        "{\"k\":2,\"sector\":\"00000000000000000000000000000000\"}\n".to_owned(),
        "[[[[[[[[[[\n".to_owned(),
        format!("{{\"p\":\"{}\",\"t\":\"d\",{common}}}\n", "x".repeat(2 << 20)),
    ] {
        let text = format!("{first}{bad}");
        assert!(read_all(text.as_bytes(), &SectorTable::default()).is_err(), "{}", &bad[..bad.len().min(90)]);
    }
    assert!(read_all(b"", &SectorTable::default()).is_err());
    assert!(matches!(
        PartReader::new(first.as_bytes(), &SectorTable::default(), SectorId([1; 16]), source, layer, 1),
        Err(CatalogError::Other)
    ));
}

#[test]
fn holes_side_by_side_are_one_hole() {
    let (_, source, layer) = ids();
    let first = format!("{{\"catalog\":1,\"source\":\"{source}\",\"layer\":\"{layer}\",\"part\":0}}\n");
    let common = "\"m\":1,\"u\":0,\"g\":0,\"mt\":[0,0],\"ct\":[0,0],\"i\":1";
    let text =
        format!("{first}{{\"p\":\"a\",\"t\":\"f\",\"s\":9,\"e\":[[0],[2],[0],[3]],{common}}}\n{{\"+\":[[4],[0]]}}\n");
    let lines = read_all(text.as_bytes(), &SectorTable::default()).unwrap();
    let Line::Entry(e) = &lines[0] else { panic!() };
    assert_eq!(e.extents, [Extent::Hole(9)]);
    let many = vec!["[1]"; 1025].join(",");
    let text = format!("{first}{{\"p\":\"a\",\"t\":\"f\",\"s\":1025,\"e\":[{many}],{common}}}\n");
    assert!(read_all(text.as_bytes(), &SectorTable::default()).is_err());
}

fn merged(layers: &[Vec<Line>]) -> Vec<Vec<u8>> {
    let boxed = layers.iter().map(|l| Box::new(l.clone().into_iter().map(Ok)) as Box<_>).collect();
    Merge::new(boxed).unwrap().map(|e| e.unwrap().path).collect()
}

#[test]
fn parts_out_of_order_are_noticed() {
    let l = |p: &[u8]| Ok(Line::Entry(entry(p, Kind::Dir, vec![])));
    for second in [b"a", b"b"] {
        let lines = vec![l(b"b"), l(second)];
        let got: Result<Vec<_>, _> = Merge::new(vec![Box::new(lines.into_iter())]).and_then(Iterator::collect);
        assert!(got.is_err());
    }
}

proptest! {
    #[test]
    fn merging_layers_is_applying_them_one_after_another(
        layers in prop::collection::vec(prop::collection::btree_map("[ab./]{1,3}", any::<bool>(), 0..12), 0..5)
    ) {
        let mut want = std::collections::BTreeSet::new();
        let mut input = Vec::new();
        for layer in &layers {
            let mut lines = Vec::new();
            for (p, alive) in layer {
                if *alive { want.insert(p.clone().into_bytes()); } else { want.remove(p.as_bytes()); }
                lines.push(if *alive { Line::Entry(entry(p.as_bytes(), Kind::Dir, vec![])) } else { Line::Gone(p.clone().into_bytes()) });
            }
            lines.sort_by(|a, b| path_cmp(a.path(), b.path()));
            input.push(lines);
        }
        let mut want: Vec<_> = want.into_iter().collect();
        want.sort_by(|a, b| path_cmp(a, b));
        prop_assert_eq!(merged(&input), want);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..400) {
        let (own, source, layer) = ids();
        let table = SectorTable::default();
        let mut w = PartWriter::new(&table, own, source, layer, 0);
        w.push(&entry(b"a", Kind::Symlink, vec![]));
        w.push(&entry(b"b", Kind::File, vec![Extent::Hole(5)]));
        let (mut text, _) = w.finish();
        let cut = cut.min(text.len());
        text.splice(cut..cut.saturating_add(bytes.len() / 2).min(text.len()), bytes);
        let _ = read_all(&text, &table);
    }
}
