//! The chunk index: fingerprint to place. A local cache, made while packing, that can be thrown away at any time.
//!
//! A bounded table in memory takes new chunks; when it is full it becomes a sorted *run* file. A run names the sectors
//! it speaks of; a run that names a sector the zone does not hold is ignored as a whole. Each record carries a checksum,
//! so a damaged run answers "unknown", which costs a chunk stored twice and nothing else.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use crate::catalog::SectorTable;
use crate::fsx;
use crate::ids::SectorId;

/// Chunks kept in memory before they become a run: about 40 MiB.
const MEMORY_MAX: usize = 400_000;
/// Runs before they are merged into one.
const RUNS_MAX: usize = 8;
const RECORD: usize = 56;
const MAGIC: &[u8; 8] = b"ZWRUN\x01\0\0";

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number in the process-wide [`SectorTable`].
    pub sector: u32,
    pub offset: u64,
    pub len: u32,
}

struct Run {
    path: PathBuf,
    file: File,
    /// Number within the run to process-wide number.
    sectors: Vec<u32>,
    records_at: u64,
    records: u64,
}

/// The index, shared by all packing threads.
pub struct ChunkIndex {
    dir: PathBuf,
    table: SectorTable,
    runs: RwLock<Vec<Run>>,
    memory: RwLock<HashMap<[u8; 32], Place>>,
    old: bool,
}

impl std::fmt::Debug for ChunkIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChunkIndex")
    }
}

fn check(record: &[u8]) -> [u8; 8] {
    let mut out = [0u8; 8];
    out.copy_from_slice(&blake3::hash(record).as_bytes()[..8]);
    out
}

fn encode(fp: &[u8; 32], sector: u32, place: &Place) -> [u8; RECORD] {
    let mut r = [0u8; RECORD];
    r[..32].copy_from_slice(fp);
    r[32..36].copy_from_slice(&sector.to_le_bytes());
    r[36..40].copy_from_slice(&place.len.to_le_bytes());
    r[40..48].copy_from_slice(&place.offset.to_le_bytes());
    let c = check(&r[..48]);
    r[48..].copy_from_slice(&c);
    r
}

fn decode(r: &[u8; RECORD]) -> Option<([u8; 32], u32, u32, u64)> {
    if check(&r[..48]) != r[48..] {
        return None;
    }
    let fp = *r.first_chunk::<32>()?;
    let word = |i: usize| r[i..i + 4].try_into().ok().map(u32::from_le_bytes);
    Some((fp, word(32)?, word(36)?, r[40..48].try_into().ok().map(u64::from_le_bytes)?))
}

impl Run {
    fn open(path: &Path, table: &SectorTable, alive: &dyn Fn(SectorId) -> bool) -> io::Result<Option<Self>> {
        let file = fsx::open_read(path)?;
        let len = file.metadata()?.len();
        let mut head = [0u8; 24];
        if len < 24 || fsx::read_full_at(&file, &mut head, 0)? < 24 || &head[..8] != MAGIC {
            return Ok(None);
        }
        let word = |i: usize| u64::from_le_bytes(head[i..i + 8].try_into().unwrap_or_default());
        let (n_sectors, records) = (word(8), word(16));
        let records_at = 24 + n_sectors.saturating_mul(16);
        if n_sectors > 1 << 20
            || Some(len) != records.checked_mul(RECORD as u64).and_then(|n| n.checked_add(records_at))
        {
            return Ok(None);
        }
        let mut ids = vec![0u8; n_sectors as usize * 16];
        fsx::read_exact_at(&file, &mut ids, 24)?;
        let (ids, _) = ids.as_chunks::<16>();
        if ids.iter().any(|id| !alive(SectorId(*id))) {
            return Ok(None);
        }
        let sectors = ids.iter().map(|id| table.number(SectorId(*id))).collect();
        Ok(Some(Self { path: path.to_owned(), file, sectors, records_at, records }))
    }

    fn record(&self, i: u64) -> io::Result<[u8; RECORD]> {
        let mut r = [0u8; RECORD];
        fsx::read_exact_at(&self.file, &mut r, self.records_at + i * RECORD as u64)?;
        Ok(r)
    }

