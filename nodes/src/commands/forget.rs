//! `forget`, `undelete`, `retention`, `tag`: which checkpoints stay.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::tz::TimeZone;
use zoneward_actors::clock::now_ms;
use zoneward_actors::retention::{Judged, judge};
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::keep::{Hold, Rules, Sudden, grace_is_over, held_back};
use zoneward_consensus::model::{Checkpoint, State};
use zoneward_consensus::owner::{Act, OwnerWord, message};
use zoneward_sectors::crypto::Signer;
use zoneward_sectors::ids::CheckpointId;

use super::keys::unlock;
use super::open;
use crate::cli::{ForgetArgs, Global, KeepArgs, RetentionCommand, TagArgs, UndeleteArgs};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::{bytes, local_time, plural, show_path, span};

/// For so long a word of the owner counts, ms: as long as a command takes.
const WORD_MS: u64 = 600_000;

/// The owner's word for an act: asks for the passphrase.
pub(super) fn owner_word(g: &Global, zone: &Zone, act: Act<'_>) -> Result<OwnerWord, Failure> {
    let record = zone.state().zone.as_ref().ok_or_else(|| Failure::new(1005, exit::FAILED, "this home has no zone"))?;
    let unlocked = unlock(g, zone)?;
    // The zone's time may be ahead of this machine's.
    let expires_ms = now_ms().max(zone.state().last_time_ms) + WORD_MS;
    let signature = STANDARD.encode(unlocked.keys.signing_key().sign(&message(record, act, expires_ms)));
    Ok(OwnerWord { expires_ms, signature })
}

fn rules_of(a: &KeepArgs) -> Rules {
    let n = |n: Option<u32>| n.unwrap_or(0);
    Rules {
        last: n(a.keep_last),
        hourly: n(a.keep_hourly),
        daily: n(a.keep_daily),
        weekly: n(a.keep_weekly),
        monthly: n(a.keep_monthly),
        yearly: n(a.keep_yearly),
        within_s: u64::from(n(a.keep_within)),
        tags: a.keep_tag.iter().cloned().collect(),
    }
}

fn rules_text(r: &Rules) -> String {
    let counts = [
        (r.last, "last"),
        (r.hourly, "hourly"),
        (r.daily, "daily"),
        (r.weekly, "weekly"),
        (r.monthly, "monthly"),
        (r.yearly, "yearly"),
    ];
    let mut all: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if r.within_s > 0 {
        all.push(format!("all within {}", span(r.within_s)));
    }
    all.extend(r.tags.iter().map(|t| format!("tag {t}")));
    all.join(", ")
}

fn find(state: &State, names: &[String]) -> Result<Vec<CheckpointId>, Failure> {
    let mut out = Vec::new();
    for name in names {
        let id = state.find_checkpoint(name)?.id;
        if !out.contains(&id) {
            out.push(id);
        }
    }
    Ok(out)
}

/// What a person is told of a checkpoint.
fn line(c: &Checkpoint) -> String {
    let tags: Vec<&str> = c.tags.iter().map(String::as_str).collect();
    let tags = if tags.is_empty() { String::new() } else { format!("  [{}]", tags.join(", ")) };
    format!("{:>5}  {:.8}  {}{tags}", c.seq, c.id.to_string(), local_time(c.started_ms))
}

/// Why forgetting waits for the owner.
/// A sudden change in words.
pub(crate) fn sudden_text(state: &State, change: &Sudden) -> String {
    let path = state.source_ever(change.source).map_or_else(|| change.source.to_string(), |s| show_path(&s.path));
    let Sudden { seq, files, of, .. } = change;
    format!("in checkpoint {seq}, {files} of {of} files of {path} had changed or gone at once")
}

pub(crate) fn hold_text(state: &State, hold: &Hold) -> String {
    match hold {
        Hold::LastVerified(source) => {
            let path = state.source_ever(*source).map_or_else(|| source.to_string(), |s| show_path(&s.path));
            format!("of {path} no other checkpoint is left that was looked at and found whole")
        }
        Hold::Pinned(change) => {
            format!("it holds what was there before a sudden change: {}", sudden_text(state, change))
        }
        Hold::Much { gone, of } => format!("{} of {} would be needed no more", bytes(*gone), bytes(*of)),
    }
}

