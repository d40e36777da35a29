//! Repositories by the lists of their own hosts, for relays that list hosts but no repositories.
//!
//! Hosts are asked one after the other. What has to be kept to go on is a page of hosts, the host in it, and the cursor of its list.
//! A host that does not answer soon is asked by itself after all others; if it does not answer then, it is left out, and the job says
//! so.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::discover::{self, DiscoverError, FoundPage, escaped};
use super::tools::Tools;
use crate::fetch::FetchError;

/// Pages of one host: ten million accounts are more than any has.
const MAX_PAGES: u32 = 10_000;
/// How long one host may keep all others waiting; then it is put off.
const PATIENCE: Duration = Duration::from_secs(60);
/// Hosts of a page, as the lexicon allows.
const PAGE: usize = 1000;

#[derive(Deserialize)]
struct Hosts {
    hosts: Vec<Row>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    hostname: String,
    status: Option<String>,
    account_count: Option<u64>,
}

/// A host as the relay sees it.
#[derive(Debug)]
struct Host {
    name: String,
    /// Whether the relay can't reach it either: it is asked once.
    offline: bool,
}

/// A page of hosts.
#[derive(Debug)]
struct HostPage {
    relay: String,
    cursor: Option<String>,
    hosts: Vec<Host>,
    next: Option<String>,
    accounts: u64,
}

/// The page of hosts that is walked over, so that it is not asked for again for each of its hosts.
#[derive(Debug, Default)]
pub(super) struct HostPages(Mutex<Option<Arc<HostPage>>>);

/// Where the walk is, as a cursor.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Position {
    /// The cursor of the page of hosts; none: the first.
    hosts: Option<String>,
    /// Which of its hosts; none: the first.
    host: Option<String>,
    /// The cursor of that host's list.
    repos: Option<String>,
    /// Pages of that list so far.
    pages: u32,
}

impl Position {
    fn read(cursor: Option<&str>) -> Self {
        let read = cursor.and_then(|cursor| serde_json::from_str(cursor).ok());
        read.unwrap_or_default()
    }

    fn write(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }
}

