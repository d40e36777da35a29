//! The embedded store: an LSM tree in the daemon's own process (fjall).
//!
//! Writes are blind: all that decides which of two writes wins is in their keys ([`rows`]), so nothing is read before it
//! is written, and puts commute. Reads take the first row of a prefix, which is the newest. Compaction drops what newer
//! rows replace ([`filter`]). One thread writes and syncs in groups ([`writer`]).
//!
//! Deletes are rows like others and stay for ever, as do range deletes: a write that comes late, however late, finds
//! itself hidden. The store belongs to one process.
//!
//! Format 1. Settings of memory and blocks are those that a store was made with.

mod disk;
mod engine;
mod filter;
mod index;
mod keep;
mod keys;
mod listing;
mod quarantine;
mod reader;
mod repairs;
mod rows;
mod threads;
mod writer;

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::limits::{
    check_batch, check_choice, check_facts, check_failures, check_job, check_pds, check_removal,
    check_snapshot,
};
use super::{
    Choice, ChoiceKind, Fact, Health, IndexEntry, JobFailure, JobRow, Page, QuarantineEntry,
    Record, RecordsQuery, Removal, Repair, Repo, SnapshotDone, Store, StoreError, WriteBatch,
};
use engine::Engine;
use keep::Keep;
use reader::View;
use threads::{Readers, spawn};
use writer::{Job, Trouble, Writer};

/// What a store of this build says it is.
const FORMAT: &str = "penstock embedded store, format 1";
/// Jobs that may wait for the writer.
const QUEUE: usize = 16;

/// How an embedded store is opened.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Its folder; made if absent, refused if it holds anything else.
    pub dir: PathBuf,
    /// Free bytes of the disk below which no write is taken (default 1 GiB).
    pub min_free: u64,
    /// Whether `records_by_collection` is kept. Written only while it is on.
    pub index: bool,
    /// Longest time between two syncs while writes keep coming (default 200 ms).
    pub sync_interval: Duration,
    /// Bytes after which a sync does not wait for more (default 32 MiB).
    pub sync_bytes: usize,
    /// Bytes of the cache of blocks (default 32 MiB).
    pub cache_bytes: u64,
    /// Bytes of rows in memory that are not in files yet, near enough (default 64 MiB). Fixed when a store is made.
    pub write_buffer_bytes: u64,
    /// Bytes of journals before the oldest rows in memory are written to files (default 256 MiB, at least 64 MiB).
    pub journal_bytes: u64,
    /// Bytes of frames that the quarantine holds (default 1 GiB).
    pub quarantine_max_bytes: u64,
}

impl EmbeddedOptions {
    /// The defaults for a folder, with the index.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            min_free: 1 << 30,
            index: true,
            sync_interval: Duration::from_millis(200),
            sync_bytes: 32 << 20,
            cache_bytes: 32 << 20,
            write_buffer_bytes: 64 << 20,
            journal_bytes: 256 << 20,
            quarantine_max_bytes: 1 << 30,
        }
    }
}

/// An open embedded store.
///
/// Dropping it without [`Store::close`] finishes what was handed to the writer and lets go of the folder as well.
#[derive(Debug)]
pub struct EmbeddedStore {
    open: Mutex<Option<Open>>,
    trouble: Trouble,
    index: bool,
    min_free: u64,
}

/// The parts that end with the store.
struct Open {
    engine: Arc<Engine>,
    jobs: mpsc::Sender<Job>,
    readers: Readers,
    stop_sweep: crossbeam_channel::Sender<()>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.engine.folder.path().display())
    }
}

impl Open {
    /// Lets the threads finish what was handed to them, and waits for them.
    fn finish(self) {
        let Self {
            engine,
            jobs,
            readers,
            stop_sweep,
            threads,
        } = self;
        drop((stop_sweep, jobs, readers));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        drop(engine);
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.take() {
            open.finish();
        }
    }
}

impl EmbeddedStore {
    /// Whether a store was made in the folder; makes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] if the folder can't be looked into.
    pub fn is_in(dir: &Path) -> Result<bool, StoreError> {
        disk::is_in(dir)
    }

    /// Opens a store, and makes it if its folder is empty.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if a process has it open, [`StoreError::Format`] if the folder holds something else,
    /// [`StoreError::Corrupt`] if its files are not what was written, [`StoreError::DiskFull`] if there is no room even to
    /// open it. Nothing is ever deleted to recover.
    pub fn open(options: EmbeddedOptions) -> Result<Self, StoreError> {
        let engine = Arc::new(Engine::open(&options)?);
        engine.evict(options.quarantine_max_bytes)?;
        let trouble = Trouble::default();
        let (index, min_free) = (options.index, options.min_free);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (stop_sweep, stopped) = crossbeam_channel::bounded(0);
        let writer = Writer::new(engine.clone(), options, trouble.clone());
        let mut threads = vec![spawn("store-writer", move || writer.run(queue))?];
        if index {
            let (engine, jobs) = (engine.clone(), jobs.clone());
            threads.push(spawn("store-sweep", move || {
                index::sweep(&engine, &jobs, &stopped);
            })?);
        }
        let readers = Readers::start(&mut threads)?;
        let open = Mutex::new(Some(Open {
            engine,
            jobs,
            readers,
            stop_sweep,
            threads,
        }));
        Ok(Self {
            open,
            trouble,
            index,
            min_free,
        })
    }

