//! Reads of one record and one repository: seeks to the newest row, and whether a range delete covers it.

use std::ops::Bound;
use std::sync::atomic::Ordering;

use fjall::{Readable, Snapshot, UserKey, UserValue};

use super::engine::Engine;
use super::keys::{DID, PACKED, Rank, TEXT, behind, take_inverted};
use super::rows::{
    Field, did_key, field_prefix, push_scope, read_body, read_complete, read_rev, read_status,
    read_text, read_value, record_prefix, take_scope,
};
use crate::store::{Fact, Floor, Health, Record, Repo, RepoStatus, Scope, StoreError};

/// The store at one moment.
pub(super) struct View<'a> {
    pub(super) engine: &'a Engine,
    pub(super) snapshot: Snapshot,
}

/// The newest write to a record, as its row has it.
pub(super) struct Newest {
    pub(super) rank: Rank,
    /// The key behind what all versions of the record have in common.
    pub(super) tail: Vec<u8>,
    pub(super) value: UserValue,
}

impl<'a> View<'a> {
    pub(super) fn of(engine: &'a Engine) -> Self {
        Self {
            engine,
            snapshot: engine.db.snapshot(),
        }
    }

    /// The first row of a keyspace in a range of keys.
    pub(super) fn first(
        &self,
        keyspace: &fjall::Keyspace,
        from: Bound<Vec<u8>>,
        to: Option<Vec<u8>>,
    ) -> Result<Option<(UserKey, UserValue)>, StoreError> {
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        let row = self.snapshot.range(keyspace, (from, to)).next();
        row.map(|row| row.into_inner().map_err(|error| self.engine.error(error)))
            .transpose()
    }

    /// The first row with a prefix: the newest one.
    pub(super) fn first_of(
        &self,
        keyspace: &fjall::Keyspace,
        prefix: &[u8],
    ) -> Result<Option<(UserKey, UserValue)>, StoreError> {
        let row = self.snapshot.prefix(keyspace, prefix).next();
        row.map(|row| row.into_inner().map_err(|error| self.engine.error(error)))
            .transpose()
    }

    /// The newest write to a record, be it a delete.
    pub(super) fn newest_write(
        &self,
        did: &str,
        collection: &[u8],
        rkey: &str,
    ) -> Result<Option<Newest>, StoreError> {
        let mut prefix = Vec::with_capacity(64);
        record_prefix(&mut prefix, did, collection, rkey);
        let Some((key, value)) = self.first_of(&self.engine.records, &prefix)? else {
            return Ok(None);
        };
        let tail = key.get(prefix.len()..).unwrap_or_default();
        self.newest_of(tail, value).map(Some)
    }

    /// A row of a record, behind what all its versions have in common.
    pub(super) fn newest_of(&self, tail: &[u8], value: UserValue) -> Result<Newest, StoreError> {
        let (rank, _) = Rank::take(tail).ok_or_else(|| self.engine.corrupt("records"))?;
        Ok(Newest {
            rank,
            tail: tail.to_vec(),
            value,
        })
    }

    /// The greatest version that a range delete covers in a collection of a repository.
    pub(super) fn cover(&self, did: &str, collection: &[u8]) -> Result<Option<u64>, StoreError> {
        let whole = self.range_version(did, None)?;
        Ok(whole.max(self.range_version(did, Some(collection))?))
    }

    fn range_version(
        &self,
        did: &str,
        collection: Option<&[u8]>,
    ) -> Result<Option<u64>, StoreError> {
        let mut prefix = did_key(did);
        push_scope(&mut prefix, collection);
        let Some((key, _)) = self.first_of(&self.engine.ranges, &prefix)? else {
            return Ok(None);
        };
        let version = key.get(prefix.len()..).and_then(take_inverted);
        let version = version.ok_or_else(|| self.engine.corrupt("ranges"))?;
        Ok(Some(version.0))
    }

    /// One record.
    pub(super) fn record(
        &self,
        did: &str,
        collection: &str,
        rkey: &str,
    ) -> Result<Option<Record>, StoreError> {
        let Some(code) = self.engine.collection(collection) else {
            return Ok(None);
        };
        let Some(newest) = self.newest_write(did, &code, rkey)? else {
            return Ok(None);
        };
        let cover = self.cover(did, &code)?;
        self.shown(did, collection, rkey, &newest, cover, true)
    }

    /// The record that a newest write leaves: none if it deletes or is covered.
    pub(super) fn shown(
        &self,
        did: &str,
        collection: &str,
        rkey: &str,
        newest: &Newest,
        cover: Option<u64>,
        values: bool,
    ) -> Result<Option<Record>, StoreError> {
        let rank = newest.rank;
        if rank.delete || cover.is_some_and(|cover| rank.version <= cover) {
            return Ok(None);
        }
        let read = || {
            let (_, body) = Rank::take(&newest.tail)?;
            let (cid, json) = read_body(body)?;
            Some((cid, read_value(&newest.value, json)?))
        };
        let (cid, (record, json)) = read().ok_or_else(|| self.engine.corrupt("records"))?;
        Ok(Some(Record {
            did: did.to_owned(),
            collection: collection.to_owned(),
            rkey: rkey.to_owned(),
            cid,
            rev: rank.rev,
            version: rank.version,
            record: if values { record.to_vec() } else { Vec::new() },
            json: json.filter(|_| values).map(<[u8]>::to_vec),
        }))
    }

    /// The newest row of a field of a repository, behind the field.
    fn field(&self, did: &str, field: Field) -> Result<Option<Vec<u8>>, StoreError> {
        let prefix = field_prefix(did, field);
        let row = self.first_of(&self.engine.repos, &prefix)?;
        Ok(row.and_then(|(key, _)| key.get(prefix.len()..).map(<[u8]>::to_vec)))
    }

