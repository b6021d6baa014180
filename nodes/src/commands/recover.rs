//! `recover`: a zone that was lost comes back on this machine, from one target and the owner's keys.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use zeroize::Zeroizing;
use zoneward_actors::errors::ZoneError;
use zoneward_actors::home::HomeError;
use zoneward_actors::keyless::closed;
use zoneward_actors::recover::{
    Doubt, Found, Note, Pending, RecoverError, ZoneOn, find, finish, pending, take_over, zones_on,
};
use zoneward_actors::restore::RestoreRequest;
use zoneward_actors::zone::Zone;
use zoneward_sectors::fsx;
use zoneward_sectors::headcode::HeadCode;
use zoneward_sectors::ids::ZoneAlias;
use zoneward_sectors::keyfile::{OwnerKeyFile, Words};
use zoneward_sectors::owner::OwnerKeys;
use zoneward_targets::Target;

use super::keys::unlock;
use super::make::{apart as home_apart, host_name, parse_url, place};
use super::restore::{Selection, missing, run, tell};
use super::{absolute, home, open, threads};
use crate::cli::{Global, RecoverArgs};
use crate::errors::{Failure, chain, exit};
use crate::output::Out;
use crate::passphrase;
use crate::units::{bytes, local_time, plural, show_path, utc_time};

/// Refuses what would write over a zone that is still being brought back.
pub(crate) fn refuse_while_pending(dir: &Path) -> Result<(), Failure> {
    let Some(p) = pending(dir)? else { return Ok(()) };
    let what = p.checkpoint.map_or_else(String::new, |seq| format!(" from checkpoint {seq}"));
    Err(Failure::new(
        1612,
        exit::REFUSED,
        format!("this zone is being brought back{what}, and is read-only until then"),
    )
    .why("a backup now would take files that are not back yet for deleted ones")
    .help(
        "go on with zoneward recover --to DIR or --in-place; or say that the files are back: zoneward recover --finish",
    ))
}

pub fn recover(g: &Global, out: Out, a: &RecoverArgs) -> Result<i32, Failure> {
    let dir = home(g)?;
    let before = pending(&dir)?;
    if a.finish {
        return end(out, &dir, before);
    }
    let (owner, doubt) = match before {
        None => {
            let (owner, doubt) = bring_state(g, out, a, &dir)?;
            (Some(owner), doubt)
        }
        Some(p) => {
            out.say("the zone's state is here already; going on with its files");
            (None, p.doubt)
        }
    };
    if a.state_only {
        out.say(
            "next: zoneward recover --to DIR or --in-place brings the files; zoneward checkpoints shows what there is",
        );
        return Ok(if doubt == Some(Doubt::Older) { exit::INCOMPLETE } else { 0 });
    }
    bring_files(g, out, a, &dir, owner, doubt)
}

fn end(out: Out, dir: &Path, before: Option<Pending>) -> Result<i32, Failure> {
    if before.is_none() {
        return Err(Failure::new(1613, exit::REFUSED, "no zone is being brought back in this home"));
    }
    finish(dir)?;
    out.json(&serde_json::json!({"type": "summary", "schema": "zoneward.recover/1", "finished": true}));
    say_what_is_next(out);
    Ok(0)
}

fn say_what_is_next(out: Out) {
    out.say("the zone works as before from now on, with this node alone");
    out.say("next: zoneward backup; zoneward up; zoneward node invite for each further device");
}

/// Zones of one target that a passphrase is tried on.
const TRIED_MAX: usize = 16;

