//! The lines of a dump as they are written and read.

use std::borrow::Cow;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::Counts;
use crate::decode::{Cid, Tid};
use crate::store::{
    Choice, Complete, Fact, Floor, QuarantineEntry, Record, Repair, Repo, RepoStatus, Scope,
};

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) format: u32,
    /// Before anything was read.
    pub(super) time: String,
    /// Of the build that wrote it.
    pub(super) version: String,
}

/// A row of the quarantine with its bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct QuarantineLine {
    #[serde(flatten)]
    pub(super) entry: QuarantineEntry,
    /// Base64; absent where they were dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) raw: Option<String>,
}

impl QuarantineLine {
    pub(super) fn of(entry: QuarantineEntry, raw: &[u8]) -> Self {
        let raw = (!entry.evicted).then(|| BASE64.encode(raw));
        Self { entry, raw }
    }
}

/// A choice.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChoiceLine {
    /// The list.
    pub(super) kind: String,
    pub(super) name: String,
    /// Base64.
    pub(super) body: String,
}

impl ChoiceLine {
    pub(super) fn of(choice: Choice) -> Self {
        Self {
            kind: choice.kind.as_str().to_owned(),
            name: choice.name,
            body: BASE64.encode(&choice.body),
        }
    }
}

/// A value and its version, microseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HandleCell<'a> {
    pub(super) version: u64,
    #[serde(borrow)]
    pub(super) handle: Cow<'a, str>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StatusCell {
    pub(super) version: u64,
    #[serde(flatten)]
    pub(super) status: RepoStatus,
}

/// A floor; without a collection it covers the whole repository.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FloorCell {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) collection: Option<String>,
    pub(super) version: u64,
}

impl FloorCell {
    fn of(floor: &Floor) -> Self {
        let collection = match &floor.scope {
            Scope::Repo => None,
            Scope::Collection(nsid) => Some(nsid.clone()),
        };
        Self {
            collection,
            version: floor.version,
        }
    }
}

/// A repository. What nothing is known of is absent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RepoLine<'a> {
    #[serde(borrow)]
    pub(super) did: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) handle: Option<HandleCell<'a>>,
    /// For readers only: a store asks for it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pds: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<StatusCell>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rev: Option<Tid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<CidText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) commit: Option<CidText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) complete: Option<Complete>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) floors: Vec<FloorCell>,
}

impl<'a> RepoLine<'a> {
    pub(super) fn of(repo: &'a Repo) -> Self {
        let handle = repo.handle.as_ref().map(|(version, handle)| HandleCell {
            version: *version,
            handle: handle.into(),
        });
        let status = repo.status.as_ref().map(|(version, status)| StatusCell {
            version: *version,
            status: status.clone(),
        });
        Self {
            did: (&repo.did).into(),
            handle,
            pds: repo.pds.as_deref().map(Cow::from),
            status,
            rev: repo.rev,
            data: repo.data.map(CidText),
            commit: repo.commit.map(CidText),
            complete: repo.complete.clone(),
            floors: repo.floors.iter().map(FloorCell::of).collect(),
        }
    }
}

/// A record. Bytes are base64.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RecordLine<'a> {
    #[serde(borrow)]
    pub(super) did: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) collection: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) rkey: Cow<'a, str>,
    pub(super) version: u64,
    pub(super) rev: Tid,
    pub(super) cid: CidText,
    #[serde(borrow)]
    pub(super) record: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) json: Option<Cow<'a, str>>,
}

impl<'a> RecordLine<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        Self {
            did: (&record.did).into(),
            collection: (&record.collection).into(),
            rkey: (&record.rkey).into(),
            version: record.version,
            rev: record.rev,
            cid: CidText(record.cid),
            record: BASE64.encode(&record.record).into(),
            json: record.json.as_ref().map(|json| BASE64.encode(json).into()),
        }
    }
}

/// A CID in its text form.
#[derive(Debug, Clone, Copy)]
pub(super) struct CidText(pub(super) Cid);

impl Serialize for CidText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CidText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        let cid = Cid::parse(&text);
        cid.map(Self)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no CID")))
    }
}

/// Any line.
#[derive(Debug)]
pub(super) enum Line<'a> {
    Header(Header),
    Fact(Fact),
    Repair(Repair),
    Choice(ChoiceLine),
    Quarantine(QuarantineLine),
    Repo(RepoLine<'a>),
    Record(RecordLine<'a>),
    End(Counts),
}

/// What a line begins with, before its type.
const BEGIN: &[u8] = b"{\"type\":\"";

impl<'a> Line<'a> {
    /// Writes the line, without check and line feed.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        match self {
            Self::Header(row) => tagged("penstock-dump", row, out),
            Self::Fact(row) => tagged("fact", row, out),
            Self::Repair(row) => tagged("repair", row, out),
            Self::Choice(row) => tagged("choice", row, out),
            Self::Quarantine(row) => tagged("quarantine", row, out),
            Self::Repo(row) => tagged("repo", row, out),
            Self::Record(row) => tagged("record", row, out),
            Self::End(row) => tagged("end", row, out),
        }
    }

    /// Reads a line that [`Line::write`] wrote; says what is wrong with it.
    pub(super) fn read(text: &'a [u8]) -> Result<Self, String> {
        let kind = text.strip_prefix(BEGIN).and_then(|rest| {
            let end = rest.iter().position(|byte| *byte == b'"')?;
            rest.get(..end)
        });
        let read = match kind {
            Some(b"penstock-dump") => serde_json::from_slice(text).map(Self::Header),
            Some(b"fact") => serde_json::from_slice(text).map(Self::Fact),
            Some(b"repair") => serde_json::from_slice(text).map(Self::Repair),
            Some(b"choice") => serde_json::from_slice(text).map(Self::Choice),
            Some(b"quarantine") => serde_json::from_slice(text).map(Self::Quarantine),
            Some(b"repo") => serde_json::from_slice(text).map(Self::Repo),
            Some(b"record") => serde_json::from_slice(text).map(Self::Record),
            Some(b"end") => serde_json::from_slice(text).map(Self::End),
            Some(other) => {
                let other = String::from_utf8_lossy(other.get(..40).unwrap_or(other));
                return Err(format!("a line of the unknown type {other:?}"));
            }
            None => return Err("no line of a full dump".to_owned()),
        };
        read.map_err(|error| {
            let text = error.to_string();
            // Its line is always the first: it has seen no other.
            let text = text.split(" at line 1").next().unwrap_or_default();
            format!("{text} (at byte {})", error.column())
        })
    }
}

fn tagged(kind: &str, row: &impl Serialize, out: &mut Vec<u8>) -> serde_json::Result<()> {
    out.clear();
    out.extend_from_slice(BEGIN);
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
    let before = out.len();
    serde_json::to_writer(&mut *out, row)?;
    // The brace of the row becomes the comma behind its type.
    if let Some(brace) = out.get_mut(before) {
        *brace = b',';
    }
    Ok(())
}
