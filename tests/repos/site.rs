//! A network, a store, and the jobs between them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use penstock::backfill::jobs::{
    DidLocks, Followed, JobOptions, JobRequest, JobStatus, JobView, Jobs, Roster, Started, Tools,
};
use penstock::backfill::limits::Limits;
use penstock::backfill::snapshot::Budget;
use penstock::clock::{Clock, SystemClock};
use penstock::config::{AccountAction, Backfill, CollectionFilter, Config, Sources};
use penstock::fetch::{FetchOptions, Fetcher};
use penstock::identity::{Identities, IdentityOptions};
use penstock::ledger::Wanted;
use penstock::slot::SlotSet;
use penstock::store::indexed::Indexed;
use penstock::store::{Choice, ChoiceKind, RecordsQuery, Store, StoreError};
use penstock_loadtest::network::{Expected, Network};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Memory of all fetches together.
pub const MEMORY: u64 = 32 << 20;

/// Worker 0's jobs over a store; dropped, they end as by a kill.
pub struct Worker {
    pub roster: Arc<Roster>,
    pub tools: Arc<Tools>,
    running: JoinHandle<Result<(), StoreError>>,
    stop: CancellationToken,
}

/// How the jobs are set up.
pub struct How {
    pub collections: &'static str,
    pub skip_dids: HashSet<String>,
    pub export_above: Option<u64>,
    /// Relays before that of the network.
    pub relays: Vec<String>,
    /// Memory of all fetches together.
    pub memory: u64,
}

impl Default for How {
    fn default() -> Self {
        Self {
            collections: "",
            skip_dids: HashSet::new(),
            export_above: None,
            relays: Vec::new(),
            memory: MEMORY,
        }
    }
}

impl Worker {
    pub async fn start(network: &Network, store: &Arc<dyn Store>, how: &How) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let fetcher = Fetcher::new(&FetchOptions {
            allow_private: true,
            rate: 1_000.0,
            burst: 1_000.0,
            per_host: 8,
            per_address: 8,
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(200),
            bare_pause: Duration::from_millis(300),
            ..FetchOptions::default()
        })
        .unwrap();
        let identity = IdentityOptions {
            plc_url: network.plc_url().to_owned(),
            ..IdentityOptions::default()
        };
        let tools = Arc::new(Tools {
            identities: Identities::new(fetcher.clone(), &identity, clock.clone()),
            fetcher,
            store: store.clone(),
            clock,
            budget: Budget::new(how.memory),
            locks: DidLocks::default(),
            indexed: Indexed::fixed(CollectionFilter::parse(how.collections).unwrap()),
            followed: Followed::default(),
            options: JobOptions {
                json: false,
                signatures: true,
                on_deleted: AccountAction::Purge,
                on_takedown: AccountAction::Hide,
                relays: [&how.relays[..], &[network.relay_url().to_owned()]].concat(),
                skip_dids: how.skip_dids.clone(),
                temp_dir: std::env::temp_dir(),
            },
            limits: Limits::fixed(Backfill {
                max_jobs: 2,
                per_host: 8,
                requests_per_second: 1_000,
                attempts: 4,
                retry_wait: Duration::from_millis(50),
                repair_pause: Duration::ZERO,
                max_repo_bytes: 64 << 20,
                repo_timeout: Duration::from_secs(10),
                repo_idle: Duration::from_secs(4),
                export_above: how.export_above.unwrap_or(u64::MAX),
                ..Config::load(&Sources::default()).unwrap().config.backfill
            }),
        });
        let clock = tools.clock.clone();
        let wanted = Arc::new(move || Wanted {
            now: clock.now_micros(),
            ..Wanted::between(SlotSet::ALL)
        });
        let roster = Roster::open(tools.clone(), wanted).await.unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(roster.clone().run(stop.clone()));
        Self {
            roster,
            tools,
            running,
            stop,
        }
    }

    /// Ends as by a kill: nothing is saved. What is on its way to the store may still arrive there, but nothing later.
    pub async fn kill(self) {
        let Self {
            roster,
            tools,
            running,
            ..
        } = self;
        running.abort();
        let _ = running.await;
        drop(roster);
        while Arc::strong_count(&tools) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mark = Choice {
            kind: ChoiceKind::Mark,
            name: "killed".to_owned(),
            body: b"0".to_vec(),
        };
        tools.store.put_choice(&mark).await.unwrap();
    }

    /// Ends as by SIGTERM.
    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }

    pub async fn begin(&self, request: JobRequest) -> u64 {
        match self.roster.start(request, false).await.unwrap() {
            Started::Job(view) => view.id.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a job is as it is wanted.
    pub async fn until(&self, id: u64, wanted: impl Fn(&JobView) -> bool) -> JobView {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            assert!(!self.running.is_finished(), "the jobs have ended");
            let view = self.roster.get(id).await.unwrap();
            if wanted(&view) {
                return view;
            }
        }
    }

    pub async fn over(&self, id: u64) -> JobView {
        self.until(id, |view| view.status.is_over()).await
    }

    /// Runs a job to its good end.
    pub async fn run(&self, request: JobRequest) -> JobView {
        let id = self.begin(request).await;
        let view = self.over(id).await;
        assert_eq!(view.status, JobStatus::Completed, "{view:?}");
        view
    }

    /// Reasons of a job's failures, by DID.
    pub async fn failures(&self, id: u64) -> BTreeMap<String, String> {
        let mut failures = BTreeMap::new();
        let mut cursor = None;
        loop {
            let page = self
                .roster
                .failures(id, cursor.as_deref(), 100)
                .await
                .unwrap();
            let rows = page.items.into_iter().map(|row| (row.did, row.reason));
            failures.extend(rows);
            cursor = page.cursor;
            if cursor.is_none() {
                return failures;
            }
        }
    }
}

/// Paths and CIDs of what is held of a repository.
pub async fn held(store: &dyn Store, did: &str) -> BTreeMap<String, String> {
    let mut held = BTreeMap::new();
    let mut query = RecordsQuery {
        did: Some(did.to_owned()),
        limit: 1_000,
        values: true,
        ..RecordsQuery::default()
    };
    loop {
        let page = store.records(&query).await.unwrap();
        for record in page.items {
            assert_eq!(
                penstock::decode::Cid::of_dag_cbor(&record.record),
                record.cid
            );
            held.insert(
                format!("{}/{}", record.collection, record.rkey),
                record.cid.to_string(),
            );
        }
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            return held;
        }
    }
}

/// Paths and CIDs that the network says of a repository, where it is to be had.
pub fn expected(network: &Network, did: &str) -> Option<BTreeMap<String, String>> {
    match network.expected(did)? {
        Expected::Records { records, .. } => Some(
            records
                .into_iter()
                .map(|record| (record.path, record.cid))
                .collect(),
        ),
        _ => None,
    }
}

/// Compares all that is held with the network; nothing may be held of what can't be had.
pub async fn check(network: &Network, store: &dyn Store) {
    for did in network.dids() {
        let wanted = expected(network, &did).unwrap_or_default();
        assert_eq!(
            held(store, &did).await,
            wanted,
            "{did} {:?}",
            network.fault(&did)
        );
    }
}
