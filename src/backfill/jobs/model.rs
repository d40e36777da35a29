//! What a job is, as people see it, and what of it is stored.

use std::collections::BTreeMap;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::{Page, StoreError};

/// What kind of work a job is (interface.md, 'HTTP').
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobType {
    /// A window of the relay's past, or of repositories (`days`), over all that is indexed.
    Window,
    /// What changed in gaps that the relay can't serve any more.
    CatchUp,
    /// Everything that is indexed.
    FullSync,
    /// All repositories with a collection.
    Collection,
    /// DIDs that were named.
    Repos,
    /// The standing job that works the `repairs` off; there is exactly one and it never ends.
    Repairs,
}

impl JobType {
    /// As it is counted.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::CatchUp => "catch_up",
            Self::FullSync => "full_sync",
            Self::Collection => "collection",
            Self::Repos => "repos",
            Self::Repairs => "repairs",
        }
    }
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Waits for a place (`backfill.max_jobs`).
    Pending,
    /// Is at work.
    Running,
    /// All that could be had is durable; `failed_repos` says whether anything could not.
    Completed,
    /// Could not go on; `error` says why.
    Failed,
    /// Was cancelled.
    Cancelled,
}

impl JobStatus {
    /// Whether it ends here, unless it is retried.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// As it is shown, stored and counted.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a running job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Repositories are listed; those that were found are fetched already.
    Discovering,
    /// All are listed.
    Fetching,
    /// A relay's stream is replayed.
    Replaying,
    /// Not all workers take its collections in yet.
    Waiting,
}

impl Stage {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Discovering => "discovering",
            Self::Fetching => "fetching",
            Self::Replaying => "replaying",
            Self::Waiting => "waiting",
        }
    }
}

/// What `force` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Force {
    /// Repair the gaps that the ledger shows, now.
    CatchUp,
    /// Fetch every repository, complete or not.
    FullSync,
}

/// What a job is asked to do, as it was checked: the fields of `POST /admin/backfill`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobRequest {
    /// Only these collections (NSIDs, sorted, without duplicates); empty: all that is indexed.
    pub collections: Vec<String>,
    /// Only these repositories (sorted, without duplicates); empty: whoever has something that is wanted.
    pub dids: Vec<String>,
    /// So many days before now; `None` or 0: all time.
    pub days: Option<f64>,
    /// What is asked for although the ledger does not.
    pub force: Option<Force>,
    /// What asked for it: `api`, `configuration`, `ledger`, `collections`, `lexicons`.
    pub origin: String,
}

/// What was counted of one collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CollectionCounts {
    /// Repositories whose records of it were written.
    pub repos: u64,
    /// Records that were written.
    pub records: u64,
}

/// A job as the API shows it. What is not known is null, never invented.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// Decimal, grows with time.
    pub id: String,
    /// What kind of work.
    pub r#type: JobType,
    /// Where it is.
    pub status: JobStatus,
    /// What it does now.
    pub stage: Option<Stage>,
    /// Its collections, comma separated; null: all that is indexed.
    pub collection: Option<String>,
    /// Its DID, if there is exactly one.
    pub did: Option<String>,
    /// How many DIDs it was given, if any.
    pub dids: Option<u64>,
    /// Its depth.
    pub days: Option<f64>,
    /// What was forced.
    pub force: Option<Force>,
    /// What asked for it.
    pub origin: String,
    /// Repositories found; null until all are listed.
    pub total_repos: Option<u64>,
    /// Repositories that are done, well or not.
    pub processed_repos: u64,
    /// Of them, those that failed.
    pub failed_repos: u64,
    /// Of them, those that were not fetched since they are complete.
    pub skipped_repos: u64,
    /// Of them, those whose account is deleted, taken down, suspended or deactivated.
    pub inactive_repos: u64,
    /// Hosts that did not list their repositories, where hosts had to be asked: what they have and was not held is missing.
    #[serde(default)]
    pub failed_hosts: u64,
    /// The first of them, and why.
    #[serde(default)]
    pub host_failures: BTreeMap<String, String>,
    /// Repositories that were found and wait or are being fetched.
    pub waiting_repos: u64,
    /// Records that were written.
    pub total_records: u64,
    /// The earliest time that was asked for (RFC 3339).
    pub wanted_from: Option<String>,
    /// The earliest time that is covered now.
    pub covered_from: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Times (RFC 3339).
    pub created_at: String,
    /// When it began.
    pub started_at: Option<String>,
    /// When it was over.
    pub completed_at: Option<String>,
    /// When it last changed.
    pub updated_at: String,
    /// How long it will still take, once the number of repositories and the rate are known.
    pub eta_seconds: Option<f64>,
    /// By collection.
    pub collections: BTreeMap<String, CollectionCounts>,
}

/// A repository that failed in a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailureView {
    /// The repository.
    pub did: String,
    /// The unit, where units are of one collection.
    pub collection: Option<String>,
    /// A label of few values.
    pub reason: String,
    /// What exactly.
    pub message: String,
    /// The host that was asked.
    pub host: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was tried last (RFC 3339).
    pub failed_at: String,
    /// When it is tried again by itself, if it is.
    pub next_at: Option<String>,
}

/// What a job would fetch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// Repositories; null where nobody could tell.
    pub repos: Option<u64>,
    /// Of them, those that are complete and would be skipped; null where that would need a listing.
    pub complete: Option<u64>,
    /// Bytes, roughly.
    pub bytes: Option<u64>,
    /// Seconds, at the hosts' limits, roughly.
    pub seconds: Option<f64>,
    /// Whether `repos` was counted (else extrapolated from samples).
    pub exact: bool,
    /// How the numbers were made.
    pub basis: String,
}

/// What became of a request to start a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Started {
    /// A job that is now pending or running.
    Job(Box<JobView>),
    /// A job over the same scope is pending or running: its id.
    Running(u64),
    /// There is nothing to do: a sentence that says why.
    NotNeeded(String),
}

/// Why the jobs can't be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// There is no such job.
    #[error("there is no job {0}")]
    NotFound(u64),
    /// The job is of a kind, or at a point, where that can't be done.
    #[error("{0}")]
    Conflict(String),
    /// The request can't be done as it is: the field and what is wrong with it.
    #[error("{field}: {message}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong, and what is allowed.
        message: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the API and the commands ask of worker 0.
#[async_trait]
pub trait Jobs: Send + Sync + 'static {
    /// Starts a job. `by_ledger`: without scope and force, decide by the ledger (the alias `/api/admin/backfill`).
    async fn start(&self, request: JobRequest, by_ledger: bool) -> Result<Started, JobsError>;

    /// What a job would fetch.
    async fn estimate(&self, request: JobRequest) -> Result<Estimate, JobsError>;

    /// The DID of a handle; the error names the field `handle`.
    async fn did_of(&self, handle: &str) -> Result<String, JobsError>;

    /// A page of jobs, newest first.
    async fn list(&self, cursor: Option<&str>, limit: usize) -> Result<Page<JobView>, JobsError>;

    /// One job.
    async fn get(&self, id: u64) -> Result<JobView, JobsError>;

    /// A page of a job's failures.
    async fn failures(
        &self,
        id: u64,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<FailureView>, JobsError>;

    /// Cancels a job; one that is over stays as it is.
    async fn cancel(&self, id: u64) -> Result<JobView, JobsError>;

    /// Takes only what failed again; a job without failures stays as it is.
    async fn retry(&self, id: u64) -> Result<JobView, JobsError>;
}
