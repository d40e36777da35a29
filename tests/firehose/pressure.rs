//! A store that hangs or fails, and the way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use penstock::daemon::DaemonError;
use penstock::store::memory::MemoryStore;
use penstock::store::{
    Choice, ChoiceKind, Fact, IndexEntry, JobFailure, JobRow, Page, QuarantineEntry, Record,
    RecordsQuery, Removal, Repair, Repo, SnapshotDone, Store, StoreError, WriteBatch,
};
use penstock_loadtest::{RelayOptions, RelayServer, World, WorldSpec};
use tokio::sync::{Notify, watch};

use crate::worker::{Stopped, Worker};

/// Small budgets, so that they are full soon.
const SMALL: [&str; 3] = [
    "pipeline.max_frames=512",
    "pipeline.batch_ops=100",
    "pipeline.in_flight_bytes=1MiB",
];

/// The store in memory behind gates.
pub struct Gated {
    inner: MemoryStore,
    pub open: watch::Sender<bool>,
    /// The gate of facts.
    pub open_facts: watch::Sender<bool>,
    /// The next batch waits until it is released, and others pass it.
    pub one_hangs: AtomicBool,
    pub released: Notify,
    /// Whether it says that its writes wait for what passes by itself.
    pub waits: AtomicBool,
    applied: AtomicU64,
    fail_at: AtomicU64,
    fail_facts: AtomicBool,
}

impl Gated {
    pub fn new(open: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(),
            open: watch::Sender::new(open),
            open_facts: watch::Sender::new(true),
            one_hangs: AtomicBool::new(false),
            released: Notify::new(),
            waits: AtomicBool::new(false),
            applied: AtomicU64::new(0),
            fail_at: AtomicU64::new(u64::MAX),
            fail_facts: AtomicBool::new(false),
        })
    }
}

fn failure() -> StoreError {
    StoreError::Failed("on purpose".to_owned())
}

fn fails_on_purpose(ended: Result<(), DaemonError>) {
    match ended {
        Err(DaemonError::Store(error)) => assert_eq!(*error, failure()),
        ended => panic!("{ended:?}"),
    }
}

#[async_trait]
impl Store for Gated {
    async fn apply(&self, batch: WriteBatch) -> Result<WriteBatch, StoreError> {
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        if self.one_hangs.swap(false, Ordering::SeqCst) {
            self.released.notified().await;
        }
        if self.applied.fetch_add(1, Ordering::SeqCst) >= self.fail_at.load(Ordering::SeqCst) {
            return Err(failure());
        }
        self.inner.apply(batch).await
    }

    fn waits(&self) -> bool {
        self.waits.load(Ordering::SeqCst)
    }

    async fn remove(&self, removal: Removal) -> Result<(), StoreError> {
        self.inner.remove(removal).await
    }

    async fn complete_snapshot(&self, done: SnapshotDone) -> Result<(), StoreError> {
        self.inner.complete_snapshot(done).await
    }

    async fn record(
        &self,
        did: &str,
        nsid: &str,
        rkey: &str,
    ) -> Result<Option<Record>, StoreError> {
        self.inner.record(did, nsid, rkey).await
    }

    async fn records(&self, query: &RecordsQuery) -> Result<Page<Record>, StoreError> {
        self.inner.records(query).await
    }

    async fn newest(
        &self,
        collection: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<IndexEntry>, StoreError> {
        self.inner.newest(collection, limit, cursor).await
    }

    async fn repo(&self, did: &str) -> Result<Option<Repo>, StoreError> {
        self.inner.repo(did).await
    }

    async fn repos(&self, cursor: Option<&str>, limit: usize) -> Result<Page<Repo>, StoreError> {
        self.inner.repos(cursor, limit).await
    }

    async fn put_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        let _ = self.open_facts.subscribe().wait_for(|open| *open).await;
        if self.fail_facts.load(Ordering::SeqCst) {
            return Err(failure());
        }
        self.inner.put_facts(facts).await
    }

