//! `user`: whose sources are whose, and what each may ask for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zoneward_actors::clock::now_ms;
use zoneward_actors::users::key;
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::State;
use zoneward_consensus::seen;
use zoneward_consensus::users::{Rights, User};
use zoneward_sectors::fsx;
use zoneward_sectors::ids::{SourceId, UserId, ZoneId};

use super::make::{kit_is_apart, rsa_size};
use super::open;
use super::source::find_source;
use crate::cli::{Global, RightsArgs, SetUserArgs, UserArgs, UserCommand, UserKeyArgs};
use crate::errors::{Failure, exit};
use crate::kit::file::refuse_foreign;
use crate::kit::{KitInput, render_html};
use crate::output::Out;
use crate::passphrase;
use crate::units::{bytes, local_time, plural, show_path, shown};

pub fn user(g: &Global, out: Out, command: UserCommand) -> Result<i32, Failure> {
    let said = match command {
        UserCommand::Ls => None,
        UserCommand::Add(a) => Some(add(&mut open(g)?, &a)?),
        UserCommand::Set(a) => Some(set(&mut open(g)?, &a)?),
        UserCommand::Lock { user, undo } => Some(lock(&mut open(g)?, &user, !undo)?),
        UserCommand::Rm { user } => Some(remove(&mut open(g)?, &user)?),
        UserCommand::Key(a) => return make_key(&mut open(g)?, out, &a),
        UserCommand::Export(a) => return super::user_export::export(g, out, &a),
        UserCommand::Import(a) => return super::user_import::import(g, out, &a),
    };
    if let Some(said) = said {
        out.say(said);
        if !out.json {
            return Ok(0);
        }
    }
    list(out, open(g)?.state());
    Ok(0)
}

/// A user by name, id, or the beginning of the id.
pub(super) fn find_user<'s>(state: &'s State, text: &str) -> Result<&'s User, Failure> {
    if let Some(u) = state.users.values().find(|u| u.name == text) {
        return Ok(u);
    }
    let mut fits = state.users.values().filter(|u| text.len() >= 4 && u.id.to_string().starts_with(text));
    match (fits.next(), fits.next()) {
        (Some(u), None) => Ok(u),
        _ => Err(Failure::new(1671, exit::FAILED, format!("no user is called {text:?}"))
            .help("zoneward user ls lists them; zoneward user add NAME makes one")),
    }
}

/// A name is typed in commands and shown in lines: it looks neither like a path nor like an option.
pub(super) fn name_fits(name: &str) -> Result<(), Failure> {
    let plain = |c: char| c.is_alphanumeric() || "-_.@".contains(c);
    if name.chars().all(plain) && name.starts_with(char::is_alphanumeric) && name.len() <= 64 {
        return Ok(());
    }
    Err(Failure::new(1672, exit::USAGE, format!("{name:?} is no name for a user"))
        .help("take letters, digits, and -, _, . or @ after the first; at most 64 bytes"))
}

fn sources_of(state: &State, names: &[OsString]) -> Result<Vec<SourceId>, Failure> {
    names.iter().map(|s| find_source(state, s)).collect()
}

fn rights_with(old: Rights, a: &RightsArgs) -> Rights {
    Rights {
        priority_max: a.max_priority.unwrap_or(old.priority_max),
        copies_max: a.max_copies.unwrap_or(old.copies_max),
        quota_bytes: a.quota.map_or(old.quota_bytes, |q| q.0),
    }
}

/// Says beforehand what the zone would refuse, in the words of who typed it.
fn allowed(state: &State, user: &User) -> Result<(), Failure> {
    if state.users.values().any(|u| u.name == user.name && u.id != user.id) {
        return Err(Failure::new(1672, exit::REFUSED, format!("there is a user {} already", user.name))
            .help("zoneward user set changes one"));
    }
    for s in user.sources.iter().filter_map(|id| state.sources.get(id)) {
        let path = show_path(&s.path);
        if let Some(other) = state.user_of(s.id).filter(|u| u.id != user.id) {
            return Err(Failure::new(1673, exit::REFUSED, format!("{path} is a source of {}", other.name))
                .help(format!("zoneward user set {} --drop-source {path} first", other.name)));
        }
        if user.rights.exceeded(state, s).is_some() {
            let copies = state.copies_wanted(s);
            return Err(Failure::new(1674, exit::REFUSED, format!("{path} has more than {} may ask for", user.name))
                .why(format!(
                    "it has priority {} and {copies} copies; the rights are up to {} and {}",
                    s.priority, user.rights.priority_max, user.rights.copies_max
                ))
                .help("lower it with zoneward source set, or give the right: --max-priority N, --max-copies N"));
        }
    }
    Ok(())
}

