//! `user import`: what `user export` wrote, into this zone. What he had and what he gets is shown before anything is done.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use zeroize::Zeroizing;
use zoneward_actors::errors::ZoneError;
use zoneward_actors::home::target_around;
use zoneward_actors::init::Place;
use zoneward_actors::recover::{Note, find, zones_on};
use zoneward_actors::users::import::{begin, begun, dir_of, give_up, go_on};
use zoneward_actors::users::plan::{Asked, Plan, Said, offer, plan as plan_import};
use zoneward_actors::zone::Zone;
use zoneward_sectors::restore::{Progress, RestoreReport};
use zoneward_targets::Target;

use super::make::{parse_url, place};
use super::recover::{choose, refuse_while_pending};
use super::user::name_fits;
use super::user_export::failed;
use super::{absolute, as_stored, home, open, threads};
use crate::cli::{Global, UserImportArgs};
use crate::errors::{Failure, exit};
use crate::output::{Out, one_line};
use crate::passphrase;
use crate::progress::{Display, Meter};
use crate::units::{bytes, duration, plural, show_path, shown};

pub fn import(g: &Global, out: Out, a: &UserImportArgs) -> Result<i32, Failure> {
    refuse_while_pending(&home(g)?)?;
    let mut zone = open(g)?;
    let from = place(parse_url(&a.from)?, a.credentials_file.as_deref())?;
    let dir = dir_of(zone.home.dir(), &from.url);
    let before = begun(&dir).map_err(failed)?;
    if a.give_up {
        return end(out, &dir, before);
    }
    let fresh = before.is_none();
    let mut plan = match before {
        Some(plan) if a.dry_run => {
            show(out, &plan, &Said::default());
            out.say("this import was begun already; without -n it goes on");
            return Ok(0);
        }
        Some(plan) => {
            as_begun(a, &plan)?;
            out.say("this import was begun already; going on as it was begun");
            plan
        }
        None => match look(out, &zone, a, &from, &dir)? {
            Looked::Only(code) => return Ok(code),
            Looked::Begun(plan) => *plan,
        },
    };
    let started = Instant::now();
    let report = match with_progress(g, &mut zone, &dir, &mut plan) {
        // A refusal changes nothing, so nothing is left to go on with.
        Err(e) if fresh && e.code == 1689 => {
            give_up(&dir, &plan).map_err(failed)?;
            return Err(e);
        }
        done => done?,
    };
    Ok(tell(out, &plan, &report, started.elapsed().as_secs_f64()))
}

/// Goes on only as it was begun: other wishes would be passed over.
fn as_begun(a: &UserImportArgs, plan: &Plan) -> Result<(), Failure> {
    let places: Vec<_> = a.at.iter().map(|t| at(t)).collect::<Result<_, _>>()?;
    let same = |(was, to): &(Vec<u8>, PathBuf)| plan.sources.iter().any(|s| s.was == *was && s.place() == *to);
    let named = a.name.as_ref().is_none_or(|n| *n == plan.name);
    if named && places.iter().all(same) {
        return Ok(());
    }
    let begun: Vec<String> =
        plan.sources.iter().map(|s| format!("{} to {}", show_path(&s.was), shown(&s.place()))).collect();
    Err(Failure::new(1667, exit::REFUSED, "an import from there was begun with other places or another name")
        .why(format!("as {}: {}", one_line(&plan.name), begun.join(", ")))
        .help("without --at and --name it goes on as it was begun; --give-up ends it. Nothing was changed"))
}

enum Looked {
    /// Nothing was done, and nothing is to be.
    Only(i32),
    Begun(Box<Plan>),
}

