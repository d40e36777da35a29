//! What is wrong with a configuration, and where each value came from.

use std::fmt;
use std::path::PathBuf;

use super::secret::REDACTED;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The key's own default.
    Default,
    /// A file, with the line where it could be told.
    File(PathBuf, Option<usize>),
    /// A variable, by name.
    Variable(String),
    /// A flag, by name.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, Some(line)) => write!(f, "file {}:{line}", path.display()),
            Self::File(path, None) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key, or what was taken for one; empty if it is about a whole file.
    pub key: String,
    /// The value as it was given, secrets redacted; none where there is none to show.
    pub value: Option<String>,
    /// Where it came from.
    pub origin: Origin,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            value,
            origin,
            problem,
        } = self;
        match value {
            _ if key.is_empty() => write!(f, "{origin}: {problem}"),
            Some(value) => write!(f, "{key} = {value} ({origin}): {problem}"),
            None => write!(f, "{key} ({origin}): {problem}"),
        }
    }
}

/// Everything that is wrong, found in one go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Mistakes(pub Vec<Mistake>);

fn lines(mistakes: &[Mistake]) -> String {
    let count = mistakes.len();
    let noun = if count == 1 { "mistake" } else { "mistakes" };
    let mut text = format!("{count} {noun} in the configuration; nothing was started");
    for mistake in mistakes {
        text.push_str("\n  ");
        text.push_str(&mistake.to_string());
    }
    text
}

/// A value as it is shown: quoted, shortened, and without what is not to be seen.
pub(crate) fn shown(value: &str, secret: bool) -> String {
    if secret {
        return REDACTED.to_owned();
    }
    let mut text: String = value.chars().take(200).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    format!("{:?}", without_user(&text))
}

/// Takes user and password out of a URL.
fn without_user(text: &str) -> String {
    let mut parts = Vec::new();
    for part in text.split(',') {
        match (part.find("://"), part.rfind('@')) {
            (Some(start), Some(end)) if start < end => {
                let head = part.get(..start + 3).unwrap_or_default();
                let tail = part.get(end..).unwrap_or_default();
                parts.push(format!("{head}{REDACTED}{tail}"));
            }
            _ => parts.push(part.to_owned()),
        }
    }
    parts.join(",")
}
