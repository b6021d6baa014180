//! Whether there is room for what is brought back beside what is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::{stat, statvfs};
use zoneward_sectors::entry::{Entry, Extent, Kind};

use super::RollbackError;
use super::swap::failed;

/// What files and directories take on disk comes in pieces of this size, about.
const PIECE: u64 = 4096;

/// What something takes of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub bytes: u64,
    pub entries: u64,
}

impl Needs {
    pub fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.entries = self.entries.saturating_add(other.entries);
    }

    /// Of one entry. Holes take nothing, nor do further names.
    pub fn of(entry: &Entry) -> Self {
        let data = |x: &Extent| if matches!(x, Extent::Data { .. }) { x.len() } else { 0 };
        match entry.meta.kind {
            Kind::HardLink => Self::default(),
            Kind::File => {
                let content: u64 = entry.extents.iter().map(data).fold(0, u64::saturating_add);
                Self { bytes: content.div_ceil(PIECE).saturating_mul(PIECE), entries: 1 }
            }
            _ => Self { bytes: PIECE, entries: 1 },
        }
    }
}

/// A file system that has not enough room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// A source that lies on it.
    pub place: PathBuf,
    pub needs: Needs,
    pub free: Needs,
}

/// Whether so much is free. A hundredth is left for what the file system keeps for itself.
pub(super) fn fits(needs: Needs, free: Needs) -> bool {
    needs.bytes.saturating_add(needs.bytes / 100) <= free.bytes && needs.entries <= free.entries
}

/// What is free where a directory lies, for who runs this.
fn free(dir: &Path) -> Result<Needs, RollbackError> {
    let s = statvfs(dir).map_err(failed("ask for the room at", dir))?;
    // Some file systems make names as they need them, and say 0.
    let entries = if s.f_files == 0 { u64::MAX } else { s.f_favail };
    Ok(Needs { bytes: s.f_bavail.saturating_mul(s.f_frsize), entries })
}

/// File systems that have not enough room for what goes to these directories, all together.
pub(super) fn short(all: &[(PathBuf, Needs)]) -> Result<Vec<Short>, RollbackError> {
    let mut systems: BTreeMap<u64, (PathBuf, Needs)> = BTreeMap::new();
    for (dir, needs) in all {
        let device = stat(dir).map_err(failed("look at", dir))?.st_dev;
        systems.entry(device).or_insert_with(|| (dir.clone(), Needs::default())).1.add(*needs);
    }
    let mut out = Vec::new();
    for (place, needs) in systems.into_values() {
        let free = free(&place)?;
        if !fits(needs, free) {
            out.push(Short { place, needs, free });
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoneward_sectors::entry::{Meta, Stamp};

    fn entry(kind: Kind, extents: Vec<Extent>) -> Entry {
        let size = extents.iter().map(Extent::len).sum();
        let (uid, gid, rdev) = (0, 0, (0, 0));
        let times = Stamp::default();
        let meta = Meta { kind, mode: 0, uid, gid, mtime: times, ctime: times, ino: 1, nlink: 1, size, rdev };
        Entry { path: b"a".to_vec(), meta, xattrs: Vec::new(), link: Vec::new(), extents, unsteady: false }
    }

    #[test]
    fn holes_and_further_names_take_no_room() {
        let data = |len| Extent::Data { sector: 0, offset: 0, len, fingerprint: [0; 32] };
        let file = Needs::of(&entry(Kind::File, vec![data(5000), Extent::Hole(1 << 40), data(1)]));
        assert_eq!(file, Needs { bytes: 8192, entries: 1 });
        assert_eq!(Needs::of(&entry(Kind::HardLink, Vec::new())), Needs::default());
        assert_eq!(Needs::of(&entry(Kind::Dir, Vec::new())), Needs { bytes: PIECE, entries: 1 });
    }

    #[test]
    fn what_does_not_fit_is_known_before_it_is_begun() {
        let n = |bytes, entries| Needs { bytes, entries };
        assert!(fits(n(100, 1), n(101, 1)));
        assert!(!fits(n(100, 1), n(100, 1)), "a hundredth is left");
        assert!(!fits(n(0, 2), n(1 << 40, 1)), "no inode is left");
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        std::fs::create_dir(&sub).unwrap();
        let half = u64::MAX / 2 + 1;
        let all = [(dir.path().to_owned(), n(half, 1)), (sub.clone(), n(half, 1))];
        let short = short(&all).unwrap();
        assert_eq!(short.len(), 1, "both lie on one file system");
        assert_eq!((&short[0].place, short[0].needs), (&all[0].0, n(u64::MAX, 2)));
        assert_eq!(super::short(&[(sub, n(1, 1))]).unwrap(), []);
    }
}
