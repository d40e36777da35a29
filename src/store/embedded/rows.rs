//! Rows: what the keys and values of each keyspace hold.
//!
//! ```text
//! records      DID collection rkey rank [!codec !hash(32) !json]  -> [len(4, LE) if json] record [json]
//! hints        collection newest-rkey DID rank                    -> nothing
//! ranges       DID scope !version                                 -> nothing
//! repos        DID field ...                                      -> nothing
//!   REV          !rev !data(36) !commit(36)
//!   STATUS       !version !cell
//!   HANDLE       !version !handle
//!   COMPLETE     !version !rev !filter
//!   FLOOR        scope !version
//!   PDS          !time !host
//! ```
//!
//! All that decides which write wins is in the key, so a put never overwrites a different row and puts commute. A row
//! without the part in brackets deletes.

use fjall::Slice;

use super::keys::{
    DID, RKEY, Rank, push_inverted, push_inverted_bytes, push_newest_rkey, split_collection,
    take_inverted, take_inverted_bytes,
};
use crate::decode::{Cid, Tid};
use crate::store::{Complete, RecordBody, RecordWrite, RepoStatus, RevWrite};

/// A fact of a repository that versions replace, in the order of their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Field {
    /// The greatest revision.
    Rev = 1,
    /// The newest status.
    Status = 2,
    /// The newest handle.
    Handle = 3,
    /// The last full snapshot.
    Complete = 4,
    /// Floors, by scope.
    Floor = 5,
    /// Where it lives.
    Pds = 6,
}

/// A scope that is the whole repository.
const SCOPE_REPO: u8 = 0;
/// A scope that is the collection that follows.
const SCOPE_COLLECTION: u8 = 1;

/// The key of a repository's rows.
pub(super) fn did_key(did: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    DID.push(&mut key, did);
    key
}

/// What all versions of a record have in common.
pub(super) fn record_prefix(key: &mut Vec<u8>, did: &str, collection: &[u8], rkey: &str) {
    DID.push(key, did);
    key.extend_from_slice(collection);
    RKEY.push(key, rkey);
}

/// The key of a write to a record.
pub(super) fn record_key(key: &mut Vec<u8>, collection: &[u8], write: &RecordWrite<'_>) {
    record_prefix(key, write.did, collection, write.rkey);
    rank_of(write).push(key);
    if let Some(body) = &write.body {
        key.push(!body.cid.codec());
        key.extend(body.cid.hash().map(|byte| !byte));
        key.push(!u8::from(body.json.is_some()));
    }
}

/// The value of a write to a record.
pub(super) fn record_value(scratch: &mut Vec<u8>, body: Option<&RecordBody<'_>>) -> Slice {
    let Some(body) = body else {
        return Slice::from([]);
    };
    let Some(json) = body.json else {
        return Slice::from(body.record);
    };
    scratch.clear();
    let len = u32::try_from(body.record.len()).unwrap_or(u32::MAX);
    scratch.extend_from_slice(&len.to_le_bytes());
    scratch.extend_from_slice(body.record);
    scratch.extend_from_slice(json);
    Slice::from(scratch.as_slice())
}

/// The key of the hint that goes with a write.
pub(super) fn hint_key(key: &mut Vec<u8>, collection: &[u8], write: &RecordWrite<'_>) {
    key.extend_from_slice(collection);
    push_newest_rkey(key, write.rkey);
    DID.push(key, write.did);
    rank_of(write).push(key);
}

fn rank_of(write: &RecordWrite<'_>) -> Rank {
    Rank {
        version: write.version,
        delete: write.body.is_none(),
        rev: write.rev,
    }
}

/// Splits a record's key into what its versions have in common and what they don't.
pub(super) fn split_record(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, rest) = DID.split(key)?;
    let (_, rest) = split_collection(rest)?;
    let (_, tail) = RKEY.split(rest)?;
    key.split_at_checked(key.len() - tail.len())
}

/// The CID behind the rank, and whether there is JSON.
pub(super) fn read_body(tail: &[u8]) -> Option<(Cid, bool)> {
    let (codec, rest) = tail.split_first()?;
    let (hash, rest) = rest.split_first_chunk::<32>()?;
    let [json] = rest else { return None };
    Some((Cid::new(!codec, hash.map(|byte| !byte)), !json == 1))
}

/// The record and the JSON of a value.
pub(super) fn read_value(value: &[u8], json: bool) -> Option<(&[u8], Option<&[u8]>)> {
    if !json {
        return Some((value, None));
    }
    let (len, rest) = value.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    let (record, json) = rest.split_at_checked(len)?;
    Some((record, Some(json)))
}

/// What all rows of a field of a repository have in common.
pub(super) fn field_prefix(did: &str, field: Field) -> Vec<u8> {
    let mut key = did_key(did);
    key.push(field as u8);
    key
}

