//! The routes of a PDS (protocol.md, section 8).

use std::sync::Arc;

use axum::Json;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use ciborium::Value as Cbor;
use serde_json::json;

use super::answer::{self, Query, Refusal};
use super::car;
use super::content::{Block, Built};
use super::fault::Fault;
use super::plc;
use super::state::{Shared, Standing, locked};
use crate::dagcbor::Cid;
use crate::records::letters;
use crate::repo;

/// What a host answers; `host` is its number.
pub(super) async fn respond(shared: Arc<Shared>, host: usize, uri: Uri) -> Response {
    if let Some(response) = whole_host(&shared, host, &uri).await {
        return response;
    }
    if uri.path() == "/.well-known/did.json" {
        return did_web(&shared, host);
    }
    let query = Query::of(&uri);
    let method = uri.path().strip_prefix("/xrpc/").unwrap_or_default();
    let answer = match method {
        "com.atproto.sync.listRepos" => list_repos(&shared, host, &query),
        _ => about_repo(&shared, host, method, &uri, &query).await,
    };
    answer.unwrap_or_else(|refusal| *refusal)
}

/// What a faulty host answers to everything.
async fn whole_host(shared: &Shared, host: usize, uri: &Uri) -> Option<Response> {
    let place = &shared.hosts[host];
    let fault = *locked(&place.fault);
    match fault {
        Some(Fault::Recovering) => place.refuses().then(unavailable),
        Some(fault) if fault.is_of_transport() => transport(&place.url, fault, uri).await,
        _ => None,
    }
}

async fn transport(url: &str, fault: Fault, uri: &Uri) -> Option<Response> {
    match fault {
        Fault::Dead => Some(answer::abort()),
        Fault::Hanging => Some(answer::never().await),
        Fault::RedirectLoop => Some(answer::redirect(format!("{url}{uri}"))),
        Fault::RedirectPrivate => Some(answer::redirect(format!("http://169.254.169.254{uri}"))),
        Fault::Broken => Some(answer::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalServerError",
            "Internal Server Error",
        )),
        Fault::Html => Some(answer::html()),
        _ => None,
    }
}

fn unavailable() -> Response {
    let text = "try again later";
    answer::error(StatusCode::SERVICE_UNAVAILABLE, "NotEnoughResources", text)
}

fn did_web(shared: &Shared, host: usize) -> Response {
    let did = format!("did:web:{}", shared.hosts[host].name.replace(':', "%3A"));
    match shared.find(&did) {
        Some(at) => Json(plc::document(shared, at)).into_response(),
        None => answer::error(StatusCode::NOT_FOUND, "NotFound", "no such DID"),
    }
}

/// The methods that name a repository.
async fn about_repo(
    shared: &Arc<Shared>,
    host: usize,
    method: &str,
    uri: &Uri,
    query: &Query,
) -> Result<Response, Refusal> {
    let name = match method {
        "com.atproto.repo.listRecords" | "com.atproto.repo.describeRepo" => "repo",
        "com.atproto.sync.getRepo"
        | "com.atproto.sync.getLatestCommit"
        | "com.atproto.sync.getRepoStatus"
        | "com.atproto.sync.getRecord" => "did",
        _ => {
            let (status, text) = (StatusCode::NOT_IMPLEMENTED, "Method Not Implemented");
            return Err(answer::refusal(status, "MethodNotImplemented", text));
        }
    };
    let did = query.need(name)?;
    let at = shared.find(did).ok_or_else(|| not_found(did))?;
    shared.move_if_due(at, host);
    let fault = shared.fault(at).filter(|_| shared.account(at).host == host);
    match fault {
        Some(Fault::Recovering) if locked(&shared.hosts[host].fault).is_none() => {
            let mut account = shared.account(at);
            account.refused += 1;
            if account.refused <= 3 {
                return Err(unavailable().into());
            }
        }
        Some(fault) => {
            if let Some(response) = transport(&shared.hosts[host].url, fault, uri).await {
                return Err(response.into());
            }
        }
        None => {}
    }
    if method == "com.atproto.sync.getRepoStatus" {
        return status(shared, at, host, did);
    }
    match shared.standing_at(at, host) {
        Standing::Active => {}
        Standing::NotThere => return Err(not_found(did)),
        Standing::Inactive(status, name) => {
            let text = format!("Repo has been {status}: {did}");
            return Err(answer::refusal(StatusCode::BAD_REQUEST, name, &text));
        }
    }
    match method {
        "com.atproto.sync.getLatestCommit" => {
            let (_, commit) = shared.head(at);
            let rev = shared.told_rev(at).to_string();
            Ok(Json(json!({ "cid": commit.to_string(), "rev": rev })).into_response())
        }
        "com.atproto.sync.getRepo" => {
            shared.hosts[host].gate.count_repo();
            Ok(get_repo(shared, at, query.get("since"), fault))
        }
        "com.atproto.sync.getRecord" => get_record(&shared.built(at), query, fault),
        "com.atproto.repo.listRecords" => list_records(&shared.built(at), did, query, fault),
        _ => {
            let built = shared.built(at);
            let body = json!({
                "handle": plc::handle(at),
                "did": did,
                "didDoc": plc::document(shared, at),
                "collections": built.collections(),
                "handleIsCorrect": true,
            });
            Ok(Json(body).into_response())
        }
    }
}

