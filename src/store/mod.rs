//! What is held: records, repositories, facts, repairs, quarantine, behind the [`Store`] trait.
//!
//! The trait speaks of what is meant, not of tables. Writes carry versions and commute: any order, any number of times,
//! from any number of workers gives the same store. A resolved write is durable.

pub mod batch;
pub mod embedded;
mod filling;
pub mod indexed;
mod limits;
pub mod memory;
pub mod model;
pub mod scylla;

pub use batch::{HandleWrite, RecordBody, RecordWrite, RevWrite, StatusWrite, WriteBatch};
pub use model::{
    Choice, ChoiceKind, Complete, Fact, FactKind, Floor, IndexEntry, JobFailure, JobRow, Page,
    QuarantineEntry, Quarantined, Record, RecordsQuery, Removal, Repair, RepairKind, Repo,
    RepoStatus, Scope, SnapshotDone, snapshot_version,
};

use limits::{
    check_batch, check_choice, check_facts, check_failures, check_job, check_pds, check_removal,
    check_snapshot, page_limit,
};

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

/// What is older is not replayed, retried or imported where later writes were taken in so long ago: stores may forget after
/// ten days that a record was deleted, and an old create would bring it back.
pub const LONGEST_REPLAY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why the store refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store belongs to a running process.
    #[error("the store in {0} is in use by another process")]
    Locked(String),
    /// The store's format is not ours.
    #[error("the store in {dir} has format {found}, this build reads {known}: {hint}")]
    Format {
        /// Where it is.
        dir: String,
        /// What it says it is.
        found: String,
        /// What we read.
        known: String,
        /// The way out.
        hint: String,
    },
    /// Less free disk than `store.embedded.min_free`, or a write that found the disk full.
    #[error("the disk of {dir} is full: {detail}")]
    DiskFull {
        /// Where the store is.
        dir: String,
        /// What was found.
        detail: String,
    },
    /// The store's files are not what was written.
    #[error(
        "the store in {dir} is corrupt: {detail}; nothing was deleted; restore it from a backup"
    )]
    Corrupt {
        /// Where it is.
        dir: String,
        /// What was found.
        detail: String,
    },
    /// The store is gone or answers no more; a restart may help.
    #[error("the store failed: {0}")]
    Failed(String),
    /// A write that no store can hold: a text that is empty, too long or has control characters, or a version beyond
    /// 53 bits. Nothing of it was written; the store goes on.
    #[error("the write was refused: {0}")]
    Refused(String),
    /// A question that can't be answered as it was asked: a cursor of another listing, an order that needs more keys.
    #[error("the query can't be answered: {0}")]
    Query(String),
    /// The database can't be reached, or does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// The database refuses the user, the password or the certificate.
    #[error("{0}")]
    Denied(String),
    /// The tables are not those of this build.
    #[error("{0}")]
    Schema(String),
    /// Another process holds this worker's part, or shares the work differently.
    #[error("{0}")]
    Lease(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// The labels of those that may come while a daemon runs.
    pub const KINDS: [&'static str; 8] = [
        "disk_full",
        "corrupt",
        "failed",
        "refused",
        "unavailable",
        "schema",
        "lease",
        "closed",
    ];

    /// The label in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Locked(_) => "locked",
            Self::Format { .. } => "format",
            Self::DiskFull { .. } => "disk_full",
            Self::Corrupt { .. } => "corrupt",
            Self::Failed(_) => "failed",
            Self::Refused(_) => "refused",
            Self::Query(_) => "query",
            Self::Unavailable(_) => "unavailable",
            Self::Denied(_) => "denied",
            Self::Schema(_) => "schema",
            Self::Lease(_) => "lease",
            Self::Closed => "closed",
        }
    }
}

/// What a store has to say about itself for metrics and `/readyz`.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Why the store does not take writes, if it does not.
    pub trouble: Option<String>,
    /// Repairs that wait, by reason.
    pub repairs: BTreeMap<String, u64>,
    /// Bytes that the quarantine holds.
    pub quarantine_bytes: u64,
    /// Bytes on disk, where the store knows.
    pub disk_bytes: Option<u64>,
    /// Free bytes on that disk, where the store knows.
    pub free_bytes: Option<u64>,
    /// Free bytes below which it takes no writes, where it has such a bound.
    pub min_free_bytes: Option<u64>,
}

/// Most repairs that are read of one repository.
const REPAIRS_OF: usize = 10_000;

/// The reason of a row of the quarantine that holds a record (not a frame) which the store never takes.
pub(crate) const STORE_REFUSED: &str = "store_refused";

