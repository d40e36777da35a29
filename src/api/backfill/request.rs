//! What a job is asked to do, checked field by field: all that is wrong is said at once.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::error::{ApiError, quoted};
use crate::api::params::{DID_PATTERN, NSID_PATTERN};
use crate::backfill::jobs::{Force, JobRequest};
use crate::decode::syntax;

/// So many bad members of a list are named.
const NAMED: usize = 10;
/// The deepest past that is taken for a number of days.
const DAYS_MAX: f64 = 36_500.0;

/// The body of `POST /admin/backfill`. What is absent is no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BackfillRequest {
    /// One collection.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = NSID_PATTERN), length(max = 317))]
    pub collection: Option<String>,
    /// Collections.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(regex(pattern = NSID_PATTERN), length(max = 317)))]
    pub collections: Option<Vec<String>>,
    /// One repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DID_PATTERN), length(max = 2048))]
    pub did: Option<String>,
    /// Repositories.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(regex(pattern = DID_PATTERN), length(max = 2048)))]
    pub dids: Option<Vec<String>>,
    /// So many days before now, fractions allowed; 0: all time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 36_500))]
    pub days: Option<f64>,
    /// Do it although the ledger does not ask for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<Force>,
}

/// What is wrong with a request: fields, and what is allowed.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<(String, String)>);

impl Problems {
    pub(super) fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push((field.into(), problem.into()));
    }

    /// 400 that names each field, for people and for programs.
    pub(super) fn into_error(self) -> ApiError {
        let said = self
            .0
            .iter()
            .map(|(field, problem)| format!("{field}: {problem}"));
        let message = said.collect::<Vec<_>>().join("; ");
        let mut fields: Map<String, Value> = Map::new();
        for (field, problem) in self.0 {
            let said = fields
                .entry(field)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(said) = said {
                said.push(Value::String(problem));
            }
        }
        ApiError::invalid(message).with("fields", fields)
    }
}

/// Reads the body and the `force` of the query.
pub(super) fn read(body: &[u8], force: Option<&str>) -> Result<JobRequest, ApiError> {
    let mut fields = Fields {
        left: read_object(body)?,
        problems: Problems::default(),
    };
    let request = JobRequest {
        collections: fields.names("collection", "collections", &NSID),
        dids: fields.names("did", "dids", &DID),
        days: fields.days(),
        force: fields.force(force),
        origin: "api".to_owned(),
    };
    let Fields { left, mut problems } = fields;
    for name in left.keys().take(NAMED) {
        let known = "this route knows collection, collections, did, dids, days, force";
        problems.add(
            name.chars().take(80).collect::<String>(),
            format!("unknown; {known}"),
        );
    }
    match problems.0.is_empty() {
        true => Ok(request),
        false => Err(problems.into_error()),
    }
}

/// Whether a request is for everything.
pub(super) fn is_unscoped(request: &JobRequest) -> bool {
    request.collections.is_empty() && request.dids.is_empty() && request.days.is_none()
}

fn read_object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    let wanted = r#"the body must be a JSON object, such as {"collection":"app.bsky.feed.post"}"#;
    let value = serde_json::from_slice(body)
        .map_err(|error| ApiError::invalid(format!("{wanted}: {error}")))?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(ApiError::invalid(wanted)),
    }
}

/// A kind of name.
struct Syntax {
    is_valid: fn(&str) -> bool,
    allowed: &'static str,
}

const NSID: Syntax = Syntax {
    is_valid: syntax::is_nsid,
    allowed: "an NSID, such as app.bsky.feed.post",
};
const DID: Syntax = Syntax {
    is_valid: syntax::is_did,
    allowed: "a DID, such as did:plc:ewvi7nxzyoun6zhxrhs64oiz",
};

struct Fields {
    left: Map<String, Value>,
    problems: Problems,
}

impl Fields {
    /// A field; null is as good as absent.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// The names of both fields, sorted, each once.
    fn names(&mut self, one: &str, many: &str, syntax: &Syntax) -> Vec<String> {
        let mut names = BTreeSet::new();
        match self.take(one) {
            None => {}
            Some(Value::String(name)) if (syntax.is_valid)(&name) => {
                names.insert(name);
            }
            Some(other) => self.problems.add(one, differs(&other, syntax.allowed)),
        }
        match self.take(many) {
            None => {}
            Some(Value::Array(members)) if members.is_empty() => {
                let problem = "an empty list names nothing; leave it out to mean all";
                self.problems.add(many, problem);
            }
            Some(Value::Array(members)) => self.members(many, members, syntax, &mut names),
            Some(other) => self
                .problems
                .add(many, differs(&other, "an array of strings")),
        }
        names.into_iter().collect()
    }

    fn members(
        &mut self,
        field: &str,
        members: Vec<Value>,
        syntax: &Syntax,
        names: &mut BTreeSet<String>,
    ) {
        let mut bad: usize = 0;
        for (at, member) in members.into_iter().enumerate() {
            match member {
                Value::String(name) if (syntax.is_valid)(&name) => {
                    names.insert(name);
                }
                other => {
                    bad += 1;
                    if bad <= NAMED {
                        let problem = differs(&other, syntax.allowed);
                        self.problems.add(format!("{field}[{at}]"), problem);
                    }
                }
            }
        }
        if bad > NAMED {
            let problem = format!("{} more are bad", bad - NAMED);
            self.problems.add(field, problem);
        }
    }

    fn days(&mut self) -> Option<f64> {
        let value = self.take("days")?;
        let days = value.as_f64();
        let days = days.filter(|days| (0.0..=DAYS_MAX).contains(days));
        if days.is_none() {
            let allowed = format!("a number from 0 (all time) to {DAYS_MAX}");
            self.problems.add("days", differs(&value, &allowed));
        }
        days.filter(|days| *days > 0.0)
    }

    /// `force` of the body or of the query; both only if they say the same.
    fn force(&mut self, query: Option<&str>) -> Option<Force> {
        let body = self.take("force");
        let query = query.map(|text| Value::String(text.to_owned()));
        if let (Some(body), Some(query)) = (&body, &query)
            && body != query
        {
            self.problems.add("force", "the query and the body differ");
        }
        let value = body.or(query)?;
        let force = Force::deserialize(&value).ok();
        if force.is_none() {
            let allowed = "catch_up or full_sync";
            self.problems.add("force", differs(&value, allowed));
        }
        force
    }
}

fn differs(value: &Value, allowed: &str) -> String {
    let shown = match value {
        Value::String(text) => quoted(text),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    };
    format!("{shown} is not {allowed}")
}