fn not_found(did: &str) -> Refusal {
    let text = format!("Could not find repo for DID: {did}");
    answer::refusal(StatusCode::BAD_REQUEST, "RepoNotFound", &text)
}

fn status(shared: &Shared, at: usize, host: usize, did: &str) -> Result<Response, Refusal> {
    let body = match shared.standing_at(at, host) {
        Standing::NotThere => return Err(not_found(did)),
        Standing::Inactive(status, _) => json!({ "did": did, "active": false, "status": status }),
        Standing::Active => {
            json!({ "did": did, "active": true, "rev": shared.told_rev(at).to_string() })
        }
    };
    Ok(Json(body).into_response())
}

/// A repository's CAR, with what is wrong with it.
pub(super) fn get_repo(
    shared: &Shared,
    at: usize,
    since: Option<&str>,
    fault: Option<Fault>,
) -> Response {
    let built = shared.built(at);
    let since = since.map(str::to_owned);
    let did = shared.account(at).did.clone();
    let other = || shared.key(at, 99);
    let whole = |since| {
        car::pieces(built.clone(), since)
            .collect::<Vec<_>>()
            .concat()
    };
    match fault {
        Some(Fault::IgnoresSince) => answer::car(car::pieces(built, None)),
        Some(Fault::Slow) => answer::dribble(whole(since), shared.options.slow),
        Some(fault @ (Fault::Stalled | Fault::Cut)) => {
            let mut bytes = whole(since);
            bytes.truncate(bytes.len() - bytes.len() / 3);
            match fault {
                Fault::Cut => answer::broken_off(bytes),
                _ => answer::stall(bytes),
            }
        }
        Some(fault @ (Fault::HugeVarint | Fault::Endless | Fault::DeepChain | Fault::HugeNode)) => {
            match car::hostile(&did, &built, fault) {
                (start, Some(again)) => answer::endless(start, again),
                (bytes, None) => answer::car(std::iter::once(bytes.into())),
            }
        }
        Some(
            fault @ (Fault::WrongDid
            | Fault::BadSignature
            | Fault::HighS
            | Fault::MissingBlock
            | Fault::MissingNode
            | Fault::CorruptBlock
            | Fault::Truncated),
        ) => {
            let bytes = car::broken(&did, &built, since, fault, &other());
            answer::car(std::iter::once(bytes.into()))
        }
        _ => answer::car(car::pieces(built, since)),
    }
}

/// The CAR of one record: commit, path through the tree, and the record.
fn get_record(built: &Built, query: &Query, fault: Option<Fault>) -> Result<Response, Refusal> {
    let path = format!("{}/{}", query.need("collection")?, query.need("rkey")?);
    let held = fault == Some(Fault::MissingBlock)
        && built.newest().is_some_and(|(newest, _)| **newest == *path);
    let record = built.records.get(path.as_str()).filter(|_| !held);
    let Some((cid, _)) = record else {
        let text = format!("Could not locate record: {path}");
        return Err(answer::refusal(
            StatusCode::BAD_REQUEST,
            "RecordNotFound",
            &text,
        ));
    };
    let proof = built.tree.proof([path.as_str()]);
    let ends: Vec<&Block> = [built.commit, *cid]
        .iter()
        .filter_map(|cid| built.block(cid))
        .collect();
    let ends = ends.iter().map(|block| (&block.cid, &block.bytes[..]));
    let nodes = proof.iter().map(|(cid, bytes)| (cid, &bytes[..]));
    let bytes = repo::car(&built.commit, ends.chain(nodes));
    Ok(answer::car(std::iter::once(bytes.into())))
}

