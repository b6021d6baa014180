//! The adapter of the target server: `zoneward://host:port/#fingerprint`.
//!
//! Calls come from any thread and wait for one small runtime that all servers of the process share. Every exchange has
//! a deadline and bounds for both bodies; what is safe to repeat is repeated a few times, appends from the offset that
//! the server acknowledged. An answer that breaks the protocol is [`TargetError::Protocol`], and nothing of it is used.

mod incoming;
mod link;
mod reader;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use zoneward_sectors::crypto::fill_random;
use zoneward_sectors::ids::{CopyId, Digest, TargetId, ZoneAlias, hex};

use self::incoming::ServerIncoming;
use self::link::{Ask, Got, Link, run};
use self::reader::ServerReader;
use crate::credentials::Credentials;
use crate::errors::{Op, TargetError};
use crate::limits::{ANSWER_LEN_MAX, PAGE_LEN, PROOF_TIME, REQUEST_TIME};
use crate::protocol::{
    Answer, Begun, Challenge, Code, Document, Page, Problem, ROOT, Removed, RemovedList, STRIPES, ScrubReport, TURN,
    VERSION, WRITER, Zones,
};
use crate::target::{
    Capabilities, Incoming, Listing, ObjectName, Offer, Protection, SectorReader, Target, object_fits,
};
use crate::url::ServerUrl;

/// How long [`Target::capabilities`] are taken for true.
const FRESH: Duration = Duration::from_secs(2);
/// How long it is not asked again about itself when it did not answer: each question may cost the whole deadline.
const SILENT: Duration = Duration::from_secs(60);
/// Pages of one listing: more than any zone has, so that a server cannot make one endless.
const PAGES_MAX: usize = 64;

/// How patient the adapter is.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub connect: Duration,
    /// For a request without its bytes.
    pub request: Duration,
    pub seal: Duration,
    /// Bytes a second that a transfer must reach.
    pub rate_min: u64,
}

impl Default for Timing {
    fn default() -> Self {
        use crate::limits::{CONNECT_TIME, RATE_MIN, SEAL_TIME};
        Self { connect: CONNECT_TIME, request: REQUEST_TIME, seal: SEAL_TIME, rate_min: RATE_MIN }
    }
}

/// A target server.
pub struct ServerTarget {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    url: String,
    id: TargetId,
    known: Mutex<Known>,
}

/// What the server told of itself last.
#[derive(Clone)]
struct Known {
    /// When it was asked.
    at: Instant,
    document: Document,
    /// Whether it answered then.
    answered: bool,
}

fn refused_login(what: &str, reason: &str) -> TargetError {
    TargetError::Auth { op: Op::OpenTarget, what: what.to_owned(), reason: reason.to_owned() }
}

impl ServerTarget {
    /// Opens a target server. The credentials hold its `token`, and its `pin` if the URL does not.
    pub fn open(url: &ServerUrl, id: Option<TargetId>, credentials: Option<&Credentials>) -> Result<Self, TargetError> {
        Self::open_with(url, id, credentials, Timing::default())
    }

    /// The same with other patience.
    pub fn open_with(
        url: &ServerUrl,
        id: Option<TargetId>,
        credentials: Option<&Credentials>,
        timing: Timing,
    ) -> Result<Self, TargetError> {
        let text = url.to_string();
        let get = |name| credentials.and_then(|c| c.get(name));
        let pin = match (url.pin, get("pin")) {
            (Some(pin), _) => pin,
            (None, Some(pin)) => {
                pin.parse().map_err(|_| refused_login(&text, "the pin in the credentials is not 64 hex digits"))?
            }
            (None, None) => {
                let reason = "no fingerprint says which server is right: zoneward target serve prints it in its URL";
                return Err(TargetError::Untrusted { op: Op::OpenTarget, what: text, reason: reason.to_owned() });
            }
        };
        Self::connect(url, id, get("token"), Some(pin), timing)
    }

