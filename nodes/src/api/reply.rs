//! Answers: bodies, validators, and conditions of requests.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, ETAG, HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH, VARY};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use zoneward_sectors::crypto::sha256;
use zoneward_sectors::ids::{Digest, hex};

use super::{Answer, Problem};

/// The revision of the state that an answer was made from.
pub const REVISION: &str = "x-zoneward-revision";

/// Hex digits of a hash in a validator: enough that two never meet by chance.
const SHORT: usize = 16;

/// A validator: the state's revision, what an operator set of the record, and the bytes of the answer. Any difference makes
/// another one; `If-Match` looks at the middle part alone, so that the zone's own work does not get in an operator's way.
fn etag(revision: u64, settings: Option<&Digest>, body: &[u8]) -> String {
    let body = &hex(&sha256(&[body]).0)[..SHORT];
    match settings {
        Some(d) => format!("\"{revision}-{}-{body}\"", settings_tag(d)),
        None => format!("\"{revision}-{body}\""),
    }
}

fn settings_tag(d: &Digest) -> String {
    hex(&d.0)[..SHORT].to_owned()
}

/// Tags of a list header; weak ones are left out where a strong one is needed.
fn tags<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

/// What a change was made from must still be so. `settings` is what the record is now.
pub fn if_match(req: &HttpRequest, settings: &Digest) -> Result<(), Problem> {
    let mut seen = tags(req.headers(), &IF_MATCH).filter(|t| *t != "*").peekable();
    if seen.peek().is_none() {
        return Err(Problem::unseen());
    }
    let now = settings_tag(settings);
    let same = |t: &str| {
        t.strip_prefix('"')
            .and_then(|t| t.strip_suffix('"'))
            .is_some_and(|t| t.split('-').nth(1) == Some(&now) && t.split('-').count() == 3)
    };
    if seen.any(same) { Ok(()) } else { Err(Problem::stale()) }
}

/// A resource as it is in the state of this revision.
pub fn seen(req: &HttpRequest, revision: u64, settings: Option<&Digest>, body: &impl Serialize) -> Answer {
    with_status(req, StatusCode::OK, revision, settings, body, None)
}

/// The same with another status, and where the resource is.
pub fn with_status(
    req: &HttpRequest,
    status: StatusCode,
    revision: u64,
    settings: Option<&Digest>,
    body: &impl Serialize,
    location: Option<String>,
) -> Answer {
    let bytes = serde_json::to_vec(body).map_err(|e| Problem::internal(e.to_string()))?;
    let tag = etag(revision, settings, &bytes);
    let known = status == StatusCode::OK
        && req.method().is_safe()
        && tags(req.headers(), &IF_NONE_MATCH).any(|t| t == "*" || t.trim_start_matches("W/") == tag);
    let mut answer = HttpResponse::build(if known { StatusCode::NOT_MODIFIED } else { status });
    answer.insert_header((ETAG, tag)).insert_header((REVISION, revision.to_string())).insert_header((VARY, "Accept"));
    answer.insert_header((CACHE_CONTROL, "no-cache, private"));
    if let Some(l) = location {
        answer.insert_header(("Location", l));
    }
    Ok(if known { answer.finish() } else { answer.content_type("application/json").body(bytes) })
}

/// An answer that is of this moment only.
pub fn of_now(body: &impl Serialize) -> Answer {
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).insert_header((VARY, "Accept")).json(body))
}

/// Nothing more to say.
pub fn gone(revision: u64) -> HttpResponse {
    HttpResponse::NoContent().insert_header((REVISION, revision.to_string())).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn a_change_needs_what_was_seen_and_the_zones_own_work_is_not_in_its_way() {
        let (a, b) = (Digest([1; 32]), Digest([2; 32]));
        let req = |tag: &str| TestRequest::default().insert_header((IF_MATCH, tag)).to_http_request();
        let seen = etag(5, Some(&a), b"body");
        assert!(if_match(&req(&seen), &a).is_ok());
        assert!(if_match(&req(&etag(9, Some(&a), b"other body")), &a).is_ok());
        assert!(if_match(&req(&format!("\"x\", {seen}")), &a).is_ok());
        let status = |r: Result<(), Problem>| r.unwrap_err().status.as_u16();
        assert_eq!(status(if_match(&req(&seen), &b)), 412);
        assert_eq!(status(if_match(&req(&format!("W/{seen}")), &a)), 412);
        assert_eq!(status(if_match(&req(&etag(5, None, b"body")), &a)), 412);
        assert_eq!(status(if_match(&req("*"), &a)), 428);
        assert_eq!(status(if_match(&TestRequest::default().to_http_request(), &a)), 428);
    }

    #[test]
    fn what_is_known_is_not_sent_again() {
        let req = TestRequest::default().to_http_request();
        let first = seen(&req, 3, None, &"text").unwrap();
        assert_eq!(first.status(), 200);
        let tag = first.headers().get(ETAG).unwrap().clone();
        let again = TestRequest::default().insert_header((IF_NONE_MATCH, tag)).to_http_request();
        assert_eq!(seen(&again, 3, None, &"text").unwrap().status(), 304);
        assert_eq!(seen(&again, 4, None, &"text").unwrap().status(), 200);
        assert_eq!(seen(&again, 3, None, &"more").unwrap().status(), 200);
    }
}
