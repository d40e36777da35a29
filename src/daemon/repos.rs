//! Worker 0's jobs: what fetches whole repositories, put together from the configuration.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::DaemonError;
use super::collections::Choosing;
use crate::backfill::jobs::{DidLocks, Followed, JobOptions, LedgerNow, Roster, Tools};
use crate::backfill::limits::Limits;
use crate::backfill::snapshot::Budget;
use crate::clock::Clock;
use crate::config::{Backfill, CollectionFilter, Config, RelayUrl};
use crate::fetch::{FetchOptions, Fetcher};
use crate::identity::{Identities, IdentityOptions};
use crate::relay;
use crate::store::indexed::{Index, Indexed};
use crate::store::{Store, StoreError};

/// Temporary files of all fetches together may take at least so many bytes: room for some great repositories beside each other.
const MIN_ON_DISK: u64 = 16 << 30;

/// The jobs, on worker 0.
pub(super) async fn jobs(
    config: &Config,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    ledger: LedgerNow,
    index: &Arc<Index>,
    limits: Limits,
    replayed: watch::Receiver<Arc<CollectionFilter>>,
) -> Result<Option<Arc<Choosing>>, DaemonError> {
    if config.worker.id != 0 {
        return Ok(None);
    }
    make_spill_dir(&config.spill_dir())?;
    let tools = Arc::new(tools(config, store, clock, index.indexed(), limits)?);
    let roster = Roster::open(tools.clone(), ledger).await?;
    roster.note_configured().await?;
    Ok(Some(Arc::new(Choosing {
        store: store.clone(),
        index: index.clone(),
        tools,
        roster,
        replayed,
        asked: Notify::new(),
    })))
}

/// Files in it have no names, so a process that was killed left none.
fn make_spill_dir(path: &Path) -> Result<(), DaemonError> {
    std::fs::create_dir_all(path).map_err(|error| DaemonError::Spill {
        path: path.to_owned(),
        error,
    })
}

fn tools(
    config: &Config,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    indexed: Indexed,
    limits: Limits,
) -> Result<Tools, DaemonError> {
    let fetcher = Fetcher::new(&fetch_options(config))?;
    let identity = IdentityOptions {
        plc_url: config.identity.plc_url.clone(),
        entries: config.identity.cache_entries,
        ..IdentityOptions::default()
    };
    Ok(Tools {
        identities: Identities::new(fetcher.clone(), &identity, clock.clone()),
        fetcher,
        store: store.clone(),
        clock: clock.clone(),
        budget: Budget::with_disk(config.backfill.max_bytes, max_on_disk(&config.backfill)),
        locks: DidLocks::default(),
        indexed,
        followed: Followed::default(),
        options: job_options(config),
        limits,
    })
}

/// Bytes of all temporary files together.
fn max_on_disk(keys: &Backfill) -> u64 {
    keys.max_repo_bytes.saturating_mul(2).max(MIN_ON_DISK)
}

/// Keeps to the limits of another configuration from now on, also in what is at work.
pub(super) fn keep_to(tools: &Tools, config: &Config) {
    let keys = &config.backfill;
    tools.budget.resize(keys.max_bytes, max_on_disk(keys));
    tools.fetcher.change_pace(&fetch_options(config));
}

fn relays(config: &Config) -> Vec<String> {
    let urls = config.relay.urls.iter();
    urls.filter_map(RelayUrl::http_origin).collect()
}

fn fetch_options(config: &Config) -> FetchOptions {
    let mut allowed_origins = relays(config);
    allowed_origins.push(config.identity.plc_url.clone());
    FetchOptions {
        allow_private: config.net.allow_private,
        allowed_origins,
        ca_file: config.net.ca_file.clone(),
        user_agent: relay::user_agent(config.backfill.contact.as_deref()),
        per_host: config.backfill.per_host,
        per_address: config.backfill.per_host,
        rate: f64::from(config.backfill.requests_per_second),
        burst: f64::from(config.backfill.requests_per_second),
        ..FetchOptions::default()
    }
}

fn job_options(config: &Config) -> JobOptions {
    JobOptions {
        json: config.store.json,
        signatures: config.verify.signatures,
        on_deleted: config.accounts.on_deleted,
        on_takedown: config.accounts.on_takedown,
        relays: relays(config),
        skip_dids: config.backfill.skip_dids.iter().cloned().collect(),
        temp_dir: config.spill_dir(),
    }
}

/// Works on the jobs until the shutdown. `identities`: DIDs whose identity changed, as far as this worker's stream told.
pub(super) async fn run(
    jobs: Arc<Choosing>,
    mut identities: mpsc::Receiver<String>,
    shutdown: CancellationToken,
) -> Result<(), StoreError> {
    let roster = jobs.roster.clone();
    let watching = roster.clone().watch(shutdown.clone());
    let working = roster.clone().run(shutdown.clone());
    let choosing = jobs.run(shutdown);
    let work = async { tokio::try_join!(watching, working, choosing).map(|_| ()) };
    tokio::pin!(work);
    let forgetting = async {
        while let Some(did) = identities.recv().await {
            roster.forget_identity(&did);
        }
    };
    tokio::select! {
        worked = &mut work => return worked,
        () = forgetting => {}
    }
    work.await
}
