//! Collections of a repository by `listRecords`, where that is cheaper than the whole CAR.
//!
//! It is tried where a job asks for a few collections: a repository that holds nothing else is read as a CAR at once, and a collection
//! that fills more than [`MAX_PAGES`] pages is given up for the CAR, as is one whose values don't hash to what the server says, or for
//! which there is no memory.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::account::{self, Answer};
use super::discover::escaped;
use super::failure::Failure;
use super::locked;
use super::tools::{DidGuard, Tools};
use super::unit::Target;
use crate::backfill::snapshot::Share;
use crate::decode::{self, Cid, Tid, syntax};
use crate::fetch::{FetchError, FetchLimits, Patience};
use crate::store::{
    RecordBody, RecordWrite, Removal, Scope, StoreError, WriteBatch, snapshot_version,
};

/// Pages after which the CAR is cheaper.
const MAX_PAGES: usize = 10;
/// Bytes that are held at once of a repository; beyond it, as where the memory of all fetches is used up, the CAR is read, which may go
/// to a file.
const MAX_BYTES: u64 = 16 << 20;
/// Records of a page; servers give no more.
const PAGE: usize = 100;
/// The longest text of a record; of what is longer the CAR is read.
const MAX_VALUE: usize = 1 << 20;
/// Bounds of a page; of larger ones the CAR is read.
const PAGE_LIMITS: FetchLimits = FetchLimits {
    bytes: 8 << 20,
    time: Duration::from_secs(120),
    idle: Duration::from_secs(20),
};
/// Bounds of the names of all collections.
const DESCRIPTION: FetchLimits = FetchLimits {
    bytes: 1 << 20,
    ..PAGE_LIMITS
};

#[derive(Deserialize)]
struct Described {
    collections: Vec<String>,
}

#[derive(Deserialize)]
struct Records<'a> {
    cursor: Option<String>,
    #[serde(borrow)]
    records: Vec<ListedRecord<'a>>,
}

