//! One repository of a job: is there anything to fetch, where from, and what came of it.
//!
//! [`resolve`] finds the host or that nothing has to be done, [`fetch`] asks the host and writes the records, [`finish`] makes the
//! claims that follow: the range delete, the status, the repairs that were answered. [`note`] writes down a failure.

use std::sync::Arc;

use super::account::{self, Answer};
use super::discover::{Found, escaped};
use super::failure::{self, Failure, FailureBody};
use super::gaps;
use super::known;
use super::listed::{self, ListedCollections};
use super::model::{CollectionCounts, Force, JobType};
use super::record::{Counts, Job};
use super::repository::{self, Written};
use super::run::failure_keys;
use super::scope;
use super::tools::Tools;
use crate::fetch::{FetchError, Patience};
use crate::identity::{IdentityError, SigningKey};
use crate::store::indexed::choice;
use crate::store::{
    ChoiceKind, JobFailure, Repair, RepairKind, Repo, RepoStatus, SnapshotDone, StatusWrite,
    StoreError, WriteBatch,
};
use crate::telemetry::metrics as names;

/// More collections are read as a CAR.
const MAX_LISTED: usize = 4;

/// What a job wants of each repository.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The start of the window or of the gap (microseconds).
    pub from: Option<u64>,
    /// Whether only what is newer than `from` is wanted, and nothing is removed.
    pub windowed: bool,
    /// Whether complete repositories are fetched again.
    pub force: bool,
    /// Whether DIDs were named: those who opted out are fetched only then.
    pub named: bool,
    /// The job, where it closes gaps of the ledger.
    pub closes_gaps: Option<u64>,
    /// Whether it is told of every repository what became of it, also of those that are hidden.
    pub asks_hidden: bool,
    /// The only collections that are wanted, if they are few.
    pub collections: Vec<String>,
    /// The collections that it is for; none: all that are indexed.
    pub scope: Vec<String>,
}

impl Plan {
    pub fn of(job: &Job) -> Self {
        let body = &job.body;
        Self {
            from: body.from,
            windowed: body.from.is_some() && !body.between,
            named: body.dids > 0,
            force: body.request.force == Some(Force::FullSync),
            closes_gaps: (!body.gaps.is_empty()).then_some(job.id),
            asks_hidden: matches!(body.kind, JobType::CatchUp | JobType::FullSync),
            collections: match body.request.collections.as_slice() {
                few if few.len() <= MAX_LISTED => few.to_vec(),
                _ => Vec::new(),
            },
            scope: body.request.collections.clone(),
        }
    }
}

/// Where a repository is fetched from.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Origin of its PDS.
    pub pds: Arc<str>,
    /// Origin of the relay that is asked in its place.
    pub relay: Option<Arc<str>>,
    /// Host and port that are asked: what limits count by.
    pub host: Arc<str>,
    /// The key that signs it.
    pub key: Option<SigningKey>,
    /// What is held of it.
    pub held: Option<Repo>,
}

impl Target {
    /// Who is asked.
    pub fn origin(&self) -> &str {
        self.relay.as_deref().unwrap_or(&self.pds)
    }

    /// The copy that a relay has of it.
    pub fn at_relay(&self, relay: &str) -> Self {
        Self {
            relay: Some(Arc::from(relay)),
            host: host_of(relay),
            ..self.clone()
        }
    }
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
    /// Written, but for these collections.
    Partly(Counts, Vec<String>, Failure),
}

/// What the host gave.
pub(super) enum Fetched {
    /// The records, which are written.
    Repository(Written),
    /// Some collections of it, and those that failed.
    Collections(ListedCollections, Option<(Vec<String>, Failure)>),
    /// What it says about the account.
    Account(Answer),
    /// Nothing newer.
    Unchanged,
}

/// Finds the host of a repository, or that nothing has to be fetched.
pub(super) async fn resolve(
    tools: &Tools,
    plan: &Plan,
    found: &Found,
    patience: &Patience,
) -> Result<Target, Outcome> {
    let did = &found.did;
    let failed = |error: StoreError| Outcome::Failed(error.into());
    let held = tools.store.repo(did).await.map_err(failed)?;
    let known = !known::has_changed_status(plan, found, held.as_ref())
        && known::is_known(tools, plan, found.rev, held.as_ref());
    if !plan.named && is_opted_out(tools, did).await.map_err(failed)? {
        if let Some(job) = plan.closes_gaps.filter(|_| held.is_some() && !known) {
            ask_later(tools, job, did).await.map_err(failed)?;
        }
        return Err(Outcome::Skipped);
    }
    let in_scope = async || match found.unlisted_only {
        true => scope::holds_any(tools, &plan.scope, did).await,
        false => Ok(true),
    };
    if !in_scope().await.map_err(failed)? {
        return Err(Outcome::Skipped);
    }
    if known && !found.always && !plan.force {
        return Err(Outcome::Skipped);
    }
    let mut identity = tools.identities.resolve(did, patience).await;
    let asked = tools.clock.now_micros();
    if matches!(identity, Err(IdentityError::Tombstoned(_))) {
        // That may be of long ago, and a DID can be recovered.
        identity = tools.identities.refresh(did, patience).await;
    }
    let identity = match identity {
        Ok(identity) => identity,
        Err(IdentityError::Tombstoned(_)) => {
            let answer = Answer::deleted(asked);
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
        relay: None,
        key: identity.key,
        held,
    })
}

