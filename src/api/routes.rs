//! The table of routes. The router, the checks before each handler and the OpenAPI document are all made from it.

use std::sync::Arc;

use axum::Router;
use axum::body::{Bytes, HttpBody};
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::auth::{self, Access};
use super::error::ApiError;
use super::params::{Parameter, Params};
use super::{
    ApiState, admin, backfill, collections, gaps, health, openapi, optout, page, quarantine, xrpc,
};

/// Most bytes of a body, unless its route says otherwise.
const BODY_MAX: usize = 64 << 10;

/// One route: what it takes, what it answers, and what makes the answer.
pub(crate) struct Route {
    pub(crate) verb: Verb,
    /// More than one where there are aliases.
    pub(crate) paths: &'static [&'static str],
    pub(crate) access: Access,
    pub(crate) about: &'static str,
    pub(crate) query: &'static [Parameter],
    pub(crate) body: Option<Body>,
    pub(crate) answers: &'static [Answer],
    /// Errors beside those that follow from all else: status and reason.
    pub(crate) errors: &'static [(u16, &'static str)],
    pub(crate) handler: fn(MethodFilter) -> MethodRouter<Arc<ApiState>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Post,
    Delete,
}

impl Verb {
    /// As OpenAPI writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Delete => "delete",
        }
    }

    fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

/// Makes the schema of a type.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The schema of `T`.
pub(crate) fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The body of a request: JSON, whatever type it says it has.
pub(crate) struct Body {
    pub(crate) schema: SchemaOf,
    pub(crate) required: bool,
    max: usize,
}

impl Body {
    pub(crate) const fn required(schema: SchemaOf) -> Self {
        Self {
            schema,
            required: true,
            max: BODY_MAX,
        }
    }

    /// One that may be left out, and may have so many bytes.
    pub(crate) const fn optional(schema: SchemaOf, max: usize) -> Self {
        Self {
            schema,
            required: false,
            max,
        }
    }
}

/// An answer that is no error.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) about: &'static str,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    Json(SchemaOf),
    /// A page: the name of its rows.
    List(&'static str, SchemaOf),
    /// A bare array.
    Array(SchemaOf),
    /// Something else: its media type.
    Text(&'static str),
}

impl Answer {
    pub(crate) const fn json(status: u16, about: &'static str, schema: SchemaOf) -> Self {
        let content = Content::Json(schema);
        Self {
            status,
            about,
            content,
        }
    }

    pub(crate) const fn list(
        status: u16,
        about: &'static str,
        rows: &'static str,
        schema: SchemaOf,
    ) -> Self {
        let content = Content::List(rows, schema);
        Self {
            status,
            about,
            content,
        }
    }

    pub(crate) const fn array(status: u16, about: &'static str, schema: SchemaOf) -> Self {
        let content = Content::Array(schema);
        Self {
            status,
            about,
            content,
        }
    }

    pub(crate) const fn text(status: u16, about: &'static str, media_type: &'static str) -> Self {
        let content = Content::Text(media_type);
        Self {
            status,
            about,
            content,
        }
    }
}

impl Route {
    /// One that takes nothing and has yet to say what it answers.
    pub(crate) const fn new(
        verb: Verb,
        paths: &'static [&'static str],
        access: Access,
        about: &'static str,
        handler: fn(MethodFilter) -> MethodRouter<Arc<ApiState>>,
    ) -> Self {
        Self {
            verb,
            paths,
            access,
            about,
            query: &[],
            body: None,
            answers: &[],
            errors: &[],
            handler,
        }
    }

    fn body_max(&self) -> usize {
        self.body.as_ref().map_or(BODY_MAX, |body| body.max)
    }
}

/// Every route.
pub(crate) fn all() -> impl Iterator<Item = &'static Route> {
    [
        page::ROUTES,
        health::ROUTES,
        openapi::ROUTES,
        xrpc::ROUTES,
        admin::ROUTES,
        gaps::ROUTES,
        quarantine::ROUTES,
        backfill::ROUTES,
        collections::ROUTES,
        optout::ROUTES,
    ]
    .into_iter()
    .flatten()
}

/// The router of the table.
pub(crate) fn router(state: &Arc<ApiState>) -> Router<Arc<ApiState>> {
    all().fold(Router::new(), |router, route| {
        route.paths.iter().fold(router, |router, path| {
            let handler = (route.handler)(route.verb.filter())
                .layer(DefaultBodyLimit::max(route.body_max()))
                .route_layer(middleware::from_fn_with_state(
                    (state.clone(), route),
                    checked,
                ));
            router.route(path, handler)
        })
    })
}

/// What is checked before a handler is called: the token, then the length that the body says it has, before anyone waits for
/// it (one that does not say is cut off as it is read), then the names of the parameters.
async fn checked(
    State((state, route)): State<(Arc<ApiState>, &'static Route)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    auth::check(&state, route.access, &request)?;
    let length = usize::try_from(request.body().size_hint().lower()).unwrap_or(usize::MAX);
    if length > route.body_max() {
        return Err(ApiError::too_large(route.body_max()));
    }
    let params = Params::read(request.uri(), route)?;
    request.extensions_mut().insert(params);
    request.extensions_mut().insert(BodyMax(route.body_max()));
    Ok(next.run(request).await)
}

#[derive(Clone, Copy)]
struct BodyMax(usize);

/// The bytes of a body, within the limit of its route.
pub(crate) struct RequestBody(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for RequestBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let max = request.extensions().get::<BodyMax>();
        let max = max.map_or(BODY_MAX, |BodyMax(max)| *max);
        let bytes = Bytes::from_request(request, state).await;
        bytes
            .map(Self)
            .map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(max),
                status => ApiError::new(status, "InvalidRequest", rejection.body_text()),
            })
    }
}
