//! Writes down what is held: the facts of the ledger, each second and at the end.

use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::pipeline::Progress;
use crate::store::{Fact, Store, StoreError};
use crate::telemetry::metrics as names;

/// How often facts are written.
const PERIOD: Duration = Duration::from_secs(1);

/// Saves the facts of a stream.
pub(crate) struct Recorder {
    store: Arc<dyn Store>,
    written: Counter,
}

impl Recorder {
    /// Writes into this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let written = names::STORE_WRITES.with(["ledger"]);
        Self { store, written }
    }

    /// Saves the facts that grew. A fact is only made of what is durable, so it may be written at any time.
    pub async fn save(&self, progress: &Progress) -> Result<(), StoreError> {
        let facts = progress.facts();
        if !facts.is_empty() {
            if let Err(error) = self.store.put_facts(&facts).await {
                names::STORE_ERRORS.with([error.kind()]).increment(1);
                return Err(error);
            }
            self.written.increment(facts.len() as u64);
            progress.saved(&facts);
        }
        Ok(())
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
            self.save(&current).await?;
        }
    }
}
