//! `target test`: what a target can do, and how fast.

use std::sync::Arc;
use std::time::Instant;

use zoneward_actors::zone::Zone;
use zoneward_sectors::crypto::fill_random;
use zoneward_sectors::ids::CopyId;
use zoneward_targets::{Target, TargetError};

use super::things::find_target;
use crate::errors::{Failure, chain, exit};
use crate::output::Out;
use crate::units::bytes;

/// Bytes of one write and one read.
const PIECE: usize = 1 << 20;

/// One thing that was tried.
struct Tried {
    what: &'static str,
    result: Result<String, TargetError>,
}

pub fn test(zone: &Zone, out: Out, name: &str, size: u64) -> Result<i32, Failure> {
    let id = find_target(zone.state(), name)?;
    let alias = zone.keys().alias(id);
    let Some(target) = zone.target(id) else {
        let why = zone.unreachable().iter().find(|u| u.target == id).map(|u| chain(&u.error));
        return Err(Failure::new(1302, exit::TARGET, format!("target {name} cannot be reached"))
            .why(why.unwrap_or_default())
            .help("zoneward target ls says more"));
    };
    let stored: Vec<_> = zone.state().copies.values().filter(|c| c.target == id && c.is_stored()).collect();
    let mut all = vec![can(target)];
    all.push(tried("answers", || {
        let begun = Instant::now();
        let n = target.list(alias)?.sectors.len();
        Ok(format!("lists {n} sectors of this zone in {} ms", begun.elapsed().as_millis()))
    }));
    all.push(tried("keeps", || zoneward_actors::guard::known(&**target).map(|g| super::target_ls::guard_text(&g))));
    all.push(tried("writes", || write(target, alias, size)));
    all.push(tried("reads", || match stored.iter().max_by_key(|c| c.stored_len) {
        Some(c) => read(target, alias, c.id, size),
        None => Ok("there is no sector on it yet to be read".into()),
    }));
    let bad = all.iter().filter(|t| t.result.is_err()).count();
    for t in &all {
        match &t.result {
            Ok(text) => out.answer(format!("{:<9} {text}", t.what)),
            Err(e) => out.answer(format!("{:<9} FAILED: {}", t.what, chain(e))),
        }
    }
    out.json(&serde_json::json!({
        "schema": "zoneward.target-test/1", "target": name, "passed": bad == 0,
        "results": all.iter().map(|t| serde_json::json!({
            "what": t.what, "passed": t.result.is_ok(), "text": t.result.as_ref().map_or_else(|e| chain(e), Clone::clone),
        })).collect::<Vec<_>>(),
    }));
    Ok(if bad == 0 { 0 } else { exit::TARGET })
}

fn tried(what: &'static str, look: impl FnOnce() -> Result<String, TargetError>) -> Tried {
    Tried { what, result: look() }
}

fn can(target: &Arc<dyn Target>) -> Tried {
    let c = target.capabilities();
    let mut text = vec![format!("sectors up to {}", bytes(1 << c.max_class_log2))];
    text.push(if c.fixed_sectors { "each takes its whole class" } else { "each takes what it holds" }.into());
    text.push(if c.resume { "goes on with cut uploads" } else { "begins cut uploads anew" }.into());
    text.extend(c.free_bytes.map(|n| format!("{} free", bytes(n))));
    Tried { what: "can", result: Ok(text.join(", ")) }
}

fn rate(len: u64, begun: Instant) -> String {
    let seconds = begun.elapsed().as_secs_f64().max(0.001);
    format!("{} in {seconds:.2} s: {}/s", bytes(len), bytes((len as f64 / seconds) as u64))
}

/// Writes noise as a sector that is never sealed, goes on with it once, and throws it away.
fn write(target: &Arc<dyn Target>, alias: zoneward_sectors::ids::ZoneAlias, size: u64) -> Result<String, TargetError> {
    let (copy, begun) = (CopyId::random(), Instant::now());
    let mut piece = vec![0u8; PIECE];
    fill_random(&mut piece);
    let done = (|| {
        let (mut at, mut cut) = (0, false);
        let mut sector = target.open(alias, copy)?;
        while at < size {
            let n = (size - at).min(PIECE as u64);
            sector.write_at(at, &piece[..n as usize])?;
            at += n;
            if at >= size / 2 && !cut {
                // As after a cut, once: what was written is held, or some of it is written again.
                cut = true;
                drop(sector);
                sector = target.open(alias, copy)?;
                at = sector.offset().min(at);
            }
        }
        drop(sector);
        Ok(rate(size, begun))
    })();
    let cleared = target.discard_incoming(alias, copy);
    done.and_then(|text| cleared.map(|()| text))
}

/// Reads the beginning of a sector.
fn read(
    target: &Arc<dyn Target>,
    alias: zoneward_sectors::ids::ZoneAlias,
    copy: CopyId,
    size: u64,
) -> Result<String, TargetError> {
    let (reader, begun) = (target.reader(alias, copy)?, Instant::now());
    let (len, mut at, mut piece) = (reader.len().min(size), 0, vec![0u8; PIECE]);
    while at < len {
        let n = (len - at).min(PIECE as u64) as usize;
        reader.read_at(&mut piece[..n], at)?;
        at += n as u64;
    }
    Ok(rate(len, begun))
}