/// A store of what the network published.
///
/// Every method that writes resolves when the write is acknowledged, which is durable once [`Store::sync_lag`] has passed.
/// Errors are final: what can be retried was retried.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// How long after its acknowledgement a write may still be lost with the power of every machine that has it. Every
    /// claim that something is held (facts, released quarantine, cleared repairs) is made only so much later.
    fn sync_lag(&self) -> Duration {
        Duration::ZERO
    }

    /// How often the machines that hold the data were away together. Where this grew, a power cut may have taken what was
    /// acknowledged within [`Store::sync_lag`] before: what is not claimed yet of a stream has to be read again.
    fn outages(&self) -> u64 {
        0
    }

    /// Applies a batch atomically; resolves when it is durable, and gives the emptied batch back for reuse.
    async fn apply(&self, batch: WriteBatch) -> Result<WriteBatch, StoreError>;

    /// Deletes all of the scope at or below the removal's version and leaves a floor if it asks for one.
    async fn remove(&self, removal: Removal) -> Result<(), StoreError>;

    /// Ends a full snapshot whose records were applied at its version: one range delete per scope of all that is
    /// older than the version, and the repository's `complete` entry, atomically.
    async fn complete_snapshot(&self, done: SnapshotDone) -> Result<(), StoreError>;

    /// One record, whatever the status of its account.
    async fn record(
        &self,
        did: &str,
        collection: &str,
        rkey: &str,
    ) -> Result<Option<Record>, StoreError>;

    /// A page of records, whatever the status of their accounts: repositories in an order of the store's own (embedded: by
    /// DID), the records of one in the order of (collection, rkey).
    async fn records(&self, query: &RecordsQuery) -> Result<Page<Record>, StoreError>;

    /// What is new in a collection: TIDs first, the newest first, then other record keys, the greatest first; equal record
    /// keys of several repositories in an order of the store's own. Every entry was confirmed against its record and its
    /// repository's status. A page may be short or empty and still have a cursor, where much was replaced since.
    async fn newest(
        &self,
        collection: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<IndexEntry>, StoreError>;

    /// One repository.
    async fn repo(&self, did: &str) -> Result<Option<Repo>, StoreError>;

    /// A page of repositories, in an order of the store's own (embedded: by DID).
    async fn repos(&self, cursor: Option<&str>, limit: usize) -> Result<Page<Repo>, StoreError>;

    /// Writes facts; a fact of the same (relay, generation, run, from_seq) grows, never shrinks.
    async fn put_facts(&self, facts: &[Fact]) -> Result<(), StoreError>;

    /// Removes facts that others cover, each as it is given: a row of the same (relay, generation, run, from_seq) that has
    /// grown beyond its `to_seq` stays. What is written late, up to that `to_seq`, may come back or not.
    async fn remove_facts(&self, facts: &[Fact]) -> Result<(), StoreError>;

    /// Every fact, in the order of (relay, generation, run, from_seq).
    async fn facts(&self) -> Result<Vec<Fact>, StoreError>;

    /// A page of the repairs that wait.
    async fn repairs(&self, cursor: Option<&str>, limit: usize)
    -> Result<Page<Repair>, StoreError>;

    /// Deletes exactly these repairs.
    async fn clear_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError>;

    /// A page of the quarantine, oldest first (at least by day), without the raw bytes.
    async fn quarantine(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<QuarantineEntry>, StoreError>;

    /// One row of the quarantine with its raw bytes (empty if they were evicted).
    async fn quarantined(&self, id: &str)
    -> Result<Option<(QuarantineEntry, Vec<u8>)>, StoreError>;

    /// Removes a row of the quarantine: it was taken in after all.
    async fn release_quarantined(&self, id: &str) -> Result<(), StoreError>;

    /// Writes a job: with `epoch` of `None` only if there is none of this id, else only if the stored one has that epoch. Gives
    /// whether it was written; a row whose own epoch is not greater than `epoch` is refused.
    async fn put_job(&self, job: &JobRow, epoch: Option<u64>) -> Result<bool, StoreError>;

    /// One job.
    async fn job(&self, id: u64) -> Result<Option<JobRow>, StoreError>;

    /// A page of jobs, newest (greatest id) first. Like those of failures and choices it may be shorter where its rows are
    /// large; only its cursor says whether there are more.
    async fn jobs(&self, cursor: Option<&str>, limit: usize) -> Result<Page<JobRow>, StoreError>;

    /// Writes failures of jobs; one of the same (job, did, collection) is replaced by what is written later.
    async fn put_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError>;

    /// Removes failures by (job, did, collection).
    async fn clear_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError>;

    /// One failure.
    async fn failure(
        &self,
        job: u64,
        did: &str,
        collection: &str,
    ) -> Result<Option<JobFailure>, StoreError>;

    /// A page of a job's failures, in the order of (did, collection).
    async fn failures(
        &self,
        job: u64,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<JobFailure>, StoreError>;

    /// Writes a choice; one of the same (kind, name) is replaced by what is written later.
    async fn put_choice(&self, choice: &Choice) -> Result<(), StoreError>;

    /// Removes a choice.
    async fn remove_choice(&self, kind: ChoiceKind, name: &str) -> Result<(), StoreError>;

    /// A page of a list, by name; with a prefix, only names that begin with it.
    async fn choices(
        &self,
        kind: ChoiceKind,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Choice>, StoreError>;

    /// The repairs of one repository; of very many the first 10,000.
    async fn repairs_of(&self, did: &str) -> Result<Vec<Repair>, StoreError>;

    /// Notes where a repository lives, as its DID document said it.
    async fn put_pds(&self, did: &str, pds: &str) -> Result<(), StoreError>;

    /// Whether this process may write now; `false` while a lease that others could take meanwhile has run out.
    fn may_write(&self) -> bool {
        true
    }

    /// Resolves once this process may write no more, with the reason: another one has its part of the work. Never for a
    /// store that is this process's own.
    async fn lost(&self) -> StoreError {
        std::future::pending().await
    }

    /// Whether writes wait for what passes by itself: for compactions, or for nodes of a database that are away. Asks nobody.
    fn waits(&self) -> bool {
        false
    }

    /// How the store is.
    async fn health(&self) -> Result<Health, StoreError>;

    /// Makes all durable and lets go of files, locks and leases.
    async fn close(&self) -> Result<(), StoreError>;
}
