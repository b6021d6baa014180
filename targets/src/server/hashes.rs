//! Hashes of what was received, so that the server finds its own damage without any key.
//!
//! A sector is hashed as its bytes arrive, 1 MiB at a time (BLAKE3); the hashes lie in `server/zones/<alias>/hashes/<copy>`, 32 bytes
//! each, written before the sector is sealed: a sealed sector always has them.

use std::path::{Path, PathBuf};

use zoneward_sectors::fsx;
use zoneward_sectors::ids::{CopyId, ZoneAlias};

use crate::errors::TargetError;
use crate::limits::{HASHES_LEN_MAX, LEAF_LEN};
use crate::target::SectorReader;

/// Hashes bytes in the order of their arrival.
pub(crate) struct Leaves {
    /// The first leaf that is hashed here; those before arrived at another time.
    first: u64,
    done: Vec<[u8; 32]>,
    open: blake3::Hasher,
    in_open: usize,
}

impl Leaves {
    /// Goes on at the leaf that holds `offset`; the bytes of it before `offset` must be added first.
    pub fn from(offset: u64) -> Self {
        Self { first: offset / LEAF_LEN as u64, done: Vec::new(), open: blake3::Hasher::new(), in_open: 0 }
    }

    /// The offset at which hashing began.
    pub fn start(&self) -> u64 {
        self.first * LEAF_LEN as u64
    }

    pub fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(LEAF_LEN - self.in_open));
            self.open.update(now);
            self.in_open += now.len();
            if self.in_open == LEAF_LEN {
                self.close();
            }
            bytes = rest;
        }
    }

    fn close(&mut self) {
        self.done.push(*self.open.finalize().as_bytes());
        self.open.reset();
        self.in_open = 0;
    }

    /// All hashes, one after another.
    pub fn finish(mut self) -> Vec<u8> {
        if self.in_open > 0 {
            self.close();
        }
        self.done.concat()
    }
}

/// Where a sector's hashes lie.
pub(crate) fn path(own: &Path, alias: ZoneAlias, copy: CopyId) -> PathBuf {
    own.join("zones").join(alias.to_string()).join("hashes").join(copy.to_string())
}

/// Keeps a sector's hashes, durably.
pub(crate) fn save(own: &Path, alias: ZoneAlias, copy: CopyId, hashes: &[u8]) -> std::io::Result<()> {
    let path = path(own, alias, copy);
    fsx::create_dir_all(path.parent().unwrap_or(own), 0o700)?;
    fsx::write_durably(&path, hashes, 0o600)
}

/// How a sector compares with its hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Whole,
    Damaged,
    /// It has no hashes: it came another way than through this server.
    Unknown,
}

/// Reads a sealed sector whole, `pace` being told of each piece, and compares.
pub(crate) fn check(
    own: &Path,
    alias: ZoneAlias,
    copy: CopyId,
    reader: &dyn SectorReader,
    pace: &mut dyn FnMut(usize),
) -> Result<Health, TargetError> {
    let path = path(own, alias, copy);
    let hashes = match fsx::read_limited(&path, HASHES_LEN_MAX) {
        Ok(hashes) => hashes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Health::Unknown),
        Err(_) => return Ok(Health::Damaged),
    };
    let len = reader.len();
    if hashes.len() as u64 != 32 * len.div_ceil(LEAF_LEN as u64) {
        return Ok(Health::Damaged);
    }
    let mut buf = vec![0u8; LEAF_LEN];
    for (i, want) in hashes.chunks(32).enumerate() {
        let at = i as u64 * LEAF_LEN as u64;
        let piece = buf.get_mut(..(len - at).min(LEAF_LEN as u64) as usize).unwrap_or_default();
        match reader.read_at(piece, at) {
            Ok(()) => {}
            // Cut, or a disk that cannot read it back: damage, not a failure of the scrub.
            Err(TargetError::Truncated { .. } | TargetError::Io { .. }) => return Ok(Health::Damaged),
            Err(e) => return Err(e),
        }
        if blake3::hash(piece).as_bytes() != want {
            return Ok(Health::Damaged);
        }
        pace(piece.len());
    }
    Ok(Health::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_give_the_hashes_of_the_leaves() {
        let data: Vec<u8> = (0..3 * LEAF_LEN + 5).map(|i| (i * 7 + i / 251) as u8).collect();
        let want: Vec<u8> = data.chunks(LEAF_LEN).flat_map(|l| *blake3::hash(l).as_bytes()).collect();
        for piece in [1 << 10, LEAF_LEN - 1, LEAF_LEN, LEAF_LEN + 1, data.len()] {
            let mut leaves = Leaves::from(0);
            data.chunks(piece).for_each(|p| leaves.add(p));
            assert_eq!(leaves.finish(), want, "{piece}");
        }
        let mut late = Leaves::from(LEAF_LEN as u64 + 9);
        assert_eq!(late.start(), LEAF_LEN as u64);
        late.add(&data[LEAF_LEN..]);
        assert_eq!(late.finish(), want[32..]);
        assert!(Leaves::from(0).finish().is_empty());
    }
}
