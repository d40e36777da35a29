//! The writer: one thread through which every write goes.
//!
//! Each job is committed atomically as it comes, and acknowledged after the next sync, so an acknowledgement means durable
//! through a power cut. A sync runs as soon as no further job waits, at the latest after `sync_interval` or `sync_bytes`:
//! alone, a job pays one sync; under load many share one. After the first failure nothing is written or acknowledged any
//! more; a restart begins from what was.
//!
//! The engine would block a commit for ever if its own workers died of a full disk. So the writer waits for them itself
//! before it commits, and looks at each turn whether they still live.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fjall::{AbstractTree, OwnedWriteBatch, PersistMode, Slice};
use tokio::sync::{mpsc, oneshot};

use super::EmbeddedOptions;
use super::engine::Engine;
use super::keep::Keep;
use super::keys::push_inverted;
use super::reader::View;
use super::repairs::StagedRepairs;
use super::rows::{
    Field, complete_key, did_key, field_prefix, handle_key, hint_key, push_scope, record_key,
    record_value, rev_key, status_key,
};
use crate::store::{
    Fact, Removal, Repair, RepoStatus, Scope, SnapshotDone, StatusWrite, StoreError, WriteBatch,
};

/// Where the result of a job goes.
type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Memtables of a keyspace that may wait to be written before a commit waits for them; at 4 the engine would block.
const MAX_SEALED: usize = 2;
/// Runs of files in the first level that may wait to be merged before a commit waits; at 30 the engine would block.
const MAX_RUNS: usize = 24;
/// Rows after which a group of batches is committed.
const GROUP_ROWS: usize = 4096;
/// How often a waiting commit looks again.
const WAIT_STEP: Duration = Duration::from_millis(2);
/// How often the free space of the disk is looked at.
const DISK_CHECK: Duration = Duration::from_secs(1);

/// A write.
pub(super) enum Job {
    Apply(WriteBatch, Reply<WriteBatch>),
    Remove(Removal, Reply<()>),
    CompleteSnapshot(SnapshotDone, Reply<()>),
    PutFacts(Vec<Fact>, Reply<()>),
    RemoveFacts(Vec<Fact>, Reply<()>),
    ClearRepairs(Vec<Repair>, Reply<()>),
    Release(String, Reply<()>),
    Keep(Keep, Reply<bool>),
    DropHints(Vec<Vec<u8>>),
}

/// A job that is committed and waits for the next sync.
enum Pending {
    Batch(WriteBatch, Reply<WriteBatch>),
    Unit(Reply<()>),
    Kept(bool, Reply<bool>),
}

impl Pending {
    fn resolve(self, result: Result<(), StoreError>) {
        // A caller that stopped waiting is no fault.
        match self {
            Self::Batch(batch, reply) => drop(reply.send(result.map(|()| batch))),
            Self::Unit(reply) => drop(reply.send(result)),
            Self::Kept(kept, reply) => drop(reply.send(result.map(|()| kept))),
        }
    }
}

/// Why the store takes no writes any more, if so.
pub(super) type Trouble = Arc<Mutex<Option<StoreError>>>;

/// The state of the writing thread.
pub(super) struct Writer {
    engine: Arc<Engine>,
    options: EmbeddedOptions,
    trouble: Trouble,
    failed: Option<StoreError>,
    pending: Vec<Pending>,
    unsynced_bytes: usize,
    synced: Instant,
    disk_checked: Option<Instant>,
    key: Vec<u8>,
    value: Vec<u8>,
    /// Rows of the group that is staged, until they are in order.
    rows: Vec<(Slice, Slice)>,
    keys: Vec<Slice>,
}

/// Whether a batch may be committed with others: rows that are read before they are written see committed ones only.
fn groups(batch: &WriteBatch) -> bool {
    batch.statuses().is_empty() && batch.quarantined().is_empty()
}

impl Writer {
    pub(super) fn new(engine: Arc<Engine>, options: EmbeddedOptions, trouble: Trouble) -> Self {
        Self {
            engine,
            options,
            trouble,
            failed: None,
            pending: Vec::new(),
            unsynced_bytes: 0,
            synced: Instant::now(),
            disk_checked: None,
            key: Vec::new(),
            value: Vec::new(),
            rows: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// Works until every sender is gone and the queue is empty.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            self.synced = Instant::now();
            let mut next = Some(job);
            while let Some(job) = next {
                next = match job {
                    Job::Apply(batch, reply) => self.take_group(batch, reply, &mut jobs),
                    job => {
                        self.take(job);
                        None
                    }
                };
                if next.is_none() && !self.sync_is_due() {
                    next = jobs.try_recv().ok();
                }
            }
            self.sync();
        }
    }