/// What a gap changed in a repository that opted out is asked for once it no longer does.
async fn ask_later(tools: &Tools, job: u64, did: &str) -> Result<(), StoreError> {
    let mut batch = WriteBatch::new();
    batch.put_repair(gaps::repair(job, did));
    tools.store.apply(batch).await.map(|_| ())
}

/// Whether only jobs that name a DID fetch it: the configuration says so, or an operator.
pub(super) async fn is_opted_out(tools: &Tools, did: &str) -> Result<bool, StoreError> {
    if tools.options.skip_dids.contains(did) {
        return Ok(true);
    }
    let row = choice(&*tools.store, ChoiceKind::OptOut, did).await?;
    Ok(row.is_some())
}

/// `host[:port]` of an origin.
fn host_of(origin: &str) -> Arc<str> {
    let (_, host) = origin.split_once("://").unwrap_or(("", origin));
    Arc::from(host.trim_end_matches('.'))
}

/// Whether a repository is hidden, and nothing says that it came back: then its host is asked for the status only.
pub(super) fn asks_status(plan: &Plan, found: &Found, held: &Repo) -> bool {
    let told = found.active == Some(true) || found.always;
    plan.asks_hidden && !told && is_hidden(held)
}

/// Whether the records of a repository are held, and not shown.
pub(super) fn is_hidden(held: &Repo) -> bool {
    !held.active() && held.status_text() != Some("deleted")
}

/// Asks the host, and writes what it gives.
pub(super) async fn fetch(
    tools: &Tools,
    plan: &Plan,
    found: &Found,
    target: &Target,
    patience: &Patience,
) -> Result<Fetched, Failure> {
    let failed = |failure: Failure| failure.at(&target.host);
    if target.relay.is_some() {
        return copy(tools, plan, found, target, patience)
            .await
            .map_err(failed);
    }
    // What the host says of the account is as old as the first question.
    let asked = tools.clock.now_micros();
    let of_status = |repair: &Repair| repair.kind == RepairKind::Status;
    let only_status = !found.repairs.is_empty() && found.repairs.iter().all(of_status);
    let hidden = target.held.as_ref();
    if only_status || hidden.is_some_and(|held| asks_status(plan, found, held)) {
        let answer = account::ask(tools, &found.did, &target.pds, patience)
            .await
            .map_err(failed)?;
        return confirmed(tools, found, target, answer, patience)
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
        let latest = account::latest(tools, &found.did, &target.pds, patience).await;
        match latest {
            Ok(latest) if known::is_complete(tools, latest.rev, target.held.as_ref()) => {
                return Ok(Fetched::Unchanged);
            }
            Ok(_) => {}
            Err(error) => {
                return account_error(tools, found, target, error, asked, patience)
                    .await
                    .map_err(failed);
            }
        }
    }
    let wanted = match found.collections.as_slice() {
        [] => &plan.collections,
        _ => &found.collections,
    };
    if wanted.is_empty() || plan.windowed {
        return whole(tools, plan, found, target, asked, patience)
            .await
            .map_err(failed);
    }
    let listed = match listed::read(tools, &found.did, wanted, target, asked, patience).await {
        Ok(listed) => listed,
        Err(error) => {
            return account_error(tools, found, target, error, asked, patience)
                .await
                .map_err(failed);
        }
    };
    let Some(mut listed) = listed else {
        return whole(tools, plan, found, target, asked, patience)
            .await
            .map_err(failed);
    };
    let left = std::mem::take(&mut listed.left);
    let lost = match left.is_empty() {
        true => None,
        // The CAR tells more, or the same better.
        false => match whole(tools, plan, found, target, asked, patience).await {
            // Of a mere pause nothing is left behind: the same would be counted again.
            Err(failure) if !listed.is_empty() && failure.paused_until.is_none() => {
                Some((left, failed(failure)))
            }
            fetched => return fetched.map_err(failed),
        },
    };
    let written = listed::write(tools, &found.did, target, listed).await?;
    Ok(Fetched::Collections(written, lost))
}

/// The repository as its host has it.
async fn whole(
    tools: &Tools,
    plan: &Plan,
    found: &Found,
    target: &Target,
    asked: u64,
    patience: &Patience,
) -> Result<Fetched, Failure> {
    match repository::read(tools, plan, found, target, asked, patience).await {
        Ok(Some(written)) => Ok(Fetched::Repository(written)),
        Ok(None) if target.held.as_ref().is_some_and(|repo| !repo.active()) => {
            Ok(Fetched::Account(Answer::active(asked)))
        }
        Ok(None) => Ok(Fetched::Unchanged),
        Err(repository::ReadError::Fetch(error)) => {
            account_error(tools, found, target, error, asked, patience).await
        }
        Err(repository::ReadError::Failed(failure)) => Err(failure),
    }
}

