//! Requests to one bucket: the storage library signs and shapes them, [`Wire`] sends them under limits.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer, AwsCredential};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpService,
};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};
use serde::Deserialize;

use super::lock::Keep;
use crate::credentials::Credentials;
use crate::errors::{Op, TargetError};
use crate::limits::ANSWER_LEN_MAX;
use crate::net::parts::Part;
use crate::net::{Answer, Ask, Wire, WireError, code_of};
use crate::target::Protection;
use crate::url::S3Url;

/// Parts in one answer of a store, and answers of one question.
const PARTS_PAGES_MAX: usize = 32;

/// One bucket, or a folder in it.
pub(super) struct Client {
    store: AmazonS3,
    wire: Arc<Wire>,
    credential: AwsCredential,
    region: String,
    /// URL of the bucket, for requests.
    pub(super) bucket: String,
    /// The folder in the bucket, with a slash at the end unless it is empty.
    pub(super) folder: String,
    /// The target's URL, for people.
    url: String,
    /// What the bucket does with what is removed, once it was asked.
    pub(super) protection: tokio::sync::OnceCell<Protection>,
    /// How long what is put is locked, in seconds; 0: not at all.
    pub(super) lock_s: AtomicU64,
}

/// A page of a listing: names with their lengths, and where the next one begins.
pub(super) struct Page {
    pub names: Vec<(String, u64)>,
    pub next: Option<String>,
}

/// A request that is made here.
pub(super) struct Own<'k> {
    pub method: Method,
    /// Without one it is about the bucket.
    pub key: Option<&'k str>,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub answer_max: u64,
}

impl<'k> Own<'k> {
    pub fn new(method: Method, key: Option<&'k str>, query: String) -> Self {
        Self { method, key, query, headers: HeaderMap::new(), body: Bytes::new(), answer_max: ANSWER_LEN_MAX }
    }

    pub fn get(key: Option<&'k str>, query: String) -> Self {
        Self::new(Method::GET, key, query)
    }
}

/// How many bytes an answer may have, where the request does not show it.
#[derive(Clone, Copy)]
struct AnswerMax(u64);

#[derive(Debug)]
struct Sender(Arc<Wire>);

#[async_trait::async_trait]
impl HttpService for Sender {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let answer_max = parts.extensions.get::<AnswerMax>().map_or(ANSWER_LEN_MAX, |m| m.0);
        let ask = Ask { method: parts.method, url: parts.uri.to_string(), headers: parts.headers, body, answer_max };
        // Tries are counted by the wire alone: what it gives up is not sent again.
        let answer = self.0.ask(&ask).await.and_then(|a| checked(&ask, a));
        let answer = answer.map_err(|e| HttpError::new(HttpErrorKind::Decode, e))?;
        let mut response = HttpResponse::new(answer.body.into());
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }
}

impl HttpConnector for Sender {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Sender(self.0.clone())))
    }
}

impl Client {
    /// A client without connections: nothing is sent yet.
    pub fn new(url: &S3Url, credentials: Option<&Credentials>) -> Result<Self, TargetError> {
        let (op, what) = (Op::OpenTarget, url.to_string());
        let needed = |name: &str| {
            let reason = format!("it needs credentials with {name}");
            let value = credentials.and_then(|c| c.get(name)).filter(|v| !v.is_empty() && is_plain(v));
            value.map(str::to_owned).ok_or(TargetError::Auth { op, what: what.clone(), reason })
        };
        let (key_id, secret_key) = (needed("access_key_id")?, needed("secret_access_key")?);
        let token = credentials.and_then(|c| c.get("session_token")).filter(|t| is_plain(t)).map(str::to_owned);
        let wire = Arc::new(Wire::new(credentials, &what)?);
        let (base, region) = (url.server.base(), url.region().to_owned());
        let mut builder = AmazonS3Builder::new()
            .with_endpoint(&base)
            .with_bucket_name(&url.bucket)
            .with_region(&region)
            .with_access_key_id(&key_id)
            .with_secret_access_key(&secret_key)
            .with_allow_http(!url.server.tls)
            // Not every store knows the request that removes many.
            .with_disable_bulk_delete(true)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(Sender(wire.clone()));
        if let Some(token) = &token {
            builder = builder.with_token(token);
        }
        let bad = |_| TargetError::Protocol { op, what: what.clone(), reason: "the URL cannot be used".to_owned() };
        let store = builder.build().map_err(bad)?;
        let folder = if url.folder.is_empty() { String::new() } else { format!("{}/", url.folder) };
        Path::parse(&folder).map_err(|_| TargetError::Protocol {
            op,
            what: what.clone(),
            reason: "the folder has characters that no bucket should have".to_owned(),
        })?;
        let bucket = format!("{base}/{}", url.bucket);
        Ok(Self {
            store,
            wire,
            credential: AwsCredential { key_id, secret_key, token },
            region,
            bucket,
            folder,
            url: what,
            protection: tokio::sync::OnceCell::new(),
            lock_s: AtomicU64::new(0),
        })
    }

