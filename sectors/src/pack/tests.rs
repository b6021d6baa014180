//! Packing and restoring without a zone around: sectors in memory, real files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use super::*;
use crate::catalog::{CatalogError, Line, Merge, PartReader};
use crate::cert::NodeCertificate;
use crate::crypto::{Secret32, Signer, SigningKey};
use crate::diff::{Change, Differ};
use crate::entry::{Entry, Extent};
use crate::header::Core;
use crate::ids::{CheckpointId, CopyId, Digest, NodeId, ZoneAlias, ZoneId};
use crate::place::Place;
use crate::restore::{self, NoCopy, OpenSectors, RestoreReport};
use crate::sector_reader::{Expected, SectorIn, SectorReadError, SectorReader};
use crate::walk::{Walk, WalkOptions};

const KEY: [u8; 32] = [5; 32];
const NODE: NodeId = NodeId([2; 16]);
const SOURCE: SourceId = SourceId([3; 16]);

fn owner() -> SigningKey {
    SigningKey::from_seed(&Secret32([7; 32]))
}

#[derive(Default)]
struct Bytes(Mutex<Vec<u8>>);

impl SectorOut for Bytes {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (from, mut all) = (offset as usize, self.0.lock().unwrap());
        let len = all.len().max(from + bytes.len());
        all.resize(len, 0);
        all[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

impl SectorIn for Bytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let all = self.0.lock().unwrap();
        let from = all.get(offset as usize..offset as usize + buf.len());
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Sectors in memory, of one class where what must go into them fits.
struct Shelf {
    class_log2: u8,
    table: SectorTable,
    sectors: BTreeMap<SectorId, (Header, Secret32, Arc<Bytes>)>,
    parts: Vec<(SectorId, PlacedPart, Vec<u8>)>,
    /// What stopped every read, if anything did.
    away: Option<io::ErrorKind>,
}

impl Shelf {
    fn new(class_log2: u8) -> Self {
        let table = SectorTable::default();
        Self { class_log2, table, sectors: BTreeMap::new(), parts: Vec::new(), away: None }
    }

    /// The catalog of the layers in this order.
    fn entries(&self, layers: &[LayerId]) -> Vec<Entry> {
        let all = layers.iter().map(|layer| {
            let mine: Vec<_> = self.parts.iter().filter(|(_, p, _)| p.layer == *layer).collect();
            let lines: Vec<Result<Line, CatalogError>> = mine
                .into_iter()
                .flat_map(|(sector, p, frames)| {
                    let plain = zstd::decode_all(&frames[..]).unwrap();
                    let reader = PartReader::new(io::Cursor::new(plain), &self.table, *sector, SOURCE, *layer, p.part);
                    reader.unwrap().collect::<Vec<_>>()
                })
                .collect();
            Box::new(lines.into_iter()) as Box<dyn Iterator<Item = _> + Send>
        });
        Merge::new(all.collect()).unwrap().map(Result::unwrap).collect()
    }
}

impl Sectors for Shelf {
    fn open(&mut self, _: u64, at_least: u64) -> Result<OpenedSector, PackError> {
        let n = self.sectors.len() as u8 + 1;
        let (sector, dek) = (SectorId([n; 16]), Secret32([n; 32]));
        let node = SigningKey::from_seed(&Secret32([8; 32]));
        let cert = NodeCertificate::issue(&owner(), 1, NODE, node.public_key());
        let core = Core {
            class_log2: self.class_log2.max(at_least.next_power_of_two().trailing_zeros() as u8),
            signer_epoch: 1,
            alias: ZoneAlias([1; 16]),
            copy: CopyId([n; 16]),
            owner_fingerprint: Digest([0; 32]),
        };
        let header = Header::mint(core, &[1; 384], &dek, &cert, &node);
        let facts = SectorFacts {
            zone: ZoneId([1; 16]),
            sector,
            checkpoint: CheckpointId([1; 16]),
            packer: NODE,
            epoch: 1,
            system: false,
            created_ms: 1,
        };
        let (keys, out) = (RecordKeys::derive(&dek, &header), Arc::new(Bytes::default()));
        self.sectors.insert(sector, (header.clone(), dek, out.clone()));
        Ok(OpenedSector { facts, header, keys, out })
    }

    fn seal(&mut self, sector: SectorId, _: Finished, parts: Vec<(PlacedPart, Vec<u8>)>) -> Result<(), PackError> {
        self.parts.extend(parts.into_iter().map(|(p, frames)| (sector, p, frames)));
        Ok(())
    }
}

impl OpenSectors for Shelf {
    fn open(&self, sector: u32) -> Result<Arc<SectorReader>, NoCopy> {
        let (header, dek, bytes) = &self.sectors[&self.table.id(sector).unwrap()];
        if let Some(kind) = self.away {
            return Err(NoCopy { why: "away".into(), damage: SectorReadError::Io(kind.into()).is_damage() });
        }
        let open = SectorReader::open(bytes.clone(), header, &owner().public_key(), dek, &Expected::default());
        open.map(Arc::new).map_err(|e| NoCopy { why: e.to_string(), damage: e.is_damage() })
    }

    fn after_failure(&self, _: u32, _: &Arc<SectorReader>, why: &SectorReadError) -> Result<Arc<SectorReader>, NoCopy> {
        Err(NoCopy { why: why.to_string(), damage: why.is_damage() })
    }
}

/// Packs what changed since `base`; `meanwhile` happens between the scan and the reading.
fn pack(shelf: &mut Shelf, src: &Path, base: &[LayerId], meanwhile: impl FnOnce()) -> (LayerId, PackReport) {
    pack_as(shelf, src, base, None, meanwhile)
}

/// The same; with `whole`, as a catalog that needs no base and nothing of these sectors.
fn pack_as(
    shelf: &mut Shelf,
    src: &Path,
    base: &[LayerId],
    whole: Option<&[u32]>,
    meanwhile: impl FnOnce(),
) -> (LayerId, PackReport) {
    let options = WalkOptions { threads: 2, one_file_system: false, excludes: None, skip_caches: false };
    let entries = shelf.entries(base).into_iter().map(Ok);
    let changes = Differ::new(Walk::start(src, options).unwrap(), entries, false, whole.is_some());
    let changes: Vec<_> = changes.without(Arc::new(whole.unwrap_or_default().iter().copied().collect())).collect();
    meanwhile();
    let layer = LayerId([shelf.parts.len() as u8 + 1; 16]);
    let task =
        Task { source: SOURCE, layer, prefix: b"src".to_vec(), root: src.to_owned(), clones: false, estimate: 1 << 20 };
    let settings = Settings {
        threads: 2,
        zstd_level: 2,
        racy_after: Stamp { secs: i64::MAX, nanos: 0 },
        meagre: Default::default(),
    };
    let table = shelf.table.clone();
    let index = ChunkIndex::in_memory(&table);
    let gear = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut packer = Packer::new(&settings, &index, &table, &gear, KEY, shelf).unwrap();
    let report = packer.run(&task, changes.into_iter(), 0, &Progress::default()).unwrap();
    packer.finish().unwrap();
    (layer, report)
}

fn bring_back(shelf: &Shelf, layers: &[LayerId], to: &Path, fresh: bool) -> RestoreReport {
    let settings = restore::Settings { threads: 2, verify: true, fresh, fingerprint_key: KEY };
    let entries = shelf.entries(layers).into_iter().map(Ok);
    let place = Place::open(to).unwrap();
    restore::restore(entries, b"src", &place, shelf, &settings, &restore::Progress::default()).unwrap()
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

#[test]
fn many_sectors_come_back_and_what_is_right_is_left_alone() {
    let (src, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for i in 0..40u64 {
        fs::write(src.path().join(format!("{i}")), noise(i, 100 << 10)).unwrap();
    }
    fs::write(src.path().join("large"), noise(99, 5 << 20)).unwrap();
    fs::write(src.path().join("empty"), "").unwrap();
    let sparse = fs::File::create(src.path().join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    (&sparse).write_all(b"begin").unwrap();
    let mut shelf = Shelf::new(20);
    let (layer, report) = pack(&mut shelf, src.path(), &[], || {});
    assert_eq!((report.unread_count, report.unsteady_count, report.vanished), (0, 0, 0));
    assert!(shelf.sectors.len() >= 5, "4 MiB of small files alone need as many: {}", shelf.sectors.len());
    for (header, _, bytes) in shelf.sectors.values() {
        // Segments carry 16 bytes each, besides header, leaf table and trailer.
        let (class, len) = (1usize << header.core().class_log2, bytes.0.lock().unwrap().len());
        assert!(len <= class + class / (1 << 14) + (9 << 10), "{len} bytes in a class of {class}");
    }
    let first = bring_back(&shelf, &[layer], out.path(), true);
    assert_eq!((first.files, first.failed_count, first.kept), (43, 0, 0));
    for e in fs::read_dir(src.path()).unwrap() {
        let (a, name) = (e.as_ref().unwrap().path(), e.unwrap().file_name());
        let b = out.path().join("src").join(name);
        assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap(), "{}", a.display());
        let (x, y) = (fs::metadata(&a).unwrap(), fs::metadata(&b).unwrap());
        assert_eq!((x.mtime(), x.mtime_nsec(), x.mode()), (y.mtime(), y.mtime_nsec(), y.mode()));
    }
    assert!(fs::metadata(out.path().join("src/sparse")).unwrap().blocks() < 1024, "its hole was filled");
    // One file is cut short, one has another content of the same length and time: only these are written again.
    let inode = |name: &str| fs::metadata(out.path().join("src").join(name)).unwrap().ino();
    let kept = inode("7");
    fs::write(out.path().join("src/3"), "short").unwrap();
    let at = fs::metadata(out.path().join("src/5")).unwrap().modified().unwrap();
    fs::write(out.path().join("src/5"), noise(1000, 100 << 10)).unwrap();
    fs::File::open(out.path().join("src/5")).unwrap().set_modified(at).unwrap();
    let again = bring_back(&shelf, &[layer], out.path(), false);
    assert_eq!((again.files, again.failed_count), (43, 0));
    // Empty files have no content to compare, and are made anew.
    assert_eq!(again.kept, 40);
    assert_eq!(inode("7"), kept);
    for name in ["3", "5"] {
        assert_eq!(fs::read(src.path().join(name)).unwrap(), fs::read(out.path().join("src").join(name)).unwrap());
    }
}

#[test]
fn what_changes_between_the_scan_and_the_reading_is_told_and_never_mixed() {
    let (src, out, secret) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| src.path().join(name);
    for name in ["gone", "link", "dir", "grows", "shrinks"] {
        fs::write(at(name), format!("before {name}")).unwrap();
    }
    fs::write(at("large gone"), noise(1, 3 << 20)).unwrap();
    fs::write(at("large shrinks"), noise(2, 3 << 20)).unwrap();
    fs::write(at("large becomes a fifo"), noise(3, 3 << 20)).unwrap();
    fs::write(at("steady"), "steady").unwrap();
    fs::write(secret.path().join("s"), "secret").unwrap();
    let mut shelf = Shelf::new(24);
    let (layer, report) = pack(&mut shelf, src.path(), &[], || {
        fs::remove_file(at("gone")).unwrap();
        fs::remove_file(at("large gone")).unwrap();
        fs::remove_file(at("link")).unwrap();
        symlink(secret.path().join("s"), at("link")).unwrap();
        fs::remove_file(at("dir")).unwrap();
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("grows"), "after, and longer than before").unwrap();
        fs::write(at("shrinks"), "after").unwrap();
        fs::write(at("large shrinks"), noise(4, 1 << 20)).unwrap();
        fs::remove_file(at("large becomes a fifo")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("large becomes a fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
    });
    assert_eq!(report.vanished, 2, "{report:?}");
    let unread: Vec<&[u8]> = report.unread.iter().map(|(p, _)| &p[..]).collect();
    let mut want: Vec<&[u8]> = vec![b"dir", b"large becomes a fifo", b"link"];
    want.sort();
    let mut got = unread.clone();
    got.sort();
    assert_eq!(got, want, "{report:?}");
    let back = bring_back(&shelf, &[layer], out.path(), true);
    assert_eq!(back.failed_count, 0, "{back:?}");
    let read = |name: &str| fs::read(out.path().join("src").join(name)).unwrap();
    // One consistent reading: of the state after the change, as nothing changed during it.
    assert_eq!(read("grows"), b"after, and longer than before");
    assert_eq!(read("shrinks"), b"after");
    assert_eq!(read("large shrinks"), noise(4, 1 << 20));
    assert_eq!(read("steady"), b"steady");
    for name in ["gone", "link", "dir", "large gone"] {
        assert!(fs::symlink_metadata(out.path().join("src").join(name)).is_err(), "{name}");
    }
    let stored: Vec<u8> = shelf.sectors.values().flat_map(|(_, _, b)| b.0.lock().unwrap().clone()).collect();
    assert!(!stored.windows(6).any(|w| w == b"secret"));
}

#[test]
fn a_second_layer_takes_only_what_is_new_and_says_what_is_gone() {
    let (src, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(src.path().join("stays"), noise(1, 300 << 10)).unwrap();
    fs::write(src.path().join("goes"), "goes").unwrap();
    let mut shelf = Shelf::new(22);
    let (first, _) = pack(&mut shelf, src.path(), &[], || {});
    fs::remove_file(src.path().join("goes")).unwrap();
    fs::write(src.path().join("comes"), "comes").unwrap();
    let (second, report) = pack(&mut shelf, src.path(), &[first], || {});
    assert_eq!(report.new_bytes, 5);
    let both = bring_back(&shelf, &[first, second], out.path(), true);
    assert_eq!((both.files, both.failed_count), (2, 0));
    assert!(!out.path().join("src/goes").exists());
    // The first is still what it was.
    let then = tempfile::tempdir().unwrap();
    bring_back(&shelf, &[first], then.path(), true);
    assert!(then.path().join("src/goes").exists() && !then.path().join("src/comes").exists());
}

#[test]
fn names_of_a_file_whose_first_name_vanished_wait_for_the_next_backup() {
    let (src, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(src.path().join("a"), "one content").unwrap();
    fs::hard_link(src.path().join("a"), src.path().join("b")).unwrap();
    let mut shelf = Shelf::new(22);
    let (first, report) = pack(&mut shelf, src.path(), &[], || fs::remove_file(src.path().join("a")).unwrap());
    assert_eq!((report.vanished, report.unread_count), (1, 1), "{report:?}");
    // Nothing in the catalog points to what is not there.
    let cut = bring_back(&shelf, &[first], out.path(), true);
    assert_eq!((cut.files, cut.failed_count), (0, 0), "{cut:?}");
    let (second, _) = pack(&mut shelf, src.path(), &[first], || {});
    let whole = bring_back(&shelf, &[first, second], out.path(), false);
    assert_eq!((whole.files, whole.failed_count), (1, 0), "{whole:?}");
    assert_eq!(fs::read(out.path().join("src/b")).unwrap(), b"one content");
}

#[test]
fn a_whole_catalog_keeps_what_the_one_before_holds_of_files_that_cannot_be_read() {
    let (src, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| src.path().join(name);
    let names = ["small", "large", "goes", "first", "steady"];
    let before = |i: usize| noise(i as u64, if i == 1 { 3 << 20 } else { 1000 });
    for (i, name) in names.iter().enumerate() {
        fs::write(at(name), before(i)).unwrap();
    }
    fs::hard_link(at("first"), at("first again")).unwrap();
    symlink("before", at("link")).unwrap();
    let mut shelf = Shelf::new(24);
    let (first, _) = pack(&mut shelf, src.path(), &[], || {});
    let after = |i: usize| noise(20 + i as u64, if i == 1 { 2 << 20 } else { 500 });
    for (i, name) in names[..4].iter().enumerate() {
        fs::write(at(name), after(i)).unwrap();
    }
    fs::remove_file(at("link")).unwrap();
    symlink("after", at("link")).unwrap();
    fs::write(at("new"), "new").unwrap();
    let (second, report) = pack_as(&mut shelf, src.path(), &[first], Some(&[]), || {
        for name in ["small", "large", "first", "link", "new"] {
            fs::remove_file(at(name)).unwrap();
            fs::create_dir(at(name)).unwrap();
        }
        fs::remove_file(at("goes")).unwrap();
    });
    assert_eq!((report.unread_count, report.vanished, report.absent, report.absent_bytes), (6, 1, 1, 3), "{report:?}");
    let back = bring_back(&shelf, &[second], out.path(), true);
    assert_eq!((back.files, back.failed_count), (6, 0), "{back:?}");
    let there = |name: &str| out.path().join("src").join(name);
    for (i, name) in names.iter().enumerate() {
        assert!(fs::read(there(name)).unwrap() == before(i), "{name}");
    }
    assert_eq!(fs::metadata(there("first")).unwrap().ino(), fs::metadata(there("first again")).unwrap().ino());
    assert_eq!(fs::read_link(there("link")).unwrap(), Path::new("before"));
    assert!(!there("new").exists());
    // What the next backup can read, it takes.
    for name in ["small", "large", "first", "link", "new"] {
        fs::remove_dir(at(name)).unwrap();
        fs::write(at(name), "now").unwrap();
    }
    let (third, report) = pack(&mut shelf, src.path(), &[second], || {});
    assert_eq!(report.unread_count, 0, "{report:?}");
    let to = tempfile::tempdir().unwrap();
    bring_back(&shelf, &[second, third], to.path(), true);
    let read = |name: &str| fs::read(to.path().join("src").join(name)).ok();
    assert_eq!((read("small"), read("large")), (Some(b"now".to_vec()), Some(b"now".to_vec())));
    assert_eq!((read("goes"), read("first again")), (None, Some(after(3))));
}

#[test]
fn names_of_a_file_that_is_gone_everywhere_are_told_when_the_first_one_vanishes() {
    let src = tempfile::tempdir().unwrap();
    fs::write(src.path().join("first"), noise(1, 1000)).unwrap();
    fs::hard_link(src.path().join("first"), src.path().join("second")).unwrap();
    let mut shelf = Shelf::new(24);
    let (one, _) = pack(&mut shelf, src.path(), &[], || {});
    let gone = shelf.table.number(*shelf.sectors.keys().next().unwrap());
    let vanish = || fs::remove_file(src.path().join("first")).unwrap();
    let (two, report) = pack_as(&mut shelf, src.path(), &[one], Some(&[gone]), vanish);
    assert_eq!((report.vanished, report.unread_count), (1, 1), "{report:?}");
    assert_eq!(report.unread[0].0, b"second");
    // The next one stores it by the name that is left.
    let (three, report) = pack_as(&mut shelf, src.path(), &[two], Some(&[gone]), || {});
    assert_eq!(report.unread_count, 0, "{report:?}");
    let out = tempfile::tempdir().unwrap();
    let back = bring_back(&shelf, &[three], out.path(), true);
    assert_eq!((back.files, back.failed_count), (1, 0), "{back:?}");
    assert_eq!(fs::read(out.path().join("src/second")).unwrap(), noise(1, 1000));
}

#[test]
fn damage_loses_what_it_hits_and_nothing_else_and_is_told_from_absence() {
    let src = tempfile::tempdir().unwrap();
    for i in 0..8u64 {
        fs::write(src.path().join(format!("{i}")), noise(i, 1 << 20)).unwrap();
    }
    let mut shelf = Shelf::new(24);
    let (layer, _) = pack(&mut shelf, src.path(), &[], || {});
    let entries = shelf.entries(&[layer]);
    shelf.away = Some(io::ErrorKind::TimedOut);
    let out = tempfile::tempdir().unwrap();
    let away = bring_back(&shelf, &[layer], out.path(), true);
    assert_eq!((away.failed_count, away.unreachable_count, away.damage_count), (8, 8, 0));
    shelf.away = Some(io::ErrorKind::NotFound);
    let gone = bring_back(&shelf, &[layer], out.path(), false);
    assert_eq!((gone.failed_count, gone.unreachable_count, gone.damage_count), (8, 0, 8));
    shelf.away = None;
    // One byte in the middle of the file's third segment.
    let (_, _, bytes) = shelf.sectors.values().next().unwrap();
    bytes.0.lock().unwrap()[4096 + 2 * ((1 << 20) + 16) + 1000] ^= 1;
    let hit = bring_back(&shelf, &[layer], out.path(), false);
    assert!((1..=2).contains(&hit.damage_count), "{hit:?}");
    assert_eq!((hit.unreachable_count, hit.files), (0, 8 - hit.damage_count));
    for e in entries.iter().filter(|e| !e.path.is_empty()) {
        let name = std::str::from_utf8(&e.path).unwrap();
        let lost = hit.failed.iter().any(|(p, _)| p.ends_with(&e.path));
        match fs::read(out.path().join("src").join(name)) {
            Ok(back) => assert!(!lost && back == fs::read(src.path().join(name)).unwrap(), "{name}"),
            Err(_) => assert!(lost, "{name} is missing and nobody says so"),
        }
    }
}

#[test]
fn files_in_sectors_that_are_gone_count_as_changed_and_no_others() {
    let src = tempfile::tempdir().unwrap();
    fs::write(src.path().join("first"), noise(1, 100_000)).unwrap();
    fs::write(src.path().join("empty"), b"").unwrap();
    let mut shelf = Shelf::new(24);
    let (one, _) = pack(&mut shelf, src.path(), &[], || ());
    let before = shelf.entries(&[one]);
    let first = before.iter().find(|e| e.path == b"first").unwrap();
    let Extent::Data { sector, .. } = first.extents[0] else { panic!("{first:?}") };
    fs::write(src.path().join("second"), noise(2, 100_000)).unwrap();
    fs::hard_link(src.path().join("second"), src.path().join("second name")).unwrap();
    let (two, _) = pack(&mut shelf, src.path(), &[one], || ());
    let put = |gone: &[u32]| -> Vec<String> {
        let options = WalkOptions { threads: 2, one_file_system: false, excludes: None, skip_caches: false };
        let entries = shelf.entries(&[one, two]).into_iter().map(Ok);
        let differ = Differ::new(Walk::start(src.path(), options).unwrap(), entries, false, false);
        let changes = differ.without(std::sync::Arc::new(gone.iter().copied().collect()));
        let name = |c| match c {
            Change::Put(seen) => String::from_utf8(seen.path).unwrap(),
            other => panic!("{other:?}"),
        };
        changes.map(|c| name(c.unwrap())).collect()
    };
    assert_eq!(put(&[]), [""; 0]);
    assert_eq!(put(&[sector]), ["first"]);
    assert_eq!(put(&[sector + 100]), [""; 0]);
}

#[test]
fn what_was_stored_within_a_tick_of_its_change_is_read_again_and_does_not_count_as_changed() {
    let src = tempfile::tempdir().unwrap();
    fs::write(src.path().join("fresh"), b"fresh").unwrap();
    fs::write(src.path().join("other"), b"other").unwrap();
    let mut shelf = Shelf::new(24);
    let (one, _) = pack(&mut shelf, src.path(), &[], || ());
    let mut entries = shelf.entries(&[one]);
    entries.iter_mut().filter(|e| e.path != b"other").for_each(|e| e.meta.ino = 0);
    let differ = |entries: Vec<Entry>| {
        let options = WalkOptions { threads: 0, one_file_system: false, excludes: None, skip_caches: false };
        Differ::new(Walk::start(src.path(), options).unwrap(), entries.into_iter().map(Ok), false, false)
    };
    let mut again = differ(entries.clone());
    assert_eq!(again.by_ref().count(), 2);
    assert_eq!((again.counts.again, again.counts.changed, again.counts.new), (2, 0, 0));
    fs::write(src.path().join("fresh"), b"another length").unwrap();
    let mut changed = differ(entries);
    assert_eq!(changed.by_ref().count(), 2);
    assert_eq!((changed.counts.again, changed.counts.changed, changed.counts.new), (1, 1, 0));
}

#[test]
fn a_pack_that_is_stopped_says_so() {
    let src = tempfile::tempdir().unwrap();
    fs::write(src.path().join("large"), noise(1, 8 << 20)).unwrap();
    let options = WalkOptions { threads: 0, one_file_system: false, excludes: None, skip_caches: false };
    let nothing = std::iter::empty::<Result<Entry, CatalogError>>();
    let changes: Vec<_> = Differ::new(Walk::start(src.path(), options).unwrap(), nothing, false, false).collect();
    let mut shelf = Shelf::new(24);
    let settings = Settings {
        threads: 2,
        zstd_level: 2,
        racy_after: Stamp { secs: i64::MAX, nanos: 0 },
        meagre: Default::default(),
    };
    let table = shelf.table.clone();
    let index = ChunkIndex::in_memory(&table);
    let mut packer = Packer::new(&settings, &index, &table, &[1; 256], KEY, &mut shelf).unwrap();
    let task = Task {
        source: SOURCE,
        layer: LayerId([1; 16]),
        prefix: vec![],
        root: src.path().into(),
        clones: false,
        estimate: 1,
    };
    let progress = Progress::default();
    progress.stop.store(true, Ordering::Relaxed);
    let stopped = packer.run(&task, changes.into_iter(), 0, &progress);
    assert!(matches!(stopped, Err(PackError::Interrupted)), "{stopped:?}");
}