/// What a relay has of it. What it says of the account counts for nothing.
async fn copy(
    tools: &Tools,
    plan: &Plan,
    found: &Found,
    target: &Target,
    patience: &Patience,
) -> Result<Fetched, Failure> {
    let asked = tools.clock.now_micros();
    match repository::read(tools, plan, found, target, asked, patience).await {
        Ok(Some(written)) => Ok(Fetched::Repository(written)),
        // It names no revision, so that it may be behind what its host has.
        Ok(None) => Err(Failure::new(
            "old_copy",
            "the relay's copy has nothing newer than the window's start",
            false,
        )),
        Err(repository::ReadError::Fetch(error)) => Err(error.into()),
        Err(repository::ReadError::Failed(failure)) => Err(failure),
    }
}

/// One of the errors that speak of the account, or a failure.
async fn account_error(
    tools: &Tools,
    found: &Found,
    target: &Target,
    error: FetchError,
    asked: u64,
    patience: &Patience,
) -> Result<Fetched, Failure> {
    match Answer::of_error(&error, asked) {
        Some(answer) => confirmed(tools, found, target, answer, patience).await,
        None => Err(error.into()),
    }
}

/// What a host says of an account counts only while the DID document, asked anew, still names that host.
async fn confirmed(
    tools: &Tools,
    found: &Found,
    target: &Target,
    answer: Answer,
    patience: &Patience,
) -> Result<Fetched, Failure> {
    if answer.status.active {
        return Ok(Fetched::Account(answer));
    }
    match tools.identities.refresh(&found.did, patience).await {
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

/// Makes the claims that follow from what was fetched. What no store can hold is a failure of this repository alone.
pub(super) async fn finish(
    tools: &Tools,
    plan: &Plan,
    found: &Found,
    fetched: Fetched,
) -> Result<Outcome, StoreError> {
    match claim(tools, plan, found, fetched).await {
        Err(error @ StoreError::Refused(_)) => Ok(Outcome::Failed(error.into())),
        outcome => outcome,
    }
}

async fn claim(
    tools: &Tools,
    plan: &Plan,
    found: &Found,
    fetched: Fetched,
) -> Result<Outcome, StoreError> {
    let written = match fetched {
        Fetched::Unchanged => return Ok(Outcome::Skipped),
        Fetched::Account(answer) => return account::take(tools, found, &answer).await,
        Fetched::Collections(listed, lost) => {
            listed::finish(tools, &listed).await?;
            activate(tools, found, listed.was_active, listed.asked).await?;
            let counts = counted(listed.records);
            return Ok(match lost {
                None => Outcome::Done(counts),
                Some((left, failure)) => Outcome::Partly(counts, left, failure),
            });
        }
        Fetched::Repository(written) => written,
    };
    // First, for completing waits until all before it is durable, and the questions are cleared right after that. A relay's copy says
    // nothing of the account.
    if written.of_pds {
        activate(tools, found, written.was_active, written.asked).await?;
    }
    if !plan.windowed {
        tools
            .store
            .complete_snapshot(SnapshotDone {
                did: found.did.clone(),
                scopes: written.scopes.clone(),
                complete: written.complete.clone(),
                settled: false,
            })
            .await?;
        clear_answered(tools, &written).await?;
    }
    Ok(Outcome::Done(written.counts))
}

/// A host that gives a repository, or a part of it, says that the account is active.
async fn activate(
    tools: &Tools,
    found: &Found,
    was_active: bool,
    asked: u64,
) -> Result<(), StoreError> {
    let asked_for = found
        .repairs
        .iter()
        .any(|repair| repair.kind == RepairKind::Status);
    if was_active && !asked_for {
        return Ok(());
    }
    let mut batch = WriteBatch::new();
    batch.put_status(StatusWrite {
        did: found.did.clone(),
        version: asked,
        status: RepoStatus {
            active: true,
            status: None,
        },
        repair_if_stale: None,
        repair_if_reactivated: None,
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
        Outcome::Failed(failure) | Outcome::Partly(_, _, failure) => {
            tracing::info!(
                job,
                did = found.did,
                host = failure.host,
                reason = failure.reason,
                message = failure.message,
                "a repository failed"
            );
            let body = FailureBody::new(failure, attempts, tools.clock.now_micros(), None);
            let body = serde_json::to_vec(&body).unwrap_or_default();
            let rows = failure_keys(job, &found.did, &found.collections);
            let rows: Vec<JobFailure> = rows
                .map(|key| JobFailure {
                    body: body.clone(),
                    ..key
                })
                .collect();
            failure::put(&*tools.store, &rows).await?;
            if retrying {
                let before = failure_keys(job, &found.did, &found.failed);
                let again =
                    |key: &JobFailure| rows.iter().any(|row| row.collection == key.collection);
                let mended: Vec<JobFailure> = before.filter(|key| !again(key)).collect();
                tools.store.clear_failures(&mended).await?;
            }
            Counts {
                failed: 1,
                ..Counts::default()
            }
        }
        mended => {
            if retrying {
                let mended: Vec<JobFailure> =
                    failure_keys(job, &found.did, &found.failed).collect();
                tools.store.clear_failures(&mended).await?;
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
