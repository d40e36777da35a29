//! The tasks of a running worker, and how they end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::DaemonError;
use super::reader::End;
use super::recorder::Recorder;
use super::window::Unsaved;
use crate::pipeline::{Pipeline, Progress};
use crate::store::StoreError;

/// The error that the store failed with, once it did.
type Failure = watch::Receiver<Option<Arc<StoreError>>>;

/// The tasks beside the lanes.
pub(super) struct Running {
    pub live: JoinHandle<Result<End, StoreError>>,
    /// On worker 0.
    pub window: Option<JoinHandle<Result<Option<Unsaved>, StoreError>>>,
    /// On worker 0.
    pub jobs: Option<JoinHandle<Result<(), StoreError>>>,
    /// What the replay had not saved when it was stopped.
    pub unsaved: Option<Unsaved>,
    pub saving: JoinHandle<Result<(), StoreError>>,
    pub showing: JoinHandle<()>,
    pub announcing: JoinHandle<()>,
    /// What is indexed, as operators choose it.
    pub following: JoinHandle<()>,
    /// What the configuration says that was read again; ends when the worker is told to stop.
    pub rereading: JoinHandle<Option<()>>,
    pub http: Vec<JoinHandle<()>>,
    pub recorder: Arc<Recorder>,
    pub progress: watch::Receiver<Arc<Progress>>,
    pub serving: CancellationToken,
}

impl Running {
    /// Resolves when reading has stopped as it should, or with the error that ends it.
    pub async fn reading_ends(&mut self, failure: Failure) -> Result<(), Arc<StoreError>> {
        let streams = streams_end(&mut self.live, self.window.as_mut(), self.jobs.as_mut());
        tokio::select! {
            read = streams => read.map(|unsaved| self.unsaved = unsaved).map_err(Arc::new),
            error = failed(failure) => Err(error),
            // The facts can't be written any more.
            saved = &mut self.saving => {
                let error = saved.ok().and_then(Result::err);
                Err(Arc::new(error.unwrap_or(StoreError::Closed)))
            }
        }
    }

    /// Stops reading, if it has not stopped by itself.
    pub fn abort(&self) {
        self.live.abort();
        if let Some(window) = &self.window {
            window.abort();
        }
        if let Some(jobs) = &self.jobs {
            jobs.abort();
        }
    }

    /// Tells all that serves to end.
    pub fn stop_serving(&self) {
        self.serving.cancel();
        self.showing.abort();
        self.announcing.abort();
        self.following.abort();
        self.rereading.abort();
    }

    /// Saves the last facts and lets the answers that are on their way go out.
    pub async fn last_words(self) -> Result<(), DaemonError> {
        if !self.saving.is_finished() {
            let _ = self.saving.await;
        }
        let last = self.progress.borrow().clone();
        self.recorder.finish(&last).await?;
        if let Some(Unsaved { recorder, progress }) = &self.unsaved {
            recorder.finish(progress).await?;
        }
        if let Some(at) = self.recorder.claimed().await {
            tracing::info!(seq = at.seq, "stopped; a restart goes on behind this seq");
        }
        for server in self.http {
            let _ = server.await;
        }
        Ok(())
    }
}

/// Resolves when both streams and the jobs have ended, or with the first error.
async fn streams_end(
    live: &mut JoinHandle<Result<End, StoreError>>,
    window: Option<&mut JoinHandle<Result<Option<Unsaved>, StoreError>>>,
    jobs: Option<&mut JoinHandle<Result<(), StoreError>>>,
) -> Result<Option<Unsaved>, StoreError> {
    let replay = async {
        match window {
            Some(window) => joined(window).await,
            None => Ok(None),
        }
    };
    let jobs = async {
        match jobs {
            Some(jobs) => joined(jobs).await,
            None => Ok(()),
        }
    };
    let (_, unsaved, ()) = tokio::try_join!(joined(live), replay, jobs)?;
    Ok(unsaved)
}

async fn joined<T>(task: &mut JoinHandle<Result<T, StoreError>>) -> Result<T, StoreError> {
    match task.await {
        Ok(ended) => ended,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Resolves with the error that the store failed with, if it ever does.
async fn failed(mut failure: Failure) -> Arc<StoreError> {
    let found = match failure.wait_for(Option::is_some).await {
        Ok(error) => error.clone(),
        Err(_) => None,
    };
    match found {
        Some(error) => error,
        // The lanes are gone without having failed.
        None => std::future::pending().await,
    }
}

/// Resolves when the shutdown has taken too long.
pub(super) async fn overdue(stop: &CancellationToken, timeout: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(timeout).await;
    tracing::warn!(
        ?timeout,
        "did not drain in time: a restart reads the rest again"
    );
}

/// Waits until all that was read is durable, but not for ever: what is not is read again after a restart.
pub(super) async fn drain(
    pipeline: Pipeline,
    failure: Failure,
    overdue: impl Future<Output = ()>,
) -> Result<(), Arc<StoreError>> {
    let (frames, bytes) = pipeline.depth().queued();
    tracing::info!(frames, bytes, "draining");
    tokio::select! {
        () = pipeline.drain() => {}
        () = overdue => {}
    }
    failure.borrow().clone().map_or(Ok(()), Err)
}
