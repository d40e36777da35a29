//! What is said of a keyspace that is not as it must be, and what becomes of writes where it is gone.

use std::time::Duration;

use penstock::decode::Tid;
use penstock::store::StoreError;
use penstock::store::scylla::schema::TABLES;
use penstock::store::scylla::{ScyllaOptions, ScyllaStore};

use crate::contract::{self, DID, POST, fact, one};
use crate::faults::{Shaken, in_time};
use crate::keyspaces::Keyspace;

#[tokio::test]
async fn tombstones_that_go_early_are_refused_and_nothing_is_altered() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    keyspace.open().await.close().await.unwrap();
    for table in ["records", "repairs"] {
        let set =
            |seconds: u32| format!("ALTER TABLE KS.{table} WITH gc_grace_seconds = {seconds}");
        keyspace.run(&set(3600)).await;
        for create in [true, false] {
            let options = keyspace.options();
            let name = options.keyspace.clone();
            let opened = ScyllaStore::open(ScyllaOptions { create, ..options });
            let error = opened.await.map(drop).expect_err("it opens");
            assert!(matches!(error, StoreError::Schema(_)), "{error:?}");
            let words = error.to_string();
            let alter = format!("ALTER TABLE {name}.{table} WITH gc_grace_seconds = 864000");
            for part in [
                table,
                "gc_grace_seconds = 3600",
                &alter,
                "nothing was changed",
            ] {
                assert!(words.contains(part), "{part} in {words}");
            }
            let made = ScyllaStore::create(&keyspace.options()).await;
            assert!(matches!(made, Err(StoreError::Schema(_))), "{made:?}");
            assert_eq!(keyspace.gc_grace_seconds(table).await, 3600);
        }
        // What the message says helps.
        keyspace.run(&set(864_000)).await;
        keyspace.open().await.close().await.unwrap();
    }
}

#[tokio::test]
async fn writes_wait_for_a_keyspace_that_is_dropped() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let shaken = Shaken::in_peace(keyspace).await;
    let rkeys = ["3mwgncrrtze22", "3mwgncrrtze23"];
    let rev = Tid::new(1, 0);
    let before = one(DID, rkeys[0], rev, Some(b"before"));
    shaken.store.apply(before).await.unwrap();
    shaken.keyspace.run("DROP KEYSPACE KS").await;

    // One on its own and two as a batch, of which one has the key of before.
    let store = shaken.store.clone();
    let mut batch = one(DID, rkeys[1], rev, Some(b"after"));
    crate::contract::put(&mut batch, DID, "self", rev, Some(b"after"));
    let together = tokio::spawn(async move { store.apply(batch).await });
    let store = shaken.store.clone();
    let batch = one("did:web:alone", rkeys[1], rev, Some(b"after"));
    let alone = tokio::spawn(async move { store.apply(batch).await });
    let trouble = shaken.trouble().await;
    let words = shaken.keyspace.options().keyspace;
    assert!(
        trouble.contains(&words) || trouble.contains("exist"),
        "{trouble}"
    );
    // They are tried in vain more than once.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!together.is_finished() && !alone.is_finished());

    let options = shaken.keyspace.options();
    ScyllaStore::create(&options).await.unwrap();
    in_time("a batch", together).await.unwrap().unwrap();
    in_time("a write", alone).await.unwrap().unwrap();
    assert!(shaken.is_well().await);
    let record = shaken.store.record(DID, POST, rkeys[1]).await.unwrap();
    assert_eq!(record.unwrap().record, b"after");
    // The index has them too, though its months were written before.
    let newest = shaken.store.newest(POST, 10, None).await.unwrap().items;
    let found: Vec<_> = newest.iter().map(|entry| entry.rkey.as_str()).collect();
    assert_eq!(found, [rkeys[1], rkeys[1], "self"]);

    // What was there before is lost, so nothing is claimed behind it; who starts anew finds an empty ledger.
    let claimed = shaken.store.put_facts(&[fact(0, 100)]).await;
    let error = claimed.expect_err("it claims what is lost").to_string();
    assert!(error.contains("dropped and made again"), "{error}");
    let anew = shaken.keyspace.open().await;
    assert!(anew.facts().await.unwrap().is_empty());
    anew.put_facts(&[fact(0, 100)]).await.unwrap();
}

#[tokio::test]
async fn a_table_that_was_dropped_is_not_made_anew_and_nothing_is_claimed() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let store = keyspace.open().await;
    store.put_facts(&[fact(0, 100)]).await.unwrap();
    keyspace.run("DROP TABLE KS.records").await;
    for create in [true, false] {
        let options = ScyllaOptions {
            create,
            ..keyspace.options()
        };
        let opened = ScyllaStore::open(options).await;
        let error = opened.map(drop).expect_err("it opens");
        assert!(matches!(error, StoreError::Schema(_)), "{error:?}");
        let words = error.to_string();
        for part in ["records is gone", "backup", "DROP KEYSPACE"] {
            assert!(words.contains(part), "{part} in {words}");
        }
    }
    let made = ScyllaStore::create(&keyspace.options()).await;
    assert!(matches!(made, Err(StoreError::Schema(_))), "{made:?}");

    // Somebody makes it by hand, while the store is open.
    keyspace
        .run("CREATE TABLE KS.records (did text PRIMARY KEY)")
        .await;
    let claimed = store.put_facts(&[fact(100, 200)]).await;
    let error = claimed.expect_err("it claims what is lost").to_string();
    assert!(error.contains("records was dropped"), "{error}");
    assert_eq!(store.facts().await.unwrap(), [fact(0, 100)]);
}

/// A keyspace as the builds before jobs made it.
async fn made_before_jobs(keyspace: &Keyspace) {
    let options = keyspace.options();
    let layout = options.layout(ScyllaStore::server(&options).await.unwrap());
    let new = ["jobs", "job_failures", "choices"];
    let is_new = |statement: &str| {
        let made = |name| statement.contains(&format!(".{name} ("));
        new.iter().any(made)
    };
    let statements = layout.statements();
    let old: Vec<_> = statements.iter().filter(|text| !is_new(text)).collect();
    assert_eq!(old.len() + new.len(), statements.len());
    assert!(
        new.iter()
            .all(|name| TABLES.iter().any(|table| table.name == *name))
    );
    keyspace.run(&layout.keyspace()).await;
    for statement in old {
        keyspace.run(statement).await;
    }
    keyspace
        .run("INSERT INTO KS.schema_version (name, version) VALUES ('penstock', 1) USING TIMESTAMP 1")
        .await;
}

#[tokio::test]
async fn worker_0_adds_what_came_with_this_build_and_the_others_wait() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    made_before_jobs(&keyspace).await;
    // Who only reads makes nothing, and says what is missing.
    let read = ScyllaStore::open_existing(keyspace.options()).await;
    let words = read.map(drop).expect_err("it opens").to_string();
    assert!(words.contains("start worker 0"), "{words}");
    let others = ScyllaOptions {
        create: false,
        ..keyspace.options()
    };
    let other = tokio::spawn(ScyllaStore::open(others));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!other.is_finished(), "it waits");
    let store = keyspace.open().await;
    let other = in_time("another worker", other).await.unwrap();
    contract::kept::jobs_are_compared_and_set(&*store).await;
    contract::kept::choices_are_kept_by_kind(&other.unwrap()).await;
    // From now on they are missed.
    keyspace.run("DROP TABLE KS.choices").await;
    let opened = ScyllaStore::open(keyspace.options()).await;
    let words = opened.map(drop).expect_err("it opens").to_string();
    assert!(words.contains("choices is gone"), "{words}");
}
