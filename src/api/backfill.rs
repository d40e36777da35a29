//! `/admin/backfill`: jobs are started, watched, stopped and tried again here. What they do is no matter of these routes.

mod request;

pub use request::BackfillRequest;

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use schemars::JsonSchema;
use serde::Serialize;

use super::admin::{DEFAULT_LIMIT, MAX_LIMIT};
use super::auth::Access;
use super::error::ApiError;
use super::fields::Problems;
use super::list::{ListBody, json_of};
use super::params::{CURSOR, Kind, Parameter, Params, limit};
use super::routes::{Answer, Body, RequestBody, Route, Verb, schema};
use super::{ApiState, page_error};
use crate::backfill::jobs::{
    Estimate, FailureView, JobRequest, JobType, JobView, Jobs, JobsError, Started,
};
use crate::store::StoreError;

/// Most bytes of the body that starts a job, for it may list DIDs.
const START_MAX: usize = 8 << 20;
const FORCE: Parameter = Parameter::new("force", Kind::OneOf(&["catch_up", "full_sync"]));
const NOT_NEEDED: Answer = Answer::json(200, "there is nothing to do", schema::<NotNeeded>);
const STARTED: Answer = Answer::json(202, "a job that is now pending or running", schema::<Begun>);
const JOB: &[Answer] = &[Answer::json(200, "the job", schema::<JobView>)];
const SAME_SCOPE: (u16, &str) = (
    409,
    "a job over the same scope is pending or running: its `id`",
);
const UNFIT: (u16, &str) = (409, "not possible for this job");

const START: Route = Route {
    query: &[FORCE],
    body: Some(Body::optional(schema::<BackfillRequest>, START_MAX)),
    answers: &[NOT_NEEDED, STARTED],
    errors: &[SAME_SCOPE],
    ..Route::new(
        Verb::Post,
        &["/admin/backfill"],
        Access::Admin,
        "Starts a job; without any scope, over all that is indexed",
        |method| on(method, start),
    )
};

pub(super) const ROUTES: &[Route] = &[
    START,
    Route {
        query: START.query,
        body: START.body,
        answers: START.answers,
        errors: START.errors,
        ..Route::new(
            Verb::Post,
            &["/api/admin/backfill"],
            Access::Admin,
            "Starts a job; without force and scope, what the ledger shows to be needed",
            |method| on(method, start_by_ledger),
        )
    },
    Route {
        query: &[FORCE],
        body: Some(Body::optional(schema::<BackfillRequest>, START_MAX)),
        answers: &[Answer::json(200, "roughly", schema::<Estimate>)],
        ..Route::new(
            Verb::Post,
            &["/admin/backfill/estimate", "/api/admin/backfill/estimate"],
            Access::Admin,
            "What a job would fetch",
            |method| on(method, estimate),
        )
    },
    Route {
        query: &[limit(DEFAULT_LIMIT, MAX_LIMIT), CURSOR],
        answers: &[Answer::list(200, "newest first", "jobs", schema::<JobView>)],
        ..Route::new(
            Verb::Get,
            &["/admin/backfill", "/api/admin/backfill"],
            Access::Read,
            "Jobs",
            |method| on(method, list),
        )
    },
    Route {
        query: &[limit(MAX_LIMIT, MAX_LIMIT)],
        answers: &[Answer::array(200, "newest first", schema::<JobView>)],
        ..Route::new(
            Verb::Get,
            &["/admin/backfill/status", "/api/admin/backfill/status"],
            Access::Read,
            "The newest jobs as a bare array",
            |method| on(method, status),
        )
    },
    Route {
        answers: JOB,
        ..Route::new(
            Verb::Get,
            &["/admin/backfill/{id}", "/api/admin/backfill/{id}"],
            Access::Read,
            "One job",
            |method| on(method, show),
        )
    },
    Route {
        query: &[limit(DEFAULT_LIMIT, MAX_LIMIT), CURSOR],
        answers: &[Answer::list(200, "by DID", "errors", schema::<FailureView>)],
        ..Route::new(
            Verb::Get,
            &[
                "/admin/backfill/{id}/errors",
                "/api/admin/backfill/{id}/errors",
            ],
            Access::Read,
            "The repositories that failed in a job",
            |method| on(method, errors),
        )
    },
    Route {
        answers: JOB,
        errors: &[UNFIT],
        ..Route::new(
            Verb::Post,
            &[
                "/admin/backfill/{id}/cancel",
                "/api/admin/backfill/{id}/cancel",
            ],
            Access::Admin,
            "Cancels a job; one that is over stays as it is",
            |method| on(method, cancel),
        )
    },
    Route {
        answers: JOB,
        errors: &[UNFIT],
        ..Route::new(
            Verb::Post,
            &[
                "/admin/backfill/{id}/retry",
                "/api/admin/backfill/{id}/retry",
            ],
            Access::Admin,
            "Takes only what failed again; a job without failures stays as it is",
            |method| on(method, retry),
        )
    },
];

