//! Looking without restoring: `checkpoints`, `ls`, `find`, `diff`, `cat`. All but `cat` read local catalogs alone.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use zoneward_actors::errors::ZoneError;
use zoneward_actors::restore::{Held, absolute as join, is_within as within, sources_of};
use zoneward_actors::zone::Zone;
use zoneward_consensus::keep::grace_is_over;
use zoneward_consensus::model::{Checkpoint, CheckpointKind, CheckpointState, TaskState};
use zoneward_sectors::entry::{Entry, Extent, Kind};
use zoneward_sectors::glob::Excludes;
use zoneward_sectors::ids::CheckpointId;
use zoneward_sectors::sector_reader::SectorReadError;

use super::{PATTERNS, as_stored, open};
use crate::cli::{CatArgs, CheckpointsArgs, DiffArgs, FindArgs, Global, LsArgs};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::{bytes, local_time, show_path, utc_time};

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::HardLink => "hardlink",
        Kind::Fifo => "fifo",
        Kind::CharDevice => "chardev",
        Kind::BlockDevice => "blockdev",
    }
}

/// Runs `f` on every entry of a checkpoint, with its absolute path, source by source.
fn each_entry(
    zone: &Zone,
    checkpoint: CheckpointId,
    mut f: impl FnMut(&Held, Vec<u8>, Entry) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let opener = zone.opener();
    for held in sources_of(zone, checkpoint) {
        for entry in zone.catalogs(&opener).entries(&held.layers).map_err(ZoneError::from)? {
            let entry = entry.map_err(|e| ZoneError::Catalogs(e.into()))?;
            let path = join(&held.path, &entry.path);
            if !f(&held, path, entry)? {
                break;
            }
        }
    }
    Ok(())
}

fn checkpoint_json(zone: &Zone, c: &Checkpoint) -> serde_json::Value {
    let tasks: Vec<_> = c
        .tasks
        .iter()
        .map(|t| {
            let path = zone.state().source_ever(t.source).map(|s| show_path(&s.path));
            serde_json::json!({
                "source": t.source, "path": path, "as_of": utc_time(t.as_of_ms), "carried": t.state == TaskState::Carried,
                "files": t.stats.files, "bytes": t.stats.bytes, "new_bytes": t.stats.new_bytes, "unread": t.stats.unread,
                "unsteady": t.stats.unsteady, "warnings": t.warnings,
            })
        })
        .collect();
    serde_json::json!({
        "id": c.id, "seq": c.seq, "kind": zone.state().kind_made(c), "state": c.state, "started": utc_time(c.started_ms),
        "finished": c.finished_ms.map(utc_time), "published": c.state == CheckpointState::Published,
        "tags": c.tags, "forgotten": c.forgotten.map(|f| utc_time(f.at_ms)),
        "complete": c.tasks.iter().all(|t| t.stats.unread + t.stats.unsteady == 0), "sources": tasks,
    })
}

pub fn checkpoints(g: &Global, out: Out, a: &CheckpointsArgs) -> Result<i32, Failure> {
    let zone = open(g)?;
    let mut all = zone.state().complete();
    all.retain(|c| c.forgotten.is_some() == a.forgotten && a.tag.as_ref().is_none_or(|t| c.tags.contains(t)));
    if let Some(path) = &a.source {
        let path = as_stored(path)?;
        let id = zone.state().source_at(path.as_os_str().as_bytes()).map(|s| s.id);
        let id = id.ok_or_else(|| Failure::new(1408, exit::FAILED, format!("{} is not a source", path.display())))?;
        all.retain(|c| c.tasks.iter().any(|t| t.source == id));
    }
    let skip = a.last.map_or(0, |n| all.len().saturating_sub(n));
    let shown: Vec<_> = all.into_iter().skip(skip).collect();
    out.json(&serde_json::json!({
        "schema": "zoneward.checkpoints/1",
        "checkpoints": shown.iter().map(|c| checkpoint_json(&zone, c)).collect::<Vec<_>>(),
    }));
    for c in &shown {
        let unread: u64 = c.tasks.iter().map(|t| t.stats.unread + t.stats.unsteady).sum();
        let note = match (c.state, unread) {
            (CheckpointState::Stored, _) => "  not published yet".to_owned(),
            (_, 0) => String::new(),
            (_, n) => format!("  {n} could not be read well"),
        };
        let kind = if c.kind == CheckpointKind::Synthetic { "  synthetic" } else { "" };
        let tags: Vec<&str> = c.tags.iter().map(String::as_str).collect();
        let tags = if tags.is_empty() { String::new() } else { format!("  [{}]", tags.join(", ")) };
        let gone = c.forgotten.map(|f| match grace_is_over(zone.state(), c) {
            true => "  leaves with the next backup".to_owned(),
            false => format!("  forgotten {}", local_time(f.at_ms)),
        });
        let gone = gone.unwrap_or_default();
        let head = format!("{:>5}  {:.8}  {}", c.seq, c.id.to_string(), local_time(c.started_ms));
        out.answer(format!("{head}{kind}{tags}{gone}{note}"));
        for t in &c.tasks {
            let Some(s) = zone.state().source_ever(t.source) else { continue };
            let as_of = if t.state == TaskState::Carried {
                format!("  as of {}", local_time(t.as_of_ms))
            } else {
                String::new()
            };
            out.answer(format!("         {:>10}  {}{as_of}", bytes(t.stats.bytes), show_path(&s.path)));
        }
    }
    if shown.is_empty() && a.forgotten {
        out.say("no checkpoint is forgotten");
    } else if shown.is_empty() {
        out.say("no checkpoint yet: zoneward backup PATH makes one");
    }
    Ok(0)
}