/// The zone that the keys open, of those on the target.
pub(super) fn choose(
    on: &str,
    zones: Vec<ZoneOn>,
    key: Option<&Path>,
    secret: &str,
) -> Result<(ZoneAlias, OwnerKeyFile, OwnerKeys), Failure> {
    let given = key.map(read_key).transpose()?;
    let (mut opened, mut sealed_under_words_only, mut any) = (Vec::new(), false, false);
    let words = Words::parse(secret).ok();
    // Each costs what its file asks for: up to 1 GiB of memory, and a target can show as many as it likes.
    let costly = given.is_none() && words.is_none();
    if costly
        && zones.iter().filter(|z| z.keyfile.as_ref().is_some_and(OwnerKeyFile::has_passphrase)).count() > TRIED_MAX
    {
        let text = format!("the target holds more than {TRIED_MAX} zones that a passphrase might open");
        return Err(Failure::new(1614, exit::USAGE, text)
            .help("name yours: --zone NAME, the beginning of its folder in zones/; or give the 24 words"));
    }
    for z in zones {
        let Some(file) = given.clone().or(z.keyfile) else { continue };
        any = true;
        let open = match &words {
            Some(words) => file.open_with_words(words).ok(),
            None => file.open_with_passphrase(secret).ok(),
        };
        match open {
            Some(keys) => opened.push((z.alias, file, keys)),
            None => sealed_under_words_only |= !file.has_passphrase(),
        }
    }
    let many = opened.len();
    match opened.pop() {
        Some(one) if many == 1 => Ok(one),
        Some(_) => Err(Failure::new(1614, exit::USAGE, format!("the target holds {many} zones that these keys open"))
            .help("name one: --zone NAME, the beginning of its folder in zones/")),
        None if !any => {
            Err(Failure::new(1615, exit::FAILED, format!("the target {on} holds no owner's sealed key of such a zone"))
                .why("its owner-key.json is gone or damaged, or the target belongs to no zone")
                .help("give the key file of the zone with --key FILE, or another --target"))
        }
        None => {
            let why = sealed_under_words_only.then_some("the key on the target is sealed under the 24 words only");
            let failure = Failure::new(1107, exit::WRONG_KEY, "neither the 24 words nor the passphrase of this zone");
            Err(why.map_or(failure.clone(), |w| failure.why(w)).help("type the 24 words of the recovery kit, in order"))
        }
    }
}

fn read_key(path: &Path) -> Result<OwnerKeyFile, Failure> {
    let fail = |why: String| {
        Failure::new(1108, exit::FAILED, format!("the owner's key file {} cannot be used", path.display())).why(why)
    };
    let read = fsx::read_limited(path, 1 << 16).map_err(|e| fail(e.to_string()))?;
    OwnerKeyFile::from_bytes(&read).map_err(|e| fail(e.to_string()))
}

pub(super) fn failed(e: RecoverError) -> Failure {
    let why = chain(&e);
    match e {
        RecoverError::Zone(e) => e.into(),
        RecoverError::Target(e) => ZoneError::Target(e).into(),
        RecoverError::NothingFound => Failure::new(1616, exit::DAMAGE, "no system data of this zone was found")
            .why(why)
            .help("try another target; docs/rescue/README.md reads what sectors there are without it"),
        RecoverError::Unreadable { .. } | RecoverError::State(_) => Failure::new(
            1616,
            exit::DAMAGE,
            "the newest system data cannot be read",
        )
        .why(why)
        .help(
            "make another target of the zone reachable, or name it with --target; --only-this-target leaves others out",
        ),
        RecoverError::Unvouched { .. } => {
            Failure::new(1666, exit::REFUSED, "a target shows a newer head that the zone's voters did not sign")
                .why(why)
                .help(
                    "it may be forged by a node that was stolen, or the voters changed while most of them were lost. Compare \
                     the head code that you kept; name the target that you trust with --target, and add --only-this-target",
                )
        }
        RecoverError::Forked { .. } => {
            Failure::new(1617, exit::REFUSED, "the zone has two histories, and which one counts is for you to say")
                .why(why)
                .help("name the target that you trust with --target, and add --only-this-target")
        }
    }
}

