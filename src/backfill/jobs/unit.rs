//! One repository of a job: is there anything to fetch, where from, and what came of it.
//!
//! [`resolve`] finds the host or that nothing has to be done, [`fetch`] asks the host and writes the records, [`finish`] makes the
//! claims that follow: the range delete, the status, the repairs that were answered. [`note`] writes down a failure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::account::{self, Answer};
use super::discover::{Found, escaped};
use super::listed::{self, ListedCollection};
use super::model::{CollectionCounts, Force};
use super::record::{Counts, Job};
use super::repository::{self, Written};
use super::run::failure_key;
use super::tools::Tools;
use crate::config::CollectionFilter;
use crate::decode::Tid;
use crate::fetch::FetchError;
use crate::identity::{IdentityError, SigningKey};
use crate::store::{
    JobFailure, Repair, RepairKind, Repo, RepoStatus, SnapshotDone, StatusWrite, StoreError,
    WriteBatch,
};
use crate::telemetry::metrics as names;

/// How much older than a gap a revision must be before the gap can't have changed the repository: clocks differ.
const GAP_MARGIN: u64 = 3_600_000_000;

/// What a job wants of each repository.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The start of the window or of the gap (microseconds).
    pub from: Option<u64>,
    /// Whether only what is newer than `from` is wanted, and nothing is removed.
    pub windowed: bool,
    /// Whether complete repositories are fetched again.
    pub force: bool,
    /// The only collection that is wanted, if it is one.
    pub collection: Option<String>,
}

impl Plan {
    pub fn of(job: &Job) -> Self {
        let body = &job.body;
        Self {
            from: body.from,
            windowed: body.from.is_some() && !body.between,
            force: body.request.force == Some(Force::FullSync),
            collection: match body.request.collections.as_slice() {
                [collection] => Some(collection.clone()),
                _ => None,
            },
        }
    }
}

/// Where a repository is fetched from.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Origin of its PDS.
    pub pds: Arc<str>,
    /// Host and port: what limits count by.
    pub host: Arc<str>,
    /// The key that signs it.
    pub key: Option<SigningKey>,
    /// What is held of it.
    pub held: Option<Repo>,
}

/// Why a repository could not be had.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// A label of few values.
    pub reason: &'static str,
    /// What exactly.
    pub message: String,
    /// Who was asked.
    pub host: Option<String>,
    /// Whether another try may help.
    pub again: bool,
}

/// What became of a repository.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Written.
    Done(Counts),
    /// Nothing was to be fetched.
    Skipped,
    /// The account is gone or hidden.
    Inactive,
    /// It failed.
    Failed(Failure),
}

/// What the host gave.
pub(super) enum Fetched {
    /// The records, which are written.
    Repository(Written),
    /// One collection of it.
    Collection(String, ListedCollection),
    /// What it says about the account.
    Account(Answer),
    /// Nothing newer.
    Unchanged,
}

impl Failure {
    pub fn new(reason: &'static str, message: impl ToString, again: bool) -> Self {
        Self {
            reason,
            message: message.to_string(),
            host: None,
            again,
        }
    }

    /// Whether nothing was asked, for the host is left alone.
    pub fn is_of_host(&self) -> bool {
        self.reason == "backed_off"
    }

    pub fn at(self, host: &str) -> Self {
        Self {
            host: Some(host.to_owned()),
            ..self
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let (reason, again) = match &error {
            FetchError::Forbidden(..) => ("forbidden_address", false),
            FetchError::Unreachable { .. } => ("unreachable", true),
            FetchError::BackedOff(_) => ("backed_off", true),
            FetchError::Throttled(_) => ("throttled", false),
            FetchError::TooSlow { .. } => ("too_slow", true),
            FetchError::TooLarge { .. } => ("too_large", false),
            FetchError::Truncated(_) => ("truncated", true),
            FetchError::Status { status, .. } if *status >= 500 => ("server_error", true),
            FetchError::Status { .. } => ("refused", false),
            FetchError::Cancelled => ("cancelled", false),
        };
        Self::new(reason, error, again)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new("store", error, true)
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Fetch(did, error) => {
                let failure = Self::from(error);
                Self {
                    reason: match failure.reason {
                        "refused" | "server_error" | "unreachable" => "identity_unreachable",
                        reason => reason,
                    },
                    message: format!("{did} could not be resolved: {}", failure.message),
                    ..failure
                }
            }
            IdentityError::NotFound(..) => Self::new("identity_not_found", error, false),
            IdentityError::Tombstoned(_) => Self::new("tombstoned", error, false),
            IdentityError::Malformed(..) => Self::new("identity_malformed", error, false),
        }
    }
}

