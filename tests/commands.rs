//! The commands that read, as users run them: beside a daemon (its socket, here over the store in memory) and without one.

mod http;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use http::{ALICE, BOB, HOUR, NOW, Retrier, Site, cid, put, rev, status};
use penstock::api::UnixSocket;
use penstock::slot::SlotSet;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use penstock::store::memory::MemoryStore;
use penstock::store::{Fact, FactKind, HandleWrite, Quarantined, Store, WriteBatch};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

const POST: &str = "app.bsky.feed.post";
const LIKE: &str = "app.bsky.feed.like";

/// How a command ended.
struct Ended {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl Ended {
    fn lines(&self) -> Vec<Value> {
        let lines = self.out.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    #[track_caller]
    fn ended(&self, code: i32, says: &str) {
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert!(self.err.contains(says), "{:?} in {:?}", says, self.err);
    }
}

fn penstock(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("DATA_DIR", dir.join("data"))
        .env("PENSTOCK_QUARANTINE__MAX_BYTES", "8")
        .stdin(Stdio::null());
    command
}

async fn run(dir: &Path, args: &[&str]) -> Ended {
    let output = penstock(dir, args).output().await.unwrap();
    Ended {
        code: output.status.code(),
        out: output.stdout,
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

struct Daemon {
    dir: tempfile::TempDir,
    site: Site,
    stop: CancellationToken,
}

impl Daemon {
    /// A site on the socket that the configuration names.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let path = dir.path().join("data/penstock.sock");
        let store = Arc::new(MemoryStore::with_quarantine_max(8));
        let site = Site::with(store.clone(), Some(Arc::new(Retrier(store)))).await;
        let socket = UnixSocket::bind(&path).await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(socket.serve(site.router.clone(), stop.clone()));
        Self { dir, site, stop }
    }

    fn store(&self) -> &MemoryStore {
        &self.site.store
    }

    async fn run(&self, args: &[&str]) -> Ended {
        run(self.dir.path(), args).await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn fill(store: &dyn Store) {
    put(store, BOB, POST, "b", 1, &json!({"text": "bob's"})).await;
    put(
        store,
        ALICE,
        POST,
        "p",
        2,
        &json!({"text": "with\nnewline"}),
    )
    .await;
    put(store, ALICE, LIKE, "l", 3, &json!({"n": 1})).await;
    status(store, BOB, 1, false, Some("takendown")).await;
    let mut batch = WriteBatch::new();
    batch.put_handle(HandleWrite {
        did: ALICE.to_owned(),
        version: 1,
        handle: "alice.test".to_owned(),
    });
    for (id, raw) in [
        ("20261123-00-a", "evicted"),
        ("20261123-00-b", "bad\n"),
        ("20261123-00-c", "good"),
    ] {
        batch.put_quarantined(Quarantined {
            id: id.to_owned(),
            received: 1_790_437_941_000_000,
            reason: "bad_cbor".to_owned(),
            detail: "it ends early".to_owned(),
            raw: raw.as_bytes().to_vec(),
            ..Quarantined::default()
        });
    }
    store.apply(batch).await.unwrap();
}

fn row(did: &str, collection: &str, rkey: &str, at: u64, value: Value) -> Value {
    json!({
        "did": did, "collection": collection, "rkey": rkey, "cid": cid(&value), "rev": rev(at),
        "value": value,
    })
}

/// What `get`, `dump` and `repos` say of what [`fill`] wrote, whichever way they read.
async fn check_reads(dir: &Path) {
    let value = json!({"text": "with\nnewline"});
    let uri = format!("at://{ALICE}/{POST}/p");
    let got = run(dir, &["get", &uri]).await;
    got.ended(0, "");
    assert_eq!(got.err, "");
    assert_eq!(
        got.lines(),
        [json!({"uri": uri, "cid": cid(&value), "rev": rev(2), "value": value})]
    );
    run(dir, &["get", &format!("{uri}x")])
        .await
        .ended(1, "is not held");
    run(dir, &["get", "at://alice.test/a.b.c/d"])
        .await
        .ended(1, "handles are not resolved");
    let hidden = run(dir, &["get", &format!("at://{BOB}/{POST}/b")]).await;
    hidden.ended(0, "not active (takendown)");
    assert_eq!(hidden.lines()[0]["value"], json!({"text": "bob's"}));

    let like = row(ALICE, LIKE, "l", 3, json!({"n": 1}));
    let post = row(ALICE, POST, "p", 2, value);
    let bobs = row(BOB, POST, "b", 1, json!({"text": "bob's"}));
    let dump = async |args: &[&str]| {
        let ended = run(dir, &[&["dump"], args].concat()).await;
        ended.ended(0, "");
        ended.lines()
    };
    assert_eq!(dump(&[]).await, [like.clone(), post.clone(), bobs.clone()]);
    assert_eq!(dump(&["--active"]).await, [like.clone(), post.clone()]);
    assert_eq!(dump(&["--collection", POST]).await, [post, bobs.clone()]);
    assert_eq!(dump(&["--did", BOB]).await, [bobs]);
    assert!(dump(&["--did", BOB, "--collection", LIKE]).await.is_empty());
    let mut bare = like;
    bare.as_object_mut().unwrap().remove("value");
    assert_eq!(dump(&["--no-value", "--collection", LIKE]).await, [bare]);
    run(dir, &["dump", "--did", "bob"])
        .await
        .ended(1, "\"bob\"");

    let alice = json!({
        "did": ALICE, "handle": "alice.test", "active": true, "status": null, "rev": rev(3),
        "pds": null, "complete_rev": null,
    });
    let bob = json!({
        "did": BOB, "handle": null, "active": false, "status": "takendown", "rev": rev(1),
        "pds": null, "complete_rev": null,
    });
    assert_eq!(run(dir, &["repos"]).await.lines(), [alice, bob.clone()]);
    assert_eq!(run(dir, &["repos", "--did", BOB]).await.lines(), [bob]);
    run(dir, &["repos", "--did", "did:web:x.test"])
        .await
        .ended(1, "did:web:x.test");

    let list = run(dir, &["quarantine", "list"]).await;
    list.ended(0, "");
    let evicted: Vec<bool> = list
        .lines()
        .iter()
        .map(|row| row["evicted"] == true)
        .collect();
    assert_eq!(evicted, [true, false, false]);
    let shown = run(dir, &["quarantine", "show", "20261123-00-b"]).await;
    assert_eq!(shown.lines()[0]["raw"], "YmFkCg==");
    assert_eq!(shown.lines()[0]["detail"], "it ends early");
    let raw = run(dir, &["quarantine", "show", "20261123-00-b", "--raw"]).await;
    raw.ended(0, "");
    assert_eq!(raw.out, b"bad\n");
    let dropped = run(dir, &["quarantine", "show", "20261123-00-a", "--raw"]).await;
    dropped.ended(1, "were dropped");
    for missing in ["nothing", "..", "a/b"] {
        let ended = run(dir, &["quarantine", "show", missing]).await;
        ended.ended(1, "NotFound");
    }
}

#[tokio::test]
async fn commands_read_from_a_running_daemon() {
    let daemon = Daemon::start().await;
    fill(daemon.store()).await;
    check_reads(daemon.dir.path()).await;
}

#[tokio::test]
async fn the_daemon_retries_for_the_command() {
    let daemon = Daemon::start().await;
    fill(daemon.store()).await;
    let bad = daemon
        .run(&["quarantine", "retry", "20261123-00-b", "nothing"])
        .await;
    bad.ended(1, "2 of 2 frames were not taken in");
    let outcomes: Vec<Value> = bad
        .lines()
        .iter()
        .map(|row| row["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["refused", "not_found"]);
    daemon
        .run(&["quarantine", "retry", "20261123-00-c"])
        .await
        .ended(0, "");
    assert!(
        daemon
            .store()
            .quarantined("20261123-00-c")
            .await
            .unwrap()
            .is_none()
    );
    let all = daemon.run(&["quarantine", "retry", "--all"]).await;
    all.ended(1, "2 of 2");
    assert_eq!(all.lines().len(), 2);
}

#[tokio::test]
async fn a_long_dump_is_whole_and_may_be_left_early() {
    let daemon = Daemon::start().await;
    for n in 0..3500 {
        let did = format!("did:web:host{:02}.test", n % 10);
        put(
            daemon.store(),
            &did,
            POST,
            &format!("k{n:04}"),
            n + 1,
            &json!({"n": n}),
        )
        .await;
    }
    let lines = daemon.run(&["dump"]).await.lines();
    assert_eq!(lines.len(), 3500);
    let key = |line: &Value| (line["did"].to_string(), line["rkey"].to_string());
    assert!(lines.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])));

    let mut child = penstock(daemon.dir.path(), &["dump"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut start = [0; 10];
    child
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut start)
        .await
        .unwrap();
    let left = child.wait_with_output().await.unwrap();
    assert_eq!(left.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&left.stderr), "");
}

#[tokio::test]
async fn no_command_makes_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("at://{ALICE}/{POST}/p");
    for args in [
        &["dump"][..],
        &["repos"],
        &["get", &uri],
        &["quarantine", "list"],
        &["gaps"],
    ] {
        let ended = run(dir.path(), args).await;
        ended.ended(1, "store.embedded.dir");
        assert!(ended.err.contains("data"), "{}", ended.err);
        assert!(!dir.path().join("data").exists());
    }
    std::fs::create_dir(dir.path().join("data")).unwrap();
    run(dir.path(), &["dump"])
        .await
        .ended(1, "there is no store");
    assert_eq!(
        std::fs::read_dir(dir.path().join("data")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn a_daemon_that_hangs_up_means_try_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("other.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let set = format!("http.socket={}", socket.display());
    let ended = run(dir.path(), &["dump", "--set", &set]).await;
    ended.ended(75, "does not answer on its socket");
}

#[tokio::test]
async fn commands_open_the_store_where_no_daemon_runs() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let options = || EmbeddedOptions {
        min_free: 0,
        quarantine_max_bytes: 8,
        ..EmbeddedOptions::new(&data)
    };
    let store = EmbeddedStore::open(options()).unwrap();
    fill(&store).await;

    // In use, and nobody answers.
    for args in [&["dump"][..], &["repos"], &["quarantine", "list"]] {
        let ended = run(dir.path(), args).await;
        ended.ended(75, "in use by another process");
        assert!(ended.err.contains("penstock.sock"), "{}", ended.err);
    }
    store.close().await.unwrap();
    drop(store);
    check_reads(dir.path()).await;

    // What a killed daemon leaves behind is no hindrance.
    drop(std::os::unix::net::UnixListener::bind(data.join("penstock.sock")).unwrap());
    assert_eq!(run(dir.path(), &["dump"]).await.lines().len(), 3);
}

#[tokio::test]
async fn a_store_that_fails_is_named_to_its_operator_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(EmbeddedOptions {
        min_free: 0,
        ..EmbeddedOptions::new(dir.path())
    });
    let store = Arc::new(store.unwrap());
    store.close().await.unwrap();
    let site = Site::over(store).await;
    let public = format!("/xrpc/com.atproto.sync.getRepoStatus?did={ALICE}");
    site.get(&public)
        .await
        .is_error(503, "StoreUnavailable", "the log of the daemon");
    site.get("/xrpc/com.atproto.sync.listRepos")
        .await
        .is_error(503, "StoreUnavailable", "log");
    site.get("/admin/repos")
        .await
        .is_error(503, "StoreUnavailable", "the store is closed");
    site.get("/admin/records")
        .await
        .is_error(503, "StoreUnavailable", "the store is closed");
    site.get("/admin/quarantine")
        .await
        .is_error(503, "StoreUnavailable", "the store is closed");
    site.get("/readyz")
        .await
        .is_error(503, "NotReady", "the store");
    assert_eq!(site.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn gaps_end_with_1_where_something_is_missing() {
    let daemon = Daemon::start().await;
    let ended = daemon.run(&["gaps"]).await;
    ended.ended(1, "");
    let text = String::from_utf8(ended.out).unwrap();
    assert!(
        text.contains("missing:\n  relay.test slots 0-255"),
        "{text}"
    );
    assert!(text.contains("pending: worker 0 will replay it"), "{text}");
    assert!(
        text.ends_with("of the window of 3 d and of what was held before.\n"),
        "{text}"
    );

    let held = Fact {
        relay: "relay.test".to_owned(),
        generation: 0,
        run: 1,
        from_seq: 10,
        to_seq: 20,
        from_time: NOW - 73 * HOUR,
        to_time: NOW,
        slots: SlotSet::ALL,
        filter: String::new(),
        kind: FactKind::Live,
    };
    daemon.store().put_facts(&[held]).await.unwrap();
    let ended = daemon.run(&["gaps"]).await;
    ended.ended(0, "");
    let text = String::from_utf8(ended.out).unwrap();
    assert!(text.contains("Every second since "), "{text}");
    let ended = daemon.run(&["gaps", "--json"]).await;
    assert_eq!(ended.lines()[0]["complete"], true);
}
