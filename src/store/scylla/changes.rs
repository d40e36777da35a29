//! Changes of whole repositories, and the ledger's facts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::query_result::{QueryResult, QueryRowsResult};
use tokio::sync::{Mutex, MutexGuard};

use super::apply::Writes;
use super::cells::CompleteCell;
use super::schema::TABLES;
use super::session::explain;
use crate::clock::{Clock, SystemClock};
use crate::slot::{lane_of_place, place};
use crate::store::{
    Fact, Removal, Scope, SnapshotDone, StoreError, check_facts, check_removal, check_snapshot,
};

/// How many keys can be written at once where each has one writer.
const STRIPES: usize = 1024;
/// How often a ledger that is gone is looked for.
const GONE: Duration = Duration::from_secs(1);
/// Rows that are written at once.
const ROWS_AT_ONCE: usize = 64;

/// One writer at a time for every key, with a bounded number of locks.
pub(super) struct Stripes(Vec<Mutex<()>>, Mutex<()>);

impl Stripes {
    pub fn new() -> Self {
        let locks = (0..STRIPES).map(|_| Mutex::new(()));
        Self(locks.collect(), Mutex::new(()))
    }

    fn of(&self, place: u64) -> &Mutex<()> {
        self.0.get(lane_of_place(place, STRIPES)).unwrap_or(&self.1)
    }

    /// Waits until nobody else writes under this key.
    pub async fn lock(&self, key: &str) -> MutexGuard<'_, ()> {
        self.of(place(key)).lock().await
    }
}

/// Timestamps of rows that have no version of their own: this machine's time, never the same twice.
#[derive(Debug, Default)]
pub(super) struct Stamps(AtomicI64);

impl Stamps {
    /// Microseconds, greater than all before.
    pub fn next(&self) -> i64 {
        let now = i64::try_from(SystemClock.now_micros()).unwrap_or(i64::MAX - 1);
        let after = |last: i64| Some(now.max(last.saturating_add(1)));
        let last = self.0.fetch_update(Relaxed, Relaxed, after);
        last.ok().and_then(after).unwrap_or(now)
    }
}

/// A number as CQL has it.
pub(super) fn signed(what: &str, number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Refused(format!("the {what} {number} is beyond 63 bits")))
}

/// Whether the condition of a transaction held; `None` if its answer does not tell.
pub(super) fn applied(answer: &QueryRowsResult) -> Option<bool> {
    // What follows the first column differs between servers.
    let first = answer.maybe_first_row::<scylla::value::Row>().ok()??;
    first.columns.into_iter().next().flatten()?.as_boolean()
}

/// The only row of an answer.
pub(super) fn first<R>(answer: QueryResult) -> Result<Option<R>, StoreError>
where
    R: for<'f, 'm> DeserializeRow<'f, 'm>,
{
    let garbled = |error: String| {
        let words = explain(&error);
        StoreError::Schema(format!("a row is not as this build writes it: {words}"))
    };
    let rows = answer
        .into_rows_result()
        .map_err(|error| garbled(error.to_string()))?;
    let row = rows.maybe_first_row::<R>();
    row.map_err(|error| garbled(error.to_string()))
}

impl Writes {
    /// Deletes all of the scope at or below the removal's version, after its floor was left, if it asks for one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`], [`StoreError::Closed`].
    pub async fn remove(&self, removal: &Removal) -> Result<(), StoreError> {
        check_removal(removal)?;
        let Removal {
            did,
            scope,
            version,
            floor,
        } = removal;
        let version = signed("version", *version)?;
        if *floor {
            let name = match scope {
                Scope::Repo => "",
                Scope::Collection(nsid) => nsid,
            };
            let values = (version, name, version, did);
            let statement = &self.statements.put_floor;
            self.requests.write("repos", statement, values).await?;
        }
        self.delete_range(did, scope, version).await
    }

    /// Ends a full snapshot: a range delete per scope of all that is older, and once that can't be lost any more, the
    /// repository's `complete`.
    ///
    /// # Errors
    ///
    /// As for [`Writes::remove`].
    pub async fn complete_snapshot(&self, done: &SnapshotDone) -> Result<(), StoreError> {
        check_snapshot(done)?;
        let version = signed("version", done.complete.version)?;
        if version > 0 {
            for scope in &done.scopes {
                self.delete_range(&done.did, scope, version - 1).await?;
            }
        }
        if !done.settled && !self.sync_lag.is_zero() {
            self.requests.pause(self.sync_lag).await?;
        }
        let values = (version, CompleteCell(&done.complete), &done.did);
        let statement = &self.statements.put_complete;
        self.requests.write("repos", statement, values).await
    }

    async fn delete_range(&self, did: &str, scope: &Scope, version: i64) -> Result<(), StoreError> {
        let (requests, statements) = (&self.requests, &self.statements);
        match scope {
            Scope::Repo => {
                let statement = &statements.delete_repo;
                requests.write("records", statement, (version, did)).await
            }
            Scope::Collection(nsid) => {
                let (statement, values) = (&statements.delete_collection, (version, did, nsid));
                requests.write("records", statement, values).await
            }
        }
    }

