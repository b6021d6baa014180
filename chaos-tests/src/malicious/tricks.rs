//! What the malicious server does, trick by trick. Each leaves alone what it is not about.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::proxy::{Answer, Asked, Behind, Kind, Part, Trick};

/// Bytes of a segment as it is stored, and of the header before the first (`docs/format.md` section 3).
const SEGMENT: usize = (1 << 20) + 16;
const HEADER: usize = 4096;

type Parts = Result<Vec<Part>>;

fn whole(answer: &Answer) -> Parts {
    Ok(vec![answer.part()])
}

fn not_found() -> Answer {
    let body = json!({"type": "about:blank", "title": "it is not here", "status": 404, "code": "not-found"});
    Answer::new("404 Not Found", body.to_string())
}

fn ok_json(value: &Value) -> Answer {
    Answer::new("200 OK", value.to_string()).field("content-type", "application/json")
}

/// Bends requests of these kinds.
pub fn on(kinds: &'static [Kind], bend: impl Fn(&Asked, &Behind) -> Parts + Send + Sync + 'static) -> Trick {
    Arc::new(move |asked, behind| match kinds.contains(&asked.kind()) {
        true => bend(asked, behind),
        false => whole(&behind.ask(asked)?),
    })
}

/// Bends right answers of one kind.
fn answers(kinds: &'static [Kind], bend: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static) -> Trick {
    on(kinds, move |asked, behind| whole(&bend(asked, behind.ask(asked)?)))
}

/// Everything is gone but the marker.
pub fn empty() -> Trick {
    Arc::new(|asked, behind| match asked.kind() {
        Kind::List => whole(&ok_json(&json!({"sectors": [], "foreign": 0, "more": false}))),
        Kind::Zones => whole(&ok_json(&json!({"zones": []}))),
        Kind::Length if asked.method == "HEAD" => Ok(vec![Part::Bytes(b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec())]),
        Kind::Length | Kind::Range | Kind::Pointer | Kind::OwnerKey => whole(&not_found()),
        _ => whole(&behind.ask(asked)?),
    })
}

/// The first copy of the list is gone: from it, and from reads.
pub fn one_gone() -> Trick {
    Arc::new(|asked, behind| match asked.kind() {
        Kind::List => list_bent(asked, behind, |all| drop(all.remove(0))),
        Kind::Length | Kind::Range if behind.list(asked)?.first().is_some_and(|(c, _)| c == asked.copy()) => {
            match asked.kind() {
                Kind::Length => Ok(vec![Part::Bytes(b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec())]),
                _ => whole(&not_found()),
            }
        }
        _ => whole(&behind.ask(asked)?),
    })
}

pub fn reads_fail() -> Trick {
    on(&[Kind::Range], |_, _| whole(&not_found()))
}

fn list_bent(asked: &Asked, behind: &Behind, bend: impl Fn(&mut Vec<(String, u64)>)) -> Parts {
    let mut all = behind.list(asked)?;
    if !all.is_empty() {
        bend(&mut all);
    }
    whole(&ok_json(&json!({"sectors": all, "foreign": 0, "more": false})))
}

pub fn list(bend: fn(&mut Vec<(String, u64)>)) -> Trick {
    on(&[Kind::List], move |asked, behind| list_bent(asked, behind, bend))
}

fn id(n: u64) -> String {
    // After all real ones, in order.
    format!("ff{n:030x}")
}

/// Sectors that nobody ever stored.
pub fn list_more() -> Trick {
    list(|all| all.extend((0..1000).map(|n| (id(n), 12_345))))
}

/// `pages` of `len` made-up sectors each, behind the right ones.
pub fn list_pages(pages: u64, len: u64) -> Trick {
    on(&[Kind::List], move |asked, behind| {
        let next = asked.path.split_once("after=ff").and_then(|(_, t)| u64::from_str_radix(t, 16).ok());
        let (from, mut all) = next.map_or((0, behind.list(asked).unwrap_or_default()), |n| (n + 1, Vec::new()));
        all.extend((from..from + len).map(|n| (id(n), 12_345)));
        whole(&ok_json(&json!({"sectors": all, "foreign": 0, "more": from / len + 1 < pages})))
    })
}

/// Zones that nobody ever made.
pub fn zones(n: u64) -> Trick {
    answers(&[Kind::Zones], move |_, right| {
        let mut all: Value = serde_json::from_slice(&right.body).unwrap_or_default();
        if let Some(zones) = all["zones"].as_array_mut() {
            zones.extend((0..n).map(|i| json!(id(i))));
        }
        ok_json(&all)
    })
}

