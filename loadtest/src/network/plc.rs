//! A PLC directory: documents, logs, `/export`. The operations are not signed: nobody here reads that.

use std::sync::Arc;

use axum::Json;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::{Query, Refusal};
use super::fault::Fault;
use super::state::{Shared, locked};
use crate::dagcbor::Cid;
use crate::datetime;

/// Between the creations of two accounts.
const APART: u64 = 2_000;

/// An operation of the directory's log: when, of which account, and the how many of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Operation {
    when: u64,
    at: usize,
    nth: usize,
}

/// What the directory answers.
pub(super) async fn respond(shared: Arc<Shared>, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/').replace("%3A", ":");
    if path == "export" {
        let query = Query::of(&uri);
        return export(&shared, &query).unwrap_or_else(|refusal| *refusal);
    }
    let (did, rest) = path.split_once('/').unwrap_or((&path, ""));
    let found = shared.find(did).filter(|_| did.starts_with("did:plc:"));
    let Some(at) = found else {
        return message(StatusCode::NOT_FOUND, format!("DID not registered: {did}"));
    };
    match rest {
        "" if shared.fault(at) == Some(Fault::Tombstoned) => {
            message(StatusCode::GONE, format!("DID not available: {did}"))
        }
        "" => {
            let body = document(&shared, at).to_string();
            ([(header::CONTENT_TYPE, "application/did+ld+json")], body).into_response()
        }
        "log/audit" => {
            let log = operations(&shared, at);
            let log: Vec<_> = log
                .iter()
                .map(|operation| entry(&shared, *operation))
                .collect();
            Json(log).into_response()
        }
        _ => message(StatusCode::NOT_FOUND, "Not found".to_owned()),
    }
}

fn message(status: StatusCode, message: String) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}

/// The handle of an account.
pub(super) fn handle(at: usize) -> String {
    format!("user{at}.example.com")
}

/// How many keys an account had before the one that its document names.
fn nth_key(shared: &Shared, at: usize) -> usize {
    usize::from(shared.fault(at) == Some(Fault::Imported))
}

/// The DID document as it is now.
pub(super) fn document(shared: &Shared, at: usize) -> Value {
    let key = shared.key(at, nth_key(shared, at)).multibase();
    let account = shared.account(at);
    let did = &account.did;
    json!({
        "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
        "id": did,
        "alsoKnownAs": [format!("at://{}", handle(at))],
        "verificationMethod": [{
            "id": format!("{did}#atproto"),
            "type": "Multikey",
            "controller": did,
            "publicKeyMultibase": key,
        }],
        "service": [{
            "id": "#atproto_pds",
            "type": "AtprotoPersonalDataServer",
            "serviceEndpoint": shared.hosts[account.host].url,
        }],
    })
}

/// When the directory's log begins.
fn beginning(shared: &Shared) -> u64 {
    let span = 2 * APART * shared.accounts.len() as u64;
    shared.now - span - 400 * 86_400_000_000
}

/// The log of one account: created; a new key or its end; moves.
fn operations(shared: &Shared, at: usize) -> Vec<Operation> {
    let created = beginning(shared) + APART * at as u64;
    let second = created + APART * shared.accounts.len() as u64;
    let mut log = vec![Operation {
        when: created,
        at,
        nth: 0,
    }];
    if matches!(shared.fault(at), Some(Fault::Imported | Fault::Tombstoned)) {
        log.push(Operation {
            when: second,
            at,
            nth: 1,
        });
    }
    let moves = shared
        .account(at)
        .moved
        .iter()
        .map(|moved| moved.at)
        .collect::<Vec<_>>();
    for when in moves {
        log.push(Operation {
            when,
            at,
            nth: log.len(),
        });
    }
    log
}

fn entry(shared: &Shared, operation: Operation) -> Value {
    let Operation { when, at, nth } = operation;
    let fault = shared.fault(at);
    let cid = Cid::of(format!("{at} {nth}").as_bytes()).to_string();
    let prev = (nth > 0).then(|| Cid::of(format!("{at} {}", nth - 1).as_bytes()).to_string());
    let content = match fault {
        Some(Fault::Tombstoned) if nth == 1 => {
            json!({ "type": "plc_tombstone", "prev": prev, "sig": "c2ltdWxhdGVk" })
        }
        _ => {
            let key = shared.key(at, nth.min(nth_key(shared, at))).multibase();
            let account = shared.account(at);
            // The next move after this operation says where the account was at the time.
            let later = account.moved.iter().find(|moved| moved.at > when);
            let host = later.map_or(account.host, |moved| moved.from);
            json!({
                "type": "plc_operation",
                "rotationKeys": [format!("did:key:{key}")],
                "verificationMethods": { "atproto": format!("did:key:{key}") },
                "alsoKnownAs": [format!("at://{}", handle(at))],
                "services": { "atproto_pds": {
                    "type": "AtprotoPersonalDataServer",
                    "endpoint": shared.hosts[host].url,
                } },
                "prev": prev,
                "sig": "c2ltdWxhdGVk",
            })
        }
    };
    json!({
        "did": shared.account(at).did,
        "operation": content,
        "cid": cid,
        "nullified": false,
        "createdAt": datetime::millis(when),
    })
}

/// JSON lines of all operations after a time, oldest first.
fn export(shared: &Shared, query: &Query) -> Result<Response, Refusal> {
    let bad = |text: &str| Refusal::from(message(StatusCode::BAD_REQUEST, text.to_owned()));
    let count = match query.get("count").map_or(Ok(10), str::parse) {
        Ok(count @ 1..=1000) => count,
        _ => return Err(bad("count must be between 1 and 1000")),
    };
    let after = query.get("after").map(str::parse::<Timestamp>).transpose();
    let after = after.map_err(|_| bad("after must be a datetime"))?;
    // What is printed has milliseconds.
    let after = after.map_or(0, |after| {
        after.as_millisecond().max(0) as u64 * 1_000 + 999
    });
    let lines: Vec<String> = operations_after(shared, after, count)
        .into_iter()
        .map(|operation| entry(shared, operation).to_string() + "\n")
        .collect();
    let body = lines.concat();
    Ok(([(header::CONTENT_TYPE, "application/jsonlines")], body).into_response())
}

fn operations_after(shared: &Shared, after: u64, count: usize) -> Vec<Operation> {
    let accounts = shared.accounts.len();
    let start = beginning(shared);
    let passed = (after.saturating_sub(start) / APART) as usize;
    let is_plc = |at: &usize| shared.account(*at).did.starts_with("did:plc:");
    let mut found = Vec::with_capacity(count);
    // The creations lie in order of the accounts, after them the second operations do.
    for round in 0..2 {
        let first = passed.saturating_sub(round * accounts);
        let log = (first..accounts).filter(is_plc);
        let log = log.flat_map(|at| operations(shared, at));
        let seconds = start + APART * accounts as u64;
        let wanted = log.filter(|operation| {
            let own = match round {
                0 => operation.nth == 0,
                _ => operation.nth > 0 && (seconds..shared.now).contains(&operation.when),
            };
            own && operation.when > after
        });
        found.extend(wanted.take(count - found.len()));
    }
    let moves = locked(&shared.operations).clone();
    let moves = moves
        .into_iter()
        .filter(|(when, at)| *when > after && is_plc(at));
    let moves = moves.flat_map(|(when, at)| {
        let log = operations(shared, at);
        log.into_iter()
            .filter(move |operation| operation.when == when)
    });
    found.extend(moves.take(count - found.len()));
    found
}
