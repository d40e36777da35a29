//! Compares what a consumer holds with the oracle.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, BufRead};

use serde_json::Value as Json;

use crate::oracle::{Oracle, RepoState};

/// One thing that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// It must be held and is not.
    Missing(String),
    /// It is held and must not be.
    Extra(String),
    /// It is held, but not as it must be.
    Different {
        /// What.
        what: String,
        /// Which part: `cid`, `rev`, `value`, `handle`, `active`, `status`.
        part: &'static str,
        /// As it must be.
        expected: String,
        /// As it is.
        held: String,
    },
    /// It is there more than once.
    Twice(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(what) => write!(f, "missing   {what}"),
            Self::Extra(what) => write!(f, "extra     {what}"),
            Self::Twice(what) => write!(f, "twice     {what}"),
            Self::Different {
                what,
                part,
                expected,
                held,
            } => {
                write!(f, "different {what}: {part} must be {expected}, is {held}")
            }
        }
    }
}

/// The outcome of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Records of the oracle.
    pub records: u64,
    /// Repositories that were compared; 0 where no repositories were given.
    pub repos: u64,
    /// How many records or repositories are missing.
    pub missing: u64,
    /// How many must not be there.
    pub extra: u64,
    /// How many parts differ.
    pub different: u64,
    /// How many come more than once.
    pub twice: u64,
    /// The first of each kind.
    pub first: Vec<Difference>,
}

/// How many of each kind are kept in [`Diff::first`].
const FIRST: u64 = 20;

impl Diff {
    /// Whether all is as it must be.
    pub fn is_empty(&self) -> bool {
        self.missing + self.extra + self.different + self.twice == 0
    }

    fn add(&mut self, difference: Difference) {
        let count = match &difference {
            Difference::Missing(_) => &mut self.missing,
            Difference::Extra(_) => &mut self.extra,
            Difference::Different { .. } => &mut self.different,
            Difference::Twice(_) => &mut self.twice,
        };
        *count += 1;
        if *count <= FIRST {
            self.first.push(difference);
        }
    }

    fn compare(&mut self, what: &str, part: &'static str, expected: &Json, held: &Json) {
        if expected != held {
            self.add(Difference::Different {
                what: what.to_owned(),
                part,
                expected: expected.to_string(),
                held: held.to_string(),
            });
        }
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.first {
            writeln!(f, "{difference}")?;
        }
        write!(
            f,
            "{} records and {} repositories compared: {} missing, {} extra, {} different, {} twice",
            self.records, self.repos, self.missing, self.extra, self.different, self.twice
        )
    }
}

/// Compares the lines of a dump, and of a list of repositories if there is one, with the oracle. A line without `value` is
/// compared without it.
///
/// # Errors
/// A line that is not a JSON object with the fields of its kind.
pub fn check(oracle: &Oracle, dump: impl BufRead, repos: Option<impl BufRead>) -> io::Result<Diff> {
    let mut diff = Diff {
        records: oracle.records.len() as u64,
        ..Diff::default()
    };
    records(oracle, dump, &mut diff)?;
    if let Some(repos) = repos {
        diff.repos = oracle.repos.len() as u64;
        repositories(oracle, repos, &mut diff)?;
    }
    Ok(diff)
}

fn parse(at: usize, line: &str, kind: &str) -> io::Result<Json> {
    serde_json::from_str::<Json>(line)
        .ok()
        .filter(Json::is_object)
        .ok_or_else(|| bad_line(at, kind))
}

