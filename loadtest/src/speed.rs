//! Measures how fast a daemon takes a prepared stream in, live or by replay: durable events a second in each quarter, memory, CPU.
//!
//! The relay runs in this process and serves as fast as it is read; the daemon is a process of its own with an empty
//! store. What counts is the daemon's watermark, which is durable, read from its metrics every 50 ms.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::{Prepared, RelayOptions, RelayServer};

/// How often the watermark is read.
pub(crate) const STEP: Duration = Duration::from_millis(50);
/// A daemon whose watermark stands still for so long has failed.
pub(crate) const STANDSTILL: Duration = Duration::from_secs(60);

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
    let samples = daemon.watch(listen, by, relay.head());
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

#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub resident_max: u64,
    pub cpu_seconds: f64,
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

pub(crate) struct Daemon(Child);

impl Daemon {
    pub fn start(
        penstock: &Path,
        data: &Path,
        url: &str,
        listen: SocketAddr,
        settings: &[(&str, &str)],
        set: &[String],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(penstock);
        command
            .arg("run")
            .env("RELAY_URL", url)
            .envs(settings.iter().copied())
            .env("DATA_DIR", data)
            .env("HTTP_LISTEN", listen.to_string())
            .stdin(Stdio::null());
        for setting in set {
            command.args(["--set", setting]);
        }
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", penstock.display()))?;
        Ok(Self(child))
    }

    /// Follows the watermark until it reaches `head`.
    fn watch(&mut self, listen: SocketAddr, by: By, head: u64) -> anyhow::Result<Vec<Sample>> {
        let began = Instant::now();
        let mut samples: Vec<Sample> = Vec::new();
        let mut moved = began;
        loop {
            self.runs()?;
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

    /// Fails if it has ended.
    pub fn runs(&mut self) -> anyhow::Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("the daemon ended early: {status}"),
            None => Ok(()),
        }
    }

    pub fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.0.id().to_string();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        let resident_max = kib.context("no VmHWM in /proc")? * 1024;
        Ok(Usage {
            resident_max,
            cpu_seconds: cpu_seconds(&pid)?,
        })
    }

    pub fn stop(&mut self) -> anyhow::Result<()> {
        let pid = self.0.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let status = self.0.wait()?;
        if !status.success() {
            bail!("the daemon did not end well: {status}");
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Only after a failure is it still there.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU seconds of a process, from its user and system time in hundredths of a second.
#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn cpu_seconds(pid: &str) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<u64>().ok());
    Ok(ticks.sum::<u64>() as f64 / 100.0)
}

pub(crate) fn free_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

fn watermark(listen: SocketAddr, by: By) -> Option<u64> {
    let name = format!("penstock_watermark_seq{{stream=\"{}\"}}", by.name());
    metric(&get(listen, "/metrics").ok()?, &name)
}

/// A number of an exposition.
pub(crate) fn metric(text: &str, name: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.parse::<f64>().ok().map(|number| number as u64)
}

pub(crate) fn get(listen: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(listen)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {listen}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
