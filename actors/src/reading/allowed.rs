//! Which commands this node may run. The zone's state names them, and whoever may change the state is not by that one who
//! may run programs here: each node keeps a list of what was allowed on it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use zoneward_consensus::reading::Reading;
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::SourceId;

use crate::home::{HomeError, io_at};

/// Bytes of the list.
const LIST_LEN_MAX: u64 = 1 << 20;
/// Commands in it; the oldest are not known, so a full list is an error.
const COMMANDS_MAX: usize = 4096;

fn list(home: &Path) -> PathBuf {
    home.join("allowed-commands")
}

fn read(home: &Path) -> Result<BTreeSet<String>, HomeError> {
    let path = list(home);
    match fsx::read_limited(&path, LIST_LEN_MAX) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        read => {
            let text = String::from_utf8_lossy(&read.map_err(io_at("read", &path))?).into_owned();
            Ok(text.lines().map(str::to_owned).collect())
        }
    }
}

/// A command of one source, for one purpose, as a line of the list.
fn line(source: SourceId, what: &str, command: &str) -> String {
    sha256(&[&source.0, what.as_bytes(), b"\0", command.as_bytes()]).to_string()
}

/// Lets this node run the commands of a source as they are now.
pub fn allow(home: &Path, source: SourceId, reading: &Reading) -> Result<(), HomeError> {
    let mut all = read(home)?;
    let before = all.len();
    all.extend(reading.commands().map(|(what, c)| line(source, what, c)));
    if all.len() == before {
        return Ok(());
    }
    let path = list(home);
    if all.len() > COMMANDS_MAX {
        let why = io::Error::other(format!("it names {COMMANDS_MAX} commands already: remove it and allow them anew"));
        return Err(io_at("write", &path)(why));
    }
    let text: String = all.into_iter().map(|l| l + "\n").collect();
    fsx::write_durably(&path, text.as_bytes(), 0o600).map_err(io_at("write", &path))
}

/// The first command of a source that this node may not run.
pub fn first_not_allowed(home: &Path, source: SourceId, reading: &Reading) -> Result<Option<&'static str>, HomeError> {
    if reading.commands().next().is_none() {
        return Ok(None);
    }
    let all = read(home)?;
    Ok(reading.commands().find(|(what, c)| !all.contains(&line(source, what, c))).map(|(what, _)| what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_command_of_the_very_source_is_allowed() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        let (one, two) = (SourceId([1; 16]), SourceId([2; 16]));
        let set = Reading { before: Some("stop db".into()), ..Reading::default() };
        assert_eq!(first_not_allowed(home, one, &Reading::default()).unwrap(), None);
        assert_eq!(first_not_allowed(home, one, &set).unwrap(), Some("before"));
        allow(home, one, &set).unwrap();
        assert_eq!(first_not_allowed(home, one, &set).unwrap(), None);
        assert_eq!(first_not_allowed(home, two, &set).unwrap(), Some("before"));
        let more = Reading { after: Some("stop db".into()), ..set.clone() };
        assert_eq!(first_not_allowed(home, one, &more).unwrap(), Some("after"));
        let other = Reading { before: Some("stop db; rm -r /".into()), ..Reading::default() };
        assert_eq!(first_not_allowed(home, one, &other).unwrap(), Some("before"));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(list(home)).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_file(list(home)).unwrap();
        std::fs::create_dir(list(home)).unwrap();
        assert!(first_not_allowed(home, one, &set).is_err(), "what cannot be read allows nothing");
    }
}
