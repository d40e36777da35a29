//! The routes of the quarantine over the store in memory.

mod http;

use std::sync::Arc;

use axum::http::Method;
use http::{Answer, Retrier, Site};
use penstock::store::memory::MemoryStore;
use penstock::store::{Quarantined, Store, WriteBatch};
use serde_json::{Value, json};

async fn quarantine(store: &MemoryStore, rows: impl IntoIterator<Item = (String, Vec<u8>)>) {
    let mut batch = WriteBatch::new();
    for (n, (id, raw)) in (0..).zip(rows) {
        batch.put_quarantined(Quarantined {
            id,
            received: 1_790_437_941_307_370 + n,
            reason: "bad_cbor".to_owned(),
            detail: "it ends early".to_owned(),
            source: "wss://relay".to_owned(),
            seq: Some(n),
            did: None,
            raw,
            evicted: None,
        });
    }
    store.apply(batch).await.unwrap();
}

#[tokio::test]
async fn the_quarantine_is_listed_shown_and_retried() {
    let store = Arc::new(MemoryStore::with_quarantine_max(8));
    let site = Site::with(store.clone(), Some(Arc::new(Retrier(store.clone())))).await;
    let row = |id: &str, raw: &[u8]| (id.to_owned(), raw.to_vec());
    let rows = [
        row("20261123-00-a", b"old!"),
        row("20261123-00-b", b"bad"),
        row("20261123-00-c", b"good"),
    ];
    quarantine(&store, rows).await;

    let (rows, pages) = site.pages("/admin/quarantine?limit=1", "quarantine").await;
    assert_eq!((rows.len(), pages), (3, 3));
    assert_eq!(
        rows[1],
        json!({
            "id": "20261123-00-b", "received": "2026-09-26T15:52:21.307371Z", "reason": "bad_cbor",
            "detail": "it ends early", "source": "wss://relay", "seq": 1, "did": null, "size": 3,
            "evicted": false,
        })
    );
    let shown = site.get("/admin/quarantine/20261123-00-b").await.json;
    assert_eq!(shown["raw"], "YmFk");
    let evicted = site.get("/admin/quarantine/20261123-00-a").await.json;
    assert_eq!(
        (&evicted["evicted"], &evicted["raw"]),
        (&json!(true), &Value::Null)
    );
    site.get("/admin/quarantine/nothing")
        .await
        .is_error(404, "NotFound", "nothing");

    let retry = async |body: Value| -> Answer {
        let path = "/admin/quarantine/retry";
        site.call(Method::POST, path, &[], &body.to_string()).await
    };
    for bad in [
        json!({}),
        json!({"all": true, "ids": ["x"]}),
        json!({"id": "x"}),
        json!([]),
        json!({"ids": ["x"], "cursor": "y"}),
        json!({"ids": vec!["x"; 101]}),
        json!({"all": true, "cursor": "zzz"}),
    ] {
        retry(bad.clone()).await.is_error(400, "InvalidRequest", "");
    }
    let report = retry(json!({"ids": ["20261123-00-c", "20261123-00-c", "20261123-00-b"]})).await;
    let outcomes: Vec<&str> = report.json["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes[2], "refused");
    assert!(outcomes[..2].contains(&"applied"), "{outcomes:?}");
    let report = retry(json!({"all": true})).await.json;
    assert_eq!(
        report,
        json!({"results": [
            {"id": "20261123-00-a", "outcome": "evicted"},
            {"id": "20261123-00-b", "outcome": "refused", "reason": "bad_cbor", "detail": "it ends early"},
        ]})
    );
    let many = (0..75).map(|n| (format!("20261124-00-{n:02}"), b"".to_vec()));
    quarantine(&store, many).await;
    let report = retry(json!({"all": true})).await.json;
    assert_eq!(report["results"].as_array().unwrap().len(), 77);

    site.get("/admin/quarantine/%ff")
        .await
        .is_error(400, "InvalidRequest", "UTF-8");

    let without = Site::with(store, None).await;
    let answer = without
        .call(
            Method::POST,
            "/admin/quarantine/retry",
            &[],
            r#"{"all":true}"#,
        )
        .await;
    answer.is_error(503, "RetryUnavailable", "");
}
