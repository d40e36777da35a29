//! `/admin/quarantine`: what could not be taken in, and trying it again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::on;
use data_encoding::BASE64;
use futures_util::{StreamExt, TryStreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::admin::{DEFAULT_LIMIT, MAX_LIMIT};
use super::auth::Access;
use super::error::ApiError;
use super::list::{ListBody, json_of};
use super::params::{CURSOR, Params, limit};
use super::routes::{Answer, Body, RequestBody, Route, Verb, schema};
use super::{ApiState, page_error};
use crate::store::{QuarantineEntry, StoreError};

/// Frames that are retried at once: each may be as large as a frame can be.
const RETRY_AT_ONCE: usize = 4;
/// Rows of a step of `"all":true`.
const RETRY_ROWS: usize = 20;
/// After this long no new step begins, and the answer has a cursor.
const RETRY_TIME: Duration = Duration::from_secs(10);
/// Ids that one request may name.
pub(crate) const RETRY_IDS: usize = 100;

pub(super) const ROUTES: &[Route] = &[
    Route {
        query: &[limit(DEFAULT_LIMIT, MAX_LIMIT), CURSOR],
        answers: &[Answer::list(
            200,
            "oldest first",
            "quarantine",
            schema::<Row<'_>>,
        )],
        ..Route::new(
            Verb::Get,
            &["/admin/quarantine"],
            Access::Read,
            "What could not be taken in",
            |method| on(method, list),
        )
    },
    Route {
        answers: &[Answer::json(
            200,
            "one frame with its bytes",
            schema::<Row<'_>>,
        )],
        ..Route::new(
            Verb::Get,
            &["/admin/quarantine/{id}"],
            Access::Read,
            "One frame with its raw bytes in base64",
            |method| on(method, show),
        )
    },
    Route {
        body: Some(Body::required(schema::<RetryRequest>)),
        answers: &[Answer::json(
            200,
            "what became of each",
            schema::<RetryReport>,
        )],
        ..Route::new(
            Verb::Post,
            &["/admin/quarantine/retry"],
            Access::Admin,
            "Takes frames in again that are readable by now",
            |method| on(method, retry),
        )
    },
];

/// Takes quarantined frames in after all: decodes the raw bytes again, applies what they say, releases the rows.
///
/// Trying twice, or stopping in the middle, does no harm: writes commute, and the row goes last.
#[async_trait]
pub trait Retry: Send + Sync + 'static {
    /// Tries one row; it stays until it is released.
    async fn take_in(&self, id: &str) -> Result<RetryOutcome, StoreError>;

    /// Removes the rows of frames that were taken in, once what they became can't be lost any more: many at once, for a
    /// store that syncs late is waited for once.
    async fn release(&self, ids: Vec<String>) -> Result<(), StoreError>;
}

/// What became of a quarantined frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum RetryOutcome {
    /// It was taken in, and the row is gone.
    Applied,
    /// It is as bad as before; the row stays.
    Refused {
        /// A label of few values.
        reason: String,
        /// What exactly is wrong.
        detail: String,
    },
    /// It is too old to be taken in as a frame: a repair of its repository was queued instead, and the row is gone.
    Repair,
    /// Its bytes were dropped to keep the quarantine within its bound; its repair stands.
    Evicted,
    /// There is no such row.
    NotFound,
}

/// What became of one id of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetryResult {
    /// The row.
    pub id: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: RetryOutcome,
}

impl RetryResult {
    /// Whether nothing of the frame is left to do, so that its row goes.
    fn is_taken(&self) -> bool {
        matches!(self.outcome, RetryOutcome::Applied | RetryOutcome::Repair)
    }
}

/// The answer of `POST /admin/quarantine/retry`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetryReport {
    /// In the order of the ids, or of the listing.
    pub results: Vec<RetryResult>,
    /// With `"all":true`: give it back to go on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// The body of `POST /admin/quarantine/retry`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryRequest {
    /// These rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// Every row.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Where the last answer ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A row of the list.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QuarantinedFrame")]
struct Row<'a> {
    id: &'a str,
    received: String,
    reason: &'a str,
    detail: &'a str,
    source: &'a str,
    seq: Option<u64>,
    did: Option<&'a str>,
    size: u64,
    evicted: bool,
    /// Base64 of the frame, null if it was evicted; absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Option<String>>,
}

impl<'a> Row<'a> {
    fn of(entry: &'a QuarantineEntry) -> Self {
        Self {
            id: &entry.id,
            received: rfc3339(entry.received),
            reason: &entry.reason,
            detail: &entry.detail,
            source: &entry.source,
            seq: entry.seq,
            did: entry.did.as_deref(),
            size: entry.size,
            evicted: entry.evicted,
            raw: None,
        }
    }
}

