//! SIGHUP: the configuration is read again from where it came from, and what may change is taken up.

use tokio::signal::unix::Signal;

use super::descriptors;
use crate::config::{Change, Changes, Config, Loaded, Mistakes, Sources};
use crate::daemon::{Reread, TakeUpError};
use crate::telemetry::Logs;

/// What a running daemon's configuration is, and who changes it.
pub(super) struct Reload {
    pub sources: Sources,
    pub in_effect: Loaded,
    pub logs: Logs,
    pub worker: Reread,
}

impl Reload {
    /// Reads the configuration again at each signal. Signals that come meanwhile count as one.
    pub async fn heed(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            self.reload().await;
        }
    }

    /// Takes up all that may change, or nothing where there is a mistake.
    async fn reload(&mut self) {
        let read = match self.read().await {
            Ok(read) => read,
            Err(Mistakes(mistakes)) => {
                for mistake in mistakes {
                    tracing::error!(%mistake, "the configuration was read again and has a mistake: nothing was changed");
                }
                return;
            }
        };
        let Changes { taken, refused } = self.in_effect.changes(&read);
        for Change {
            key,
            before,
            now,
            origin,
        } in refused
        {
            tracing::warn!(key, in_effect = before, read = now, %origin, "a change of this key needs a restart: it was not taken up");
        }
        if taken.is_empty() {
            tracing::info!("the configuration was read again: there is nothing to take up");
            return;
        }
        let next = self.in_effect.with_reread(&read);
        match self.worker.take_up(next.config.clone()).await {
            Ok(()) => self.took_up(next, &taken),
            Err(error @ TakeUpError::Stopping) => {
                tracing::info!("the configuration was read again and not taken up: {error}");
            }
            Err(error) => {
                tracing::error!(%error, "the configuration was read again and not taken up: nothing was changed");
            }
        }
    }

    /// The same sources as at the start: files may have changed.
    async fn read(&self) -> Result<Loaded, Mistakes> {
        let sources = self.sources.clone();
        let reading = tokio::task::spawn_blocking(move || Config::load(&sources));
        match reading.await {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn took_up(&mut self, next: Loaded, taken: &[Change]) {
        // While lines of this level are written: before or after that changes.
        let told = tracing::enabled!(tracing::Level::INFO);
        if told {
            tell(taken);
        }
        let log = &next.config.log;
        if let Err(error) = self.logs.change(&log.level, log.format) {
            tracing::error!(%error, "the log lines stay as they are");
        }
        if !told {
            tell(taken);
        }
        descriptors::check(&next.config);
        self.in_effect = next;
    }
}

fn tell(taken: &[Change]) {
    for Change {
        key,
        before,
        now,
        origin,
    } in taken
    {
        tracing::info!(key, before, now, %origin, "a change of the configuration was taken up");
    }
}
