//! Bringing an export into a zone. First the export becomes a home of its own in `imports/` of this one, as any lost zone
//! would; then each source is restored beside its place, whole, and gets its name there in one step, if nothing has that
//! name; then commands tell the zone of user and sources.
//!
//! The note (`import.json`) is durable before each step that it announces, so a run that was cut is gone on with, without
//! the user's key: what opens the export's sectors lies in the home that was made of it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, renameat, renameat_with, statat, statvfs};
use rustix::io::Errno;
use zoneward_consensus::command::Command;
use zoneward_consensus::users::User;
use zoneward_sectors::fsx;
use zoneward_sectors::ids::TargetId;
use zoneward_sectors::keyfile::OwnerKeyFile;
use zoneward_sectors::owner::OwnerKeys;
use zoneward_sectors::place::Place as Beneath;
use zoneward_sectors::restore::{Progress, RestoreReport, Settings, restore};
use zoneward_targets::Url;

use super::plan::{Coming, Plan};
use super::{UserError, key, of_url, remove_all, remove_slowly};
use crate::errors::ZoneError;
use crate::home::io_at;
use crate::init::Place;
use crate::recover::{Found, take_over};
use crate::restore::{Held, sources_of};
use crate::rollback::Needs;
use crate::zone::Zone;

/// What the names begin with under which an import keeps what is not in its place yet. They are in no backup.
pub const STAGED_PREFIX: &str = ".zoneward-import-";
/// Bytes of the note on an import.
const NOTE_LEN_MAX: u64 = 16 << 20;

/// Where the import of what lies at a URL is worked on.
pub fn dir_of(home: &Path, from: &Url) -> PathBuf {
    home.join("imports").join(of_url(from))
}

fn note_in(dir: &Path) -> PathBuf {
    dir.join("import.json")
}

fn home_in(dir: &Path) -> PathBuf {
    dir.join("home")
}

/// An import that was begun and is not done.
pub fn begun(dir: &Path) -> Result<Option<Plan>, UserError> {
    let path = note_in(dir);
    match fsx::read_limited(&path, NOTE_LEN_MAX) {
        Ok(bytes) => match serde_json::from_slice::<Plan>(&bytes) {
            Ok(plan) if plan.format == 1 => Ok(Some(plan)),
            _ => Err(UserError::Note(path)),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ZoneError::from(io_at("read", &path)(e)).into()),
    }
}

fn note(dir: &Path, plan: &Plan) -> Result<(), UserError> {
    let path = note_in(dir);
    let json = serde_json::to_vec(plan).map_err(|_| ZoneError::State { what: "the note on an import" })?;
    fsx::write_durably(&path, &json, 0o600).map_err(io_at("write", &path)).map_err(ZoneError::from)?;
    Ok(())
}

/// Makes the export a home beside this zone's own, and notes what is to become of it. Nothing of this zone is changed.
pub fn begin(
    zone: &Zone,
    dir: &Path,
    found: Found,
    owner: &OwnerKeys,
    keyfile: &OwnerKeyFile,
    from: (TargetId, &Place),
    mut plan: Plan,
) -> Result<Plan, UserError> {
    // Without a note it never counted.
    remove_all(dir)?;
    fsx::create_dir_all(dir, 0o700).map_err(io_at("make", dir)).map_err(ZoneError::from)?;
    take_over(&home_in(dir), found, owner, keyfile, from, "import")?;
    if zone.state().users.get(&plan.user).is_none_or(|u| u.key.is_none()) {
        plan.key = Some(key::adopt(zone.keys(), plan.user, owner, keyfile));
    }
    fsx::point("import-noted:before");
    note(dir, &plan)?;
    fsx::point("import-noted:after");
    Ok(plan)
}