/// Brings the zone's state here: from then on this is the home of its only node. Answers whether it may not be the newest.
fn bring_state(g: &Global, out: Out, a: &RecoverArgs, dir: &Path) -> Result<(OwnerKeys, Option<Doubt>), Failure> {
    let Some(url) = &a.target else {
        return Err(Failure::new(1611, exit::USAGE, "there is no recovery to go on with in this home")
            .help("name a target of the lost zone: zoneward recover --target URL"));
    };
    if dir.join("zone.redb").exists() {
        return Err(ZoneError::from(HomeError::Exists(dir.to_owned())).into());
    }
    let known = a.head.as_deref().map(HeadCode::parse).transpose().map_err(|e| {
        Failure::new(1619, exit::USAGE, e.to_string())
            .help("leave --head out if the code is lost: then the newest state that any target shows is taken")
    })?;
    let place = place(parse_url(url)?, a.credentials_file.as_deref())?;
    home_apart(dir, std::slice::from_ref(&place.url))?;
    let target = zoneward_targets::open(&place.url, None, place.credentials.as_ref()).map_err(ZoneError::from)?;
    let target: Arc<dyn Target> = Arc::from(target);
    let beginning = a.zone.as_deref().unwrap_or_default().to_lowercase();
    let zones = zones_on(target.as_ref(), &beginning).map_err(ZoneError::from)?;
    let secret: Zeroizing<String> =
        passphrase::get(g.passphrase_file.as_deref(), "ZONEWARD_PASSPHRASE", "24 words, or passphrase")?;
    let (alias, file, owner) = choose(&target.describe(), zones, a.key.as_deref(), &secret)?;
    let found = find(&target, alias, &owner, a.only_this_target).map_err(failed)?;
    tell_found(out, &found);
    if let Some(known) = &known {
        compare(known, &found)?;
    }
    let doubt = found.doubt();
    let name = a.node_name.clone().unwrap_or_else(host_name);
    take_over(dir, found, &owner, &file, (target.id(), &place), &name).map_err(failed)?;
    if !file.has_passphrase() {
        out.say("this home's owner key is sealed under the 24 words alone: zoneward key passphrase sets a passphrase");
    }
    out.say(
        "devices of the old zone that still run must not be used any more: they would write as if nothing had happened",
    );
    Ok((owner, doubt))
}

/// Whether what was found is what a person knows of, or newer.
fn compare(known: &HeadCode, found: &Found) -> Result<(), Failure> {
    let help = "nothing was brought back. Name another target, or leave --head out to take this state all the same";
    let Some(code) = found.head_code() else {
        return Err(Failure::new(
            1620,
            exit::REFUSED,
            "no target shows a head that can be compared with the one you know",
        )
        .why(format!("you know of head {}", known.n))
        .help(help));
    };
    if code.n < known.n {
        let text = format!("the targets show head {}, and you know of a newer one: {}", code.n, known.n);
        return Err(Failure::new(1620, exit::REFUSED, text).why("they are behind, or were set back").help(help));
    }
    if code.n == known.n && code != *known {
        return Err(Failure::new(
            1617,
            exit::REFUSED,
            format!("the targets show another head {} than the one you know", code.n),
        )
        .why("the code was mistyped, or somebody wrote another history of this zone")
        .help(help));
    }
    Ok(())
}

fn tell_found(out: Out, found: &Found) {
    let state = &found.state;
    let name = state.zone.as_ref().map_or("", |z| &z.name);
    let newest = state.complete().last().copied();
    let notes: Vec<String> = found.notes.iter().map(note).collect();
    out.json(&serde_json::json!({
        "type": "state", "schema": "zoneward.recover/1", "zone": state.zone.as_ref().map(|z| z.id), "name": name,
        "head": found.head.as_ref().map(|h| h.n), "written": utc_time(found.time_ms), "checkpoint": newest.map(|c| c.seq),
        "notes": notes,
    }));
    out.say(format!("zone {name}: its state as of {}", local_time(found.time_ms)));
    if let Some(c) = newest {
        out.say(format!(
            "newest checkpoint {} of {}; {}, {}",
            c.seq,
            local_time(c.started_ms),
            plural(c.tasks.len() as u64, "source", "sources"),
            bytes(c.tasks.iter().map(|t| t.stats.bytes).sum())
        ));
    }
    notes.iter().for_each(|n| out.warn(n));
}