fn long_line(path: &[u8], e: &Entry) -> String {
    let letter = match e.meta.kind {
        Kind::File | Kind::HardLink => '-',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
    };
    let bit = |n: u32, c: char| if e.meta.mode & n != 0 { c } else { '-' };
    let special = |x: u32, s: u32, both: char, only: char| match (e.meta.mode & x != 0, e.meta.mode & s != 0) {
        (true, true) => both,
        (false, true) => only,
        (true, false) => 'x',
        (false, false) => '-',
    };
    let mode: String = [
        letter,
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        special(0o100, 0o4000, 's', 'S'),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        special(0o010, 0o2000, 's', 'S'),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        special(0o001, 0o1000, 't', 'T'),
    ]
    .iter()
    .collect();
    let time = u64::try_from(e.meta.mtime.secs)
        .map_or_else(|_| e.meta.mtime.secs.to_string(), |s| local_time(s.saturating_mul(1000)));
    let link = match e.meta.kind {
        Kind::Symlink => format!(" -> {}", show_path(&e.link)),
        Kind::HardLink => format!(" is {}", show_path(&e.link)),
        _ => String::new(),
    };
    format!("{mode} {:>6} {:>6} {:>12} {time} {}{link}", e.meta.uid, e.meta.gid, e.meta.size, show_path(path))
}

fn entry_json(path: &[u8], e: &Entry) -> serde_json::Value {
    serde_json::json!({
        "type": "item", "path": show_path(path), "kind": kind_name(e.meta.kind), "mode": format!("{:04o}", e.meta.mode),
        "uid": e.meta.uid, "gid": e.meta.gid, "size": e.meta.size, "mtime": e.meta.mtime.secs, "mtime_nanos": e.meta.mtime.nanos,
        "link": (!e.link.is_empty()).then(|| show_path(&e.link)), "unsteady": e.unsteady,
    })
}

pub fn ls(g: &Global, out: Out, a: &LsArgs) -> Result<i32, Failure> {
    let zone = open(g)?;
    let checkpoint = zone.state().find_checkpoint(&a.checkpoint)?.id;
    let top = a.path.as_deref().map(as_stored).transpose()?.map(|p| p.as_os_str().as_bytes().to_vec());
    let mut n = 0u64;
    each_entry(&zone, checkpoint, |_, path, e| {
        if top.as_ref().is_none_or(|t| within(&path, t)) {
            n += 1;
            out.json(&entry_json(&path, &e));
            out.answer(if a.long { long_line(&path, &e) } else { show_path(&path) });
        }
        Ok(true)
    })?;
    if n == 0
        && let Some(t) = &top
    {
        return Err(Failure::new(1602, exit::FAILED, format!("checkpoint {} holds no {}", a.checkpoint, show_path(t)))
            .help("zoneward find PATTERN looks in all checkpoints"));
    }
    out.json(&serde_json::json!({"type": "summary", "schema": "zoneward.ls/1", "entries": n}));
    Ok(0)
}

