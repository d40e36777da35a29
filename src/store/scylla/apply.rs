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

use super::cells::{HeadCell, RecordCell, StatusCell};
use super::changes::{Stamps, Stripes, signed};
use super::hints::{Hint, Months};
use super::requests::Requests;
use super::statements::Statements;
use crate::slot::place;
use crate::store::{
    HandleWrite, Quarantined, RecordWrite, Repair, RevWrite, StatusWrite, StoreError, WriteBatch,
    check_batch,
};

/// Most bytes of one partition that are written at once: what a server takes without a warning, for one mutation.
const BATCH_BYTES: usize = 64 << 10;
/// What a row has beside its texts and bytes.
const ROW_BYTES: usize = 128;
/// Jobs of one batch at once; the limiter decides how many requests there are.
const AT_ONCE: usize = 256;

/// Writes: batches, and what changes whole repositories (`changes`), repairs and the quarantine (`questions`).
pub(super) struct Writes {
    pub(super) requests: Arc<Requests>,
    pub(super) statements: Arc<Statements>,
    pub(super) sync_lag: Duration,
    pub(super) stamps: Stamps,
    /// One writer at a time of a status.
    statuses: Stripes,
    /// One writer at a time of a repair or a row of the quarantine. Taken after `statuses`, never before.
    pub(super) questions: Stripes,
    /// Whether `records_by_collection` is kept.
    index: bool,
    months: Months,
}