    /// Without encryption: only to measure what encryption costs.
    #[doc(hidden)]
    pub fn open_plain_to_measure(url: &ServerUrl, token: &str) -> Result<Self, TargetError> {
        Self::connect(url, None, Some(token), None, Timing::default())
    }

    fn connect(
        url: &ServerUrl,
        id: Option<TargetId>,
        token: Option<&str>,
        pin: Option<Digest>,
        timing: Timing,
    ) -> Result<Self, TargetError> {
        let (op, text) = (Op::OpenTarget, url.to_string());
        let token = token.ok_or_else(|| refused_login(&text, "there is no token for it"))?;
        let link = Link::new(url, pin, token, timing).map_err(|reason| refused_login(&text, &reason))?;
        let got = link.ask(Ask::new(Method::GET, format!("{ROOT}/"))).map_err(|e| e.named(op, &text))?;
        let document: Document = got.json(op, &text)?;
        if document.protocol != VERSION {
            let how = format!("it speaks version {} of the protocol, not {VERSION}", document.protocol);
            return Err(TargetError::Protocol { op, what: text, reason: how });
        }
        if let Some(id) = id.filter(|id| *id != document.target) {
            let reason = format!("the server keeps the target {}, not {id}", document.target);
            return Err(TargetError::Unplugged { op, what: text, reason });
        }
        let id = document.target;
        let known = Mutex::new(Known { at: Instant::now(), document, answered: true });
        Ok(Self { shared: Arc::new(Shared { link, url: text, id, known }) })
    }

    /// What the server tells of itself and of this account.
    pub fn document(&self) -> Result<Document, TargetError> {
        let s = &self.shared;
        let document: Document =
            s.ask(Op::Ask, &s.url, Ask::new(Method::GET, format!("{ROOT}/")))?.json(Op::Ask, &s.url)?;
        if document.target != s.id {
            let reason = format!("the server keeps the target {}, not {}", document.target, s.id);
            return Err(TargetError::Unplugged { op: Op::Ask, what: s.url.clone(), reason });
        }
        *s.known() = Known { at: Instant::now(), document: document.clone(), answered: true };
        Ok(document)
    }

    /// What was removed and is still kept.
    pub fn list_removed(&self, alias: ZoneAlias) -> Result<Vec<Removed>, TargetError> {
        let what = format!("the removed sectors of zone {alias}");
        let ask = Ask::new(Method::GET, format!("{ROOT}/zones/{alias}/removed"));
        Ok(self.shared.ask(Op::List, &what, ask)?.json::<RemovedList>(Op::List, &what)?.removed)
    }

    /// Makes a removed sector a sealed one again, before its lock ends.
    pub fn take_back(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        let ask = Ask::new(Method::POST, format!("{ROOT}/zones/{alias}/removed/{copy}")).once();
        self.shared.ask(Op::TakeBack, &sector(copy), ask).map(drop)
    }

    /// Asks for a purge before the lock ends: a right server refuses with [`TargetError::Locked`].
    pub fn purge(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        let ask = Ask::new(Method::DELETE, format!("{ROOT}/zones/{alias}/removed/{copy}"));
        self.shared.ask(Op::Remove, &sector(copy), ask).map(drop)
    }

    /// What the server's own scrub found in a zone. A bad server can say anything here: it is a hint, no audit.
    pub fn scrub_report(&self, alias: ZoneAlias) -> Result<ScrubReport, TargetError> {
        let what = format!("the scrub of zone {alias}");
        let ask = Ask::new(Method::GET, format!("{ROOT}/zones/{alias}/scrub"));
        self.shared.ask(Op::Ask, &what, ask)?.json(Op::Ask, &what)
    }
}

fn sector(copy: CopyId) -> String {
    format!("sector {copy}")
}

