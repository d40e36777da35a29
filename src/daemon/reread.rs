//! A configuration that was read again while a worker runs: what of it may change is taken up.
//!
//! Collections go first, for only they need the store; where it does not answer, nothing changes. Each worker follows them as it
//! follows those that are chosen over the API: with a fact that says so, in a chunk of its own. Jobs come by themselves, on worker
//! 0, from the difference to what was fetched before, which is kept in the store: a kill at any point leaves nothing undone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::collections::Choosing;
use super::repos;
use crate::clock::Clock;
use crate::config::{Backfill, Config};
use crate::store::indexed::{Index, note_narrowing};
use crate::store::{Store, StoreError};

/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a configuration was not taken up.
#[derive(Debug, thiserror::Error)]
pub enum TakeUpError {
    /// The store did not do what other collections need.
    #[error("the store: {0}; send the signal again once it answers")]
    Store(#[from] StoreError),
    /// The same, in time.
    #[error("the store did not answer for {} s; send the signal again once it does", PATIENCE.as_secs())]
    Late,
    /// There is no worker any more.
    #[error("the worker is stopping")]
    Stopping,
}

/// What is asked for.
#[derive(Debug)]
struct Request {
    config: Box<Config>,
    done: oneshot::Sender<Result<(), TakeUpError>>,
}

/// Asks a worker to take another configuration up.
#[derive(Debug, Clone)]
pub struct Reread(mpsc::Sender<Request>);

/// What a worker is asked to take up.
#[derive(Debug)]
pub struct Rereads(mpsc::Receiver<Request>);

/// Who asks, and what the worker gets of it.
pub fn rereads() -> (Reread, Rereads) {
    let (send, receive) = mpsc::channel(1);
    (Reread(send), Rereads(receive))
}

impl Reread {
    /// Has this configuration taken up: all that differs from the one in effect must be what a running worker can change. Waits
    /// until the worker has started.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub async fn take_up(&self, config: Config) -> Result<(), TakeUpError> {
        let (done, taken_up) = oneshot::channel();
        let config = Box::new(config);
        let request = Request { config, done };
        let asked = self.0.send(request).await;
        asked.map_err(|_| TakeUpError::Stopping)?;
        taken_up.await.unwrap_or(Err(TakeUpError::Stopping))
    }
}

/// What of a worker changes.
pub(super) struct Changeable {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub index: Arc<Index>,
    pub limits: watch::Sender<Arc<Backfill>>,
    /// On worker 0.
    pub jobs: Option<Arc<Choosing>>,
}

impl Rereads {
    /// Takes up what is asked for, one after the other, as long as anybody may ask.
    pub(super) async fn follow(mut self, changing: Changeable) {
        while let Some(Request { config, done }) = self.0.recv().await {
            // Who asked may be gone.
            let _ = done.send(changing.take_up(&config).await);
        }
    }
}

impl Changeable {
    async fn take_up(&self, config: &Config) -> Result<(), TakeUpError> {
        if *self.index.configured() != config.collections {
            let indexing = tokio::time::timeout(PATIENCE, self.index(config));
            indexing.await.map_err(|_| TakeUpError::Late)??;
        }
        self.limits.send_replace(Arc::new(config.backfill.clone()));
        let Some(jobs) = &self.jobs else {
            return Ok(());
        };
        repos::keep_to(&jobs.tools, config);
        jobs.asked.notify_one();
        if let Err(error) = jobs.roster.reconsider().await {
            // They find it out by themselves.
            tracing::warn!(%error, "a job for what is not indexed any more is not cancelled yet");
        }
        Ok(())
    }

    /// Has other collections indexed. A job that works over all of them is told first if there will be fewer, for it can't claim
    /// them any more.
    async fn index(&self, config: &Config) -> Result<(), StoreError> {
        let changing = self.index.lock().await;
        let narrower = !config.collections.covers(&self.index.configured());
        if narrower && self.jobs.is_some() {
            note_narrowing(&*self.store, self.clock.now_micros()).await?;
        }
        changing.configure(&*self.store, &config.collections).await
    }
}
