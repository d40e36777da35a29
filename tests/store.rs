//! The embedded store where things go wrong: killed, locked, foreign, damaged; and its bounds.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use penstock::decode::{Cid, Tid};
use penstock::slot::SlotSet;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use penstock::store::memory::MemoryStore;
use penstock::store::{
    Fact, FactKind, Quarantined, RecordBody, RecordWrite, RecordsQuery, Removal, Repair,
    RepairKind, RepoStatus, Scope, StatusWrite, Store, StoreError, WriteBatch,
};

const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
const POST: &str = "app.bsky.feed.post";

fn options(dir: &Path) -> EmbeddedOptions {
    EmbeddedOptions {
        min_free: 0,
        ..EmbeddedOptions::new(dir)
    }
}

fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(options(dir)).unwrap()
}

fn put(batch: &mut WriteBatch, did: &str, rkey: &str, rev: Tid, record: Option<&[u8]>) {
    batch.put_record(RecordWrite {
        did,
        collection: POST,
        rkey,
        version: rev.micros(),
        rev,
        body: record.map(|record| RecordBody {
            cid: Cid::of_dag_cbor(record),
            record,
            json: None,
        }),
    });
}

fn one(did: &str, rkey: &str, rev: Tid, record: Option<&[u8]>) -> WriteBatch {
    let mut batch = WriteBatch::new();
    put(&mut batch, did, rkey, rev, record);
    batch
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

async fn quarantine_keeps_its_bounds(store: &dyn Store) {
    let mut batch = WriteBatch::new();
    for number in [3, 1, 2, 4, 4, 1] {
        batch.put_quarantined(frame(number, 30));
    }
    let batch = store.apply(batch).await.unwrap();
    assert_eq!(store.health().await.unwrap().quarantine_bytes, 90, "of 100");
    let mut batch = batch;
    batch.put_quarantined(frame(1, 30));
    store.apply(batch).await.unwrap();
    assert_eq!(
        store.health().await.unwrap().quarantine_bytes,
        90,
        "the same again"
    );

    let page = store.quarantine(None, 3).await.unwrap();
    let seen: Vec<_> = page
        .items
        .iter()
        .map(|row| (row.received, row.evicted))
        .collect();
    assert_eq!(seen, [(1, true), (2, false), (3, false)]);
    let rest = store.quarantine(page.cursor.as_deref(), 3).await.unwrap();
    assert_eq!((rest.items.len(), rest.cursor), (1, None));
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
    assert_eq!(store.health().await.unwrap().quarantine_bytes, 60);
    assert_eq!(store.quarantined(&frame(2, 0).id).await.unwrap(), None);
}

#[tokio::test]
async fn the_quarantine_keeps_its_bounds() {
    quarantine_keeps_its_bounds(&MemoryStore::with_quarantine_max(100)).await;
    let dir = tempfile::tempdir().unwrap();
    let bounded = EmbeddedOptions {
        quarantine_max_bytes: 100,
        ..options(dir.path())
    };
    let store = EmbeddedStore::open(bounded).unwrap();
    quarantine_keeps_its_bounds(&store).await;
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

fn repair(did: &str, id: &str, reason: &str) -> Repair {
    Repair {
        did: did.to_owned(),
        id: id.to_owned(),
        kind: RepairKind::Status,
        reason: reason.to_owned(),
        version: 7,
    }
}

fn fact(from_seq: u64, to_seq: u64) -> Fact {
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

async fn repairs_and_facts(store: &dyn Store) {
    let said = |version, active, id: &str| StatusWrite {
        did: DID.to_owned(),
        version,
        status: RepoStatus {
            active,
            status: None,
        },
        repair_if_stale: Some(repair(DID, id, "stale")),
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
    let counts = store.health().await.unwrap().repairs;
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [("cbor".into(), 1), ("stale".into(), 2)]
    );
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
    assert_eq!(store.health().await.unwrap().repairs.len(), 1);

    store
        .put_facts(&[fact(10, 20), fact(0, 5), fact(10, 15)])
        .await
        .unwrap();
    store.put_facts(&[fact(0, 9), fact(10, 12)]).await.unwrap();
    assert_eq!(store.facts().await.unwrap(), [fact(0, 9), fact(10, 20)]);
}

#[tokio::test]
async fn repairs_are_not_overwritten_and_facts_grow() {
    repairs_and_facts(&MemoryStore::new()).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    repairs_and_facts(&store).await;
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.health().await.unwrap().repairs.get("stale"), Some(&2));
    assert_eq!(store.facts().await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_no_key_can_hold_is_refused_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
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
}

#[tokio::test]
async fn pages_end_early_where_values_are_large() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let large = vec![7; 6 << 20];
    for rkey in ["a", "b", "c", "d"] {
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
    let page = store.records(&query).await.unwrap();
    assert_eq!(page.items.len(), 3);
    query.cursor = page.cursor;
    let page = store.records(&query).await.unwrap();
    assert_eq!((page.items.len(), page.cursor), (1, None));
}
