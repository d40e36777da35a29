//! How much a job would fetch, before anything is.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::discover::{Lister, Source};
use super::hosts;
use super::model::{Estimate, JobRequest, JobsError};
use super::scope;
use super::tools::Tools;

/// Pages of a listing that are read to estimate.
const SAMPLE_PAGES: usize = 3;
/// Bytes of a repository where none is known: the mean of 40 million of them was near this.
const REPO_BYTES: u64 = 250_000;
/// Longest wait for an estimate.
const PATIENCE: Duration = Duration::from_secs(20);

/// Counts what can be counted in a moment, and says how.
pub(super) async fn estimate(tools: &Tools, request: &JobRequest) -> Result<Estimate, JobsError> {
    if !request.dids.is_empty() {
        let repos = request.dids.len() as u64;
        return Ok(of(tools, Some(repos), true, "the DIDs that were given"));
    }
    let looked = tokio::time::timeout(PATIENCE, count(tools, request)).await;
    Ok(looked.unwrap_or_else(|_| of(tools, None, false, "the relay did not answer in time")))
}

async fn count(tools: &Tools, request: &JobRequest) -> Estimate {
    let cancel = CancellationToken::new();
    let sources = scope::sources(request, &tools.indexed.now(), &tools.options.relays);
    let Some(source) = sources.first() else {
        return of(tools, None, false, "no relay is configured");
    };
    let lister = Lister::new(0);
    let (mut repos, mut cursor) = (0, None);
    for _ in 0..SAMPLE_PAGES {
        let page = lister.page(tools, source, cursor.as_deref(), &cancel).await;
        match page {
            Ok(page) => {
                repos += page.repos.len() as u64;
                cursor = page.next;
            }
            // The job would ask each host.
            Err(error) if error.is_unsupported() => break,
            Err(error) => return of(tools, None, false, &error.to_string()),
        }
        if cursor.is_none() {
            return of(tools, Some(repos), true, "the listing of the relay, whole");
        }
    }
    match source {
        Source::Relay { relay } => match hosts::accounts(tools, relay, &cancel).await {
            Some(accounts) => of(
                tools,
                Some(accounts),
                false,
                "the accounts that the relay's listHosts counts",
            ),
            None => of(
                tools,
                None,
                false,
                "the listing is long and the relay counts no accounts",
            ),
        },
        _ => of(
            tools,
            None,
            false,
            "the listing is longer than what was read of it",
        ),
    }
}

fn of(tools: &Tools, repos: Option<u64>, exact: bool, basis: &str) -> Estimate {
    let per_second = tools.options.rate;
    Estimate {
        repos,
        complete: None,
        bytes: repos.map(|repos| repos.saturating_mul(REPO_BYTES)),
        // As if all were on one host: more hosts make it shorter.
        seconds: repos.map(|repos| repos as f64 / per_second),
        exact,
        basis: format!(
            "{basis}; {REPO_BYTES} bytes a repository, {per_second} a second of one host"
        ),
    }
}
