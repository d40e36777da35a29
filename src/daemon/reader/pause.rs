//! Pauses of ingestion: for faults that hit everyone, and for a clock that is wrong.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::status::Pause;
use super::super::times::{CLOCK_SAMPLES, Times};
use super::Reader;
use crate::ledger::Resume;
use crate::pipeline::Progress;
use crate::relay::DisconnectReason;
use crate::store::{Fact, StoreError};

/// How often a wrong clock is looked at again.
const CLOCK_CHECK: Duration = Duration::from_secs(1);
/// How often a store that does not answer is asked again.
const STORE_CHECK: Duration = Duration::from_secs(1);
/// Samples that are enough to blame the clock when too many frames fail.
const FEW_SAMPLES: usize = 10;
/// Numbers before the start of a stream that are read again after a pause.
const BEFORE_START: u64 = 1_000;

impl Reader {
    /// Why ingestion has to pause now. Of the two it is the clock if it can be: a clock that is far behind makes every frame
    /// fail, and for that nothing may be quarantined.
    pub(super) fn must_pause(&self) -> Option<Pause> {
        if self.parts.recorder.is_doubtful(&self.progress) {
            return Some(Pause::Store);
        }
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
            // The facts can be read once it is back.
            Pause::Store => {}
            Pause::Faults => {
                let wait = tokio::time::sleep(self.parts.faults.limits().pause);
                tokio::select! { () = wait => {}, () = shutdown.cancelled() => {} }
            }
            Pause::Clock { .. } => self.wait_for_the_clock(shutdown).await,
        }
        // The stream goes on behind the facts: with a store that syncs late they have to be waited for.
        tokio::select! {
            saved = self.parts.recorder.settle(&self.progress) => saved?,
            () = shutdown.cancelled() => {}
        }
        self.parts.faults.resume(matches!(pause, Pause::Faults));
        self.go_back(shutdown).await?;
        self.parts.status.pause(None);
        self.metrics.paused(pause.as_str(), false);
        tracing::info!("ingestion goes on behind the watermark");
        Ok(())
    }

    /// Forgets the stream and goes on behind its watermark.
    async fn go_back(&mut self, shutdown: &CancellationToken) -> Result<(), StoreError> {
        self.times = Times::default();
        self.current = None;
        if let Some(passing) = &mut self.passing {
            passing.go_back_to(self.parts.recorder.claimed().await);
            self.start_over();
            self.go_on_with_the_pass();
            return Ok(());
        }
        let Some(facts) = self.facts(shutdown).await? else {
            return Ok(());
        };
        let left = self.start_over();
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

    /// Begins another progress; gives the one that was.
    fn start_over(&mut self) -> Arc<Progress> {
        let next = self.parts.recorder.progress();
        let left = std::mem::replace(&mut self.progress, next);
        self.watched.send_replace(self.progress.clone());
        left
    }

    /// Every fact; waits for a store that does not answer now. `None` at the shutdown.
    async fn facts(&self, shutdown: &CancellationToken) -> Result<Option<Vec<Fact>>, StoreError> {
        loop {
            let read = self.parts.recorder.facts();
            match shutdown.run_until_cancelled(read).await {
                None => return Ok(None),
                Some(Err(error @ StoreError::Unavailable(_))) => {
                    tracing::warn!(%error, "ingestion goes on once the ledger can be read");
                    let wait = tokio::time::sleep(STORE_CHECK);
                    let _ = shutdown.run_until_cancelled(wait).await;
                }
                Some(read) => return read.map(Some),
            }
        }
    }

    /// Waits until our clock is no longer behind the frames.
    async fn wait_for_the_clock(&self, shutdown: &CancellationToken) {
        let began = Instant::now();
        let allowed = u64::try_from(self.parts.clock_ahead.as_micros()).unwrap_or(u64::MAX);
        loop {
            tokio::select! {
                () = tokio::time::sleep(CLOCK_CHECK) => {}
                () = shutdown.cancelled() => return,
            }
            let elapsed = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            if is_over(&self.times, self.parts.clock.now_micros(), elapsed, allowed) {
                return;
            }
        }
    }
}

/// Whether a pause for the clock is over, after `elapsed` (all times in microseconds): the clock was set right, allowing for
/// the frames that went on meanwhile; or it has come to the frames' own time by itself, so that they can be read again with
/// nothing ahead in them. Without the latter a relay whose clock was ahead for a moment would stop us for ever.
fn is_over(times: &Times, now: u64, elapsed: u64, allowed: u64) -> bool {
    let was_set = times.ahead_of(now.saturating_sub(elapsed), allowed, FEW_SAMPLES);
    was_set.is_none() || times.ahead_of(now, 0, FEW_SAMPLES).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const MINUTE: u64 = 60 * SECOND;

    #[test]
    fn a_pause_ends_when_the_clock_is_set_or_the_frames_time_has_come() {
        let ours = 1_000 * MINUTE;
        let mut times = Times::default();
        for _ in 0..CLOCK_SAMPLES {
            times.sample(ours + 5 * MINUTE, ours);
        }
        let over = |now, elapsed| is_over(&times, now, elapsed, MINUTE);
        assert!(!over(ours + SECOND, SECOND));
        assert!(over(ours + 5 * MINUTE + SECOND, SECOND), "it was set");
        assert!(!over(ours + 4 * MINUTE + SECOND, 4 * MINUTE + SECOND));
        // It went on at its own pace: it was the frames that were ahead, or they can be read by now.
        assert!(over(ours + 5 * MINUTE, 5 * MINUTE));
    }
}