    /// Fingerprints are uniform, so the first guess lands near; then the range is halved as usual.
    fn lookup(&self, fp: &[u8; 32]) -> Option<Place> {
        let (mut lo, mut hi) = (0u64, self.records);
        let key = u64::from_be_bytes(*fp.first_chunk::<8>()?);
        let mut guess = ((u128::from(key) * u128::from(self.records)) >> 64) as u64;
        let mut step = 64u64;
        while lo < hi {
            let mid = guess.clamp(lo, hi - 1);
            let r = self.record(mid).ok()?;
            match r[..32].cmp(&fp[..]) {
                std::cmp::Ordering::Equal => {
                    let (_, k, len, offset) = decode(&r)?;
                    let sector = *self.sectors.get(k as usize)?;
                    return Some(Place { sector, offset, len });
                }
                std::cmp::Ordering::Less => {
                    lo = mid + 1;
                    guess = lo.saturating_add(step).min(lo + (hi - lo) / 2);
                }
                std::cmp::Ordering::Greater => {
                    hi = mid;
                    guess = hi.saturating_sub(step).max(lo + (hi - lo) / 2);
                }
            }
            step = step.saturating_mul(4);
        }
        None
    }
}

impl ChunkIndex {
    /// Opens what is in `dir`. Runs that are damaged, or name sectors that are not `alive`, are removed.
    pub fn open(dir: &Path, table: &SectorTable, alive: &dyn Fn(SectorId) -> bool) -> io::Result<Self> {
        let (mut runs, mut dropped) = (Vec::new(), false);
        for name in fsx::list(dir)? {
            let path = dir.join(name);
            match Run::open(&path, table, alive) {
                Ok(Some(run)) => runs.push(run),
                _ => {
                    dropped = true;
                    fsx::remove_file(&path)?;
                }
            }
        }
        // A run that is dropped for one sector knew of others too.
        let old = !dropped && runs.iter().any(|r| r.records > 0);
        Ok(Self { dir: dir.to_owned(), table: table.clone(), runs: RwLock::new(runs), memory: RwLock::default(), old })
    }

    /// An index that keeps nothing on disk and knows nothing at first.
    pub fn in_memory(table: &SectorTable) -> Self {
        Self {
            dir: PathBuf::new(),
            table: table.clone(),
            runs: RwLock::default(),
            memory: RwLock::default(),
            old: false,
        }
    }

    /// True if it knew chunks when it was opened, and had to forget none.
    pub fn knows_older(&self) -> bool {
        self.old
    }

    /// Where a chunk of this fingerprint and length lies, if it is known.
    pub fn lookup(&self, fp: &[u8; 32], len: u64) -> Option<Place> {
        let memory = self.memory.read().unwrap_or_else(|e| e.into_inner());
        let found = memory.get(fp).copied();
        drop(memory);
        let found = found.or_else(|| {
            let runs = self.runs.read().unwrap_or_else(|e| e.into_inner());
            runs.iter().rev().find_map(|r| r.lookup(fp))
        })?;
        (u64::from(found.len) == len).then_some(found)
    }

    /// Remembers a chunk that was just placed.
    pub fn insert(&self, fp: [u8; 32], place: Place) -> io::Result<()> {
        let mut memory = self.memory.write().unwrap_or_else(|e| e.into_inner());
        memory.insert(fp, place);
        if memory.len() >= MEMORY_MAX && !self.dir.as_os_str().is_empty() {
            let full = std::mem::take(&mut *memory);
            drop(memory);
            self.write_run(full.into_iter().collect())?;
        }
        Ok(())
    }

    fn write_run(&self, mut all: Vec<([u8; 32], Place)>) -> io::Result<()> {
        all.sort_unstable_by_key(|a| a.0);
        let mut numbers = HashMap::new();
        let mut ids = Vec::new();
        for (_, p) in &all {
            numbers.entry(p.sector).or_insert_with(|| {
                ids.push(self.table.id(p.sector).unwrap_or_default());
                ids.len() as u32 - 1
            });
        }
        let name = format!("{}.run", crate::ids::hex(&blake3::hash(&encode_key(&all)).as_bytes()[..12]));
        let path = self.dir.join(name);
        fsx::remove_file(&path)?;
        let file = fsx::create_new(&path, 0o600)?;
        fsx::gate(fsx::Call::Write)?;
        let mut w = BufWriter::with_capacity(1 << 16, &file);
        w.write_all(MAGIC)?;
        w.write_all(&(ids.len() as u64).to_le_bytes())?;
        w.write_all(&(all.len() as u64).to_le_bytes())?;
        for id in &ids {
            w.write_all(&id.0)?;
        }
        for (fp, p) in &all {
            w.write_all(&encode(fp, numbers.get(&p.sector).copied().unwrap_or(0), p))?;
        }
        w.flush()?;
        drop(w);
        let run = Run {
            path,
            records_at: 24 + 16 * ids.len() as u64,
            records: all.len() as u64,
            sectors: ids.iter().map(|id| self.table.number(*id)).collect(),
            file,
        };
        self.runs.write().unwrap_or_else(|e| e.into_inner()).push(run);
        Ok(())
    }

