//! What is measured now and then: lags, queues, the store's health, what is missing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::status::Status;
use super::trail::Trail;
use crate::api::{DaemonStatus, WantedNow};
use crate::clock::Clock;
use crate::ledger::{self, Gap, Wanted};
use crate::pipeline::{Depth, Point, Progress};
use crate::slot::SlotSet;
use crate::store::{RepairKind, Store, StoreError};
use crate::telemetry::metrics as names;

/// How often lags and queues are measured.
const PERIOD: Duration = Duration::from_millis(200);
/// What the rate is made from is noted every so many periods,
const RATE: u64 = 5;
/// the store's health is asked for every so many,
const HEALTH: u64 = 25;
/// people hear how it goes every so many,
const WORDS: u64 = 50;
/// and the reading of the ledger every so many.
const LEDGER: u64 = 300;
/// How long the store may take to say how it is.
const STORE_ANSWERS: Duration = Duration::from_secs(5);

/// Measures what nobody counts.
pub(crate) struct Gauges {
    store: Arc<dyn Store>,
    status: Arc<Status>,
    progress: watch::Receiver<Arc<Progress>>,
    clock: Arc<dyn Clock>,
    wanted: WantedNow,
    slots: SlotSet,
    /// Reasons of repairs that were shown.
    reasons: Vec<String>,
    /// Whether the store answered last, and takes writes.
    store_works: bool,
    watermarks: Trail<Option<Point>>,
    /// The watermark as it may be claimed: what a store that syncs late may still lose is above it.
    watermark: Option<Point>,
    rendering: PrometheusHandle,
}

impl Gauges {
    pub fn new(
        store: Arc<dyn Store>,
        status: Arc<Status>,
        progress: watch::Receiver<Arc<Progress>>,
        clock: Arc<dyn Clock>,
        wanted: WantedNow,
        slots: SlotSet,
        rendering: PrometheusHandle,
    ) -> Self {
        let watermarks = Trail::new(store.sync_lag());
        Self {
            store,
            status,
            progress,
            clock,
            wanted,
            slots,
            reasons: RepairKind::REASONS.map(str::to_owned).into(),
            store_works: false,
            watermarks,
            watermark: None,
            rendering,
        }
    }

