//! What a job is asked to do, checked field by field: all that is wrong is said at once.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::error::ApiError;
use crate::api::fields::{DID, Fields, HANDLE, NAMED, NSID, Syntax, differs};
use crate::api::params::{DID_PATTERN, HANDLE_PATTERN, NSID_PATTERN};
use crate::backfill::jobs::{Force, JobRequest, Jobs, JobsError};

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
    /// One repository, by the handle of its account: resolved once, now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = HANDLE_PATTERN), length(max = 253))]
    pub handle: Option<String>,
    /// So many days before now, fractions allowed; 0: all time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 36_500))]
    pub days: Option<f64>,
    /// Do it although the ledger does not ask for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<Force>,
}

/// A request whose handle, if it has one, is still to be resolved.
pub(super) struct Asked {
    request: JobRequest,
    handle: Option<String>,
}

impl Asked {
    /// The request by DIDs alone.
    pub(super) async fn resolved(self, jobs: &dyn Jobs) -> Result<JobRequest, JobsError> {
        let Self {
            mut request,
            handle,
        } = self;
        if let Some(handle) = handle {
            let did = jobs.did_of(&handle).await?;
            if let Err(at) = request.dids.binary_search(&did) {
                request.dids.insert(at, did);
            }
        }
        Ok(request)
    }
}

/// Reads the body and the `force` of the query.
pub(super) fn read(body: &[u8], force: Option<&str>) -> Result<Asked, ApiError> {
    let mut fields = Fields::read(body, r#"{"collection":"app.bsky.feed.post"}"#)?;
    let handle = fields.handle();
    let request = JobRequest {
        collections: fields.names("collection", "collections", &NSID),
        dids: fields.names("did", "dids", &DID),
        days: fields.days(),
        force: fields.force(force),
        origin: "api".to_owned(),
    };
    let scoped = handle.is_some() || is_scoped(&request);
    if request.force == Some(Force::CatchUp) && scoped {
        let problem = "catch_up is over the gaps of the ledger, for all that is indexed: leave out collections and DIDs, or force";
        fields.problems.add("force", problem);
    }
    fields.finish("collection, collections, did, dids, handle, days, force")?;
    Ok(Asked { request, handle })
}

/// Whether a request names what it is over.
fn is_scoped(request: &JobRequest) -> bool {
    !request.collections.is_empty() || !request.dids.is_empty()
}

/// Whether a request is for everything.
pub(super) fn is_unscoped(request: &JobRequest) -> bool {
    !is_scoped(request) && request.days.is_none()
}

impl Fields {
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

    fn handle(&mut self) -> Option<String> {
        let value = self.take("handle")?;
        Some(self.name("handle", Some(value), &HANDLE))
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
