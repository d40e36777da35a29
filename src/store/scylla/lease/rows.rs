//! The rows of `workers`, and the transactions on them.

use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::response::query_result::QueryRowsResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use scylla::value::CqlTimestamp;

use super::super::changes::applied;
use super::super::session::explain;
use super::LeaseOptions;
use crate::store::StoreError;

/// Shortest time that a request gets.
const REQUEST_MIN: Duration = Duration::from_millis(500);

/// A worker as it stands in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which worker.
    pub worker_id: u32,
    /// Of how many.
    pub count: u32,
    /// The machine and the data directory.
    pub holder: String,
    /// The process.
    pub session: String,
    /// When it was taken, milliseconds.
    pub since: u64,
}

impl Row {
    /// When it was taken, for people.
    pub fn since_text(&self) -> String {
        let millis = i64::try_from(self.since).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(millis);
        time.map(|time| format!("{time:.0}")).unwrap_or_default()
    }
}

/// As a driver gives a row; a column is null only where somebody else writes this table.
type Cells = (
    i32,
    Option<i32>,
    Option<String>,
    Option<String>,
    Option<CqlTimestamp>,
);

fn row((id, count, holder, session, since): Cells) -> Row {
    let number = |number: i32| u32::try_from(number).unwrap_or_default();
    Row {
        worker_id: number(id),
        count: number(count.unwrap_or_default()),
        holder: holder.unwrap_or_default(),
        session: session.unwrap_or_default(),
        since: since.map_or(0, |since| u64::try_from(since.0).unwrap_or_default()),
    }
}

/// The requests on the table.
pub(super) struct Rows {
    session: Arc<Session>,
    one: PreparedStatement,
    all: PreparedStatement,
    insert: PreparedStatement,
    update: PreparedStatement,
    delete: PreparedStatement,
}

impl Rows {
    /// Prepares them.
    pub async fn prepare(
        session: Arc<Session>,
        keyspace: &str,
        options: &LeaseOptions,
    ) -> Result<Self, StoreError> {
        let table = format!("{keyspace}.workers");
        let columns = "worker_id, worker_count, holder, session, since";
        let serial = match options.serial {
            SerialConsistency::Serial => Consistency::Serial,
            SerialConsistency::LocalSerial => Consistency::LocalSerial,
        };
        let prepare = async |text: String, consistency: Consistency| {
            let prepared = session.prepare(text).await;
            let mut prepared = prepared.map_err(|error| unavailable(&error))?;
            prepared.set_consistency(consistency);
            prepared.set_serial_consistency(Some(options.serial));
            // A transaction whose answer is lost may have been applied: it is read back, not sent again.
            prepared.set_is_idempotent(false);
            prepared.set_request_timeout(Some((options.ttl / 6).max(REQUEST_MIN)));
            Ok::<_, StoreError>(prepared)
        };
        let level = options.consistency;
        let one = format!("SELECT {columns} FROM {table} WHERE worker_id = ?");
        let all = format!("SELECT {columns} FROM {table}");
        let insert = format!(
            "INSERT INTO {table} ({columns}) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS USING TTL ?"
        );
        let update = format!(
            "UPDATE {table} USING TTL ? SET worker_count = ?, holder = ?, session = ?, since = ? WHERE worker_id = ? IF \
             session = ?"
        );
        let delete = format!("DELETE FROM {table} WHERE worker_id = ? IF session = ?");
        Ok(Self {
            one: prepare(one, serial).await?,
            all: prepare(all, level).await?,
            insert: prepare(insert, level).await?,
            update: prepare(update, level).await?,
            delete: prepare(delete, level).await?,
            session,
        })
    }

    /// One worker's row, after every transaction on it.
    pub async fn one(&self, worker_id: u32) -> Result<Option<Row>, StoreError> {
        let rows = self.send(&self.one, &(cql(worker_id),)).await?;
        let found = rows.maybe_first_row::<Cells>();
        Ok(found.map_err(|error| unavailable(&error))?.map(row))
    }

    /// All rows.
    pub async fn all(&self) -> Result<Vec<Row>, StoreError> {
        let rows = self.send(&self.all, &()).await?;
        let cells = rows.rows::<Cells>().map_err(|error| unavailable(&error))?;
        cells
            .map(|cells| cells.map(row).map_err(|error| unavailable(&error)))
            .collect()
    }

    /// Writes a row where none is; whether it did.
    pub async fn insert(&self, row: &Row, ttl: i32) -> Result<bool, StoreError> {
        let (count, since) = (cql(row.count), time(row.since));
        let values = (
            cql(row.worker_id),
            count,
            &row.holder,
            &row.session,
            since,
            ttl,
        );
        self.applied(&self.insert, &values).await
    }

    /// Writes over the row of this session; whether it did.
    pub async fn update(&self, row: &Row, session: &str, ttl: i32) -> Result<bool, StoreError> {
        let (count, since) = (cql(row.count), time(row.since));
        let id = cql(row.worker_id);
        let values = (ttl, count, &row.holder, &row.session, since, id, session);
        self.applied(&self.update, &values).await
    }

    /// Deletes the row if it is this one's; whether it did.
    pub async fn delete(&self, row: &Row) -> Result<bool, StoreError> {
        let values = (cql(row.worker_id), &row.session);
        self.applied(&self.delete, &values).await
    }

    /// Sends a transaction; whether its condition held.
    async fn applied(
        &self,
        statement: &PreparedStatement,
        values: &(impl SerializeRow + Sync),
    ) -> Result<bool, StoreError> {
        let rows = self.send(statement, values).await?;
        applied(&rows).ok_or_else(|| {
            StoreError::Unavailable(
                "a transaction on workers was answered without [applied]".to_owned(),
            )
        })
    }

    async fn send(
        &self,
        statement: &PreparedStatement,
        values: &(impl SerializeRow + Sync),
    ) -> Result<QueryRowsResult, StoreError> {
        let answer = self.session.execute_unpaged(statement, values).await;
        let answer = answer.map_err(|error| unavailable(&error))?;
        answer
            .into_rows_result()
            .map_err(|error| unavailable(&error))
    }
}

fn unavailable(error: &dyn std::error::Error) -> StoreError {
    StoreError::Unavailable(format!(
        "the lease in workers: {}",
        explain(&error.to_string())
    ))
}

fn cql(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn time(millis: u64) -> CqlTimestamp {
    CqlTimestamp(i64::try_from(millis).unwrap_or(i64::MAX))
}
