//! `/openapi.json`: the table of routes as an OpenAPI document.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::response::Response;
use axum::routing::on;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::auth::Access;
use super::error::ErrorBody;
use super::list::json;
use super::params::{DID_PATTERN, Kind, NSID_PATTERN, Parameter};
use super::routes::{self, Answer, Content, Route, Verb, schema};
use crate::telemetry::VERSION;

/// Where schemas that have a name are kept.
const SCHEMAS: &str = "/components/schemas";

pub(super) const ROUTES: &[Route] = &[Route {
    answers: &[Answer::json(200, "OpenAPI 3.1", schema::<Document>)],
    ..Route::new(
        Verb::Get,
        &["/openapi.json"],
        Access::Open,
        "This document",
        |method| on(method, show),
    )
}];

static DOCUMENT: LazyLock<Vec<u8>> =
    LazyLock::new(|| serde_json::to_vec(&document()).unwrap_or_default());

/// `GET /openapi.json`
async fn show() -> Response {
    json(DOCUMENT.clone())
}

/// The document.
#[derive(Serialize, JsonSchema)]
struct Document {
    openapi: &'static str,
    info: Value,
    paths: BTreeMap<&'static str, Map<String, Value>>,
    components: Value,
}

fn document() -> Document {
    let mut schemas = Schemas::new();
    let mut paths: BTreeMap<&'static str, Map<String, Value>> = BTreeMap::new();
    for route in routes::all() {
        for path in route.paths {
            let operation = operation(route, path, &mut schemas);
            let at = paths.entry(path).or_default();
            at.insert(route.verb.name().to_owned(), operation);
        }
    }
    Document {
        openapi: "3.1.0",
        info: json!({"title": "Penstock", "version": VERSION}),
        paths,
        components: json!({
            "schemas": schemas.definitions(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        }),
    }
}

/// Schemas of what is sent and of what is taken: they differ in what is required.
struct Schemas {
    answers: SchemaGenerator,
    bodies: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = SCHEMAS.into();
                settings.meta_schema = None;
            })
        };
        Self {
            answers: settings().for_serialize().into_generator(),
            bodies: settings().for_deserialize().into_generator(),
        }
    }

    fn definitions(mut self) -> Map<String, Value> {
        let mut all = self.bodies.take_definitions(true);
        all.extend(self.answers.take_definitions(true));
        all
    }
}

fn operation(route: &Route, path: &str, schemas: &mut Schemas) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route.verb, path),
        "summary": route.about,
        "responses": responses(route, path, schemas),
    });
    let mut parameters: Vec<Value> = path_parameters(path).map(in_path).collect();
    parameters.extend(route.query.iter().map(in_query));
    if !parameters.is_empty() {
        set(&mut operation, "parameters", parameters.into());
    }
    if let Some(body) = &route.body {
        let schema = (body.schema)(&mut schemas.bodies);
        let body = json!({
            "required": body.required,
            "content": {"application/json": {"schema": schema}},
        });
        set(&mut operation, "requestBody", body);
    }
    if route.access != Access::Open {
        let security = json!([{"bearer": []}, {"key": []}]);
        set(&mut operation, "security", security);
    }
    operation
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(object) = object {
        object.insert(name.to_owned(), value);
    }
}

/// The verb and the words of the path, as in `get_admin_backfill_id`.
fn operation_id(verb: Verb, path: &str) -> String {
    let words = path.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    words.fold(verb.name().to_owned(), |id, word| format!("{id}_{word}"))
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn in_path(name: &str) -> Value {
    let schema = match name {
        "nsid" => values(Kind::Nsid),
        _ => json!({"type": "string"}),
    };
    json!({"name": name, "in": "path", "required": true, "schema": schema})
}

fn in_query(parameter: &Parameter) -> Value {
    json!({
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "schema": values(parameter.kind),
    })
}

fn values(kind: Kind) -> Value {
    match kind {
        Kind::Did => json!({"type": "string", "pattern": DID_PATTERN, "maxLength": 2048}),
        Kind::Nsid => json!({"type": "string", "pattern": NSID_PATTERN, "maxLength": 317}),
        Kind::Rkey => {
            json!({"type": "string", "pattern": r"^[a-zA-Z0-9._:~-]*[a-zA-Z0-9_:~-]$", "maxLength": 512})
        }
        Kind::Cid => json!({"type": "string", "pattern": "^b[a-z2-7]{58}$"}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Limit(default, most) => {
            json!({"type": "integer", "minimum": 1, "maximum": most, "default": default})
        }
        Kind::Cursor => json!({"type": "string", "maxLength": 4096}),
        Kind::OneOf(words) => json!({"enum": words}),
    }
}

fn responses(route: &Route, path: &str, schemas: &mut Schemas) -> Map<String, Value> {
    let mut responses = Map::new();
    for answer in route.answers {
        responses.insert(answer.status.to_string(), response(answer, schemas));
    }
    for (status, about) in errors(route, path) {
        let error = Answer::json(status, about, schema::<ErrorBody<'_>>);
        let mut response = response(&error, schemas);
        if status == 429 {
            let wait = json!({"description": "seconds", "schema": {"type": "integer"}});
            set(&mut response, "headers", json!({"Retry-After": wait}));
        }
        responses.entry(status.to_string()).or_insert(response);
    }
    responses
}

/// The errors that follow from what a route takes, and its own.
fn errors(route: &Route, path: &str) -> Vec<(u16, &'static str)> {
    let guarded = route.access != Access::Open;
    let is_path_of_one = path_parameters(path).next().is_some();
    let rules = [
        (
            guarded || !route.query.is_empty(),
            400,
            "a parameter or the body is wrong",
        ),
        (guarded, 401, "no token, or one that is not known"),
        (
            route.access == Access::Admin,
            403,
            "the read token, where the admin's is needed",
        ),
        (is_path_of_one, 404, "there is no such thing"),
        (route.body.is_some(), 413, "the body is too long"),
        (
            guarded,
            429,
            "too many tokens that are not known, from one address",
        ),
        (guarded, 500, "a row of the store can't be read"),
        (
            true,
            503,
            "the store does not answer, no token is configured, or this is not the worker to ask",
        ),
    ];
    let follow = rules
        .into_iter()
        .filter(|(applies, _, _)| *applies)
        .map(|(_, status, about)| (status, about));
    follow.chain(route.errors.iter().copied()).collect()
}

fn response(answer: &Answer, schemas: &mut Schemas) -> Value {
    let (media_type, schema) = match answer.content {
        Content::Text(media_type) => (media_type, json!({"type": "string"})),
        Content::Json(schema) => ("application/json", schema(&mut schemas.answers).to_value()),
        Content::Array(schema) => {
            let rows = schema(&mut schemas.answers);
            ("application/json", json!({"type": "array", "items": rows}))
        }
        Content::List(name, schema) => {
            let rows = schema(&mut schemas.answers);
            let page = json!({
                "type": "object",
                "required": [name],
                "properties": {
                    name: {"type": "array", "items": rows},
                    "cursor": {"type": "string", "description": "only if there is more"},
                },
            });
            ("application/json", page)
        }
    };
    json!({"description": answer.about, "content": {media_type: {"schema": schema}}})
}
