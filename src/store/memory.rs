//! The store in memory: the oracle of tests, slow on purpose.
//!
//! It keeps every write that it was ever given as a member of a plain set and finds each answer by the definition, at the
//! time of the question: the greatest write wins, and what is at or below a range delete is absent. Nothing is ever
//! replaced or cleaned up, so no order of writes can matter. It shares no code with the embedded store.

mod state;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Choice, ChoiceKind, Fact, Health, IndexEntry, JobFailure, JobRow, Page, QuarantineEntry,
    REPAIRS_OF, Record, RecordsQuery, Removal, Repair, Repo, SnapshotDone, Store, StoreError,
    WriteBatch, check_batch, check_choice, check_facts, check_failures, check_job, check_pds,
    check_removal, check_snapshot, page_limit,
};
use crate::decode::Tid;
use crate::slot::slot_of;
use state::{FailureKey, Path, State, repair_key};

/// A store in memory; what it holds ends with it.
///
/// After [`Store::close`] it takes no more writes but still answers.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    quarantine_max_bytes: u64,
    sync_lag: Duration,
    outages: AtomicU64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store whose quarantine has no bound.
    pub fn new() -> Self {
        Self::with_quarantine_max(u64::MAX)
    }

    /// An empty store whose quarantine holds at most so many bytes.
    pub fn with_quarantine_max(bytes: u64) -> Self {
        Self {
            state: Mutex::default(),
            quarantine_max_bytes: bytes,
            sync_lag: Duration::ZERO,
            outages: AtomicU64::new(0),
        }
    }

    /// As a store whose writes may be lost until they are so old.
    pub fn with_sync_lag(mut self, lag: Duration) -> Self {
        self.sync_lag = lag;
        self
    }

    /// It was away once more.
    #[cfg(test)]
    pub(crate) fn was_away(&self) {
        self.outages.fetch_add(1, SeqCst);
    }

    fn read(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.read();
        if state.closed {
            return Err(StoreError::Closed);
        }
        Ok(state)
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn sync_lag(&self) -> Duration {
        self.sync_lag
    }

    fn outages(&self) -> u64 {
        self.outages.load(SeqCst)
    }

    async fn apply(&self, mut batch: WriteBatch) -> Result<WriteBatch, StoreError> {
        check_batch(&batch)?;
        self.write()?.apply(&batch, self.quarantine_max_bytes);
        batch.clear();
        Ok(batch)
    }

    async fn remove(&self, removal: Removal) -> Result<(), StoreError> {
        check_removal(&removal)?;
        let mut state = self.write()?;
        let key = (removal.did, removal.scope, removal.version);
        if removal.floor {
            state.floors.insert(key.clone());
        }
        state.ranges.insert(key);
        Ok(())
    }

    async fn complete_snapshot(&self, done: SnapshotDone) -> Result<(), StoreError> {
        check_snapshot(&done)?;
        let mut state = self.write()?;
        let complete = done.complete;
        if let Some(older) = complete.version.checked_sub(1) {
            for scope in done.scopes {
                state.ranges.insert((done.did.clone(), scope, older));
            }
        }
        state
            .completes
            .insert((done.did, complete.version, complete.rev, complete.filter));
        Ok(())
    }

    async fn record(
        &self,
        did: &str,
        collection: &str,
        rkey: &str,
    ) -> Result<Option<Record>, StoreError> {
        let path = (did.to_owned(), collection.to_owned(), rkey.to_owned());
        Ok(self.read().record(&path))
    }

    async fn records(&self, query: &RecordsQuery) -> Result<Page<Record>, StoreError> {
        query.check()?;
        let after = query.position()?;
        let state = self.read();
        let mut paths: Vec<&Path> = state.writes.keys().collect();
        if query.descending {
            paths.reverse();
        }
        let rows = paths.into_iter().filter(|(did, collection, rkey)| {
            let at = (did.as_str(), collection.as_str(), rkey.as_str());
            query.did.as_ref().is_none_or(|wanted| wanted == did)
                && query
                    .collection
                    .as_ref()
                    .is_none_or(|nsid| nsid == collection)
                && after.is_none_or(|after| {
                    if query.descending {
                        at < after
                    } else {
                        at > after
                    }
                })
        });
        let records = rows
            .filter_map(|path| state.record(path))
            .map(|mut record| {
                if !query.values {
                    record.record.clear();
                    record.json = None;
                }
                record
            });
        Ok(page(records, query.limit, |last| {
            format!("{}/{}/{}", last.did, last.collection, last.rkey)
        }))
    }

    async fn newest(
        &self,
        collection: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<IndexEntry>, StoreError> {
        let state = self.read();
        let mut records: Vec<Record> = state
            .writes
            .keys()
            .filter(|(_, nsid, _)| nsid == collection)
            .filter_map(|path| state.record(path))
            .filter(|record| state.repo(&record.did).is_none_or(|repo| repo.active()))
            .collect();
        records.sort_by_cached_key(|record| newest_order(&record.rkey, &record.did));
        let after = cursor
            .map(|cursor| cursor.split_once('/').ok_or_else(|| bad_cursor(cursor)))
            .transpose()?
            .map(|(rkey, did)| newest_order(rkey, did));
        let entries = records
            .into_iter()
            .filter(|record| {
                after
                    .as_ref()
                    .is_none_or(|after| newest_order(&record.rkey, &record.did) > *after)
            })
            .map(|record| IndexEntry {
                did: record.did,
                rkey: record.rkey,
                cid: record.cid,
                rev: record.rev,
            });
        Ok(page(entries, limit, |last| {
            format!("{}/{}", last.rkey, last.did)
        }))
    }

    async fn repo(&self, did: &str) -> Result<Option<Repo>, StoreError> {
        Ok(self.read().repo(did))
    }

    async fn repos(&self, cursor: Option<&str>, limit: usize) -> Result<Page<Repo>, StoreError> {
        let state = self.read();
        let dids = state.dids();
        let repos = dids
            .iter()
            .filter(|did| cursor.is_none_or(|cursor| did.as_str() > cursor))
            .filter_map(|did| state.repo(did));
        Ok(page(repos, limit, |last| last.did.clone()))
    }

    async fn put_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        check_facts(facts)?;
        let mut state = self.write()?;
        for fact in facts {
            let key = (fact.relay.clone(), fact.generation, fact.run, fact.from_seq);
            let held = state.facts.entry(key).or_insert_with(|| fact.clone());
            if fact.to_seq > held.to_seq {
                *held = fact.clone();
            }
        }
        Ok(())
    }

    async fn remove_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        check_facts(facts)?;
        let mut state = self.write()?;
        for fact in facts {
            let key = (fact.relay.clone(), fact.generation, fact.run, fact.from_seq);
            let held = state.facts.get(&key);
            if held.is_some_and(|held| held.to_seq <= fact.to_seq) {
                state.facts.remove(&key);
            }
        }
        Ok(())
    }

    async fn facts(&self) -> Result<Vec<Fact>, StoreError> {
        Ok(self.read().facts.values().cloned().collect())
    }

    async fn repairs(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Repair>, StoreError> {
        let after = cursor
            .map(|cursor| cursor.split_once('/').ok_or_else(|| bad_cursor(cursor)))
            .transpose()?
            .map(|(did, id)| (slot_of(did), did.to_owned(), id.to_owned()));
        let state = self.read();
        let rows = state
            .repairs
            .iter()
            .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
            .map(|(_, repair)| repair.clone());
        Ok(page(rows, limit, |last| {
            format!("{}/{}", last.did, last.id)
        }))
    }

    async fn clear_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError> {
        let mut state = self.write()?;
        for repair in repairs {
            let key = repair_key(repair);
            if state.repairs.get(&key) == Some(repair) {
                state.repairs.remove(&key);
            }
        }
        Ok(())
    }

    async fn quarantine(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<QuarantineEntry>, StoreError> {
        let after = cursor.map(quarantine_position).transpose()?;
        let state = self.read();
        let rows = state
            .quarantine
            .iter()
            .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
            .map(|(_, (entry, _))| entry.clone());
        Ok(page(rows, limit, |last| {
            format!("{}/{}", last.received, last.id)
        }))
    }

    async fn quarantined(
        &self,
        id: &str,
    ) -> Result<Option<(QuarantineEntry, Vec<u8>)>, StoreError> {
        let state = self.read();
        let row = state.quarantine.iter().find(|((_, held), _)| held == id);
        Ok(row.map(|(_, row)| row.clone()))
    }

    async fn release_quarantined(&self, id: &str) -> Result<(), StoreError> {
        self.write()?.quarantine.retain(|(_, held), _| held != id);
        Ok(())
    }

    async fn put_job(&self, job: &JobRow, epoch: Option<u64>) -> Result<bool, StoreError> {
        check_job(job, epoch)?;
        let mut state = self.write()?;
        let held = state.jobs.get(&job.id).map(|held| held.epoch);
        if held != epoch {
            return Ok(false);
        }
        state.jobs.insert(job.id, job.clone());
        Ok(true)
    }

    async fn job(&self, id: u64) -> Result<Option<JobRow>, StoreError> {
        Ok(self.read().jobs.get(&id).cloned())
    }

    async fn jobs(&self, cursor: Option<&str>, limit: usize) -> Result<Page<JobRow>, StoreError> {
        let before = cursor
            .map(|cursor| cursor.parse::<u64>().map_err(|_| bad_cursor(cursor)))
            .transpose()?;
        let state = self.read();
        let rows = state.jobs.values().rev();
        let rows = rows.filter(|job| before.is_none_or(|before| job.id < before));
        Ok(page(rows.cloned(), limit, |last| last.id.to_string()))
    }

    async fn put_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        check_failures(failures)?;
        let mut state = self.write()?;
        for failure in failures {
            state
                .failures
                .insert(failure_key(failure), failure.body.clone());
        }
        Ok(())
    }

    async fn clear_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        let mut state = self.write()?;
        for failure in failures {
            state.failures.remove(&failure_key(failure));
        }
        Ok(())
    }

    async fn failure(
        &self,
        job: u64,
        did: &str,
        collection: &str,
    ) -> Result<Option<JobFailure>, StoreError> {
        let key = (job, did.to_owned(), collection.to_owned());
        Ok(self.read().failures.get_key_value(&key).map(failure_of))
    }

    async fn failures(
        &self,
        job: u64,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<JobFailure>, StoreError> {
        let after = cursor
            .map(|cursor| cursor.rsplit_once('/').ok_or_else(|| bad_cursor(cursor)))
            .transpose()?;
        let state = self.read();
        let rows = state.failures.iter().map(failure_of).filter(|failure| {
            let at = (failure.did.as_str(), failure.collection.as_str());
            failure.job == job && after.is_none_or(|after| at > after)
        });
        Ok(page(rows, limit, |last| {
            format!("{}/{}", last.did, last.collection)
        }))
    }

    async fn put_choice(&self, choice: &Choice) -> Result<(), StoreError> {
        check_choice(choice)?;
        let key = (choice.kind, choice.name.clone());
        self.write()?.choices.insert(key, choice.clone());
        Ok(())
    }

    async fn remove_choice(&self, kind: ChoiceKind, name: &str) -> Result<(), StoreError> {
        self.write()?.choices.remove(&(kind, name.to_owned()));
        Ok(())
    }

    async fn choices(
        &self,
        kind: ChoiceKind,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Choice>, StoreError> {
        let state = self.read();
        let rows = state.choices.values().filter(|choice| {
            choice.kind == kind
                && choice.name.starts_with(prefix)
                && cursor.is_none_or(|cursor| choice.name.as_str() > cursor)
        });
        Ok(page(rows.cloned(), limit, |last| last.name.clone()))
    }

    async fn repairs_of(&self, did: &str) -> Result<Vec<Repair>, StoreError> {
        let state = self.read();
        let rows = state.repairs.values().filter(|repair| repair.did == did);
        Ok(rows.take(REPAIRS_OF).cloned().collect())
    }

    async fn put_pds(&self, did: &str, pds: &str) -> Result<(), StoreError> {
        check_pds(did, pds)?;
        self.write()?.hosts.insert(did.to_owned(), pds.to_owned());
        Ok(())
    }

    async fn health(&self) -> Result<Health, StoreError> {
        let state = self.read();
        let mut health = Health {
            quarantine_bytes: state.quarantine_bytes(),
            ..Health::default()
        };
        for repair in state.repairs.values() {
            *health.repairs.entry(repair.reason.clone()).or_default() += 1;
        }
        Ok(health)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.read().closed = true;
        Ok(())
    }
}

/// TIDs first, the newest first; then other record keys, the greatest first; equal ones by DID.
fn newest_order(rkey: &str, did: &str) -> (bool, std::cmp::Reverse<String>, String) {
    let odd = Tid::parse(rkey.as_bytes()).is_none();
    (odd, std::cmp::Reverse(rkey.to_owned()), did.to_owned())
}

fn failure_key(failure: &JobFailure) -> FailureKey {
    let JobFailure {
        job,
        did,
        collection,
        ..
    } = failure;
    (*job, did.clone(), collection.clone())
}

fn failure_of((key, body): (&FailureKey, &Vec<u8>)) -> JobFailure {
    let (job, did, collection) = key.clone();
    JobFailure {
        job,
        did,
        collection,
        body: body.clone(),
    }
}

fn quarantine_position(cursor: &str) -> Result<(u64, String), StoreError> {
    let (received, id) = cursor.split_once('/').ok_or_else(|| bad_cursor(cursor))?;
    let received = received.parse().map_err(|_| bad_cursor(cursor))?;
    Ok((received, id.to_owned()))
}

fn bad_cursor(cursor: &str) -> StoreError {
    StoreError::Query(format!("{cursor:?} is no cursor of this listing"))
}

/// The first items of a listing, and a cursor if there are more.
fn page<T>(items: impl Iterator<Item = T>, limit: usize, cursor: impl Fn(&T) -> String) -> Page<T> {
    let limit = page_limit(limit);
    let mut items: Vec<T> = items.take(limit + 1).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let cursor = items.last().filter(|_| more).map(cursor);
    Page { items, cursor }
}