/// The answer where a job was started.
#[derive(Serialize, JsonSchema)]
struct Begun {
    message: String,
    r#type: JobType,
    status: InProgress,
    id: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum InProgress {
    InProgress,
}

/// The answer where there is nothing to do.
#[derive(Serialize, JsonSchema)]
struct NotNeeded {
    message: String,
}

/// `POST /admin/backfill`
async fn start(
    State(state): State<Arc<ApiState>>,
    params: Params,
    RequestBody(body): RequestBody,
) -> Result<Response, ApiError> {
    let asked = request::read(&body, params.text("force"))?;
    let jobs = jobs(&state)?;
    let request = asked.resolved(jobs).await.map_err(said)?;
    begin(jobs, request, false).await
}

/// `POST /api/admin/backfill`
async fn start_by_ledger(
    State(state): State<Arc<ApiState>>,
    params: Params,
    RequestBody(body): RequestBody,
) -> Result<Response, ApiError> {
    let asked = request::read(&body, params.text("force"))?;
    let jobs = jobs(&state)?;
    let request = asked.resolved(jobs).await.map_err(said)?;
    let by_ledger = request::is_unscoped(&request) && request.force.is_none();
    begin(jobs, request, by_ledger).await
}

async fn begin(
    jobs: &dyn Jobs,
    request: JobRequest,
    by_ledger: bool,
) -> Result<Response, ApiError> {
    match jobs.start(request, by_ledger).await.map_err(said)? {
        Started::Job(job) => {
            let begun = Begun {
                message: format!("Job {} has begun.", job.id),
                r#type: job.r#type,
                status: InProgress::InProgress,
                id: job.id,
            };
            Ok((StatusCode::ACCEPTED, Json(begun)).into_response())
        }
        Started::NotNeeded(why) => json_of(&NotNeeded {
            message: format!("No backfill needed. {why}"),
        }),
        Started::Running(id) => {
            let message = format!("job {id} is at work on the same scope");
            Err(conflict(message).with("id", id.to_string()))
        }
    }
}

/// `POST /admin/backfill/estimate`
async fn estimate(
    State(state): State<Arc<ApiState>>,
    params: Params,
    RequestBody(body): RequestBody,
) -> Result<Json<Estimate>, ApiError> {
    let asked = request::read(&body, params.text("force"))?;
    let jobs = jobs(&state)?;
    let request = asked.resolved(jobs).await.map_err(said)?;
    let estimate = jobs.estimate(request).await;
    estimate.map(Json).map_err(said)
}

/// `GET /admin/backfill`
async fn list(State(state): State<Arc<ApiState>>, params: Params) -> Result<Response, ApiError> {
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let cursor = params.cursor()?;
    let page = jobs(&state)?.list(cursor, limit).await;
    let page = page.map_err(|error| listing_error(cursor, error))?;
    let mut body = ListBody::new("jobs");
    for job in &page.items {
        body.push(job)?;
    }
    body.finish(page.cursor.as_deref())
}

/// `GET /admin/backfill/status`
async fn status(
    State(state): State<Arc<ApiState>>,
    params: Params,
) -> Result<Json<Vec<JobView>>, ApiError> {
    let limit = params.limit(MAX_LIMIT, MAX_LIMIT)?;
    let page = jobs(&state)?.list(None, limit).await.map_err(said)?;
    Ok(Json(page.items))
}

/// `GET /admin/backfill/{id}`
async fn show(State(state): State<Arc<ApiState>>, id: Id) -> Result<Json<JobView>, ApiError> {
    let jobs = jobs(&state)?;
    jobs.get(read_id(id)?).await.map(Json).map_err(said)
}

/// `GET /admin/backfill/{id}/errors`
async fn errors(
    State(state): State<Arc<ApiState>>,
    id: Id,
    params: Params,
) -> Result<Response, ApiError> {
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let cursor = params.cursor()?;
    let page = jobs(&state)?.failures(read_id(id)?, cursor, limit).await;
    let page = page.map_err(|error| listing_error(cursor, error))?;
    let mut body = ListBody::new("errors");
    for failure in &page.items {
        body.push(failure)?;
    }
    body.finish(page.cursor.as_deref())
}

/// `POST /admin/backfill/{id}/cancel`
async fn cancel(State(state): State<Arc<ApiState>>, id: Id) -> Result<Json<JobView>, ApiError> {
    let jobs = jobs(&state)?;
    jobs.cancel(read_id(id)?).await.map(Json).map_err(said)
}

/// `POST /admin/backfill/{id}/retry`
async fn retry(State(state): State<Arc<ApiState>>, id: Id) -> Result<Json<JobView>, ApiError> {
    let jobs = jobs(&state)?;
    jobs.retry(read_id(id)?).await.map(Json).map_err(said)
}

type Id = Result<Path<String>, PathRejection>;

/// An id is a decimal number as it is shown, nothing else.
fn read_id(id: Id) -> Result<u64, ApiError> {
    let id = id.map(|Path(id)| id).unwrap_or_default();
    let number = id.parse::<u64>().ok();
    number
        .filter(|number| number.to_string() == id)
        .ok_or_else(|| ApiError::not_found("there is no job with this id; ids are decimal numbers"))
}

fn jobs(state: &ApiState) -> Result<&dyn Jobs, ApiError> {
    let jobs = state.jobs.as_deref();
    jobs.ok_or_else(|| not_worker_0(state))
}

/// 503 that says whom to ask.
pub(super) fn not_worker_0(state: &ApiState) -> ApiError {
    let message = match state.worker.id {
        0 => "this is the daemon's work, and none is at work here: start 'penstock run'".to_owned(),
        id => format!(
            "this is worker 0's work, and here is worker {id} of {}: ask worker 0, at its http.listen (port 8400 unless \
             it was set) or its socket",
            state.worker.count
        ),
    };
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "NotWorker0", message)
}

fn said(error: JobsError) -> ApiError {
    match error {
        JobsError::NotFound(_) => ApiError::not_found(error.to_string()),
        JobsError::Conflict(message) => conflict(message),
        JobsError::Invalid { field, message } => {
            let mut problems = Problems::default();
            problems.add(field, message);
            problems.into_error()
        }
        JobsError::Store(error) => ApiError::store(error),
    }
}

fn listing_error(cursor: Option<&str>, error: JobsError) -> ApiError {
    match error {
        JobsError::Store(error @ StoreError::Query(_)) => {
            page_error(cursor, error, ApiError::store)
        }
        error => said(error),
    }
}

fn conflict(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "Conflict", message)
}
