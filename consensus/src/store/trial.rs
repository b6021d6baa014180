//! A disk for tests: it remembers what was not synced, and fails when it is told to.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

/// A disk that remembers what was not synced, and fails when it is told to.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) live: Vec<u8>,
    pub(crate) durable: Vec<u8>,
    pending: Vec<Change>,
    /// What a power cut could have left at each sync since they were last taken.
    pub(crate) images: Vec<Vec<u8>>,
    pub(crate) record: bool,
    pub(crate) calls: u64,
    pub(crate) fail_at: Option<u64>,
    dice: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
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
    pub(crate) fn take_images(&mut self) {
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

impl Disk {
    /// What is left after the power went now, in one of the ways in which disks lose it: all or nothing of what was not
    /// synced, a part of it in order with its last write torn, or any choice of it. `roll` gives numbers below its
    /// argument.
    pub(crate) fn cut_power(&mut self, roll: impl Fn(u64) -> u64) -> Vec<u8> {
        let mut image = std::mem::take(&mut self.durable);
        let pending = std::mem::take(&mut self.pending);
        match roll(4) {
            0 => {}
            1 => return self.live.clone(),
            2 => {
                let kept = roll(pending.len() as u64) as usize;
                pending.iter().take(kept).for_each(|change| change.make(&mut image));
                if let Some(Change::Write(at, bytes)) = pending.get(kept) {
                    let cut = roll(bytes.len() as u64 / 512 + 1) as usize * 512;
                    Change::Write(*at, bytes[..cut].to_vec()).make(&mut image);
                }
            }
            _ => {
                for change in &pending {
                    // The file system keeps lengths in order with what needs them; writes come in any choice.
                    if matches!(change, Change::Len(_)) || roll(2) == 0 {
                        change.make(&mut image);
                    }
                }
            }
        }
        image
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Trial(Arc<Mutex<Disk>>);

impl Trial {
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        let disk = Disk { live: bytes.clone(), durable: bytes, ..Disk::default() };
        Self(Arc::new(Mutex::new(disk)))
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
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
        let d = &mut *d;
        d.pending.drain(..).for_each(|change| change.make(&mut d.durable));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset as usize, data.to_vec()))
    }
}
