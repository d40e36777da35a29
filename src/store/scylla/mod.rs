//! The CQL store: ScyllaDB, or Cassandra, for several workers on several machines.
//!
//! The version of a write is its CQL timestamp, so the servers themselves keep the newest, and nothing here decides what
//! wins. Requests are prepared once, marked idempotent, sent to a replica, and tried again until they succeed.

mod apply;
mod cells;
mod changes;
mod counts;
mod delegate;
mod errors;
mod hints;
mod holder;
mod index;
mod jobs;
mod keep;
pub mod lease;
mod limiter;
mod listing;
mod questions;
mod read_statements;
mod reader;
mod requests;
pub mod schema;
mod server;
mod session;
mod statements;
mod tenure;
mod waiting;

pub use server::Server;
pub use tenure::LeaseTerms;

use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::StoreError;
use apply::Writes;
use counts::Counts;
use index::SweepCursor;
use read_statements::ReadStatements;
use reader::Reader;
use requests::{RequestOptions, Requests};
use schema::Layout;
use statements::Statements;
use tenure::Tenure;

use crate::config::{Consistency, Replication, Secret};
use crate::slot::SlotSet;

/// How a CQL store is reached and made.
#[derive(Debug, Clone)]
pub struct ScyllaOptions {
    /// Contact points, host or host:port.
    pub nodes: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// User and password.
    pub user: Option<(String, Secret)>,
    /// TLS, if it is spoken.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The datacenter whose nodes are asked.
    pub datacenter: Option<String>,
    /// Copies of each row, where the keyspace is made.
    pub replication: Replication,
    /// How many copies must answer.
    pub consistency: Consistency,
    /// The most requests that may be on their way.
    pub in_flight: usize,
    /// How long one may take.
    pub request_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long after its acknowledgement a write may still be lost.
    pub sync_lag: Duration,
    /// Whether changes are captured, on ScyllaDB, where the keyspace is made.
    pub cdc: bool,
    /// Whether `records_by_collection` is kept.
    pub index: bool,
    /// Bytes of frames that the quarantine holds, over all workers.
    pub quarantine_max_bytes: u64,
    /// The slots whose rows this process looks after (sweeps, eviction). Empty where it only reads.
    pub slots: SlotSet,
    /// Whether a keyspace or table that is not there is made; else it is waited for.
    pub create: bool,
    /// The lease that is held while the store is open: without one nobody is kept from the same work.
    pub lease: Option<LeaseTerms>,
}

impl ScyllaOptions {
    /// What the schema looks like on this server.
    pub fn layout(&self, server: Server) -> Layout {
        Layout {
            keyspace: self.keyspace.clone(),
            replication: self.replication.clone(),
            cdc: self.cdc,
            server,
        }
    }
}

/// How often the bytes of the quarantine are bounded.
const BOUND: Duration = Duration::from_secs(30);
/// Time between two steps of the sweep of stale hints,
const SWEEP_STEP: Duration = Duration::from_millis(250);
/// and between two passes.
const SWEEP_PASS: Duration = Duration::from_secs(3600);

/// Time before the first pass, and after an outage: a power cut may have taken a record and left its hint, which must not be
/// taken for stale before the stream was read again.
const SWEEP_REST: Duration = Duration::from_secs(600);

/// An open CQL store.
pub struct ScyllaStore {
    requests: Arc<Requests>,
    writes: Writes,
    reader: Arc<Reader>,
    counts: Counts,
    sync_lag: Duration,
    tenure: Option<Tenure>,
    upkeep: JoinHandle<()>,
}

impl ScyllaStore {
    /// Connects, makes or awaits the tables, checks them, takes the lease, and prepares every statement.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if no node answers, [`StoreError::Denied`] if they refuse us, [`StoreError::Schema`] if
    /// the tables are not those of this build, [`StoreError::Lease`] if another process has the lease, or shares the work
    /// differently.
    pub async fn open(options: ScyllaOptions) -> Result<Self, StoreError> {
        let session = session::connect(&options).await?;
        let layout = options.layout(session::server(&session).await?);
        match options.create {
            true => schema::create::create(&session, &layout).await?,
            false => schema::create::await_made(&session, &layout).await?,
        }
        Self::over(Arc::new(session), options).await
    }