    /// Writes what is in memory as a run, and merges runs when there are many. Call it once the sectors are sealed.
    pub fn commit(&self) -> io::Result<()> {
        let memory = std::mem::take(&mut *self.memory.write().unwrap_or_else(|e| e.into_inner()));
        if !memory.is_empty() {
            self.write_run(memory.into_iter().collect())?;
        }
        let mut runs = self.runs.write().unwrap_or_else(|e| e.into_inner());
        if runs.len() > RUNS_MAX && runs.iter().map(|r| r.records).sum::<u64>() <= 2 * MEMORY_MAX as u64 {
            let old = std::mem::take(&mut *runs);
            drop(runs);
            let mut all = HashMap::new();
            for run in &old {
                for i in 0..run.records {
                    if let Some((fp, k, len, offset)) = decode(&run.record(i)?)
                        && let Some(sector) = run.sectors.get(k as usize)
                    {
                        all.insert(fp, Place { sector: *sector, offset, len });
                    }
                }
            }
            self.write_run(all.into_iter().collect())?;
            for run in old {
                fsx::remove_file(&run.path)?;
            }
        }
        Ok(())
    }
}

fn encode_key(all: &[([u8; 32], Place)]) -> Vec<u8> {
    let mut key = (all.len() as u64).to_le_bytes().to_vec();
    for (fp, p) in all.iter().take(64) {
        key.extend_from_slice(fp);
        key.extend_from_slice(&p.offset.to_le_bytes());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fp(i: u32) -> [u8; 32] {
        *blake3::hash(&i.to_le_bytes()).as_bytes()
    }

    #[test]
    fn runs_are_found_again_and_bad_ones_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let table = SectorTable::default();
        let id = SectorId([5; 16]);
        let sector = table.number(id);
        let index = ChunkIndex::open(dir.path(), &table, &|_| true).unwrap();
        let place = |i: u32| Place { sector, offset: u64::from(i) * 10, len: 10 };
        for round in 0..12u32 {
            for i in 0..500 {
                index.insert(fp(round * 500 + i), place(round * 500 + i)).unwrap();
            }
            index.commit().unwrap();
        }
        for open in 0..2 {
            let other = SectorTable::default();
            other.number(SectorId([6; 16]));
            let again =
                if open == 0 { None } else { Some(ChunkIndex::open(dir.path(), &other, &|s| s == id).unwrap()) };
            let (ix, number) = again.as_ref().map_or((&index, sector), |a| (a, 1));
            for i in 0..6000 {
                assert_eq!(ix.lookup(&fp(i), 10), Some(Place { sector: number, ..place(i) }), "{i}");
            }
            assert_eq!(ix.lookup(&fp(7000), 10), None);
            assert_eq!(ix.lookup(&fp(7), 11), None);
        }
        assert!(fsx::list(dir.path()).unwrap().len() <= RUNS_MAX + 1);
        let one = dir.path().join(&fsx::list(dir.path()).unwrap()[0]);
        let mut bytes = std::fs::read(&one).unwrap();
        let at = bytes.len() - 500 * RECORD + 45;
        bytes[at] ^= 1; // an offset inside a record
        std::fs::write(&one, &bytes).unwrap();
        let damaged = ChunkIndex::open(dir.path(), &table, &|_| true).unwrap();
        for i in 0..6000 {
            let got = damaged.lookup(&fp(i), 10);
            assert!(got.is_none() || got == Some(place(i)));
        }
        bytes.truncate(bytes.len() - 1);
        std::fs::write(&one, &bytes).unwrap();
        ChunkIndex::open(dir.path(), &table, &|_| true).unwrap();
        assert!(!one.exists());
        let none = ChunkIndex::open(dir.path(), &table, &|_| false).unwrap();
        assert!(!none.knows_older() && fsx::list(dir.path()).unwrap().is_empty());
    }
}
