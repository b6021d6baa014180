//! Requests to one folder of a WebDAV server.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use quick_xml::events::Event;

use crate::credentials::Credentials;
use crate::errors::{Op, TargetError};
use crate::limits::{ANSWER_LEN_MAX, NAMES_MAX, PART_LEN};
use crate::net::{Answer, Ask, Wire, WireError};
use crate::url::WebDavUrl;

/// Bytes of a listing: a folder of 8,200 parts has about 3 MiB.
const LISTING_LEN_MAX: u64 = 4 * ANSWER_LEN_MAX;
/// Folders that are remembered as made.
const MADE_MAX: usize = 4096;
const LIST: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><propfind xmlns=\"DAV:\"><prop><resourcetype/>\
                    <getcontentlength/></prop></propfind>";

/// One folder of a server.
pub(super) struct Client {
    wire: Wire,
    /// URL of the folder, for requests.
    base: String,
    /// Names of the folder's path.
    root: Vec<String>,
    server: String,
    auth: Option<HeaderValue>,
    /// The target's URL, for people.
    url: String,
    /// Folders that are there, as this client knows.
    made: Mutex<BTreeSet<String>>,
}

/// What a folder holds.
#[derive(Debug, PartialEq)]
pub(super) struct DavEntry {
    pub name: String,
    pub folder: bool,
    pub len: u64,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.url)
    }
}