pub fn forget(g: &Global, out: Out, a: &ForgetArgs) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    let state = zone.state();
    let rules = rules_of(&a.keep);
    let (ids, judged) = if !a.checkpoints.is_empty() {
        (find(state, &a.checkpoints)?, Vec::new())
    } else {
        let own = state.policy.retention.clone();
        let rules = if rules.keep_something() { Some(rules) } else { own };
        let rules = rules.ok_or_else(|| {
            Failure::new(1621, exit::USAGE, "nothing says what to forget")
                .why("rules that keep nothing would forget everything")
                .help("name checkpoints, or give rules: zoneward forget --keep-daily 7 --keep-weekly 5")
        })?;
        let judged = judge(state, &rules, &TimeZone::system());
        (judged.iter().filter(|j| j.reasons.is_empty()).map(|j| j.id).collect(), judged)
    };
    refuse_newest(state, &ids)?;
    let hold = held_back(state, &ids).filter(|_| !ids.is_empty());
    tell_judged(out, state, &judged);
    let said = a.owner || a.now;
    let grace = span(u64::from(state.policy.grace_s));
    let document = |applied: bool, state: &State| {
        let kept = judged.iter().filter(|j| !j.reasons.is_empty());
        let seq = |id: &CheckpointId| state.checkpoints.get(id).map(|c| c.seq);
        out.json(&serde_json::json!({
            "schema": "zoneward.forget/1", "applied": applied, "grace_s": if a.now { 0 } else { state.policy.grace_s },
            "forget": ids.iter().map(|id| serde_json::json!({"id": id, "seq": seq(id)})).collect::<Vec<_>>(),
            "keep": kept.map(|j| serde_json::json!({"id": j.id, "seq": seq(&j.id), "reasons": j.reasons})).collect::<Vec<_>>(),
            "needs_owner": hold.as_ref().map(|h| hold_text(state, h)),
        }));
    };
    if ids.is_empty() {
        document(a.apply, state);
        out.say("nothing is to be forgotten");
        return Ok(0);
    }
    if let (Some(h), true, false) = (&hold, a.apply, said) {
        return Err(Failure::new(1623, exit::REFUSED, "this waits for the owner")
            .why(hold_text(state, h))
            .help("say so with the owner's passphrase: add --owner"));
    }
    if !a.apply {
        ids.iter()
            .filter_map(|id| state.checkpoints.get(id))
            .for_each(|c| out.say(format!("would forget {}", line(c))));
        if let Some(h) = &hold {
            out.say(format!("the owner has to say so (--owner): {}", hold_text(state, h)));
        }
        document(false, state);
        let n = plural(ids.len() as u64, "checkpoint", "checkpoints");
        out.say(format!(
            "{n} would be forgotten; --apply does it, and for {grace} it can be taken back (zoneward undelete)"
        ));
        return Ok(0);
    }
    let owner = match said {
        true => Some(owner_word(g, &zone, Act::Forget { checkpoints: &ids, now: a.now })?),
        false => None,
    };
    zoneward_actors::credit::tell(&mut zone)?;
    zone.propose(Command::Forget { checkpoints: ids.clone(), now: a.now, owner })?;
    let state = zone.state();
    document(true, state);
    ids.iter().filter_map(|id| state.checkpoints.get(id)).for_each(|c| out.say(format!("forgotten {}", line(c))));
    if a.now {
        out.say("they leave with the next backup; zoneward prune --apply frees what only they needed");
    } else {
        out.say(format!(
            "for {grace} they can be taken back: zoneward undelete; after that zoneward prune frees their room"
        ));
    }
    Ok(0)
}

fn refuse_newest(state: &State, ids: &[CheckpointId]) -> Result<(), Failure> {
    match state.complete().last() {
        Some(newest) if ids.contains(&newest.id) => {
            Err(Failure::new(1622, exit::REFUSED, "the newest checkpoint stays")
                .why("the next backup builds on it")
                .help("make another one first: zoneward backup"))
        }
        _ => Ok(()),
    }
}

fn tell_judged(out: Out, state: &State, judged: &[Judged]) {
    for j in judged.iter().filter(|j| !j.reasons.is_empty()) {
        if let Some(c) = state.checkpoints.get(&j.id) {
            out.say(format!("keep {}  {}", line(c), j.reasons.join(", ")));
        }
    }
}

pub fn undelete(g: &Global, out: Out, a: &UndeleteArgs) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    let ids = find(zone.state(), &a.checkpoints)?;
    for id in &ids {
        if let Some(c) = zone.state().checkpoints.get(id).filter(|c| c.forgotten.is_none()) {
            return Err(Failure::new(1624, exit::FAILED, format!("checkpoint {} is not forgotten", c.seq))
                .help("zoneward checkpoints --forgotten lists those that are"));
        }
    }
    zone.propose(Command::Remember { checkpoints: ids.clone() })?;
    out.json(&serde_json::json!({"schema": "zoneward.undelete/1", "checkpoints": ids}));
    let state = zone.state();
    ids.iter().filter_map(|id| state.checkpoints.get(id)).for_each(|c| out.say(format!("kept again {}", line(c))));
    Ok(0)
}