/// Newest key first unless `reverse`; a page with records has a cursor even if it is the last.
fn list_records(
    built: &Built,
    did: &str,
    query: &Query,
    fault: Option<Fault>,
) -> Result<Response, Refusal> {
    let collection = query.need("collection")?;
    let limit = query.limit(50, 100)?;
    let reverse = query.get("reverse") == Some("true");
    let prefix = format!("{collection}/");
    let all = built.records.range(Arc::from(prefix.as_str())..);
    let mut rows: Vec<(&str, Cid)> = all
        .map_while(|(path, (cid, _))| Some((path.strip_prefix(&prefix)?, *cid)))
        .filter(|(rkey, _)| match query.get("cursor") {
            Some(cursor) if reverse => *rkey > cursor,
            Some(cursor) => *rkey < cursor,
            None => true,
        })
        .collect();
    if !reverse {
        rows.reverse();
    }
    rows.truncate(limit);
    let cursor = rows.last().map(|(rkey, _)| (*rkey).to_owned());
    let records = rows.iter().map(|(rkey, cid)| {
        let mut value = built.block(cid).map(record_json).unwrap_or_default();
        if fault == Some(Fault::LyingValues) {
            value["lie"] = true.into();
        }
        json!({
            "uri": format!("at://{did}/{collection}/{rkey}"),
            "cid": cid.to_string(),
            "value": value,
        })
    });
    Ok(answer::page("records", records.collect(), cursor))
}

/// A record's JSON.
pub(super) fn record_json(block: &Block) -> serde_json::Value {
    let value = ciborium::from_reader(&block.bytes[..]);
    to_json(&value.unwrap_or(Cbor::Null))
}

/// The AT Protocol JSON of a record.
fn to_json(value: &Cbor) -> serde_json::Value {
    use data_encoding::BASE64_NOPAD;
    match value {
        Cbor::Bool(value) => json!(value),
        Cbor::Integer(value) => json!(i64::try_from(*value).unwrap_or_default()),
        Cbor::Text(value) => json!(value),
        Cbor::Bytes(value) => json!({ "$bytes": BASE64_NOPAD.encode(value) }),
        Cbor::Tag(_, link) => {
            let cid = link.as_bytes().and_then(|bytes| bytes.get(1..));
            let cid = cid.and_then(Cid::from_bytes).map(|cid| cid.to_string());
            json!({ "$link": cid })
        }
        Cbor::Array(items) => items.iter().map(to_json).collect(),
        Cbor::Map(pairs) => pairs
            .iter()
            .map(|(key, value)| (key.as_text().unwrap_or_default().to_owned(), to_json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        _ => serde_json::Value::Null,
    }
}

/// The accounts of a host, by number; deleted ones are not listed.
fn list_repos(shared: &Shared, host: usize, query: &Query) -> Result<Response, Refusal> {
    let limit = query.limit(500, 1000)?;
    let from = query.cursor()?;
    let residents = locked(&shared.hosts[host].residents);
    let mut chosen: Vec<usize> = residents.range(from..).take(limit + 1).copied().collect();
    drop(residents);
    let more = chosen.len() > limit;
    chosen.truncate(limit);
    let cursor = chosen
        .last()
        .filter(|_| more)
        .map(|last| (last + 1).to_string());
    let rows = chosen.iter().filter(|at| {
        let fault = shared.fault(**at);
        !matches!(fault, Some(Fault::Deleted | Fault::Tombstoned))
    });
    let mut rows: Vec<_> = rows.map(|at| listed(shared, *at)).collect();
    if *locked(&shared.hosts[host].fault) == Some(Fault::LyingList) {
        rows.push(nobody(shared, host, from));
    }
    Ok(answer::page("repos", rows, cursor))
}

/// An account as lists show it.
pub(super) fn listed(shared: &Shared, at: usize) -> serde_json::Value {
    let (_, head) = shared.head(at);
    let did = shared.account(at).did.clone();
    let rev = shared.listed_rev(at).to_string();
    let mut row = json!({ "did": did, "head": head.to_string(), "rev": rev, "active": true });
    let status = match shared.standing(at) {
        Standing::Inactive(status, _) => status,
        Standing::NotThere if shared.fault(at) != Some(Fault::NotThere) => "deleted",
        _ => return row,
    };
    row["active"] = false.into();
    row["status"] = status.into();
    row
}

/// An account that nobody knows.
fn nobody(shared: &Shared, host: usize, page: usize) -> serde_json::Value {
    use rand::SeedableRng;
    let seed = super::content::mix(shared.seed(host), page) ^ 1;
    let did = letters(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed), 24);
    json!({
        "did": format!("did:plc:{did}"),
        "head": Cid::of(did.as_bytes()).to_string(),
        "rev": crate::tid::Tid::new(shared.now, 0).to_string(),
        "active": true,
    })
}
