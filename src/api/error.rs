//! Errors as the HTTP surface says them: `{"error":"Name","message":"…"}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::store::StoreError;

/// How much of a bad value an error repeats, in characters.
const QUOTED: usize = 80;

/// An answer that is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    name: &'static str,
    message: String,
    /// What programs may want to know beside.
    details: Map<String, Value>,
    retry_after: Option<u64>,
}

/// Every error.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(crate) struct ErrorBody<'a> {
    /// A name of few values.
    error: &'a str,
    /// For people.
    message: &'a str,
    /// What programs may want to know beside: the bad `fields`, the `id` of the job that runs.
    #[serde(flatten)]
    details: &'a Map<String, Value>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, name: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            status,
            name,
            message,
            details: Map::new(),
            retry_after: None,
        }
    }

    /// The same with a detail for programs.
    pub(crate) fn with(mut self, name: &str, detail: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), detail.into());
        self
    }

    /// 400 that says what is wrong with the request as a whole.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidRequest", message)
    }

    /// 400 that names the parameter, its value and what is allowed.
    pub(crate) fn parameter(name: &str, value: &str, allowed: &str) -> Self {
        let value = quoted(value);
        Self::invalid(format!(
            "parameter {name:?} has the value {value}; allowed is {allowed}"
        ))
    }

    /// 404 for something that is not held.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// 413 for a body beyond the limit.
    pub(crate) fn too_large(max: usize) -> Self {
        let message = format!("the body may have {max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge", message)
    }

    /// 429 for one who tries too often; it is worth trying again after so many seconds.
    pub(crate) fn too_many(message: &str, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
        }
    }

    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Its words.
    pub(crate) fn message(&self) -> &str {
        &self.message
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
        let body = ErrorBody {
            error: self.name,
            message: &self.message,
            details: &self.details,
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"penstock\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A value as an error repeats it: between quotes, and not beyond some length.
pub(crate) fn quoted(value: &str) -> String {
    let mut short: String = value.chars().take(QUOTED).collect();
    if short.len() < value.len() {
        short.push('…');
    }
    format!("{short:?}")
}
