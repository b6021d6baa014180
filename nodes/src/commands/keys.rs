//! `key`: the owner's keys. No sector is touched by any of these.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;
use zoneward_actors::init::{put_owner_key, try_owner_key};
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_sectors::fsx;
use zoneward_sectors::keyfile::{KeyFileError, OwnerKeyFile, Words};
use zoneward_sectors::owner::OwnerKeys;
use zoneward_targets::ObjectName;

use super::make::{kit_for, rsa_size};
use super::open;
use crate::cli::{Global, KeyCommand};
use crate::errors::{Failure, exit};
use crate::kit::file::{refuse_foreign, settle, stage};
use crate::output::Out;
use crate::passphrase;

fn wrong(e: &KeyFileError) -> Failure {
    match e {
        KeyFileError::WrongPassphrase(_) => {
            Failure::new(1107, exit::WRONG_KEY, "this is not the passphrase").help("try again; nothing was changed")
        }
        e => Failure::new(1108, exit::FAILED, "the owner's key file cannot be used")
            .why(e.to_string())
            .help(OTHER_KEY_FILE),
    }
}

const OTHER_KEY_FILE: &str =
    "a target holds one too, as owner-key.json: copied here, it opens at least with the 24 words";

pub(crate) struct Unlocked {
    file: OwnerKeyFile,
    pub keys: OwnerKeys,
    /// What it was opened with, unless that was the 24 words.
    passphrase: Option<Zeroizing<String>>,
}

impl Unlocked {
    /// The passphrase, to seal the keys anew under it.
    fn passphrase(&self) -> Result<&str, Failure> {
        self.passphrase.as_ref().map(|p| p.as_str()).ok_or_else(|| {
            Failure::new(1107, exit::WRONG_KEY, "this needs the passphrase, not the 24 words")
                .help("if it is forgotten, set a new one with the words: zoneward key passphrase")
        })
    }
}

/// Opens the owner's keys with the passphrase, or with the 24 words in its place.
pub(crate) fn unlock(g: &Global, zone: &Zone) -> Result<Unlocked, Failure> {
    let path = zone.home.owner_key();
    let bytes = fsx::read_limited(&path, 1 << 16).map_err(|e| {
        Failure::new(1108, exit::FAILED, format!("{} cannot be read", path.display()))
            .why(e.to_string())
            .help(OTHER_KEY_FILE)
    })?;
    let file = OwnerKeyFile::from_bytes(&bytes).map_err(|e| wrong(&e))?;
    let passphrase = passphrase::get(g.passphrase_file.as_deref(), "ZONEWARD_PASSPHRASE", "passphrase")?;
    let (keys, passphrase) = match Words::parse(&passphrase) {
        Ok(words) => match file.open_with_words(&words) {
            Ok(keys) => (keys, None),
            // Somebody's passphrase may look like words.
            Err(_) => (file.open_with_passphrase(&passphrase).map_err(|e| wrong(&e))?, Some(passphrase)),
        },
        Err(_) => (file.open_with_passphrase(&passphrase).map_err(|e| wrong(&e))?, Some(passphrase)),
    };
    if keys.public().sign_public() != zone.owner().sign_public() {
        return Err(Failure::new(1109, exit::REFUSED, "the owner's key file belongs to another zone"));
    }
    Ok(Unlocked { file, keys, passphrase })
}

/// Whether targets hold the passphrase's seal too, as the owner chose at the beginning.
fn passphrase_on_targets(zone: &Zone) -> bool {
    zone.targets().iter().any(|(id, t)| {
        let bytes = t.get_object(zone.keys().alias(*id), ObjectName::OwnerKey, 1 << 16).unwrap_or_default();
        OwnerKeyFile::from_bytes(&bytes).is_ok_and(|f| f.has_passphrase())
    })
}

/// Writes a new key file: at home first, then on the targets.
fn replace(zone: &mut Zone, file: &OwnerKeyFile) -> Result<(), Failure> {
    let with_passphrase = passphrase_on_targets(zone);
    let path = zone.home.owner_key();
    // First the zone hears that the old one is old: whatever happens, no node puts it back.
    let before = fsx::read_limited(&path, 1 << 16).unwrap_or_default();
    zone.propose(zoneward_actors::keyfile::replaced(&before, &file.to_bytes())).map_err(|e| {
        if e.is_refusal() {
            return Failure::new(1119, exit::REFUSED, "the owner's keys were changed on another node just now")
                .why("what that one made counts, and this node may not have it yet")
                .help("nothing was changed, and no new kit is of use: wait some seconds, look at the other node, then run it again");
        }
        Failure::from(e)
    })?;
    fsx::write_durably(&path, &file.to_bytes(), 0o600).map_err(|e| {
        Failure::new(1110, exit::FAILED, format!("{} cannot be written; the old one is still there", path.display()))
            .why(e.to_string())
    })?;
    put_owner_key(zone, file, with_passphrase).map_err(|e| {
        Failure::from(e).help(
            "the keys are changed here, and a target still holds the old ones: keep the old kit and passphrase until the \
             next backup has put the new ones there (zoneward check names the target)",
        )
    })
}

