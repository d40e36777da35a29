//! Measures how far a daemon is behind a stream of a steady rate while a job takes repositories in as fast as it can.
//!
//! Relay and network run in this process; the daemon is a process of its own with an empty store. Every 50 ms the
//! daemon's metrics are asked for its watermark; the lag is the time since the next event was due. Jobs follow one another, each of
//! which fetches every repository anew, until the stream ends.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::daemon::{Daemon, STANDSTILL, STEP, free_address, get, metric};
use crate::network::Network;
use crate::{Pace, Prepared, RelayOptions, RelayServer};

/// What was measured. Seconds, unless it says otherwise.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Lag {
    /// Events of the stream, all of them durable at the end.
    pub events: u64,
    /// How long the stream took.
    pub seconds: f64,
    /// Events published a second.
    pub events_per_second: f64,
    /// Lag that half of the samples are below,
    pub lag_median: f64,
    /// that 99 of 100 are below,
    pub lag_99: f64,
    /// and the highest.
    pub lag_max: f64,
    /// Jobs that came to their end meanwhile.
    pub jobs: u64,
    /// Records that they wrote a second.
    pub job_records_per_second: f64,
    /// Highest resident memory of the daemon, in bytes.
    pub resident_max: u64,
    /// CPU seconds of the daemon.
    pub daemon_cpu_seconds: f64,
}

/// Runs the daemon `penstock` over the stream at `rate` events a second, with its store in `data` (which must not exist), beside jobs
/// over the network if there is one. (The accounts of the stream have no hosts.)
pub fn measure(
    prepared: &Prepared,
    rate: f64,
    network: Option<&Network>,
    penstock: &Path,
    data: &Path,
    set: &[String],
) -> anyhow::Result<Lag> {
    if data.exists() {
        bail!(
            "{} exists: the measurement wants an empty store",
            data.display()
        );
    }
    let options = RelayOptions {
        pace: Pace::Manual,
        lists: network.map(Network::relay_routes),
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(prepared, options)?;
    let listen = free_address()?;
    let settings = [
        (
            "PLC_URL",
            network.map_or("http://127.0.0.1:1", Network::plc_url),
        ),
        ("PENSTOCK_RELAY__START", "oldest"),
        ("PENSTOCK_NET__ALLOW_PRIVATE", "true"),
        ("PENSTOCK_BACKFILL__REQUESTS_PER_SECOND", "1000"),
    ];
    let mut daemon = Daemon::start(penstock, data, &relay.url(), listen, &settings, set)?;
    let text = || get(listen, "/metrics").ok();
    let began = Instant::now();
    while text().is_none() {
        daemon.runs()?;
        if began.elapsed() > STANDSTILL {
            bail!("the daemon does not answer");
        }
        std::thread::park_timeout(STEP);
    }
    let dids = network.map(Network::dids).unwrap_or_default();
    let (stop, jobs) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut lag, records) = std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            while network.is_some() && !stop.load(Ordering::Relaxed) {
                run_job(penstock, data, &dids)?;
                jobs.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
        let began = Instant::now();
        let events = prepared.log.len();
        let (relay, stop) = (&relay, &stop);
        scope.spawn(move || publish(relay, events, rate, began, stop));
        let followed = follow(prepared, rate, began, &mut daemon, || {
            let text = text()?;
            let seq = metric(&text, "penstock_watermark_seq{stream=\"live\"}").unwrap_or(0);
            let records = metric(&text, "penstock_backfill_records_total").unwrap_or(0);
            Some((seq, records))
        });
        stop.store(true, Ordering::Relaxed);
        match working.join() {
            Ok(worked) => worked.and(followed),
            Err(_) => bail!("the thread of the jobs panicked"),
        }
    })?;
    let usage = daemon.usage()?;
    daemon.stop()?;
    lag.jobs = jobs.into_inner();
    lag.job_records_per_second = records / lag.seconds;
    (lag.resident_max, lag.daemon_cpu_seconds) = (usage.resident_max, usage.cpu_seconds);
    Ok(lag)
}

/// Starts a job over these repositories, complete or not, and waits for its end.
fn run_job(penstock: &Path, data: &Path, dids: &[String]) -> anyhow::Result<()> {
    let mut command = Command::new(penstock);
    command
        .args(["backfill", "start", "--force", "full_sync", "--wait"])
        .args(dids.iter().flat_map(|did| ["--did", did]))
        .env("DATA_DIR", data)
        .env("RUST_LOG", "error");
    let done = command
        .output()
        .with_context(|| format!("starting {}", penstock.display()))?;
    if !done.status.success() {
        bail!("a job failed: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

/// Publishes all events at the rate, whatever the daemon does.
fn publish(relay: &RelayServer, events: usize, rate: f64, began: Instant, stop: &AtomicBool) {
    while relay.published() < events && !stop.load(Ordering::Relaxed) {
        let due = (began.elapsed().as_secs_f64() * rate) as usize;
        let more = due.min(events).saturating_sub(relay.published());
        relay.publish(more);
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Waits until all events are durable. Gives the lag, and how many records jobs wrote meanwhile.
#[expect(clippy::cast_precision_loss, reason = "counts for people")]
fn follow(
    prepared: &Prepared,
    rate: f64,
    began: Instant,
    daemon: &mut Daemon,
    look: impl Fn() -> Option<(u64, u64)>,
) -> anyhow::Result<(Lag, f64)> {
    let log = prepared.log.entries();
    let mut lags: Vec<f64> = Vec::new();
    let mut moved = (0, began);
    let mut first_records = None;
    loop {
        daemon.runs()?;
        if let Some((seq, records)) = look() {
            let first_records = *first_records.get_or_insert(records);
            let durable = log.partition_point(|entry| entry.seq <= seq);
            let seconds = began.elapsed().as_secs_f64();
            // When the next one was due.
            lags.push((seconds - (durable + 1) as f64 / rate).max(0.0));
            if durable > moved.0 {
                moved = (durable, Instant::now());
            }
            if durable == log.len() {
                let written = records.saturating_sub(first_records) as f64;
                return Ok((Lag::of(lags, durable as u64, seconds), written));
            }
        }
        if moved.1.elapsed() > STANDSTILL {
            bail!(
                "{} events are durable, no more since {STANDSTILL:?}",
                moved.0
            );
        }
        std::thread::park_timeout(STEP);
    }
}

impl Lag {
    #[expect(clippy::cast_precision_loss, reason = "counts for people")]
    fn of(mut lags: Vec<f64>, events: u64, seconds: f64) -> Self {
        lags.sort_unstable_by(f64::total_cmp);
        let at = |share: usize| {
            let place = (lags.len() * share / 100).min(lags.len().saturating_sub(1));
            lags.get(place).copied().unwrap_or_default()
        };
        Self {
            events,
            seconds,
            events_per_second: events as f64 / seconds,
            lag_median: at(50),
            lag_99: at(99),
            lag_max: at(100),
            ..Self::default()
        }
    }
}
