//! Tells the service manager how it goes: ready once it is live, a line of status, and a sign of life while the pipeline works.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::gauges::per_second;
use super::recorder::Recorder;
use super::status::Status;
use crate::api::{DaemonStatus, store_says};
use crate::clock::Clock;
use crate::pipeline::{Progress, Work};
use crate::service::Service;
use crate::service::watchdog::{Stages, Watchdog};
use crate::store::Store;

/// The longest time between two lines of status.
const PERIOD: Duration = Duration::from_secs(5);
/// The same until it is live, for others may wait for that.
const STARTING: Duration = Duration::from_secs(1);
/// So often the pipeline is looked at within the time that the manager waits for a sign of life.
const LOOKS: u32 = 4;

/// What is looked at.
pub(super) struct Announcer {
    pub service: Service,
    pub store: Arc<dyn Store>,
    pub status: Arc<Status>,
    pub clock: Arc<dyn Clock>,
    pub progress: watch::Receiver<Arc<Progress>>,
    pub recorder: Arc<Recorder>,
    pub work: Work,
}

impl Announcer {
    /// Tells it until `serving` ends; from `stop` on no more than that it works.
    pub async fn run(self, stop: CancellationToken, serving: CancellationToken) {
        if !self.service.listens() {
            return;
        }
        let _ = serving.run_until_cancelled(self.announce(stop)).await;
    }

    async fn announce(self, stop: CancellationToken) {
        let every = match self.service.watchdog() {
            Some(patience) => PERIOD.min(patience / LOOKS),
            None => PERIOD,
        };
        let mut watchdog = Watchdog::default();
        let mut is_ready = false;
        let mut told = (Instant::now(), self.status.frames());
        loop {
            let said = store_says(&*self.store).await;
            let store_waits = self.store.waits() || matches!(said, Ok(Some(_)));
            let has_reason_to_wait = self.status.is_paused() || store_waits;
            if watchdog.works(self.stages(), has_reason_to_wait) {
                self.service.alive();
            }
            if !stop.is_cancelled() {
                let mut trouble = self.status.not_ready();
                trouble.extend(said.unwrap_or_else(Some));
                if trouble.is_empty() && !is_ready {
                    self.service.ready();
                    is_ready = true;
                }
                let now = (Instant::now(), self.status.frames());
                self.service.status(&self.words(&trouble, told, now));
                told = now;
            }
            tokio::time::sleep(if is_ready { every } else { every.min(STARTING) }).await;
        }
    }

    fn stages(&self) -> Stages {
        Stages {
            lanes: self.work.at(),
            stream: self.progress.borrow().oldest(),
            ledger: self.recorder.under_way(),
        }
    }

    /// How it goes; `told` and `now` are two moments, each with how many frames there were.
    fn words(&self, trouble: &[String], told: (Instant, u64), now: (Instant, u64)) -> String {
        if !trouble.is_empty() {
            // One line, whatever others say.
            return format!("not live: {}", trouble.join("; ").replace('\n', " "));
        }
        let mut words = String::from("live");
        let durable = self.progress.borrow().watermark();
        if let Some(at) = durable.filter(|at| at.time > 0) {
            let lag = self.clock.now_micros().saturating_sub(at.time);
            let lag = Duration::from_micros(lag).as_secs_f64();
            words.push_str(&format!(", lag {lag:.1} s"));
        }
        let rate = per_second(now.1.saturating_sub(told.1), now.0 - told.0);
        words.push_str(&format!(", {rate} events/s"));
        if let Some(share) = self.status.replay() {
            words.push_str(&format!(", replay {:.1}%", share * 100.0));
        }
        words
    }
}
