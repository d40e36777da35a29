//! The routes over the store in memory, without a network: what they answer, refuse and hide.

#[path = "api/gaps.rs"]
mod gaps;
mod http;

use axum::http::{Method, StatusCode};
use http::{ALICE, BOB, Site, cid, put, rev, status};
use penstock::api::Tokens;
use penstock::store::{HandleWrite, RecordBody, RecordWrite, Store, WriteBatch};
use serde_json::{Value, json};

const POST: &str = "app.bsky.feed.post";

#[tokio::test]
async fn health_metrics_and_readiness_need_no_token() {
    let site = Site::new().await;
    assert_eq!(site.get("/healthz").await.status, 200);
    let metrics = site.get("/metrics").await;
    assert!(metrics.text.contains("penstock_up 1"));
    assert!(metrics.header("content-type").starts_with("text/plain"));

    let ready = site.get("/readyz").await;
    assert_eq!(
        (ready.status, &ready.json["ready"]),
        (StatusCode::OK, &json!(true))
    );
    site.status.fail("relay ws://relay is not connected");
    let ready = site.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(
        ready.json["reasons"],
        json!(["relay ws://relay is not connected"])
    );
    assert_eq!(ready.json["error"], "NotReady");
    assert!(
        ready.json["message"]
            .as_str()
            .unwrap()
            .contains("not connected")
    );
}

#[tokio::test]
async fn every_error_is_json() {
    let site = Site::new().await;
    for path in ["/nothing", "/xrpc/com.atproto.repo.nothing", "/admin"] {
        site.get(path).await.is_error(404, "NotFound", path);
    }
    for (method, path, allow) in [
        (Method::POST, "/healthz", "GET,HEAD"),
        (Method::DELETE, "/admin/records", "GET,HEAD"),
        (Method::GET, "/admin/quarantine/retry", "POST"),
    ] {
        let answer = site.call(method.clone(), path, &[], "").await;
        answer.is_error(405, "MethodNotAllowed", method.as_str());
        assert_eq!(answer.header("allow"), allow, "{path}");
    }
    let long = "x".repeat((64 << 10) + 1);
    let answer = site
        .call(Method::POST, "/admin/quarantine/retry", &[], &long)
        .await;
    answer.is_error(413, "PayloadTooLarge", "65536");
    assert_eq!(
        site.get("/healthz")
            .await
            .header("access-control-allow-origin"),
        ""
    );
}

#[tokio::test]
async fn tokens_open_what_they_are_for() {
    const READ: &str = "/admin/repos";
    const CHANGE: &str = "/admin/quarantine/retry";
    let none: &[(&str, &str)] = &[];
    let (bearer_admin, key_admin) = (&[("authorization", "Bearer adm")], &[("x-api-key", "adm")]);
    let (bearer_read, key_read) = (&[("authorization", "bearer rd")], &[("x-api-key", "rd")]);
    let unknown = &[("authorization", "Bearer admin")];
    let basic = &[("authorization", "Basic adm")];
    let empty = &[("x-api-key", "")];

    type Row<'a> = (&'a [(&'a str, &'a str)], u16, u16);
    let check = async |tokens: Tokens, rows: &[Row<'_>]| {
        let site = Site::strangers(tokens).await;
        for (headers, reading, changing) in rows {
            let answer = site.call(Method::GET, READ, headers, "").await;
            assert_eq!(
                answer.status, *reading,
                "{READ} {headers:?}: {}",
                answer.text
            );
            let body = r#"{"all":true}"#;
            let answer = site.call(Method::POST, CHANGE, headers, body).await;
            assert_eq!(
                answer.status, *changing,
                "{CHANGE} {headers:?}: {}",
                answer.text
            );
            let name = match *changing {
                401 => "Unauthorized",
                403 => "Forbidden",
                503 => "AdminDisabled",
                _ => continue,
            };
            assert_eq!(answer.json["error"], name);
            let challenged = !answer.header("www-authenticate").is_empty();
            assert_eq!(challenged, *changing == 401);
        }
    };
    check(
        Tokens::new(Some("adm"), Some("rd")),
        &[
            (none, 401, 401),
            (bearer_admin, 200, 200),
            (key_admin, 200, 200),
            (bearer_read, 200, 403),
            (key_read, 200, 403),
            (unknown, 401, 401),
            (basic, 401, 401),
            (empty, 401, 401),
        ],
    )
    .await;
    let only_admin = [
        (none, 401, 401),
        (key_admin, 200, 200),
        (key_read, 401, 401),
    ];
    check(Tokens::new(Some("adm"), None), &only_admin).await;
    let only_read = [
        (none, 401, 503),
        (key_admin, 401, 503),
        (key_read, 200, 503),
    ];
    check(Tokens::new(None, Some("rd")), &only_read).await;
    let disabled = [(none, 503, 503), (key_admin, 503, 503), (empty, 503, 503)];
    check(Tokens::new(None, None), &disabled).await;
    check(Tokens::new(Some(""), Some("")), &disabled).await;

    let site = Site::strangers(Tokens::default()).await;
    let answer = site.get(READ).await;
    answer.is_error(503, "AdminDisabled", "ADMIN_TOKEN");
    assert_eq!(Site::new().await.get(READ).await.status, 200, "trusted");
    for open in ["/healthz", "/metrics", "/xrpc/com.atproto.sync.listRepos"] {
        assert_eq!(site.get(open).await.status, 200, "{open}");
    }
}

