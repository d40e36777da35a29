//! `GET /`: the status page, for people.
//!
//! It is one document with its style and script inside, made anew for each request. Whoever shows no token sees numbers of
//! `/metrics` and what `/readyz` says, no more; a token, or the Unix socket, shows the ledger and the jobs as well. The script
//! asks for the same document every two seconds and takes over what differs, so there is one place where things are shown,
//! and all of it escaped by the template. Nothing is loaded from elsewhere, and the browser is told so.

mod jobs;
mod ledger;
mod numbers;
mod samples;
mod words;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use askama::Template;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use super::auth::{self, Access};
use super::error::ApiError;
use super::routes::{Answer, Route, Verb};
use super::{ApiState, backfill, health};
use crate::ledger::{self as facts, Wanted};
use crate::telemetry::VERSION;
use jobs::{JobRow, Jobs};
use ledger::LedgerView;
use numbers::{Number, Replay, Row, Section};
use samples::Samples;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// So many jobs are shown.
const JOBS: usize = 20;
/// How long the store may take for the ledger, and for the jobs; the numbers are shown without them.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) const ROUTES: &[Route] = &[Route {
    answers: &[Answer::text(200, "the page", "text/html")],
    errors: &[
        (401, "a token that is not known"),
        (429, "too many tokens that are not known, from one address"),
    ],
    ..Route::new(
        Verb::Get,
        &["/"],
        Access::Open,
        "The status page, for people; a token shows gaps and jobs as well",
        |method| on(method, show),
    )
}];

/// What the browser may do with the page: run its own script and style, known by their hashes, and ask where it came from.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| BASE64.encode(&Sha256::digest(text));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri \
         'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
});

/// What one who asks for the page may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Numbers; no token is configured that shows more.
    Disabled,
    /// Numbers.
    Numbers,
    /// The ledger and the jobs too.
    Ledger,
    /// And may start and cancel jobs.
    All,
}

impl Seen {
    /// As the script knows it.
    fn word(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Numbers => "numbers",
            Self::Ledger => "ledger",
            Self::All => "all",
        }
    }
}

#[derive(Template)]
#[template(path = "page.html")]
struct Page {
    style: &'static str,
    script: &'static str,
    version: &'static str,
    worker: String,
    now: String,
    access: Seen,
    /// Why it is not ready.
    reasons: Vec<String>,
    headline: Vec<Number>,
    replay: Replay,
    job_numbers: Vec<Row>,
    sections: Vec<Section>,
    ledger: Option<LedgerView>,
    jobs: Jobs,
}

/// `GET /`
async fn show(State(state): State<Arc<ApiState>>, request: Request) -> Result<Response, ApiError> {
    let access = seen(&state, &request)?;
    let page = Page::of(&state, access).await;
    let page = page.render().map_err(|error| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        ApiError::new(status, "InternalServerError", error.to_string())
    })?;
    Ok((headers(), page).into_response())
}

fn headers() -> [(HeaderName, HeaderValue); 6] {
    let fixed = HeaderValue::from_static;
    let policy = HeaderValue::from_str(&POLICY).unwrap_or_else(|_| fixed("default-src 'none'"));
    [
        (header::CONTENT_TYPE, fixed("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_FRAME_OPTIONS, fixed("DENY")),
        (header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff")),
        (header::REFERRER_POLICY, fixed("no-referrer")),
        (header::CACHE_CONTROL, fixed("no-store")),
    ]
}

/// What the token of a request shows. Without one nothing is refused; one that is not known is.
fn seen(state: &ApiState, request: &Request) -> Result<Seen, ApiError> {
    match auth::check(state, Access::Read, request) {
        Ok(()) if auth::check(state, Access::Admin, request).is_ok() => Ok(Seen::All),
        Ok(()) => Ok(Seen::Ledger),
        Err(error) if error.status() == StatusCode::SERVICE_UNAVAILABLE => Ok(Seen::Disabled),
        Err(_) if !auth::is_presented(request.headers()) => Ok(Seen::Numbers),
        Err(error) => Err(error),
    }
}

impl Page {
    async fn of(state: &ApiState, access: Seen) -> Self {
        let wanted = (state.wanted)();
        let is_shown = matches!(access, Seen::Ledger | Seen::All);
        let ledger = async {
            match is_shown {
                true => Some(ledger(state, &wanted).await),
                false => None,
            }
        };
        let jobs = async {
            match is_shown {
                true => jobs(state).await,
                false => Jobs::Here(Vec::new()),
            }
        };
        let (reasons, ledger, jobs) = tokio::join!(health::not_ready(state), ledger, jobs);
        let text = (state.metrics)();
        let samples = Samples::read(&text);
        let missing = ledger.as_ref().and_then(|ledger| ledger.missing_seconds);
        Self {
            style: STYLE,
            script: SCRIPT,
            version: VERSION,
            worker: format!("worker {} of {}", state.worker.id, state.worker.count),
            now: words::moment(wanted.now),
            access,
            reasons,
            headline: numbers::headline(&samples, state.status.frames_per_second(), missing),
            replay: numbers::replay(&samples),
            job_numbers: numbers::jobs(&samples),
            sections: numbers::sections(&samples),
            ledger,
            jobs,
        }
    }
}

async fn ledger(state: &ApiState, wanted: &Wanted) -> LedgerView {
    match tokio::time::timeout(PATIENCE, state.store.facts()).await {
        Ok(Ok(held)) => LedgerView::of(&facts::report(&held, wanted), wanted, &state.worker),
        Ok(Err(error)) => LedgerView::unknown(error.to_string()),
        Err(_) => LedgerView::unknown(too_slow()),
    }
}

async fn jobs(state: &ApiState) -> Jobs {
    let Some(jobs) = &state.jobs else {
        return Jobs::Elsewhere(backfill::not_worker_0(state).message().to_owned());
    };
    match tokio::time::timeout(PATIENCE, jobs.list(None, JOBS)).await {
        Ok(Ok(page)) => Jobs::Here(page.items.iter().map(JobRow::of).collect()),
        Ok(Err(error)) => Jobs::Unknown(error.to_string()),
        Err(_) => Jobs::Unknown(too_slow()),
    }
}

fn too_slow() -> String {
    format!("the store does not answer within {} s", PATIENCE.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn style_and_script_do_not_end_their_elements() {
        for text in [STYLE, SCRIPT] {
            assert!(!text.contains("</") && !text.contains("<!--"));
        }
    }

    #[test]
    fn the_policy_is_a_header() {
        assert!(HeaderValue::from_str(&POLICY).is_ok());
        assert!(POLICY.starts_with("default-src 'none'; script-src 'sha256-"));
        assert!(!POLICY.contains("unsafe"));
    }
}
