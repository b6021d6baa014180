//! What an import would come to: what the user had, what this zone grants him, where his data would go, and what stands
//! in the way. Nothing is changed here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zoneward_consensus::limits::{USER_SOURCES_MAX, USERS_MAX};
use zoneward_consensus::model::{Checkpoint, Source, State, path_text};
use zoneward_consensus::names;
use zoneward_consensus::policy::Schedule;
use zoneward_consensus::reading::Reading;
use zoneward_consensus::users::{Rights, User};
use zoneward_sectors::glob::Excludes;
use zoneward_sectors::ids::{CheckpointId, Digest, NodeId, SourceId, UserId, ZoneId};

use super::UserError;
use crate::home::real;

/// What an export offers.
#[derive(Clone, Debug)]
pub struct Offer {
    pub zone: ZoneId,
    pub user: User,
    /// Fingerprint of his key.
    pub fingerprint: Digest,
    pub checkpoint: CheckpointId,
    pub tags: BTreeSet<String>,
    pub sources: Vec<Offered>,
    pub schedules: BTreeMap<String, Schedule>,
}

/// One source that an export holds.
#[derive(Clone, Debug)]
pub struct Offered {
    pub source: Source,
    pub files: u64,
    pub bytes: u64,
}

/// Reads what a state that was found on a target offers.
pub fn offer(state: &State) -> Result<Offer, UserError> {
    let no = UserError::NotAnExport;
    let zone = state.zone.as_ref().ok_or(no("it tells of no zone"))?;
    let mut users = state.users.values();
    let (Some(user), None) = (users.next(), users.next()) else {
        return Err(no("it is a zone, not one user's part of one: zoneward recover brings a zone back"));
    };
    let complete = state.complete();
    let newest: &Checkpoint = complete.last().ok_or(no("it holds no checkpoint"))?;
    let mut sources = Vec::new();
    for t in newest.tasks.iter().filter(|t| !t.layers.is_empty()) {
        let source = state.source_ever(t.source).ok_or(no("it holds data of an unknown source"))?;
        if !user.sources.contains(&t.source) {
            return Err(no("it holds what is not the user's"));
        }
        sources.push(Offered { source: source.clone(), files: t.stats.files, bytes: t.stats.bytes });
    }
    if sources.is_empty() || sources.len() > USER_SOURCES_MAX {
        return Err(no("it holds no source, or too many"));
    }
    sources.sort_by(|a, b| a.source.path.cmp(&b.source.path));
    let his = |s: &Schedule| !s.sources.is_empty() && s.sources.iter().all(|id| user.sources.contains(id));
    Ok(Offer {
        zone: zone.id,
        user: user.clone(),
        fingerprint: zone.owner_fingerprint,
        checkpoint: newest.id,
        tags: newest.tags.clone(),
        schedules: state.policy.schedules.iter().filter(|(_, s)| his(s)).map(|(n, s)| (n.clone(), s.clone())).collect(),
        sources,
    })
}

/// What a person asks for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Another name for him here.
    pub name: Option<String>,
    /// Where sources go, by the path that they had.
    pub at: BTreeMap<Vec<u8>, PathBuf>,
    /// He gets the rights that he had.
    pub grant: bool,
}

/// One source on its way to its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coming {
    /// Its id in the export.
    pub held: SourceId,
    /// The path that it had.
    #[serde(with = "path_text")]
    pub was: Vec<u8>,
    /// As this zone will know it.
    pub source: Source,
    /// All of it lies beside its place, whole; what is no longer there is in its place.
    pub whole: bool,
    pub files: u64,
    pub bytes: u64,
}

impl Coming {
    /// Where it goes.
    pub fn place(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.source.path.clone()))
    }
}

/// An import, as it would be; and once it is begun, what is noted of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub format: u32,
    /// The export's zone, and its checkpoint.
    pub zone: ZoneId,
    pub checkpoint: CheckpointId,
    pub user: UserId,
    pub name: String,
    /// He is not known here yet.
    pub new: bool,
    pub had: Rights,
    pub granted: Rights,
    /// A person here said that he gets what he had.
    pub grant: bool,
    pub sources: Vec<Coming>,
    pub schedules: BTreeMap<String, Schedule>,
    /// His own key as this zone will keep it, if it knows none.
    pub key: Option<zoneward_consensus::users::UserKey>,
}