/// Goes on with an import to its end.
pub fn go_on(
    zone: &mut Zone,
    dir: &Path,
    plan: &mut Plan,
    threads: usize,
    progress: &Progress,
) -> Result<RestoreReport, UserError> {
    let mut total = RestoreReport::default();
    if plan.sources.iter().any(|s| !s.whole) {
        let from = Zone::open(&home_in(dir))?;
        let held = sources_of(&from, plan.checkpoint);
        room(&from, &held, plan)?;
        for i in 0..plan.sources.len() {
            let Some(coming) = plan.sources.get(i).filter(|s| !s.whole).cloned() else { continue };
            let held = held.iter().find(|h| h.source == coming.held);
            let held = held.ok_or(UserError::NotAnExport("it no longer holds one of the sources"))?;
            let report = beside(&from, plan, &coming, held, threads, progress)?;
            total.add(&report);
            if report.failed_count > 0 {
                return Err(UserError::Incomplete(Box::new(total)));
            }
            fsx::point("import-whole:before");
            if let Some(s) = plan.sources.get_mut(i) {
                s.whole = true;
            }
            note(dir, plan)?;
            fsx::point("import-whole:after");
        }
    }
    for coming in &plan.sources {
        fsx::point("import-placed:before");
        put_in_place(plan, coming)?;
        fsx::point("import-placed:after");
    }
    tell_zone(zone, plan)?;
    fsx::point("import-done:before");
    remove_all(dir)?;
    Ok(total)
}

/// Gives an import up: what is beside its place goes; what is in its place stays. Answers what stays.
pub fn give_up(dir: &Path, plan: &Plan) -> Result<Vec<PathBuf>, UserError> {
    let mut stay = Vec::new();
    for coming in &plan.sources {
        let staged = staged(plan, coming);
        match staged.symlink_metadata() {
            Ok(m) if m.is_dir() => remove_slowly(&staged)?,
            Ok(_) => fsx::remove_file(&staged).map_err(at("cannot remove", &staged))?,
            Err(_) if coming.whole => stay.push(coming.place()),
            Err(_) => {}
        }
    }
    remove_all(dir)?;
    Ok(stay)
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UserError {
    let path = path.to_owned();
    move |source| UserError::Place { what, path, source }
}

/// Where a source lies until it is whole: beside its place, so that it gets there by a name alone.
fn staged(plan: &Plan, coming: &Coming) -> PathBuf {
    let name = format!("{STAGED_PREFIX}{:.8}-{:.8}", plan.zone.to_string(), coming.source.id.to_string());
    coming.place().parent().map_or_else(|| PathBuf::from(&name), |p| p.join(&name))
}

fn parent(path: &Path) -> Result<&Path, UserError> {
    path.parent().ok_or_else(|| at("cannot use", path)(io::ErrorKind::InvalidInput.into()))
}

/// Refuses where it does not all fit; what an earlier run brought counts as room, about.
fn room(from: &Zone, held: &[Held], plan: &Plan) -> Result<(), UserError> {
    let opener = from.opener();
    let mut needs: std::collections::BTreeMap<u64, (PathBuf, Needs)> = Default::default();
    for coming in plan.sources.iter().filter(|s| !s.whole && staged(plan, s).symlink_metadata().is_err()) {
        let Some(held) = held.iter().find(|h| h.source == coming.held) else { continue };
        let place = coming.place();
        let dir = parent(&place)?;
        let device = rustix::fs::stat(dir).map_err(|e| at("cannot look at", dir)(e.into()))?.st_dev;
        let (_, sum) = needs.entry(device).or_insert_with(|| (dir.to_owned(), Needs::default()));
        for entry in from.catalogs(&opener).entries(&held.layers).map_err(ZoneError::from)? {
            sum.add(Needs::of(&entry.map_err(ZoneError::from)?));
        }
    }
    for (dir, needs) in needs.into_values() {
        let s = statvfs(&dir).map_err(|e| at("cannot ask for the room at", &dir)(e.into()))?;
        let free = s.f_bavail.saturating_mul(s.f_frsize);
        if needs.bytes.saturating_add(needs.bytes / 100) > free {
            return Err(UserError::Room { place: dir, needs: needs.bytes, free });
        }
    }
    Ok(())
}

/// Restores a source beside its place. What an earlier run brought is compared, not brought again.
fn beside(
    from: &Zone,
    plan: &Plan,
    coming: &Coming,
    held: &Held,
    threads: usize,
    progress: &Progress,
) -> Result<RestoreReport, UserError> {
    let staged = staged(plan, coming);
    let name = staged.file_name().map(|n| n.as_encoded_bytes().to_vec()).unwrap_or_default();
    let place = Beneath::open(parent(&staged)?).map_err(zoneward_sectors::restore::RestoreError::from);
    let place = place.map_err(ZoneError::from)?;
    let fresh = staged.symlink_metadata().is_err();
    let settings = Settings { threads, verify: true, fresh, fingerprint_key: *from.keys().fingerprint_key() };
    let opener = from.opener();
    let entries = from.catalogs(&opener).entries(&held.layers).map_err(ZoneError::from)?;
    let mut report = restore(entries, &name, &place, &opener, &settings, progress).map_err(|e| match e {
        zoneward_sectors::restore::RestoreError::Catalog(e) => ZoneError::Catalogs(e.into()),
        e => ZoneError::from(e),
    })?;
    report.bad_copies = opener.take_told();
    if report.failed_count == 0 {
        place.sync().map_err(zoneward_sectors::restore::RestoreError::from).map_err(ZoneError::from)?;
    }
    Ok(report)
}

/// Gives a source its name. Something else that has this name stays as it is.
fn put_in_place(plan: &Plan, coming: &Coming) -> Result<(), UserError> {
    let (from, to) = (staged(plan, coming), coming.place());
    match from.symlink_metadata() {
        // It has its name already: nobody else takes it away.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(at("cannot look at", &from)(e)),
        Ok(_) => {}
    }
    let named = match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
        // Some file systems cannot promise it: then it is looked for first.
        Err(Errno::INVAL | Errno::NOSYS) => match statat(CWD, &to, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => renameat(CWD, &from, CWD, &to),
            Ok(_) => Err(Errno::EXIST),
            Err(e) => Err(e),
        },
        r => r,
    };
    match named {
        Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(UserError::Taken(to)),
        r => r.map_err(|e| at("cannot put into its place", &to)(e.into()))?,
    }
    let dir = parent(&to)?;
    fsx::sync_dir(dir).map_err(at("cannot sync", dir))
}

