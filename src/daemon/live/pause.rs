//! Pauses of ingestion: for faults that hit everyone, and for a clock that is wrong.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::status::Pause;
use super::super::times::{CLOCK_SAMPLES, Times};
use super::Live;
use crate::ledger::Resume;
use crate::relay::DisconnectReason;
use crate::store::StoreError;

/// How often a wrong clock is looked at again.
const CLOCK_CHECK: Duration = Duration::from_secs(1);
/// Samples that are enough to blame the clock when too many frames fail.
const FEW_SAMPLES: usize = 10;
/// Numbers before the start of a stream that are read again after a pause.
const BEFORE_START: u64 = 1_000;

impl Live {
    /// Why ingestion has to pause now. Of the two it is the clock if it can be: a clock that is far behind makes every frame
    /// fail, and for that nothing may be quarantined.
    pub(super) fn must_pause(&self) -> Option<Pause> {
        let tripped = self.parts.faults.tripped();
        let samples = if tripped { FEW_SAMPLES } else { CLOCK_SAMPLES };
        let now = self.parts.clock.now_micros();
        match self.clock_is_behind(now, samples) {
            Some(ahead) => Some(Pause::Clock {
                ahead_seconds: ahead / 1_000_000,
            }),
            None => tripped.then_some(Pause::Faults),
        }
    }

    /// By how much the times of at least so many frames are ahead of our clock, if it is too much (microseconds).
    fn clock_is_behind(&self, now: u64, samples: usize) -> Option<u64> {
        let allowed = u64::try_from(self.parts.clock_ahead.as_micros()).unwrap_or(u64::MAX);
        self.times.ahead_of(now, allowed, samples)
    }

    /// Stops reading for a while, forgets what is not durable, and goes on behind the watermark.
    pub(super) async fn pause(
        &mut self,
        pause: Pause,
        shutdown: &CancellationToken,
    ) -> Result<(), StoreError> {
        tracing::error!(reason = %pause, "ingestion pauses");
        self.parts.subscription.disconnect(DisconnectReason::Resume);
        if let Some(current) = &self.current {
            self.metrics.connected(&current.relay, false);
        }
        self.parts.status.pause(Some(pause.clone()));
        self.metrics.paused(pause.as_str(), true);
        self.parts.router.reset();
        self.parts.recorder.save(&self.progress).await?;
        match &pause {
            Pause::Faults => {
                let wait = tokio::time::sleep(self.parts.faults.limits().pause);
                tokio::select! { () = wait => {}, () = shutdown.cancelled() => {} }
            }
            Pause::Clock { .. } => self.wait_for_the_clock(shutdown).await,
        }
        self.parts.faults.resume(matches!(pause, Pause::Faults));
        self.go_back().await?;
        self.parts.status.pause(None);
        self.metrics.paused(pause.as_str(), false);
        tracing::info!("ingestion goes on behind the watermark");
        Ok(())
    }

    /// Forgets the stream and goes on behind its watermark.
    async fn go_back(&mut self) -> Result<(), StoreError> {
        let left = std::mem::take(&mut self.progress);
        self.watched.send_replace(self.progress.clone());
        self.times = Times::default();
        self.current = None;
        self.tails.clear();
        let facts = self.parts.recorder.facts().await?;
        self.go_on_behind(&facts);
        // A stream that began at the live head and of which nothing is durable yet has no fact. What came before its first
        // proven number is asked for again as well.
        if let Some((origin, at)) = left.tail()
            && !self.parts.from_oldest
            && !self.tails.contains_key(&origin.relay)
        {
            let tail = Resume {
                generation: origin.generation,
                seq: at.seq.saturating_sub(BEFORE_START),
                time: at.time,
                anchored: false,
            };
            self.tails.insert(origin.relay.clone(), tail);
        }
        Ok(())
    }

    /// Waits until our clock is no longer behind the times of the frames, which go on meanwhile.
    async fn wait_for_the_clock(&self, shutdown: &CancellationToken) {
        let began = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(CLOCK_CHECK) => {}
                () = shutdown.cancelled() => return,
            }
            let elapsed = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            let now = self.parts.clock.now_micros().saturating_sub(elapsed);
            if self.clock_is_behind(now, FEW_SAMPLES).is_none() {
                return;
            }
        }
    }
}