/// Brings a change through, if the user is still as it was seen.
fn put(zone: &mut Zone, user: User) -> Result<(), Failure> {
    allowed(zone.state(), &user)?;
    let command = Command::PutUser { user };
    let command = match seen::before(zone.state(), &command) {
        Some(seen) => Command::IfSeen { seen, command: Box::new(command) },
        None => command,
    };
    Ok(zone.propose(command)?)
}

fn add(zone: &mut Zone, a: &UserArgs) -> Result<String, Failure> {
    name_fits(&a.name)?;
    let user = User {
        id: UserId::random(),
        name: a.name.clone(),
        added_ms: 0,
        sources: sources_of(zone.state(), &a.source)?.into_iter().collect(),
        rights: rights_with(Rights::default(), &a.rights),
        locked: false,
        key: None,
    };
    put(zone, user)?;
    Ok(format!("user {0} added; zoneward user key {0} --kit FILE gives him a key of his own", a.name))
}

fn set(zone: &mut Zone, a: &SetUserArgs) -> Result<String, Failure> {
    let old = find_user(zone.state(), &a.user)?.clone();
    a.name.as_deref().map_or(Ok(()), name_fits)?;
    refuse_locked(&old)?;
    let mut sources = old.sources.clone();
    sources.extend(sources_of(zone.state(), &a.source)?);
    for id in sources_of(zone.state(), &a.drop_source)? {
        sources.remove(&id);
    }
    let name = a.name.clone().unwrap_or_else(|| old.name.clone());
    let rights = rights_with(old.rights, &a.rights);
    if (&name, &sources, rights) == (&old.name, &old.sources, old.rights) {
        return Err(Failure::new(1703, exit::USAGE, "there is nothing to set")
            .help("--name, --source, --drop-source, --max-priority, --max-copies or --quota"));
    }
    put(zone, User { name: name.clone(), sources, rights, ..old })?;
    Ok(format!("user {name} is changed"))
}

fn lock(zone: &mut Zone, name: &str, locked: bool) -> Result<String, Failure> {
    let old = find_user(zone.state(), name)?.clone();
    if old.locked != locked {
        put(zone, User { locked, ..old })?;
    }
    Ok(match locked {
        true => format!("user {name} is locked: nothing of his is changed, exported or imported; backups go on"),
        false => format!("user {name} is no longer locked"),
    })
}

pub(super) fn refuse_locked(u: &User) -> Result<(), Failure> {
    match u.locked {
        false => Ok(()),
        true => Err(Failure::new(1675, exit::REFUSED, format!("the user {} is locked", u.name))
            .help(format!("zoneward user lock {} --undo", u.name))),
    }
}

fn remove(zone: &mut Zone, name: &str) -> Result<String, Failure> {
    let user = find_user(zone.state(), name)?.id;
    zone.propose(Command::RemoveUser { user })?;
    Ok(format!(
        "user {name} is forgotten; his sources are still backed up. Exports that were written open with his key"
    ))
}

