//! The HTTP surface: health, metrics, the reads of AT Protocol, and the admin routes.
//!
//! One router serves TCP (admin routes by token), the Unix socket (no token: who may open the socket may do all) and,
//! without a daemon, the commands in their own process. JSON throughout; errors are `{"error":"Name","message":"…"}`;
//! lists are paged by an opaque `cursor` and `limit`. Every request is bounded in bytes and in time, every answer in
//! bytes, every listener in connections ([`server`]).

mod admin;
mod auth;
pub mod client;
mod error;
mod gaps;
mod health;
mod list;
mod params;
mod quarantine;
pub mod server;
mod xrpc;

pub use auth::Tokens;
pub use error::ApiError;
pub use gaps::{Gaps, Interval, Missing, MissingReason, MissingState, Tail};
pub use quarantine::{Retry, RetryOutcome, RetryReport, RetryRequest, RetryResult};
pub use server::{UnixSocket, serve_tcp, serve_unix};

pub(crate) use admin::MAX_LIMIT;
pub(crate) use quarantine::RETRY_IDS;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};

use crate::ledger::Wanted;
use crate::store::{Store, StoreError};

/// Most bytes of a request's body.
pub(crate) const BODY_MAX: u64 = 64 << 10;
/// How long a request over TCP may take until its answer begins.
const TCP_REQUEST: Duration = Duration::from_secs(30);
/// The same where the operator asks: a page of few records out of many may take a long scan.
const TRUSTED_REQUEST: Duration = Duration::from_secs(600);

/// What the daemon says of itself.
pub trait DaemonStatus: Send + Sync + 'static {
    /// Why it is not ready, such as "relay wss://… is not connected"; empty when it is. The store is asked beside it.
    fn not_ready(&self) -> Vec<String>;
}

/// What of the ledger is wanted now.
pub type WantedNow = Arc<dyn Fn() -> Wanted + Send + Sync>;

/// Renders the metrics as Prometheus text.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the routes answer from.
#[derive(Clone)]
pub struct ApiState {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The daemon.
    pub status: Arc<dyn DaemonStatus>,
    /// The metrics.
    pub metrics: RenderMetrics,
    /// What of the ledger is wanted.
    pub wanted: WantedNow,
    /// What retries quarantined frames, if anything here can.
    pub retry: Option<Arc<dyn Retry>>,
    /// The tokens that admin routes ask for.
    pub tokens: Tokens,
    /// Serves all routes without a token: for the Unix socket and for commands in their own process.
    pub trusted: bool,
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    let state = Arc::new(state);
    let reading = Router::new()
        .route("/admin/records", get(admin::records))
        .route("/admin/repos", get(admin::repos))
        .route("/admin/gaps", get(gaps::show))
        .route("/admin/quarantine", get(quarantine::list))
        .route("/admin/quarantine/{id}", get(quarantine::show))
        .route_layer(middleware::from_fn_with_state(state.clone(), auth::read));
    let changing = Router::new()
        .route("/admin/quarantine/retry", post(quarantine::retry))
        .route_layer(middleware::from_fn_with_state(state.clone(), auth::admin));
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/xrpc/com.atproto.repo.getRecord", get(xrpc::get_record))
        .route(
            "/xrpc/com.atproto.repo.listRecords",
            get(xrpc::list_records),
        )
        .route("/xrpc/com.atproto.sync.listRepos", get(xrpc::list_repos))
        .route(
            "/xrpc/com.atproto.sync.getRepoStatus",
            get(xrpc::get_repo_status),
        )
        .merge(reading)
        .merge(changing)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(
            usize::try_from(BODY_MAX).unwrap_or(usize::MAX),
        ))
        .layer(middleware::from_fn(in_size))
        .layer(middleware::from_fn_with_state(state.clone(), in_time))
        .with_state(state)
}

async fn no_route(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::not_found(format!("there is no route {path}"))
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("{path} does not take {method}; the Allow header names what it takes");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}

/// Refuses a body that says it is too long, before anyone waits for it. One that does not say is cut off as it is read.
async fn in_size(request: Request, next: Next) -> Result<Response, ApiError> {
    match request.body().size_hint().lower() {
        length if length > BODY_MAX => Err(ApiError::too_large()),
        _ => Ok(next.run(request).await),
    }
}

async fn in_time(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let limit = if state.trusted {
        TRUSTED_REQUEST
    } else {
        TCP_REQUEST
    };
    let answer = tokio::time::timeout(limit, next.run(request)).await;
    answer.map_err(|_| {
        let message = format!("no answer within {} s", limit.as_secs());
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "Timeout", message)
    })
}

/// What the store says to a listing: a cursor that it did not give is the client's fault.
fn page_error(
    cursor: Option<&str>,
    error: StoreError,
    otherwise: impl Fn(StoreError) -> ApiError,
) -> ApiError {
    match (error, cursor) {
        (StoreError::Query(_), Some(cursor)) => ApiError::parameter(
            "cursor",
            cursor,
            "a cursor that a page of this list ended with",
        ),
        (error, _) => otherwise(error),
    }
}
