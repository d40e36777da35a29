//! Collections of a repository by `listRecords`, where that is cheaper than the whole CAR.
//!
//! It is tried where a job asks for a few collections: a repository that holds nothing else is read as a CAR at once, and a collection
//! that fills more than [`MAX_PAGES`] pages is given up for the CAR, as is one whose values don't hash to what the server says.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::account::{self, Answer};
use super::discover::escaped;
use super::tools::{DidGuard, Tools};
use super::unit::Target;
use crate::decode::{self, Cid, Tid, syntax};
use crate::fetch::{FetchError, FetchLimits};
use crate::store::{RecordBody, RecordWrite, Removal, Repo, Scope, StoreError, WriteBatch};

/// Pages after which the CAR is cheaper.
const MAX_PAGES: usize = 10;
/// Bytes of records that are held at once of a repository; beyond it the CAR is read, which may go to a file.
const MAX_BYTES: usize = 16 << 20;
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
    records: Vec<ListedRecord>,
}

#[derive(Deserialize)]
struct ListedRecord {
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

/// Collections that were read; nothing of them is written.
pub(super) struct Listed {
    rev: Tid,
    /// When the host was asked (microseconds).
    asked: u64,
    read: Vec<(String, Vec<Checked>)>,
    /// Those that only the CAR tells.
    pub left: Vec<String>,
}

impl Listed {
    /// Whether none could be read.
    pub fn is_empty(&self) -> bool {
        self.read.is_empty()
    }
}

/// Collections that were written; what is older is still to be removed.
pub(super) struct ListedCollections {
    /// How many records, by collection.
    pub records: Vec<(String, u64)>,
    /// Whether the account was shown as active before.
    pub was_active: bool,
    /// When the host was asked (microseconds).
    pub asked: u64,
    removals: Vec<Removal>,
    _guard: DidGuard,
}

/// Reads collections. `Ok(None)`: the CAR has to be read instead.
pub(super) async fn read(
    tools: &Tools,
    did: &str,
    collections: &[String],
    target: &Target,
    asked: u64,
    cancel: &CancellationToken,
) -> Result<Option<Listed>, FetchError> {
    let pds = &target.pds;
    let rev = account::latest(tools, did, pds, cancel).await?.rev;
    if rev.micros() > tools.clock.now_micros() + decode::REV_AHEAD_MICROS {
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
    let held = described.collections;
    if !held.is_empty() && held.iter().all(|name| collections.contains(name)) {
        return Ok(None);
    }
    let mut listed = Listed {
        rev,
        asked,
        read: Vec::new(),
        left: Vec::new(),
    };
    let mut room = MAX_BYTES;
    for collection in collections {
        let records = match held.contains(collection) {
            true => pages(tools, did, collection, pds, &mut room, cancel).await,
            false => Ok(Some(Vec::new())),
        };
        match records {
            Ok(Some(records)) => listed.read.push((collection.clone(), records)),
            Ok(None) => listed.left.push(collection.clone()),
            Err(error) if is_of_collection(&error) => listed.left.push(collection.clone()),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(listed))
}

/// Whether the server refuses this list, and neither the account nor everything.
fn is_of_collection(error: &FetchError) -> bool {
    matches!(error, FetchError::Status { .. }) && Answer::of_error(error, 0).is_none()
}

/// Every record; `None` where there are too many, or one is not what its CID says.
async fn pages(
    tools: &Tools,
    did: &str,
    collection: &str,
    pds: &str,
    room: &mut usize,
    cancel: &CancellationToken,
) -> Result<Option<Vec<Checked>>, FetchError> {
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
                Some(record) if record.bytes.len() <= *room => {
                    *room -= record.bytes.len();
                    checked.push(record);
                }
                _ => return Ok(None),
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

fn check(record: ListedRecord, prefix: &str) -> Option<Checked> {
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

/// Writes what was read, but for what is not indexed any more.
pub(super) async fn write(
    tools: &Tools,
    did: &str,
    target: &Target,
    listed: Listed,
) -> Result<ListedCollections, StoreError> {
    // With this the repository is one that is held: it is looked at even if no list names it any more.
    tools.store.put_pds(did, &target.pds).await?;
    let guard = tools.locks.lock(did).await;
    let indexed = tools.indexed.now();
    let held = tools.store.repo(did).await?.unwrap_or_default();
    let rev = listed.rev;
    let version = version(&held, rev);
    let mut written = ListedCollections {
        records: Vec::new(),
        was_active: held.active(),
        asked: listed.asked,
        removals: Vec::new(),
        _guard: guard,
    };
    let mut json = Vec::new();
    let read = listed.read.into_iter();
    for (collection, records) in read.filter(|(name, _)| indexed.wants(name)) {
        let mut batch = WriteBatch::new();
        for record in &records {
            json.clear();
            if tools.options.json {
                decode::record_to_json(&record.bytes, &mut json);
            }
            batch.put_record(RecordWrite {
                did,
                collection: &collection,
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
        written.removals.push(Removal {
            did: did.to_owned(),
            scope: Scope::Collection(collection.clone()),
            version: version.saturating_sub(1),
            floor: false,
        });
        written.records.push((collection, records.len() as u64));
    }
    Ok(written)
}

/// V': not before the revision, above every floor.
fn version(held: &Repo, rev: Tid) -> u64 {
    let floors = held.floors.iter().map(|floor| floor.version + 1);
    rev.micros().max(floors.max().unwrap_or(0))
}

/// Removes what the collections no longer have, once what they have can't be lost any more.
pub(super) async fn finish(tools: &Tools, listed: &ListedCollections) -> Result<(), StoreError> {
    tokio::time::sleep(tools.store.sync_lag()).await;
    for removal in &listed.removals {
        tools.store.remove(removal.clone()).await?;
    }
    Ok(())
}
