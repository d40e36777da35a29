//! One collection of a repository by `listRecords`, where that is cheaper than the whole CAR.
//!
//! It is tried where a job asks for one collection: a repository that holds nothing else is read as a CAR at once, and a collection
//! that fills more than [`MAX_PAGES`] pages is given up for the CAR, as is one whose values don't hash to what the server says.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::account;
use super::discover::escaped;
use super::tools::{DidGuard, Tools};
use super::unit::Target;
use crate::decode::{self, Cid, Tid, syntax};
use crate::fetch::{FetchError, FetchLimits};
use crate::store::{RecordBody, RecordWrite, Removal, Repo, Scope, StoreError, WriteBatch};

/// Pages after which the CAR is cheaper.
const MAX_PAGES: usize = 10;
/// Records of a page; servers give no more.
const PAGE: usize = 100;
/// Bounds of a page: a hundred records of a megabyte at most.
const LIMITS: FetchLimits = FetchLimits {
    bytes: 128 << 20,
    time: Duration::from_secs(120),
    idle: Duration::from_secs(20),
};

#[derive(Deserialize)]
struct Described {
    collections: Vec<String>,
}

#[derive(Deserialize)]
struct Records {
    cursor: Option<String>,
    records: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    uri: String,
    cid: String,
    value: Value,
}

/// A record as it will be written.
struct Checked {
    rkey: String,
    cid: Cid,
    bytes: Vec<u8>,
}

/// A collection that was written; what is older is still to be removed.
pub(super) struct ListedCollection {
    pub records: u64,
    /// Whether the account was shown as active before.
    pub was_active: bool,
    /// When the host was asked (microseconds).
    pub asked: u64,
    removal: Removal,
    _guard: DidGuard,
}

/// Reads a collection. `Ok(None)`: the CAR has to be read instead.
pub(super) async fn read(
    tools: &Tools,
    did: &str,
    collection: &str,
    target: &Target,
    asked: u64,
    cancel: &CancellationToken,
) -> Result<Option<ListedCollection>, ReadError> {
    let pds = &target.pds;
    let latest = account::latest(tools, did, pds, cancel).await?;
    if latest.rev.micros() > tools.clock.now_micros() + decode::REV_AHEAD_MICROS {
        return Ok(None);
    }
    let url = format!(
        "{pds}/xrpc/com.atproto.repo.describeRepo?repo={}",
        escaped(did)
    );
    let described: Described = match parse(&tools.fetcher.get(&url, LIMITS, cancel).await?) {
        Some(described) => described,
        None => return Ok(None),
    };
    let holds = described.collections.iter().any(|name| name == collection);
    if holds && described.collections.len() == 1 {
        return Ok(None);
    }
    let records = match holds {
        true => pages(tools, did, collection, pds, cancel).await?,
        false => Some(Vec::new()),
    };
    match records {
        Some(records) => {
            // With this the repository is one that is held: it is looked at even if no list names it any more.
            tools.store.put_pds(did, pds).await?;
            write(tools, did, collection, latest.rev, records, asked).await
        }
        None => Ok(None),
    }
}

/// Every record; `None` where there are too many, or one is not what its CID says.
async fn pages(
    tools: &Tools,
    did: &str,
    collection: &str,
    pds: &str,
    cancel: &CancellationToken,
) -> Result<Option<Vec<Checked>>, ReadError> {
    let base = format!(
        "{pds}/xrpc/com.atproto.repo.listRecords?repo={}&collection={collection}&limit={PAGE}",
        escaped(did)
    );
    let prefix = format!("at://{did}/{collection}/");
    let mut checked = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let url = match &cursor {
            Some(cursor) => format!("{base}&cursor={}", escaped(cursor)),
            None => base.clone(),
        };
        let Some(page) = parse::<Records>(&tools.fetcher.get(&url, LIMITS, cancel).await?) else {
            return Ok(None);
        };
        if page.records.is_empty() {
            return Ok(Some(checked));
        }
        for record in page.records {
            match check(record, &prefix) {
                Some(record) => checked.push(record),
                None => return Ok(None),
            }
        }
        if page.cursor.is_none() {
            return Ok(Some(checked));
        }
        cursor = page.cursor;
    }
    Ok(None)
}

fn parse<T: for<'de> Deserialize<'de>>(answer: &[u8]) -> Option<T> {
    serde_json::from_slice(answer).ok()
}

fn check(record: Listed, prefix: &str) -> Option<Checked> {
    let rkey = record
        .uri
        .strip_prefix(prefix)
        .filter(|rkey| syntax::is_rkey(rkey))?;
    let cid = Cid::parse(&record.cid)?;
    let bytes = decode::record_from_json(record.value).ok()?;
    (Cid::of_dag_cbor(&bytes) == cid).then(|| Checked {
        rkey: rkey.to_owned(),
        cid,
        bytes,
    })
}

/// Writes the records, unless the collection is not indexed any more.
async fn write(
    tools: &Tools,
    did: &str,
    collection: &str,
    rev: Tid,
    records: Vec<Checked>,
    asked: u64,
) -> Result<Option<ListedCollection>, ReadError> {
    let guard = tools.locks.lock(did).await;
    if !tools.indexed.now().wants(collection) {
        return Ok(None);
    }
    let held = tools.store.repo(did).await?.unwrap_or_default();
    let version = version(&held, rev);
    let mut batch = WriteBatch::new();
    let mut json = Vec::new();
    for record in &records {
        json.clear();
        if tools.options.json {
            decode::record_to_json(&record.bytes, &mut json);
        }
        batch.put_record(RecordWrite {
            did,
            collection,
            rkey: &record.rkey,
            version,
            rev,
            body: Some(RecordBody {
                cid: record.cid,
                record: &record.bytes,
                json: Some(json.as_slice()).filter(|json| !json.is_empty()),
            }),
        });
    }
    if !batch.is_empty() {
        tools.store.apply(batch).await?;
    }
    Ok(Some(ListedCollection {
        records: records.len() as u64,
        was_active: held.active(),
        asked,
        removal: Removal {
            did: did.to_owned(),
            scope: Scope::Collection(collection.to_owned()),
            version: version.saturating_sub(1),
            floor: false,
        },
        _guard: guard,
    }))
}

/// V': not before the revision, above every floor.
fn version(held: &Repo, rev: Tid) -> u64 {
    let floors = held.floors.iter().map(|floor| floor.version + 1);
    rev.micros().max(floors.max().unwrap_or(0))
}

/// Removes what the collection no longer has, once what it has can't be lost any more.
pub(super) async fn finish(tools: &Tools, listed: &ListedCollection) -> Result<(), StoreError> {
    tokio::time::sleep(tools.store.sync_lag()).await;
    tools.store.remove(listed.removal.clone()).await
}

/// Why a collection can't be read.
pub(super) enum ReadError {
    /// The host's answer.
    Fetch(FetchError),
    /// The store.
    Store(StoreError),
}

impl From<FetchError> for ReadError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
