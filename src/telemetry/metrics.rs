//! Every metric: name, type, labels and meaning, once.
//!
//! A family gives a handle for its label values: `RELAY_FRAMES.with(["live"]).increment(1)`. Looking a handle up takes a
//! lock and allocates, so hot paths keep theirs. Handles that are made before [`install`] do nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Label};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::VERSION;
use crate::config::Worker;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A value of now.
    Gauge,
    /// A distribution over [`BUCKETS`], in seconds.
    Histogram,
}

/// An entry of the list of metrics.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name, with its prefix.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels. Each has few values.
    pub labels: &'static [&'static str],
    /// What it means, with its unit.
    pub help: &'static str,
}

/// A counter with N labels.
#[derive(Debug)]
pub struct CounterFamily<const N: usize>(Metric);
/// A gauge with N labels.
#[derive(Debug)]
pub struct GaugeFamily<const N: usize>(Metric);
/// A histogram with N labels.
#[derive(Debug)]
pub struct HistogramFamily<const N: usize>(Metric);

impl<const N: usize> CounterFamily<N> {
    /// The name, with its prefix.
    pub const fn name(&self) -> &'static str {
        self.0.name
    }

    /// The counter of these label values, in the order of the family's labels.
    pub fn with(&self, values: [&str; N]) -> Counter {
        ::metrics::counter!(self.0.name, labels(&self.0, values))
    }

    /// Shows these counters as 0 until they count: one that first appears as 1 was never seen to grow.
    pub fn begin<'a>(&self, all: impl IntoIterator<Item = [&'a str; N]>) {
        for values in all {
            self.with(values).increment(0);
        }
    }
}

impl<const N: usize> GaugeFamily<N> {
    /// The name, with its prefix.
    pub const fn name(&self) -> &'static str {
        self.0.name
    }

    /// The gauge of these label values, in the order of the family's labels.
    pub fn with(&self, values: [&str; N]) -> Gauge {
        ::metrics::gauge!(self.0.name, labels(&self.0, values))
    }

    /// Shows these gauges, as 0 until they are set.
    pub fn begin<'a>(&self, all: impl IntoIterator<Item = [&'a str; N]>) {
        for values in all {
            self.with(values).increment(0.0);
        }
    }
}

impl<const N: usize> HistogramFamily<N> {
    /// The name, with its prefix.
    pub const fn name(&self) -> &'static str {
        self.0.name
    }

    /// The histogram of these label values, in the order of the family's labels.
    pub fn with(&self, values: [&str; N]) -> Histogram {
        ::metrics::histogram!(self.0.name, labels(&self.0, values))
    }
}

fn labels<const N: usize>(metric: &Metric, values: [&str; N]) -> Vec<Label> {
    let pairs = metric.labels.iter().zip(values);
    pairs
        .map(|(name, value)| Label::new(*name, value.to_owned()))
        .collect()
}

macro_rules! count {
    () => { 0 };
    ($first:literal $($rest:literal)*) => { 1 + count!($($rest)*) };
}

macro_rules! families {
    ($($id:ident: $kind:ident $family:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: $family<{ count!($($label)*) }> = $family(Metric {
                name: concat!("penstock_", $name),
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            });
        )*

        /// The list: every metric but the usual `process_*`.
        pub const METRICS: &[Metric] = &[$($id.0),*];
    };
}

