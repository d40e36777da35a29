//! Which repositories there are: page by page from a relay, from what a job was given, from what is held, from what failed.
//!
//! The cursor of a page is all that has to be kept to go on behind it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::hosts::{self, HostPages};
use super::tools::Tools;
use super::unit;
use crate::decode::{Tid, syntax};
use crate::fetch::{FetchError, FetchLimits};
use crate::store::{ChoiceKind, Repair, RepairKind, Repo, StoreError};

/// Repositories that are asked for at once; more than any server gives.
const PAGE: usize = 1000;
/// Bounds of one page of a listing.
pub(super) const LISTING: FetchLimits = FetchLimits {
    bytes: 8 << 20,
    time: Duration::from_secs(60),
    idle: Duration::from_secs(20),
};

/// Where repositories are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Source {
    /// Those that the job was given.
    Dids,
    /// `com.atproto.sync.listRepos` of a relay (an origin).
    Relay {
        /// `https://host[:port]`.
        relay: String,
    },
    /// `com.atproto.sync.listReposByCollection` of a relay.
    ByCollection {
        /// `https://host[:port]`.
        relay: String,
        /// NSID.
        collection: String,
    },
    /// `com.atproto.sync.listRepos` of every host that a relay's `listHosts` names.
    Hosts {
        /// `https://host[:port]`.
        relay: String,
    },
    /// `com.atproto.sync.listRepos` of one host.
    Host {
        /// `host[:port]`.
        host: String,
    },
    /// Those that are held, and that nobody listed: their hosts are asked what became of them.
    Held {
        /// Whether of those too that are hidden.
        #[serde(default)]
        hidden: bool,
    },
    /// What failed in this job.
    Failures,
    /// What waits in `repairs`.
    Repairs,
}

impl Source {
    /// `host[:port]` of the relay that lists it.
    pub(super) fn relay_host(&self) -> Option<&str> {
        let (Self::Relay { relay } | Self::ByCollection { relay, .. } | Self::Hosts { relay }) =
            self
        else {
            return None;
        };
        relay.split("://").last()
    }

    /// What tells the same where a server does not know the method.
    pub(super) fn fallback(&self) -> Option<Self> {
        match self {
            Self::ByCollection { relay, .. } => Some(Self::Relay {
                relay: relay.clone(),
            }),
            Self::Relay { relay } => Some(Self::Hosts {
                relay: relay.clone(),
            }),
            _ => None,
        }
    }
}

/// A repository that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The DID.
    pub did: String,
    /// The revision that the listing says, where it does.
    pub rev: Option<Tid>,
    /// Whether the account is active, where the listing says it.
    pub active: Option<bool>,
    /// Whether it is to be fetched however complete it is held.
    pub always: bool,
    /// Whether it is fetched only if it was in no listing before.
    pub unlisted_only: bool,
    /// The only collections of it that are wanted, where not all that its job names are.
    pub collections: Vec<String>,
    /// The collections that failed before; empty: all of it, if any.
    pub failed: Vec<String>,
    /// The questions that it has to answer.
    pub repairs: Vec<Repair>,
}

impl Found {
    /// Whether a relay's copy can answer anything: questions without a version are for the host itself, as are those about the
    /// account.
    pub(super) fn may_be_copied(&self) -> bool {
        let can = |repair: &Repair| repair.version > 0 && repair.kind != RepairKind::Status;
        self.repairs.is_empty() || self.repairs.iter().any(can)
    }
}

/// A page of them.
#[derive(Debug, Default)]
pub struct FoundPage {
    /// The repositories.
    pub repos: Vec<Found>,
    /// Where the next page begins; `None`: the source ends here.
    pub next: Option<String>,
}

