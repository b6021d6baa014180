//! Where a kit is written, and how it takes the place of the one before: a change of keys that is cut leaves the kit that
//! opens the zone, and never one that does not.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zoneward_actors::home::{Home, real};
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{Digest, ZoneId};

use crate::errors::{Failure, exit};

/// Bytes of a kit at most.
const KIT_LEN_MAX: u64 = 4 << 20;

/// Refuses to write over what is there, unless it is a kit of this zone.
pub fn refuse_foreign(path: &Path, zone: Option<ZoneId>) -> Result<(), Failure> {
    let is_own = |zone: ZoneId| {
        let bytes = fsx::read_limited(path, KIT_LEN_MAX).map(zeroize::Zeroizing::new);
        let held = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        bytes.is_ok_and(|b| held(&b, "Recovery kit") && held(&b, &zone.to_string()))
    };
    let why = match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => e.to_string(),
        Ok(m) if !m.is_file() => "it is no file".to_owned(),
        Ok(_) if zone.is_some_and(is_own) => return Ok(()),
        Ok(_) => "it is there already, and is no recovery kit of this zone".to_owned(),
    };
    Err(Failure::new(1113, exit::REFUSED, format!("the recovery kit is not written over {}", path.display()))
        .why(why)
        .help("name another file with --kit; nothing was changed"))
}

/// A kit that waits for the key file that its words open.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pending {
    /// Bytes of the path that it is to have.
    kit: Vec<u8>,
    /// Hash of the key file.
    key: Digest,
}

/// What became of a kit that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Its keys are the zone's: it is in its place.
    InPlace,
    /// Its keys never came to be: it is gone, and the one before holds.
    Dropped,
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn record(home: &Home) -> PathBuf {
    home.dir().join("kit-pending.json")
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let what = format!("the recovery kit {} cannot be written", path.display());
    move |e| Failure::new(1106, exit::FAILED, what).why(e.to_string()).help("name another file with --kit")
}

/// Writes a kit beside the place that it is to have. [`settle`] puts it there, once the key file is the new one.
pub fn stage(home: &Home, html: &[u8], kit: &Path, key_file: &[u8]) -> Result<(), Failure> {
    let kit = real(kit);
    fsx::write_durably(&beside(&kit, ".new"), html, 0o600).map_err(failed(&kit))?;
    let pending = Pending { kit: kit.as_os_str().as_bytes().to_vec(), key: sha256(&[key_file]) };
    let json = serde_json::to_vec(&pending).map_err(std::io::Error::other).map_err(failed(&kit))?;
    fsx::write_durably(&record(home), &json, 0o600).map_err(failed(&kit))
}

/// Puts a kit that waits into its place if the zone's key file is the one that it is for, else removes it. With
/// `keep_old`, what was there is kept beside it.
pub fn settle(home: &Home, keep_old: bool) -> Result<Option<Settled>, Failure> {
    let record = record(home);
    let Ok(bytes) = fsx::read_limited(&record, 1 << 16) else { return Ok(None) };
    let Ok(pending) = serde_json::from_slice::<Pending>(&bytes) else {
        // Written whole or not at all: somebody else's file is left alone.
        return Ok(None);
    };
    let kit = PathBuf::from(OsString::from_vec(pending.kit));
    let staged = beside(&kit, ".new");
    let valid = fsx::read_limited(&home.owner_key(), 1 << 16).is_ok_and(|b| sha256(&[&b]) == pending.key);
    let done = match (valid, staged.exists()) {
        (true, true) => {
            if keep_old && kit.exists() {
                fsx::rename(&kit, &beside(&kit, ".old")).map_err(failed(&kit))?;
            }
            fsx::rename(&staged, &kit).map_err(failed(&kit))?;
            if let Some(dir) = kit.parent() {
                fsx::sync_dir(dir).map_err(failed(&kit))?;
            }
            Some(Settled::InPlace)
        }
        // Its disk is away: it waits until that is back.
        (true, false) if kit.parent().is_some_and(|dir| !dir.exists()) => return Ok(None),
        // It is in its place.
        (true, false) => None,
        (false, _) => {
            fsx::remove_file(&staged).map_err(failed(&kit))?;
            Some(Settled::Dropped)
        }
    };
    // A cut write leaves words that nobody looks for.
    for left in [fsx::left_beside(&kit), fsx::left_beside(&staged)] {
        fsx::remove_file(&left).map_err(failed(&kit))?;
    }
    fsx::remove_file(&record).map_err(failed(&kit))?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kit_takes_its_place_with_its_keys_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::guest(dir.path());
        let kit = dir.path().join("kit.html");
        let text = || std::fs::read_to_string(&kit).unwrap();
        std::fs::write(&kit, "one").unwrap();
        std::fs::write(home.owner_key(), "key one").unwrap();
        assert_eq!(settle(&home, false).unwrap(), None);
        // Cut before the keys were changed.
        stage(&home, b"two", &kit, b"key two").unwrap();
        assert_eq!(text(), "one");
        assert_eq!(settle(&home, false).unwrap(), Some(Settled::Dropped));
        assert_eq!((text(), settle(&home, false).unwrap()), ("one".into(), None));
        // Cut after that.
        stage(&home, b"two", &kit, b"key two").unwrap();
        std::fs::write(home.owner_key(), "key two").unwrap();
        assert_eq!(settle(&home, false).unwrap(), Some(Settled::InPlace));
        assert_eq!((text(), settle(&home, false).unwrap()), ("two".into(), None));
        stage(&home, b"three", &kit, b"key three").unwrap();
        std::fs::write(home.owner_key(), "key three").unwrap();
        settle(&home, true).unwrap();
        assert_eq!((text(), std::fs::read_to_string(beside(&kit, ".old")).unwrap()), ("three".into(), "two".into()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_kit_on_a_disk_that_is_away_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::guest(dir.path());
        let disk = dir.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        stage(&home, b"new", &disk.join("kit"), b"key").unwrap();
        std::fs::write(home.owner_key(), "key").unwrap();
        std::fs::rename(&disk, dir.path().join("away")).unwrap();
        assert_eq!(settle(&home, false).unwrap(), None);
        std::fs::rename(dir.path().join("away"), &disk).unwrap();
        assert_eq!(settle(&home, false).unwrap(), Some(Settled::InPlace));
        assert_eq!(std::fs::read(disk.join("kit")).unwrap(), b"new");
    }

    #[test]
    fn only_a_kit_of_this_zone_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (path, zone) = (dir.path().join("kit"), ZoneId::random());
        refuse_foreign(&path, None).unwrap();
        std::fs::write(&path, format!("Recovery kit of {zone}")).unwrap();
        refuse_foreign(&path, Some(zone)).unwrap();
        assert!(refuse_foreign(&path, None).is_err() && refuse_foreign(&path, Some(ZoneId::random())).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(refuse_foreign(&link, Some(zone)).is_err());
        assert!(refuse_foreign(Path::new("/dev/null"), Some(zone)).is_err());
        std::fs::write(&path, "my thesis").unwrap();
        assert!(refuse_foreign(&path, Some(zone)).is_err());
    }
}
