//! A worker in this process.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use penstock::clock::{Clock, SystemClock};
use penstock::config::{CollectionFilter, Config, Sources};
use penstock::daemon::{self, DaemonError};
use penstock::ledger::{self, Wanted, held};
use penstock::service::Service;
use penstock::slot::SlotSet;
use penstock::store::{Fact, RecordsQuery, Store};
use penstock_loadtest::{Oracle, RelayServer, now_micros};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::stores::Home;

/// Longer than any wait that ends well.
const DEADLINE: Duration = Duration::from_secs(120);

/// A running worker.
pub struct Worker {
    pub store: Arc<dyn Store>,
    pub config: Arc<Config>,
    home: Home,
    dir: Arc<tempfile::TempDir>,
    clock: Arc<dyn Clock>,
    service: Service,
    id: u16,
    stop: CancellationToken,
    running: JoinHandle<Result<(), DaemonError>>,
}

/// A worker that was stopped, and its store.
pub struct Stopped {
    pub store: Arc<dyn Store>,
    home: Home,
    dir: Arc<tempfile::TempDir>,
    clock: Arc<dyn Clock>,
    service: Service,
}

impl Worker {
    /// One worker over an empty store; `None` where there is no such store.
    pub async fn start(relay: &RelayServer, set: &[&str]) -> Option<Self> {
        Some(Stopped::empty().await?.start(relay, set).await)
    }

    /// One of several workers over an empty store.
    pub async fn start_one_of(relay: &RelayServer, id: u16, count: u16) -> Option<Self> {
        let empty = Stopped::empty().await?;
        Some(empty.start_as(relay, &[], id, count).await)
    }

    /// Another worker over the same store.
    pub async fn beside(&self, relay: &RelayServer, id: u16, count: u16) -> Self {
        let stopped = Stopped {
            store: self.store.clone(),
            home: self.home.clone(),
            dir: self.dir.clone(),
            clock: self.clock.clone(),
            service: self.service.clone(),
        };
        stopped.start_as(relay, &[], id, count).await
    }

    /// What its HTTP surface answers, head and body.
    pub async fn get(&self, path: &str) -> String {
        let socket = self.dir.path().join(format!("{}.sock", self.id));
        let mut answer = String::new();
        if let Ok(mut stream) = tokio::net::UnixStream::connect(socket).await {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.read_to_string(&mut answer).await.unwrap();
        }
        answer
    }

    /// Waits until `/readyz` says something.
    pub async fn until_unready(&mut self, why: &str) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            look.tick().await;
            let answer = self.get("/readyz").await;
            if answer.contains(why) {
                assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
                return;
            }
            assert!(!self.running.is_finished(), "the worker ended");
            assert!(tokio::time::Instant::now() < deadline, "{answer}");
        }
    }

    /// The value of a metric, as its line begins; 0 if there is none.
    pub async fn metric(&self, line: &str) -> f64 {
        let text = self.get("/metrics").await;
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Waits until a fact reaches a number.
    pub async fn until_seq(&mut self, seq: u64) {
        let store = self.store.clone();
        let reached = async || {
            let facts = store.facts().await.unwrap();
            facts.iter().any(|fact| fact.to_seq >= seq)
        };
        self.until(reached, &format!("seq {seq}")).await;
    }

    /// Waits until every slot holds all from `from` on up to `to`.
    pub async fn until_held(&mut self, from: u64, to: u64) {
        let store = self.store.clone();
        let all = async || is_held(&store.facts().await.unwrap(), from, to);
        self.until(all, &format!("all of {from} to {to}")).await;
    }

    /// Waits until nothing is missing that can be had, and every slot holds all up to `head`.
    pub async fn until_settled(&mut self, head: u64) {
        let (store, config) = (self.store.clone(), self.config.clone());
        let settled = async || {
            let facts = store.facts().await.unwrap();
            let wanted = Wanted::configured(&config, SlotSet::ALL, now_micros());
            let gaps = ledger::gaps(&facts, &wanted);
            gaps.iter().all(|gap| gap.lost.is_some()) && is_held(&facts, head, head)
        };
        self.until(settled, &format!("end of the replay, up to {head}"))
            .await;
    }

    /// Waits for a condition.
    pub async fn until(&mut self, condition: impl AsyncFn() -> bool, what: &str) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while !condition().await {
            if self.running.is_finished() {
                panic!(
                    "the worker ended before {what}: {:?}",
                    (&mut self.running).await
                );
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no {what} in {DEADLINE:?}"
            );
            look.tick().await;
        }
    }

    /// Stops it in an orderly way.
    pub async fn stop(self) -> Stopped {
        let (ended, stopped) = self.stop_anyhow().await;
        ended.unwrap();
        stopped
    }

    /// Tells it to stop; it may not do so in an orderly way.
    pub async fn stop_anyhow(self) -> (Result<(), DaemonError>, Stopped) {
        self.stop.cancel();
        self.end().await
    }

    /// Waits for its end.
    pub async fn end(self) -> (Result<(), DaemonError>, Stopped) {
        let ended = tokio::time::timeout(DEADLINE, self.running).await;
        let stopped = Stopped {
            store: self.store,
            home: self.home,
            dir: self.dir,
            clock: self.clock,
            service: self.service,
        };
        (ended.expect("the worker ends").unwrap(), stopped)
    }
}