#[tokio::test]
async fn parameters_are_checked_by_name_and_value() {
    let site = Site::new().await;
    let did = format!("did={ALICE}");
    for (path, says) in [
        ("/admin/records?did=alice", "\"alice\""),
        ("/admin/records?collection=post", "an NSID"),
        ("/admin/records?rkey=x", "did and collection"),
        (
            &format!("/admin/records?{did}&collection={POST}&rkey=a%20b"),
            "a record key",
        ),
        ("/admin/records?limit=0", "1 to 1000"),
        ("/admin/records?limit=1001", "1 to 1000"),
        ("/admin/records?limit=ten", "\"ten\""),
        ("/admin/records?active=yes", "true or false"),
        ("/admin/records?value=0", "true or false"),
        ("/admin/records?cursor=nonsense", "cursor"),
        ("/admin/records?colection=x", "colection"),
        (&format!("/admin/records?{did}&{did}"), "once"),
        ("/admin/repos?limit=-1", "1 to 1000"),
        ("/admin/repos?did=did:plc", "a DID"),
        ("/admin/repos?name=x", "did, limit, cursor"),
        ("/admin/quarantine?limit=1e3", "1 to 1000"),
        ("/admin/quarantine?cursor=zzz", "cursor"),
        ("/admin/quarantine?all=1", "all"),
        ("/xrpc/com.atproto.repo.getRecord", "\"repo\" is required"),
        (
            "/xrpc/com.atproto.repo.getRecord?repo=alice.test",
            "handles are not resolved",
        ),
        (
            &format!("/xrpc/com.atproto.repo.getRecord?repo={ALICE}"),
            "\"collection\" is required",
        ),
        (
            &format!("/xrpc/com.atproto.repo.getRecord?repo={ALICE}&collection={POST}"),
            "\"rkey\" is required",
        ),
        (
            &format!(
                "/xrpc/com.atproto.repo.getRecord?repo={ALICE}&collection={POST}&rkey=a&cid=Q"
            ),
            "a CID",
        ),
        (
            &format!("/xrpc/com.atproto.repo.listRecords?repo={ALICE}&collection={POST}&limit=101"),
            "1 to 100",
        ),
        (
            &format!(
                "/xrpc/com.atproto.repo.listRecords?repo={ALICE}&collection={POST}&cursor=a/b"
            ),
            "cursor",
        ),
        (
            &format!("/xrpc/com.atproto.repo.listRecords?repo={ALICE}&collection={POST}&reverse=1"),
            "true or false",
        ),
        ("/xrpc/com.atproto.sync.listRepos?limit=1001", "1 to 1000"),
        (
            "/xrpc/com.atproto.sync.getRepoStatus",
            "\"did\" is required",
        ),
        (
            "/xrpc/com.atproto.sync.getRepoStatus?did=alice.test",
            "a DID",
        ),
    ] {
        site.get(path).await.is_error(400, "InvalidRequest", says);
    }
    let long = format!("/admin/repos?did={}", "%00".repeat(1000));
    let answer = site.get(&long).await;
    answer.is_error(400, "InvalidRequest", "…");
    assert!(
        answer.text.len() < 1000,
        "a long value is not repeated whole"
    );
}

