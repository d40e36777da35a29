//! One worker, put together: from the configuration to the relay, the lanes, the store and the HTTP surface.
//!
//! Read [`run`] top to bottom: it is the way of a frame, then the way out.

mod announcer;
mod collections;
mod gauges;
mod merging;
mod metrics;
mod reader;
mod recorder;
mod repos;
mod reread;
mod retrier;
mod running;
mod status;
mod times;
mod trail;
mod window;

pub use reread::{Reread, Rereads, TakeUpError, rereads};
pub use retrier::Retrier;
pub use status::{Pause, Status};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiState, Collections, Tokens, UnixSocket, WantedNow};
use crate::backfill::jobs::Jobs;
use crate::backfill::limits::Limits;
use crate::clock::Clock;
use crate::config::{CollectionFilter, Config, LiveStart, VerifyCids};
use crate::decode::{DecodeOptions, Verify};
use crate::fetch::SetupError;
use crate::ledger::Wanted;
use crate::pipeline::{FaultLimits, Pipeline, PipelineOptions, Stream};
use crate::relay::{self, RelayError, RelayOptions, Subscription};
use crate::service::Service;
use crate::slot::SlotSet;
use crate::store::indexed::Indexed;
use crate::store::{Store, StoreError};
use crate::telemetry;
use announcer::Announcer;
use gauges::Gauges;
use reader::{Reader, ReaderParts};
use recorder::Recorder;
use reread::Changeable;
use running::{Running, drain, overdue};
use window::{Window, WindowParts};

/// How long the last facts and answers may take: a store that hangs does not keep the process.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// DIDs whose identity changed that wait to be forgotten; more are not told.
const CHANGED_IDENTITIES: usize = 1024;