    async fn remove_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        self.inner.remove_facts(facts).await
    }

    async fn facts(&self) -> Result<Vec<Fact>, StoreError> {
        self.inner.facts().await
    }

    async fn repairs(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Repair>, StoreError> {
        self.inner.repairs(cursor, limit).await
    }

    async fn clear_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError> {
        self.inner.clear_repairs(repairs).await
    }

    async fn quarantine(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<QuarantineEntry>, StoreError> {
        self.inner.quarantine(cursor, limit).await
    }

    async fn quarantined(
        &self,
        id: &str,
    ) -> Result<Option<(QuarantineEntry, Vec<u8>)>, StoreError> {
        self.inner.quarantined(id).await
    }

    async fn release_quarantined(&self, id: &str) -> Result<(), StoreError> {
        self.inner.release_quarantined(id).await
    }

    async fn put_job(&self, job: &JobRow, epoch: Option<u64>) -> Result<bool, StoreError> {
        self.inner.put_job(job, epoch).await
    }

    async fn job(&self, id: u64) -> Result<Option<JobRow>, StoreError> {
        self.inner.job(id).await
    }

    async fn jobs(&self, cursor: Option<&str>, limit: usize) -> Result<Page<JobRow>, StoreError> {
        self.inner.jobs(cursor, limit).await
    }

    async fn put_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        self.inner.put_failures(failures).await
    }

    async fn clear_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        self.inner.clear_failures(failures).await
    }

    async fn failure(
        &self,
        job: u64,
        did: &str,
        nsid: &str,
    ) -> Result<Option<JobFailure>, StoreError> {
        self.inner.failure(job, did, nsid).await
    }

    async fn failures(
        &self,
        job: u64,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<JobFailure>, StoreError> {
        self.inner.failures(job, cursor, limit).await
    }

    async fn put_choice(&self, choice: &Choice) -> Result<(), StoreError> {
        self.inner.put_choice(choice).await
    }

    async fn remove_choice(&self, kind: ChoiceKind, name: &str) -> Result<(), StoreError> {
        self.inner.remove_choice(kind, name).await
    }

    async fn choices(
        &self,
        kind: ChoiceKind,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Choice>, StoreError> {
        self.inner.choices(kind, prefix, cursor, limit).await
    }

    async fn repairs_of(&self, did: &str) -> Result<Vec<Repair>, StoreError> {
        self.inner.repairs_of(did).await
    }

    async fn put_pds(&self, did: &str, pds: &str) -> Result<(), StoreError> {
        self.inner.put_pds(did, pds).await
    }

    async fn health(&self) -> Result<penstock::store::Health, StoreError> {
        self.inner.health().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

fn world(seed: u64) -> World {
    World::generate(&WorldSpec {
        seed,
        repos: 60,
        events: 4_000,
        prefill: 50,
        ..WorldSpec::default()
    })
}

async fn until_queued(worker: &Worker) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut look = tokio::time::interval(Duration::from_millis(50));
    while worker.metric("penstock_pipeline_queued_frames").await < 100.0 {
        assert!(Instant::now() < deadline, "the queues fill");
        look.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_store_does_not_keep_the_process() {
    // Small queues, so that the reader itself waits; and ones that take all, so that only the lanes do.
    for queue in ["pipeline.max_frames=256", "pipeline.max_frames=65536"] {
        let world = world(60);
        let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
        let store = Gated::new(false);
        let mut set = SMALL.to_vec();
        set.extend([queue, "shutdown.timeout=500ms"]);
        let worker = Stopped::over(store.clone()).start(&relay, &set).await;
        until_queued(&worker).await;
        let began = Instant::now();
        let stopped = worker.stop().await;
        let took = began.elapsed();
        assert!(
            (Duration::from_millis(400)..Duration::from_secs(8)).contains(&took),
            "{queue}: {took:?}"
        );
        assert_eq!(stopped.facts().await, [], "nothing is durable");
        store.open.send_replace(true);
        let mut worker = stopped.start(&relay, &SMALL).await;
        worker.until_seq(relay.head()).await;
        worker.stop().await.holds(&world.oracle).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_queues_drain_within_the_timeout() {
    let world = world(61);
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let store = Gated::new(false);
    let worker = Stopped::over(store.clone()).start(&relay, &SMALL).await;
    until_queued(&worker).await;
    let stopping = tokio::spawn(worker.stop());
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.open.send_replace(true);
    let stopped = stopping.await.unwrap();
    let held = stopped.held().await;
    assert!(held > 100, "what was read is durable: {held}");
    let mut worker = stopped.start(&relay, &SMALL).await;
    worker.until_seq(relay.head()).await;
    assert_eq!(relay.cursors()[1], Some(held - 1));
    worker.stop().await.holds(&world.oracle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_ends_the_daemon_and_acknowledges_nothing_more() {
    for facts in [false, true] {
        let world = world(62);
        let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
        let store = Gated::new(true);
        match facts {
            true => store.fail_facts.store(true, Ordering::SeqCst),
            false => store.fail_at.store(3, Ordering::SeqCst),
        }
        let worker = Stopped::over(store.clone()).start(&relay, &SMALL).await;
        let began = Instant::now();
        let (ended, stopped) = worker.end().await;
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
        fails_on_purpose(ended);
        store.fail_at.store(u64::MAX, Ordering::SeqCst);
        store.fail_facts.store(false, Ordering::SeqCst);
        let mut worker = stopped.start(&relay, &SMALL).await;
        worker.until_seq(relay.head()).await;
        worker.stop().await.holds(&world.oracle).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_while_it_drains_is_no_good_end() {
    let world = world(63);
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let store = Gated::new(true);
    store.fail_at.store(0, Ordering::SeqCst);
    // Batches wait for the drain.
    let set = [
        "pipeline.batch_age=10s",
        "pipeline.batch_ops=65536",
        "pipeline.batch_bytes=16MiB",
    ];
    let mut worker = Stopped::over(store).start(&relay, &set).await;
    let sent = async || relay.frames_sent() >= 100;
    worker.until(sent, "frames").await;
    let (ended, _) = worker.stop_anyhow().await;
    fails_on_purpose(ended);
}
