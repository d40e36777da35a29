//! What every store keeps to, whatever it is made of.

pub mod accounts;
pub mod kept;
pub mod merges;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use penstock::decode::{Cid, Tid};
use penstock::slot::SlotSet;
use penstock::store::{
    Complete, Fact, FactKind, Quarantined, RecordBody, RecordWrite, RecordsQuery, Removal, Repair,
    RepairKind, RepoStatus, Scope, SnapshotDone, StatusWrite, Store, StoreError, WriteBatch,
};

use crate::subject::{Kind, Subject};

/// Longer than any count takes to become true.
const PATIENCE: Duration = Duration::from_secs(60);

pub const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
pub const POST: &str = "app.bsky.feed.post";

/// Adds a post, or its deletion.
pub fn put(batch: &mut WriteBatch, did: &str, rkey: &str, rev: Tid, record: Option<&[u8]>) {
    put_at(batch, (did, POST, rkey), rev, record);
}

fn put_at(batch: &mut WriteBatch, path: (&str, &str, &str), rev: Tid, record: Option<&[u8]>) {
    batch.put_record(RecordWrite {
        did: path.0,
        collection: path.1,
        rkey: path.2,
        version: rev.micros(),
        rev,
        body: record.map(|record| RecordBody {
            cid: Cid::of_dag_cbor(record),
            record,
            json: None,
        }),
    });
}

/// A batch of one record.
pub fn one(did: &str, rkey: &str, rev: Tid, record: Option<&[u8]>) -> WriteBatch {
    let mut batch = WriteBatch::new();
    put(&mut batch, did, rkey, rev, record);
    batch
}

fn frame(number: u64, size: usize) -> Quarantined {
    Quarantined {
        id: format!("20261123-{number:02x}-hash"),
        received: number,
        reason: "cbor".to_owned(),
        detail: "cut".to_owned(),
        source: "relay.example".to_owned(),
        seq: Some(number),
        did: None,
        raw: vec![u8::try_from(number).unwrap(); size],
        evicted: None,
    }
}

/// Asks until the answer is what it must be: at once, where a store counts as it writes.
async fn becomes<T: PartialEq + Debug>(kind: Kind, wanted: T, ask: impl AsyncFn() -> T) {
    let deadline = Instant::now() + PATIENCE;
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    loop {
        ticks.tick().await;
        let answer = ask().await;
        if answer == wanted {
            return;
        }
        let in_time = kind == Kind::Database && Instant::now() < deadline;
        assert!(in_time, "{answer:?}, expected {wanted:?}");
    }
}

async fn quarantine_holds(store: &dyn Store, kind: Kind, bytes: u64) {
    let held = async || store.health().await.unwrap().quarantine_bytes;
    becomes(kind, bytes, held).await;
}

async fn repairs_are(store: &dyn Store, kind: Kind, wanted: &[(&str, u64)]) {
    let wanted: BTreeMap<_, _> = wanted
        .iter()
        .map(|(reason, count)| ((*reason).to_owned(), *count))
        .collect();
    let waiting = async || store.health().await.unwrap().repairs;
    becomes(kind, wanted, waiting).await;
}

/// The store may hold 100 bytes of frames. All of these came on one day.
pub async fn quarantine_keeps_its_bounds(store: &dyn Store, kind: Kind) {
    let mut batch = WriteBatch::new();
    for number in [3, 1, 2, 4, 4, 1] {
        batch.put_quarantined(frame(number, 30));
    }
    let batch = store.apply(batch).await.unwrap();
    quarantine_holds(store, kind, 90).await;
    let mut batch = batch;
    batch.put_quarantined(frame(1, 30));
    store.apply(batch).await.unwrap();
    // The same again.
    quarantine_holds(store, kind, 90).await;

    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.quarantine(cursor.as_deref(), 3).await.unwrap();
        assert!(page.items.len() <= 3);
        let rows = page.items.iter().map(|row| (row.received, row.evicted));
        seen.extend(rows);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    if kind == Kind::Database {
        seen.sort_unstable();
    }
    assert_eq!(seen, [(1, true), (2, false), (3, false), (4, false)]);
    let (row, raw) = store.quarantined(&frame(1, 0).id).await.unwrap().unwrap();
    assert_eq!((row.size, row.evicted, raw.len()), (30, true, 0));
    let (_, raw) = store.quarantined(&frame(2, 0).id).await.unwrap().unwrap();
    assert_eq!(raw, [2; 30]);

    for number in [1, 2, 9] {
        store
            .release_quarantined(&frame(number, 0).id)
            .await
            .unwrap();
    }
    quarantine_holds(store, kind, 60).await;
    assert_eq!(store.quarantined(&frame(2, 0).id).await.unwrap(), None);
}

