//! The CQL store: ScyllaDB, or Cassandra, for several workers on several machines.
//!
//! The version of a write is its CQL timestamp, so the servers themselves keep the newest, and nothing here decides what
//! wins. Requests are prepared once, marked idempotent, sent to a replica, and tried again until they succeed.

mod cells;
mod holder;
pub mod lease;
mod requests;
pub mod schema;
mod server;
mod session;
mod statements;

pub use server::Server;

use std::sync::Arc;
use std::time::Duration;

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
    /// The slots whose rows this process looks after (sweeps, eviction).
    pub slots: SlotSet,
    /// Whether a keyspace or table that is not there is made; else it is waited for.
    pub create: bool,
}
