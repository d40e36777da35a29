//! How fast jobs take repositories in, from a simulated network on the same machine into each kind of store.
//!
//! ```text
//! cargo bench --bench repos -- null|embedded|cql [REPOS] [RECORDS] [ROUNDS]
//! ```
//!
//! All of the way is in it: asking hosts, checking every CID, the tree and the signature, and writing. `null` forgets every record.
//! For CQL see the benchmark `cql`. The hosts keep 16 repositories as they were made, so that with as many they cost little.

#[path = "../../tests/cql/cluster.rs"]
mod cluster;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/cql/keyspaces.rs"]
mod keyspaces;
mod null;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/repos/site.rs"]
mod site;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock::backfill::jobs::{Force, JobRequest};
use penstock::fetch::{FetchLimits, FetchOptions, Fetcher};
use penstock::store::Store;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use penstock_loadtest::network::{Network, Options};
use tokio_util::sync::CancellationToken;

use cluster::Cluster;
use keyspaces::Keyspace;
use null::Null;
use site::{How, Worker};

/// The daemon's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The default of `backfill.max_bytes`.
const MEMORY: u64 = 256 << 20;

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"));
    let Some(kind) = args.next() else {
        println!("skipped: say null, embedded or cql");
        return;
    };
    let mut number = |default: usize| args.next().map_or(default, |text| text.parse().unwrap());
    let (repos, records, rounds) = (number(16), number(20_000), number(5));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let Some((store, _home)) = empty(&kind).await else {
            return;
        };
        run(&kind, &store, repos, records, rounds).await;
    });
}

/// A store, and what must live as long as it.
async fn empty(kind: &str) -> Option<(Arc<dyn Store>, Box<dyn Any>)> {
    match kind {
        "null" => Some((Arc::new(Null::default()), Box::new(()))),
        "embedded" => {
            let dir = tempfile::tempdir().unwrap();
            let options = EmbeddedOptions::new(dir.path().join("store"));
            Some((
                Arc::new(EmbeddedStore::open(options).unwrap()),
                Box::new(dir),
            ))
        }
        "cql" => {
            // It ends with this process.
            let cluster = Box::leak(Box::new(Cluster::for_speed("the benchmark repos")?));
            let keyspace = Keyspace::on(cluster);
            Some((keyspace.open().await, Box::new(keyspace)))
        }
        _ => panic!("null, embedded or cql, not {kind}"),
    }
}

async fn run(kind: &str, store: &Arc<dyn Store>, repos: usize, records: usize, rounds: usize) {
    let network = Network::start(Options {
        hosts: 4,
        repos,
        large: repos,
        large_records: records,
        did_web: 0.0,
        ..Options::default()
    })
    .unwrap();
    let bytes = sizes(&network).await;
    let how = How {
        memory: MEMORY,
        ..How::default()
    };
    let worker = Worker::start(&network, store, &how).await;
    let mut rates = Vec::new();
    for round in 1..=rounds {
        let began = Instant::now();
        let view = worker
            .run(JobRequest {
                force: Some(Force::FullSync),
                origin: "api".to_owned(),
                ..JobRequest::default()
            })
            .await;
        let failures = worker.failures(view.id.parse().unwrap()).await;
        assert!(failures.is_empty(), "{failures:?}");
        let seconds = (began.elapsed() - store.sync_lag()).as_secs_f64();
        let rate = view.total_records as f64 / seconds;
        println!(
            "{kind}, round {round}: {} records and {bytes} bytes of {repos} repositories in {seconds:.2} s: {rate:.0} records/s, {:.0} MB/s, {:.0} repositories/s",
            view.total_records,
            bytes as f64 / 1e6 / seconds,
            repos as f64 / seconds,
        );
        rates.push(rate);
    }
    rates.sort_by(f64::total_cmp);
    println!("{kind}: median {:.0} records/s", rates[rates.len() / 2]);
    worker.stop().await;
}

/// Bytes of all CARs; the hosts make them at the first time.
async fn sizes(network: &Network) -> u64 {
    let fetcher = Fetcher::new(&FetchOptions {
        allow_private: true,
        ..FetchOptions::default()
    });
    let fetcher = fetcher.unwrap();
    let limits = FetchLimits {
        bytes: u64::MAX,
        time: Duration::from_secs(600),
        idle: Duration::from_secs(600),
    };
    let never = CancellationToken::new();
    let hosts: Vec<&str> = network.host_urls().collect();
    let mut bytes = 0;
    for did in network.dids() {
        let host = hosts[network.host_of(&did).unwrap()];
        let url = format!("{host}/xrpc/com.atproto.sync.getRepo?did={did}");
        bytes += fetcher.get(&url, limits, &never).await.unwrap().len() as u64;
    }
    bytes
}
