use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use proptest::prelude::*;
use redb::StorageBackend;
use zoneward_sectors::ids::Digest;

use super::*;
use crate::samples::{self as s, hash};

/// A disk that remembers what was not synced, and fails when it is told to.
#[derive(Debug, Default)]
struct Disk {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// What a power cut could have left at each sync since they were last taken.
    images: Vec<Vec<u8>>,
    record: bool,
    calls: u64,
    fail_at: Option<u64>,
    dice: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

impl Change {
    fn make(&self, on: &mut Vec<u8>) {
        match self {
            Change::Len(n) => on.resize(*n, 0),
            Change::Write(at, bytes) => {
                if on.len() < at + bytes.len() {
                    on.resize(at + bytes.len(), 0);
                }
                on[*at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

impl Disk {
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        if self.fail_at == Some(self.calls) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    /// A number below `n`; the same ones in each run.
    fn roll(&mut self, n: usize) -> usize {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) as usize % n.max(1)
    }

    /// Only what was synced; each prefix of the rest in order; some of it in any choice, one write torn.
    fn take_images(&mut self) {
        self.images.push(self.durable.clone());
        let pending = self.pending.clone();
        let mut prefix = self.durable.clone();
        let torn = self.roll(pending.len());
        for (i, change) in pending.iter().enumerate() {
            if i == torn
                && let Change::Write(at, bytes) = change
            {
                let mut image = prefix.clone();
                let cut = self.roll(bytes.len() / 512 + 1) * 512;
                Change::Write(*at, bytes[..cut].to_vec()).make(&mut image);
                self.images.push(image);
            }
            change.make(&mut prefix);
            self.images.push(prefix.clone());
        }
        for _ in 0..2 {
            let mut image = self.durable.clone();
            for change in &pending {
                // The file system keeps lengths in order with what needs them; writes come in any choice.
                if matches!(change, Change::Len(_)) || self.roll(2) == 0 {
                    change.make(&mut image);
                }
            }
            self.images.push(image);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Trial(Arc<Mutex<Disk>>);

impl Trial {
    fn of(bytes: Vec<u8>) -> Self {
        let disk = Disk { live: bytes.clone(), durable: bytes, ..Disk::default() };
        Self(Arc::new(Mutex::new(disk)))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut d = self.disk();
        d.call()?;
        change.make(&mut d.live);
        d.pending.push(change);
        Ok(())
    }
}

impl StorageBackend for Trial {
    fn len(&self) -> io::Result<u64> {
        let mut d = self.disk();
        d.call()?;
        Ok(d.live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut d = self.disk();
        d.call()?;
        let at = offset as usize;
        let bytes = d.live.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut d = self.disk();
        d.call()?;
        if d.record {
            d.take_images();
        }
        d.durable = d.live.clone();
        d.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset as usize, data.to_vec()))
    }
}

fn propose(store: &mut Store, command: &Command) -> Result<Outcome, StoreError> {
    let now = 1000 + store.state().revision;
    store.propose(now, s::node(), command.clone())
}

/// What a disk's bytes open as. Log and records must be of one moment.
fn reopened(image: Vec<u8>) -> Digest {
    let store = Store::open_on(Trial::of(image)).unwrap();
    let read = store.db.begin_read().unwrap();
    let logged = match read.open_table(LOG) {
        Ok(log) => log.last().unwrap().map_or(0, |(index, _)| index.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => 0,
        Err(e) => panic!("{e}"),
    };
    assert_eq!(logged, store.state().revision, "the log and the records are of different moments");
    hash(store.state())
}

#[test]
fn a_store_opens_again_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zone.redb");
    let mut store = Store::create(&path).unwrap();
    for command in s::story() {
        assert_eq!(propose(&mut store, &command).unwrap(), Outcome::Done);
    }
    let state = store.state().clone();
    drop(store);
    let mut store = Store::open(&path).unwrap();
    assert_eq!(store.state(), &state);
    // A refusal is an error that leaves state and disk as they were.
    assert!(matches!(propose(&mut store, &s::create_zone()), Err(StoreError::Refused(Refusal::ZoneExists))));
    assert_eq!(store.state(), &state);
    drop(store);
    assert_eq!(Store::open(&path).unwrap().state(), &state);
}

#[test]
fn missing_existing_busy_and_foreign_files_are_different_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zone.redb");
    assert!(matches!(Store::open(&path), Err(StoreError::Open { .. })));
    assert!(!path.exists(), "opening makes no file");
    let store = Store::create(&path).unwrap();
    assert!(matches!(Store::create(&path), Err(StoreError::Open { .. })));
    assert!(matches!(Store::open(&path), Err(StoreError::Busy)));
    drop(store);
    drop(Store::open(&path).unwrap());
    for foreign in [vec![7u8; 100], vec![0u8; 1 << 16], b"hello".to_vec()] {
        std::fs::write(&path, &foreign).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Damaged(_))), "{} bytes", foreign.len());
    }
}

#[test]
fn other_users_cannot_read_the_state() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zone.redb");
    drop(Store::create(&path).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A disk with the story on it, changed by hand.
fn tampered(change: impl FnOnce(&redb::WriteTransaction)) -> Result<Store, StoreError> {
    let disk = Trial::default();
    let mut store = Store::open_on(disk.clone()).unwrap();
    for command in s::story() {
        propose(&mut store, &command).unwrap();
    }
    let tx = store.db.begin_write().unwrap();
    change(&tx);
    tx.commit().unwrap();
    drop(store);
    let bytes = disk.disk().live.clone();
    Store::open_on(Trial::of(bytes))
}

#[test]
fn what_a_newer_release_wrote_is_refused() {
    let schema = tampered(|tx| drop(tx.open_table(META).unwrap().insert("schema", SCHEMA + 1).unwrap()));
    assert!(matches!(schema, Err(StoreError::Newer(n)) if n == SCHEMA + 1));
    let level = tampered(|tx| {
        let mut zone = s::state().zone.unwrap();
        zone.feature_level = LEVEL + 1;
        let json = serde_json::to_vec(&zone).unwrap();
        drop(tx.open_table(ROWS).unwrap().insert("zone", &json[..]).unwrap());
    });
    assert!(matches!(level, Err(StoreError::Newer(_))));
}

#[test]
fn rows_that_make_no_sense_are_damage() {
    let id = s::copy(1);
    let rows: Vec<(String, Vec<u8>)> = vec![
        (format!("copy/{id}"), b"{".to_vec()),
        (format!("copy/{id}"), serde_json::to_vec(&s::state().copies[&s::copy(2)]).unwrap()),
        ("copy/x".into(), serde_json::to_vec(&s::state().copies[&id]).unwrap()),
        ("wheel/1".into(), b"{}".to_vec()),
    ];
    for (key, value) in rows {
        let store = tampered(|tx| drop(tx.open_table(ROWS).unwrap().insert(&key[..], &value[..]).unwrap()));
        assert!(matches!(store, Err(StoreError::Damaged(_))), "{key}");
    }
}

/// Opening bytes that rotted or were cut is an error of this store, never the end of the process. What redb does not
/// notice while opening it may still assert on later, so only opening is promised.
#[test]
fn opening_changed_or_cut_files_does_not_panic() {
    let disk = Trial::default();
    let mut store = Store::open_on(disk.clone()).unwrap();
    for command in s::story() {
        propose(&mut store, &command).unwrap();
    }
    drop(store);
    let bytes = disk.disk().live.clone();
    let mut damaged = 0;
    for at in (0..bytes.len()).step_by(37).filter(|at| bytes[*at] != 0) {
        let mut image = bytes.clone();
        image[at] ^= 0x10;
        match Store::open_on(Trial::of(image)) {
            Ok(store) => drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(store)))),
            Err(StoreError::Damaged(_)) => damaged += 1,
            Err(e) => panic!("byte {at}: {e:?}"),
        }
    }
    assert!(damaged > 50, "{damaged}");
    for cut in (1..bytes.len()).step_by(4096) {
        let opened = Store::open_on(Trial::of(bytes[..cut].to_vec()));
        assert!(matches!(opened, Err(StoreError::Damaged(_))), "cut at {cut}: {opened:?}");
    }
}

#[test]
fn the_log_holds_what_was_applied_and_is_trimmed() {
    let mut store = Store::open_on(Trial::default()).unwrap();
    propose(&mut store, &s::create_zone()).unwrap();
    // As if most of the log had been written: one entry in, one out.
    store.state.revision = LOG_KEPT;
    for _ in 0..3 {
        propose(&mut store, &Command::Verified { copies: Vec::new(), read: false }).unwrap();
    }
    let read = store.db.begin_read().unwrap();
    let log = read.open_table(LOG).unwrap();
    let kept: Vec<u64> = log.iter().unwrap().map(|e| e.unwrap().0.value()).collect();
    assert_eq!(kept, [LOG_KEPT + 1, LOG_KEPT + 2, LOG_KEPT + 3], "entry 1 is gone");
    let entry: Entry = serde_json::from_slice(log.get(LOG_KEPT + 2).unwrap().unwrap().value()).unwrap();
    assert_eq!(entry.command().unwrap(), Command::Verified { copies: Vec::new(), read: false });
}

/// At every sync of the story the power is cut in several ways: what opens again is the state of the last acknowledged
/// command, or of the one that was under way.
#[test]
fn every_crash_image_opens_as_the_state_before_or_after_the_command_under_way() {
    let disk = Trial::default();
    let mut store = Store::open_on(disk.clone()).unwrap();
    disk.disk().record = true;
    let (mut images, mut olds, mut news) = (0, 0, 0);
    for command in s::story() {
        let before = hash(store.state());
        propose(&mut store, &command).unwrap();
        let after = hash(store.state());
        let taken = std::mem::take(&mut disk.disk().images);
        assert!(!taken.is_empty(), "{command:?} was acknowledged without a sync");
        for image in taken {
            let found = reopened(image);
            assert!(found == before || found == after, "{command:?} left a third state");
            images += 1;
            olds += u32::from(found == before);
            news += u32::from(found == after);
        }
        let durable = disk.disk().durable.clone();
        assert_eq!(reopened(durable), after, "{command:?} was acknowledged and is not durable");
    }
    assert!(images >= 200 && olds > 0 && news > 0, "{images} images, {olds} before, {news} after");
}

/// Fails the first call, then the second, and so on, until the run ends without meeting the failure.
#[test]
fn a_failed_call_poisons_the_store_and_loses_nothing_that_was_acknowledged() {
    let story: Vec<Command> = s::story().into_iter().take(12).collect();
    let (mut failed_open, mut failed_write) = (0, 0);
    for n in 1.. {
        let disk = Trial::default();
        disk.disk().fail_at = Some(n);
        let mut store = match Store::open_on(disk.clone()) {
            Ok(store) => store,
            Err(e) => {
                assert!(matches!(e, StoreError::Read(_)), "call {n}: {e:?}");
                failed_open += 1;
                continue;
            }
        };
        let mut failed = false;
        for command in &story {
            let before = hash(store.state());
            if let Err(e) = propose(&mut store, command) {
                assert!(matches!(e, StoreError::Write(_)), "call {n}: {e:?}");
                let again = propose(&mut store, command);
                assert!(matches!(again, Err(StoreError::Poisoned)), "call {n}: {again:?}");
                let mut whole = State::default();
                for c in &story[..=story.iter().position(|c| c == command).unwrap()] {
                    let index = whole.revision + 1;
                    let time = 1000 + whole.revision;
                    apply(&mut whole, index, time, s::node(), c);
                }
                let images = {
                    let d = disk.disk();
                    [d.live.clone(), d.durable.clone()]
                };
                for image in images {
                    let found = reopened(image);
                    assert!(found == before || found == hash(&whole), "call {n}: {command:?} left a third state");
                }
                (failed, failed_write) = (true, failed_write + 1);
                break;
            }
        }
        if !failed && disk.disk().calls < n {
            break;
        }
    }
    assert!(failed_open > 5 && failed_write > 12, "{failed_open} while opening, {failed_write} while writing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The rows that `apply` reports are all that changed: a store made of them alone is the whole state.
    #[test]
    fn touched_rows_are_the_whole_state(story in s::any_story()) {
        let mut state = State::default();
        let mut table: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for command in &story {
            let index = state.revision + 1;
            let (_, rows) = apply(&mut state, index, 1000, s::node(), command);
            for row in rows {
                match rows::value(&state, &row).unwrap() {
                    Some(v) => table.insert(rows::key(&row), v),
                    None => table.remove(&rows::key(&row)),
                };
            }
        }
        let mut loaded = State {
            revision: state.revision,
            next_seq: state.next_seq,
            last_time_ms: state.last_time_ms,
            ..State::default()
        };
        for (key, value) in &table {
            prop_assert_eq!(rows::load(&mut loaded, key, value), Ok(()));
        }
        prop_assert_eq!(hash(&loaded), hash(&state));
    }
}