    fn read_field<T>(
        &self,
        did: &str,
        field: Field,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        let tail = self.field(did, field)?;
        tail.map(|tail| read(&tail).ok_or_else(|| self.engine.corrupt("repos")))
            .transpose()
    }

    /// The newest status of a repository.
    pub(super) fn status(&self, did: &str) -> Result<Option<(u64, RepoStatus)>, StoreError> {
        self.read_field(did, Field::Status, read_status)
    }

    /// Where a repository lives, and when that was noted.
    pub(super) fn pds(&self, did: &str) -> Result<Option<(u64, String)>, StoreError> {
        self.read_field(did, Field::Pds, read_text)
    }

    /// One repository.
    pub(super) fn repo(&self, did: &str) -> Result<Option<Repo>, StoreError> {
        let mut repo = Repo {
            did: did.to_owned(),
            handle: self.read_field(did, Field::Handle, read_text)?,
            pds: self.pds(did)?.map(|(_, pds)| pds),
            status: self.status(did)?,
            complete: self.read_field(did, Field::Complete, read_complete)?,
            floors: self.floors(did)?,
            ..Repo::default()
        };
        if let Some((rev, data, commit)) = self.read_field(did, Field::Rev, read_rev)? {
            repo.rev = Some(rev);
            repo.data = Some(data);
            repo.commit = Some(commit);
        }
        let nothing = Repo {
            did: did.to_owned(),
            ..Repo::default()
        };
        Ok((repo != nothing).then_some(repo))
    }

    /// The greatest floor of each scope, in the order of scopes.
    fn floors(&self, did: &str) -> Result<Vec<Floor>, StoreError> {
        let prefix = field_prefix(did, Field::Floor);
        let end = behind(&prefix);
        let mut floors = Vec::new();
        let mut from = Bound::Included(prefix.clone());
        while let Some((key, _)) = self.first(&self.engine.repos, from, end.clone())? {
            let read = || {
                let (scope, rest) = take_scope(key.get(prefix.len()..)?)?;
                let (version, _) = take_inverted(rest)?;
                Some((scope, version, key.get(..key.len() - rest.len())?))
            };
            let (scope, version, group) = read().ok_or_else(|| self.engine.corrupt("repos"))?;
            let scope = match scope {
                None => Scope::Repo,
                Some(code) => Scope::Collection(self.engine.collection_name(code)?),
            };
            floors.push(Floor { scope, version });
            let Some(next) = behind(group) else { break };
            from = Bound::Included(next);
        }
        floors.sort();
        Ok(floors)
    }

    /// Every fact.
    pub(super) fn facts(&self) -> Result<Vec<Fact>, StoreError> {
        let rows = self.snapshot.iter(&self.engine.facts);
        let read = |row: fjall::Guard| {
            let value = row.value().map_err(|error| self.engine.error(error))?;
            serde_json::from_slice(&value).map_err(|_| self.engine.corrupt("facts"))
        };
        rows.map(read).collect()
    }

    /// The first DID with rows in a keyspace that is greater than `after` (or equal to it, with `inclusive`).
    fn did_of_form(
        &self,
        keyspace: &fjall::Keyspace,
        form: u8,
        after: &str,
        inclusive: bool,
    ) -> Result<Option<String>, StoreError> {
        let Some(from) = DID.lower_bound(form, after, inclusive) else {
            return Ok(None);
        };
        let row = self.first(keyspace, Bound::Included(from), Some(vec![form + 1]))?;
        let Some((key, _)) = row else { return Ok(None) };
        let did = DID.split(&key).and_then(|(did, _)| DID.text(did));
        did.map(Some).ok_or_else(|| self.engine.corrupt("DIDs"))
    }
}

/// The DIDs of a keyspace in the order of their texts: two ranges of keys, merged.
pub(super) struct Dids<'a> {
    keyspace: &'a fjall::Keyspace,
    text: Option<String>,
    packed: Option<String>,
}

impl<'a> Dids<'a> {
    /// The DIDs beyond `after` (or from it on, with `inclusive`).
    pub(super) fn from(
        view: &View<'_>,
        keyspace: &'a fjall::Keyspace,
        after: &str,
        inclusive: bool,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            keyspace,
            text: view.did_of_form(keyspace, TEXT, after, inclusive)?,
            packed: view.did_of_form(keyspace, PACKED, after, inclusive)?,
        })
    }

    pub(super) fn next(&mut self, view: &View<'_>) -> Result<Option<String>, StoreError> {
        let text_first = match (&self.text, &self.packed) {
            (Some(text), Some(packed)) => text < packed,
            (text, _) => text.is_some(),
        };
        let (slot, form) = if text_first {
            (&mut self.text, TEXT)
        } else {
            (&mut self.packed, PACKED)
        };
        let Some(did) = slot.take() else {
            return Ok(None);
        };
        *slot = view.did_of_form(self.keyspace, form, &did, false)?;
        Ok(Some(did))
    }
}

/// How the database is, without asking the writer.
pub(super) fn health(
    engine: &Engine,
    trouble: Option<String>,
    min_free: u64,
) -> Result<Health, StoreError> {
    Ok(Health {
        trouble,
        repairs: engine.repair_counts(),
        quarantine_bytes: engine.quarantine_bytes.load(Ordering::Relaxed),
        disk_bytes: Some(
            engine
                .db
                .disk_space()
                .map_err(|error| engine.error(error))?,
        ),
        free_bytes: Some(engine.folder.free_bytes()?),
        min_free_bytes: Some(min_free),
    })
}
