//! What a store asks about accounts.

use penstock::store::{RepoStatus, StatusWrite, Store, WriteBatch};

use super::{repair, repairs_are};
use crate::subject::Kind;

/// An account that comes back is asked for what it wrote meanwhile, in whatever order its statuses arrive, and once.
pub async fn a_reactivation_asks_for_content(store: &dyn Store, kind: Kind) {
    let said = |did: &str, version, active| {
        let mut batch = WriteBatch::new();
        batch.put_status(StatusWrite {
            did: did.to_owned(),
            version,
            status: RepoStatus {
                active,
                status: None,
            },
            repair_if_stale: None,
            repair_if_reactivated: Some(repair(did, &format!("{version}"), "reactivated")),
        });
        batch
    };
    let dids = [
        "did:web:a.example",
        "did:web:b.example",
        "did:web:c.example",
    ];
    // In order, the last one twice; in reverse; and one that only goes.
    for (did, said_of_it) in [
        (dids[0], [(1, true), (2, false), (3, true), (3, true)]),
        (dids[1], [(3, true), (2, false), (1, true), (3, true)]),
        (dids[2], [(1, true), (1, true), (2, false), (3, false)]),
    ] {
        for (version, active) in said_of_it {
            store.apply(said(did, version, active)).await.unwrap();
        }
    }
    repairs_are(store, kind, &[("reactivated", 2)]).await;
    // In one batch.
    let mut batch = said(dids[2], 4, true);
    for (version, active) in [(5, false), (6, true)] {
        batch.put_status(said(dids[2], version, active).statuses()[0].clone());
    }
    store.apply(batch).await.unwrap();
    let of = async |did: &str| {
        let rows = store.repairs_of(did).await.unwrap().into_iter();
        rows.map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(of(dids[0]).await, ["3"]);
    assert_eq!(of(dids[1]).await, ["2"]);
    assert_eq!(of(dids[2]).await, ["4", "6"]);
}
