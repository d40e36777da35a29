//! Where commands read: a running daemon by its socket, else the store, opened by the command itself. A database is always
//! asked itself, for nobody has it alone.
//!
//! All answer by the same routes. A command never makes a store: where there is none, it says so.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use super::{Exit, Failure, storage};
use crate::api::client::{Client, ClientError};
use crate::api::{ApiState, DaemonStatus, MAX_LIMIT, Tokens, router, server};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::daemon::{self, Retrier};
use crate::store::indexed::Index;
use crate::store::{Store, StoreError};

/// Output goes to the terminal or pipe in pieces of this size.
const OUT: usize = 256 << 10;

/// The routes, and the store behind them if this process opened it.
pub(super) struct Source {
    client: Client,
    store: Option<Arc<dyn Store>>,
}

impl Source {
    /// The daemon's socket if a process answers on it, else the store itself.
    pub(super) async fn open(config: &Config) -> Result<Self, Failure> {
        let socket = &config.http.socket;
        if !storage::is_cql(config) && is_live(socket).await? {
            let client = Client::socket(socket)?;
            return Ok(Self {
                client,
                store: None,
            });
        }
        let store = open_store(config, socket).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let index = Index::read(&config.collections, &*store).await?;
        let client = Client::local(router(ApiState {
            store: store.clone(),
            status: Arc::new(NoDaemon),
            metrics: Arc::new(String::new),
            wanted: daemon::wanted(config, &clock, index.indexed()),
            retry: Some(Arc::new(Retrier::new(
                store.clone(),
                clock,
                config,
                index.indexed(),
            ))),
            jobs: None,
            collections: None,
            worker: config.worker.clone(),
            tokens: Tokens::default(),
            trusted: true,
        }));
        Ok(Self {
            client,
            store: Some(store),
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Lets go of the store, and gives the command's own end back; its failure goes first.
    pub(super) async fn close(self, end: Result<Exit, Failure>) -> Result<Exit, Failure> {
        let closed = match self.store {
            Some(store) => store.close().await,
            None => Ok(()),
        };
        let end = end?;
        closed?;
        Ok(end)
    }
}

/// Prints every row of a list, one a line, and counts them. While a page is printed the next one is on its way, so that two
/// pages are in memory at most.
pub(super) async fn print_all(
    client: &Client,
    path: &str,
    query: Vec<(&'static str, String)>,
    out: &mut impl Write,
) -> Result<u64, Failure> {
    let mut printed = 0;
    let mut pages = JoinSet::new();
    let page = |cursor| page(client.clone(), path.to_owned(), query.clone(), cursor);
    pages.spawn(page(None));
    while let Some(fetched) = pages.join_next().await {
        let bytes = fetched.map_err(|error| Failure::new(Exit::Failed, error.to_string()))??;
        let list: List<'_> = serde_json::from_slice(&bytes).map_err(garbled)?;
        if list.cursor.is_some() {
            pages.spawn(page(list.cursor));
        }
        for row in list.rows {
            out.write_all(row.get().as_bytes())?;
            out.write_all(b"\n")?;
            printed += 1;
        }
    }
    out.flush()?;
    Ok(printed)
}

/// A page of any list; rows stay the text that they are.
#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    #[serde(alias = "records", alias = "repos", alias = "quarantine")]
    #[serde(alias = "jobs", alias = "errors")]
    rows: Vec<&'a RawValue>,
    cursor: Option<String>,
}

async fn page(
    client: Client,
    path: String,
    query: Vec<(&'static str, String)>,
    cursor: Option<String>,
) -> Result<Bytes, ClientError> {
    let limit = MAX_LIMIT.to_string();
    let mut pairs: Vec<(&str, &str)> = vec![("limit", &limit)];
    pairs.extend(query.iter().map(|(name, value)| (*name, value.as_str())));
    pairs.extend(cursor.iter().map(|cursor| ("cursor", cursor.as_str())));
    client.get(&path, &pairs).await
}

/// Standard output, buffered.
pub(super) fn stdout() -> impl Write {
    BufWriter::with_capacity(OUT, std::io::stdout().lock())
}

/// The failure of an answer that is not what its route gives.
pub(super) fn garbled(error: serde_json::Error) -> Failure {
    ClientError::Garbled(error.to_string()).into()
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Unreachable(_) | ClientError::Refused { status: 503, .. } => Exit::Later,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

struct NoDaemon;

impl DaemonStatus for NoDaemon {
    fn not_ready(&self) -> Vec<String> {
        vec!["no daemon is running".to_owned()]
    }
}

pub(super) async fn is_live(socket: &Path) -> Result<bool, Failure> {
    let live = server::is_live(socket).await;
    live.map_err(|error| {
        let socket = socket.display();
        Failure::new(Exit::Failed, format!("the socket {socket}: {error}"))
    })
}

async fn open_store(config: &Config, socket: &Path) -> Result<Arc<dyn Store>, Failure> {
    match storage::open_existing(config).await {
        Ok(Some(store)) => Ok(store),
        Ok(None) => Err(Failure::new(
            Exit::Failed,
            format!(
                "there is no store in {}: start 'penstock run' first, or name {}",
                storage::name(config),
                match storage::is_cql(config) {
                    true => "the keyspace by SCYLLA_KEYSPACE or store.scylla.keyspace",
                    false => "the store's folder by DATA_DIR or store.embedded.dir",
                }
            ),
        )),
        Err(StoreError::Locked(dir)) => Err(Failure::new(
            Exit::Later,
            format!(
                "the store in {dir} is in use by another process, but nothing answers on the socket {}: a daemon that \
                 is starting or stopping, or one with another http.socket",
                socket.display()
            ),
        )),
        Err(error) => Err(error.into()),
    }
}