/// Why the daemon stopped, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The store.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// The relay's address or TLS.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// What repositories are fetched with.
    #[error(transparent)]
    Fetch(#[from] SetupError),
    /// The HTTP address can't be served.
    #[error("http.listen {address}: {error}")]
    Listen {
        /// What was asked for.
        address: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The Unix socket can't be served.
    #[error("http.socket {path}: {error}")]
    Socket {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        error: api::server::SocketError,
    },
    /// The folder for what does not fit into memory can't be made.
    #[error("backfill.temp_dir {path}: {error}")]
    Spill {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The metrics can't be recorded.
    #[error(transparent)]
    Metrics(#[from] telemetry::metrics::InstallError),
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<StoreError> for DaemonError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// Runs a worker whose configuration stays as it is. See [`run_rereading`].
pub async fn run(
    config: &Config,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    service: Service,
    stop: CancellationToken,
) -> Result<(), DaemonError> {
    let (_nobody, rereads) = rereads();
    run_rereading(config, store, clock, service, rereads, stop).await
}

/// Runs a worker until `stop`, then drains: everything that was read becomes durable, and the facts say so. What takes longer
/// than `shutdown.timeout` is left: it is read again. The store stays open. The service manager hears how it goes, and what is asked
/// for by `rereads` is taken up meanwhile.
pub async fn run_rereading(
    config: &Config,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    service: Service,
    rereads: Rereads,
    stop: CancellationToken,
) -> Result<(), DaemonError> {
    let rendering = telemetry::metrics::install()?;
    telemetry::metrics::set_worker(&config.worker);
    let status = Arc::new(Status::default());

    let Some(index) = collections::index(&config.collections, &*store, &stop).await? else {
        return Ok(());
    };
    let wanted = wanted(config, &clock, index.indexed());
    let (change_limits, limits) = Limits::changing(config.backfill.clone());

    // The parts, from the store back to the relay.
    let slots = SlotSet::owned_by(config.worker.id, config.worker.count);
    let (changed_identities, identities) = mpsc::channel(CHANGED_IDENTITIES);
    let pipeline = Pipeline::start(
        &PipelineOptions {
            changed_identities: (config.worker.id == 0).then_some(changed_identities),
            ..pipeline_options(config)
        },
        store.clone(),
        clock.clone(),
        &fault_limits(config),
    )?;
    let recorder = Arc::new(Recorder::new(store.clone()));
    let changed = Arc::new(Notify::new());
    let (tell_anew, counts_anew) = watch::channel(None);
    let parts = ReaderParts {
        stream: Stream::Live,
        subscription: Subscription::new(relay_options(config)?)?,
        router: pipeline.router(Stream::Live, slots),
        recorder: recorder.clone(),
        faults: pipeline.faults(Stream::Live).clone(),
        status: status.clone(),
        clock: clock.clone(),
        slots,
        indexed: index.indexed(),
        from_oldest: config.relay.start == LiveStart::Oldest,
        resume_within: config.relay.resume_within,
        clock_ahead: config.faults.clock_ahead,
        changed: changed.clone(),
        counts_anew,
    };
    let (live, progress) = Reader::live(parts, &store.facts().await?);
    let (replays, replayed) = watch::channel(index.indexed().now());
    let news = News {
        status: status.clone(),
        changed,
        counts_anew: tell_anew,
        replayed: replays,
    };
    let may_change = (index.indexed(), limits.clone());
    let window = window(config, &store, &clock, &pipeline, may_change, news)?;
    let ledger = wanted.clone();
    let jobs = repos::jobs(config, &store, &clock, ledger, &index, limits, replayed).await?;
    let changeable = Changeable {
        store: store.clone(),
        clock: clock.clone(),
        index: index.clone(),
        limits: change_limits,
        jobs: jobs.clone(),
    };

    // What people see of it.
    let serving = CancellationToken::new();
    let retrier = Retrier::new(store.clone(), clock.clone(), config, index.indexed());
    let upkeep = rendering.clone();
    let state = ApiState {
        store: store.clone(),
        status: status.clone(),
        metrics: Arc::new(move || telemetry::metrics::render(&rendering)),
        wanted: wanted.clone(),
        retry: Some(Arc::new(retrier)),
        jobs: jobs
            .as_ref()
            .map(|jobs| jobs.roster.clone() as Arc<dyn Jobs>),
        collections: jobs.clone().map(|jobs| jobs as Arc<dyn Collections>),
        worker: config.worker.clone(),
        tokens: tokens(config),
        trusted: false,
    };
    let http = serve(config, state, &serving).await?;
    let announcer = Announcer {
        service,
        store: store.clone(),
        status: status.clone(),
        clock: clock.clone(),
        progress: progress.clone(),
        recorder: recorder.clone(),
        work: pipeline.work(),
    };
    let gauges = Gauges::new(
        store.clone(),
        status,
        progress.clone(),
        clock,
        wanted,
        slots,
        upkeep,
    );

    // The work.
    let mut running = Running {
        live: tokio::spawn(live.run(stop.child_token())),
        window: window.map(|window| tokio::spawn(window.run(stop.child_token()))),
        jobs: jobs.map(|jobs| tokio::spawn(repos::run(jobs, identities, stop.child_token()))),
        unsaved: None,
        saving: tokio::spawn(recorder.clone().run(progress.clone(), serving.clone())),
        showing: tokio::spawn(gauges.run(pipeline.depth(), serving.clone())),
        announcing: tokio::spawn(announcer.run(stop.clone(), serving.clone())),
        following: tokio::spawn(collections::follow(index, store.clone())),
        rereading: tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(rereads.follow(changeable)),
        ),
        http,
        recorder,
        progress,
        serving,
    };
    let failure = pipeline.failure();
    let overdue = overdue(&stop, config.shutdown.timeout);
    tokio::pin!(overdue);
    let read = tokio::select! {
        read = running.reading_ends(failure.clone()) => read.map(|()| true),
        lost = store.lost() => Err(Arc::new(lost)),
        () = &mut overdue => Ok(false),
    };

    // The way out: reading has stopped; let the lanes finish, save what is durable.
    running.abort();
    let drained = match read {
        Ok(true) => drain(pipeline, failure, overdue).await,
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    running.stop_serving();
    drained?;
    let last_words = tokio::time::timeout(LAST_WORDS, running.last_words()).await;
    last_words.unwrap_or_else(|_| {
        tracing::warn!("the store does not answer: a restart goes on a little earlier");
        Ok(())
    })
}

/// What the replay tells others, and hears from them.
struct News {
    status: Arc<Status>,
    changed: Arc<Notify>,
    counts_anew: watch::Sender<Option<(String, u32)>>,
    replayed: watch::Sender<Arc<CollectionFilter>>,
}

/// The replay of what is missing, which worker 0 does for all.
fn window(
    config: &Config,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    pipeline: &Pipeline,
    (indexed, limits): (Indexed, Limits),
    news: News,
) -> Result<Option<Window>, DaemonError> {
    let here = config.worker.id == 0;
    telemetry::metrics::BACKFILL_WORKER
        .with([])
        .set(if here { 1.0 } else { 0.0 });
    if !here {
        tracing::info!(
            "worker 0 replays what is missing, for all workers: none of it happens here"
        );
        return Ok(None);
    }
    let parts = WindowParts {
        config: Arc::new(config.clone()),
        limits,
        store: store.clone(),
        clock: clock.clone(),
        relay: relay_options(config)?,
        router: pipeline.router(Stream::Replay, SlotSet::default()),
        faults: pipeline.faults(Stream::Replay).clone(),
        indexed,
        replayed: news.replayed,
        status: news.status,
        changed: news.changed,
        counts_anew: news.counts_anew,
    };
    Ok(Some(Window::new(parts)))
}

/// Starts serving TCP and the Unix socket.
async fn serve(
    config: &Config,
    state: ApiState,
    serving: &CancellationToken,
) -> Result<Vec<tokio::task::JoinHandle<()>>, DaemonError> {
    let address = config.http.listen;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| DaemonError::Listen {
            address: address.to_string(),
            error,
        })?;
    let path = config.http.socket.clone();
    let socket = UnixSocket::bind(&path)
        .await
        .map_err(|error| DaemonError::Socket {
            path: path.clone(),
            error,
        })?;
    tracing::info!(address = %listener.local_addr()?, socket = %path.display(), "serving HTTP");
    let trusted = api::router(ApiState {
        trusted: true,
        ..state.clone()
    });
    let tcp = api::serve_tcp(listener, api::router(state), serving.clone());
    let unix = socket.serve(trusted, serving.clone());
    Ok(vec![tokio::spawn(tcp), tokio::spawn(unix)])
}

/// What all slots should hold.
pub(crate) fn wanted(config: &Config, clock: &Arc<dyn Clock>, indexed: Indexed) -> WantedNow {
    let (config, clock) = (config.clone(), clock.clone());
    Arc::new(move || Wanted {
        filter: (*indexed.now()).clone(),
        ..Wanted::configured(&config, SlotSet::ALL, clock.now_micros())
    })
}

fn tokens(config: &Config) -> Tokens {
    let http = &config.http;
    let token = |secret: &Option<crate::config::Secret>| {
        secret.as_ref().map(|secret| secret.expose().to_owned())
    };
    let (admin, read) = (token(&http.admin_token), token(&http.read_token));
    Tokens::new(admin.as_deref(), read.as_deref())
}

/// How frames are checked.
pub(crate) fn decode_options(config: &Config) -> DecodeOptions {
    let verify = match config.verify.cids {
        VerifyCids::All => Verify::All,
        VerifyCids::Records => Verify::Records,
        VerifyCids::None => Verify::None,
    };
    // Making the JSON checks the record on the way.
    let check_records = !config.store.json;
    DecodeOptions {
        verify,
        check_records,
        ..DecodeOptions::default()
    }
}

fn pipeline_options(config: &Config) -> PipelineOptions {
    let sizes = &config.pipeline;
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    PipelineOptions {
        lanes: sizes.lanes,
        max_frames: sizes.max_frames,
        max_bytes: bytes(sizes.max_bytes),
        in_flight_bytes: bytes(sizes.in_flight_bytes),
        batch_ops: sizes.batch_ops,
        batch_bytes: bytes(sizes.batch_bytes),
        batch_age: sizes.batch_age,
        decode: decode_options(config),
        json: config.store.json,
        changed_identities: None,
    }
}

fn fault_limits(config: &Config) -> FaultLimits {
    let faults = &config.faults;
    FaultLimits {
        window: faults.window,
        share: faults.share,
        pause: faults.pause,
        ..FaultLimits::default()
    }
}

fn relay_options(config: &Config) -> Result<RelayOptions, DaemonError> {
    let keys = &config.relay;
    Ok(RelayOptions {
        urls: keys.urls.clone(),
        connect_timeout: keys.connect_timeout,
        read_timeout: keys.read_timeout,
        ping_interval: keys.ping_interval,
        max_frame: usize::try_from(keys.max_frame).unwrap_or(usize::MAX),
        backoff_min: keys.backoff_min,
        backoff_max: keys.backoff_max,
        tls: relay::tls_config(config.net.ca_file.as_deref())?,
        user_agent: relay::user_agent(None),
    })
}
