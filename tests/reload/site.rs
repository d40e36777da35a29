//! An installation with a configuration file, between a simulated network and what it holds of it.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use penstock::config::CollectionFilter;
use penstock::decode::Tid;
use penstock::store::{Fact, FactKind};
use penstock_loadtest::network::{Expected, Network, Options};
use rustix::process::Signal;
use serde_json::Value;

use crate::installed::{Daemon, Installation, get};
use crate::relay::{Relay, now};

pub const POST: &str = "app.bsky.feed.post";
pub const LIKE: &str = "app.bsky.feed.like";
/// What the log says of a key that was taken up.
pub const TAKEN_UP: &str = "a change of the configuration was taken up";
/// The same of one that was not.
pub const REFUSED: &str = "a change of this key needs a restart: it was not taken up";

/// A create that the relay sent.
pub struct Sent {
    pub seq: u64,
    /// `DID/COLLECTION/RKEY`.
    pub path: String,
}

pub struct Site {
    pub network: Network,
    pub relay: Relay,
    pub installation: Installation,
}

impl Site {
    /// With this configuration file; nothing runs yet.
    pub async fn new(file: &str) -> Self {
        let network = Network::start(Options {
            repos: 20,
            did_web: 0.0,
            ..Options::default()
        })
        .unwrap();
        let relay = Relay::start(&network).await;
        let mut installation = Installation::following(&relay.url)
            .with("PLC_URL", network.plc_url())
            .with("PENSTOCK_NET__ALLOW_PRIVATE", "true");
        installation.unset("RUST_LOG");
        installation.configure(file);
        Self {
            network,
            relay,
            installation,
        }
    }

    pub fn start(&self) -> Running<'_> {
        Running {
            site: self,
            daemon: self.installation.start(),
        }
    }

    /// What the network has of a collection.
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

    /// Has the relay send a create of now.
    pub fn send(&self, collection: &str, rkey: &str) -> Sent {
        let did = &self.network.dids()[0];
        let path = format!("{collection}/{rkey}");
        let seq = self.relay.create(did, &path, Tid::new(now(), 1));
        let path = format!("{did}/{path}");
        Sent { seq, path }
    }

    /// What is held of a collection.
    pub async fn held(&self, collection: &str) -> BTreeSet<String> {
        let args = ["dump", "--no-value", "--collection", collection];
        let printed = self.installation.prints(&args).await;
        let lines = printed.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let record: Value = serde_json::from_slice(line).unwrap();
                let part = |name: &str| record[name].as_str().unwrap().to_owned();
                format!("{}/{}/{}", part("did"), part("collection"), part("rkey"))
            })
            .collect()
    }

    /// Every fact; the daemon must be gone.
    pub async fn facts(&self) -> Vec<Fact> {
        let store = self.installation.store().await.unwrap();
        let facts = store.facts().await.unwrap();
        store.close().await.unwrap();
        facts
    }

    /// No fact says of these that they were taken in unless they are held; the daemon must be gone.
    pub async fn assert_true(&self, sent: &[Sent]) {
        let facts = self.facts().await;
        let held = [self.held(POST).await, self.held(LIKE).await].concat_sets();
        for Sent { seq, path } in sent {
            let collection = path.split('/').nth(1).unwrap();
            let claims = |fact: &&Fact| {
                let filter = CollectionFilter::parse(&fact.filter).unwrap();
                let read = matches!(fact.kind, FactKind::Live | FactKind::Replay);
                read && filter.wants(collection) && fact.from_seq < *seq && *seq <= fact.to_seq
            };
            let claim = facts.iter().find(claims);
            assert!(
                claim.is_none() || held.contains(path),
                "{path} of {seq} is not held, but: {claim:?}"
            );
        }
    }
}

trait Concat {
    fn concat_sets(self) -> BTreeSet<String>;
}

impl<const N: usize> Concat for [BTreeSet<String>; N] {
    fn concat_sets(self) -> BTreeSet<String> {
        self.into_iter().flatten().collect()
    }
}

/// A daemon that runs over a site.
pub struct Running<'a> {
    pub site: &'a Site,
    pub daemon: Daemon,
}

impl Deref for Running<'_> {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Running<'_> {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

impl Running<'_> {
    /// Writes another file and sends the signal.
    pub fn reload(&self, file: &str) {
        self.site.installation.configure(file);
        self.daemon.signal(Signal::HUP);
    }

    /// Waits until the log has a line about a key with this message; gives the newest.
    pub async fn until_key(&mut self, message: &str, key: &str) -> Value {
        self.daemon
            .until_line(message, |line| line["key"] == key)
            .await
    }

    /// Waits for a condition, while the stream goes on.
    pub async fn until_with_ticks(&mut self, what: &str, mut is: impl AsyncFnMut() -> bool) {
        let relay = &self.site.relay;
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        let condition = async || {
            ticks.tick().await;
            relay.tick();
            is().await
        };
        self.daemon.until(what, condition).await;
    }

    /// Waits until all up to a number is durable and in the ledger.
    pub async fn until_seq(&mut self, seq: u64) {
        let socket = self.site.installation.socket();
        self.until_with_ticks("a number is held", async || {
            let Some(gaps) = get(&socket, "/admin/gaps").await else {
                return false;
            };
            let gaps: Value = serde_json::from_str(&gaps).unwrap();
            let held = gaps["held"].as_array().unwrap().iter();
            held.filter_map(|span| span["to_seq"].as_u64())
                .any(|to| to >= seq)
        })
        .await;
    }

    /// The jobs of an origin.
    pub async fn jobs(&self, origin: &str) -> Vec<Value> {
        let all = get(&self.site.installation.socket(), "/admin/backfill/status").await;
        let all: Value = serde_json::from_str(&all.unwrap_or_else(|| "[]".to_owned())).unwrap();
        let all = all.as_array().unwrap().iter();
        let of_origin = all.filter(|job| job["origin"] == origin);
        of_origin.cloned().collect()
    }

    /// Waits until the log says that the job for what the configuration has more is over; gives the job.
    pub async fn until_fetched(&mut self) -> Value {
        let socket = self.site.installation.socket();
        let completed = async || {
            let all = get(&socket, "/admin/backfill/status").await;
            let all: Value = serde_json::from_str(&all.unwrap_or_else(|| "[]".into())).unwrap();
            let mut all = all.as_array().unwrap().iter();
            all.any(|job| job["origin"] == "configuration" && job["status"] == "completed")
        };
        self.until_with_ticks("the job is over", completed).await;
        let job = self.jobs("configuration").await.swap_remove(0);
        assert_eq!(job["failed_repos"], 0, "{job}");
        job
    }
}
