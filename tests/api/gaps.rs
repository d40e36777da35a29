//! What the ledger holds and misses, as `GET /admin/gaps` says it.

use penstock::slot::SlotSet;
use penstock::store::{Fact, FactKind, Store};
use serde_json::{Value, json};

use crate::http::{HOUR, NOW, Site};

/// A fact of a relay; times in hours before now.
fn fact(run: u64, seqs: (u64, u64), hours: (u64, u64), slots: SlotSet, kind: FactKind) -> Fact {
    Fact {
        relay: "relay.test".to_owned(),
        generation: 0,
        run,
        from_seq: seqs.0,
        to_seq: seqs.1,
        from_time: NOW - hours.0 * HOUR,
        to_time: NOW - hours.1 * HOUR,
        slots,
        filter: String::new(),
        kind,
    }
}

#[tokio::test]
async fn gaps_say_what_is_missing_and_why() {
    let site = Site::new().await;
    let all = SlotSet::ALL;
    let put = async |fact: Fact| site.store.put_facts(&[fact]).await.unwrap();
    let gaps = async || site.get("/admin/gaps").await.json;
    let places = |gaps: &Value| -> Vec<Value> {
        let missing = gaps["missing"].as_array().unwrap().iter();
        let fields = ["from_seq", "to_seq", "slots", "state", "reason", "repair"];
        missing
            .map(|gap| fields.iter().map(|field| gap[field].clone()).collect())
            .collect()
    };

    // Nothing is held: all of the window is missing, up to now.
    let answer = gaps().await;
    assert_eq!(answer["days"], 3.0);
    assert_eq!(answer["complete"], false);
    assert_eq!(answer["missing_seconds"], 259_200.0);
    let none = Value::Null;
    let whole = json!([none, none, "0-255", "pending", none, false]);
    assert_eq!(places(&answer), [whole]);

    // Between two intervals, and before the first one.
    put(fact(1, (100, 200), (50, 40), all, FactKind::Live)).await;
    put(fact(2, (300, 400), (30, 0), all, FactKind::Live)).await;
    let answer = gaps().await;
    assert_eq!(
        places(&answer),
        [
            json!([none, 100, "0-255", "pending", none, false]),
            json!([200, 300, "0-255", "pending", none, false]),
        ]
    );
    assert_eq!(answer["missing_seconds"], f64::from(32 * 3_600));
    assert_eq!(answer["held"].as_array().unwrap().len(), 2);
    assert_eq!(answer["tails"][0]["seq"], 400);

    // What the relay can't serve; the rest is held.
    put(fact(3, (0, 60), (72, 60), all, FactKind::Expired)).await;
    put(fact(4, (60, 100), (60, 50), all, FactKind::Replay)).await;
    put(fact(5, (200, 250), (40, 35), all, FactKind::Skipped)).await;
    put(fact(6, (250, 300), (35, 30), all, FactKind::Replay)).await;
    let answer = gaps().await;
    assert_eq!(
        places(&answer),
        [
            json!([none, 60, "0-255", "lost", "expired", true]),
            json!([200, 250, "0-255", "lost", "skipped", true]),
        ]
    );

    // A lack of less than an hour at the window's begin is said, and no reason for a repair.
    put(fact(7, (5, 60), (71, 60), all, FactKind::Replay)).await;
    put(fact(8, (200, 250), (40, 35), all, FactKind::Replay)).await;
    let answer = gaps().await;
    let begin = json!([none, 5, "0-255", "lost", "expired", false]);
    assert_eq!(places(&answer), [begin]);
    put(fact(9, (0, 60), (71, 60), all, FactKind::Replay)).await;
    // Before its first number a relay has nothing.
    let answer = gaps().await;
    assert_eq!(
        (&answer["complete"], &answer["missing"]),
        (&json!(true), &json!([]))
    );

    // Some slots go on, the others' worker is away.
    let odd = SlotSet::owned_by(1, 2);
    put(fact(10, (400, 500), (0, 0), odd, FactKind::Live)).await;
    assert_eq!(gaps().await["complete"], true, "at the same time");
    let later = Fact {
        to_time: NOW + 2 * HOUR,
        ..fact(10, (500, 600), (0, 0), odd, FactKind::Live)
    };
    put(later).await;
    let answer = gaps().await;
    let [gap] = &places(&answer)[..] else {
        panic!("{answer}");
    };
    assert_eq!(
        (&gap[0], &gap[1], &gap[3]),
        (&json!(400), &none, &json!("behind"))
    );
    assert_eq!(gap[2], "0-254/2", "{gap}");
}