fn make_key(zone: &mut Zone, out: Out, a: &UserKeyArgs) -> Result<i32, Failure> {
    let user = find_user(zone.state(), &a.user)?.clone();
    refuse_locked(&user)?;
    if user.key.is_some() && !a.new {
        return Err(Failure::new(1676, exit::REFUSED, format!("the user {} has a key already", user.name)).help(
            "if his words are lost: --new makes another one; what was exported before opens with the one before",
        ));
    }
    // His kit has his id where that of the owner has the zone's.
    let kit_id = ZoneId(user.id.0);
    // The kit of a key that he has may be the only place of words that open his earlier exports.
    refuse_foreign(&a.kit, user.key.is_none().then_some(kit_id))?;
    let kit = super::absolute(&a.kit)?;
    if let Some(source) = zone.state().sources.values().find(|s| kit.starts_with(path_of(&s.path))) {
        return Err(Failure::new(
            1113,
            exit::REFUSED,
            format!("the recovery kit is not written to {}", a.kit.display()),
        )
        .why(format!("it would be in the next backup of {}", show_path(&source.path)))
        .help("name another file with --kit; nothing was changed"));
    }
    let urls: Vec<_> = zone.state().targets.values().filter_map(|t| t.url.parse().ok()).collect();
    kit_is_apart(&a.kit, &urls)?;
    let given = match a.passphrase {
        true => Some(passphrase::get_new(
            a.user_passphrase_file.as_deref(),
            "ZONEWARD_USER_PASSPHRASE",
            &format!("passphrase of {}", user.name),
        )?),
        false => None,
    };
    let made = key::make(zone.keys(), user.id, rsa_size(&a.rsa_bits), given.as_ref().map(|p| p.as_str()));
    let (key, words) = made?;
    let fingerprint = key.fingerprint;
    let time = local_time(now_ms());
    let html = render_html(&KitInput {
        zone_name: &user.name,
        zone: kit_id,
        fingerprint,
        words: &words,
        targets: &[],
        date: time.split(' ').next().unwrap_or_default(),
    });
    write_kit(&a.kit, html.as_bytes())?;
    // The kit is there first: words that nobody has seen must never be the only ones.
    zone.propose(Command::SetUserKey { user: user.id, key })?;
    out.json(&serde_json::json!({
        "schema": "zoneward.user-key/1", "user": user.name, "recovery_kit": shown(&a.kit), "fingerprint": fingerprint,
    }));
    out.say(format!("The kit of {} is in {}", user.name, a.kit.display()));
    out.say(
        "It is his: let him print it or write the 24 words down, then delete the file. The zone does not keep them.",
    );
    out.say(format!("next: zoneward user export {} --to PLACE", user.name));
    Ok(0)
}

/// A source's path.
pub(super) fn path_of(stored: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(stored))
}

fn write_kit(path: &Path, html: &[u8]) -> Result<(), Failure> {
    fsx::write_durably(path, html, 0o600).map_err(|e| {
        Failure::new(1106, exit::FAILED, format!("the recovery kit {} cannot be written", path.display()))
            .why(e.to_string())
            .help("name another file with --kit; nothing was changed")
    })
}

fn list(out: Out, state: &State) {
    let paths = |u: &User| u.sources.iter().filter_map(|s| state.source_ever(*s)).map(|s| show_path(&s.path)).collect();
    let all: Vec<(&User, Vec<String>)> = state.users.values().map(|u| (u, paths(u))).collect();
    out.json(
        &serde_json::json!({"schema": "zoneward.users/1", "users": all.iter().map(|(u, paths)| serde_json::json!({
        "id": u.id, "name": u.name, "sources": paths, "locked": u.locked, "used_bytes": state.used_by(u),
        "priority_max": u.rights.priority_max, "copies_max": u.rights.copies_max, "quota_bytes": u.rights.quota_bytes,
        "key": u.key.as_ref().map(|k| k.fingerprint),
    })).collect::<Vec<_>>()}),
    );
    for (u, paths) in all {
        let used = state.used_by(u);
        let room = match u.rights.quota_bytes {
            Some(q) if used > q => format!("{} of {}: over his quota", bytes(used), bytes(q)),
            Some(q) => format!("{} of {}", bytes(used), bytes(q)),
            None => bytes(used),
        };
        let mut marks = String::new();
        if u.locked {
            marks.push_str("  locked");
        }
        if u.key.is_none() {
            marks.push_str("  no key of his own");
        }
        out.answer(format!(
            "{}  {}, {room}; priority up to {}, up to {}{marks}",
            u.name,
            plural(paths.len() as u64, "source", "sources"),
            u.rights.priority_max,
            plural(u.rights.copies_max.into(), "copy", "copies"),
        ));
        paths.iter().for_each(|p| out.answer(format!("      {p}")));
    }
}
