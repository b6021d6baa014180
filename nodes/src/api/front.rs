//! What every request passes first and every answer last.

use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage};
use zoneward_actors::clock::now_ms;
use zoneward_consensus::model::Scope;
use zoneward_sectors::crypto::fill_random;
use zoneward_sectors::ids::{TokenId, hex};

use super::document::{self, Need};
use super::rate::{BURST, PER_SECOND, Rate};
use super::token::{self, Secret};
use super::{HEADERS_LEN_MAX, Problem, Shared};

/// Milliseconds since this node last knew that it was up to date with a leader.
const HEARD: &str = "x-zoneward-heard-ms";
/// The id of a request, in the answer and in every problem.
const REQUEST_ID: &str = "x-request-id";

fn request_id() -> String {
    let mut bytes = [0; 8];
    fill_random(&mut bytes);
    hex(&bytes)
}

/// A browser may be led here by a name that somebody else owns; it then says that name.
fn host_ok(req: &ServiceRequest) -> bool {
    let Some(host) = req.headers().get(HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok()
}

fn headers_len(req: &ServiceRequest) -> usize {
    req.uri().to_string().len() + req.headers().iter().map(|(k, v)| k.as_str().len() + v.len() + 4).sum::<usize>()
}

/// Who asks, and what it may still ask.
#[derive(Clone, Debug)]
pub struct Login {
    pub token: TokenId,
    pub rate: Rate,
}

/// The token in `Authorization: Bearer …`.
fn bearer(req: &ServiceRequest) -> Result<Option<&str>, Problem> {
    let Some(value) = req.headers().get(AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().ok().and_then(|t| t.split_once(' ')).filter(|(s, _)| s.eq_ignore_ascii_case("bearer"));
    text.map(|(_, t)| Some(t.trim())).ok_or_else(|| Problem::unauthorized("Authorization is not Bearer zwt_…"))
}

/// Who asks: needed where a scope is.
async fn login(req: &ServiceRequest, shared: &Shared, need: Need) -> Result<Option<Login>, Problem> {
    // What is open to all is open to whoever holds a token that has ended.
    let open = matches!(need, Need::Nothing);
    let text = match bearer(req) {
        Err(_) if open => return Ok(None),
        other => other?,
    };
    let Some(text) = text else {
        let free = open || (need == Need::Scope(Scope::MetricsRead) && from_here(req));
        return if free { Ok(None) } else { Err(Problem::unauthorized("there is none")) };
    };
    let state = shared.node.cluster.view();
    let found = Secret::parse(text).and_then(|s| token::find(&state, &s, now_ms()));
    let Some(found) = found else {
        if open {
            return Ok(None);
        }
        return Err(shared.failures.slow(Problem::unauthorized("it is unknown, revoked or expired")).await);
    };
    let rate = shared.rates.take(found.id, Instant::now())?;
    match need {
        Need::Scope(scope) if !found.scopes.contains(&scope) && !found.scopes.contains(&Scope::Admin) => {
            Err(Problem::forbidden(scope.name()))
        }
        _ => Ok(Some(Login { token: found.id, rate })),
    }
}

/// Whether the request comes from this device.
fn from_here(req: &ServiceRequest) -> bool {
    req.peer_addr().is_some_and(|a| a.ip().is_loopback())
}

/// What is asked of every request.
async fn check(req: &ServiceRequest) -> Result<Option<Login>, Problem> {
    if !host_ok(req) {
        return Err(Problem::host());
    }
    if headers_len(req) > HEADERS_LEN_MAX {
        return Err(Problem::headers(HEADERS_LEN_MAX));
    }
    // What the table does not know never reaches the router: the two cannot differ over how a path is written.
    let need = document::need(req.method(), req.path())?;
    let shared = req.app_data::<Data<Shared>>().ok_or_else(|| Problem::internal("the node stops"))?.clone();
    login(req, &shared, need).await
}

/// The first and the last of every request.
pub async fn front(
    mut req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let begun = Instant::now();
    // The server sends no body in answer to HEAD, whoever made one. A stream would have nothing else to send.
    if req.method() == Method::HEAD && req.path() != super::stream::PATH {
        req.head_mut().method = Method::GET;
    }
    let (method, route) = (req.method().clone(), document::route(req.path()));
    let shared = req.app_data::<Data<Shared>>().cloned();
    let (res, rate) = match check(&req).await {
        Ok(login) => {
            let rate = login.as_ref().map(|l| l.rate);
            if let Some(login) = login {
                req.extensions_mut().insert(login);
            }
            (next.call(req).await?.map_into_boxed_body(), rate)
        }
        Err(problem) => {
            let (req, _) = req.into_parts();
            (ServiceResponse::from_err(problem, req), None)
        }
    };
    let mut res = finish(res, rate);
    if let Some(shared) = shared {
        // An answer made from the state tells how old that may be.
        let heard = shared.node.cluster.heard().filter(|_| res.headers().contains_key(super::reply::REVISION));
        if let Some(value) = heard.and_then(|age| HeaderValue::from_str(&age.as_millis().to_string()).ok()) {
            res.headers_mut().insert(HeaderName::from_static(HEARD), value);
        }
        shared.times.count(route, &method, res.status().as_u16(), begun.elapsed());
    }
    Ok(res)
}

/// Failures become problems; every answer gets the headers that all have.
fn finish(res: ServiceResponse<BoxBody>, rate: Option<Rate>) -> ServiceResponse<BoxBody> {
    let id = request_id();
    let mut res = match res.response().error().map(Problem::of) {
        Some(problem) => {
            let (req, _) = res.into_parts();
            let answer = problem.response(req.path(), &id);
            ServiceResponse::new(req, answer)
        }
        None => res,
    };
    let headers = res.headers_mut();
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let mut put = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    put(REQUEST_ID, id);
    if let Some(rate) = rate {
        put("ratelimit-policy", format!("\"token\";q={BURST};w={}", BURST / PER_SECOND));
        put("ratelimit", format!("\"token\";r={};t={}", rate.remaining, rate.reset_s));
    }
    res
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn names_that_others_own_lead_nowhere() {
        let ok = |host: &'static str| host_ok(&TestRequest::default().insert_header((HOST, host)).to_srv_request());
        for good in ["localhost", "LOCALHOST:7440", "127.0.0.1:7440", "127.0.0.1", "[::1]:7440", "[::1]"] {
            assert!(ok(good), "{good}");
        }
        for bad in
            ["evil.example", "evil.example:7440", "localhost.evil.example", "", "127.0.0.1.nip.io", "localhost:x"]
        {
            assert!(!ok(bad), "{bad}");
        }
    }
}
