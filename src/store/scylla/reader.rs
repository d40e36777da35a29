//! Reading: pages of rows, and the rows that a key names.
//!
//! What a row says is checked here. A row that can't be what we wrote is an error that names the table and the key, so that
//! the operator finds it.

use std::ops::ControlFlow;
use std::sync::Arc;

use scylla::DeserializeValue;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::PagingState;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;

use super::read_statements::ReadStatements;
use super::requests::Requests;
use super::session::explain;
use crate::decode::{Cid, Tid};
use crate::slot::SlotSet;
use crate::store::{Complete, Fact, FactKind, Floor, Record, Repo, RepoStatus, Scope, StoreError};

/// Rows of a page of the ledger.
const FACTS: usize = 2000;

/// All that reads.
pub(super) struct Reader {
    pub requests: Arc<Requests>,
    pub statements: Arc<ReadStatements>,
    /// Whether `records_by_collection` is kept.
    pub index: bool,
    /// The slots whose rows are counted, swept and evicted here.
    pub slots: SlotSet,
    /// Bytes of frames that the quarantine holds, over all slots.
    pub quarantine_max_bytes: u64,
}

/// A question whose answer comes in pages.
pub(super) struct Ask<'a, V> {
    pub table: &'static str,
    pub statement: &'a PreparedStatement,
    pub values: V,
    /// Rows of a page.
    pub rows: usize,
}

/// A page of rows, and where the next one starts.
pub(super) type Rows<R> = (Vec<R>, Option<PagingState>);

/// A row that owns what it holds.
pub(super) trait Row: for<'f> DeserializeRow<'f, 'f> + Send {}

impl<R: for<'f> DeserializeRow<'f, 'f> + Send> Row for R {}

/// A row of a record without its bytes: did, collection, rkey, version, rev, CID.
pub(super) type HeadRow = (
    String,
    String,
    String,
    Option<i64>,
    Option<String>,
    Option<Vec<u8>>,
);

/// The same with its bytes: record, JSON.
pub(super) type RecordRow = (
    String,
    String,
    String,
    Option<i64>,
    Option<String>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<String>,
);

/// A row of `repos`: did, handle, pds, status, head, complete, floors, with versions before what has one.
pub(super) type RepoRow = (
    String,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<StatusValue>,
    Option<HeadValue>,
    Option<SnapshotValue>,
    Option<Vec<(String, i64)>>,
);

/// (active, why not).
type StatusValue = (Option<bool>, Option<String>);

/// `repo_head`.
#[derive(DeserializeValue)]
pub(super) struct HeadValue {
    rev: String,
    data: Vec<u8>,
    commit: Vec<u8>,
}

/// `repo_snapshot`.
#[derive(DeserializeValue)]
pub(super) struct SnapshotValue {
    version: i64,
    rev: String,
    filter: String,
}

type FactRow = (
    String,
    i32,
    i64,
    i64,
    i64,
    i64,
    i64,
    Vec<u8>,
    String,
    String,
);

/// A row that is not what we write.
pub(super) fn broken(table: &str, key: &str) -> StoreError {
    StoreError::Failed(format!(
        "the row {key:?} of {table} is not what was written; nothing was changed; delete it or restore it from a backup"
    ))
}

/// Rows that can't be read as what the table holds.
fn unread(table: &str, error: &impl std::fmt::Display) -> StoreError {
    StoreError::Failed(format!(
        "a row of {table} can't be read: {}",
        explain(&error.to_string())
    ))
}

/// A number that is never negative.
pub(super) fn natural(number: i64) -> Option<u64> {
    u64::try_from(number).ok()
}

pub(super) fn tid(text: &str) -> Option<Tid> {
    Tid::parse(text.as_bytes())
}

impl Reader {
    /// One page of an answer.
    pub(super) async fn page<R: Row, V: SerializeRow + Sync>(
        &self,
        ask: &Ask<'_, V>,
        paging: PagingState,
    ) -> Result<Rows<R>, StoreError> {
        let mut statement = ask.statement.clone();
        statement.set_page_size(i32::try_from(ask.rows.max(1)).unwrap_or(i32::MAX));
        let (answer, next) = self
            .requests
            .read_page(&statement, &ask.values, paging)
            .await?;
        let answer = answer
            .into_rows_result()
            .map_err(|error| unread(ask.table, &error))?;
        let rows = answer
            .rows::<R>()
            .map_err(|error| unread(ask.table, &error))?;
        let rows: Result<Vec<R>, _> = rows.collect();
        let rows = rows.map_err(|error| unread(ask.table, &error))?;
        let next = match next.into_paging_control_flow() {
            ControlFlow::Break(()) => None,
            ControlFlow::Continue(next) => Some(next),
        };
        Ok((rows, next))
    }

    /// The row of a key.
    pub(super) async fn row<R: Row>(
        &self,
        table: &'static str,
        statement: &PreparedStatement,
        values: &(impl SerializeRow + Sync),
    ) -> Result<Option<R>, StoreError> {
        let answer = self.requests.read(statement, values).await?;
        let answer = answer
            .into_rows_result()
            .map_err(|error| unread(table, &error))?;
        let row = answer.maybe_first_row::<R>();
        row.map_err(|error| unread(table, &error))
    }

    /// One record.
    pub(super) async fn record(
        &self,
        did: &str,
        collection: &str,
        rkey: &str,
    ) -> Result<Option<Record>, StoreError> {
        if did.is_empty() {
            return Ok(None); // no key of a partition
        }
        let key = (did, collection, rkey);
        let row = self.row("records", &self.statements.record, &key).await?;
        row.map(read_record).transpose()
    }