/// Its value takes many times its text once it is parsed: one at a time.
#[derive(Deserialize)]
struct ListedRecord<'a> {
    #[serde(borrow)]
    uri: Cow<'a, str>,
    #[serde(borrow)]
    cid: Cow<'a, str>,
    #[serde(borrow)]
    value: &'a RawValue,
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
    /// The memory of what was read.
    share: Share,
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
    patience: &Patience,
) -> Result<Option<Listed>, FetchError> {
    let pds = &target.pds;
    let rev = account::latest(tools, did, pds, patience).await?.rev;
    let held = target.held.as_ref();
    let known = held.and_then(|held| held.complete.as_ref());
    // A host that has gone back is believed only with a signature.
    let went_back = known.is_some_and(|complete| complete.rev > rev);
    if went_back || rev.micros() > tools.clock.now_micros() + decode::REV_AHEAD_MICROS {
        return Ok(None);
    }
    let url = format!(
        "{pds}/xrpc/com.atproto.repo.describeRepo?repo={}",
        escaped(did)
    );
    let answer = small(tools.fetcher.get(&url, DESCRIPTION, patience).await)?;
    let Some(described) = answer.as_deref().and_then(parse::<Described>) else {
        return Ok(None);
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
        share: tools.budget.share(),
    };
    for collection in collections {
        let records = match held.contains(collection) {
            true => {
                let share = &mut listed.share;
                let before = share.held();
                let records = pages(tools, did, collection, pds, share, patience).await;
                if !matches!(records, Ok(Some(_))) {
                    share.give_back(share.held() - before);
                }
                records
            }
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
    share: &mut Share,
    patience: &Patience,
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
        let answer = small(answer(tools, &url, share, patience).await)?.flatten();
        let Some(page) = answer.as_deref().and_then(parse::<Records<'_>>) else {
            return Ok(None);
        };
        if page.records.is_empty() {
            return Ok(Some(checked));
        }
        for record in page.records {
            match check(&record, &prefix) {
                Some(record) if take(share, record.bytes.len()) => checked.push(record),
                _ => return Ok(None),
            }
        }
        cursor = page.cursor;
        share.give_back(answer.map_or(0, |answer| answer.len() as u64));
        if cursor.is_none() {
            return Ok(Some(checked));
        }
    }
    Ok(None)
}

/// An answer as far as there is memory for it.
async fn answer(
    tools: &Tools,
    url: &str,
    share: &mut Share,
    patience: &Patience,
) -> Result<Option<Vec<u8>>, FetchError> {
    let mut body = tools.fetcher.stream(url, PAGE_LIMITS, patience).await?;
    let mut answer = Vec::new();
    while let Some(piece) = body.next().await? {
        if !take(share, piece.len()) {
            return Ok(None);
        }
        answer.extend_from_slice(&piece);
    }
    Ok(Some(answer))
}

fn take(share: &mut Share, bytes: usize) -> bool {
    let bytes = bytes as u64;
    share.held() + bytes <= MAX_BYTES && share.try_take(bytes)
}

/// An answer, unless it is too large.
fn small<T>(answer: Result<T, FetchError>) -> Result<Option<T>, FetchError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(FetchError::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Option<T> {
    serde_json::from_slice(answer).ok()
}

fn check(record: &ListedRecord<'_>, prefix: &str) -> Option<Checked> {
    let rkey = record
        .uri
        .strip_prefix(prefix)
        .filter(|rkey| syntax::is_rkey(rkey))?;
    let cid = Cid::parse(&record.cid)?;
    let value = Some(record.value.get()).filter(|text| text.len() <= MAX_VALUE)?;
    let bytes = decode::record_from_json(serde_json::from_str(value).ok()?).ok()?;
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
) -> Result<ListedCollections, Failure> {
    // With this the repository is one that is held: it is looked at even if no list names it any more.
    tools.store.put_pds(did, &target.pds).await?;
    let guard = tools.locks.lock(did).await;
    let indexed = tools.indexed.now();
    let rev = listed.rev;
    let held = locked::held(tools, did, target, rev).await?;
    let version = snapshot_version(&held, rev);
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

/// Removes what the collections no longer have, once what they have can't be lost any more.
pub(super) async fn finish(tools: &Tools, listed: &ListedCollections) -> Result<(), StoreError> {
    tokio::time::sleep(tools.store.sync_lag()).await;
    for removal in &listed.removals {
        tools.store.remove(removal.clone()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "at://did:web:a/a.b.c/";

    fn page(value: &str, cid: &Cid) -> String {
        format!(
            r#"{{"records":[{{"uri":"at:\/\/did:web:a/a.b.c/self","cid":"{cid}","value":{value}}}]}}"#
        )
    }

    #[test]
    fn a_record_is_what_its_cid_says_and_no_larger_than_one_may_be() {
        let read = |text: &str, cid: &Cid| {
            let answer = page(text, cid);
            let page: Records<'_> = parse(answer.as_bytes()).unwrap();
            check(&page.records[0], PREFIX)
        };
        let small = r#"{"text":"hello"}"#;
        let bytes = decode::record_from_json(serde_json::from_str(small).unwrap()).unwrap();
        let cid = Cid::of_dag_cbor(&bytes);
        assert_eq!(read(small, &cid).unwrap().bytes, bytes);
        assert!(read(r#"{"text":"other"}"#, &cid).is_none());
        let many = format!("[{}0]", "0,".repeat(1 << 20));
        let value = serde_json::from_str(&many).unwrap();
        let cid = Cid::of_dag_cbor(&decode::record_from_json(value).unwrap());
        assert!(read(&many, &cid).is_none());
    }

    #[test]
    fn an_answer_that_is_too_large_is_no_failure() {
        let host = "h".to_owned();
        let too_large = FetchError::TooLarge { host, limit: 1 };
        assert_eq!(small::<()>(Err(too_large)).unwrap(), None);
        assert!(small::<()>(Err(FetchError::Cancelled)).is_err());
    }
}