    /// Hands a job to the writer and waits for its result.
    async fn write<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let jobs = self.with_open(|open| open.jobs.clone())?;
        let (reply, result) = oneshot::channel();
        let sent = jobs.send(job(reply)).await;
        sent.map_err(|_| StoreError::Failed("its writer ended".to_owned()))?;
        drop(jobs);
        let result = result.await;
        result.map_err(|_| StoreError::Failed("its writer ended".to_owned()))?
    }

    /// Hands a small row to the writer; whether it was written.
    async fn keep(&self, keep: Keep) -> Result<bool, StoreError> {
        self.write(|reply| Job::Keep(keep, reply)).await
    }

    /// Asks a question on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&View<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (engine, readers) =
            self.with_open(|open| (open.engine.clone(), open.readers.clone()))?;
        readers.ask(move || question(&View::of(&engine))).await
    }

    fn with_open<T>(&self, part: impl FnOnce(&Open) -> T) -> Result<T, StoreError> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map(part).ok_or(StoreError::Closed)
    }

    fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map(ToString::to_string)
    }

    /// Merges all files, so that what may be dropped is dropped. Blocks; for tests and maintenance.
    ///
    /// # Errors
    ///
    /// Those of the engine.
    #[doc(hidden)]
    pub fn compact(&self) -> Result<(), StoreError> {
        self.with_open(|open| open.engine.clone())?.compact()
    }

    /// Rows of records, of hints and of range deletes in the files and in memory, replaced ones too. Blocks; for tests.
    ///
    /// # Errors
    ///
    /// Those of the engine.
    #[doc(hidden)]
    pub fn count_rows(&self) -> Result<(usize, usize, usize), StoreError> {
        let engine = self.with_open(|open| open.engine.clone())?;
        let count =
            |keyspace: &fjall::Keyspace| keyspace.len().map_err(|error| engine.error(error));
        Ok((
            count(&engine.records)?,
            count(&engine.hints)?,
            count(&engine.ranges)?,
        ))
    }

    /// Looks at every hint once and hands those that came to nothing to the writer; for tests.
    ///
    /// # Errors
    ///
    /// Those of the engine.
    #[doc(hidden)]
    pub async fn sweep(&self) -> Result<(), StoreError> {
        let mut from = Bound::Unbounded;
        loop {
            let at = from.clone();
            let step = self.read(move |view| index::step(view.engine, at)).await?;
            let jobs = self.with_open(|open| open.jobs.clone())?;
            let sent = jobs.send(Job::DropHints(step.0)).await;
            sent.map_err(|_| StoreError::Failed("its writer ended".to_owned()))?;
            if step.1 == Bound::Unbounded {
                // Whatever is acknowledged now comes after.
                return self.put_facts(&[]).await;
            }
            from = step.1;
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn apply(&self, batch: WriteBatch) -> Result<WriteBatch, StoreError> {
        check_batch(&batch)?;
        self.write(|reply| Job::Apply(batch, reply)).await
    }

    async fn remove(&self, removal: Removal) -> Result<(), StoreError> {
        check_removal(&removal)?;
        self.write(|reply| Job::Remove(removal, reply)).await
    }

    async fn complete_snapshot(&self, done: SnapshotDone) -> Result<(), StoreError> {
        check_snapshot(&done)?;
        self.write(|reply| Job::CompleteSnapshot(done, reply)).await
    }

    async fn record(
        &self,
        did: &str,
        collection: &str,
        rkey: &str,
    ) -> Result<Option<Record>, StoreError> {
        let (did, collection, rkey) = (did.to_owned(), collection.to_owned(), rkey.to_owned());
        self.read(move |view| view.record(&did, &collection, &rkey))
            .await
    }

    async fn records(&self, query: &RecordsQuery) -> Result<Page<Record>, StoreError> {
        let query = query.clone();
        self.read(move |view| view.records(&query)).await
    }

    async fn newest(
        &self,
        collection: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<IndexEntry>, StoreError> {
        if !self.index {
            return Err(StoreError::Query(
                "the index by collection is off".to_owned(),
            ));
        }
        let (collection, cursor) = (collection.to_owned(), cursor.map(str::to_owned));
        self.read(move |view| view.newest(&collection, limit, cursor.as_deref()))
            .await
    }

    async fn repo(&self, did: &str) -> Result<Option<Repo>, StoreError> {
        let did = did.to_owned();
        self.read(move |view| view.repo(&did)).await
    }

    async fn repos(&self, cursor: Option<&str>, limit: usize) -> Result<Page<Repo>, StoreError> {
        let cursor = cursor.map(str::to_owned);
        self.read(move |view| view.repos(cursor.as_deref(), limit))
            .await
    }

    async fn put_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        check_facts(facts)?;
        let facts = facts.to_vec();
        self.write(|reply| Job::PutFacts(facts, reply)).await
    }

    async fn remove_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        check_facts(facts)?;
        let facts = facts.to_vec();
        self.write(|reply| Job::RemoveFacts(facts, reply)).await
    }

    async fn facts(&self) -> Result<Vec<Fact>, StoreError> {
        self.read(|view| view.facts()).await
    }

    async fn repairs(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Repair>, StoreError> {
        let cursor = cursor.map(str::to_owned);
        self.read(move |view| view.repairs(cursor.as_deref(), limit))
            .await
    }

    async fn clear_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError> {
        let repairs = repairs.to_vec();
        self.write(|reply| Job::ClearRepairs(repairs, reply)).await
    }

    async fn quarantine(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<QuarantineEntry>, StoreError> {
        let cursor = cursor.map(str::to_owned);
        self.read(move |view| view.quarantine(cursor.as_deref(), limit))
            .await
    }

    async fn quarantined(
        &self,
        id: &str,
    ) -> Result<Option<(QuarantineEntry, Vec<u8>)>, StoreError> {
        let id = id.to_owned();
        self.read(move |view| view.quarantined(&id)).await
    }

    async fn release_quarantined(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write(|reply| Job::Release(id, reply)).await
    }

    async fn put_job(&self, job: &JobRow, epoch: Option<u64>) -> Result<bool, StoreError> {
        check_job(job, epoch)?;
        self.keep(Keep::Job(job.clone(), epoch)).await
    }

    async fn job(&self, id: u64) -> Result<Option<JobRow>, StoreError> {
        self.read(move |view| view.job(id)).await
    }

    async fn jobs(&self, cursor: Option<&str>, limit: usize) -> Result<Page<JobRow>, StoreError> {
        let cursor = cursor.map(str::to_owned);
        self.read(move |view| view.jobs(cursor.as_deref(), limit))
            .await
    }

    async fn put_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        check_failures(failures)?;
        let keep = Keep::Failures(failures.to_vec());
        self.keep(keep).await.map(drop)
    }

    async fn clear_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        let keep = Keep::ClearFailures(failures.to_vec());
        self.keep(keep).await.map(drop)
    }

    async fn failure(
        &self,
        job: u64,
        did: &str,
        collection: &str,
    ) -> Result<Option<JobFailure>, StoreError> {
        let (did, collection) = (did.to_owned(), collection.to_owned());
        self.read(move |view| view.failure(job, &did, &collection))
            .await
    }

    async fn failures(
        &self,
        job: u64,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<JobFailure>, StoreError> {
        let cursor = cursor.map(str::to_owned);
        self.read(move |view| view.failures(job, cursor.as_deref(), limit))
            .await
    }

    async fn put_choice(&self, choice: &Choice) -> Result<(), StoreError> {
        check_choice(choice)?;
        let keep = Keep::Choice(choice.clone());
        self.keep(keep).await.map(drop)
    }

    async fn remove_choice(&self, kind: ChoiceKind, name: &str) -> Result<(), StoreError> {
        let keep = Keep::RemoveChoice(kind, name.to_owned());
        self.keep(keep).await.map(drop)
    }

    async fn choices(
        &self,
        kind: ChoiceKind,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Choice>, StoreError> {
        let (prefix, cursor) = (prefix.to_owned(), cursor.map(str::to_owned));
        self.read(move |view| view.choices(kind, &prefix, cursor.as_deref(), limit))
            .await
    }

    async fn repairs_of(&self, did: &str) -> Result<Vec<Repair>, StoreError> {
        let did = did.to_owned();
        self.read(move |view| view.repairs_of(&did)).await
    }

    async fn put_pds(&self, did: &str, pds: &str) -> Result<(), StoreError> {
        check_pds(did, pds)?;
        let keep = Keep::Pds(did.to_owned(), pds.to_owned());
        self.keep(keep).await.map(drop)
    }

    fn waits(&self) -> bool {
        let waits = |open: &Open| open.engine.waits.load(Ordering::Relaxed);
        self.with_open(waits).unwrap_or(false)
    }

    async fn health(&self) -> Result<Health, StoreError> {
        let (trouble, min_free) = (self.trouble(), self.min_free);
        self.read(move |view| reader::health(view.engine, trouble, min_free))
            .await
    }

    async fn close(&self) -> Result<(), StoreError> {
        let open = self
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(open) = open else { return Ok(()) };
        let done = tokio::task::spawn_blocking(move || open.finish()).await;
        done.map_err(|error| StoreError::Failed(error.to_string()))
    }
}
