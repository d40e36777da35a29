//! `/admin/collections` and `/admin/lexicons`: what is indexed beside the configuration.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::on;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::{Map, Value};

use super::admin::{DEFAULT_LIMIT, MAX_LIMIT};
use super::auth::Access;
use super::backfill::not_worker_0;
use super::error::ApiError;
use super::fields::{Fields, NSID, Problems, differs};
use super::list::ListBody;
use super::params::{CURSOR, Kind, NSID_PATTERN, Parameter, Params, limit};
use super::routes::{Answer, Body, RequestBody, Route, Verb, schema};
use super::{ApiState, page_error};
use crate::store::{Page, StoreError};

const PATHS: &[&str] = &["/admin/collections"];

pub(super) const ROUTES: &[Route] = &[
    Route {
        query: &[limit(DEFAULT_LIMIT, MAX_LIMIT), CURSOR],
        answers: &[Answer::list(
            200,
            "by name",
            "collections",
            schema::<CollectionView>,
        )],
        ..Route::new(
            Verb::Get,
            PATHS,
            Access::Read,
            "What is indexed: the configuration's collections, and those that were added",
            |method| on(method, list),
        )
    },
    Route {
        body: Some(Body::required(schema::<AddCollection>)),
        answers: &[Answer::json(200, "it is indexed", schema::<Added>)],
        ..Route::new(
            Verb::Post,
            PATHS,
            Access::Admin,
            "Indexes a collection, and fetches its past unless that is not wanted",
            |method| on(method, add),
        )
    },
    Route {
        query: &[Parameter::new("purge", Kind::Flag)],
        answers: &[Answer::json(200, "it is not indexed", schema::<Removed>)],
        errors: &[(409, "the configuration names it")],
        ..Route::new(
            Verb::Delete,
            &["/admin/collections/{nsid}"],
            Access::Admin,
            "Indexes a collection no more; its records stay unless they are to be purged",
            |method| on(method, remove),
        )
    },
    Route {
        body: Some(Body::required(schema::<AddLexicon>)),
        answers: &[Answer::json(200, "it is indexed", schema::<Added>)],
        ..Route::new(
            Verb::Post,
            &["/admin/lexicons"],
            Access::Admin,
            "Indexes the collection of a record lexicon",
            |method| on(method, add_lexicon),
        )
    },
];

/// What changes the collections that are indexed; all workers follow.
#[async_trait]
pub trait Collections: Send + Sync + 'static {
    /// A page of what is indexed, by name.
    async fn list(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<CollectionView>, StoreError>;

    /// Indexes a collection; with `backfill`, a job of this origin fetches its past: the id of that job.
    /// One that is indexed stays so.
    async fn add(
        &self,
        nsid: &str,
        backfill: bool,
        origin: &str,
    ) -> Result<Option<u64>, StoreError>;

    /// Indexes a collection no more, and with `purge` removes its records. One that is not indexed stays so.
    async fn remove(&self, nsid: &str, purge: bool) -> Result<RemoveOutcome, StoreError>;
}

/// What became of a request to remove a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoveOutcome {
    /// It is not indexed any more.
    Removed,
    /// The configuration names it: only there can it be removed.
    Configured,
}

/// A collection that is indexed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CollectionView {
    /// Its name, or a pattern of the configuration such as `app.bsky.*`, or `*` where that has all.
    pub nsid: String,
    /// Whether the configuration names it.
    pub configured: bool,
    /// Whether it is indexed no more, and its records are still being removed.
    pub purging: bool,
}

/// The body of `POST /admin/collections`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct AddCollection {
    #[schemars(regex(pattern = NSID_PATTERN), length(max = 317))]
    nsid: String,
    #[schemars(default = "yes")]
    backfill: bool,
}

/// The body of `POST /admin/lexicons`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "it is read field by field; this is its schema")]
struct AddLexicon {
    /// A lexicon whose main definition is a record.
    #[schemars(schema_with = "record_lexicon")]
    lexicon: Map<String, Value>,
    #[schemars(default = "yes")]
    backfill: bool,
}

/// What [`record_of`] takes.
fn record_lexicon(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "required": ["lexicon", "id", "defs"],
        "properties": {
            "lexicon": {"const": 1},
            "id": {"type": "string", "pattern": NSID_PATTERN, "maxLength": 317},
            "defs": {
                "type": "object",
                "required": ["main"],
                "properties": {
                    "main": {
                        "type": "object",
                        "required": ["type"],
                        "properties": {"type": {"const": "record"}},
                    },
                },
            },
        },
    })
}