    /// The target's URL, for people.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn moved(&self) -> (u64, u64) {
        self.wire.moved()
    }

    pub(super) fn path(&self, key: &str) -> Path {
        // The folder was parsed when the client was made, and every key below it is letters, digits, dots and slashes.
        Path::parse(format!("{}{key}", self.folder)).unwrap_or_default()
    }

    /// Bytes of an object; `None` if it is not there.
    pub async fn len(&self, op: Op, what: &str, key: &str) -> Result<Option<u64>, TargetError> {
        match self.store.head(&self.path(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(e) => match failed(op, what, &e) {
                e if e.is_not_found() => Ok(None),
                e => Err(e),
            },
        }
    }

    /// A whole object of at most `limit` bytes; one that somebody has hidden is read all the same.
    pub async fn get(&self, op: Op, what: &str, key: &str, limit: u64) -> Result<Bytes, TargetError> {
        match self.get_plain(op, what, key, limit).await {
            Err(e) if e.is_not_found() => match self.newest(op, what, key).await? {
                Some(hidden) => self.get_version(op, what, key, limit, Some(hidden.id)).await,
                None => Err(e),
            },
            other => other,
        }
    }

    /// The same, of what is to be seen alone.
    pub async fn get_plain(&self, op: Op, what: &str, key: &str, limit: u64) -> Result<Bytes, TargetError> {
        self.get_version(op, what, key, limit, None).await
    }

    async fn get_version(
        &self,
        op: Op,
        what: &str,
        key: &str,
        limit: u64,
        version: Option<String>,
    ) -> Result<Bytes, TargetError> {
        let too_large = || TargetError::TooLarge { op, what: what.to_owned(), len: limit.saturating_add(1), limit };
        let bytes = self.fetch(key, None, limit, version).await;
        bytes.map_err(
            |e| if matches!(find(&e), Some(WireError::Endless(_))) { too_large() } else { failed(op, what, &e) },
        )
    }

    /// Exactly these bytes of an object.
    pub async fn range(
        &self,
        op: Op,
        what: &str,
        key: &str,
        range: Range<u64>,
        version: Option<String>,
    ) -> Result<Bytes, TargetError> {
        let wanted = range.end - range.start;
        let got = self.fetch(key, Some(range.clone()), wanted, version).await;
        let bytes = got.map_err(|e| match find(&e) {
            // It was longer when it was opened.
            Some(WireError::Status { status, .. }) if status.as_u16() == 416 => {
                TargetError::Truncated { op, what: what.to_owned(), offset: range.start, wanted, have: range.start }
            }
            _ => failed(op, what, &e),
        })?;
        let have = range.start + bytes.len() as u64;
        if have == range.end {
            return Ok(bytes);
        }
        Err(TargetError::Truncated { op, what: what.to_owned(), offset: range.start, wanted, have })
    }

    async fn fetch(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        max: u64,
        version: Option<String>,
    ) -> object_store::Result<Bytes> {
        let mut options = GetOptions { range: range.map(GetRange::Bounded), version, ..GetOptions::default() };
        options.extensions.insert(AnswerMax(max));
        self.store.get_opts(&self.path(key), options).await?.bytes().await
    }

    /// Puts a whole object, over one that is there.
    pub async fn put(&self, op: Op, what: &str, key: &str, bytes: Bytes, keep: Keep) -> Result<(), TargetError> {
        if self.locks(op, what).await? {
            return self.put_locked(op, what, key, bytes, keep, false).await;
        }
        let put = self.store.put(&self.path(key), PutPayload::from(bytes)).await;
        put.map(|_| ()).map_err(|e| failed(op, what, &e))
    }

    /// Puts an object where none is; what is there stays. A store that knows no such condition gets a plain put.
    pub async fn put_new(&self, op: Op, what: &str, key: &str, bytes: Bytes) -> Result<(), TargetError> {
        if self.locks(op, what).await? {
            return self.put_locked(op, what, key, bytes, Keep::Locked, true).await;
        }
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.path(key), PutPayload::from(bytes.clone()), options).await {
            Ok(_) => Ok(()),
            Err(e) => match find(&e) {
                Some(WireError::Status { status, .. }) if matches!(status.as_u16(), 409 | 412) => Ok(()),
                Some(WireError::Status { status, .. }) if status.as_u16() == 501 => {
                    self.put(op, what, key, bytes, Keep::Locked).await
                }
                _ => Err(failed(op, what, &e)),
            },
        }
    }

    /// Removes an object; nothing there is fine.
    pub async fn delete(&self, op: Op, what: &str, key: &str) -> Result<(), TargetError> {
        match self.store.delete(&self.path(key)).await {
            Ok(()) => Ok(()),
            Err(e) => Some(failed(op, what, &e)).filter(|e| !e.is_not_found()).map_or(Ok(()), Err),
        }
    }

    /// Begins an upload of an object; answers its id.
    pub async fn begin_upload(&self, what: &str, key: &str) -> Result<String, TargetError> {
        if self.locks(Op::Write, what).await? {
            return self.begin_locked(what, key).await;
        }
        self.store.create_multipart(&self.path(key)).await.map_err(|e| failed(Op::Write, what, &e))
    }

    /// Sends one part, whole.
    pub async fn put_part(
        &self,
        what: &str,
        key: &str,
        upload: &str,
        index: u64,
        bytes: Bytes,
    ) -> Result<Part, TargetError> {
        let len = bytes.len() as u64;
        if self.locks(Op::Write, what).await? {
            let tag = self.put_part_checked(what, key, upload, index, bytes).await?;
            return Ok(Part { index, len, tag });
        }
        let sent =
            self.store.put_part(&self.path(key), &upload.to_owned(), index as usize, PutPayload::from(bytes)).await;
        let etag = sent.map_err(|e| failed(Op::Write, what, &e))?.content_id;
        Ok(Part { index, len, tag: etag })
    }

    /// Makes the parts one object. They are all parts from the first, in order.
    pub async fn complete(&self, what: &str, key: &str, upload: &str, etags: Vec<String>) -> Result<(), TargetError> {
        let parts = etags.into_iter().map(|content_id| PartId { content_id }).collect();
        let done = self.store.complete_multipart(&self.path(key), &upload.to_owned(), parts).await;
        done.map_err(|e| failed(Op::Seal, what, &e))?;
        // Not every store heeds what was said when the upload began.
        self.locked_now(key).await;
        Ok(())
    }

    /// Throws an upload away; nothing there is fine.
    pub async fn abort(&self, op: Op, what: &str, key: &str, upload: &str) -> Result<(), TargetError> {
        match self.store.abort_multipart(&self.path(key), &upload.to_owned()).await {
            Ok(()) => Ok(()),
            Err(e) => Some(failed(op, what, &e)).filter(|e| !e.is_not_found()).map_or(Ok(()), Err),
        }
    }

    /// The parts that the store holds of an upload; `None` if it knows no such upload. The storage library does not ask
    /// this question, so it only signs it.
    pub async fn parts(&self, op: Op, what: &str, key: &str, upload: &str) -> Result<Option<Vec<Part>>, TargetError> {
        let nonsense = || TargetError::Protocol { op, what: what.to_owned(), reason: "its list of parts".to_owned() };
        let (mut all, mut marker) = (Vec::new(), 0u64);
        for _ in 0..PARTS_PAGES_MAX {
            let mut query = format!("max-parts=1000&uploadId={}", encode(upload, false));
            if marker > 0 {
                let _ = write!(query, "&part-number-marker={marker}");
            }
            let answer = match self.ask(Own::get(Some(key), query)).await {
                Ok(answer) => answer,
                Err(e) => match of_wire(op, what, &e) {
                    TargetError::NotFound { .. } => return Ok(None),
                    e => return Err(e),
                },
            };
            let page: PartsPage = quick_xml::de::from_reader(&*answer.body).map_err(|_| nonsense())?;
            for p in page.parts {
                let index = p.number.checked_sub(1).filter(|i| *i < 10_000).ok_or_else(nonsense)?;
                all.push(Part { index, len: p.size, tag: p.etag.unwrap_or_default() });
            }
            match page.next.filter(|next| page.truncated && *next > marker) {
                Some(next) => marker = next,
                None => return Ok(Some(all)),
            }
        }
        Err(nonsense())
    }

    /// Signs and sends a request that the storage library does not know, or not with these headers.
    pub(super) async fn ask(&self, own: Own<'_>) -> Result<Answer, WireError> {
        let nonsense = || WireError::Nonsense("the request cannot be made".to_owned());
        let path = own.key.map(|key| format!("/{}", encode(self.path(key).as_ref(), true))).unwrap_or_default();
        let query = if own.query.is_empty() { String::new() } else { format!("?{}", own.query) };
        let url = format!("{}{path}{query}", self.bucket);
        let mut request = HttpRequest::new(HttpRequestBody::from(own.body.clone()));
        *request.method_mut() = own.method.clone();
        *request.uri_mut() = url.parse().map_err(|_| nonsense())?;
        *request.headers_mut() = own.headers;
        let signer = AwsAuthorizer::new(&self.credential, "s3", &self.region);
        signer.try_authorize(&mut request, None).map_err(|_| nonsense())?;
        let headers = request.headers().clone();
        let ask = Ask { method: own.method, url, headers, body: own.body, answer_max: own.answer_max };
        self.wire.ask(&ask).await.and_then(|a| checked(&ask, a))
    }

    /// One page of what lies below a folder, by names relative to it; with `folders`, of the folders directly in it.
    pub async fn page(&self, folder: &str, folders: bool, token: Option<String>) -> Result<Page, TargetError> {
        let prefix = format!("{}{folder}/", self.folder);
        let options = PaginatedListOptions {
            delimiter: folders.then_some("/".into()),
            page_token: token,
            ..PaginatedListOptions::default()
        };
        let page = self.store.list_paginated(Some(&prefix), options).await;
        let page = page.map_err(|e| failed(Op::List, folder, &e))?;
        // A name that is not below the folder is the server's invention.
        let name = |p: &Path| p.as_ref().strip_prefix(&prefix).map(str::to_owned);
        let names = if folders {
            page.result.common_prefixes.iter().filter_map(|p| Some((name(p)?, 0))).collect()
        } else {
            page.result.objects.iter().filter_map(|o| Some((name(&o.location)?, o.size))).collect()
        };
        Ok(Page { names, next: page.page_token })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.url)
    }
}

