//! `/admin/records` and `/admin/repos`: what `get`, `dump` and `repos` show, hidden accounts included.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
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

/// Rows of a page, unless `limit` says otherwise.
pub(crate) const DEFAULT_LIMIT: usize = 100;
/// The greatest `limit`.
pub(crate) const MAX_LIMIT: usize = 1000;
/// Pages of the store that one request reads while it finds nothing to show.
const EMPTY_PAGES: usize = 100;

pub(super) const ROUTES: &[Route] = &[
    Route {
        query: &[
            DID,
            COLLECTION,
            Parameter::new("rkey", Kind::Rkey),
            Parameter::new("active", Kind::Flag),
            Parameter::new("value", Kind::Flag),
            limit(DEFAULT_LIMIT, MAX_LIMIT),
            CURSOR,
        ],
        answers: &[Answer::list(
            200,
            "by DID, collection and record key",
            "records",
            schema::<RecordRow<'_>>,
        )],
        ..Route::new(
            Verb::Get,
            &["/admin/records"],
            Access::Read,
            "Records, those of hidden accounts included",
            |method| on(method, records),
        )
    },
    Route {
        query: &[DID, limit(DEFAULT_LIMIT, MAX_LIMIT), CURSOR],
        answers: &[Answer::list(200, "by DID", "repos", schema::<RepoRow<'_>>)],
        ..Route::new(
            Verb::Get,
            &["/admin/repos"],
            Access::Read,
            "Repositories, hidden accounts included",
            |method| on(method, repos),
        )
    },
];

/// A record as `dump` shows it. With values, a record that has no JSON has `"value":null`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Record")]
struct RecordRow<'a> {
    did: &'a str,
    collection: &'a str,
    rkey: &'a str,
    cid: String,
    #[schemars(with = "String")]
    rev: Tid,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    value: Option<Option<&'a RawValue>>,
}

/// `GET /admin/records`: `did`, `collection`, `rkey`, `active=true` (only of active accounts), `value=false`, `limit`,
/// `cursor`; in the order of (did, collection, rkey).
pub(crate) async fn records(
    State(state): State<Arc<ApiState>>,
    params: Params,
) -> Result<Response, ApiError> {
    let wanted = Wanted {
        active: params.flag("active")?.unwrap_or(false),
        values: params.flag("value")?.unwrap_or(true),
        limit: params.limit(DEFAULT_LIMIT, MAX_LIMIT)?,
    };
    let did = params.did("did")?;
    let collection = params.collection()?;
    let cursor = params.cursor()?;
    let mut page = RecordsPage::new(&state, wanted);
    if let Some(rkey) = params.rkey("rkey")? {
        let (Some(did), Some(collection)) = (did, collection) else {
            let allowed = "to give did and collection with it";
            return Err(ApiError::parameter("rkey", rkey, allowed));
        };
        let record = state.store.record(did, collection, rkey).await;
        if let Some(record) = record.map_err(ApiError::store)? {
            page.push(&record).await?;
        }
        return page.body.finish(None);
    }
    let query = RecordsQuery {
        did: did.map(str::to_owned),
        collection: collection.map(str::to_owned),
        cursor: cursor.map(str::to_owned),
        values: wanted.values,
        ..RecordsQuery::default()
    };
    page.fill(query).await
}

#[derive(Clone, Copy)]
struct Wanted {
    active: bool,
    values: bool,
    limit: usize,
}

struct RecordsPage<'a> {
    state: &'a ApiState,
    wanted: Wanted,
    body: ListBody,
    values: Values,
    /// Whether accounts are active, of the DIDs of this page.
    accounts: HashMap<String, bool>,
}

impl<'a> RecordsPage<'a> {
    fn new(state: &'a ApiState, wanted: Wanted) -> Self {
        Self {
            state,
            wanted,
            body: ListBody::new("records"),
            values: Values::default(),
            accounts: HashMap::new(),
        }
    }

    /// Reads chunk by chunk until the page is full, and gives up for this request where hidden accounts fill many chunks.
    async fn fill(mut self, mut query: RecordsQuery) -> Result<Response, ApiError> {
        let mut empty = 0;
        while self.body.rows() < self.wanted.limit && !self.body.is_full() && empty < EMPTY_PAGES {
            let room = self.wanted.limit - self.body.rows();
            query.limit = if query.values { CHUNK.min(room) } else { room };
            let chunk = self.state.store.records(&query).await;
            let cursor = query.cursor.as_deref();
            let chunk = chunk.map_err(|error| page_error(cursor, error, ApiError::store))?;
            let before = self.body.rows();
            for record in &chunk.items {
                self.push(record).await?;
            }
            empty += usize::from(before == self.body.rows());
            query.cursor = chunk.cursor;
            if query.cursor.is_none() {
                break;
            }
        }
        self.body.finish(query.cursor.as_deref())
    }

    async fn push(&mut self, record: &Record) -> Result<(), ApiError> {
        if self.wanted.active && !self.is_active(&record.did).await? {
            return Ok(());
        }
        let value = self.wanted.values.then(|| self.values.of(record));
        self.body.push(&RecordRow {
            did: &record.did,
            collection: &record.collection,
            rkey: &record.rkey,
            cid: record.cid.to_string(),
            rev: record.rev,
            value,
        })
    }

    async fn is_active(&mut self, did: &str) -> Result<bool, ApiError> {
        if let Some(active) = self.accounts.get(did) {
            return Ok(*active);
        }
        let repo = self.state.store.repo(did).await.map_err(ApiError::store)?;
        let active = repo.is_none_or(|repo| repo.active());
        self.accounts.insert(did.to_owned(), active);
        Ok(active)
    }
}

/// A repository as `repos` shows it. What is not known is null.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Repo")]
struct RepoRow<'a> {
    did: &'a str,
    handle: Option<&'a str>,
    active: bool,
    status: Option<&'a str>,
    #[schemars(with = "Option<String>")]
    rev: Option<Tid>,
    pds: Option<&'a str>,
    #[schemars(with = "Option<String>")]
    complete_rev: Option<Tid>,
}

impl<'a> RepoRow<'a> {
    fn of(repo: &'a Repo) -> Self {
        Self {
            did: &repo.did,
            handle: repo.handle_text(),
            active: repo.active(),
            status: repo.status_text(),
            rev: repo.rev,
            pds: repo.pds.as_deref(),
            complete_rev: repo.complete.as_ref().map(|complete| complete.rev),
        }
    }
}

/// `GET /admin/repos`: `did`, `limit`, `cursor`; in the order of the DIDs.
pub(crate) async fn repos(
    State(state): State<Arc<ApiState>>,
    params: Params,
) -> Result<Response, ApiError> {
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let cursor = params.cursor()?;
    let mut body = ListBody::new("repos");
    if let Some(did) = params.did("did")? {
        let repo = state.store.repo(did).await.map_err(ApiError::store)?;
        if let Some(repo) = repo {
            body.push(&RepoRow::of(&repo))?;
        }
        return body.finish(None);
    }
    let page = state.store.repos(cursor, limit).await;
    let page = page.map_err(|error| page_error(cursor, error, ApiError::store))?;
    for repo in &page.items {
        body.push(&RepoRow::of(repo))?;
    }
    body.finish(page.cursor.as_deref())
}
