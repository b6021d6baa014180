//! `user export`: a user's data and settings, to a place, under his own key.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use zoneward_actors::errors::ZoneError;
use zoneward_actors::users::UserError;
use zoneward_actors::users::export::{Exported, Wish, export as write_export, held, newest};
use zoneward_actors::zone::Zone;
use zoneward_consensus::model::Checkpoint;
use zoneward_consensus::users::User;
use zoneward_sectors::pack::{PackError, Progress};
use zoneward_sectors::restore::RestoreReport;
use zoneward_targets::Url;

use super::make::{apart, parse_url, place, separate};
use super::user::{find_user, path_of, refuse_locked};
use super::{open, threads};
use crate::cli::{Global, UserExportArgs};
use crate::errors::{Failure, chain, exit};
use crate::output::Out;
use crate::progress::{Display, Meter};
use crate::translate::{OWNER_KEY, is_owners};
use crate::units::{bytes, duration, local_time, plural, show_path, utc_time};

pub fn export(g: &Global, out: Out, a: &UserExportArgs) -> Result<i32, Failure> {
    let zone = open(g)?;
    let user = find_user(zone.state(), &a.user)?.clone();
    refuse_locked(&user)?;
    if user.key.is_none() {
        return Err(failed(UserError::NoKey(user.name)));
    }
    let checkpoint = checkpoint_of(&zone, &user, a.checkpoint.as_deref())?.clone();
    let place = place(parse_url(&a.to)?, a.credentials_file.as_deref())?;
    apart(zone.home.dir(), std::slice::from_ref(&place.url))?;
    let others: Vec<Url> = zone.state().targets.values().filter_map(|t| t.url.parse().ok()).collect();
    separate(&place.url, &others)?;
    if let Url::File(folder) = &place.url
        && let Some(source) = zone.state().sources.values().find(|s| folder.starts_with(path_of(&s.path)))
    {
        return Err(Failure::new(1668, exit::REFUSED, format!("nothing is exported to {}", folder.display()))
            .why(format!("the next backup of {} would hold the export too", show_path(&source.path)))
            .help("give another place; nothing was changed"));
    }
    let started = Instant::now();
    let tags = BTreeSet::from([format!("as of {}", utc_time(checkpoint.content_ms()))]);
    let wish = Wish { user: &user, checkpoint: checkpoint.id, place: &place, tags, threads: threads() };
    let done = with_progress(g, &zone, &wish)?;
    Ok(tell(out, &zone, &wish, &checkpoint, &done, started.elapsed().as_secs_f64()))
}

fn checkpoint_of<'z>(zone: &'z Zone, user: &User, asked: Option<&str>) -> Result<&'z Checkpoint, Failure> {
    let found = match asked {
        Some(text) => Some(zone.state().find_checkpoint(text)?),
        None => newest(zone, user),
    };
    match found {
        Some(c) if !held(zone, user, c.id).is_empty() => Ok(c),
        Some(c) => Err(failed(UserError::Nothing { name: user.name.clone(), seq: c.seq })),
        None => {
            Err(Failure::new(1678, exit::FAILED, format!("no checkpoint holds anything of the user {}", user.name))
                .help("zoneward user ls shows his sources; zoneward backup stores them"))
        }
    }
}

fn with_progress(g: &Global, zone: &Zone, wish: &Wish<'_>) -> Result<Exported, Failure> {
    let progress = Arc::new(Progress { stop: crate::interrupt::stop(), ..Progress::default() });
    let meter = Arc::new(Meter::default());
    meter.bytes.store(true, Ordering::Relaxed);
    meter.label("exporting".to_owned());
    let all = zone
        .state()
        .checkpoints
        .get(&wish.checkpoint)
        .map(|c| c.tasks.iter().filter(|t| wish.user.sources.contains(&t.source)).map(|t| t.stats.bytes).sum());
    meter.total.store(all.unwrap_or(0), Ordering::Relaxed);
    let shown = {
        let progress = progress.clone();
        Display::start(g, meter, move |m| m.done.store(progress.read.load(Ordering::Relaxed), Ordering::Relaxed))
    };
    let done = write_export(zone, wish, &progress);
    drop(shown);
    done.map_err(failed)
}