/// What a person is told before anything is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// What stands in the way.
    pub clashes: Vec<String>,
    /// What he had and would not have here.
    pub fewer: Vec<String>,
    /// What changes and does no harm.
    pub notes: Vec<String>,
}

/// Works out an import.
pub fn plan(state: &State, node: NodeId, offer: &Offer, asked: &Asked) -> (Plan, Said) {
    let mut said = Said::default();
    let name = asked.name.clone().unwrap_or_else(|| offer.user.name.clone());
    let known = state.users.values().find(|u| u.name == name);
    let had = offer.user.rights;
    let here = known.map_or_else(Rights::default, |u| u.rights);
    let granted = if asked.grant { here.and(&had) } else { here };
    compare_user(state, known, &name, offer, &mut said);
    compare_rights(&had, &granted, &mut said);
    let bytes: u64 = offer.sources.iter().map(|s| s.bytes).fold(0, u64::saturating_add);
    let used = known.map_or(0, |u| state.used_by(u));
    if let Some(quota) = granted.quota_bytes.filter(|q| used.saturating_add(bytes) > *q) {
        said.clashes
            .push(format!("his data would be {} bytes here, and he may have {quota}", used.saturating_add(bytes)));
    }
    let mut sources = Vec::new();
    for o in &offer.sources {
        if let Some(coming) = place_one(state, node, o, &granted, asked, &mut said) {
            sources.push(coming);
        }
    }
    for path in asked.at.keys().filter(|p| !offer.sources.iter().any(|o| o.source.path == **p)) {
        said.clashes.push(format!("the export holds no source {}", shown(path)));
    }
    nested(&sources, &mut said);
    let schedules = schedules_here(state, offer, &sources, &name, &mut said);
    let plan = Plan {
        format: 1,
        zone: offer.zone,
        checkpoint: offer.checkpoint,
        user: known.map_or_else(UserId::random, |u| u.id),
        name,
        new: known.is_none(),
        had,
        granted,
        grant: asked.grant,
        sources,
        schedules,
        key: None,
    };
    (plan, said)
}

fn compare_user(state: &State, known: Option<&User>, name: &str, offer: &Offer, said: &mut Said) {
    match known {
        None if state.users.len() >= USERS_MAX => said.clashes.push("the zone has as many users as it can have".into()),
        None => {}
        Some(u) => {
            if u.locked {
                said.clashes.push(format!("the user {name} is locked here"));
            }
            match &u.key {
                Some(k) if k.fingerprint != offer.fingerprint => said.clashes.push(format!(
                    "the user {name} of this zone has another key than the one of this export: is it somebody else?"
                )),
                _ => said.notes.push(format!("{name} is a user here already: what comes is added to what is his")),
            }
            if u.sources.len() + offer.sources.len() > USER_SOURCES_MAX {
                said.clashes.push(format!("the user {name} would have more sources than one can have"));
            }
        }
    }
}

fn compare_rights(had: &Rights, granted: &Rights, said: &mut Said) {
    if granted.priority_max < had.priority_max {
        said.fewer.push(format!("priorities up to {}: he had up to {}", granted.priority_max, had.priority_max));
    }
    if granted.copies_max < had.copies_max {
        said.fewer.push(format!("up to {} copies: he had up to {}", granted.copies_max, had.copies_max));
    }
    match (granted.quota_bytes, had.quota_bytes) {
        (Some(q), None) => said.fewer.push(format!("{q} bytes: he had any number")),
        (Some(q), Some(h)) if q < h => said.fewer.push(format!("{q} bytes: he had {h}")),
        _ => {}
    }
}

