//! How a store is kept: what is put into it, and what it says then.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use axum::Router;
use fjall::KeyspaceCreateOptions;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use penstock::store::{ChoiceKind, Store};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::content::{ALICE, POST, dump, fill, lines, put, rev};
use crate::installed::Installation;

/// What `tar` is told; the file first, then the folder that holds `data`.
pub const PACK: &str = "czf";
pub const UNPACK: &str = "xzf";

pub fn tar(how: &str, file: &Path, home: &Path) {
    let mut command = Command::new("tar");
    command.arg(how).arg(file).arg("-C").arg(home);
    if how == PACK {
        command.args(["--owner=0", "--group=0", "--exclude=*.sock", "data"]);
    }
    let status = command.status().expect("tar is there");
    assert!(status.success(), "tar {how} {}: {status}", file.display());
}

pub fn open(data: &Path) -> Arc<dyn Store> {
    let options = EmbeddedOptions {
        min_free: 0,
        ..EmbeddedOptions::new(data)
    };
    Arc::new(EmbeddedStore::open(options).unwrap_or_else(|error| panic!("{error}")))
}

/// What the database itself says of its format, as in `penstock embedded store, format 1`.
pub fn format(data: &Path) -> String {
    let db = fjall::Database::builder(data.join("db")).open().unwrap();
    let meta = db.keyspace("meta", KeyspaceCreateOptions::default).unwrap();
    let format = meta.get("format").unwrap().unwrap();
    String::from_utf8(format.to_vec()).unwrap()
}

/// A daemon that finds no relay and no directory, over this data.
pub fn installation(data: &Path) -> Installation {
    Installation::following("ws://127.0.0.1:1").in_folder(data)
}

/// A store with something of everything, in files and in the journal, that a daemon has worked on: with a job, and what failed of it.
pub async fn make(data: &Path) {
    let store = open(data);
    fill(&*store).await;
    store.close().await.unwrap();
    write_files(data);
    let store = open(data);
    put(
        &*store,
        (ALICE, POST, "later"),
        rev(65),
        Some("in the journal"),
    )
    .await;
    store.close().await.unwrap();

    let installation = installation(data)
        .with("PENSTOCK_BACKFILL__ATTEMPTS", "1")
        .with("PLC_URL", &directory_of_nobody().await);
    let mut daemon = installation.start();
    daemon.address().await;
    let did = "did:plc:nobodyisnobodyisnobodyis";
    let job = installation
        .run(&["backfill", "start", "--did", did, "--wait"])
        .await;
    assert_eq!(job.code, Some(1), "one repository failed: {}", job.words);
    daemon.stop().await;
}

/// A PLC directory that knows no DID, for as long as the test's runtime lives.
async fn directory_of_nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new()).await.unwrap() });
    url
}

/// Writes what is in memory to files.
fn write_files(data: &Path) {
    let db = fjall::Database::builder(data.join("db")).open().unwrap();
    for name in db.list_keyspace_names() {
        let keyspace = db.keyspace(&name, KeyspaceCreateOptions::default).unwrap();
        keyspace.rotate_memtable_and_wait().unwrap();
    }
}

/// All that a store says, a line each, without what is of the moment.
pub async fn told(store: &Arc<dyn Store>) -> Vec<String> {
    let dump = dump(store).await;
    let mut told: Vec<Value> = lines(&dump)
        .iter()
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    for line in &mut told {
        let line = line.as_object_mut().unwrap();
        line.remove("check");
        if line["type"] == "penstock-dump" {
            line.remove("version");
        }
    }
    told.extend(beside_a_dump(&**store).await);
    let mut told: Vec<String> = told.iter().map(Value::to_string).collect();
    told.sort();
    told
}

/// What a dump does not have.
async fn beside_a_dump(store: &dyn Store) -> Vec<Value> {
    let json_of = |body: &[u8]| -> Value { serde_json::from_slice(body).unwrap() };
    let mut told = Vec::new();
    for job in store.jobs(None, 1000).await.unwrap().items {
        told.push(
            json!({"type": "job", "id": job.id, "epoch": job.epoch, "body": json_of(&job.body)}),
        );
        for failure in store.failures(job.id, None, 1000).await.unwrap().items {
            let (did, collection) = (failure.did, failure.collection);
            let body = json_of(&failure.body);
            told.push(json!({"type": "failure", "job": job.id, "did": did, "collection": collection, "body": body}));
        }
    }
    for kind in [ChoiceKind::JobDids, ChoiceKind::Mark] {
        for choice in store.choices(kind, "", None, 1000).await.unwrap().items {
            let body = String::from_utf8(choice.body).unwrap();
            told.push(json!({"type": "choice beside", "name": choice.name, "body": body}));
        }
    }
    for repo in store.repos(None, 1000).await.unwrap().items {
        told.push(json!({"type": "pds", "did": repo.did, "pds": repo.pds}));
    }
    for entry in store.newest(POST, 1000, None).await.unwrap().items {
        told.push(json!({"type": "newest", "did": entry.did, "rkey": entry.rkey, "cid": entry.cid.to_string()}));
    }
    told
}