families! {
    READY: Gauge GaugeFamily "ready" []
        "1 while the relay is connected, nothing pauses ingestion and the store answers, as /readyz says it, else 0";
    RELAY_CONNECTED: Gauge GaugeFamily "relay_connected" ["relay"]
        "1 while the subscription to this relay is open, else 0";
    RELAY_RECONNECTS: Counter CounterFamily "relay_reconnects_total" ["relay", "reason"]
        "Connections to this relay that ended or could not be opened, by reason";
    RELAY_FRAMES: Counter CounterFamily "relay_frames_total" ["stream"]
        "Frames received";
    RELAY_BYTES: Counter CounterFamily "relay_bytes_total" ["stream"]
        "Bytes of the frames received";
    RELAY_SEQ: Gauge GaugeFamily "relay_seq" ["stream"]
        "The newest seq received that follows what came before";
    RELAY_LAG: Gauge GaugeFamily "relay_lag_seconds" []
        "Now minus the time of the newest event received, in seconds";
    RELAY_SEQ_JUMPS: Counter CounterFamily "relay_seq_jumps_total" ["relay"]
        "Steps in the numbering of this relay that left a gap in the ledger: something is missing";
    WATERMARK_LAG: Gauge GaugeFamily "watermark_lag_seconds" []
        "Now minus the time of the newest event at or below which everything is durable, in seconds";
    WATERMARK_SEQ: Gauge GaugeFamily "watermark_seq" ["stream"]
        "The seq at or below which everything is durable";
    FRAMES_SKIPPED: Counter CounterFamily "frames_skipped_total" ["reason"]
        "Frames that were received and not taken in, by reason";
    EVENTS: Counter CounterFamily "events_total" ["type"]
        "Events decoded, by type";
    OPS: Counter CounterFamily "ops_total" ["action", "source"]
        "Operations on records, by action and where they came from";
    QUARANTINED: Counter CounterFamily "quarantined_total" ["reason"]
        "Frames that went to the quarantine, by reason";
    QUARANTINE_BYTES: Gauge GaugeFamily "quarantine_bytes" []
        "Raw bytes that the quarantine holds";
    RECORD_FAULTS: Counter CounterFamily "record_faults_total" ["reason"]
        "Records that break the data model and were stored as they are, by reason";
    PIPELINE_QUEUED_FRAMES: Gauge GaugeFamily "pipeline_queued_frames" []
        "Frames that wait to be decoded";
    PIPELINE_LANE_QUEUED_FRAMES: Gauge GaugeFamily "pipeline_lane_queued_frames" ["lane"]
        "Frames that wait to be decoded by this lane";
    PIPELINE_QUEUED_BYTES: Gauge GaugeFamily "pipeline_queued_bytes" []
        "Bytes of the frames that wait to be decoded";
    PIPELINE_FULL: Counter CounterFamily "pipeline_full_seconds_total" []
        "Seconds in which reading stood still because a queue was full";
    PIPELINE_IN_FLIGHT: Gauge GaugeFamily "pipeline_in_flight_bytes" []
        "Bytes of the batches that were handed to the store and are not durable yet";
    DECODE: Histogram HistogramFamily "decode_seconds" []
        "Time to decode a frame, in seconds: one sample a chunk, the mean of its frames";
    STORE_WRITE: Histogram HistogramFamily "store_write_seconds" []
        "Time from handing a batch to the store until it is durable, in seconds";
    STORE_WRITES: Counter CounterFamily "store_writes_total" ["table"]
        "Rows written, by table";
    STORE_ERRORS: Counter CounterFamily "store_errors_total" ["kind"]
        "Errors of the store, by kind";
    STORE_RETRIES: Counter CounterFamily "store_retries_total" []
        "Requests that were tried again; none with the embedded store";
    STORE_IN_FLIGHT: Gauge GaugeFamily "store_in_flight" []
        "Requests to the database that are on their way; none with the embedded store";
    STORE_IN_FLIGHT_LIMIT: Gauge GaugeFamily "store_in_flight_limit" []
        "How many may be on their way: falls when the database can't keep up, and grows again with its answers; 0 with the embedded store";
    STORE_DISK_BYTES: Gauge GaugeFamily "store_disk_bytes" []
        "Bytes of the embedded store on disk";
    STORE_FREE_BYTES: Gauge GaugeFamily "store_free_bytes" []
        "Free bytes on the disk of the embedded store";
    STORE_MIN_FREE_BYTES: Gauge GaugeFamily "store_min_free_bytes" []
        "Free bytes on the disk of the embedded store below which the daemon stops: store.embedded.min_free";
    STORE_LEASE_HELD: Gauge GaugeFamily "store_lease_held" []
        "1 while this worker may write: its lease in the database holds (the embedded store needs none), else 0";
    LEDGER_MISSING: Gauge GaugeFamily "ledger_missing_seconds" []
        "Time in which slots of this worker miss something that is wanted: between held intervals, and of the window; in seconds";
    LEDGER_GAPS: Gauge GaugeFamily "ledger_gaps" ["state"]
        "Intervals that slots of this worker miss: to be replayed, or lost to the relays and to be repaired from repositories, or not worth that";
    BACKFILL_WORKER: Gauge GaugeFamily "backfill_worker" []
        "1 where this worker replays what is missing, for all workers: worker 0 does, else 0";
    WINDOW_PROGRESS: Gauge GaugeFamily "backfill_window_progress_ratio" []
        "What part of the missing time was replayed since nothing was missing last; 1 when nothing is";
    WINDOW_ETA: Gauge GaugeFamily "backfill_window_eta_seconds" []
        "Seconds until all that is missing and can be replayed is, at the rate of the pass that runs; 0 when nothing is missing, NaN while unknown";
    WINDOW_TIME: Gauge GaugeFamily "backfill_window_time_seconds" []
        "Time of the newest event that the replay has read, in seconds since the epoch";
    REPAIRS_PENDING: Gauge GaugeFamily "repairs_pending" ["reason"]
        "Repairs that wait, by reason";
    BACKFILL_REPOS: Counter CounterFamily "backfill_repos_total" ["outcome"]
        "Repositories that jobs were done with, by outcome: done, skipped, inactive, failed";
    BACKFILL_RECORDS: Counter CounterFamily "backfill_records_total" []
        "Records that jobs wrote";
    BACKFILL_JOBS: Gauge GaugeFamily "backfill_jobs" ["status"]
        "Jobs that are pending or running; the standing one that works repairs off is always running";
    BACKFILL_CATCH_UPS: Gauge GaugeFamily "backfill_catch_up_jobs" ["status"]
        "Jobs of type catch_up that are pending or running: they repair what no relay serves";
    BACKFILL_WAITING: Gauge GaugeFamily "backfill_waiting_repos" []
        "Repositories that running jobs have found and are not done with; without the standing job";
    BACKFILL_ETA: Gauge GaugeFamily "backfill_jobs_eta_seconds" []
        "Seconds until the last of the jobs is over, each at its rate so far; 0 when there is none, NaN while unknown";
    BACKFILL_OVER: Counter CounterFamily "backfill_jobs_over_total" ["type", "outcome"]
        "Jobs that came to an end, by their type and by how: complete, partial (some repositories or hosts failed), failed, cancelled";
    PDS_THROTTLED: Counter CounterFamily "pds_throttled_total" ["reason"]
        "Times that a host made a request wait for its rate limits, by what told how long";
    IDENTITY_CACHE_HITS: Counter CounterFamily "identity_cache_hits_total" []
        "Identities that were answered from memory";
    IDENTITY_FETCHES: Counter CounterFamily "identity_fetches_total" ["outcome"]
        "Identities that were asked for at their directory or host, by outcome";
    INGEST_PAUSED: Gauge GaugeFamily "ingest_paused" ["reason"]
        "1 while ingestion is paused for this reason, else 0";
    BUILD_INFO: Gauge GaugeFamily "build_info" ["version"]
        "1, with the version that runs";
    WORKER_INFO: Gauge GaugeFamily "worker_info" ["worker_id", "worker_count"]
        "1, with this worker's number and how many there are";
}