    /// Applies a batch together with those that wait behind it: one commit, and rows of neighbouring keys side by side.
    /// Gives back the job that ended the group.
    fn take_group(
        &mut self,
        batch: WriteBatch,
        reply: Reply<WriteBatch>,
        jobs: &mut mpsc::Receiver<Job>,
    ) -> Option<Job> {
        let mut rows = batch.len();
        let mut alone = !groups(&batch);
        let (mut batches, mut replies) = (vec![batch], vec![reply]);
        let mut next = None;
        while !alone
            && rows < GROUP_ROWS
            && let Ok(job) = jobs.try_recv()
        {
            match job {
                Job::Apply(batch, reply) if groups(&batch) => {
                    rows += batch.len();
                    batches.push(batch);
                    replies.push(reply);
                }
                job => {
                    next = Some(job);
                    alone = true;
                }
            }
        }
        self.unsynced_bytes += batches.iter().map(WriteBatch::size).sum::<usize>();
        let result = self.attempt(|writer| writer.apply(&batches));
        for (mut batch, reply) in batches.into_iter().zip(replies) {
            batch.clear();
            self.settle(Pending::Batch(batch, reply), result.clone());
        }
        next
    }

    fn sync_is_due(&self) -> bool {
        self.unsynced_bytes >= self.options.sync_bytes
            || self.synced.elapsed() >= self.options.sync_interval
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Apply(batch, reply) => {
                let result = self.attempt(|writer| writer.apply(std::slice::from_ref(&batch)));
                self.settle(Pending::Batch(batch, reply), result);
            }
            Job::Remove(removal, reply) => {
                let result = self.attempt(|writer| writer.remove(&removal));
                self.settle(Pending::Unit(reply), result);
            }
            Job::CompleteSnapshot(done, reply) => {
                let result = self.attempt(|writer| writer.complete_snapshot(&done));
                self.settle(Pending::Unit(reply), result);
            }
            Job::PutFacts(facts, reply) => {
                let result = self.attempt(|writer| writer.engine.put_facts(&facts));
                self.settle(Pending::Unit(reply), result);
            }
            Job::RemoveFacts(facts, reply) => {
                let result = self.attempt(|writer| writer.engine.remove_facts(&facts));
                self.settle(Pending::Unit(reply), result);
            }
            Job::ClearRepairs(repairs, reply) => {
                let result = self.attempt(|writer| writer.engine.clear_repairs(&repairs));
                self.settle(Pending::Unit(reply), result);
            }
            Job::Release(id, reply) => {
                let result = self.attempt(|writer| writer.engine.release(&id));
                self.settle(Pending::Unit(reply), result);
            }
            Job::Keep(keep, reply) => {
                let kept = self.attempt(|writer| writer.engine.keep(&keep));
                let job = Pending::Kept(kept == Ok(true), reply);
                self.settle(job, kept.map(drop));
            }
            Job::DropHints(hints) => {
                let result = self.attempt(|writer| writer.drop_hints(&hints));
                if let Err(error) = result {
                    self.fail(&error);
                }
            }
        }
    }

    /// Does a job if the disk has room and the engine keeps up.
    fn attempt<T>(
        &mut self,
        job: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.check_disk()?;
        self.wait_for_engine()?;
        job(self)
    }

    fn settle(&mut self, job: Pending, result: Result<(), StoreError>) {
        match result {
            Ok(()) => self.pending.push(job),
            Err(error) => {
                self.fail(&error);
                job.resolve(Err(error));
            }
        }
    }

    fn sync(&mut self) {
        self.unsynced_bytes = 0;
        if self.failed.is_none()
            && let Err(error) = self.check_disk().and_then(|()| self.engine.sync())
        {
            self.fail(&error);
        }
        for job in self.pending.drain(..) {
            job.resolve(Ok(()));
        }
    }

    /// Nothing more is written, and nothing that waits is acknowledged.
    fn fail(&mut self, error: &StoreError) {
        if self.failed.is_none() {
            tracing::error!(%error, "the store takes no more writes");
            self.failed = Some(error.clone());
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        }
        for job in self.pending.drain(..) {
            job.resolve(Err(error.clone()));
        }
    }

    fn check_disk(&mut self) -> Result<(), StoreError> {
        if self
            .disk_checked
            .is_some_and(|at| at.elapsed() < DISK_CHECK)
        {
            return Ok(());
        }
        self.engine.folder.check_free(self.options.min_free)?;
        self.disk_checked = Some(Instant::now());
        Ok(())
    }

    fn wait_for_engine(&self) -> Result<(), StoreError> {
        let engine = &self.engine;
        let busy = || {
            [
                &engine.records,
                &engine.hints,
                &engine.repos,
                &engine.ranges,
                &engine.quarantine_raw,
                &engine.failures,
                &engine.choices,
            ]
            .into_iter()
            .any(|keyspace| {
                keyspace.sealed_memtable_count() > MAX_SEALED
                    || keyspace.tree.l0_run_count() > MAX_RUNS
            })
        };
        let mut persisted = Ok(());
        while busy() && persisted.is_ok() {
            engine.waits.store(true, Ordering::Relaxed);
            persisted = engine.db.persist(PersistMode::Buffer);
            std::thread::park_timeout(WAIT_STEP);
        }
        engine.waits.store(false, Ordering::Relaxed);
        persisted.map_err(|error| engine.error(error))
    }

    fn commit(&self, batch: OwnedWriteBatch) -> Result<(), StoreError> {
        batch.commit().map_err(|error| self.engine.error(error))
    }

    fn apply(&mut self, group: &[WriteBatch]) -> Result<(), StoreError> {
        let rows: usize = group.iter().map(|writes| 2 * writes.len()).sum();
        let mut batch = OwnedWriteBatch::with_capacity(self.engine.db.clone(), rows + 16);
        self.stage_records(&mut batch, group);
        self.stage_revs(&mut batch, group);
        let engine = &self.engine;
        let mut repairs = StagedRepairs::default();
        let mut statuses = HashMap::new();
        let mut quarantine_bytes = None;
        for writes in group {
            for write in writes.handles() {
                let key = handle_key(&write.did, write.version, &write.handle);
                batch.insert(&engine.repos, key, []);
            }
            self.stage_statuses(&mut batch, &mut repairs, &mut statuses, writes.statuses())?;
            for repair in writes.repairs() {
                repairs.stage(engine, &mut batch, repair)?;
            }
            if !writes.quarantined().is_empty() {
                let total = engine.stage_quarantined(&mut batch, writes.quarantined())?;
                quarantine_bytes = Some(total);
            }
        }
        self.commit(batch.durability(Some(PersistMode::Buffer)))?;
        repairs.committed(engine);
        if let Some(total) = quarantine_bytes {
            engine.quarantine_bytes.store(total, Ordering::Relaxed);
            engine.evict(self.options.quarantine_max_bytes)?;
        }
        Ok(())
    }

    /// Records go before their hints: whoever sees a hint sees its row. Within a table rows go in the order of their keys,
    /// so that the search for a row's place starts where the last one ended, in cache.
    fn stage_records(&mut self, batch: &mut OwnedWriteBatch, group: &[WriteBatch]) {
        let engine = self.engine.clone();
        for write in group.iter().flat_map(WriteBatch::records) {
            let code = intern(&engine, batch, write.collection);
            self.key.clear();
            record_key(&mut self.key, &code, &write);
            let value = record_value(&mut self.value, write.body.as_ref());
            self.rows.push((Slice::from(self.key.as_slice()), value));
            if self.options.index && write.body.is_some() {
                self.key.clear();
                hint_key(&mut self.key, &code, &write);
                self.keys.push(Slice::from(self.key.as_slice()));
            }
        }
        self.rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (key, value) in self.rows.drain(..) {
            batch.insert(&engine.records, key, value);
        }
        self.keys.sort_unstable();
        for key in self.keys.drain(..) {
            batch.insert(&engine.hints, key, []);
        }
    }

    fn stage_revs(&mut self, batch: &mut OwnedWriteBatch, group: &[WriteBatch]) {
        let revs = group.iter().flat_map(WriteBatch::revs);
        self.keys
            .extend(revs.map(|write| Slice::from(rev_key(&write))));
        self.keys.sort_unstable();
        for key in self.keys.drain(..) {
            batch.insert(&self.engine.repos, key, []);
        }
    }

    /// `staged`: the newest of each DID in the group so far.
    fn stage_statuses<'w>(
        &self,
        batch: &mut OwnedWriteBatch,
        repairs: &mut StagedRepairs,
        staged: &mut HashMap<&'w str, (u64, &'w RepoStatus)>,
        writes: &'w [StatusWrite],
    ) -> Result<(), StoreError> {
        for write in writes {
            let asks = write.repair_if_stale.is_some() || write.repair_if_reactivated.is_some();
            if asks {
                let stored = View::of(&self.engine).status(&write.did)?;
                let stored = stored.as_ref().map(|(version, status)| (*version, status));
                let newest = newer(stored, staged.get(write.did.as_str()).copied());
                let this = (write.version, &write.status);
                let is_stale = |newest: (u64, &RepoStatus)| newest.0 >= this.0 && newest != this;
                let is_back = |(version, of): (u64, &RepoStatus)| {
                    write.tells_reactivation(version, of.active)
                };
                let stale = write
                    .repair_if_stale
                    .iter()
                    .filter(|_| newest.is_some_and(is_stale));
                let back = write.repair_if_reactivated.iter();
                let back = back.filter(|_| newest.is_some_and(is_back));
                for repair in stale.chain(back) {
                    repairs.stage(&self.engine, batch, repair)?;
                }
            }
            let key = status_key(&write.did, write.version, &write.status);
            batch.insert(&self.engine.repos, key, []);
            let before = staged.get(write.did.as_str()).copied();
            if let Some(newest) = newer(before, Some((write.version, &write.status))) {
                staged.insert(&write.did, newest);
            }
        }
        Ok(())
    }

    fn remove(&mut self, removal: &Removal) -> Result<(), StoreError> {
        let mut batch = self.engine.db.batch();
        let scope = scope_code(&self.engine, &mut batch, &removal.scope);
        stage_range(
            &self.engine,
            &mut batch,
            &removal.did,
            scope.as_deref(),
            removal.version,
        );
        if removal.floor {
            let mut key = field_prefix(&removal.did, Field::Floor);
            push_scope(&mut key, scope.as_deref());
            push_inverted(&mut key, removal.version);
            batch.insert(&self.engine.repos, key, []);
        }
        self.commit_ranges(batch)
    }

    fn complete_snapshot(&mut self, done: &SnapshotDone) -> Result<(), StoreError> {
        let mut batch = self.engine.db.batch();
        if let Some(older) = done.complete.version.checked_sub(1) {
            for scope in &done.scopes {
                let scope = scope_code(&self.engine, &mut batch, scope);
                stage_range(&self.engine, &mut batch, &done.did, scope.as_deref(), older);
            }
        }
        let key = complete_key(&done.did, &done.complete);
        batch.insert(&self.engine.repos, key, []);
        self.commit_ranges(batch)
    }

    /// Synced before it can be seen: the clean-up drops for good what a range delete covers.
    fn commit_ranges(&self, batch: OwnedWriteBatch) -> Result<(), StoreError> {
        self.commit(batch.durability(Some(PersistMode::SyncData)))
    }

    fn drop_hints(&self, hints: &[Vec<u8>]) -> Result<(), StoreError> {
        let view = View::of(&self.engine);
        let mut batch = self.engine.db.batch();
        for key in hints {
            if view.hint_failed(key)? {
                batch.remove(&self.engine.hints, key.as_slice());
            }
        }
        self.commit(batch)
    }
}