/// Tags as they may be; a comma is left for lists.
pub(super) fn tags_ok(tags: &[String]) -> Result<(), Failure> {
    let bad = |t: &&String| t.is_empty() || t.len() > 100 || t.contains(',') || t.chars().any(char::is_control);
    match tags.iter().find(bad) {
        None => Ok(()),
        Some(t) => Err(Failure::new(1625, exit::USAGE, format!("{t:?} cannot be a tag"))
            .why("a tag is 1 to 100 bytes of text without commas and control characters")),
    }
}

pub fn tag(g: &Global, out: Out, a: &TagArgs) -> Result<i32, Failure> {
    tags_ok(&a.add)?;
    let mut zone = open(g)?;
    let ids = find(zone.state(), &a.checkpoints)?;
    let mut told = Vec::new();
    for id in ids {
        let Some(c) = zone.state().checkpoints.get(&id) else { continue };
        let mut tags: BTreeSet<String> = c.tags.clone();
        tags.extend(a.add.iter().cloned());
        tags.retain(|t| !a.remove.contains(t));
        if tags.len() > zoneward_consensus::limits::TAGS_MAX {
            return Err(Failure::new(1625, exit::USAGE, format!("checkpoint {} would have too many tags", c.seq)));
        }
        zone.propose(Command::SetTags { checkpoint: id, tags: tags.clone() })?;
        told.push(serde_json::json!({"id": id, "tags": tags}));
        if let Some(c) = zone.state().checkpoints.get(&id) {
            out.say(line(c));
        }
    }
    out.json(&serde_json::json!({"schema": "zoneward.tag/1", "checkpoints": told}));
    Ok(0)
}

pub fn retention(g: &Global, out: Out, command: RetentionCommand) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    match command {
        RetentionCommand::Show => {}
        RetentionCommand::Clear => zone.propose(Command::SetRetention { rules: None })?,
        RetentionCommand::Set { keep, grace, owner } => {
            let rules = rules_of(&keep);
            tags_ok(&keep.keep_tag)?;
            if !rules.keep_something() && grace.is_none() {
                return Err(Failure::new(1621, exit::USAGE, "these rules would keep nothing")
                    .help("zoneward retention set --keep-daily 7 --keep-weekly 5 --keep-monthly 12"));
            }
            if let Some(grace_s) = grace {
                let shorter = grace_s < zone.state().policy.grace_s;
                if shorter && !owner {
                    return Err(Failure::new(1626, exit::REFUSED, "only the owner can make the grace shorter")
                        .why("whoever holds a node could then remove what was backed up, at once")
                        .help("say so with the owner's passphrase: add --owner"));
                }
                let word = if shorter { Some(owner_word(g, &zone, Act::Grace { grace_s })?) } else { None };
                zone.propose(Command::SetGrace { grace_s, owner: word })?;
            }
            if rules.keep_something() {
                zone.propose(Command::SetRetention { rules: Some(rules) })?;
            }
        }
    }
    show(out, zone.state());
    Ok(0)
}

fn show(out: Out, state: &State) {
    let rules = state.policy.retention.clone();
    let judged = rules.as_ref().map(|r| judge(state, r, &TimeZone::system())).unwrap_or_default();
    let due: Vec<CheckpointId> = judged.iter().filter(|j| j.reasons.is_empty()).map(|j| j.id).collect();
    let hold = held_back(state, &due).filter(|_| !due.is_empty()).map(|h| hold_text(state, &h));
    let waiting: Vec<&Checkpoint> = state.complete().into_iter().filter(|c| c.forgotten.is_some()).collect();
    out.json(&serde_json::json!({
        "schema": "zoneward.retention/1", "rules": rules, "grace_s": state.policy.grace_s,
        "forgotten": waiting.iter().map(|c| c.id).collect::<Vec<_>>(), "due": due, "needs_owner": hold,
    }));
    match &rules {
        Some(r) => out.answer(format!("rules      {}", rules_text(r))),
        None => out.answer("rules      none: every checkpoint is kept"),
    }
    out.answer(format!("grace      {}", span(u64::from(state.policy.grace_s))));
    let over = waiting.iter().filter(|c| grace_is_over(state, c)).count();
    out.answer(format!("forgotten  {} ({over} of them leave with the next backup)", waiting.len()));
    if let Some(why) = hold {
        out.answer(format!("waiting    {} for the owner (zoneward forget --apply --owner): {why}", due.len()));
    }
}