#[tokio::test]
async fn records_are_shown_as_the_lexicons_say() {
    let site = Site::new().await;
    put(&*site.store, ALICE, POST, "a", 1, &json!({"text": "one"})).await;
    let uri = format!("at://{ALICE}/{POST}/a");
    let get = format!("/xrpc/com.atproto.repo.getRecord?repo={ALICE}&collection={POST}&rkey=a");
    let answer = site.get(&get).await;
    let cid_now = cid(&json!({"text": "one"}));
    assert_eq!(
        answer.json,
        json!({"uri": uri, "cid": cid_now, "value": {"text": "one"}})
    );
    assert_eq!(
        site.get(&format!("{get}&cid={cid_now}")).await.json,
        answer.json
    );
    let other = cid(&json!({"text": "two"}));
    let answer = site.get(&format!("{get}&cid={other}")).await;
    answer.is_error(400, "RecordNotFound", &other);
    site.get(&format!("{get}x"))
        .await
        .is_error(400, "RecordNotFound", &uri);
    let bob = get.replace(ALICE, BOB);
    site.get(&bob).await.is_error(400, "RepoNotFound", BOB);
    let empty = format!("/xrpc/com.atproto.repo.listRecords?repo={ALICE}&collection=a.b.c");
    assert_eq!(site.get(&empty).await.json, json!({"records": []}));
    site.get(&empty.replace(ALICE, BOB))
        .await
        .is_error(400, "RepoNotFound", BOB);
}

#[tokio::test]
async fn records_page_to_their_end_in_both_directions() {
    let site = Site::new().await;
    let keys: Vec<String> = (0..130).map(|n| format!("k{n:03}")).collect();
    for (n, key) in (1..).zip(&keys) {
        put(&*site.store, ALICE, POST, key, n, &json!({"n": n})).await;
    }
    put(
        &*site.store,
        ALICE,
        "app.bsky.feed.like",
        "k000",
        200,
        &json!({}),
    )
    .await;
    put(&*site.store, BOB, POST, "k000", 1, &json!({})).await;
    for (limit, pages) in [(100, 2), (65, 2), (1, 130), (60, 3)] {
        for reverse in [false, true] {
            let path = format!(
                "/xrpc/com.atproto.repo.listRecords?repo={ALICE}&collection={POST}&limit={limit}&reverse={reverse}"
            );
            let (rows, count) = site.pages(&path, "records").await;
            assert_eq!(count, pages, "{path}");
            let mut wanted: Vec<String> = keys
                .iter()
                .map(|key| format!("at://{ALICE}/{POST}/{key}"))
                .collect();
            if !reverse {
                wanted.reverse();
            }
            let found: Vec<&str> = rows
                .iter()
                .map(|row| row["uri"].as_str().unwrap())
                .collect();
            assert_eq!(found, wanted);
        }
    }
    // The cursor is a record key, as a PDS has it.
    let from =
        format!("/xrpc/com.atproto.repo.listRecords?repo={ALICE}&collection={POST}&cursor=k001");
    let rows = site.get(&from).await.json["records"].take();
    assert_eq!(rows.as_array().unwrap().len(), 1);

    for limit in [1, 50, 51, 1000] {
        let (rows, _) = site
            .pages(&format!("/admin/records?limit={limit}"), "records")
            .await;
        assert_eq!(rows.len(), 132, "limit {limit}");
        let (rows, _) = site
            .pages(
                &format!("/admin/records?limit={limit}&collection={POST}&value=false"),
                "records",
            )
            .await;
        assert_eq!(rows.len(), 131);
        assert!(rows.iter().all(|row| row.get("value").is_none()));
        let (rows, _) = site
            .pages(
                &format!("/admin/records?limit={limit}&did={BOB}"),
                "records",
            )
            .await;
        assert_eq!(
            rows,
            [json!({
                "did": BOB, "collection": POST, "rkey": "k000", "cid": cid(&json!({})),
                "rev": rev(1), "value": {},
            })]
        );
    }
    let one = site
        .get(&format!(
            "/admin/records?did={ALICE}&collection={POST}&rkey=k005"
        ))
        .await;
    assert_eq!(one.json["records"][0]["value"], json!({"n": 6}));
    let none = site
        .get(&format!(
            "/admin/records?did={ALICE}&collection={POST}&rkey=gone"
        ))
        .await;
    assert_eq!(none.json, json!({"records": []}));
}

