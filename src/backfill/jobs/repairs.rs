//! The standing job: works the rows of `repairs` off, slowly and for ever.
//!
//! A pass walks over all rows. What fails is tried again later, each time after a longer while; its attempts are the failures of
//! this job, so that they are seen like those of any other one.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::discover::{DiscoverError, Found, Lister, Source};
use super::failure::{self, Failure, FailureBody};
use super::live::Live;
use super::record::{Counts, Job};
use super::roster::REPAIRS;
use super::run::failure_key;
use super::tools::Tools;
use super::unit::{self, Fetched, Outcome, Plan, Target};
use crate::store::{JobFailure, RepairKind, StoreError};
use crate::telemetry::metrics as names;

/// Repositories that are repaired at once.
const AT_ONCE: usize = 8;
/// Between two passes.
const PASS_EVERY: Duration = Duration::from_secs(5);
/// After the first failure; doubles.
const FIRST_WAIT: u64 = 60_000_000;
/// The longest wait (microseconds).
const LONGEST_WAIT: u64 = 6 * 3_600_000_000;

/// What is done with every row: nothing is skipped.
const PLAN: Plan = Plan {
    from: None,
    windowed: false,
    force: true,
    named: true,
    closes_gaps: None,
    asks_hidden: false,
    collections: Vec::new(),
    scope: Vec::new(),
};

/// Works until the shutdown.
pub(super) async fn run(
    tools: Arc<Tools>,
    live: Arc<Live>,
    shutdown: CancellationToken,
) -> Result<(), StoreError> {
    let mut job = live.job();
    while !shutdown.is_cancelled() {
        let passed = shutdown
            .run_until_cancelled(pass(&tools, &live, &mut job, &shutdown))
            .await;
        match passed {
            Some(Ok(())) | None => {}
            Some(Err(StoreError::Unavailable(error))) => {
                tracing::warn!(error, "the repairs wait for the store");
                live.read_again(&*tools.store).await?;
                job = live.job();
            }
            Some(Err(error)) => return Err(error),
        }
        let wait = tokio::time::sleep(PASS_EVERY);
        let _ = shutdown.run_until_cancelled(wait).await;
    }
    Ok(())
}

