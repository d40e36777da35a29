//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use schemars::JsonSchema;
use serde::Serialize;

use super::ApiState;
use super::auth::Access;
use super::routes::{Answer, Route, Verb, schema};
use crate::store::Store;
use crate::telemetry::repeated;

/// How long the store may take to say how it is.
const STORE_ANSWERS: Duration = Duration::from_secs(5);
/// The text format that Prometheus scrapes.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) const ROUTES: &[Route] = &[
    Route {
        answers: &[Answer::json(200, "it works", schema::<Healthy>)],
        ..Route::new(
            Verb::Get,
            &["/healthz"],
            Access::Open,
            "Whether the process works",
            |method| on(method, healthz),
        )
    },
    Route {
        answers: &[
            Answer::json(200, "ready", schema::<Readiness>),
            Answer::json(503, "not ready, with the reasons", schema::<Readiness>),
        ],
        ..Route::new(
            Verb::Get,
            &["/readyz"],
            Access::Open,
            "Whether the relay is connected and the store answers",
            |method| on(method, readyz),
        )
    },
    Route {
        answers: &[Answer::text(200, "Prometheus text", "text/plain")],
        ..Route::new(
            Verb::Get,
            &["/metrics"],
            Access::Open,
            "Metrics",
            |method| on(method, metrics),
        )
    },
];

/// The answer of `/healthz`.
#[derive(Serialize, JsonSchema)]
struct Healthy {
    status: &'static str,
}

/// The answer of `/readyz`; where it is not ready, also an error as every other.
#[derive(Serialize, JsonSchema)]
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
    Json(Healthy { status: "ok" }).into_response()
}

/// 200 when the relay is connected and the store answers, else 503 with the reasons.
pub(crate) async fn readyz(State(state): State<Arc<ApiState>>) -> Response {
    let reasons = not_ready(&state).await;
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

/// Why it is not ready; empty when it is.
pub(super) async fn not_ready(state: &ApiState) -> Vec<String> {
    let mut reasons = state.status.not_ready();
    reasons.extend(store_says(&*state.store).await.unwrap_or_else(Some));
    reasons
}

/// What the store says is wrong with it, if anything is. An error: why it says nothing.
pub(crate) async fn store_says(store: &dyn Store) -> Result<Option<String>, String> {
    match tokio::time::timeout(STORE_ANSWERS, store.health()).await {
        Ok(Ok(health)) => Ok(health.trouble),
        Ok(Err(error)) => {
            if let Some(held_back) = repeated("store_health", error.kind()) {
                tracing::error!(%error, held_back, "the store did not say how it is");
            }
            Err("the store does not answer; the log says why".to_owned())
        }
        Err(_) => {
            let seconds = STORE_ANSWERS.as_secs();
            Err(format!("the store does not answer within {seconds} s"))
        }
    }
}

/// Prometheus text.
pub(crate) async fn metrics(State(state): State<Arc<ApiState>>) -> Response {
    let headers = [(header::CONTENT_TYPE, PROMETHEUS_TEXT)];
    (headers, (state.metrics)()).into_response()
}
