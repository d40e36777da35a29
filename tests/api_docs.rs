//! `docs/api.md` tells every route, and each of its examples is run: by curl, against a server on loopback.
//!
//! `PENSTOCK_BLESS=1 cargo test --test api_docs` writes the answers anew.

mod http;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::collections::FakeCollections;
use http::jobs::FakeJobs;
use http::{ALICE, BOB, NOW, Site, put};
use penstock::api::{Tokens, serve_tcp};
use penstock::store::{Quarantined, Store, WriteBatch};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// The job of the examples.
const FIRST: u64 = 1_795_945_743_935_402;
/// Where the daemon of the examples is.
const DAEMON: &str = "http://127.0.0.1:8400";
const EXAMPLE: &str = "```sh\n";
const ANSWER: &str = "```\n\n```text\n";
const END: &str = "```\n";

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md")
}

async fn site() -> (Site, Arc<FakeJobs>) {
    let jobs = Arc::new(FakeJobs::after(FIRST - 1));
    let tokens = Tokens::new(Some("secret"), Some("look"));
    let site = Site::of_worker_0(
        jobs.clone(),
        Arc::new(FakeCollections::default()),
        Some(tokens),
    )
    .await;
    for did in [ALICE, BOB] {
        let value = json!({"$type": "app.bsky.feed.post", "text": "one"});
        put(&*site.store, did, "app.bsky.feed.post", "a", NOW, &value).await;
    }
    let mut batch = WriteBatch::new();
    batch.put_quarantined(Quarantined {
        id: "20261123-00-b".to_owned(),
        received: NOW,
        reason: "bad_cbor".to_owned(),
        detail: "it ends early".to_owned(),
        source: "wss://relay.test".to_owned(),
        seq: Some(1),
        raw: b"bad".to_vec(),
        ..Quarantined::default()
    });
    site.store.apply(batch).await.unwrap();
    (site, jobs)
}

async fn run(example: &str, address: &str) -> String {
    let example = example.replace(DAEMON, address);
    let output = Command::new("bash")
        .args(["-c", &example])
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{example}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_answers_as_it_is_told() {
    let text = std::fs::read_to_string(document()).unwrap();
    let (site, jobs) = site().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    tokio::spawn(serve_tcp(listener, site.router.clone(), stop));

    let mut parts = text.split(EXAMPLE);
    let mut made = parts.next().unwrap().to_owned();
    for (number, part) in parts.enumerate() {
        let (example, rest) = part
            .split_once(ANSWER)
            .expect("an answer behind each example");
        let (_, rest) = rest.split_once(END).unwrap();
        let answer = run(example, &address).await;
        let _ = write!(
            made,
            "{EXAMPLE}{example}{ANSWER}{}\n{END}{rest}",
            answer.trim_end()
        );
        if number == 0 {
            jobs.fail(FIRST, &[ALICE]);
        }
    }
    if std::env::var_os("PENSTOCK_BLESS").is_some() {
        std::fs::write(document(), &made).unwrap();
        return;
    }
    for (told, found) in text.lines().zip(made.lines()) {
        assert_eq!(told, found);
    }
    assert!(
        text == made,
        "docs/api.md differs; PENSTOCK_BLESS=1 cargo test --test api_docs"
    );
}

#[tokio::test]
async fn every_route_is_told() {
    let text = std::fs::read_to_string(document()).unwrap();
    let headings = text
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    let told: BTreeSet<String> = headings.map(str::to_owned).collect();
    let (site, _) = site().await;
    let paths = site.get("/openapi.json").await.json["paths"].take();
    let mut routes = BTreeSet::new();
    for (path, verbs) in paths.as_object().unwrap() {
        for verb in verbs.as_object().unwrap().keys() {
            routes.insert(format!("{} {path}", verb.to_uppercase()));
        }
    }
    // Aliases are told by a sentence; one of them differs and has a place of its own.
    let is_alias = |route: &String| routes.contains(&route.replace(" /api/admin/", " /admin/"));
    let own: BTreeSet<String> = routes
        .iter()
        .filter(|route| {
            !route.contains(" /api/") || *route == "POST /api/admin/backfill" || !is_alias(route)
        })
        .cloned()
        .collect();
    assert_eq!(told, own);
}