/// Finds the host of a repository, or that nothing has to be fetched.
pub(super) async fn resolve(
    tools: &Tools,
    plan: &Plan,
    found: &Found,
    cancel: &CancellationToken,
) -> Result<Target, Outcome> {
    let did = &found.did;
    let held = tools
        .store
        .repo(did)
        .await
        .map_err(|error| Outcome::Failed(error.into()))?;
    if !found.always && !plan.force && is_known(tools, plan, found.rev, held.as_ref()) {
        return Err(Outcome::Skipped);
    }
    let identity = match tools.identities.resolve(did, cancel).await {
        Ok(identity) => identity,
        Err(IdentityError::Tombstoned(_)) => {
            let answer = Answer::deleted(tools.clock.now_micros());
            let gone = account::take(tools, found, &answer).await;
            return Err(gone.unwrap_or_else(|error| Outcome::Failed(error.into())));
        }
        Err(error) => return Err(Outcome::Failed(error.into())),
    };
    let Some(pds) = identity.pds else {
        let message = format!("the DID document of {did} names no PDS");
        return Err(Outcome::Failed(Failure::new("no_pds", message, false)));
    };
    Ok(Target {
        host: host_of(&pds),
        pds,
        key: identity.key,
        held,
    })
}

/// `host[:port]` of an origin.
fn host_of(origin: &str) -> Arc<str> {
    let (_, host) = origin.split_once("://").unwrap_or(("", origin));
    Arc::from(host)
}

/// Whether a listed revision needs no fetch.
fn is_known(tools: &Tools, plan: &Plan, listed: Option<Tid>, held: Option<&Repo>) -> bool {
    let Some(listed) = listed else { return false };
    if let Some(from) = plan.from {
        let margin = if plan.windowed { 0 } else { GAP_MARGIN };
        if listed.micros().saturating_add(margin) < from {
            return true;
        }
    }
    is_complete(tools, listed, held)
}

/// Whether a revision is held as a whole already: by a snapshot that is not older, of all that is wanted, with nothing removed
/// since.
fn is_complete(tools: &Tools, rev: Tid, held: Option<&Repo>) -> bool {
    let Some((held, complete)) = held.and_then(|held| Some((held, held.complete.as_ref()?))) else {
        return false;
    };
    let filter = CollectionFilter::parse(&complete.filter);
    let wide = filter.is_ok_and(|filter| filter.covers(&tools.options.collections));
    let removed = held
        .floors
        .iter()
        .any(|floor| floor.version >= complete.version);
    wide && !removed && held.active() && rev <= complete.rev
}