impl Client {
    /// A client without connections: nothing is sent yet.
    pub fn new(url: &WebDavUrl, credentials: Option<&Credentials>) -> Result<Self, TargetError> {
        let what = url.to_string();
        let user = credentials.and_then(|c| c.get("user"));
        let auth = match (user, credentials.and_then(|c| c.get("password"))) {
            (Some(user), Some(password)) => {
                let text = zeroize::Zeroizing::new(format!("{user}:{password}"));
                let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(text.as_bytes()))).ok();
                value.iter_mut().for_each(|v| v.set_sensitive(true));
                value
            }
            // Some servers let everybody in who reaches them.
            (None, None) => None,
            _ => {
                let reason = "it needs credentials with user and password".to_owned();
                return Err(TargetError::Auth { op: Op::OpenTarget, what, reason });
            }
        };
        let wire = Wire::new(credentials, &what)?;
        let server = url.server.base();
        let root: Vec<String> = url.folder.split('/').filter(|n| !n.is_empty()).map(str::to_owned).collect();
        let base = format!("{server}/{}", encode(&root.join("/")));
        Ok(Self { wire, base, root, server, auth, url: what, made: Mutex::default() })
    }

    /// The target's URL, for people.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn made(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.made.lock().unwrap_or_else(|e| e.into_inner())
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: Bytes,
        answer_max: u64,
    ) -> Result<Answer, WireError> {
        let nonsense = || WireError::Nonsense("the request cannot be made".to_owned());
        let mut all = HeaderMap::new();
        if let Some(auth) = &self.auth {
            all.insert(header::AUTHORIZATION, auth.clone());
        }
        for (name, value) in headers {
            all.insert(name, HeaderValue::from_str(value).map_err(|_| nonsense())?);
        }
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| nonsense())?;
        let url =
            if path.is_empty() { self.base.clone() } else { format!("{}/{path}", self.base.trim_end_matches('/')) };
        self.wire.ask(&Ask { method, url, headers: all, body, answer_max }).await
    }

    /// A whole file of at most `limit` bytes.
    pub async fn get(&self, op: Op, what: &str, path: &str, limit: u64) -> Result<Bytes, TargetError> {
        match self.ask("GET", path, &[], Bytes::new(), limit).await {
            Ok(answer) => Ok(answer.body),
            Err(WireError::Endless(_)) => {
                Err(TargetError::TooLarge { op, what: what.to_owned(), len: limit.saturating_add(1), limit })
            }
            Err(e) => Err(e.to_target(op, what)),
        }
    }

    /// Exactly these bytes of a part file. A server that knows no ranges sends all of it.
    pub async fn range(&self, op: Op, what: &str, path: &str, range: Range<u64>) -> Result<Bytes, TargetError> {
        let cut = |have| TargetError::Truncated {
            op,
            what: what.to_owned(),
            offset: range.start,
            wanted: range.end - range.start,
            have,
        };
        let asked = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let answer = match self.ask("GET", path, &[(header::RANGE, &asked)], Bytes::new(), PART_LEN).await {
            Ok(answer) => answer,
            Err(WireError::Status { status, .. }) if status.as_u16() == 416 => return Err(cut(range.start)),
            Err(e) => return Err(e.to_target(op, what)),
        };
        let bytes = if answer.status.as_u16() == 206 {
            answer.body
        } else {
            let have = answer.body.len();
            let (from, to) = ((range.start as usize).min(have), (range.end as usize).min(have));
            answer.body.slice(from..to)
        };
        let have = range.start + bytes.len() as u64;
        match have.cmp(&range.end) {
            std::cmp::Ordering::Equal => Ok(bytes),
            std::cmp::Ordering::Less => Err(cut(have)),
            std::cmp::Ordering::Greater => Err(WireError::Endless(range.end - range.start).to_target(op, what)),
        }
    }

    /// Puts a whole file, over one that is there. Folders on the way are made.
    pub async fn put(&self, op: Op, what: &str, path: &str, bytes: Bytes) -> Result<(), TargetError> {
        let folder = path.rsplit_once('/').map(|(folder, _)| folder);
        if let Some(folder) = folder {
            self.make(op, what, folder).await?;
        }
        match self.ask("PUT", path, &[], bytes.clone(), ANSWER_LEN_MAX).await {
            Ok(_) => Ok(()),
            // A folder that was there is gone.
            Err(WireError::Status { status, .. }) if folder.is_some() && matches!(status.as_u16(), 404 | 409) => {
                self.made().clear();
                self.make(op, what, folder.unwrap_or_default()).await?;
                let again = self.ask("PUT", path, &[], bytes, ANSWER_LEN_MAX).await;
                again.map(|_| ()).map_err(|e| e.to_target(op, what))
            }
            Err(e) => Err(e.to_target(op, what)),
        }
    }

    /// Puts a file where none is; what is there stays.
    pub async fn put_new(&self, op: Op, what: &str, path: &str, bytes: Bytes) -> Result<(), TargetError> {
        match self.ask("PUT", path, &[(header::IF_NONE_MATCH, "*")], bytes, ANSWER_LEN_MAX).await {
            Ok(_) => Ok(()),
            Err(WireError::Status { status, .. }) if status.as_u16() == 412 => Ok(()),
            Err(e) => Err(e.to_target(op, what)),
        }
    }

    /// Removes a file, or a folder with all in it; nothing there is fine.
    pub async fn delete(&self, op: Op, what: &str, path: &str) -> Result<(), TargetError> {
        self.made().retain(|m| m != path && !m.starts_with(&format!("{path}/")));
        match self.ask("DELETE", path, &[], Bytes::new(), ANSWER_LEN_MAX).await {
            // 207 tells of what could not be removed.
            Ok(answer) if answer.status.as_u16() == 207 => {
                let reason = "it removed only a part of what it should".to_owned();
                Err(TargetError::Protocol { op, what: what.to_owned(), reason })
            }
            Ok(_) => Ok(()),
            Err(e) => Some(e.to_target(op, what)).filter(|e| !e.is_not_found()).map_or(Ok(()), Err),
        }
    }

    /// Makes a folder and those above it, below the target's own.
    pub async fn make(&self, op: Op, what: &str, folder: &str) -> Result<(), TargetError> {
        if self.made().contains(folder) {
            return Ok(());
        }
        let mut path = String::new();
        for name in folder.split('/') {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(name);
            if self.made().contains(&path) {
                continue;
            }
            let one = self.make_one(op, what, &format!("{}/{path}/", self.base.trim_end_matches('/'))).await;
            // Of two who make it at once, Apache tells one that it may not.
            if one.is_err() && self.try_list(op, &path).await?.is_none() {
                one?;
            }
            let mut made = self.made();
            if made.len() >= MADE_MAX {
                made.clear();
            }
            made.insert(path.clone());
        }
        Ok(())
    }

    /// Makes the target's own folder and those above it, as far as the server lets us.
    pub async fn make_root(&self, op: Op, what: &str) -> Result<(), TargetError> {
        let mut url = self.server.clone();
        let mut last = Ok(());
        for name in &self.root {
            let _ = write!(url, "/{}", encode(name));
            // Above what belongs to the user, servers refuse; only the last answer counts.
            last = self.make_one(op, what, &format!("{url}/")).await;
        }
        last
    }

    async fn make_one(&self, op: Op, what: &str, url: &str) -> Result<(), TargetError> {
        let mut headers = HeaderMap::new();
        if let Some(auth) = &self.auth {
            headers.insert(header::AUTHORIZATION, auth.clone());
        }
        let method = Method::from_bytes(b"MKCOL").unwrap_or_default();
        let ask = Ask { method, url: url.to_owned(), headers, body: Bytes::new(), answer_max: ANSWER_LEN_MAX };
        match self.wire.ask(&ask).await {
            Ok(_) => Ok(()),
            // It is there already.
            Err(WireError::Status { status, .. }) if status.as_u16() == 405 => Ok(()),
            Err(e) => Err(e.to_target(op, what)),
        }
    }

    /// What lies directly in a folder; a folder that is not there holds nothing.
    pub async fn list(&self, op: Op, folder: &str) -> Result<Vec<DavEntry>, TargetError> {
        self.try_list(op, folder).await.map(Option::unwrap_or_default)
    }

    /// What lies directly in a folder; `None` if it is not there.
    pub async fn try_list(&self, op: Op, folder: &str) -> Result<Option<Vec<DavEntry>>, TargetError> {
        let headers =
            [(header::HeaderName::from_static("depth"), "1"), (header::CONTENT_TYPE, "application/xml; charset=utf-8")];
        let path = format!("{folder}/");
        let answer =
            match self.ask("PROPFIND", &path, &headers, Bytes::from_static(LIST.as_bytes()), LISTING_LEN_MAX).await {
                Ok(answer) => answer,
                Err(e) => match e.to_target(op, folder) {
                    TargetError::NotFound { .. } => return Ok(None),
                    e => return Err(e),
                },
            };
        let nonsense = |reason: &str| TargetError::Protocol { op, what: folder.to_owned(), reason: reason.to_owned() };
        if answer.status.as_u16() != 207 {
            return Err(nonsense("it does not answer as WebDAV does"));
        }
        read_listing(&answer.body, folder).map(Some).ok_or_else(|| nonsense("its listing cannot be understood"))
    }
}