/// Upper bounds of every histogram, in seconds: microseconds of decoding to stalls of the disk.
pub const BUCKETS: [f64; 20] = [
    1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Why metrics could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The buckets were refused.
    #[error("the histograms' buckets were refused: {0}")]
    Buckets(#[from] metrics_exporter_prometheus::BuildError),
    /// Someone else installed a recorder in this process.
    #[error("another recorder of metrics is installed")]
    Taken,
}

static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// Installs the recorder of this process, or gives the handle of the one that is installed.
///
/// Samples of histograms wait in memory until [`render`] or `run_upkeep` puts them into buckets: call the latter every few
/// seconds. Nothing listens; the HTTP surface serves what [`render`] gives.
pub fn install() -> Result<PrometheusHandle, InstallError> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Prefix("penstock_".to_owned()), &BUCKETS)?
        .build_recorder();
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder).map_err(|_| InstallError::Taken)?;
    describe_all();
    BUILD_INFO.with([VERSION]).set(1.0);
    *installed = Some(handle.clone());
    Ok(handle)
}

/// Tells the recorder the meaning of every metric.
pub fn describe_all() {
    for Metric {
        name, kind, help, ..
    } in METRICS
    {
        match kind {
            Kind::Counter => ::metrics::describe_counter!(*name, *help),
            Kind::Gauge => ::metrics::describe_gauge!(*name, *help),
            Kind::Histogram => ::metrics::describe_histogram!(*name, *help),
        }
    }
    metrics_process::Collector::default().describe();
}

