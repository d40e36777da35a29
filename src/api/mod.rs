//! The HTTP surface: the status page, health, metrics, the reads of AT Protocol, and the admin routes.
//!
//! One router serves TCP (admin routes by token), the Unix socket (no token: who may open the socket may do all) and,
//! without a daemon, the commands in their own process. JSON throughout; errors are `{"error":"Name","message":"…"}`;
//! lists are paged by an opaque `cursor` and `limit`. Every request is bounded in bytes and in time, every answer in
//! bytes, every listener in connections ([`server`]).

mod admin;
mod attempts;
mod auth;
mod backfill;
pub mod client;
mod collections;
mod error;
mod fields;
mod gaps;
mod health;
mod list;
mod openapi;
mod optout;
mod page;
mod params;
mod quarantine;
mod routes;
pub mod server;
mod xrpc;

pub use auth::Tokens;
pub use backfill::BackfillRequest;
pub use collections::{CollectionView, Collections, RemoveOutcome};
pub use error::ApiError;
pub use gaps::{Gaps, Interval, Missing, MissingReason, MissingState, Tail};
pub use quarantine::{Retry, RetryOutcome, RetryReport, RetryRequest, RetryResult};
pub use server::{UnixSocket, serve_tcp, serve_unix};

pub(crate) use admin::MAX_LIMIT;
pub(crate) use health::store_says;
pub(crate) use quarantine::RETRY_IDS;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;

use crate::backfill::jobs::Jobs;
use crate::config;
use crate::ledger::Wanted;
use crate::store::{Store, StoreError};

/// How long a request over TCP may take until its answer begins.
const TCP_REQUEST: Duration = Duration::from_secs(30);
/// The same where the operator asks: a page of few records out of many may take a long scan.
const TRUSTED_REQUEST: Duration = Duration::from_secs(600);

/// What the daemon says of itself.
pub trait DaemonStatus: Send + Sync + 'static {
    /// Why it is not ready, such as "relay wss://… is not connected"; empty when it is. The store is asked beside it.
    fn not_ready(&self) -> Vec<String>;

    /// Frames that came lately, a second; none where that is not known.
    fn frames_per_second(&self) -> Option<f64> {
        None
    }
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
    /// The jobs, where this is the daemon of worker 0.
    pub jobs: Option<Arc<dyn Jobs>>,
    /// What changes the collections that are indexed, where this is the daemon of worker 0.
    pub collections: Option<Arc<dyn Collections>>,
    /// Which worker this is.
    pub worker: config::Worker,
    /// The tokens that admin routes ask for.
    pub tokens: Tokens,
    /// Serves all routes without a token: for the Unix socket and for commands in their own process.
    pub trusted: bool,
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    let state = Arc::new(state);
    routes::router(&state)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
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
