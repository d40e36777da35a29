//! A job in memory: how far it is for who asks, and what it is told.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::model::JobView;
use super::record::{Counts, Job};
use crate::store::{Store, StoreError};

/// A job that is not over, as it is now.
pub(super) struct Live {
    state: Mutex<(Job, Counts)>,
    pub cancel: CancellationToken,
    /// Whether its end is written.
    pub over: watch::Sender<bool>,
}

impl Live {
    pub fn new(job: Job) -> Self {
        let counts = job.body.counts.clone();
        Self {
            state: Mutex::new((job, counts)),
            cancel: CancellationToken::new(),
            over: watch::Sender::new(false),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, (Job, Counts)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows how far it is.
    pub fn show(&self, job: &Job, counts: Counts) {
        *self.state() = (job.clone(), counts);
    }

    pub fn job(&self) -> Job {
        self.state().0.clone()
    }

    /// Shows what is stored: whether the last write went through is not known.
    pub async fn read_again(&self, store: &dyn Store) -> Result<(), StoreError> {
        match store.job(self.job().id).await {
            Ok(Some(row)) => {
                let job = Job::read(&row)?;
                self.show(&job, job.body.counts.clone());
                Ok(())
            }
            Ok(None) | Err(StoreError::Unavailable(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub fn view(&self, now: u64) -> JobView {
        let (job, counts) = &*self.state();
        job.view(counts, now)
    }
}