#[derive(Deserialize)]
struct PartsPage {
    #[serde(rename = "IsTruncated", default)]
    truncated: bool,
    #[serde(rename = "NextPartNumberMarker")]
    next: Option<u64>,
    #[serde(rename = "Part", default)]
    parts: Vec<PartRow>,
}

#[derive(Deserialize)]
struct PartRow {
    #[serde(rename = "PartNumber")]
    number: u64,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "ETag")]
    etag: Option<String>,
}

/// Whether an answer that is to be XML is what was asked for, and whole. The library would take any other page for an
/// empty listing, and an empty listing tells of lost sectors.
fn checked(ask: &Ask, answer: Answer) -> Result<Answer, WireError> {
    let query = ask.url.split_once('?').map_or("", |(_, query)| query);
    let ends: &[&[u8]] = match ask.method {
        Method::GET if query.contains("list-type=2") => &[b"</ListBucketResult>"],
        Method::GET if query.starts_with("versions") => &[b"</ListVersionsResult>"],
        // The second name is what some servers say.
        Method::GET if query.contains("max-parts=") => &[b"</ListPartsResult>", b"</ListPartsResponse>"],
        Method::POST if query.contains("uploadId=") => &[b"</CompleteMultipartUploadResult>"],
        Method::POST if query.contains("uploads") => &[b"</InitiateMultipartUploadResult>"],
        _ => return Ok(answer),
    };
    if ends.iter().any(|end| answer.body.trim_ascii_end().ends_with(end)) {
        return Ok(answer);
    }
    // An error can come with the status of a success.
    let code = code_of(&answer.body);
    if !code.is_empty() {
        return Err(WireError::Status { status: StatusCode::SERVICE_UNAVAILABLE, code, wait: None });
    }
    Err(WireError::Nonsense("it does not answer as S3 does".to_owned()))
}

