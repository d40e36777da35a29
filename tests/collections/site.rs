//! A daemon between the network and a store, and what is asked of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use penstock::clock::SystemClock;
use penstock::config::{CollectionFilter, Config, Sources};
use penstock::daemon::{self, DaemonError};
use penstock::decode::Tid;
use penstock::service::Service;
use penstock::store::{FactKind, RecordsQuery, Store};
use penstock_loadtest::network::{Expected, Network, Options};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::relay::{Relay, now};
use crate::stores::{self, Home};

/// What the configuration names.
pub const POST: &str = "app.bsky.feed.post";
/// What is added.
pub const LIKE: &str = "app.bsky.feed.like";
/// Longer than any wait that ends well.
const DEADLINE: Duration = Duration::from_secs(60);

/// A network, a relay, a store, and worker 0.
pub struct Site {
    pub network: Network,
    pub relay: Relay,
    pub store: Arc<dyn Store>,
    dir: tempfile::TempDir,
    _home: Home,
    /// What the daemon runs on: without it, it is as good as killed.
    runtime: Option<Runtime>,
    running: JoinHandle<Result<(), DaemonError>>,
    stop: CancellationToken,
    collections: &'static str,
}

impl Site {
    /// Over a store of this binary's, if there is one.
    pub async fn new(collections: &'static str) -> Option<Self> {
        Some(Self::over(stores::empty().await?, collections).await)
    }

    /// The same over one that outlives a process.
    pub async fn lasting(collections: &'static str) -> Option<Self> {
        Some(Self::over(stores::lasting().await?, collections).await)
    }

    async fn over((store, home): (Arc<dyn Store>, Home), of: &'static str) -> Self {
        let network = Network::start(Options {
            repos: 40,
            did_web: 0.0,
            ..Options::default()
        })
        .unwrap();
        let relay = Relay::start(&network).await;
        let mut site = Self {
            network,
            relay,
            store,
            dir: tempfile::tempdir().unwrap(),
            _home: home,
            runtime: None,
            running: tokio::spawn(async { Ok(()) }),
            stop: CancellationToken::new(),
            collections: of,
        };
        site.start().await;
        site
    }

