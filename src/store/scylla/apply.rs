//! A batch as statements: what belongs together one after the other, all else at once.
//!
//! Every write carries its version as its timestamp, so a batch that was applied in part is simply applied again. Only
//! the order within one record matters to readers: its hint comes after it, or the sweeper would take it for stale.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use scylla::errors::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::RowWriter;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use tokio::sync::Semaphore;

use super::ScyllaOptions;
use super::cells::{HeadCell, RecordCell, StatusCell};
use super::changes::{Stamps, Stripes, TableIds, first, signed};
use super::hints::{Hint, Months};
use super::jobs::{Job, jobs};
use super::requests::Requests;
use super::statements::Statements;
use crate::store::{
    HandleWrite, RecordWrite, RevWrite, StatusWrite, StoreError, WriteBatch, check_batch,
};

/// Jobs of one batch at once; the limiter decides how many requests there are.
const AT_ONCE: usize = 256;
/// Partitions of hints of one job at once: mostly there is one.
const HINTS_AT_ONCE: usize = 4;

/// Writes: batches, and what changes whole repositories (`changes`), repairs and the quarantine (`questions`).
pub(super) struct Writes {
    pub(super) requests: Arc<Requests>,
    pub(super) statements: Arc<Statements>,
    /// How long an acknowledged write may still be lost.
    pub(super) sync_lag: Duration,
    pub(super) stamps: Stamps,
    /// One for each job of any batch that runs: what waits for the database takes memory, some 10 KiB each.
    places: Semaphore,
    /// One writer at a time of a status.
    statuses: Stripes,
    /// One writer at a time of a repair or a row of the quarantine. Taken after `statuses`, never before.
    pub(super) questions: Stripes,
    /// Whether `records_by_collection` is kept.
    index: bool,
    months: Months,
    pub(super) keyspace: String,
    /// The tables as they were at the start.
    pub(super) tables: TableIds,
}

/// The values of a record's statement.
enum RecordRow<'a> {
    /// did, collection, rkey, value, timestamp.
    Put(&'a str, &'a str, &'a str, RecordCell<'a>, i64),
    /// timestamp, did, collection, rkey.
    Delete(i64, &'a str, &'a str, &'a str),
}

impl Writes {
    /// Writes with these statements into these tables.
    pub fn new(
        requests: Arc<Requests>,
        statements: Arc<Statements>,
        tables: TableIds,
        options: &ScyllaOptions,
    ) -> Self {
        Self {
            places: Semaphore::new(options.in_flight.clamp(1, Semaphore::MAX_PERMITS)),
            keyspace: options.keyspace.to_lowercase(),
            tables,
            requests,
            statements,
            sync_lag: options.sync_lag,
            stamps: Stamps::default(),
            statuses: Stripes::new(),
            questions: Stripes::new(),
            index: options.index,
            months: Months::default(),
        }
    }

    /// Applies a batch; a record that the servers never take goes to the quarantine, with a repair.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] if the batch can't be held by any store, or if the servers never take a row of it that is
    /// no record; [`StoreError::Closed`]. The batch may then be written in part, and can be applied again.
    pub async fn apply(&self, batch: &WriteBatch) -> Result<(), StoreError> {
        check_batch(batch)?;
        let mut running = FuturesUnordered::new();
        for job in jobs(batch) {
            let place = self.places.acquire();
            tokio::pin!(place);
            let place = loop {
                tokio::select! {
                    place = &mut place => break place.map_err(|_| StoreError::Closed)?,
                    // What runs must not wait for what does not yet.
                    Some(done) = running.next() => done?,
                }
            };
            running.push(async move {
                let _place = place;
                self.run(job).await
            });
            if running.len() >= AT_ONCE {
                running.next().await.transpose()?;
            }
        }
        while let Some(done) = running.next().await {
            done?;
        }
        Ok(())
    }