/// A writer's id, by which it alone holds a sector.
fn writer_id() -> String {
    let mut id = [0u8; 16];
    fill_random(&mut id);
    hex(&id)
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One exchange; a refusal is its error.
    fn ask(&self, op: Op, what: &str, ask: Ask) -> Result<Got, TargetError> {
        let got = self.link.ask(ask).map_err(|e| e.named(op, what))?;
        if got.status.is_success() { Ok(got) } else { Err(got.refusal(op, what)) }
    }
}

/// Another's words as they may end up in terminals and logs: one line of bounded length.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

impl Got {
    fn misbehaves(op: Op, what: &str, how: impl Into<String>) -> TargetError {
        TargetError::Protocol { op, what: what.to_owned(), reason: how.into() }
    }

    fn json<T: serde::de::DeserializeOwned>(&self, op: Op, what: &str) -> Result<T, TargetError> {
        if !self.status.is_success() {
            return Err(self.refusal(op, what));
        }
        let bytes = self.body();
        serde_json::from_slice(&bytes)
            .map_err(|e| Self::misbehaves(op, what, format!("its JSON is not understood: {}", plain(&e.to_string()))))
    }

    /// A number in a field of the answer.
    fn number(&self, op: Op, what: &str, field: &str) -> Result<u64, TargetError> {
        let text = self.headers.get(field).and_then(|v| v.to_str().ok());
        let number = text.filter(|t| t.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse().ok());
        number.ok_or_else(|| Self::misbehaves(op, what, format!("it tells no {field}")))
    }

    /// Why the server did not do it.
    fn refusal(&self, op: Op, what: &str) -> TargetError {
        let what = what.to_owned();
        let Ok(p) = serde_json::from_slice::<Problem>(&self.body()) else {
            return match self.status {
                StatusCode::NOT_FOUND => TargetError::NotFound { op, what },
                StatusCode::UNAUTHORIZED => TargetError::Auth { op, what, reason: "401".into() },
                // The answer to HEAD has no body.
                StatusCode::FORBIDDEN => TargetError::Auth { op, what, reason: "403".into() },
                StatusCode::CONFLICT => TargetError::Busy { op, what },
                status => Self::misbehaves(op, &what, format!("status {}", status.as_u16())),
            };
        };
        let title = plain(&p.title);
        let full = |title| TargetError::Full { op, what: what.clone(), source: std::io::Error::other(title) };
        match p.code {
            Code::Unauthorized | Code::Forbidden => TargetError::Auth { op, what, reason: title },
            Code::NotFound => TargetError::NotFound { op, what },
            Code::Busy => TargetError::Busy { op, what },
            Code::NotHeld => TargetError::Poisoned { op, what },
            Code::MismatchingOffset => match (p.provided_offset, p.expected_offset) {
                (Some(expected), Some(found)) => TargetError::WrongLength { op, what, expected, found },
                _ => Self::misbehaves(op, &what, "it refuses an offset and tells none"),
            },
            Code::TooLarge => TargetError::TooLarge { op, what, len: 0, limit: p.limit.unwrap_or(0) },
            Code::Quota | Code::Full => full(title),
            Code::Locked => TargetError::Locked { op, what, left_s: p.locked_s.unwrap_or(0) },
            Code::Foreign => TargetError::Foreign { op, what, reason: "something else" },
            Code::Away => TargetError::Unplugged { op, what, reason: title },
            Code::BadRequest => Self::misbehaves(op, &what, format!("it refuses what we ask: {title}")),
            Code::Store => TargetError::Io { op, what, source: std::io::Error::other(title) },
        }
    }
}

impl Target for ServerTarget {
    fn id(&self) -> TargetId {
        self.shared.id
    }

    fn describe(&self) -> String {
        self.shared.url.clone()
    }

