//! How much a job would fetch, before anything is.

use std::collections::HashSet;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::discover::{DiscoverError, Lister, Source};
use super::hosts;
use super::model::{Estimate, Force, JobRequest, JobsError};
use super::scope;
use super::tools::Tools;

/// Pages of each listing that are read to estimate.
const SAMPLE_PAGES: usize = 3;
/// With more repositories than this, all listings together are long too.
const MOST: usize = 20_000;
/// Bytes of a repository where none is known: the mean of 40 million of them was near this.
const REPO_BYTES: u64 = 250_000;
/// Longest wait for an estimate.
const PATIENCE: Duration = Duration::from_secs(20);

/// Counts what can be counted in a moment, and says how.
pub(super) async fn estimate(tools: &Tools, request: &JobRequest) -> Result<Estimate, JobsError> {
    let counted = match request.dids.len() {
        0 => {
            let looked = tokio::time::timeout(PATIENCE, count(tools, request)).await;
            looked.unwrap_or_else(|_| Counted::unknown("the relays did not answer in time"))
        }
        dids => Counted::exactly(dids, "the DIDs that were given"),
    };
    Ok(of(tools, request, counted))
}

/// How many repositories, as far as anybody could tell.
struct Counted {
    repos: Option<u64>,
    exact: bool,
    basis: String,
}

impl Counted {
    fn exactly(repos: usize, basis: &str) -> Self {
        Self {
            repos: Some(repos as u64),
            exact: true,
            basis: basis.to_owned(),
        }
    }

    fn unknown(basis: impl Into<String>) -> Self {
        Self {
            repos: None,
            exact: false,
            basis: basis.into(),
        }
    }
}

/// How far the listings were read.
#[derive(Default)]
struct Seen {
    dids: HashSet<String>,
    /// So many listings were read to their end.
    whole: usize,
    /// A listing was longer than what was read of it.
    long: bool,
    /// A relay lists no repositories, only hosts.
    unlisted: bool,
}

impl Seen {
    /// Reads the beginning of a listing.
    async fn read(
        &mut self,
        tools: &Tools,
        source: &Source,
        cancel: &CancellationToken,
    ) -> Result<(), DiscoverError> {
        let lister = Lister::new(0);
        let mut cursor: Option<String> = None;
        for _ in 0..SAMPLE_PAGES {
            let page = lister.page(tools, source, cursor.as_deref(), cancel);
            let page = page.await?;
            self.dids
                .extend(page.repos.into_iter().map(|found| found.did));
            cursor = page.next;
            if cursor.is_none() {
                self.whole += 1;
                return Ok(());
            }
            if self.dids.len() > MOST {
                break;
            }
        }
        self.long = true;
        Ok(())
    }
}

/// A repository may be in several listings: all of them are read, as long as they are short.
async fn count(tools: &Tools, request: &JobRequest) -> Counted {
    let cancel = CancellationToken::new();
    let mut sources = scope::sources(request, &tools.indexed.now(), &tools.options.relays);
    sources.retain(|source| !matches!(source, Source::Held { .. }));
    if sources.is_empty() {
        return Counted::unknown("no relay is configured");
    }
    let (mut seen, mut at) = (Seen::default(), 0);
    while let Some(source) = sources.get(at).cloned() {
        at += 1;
        match seen.read(tools, &source, &cancel).await {
            Ok(()) => {}
            // The job would ask for all repositories, or each host.
            Err(error) if error.is_unsupported() => match source.fallback() {
                Some(next @ Source::Relay { .. }) if !sources.contains(&next) => sources.push(next),
                Some(Source::Relay { .. }) => {}
                _ => seen.unlisted = true,
            },
            Err(error) => return Counted::unknown(error.to_string()),
        }
        if seen.long || seen.unlisted {
            return beyond(tools, &source, &seen, &cancel).await;
        }
    }
    let read = seen.dids.len();
    match seen.whole {
        1 => Counted::exactly(read, "the listing of the relay, whole"),
        listings => {
            let basis = format!("{listings} listings, whole, and each repository once");
            Counted::exactly(read, &basis)
        }
    }
}

/// Where not all can be listed in a moment: what the relay says of its accounts, if all of them are wanted.
async fn beyond(
    tools: &Tools,
    source: &Source,
    seen: &Seen,
    cancel: &CancellationToken,
) -> Counted {
    let read = seen.dids.len();
    let Source::Relay { relay } = source else {
        return Counted::unknown(format!(
            "at least {read} repositories: the listings are longer than what was read of them"
        ));
    };
    match hosts::accounts(tools, relay, cancel).await {
        Some(accounts) => Counted {
            repos: Some(accounts),
            exact: false,
            basis: format!(
                "the accounts that the listHosts of {relay} counts, other relays left out"
            ),
        },
        None => Counted::unknown(format!(
            "at least {read} repositories: the listing of {relay} is not to be read in a moment, and it counts no accounts"
        )),
    }
}

fn of(tools: &Tools, request: &JobRequest, counted: Counted) -> Estimate {
    let per_second = f64::from(tools.limits.now().requests_per_second);
    let Counted {
        repos,
        exact,
        mut basis,
    } = counted;
    if request.force != Some(Force::FullSync) {
        basis.push_str("; those that are complete already are not subtracted");
    }
    let depth = match request.days {
        Some(_) => ", whatever the days",
        None => "",
    };
    Estimate {
        repos,
        complete: None,
        bytes: repos.map(|repos| repos.saturating_mul(REPO_BYTES)),
        // As if all were on one host: more hosts make it shorter.
        seconds: repos.map(|repos| repos as f64 / per_second),
        exact,
        basis: format!(
            "{basis}; {REPO_BYTES} bytes a repository{depth}, {per_second} a second of one host"
        ),
    }
}