/// Asks the host, and writes what it gives.
pub(super) async fn fetch(
    tools: &Tools,
    plan: &Plan,
    found: &Found,
    target: &Target,
    cancel: &CancellationToken,
) -> Result<Fetched, Failure> {
    let failed = |failure: Failure| failure.at(&target.host);
    let only_status = !found.repairs.is_empty()
        && found
            .repairs
            .iter()
            .all(|repair| repair.kind == RepairKind::Status);
    if only_status {
        let answer = account::ask(tools, &found.did, &target.pds, cancel)
            .await
            .map_err(failed)?;
        return confirmed(tools, found, target, answer, cancel)
            .await
            .map_err(failed);
    }
    let untold = found.rev.is_none() && !found.always && !plan.force;
    if untold
        && target
            .held
            .as_ref()
            .is_some_and(|repo| repo.complete.is_some())
    {
        let latest = account::latest(tools, &found.did, &target.pds, cancel).await;
        match latest {
            Ok(latest) if is_complete(tools, latest.rev, target.held.as_ref()) => {
                return Ok(Fetched::Unchanged);
            }
            Ok(_) => {}
            Err(error) => {
                return account_error(tools, found, target, error, cancel)
                    .await
                    .map_err(failed);
            }
        }
    }
    if let Some(collection) = plan.collection.as_ref().filter(|_| !plan.windowed) {
        match listed::read(tools, &found.did, collection, target, cancel).await {
            Ok(Some(listed)) => return Ok(Fetched::Collection(collection.clone(), listed)),
            // The CAR tells more, or the same better.
            Ok(None) => {}
            Err(listed::ReadError::Fetch(error)) => {
                return account_error(tools, found, target, error, cancel)
                    .await
                    .map_err(failed);
            }
            Err(listed::ReadError::Store(error)) => return Err(error.into()),
        }
    }
    let asked = tools.clock.now_micros();
    match repository::read(tools, plan, found, target, asked, cancel).await {
        Ok(Some(written)) => Ok(Fetched::Repository(written)),
        Ok(None) => Ok(Fetched::Unchanged),
        Err(repository::ReadError::Fetch(error)) => {
            account_error(tools, found, target, error, cancel)
                .await
                .map_err(failed)
        }
        Err(repository::ReadError::Failed(failure)) => Err(failed(failure)),
    }
}

/// One of the errors that speak of the account, or a failure.
async fn account_error(
    tools: &Tools,
    found: &Found,
    target: &Target,
    error: FetchError,
    cancel: &CancellationToken,
) -> Result<Fetched, Failure> {
    match Answer::of_error(&error, tools.clock.now_micros()) {
        Some(answer) => confirmed(tools, found, target, answer, cancel).await,
        None => Err(error.into()),
    }
}

/// What a host says of an account counts only while the DID document, asked anew, still names that host.
async fn confirmed(
    tools: &Tools,
    found: &Found,
    target: &Target,
    answer: Answer,
    cancel: &CancellationToken,
) -> Result<Fetched, Failure> {
    if answer.status.active {
        return Ok(Fetched::Account(answer));
    }
    match tools.identities.refresh(&found.did, cancel).await {
        Ok(now) if now.pds.as_ref() != Some(&target.pds) => {
            let to = now.pds.as_deref().unwrap_or("nowhere").to_owned();
            let message = format!("the account moved from {} to {to}", target.pds);
            Err(Failure::new("moved", message, true))
        }
        Ok(_) | Err(IdentityError::Tombstoned(_)) => Ok(Fetched::Account(answer)),
        Err(error) => Err(error.into()),
    }
}

/// `getRepo` and its like, of an origin.
pub(super) fn xrpc(origin: &str, method: &str, did: &str) -> String {
    format!(
        "{origin}/xrpc/com.atproto.sync.{method}?did={}",
        escaped(did)
    )
}

/// Makes the claims that follow from what was fetched.
pub(super) async fn finish(
    tools: &Tools,
    plan: &Plan,
    found: &Found,
    fetched: Fetched,
) -> Result<Outcome, StoreError> {
    let written = match fetched {
        Fetched::Unchanged => return Ok(Outcome::Skipped),
        Fetched::Account(answer) => return account::take(tools, found, &answer).await,
        Fetched::Collection(collection, listed) => {
            listed::finish(tools, &listed).await?;
            return Ok(Outcome::Done(counted([(collection, listed.records)])));
        }
        Fetched::Repository(written) => written,
    };
    if !plan.windowed {
        // First, for completing waits until all before it is durable, and the questions are cleared right after that.
        activate(tools, found, &written).await?;
        let complete = written.complete.clone();
        tools
            .store
            .complete_snapshot(SnapshotDone {
                did: found.did.clone(),
                scopes: written.scopes.clone(),
                complete,
                settled: false,
            })
            .await?;
        clear_answered(tools, &written).await?;
    }
    Ok(Outcome::Done(written.counts))
}