    fn capabilities(&self) -> Capabilities {
        let mut known = self.shared.known().clone();
        if known.at.elapsed() >= if known.answered { FRESH } else { SILENT } {
            known.answered = self.document().is_ok();
            let mut last = self.shared.known();
            (last.at, last.answered) = (Instant::now(), known.answered);
            known.document = last.document.clone();
        }
        let d = known.document;
        let free = known.answered.then_some(d.free_bytes);
        Capabilities {
            fixed_sectors: d.fixed_sectors,
            max_class_log2: d.max_class_log2.clamp(12, zoneward_sectors::limits::CLASS_LOG2_MAX),
            resume: d.resume,
            direct_write: false,
            ordered_write: true,
            free_bytes: free,
            proves: d.proofs.iter().any(|p| p == STRIPES),
        }
    }

    fn protection(&self) -> Result<Protection, TargetError> {
        let kept_days = self.shared.known().document.lock_days;
        Ok(Protection { kept_days: (kept_days > 0).then_some(kept_days), ..Protection::default() })
    }

    fn offer(&self) -> Offer {
        let d = self.shared.known().document.clone();
        Offer { quota_bytes: d.quota_bytes, price: d.price, ends_ms: d.expires_ms }
    }

    fn open(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn Incoming>, TargetError> {
        self.open_in_turn(alias, copy, None)
    }

    fn open_in_turn(
        &self,
        alias: ZoneAlias,
        copy: CopyId,
        turn: Option<u64>,
    ) -> Result<Box<dyn Incoming>, TargetError> {
        Ok(Box::new(ServerIncoming::begin(&self.shared, alias, copy, turn)?))
    }

    fn discard_incoming(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        let ask = Ask::new(Method::DELETE, format!("{ROOT}/zones/{alias}/incoming/{copy}"));
        self.shared.ask(Op::Discard, &format!("incoming sector {copy}"), ask).map(drop)
    }

    fn list_incoming(&self, alias: ZoneAlias) -> Result<Vec<CopyId>, TargetError> {
        let what = format!("the incoming sectors of zone {alias}");
        let mut out: Vec<CopyId> = Vec::new();
        for _ in 0..PAGES_MAX {
            let path = paged(format!("{ROOT}/zones/{alias}/incoming"), out.last());
            let page: Begun = self.shared.ask(Op::List, &what, Ask::new(Method::GET, path))?.json(Op::List, &what)?;
            fits_a_page(&what, page.incoming.len())?;
            let empty = page.incoming.is_empty();
            out.extend(page.incoming);
            in_order(&what, &out, |c| *c)?;
            if !page.more || empty {
                return Ok(out);
            }
        }
        Err(Got::misbehaves(Op::List, &what, "its list has no end"))
    }

    fn len(&self, alias: ZoneAlias, copy: CopyId) -> Result<Option<u64>, TargetError> {
        let ask = Ask::new(Method::HEAD, format!("{ROOT}/zones/{alias}/sectors/{copy}"));
        match self.shared.ask(Op::Read, &sector(copy), ask) {
            Ok(got) => Ok(Some(got.number(Op::Read, &sector(copy), "zoneward-length")?)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn reader(&self, alias: ZoneAlias, copy: CopyId) -> Result<Box<dyn SectorReader>, TargetError> {
        let what = sector(copy);
        let len = self.len(alias, copy)?;
        let len = len.ok_or_else(|| TargetError::NotFound { op: Op::Read, what: what.clone() })?;
        Ok(Box::new(ServerReader::new(&self.shared, alias, copy, len)))
    }

    fn list(&self, alias: ZoneAlias) -> Result<Listing, TargetError> {
        let what = format!("the sectors of zone {alias}");
        let mut out = Listing::default();
        for _ in 0..PAGES_MAX {
            let path = paged(format!("{ROOT}/zones/{alias}/sectors"), out.sectors.last().map(|(c, _)| c));
            let page: Page = self.shared.ask(Op::List, &what, Ask::new(Method::GET, path))?.json(Op::List, &what)?;
            fits_a_page(&what, page.sectors.len())?;
            let empty = page.sectors.is_empty();
            out.sectors.extend(page.sectors);
            in_order(&what, &out.sectors, |(c, _)| *c)?;
            out.foreign = page.foreign;
            if !page.more || empty {
                return Ok(out);
            }
        }
        Err(Got::misbehaves(Op::List, &what, "its list has no end"))
    }

    fn list_zones(&self) -> Result<Vec<ZoneAlias>, TargetError> {
        let what = "the zones";
        let ask = Ask::new(Method::GET, format!("{ROOT}/zones"));
        let mut zones = self.shared.ask(Op::List, what, ask)?.json::<Zones>(Op::List, what)?.zones;
        zones.sort_unstable();
        Ok(zones)
    }

    fn remove(&self, alias: ZoneAlias, copy: CopyId) -> Result<(), TargetError> {
        let ask = Ask::new(Method::DELETE, format!("{ROOT}/zones/{alias}/sectors/{copy}"));
        self.shared.ask(Op::Remove, &sector(copy), ask).map(drop)
    }

    fn put_object(&self, alias: ZoneAlias, name: ObjectName, bytes: &[u8]) -> Result<(), TargetError> {
        let what = object(alias, name);
        object_fits(&what, bytes.len() as u64)?;
        let path = format!("{ROOT}/zones/{alias}/objects/{}", name.file_name());
        let ask = Ask::new(Method::PUT, path).body(Bytes::copy_from_slice(bytes));
        self.shared.ask(Op::PutObject, &what, ask).map(drop)
    }

    fn get_object(&self, alias: ZoneAlias, name: ObjectName, limit: u64) -> Result<Vec<u8>, TargetError> {
        let (op, what) = (Op::GetObject, object(alias, name));
        let path = format!("{ROOT}/zones/{alias}/objects/{}", name.file_name());
        let ask = Ask::new(Method::GET, path).limit(limit.max(ANSWER_LEN_MAX));
        let bytes = self.shared.ask(op, &what, ask)?.body();
        if bytes.len() as u64 > limit {
            return Err(TargetError::TooLarge { op, what, len: bytes.len() as u64, limit });
        }
        Ok(bytes.into())
    }

    fn prove(&self, alias: ZoneAlias, copy: CopyId, challenge: &Challenge) -> Result<Option<Digest>, TargetError> {
        if !self.shared.known().document.proofs.iter().any(|p| p == STRIPES) {
            return Ok(None);
        }
        let (op, what) = (Op::Prove, sector(copy));
        let body = serde_json::to_vec(challenge).map_err(|e| TargetError::Io {
            op,
            what: what.clone(),
            source: std::io::Error::other(e),
        })?;
        let ask = Ask::new(Method::POST, format!("{ROOT}/zones/{alias}/sectors/{copy}/prove"))
            .body(body.into())
            .carries(challenge.bytes())
            .time(PROOF_TIME);
        Ok(Some(self.shared.ask(op, &what, ask)?.json::<Answer>(op, &what)?.digest))
    }
}

fn object(alias: ZoneAlias, name: ObjectName) -> String {
    format!("zones/{alias}/{}", name.file_name())
}

fn paged(path: String, last: Option<&CopyId>) -> String {
    match last {
        Some(last) => format!("{path}?after={last}"),
        None => path,
    }
}

/// A page that is longer than the protocol allows is none: with the number of pages this bounds the memory for a list.
fn fits_a_page(what: &str, len: usize) -> Result<(), TargetError> {
    let how = || format!("it lists {len} on a page, more than {PAGE_LEN}");
    if len > PAGE_LEN { Err(Got::misbehaves(Op::List, what, how())) } else { Ok(()) }
}

/// A list that is not sorted, or repeats itself, is none.
fn in_order<T>(what: &str, all: &[T], copy: impl Fn(&T) -> CopyId) -> Result<(), TargetError> {
    let sorted = all.windows(2).all(|w| matches!(w, [a, b] if copy(a) < copy(b)));
    if sorted { Ok(()) } else { Err(Got::misbehaves(Op::List, what, "its list is not in order")) }
}