fn tell(out: Out, zone: &Zone, wish: &Wish<'_>, checkpoint: &Checkpoint, done: &Exported, seconds: f64) -> i32 {
    let unread: u64 = done.sources.iter().map(|(_, t)| t.unread).sum();
    for path in &done.without_commands {
        out.warn(format!("the commands around {} stay here: the export holds none", show_path(path)));
    }
    let missing: Vec<String> = {
        let has = |id| done.sources.iter().any(|(s, _)| s.id == id);
        let not = wish.user.sources.iter().filter(|id| !has(**id) && zone.state().sources.contains_key(*id));
        not.filter_map(|id| zone.state().source_ever(*id)).map(|s| show_path(&s.path)).collect()
    };
    for path in &missing {
        out.warn(format!("{path} is not in it: checkpoint {} holds nothing of it", checkpoint.seq));
    }
    if unread > 0 {
        let n = plural(unread, "path", "paths");
        out.warn(format!("{n} could not be read for checkpoint {}, and are not in the export", checkpoint.seq));
    }
    let complete = missing.is_empty() && unread == 0;
    let files: u64 = done.sources.iter().map(|(_, t)| t.files).sum();
    let size: u64 = done.sources.iter().map(|(_, t)| t.bytes).sum();
    out.json(&serde_json::json!({
        "type": "summary", "schema": "zoneward.user-export/1", "user": wish.user.name, "to": wish.place.url.to_string(),
        "zone": done.zone, "checkpoint": checkpoint.id, "seq": checkpoint.seq, "resumed": done.resumed,
        "sources": done.sources.iter().map(|(s, t)| serde_json::json!({
            "path": show_path(&s.path), "files": t.files, "bytes": t.bytes,
        })).collect::<Vec<_>>(),
        "missing": missing, "unread": unread, "files": files, "bytes": size, "sectors": done.sectors,
        "stored_bytes": done.stored_bytes, "complete": complete, "seconds": seconds,
    }));
    let resumed = if done.resumed { ", going on with a run that was cut" } else { "" };
    out.say(format!(
        "{}'s data as of {}: {}, {}, {} in {}{resumed}",
        wish.user.name,
        local_time(checkpoint.content_ms()),
        plural(done.sources.len() as u64, "source", "sources"),
        plural(files, "file", "files"),
        bytes(size),
        duration(seconds)
    ));
    out.say(format!("It lies in {}; his 24 words open it, and no key of this zone does", wish.place.url));
    out.say(format!("there: zoneward user import {} -n", wish.place.url));
    if complete { 0 } else { exit::INCOMPLETE }
}

/// What went wrong, as a person sees it.
pub(super) fn failed(e: UserError) -> Failure {
    if e.is_interrupt() {
        return Failure::new(1900, exit::INTERRUPTED, "interrupted").help("run it again: it goes on where it was cut");
    }
    let text = chain(&e);
    match e {
        UserError::Zone(ZoneError::Pack(PackError::Content { .. })) if is_owners(&text) => {
            Failure::new(1691, exit::REFUSED, text).help(OWNER_KEY)
        }
        UserError::Zone(ZoneError::Pack(PackError::Content { source, .. })) => {
            let code = if source.damage { exit::DAMAGE } else { exit::TARGET };
            Failure::new(1679, code, text).help(
                "an export holds all or it is none: bring the target back, or take another checkpoint: --checkpoint CP",
            )
        }
        UserError::Zone(e) => e.into(),
        UserError::Recover(e) => super::recover::failed(e),
        UserError::NoKey(name) => Failure::new(1677, exit::REFUSED, text)
            .help(format!("zoneward user key {name} --kit FILE makes one, and a kit that he keeps")),
        UserError::Locked(name) => {
            Failure::new(1675, exit::REFUSED, text).help(format!("zoneward user lock {name} --undo"))
        }
        UserError::Nothing { .. } => {
            Failure::new(1678, exit::FAILED, text).help("zoneward checkpoints --source PATH lists those that do")
        }
        UserError::OtherExport(_) => Failure::new(1680, exit::REFUSED, text)
            .help("say the same --checkpoint as then, or take another place; what was cut there is no export"),
        UserError::Unpublished(_) => {
            Failure::new(1681, exit::TARGET, text).help("run it again when the place takes it: only the end is missing")
        }
        UserError::NotAnExport(_) => {
            Failure::new(1682, exit::REFUSED, text).help("give the place that zoneward user export named")
        }
        UserError::Note(_) => Failure::new(1687, exit::DAMAGE, text)
            .help("nothing was changed now; what is not in its place yet begins with .zoneward-import- beside it"),
        UserError::Incomplete(r) => incomplete(&r),
        UserError::Taken(_) => Failure::new(1688, exit::REFUSED, text).help(
            "nothing is written over: move it away and run this again; or --give-up, then import with --at SOURCE=PATH",
        ),
        UserError::Room { .. } => {
            Failure::new(1689, exit::REFUSED, text).help("make room and run this again; nothing was put in its place")
        }
        UserError::Place { .. } => Failure::new(1686, exit::FAILED, text).help("mend what it says, then run it again"),
    }
}

fn incomplete(r: &RestoreReport) -> Failure {
    let code = match (r.damage_count, r.unreachable_count) {
        (0, 0) => exit::FAILED,
        (0, _) => exit::TARGET,
        _ => exit::DAMAGE,
    };
    let why = r.failed.first().map(|(p, why)| format!("{}: {why}", show_path(p)));
    let what = format!("{} of the export cannot be brought back", plural(r.failed_count, "entry", "entries"));
    Failure::new(1685, code, what).why(why.unwrap_or_default()).help(
        "run it again when the export can be read; --give-up ends it; zoneward recover --target brings what is still whole",
    )
}
