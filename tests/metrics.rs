//! Every metric in the list is really set by a daemon that runs. Alone in its process, whose registry it reads.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use penstock::store::Store;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use penstock::telemetry::metrics::{self, Kind, Metric};
use penstock_loadtest::{Pace, RelayOptions, RelayServer, StreamFaults, World, WorldSpec};

#[path = "firehose/stores.rs"]
mod stores;
#[path = "firehose/worker.rs"]
mod worker;

/// Metrics that no daemon of now sets, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    (
        "penstock_store_retries_total",
        "the embedded store has nothing to try again: its errors are final",
    ),
    (
        "penstock_backfill_records_total",
        "no host of this test has a repository",
    ),
    ("penstock_backfill_jobs_over_total", "nobody starts a job"),
    (
        "penstock_pds_throttled_total",
        "no host of this test refuses",
    ),
    (
        "penstock_identity_cache_hits_total",
        "the directory of this test does not answer",
    ),
];

/// Counts whole seconds, of which there may be none.
const MAY_STAY_0: &str = "penstock_pipeline_full_seconds_total";

/// The samples of a metric in the rendering.
fn samples<'a>(rendered: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    rendered.lines().filter(move |line| {
        let rest = line.strip_prefix(name);
        let rest = rest.map(|rest| rest.strip_prefix("_bucket").unwrap_or(rest));
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    })
}

/// Whether a metric has a sample above 0.
fn counts(rendered: &str, name: &str) -> bool {
    samples(rendered, name).any(|sample| !sample.ends_with(" 0"))
}

/// Whether the daemon set a metric. Counters begin at 0 without that.
fn is_set(rendered: &str, metric: &Metric) -> bool {
    match metric.kind == Kind::Counter && metric.name != MAY_STAY_0 {
        true => counts(rendered, metric.name),
        false => samples(rendered, metric.name).next().is_some(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_set() {
    let world = World::generate(&WorldSpec {
        seed: 90,
        repos: 60,
        events: 3_000,
        prefill: 50,
        odd_records: 0.05,
        faults: StreamFaults {
            corrupt: 0.5,
            gaps: 0.001,
            poison: 1,
            infos: 0.01,
            ..StreamFaults::default()
        },
        ..WorldSpec::default()
    });
    let options = RelayOptions {
        pace: Pace::Manual,
        published: world.log.len() - 100,
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        min_free: 1,
        ..EmbeddedOptions::new(dir.path().join("store"))
    };
    let store = Arc::new(EmbeddedStore::open(options).unwrap());
    let set = ["faults.pause=100ms"];
    let mut worker = worker::Stopped::over(store.clone())
        .start(&relay, &set)
        .await;
    worker.until_seq(relay.head() - 10).await;
    let handle = metrics::install().unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    // The gauges come with the next look, the last error with the end of the store.
    for name in ["penstock_repairs_pending", "penstock_backfill_repos_total"] {
        while !counts(&metrics::render(&handle), name) {
            tick.tick().await;
        }
    }
    store.close().await.unwrap();
    relay.publish_all();
    let (ended, _) = worker.end().await;
    assert!(ended.is_err(), "a daemon does not outlive its store");
    let rendered = metrics::render(&handle);
    let missing: Vec<&str> = metrics::METRICS
        .iter()
        .filter(|metric| !is_set(&rendered, metric))
        .map(|metric| metric.name)
        .collect();
    let excepted: Vec<&str> = EXCEPTIONS.iter().map(|(name, _)| *name).collect();
    assert_eq!(missing, excepted, "{rendered}");
    for line in [
        "penstock_store_writes_total{table=\"records\"}",
        "penstock_store_writes_total{table=\"repos\"}",
        "penstock_store_writes_total{table=\"repairs\"}",
        "penstock_store_writes_total{table=\"quarantine\"}",
        "penstock_store_writes_total{table=\"ledger\"}",
        "penstock_frames_skipped_total{reason=\"poison\"}",
        "penstock_frames_skipped_total{reason=\"unknown_type\"}",
        "penstock_store_errors_total{kind=\"closed\"}",
        "penstock_quarantined_total{reason=\"bad_cbor\"}",
    ] {
        let value = rendered.lines().find_map(|found| found.strip_prefix(line));
        let value: f64 = value.unwrap_or("0").trim().parse().unwrap();
        assert!(value > 0.0, "{line}:\n{rendered}");
    }
}