/// Shows which worker this is.
pub fn set_worker(worker: &Worker) {
    let (id, count) = (worker.id.to_string(), worker.count.to_string());
    WORKER_INFO.with([&id, &count]).set(1.0);
}

/// All metrics of now in Prometheus' text format, those of the process among them. Reads `/proc`; takes milliseconds.
pub fn render(handle: &PrometheusHandle) -> String {
    metrics_process::Collector::default().collect();
    handle.render()
}

/// Adds up times in a counter of whole seconds; what is less than a second waits here.
pub struct SecondsCounter {
    counter: Counter,
    micros: AtomicU64,
}

impl SecondsCounter {
    /// Counts into this counter.
    pub fn new(counter: Counter) -> Self {
        Self {
            counter,
            micros: AtomicU64::new(0),
        }
    }

    /// Adds a time.
    pub fn add(&self, time: Duration) {
        const SECOND: u64 = 1_000_000;
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let before = self.micros.fetch_add(micros, Ordering::Relaxed);
        let whole = before.wrapping_add(micros) / SECOND - before / SECOND;
        self.counter.increment(whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            let total = metric.name.ends_with("_total");
            assert_eq!(total, metric.kind == Kind::Counter, "{}", metric.name);
            let seconds = metric.name.ends_with("_seconds");
            assert!(seconds || metric.kind != Kind::Histogram, "{}", metric.name);
        }
    }

    #[test]
    fn what_is_counted_is_rendered() {
        let handle = install().unwrap();
        let again = install().unwrap();
        EVENTS.with(["unknown"]).increment(1);
        OPS.with(["delete", "live"]).increment(3);
        let decode = DECODE.with([]);
        for _ in 0..1000 {
            decode.record(3e-6);
        }
        RELAY_FRAMES.with(["live"]).increment(2);
        QUARANTINED.with(["bad_cbor"]).increment(1);
        QUARANTINED.begin([["bad_cbor"], ["bad_car"]]);
        STORE_DISK_BYTES.with([]).set(7.0);
        STORE_DISK_BYTES.begin([[]]);
        let full = SecondsCounter::new(PIPELINE_FULL.with([]));
        (0..5).for_each(|_| full.add(Duration::from_millis(700)));
        let text = render(&again);
        for line in [
            "# TYPE penstock_events_total counter",
            "# HELP penstock_ops_total Operations on records, by action and where they came from",
            "penstock_events_total{type=\"unknown\"} 1",
            "penstock_ops_total{action=\"delete\",source=\"live\"} 3",
            "penstock_relay_frames_total{stream=\"live\"} 2",
            "penstock_quarantined_total{reason=\"bad_cbor\"} 1",
            "penstock_quarantined_total{reason=\"bad_car\"} 0",
            "penstock_store_disk_bytes 7",
            "penstock_pipeline_full_seconds_total 3",
            "# TYPE penstock_decode_seconds histogram",
            "penstock_decode_seconds_bucket{le=\"0.0000025\"} 0",
            "penstock_decode_seconds_bucket{le=\"0.000005\"} 1000",
            "penstock_decode_seconds_count 1000",
            "# TYPE process_resident_memory_bytes gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "no '{line}' in\n{text}");
        }
        assert!(text.contains(&format!("penstock_build_info{{version=\"{VERSION}\"}} 1")));
        handle.run_upkeep();
    }
}
