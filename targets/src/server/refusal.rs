//! Why a request was refused, as problem details (RFC 9457).

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};

use crate::errors::TargetError;
use crate::protocol::{Code, PROBLEM, Problem, UPLOAD_OFFSET};

/// A refusal with what the adapter needs to name it.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub code: Code,
    pub title: String,
    pub expected_offset: Option<u64>,
    pub provided_offset: Option<u64>,
    pub limit: Option<u64>,
    pub locked_s: Option<u64>,
}

impl Refusal {
    pub fn new(code: Code, title: impl Into<String>) -> Self {
        let title = title.into();
        Self { code, title, expected_offset: None, provided_offset: None, limit: None, locked_s: None }
    }

    pub fn offset(expected: u64, provided: u64) -> Self {
        let mut r = Self::new(Code::MismatchingOffset, "the sector ends elsewhere");
        (r.expected_offset, r.provided_offset) = (Some(expected), Some(provided));
        r
    }

    pub fn from_io(e: &std::io::Error) -> Self {
        match e.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => Self::new(Code::Full, "the disk is full"),
            _ => Self::new(Code::Store, "the server's store failed"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)
    }
}

impl From<TargetError> for Refusal {
    fn from(e: TargetError) -> Self {
        match e {
            TargetError::NotFound { .. } => Self::new(Code::NotFound, "it is not here"),
            TargetError::WrongLength { expected, found, .. } => Self::offset(found, expected),
            TargetError::Busy { .. } => Self::new(Code::Busy, "another writer holds it"),
            TargetError::Full { .. } => Self::new(Code::Full, "the disk is full"),
            TargetError::Foreign { .. } => Self::new(Code::Foreign, "something else stands in its place"),
            TargetError::TooLarge { limit, .. } => {
                let mut r = Self::new(Code::TooLarge, "it is longer than the limit");
                r.limit = Some(limit);
                r
            }
            TargetError::Unplugged { .. } => Self::new(Code::Away, "the server's disk is not there"),
            TargetError::Poisoned { .. } => Self::new(Code::NotHeld, "an earlier write failed: begin again"),
            // The message may name paths of this machine: it stays here.
            _ => Self::new(Code::Store, "the server's store failed"),
        }
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let kind = match self.code {
            Code::MismatchingOffset => "https://iana.org/assignments/http-problem-types#mismatching-upload-offset",
            _ => "about:blank",
        };
        let problem = Problem {
            kind: kind.to_owned(),
            title: self.title.clone(),
            status: status.as_u16(),
            code: self.code,
            expected_offset: self.expected_offset,
            provided_offset: self.provided_offset,
            limit: self.limit,
            locked_s: self.locked_s,
        };
        let mut response = HttpResponseBuilder::new(status);
        response.content_type(PROBLEM).insert_header(("cache-control", "no-store"));
        if let Some(at) = self.expected_offset {
            response.insert_header((UPLOAD_OFFSET, at.to_string()));
        }
        if self.code == Code::Unauthorized {
            response.insert_header(("www-authenticate", "Bearer"));
        }
        response.body(serde_json::to_string(&problem).unwrap_or_default())
    }
}