    /// One record without its bytes.
    pub(super) async fn record_head(
        &self,
        did: &str,
        collection: &str,
        rkey: &str,
    ) -> Result<Option<Record>, StoreError> {
        let key = (did, collection, rkey);
        let statement = &self.statements.record_head;
        let row = self.row("records", statement, &key).await?;
        row.map(read_head).transpose()
    }

    /// One repository.
    pub(super) async fn repo(&self, did: &str) -> Result<Option<Repo>, StoreError> {
        if did.is_empty() {
            return Ok(None);
        }
        let row = self.row("repos", &self.statements.repo, &(did,)).await?;
        row.map(read_repo).transpose()
    }

    /// The newest status of a repository and its version.
    pub(super) async fn status(&self, did: &str) -> Result<Option<(u64, RepoStatus)>, StoreError> {
        if did.is_empty() {
            return Ok(None);
        }
        type Versioned = (Option<i64>, Option<StatusValue>);
        let statement = &self.statements.status;
        let row: Option<Versioned> = self.row("repos", statement, &(did,)).await?;
        let (version, status) = row.unwrap_or_default();
        read_status(version, status).ok_or_else(|| broken("repos", did))
    }

    /// Every fact, in the order of its key.
    pub(super) async fn facts(&self) -> Result<Vec<Fact>, StoreError> {
        let ask = Ask {
            table: "ledger",
            statement: &self.statements.facts,
            values: (),
            rows: FACTS,
        };
        let mut facts = Vec::new();
        let mut paging = Some(PagingState::start());
        while let Some(from) = paging {
            let (rows, next) = self.page::<FactRow, _>(&ask, from).await?;
            for row in rows {
                facts.push(read_fact(row)?);
            }
            paging = next;
        }
        let key = |fact: &Fact| (fact.relay.clone(), fact.generation, fact.run, fact.from_seq);
        facts.sort_by_cached_key(key);
        Ok(facts)
    }
}

/// A record of a row without its bytes.
pub(super) fn read_head(row: HeadRow) -> Result<Record, StoreError> {
    let (did, collection, rkey, version, rev, cid) = row;
    let read = || {
        Some((
            natural(version?)?,
            tid(rev.as_deref()?)?,
            Cid::from_bytes(cid.as_deref()?)?,
        ))
    };
    let Some((version, rev, cid)) = read() else {
        return Err(broken("records", &format!("{did}/{collection}/{rkey}")));
    };
    Ok(Record {
        did,
        collection,
        rkey,
        cid,
        rev,
        version,
        record: Vec::new(),
        json: None,
    })
}

/// A record of a row.
pub(super) fn read_record(row: RecordRow) -> Result<Record, StoreError> {
    let (did, collection, rkey, version, rev, cid, bytes, json) = row;
    let mut record = read_head((did, collection, rkey, version, rev, cid))?;
    let Some(bytes) = bytes else {
        let key = format!("{}/{}/{}", record.did, record.collection, record.rkey);
        return Err(broken("records", &key));
    };
    record.record = bytes;
    record.json = json.map(String::into_bytes);
    Ok(record)
}

/// A repository of a row.
pub(super) fn read_repo(row: RepoRow) -> Result<Repo, StoreError> {
    let did = row.0.clone();
    repo_of(row).ok_or_else(|| broken("repos", &did))
}

fn repo_of(row: RepoRow) -> Option<Repo> {
    let (did, handle_version, handle, pds, status_version, status, head, complete, floors) = row;
    let handle = match handle {
        Some(handle) => Some((natural(handle_version?)?, handle)),
        None => None,
    };
    let mut repo = Repo {
        did,
        handle,
        pds,
        status: read_status(status_version, status)?,
        ..Repo::default()
    };
    if let Some(head) = head {
        repo.rev = Some(tid(&head.rev)?);
        repo.data = Some(Cid::from_bytes(&head.data)?);
        repo.commit = Some(Cid::from_bytes(&head.commit)?);
    }
    if let Some(complete) = complete {
        repo.complete = Some(Complete {
            rev: tid(&complete.rev)?,
            version: natural(complete.version)?,
            filter: complete.filter,
        });
    }
    for (scope, version) in floors.unwrap_or_default() {
        let scope = match scope.as_str() {
            "" => Scope::Repo,
            _ => Scope::Collection(scope),
        };
        let version = natural(version)?;
        repo.floors.push(Floor { scope, version });
    }
    repo.floors.sort();
    Some(repo)
}

/// A status of its columns; the outer `None`: they are not what was written.
fn read_status(
    version: Option<i64>,
    status: Option<StatusValue>,
) -> Option<Option<(u64, RepoStatus)>> {
    let Some((active, status)) = status else {
        return Some(None);
    };
    let active = active?;
    Some(Some((natural(version?)?, RepoStatus { active, status })))
}

fn read_fact(row: FactRow) -> Result<Fact, StoreError> {
    let key = format!("{}/{}/{}/{}", row.0, row.1, row.2, row.3);
    fact_of(row).ok_or_else(|| broken("ledger", &key))
}

fn fact_of(row: FactRow) -> Option<Fact> {
    let (relay, generation, run, from_seq, to_seq, from_time, to_time, slots, filter, kind) = row;
    let kind: FactKind = serde_json::from_value(serde_json::Value::String(kind)).ok()?;
    Some(Fact {
        relay,
        generation: u32::try_from(generation).ok()?,
        run: natural(run)?,
        from_seq: natural(from_seq)?,
        to_seq: natural(to_seq)?,
        from_time: natural(from_time)?,
        to_time: natural(to_time)?,
        slots: SlotSet::from_bytes(slots.try_into().ok()?),
        filter,
        kind,
    })
}
