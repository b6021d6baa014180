//! Buckets that keep what is removed: object lock, versions, and what lies behind delete markers.
//!
//! In a bucket with versions a removal only puts a mark before the object. With object lock a version can be told to refuse
//! its removal until a moment, in compliance mode whoever asks. Bodies that are locked carry a checksum, as S3 wants it.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use md5::{Digest as _, Md5};
use serde::Deserialize;

use super::client::{Client, Own, encode, of_wire};
use crate::errors::{Op, TargetError};
use crate::limits::{COPY_LEN_MAX, MARKS_MAX, NAMES_MAX, PAGES_MAX};
use crate::net::{WireError, request_ms};
use crate::target::Protection;

const MODE: HeaderName = HeaderName::from_static("x-amz-object-lock-mode");
const UNTIL: HeaderName = HeaderName::from_static("x-amz-object-lock-retain-until-date");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
const COPY_SOURCE: HeaderName = HeaderName::from_static("x-amz-copy-source");
const COMPLIANCE: &str = "COMPLIANCE";

/// Whether what is put is to be kept from removal, where the bucket can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Locked,
    /// It is removed soon.
    Plain,
}

/// One version of an object.
#[derive(Clone, Debug)]
pub(super) struct Version {
    /// Name below the target's folder.
    pub key: String,
    pub id: String,
    pub len: u64,
    /// It is what a reader sees.
    pub latest: bool,
}

/// Versions and delete markers; the newest of each key comes first.
#[derive(Debug, Default)]
pub(super) struct Versions {
    pub versions: Vec<Version>,
    pub markers: Vec<Version>,
}

impl Client {
    /// Whether it locks what it is told to lock.
    pub async fn locks(&self, op: Op, what: &str) -> Result<bool, TargetError> {
        Ok(self.guards(op, what).await?.locks == Some(true))
    }

    /// What the bucket does with what is removed. It is asked once.
    pub async fn guards(&self, op: Op, what: &str) -> Result<Protection, TargetError> {
        let ask = || async {
            let locks = self.answers("object-lock", "<ObjectLockEnabled>Enabled</ObjectLockEnabled>").await?;
            let versions = match locks {
                // A bucket that locks has versions.
                Some(true) => Some(true),
                _ => self.answers("versioning", "<Status>Enabled</Status>").await?,
            };
            Ok(Protection { versions, locks, kept_days: None })
        };
        self.protection.get_or_try_init(ask).await.copied().map_err(|e| of_wire(op, what, &e))
    }

