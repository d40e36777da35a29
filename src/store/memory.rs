//! The store in memory: the oracle of tests, slow on purpose.
//!
//! It keeps every write that it was ever given as a member of a plain set and finds each answer by the definition, at the
//! time of the question: the greatest write wins, and what is at or below a range delete is absent. Nothing is ever
//! replaced or cleaned up, so no order of writes can matter. It shares no code with the embedded store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Complete, Fact, Floor, Health, IndexEntry, Page, QuarantineEntry, Quarantined, Record,
    RecordsQuery, Removal, Repair, Repo, RepoStatus, Scope, SnapshotDone, Store, StoreError,
    WriteBatch, check_batch, check_facts, check_removal, check_snapshot, page_limit,
};
use crate::decode::{Cid, Tid};
use crate::slot::slot_of;

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

/// One write to a record; the order of the fields is the order in which writes win.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Write {
    version: u64,
    delete: bool,
    rev: Tid,
    body: Option<Body>,
}

/// What a write carries; of two with one `rev` the greater CID wins, then the one that has JSON.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Body {
    cid: Cid,
    json: Option<Vec<u8>>,
    record: Vec<u8>,
}

/// (did, collection, rkey).
type Path = (String, String, String);

#[derive(Debug, Default)]
struct State {
    closed: bool,
    writes: BTreeMap<Path, BTreeSet<Write>>,
    ranges: BTreeSet<(String, Scope, u64)>,
    floors: BTreeSet<(String, Scope, u64)>,
    revs: BTreeSet<(String, Tid, Cid, Cid)>,
    statuses: BTreeSet<(String, u64, Vec<u8>)>,
    handles: BTreeSet<(String, u64, String)>,
    completes: BTreeSet<(String, u64, Tid, String)>,
    facts: BTreeMap<(String, u32, u64, u64), Fact>,
    repairs: BTreeMap<(u8, String, String), Repair>,
    quarantine: BTreeMap<(u64, String), (QuarantineEntry, Vec<u8>)>,
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

impl State {
    fn apply(&mut self, batch: &WriteBatch, quarantine_max_bytes: u64) {
        for write in batch.records() {
            let path = (
                write.did.to_owned(),
                write.collection.to_owned(),
                write.rkey.to_owned(),
            );
            self.writes.entry(path).or_default().insert(Write {
                version: write.version,
                delete: write.body.is_none(),
                rev: write.rev,
                body: write.body.map(|body| Body {
                    cid: body.cid,
                    json: body.json.map(<[u8]>::to_vec),
                    record: body.record.to_vec(),
                }),
            });
        }
        for write in batch.revs() {
            self.revs
                .insert((write.did.to_owned(), write.rev, write.data, write.commit));
        }
        for write in batch.handles() {
            self.handles
                .insert((write.did.clone(), write.version, write.handle.clone()));
        }
        for write in batch.statuses() {
            if let Some(repair) = &write.repair_if_stale
                && let Some((version, status)) = self.status(&write.did)
                && version >= write.version
                && (version, &status) != (write.version, &write.status)
            {
                self.put_repair(repair);
            }
            self.statuses
                .insert((write.did.clone(), write.version, write.status.cell()));
        }
        for repair in batch.repairs() {
            self.put_repair(repair);
        }
        for row in batch.quarantined() {
            self.put_quarantined(row, quarantine_max_bytes);
        }
    }

    /// A repair is never overwritten.
    fn put_repair(&mut self, repair: &Repair) {
        self.repairs
            .entry(repair_key(repair))
            .or_insert_with(|| repair.clone());
    }

    /// The first row of an id stays; then the oldest bytes go until the bound holds.
    fn put_quarantined(&mut self, row: &Quarantined, max_bytes: u64) {
        if self.quarantine.keys().any(|(_, id)| *id == row.id) {
            return;
        }
        let entry = row.entry();
        self.quarantine
            .insert((row.received, row.id.clone()), (entry, row.raw.clone()));
        while self.quarantine_bytes() > max_bytes {
            let oldest = self
                .quarantine
                .values_mut()
                .find(|(entry, _)| !entry.evicted);
            let Some((entry, raw)) = oldest else { break };
            entry.evicted = true;
            raw.clear();
        }
    }

    fn quarantine_bytes(&self) -> u64 {
        self.quarantine
            .values()
            .map(|(_, raw)| raw.len() as u64)
            .sum()
    }

    /// The winning write, unless it deletes or a range delete covers it.
    fn record(&self, path: &Path) -> Option<Record> {
        let (did, collection, rkey) = path;
        let newest = self.writes.get(path)?.last()?;
        let body = newest.body.as_ref()?;
        let covered = self.ranges.iter().any(|(of, scope, version)| {
            let inside = match scope {
                Scope::Repo => true,
                Scope::Collection(nsid) => nsid == collection,
            };
            of == did && inside && newest.version <= *version
        });
        if covered {
            return None;
        }
        Some(Record {
            did: did.clone(),
            collection: collection.clone(),
            rkey: rkey.clone(),
            cid: body.cid,
            rev: newest.rev,
            version: newest.version,
            record: body.record.clone(),
            json: body.json.clone(),
        })
    }

    fn status(&self, did: &str) -> Option<(u64, RepoStatus)> {
        let (_, version, cell) = self.statuses.iter().rfind(|(of, ..)| of == did)?;
        Some((*version, RepoStatus::from_cell(cell)?))
    }

    /// A repository is known once something was said of it beside its records.
    fn dids(&self) -> BTreeSet<String> {
        let mut dids = BTreeSet::new();
        dids.extend(self.revs.iter().map(|(did, ..)| did.clone()));
        dids.extend(self.statuses.iter().map(|(did, ..)| did.clone()));
        dids.extend(self.handles.iter().map(|(did, ..)| did.clone()));
        dids.extend(self.completes.iter().map(|(did, ..)| did.clone()));
        dids.extend(self.floors.iter().map(|(did, ..)| did.clone()));
        dids
    }

    fn repo(&self, did: &str) -> Option<Repo> {
        if !self.dids().contains(did) {
            return None;
        }
        let mut repo = Repo {
            did: did.to_owned(),
            status: self.status(did),
            ..Repo::default()
        };
        if let Some((_, rev, data, commit)) = self.revs.iter().rfind(|(of, ..)| of == did) {
            repo.rev = Some(*rev);
            repo.data = Some(*data);
            repo.commit = Some(*commit);
        }
        let handle = self.handles.iter().rfind(|(of, ..)| of == did);
        repo.handle = handle.map(|(_, version, handle)| (*version, handle.clone()));
        let complete = self.completes.iter().rfind(|(of, ..)| of == did);
        repo.complete = complete.map(|(_, version, rev, filter)| Complete {
            rev: *rev,
            version: *version,
            filter: filter.clone(),
        });
        let mut floors = BTreeMap::new();
        for (_, scope, version) in self.floors.iter().filter(|(of, ..)| of == did) {
            floors.insert(scope.clone(), *version);
        }
        let floors = floors.into_iter();
        repo.floors = floors
            .map(|(scope, version)| Floor { scope, version })
            .collect();
        Some(repo)
    }
}

/// TIDs first, the newest first; then other record keys, the greatest first; equal ones by DID.
fn newest_order(rkey: &str, did: &str) -> (bool, std::cmp::Reverse<String>, String) {
    let odd = Tid::parse(rkey.as_bytes()).is_none();
    (odd, std::cmp::Reverse(rkey.to_owned()), did.to_owned())
}

fn repair_key(repair: &Repair) -> (u8, String, String) {
    (slot_of(&repair.did), repair.did.clone(), repair.id.clone())
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