#[tokio::test]
async fn answers_are_bounded_in_bytes() {
    let site = Site::new().await;
    let large = json!({"text": "x".repeat(64 << 10)});
    for n in 0..600 {
        let did = format!("did:web:host{:03}.test", n / 10);
        put(&*site.store, &did, POST, &format!("k{n:03}"), n + 1, &large).await;
    }
    let first = site.get("/admin/records?limit=1000").await;
    assert!(first.text.len() < 17 << 20, "{} bytes", first.text.len());
    let (rows, pages) = site.pages("/admin/records?limit=1000", "records").await;
    assert_eq!((rows.len(), pages), (600, 3));
}

#[tokio::test]
async fn accounts_that_are_not_active_are_hidden() {
    let site = Site::new().await;
    put(&*site.store, ALICE, POST, "a", 1, &json!({"text": "one"})).await;
    put(&*site.store, BOB, POST, "b", 1, &json!({"text": "two"})).await;
    let get = format!("/xrpc/com.atproto.repo.getRecord?repo={ALICE}&collection={POST}&rkey=a");
    let gone = get.replace("rkey=a", "rkey=gone");
    let list = format!("/xrpc/com.atproto.repo.listRecords?repo={ALICE}&collection={POST}");
    let of_repo = format!("/xrpc/com.atproto.sync.getRepoStatus?did={ALICE}");
    let head = cid(&json!("commit"));
    for (version, active, text, error) in [
        (1, false, Some("takendown"), Some("RepoTakendown")),
        (2, false, Some("suspended"), Some("RepoSuspended")),
        (3, false, Some("deactivated"), Some("RepoDeactivated")),
        (4, false, Some("deleted"), Some("RepoNotFound")),
        (5, false, None, Some("RepoInactive")),
        (6, false, Some("novel"), Some("RepoInactive")),
        (7, true, Some("throttled"), None),
        (8, true, None, None),
    ] {
        status(&*site.store, ALICE, version, active, text).await;
        for path in [&get, &gone, &list] {
            let answer = site.get(path).await;
            match error {
                Some(name) => answer.is_error(400, name, ALICE),
                None if path == &gone => answer.is_error(400, "RecordNotFound", "gone"),
                None => assert_eq!(answer.status, 200),
            }
        }
        let mut wanted = json!({"did": ALICE, "active": active});
        if let Some(text) = text {
            wanted["status"] = json!(text);
        }
        let mut listed = wanted.clone();
        if active {
            wanted["rev"] = json!(rev(1));
        }
        assert_eq!(site.get(&of_repo).await.json, wanted);
        listed["rev"] = json!(rev(1));
        listed["head"] = json!(head);
        let repos = site.get("/xrpc/com.atproto.sync.listRepos").await.json;
        assert_eq!(repos["repos"][0], listed);

        // Whoever runs the store sees all that is held, unless he asks for active accounts only.
        let all = site.get("/admin/records").await.json;
        assert_eq!(all["records"].as_array().unwrap().len(), 2);
        let shown = site.get("/admin/records?active=true").await.json;
        assert_eq!(
            shown["records"].as_array().unwrap().len(),
            if active { 2 } else { 1 }
        );
    }
    let unknown = "/xrpc/com.atproto.sync.getRepoStatus?did=did:plc:cccccccccccccccccccccccc";
    site.get(unknown)
        .await
        .is_error(400, "RepoNotFound", "did:plc:ccc");
}