    /// Opens what is there; `None` where nobody has made it.
    ///
    /// # Errors
    ///
    /// As [`ScyllaStore::open`].
    pub async fn open_existing(options: ScyllaOptions) -> Result<Option<Self>, StoreError> {
        let session = session::connect(&options).await?;
        let layout = options.layout(session::server(&session).await?);
        match schema::create::is_made(&session, &layout).await? {
            true => Self::over(Arc::new(session), options).await.map(Some),
            false => Ok(None),
        }
    }

    /// Over tables that are there.
    async fn over(session: Arc<Session>, options: ScyllaOptions) -> Result<Self, StoreError> {
        let levels = session::levels(options.consistency);
        let keyspace = &options.keyspace;
        let statements = Statements::prepare(&session, keyspace, levels).await?;
        let questions = ReadStatements::prepare(&session, keyspace, levels).await?;
        // Before the lease is taken: what fails behind that has to give it back.
        let values = (keyspace.to_lowercase(),);
        let tables = session.execute_unpaged(&statements.table_ids, values).await;
        let tables = tables.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let tables = changes::table_ids(tables)?;
        let tenure = match &options.lease {
            Some(terms) => Some(Tenure::begin(session.clone(), keyspace, levels, terms).await?),
            None => None,
        };
        let requests = Arc::new(Requests::new(
            session,
            RequestOptions {
                in_flight: options.in_flight,
                lease: tenure.as_ref().map(Tenure::lease),
            },
        ));
        let reader = Arc::new(Reader {
            requests: requests.clone(),
            statements: Arc::new(questions),
            index: options.index,
            slots: options.slots,
            quarantine_max_bytes: options.quarantine_max_bytes,
        });
        let writes = Writes::new(requests.clone(), Arc::new(statements), tables, &options);
        let upkeep = tokio::spawn(upkeep(reader.clone()));
        Ok(Self {
            writes,
            requests,
            reader,
            counts: Counts::default(),
            sync_lag: options.sync_lag,
            tenure,
            upkeep,
        })
    }

    /// Deletes all hints of the own slots that came to nothing, in one pass; gives how many are left.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the database does not answer.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        self.reader.sweep().await
    }

    /// Asks whose CQL it is.
    ///
    /// # Errors
    ///
    /// As [`ScyllaStore::open`].
    pub async fn server(options: &ScyllaOptions) -> Result<Server, StoreError> {
        session::server(&session::connect(options).await?).await
    }

    /// Makes the keyspace and the tables, or checks them where they are there.
    ///
    /// # Errors
    ///
    /// As [`ScyllaStore::open`].
    pub async fn create(options: &ScyllaOptions) -> Result<(), StoreError> {
        let session = session::connect(options).await?;
        let layout = options.layout(session::server(&session).await?);
        schema::create::create(&session, &layout).await
    }
}

/// What this process does beside what it is asked: bounds the quarantine, sweeps its slots' stale hints.
async fn upkeep(reader: Arc<Reader>) {
    if reader.slots.is_empty() {
        return;
    }
    tokio::join!(bound(&reader), sweep(&reader));
}

async fn bound(reader: &Reader) {
    let mut tick = tokio::time::interval(BOUND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = reader.evict().await {
            tracing::warn!(%error, "the quarantine could not be bounded");
        }
    }
}

async fn sweep(reader: &Reader) {
    let mut cursor = SweepCursor::default();
    let mut outages = None;
    loop {
        let now = reader.requests.outages();
        if outages.replace(now) != Some(now) {
            tokio::time::sleep(SWEEP_REST).await;
            continue;
        }
        let pause = match reader.sweep_step(cursor).await {
            Ok(Some(next)) => {
                cursor = next;
                SWEEP_STEP
            }
            Ok(None) => {
                cursor = SweepCursor::default();
                SWEEP_PASS
            }
            Err(error) => {
                tracing::warn!(%error, "the sweep of the index begins anew");
                cursor = SweepCursor::default();
                BOUND
            }
        };
        tokio::time::sleep(pause).await;
    }
}
