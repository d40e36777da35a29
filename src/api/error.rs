//! Errors as the HTTP surface says them: `{"error":"Name","message":"…"}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::store::StoreError;

/// How much of a bad value an error repeats, in characters.
const QUOTED: usize = 80;

/// An answer that is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    name: &'static str,
    message: String,
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    message: &'a str,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, name: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            status,
            name,
            message,
        }
    }

    /// 400 that says what is wrong with the request as a whole.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidRequest", message)
    }

    /// 400 that names the parameter, its value and what is allowed.
    pub(crate) fn parameter(name: &str, value: &str, allowed: &str) -> Self {
        let mut quoted: String = value.chars().take(QUOTED).collect();
        if quoted.len() < value.len() {
            quoted.push('…');
        }
        Self::invalid(format!(
            "parameter {name:?} has the value {quoted:?}; allowed is {allowed}"
        ))
    }

    /// 404 for something that is not held.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// 413 for a body beyond the limit.
    pub(crate) fn too_large() -> Self {
        let message = format!("the body may have {} bytes", super::BODY_MAX);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge", message)
    }

    /// The store's own words, for those who run it.
    pub(crate) fn store(error: StoreError) -> Self {
        match &error {
            StoreError::Query(_) | StoreError::Refused(_) => Self::invalid(error.to_string()),
            StoreError::Corrupt { .. } | StoreError::Format { .. } => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Self::new(status, "StoreCorrupt", error.to_string())
            }
            _ => Self::unavailable(error.to_string()),
        }
    }

    fn unavailable(message: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "StoreUnavailable", message)
    }
}

/// For routes without a token: what failed goes to the log, since it may name paths of this machine.
impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store did not answer a request");
        Self::unavailable("the store does not answer; the log of the daemon says why")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body {
            error: self.name,
            message: &self.message,
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"penstock\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