/// Opens the export, shows what would be, and begins if that is wanted and nothing stands in the way.
fn look(out: Out, zone: &Zone, a: &UserImportArgs, from: &Place, dir: &Path) -> Result<Looked, Failure> {
    a.name.as_deref().map_or(Ok(()), name_fits)?;
    let asked =
        Asked { name: a.name.clone(), at: a.at.iter().map(|t| at(t)).collect::<Result<_, _>>()?, grant: a.grant };
    let target = zoneward_targets::open(&from.url, None, from.credentials.as_ref()).map_err(ZoneError::from)?;
    let target: Arc<dyn Target> = Arc::from(target);
    let zones = zones_on(target.as_ref(), "").map_err(ZoneError::from)?;
    let question = "24 words, or passphrase, of the user";
    let secret: Zeroizing<String> =
        passphrase::get(a.user_passphrase_file.as_deref(), "ZONEWARD_USER_PASSPHRASE", question)?;
    let (alias, file, owner) = choose(&target.describe(), zones, a.key.as_deref(), &secret)?;
    let found = find(&target, alias, &owner, true).map_err(super::recover::failed)?;
    if let Some(note) =
        found.notes.iter().find(|n| matches!(n, Note::NoHead { .. } | Note::HeadAway { .. } | Note::Unreadable { .. }))
    {
        return Err(Failure::new(1683, exit::DAMAGE, "the export is damaged, or was cut before it was whole")
            .why(super::recover::note(note))
            .help("write it anew: zoneward user export; what is left of it: zoneward recover --target"));
    }
    let offer = offer(&found.state).map_err(failed)?;
    let (plan, mut said) = plan_import(zone.state(), zone.node(), &offer, &asked);
    for coming in &plan.sources {
        super::restore::apart_file(zone, &coming.place())?;
        if target_around(&coming.place(), std::slice::from_ref(&from.url)).is_some() {
            said.clashes.push(format!("{} lies in the export itself", shown(&coming.place())));
        }
    }
    show(out, &plan, &said);
    if let Some(e) = refusal(&plan, &said, a.fewer_rights) {
        return if a.dry_run {
            e.show(out.json);
            Ok(Looked::Only(e.exit))
        } else {
            Err(e)
        };
    }
    if a.dry_run {
        out.say("nothing was changed (dry run)");
        return Ok(Looked::Only(0));
    }
    let begun = begin(zone, dir, found, &owner, &file, (target.id(), from), plan).map_err(failed)?;
    Ok(Looked::Begun(Box::new(begun)))
}

/// `SOURCE=PATH`; a source's own path may hold `=`.
fn at(text: &OsStr) -> Result<(Vec<u8>, PathBuf), Failure> {
    let raw = text.as_bytes();
    let wrong = || {
        Failure::new(1703, exit::USAGE, format!("{} is not SOURCE=PATH", show_path(raw)))
            .help("SOURCE is the path that zoneward user import -n shows, PATH where it goes here")
    };
    let cut = raw.windows(2).rposition(|w| w == b"=/").or_else(|| raw.iter().rposition(|b| *b == b'='));
    let (was, to) = raw.split_at(cut.ok_or_else(wrong)?);
    let to = PathBuf::from(OsString::from_vec(to.get(1..).unwrap_or_default().to_vec()));
    if was.is_empty() || to.as_os_str().is_empty() {
        return Err(wrong());
    }
    let was = as_stored(Path::new(&OsString::from_vec(was.to_vec())))?;
    Ok((was.into_os_string().into_vec(), as_stored(&absolute(&to)?)?))
}

/// Why it does not go on, if so.
fn refusal(plan: &Plan, said: &Said, fewer: bool) -> Option<Failure> {
    if let Some(first) = said.clashes.first() {
        let more = said.clashes.len() - 1;
        let and = if more > 0 { format!(" (and {more} more, above)") } else { String::new() };
        return Some(
            Failure::new(1684, exit::REFUSED, format!("{}'s data cannot be brought in so", plan.name))
                .why(format!("{first}{and}"))
                .help("mend what is named, or choose other places with --at SOURCE=PATH. Nothing was changed"),
        );
    }
    if !said.fewer.is_empty() && !fewer {
        let help = format!(
            "--grant gives him the rights that he had, --fewer-rights takes him as he is allowed here; or first zoneward user \
             {} {} --max-priority N --max-copies N. Nothing was changed",
            if plan.new { "add" } else { "set" },
            plan.name
        );
        let what = format!("{} would have fewer rights here than he had", plan.name);
        return Some(Failure::new(1674, exit::REFUSED, what).why(said.fewer.join("; ")).help(help));
    }
    None
}

fn rights(r: &zoneward_consensus::users::Rights) -> serde_json::Value {
    serde_json::json!({"priority_max": r.priority_max, "copies_max": r.copies_max, "quota_bytes": r.quota_bytes})
}

