//! What a relay, and a service of collections, list.

use std::sync::Arc;

use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::json;

use super::answer::{self, Query, Refusal};
use super::fault::Fault;
use super::pds;
use super::state::{Shared, Standing, locked};
use super::{RelayLists, RelayRepos};

/// What the relay answers.
pub(super) async fn respond(shared: Arc<Shared>, uri: Uri) -> Response {
    let query = Query::of(&uri);
    let method = uri.path().strip_prefix("/xrpc/").unwrap_or_default();
    let answer = match method {
        _ if !lists(shared.options.relay_lists, method) => {
            let (status, text) = (StatusCode::NOT_IMPLEMENTED, "Method Not Implemented");
            Err(answer::refusal(status, "MethodNotImplemented", text))
        }
        "com.atproto.sync.listRepos" => list_repos(&shared, &query),
        "com.atproto.sync.listReposByCollection" => list_by_collection(&shared, &query),
        "com.atproto.sync.listHosts" => list_hosts(&shared, &query),
        "com.atproto.sync.getRepo" => get_repo(&shared, &uri, &query),
        _ => Err(answer::refusal(
            StatusCode::NOT_FOUND,
            "NotFound",
            "Not Found",
        )),
    };
    answer.unwrap_or_else(|refusal| *refusal)
}

/// Whether the relay knows the method, if it is one that lists.
fn lists(lists: RelayLists, method: &str) -> bool {
    match method {
        "com.atproto.sync.listReposByCollection" => lists == RelayLists::All,
        "com.atproto.sync.listRepos" => matches!(lists, RelayLists::All | RelayLists::Repos),
        "com.atproto.sync.listHosts" => lists != RelayLists::Nothing,
        _ => true,
    }
}

/// A page of accounts by number.
fn accounts(
    shared: &Shared,
    query: &Query,
    most: usize,
    chosen: impl Fn(usize) -> bool,
) -> Result<(Vec<usize>, Option<String>), Refusal> {
    let limit = query.limit(500, most)?;
    let from = query.cursor()?;
    let mut rows: Vec<usize> = (from..shared.accounts.len())
        .filter(|at| chosen(*at))
        .take(limit + 1)
        .collect();
    let more = rows.len() > limit;
    rows.truncate(limit);
    let cursor = rows
        .last()
        .filter(|_| more)
        .map(|last| (last + 1).to_string());
    Ok((rows, cursor))
}

fn list_repos(shared: &Shared, query: &Query) -> Result<Response, Refusal> {
    let (rows, cursor) = accounts(shared, query, 1000, |_| true)?;
    let rows = rows.iter().map(|at| pds::listed(shared, *at)).collect();
    Ok(answer::page("repos", rows, cursor))
}

/// Accounts that are not active are not listed.
fn list_by_collection(shared: &Shared, query: &Query) -> Result<Response, Refusal> {
    let collection = query.need("collection")?;
    let (rows, cursor) = accounts(shared, query, 2000, |at| {
        let active = matches!(shared.standing(at), Standing::Active)
            || shared.fault(at) == Some(Fault::NotThere);
        active && shared.has(at, collection)
    })?;
    let rows = rows
        .iter()
        .map(|at| json!({ "did": shared.account(*at).did }));
    Ok(answer::page("repos", rows.collect(), cursor))
}

fn list_hosts(shared: &Shared, query: &Query) -> Result<Response, Refusal> {
    let limit = query.limit(200, 1000)?;
    let from = query.cursor()?;
    let hosts = shared.hosts.iter().skip(from).take(limit);
    let rows = hosts.enumerate().map(|(at, host)| {
        json!({
            "hostname": host.name,
            "seq": from + at + 1,
            "accountCount": locked(&host.residents).len(),
            "status": "active",
        })
    });
    let next = from.saturating_add(limit);
    let cursor = (next < shared.hosts.len()).then(|| next.to_string());
    Ok(answer::page("hosts", rows.collect(), cursor))
}

/// What the relay does with `getRepo`: it has a copy without faults, sends to the PDS, or knows no such method.
fn get_repo(shared: &Shared, uri: &Uri, query: &Query) -> Result<Response, Refusal> {
    let did = query.need("did")?;
    let not_found = || answer::refusal(StatusCode::NOT_FOUND, "RepoNotFound", "no such repo");
    let at = shared.find(did).ok_or_else(not_found)?;
    match shared.options.relay_repos {
        RelayRepos::None => Err(answer::refusal(
            StatusCode::NOT_FOUND,
            "NotFound",
            "Not Found",
        )),
        RelayRepos::Redirect => {
            let host = shared.account(at).host;
            Ok(answer::redirect(format!("{}{uri}", shared.hosts[host].url)))
        }
        RelayRepos::Serve => match shared.standing(at) {
            Standing::Active => Ok(pds::get_repo(shared, at, query.get("since"), None)),
            Standing::NotThere => Err(not_found()),
            Standing::Inactive(status, name) => {
                let text = format!("account is {status}");
                Err(answer::refusal(StatusCode::FORBIDDEN, name, &text))
            }
        },
    }
}