pub(super) fn note(n: &Note) -> String {
    match n {
        Note::NoHead { target } => format!(
            "target {target} shows no head that can be believed; this is the newest system data among its sectors, and \
             newer data may lie elsewhere"
        ),
        Note::HeadAway { target, why } => format!(
            "target {target} does not let its head be read ({why}); this is the newest system data among its sectors, and newer \
             data may lie elsewhere"
        ),
        Note::Unreadable { target, n, time_ms } => format!(
            "the newest system data that target {target} speaks of ({n}, of {}) cannot be read there; another target's is \
             taken if there is one, else what is older (then the next backup needs --allow-older-home)",
            local_time(*time_ms)
        ),
        Note::Older { target, n, time_ms } => {
            format!(
                "target {target} shows an older state ({n}, of {}): it is behind, or rolled back",
                local_time(*time_ms)
            )
        }
        Note::Overruled { target, n, time_ms } => format!(
            "target {target} shows a state ({n}, of {}) in the name of nodes that no longer speak for the zone: it is left out",
            local_time(*time_ms)
        ),
        Note::Unvouched { n } => format!(
            "head {n} is signed by a node of the zone, and nothing shows that most of its voters agreed: compare it with the head \
             code that you kept"
        ),
        Note::Away { target, why } => format!("target {target} cannot be asked, and may know of newer data: {why}"),
        Note::Wasteful { target } => format!(
            "target {target} lists sectors that cannot be read, and was not looked through to its end: copies there may be \
             taken for lost"
        ),
        Note::Silent { target } => format!("target {target} shows nothing of this zone that can be believed"),
    }
}

/// Brings files back, source by source, the most important first. What only the owner can read needs the owner's keys again
/// if this goes on with what was cut.
fn bring_files(
    g: &Global,
    out: Out,
    a: &RecoverArgs,
    dir: &Path,
    owner: Option<OwnerKeys>,
    doubt: Option<Doubt>,
) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    let checkpoint = zone.state().find_checkpoint(&a.checkpoint)?.clone();
    let layers: Vec<_> = checkpoint.tasks.iter().flat_map(|t| t.layers.iter().copied()).collect();
    if !closed(&zone, &layers).is_empty() {
        let keys = match owner {
            Some(keys) => keys,
            None => unlock(g, &zone)?.keys,
        };
        zone.use_owner_keys(keys);
    }
    let to = a.to.as_deref().map(absolute).transpose()?;
    if to.is_none() && !a.in_place {
        return Err(Failure::new(1618, exit::USAGE, "where shall the files go?")
            .help("--to DIR, --in-place, or --state-only to look first"));
    }
    let selection = Selection::of_paths(&a.only)?;
    if let Some(m) = missing(&zone, checkpoint.id, &selection)? {
        return Err(Failure::new(
            1602,
            exit::FAILED,
            format!("checkpoint {} holds no {}", checkpoint.seq, show_path(&m)),
        )
        .help(
            "zoneward ls CP PATH and zoneward find PATTERN show what there is. The zone's state is here and stays: zoneward \
             recover again, without --target, goes on",
        ));
    }
    if let Some(to) = &to {
        super::restore::apart(&zone, to)?;
    }
    let started = Instant::now();
    let request = RestoreRequest {
        checkpoint: checkpoint.id,
        to: to.clone(),
        wanted: &|path, is_dir| selection.wants(path, is_dir),
        verify: a.verify,
        threads: threads(),
    };
    let total = run(g, &zone, &request)?;
    let code = tell(out, &total, to.as_deref(), started.elapsed().as_secs_f64());
    match doubt {
        Some(Doubt::Older) => out.warn("all of this is of an older state: the newest one could not be read"),
        Some(Doubt::NoHead) => out.warn(
            "nothing shows that all of this is of the newest state: no head that can be believed spoke of it, and newer data \
             may lie elsewhere",
        ),
        None => {}
    }
    let code = if doubt == Some(Doubt::Older) && code == 0 { exit::INCOMPLETE } else { code };
    tell_rest(out, &zone, dir, a, code)?;
    Ok(code)
}

/// Everything is back, or what is left to do.
fn tell_rest(out: Out, zone: &Zone, dir: &Path, a: &RecoverArgs, code: i32) -> Result<(), Failure> {
    let newest = zone.state().complete().last().map(|c| c.seq);
    let all = a.only.is_empty() && zone.state().find_checkpoint(&a.checkpoint).is_ok_and(|c| Some(c.seq) == newest);
    match (code, all, a.in_place) {
        (0, true, true) => {
            finish(dir)?;
            say_what_is_next(out);
        }
        (0, true, false) => {
            out.say("all files are back, below the folder you named; the zone stays read-only until they are in their places");
            out.say("next: move them there, then zoneward recover --finish");
        }
        (0, false, _) => out.say("a part is back; the rest: zoneward recover again, without --only"),
        _ => out.say("not everything came back: run it again when more can be reached; or, if that is all there is, zoneward recover --finish"),
    }
    Ok(())
}