    /// Starts the daemon and waits until it follows.
    pub async fn start(&mut self) {
        let config = Arc::new(config(self));
        let (store, stop) = (self.store.clone(), CancellationToken::new());
        self.stop = stop.clone();
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        self.running = runtime.spawn(async move {
            daemon::run(&config, store, Arc::new(SystemClock), Service::none(), stop).await
        });
        self.runtime = Some(runtime);
        self.until("the daemon is ready", async |site| {
            site.try_call("GET", "/readyz", None)
                .await
                .is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    /// Ends it as by a kill: nothing is saved.
    pub async fn kill(&mut self) {
        let runtime = self.runtime.take();
        tokio::task::spawn_blocking(move || drop(runtime))
            .await
            .unwrap();
        self.running.abort();
    }

    pub async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.running).await.unwrap().unwrap();
        self.kill().await;
    }

    /// Waits for a condition, while the stream goes on.
    pub async fn until(&self, what: &str, is: impl AsyncFn(&Self) -> bool) {
        let waiting = async {
            let mut look = tokio::time::interval(Duration::from_millis(50));
            while !is(self).await {
                assert!(
                    !self.running.is_finished(),
                    "the daemon ended before {what}"
                );
                look.tick().await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, waiting).await;
        assert!(waited.is_ok(), "never: {what}");
    }

    /// The same where the stream has to go on for it.
    pub async fn until_with_ticks(&self, what: &str, is: impl AsyncFn(&Self) -> bool) {
        self.until(what, async |site| {
            site.relay.tick();
            is(site).await
        })
        .await;
    }

    /// Waits until a frame is in the ledger.
    pub async fn until_seq(&self, seq: u64) {
        self.until_with_ticks("a number is held", async |site| {
            let facts = site.store.facts().await.unwrap();
            facts.iter().any(|fact| fact.to_seq >= seq)
        })
        .await;
    }

    /// Sends a create of now, and waits until it was taken in or left out.
    pub async fn create(&self, did: &str, path: &str) {
        self.create_at(did, path, now()).await;
    }

    pub async fn create_at(&self, did: &str, path: &str, micros: u64) {
        let seq = self.relay.create(did, path, Tid::new(micros, 1));
        self.until_seq(seq).await;
    }

    /// Waits until the newest live fact is of a filter that wants likes, or does not.
    pub async fn until_likes_are(&self, wanted: bool) {
        self.until_with_ticks("the stream follows the choice", async |site| {
            let facts = site.store.facts().await.unwrap();
            let live = facts.iter().filter(|fact| fact.kind == FactKind::Live);
            let newest = live.max_by_key(|fact| fact.to_seq);
            newest.is_some_and(|fact| {
                CollectionFilter::parse(&fact.filter).unwrap().wants(LIKE) == wanted
            })
        })
        .await;
    }

    async fn try_call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let mut stream = UnixStream::connect(self.dir.path().join("it.sock"))
            .await
            .ok()?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let status = answer.get(9..12)?.parse().ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = Some(&body).filter(|body| !body.is_null());
        self.try_call(method, path, body).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call("GET", path, Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Adds likes; gives the job.
    pub async fn add(&self, backfill: bool) -> Option<String> {
        let body = json!({"nsid": LIKE, "backfill": backfill});
        let (status, answer) = self.call("POST", "/admin/collections", body).await;
        assert_eq!(status, 200, "{answer}");
        answer["job"].as_str().map(str::to_owned)
    }

    pub async fn remove(&self, purge: bool) {
        let path = format!("/admin/collections/{LIKE}?purge={purge}");
        let (status, answer) = self.call("DELETE", &path, Value::Null).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// What is listed: with each name whether it is configured, and whether its records are being removed.
    pub async fn listed(&self) -> BTreeMap<String, (bool, bool)> {
        let answer = self.get("/admin/collections").await;
        let rows = answer["collections"].as_array().unwrap().iter();
        rows.map(|row| {
            let said = |name: &str| row[name].as_bool().unwrap();
            let nsid = row["nsid"].as_str().unwrap().to_owned();
            (nsid, (said("configured"), said("purging")))
        })
        .collect()
    }

    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("/admin/backfill/{id}")).await
    }

    /// Waits for the good end of a job.
    pub async fn completed(&self, id: &str) -> Value {
        self.until_with_ticks("the job is over", async |site| {
            let job = site.job(id).await;
            assert!(
                job["status"] != "failed" && job["status"] != "cancelled",
                "{job}"
            );
            job["status"] == "completed"
        })
        .await;
        let job = self.job(id).await;
        assert_eq!(job["failed_repos"], 0, "{job}");
        job
    }

    /// Waits until nothing is being purged.
    pub async fn purged(&self) {
        self.until_with_ticks("the purge is over", async |site| {
            !site.listed().await.contains_key(LIKE)
        })
        .await;
    }

    /// `DID/COLLECTION/RKEY` of what is held of a collection.
    pub async fn held(&self, collection: &str) -> BTreeSet<String> {
        let mut held = BTreeSet::new();
        let mut query = RecordsQuery {
            collection: Some(collection.to_owned()),
            limit: 1_000,
            ..RecordsQuery::default()
        };
        loop {
            let page = self.store.records(&query).await.unwrap();
            let paths = page.items.iter();
            held.extend(paths.map(|of| format!("{}/{}/{}", of.did, of.collection, of.rkey)));
            query.cursor = page.cursor;
            if query.cursor.is_none() {
                return held;
            }
        }
    }

    /// The same of what the network has.
    pub fn published(&self, collection: &str) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for did in self.network.dids() {
            if let Some(Expected::Records { records, .. }) = self.network.expected(&did) {
                let paths = records.into_iter().map(|record| record.path);
                let paths = paths.filter(|path| path.starts_with(&format!("{collection}/")));
                all.extend(paths.map(|path| format!("{did}/{path}")));
            }
        }
        assert!(!all.is_empty());
        all
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn config(site: &Site) -> Config {
    let dir = site.dir.path().display();
    let set = vec![
        format!("relay.urls={}", site.relay.url),
        format!("identity.plc_url={}", site.network.plc_url()),
        format!("collections={}", site.collections),
        format!("http.socket={dir}/it.sock"),
        "http.listen=127.0.0.1:0".to_owned(),
        "relay.start=oldest".to_owned(),
        "relay.backoff_min=1ms".to_owned(),
        "relay.backoff_max=50ms".to_owned(),
        "net.allow_private=true".to_owned(),
        "backfill.requests_per_second=1000".to_owned(),
    ];
    let sources = Sources {
        file: None,
        set,
        variables: Vec::new(),
        default_files: Vec::new(),
    };
    Config::load(&sources).unwrap().config
}
