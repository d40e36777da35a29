//! The ceiling: the store's statements in a loop, with values that are bound beforehand.
//!
//! Nothing is retried, limited by latency, ordered or classified; an error ends the benchmark.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use penstock::decode::Tid;
use penstock::decode::time::format_datetime;
use penstock::slot::slot_of;
use penstock::store::WriteBatch;
use penstock::store::scylla::ScyllaOptions;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::cluster::metadata::ColumnType;
use scylla::errors::SerializationError;
use scylla::serialize::value::SerializeValue;
use scylla::serialize::writers::{CellWriter, WrittenCellProof};
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;

/// A session and the statements.
pub struct Bare {
    session: Session,
    put_record: PreparedStatement,
    delete_record: PreparedStatement,
    put_head: PreparedStatement,
    put_hint: PreparedStatement,
    delete_hint: PreparedStatement,
}

/// The bytes of a frozen cell.
pub struct Cell(Vec<u8>);

impl Cell {
    fn of(fields: &[&[u8]]) -> Self {
        let mut bytes = Vec::new();
        for field in fields {
            bytes.extend(i32::try_from(field.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(field);
        }
        Self(bytes)
    }
}

impl SerializeValue for Cell {
    fn serialize<'b>(
        &self,
        _: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        writer.set_value(&self.0).map_err(SerializationError::new)
    }
}

/// did, collection, rkey.
type Key = (String, String, String);

/// A request's values.
pub enum Row {
    PutRecord(Key, Cell, i64),
    DeleteRecord(Key, i64),
    PutHead(String, Cell, i64),
    /// Key, month, slot, rev, CID, timestamp.
    PutHint(Key, i32, i32, String, Vec<u8>, i64),
    DeleteHint(Key, i32, i32, i64),
}

/// What a batch asks for, row by row.
pub fn rows(batch: &WriteBatch, index: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for write in batch.records() {
        let key = || {
            let (did, collection, rkey) = (write.did, write.collection, write.rkey);
            (did.to_owned(), collection.to_owned(), rkey.to_owned())
        };
        let at = i64::try_from(write.version).unwrap();
        let (month, slot) = (month(write.rkey), i32::from(slot_of(write.did)));
        match write.body {
            Some(body) => {
                let cid = body.cid.to_bytes();
                let cell = Cell::of(&[&write.rev.encode(), &cid, body.record]);
                rows.push(Row::PutRecord(key(), cell, at));
                let rev = write.rev.to_string();
                rows.push(Row::PutHint(key(), month, slot, rev, cid.to_vec(), at));
            }
            None => {
                rows.push(Row::DeleteRecord(key(), at));
                rows.push(Row::DeleteHint(key(), month, slot, at));
            }
        }
        if !index {
            rows.pop();
        }
    }
    for write in batch.revs() {
        let (data, commit) = (write.data.to_bytes(), write.commit.to_bytes());
        let cell = Cell::of(&[&write.rev.encode(), &data, &commit]);
        let at = i64::try_from(write.rev.micros()).unwrap();
        rows.push(Row::PutHead(write.did.to_owned(), cell, at));
    }
    rows
}

fn month(rkey: &str) -> i32 {
    let tid = Tid::parse(rkey.as_bytes()).unwrap();
    let text = format_datetime(tid.micros());
    let digits = text.chars().filter(char::is_ascii_digit).take(6);
    digits.collect::<String>().parse().unwrap()
}

impl Bare {
    /// Over a keyspace that the store has made.
    pub async fn connect(options: &ScyllaOptions) -> Self {
        let profile = ExecutionProfile::builder()
            .request_timeout(Some(options.request_timeout))
            .build();
        let mut builder = SessionBuilder::new()
            .known_nodes(&options.nodes)
            .fetch_schema_metadata(false)
            .default_execution_profile_handle(profile.into_handle());
        if let Some((user, password)) = &options.user {
            builder = builder.user(user, password.expose());
        }
        let session = builder.build().await.unwrap();
        let prepare = async |text: &str| {
            let text = text.replace("KS.", &format!("{}.", options.keyspace));
            let mut statement = session.prepare(text).await.unwrap();
            statement.set_is_idempotent(true);
            statement.set_consistency(Consistency::LocalQuorum);
            statement
        };
        Self {
            put_record: prepare("INSERT INTO KS.records (did, collection, rkey, value) VALUES (?, ?, ?, ?) USING TIMESTAMP ?").await,
            delete_record: prepare("DELETE FROM KS.records USING TIMESTAMP ? WHERE did = ? AND collection = ? AND rkey = ?").await,
            put_head: prepare("UPDATE KS.repos USING TIMESTAMP ? SET head = ? WHERE did = ?").await,
            put_hint: prepare("INSERT INTO KS.records_by_collection (collection, month, slot, rkey, did, rev, cid) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?").await,
            delete_hint: prepare("DELETE FROM KS.records_by_collection USING TIMESTAMP ? WHERE collection = ? AND month = ? AND slot = ? AND rkey = ? AND did = ?").await,
            session,
        }
    }

    async fn send(&self, row: &Row) -> Duration {
        let began = Instant::now();
        let session = &self.session;
        let sent = match row {
            Row::PutRecord((did, collection, rkey), cell, at) => {
                let values = (did, collection, rkey, cell, at);
                session.execute_unpaged(&self.put_record, values).await
            }
            Row::DeleteRecord((did, collection, rkey), at) => {
                let values = (at, did, collection, rkey);
                session.execute_unpaged(&self.delete_record, values).await
            }
            Row::PutHead(did, cell, at) => {
                let values = (at, cell, did);
                session.execute_unpaged(&self.put_head, values).await
            }
            Row::PutHint((did, collection, rkey), month, slot, rev, cid, at) => {
                let values = (collection, month, slot, rkey, did, rev, cid, at);
                session.execute_unpaged(&self.put_hint, values).await
            }
            Row::DeleteHint((did, collection, rkey), month, slot, at) => {
                let values = (at, collection, month, slot, rkey, did);
                session.execute_unpaged(&self.delete_hint, values).await
            }
        };
        sent.unwrap();
        began.elapsed()
    }

    /// Sends all, so many at once on each task; how long each took.
    pub async fn send_all(self: &Arc<Self>, parts: Vec<Vec<Row>>, at_once: usize) -> Vec<Duration> {
        let mut tasks = tokio::task::JoinSet::new();
        for part in parts {
            let bare = self.clone();
            tasks.spawn(async move {
                let bare = &bare;
                let sending = stream::iter(part).map(|row| async move { bare.send(&row).await });
                sending.buffer_unordered(at_once).collect::<Vec<_>>().await
            });
        }
        tasks.join_all().await.concat()
    }
}
