//! The embedded store where things go wrong: killed, locked, foreign, damaged; and its bounds.

mod contract;
mod subject;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use contract::{DID, POST, one};
use penstock::decode::Tid;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use penstock::store::memory::MemoryStore;
use penstock::store::{Removal, Scope, Store, StoreError};
use subject::Kind;
use subject::embedded::Embedded;
use subject::memory::Memory;

fn options(dir: &Path) -> EmbeddedOptions {
    EmbeddedOptions {
        min_free: 0,
        ..EmbeddedOptions::new(dir)
    }
}

fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(options(dir)).unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_drop_without_close() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let rev = Tid::new(5, 1);
    store
        .apply(one(DID, "self", rev, Some(b"kept")))
        .await
        .unwrap();
    drop(store);
    let store = open(dir.path());
    let record = store.record(DID, POST, "self").await.unwrap().unwrap();
    assert_eq!((record.rev, record.record.as_slice()), (rev, &b"kept"[..]));
    contract::a_closed_store_says_so(&store).await;
}

#[tokio::test]
async fn old_versions_go_and_late_writes_stay_hidden() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for micros in 1..=20 {
        let rev = Tid::new(micros, 0);
        store.apply(one(DID, "a", rev, Some(b"old"))).await.unwrap();
        store
            .apply(one(DID, "b", rev, (micros < 20).then_some(b"old")))
            .await
            .unwrap();
        store
            .apply(one(DID, "c", rev, Some(b"gone")))
            .await
            .unwrap();
    }
    let other = "did:web:example.com";
    store
        .apply(one(other, "c", Tid::new(3, 0), Some(b"other")))
        .await
        .unwrap();
    assert_eq!(store.count_rows().unwrap().0, 61);
    store.compact().unwrap();
    assert_eq!(store.count_rows().unwrap().0, 4, "one row for each record");

    for micros in 1..=19 {
        store
            .apply(one(DID, "b", Tid::new(micros, 0), Some(b"late")))
            .await
            .unwrap();
    }
    assert_eq!(store.record(DID, POST, "b").await.unwrap(), None);
    store.compact().unwrap();
    assert_eq!(
        store.count_rows().unwrap().0,
        4,
        "the delete stays and hides"
    );
    assert_eq!(store.record(DID, POST, "b").await.unwrap(), None);

    let scope = Scope::Repo;
    let removal = Removal {
        did: DID.to_owned(),
        scope,
        version: 20,
        floor: true,
    };
    store.remove(removal).await.unwrap();
    assert_eq!(store.record(DID, POST, "a").await.unwrap(), None);
    store.compact().unwrap();
    store.sweep().await.unwrap();
    assert_eq!(
        store.count_rows().unwrap(),
        (1, 1, 1),
        "what the range delete covers went"
    );
}

#[test]
fn a_folder_with_other_files_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let error = EmbeddedStore::open(options(dir.path())).unwrap_err();
    assert!(matches!(&error, StoreError::Format { found, .. } if found.contains("letter.txt")));
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 1);
}

#[test]
fn an_unknown_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let db = fjall::Database::builder(dir.path().join("db"))
        .open()
        .unwrap();
    let meta = db
        .keyspace("meta", fjall::KeyspaceCreateOptions::default)
        .unwrap();
    meta.insert("format", "penstock embedded store, format 2")
        .unwrap();
    db.persist(fjall::PersistMode::SyncAll).unwrap();
    drop((meta, db));
    let error = EmbeddedStore::open(options(dir.path())).unwrap_err();
    assert!(matches!(&error, StoreError::Format { found, .. } if found.ends_with("format 2")));
}

#[test]
fn a_creation_that_was_interrupted_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("creating/keyspaces")).unwrap();
    std::fs::write(dir.path().join("creating/0.jnl"), "half").unwrap();
    drop(open(dir.path()));
    assert!(!dir.path().join("creating").exists());
}

#[test]
fn damaged_files_are_reported_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let version = dir.path().join("db/version");
    std::fs::write(&version, b"not what was written").unwrap();
    let error = EmbeddedStore::open(options(dir.path())).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Corrupt { .. } | StoreError::Format { .. }
        ),
        "{error}"
    );
    assert_eq!(std::fs::read(&version).unwrap(), b"not what was written");
}

