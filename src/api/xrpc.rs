//! The reads of AT Protocol, from the store, in the shapes of their lexicons (protocol.md, section 8).
//!
//! They show what readers may see: nothing of an account that is not active (protocol.md, section 4). The status is
//! always read after the records, so that an account which is hidden meanwhile does not show.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::on;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use super::auth::Access;
use super::error::ApiError;
use super::list::{CHUNK, ListBody, Values};
use super::params::{COLLECTION, CURSOR, DID, Kind, Parameter, Params, limit};
use super::routes::{Answer, Route, Verb, schema};
use super::{ApiState, page_error};
use crate::decode::Tid;
use crate::store::{Record, RecordsQuery, Repo};

const NO_JSON: &str = "the record is not DAG-CBOR, so that it has no JSON";

const REPO: Parameter = Parameter::new("repo", Kind::Did).required();

pub(super) const ROUTES: &[Route] = &[
    Route {
        query: &[
            REPO,
            COLLECTION.required(),
            Parameter::new("rkey", Kind::Rkey).required(),
            Parameter::new("cid", Kind::Cid),
        ],
        answers: &[Answer::json(200, "the record", schema::<RecordView<'_>>)],
        ..Route::new(
            Verb::Get,
            &["/xrpc/com.atproto.repo.getRecord"],
            Access::Open,
            "One record",
            |method| on(method, get_record),
        )
    },
    Route {
        query: &[
            REPO,
            COLLECTION.required(),
            limit(50, 100),
            Parameter::new("cursor", Kind::Rkey),
            Parameter::new("reverse", Kind::Flag),
        ],
        answers: &[Answer::list(
            200,
            "by record key, the greatest first",
            "records",
            schema::<RecordView<'_>>,
        )],
        ..Route::new(
            Verb::Get,
            &["/xrpc/com.atproto.repo.listRecords"],
            Access::Open,
            "Records of a repository",
            |method| on(method, list_records),
        )
    },
    Route {
        query: &[limit(500, 1000), CURSOR],
        answers: &[Answer::list(200, "by DID", "repos", schema::<RepoView<'_>>)],
        ..Route::new(
            Verb::Get,
            &["/xrpc/com.atproto.sync.listRepos"],
            Access::Open,
            "Repositories",
            |method| on(method, list_repos),
        )
    },
    Route {
        query: &[DID.required()],
        answers: &[Answer::json(200, "its status", schema::<StatusView>)],
        ..Route::new(
            Verb::Get,
            &["/xrpc/com.atproto.sync.getRepoStatus"],
            Access::Open,
            "One repository",
            |method| on(method, get_repo_status),
        )
    },
];

/// A record as `getRecord` and `listRecords` show it.
#[derive(Serialize, JsonSchema)]
struct RecordView<'a> {
    uri: String,
    cid: String,
    #[schemars(with = "serde_json::Value")]
    value: Option<&'a RawValue>,
    /// Why there is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

impl<'a> RecordView<'a> {
    fn of(record: &Record, values: &'a mut Values) -> Self {
        let value = values.of(record);
        Self {
            uri: format!("at://{}/{}/{}", record.did, record.collection, record.rkey),
            cid: record.cid.to_string(),
            note: value.is_none().then_some(NO_JSON),
            value,
        }
    }
}

/// `com.atproto.repo.getRecord`
pub(crate) async fn get_record(
    State(state): State<Arc<ApiState>>,
    params: Params,
) -> Result<Response, ApiError> {
    let did = params.repo()?;
    let collection = params.required("collection", params.collection()?)?;
    let rkey = params.required("rkey", params.rkey("rkey")?)?;
    let cid = params.cid()?;
    let record = state.store.record(did, collection, rkey).await?;
    let repo = state.store.repo(did).await?;
    check_visible(did, repo.as_ref(), record.is_some())?;
    let record = record
        .filter(|record| cid.is_none_or(|cid| cid == record.cid))
        .ok_or_else(|| {
            let version = cid.map(|cid| format!(" as {cid}")).unwrap_or_default();
            let uri = format!("at://{did}/{collection}/{rkey}");
            bad_request("RecordNotFound", format!("{uri} is not held{version}"))
        })?;
    let mut values = Values::default();
    super::list::json_of(&RecordView::of(&record, &mut values))
}

/// `com.atproto.repo.listRecords`: newest record key first, the cursor is the last record key.
pub(crate) async fn list_records(
    State(state): State<Arc<ApiState>>,
    params: Params,
) -> Result<Response, ApiError> {
    let did = params.repo()?;
    let collection = params.required("collection", params.collection()?)?;
    let limit = params.limit(50, 100)?;
    let after = match params.cursor()? {
        Some(_) => params.rkey("cursor")?,
        None => None,
    };
    let mut query = RecordsQuery {
        did: Some(did.to_owned()),
        collection: Some(collection.to_owned()),
        after_rkey: after.map(str::to_owned),
        descending: !params.flag("reverse")?.unwrap_or(false),
        values: true,
        ..RecordsQuery::default()
    };
    let mut body = ListBody::new("records");
    let mut values = Values::default();
    let cursor = loop {
        query.limit = CHUNK.min(limit - body.rows());
        let page = state.store.records(&query).await?;
        for record in &page.items {
            body.push(&RecordView::of(record, &mut values))?;
        }
        if let Some(last) = page.items.last() {
            query.after_rkey = Some(last.rkey.clone());
        }
        if page.cursor.is_none() {
            break None;
        }
        if body.rows() >= limit || body.is_full() || page.items.is_empty() {
            break query.after_rkey;
        }
    };
    let repo = state.store.repo(did).await?;
    check_visible(did, repo.as_ref(), body.rows() > 0)?;
    body.finish(cursor.as_deref())
}

/// A repository as `listRepos` shows it.
#[derive(Serialize, JsonSchema)]
struct RepoView<'a> {
    did: &'a str,
    head: String,
    #[schemars(with = "String")]
    rev: Tid,
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
}

/// `com.atproto.sync.listRepos`. The lexicon wants `head` and `rev`, so that repositories of which no commit was seen are
/// left out; a page may be shorter than its limit.
pub(crate) async fn list_repos(
    State(state): State<Arc<ApiState>>,
    params: Params,
) -> Result<Response, ApiError> {
    let limit = params.limit(500, 1000)?;
    let cursor = params.cursor()?;
    let page = state.store.repos(cursor, limit).await;
    let page = page.map_err(|error| page_error(cursor, error, ApiError::from))?;
    let mut body = ListBody::new("repos");
    for repo in &page.items {
        let (Some(rev), Some(commit)) = (repo.rev, repo.commit) else {
            continue;
        };
        body.push(&RepoView {
            did: &repo.did,
            head: commit.to_string(),
            rev,
            active: repo.active(),
            status: repo.status_text(),
        })?;
    }
    body.finish(page.cursor.as_deref())
}

/// A repository as `getRepoStatus` shows it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct StatusView {
    did: String,
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    rev: Option<Tid>,
}

/// `com.atproto.sync.getRepoStatus`: `rev` only of active repositories.
pub(crate) async fn get_repo_status(
    State(state): State<Arc<ApiState>>,
    params: Params,
) -> Result<Json<StatusView>, ApiError> {
    let did = params.required("did", params.did("did")?)?;
    let repo = state.store.repo(did).await?;
    let repo = repo.ok_or_else(|| not_held(did))?;
    Ok(Json(StatusView {
        active: repo.active(),
        status: repo.status_text().map(str::to_owned),
        rev: repo.rev.filter(|_| repo.active()),
        did: repo.did,
    }))
}

/// Refuses what readers may not see, by the names that a PDS uses.
fn check_visible(did: &str, repo: Option<&Repo>, holds_records: bool) -> Result<(), ApiError> {
    let Some(repo) = repo else {
        return holds_records.then_some(()).ok_or_else(|| not_held(did));
    };
    if repo.active() {
        return Ok(());
    }
    let status = repo.status_text();
    let name = match status {
        Some("takendown") => "RepoTakendown",
        Some("suspended") => "RepoSuspended",
        Some("deactivated") => "RepoDeactivated",
        Some("deleted") => "RepoNotFound",
        _ => "RepoInactive",
    };
    let status = status.unwrap_or("not active, without a reason");
    Err(bad_request(
        name,
        format!("the repository {did} is {status}"),
    ))
}

fn not_held(did: &str) -> ApiError {
    bad_request("RepoNotFound", format!("no repository {did} is held"))
}

fn bad_request(name: &'static str, message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, name, message)
}