    /// Measures until the shutdown.
    pub async fn run(mut self, depth: Depth, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut periods = 0_u64;
        let mut told = (Instant::now(), self.status.frames());
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = shutdown.cancelled() => return,
            }
            self.stream(&depth);
            crate::telemetry::flush_repeated();
            if (periods + 1).is_multiple_of(WORDS) {
                told = self.tell(&depth, told);
            }
            // A store that fails here fails its writes as well, and those stop the daemon.
            if periods.is_multiple_of(RATE) {
                self.status.measure();
            }
            if periods.is_multiple_of(HEALTH) {
                // Samples of histograms wait in memory until then; nobody may ever ask for the metrics.
                self.rendering.run_upkeep();
                let health = tokio::time::timeout(STORE_ANSWERS, self.health()).await;
                self.store_works = matches!(health, Ok(Ok(true)));
            }
            if periods.is_multiple_of(LEDGER) {
                let _ = self.missing().await;
            }
            periods += 1;
        }
    }

    fn stream(&mut self, depth: &Depth) {
        let now = self.clock.now_micros();
        if self.status.newest_time() > 0 {
            names::RELAY_LAG
                .with([])
                .set(lag(now, self.status.newest_time()));
        }
        let progress = self.progress.borrow().clone();
        match progress.outages() == self.store.outages() {
            true => self.watermarks.note(progress.watermark()),
            false => self.watermarks.clear(),
        }
        if let Some(watermark) = self.watermarks.due() {
            self.watermark = watermark;
        }
        if let Some(at) = self.watermark {
            names::WATERMARK_SEQ.with(["live"]).set(gauge(at.seq));
            if at.time > 0 {
                names::WATERMARK_LAG.with([]).set(lag(now, at.time));
            }
        }
        let ready = self.store_works && self.status.not_ready().is_empty();
        names::READY.with([]).set(flag(ready));
        names::STORE_LEASE_HELD
            .with([])
            .set(flag(self.store.may_write()));
        names::PIPELINE_IN_FLIGHT
            .with([])
            .set(gauge(depth.in_flight() as u64));
        let (frames, bytes) = depth.queued();
        names::PIPELINE_QUEUED_FRAMES
            .with([])
            .set(gauge(frames as u64));
        names::PIPELINE_QUEUED_BYTES
            .with([])
            .set(gauge(bytes as u64));
        for (lane, frames) in depth.of_lanes().enumerate() {
            names::PIPELINE_LANE_QUEUED_FRAMES
                .with([&lane.to_string()])
                .set(gauge(frames as u64));
        }
    }

    /// Says how it goes; `told` is when this was last said and how many frames there were.
    fn tell(&self, depth: &Depth, told: (Instant, u64)) -> (Instant, u64) {
        let (now, frames) = (Instant::now(), self.status.frames());
        let trouble = self.status.not_ready();
        if !trouble.is_empty() {
            tracing::warn!(reason = trouble.join("; "), "not following the relay");
            return (now, frames);
        }
        let behind = self
            .clock
            .now_micros()
            .saturating_sub(self.status.newest_time());
        tracing::info!(
            frames_per_second = per_second(frames.saturating_sub(told.1), now - told.0),
            lag_seconds = (self.status.newest_time() > 0).then_some(behind / 1_000_000),
            watermark = self.watermark.map(|at| at.seq),
            queued = depth.queued().0,
            "following the relay"
        );
        (now, frames)
    }

    /// Measures the store; whether it takes writes.
    async fn health(&mut self) -> Result<bool, StoreError> {
        let health = self.store.health().await?;
        for reason in self.reasons.drain(..) {
            names::REPAIRS_PENDING.with([&reason]).set(0.0);
        }
        for (reason, count) in &health.repairs {
            names::REPAIRS_PENDING.with([reason]).set(gauge(*count));
            self.reasons.push(reason.clone());
        }
        names::QUARANTINE_BYTES
            .with([])
            .set(gauge(health.quarantine_bytes));
        if let Some(bytes) = health.disk_bytes {
            names::STORE_DISK_BYTES.with([]).set(gauge(bytes));
        }
        if let Some(bytes) = health.free_bytes {
            names::STORE_FREE_BYTES.with([]).set(gauge(bytes));
        }
        if let Some(bytes) = health.min_free_bytes {
            names::STORE_MIN_FREE_BYTES.with([]).set(gauge(bytes));
        }
        Ok(health.trouble.is_none())
    }

    async fn missing(&self) -> Result<(), StoreError> {
        let wanted = Wanted {
            slots: self.slots,
            ..(self.wanted)()
        };
        let gaps = ledger::gaps(&self.store.facts().await?, &wanted);
        let micros = ledger::missing_micros(gaps.iter());
        names::LEDGER_MISSING
            .with([])
            .set(Duration::from_micros(micros).as_secs_f64());
        let state = |gap: &Gap| match gap.lost {
            None => "pending",
            Some(_) if gap.is_worth_a_repair(&wanted) => "lost",
            Some(_) => "edge",
        };
        for of in ["pending", "lost", "edge"] {
            let count = gaps.iter().filter(|gap| state(gap) == of).count();
            names::LEDGER_GAPS.with([of]).set(gauge(count as u64));
        }
        Ok(())
    }
}

/// Rounded to whole ones.
pub(super) fn per_second(count: u64, time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1000) / millis
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge")]
fn gauge(value: u64) -> f64 {
    value as f64
}

fn lag(now: u64, then: u64) -> f64 {
    Duration::from_micros(now.saturating_sub(then)).as_secs_f64()
}
