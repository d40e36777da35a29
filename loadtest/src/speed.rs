//! Measures how fast a daemon takes a prepared stream in, live or by replay: durable events a second in each quarter, memory, CPU.
//!
//! The relay runs in this process and serves as fast as it is read; the daemon is a process of its own with an empty
//! store. What counts is the daemon's watermark, which is durable, read from its metrics every 50 ms.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde::Serialize;

use crate::daemon::{Daemon, STANDSTILL, STEP, Usage, cpu_seconds, free_address, get, metric};
use crate::{Prepared, RelayOptions, RelayServer};

/// By which of the daemon's streams a prepared one is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The live stream, from the oldest frame on.
    Live,
    /// A replay of the window, beside a live stream that has nothing new.
    Replay,
}

impl By {
    /// As the daemon's metrics name it.
    fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Replay => "replay",
        }
    }

    /// The setting that makes the daemon do so.
    fn setting(self) -> (&'static str, &'static str) {
        match self {
            Self::Live => ("PENSTOCK_RELAY__START", "oldest"),
            Self::Replay => ("BACKFILL_DAYS", "-1"),
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Speed {
    /// Durable events.
    pub events: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Until all of them were durable.
    pub seconds: f64,
    /// Durable events a second over all.
    pub events_per_second: f64,
    /// The same in each quarter of the stream.
    pub quarters: Vec<f64>,
    /// Highest resident memory of the daemon, in bytes.
    pub resident_max: u64,
    /// CPU seconds of the daemon.
    pub daemon_cpu_seconds: f64,
    /// CPU seconds of the relay.
    pub relay_cpu_seconds: f64,
}

/// Runs the daemon `penstock` over the stream, with its store in `data` (which must not exist) and these settings.
pub fn measure(
    prepared: &Prepared,
    penstock: &Path,
    data: &Path,
    by: By,
    set: &[String],
) -> anyhow::Result<Speed> {
    if data.exists() {
        bail!(
            "{} exists: the measurement wants an empty store",
            data.display()
        );
    }
    let relay = RelayServer::start(prepared, RelayOptions::default())?;
    let listen = free_address()?;
    let settings = [("PLC_URL", "http://127.0.0.1:1"), by.setting()];
    let mut daemon = Daemon::start(penstock, data, &relay.url(), listen, &settings, set)?;
    let samples = watch(&mut daemon, listen, by, relay.head());
    let usage = daemon.usage()?;
    daemon.stop()?;
    let samples = samples?;
    let bytes = prepared.log.entries().last().map_or(0, |last| last.end);
    Ok(Speed::of(&samples, relay.head(), bytes, usage))
}

/// When the watermark was where.
struct Sample {
    at: Duration,
    seq: u64,
}

impl Speed {
    #[expect(clippy::cast_precision_loss, reason = "counts for people")]
    fn of(samples: &[Sample], events: u64, bytes: u64, daemon: Usage) -> Self {
        let when = |seq: u64| {
            let sample = samples.iter().find(|sample| sample.seq >= seq);
            sample.map_or(0.0, |sample| sample.at.as_secs_f64())
        };
        let ends: Vec<f64> = (0..=4)
            .map(|quarter| when((events * quarter / 4).max(1)))
            .collect();
        let quarters = ends
            .windows(2)
            .map(|ends| events as f64 / 4.0 / (ends[1] - ends[0]).max(1e-3));
        let seconds = ends[4] - ends[0];
        Self {
            events,
            bytes,
            seconds,
            events_per_second: events as f64 / seconds.max(1e-3),
            quarters: quarters.collect(),
            resident_max: daemon.resident_max,
            daemon_cpu_seconds: daemon.cpu_seconds,
            relay_cpu_seconds: cpu_seconds("self").unwrap_or(0.0),
        }
    }
}

/// Follows the watermark until it reaches `head`.
fn watch(
    daemon: &mut Daemon,
    listen: SocketAddr,
    by: By,
    head: u64,
) -> anyhow::Result<Vec<Sample>> {
    let began = Instant::now();
    let mut samples: Vec<Sample> = Vec::new();
    let mut moved = began;
    loop {
        daemon.runs()?;
        let seq = watermark(listen, by).unwrap_or(0);
        if samples.last().is_none_or(|last| seq > last.seq) {
            samples.push(Sample {
                at: began.elapsed(),
                seq,
            });
            moved = Instant::now();
        }
        if seq >= head {
            return Ok(samples);
        }
        if moved.elapsed() > STANDSTILL {
            bail!("the watermark stands at {seq} of {head} since {STANDSTILL:?}");
        }
        std::thread::park_timeout(STEP);
    }
}

fn watermark(listen: SocketAddr, by: By) -> Option<u64> {
    let name = format!("penstock_watermark_seq{{stream=\"{}\"}}", by.name());
    metric(&get(listen, "/metrics").ok()?, &name)
}