fn bad_line(at: usize, kind: &str) -> io::Error {
    let text = format!("line {} of the {kind} is not what it should be", at + 1);
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn records(oracle: &Oracle, dump: impl BufRead, diff: &mut Diff) -> io::Result<()> {
    let mut seen = HashSet::new();
    for (at, line) in dump.lines().enumerate() {
        let mut line = parse(at, &line?, "dump")?;
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        let (Some(did), Some(collection), Some(rkey)) =
            (text("did"), text("collection"), text("rkey"))
        else {
            return Err(bad_line(at, "dump"));
        };
        let what = format!("at://{did}/{collection}/{rkey}");
        let Some((key, record)) = oracle.records.get_key_value(&(did, collection, rkey)) else {
            diff.add(Difference::Extra(what));
            continue;
        };
        if !seen.insert(key) {
            diff.add(Difference::Twice(what));
            continue;
        }
        diff.compare(&what, "cid", &record.cid.as_str().into(), &line["cid"]);
        diff.compare(&what, "rev", &record.rev.as_str().into(), &line["rev"]);
        if let Some(value) = line.get_mut("value") {
            unpad(value);
            diff.compare(&what, "value", &record.value, value);
        }
    }
    for key in oracle.records.keys().filter(|key| !seen.contains(key)) {
        let (did, collection, rkey) = key;
        diff.add(Difference::Missing(format!(
            "at://{did}/{collection}/{rkey}"
        )));
    }
    Ok(())
}

/// Padding of `$bytes` is optional.
fn unpad(value: &mut Json) {
    match value {
        Json::Object(map) => {
            if map.len() == 1
                && let Some(Json::String(bytes)) = map.get_mut("$bytes")
            {
                bytes.truncate(bytes.trim_end_matches('=').len());
            }
            map.values_mut().for_each(unpad);
        }
        Json::Array(items) => items.iter_mut().for_each(unpad),
        _ => {}
    }
}

fn repositories(oracle: &Oracle, repos: impl BufRead, diff: &mut Diff) -> io::Result<()> {
    let mut seen = HashSet::new();
    for (at, line) in repos.lines().enumerate() {
        let line = parse(at, &line?, "repos")?;
        let did = line["did"].as_str().ok_or_else(|| bad_line(at, "repos"))?;
        let Some((did, repo)) = oracle.repos.get_key_value(did) else {
            // A row that says nothing (of an event whose time could not be read) is not wrong.
            let says = ["handle", "status", "rev"]
                .iter()
                .any(|name| !line[*name].is_null());
            if says || line["active"] == false {
                diff.add(Difference::Extra(did.to_owned()));
            }
            continue;
        };
        if !seen.insert(did) {
            diff.add(Difference::Twice(did.clone()));
            continue;
        }
        repository(repo, &line, diff);
    }
    for did in oracle.repos.keys().filter(|did| !seen.contains(did)) {
        diff.add(Difference::Missing(did.clone()));
    }
    Ok(())
}

fn repository(repo: &RepoState, line: &Json, diff: &mut Diff) {
    let text = |value: &Option<String>| value.as_deref().map_or(Json::Null, Json::from);
    diff.compare(&repo.did, "handle", &text(&repo.handle), &line["handle"]);
    // No status at all means active.
    let active = match &line["active"] {
        Json::Null => Json::Bool(true),
        active => active.clone(),
    };
    diff.compare(&repo.did, "active", &repo.active.into(), &active);
    diff.compare(&repo.did, "status", &text(&repo.status), &line["status"]);
    // A `#sync` may count as a revision or only as a repair.
    if line["rev"] != text(&repo.commit_rev) {
        diff.compare(&repo.did, "rev", &text(&repo.rev), &line["rev"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn lines(oracle: &Oracle) -> (String, String) {
        let dump: Vec<String> = oracle
            .records
            .values()
            .map(|record| serde_json::to_string(record).unwrap())
            .collect();
        let repos: Vec<String> = oracle
            .repos
            .values()
            .map(|repo| serde_json::to_string(repo).unwrap())
            .collect();
        (dump.join("\n"), repos.join("\n"))
    }

    #[test]
    fn finds_what_is_wrong() {
        let oracle = World::of(1, 10, 300).oracle;
        let (dump, repos) = lines(&oracle);
        let diff = check(&oracle, dump.as_bytes(), Some(repos.as_bytes())).unwrap();
        assert!(diff.is_empty(), "{diff}");

        let mut held = (*oracle).clone();
        let first = held.records.keys().next().unwrap().clone();
        held.records.remove(&first);
        let second = held.records.values_mut().next().unwrap();
        second.value["odd"] = 1.into();
        second.rev = "x".to_owned();
        let mut extra = second.clone();
        extra.rkey = "extra".to_owned();
        held.records.insert(
            (
                extra.did.clone(),
                extra.collection.clone(),
                extra.rkey.clone(),
            ),
            extra,
        );
        held.repos.values_mut().next().unwrap().active ^= true;
        let (dump, repos) = lines(&held);
        let dump = format!("{dump}\n{}", dump.lines().last().unwrap());
        let diff = check(&oracle, dump.as_bytes(), Some(repos.as_bytes())).unwrap();
        assert_eq!(
            (diff.missing, diff.extra, diff.different, diff.twice),
            (1, 1, 3, 1),
            "{diff}"
        );
        assert!(check(&oracle, "{".as_bytes(), None::<&[u8]>).is_err());
    }

    #[test]
    fn padding_does_not_matter() {
        let mut value = serde_json::json!({ "a": [{ "$bytes": "AQ==" }] });
        unpad(&mut value);
        assert_eq!(value, serde_json::json!({ "a": [{ "$bytes": "AQ" }] }));
    }
}
