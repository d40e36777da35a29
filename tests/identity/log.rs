//! The directory's logs: the keys that a DID had, and the export of all.

use penstock::identity::{Filled, IdentityError, SigningKey};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::directory::{Directory, K256, P256, document};
use super::{DID, HOUR, host, identities, set};

fn logged(did: &str, key: &str, host: &str, created: &str) -> Value {
    json!({
        "did": did,
        "operation": {
            "type": "plc_operation",
            "verificationMethods": {"atproto": format!("did:key:{key}")},
            "services": {"atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": host}},
        },
        "cid": "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm",
        "nullified": false,
        "createdAt": created,
    })
}

fn nullified(mut entry: Value) -> Value {
    entry["nullified"] = json!(true);
    entry
}

/// The nth DID.
fn numbered(n: usize) -> String {
    let digits = n.to_string();
    let letters: String = digits
        .bytes()
        .map(|digit| char::from(digit - b'0' + b'a'))
        .collect();
    format!("did:plc:{letters:a>24}")
}

const TIME: &str = "2026-01-02T03:04:05.678Z";

#[tokio::test]
async fn earlier_keys_come_from_the_log() {
    let directory = Directory::start().await;
    let log = json!([
        logged(DID, P256, "https://a.example", TIME),
        nullified(logged(DID, "zbad", "https://a.example", TIME)),
        logged(DID, K256, "https://b.example", TIME),
        logged(DID, K256, "https://c.example", TIME),
    ]);
    directory.put(&format!("{DID}/log/audit"), 200, log.to_string());
    let (identities, _) = identities(&directory);
    let cancel = CancellationToken::new();
    let keys = identities.earlier_keys(DID, &cancel).await.unwrap();
    assert!(matches!(
        keys.as_slice(),
        [SigningKey::K256(_), SigningKey::P256(_)]
    ));
    let web = identities.earlier_keys("did:web:a.example", &cancel).await;
    assert_eq!(web.unwrap(), []);
    let unknown = identities.earlier_keys(&numbered(1), &cancel).await;
    assert!(matches!(unknown, Err(IdentityError::NotFound(..))));
}

#[tokio::test]
async fn the_export_fills_the_cache() {
    let directory = Directory::start().await;
    let mut lines: Vec<String> = (0..1000)
        .map(|n| logged(&numbered(n), K256, "https://a.example", TIME).to_string())
        .collect();
    directory.put("export?count=1000", 200, lines.join("\n"));
    let later = "2026-01-03T00:00:00.000Z";
    lines = vec![
        logged(&numbered(1), P256, "https://moved.example", later).to_string(),
        nullified(logged(&numbered(2), P256, "https://moved.example", later)).to_string(),
        json!({"did": numbered(3), "operation": {"type": "plc_tombstone"}, "createdAt": later})
            .to_string(),
        "what is no operation is passed over".to_owned(),
        logged(&numbered(1000), K256, "https://a.example", later).to_string(),
    ];
    let second = "export?count=1000&after=2026-01-02T03%3A04%3A05.678Z";
    directory.put(second, 200, lines.join("\n") + "\n");
    let (identities, clock) = identities(&directory);

    // Newer than what the export says.
    let asked = numbered(4);
    directory.put(&asked, 200, document(&asked, "https://asked.example"));
    host(&identities, &asked).await.unwrap();

    assert!(identities.is_fill_due());
    let filled = identities.fill(&CancellationToken::new()).await.unwrap();
    assert_eq!(filled, Filled::All(1001));
    let before = directory.asked_in_all();
    for (n, expected) in [
        (0, "https://a.example"),
        (1, "https://moved.example"),
        (2, "https://a.example"),
        (4, "https://asked.example"),
        (999, "https://a.example"),
        (1000, "https://a.example"),
    ] {
        let found = host(&identities, &numbered(n)).await.unwrap();
        assert_eq!(found, expected, "{n}");
    }
    let gone = host(&identities, &numbered(3)).await;
    assert!(matches!(gone, Err(IdentityError::Tombstoned(_))));
    assert_eq!(directory.asked_in_all(), before);

    // Not more than once a day; then only what is new, and it says that all else is as it was.
    let cancel = CancellationToken::new();
    assert_eq!(identities.fill(&cancel).await.unwrap(), Filled::NotDue);
    set(&clock, 25 * HOUR);
    let third = "export?count=1000&after=2026-01-03T00%3A00%3A00.000Z";
    let moved = logged(
        &numbered(0),
        K256,
        "https://b.example",
        "2026-01-03T09:00:00.000Z",
    );
    directory.put(third, 200, moved.to_string() + "\n");
    assert_eq!(identities.fill(&cancel).await.unwrap(), Filled::All(1001));
    let before = directory.asked_in_all();
    for (n, expected) in [(0, "https://b.example"), (999, "https://a.example")] {
        assert_eq!(host(&identities, &numbered(n)).await.unwrap(), expected);
    }
    assert_eq!(directory.asked_in_all(), before);

    // It ages like any other answer.
    set(&clock, 1000 * HOUR);
    directory.put(&numbered(0), 404, String::new());
    assert!(host(&identities, &numbered(0)).await.is_err());
}
