//! JSON bodies, field by field: all that is wrong is said at once.

use serde_json::{Map, Value};

use super::error::{ApiError, quoted};
use crate::decode::syntax;

/// So many bad members of a list are named.
pub(super) const NAMED: usize = 10;

/// A kind of name.
pub(super) struct Syntax {
    pub(super) is_valid: fn(&str) -> bool,
    pub(super) allowed: &'static str,
}

pub(super) const NSID: Syntax = Syntax {
    is_valid: syntax::is_nsid,
    allowed: "an NSID, such as app.bsky.feed.post",
};
pub(super) const DID: Syntax = Syntax {
    is_valid: syntax::is_did,
    allowed: "a DID, such as did:plc:ewvi7nxzyoun6zhxrhs64oiz",
};
pub(super) const HANDLE: Syntax = Syntax {
    is_valid: syntax::is_handle,
    allowed: "a handle, such as alice.example.com",
};

/// What is wrong with a request: fields, and what is allowed.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<(String, String)>);

impl Problems {
    pub(super) fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push((field.into(), problem.into()));
    }

    /// 400 that names each field, for people and for programs; nothing where nothing is wrong.
    pub(super) fn into_result(self) -> Result<(), ApiError> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(self.into_error()),
        }
    }

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

/// The fields of a body that were not read yet, and what was wrong so far.
pub(super) struct Fields {
    left: Map<String, Value>,
    pub(super) problems: Problems,
}

impl Fields {
    /// Those of a body such as `example`; an empty one has none.
    pub(super) fn read(body: &[u8], example: &str) -> Result<Self, ApiError> {
        let wanted = format!("the body must be a JSON object, such as {example}");
        let value = match body.trim_ascii() {
            [] => Value::Object(Map::new()),
            body => serde_json::from_slice(body)
                .map_err(|error| ApiError::invalid(format!("{wanted}: {error}")))?,
        };
        match value {
            Value::Object(left) => Ok(Self {
                left,
                problems: Problems::default(),
            }),
            _ => Err(ApiError::invalid(wanted)),
        }
    }

    /// A field; null is as good as absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// A name that has to be there; empty where it is bad.
    pub(super) fn required_name(&mut self, field: &str, syntax: &Syntax) -> String {
        let value = self.left.remove(field);
        self.name(field, value, syntax)
    }

    /// The same of a value that was found elsewhere.
    pub(super) fn name(&mut self, field: &str, value: Option<Value>, syntax: &Syntax) -> String {
        match value {
            Some(Value::String(name)) if (syntax.is_valid)(&name) => return name,
            Some(other) => self.problems.add(field, differs(&other, syntax.allowed)),
            None => self.missing(field, syntax.allowed),
        }
        String::new()
    }

    /// An object that has to be there.
    pub(super) fn required_object(&mut self, field: &str) -> Option<Map<String, Value>> {
        match self.left.remove(field) {
            Some(Value::Object(object)) => return Some(object),
            Some(other) => self.problems.add(field, differs(&other, "an object")),
            None => self.missing(field, "an object"),
        }
        None
    }

    pub(super) fn flag(&mut self, field: &str, default: bool) -> bool {
        match self.left.remove(field) {
            None => default,
            Some(Value::Bool(flag)) => flag,
            Some(other) => {
                self.problems.add(field, differs(&other, "true or false"));
                default
            }
        }
    }

    /// What was wrong, with each field that is left: the route does not know it.
    pub(super) fn finish(mut self, known: &str) -> Result<(), ApiError> {
        for name in self.left.keys().take(NAMED) {
            let name: String = name.chars().take(80).collect();
            let problem = format!("unknown; this route knows {known}");
            self.problems.add(name, problem);
        }
        self.problems.into_result()
    }

    fn missing(&mut self, field: &str, allowed: &str) {
        self.problems
            .add(field, format!("missing; it is {allowed}"));
    }
}

/// Says of a value that it is not what is allowed.
pub(super) fn differs(value: &Value, allowed: &str) -> String {
    let shown = match value {
        Value::String(text) => quoted(text),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    };
    format!("{shown} is not {allowed}")
}
