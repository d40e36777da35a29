//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::ApiState;

/// How long the store may take to say how it is.
const STORE_ANSWERS: Duration = Duration::from_secs(5);
/// The text format that Prometheus scrapes.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The answer of `/readyz`; where it is not ready, also an error as every other.
#[derive(Serialize)]
struct Readiness {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    ready: bool,
    reasons: Vec<String>,
}

/// 200 while the process works.
pub(crate) async fn healthz() -> Response {
    Json(serde_json::json!({"status": "ok"})).into_response()
}

/// 200 when the relay is connected and the store answers, else 503 with the reasons.
pub(crate) async fn readyz(State(state): State<Arc<ApiState>>) -> Response {
    let mut reasons = state.status.not_ready();
    reasons.extend(store_trouble(&state).await);
    let ready = reasons.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = Readiness {
        error: (!ready).then_some("NotReady"),
        message: (!ready).then(|| reasons.join("; ")),
        ready,
        reasons,
    };
    (status, Json(body)).into_response()
}

async fn store_trouble(state: &ApiState) -> Option<String> {
    match tokio::time::timeout(STORE_ANSWERS, state.store.health()).await {
        Ok(Ok(health)) => health.trouble,
        Ok(Err(error)) => {
            tracing::error!(%error, "the store did not say how it is");
            Some("the store does not answer; the log says why".to_owned())
        }
        Err(_) => {
            let seconds = STORE_ANSWERS.as_secs();
            Some(format!("the store does not answer within {seconds} s"))
        }
    }
}

/// Prometheus text.
pub(crate) async fn metrics(State(state): State<Arc<ApiState>>) -> Response {
    let headers = [(header::CONTENT_TYPE, PROMETHEUS_TEXT)];
    (headers, (state.metrics)()).into_response()
}
