//! The CQL of docs/scylla.md, run in a keyspace that the store made and wrote to. A question that finds nothing is wrong.

use std::path::Path;

use penstock::decode::{Cid, Tid};
use penstock::slot::SlotSet;
use penstock::store::{
    Complete, Fact, FactKind, HandleWrite, RecordBody, RecordWrite, RepoStatus, RevWrite, Scope,
    SnapshotDone, StatusWrite, Store, WriteBatch,
};
use scylla::client::session::Session;

use crate::cluster::Cluster;
use crate::keyspaces::{Keyspace, session};

/// The record that the page asks for.
const DID: &str = "did:plc:z72i7hdynmk6r22z27h6tvur";
const COLLECTION: &str = "app.bsky.feed.post";
const RKEY: &str = "3mq3vkmtgoc2x";

/// The statements in the page's blocks of CQL.
fn documented() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scylla.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page.split("```cql\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    let statements = blocks.flat_map(|block| block.split(';'));
    let statements = statements.map(|text| text.trim().to_owned());
    statements.filter(|text| !text.is_empty()).collect()
}

async fn write(store: &dyn Store) {
    let rev = Tid::parse(RKEY.as_bytes()).unwrap();
    let record = b"\xa1e$typercapp.bsky.feed.post";
    let cid = Cid::of_dag_cbor(record);
    let mut batch = WriteBatch::new();
    batch.put_record(RecordWrite {
        did: DID,
        collection: COLLECTION,
        rkey: RKEY,
        version: rev.micros(),
        rev,
        body: Some(RecordBody {
            cid,
            record,
            json: None,
        }),
    });
    batch.put_rev(RevWrite {
        did: DID,
        rev,
        data: cid,
        commit: cid,
    });
    batch.put_handle(HandleWrite {
        did: DID.to_owned(),
        version: rev.micros(),
        handle: "bsky.app".to_owned(),
    });
    batch.put_status(StatusWrite {
        did: DID.to_owned(),
        version: rev.micros(),
        status: RepoStatus {
            active: true,
            status: None,
        },
        repair_if_stale: None,
        repair_if_reactivated: None,
    });
    store.apply(batch).await.unwrap();
    let done = SnapshotDone {
        did: DID.to_owned(),
        scopes: vec![Scope::Repo],
        complete: Complete {
            rev,
            version: rev.micros(),
            filter: String::new(),
        },
        settled: false,
    };
    store.complete_snapshot(done).await.unwrap();
    let fact = Fact {
        relay: "relay.example".to_owned(),
        generation: 0,
        run: 1,
        from_seq: 1,
        to_seq: 2,
        from_time: 1,
        to_time: 2,
        slots: SlotSet::ALL,
        filter: String::new(),
        kind: FactKind::Live,
    };
    store.put_facts(&[fact]).await.unwrap();
}

/// How many rows a statement finds; none for one that asks nothing.
async fn run(session: &Session, statement: &str) -> Option<usize> {
    let answer = session.query_unpaged(statement, ()).await;
    let answer = answer.unwrap_or_else(|error| panic!("{statement}\n{error}"));
    let asks = statement.starts_with("SELECT");
    asks.then(|| answer.into_rows_result().unwrap().rows_num())
}

#[tokio::test]
async fn the_cql_of_the_documentation_finds_what_was_written() {
    let test = "the_cql_of_the_documentation_finds_what_was_written";
    let Some(cluster) = Cluster::shared(test).await else {
        return;
    };
    let keyspace = Keyspace::on(cluster);
    let name = keyspace.options().keyspace;
    let store = keyspace.open().await;
    write(&*store).await;
    let session = session(cluster).await;
    let lease = format!(
        "INSERT INTO {name}.workers (worker_id, worker_count, holder, session) VALUES (0, 1, 'h', 's')"
    );
    run(&session, &lease).await;
    let statements = documented();
    assert!(statements.len() >= 10, "the page lost its examples");
    for statement in statements {
        let ours = statement.replace("penstock.", &format!("{name}."));
        assert_ne!(ours, statement, "it names no table of the keyspace");
        assert_ne!(run(&session, &ours).await, Some(0), "found nothing: {ours}");
    }
    store.close().await.unwrap();
}
