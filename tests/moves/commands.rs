//! `penstock dump --full` and `penstock import`, as people run them.

use std::fs::{self, File};
use std::process::Stdio;

use penstock::store::Store;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use tempfile::TempDir;

use super::content::{contents, fill};
use super::installed::{Ended, Installation};

const NOWHERE: &str = "ws://127.0.0.1:1";

fn open(installation: &Installation) -> EmbeddedStore {
    let options = EmbeddedOptions {
        min_free: 0,
        ..EmbeddedOptions::new(installation.data())
    };
    EmbeddedStore::open(options).unwrap()
}

#[track_caller]
fn ended(ended: &Ended, code: i32, says: &str) {
    assert_eq!(ended.code, Some(code), "{}", ended.words);
    assert!(ended.words.contains(says), "{says:?} in {:?}", ended.words);
}

#[tokio::test]
async fn a_store_is_dumped_and_imported() {
    let folder = TempDir::new().unwrap();
    let (old, new) = (
        Installation::following(NOWHERE),
        Installation::following(NOWHERE),
    );
    ended(&old.run(&["dump", "--full"]).await, 1, "no store in");
    assert!(!old.data().exists());
    let store = open(&old);
    fill(&store).await;
    let held = contents(&store).await;
    for args in [&["dump", "--full"][..], &["import", "/dev/null"]] {
        ended(&old.run(args).await, 75, "stop the daemon first");
    }
    store.close().await.unwrap();

    let dumped = old.run(&["dump", "--full"]).await;
    ended(
        &dumped,
        0,
        "dumped 10 records, 6 repos, 3 quarantined frames, 4 repairs, 3 choices, 5 facts in ",
    );
    let file = folder.path().join("full.jsonl");
    let name = file.to_str().unwrap();
    ended(&new.run(&["import", name]).await, 1, "No such file");
    assert!(!new.data().exists());
    let cut = &dumped.out[..dumped.out.len() - 5];
    fs::write(&file, cut).unwrap();
    ended(
        &new.run(&["import", name]).await,
        1,
        "full.jsonl: line 33: the line has no end",
    );
    fs::write(&file, &dumped.out).unwrap();
    ended(
        &new.run(&["import", name]).await,
        0,
        "imported 10 records, 6 repos, 3 quarantined frames",
    );
    let mut piped = new.command(&["import", "-"]);
    piped.stdin(Stdio::from(File::open(&file).unwrap()));
    let again = piped.output().await.unwrap();
    assert!(
        again.status.success(),
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );

    let store = open(&new);
    assert_eq!(contents(&store).await, held);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_full_dump_has_no_parts() {
    let penstock = Installation::following(NOWHERE);
    for part in [
        &["--did", "did:plc:a"][..],
        &["--collection", "a.b.c"],
        &["--no-value"],
        &["--active"],
    ] {
        let args = [&["dump", "--full"], part].concat();
        ended(&penstock.run(&args).await, 1, "cannot be used with");
    }
}

#[tokio::test]
async fn a_reader_that_leaves_early_has_no_dump() {
    let penstock = Installation::following(NOWHERE);
    let store = open(&penstock);
    fill(&store).await;
    store.close().await.unwrap();
    let mut child = penstock
        .command(&["dump", "--full"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let left = child.wait_with_output().await.unwrap();
    assert_eq!(left.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&left.stderr).contains("not whole"));
}