/// What a header can carry.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// Percent-encodes all but what S3's signatures leave as it is.
pub(super) fn encode(text: &str, slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || slashes && b == b'/' {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

/// What the wire said, somewhere below the library's error.
fn find<'e>(e: &'e (dyn Error + 'static)) -> Option<&'e WireError> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(found) = e.downcast_ref::<WireError>() {
            return Some(found);
        }
        next = e.source();
    }
    None
}

fn failed(op: Op, what: &str, e: &object_store::Error) -> TargetError {
    match find(e) {
        Some(wire) => of_wire(op, what, wire),
        // The library's words may hold what the server sent, so they are not passed on.
        None => {
            let reason = "its answer cannot be understood".to_owned();
            TargetError::Protocol { op, what: what.to_owned(), reason }
        }
    }
}

/// S3's own codes first, then what HTTP says.
pub(super) fn of_wire(op: Op, what: &str, e: &WireError) -> TargetError {
    let (owned, reason) = (what.to_owned(), e.to_string());
    let WireError::Status { status, code, wait } = e else { return e.to_target(op, what) };
    let source = || std::io::Error::other(reason.clone());
    match code.as_str() {
        "NoSuchBucket" => TargetError::Unplugged { op, what: owned, reason: "there is no such bucket".to_owned() },
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "RequestTimeTooSkewed"
        | "AuthorizationHeaderMalformed"
        | "AccountProblem"
        | "NotSignedUp" => TargetError::Auth { op, what: owned, reason },
        "QuotaExceeded"
        | "XMinioStorageFull"
        | "StorageFull"
        | "ServiceQuotaExceeded"
        | "XMinioAdminBucketQuotaExceeded" => TargetError::Full { op, what: owned, source: source() },
        "SlowDown" | "Throttling" | "RequestLimitExceeded" | "TooManyRequests" => {
            let wait_ms = wait.map(|w| w.as_millis().min(u128::from(u64::MAX)) as u64);
            TargetError::Throttled { op, what: owned, wait_ms }
        }
        _ if status.is_redirection() => {
            let reason = format!("{reason}: is the bucket in another region? Add ?region=NAME to the URL");
            TargetError::Protocol { op, what: owned, reason }
        }
        _ => e.to_target(op, what),
    }
}

const _: () = assert!(ANSWER_LEN_MAX >= crate::limits::OBJECT_LEN_MAX);

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn keys_are_encoded_as_signatures_want_it() {
        assert_eq!(encode("a b/ä~+=", true), "a%20b/%C3%A4~%2B%3D");
        assert_eq!(encode("a/b", false), "a%2Fb");
    }
}