#[tokio::test]
async fn a_damaged_table_is_reported_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for at in 0..50 {
        let record = vec![at; 1000];
        store
            .apply(one(DID, &format!("r{at}"), Tid::new(1, 0), Some(&record)))
            .await
            .unwrap();
    }
    store.compact().unwrap();
    store.close().await.unwrap();

    let tables = std::fs::read_dir(dir.path().join("db/keyspaces")).unwrap();
    let tables = tables
        .flat_map(|keyspace| std::fs::read_dir(keyspace.unwrap().path().join("tables")).unwrap());
    let largest = tables
        .map(|table| table.unwrap().path())
        .max_by_key(|path| path.metadata().unwrap().len());
    let largest = largest.unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    for byte in bytes.iter_mut().take(2000) {
        *byte ^= 0x55;
    }
    std::fs::write(&largest, &bytes).unwrap();

    let store = EmbeddedStore::open(options(dir.path()));
    let error = match store {
        Ok(store) => store.record(DID, POST, "r0").await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert_eq!(std::fs::read(&largest).unwrap(), bytes);
}

/// Runs [`in_another_process`] in a process of its own.
fn other_process(dir: &Path, what: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "in_another_process", "--ignored", "--nocapture"])
        .env("STORE_TEST_DIR", dir)
        .env("STORE_TEST_WHAT", what)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "a part of other tests"]
async fn in_another_process() {
    let Ok(dir) = std::env::var("STORE_TEST_DIR") else {
        return;
    };
    let store = Arc::new(open(Path::new(&dir)));
    println!("\nopen");
    if std::env::var("STORE_TEST_WHAT").as_deref() == Ok("hold") {
        std::io::stdin().read_line(&mut String::new()).unwrap();
        return;
    }
    for number in 0_u64.. {
        let rkey = format!("r{number}");
        store
            .apply(one(DID, &rkey, Tid::new(number, 0), Some(rkey.as_bytes())))
            .await
            .unwrap();
        println!("acknowledged {number}");
        std::io::stdout().flush().unwrap();
    }
}

fn wait_for_line(child: &mut Child, wanted: &str) -> BufReader<std::process::ChildStdout> {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line.trim() != wanted {
        line.clear();
        assert_ne!(
            lines.read_line(&mut line).unwrap(),
            0,
            "ended before {wanted:?}"
        );
    }
    lines
}

#[test]
fn a_store_that_is_open_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let locked = StoreError::Locked(dir.path().display().to_string());
    let store = open(dir.path());
    assert_eq!(
        EmbeddedStore::open(options(dir.path())).err(),
        Some(locked.clone())
    );
    drop(store);

    let mut child = other_process(dir.path(), "hold");
    let lines = wait_for_line(&mut child, "open");
    assert_eq!(EmbeddedStore::open(options(dir.path())).err(), Some(locked));
    drop((child.stdin.take(), lines));
    child.wait().unwrap();
    drop(open(dir.path()));
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_killed_process() {
    let dir = tempfile::tempdir().unwrap();
    for last in [0, 3, 50] {
        let mut child = other_process(dir.path(), "write");
        let lines = wait_for_line(&mut child, &format!("acknowledged {last}"));
        child.kill().unwrap();
        child.wait().unwrap();
        drop(lines);
        let store = open(dir.path());
        for number in 0..=last {
            let rkey = format!("r{number}");
            let record = store.record(DID, POST, &rkey).await.unwrap();
            assert_eq!(record.map(|record| record.record), Some(rkey.into_bytes()));
        }
    }
}

#[tokio::test]
async fn the_quarantine_keeps_its_bounds() {
    contract::quarantine_keeps_its_bounds(&MemoryStore::with_quarantine_max(100), Kind::Local)
        .await;
    let dir = tempfile::tempdir().unwrap();
    let bounded = EmbeddedOptions {
        quarantine_max_bytes: 100,
        ..options(dir.path())
    };
    let store = EmbeddedStore::open(bounded).unwrap();
    contract::quarantine_keeps_its_bounds(&store, Kind::Local).await;
    drop(store);
    let store = EmbeddedStore::open(EmbeddedOptions {
        quarantine_max_bytes: 40,
        ..options(dir.path())
    });
    let store = store.unwrap();
    assert_eq!(
        store.health().await.unwrap().quarantine_bytes,
        30,
        "kept, and cut to the new bound"
    );
}

#[tokio::test]
async fn repairs_are_not_overwritten_and_facts_grow() {
    contract::repairs_and_facts(&MemoryStore::new(), Kind::Local).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    contract::repairs_and_facts(&store, Kind::Local).await;
    drop(store);
    let store = open(dir.path());
    contract::repairs_and_facts_are_kept(&store, Kind::Local).await;
}