/// The sector's bytes as `bend` leaves them, with lengths that fit them.
pub fn sector(bend: impl Fn(&Asked, &Behind, Vec<u8>) -> Result<Vec<u8>> + Send + Sync + 'static) -> Trick {
    on(&[Kind::Length, Kind::Range], move |asked, behind| {
        let bytes = bend(asked, behind, behind.sector(asked, asked.copy())?)?;
        if asked.kind() == Kind::Length {
            return whole(&Answer::new("204 No Content", "").field("zoneward-length", bytes.len()));
        }
        let (first, last) = asked.range().context("no range")?;
        let Some(body) = bytes.get(first..=last) else {
            return whole(
                &Answer::new("416 Range Not Satisfiable", "")
                    .field("content-range", format!("bytes */{}", bytes.len())),
            );
        };
        let range = format!("bytes {first}-{last}/{}", bytes.len());
        whole(&Answer::new("206 Partial Content", body).field("content-range", range))
    })
}

/// The last 5,000 bytes are lost.
pub fn shortened() -> Trick {
    sector(|_, _, mut bytes| {
        bytes.truncate(bytes.len().saturating_sub(5000));
        Ok(bytes)
    })
}

/// Each copy has the bytes of the next one.
pub fn swapped() -> Trick {
    sector(|asked, behind, bytes| {
        let all = behind.list(asked)?;
        let Some(at) = all.iter().position(|(c, _)| c == asked.copy()) else { return Ok(bytes) };
        behind.sector(asked, &all[(at + 1) % all.len()].0)
    })
}

/// The first two copies have each other's bytes.
pub fn crossed() -> Trick {
    sector(|asked, behind, bytes| {
        let all = behind.list(asked)?;
        match all.iter().position(|(c, _)| c == asked.copy()) {
            Some(at @ (0 | 1)) if all.len() > 1 => behind.sector(asked, &all[1 - at].0),
            _ => Ok(bytes),
        }
    })
}

/// Two segments have changed places; in a sector of one, two stretches of it.
pub fn segments_swapped() -> Trick {
    sector(|_, _, mut bytes| {
        let room = bytes.len().saturating_sub(2 * HEADER) / 2;
        let len = if room >= SEGMENT { SEGMENT } else { room.min(64 << 10) };
        let (a, b) = bytes.split_at_mut(HEADER + len);
        a[HEADER..].swap_with_slice(&mut b[..len]);
        Ok(bytes)
    })
}

pub fn bit_flipped() -> Trick {
    sector(|_, _, mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Ok(bytes)
    })
}

/// Whatever range is asked for, the first one ever asked for comes.
pub fn ranges_replayed() -> Trick {
    let first: Mutex<Option<Answer>> = Mutex::default();
    on(&[Kind::Range], move |asked, behind| {
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match &*first {
            Some(a) => a.clone(),
            None => first.insert(behind.ask(asked)?).clone(),
        };
        whole(&answer)
    })
}

/// The same bytes for every range, under the right name of the range.
pub fn bytes_replayed() -> Trick {
    answers(&[Kind::Range], |asked, mut right| {
        let (first, last) = asked.range().unwrap_or_default();
        right.body = vec![7; last + 1 - first];
        right
    })
}

pub fn range_with(bend: fn(Answer) -> Answer) -> Trick {
    answers(&[Kind::Range], move |_, right| bend(right))
}

/// These kinds are answered as they were at an older moment.
pub fn then(kinds: &'static [Kind]) -> Trick {
    on(kinds, |asked, behind| whole(&behind.ask_then(asked)?))
}

/// Seals are acknowledged, and what was sent is thrown away.
pub fn seal_dropped() -> Trick {
    on(&[Kind::Seal], |asked, behind| {
        behind.ask(&asked.instead("DELETE", &asked.path))?;
        let offset = asked.field("upload-offset").unwrap_or_default();
        whole(&Answer::new("204 No Content", "").field("upload-offset", offset).field("upload-complete", "?1"))
    })
}

/// The last 1,000 bytes of each append are lost, and all is acknowledged and sealed.
pub fn tail_lost() -> Trick {
    on(&[Kind::Append, Kind::Seal], |asked, behind| {
        let offset: u64 = asked.field("upload-offset").and_then(|t| t.parse().ok()).context("no offset")?;
        let held = behind.ask(&asked.instead("HEAD", &asked.path))?.get("upload-offset").unwrap_or("0").to_owned();
        let mut real = asked.clone().with("upload-offset", &held);
        let complete = if asked.kind() == Kind::Seal { "?1" } else { "?0" };
        real.body.truncate(real.body.len().saturating_sub(1000));
        let done = behind.ask(&real)?;
        if !done.status.starts_with("204") {
            return whole(&done);
        }
        let told = offset + asked.body.len() as u64;
        whole(&done.field("upload-offset", told).field("upload-complete", complete))
    })
}