fn repair(did: &str, id: &str, reason: &str) -> Repair {
    Repair {
        did: did.to_owned(),
        id: id.to_owned(),
        kind: RepairKind::Status,
        reason: reason.to_owned(),
        version: 7,
    }
}

pub fn fact(from_seq: u64, to_seq: u64) -> Fact {
    Fact {
        relay: "relay.example".to_owned(),
        generation: 0,
        run: 1,
        from_seq,
        to_seq,
        from_time: 0,
        to_time: to_seq,
        slots: SlotSet::ALL,
        filter: String::new(),
        kind: FactKind::Live,
    }
}

/// Repairs are not overwritten, and exactly those are cleared that are named; facts only grow.
pub async fn repairs_and_facts(store: &dyn Store, kind: Kind) {
    let said = |version, active, id: &str| StatusWrite {
        did: DID.to_owned(),
        version,
        status: RepoStatus {
            active,
            status: None,
        },
        repair_if_stale: Some(repair(DID, id, "stale")),
        repair_if_reactivated: None,
    };
    let mut batch = WriteBatch::new();
    batch.put_repair(repair("", "none", "cbor"));
    batch.put_repair(repair("", "none", "another"));
    batch.put_status(said(5, true, "first"));
    batch.put_status(said(5, true, "the same"));
    batch.put_status(said(5, false, "in one batch"));
    let batch = store.apply(batch).await.unwrap();
    let mut batch = batch;
    batch.put_status(said(4, true, "older"));
    batch.put_status(said(6, false, "newer"));
    store.apply(batch).await.unwrap();
    repairs_are(store, kind, &[("cbor", 1), ("stale", 2)]).await;
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.repairs(cursor.as_deref(), 1).await.unwrap();
        all.extend(page.items);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    let wanted = [
        repair(DID, "in one batch", "stale"),
        repair("", "none", "cbor"),
        repair(DID, "older", "stale"),
    ];
    assert_eq!(all, wanted);
    let changed = Repair {
        version: 8,
        ..wanted[0].clone()
    };
    store
        .clear_repairs(&[changed, wanted[1].clone()])
        .await
        .unwrap();
    let left = store.repairs(None, 10).await.unwrap().items;
    assert_eq!(left.len(), 2);
    repairs_are(store, kind, &[("stale", 2)]).await;

    store
        .put_facts(&[fact(10, 20), fact(0, 5), fact(10, 15)])
        .await
        .unwrap();
    store.put_facts(&[fact(0, 9), fact(10, 12)]).await.unwrap();
    assert_eq!(store.facts().await.unwrap(), [fact(0, 9), fact(10, 20)]);
}

/// What [`repairs_and_facts`] left is there when the store is opened again.
pub async fn repairs_and_facts_are_kept(store: &dyn Store, kind: Kind) {
    repairs_are(store, kind, &[("stale", 2)]).await;
    assert_eq!(store.facts().await.unwrap(), [fact(0, 9), fact(10, 20)]);
}

/// A fact that others cover goes; one that has grown since stays, whatever comes twice or late.
pub async fn merged_facts_go(store: &dyn Store) {
    let (narrow, wide) = (fact(0, 5), fact(0, 20));
    let other = Fact {
        run: 2,
        ..fact(5, 20)
    };
    store
        .put_facts(&[narrow.clone(), other.clone()])
        .await
        .unwrap();
    store.put_facts(std::slice::from_ref(&wide)).await.unwrap();
    let going = [other.clone(), narrow.clone()];
    store.remove_facts(&going).await.unwrap();
    assert_eq!(store.facts().await.unwrap(), std::slice::from_ref(&wide));
    // Again, and with what others wrote of the same rows before.
    store.put_facts(&[narrow, fact(0, 19)]).await.unwrap();
    store.remove_facts(&going).await.unwrap();
    assert_eq!(store.facts().await.unwrap(), std::slice::from_ref(&wide));
    // The run was not at its end after all.
    let grown = Fact {
        to_seq: 21,
        to_time: 21,
        ..other
    };
    store.put_facts(std::slice::from_ref(&grown)).await.unwrap();
    store.remove_facts(&going).await.unwrap();
    assert_eq!(store.facts().await.unwrap(), [wide, grown]);
}