pub fn find(g: &Global, out: Out, a: &FindArgs) -> Result<i32, Failure> {
    let zone = open(g)?;
    let rules = Excludes::new(std::slice::from_ref(&a.pattern), false)
        .map_err(|e| Failure::new(1406, exit::USAGE, "the pattern is wrong").why(e.to_string()).help(PATTERNS))?;
    let chosen: Vec<(CheckpointId, u64)> = match &a.checkpoint {
        Some(text) => zone.state().find_checkpoint(text).map(|c| vec![(c.id, c.seq)])?,
        None => zone.state().complete().iter().map(|c| (c.id, c.seq)).collect(),
    };
    let mut n = 0u64;
    for (id, seq) in chosen {
        each_entry(&zone, id, |_, path, e| {
            if rules.matches(path.get(1..).unwrap_or_default(), &path, e.meta.kind == Kind::Dir) {
                n += 1;
                let mut item = entry_json(&path, &e);
                item["checkpoint"] = serde_json::json!(seq);
                out.json(&item);
                out.answer(format!("{seq:>5}  {}", long_line(&path, &e)));
            }
            Ok(true)
        })?;
    }
    out.json(&serde_json::json!({"type": "summary", "schema": "zoneward.find/1", "found": n}));
    if n == 0 {
        out.say("nothing found");
    }
    Ok(if n == 0 { exit::FAILED } else { 0 })
}

/// What differs between two entries of one path, in words.
fn difference(a: &Entry, b: &Entry) -> Option<&'static str> {
    let names = |e: &Entry| matches!(e.meta.kind, Kind::File | Kind::HardLink);
    if a.meta.kind != b.meta.kind && names(a) && names(b) {
        // One name of a file is stored with its content, the others point to it: which one that is, is no change of the file.
        return Some(if (a.meta.size, a.meta.mtime) == (b.meta.size, b.meta.mtime) { "metadata" } else { "content" });
    }
    if a.meta.kind != b.meta.kind {
        return Some("type");
    }
    let content = |e: &Entry| -> Vec<(u64, Option<[u8; 32]>)> {
        let one = |x: &Extent| match x {
            Extent::Hole(n) => (*n, None),
            Extent::Data { len, fingerprint, .. } => (*len, Some(*fingerprint)),
        };
        e.extents.iter().map(one).collect()
    };
    if a.meta.size != b.meta.size || a.link != b.link || a.meta.rdev != b.meta.rdev || content(a) != content(b) {
        return Some("content");
    }
    let meta = |e: &Entry| (e.meta.mode, e.meta.uid, e.meta.gid, e.meta.mtime);
    (meta(a) != meta(b) || a.xattrs != b.xattrs).then_some("metadata")
}

pub fn diff(g: &Global, out: Out, a: &DiffArgs) -> Result<i32, Failure> {
    let zone = open(g)?;
    let (from, to) = (zone.state().find_checkpoint(&a.from)?.id, zone.state().find_checkpoint(&a.to)?.id);
    let top = a.path.as_deref().map(as_stored).transpose()?.map(|p| p.as_os_str().as_bytes().to_vec());
    let opener = zone.opener();
    let (old, new) = (sources_of(&zone, from), sources_of(&zone, to));
    let mut sources: Vec<_> = old.iter().chain(&new).map(|h| (h.source, h.path.clone())).collect();
    sources.sort();
    sources.dedup();
    let (mut counts, mut met) = ([0u64; 3], top.is_none());
    for (source, path) in sources {
        let chain =
            |all: &[Held]| all.iter().find(|h| h.source == source).map(|h| h.layers.clone()).unwrap_or_default();
        let read = |layers: Vec<_>| zone.catalogs(&opener).entries(&layers).map_err(ZoneError::from);
        let (mut left, mut right) = (read(chain(&old))?.peekable(), read(chain(&new))?.peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(Ok(x)), Some(Ok(y))) => zoneward_sectors::entry::path_cmp(&x.path, &y.path),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                _ => std::cmp::Ordering::Equal,
            };
            let take = |e: Option<Result<Entry, _>>| e.transpose().map_err(|e| ZoneError::Catalogs(Into::into(e)));
            let x = if order.is_le() { take(left.next())? } else { None };
            let y = if order.is_ge() { take(right.next())? } else { None };
            met = met
                || top
                    .as_ref()
                    .is_some_and(|t| x.as_ref().or(y.as_ref()).is_some_and(|e| within(&join(&path, &e.path), t)));
            let (sign, what, slot, entry) = match (&x, &y) {
                (Some(x), None) => ("-", "gone", 0, x),
                (None, Some(y)) => ("+", "new", 1, y),
                (Some(x), Some(y)) => match difference(x, y) {
                    Some(what) => ("M", what, 2, y),
                    None => continue,
                },
                (None, None) => break,
            };
            let full = join(&path, &entry.path);
            if top.as_ref().is_none_or(|t| within(&full, t)) {
                counts[slot] += 1;
                out.json(&serde_json::json!({"type": "item", "change": what, "path": show_path(&full), "size": entry.meta.size}));
                out.answer(format!("{sign} {what:<8} {}", show_path(&full)));
            }
        }
    }
    if let Some(t) = top.filter(|_| !met) {
        let text = format!("neither {} nor {} holds {}", a.from, a.to, show_path(&t));
        return Err(Failure::new(1602, exit::FAILED, text).help("zoneward find PATTERN looks in all checkpoints"));
    }
    let [gone, added, changed] = counts;
    out.json(&serde_json::json!({"type": "summary", "schema": "zoneward.diff/1", "gone": gone, "new": added, "changed": changed}));
    out.say(format!("{added} new, {changed} changed, {gone} gone"));
    Ok(0)
}