/// The key of a revision.
pub(super) fn rev_key(write: &RevWrite<'_>) -> Vec<u8> {
    let mut key = field_prefix(write.did, Field::Rev);
    push_inverted(&mut key, write.rev.to_u64());
    key.extend(write.data.to_bytes().map(|byte| !byte));
    key.extend(write.commit.to_bytes().map(|byte| !byte));
    key
}

/// Reads a revision behind its field.
pub(super) fn read_rev(tail: &[u8]) -> Option<(Tid, Cid, Cid)> {
    let (rev, rest) = take_inverted(tail)?;
    let (data, rest) = rest.split_first_chunk::<{ Cid::LEN }>()?;
    let commit = rest.first_chunk::<{ Cid::LEN }>()?;
    let cid = |bytes: &[u8; Cid::LEN]| Cid::from_bytes(&bytes.map(|byte| !byte));
    Some((Tid::from_u64(rev)?, cid(data)?, cid(commit)?))
}

/// The key of a status.
pub(super) fn status_key(did: &str, version: u64, status: &RepoStatus) -> Vec<u8> {
    let mut key = field_prefix(did, Field::Status);
    push_inverted(&mut key, version);
    push_inverted_bytes(&mut key, &status.cell());
    key
}

/// Reads a status behind its field.
pub(super) fn read_status(tail: &[u8]) -> Option<(u64, RepoStatus)> {
    let (version, rest) = take_inverted(tail)?;
    let (cell, _) = take_inverted_bytes(rest)?;
    Some((version, RepoStatus::from_cell(&cell)?))
}

/// The key of a handle.
pub(super) fn handle_key(did: &str, version: u64, handle: &str) -> Vec<u8> {
    text_key(did, Field::Handle, version, handle)
}

/// The key of a host.
pub(super) fn pds_key(did: &str, time: u64, pds: &str) -> Vec<u8> {
    text_key(did, Field::Pds, time, pds)
}

fn text_key(did: &str, field: Field, version: u64, text: &str) -> Vec<u8> {
    let mut key = field_prefix(did, field);
    push_inverted(&mut key, version);
    push_inverted_bytes(&mut key, text.as_bytes());
    key
}

/// Reads a handle or a host behind its field.
pub(super) fn read_text(tail: &[u8]) -> Option<(u64, String)> {
    let (version, rest) = take_inverted(tail)?;
    let (text, _) = take_inverted_bytes(rest)?;
    Some((version, String::from_utf8(text).ok()?))
}

/// The key of the end of a full snapshot.
pub(super) fn complete_key(did: &str, complete: &Complete) -> Vec<u8> {
    let mut key = field_prefix(did, Field::Complete);
    push_inverted(&mut key, complete.version);
    push_inverted(&mut key, complete.rev.to_u64());
    push_inverted_bytes(&mut key, complete.filter.as_bytes());
    key
}

/// Reads the end of a full snapshot behind its field.
pub(super) fn read_complete(tail: &[u8]) -> Option<Complete> {
    let (version, rest) = take_inverted(tail)?;
    let (rev, rest) = take_inverted(rest)?;
    let (filter, _) = take_inverted_bytes(rest)?;
    Some(Complete {
        rev: Tid::from_u64(rev)?,
        version,
        filter: String::from_utf8(filter).ok()?,
    })
}

/// Appends a scope: the whole repository, or a collection.
pub(super) fn push_scope(key: &mut Vec<u8>, collection: Option<&[u8]>) {
    match collection {
        None => key.push(SCOPE_REPO),
        Some(code) => {
            key.push(SCOPE_COLLECTION);
            key.extend_from_slice(code);
        }
    }
}

/// Splits a key behind the scope that it starts with; the scope's collection, if it is one.
pub(super) fn take_scope(key: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    match key.split_first()? {
        (&SCOPE_REPO, rest) => Some((None, rest)),
        (&SCOPE_COLLECTION, rest) => {
            let (code, rest) = split_collection(rest)?;
            Some((Some(code), rest))
        }
        _ => None,
    }
}

/// What all rows of `repos` that replace each other have in common.
pub(super) fn repo_group(key: &[u8]) -> Option<&[u8]> {
    let (_, rest) = DID.split(key)?;
    let (field, rest) = rest.split_first()?;
    let rest = if *field == Field::Floor as u8 {
        take_scope(rest)?.1
    } else {
        rest
    };
    key.get(..key.len() - rest.len())
}

/// What all rows of `ranges` that replace each other have in common.
pub(super) fn range_group(key: &[u8]) -> Option<&[u8]> {
    let (_, rest) = DID.split(key)?;
    let (_, rest) = take_scope(rest)?;
    key.get(..key.len() - rest.len())
}
