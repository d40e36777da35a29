//! How the daemon ends when its store fails or stands still: in time, and with the store's own error.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use penstock::clock::SystemClock;
use penstock::config::{Config, Sources};
use penstock::daemon::{self, DaemonError};
use penstock::store::memory::MemoryStore;
use penstock::store::{
    Fact, Health, IndexEntry, Page, QuarantineEntry, Record, RecordsQuery, Removal, Repair, Repo,
    SnapshotDone, Store, StoreError, WriteBatch,
};
use penstock_loadtest::{RelayOptions, RelayServer, World};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything that ends well takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The store in memory, until something is wrong with it.
#[derive(Default)]
struct Ailing {
    held: MemoryStore,
    /// Batches are never done.
    stands_still: AtomicBool,
    /// A batch is waiting for ever.
    waits: AtomicBool,
    /// Batches fail.
    fails: AtomicBool,
    /// Facts fail.
    forgets: AtomicBool,
}

fn full() -> StoreError {
    StoreError::DiskFull {
        dir: "here".to_owned(),
        detail: "on purpose".to_owned(),
    }
}

#[async_trait]
impl Store for Ailing {
    async fn apply(&self, batch: WriteBatch) -> Result<WriteBatch, StoreError> {
        if self.stands_still.load(Ordering::SeqCst) {
            self.waits.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(full());
        }
        self.held.apply(batch).await
    }

    async fn put_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        if self.forgets.load(Ordering::SeqCst) {
            return Err(full());
        }
        self.held.put_facts(facts).await
    }

    async fn remove(&self, removal: Removal) -> Result<(), StoreError> {
        self.held.remove(removal).await
    }

    async fn complete_snapshot(&self, done: SnapshotDone) -> Result<(), StoreError> {
        self.held.complete_snapshot(done).await
    }

    async fn record(
        &self,
        did: &str,
        collection: &str,
        rkey: &str,
    ) -> Result<Option<Record>, StoreError> {
        self.held.record(did, collection, rkey).await
    }

    async fn records(&self, query: &RecordsQuery) -> Result<Page<Record>, StoreError> {
        self.held.records(query).await
    }

    async fn newest(
        &self,
        collection: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<IndexEntry>, StoreError> {
        self.held.newest(collection, limit, cursor).await
    }

    async fn repo(&self, did: &str) -> Result<Option<Repo>, StoreError> {
        self.held.repo(did).await
    }

    async fn repos(&self, cursor: Option<&str>, limit: usize) -> Result<Page<Repo>, StoreError> {
        self.held.repos(cursor, limit).await
    }

    async fn facts(&self) -> Result<Vec<Fact>, StoreError> {
        self.held.facts().await
    }

    async fn repairs(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Repair>, StoreError> {
        self.held.repairs(cursor, limit).await
    }

    async fn clear_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError> {
        self.held.clear_repairs(repairs).await
    }

    async fn quarantine(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<QuarantineEntry>, StoreError> {
        self.held.quarantine(cursor, limit).await
    }

    async fn quarantined(
        &self,
        id: &str,
    ) -> Result<Option<(QuarantineEntry, Vec<u8>)>, StoreError> {
        self.held.quarantined(id).await
    }

    async fn release_quarantined(&self, id: &str) -> Result<(), StoreError> {
        self.held.release_quarantined(id).await
    }

    async fn health(&self) -> Result<Health, StoreError> {
        self.held.health().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.held.close().await
    }
}

/// A daemon over an ailing store, and the relay that it follows.
struct Case {
    store: Arc<Ailing>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), DaemonError>>,
    relay: RelayServer,
    _dir: tempfile::TempDir,
}

impl Case {
    fn start(store: Ailing, set: &[&str]) -> Self {
        let world = World::of(51, 20, 3_000);
        let relay = RelayServer::start(&world, RelayOptions::default()).expect("a relay");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut settings = vec![
            format!("relay.urls={}", relay.url()),
            "backfill.days=-1".to_owned(),
            "http.listen=127.0.0.1:0".to_owned(),
            format!("http.socket={}/penstock.sock", dir.path().display()),
        ];
        settings.extend(set.iter().map(|setting| (*setting).to_owned()));
        let sources = Sources {
            file: None,
            set: settings,
            variables: Vec::new(),
            default_files: Vec::new(),
        };
        let loaded = Config::load(&sources).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let (store, stop) = (Arc::new(store), CancellationToken::new());
        let running = tokio::spawn({
            let (store, stop) = (store.clone(), stop.clone());
            async move { daemon::run(&loaded.config, store, Arc::new(SystemClock), stop).await }
        });
        Self {
            store,
            stop,
            running,
            relay,
            _dir: dir,
        }
    }

    async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        while !condition().await {
            assert!(
                !self.running.is_finished() && Instant::now() < deadline,
                "no {what}"
            );
            ticks.tick().await;
        }
    }

    /// How it ends, and how long that took.
    async fn end(self) -> (Result<(), DaemonError>, Duration) {
        let began = Instant::now();
        let ended = tokio::time::timeout(PATIENCE, self.running).await;
        let ended = ended.expect("it ends").expect("no panic");
        (ended, began.elapsed())
    }
}

fn is_full(ended: Result<(), DaemonError>) {
    match ended {
        Err(DaemonError::Store(error)) => assert_eq!(*error, full()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stands_still_can_not_hold_the_end_up() {
    // Small queues, so that the reader itself waits; and ones that take all, so that only the lanes do.
    for queue in ["pipeline.max_frames=256", "pipeline.max_frames=65536"] {
        let store = Ailing {
            stands_still: true.into(),
            ..Ailing::default()
        };
        let set = [
            queue,
            "pipeline.in_flight_bytes=1MiB",
            "shutdown.timeout=500ms",
        ];
        let case = Case::start(store, &set);
        let waits = async || case.store.waits.load(Ordering::SeqCst);
        case.until("batch", waits).await;
        case.stop.cancel();
        let (store, relay) = (case.store.clone(), case.relay.head());
        let (ended, took) = case.end().await;
        ended.expect("an orderly end");
        assert!(
            (Duration::from_millis(400)..Duration::from_secs(8)).contains(&took),
            "{queue}: {took:?}"
        );
        let facts = store.facts().await.expect("facts");
        assert_eq!(facts, [], "nothing is durable of {relay} frames");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_that_can_not_be_written_end_it() {
    let store = Ailing {
        forgets: true.into(),
        ..Ailing::default()
    };
    let (ended, _) = Case::start(store, &[]).end().await;
    is_full(ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_while_it_drains_is_no_good_end() {
    // Batches wait for the drain.
    let set = ["pipeline.batch_age=10s", "pipeline.batch_ops=65536"];
    let set = [&set[..], &["pipeline.batch_bytes=16MiB"]].concat();
    let store = Ailing {
        fails: true.into(),
        ..Ailing::default()
    };
    let case = Case::start(store, &set);
    let sent = async || case.relay.frames_sent() >= 100;
    case.until("frames", sent).await;
    case.stop.cancel();
    let (ended, _) = case.end().await;
    is_full(ended);
}
