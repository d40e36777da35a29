//! How much a job would fetch, before anything is.

use std::time::Duration;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::discover::{self, Source};
use super::model::{Estimate, JobRequest, JobsError};
use super::scope;
use super::tools::Tools;

/// Pages of a listing that are read to estimate.
const SAMPLE_PAGES: usize = 3;
/// Bytes of a repository where none is known: the mean of 40 million of them was near this.
const REPO_BYTES: u64 = 250_000;
/// Longest wait for an estimate.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
struct Hosts {
    hosts: Vec<Host>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Host {
    account_count: Option<u64>,
}

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
    let (mut repos, mut cursor) = (0, None);
    for _ in 0..SAMPLE_PAGES {
        let page = discover::page(tools, 0, source, cursor.as_deref(), &cancel).await;
        match page {
            Ok(page) => {
                repos += page.repos.len() as u64;
                cursor = page.next;
            }
            Err(error) => return of(tools, None, false, &error.to_string()),
        }
        if cursor.is_none() {
            return of(tools, Some(repos), true, "the listing of the relay, whole");
        }
    }
    match source {
        Source::Relay { relay } => match accounts(tools, relay, &cancel).await {
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

/// The accounts of all hosts of a relay, if it counts them.
async fn accounts(tools: &Tools, relay: &str, cancel: &CancellationToken) -> Option<u64> {
    let (mut accounts, mut cursor) = (0, None::<String>);
    loop {
        let mut url = format!("{relay}/xrpc/com.atproto.sync.listHosts?limit=1000");
        if let Some(cursor) = &cursor {
            url.push_str("&cursor=");
            url.push_str(&discover::escaped(cursor));
        }
        let answer = tools
            .fetcher
            .get(&url, discover::LISTING, cancel)
            .await
            .ok()?;
        let page: Hosts = serde_json::from_slice(&answer).ok()?;
        accounts += page
            .hosts
            .iter()
            .filter_map(|host| host.account_count)
            .sum::<u64>();
        if page.cursor.is_none() || page.cursor == cursor {
            return Some(accounts).filter(|accounts| *accounts > 0);
        }
        cursor = page.cursor;
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