#[tokio::test]
async fn active_records_are_found_behind_many_hidden_ones() {
    let site = Site::new().await;
    for n in 0..300 {
        put(
            &*site.store,
            ALICE,
            POST,
            &format!("k{n:03}"),
            n + 1,
            &json!({}),
        )
        .await;
    }
    put(&*site.store, BOB, POST, "b", 1, &json!({})).await;
    status(&*site.store, ALICE, 1, false, Some("deleted")).await;
    let (rows, _) = site
        .pages("/admin/records?active=true&limit=1", "records")
        .await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["did"], BOB);
}

#[tokio::test]
async fn repos_page_to_their_end() {
    let site = Site::new().await;
    let did = |n: usize| format!("did:web:host{n:03}.test");
    for n in 0..25 {
        put(&*site.store, &did(n), POST, "a", 1, &json!({})).await;
    }
    // Of this one no commit was seen: listRepos has no head and rev for it.
    let mut batch = WriteBatch::new();
    batch.put_handle(HandleWrite {
        did: did(7) + ".more",
        version: 1,
        handle: "seven.test".to_owned(),
    });
    site.store.apply(batch).await.unwrap();
    for limit in [1, 7, 26, 1000] {
        let (rows, _) = site
            .pages(&format!("/admin/repos?limit={limit}"), "repos")
            .await;
        assert_eq!(rows.len(), 26);
        let path = format!("/xrpc/com.atproto.sync.listRepos?limit={limit}");
        let (rows, _) = site.pages(&path, "repos").await;
        assert_eq!(rows.len(), 25, "limit {limit}");
    }
    let seven = site.get("/admin/repos?did=did:web:host007.test.more").await;
    assert_eq!(
        seven.json["repos"],
        json!([{
            "did": "did:web:host007.test.more", "handle": "seven.test", "active": true,
            "status": null, "rev": null, "pds": null, "complete_rev": null,
        }])
    );
    let none = site.get("/admin/repos?did=did:web:nobody.test").await;
    assert_eq!(none.json, json!({"repos": []}));
}

#[tokio::test]
async fn a_record_that_is_no_cbor_has_no_value_and_says_so() {
    let site = Site::new().await;
    let mut batch = WriteBatch::new();
    let bytes = b"\xff\xff";
    batch.put_record(RecordWrite {
        did: ALICE,
        collection: POST,
        rkey: "odd",
        version: 1,
        rev: http::tid(1),
        body: Some(RecordBody {
            cid: penstock::decode::Cid::of_dag_cbor(bytes),
            record: bytes,
            json: None,
        }),
    });
    site.store.apply(batch).await.unwrap();
    let get = format!("/xrpc/com.atproto.repo.getRecord?repo={ALICE}&collection={POST}&rkey=odd");
    let answer = site.get(&get).await.json;
    assert_eq!(answer["value"], Value::Null);
    assert!(answer["note"].as_str().unwrap().contains("no JSON"));
    let row = site.get("/admin/records").await.json["records"][0].take();
    assert!(row.as_object().unwrap().contains_key("value") && row["value"].is_null());
}

#[tokio::test]
async fn outputs_are_those_of_the_lexicons() {
    use atrium_api::com::atproto::{repo, sync};
    let site = Site::new().await;
    put(&*site.store, ALICE, POST, "a", 1, &json!({"text": "one"})).await;
    status(&*site.store, BOB, 1, false, Some("deactivated")).await;
    let get = format!("/xrpc/com.atproto.repo.getRecord?repo={ALICE}&collection={POST}&rkey=a");
    let record: repo::get_record::Output = site.get(&get).await.parse();
    assert_eq!(record.uri.as_str(), format!("at://{ALICE}/{POST}/a"));
    let list = format!("/xrpc/com.atproto.repo.listRecords?repo={ALICE}&collection={POST}");
    let records: repo::list_records::Output = site.get(&list).await.parse();
    assert_eq!(records.records.len(), 1);
    let repos: sync::list_repos::Output =
        site.get("/xrpc/com.atproto.sync.listRepos").await.parse();
    assert_eq!(repos.repos[0].rev.as_str(), rev(1));
    let of_bob = format!("/xrpc/com.atproto.sync.getRepoStatus?did={BOB}");
    let status: sync::get_repo_status::Output = site.get(&of_bob).await.parse();
    assert!(!status.active);
}
