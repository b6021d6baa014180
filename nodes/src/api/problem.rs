//! Failures as programs read them: RFC 9457, with the fields `result_code` and `result_message` beside its own.

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;
use zoneward_actors::cluster::CommandError;

use crate::errors::{Failure, chain, exit};

/// The media type of every failure.
pub const PROBLEM: &str = "application/problem+json";

/// What is wrong with one part of a request.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FieldError {
    /// JSON Pointer into the body, or the name of a parameter or header.
    pub pointer: String,
    pub detail: String,
}

/// A failure as it is sent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// `urn:zoneward:error:ZW-nnnn`: docs/errors.md has a row for each.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub instance: String,
    /// The number in `type`.
    pub result_code: u16,
    pub result_message: String,
    /// Also in the header `X-Request-Id`.
    pub request_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// Why a request was not served.
#[derive(Clone, Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub failure: Box<Failure>,
    pub errors: Vec<FieldError>,
    pub retry_after_s: Option<u64>,
    pub allow: Option<String>,
}

impl Problem {
    pub fn new(status: StatusCode, failure: Failure) -> Self {
        Self { status, failure: Box::new(failure), errors: Vec::new(), retry_after_s: None, allow: None }
    }

    /// Names the part of the request that is wrong.
    pub fn at(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.errors.push(FieldError { pointer: pointer.into(), detail: detail.into() });
        self
    }

    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The request cannot be understood.
    pub fn malformed(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Failure::new(3001, exit::USAGE, "the request cannot be understood").why(why))
    }

    pub fn unauthorized(why: &str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Failure::new(3002, exit::NOT_PERMITTED, "a valid token is needed")
                .why(why)
                .help("Authorization: Bearer zwt_…; zoneward token create makes one"),
        )
    }

    pub fn forbidden(scope: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            Failure::new(3003, exit::NOT_PERMITTED, "the token does not permit this")
                .why(format!("it has not the scope {scope}")),
        )
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, Failure::new(3004, exit::FAILED, "there is no such thing").why(what))
    }

    pub fn method(allow: String) -> Self {
        let failure = Failure::new(3005, exit::USAGE, "this cannot be done here").why(format!("allowed: {allow}"));
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, failure) }
    }

    pub fn conflict(why: impl Into<String>) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            Failure::new(3006, exit::REFUSED, "it does not fit what the zone holds").why(why),
        )
    }

    pub fn stale() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            Failure::new(3007, exit::REFUSED, "it was changed since you looked")
                .help("read it again, and send the new ETag as If-Match"),
        )
    }

    pub fn too_large(max: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Failure::new(3008, exit::USAGE, "the body is too long").why(format!("at most {max} bytes are taken")),
        )
    }

    pub fn media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Failure::new(3009, exit::USAGE, "the body's media type is not taken").why("application/json is"),
        )
    }

    /// The request is understood and asks for something that cannot be.
    pub fn value(pointer: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, Failure::new(3010, exit::USAGE, "a value is not valid"))
            .at(pointer, detail)
    }

    pub fn unseen() -> Self {
        Self::new(
            StatusCode::PRECONDITION_REQUIRED,
            Failure::new(3011, exit::USAGE, "If-Match is needed")
                .why("a change says what it was made from, so that it undoes nobody's")
                .help("read the resource and send its ETag"),
        )
    }

    pub fn too_many(why: &str, seconds: u64) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            Failure::new(3012, exit::BUSY, "too many at once").why(why).help("wait as long as Retry-After says"),
        )
        .retry_after(seconds)
    }

    pub fn headers(max: usize) -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Failure::new(3013, exit::USAGE, "the headers are too long").why(format!("at most {max} bytes are taken")),
        )
    }

    pub fn host() -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            Failure::new(3014, exit::REFUSED, "this is not the host that was asked for")
                .why("Host must be localhost or an address: a name that others own may lead a browser here")
                .help("a proxy in front sets Host to localhost"),
        )
    }

    pub fn behind(min: u64) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Failure::new(3015, exit::FAILED, "this node is not as far yet")
                .why(format!("revision {min} was asked for")),
        )
        .retry_after(1)
    }

    pub fn key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            Failure::new(3016, exit::USAGE, "the Idempotency-Key was used for another request"),
        )
        .at("Idempotency-Key", "a new request needs a new key")
    }

    /// Only the owner may say this, and not here.
    pub fn owner(why: &str, command: &str) -> Self {
        let failure = Failure::new(3050, exit::REFUSED, "only the owner may say this")
            .why(why)
            .help(format!("on a node: {command}; the owner's key never goes over HTTP"));
        Self::new(StatusCode::FORBIDDEN, failure)
    }

    /// Something of the server's own failed.
    pub fn internal(why: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Failure::new(3019, exit::FAILED, "the node could not answer").why(why),
        )
    }

    /// A command that the zone did not take.
    pub fn of_command(e: &CommandError) -> Self {
        let text = chain(e);
        match e {
            CommandError::Refused { code, .. } => match code.as_str() {
                "differs" => Self::stale(),
                "owner" => Self::owner(&text, "the command of the same name, with --owner"),
                "unknown" => Self { status: StatusCode::NOT_FOUND, ..Self::refused(text) },
                "range" => Self { status: StatusCode::UNPROCESSABLE_ENTITY, ..Self::refused(text) },
                "maintenance" => Self::new(StatusCode::CONFLICT, crate::translate::in_maintenance(text)),
                _ => Self::refused(text),
            },
            CommandError::NoLeader => {
                Self::unavailable(Failure::new(2031, exit::FAILED, "no leader was found").why(text))
            }
            CommandError::Unknown => {
                Self::unavailable(Failure::new(2032, exit::FAILED, "the zone's majority gave no answer").why(text))
            }
            CommandError::Busy | CommandError::Decode(_) | CommandError::Stopped(_) => Self::unavailable(
                Failure::new(2033, exit::FAILED, "the command could not be brought to the zone").why(text),
            ),
        }
    }

    fn refused(text: String) -> Self {
        Self::new(StatusCode::CONFLICT, Failure::new(1201, exit::REFUSED, "the zone refuses the change").why(text))
    }

    fn unavailable(failure: Failure) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, failure).retry_after(2)
    }

    /// Any error of the server's own kind.
    pub fn of(e: &actix_web::Error) -> Self {
        if let Some(p) = e.as_error::<Self>() {
            return p.clone();
        }
        match e.as_response_error().status_code() {
            StatusCode::NOT_FOUND => Self::not_found("nothing is served here"),
            StatusCode::PAYLOAD_TOO_LARGE => Self::too_large(super::BODY_LEN_MAX),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::media_type(),
            s if s.is_client_error() => Self { status: s, ..Self::malformed(e.to_string()) },
            // What went wrong inside is nobody's business outside.
            _ => Self::internal("its own log says more"),
        }
    }

    /// The answer to a request.
    pub fn response(&self, instance: &str, request_id: &str) -> HttpResponse {
        let detail = [&self.failure.why, &self.failure.help].into_iter().flatten().cloned().collect::<Vec<_>>();
        let body = ProblemBody {
            kind: format!("urn:zoneward:error:ZW-{}", self.failure.code),
            title: self.failure.what.clone(),
            status: self.status.as_u16(),
            detail: (!detail.is_empty()).then(|| detail.join("; ")),
            instance: instance.to_owned(),
            result_code: self.failure.code,
            result_message: self.failure.what.clone(),
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
        };
        let mut answer = HttpResponse::build(self.status);
        answer.insert_header((CONTENT_TYPE, PROBLEM));
        if let Some(s) = self.retry_after_s {
            answer.insert_header((RETRY_AFTER, s.to_string()));
        }
        if let Some(a) = &self.allow {
            answer.insert_header((ALLOW, a.as_str()));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            answer.insert_header(("WWW-Authenticate", "Bearer realm=\"zoneward\""));
        }
        // It has no part that could fail to be written; without it the status still says what matters.
        answer.body(serde_json::to_vec(&body).unwrap_or_default())
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.failure.fmt(f)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        self.response("", "")
    }
}
