//! `/admin/optout`: DIDs that jobs skip unless they name them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use axum::routing::on;
use schemars::JsonSchema;
use serde::Serialize;

use super::admin::{DEFAULT_LIMIT, MAX_LIMIT};
use super::auth::Access;
use super::error::ApiError;
use super::fields::{DID, Fields};
use super::list::ListBody;
use super::params::{CURSOR, DID_PATTERN, Params, limit};
use super::routes::{Answer, Body, RequestBody, Route, Verb, schema};
use super::{ApiState, page_error};
use crate::store::{Choice, ChoiceKind};

const PATHS: &[&str] = &["/admin/optout"];

pub(super) const ROUTES: &[Route] = &[
    Route {
        query: &[limit(DEFAULT_LIMIT, MAX_LIMIT), CURSOR],
        answers: &[Answer::list(200, "by DID", "optout", schema::<OptOut>)],
        ..Route::new(
            Verb::Get,
            PATHS,
            Access::Read,
            "DIDs that jobs skip",
            |method| on(method, list),
        )
    },
    Route {
        body: Some(Body::required(schema::<OptOut>)),
        answers: &[Answer::json(200, "it is on the list", schema::<OptOut>)],
        ..Route::new(
            Verb::Post,
            PATHS,
            Access::Admin,
            "Lets jobs skip a DID",
            |method| on(method, add),
        )
    },
    Route {
        body: Some(Body::required(schema::<OptOut>)),
        answers: &[Answer::json(200, "it is not on the list", schema::<OptOut>)],
        ..Route::new(
            Verb::Delete,
            PATHS,
            Access::Admin,
            "Takes a DID off the list",
            |method| on(method, remove),
        )
    },
];

/// A row of the list, and the body that adds or removes one.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct OptOut {
    #[schemars(regex(pattern = DID_PATTERN), length(max = 1024))]
    did: String,
}

async fn list(State(state): State<Arc<ApiState>>, params: Params) -> Result<Response, ApiError> {
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let cursor = params.cursor()?;
    let page = state.store.choices(ChoiceKind::OptOut, "", cursor, limit);
    let page = page.await;
    let page = page.map_err(|error| page_error(cursor, error, ApiError::store))?;
    let mut body = ListBody::new("optout");
    for choice in page.items {
        body.push(&OptOut { did: choice.name })?;
    }
    body.finish(page.cursor.as_deref())
}

async fn add(
    State(state): State<Arc<ApiState>>,
    RequestBody(body): RequestBody,
) -> Result<Json<OptOut>, ApiError> {
    let named = read(&body)?;
    let choice = Choice {
        kind: ChoiceKind::OptOut,
        name: named.did.clone(),
        body: b"{}".to_vec(),
    };
    let written = state.store.put_choice(&choice).await;
    written.map(|()| Json(named)).map_err(ApiError::store)
}

async fn remove(
    State(state): State<Arc<ApiState>>,
    RequestBody(body): RequestBody,
) -> Result<Json<OptOut>, ApiError> {
    let named = read(&body)?;
    let store = &state.store;
    let removed = store.remove_choice(ChoiceKind::OptOut, &named.did).await;
    removed.map(|()| Json(named)).map_err(ApiError::store)
}

fn read(body: &[u8]) -> Result<OptOut, ApiError> {
    let mut fields = Fields::read(body, r#"{"did":"did:plc:ewvi7nxzyoun6zhxrhs64oiz"}"#)?;
    let did = fields.required_name("did", &DID);
    fields.finish("did")?;
    Ok(OptOut { did })
}