/// Tells the zone of the user, his sources, his schedules and his key. Said again, it changes nothing more.
fn tell_zone(zone: &mut Zone, plan: &Plan) -> Result<(), UserError> {
    zone.refresh();
    for coming in &plan.sources {
        if !zone.state().sources.contains_key(&coming.source.id) {
            fsx::point("import-source:before");
            zone.propose(Command::PutSource { source: coming.source.clone() })?;
        }
    }
    let known = zone.state().users.get(&plan.user).cloned();
    let his: BTreeSet<_> = plan.sources.iter().map(|s| s.source.id).collect();
    let mut user = known.clone().unwrap_or_else(|| User {
        id: plan.user,
        name: plan.name.clone(),
        added_ms: 0,
        sources: BTreeSet::new(),
        rights: plan.granted,
        locked: false,
        key: None,
    });
    user.sources.extend(his);
    if plan.grant {
        user.rights = user.rights.and(&plan.granted);
    }
    if known.as_ref() != Some(&user) {
        fsx::point("import-user:before");
        zone.propose(Command::PutUser { user })?;
    }
    if let Some(key) = &plan.key
        && zone.state().users.get(&plan.user).is_some_and(|u| u.key.is_none())
    {
        fsx::point("import-key:before");
        zone.propose(Command::SetUserKey { user: plan.user, key: key.clone() })?;
    }
    for (name, schedule) in &plan.schedules {
        if !zone.state().policy.schedules.contains_key(name) {
            zone.propose(Command::PutSchedule { name: name.clone(), schedule: schedule.clone() })?;
        }
    }
    Ok(())
}