/// What no key can hold is refused, and the store goes on.
pub async fn bad_keys_are_refused(store: &dyn Store) {
    let rev = Tid::new(1, 0);
    for (did, rkey) in [
        ("", "a"),
        (DID, ""),
        (DID, "a\0b"),
        (&"d".repeat(3000), "a"),
    ] {
        let refused = store.apply(one(did, rkey, rev, None)).await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{did:?} {rkey:?}"
        );
    }
    store
        .apply(one(DID, "a", rev, Some(b"good")))
        .await
        .unwrap();
    assert!(store.record(DID, POST, "a").await.unwrap().is_some());
}

/// Lists four records of 6 MiB, of which pages of 100 could have all, and gives the number of records in each page.
pub async fn pages_of_large_values(store: &dyn Store) -> Vec<usize> {
    let large = vec![7; 6 << 20];
    let rkeys = ["a", "b", "c", "d"];
    for rkey in rkeys {
        store
            .apply(one(DID, rkey, Tid::new(1, 0), Some(&large)))
            .await
            .unwrap();
    }
    let mut query = RecordsQuery {
        limit: 100,
        values: true,
        ..RecordsQuery::default()
    };
    let (mut seen, mut pages) = (Vec::new(), Vec::new());
    loop {
        let page = store.records(&query).await.unwrap();
        pages.push(page.items.len());
        for record in page.items {
            assert!(record.record == large, "{} was cut", record.rkey);
            seen.push(record.rkey);
        }
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            assert_eq!(seen, rkeys);
            return pages;
        }
    }
}

/// A store that was closed answers nothing.
pub async fn a_closed_store_says_so(store: &dyn Store) {
    store.close().await.unwrap();
    assert_eq!(
        store.record(DID, POST, "self").await,
        Err(StoreError::Closed)
    );
    assert_eq!(
        store.apply(WriteBatch::new()).await.err(),
        Some(StoreError::Closed)
    );
}

const REMOVED: &str = "did:web:removed.example";
const FETCHED: &str = "did:web:fetched.example";
/// In a collection that was not there when the repository was fetched: it comes after that,
const UNKNOWN: (&str, &str, &str) = (FETCHED, "zz.example.unknown", "self");
/// and another that came before.
const UNLISTED: (&str, &str, &str) = (FETCHED, "aa.example.unlisted", "self");
const LIKE: &str = "app.bsky.feed.like";
/// One collection was removed, and of another one a snapshot was taken.
const PARTLY: &str = "did:web:partly.example";
const OFF: (&str, &str, &str) = (PARTLY, LIKE, "off");
const GONE: (&str, &str, &str) = (PARTLY, POST, "gone");
/// When all that is true was written.
const NOW: u64 = 20;
/// What no late write brings back.
const HIDDEN: [(&str, &str, &str); 8] = [
    (DID, POST, "deleted"),
    (DID, POST, "never-seen"),
    (REMOVED, POST, "a"),
    (FETCHED, POST, "gone"),
    UNKNOWN,
    UNLISTED,
    OFF,
    GONE,
];