#[tokio::test]
async fn a_reactivation_asks_for_content() {
    contract::accounts::a_reactivation_asks_for_content(&MemoryStore::new(), Kind::Local).await;
    let dir = tempfile::tempdir().unwrap();
    contract::accounts::a_reactivation_asks_for_content(&open(dir.path()), Kind::Local).await;
}

#[tokio::test]
async fn merged_facts_go_and_grown_ones_stay() {
    contract::merged_facts_go(&MemoryStore::new()).await;
    let dir = tempfile::tempdir().unwrap();
    contract::merged_facts_go(&open(dir.path())).await;
}

#[tokio::test]
async fn merges_of_the_ledger_lose_nothing() {
    contract::merges::merged_facts_are_one(&MemoryStore::new()).await;
    let dir = tempfile::tempdir().unwrap();
    contract::merges::merged_facts_are_one(&open(dir.path())).await;
    for _ in 0..10 {
        contract::merges::merges_lose_nothing(&MemoryStore::new(), 20).await;
    }
    let dir = tempfile::tempdir().unwrap();
    contract::merges::merges_lose_nothing(&open(dir.path()), 30).await;
}

#[tokio::test]
async fn what_no_key_can_hold_is_refused_and_the_store_goes_on() {
    contract::bad_keys_are_refused(&MemoryStore::new()).await;
    let dir = tempfile::tempdir().unwrap();
    contract::bad_keys_are_refused(&open(dir.path())).await;
}

#[tokio::test]
async fn pages_end_early_where_values_are_large() {
    let dir = tempfile::tempdir().unwrap();
    let pages = contract::pages_of_large_values(&open(dir.path())).await;
    assert_eq!(pages, [3, 1]);
}

#[tokio::test]
async fn late_writes_stay_hidden() {
    contract::late_writes_stay_hidden(Memory::empty()).await;
    contract::late_writes_stay_hidden(Embedded::empty().await).await;
}

/// Runs this over a new store of each kind.
async fn over_each(body: impl AsyncFn(&dyn Store)) {
    body(&MemoryStore::new()).await;
    body(&**Embedded::empty().await.open()).await;
}

#[tokio::test]
async fn jobs_are_compared_and_set() {
    over_each(contract::kept::jobs_are_compared_and_set).await;
}

#[tokio::test]
async fn jobs_are_listed() {
    over_each(contract::kept::jobs_are_listed).await;
}

#[tokio::test]
async fn failures_are_kept_by_job() {
    over_each(contract::kept::failures_are_kept_by_job).await;
}

#[tokio::test]
async fn choices_are_kept_by_kind() {
    over_each(contract::kept::choices_are_kept_by_kind).await;
}

#[tokio::test]
async fn repairs_are_found_by_repository() {
    over_each(contract::kept::repairs_are_found_by_repository).await;
}

#[tokio::test]
async fn hosts_are_noted() {
    contract::kept::hosts_are_noted(Memory::empty()).await;
    contract::kept::hosts_are_noted(Embedded::empty().await).await;
}

#[tokio::test]
async fn jobs_and_choices_are_kept() {
    contract::kept::jobs_and_choices_are_kept(Memory::empty()).await;
    contract::kept::jobs_and_choices_are_kept(Embedded::empty().await).await;
}

#[tokio::test]
async fn large_rows_are_refused() {
    over_each(contract::kept::large_rows_are_refused).await;
}

/// Stores were made without jobs once.
#[tokio::test]
async fn a_store_without_keyspaces_for_jobs_opens() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let batch = one(DID, "self", Tid::new(5, 1), Some(b"kept"));
    store.apply(batch).await.unwrap();
    drop(store);
    let db = fjall::Database::builder(dir.path().join("db"))
        .open()
        .unwrap();
    for name in ["jobs", "job_failures", "choices"] {
        assert!(db.keyspace_exists(name), "{name}");
        let keyspace = db.keyspace(name, fjall::KeyspaceCreateOptions::default);
        db.delete_keyspace(keyspace.unwrap()).unwrap();
    }
    drop(db);
    let store = open(dir.path());
    let record = store.record(DID, POST, "self").await.unwrap();
    assert!(record.is_some());
    contract::kept::jobs_are_compared_and_set(&store).await;
}