fn rfc3339(micros: u64) -> String {
    let micros = i64::try_from(micros).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(micros)
        .map(|time| format!("{time:.6}"))
        .unwrap_or_default()
}

/// `GET /admin/quarantine`: `limit`, `cursor`; oldest first.
pub(crate) async fn list(
    State(state): State<Arc<ApiState>>,
    params: Params,
) -> Result<Response, ApiError> {
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let cursor = params.cursor()?;
    let page = state.store.quarantine(cursor, limit).await;
    let page = page.map_err(|error| page_error(cursor, error, ApiError::store))?;
    let mut body = ListBody::new("quarantine");
    for entry in &page.items {
        body.push(&Row::of(entry))?;
    }
    body.finish(page.cursor.as_deref())
}

/// `GET /admin/quarantine/{id}`: one row with its raw bytes.
pub(crate) async fn show(
    State(state): State<Arc<ApiState>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    let held = state.store.quarantined(&id).await;
    let held = held.map_err(ApiError::store)?;
    let (entry, raw) = held.ok_or_else(|| {
        let id: String = id.chars().take(80).collect();
        ApiError::not_found(format!("no frame {id:?} is in the quarantine"))
    })?;
    let raw = (!entry.evicted).then(|| BASE64.encode(&raw));
    json_of(&Row {
        raw: Some(raw),
        ..Row::of(&entry)
    })
}

/// `POST /admin/quarantine/retry`: `{"ids":[…]}` or `{"all":true}`, the latter in steps by `cursor`.
pub(crate) async fn retry(
    State(state): State<Arc<ApiState>>,
    RequestBody(body): RequestBody,
) -> Result<Json<RetryReport>, ApiError> {
    let request = read_request(&body)?;
    let retry = state.retry.as_deref().ok_or_else(|| {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        ApiError::new(status, "RetryUnavailable", "nothing here can retry frames")
    })?;
    let report = match request.all {
        true => retry_all(&state, retry, request.cursor).await?,
        false => retry_ids(retry, request.ids).await?,
    };
    let taken = report.results.iter().filter(|result| result.is_taken());
    let taken = taken.map(|result| result.id.clone()).collect();
    retry.release(taken).await.map_err(ApiError::store)?;
    Ok(Json(report))
}

fn read_request(body: &[u8]) -> Result<RetryRequest, ApiError> {
    let wanted = r#"the body must be {"ids":["…"]} or {"all":true}"#;
    let request: RetryRequest = serde_json::from_slice(body)
        .map_err(|error| ApiError::invalid(format!("{wanted}: {error}")))?;
    if request.all != request.ids.is_empty() {
        return Err(ApiError::invalid(wanted));
    }
    if request.cursor.is_some() && !request.all {
        return Err(ApiError::invalid("cursor goes with \"all\":true only"));
    }
    if request.ids.len() > RETRY_IDS {
        let count = request.ids.len();
        return Err(ApiError::invalid(format!(
            "ids has {count} members; allowed are {RETRY_IDS}"
        )));
    }
    Ok(request)
}

async fn retry_ids(
    retry: &dyn Retry,
    ids: impl IntoIterator<Item = String>,
) -> Result<RetryReport, ApiError> {
    let results = futures_util::stream::iter(ids)
        .map(|id| async move {
            let outcome = retry.take_in(&id).await.map_err(ApiError::store)?;
            Ok::<_, ApiError>(RetryResult { id, outcome })
        })
        .buffered(RETRY_AT_ONCE)
        .try_collect()
        .await?;
    Ok(RetryReport {
        results,
        cursor: None,
    })
}

async fn retry_all(
    state: &ApiState,
    retry: &dyn Retry,
    cursor: Option<String>,
) -> Result<RetryReport, ApiError> {
    let began = Instant::now();
    let mut report = RetryReport {
        cursor,
        ..RetryReport::default()
    };
    loop {
        let cursor = report.cursor.as_deref();
        let page = state.store.quarantine(cursor, RETRY_ROWS).await;
        let page = page.map_err(|error| page_error(cursor, error, ApiError::store))?;
        let ids = page.items.into_iter().map(|entry| entry.id);
        report.results.extend(retry_ids(retry, ids).await?.results);
        report.cursor = page.cursor;
        if report.cursor.is_none() || began.elapsed() > RETRY_TIME {
            return Ok(report);
        }
    }
}