    /// Writes facts, each at its `to_seq`, so that a longer one wins whatever comes later.
    ///
    /// # Errors
    ///
    /// As for [`Writes::remove`].
    pub async fn put_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        check_facts(facts)?;
        self.same_tables().await?;
        many_at_once(facts, |fact| self.put_fact(fact)).await?;
        // They may have waited until there was another ledger.
        if let Err(error) = self.same_tables().await {
            for fact in facts {
                self.delete_fact(fact).await?;
            }
            return Err(error);
        }
        Ok(())
    }

    /// Removes facts, each at its `to_seq`, so that one that has grown since stays.
    ///
    /// # Errors
    ///
    /// As for [`Writes::remove`].
    pub async fn remove_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        check_facts(facts)?;
        many_at_once(facts, |fact| self.delete_fact(fact)).await
    }

    async fn delete_fact(&self, fact: &Fact) -> Result<(), StoreError> {
        let (generation, run, from) = fact_key(fact)?;
        let at = signed("seq", fact.to_seq)?;
        let values = (at, &fact.relay, generation, run, from);
        let statement = &self.statements.delete_fact;
        self.requests.write("ledger", statement, values).await
    }

    /// Tables that were dropped and made again lack what was acknowledged before: nothing of that may be claimed. While one is
    /// gone, this waits: somebody may bring it back.
    async fn same_tables(&self) -> Result<(), StoreError> {
        let found = loop {
            let found = self.table_ids().await?;
            if self.tables.keys().all(|table| found.contains_key(table)) {
                break found;
            }
            self.requests.pause(GONE).await?;
        };
        let changed = self
            .tables
            .iter()
            .find(|(table, id)| found.get(*table) != Some(*id));
        match changed {
            None => Ok(()),
            Some((table, _)) => Err(StoreError::Failed(format!(
                "the table {}.{table} was dropped and made again: what was written to it before is not there any more, and \
                 nothing is claimed; restore it from a backup, or drop the keyspace to begin anew",
                self.keyspace
            ))),
        }
    }

    async fn table_ids(&self) -> Result<TableIds, StoreError> {
        let (statement, keyspace) = (&self.statements.table_ids, (&self.keyspace,));
        let answer = self.requests.read_to_write("ledger", statement, keyspace);
        table_ids(answer.await?)
    }

    async fn put_fact(&self, fact: &Fact) -> Result<(), StoreError> {
        let (generation, run, from_seq) = fact_key(fact)?;
        let slots = fact.slots.to_bytes();
        let to_seq = signed("seq", fact.to_seq)?;
        let values = (
            &fact.relay,
            generation,
            run,
            from_seq,
            to_seq,
            signed("time", fact.from_time)?,
            signed("time", fact.to_time)?,
            slots.as_slice(),
            &fact.filter,
            fact.kind.as_str(),
            to_seq,
        );
        let statement = &self.statements.put_fact;
        self.requests.write("ledger", statement, values).await
    }
}

/// Does this for every row, some of them at the same time.
pub(super) async fn many_at_once<'a, T, F>(
    rows: &'a [T],
    write: impl Fn(&'a T) -> F,
) -> Result<(), StoreError>
where
    F: Future<Output = Result<(), StoreError>>,
{
    let mut running = FuturesUnordered::new();
    for row in rows {
        running.push(write(row));
        if running.len() >= ROWS_AT_ONCE {
            running.next().await.transpose()?;
        }
    }
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(())
}

/// Generation, run, from_seq.
fn fact_key(fact: &Fact) -> Result<(i32, i64, i64), StoreError> {
    let generation = i32::try_from(fact.generation).map_err(|_| {
        let generation = fact.generation;
        StoreError::Refused(format!("the generation {generation} is beyond 31 bits"))
    })?;
    let run = signed("run", fact.run)?;
    Ok((generation, run, signed("seq", fact.from_seq)?))
}

/// By table, the id that it was made with: another one where it was dropped and made again.
pub(super) type TableIds = BTreeMap<String, String>;

/// The tables of this build, and their ids.
pub(super) fn table_ids(answer: QueryResult) -> Result<TableIds, StoreError> {
    let garbled = |error: String| StoreError::Unavailable(explain(&error));
    let rows = answer.into_rows_result();
    let rows = rows.map_err(|error| garbled(error.to_string()))?;
    let found = rows.rows::<(String, String)>();
    let found = found.map_err(|error| garbled(error.to_string()))?;
    let ids = found.collect::<Result<TableIds, _>>();
    let mut ids = ids.map_err(|error| garbled(error.to_string()))?;
    ids.retain(|name, _| TABLES.iter().any(|table| table.name == name));
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_never_the_same_twice() {
        let stamps = Stamps::default();
        let taken: Vec<i64> = (0..1000).map(|_| stamps.next()).collect();
        assert!(taken.windows(2).all(|pair| pair[0] < pair[1]));
        let now = i64::try_from(SystemClock.now_micros()).unwrap();
        assert!((now - taken[0]).abs() < 60_000_000);
    }

    #[test]
    fn numbers_beyond_63_bits_are_refused() {
        assert_eq!(signed("seq", 5), Ok(5));
        let error = signed("seq", u64::MAX).unwrap_err();
        assert_eq!(error.kind(), "refused");
    }
}