/// A host that gives a repository says that the account is active.
async fn activate(tools: &Tools, found: &Found, written: &Written) -> Result<(), StoreError> {
    let asked_for = found
        .repairs
        .iter()
        .any(|repair| repair.kind == RepairKind::Status);
    if written.was_active && !asked_for {
        return Ok(());
    }
    let mut batch = WriteBatch::new();
    batch.put_status(StatusWrite {
        did: found.did.clone(),
        version: written.asked,
        status: RepoStatus {
            active: true,
            status: None,
        },
        repair_if_stale: None,
    });
    tools.store.apply(batch).await?;
    Ok(())
}

/// Clears the questions that were there before the request and that a full snapshot answers.
async fn clear_answered(tools: &Tools, written: &Written) -> Result<(), StoreError> {
    let answered = |repair: &&Repair| match repair.kind {
        RepairKind::Content => {
            written.complete.rev.micros() >= repair.version
                && (repair.version > 0 || written.of_pds)
        }
        RepairKind::Floor => written.complete.version > repair.version,
        RepairKind::Status => written.of_pds,
    };
    let done: Vec<Repair> = written.repairs.iter().filter(answered).cloned().collect();
    match done.is_empty() {
        true => Ok(()),
        false => tools.store.clear_repairs(&done).await,
    }
}

/// What a failure's row holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FailureBody {
    pub reason: String,
    pub message: String,
    pub host: Option<String>,
    pub attempts: u32,
    /// Microseconds.
    pub at: u64,
    /// When it is tried again by itself (microseconds).
    pub next: Option<u64>,
}

/// Writes a failure down, or clears one that was mended; gives what is counted for the repository.
pub(super) async fn note(
    tools: &Tools,
    job: u64,
    found: &Found,
    attempts: u32,
    outcome: Outcome,
    retrying: bool,
) -> Result<Counts, StoreError> {
    let mut counts = match outcome {
        Outcome::Failed(failure) => {
            tracing::info!(
                job,
                did = found.did,
                host = failure.host,
                reason = failure.reason,
                message = failure.message,
                "a repository failed"
            );
            let body = FailureBody {
                reason: failure.reason.to_owned(),
                message: failure.message.chars().take(500).collect(),
                host: failure.host,
                attempts,
                at: tools.clock.now_micros(),
                next: None,
            };
            let row = JobFailure {
                body: serde_json::to_vec(&body).unwrap_or_default(),
                ..failure_key(job, &found.did)
            };
            tools.store.put_failures(&[row]).await?;
            Counts {
                failed: 1,
                ..Counts::default()
            }
        }
        mended => {
            if retrying {
                tools
                    .store
                    .clear_failures(&[failure_key(job, &found.did)])
                    .await?;
            }
            match mended {
                Outcome::Done(counts) => counts,
                Outcome::Skipped => Counts {
                    skipped: 1,
                    ..Counts::default()
                },
                _ => Counts {
                    inactive: 1,
                    ..Counts::default()
                },
            }
        }
    };
    counts.processed = 1;
    let outcome = match &counts {
        Counts { failed: 1, .. } => "failed",
        Counts { skipped: 1, .. } => "skipped",
        Counts { inactive: 1, .. } => "inactive",
        _ => "done",
    };
    names::BACKFILL_REPOS.with([outcome]).increment(1);
    names::BACKFILL_RECORDS.with([]).increment(counts.records);
    Ok(counts)
}

/// Counts of a repository's collections.
pub(super) fn counted(collections: impl IntoIterator<Item = (String, u64)>) -> Counts {
    let mut counts = Counts::default();
    for (collection, records) in collections {
        counts.records += records;
        counts.count(&collection, CollectionCounts { repos: 1, records });
    }
    counts
}