    /// Whether the bucket's answer to a question about itself says this; `None`: it does not let us ask.
    async fn answers(&self, about: &str, yes: &str) -> Result<Option<bool>, WireError> {
        match self.ask(Own::get(None, about.to_owned())).await {
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer.body);
                Ok(Some(text.split_whitespace().collect::<String>().contains(yes)))
            }
            Err(WireError::Status { code, .. }) if code == "AccessDenied" => Ok(None),
            // A store that does not know the question does not have it either.
            Err(WireError::Status { status, code, .. })
                if matches!(status.as_u16(), 400 | 404 | 405 | 501) && code != "NoSuchBucket" =>
            {
                Ok(Some(false))
            }
            Err(e) => Err(e),
        }
    }

    /// Until when what is put now is locked; `None`: not at all.
    fn lock_until(&self) -> Option<u64> {
        let lock_s = self.lock_s.load(Ordering::Relaxed);
        (lock_s > 0).then(|| now_s().saturating_add(lock_s))
    }

    fn lock_headers(&self, keep: Keep) -> Option<HeaderMap> {
        let locks = self.protection.get().is_some_and(|p| p.locks == Some(true));
        let until = self.lock_until().filter(|_| keep == Keep::Locked && locks)?;
        let until = HeaderValue::from_str(&utc(until)).ok()?;
        Some(HeaderMap::from_iter([(MODE, HeaderValue::from_static(COMPLIANCE)), (UNTIL, until)]))
    }

    /// Sends something with a lock. Credentials that may write and not lock still write: that the lock is missing is found
    /// and said by [`Client::lengthen`].
    async fn locked(&self, mut own: Own<'_>, keep: Keep) -> Result<crate::net::Answer, WireError> {
        if own.method == Method::PUT
            && let Ok(sum) = HeaderValue::from_str(&STANDARD.encode(Md5::digest(&own.body)))
        {
            own.headers.insert(CONTENT_MD5, sum);
        }
        if let Some(lock) = self.lock_headers(keep) {
            let mut with = own.headers.clone();
            with.extend(lock);
            let locked = Own {
                headers: with,
                query: own.query.clone(),
                body: own.body.clone(),
                method: own.method.clone(),
                ..own
            };
            match self.ask(locked).await {
                Err(WireError::Status { code, .. }) if code == "AccessDenied" => {}
                other => return other,
            }
        }
        self.ask(own).await
    }

    pub async fn put_locked(
        &self,
        op: Op,
        what: &str,
        key: &str,
        bytes: Bytes,
        keep: Keep,
        new: bool,
    ) -> Result<(), TargetError> {
        let mut own = Own::new(Method::PUT, Some(key), String::new());
        own.body = bytes;
        if new {
            own.headers.insert(http::header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        match self.locked(own, keep).await {
            Ok(_) => Ok(()),
            Err(WireError::Status { status, .. }) if new && matches!(status.as_u16(), 409 | 412) => Ok(()),
            Err(e) => Err(of_wire(op, what, &e)),
        }
    }

    pub async fn begin_locked(&self, what: &str, key: &str) -> Result<String, TargetError> {
        let own = Own::new(Method::POST, Some(key), "uploads=".to_owned());
        let answer = self.locked(own, Keep::Locked).await.map_err(|e| of_wire(Op::Write, what, &e))?;
        let begun: Begun = quick_xml::de::from_reader(&*answer.body).map_err(|_| nonsense(Op::Write, what))?;
        Ok(begun.upload)
    }

    /// Sends one part with a checksum; answers its tag.
    pub async fn put_part_checked(
        &self,
        what: &str,
        key: &str,
        upload: &str,
        index: u64,
        bytes: Bytes,
    ) -> Result<String, TargetError> {
        let query = format!("partNumber={}&uploadId={}", index + 1, encode(upload, false));
        let mut own = Own::new(Method::PUT, Some(key), query);
        own.body = bytes;
        let answer = self.locked(own, Keep::Plain).await.map_err(|e| of_wire(Op::Write, what, &e))?;
        let tag = answer.headers.get(http::header::ETAG).and_then(|v| v.to_str().ok());
        tag.map(str::to_owned).ok_or_else(|| nonsense(Op::Write, what))
    }

    /// Locks what was just completed, if it is not. What fails here is made up for by the next [`Client::lengthen`].
    pub async fn locked_now(&self, key: &str) {
        if self.lock_until().is_some() && self.locks(Op::Seal, key).await.unwrap_or(false) {
            let _ = self.lengthen(key, None).await;
        }
    }

    /// Makes the lock of a version, or of what is to be seen, as long as one that is put now, if a third of it is over.
    /// Answers whether it had to be. A lock never gets shorter.
    pub async fn lengthen(&self, key: &str, version: Option<&str>) -> Result<bool, WireError> {
        let (Some(until), lock_s) = (self.lock_until(), self.lock_s.load(Ordering::Relaxed)) else { return Ok(false) };
        let version = version.map(|id| format!("versionId={}", encode(id, false)));
        let query = version.clone().unwrap_or_default();
        let head = self.ask(Own::new(Method::HEAD, Some(key), query)).await?;
        let text = |name| head.headers.get(name).and_then(|v| v.to_str().ok());
        // What somebody could end sooner does not count, nor what these credentials may not see.
        let ends = text(UNTIL).and_then(parse_utc);
        let has = ends.filter(|_| text(MODE) == Some(COMPLIANCE));
        if has.is_some_and(|ends| ends >= until.saturating_sub(lock_s / 3)) {
            return Ok(false);
        }
        let text = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{COMPLIANCE}</Mode>\
             <RetainUntilDate>{}</RetainUntilDate></Retention>",
            utc(until.max(ends.unwrap_or(0)))
        );
        let query = version.map_or_else(|| "retention=".to_owned(), |v| format!("retention=&{v}"));
        let mut own = Own::new(Method::PUT, Some(key), query);
        own.body = text.into();
        self.locked(own, Keep::Plain).await.map(|_| true)
    }

    /// All versions and delete markers below a prefix, by names below the target's folder.
    pub async fn versions(&self, op: Op, what: &str, prefix: &str) -> Result<Versions, TargetError> {
        let (mut all, mut from) = (Versions::default(), String::new());
        let full = format!("{}{prefix}", self.folder);
        for _ in 0..PAGES_MAX {
            let query = format!("versions=&max-keys=1000&prefix={}{from}", encode(&full, false));
            let answer = self.ask(Own::get(None, query)).await.map_err(|e| of_wire(op, what, &e))?;
            let page: VersionsPage = quick_xml::de::from_reader(&*answer.body).map_err(|_| nonsense(op, what))?;
            let mine = |row: VersionRow| {
                let key = row.key.strip_prefix(&self.folder).filter(|k| k.starts_with(prefix))?.to_owned();
                Some(Version { key, id: row.id, len: row.size, latest: row.latest })
            };
            all.versions.extend(page.versions.into_iter().filter_map(mine));
            all.markers.extend(page.markers.into_iter().filter_map(mine));
            let len = (all.versions.len() + all.markers.len()) as u64;
            if len > NAMES_MAX as u64 {
                return Err(TargetError::TooLarge { op, what: what.to_owned(), len, limit: NAMES_MAX as u64 });
            }
            let Some(key) = page.next_key.filter(|_| page.truncated) else { return Ok(all) };
            from = format!("&key-marker={}", encode(&key, false));
            if let Some(id) = page.next_id.filter(|id| !id.is_empty()) {
                from = format!("{from}&version-id-marker={}", encode(&id, false));
            }
        }
        Err(nonsense(op, what))
    }

    /// The newest version of an object that a mark hides; `None` if none is there, or the bucket keeps none.
    pub async fn newest(&self, op: Op, what: &str, key: &str) -> Result<Option<Version>, TargetError> {
        if self.guards(op, what).await?.versions != Some(true) {
            return Ok(None);
        }
        match self.versions(op, what, key).await {
            Ok(all) => Ok(all.versions.into_iter().find(|v| v.key == key)),
            // Who may not look behind marks takes what is to be seen for all there is.
            Err(TargetError::Denied { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Removes one version, or one delete marker, for good.
    pub async fn remove_version(&self, v: &Version) -> Result<(), WireError> {
        let query = format!("versionId={}", encode(&v.id, false));
        self.ask(Own::new(Method::DELETE, Some(&v.key), query)).await.map(|_| ())
    }

    /// Makes a version the newest one again: the marks before it go, or, where only others may remove them, the store
    /// copies it in itself, locked anew. Answers whether it is to be seen again.
    pub async fn show(&self, version: &Version, marks: &[&Version]) -> Result<bool, WireError> {
        let refused = |e: &WireError| matches!(e, WireError::Status { code, .. } if code == "AccessDenied");
        let mut removed = marks.len() <= MARKS_MAX;
        for mark in marks.iter().take_while(|_| marks.len() <= MARKS_MAX) {
            match self.remove_version(mark).await {
                Ok(()) => {}
                Err(e) if refused(&e) => removed = false,
                Err(e) => return Err(e),
            }
        }
        if removed {
            return Ok(true);
        }
        if version.len > COPY_LEN_MAX {
            return Ok(false);
        }
        let path = encode(self.path(&version.key).as_ref(), true);
        let bucket = self.bucket.rsplit('/').next().unwrap_or_default();
        let source = format!("/{bucket}/{path}?versionId={}", encode(&version.id, false));
        let mut own = Own::new(Method::PUT, Some(&version.key), String::new());
        let Ok(source) = HeaderValue::from_str(&source) else { return Ok(false) };
        own.headers.insert(COPY_SOURCE, source);
        match tokio::time::timeout(request_ms(version.len), self.locked(own, Keep::Locked)).await {
            Ok(Ok(answer)) => Ok(answer.body.trim_ascii_end().ends_with(b"</CopyObjectResult>")),
            Ok(Err(e)) if refused(&e) => Ok(false),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(WireError::TimedOut(request_ms(version.len))),
        }
    }
}

fn nonsense(op: Op, what: &str) -> TargetError {
    TargetError::Protocol { op, what: what.to_owned(), reason: "its answer cannot be understood".to_owned() }
}

#[derive(Deserialize)]
struct Begun {
    #[serde(rename = "UploadId")]
    upload: String,
}

#[derive(Deserialize)]
struct VersionsPage {
    #[serde(rename = "IsTruncated", default)]
    truncated: bool,
    #[serde(rename = "NextKeyMarker")]
    next_key: Option<String>,
    #[serde(rename = "NextVersionIdMarker")]
    next_id: Option<String>,
    #[serde(rename = "Version", default)]
    versions: Vec<VersionRow>,
    #[serde(rename = "DeleteMarker", default)]
    markers: Vec<VersionRow>,
}

#[derive(Deserialize)]
struct VersionRow {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "VersionId")]
    id: String,
    #[serde(rename = "IsLatest")]
    latest: bool,
    #[serde(rename = "Size", default)]
    size: u64,
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Days from 1 March of the year 0, where years of 400 begin anew, to 1970.
const EPOCH_DAYS: u64 = 719_468;

/// Seconds since 1970 as S3 writes them, up to the year 9999.
fn utc(s: u64) -> String {
    let s = s.min(253_402_300_799);
    let (days, left) = (s / 86_400 + EPOCH_DAYS, s % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", left / 3600, left / 60 % 60, left % 60)
}

/// The other way; fractions of a second are cut off.
fn parse_utc(text: &str) -> Option<u64> {
    let number = |at: std::ops::Range<usize>| text.get(at)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (h, m, s) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) || !text.ends_with('Z')
    {
        return None;
    }
    let y = year - u64::from(month <= 2);
    let (era, of_era) = (y / 400, y % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - EPOCH_DAYS;
    Some(days * 86_400 + h * 3600 + m * 60 + s)
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn moments_are_written_and_read_as_s3_does() {
        for (s, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!((utc(s).as_str(), parse_utc(text)), (text, Some(s)));
        }
        assert_eq!(parse_utc("2100-01-01T00:00:00.123Z"), Some(4_102_444_800));
        for bad in ["", "2100-01-01", "2100-01-01T00:00:00+01:00", "2100-13-01T00:00:00Z", "\u{e9}100-01-01T00:00:00Z"]
        {
            assert_eq!(parse_utc(bad), None, "{bad}");
        }
        assert_eq!(utc(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