fn yes() -> bool {
    true
}

/// The answer where a collection was added.
#[derive(Serialize, JsonSchema)]
struct Added {
    nsid: String,
    /// The job that fetches its past.
    job: Option<String>,
}

/// The answer where a collection was removed.
#[derive(Serialize, JsonSchema)]
struct Removed {
    nsid: String,
    /// Whether its records are removed as well.
    purge: bool,
}

async fn list(State(state): State<Arc<ApiState>>, params: Params) -> Result<Response, ApiError> {
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let cursor = params.cursor()?;
    let page = collections(&state)?.list(cursor, limit).await;
    let page = page.map_err(|error| page_error(cursor, error, ApiError::store))?;
    let mut body = ListBody::new("collections");
    for collection in &page.items {
        body.push(collection)?;
    }
    body.finish(page.cursor.as_deref())
}

async fn add(
    State(state): State<Arc<ApiState>>,
    RequestBody(body): RequestBody,
) -> Result<Json<Added>, ApiError> {
    let mut fields = Fields::read(&body, r#"{"nsid":"app.bsky.feed.post","backfill":true}"#)?;
    let request = AddCollection {
        nsid: fields.required_name("nsid", &NSID),
        backfill: fields.flag("backfill", yes()),
    };
    fields.finish("nsid, backfill")?;
    index(&state, request.nsid, request.backfill, "collections").await
}

async fn add_lexicon(
    State(state): State<Arc<ApiState>>,
    RequestBody(body): RequestBody,
) -> Result<Json<Added>, ApiError> {
    let mut fields = Fields::read(&body, r#"{"lexicon":{…},"backfill":true}"#)?;
    let lexicon = fields.required_object("lexicon");
    let nsid = lexicon.map(|lexicon| record_of(&lexicon, &mut fields));
    let backfill = fields.flag("backfill", yes());
    fields.finish("lexicon, backfill")?;
    index(&state, nsid.unwrap_or_default(), backfill, "lexicons").await
}

/// The collection of a lexicon, which must be one of records.
fn record_of(lexicon: &Map<String, Value>, fields: &mut Fields) -> String {
    let problems = &mut fields.problems;
    if lexicon.get("lexicon") != Some(&Value::from(1)) {
        problems.add("lexicon.lexicon", "only version 1 is known");
    }
    let main = lexicon.get("defs").and_then(|defs| defs.get("main"));
    let kind = main.and_then(|main| main.get("type"));
    let kind = kind.unwrap_or(&Value::Null);
    if kind != "record" {
        let problem = differs(kind, "record, and only records are indexed");
        problems.add("lexicon.defs.main.type", problem);
    }
    fields.name("lexicon.id", lexicon.get("id").cloned(), &NSID)
}

async fn index(
    state: &ApiState,
    nsid: String,
    backfill: bool,
    origin: &str,
) -> Result<Json<Added>, ApiError> {
    let job = collections(state)?.add(&nsid, backfill, origin).await;
    let job = job.map_err(ApiError::store)?.map(|id| id.to_string());
    Ok(Json(Added { nsid, job }))
}

async fn remove(
    State(state): State<Arc<ApiState>>,
    nsid: Result<Path<String>, PathRejection>,
    params: Params,
) -> Result<Json<Removed>, ApiError> {
    let nsid = nsid.map(|Path(nsid)| nsid).unwrap_or_default();
    check_nsid(&nsid)?;
    let purge = params.flag("purge")?.unwrap_or(false);
    let removed = collections(&state)?.remove(&nsid, purge).await;
    match removed.map_err(ApiError::store)? {
        RemoveOutcome::Removed => Ok(Json(Removed { nsid, purge })),
        RemoveOutcome::Configured => {
            let message =
                format!("the configuration names {nsid}; take it out of 'collections' there");
            Err(ApiError::new(StatusCode::CONFLICT, "Conflict", message))
        }
    }
}

fn check_nsid(nsid: &str) -> Result<(), ApiError> {
    let mut problems = Problems::default();
    if !(NSID.is_valid)(nsid) {
        problems.add("nsid", differs(&Value::from(nsid), NSID.allowed));
    }
    problems.into_result()
}

fn collections(state: &ApiState) -> Result<&dyn Collections, ApiError> {
    let collections = state.collections.as_deref();
    collections.ok_or_else(|| not_worker_0(state))
}