    async fn run(&self, job: Job<'_>) -> Result<(), StoreError> {
        match job {
            Job::Records(writes) => self.put_records(&writes).await,
            Job::Head(write) => self.put_head(&write).await,
            Job::Handle(write) => self.put_handle(write).await,
            Job::Statuses(writes) => self.put_statuses(&writes).await,
            Job::Repair(repair) => self.put_repair(repair).await,
            Job::Quarantined(row) => self.put_quarantined(row).await,
        }
    }

    /// Records of one partition, then their hints.
    async fn put_records(&self, writes: &[RecordWrite<'_>]) -> Result<(), StoreError> {
        let rows: Vec<RecordRow<'_>> =
            writes.iter().map(RecordRow::of).collect::<Result<_, _>>()?;
        let refused = match self
            .write_rows("records", &rows, |row| self.record_statement(row))
            .await
        {
            Ok(()) => Vec::new(),
            Err(StoreError::Refused(words)) => self.put_each(writes, &rows, words).await?,
            Err(error) => return Err(error),
        };
        if self.index {
            let taken = writes
                .iter()
                .zip(0..)
                .filter(|(_, at)| !refused.contains(at));
            let hints = taken.map(|(write, _)| Hint::of(write));
            self.put_hints(hints.collect::<Result<_, _>>()?).await?;
        }
        Ok(())
    }

    /// Finds out which records are refused, and sets those aside; gives their places.
    async fn put_each(
        &self,
        writes: &[RecordWrite<'_>],
        rows: &[RecordRow<'_>],
        words: String,
    ) -> Result<Vec<usize>, StoreError> {
        if let [write] = writes {
            self.set_aside(write, &words).await?;
            return Ok(vec![0]);
        }
        let mut refused = Vec::new();
        for ((at, write), row) in writes.iter().enumerate().zip(rows) {
            let statement = self.record_statement(row);
            match self.requests.write("records", statement, row).await {
                Ok(()) => {}
                Err(StoreError::Refused(words)) => {
                    self.set_aside(write, &words).await?;
                    refused.push(at);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    fn record_statement(&self, row: &RecordRow<'_>) -> &PreparedStatement {
        match row {
            RecordRow::Put(..) => &self.statements.put_record,
            RecordRow::Delete(..) => &self.statements.delete_record,
        }
    }

    /// Hints of one repository, those of one partition together.
    async fn put_hints(&self, hints: Vec<Hint<'_>>) -> Result<(), StoreError> {
        let mut partitions: HashMap<(&str, i32), Vec<Hint<'_>>> = HashMap::new();
        for hint in hints {
            let key = (hint.collection, hint.month);
            partitions.entry(key).or_default().push(hint);
        }
        let mut running = FuturesUnordered::new();
        for ((collection, month), hints) in partitions {
            running.push(self.put_hints_of(collection, month, hints));
            if running.len() >= HINTS_AT_ONCE {
                running.next().await.transpose()?;
            }
        }
        while let Some(done) = running.next().await {
            done?;
        }
        Ok(())
    }

    async fn put_hints_of(
        &self,
        collection: &str,
        month: i32,
        hints: Vec<Hint<'_>>,
    ) -> Result<(), StoreError> {
        let statement = |hint: &Hint<'_>| match hint.cid {
            Some(_) => &self.statements.put_hint,
            None => &self.statements.delete_hint,
        };
        self.write_rows("records_by_collection", &hints, statement)
            .await?;
        let puts = hints.iter().any(|hint| hint.cid.is_some());
        // Asked only now: while the hints waited the tables may have been made anew.
        let losses = self.requests.losses();
        if puts && !self.months.has(collection, month, losses) {
            let statement = &self.statements.put_month;
            self.requests
                .write("collection_months", statement, (collection, month))
                .await?;
            self.months.add(collection, month);
        }
        Ok(())
    }

    /// Rows of one partition: one on its own, several as one mutation.
    async fn write_rows<'s, R: SerializeRow>(
        &'s self,
        table: &'static str,
        rows: &[R],
        statement: impl Fn(&R) -> &'s PreparedStatement,
    ) -> Result<(), StoreError> {
        if let [row] = rows {
            return self.requests.write(table, statement(row), row).await;
        }
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        for row in rows {
            let statement = statement(row);
            if let Some(consistency) = statement.get_consistency() {
                batch.set_consistency(consistency);
            }
            batch.append_statement(statement.clone());
        }
        self.requests.batch(table, &batch, rows).await
    }

    async fn put_head(&self, write: &RevWrite<'_>) -> Result<(), StoreError> {
        let timestamp = signed("rev", write.rev.micros())?;
        let values = (timestamp, HeadCell::of(write), write.did);
        let statement = &self.statements.put_head;
        self.requests.write("repos", statement, values).await
    }

    async fn put_handle(&self, write: &HandleWrite) -> Result<(), StoreError> {
        let timestamp = signed("time", write.version)?;
        let values = (timestamp, &write.handle, &write.did);
        let statement = &self.statements.put_handle;
        self.requests.write("repos", statement, values).await
    }

    /// Statuses of one DID, each after what it asks of the one before.
    async fn put_statuses(&self, writes: &[&StatusWrite]) -> Result<(), StoreError> {
        let Some(first) = writes.first() else {
            return Ok(());
        };
        let _alone = self.statuses.lock(&first.did).await;
        for write in writes {
            // The repairs come first: once the status is there, another attempt would find nothing to ask.
            if write.repair_if_stale.is_some() || write.repair_if_reactivated.is_some() {
                self.ask(write).await?;
            }
            let timestamp = signed("time", write.version)?;
            let values = (timestamp, StatusCell(&write.status), &write.did);
            let statement = &self.statements.put_status;
            self.requests.write("repos", statement, values).await?;
        }
        Ok(())
    }

    /// Puts what the stored status makes questionable of this one.
    async fn ask(&self, write: &StatusWrite) -> Result<(), StoreError> {
        let statement = &self.statements.read_status;
        let answer = self
            .requests
            .read_to_write("repos", statement, (&write.did,))
            .await?;
        type Status = (Option<(bool, Option<String>)>, Option<i64>);
        let Some((Some((active, status)), Some(version))) = first::<Status>(answer)? else {
            return Ok(());
        };
        let ours = signed("time", write.version)?;
        let same =
            version == ours && (active, &status) == (write.status.active, &write.status.status);
        if let Some(repair) = &write.repair_if_stale
            && version >= ours
            && !same
        {
            self.put_repair(repair).await?;
        }
        if let Some(repair) = &write.repair_if_reactivated
            && write.tells_reactivation(u64::try_from(version).unwrap_or_default(), active)
        {
            self.put_repair(repair).await?;
        }
        Ok(())
    }
}

impl<'a> RecordRow<'a> {
    fn of(write: &RecordWrite<'a>) -> Result<Self, StoreError> {
        let (did, collection, rkey) = (write.did, write.collection, write.rkey);
        let timestamp = signed("version", write.version)?;
        Ok(match write.body {
            Some(body) => {
                let cell = RecordCell {
                    rev: write.rev,
                    body,
                };
                Self::Put(did, collection, rkey, cell, timestamp)
            }
            None => Self::Delete(timestamp, did, collection, rkey),
        })
    }
}

impl SerializeRow for RecordRow<'_> {
    fn serialize(
        &self,
        ctx: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        match self {
            Self::Put(did, collection, rkey, cell, timestamp) => {
                (did, collection, rkey, cell, timestamp).serialize(ctx, writer)
            }
            Self::Delete(timestamp, did, collection, rkey) => {
                (timestamp, did, collection, rkey).serialize(ctx, writer)
            }
        }
    }

    fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, F: Future>(_: impl FnOnce(&'static Writes, A) -> F) -> usize {
        size_of::<F>()
    }

    /// docs/architecture.md adds up the memory of writes on their way by these.
    #[test]
    fn jobs_that_wait_are_small() {
        let job = size(|writes, job: Job<'static>| writes.run(job));
        let hints = size(|writes, hints| writes.put_hints_of("", 0, hints));
        assert!(job <= 12 << 10, "{job}");
        assert!(hints <= 10 << 10, "{hints}");
    }
}
