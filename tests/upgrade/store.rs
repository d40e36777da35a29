//! The embedded store of each format.

use std::fs;
use std::path::{Path, PathBuf};

use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use penstock::store::{Store, StoreError};
use serde_json::Value;
use tempfile::TempDir;

use crate::content::{ALICE, BOB, CAROL, LIKE, POST, fact, put, rev};
use crate::installed::get;
use crate::keeping::{PACK, UNPACK, format, installation, make, open, tar, told};
use crate::{blesses, folder};

/// Bytes of one that is kept.
const MOST: u64 = 200 << 10;

/// The names of those that are kept, as in `store-1`.
fn kept() -> Vec<String> {
    let files = fs::read_dir(folder()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter_map(|name| name.strip_suffix(".tar.gz").map(str::to_owned))
        .collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

fn file(name: &str, extension: &str) -> PathBuf {
    folder().join(format!("{name}.{extension}"))
}

/// A copy of one.
fn unpacked(name: &str) -> (TempDir, PathBuf) {
    let home = TempDir::new().unwrap();
    tar(UNPACK, &file(name, "tar.gz"), home.path());
    let data = home.path().join("data");
    (home, data)
}

fn lines(name: &str) -> Vec<String> {
    let text = fs::read_to_string(file(name, "jsonl")).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Makes it where it is not kept yet.
async fn keep(name: &str) {
    let home = TempDir::new().unwrap();
    let data = home.path().join("data");
    make(&data).await;
    tar(PACK, &file(name, "tar.gz"), home.path());
    let store = open(&data);
    let mut text = told(&store).await.join("\n");
    text.push('\n');
    fs::write(file(name, "jsonl"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_format_of_today_is_kept() {
    let home = TempDir::new().unwrap();
    let data = home.path().join("data");
    open(&data).close().await.unwrap();
    let format = format(&data);
    let number = format
        .strip_prefix("penstock embedded store, format ")
        .unwrap();
    let name = format!("store-{number}");
    if blesses() && !file(&name, "tar.gz").exists() {
        keep(&name).await;
    }
    let size = fs::metadata(file(&name, "tar.gz")).map(|file| file.len());
    let size = size.unwrap_or_else(|error| {
        panic!("{name}: {error}; keep one: PENSTOCK_BLESS=1 cargo test --test upgrade today")
    });
    assert!(size <= MOST, "{size}");
}

#[tokio::test]
async fn a_store_that_was_kept_has_all_and_goes_on() {
    for name in kept() {
        let (_home, data) = unpacked(&name);
        let store = open(&data);
        assert_eq!(told(&store).await, lines(&name), "{name}");
        what_is_gone_stays_gone(&*store).await;
        assert_eq!(told(&store).await, lines(&name), "{name}");
        write(&*store).await;
        assert_written(&*store).await;
        store.close().await.unwrap();
        assert_written(&*open(&data)).await;
    }
}

/// What a replay may bring again: below a delete, a floor, a snapshot, a newer version.
async fn what_is_gone_stays_gone(store: &dyn Store) {
    for (did, collection, rkey, at) in [
        (BOB, POST, "gone", 30),
        (BOB, POST, "late", 5),
        (ALICE, LIKE, "late", 45),
        (ALICE, POST, "late", 50),
        (ALICE, POST, "3mwgncrrtze27", 59),
    ] {
        put(store, (did, collection, rkey), rev(at), Some("late")).await;
    }
}

async fn write(store: &dyn Store) {
    put(
        store,
        (ALICE, POST, "3mwgncrrtze27"),
        rev(70),
        Some("edited"),
    )
    .await;
    put(store, (BOB, LIKE, "old"), rev(71), None).await;
    put(store, (CAROL, POST, "new"), rev(72), Some("new")).await;
    store.put_facts(&[fact(6, 100, 120)]).await.unwrap();
}

async fn assert_written(store: &dyn Store) {
    let text = async |did, collection, rkey| {
        let record = store.record(did, collection, rkey).await.unwrap();
        record.map(|record| String::from_utf8(record.record).unwrap())
    };
    let edited = text(ALICE, POST, "3mwgncrrtze27").await;
    assert_eq!(edited.as_deref(), Some("edited"));
    assert_eq!(text(BOB, LIKE, "old").await, None);
    assert_eq!(text(CAROL, POST, "new").await.as_deref(), Some("new"));
    assert!(store.facts().await.unwrap().contains(&fact(6, 100, 120)));
}

/// The daemon itself: it reads the jobs that were kept, and works on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_takes_over_a_store_that_was_kept() {
    for name in kept() {
        let (_home, data) = unpacked(&name);
        let installation = installation(&data);
        let mut daemon = installation.start();
        daemon.address().await;
        let ask = async |path: &str| -> Value {
            let answer = get(&installation.socket(), path).await.unwrap();
            serde_json::from_str(&answer).unwrap()
        };
        let jobs = ask("/admin/backfill/status").await;
        let mut jobs = jobs.as_array().unwrap().iter();
        let job = jobs.find(|job| job["type"] == "repos").unwrap().clone();
        assert_eq!(job["status"], "completed", "{job}");
        assert_eq!(
            (&job["total_repos"], &job["failed_repos"]),
            (&1.into(), &1.into())
        );
        let errors = format!("/admin/backfill/{}/errors", job["id"].as_str().unwrap());
        let errors = ask(&errors).await;
        assert_eq!(
            errors["errors"].as_array().map(Vec::len),
            Some(1),
            "{errors}"
        );
        let record = ["get", &format!("at://{CAROL}/{POST}/self")];
        installation.prints(&record).await;
        daemon.stop().await;
    }
}

fn say_format(data: &Path, format: &str) {
    let db = fjall::Database::builder(data.join("db")).open().unwrap();
    let options = fjall::KeyspaceCreateOptions::default;
    let meta = db.keyspace("meta", options).unwrap();
    meta.insert("format", format).unwrap();
    db.persist(fjall::PersistMode::SyncAll).unwrap();
}

/// As after going back to a build that is older than the store.
#[tokio::test]
async fn a_newer_format_is_refused_and_left_as_it_is() {
    let name = kept().pop().unwrap();
    let (_home, data) = unpacked(&name);
    let own = format(&data);
    say_format(&data, "penstock embedded store, format 99");
    let opened = EmbeddedStore::open(EmbeddedOptions::new(&data));
    let error = opened.map(drop).expect_err("it opens");
    assert!(matches!(error, StoreError::Format { .. }), "{error:?}");
    for args in [vec!["run"], vec!["repos"]] {
        let ended = installation(&data).run(&args).await;
        assert_eq!(ended.code, Some(1), "{args:?}: {}", ended.words);
        for words in ["format 99", &own, "use the build that wrote it"] {
            assert!(ended.words.contains(words), "{words}: {}", ended.words);
        }
    }
    say_format(&data, &own);
    assert_eq!(told(&open(&data)).await, lines(&name));
}
