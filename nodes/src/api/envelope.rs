//! The other shape of a success, `{"result_code": 0, "result_message": "success", "data": …}`, for clients that ask for it.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, body};
use serde::Serialize;
use serde_json::value::RawValue;

use super::Problem;

/// The media type that asks for it.
pub const ENVELOPE: &str = "application/vnd.zoneward.envelope+json";

#[derive(Serialize)]
struct Envelope<'a> {
    result_code: u16,
    result_message: &'static str,
    data: &'a RawValue,
}

fn asked(req: &ServiceRequest) -> bool {
    let all = req.headers().get_all(ACCEPT).filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    all.map(|v| v.split(';').next().unwrap_or_default().trim()).any(|v| v.eq_ignore_ascii_case(ENVELOPE))
}

fn is_json(res: &ServiceResponse<impl MessageBody>) -> bool {
    let kind = res.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    res.status().is_success() && kind.is_some_and(|k| k.starts_with("application/json"))
}

/// Puts successes in an envelope if that was asked for.
pub async fn envelope(
    req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let asked = asked(&req);
    let res = next.call(req).await?.map_into_boxed_body();
    if !asked || !is_json(&res) {
        return Ok(res);
    }
    let (req, res) = res.into_parts();
    let (mut head, bytes) = res.into_parts();
    let bytes = body::to_bytes(bytes).await.map_err(|e| Problem::internal(e.to_string()))?;
    let data: &RawValue = serde_json::from_slice(&bytes).map_err(|e| Problem::internal(e.to_string()))?;
    let whole = serde_json::to_vec(&Envelope { result_code: 0, result_message: "success", data });
    let whole = whole.map_err(|e| Problem::internal(e.to_string()))?;
    head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(ENVELOPE));
    Ok(ServiceResponse::new(req, head.set_body(whole).map_into_boxed_body()))
}
