//! `penstock run`: the daemon.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::reload::Reload;
use super::{Exit, Failure, descriptors, storage};
use crate::clock::SystemClock;
use crate::config::{Loaded, Sources};
use crate::daemon::{self, DaemonError};
use crate::service::Service;
use crate::store::StoreError;
use crate::telemetry::{Logs, VERSION, metrics};

/// How long the store may take to close: what it acknowledged is durable already.
const CLOSE: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT, then drains. A second signal ends the process at once. At SIGHUP the sources are read again.
pub(super) async fn run(loaded: Loaded, sources: Sources, logs: Logs) -> Result<Exit, Failure> {
    let stop = CancellationToken::new();
    let (terminate, interrupt, hangup) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    );
    let service = Service::of_process();
    tokio::spawn(heed(terminate, interrupt, stop.clone(), service.clone()));
    let config = loaded.config.clone();
    let (worker, rereads) = daemon::rereads();
    let reload = Reload {
        sources,
        in_effect: loaded,
        logs,
        worker,
    };
    tokio::spawn(reload.heed(hangup));
    descriptors::raise(&config);
    tracing::info!(
        version = VERSION,
        worker = config.worker.id,
        store = storage::name(&config),
        "penstock starts"
    );
    // Before the store, which counts from its opening on.
    metrics::install().map_err(DaemonError::from)?;
    service.status("opening the store");
    // A worker may wait long for a database, or for the one that makes its tables.
    let store = tokio::select! {
        store = storage::open_for_worker(&config) => store?,
        () = stop.cancelled() => return Ok(Exit::Done),
    };
    let clock = Arc::new(SystemClock);
    let running = daemon::run_rereading(&config, store.clone(), clock, service, rereads, stop);
    let ended = running.await;
    // Whatever ended it: a lease that is given back lets another one start at once.
    let closed = tokio::time::timeout(CLOSE, store.close()).await;
    ended?;
    match closed {
        Ok(closed) => closed?,
        Err(_) => tracing::warn!("the store is still busy: a restart reads a little more again"),
    }
    Ok(Exit::Done)
}

/// The first signal asks for an orderly end, the second one gets an immediate one: a restart resumes at the watermark.
async fn heed(
    mut terminate: Signal,
    mut interrupt: Signal,
    stop: CancellationToken,
    service: Service,
) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let name = next().await;
    tracing::info!(
        signal = name,
        "stopping; a second signal ends the process at once"
    );
    service.stopping();
    stop.cancel();
    let name = next().await;
    tracing::warn!(
        signal = name,
        "ending at once; a restart goes on behind the watermark"
    );
    std::process::exit(1);
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        let exit = match &error {
            DaemonError::Store(store) => match store.as_ref() {
                StoreError::Format { .. } | StoreError::Corrupt { .. } => Exit::Failed,
                StoreError::Schema(_) | StoreError::Denied(_) => Exit::Config,
                _ => Exit::Later,
            },
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}
