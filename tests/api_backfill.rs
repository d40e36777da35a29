//! The routes of backfill jobs over jobs in memory.

mod http;

use std::sync::Arc;

use axum::http::Method;
use http::collections::{CONFIGURED, FakeCollections, JOB};
use http::jobs::{FakeJobs, NOT_NEEDED};
use http::{ALICE, Answer, BOB, Site};
use penstock::api::Tokens;
use penstock::backfill::jobs::{Force, JobStatus, JobType};
use penstock::config::Worker;
use serde_json::{Value, json};

const POST: &str = "app.bsky.feed.post";
const LIKE: &str = "app.bsky.feed.like";

struct Work {
    jobs: Arc<FakeJobs>,
    site: Site,
}

impl Work {
    async fn new() -> Self {
        let jobs = Arc::new(FakeJobs::default());
        let site = Site::working(jobs.clone(), None).await;
        Self { jobs, site }
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.site.call(Method::POST, path, &[], body).await
    }

    async fn start(&self, body: Value) -> Answer {
        self.post("/admin/backfill", &body.to_string()).await
    }
}

#[tokio::test]
async fn a_job_is_started_watched_cancelled_and_tried_again() {
    let work = Work::new().await;
    let answer = work.start(json!({"collection": POST})).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert_eq!(
        answer.json,
        json!({"message": "Job 1 has begun.", "type": "collection", "status": "in_progress", "id": "1"})
    );
    // The same scope, in other words.
    let again = work.start(json!({"collections": [POST, POST]})).await;
    again.is_error(409, "Conflict", "job 1");
    assert_eq!(again.json["id"], "1");

    let job = work.site.get("/admin/backfill/1").await.json;
    assert_eq!(
        (&job["status"], &job["collection"]),
        (&json!("pending"), &json!(POST))
    );
    assert_eq!(
        (&job["total_repos"], &job["eta_seconds"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(job["origin"], "api");

    for path in ["/admin/backfill", "/api/admin/backfill"] {
        for _ in 0..2 {
            let cancelled = work.post(&format!("{path}/1/cancel"), "").await;
            assert_eq!(
                (cancelled.status.as_u16(), &cancelled.json["status"]),
                (200, &json!("cancelled"))
            );
        }
    }
    work.jobs.change(1, |job| job.status = JobStatus::Completed);
    let kept = work.post("/admin/backfill/1/retry", "").await;
    assert_eq!(kept.json["status"], "completed", "nothing failed");
    work.jobs.fail(1, &[ALICE, BOB]);
    let (rows, pages) = work
        .site
        .pages("/admin/backfill/1/errors?limit=1", "errors")
        .await;
    assert_eq!((rows.len(), pages), (2, 2));
    assert_eq!(
        (&rows[1]["did"], &rows[1]["attempts"]),
        (&json!(BOB), &json!(5))
    );
    let retried = work.post("/admin/backfill/1/retry", "").await;
    assert_eq!(
        (&retried.json["status"], &retried.json["failed_repos"]),
        (&json!("pending"), &json!(0))
    );
    work.jobs.change(1, |job| job.r#type = JobType::Repairs);
    work.post("/admin/backfill/1/retry", "")
        .await
        .is_error(409, "Conflict", "never ends");
}

#[tokio::test]
async fn jobs_are_listed_newest_first() {
    let work = Work::new().await;
    for n in 0..5 {
        let did = format!("did:web:host{n}.test");
        assert_eq!(work.start(json!({"did": did})).await.status, 202);
    }
    for path in ["/admin/backfill", "/api/admin/backfill"] {
        let (rows, pages) = work.site.pages(&format!("{path}?limit=2"), "jobs").await;
        let ids: Vec<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
        assert_eq!((ids, pages), (vec!["5", "4", "3", "2", "1"], 3));
        let bare = work.site.get(&format!("{path}/status")).await.json;
        assert_eq!(bare, json!(rows));
        let bare = work.site.get(&format!("{path}/status?limit=1")).await.json;
        assert_eq!(bare.as_array().unwrap().len(), 1);
    }
    for (path, says) in [
        ("/admin/backfill?cursor=zzz", "cursor"),
        ("/admin/backfill?limit=0", "1 to 1000"),
        ("/admin/backfill?page=2", "limit, cursor"),
        ("/admin/backfill/1/errors?cursor=zzz", "cursor"),
        ("/admin/backfill/1?limit=1", "takes none"),
    ] {
        work.site
            .get(path)
            .await
            .is_error(400, "InvalidRequest", says);
    }
}

#[tokio::test]
async fn ids_that_are_none_are_not_found() {
    let work = Work::new().await;
    work.start(json!({})).await;
    for id in [
        "2",
        "0",
        "01",
        "+1",
        "-1",
        "1x",
        "1.0",
        "%ff",
        "%20",
        "18446744073709551616",
        "status2",
    ] {
        for path in ["/admin/backfill", "/api/admin/backfill"] {
            let path = format!("{path}/{id}");
            work.site
                .get(&path)
                .await
                .is_error(404, "NotFound", "no job");
            let errors = work.site.get(&format!("{path}/errors")).await;
            errors.is_error(404, "NotFound", "no job");
            for verb in ["cancel", "retry"] {
                let answer = work.post(&format!("{path}/{verb}"), "").await;
                answer.is_error(404, "NotFound", "no job");
            }
        }
    }
}

#[tokio::test]
async fn what_is_asked_for_is_read_whole() {
    let work = Work::new().await;
    let body = json!({
        "collection": POST, "collections": [LIKE, POST], "did": BOB, "dids": [ALICE], "days": 1.5,
        "force": "full_sync",
    });
    work.start(body).await;
    let (request, by_ledger) = work.jobs.asked();
    assert!(!by_ledger);
    assert_eq!(request.collections, [LIKE, POST]);
    assert_eq!(request.dids, [ALICE, BOB]);
    assert_eq!(
        (request.days, request.force),
        (Some(1.5), Some(Force::FullSync))
    );

    work.post("/admin/backfill?force=catch_up", "").await;
    let (request, _) = work.jobs.asked();
    assert_eq!((request.force, request.days), (Some(Force::CatchUp), None));
    work.post(
        "/admin/backfill?force=catch_up",
        r#"{"force":"catch_up","days":0,"did":null}"#,
    )
    .await;
    let (request, _) = work.jobs.asked();
    assert_eq!((request.force, request.days), (Some(Force::CatchUp), None));
    assert!(request.dids.is_empty());

    let estimate = work
        .post(
            "/admin/backfill/estimate",
            &json!({"dids": [ALICE, BOB]}).to_string(),
        )
        .await;
    assert_eq!(estimate.status, 200);
    assert_eq!(
        (&estimate.json["repos"], &estimate.json["complete"]),
        (&json!(2), &Value::Null)
    );
}

#[tokio::test]
async fn the_alias_decides_by_the_ledger_where_nothing_was_said() {
    let work = Work::new().await;
    for body in ["", "{}", " \n", r#"{"days":0}"#, r#"{"did":null}"#] {
        let answer = work.post("/api/admin/backfill", body).await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.json,
            json!({"message": format!("No backfill needed. {NOT_NEEDED}")})
        );
        assert!(work.jobs.asked().1);
    }
    for (path, body) in [
        ("/api/admin/backfill?force=catch_up", ""),
        ("/api/admin/backfill", r#"{"force":"full_sync"}"#),
        (
            "/api/admin/backfill",
            r#"{"collection":"app.bsky.feed.post"}"#,
        ),
        ("/api/admin/backfill", r#"{"days":3}"#),
        ("/admin/backfill", ""),
        ("/admin/backfill", "{}"),
    ] {
        work.post(path, body).await;
        assert!(!work.jobs.asked().1, "{path} {body}");
    }
}

#[tokio::test]
async fn each_bad_field_is_named() {
    let work = Work::new().await;
    let bad = json!({
        "collection": "posts", "collections": [POST, "x", 3], "did": "alice.test", "dids": [],
        "days": -1, "force": "now", "depth": 7, "colection": POST,
    });
    for path in [
        "/admin/backfill",
        "/admin/backfill/estimate",
        "/api/admin/backfill",
    ] {
        let answer = work.post(path, &bad.to_string()).await;
        answer.is_error(400, "InvalidRequest", "posts");
        let fields: Vec<&String> = answer.json["fields"].as_object().unwrap().keys().collect();
        assert_eq!(
            fields,
            [
                "colection",
                "collection",
                "collections[1]",
                "collections[2]",
                "days",
                "depth",
                "did",
                "dids",
                "force"
            ],
        );
        for field in fields {
            assert!(
                answer.json["message"]
                    .as_str()
                    .unwrap()
                    .contains(&format!("{field}: "))
            );
        }
    }
    for (body, says) in [
        (r#"{"collection":3}"#, "collection: 3 is not an NSID"),
        (r#"{"collection":""}"#, "collection: \"\""),
        (
            r#"{"dids":"did:web:a.test"}"#,
            "dids: \"did:web:a.test\" is not an array",
        ),
        (r#"{"dids":[["x"]]}"#, "dids[0]: an array"),
        (r#"{"days":"7"}"#, "days: \"7\""),
        (r#"{"days":1e9}"#, "36500"),
        (r#"{"days":0.125}"#, "days: 0.125 is less"),
        (r#"{"force":true}"#, "force: true"),
        (r#"{"force":"fullsync"}"#, "catch_up or full_sync"),
        ("[]", "JSON object"),
        ("null", "JSON object"),
        ("collection=app.bsky.feed.post", "JSON object"),
        ("{\"did\":", "JSON object"),
    ] {
        work.post("/admin/backfill", body)
            .await
            .is_error(400, "InvalidRequest", says);
    }
    let differs = work
        .post("/admin/backfill?force=catch_up", r#"{"force":"full_sync"}"#)
        .await;
    differs.is_error(
        400,
        "InvalidRequest",
        "force: the query and the body differ",
    );
    for (path, body) in [
        (
            "/admin/backfill?force=catch_up",
            r#"{"did":"did:web:a.test"}"#,
        ),
        (
            "/api/admin/backfill",
            r#"{"collection":"app.bsky.feed.post","force":"catch_up"}"#,
        ),
    ] {
        let answer = work.post(path, body).await;
        answer.is_error(400, "InvalidRequest", "force: catch_up is over");
        assert!(answer.json["fields"]["force"].is_array());
    }
    work.post("/admin/backfill?force=now", "")
        .await
        .is_error(400, "InvalidRequest", "\"now\"");
    work.post("/admin/backfill?days=7", "")
        .await
        .is_error(400, "InvalidRequest", "days");
    let many = json!({"dids": vec!["x".repeat(1000); 5000]});
    let answer = work.start(many).await;
    answer.is_error(400, "InvalidRequest", "4990 more");
    assert!(answer.text.len() < 10_000, "{} bytes", answer.text.len());
}

#[tokio::test]
async fn a_list_of_dids_may_be_long_and_other_bodies_not() {
    let work = Work::new().await;
    let dids: Vec<String> = (0..200_000).map(|n| format!("did:plc:{n:024}")).collect();
    assert_eq!(work.start(json!({"dids": dids})).await.status, 202);
    assert_eq!(work.jobs.asked().0.dids.len(), 200_000);
    let long = "x".repeat((8 << 20) + 1);
    work.post("/admin/backfill", &long)
        .await
        .is_error(413, "PayloadTooLarge", "8388608");
    work.post("/admin/quarantine/retry", &long[..(64 << 10) + 1])
        .await
        .is_error(413, "PayloadTooLarge", "65536");
}

#[tokio::test]
async fn only_worker_0_has_jobs() {
    let reads = ["", "/status", "/1", "/1/errors"];
    let changes = ["", "/estimate", "/1/cancel", "/1/retry"];
    for (worker, says) in [
        (Worker { id: 2, count: 4 }, "worker 2 of 4: ask worker 0"),
        (Worker { id: 0, count: 1 }, "penstock run"),
    ] {
        let site = Site::elsewhere(worker).await;
        for path in reads {
            let answer = site.get(&format!("/admin/backfill{path}")).await;
            answer.is_error(503, "NotWorker0", says);
        }
        for path in changes {
            let path = format!("/api/admin/backfill{path}");
            let answer = site.call(Method::POST, &path, &[], "").await;
            answer.is_error(503, "NotWorker0", says);
        }
    }
}

#[tokio::test]
async fn who_may_only_read_starts_nothing() {
    let jobs = Arc::new(FakeJobs::default());
    let tokens = Tokens::new(Some("adm"), Some("rd"));
    let site = Site::working(jobs, Some(tokens)).await;
    let call = async |method: Method, path: &str, token: &str| {
        let headers = [("authorization", token)];
        site.call(method, path, &headers, "").await.status.as_u16()
    };
    for path in ["/admin/backfill", "/api/admin/backfill?force=full_sync"] {
        assert_eq!(call(Method::POST, path, "Bearer rd").await, 403);
    }
    assert_eq!(
        call(Method::POST, "/admin/backfill/1/cancel", "Bearer rd").await,
        403
    );
    assert_eq!(
        call(Method::POST, "/admin/backfill", "Bearer adm").await,
        202
    );
    assert_eq!(
        call(Method::GET, "/admin/backfill/1", "Bearer rd").await,
        200
    );
    assert_eq!(call(Method::GET, "/admin/backfill/1", "").await, 401);
}

#[tokio::test(start_paused = true)]
async fn bad_tokens_are_slowed_and_good_ones_never() {
    let site = Site::strangers(Tokens::new(Some("adm"), Some("rd"))).await;
    let call = async |token: &str| {
        let headers = [("authorization", token)];
        site.call(Method::GET, "/admin/repos", &headers, "").await
    };
    for _ in 0..10 {
        call("Bearer guess")
            .await
            .is_error(401, "Unauthorized", "not known");
    }
    let slowed = call("Bearer guess").await;
    slowed.is_error(429, "TooManyRequests", "address");
    let wait: u64 = slowed.header("retry-after").parse().unwrap();
    for good in ["Bearer adm", "Bearer rd"] {
        assert_eq!(call(good).await.status, 200);
    }
    call("").await.is_error(401, "Unauthorized", "needs");
    call("Bearer guess")
        .await
        .is_error(429, "TooManyRequests", "");
    tokio::time::advance(std::time::Duration::from_secs(wait)).await;
    call("Bearer guess").await.is_error(401, "Unauthorized", "");
}

#[tokio::test]
async fn collections_and_record_lexicons_are_indexed() {
    let collections = Arc::new(FakeCollections::default());
    let site = Site::of_worker_0(Arc::new(FakeJobs::default()), collections.clone(), None).await;
    let post =
        async |path: &str, body: Value| site.call(Method::POST, path, &[], &body.to_string()).await;
    let added = post("/admin/collections", json!({"nsid": POST})).await;
    assert_eq!(added.json, json!({"nsid": POST, "job": JOB.to_string()}));
    let added = post(
        "/admin/collections",
        json!({"nsid": LIKE, "backfill": false}),
    )
    .await;
    assert_eq!(added.json, json!({"nsid": LIKE, "job": null}));
    let lexicon = json!({"lexicon": 1, "id": "com.example.note", "defs": {"main": {"type": "record", "key": "tid"}}});
    let added = post("/admin/lexicons", json!({"lexicon": lexicon})).await;
    assert_eq!(
        added.json,
        json!({"nsid": "com.example.note", "job": JOB.to_string()})
    );
    let (rows, pages) = site
        .pages("/admin/collections?limit=2", "collections")
        .await;
    assert_eq!((rows.len(), pages), (4, 2));
    assert_eq!(
        rows[0],
        json!({"nsid": CONFIGURED, "configured": true, "purging": false})
    );

    let delete = async |path: &str| site.call(Method::DELETE, path, &[], "").await;
    for purge in [false, true] {
        let gone = delete(&format!("/admin/collections/{LIKE}?purge={purge}")).await;
        assert_eq!(gone.json, json!({"nsid": LIKE, "purge": purge}));
        assert_eq!(
            *collections.removed.lock().unwrap(),
            Some((LIKE.to_owned(), purge))
        );
    }
    delete(&format!("/admin/collections/{CONFIGURED}"))
        .await
        .is_error(409, "Conflict", "configuration");
    delete("/admin/collections/posts")
        .await
        .is_error(400, "InvalidRequest", "nsid: \"posts\"");
    delete(&format!("/admin/collections/{LIKE}?purge=1"))
        .await
        .is_error(400, "InvalidRequest", "true or false");
    for (body, says) in [
        (json!({}), "nsid"),
        (json!({"nsid": "app.bsky.*"}), "nsid: \"app.bsky.*\""),
        (json!({"nsid": POST, "backfil": true}), "backfil"),
    ] {
        post("/admin/collections", body)
            .await
            .is_error(400, "InvalidRequest", says);
    }
    for (lexicon, says) in [
        (
            json!({"lexicon": 1, "id": "com.example.get", "defs": {"main": {"type": "query"}}}),
            "\"query\" is not record",
        ),
        (
            json!({"lexicon": 1, "id": "com.example.defs", "defs": {}}),
            "lexicon.defs.main.type",
        ),
        (
            json!({"lexicon": 1, "id": "note", "defs": {"main": {"type": "record"}}}),
            "lexicon.id: \"note\"",
        ),
        (json!({"lexicon": 2, "id": "com.example.note"}), "version 1"),
        (json!("com.example.note"), "lexicon: \"com.example.note\""),
    ] {
        let answer = post("/admin/lexicons", json!({"lexicon": lexicon})).await;
        answer.is_error(400, "InvalidRequest", says);
    }
    for (path, body, fields) in [
        (
            "/admin/collections",
            json!({"nsid": "posts", "backfill": null, "purge": 1}),
            vec!["backfill", "nsid", "purge"],
        ),
        (
            "/admin/lexicons",
            json!({"lexicon": {"lexicon": 2, "id": 3}, "backfill": "no"}),
            vec![
                "backfill",
                "lexicon.defs.main.type",
                "lexicon.id",
                "lexicon.lexicon",
            ],
        ),
        ("/admin/lexicons", json!({}), vec!["lexicon"]),
    ] {
        let answer = post(path, body).await;
        let named: Vec<&String> = answer.json["fields"].as_object().unwrap().keys().collect();
        assert_eq!(named, fields);
    }
    Site::new()
        .await
        .get("/admin/collections")
        .await
        .is_error(503, "NotWorker0", "penstock run");
}

#[tokio::test]
async fn who_opted_out_is_listed() {
    let site = Site::new().await;
    let call = async |method: Method, did: &str| {
        let body = json!({"did": did}).to_string();
        site.call(method, "/admin/optout", &[], &body).await
    };
    for did in [BOB, ALICE, ALICE] {
        assert_eq!(call(Method::POST, did).await.json, json!({"did": did}));
    }
    let (rows, pages) = site.pages("/admin/optout?limit=1", "optout").await;
    assert_eq!(
        (rows, pages),
        (vec![json!({"did": ALICE}), json!({"did": BOB})], 2)
    );
    for _ in 0..2 {
        assert_eq!(call(Method::DELETE, BOB).await.json, json!({"did": BOB}));
    }
    assert_eq!(
        site.get("/admin/optout").await.json,
        json!({"optout": [{"did": ALICE}]})
    );
    for method in [Method::POST, Method::DELETE] {
        call(method.clone(), "alice.test").await.is_error(
            400,
            "InvalidRequest",
            "did: \"alice.test\"",
        );
        let none = site.call(method.clone(), "/admin/optout", &[], "").await;
        none.is_error(400, "InvalidRequest", "did: missing");
        let body = r#"{"did":7,"dids":[]}"#;
        let bad = site.call(method, "/admin/optout", &[], body).await;
        let named: Vec<&String> = bad.json["fields"].as_object().unwrap().keys().collect();
        assert_eq!(named, ["did", "dids"]);
    }
}