impl Stopped {
    /// No worker yet, over an empty store of this binary's kind; `None` where there is no such store.
    pub async fn empty() -> Option<Self> {
        let (store, home) = crate::stores::empty().await?;
        Some(Self {
            home,
            ..Self::over(store)
        })
    }

    /// No worker yet, over this store.
    pub fn over(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            home: Arc::new(()),
            dir: Arc::new(tempfile::tempdir().unwrap()),
            clock: Arc::new(SystemClock),
            service: Service::none(),
        }
    }

    /// The same with another clock.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// The same managed as a service.
    pub fn managed_by(self, service: Service) -> Self {
        Self { service, ..self }
    }

    /// Starts again over the same store.
    pub async fn start(&self, relay: &RelayServer, set: &[&str]) -> Worker {
        self.start_as(relay, set, 0, 1).await
    }

    async fn start_as(&self, relay: &RelayServer, set: &[&str], id: u16, count: u16) -> Worker {
        self.start_at(&relay.url(), set, id, count).await
    }

    /// Starts at these relays, by comma.
    pub async fn start_at(&self, urls: &str, set: &[&str], id: u16, count: u16) -> Worker {
        let mut config = config(urls, &self.dir, set, id);
        config.worker.id = id;
        config.worker.count = count;
        let config = Arc::new(config);
        let (store, stop) = (self.store.clone(), CancellationToken::new());
        let running = tokio::spawn({
            let config = config.clone();
            let (store, stop, clock) = (store.clone(), stop.clone(), self.clock.clone());
            let service = self.service.clone();
            async move { daemon::run(&config, store, clock, service, stop).await }
        });
        Worker {
            store,
            config,
            home: self.home.clone(),
            dir: self.dir.clone(),
            clock: self.clock.clone(),
            service: self.service.clone(),
            id,
            stop,
            running,
        }
    }

    /// Every fact.
    pub async fn facts(&self) -> Vec<Fact> {
        self.store.facts().await.unwrap()
    }

    /// Up to where the newest fact goes.
    pub async fn held(&self) -> u64 {
        let facts = self.facts().await;
        facts.iter().map(|fact| fact.to_seq).max().unwrap_or(0)
    }

    /// Compares what is held with the oracle.
    pub async fn holds(&self, oracle: &Oracle) {
        let held = self.records().await;
        let wanted: BTreeMap<_, _> = oracle
            .records
            .iter()
            .map(|(key, record)| (key.clone(), (record.cid.clone(), record.rev.clone())))
            .collect();
        let missing: Vec<_> = wanted
            .keys()
            .filter(|key| !held.contains_key(*key))
            .take(5)
            .collect();
        let extra: Vec<_> = held
            .keys()
            .filter(|key| !wanted.contains_key(*key))
            .take(5)
            .collect();
        assert!(
            missing.is_empty() && extra.is_empty(),
            "missing {missing:?}, extra {extra:?}"
        );
        assert_eq!(held, wanted);
        for (did, wanted) in &oracle.repos {
            let repo = self.store.repo(did).await.unwrap().unwrap_or_default();
            let status = repo.status_text().map(str::to_owned);
            assert_eq!(
                (repo.active(), &status),
                (wanted.active, &wanted.status),
                "{did}"
            );
            assert_eq!(repo.rev.map(|rev| rev.to_string()), wanted.rev, "{did}");
            assert_eq!(repo.handle_text(), wanted.handle.as_deref(), "{did}");
        }
    }

    /// CID and revision of each record, by DID, collection and record key.
    pub async fn records(&self) -> BTreeMap<(String, String, String), (String, String)> {
        let mut held = BTreeMap::new();
        let mut query = RecordsQuery {
            limit: 10_000,
            ..RecordsQuery::default()
        };
        loop {
            let page = self.store.records(&query).await.unwrap();
            for record in page.items {
                let key = (record.did, record.collection, record.rkey);
                held.insert(key, (record.cid.to_string(), record.rev.to_string()));
            }
            query.cursor = page.cursor;
            if query.cursor.is_none() {
                return held;
            }
        }
    }
}

/// Whether every slot holds all from `from` on up to `to` in one stream.
pub fn is_held(facts: &[Fact], from: u64, to: u64) -> bool {
    let holdings = held::held(facts, &CollectionFilter::ALL, SlotSet::ALL);
    holdings.iter().all(|holding| {
        let mut intervals = holding.streams.iter().flat_map(|stream| &stream.held);
        intervals.any(|held| held.from_seq < from && held.to_seq >= to)
    })
}

fn config(urls: &str, dir: &tempfile::TempDir, set: &[&str], id: u16) -> Config {
    let mut settings = vec![
        format!("relay.urls={urls}"),
        // Nobody is asked about the DIDs of a simulation.
        "identity.plc_url=http://127.0.0.1:1".to_owned(),
        "relay.start=oldest".to_owned(),
        "relay.backoff_min=1ms".to_owned(),
        "relay.backoff_max=50ms".to_owned(),
        "http.listen=127.0.0.1:0".to_owned(),
        format!("http.socket={}/{id}.sock", dir.path().display()),
    ];
    settings.extend(set.iter().map(|setting| (*setting).to_owned()));
    let sources = Sources {
        file: None,
        set: settings,
        variables: Vec::new(),
        default_files: Vec::new(),
    };
    Config::load(&sources)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
        .config
}
