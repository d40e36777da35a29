//! All that a store says, for comparison with what another one says.

use std::collections::BTreeSet;

use penstock::decode::Tid;
use penstock::store::{IndexEntry, Record, RecordsQuery, Repo, Store};

use super::{COLLECTIONS, DIDS, RKEYS};
use crate::subject::Kind;

/// All that a store says.
#[derive(Debug, PartialEq)]
pub struct Said {
    pub records: Vec<Record>,
    single: Vec<Option<Record>>,
    descending: Vec<Record>,
    of_collections: Vec<Record>,
    repos: Vec<Repo>,
    newest: Vec<Vec<IndexEntry>>,
}

async fn list(store: &dyn Store, query: RecordsQuery) -> Vec<Record> {
    let mut query = query;
    let mut all = Vec::new();
    loop {
        let page = store.records(&query).await.unwrap();
        assert!(page.items.len() <= query.limit);
        all.extend(page.items);
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            return all;
        }
    }
}

/// The place of a record in a repository.
fn path(record: &Record) -> (&str, &str) {
    (&record.collection, &record.rkey)
}

/// Checks a listing over repositories: each comes once and in one piece, its records in order, and none of them twice.
fn in_order(records: &[Record], kind: Kind) {
    let mut seen = BTreeSet::new();
    for of_one in records.chunk_by(|a, b| a.did == b.did) {
        let did = of_one[0].did.as_str();
        assert!(seen.insert(did), "{did} is listed in two places");
        let ascends = of_one.windows(2).all(|two| path(&two[0]) < path(&two[1]));
        assert!(ascends, "{of_one:?}");
    }
    if kind == Kind::Local {
        assert!(records.is_sorted_by_key(|record| record.did.clone()));
    }
}

/// All records of a query over repositories, by DID.
async fn list_by_did(store: &dyn Store, query: RecordsQuery, kind: Kind) -> Vec<Record> {
    let mut records = list(store, query).await;
    in_order(&records, kind);
    // Within one they stay as they are.
    records.sort_by(|a, b| a.did.cmp(&b.did));
    records
}

/// All repositories, each once, by DID.
async fn repos(store: &dyn Store, kind: Kind) -> Vec<Repo> {
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.repos(cursor.as_deref(), 2).await.unwrap();
        assert!(page.items.len() <= 2);
        for repo in &page.items {
            assert_eq!(store.repo(&repo.did).await.unwrap().as_ref(), Some(repo));
        }
        all.extend(page.items);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    if kind == Kind::Local {
        assert!(all.is_sorted_by_key(|repo| repo.did.clone()));
    }
    all.sort_by(|a, b| a.did.cmp(&b.did));
    assert!(all.windows(2).all(|two| two[0].did != two[1].did));
    all
}

/// What is new in a collection; checked to be in order, then sorted further, since among equal record keys a store has an
/// order of its own.
async fn newest(store: &dyn Store, collection: &str) -> Vec<IndexEntry> {
    let odd = |entry: &IndexEntry| Tid::parse(entry.rkey.as_bytes()).is_none();
    let order = |entry: &IndexEntry| (odd(entry), std::cmp::Reverse(entry.rkey.clone()));
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let page = store
            .newest(collection, 2, cursor.as_deref())
            .await
            .unwrap();
        all.extend(page.items);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert!(all.is_sorted_by_key(order));
    all.sort_by_key(|entry| (order(entry), entry.did.clone()));
    all
}

/// Asks a store all that can be asked, checks that its listings are in order, and sorts them by DID.
pub async fn ask(store: &dyn Store, kind: Kind) -> Said {
    let query = RecordsQuery {
        limit: 3,
        values: true,
        ..RecordsQuery::default()
    };
    let mut said = Said {
        records: list_by_did(store, query.clone(), kind).await,
        single: Vec::new(),
        descending: Vec::new(),
        of_collections: Vec::new(),
        repos: repos(store, kind).await,
        newest: Vec::new(),
    };
    for did in DIDS {
        for collection in COLLECTIONS {
            for rkey in RKEYS {
                said.single
                    .push(store.record(did, collection, rkey).await.unwrap());
            }
            let one = RecordsQuery {
                did: Some(did.to_owned()),
                collection: Some(collection.to_owned()),
                descending: true,
                values: false,
                limit: 2,
                ..RecordsQuery::default()
            };
            said.descending.extend(list(store, one.clone()).await);
            let after = RecordsQuery {
                after_rkey: Some("3mwgncrrtze23".to_owned()),
                ..one
            };
            said.descending
                .extend(store.records(&after).await.unwrap().items);
        }
    }
    for collection in COLLECTIONS {
        let of = RecordsQuery {
            collection: Some(collection.to_owned()),
            ..query.clone()
        };
        said.of_collections
            .extend(list_by_did(store, of, kind).await);
        said.newest.push(newest(store, collection).await);
    }
    said
}
