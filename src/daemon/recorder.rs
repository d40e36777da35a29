//! Writes down what is held: the facts of the ledger, each second and at the end.
//!
//! What is acknowledged may still be lost with the servers' power for [`Store::sync_lag`]: facts are noted when they are
//! true of what is acknowledged, and written when they are so old. A process that ends in between has claimed less.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::Counter;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::trail::Trail;
use crate::pipeline::{Point, Progress};
use crate::store::{Fact, Store, StoreError};
use crate::telemetry::metrics as names;

/// How often facts are written.
const PERIOD: Duration = Duration::from_secs(1);
/// A lag that is worth waiting for at the end.
const SHORT_LAG: Duration = Duration::from_secs(1);

/// Saves the facts of a stream.
pub(crate) struct Recorder {
    store: Arc<dyn Store>,
    written: Counter,
    /// Grows as [`Recorder::run`] begins to save and again as it has: odd in between.
    saves: AtomicU64,
    state: Mutex<State>,
}

/// What was noted of one progress at a time.
struct State {
    progress: Arc<Progress>,
    trail: Trail<Noted>,
    claimed: Option<Point>,
}

/// What is true of the stream once it is durable.
struct Noted {
    facts: Vec<Fact>,
    watermark: Option<Point>,
}

impl Recorder {
    /// Writes into this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let written = names::STORE_WRITES.with(["ledger"]);
        let state = Mutex::new(State {
            progress: Arc::default(),
            trail: Trail::new(store.sync_lag()),
            claimed: None,
        });
        Self {
            store,
            written,
            saves: AtomicU64::new(0),
            state,
        }
    }

    /// Notes the facts that grew, and saves those noted so long ago that what they claim is durable. What was noted of another
    /// progress and is not saved is forgotten, and so is all of a progress in whose time the store was away: that is read again.
    pub async fn save(&self, progress: &Arc<Progress>) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        if self.is_doubtful(progress) {
            state.trail.clear();
            return Ok(());
        }
        if !Arc::ptr_eq(&state.progress, progress) {
            state.progress = progress.clone();
            state.trail.clear();
            state.claimed = None;
        }
        // The watermark first: the facts never lag behind it.
        let watermark = progress.watermark();
        let facts = progress.facts();
        state.trail.note(Noted { facts, watermark });
        let Some(due) = state.trail.due() else {
            return Ok(());
        };
        if !due.facts.is_empty() {
            if let Err(error) = self.store.put_facts(&due.facts).await {
                names::STORE_ERRORS.with([error.kind()]).increment(1);
                return Err(error);
            }
            self.written.increment(due.facts.len() as u64);
            progress.saved(&due.facts);
        }
        state.claimed = due.watermark;
        Ok(())
    }

    /// Saves the last facts of a stream that has stopped. With a short lag it waits until all can be claimed; after a long one
    /// that is left to a restart, which reads the last moments again.
    pub async fn finish(&self, progress: &Arc<Progress>) -> Result<(), StoreError> {
        match self.store.sync_lag() <= SHORT_LAG {
            true => self.settle(progress).await,
            false => self.save(progress).await,
        }
    }

    /// Saves until nothing is left to claim of a stream that has stopped; with a lag that takes as long as the lag.
    pub async fn settle(&self, progress: &Arc<Progress>) -> Result<(), StoreError> {
        loop {
            self.save(progress).await?;
            let left = progress.facts();
            if left.is_empty() || self.is_doubtful(progress) {
                return Ok(());
            }
            let state = self.state.lock().await;
            let due = state.trail.due_at(|noted| noted.facts == left);
            drop(state);
            // What just changed is noted in the next round.
            if let Some(due) = due {
                tokio::time::sleep_until(due).await;
            }
        }
    }

    /// Whether what is not claimed yet may be gone: the store was away since the stream began.
    pub fn is_doubtful(&self, progress: &Progress) -> bool {
        progress.outages() != self.store.outages()
    }

    /// The progress of a stream that begins now.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::new(Progress::after(self.store.outages()))
    }

    /// Where a restart goes on: the watermark of what was saved last of this progress.
    pub async fn claimed(&self) -> Option<Point> {
        self.state.lock().await.claimed
    }

    /// The number of the save that is under way, each another one.
    pub fn under_way(&self) -> Option<u64> {
        let saves = self.saves.load(Ordering::Relaxed);
        (!saves.is_multiple_of(2)).then_some(saves)
    }

    /// Every fact.
    pub async fn facts(&self) -> Result<Vec<Fact>, StoreError> {
        self.store.facts().await
    }

    /// Saves each second until the shutdown.
    pub async fn run(
        self: Arc<Self>,
        progress: watch::Receiver<Arc<Progress>>,
        shutdown: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            let current = progress.borrow().clone();
            self.saves.fetch_add(1, Ordering::Relaxed);
            self.save(&current).await?;
            self.saves.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