/// Why a page can't be had.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The listing's server.
    #[error("{0}")]
    Fetch(FetchError),
    /// What it said.
    #[error("{url} answered something else than a listing: {detail}")]
    Garbled {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// One of many hosts does not list its repositories; the others may.
    #[error("{host} does not list its repositories: {error}")]
    Host {
        /// `host[:port]`.
        host: String,
        /// Why.
        error: Box<DiscoverError>,
        /// Where to go on without it; `None`: it was the last one.
        next: Option<String>,
        /// Whether another try may help.
        again: bool,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DiscoverError {
    /// Whether the server does not know the method.
    pub(super) fn is_unsupported(&self) -> bool {
        let Self::Fetch(FetchError::Status {
            status,
            name,
            message,
            ..
        }) = self
        else {
            return false;
        };
        // A PDS would pass what it does not know on to a service: it asks for a token, or misses the service's name.
        matches!(status, 401 | 404 | 405 | 501)
            || matches!(name.as_str(), "MethodNotImplemented" | "XRPCNotSupported")
            || *status == 400 && message.contains("No service")
    }
}

#[derive(Deserialize)]
struct Listing {
    cursor: Option<String>,
    repos: Vec<ListedRepo>,
}

#[derive(Deserialize)]
struct ListedRepo {
    did: String,
    rev: Option<String>,
    active: Option<bool>,
}

/// Reads pages; knows the hosts that it is at.
#[derive(Debug, Default)]
pub struct Lister {
    job: u64,
    hosts: HostPages,
}

impl Lister {
    /// Reads the pages of a job.
    pub fn new(job: u64) -> Self {
        Self {
            job,
            hosts: HostPages::default(),
        }
    }

    /// The page of a source behind a cursor.
    pub async fn page(
        &self,
        tools: &Tools,
        source: &Source,
        cursor: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<FoundPage, DiscoverError> {
        match source {
            Source::Relay { relay } => repos(tools, relay, cursor, cancel).await,
            Source::ByCollection { relay, collection } => {
                let url = format!(
                    "{relay}/xrpc/com.atproto.sync.listReposByCollection?collection={collection}&limit={PAGE}"
                );
                listing(tools, url, cursor, cancel).await
            }
            Source::Hosts { relay } => self.hosts.page(tools, relay, cursor, cancel).await,
            Source::Host { host } => hosts::of_one(tools, host, cursor, cancel).await,
            Source::Dids => given(tools, self.job, cursor).await,
            Source::Held { hidden } => held(tools, *hidden, cursor).await,
            Source::Failures => failures(tools, self.job, cursor).await,
            Source::Repairs => repairs(tools, cursor).await,
        }
    }
}

/// A page of `com.atproto.sync.listRepos` of an origin.
pub(super) async fn repos(
    tools: &Tools,
    origin: &str,
    cursor: Option<&str>,
    cancel: &CancellationToken,
) -> Result<FoundPage, DiscoverError> {
    let url = format!("{origin}/xrpc/com.atproto.sync.listRepos?limit={PAGE}");
    listing(tools, url, cursor, cancel).await
}

async fn listing(
    tools: &Tools,
    mut url: String,
    cursor: Option<&str>,
    cancel: &CancellationToken,
) -> Result<FoundPage, DiscoverError> {
    if let Some(cursor) = cursor {
        url.push_str("&cursor=");
        url.push_str(&escaped(cursor));
    }
    let answer = tools
        .fetcher
        .get(&url, LISTING, cancel)
        .await
        .map_err(DiscoverError::Fetch)?;
    let garbled = |detail: String| DiscoverError::Garbled {
        url: url.clone(),
        detail,
    };
    let listing: Listing =
        serde_json::from_slice(&answer).map_err(|error| garbled(error.to_string()))?;
    if listing.cursor.is_some() && listing.cursor.as_deref() == cursor {
        return Err(garbled("a page whose cursor is its own".to_owned()));
    }
    let repos = listing
        .repos
        .into_iter()
        .filter(|repo| syntax::is_did(&repo.did));
    let repos = repos.map(|repo| Found {
        rev: repo.rev.and_then(|rev| Tid::parse(rev.as_bytes())),
        active: repo.active,
        did: repo.did,
        ..Found::default()
    });
    Ok(FoundPage {
        repos: repos.collect(),
        next: listing.cursor,
    })
}

/// Bytes of a query's value that are not plain, as `%XX`.
pub(super) fn escaped(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// DIDs are kept in chunks, each a page.
async fn given(tools: &Tools, job: u64, cursor: Option<&str>) -> Result<FoundPage, DiscoverError> {
    let prefix = format!("{job}~");
    let chunks = tools
        .store
        .choices(ChoiceKind::JobDids, &prefix, cursor, 1)
        .await?;
    let dids = chunks.items.iter().flat_map(|chunk| {
        let dids: Vec<String> = serde_json::from_slice(&chunk.body).unwrap_or_default();
        dids
    });
    Ok(FoundPage {
        repos: dids
            .map(|did| Found {
                did,
                ..Found::default()
            })
            .collect(),
        next: chunks.cursor,
    })
}

async fn held(
    tools: &Tools,
    hidden: bool,
    cursor: Option<&str>,
) -> Result<FoundPage, DiscoverError> {
    let page = tools.store.repos(cursor, PAGE).await?;
    // What was deleted is asked for when its host says otherwise.
    let is_asked = |repo: &Repo| repo.active() || hidden && unit::is_hidden(repo);
    let repos = page.items.into_iter().filter(is_asked);
    let repos = repos.map(|repo| Found {
        did: repo.did,
        unlisted_only: true,
        ..Found::default()
    });
    Ok(FoundPage {
        repos: repos.collect(),
        next: page.cursor,
    })
}

async fn failures(
    tools: &Tools,
    job: u64,
    cursor: Option<&str>,
) -> Result<FoundPage, DiscoverError> {
    let page = tools.store.failures(job, cursor, PAGE).await?;
    let mut repos: Vec<Found> = Vec::new();
    for failure in page.items {
        if repos.last().is_none_or(|last| last.did != failure.did) {
            repos.push(Found {
                did: failure.did,
                always: true,
                ..Found::default()
            });
        }
        if let Some(found) = repos.last_mut() {
            found.failed.push(failure.collection);
        }
    }
    for found in &mut repos {
        // One that failed as a whole is wanted as a whole.
        if found.failed.iter().all(|collection| !collection.is_empty()) {
            found.collections = found.failed.clone();
        }
    }
    Ok(FoundPage {
        repos,
        next: page.cursor,
    })
}

/// The rows of one DID follow each other, but a page may end between them: the questions are read again by DID.
async fn repairs(tools: &Tools, cursor: Option<&str>) -> Result<FoundPage, DiscoverError> {
    let page = tools.store.repairs(cursor, PAGE).await?;
    let mut repos: Vec<Found> = Vec::new();
    for repair in page.items {
        let known = repos.last_mut().filter(|last| last.did == repair.did);
        match known {
            Some(found) => found.repairs.push(repair),
            None if repair.did.is_empty() => {}
            None => repos.push(Found {
                did: repair.did.clone(),
                always: true,
                repairs: vec![repair],
                ..Found::default()
            }),
        }
    }
    Ok(FoundPage {
        repos,
        next: page.cursor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_escaped() {
        assert_eq!(escaped("did:plc:a/b+c=ä"), "did%3Aplc%3Aa%2Fb%2Bc%3D%C3%A4");
        assert_eq!(escaped("123-_.~"), "123-_.~");
    }
}