/// The comparison, before anything is done.
fn show(out: Out, plan: &Plan, said: &Said) {
    out.json(&serde_json::json!({
        "type": "plan", "schema": "zoneward.user-import/1", "user": plan.name, "new": plan.new,
        "had": rights(&plan.had), "gets": rights(&plan.granted), "clashes": said.clashes, "fewer": said.fewer, "notes": said.notes,
        "sources": plan.sources.iter().map(|s| serde_json::json!({
            "was": show_path(&s.was), "path": shown(&s.place()), "priority": s.source.priority, "copies": s.source.copies,
            "files": s.files, "bytes": s.bytes,
        })).collect::<Vec<_>>(),
        "schedules": plan.schedules.keys().collect::<Vec<_>>(),
    }));
    let quota = |q: Option<u64>| q.map_or_else(|| "any".to_owned(), bytes);
    let name = one_line(&plan.name);
    out.say(format!("user {name}{}", if plan.new { ", new here" } else { "" }));
    out.say(format!("{:24}{:>16}{:>16}", "", "had", "gets here"));
    let line = |what: &str, had: String, gets: String| out.say(format!("{what:24}{had:>16}{gets:>16}"));
    line("priority up to", plan.had.priority_max.to_string(), plan.granted.priority_max.to_string());
    line("copies up to", plan.had.copies_max.to_string(), plan.granted.copies_max.to_string());
    line("bytes", quota(plan.had.quota_bytes), quota(plan.granted.quota_bytes));
    for s in &plan.sources {
        let place =
            if s.was == s.source.path { "to where it was".to_owned() } else { format!("to {}", shown(&s.place())) };
        out.say(format!(
            "{} {place}: {}, {}; priority {}",
            show_path(&s.was),
            plural(s.files, "file", "files"),
            bytes(s.bytes),
            s.source.priority
        ));
    }
    plan.schedules.keys().for_each(|n| out.say(format!("schedule {}", one_line(n))));
    said.notes.iter().for_each(|n| out.say(format!("note: {}", one_line(n))));
    said.fewer.iter().for_each(|n| out.say(format!("fewer rights: {}", one_line(n))));
    said.clashes.iter().for_each(|n| out.say(format!("in the way: {}", one_line(n))));
}

fn with_progress(g: &Global, zone: &mut Zone, dir: &Path, plan: &mut Plan) -> Result<RestoreReport, Failure> {
    let progress = Arc::new(Progress { stop: crate::interrupt::stop(), ..Progress::default() });
    let meter = Arc::new(Meter::default());
    meter.bytes.store(true, Ordering::Relaxed);
    meter.total.store(plan.sources.iter().map(|s| s.bytes).sum(), Ordering::Relaxed);
    let shown = {
        let progress = progress.clone();
        Display::start(g, meter, move |m| {
            m.done.store(progress.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
            m.file(&progress.current.ask());
        })
    };
    let done = go_on(zone, dir, plan, threads(), &progress);
    drop(shown);
    done.map_err(failed)
}

fn tell(out: Out, plan: &Plan, r: &RestoreReport, seconds: f64) -> i32 {
    out.warn_some(r.warnings.iter().map(|(p, why)| format!("{}: {why}", show_path(p))), r.warnings_count);
    out.warn_some(r.bad_copies.iter().map(|why| format!("not read: {why}")), r.bad_copies.len() as u64);
    out.json(&serde_json::json!({
        "type": "summary", "schema": "zoneward.user-import/1", "user": plan.name, "new": plan.new,
        "sources": plan.sources.iter().map(|s| serde_json::json!({
            "id": s.source.id, "was": show_path(&s.was), "path": shown(&s.place()),
        })).collect::<Vec<_>>(),
        "files": r.files, "dirs": r.dirs, "others": r.others, "bytes": r.bytes, "warnings": r.warnings_count, "seconds": seconds,
    }));
    out.say(format!(
        "{} is here with {}: {}, {} in {}",
        one_line(&plan.name),
        plural(plan.sources.len() as u64, "source", "sources"),
        plural(r.files, "file", "files"),
        bytes(r.bytes),
        duration(seconds)
    ));
    out.say("next: zoneward backup; the export is no longer needed once that is done");
    if r.warnings_count == 0 { 0 } else { exit::INCOMPLETE }
}

/// Ends an import that was cut.
fn end(out: Out, dir: &Path, before: Option<Plan>) -> Result<i32, Failure> {
    let Some(plan) = before else {
        return Err(Failure::new(1687, exit::REFUSED, "no import from there was begun and cut"));
    };
    let stay = give_up(dir, &plan).map_err(failed)?;
    let stay: Vec<String> = stay.iter().map(|p| shown(p)).collect();
    out.json(
        &serde_json::json!({"type": "summary", "schema": "zoneward.user-import/1", "given_up": true, "stay": stay}),
    );
    stay.iter().for_each(|p| out.say(format!("{p} was in its place already, and stays")));
    out.say("the import is given up; what was not in its place yet is gone");
    Ok(0)
}
