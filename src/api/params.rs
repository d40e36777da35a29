//! Query parameters: each is checked once, and a bad one is named with its value and what is allowed.
//!
//! Names are checked by the decoder's own syntax, so that whatever is held can be asked for.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, Query};
use axum::http::Uri;
use axum::http::request::Parts;

use super::auth::Access;
use super::error::{ApiError, quoted};
use super::routes::Route;
use crate::decode::{Cid, syntax};

/// Longest cursor that is looked at, in bytes: a DID, an NSID and a record key fit.
const CURSOR_MAX: usize = 4096;

/// The parameters of one request; none is there twice.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

/// They were read and checked before the handler was called.
impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.remove().unwrap_or_default())
    }
}

/// DIDs as schemas tell them.
pub(crate) const DID_PATTERN: &str = r"^did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]$";
/// NSIDs: two or more labels of a domain, then a name of letters and digits.
pub(crate) const NSID_PATTERN: &str = concat!(
    r"^[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?",
    r"(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)+",
    r"\.[a-zA-Z][a-zA-Z0-9]{0,62}$"
);

/// Handles: names of hosts.
pub(crate) const HANDLE_PATTERN: &str = concat!(
    r"^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+",
    r"[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$"
);

/// A query parameter that a route knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
}

/// What values a parameter may have.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Did,
    Nsid,
    Rkey,
    Cid,
    Flag,
    /// From 1: the default, and the most.
    Limit(usize, usize),
    Cursor,
    OneOf(&'static [&'static str]),
}

impl Parameter {
    pub(crate) const fn new(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            required: false,
        }
    }

    pub(crate) const fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }
}

pub(crate) const DID: Parameter = Parameter::new("did", Kind::Did);
pub(crate) const COLLECTION: Parameter = Parameter::new("collection", Kind::Nsid);
pub(crate) const CURSOR: Parameter = Parameter::new("cursor", Kind::Cursor);

pub(crate) const fn limit(default: usize, most: usize) -> Parameter {
    Parameter::new("limit", Kind::Limit(default, most))
}

/// Refuses parameters that an admin route does not know: a misspelt filter must not answer with everything.
fn check_names(route: &Route, pairs: &[(String, String)]) -> Result<(), ApiError> {
    let is_known = |name: &str| route.query.iter().any(|known| known.name == name);
    let stranger = pairs.iter().find(|(name, _)| !is_known(name));
    let known: Vec<&str> = route.query.iter().map(|known| known.name).collect();
    match stranger {
        None => Ok(()),
        Some(_) if route.access == Access::Open => Ok(()),
        Some((name, _)) if known.is_empty() => Err(ApiError::invalid(format!(
            "unknown parameter {}; this route takes none",
            quoted(name)
        ))),
        Some((name, _)) => Err(ApiError::invalid(format!(
            "unknown parameter {}; this route knows {}",
            quoted(name),
            known.join(", ")
        ))),
    }
}

impl Params {
    /// Those of a URL that `route` is asked with.
    pub(crate) fn read(uri: &Uri, route: &Route) -> Result<Self, ApiError> {
        if route.access == Access::Open && route.query.is_empty() {
            return Ok(Self::default());
        }
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::invalid(error.body_text()))?;
        for (at, (name, value)) in pairs.iter().enumerate() {
            if pairs.iter().take(at).any(|(other, _)| other == name) {
                return Err(ApiError::parameter(name, value, "to give it once"));
            }
        }
        check_names(route, &pairs)?;
        Ok(Self(pairs))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn did(&self, name: &str) -> Result<Option<&str>, ApiError> {
        self.checked(
            name,
            "a DID, such as did:plc:ewvi7nxzyoun6zhxrhs64oiz",
            syntax::is_did,
        )
    }

    pub(crate) fn collection(&self) -> Result<Option<&str>, ApiError> {
        let allowed = "an NSID, such as app.bsky.feed.post";
        self.checked("collection", allowed, syntax::is_nsid)
    }

    pub(crate) fn rkey(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let allowed = "a record key: 1 to 512 of A-Z a-z 0-9 . - _ : ~, not . or ..";
        self.checked(name, allowed, syntax::is_rkey)
    }

    pub(crate) fn cid(&self) -> Result<Option<Cid>, ApiError> {
        let allowed = "a CID of version 1 with SHA-256, in base32";
        let text = self.checked("cid", allowed, |v| Cid::parse(v).is_some())?;
        Ok(text.and_then(Cid::parse))
    }

    /// The DID of an `at-identifier` parameter. Handles are refused: a handle is only what an account said of itself.
    pub(crate) fn repo(&self) -> Result<&str, ApiError> {
        let value = self.required("repo", self.text("repo"))?;
        if syntax::is_handle(value) {
            let allowed = "a DID: handles are not resolved here";
            return Err(ApiError::parameter("repo", value, allowed));
        }
        self.did("repo")?;
        Ok(value)
    }

    /// 1 to `max`.
    pub(crate) fn limit(&self, default: usize, max: usize) -> Result<usize, ApiError> {
        let Some(value) = self.text("limit") else {
            return Ok(default);
        };
        let limit = value.parse().ok();
        limit
            .filter(|limit| (1..=max).contains(limit))
            .ok_or_else(|| ApiError::parameter("limit", value, &format!("1 to {max}")))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.text(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(ApiError::parameter(name, other, "true or false")),
        }
    }

    /// An empty cursor is the start.
    pub(crate) fn cursor(&self) -> Result<Option<&str>, ApiError> {
        let cursor = self.checked("cursor", "a cursor that a page ended with", |v| {
            v.len() <= CURSOR_MAX
        })?;
        Ok(cursor.filter(|cursor| !cursor.is_empty()))
    }

    pub(crate) fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| ApiError::invalid(format!("parameter {name:?} is required")))
    }

    fn checked(
        &self,
        name: &str,
        allowed: &str,
        is_valid: impl Fn(&str) -> bool,
    ) -> Result<Option<&str>, ApiError> {
        match self.text(name) {
            Some(value) if !is_valid(value) => Err(ApiError::parameter(name, value, allowed)),
            other => Ok(other),
        }
    }
}