/// The offset in these answers is another one.
pub fn offset(kinds: &'static [Kind], lie: fn(u64) -> String) -> Trick {
    answers(kinds, move |_, right| {
        let told = right.get("upload-offset").and_then(|t| t.parse().ok()).unwrap_or(0);
        if right.status.starts_with("20") { right.field("upload-offset", lie(told)) } else { right }
    })
}

/// These are never answered.
pub fn silent(kinds: &'static [Kind]) -> Trick {
    on(kinds, |_, _| Ok(vec![Part::Silence]))
}

/// The head comes at once, the body a byte a second.
pub fn drip(kinds: &'static [Kind]) -> Trick {
    on(kinds, |asked, behind| {
        let right = behind.ask(asked)?;
        Ok(vec![Part::Bytes(right.head()), Part::Drip(right.body)])
    })
}

/// Half of the answer comes.
pub fn half(kinds: &'static [Kind], end: Part) -> Trick {
    on(kinds, move |asked, behind| {
        let right = behind.ask(asked)?;
        let half = right.body[..right.body.len() / 2].to_vec();
        Ok(vec![Part::Bytes([right.head(), half].concat()), end.clone()])
    })
}

/// A chunked body that begins so and has no end; `chunk` comes again and again as it is.
pub fn endless(kinds: &'static [Kind], begin: &'static str, chunk: &'static str) -> Trick {
    on(kinds, move |asked, behind| {
        let head = behind.ask(asked)?.head_with("transfer-encoding: chunked\r\n");
        let first = if begin.is_empty() { String::new() } else { format!("{:x}\r\n{begin}\r\n", begin.len()) };
        Ok(vec![Part::Bytes([&head[..], first.as_bytes()].concat()), Part::Forever(chunk.repeat(64).into_bytes())])
    })
}

/// Large chunks without an end.
pub fn endless_large(kinds: &'static [Kind]) -> Trick {
    on(kinds, |asked, behind| {
        let head = behind.ask(asked)?.head_with("transfer-encoding: chunked\r\n");
        let chunk = [&b"10000\r\n"[..], &[b'x'; 0x1_0000], b"\r\n"].concat();
        Ok(vec![Part::Bytes(head), Part::Forever(chunk)])
    })
}

/// Bytes instead of an answer, again and again after the first.
pub fn raw_forever(kinds: &'static [Kind], begin: &'static str, again: &'static str) -> Trick {
    on(kinds, move |_, _| Ok(vec![Part::Bytes(begin.into()), Part::Forever(again.repeat(64).into_bytes())]))
}

/// The capability document with other values.
pub fn document(bend: fn(&mut Value)) -> Trick {
    answers(&[Kind::Document], move |_, right| {
        let mut value: Value = serde_json::from_slice(&right.body).unwrap_or_default();
        bend(&mut value);
        ok_json(&value)
    })
}

/// The owner's sealed key with a passphrase's seal of these costs.
pub fn costly_key(m_kib: u32, t: u32, p: u32) -> Trick {
    answers(&[Kind::OwnerKey], move |_, right| {
        let Ok(mut value) = serde_json::from_slice::<Value>(&right.body) else { return right };
        let zeros = |n: usize| "A".repeat(n);
        value["passphrase"] = json!({"kdf": "argon2id", "m_kib": m_kib, "t": t, "p": p,
            "salt": format!("{}==", zeros(22)), "nonce": zeros(16), "sealed": value["words"]["sealed"]});
        ok_json(&value)
    })
}

pub fn object_is(kinds: &'static [Kind], text: &'static str) -> Trick {
    on(kinds, move |_, _| whole(&Answer::new("200 OK", text)))
}

/// A digest of nothing.
pub fn proof_random() -> Trick {
    let n = AtomicU64::new(1);
    on(&[Kind::Prove], move |_, _| {
        whole(&ok_json(&json!({"digest": format!("{:064x}", n.fetch_add(1, Ordering::Relaxed))})))
    })
}

/// The right answer to the first challenge, for every later one.
pub fn proof_replayed() -> Trick {
    let first: Mutex<Option<Answer>> = Mutex::default();
    on(&[Kind::Prove], move |asked, behind| {
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(behind.ask(asked)?);
        }
        whole(first.as_ref().context("no answer")?)
    })
}

/// A refusal in words that are made to be shown.
pub fn refuses_in_colours(kinds: &'static [Kind]) -> Trick {
    on(kinds, |_, _| {
        let title = format!("\u{1b}[2J\u{1b}]0;owned\u{7}{}", "A".repeat(1 << 20));
        let body = json!({"type": "about:blank", "title": title, "status": 500, "code": "store"});
        whole(&Answer::new("500 Internal Server Error", body.to_string()))
    })
}

/// Everything is as it was at an older moment.
pub fn all_then() -> Trick {
    Arc::new(|asked, behind| whole(&behind.ask_then(asked)?))
}