/// What was replaced, deleted, removed, or is not in a later snapshot stays so, however late it comes, and however the store
/// merged what it has.
pub async fn late_writes_stay_hidden<S: Subject>(mut subject: S) {
    let store = subject.store();
    let now = Tid::new(NOW, 5);
    let mut batch = WriteBatch::new();
    put(&mut batch, DID, "deleted", Tid::new(9, 0), Some(b"early"));
    put(&mut batch, REMOVED, "a", Tid::new(9, 0), Some(b"early"));
    put(&mut batch, FETCHED, "gone", Tid::new(9, 0), Some(b"early"));
    put(&mut batch, DID, "kept", now, Some(b"kept"));
    put(&mut batch, DID, "deleted", now, None);
    put(&mut batch, DID, "never-seen", now, None);
    put(&mut batch, FETCHED, "kept", now, Some(b"kept"));
    put(&mut batch, PARTLY, "kept", now, Some(b"kept"));
    put_at(&mut batch, UNLISTED, Tid::new(9, 0), Some(b"early"));
    put_at(&mut batch, OFF, Tid::new(9, 0), Some(b"early"));
    put_at(&mut batch, GONE, Tid::new(9, 0), Some(b"early"));
    store.apply(batch).await.unwrap();
    let likes = Scope::Collection(LIKE.to_owned());
    for (did, scope) in [(REMOVED, Scope::Repo), (PARTLY, likes)] {
        let removal = Removal {
            did: did.to_owned(),
            scope,
            version: NOW,
            floor: true,
        };
        store.remove(removal).await.unwrap();
    }
    let posts = Scope::Collection(POST.to_owned());
    for (did, scope) in [(FETCHED, Scope::Repo), (PARTLY, posts)] {
        let done = SnapshotDone {
            did: did.to_owned(),
            scopes: vec![scope],
            complete: Complete {
                rev: now,
                version: NOW,
                filter: String::new(),
            },
            settled: false,
        };
        store.complete_snapshot(done).await.unwrap();
    }
    drop(store);
    only_what_is_true(&subject, "at first").await;
    for round in ["", ", after a merge", ", opened again"] {
        write_late(&*subject.store()).await;
        only_what_is_true(&subject, &format!("late writes{round}")).await;
        subject.compact().await;
        only_what_is_true(&subject, &format!("late writes{round}, merged")).await;
        if round.ends_with("merge") {
            subject.reopen().await;
        }
    }
    // What is newer is not hidden by any of it.
    let store = subject.store();
    let newer = Tid::new(NOW + 1, 0);
    for path in HIDDEN {
        let mut batch = WriteBatch::new();
        put_at(&mut batch, path, newer, Some(b"new"));
        store.apply(batch).await.unwrap();
        let (did, collection, rkey) = path;
        let record = store.record(did, collection, rkey).await.unwrap();
        assert_eq!(record.map(|record| record.rev), Some(newer), "{path:?}");
    }
}

/// Every older version, the newest of them last; where a delete or a removal is, also its own version.
async fn write_late(store: &dyn Store) {
    for micros in 1..=NOW {
        let rev = Tid::new(micros, 0);
        let mut batch = WriteBatch::new();
        put(&mut batch, DID, "deleted", rev, Some(b"late"));
        put(&mut batch, DID, "never-seen", rev, Some(b"late"));
        put(
            &mut batch,
            DID,
            "kept",
            rev,
            (micros % 2 == 0).then_some(b"late"),
        );
        put(&mut batch, REMOVED, "a", rev, Some(b"late"));
        put(&mut batch, REMOVED, "b", rev, Some(b"late"));
        put_at(&mut batch, OFF, rev, Some(b"late"));
        if micros < NOW {
            put(&mut batch, FETCHED, "gone", rev, Some(b"late"));
            for path in [UNKNOWN, UNLISTED, GONE] {
                put_at(&mut batch, path, rev, Some(b"late"));
            }
        }
        store.apply(batch).await.unwrap();
    }
}

async fn only_what_is_true<S: Subject>(subject: &S, when: &str) {
    let store = subject.store();
    let query = RecordsQuery {
        limit: 100,
        values: true,
        ..RecordsQuery::default()
    };
    let page = store.records(&query).await.unwrap();
    let found = page.items.iter();
    let mut found: Vec<_> = found
        .map(|row| (row.did.as_str(), row.rkey.as_str(), row.record.as_slice()))
        .collect();
    found.sort_unstable();
    let kept = [DID, FETCHED, PARTLY].map(|did| (did, "kept", &b"kept"[..]));
    assert_eq!(found, kept, "{}, {when}", S::NAME);
    for (did, collection, rkey) in HIDDEN {
        let record = store.record(did, collection, rkey).await.unwrap();
        assert_eq!(record, None, "{}, {when}", S::NAME);
    }
    // Nor does the index tell of any.
    for (collection, wanted) in [(POST, 3), (LIKE, 0), (UNKNOWN.1, 0), (UNLISTED.1, 0)] {
        let newest = store.newest(collection, 100, None).await.unwrap().items;
        let is_kept = newest.iter().all(|entry| entry.rkey == "kept");
        let said = (newest.len(), is_kept);
        assert_eq!(said, (wanted, true), "{}, {when}: {newest:?}", S::NAME);
    }
}