/// What can be written on its own.
enum Job<'a> {
    /// Of one partition.
    Records(Vec<RecordWrite<'a>>),
    Head(RevWrite<'a>),
    Handle(&'a HandleWrite),
    /// Of one DID, in the order of the batch.
    Statuses(Vec<&'a StatusWrite>),
    Repair(&'a Repair),
    Quarantined(&'a Quarantined),
}

/// The values of a record's statement.
enum RecordRow<'a> {
    /// did, collection, rkey, value, timestamp.
    Put(&'a str, &'a str, &'a str, RecordCell<'a>, i64),
    /// timestamp, did, collection, rkey.
    Delete(i64, &'a str, &'a str, &'a str),
}

impl Writes {
    /// Writes with these statements; `index`: whether `records_by_collection` is kept; `sync_lag`: how long an
    /// acknowledged write may still be lost.
    pub fn new(
        requests: Arc<Requests>,
        statements: Arc<Statements>,
        index: bool,
        sync_lag: Duration,
    ) -> Self {
        Self {
            requests,
            statements,
            sync_lag,
            stamps: Stamps::default(),
            statuses: Stripes::new(),
            questions: Stripes::new(),
            index,
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
            running.push(self.run(job));
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
        let puts = hints.iter().any(|hint| hint.cid.is_some());
        if puts && !self.months.has(collection, month) {
            let statement = &self.statements.put_month;
            self.requests
                .write("collection_months", statement, (collection, month))
                .await?;
            self.months.add(collection, month);
        }
        let statement = |hint: &Hint<'_>| match hint.cid {
            Some(_) => &self.statements.put_hint,
            None => &self.statements.delete_hint,
        };
        self.write_rows("records_by_collection", &hints, statement)
            .await
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
            // The repair comes first: once the status is there, another attempt would find nothing stale.
            if let Some(repair) = &write.repair_if_stale
                && self.is_stale(write).await?
            {
                self.put_repair(repair).await?;
            }
            let timestamp = signed("time", write.version)?;
            let values = (timestamp, StatusCell(&write.status), &write.did);
            let statement = &self.statements.put_status;
            self.requests.write("repos", statement, values).await?;
        }
        Ok(())
    }

    /// Whether the stored status is not older than this one and differs from it.
    async fn is_stale(&self, write: &StatusWrite) -> Result<bool, StoreError> {
        let statement = &self.statements.read_status;
        let answer = self
            .requests
            .read_to_write("repos", statement, (&write.did,))
            .await?;
        type Status = (Option<(bool, Option<String>)>, Option<i64>);
        let Some((Some((active, status)), Some(version))) =
            super::changes::first::<Status>(answer)?
        else {
            return Ok(false);
        };
        let ours = signed("time", write.version)?;
        let same =
            version == ours && (active, &status) == (write.status.active, &write.status.status);
        Ok(version >= ours && !same)
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

/// What a batch asks for.
fn jobs(batch: &WriteBatch) -> Vec<Job<'_>> {
    let mut jobs: Vec<Job<'_>> = partitions(batch).into_iter().map(Job::Records).collect();
    let mut heads: HashMap<&str, RevWrite<'_>> = HashMap::new();
    for write in batch.revs() {
        let newest = heads.entry(write.did).or_insert(write);
        if order(&write) > order(newest) {
            *newest = write;
        }
    }
    jobs.extend(heads.into_values().map(Job::Head));
    let mut statuses: HashMap<&str, Vec<&StatusWrite>> = HashMap::new();
    for write in batch.statuses() {
        statuses.entry(&write.did).or_default().push(write);
    }
    jobs.extend(statuses.into_values().map(Job::Statuses));
    jobs.extend(batch.handles().iter().map(Job::Handle));
    jobs.extend(batch.repairs().iter().map(Job::Repair));
    jobs.extend(batch.quarantined().iter().map(Job::Quarantined));
    jobs
}

/// The order in which heads win.
fn order(write: &RevWrite<'_>) -> impl Ord + use<> {
    (write.rev, write.data.to_bytes(), write.commit.to_bytes())
}

/// The records, those of one DID that follow each other together, as far as they fit.
fn partitions(batch: &WriteBatch) -> Vec<Vec<RecordWrite<'_>>> {
    let mut parts: Vec<Vec<RecordWrite<'_>>> = Vec::new();
    let mut bytes = 0;
    for write in batch.records() {
        let size = size(&write);
        match parts.last_mut() {
            Some(part)
                if part.last().is_some_and(|last| last.did == write.did)
                    && bytes + size <= BATCH_BYTES =>
            {
                part.push(write);
                bytes += size;
            }
            _ => {
                parts.push(vec![write]);
                bytes = size;
            }
        }
    }
    parts
}

fn size(write: &RecordWrite<'_>) -> usize {
    let keys = write.did.len() + write.collection.len() + write.rkey.len();
    let body = write.body.map_or(0, |body| {
        body.record.len() + body.json.map_or(0, <[u8]>::len)
    });
    keys + body + ROW_BYTES
}

impl Stripes {
    /// Waits until nobody else writes under this key.
    pub async fn lock(&self, key: &str) -> tokio::sync::MutexGuard<'_, ()> {
        self.of(place(key)).lock().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Cid, Tid};
    use crate::store::{RecordBody, RepoStatus};

    fn record<'a>(did: &'a str, rkey: &'a str, bytes: &'a [u8]) -> RecordWrite<'a> {
        RecordWrite {
            did,
            collection: "a.b.c",
            rkey,
            version: 1,
            rev: Tid::new(1, 0),
            body: Some(RecordBody {
                cid: Cid::of_dag_cbor(bytes),
                record: bytes,
                json: None,
            }),
        }
    }

    #[test]
    fn records_of_one_partition_go_together_as_far_as_they_fit() {
        let mut batch = WriteBatch::new();
        let large = vec![0; 30 << 10];
        let huge = vec![0; 1 << 20];
        for (did, rkey, bytes) in [
            ("did:a", "1", &large),
            ("did:a", "2", &large),
            ("did:a", "3", &large),
            ("did:b", "1", &large),
            ("did:a", "4", &large),
            ("did:a", "5", &huge),
            ("did:a", "6", &large),
        ] {
            batch.put_record(record(did, rkey, bytes));
        }
        let parts = partitions(&batch);
        let keys: Vec<Vec<&str>> = parts
            .iter()
            .map(|part| part.iter().map(|write| write.rkey).collect())
            .collect();
        assert_eq!(
            keys,
            [
                vec!["1", "2"],
                vec!["3"],
                vec!["1"],
                vec!["4"],
                vec!["5"],
                vec!["6"]
            ]
        );
    }

    #[test]
    fn of_a_repositorys_heads_the_newest_is_written() {
        let mut batch = WriteBatch::new();
        let (less, more) = {
            let (a, b) = (Cid::of_dag_cbor(b"a"), Cid::of_dag_cbor(b"b"));
            match a.to_bytes() < b.to_bytes() {
                true => (a, b),
                false => (b, a),
            }
        };
        for (did, rev, data) in [
            ("did:a", 2, more),
            ("did:a", 3, less),
            ("did:a", 1, more),
            ("did:b", 1, more),
            ("did:b", 1, less),
        ] {
            batch.put_rev(RevWrite {
                did,
                rev: Tid::new(rev, 0),
                data,
                commit: less,
            });
        }
        let heads: HashMap<&str, (u64, Cid)> = jobs(&batch)
            .into_iter()
            .map(|job| match job {
                Job::Head(write) => (write.did, (write.rev.micros(), write.data)),
                _ => panic!("no head"),
            })
            .collect();
        assert_eq!(heads.len(), 2);
        assert_eq!(heads["did:a"], (3, less));
        assert_eq!(heads["did:b"], (1, more));
    }

    #[test]
    fn statuses_of_one_account_keep_their_order() {
        let mut batch = WriteBatch::new();
        for (did, version) in [("did:a", 3), ("did:b", 1), ("did:a", 1), ("did:a", 2)] {
            batch.put_status(StatusWrite {
                did: did.to_owned(),
                version,
                status: RepoStatus {
                    active: true,
                    status: None,
                },
                repair_if_stale: None,
            });
        }
        let versions: HashMap<&str, Vec<u64>> = jobs(&batch)
            .into_iter()
            .map(|job| match job {
                Job::Statuses(writes) => (
                    writes[0].did.as_str(),
                    writes.iter().map(|write| write.version).collect(),
                ),
                _ => panic!("no status"),
            })
            .collect();
        assert_eq!(versions["did:a"], [3, 1, 2]);
        assert_eq!(versions["did:b"], [1]);
    }
}