impl HostPages {
    /// A page of the repositories of a relay's hosts.
    pub(super) async fn page(
        &self,
        tools: &Tools,
        relay: &str,
        cursor: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<FoundPage, DiscoverError> {
        let mut at = Position::read(cursor);
        let page = self
            .hosts(tools, relay, at.hosts.as_deref(), cancel)
            .await?;
        let known = page.hosts.iter();
        let place = known
            .map(|host| Some(&host.name))
            .position(|name| name == at.host.as_ref());
        if place.is_none() {
            // The relay does not name it any more: that page again.
            (at.host, at.repos, at.pages) = (None, None, 0);
        }
        let place = place.unwrap_or_default();
        let next = page.behind(place);
        let Some(host) = page.hosts.get(place) else {
            return Ok(FoundPage {
                repos: Vec::new(),
                next,
            });
        };
        let asking = of_host(tools, &host.name, at.repos.as_deref(), at.pages, cancel);
        let too_slow = |_| {
            Err(DiscoverError::Fetch(FetchError::TooSlow {
                host: host.name.clone(),
                limit: PATIENCE,
            }))
        };
        match timeout(PATIENCE, asking).await.unwrap_or_else(too_slow) {
            Ok(FoundPage { repos, next: None }) => Ok(FoundPage { repos, next }),
            Ok(FoundPage { repos, next: more }) => {
                at.host = Some(host.name.clone());
                (at.repos, at.pages) = (more, at.pages + 1);
                Ok(FoundPage {
                    repos,
                    next: at.write(),
                })
            }
            Err(error) => Err(failed(&host.name, error, next, !host.offline)),
        }
    }

    /// A page of hosts, asked for once.
    async fn hosts(
        &self,
        tools: &Tools,
        relay: &str,
        cursor: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<Arc<HostPage>, DiscoverError> {
        let mut last = self.0.lock().await;
        if let Some(page) = last.as_ref()
            && page.relay == relay
            && page.cursor.as_deref() == cursor
        {
            return Ok(page.clone());
        }
        let page = Arc::new(list(tools, relay, cursor, cancel).await?);
        *last = Some(page.clone());
        Ok(page)
    }
}

impl HostPage {
    /// Where the walk goes on behind the host at a place.
    fn behind(&self, place: usize) -> Option<String> {
        let here = |host: &Host| Position {
            hosts: self.cursor.clone(),
            host: Some(host.name.clone()),
            ..Position::default()
        };
        let there = |next: &String| Position {
            hosts: Some(next.clone()),
            ..Position::default()
        };
        let behind = self.hosts.get(place + 1).map(here);
        behind.or_else(|| self.next.as_ref().map(there))?.write()
    }
}

/// `com.atproto.sync.listHosts` of a relay. Hosts that it has banned are not of its network.
async fn list(
    tools: &Tools,
    relay: &str,
    cursor: Option<&str>,
    cancel: &CancellationToken,
) -> Result<HostPage, DiscoverError> {
    let mut url = format!("{relay}/xrpc/com.atproto.sync.listHosts?limit={PAGE}");
    if let Some(cursor) = cursor {
        url.push_str("&cursor=");
        url.push_str(&escaped(cursor));
    }
    let answer = tools.fetcher.get(&url, discover::LISTING, cancel).await;
    let answer = answer.map_err(DiscoverError::Fetch)?;
    let garbled = |detail: String| DiscoverError::Garbled {
        url: url.clone(),
        detail,
    };
    let listed: Hosts =
        serde_json::from_slice(&answer).map_err(|error| garbled(error.to_string()))?;
    if listed.cursor.is_some() && listed.cursor.as_deref() == cursor {
        return Err(garbled("a page whose cursor is its own".to_owned()));
    }
    let is = |row: &Row, status: &str| row.status.as_deref() == Some(status);
    let rows = listed.hosts.into_iter();
    let rows: Vec<Row> = rows
        .filter(|row| is_host(&row.hostname) && !is(row, "banned"))
        .collect();
    Ok(HostPage {
        relay: relay.to_owned(),
        cursor: cursor.map(str::to_owned),
        next: listed.cursor,
        accounts: rows.iter().filter_map(|row| row.account_count).sum(),
        hosts: rows
            .into_iter()
            .map(|row| Host {
                offline: is(&row, "offline"),
                name: row.hostname,
            })
            .collect(),
    })
}

/// The accounts of all hosts of a relay, if it counts them.
pub(super) async fn accounts(
    tools: &Tools,
    relay: &str,
    cancel: &CancellationToken,
) -> Option<u64> {
    let (mut accounts, mut cursor) = (0_u64, None::<String>);
    loop {
        let page = list(tools, relay, cursor.as_deref(), cancel).await.ok()?;
        accounts = accounts.saturating_add(page.accounts);
        cursor = page.next;
        if cursor.is_none() {
            return Some(accounts).filter(|accounts| *accounts > 0);
        }
    }
}

/// A page of the repositories of one host that is asked by itself.
pub(super) async fn of_one(
    tools: &Tools,
    host: &str,
    cursor: Option<&str>,
    cancel: &CancellationToken,
) -> Result<FoundPage, DiscoverError> {
    let at = Position::read(cursor);
    let page = of_host(tools, host, at.repos.as_deref(), at.pages, cancel).await;
    let page = page.map_err(|error| failed(host, error, None, true))?;
    let next = page.next.and_then(|more| {
        let next = Position {
            repos: Some(more),
            pages: at.pages + 1,
            ..Position::default()
        };
        next.write()
    });
    Ok(FoundPage {
        repos: page.repos,
        next,
    })
}

async fn of_host(
    tools: &Tools,
    host: &str,
    cursor: Option<&str>,
    pages: u32,
    cancel: &CancellationToken,
) -> Result<FoundPage, DiscoverError> {
    if pages >= MAX_PAGES {
        return Err(DiscoverError::Garbled {
            url: host.to_owned(),
            detail: format!("a list of more than {MAX_PAGES} pages"),
        });
    }
    let origin = origin(host, tools.fetcher.allows_private());
    discover::repos(tools, &origin, cursor, cancel).await
}

fn failed(host: &str, error: DiscoverError, next: Option<String>, again: bool) -> DiscoverError {
    let final_one = error.is_unsupported() || matches!(error, DiscoverError::Garbled { .. });
    DiscoverError::Host {
        host: host.to_owned(),
        again: again && !final_one,
        error: Box::new(error),
        next,
    }
}

/// Hosts of the network have TLS; those with a port, of tests, have none.
fn origin(host: &str, private: bool) -> String {
    let scheme = match private && host.contains(':') {
        true => "http",
        false => "https",
    };
    format!("{scheme}://{host}")
}

/// `host[:port]`, and nothing that would make another URL of it.
fn is_host(text: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':');
    !text.is_empty() && text.len() <= 253 && text.chars().all(valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(names: &[&str], next: Option<&str>) -> HostPage {
        HostPage {
            relay: "https://r".to_owned(),
            cursor: Some("7".to_owned()),
            hosts: names
                .iter()
                .map(|name| Host {
                    name: (*name).to_owned(),
                    offline: false,
                })
                .collect(),
            next: next.map(str::to_owned),
            accounts: 0,
        }
    }

    #[test]
    fn the_walk_goes_from_host_to_host_and_from_page_to_page() {
        let two = page(&["a.example", "b.example"], Some("8"));
        let behind = |page: &HostPage, place| Position::read(page.behind(place).as_deref());
        let at = behind(&two, 0);
        assert_eq!(
            (at.hosts.as_deref(), at.host.as_deref()),
            (Some("7"), Some("b.example"))
        );
        let at = behind(&two, 1);
        assert_eq!((at.hosts.as_deref(), at.host), (Some("8"), None));
        assert_eq!(page(&["a.example"], None).behind(0), None);
        // A page of which nothing is left.
        let at = behind(&page(&[], Some("8")), 0);
        assert_eq!((at.hosts.as_deref(), at.host), (Some("8"), None));
        assert_eq!(Position::read(Some("garbled")), Position::default());
    }

    #[test]
    fn names_that_are_no_hosts_are_none() {
        for name in ["", "a/b", "a?b", "a@b", "a b", "a#b"] {
            assert!(!is_host(name), "{name}");
        }
        assert!(is_host("pds.example.com") && is_host("127.0.0.1:2583"));
        assert_eq!(origin("a.example", true), "https://a.example");
        assert_eq!(origin("a.example:80", false), "https://a.example:80");
    }
}