/// Reads a multistatus answer: the entries directly in `folder`. `None` if it makes no sense.
fn read_listing(body: &[u8], folder: &str) -> Option<Vec<DavEntry>> {
    let mut xml = quick_xml::Reader::from_reader(body);
    let (mut out, mut whole, mut text) = (Vec::new(), false, String::new());
    let (mut href, mut is_folder, mut len) = (String::new(), false, 0);
    loop {
        match xml.read_event().ok()? {
            Event::Start(e) => {
                text.clear();
                match e.local_name().as_ref() {
                    b"response" => (href, is_folder, len) = (String::new(), false, 0),
                    b"collection" => is_folder = true,
                    _ => {}
                }
            }
            Event::Empty(e) if e.local_name().as_ref() == b"collection" => is_folder = true,
            Event::Text(t) => text.push_str(&t.decode().ok()?),
            Event::CData(t) => text.push_str(&t.decode().ok()?),
            Event::GeneralRef(r) => text.push(match r.as_ref() {
                b"amp" => '&',
                // Our own names need no others.
                _ => return None,
            }),
            Event::End(e) => match e.local_name().as_ref() {
                b"href" => text.trim().clone_into(&mut href),
                b"getcontentlength" if !text.trim().is_empty() => len = text.trim().parse().ok()?,
                b"response" => {
                    if let Some(name) = name_in(&href, folder) {
                        out.push(DavEntry { name, folder: is_folder, len });
                        if out.len() > NAMES_MAX {
                            return None;
                        }
                    }
                }
                b"multistatus" => whole = true,
                _ => {}
            },
            Event::Eof => return whole.then_some(out),
            _ => {}
        }
    }
}

/// The name of what an address stands for, if it lies directly in `folder`.
fn name_in(href: &str, folder: &str) -> Option<String> {
    let decoded = crate::url::decode(href)?;
    let path = decoded.trim_end_matches('/');
    let (above, name) = path.rsplit_once('/')?;
    (above == folder || above.ends_with(&format!("/{folder}"))).then(|| name.to_owned())
}

/// Percent-encodes what a path cannot hold.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~/".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn listings_of_several_servers_are_read_and_nonsense_is_not() {
        let apache = br#"<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:"><D:response xmlns:lp1="DAV:"><D:href>/dav/zones/ab/</D:href><D:propstat><D:prop>
<lp1:resourcetype><D:collection/></lp1:resourcetype></D:prop></D:propstat></D:response><D:response><D:href>/dav/zones/ab/x%20y&amp;z</D:href>
<D:propstat><D:prop><lp1:resourcetype/><lp1:getcontentlength>42</lp1:getcontentlength></D:prop></D:propstat></D:response></D:multistatus>"#;
        let file = DavEntry { name: "x y&z".into(), folder: false, len: 42 };
        assert_eq!(read_listing(apache, "zones/ab"), Some(vec![file]));
        let other = br#"<multistatus xmlns="DAV:"><response><href>https://h/p/zones/ab/c/</href><propstat><prop><resourcetype>
<collection></collection></resourcetype><getcontentlength/></prop></propstat></response><response><href>/elsewhere/c</href></response></multistatus>"#;
        assert_eq!(read_listing(other, "zones/ab"), Some(vec![DavEntry { name: "c".into(), folder: true, len: 0 }]));
        let cut = apache.len() - 5;
        for bad in [&apache[..cut], &apache[..300], b"", b"<html/>", b"<a>&bomb;</a>", b"\xff\xfe<"] {
            assert_eq!(read_listing(bad, "zones/ab"), None);
        }
    }
}
