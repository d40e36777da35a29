//! `/openapi.json` names the very routes that there are, and they keep to it: schemathesis makes requests from the document, good
//! and bad ones, and looks at the answers.
//!
//! `tests/openapi/install` fetches schemathesis at the first run, which needs Python 3.10 or later and the network; without them
//! the test says that it is skipped (with `CI=true` it fails).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../http/mod.rs"]
mod http;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use axum::http::{Method, StatusCode};
use axum::middleware::map_response;
use axum::response::Response;
use http::collections::FakeCollections;
use http::jobs::FakeJobs;
use http::{ALICE, BOB, Site, put};
use penstock::api::{Tokens, serve_tcp};
use penstock::backfill::jobs::{JobRequest, Jobs};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const POST: &str = "app.bsky.feed.post";

/// What a worker 0 serves, with something of everything.
async fn site(tokens: Option<Tokens>) -> Site {
    let jobs = Arc::new(FakeJobs::default());
    for did in [ALICE, BOB] {
        let request = JobRequest {
            dids: vec![did.to_owned()],
            ..JobRequest::default()
        };
        jobs.start(request, false).await.unwrap();
    }
    jobs.fail(1, &[ALICE]);
    let collections = Arc::new(FakeCollections::default());
    let site = Site::of_worker_0(jobs, collections, tokens).await;
    for did in [ALICE, BOB] {
        put(&*site.store, did, POST, "a", 1, &json!({"text": "one"})).await;
    }
    site
}

async fn document(site: &Site) -> Value {
    let answer = site.get("/openapi.json").await;
    assert_eq!(answer.status, 200);
    answer.json
}

/// Every operation of the document: method, path, and what the document says of it.
fn operations(document: &Value) -> Vec<(Method, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, verbs): (&String, &Value)| {
        let verbs = verbs.as_object().unwrap().clone();
        let path = path.clone();
        verbs.into_iter().map(move |(verb, operation)| {
            let method = Method::from_bytes(verb.to_uppercase().as_bytes()).unwrap();
            (method, path.clone(), operation)
        })
    };
    paths.iter().flat_map(of_path).collect()
}

#[tokio::test]
async fn the_document_names_the_routes_that_there_are() {
    let site = site(None).await;
    let document = document(&site).await;
    assert_eq!(document["openapi"], "3.1.0");
    let strangers = Site::strangers(Tokens::new(Some("adm"), Some("rd"))).await;
    for (method, path, operation) in operations(&document) {
        let real = path.replace("{id}", "1").replace("{nsid}", POST);
        let answer = site.call(method.clone(), &real, &[], "").await;
        let status = answer.status.as_str();
        assert!(answer.status != 405, "{method} {path}: {}", answer.text);
        assert!(
            operation["responses"].get(status).is_some(),
            "{method} {path} answers {status}: {}",
            answer.text
        );

        // Who may do what is what the document says.
        let guarded = operation.get("security").is_some();
        let stranger = strangers.call(method.clone(), &real, &[], "").await;
        assert_eq!(stranger.status == 401, guarded, "{method} {path}");
        let reader = [("x-api-key", "rd")];
        let reader = strangers.call(method.clone(), &real, &reader, "").await;
        let for_admins = operation["responses"].get("403").is_some();
        assert_eq!(reader.status == 403, for_admins, "{method} {path}");

        // A parameter that the document does not name is refused, with the names that it has.
        if guarded {
            let strange = format!("{real}?strange=1");
            let answer = site.call(method.clone(), &strange, &[], "").await;
            answer.is_error(400, "InvalidRequest", "strange");
            let parameters = operation["parameters"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            for parameter in parameters
                .iter()
                .filter(|parameter| parameter["in"] == "query")
            {
                assert!(answer.text.contains(parameter["name"].as_str().unwrap()));
            }
        }
    }
}

#[tokio::test]
async fn the_allow_header_names_the_verbs_of_the_document() {
    let site = site(None).await;
    let document = document(&site).await;
    for (path, verbs) in document["paths"].as_object().unwrap() {
        let real = path.replace("{id}", "1").replace("{nsid}", POST);
        let answer = site.call(Method::PUT, &real, &[], "").await;
        answer.is_error(405, "MethodNotAllowed", "");
        let mut allowed: Vec<String> = answer
            .header("allow")
            .split(',')
            .map(str::to_lowercase)
            .filter(|verb| verb != "head")
            .collect();
        allowed.sort();
        let named: Vec<String> = verbs.as_object().unwrap().keys().cloned().collect();
        assert_eq!(allowed, named, "{path}");
    }
}

/// Where schemathesis is installed; `None` if it can't be.
fn installation(test: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let dir = root.join(target).join("schemathesis");
    let output = Command::new(root.join("tests/openapi/install"))
        .arg(&dir)
        .output()
        .unwrap();
    if output.status.success() {
        return Some(dir);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let message = format!(
        "SKIPPED {test}: {} ({})\n  It needs Python 3.10 or later with venv, and at first the network.\n",
        words.trim(),
        output.status
    );
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
    // Around the harness, which hides what passing tests print.
    let _ = std::io::stderr().write_all(message.as_bytes());
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_routes_keep_to_the_document() {
    let Some(installation) = installation("the_routes_keep_to_the_document") else {
        return;
    };
    let site = site(Some(Tokens::new(Some("adm"), Some("rd")))).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/openapi.json", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    // schemathesis knows two ways to refuse a token, and is not one who waits.
    let router = site
        .router
        .clone()
        .layer(map_response(async |mut answer: Response| {
            if answer.status() == StatusCode::TOO_MANY_REQUESTS {
                *answer.status_mut() = StatusCode::UNAUTHORIZED;
            }
            answer
        }));
    tokio::spawn(serve_tcp(listener, router, stop));

    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi");
    let scratch = tempfile::tempdir().unwrap();
    let output = tokio::process::Command::new(installation.join("bin/schemathesis"))
        .arg("--config-file")
        .arg(here.join("schemathesis.toml"))
        .args(["run", &url, "--header", "Authorization: Bearer adm"])
        .current_dir(scratch.path())
        .env("NO_COLOR", "1")
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