/// The greater of two statuses by (version, cell).
fn newer<'a>(
    a: Option<(u64, &'a RepoStatus)>,
    b: Option<(u64, &'a RepoStatus)>,
) -> Option<(u64, &'a RepoStatus)> {
    let order = |status: &(u64, &RepoStatus)| (status.0, status.1.cell());
    a.into_iter().chain(b).max_by_key(order)
}

/// The bytes of a collection; its number is written with its first use.
fn intern(engine: &Engine, batch: &mut OwnedWriteBatch, nsid: &str) -> Arc<[u8]> {
    if let Some(code) = engine.collection(nsid) {
        return code;
    }
    let mut names = engine.names.write().unwrap_or_else(PoisonError::into_inner);
    let (id, code) = names.intern(nsid);
    batch.insert(&engine.collections, id.to_be_bytes(), nsid);
    code
}

fn scope_code(engine: &Engine, batch: &mut OwnedWriteBatch, scope: &Scope) -> Option<Arc<[u8]>> {
    match scope {
        Scope::Repo => None,
        Scope::Collection(nsid) => Some(intern(engine, batch, nsid)),
    }
}

fn stage_range(
    engine: &Engine,
    batch: &mut OwnedWriteBatch,
    did: &str,
    collection: Option<&[u8]>,
    version: u64,
) {
    let mut key = did_key(did);
    push_scope(&mut key, collection);
    push_inverted(&mut key, version);
    batch.insert(&engine.ranges, key, []);
}