/// One walk over all rows.
async fn pass(
    tools: &Arc<Tools>,
    live: &Live,
    job: &mut Job,
    shutdown: &CancellationToken,
) -> Result<(), StoreError> {
    let mut working: JoinSet<Result<Counts, StoreError>> = JoinSet::new();
    let lister = Lister::new(REPAIRS);
    let mut cursor: Option<String> = None;
    let mut waiting = 0;
    let before = job.body.counts.clone();
    loop {
        let page = lister
            .page(tools, &Source::Repairs, cursor.as_deref(), shutdown)
            .await;
        let page = match page {
            Ok(page) => page,
            Err(DiscoverError::Store(error)) => return Err(error),
            Err(error) => return Err(StoreError::Failed(error.to_string())),
        };
        for found in page.repos {
            waiting += 1;
            let Some(attempts) = due(tools, &found).await? else {
                continue;
            };
            if working.len() >= AT_ONCE
                && let Some(ended) = working.join_next().await
            {
                count(tools, live, job, ended)?;
            }
            let (tools, shutdown) = (tools.clone(), shutdown.clone());
            let pause = tools.options.repair_pause;
            working.spawn(async move { repair(&tools, &found, attempts, &shutdown).await });
            tokio::time::sleep(pause).await;
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    while let Some(ended) = working.join_next().await {
        count(tools, live, job, ended)?;
    }
    job.body.counts.found = job.body.counts.processed + waiting;
    live.show(job, job.body.counts.clone());
    match before == job.body.counts {
        true => Ok(()),
        false => job.save(&*tools.store).await,
    }
}

fn count(
    tools: &Tools,
    live: &Live,
    job: &mut Job,
    ended: Result<Result<Counts, StoreError>, tokio::task::JoinError>,
) -> Result<(), StoreError> {
    let counts =
        ended.map_err(|error| StoreError::Failed(format!("a repair ended: {error}")))??;
    job.body.counts.add(&counts);
    job.body.updated = tools.clock.now_micros();
    live.show(job, job.body.counts.clone());
    Ok(())
}

/// How often a repository was tried, if it is to be tried now.
async fn due(tools: &Tools, found: &Found) -> Result<Option<u32>, StoreError> {
    let failure = tools.store.failure(REPAIRS, &found.did, "").await?;
    let body = failure.and_then(|row| serde_json::from_slice::<FailureBody>(&row.body).ok());
    let now = tools.clock.now_micros();
    Ok(match body {
        None => Some(0),
        Some(body) if body.next.is_none_or(|next| next <= now) => Some(body.attempts),
        Some(_) => None,
    })
}

async fn repair(
    tools: &Tools,
    found: &Found,
    attempts: u32,
    cancel: &CancellationToken,
) -> Result<Counts, StoreError> {
    let of_content = found
        .repairs
        .iter()
        .any(|repair| repair.kind != RepairKind::Status);
    if of_content && unit::is_opted_out(tools, &found.did).await? {
        let message = "only a job that names it fetches this repository: it opted out";
        let failure = Failure::new("opted_out", message, true);
        return later(tools, found, attempts + 1, failure).await;
    }
    let outcome = match attempt(tools, found, cancel).await? {
        // Where to, or by what, is known by now.
        Outcome::Failed(failure) if matches!(failure.reason, "moved" | "overtaken") => {
            attempt(tools, found, cancel).await?
        }
        outcome => outcome,
    };
    // What the answer did not satisfy stays, and is asked for again like a failure. What it asks anew has its own turn.
    let left = tools.store.repairs_of(&found.did).await?;
    let unanswered = left.iter().any(|repair| found.repairs.contains(repair));
    let outcome = match outcome {
        Outcome::Done(_) | Outcome::Skipped if unanswered => {
            let message = "the host answered with a state older than what was announced";
            Outcome::Failed(Failure::new("not_there_yet", message, true))
        }
        outcome => outcome,
    };
    match outcome {
        Outcome::Failed(failure) => later(tools, found, attempts + 1, failure).await,
        mended => unit::note(tools, REPAIRS, found, attempts, mended, attempts > 0).await,
    }
}

async fn attempt(
    tools: &Tools,
    found: &Found,
    cancel: &CancellationToken,
) -> Result<Outcome, StoreError> {
    match unit::resolve(tools, &PLAN, found, cancel).await {
        Err(outcome) => Ok(outcome),
        Ok(target) => match fetch(tools, found, &target, cancel).await {
            Ok(fetched) => unit::finish(tools, &PLAN, found, fetched).await,
            Err(failure) => Ok(Outcome::Failed(failure)),
        },
    }
}

/// Asks the host, then the relays.
async fn fetch(
    tools: &Tools,
    found: &Found,
    target: &Target,
    cancel: &CancellationToken,
) -> Result<Fetched, Failure> {
    let mut failure = match unit::fetch(tools, &PLAN, found, target, cancel).await {
        Err(failure) if failure.elsewhere && found.may_be_copied() => failure,
        fetched => return fetched,
    };
    for relay in &tools.options.relays {
        let copy = target.at_relay(relay);
        match unit::fetch(tools, &PLAN, found, &copy, cancel).await {
            Err(other) => failure = failure.and_at_relay(&other),
            fetched => return fetched,
        }
    }
    Err(failure)
}

/// Writes down when it is tried again.
async fn later(
    tools: &Tools,
    found: &Found,
    attempts: u32,
    failure: Failure,
) -> Result<Counts, StoreError> {
    let now = tools.clock.now_micros();
    let wait = FIRST_WAIT
        .saturating_mul(1 << attempts.saturating_sub(1).min(20))
        .min(LONGEST_WAIT);
    let body = FailureBody::new(failure, attempts, now, Some(now.saturating_add(wait)));
    let row = JobFailure {
        body: serde_json::to_vec(&body).unwrap_or_default(),
        ..failure_key(REPAIRS, &found.did)
    };
    failure::put(&*tools.store, &[row]).await?;
    names::BACKFILL_REPOS.with(["failed"]).increment(1);
    Ok(Counts::default())
}