/// A source in its place here; `None` where there is no place for it yet.
fn place_one(
    state: &State,
    node: NodeId,
    o: &Offered,
    granted: &Rights,
    asked: &Asked,
    said: &mut Said,
) -> Option<Coming> {
    let was = &o.source.path;
    let place = match asked.at.get(was) {
        Some(p) => real_parent(p),
        None if names::name_of(was).is_some() => {
            said.clashes.push(format!("{} needs a place here: --at {0}=PATH", shown(was)));
            return None;
        }
        None => real_parent(Path::new(&OsString::from_vec(was.clone()))),
    };
    said.clashes.extend(in_the_way(state, &place).map(|why| format!("{}: {why}", shown(was))));
    if let Err(e) = Excludes::new(&o.source.excludes, false) {
        said.clashes.push(format!("{}: a pattern of its excludes cannot be used: {e}", shown(was)));
    }
    let Source { priority, copies, excludes, exclude_caches, one_file_system, reading, write_only, .. } =
        o.source.clone();
    let reading = Reading { snapshot: reading.snapshot, ..Reading::default() };
    let source = Source {
        id: SourceId::random(),
        path: place.into_os_string().into_vec(),
        priority,
        copies,
        excludes,
        exclude_caches,
        one_file_system,
        added_ms: 0,
        grounds: Default::default(),
        last_entries: 0,
        nodes: vec![node],
        // Commands of another machine are not taken, whatever the export says.
        reading: if reading.fault().is_some() { Reading::default() } else { reading },
        write_only,
    };
    let lowered = granted.lowered(source.clone());
    if lowered.priority != source.priority {
        said.fewer.push(format!("{}: priority {} becomes {}", shown(was), source.priority, lowered.priority));
    }
    let (wanted, gets) = (state.copies_wanted(&source), state.copies_wanted(&lowered));
    if wanted != gets {
        said.fewer.push(format!("{}: {wanted} copies become {gets}", shown(was)));
    }
    let targets = state.usable_targets().count();
    if usize::from(gets) > targets {
        said.notes.push(format!("{}: {gets} copies are wanted, and this zone has {targets} targets", shown(was)));
    }
    Some(Coming { held: o.source.id, was: was.clone(), source: lowered, whole: false, files: o.files, bytes: o.bytes })
}

/// The path with what lies above it followed: so will the zone know it.
fn real_parent(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => real(path),
    }
}

/// Why nothing can be put there, if so.
fn in_the_way(state: &State, place: &Path) -> Option<String> {
    let shown = place.display();
    let parent = place.parent()?;
    if place.symlink_metadata().is_ok() {
        return Some(format!(
            "something is at {shown} already, and nothing is written over: --at gives it another place"
        ));
    }
    if !parent.is_dir() {
        return Some(format!("there is no folder {}: make it, or give another place with --at", parent.display()));
    }
    if state.source_at(place.as_os_str().as_encoded_bytes()).is_some() {
        return Some(format!("{shown} is a source of this zone already"));
    }
    None
}

/// No two go to one place, and none into another one: what is put in its place is whole.
fn nested(sources: &[Coming], said: &mut Said) {
    for (i, a) in sources.iter().enumerate() {
        for b in sources.iter().skip(i + 1) {
            let (x, y) = (a.place(), b.place());
            if x.starts_with(&y) || y.starts_with(&x) {
                said.clashes.push(format!(
                    "{} and {} would lie in one another: --at gives one of them another place",
                    shown(&a.was),
                    shown(&b.was)
                ));
            }
        }
    }
}

/// His schedules, under names that are free.
fn schedules_here(
    state: &State,
    offer: &Offer,
    sources: &[Coming],
    user: &str,
    said: &mut Said,
) -> BTreeMap<String, Schedule> {
    let mut out = BTreeMap::new();
    for (name, s) in &offer.schedules {
        let here = |id: &SourceId| sources.iter().find(|c| c.held == *id).map(|c| c.source.id);
        let his: Vec<SourceId> = s.sources.iter().filter_map(here).collect();
        if his.is_empty() {
            continue;
        }
        let taken = |n: &str| state.policy.schedules.contains_key(n) || out.contains_key(n);
        let free = (1..).map(|n| if n == 1 { format!("{name}-{user}") } else { format!("{name}-{user}-{n}") });
        let now = if taken(name) { free.take(1000).find(|n| !taken(n)) } else { Some(name.clone()) };
        let Some(now) = now else { continue };
        if now != *name {
            said.notes.push(format!("the schedule {name} is called {now} here: there is one of this name"));
        }
        out.insert(now, Schedule { sources: his, ..s.clone() });
    }
    out
}

fn shown(path: &[u8]) -> String {
    zoneward_sectors::shown::show_path(path)
}

#[cfg(test)]
mod tests;