pub fn cat(g: &Global, a: &CatArgs) -> Result<i32, Failure> {
    let zone = open(g)?;
    let checkpoint = zone.state().find_checkpoint(&a.checkpoint)?.id;
    let wanted = as_stored(&a.path)?.as_os_str().as_bytes().to_vec();
    let mut found = find_entry(&zone, checkpoint, &wanted)?;
    if let Some((held, e)) = &found
        && e.meta.kind == Kind::HardLink
    {
        let holder = join(&held.path, &e.link);
        found = find_entry(&zone, checkpoint, &holder)?;
    }
    let shown = show_path(&wanted);
    let Some((_, e)) = found else {
        return Err(Failure::new(1602, exit::FAILED, format!("checkpoint {} holds no {shown}", a.checkpoint))
            .help("zoneward find PATTERN looks in all checkpoints"));
    };
    if e.meta.kind != Kind::File {
        return Err(Failure::new(1603, exit::FAILED, format!("{shown} is no file but a {}", kind_name(e.meta.kind)))
            .help("cat shows files; zoneward ls shows what a directory holds"));
    }
    let opener = zone.opener();
    let mut stdout = std::io::stdout().lock();
    let put = |stdout: &mut std::io::StdoutLock<'_>, bytes: &[u8]| {
        stdout
            .write_all(bytes)
            .map_err(|e| Failure::new(1702, exit::FAILED, "standard output cannot be written").why(e.to_string()))
    };
    for x in &e.extents {
        match x {
            Extent::Hole(n) => {
                let zeros = vec![0u8; 1 << 16];
                let mut left = *n;
                while left > 0 {
                    let k = left.min(zeros.len() as u64);
                    put(&mut stdout, &zeros[..k as usize])?;
                    left -= k;
                }
            }
            Extent::Data { sector, offset, len, fingerprint } => {
                let read = |r: &zoneward_sectors::sector_reader::SectorReader| {
                    let b = r.read_tar(*offset, *len, *len)?;
                    let right = blake3_of(&zone, &b) == *fingerprint;
                    if right { Ok(b) } else { Err(SectorReadError::Fingerprint) }
                };
                let mut reader = opener.sector(*sector).map_err(ZoneError::from)?;
                let data = loop {
                    match read(&reader) {
                        Ok(b) => break b,
                        Err(e) => reader = opener.next_copy(*sector, &reader, &e).map_err(ZoneError::from)?,
                    }
                };
                put(&mut stdout, &data)?;
            }
        }
    }
    Ok(0)
}

fn blake3_of(zone: &Zone, data: &[u8]) -> [u8; 32] {
    zoneward_sectors::crypto::keyed_fingerprint(zone.keys().fingerprint_key(), data)
}

fn find_entry(zone: &Zone, checkpoint: CheckpointId, wanted: &[u8]) -> Result<Option<(Held, Entry)>, Failure> {
    let mut found = None;
    each_entry(zone, checkpoint, |held, path, e| {
        if path == wanted {
            found = Some((held.clone(), e));
            return Ok(false);
        }
        Ok(found.is_none() && within(wanted, &held.path))
    })?;
    Ok(found)
}