fn kit_path(zone: &Zone, kit: Option<&Path>) -> std::path::PathBuf {
    kit.map_or_else(|| zone.home.recovery_kit(), Path::to_owned)
}

fn tell_kit(out: Out, zone: &Zone, kit: &Path) {
    let fingerprint = zone.state().zone.as_ref().map(|z| z.owner_fingerprint);
    out.json(&serde_json::json!({"schema": "zoneward.key/1", "recovery_kit": crate::units::shown(kit), "owner_fingerprint": fingerprint}));
    out.say(format!("The new recovery kit is in {}", kit.display()));
    out.say(
        "Print it, store it outside this zone, delete the file. Older kits no longer open this zone: destroy them.",
    );
}

pub fn key(g: &Global, out: Out, command: KeyCommand) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    if let Some(u) = zone.unreachable().first() {
        // A target that keeps the old key file would open with the old words alone: say so before anything changes.
        return Err(Failure::new(1302, exit::TARGET, format!("target {} cannot be reached", u.name))
            .why(crate::errors::chain(&u.error))
            .help("keys are changed on all targets at once: bring it back and try again"));
    }
    // Of two changes at once, the second would print a kit for keys that the first replaces.
    let _one = zone.home.lock_keys()?;
    settle(&zone.home, true)?;
    let kit = match &command {
        KeyCommand::ShowRecovery { kit } | KeyCommand::Rotate { kit, .. } => kit_path(&zone, kit.as_deref()),
        KeyCommand::Passphrase { .. } => zone.home.recovery_kit(),
    };
    if !matches!(command, KeyCommand::Passphrase { .. }) {
        refuse_foreign(&kit, zone.state().zone.as_ref().map(|z| z.id))?;
    }
    let mut u = unlock(g, &zone)?;
    try_owner_key(&zone).map_err(|e| {
        Failure::from(e).help("nothing was changed: keys are changed on all targets at once; mend it and try again")
    })?;
    match command {
        KeyCommand::ShowRecovery { .. } => {
            let words = Words::generate();
            let file = OwnerKeyFile::seal(&u.keys, &words, Some(u.passphrase()?)).map_err(|e| wrong(&e))?;
            replace_with_kit(&mut zone, &words, &kit, &file)?;
            tell_kit(out, &zone, &kit);
        }
        KeyCommand::Passphrase { new_passphrase_file } => {
            let new = passphrase::get_new(new_passphrase_file.as_deref(), "ZONEWARD_NEW_PASSPHRASE", "new passphrase")?;
            u.file.set_passphrase(&u.keys, &new).map_err(|e| wrong(&e))?;
            replace(&mut zone, &u.file)?;
            out.json(&serde_json::json!({"schema": "zoneward.key/1", "passphrase_changed": true}));
            out.say("the passphrase is changed; the 24 words stay as they are");
        }
        KeyCommand::Rotate { rsa_bits, .. } => {
            let passphrase = Zeroizing::new(u.passphrase()?.to_owned());
            u.keys
                .rotate(rsa_size(&rsa_bits))
                .map_err(|e| Failure::new(1111, exit::FAILED, "no new key could be made").why(e.to_string()))?;
            let words = Words::generate();
            let file = OwnerKeyFile::seal(&u.keys, &words, Some(&passphrase)).map_err(|e| wrong(&e))?;
            // The file that opens old and new sectors is everywhere before the first sector needs the new key.
            write_rotated_kit(&mut zone, &u.keys, &words, &kit, &file)?;
            tell_kit(out, &zone, &kit);
            let old = zone.state().copies.values().filter(|c| !c.is_open()).count();
            out.say(format!("{old} stored copies still open with the key before; the new kit holds both"));
        }
    }
    Ok(0)
}

/// Writes a new key file, and the kit whose words open it. The kit is there first: words that nobody has seen must never
/// be the only ones.
fn replace_with_kit(zone: &mut Zone, words: &Words, kit: &Path, file: &OwnerKeyFile) -> Result<(), Failure> {
    stage(&zone.home, kit_for(zone, words, kit)?.as_bytes(), kit, &file.to_bytes())?;
    let replaced = replace(zone, file);
    // Where a target still holds the old keys, the old kit is still needed.
    settle(&zone.home, replaced.is_err())?;
    replaced
}

fn write_rotated_kit(
    zone: &mut Zone,
    keys: &OwnerKeys,
    words: &Words,
    kit: &Path,
    file: &OwnerKeyFile,
) -> Result<(), Failure> {
    let public = STANDARD.encode(keys.public().rsa_spki_der());
    replace_with_kit(zone, words, kit, file)?;
    zone.propose(Command::SetOwnerKey { fingerprint: keys.public().fingerprint(), public })?;
    // Once more, now with the new fingerprint on it.
    stage(&zone.home, kit_for(zone, words, kit)?.as_bytes(), kit, &file.to_bytes())?;
    settle(&zone.home, false).map(drop)
}
